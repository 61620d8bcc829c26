//! Runs the systems side by side and prints the medians of three rounds.
//!
//! A round starts one worker per system, on empty directories, and goes through the cases; for each case the workers
//! take turns while the others are idle. Memory is sampled from outside, so that it costs the worker nothing: the
//! highest anonymous memory during the case, less what the harness itself holds.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value as Json;

use crate::measure;
use crate::workload;

/// Rounds, of which the median counts.
const ROUNDS: usize = 3;
/// Time between two looks at a worker's memory.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(5);

/// What to compare.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Rows of the table.
    pub rows: usize,
    /// Workloads to report, of [`workload::NAMES`].
    pub workloads: Vec<String>,
    /// Systems, of [`crate::system::NAMES`].
    pub systems: Vec<String>,
    /// Options of Pleach for its workers, as `pleach-bench worker` takes them.
    pub options: Vec<String>,
    /// Directory under which the stores are made, and removed.
    pub directory: PathBuf,
}

/// One median.
#[derive(Clone, Debug)]
pub struct Line {
    /// As in [`workload::NAMES`].
    pub workload: String,
    /// As in [`crate::system::NAMES`].
    pub system: String,
    /// Case of the workload.
    pub case: String,
    /// Name of the figure.
    pub metric: String,
    /// Median of the rounds.
    pub value: f64,
}

/// Runs the plan; `progress` is told what is being done. Lines come in the order of workloads, cases, systems.
pub fn run(plan: &Plan, progress: &mut dyn FnMut(&str)) -> Result<Vec<Line>> {
    let mut samples: Vec<(Line, Vec<f64>)> = Vec::new();
    for round in 0..ROUNDS {
        let directory = tempfile::tempdir_in(&plan.directory)?;
        let mut workers = Vec::new();
        for system in &plan.systems {
            workers.push(Worker::start(system, plan, directory.path())?);
        }
        for name in workload::NAMES {
            let reported = plan.workloads.iter().any(|wanted| wanted == name);
            if !reported && name != "W1" {
                continue;
            }
            for case in workload::cases(name, plan.rows) {
                for worker in &mut workers {
                    progress(&format!("round {} of {ROUNDS}: {name} {case} {}", round + 1, worker.system));
                    let figures = worker
                        .run(name, &case)
                        .with_context(|| format!("{name} {case} {}", worker.system))?;
                    if reported {
                        record(&mut samples, name, &worker.system, &case, figures);
                    }
                }
            }
        }
        for worker in workers {
            worker.stop()?;
        }
    }
    Ok(samples.into_iter().map(|(line, values)| Line { value: median(values), ..line }).collect())
}

fn record(
    samples: &mut Vec<(Line, Vec<f64>)>,
    workload: &str,
    system: &str,
    case: &str,
    figures: Vec<(String, f64)>,
) {
    for (metric, value) in figures {
        let known = samples.iter_mut().find(|(line, _)| {
            line.workload == workload && line.system == system && line.case == case && line.metric == metric
        });
        match known {
            Some((_, values)) => values.push(value),
            None => {
                let (workload, system, case) = (workload.to_owned(), system.to_owned(), case.to_owned());
                samples.push((Line { workload, system, case, metric, value }, vec![value]));
            }
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// A running worker process.
struct Worker {
    system: String,
    process: Child,
    requests: Option<ChildStdin>,
    answers: Receiver<std::io::Result<String>>,
}

impl Worker {
    fn start(system: &str, plan: &Plan, parent: &Path) -> Result<Worker> {
        let directory = parent.join(system);
        std::fs::create_dir(&directory)?;
        let mut process = Command::new(std::env::current_exe()?)
            .args(["worker", system, "--rows", &plan.rows.to_string(), "--directory"])
            .arg(&directory)
            .args(&plan.options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let requests = process.stdin.take();
        let output = process.stdout.take().context("the worker has no standard output")?;
        let (sender, answers) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Worker { system: system.to_owned(), process, requests, answers })
    }

    /// Runs one case and returns its figures; none if the system has nothing to compare.
    fn run(&mut self, workload: &str, case: &str) -> Result<Vec<(String, f64)>> {
        let requests = self.requests.as_mut().context("the worker is stopped")?;
        writeln!(requests, "{workload}\t{case}")?;
        requests.flush()?;
        let (answer, peak_bytes) = self.answer()?;
        let answer: Json = serde_json::from_str(&answer)?;
        if let Some(error) = answer["error"].as_str() {
            bail!("{error}");
        }
        let Some(figures) = answer["figures"].as_object() else { return Ok(Vec::new()) };
        let mut figures: Vec<(String, f64)> = figures
            .iter()
            .map(|(metric, value)| (metric.clone(), value.as_f64().unwrap_or(f64::NAN)))
            .collect();
        if workload == "W1" && !figures.is_empty() {
            figures.push(("disk_bytes".to_owned(), answer["disk_bytes"].as_f64().unwrap_or(f64::NAN)));
        }
        let harness_bytes = answer["harness_bytes"].as_u64().unwrap_or(0);
        figures.push(("peak_rss_bytes".to_owned(), peak_bytes.saturating_sub(harness_bytes) as f64));
        Ok(figures)
    }

    /// Waits for the next line, looking at the worker's memory meanwhile.
    fn answer(&mut self) -> Result<(String, u64)> {
        let mut peak_bytes = 0;
        loop {
            match self.answers.recv_timeout(SAMPLE_INTERVAL) {
                Ok(line) => return Ok((line?, peak_bytes)),
                Err(RecvTimeoutError::Timeout) => {
                    let bytes = measure::anonymous_bytes(self.process.id()).unwrap_or(0);
                    peak_bytes = peak_bytes.max(bytes);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the worker of {} ended: {}", self.system, self.process.wait()?)
                }
            }
        }
    }

    /// Ends the worker by ending its input.
    fn stop(mut self) -> Result<()> {
        self.requests = None;
        let status = self.process.wait()?;
        if !status.success() {
            bail!("the worker of {} ended: {status}", self.system);
        }
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.requests = None;
        if let Ok(None) = self.process.try_wait() {
            // Only on an error elsewhere: the process would otherwise outlive its directory.
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_three_is_the_middle_one() {
        assert_eq!(median(vec![9.0, 1.0, 4.0]), 4.0);
        assert_eq!(median(vec![2.0, 4.0]), 3.0);
    }
}
