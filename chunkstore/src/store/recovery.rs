//! Making and opening a store.
//!
//! One idea: opening reads what the manifest lists and nothing else decides; what a crash left is either the torn tail of the active
//! journal, or a file that no manifest lists, which is not part of the store. Opening changes neither, so that it can be done again after
//! another crash, and on a full disk. The first append cuts a torn tail by sealing the journal before it.

use std::collections::{BTreeSet, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use parking_lot::{Condvar, Mutex, RwLock};
use quick_cache::sync::Cache;

use super::append::{Appender, Begun};
use super::maintenance::Maintenance;
use super::promised::Promised;
use super::reader::Follower;
use super::sync::{Turn, sync_every};
use super::view::View;
use super::{ByBytes, Durability, Durable, Options, Shared, Store};
use crate::budget::Budget;
use crate::error::{Error, Result};
use crate::frame::Location;
use crate::hash::Hash;
use crate::index::{Index, Uniformly};
use crate::io::{Counted, Io};
use crate::journal::replay::{Expect, Replay, replay};
use crate::journal::{self, Journal, StoreId, seal};
use crate::lock::Lock;
use crate::manifest::{self, Manifest, Sealed};
use crate::refs;
use crate::stats::Counters;
use crate::table::hidden::{self, HiddenChunks};
use crate::table::{self, Table};
use crate::watermark::{Mark, Watermark};

/// What lies in the directory.
enum Found {
    Store(Manifest),
    /// Nothing, or what an interrupted creation left.
    Nothing,
}

fn look(io: &dyn Io) -> Result<Found> {
    if let Some(manifest) = Manifest::read(io, manifest::FILE)? {
        return Ok(Found::Store(manifest));
    }
    let names = io.list().map_err(Error::io("list", "the directory"))?;
    let missing =
        |beside: &str| Error::damaged(manifest::FILE, 0, format!("the manifest is missing beside {beside}"));
    // A creation makes no table, and nothing is hidden in one.
    let tables = |name: &&String| table::number_of(name).or(hidden::number_of(name)).is_some();
    if let Some(name) = names.iter().find(tables) {
        return Err(missing(name));
    }
    let Some(journal) = names.iter().find(|name| journal::number_of(name).is_some()) else {
        return Ok(Found::Nothing);
    };
    // A creation makes its manifest, under the temporary name, durable before its journal.
    match Manifest::read(io, manifest::NEW_FILE) {
        Ok(Some(new)) if new.generation == 1 => Ok(Found::Nothing),
        _ => Err(missing(journal)),
    }
}

/// Removes what an interrupted creation left, so that another crash cannot make it look like a store without its manifest.
fn remove_leftovers(io: &dyn Io) -> Result<()> {
    let names = io.list().map_err(Error::io("list", "the directory"))?;
    let journals: Vec<_> = names.iter().filter(|name| journal::number_of(name).is_some()).collect();
    for name in &journals {
        io.remove(name).map_err(Error::io("remove", name))?;
    }
    match journals.is_empty() {
        true => Ok(()),
        false => io.sync_dir().map_err(Error::io("sync", "the directory")),
    }
}

pub(super) fn create(io: Arc<dyn Io>, options: Options) -> Result<Store> {
    let counters = Arc::new(Counters::default());
    let io: Arc<dyn Io> = Arc::new(Counted { io, counters: counters.clone() });
    let lock = Lock::take(&*io)?;
    match look(&*io) {
        Ok(Found::Nothing) => {}
        Ok(Found::Store(_)) | Err(Error::Damaged { .. } | Error::Version { .. }) => {
            return Err(Error::AlreadyExists { dir: io.place() });
        }
        Err(error) => return Err(error),
    }
    remove_leftovers(&*io)?;
    let manifest = Manifest::first(new_store_id());
    let watermark = Watermark::create(&*io, manifest.store)?;
    let begun = Begun::write(&*io, &manifest, &Default::default(), 0)?;
    Manifest::replace(&*io)?;
    let opening = Opening::new(io, options, counters, lock, Some(watermark));
    opening.finish(manifest, begun.into_end(), None)
}

pub(super) fn open(io: Arc<dyn Io>, options: Options) -> Result<Store> {
    let counters = Arc::new(Counters::default());
    let io: Arc<dyn Io> = Arc::new(Counted { io, counters: counters.clone() });
    // Looked for before the lock is taken, so that no lock file is left where no store is; read again under the lock.
    if matches!(look(&*io)?, Found::Nothing) {
        return Err(Error::NotFound { dir: io.place() });
    }
    let lock = Lock::take(&*io)?;
    let Found::Store(manifest) = look(&*io)? else {
        return Err(Error::NotFound { dir: io.place() });
    };
    let watermark = Watermark::open(&*io, manifest.store)?;
    let mut opening = Opening::new(io, options, counters, lock, Some(watermark));
    opening.check_newer(&manifest)?;
    opening.load_tables(&manifest)?;
    for sealed in &manifest.sealed {
        opening.load_sealed(&manifest.store, sealed)?;
    }
    let end = opening.load_active(&manifest)?;
    opening.finish(manifest, end, None)
}

/// A store being opened.
pub(super) struct Opening {
    io: Arc<dyn Io>,
    options: Options,
    counters: Arc<Counters>,
    lock: Lock,
    /// None, if the store only reads.
    watermark: Option<Watermark>,
    index: Index,
    view: View,
    /// Journals with differences from chunks in other files.
    crossing: BTreeSet<u32>,
}

/// The end of the active journal: where appending goes on.
pub(super) struct End {
    pub(super) journal: Arc<Journal>,
    pub(super) replay: Replay,
}

impl Begun {
    fn into_end(self) -> End {
        let replay = Replay {
            start: self.end,
            end: self.end,
            file_len: self.end,
            check: self.check,
            sequence: 0,
            groups: 1,
            entries: Vec::new(),
            refs: Default::default(),
        };
        End { journal: Arc::new(self.journal), replay }
    }
}

/// Writes the same bytes once more, so that the next sync brings them to the disk. After a sync that failed in an earlier process, the
/// operating system may hold them as clean pages that no sync would write.
fn write_anew(journal: &Journal, from: u64, to: u64) -> Result<()> {
    const PIECE_BYTES: u64 = 1 << 20;
    let mut offset = from.min(to);
    while offset < to {
        let bytes = journal.read(offset, (to - offset).min(PIECE_BYTES) as usize)?;
        match journal.file.write_at(&bytes, offset) {
            Ok(()) => {}
            // A full disk that copies on write: what is there stays as it is, and is synced as it is.
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(Error::io("write", &journal.name)(error)),
        }
        offset += bytes.len() as u64;
    }
    Ok(())
}

impl Opening {
    fn new(
        io: Arc<dyn Io>,
        options: Options,
        counters: Arc<Counters>,
        lock: Lock,
        watermark: Option<Watermark>,
    ) -> Opening {
        let (index, view, crossing) = (Index::new(), View::default(), BTreeSet::new());
        Opening { io, options, counters, lock, watermark, index, view, crossing }
    }

    /// The opening of a store that only reads.
    pub(super) fn to_read(io: Arc<dyn Io>, options: Options, counters: Arc<Counters>) -> Result<Opening> {
        let lock = Lock::take(&*io)?;
        Ok(Opening::new(io, options, counters, lock, None))
    }

    /// What was found in sealed journals and tables.
    pub(super) fn into_parts(self) -> (Index, View) {
        (self.index, self.view)
    }

    fn mark(&self) -> Option<Mark> {
        self.watermark.as_ref().and_then(Watermark::mark)
    }

    /// Refuses a manifest that is older than what lies beside it.
    fn check_newer(&self, manifest: &Manifest) -> Result<()> {
        let old = |what: String| Error::damaged(manifest::FILE, 0, what);
        if let Some(mark) = self.mark() {
            let ends = manifest.sealed.iter().find(|sealed| sealed.number == mark.number);
            if mark.number > manifest.active || ends.is_some_and(|sealed| mark.end > sealed.end) {
                let (number, end) = (mark.number, mark.end);
                return Err(old(format!(
                    "the manifest is older than journal {number}, durable up to byte {end}"
                )));
            }
        }
        for name in self.io.list().map_err(Error::io("list", "the directory"))? {
            let Some(number) = journal::number_of(&name).filter(|number| *number > manifest.active) else {
                continue;
            };
            // An interrupted seal leaves a journal with nothing but its checkpoint, or less. One that was in use has more.
            let used = Journal::open(&*self.io, number, &manifest.store)
                .and_then(|journal| replay(&journal, Expect::Active(0)))
                .is_ok_and(|replay| replay.groups > 1);
            if used {
                return Err(old(format!("the manifest is older than {name}, which was in use")));
            }
        }
        Ok(())
    }

    pub(super) fn load_tables(&mut self, manifest: &Manifest) -> Result<()> {
        let hidden = match &manifest.hidden {
            Some(entry) => hidden::read(&*self.io, entry, &manifest.store)?,
            None => HiddenChunks::new(),
        };
        for listed in &manifest.tables {
            let table = Table::open(&*self.io, listed, &manifest.store)?;
            if hidden.get(&listed.number).is_some_and(|bits| bits.len() != table.len()) {
                let what = "what is hidden in the table is not for as many chunks as it has";
                return Err(Error::damaged(&table.name, 0, what));
            }
            self.view.tables.insert(listed.number, Arc::new(table));
            if listed.held {
                self.view.held.insert(listed.number);
            }
        }
        self.view.hidden = Arc::new(hidden);
        self.view.index_tables()
    }

    pub(super) fn load_sealed(&mut self, store: &StoreId, sealed: &Sealed) -> Result<()> {
        let journal = Journal::open(&*self.io, sealed.number, store)?;
        let len = journal.file.len().map_err(Error::io("measure", &journal.name))?;
        if len < sealed.end {
            return Err(Error::damaged(&journal.name, len, "the journal is shorter than when it was sealed"));
        }
        if sealed.held {
            self.add(journal, &[]);
            return Ok(());
        }
        let index = match sealed.index_len {
            0 => None,
            index_len if sealed.end.checked_add(index_len).is_none_or(|end| end > len) => None,
            index_len if index_len > seal::bytes_max(sealed.end) => None,
            index_len => {
                let bytes = journal.read(sealed.end, index_len as usize)?;
                seal::decode(&bytes, journal.number, sealed.end, &journal.key)
            }
        };
        let entries = match index {
            Some(entries) => entries,
            None => replay(&journal, Expect::Sealed(sealed.end, sealed.check))?.entries,
        };
        self.add(journal, &entries);
        Ok(())
    }

    fn add(&mut self, journal: Journal, entries: &[(Hash, Location)]) {
        entries.iter().for_each(|(hash, location)| self.index.insert(*hash, *location));
        if entries.iter().any(|(_, place)| place.crossed) {
            self.crossing.insert(journal.number);
        }
        self.view.journals.insert(journal.number, Arc::new(journal));
    }

    /// Replays the active journal.
    fn load_active(&mut self, manifest: &Manifest) -> Result<End> {
        let journal = Journal::open(&*self.io, manifest.active, &manifest.store)?;
        let mark = self.mark().filter(|mark| mark.number == journal.number);
        let replay = replay(&journal, Expect::Active(mark.map_or(0, |mark| mark.end)))?;
        let sealed_sequence =
            manifest.sealed.iter().rfind(|sealed| !sealed.held).map_or(0, |sealed| sealed.sequence);
        if replay.sequence < sealed_sequence {
            let what = "the journal's sequence is less than the one before it";
            return Err(Error::damaged(&journal.name, replay.end, what));
        }
        if mark.is_none_or(|mark| mark.end != replay.end) {
            // What was read may be in the operating system's memory only: it must not be shown before it is durable.
            write_anew(&journal, mark.map_or(0, |mark| mark.end), replay.end)?;
            // And so may be the manifest's name.
            self.io.sync_dir().map_err(Error::io("sync the directory of", manifest::FILE))?;
            journal.file.sync_data().map_err(Error::io("sync", &journal.name))?;
            if let Some(watermark) = &mut self.watermark {
                let _ = watermark.write(Mark { number: journal.number, end: replay.end });
            }
        }
        Ok(End { journal: Arc::new(journal), replay })
    }

    pub(super) fn finish(
        mut self,
        manifest: Manifest,
        end: End,
        follower: Option<Follower>,
    ) -> Result<Store> {
        let End { journal, replay } = end;
        replay.entries.iter().for_each(|(hash, location)| self.index.insert(*hash, *location));
        self.view.journals.insert(journal.number, journal.clone());
        self.view.plant = self.options.plant;
        // In which files the deltas of a journal have bases is not kept: at worst in any, if there is one that crosses.
        let listed = manifest.sealed.iter().map(|sealed| sealed.number);
        let all: BTreeSet<u32> = listed.chain(manifest.tables.iter().map(|table| table.number)).collect();
        let bases_of = |crosses: bool| if crosses { all.clone() } else { BTreeSet::new() };
        let maintenance = Maintenance::default();
        for sealed in manifest.sealed.iter().filter(|sealed| !sealed.held) {
            maintenance.note_sealed(sealed.number, bases_of(self.crossing.contains(&sealed.number)));
        }
        let bases = bases_of(replay.entries.iter().any(|(_, place)| place.crossed));
        let appender = Appender {
            journal,
            start: replay.start,
            end: replay.end,
            check: replay.check,
            synced_end: replay.end,
            sequence: replay.sequence,
            refs: replay.refs.clone(),
            refs_bytes: refs::bytes(replay.refs.keys()),
            group: 0,
            pending: VecDeque::new(),
            entries: replay.entries,
            bases,
            // A torn tail: the first append seals the journal before it, and until then opening has written nothing.
            abandoned: replay.end < replay.file_len,
            closed: follower.is_some(),
        };
        let durability = self.options.durability;
        let items = usize::try_from(self.options.cache_bytes / 4096).unwrap_or(usize::MAX).clamp(64, 1 << 22);
        let cache = Cache::with(
            items,
            self.options.cache_bytes,
            ByBytes,
            Uniformly::default(),
            quick_cache::sync::DefaultLifecycle::default(),
        );
        let shared = Arc::new(Shared {
            io: self.io,
            budget: Arc::new(Budget::new(self.options.work_bytes)),
            options: self.options,
            index: self.index,
            cache,
            view: ArcSwap::from_pointee(self.view),
            manifest: Mutex::new(manifest),
            generation: AtomicU64::new(0),
            outrun: AtomicU64::new(0),
            collecting: Mutex::default(),
            marked: Condvar::new(),
            is_collecting: AtomicBool::new(false),
            maintenance,
            appender: Mutex::new(appender),
            turn: Mutex::new(Turn::default()),
            turned: Condvar::new(),
            durable: RwLock::new(Durable::new(replay.refs, replay.sequence)),
            watchers: Mutex::new(Vec::new()),
            pins: Mutex::default(),
            promised: Promised::default(),
            watermark: Mutex::new(self.watermark),
            poison: OnceLock::new(),
            lock: Mutex::new(Some(self.lock)),
            follower: follower.map(Mutex::new),
            closing: Arc::default(),
            counters: self.counters,
        });
        if let Durability::Eventual { interval } = durability {
            sync_every(interval, Arc::downgrade(&shared), shared.closing.clone())
                .map_err(Error::io("start the syncing thread of", "the store"))?;
        }
        Ok(Store { shared, _pin: None, cancel: None, observer: None })
    }
}

/// 16 bytes that no one can guess and no two stores share, from the operating system's random numbers by way of `std`.
fn new_store_id() -> StoreId {
    let mut hasher = blake3::Hasher::new();
    for _ in 0..4 {
        hasher.update(&RandomState::new().build_hasher().finish().to_le_bytes());
    }
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    hasher.update(&time.as_nanos().to_le_bytes()).update(&std::process::id().to_le_bytes());
    let mut id = [0; 16];
    hasher.finalize_xof().fill(&mut id);
    id
}
