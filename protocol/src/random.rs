//! Bytes that nobody else has: idempotency keys, the identity of a remote, the names of temporary files.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use pleach_engine::Hash;

/// Sixteen bytes that no other call gives, in this process or another.
pub(crate) fn sixteen() -> [u8; 16] {
    // Each state is keyed by the system's random source.
    let random = || RandomState::new().build_hasher().finish().to_le_bytes();
    let seed = [random(), random(), random(), random()].concat();
    let mixed = Hash::of(&[&seed[..], &std::process::id().to_le_bytes()].concat());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&mixed.as_bytes()[..16]);
    bytes
}

/// The same as 32 hex digits.
pub(crate) fn hex() -> String {
    to_hex(&sixteen())
}

/// Bytes as lowercase hex digits.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
