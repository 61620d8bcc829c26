//! What a partial store lacks: chunks that a remote has promised, and how they come when they are read.
//!
//! One idea: a chunk is absent and promised, or absent and missing, and which of the two is written with those that name it: their frames are marked
//! as *partial* ([`crate::frame`]) when children of theirs are not here. So nothing is noted of the promised chunks themselves, of which there may be
//! any number. One that is read comes from the [`Source`] and stays, as if it had always been here; no ref moves, and nothing waits for the disk, as
//! what a crash takes is asked for again.
//!
//! Only [`Store::get`] and [`Store::child`] ask. Whatever looks at the store as it is (fsck, collection, compaction, backups) never does.
//!
//! Several readers of one absent chunk share one request ([`Request`]). Whoever reads children in order asks for more and more at a time
//! ([`ReadAhead`]).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

use super::{Outcome, Store};
use crate::batch::Batch;
use crate::chunk::Chunk;
use crate::error::{Error, Result, SourceError};
use crate::hash::Hash;
use crate::index::Uniformly;
use crate::stats::count;

/// So many children, at most, are asked for together.
const AHEAD_MAX: usize = 256;
/// So many readers are seen to read in order beside each other, levels of a tree counted apart.
const WALKS_MAX: usize = 8;
/// What a source sends is appended so many bytes at a time.
const BATCH_BYTES: usize = 64 << 20;
/// How often somebody who waits for another's request looks whether it was cancelled.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Where the chunks are that a partial store lacks: a remote.
pub trait Source: Send + Sync {
    /// The chunks with these hashes that the source has: the first in any case, of the others as many as it likes to send at once. What was not asked
    /// for may come with them, and is kept.
    ///
    /// No lock of the store is held meanwhile. The answer must not be looked for by reading through the store what it lacks, which would wait for
    /// this answer: [`Store::local`] does not.
    fn chunks(&self, wanted: &[Hash]) -> Result<Vec<Chunk>, SourceError>;
}

/// What there is of a partial store beside its chunks.
#[derive(Default)]
pub(super) struct Promised {
    is_partial: AtomicBool,
    source: RwLock<Option<Arc<dyn Source>>>,
    /// The request that each chunk was asked for with, while it is under way.
    requests: Mutex<HashMap<Hash, Arc<Request>, Uniformly>>,
    ahead: Mutex<ReadAhead>,
}

impl Promised {
    pub(super) fn is_partial(&self) -> bool {
        self.is_partial.load(Ordering::Relaxed)
    }

    /// Begins a request for `hash`, and with it for those of `ahead` that nobody asks for; or gives the request that `hash` is asked for with.
    fn begin(&self, hash: &Hash, ahead: Vec<Hash>) -> Begun<'_> {
        let mut requests = self.requests.lock();
        if let Some(request) = requests.get(hash) {
            return Begun::Theirs(request.clone());
        }
        let mut wanted = vec![*hash];
        wanted.extend(ahead.into_iter().filter(|hash| !requests.contains_key(hash)));
        let request = Arc::new(Request { first: *hash, state: Mutex::default(), ended: Condvar::new() });
        requests.extend(wanted.iter().map(|hash| (*hash, request.clone())));
        Begun::Ours(Asking { promised: self, request, wanted })
    }
}

enum Begun<'a> {
    Ours(Asking<'a>),
    Theirs(Arc<Request>),
}

type Answer = Result<Vec<Chunk>, SourceError>;

/// A request under way, for all who read what it asks for.
struct Request {
    /// What the source was to send in any case.
    first: Hash,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
enum State {
    #[default]
    Asked,
    /// With an answer, unless whoever asked gave up.
    Ended(Option<Answer>),
}

impl Request {
    /// Waits for the end of the request, or until `check` fails.
    fn wait(&self, check: impl Fn() -> Result<()>) -> Result<Option<Answer>> {
        let mut state = self.state.lock();
        loop {
            if let State::Ended(answer) = &*state {
                return Ok(answer.clone());
            }
            check()?;
            self.ended.wait_for(&mut state, LOOK_EVERY);
        }
    }
}

/// The right to ask for these chunks. When it is dropped the request has ended.
struct Asking<'a> {
    promised: &'a Promised,
    request: Arc<Request>,
    wanted: Vec<Hash>,
}

impl Asking<'_> {
    fn end(self, answer: &Answer) {
        *self.request.state.lock() = State::Ended(Some(answer.clone()));
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut requests = self.promised.requests.lock();
        self.wanted.iter().for_each(|hash| drop(requests.remove(hash)));
        drop(requests);
        let mut state = self.request.state.lock();
        if let State::Asked = &*state {
            *state = State::Ended(None);
        }
        drop(state);
        self.request.ended.notify_all();
    }
}

impl Store {
    /// Makes the store partial, for all its handles, until it is closed: from now on chunks may be appended whose strong children are neither here nor in
    /// the batch. They are promised by a remote, and what is appended is marked as naming such. A store that is not partial takes children to
    /// be here, as long as whoever appends keeps to that.
    ///
    /// Called by whoever opens a store that is a copy of a part of another, before anything is read.
    pub fn set_partial(&self) {
        self.shared.promised.is_partial.store(true, Ordering::Relaxed);
    }

    /// Whether the store was made partial since it was opened.
    pub fn is_partial(&self) -> bool {
        self.shared.promised.is_partial()
    }

    /// Where a partial store gets what it lacks, for all its handles; without a source, reading that is [`Error::NotLocal`]. A source that has a handle
    /// of this store keeps it open.
    pub fn set_source(&self, source: Option<Arc<dyn Source>>) {
        *self.shared.promised.source.write() = source;
    }

