//! Push: sends what the remote lacks of some commits, and has it move its refs to them, all or none.
//!
//! Nothing is asked first: the difference is to what the remote had when it was last seen, and is on its way when the remote may
//! still refuse. If the remote is elsewhere than thought, but that is known here too, a second push is made from there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use pleach_engine::{Batch, Database, Extent, Hash, Outcome, Pins, difference};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::blocking;
use crate::error::{Error, Result, within};
use crate::flow::{Flow, Tally};
use crate::limits::{HAVES_MAX, MESSAGES_AHEAD, MOVE_ATTEMPTS, PROGRESS_MAX};
use crate::packs;
use crate::proto::{
    self, Begin, Finish, Progress, PushRequest, PushResult, Reason, Rejected, push_request, push_response,
    ref_update,
};
use crate::random;
use crate::reached::{Patience, Place, Reached};
use crate::refs::{
    HEADS, check_name, hash_from, hashes_from, hashes_to_bytes, known_place, local_name, settled,
    tracking_prefix,
};
use crate::remote::Remote;
use crate::sender::Sender;
use crate::transfer::{RefResult, RefStatus, Transfer, framed};
use crate::{FEATURE_EDITS, format_digest};

/// The reason of a ref that stayed because another one of its push was refused.
pub const HELD_BACK: &str = "it could have moved, but the push is one whole and another ref was refused";

/// What one ref of the remote is to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushUpdate {
    /// Its name there: `heads/BRANCH` or `tags/TAG`.
    pub name: String,
    /// The commit; `None` deletes the ref.
    pub new: Option<Hash>,
}

/// How much a push may override.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// Branches go forward, tags stay.
    No,
    /// A branch may move anywhere from where it was when it was last pushed or fetched, and a tag from where a primary that pushes on write last put it: an
    /// amended commit passes, what somebody else pushed is not overwritten.
    Known,
    /// Whatever is there is replaced; the remote keeps it under `recovery/`.
    Yes,
}

/// Moves refs of `remote`, known here as `name`. Branches that moved there move the tracking refs here.
///
/// A refusal is no error: the refs in the result are then `rejected`, and none moved.
///
/// # Errors
/// The transfer failed, also when it went on after the connection had broken. Refs moved only if it is [`Error::Uncertain`]; whether they did is told by pushing again.
pub async fn push(
    database: &Database,
    remote: &Remote,
    name: &str,
    updates: &[PushUpdate],
    force: Force,
) -> Result<Transfer> {
    if updates.is_empty() {
        return Ok(Transfer::default());
    }
    updates.iter().try_for_each(|update| check_name(&update.name))?;
    if let Some(place) = remote.place() {
        return packs::push(database, place, name, updates, force).await;
    }
    let plan = {
        let (database, remote, name, updates) =
            (database.clone(), remote.clone(), name.to_owned(), updates.to_vec());
        move || Attempt::first(&database, &remote, &name, &updates, force)
    };
    let attempt = blocking(plan).await?;
    let mut may_be_done = false;
    let pushed = exchange(database, remote, name, updates, force, attempt, &mut may_be_done).await;
    pushed.map_err(|error| match may_be_done {
        true => Error::uncertain(remote.url().to_string(), error),
        false => error,
    })
}

