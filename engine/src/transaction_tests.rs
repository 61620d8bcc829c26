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
    // All wait while somebody else has the order of writing, so they become one group, in the order in which they came.
    let outcomes: Vec<_> = std::thread::scope(|scope| {
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
    });
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
