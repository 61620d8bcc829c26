//! History independence: the same content has one root, whatever was done to arrive at it.

use std::{collections::BTreeMap, num::NonZeroUsize, ops::Bound};

use pleach_engine::{
    Database, Hash, LoadOptions, MergeOptions, MergeOutcome, NewCommit, Transaction, TransactionOutcome,
};
use proptest::prelude::*;

use crate::{
    edits::definition,
    plain::{Rows, Table},
};

const TABLE: &str = "a";

fn write(database: &Database, branch: &str, edit: impl FnOnce(&mut Transaction)) {
    let mut transaction = database.begin(branch).unwrap();
    edit(&mut transaction);
    let outcome = transaction.commit().unwrap();
    assert!(!matches!(outcome, TransactionOutcome::Refused { .. }), "{outcome:?}");
}

fn put(transaction: &mut Transaction, rows: &[(&Vec<u8>, &Vec<u8>)]) {
    rows.iter().for_each(|(key, value)| transaction.put(TABLE, key, value).unwrap());
}

fn database() -> Database {
    let database = Database::memory().unwrap();
    write(&database, "main", |transaction| {
        transaction.create_table_with(TABLE, definition(TABLE, 0)).unwrap();
    });
    database
}

fn root(database: &Database, branch: &str) -> Hash {
    database.branch(branch).unwrap().unwrap().work
}

/// The branch's head, after a version commit if there is anything to commit.
fn commit(database: &Database, branch: &str, number: i64) -> Hash {
    let _nothing = database.commit(branch, NewCommit { date_micros: Some(number), ..NewCommit::default() });
    database.branch(branch).unwrap().unwrap().head.unwrap()
}

/// By puts, so many in a transaction.
fn in_batches(rows: &[(&Vec<u8>, &Vec<u8>)], batch: usize) -> Hash {
    let database = database();
    rows.chunks(batch).for_each(|batch| write(&database, "main", |transaction| put(transaction, batch)));
    root(&database, "main")
}

/// By threads, each with a part of the rows, in transactions that are folded as they come.
fn by_threads(rows: &[(&Vec<u8>, &Vec<u8>)], threads: usize) -> Hash {
    let database = database();
    std::thread::scope(|scope| {
        for part in rows.chunks(rows.len().div_ceil(threads).max(1)) {
            let database = &database;
            scope.spawn(move || {
                part.chunks(20)
                    .for_each(|batch| write(database, "main", |transaction| put(transaction, batch)));
            });
        }
    });
    root(&database, "main")
}

/// By a load of rows in any order, sorted in small parts, on two threads.
fn by_load(rows: &[(&Vec<u8>, &Vec<u8>)]) -> Hash {
    let database = database();
    let options = LoadOptions { unsorted: true, sort_bytes: 8 << 10, threads: NonZeroUsize::new(2) };
    write(&database, "main", |transaction| {
        transaction.load_with(TABLE, rows.iter().copied(), &options).unwrap();
    });
    root(&database, "main")
}

/// By a load of other rows in many places, which then go: some by ranges, some one by one.
fn by_deleting(rows: &Rows, others: &Rows) -> Hash {
    let all: Rows = others.iter().chain(rows).map(|(key, value)| (key.clone(), value.clone())).collect();
    let database = database();
    write(&database, "main", |transaction| transaction.load(TABLE, &all).unwrap());
    let gone: Vec<&Vec<u8>> = others.keys().filter(|key| !rows.contains_key(*key)).collect();
    write(&database, "main", |transaction| {
        for (number, key) in gone.iter().enumerate() {
            match rows.range::<Vec<u8>, _>((Bound::Excluded(*key), Bound::Unbounded)).next() {
                Some((next, _)) if number % 2 == 0 => {
                    let range = (Bound::Included(key.as_slice()), Bound::Excluded(next.as_slice()));
                    transaction.delete_range(TABLE, range.0, range.1).unwrap();
                }
                _ => drop(transaction.delete(TABLE, key).unwrap()),
            }
        }
    });
    root(&database, "main")
}

/// By two branches, each with some of the rows, merged.
fn by_merging(rows: &[(&Vec<u8>, &Vec<u8>)], is_ours: impl Fn(usize) -> bool) -> Hash {
    let database = database();
    let base = commit(&database, "main", 1);
    database.create_branch("other", Some(base)).unwrap();
    let (ours, theirs): (Vec<_>, Vec<_>) = rows.iter().enumerate().partition(|(number, _)| is_ours(*number));
    for (branch, rows) in [("main", ours), ("other", theirs)] {
        let rows: Vec<_> = rows.into_iter().map(|(_, row)| *row).collect();
        write(&database, branch, |transaction| put(transaction, &rows));
    }
    let [_, theirs] = ["main", "other"].map(|branch| commit(&database, branch, 2));
    let merged = database.merge("main", &theirs, MergeOptions::default()).unwrap();
    assert!(!matches!(merged, MergeOutcome::Conflicts { .. }));
    root(&database, "main")
}

/// By a version with other rows, that is taken back.
fn by_reverting(rows: &Rows, others: &Rows) -> Hash {
    let database = database();
    write(&database, "main", |transaction| transaction.load(TABLE, rows).unwrap());
    let first = commit(&database, "main", 1);
    write(&database, "main", |transaction| {
        others.iter().for_each(|(key, value)| transaction.put(TABLE, key, value).unwrap());
    });
    let second = commit(&database, "main", 2);
    if second != first {
        database.revert("main", &second, NewCommit::default()).unwrap();
    }
    root(&database, "main")
}

fn rows(most: usize) -> impl Strategy<Value = Rows> {
    let key = prop_oneof![
        (0_u16..900).prop_map(|number| number.to_be_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 1..5)
    ];
    // Some values are kept out of line.
    let value = prop_oneof![9 => 0_usize..20, 1 => 65_usize..200].prop_map(|len| vec![len as u8; len]);
    prop::collection::btree_map(key, value, 1..most)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: super::cases() * 2, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_content_has_one_root_whatever_led_to_it(
        rows in rows(900), others in rows(300), order in any::<u64>(), batch in 1_usize..200,
    ) {
        let tables = BTreeMap::from([(TABLE, Table { rows: rows.clone(), ..Table::default() })]);
        let expected = crate::compare::root_made_at_once(&tables);
        let mut shuffled: Vec<_> = rows.iter().collect();
        let spread = |key: &[u8]| Hash::of(&[&order.to_le_bytes(), key].concat());
        shuffled.sort_by_cached_key(|(key, _)| spread(key).to_string());
        prop_assert_eq!(in_batches(&shuffled, batch), expected, "batches of {}", batch);
        prop_assert_eq!(by_threads(&shuffled, 3), expected, "threads");
        prop_assert_eq!(by_load(&shuffled), expected, "load");
        prop_assert_eq!(by_deleting(&rows, &others), expected, "deleting");
        prop_assert_eq!(by_merging(&shuffled, |number| number % 2 == 0), expected, "merging what is interleaved");
        let in_order: Vec<_> = rows.iter().collect();
        prop_assert_eq!(by_merging(&in_order, |number| number < rows.len() / 2), expected, "merging halves");
        prop_assert_eq!(by_reverting(&rows, &others), expected, "reverting");
    }
}
