//! Values too long for a leaf, cut into pieces by content, so that an edit costs the edit.
//!
//! A blob is one chunk of kind [`BLOB`] at level 0 (its body is the bytes), or, of more than one piece, a chunk at level 1:
//!
//! ```text
//! 0 addresses of the pieces (n × 32, the chunk's run) · lengths of the pieces (n × u32, little-endian)
//! ```
//!
//! Cuts are those of FastCDC (2020) with pieces of 4 to 64 KiB, 16 KiB on average. A leaf refers to a blob by its address and
//! its u64 length.

use pleach_chunkstore::{Chunk, Hash};

use crate::{
    chunks::{Read, Writer},
    error::{Error, Result},
    kinds::BLOB,
    map::node::{Stored, Tag, Value},
};

const PIECE_MIN: usize = 4 << 10;
const PIECE_MEAN: usize = 16 << 10;
const PIECE_MAX: usize = 64 << 10;
const ENTRY: usize = Hash::LEN + 4;
/// Longest value, bytes: its list of pieces still fits in a chunk if all are cut shortest.
pub const VALUE_BYTES_MAX: usize = 256 << 20;

/// The form in which `value` is stored: inline up to `inline_bytes`, else as a blob.
pub(crate) fn store(writer: &mut Writer, inline_bytes: u16, value: &[u8]) -> Result<Value> {
    if value.len() <= usize::from(inline_bytes) {
        return Ok(Value { tag: Tag::Inline, bytes: value.to_vec() });
    }
    if value.len() > VALUE_BYTES_MAX {
        return Err(Error::ValueTooLong { found: value.len(), max: VALUE_BYTES_MAX });
    }
    let mut pieces = Vec::new();
    for cut in fastcdc::v2020::FastCDC::new(value, PIECE_MIN, PIECE_MEAN, PIECE_MAX) {
        let piece = Chunk::build(BLOB, 0, &value[cut.offset..cut.offset + cut.length], None, &[], 0);
        pieces.push((*piece.hash(), cut.length as u32));
        writer.put(piece, None)?;
    }
    let root = match pieces.as_slice() {
        [(only, _)] => *only,
        _ => {
            let mut body = Vec::with_capacity(pieces.len() * ENTRY);
            pieces.iter().for_each(|(hash, _)| body.extend_from_slice(hash.as_bytes()));
            pieces.iter().for_each(|(_, len)| body.extend_from_slice(&len.to_le_bytes()));
            let list = Chunk::build(BLOB, 1, &body, Some((0, pieces.len() as u32)), &[], 0);
            let hash = *list.hash();
            writer.put(list, None)?;
            hash
        }
    };
    let mut bytes = root.as_bytes().to_vec();
    bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
    Ok(Value { tag: Tag::Blob, bytes })
}

/// The whole value that a leaf stores.
pub(crate) fn load(reader: &impl Read, stored: Stored<'_>) -> Result<Vec<u8>> {
    let Some((address, len)) = blob_address(stored) else { return Ok(stored.bytes.to_vec()) };
    if len > VALUE_BYTES_MAX as u64 {
        return Err(Error::malformed(
            &address,
            format!("expected a value of at most 256 MiB, found {len} bytes"),
        ));
    }
    let root = reader.chunk(&address)?;
    let mut value = Vec::new();
    if root.level() == 0 {
        value.extend_from_slice(body_of_kind(&root)?);
    } else {
        body_of_kind(&root)?;
        for piece in root.children() {
            value.extend_from_slice(body_of_kind(&reader.chunk(&piece)?)?);
            if value.len() as u64 > len {
                break;
            }
        }
    }
    if value.len() as u64 != len {
        return Err(Error::malformed(
            &address,
            format!("expected a blob of {len} bytes, found {}", value.len()),
        ));
    }
    Ok(value)
}

