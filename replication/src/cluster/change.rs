//! A change of one database as it travels, in either direction: from a primary to its standby, and from a standby to a primary that lacks
//! what the standby has. Who sends walks the difference between what the other has and what is here ([`Reading`]); who receives verifies,
//! stores, keeps what would be lost, and moves its refs ([`Arriving`], then [`Arrived`]). Blocking. Called by `session` and `standby`.

use std::collections::HashSet;
use std::time::Instant;

use bytes::Bytes;
use pleach_engine::{Database, Hash, Hold, RefUpdate};
use pleach_protocol::limits::REFS_MAX;
use pleach_protocol::{Receiver, Sender};
use prost::Message;

use crate::cluster::applied::Position;
use crate::cluster::proto::{self, replicate_request::Message as Request};
use crate::error::{Error, Result};
use crate::limits::{UPDATES_A_MESSAGE, WHOLE_BYTES_MAX};
use crate::shared_refs::{self, KeptMoves, SharedRefs, Update};

/// A part of a change, whichever way it goes.
pub(crate) enum Part {
    Change(proto::Change),
    Updates(proto::Updates),
    Data(Bytes),
    Finish(proto::Finish),
}

impl Part {
    fn bytes(&self) -> usize {
        match self {
            Part::Change(change) => change.encoded_len(),
            Part::Updates(updates) => updates.encoded_len(),
            Part::Data(data) => data.len(),
            Part::Finish(finish) => finish.encoded_len(),
        }
    }
}

/// The parts of a change on their way out, kept back while they are small: so a small change travels as one message.
#[derive(Default)]
pub(crate) struct Gathered {
    parts: Vec<Part>,
    bytes: usize,
}

impl Gathered {
    /// Takes a part, and sends what there is once it is too much for one message.
    pub(crate) fn add(&mut self, part: Part, send: &mut dyn FnMut(Part) -> Result<()>) -> Result<()> {
        self.bytes = self.bytes.saturating_add(part.bytes());
        self.parts.push(part);
        if self.bytes <= WHOLE_BYTES_MAX { Ok(()) } else { self.parts.drain(..).try_for_each(send) }
    }

    /// The last message of the change, which has `records` records.
    pub(crate) fn last(self, records: u64) -> Request {
        if self.bytes > WHOLE_BYTES_MAX {
            return Request::Finish(proto::Finish { records });
        }
        let mut whole = proto::Whole { records, ..proto::Whole::default() };
        for part in self.parts {
            match part {
                Part::Change(change) => whole.change = Some(change),
                Part::Updates(part) => whole.updates.extend(part.updates),
                Part::Data(data) if whole.data.is_empty() => whole.data = data,
                Part::Data(data) => whole.data = [whole.data, data].concat().into(),
                Part::Finish(finish) => whole.records = finish.records,
            }
        }
        Request::Whole(whole)
    }
}

/// A database at one moment, to be sent.
pub(crate) struct Reading {
    /// The number of its last change then.
    pub(crate) sequence: u64,
    pub(crate) read_at: Instant,
    pub(crate) refs: SharedRefs,
    /// What makes these of what the receiver has.
    updates: Vec<Update>,
    /// Keeps what they name.
    pub(crate) kept: KeptMoves,
}

impl Reading {
    /// For who has `held` of it. If that is what was here after the change `seen`, and not long ago, only what changed since is looked at.
    pub(crate) fn of(database: &Database, mut held: SharedRefs, seen: Option<u64>) -> Result<Reading> {
        let read_at = Instant::now();
        let (sequence, changed, kept) = loop {
            let since = seen.and_then(|seen| database.refs_since(seen));
            let are_all = since.is_none();
            let (sequence, changed) = match since {
                Some((sequence, mut changed)) => {
                    changed.retain(|(name, _)| shared_refs::is_shared(name));
                    (sequence, changed)
                }
                // Read before the refs, which so include it.
                None => (database.sequence(), shared_refs::all_changed(&held, shared_refs::read(database))),
            };
            if let Some(kept) = KeptMoves::to(database, &changed, are_all)? {
                break (sequence, changed, kept);
            }
        };
        let updates = shared_refs::update(&mut held, &changed, |hash| database.store().contains(hash));
        Ok(Reading { sequence, read_at, refs: held, updates, kept })
    }

