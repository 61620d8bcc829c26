//! The store: a durable set of chunks and one chain of roots. The crate's door.
//!
//! One idea: a chunk never changes, so reading needs no lock that is held while anything is read from disk; only appends stand in line
//! ([`append`]), and only for as long as one write takes. Opening is in [`recovery`], waiting for the disk in [`sync`].
//!
//! Invariants:
//! 1. A [`Chunk`] leaves the store only after its hash was checked since its file was opened, or was computed here.
//! 2. Absent is `None`; unreadable is an error.
//! 3. [`Store::get_ref`] and [`Store::refs`] show durable refs only (under [`Durability::Eventual`]: appended ones).
//!
//! **Whoever appends keeps this one**: a chunk in the store implies that its strong children are. Append children before or with parents. In a
//! partial store ([`promised`]) a chunk that says so may be without some of them.

mod append;
mod collection;
mod compaction;
mod difference;
mod maintenance;
mod pins;
mod promised;
mod reader;
mod recovery;
mod scratch;
mod sync;
mod view;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::{Condvar, Mutex, RwLock};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::budget::Budget;
use crate::cancel::Cancel;
use crate::chunk::Chunk;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::index::{Index, Uniformly};
use crate::io::Io;
use crate::io::disk::Disk;
use crate::io::memory::Memory;
use crate::lock::Lock;
use crate::manifest::Manifest;
use crate::progress::{Meter, Observer};
use crate::refs::{self, Recent};
use crate::stats::{Counters, Stats, count};
use crate::testing::Plant;
use crate::watermark::Watermark;
use crate::{journal, table};
use view::View;

pub use append::Outcome;
pub use pins::Hold;
pub use promised::Source;
pub use scratch::Scratch;
pub use sync::Ticket;
pub use view::Stored;

/// When an append is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// [`Ticket::wait`] returns when the append is on disk. An acknowledged append survives any crash.
    Full,
    /// [`Ticket::wait`] returns at once, refs show at once, and the disk follows after `interval` at the latest. A crash may take the
    /// appends of the last `interval`: the last ones, whole, and nothing else.
    Eventual {
        /// Longest time between an append and its sync.
        interval: Duration,
    },
}

/// How hard compaction compresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Chunks are kept as they are, or as their difference from another version.
    None,
    /// zstd at a low level.
    Fast,
    /// zstd at a high level, with a dictionary trained on leaves.
    Dense,
}

/// How often a chunk that lies in a table is hashed. Chunks in journals are hashed whenever they are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// When it is first loaded since the store was opened.
    Once,
    /// Whenever it is loaded.
    Always,
}

/// What a compaction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compacted {
    /// Files read, and no longer needed.
    pub files_before: u64,
    /// Files written.
    pub files_after: u64,
    /// Bytes of the files read.
    pub bytes_before: u64,
    /// Bytes of the files written.
    pub bytes_after: u64,
    /// Chunks copied.
    pub chunks: u64,
}

/// What a collection found and did; a dry run only finds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// Chunks that a root leads to.
    pub live_chunks: u64,
    /// Chunks that no root leads to.
    pub dead_chunks: u64,
    /// Bytes of the store's files before.
    pub bytes_before: u64,
    /// Bytes of the store's files after.
    pub bytes_after: u64,
    /// Files rewritten.
    pub files_rewritten: u64,
}

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of chunks to keep in memory.
    pub cache_bytes: u64,
    /// Bytes that those who work through this store may hold in memory beside the cache, all together: edits of transactions, rows being sorted, entries of
    /// indexes on their way, what a merge plans to do. Each leases what it holds ([`Store::lease`]), gets no more than it leaves free, and writes or applies what it has
    /// when it gets no more.
    pub work_bytes: u64,
    /// When an append is acknowledged.
    pub durability: Durability,
    /// Whether chunks are kept as their difference from an earlier version where that is shorter.
    pub delta: bool,
    /// Length, in bytes, at which a journal is sealed and another one begun.
    pub journal_bytes: u64,
    /// How hard compaction compresses.
    pub compression: Compression,
    /// How often a chunk that lies in a table is hashed.
    pub verify: Verify,
    /// Whether sealed journals are compacted by a thread of the store's own.
    pub background: bool,
    /// A fault planted by a test.
    #[doc(hidden)]
    pub plant: Option<Plant>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            cache_bytes: 256 << 20,
            work_bytes: 256 << 20,
            durability: Durability::Full,
            delta: true,
            journal_bytes: 64 << 20,
            compression: Compression::Fast,
            verify: Verify::Once,
            background: true,
            plant: None,
        }
    }
}

