//! Answers one Push: refuses early what cannot succeed, verifies and stores the chunks, and moves all refs or none. Blocking.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use pleach_engine::{Batch, Branch, Commit, Database, Hash, Hold, Outcome, RefUpdate};
use tokio::sync::Notify;

use super::SyncService;
use crate::access::{Caller, Right};
use crate::error::{Error, Result, within};
use crate::limits::{
    ANSWER_REFS_MAX, ANSWERS_KEPT, CUT_PUSH_ENDS_WITHIN, CUT_PUSH_KEPT, CUT_PUSHES_KEPT, HAVES_MAX,
    MOVE_ATTEMPTS, REFS_MAX,
};
use crate::proto::{
    Begin, Progress, PushRequest, PushResult, Reason, RefMoved, RefRejection, RefStatus, Rejected,
    push_request, push_response::Message, ref_update,
};
use crate::reached::{Place, Reached};
use crate::receiver::{Received, Receiver};
use crate::refs::{HEADS, check_name, hash_from, hashes_from, hashes_to_bytes, settled};
use crate::transfer::{MOVED, NO_FAST_FORWARD, TAG_EXISTS};
use crate::{FEATURE_EDITS, may_send_edits};

/// Length of an idempotency key, in bytes.
const KEY_BYTES: usize = 16;

/// Answers to the last pushes, for callers who lost theirs.
#[derive(Default)]
pub(super) struct Answers(Mutex<VecDeque<(Hash, PushResult)>>);

/// The pushes that are under way, and what arrived of those that were cut, until they go on.
#[derive(Default)]
pub(super) struct Pushes {
    state: Mutex<PushesState>,
    ended: Condvar,
}

#[derive(Default)]
struct PushesState {
    /// By identity, what tells one to end.
    running: HashMap<Hash, Arc<Notify>>,
    cut: VecDeque<CutPush>,
}

struct CutPush {
    identity: Hash,
    since: tokio::time::Instant,
    reached: Reached,
    /// Keeps it from collection.
    hold: Hold,
}

/// A push that is under way, until it is dropped.
struct Running<'a> {
    pushes: &'a Pushes,
    identity: Hash,
    stop: Arc<Notify>,
}

/// Reads the messages of one push from `next` until it gives none, and answers it; says by `tell` how far it has come. `stop` makes `next` give
/// none.
pub(super) fn serve(
    service: &SyncService,
    caller: &Caller,
    next: &mut dyn FnMut() -> Option<PushRequest>,
    tell: &mut dyn FnMut(Message),
    stop: Arc<Notify>,
) -> Result<Message> {
    let begin = match next().and_then(|request| request.message) {
        Some(push_request::Message::Begin(begin)) => begin,
        Some(_) => return Err(Error::protocol("a push begins with Begin")),
        None => return Err(Error::Cut { records: 0 }),
    };
    caller.require(Right::Write, &begin.database)?;
    // What a push says is here already becomes part of what it makes: so it comes from those who may read all that is here.
    if !caller.may_all(Right::Read, &begin.database) {
        let whole = format!("all of database `{}`, and so may not push to it", begin.database);
        return Err(caller.refuse(Right::Read, &whole));
    }
    let admit = || {
        let refused = |what| Error::NotAllowed { url: begin.database.clone(), what };
        service.gate.admit(&begin.database).map_err(refused)
    };
    drop(admit()?);
    let updates = updates(&begin)?;
    for update in &updates {
        if !caller.may_ref(Right::Write, &begin.database, &update.name) {
            return Err(caller.refuse(Right::Write, &format!("{} of `{}`", update.name, begin.database)));
        }
    }
    let bases = hashes_from(&begin.bases, "bases", HAVES_MAX)?;
    let unknown = || Error::UnknownDatabase { url: begin.database.clone() };
    let database = service.databases.get(&begin.database)?.ok_or_else(unknown)?;
    let identity = identity(caller, &begin)?;
    let (_running, cut) = service.pushes.begin(identity, stop);
    if let Some(answer) = service.answers.find(&identity) {
        return Ok(Message::Result(answer));
    }
    // What arrived before it was cut stays until it is settled, and what the caller takes as held here.
    let (mut reached, kept) = cut.map(|cut| (cut.reached, cut.hold)).unzip();
    let reached: &mut Reached = reached.get_or_insert_default();
    let hold = database.store().hold();
    let bases_here = |base: &Hash| hold.keep(base) && database.commit_object(base).is_ok();
    let unknown: Vec<Hash> = bases.into_iter().filter(|base| !bases_here(base)).collect();
    if let Some(rejected) = early_refusal(&database, &updates, &unknown)? {
        return Ok(Message::Rejected(rejected));
    }
    if begin.features & FEATURE_EDITS != 0 && !may_send_edits(begin.format_digest, begin.features) {
        return Ok(Message::Rejected(Rejected { send_chunks: true, ..Rejected::default() }));
    }
    if begin.resuming {
        tell(progress(reached));
    }
    let received = match receive(Receiver::holding(&database, hold)?, &updates, next, tell) {
        Ok(Arrived::Whole(received)) => received,
        Ok(Arrived::Part { records, further, hold }) => {
            reached.go_on(further);
            // The first hold keeps all that arrived since.
            let (reached, hold) = (std::mem::take(reached), kept.unwrap_or(hold));
            service.pushes.keep(CutPush { identity, since: tokio::time::Instant::now(), reached, hold });
            return Err(Error::Cut { records });
        }
        Err(error @ Error::WrongEdits { .. }) => {
            tracing::error!(database = begin.database, "{error}; whole chunks are asked for");
            return Ok(Message::Rejected(Rejected { send_chunks: true, ..Rejected::default() }));
        }
        Err(error) => return Err(error),
    };
    let permit = admit()?;
    let answer = settle(&database, &updates, received)?;
    drop(permit);
    if let Message::Result(result) = &answer {
        service.answers.keep(identity, result.clone());
    }
    Ok(answer)
}

