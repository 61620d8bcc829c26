//! Compaction: chunks of journals and tables, written once more as they are read.
//!
//! One idea: journals have each version as its difference from the one before; a table has the newest version whole, and each older one as
//! its difference from the next newer. So what is in use is read in one step, and history costs its differences. Trees are laid out parent
//! first, leaves in order, each with its older versions behind it.
//!
//! Every chunk is hashed on its way, so damage is not copied: it is an error that names the chunk, and everything stays as it was.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::Compression;
use super::view::View;
use crate::budget::{Budget, Lease};
use crate::chunk::Chunk;
use crate::error::{Error, Result};
use crate::frame::{self, Dictionary, Encoding, FrameHeader, Location, STEPS_MAX};
use crate::hash::Hash;
use crate::index::{Index, Uniformly};
use crate::io::Io;
use crate::journal::StoreId;
use crate::manifest::Listed;
use crate::patch::{self, Kept};
use crate::progress::{Meter, Observer};
use crate::table;
use crate::table::write::Writer;
use crate::testing::Plant;

/// zstd's level under [`Compression::Fast`].
const FAST_LEVEL: i32 = 1;
/// zstd's level under [`Compression::Dense`].
const DENSE_LEVEL: i32 = 9;
/// A dictionary is trained on at most as many leaves.
const SAMPLES_MAX: usize = 800;
/// Fewer leaves make no dictionary worth its bytes.
const SAMPLES_MIN: usize = 64;
const DICTIONARY_BYTES: usize = 16 << 10;
/// What a chunk takes in memory while it is rewritten: its item, and its place in two tables.
const ITEM_BYTES: u64 = 200;
/// No item: the end of a list.
const NONE: u32 = u32::MAX;

/// How much of a core a rewriting takes.
pub(super) struct Pace {
    /// Time to sleep for each unit of time worked.
    rest: u32,
    since: Instant,
}

impl Pace {
    pub(super) fn full() -> Pace {
        Pace { rest: 0, since: Instant::now() }
    }

    /// Half a core, in slices that no one notices.
    pub(super) fn background() -> Pace {
        Pace { rest: 1, since: Instant::now() }
    }

    /// Begins a slice: what was done before does not count.
    pub(super) fn begin_slice(&mut self) {
        self.since = Instant::now();
    }

    /// Called after each small piece of work. Whether a slice is over.
    pub(super) fn step(&mut self) -> bool {
        const SLICE: Duration = Duration::from_millis(1);
        if self.rest == 0 {
            return false;
        }
        let worked = self.since.elapsed();
        let is_over = worked >= SLICE;
        if is_over {
            thread::sleep(worked * self.rest);
            self.begin_slice();
        }
        is_over
    }
}

/// What a rewriting has written.
pub(super) struct Rewrite {
    pub(super) tables: Vec<Listed>,
    pub(super) chunks: u64,
}

impl Rewrite {
    /// Removes what was written; what cannot be removed is removed as a stray later.
    pub(super) fn remove(&self, io: &dyn Io) {
        self.tables.iter().for_each(|listed| drop(io.remove(&table::file_name(listed.number))));
    }
}

/// A rewriting: where it reads from and how it writes.
pub(super) struct Job<'a> {
    pub(super) io: &'a dyn Io,
    pub(super) index: &'a Index,
    pub(super) view: Arc<View>,
    pub(super) store: StoreId,
    pub(super) compression: Compression,
    /// Of the tables that are written.
    pub(super) newest: u32,
    pub(super) tier: u32,
    /// The run that they belong to; a new one if there is none.
    pub(super) run: Option<u32>,
    /// The longest table, in bytes.
    pub(super) table_bytes_max: u64,
    pub(super) take_number: &'a dyn Fn() -> u32,
    pub(super) plant: Option<Plant>,
    /// Whose memory is taken.
    pub(super) budget: &'a Arc<Budget>,
    /// Told of chunks that are written.
    pub(super) observer: Option<&'a Observer>,
    /// Fails if it is to give up.
    pub(super) check: &'a dyn Fn() -> Result<()>,
}

