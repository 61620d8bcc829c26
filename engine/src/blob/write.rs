//! Storing a value that streams in: in memory are one piece to come, the list of pieces, and what the writer has not handed over.

use std::io::{self, Read as _};

use super::{PIECE_MAX, Piece, Value, first_cut, put_list, put_piece, store};
use crate::{
    VALUE_BYTES_MAX,
    chunks::Writer,
    error::{Error, Result},
};

/// Stores what `source` gives until its end, in the form that [`store`] would give the whole value.
pub(crate) fn write(writer: &mut Writer, inline_bytes: u16, source: &mut dyn io::Read) -> Result<Value> {
    let mut window = Vec::with_capacity(PIECE_MAX);
    let mut pieces: Vec<Piece> = Vec::new();
    let mut len = 0;
    let mut meter = writer.store().meter("storing", "bytes", None);
    loop {
        let found = fill(&mut window, source)?;
        len += found;
        if len > VALUE_BYTES_MAX {
            return Err(Error::ValueTooLong { found: len, max: VALUE_BYTES_MAX });
        }
        if pieces.is_empty() && window.len() <= usize::from(inline_bytes) {
            return store(writer, inline_bytes, &window);
        }
        if window.is_empty() {
            meter.end();
            return put_list(writer, &pieces, None);
        }
        let cut = first_cut(&window);
        pieces.push(put_piece(writer, &window[..cut], None)?);
        meter.add(cut as u64);
        window.drain(..cut);
    }
}

/// Fills `window` up to the longest piece, or to the end of the source; gives how many bytes that were.
fn fill(window: &mut Vec<u8>, source: &mut dyn io::Read) -> Result<usize> {
    let before = window.len();
    let left = (PIECE_MAX - before) as u64;
    source.take(left).read_to_end(window).map_err(Error::from_io)?;
    Ok(window.len() - before)
}
