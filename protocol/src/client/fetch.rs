//! Fetch: brings what a remote's branches and tags reach, and remembers where they are.
//!
//! One request, one stream of answers. Refs here move only when the last record was verified and stored, all by one
//! compare-and-set. A second request is made only if the server knew nothing of what was offered and there is more to offer, or if the
//! connection was cut.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use pleach_engine::{Batch, Database, Extent, Hash, Hold, Outcome, RefUpdate};
use tokio::sync::mpsc;
use tonic::Streaming;

use super::blocking;
use crate::error::{Error, Result, within};
use crate::flow::Tally;
use crate::haves;
use crate::limits::{HAVES_MAX, MESSAGES_AHEAD, MOVE_ATTEMPTS, NOTE_EVERY, REFS_MAX};
use crate::packs;
use crate::part::Part;
use crate::proto::{self, FetchRequest, FetchResponse, Plan, fetch_response::Message};
use crate::reached::{Patience, Place, Reached};
use crate::receiver::Receiver;
use crate::refs::{
    HEADS, RefPatterns, check_name, hash_from, hashes_to_bytes, local_name, refs_digest, settled,
};
use crate::remote::Remote;
use crate::transfer::{RefResult, RefStatus, Transfer, framed};
use crate::{FEATURE_EDITS, FEATURE_TOTALS, check_format, format_digest};

/// The remote's refs that were asked for, as its plan says, by name.
pub(crate) type RemoteRefs = BTreeMap<String, Hash>;

/// Which refs here follow from the remote's: the moves, and what to report of them. Called again if a ref moved meanwhile.
pub(crate) type Settle =
    Box<dyn Fn(&Database, &RemoteRefs) -> Result<(Vec<RefUpdate>, Vec<RefResult>)> + Send + Sync>;

/// Brings the branches and tags of `remote` that match `patterns`. Its branches become `remotes/NAME/BRANCH` here, those that are
/// gone there go here too; tags that are not here yet are made. A tag that is another commit here is left, and reported.
///
/// # Errors
/// Nothing moved then. [`Error::kind`] says what to do.
pub async fn fetch(
    database: &Database,
    remote: &Remote,
    name: &str,
    patterns: &RefPatterns,
) -> Result<Transfer> {
    let (settle_name, settle_patterns) = (name.to_owned(), patterns.clone());
    let settle = Box::new(move |database: &Database, refs: &RemoteRefs| {
        tracking(database, &settle_name, &settle_patterns, refs)
    });
    let (noted, of) = (database.clone(), name.to_owned());
    let part = blocking(move || Part::noted(&noted, &of)).await?;
    Ok(fetch_and(database, remote, name, patterns, &part, settle).await?.0)
}

/// Fetches, then moves the refs that `settle` says. Also gives the remote's default branch, if it was told.
///
/// A transfer that is cut goes on where it was, as long as that gets it any further.
pub(super) async fn fetch_and(
    database: &Database,
    remote: &Remote,
    name: &str,
    patterns: &RefPatterns,
    part: &Part,
    settle: Settle,
) -> Result<(Transfer, String)> {
    if let Some(place) = remote.place() {
        return packs::fetch(database, place, name, patterns, settle).await;
    }
    // Between two attempts nothing else keeps what has arrived.
    let _hold = database.store().hold();
    let settle = Arc::new(settle);
    let mut transfer = Transfer::default();
    let note = Note::of(database, name);
    // Rows that changed make a table only where the table is.
    let features = if part.lazy { 0 } else { FEATURE_EDITS };
    let mut from = From { part: part.to_proto(), features, reached: note.read().await? };
    let mut patience = Patience::default();
    loop {
        let fetched = attempt(database, remote, name, patterns, &settle, &from, &mut transfer).await;
        match fetched {
            Ok(Fetched::Done { default_branch }) => {
                note.erase().await?;
                return Ok((transfer, default_branch));
            }
            Ok(Fetched::Cut { why, reached }) => {
                let further = from.reached.go_on(reached);
                if from.reached != Reached::default() {
                    note.write(&from.reached).await?;
                }
                patience.wait(further, why).await?;
            }
            Err(why @ Error::Unreachable { .. }) => patience.wait(false, why).await?,
            Err(error @ Error::WrongEdits { .. }) if from.features != 0 => {
                tracing::error!(remote = %remote.url(), "{error}; whole chunks are asked for");
                from = From { features: 0, reached: Reached::default(), ..from };
            }
            // What had arrived was collected, or the remote's refs have moved so that it is no beginning of what they reach now.
            Err(Error::MissingChild { .. } | Error::UnknownBase { .. })
                if from.reached != Reached::default() =>
            {
                from.reached = Reached::default();
            }
            Err(error) => return Err(error),
        }
    }
}

