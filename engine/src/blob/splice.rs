//! Changing some bytes of a value at the cost of the change.
//!
//! Cutting begins at the piece in which the first changed byte lies, or just before it, and goes on over the new bytes and the old
//! ones behind them, until a cut falls on an old one: what follows is cut as it was. So the result is that of storing the whole
//! new value (test `a_spliced_value_is_the_one_stored_whole`), and the pieces before and behind are not read.

use std::ops::Range;

use pleach_chunkstore::Hash;

use super::{
    PIECE_MAX, Piece, Value, blob_address, first_cut, load, piece, pieces, put_list, put_piece, store,
};
use crate::{
    VALUE_BYTES_MAX,
    chunks::{Read, Writer},
    error::{Error, Result},
    map::node::Stored,
};

/// The stored form of `old` with the bytes in `range` replaced by `new`, which may be more or fewer.
pub(crate) fn splice(
    writer: &mut Writer,
    inline_bytes: u16,
    old: Stored<'_>,
    range: Range<u64>,
    new: &[u8],
) -> Result<Value> {
    let address = blob_address(old);
    let old_len = address.map_or(old.bytes.len() as u64, |(_, len)| len);
    if range.start > range.end || range.end > old_len {
        return Err(Error::OutsideValue { from: range.start, to: range.end, len: old_len });
    }
    let len = old_len - (range.end - range.start) + new.len() as u64;
    if len > VALUE_BYTES_MAX as u64 {
        return Err(Error::ValueTooLong { found: len as usize, max: VALUE_BYTES_MAX });
    }
    let list = match address {
        Some((address, _)) if len > u64::from(inline_bytes) => address,
        _ => {
            let mut value = load(writer, old)?;
            value.splice(range.start as usize..range.end as usize, new.iter().copied());
            return store(writer, inline_bytes, &value);
        }
    };
    let old = Old::new(pieces(writer, &list, old_len)?);
    let made = cut_again(writer, &old, range, new)?;
    put_list(writer, &made, Some(list))
}

/// The pieces of a value, and where each ends.
struct Old {
    pieces: Vec<Piece>,
    ends: Vec<u64>,
}

impl Old {
    fn new(pieces: Vec<Piece>) -> Old {
        let mut end = 0;
        let ends = pieces.iter().map(|(_, len)| {
            end += u64::from(*len);
            end
        });
        Old { ends: ends.collect(), pieces }
    }

    /// Where piece `i` starts.
    fn start(&self, i: usize) -> u64 {
        self.ends[i] - u64::from(self.pieces[i].1)
    }

    /// The piece in which the byte at `place` lies; the number of pieces at the end.
    fn at(&self, place: u64) -> usize {
        self.ends.partition_point(|end| *end <= place)
    }

    /// The address of the piece at `place`, or of the last.
    fn base(&self, place: u64) -> Option<Hash> {
        self.pieces.get(self.at(place)).or(self.pieces.last()).map(|(hash, _)| *hash)
    }
}

/// Bytes of the old value before `range`, the new ones, and the old ones behind, a window at a time.
struct Window<'a> {
    old: &'a Old,
    range: Range<u64>,
    new: &'a [u8],
    bytes: Vec<u8>,
    /// The next byte of the old value to take up.
    next: u64,
}

impl Window<'_> {
    /// Fills the window up to the longest piece, or to the end of the value.
    fn fill(&mut self, reader: &impl Read) -> Result<()> {
        while self.bytes.len() < PIECE_MAX {
            if self.next == self.range.start && !self.new.is_empty() {
                let (taken, rest) = self.new.split_at(self.new.len().min(PIECE_MAX - self.bytes.len()));
                self.bytes.extend_from_slice(taken);
                self.new = rest;
                continue;
            }
            if self.next == self.range.start {
                // Once over the gap, never again: what is replaced by nothing else is an empty range.
                self.next = self.range.end;
                self.range.start = u64::MAX;
            }
            let i = self.old.at(self.next);
            let Some(of) = self.old.pieces.get(i) else { return Ok(()) };
            let end = self.old.ends[i];
            let end = if self.next < self.range.start { end.min(self.range.start) } else { end };
            let chunk = piece(reader, *of)?;
            let from = (self.next - self.old.start(i)) as usize;
            let to = (end - self.old.start(i)) as usize;
            self.bytes.extend_from_slice(&chunk.body()[from..to]);
            self.next = end;
        }
        Ok(())
    }
}

fn cut_again(writer: &mut Writer, old: &Old, range: Range<u64>, new: &[u8]) -> Result<Vec<Piece>> {
    // A cut is found by the byte behind it, and only if that is not the last one of an odd number.
    let first = old.ends.partition_point(|end| end + 1 < range.start).min(old.pieces.len() - 1);
    let mut made = old.pieces[..first].to_vec();
    let mut place = old.start(first);
    let changed_to = range.start + new.len() as u64;
    let mut window =
        Window { old, range: range.clone(), new, bytes: Vec::with_capacity(2 * PIECE_MAX), next: place };
    loop {
        window.fill(writer)?;
        if window.bytes.is_empty() {
            return Ok(made);
        }
        let cut = first_cut(&window.bytes);
        let in_old = if place < range.start { place } else { range.end + place.saturating_sub(changed_to) };
        made.push(put_piece(writer, &window.bytes[..cut], old.base(in_old))?);
        window.bytes.drain(..cut);
        place += cut as u64;
        if place >= changed_to {
            let in_old = range.end + (place - changed_to);
            if let Ok(i) = old.ends.binary_search(&in_old) {
                made.extend_from_slice(&old.pieces[i + 1..]);
                return Ok(made);
            }
        }
    }
}
