//! The wire record: one chunk on its way. This file holds the only description of its bytes.
//!
//! Records stand end to end in the `data` of messages; none spans two messages. They come in *pieces*: the record of a *top* (a
//! commit, or the root of a catalogue) that says its hash, then its descendants, depth first, a parent before its children and
//! children in order. No other record says its hash: it is the next child that a verified parent announced in its *follow list*.
//! Children that are not followed are held by the receiver already.
//!
//! ```text
//! record = flags ‖ raw_len ‖ enc_len? ‖ top? ‖ base? ‖ follow? ‖ payload
//!
//! flags    1 byte   bits 0-1  encoding: 0 raw, 1 zstd, 2 delta, 3 edits
//!                   bit  2    top: the chunk starts a piece, its hash is here
//!                   bit  3    base: an earlier version of this node is named here; a delta and edits need one
//!                   bits 4-5  follow: 0 no child, 1 every child, 2 those listed; 3 is invalid
//!                   bits 6-7  zero
//! raw_len  varint   length of the chunk, 1 to CHUNK_BYTES_MAX
//! enc_len  varint   length of the payload; absent if the encoding is raw, where it is raw_len
//! top      32 bytes the chunk's hash
//! base     at a top: 32 bytes, the hash of a chunk that the receiver holds;
//!          below:    varint i, child i of the base of the parent
//! follow   varint n (1 to CHILDREN_MAX), then n varints: the first index into the strong children of the chunk, then for each
//!          next index its distance from the one before, less one
//! payload  the chunk's bytes, or a zstd frame without magic number, checksum and dictionary id; for a delta the base's bytes
//!          are the frame's prefix
//! ```
//! *Edits* stand for the root of a table's map, or an index's, and all below it: the payload says which rows of the base differ
//! (`edits.rs`), and the receiver makes the tree of them. They are below a top, and no child follows. Only a receiver that said that it
//! takes them, and computes with the same formats, gets them.
//!
//! A varint is LEB128: seven bits a byte, lowest first, at most five bytes, and never longer than needed.

use pleach_engine::Hash;

use crate::encoding::Encoding;
use crate::limits::{CHILDREN_MAX, CHUNK_BYTES_MAX};

const ENCODING: u8 = 0b0000_0011;
const TOP: u8 = 0b0000_0100;
const BASE: u8 = 0b0000_1000;
const FOLLOW_ALL: u8 = 0b0001_0000;
const FOLLOW_LIST: u8 = 0b0010_0000;
const ZERO: u8 = 0b1100_0000;

/// An earlier version of the same node, against which the chunk and its descendants are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseName {
    /// The chunk with this hash; only at a top.
    Hash(Hash),
    /// This child of the parent's base; only below a top.
    Child(u32),
}

/// Which children of a chunk are sent after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Follow {
    /// None.
    None,
    /// Every strong child.
    All,
    /// The strong children with these indexes, ascending, at least one.
    Listed(Vec<u32>),
}

/// One record, its payload still encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// How to read the payload.
    pub encoding: Encoding,
    /// Length of the chunk, in bytes.
    pub raw_len: usize,
    /// The chunk's hash, if it starts a piece.
    pub top: Option<Hash>,
    /// The earlier version that it names.
    pub base: Option<BaseName>,
    /// Which children come next.
    pub follow: Follow,
    /// The encoded chunk.
    pub payload: &'a [u8],
}

/// Why bytes are no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// Where, from the start of the message.
    pub offset: usize,
    /// What was expected, and found.
    pub what: String,
}

impl Follow {
    /// The shortest form of `indexes` (ascending) for a chunk of `children` strong children.
    pub fn new(indexes: Vec<u32>, children: usize) -> Follow {
        match indexes.len() {
            0 => Follow::None,
            n if n == children => Follow::All,
            _ => Follow::Listed(indexes),
        }
    }
}