/// What the caller wants to become of one ref.
struct Update {
    name: String,
    new: Option<Hash>,
    expected: Expected,
    force: bool,
}

enum Expected {
    Is(Option<Hash>),
    Any,
}

fn updates(begin: &Begin) -> Result<Vec<Update>> {
    within("refs in a push", begin.updates.len(), REFS_MAX)?;
    let mut names = HashSet::new();
    let mut updates = Vec::with_capacity(begin.updates.len());
    for update in &begin.updates {
        check_name(&update.name)?;
        if !names.insert(&update.name) {
            return Err(Error::protocol(format!("{} stands twice in one push", update.name)));
        }
        let new = (!update.new.is_empty()).then(|| hash_from(&update.new, "new")).transpose()?;
        let expected = match &update.expected {
            Some(ref_update::Expected::Old(old)) => Expected::Is(Some(hash_from(old, "old")?)),
            Some(ref_update::Expected::Absent(true)) => Expected::Is(None),
            Some(ref_update::Expected::Any(true)) if update.force => Expected::Any,
            _ => {
                return Err(Error::protocol(format!(
                    "{}: expected old, absent, or any with force",
                    update.name
                )));
            }
        };
        updates.push(Update { name: update.name.clone(), new, expected, force: update.force });
    }
    if updates.is_empty() {
        return Err(Error::protocol("a push moves one ref at least"));
    }
    Ok(updates)
}

