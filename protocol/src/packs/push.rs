//! Push to a directory or bucket: decides against the head what becomes of the refs, puts what the remote lacks, and then the next
//! manifest, if nobody else did.
//!
//! What is decided, and the words for it, are those of a server (`server/push.rs`), but for what a server has and a directory has not:
//! work that is not committed, and a current branch.

use std::collections::{BTreeMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use pleach_engine::{Database, Hash, Hold};

use super::log::{self, View};
use super::manifest::{self, Change, Full, Manifest, Name, Pack};
use super::position::{self, Position, Refs};
use super::{Place, begin, compact, fetch, write};
use crate::client::{Force, HELD_BACK, PushUpdate, blocking, remember};
use crate::error::{Error, Result, within};
use crate::format_digest;
use crate::limits::{MANIFEST_BYTES_MAX, MANIFESTS_TO_FULL, PUSH_ATTEMPTS, REFS_MAX, RETIRED_GRACE};
use crate::refs::{HEADS, known_place};
use crate::remote::Remote;
use crate::transfer::{MOVED, NO_FAST_FORWARD, RefResult, RefStatus, TAG_EXISTS, Transfer};

/// Pushes as [`client`](crate::client) does to a server.
pub(crate) async fn push(
    database: &Database,
    place: &Place,
    name: &str,
    updates: &[PushUpdate],
    force: Force,
) -> Result<Transfer> {
    let mut transfer = Transfer::default();
    let mut written: Option<Written> = None;
    // Keeps what is pushed, and what it builds upon.
    let hold = database.store().hold();
    let gone = updates.iter().filter_map(|update| update.new).find(|new| !hold.keep(new));
    if let Some(hash) = gone {
        return Err(pleach_engine::Error::Missing { hash }.into());
    }
    let hold = std::sync::Arc::new(hold);
    for _ in 0..PUSH_ATTEMPTS {
        let known = fetch::remembered(database, name).await?;
        let Some(view) = look(place, known.as_ref(), &mut transfer).await? else { continue };
        let decided = {
            let (database, name, updates, hold) =
                (database.clone(), name.to_owned(), updates.to_vec(), hold.clone());
            move || Ok((decide(&database, &name, &view, &updates, force, &hold)?, view))
        };
        let (decided, view) = blocking(decided).await?;
        transfer.refs = decided.results;
        if decided.changes.is_empty() {
            let (database, name, refs) = (database.clone(), name.to_owned(), transfer.refs.clone());
            if !transfer.is_rejected() {
                blocking(move || remember(&database, &name, &refs)).await?;
            }
            return Ok(transfer);
        }
        let number = view.next();
        let mut packs = match written.take().filter(|written| written.still_fits(&view)) {
            Some(written) => written,
            None => {
                let (targets, bases) = (decided.targets, decided.bases);
                let packs = write::write(place, database, targets, bases, number, &mut transfer).await?;
                Written { name: view.name, number, packs }
            }
        };
        // Whoever stands at a manifest that came in between lacks them too.
        packs.packs.iter_mut().for_each(|pack| pack.last = number);
        let next = Next::after(&view, decided.changes);
        let full = match number.is_multiple_of(MANIFESTS_TO_FULL) {
            true => Some(compact::full(place, &view, &next.refs, RETIRED_GRACE, &mut transfer).await?.full),
            false => None,
        };
        let Some(hash) = commit(place, &view, &next, packs.packs.clone(), full, &mut transfer).await? else {
            written = Some(packs);
            continue;
        };
        let reached = Position { name: view.name, number, hash, refs: next.refs };
        let (database, name, refs) = (database.clone(), name.to_owned(), transfer.refs.clone());
        blocking(move || {
            remember(&database, &name, &refs)?;
            arrive(&database, &name, &reached, known.as_ref(), view.head, &hold)
        })
        .await?;
        return Ok(transfer);
    }
    Err(Error::Busy { url: place.url.clone(), attempts: PUSH_ATTEMPTS })
}

/// Begins `remote`, if it is a directory or bucket where there is none: without branches and tags, as a database that was just made. It can be cloned and fetched from
/// then on. What is there stays as it is.
///
/// # Errors
/// [`Error::NotARemote`], [`Error::NotConditional`], [`Error::NoUpkeep`] if it is a server; [`Error::Busy`].
pub async fn begin_remote(remote: &Remote) -> Result<()> {
    let place = remote.place().ok_or_else(|| Error::NoUpkeep { url: remote.url().to_string() })?;
    let mut transfer = Transfer::default();
    for _ in 0..PUSH_ATTEMPTS {
        let Some(view) = look(place, None, &mut transfer).await? else { continue };
        if view.head.is_some() {
            return Ok(());
        }
        let next = Next::after(&view, Vec::new());
        let full = compact::full(place, &view, &next.refs, RETIRED_GRACE, &mut transfer).await?.full;
        if commit(place, &view, &next, Vec::new(), Some(full), &mut transfer).await?.is_some() {
            return Ok(());
        }
    }
    Err(Error::Busy { url: place.url.clone(), attempts: PUSH_ATTEMPTS })
}

/// The remote as it is now, begun if there is none; `None` to look again.
async fn look(place: &Place, known: Option<&Position>, transfer: &mut Transfer) -> Result<Option<View>> {
    // What is put next says the hash of what is there, which is not taken from memory: a remote may have been set back from a copy.
    let (head, is_there) = log::head_and(place, known, transfer).await?;
    let known = known.filter(|_| is_there);
    match head {
        None => Ok(Some(View::empty(begin::begin(place, transfer).await?))),
        // The next manifest is to have everything, for which everything since the last such is read.
        Some(head) if (head.number + 1).is_multiple_of(MANIFESTS_TO_FULL) => {
            log::whole(place, head, transfer).await
        }
        Some(head) => log::view(place, head, known, transfer).await,
    }
}

/// Packs that were put for a manifest that somebody else put first.
struct Written {
    name: Name,
    number: u64,
    packs: Vec<Pack>,
}

impl Written {
    /// Whether the manifests that came in between leave the packs what they are: then all that they build upon is still reached, and
    /// none was noted as retired.
    fn still_fits(&self, view: &View) -> bool {
        let since = || view.manifests.iter().filter(|manifest| manifest.number >= self.number);
        view.name == self.name
            && view.next().checked_sub(self.number) == Some(since().count() as u64)
            && since().all(|manifest| {
                let grows = |change: &Change| change.new.is_some() && !change.forced;
                manifest.full.is_none() && manifest.changes.iter().all(grows)
            })
    }
}

/// The refs after the next manifest, and how they come about.
pub(super) struct Next {
    pub(super) refs: Refs,
    changes: Vec<Change>,
}

impl Next {
    pub(super) fn after(view: &View, changes: Vec<Change>) -> Next {
        let mut refs = view.refs.clone();
        log::apply(&mut refs, &changes);
        Next { refs, changes }
    }
}

/// Puts the manifest after `view`, if nobody did. Gives its hash; `None` if somebody else's is there.
pub(super) async fn commit(
    place: &Place,
    view: &View,
    next: &Next,
    packs: Vec<Pack>,
    full: Option<Full>,
    transfer: &mut Transfer,
) -> Result<Option<Hash>> {
    let number = view.next();
    within("refs of a remote (`remote collect` drops those under recovery/)", next.refs.len(), REFS_MAX)?;
    let manifest = Manifest {
        number,
        previous: view.head.map(|(_, hash)| hash),
        millis: now_millis(),
        format_digest: format_digest(),
        changes: next.changes.clone(),
        packs,
        refs_digest: position::digest(&next.refs),
        full,
    };
    let object = manifest.encode()?;
    let key = manifest::key(&view.name, number);
    let mut repeat = true;
    loop {
        transfer.round_trips += 1;
        transfer.bytes_sent += object.len() as u64;
        match place.objects.put_if_absent(&key, object.clone()).await {
            Ok(true) => return Ok(Some(Hash::of(&object))),
            // Perhaps by an earlier try whose answer was lost.
            Ok(false) => {
                let found = found(place, &key, &object, transfer).await;
                let found = found.map_err(|error| Error::uncertain(place.url.clone(), error))?;
                return Ok(found.then(|| Hash::of(&object)));
            }
            Err(error) if !std::mem::take(&mut repeat) => {
                return Err(Error::uncertain(place.url.clone(), error));
            }
            Err(_) => {}
        }
    }
}

/// Whether the object under `key` is this one.
async fn found(place: &Place, key: &str, object: &Bytes, transfer: &mut Transfer) -> Result<bool> {
    transfer.round_trips += 1;
    let found = place.objects.get(key, MANIFEST_BYTES_MAX).await?;
    transfer.bytes_received += found.as_ref().map_or(0, |found| found.len() as u64);
    Ok(found.as_ref() == Some(object))
}

pub(super) fn now_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Remembers the manifest that was just put, if all that was there before is here.
fn arrive(
    database: &Database,
    name: &str,
    reached: &Position,
    known: Option<&Position>,
    before: Option<(u64, Hash)>,
    hold: &Hold,
) -> Result<()> {
    let was_there = known.is_some_and(|known| before == Some((known.number, known.hash)));
    if !was_there && !position::public(&reached.refs).all(|(_, hash)| hold.keep(hash)) {
        return Ok(());
    }
    let moves = position::moves(database, name, &reached.refs);
    if !moves.is_empty()
        && !matches!(database.update_refs(Default::default(), &moves)?, pleach_engine::Outcome::Appended(_))
    {
        // Another transfer remembers something else; what it remembers is checked by its digest.
        return Ok(());
    }
    position::write(database, name, reached)
}

/// What a push amounts to.
struct Decided {
    /// One for each ref of the push.
    results: Vec<RefResult>,
    /// None if something was refused, or everything is so already.
    changes: Vec<Change>,
    targets: Vec<Hash>,
    bases: Vec<Hash>,
}

/// Decides what becomes of the refs. Blocking.
fn decide(
    database: &Database,
    name: &str,
    view: &View,
    updates: &[PushUpdate],
    force: Force,
    hold: &Hold,
) -> Result<Decided> {
    let (mut results, mut changes, mut refused) = (Vec::new(), BTreeMap::new(), false);
    for update in updates {
        let old = view.refs.get(&update.name).copied();
        let status = decide_one(database, name, update, old, force)?;
        refused |= matches!(status, RefStatus::Rejected { .. });
        if status != RefStatus::Unchanged {
            let forced = status == RefStatus::Forced;
            if let Some(kept) = old.filter(|_| forced || status == RefStatus::Deleted) {
                let name = format!("recovery/{}/{}", update.name, view.next());
                changes.insert(name.clone(), Change { name, old: None, new: Some(kept), forced: false });
            }
            let change = Change { name: update.name.clone(), old, new: update.new, forced };
            changes.insert(update.name.clone(), change);
        }
        results.push(RefResult { name: update.name.clone(), old, new: update.new, status });
    }
    if refused {
        changes.clear();
        for result in &mut results {
            if !matches!(result.status, RefStatus::Rejected { .. } | RefStatus::Unchanged) {
                result.status = RefStatus::Rejected { reason: HELD_BACK.to_owned() };
            }
        }
    }
    let mut seen = HashSet::new();
    let targets = updates.iter().filter_map(|update| update.new).filter(|new| seen.insert(*new)).collect();
    // What is not here cannot be built upon. Kept, the rest stays.
    let mut bases: Vec<Hash> =
        position::public(&view.refs).map(|(_, hash)| *hash).filter(|hash| hold.keep(hash)).collect();
    bases.sort_unstable();
    bases.dedup();
    Ok(Decided { results, changes: changes.into_values().collect(), targets, bases })
}

fn decide_one(
    database: &Database,
    name: &str,
    update: &PushUpdate,
    found: Option<Hash>,
    force: Force,
) -> Result<RefStatus> {
    if found == update.new {
        return Ok(RefStatus::Unchanged);
    }
    let rejected = |reason: &str| Ok(RefStatus::Rejected { reason: reason.to_owned() });
    let is_branch = update.name.starts_with(HEADS);
    // A commit that is not here has no descendant here.
    let goes_forward = match (found, update.new) {
        (Some(old), Some(new)) => database.store().contains(&old) && database.is_ancestor(&old, &new)?,
        _ => false,
    };
    let tracked = match (is_branch, force) {
        // Whether it may move does not depend on where it was.
        (false, Force::No) => found,
        _ => known_place(database, name, &update.name),
    };
    if force != Force::Yes && found.is_some() && found != tracked && (force == Force::Known || !goes_forward)
    {
        return rejected(MOVED);
    }
    match (found, update.new) {
        (None, _) => Ok(RefStatus::New),
        (Some(_), None) => Ok(RefStatus::Deleted),
        (Some(_), Some(_)) if is_branch && goes_forward => Ok(RefStatus::Updated),
        (Some(_), Some(_)) if force != Force::No => Ok(RefStatus::Forced),
        (Some(_), Some(_)) => rejected(if is_branch { NO_FAST_FORWARD } else { TAG_EXISTS }),
    }
}
