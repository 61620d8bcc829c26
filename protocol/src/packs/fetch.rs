//! Fetch from a directory or bucket: finds the head, reads the manifests since, and gives their packs to the same receiver that takes the
//! messages of a server.
//!
//! Where to begin is proven, not believed: at a manifest all of whose refs are here. If a pack is gone, since it was merged with others
//! or rewritten while this database was away, the fetch begins again from what the head lists.
//!
//! A fetch that is cut leaves what it stored, and notes the last pack with which a piece of the stream was complete (`receiver`): as the setting
//! `fetching.REMOTE`, the pack's key. The next one reads what comes after that pack. If what was stored is gone meanwhile, that shows in what comes
//! after, and the fetch begins as if there were no note.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use pleach_engine::{Database, Hash, Hold};
use tokio::sync::mpsc;

use super::Place;
use super::gets::Gets;
use super::log::{self, View};
use super::manifest::Pack;
use super::position::{self, Position, Refs};
use crate::client::{RemoteRefs, Settle, blocking, forget_note, move_refs, note_key};
use crate::error::{Error, ErrorKind, Result};
use crate::flow::Tally;
use crate::limits::{FETCH_ATTEMPTS, PACK_BYTES_MAX, PACKS_AHEAD};
use crate::reached::Reached;
use crate::receiver::Receiver;
use crate::refs::{HEADS, RefPatterns};
use crate::transfer::{RefResult, Transfer};

/// From where packs are read, each more certain than the one before and none shorter.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Start {
    /// The newest manifest all of whose refs are here.
    Proven,
    /// The packs that the head lists and that have something newer than that.
    Listed,
    /// All packs that the head lists.
    Everything,
}

/// What is to be read.
struct Route {
    packs: Vec<Pack>,
    /// Keeps what the packs build upon.
    hold: Hold,
    start: Start,
    /// Whether packs were left out that an earlier fetch noted.
    goes_on: bool,
}

/// A pack that was read, or `None` after the last: so that what was cut is not taken for all.
type Got = Option<(Pack, Bytes)>;

/// What became of one attempt.
enum Attempt {
    Done(Vec<RefResult>, String),
    /// A pack was gone, or built upon what is not here: read more.
    Again(Start, Error),
    /// The log was trimmed while it was read.
    Moved,
}

/// Fetches as [`client`](crate::client) does from a server. Also gives the branch to work on after a clone.
pub(crate) async fn fetch(
    database: &Database,
    place: &Place,
    name: &str,
    patterns: &RefPatterns,
    settle: Settle,
) -> Result<(Transfer, String)> {
    let mut transfer = Transfer::default();
    let settle = Arc::new(settle);
    let mut start = Start::Proven;
    let mut last = Error::Cut { records: 0 };
    for _ in 0..FETCH_ATTEMPTS {
        match attempt(database, place, name, patterns, &settle, start, &mut transfer).await? {
            Attempt::Done(refs, branch) => {
                transfer.refs = refs;
                return Ok((transfer, branch));
            }
            Attempt::Again(next, error) => (start, last) = (next, error),
            Attempt::Moved => {}
        }
    }
    Err(last)
}

