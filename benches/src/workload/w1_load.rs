//! W1: load the table in key order, durable at the end.

use anyhow::Result;

use super::{Bench, Figure};

/// Rows per CPU second.
pub fn run(bench: &mut Bench<'_>) -> Result<Vec<Figure>> {
    let (rows, values) = (bench.rows, bench.values);
    let ((), cost) = bench.cost(|system| system.load(rows, values))?;
    Ok(vec![Figure { metric: "rows_per_cpu_s", value: rows.len() as f64 / cost.cpu_s }])
}
