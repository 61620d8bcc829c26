//! `pleach-bench`: the command line of the comparison.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command prints")]

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use pleach_bench::compare::{self, Line, Plan};
use pleach_bench::store::Figure;
use pleach_bench::{history, means, replication, store, sync, system, worker, workload};
use pleach_engine::{Compression, Options};

/// As the `pleach` binary has it; the rivals have it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "pleach-bench", version, about = "Benchmarks of Pleach beside its rivals")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the systems side by side and print medians of three
    Compare {
        /// Rows of the table, 116 bytes each
        #[arg(long, default_value_t = 1_000_000)]
        rows: usize,
        /// Only these workloads: W1, W2, W3, W4, W5, W6, W7
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// Only these systems: pleach, lmdb, prolly-map
        #[arg(long, value_delimiter = ',')]
        systems: Vec<String>,
        /// Print one JSON object a figure
        #[arg(long)]
        json: bool,
        /// Where the stores are made, and removed afterwards [default: the system's temporary directory]
        #[arg(long)]
        directory: Option<PathBuf>,
        #[command(flatten)]
        tuning: Tuning,
    },
    /// Count what the mean sizes of nodes cost
    Means {
        /// Rows of the table, 116 bytes each
        #[arg(long, default_value_t = 1_000_000)]
        rows: usize,
    },
    /// Measure the chunk store: compaction, history, opening, collection
    Store {
        /// Rows of the table, 116 bytes each
        #[arg(long, default_value_t = 1_000_000)]
        rows: usize,
        /// Where the store is made, and removed afterwards [default: the system's temporary directory]
        #[arg(long)]
        directory: Option<PathBuf>,
    },
    /// Measure long histories and many branches
    History {
        /// Commits of the history
        #[arg(long, default_value_t = 1_000_000)]
        commits: usize,
        /// Branches made beside
        #[arg(long, default_value_t = 100_000)]
        branches: usize,
        /// Where the store is made, and removed afterwards [default: the system's temporary directory]
        #[arg(long)]
        directory: Option<PathBuf>,
    },
    /// Measure the exchange between two databases, beside git and rsync where they are installed
    Sync {
        /// Rows of the table, 70 bytes each
        #[arg(long, default_value_t = 1_000_000)]
        rows: u64,
        /// Only these parts: clones, exchanges, rivals
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// Where the databases are made, and removed afterwards [default: the system's temporary directory]
        #[arg(long)]
        directory: Option<PathBuf>,
    },
    /// Measure replication over servers that this starts: through a remote, and direct to standbys
    Replication {
        /// Only these parts: pushes, starts, neighbours, reads, writes, load, lag, switches, idle
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
    },
    /// One system in a process of its own; started by `compare`
    #[command(hide = true)]
    Worker {
        system: String,
        #[arg(long)]
        rows: usize,
        #[arg(long)]
        directory: PathBuf,
        #[command(flatten)]
        tuning: Tuning,
    },
}

/// What Pleach is opened with, where it is not the default.
#[derive(clap::Args)]
struct Tuning {
    /// Bytes of chunks that Pleach keeps in memory
    #[arg(long)]
    cache_bytes: Option<u64>,
    /// How hard Pleach's compaction compresses
    #[arg(long, value_parser = ["none", "fast", "dense"])]
    compression: Option<String>,
}

impl Tuning {
    fn options(&self) -> Options {
        let options = Options::default();
        Options {
            cache_bytes: self.cache_bytes.unwrap_or(options.cache_bytes),
            compression: match self.compression.as_deref() {
                Some("none") => Compression::None,
                Some("dense") => Compression::Dense,
                _ => Compression::Fast,
            },
            ..options
        }
    }

    fn arguments(&self) -> Vec<String> {
        let cache = self.cache_bytes.map(|bytes| format!("--cache-bytes={bytes}"));
        let compression = self.compression.as_ref().map(|compression| format!("--compression={compression}"));
        cache.into_iter().chain(compression).collect()
    }
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Compare { rows, only, systems, json, directory, tuning } => {
            let plan = Plan {
                rows,
                workloads: chosen("workload", only, &workload::NAMES)?,
                systems: chosen("system", systems, &system::NAMES)?,
                directory: directory.unwrap_or_else(std::env::temp_dir),
                options: tuning.arguments(),
            };
            if rows < 1_000 {
                bail!("a table of {rows} rows is too small to measure; give --rows 1000 or more");
            }
            let shown = io::stderr().is_terminal();
            let lines = compare::run(&plan, &mut |step| {
                if shown {
                    eprintln!("{step}");
                }
            })?;
            lines.iter().for_each(|line| print(line, json));
            Ok(())
        }
        Command::Means { rows } => {
            println!("| leaf | inner | chunks | updates: bytes written, nodes read by the diff |");
            for cost in means::run(rows)? {
                let transactions: Vec<String> = cost
                    .transactions
                    .iter()
                    .map(|(updates, bytes, nodes)| format!("{updates}: {bytes}, {nodes}"))
                    .collect();
                println!(
                    "| {} | {} | {} | {} |",
                    cost.means.0,
                    cost.means.1,
                    cost.chunks,
                    transactions.join(" | ")
                );
            }
            println!(
                "\n| rows | leaves | rows of a leaf: least, half, 99 %, most | bytes at most | nodes made a level |"
            );
            for shape in means::shapes(rows / 10)? {
                let [least, half, most, largest] = shape.sizes;
                println!(
                    "| {} | {} | {least}, {half}, {most}, {largest} | {} | {:.3} |",
                    shape.rows, shape.leaves, shape.bytes_max, shape.rewritten
                );
            }
            Ok(())
        }
        Command::Store { rows, directory } => {
            store::run(rows, &directory.unwrap_or_else(std::env::temp_dir), &mut print_figure)
        }
        Command::History { commits, branches, directory } => {
            if commits < 1_000 {
                bail!("a history of {commits} commits is too short to measure; give --commits 1000 or more");
            }
            let directory = directory.unwrap_or_else(std::env::temp_dir);
            history::run(commits, branches, &directory, &mut print_figure)
        }
        Command::Sync { rows, only, directory } => {
            if rows < 10_000 {
                bail!("a table of {rows} rows is too small to measure; give --rows 10000 or more");
            }
            let only = chosen("part", only, &sync::PARTS)?;
            sync::run(rows, &only, &directory.unwrap_or_else(std::env::temp_dir), &mut print_figure)
        }
        Command::Replication { only } => {
            replication::run(&chosen("part", only, &replication::PARTS)?, &mut print_figure)
        }
        Command::Worker { system, rows, directory, tuning } => worker::serve(
            &system,
            rows,
            &directory,
            &tuning.options(),
            io::stdin().lock(),
            io::stdout().lock(),
        ),
    }
}

fn chosen(what: &str, wanted: Vec<String>, known: &[&str]) -> Result<Vec<String>> {
    if let Some(unknown) = wanted.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("no {what} is called {unknown}; there are {}", known.join(", "));
    }
    Ok(if wanted.is_empty() { known.iter().map(|name| (*name).to_owned()).collect() } else { wanted })
}

fn print_figure(figure: Figure) {
    println!("{:<38} {:<36} {:>16.3}", figure.case, figure.metric, figure.value);
}

fn print(line: &Line, json: bool) {
    let Line { workload, system, case, metric, value } = line;
    if json {
        let object = serde_json::json!({
            "workload": workload, "system": system, "case": case, "metric": metric, "value": value,
        });
        println!("{object}");
    } else {
        println!("{workload}  {case:<26} {system:<12} {metric:<16} {value:>16.1}");
    }
}
