#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, ops::Bound};

use proptest::prelude::*;

use crate::*;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn work(database: &Database) -> Hash {
    database.branch("main").unwrap().unwrap().work
}

fn table(database: &Database) -> Table {
    database.snapshot_of_root(work(database)).unwrap().table("t").unwrap().unwrap()
}

fn rows(database: &Database) -> Model {
    table(database).scan(Bound::Unbounded, Bound::Unbounded).unwrap().map(Result::unwrap).collect()
}

/// A database whose table holds `model`.
fn holding(model: &Model) -> Database {
    let database = Database::memory().unwrap();
    let mut transaction = database.begin("main").unwrap();
    transaction.create_table("t", None).unwrap();
    transaction.load("t", model).unwrap();
    transaction.commit().unwrap();
    database
}

fn lettered() -> Model {
    (b'a'..=b'z').map(|letter| (vec![letter], vec![letter; 3])).collect()
}

fn delete_range(transaction: &mut Transaction, from: &str, to: &str) {
    transaction.delete_range("t", Bound::Included(from.as_bytes()), Bound::Excluded(to.as_bytes())).unwrap();
}

#[derive(Debug, Clone)]
enum Step {
    Put(u16, u8),
    Delete(u16),
    DeleteRange(u16, u16),
    Load(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0_u16..600, any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        2 => (0_u16..600).prop_map(Step::Delete),
        4 => (0_u16..600, 0_u16..600).prop_map(|(from, to)| Step::DeleteRange(from, to)),
        1 => (0_u16..300).prop_map(Step::Load),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn edits_and_deleted_ranges_take_effect_in_their_order(count in 0_u16..600, transactions in prop::collection::vec(steps(), 1..3)) {
        let mut model: Model = (0..count).map(|n| (n.to_be_bytes().to_vec(), vec![1; 9])).collect();
        let database = holding(&model);
        for steps in transactions {
            let mut transaction = database.begin("main").unwrap();
            for step in &steps {
                match step {
                    Step::Put(key, value) => {
                        transaction.put("t", &key.to_be_bytes(), &[*value; 7]).unwrap();
                        model.insert(key.to_be_bytes().to_vec(), vec![*value; 7]);
                    }
                    Step::Delete(key) => {
                        let there = transaction.delete("t", &key.to_be_bytes()).unwrap();
                        prop_assert_eq!(there, model.remove(key.to_be_bytes().as_slice()).is_some());
                    }
                    Step::DeleteRange(from, to) => {
                        let (from, to) = (from.to_be_bytes(), to.to_be_bytes());
                        transaction.delete_range("t", Bound::Excluded(&from), Bound::Included(&to)).unwrap();
                        model.retain(|key, _| key.as_slice() <= from.as_slice() || key.as_slice() > to.as_slice());
                    }
                    Step::Load(count) => {
                        model = (0..*count).map(|n| ((n * 2).to_be_bytes().to_vec(), vec![2; 5])).collect();
                        transaction.load("t", &model).unwrap();
                    }
                }
            }
            for key in 0..600_u16 {
                let key = key.to_be_bytes();
                prop_assert_eq!(transaction.get("t", &key).unwrap(), model.get(key.as_slice()).cloned());
            }
            transaction.commit().unwrap();
        }
        prop_assert_eq!(rows(&database), model.clone());
        prop_assert_eq!(work(&database), work(&holding(&model)));
    }
}

/// Does a step to a transaction and to a model; gives the keys that it writes, out of 0 to 599.
fn take(transaction: &mut Transaction, model: &mut Model, step: &Step) -> Vec<u16> {
    match step {
        Step::Put(key, value) => {
            transaction.put("t", &key.to_be_bytes(), &[*value % 2]).unwrap();
            model.insert(key.to_be_bytes().to_vec(), vec![*value % 2]);
            vec![*key]
        }
        Step::Delete(key) => {
            let there = transaction.delete("t", &key.to_be_bytes()).unwrap();
            model.remove(key.to_be_bytes().as_slice());
            if there { vec![*key] } else { Vec::new() }
        }
        Step::DeleteRange(from, to) => {
            let (low, high) = (from.to_be_bytes(), to.to_be_bytes());
            transaction.delete_range("t", Bound::Included(&low), Bound::Excluded(&high)).unwrap();
            let keys: Vec<u16> = (*from..*to).collect();
            keys.iter().for_each(|key| drop(model.remove(key.to_be_bytes().as_slice())));
            keys
        }
        Step::Load(_) => Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn of_two_transactions_the_second_is_refused_if_the_first_changed_what_it_writes(
        count in 0_u16..600, first in steps(), second in prop::collection::vec(steps(), 1..2),
    ) {
        let start: Model = (0..count).step_by(3).map(|n| (n.to_be_bytes().to_vec(), vec![1])).collect();
        let database = holding(&start);
        let (mut one, mut other) = (database.begin("main").unwrap(), database.begin("main").unwrap());
        let (mut after_one, mut after_other) = (start.clone(), start.clone());
        first.iter().take(4).for_each(|step| drop(take(&mut one, &mut after_one, step)));
        let written: std::collections::BTreeSet<u16> =
            second[0].iter().take(4).flat_map(|step| take(&mut other, &mut after_other, step)).collect();
        one.commit().unwrap();
        let changed = |key: &u16| {
            let key = key.to_be_bytes();
            start.get(key.as_slice()) != after_one.get(key.as_slice())
        };
        let conflict = written.iter().any(changed);
        let refused = matches!(other.commit().unwrap(), TransactionOutcome::Refused { .. });
        prop_assert_eq!(refused, conflict);
        let mut expected = after_one.clone();
        if !refused {
            for key in &written {
                let key = key.to_be_bytes().to_vec();
                match after_other.get(&key) {
                    Some(value) => drop(expected.insert(key, value.clone())),
                    None => drop(expected.remove(&key)),
                }
            }
        }
        prop_assert_eq!(work(&database), work(&holding(&expected)));
    }
}

#[test]
fn a_deleted_range_conflicts_with_rows_written_in_it_meanwhile() {
    let refused = |key: &str| TransactionOutcome::Refused { table: "t".into(), key: Some(key.into()) };
    let committed = |outcome| matches!(outcome, TransactionOutcome::Committed(_));
    type First = fn(&mut Transaction);
    for (what, first, expected) in [
        ("a changed row", (|t| t.put("t", b"f", b"new").unwrap()) as First, Some("f")),
        ("a new row", |t| t.put("t", b"ff", b"new").unwrap(), Some("ff")),
        ("a deleted row", |t| assert!(t.delete("t", b"g").unwrap()), Some("g")),
        ("a deleted range", |t| delete_range(t, "a", "f"), Some("d")),
        ("a row outside", |t| t.put("t", b"k", b"new").unwrap(), None),
        ("a range outside", |t| delete_range(t, "k", "zz"), None),
        ("a range without rows", |t| delete_range(t, "dd", "e"), None),
    ] {
        let database = holding(&lettered());
        let (mut one, mut other) = (database.begin("main").unwrap(), database.begin("main").unwrap());
        first(&mut one);
        delete_range(&mut other, "d", "k");
        assert!(committed(one.commit().unwrap()) || what == "a range without rows", "{what}");
        match (other.commit().unwrap(), expected) {
            (outcome, Some(key)) => assert_eq!(outcome, refused(key), "{what}"),
            (outcome, None) => assert!(committed(outcome), "{what}"),
        }
    }
    // And the other way round: a row of a range that is gone was changed.
    let database = holding(&lettered());
    let (mut one, mut row, mut new) =
        (database.begin("main").unwrap(), database.begin("main").unwrap(), database.begin("main").unwrap());
    delete_range(&mut one, "d", "k");
    row.put("t", b"f", b"new").unwrap();
    new.put("t", b"ff", b"new").unwrap();
    assert!(committed(one.commit().unwrap()));
    assert_eq!(row.commit().unwrap(), refused("f"));
    assert!(committed(new.commit().unwrap()), "no row was there, and none was deleted");
    assert_eq!(rows(&database).get(b"ff".as_slice()), Some(&b"new".to_vec()));
}

#[test]
fn ranges_deleted_in_one_group_are_folded_and_refused_as_one_by_one() {
    let database = holding(&lettered());
    let commit = |edit: &dyn Fn(&mut Transaction)| {
        let mut transaction = database.begin("main").unwrap();
        edit(&mut transaction);
        transaction
    };
    let members = vec![
        commit(&|t| {
            delete_range(t, "c", "f");
            t.put("t", b"d", b"after").unwrap();
        }),
        commit(&|t| delete_range(t, "e", "h")),
        commit(&|t| delete_range(t, "p", "s")),
        commit(&|t| t.put("t", b"q", b"late").unwrap()),
        commit(&|t| t.put("t", b"qq", b"new").unwrap()),
        commit(&|t| delete_range(t, "qa", "qz")),
        commit(&|t| delete_range(t, "pa", "pz")),
    ];
    let outcomes = commit_together(&database, members);
    let refused: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            TransactionOutcome::Refused { key, .. } => key.clone(),
            _ => None,
        })
        .collect();
    let key = |key: &str| Some(key.as_bytes().to_vec());
    assert_eq!(refused, [None, key("e"), None, key("q"), None, key("qq"), None]);
    let mut expected = lettered();
    expected.retain(|key, _| !(b"c"..b"f").contains(&&[key[0]]) && !(b"p"..b"s").contains(&&[key[0]]));
    expected.insert(b"d".to_vec(), b"after".to_vec());
    expected.insert(b"qq".to_vec(), b"new".to_vec());
    assert_eq!(rows(&database), expected);
    assert_eq!(work(&database), work(&holding(&expected)));
}

