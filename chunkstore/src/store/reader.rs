//! Reading beside whoever writes: from another process, without a lock.
//!
//! One idea: files that the manifest lists never change, but for the active journal, which only grows, and of that the watermark says how much is
//! durable. So a reader opens what a manifest lists, follows the journal up to the watermark, and begins again when there is another
//! manifest. What it has open stays readable when the writer removes it.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

use super::maintenance::sealed;
use super::recovery::{End, Opening};
use super::{Durable, Options, Shared, Store};
use crate::error::{Error, Result};
use crate::io::{Counted, Io, ReadOnly};
use crate::journal::Journal;
use crate::journal::replay::Replay;
use crate::manifest::{self, Manifest};
use crate::stats::Counters;
use crate::watermark::Watermark;

/// A writer that makes a new manifest each time this one's files are opened is too quick to be followed.
const ATTEMPTS_MAX: usize = 100;

/// How far the writer was followed.
pub(super) struct Follower {
    generation: u64,
    journal: Arc<Journal>,
    replay: Replay,
    watermark: Option<Watermark>,
}

/// Opens the store in `io` to read.
pub(super) fn open(io: Arc<dyn Io>, options: Options) -> Result<Store> {
    let counters = Arc::new(Counters::default());
    let io: Arc<dyn Io> = Arc::new(Counted { io: Arc::new(ReadOnly { io }), counters: counters.clone() });
    let (opening, manifest, follower) = open_files(&io, &options, &counters)?;
    let end = End { journal: follower.journal.clone(), replay: follower.replay.clone() };
    opening.finish(manifest, end, Some(follower))
}

/// Opens what the manifest lists, anew if there is another one meanwhile.
fn open_files(
    io: &Arc<dyn Io>,
    options: &Options,
    counters: &Arc<Counters>,
) -> Result<(Opening, Manifest, Follower)> {
    let read = || Manifest::read(&**io, manifest::FILE)?.ok_or_else(|| Error::NotFound { dir: io.place() });
    let Manifest { store, .. } = read()?;
    for attempt in 1.. {
        // In this order: what lies before the mark builds upon nothing that the manifest does not list.
        let watermark = Watermark::open_to_read(&**io, store)?;
        let manifest = read()?;
        let mut opening = Opening::to_read(io.clone(), options.clone(), counters.clone())?;
        let outcome = opening.load_tables(&manifest).and_then(|()| {
            manifest.sealed.iter().try_for_each(|sealed| opening.load_sealed(&manifest.store, sealed))?;
            follow(&**io, &manifest, watermark)
        });
        match outcome {
            Ok(follower) => return Ok((opening, manifest, follower)),
            // A file may be gone because another manifest does not list it.
            Err(_) if attempt < ATTEMPTS_MAX && generation(&**io)? != Some(manifest.generation) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::NotFound { dir: io.place() })
}

fn generation(io: &dyn Io) -> Result<Option<u64>> {
    Ok(Manifest::read(io, manifest::FILE)?.map(|manifest| manifest.generation))
}

fn follow(io: &dyn Io, manifest: &Manifest, watermark: Option<Watermark>) -> Result<Follower> {
    let journal = Journal::open(io, manifest.active, &manifest.store)?;
    let mark = watermark.as_ref().and_then(Watermark::mark).filter(|mark| mark.number == journal.number);
    let replay = Replay::durable(&journal, mark.map(|mark| mark.end))?;
    Ok(Follower { generation: manifest.generation, journal: Arc::new(journal), replay, watermark })
}

impl Store {
    /// Takes in what the writer made durable since this store was opened to read, or since the last refresh; whether that was anything. A
    /// store that was opened for writing has nothing to take in.
    pub fn refresh(&self) -> Result<bool> {
        match &self.shared.follower {
            Some(follower) => self.shared.refresh(follower),
            None => Ok(false),
        }
    }
}

impl Shared {
    fn refresh(&self, follower: &Mutex<Follower>) -> Result<bool> {
        let mut follower = follower.lock();
        // Read before the manifest is looked at: see `open_files`.
        let mark = follower.watermark.as_ref().and_then(Watermark::read_again);
        if generation(&*self.io)? != Some(follower.generation) {
            return self.read_anew(&mut follower).map(|()| true);
        }
        let Some(mark) = mark.filter(|mark| mark.number == follower.journal.number) else { return Ok(false) };
        if mark.end <= follower.replay.end {
            return Ok(false);
        }
        let journal = follower.journal.clone();
        follower.replay.follow(&journal, mark.end)?;
        for (hash, place) in follower.replay.entries.drain(..) {
            self.index.insert(hash, place);
        }
        self.show(&follower.replay);
        Ok(true)
    }

    /// Takes in another manifest.
    fn read_anew(&self, follower: &mut Follower) -> Result<()> {
        let (opening, manifest, next) = open_files(&self.io, &self.options, &self.counters)?;
        let (index, mut view) = opening.into_parts();
        view.journals.insert(next.journal.number, next.journal.clone());
        // Until no place in the index leads to them, the files of before stay in view.
        let mut both = view.clone();
        let before = self.view.load_full();
        for (number, journal) in &before.journals {
            both.journals.entry(*number).or_insert_with(|| journal.clone());
        }
        for (number, table) in &before.tables {
            both.tables.entry(*number).or_insert_with(|| table.clone());
        }
        self.view.store(Arc::new(both));
        for (hash, place) in index.entries().into_iter().chain(next.replay.entries.iter().copied()) {
            self.index.insert(hash, place);
        }
        let counts: BTreeSet<u32> = sealed(&manifest).into_iter().chain([next.journal.number]).collect();
        self.index.forget(|place| !counts.contains(&place.file));
        self.view.store(Arc::new(view));
        *self.manifest.lock() = manifest;
        self.show(&next.replay);
        *follower = next;
        follower.replay.entries.clear();
        Ok(())
    }

    fn show(&self, replay: &Replay) {
        *self.durable.write() = Durable::new(replay.refs.clone(), replay.sequence);
        self.appender.lock().refs = replay.refs.clone();
    }
}
