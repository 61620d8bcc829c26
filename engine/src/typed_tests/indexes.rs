//! Indexes: kept in step by transactions, merges and decisions, unique or not.

use std::{collections::BTreeSet, ops::Bound};

use proptest::{collection::vec, prelude::*, sample};

use super::{
    merges::{ColumnChange, column_change},
    *,
};

/// The indexes of the property test: name, columns, whether unique.
const INDEXES: [(&str, &[&str], bool); 3] =
    [("by_a", &["a"], false), ("by_ba", &["b", "a"], false), ("one_b", &["b"], true)];

fn make(transaction: &mut Transaction, name: &str) -> Result<()> {
    let (_, columns, unique) = INDEXES.into_iter().find(|(other, ..)| *other == name).unwrap();
    transaction.create_index("t", name, columns, unique)
}

fn delete(transaction: &mut Transaction, id: i64) -> Result<()> {
    transaction.delete("t", &schema(&[]).encode_key(&[int(id)])?).map(drop)
}

fn id_of(key: &[u8]) -> i64 {
    match schema(&[]).decode_key(key).unwrap()[..] {
        [Value::Int(id)] => id,
        _ => panic!("no id"),
    }
}

/// The ids of the rows that an index has, in its order.
fn ids(scan: IndexScan) -> Vec<i64> {
    scan.map(|key| id_of(&key.unwrap())).collect()
}

fn index(database: &Database, name: &str) -> Index {
    table(database, "main").index(name).unwrap().unwrap()
}

#[test]
fn rows_are_found_by_the_columns_of_an_index_in_its_order() {
    let database = database(&[("a", Type::Text), ("b", Type::Int)]);
    write(&database, "main", &[&[int(1), text("x"), int(3)], &[int(2), text("y"), int(1)]]);
    change(&database, "main", |transaction| {
        transaction.create_index("t", "by_a", &["a", "b"], false)?;
        put(transaction, "t", &[int(3), text("x"), int(2)])
    });
    write(&database, "main", &[&[int(4), text("x"), Value::Null], &[int(5), Value::Null, int(9)]]);
    let by_a = index(&database, "by_a");
    assert_eq!(ids(by_a.scan(&[]).unwrap()), [5, 4, 3, 1, 2]);
    assert_eq!(ids(by_a.scan(&[text("x")]).unwrap()), [4, 3, 1]);
    assert_eq!(ids(by_a.scan(&[Value::Null]).unwrap()), [5]);
    assert_eq!(by_a.get(&[text("x"), int(3)]).unwrap().map(|key| id_of(&key)), Some(1));
    assert_eq!(by_a.get(&[text("x"), int(4)]).unwrap(), None);
    let range = |from: Bound<&[Value]>, to: Bound<&[Value]>| ids(by_a.scan_range(from, to).unwrap());
    let (x, x2, x3) = ([text("x")], [text("x"), int(2)], [text("x"), int(3)]);
    assert_eq!(range(Bound::Included(&x2), Bound::Unbounded), [3, 1, 2]);
    assert_eq!(range(Bound::Excluded(&x2), Bound::Included(&x3)), [1]);
    assert_eq!(range(Bound::Excluded(&x), Bound::Unbounded), [2]);
    assert_eq!(range(Bound::Included(&x), Bound::Excluded(&x3)), [4, 3]);
    assert_eq!(range(Bound::Excluded(&[]), Bound::Unbounded), [0; 0]);
    assert_eq!(range(Bound::Included(&x3), Bound::Excluded(&x)), [0; 0]);
    assert!(matches!(by_a.scan(&[int(1)]), Err(Error::Row(_))));
    assert!(matches!(by_a.scan(&[text("x"), int(1), int(1)]), Err(Error::Row(_))));
    // It follows changes and deletions, and a snapshot keeps what it had.
    change(&database, "main", |transaction| {
        put(transaction, "t", &[int(1), text("z"), int(3)])?;
        delete(transaction, 3)
    });
    assert_eq!(ids(index(&database, "by_a").scan(&[]).unwrap()), [5, 4, 2, 1]);
    assert_eq!(ids(by_a.scan(&[]).unwrap()), [5, 4, 3, 1, 2]);
    assert_eq!(database.fsck().unwrap().damages, []);
}

