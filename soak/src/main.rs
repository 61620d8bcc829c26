//! `pleach-soak`: the long forms of the tests of what is promised when things go wrong.
//!
//! One idea: a form runs until its time is over, counts what it tried, and stops at the first thing found, with what repeats it. A figure
//! counts only beside a planted fault that the same form finds: `--plant` makes it fail, or it is worth nothing.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command prints")]

mod cluster;
mod cuts;
mod forms;
mod lazyfs;
#[cfg(target_os = "linux")]
mod log_writes;
#[cfg(target_os = "linux")]
mod recorder;
mod replicas;
mod tokens;

#[cfg(not(target_os = "linux"))]
mod log_writes {
    //! What has no loop device has no recorded disk.
    pub(crate) fn run(_: &crate::Run) -> Result<String, crate::Stop> {
        Err(crate::Stop::Missing("disks are recorded on Linux only".to_owned()))
    }
}

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use forms::FORMS;

/// Tests, for as long as you like, what Pleach promises when things go wrong
#[derive(Parser)]
#[command(name = "pleach-soak", version)]
struct Arguments {
    /// What to run [default: each in turn]
    #[arg(value_parser = FORMS.map(|form| form.name))]
    names: Vec<String>,
    /// How long each runs; it ends the round that it is in
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// After how many cuts `cuts` ends, if its time is not over before
    #[arg(long)]
    cuts: Option<u64>,
    /// After how many reads `tokens` ends, if its time is not over before
    #[arg(long)]
    checks: Option<u64>,
    /// How many replicas `tokens` reads from
    #[arg(long, default_value_t = 2)]
    replicas: usize,
    /// How long `tokens` waits between versions that it writes, ms
    #[arg(long, default_value_t = 20)]
    pause: u64,
    /// The seed to begin with
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// A fault that must be found, so that this must fail
    #[arg(long, value_enum)]
    plant: Option<Plant>,
}

/// A fault that is put in on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Plant {
    /// Syncing a file does nothing
    NoDataSync,
    /// Syncing a directory does nothing
    NoDirSync,
    /// Something counts as acknowledged before it is
    EarlyAck,
    /// A write is reported and never made
    LostWrite,
    /// A server forgets where the transfer was that was cut
    NoResume,
    /// A server leaves out some of what it sends
    SkippedChunks,
    /// Replicas take what they have for new
    StaleReads,
    /// Reads carry no token
    NoToken,
}

/// What a form is given.
struct Run {
    until: Instant,
    cuts: Option<u64>,
    checks: Option<u64>,
    replicas: usize,
    pause_millis: u64,
    seed: u64,
    plant: Option<Plant>,
}

impl Run {
    /// Whether there is time for another round.
    fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }
}

/// Why a form ended early.
enum Stop {
    /// A promise was broken.
    Found(String),
    /// Something is missing on this machine.
    Missing(String),
}

impl From<String> for Stop {
    fn from(found: String) -> Stop {
        Stop::Found(found)
    }
}

fn main() -> ExitCode {
    if let Some(status) = cuts::as_clone() {
        return status;
    }
    let arguments = Arguments::parse();
    let chosen = |name: &str| arguments.names.is_empty() || arguments.names.iter().any(|wish| wish == name);
    // Built before the time of any form begins.
    pleach_tests::binary();
    let (mut found, mut missing) = (false, false);
    for form in FORMS.iter().filter(|form| chosen(form.name)) {
        if arguments.plant.is_some_and(|plant| !form.plants.contains(&plant)) {
            println!("{}: not run: this fault cannot be planted here", form.name);
            missing = true;
            continue;
        }
        let start = Instant::now();
        let until = start + Duration::from_secs_f64(arguments.minutes * 60.0);
        let Arguments { cuts, checks, replicas, pause, seed, plant, .. } = arguments;
        let outcome = (form.run)(&Run { until, cuts, checks, replicas, pause_millis: pause, seed, plant });
        let seconds = start.elapsed().as_secs();
        match outcome {
            Ok(ref counts) => println!("{}: {counts}, nothing found, {seconds} s", form.name),
            Err(Stop::Found(ref what)) => println!("{}: FOUND after {seconds} s: {what}", form.name),
            Err(Stop::Missing(ref what)) => println!("{}: not run: {what}", form.name),
        }
        found |= matches!(outcome, Err(Stop::Found(_)));
        missing |= matches!(outcome, Err(Stop::Missing(_)));
    }
    match (found, missing) {
        (true, _) => ExitCode::from(1),
        // What was asked for by name and cannot be run is no success.
        (_, true) if !arguments.names.is_empty() => ExitCode::from(2),
        _ => ExitCode::SUCCESS,
    }
}
