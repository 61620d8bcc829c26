//! Fetch: brings what a remote's branches and tags reach, and remembers where they are.
//!
//! One request, one stream of answers. Refs here move only when the last record was verified and stored, all by one
//! compare-and-set. A second request is made only if the server knew nothing of what was offered and there is more to offer.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use pleach_engine::{Batch, Database, Hash, Hold, Outcome, RefUpdate};
use tokio::sync::mpsc;
use tonic::Streaming;

use super::blocking;
use crate::error::{Error, Result, within};
use crate::haves;
use crate::limits::{MESSAGES_AHEAD, MOVE_ATTEMPTS, REFS_MAX};
use crate::packs;
use crate::proto::{FetchRequest, FetchResponse, Plan, fetch_response::Message};
use crate::receiver::Receiver;
use crate::refs::{
    HEADS, RefPatterns, check_name, hash_from, hashes_to_bytes, local_name, refs_digest, settled,
};
use crate::remote::Remote;
use crate::transfer::{RefResult, RefStatus, Transfer};
use crate::{FEATURE_EDITS, check_format, format_digest};

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
    Ok(fetch_and(database, remote, name, patterns, settle).await?.0)
}

/// Fetches, then moves the refs that `settle` says. Also gives the remote's default branch, if it was told.
pub(super) async fn fetch_and(
    database: &Database,
    remote: &Remote,
    name: &str,
    patterns: &RefPatterns,
    settle: Settle,
) -> Result<(Transfer, String)> {
    if let Some(place) = remote.place() {
        return packs::fetch(database, place, name, patterns, settle).await;
    }
    let mut transfer = Transfer::default();
    let settle = Arc::new(settle);
    let fetched = attempt(database, remote, name, patterns, &settle, FEATURE_EDITS, &mut transfer).await;
    let default_branch = match fetched {
        Err(error @ Error::WrongEdits { .. }) => {
            tracing::error!(remote = %remote.url(), "{error}; whole chunks are asked for");
            attempt(database, remote, name, patterns, &settle, 0, &mut transfer).await?
        }
        fetched => fetched?,
    };
    Ok((transfer, default_branch))
}

/// Asks once, stores what comes, and moves refs. Gives the remote's default branch.
async fn attempt(
    database: &Database,
    remote: &Remote,
    name: &str,
    patterns: &RefPatterns,
    settle: &Arc<Settle>,
    features: u64,
    transfer: &mut Transfer,
) -> Result<String> {
    let mut asked = ask(database, remote, name, patterns, false, features, transfer).await?;
    if asked.plan.haves_known == 0 && asked.offered > 0 && !asked.plan.unchanged {
        // Worth asking again only if there is something older to offer.
        let (database_, name_) = (database.clone(), name.to_owned());
        let more = blocking(move || Ok(haves::with_ancestors(&database_, &name_)?.len())).await?;
        if more > asked.offered {
            drop(asked);
            asked = ask(database, remote, name, patterns, true, features, transfer).await?;
        }
    }
    let Asked { mut stream, plan, hold, .. } = asked;
    check_format(&remote.url().to_string(), plan.format_digest);
    if plan.unchanged {
        return Ok(plan.default_branch);
    }
    let refs = remote_refs(&plan, patterns)?;
    let (messages, received) = mpsc::channel(MESSAGES_AHEAD);
    let thread = {
        let (database, settle) = (database.clone(), settle.clone());
        tokio::task::spawn_blocking(move || store(&database, hold, &refs, received, &settle))
    };
    let pumped = pump(remote, &mut stream, messages, transfer).await;
    let stored = thread.await.map_err(|lost| Error::Lost { what: lost.to_string() })?;
    // The thread's error says more than a stream that it did not read to the end; a broken stream more than what is missing then.
    let stored = match (pumped, stored) {
        (Err(broken), Err(Error::Cut { .. })) => return Err(broken),
        (_, stored) => stored?,
    };
    transfer.chunks = stored.0;
    transfer.refs = stored.1;
    Ok(plan.default_branch)
}

/// A request that was answered by a plan.
struct Asked {
    stream: Streaming<FetchResponse>,
    plan: Plan,
    /// How many commits were offered.
    offered: usize,
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
    features: u64,
    transfer: &mut Transfer,
) -> Result<Asked> {
    let (database, name, patterns) = (database.clone(), name.to_owned(), patterns.clone());
    let target = remote.url().database().to_owned();
    let (request, offered, hold) = blocking(move || {
        let hold = database.store().hold();
        let mut haves = match ancestors {
            false => haves::newest(&database, &name),
            true => haves::with_ancestors(&database, &name)?,
        };
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
            features,
        };
        Ok((request, haves.len(), hold))
    })
    .await?;
    transfer.sent(&request);
    transfer.round_trips += 1;
    let response = remote.client()?.fetch(request).await.map_err(|status| remote.error(status))?;
    let mut stream = response.into_inner();
    let first = stream.message().await.map_err(|status| remote.error(status))?;
    if let Some(first) = &first {
        transfer.received(first);
    }
    match first.and_then(|first| first.message) {
        Some(Message::Plan(plan)) => Ok(Asked { stream, plan, offered, hold }),
        _ => Err(Error::protocol("the answer to a fetch begins with a Plan")),
    }
}

/// Checks the refs of a plan: names that can be refs, that were asked for, each once.
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
        let Some(message) = response.message else { return Err(Error::protocol("an empty answer")) };
        if messages.send(message).await.is_err() {
            // The thread found an error and says so itself.
            return Ok(());
        }
    }
    Ok(())
}

/// Verifies and stores what arrives, then moves the refs. Gives the number of records, and what became of the refs.
fn store(
    database: &Database,
    hold: Hold,
    refs: &RemoteRefs,
    mut messages: mpsc::Receiver<Message>,
    settle: &Settle,
) -> Result<(u64, Vec<RefResult>)> {
    let mut receiver = Receiver::holding(database, hold)?;
    let received = loop {
        match messages.blocking_recv() {
            Some(Message::Data(data)) => receiver.receive(&data)?,
            Some(Message::End(end)) => {
                let wanted: Vec<Hash> = refs.values().copied().collect();
                break receiver.finish(end.records, &wanted)?;
            }
            Some(Message::Plan(_)) => return Err(Error::protocol("a fetch has one Plan")),
            None => return Err(Error::Cut { records: receiver.records() }),
        }
    };
    if messages.blocking_recv().is_some() {
        return Err(Error::protocol("a message after the End"));
    }
    let records = received.records;
    let _hold = received.append(database)?;
    let heads: Vec<Hash> = refs.values().copied().collect();
    Ok((records, move_refs(database, &heads, || settle(database, refs))?))
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