    /// Sends the change but for its Finish: what makes this of what the receiver has. `edits`: tables travel as rows that changed. Gives the
    /// number of its records.
    pub(crate) fn send(
        &self,
        database: &Database,
        change: proto::Change,
        edits: bool,
        send: &mut dyn FnMut(Part) -> Result<()>,
    ) -> Result<u64> {
        send(Part::Change(change))?;
        for part in self.updates.chunks(UPDATES_A_MESSAGE) {
            send(Part::Updates(proto::Updates { updates: part.iter().map(Into::into).collect() }))?;
        }
        let targets = shared_refs::targets(&self.updates);
        if targets.is_empty() {
            return Ok(0);
        }
        let knows = |hash: &Hash| database.store().contains(hash);
        let bases = shared_refs::bases(&self.refs, &self.updates, knows);
        let difference = pleach_engine::difference(database, &targets, &bases)?;
        let mut sender = Sender::new(database, difference)?.with_edits(edits);
        while let Some(data) = sender.next_message()? {
            send(Part::Data(data))?;
        }
        Ok(sender.records())
    }
}

/// A change on its way here.
pub(crate) struct Arriving {
    pub(crate) name: String,
    pub(crate) sequence: u64,
    database: Database,
    /// The database was made for this change.
    created: bool,
    updates: Vec<Update>,
    receiver: Receiver,
}

impl Arriving {
    /// The change of `database` that `change` begins.
    pub(crate) fn new(database: Database, created: bool, change: proto::Change) -> Result<Arriving> {
        let receiver = Receiver::new(&database)?;
        let (name, sequence) = (change.database, change.sequence);
        Ok(Arriving { name, sequence, database, created, updates: Vec::new(), receiver })
    }

    pub(crate) fn update(&mut self, part: proto::Updates) -> Result<()> {
        for update in part.updates {
            self.updates.push(update.try_into()?);
        }
        if self.updates.len() > REFS_MAX {
            return Err(Error::protocol(format!("more than {REFS_MAX} updates in a change")));
        }
        Ok(())
    }

    pub(crate) fn data(&mut self, data: &[u8]) -> Result<()> {
        Ok(self.receiver.receive(data)?)
    }

    /// Takes the end of the change: it has arrived whole, and a crash may still lose it.
    pub(crate) fn finish(self, records: u64) -> Result<Arrived> {
        let Arriving { name, sequence, database, created, updates, receiver } = self;
        let mut names = HashSet::new();
        if let Some(twice) = updates.iter().find(|update| !names.insert(&update.name)) {
            return Err(Error::protocol(format!("{} stands twice in a change", twice.name)));
        }
        let received = receiver.finish(records, &shared_refs::targets(&updates))?;
        Ok(Arrived { name, sequence, database, created, updates, received })
    }
}

/// A change that has arrived whole.
pub(crate) struct Arrived {
    pub(crate) name: String,
    pub(crate) sequence: u64,
    database: Database,
    created: bool,
    updates: Vec<Update>,
    received: pleach_protocol::Received,
}

impl Arrived {
    /// Gets ready to move the refs. `is_first`: the change need not go on from what is here, which is kept then.
    pub(crate) fn prepare(self, is_first: bool) -> Result<Prepared> {
        let Arrived { name, sequence, database, created, mut updates, received } = self;
        // Until the refs have moved, nothing else keeps what was received.
        let hold = received.append(&database)?;
        check(&database, &updates)?;
        if is_first {
            mark_lost(&database, &mut updates)?;
        }
        let moves = ref_updates(&database, created, updates);
        Ok(Prepared { name, sequence, database, moves, _hold: hold })
    }
}

/// A change of which only the refs are still to move.
pub(crate) struct Prepared {
    pub(crate) name: String,
    pub(crate) sequence: u64,
    database: Database,
    moves: Vec<RefUpdate>,
    _hold: Hold,
}

impl Prepared {
    /// Moves the refs of a standby, and notes how far it has come. Durable when it returns.
    pub(crate) fn apply(self, epoch: u64) -> Result<()> {
        let position = Position { epoch, sequence: self.sequence };
        if self.moves.is_empty() && Position::applied(&self.database)? == Some(position) {
            return Ok(());
        }
        let text = position.text();
        self.moved(self.database.update_refs_and_setting(&self.moves, Position::SETTING, &text))
    }

    /// The same of a primary that takes what a standby has. `is_own`: it led that epoch, and counts on from there.
    pub(crate) fn adopt(self, epoch: u64, is_own: bool) -> Result<()> {
        let position = Position { epoch, sequence: self.sequence };
        let (at, text) = (if is_own { self.sequence } else { 0 }, position.text());
        self.moved(self.database.update_refs_and_setting_at(at, &self.moves, Position::SETTING, &text))
    }