#[test]
fn a_table_answers_by_prefix_rank_and_sample() {
    let model: Model =
        (0..5_000_u32).map(|n| (format!("{:02}/{n:05}", n % 50).into_bytes(), vec![7; 4])).collect();
    let table = table(&holding(&model));
    assert_eq!(table.prefix(b"07/").unwrap().count(), 100);
    let backwards: Vec<_> = table.prefix(b"07/").unwrap().rev().map(|row| row.unwrap().0).collect();
    assert!(backwards.is_sorted_by(|a, b| a > b) && backwards.len() == 100);
    assert_eq!(table.count(Bound::Included(b"07/"), Bound::Excluded(b"09/")).unwrap(), 200);
    assert_eq!(table.rank(b"07/").unwrap(), 700);
    assert_eq!(table.first().unwrap().unwrap().0, b"00/00000");
    assert_eq!(table.last().unwrap().unwrap().0, b"49/04999");
    assert_eq!(table.select(700).unwrap().unwrap().0, b"07/00007");
    assert_eq!(table.select(5_000).unwrap(), None);
    let keys = |n, seed| table.sample(n, seed).unwrap().map(|row| row.unwrap().0).collect::<Vec<_>>();
    let sample = keys(100, 3);
    assert!(sample.len() == 100 && sample.is_sorted_by(|a, b| a < b));
    assert_eq!(sample, keys(100, 3));
    assert_ne!(sample, keys(100, 4));
    assert_eq!(keys(9_999, 1), model.keys().cloned().collect::<Vec<_>>());
}