/// A chunk to be written. Lists of items are linked by their indices.
struct Item {
    hash: Hash,
    place: Location,
    /// The next newer version, or [`NONE`].
    newer: u32,
    /// The first of those that have this one as their next newer version, or [`NONE`].
    older: u32,
    /// The next one in the list of those with the same next newer version, or [`NONE`].
    sibling: u32,
    written: bool,
}

impl Item {
    /// File and offset of the base that its frame, so encoded, has.
    fn base(&self, encoding: Encoding) -> Option<(u32, u32)> {
        match encoding {
            Encoding::Delta { file, offset, .. } | Encoding::Patch { file, offset, .. } => match file {
                0 => self.place.offset.checked_sub(offset).map(|offset| (self.place.file, offset)),
                _ => Some((file, offset)),
            },
            _ => None,
        }
    }
}

impl Job<'_> {
    /// Writes the chunks of these journals and tables that `keep` wants.
    pub(super) fn run(
        &self,
        journals: &BTreeSet<u32>,
        tables: &BTreeSet<u32>,
        keep: &dyn Fn(&Hash) -> bool,
        pace: Pace,
    ) -> Result<Rewrite> {
        let mut items = self.gather(journals, tables, keep)?;
        let mut lease = Lease::new(self.budget.clone());
        lease.take(items.len() as u64 * ITEM_BYTES);
        self.link(&mut items)?;
        let dictionary = self.dictionary(&items, tables)?;
        let mut output = Output {
            job: self,
            dictionary,
            pace,
            meter: Meter::new(self.observer, "compacting", "chunks", Some(items.len() as u64)),
            writer: None,
            done: Rewrite { tables: Vec::new(), chunks: 0 },
        };
        let written = self.write(&mut items, &mut output).and_then(|()| output.end_table());
        match written {
            Ok(()) => {
                output.meter.end();
                Ok(output.done)
            }
            Err(error) => {
                if let Some(writer) = &output.writer {
                    let _ = self.io.remove(&table::file_name(writer.number()));
                }
                output.done.remove(self.io);
                Err(error)
            }
        }
    }

    /// The chunks that count and lie in these files.
    fn gather(
        &self,
        journals: &BTreeSet<u32>,
        tables: &BTreeSet<u32>,
        keep: &dyn Fn(&Hash) -> bool,
    ) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        let mut add = |hash: Hash, place: Location| {
            if keep(&hash) {
                items.push(Item { hash, place, newer: NONE, older: NONE, sibling: NONE, written: false });
            }
        };
        for (hash, place) in self.index.in_files(journals) {
            add(hash, place);
        }
        for table in self.view.lookup.tables().iter().filter(|table| tables.contains(&table.number)) {
            table.for_each(|ordinal, hash, place| {
                let found = self.view.lookup.get(&hash)?;
                let counts =
                    found.is_some_and(|found| found.place.file == place.file && found.ordinal == ordinal);
                if counts && self.index.get(&hash).is_none() {
                    add(hash, place);
                }
                Ok(())
            })?;
        }
        // In the order in which they were written, the newest last.
        items.sort_unstable_by_key(|item| (item.place.file, item.place.offset));
        Ok(items)
    }

    /// Finds the versions of each node, from what the frames say of their bases.
    fn link(&self, items: &mut [Item]) -> Result<()> {
        let mut at: HashMap<(u32, u32), u32> = HashMap::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            at.insert((item.place.file, item.place.offset), index as u32);
        }
        // The last of the versions that are known to come after each item's.
        let mut last: HashMap<u32, u32> = HashMap::new();
        for index in 0..items.len() as u32 {
            let Some(base) = self.base(&items[index as usize])? else { continue };
            let Some(&base) = at.get(&base) else { continue };
            if self.view.tables.contains_key(&items[index as usize].place.file) {
                set_newer(items, index, base);
                continue;
            }
            // A second difference from the same base comes from a chain that grew too long: it follows the first chain's end.
            let tail = last.get(&base).copied().unwrap_or(base);
            set_newer(items, tail_of(items, tail), index);
            last.insert(base, index);
        }
        for index in (0..items.len() as u32).rev() {
            let newer = items[index as usize].newer;
            if newer != NONE {
                items[index as usize].sibling = items[newer as usize].older;
                items[newer as usize].older = index;
            }
        }
        Ok(())
    }

    /// File and offset of the base of an item's frame, if it has one.
    fn base(&self, item: &Item) -> Result<Option<(u32, u32)>> {
        if item.place.step == 0 {
            return Ok(None);
        }
        let head = Location { len: item.place.len.min(frame::HEADER_BYTES_MAX as u32), ..item.place };
        let source = self.view.read_frame(head).map_err(|error| self.tell(error, item))?;
        let header = frame::parse_head(&source.bytes).map_err(|error| self.tell(error.into(), item))?;
        Ok(item.base(header.encoding))
    }

    /// The patch that an item's frame is, if it is one.
    fn patched(&self, item: &Item) -> Result<Option<Patched>> {
        if item.place.step == 0 {
            return Ok(None);
        }
        let source = self.view.read_frame(item.place).map_err(|error| self.tell(error, item))?;
        let (header, payload) = frame::parse(&source.bytes).map_err(|error| self.tell(error.into(), item))?;
        let base = item.base(header.encoding).filter(|_| matches!(header.encoding, Encoding::Patch { .. }));
        Ok(base.map(|base| Patched { base, payload: payload.to_vec() }))
    }

    fn tell(&self, error: super::view::LoadError, item: &Item) -> Error {
        error.tell(&item.hash, &item.place, self.view.tables.contains_key(&item.place.file))
    }

    fn load(&self, item: &Item) -> Result<Chunk> {
        let found = super::view::Found { place: item.place, ordinal: None };
        self.view.load(&item.hash, &found, true).map_err(|error| self.tell(error, item))
    }

    /// The dictionary to compress with: one that an input has, or one trained on leaves.
    fn dictionary(&self, items: &[Item], tables: &BTreeSet<u32>) -> Result<Option<Arc<Dictionary>>> {
        if self.compression != Compression::Dense {
            return Ok(None);
        }
        let inputs = self.view.lookup.tables().iter().filter(|table| tables.contains(&table.number));
        let kept = inputs.filter(|table| table.dictionary.is_some()).max_by_key(|table| table.len());
        if let Some(table) = kept {
            return Ok(table.dictionary.clone());
        }
        let leaves: Vec<&Item> = items.iter().filter(|item| item.place.leaf && item.newer == NONE).collect();
        if leaves.len() < SAMPLES_MIN {
            return Ok(None);
        }
        let step = leaves.len().div_ceil(SAMPLES_MAX);
        let samples = leaves
            .iter()
            .step_by(step)
            .map(|item| self.load(item).map(|chunk| chunk.bytes().to_vec()))
            .collect::<Result<Vec<_>>>()?;
        let trained = frame::train(&samples, DICTIONARY_BYTES);
        Ok(trained.map(|bytes| Arc::new(Dictionary::new(bytes, DENSE_LEVEL))))
    }

    /// Writes all items, trees from their roots, the newest root first.
    fn write(&self, items: &mut [Item], output: &mut Output<'_>) -> Result<()> {
        let mut places: HashMap<Hash, u32, Uniformly> =
            HashMap::with_capacity_and_hasher(items.len(), Uniformly::default());
        for (index, item) in items.iter().enumerate() {
            places.insert(item.hash, index as u32);
        }
        for index in (0..items.len() as u32).rev() {
            self.write_tree(items, &places, index, output)?;
        }
        Ok(())
    }

    /// Writes an item's versions and then, in order, those of what it leads to.
    fn write_tree(
        &self,
        items: &mut [Item],
        places: &HashMap<Hash, u32, Uniformly>,
        root: u32,
        output: &mut Output<'_>,
    ) -> Result<()> {
        let mut waiting = vec![root];
        while let Some(index) = waiting.pop() {
            if items[index as usize].written {
                continue;
            }
            let newest = tail_of(items, index);
            let chunk = self.write_versions(items, newest, output)?;
            if !items[index as usize].written {
                // Its versions turn in a circle, which good frames do not: it is written by itself.
                self.write_versions(items, index, output)?;
            }
            if items[newest as usize].place.leaf {
                continue;
            }
            let children: Vec<u32> =
                chunk.children().filter_map(|child| places.get(&child).copied()).collect();
            waiting.extend(children.into_iter().rev().filter(|child| !items[*child as usize].written));
        }
        Ok(())
    }

    /// Writes `newest` whole, and everything older as differences. Gives the newest version.
    fn write_versions(&self, items: &mut [Item], newest: u32, output: &mut Output<'_>) -> Result<Chunk> {
        let first = self.load(&items[newest as usize])?;
        let mut waiting: Vec<(u32, Option<Newer>)> = vec![(newest, None)];
        while let Some((index, newer)) = waiting.pop() {
            if std::mem::replace(&mut items[index as usize].written, true) {
                continue;
            }
            let item = &items[index as usize];
            let chunk = if index == newest { first.clone() } else { self.load(item)? };
            let place = output.put(item, &chunk, newer.as_deref())?;
            let mut older = item.older;
            if older == NONE {
                continue;
            }
            let start = newer.filter(|_| place.step > 0).map(|newer| newer.start.clone().unwrap_or(newer));
            let patched = self.patched(item)?;
            let newer = Rc::new(Version { chunk, place, start, patched });
            while older != NONE {
                waiting.push((older, Some(newer.clone())));
                older = items[older as usize].sibling;
            }
        }
        Ok(first)
    }
}

