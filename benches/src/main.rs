//! `pleach-bench`: the command line of the comparison.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command prints")]

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use pleach_bench::compare::{self, Line, Plan};
use pleach_bench::store::Figure;
use pleach_bench::{history, means, store, system, worker, workload};

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
        /// Only these workloads: W1, W3, W4, W5, W6, W7
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
    /// One system in a process of its own; started by `compare`
    #[command(hide = true)]
    Worker {
        system: String,
        #[arg(long)]
        rows: usize,
        #[arg(long)]
        directory: PathBuf,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Compare { rows, only, systems, json, directory } => {
            let plan = Plan {
                rows,
                workloads: chosen("workload", only, &workload::NAMES)?,
                systems: chosen("system", systems, &system::NAMES)?,
                directory: directory.unwrap_or_else(std::env::temp_dir),
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
        Command::Worker { system, rows, directory } => {
            worker::serve(&system, rows, &directory, io::stdin().lock(), io::stdout().lock())
        }
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