/// Bytes that look random and are always the same, and the store's counts while they are read.
struct Noise<'a> {
    left: usize,
    state: u32,
    database: Option<&'a Database>,
    most_unwritten: usize,
    read: usize,
}

impl Noise<'_> {
    fn of(len: usize) -> Noise<'static> {
        Noise { left: len, state: 1, database: None, most_unwritten: 0, read: 0 }
    }
}

impl std::io::Read for Noise<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let count = into.len().min(self.left);
        for byte in &mut into[..count] {
            self.state = self.state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (self.state >> 24) as u8;
        }
        self.left -= count;
        self.read += count;
        if let Some(database) = self.database {
            let written = database.store().stats().bytes_written as usize;
            self.most_unwritten = self.most_unwritten.max(self.read.saturating_sub(written));
        }
        Ok(count)
    }
}

fn durable() -> (tempfile::TempDir, Database) {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::init(&dir.path().join("db"), Options::default()).unwrap();
    let mut transaction = database.begin("main").unwrap();
    transaction.create_table("t", None).unwrap();
    transaction.commit().unwrap();
    (dir, database)
}

#[test]
fn a_byte_inserted_near_the_start_of_ten_megabytes_writes_little() {
    let (_dir, database) = durable();
    let mut transaction = database.begin("main").unwrap();
    assert_eq!(transaction.put_from("t", b"k", &mut Noise::of(10 << 20)).unwrap(), 10 << 20);
    transaction.commit().unwrap();
    for (what, range, new) in [("inserted", 5_000..5_000, b"x"), ("replaced", 6_000..6_001, b"y")] {
        let before = database.store().stats();
        let mut transaction = database.begin("main").unwrap();
        transaction.splice("t", b"k", range, new).unwrap();
        transaction.commit().unwrap();
        let after = database.store().stats();
        let written = after.bytes_written - before.bytes_written;
        assert!(written <= 200_000, "a byte {what}: {written} bytes");
    }
    let mut expected = Vec::new();
    std::io::Read::read_to_end(&mut Noise::of(10 << 20), &mut expected).unwrap();
    expected.insert(5_000, b'x');
    expected[6_000] = b'y';
    assert!(table(&database).get(b"k").unwrap().unwrap() == expected);
    assert_eq!(table(&database).get_range(b"k", 4_999..5_002).unwrap().unwrap(), expected[4_999..5_002]);
    let spliced = work(&database);
    let mut transaction = database.begin("main").unwrap();
    transaction.put("t", b"k", &expected).unwrap();
    assert!(matches!(transaction.commit().unwrap(), TransactionOutcome::Unchanged(_)));
    assert_eq!(work(&database), spliced);
}

