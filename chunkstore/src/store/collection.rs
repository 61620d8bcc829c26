//! Collection: finding the chunks that nothing leads to, and giving their bytes back.
//!
//! One idea: mark what roots lead to, then rewrite the files that are mostly dead and hide the dead chunks of the others. Readers and
//! writers go on; what they may build upon is decided by three rules.
//! * **Roots** are all refs as appended and as shown, pinned handles, what holds keep, and everything in *young* files: those that hold what was
//!   appended since the oldest hold began, or since the collection did.
//! * **While marking**, whatever a writer appends, or finds in the store and builds upon, becomes a root too. An inner node that is appended
//!   comes as it is in memory, and of its children only those are looked at that the version before did not have. When marking falls
//!   behind all the same, or is almost over and over again not over, writers wait for it: so it ends, however fast they are.
//! * **While sweeping**, a writer finds only what is marked or young; anything else it writes again.
//!
//! Marking ends, and sweeping begins, under the appender's lock, and a group that was prepared before is prepared again. So a chunk that is
//! found afterwards has everything under it, or is marked as partial: in a partial store ([`super::promised`]) a chunk may come from the remote while
//! what it names is being removed.
//!
//! Leaves are marked without being read: where a chunk lies says that it has no children.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::append::Appender;
use super::compaction::{Pace, Rewrite};
use super::maintenance::Inputs;
use super::pins::Pins;
use super::view::Found;
use super::{Collected, Shared, Store};
use crate::batch::{Base, Batch};
use crate::chunk::Chunk;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::index::Uniformly;
use crate::progress::{Meter, Observer};
use crate::refs::RefUpdate;
use crate::table;
use crate::table::hidden::{self, Bits, HiddenChunks};
use crate::testing::Plant;

/// A table is rewritten if at least one byte in so many is dead.
const DEAD_SHARE: u64 = 4;
/// Writers wait while so many inner nodes that they appended are to be marked.
const APPENDED_MAX: usize = 1024;
/// As many chunks may be marked while no one can append.
const LAST_MARKS_MAX: usize = 256;
/// So often marking may turn out not to be over before writers wait.
const ROUNDS_MAX: usize = 4;
/// Most transactions are over in less.
const HOLDS_END_WITHIN: Duration = Duration::from_millis(500);
/// How long a collection waits for appends that another one has outrun.
const OUTRUN_END_WITHIN: Duration = Duration::from_secs(5);

type Set = HashSet<Hash, Uniformly>;

/// A collection under way.
pub(super) struct Collecting {
    phase: Phase,
}

enum Phase {
    Marking(Waiting),
    Sweeping(Arc<Marks>),
}

/// What is to be marked, with all under it.
#[derive(Default)]
struct Waiting {
    roots: Vec<Hash>,
    appended: Vec<Appended>,
    /// Marking would be over but for what is appended: writers wait.
    is_closed: bool,
}

/// An inner node that was appended.
struct Appended {
    chunk: Chunk,
    /// The version that it came from, and its bytes if they are at hand.
    base: Option<(Hash, Option<Chunk>)>,
}

/// What was marked, and what is to be, with all under it.
type Unfinished = (Marks, Vec<Hash>);

/// What was found to be in use.
struct Marks {
    /// Journals from this number on are young, and so are tables with chunks of one of them.
    young_from: u32,
    /// A bit for each chunk of the tables that are not young.
    tables: HashMap<u32, Bits>,
    /// Chunks in journals.
    journals: Set,
}

impl Marks {
    /// Marks a chunk; whether it was not marked before.
    fn mark(&mut self, hash: &Hash, found: &Found) -> bool {
        match found.ordinal {
            None => self.journals.insert(*hash),
            Some(ordinal) => match self.tables.get_mut(&found.place.file) {
                Some(bits) => bits.set(ordinal),
                // A young table: its chunks are marked by name.
                None => self.journals.insert(*hash),
            },
        }
    }

