//! Criterion benches of the engine: get, build, edit and diff on a table of 100,000 rows.
//!
//! For a change's author: does my change make this slower on my machine? What Pleach is beside others is the business
//! of `pleach-bench compare`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a bench fails by panicking"
)]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use pleach_bench::rows::{Rows, SplitMix64, Value};
use pleach_engine::{Database, NewCommit, Table};

const ROWS: usize = 100_000;

fn loaded(rows: &Rows, values: &[Value]) -> Database {
    let database = Database::memory().unwrap();
    load(&database, rows, values);
    database
}

fn load(database: &Database, rows: &Rows, values: &[Value]) {
    let mut transaction = database.begin("main").unwrap();
    transaction.create_table("rows", None).unwrap();
    transaction.load("rows", values.iter().enumerate().map(|(row, value)| (rows.key(row), value))).unwrap();
    transaction.commit().unwrap();
}

fn update(database: &Database, branch: &str, rows: &Rows, changed: &[usize], version: u64) {
    let mut transaction = database.begin(branch).unwrap();
    for &row in changed {
        let (key, value) = rows.edit(row, version);
        transaction.put("rows", &key, &value).unwrap();
    }
    transaction.commit().unwrap();
}

fn table(database: &Database, branch: &str) -> Table {
    let work = database.branch(branch).unwrap().unwrap().work;
    database.snapshot_of_root(work).unwrap().table("rows").unwrap().unwrap()
}

fn get(criterion: &mut Criterion) {
    let rows = Rows::new(ROWS);
    let table = table(&loaded(&rows, &rows.first_values()), "main");
    let mut random = SplitMix64::new(1);
    criterion.bench_function("get one of 100k rows", |bencher| {
        bencher.iter(|| black_box(table.get(rows.key(random.below(ROWS))).unwrap()));
    });
}

fn build(criterion: &mut Criterion) {
    let rows = Rows::new(ROWS);
    let values = rows.first_values();
    let mut group = criterion.benchmark_group("build");
    group.throughput(Throughput::Elements(ROWS as u64)).sample_size(10);
    group.bench_function("100k sorted rows", |bencher| {
        bencher.iter_batched(
            || Database::memory().unwrap(),
            |database| load(&database, &rows, &values),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn edit(criterion: &mut Criterion) {
    let rows = Rows::new(ROWS);
    let database = loaded(&rows, &rows.first_values());
    let mut random = SplitMix64::new(2);
    let mut version = 0;
    let mut group = criterion.benchmark_group("edit");
    group.sample_size(20);
    for k in [1, 100, 10_000] {
        group.bench_function(format!("{k} of 100k rows"), |bencher| {
            bencher.iter_batched(
                || {
                    version += 1;
                    (random.distinct_below(ROWS, k), version)
                },
                |(changed, version)| update(&database, "main", &rows, &changed, version),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn diff(criterion: &mut Criterion) {
    let rows = Rows::new(ROWS);
    let database = loaded(&rows, &rows.first_values());
    let base = database.commit("main", NewCommit { message: "base".into(), ..NewCommit::default() }).unwrap();
    let mut random = SplitMix64::new(3);
    let mut group = criterion.benchmark_group("diff");
    for k in [1, 100, 10_000] {
        let branch = format!("changed-{k}");
        database.create_branch(&branch, Some(base.hash)).unwrap();
        update(&database, &branch, &rows, &random.distinct_below(ROWS, k), 1);
        let work = database.branch(&branch).unwrap().unwrap().work;
        let from = database.snapshot_of_root(base.root).unwrap();
        let to = database.snapshot_of_root(work).unwrap();
        group.bench_function(format!("{k} of 100k rows"), |bencher| {
            bencher.iter(|| {
                let tables = from.diff(&to).unwrap();
                let changes: usize = tables.iter().map(|table| table.changes().unwrap().count()).sum();
                assert_eq!(changes, k);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, get, build, edit, diff);
criterion_main!(benches);