#[test]
fn a_long_value_streams_in_without_being_in_memory() {
    let (_dir, database) = durable();
    let mut source = Noise { database: Some(&database), ..Noise::of(60 << 20) };
    let mut transaction = database.begin("main").unwrap();
    transaction.put_from("t", b"k", &mut source).unwrap();
    assert!(source.most_unwritten < 10 << 20, "{} bytes were in memory", source.most_unwritten);
    let mut read = transaction.read("t", b"k").unwrap().unwrap();
    assert_eq!(std::io::copy(&mut read, &mut std::io::sink()).unwrap(), 60 << 20);
    database.store().collect(false).unwrap();
    transaction.commit().unwrap();
    let mut read = table(&database).read(b"k").unwrap().unwrap();
    assert_eq!(std::io::copy(&mut read, &mut std::io::sink()).unwrap(), 60 << 20);
}

#[test]
fn parts_of_values_are_written_in_the_order_of_the_transaction() {
    let (_dir, database) = durable();
    let mut transaction = database.begin("main").unwrap();
    transaction.put("t", b"short", b"0123456789").unwrap();
    transaction.splice("t", b"short", 2..4, b"__").unwrap();
    transaction.splice("t", b"short", 0..1, b"").unwrap();
    assert_eq!(transaction.get("t", b"short").unwrap().unwrap(), b"1__456789");
    transaction.splice("t", b"new", 0..0, b"made").unwrap();
    let mut long = vec![7; 300_000];
    transaction.put("t", b"long", &long).unwrap();
    transaction.splice("t", b"long", 100..100, b"in").unwrap();
    transaction.splice("t", b"long", 200_000..250_000, b"").unwrap();
    long.splice(100..100, *b"in");
    long.splice(200_000..250_000, []);
    assert!(transaction.get("t", b"long").unwrap().unwrap() == long);
    transaction.delete_range("t", Bound::Included(b"n"), Bound::Unbounded).unwrap();
    assert!(transaction.splice("t", b"short", 0..1, b"").is_err(), "it is gone, and so is empty");
    assert!(matches!(transaction.splice("none", b"k", 0..0, b""), Err(Error::UnknownTable { .. })));
    struct Fails;
    impl std::io::Read for Fails {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("no more"))
        }
    }
    assert!(matches!(transaction.put_from("t", b"long", &mut Fails), Err(Error::Source { .. })));
    transaction.commit().unwrap();
    assert_eq!(rows(&database), Model::from([(b"long".to_vec(), long)]));
    // A value that was spliced by somebody else meanwhile is a conflict like any other.
    let (mut one, mut other) = (database.begin("main").unwrap(), database.begin("main").unwrap());
    one.splice("t", b"long", 0..1, b"a").unwrap();
    other.splice("t", b"long", 9..10, b"b").unwrap();
    assert!(matches!(one.commit().unwrap(), TransactionOutcome::Committed(_)));
    assert!(matches!(other.commit().unwrap(), TransactionOutcome::Refused { .. }));
}

