//! Merging into a branch, and the conflicts of it.

use pleach_engine::{MergeOptions, MergeOutcome};

use super::{Session, Sink, hex, history};
use crate::convert;
use crate::error::{Failure, Result};
use crate::proto::{
    AbortMergeRequest, AbortMergeResponse, ListConflictsRequest, ListConflictsResponse, MergeRequest,
    MergeResponse, ResolveConflictsRequest, ResolveConflictsResponse, Side, merge_response,
};

/// Merges a commit into the session's branch.
pub fn merge(session: &Session, request: &MergeRequest) -> Result<MergeResponse> {
    let branch = session.branch()?;
    let theirs = session.commit_at(&request.revision)?;
    let message = if request.message.is_empty() {
        format!("Merge {} into {branch}", request.revision)
    } else {
        request.message.clone()
    };
    let options = MergeOptions {
        message: Some(message),
        author: history::author(&request.author),
        prefer: side(request.prefer())?,
        ..MergeOptions::default()
    };
    let (outcome, conflicts) = match session.database.merge(branch, &theirs, options)? {
        MergeOutcome::UpToDate => (merge_response::Outcome::UpToDate, 0),
        MergeOutcome::FastForward { .. } => (merge_response::Outcome::FastForward, 0),
        MergeOutcome::Merged { .. } => (merge_response::Outcome::Merged, 0),
        MergeOutcome::Conflicts { count } => (merge_response::Outcome::Conflicts, count as u64),
    };
    Ok(MergeResponse {
        outcome: outcome.into(),
        head: hex(session.head()?),
        conflicts,
        token: session.token()?,
    })
}

/// Gives up a merge that has conflicts.
pub fn abort(session: &Session, _request: &AbortMergeRequest) -> Result<AbortMergeResponse> {
    session.database.merge_abort(session.branch()?)?;
    Ok(AbortMergeResponse { token: session.token()? })
}

/// The rows that both sides changed.
pub fn conflicts(
    session: &Session,
    _request: &ListConflictsRequest,
    sink: Sink<'_, ListConflictsResponse>,
) -> Result<()> {
    let branch = session.here()?;
    let work = session.snapshot("@work")?;
    for conflict in session.database.conflicts(branch)? {
        let table = work.table(&conflict.table)?;
        let schema = table.as_ref().and_then(|table| table.schema());
        let row = |value: Option<Vec<u8>>| {
            value.map(|value| convert::row_to_message(schema, conflict.key.clone(), value)).transpose()
        };
        sink(ListConflictsResponse {
            table: conflict.table.clone(),
            schema: schema.map(convert::schema_to_message),
            base: row(conflict.base)?,
            ours: row(conflict.ours)?,
            theirs: row(conflict.theirs)?,
            key: Some(convert::key_to_message(schema, conflict.key.clone())?),
        })?;
    }
    Ok(())
}

/// Takes one side in every conflict.
pub fn resolve(session: &Session, request: &ResolveConflictsRequest) -> Result<ResolveConflictsResponse> {
    let Some(side) = side(request.side())? else {
        return Err(Failure::usage("resolving conflicts needs a side").hint("give `ours` or `theirs`"));
    };
    let resolved = session.database.resolve_conflicts(session.branch()?, side)?;
    Ok(ResolveConflictsResponse { resolved: resolved as u64, token: session.token()? })
}

fn side(side: Side) -> Result<Option<pleach_engine::Side>> {
    Ok(match side {
        Side::Unspecified => None,
        Side::Ours => Some(pleach_engine::Side::Ours),
        Side::Theirs => Some(pleach_engine::Side::Theirs),
    })
}
