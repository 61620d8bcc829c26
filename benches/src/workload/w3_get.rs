//! W3: get random rows that are there, one thread, caches warm.

use anyhow::{Result, ensure};

use super::{Bench, Figure};
use crate::rows::{SplitMix64, VALUE_BYTES, value};

const GETS: usize = 500_000;
const WARM_UP: usize = 200_000;

/// Gets per CPU second.
pub fn run(bench: &mut Bench<'_>) -> Result<Vec<Figure>> {
    let rows = bench.rows;
    let mut random = SplitMix64::new(3);
    let mut order: Vec<usize> = (0..WARM_UP + GETS).map(|_| random.below(rows.len())).collect();
    let measured = order.split_off(WARM_UP);
    bench.system.get(rows, &order)?;
    let (seen, cost) = bench.cost(|system| system.get(rows, &measured))?;
    let sum: u64 = measured.iter().map(|&row| u64::from(value(row, 0)[VALUE_BYTES / 4])).sum();
    ensure!(seen.rows == GETS as u64 && seen.sum == sum, "wrong values: {seen:?}");
    Ok(vec![Figure { metric: "ops_per_cpu_s", value: GETS as f64 / cost.cpu_s }])
}
