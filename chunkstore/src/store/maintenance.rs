//! Keeping the files in order: when to compact, what to let go, and the thread that does so.
//!
//! One idea: sealed journals become a run of tables; sixteen runs of a tier become one of the next. So a chunk is rewritten a few times in its
//! life, and there are never many files. All of it happens beside reading and appending: only the manifest's replacement excludes sealing.
//!
//! A file that was rewritten is *held* while a journal has differences from chunks in it, and goes when that journal was compacted itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::compaction::{self, Pace, Rewrite};
use super::view::{Found, View};
use super::{Compacted, Shared, Store, scratch};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::manifest::{Hidden, Listed, Manifest};
use crate::progress::Observer;
use crate::table::hidden::HiddenChunks;
use crate::table::{self, Table};
use crate::testing::Plant;
use crate::{journal, manifest};

/// Runs of a tier that are merged into one of the next.
const RUNS_OF_TIER_MAX: usize = 16;
/// Runs in all; more are merged, however few a tier has.
const RUNS_MAX: usize = 32;
/// Bytes kept on the disk, so that a full one still takes a rewritten file.
const SPARE: &str = "spare";

/// What there is of maintenance beside the manifest.
#[derive(Default)]
pub(super) struct Maintenance {
    /// Held by the one compaction or collection under way.
    turn: Mutex<()>,
    /// Files that the deltas of each sealed journal have bases in.
    bases: Mutex<HashMap<u32, BTreeSet<u32>>>,
    /// The flag of whoever has the turn, or had it last: it ends what is done in that turn.
    cancel: Mutex<Option<Cancel>>,
    /// The store is being closed: whoever maintains gives up.
    stopping: AtomicBool,
    worker: Mutex<Worker>,
    /// Why the last maintenance failed, if it did.
    failure: Mutex<Option<String>>,
}

/// The store's thread.
#[derive(Default)]
struct Worker {
    thread: Option<JoinHandle<()>>,
    is_running: bool,
    /// A journal was sealed since the thread last looked.
    is_wanted: bool,
}

impl Maintenance {
    pub(super) fn note_sealed(&self, journal: u32, bases: BTreeSet<u32>) {
        self.bases.lock().insert(journal, bases);
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Fails if whoever has the turn is to give up. What was not made part of the store by then is removed.
    pub(super) fn check(&self) -> Result<()> {
        match self.is_stopping() {
            true => Err(Error::Closed),
            false => self.cancel.lock().as_ref().map_or(Ok(()), Cancel::check),
        }
    }

    /// Has whoever maintains give up, now and later, and waits until no one does. The result keeps it so.
    pub(super) fn stop(&self) -> MutexGuard<'_, ()> {
        self.stopping.store(true, Ordering::Relaxed);
        let worker = self.worker.lock().thread.take();
        // The worker itself may be the last to let go of the store.
        if let Some(worker) = worker.filter(|worker| worker.thread().id() != thread::current().id()) {
            let _ = worker.join();
        }
        self.turn.lock()
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }
}

/// The files of a rewriting.
#[derive(Default, Clone)]
pub(super) struct Inputs {
    pub(super) journals: BTreeSet<u32>,
    pub(super) tables: BTreeSet<u32>,
}

impl Inputs {
    pub(super) fn is_empty(&self) -> bool {
        self.journals.is_empty() && self.tables.is_empty()
    }

    fn len(&self) -> u64 {
        (self.journals.len() + self.tables.len()) as u64
    }

    fn contains(&self, number: u32) -> bool {
        self.journals.contains(&number) || self.tables.contains(&number)
    }
}

impl Store {
    /// Why the store's own thread last gave up, if it did: the next sealed journal has it try again.
    pub fn maintenance_failure(&self) -> Option<String> {
        self.shared.maintenance.failure()
    }

    /// Compacts what is due, once, at the pace of the store's own thread; whether there was anything. For stores without that thread.
    pub fn maintain(&self) -> Result<bool> {
        self.shared.maintain(self.cancel(), self.observer.as_ref())
    }

    /// Rewrites all files in the order of their trees, newest versions whole and older ones as differences, now and at full speed. Readers
    /// and writers go on. If it is cancelled on its way, everything stays as it was.
    pub fn compact(&self) -> Result<Compacted> {
        let shared = &self.shared;
        let _turn = shared.take_maintenance(self.cancel())?;
        // On a full disk this is what the next journal is written to.
        shared.release_spare();
        shared.rotate(true)?;
        let inputs = {
            let manifest = shared.manifest.lock();
            let tables = manifest.tables.iter().filter(|table| !table.held);
            Inputs { journals: sealed(&manifest), tables: tables.map(|table| table.number).collect() }
        };
        shared.compact(&inputs, Pace::full(), self.observer.as_ref())
    }
}

