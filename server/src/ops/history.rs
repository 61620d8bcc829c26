//! History: commit, status, log, show, diff, reset.

use pleach_engine::{Commit, Committed, Hash, NewCommit, Snapshot, Table, TableChange};

use super::{Session, Sink, hex};
use crate::convert;
use crate::error::Result;
use crate::proto::{
    Change, CommitInfo, CommitRequest, CommitResponse, DiffRequest, DiffResponse, DiffStatRequest,
    DiffStatResponse, Index, LogRequest, LogResponse, ResetRequest, ResetResponse, ShowRequest, ShowResponse,
    StatusRequest, StatusResponse, TableDiff, TableStat, table_diff,
};

/// Changes of a diff travel in messages of about so many bytes.
const MESSAGE_BYTES: usize = 64 << 10;

/// Makes a version commit of the branch's work.
pub fn commit(session: &Session, request: &CommitRequest) -> Result<CommitResponse> {
    let branch = session.branch()?;
    let mut message = request.message.clone();
    if message.is_empty()
        && request.amend
        && let Some(head) = session.head()?
    {
        message = session.database.commit_object(&head)?.message;
    }
    let new = NewCommit { message, author: author(&request.author), date_micros: None, amend: request.amend };
    Ok(committed(branch, &session.database.commit(branch, new)?))
}

pub(super) fn committed(branch: &str, made: &Committed) -> CommitResponse {
    CommitResponse {
        hash: made.hash.to_string(),
        branch: branch.to_owned(),
        root: made.root.to_string(),
        token: made.token.to_string(),
    }
}

/// Who a commit is by: as given, else this process's user and host.
pub(super) fn author(given: &str) -> String {
    if given.is_empty() { crate::author::default() } else { given.to_owned() }
}

/// The branch, its head, and what its work changed.
pub fn status(session: &Session, _request: &StatusRequest) -> Result<StatusResponse> {
    let Ok(branch) = session.here() else {
        // A tag or hash has no work.
        let head = hex(session.head()?);
        return Ok(StatusResponse { branch: session.place().to_owned(), head, ..StatusResponse::default() });
    };
    let status = session.database.status(branch)?;
    Ok(StatusResponse {
        branch: status.branch,
        head: hex(status.head),
        dirty: status.dirty,
        conflicts: status.conflicts as u64,
        merging: hex(status.merging),
        tables: status.tables.into_iter().map(stat).collect(),
    })
}

/// Commits, newest first. A branch without a commit has none.
pub fn log(session: &Session, request: &LogRequest, sink: Sink<'_, LogResponse>) -> Result<()> {
    let from = match request.revision.as_str() {
        "" | "HEAD" => match session.head()? {
            Some(head) => head,
            None => return Ok(()),
        },
        revision => session.commit_at(revision)?,
    };
    let limit = if request.limit == 0 { u64::MAX } else { request.limit };
    // In this order, no commit is read beyond the limit.
    for (_, entry) in (0..limit).zip(session.database.log(&from)?) {
        let (hash, commit) = entry?;
        sink(LogResponse { commit: Some(info(&hash, commit)) })?;
    }
    Ok(())
}

/// One commit, and how it differs from its first parent.
pub fn show(session: &Session, request: &ShowRequest) -> Result<ShowResponse> {
    let hash = session.commit_at(if request.revision.is_empty() { "HEAD" } else { &request.revision })?;
    let commit = session.database.commit_object(&hash)?;
    let parent = commit.parents.first().map(|parent| session.database.commit_object(parent)).transpose()?;
    let parent = parent.map(|parent| session.database.snapshot_of_root(parent.root)).transpose()?;
    let to = session.database.snapshot_of_root(commit.root)?;
    let tables = stats(&differences(parent.as_ref(), &to, "")?)?;
    Ok(ShowResponse { commit: Some(info(&hash, commit)), tables })
}

