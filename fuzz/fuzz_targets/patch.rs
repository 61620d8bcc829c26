//! Any bytes as a patch of any base; and the patch from a base to any chunk, which must give that chunk.
//!
//! Input: the chunk's length (2 bytes), the base's (2 bytes); the base; the patch, which also serves as the chunk.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pleach_chunkstore::{frame, patch};

fuzz_target!(|input: &[u8]| {
    let [a, b, c, d, rest @ ..] = input else { return };
    let (raw_len, base_len) = (u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]));
    let Some((base, payload)) = rest.split_at_checked(usize::from(base_len)) else { return };
    if let Some(made) = patch::apply(payload, base, usize::from(raw_len)) {
        assert_eq!(made.len(), usize::from(raw_len));
    }
    let chunk = payload;
    if let Some(made) = patch::make(chunk, base) {
        assert!(made.len() <= chunk.len());
        assert_eq!(patch::apply(&made, base, chunk.len()).as_deref(), Some(chunk));
    }
    let _ = frame::delta(chunk, base);
});
