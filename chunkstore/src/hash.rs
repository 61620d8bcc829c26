//! The address of a chunk: BLAKE3-256 of its bytes.
//!
//! One idea: an address is shown as 64 lowercase hexadecimal digits, the same that `b3sum` prints for the chunk's bytes.
//! Everything that names a chunk uses this type.

use std::fmt;
use std::hash::Hasher;
use std::str::FromStr;

/// The BLAKE3-256 hash of some bytes, which is their address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hash([u8; Hash::LEN]);

impl Hash {
    /// Length of a hash in bytes.
    pub const LEN: usize = 32;

    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Hash {
        Hash(*blake3::hash(bytes).as_bytes())
    }

    /// A hash from its 32 bytes.
    pub const fn from_bytes(bytes: [u8; Hash::LEN]) -> Hash {
        Hash(bytes)
    }

    /// The 32 bytes of this hash.
    pub const fn as_bytes(&self) -> &[u8; Hash::LEN] {
        &self.0
    }

    /// A hash from a slice that must be 32 bytes long.
    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Hash> {
        Some(Hash(bytes.try_into().ok()?))
    }

    fn prefix(&self) -> u64 {
        let b = &self.0;
        u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])
    }
}

/// A hash is uniform already: eight of its bytes are enough for any hash table.
impl std::hash::Hash for Hash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.prefix());
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0_u8; 2 * Hash::LEN];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        f.pad(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not a hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a hash is 64 lowercase hexadecimal digits, found {found:?}")]
pub struct ParseHashError {
    /// The text that was given, at most its first 80 characters.
    pub found: String,
}

impl FromStr for Hash {
    type Err = ParseHashError;

    fn from_str(text: &str) -> Result<Hash, ParseHashError> {
        let refuse = || ParseHashError { found: text.chars().take(80).collect() };
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let text_bytes = text.as_bytes();
        if text_bytes.len() != 2 * Hash::LEN {
            return Err(refuse());
        }
        let mut bytes = [0_u8; Hash::LEN];
        for (byte, pair) in bytes.iter_mut().zip(text_bytes.chunks_exact(2)) {
            let (high, low) = (digit(pair[0]).ok_or_else(refuse)?, digit(pair[1]).ok_or_else(refuse)?);
            *byte = high << 4 | low;
        }
        Ok(Hash(bytes))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn text_form_is_that_of_b3sum_and_reads_back() {
        let hash = Hash::of(b"");
        let text = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(hash.to_string(), text);
        assert_eq!(text.parse::<Hash>().unwrap(), hash);
    }

    #[test]
    fn text_that_is_no_hash_is_refused() {
        let text = Hash::of(b"x").to_string();
        for bad in [String::new(), text[1..].to_string(), text.to_uppercase(), text.replace(&text[..1], "g")]
        {
            assert!(bad.parse::<Hash>().is_err(), "{bad}");
        }
    }
}