/// Changed rows between two states, table by table.
pub fn diff(session: &Session, request: &DiffRequest, sink: Sink<'_, DiffResponse>) -> Result<()> {
    let (from, to) = sides(session, &request.from, &request.to)?;
    for difference in differences(from.as_ref(), &to, &request.table)? {
        let indexes_changed = !difference.index_changes()?.is_empty();
        let all = |side: &Option<Table>| match side {
            Some(table) if indexes_changed => indexes(table),
            _ => Ok(Vec::new()),
        };
        let (from_indexes, to_indexes) = (all(&difference.from)?, all(&difference.to)?);
        let from = difference.from.as_ref().and_then(Table::schema);
        let to = difference.to.as_ref().and_then(Table::schema);
        let kind = match difference.kind() {
            TableChange::Added => table_diff::Kind::Added,
            TableChange::Dropped => table_diff::Kind::Dropped,
            TableChange::Changed => table_diff::Kind::Changed,
        };
        let header = TableDiff {
            table: difference.table.clone(),
            kind: kind.into(),
            from: from.map(convert::schema_to_message),
            to: to.map(convert::schema_to_message),
            schema_changed: difference.schema_changed(),
            indexes_changed,
            from_indexes,
            to_indexes,
        };
        let mut message = DiffResponse { table: Some(header), changes: Vec::new() };
        let mut bytes = 0;
        for change in difference.changes()? {
            let change = change?;
            bytes += change.key.len()
                + change.old.as_ref().map_or(0, Vec::len)
                + change.new.as_ref().map_or(0, Vec::len);
            let row = |schema, value: Option<Vec<u8>>| {
                value.map(|value| convert::row_to_message(schema, change.key.clone(), value)).transpose()
            };
            message.changes.push(Change { old: row(from, change.old)?, new: row(to, change.new)? });
            if bytes >= MESSAGE_BYTES {
                sink(std::mem::take(&mut message))?;
                bytes = 0;
            }
        }
        if message.table.is_some() || !message.changes.is_empty() {
            sink(message)?;
        }
    }
    Ok(())
}

fn indexes(table: &Table) -> Result<Vec<Index>> {
    let all = table.indexes()?.into_iter().map(|(name, index)| {
        let pleach_engine::IndexDefinition { columns, unique, .. } = index.definition().clone();
        Index { name, columns, unique }
    });
    Ok(all.collect())
}

/// How many rows differ, by table.
pub fn diff_stat(session: &Session, request: &DiffStatRequest) -> Result<DiffStatResponse> {
    let (from, to) = sides(session, &request.from, &request.to)?;
    Ok(DiffStatResponse { tables: stats(&differences(from.as_ref(), &to, &request.table)?)? })
}

/// Moves the branch's head; `hard` sets its work too.
pub fn reset(session: &Session, request: &ResetRequest) -> Result<ResetResponse> {
    let branch = session.branch()?;
    let to = session.commit_at(&request.revision)?;
    session.database.reset(branch, &to, request.hard)?;
    Ok(ResetResponse { branch: branch.to_owned(), head: to.to_string(), token: session.token()? })
}

/// The two states of a diff. HEAD before the first commit is `None`: nothing is there.
pub(super) fn sides(session: &Session, from: &str, to: &str) -> Result<(Option<Snapshot>, Snapshot)> {
    let unborn = matches!(from, "" | "HEAD") && session.head()?.is_none();
    let from =
        if unborn { None } else { Some(session.snapshot(if from.is_empty() { "HEAD" } else { from })?) };
    Ok((from, session.snapshot(to)?))
}

pub(super) fn differences(
    from: Option<&Snapshot>,
    to: &Snapshot,
    table: &str,
) -> Result<Vec<pleach_engine::TableDiff>> {
    let mut all = match from {
        Some(from) => from.diff(to)?,
        None => to
            .tables()?
            .into_iter()
            .map(|(table, to)| pleach_engine::TableDiff { table, from: None, to: Some(to) })
            .collect(),
    };
    all.retain(|difference| table.is_empty() || difference.table == table);
    if all.is_empty() && !table.is_empty() {
        let there =
            to.table(table)?.is_some() || from.is_some_and(|from| matches!(from.table(table), Ok(Some(_))));
        if !there {
            return Err(pleach_engine::Error::UnknownTable { name: table.to_owned() }.into());
        }
    }
    Ok(all)
}

fn stats(differences: &[pleach_engine::TableDiff]) -> Result<Vec<TableStat>> {
    differences.iter().map(|difference| Ok(stat(difference.stat()?))).collect()
}

fn stat(stat: pleach_engine::TableStat) -> TableStat {
    TableStat { table: stat.table, inserted: stat.inserted, updated: stat.updated, deleted: stat.deleted }
}

pub(super) fn info(hash: &Hash, commit: Commit) -> CommitInfo {
    CommitInfo {
        hash: hash.to_string(),
        parents: commit.parents.iter().map(Hash::to_string).collect(),
        author: commit.author,
        date_micros: commit.date_micros,
        message: commit.message,
        root: commit.root.to_string(),
    }
}
