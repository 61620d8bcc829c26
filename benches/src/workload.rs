//! What is measured: one file per workload, each with its cases, its preparation and its figures.
//!
//! A case prepares outside the measurement, runs, checks what came out, and returns figures. The names of workloads,
//! cases and metrics are what scripts rely on. W1 comes first in every run, because the others need its table; W3 and
//! W4 read it as it was loaded, W5 to W7 change it.

use std::path::Path;

use anyhow::Result;

use crate::measure::Reading;
use crate::rows::{Rows, Value};
use crate::system::{Counters, System};

pub mod w1_load;
pub mod w2_random_load;
pub mod w3_get;
pub mod w4_scan;
pub mod w5_update;
pub mod w6_diff;
pub mod w7_merge;

/// One measured number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// Its name, with the unit last.
    pub metric: &'static str,
    /// Its value.
    pub value: f64,
}

/// Makes a system, empty, in a directory.
pub type Fresh<'a> = dyn Fn(&Path) -> Result<Box<dyn System>> + 'a;

/// What a case works on.
pub struct Bench<'a> {
    /// The system under comparison.
    pub system: &'a mut dyn System,
    /// Makes another system of the same kind.
    pub fresh: &'a Fresh<'a>,
    /// Where there is room for it.
    pub directory: &'a Path,
    /// The table's rows.
    pub rows: &'a Rows,
    /// First values of all rows; only W1 has them, so that they do not count as memory in the others.
    pub values: &'a [Value],
    /// Number of the last version given to an update, so that every update changes its row.
    pub version: &'a mut u64,
}

impl Bench<'_> {
    /// A version that no row has had.
    pub fn next_version(&mut self) -> u64 {
        *self.version += 1;
        *self.version
    }

    /// Runs `work` and returns what it returned with its cost.
    pub fn cost<T>(&mut self, work: impl FnOnce(&mut dyn System) -> Result<T>) -> Result<(T, Cost)> {
        cost(self.system, work)
    }
}

/// Runs `work` on a system and returns what it returned with its cost.
pub fn cost<T>(
    system: &mut dyn System,
    work: impl FnOnce(&mut dyn System) -> Result<T>,
) -> Result<(T, Cost)> {
    let own = system.counters();
    let before = Reading::now()?;
    let result = work(system)?;
    let reading = Reading::now()?.since(before);
    let cost = Cost::new(reading, own, system.counters());
    Ok((result, cost))
}

/// What a piece of work cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// CPU time in seconds.
    pub cpu_s: f64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Sync calls.
    pub fsyncs: u64,
    /// Nodes looked at; 0 for a system that does not say.
    pub nodes_read: u64,
}

impl Cost {
    fn new(reading: Reading, before: Counters, after: Counters) -> Cost {
        let own = |before: Option<u64>, after: Option<u64>| Some(after? - before?);
        Cost {
            cpu_s: reading.cpu_nanos as f64 / 1e9,
            bytes_written: own(before.bytes_written, after.bytes_written).unwrap_or(reading.bytes_written),
            fsyncs: own(before.fsyncs, after.fsyncs).unwrap_or(reading.fsyncs),
            nodes_read: own(before.nodes_read, after.nodes_read).unwrap_or(0),
        }
    }
}

/// The workloads, in the order in which they run.
pub const NAMES: [&str; 7] = ["W1", "W2", "W3", "W4", "W5", "W6", "W7"];

/// Cases of `workload` on a table of `rows` rows; none that the table is too small for.
pub fn cases(workload: &str, rows: usize) -> Vec<String> {
    match workload {
        "W1" | "W3" | "W4" => vec![size_name(rows)],
        "W2" => w2_random_load::cases(rows),
        "W5" => w5_update::cases(rows),
        "W6" => w6_diff::cases(rows),
        "W7" => w7_merge::cases(rows),
        _ => Vec::new(),
    }
}

/// Runs one case. `None`: the system has nothing to compare here.
pub fn run(workload: &str, case: &str, bench: &mut Bench<'_>) -> Result<Option<Vec<Figure>>> {
    let needs_versions = matches!(workload, "W6" | "W7");
    if needs_versions && !bench.system.versions() {
        return Ok(None);
    }
    match workload {
        "W6" => return w6_diff::run(bench, case),
        "W1" => w1_load::run(bench),
        "W2" => w2_random_load::run(bench, case),
        "W3" => w3_get::run(bench),
        "W4" => w4_scan::run(bench),
        "W5" => w5_update::run(bench, case),
        "W7" => w7_merge::run(bench, case),
        other => anyhow::bail!("no workload is called {other}; there are {}", NAMES.join(", ")),
    }
    .map(Some)
}

/// `1M`, `10M`, `50k`, or the number itself.
pub fn size_name(rows: usize) -> String {
    match rows {
        n if n > 0 && n % 1_000_000 == 0 => format!("{}M", n / 1_000_000),
        n if n > 0 && n % 1_000 == 0 => format!("{}k", n / 1_000),
        n => n.to_string(),
    }
}