    /// Whether a chunk stays.
    fn survives(&self, hash: &Hash, found: &Found) -> bool {
        match found.ordinal {
            None => found.place.file >= self.young_from || self.journals.contains(hash),
            // A table that is not known is young, or was written by this collection.
            Some(ordinal) => self.tables.get(&found.place.file).is_none_or(|bits| bits.get(ordinal)),
        }
    }
}

impl Store {
    /// Removes the chunks that no ref, no pinned handle and no hold leads to. With `dry_run` it only finds them. Readers and writers go
    /// on. `bytes_after` of a dry run is an estimate. If it is cancelled on its way, what is gone by then is what nothing leads to, and
    /// the next collection removes the rest.
    pub fn collect(&self, dry_run: bool) -> Result<Collected> {
        let shared = &self.shared;
        let _turn = shared.take_maintenance(self.cancel())?;
        shared.await_outrun();
        // On a full disk this is what the next journal and the first new table are written to.
        shared.release_spare();
        // So that all that is there now lies in journals that can be rewritten.
        let collected = shared.rotate(true).and_then(|()| {
            shared.await_holds();
            shared.collect(dry_run, self.observer.as_ref())
        });
        shared.end_collecting();
        shared.renew_spare();
        collected
    }
}

impl Shared {
    /// Where the chunk lies, if the store has it and the caller may build upon it, now and until the collection under way, if any, is over.
    pub(super) fn reuse(&self, hash: &Hash) -> Result<Option<Found>> {
        self.find(hash, |found| {
            if !self.is_collecting.load(Ordering::SeqCst) || self.options.plant == Some(Plant::NoBarrier) {
                return true;
            }
            match self.collecting.lock().as_mut().map(|collecting| &mut collecting.phase) {
                None => true,
                Some(Phase::Marking(waiting)) => {
                    waiting.roots.push(*hash);
                    true
                }
                Some(Phase::Sweeping(marks)) => marks.survives(hash, found),
            }
        })
    }

    /// Whether the store has the chunk, and does not just remove it.
    pub(super) fn has(&self, hash: &Hash) -> Result<bool> {
        let found = self.find(hash, |found| {
            if !self.is_collecting.load(Ordering::SeqCst) {
                return true;
            }
            match self.collecting.lock().as_ref().map(|collecting| &collecting.phase) {
                Some(Phase::Sweeping(marks)) => marks.survives(hash, found),
                _ => true,
            }
        });
        Ok(found?.is_some())
    }

    /// Where the chunk lies, if `survives` says so while it lies there: what was found may be swept by then.
    fn find(&self, hash: &Hash, survives: impl Fn(&Found) -> bool) -> Result<Option<Found>> {
        loop {
            let generation = self.generation.load(Ordering::SeqCst);
            let Some((found, _)) = self.locate(hash)? else { return Ok(None) };
            let survives = survives(&found);
            if self.generation.load(Ordering::SeqCst) == generation {
                return Ok(survives.then_some(found));
            }
        }
    }

    /// Waits while marking is far behind what is appended.
    pub(super) fn await_marking(&self) {
        if !self.is_collecting.load(Ordering::SeqCst) {
            return;
        }
        let mut collecting = self.collecting.lock();
        while let Some(Collecting { phase: Phase::Marking(waiting) }) = &*collecting
            && (waiting.is_closed || waiting.appended.len() >= APPENDED_MAX)
        {
            self.marked.wait(&mut collecting);
        }
    }

    /// Takes what is about to be appended into account: chunks and what refs are to name. Refuses a ref to what is being removed. The appender's
    /// lock is held.
    pub(super) fn admit_roots(&self, batch: &Batch, updates: &[RefUpdate]) -> Result<()> {
        if !self.is_collecting.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut collecting = self.collecting.lock();
        let new = updates.iter().filter_map(|update| update.new);
        match collecting.as_mut().map(|collecting| &mut collecting.phase) {
            None => Ok(()),
            Some(Phase::Marking(waiting)) => {
                let inner = batch.iter().filter(|put| put.chunk.child_count() > 0);
                waiting.appended.extend(inner.map(|put| {
                    let base = put.base.as_ref().map(|base| match base {
                        Base::Known(chunk, _) => (*chunk.hash(), Some(chunk.clone())),
                        Base::At(hash) => (*hash, batch.get(hash).cloned().or_else(|| self.cache.peek(hash))),
                    });
                    Appended { chunk: put.chunk.clone(), base }
                }));
                waiting.roots.extend(new);
                Ok(())
            }
            Some(Phase::Sweeping(marks)) => {
                for root in new.filter(|root| !batch.contains(root)) {
                    if let Some((found, _)) = self.locate(&root)?
                        && !marks.survives(&root, &found)
                    {
                        return Err(Error::Collected { hash: root });
                    }
                }
                Ok(())
            }
        }
    }