/// A version that was written, from which an older one may differ little.
struct Version {
    chunk: Chunk,
    place: Location,
    /// The whole one that its chain starts from, if that is another.
    start: Option<Newer>,
    patched: Option<Patched>,
}

/// Where the version lies that a patch in a journal leads from, and what each has of the other.
struct Patched {
    base: (u32, u32),
    payload: Vec<u8>,
}

impl Version {
    /// What the next older version is to be the difference from: this one, or, once the chain is at its longest, its start.
    fn base(&self) -> &Version {
        match &self.start {
            Some(start) if self.place.step >= STEPS_MAX => start,
            _ => self,
        }
    }
}

type Newer = Rc<Version>;

fn set_newer(items: &mut [Item], older: u32, newer: u32) {
    // A chain whose end is `older` itself must not follow it.
    if tail_of(items, newer) != older {
        items[older as usize].newer = newer;
    }
}

/// The newest version that is known of an item.
fn tail_of(items: &[Item], index: u32) -> u32 {
    let mut at = index;
    for _ in 0..items.len() {
        match items[at as usize].newer {
            NONE => return at,
            newer => at = newer,
        }
    }
    index
}

/// The tables being written.
struct Output<'a> {
    job: &'a Job<'a>,
    dictionary: Option<Arc<Dictionary>>,
    pace: Pace,
    meter: Meter,
    writer: Option<Writer>,
    done: Rewrite,
}

