//! Appending: what stands in line, and what does not.
//!
//! One idea: a group is made, compressed and hashed outside every lock; under the appender's lock it only gets its place: the updates are compared
//! with the refs as appended, the header is filled in, and one write puts it at the journal's end. Readers learn of its refs when it is
//! durable ([`super::sync`]).
//!
//! When a write fails, nothing of its group is noted, and the journal is abandoned: the next append seals it at its last good end and
//! begins another. The same path seals a journal that is long enough.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::view::View;
use super::{Durability, Options, Shared, Store, Ticket};
use crate::batch::Batch;
use crate::chunk::Chunk;
use crate::error::{Error, Result};
use crate::frame::{Encoding, FrameHeader, Location};
use crate::hash::Hash;
use crate::io::Io;
use crate::journal::group::{BODY_BYTES_MAX, Finished, Group, Kind, Place};
use crate::journal::{self, Check, Journal, StoreId, seal};
use crate::manifest::{self, Manifest, Sealed};
use crate::refs::{self, Change, Moved, RefUpdate};
use crate::stats::count;

/// A journal is sealed at this many bytes at the latest: a place in it, and a group of 1 GiB more, fit in 32 bits.
const JOURNAL_BYTES_MAX: u64 = 2 << 30;

/// What became of an append.
#[must_use]
pub enum Outcome {
    /// It has its place in the order of appends; the ticket tells when it is durable.
    Appended(Ticket),
    /// A ref is not what an update expects; nothing was appended.
    Moved {
        /// The ref.
        name: String,
        /// What the update expects.
        expected: Option<Hash>,
        /// What the ref is.
        found: Option<Hash>,
    },
}

/// The end of the active journal, and what was appended.
pub(super) struct Appender {
    pub(super) journal: Arc<Journal>,
    /// End of the checkpoint.
    pub(super) start: u64,
    /// End of the last group.
    pub(super) end: u64,
    /// Check of the last group.
    pub(super) check: Check,
    /// End of the last group of this journal known to be durable.
    pub(super) synced_end: u64,
    pub(super) sequence: u64,
    pub(super) refs: BTreeMap<String, Hash>,
    /// What the refs take as records.
    pub(super) refs_bytes: u64,
    /// Groups appended since the store was opened.
    pub(super) group: u64,
    /// Groups with records that readers have not seen.
    pub(super) pending: VecDeque<Pending>,
    /// What the journal's index will list.
    pub(super) entries: Vec<(Hash, Location)>,
    /// Other files that deltas in this journal have bases in.
    pub(super) bases: BTreeSet<u32>,
    /// A write failed: this journal takes no more.
    pub(super) abandoned: bool,
    pub(super) closed: bool,
}

/// A group that is to be written to the journal that was active when it was made, if nothing has changed since.
struct Prepared {
    finished: Finished,
    /// Other files that its frames have bases in.
    bases: BTreeSet<u32>,
    /// Its bases in the store that are differences themselves.
    superseded: Vec<Hash>,
    generation: u64,
}

/// Records waiting to be durable.
pub(super) struct Pending {
    pub(super) group: u64,
    pub(super) sequence: u64,
    pub(super) changes: Vec<Change>,
}

impl Store {
    /// Appends the chunks of `batch`, skipping those present, and makes `updates`, all or nothing. Every update is compared with the refs
    /// as appended so far. Without updates it only brings chunks. Once something is appended it cannot be cancelled.
    pub fn append(&self, batch: Batch, updates: &[RefUpdate]) -> Result<Outcome> {
        self.check_cancelled()?;
        let shared = &self.shared;
        refs::check_names(updates)?;
        let changes: Vec<Change> =
            updates.iter().filter(|update| update.old != update.new).cloned().collect();
        shared.await_marking();
        let mut prepared = shared.prepare(&batch, &changes)?;
        let mut outrun = None;
        loop {
            let mut appender = shared.appender.lock();
            shared.check_writable(&appender)?;
            if let Err(Moved { name, expected, found }) = refs::compare(&appender.refs, updates) {
                return Ok(Outcome::Moved { name, expected, found });
            }
            if prepared.generation != shared.generation.load(Ordering::SeqCst) {
                // Chunks that were there may be gone, and bases elsewhere.
                drop(appender);
                // Collections one after the other would have it begin anew for ever.
                outrun.get_or_insert_with(|| Outrun::new(shared));
                prepared = shared.prepare(&batch, &changes)?;
                continue;
            }
            if !prepared.finished.group.is_empty() {
                if appender.is_full(&shared.options) {
                    drop(appender);
                    shared.rotate(false)?;
                    shared.wake_maintenance();
                    continue;
                }
                let refs_bytes = refs::bytes_after(appender.refs_bytes, &changes)?;
                shared.admit_roots(&batch, updates)?;
                appender.write(&mut prepared)?;
                appender.refs_bytes = refs_bytes;
                shared.note(&mut appender, &prepared.finished, changes);
            }
            let ticket = Ticket::new(shared.clone(), appender.group, appender.sequence);
            drop(appender);
            shared.cache_versions(&batch, &prepared.superseded, updates.is_empty());
            if matches!(shared.options.durability, Durability::Eventual { .. }) && !updates.is_empty() {
                shared.call_watchers();
            }
            return Ok(Outcome::Appended(ticket));
        }
    }
}