    fn end_collecting(&self) {
        *self.collecting.lock() = None;
        self.is_collecting.store(false, Ordering::SeqCst);
        self.marked.notify_all();
    }

    fn collect(&self, dry_run: bool, observer: Option<&Observer>) -> Result<Collected> {
        // How many there are to be marked is what marking finds out.
        let mut meter = Meter::new(observer, "marking", "chunks", None);
        let mut silent = Meter::new(None, "marking", "chunks", None);
        let mut marks = self.begin_marking()?;
        self.mark(&mut marks, &mut meter)?;
        let mut rounds = 0;
        let marks = loop {
            let (mut more, mut queue) = match self.begin_sweeping(marks, &mut meter)? {
                Ok(marks) => break marks,
                Err(more) => more,
            };
            rounds += 1;
            let is_closed = rounds >= ROUNDS_MAX;
            // While those who append wait, nobody is told: that may take its time.
            let meter = if is_closed { &mut silent } else { &mut meter };
            let waiting = self.take_waiting(is_closed);
            self.mark_waiting(&mut more, waiting, &mut queue, meter)?;
            self.drain(&mut more, &mut queue, meter)?;
            marks = more;
        };
        meter.end();
        let plan = self.plan(&marks)?;
        let mut collected = plan.found;
        if dry_run {
            return Ok(collected);
        }
        self.remove_strays()?;
        self.sweep(&marks, &plan, observer)?;
        collected.bytes_after = self.bytes();
        Ok(collected)
    }