/// How far a fetch has come, noted in the database for the next one, should this process end in the middle.
#[derive(Clone)]
struct Note {
    database: Database,
    key: String,
}

impl Note {
    fn of(database: &Database, remote: &str) -> Note {
        Note { database: database.clone(), key: note_key(remote) }
    }

    fn erase_now(&self) -> Result<()> {
        match self.database.setting(&self.key)? {
            None => Ok(()),
            Some(_) => Ok(self.database.set_setting(&self.key, None)?),
        }
    }

    async fn read(&self) -> Result<Reached> {
        let note = self.clone();
        let text = blocking(move || Ok(note.database.setting(&note.key)?)).await?;
        Ok(text.map(|text| Reached::from_setting(&text)).unwrap_or_default())
    }

    async fn write(&self, reached: &Reached) -> Result<()> {
        let (note, reached) = (self.clone(), reached.clone());
        blocking(move || note.write_now(&reached)).await
    }

    fn write_now(&self, reached: &Reached) -> Result<()> {
        Ok(self.database.set_setting(&self.key, Some(&reached.to_setting()))?)
    }

    async fn erase(&self) -> Result<()> {
        let note = self.clone();
        blocking(move || note.erase_now()).await
    }
}

/// The setting that says how far a fetch from a remote has come.
pub(crate) fn note_key(remote: &str) -> String {
    format!("fetching.{remote}")
}

/// Forgets how far a fetch from a remote had come.
pub(crate) fn forget_note(database: &Database, remote: &str) -> Result<()> {
    Note::of(database, remote).erase_now()
}

/// Where a fetch begins.
struct From {
    part: Option<proto::Part>,
    features: u64,
    reached: Reached,
}

/// How one attempt ended.
enum Fetched {
    Done { default_branch: String },
    Cut { why: Error, reached: Reached },
}

/// Asks once, stores what comes, and moves refs.
async fn attempt(
    database: &Database,
    remote: &Remote,
    name: &str,
    patterns: &RefPatterns,
    settle: &Arc<Settle>,
    from: &From,
    transfer: &mut Transfer,
) -> Result<Fetched> {
    let mut asked = ask(database, remote, name, patterns, false, from, transfer).await?;
    if asked.plan.haves_known == 0 && asked.offered > 0 && !asked.plan.unchanged {
        // Worth asking again only if there is something older to offer.
        let (database_, name_) = (database.clone(), name.to_owned());
        let more = blocking(move || Ok(haves::with_ancestors(&database_, &name_)?.len())).await?;
        if more > asked.offered {
            drop(asked);
            asked = ask(database, remote, name, patterns, true, from, transfer).await?;
        }
    }
    let Asked { mut stream, plan, hold, knows_refs, .. } = asked;
    check_format(&remote.url().to_string(), plan.format_digest);
    if plan.unchanged {
        return match knows_refs {
            true => Ok(Fetched::Done { default_branch: String::new() }),
            false => Err(Error::protocol("refs that are unchanged, but none were known")),
        };
    }
    let refs = remote_refs(&plan, patterns)?;
    let (messages, received) = mpsc::channel(MESSAGES_AHEAD);
    let thread = {
        let (database, settle, name) = (database.clone(), settle.clone(), name.to_owned());
        let (note, before) = (Note::of(&database, &name), from.reached.clone());
        let mut noted = Instant::now();
        let mut progress = move |further: Reached| {
            if noted.elapsed() < NOTE_EVERY {
                return Ok(());
            }
            noted = Instant::now();
            let mut reached = before.clone();
            reached.go_on(further);
            note.write_now(&reached)
        };
        let tally = remote.flow().begin();
        tokio::task::spawn_blocking(move || {
            // Of the remote that this is a partial copy of, what neither arrives nor is here is promised.
            let is_promised = database.partial_of()?.as_deref() == Some(name.as_str());
            let receiver = Receiver::holding(&database, hold)?.of_fetch(is_promised);
            store(&database, receiver, &refs, received, &settle, &mut progress, tally)
        })
    };
    let pumped = pump(remote, &mut stream, messages, transfer).await;
    let stored = thread.await.map_err(|lost| Error::Lost { what: lost.to_string() })?;
    // The thread's error says more than a stream that it did not read to the end; a broken stream more than what is missing then.
    match (pumped, stored?) {
        (_, Stored::Whole { records, refs }) => {
            transfer.chunks += records;
            transfer.refs = refs;
            Ok(Fetched::Done { default_branch: plan.default_branch })
        }
        (Err(why @ Error::Unreachable { .. }), Stored::Part { records, reached }) => {
            transfer.chunks += records;
            Ok(Fetched::Cut { why, reached })
        }
        (Err(error), Stored::Part { .. }) => Err(error),
        (Ok(()), Stored::Part { records, .. }) => Err(Error::Cut { records }),
    }
}

