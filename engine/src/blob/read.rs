//! Reading a value piece by piece: a seek reads nothing, and a read takes up the one piece that it falls into.

use std::io::{self, Seek, SeekFrom};

use pleach_chunkstore::{Chunk, Store};

use super::{Piece, Value, blob_address, piece, pieces};
use crate::{
    error::{Error, Result},
    map::node::Stored,
};

/// A value that is read piece by piece, each checked against its address. Owns its snapshot.
///
/// Where it stands may lie beyond the end, as in a file; there is nothing to read there.
pub struct ValueReader {
    store: Store,
    place: u64,
    len: u64,
    source: Source,
}

enum Source {
    Inline(Vec<u8>),
    /// The pieces and where each ends; the piece last read.
    Blob {
        pieces: Vec<(Piece, u64)>,
        last: Option<(usize, Chunk)>,
    },
}

impl ValueReader {
    pub(crate) fn new(store: &Store, value: Value) -> Result<ValueReader> {
        let stored = Stored { tag: value.tag, bytes: &value.bytes };
        let (len, source) = match blob_address(stored) {
            None => (value.bytes.len() as u64, Source::Inline(value.bytes)),
            Some((address, len)) => {
                let mut end = 0;
                let ended = |piece: Piece| {
                    end += u64::from(piece.1);
                    (piece, end)
                };
                let pieces = pieces(store, &address, len)?.into_iter().map(ended).collect();
                (len, Source::Blob { pieces, last: None })
            }
        };
        Ok(ValueReader { store: store.clone(), place: 0, len, source })
    }

    /// Length of the value, bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the value has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where two values begin to differ, and behind which places of each they are the same, by their pieces. None is read.
    pub(crate) fn differing(&self, other: &ValueReader) -> (u64, u64, u64) {
        let (Source::Blob { pieces: own, .. }, Source::Blob { pieces: others, .. }) =
            (&self.source, &other.source)
        else {
            return (0, self.len, other.len);
        };
        let same = own.iter().zip(others).take_while(|((a, _), (b, _))| a == b).count();
        let (own, others) = (&own[same..], &others[same..]);
        let start = own.first().map_or(self.len, |((_, len), end)| end - u64::from(*len));
        let tails = own.iter().rev().zip(others.iter().rev());
        let tail = tails
            .take_while(|((a, _), (b, _))| a == b)
            .map(|(((_, len), _), _)| u64::from(*len))
            .sum::<u64>();
        (start, self.len - tail, other.len - tail)
    }

    /// The bytes of a range of the value, cut off at its end.
    ///
    /// # Errors
    /// The store's.
    pub fn range(&mut self, range: std::ops::Range<u64>) -> Result<Vec<u8>> {
        let end = range.end.min(self.len);
        self.place = range.start.min(end);
        let mut bytes = Vec::new();
        while self.place < end {
            let left = (end - self.place) as usize;
            let here = self.here()?;
            let taken = here.len().min(left);
            bytes.extend_from_slice(&here[..taken]);
            self.place += taken as u64;
        }
        Ok(bytes)
    }

    /// The bytes from the place on that are at hand; none at the end.
    fn here(&mut self) -> Result<&[u8]> {
        if self.place >= self.len {
            return Ok(&[]);
        }
        match &mut self.source {
            Source::Inline(bytes) => Ok(&bytes[self.place as usize..]),
            Source::Blob { pieces, last } => {
                let i = pieces.partition_point(|(_, end)| *end <= self.place);
                let (of, end) = pieces[i];
                let chunk = match last.take() {
                    Some((at, chunk)) if at == i => chunk,
                    _ => piece(&self.store, of)?,
                };
                let (_, chunk) = last.insert((i, chunk));
                let left = (end - self.place) as usize;
                Ok(&chunk.body()[chunk.body().len() - left..])
            }
        }
    }
}

impl io::Read for ValueReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut here = self.here().map_err(to_io)?;
        let read = io::Read::read(&mut here, into)?;
        self.place += read as u64;
        Ok(read)
    }
}

impl Seek for ValueReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.place.checked_add_signed(by),
        };
        let before = || io::Error::new(io::ErrorKind::InvalidInput, "a place before the start of the value");
        self.place = place.ok_or_else(before)?;
        Ok(self.place)
    }
}

fn to_io(error: Error) -> io::Error {
    let kind = match error {
        Error::Malformed { .. } | Error::Missing { .. } => io::ErrorKind::InvalidData,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}
