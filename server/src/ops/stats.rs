//! Counts and bytes of a database.

use std::collections::HashMap;

use super::{Session, tables};
use crate::error::Result;
use crate::proto::{FileKind, StatsRequest, StatsResponse};

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
    Ok(StatsResponse { tables, store: figures(&stats), files: files(&stats), compaction_failure })
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