impl Options {
    /// The options with which a store, and all who work through it, keep about `bytes` in memory: half for chunks that were read, three eighths for work under
    /// way ([`Options::work_bytes`]), and one eighth for what is on its way to the disk or to a peer: batches and messages, which are bounded one by one.
    ///
    /// Not in it is what grows with the data: where each chunk lies, 12 bytes a chunk in tables and about 100 in journals, the refs, and what a compaction or a
    /// collection notes of each chunk while it runs.
    ///
    /// ```
    /// let options = pleach_chunkstore::Options::with_memory(64 << 20);
    /// assert_eq!((options.cache_bytes, options.work_bytes), (32 << 20, 24 << 20));
    /// ```
    pub fn with_memory(bytes: u64) -> Options {
        Options { cache_bytes: bytes / 2, work_bytes: bytes / 8 * 3, ..Options::default() }
    }
}

/// A store, open for reading and writing. Cloning shares it; when the last clone and the last [`Ticket`] are dropped it is closed.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    /// What this handle keeps from collection.
    _pin: Option<Arc<pins::Pin>>,
    /// What ends the calls of this handle.
    cancel: Option<Cancel>,
    /// Who is told how far they are.
    observer: Option<Observer>,
}

/// Called with the sequence of the last durable root record, until it breaks off.
type Watcher = Arc<dyn Fn(u64) -> ControlFlow<()> + Send + Sync>;

/// What the clones of a store share. Locks are taken in the order: maintenance, turn, manifest, appender, any other.
struct Shared {
    io: Arc<dyn Io>,
    options: Options,
    index: Index,
    cache: Cache<Hash, Chunk, ByBytes, Uniformly>,
    budget: Arc<Budget>,
    view: ArcSwap<View>,
    manifest: Mutex<Manifest>,
    /// One more whenever what a group was prepared by no longer holds. Changed under the appender's lock.
    generation: AtomicU64,
    /// Appends that began anew since files changed beside them; see `append`.
    outrun: AtomicU64,
    collecting: Mutex<Option<collection::Collecting>>,
    /// Told when a collection has marked some.
    marked: Condvar,
    /// Whether there is a collection: looked at before `collecting` is locked.
    is_collecting: AtomicBool,
    maintenance: maintenance::Maintenance,
    appender: Mutex<append::Appender>,
    turn: Mutex<sync::Turn>,
    turned: Condvar,
    durable: RwLock<Durable>,
    watchers: Mutex<Vec<Watcher>>,
    pins: Mutex<pins::Pins>,
    promised: promised::Promised,
    watermark: Mutex<Option<Watermark>>,
    /// The first failure after which nothing more may be written.
    poison: OnceLock<String>,
    lock: Mutex<Option<Lock>>,
    /// How far the writer was followed, if this store only reads.
    follower: Option<Mutex<reader::Follower>>,
    /// Told when the store is closed, so that the syncing thread of an eventual store ends.
    closing: Arc<(Mutex<bool>, Condvar)>,
    counters: Arc<Counters>,
}

/// A sequence, and what refs name then, by name; `None`: there is no such ref any more.
pub type RefsSince = (u64, Vec<(String, Option<Hash>)>);

/// What readers may see.
struct Durable {
    refs: BTreeMap<String, Hash>,
    sequence: u64,
    recent: Recent,
}

impl Durable {
    fn new(refs: BTreeMap<String, Hash>, sequence: u64) -> Durable {
        Durable { refs, sequence, recent: Recent::since(sequence) }
    }
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Hash, Chunk> for ByBytes {
    fn weight(&self, _: &Hash, chunk: &Chunk) -> u64 {
        // What it remembers of its children included.
        (chunk.bytes().len() + 160 + 8 * chunk.child_count()) as u64
    }
}

impl Store {
    /// Makes a store in `dir`, which is made if need be, and opens it.
    pub fn create(dir: &Path, options: Options) -> Result<Store> {
        let disk = Disk::create_dir(dir).map_err(Error::io("create", &dir.display().to_string()))?;
        Store::create_with_io(Arc::new(disk), options)
    }

    /// Opens the store in `dir` and takes its lock.
    pub fn open(dir: &Path, options: Options) -> Result<Store> {
        Store::open_with_io(Arc::new(Disk::new(dir)), options)
    }

