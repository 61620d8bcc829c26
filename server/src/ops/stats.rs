//! Counts and bytes of a database.

use std::collections::HashMap;

use super::{Session, tables};
use crate::error::Result;
use crate::proto::{StatsRequest, StatsResponse};

/// Rows and bytes of each table in the work, and the store's own figures.
pub fn stats(session: &Session, _request: &StatsRequest) -> Result<StatsResponse> {
    let tables = session.snapshot("")?.tables()?;
    let tables = tables.into_iter().map(|(name, table)| tables::info(name, &table)).collect::<Result<_>>()?;
    Ok(StatsResponse { tables, store: figures(&session.database.store().stats()) })
}

fn figures(stats: &pleach_engine::Stats) -> HashMap<String, u64> {
    let figures = [("chunks", stats.chunks)];
    figures.into_iter().map(|(name, figure)| (name.to_owned(), figure)).collect()
}
