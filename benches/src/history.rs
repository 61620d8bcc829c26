//! Long histories and many branches: what ancestry, merge bases and the log cost among a million commits, and what making and switching
//! branches costs among a hundred thousand.
//!
//! One idea: such a cost must not depend on what it has nothing to do with. So each is shown as commits and nodes read, which repeat on any
//! machine, beside microseconds; and branches as the first and the last thousand of them.
//!
//! Half of the commits are on `main` and `side` both, a quarter each on one of them alone.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use pleach_chunkstore::{Durability, Options};
use pleach_engine::{Database, Hash, NewCommit, TransactionOutcome};

use crate::measure::cpu_nanos;
use crate::store::Figure;

const MAIN: &str = "main";
const SIDE: &str = "side";
const TABLE: &str = "rows";
/// Commits of a page of the log.
const PAGE: usize = 50;
/// How many branches are measured at a time.
const SOME: usize = 1_000;

/// Where the ends of the history are.
struct History {
    first: Hash,
    fork: Hash,
    main: Hash,
    /// The commit before `main`.
    before: Hash,
    side: Hash,
}

/// Makes `commits` commits and `branches` branches below `directory`, measures, and hands each figure to `show`.
///
/// # Errors
/// The database's, and the operating system's; an answer that is wrong.
pub fn run(commits: usize, branches: usize, directory: &Path, show: &mut dyn FnMut(Figure)) -> Result<()> {
    let place = tempfile::tempdir_in(directory)?;
    let dir = place.path().join("database");
    // Without syncs: what is measured is what comes beside them.
    let durability = Durability::Eventual { interval: Duration::from_secs(1) };
    let options = Options { durability, ..Options::default() };
    let database = Database::init(&dir, options.clone())?;
    let (started, cpu) = (Instant::now(), cpu_nanos());
    let history = made(&database, commits)?;
    let mut figure = |case: &str, metric, value| show(Figure { case: case.to_owned(), metric, value });
    figure("commit", "us", started.elapsed().as_secs_f64() * 1e6 / commits as f64);
    figure("commit", "cpu_us", (cpu_nanos() - cpu) as f64 / 1e3 / commits as f64);
    let stats = database.store().stats();
    figure("commit", "bytes_written", stats.bytes_written as f64 / commits as f64);
    database.close()?;
    let database = Database::open(&dir, options)?;
    walked(&database, commits, &history, &mut figure)?;
    branched(&database, branches, &history, &mut figure)?;
    Ok(database.close()?)
}

/// One row changed, and a commit of that.
fn commit(database: &Database, branch: &str, number: usize) -> Result<Hash> {
    let mut transaction = database.begin(branch)?;
    transaction.put(TABLE, b"row", &number.to_le_bytes())?;
    let TransactionOutcome::Committed(_) = transaction.commit()? else { bail!("a transaction was refused") };
    let date_micros = Some(number as i64);
    let new = NewCommit { message: number.to_string(), date_micros, ..NewCommit::default() };
    Ok(database.commit(branch, new)?.hash)
}

fn made(database: &Database, commits: usize) -> Result<History> {
    let mut transaction = database.begin(MAIN)?;
    transaction.create_table(TABLE, None)?;
    let TransactionOutcome::Committed(_) = transaction.commit()? else { bail!("a transaction was refused") };
    let first = commit(database, MAIN, 0)?;
    let mut fork = first;
    for number in 1..commits / 2 {
        fork = commit(database, MAIN, number)?;
    }
    database.create_branch(SIDE, Some(fork))?;
    let (mut main, mut before, mut side) = (fork, fork, fork);
    for number in commits / 2..commits * 3 / 4 {
        before = main;
        main = commit(database, MAIN, number)?;
        side = commit(database, SIDE, number + commits)?;
    }
    Ok(History { first, fork, main, before, side })
}