    fn moved(&self, moved: pleach_engine::Result<()>) -> Result<()> {
        moved.map_err(|error| match error {
            pleach_engine::Error::Moved { name } => Error::Moved { database: self.name.clone(), name },
            other => other.into(),
        })
    }
}

/// Checks that heads and tags become commits, and work becomes a catalogue.
fn check(database: &Database, updates: &[Update]) -> Result<()> {
    for update in updates {
        let Some(new) = &update.new else { continue };
        let fits = match update.name.starts_with("work/") {
            true => database.snapshot_of_root(*new).map(drop),
            false => database.commit_object(new).map(drop),
        };
        fits.map_err(|error| Error::protocol(format!("{}: {error}", update.name)))?;
    }
    Ok(())
}

/// Marks as diverged what the first change of a leader would lose. That the leader's store has it is not enough: chunks of a change that
/// was fenced stay there, though no ref of it ever named them.
fn mark_lost(database: &Database, updates: &mut [Update]) -> Result<()> {
    for update in updates {
        let Some(old) = update.old.filter(|old| update.new != Some(*old)) else { continue };
        let goes_on = match (update.name.strip_prefix("work/"), update.new) {
            // Work that was committed is kept by its head.
            (Some(branch), _) => match database.branch(branch)?.and_then(|branch| branch.head) {
                Some(head) => database.commit_object(&head)?.root == old,
                None => database.snapshot_of_root(old)?.tables()?.is_empty(),
            },
            (None, Some(new)) => database.is_ancestor(&old, &new)?,
            (None, None) => false,
        };
        update.diverged |= !goes_on;
    }
    Ok(())
}