/// Journals whose chunks count where they lie.
pub(super) fn sealed(manifest: &Manifest) -> BTreeSet<u32> {
    manifest.sealed.iter().filter(|sealed| !sealed.held).map(|sealed| sealed.number).collect()
}

impl Shared {
    /// Has sealed journals compacted soon, by the store's thread.
    pub(super) fn wake_maintenance(self: &Arc<Shared>) {
        let mut worker = self.maintenance.worker.lock();
        if !self.options.background || self.maintenance.is_stopping() {
            return;
        }
        worker.is_wanted = true;
        if worker.is_running {
            return;
        }
        let shared = Arc::downgrade(self);
        let started =
            thread::Builder::new().name("pleach-compaction".to_owned()).spawn(move || maintain(&shared));
        // Without a thread journals stay as they are until the next one is sealed.
        worker.is_running = started.is_ok();
        worker.thread = started.ok();
    }

    /// Waits for the turn to maintain, which a store that was closed, or failed, gives to no one. `cancel` ends the wait, and what is done then.
    pub(super) fn take_maintenance(&self, cancel: Option<&Cancel>) -> Result<MutexGuard<'_, ()>> {
        /// How often somebody who waits looks whether it is to go on.
        const LOOK_EVERY: Duration = Duration::from_millis(5);
        if self.follower.is_some() {
            return Err(Error::ReadOnly);
        }
        let turn = loop {
            cancel.map_or(Ok(()), Cancel::check)?;
            match cancel {
                None => break self.maintenance.turn.lock(),
                Some(_) => {
                    if let Some(turn) = self.maintenance.turn.try_lock_for(LOOK_EVERY) {
                        break turn;
                    }
                }
            }
        };
        *self.maintenance.cancel.lock() = cancel.cloned();
        self.maintenance.check()?;
        self.check_poison().map(|()| turn)
    }

    /// Compacts what is due, once; whether there was anything.
    fn maintain(&self, cancel: Option<&Cancel>, observer: Option<&Observer>) -> Result<bool> {
        let _turn = self.take_maintenance(cancel)?;
        let inputs = {
            let manifest = self.manifest.lock();
            let journals = sealed(&manifest);
            match journals.is_empty() {
                false => Inputs { journals, ..Inputs::default() },
                true => Inputs { tables: due(&manifest.tables), ..Inputs::default() },
            }
        };
        if inputs.is_empty() {
            return Ok(false);
        }
        self.compact(&inputs, Pace::background(), observer)?;
        Ok(true)
    }

    /// Rewrites `inputs` with all their chunks.
    fn compact(&self, inputs: &Inputs, pace: Pace, observer: Option<&Observer>) -> Result<Compacted> {
        let before = self.bytes_of(inputs);
        let tier = {
            let manifest = self.manifest.lock();
            let tables = manifest.tables.iter().filter(|table| inputs.tables.contains(&table.number));
            tables.map(|table| table.tier + 1).max().unwrap_or(0)
        };
        self.remove_strays()?;
        self.release_spare();
        let rewritten = self.rewrite(inputs, tier, None, pace, &|_| true, observer).and_then(|rewrite| {
            let done = Compacted {
                files_before: inputs.len(),
                files_after: rewrite.tables.len() as u64,
                bytes_before: before,
                bytes_after: rewrite.tables.iter().map(|table| table.len).sum(),
                chunks: rewrite.chunks,
            };
            self.replace(inputs, rewrite, None)?;
            Ok(done)
        });
        self.renew_spare();
        rewritten
    }

    fn bytes_of(&self, inputs: &Inputs) -> u64 {
        let manifest = self.manifest.lock();
        let journals = manifest.sealed.iter().filter(|sealed| inputs.journals.contains(&sealed.number));
        let tables = manifest.tables.iter().filter(|table| inputs.tables.contains(&table.number));
        journals.map(|sealed| sealed.end + sealed.index_len).sum::<u64>()
            + tables.map(|table| table.len).sum::<u64>()
    }

    /// Writes those chunks of `inputs` that `keep` wants into new tables, which are durable afterwards and not yet part of the store.
    pub(super) fn rewrite(
        &self,
        inputs: &Inputs,
        tier: u32,
        run: Option<u32>,
        pace: Pace,
        keep: &dyn Fn(&crate::hash::Hash) -> bool,
        observer: Option<&Observer>,
    ) -> Result<Rewrite> {
        let (store, newest) = {
            let manifest = self.manifest.lock();
            let tables = manifest.tables.iter().filter(|table| inputs.tables.contains(&table.number));
            let newest = tables.map(|table| table.newest).chain(inputs.journals.iter().copied()).max();
            (manifest.store, newest.unwrap_or(0))
        };
        let take_number = || self.manifest.lock().take_number();
        let job = compaction::Job {
            io: &*self.io,
            index: &self.index,
            view: self.view.load_full(),
            store,
            compression: self.options.compression,
            newest,
            tier,
            run,
            table_bytes_max: table::TABLE_BYTES_MAX,
            take_number: &take_number,
            plant: self.options.plant,
            budget: &self.budget,
            observer,
            check: &|| match self.poison.get() {
                Some(_) => Err(Error::Closed),
                None => self.maintenance.check(),
            },
        };
        job.run(&inputs.journals, &inputs.tables, keep, pace)
    }

    /// Makes new tables part of the store in the place of `inputs`, which stay as held files only as long as journals need them. `hidden`
    /// replaces what is hidden. Before anything goes, each chunk of the new tables was read back, and hashed.
    pub(super) fn replace(
        &self,
        inputs: &Inputs,
        rewrite: Rewrite,
        hidden: Option<(Option<Hidden>, HiddenChunks)>,
    ) -> Result<()> {
        // A chunk that lies in `inputs` too may count because it was written anew, a moment ago.
        let synced = {
            let turn = self.take_turn();
            self.sync_appended(&turn)
        };
        let made = synced
            .and_then(|()| self.view_with(inputs, &rewrite.tables, hidden.as_ref().map(|(_, chunks)| chunks)))
            .and_then(|view| self.check_tables(&view, &rewrite.tables).map(|()| view));
        let tables = match made {
            Ok(tables) => tables,
            Err(error) => {
                rewrite.remove(&*self.io);
                return Err(error);
            }
        };
        {
            let mut manifest = self.manifest.lock();
            let mut next = manifest.clone();
            next.tables.extend(&rewrite.tables);
            next.tables.sort_by_key(|table| table.number);
            for table in next.tables.iter_mut().filter(|table| inputs.tables.contains(&table.number)) {
                table.held = true;
            }
            for sealed in next.sealed.iter_mut().filter(|sealed| inputs.journals.contains(&sealed.number)) {
                sealed.held = true;
            }
            if let Some((entry, _)) = &hidden {
                next.hidden = *entry;
            }
            if let Err(error) = self.replace_manifest(&mut manifest, next) {
                // Which manifest counts may be unknown: then the tables stay, as strays or as parts of the store.
                if !matches!(error, Error::Poisoned { .. }) {
                    rewrite.remove(&*self.io);
                }
                return Err(error);
            }
            // Under the manifest's lock, for sealing changes the view's journals.
            let journals = self.view.load().journals.clone();
            self.view.store(Arc::new(View { journals, ..tables }));
        }
        self.index.forget(|place| inputs.contains(place.file));
        // From here on no group is appended that was made by what the view said before.
        self.next_generation();
        self.release_held()
    }

    /// A view with new tables in the place of `inputs`. Only maintenance, of which there is one at a time, changes the view's tables.
    fn view_with(&self, inputs: &Inputs, new: &[Listed], hidden: Option<&HiddenChunks>) -> Result<View> {
        let store = self.manifest.lock().store;
        let mut view = View::clone(&self.view.load());
        for listed in new {
            view.tables.insert(listed.number, Arc::new(Table::open(&*self.io, listed, &store)?));
        }
        view.held.extend(&inputs.tables);
        if let Some(chunks) = hidden {
            view.hidden = Arc::new(chunks.clone());
        }
        view.index_tables()?;
        Ok(view)
    }

    /// Reads back what was written.
    fn check_tables(&self, view: &View, written: &[Listed]) -> Result<()> {
        let mut pace = Pace::background();
        for table in written.iter().filter_map(|listed| view.tables.get(&listed.number)) {
            table.for_each(|ordinal, hash, place| {
                self.maintenance.check()?;
                let found = Found { place, ordinal: Some(ordinal) };
                let loaded = view.load(&hash, &found, true).map_err(|error| error.tell(&hash, &place, true));
                pace.step();
                loaded.map(drop)
            })?;
        }
        Ok(())
    }

    /// Makes whoever prepared a group and has not appended it prepare it again.
    pub(super) fn next_generation(&self) {
        let _appender = self.appender.lock();
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    fn replace_manifest(&self, manifest: &mut Manifest, mut next: Manifest) -> Result<()> {
        self.check_poison()?;
        next.generation = manifest.generation + 1;
        next.write_new(&*self.io)?;
        // Names of new files, and that of the new manifest: one of an earlier attempt may lie there, torn.
        self.io.sync_dir().map_err(Error::io("sync the directory of", manifest::FILE))?;
        if let Err(error) = Manifest::replace(&*self.io) {
            return Err(self.poison("the manifest could not be replaced", &error));
        }
        *manifest = next;
        Ok(())
    }

    /// Lets go of held files that no journal needs any more.
    fn release_held(&self) -> Result<()> {
        let mut manifest = self.manifest.lock();
        let mut needed = self.appender.lock().bases.clone();
        {
            let mut bases = self.maintenance.bases.lock();
            let listed = sealed(&manifest);
            bases.retain(|journal, _| listed.contains(journal));
            bases.values().for_each(|files| needed.extend(files));
        }
        if self.options.plant == Some(Plant::BaseDropped) {
            needed.clear();
        }
        let goes = |number: u32, held: bool| held && !needed.contains(&number);
        let mut next = manifest.clone();
        next.sealed.retain(|sealed| !goes(sealed.number, sealed.held));
        next.tables.retain(|table| !goes(table.number, table.held));
        let gone: Vec<String> = {
            let kept: BTreeSet<String> = next.names().collect();
            manifest.names().filter(|name| !kept.contains(name)).collect()
        };
        if gone.is_empty() {
            return Ok(());
        }
        self.replace_manifest(&mut manifest, next)?;
        let mut view = View::clone(&self.view.load());
        view.journals.retain(|number, _| {
            *number == manifest.active || manifest.sealed.iter().any(|sealed| sealed.number == *number)
        });
        view.tables.retain(|number, _| manifest.tables.iter().any(|table| table.number == *number));
        view.held.retain(|number| manifest.tables.iter().any(|table| table.number == *number));
        self.view.store(Arc::new(view));
        drop(manifest);
        // What cannot be removed now is a stray, and removed later.
        gone.iter().for_each(|name| drop(self.io.remove(name)));
        Ok(())
    }

    /// Removes files that look like the store's and that the manifest does not list: what a crash left.
    pub(super) fn remove_strays(&self) -> Result<()> {
        let manifest = self.manifest.lock();
        // After a failure another manifest may be the one on the disk, and list what this one does not.
        self.check_poison()?;
        let listed: BTreeSet<String> = manifest.names().collect();
        let names = self.io.list().map_err(Error::io("list", "the directory"))?;
        let numbered = |name: &str| {
            journal::number_of(name).or(table::number_of(name)).or(table::hidden::number_of(name))
        };
        let strays: Vec<&String> =
            names.iter().filter(|name| !listed.contains(*name) && numbered(name).is_some()).collect();
        for scratch in names.iter().filter(|name| name.starts_with(scratch::PREFIX)) {
            // Whoever makes one right now removes it, too.
            let _ = self.io.remove(scratch);
        }
        if !strays.is_empty() {
            // So that no crash brings back an older manifest, which may list them.
            self.io.sync_dir().map_err(Error::io("sync the directory of", manifest::FILE))?;
        }
        strays.into_iter().try_for_each(|name| self.io.remove(name).map_err(Error::io("remove", name)))
    }

    pub(super) fn release_spare(&self) {
        let _ = self.io.remove(SPARE);
    }

    /// Keeps as many bytes on the disk as rewriting the longest table takes, as far as there are any.
    pub(super) fn renew_spare(&self) {
        let longest = self.manifest.lock().tables.iter().map(|table| table.len).max();
        if let Some(bytes) = longest
            && self.io.reserve(SPARE, bytes).is_err()
        {
            let _ = self.io.remove(SPARE);
        }
    }
}

