//! One system in a process of its own, doing one case at a time as its parent asks.
//!
//! Requests and answers are lines on standard input and output. A request is `WORKLOAD<TAB>CASE`; the answer is a JSON
//! object, `{"figures": {METRIC: number}, "disk_bytes", "harness_bytes"}`, with `figures` null if the system has nothing
//! to compare, or `{"error"}`. `harness_bytes` is the memory of the process that is the rows' and not the system's.

use std::io::{BufRead, Write};
use std::path::Path;

use anyhow::{Context, Result};
use pleach_engine::Options;
use serde_json::{Map, Value as Json, json};

use crate::measure;
use crate::rows::Rows;
use crate::system;
use crate::workload::{self, Bench};

/// Serves requests until the input ends.
pub fn serve(
    name: &str,
    row_count: usize,
    directory: &Path,
    options: &Options,
    requests: impl BufRead,
    mut answers: impl Write,
) -> Result<()> {
    let rows = Rows::new(row_count);
    let keys_bytes = measure::anonymous_bytes(std::process::id())?;
    let mut system = system::open(name, directory, row_count, options)?;
    let fresh = |at: &Path| system::open(name, at, row_count, options);
    let mut version = 0;
    for request in requests.lines() {
        let request = request?;
        let (workload, case) = request.split_once('\t').context("a request is WORKLOAD<TAB>CASE")?;
        let before = measure::anonymous_bytes(std::process::id())?;
        let values = if workload == "W1" { rows.first_values() } else { Vec::new() };
        let values_bytes = measure::anonymous_bytes(std::process::id())?.saturating_sub(before);
        let (system, version) = (system.as_mut(), &mut version);
        let bench = Bench { system, fresh: &fresh, directory, rows: &rows, values: &values, version };
        let answer = run(bench, workload, case, keys_bytes + values_bytes)
            .unwrap_or_else(|error| json!({"error": format!("{error:#}")}));
        writeln!(answers, "{answer}")?;
        answers.flush()?;
    }
    Ok(())
}

fn run(mut bench: Bench<'_>, workload: &str, case: &str, harness_bytes: u64) -> Result<Json> {
    let figures = workload::run(workload, case, &mut bench)?;
    let figures = figures.map(|figures| {
        figures.iter().map(|figure| (figure.metric.to_owned(), json!(figure.value))).collect::<Map<_, _>>()
    });
    Ok(json!({
        "figures": figures,
        "disk_bytes": measure::disk_bytes(bench.directory)?,
        "harness_bytes": harness_bytes,
    }))
}
