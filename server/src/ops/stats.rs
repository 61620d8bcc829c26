//! Counts and bytes of a database.

use std::collections::HashMap;
use std::time::SystemTime;

use super::{Session, tables};
use crate::error::Result;
use crate::gate::Observed;
use crate::proto::{FileKind, ReplicationStats, StatsRequest, StatsResponse};

/// Rows and bytes of each table in the work, and the store's own figures.
pub fn stats(session: &Session, _request: &StatsRequest) -> Result<StatsResponse> {
    let tables = session.snapshot("")?.tables()?;
    let tables = tables.into_iter().map(|(name, table)| tables::info(name, &table)).collect::<Result<_>>()?;
    if !session.may_read_all() {
        // The store's figures are those of all branches.
        return Ok(StatsResponse { tables, ..StatsResponse::default() });
    }
    let store = session.database.store();
    let stats = store.stats();
    let compaction_failure = store.maintenance_failure().unwrap_or_default();
    let (store, files) = (figures(&stats), files(&stats));
    Ok(StatsResponse { tables, store, files, compaction_failure, ..StatsResponse::default() })
}

/// How the database called `name` is replicated; if that is empty, every database.
pub fn replication(observed: &Observed, name: &str) -> Vec<ReplicationStats> {
    let millis = |since: SystemTime| since.elapsed().map_or(0, |age| age.as_millis() as u64);
    let pushes = observed.pushes.iter().map(|push| ReplicationStats {
        database: push.database.clone(),
        remote: observed.remote.clone(),
        direction: "push".to_owned(),
        lag_millis: Some(push.behind_since.map_or(0, millis)),
        lag_commits: Some(push.commits_behind),
        lag_bytes: Some(push.bytes_behind),
        backlog: Some(push.backlog as u64),
        done: Some(push.pushes),
        failures: Some(push.failures),
        bytes_sent: Some(push.bytes_sent),
        round_trips: Some(push.round_trips),
        last_update_micros: push.last_push.and_then(micros),
        current_error: push.current_error.clone(),
    });
    let pulls = observed.pulls.iter().map(|pull| ReplicationStats {
        database: pull.database.clone(),
        remote: observed.remote.clone(),
        direction: "pull".to_owned(),
        lag_millis: pull.staleness.map(|age| age.as_millis() as u64),
        done: Some(pull.pulls),
        failures: Some(pull.failures),
        last_update_micros: pull.last_pull.and_then(micros),
        current_error: pull.current_error.clone(),
        ..ReplicationStats::default()
    });
    let standbys = observed.standbys.iter().map(|row| ReplicationStats {
        database: row.database.clone(),
        remote: row.standby_remote.clone(),
        direction: "standby".to_owned(),
        lag_millis: row.replication_lag_millis,
        lag_bytes: row.backlog_bytes,
        failures: Some(row.retries),
        last_update_micros: row.last_update.and_then(micros),
        current_error: row.current_error.clone(),
        ..ReplicationStats::default()
    });
    let all = pushes.chain(pulls).chain(standbys);
    all.filter(|one| name.is_empty() || one.database == name).collect()
}

fn micros(time: SystemTime) -> Option<i64> {
    i64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_micros()).ok()
}

fn files(stats: &pleach_engine::Stats) -> Vec<FileKind> {
    let kinds =
        [("journal", stats.journals, stats.journal_bytes), ("table", stats.tables, stats.table_bytes)];
    kinds.into_iter().map(|(kind, count, bytes)| FileKind { kind: kind.to_owned(), count, bytes }).collect()
}

fn figures(stats: &pleach_engine::Stats) -> HashMap<String, u64> {
    let figures = [
        ("chunks", stats.chunks),
        ("journals", stats.journals),
        ("journal_bytes", stats.journal_bytes),
        ("tables", stats.tables),
        ("table_bytes", stats.table_bytes),
        ("held_files", stats.held_files),
        ("lookup_bytes", stats.lookup_bytes),
        ("sequence", stats.sequence),
        ("refs", stats.refs),
        ("bytes_written", stats.bytes_written),
        ("bytes_read", stats.bytes_read),
        ("writes", stats.writes),
        ("fsyncs", stats.fsyncs),
        ("groups", stats.groups),
        ("frames_raw", stats.frames_raw),
        ("frames_delta", stats.frames_delta),
        ("chunk_loads", stats.chunk_loads),
        ("cache_bytes", stats.cache_bytes),
        ("cache_hits", stats.cache_hits),
        ("cache_misses", stats.cache_misses),
        ("leased_bytes", stats.leased_bytes),
        ("leased_bytes_most", stats.leased_bytes_most),
        ("pinned_roots", stats.pinned_roots),
        ("holds", stats.holds),
    ];
    figures.into_iter().map(|(name, figure)| (name.to_owned(), figure)).collect()
}