async fn attempt(
    database: &Database,
    place: &Place,
    name: &str,
    patterns: &RefPatterns,
    settle: &Arc<Settle>,
    start: Start,
    transfer: &mut Transfer,
) -> Result<Attempt> {
    let known = remembered(database, name).await?;
    let Some(head) = log::head(place, known.as_ref().map(|known| &known.name), transfer).await? else {
        return Err(log::nothing(place));
    };
    let near = known.as_ref().filter(|_| start == Start::Proven);
    let Some(view) = log::view(place, head, near, transfer).await? else { return Ok(Attempt::Moved) };
    if let Some(last) = view.manifests.last() {
        crate::check_format(&place.url, last.format_digest);
    }
    let (route, view) = {
        let (database, name) = (database.clone(), name.to_owned());
        blocking(move || {
            Ok((route(&database, &view, known.as_ref(), start).after_note(&database, &name)?, view))
        })
        .await?
    };
    let Some((number, hash)) = view.head else { return Ok(Attempt::Moved) };
    let reached = Position { name: view.name, number, hash, refs: view.refs };
    let branch = default_branch(&reached.refs, patterns);
    let (packs, start, goes_on) = (route.packs, route.start, route.goes_on);
    let (messages, received) = mpsc::channel(1);
    let goal = Goal {
        reached,
        records: packs.iter().map(|pack| pack.records).sum(),
        name: name.to_owned(),
        patterns: patterns.clone(),
        settle: settle.clone(),
    };
    let thread = {
        let (database, tally) = (database.clone(), place.flow.begin());
        tokio::task::spawn_blocking(move || goal.store(&database, route.hold, received, tally))
    };
    let read = read(place, packs, messages, transfer).await;
    let stored = thread.await.map_err(|lost| Error::Lost { what: lost.to_string() })?;
    match (read, stored) {
        (_, Ok((records, refs))) => {
            transfer.chunks += records;
            Ok(Attempt::Done(refs, branch))
        }
        // A pack that is gone was merged meanwhile, and another one has its records.
        (Err(error @ Error::DamagedRemote { .. }), Err(Error::Cut { .. })) => {
            Ok(Attempt::Again(start.next().unwrap_or(start), error))
        }
        (Err(broken), Err(Error::Cut { .. })) => Err(broken),
        // What an earlier fetch stored was collected meanwhile.
        (_, Err(error)) if goes_on && error.kind() == ErrorKind::Peer => {
            let (database, name) = (database.clone(), name.to_owned());
            blocking(move || forget_note(&database, &name)).await?;
            Ok(Attempt::Again(start, error))
        }
        // What does not fit to what is here may fit to all that was ever pushed.
        (_, Err(error)) => match start.next().filter(|_| error.kind() == ErrorKind::Peer) {
            Some(next) => Ok(Attempt::Again(next, error)),
            None => Err(error),
        },
    }
}

impl Route {
    /// Without the packs up to the one that an earlier fetch noted.
    fn after_note(mut self, database: &Database, name: &str) -> Result<Route> {
        let Some(noted) = database.setting(&note_key(name))? else { return Ok(self) };
        let found = self.packs.iter().position(|pack| pack.inline.is_none() && pack.key() == noted);
        if let Some(last) = found {
            self.packs.drain(..=last);
            self.goes_on = true;
        }
        Ok(self)
    }
}

impl Start {
    fn next(self) -> Option<Start> {
        match self {
            Start::Proven => Some(Start::Listed),
            Start::Listed => Some(Start::Everything),
            Start::Everything => None,
        }
    }
}

/// What the database remembers of the remote.
pub(super) async fn remembered(database: &Database, name: &str) -> Result<Option<Position>> {
    let (database, name) = (database.clone(), name.to_owned());
    blocking(move || position::read(&database, &name)).await
}

/// Which packs to read, and what to keep for them.
fn route(database: &Database, view: &View, known: Option<&Position>, start: Start) -> Route {
    let hold = database.store().hold();
    let first = view.manifests.first().map_or(0, |manifest| manifest.number);
    // What is remembered was checked against the manifests that follow it, or is older than any that was read.
    let known = known.filter(|known| known.name == view.name && (!view.whole || known.number < first));
    // It is here, since refs name it; kept, it stays.
    let known = known.filter(|known| known.refs.values().all(|hash| hold.keep(hash)));
    let held = if view.whole { newest_held(view, &hold) } else { None };
    let proven = held.or(known.map(|known| known.number));
    let (start, packs): (Start, Vec<Pack>) = match (start, proven) {
        (Start::Proven, Some(number)) if number.saturating_add(1) >= first => {
            (Start::Proven, view.packs_from(number + 1).cloned().collect())
        }
        (Start::Proven | Start::Listed, Some(number)) => {
            (Start::Listed, view.packs().filter(|pack| pack.last > number).cloned().collect())
        }
        // Without what is listed, the manifests read are not everything.
        _ if !view.whole => (Start::Proven, view.packs().cloned().collect()),
        _ => (Start::Everything, view.packs().cloned().collect()),
    };
    Route { packs, hold, start, goes_on: false }
}

/// The newest of the manifests read all of whose refs are here.
fn newest_held(view: &View, hold: &Hold) -> Option<u64> {
    let (mut missing, mut newest) = (BTreeSet::new(), None);
    for (position, manifest) in view.manifests.iter().enumerate() {
        let everything = manifest.full.iter().filter(|_| position == 0).flat_map(|full| &full.refs);
        let everything = everything.map(|(name, hash)| (name, Some(hash)));
        let changes = manifest.changes.iter().filter(|_| position > 0);
        for (name, new) in everything.chain(changes.map(|change| (&change.name, change.new.as_ref()))) {
            match new {
                Some(new) if position::is_public(name) && !hold.keep(new) => missing.insert(name),
                _ => missing.remove(name),
            };
        }
        if missing.is_empty() {
            newest = Some(manifest.number);
        }
    }
    newest
}

