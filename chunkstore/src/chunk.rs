//! A chunk: immutable bytes under their hash, whose header says where the addresses of its children stand.
//!
//! One idea: the store, a collection, fsck and the protocol walk any graph without knowing what a chunk means, because the header
//! lists every address in the body. The header is hashed with the body, so it cannot be changed without changing the address.
//!
//! ```text
//! offset  size  field (little-endian)
//!      0     1  format      = 1
//!      1     1  kind        what the body is; 0 is invalid, the meaning is the engine's
//!      2     1  level       height in a tree, or whatever the kind says
//!      3     1  zero
//!      4     4  run_start   start of the run, from the start of the body; 0 when the run is empty
//!      8     4  run_count   the run is run_count addresses of 32 bytes, side by side
//!     12     2  list_count  number of single addresses
//!     14     2  weak_count  how many of the list's last addresses are weak: named, never followed
//!     16     4×list_count   offset of each single address, from the start of the body
//!      …                    body
//! ```
//!
//! Invariants, all checked by [`Chunk::from_bytes`] and asserted by [`Chunk::build`]:
//! 1. Every address lies inside the body; no two overlap (`an_address_outside_the_body_or_over_another_is_refused`).
//! 2. List offsets ascend; `weak_count ≤ list_count`.
//! 3. A chunk is at most [`CHUNK_BYTES_MAX`] bytes long, header included.
//!
//! Built by the engine, carried by everything else.

use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::RwLock;

use crate::bytes::Fields;
use crate::hash::Hash;

/// The longest chunk, in bytes, header included.
pub const CHUNK_BYTES_MAX: usize = 4 << 20;

/// Length of the fixed part of a chunk's header.
const HEADER_BYTES: usize = 16;
const FORMAT: u8 = 1;

/// Why bytes are not the chunk that they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// The bytes hash to something else than their address.
    #[error("chunk {expected} has the hash {found}: its bytes were changed")]
    HashMismatch {
        /// The address that was asked for.
        expected: Hash,
        /// The hash of the bytes that were found.
        found: Hash,
    },
    /// The header breaks a rule of the layout.
    #[error("malformed chunk header at byte {offset}: {what}")]
    Malformed {
        /// Byte of the chunk at which the rule is broken.
        offset: usize,
        /// The rule.
        what: &'static str,
    },
    /// The chunk is longer than [`CHUNK_BYTES_MAX`].
    #[error("a chunk of {bytes} bytes is longer than the {CHUNK_BYTES_MAX} allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}

/// Immutable bytes whose hash was computed or checked. Cloning shares them.
#[derive(Clone)]
pub struct Chunk(Arc<Inner>);

struct Inner {
    hash: Hash,
    bytes: Vec<u8>,
    header: Header,
    /// The children in the run, as far as they were read through this chunk and are in memory still; made at the first.
    near: RwLock<Box<[Weak<Inner>]>>,
}

impl Inner {
    fn new(hash: Hash, bytes: Vec<u8>, header: Header) -> Inner {
        Inner { hash, bytes, header, near: RwLock::default() }
    }
}

#[derive(Clone, Copy)]
struct Header {
    kind: u8,
    level: u8,
    run_start: usize,
    run_count: usize,
    list_count: usize,
    weak_count: usize,
}

impl Chunk {
    /// Builds a chunk. `run` is the start in `body` and the count of addresses side by side; `list` holds the offsets in `body` of
    /// single addresses, ascending, the last `weak` of which are weak.
    ///
    /// # Panics
    /// If the result would break an invariant of the layout: the caller's bug.
    pub fn build(
        kind: u8,
        level: u8,
        body: &[u8],
        run: Option<(u32, u32)>,
        list: &[u32],
        weak: u16,
    ) -> Chunk {
        let mut bytes = Chunk::room(list.len(), body.len());
        bytes.extend(body);
        Chunk::build_in(bytes, kind, level, run, list, weak)
    }

    /// The beginning of a chunk with as many single addresses, for [`Chunk::build_in`]: room for a header, after which the body is to be put,
    /// of about `body_len` bytes.
    pub fn room(list_len: usize, body_len: usize) -> Vec<u8> {
        let header_len = HEADER_BYTES + 4 * list_len;
        let mut bytes = Vec::with_capacity(header_len + body_len);
        bytes.resize(header_len, 0);
        bytes
    }

    /// As [`Chunk::build`], of a body that stands in the room made for it, and is not copied.
    ///
    /// # Panics
    /// If the result would break an invariant of the layout, or the room is not of the list's length: the caller's bug.
    pub fn build_in(
        bytes: Vec<u8>,
        kind: u8,
        level: u8,
        run: Option<(u32, u32)>,
        list: &[u32],
        weak: u16,
    ) -> Chunk {
        Chunk::hashed(Chunk::lay_out(bytes, kind, level, run, list, weak))
    }