#[test]
fn a_unique_index_refuses_a_second_row_and_lets_values_move_from_row_to_row() {
    let database = database(&[("email", Type::Text), ("b", Type::Int)]);
    write(&database, "main", &[&[int(1), text("a@x"), int(0)], &[int(2), text("b@x"), int(0)]]);
    change(&database, "main", |transaction| transaction.create_index("t", "by_email", &["email"], true));
    let fails = |f: &dyn Fn(&mut Transaction) -> Result<()>| {
        let before = database.root().unwrap();
        let mut transaction = database.begin("main").unwrap();
        f(&mut transaction).unwrap();
        let error = transaction.commit().unwrap_err();
        assert!(matches!(error, Error::UniqueViolation { .. }), "{error}");
        assert_eq!(database.root().unwrap(), before, "nothing changed");
        error.to_string()
    };
    let expected =
        "index `by_email` of table `t` is unique, and the rows id=1 and id=3 both have email=a@x; ";
    let error = fails(&|transaction| put(transaction, "t", &[int(3), text("a@x"), int(1)]));
    assert!(error.starts_with(expected), "{error}");
    fails(&|transaction| {
        put(transaction, "t", &[int(3), text("c@x"), int(1)])?;
        put(transaction, "t", &[int(4), text("c@x"), int(1)])
    });
    fails(&|transaction| transaction.create_index("t", "by_b", &["b"], true));
    // Values are swapped, handed on, and NULL is as often as wanted.
    change(&database, "main", |transaction| {
        put(transaction, "t", &[int(1), text("b@x"), int(0)])?;
        put(transaction, "t", &[int(2), text("a@x"), int(0)])
    });
    change(&database, "main", |transaction| {
        delete(transaction, 2)?;
        put(transaction, "t", &[int(3), text("a@x"), int(0)])?;
        put(transaction, "t", &[int(4), Value::Null, int(0)])?;
        put(transaction, "t", &[int(5), Value::Null, int(0)])
    });
    let by_email = index(&database, "by_email");
    assert_eq!(ids(by_email.scan(&[]).unwrap()), [3, 1]);
    assert_eq!(by_email.get(&[text("b@x")]).unwrap().map(|key| id_of(&key)), Some(1));
    // A row that is written again as it was keeps its entry.
    write(&database, "main", &[&[int(1), text("b@x"), int(7)]]);
    assert_eq!(index(&database, "by_email").root(), by_email.root());
}