impl<'a> Record<'a> {
    /// Appends the record to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        assert!((1..=CHUNK_BYTES_MAX).contains(&self.raw_len), "a chunk has 1 to {CHUNK_BYTES_MAX} bytes");
        let based = matches!(self.encoding, Encoding::Delta | Encoding::Edits);
        assert!(!based || self.base.is_some(), "a delta names its base");
        let whole = self.top.is_none() && self.follow == Follow::None;
        assert!(self.encoding != Encoding::Edits || whole, "edits are a whole tree below a top");
        let encoding = match self.encoding {
            Encoding::Raw => 0,
            Encoding::Zstd => 1,
            Encoding::Delta => 2,
            Encoding::Edits => 3,
        };
        let follow = match self.follow {
            Follow::None => 0,
            Follow::All => FOLLOW_ALL,
            Follow::Listed(_) => FOLLOW_LIST,
        };
        let top = if self.top.is_some() { TOP } else { 0 };
        let base = if self.base.is_some() { BASE } else { 0 };
        out.push(encoding | top | base | follow);
        write_varint(out, self.raw_len as u32);
        match self.encoding {
            Encoding::Raw => assert_eq!(self.payload.len(), self.raw_len),
            _ => write_varint(out, self.payload.len() as u32),
        }
        if let Some(hash) = &self.top {
            out.extend_from_slice(hash.as_bytes());
        }
        match self.base {
            None => {}
            Some(BaseName::Hash(hash)) => {
                assert!(self.top.is_some(), "a base is named by its hash only at a top");
                out.extend_from_slice(hash.as_bytes());
            }
            Some(BaseName::Child(index)) => {
                assert!(self.top.is_none(), "a base is named by its index only below a top");
                write_varint(out, index);
            }
        }
        if let Follow::Listed(indexes) = &self.follow {
            assert!(
                (1..=CHILDREN_MAX).contains(&indexes.len()),
                "a follow list has 1 to {CHILDREN_MAX} indexes"
            );
            write_varint(out, indexes.len() as u32);
            let mut next = 0;
            for &index in indexes {
                assert!(index >= next, "indexes ascend");
                write_varint(out, index - next);
                next = index + 1;
            }
        }
        out.extend_from_slice(self.payload);
    }

    /// The record at `offset` of `message`, and the offset after it.
    pub fn parse(message: &'a [u8], offset: usize) -> Result<(Record<'a>, usize), Malformed> {
        let mut bytes = Bytes { message, at: offset };
        let flags = bytes.take(1, "flags")?[0];
        if flags & ZERO != 0 || flags & (FOLLOW_ALL | FOLLOW_LIST) == FOLLOW_ALL | FOLLOW_LIST {
            return Err(Malformed { offset, what: format!("flags {flags:#04x} are none of this version") });
        }
        let encoding = match flags & ENCODING {
            0 => Encoding::Raw,
            1 => Encoding::Zstd,
            2 => Encoding::Delta,
            _ => Encoding::Edits,
        };
        if encoding == Encoding::Delta && flags & BASE == 0 {
            return Err(Malformed { offset, what: "a delta without a base".into() });
        }
        if encoding == Encoding::Edits && flags & !ENCODING != BASE {
            let what = "edits that are not those of a base, below a top, with nothing that follows".into();
            return Err(Malformed { offset, what });
        }
        let raw_len = bytes.len("raw_len")?;
        let enc_len = if encoding == Encoding::Raw { raw_len } else { bytes.len("enc_len")? };
        let top = (flags & TOP != 0).then(|| bytes.hash("top")).transpose()?;
        let base = match (flags & BASE != 0, top.is_some()) {
            (false, _) => None,
            (true, true) => Some(BaseName::Hash(bytes.hash("base")?)),
            (true, false) => Some(BaseName::Child(bytes.varint("base")?)),
        };
        let follow = match flags & (FOLLOW_ALL | FOLLOW_LIST) {
            0 => Follow::None,
            FOLLOW_ALL => Follow::All,
            _ => Follow::Listed(bytes.follow()?),
        };
        let payload = bytes.take(enc_len, "payload")?;
        Ok((Record { encoding, raw_len, top, base, follow, payload }, bytes.at))
    }
}

