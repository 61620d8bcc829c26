//! W5: durable transactions that each update k random rows, one after the other.

use anyhow::{Context, Result};

use super::{Bench, Figure};
use crate::rows::{Edit, SplitMix64};
use crate::system::MAIN;

/// k, warm-up transactions, measured transactions.
const CASES: [(&str, usize, usize, usize); 3] =
    [("k=1", 1, 100, 100), ("k=100", 100, 100, 100), ("k=10000", 10_000, 3, 10)];

/// Cases that a table of `rows` rows is large enough for.
pub fn cases(rows: usize) -> Vec<String> {
    CASES.iter().filter(|case| case.1 <= rows / 10).map(|case| case.0.to_owned()).collect()
}

/// CPU time, bytes and sync calls per transaction.
pub fn run(bench: &mut Bench<'_>, case: &str) -> Result<Vec<Figure>> {
    let &(_, k, warm_up, measured) =
        CASES.iter().find(|known| known.0 == case).context("no such case of W5")?;
    let mut random = SplitMix64::new(5 + k as u64);
    let mut transactions: Vec<Vec<Edit>> = (0..warm_up + measured)
        .map(|_| {
            let version = bench.next_version();
            random
                .distinct_below(bench.rows.len(), k)
                .iter()
                .map(|&row| bench.rows.edit(row, version))
                .collect()
        })
        .collect();
    let counted = transactions.split_off(warm_up);
    for edits in &transactions {
        bench.system.update(MAIN, edits)?;
    }
    let ((), cost) = bench.cost(|system| counted.iter().try_for_each(|edits| system.update(MAIN, edits)))?;
    let per = |total: f64| total / measured as f64;
    Ok(vec![
        Figure { metric: "cpu_us", value: per(cost.cpu_s * 1e6) },
        Figure { metric: "bytes_written", value: per(cost.bytes_written as f64) },
        Figure { metric: "fsyncs", value: per(cost.fsyncs as f64) },
    ])
}