impl Output<'_> {
    /// Writes one chunk, as its difference from `newer` if that is short.
    fn put(&mut self, item: &Item, chunk: &Chunk, newer: Option<&Version>) -> Result<Location> {
        (self.job.check)()?;
        self.pace.step();
        self.meter.add(1);
        let leaf = chunk.child_count() == 0;
        let header = |encoding, step, payload: &[u8]| FrameHeader {
            encoding,
            step,
            crossed: false,
            leaf,
            partial: item.place.partial,
            raw_len: chunk.bytes().len() as u32,
            payload_len: payload.len() as u32,
        };
        let writer = self.writer()?;
        let number = writer.number();
        let near = newer.map(Version::base).filter(|base| base.place.file == number);
        let difference = near.and_then(|newer| difference(item, chunk, newer));
        let mut frame = match (difference, near) {
            (Some((is_patch, payload)), Some(newer)) => {
                let offset = writer.next_offset() - newer.place.offset;
                let len = newer.place.len;
                let encoding = match is_patch {
                    true => Encoding::Patch { file: 0, offset, len },
                    false => Encoding::Delta { file: 0, offset, len },
                };
                (header(encoding, newer.place.step + 1, &payload), payload)
            }
            _ => {
                let (encoding, payload) = self.whole(item, chunk)?;
                (header(encoding, 0, &payload), payload)
            }
        };
        let writer = self.writer()?;
        if !writer.is_empty() && !writer.has_room(frame.1.len() + frame::HEADER_BYTES_MAX) {
            self.end_table()?;
            if frame.0.step > 0 {
                let (encoding, payload) = self.whole(item, chunk)?;
                frame = (header(encoding, 0, &payload), payload);
            }
        }
        debug_assert!(frame.0.step == 0 || self.writer()?.number() == number);
        self.done.chunks += 1;
        self.writer()?.put(item.hash, &frame.0, &frame.1)
    }

    /// The chunk by itself.
    fn whole(&self, item: &Item, chunk: &Chunk) -> Result<(Encoding, Vec<u8>)> {
        if let Some(kept) = self.kept(item)? {
            return Ok(kept);
        }
        let bytes = chunk.bytes();
        let is_leaf = chunk.child_count() == 0;
        let dictionary = self.dictionary.as_ref().filter(|_| is_leaf);
        let compressed = match (self.job.compression, dictionary) {
            (Compression::None, _) => None,
            (Compression::Fast, _) => frame::compress(bytes, FAST_LEVEL),
            (Compression::Dense, None) => frame::compress(bytes, DENSE_LEVEL),
            (Compression::Dense, Some(dictionary)) => {
                let zipped = frame::compress_with(bytes, dictionary);
                return Ok(match zipped.filter(|zipped| is_worth(zipped, bytes)) {
                    Some(zipped) => (Encoding::ZstdDictionary, zipped),
                    None => (Encoding::Raw, bytes.to_vec()),
                });
            }
        };
        Ok(match compressed.filter(|zipped| is_worth(zipped, bytes)) {
            Some(zipped) => (Encoding::Zstd, zipped),
            None => (Encoding::Raw, bytes.to_vec()),
        })
    }

    /// The payload as it is, if it is compressed as it would be now.
    fn kept(&self, item: &Item) -> Result<Option<(Encoding, Vec<u8>)>> {
        let Some(table) = self.job.view.tables.get(&item.place.file).filter(|_| item.place.step == 0) else {
            return Ok(None);
        };
        let same_dictionary = match (&table.dictionary, &self.dictionary) {
            (Some(theirs), Some(ours)) => theirs.bytes() == ours.bytes(),
            _ => false,
        };
        let source = self.job.view.read_frame(item.place).map_err(|error| self.job.tell(error, item))?;
        let (header, payload) =
            frame::parse(&source.bytes).map_err(|error| self.job.tell(error.into(), item))?;
        let as_now = match (self.job.compression, header.encoding) {
            (Compression::Fast, Encoding::Zstd) => true,
            (Compression::Dense, Encoding::ZstdDictionary) => same_dictionary,
            _ => false,
        };
        Ok(as_now.then(|| (header.encoding, payload.to_vec())))
    }

    fn writer(&mut self) -> Result<&mut Writer> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => {
                let job = self.job;
                let dictionary = self.dictionary.as_ref().map_or(&[][..], |dictionary| dictionary.bytes());
                Writer::create(job.io, (job.take_number)(), &job.store, dictionary, job.table_bytes_max)?
            }
        };
        Ok(self.writer.insert(writer))
    }

    /// Ends the table being written, if there is one with chunks in it.
    fn end_table(&mut self) -> Result<()> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let number = writer.number();
        let first = self.done.tables.first().map_or(number, |first| first.number);
        let run = self.job.run.unwrap_or(first);
        match writer.finish(self.job.newest, self.job.tier, run, self.job.plant) {
            Ok(listed) => {
                self.done.tables.push(listed);
                Ok(())
            }
            Err(error) => {
                let _ = self.job.io.remove(&table::file_name(number));
                Err(error)
            }
        }
    }
}

