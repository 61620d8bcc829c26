//! Answers one Fetch: what the wanted refs are, and the difference between them and what the caller has. Blocking.

use pleach_engine::{Database, Hash, Pins, difference_in};

use crate::access::{Caller, Right};
use crate::databases::Databases;
use crate::error::{Error, Result};
use crate::limits::HAVES_MAX;
use crate::part::Part;
use crate::proto::{End, FetchRequest, Plan, Ref, fetch_response::Message};
use crate::reached::Place;
use crate::refs::{HEADS, RefPatterns, hashes_from, refs_digest};
use crate::sender::Sender;
use crate::{FEATURE_EDITS, FEATURE_TOTALS, format_digest, may_send_edits};

/// Gives the messages of the answer to `emit`, in order, until it returns false: the caller is gone.
pub(super) fn serve(
    databases: &Databases,
    caller: &Caller,
    request: &FetchRequest,
    emit: &mut dyn FnMut(Message) -> bool,
) -> Result<()> {
    let patterns = RefPatterns::new(&request.wants)?;
    let scope = Part::scope(request.part.as_ref())?;
    let is_all = scope.is_all();
    let haves = hashes_from(&request.haves, "haves", HAVES_MAX)?;
    let unknown = || Error::UnknownDatabase { url: request.database.clone() };
    let database = databases.get(&request.database)?.ok_or_else(unknown)?;
    let mut plan =
        Plan { format_digest: format_digest(), features: FEATURE_EDITS | FEATURE_TOTALS, ..Plan::default() };
    let (refs, _pins) = loop {
        let mut refs = patterns.of(&database)?;
        refs.retain(|(name, _)| caller.may_ref(Right::Read, &request.database, name));
        if request.known_refs == refs_digest(&refs).as_bytes()[..] {
            plan.unchanged = true;
            emit(Message::Plan(plan));
            return Ok(());
        }
        if let Some(pins) = database.pin_refs(&refs)? {
            break (refs, pins);
        }
    };
    // A hash that is no commit here is one that this database does not know.
    let known = Pins::of(database.store(), haves.iter().copied())?;
    let here = |have: &Hash| {
        known.contains(have)
            && database.commit_object(have).is_ok()
            && caller.may_reach(&database, &request.database, have)
    };
    let bases: Vec<Hash> = haves.into_iter().filter(here).collect();
    plan.haves_known = bases.len() as u32;
    plan.default_branch = default_branch(&database, &refs)?;
    plan.refs = refs
        .iter()
        .map(|(name, hash)| Ref { name: name.clone(), hash: bytes::Bytes::copy_from_slice(hash.as_bytes()) })
        .collect();
    if !emit(Message::Plan(plan)) {
        return Ok(());
    }
    let mut targets: Vec<Hash> = refs.into_iter().map(|(_, hash)| hash).collect();
    targets.sort_unstable();
    targets.dedup();
    let edits = may_send_edits(request.format_digest, request.features);
    let mut difference = difference_in(&database, &targets, &bases, scope)?;
    if let Some(Place { top, path }) = request.resume.as_ref().map(Place::from_proto).transpose()? {
        difference = difference.resumed(top, path);
    }
    let mut sender = Sender::new(&database, difference)?
        .with_edits(edits)
        .with_all(is_all && bases.is_empty())
        .with_stored(true);
    while let Some(data) = sender.next_message()? {
        let totals = sender.totals()?.filter(|_| request.features & FEATURE_TOTALS != 0);
        if totals.is_some_and(|totals| !emit(Message::Totals(totals.into()))) {
            return Ok(());
        }
        if !emit(Message::Data(data)) {
            return Ok(());
        }
    }
    emit(Message::End(End { records: sender.records() }));
    Ok(())
}

/// The branch to work on after a clone: `main`, else the current one, else the first; of those that the caller gets.
fn default_branch(database: &Database, refs: &[(String, Hash)]) -> Result<String> {
    let heads = || refs.iter().filter_map(|(name, _)| name.strip_prefix(HEADS));
    let current = database.current_branch()?;
    let preferred = [pleach_engine::DEFAULT_BRANCH, &current];
    let preferred = preferred.into_iter().find(|wanted| heads().any(|head| head == *wanted));
    Ok(preferred.or_else(|| heads().next()).unwrap_or_default().to_owned())
}
