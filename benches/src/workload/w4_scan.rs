//! W4: read the whole table in key order, caches warm.

use anyhow::{Result, ensure};

use super::{Bench, Figure};
use crate::rows::{VALUE_BYTES, value};

/// Rows to read at least, so that a small table's scan is long enough to measure.
const ROWS_MIN: usize = 3_000_000;

/// Rows per CPU second.
pub fn run(bench: &mut Bench<'_>) -> Result<Vec<Figure>> {
    let rows = bench.rows.len();
    let sum: u64 = (0..rows).map(|row| u64::from(value(row, 0)[VALUE_BYTES / 4])).sum();
    let seen = bench.system.scan()?;
    ensure!(seen.rows == rows as u64 && seen.sum == sum, "wrong rows: {seen:?}");
    let scans = ROWS_MIN.div_ceil(rows);
    let (seen, cost) = bench.cost(|system| {
        let mut last = seen;
        for _ in 0..scans {
            last = system.scan()?;
        }
        Ok(last)
    })?;
    ensure!(seen.rows == rows as u64 && seen.sum == sum, "wrong rows: {seen:?}");
    Ok(vec![Figure { metric: "rows_per_cpu_s", value: (rows * scans) as f64 / cost.cpu_s }])
}