/// What makes two pushes the same: who pushes, the key, the database and the updates.
fn identity(caller: &Caller, begin: &Begin) -> Result<Hash> {
    if begin.idempotency_key.len() != KEY_BYTES {
        let found = begin.idempotency_key.len();
        return Err(Error::protocol(format!("idempotency_key has {found} bytes, expected {KEY_BYTES}")));
    }
    let whole = Begin { bases: Default::default(), resuming: false, ..begin.clone() };
    let name = caller.name().unwrap_or_default();
    let mut bytes = (name.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend(prost::Message::encode_to_vec(&whole));
    Ok(Hash::of(&bytes))
}

/// Refuses a push before its data arrives, if it can be known that it will be refused.
fn early_refusal(database: &Database, updates: &[Update], unknown: &[Hash]) -> Result<Option<Rejected>> {
    let mut rejected = match plan(database, updates)? {
        Planned::Refused(rejected) => rejected,
        Planned::Moves { .. } if unknown.is_empty() => return Ok(None),
        Planned::Moves { .. } => Rejected::default(),
    };
    rejected.unknown_bases = hashes_to_bytes(unknown);
    Ok(Some(rejected))
}

fn progress(Reached { commits, place }: &Reached) -> Message {
    let (commits, place) = (hashes_to_bytes(commits), place.as_ref().map(Place::to_proto));
    Message::Progress(Progress { commits, place })
}

/// What came of a push.
enum Arrived {
    Whole(Received),
    /// It was cut; what is complete is stored.
    Part {
        records: u64,
        further: Reached,
        hold: Hold,
    },
}

fn receive(
    mut receiver: Receiver,
    updates: &[Update],
    next: &mut dyn FnMut() -> Option<PushRequest>,
    tell: &mut dyn FnMut(Message),
) -> Result<Arrived> {
    loop {
        match next().and_then(|request| request.message) {
            Some(push_request::Message::Data(data)) => {
                receiver.receive(&data)?;
                if let Some(reached) = receiver.progress()? {
                    tell(progress(&reached));
                }
            }
            Some(push_request::Message::Finish(finish)) => {
                let wanted: Vec<Hash> = updates.iter().filter_map(|update| update.new).collect();
                return receiver.finish(finish.records, &wanted).map(Arrived::Whole);
            }
            Some(push_request::Message::Begin(_)) => return Err(Error::protocol("a push begins once")),
            None => {
                let (records, (further, hold)) = (receiver.records(), receiver.cut()?);
                return Ok(Arrived::Part { records, further, hold });
            }
        }
    }
}

/// Moves the refs by one compare-and-set. What moved between planning and moving is planned again.
fn settle(database: &Database, updates: &[Update], received: Received) -> Result<Message> {
    // The chunks are closed, and harmless if the push is refused now.
    let _hold = received.append(database)?;
    for new in updates.iter().filter_map(|update| update.new) {
        commit(database, &new)?;
    }
    let mut moved = String::new();
    for _ in 0..MOVE_ATTEMPTS {
        let (moves, refs) = match plan(database, updates)? {
            Planned::Refused(rejected) => return Ok(Message::Rejected(rejected)),
            Planned::Moves { moves, refs } => (moves, refs),
        };
        if moves.is_empty() {
            return Ok(Message::Result(PushResult { refs }));
        }
        match database.update_refs(Batch::default(), &moves)? {
            Outcome::Appended(_) => return Ok(Message::Result(PushResult { refs })),
            Outcome::Moved { name, .. } => moved = name,
        }
        settled(database)?;
    }
    Err(Error::Moved { name: moved })
}

/// The commit that a ref is to name. What is not one is the caller's mistake.
fn commit(database: &Database, hash: &Hash) -> Result<Commit> {
    database.commit_object(hash).map_err(|error| match error {
        pleach_engine::Error::Malformed { .. } => Error::protocol(format!("{hash} is no commit")),
        other => other.into(),
    })
}

enum Planned {
    Moves { moves: Vec<RefUpdate>, refs: Vec<RefMoved> },
    Refused(Rejected),
}

/// What the updates amount to, as the refs are now. Before the data has arrived, what depends on it is left open.
fn plan(database: &Database, updates: &[Update]) -> Result<Planned> {
    let (mut moves, mut refs, mut rejections, mut refused) = (Vec::new(), Vec::new(), Vec::new(), false);
    for update in updates {
        let found = database.get_ref(&update.name);
        let (reason, detail) = match plan_one(database, update, found, &mut moves)? {
            Ok(status) => {
                refs.push(RefMoved {
                    name: update.name.clone(),
                    old: to_bytes(found),
                    new: to_bytes(update.new),
                    status: status.into(),
                });
                (Reason::Unspecified, String::new())
            }
            Err((reason, detail)) => {
                refused = true;
                (reason, detail)
            }
        };
        let name = update.name.clone();
        rejections.push(RefRejection { name, found: to_bytes(found), reason: reason.into(), detail });
    }
    Ok(match refused {
        false => Planned::Moves { moves, refs },
        true => Planned::Refused(Rejected { refs: rejections, ..Rejected::default() }),
    })
}

/// What is planned for one ref, or why it cannot move, for programs and for people.
type OrRefusal<T> = std::result::Result<T, (Reason, String)>;

/// Plans one ref: appends what it takes to `moves`, or says why it cannot be moved.
fn plan_one(
    database: &Database,
    update: &Update,
    found: Option<Hash>,
    moves: &mut Vec<RefUpdate>,
) -> Result<OrRefusal<RefStatus>> {
    let name = &update.name;
    if found == update.new {
        return Ok(Ok(RefStatus::Unchanged));
    }
    if let Expected::Is(expected) = update.expected
        && expected != found
    {
        return Ok(Err((Reason::Moved, MOVED.to_owned())));
    }
    let branch = name.strip_prefix(HEADS);
    let work = match branch {
        Some(branch) => match plan_work(database, branch, update.new)? {
            Ok(work) => work,
            Err(refusal) => return Ok(Err(refusal)),
        },
        None => None,
    };
    // Absent only before the data has arrived.
    let new = update.new.filter(|new| database.store().contains(new));
    let status = match (found, new) {
        (None, _) => RefStatus::New,
        (Some(_), None) if update.new.is_none() => RefStatus::Deleted,
        (Some(_), None) => RefStatus::Updated,
        (Some(old), Some(new)) if branch.is_some() && database.is_ancestor(&old, &new)? => RefStatus::Updated,
        (Some(_), Some(_)) => RefStatus::Forced,
    };
    if status == RefStatus::Forced && !update.force {
        return Ok(Err(match branch {
            Some(_) => (Reason::NotFastForward, NO_FAST_FORWARD.to_owned()),
            None => (Reason::TagExists, TAG_EXISTS.to_owned()),
        }));
    }
    if matches!(status, RefStatus::Forced | RefStatus::Deleted) {
        moves.extend(found.map(|old| database.keep(name, old)));
    }
    moves.push(RefUpdate { name: name.clone(), old: found, new: update.new });
    moves.extend(work);
    Ok(Ok(status))
}

/// A branch's work moves with its head, and only if there is nothing in it that was not committed.
fn plan_work(database: &Database, branch: &str, new: Option<Hash>) -> Result<OrRefusal<Option<RefUpdate>>> {
    let found = database.branch(branch)?;
    if let Some(found) = &found
        && is_dirty(database, found)?
    {
        let detail = format!(
            "branch `{branch}` has uncommitted work on the remote; commit or reset it there, or push to another branch"
        );
        return Ok(Err((Reason::UncommittedWork, detail)));
    }
    if new.is_none() && database.current_branch()? == branch {
        let detail =
            format!("`{branch}` is the remote's current branch and cannot be deleted; switch there first");
        return Ok(Err((Reason::CurrentBranch, detail)));
    }
    let root = match new.filter(|new| database.store().contains(new)) {
        Some(new) => Some(commit(database, &new)?.root),
        None => None,
    };
    let work = RefUpdate { name: format!("work/{branch}"), old: found.map(|found| found.work), new: root };
    // The work may be what it must become already: then it is only checked.
    Ok(Ok(Some(work).filter(|work| work.old.is_some() || work.new.is_some())))
}

fn is_dirty(database: &Database, branch: &Branch) -> Result<bool> {
    match branch.head {
        Some(head) => Ok(database.commit_object(&head)?.root != branch.work),
        None => Ok(database.status(&branch.name)?.dirty),
    }
}

fn to_bytes(hash: Option<Hash>) -> bytes::Bytes {
    hash.map(|hash| bytes::Bytes::copy_from_slice(hash.as_bytes())).unwrap_or_default()
}

impl Pushes {
    /// Notes that a push begins, which `stop` tells to end; gives what arrived of it before it was cut. One that seems to run still, whose
    /// connection is gone, is told to end, and waited for.
    fn begin(&self, identity: Hash, stop: Arc<Notify>) -> (Running<'_>, Option<CutPush>) {
        let mut state = self.state.lock();
        let until = Instant::now() + CUT_PUSH_ENDS_WITHIN;
        while let Some(other) = state.running.get(&identity) {
            other.notify_one();
            if self.ended.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        state.running.insert(identity, stop.clone());
        let at = state.cut.iter().position(|cut| cut.identity == identity);
        let cut = at.and_then(|at| state.cut.remove(at));
        (Running { pushes: self, identity, stop }, cut)
    }

    fn keep(&self, cut: CutPush) {
        let mut state = self.state.lock();
        state.cut.truncate(CUT_PUSHES_KEPT - 1);
        state.cut.push_front(cut);
    }

    /// Lets go of those that were cut long ago.
    pub(super) fn forget_old(&self) {
        self.state.lock().cut.retain(|cut| cut.since.elapsed() < CUT_PUSH_KEPT);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.pushes.state.lock();
        if state.running.get(&self.identity).is_some_and(|stop| Arc::ptr_eq(stop, &self.stop)) {
            state.running.remove(&self.identity);
        }
        drop(state);
        self.pushes.ended.notify_all();
    }
}

impl Answers {
    fn find(&self, identity: &Hash) -> Option<PushResult> {
        self.0.lock().iter().find(|(kept, _)| kept == identity).map(|(_, answer)| answer.clone())
    }

    fn keep(&self, identity: Hash, answer: PushResult) {
        // An answer that is lost and no longer kept costs nothing but words: a second push finds the refs where they must be.
        if answer.refs.len() <= ANSWER_REFS_MAX {
            let mut answers = self.0.lock();
            answers.push_back((identity, answer));
            if answers.len() > ANSWERS_KEPT {
                answers.pop_front();
            }
        }
    }
}