    /// The chunk with bytes that [`Chunk::lay_out`] gave.
    ///
    /// # Panics
    /// If they break an invariant of the layout: the caller's bug.
    pub fn hashed(bytes: Vec<u8>) -> Chunk {
        let parsed = Header::parse(&bytes);
        assert!(parsed.is_ok(), "chunk breaks the layout: {:?}", parsed.err());
        let header = parsed.unwrap_or(Header::EMPTY);
        Chunk(Arc::new(Inner::new(Hash::of(&bytes), bytes, header)))
    }

    /// The bytes of [`Chunk::build_in`], for whoever wants no hash of them.
    ///
    /// # Panics
    /// If the room is not of the list's length: the caller's bug.
    pub fn lay_out(
        mut bytes: Vec<u8>,
        kind: u8,
        level: u8,
        run: Option<(u32, u32)>,
        list: &[u32],
        weak: u16,
    ) -> Vec<u8> {
        let (run_start, run_count) = run.filter(|&(_, count)| count > 0).unwrap_or((0, 0));
        assert!(list.len() <= usize::from(u16::MAX), "a chunk lists at most 65,535 single addresses");
        let offsets = list.iter().flat_map(|offset| offset.to_le_bytes());
        let header = [FORMAT, kind, level, 0]
            .into_iter()
            .chain(run_start.to_le_bytes())
            .chain(run_count.to_le_bytes())
            .chain((list.len() as u16).to_le_bytes())
            .chain(weak.to_le_bytes())
            .chain(offsets);
        assert!(bytes.len() >= HEADER_BYTES + 4 * list.len(), "a chunk begins with room for its header");
        bytes.iter_mut().zip(header).for_each(|(place, byte)| *place = byte);
        bytes
    }

    /// The chunk with these bytes, whose hash must be `expected`.
    pub fn verify(bytes: Vec<u8>, expected: &Hash) -> Result<Chunk, ChunkError> {
        let found = Hash::of(&bytes);
        if found != *expected {
            return Err(ChunkError::HashMismatch { expected: *expected, found });
        }
        let header = Header::parse(&bytes)?;
        Ok(Chunk(Arc::new(Inner::new(found, bytes, header))))
    }

    /// The chunk with these bytes, which were hashed before and found to be `hash`'s.
    pub(crate) fn verified(bytes: Vec<u8>, hash: &Hash) -> Result<Chunk, ChunkError> {
        let header = Header::parse(&bytes)?;
        Ok(Chunk(Arc::new(Inner::new(*hash, bytes, header))))
    }

    /// The chunk with these bytes, under whatever hash they have.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Chunk, ChunkError> {
        let header = Header::parse(&bytes)?;
        Ok(Chunk(Arc::new(Inner::new(Hash::of(&bytes), bytes, header))))
    }

    /// Its address.
    pub fn hash(&self) -> &Hash {
        &self.0.hash
    }

    /// All its bytes, header and body: what the hash is the hash of.
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// What the body is; the meaning is the engine's. Never 0.
    pub fn kind(&self) -> u8 {
        self.0.header.kind
    }

    /// Height in a tree, or whatever the kind says.
    pub fn level(&self) -> u8 {
        self.0.header.level
    }

    /// The bytes after the header.
    pub fn body(&self) -> &[u8] {
        &self.0.bytes[self.0.header.body_start()..]
    }

    /// The addresses that stand side by side, 32 bytes each; empty if there are none.
    pub fn run(&self) -> &[u8] {
        let header = &self.0.header;
        &self.body()[header.run_start..header.run_start + Hash::LEN * header.run_count]
    }

    /// The strong children: the run, then the list without its weak end.
    pub fn children(&self) -> impl Iterator<Item = Hash> + '_ {
        (0..self.child_count()).filter_map(|index| self.child(index))
    }

    /// Number of strong children.
    pub fn child_count(&self) -> usize {
        let header = &self.0.header;
        header.run_count + header.list_count - header.weak_count
    }

    /// The strong child at `index`, in the order of [`Chunk::children`].
    pub fn child(&self, index: usize) -> Option<Hash> {
        if index >= self.child_count() {
            return None;
        }
        match index.checked_sub(self.0.header.run_count) {
            None => self.address(self.0.header.run_start + Hash::LEN * index),
            Some(listed) => self.address(self.list_offset(listed)? as usize),
        }
    }

    /// The child at `index` of the run, if it was noted and is in memory still.
    pub(crate) fn near(&self, index: usize) -> Option<Chunk> {
        // Whoever would have to wait looks the child up by its hash.
        self.0.near.try_read()?.get(index)?.upgrade().map(Chunk)
    }

    /// Notes the child at `index`, as long as it is in memory for other reasons.
    pub(crate) fn note_near(&self, index: usize, child: &Chunk) {
        let Some(mut near) = self.0.near.try_write() else { return };
        if near.is_empty() {
            *near = std::iter::repeat_with(Weak::new).take(self.0.header.run_count).collect();
        }
        if let Some(place) = near.get_mut(index) {
            *place = Arc::downgrade(&child.0);
        }
    }

    /// Offsets in the body of the single addresses, weak ones included.
    pub fn list_offsets(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.0.header.list_count).filter_map(|index| self.list_offset(index))
    }

    /// How many of the list's last addresses are weak.
    pub fn weak_count(&self) -> usize {
        self.0.header.weak_count
    }

    /// The addresses that are named and never followed.
    pub fn weak_children(&self) -> impl Iterator<Item = Hash> + '_ {
        let header = &self.0.header;
        (header.list_count - header.weak_count..header.list_count)
            .filter_map(|index| self.address(self.list_offset(index)? as usize))
    }

    fn list_offset(&self, index: usize) -> Option<u32> {
        let at = HEADER_BYTES + 4 * index;
        Some(u32::from_le_bytes(self.0.bytes.get(at..at + 4)?.try_into().ok()?))
    }

    fn address(&self, offset: usize) -> Option<Hash> {
        Hash::from_slice(self.body().get(offset..offset + Hash::LEN)?)
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk")
            .field("hash", self.hash())
            .field("kind", &self.kind())
            .field("level", &self.level())
            .field("bytes", &self.bytes().len())
            .finish()
    }
}