/// Sends attempts until one is answered for good; if there is an error, `may_be_done` says whether the remote may have got all of one.
async fn exchange(
    database: &Database,
    remote: &Remote,
    name: &str,
    updates: &[PushUpdate],
    force: Force,
    mut attempt: Attempt,
    may_be_done: &mut bool,
) -> Result<Transfer> {
    let mut transfer = Transfer::default();
    let (mut again, mut anew) = (true, true);
    let mut patience = Patience::default();
    loop {
        let went_on = attempt.reached != Reached::default();
        let sent = attempt.send(database, remote, &mut transfer).await;
        *may_be_done |= attempt.may_be_done;
        let answer = match sent {
            // The answer may be what was lost: under the same key the remote gives it again. Or it keeps what it has got: also if it heard
            // nothing for too long.
            Err(why @ (Error::Unreachable { .. } | Error::Refused { code: Code::Cancelled, .. })) => {
                attempt.was_cut = true;
                patience.wait(std::mem::take(&mut attempt.further), why).await?;
                continue;
            }
            // It does not: it was restarted, and its store was collected.
            Err(Error::Refused { code: Code::InvalidArgument, .. })
                if went_on && std::mem::take(&mut anew) =>
            {
                attempt.reached = Reached::default();
                continue;
            }
            answer => answer?,
        };
        match answer {
            push_response::Message::Progress(_) => {
                return Err(Error::protocol("a push ends with its answer"));
            }
            push_response::Message::Result(result) => {
                transfer.refs = moved(updates, &result)?;
                let (database, name, refs) = (database.clone(), name.to_owned(), transfer.refs.clone());
                blocking(move || remember(&database, &name, &refs)).await?;
                return Ok(transfer);
            }
            push_response::Message::Rejected(rejected)
                if rejected.send_chunks && attempt.begin.features & FEATURE_EDITS != 0 =>
            {
                tracing::warn!(remote = %remote.url(), "the remote does not take rows that changed; chunks are sent");
                attempt.begin.features &= !FEATURE_EDITS;
            }
            push_response::Message::Rejected(rejected) => {
                let refs = refused(updates, &rejected)?;
                let plan = {
                    let (database, updates) = (database.clone(), updates.to_vec());
                    move || attempt.after(&database, &rejected, &updates, force)
                };
                match blocking(plan).await? {
                    Some(next) if again => {
                        attempt = next;
                        again = false;
                    }
                    _ => {
                        transfer.refs = refs;
                        return Ok(transfer);
                    }
                }
            }
        }
    }
}

/// One push as it is sent: what is expected of the remote, and which commits are taken as held there.
struct Attempt {
    begin: Begin,
    bases: Vec<Hash>,
    targets: Vec<Hash>,
    /// The connection was cut.
    was_cut: bool,
    /// The remote may have got all of it, and not have been heard.
    may_be_done: bool,
    /// What the remote has got of it, and whether that became more since the last cut.
    reached: Reached,
    further: bool,
    /// Keeps bases and targets until the push is answered.
    pins: Pins,
}

impl Attempt {
    fn first(
        database: &Database,
        remote: &Remote,
        name: &str,
        updates: &[PushUpdate],
        force: Force,
    ) -> Result<Attempt> {
        let tracked = |update: &PushUpdate| known_place(database, name, &update.name);
        // What the pushed branches were comes first: of many refs, only so many are named.
        let mut bases: Vec<Hash> = updates.iter().filter_map(tracked).collect();
        bases.extend(database.refs(&tracking_prefix(name)).into_iter().map(|(_, hash)| hash));
        let begin = Begin {
            database: remote.url().database().to_owned(),
            idempotency_key: Bytes::copy_from_slice(&random::sixteen()),
            updates: updates.iter().map(|update| ref_update(update, tracked(update), force)).collect(),
            bases: Bytes::new(),
            format_digest: format_digest(),
            features: FEATURE_EDITS,
            resuming: false,
        };
        let targets = updates.iter().filter_map(|update| update.new).collect();
        Attempt::new(database, begin, targets, bases)
    }

    fn new(
        database: &Database,
        mut begin: Begin,
        targets: Vec<Hash>,
        mut bases: Vec<Hash>,
    ) -> Result<Attempt> {
        let mut seen = std::collections::HashSet::new();
        bases.retain(|base| seen.insert(*base));
        bases.truncate(HAVES_MAX);
        let pins = Pins::of(database.store(), targets.iter().chain(&bases).copied())?;
        // A base that is gone is a tracking ref that has moved meanwhile.
        bases.retain(|base| pins.contains(base));
        begin.bases = hashes_to_bytes(&bases);
        Ok(Attempt {
            begin,
            bases,
            targets,
            was_cut: false,
            may_be_done: false,
            reached: Reached::default(),
            further: false,
            pins,
        })
    }

