//! W7: three-way merge of two branches that each updated 10,000 rows, no row in both.
//!
//! `interleaved`: both sides' rows are random over the whole table. `disjoint`: ours are in its first half, theirs in
//! the second. The store is opened again before the merge, so nothing is cached.

use anyhow::{Result, ensure};

use super::{Bench, Figure};
use crate::rows::SplitMix64;
use crate::system::MAIN;

const EDITS: usize = 10_000;

/// Cases that a table of `rows` rows is large enough for.
pub fn cases(rows: usize) -> Vec<String> {
    if rows >= 4 * EDITS { vec!["interleaved".to_owned(), "disjoint".to_owned()] } else { Vec::new() }
}

/// CPU time and nodes read of a merge.
pub fn run(bench: &mut Bench<'_>, case: &str) -> Result<Vec<Figure>> {
    let rows = bench.rows;
    let mut random = SplitMix64::new(7);
    let (ours, theirs) = if case == "interleaved" {
        let mut both = random.distinct_below(rows.len(), 2 * EDITS);
        let theirs = both.split_off(EDITS);
        (both, theirs)
    } else {
        let half = rows.len() / 2;
        let second: Vec<usize> = random.distinct_below(half, EDITS).iter().map(|row| row + half).collect();
        (random.distinct_below(half, EDITS), second)
    };
    bench.system.commit(MAIN)?;
    let sides = [(format!("{case}-ours"), ours), (format!("{case}-theirs"), theirs)];
    for (branch, changed) in &sides {
        let version = bench.next_version();
        let edits: Vec<_> = changed.iter().map(|&row| rows.edit(row, version)).collect();
        bench.system.branch(branch, MAIN)?;
        bench.system.update(branch, &edits)?;
        bench.system.commit(branch)?;
    }
    bench.system.reopen()?;
    let ((), cost) = bench.cost(|system| system.merge(MAIN, &sides[0].0, &sides[1].0))?;
    let merged = bench.system.diff(MAIN, &sides[0].0)?;
    ensure!(merged == 2 * EDITS as u64, "the merge changed {merged} rows, not {}", 2 * EDITS);
    Ok(vec![
        Figure { metric: "cpu_us", value: cost.cpu_s * 1e6 },
        Figure { metric: "nodes_read", value: cost.nodes_read as f64 },
    ])
}
