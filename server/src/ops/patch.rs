//! Patches: a difference as a file, and a commit taken back.

use std::io::{self, BufWriter, Read, Write};

use pleach_engine::{NewCommit, TransactionOutcome, patch};

use super::{Session, Sink, history};
use crate::error::{Failure, Result};
use crate::proto::{ApplyPatchResponse, MakePatchRequest, MakePatchResponse, RevertRequest, RevertResponse};

/// A patch travels in messages of about so many bytes.
const MESSAGE_BYTES: usize = 64 << 10;

/// The patch that leads from one state to another.
pub fn make(session: &Session, request: &MakePatchRequest, sink: Sink<'_, MakePatchResponse>) -> Result<()> {
    let (from, to) = history::sides(session, &request.from, &request.to)?;
    let differences = history::differences(from.as_ref(), &to, &request.table)?;
    let mut messages = Messages { sink, failure: None };
    let made = {
        let mut out = BufWriter::with_capacity(MESSAGE_BYTES, &mut messages);
        patch::make(&differences, &mut out)
    };
    match (messages.failure, made) {
        (Some(failure), _) => Err(failure),
        (None, made) => Ok(made?),
    }
}

/// Writes to a sink. What the sink fails with is kept here.
struct Messages<'a> {
    sink: Sink<'a, MakePatchResponse>,
    failure: Option<Failure>,
}

impl Write for Messages<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failure.is_none() {
            self.failure = (self.sink)(MakePatchResponse { data: bytes.to_vec() }).err();
        }
        match self.failure {
            None => Ok(bytes.len()),
            Some(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Applies the patch that `source` gives to the branch's work.
pub fn apply(session: &Session, source: &mut dyn Read) -> Result<ApplyPatchResponse> {
    let (applied, outcome) = session.database.apply_patch(session.branch()?, source)?;
    match outcome {
        TransactionOutcome::Committed(token) | TransactionOutcome::Unchanged(token) => {
            Ok(ApplyPatchResponse {
                token: token.to_string(),
                tables: applied.tables,
                inserted: applied.inserted,
                updated: applied.updated,
                deleted: applied.deleted,
            })
        }
        TransactionOutcome::Refused { table, .. } => Err(Failure::refused(format!(
            "another transaction changed table `{table}` meanwhile: nothing was applied"
        ))
        .hint("run the command again")),
    }
}

/// Takes back a commit, and commits that.
pub fn revert(session: &Session, request: &RevertRequest) -> Result<RevertResponse> {
    let branch = session.branch()?;
    let commit = session.commit_at(&request.revision)?;
    let message = match request.message.as_str() {
        "" => {
            let reverted = session.database.commit_object(&commit)?.message;
            let subject = reverted.lines().next().unwrap_or_default();
            format!("Revert \"{subject}\"\n\nThis takes back commit {commit}.")
        }
        given => given.to_owned(),
    };
    let new = NewCommit { message, author: history::author(&request.author), ..NewCommit::default() };
    let made = session.database.revert(branch, &commit, new)?;
    Ok(RevertResponse {
        hash: made.hash.to_string(),
        branch: branch.to_owned(),
        root: made.root.to_string(),
        token: made.token.to_string(),
    })
}