    /// A better attempt, if the refusal came from not knowing what the remote has, and what it has is known here.
    fn after(
        &self,
        database: &Database,
        rejected: &Rejected,
        updates: &[PushUpdate],
        force: Force,
    ) -> Result<Option<Attempt>> {
        let unknown = hashes_from(&rejected.unknown_bases, "unknown_bases", HAVES_MAX)?;
        let found = found(rejected)?;
        let mut bases: Vec<Hash> = found.values().filter_map(|(hash, _)| *hash).collect();
        bases.extend(&self.bases);
        bases.retain(|base| !unknown.contains(base) && database.commit_object(base).is_ok());
        let mut begin =
            Begin { idempotency_key: Bytes::copy_from_slice(&random::sixteen()), ..self.begin.clone() };
        for (update, sent) in updates.iter().zip(&mut begin.updates) {
            match found.get(&update.name) {
                Some((now, Reason::Moved)) => {
                    if !goes_on_from(database, *now, update, force)? {
                        return Ok(None);
                    }
                    *sent = ref_update(update, *now, force);
                }
                Some((_, Reason::Unspecified)) | None => {}
                Some(_) => return Ok(None),
            }
        }
        Attempt::new(database, begin, self.targets.clone(), bases).map(Some)
    }

    /// Sends it all without waiting, unless the answer comes earlier. What the remote says that it has got is noted.
    async fn send(
        &mut self,
        database: &Database,
        remote: &Remote,
        transfer: &mut Transfer,
    ) -> Result<push_response::Message> {
        let (messages, stream) = mpsc::channel(MESSAGES_AHEAD);
        let (tell, told) = std::sync::mpsc::channel();
        let answered = Arc::new(AtomicBool::new(false));
        let sending = Sending {
            database: database.clone(),
            begin: Begin { resuming: self.was_cut, ..self.begin.clone() },
            targets: self.targets.clone(),
            bases: self.bases.clone(),
            known: self.reached.clone(),
            told,
            tally: remote.flow().begin(),
            flow: remote.flow().clone(),
            messages,
            answered: answered.clone(),
            bytes: 0,
            _pins: self.pins.clone(),
        };
        let sending = tokio::task::spawn_blocking(move || sending.run());
        let answer = self.answer(remote, stream, tell, transfer).await;
        answered.store(true, Ordering::Relaxed);
        let sent = sending.await.map_err(|lost| Error::Lost { what: lost.to_string() })?;
        transfer.round_trips += 1;
        // What broke here is why the remote saw no end.
        let sent = sent?;
        transfer.bytes_sent += sent.bytes;
        transfer.chunks += sent.records;
        if let (Ok(push_response::Message::Result(_)), Some((tally, done))) = (&answer, sent.tally) {
            tally.end(done);
        }
        answer
    }

    /// Opens the push and waits for its one answer.
    async fn answer(
        &mut self,
        remote: &Remote,
        messages: mpsc::Receiver<PushRequest>,
        tell: std::sync::mpsc::Sender<Reached>,
        transfer: &mut Transfer,
    ) -> Result<push_response::Message> {
        let mut client = remote.client()?;
        let response = client.push(ReceiverStream::new(messages)).await;
        let response = response.map_err(|status| {
            self.may_be_done |= !is_answer(&status) && !was_never_connected(&status);
            remote.error(status)
        })?;
        let mut answers = response.into_inner();
        let (mut tell, mut told) = (Some(tell), 0);
        loop {
            let answer = answers.message().await.map_err(|status| {
                self.may_be_done |= !is_answer(&status);
                remote.error(status)
            })?;
            let answer = answer.ok_or_else(|| Error::protocol("a push was not answered"))?;
            transfer.received(&answer);
            match answer.message.ok_or_else(|| Error::protocol("a push was answered with nothing"))? {
                push_response::Message::Progress(Progress { commits, place }) => {
                    let commits = hashes_from(&commits, "commits", HAVES_MAX)?;
                    let place = place.as_ref().map(Place::from_proto).transpose()?;
                    self.further |= self.reached.go_on(Reached { commits, place });
                    // Whoever sends needs only the first, and may be gone.
                    let _ = tell.take().map(|tell| tell.send(self.reached.clone()));
                    told += 1;
                    within("words on how far a push has come", told, PROGRESS_MAX)?;
                }
                answer => return Ok(answer),
            }
        }
    }
}

