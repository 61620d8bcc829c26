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
//!
//! A cut depends on the bytes from the cut before it up to at most 64 KiB further, and on where the value ends, if that is nearer. So a
//! value can be cut as it streams in (`write`), and after a change of some bytes (`splice`) cutting goes on until a cut
//! meets an old one, behind which all is as it was. Reading takes up one piece at a time (`read`).

mod read;
mod splice;
mod write;

use pleach_chunkstore::{Chunk, Hash};

use crate::{
    chunks::{Read, Writer},
    error::{Error, Result},
    kinds::BLOB,
    map::node::{Stored, Tag, Value},
};

pub use read::ValueReader;
pub(crate) use splice::splice;
pub(crate) use write::write;

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
    let mut meter = writer.store().meter("storing", "bytes", Some(value.len() as u64));
    for cut in fastcdc::v2020::FastCDC::new(value, PIECE_MIN, PIECE_MEAN, PIECE_MAX) {
        pieces.push(put_piece(writer, &value[cut.offset..cut.offset + cut.length], None)?);
        meter.add(cut.length as u64);
    }
    meter.end();
    put_list(writer, &pieces, None)
}

/// A piece of a blob: its address and its length.
type Piece = (Hash, u32);

/// How long the first piece of a value is that begins with `window`: 64 KiB of it, or all that is left.
fn first_cut(window: &[u8]) -> usize {
    let mut cuts = fastcdc::v2020::FastCDC::new(window, PIECE_MIN, PIECE_MEAN, PIECE_MAX);
    cuts.next().map_or(window.len(), |cut| cut.length)
}

fn put_piece(writer: &mut Writer, bytes: &[u8], base: Option<Hash>) -> Result<Piece> {
    let piece = Chunk::build(BLOB, 0, bytes, None, &[], 0);
    let hash = *piece.hash();
    writer.put(piece, base)?;
    Ok((hash, bytes.len() as u32))
}

/// Writes the list of the pieces, unless there is only one; gives what a leaf stores.
fn put_list(writer: &mut Writer, pieces: &[Piece], base: Option<Hash>) -> Result<Value> {
    let root = match pieces {
        [(only, _)] => *only,
        _ => {
            let mut body = Vec::with_capacity(pieces.len() * ENTRY);
            pieces.iter().for_each(|(hash, _)| body.extend_from_slice(hash.as_bytes()));
            pieces.iter().for_each(|(_, len)| body.extend_from_slice(&len.to_le_bytes()));
            let list = Chunk::build(BLOB, 1, &body, Some((0, pieces.len() as u32)), &[], 0);
            let hash = *list.hash();
            writer.put(list, base)?;
            hash
        }
    };
    let len: u64 = pieces.iter().map(|(_, len)| u64::from(*len)).sum();
    let mut bytes = root.as_bytes().to_vec();
    bytes.extend_from_slice(&len.to_le_bytes());
    Ok(Value { tag: Tag::Blob, bytes })
}

/// The pieces of the blob at `address`, which is `len` bytes long.
fn pieces(reader: &impl Read, address: &Hash, len: u64) -> Result<Vec<Piece>> {
    let root = reader.chunk(address)?;
    let body = body_of_kind(&root)?;
    let pieces: Vec<Piece> = match root.level() {
        0 => vec![(*address, body.len() as u32)],
        _ => root.children().zip(lengths(&root).map(|len| len as u32)).collect(),
    };
    let found: u64 = pieces.iter().map(|(_, len)| u64::from(*len)).sum();
    if found != len || len > VALUE_BYTES_MAX as u64 {
        return Err(Error::malformed(
            address,
            format!("expected a blob of {len} bytes, at most 256 MiB, found {found}"),
        ));
    }
    if let Some((piece, len)) = pieces.iter().find(|(_, len)| *len as usize > PIECE_MAX) {
        return Err(Error::malformed(
            piece,
            format!("expected a piece of at most 64 KiB, found {len} bytes"),
        ));
    }
    Ok(pieces)
}

/// The piece of a blob, if it is as long as its list says.
fn piece(reader: &impl Read, (hash, len): Piece) -> Result<Chunk> {
    let chunk = reader.chunk(&hash)?;
    let found = body_of_kind(&chunk)?.len();
    if chunk.level() != 0 || found != len as usize {
        return Err(Error::malformed(&hash, format!("expected a piece of {len} bytes, found {found}")));
    }
    Ok(chunk)
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

/// The lengths of the pieces that a list names.
pub(crate) fn lengths(list: &Chunk) -> impl Iterator<Item = u64> {
    let lengths = list.body().get(list.run().len()..).unwrap_or_default().as_chunks::<4>().0;
    lengths.iter().map(|len| u64::from(u32::from_le_bytes(*len)))
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
mod tests;
