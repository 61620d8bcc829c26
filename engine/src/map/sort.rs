//! Sorting rows that come in any order, in bounded memory: what is held is sorted and written to a file as a *run* whenever it has become
//! too much, and at the end all runs are merged.
//!
//! The file has no name, so that nothing of it is left behind by an error or a crash. Of several rows with one key the last one that came
//! stays.
//!
//! A row in memory and in the file: `u16 length of key · u8 tag · u16 length of value · key · value`, little-endian.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    mem,
    sync::Arc,
};

use pleach_chunkstore::{Lease, Scratch, Store};

use super::{
    config::KEY_BYTES_MAX,
    node::{Stored, Tag},
};
use crate::error::{Error, Result};

const HEADER: usize = 5;
/// What a row takes beside its bytes while it is held.
const PLACE: usize = size_of::<Place>();
/// A run is read in pieces of this many bytes: at least, so that its longest row fits in one, and at most.
const PIECE_MIN: usize = 8 << 10;
const PIECE_MAX: usize = 1 << 20;

/// Rows in any order, on their way to be sorted.
pub(crate) struct Sorter {
    store: Store,
    held_max: usize,
    /// The right to hold as much.
    lease: Lease,
    /// Of several rows with one key, the last one stays; else all.
    dedup: bool,
    held: Held,
    runs: Vec<Run>,
    /// The file of all runs, and where it ends.
    file: Option<(Arc<Scratch>, u64)>,
}

/// Rows in memory, in the order in which they came.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    places: Vec<Place>,
}

/// Where a row is, and its key's first eight bytes, by which most rows are told apart.
#[derive(Clone, Copy)]
struct Place {
    word: u64,
    at: u32,
}

/// Sorted rows, from one place in the file to another.
#[derive(Clone, Copy)]
struct Run {
    from: u64,
    to: u64,
    rows: u64,
}

impl Sorter {
    /// A sorter that holds about `held_max` bytes of rows in memory, or what it gets of the store's memory for work.
    pub(crate) fn new(store: &Store, held_max: usize) -> Sorter {
        let held_max = held_max.clamp(PIECE_MIN, u32::MAX as usize);
        let (lease, held) = (store.lease(), Held::default());
        Sorter { store: store.clone(), held_max, lease, dedup: true, held, runs: Vec::new(), file: None }
    }

    /// A sorter that gives all rows: those with one key in the order in which they came.
    pub(crate) fn of_all(store: &Store) -> Sorter {
        Sorter { dedup: false, ..Sorter::new(store, usize::MAX) }
    }

    /// Adds a row, whose value is stored inline or elsewhere already.
    pub(crate) fn push(&mut self, key: &[u8], value: Stored<'_>) -> Result<()> {
        if key.len() > KEY_BYTES_MAX {
            return Err(Error::KeyTooLong { found: key.len(), max: KEY_BYTES_MAX });
        }
        let held = self.held.weight() + HEADER + key.len() + value.bytes.len() + PLACE;
        if held > self.held_max || !self.lease.reach(held as u64) {
            self.spill()?;
        }
        self.held.push(key, value);
        Ok(())
    }

    /// Writes what is held as a run.
    fn spill(&mut self) -> Result<()> {
        if self.held.places.is_empty() {
            return Ok(());
        }
        self.held.sort(self.dedup);
        let mut run = RunWriter::new(&self.store, &mut self.file)?;
        self.held.rows().try_for_each(|row| run.push(row))?;
        self.runs.push(run.end()?);
        self.held.bytes.clear();
        self.held.places.clear();
        Ok(())
    }

    /// Calls `f` with each row, in ascending order of keys.
    pub(crate) fn finish(mut self, mut f: impl FnMut(&[u8], Stored<'_>) -> Result<()>) -> Result<()> {
        if self.runs.is_empty() {
            self.held.sort(self.dedup);
            return self.held.rows().try_for_each(|row| give(row, &mut f));
        }
        self.spill()?;
        self.held = Held::default();
        // A piece of each run that is merged.
        let bytes = self.held_max.min(usize::try_from(self.lease.bytes()).unwrap_or(usize::MAX));
        let runs_max = (bytes / PIECE_MIN).max(2);
        while self.runs.len() > runs_max {
            let runs = mem::take(&mut self.runs);
            // Each pass writes a file of its own, and the one before goes.
            let Some((file, _)) = self.file.take() else { return Ok(()) };
            for some in runs.chunks(runs_max) {
                let mut run = RunWriter::new(&self.store, &mut self.file)?;
                merge(&self.store, &file, some, bytes, self.dedup, |row| run.push(row))?;
                self.runs.push(run.end()?);
            }
        }
        let Some((file, _)) = &self.file else { return Ok(()) };
        merge(&self.store, file, &self.runs, bytes, self.dedup, |row| give(row, &mut f))
    }
}

/// Writes a run at the end of the file.
struct RunWriter<'a> {
    file: &'a Scratch,
    end: &'a mut u64,
    from: u64,
    rows: u64,
    piece: Vec<u8>,
}

