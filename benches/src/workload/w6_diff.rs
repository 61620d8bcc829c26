//! W6: list what differs between two versions of the table, k updated rows apart.
//!
//! `first` is the first diff after the store was opened again; `warm` has seen the same two versions before, and so has `stat`, which only
//! counts. `halves` is how evenly a diff is split for two threads.

use anyhow::{Context, Result, ensure};

use super::{Bench, Figure};
use crate::rows::SplitMix64;
use crate::system::{MAIN, System};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Walk {
    First,
    Warm,
    Stat,
    /// In two parts, as two threads would share it.
    Halves,
}

struct Case {
    name: &'static str,
    k: usize,
    contiguous: bool,
    walk: Walk,
}

const CASES: [Case; 7] = [
    Case { name: "random k=1 warm", k: 1, contiguous: false, walk: Walk::Warm },
    Case { name: "random k=100 warm", k: 100, contiguous: false, walk: Walk::Warm },
    Case { name: "random k=10000 first", k: 10_000, contiguous: false, walk: Walk::First },
    Case { name: "random k=10000 warm", k: 10_000, contiguous: false, walk: Walk::Warm },
    Case { name: "random k=10000 halves", k: 10_000, contiguous: false, walk: Walk::Halves },
    Case { name: "contiguous k=100000 warm", k: 100_000, contiguous: true, walk: Walk::Warm },
    Case { name: "contiguous k=100000 stat", k: 100_000, contiguous: true, walk: Walk::Stat },
];
const WARM_DIFFS: usize = 5;

/// Cases that a table of `rows` rows is large enough for.
pub fn cases(rows: usize) -> Vec<String> {
    CASES.iter().filter(|case| case.k <= rows / 2).map(|case| case.name.to_owned()).collect()
}

/// CPU time and nodes read per diff; of halves, the share of the larger. `None`: the system cannot do it.
pub fn run(bench: &mut Bench<'_>, case: &str) -> Result<Option<Vec<Figure>>> {
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

    let walk = |system: &mut dyn System| match case.walk {
        Walk::Stat => system.stat(MAIN, &branch),
        _ => system.diff(MAIN, &branch).map(Some),
    };
    if case.walk == Walk::Halves {
        let nodes = bench.system.split_diff(MAIN, &branch, 2)?;
        let (larger, all) = (nodes.iter().max().copied().unwrap_or(0), nodes.iter().sum::<u64>());
        let share = Figure { metric: "larger_share", value: larger as f64 / all as f64 };
        return Ok((!nodes.is_empty()).then(|| vec![share]));
    }
    let diffs = match case.walk {
        Walk::First => 1,
        _ => (WARM_DIFFS * 10_000 / case.k).clamp(WARM_DIFFS, 200),
    };
    if case.walk != Walk::First {
        walk(bench.system)?;
    }
    let (found, cost) = bench.cost(|system| {
        let mut found = None;
        for _ in 0..diffs {
            found = walk(system)?;
        }
        Ok(found)
    })?;
    let Some(found) = found else { return Ok(None) };
    ensure!(found == case.k as u64, "{} rows differ, not {found}", case.k);
    Ok(Some(vec![
        Figure { metric: "cpu_us", value: cost.cpu_s * 1e6 / diffs as f64 },
        Figure { metric: "nodes_read", value: cost.nodes_read as f64 / diffs as f64 },
    ]))
}
