//! The index at the end of a sealed journal: where each of its chunks lies, so that opening need not read the groups.
//!
//! One idea: the index only saves time. If it is damaged, the journal is read from its start instead.
//!
//! ```text
//! size     field (little-endian)
//!    4     magic        "PLIX"
//!    4     version      = 3
//!    4     count
//!   42×n   entries, by hash: hash 32 · offset u32 · len u32 · step u8 · flags u8: of the frame, bit 5 partial, bit 6 crossed,
//!                         bit 7 leaf
//!   16     check        BLAKE3 keyed by the journal's key, of all before
//! ```

use crate::bytes::Fields;
use crate::frame::{self, FRAME_BYTES_MAX, JOURNAL_STEPS_MAX, Location};
use crate::hash::Hash;

const MAGIC: &[u8; 4] = b"PLIX";
const VERSION: u32 = 3;
const HEADER_BYTES: usize = 12;
const ENTRY_BYTES: usize = 42;
const CHECK_BYTES: usize = 16;

/// The index of a journal with these chunks.
pub(crate) fn encode(entries: &[(Hash, Location)], key: &[u8; 32]) -> Vec<u8> {
    let mut sorted: Vec<_> = entries.to_vec();
    sorted.sort_by_key(|(hash, location)| (*hash, location.offset));
    let mut bytes = Vec::with_capacity(HEADER_BYTES + ENTRY_BYTES * sorted.len() + CHECK_BYTES);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((sorted.len() as u32).to_le_bytes());
    for (hash, location) in sorted {
        bytes.extend(hash.as_bytes());
        bytes.extend(location.offset.to_le_bytes());
        bytes.extend(location.len.to_le_bytes());
        bytes.extend([location.step, frame::flags(location.crossed, location.leaf, location.partial)]);
    }
    let check = check(&bytes, key);
    bytes.extend(check);
    bytes
}

/// More than the longest index of a journal whose groups end at `end`: in a group too a chunk takes its hash, and a few bytes.
pub(crate) fn bytes_max(end: u64) -> u64 {
    end.saturating_add(end / 4).saturating_add((HEADER_BYTES + CHECK_BYTES) as u64)
}

/// The chunks that the index of a journal lists, whose groups end at `end`; `None` if the bytes are not a good index.
pub(crate) fn decode(bytes: &[u8], file: u32, end: u64, key: &[u8; 32]) -> Option<Vec<(Hash, Location)>> {
    let (checked, found) = bytes.split_last_chunk::<CHECK_BYTES>()?;
    if *found != check(checked, key) {
        return None;
    }
    let mut fields = Fields::new(checked);
    if fields.take(4)? != MAGIC || fields.u32()? != VERSION {
        return None;
    }
    let count = fields.u32()? as usize;
    if fields.left() != count.checked_mul(ENTRY_BYTES)? {
        return None;
    }
    (0..count)
        .map(|_| {
            let (hash, offset, len, step) = (fields.hash()?, fields.u32()?, fields.u32()?, fields.u8()?);
            let (crossed, leaf, partial) = frame::parse_flags(fields.u8()?)?;
            let fits = len as usize <= FRAME_BYTES_MAX && u64::from(offset) + u64::from(len) <= end;
            if !fits || step > JOURNAL_STEPS_MAX {
                return None;
            }
            Some((hash, Location { file, offset, len, step, crossed, leaf, partial }))
        })
        .collect()
}

fn check(bytes: &[u8], key: &[u8; 32]) -> [u8; CHECK_BYTES] {
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&blake3::keyed_hash(key, bytes).as_bytes()[..CHECK_BYTES]);
    check
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::bytes::tests::hex;

    #[test]
    fn golden_bytes_of_an_index() {
        let entry = |byte: u8, offset, step| {
            let (differs, leaf) = (step > 0, byte == 1);
            let place = Location { file: 2, offset, len: 70, step, crossed: differs, leaf, partial: differs };
            (Hash::from_bytes([byte; 32]), place)
        };
        let entries = [entry(2, 200, 1), entry(1, 100, 0)];
        let bytes = encode(&entries, &[7; 32]);
        let (one, two) = ("01".repeat(32), "02".repeat(32));
        let fields =
            format!("504c4958 03000000 02000000 {one}64000000 46000000 0080 {two}c8000000 46000000 0160");
        assert_eq!(hex(&bytes), format!("{fields} 83ad7e6433d28f814d1b3469156ff0d6").replace(' ', ""));
        assert_eq!(decode(&bytes, 2, 270, &[7; 32]), Some(vec![entries[1], entries[0]]));
        assert_eq!(decode(&bytes, 2, 269, &[7; 32]), None, "a frame ends behind the groups");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped, 2, 270, &[7; 32]), None, "bit {bit}");
        }
    }
}