    /// Whether the chunk is here, and its frame says that children of it are promised.
    pub(crate) fn is_partial_chunk(&self, hash: &Hash) -> bool {
        self.shared.locate(hash).is_ok_and(|found| found.is_some_and(|(found, _)| found.place.partial))
    }

    /// The child of `parent` at `index`, which the store lacks.
    pub(super) fn fetch_child(&self, parent: &Chunk, index: usize, hash: Hash) -> Result<Option<Chunk>> {
        let is_here = |index| parent.child(index).is_none_or(|child| self.contains(&child));
        let count = self.shared.promised.ahead.lock().missed(parent, index, is_here);
        let ahead = (index + 1..index + count).filter_map(|index| parent.child(index));
        self.fetch(hash, ahead.collect())
    }

    /// The chunk `hash`, which the store lacks, from the source; with it come those of `ahead` that are not here.
    pub(super) fn fetch(&self, hash: Hash, ahead: Vec<Hash>) -> Result<Option<Chunk>> {
        let promised = &self.shared.promised;
        loop {
            let Some(source) = promised.source.read().clone() else { return Err(Error::NotLocal { hash }) };
            let (answer, first) = match promised.begin(&hash, ahead.clone()) {
                Begun::Ours(asking) => {
                    // It may have come just before it was our turn.
                    if let Some(chunk) = self.local(&hash)? {
                        return Ok(Some(chunk));
                    }
                    (Some(self.ask(&*source, asking)), hash)
                }
                Begun::Theirs(request) => (request.wait(|| self.check_cancelled())?, request.first),
            };
            self.check_cancelled()?;
            match answer {
                Some(Err(source)) => return Err(Error::SourceFailed { hash, source }),
                Some(Ok(chunks)) => {
                    let found = chunks.into_iter().find(|chunk| *chunk.hash() == hash);
                    if found.is_some() || first == hash {
                        return Ok(found);
                    }
                    // It was left out of an answer to somebody who reads ahead.
                }
                None => {}
            }
        }
    }

    /// Asks the source, and keeps what it sends. Nothing is held meanwhile but the right to ask for these.
    fn ask(&self, source: &dyn Source, asking: Asking<'_>) -> Answer {
        let counters = &self.shared.counters;
        count(&counters.source_requests, 1);
        let first = asking.request.first;
        let absent = |hash: &&Hash| **hash == first || !self.contains(hash);
        let wanted: Vec<Hash> = asking.wanted.iter().filter(absent).copied().collect();
        let answer = source.chunks(&wanted);
        if let Ok(chunks) = &answer {
            count(&counters.source_chunks, chunks.len() as u64);
            self.keep(chunks, &first);
        }
        // After they were appended: whoever asks from now on finds them.
        asking.end(&answer);
        answer
    }

    /// Appends what came. A store that cannot be written to, as its disk is full or somebody else writes it, has it in memory: what was read was
    /// read.
    fn keep(&self, chunks: &[Chunk], first: &Hash) {
        // What has come is kept, even if nobody wants it any longer.
        let store = Store { cancel: None, ..self.clone() };
        let append = |batch: Batch| matches!(store.append(batch, &[]), Ok(Outcome::Appended(_)));
        let (mut batch, mut is_kept) = (Batch::default(), true);
        for chunk in chunks {
            batch.put(chunk.clone(), None);
            if batch.bytes() >= BATCH_BYTES {
                is_kept &= append(std::mem::take(&mut batch));
            }
        }
        is_kept &= append(batch);
        for chunk in chunks.iter().filter(|chunk| !is_kept || chunk.hash() == first) {
            self.shared.cache.insert(*chunk.hash(), chunk.clone());
        }
    }
}

/// Which readers of children go on in order, and how far ahead of each is asked.
#[derive(Default)]
struct ReadAhead {
    /// The one that was last at work is the last.
    walks: VecDeque<Walk>,
}

/// A reader, as far as can be told from what was absent.
struct Walk {
    /// The node whose children were asked for last, and its level.
    parent: Hash,
    level: u8,
    /// The index after the last child that was asked for, and whether there is none.
    next: usize,
    is_over: bool,
    /// How many were asked for together.
    count: usize,
}

impl Walk {
    /// Whether the child of `parent` at `index` is the next one after those that were asked for: between them all is here.
    fn leads_to(&self, parent: &Chunk, index: usize, is_here: impl Fn(usize) -> bool) -> bool {
        let from = match self.parent == *parent.hash() {
            true => self.next,
            // The next node of the level, or any other: that is not known.
            false if self.is_over && self.level == parent.level() => 0,
            false => return false,
        };
        from <= index && (from..index).all(is_here)
    }
}

impl ReadAhead {
    /// How many children of `parent` are to be looked at from `index` on, where one is absent: twice as many as the last time, if that is where a
    /// reader goes on who reads in order, else one.
    fn missed(&mut self, parent: &Chunk, index: usize, is_here: impl Fn(usize) -> bool) -> usize {
        let known = self.walks.iter().rposition(|walk| walk.leads_to(parent, index, &is_here));
        let walk = known.and_then(|known| self.walks.remove(known));
        let count = walk.map_or(1, |walk| (2 * walk.count).min(AHEAD_MAX));
        if self.walks.len() == WALKS_MAX {
            self.walks.pop_front();
        }
        let next = index + count;
        let (parent, level, is_over) = (*parent.hash(), parent.level(), next >= parent.child_count());
        self.walks.push_back(Walk { parent, level, next, is_over, count });
        count
    }
}