    /// Opens the store in `dir` to read, beside whoever writes it, without its lock. It shows what was durable when it was opened, and what
    /// has become so since after each [`Store::refresh`]. What it shows stays readable, whatever the writer compacts or collects.
    pub fn open_to_read(dir: &Path, options: Options) -> Result<Store> {
        Store::open_to_read_with_io(Arc::new(Disk::new(dir)), options)
    }

    /// [`Store::open_to_read`] in a directory of any kind.
    pub fn open_to_read_with_io(io: Arc<dyn Io>, options: Options) -> Result<Store> {
        reader::open(io, options)
    }

    /// A store that lives in memory and dies with it: the same code, on files in memory.
    pub fn memory(options: Options) -> Store {
        match Store::create_with_io(Arc::new(Memory::default()), options) {
            Ok(store) => store,
            Err(error) => unreachable!("an empty directory in memory takes a store: {error}"),
        }
    }

    /// [`Store::create`] in a directory of any kind.
    pub fn create_with_io(io: Arc<dyn Io>, options: Options) -> Result<Store> {
        recovery::create(io, options)
    }

    /// [`Store::open`] in a directory of any kind.
    pub fn open_with_io(io: Arc<dyn Io>, options: Options) -> Result<Store> {
        recovery::open(io, options)
    }

    /// This store, by a handle whose calls end with [`Error::Cancelled`] soon after `cancel` is set, and so do those of all handles made from it. It
    /// takes the place of the flag that this handle has. Collections and compactions look at it all along.
    pub fn cancellable(&self, cancel: &Cancel) -> Store {
        Store { cancel: Some(cancel.clone()), ..self.clone() }
    }

    /// The flag of this handle, if it has one.
    pub fn cancel(&self) -> Option<&Cancel> {
        self.cancel.as_ref()
    }

    /// Fails if this handle was cancelled. For long work that reads no chunk.
    pub fn check_cancelled(&self) -> Result<()> {
        self.cancel.as_ref().map_or(Ok(()), Cancel::check)
    }

    /// This store, by a handle whose calls tell `observer` how far they are, and so do those of all handles made from it. It takes the place of the one
    /// that this handle has.
    pub fn observed(&self, observer: &Observer) -> Store {
        Store { observer: Some(observer.clone()), ..self.clone() }
    }

    /// Whether this handle tells anybody how far its calls are.
    pub fn is_observed(&self) -> bool {
        self.observer.is_some()
    }

    /// This store, by a handle that tells nobody.
    pub fn unobserved(&self) -> Store {
        Store { observer: None, ..self.clone() }
    }

    /// A meter of a task of this handle's: what it does and what it counts, and how many there are, if that is known.
    pub fn meter(&self, task: &'static str, unit: &'static str, total: Option<u64>) -> Meter {
        Meter::new(self.observer.as_ref(), task, unit, total)
    }

    /// The chunk with this hash; `None` if the store does not have it. What a partial store lacks is asked of its source, and `None` if that does
    /// not have it.
    ///
    /// # Errors
    /// [`Error::NotLocal`], [`Error::SourceFailed`] in a partial store; those of reading.
    pub fn get(&self, hash: &Hash) -> Result<Option<Chunk>> {
        match self.local(hash)? {
            None if self.is_partial() => self.fetch(*hash, Vec::new()),
            found => Ok(found),
        }
    }

    /// The chunk with this hash, if it is in the store: as [`Store::get`], but no source is asked.
    pub fn local(&self, hash: &Hash) -> Result<Option<Chunk>> {
        self.check_cancelled()?;
        self.shared.get(hash)
    }

    /// The chunk as it lies in a table, if it has no strong children, and is no difference and needs no dictionary: for whoever passes it on to one who checks it. It is neither
    /// hashed nor kept in memory. `None` if it lies otherwise, or is not here.
    pub fn stored(&self, hash: &Hash) -> Result<Option<Stored>> {
        self.check_cancelled()?;
        self.shared.stored(hash)
    }

    /// How many bytes the chunk takes in its file; `None` if it is not here.
    pub fn bytes_of(&self, hash: &Hash) -> Result<Option<u64>> {
        self.check_cancelled()?;
        Ok(self.shared.locate(hash)?.map(|(found, _)| u64::from(found.place.len)))
    }

