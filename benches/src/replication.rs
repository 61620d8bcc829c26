//! Replication over real servers: what a push on write, a read of a replica and an acknowledged write cost, and how long a change of roles takes.
//!
//! Servers are processes of the same build as this; bytes and turns on the wire are counted by proxies, CPU by the kernel. Linux only.

mod remote;
mod standby;

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pleach_client::{Client, Options};
use pleach_tests::{Sandbox, Server};
use tokio::runtime::Runtime;

use crate::store::Figure;

/// The parts of the measurement.
pub const PARTS: [&str; 9] =
    ["pushes", "starts", "neighbours", "reads", "writes", "load", "lag", "switches", "idle"];

/// Measures everything, or the parts in `only`, and hands each figure to `show`.
///
/// # Errors
/// The servers', the network's, and the operating system's.
pub fn run(only: &[String], show: &mut dyn FnMut(Figure)) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut bench = Bench { runtime, show };
    for part in PARTS.iter().filter(|part| only.is_empty() || only.iter().any(|only| only == *part)) {
        match *part {
            "pushes" => remote::pushes(&mut bench)?,
            "starts" => remote::starts(&mut bench)?,
            "neighbours" => remote::neighbours(&mut bench)?,
            "reads" => remote::reads(&mut bench)?,
            "writes" => standby::writes(&mut bench)?,
            "load" => standby::load(&mut bench)?,
            "lag" => standby::lag(&mut bench)?,
            "switches" => standby::switches(&mut bench)?,
            _ => standby::idle(&mut bench)?,
        }
    }
    Ok(())
}

struct Bench<'a> {
    runtime: Runtime,
    show: &'a mut dyn FnMut(Figure),
}

impl Bench<'_> {
    fn figure(&mut self, case: &str, metric: &'static str, value: f64) {
        (self.show)(Figure { case: case.to_owned(), metric, value });
    }
}

/// A client of these servers, which does not hide what a server does.
fn client(servers: &[&Server]) -> Result<Client> {
    let urls: Vec<String> = servers.iter().map(|server| server.url()).collect();
    Ok(Client::connect(&urls, Options::default())?)
}

/// A server with the configuration `text`, in `name`.yaml.
fn serve(sandbox: &Sandbox, name: &str, text: &str) -> Server {
    sandbox.write(&format!("{name}.yaml"), text);
    sandbox.serve(&["--config", &format!("{name}.yaml")])
}

/// CPU time of a process, user and system.
fn cpu(server: &Server) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", server.pid()))?;
    // The name in parentheses may have blanks in it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| -> Result<u64> { Ok(fields.get(field).context("a short stat")?.parse()?) };
    // A tick is 10 ms wherever Linux runs.
    Ok(Duration::from_millis(10 * (ticks(11)? + ticks(12)?)))
}

/// The value below which `percent` of `times` are.
fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    let at = (times.len() * percent).div_ceil(100).max(1) - 1;
    times.get(at).copied().unwrap_or_default()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// How long `what` took.
async fn timed<T>(what: impl Future<Output = T>) -> (Duration, T) {
    let begun = Instant::now();
    let done = what.await;
    (begun.elapsed(), done)
}
