//! What a transaction costs, or making and switching a branch, does not depend on how many branches there are: counts, which repeat on any
//! machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

use std::time::{Duration, Instant};

use pleach_engine::{Batch, Database, NewCommit, Options, Outcome, RefUpdate, TransactionOutcome};

const ROWS: u32 = 20_000;
const TRANSACTIONS: u32 = 100;

fn key(row: u32) -> [u8; 16] {
    let mut key = [b'k'; 16];
    key[..4].copy_from_slice(&row.to_be_bytes());
    key
}

/// A database with a table of rows of 116 bytes, and `branches` branches at its first version beside `main`.
fn database(dir: &std::path::Path, branches: u32) -> Database {
    let database = Database::init(dir, Options::default()).unwrap();
    let mut transaction = database.begin("main").unwrap();
    transaction.create_table("rows", None).unwrap();
    transaction.load("rows", (0..ROWS).map(|row| (key(row), format!("{row:0>100}")))).unwrap();
    transaction.commit().unwrap();
    let work = database.branch("main").unwrap().unwrap().work;
    let updates: Vec<RefUpdate> = (0..branches)
        .map(|number| RefUpdate { name: format!("work/branch-{number:06}"), old: None, new: Some(work) })
        .collect();
    match database.store().append(Batch::default(), &updates).unwrap() {
        Outcome::Appended(ticket) => ticket.wait().unwrap(),
        Outcome::Moved { name, .. } => panic!("{name} moved"),
    }
    database
}

/// Bytes written, syncs and time of transactions that each update one row, each on the branch that `branch` names.
fn cost(database: &Database, branch: impl Fn(u32) -> String) -> (u64, u64, Duration) {
    let update = |number: u32, value: &str| {
        let mut transaction = database.begin(&branch(number)).unwrap();
        transaction.put("rows", &key(number * 7919 % ROWS), format!("{value:x>100}").as_bytes()).unwrap();
        assert!(matches!(transaction.commit().unwrap(), TransactionOutcome::Committed(_)));
    };
    let (before, start) = (database.store().stats(), Instant::now());
    (0..TRANSACTIONS).for_each(|number| update(number, &format!("value {number}")));
    let (after, time) = (database.store().stats(), start.elapsed());
    let count = u64::from(TRANSACTIONS);
    (
        (after.bytes_written - before.bytes_written) / count,
        (after.fsyncs - before.fsyncs) / count,
        time / TRANSACTIONS,
    )
}

#[test]
fn a_transaction_costs_no_more_with_a_hundred_thousand_branches() {
    let (few_dir, many_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (few, many) = (database(few_dir.path(), 200), database(many_dir.path(), 100_000));
    assert_eq!(many.branches().unwrap().len(), 100_001);
    let branch = |apart: u32| move |number: u32| format!("branch-{:06}", number * apart);
    let few_cost = cost(&few, branch(1));
    let many_cost = cost(&many, branch(997));
    println!("200 branches: {few_cost:?} a transaction; 100,000 branches: {many_cost:?}");
    assert_eq!((few_cost.1, many_cost.1), (1, 1), "one sync");
    assert!(many_cost.0 <= few_cost.0 + 16, "{few_cost:?} and {many_cost:?}");
    assert!(many_cost.0 < 1536, "{many_cost:?}");
}

/// Bytes written, syncs and chunks read by `run`, and its time, of each of a few branches.
fn cost_of(database: &Database, run: impl Fn(&str)) -> ([u64; 3], Duration) {
    let counts = || {
        let stats = database.store().stats();
        [stats.bytes_written, stats.fsyncs, stats.cache_hits + stats.cache_misses]
    };
    let (before, start) = (counts(), Instant::now());
    (0..TRANSACTIONS).for_each(|number| run(&format!("new-{number:03}")));
    let (after, time) = (counts(), start.elapsed());
    ([0, 1, 2].map(|count| (after[count] - before[count]) / u64::from(TRANSACTIONS)), time / TRANSACTIONS)
}

#[test]
fn making_and_switching_a_branch_costs_no_more_with_a_hundred_thousand_branches() {
    let costs = [200, 100_000].map(|branches| {
        let dir = tempfile::tempdir().unwrap();
        let database = database(dir.path(), branches);
        let head = database.commit("main", NewCommit::default()).unwrap().hash;
        let create = cost_of(&database, |name| database.create_branch(name, Some(head)).unwrap());
        let switch = cost_of(&database, |name| database.switch(name).unwrap());
        let look = cost_of(&database, |name| {
            let branch = database.branch(name).unwrap().unwrap();
            assert_eq!((branch.head, database.status(name).unwrap().dirty), (Some(head), false));
        });
        let delete = cost_of(&database, |name| {
            if database.current_branch().unwrap() != name {
                database.delete_branch(name).unwrap();
            }
        });
        println!(
            "{branches} branches: create {create:?}, switch {switch:?}, look {look:?}, delete {delete:?}"
        );
        [create, switch, look, delete]
    });
    for (few, many) in costs[0].into_iter().zip(costs[1]) {
        let ([few_bytes, few_syncs, few_reads], [bytes, syncs, reads]) = (few.0, many.0);
        assert!(bytes <= few_bytes + 16 && syncs <= few_syncs && reads <= few_reads + 2, "{few:?}, {many:?}");
        assert!(bytes < 512 && syncs <= 1 && reads < 10, "{many:?}");
    }
}