/// Whether it is the remote that says that the push failed, and knows that it did.
fn is_answer(status: &Status) -> bool {
    let is_sure = !matches!(
        status.code(),
        Code::Unavailable
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
            | Code::DataLoss
            | Code::DeadlineExceeded
    );
    is_sure && std::error::Error::source(status).is_none()
}

/// Whether there was no connection by which anything could have been sent.
fn was_never_connected(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether a push whose ref is elsewhere than thought may go on from there.
fn goes_on_from(database: &Database, now: Option<Hash>, update: &PushUpdate, force: Force) -> Result<bool> {
    let is_branch = update.name.starts_with(HEADS);
    match (now, update.new, force) {
        (None, ..) => Ok(true),
        (Some(now), Some(new), _) if now == new => Ok(true),
        (_, _, Force::Known) => Ok(false),
        // A tag's place was never known; the remote says whether it may move.
        (Some(_), ..) if !is_branch => Ok(true),
        (Some(now), Some(new), _) => {
            Ok(database.commit_object(&now).is_ok() && database.is_ancestor(&now, &new)?)
        }
        // What somebody else put there is not deleted unseen.
        (Some(_), None, _) => Ok(false),
    }
}

/// What the thread does that gives the messages of a push, until there is an answer.
struct Sending {
    database: Database,
    begin: Begin,
    targets: Vec<Hash>,
    bases: Vec<Hash>,
    /// What the remote was known to have of a push that was cut, and where it says what it has.
    known: Reached,
    told: std::sync::mpsc::Receiver<Reached>,
    flow: Flow,
    tally: Tally,
    messages: mpsc::Sender<PushRequest>,
    answered: Arc<AtomicBool>,
    bytes: u64,
    /// Keep targets and bases here.
    _pins: Pins,
}

/// What was sent.
struct Produced {
    bytes: u64,
    records: u64,
    /// What was sent, to be told as done when that is answered.
    tally: Option<(Tally, Extent)>,
}

impl Sending {
    fn run(mut self) -> Result<Produced> {
        let begin = self.begin.clone();
        let (edits, resuming) = (begin.features & FEATURE_EDITS != 0, begin.resuming);
        let mut going = self.emit(push_request::Message::Begin(begin));
        let reached = match resuming && going {
            true => self.told.recv().ok(),
            false => Some(std::mem::take(&mut self.known)),
        };
        let Some(Reached { commits, place }) = reached else {
            return Ok(Produced { bytes: self.bytes, records: 0, tally: None });
        };
        // What is whole there counts as held; what it is was said by the remote, which may say anything.
        let commits = commits.into_iter().filter(|commit| self.database.commit_object(commit).is_ok());
        let bases: Vec<Hash> = commits.chain(self.bases.iter().copied()).collect();
        let mut difference = difference(&self.database, &self.targets, &bases)?;
        if let Some(Place { top, path }) = place {
            difference = difference.resumed(top, path);
        }
        let is_all = bases.is_empty();
        let mut sender =
            Sender::new(&self.database, difference)?.with_edits(edits).with_all(is_all).with_stored(true);
        while going {
            match sender.next_message()? {
                Some(data) => {
                    going = self.emit(push_request::Message::Data(data));
                    let total = sender.totals()?.map(|totals| totals.total);
                    self.tally.at(sender.done(), total);
                }
                None => {
                    self.emit(push_request::Message::Finish(Finish { records: sender.records() }));
                    going = false;
                }
            }
        }
        Ok(Produced {
            bytes: self.bytes,
            records: sender.records(),
            tally: Some((self.tally, sender.done())),
        })
    }

    /// Whether more is wanted.
    fn emit(&mut self, message: push_request::Message) -> bool {
        let request = PushRequest { message: Some(message) };
        let len = framed(&request);
        let taken = self.messages.blocking_send(request).is_ok() && !self.answered.load(Ordering::Relaxed);
        self.bytes += len;
        self.flow.sent_blocking(len);
        taken
    }
}

fn ref_update(update: &PushUpdate, expected: Option<Hash>, force: Force) -> proto::RefUpdate {
    let expected = match (force, expected) {
        (Force::Yes, _) => ref_update::Expected::Any(true),
        (_, Some(old)) => ref_update::Expected::Old(Bytes::copy_from_slice(old.as_bytes())),
        (_, None) => ref_update::Expected::Absent(true),
    };
    proto::RefUpdate {
        name: update.name.clone(),
        new: update.new.map(|new| Bytes::copy_from_slice(new.as_bytes())).unwrap_or_default(),
        expected: Some(expected),
        force: force != Force::No,
    }
}

/// What the remote found, by ref.
fn found(rejected: &Rejected) -> Result<BTreeMap<String, (Option<Hash>, Reason)>> {
    let mut found = BTreeMap::new();
    for one in &rejected.refs {
        found.insert(one.name.clone(), (optional(&one.found)?, one.reason()));
    }
    Ok(found)
}

fn refused(updates: &[PushUpdate], rejected: &Rejected) -> Result<Vec<RefResult>> {
    let details: BTreeMap<&String, &proto::RefRejection> =
        rejected.refs.iter().map(|one| (&one.name, one)).collect();
    let result = |update: &PushUpdate| {
        let one = details.get(&update.name);
        let reason = match one {
            Some(one) if !one.detail.is_empty() => one.detail.clone(),
            _ => HELD_BACK.to_owned(),
        };
        let old = one.map(|one| optional(&one.found)).transpose()?.flatten();
        if one.is_some() && old == update.new {
            return Ok(RefResult {
                name: update.name.clone(),
                old,
                new: update.new,
                status: RefStatus::Unchanged,
            });
        }
        Ok(RefResult {
            name: update.name.clone(),
            old,
            new: update.new,
            status: RefStatus::Rejected { reason },
        })
    };
    updates.iter().map(result).collect()
}

/// What became of the refs that were pushed: all of them, and no others.
fn moved(updates: &[PushUpdate], result: &PushResult) -> Result<Vec<RefResult>> {
    let mut waiting: BTreeMap<&String, Option<Hash>> =
        updates.iter().map(|update| (&update.name, update.new)).collect();
    let mut one = |moved: &proto::RefMoved| {
        if waiting.remove(&moved.name) != Some(optional(&moved.new)?) {
            return Err(Error::protocol("the answer to a push says that something else moved"));
        }
        let status = match moved.status() {
            proto::RefStatus::Unchanged => RefStatus::Unchanged,
            proto::RefStatus::New => RefStatus::New,
            proto::RefStatus::Updated => RefStatus::Updated,
            proto::RefStatus::Forced => RefStatus::Forced,
            proto::RefStatus::Deleted => RefStatus::Deleted,
        };
        Ok(RefResult {
            name: moved.name.clone(),
            old: optional(&moved.old)?,
            new: optional(&moved.new)?,
            status,
        })
    };
    let results = result.refs.iter().map(&mut one).collect::<Result<_>>()?;
    match waiting.is_empty() {
        true => Ok(results),
        false => Err(Error::protocol("the answer to a push does not say what became of each ref")),
    }
}

/// Moves the tracking refs to what the remote now has.
pub(crate) fn remember(database: &Database, name: &str, refs: &[RefResult]) -> Result<()> {
    let hold = database.store().hold();
    for _ in 0..MOVE_ATTEMPTS {
        let mut moves = Vec::new();
        for one in refs.iter().filter(|one| one.name.starts_with(HEADS)) {
            let local = local_name(name, &one.name);
            let old = database.get_ref(&local);
            // A commit of the remote that is not here has no tracking ref until it is fetched.
            if old != one.new && one.new.is_none_or(|new| hold.keep(&new)) {
                moves.push(pleach_engine::RefUpdate { name: local, old, new: one.new });
            }
        }
        if moves.is_empty() {
            return Ok(());
        }
        if let Outcome::Appended(_) = database.update_refs(Batch::default(), &moves)? {
            return Ok(());
        }
        settled(database)?;
    }
    // The next fetch puts it right.
    Ok(())
}

fn optional(bytes: &Bytes) -> Result<Option<Hash>> {
    if bytes.is_empty() { Ok(None) } else { hash_from(bytes, "hash").map(Some) }
}