/// An append that a collection has outrun: the next one lets it end first.
struct Outrun<'a>(&'a Shared);

impl Outrun<'_> {
    fn new(shared: &Shared) -> Outrun<'_> {
        shared.outrun.fetch_add(1, Ordering::SeqCst);
        Outrun(shared)
    }
}

impl Drop for Outrun<'_> {
    fn drop(&mut self) {
        self.0.outrun.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Appender {
    /// Whether the active journal takes no more. Its checkpoint does not count, however many refs there are.
    fn is_full(&self, options: &Options) -> bool {
        let limit = options.journal_bytes.min(JOURNAL_BYTES_MAX);
        self.abandoned
            || self.end - self.start >= limit
            || self.end >= JOURNAL_BYTES_MAX && self.end > self.start
    }

    /// Puts a group at the journal's end. After an error the appender is as before, and the journal abandoned.
    fn write(&mut self, prepared: &mut Prepared) -> Result<()> {
        let finished = &mut prepared.finished;
        let place = Place {
            offset: self.end,
            previous: self.check,
            sequence: self.sequence + u64::from(finished.group.has_records()),
            synced_end: self.synced_end,
        };
        let (bytes, check) = finished.place(&self.journal.key, &place);
        if let Err(error) = self.journal.file.write_at(bytes, self.end) {
            self.abandoned = true;
            return Err(Error::io("append to", &self.journal.name)(error));
        }
        let (file, base) = (self.journal.number, self.end as u32);
        self.end += bytes.len() as u64;
        (self.check, self.sequence) = (check, place.sequence);
        self.group += 1;
        self.bases.append(&mut prepared.bases);
        let frames = finished.group.frames().iter();
        self.entries.extend(
            frames.map(|&(hash, place)| (hash, Location { file, offset: base + place.offset, ..place })),
        );
        Ok(())
    }
}

impl Shared {
    pub(super) fn check_writable(&self, appender: &Appender) -> Result<()> {
        self.check_poison()?;
        match self.follower {
            Some(_) => Err(Error::ReadOnly),
            None if appender.closed => Err(Error::Closed),
            None => Ok(()),
        }
    }

    /// Makes a group of what the store lacks.
    fn prepare(&self, batch: &Batch, changes: &[Change]) -> Result<Prepared> {
        let (active, generation) = {
            let appender = self.appender.lock();
            (appender.journal.number, self.generation.load(Ordering::SeqCst))
        };
        let is_partial = self.promised.is_partial();
        let (mut bases, mut reused) = (BTreeSet::new(), Vec::new());
        let mut group = Group::new(Kind::Changes);
        let mut superseded = Vec::new();
        // Where each chunk of the batch lies in the group, if it is written.
        let mut placed: Vec<Option<Location>> = vec![None; batch.len()];
        for (number, put) in batch.iter().enumerate() {
            let hash = put.chunk.hash();
            if !put.anew
                && let Some(found) = self.reuse(hash)?
            {
                reused.push((*hash, found));
                continue;
            }
            let difference = match &put.base {
                Some(base) if self.options.delta => {
                    let base = match batch.place(base.hash()).and_then(|number| placed[number]) {
                        Some(place) => self.base_in_group(batch, &group, place, base.hash()),
                        None => self.base_in_store(base, active, &mut superseded),
                    };
                    base.and_then(|base| base.difference_to(&put.chunk))
                }
                _ => None,
            };
            let base = difference.as_ref().and_then(|difference| difference.encoding.base());
            bases.extend(base.map(|(file, ..)| file).filter(|file| *file != active && *file != 0));
            let (encoding, step, crossed, payload) = match &difference {
                Some(found) => (found.encoding, found.step, found.crossed, found.payload.as_ref()),
                None => (Encoding::Raw, 0, false, put.chunk.bytes()),
            };
            let leaf = put.chunk.child_count() == 0;
            let partial = !leaf && (put.partial || is_partial && self.lacks_children(batch, &put.chunk)?);
            let (raw_len, payload_len) = (put.chunk.bytes().len() as u32, payload.len() as u32);
            let header = FrameHeader { encoding, step, crossed, leaf, partial, raw_len, payload_len };
            placed[number] = Some(group.put_frame(hash, &header, payload));
            check_length(&group)?;
        }
        changes.iter().for_each(|change| group.put_record(change));
        check_length(&group)?;
        // Whoever holds may build upon them later: so says the next collection, or this one, by a new generation.
        self.pins.lock().keep_in_holds(&reused);
        Ok(Prepared { finished: group.finish(), bases, superseded, generation })
    }

    /// Whether the store, with the batch, lacks a strong child of the chunk: which a partial store may.
    fn lacks_children(&self, batch: &Batch, chunk: &Chunk) -> Result<bool> {
        for child in chunk.children() {
            // What a collection is removing is not there. If one begins, or goes on to remove, the group is prepared again.
            if !batch.contains(&child) && !self.has(&child)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Puts the chunks of an append into the cache. A version that came as a difference and has now a successor is likely to be read no more, and
    /// makes room; a full frame may be what many branches grow from, and stays as long as it is read. Leaves that are only brought, of a load or a
    /// clone, would drive out what is in use, and stay outside until they are read.
    fn cache_versions(&self, batch: &Batch, superseded: &[Hash], only_brought: bool) {
        for hash in superseded {
            self.cache.remove(hash);
        }
        for put in batch.iter() {
            if !only_brought || put.base.is_some() || put.chunk.child_count() > 0 {
                self.cache.insert(*put.chunk.hash(), put.chunk.clone());
            }
        }
    }

    /// Makes a written group known: its chunks at once, its refs when durable (at once, if the store is eventual).
    fn note(&self, appender: &mut Appender, finished: &Finished, changes: Vec<Change>) {
        count(&self.counters.groups, 1);
        let from = appender.entries.len() - finished.group.frames().len();
        for (hash, location) in &appender.entries[from..] {
            let counter =
                if location.step > 0 { &self.counters.frames_delta } else { &self.counters.frames_raw };
            count(counter, 1);
            self.index.insert(*hash, *location);
        }
        if changes.is_empty() {
            return;
        }
        for change in &changes {
            // They were compared under this lock.
            let applied = refs::apply(&mut appender.refs, change);
            debug_assert!(applied.is_ok());
        }
        appender.pending.push_back(Pending { group: appender.group, sequence: appender.sequence, changes });
        if matches!(self.options.durability, Durability::Eventual { .. }) {
            let group = appender.group;
            self.publish(appender, group);
        }
    }

    /// Seals the active journal and begins another, if it is abandoned or long enough, or if `now` and not empty.
    pub(super) fn rotate(&self, now: bool) -> Result<()> {
        let turn = self.take_turn();
        // Most of what is unsynced goes to the disk here, while others can still append.
        self.sync_appended(&turn)?;
        let mut manifest = self.manifest.lock();
        let mut appender = self.appender.lock();
        self.check_writable(&appender)?;
        if !appender.is_full(&self.options) && (!now || appender.entries.is_empty()) {
            return Ok(());
        }
        let index_len = self.write_index(&appender);
        if let Err(error) = appender.journal.file.sync_data() {
            return Err(self.poison("a sync of a full journal failed", &error));
        }
        appender.synced_end = appender.end;
        let group = appender.group;
        let changed = self.publish(&mut appender, group);
        let begun = self.begin_next(&mut manifest, &mut appender, index_len);
        drop((appender, manifest));
        self.set_durable(&turn, group);
        if changed {
            self.call_watchers();
        }
        begun
    }

    /// Puts a new journal in the place of the active one, which is durable. After an error the active one is still in its place.
    fn begin_next(&self, manifest: &mut Manifest, appender: &mut Appender, index_len: u64) -> Result<()> {
        let mut next = manifest.clone();
        next.generation += 1;
        next.sealed.push(Sealed {
            number: appender.journal.number,
            end: appender.end,
            index_len,
            sequence: appender.sequence,
            check: appender.check,
            held: false,
        });
        next.active = next.take_number();
        let begun = Begun::write(&*self.io, &next, &appender.refs, appender.sequence)?;
        if let Err(error) = Manifest::replace(&*self.io) {
            // Which of the two manifests counts is only known by opening again.
            return Err(self.poison("the manifest could not be replaced", &error));
        }
        let journal = Arc::new(begun.journal);
        let mut view = View::clone(&self.view.load());
        view.journals.insert(journal.number, journal.clone());
        self.view.store(Arc::new(view));
        self.maintenance.note_sealed(appender.journal.number, std::mem::take(&mut appender.bases));
        *manifest = next;
        appender.journal = journal;
        // Which bases a frame may have depends on the file that it lies in.
        self.generation.fetch_add(1, Ordering::SeqCst);
        (appender.start, appender.end, appender.synced_end) = (begun.end, begun.end, begun.end);
        appender.check = begun.check;
        appender.entries.clear();
        appender.abandoned = false;
        Ok(())
    }

    /// Writes the index at the end of the active journal and returns its length; 0 if it could not be written, which only costs time later.
    fn write_index(&self, appender: &Appender) -> u64 {
        // Behind the end of an abandoned journal lies what a failed write left: that is never overwritten.
        if appender.abandoned {
            return 0;
        }
        let index = seal::encode(&appender.entries, &appender.journal.key);
        match appender.journal.file.write_at(&index, appender.end) {
            Ok(()) => index.len() as u64,
            Err(_) => 0,
        }
    }
}

fn check_length(group: &Group) -> Result<()> {
    match group.len() > BODY_BYTES_MAX {
        true => Err(Error::BatchTooLarge { bytes: group.len() as u64, bytes_max: BODY_BYTES_MAX as u64 }),
        false => Ok(()),
    }
}

/// A new journal, durable, that no manifest in force lists yet.
pub(super) struct Begun {
    pub(super) journal: Journal,
    pub(super) end: u64,
    pub(super) check: Check,
}

impl Begun {
    /// Makes the active journal of `manifest`, holding all refs, and writes the manifest under its temporary name; both are durable
    /// afterwards, and neither counts. After an error the journal is removed, as far as possible.
    pub(super) fn write(
        io: &dyn Io,
        manifest: &Manifest,
        refs: &BTreeMap<String, Hash>,
        sequence: u64,
    ) -> Result<Begun> {
        let begun = manifest.write_new(io).and_then(|()| {
            // Whoever finds the journal without its manifest must find the temporary one, and so know that the journal is not in use.
            io.sync_dir().map_err(Error::io("sync the directory of", manifest::NEW_FILE))?;
            let begun = Begun::write_journal(io, manifest.active, &manifest.store, refs, sequence)?;
            io.sync_dir().map_err(Error::io("sync the directory of", &begun.journal.name))?;
            Ok(begun)
        });
        if begun.is_err() {
            // A full disk may need its bytes; if it cannot be removed it is overwritten the next time. The temporary manifest stays: the
            // journal's removal may be lost in a crash, and then only the manifest tells that it was never in use.
            let _ = io.remove(&journal::file_name(manifest.active));
        }
        begun
    }

    fn write_journal(
        io: &dyn Io,
        number: u32,
        store: &StoreId,
        refs: &BTreeMap<String, Hash>,
        sequence: u64,
    ) -> Result<Begun> {
        let name = journal::file_name(number);
        let header = journal::header(number, store);
        let key = journal::key_of(&header);
        let mut group = Group::new(Kind::Checkpoint);
        for (name, hash) in refs {
            group.put_record(&Change { name: name.clone(), old: None, new: Some(*hash) });
        }
        let offset = header.len() as u64;
        let place = Place { offset, previous: journal::first_check(&key), sequence, synced_end: 0 };
        let mut finished = group.finish();
        let (bytes, check) = finished.place(&key, &place);
        let whole = [&header[..], bytes].concat();
        let file = io.create(&name).map_err(Error::io("create", &name))?;
        file.write_at(&whole, 0).map_err(Error::io("write", &name))?;
        file.sync_data().map_err(Error::io("sync", &name))?;
        Ok(Begun { journal: Journal { number, name, file, key }, end: whole.len() as u64, check })
    }
}
