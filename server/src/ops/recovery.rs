//! What was lost and is kept under `recovery/`: listed, put back, dropped.

use pleach_engine::{Error, Kept};
use pleach_protocol::Right;

use super::{Session, history};
use crate::error::{Failure, Result};
use crate::proto::{
    DropRecoveryRequest, DropRecoveryResponse, KeptRef, ListRecoveryRequest, ListRecoveryResponse,
    RestoreRecoveryRequest, RestoreRecoveryResponse,
};

/// All that is kept, what was lost first at the beginning.
pub fn list(session: &Session, _request: &ListRecoveryRequest) -> Result<ListRecoveryResponse> {
    session.rights.require_all(Right::Read)?;
    let kept = session.database.kept().into_iter().map(|kept| to_message(session, kept));
    Ok(ListRecoveryResponse { kept: kept.collect::<Result<_>>()? })
}

/// Puts back what is kept. Whoever asks may write the branch or tag that has it then.
pub fn restore(session: &Session, request: &RestoreRecoveryRequest) -> Result<RestoreRecoveryResponse> {
    session.rights.require_all(Right::Read)?;
    let kept = session.database.kept_as(&request.r#ref)?;
    let into = Some(request.into.as_str()).filter(|into| !into.is_empty());
    let name = kept.of.split_once('/').map_or("", |(_, name)| name);
    session.require(Right::Write, into.unwrap_or(name))?;
    let restored = session.database.restore_kept(&kept.name, into).map_err(|error| match error {
        Error::UnknownBranch { .. } => Failure::from(error).hint(
            "restore what is kept of its head first (`pleach recovery list`), or name a new branch with --as",
        ),
        error => error.into(),
    })?;
    Ok(RestoreRecoveryResponse {
        restored: restored.name,
        hash: restored.hash.to_string(),
        kept: restored.kept,
        token: session.token()?,
    })
}

/// Drops one ref under `recovery/`.
pub fn drop(session: &Session, request: &DropRecoveryRequest) -> Result<DropRecoveryResponse> {
    let kept = session.database.drop_kept(&request.r#ref)?;
    Ok(DropRecoveryResponse { dropped: Some(to_message(session, kept)?) })
}

fn to_message(session: &Session, kept: Kept) -> Result<KeptRef> {
    let commit = match kept.of.starts_with("work/") {
        true => None,
        false => Some(history::info(&kept.hash, session.database.commit_object(&kept.hash)?)),
    };
    let kept_at_micros = kept.at_millis.and_then(|millis| i64::try_from(millis * 1000).ok()).unwrap_or(0);
    Ok(KeptRef { r#ref: kept.name, of: kept.of, hash: kept.hash.to_string(), kept_at_micros, commit })
}