    /// Gives holds from before the active journal began a moment to end: what lies in files as young as the oldest is not collected.
    fn await_holds(&self) {
        let active = self.appender.lock().journal.number;
        let until = Instant::now() + HOLDS_END_WITHIN;
        while self.pins.lock().held_since().is_some_and(|since| since < active) && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets appends end that another collection has outrun: a moment, as holds have it.
    fn await_outrun(&self) {
        let until = Instant::now() + OUTRUN_END_WITHIN;
        while self.outrun.load(Ordering::SeqCst) > 0 && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Takes the roots of now.
    fn begin_marking(&self) -> Result<Marks> {
        let view = self.view.load_full();
        // It says which chunks are leaves, and under a leaf nothing is looked for: so it decides what is removed.
        view.lookup.tables().iter().try_for_each(|table| table.check_index())?;
        let appender = self.appender.lock();
        let pins = self.pins.lock();
        let active = appender.journal.number;
        let young_from = pins.held_since().map_or(active, |since| since.min(active));
        let mut roots = self.roots(&appender, &pins);
        roots.extend(self.index.in_files(&(young_from..=active).collect()).into_iter().map(|(hash, _)| hash));
        let mut marks = Marks { young_from, tables: HashMap::new(), journals: Set::default() };
        let mut young = Vec::new();
        for table in view.lookup.tables() {
            match table.listed.newest >= young_from {
                true => young.push(table.clone()),
                false => drop(marks.tables.insert(table.number, Bits::new(table.len()))),
            }
        }
        *self.collecting.lock() =
            Some(Collecting { phase: Phase::Marking(Waiting { roots, ..Waiting::default() }) });
        self.is_collecting.store(true, Ordering::SeqCst);
        // Groups that were prepared without regard to this are prepared again.
        self.generation.fetch_add(1, Ordering::SeqCst);
        drop((pins, appender));
        for table in young {
            let mut hashes = Vec::new();
            table.for_each(|ordinal, hash, _| {
                if !view.hidden.get(&table.number).is_some_and(|bits| bits.get(ordinal)) {
                    hashes.push(hash);
                }
                Ok(())
            })?;
            self.add_roots(hashes);
        }
        Ok(marks)
    }

    fn roots(&self, appender: &Appender, pins: &Pins) -> Vec<Hash> {
        let shown = self.durable.read();
        let refs = appender.refs.values().chain(shown.refs.values()).copied();
        refs.chain(pins.roots()).collect()
    }

    fn add_roots(&self, hashes: Vec<Hash>) {
        if let Some(Collecting { phase: Phase::Marking(waiting) }) = self.collecting.lock().as_mut() {
            waiting.roots.extend(hashes);
        }
    }

    /// Takes what waits to be marked, and has writers go on, or wait.
    fn take_waiting(&self, is_closed: bool) -> Waiting {
        let waiting = match self.collecting.lock().as_mut() {
            Some(Collecting { phase: Phase::Marking(waiting) }) => {
                std::mem::replace(waiting, Waiting { is_closed, ..Waiting::default() })
            }
            _ => Waiting::default(),
        };
        self.marked.notify_all();
        waiting
    }

    /// Marks all that roots lead to, and, as far as that goes, what writers append meanwhile.
    fn mark(&self, marks: &mut Marks, meter: &mut Meter) -> Result<()> {
        let mut pace = Pace::background();
        let (mut roots, mut new) = (Vec::new(), Vec::new());
        let waiting = self.take_waiting(false);
        self.mark_waiting(marks, waiting, &mut roots, meter)?;
        while !roots.is_empty() {
            // What came during the last slices comes first: it would pile up. The rest gets as much time, so that it comes to an end.
            let started = Instant::now();
            let waiting = self.take_waiting(false);
            self.mark_waiting(marks, waiting, &mut new, meter)?;
            self.drain(marks, &mut new, meter)?;
            let until = Instant::now() + started.elapsed();
            pace.begin_slice();
            while let Some(hash) = roots.pop() {
                meter.add(self.mark_chunk(marks, &hash, &mut roots)?);
                if pace.step() && Instant::now() >= until {
                    break;
                }
            }
        }
        Ok(())
    }

    fn drain(&self, marks: &mut Marks, queue: &mut Vec<Hash>, meter: &mut Meter) -> Result<()> {
        while let Some(hash) = queue.pop() {
            self.maintenance.check()?;
            meter.add(self.mark_chunk(marks, &hash, queue)?);
        }
        Ok(())
    }

    /// Marks what was appended, and puts into the queue what is to be marked for it.
    fn mark_waiting(
        &self,
        marks: &mut Marks,
        waiting: Waiting,
        queue: &mut Vec<Hash>,
        meter: &mut Meter,
    ) -> Result<()> {
        self.maintenance.check()?;
        for Appended { chunk, base } in waiting.appended {
            let is_new = match self.locate(chunk.hash())? {
                Some((found, _)) => marks.mark(chunk.hash(), &found),
                // Not written yet, or never, if that failed.
                None => marks.journals.insert(*chunk.hash()),
            };
            if !is_new {
                continue;
            }
            meter.note(1);
            // What is marked has all its children marked, or in the queue.
            let known = match base {
                Some((hash, Some(chunk))) if self.is_marked(marks, &hash)? => Some(chunk),
                Some((hash, None)) if self.is_marked(marks, &hash)? => self.load(&hash, true)?,
                _ => None,
            };
            match known {
                Some(base) => queue.extend(new_children(&chunk, &base)),
                None => queue.extend(chunk.children()),
            }
        }
        queue.extend(waiting.roots);
        Ok(())
    }

    fn is_marked(&self, marks: &Marks, hash: &Hash) -> Result<bool> {
        let Some((found, _)) = self.locate(hash)? else { return Ok(false) };
        Ok(marks.journals.contains(hash)
            || found.ordinal.is_some_and(|ordinal| {
                marks.tables.get(&found.place.file).is_some_and(|bits| bits.get(ordinal))
            }))
    }

    /// Marks a chunk, and puts its children into the queue. Gives how many were not marked before: one or none.
    fn mark_chunk(&self, marks: &mut Marks, hash: &Hash, queue: &mut Vec<Hash>) -> Result<u64> {
        // A root may name a chunk that is not there: that is fsck's to tell, and no reason to keep garbage.
        let Some((found, _)) = self.locate(hash)? else { return Ok(0) };
        let is_new = marks.mark(hash, &found);
        if is_new && !found.place.leaf {
            let chunk = match self.cache.peek(hash) {
                Some(chunk) => Some(chunk),
                // Hashed, whenever that was done last: an address that rotted would leave what it led to unmarked.
                None => self.load(hash, true)?,
            };
            queue.extend(chunk.iter().flat_map(|chunk| chunk.children()));
        }
        Ok(u64::from(is_new))
    }

    /// Begins to sweep, unless there is more to mark than can be while everyone waits: then it gives that.
    fn begin_sweeping(
        &self,
        mut marks: Marks,
        meter: &mut Meter,
    ) -> Result<Result<Arc<Marks>, Unfinished>, Error> {
        let _appender = self.appender.lock();
        let mut collecting = self.collecting.lock();
        let mut queue = Vec::new();
        if let Some(Collecting { phase: Phase::Marking(waiting) }) = collecting.as_mut() {
            let is_closed = waiting.is_closed;
            let waiting = std::mem::replace(waiting, Waiting { is_closed, ..Waiting::default() });
            self.mark_waiting(&mut marks, waiting, &mut queue, meter)?;
        }
        for _ in 0..LAST_MARKS_MAX {
            let Some(hash) = queue.pop() else { break };
            meter.note(self.mark_chunk(&mut marks, &hash, &mut queue)?);
        }
        if !queue.is_empty() {
            return Ok(Err((marks, queue)));
        }
        let marks = Arc::new(marks);
        *collecting = Some(Collecting { phase: Phase::Sweeping(marks.clone()) });
        self.marked.notify_all();
        self.generation.fetch_add(1, Ordering::SeqCst);
        Ok(Ok(marks))
    }

    /// What is dead, and which files to rewrite.
    fn plan(&self, marks: &Marks) -> Result<Plan> {
        let view = self.view.load_full();
        let mut plan = Plan {
            found: Collected { bytes_before: self.bytes(), ..Collected::default() },
            hidden: HiddenChunks::new(),
            journals: BTreeSet::new(),
            tables: Vec::new(),
        };
        let found = &mut plan.found;
        let (mut live_bytes, mut counts) = (HashMap::<u32, u64>::new(), [0_u64; 2]);
        view.lookup.for_each(|hash, found| {
            let place = Found { place: found.place, ordinal: Some(found.ordinal) };
            let survives = marks.survives(&hash, &place);
            counts[usize::from(survives)] += 1;
            if survives {
                *live_bytes.entry(found.place.file).or_default() += u64::from(found.place.len);
            }
            Ok(())
        })?;
        let old: BTreeSet<u32> = {
            let manifest = self.manifest.lock();
            let sealed = manifest.sealed.iter().filter(|sealed| !sealed.held);
            sealed.map(|sealed| sealed.number).filter(|number| *number < marks.young_from).collect()
        };
        let mut dead_bytes = 0;
        for (hash, place) in self.index.in_files(&old) {
            let survives = marks.survives(&hash, &Found { place, ordinal: None });
            counts[usize::from(survives)] += 1;
            dead_bytes += if survives { 0 } else { u64::from(place.len) };
        }
        [found.dead_chunks, found.live_chunks] = counts;
        found.live_chunks += self.index.len() - self.index.in_files(&old).len() as u64;
        for table in view.lookup.tables() {
            let Some(bits) = marks.tables.get(&table.number) else {
                if let Some(bits) = view.hidden.get(&table.number) {
                    plan.hidden.insert(table.number, bits.clone());
                }
                continue;
            };
            let dead = bits.inverted();
            let live = live_bytes.get(&table.number).copied().unwrap_or(0);
            let garbage = table.frames_len().saturating_sub(live) + dead.count() * table::ENTRY_BYTES as u64;
            if dead.count() > 0 {
                plan.hidden.insert(table.number, dead);
            }
            dead_bytes += garbage;
            if garbage >= table.listed.len / DEAD_SHARE {
                plan.tables.push(table.number);
                found.files_rewritten += 1;
            }
        }
        found.files_rewritten += old.len() as u64;
        found.bytes_after = found.bytes_before.saturating_sub(dead_bytes);
        plan.journals = old;
        Ok(plan)
    }

    /// Hides what is dead and rewrites files, one by one.
    fn sweep(&self, marks: &Marks, plan: &Plan, observer: Option<&Observer>) -> Result<()> {
        let survives = |hash: &Hash| {
            // What cannot be looked up is kept: reading it will tell why.
            self.locate(hash)
                .map_or(true, |found| found.is_some_and(|(found, _)| marks.survives(hash, &found)))
        };
        // A crash from here on must not go back to refs that lead to what is dead now.
        let turn = self.take_turn();
        self.sync_appended(&turn)?;
        drop(turn);
        // All that is dead goes out of sight in one step, so that at no time is a chunk found whose children are not.
        let journals = Inputs { journals: plan.journals.clone(), tables: BTreeSet::new() };
        let rewrite = match journals.is_empty() {
            true => Rewrite { tables: Vec::new(), chunks: 0 },
            false => self.rewrite(&journals, 0, None, Pace::background(), &survives, observer)?,
        };
        let (store, number) = {
            let mut manifest = self.manifest.lock();
            (manifest.store, manifest.take_number())
        };
        let entry = match plan.hidden.is_empty() {
            true => None,
            false => match hidden::write(&*self.io, number, &store, &plan.hidden) {
                Ok(entry) => Some(entry),
                Err(error) => {
                    rewrite.remove(&*self.io);
                    return Err(error);
                }
            },
        };
        let replaced = self.replace(&journals, rewrite, Some((entry, plan.hidden.clone())));
        self.cache.retain(|hash, _| self.locate(hash).is_ok_and(|found| found.is_some()));
        replaced?;
        for table in &plan.tables {
            let inputs = Inputs { journals: BTreeSet::new(), tables: BTreeSet::from([*table]) };
            let listed = self.manifest.lock().tables.iter().find(|listed| listed.number == *table).copied();
            let Some(listed) = listed else { continue };
            let (tier, run) = (listed.tier, Some(listed.run));
            let rewrite = self.rewrite(&inputs, tier, run, Pace::background(), &survives, observer)?;
            self.replace(&inputs, rewrite, None)?;
        }
        Ok(())
    }

    /// Bytes in all files of the store.
    fn bytes(&self) -> u64 {
        let manifest = self.manifest.lock();
        let sealed: u64 = manifest.sealed.iter().map(|sealed| sealed.end + sealed.index_len).sum();
        let tables: u64 = manifest.tables.iter().map(|table| table.len).sum();
        sealed + tables + self.appender.lock().end
    }
}

/// The children of a node that its earlier version did not have.
fn new_children(node: &Chunk, earlier: &Chunk) -> Vec<Hash> {
    let (new, old): (Vec<Hash>, Vec<Hash>) = (node.children().collect(), earlier.children().collect());
    let start = new.iter().zip(&old).take_while(|(new, old)| new == old).count();
    let (new, old) = (&new[start..], &old[start..]);
    let end = new.iter().rev().zip(old.iter().rev()).take_while(|(new, old)| new == old).count();
    let (new, old) = (&new[..new.len() - end], &old[..old.len() - end]);
    let known: HashSet<&Hash, Uniformly> = old.iter().collect();
    new.iter().filter(|child| !known.contains(child)).copied().collect()
}

/// What to sweep.
struct Plan {
    found: Collected,
    /// What is dead in tables.
    hidden: HiddenChunks,
    /// Sealed journals, all to be rewritten.
    journals: BTreeSet<u32>,
    /// Tables to be rewritten.
    tables: Vec<u32>,
}