/// Chunks are equal when their addresses are.
impl PartialEq for Chunk {
    fn eq(&self, other: &Chunk) -> bool {
        self.hash() == other.hash()
    }
}

impl Eq for Chunk {}

impl Header {
    const EMPTY: Header =
        Header { kind: 0, level: 0, run_start: 0, run_count: 0, list_count: 0, weak_count: 0 };

    fn body_start(&self) -> usize {
        HEADER_BYTES + 4 * self.list_count
    }

    fn parse(bytes: &[u8]) -> Result<Header, ChunkError> {
        if bytes.len() > CHUNK_BYTES_MAX {
            return Err(ChunkError::TooLong { bytes: bytes.len() });
        }
        let malformed = |offset, what| ChunkError::Malformed { offset, what };
        let Some((fixed, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(malformed(bytes.len(), "a header is at least 16 bytes long"));
        };
        let u32_at =
            |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]) as usize;
        let u16_at = |at: usize| usize::from(u16::from_le_bytes([fixed[at], fixed[at + 1]]));
        let header = Header {
            kind: fixed[1],
            level: fixed[2],
            run_start: u32_at(4),
            run_count: u32_at(8),
            list_count: u16_at(12),
            weak_count: u16_at(14),
        };
        if fixed[0] != FORMAT {
            return Err(malformed(0, "the format is not 1: made by a newer Pleach?"));
        }
        if header.kind == 0 {
            return Err(malformed(1, "kind 0 is invalid"));
        }
        if fixed[3] != 0 {
            return Err(malformed(3, "a reserved byte is not zero"));
        }
        if header.weak_count > header.list_count {
            return Err(malformed(14, "more weak addresses than listed ones"));
        }
        let Some((offsets, body)) = rest.split_at_checked(4 * header.list_count) else {
            return Err(malformed(12, "the list is longer than the chunk"));
        };
        header.check_run(body.len())?;
        header.check_list(offsets, body.len())?;
        Ok(header)
    }

    fn run_end(&self) -> usize {
        // Cannot overflow: both are at most 2^32 and usize has 64 bits on every platform supported.
        self.run_start.saturating_add(self.run_count.saturating_mul(Hash::LEN))
    }

    fn check_run(&self, body_len: usize) -> Result<(), ChunkError> {
        if self.run_count == 0 && self.run_start != 0 {
            return Err(ChunkError::Malformed { offset: 4, what: "an empty run starts at 0" });
        }
        if self.run_end() > body_len {
            return Err(ChunkError::Malformed { offset: 8, what: "the run ends after the body" });
        }
        Ok(())
    }

    fn check_list(&self, offsets: &[u8], body_len: usize) -> Result<(), ChunkError> {
        let mut fields = Fields::new(offsets);
        let mut free_from = 0;
        while let Some(offset) = fields.u32() {
            let at = HEADER_BYTES + fields.at() - 4;
            let (start, end) = (offset as usize, offset as usize + Hash::LEN);
            if start < free_from {
                return Err(ChunkError::Malformed {
                    offset: at,
                    what: "list offsets must ascend by 32 or more",
                });
            }
            if end > body_len {
                return Err(ChunkError::Malformed {
                    offset: at,
                    what: "a listed address ends after the body",
                });
            }
            if start < self.run_end() && end > self.run_start {
                return Err(ChunkError::Malformed { offset: at, what: "a listed address lies in the run" });
            }
            free_from = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::bytes::tests::hex;

    fn body(addresses: usize) -> Vec<u8> {
        (0..addresses).flat_map(|number| [number as u8; Hash::LEN]).collect()
    }

    #[test]
    fn golden_bytes_of_a_chunk() {
        let chunk = Chunk::build(7, 3, &[&b"ab"[..], &body(4)].concat(), Some((2, 2)), &[66, 98], 1);
        assert_eq!(
            hex(&chunk.bytes()[..26]),
            "01070300020000000200000002000100420000006200000061 62".replace(' ', "")
        );
        assert_eq!(chunk.bytes().len(), 24 + 2 + 4 * 32);
    }

    #[test]
    fn the_header_tells_children_apart() {
        let chunk = Chunk::build(7, 3, &body(5), Some((32, 2)), &[0, 96, 128], 1);
        let child = |number: u8| Hash::from_bytes([number; 32]);
        assert_eq!(chunk.children().collect::<Vec<_>>(), [child(1), child(2), child(0), child(3)]);
        assert_eq!(chunk.weak_children().collect::<Vec<_>>(), [child(4)]);
        assert_eq!((chunk.child(3), chunk.child(4), chunk.child_count()), (Some(child(3)), None, 4));
        assert_eq!(chunk.list_offsets().collect::<Vec<_>>(), [0, 96, 128]);
        assert_eq!((chunk.kind(), chunk.level(), chunk.weak_count()), (7, 3, 1));
        assert_eq!((chunk.run(), chunk.body()), (&body(5)[32..96], &body(5)[..]));
        let again = Chunk::verify(chunk.bytes().to_vec(), chunk.hash()).unwrap();
        assert_eq!(again.children().collect::<Vec<_>>(), chunk.children().collect::<Vec<_>>());
    }

    #[test]
    fn an_address_outside_the_body_or_over_another_is_refused() {
        let good = Chunk::build(1, 0, &body(4), Some((0, 2)), &[64, 96], 0).bytes().to_vec();
        let with = |at: usize, value: &[u8]| {
            let mut bytes = good.clone();
            bytes[at..at + value.len()].copy_from_slice(value);
            Chunk::from_bytes(bytes)
        };
        assert!(with(0, &[1]).is_ok());
        for (at, value, why) in [
            (0, &[2][..], "another format"),
            (1, &[0], "kind 0"),
            (3, &[1], "reserved byte"),
            (4, &[1], "the run reaches into the list"),
            (8, &[5], "a run after the end"),
            (8, &[0xff; 4], "a count that overflows"),
            (4, &[0xff; 8], "a run far outside"),
            (12, &[0xff, 0xff], "a list longer than the chunk"),
            (14, &[3], "more weak than listed"),
            (16, &[63], "a listed address in the run"),
            (16, &[96], "a list that does not ascend"),
            (20, &[95], "overlapping addresses"),
            (20, &[97], "an address after the end"),
            (20, &[0xff; 4], "an address far outside"),
        ] {
            assert!(with(at, value).is_err(), "{why}");
        }
        let empty_run = Chunk::build(1, 0, b"", Some((9, 0)), &[], 0);
        assert_eq!(empty_run.bytes()[4], 0, "an empty run starts at 0");
        let mut moved = empty_run.bytes().to_vec();
        moved[4] = 1;
        assert!(Chunk::from_bytes(moved).is_err());
        for len in 0..16 {
            assert!(Chunk::from_bytes(good[..len].to_vec()).is_err());
        }
        assert!(matches!(Chunk::from_bytes(vec![1; CHUNK_BYTES_MAX + 1]), Err(ChunkError::TooLong { .. })));
    }

    #[test]
    fn changed_bytes_are_not_the_chunk() {
        let chunk = Chunk::build(1, 0, b"body", None, &[], 0);
        let mut bytes = chunk.bytes().to_vec();
        bytes[17] ^= 1;
        assert!(matches!(Chunk::verify(bytes, chunk.hash()), Err(ChunkError::HashMismatch { .. })));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_chunk_or_an_error(bytes: Vec<u8>, header: [u8; 16]) {
            for bytes in [bytes.clone(), [&header[..], &bytes].concat(), [&[1, 1, 0, 0][..], &header[4..], &bytes].concat()] {
                if let Ok(chunk) = Chunk::from_bytes(bytes) {
                    let _ = (chunk.children().count(), chunk.weak_children().count(), chunk.run().len());
                }
            }
        }
    }
}