#[test]
fn of_concurrent_rows_with_one_unique_value_one_is_committed_and_no_other_fails() {
    let database = database(&[("a", Type::Int)]);
    change(&database, "main", |transaction| transaction.create_index("t", "one_a", &["a"], true));
    let refused: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let database = &database;
                scope.spawn(move || {
                    let mut refused = 0;
                    for n in 0..20 {
                        let mut transaction = database.begin("main").unwrap();
                        let id = thread * 100 + n;
                        // Every fourth is the same for all threads.
                        let a = if n % 4 == 0 { -n } else { id };
                        put(&mut transaction, "t", &[int(id), int(a)]).unwrap();
                        match transaction.commit() {
                            Ok(TransactionOutcome::Committed(_)) => {}
                            Err(Error::UniqueViolation { .. }) if n % 4 == 0 => refused += 1,
                            other => panic!("{other:?}"),
                        }
                    }
                    refused
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    // For n = 0, thread 0 has -0 = its own id: still one value for all.
    assert_eq!(refused, 5 * 7);
    assert_eq!(rows(&database, "main").len(), 8 * 20 - refused);
    check(&database, "main");
}

#[test]
fn changes_of_indexes_that_cannot_be_say_why() {
    let database = database(&[("a", Type::Text), ("b", Type::Int)]);
    change(&database, "main", |transaction| transaction.create_index("t", "by_a", &["a"], false));
    let mut transaction = database.begin("main").unwrap();
    transaction.create_table("raw", None).unwrap();
    let long = ["b"; 17];
    for (refused, expected) in [
        (transaction.create_index("raw", "i", &["a"], false), "table `raw` holds raw keys"),
        (transaction.create_index("none", "i", &["a"], false), "table `none` not found"),
        (transaction.create_index("t", "by_a", &["b"], false), "index `by_a` already exists"),
        (transaction.create_index("t", "a/b", &["b"], false), "not a valid index name"),
        (transaction.create_index("t", "i", &[], false), "expected 1 to 16 columns"),
        (transaction.create_index("t", "i", &long, false), "expected 1 to 16 columns"),
        (transaction.create_index("t", "i", &["c"], false), "column `c` not found"),
        (transaction.create_index("t", "i", &["a", "a"], false), "`a` twice"),
        (transaction.drop_index("t", "i"), "index `i` of table `t` not found"),
        (
            transaction.drop_column("t", "a"),
            "column `a` of table `t` is in index `by_a`; drop the index first",
        ),
    ] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    // In one transaction, what it did before counts.
    transaction.drop_index("t", "by_a").unwrap();
    transaction.drop_column("t", "a").unwrap();
    transaction.create_index("t", "by_a", &["b"], true).unwrap();
    assert!(transaction.drop_column("t", "b").is_err());
    transaction.commit().unwrap();
    assert!(index(&database, "by_a").definition().unique);

    let database = self::database(&[("a", Type::Text)]);
    change(&database, "main", |transaction| transaction.create_index("t", "by_a", &["a"], false));
    let mut transaction = database.begin("main").unwrap();
    put(&mut transaction, "t", &[int(7), text(&"x".repeat(1100))]).unwrap();
    let error = transaction.commit().unwrap_err().to_string();
    assert!(error.contains("row id=7 of table `t` makes a key of"), "{error}");
    let mut transaction = database.begin("main").unwrap();
    transaction.put("t", &schema(&[]).encode_key(&[int(1)]).unwrap(), b"\xff no row").unwrap();
    assert!(matches!(transaction.commit(), Err(Error::Row(_))));
}

#[test]
fn an_index_and_the_columns_it_needs_are_not_changed_at_once() {
    let database = database(&[("a", Type::Text)]);
    write(&database, "main", &[&[int(1), text("x")]]);
    let mut drops = database.begin("main").unwrap();
    drops.drop_column("t", "a").unwrap();
    let mut makes = database.begin("main").unwrap();
    makes.create_index("t", "by_a", &["a"], false).unwrap();
    // Rows that others write do not keep the index from being made, and are in it.
    write(&database, "main", &[&[int(2), text("y")]]);
    assert!(matches!(makes.commit().unwrap(), TransactionOutcome::Committed(_)));
    let refused = TransactionOutcome::Refused { table: "t".into(), key: None };
    assert_eq!(drops.commit().unwrap(), refused);
    assert_eq!(ids(index(&database, "by_a").scan(&[]).unwrap()), [1, 2]);
}

#[test]
fn indexes_go_with_their_table_and_follow_a_bulk_load() {
    let database = database(&[("a", Type::Int)]);
    write(&database, "main", &[&[int(1), int(5)]]);
    change(&database, "main", |transaction| transaction.create_index("t", "by_a", &["a"], false));
    change(&database, "main", |transaction| {
        let schema = schema(&[("a", Type::Int)]);
        let rows = (0..2000).map(|n| schema.encode_row(&[int(n), int(-n)]).unwrap());
        transaction.load("t", rows)
    });
    let found = ids(index(&database, "by_a").scan(&[]).unwrap());
    assert!(found.len() == 2000 && found.is_sorted_by(|a, b| a > b));
    check(&database, "main");
    change(&database, "main", |transaction| {
        transaction.drop_table("t")?;
        transaction.create_table("t", Some(schema(&[("a", Type::Int)])))
    });
    assert!(table(&database, "main").indexes().unwrap().is_empty());
    change(&database, "main", |transaction| transaction.create_index("t", "by_a", &["a"], false));
    change(&database, "main", |transaction| transaction.drop_table("t"));
    let work = database.branch("main").unwrap().unwrap().work;
    assert_eq!(work, database.committed_root(None).unwrap(), "nothing is left");
}

#[test]
fn golden_bytes_of_the_entries_of_indexes() {
    let database = database(&[("a", Type::Int)]);
    write(&database, "main", &[&[int(1), int(5)], &[int(2), Value::Null]]);
    change(&database, "main", |transaction| {
        transaction.create_index("t", "many", &["a"], false)?;
        transaction.create_index("t", "one", &["a"], true)
    });
    let entries = |name: &str| {
        let index = index(&database, name);
        let catalogue = database.branch("main").unwrap().unwrap().work;
        let links = map::get(database.store(), &catalogue, format!("it/{name}").as_bytes()).unwrap().unwrap();
        let definition = index.definition().encode();
        assert_eq!(links.bytes, [definition.hash().as_bytes().as_slice(), index.root().as_bytes()].concat());
        let mut rows =
            map::cursor::Rows::new(database.store(), &index.root(), Bound::Unbounded, Bound::Unbounded)
                .unwrap();
        let mut entries = Vec::new();
        while let Some((key, value)) = rows.next_row().unwrap() {
            entries.push((key.to_vec(), value.bytes.to_vec()));
        }
        entries
    };
    let (five, one, two) =
        ([1, 0x80, 0, 0, 0, 0, 0, 0, 5], [1, 0x80, 0, 0, 0, 0, 0, 0, 1], [1, 0x80, 0, 0, 0, 0, 0, 0, 2]);
    let many = [([&[0][..], &two].concat(), vec![]), ([five, one].concat(), vec![])];
    assert_eq!(entries("many"), many);
    assert_eq!(entries("one"), [(five.to_vec(), one.to_vec())]);
}

#[test]
fn a_change_of_a_row_costs_a_node_a_level_of_each_index_that_it_touches() {
    let database = database(&[("a", Type::Int), ("b", Type::Int)]);
    change(&database, "main", |transaction| {
        transaction.create_index("t", "by_a", &["a"], false)?;
        transaction.create_index("t", "one_b", &["b"], true)?;
        let schema = schema(&[("a", Type::Int), ("b", Type::Int)]);
        transaction.load("t", (0..20_000).map(|n| schema.encode_row(&[int(n), int(n % 97), int(n)]).unwrap()))
    });
    let cost = |row: [Value; 3]| {
        let before = database.store().stats().chunks;
        write(&database, "main", &[&row]);
        database.store().stats().chunks - before
    };
    let none = cost([int(500), int(500 % 97), Value::Null]);
    assert!(cost([int(500), int(500 % 97), Value::Null]) == 0, "no change");
    let levels = 3;
    // The catalogue, the rows, the index that loses an entry.
    assert!(none <= 1 + 2 * levels, "{none}");
    // An entry goes in one place and comes in another.
    let moved = cost([int(501), int(96), int(501)]);
    assert!(moved <= 1 + 3 * levels, "{moved}");
}

#[test]
fn a_commit_that_is_taken_back_leaves_the_indexes_and_they_follow() {
    let database = database(&[("a", Type::Int)]);
    write(&database, "main", &[&[int(1), int(5)], &[int(2), int(6)]]);
    change(&database, "main", |transaction| transaction.create_index("t", "by_a", &["a"], false));
    commit(&database, "main");
    change(&database, "main", |transaction| {
        transaction.add_column("t", "n", Type::Int, int(0))?;
        put(transaction, "t", &[int(1), int(9), int(0)])?;
        put(transaction, "t", &[int(3), int(1), int(0)])
    });
    let changed = commit(&database, "main");
    database.revert("main", &changed, NewCommit { message: "back".into(), ..NewCommit::default() }).unwrap();
    assert_eq!(names(&database, "main"), ["id", "a"]);
    assert_eq!(ids(index(&database, "by_a").scan(&[]).unwrap()), [1, 2]);
    check(&database, "main");
    change(&database, "main", |transaction| {
        transaction.delete_range("t", Bound::Unbounded, Bound::Unbounded)?;
        put(transaction, "t", &[int(7), int(7)])
    });
    check(&database, "main");
    // A column that an index needs does not go by that way either.
    change(&database, "main", |transaction| transaction.add_column("t", "n", Type::Int, int(0)));
    let added = commit(&database, "main");
    change(&database, "main", |transaction| transaction.create_index("t", "by_n", &["n"], false));
    commit(&database, "main");
    let refused = database.revert("main", &added, NewCommit::default()).unwrap_err();
    assert!(refused.to_string().contains("column `n` of table `t` is in index `by_n`"), "{refused}");
    check(&database, "main");
}

/// The indexes of a table by name, and their columns.
fn indexed(database: &Database, branch: &str) -> Vec<(String, Vec<u32>)> {
    let indexes = table(database, branch).indexes().unwrap().into_iter();
    indexes.map(|(name, index)| (name, index.definition().columns.clone())).collect()
}

#[test]
fn indexes_come_and_go_with_the_commits_and_patches_that_change_them() {
    let database = database(&[("a", Type::Int), ("b", Type::Int)]);
    write(&database, "main", &[&[int(1), int(5), int(6)], &[int(2), int(6), int(5)]]);
    change(&database, "main", |transaction| {
        transaction.create_index("t", "goes", &["a"], false)?;
        transaction.create_index("t", "turns", &["a"], false)
    });
    commit(&database, "main");
    let before = database.branch("main").unwrap().unwrap().work;
    change(&database, "main", |transaction| {
        transaction.drop_index("t", "goes")?;
        transaction.drop_index("t", "turns")?;
        transaction.create_index("t", "turns", &["b", "a"], true)?;
        transaction.create_index("t", "comes", &["b"], false)
    });
    let expected = [("comes".to_owned(), vec![2]), ("turns".to_owned(), vec![2, 1])];

    // Nothing but indexes changed, and it shows.
    let status = database.status("main").unwrap();
    let stat = TableStat { table: "t".into(), inserted: 0, updated: 0, deleted: 0 };
    assert_eq!((status.dirty, status.tables), (true, vec![stat.clone()]));
    let [from, to] = [before, status.work].map(|root| database.snapshot_of_root(root).unwrap());
    let diffs = from.diff(&to).unwrap();
    assert_eq!(diffs.len(), 1);
    assert_eq!((diffs[0].kind(), diffs[0].schema_changed()), (TableChange::Changed, false));
    assert_eq!(diffs[0].stat().unwrap(), stat);
    let changes = diffs[0].index_changes().unwrap();
    let sides = |change: &IndexChange| (change.before.is_some(), change.after.is_some());
    assert_eq!(
        changes.iter().map(|change| change.index.as_str()).collect::<Vec<_>>(),
        ["comes", "goes", "turns"]
    );
    assert_eq!(changes.iter().map(sides).collect::<Vec<_>>(), [(false, true), (true, false), (true, true)]);
    assert!(changes[2].after.as_ref().unwrap().unique);
    let told: Vec<_> = database.changes("main", Some(before)).unwrap().map(|item| item.unwrap()).collect();
    assert!(matches!(&told[..], [FeedItem::Table { indexes, before, after, .. }]
        if *indexes == changes && before == after));

    let changed = commit(&database, "main");
    write(&database, "main", &[&[int(3), int(7), int(7)]]);
    commit(&database, "main");
    let revert = |commit: &Hash| database.revert("main", commit, NewCommit::default());
    let back = revert(&changed).unwrap().hash;
    assert_eq!(indexed(&database, "main"), [("goes".to_owned(), vec![1]), ("turns".to_owned(), vec![1])]);
    assert_eq!(ids(index(&database, "goes").scan(&[]).unwrap()), [1, 2, 3]);
    check(&database, "main");
    assert!(matches!(revert(&changed), Err(Error::PatchMismatch { .. })), "not twice");
    revert(&back).unwrap();
    assert_eq!(indexed(&database, "main"), expected);
    check(&database, "main");
    revert(&changed).unwrap();
    // A row of another kind stands against a unique index.
    write(&database, "main", &[&[int(4), int(7), int(7)]]);
    let with_doubles = commit(&database, "main");
    assert!(matches!(revert(&back), Err(Error::UniqueViolation { .. })));
    assert_eq!(database.branch("main").unwrap().unwrap().head, Some(with_doubles));

    // As a file, to a table with other rows.
    let mut patch = Vec::new();
    patch::make(&diffs, &mut patch).unwrap();
    let other = self::database(&[("a", Type::Int), ("b", Type::Int)]);
    write(&other, "main", &[&[int(9), int(1), int(2)]]);
    let apply = |patch: &[u8]| other.apply_patch("main", &mut &patch[..]);
    assert!(matches!(apply(&patch), Err(Error::PatchMismatch { key: None, .. })), "no such indexes");
    change(&other, "main", |transaction| {
        transaction.create_index("t", "goes", &["a"], false)?;
        transaction.create_index("t", "turns", &["a"], false)
    });
    let root = other.root().unwrap();
    apply(&patch).unwrap();
    assert_eq!(indexed(&other, "main"), expected);
    check(&other, "main");
    let mut turned = Vec::new();
    patch::invert(&mut &patch[..], &mut turned).unwrap();
    apply(&turned).unwrap();
    assert_eq!(other.root().unwrap(), root);

    // A table that comes or goes has its indexes with it, and goes with no others.
    let empty = Database::memory().unwrap();
    let nothing = empty.snapshot_of_root(empty.branch("main").unwrap().unwrap().work).unwrap();
    let mut makes = Vec::new();
    patch::make(&nothing.diff(&to).unwrap(), &mut makes).unwrap();
    empty.apply_patch("main", &mut &makes[..]).unwrap();
    assert_eq!(empty.branch("main").unwrap().unwrap().work, to.root());
    turned.clear();
    patch::invert(&mut &makes[..], &mut turned).unwrap();
    change(&empty, "main", |transaction| transaction.create_index("t", "more", &["a"], false));
    let refused = empty.apply_patch("main", &mut &turned[..]).unwrap_err().to_string();
    assert!(refused.contains("a table of 2 indexes, and there are 3"), "{refused}");
    change(&empty, "main", |transaction| transaction.drop_index("t", "more"));
    empty.apply_patch("main", &mut &turned[..]).unwrap();
    assert_eq!(empty.branch("main").unwrap().unwrap().work, nothing.root());
}

#[test]
fn a_column_and_its_index_come_and_go_in_one_commit() {
    let database = database(&[("a", Type::Int)]);
    write(&database, "main", &[&[int(1), int(5)]]);
    change(&database, "main", |transaction| transaction.create_index("t", "i", &["a"], false));
    commit(&database, "main");
    change(&database, "main", |transaction| {
        transaction.drop_index("t", "i")?;
        transaction.drop_column("t", "a")?;
        transaction.add_column("t", "n", Type::Int, int(3))?;
        transaction.create_index("t", "i", &["n", "id"], true)
    });
    let changed = commit(&database, "main");
    for _ in 0..2 {
        let back = database.revert("main", &changed, NewCommit::default()).unwrap().hash;
        assert_eq!(names(&database, "main"), ["id", "a"]);
        assert_eq!(rows(&database, "main"), [[int(1), int(5)]]);
        assert_eq!(indexed(&database, "main"), [("i".to_owned(), vec![1])]);
        check(&database, "main");
        database.revert("main", &back, NewCommit::default()).unwrap();
        assert_eq!(names(&database, "main"), ["id", "n"]);
        check(&database, "main");
    }
}

#[test]
fn an_index_made_meanwhile_is_not_lost_with_a_table_that_is_dropped_or_made_anew() {
    let database = database(&[("a", Type::Int)]);
    let mut drops = database.begin("main").unwrap();
    drops.drop_table("t").unwrap();
    change(&database, "main", |transaction| transaction.create_index("t", "by_a", &["a"], false));
    let refused = TransactionOutcome::Refused { table: "t".into(), key: None };
    assert_eq!(drops.commit().unwrap(), refused);
}

#[test]
fn a_merge_that_would_break_a_unique_index_names_both_rows_and_changes_nothing() {
    for made_by_theirs in [false, true] {
        let database = database(&[("a", Type::Int)]);
        let make = |transaction: &mut Transaction| transaction.create_index("t", "one_a", &["a"], true);
        write(&database, "main", &[&[int(1), int(5)]]);
        if !made_by_theirs {
            change(&database, "main", make);
        }
        let side = diverge(
            &database,
            |transaction| put(transaction, "t", &[int(2), int(7)]),
            |transaction| {
                put(transaction, "t", &[int(3), int(7)])?;
                if made_by_theirs { make(transaction) } else { Ok(()) }
            },
        );
        let before = database.root().unwrap();
        let error = database.merge("main", &side, MergeOptions::default()).unwrap_err().to_string();
        assert!(error.contains("index `one_a` of table `t` is unique") && error.contains("a=7"), "{error}");
        assert!(error.contains("id=2") && error.contains("id=3"), "{error}");
        assert_eq!(database.root().unwrap(), before);
        write(&database, "main", &[&[int(2), int(8)]]);
        commit(&database, "main");
        let outcome = database.merge("main", &side, MergeOptions::default()).unwrap();
        assert!(matches!(outcome, MergeOutcome::Merged { .. }));
        assert_eq!(ids(index(&database, "one_a").scan(&[]).unwrap()), [1, 3, 2]);
        check(&database, "main");
    }
}

type Change = fn(&mut Transaction) -> Result<()>;

#[test]
fn indexes_that_both_sides_changed_are_merged_by_name() {
    let make: Change = |transaction| transaction.create_index("t", "i", &["a"], false);
    let make_other: Change = |transaction| transaction.create_index("t", "i", &["b"], false);
    let make_second: Change = |transaction| transaction.create_index("t", "j", &["b"], false);
    let drop_a: Change = |transaction| transaction.drop_column("t", "a");
    let rows: Change = |transaction| put(transaction, "t", &[int(9), int(9), int(9)]);
    for (ours, theirs, expected) in [
        (make, make, Ok(vec!["i"])),
        (make, make_second, Ok(vec!["i", "j"])),
        (make, rows, Ok(vec!["i"])),
        (make, make_other, Err("both sides made it")),
        (make, drop_a, Err("one side dropped a column of it")),
    ] {
        for (ours, theirs) in [(ours, theirs), (theirs, ours)] {
            let database = database(&[("a", Type::Int), ("b", Type::Int)]);
            write(&database, "main", &[&[int(1), int(5), int(6)]]);
            let side = diverge(&database, ours, theirs);
            match (database.merge("main", &side, MergeOptions::default()), &expected) {
                (Ok(_), Ok(names)) => {
                    let found = table(&database, "main").indexes().unwrap();
                    assert_eq!(found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), *names);
                    check(&database, "main");
                }
                (Err(error @ Error::IndexConflict { .. }), Err(expected)) => {
                    assert!(error.to_string().contains(expected), "{error}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
    // What is refused changed nothing, and goes when one side gives way.
    let database = database(&[("a", Type::Int), ("b", Type::Int)]);
    write(&database, "main", &[&[int(1), int(5), int(6)]]);
    let side = diverge(&database, make, make_other);
    let before = database.root().unwrap();
    assert!(matches!(
        database.merge("main", &side, MergeOptions::default()),
        Err(Error::IndexConflict { .. })
    ));
    assert_eq!(database.root().unwrap(), before);
    assert!(matches!(database.merge_abort("main"), Err(Error::NoMerge { .. })), "none is under way");
    change(&database, "main", |transaction| transaction.drop_index("t", "i"));
    commit(&database, "main");
    database.merge("main", &side, MergeOptions::default()).unwrap();
    assert_eq!(indexed(&database, "main"), [("i".to_owned(), vec![2])]);
    check(&database, "main");
    // One that a side dropped is gone.
    let database = self::database(&[("a", Type::Int), ("b", Type::Int)]);
    change(&database, "main", make);
    let side = diverge(&database, rows, |transaction| transaction.drop_index("t", "i"));
    database.merge("main", &side, MergeOptions::default()).unwrap();
    assert!(table(&database, "main").indexes().unwrap().is_empty());
    assert_eq!(self::rows(&database, "main").len(), 1);
}

#[test]
fn an_index_that_one_side_made_follows_conflicts_that_wait_and_are_decided_or_given_up() {
    for side_made_it in [false, true] {
        let database = database(&[("a", Type::Int)]);
        write(&database, "main", &[&[int(1), int(1)], &[int(2), int(2)]]);
        let make = |transaction: &mut Transaction| transaction.create_index("t", "i", &["a"], false);
        let side = diverge(
            &database,
            |transaction| {
                put(transaction, "t", &[int(1), int(10)])?;
                if side_made_it { Ok(()) } else { make(transaction) }
            },
            |transaction| {
                put(transaction, "t", &[int(1), int(20)])?;
                put(transaction, "t", &[int(3), int(0)])?;
                if side_made_it { make(transaction) } else { Ok(()) }
            },
        );
        let merge = || database.merge("main", &side, MergeOptions::default()).unwrap();
        assert_eq!(merge(), MergeOutcome::Conflicts { count: 1 });
        assert_eq!(ids(index(&database, "i").scan(&[]).unwrap()), [3, 2, 1]);
        check(&database, "main");
        database.merge_abort("main").unwrap();
        assert_eq!(indexed(&database, "main").len(), usize::from(!side_made_it));
        check(&database, "main");
        assert_eq!(merge(), MergeOutcome::Conflicts { count: 1 });
        database.resolve_conflicts("main", Side::Theirs).unwrap();
        assert_eq!(ids(index(&database, "i").scan(&[int(20)]).unwrap()), [1]);
        check(&database, "main");
        commit(&database, "main");
    }
}

#[test]
fn an_index_that_is_not_what_the_rows_give_is_told_and_made_anew() {
    let row = |n| [int(n), int(n * 7 % 5), int(n)];
    let build = |rows: &[i64]| {
        let database = database(&[("a", Type::Int), ("b", Type::Int)]);
        change(&database, "main", |transaction| {
            INDEXES.iter().try_for_each(|(name, ..)| make(transaction, name))?;
            rows.iter().try_for_each(|n| put(transaction, "t", &row(*n)))
        });
        database
    };
    let database = build(&[1, 2, 3]);
    assert_eq!(table(&database, "main").check_indexes().unwrap(), [""; 0]);
    // Whoever sends chunks can send an index of other rows.
    for others in [&[1, 2][..], &[1, 2, 3, 4], &[1, 2, 4], &[]] {
        let sent = build(others);
        for (name, ..) in INDEXES {
            let index = table(&sent, "main").index_entry(name).unwrap().unwrap();
            let written = database.write(|writer, updates| {
                let chunk = sent.store().get(&index.root)?.unwrap();
                writer.put(chunk, None)?;
                let work = database.branch("main")?.unwrap().work;
                let name = catalogue::Name::Index("t".into(), name.into());
                let changes = vec![(name, Some(catalogue::Entry::Index(index)))];
                let new = Some(catalogue::change(writer, work, changes)?);
                updates.push(RefUpdate { name: "work/main".into(), old: Some(work), new });
                Ok(())
            });
            written.unwrap();
            assert_eq!(table(&database, "main").check_indexes().unwrap(), [name], "{others:?}");
            change(&database, "main", |transaction| {
                transaction.drop_index("t", name)?;
                make(transaction, name)
            });
            assert_eq!(table(&database, "main").check_indexes().unwrap(), [""; 0]);
            check(&database, "main");
        }
    }
}

/// Checks that each index of a branch is what building it from the rows gives, and that unique ones are.
fn check(database: &Database, branch: &str) {
    let table = table(database, branch);
    let schema = table.schema().unwrap().clone();
    let rows: Vec<_> =
        table.scan(Bound::Unbounded, Bound::Unbounded).unwrap().map(|row| row.unwrap()).collect();
    let fresh = Database::memory().unwrap();
    change(&fresh, "main", |transaction| {
        transaction.create_table_with("t", table.definition().clone())?;
        transaction.load("t", rows.iter().map(|(key, value)| (key, value)))?;
        for (name, index) in table.indexes()? {
            let name_of = |id: &u32| schema.column_by_id(*id).unwrap().name.as_str();
            let columns: Vec<&str> = index.definition().columns.iter().map(name_of).collect();
            transaction.create_index("t", &name, &columns, index.definition().unique)?;
        }
        Ok(())
    });
    for (name, built) in self::table(&fresh, "main").indexes().unwrap() {
        let index = table.index(&name).unwrap().unwrap();
        assert_eq!(index.root(), built.root(), "{name}");
        let columns = &index.definition().columns;
        let mut expected: Vec<(Vec<u8>, &Vec<u8>)> = Vec::new();
        for (key, value) in &rows {
            let values = schema.values_of(columns, key, value).unwrap();
            if !index.definition().unique || !values.iter().any(Value::is_null) {
                expected.push((schema.encode_values(columns, &values).unwrap(), key));
            }
        }
        expected.sort();
        let found: Vec<Vec<u8>> = index.scan(&[]).unwrap().map(|key| key.unwrap()).collect();
        assert_eq!(found, expected.iter().map(|(_, key)| (*key).clone()).collect::<Vec<_>>(), "{name}");
        if index.definition().unique {
            let distinct: BTreeSet<&Vec<u8>> = expected.iter().map(|(values, _)| values).collect();
            assert_eq!(distinct.len(), expected.len(), "{name}");
        }
    }
}

/// The rows, with their columns by id: their order depends on which side merged the other.
fn by_column(database: &Database, branch: &str) -> Vec<Vec<(u32, String, Value)>> {
    let schema = table(database, branch).schema().unwrap().clone();
    let columns = |row: Vec<Value>| {
        let cells = schema.columns().iter().zip(row);
        let mut cells: Vec<_> =
            cells.map(|(column, value)| (column.id, column.name.clone(), value)).collect();
        cells.sort_by_key(|(id, ..)| *id);
        cells
    };
    rows(database, branch).into_iter().map(columns).collect()
}

/// Whether two rows have one value of the column that began as `b`, which is not NULL.
fn has_doubles(database: &Database, branch: &str) -> bool {
    let Some(b) = table(database, branch).schema().unwrap().position(2) else { return false };
    let rows = rows(database, branch).into_iter();
    let values: Vec<String> =
        rows.filter(|row| !row[b].is_null()).map(|row| format!("{:?}", row[b])).collect();
    values.iter().collect::<BTreeSet<_>>().len() < values.len()
}

#[derive(Debug, Clone)]
enum Step {
    /// Rows by id: `None` is deleted.
    Write(usize, Vec<(i64, Option<[Option<i64>; 2]>)>),
    Make(usize, usize),
    Drop(usize, usize),
    Column(usize, ColumnChange),
    /// Merges the other branch into one; conflicts are decided for a side, at once or later.
    Merge(usize, bool, bool),
}

const BRANCHES: [&str; 2] = ["main", "side"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let cell = || proptest::option::weighted(0.8, 0..12i64);
    let row = proptest::option::weighted(0.8, [cell(), cell()]);
    let step = prop_oneof![
        6 => (0..2usize, vec((0..10i64, row), 1..4)).prop_map(|(branch, rows)| Step::Write(branch, rows)),
        1 => (0..2usize, 0..3usize).prop_map(|(branch, index)| Step::Make(branch, index)),
        1 => (0..2usize, 0..3usize).prop_map(|(branch, index)| Step::Drop(branch, index)),
        2 => (0..2usize, column_change()).prop_map(|(branch, change)| Step::Column(branch, change)),
        2 => (0..2usize, any::<bool>(), any::<bool>()).prop_map(|(branch, now, theirs)| Step::Merge(branch, now, theirs)),
    ];
    vec(step, 1..25)
}

/// What a step came to: an error of a unique index, or whether it was done.
type Done = std::result::Result<bool, ()>;

fn outcome<T>(result: Result<T>) -> Done {
    use row::Error::{DuplicateName, KeyColumn, NoSuchColumn};
    match result {
        Ok(_) => Ok(true),
        Err(Error::UniqueViolation { .. }) => Err(()),
        Err(Error::IndexConflict { .. } | Error::ColumnConflict { .. } | Error::ColumnIndexed { .. }) => {
            Ok(false)
        }
        Err(Error::Row(DuplicateName { .. } | KeyColumn { .. } | NoSuchColumn { .. })) => Ok(false),
        Err(error) => panic!("{error}"),
    }
}

fn write_rows(database: &Database, branch: &str, rows: &[(i64, Option<[Option<i64>; 2]>)]) -> Done {
    let mut transaction = database.begin(branch).unwrap();
    for (id, row) in rows {
        match row {
            None => delete(&mut transaction, *id).unwrap(),
            Some(cells) => {
                let schema = transaction.definition("t").unwrap().unwrap().schema.unwrap();
                let row = schema.columns().iter().map(|column| match column.id {
                    0 => int(*id),
                    id => cells[(id as usize + 1) % 2].map_or(Value::Null, Value::Int),
                });
                put(&mut transaction, "t", &row.collect::<Vec<_>>()).unwrap();
            }
        }
    }
    outcome(transaction.commit())
}

/// `doubles` becomes true if rows have one value of `b` while conflicts wait.
fn change_column(database: &Database, branch: &str, change: &ColumnChange) -> Done {
    let mut transaction = database.begin(branch).unwrap();
    let schema = transaction.definition("t").unwrap().unwrap().schema.unwrap();
    let mut columns = schema.columns().to_vec();
    columns.sort_by_key(|column| column.id);
    let name = |at: &sample::Index| at.get(&columns).name.clone();
    let changed = match change {
        ColumnChange::Add(n) => transaction.add_column("t", &format!("c{n}"), Type::Int, int(*n as i64)),
        ColumnChange::Drop(at) => transaction.drop_column("t", &name(at)),
        ColumnChange::Rename(at, to) => transaction.rename_column("t", &name(at), &format!("c{to}")),
    };
    outcome(changed.and_then(|()| transaction.commit()))
}

fn merge_branches(database: &Database, into: usize, now: bool, side: Side, doubles: &mut bool) -> Done {
    for branch in BRANCHES {
        if database.status(branch).unwrap().dirty {
            commit(database, branch);
        }
    }
    let theirs = database.branch(BRANCHES[1 - into]).unwrap().unwrap().head.unwrap();
    let prefer = now.then_some(side);
    match database.merge(BRANCHES[into], &theirs, MergeOptions { prefer, ..MergeOptions::default() }) {
        Ok(MergeOutcome::Conflicts { .. }) => {
            *doubles |= has_doubles(database, BRANCHES[into]);
            if let Err(error) = database.resolve_conflicts(BRANCHES[into], side) {
                database.merge_abort(BRANCHES[into]).unwrap();
                return outcome::<()>(Err(error));
            }
            commit(database, BRANCHES[into]);
            Ok(true)
        }
        other => outcome(other),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn indexes_are_what_building_them_gives_after_any_history(steps in steps()) {
        // The model: the same history in a database without indexes.
        let (indexed, plain) = (database(&[("a", Type::Int), ("b", Type::Int)]), database(&[("a", Type::Int), ("b", Type::Int)]));
        for database in [&indexed, &plain] {
            let base = commit(database, "main");
            database.create_branch("side", Some(base)).unwrap();
        }
        for step in steps {
            let branch = BRANCHES[match &step { Step::Write(b, _) | Step::Make(b, _) | Step::Drop(b, _) | Step::Column(b, _) | Step::Merge(b, ..) => *b }];
            let unique = table(&indexed, branch).index("one_b").unwrap().is_some();
            let before = rows(&plain, branch);
            match &step {
                Step::Write(_, edits) => {
                    let done = write_rows(&indexed, branch, edits);
                    write_rows(&plain, branch, edits).unwrap();
                    if unique {
                        prop_assert_eq!(done.is_err(), has_doubles(&plain, branch));
                    }
                    if done.is_err() {
                        // The model goes back.
                        change(&plain, branch, |transaction| {
                            for (id, _) in edits {
                                delete(transaction, *id)?;
                            }
                            before.iter().try_for_each(|row| put(transaction, "t", row))
                        });
                    }
                }
                Step::Make(_, which) => {
                    let name = INDEXES[*which].0;
                    let mut transaction = indexed.begin(branch).unwrap();
                    if !transaction.indexes("t").unwrap().contains_key(name) {
                        // Its columns may be gone.
                        let done = outcome(make(&mut transaction, name).and_then(|()| transaction.commit()));
                        prop_assert!(done.is_err() == (INDEXES[*which].2 && has_doubles(&plain, branch)) || done == Ok(false));
                    }
                }
                Step::Drop(_, which) => {
                    let name = INDEXES[*which].0;
                    let mut transaction = indexed.begin(branch).unwrap();
                    if transaction.indexes("t").unwrap().contains_key(name) {
                        transaction.drop_index("t", name).unwrap();
                        transaction.commit().unwrap();
                    }
                }
                Step::Column(_, change) => {
                    if change_column(&indexed, branch, change) == Ok(true) {
                        change_column(&plain, branch, change).unwrap();
                    }
                }
                Step::Merge(into, now, theirs) => {
                    let side = if *theirs { Side::Theirs } else { Side::Ours };
                    let mut doubles = false;
                    let done = merge_branches(&indexed, *into, *now, side, &mut doubles);
                    match done {
                        Err(()) => {
                            // The model would have two rows of one value; it has no way back, so this history ends here.
                            merge_branches(&plain, *into, *now, side, &mut doubles).unwrap();
                            prop_assert!(doubles || has_doubles(&plain, branch));
                            for branch in BRANCHES {
                                check(&indexed, branch);
                            }
                            return Ok(());
                        }
                        Ok(done) => if done { merge_branches(&plain, *into, *now, side, &mut doubles).unwrap(); },
                    }
                }
            }
            prop_assert_eq!(by_column(&indexed, branch), by_column(&plain, branch));
            check(&indexed, branch);
        }
    }
}
