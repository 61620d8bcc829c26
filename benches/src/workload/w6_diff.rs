//! W6: list what differs between two versions of the table, k updated rows apart.
//!
//! `first` is the first diff after the store was opened again; `warm` has seen the same two versions before.

use anyhow::{Context, Result, ensure};

use super::{Bench, Figure};
use crate::rows::SplitMix64;
use crate::system::MAIN;

struct Case {
    name: &'static str,
    k: usize,
    contiguous: bool,
    warm: bool,
}

const CASES: [Case; 3] = [
    Case { name: "random k=10000 first", k: 10_000, contiguous: false, warm: false },
    Case { name: "random k=10000 warm", k: 10_000, contiguous: false, warm: true },
    Case { name: "contiguous k=100000 warm", k: 100_000, contiguous: true, warm: true },
];
const WARM_DIFFS: usize = 5;

/// Cases that a table of `rows` rows is large enough for.
pub fn cases(rows: usize) -> Vec<String> {
    CASES.iter().filter(|case| case.k <= rows / 2).map(|case| case.name.to_owned()).collect()
}

/// CPU time and nodes read per diff.
pub fn run(bench: &mut Bench<'_>, case: &str) -> Result<Vec<Figure>> {
    let case = CASES.iter().find(|known| known.name == case).context("no such case of W6")?;
    let mut random = SplitMix64::new(6 + case.k as u64);
    let changed = if case.contiguous {
        let start = random.below(bench.rows.len() - case.k + 1);
        (start..start + case.k).collect()
    } else {
        random.distinct_below(bench.rows.len(), case.k)
    };
    let version = bench.next_version();
    let edits: Vec<_> = changed.iter().map(|&row| bench.rows.edit(row, version)).collect();
    let branch = case.name.replace([' ', '='], "-");
    bench.system.commit(MAIN)?;
    bench.system.branch(&branch, MAIN)?;
    bench.system.update(&branch, &edits)?;
    bench.system.reopen()?;

    let diffs = if case.warm { WARM_DIFFS } else { 1 };
    if case.warm {
        bench.system.diff(MAIN, &branch)?;
    }
    let (found, cost) = bench.cost(|system| {
        let mut found = 0;
        for _ in 0..diffs {
            found = system.diff(MAIN, &branch)?;
        }
        Ok(found)
    })?;
    ensure!(found == case.k as u64, "{} rows differ, not {found}", case.k);
    Ok(vec![
        Figure { metric: "cpu_us", value: cost.cpu_s * 1e6 / diffs as f64 },
        Figure { metric: "nodes_read", value: cost.nodes_read as f64 / diffs as f64 },
    ])
}
