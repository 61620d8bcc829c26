//! Loading in bulk: rows in any order, in bounded memory and without leaving anything behind, and on any number of threads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{collections::BTreeMap, num::NonZeroUsize, ops::Bound, path::Path};

use pleach_engine::{
    Database, Definition, Error, Hash, LoadOptions, MapConfig, Options, StoreError, Table, TransactionOutcome,
};
use proptest::prelude::*;

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// Rows are sorted in parts of this many bytes, the fewest.
const FEW_BYTES: usize = 8 << 10;

fn unsorted(sort_bytes: usize) -> LoadOptions {
    LoadOptions { unsorted: true, sort_bytes, ..LoadOptions::default() }
}

fn on_threads(threads: usize) -> LoadOptions {
    LoadOptions { threads: NonZeroUsize::new(threads), ..LoadOptions::default() }
}

/// The table that a load makes, with small nodes.
fn load(
    database: &Database,
    rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    options: &LoadOptions,
) -> Result<Table, Error> {
    let config = MapConfig { leaf_mean: 8, inner_mean: 8, inline_bytes: 64, salt: 1 };
    let mut transaction = database.begin("main")?;
    if !transaction.has_table("t")? {
        transaction.create_table_with("t", Definition { config, schema: None })?;
    }
    transaction.load_with("t", rows, options)?;
    assert!(!matches!(transaction.commit()?, TransactionOutcome::Refused { .. }));
    let work = database.branch("main")?.unwrap().work;
    Ok(database.snapshot_of_root(work)?.table("t")?.unwrap())
}

/// The root of the table when its rows come in order, on one thread.
fn root(rows: &BTreeMap<Vec<u8>, Vec<u8>>) -> Hash {
    load(&Database::memory().unwrap(), rows.clone(), &on_threads(1)).unwrap().root()
}

fn numbered(count: u32) -> BTreeMap<Vec<u8>, Vec<u8>> {
    (0..count).map(|n| (n.to_be_bytes().to_vec(), format!("value {n}").into_bytes())).collect()
}

/// In an order that has nothing to do with the keys.
fn shuffled(rows: &BTreeMap<Vec<u8>, Vec<u8>>) -> Rows {
    let mut rows: Rows = rows.clone().into_iter().collect();
    rows.sort_by_cached_key(|(key, _)| *Hash::of(key).as_bytes());
    rows
}

fn scratch_files(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().contains("scratch")).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rows_in_any_order_make_the_map_that_puts_make(
        rows in prop::collection::vec((
            // Keys that are the beginning of others, and keys that come twice.
            prop_oneof![prop::collection::vec(0_u8..4, 0..4), prop::collection::vec(any::<u8>(), 0..20)],
            // Values that are kept out of line, too.
            prop_oneof![9 => prop::collection::vec(any::<u8>(), 0..60), 1 => prop::collection::vec(any::<u8>(), 65..300)],
        ), 0..900),
        sort_bytes in prop_oneof![Just(FEW_BYTES), Just(20 << 10), Just(64 << 20)],
    ) {
        let expected: BTreeMap<_, _> = rows.iter().cloned().collect();
        let table = load(&Database::memory().unwrap(), rows, &unsorted(sort_bytes)).unwrap();
        prop_assert_eq!(table.root(), root(&expected));
        let found = table.scan(Bound::Unbounded, Bound::Unbounded).unwrap();
        prop_assert!(found.map(|row| row.unwrap()).eq(expected));
    }
}

#[test]
fn the_result_does_not_depend_on_the_number_of_threads() {
    let rows = numbered(20_000);
    let expected = root(&rows);
    for threads in 1..=5 {
        let database = Database::memory().unwrap();
        assert_eq!(
            load(&database, rows.clone(), &on_threads(threads)).unwrap().root(),
            expected,
            "{threads}"
        );
        let options = LoadOptions { threads: NonZeroUsize::new(threads), ..unsorted(1 << 20) };
        let database = Database::memory().unwrap();
        assert_eq!(load(&database, shuffled(&rows), &options).unwrap().root(), expected, "{threads}");
    }
}

#[test]
fn large_values_are_written_before_the_leaves_that_name_them() {
    let dir = tempfile::tempdir().unwrap();
    let rows: BTreeMap<_, _> =
        (0_u32..2000).map(|n| (n.to_be_bytes().to_vec(), n.to_le_bytes().repeat(300))).collect();
    let database = Database::init(dir.path(), Options::default()).unwrap();
    let table = load(&database, rows.clone(), &on_threads(3)).unwrap();
    assert!(table.scan(Bound::Unbounded, Bound::Unbounded).unwrap().map(|row| row.unwrap()).eq(rows));
    assert!(database.fsck().unwrap().damages.is_empty());
}

#[test]
fn what_rows_are_sorted_in_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::init(dir.path(), Options::default()).unwrap();
    let rows = numbered(3000);
    let watched = shuffled(&rows).into_iter().inspect(|_| assert_eq!(scratch_files(dir.path()), 0));
    let table = load(&database, watched, &unsorted(FEW_BYTES)).unwrap();
    assert_eq!(table.root(), root(&rows));
    let too_long = [(vec![7; 2000], Vec::new())];
    let failed = load(&database, shuffled(&rows).into_iter().chain(too_long), &unsorted(FEW_BYTES));
    assert!(matches!(failed, Err(Error::KeyTooLong { found: 2000, .. })));
    assert_eq!(scratch_files(dir.path()), 0);
}

#[test]
fn an_empty_file_that_a_crash_left_goes_with_the_next_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::init(dir.path(), Options::default()).unwrap();
    std::fs::write(dir.path().join("scratch-1-0"), b"").unwrap();
    load(&database, numbered(10), &on_threads(1)).unwrap();
    database.store().compact().unwrap();
    assert_eq!(scratch_files(dir.path()), 0);
}

#[test]
fn rows_out_of_order_end_a_sorted_load_on_any_number_of_threads() {
    for threads in [1, 2, 4] {
        let database = Database::memory().unwrap();
        let rows = numbered(5000).into_iter().chain([(vec![0], Vec::new())]);
        let failed = load(&database, rows, &on_threads(threads));
        assert!(matches!(failed, Err(Error::Unsorted { entry: 5000 })), "{threads}");
    }
}

#[test]
fn a_store_that_takes_no_more_ends_a_load_on_any_number_of_threads() {
    for threads in [1, 2, 4] {
        let database = Database::memory().unwrap();
        let store = database.store().clone();
        let endless = (0_u64..).inspect(|n| {
            if *n == 10_000 {
                store.clone().close().unwrap();
            }
        });
        let rows = endless.map(|n| (n.to_be_bytes().to_vec(), vec![0; 60]));
        let failed = load(&database, rows, &on_threads(threads));
        assert!(matches!(failed, Err(Error::Store(StoreError::Closed))), "{threads}");
    }
}
