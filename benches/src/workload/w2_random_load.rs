//! W2: fill an empty table in random order, in one durable transaction or in a hundred.
//!
//! It has a store of its own, beside the one that the other workloads use, which is gone afterwards.

use anyhow::{Result, ensure};

use super::{Bench, Figure, cost};
use crate::rows::{Edit, Rows, SplitMix64};
use crate::system::MAIN;

/// Name, number of transactions.
const CASES: [(&str, usize); 2] = [("one transaction", 1), ("100 transactions", 100)];

/// Cases that a table of `rows` rows is large enough for.
pub fn cases(rows: usize) -> Vec<String> {
    CASES.iter().filter(|case| case.1 * 10 <= rows).map(|case| case.0.to_owned()).collect()
}

/// Rows per CPU second, bytes and sync calls of all transactions together.
pub fn run(bench: &mut Bench<'_>, case: &str) -> Result<Vec<Figure>> {
    let transactions = CASES.iter().find(|known| known.0 == case).map_or(1, |known| known.1);
    let rows = bench.rows;
    let order = SplitMix64::new(2).distinct_below(rows.len(), rows.len());
    let edits: Vec<Edit> = order.iter().map(|&row| rows.edit(row, 0)).collect();
    let directory = tempfile::tempdir_in(bench.directory)?;
    let mut system = (bench.fresh)(directory.path())?;
    // The table, without a row.
    system.load(&Rows::new(0), &[])?;
    let ((), cost) = cost(system.as_mut(), |system| {
        edits.chunks(edits.len().div_ceil(transactions)).try_for_each(|edits| system.update(MAIN, edits))
    })?;
    let found = system.scan()?.rows;
    ensure!(found == rows.len() as u64, "{found} rows, not {}", rows.len());
    Ok(vec![
        Figure { metric: "rows_per_cpu_s", value: rows.len() as f64 / cost.cpu_s },
        Figure { metric: "bytes_written", value: cost.bytes_written as f64 },
        Figure { metric: "fsyncs", value: cost.fsyncs as f64 },
    ])
}