/// The moves of a change, with what keeps a diverged value under `recovery/`.
fn ref_updates(database: &Database, created: bool, updates: Vec<Update>) -> Vec<RefUpdate> {
    let mut moves: Vec<RefUpdate> = Vec::with_capacity(updates.len());
    // A database that was just made has a first branch of its own, which nobody has seen.
    let mut made: SharedRefs = if created { shared_refs::read(database) } else { SharedRefs::new() };
    for Update { name, old, new, diverged } in updates {
        if let Some(lost) = old.filter(|_| diverged) {
            tracing::warn!(was = name, %lost, "the primary does not have this any more; it is kept under recovery/");
            moves.push(database.keep(&name, lost));
        }
        let old = old.or(made.remove(&name));
        moves.push(RefUpdate { name, old, new });
    }
    moves.extend(made.into_iter().map(|(name, old)| RefUpdate { name, old: Some(old), new: None }));
    moves
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::collections::BTreeSet;

    use pleach_engine::{Hash, NewCommit};

    use super::*;
    use crate::shared_refs::KeptRefs;

    fn put(database: &Database, value: &[u8]) {
        put_on(database, "main", value);
    }

    fn put_on(database: &Database, branch: &str, value: &[u8]) {
        let mut transaction = database.begin(branch).unwrap();
        if !transaction.has_table("t").unwrap() {
            transaction.create_table("t", None).unwrap();
        }
        transaction.put("t", b"k", value).unwrap();
        transaction.commit().unwrap();
    }

    fn is_lost(database: &Database, name: &str, old: Hash, new: Option<Hash>) -> bool {
        let mut updates = [Update { name: name.into(), old: Some(old), new, diverged: false }];
        mark_lost(database, &mut updates).unwrap();
        updates[0].diverged
    }

    /// What is sent of a change of `bytes` bytes of data: the messages before the last, and the last.
    fn sent(bytes: &[usize]) -> (usize, Request) {
        let (mut gathered, mut before) = (Gathered::default(), 0);
        let mut send = |_| {
            before += 1;
            Ok(())
        };
        let change = proto::Change { database: "shop".into(), ..proto::Change::default() };
        let update = Update { name: "heads/main".into(), old: None, new: None, diverged: false };
        let updates = proto::Updates { updates: vec![(&update).into()] };
        let parts = [Part::Change(change), Part::Updates(updates)];
        let data = bytes.iter().map(|bytes| Part::Data(vec![7; *bytes].into()));
        for part in parts.into_iter().chain(data) {
            gathered.add(part, &mut send).unwrap();
        }
        (before, gathered.last(3))
    }

    #[test]
    fn only_what_changed_is_looked_at_and_it_is_the_same_as_all() {
        let database = Database::memory().unwrap();
        put(&database, b"0");
        let head = database.commit("main", NewCommit::default()).unwrap().hash;
        (0..50).for_each(|n| database.create_branch(&format!("b{n}"), Some(head)).unwrap());
        let all = Reading::of(&database, SharedRefs::new(), Some(u64::MAX)).unwrap();
        assert!(all.kept.are_all(), "nothing is known of that state");
        let (mut held, mut seen, mut kept) = (all.refs, all.sequence, KeptRefs::default());
        assert_eq!(held, shared_refs::read(&database));
        kept.go_on(all.kept);
        for n in 0..40 {
            let branch = format!("b{n}");
            put_on(&database, &branch, &[n]);
            match n % 5 {
                0 => drop(database.commit(&branch, NewCommit::default()).unwrap()),
                1 => database.delete_branch(&branch).unwrap(),
                2 => database.create_tag(&branch, head).unwrap(),
                3 => database.rename_branch(&branch, &format!("c{n}")).unwrap(),
                // Back to what it was: nothing is to be sent.
                _ => database.reset(&branch, &head, true).unwrap(),
            }
            let whole = Reading::of(&database, held.clone(), None).unwrap();
            let reading = Reading::of(&database, held, Some(seen)).unwrap();
            assert_eq!(reading.refs, shared_refs::read(&database), "{n}");
            let by_name = |mut updates: Vec<Update>| {
                updates.sort_by(|one, other| one.name.cmp(&other.name));
                updates
            };
            assert_eq!(by_name(reading.updates), by_name(whole.updates), "{n}");
            assert!(!reading.kept.are_all() && reading.kept.roots().count() <= 2, "{n}");
            kept.go_on(reading.kept);
            drop(whole.kept);
            let roots: BTreeSet<Hash> = reading.refs.values().copied().collect();
            assert_eq!(kept.roots().collect::<BTreeSet<_>>(), roots, "{n}");
            assert_eq!(database.store().stats().pinned_roots, roots.len() as u64, "{n}");
            (held, seen) = (reading.refs, reading.sequence);
        }
        // More than is remembered.
        (0..600).for_each(|n| database.create_branch(&format!("d{n}"), Some(head)).unwrap());
        let reading = Reading::of(&database, held, Some(seen)).unwrap();
        assert!(reading.kept.are_all() && reading.updates.len() == 1200);
        assert_eq!(reading.refs, shared_refs::read(&database));
    }

    #[test]
    fn a_small_change_is_one_message() {
        for bytes in [&[][..], &[100], &[100, 200], &[WHOLE_BYTES_MAX - 100]] {
            let (before, last) = sent(bytes);
            let Request::Whole(whole) = last else { panic!("{bytes:?}: {last:?}") };
            assert_eq!((before, whole.records, whole.data.len()), (0, 3, bytes.iter().sum()), "{bytes:?}");
            assert_eq!((whole.change.unwrap().database, whole.updates.len()), ("shop".into(), 1));
        }
        for (bytes, parts) in [(&[WHOLE_BYTES_MAX][..], 3), (&[9_000, 9_000, 1], 5)] {
            let (before, last) = sent(bytes);
            assert_eq!(before, parts, "{bytes:?}");
            assert!(matches!(last, Request::Finish(proto::Finish { records: 3 })), "{bytes:?}: {last:?}");
        }
    }

    #[test]
    fn the_first_change_of_a_leader_keeps_what_it_does_not_go_on_from() {
        let database = Database::memory().unwrap();
        put(&database, b"1");
        let first = database.commit("main", NewCommit::default()).unwrap();
        put(&database, b"2");
        let second =
            database.commit("main", NewCommit { message: "tail".into(), ..NewCommit::default() }).unwrap();
        assert!(!is_lost(&database, "heads/main", first.hash, Some(second.hash)), "it goes on");
        assert!(is_lost(&database, "heads/main", second.hash, Some(first.hash)), "the tail is left behind");
        assert!(is_lost(&database, "heads/main", second.hash, None), "the branch is gone");
        assert!(!is_lost(&database, "work/main", second.root, Some(first.root)), "the head keeps it");
        put(&database, b"3");
        let work = database.branch("main").unwrap().unwrap().work;
        assert!(is_lost(&database, "work/main", work, Some(second.root)), "nothing else keeps it");
    }
}