/// A request that was answered by a plan.
struct Asked {
    stream: Streaming<FetchResponse>,
    plan: Plan,
    /// How many commits were offered.
    offered: usize,
    /// Whether refs of the remote are known here.
    knows_refs: bool,
    /// Keeps them, since what is sent builds upon them.
    hold: Hold,
}

/// Sends the request and reads the plan.
async fn ask(
    database: &Database,
    remote: &Remote,
    name: &str,
    patterns: &RefPatterns,
    ancestors: bool,
    from: &From,
    transfer: &mut Transfer,
) -> Result<Asked> {
    let (database, name, patterns) = (database.clone(), name.to_owned(), patterns.clone());
    let target = remote.url().database().to_owned();
    let (part, features, reached) = (from.part.clone(), from.features, from.reached.clone());
    let (request, offered, hold) = blocking(move || {
        let hold = database.store().hold();
        let mut haves = match ancestors {
            false => haves::newest(&database, &name),
            true => haves::with_ancestors(&database, &name)?,
        };
        haves.splice(..0, reached.commits);
        haves.truncate(HAVES_MAX);
        haves.retain(|have| hold.keep(have));
        let known = patterns.known(&database, &name);
        let request = FetchRequest {
            database: target,
            wants: patterns.wants(),
            haves: hashes_to_bytes(&haves),
            known_refs: match known.is_empty() {
                true => Bytes::new(),
                false => Bytes::copy_from_slice(refs_digest(&known).as_bytes()),
            },
            format_digest: format_digest(),
            features: features | FEATURE_TOTALS,
            resume: reached.place.as_ref().map(Place::to_proto),
            part,
        };
        Ok((request, haves.len(), hold))
    })
    .await?;
    transfer.sent(&request);
    transfer.round_trips += 1;
    let knows_refs = !request.known_refs.is_empty();
    let response = remote.client()?.fetch(request).await.map_err(|status| remote.error(status))?;
    let mut stream = response.into_inner();
    let first = stream.message().await.map_err(|status| remote.error(status))?;
    if let Some(first) = &first {
        transfer.received(first);
    }
    match first.and_then(|first| first.message) {
        Some(Message::Plan(plan)) => Ok(Asked { stream, plan, offered, knows_refs, hold }),
        _ => Err(Error::protocol("the answer to a fetch begins with a Plan")),
    }
}

/// Checks the refs of a plan: names that can be refs, that were asked for, each once; one of them is the default branch, if there is one.
fn remote_refs(plan: &Plan, patterns: &RefPatterns) -> Result<RemoteRefs> {
    within("refs in a plan", plan.refs.len(), REFS_MAX)?;
    let mut refs = RemoteRefs::new();
    for one in &plan.refs {
        check_name(&one.name)?;
        if !patterns.matches(&one.name) {
            return Err(Error::protocol(format!("{} was not asked for", one.name)));
        }
        if refs.insert(one.name.clone(), hash_from(&one.hash, "hash")?).is_some() {
            return Err(Error::protocol(format!("{} stands twice in the plan", one.name)));
        }
    }
    let branch = &plan.default_branch;
    if !branch.is_empty() && !refs.contains_key(&format!("{HEADS}{branch}")) {
        return Err(Error::protocol("the default branch of the plan is none of its refs"));
    }
    Ok(refs)
}

/// Passes the messages after the plan on to the thread that stores.
async fn pump(
    remote: &Remote,
    stream: &mut Streaming<FetchResponse>,
    messages: mpsc::Sender<Message>,
    transfer: &mut Transfer,
) -> Result<()> {
    while let Some(response) = stream.message().await.map_err(|status| remote.error(status))? {
        transfer.received(&response);
        remote.flow().received(framed(&response)).await;
        let Some(message) = response.message else { return Err(Error::protocol("an empty answer")) };
        if messages.send(message).await.is_err() {
            // The thread found an error and says so itself.
            return Ok(());
        }
    }
    Ok(())
}