/// The store's thread: compacts until nothing is due.
fn maintain(shared: &Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        shared.maintenance.worker.lock().is_wanted = false;
        let outcome = shared.maintain(None, None);
        let was_due = matches!(outcome, Ok(true));
        if let Err(error) = &outcome
            && !matches!(error, Error::Closed)
        {
            tracing::warn!(store = %shared.io.place(), %error, "compaction failed: journals stay, and pile up, until it succeeds");
        }
        *shared.maintenance.failure.lock() = outcome.err().map(|error| error.to_string());
        let mut worker = shared.maintenance.worker.lock();
        worker.is_running = (was_due || worker.is_wanted) && !shared.maintenance.is_stopping();
        if !worker.is_running {
            return;
        }
    }
}

/// The tables to merge, if a tier, or all together, have too many runs.
fn due(tables: &[Listed]) -> BTreeSet<u32> {
    let mut tiers: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for table in tables.iter().filter(|table| !table.held) {
        tiers.entry(table.tier).or_default().insert(table.run);
    }
    let runs: usize = tiers.values().map(BTreeSet::len).sum();
    let full = tiers.iter().find(|(_, runs)| runs.len() >= RUNS_OF_TIER_MAX);
    let most = tiers.iter().max_by_key(|(_, runs)| runs.len()).filter(|_| runs > RUNS_MAX);
    match full.or(most) {
        Some((tier, _)) => tables
            .iter()
            .filter(|table| !table.held && table.tier == *tier)
            .map(|table| table.number)
            .collect(),
        None => BTreeSet::new(),
    }
}