fn blob_address(stored: Stored<'_>) -> Option<(Hash, u64)> {
    if stored.tag != Tag::Blob {
        return None;
    }
    let address = *stored.bytes.first_chunk::<{ Hash::LEN }>()?;
    let len = *stored.bytes.last_chunk::<8>()?;
    Some((Hash::from_bytes(address), u64::from_le_bytes(len)))
}

fn body_of_kind(chunk: &Chunk) -> Result<&[u8]> {
    match chunk.kind() {
        BLOB => Ok(chunk.body()),
        kind => Err(Error::malformed(chunk.hash(), format!("expected a blob, found kind {kind}"))),
    }
}

/// Checks a blob chunk from outside.
pub(crate) fn check(chunk: &Chunk) -> Result<()> {
    let malformed = |what: &str| Err(Error::malformed(chunk.hash(), what));
    let body = chunk.body();
    match chunk.level() {
        0 if chunk.child_count() > 0 || chunk.weak_count() > 0 => {
            malformed("expected a piece without references")
        }
        0 if body.len() > PIECE_MAX => malformed("expected a piece of at most 64 KiB"),
        0 => Ok(()),
        1 => {
            let pieces = chunk.run().len() / Hash::LEN;
            let whole = pieces >= 2 && body.len() == pieces * ENTRY;
            let canonical = whole && Chunk::build(BLOB, 1, body, Some((0, pieces as u32)), &[], 0) == *chunk;
            if canonical { Ok(()) } else { malformed("expected a list of pieces, all in the run") }
        }
        _ => malformed("expected level 0 or 1"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use pleach_chunkstore::{Options, Store};

    use super::*;

    /// Bytes that look random and are always the same.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u32;
        let next = |state: &mut u32| {
            *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (*state >> 24) as u8
        };
        (0..len).map(|_| next(&mut state)).collect()
    }

    #[test]
    fn golden_cuts_and_list_of_a_blob() {
        // Where values are cut, and so which chunks they share with their other versions, changed if this fails.
        let mut writer = Writer::new(&Store::memory(Options::default()));
        let value = noise(100_000);
        let stored = store(&mut writer, 1024, &value).unwrap();
        let stored = Stored { tag: stored.tag, bytes: &stored.bytes };
        let (address, len) = blob_address(stored).unwrap();
        assert_eq!(len, 100_000);
        let list = writer.chunk(&address).unwrap();
        let lengths: Vec<u32> = list.body()[list.run().len()..]
            .chunks_exact(4)
            .map(|len| u32::from_le_bytes([len[0], len[1], len[2], len[3]]))
            .collect();
        assert_eq!(lengths, [21856, 4280, 6336, 32886, 22051, 12591]);
        assert_eq!(load(&writer, stored).unwrap(), value);
        check(&list).unwrap();
    }

    #[test]
    fn a_list_that_says_more_than_a_value_may_hold_is_refused_unread() {
        let writer = Writer::new(&Store::memory(Options::default()));
        let mut bytes = vec![0; 32];
        bytes.extend_from_slice(&(VALUE_BYTES_MAX as u64 + 1).to_le_bytes());
        let refused = load(&writer, Stored { tag: Tag::Blob, bytes: &bytes });
        assert!(matches!(refused, Err(Error::Malformed { .. })));
    }

    #[test]
    fn an_insertion_near_the_start_rewrites_a_piece_or_two() {
        let database = Store::memory(Options::default());
        let mut value = noise(1_000_000);
        let pieces = |value: &[u8]| {
            let mut writer = Writer::new(&database);
            let stored = store(&mut writer, 1024, value).unwrap();
            let (address, _) = blob_address(Stored { tag: stored.tag, bytes: &stored.bytes }).unwrap();
            writer.chunk(&address).unwrap().children().collect::<std::collections::HashSet<_>>()
        };
        let before = pieces(&value);
        value.insert(5_000, 7);
        let new = pieces(&value).difference(&before).count();
        assert!(new <= 3, "{new} of {} pieces are new", before.len());
    }
}
