//! The chunk store by itself: what files weigh after compaction, what history adds, how long opening takes, and what a collection costs
//! those who commit meanwhile.
//!
//! One idea: each figure is a goal of the store's design, so it is measured as its users meet it, through the engine, on the comparison's
//! rows.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pleach_chunkstore::{Compression, Options, Stats};
use pleach_engine::{Database, NewCommit, TransactionOutcome};

use crate::measure::{anonymous_bytes, cpu_nanos, least_anonymous_bytes};
use crate::rows::Rows;

const TABLE: &str = "rows";
const MAIN: &str = "main";
/// Length of a row, key and value.
const ROW_BYTES: u64 = 116;

/// A figure, in the unit that its name ends in.
#[derive(Debug)]
pub struct Figure {
    /// What it is of.
    pub case: String,
    /// What was measured.
    pub metric: &'static str,
    /// How much.
    pub value: f64,
}

/// Measures everything on a table of `count` rows, below `directory`, and hands each figure to `show`.
///
/// # Errors
/// The database's, and the operating system's.
pub fn run(count: usize, directory: &Path, show: &mut dyn FnMut(Figure)) -> Result<()> {
    let rows = Rows::new(count);
    let raw = count as u64 * ROW_BYTES;
    for (name, compression) in
        [("none", Compression::None), ("fast", Compression::Fast), ("dense", Compression::Dense)]
    {
        let mut figure = |metric, value: f64| show(Figure { case: name.to_owned(), metric, value });
        let place = tempfile::tempdir_in(directory)?;
        let options = Options { compression, background: false, ..Options::default() };
        let database = loaded(&rows, &place.path().join("database"), options.clone())?;
        figure("loaded_bytes_per_raw_byte", bytes(&database.store().stats()) as f64 / raw as f64);
        let cpu = cpu_nanos();
        database.store().compact()?;
        figure("compaction_cpu_s", (cpu_nanos() - cpu) as f64 / 1e9);
        let before = bytes(&database.store().stats());
        figure("compacted_bytes_per_raw_byte", before as f64 / raw as f64);
        history(&rows, &database, 1_000, 10)?;
        figure("history_journal_bytes", (bytes(&database.store().stats()) - before) as f64);
        let cpu = cpu_nanos();
        database.store().compact()?;
        figure("history_compaction_cpu_s", (cpu_nanos() - cpu) as f64 / 1e9);
        figure("history_compacted_bytes", (bytes(&database.store().stats()) - before) as f64);
        let dir = place.path().join("database");
        database.close()?;
        opened(&dir, &options, "open_compacted", &mut figure)?;
        if compression == Compression::Fast {
            crashed(&rows, place.path(), &options, &mut figure)?;
            collected(&rows, &dir, &options, &mut figure)?;
        }
    }
    Ok(())
}

fn bytes(stats: &Stats) -> u64 {
    stats.journal_bytes + stats.table_bytes
}

fn loaded(rows: &Rows, dir: &Path, options: Options) -> Result<Database> {
    let database = Database::init(dir, options)?;
    let mut transaction = database.begin(MAIN)?;
    transaction.create_table(TABLE, None)?;
    let values = rows.first_values();
    transaction.load(TABLE, values.iter().enumerate().map(|(row, value)| (rows.key(row), value)))?;
    committed(&transaction.commit()?)?;
    commit(&database)?;
    Ok(database)
}

fn commit(database: &Database) -> Result<()> {
    database.commit(MAIN, NewCommit { message: "measured".into(), ..NewCommit::default() })?;
    Ok(())
}

fn committed(outcome: &TransactionOutcome) -> Result<()> {
    match outcome {
        TransactionOutcome::Committed(_) => Ok(()),
        other => anyhow::bail!("not committed: {other:?}"),
    }
}

/// `commits` version commits of `updates` random updates each.
fn history(rows: &Rows, database: &Database, commits: u64, updates: u64) -> Result<()> {
    for number in 0..commits {
        update(rows, database, number, updates)?;
        commit(database)?;
    }
    Ok(())
}

fn update(rows: &Rows, database: &Database, number: u64, updates: u64) -> Result<()> {
    let mut transaction = database.begin(MAIN)?;
    for update in 0..updates {
        let version = number * updates + update + 1;
        let row = version.wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize % rows.len();
        let (key, value) = rows.edit(row, version);
        transaction.put(TABLE, &key, &value)?;
    }
    committed(&transaction.commit()?)
}