/// What the thread of an attempt did.
enum Stored {
    /// Everything arrived, and the refs moved.
    Whole { records: u64, refs: Vec<RefResult> },
    /// The messages ended too early.
    Part { records: u64, reached: Reached },
}

/// Verifies and stores what arrives, then moves the refs. `progress` is told how far it has come each time that some MiB were stored.
fn store(
    database: &Database,
    mut receiver: Receiver,
    refs: &RemoteRefs,
    mut messages: mpsc::Receiver<Message>,
    settle: &Settle,
    progress: &mut dyn FnMut(Reached) -> Result<()>,
    mut tally: Tally,
) -> Result<Stored> {
    let (mut before, mut total) = (Extent::default(), None);
    let received = loop {
        match messages.blocking_recv() {
            Some(Message::Totals(totals)) => {
                before = Extent { rows: totals.rows_before, bytes: totals.bytes_before };
                total = Some(Extent { rows: totals.rows, bytes: totals.bytes });
            }
            Some(Message::Data(data)) => {
                receiver.receive(&data)?;
                tally.at(before + receiver.done(), total);
                if let Some(reached) = receiver.progress()? {
                    progress(reached)?;
                }
            }
            Some(Message::End(end)) => {
                let wanted: Vec<Hash> = refs.values().copied().collect();
                break receiver.finish(end.records, &wanted)?;
            }
            Some(Message::Plan(_)) => return Err(Error::protocol("a fetch has one Plan")),
            None => {
                let (records, (reached, _hold)) = (receiver.records(), receiver.cut()?);
                return Ok(Stored::Part { records, reached });
            }
        }
    };
    if messages.blocking_recv().is_some() {
        return Err(Error::protocol("a message after the End"));
    }
    let (records, done) = (received.records, before + received.done);
    let _hold = received.append(database)?;
    let heads: Vec<Hash> = refs.values().copied().collect();
    let refs = move_refs(database, &heads, || settle(database, refs))?;
    tally.end(done);
    Ok(Stored::Whole { records, refs })
}

/// Makes the moves that `plan` says, planned again when a ref moved meanwhile, and gives what it says of them. The commits that refs are to
/// name must be `heads`, and are here.
pub(crate) fn move_refs(
    database: &Database,
    heads: &[Hash],
    plan: impl Fn() -> Result<(Vec<RefUpdate>, Vec<RefResult>)>,
) -> Result<Vec<RefResult>> {
    for head in heads {
        database.commit_object(head).map_err(|error| Error::protocol(format!("{head}: {error}")))?;
    }
    let mut moved = String::new();
    for _ in 0..MOVE_ATTEMPTS {
        let (moves, results) = plan()?;
        if moves.is_empty() {
            return Ok(results);
        }
        match database.update_refs(Batch::default(), &moves)? {
            Outcome::Appended(_) => return Ok(results),
            Outcome::Moved { name, .. } => moved = name,
        }
        settled(database)?;
    }
    Err(Error::Moved { name: moved })
}

/// The tracking refs and tags that follow from the remote's refs.
pub(super) fn tracking(
    database: &Database,
    remote: &str,
    patterns: &RefPatterns,
    refs: &RemoteRefs,
) -> Result<(Vec<RefUpdate>, Vec<RefResult>)> {
    let (mut moves, mut results) = (Vec::new(), Vec::new());
    let mut note = |name: String, old: Option<Hash>, new: Option<Hash>, status: RefStatus| {
        if !matches!(status, RefStatus::Rejected { .. }) {
            moves.push(RefUpdate { name: name.clone(), old, new });
        }
        results.push(RefResult { name, old, new, status });
    };
    for (name, &new) in refs {
        let local = local_name(remote, name);
        let status = match database.get_ref(&local) {
            Some(old) if old == new => continue,
            None => (None, RefStatus::New),
            Some(old) if name.starts_with(HEADS) => match database.is_ancestor(&old, &new)? {
                true => (Some(old), RefStatus::Updated),
                false => (Some(old), RefStatus::Forced),
            },
            Some(old) => {
                let reason = "the tag is another commit here; delete or rename it here to take the remote's"
                    .to_owned();
                (Some(old), RefStatus::Rejected { reason })
            }
        };
        note(local, status.0, Some(new), status.1);
    }
    let there: HashSet<&String> = refs.keys().collect();
    for (name, old) in patterns.known(database, remote) {
        if name.starts_with(HEADS) && !there.contains(&name) {
            note(local_name(remote, &name), Some(old), None, RefStatus::Deleted);
        }
    }
    Ok((moves, results))
}
