//! What work on a database takes of memory, whatever is done: its budget, and a constant.
//!
//! Each budget has a process of its own, which does all that takes memory, on more rows than fit, and looks every millisecond how much anonymous memory it
//! has. `PLEACH_SOAK=1` does so with the budgets and the numbers of rows of `docs/decisions/0008-one-memory-budget.md`, and prints the peaks (`--nocapture`).

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::{
    fs,
    ops::Bound,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use pleach_engine::{
    Database, LoadOptions, MergeOptions, MergeOutcome, NewCommit, Options, Schema, Side, Snapshot,
    TransactionOutcome,
    row::{Column, Type, Value},
};

/// `BUDGET BESIDE ROWS` of the process that measures. Beside the budget are threads and their stacks, batches on their way to the disk, what the allocator keeps, and
/// where chunks lie.
const CASE: &str = "PLEACH_MEMORY_CASE";

#[test]
fn work_stays_within_its_budget() {
    let (budgets, beside, rows): (&[u64], u64, i64) = match std::env::var_os("PLEACH_SOAK") {
        None => (&[8 << 20], 8 << 20, 60_000),
        Some(_) => (&[32 << 20, 64 << 20, 256 << 20], 40 << 20, 1_000_000),
    };
    for budget in budgets {
        let mut measured = Command::new(std::env::current_exe().unwrap());
        measured.args(["--exact", "measured", "--nocapture"]).env(CASE, format!("{budget} {beside} {rows}"));
        let output = measured.output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
        println!("{printed}");
    }
}

/// Does all there is to do, if it was started to measure that.
#[test]
fn measured() {
    let Ok(case) = std::env::var(CASE) else { return };
    let numbers: Vec<i64> = case.split(' ').map(|number| number.parse().unwrap()).collect();
    let &[budget, beside, rows] = numbers.as_slice() else { panic!("{case}") };
    let budget = budget as u64;
    let dir = tempfile::tempdir().unwrap();
    let mut watch = Watch::begin(budget);
    let database = Database::init(&dir.path().join("db"), Options::with_memory(budget)).unwrap();

    let schema = schema();
    let mut transaction = database.begin("main").unwrap();
    transaction.create_table("t", Some(schema.clone())).unwrap();
    let unsorted = LoadOptions { unsorted: true, ..LoadOptions::default() };
    // A prime, so that each row comes once, in no order.
    transaction.load_with("t", (0..rows).map(|n| row(&schema, n * 7_368_787 % rows, 0)), &unsorted).unwrap();
    watch.phase("load in any order");
    transaction.commit().unwrap();
    commit(&database, "main");
    let base = database.branch("main").unwrap().unwrap().head.unwrap();
    database.create_branch("other", Some(base)).unwrap();

    let many = (rows / 3).min(300_000);
    put(&database, "main", many, 1);
    watch.phase("transaction");
    let mut transaction = database.begin("main").unwrap();
    transaction.create_index("t", "by_b", &["b"], false).unwrap();
    transaction.commit().unwrap();
    watch.phase("index");
    put(&database, "main", many / 2, 2);
    watch.phase("transaction with an index");

    put(&database, "other", many, 3);
    let (from, to) = (work(&database, "main"), work(&database, "other"));
    let diff = &from.diff(&to).unwrap()[0];
    assert_eq!(diff.changes().unwrap().map(|change| drop(change.unwrap())).count() as i64, many);
    diff.stat().unwrap();
    watch.phase("difference");
    drop((from, to));

    commit(&database, "main");
    let theirs = commit(&database, "other");
    let merged = database.merge("main", &theirs, MergeOptions::default()).unwrap();
    assert!(matches!(merged, MergeOutcome::Conflicts { count } if count as i64 == many));
    watch.phase("merge, all in conflict");
    database.resolve_conflicts("main", Side::Theirs).unwrap();
    watch.phase("decision");
    commit(&database, "main");
    let scan = work(&database, "main").table("t").unwrap().unwrap();
    scan.scan(Bound::Unbounded, Bound::Unbounded).unwrap().for_each(|_, _| ()).unwrap();
    watch.phase("scan");
    database.store().collect(false).unwrap();
    watch.phase("collection");
    database.store().compact().unwrap();
    watch.phase("compaction");

    let stats = database.store().stats();
    let options = database.store().options();
    println!("leased at most {} of {}", stats.leased_bytes_most, options.work_bytes);
    assert_eq!(stats.leased_bytes, 0);
    watch.end(beside as u64);
}

/// The most anonymous memory of this process.
struct Watch {
    budget: u64,
    before: u64,
    most: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    worst: u64,
}

impl Watch {
    fn begin(budget: u64) -> Watch {
        let (most, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (seen, stop) = (most.clone(), is_over.clone());
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                seen.fetch_max(anonymous_bytes(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(1));
            }
        });
        Watch { budget, before: anonymous_bytes(), most, is_over, worst: 0 }
    }

    /// Says how much it was since the last phase ended.
    fn phase(&mut self, name: &str) {
        let most = self.most.swap(0, Ordering::Relaxed).saturating_sub(self.before);
        println!("{:>4} MiB budget, {name}: {:>4} MiB", self.budget >> 20, most >> 20);
        self.worst = self.worst.max(most);
    }

    fn end(self, beside: u64) {
        self.is_over.store(true, Ordering::Relaxed);
        let (worst, budget) = (self.worst >> 20, self.budget >> 20);
        assert!(self.worst <= self.budget + beside, "{worst} MiB with a budget of {budget} MiB");
    }
}

fn anonymous_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

fn schema() -> Schema {
    let columns = [("id", Type::Int), ("b", Type::Int), ("text", Type::Text)].into_iter().zip(0..);
    let columns = columns.map(|((name, ty), id)| Column { id, name: name.into(), ty });
    Schema::new(columns.collect(), vec![0]).unwrap()
}

/// Some 100 bytes.
fn row(schema: &Schema, n: i64, version: i64) -> (Vec<u8>, Vec<u8>) {
    let b = (n + version).wrapping_mul(0x5851_f42d_4c95_7f2d);
    let text = format!("{b:016x}").repeat(5);
    schema.encode_row(&[Value::Int(n), Value::Int(b), Value::Text(text)]).unwrap()
}

/// Changes every third row.
fn put(database: &Database, branch: &str, rows: i64, version: i64) {
    let mut transaction = database.begin(branch).unwrap();
    for n in 0..rows {
        let (key, value) = row(&schema(), 3 * n, version);
        transaction.put("t", &key, &value).unwrap();
    }
    assert!(matches!(transaction.commit().unwrap(), TransactionOutcome::Committed(_)));
}

fn commit(database: &Database, branch: &str) -> pleach_engine::Hash {
    database.commit(branch, NewCommit { message: "m".into(), ..NewCommit::default() }).unwrap().hash
}

fn work(database: &Database, branch: &str) -> Snapshot {
    database.snapshot_of_root(database.branch(branch).unwrap().unwrap().work).unwrap()
}