    /// The child of `parent`, a chunk of this store, at `index` of [`Chunk::children`]; `None` if the store does not have it. A parent that is in
    /// memory remembers where its children are, so that a path that is often walked costs no lookup. What a partial store lacks is asked of its
    /// source, together with what comes after it if children are read in order.
    ///
    /// # Errors
    /// As those of [`Store::get`].
    pub fn child(&self, parent: &Chunk, index: usize) -> Result<Option<Chunk>> {
        self.check_cancelled()?;
        let near = parent.near(index);
        // Now and then the cache is to learn that the child is in use.
        if near.is_some() && !is_lookup_due() {
            count(&self.shared.counters.cache_hits, 1);
            return Ok(near);
        }
        let Some(hash) = parent.child(index) else { return Ok(None) };
        let child = match self.shared.get(&hash)? {
            None if self.is_partial() => self.fetch_child(parent, index, hash)?,
            found => found,
        };
        if let (Some(child), None) = (&child, near) {
            parent.note_near(index, child);
        }
        Ok(child)
    }

    /// Whether the store has the chunk. No source is asked.
    pub fn contains(&self, hash: &Hash) -> bool {
        // What cannot be looked up is not absent: reading it will tell why.
        self.shared.has(hash).unwrap_or(true)
    }

    /// What a durable ref names.
    pub fn get_ref(&self, name: &str) -> Option<Hash> {
        self.shared.durable.read().refs.get(name).copied()
    }

    /// The durable refs whose names begin with `prefix`, by name.
    pub fn refs(&self, prefix: &str) -> Vec<(String, Hash)> {
        refs::with_prefix(&self.shared.durable.read().refs, prefix)
    }

    /// What each durable ref that changed after the state with `sequence` names now, by name, and the sequence of this state; `None` if
    /// which these are is not remembered: `sequence` is long ago, or from before this store was opened. The cost is what changed.
    pub fn refs_since(&self, sequence: u64) -> Option<RefsSince> {
        let durable = self.shared.durable.read();
        let changed = durable.recent.after(sequence).filter(|_| sequence <= durable.sequence)?;
        let named = |name: &str| (name.to_owned(), durable.refs.get(name).copied());
        Some((durable.sequence, changed.into_iter().map(named).collect()))
    }

    /// The durable refs of several stores, all as they are at one moment: while they are looked at, none of them shows a change.
    pub fn refs_at_one_moment(stores: &[&Store]) -> Vec<BTreeMap<String, Hash>> {
        let place = |store: &Store| Arc::as_ptr(&store.shared) as usize;
        // Each once, and in one order: two who do this must not each wait, behind a writer, for what the other holds.
        let each: BTreeMap<usize, &Store> = stores.iter().map(|store| (place(store), *store)).collect();
        let held: BTreeMap<usize, _> =
            each.into_iter().map(|(place, store)| (place, store.shared.durable.read())).collect();
        stores.iter().map(|store| held[&place(store)].refs.clone()).collect()
    }

    /// Sequence of the last durable root record; 0 before the first.
    pub fn sequence(&self) -> u64 {
        self.shared.durable.read().sequence
    }

    /// Has the next change be numbered `least` or above: what takes up where another copy was keeps to the numbers that it gave.
    pub fn raise_sequence(&self, least: u64) {
        let mut appender = self.shared.appender.lock();
        appender.sequence = appender.sequence.max(least.saturating_sub(1));
    }

    /// What a ref names once everything appended is durable: for whoever appends next, not for readers.
    pub fn appended_ref(&self, name: &str) -> Option<Hash> {
        self.shared.appender.lock().refs.get(name).copied()
    }

    /// As [`Store::refs`], once everything appended is durable.
    pub fn appended_refs(&self, prefix: &str) -> Vec<(String, Hash)> {
        refs::with_prefix(&self.shared.appender.lock().refs, prefix)
    }

    /// Calls `f` with the durable sequence each time after refs became durable, until it breaks off. It must not block, nor wait for this
    /// store. Under [`Durability::Eventual`] concurrent appends may call it out of order.
    pub fn watch(&self, f: Box<dyn Fn(u64) -> ControlFlow<()> + Send + Sync>) {
        self.shared.watchers.lock().push(Arc::from(f));
    }

    /// What the store holds, and what it did since it was opened.
    pub fn stats(&self) -> Stats {
        let manifest = self.shared.manifest.lock();
        let active = self.shared.appender.lock().end;
        self.stats_of(&manifest, active)
    }

    /// [`Store::stats`], unless it would have to wait for longer: the disk may be what is waited for.
    pub fn stats_before(&self, deadline: Instant) -> Option<Stats> {
        let manifest = self.shared.manifest.try_lock_until(deadline)?;
        let active = self.shared.appender.try_lock_until(deadline)?.end;
        Some(self.stats_of(&manifest, active))
    }