/// Gives the bytes of packs to `messages`, in order.
async fn read(
    place: &Place,
    packs: Vec<Pack>,
    messages: mpsc::Sender<Got>,
    transfer: &mut Transfer,
) -> Result<()> {
    let keys: Vec<String> = packs.iter().filter(|pack| pack.inline.is_none()).map(Pack::key).collect();
    transfer.round_trips += u32::from(!keys.is_empty());
    let mut gets = Gets::new(place, keys, PACKS_AHEAD, PACK_BYTES_MAX);
    for pack in packs {
        let bytes = match pack.inline.clone() {
            Some(inline) => inline,
            None => {
                let key = pack.key();
                let bytes = gets.next().await.map_err(|error| place.damaged(&key, error))?;
                let bytes = bytes.ok_or_else(|| place.missing(&key))?;
                transfer.bytes_received += bytes.len() as u64;
                if !pack.is(&bytes) {
                    return Err(place.damaged(&key, Error::protocol("its bytes do not hash to its name")));
                }
                bytes
            }
        };
        if messages.send(Some((pack, bytes))).await.is_err() {
            // The thread found an error and says so itself.
            return Ok(());
        }
    }
    let _ = messages.send(None).await;
    Ok(())
}

/// What a fetch is for.
struct Goal {
    reached: Position,
    /// How many records there are to be.
    records: u64,
    name: String,
    patterns: RefPatterns,
    settle: Arc<Settle>,
}

impl Goal {
    /// Verifies and stores packs, then moves the refs and remembers the position. Gives the number of records, and what became of the
    /// refs.
    fn store(
        self,
        database: &Database,
        hold: Hold,
        mut packs: mpsc::Receiver<Got>,
        mut tally: Tally,
    ) -> Result<(u64, Vec<RefResult>)> {
        let mut receiver = Receiver::recorded(database, hold)?.of_fetch(false);
        let mut last = None;
        loop {
            match packs.blocking_recv() {
                Some(None) => break,
                Some(Some((pack, bytes))) => {
                    receiver.receive(&bytes)?;
                    tally.at(receiver.done(), None);
                    last = pack.inline.is_none().then(|| pack.key()).or(last);
                    if let Some(reached) = receiver.progress()? {
                        self.note(database, &reached, last.as_deref())?;
                    }
                }
                None => {
                    let records = receiver.records();
                    let (reached, _hold) = receiver.cut()?;
                    self.note(database, &reached, last.as_deref())?;
                    return Err(Error::Cut { records });
                }
            }
        }
        let refs = &self.reached.refs;
        let all: RemoteRefs = position::public(refs).map(|(name, hash)| (name.clone(), *hash)).collect();
        let wanted: Vec<Hash> = all.values().copied().collect();
        let received = receiver.finish_recorded(self.records, &wanted)?;
        let (records, done) = (received.records, received.done);
        let _hold = received.append(database)?;
        let chosen: RemoteRefs = all.into_iter().filter(|(name, _)| self.patterns.matches(name)).collect();
        let results = move_refs(database, &wanted, || {
            let (mut moves, results) = (self.settle)(database, &chosen)?;
            moves.extend(position::moves(database, &self.name, refs));
            Ok((moves, results))
        })?;
        position::write(database, &self.name, &self.reached)?;
        forget_note(database, &self.name)?;
        tally.end(done);
        Ok((records, results))
    }

    /// Notes that everything up to pack `last` is stored, if no piece of the stream is begun.
    fn note(&self, database: &Database, reached: &Reached, last: Option<&str>) -> Result<()> {
        match last {
            Some(last) if reached.place.is_none() => {
                Ok(database.set_setting(&note_key(&self.name), Some(last))?)
            }
            _ => Ok(()),
        }
    }
}

/// The branch to work on after a clone: `main`, else the first of those that are fetched.
fn default_branch(refs: &Refs, patterns: &RefPatterns) -> String {
    let mut heads = refs
        .keys()
        .filter(|name| patterns.matches(name))
        .filter_map(|name| name.strip_prefix(HEADS))
        .collect::<Vec<_>>();
    heads.sort_by_key(|head| *head != pleach_engine::DEFAULT_BRANCH);
    heads.first().map(|head| (*head).to_owned()).unwrap_or_default()
}
