//! W1: load the table in key order, durable at the end; beside it, what the load leaves to be done in the background.

use anyhow::Result;

use super::{Bench, Figure};

/// Rows per CPU second.
pub fn run(bench: &mut Bench<'_>) -> Result<Vec<Figure>> {
    let (rows, values) = (bench.rows, bench.values);
    let ((), cost) = bench.cost(|system| system.load(rows, values))?;
    let ((), settling) = bench.cost(|system| system.settle())?;
    Ok(vec![
        Figure { metric: "rows_per_cpu_s", value: rows.len() as f64 / cost.cpu_s },
        Figure { metric: "settling_cpu_s", value: settling.cpu_s },
    ])
}