    fn stats_of(&self, manifest: &Manifest, active: u64) -> Stats {
        let shared = &self.shared;
        let mut stats = shared.counters.stats();
        let view = shared.view.load();
        stats.chunks = shared.index.len() + view.lookup.len();
        stats.cache_bytes = shared.cache.weight();
        {
            let durable = shared.durable.read();
            (stats.sequence, stats.refs) = (durable.sequence, durable.refs.len() as u64);
        }
        [stats.leased_bytes, stats.leased_bytes_most] = shared.budget.leased();
        shared.pins.lock().count(&mut stats);
        stats.journals = manifest.sealed.len() as u64 + 1;
        let sealed: u64 = manifest.sealed.iter().map(|sealed| sealed.end + sealed.index_len).sum();
        stats.journal_bytes = sealed + active;
        stats.tables = manifest.tables.len() as u64;
        let held = manifest.sealed.iter().filter(|sealed| sealed.held).count();
        stats.held_files = (held + view.held.len()) as u64;
        stats.lookup_bytes = view.lookup.bytes();
        stats.table_bytes = manifest.tables.iter().map(|table| table.len).sum();
        stats
    }

    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.shared.budget
    }

    /// Why nothing may be written any more until the store is opened again, if so.
    pub fn poisoned(&self) -> Option<&str> {
        self.shared.poison.get().map(String::as_str)
    }

    /// How it was opened.
    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    /// The store's identity: random, made with it, in every file of it.
    pub fn id(&self) -> [u8; 16] {
        self.shared.manifest.lock().store
    }

    /// As [`Store::get`], but from the file, whatever the cache holds.
    pub(crate) fn read_anew(&self, hash: &Hash) -> Result<Option<Chunk>> {
        self.check_cancelled()?;
        self.shared.load(hash, true)
    }

    /// What to call the store's directory in messages.
    pub(crate) fn dir(&self) -> String {
        self.shared.io.place()
    }

    /// The number of the file that holds the chunk, and the offset of its frame.
    pub(crate) fn place(&self, hash: &Hash) -> Result<Option<(u32, u32)>> {
        let located = self.shared.locate(hash)?;
        Ok(located.map(|(found, _)| (found.place.file, found.place.offset)))
    }

    /// The name of the file with this number.
    pub(crate) fn file_name(&self, number: u32) -> String {
        match self.shared.view.load().tables.contains_key(&number) {
            true => table::file_name(number),
            false => journal::file_name(number),
        }
    }

    /// The addresses of all chunks, in no order.
    pub fn hashes(&self) -> Result<Vec<Hash>> {
        let mut hashes = self.shared.index.hashes();
        self.shared.view.load().lookup.for_each(|hash, _| {
            if self.shared.index.get(&hash).is_none() {
                hashes.push(hash);
            }
            Ok(())
        })?;
        Ok(hashes)
    }

    /// Makes everything durable and gives the lock back. Other clones can still read.
    pub fn close(self) -> Result<()> {
        self.shared.close()
    }
}

/// Whether this thread has walked to so many children without asking the cache that it should.
fn is_lookup_due() -> bool {
    const EVERY: u32 = 16;
    thread_local! {
        static WALKED: Cell<u32> = const { Cell::new(0) };
    }
    WALKED.with(|walked| {
        walked.set(walked.get().wrapping_add(1));
        walked.get().is_multiple_of(EVERY)
    })
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Whoever wants to know of a failure calls `close`.
        let _ = self.close();
    }
}

impl Shared {
    fn get(&self, hash: &Hash) -> Result<Option<Chunk>> {
        if let Some(chunk) = self.cache.get(hash) {
            count(&self.counters.cache_hits, 1);
            return Ok(Some(chunk));
        }
        count(&self.counters.cache_misses, 1);
        let Some(chunk) = self.load(hash, self.options.verify == Verify::Always)? else { return Ok(None) };
        self.cache.insert(*hash, chunk.clone());
        Ok(Some(chunk))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn figures_are_not_waited_for_longer_than_is_said() {
        let store = Store::memory(Options::default());
        assert_eq!(store.stats_before(Instant::now()), Some(store.stats()));
        let appending = store.shared.appender.lock();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| store.stats_before(Instant::now() + Duration::from_millis(5)));
            assert_eq!(other.join().unwrap(), None);
        });
        drop(appending);
        assert!(store.stats_before(Instant::now()).is_some());
        assert_eq!(store.poisoned(), None);
    }
}