/// Reads fields, never beyond the message.
pub(crate) struct Bytes<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Bytes<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Bytes<'a> {
        Bytes { message, at: 0 }
    }

    fn malformed<T>(&self, what: String) -> Result<T, Malformed> {
        Err(Malformed { offset: self.at, what })
    }

    pub(crate) fn left(&self) -> usize {
        self.message.len().saturating_sub(self.at)
    }

    /// All that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.message.get(self.at..).unwrap_or_default()
    }

    pub(crate) fn take(&mut self, len: usize, field: &str) -> Result<&'a [u8], Malformed> {
        match self.message.get(self.at..).and_then(|rest| rest.get(..len)) {
            Some(bytes) => {
                self.at += len;
                Ok(bytes)
            }
            None => self.malformed(format!("{field} needs {len} bytes, {} are left", self.left())),
        }
    }

    fn hash(&mut self, field: &str) -> Result<Hash, Malformed> {
        let mut hash = [0; Hash::LEN];
        hash.copy_from_slice(self.take(Hash::LEN, field)?);
        Ok(Hash::from_bytes(hash))
    }

    pub(crate) fn varint(&mut self, field: &str) -> Result<u32, Malformed> {
        let start = self.at;
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = self.take(1, field)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return match u32::try_from(value) {
                    Ok(value) if byte != 0 || shift == 0 => Ok(value),
                    _ => Err(Malformed {
                        offset: start,
                        what: format!("{field} is no shortest varint of 32 bits"),
                    }),
                };
            }
        }
        Err(Malformed { offset: start, what: format!("{field} is a varint of more than five bytes") })
    }

    fn len(&mut self, field: &str) -> Result<usize, Malformed> {
        let start = self.at;
        let len = self.varint(field)? as usize;
        if !(1..=CHUNK_BYTES_MAX).contains(&len) {
            let what = format!("{field} is {len}, expected 1 to {CHUNK_BYTES_MAX}");
            return Err(Malformed { offset: start, what });
        }
        Ok(len)
    }

    fn follow(&mut self) -> Result<Vec<u32>, Malformed> {
        let start = self.at;
        let count = self.varint("follow count")? as usize;
        // Each index takes a byte at least, so that the list is never longer than the message.
        if count == 0 || count > CHILDREN_MAX.min(self.left()) {
            let what = format!("follow count {count}, expected 1 to {}", CHILDREN_MAX.min(self.left()));
            return Err(Malformed { offset: start, what });
        }
        let mut indexes = Vec::with_capacity(count);
        let mut next = 0u32;
        for _ in 0..count {
            let gap = self.varint("follow index")?;
            match next.checked_add(gap).filter(|&index| (index as usize) < CHILDREN_MAX) {
                Some(index) => {
                    indexes.push(index);
                    next = index + 1;
                }
                None => return self.malformed(format!("follow index exceeds {CHILDREN_MAX}")),
            }
        }
        Ok(indexes)
    }
}

pub(crate) fn write_varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    fn written(record: &Record<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        record.write(&mut out);
        out
    }

    fn plain(payload: &[u8]) -> Record<'_> {
        Record {
            encoding: Encoding::Raw,
            raw_len: payload.len(),
            top: None,
            base: None,
            follow: Follow::None,
            payload,
        }
    }

    #[test]
    fn golden_bytes_of_a_leaf_below_its_parent() {
        let record = Record {
            encoding: Encoding::Delta,
            raw_len: 300,
            base: Some(BaseName::Child(5)),
            follow: Follow::Listed(vec![2, 3, 200]),
            ..plain(b"abc")
        };
        let golden = [0x2a, 0xac, 0x02, 3, 5, 3, 2, 0, 0xc4, 0x01, b'a', b'b', b'c'];
        assert_eq!(written(&record), golden);
        assert_eq!(Record::parse(&golden, 0), Ok((record, golden.len())));
    }

    #[test]
    fn golden_bytes_of_a_top() {
        let (hash, base) = (Hash::from_bytes([0x11; 32]), Hash::from_bytes([0x22; 32]));
        let top =
            Record { top: Some(hash), base: Some(BaseName::Hash(base)), follow: Follow::All, ..plain(b"xy") };
        let golden = [&[0x1c, 2][..], &[0x11; 32], &[0x22; 32], b"xy"].concat();
        assert_eq!(written(&top), golden);
        assert_eq!(Record::parse(&golden, 0), Ok((top, golden.len())));
    }

    #[test]
    fn an_unknown_flag_is_refused() {
        for flags in [0x03, 0x07, 0x1b, 0x30, 0x40, 0x80] {
            assert!(Record::parse(&[flags, 1, 1, 0, 0, 0, 0, 0], 0).is_err(), "{flags:#x}");
        }
    }

    #[test]
    fn a_length_beyond_the_largest_chunk_is_refused_before_anything_is_allocated() {
        let mut bomb = vec![1];
        write_varint(&mut bomb, CHUNK_BYTES_MAX as u32 + 1);
        bomb.extend([1, 0]);
        assert!(Record::parse(&bomb, 0).unwrap_err().what.contains("raw_len"));
    }

    #[test]
    fn a_follow_count_beyond_the_message_is_refused() {
        assert!(Record::parse(&[0x20, 1, 0xff, 0xff, 0x03, 0], 0).unwrap_err().what.contains("follow count"));
    }

    #[test]
    fn a_number_longer_than_needed_is_refused() {
        assert!(Record::parse(&[0, 0x81, 0x00, 7], 0).unwrap_err().what.contains("shortest"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_record_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok((record, end)) = Record::parse(&bytes, 0) {
                prop_assert_eq!(written(&record), &bytes[..end]);
            }
        }

        #[test]
        fn a_record_cut_short_is_refused(cut in 1usize..13) {
            let golden = [0x2a, 0xac, 0x02, 3, 5, 3, 2, 0, 0xc4, 0x01, b'a', b'b', b'c'];
            prop_assert!(Record::parse(&golden[..golden.len() - cut], 0).is_err());
        }
    }
}