/// Compressing must save an eighth, or reading is not worth the decoding.
fn is_worth(zipped: &[u8], bytes: &[u8]) -> bool {
    zipped.len() < bytes.len() / 8 * 7
}

/// The payload of the difference from a newer version, if it is short, and whether it is a patch.
fn difference(item: &Item, chunk: &Chunk, newer: &Version) -> Option<(bool, Vec<u8>)> {
    let (bytes, base) = (chunk.bytes(), newer.chunk.bytes());
    // What leads from the one to the other leads back.
    let patched =
        newer.patched.as_ref().filter(|patched| patched.base == (item.place.file, item.place.offset));
    let kept = patched.and_then(|patched| patch::kept_by(&patched.payload, bytes.len()));
    let patched = match kept {
        Some(kept) => patch::keeping(bytes, base, kept.into_iter().map(Kept::turned)),
        None => patch::make(bytes, base),
    };
    // A patch that is a tenth of the chunk or less can hardly be bettered.
    if patched.as_ref().is_some_and(|patched| patched.len() <= bytes.len() / 10) {
        return patched.map(|patched| (true, patched));
    }
    let zipped = frame::delta(bytes, base);
    match (patched, zipped) {
        (Some(patched), Some(zipped)) if patched.len() <= zipped.len() => Some((true, patched)),
        (_, Some(zipped)) => Some((false, zipped)),
        (Some(patched), None) => Some((true, patched)),
        (None, None) => None,
    }
    .filter(|(_, payload)| payload.len() < bytes.len() / 2)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::store::maintenance::Inputs;
    use crate::{Batch, Options, Outcome, Store};

    #[test]
    fn a_frame_that_does_not_fit_begins_another_table() {
        const TABLE_BYTES_MAX: u64 = 3000;
        let options = Options { cache_bytes: 0, background: false, ..Options::default() };
        let store = Store::memory(options);
        let version = |number: u32, version: u32| {
            let words = (0..40_u32).map(|word| {
                *Hash::of(&[number, word * u32::from(word != version)].map(u32::to_le_bytes).concat())
                    .as_bytes()
            });
            Chunk::build(1, 0, &words.flatten().collect::<Vec<u8>>(), None, &[], 0)
        };
        let mut chunks = Vec::new();
        for number in 0..4 {
            let mut batch = Batch::default();
            let mut base = None;
            for chunk in (1..20).map(|changed| version(number, changed)) {
                batch.put(chunk.clone(), base.replace(*chunk.hash()));
                chunks.push(chunk);
            }
            let Outcome::Appended(ticket) = store.append(batch, &[]).unwrap() else { panic!("moved") };
            ticket.wait().unwrap();
        }
        let shared = &store.shared;
        shared.rotate(true).unwrap();
        let take_number = || shared.manifest.lock().take_number();
        let job = Job {
            io: &*shared.io,
            index: &shared.index,
            view: shared.view.load_full(),
            store: shared.manifest.lock().store,
            compression: Compression::None,
            newest: 1,
            tier: 0,
            run: None,
            table_bytes_max: TABLE_BYTES_MAX,
            take_number: &take_number,
            check: &|| Ok(()),
            budget: &shared.budget,
            observer: None,
            plant: None,
        };
        let inputs = Inputs { journals: [1].into(), tables: BTreeSet::new() };
        let rewrite = job.run(&inputs.journals, &inputs.tables, &|_| true, Pace::full()).unwrap();
        let lens: Vec<u64> = rewrite.tables.iter().map(|table| table.len).collect();
        assert!(lens.len() > 3 && lens.iter().all(|len| *len <= TABLE_BYTES_MAX), "{lens:?}");
        assert!(
            lens[..lens.len() - 1].iter().all(|len| *len > TABLE_BYTES_MAX / 3),
            "none is begun too early: {lens:?}"
        );
        assert!(rewrite.tables.iter().all(|table| table.run == rewrite.tables[0].number), "one run");
        shared.replace(&inputs, rewrite, None).unwrap();
        for chunk in &chunks {
            assert_eq!(store.get(chunk.hash()).unwrap().unwrap().bytes(), chunk.bytes());
        }
    }
}