/// What questions about the history cost: the first time after opening, and again.
fn walked(
    database: &Database,
    commits: usize,
    history: &History,
    figure: &mut impl FnMut(&str, &'static str, f64),
) -> Result<()> {
    let History { first, fork, main, before, side } = history;
    let mut measured = |case: &str, ask: &dyn Fn() -> Result<bool>| {
        for metrics in [("reads", "first_us"), ("reads_again", "us")] {
            let (read, started) = (reads(database), Instant::now());
            let right = ask()?;
            let took = started.elapsed();
            ensure!(right, "{case}: a wrong answer");
            figure(case, metrics.0, reads(database) - read);
            figure(case, metrics.1, took.as_secs_f64() * 1e6);
        }
        Ok(())
    };
    measured("is_ancestor, one before", &|| Ok(database.is_ancestor(before, main)?))?;
    measured("is_ancestor, the first of all", &|| Ok(database.is_ancestor(first, main)?))?;
    measured("is_ancestor, of another branch", &|| Ok(!database.is_ancestor(main, side)?))?;
    measured("merge_base, one before", &|| Ok(database.merge_base(before, main)? == Some(*before)))?;
    measured("merge_base, of both branches", &|| Ok(database.merge_base(side, main)? == Some(*fork)))?;
    let back = format!("HEAD~{}", commits * 3 / 4 - 1);
    let found = || Ok(database.resolve(&back, MAIN)? == pleach_engine::Revision::Commit(*first));
    measured("HEAD~n, the first of all", &found)?;
    measured("log, first page", &|| {
        let page: Vec<_> = database.log(main)?.take(PAGE).collect::<Result<_, _>>()?;
        Ok(page.len() == PAGE)
    })?;
    let started = Instant::now();
    let count = database.log(main)?.map_while(Result::ok).count();
    ensure!(count >= commits * 3 / 4 - 1, "{count} commits");
    figure("log, all", "us_per_commit", started.elapsed().as_secs_f64() * 1e6 / count as f64);
    Ok(())
}

/// What branches cost while there are few, and when there are many.
fn branched(
    database: &Database,
    branches: usize,
    history: &History,
    figure: &mut impl FnMut(&str, &'static str, f64),
) -> Result<()> {
    let name = |number: usize| format!("branch-{number:06}");
    let some = SOME.min(branches);
    let mut measured = |case: &str, numbers: std::ops::Range<usize>, run: &dyn Fn(String) -> Result<()>| {
        let (written, count) = (database.store().stats().bytes_written, numbers.len() as f64);
        let mut longest = Duration::ZERO;
        let started = Instant::now();
        for number in numbers {
            let one = Instant::now();
            run(name(number))?;
            longest = longest.max(one.elapsed());
        }
        figure(case, "us", started.elapsed().as_secs_f64() * 1e6 / count);
        figure(case, "longest_us", longest.as_secs_f64() * 1e6);
        figure(case, "bytes_written", (database.store().stats().bytes_written - written) as f64 / count);
        Ok::<_, anyhow::Error>(())
    };
    let create = |name: String| Ok(database.create_branch(&name, Some(history.fork))?);
    let switch = |name: String| Ok(database.switch(&name)?);
    let status = |name: String| {
        ensure!(!database.status(&name)?.dirty);
        Ok(())
    };
    measured("create, the first", 0..some, &create)?;
    measured("switch, few branches", 0..some, &switch)?;
    measured("create, those between", some..branches.saturating_sub(some).max(some), &create)?;
    measured("create, the last", branches.saturating_sub(some).max(some)..branches.max(some), &create)?;
    measured("switch, many branches", 0..some, &switch)?;
    measured("status, many branches", 0..some, &status)?;
    let change = |name: String| commit(database, &name, branches).map(drop);
    measured("transaction and commit, many branches", 0..some, &change)?;
    let started = Instant::now();
    let listed = database.branches()?.len();
    figure("list", "us", started.elapsed().as_secs_f64() * 1e6);
    ensure!(listed == branches.max(some) + 2, "{listed} branches");
    Ok(())
}

/// Chunks asked for so far.
fn reads(database: &Database) -> f64 {
    let stats = database.store().stats();
    (stats.cache_hits + stats.cache_misses) as f64
}