/// How long opening takes, and what memory it takes.
fn opened(
    dir: &Path,
    options: &Options,
    name: &'static str,
    figure: &mut impl FnMut(&'static str, f64),
) -> Result<()> {
    let before = least_anonymous_bytes()?;
    let (started, cpu) = (Instant::now(), cpu_nanos());
    let database = Database::open(dir, options.clone())?;
    let (took, cpu) = (started.elapsed(), cpu_nanos() - cpu);
    let after = anonymous_bytes(std::process::id())?;
    let (ms, cpu_ms, memory) = match name {
        "open_compacted" => ("open_compacted_ms", "open_compacted_cpu_ms", "open_compacted_memory_bytes"),
        _ => ("open_after_kill_ms", "open_after_kill_cpu_ms", "open_after_kill_memory_bytes"),
    };
    figure(ms, took.as_secs_f64() * 1e3);
    figure(cpu_ms, cpu as f64 / 1e6);
    figure(memory, after.saturating_sub(before) as f64);
    Ok(database.close()?)
}

/// Opening what a killed process left: a journal as long as they get.
fn crashed(
    rows: &Rows,
    place: &Path,
    options: &Options,
    figure: &mut impl FnMut(&'static str, f64),
) -> Result<()> {
    let dir = place.join("database");
    let copy = place.join("killed");
    let database = Database::open(&dir, options.clone())?;
    let long = options.journal_bytes - options.journal_bytes / 16;
    let mut number = 1 << 32;
    let start = database.store().stats().journal_bytes;
    while database.store().stats().journal_bytes - start < long {
        update(rows, &database, number, 200)?;
        number += 1;
    }
    fs::create_dir_all(&copy)?;
    for entry in fs::read_dir(&dir)? {
        let entry = entry?;
        fs::copy(entry.path(), copy.join(entry.file_name()))?;
    }
    database.close()?;
    opened(&copy, options, "open_after_kill", figure)?;
    fs::remove_dir_all(&copy)?;
    Ok(())
}

/// Commits of one update, for a while, by four threads: the 99th percentile of how long each takes.
fn commits(rows: &Rows, database: &Database, number: u64, until: &AtomicBool) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    let mut turn = 0;
    while !until.load(Ordering::Relaxed) {
        let started = Instant::now();
        update(rows, database, (number << 40) + turn, 1)?;
        took.push(started.elapsed());
        turn += 1;
    }
    Ok(took)
}

fn collected(
    rows: &Rows,
    dir: &Path,
    options: &Options,
    figure: &mut impl FnMut(&'static str, f64),
) -> Result<()> {
    // So small a cache that the memory is the collection's.
    let options = Options { cache_bytes: 8 << 20, ..options.clone() };
    let database = Database::open(dir, options)?;
    let mut percentiles = BTreeMap::new();
    for (number, with) in [(1_u64, false), (2, true), (3, false), (4, true)] {
        let until = AtomicBool::new(false);
        let took = std::thread::scope(|scope| -> Result<Vec<Duration>> {
            let writers: Vec<_> = (0..4_u64)
                .map(|writer| {
                    let (database, until) = (&database, &until);
                    scope.spawn(move || commits(rows, database, number * 4 + writer, until))
                })
                .collect();
            let started = Instant::now();
            let mut outcome = Ok(());
            let mut rounds = 0;
            while outcome.is_ok() && (started.elapsed() < Duration::from_secs(5) || with && rounds < 2) {
                match with {
                    true => outcome = database.store().collect(false).map(drop),
                    false => std::thread::sleep(Duration::from_millis(100)),
                }
                rounds += 1;
            }
            until.store(true, Ordering::Relaxed);
            let mut took = Vec::new();
            for writer in writers {
                took.extend(writer.join().ok().context("a writer panicked")??);
            }
            outcome?;
            Ok(took)
        })?;
        let mut took = took;
        took.sort_unstable();
        let percentile = took[took.len() * 99 / 100].as_secs_f64();
        percentiles.entry(with).or_insert_with(Vec::new).push(percentile);
    }
    let mean = |with: bool| percentiles[&with].iter().sum::<f64>() / percentiles[&with].len() as f64;
    figure("commit_p99_us", mean(false) * 1e6);
    figure("commit_p99_beside_collection_us", mean(true) * 1e6);
    figure("commit_p99_ratio", mean(true) / mean(false));
    figure("collection_memory_bytes", collection_memory(rows, &database)? as f64);
    Ok(database.close()?)
}

/// The most memory that a collection takes, sampled, with a journal as long as they get to be rewritten.
fn collection_memory(rows: &Rows, database: &Database) -> Result<u64> {
    let start = database.store().stats().bytes_written;
    let mut number = 1 << 48;
    while database.store().stats().bytes_written - start < Options::default().journal_bytes * 15 / 16 {
        update(rows, database, number, 1)?;
        number += 1;
    }
    let done = AtomicBool::new(false);
    let before = least_anonymous_bytes()?;
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| -> Result<u64> {
            let mut peak = 0;
            while !done.load(Ordering::Relaxed) {
                peak = peak.max(anonymous_bytes(std::process::id())?);
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(peak)
        });
        let outcome = database.store().collect(false);
        done.store(true, Ordering::Relaxed);
        let peak = sampler.join().ok().context("the sampler panicked")??;
        outcome?;
        Ok(peak.saturating_sub(before))
    })
}
