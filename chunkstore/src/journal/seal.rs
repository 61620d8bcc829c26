//! The index at the end of a sealed journal: where each of its chunks lies, so that opening need not read the groups.
//!
//! One idea: the index only saves time. If it is damaged, the journal is read from its start instead.
//!
//! ```text
//! size     field (little-endian)
//!    4     magic        "PLIX"
//!    4     version      = 1
//!    4     count
//!   41×n   entries, by hash: hash 32 · offset u32 · len u32 · step u8
//!   16     check        BLAKE3 keyed by the journal's key, of all before
//! ```

use crate::bytes::Fields;
use crate::frame::Location;
use crate::hash::Hash;

const MAGIC: &[u8; 4] = b"PLIX";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 12;
const ENTRY_BYTES: usize = 41;
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
        bytes.push(location.step);
    }
    let check = check(&bytes, key);
    bytes.extend(check);
    bytes
}

/// The chunks that an index lists; `None` if the bytes are not a good index.
pub(crate) fn decode(bytes: &[u8], file: u32, key: &[u8; 32]) -> Option<Vec<(Hash, Location)>> {
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
            Some((hash, Location { file, offset, len, step }))
        })
        .collect()
}

fn check(bytes: &[u8], key: &[u8; 32]) -> [u8; CHECK_BYTES] {
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&blake3::keyed_hash(key, bytes).as_bytes()[..CHECK_BYTES]);
    check
}