#[test]
fn a_collection_leaves_what_splices_and_deleted_ranges_build_upon() {
    let (_dir, database) = durable();
    let mut transaction = database.begin("main").unwrap();
    transaction.load("t", (0..20_000_u32).map(|n| (n.to_be_bytes(), b"value"))).unwrap();
    transaction.put_from("t", b"long", &mut Noise::of(1 << 20)).unwrap();
    transaction.commit().unwrap();
    let mut transaction = database.begin("main").unwrap();
    transaction
        .delete_range(
            "t",
            Bound::Included(&100_u32.to_be_bytes()),
            Bound::Excluded(&19_900_u32.to_be_bytes()),
        )
        .unwrap();
    transaction.splice("t", b"long", 500_000..500_010, b"").unwrap();
    database.store().collect(false).unwrap();
    transaction.splice("t", b"long", 0..0, b"begins").unwrap();
    let mut reader = transaction.read("t", b"long").unwrap().unwrap();
    assert_eq!(reader.range(0..6).unwrap(), b"begins");
    transaction.commit().unwrap();
    database.store().collect(false).unwrap();
    assert_eq!(database.fsck().unwrap().damages, []);
    let table = table(&database);
    assert_eq!(table.rows().unwrap(), 201);
    assert_eq!(table.read(b"long").unwrap().unwrap().len(), (1 << 20) - 4);
}

/// Commits transactions as one group, in their order: all wait while somebody else has the order of writing.
pub(super) fn commit_together(database: &Database, members: Vec<Transaction>) -> Vec<TransactionOutcome> {
    std::thread::scope(|scope| {
        let threads = database.in_order(|| {
            let mut threads = Vec::new();
            for (i, member) in members.into_iter().enumerate() {
                threads.push(scope.spawn(move || member.commit().unwrap()));
                while database.queue().len() <= i {
                    std::thread::yield_now();
                }
            }
            threads
        });
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn a_scan_in_a_transaction_gives_what_it_did_so_far_and_keeps_it() {
    let database = Database::memory().unwrap();
    let mut transaction = database.begin("main").unwrap();
    transaction.create_table("t", None).unwrap();
    transaction.load("t", (0..2000_u32).map(|n| (n.to_be_bytes(), b"old"))).unwrap();
    transaction.commit().unwrap();
    let mut transaction = database.begin("main").unwrap();
    let all = (Bound::Unbounded, Bound::Unbounded);
    assert_eq!(transaction.scan("t", all.0, all.1).unwrap().count(), 2000);
    assert!(matches!(transaction.scan("none", all.0, all.1), Err(Error::UnknownTable { .. })));
    transaction.put("t", &7_u32.to_be_bytes(), b"new").unwrap();
    transaction.delete_range("t", Bound::Included(&100_u32.to_be_bytes()), Bound::Unbounded).unwrap();
    transaction.create_table("u", None).unwrap();
    assert_eq!((transaction.rows("t").unwrap(), transaction.rows("u").unwrap()), (100, 0));
    assert_eq!(transaction.scan("u", all.0, all.1).unwrap().count(), 0);
    let before = transaction.savepoint();
    transaction.load("t", [(b"k", b"v")]).unwrap();
    let loaded = transaction.scan("t", all.0, all.1).unwrap();
    transaction.rollback_to(&before).unwrap();
    let rows = transaction.scan("t", Bound::Included(&7_u32.to_be_bytes()), all.1).unwrap();
    transaction.put("t", &8_u32.to_be_bytes(), b"later").unwrap();
    drop(transaction);
    // Nothing but the iterators holds what they read.
    database.store().collect(false).unwrap();
    let loaded: Vec<_> = loaded.map(|row| row.unwrap()).collect();
    assert_eq!(loaded, [(b"k".to_vec(), b"v".to_vec())]);
    let rows: Vec<_> = rows.map(|row| row.unwrap().1).collect();
    assert_eq!((rows.len(), rows[0].as_slice(), rows[1].as_slice()), (93, &b"new"[..], &b"old"[..]));
}