impl<'a> RunWriter<'a> {
    fn new(store: &Store, file: &'a mut Option<(Arc<Scratch>, u64)>) -> Result<RunWriter<'a>> {
        let (file, end) = match file {
            Some(file) => file,
            none => none.insert((Arc::new(store.scratch()?), 0)),
        };
        Ok(RunWriter { file, from: *end, end, rows: 0, piece: Vec::with_capacity(PIECE_MAX) })
    }

    fn push(&mut self, row: &[u8]) -> Result<()> {
        if self.piece.len() + row.len() > PIECE_MAX {
            self.write()?;
        }
        self.piece.extend_from_slice(row);
        self.rows += 1;
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        self.file.write_at(&self.piece, *self.end)?;
        *self.end += self.piece.len() as u64;
        self.piece.clear();
        Ok(())
    }

    fn end(mut self) -> Result<Run> {
        self.write()?;
        Ok(Run { from: self.from, to: *self.end, rows: self.rows })
    }
}

/// Calls `f` with each row of these runs, in ascending order of keys; of those with one key, if `dedup`, that of the last run. Holds about so many bytes.
fn merge(
    store: &Store,
    file: &Arc<Scratch>,
    runs: &[Run],
    bytes: usize,
    dedup: bool,
    mut f: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut meter = store.meter("sorting", "rows", Some(runs.iter().map(|run| run.rows).sum()));
    let piece = (bytes / runs.len()).clamp(PIECE_MIN, PIECE_MAX);
    let mut heads = BinaryHeap::with_capacity(runs.len());
    for (number, &run) in runs.iter().enumerate() {
        let mut head = Head { number, run, file: file.clone(), bytes: Vec::with_capacity(piece), at: 0 };
        if head.fill()? {
            heads.push(Reverse(head));
        }
    }
    // The row that is given next, unless one of a later run has its key.
    let mut next: Vec<u8> = Vec::new();
    while let Some(mut top) = heads.peek_mut() {
        let Reverse(head) = &mut *top;
        if !next.is_empty() && (!dedup || key_of(head.row()) != key_of(&next)) {
            f(&next)?;
        }
        next.clear();
        next.extend_from_slice(head.row());
        meter.add(1);
        head.at += next.len();
        if !head.fill()? {
            std::collections::binary_heap::PeekMut::pop(top);
        }
    }
    if !next.is_empty() {
        f(&next)?;
    }
    meter.end();
    Ok(())
}

impl Held {
    fn weight(&self) -> usize {
        self.bytes.len() + self.places.len() * PLACE
    }

    fn push(&mut self, key: &[u8], value: Stored<'_>) {
        let mut word = [0; 8];
        let len = key.len().min(8);
        word[..len].copy_from_slice(&key[..len]);
        self.places.push(Place { word: u64::from_be_bytes(word), at: self.bytes.len() as u32 });
        // Keys and what is stored inline are a few thousand bytes at most.
        self.bytes.extend_from_slice(&(key.len() as u16).to_le_bytes());
        self.bytes.push(value.tag as u8);
        self.bytes.extend_from_slice(&(value.bytes.len() as u16).to_le_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.bytes);
    }

    /// Sorts by key, and those with one key in the order in which they came; of these, if `dedup`, only the last stays.
    fn sort(&mut self, dedup: bool) {
        let bytes = &self.bytes;
        let key = |place: &Place| key_of(&bytes[place.at as usize..]);
        self.places.sort_unstable_by(|a, b| {
            a.word.cmp(&b.word).then_with(|| key(a).cmp(key(b))).then_with(|| a.at.cmp(&b.at))
        });
        if !dedup {
            return;
        }
        self.places.dedup_by(|later, kept| {
            let same = later.word == kept.word && key(later) == key(kept);
            if same {
                *kept = *later;
            }
            same
        });
    }

    fn rows(&self) -> impl Iterator<Item = &[u8]> {
        self.places.iter().map(|place| {
            let row = &self.bytes[place.at as usize..];
            &row[..len_of(row)]
        })
    }
}

/// A run that is being read, from its first row on that was not given yet.
struct Head {
    number: usize,
    run: Run,
    file: Arc<Scratch>,
    /// A piece of the run, and where its first row is.
    bytes: Vec<u8>,
    at: usize,
}

impl Head {
    fn row(&self) -> &[u8] {
        let rest = &self.bytes[self.at..];
        &rest[..len_of(rest)]
    }

    /// Reads on if the next row is not there whole; false at the end of the run.
    fn fill(&mut self) -> Result<bool> {
        let rest = &self.bytes[self.at..];
        if rest.len() < HEADER || rest.len() < len_of(rest) {
            self.bytes.drain(..mem::take(&mut self.at));
            let had = self.bytes.len();
            let more = (self.run.to - self.run.from).min((self.bytes.capacity() - had) as u64);
            self.bytes.resize(had + more as usize, 0);
            self.file.read_at(&mut self.bytes[had..], self.run.from)?;
            self.run.from += more;
        }
        Ok(self.at < self.bytes.len())
    }
}

impl Ord for Head {
    /// By key; of one key the run that was written first comes first.
    fn cmp(&self, other: &Head) -> Ordering {
        key_of(self.row()).cmp(key_of(other.row())).then_with(|| self.number.cmp(&other.number))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Head) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Head) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head {}

fn lengths_of(row: &[u8]) -> (usize, usize) {
    (usize::from(u16::from_le_bytes([row[0], row[1]])), usize::from(u16::from_le_bytes([row[3], row[4]])))
}

fn len_of(row: &[u8]) -> usize {
    let (key, value) = lengths_of(row);
    HEADER + key + value
}

fn key_of(row: &[u8]) -> &[u8] {
    &row[HEADER..HEADER + lengths_of(row).0]
}

fn give(row: &[u8], f: &mut impl FnMut(&[u8], Stored<'_>) -> Result<()>) -> Result<()> {
    let (key, value) = row[HEADER..].split_at(lengths_of(row).0);
    let tag = if row[2] == Tag::Inline as u8 { Tag::Inline } else { Tag::Blob };
    f(key, Stored { tag, bytes: value })
}
