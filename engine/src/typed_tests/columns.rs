//! Columns added, dropped and renamed in transactions.

use super::*;

#[test]
fn a_column_is_added_dropped_and_renamed_without_touching_a_row() {
    let database = database(&[("a", Type::Text), ("b", Type::Int)]);
    write(&database, "main", &[&[int(1), text("x"), int(10)], &[int(2), text("y"), Value::Null]]);
    let before = table(&database, "main").root();
    change(&database, "main", |transaction| {
        transaction.add_column("t", "score", Type::Int, int(5))?;
        transaction.add_column("t", "note", Type::Text, Value::Null)?;
        transaction.drop_column("t", "b")?;
        transaction.rename_column("t", "a", "name")?;
        transaction.rename_column("t", "id", "key")
    });
    assert_eq!(table(&database, "main").root(), before, "no row is written");
    assert_eq!(names(&database, "main"), ["key", "name", "score", "note"]);
    assert_eq!(
        rows(&database, "main"),
        [[int(1), text("x"), int(5), Value::Null], [int(2), text("y"), int(5), Value::Null]]
    );
    // The default is that of rows written before; what is written now says what it has.
    write(
        &database,
        "main",
        &[&[int(3), text("z"), Value::Null, text("n")], &[int(1), text("x"), int(5), Value::Null]],
    );
    assert_eq!(
        rows(&database, "main"),
        [
            [int(1), text("x"), int(5), Value::Null],
            [int(2), text("y"), int(5), Value::Null],
            [int(3), text("z"), Value::Null, text("n")]
        ]
    );
    // A column of the name of one that was dropped does not show its cells.
    change(&database, "main", |transaction| transaction.add_column("t", "b", Type::Int, Value::Null));
    assert_eq!(rows(&database, "main")[0][4], Value::Null);
}

#[test]
fn a_transaction_sees_the_columns_that_it_changes_and_writes_rows_with_them() {
    let database = Database::memory().unwrap();
    change(&database, "main", |transaction| {
        transaction.create_table("t", Some(schema(&[("a", Type::Text)])))?;
        put(transaction, "t", &[int(1), text("x")])?;
        transaction.add_column("t", "n", Type::Int, int(0))?;
        put(transaction, "t", &[int(2), text("y"), int(2)])
    });
    assert_eq!(rows(&database, "main"), [[int(1), text("x"), int(0)], [int(2), text("y"), int(2)]]);
    change(&database, "main", |transaction| {
        transaction.drop_column("t", "a")?;
        put(transaction, "t", &[int(3), int(3)])
    });
    assert_eq!(rows(&database, "main"), [[int(1), int(0)], [int(2), int(2)], [int(3), int(3)]]);
}

#[test]
fn who_read_the_columns_before_they_changed_begins_again() {
    let database = database(&[("a", Type::Text)]);
    write(&database, "main", &[&[int(1), text("x")]]);
    let mut writes = database.begin("main").unwrap();
    put(&mut writes, "t", &[int(2), text("y")]).unwrap();
    let mut adds = database.begin("main").unwrap();
    adds.add_column("t", "n", Type::Int, Value::Null).unwrap();
    let mut drops = database.begin("main").unwrap();
    drops.drop_column("t", "a").unwrap();
    // Rows of others do not keep the columns from being changed.
    write(&database, "main", &[&[int(3), text("z")]]);
    assert!(matches!(adds.commit().unwrap(), TransactionOutcome::Committed(_)));
    for late in [writes, drops] {
        let refused = TransactionOutcome::Refused { table: "t".into(), key: None };
        assert_eq!(late.commit().unwrap(), refused);
    }
    assert_eq!(names(&database, "main"), ["id", "a", "n"]);
    assert_eq!(rows(&database, "main").len(), 2);
}

#[test]
fn changes_of_columns_that_cannot_be_say_why() {
    let database = database(&[("a", Type::Text)]);
    let mut transaction = database.begin("main").unwrap();
    transaction.create_table("raw", None).unwrap();
    let refused = [
        transaction.add_column("raw", "n", Type::Int, Value::Null),
        transaction.add_column("t", "a", Type::Int, Value::Null),
        transaction.drop_column("t", "id"),
        transaction.rename_column("t", "b", "c"),
        transaction.drop_column("none", "b"),
    ];
    let refused = refused.map(|refused| refused.unwrap_err().to_string());
    assert!(refused[0].contains("table `raw` holds raw keys and values"), "{}", refused[0]);
    assert!(refused[1].contains("found `a` twice"), "{}", refused[1]);
    assert!(refused[2].contains("key column `id` cannot be dropped"), "{}", refused[2]);
    assert!(refused[3].contains("column `b` not found"), "{}", refused[3]);
    assert!(refused[4].contains("table `none` not found"), "{}", refused[4]);
    assert!(matches!(transaction.commit().unwrap(), TransactionOutcome::Committed(_)));
    assert_eq!(names(&database, "main"), ["id", "a"]);
}

#[test]
fn rows_written_again_are_as_if_they_never_had_the_dropped_column() {
    let database = database(&[("a", Type::Text), ("b", Type::Int)]);
    let row = |n| [int(n), text("x"), if n % 2 == 0 { int(n) } else { Value::Null }];
    change(&database, "main", |transaction| (0..100).try_for_each(|n| put(transaction, "t", &row(n))));
    change(&database, "main", |transaction| transaction.drop_column("t", "b"));
    change(&database, "main", |transaction| {
        // Changes of the same transaction count.
        put(transaction, "t", &[int(0), text("new")])?;
        transaction.delete("t", &schema(&[]).encode_key(&[int(2)])?)?;
        assert_eq!(transaction.rewrite_rows("t")?, 48);
        assert_eq!(transaction.rewrite_rows("t")?, 0);
        Ok(())
    });
    let rewritten = table(&database, "main");
    let other = self::database(&[("a", Type::Text), ("b", Type::Int)]);
    change(&other, "main", |transaction| transaction.drop_column("t", "b"));
    change(&other, "main", |transaction| {
        put(transaction, "t", &[int(0), text("new")])?;
        (1..100).filter(|n| *n != 2).try_for_each(|n| put(transaction, "t", &[int(n), text("x")]))
    });
    assert_eq!(table(&other, "main").root(), rewritten.root());
    assert_eq!(table(&other, "main").definition(), rewritten.definition());
    let mut transaction = database.begin("main").unwrap();
    transaction.create_table("raw", None).unwrap();
    assert!(matches!(transaction.rewrite_rows("raw"), Err(Error::NotTyped { .. })));
    transaction.drop_table("t").unwrap();
    transaction.create_table("t", Some(schema(&[("a", Type::Text)]))).unwrap();
    assert_eq!(transaction.rewrite_rows("t").unwrap(), 0);
}

#[test]
fn a_commit_keeps_the_columns_that_it_had() {
    let database = database(&[("a", Type::Text)]);
    write(&database, "main", &[&[int(1), text("x")]]);
    let first = commit(&database, "main");
    change(&database, "main", |transaction| transaction.drop_column("t", "a"));
    assert!(database.status("main").unwrap().dirty);
    let root = database.commit_object(&first).unwrap().root;
    let then = database.snapshot_of_root(root).unwrap();
    let now = database.snapshot_of_root(database.branch("main").unwrap().unwrap().work).unwrap();
    let diff = then.diff(&now).unwrap();
    assert!(diff[0].schema_changed());
    assert_eq!(diff[0].changes().unwrap().count(), 0);
    let table = then.table("t").unwrap().unwrap();
    let key = table.schema().unwrap().encode_key(&[int(1)]).unwrap();
    let value = table.get(&key).unwrap().unwrap();
    assert_eq!(table.schema().unwrap().decode_row(&key, &value).unwrap(), [int(1), text("x")]);
}

fn revert(database: &Database, branch: &str, commit: &Hash) -> Result<Hash> {
    let new = NewCommit { message: "back".into(), date_micros: Some(2), ..NewCommit::default() };
    Ok(database.revert(branch, commit, new)?.hash)
}

fn dropped(database: &Database, branch: &str) -> Vec<u32> {
    table(database, branch).schema().unwrap().dropped().collect()
}

fn add_n(transaction: &mut Transaction) -> Result<()> {
    transaction.add_column("t", "n", Type::Int, int(7))
}

#[test]
fn a_column_whose_adding_is_taken_back_is_dropped_and_its_id_not_used_again() {
    let database = database(&[("a", Type::Int)]);
    write(&database, "main", &[&[int(1), int(1)]]);
    commit(&database, "main");
    write(&database, "main", &[&[int(2), int(2)]]);
    let wrote = commit(&database, "main");
    change(&database, "main", |transaction| {
        add_n(transaction)?;
        put(transaction, "t", &[int(1), int(1), int(8)])
    });
    let added = commit(&database, "main");
    let id = table(&database, "main").schema().unwrap().column("n").unwrap().id;

    // Not where somebody has filled it in since.
    write(&database, "main", &[&[int(3), int(3), int(9)]]);
    let filled = commit(&database, "main");
    let refused = revert(&database, "main", &added).unwrap_err();
    assert!(matches!(&refused, Error::PatchMismatch { key: Some(key), .. } if key == "3"), "{refused}");
    revert(&database, "main", &filled).unwrap();

    let back = revert(&database, "main", &added).unwrap();
    assert_eq!(names(&database, "main"), ["id", "a"]);
    assert_eq!(dropped(&database, "main"), [id]);
    // What was done before it was added can be taken back still.
    let gone = revert(&database, "main", &wrote).unwrap();
    assert_eq!(rows(&database, "main"), [[int(1), int(1)]]);
    assert_eq!(dropped(&database, "main"), [id]);
    change(&database, "main", add_n);
    assert_ne!(table(&database, "main").schema().unwrap().column("n").unwrap().id, id);
    // And what took it back is taken back itself: the same column, with its cells.
    database.reset("main", &gone, true).unwrap();
    revert(&database, "main", &back).unwrap();
    assert_eq!(table(&database, "main").schema().unwrap().column("n").unwrap().id, id);
    assert_eq!(rows(&database, "main"), [[int(1), int(1), int(8)]]);
    assert_eq!(dropped(&database, "main"), [0_u32; 0]);
}

#[test]
fn a_dropped_column_does_not_come_again_by_a_patch_over_the_cells_that_rows_have_left() {
    let database = database(&[("a", Type::Int)]);
    write(&database, "main", &[&[int(1), int(1)]]);
    let from = database.branch("main").unwrap().unwrap().work;
    change(&database, "main", add_n);
    let [from, to] = [from, database.branch("main").unwrap().unwrap().work]
        .map(|root| database.snapshot_of_root(root).unwrap());
    let mut adds = Vec::new();
    patch::make(&from.diff(&to).unwrap(), &mut adds).unwrap();
    write(&database, "main", &[&[int(2), int(2), int(9)]]);
    change(&database, "main", |transaction| transaction.drop_column("t", "n"));
    let refused = database.apply_patch("main", &mut &adds[..]).unwrap_err();
    assert!(matches!(&refused, Error::PatchMismatch { key: Some(key), .. } if key == "2"), "{refused}");
    assert!(refused.to_string().contains("a column anew that was dropped"), "{refused}");
    change(&database, "main", |transaction| transaction.rewrite_rows("t").map(drop));
    database.apply_patch("main", &mut &adds[..]).unwrap();
    assert_eq!(rows(&database, "main"), [[int(1), int(1), int(7)], [int(2), int(2), int(7)]]);
}

#[test]
fn a_patch_of_columns_leaves_what_the_table_dropped_dropped() {
    let made = database(&[("a", Type::Int)]);
    let work = |database: &Database| {
        database.snapshot_of_root(database.branch("main").unwrap().unwrap().work).unwrap()
    };
    let from = work(&made);
    change(&made, "main", add_n);
    let (mut adds, mut takes) = (Vec::new(), Vec::new());
    patch::make(&from.diff(&work(&made)).unwrap(), &mut adds).unwrap();
    patch::invert(&mut &adds[..], &mut takes).unwrap();
    let other = database(&[("a", Type::Int)]);
    change(&other, "main", |transaction| {
        transaction.add_column("t", "b", Type::Text, text(""))?;
        put(transaction, "t", &[int(1), int(1), text("a cell that stays")])
    });
    let b = table(&other, "main").schema().unwrap().column("b").unwrap().id;
    change(&other, "main", |transaction| transaction.drop_column("t", "b"));
    other.apply_patch("main", &mut &adds[..]).unwrap();
    assert_eq!(
        (dropped(&other, "main"), rows(&other, "main")),
        (vec![b], vec![vec![int(1), int(1), int(7)]])
    );
    other.apply_patch("main", &mut &takes[..]).unwrap();
    let n = table(&made, "main").schema().unwrap().column("n").unwrap().id;
    let mut gone = vec![b, n];
    gone.sort_unstable();
    assert_eq!((dropped(&other, "main"), rows(&other, "main")), (gone, vec![vec![int(1), int(1)]]));
}

#[test]
fn what_is_taken_back_on_one_branch_merges_with_another() {
    let text_of = |outcome: Result<MergeOutcome>| outcome.map_err(|error| error.to_string());
    let merge =
        |database: &Database, theirs: &Hash| text_of(database.merge("main", theirs, MergeOptions::default()));
    // The adding of a column is taken back, and the other branch writes rows: it is gone on both, unless they filled it in.
    for (row, expected) in [([int(2), int(2), int(7)], true), ([int(1), int(1), int(9)], false)] {
        let database = database(&[("a", Type::Int)]);
        write(&database, "main", &[&[int(1), int(1)]]);
        commit(&database, "main");
        change(&database, "main", add_n);
        let added = commit(&database, "main");
        database.create_branch("side", Some(added)).unwrap();
        write(&database, "side", &[&row]);
        let side = commit(&database, "side");
        revert(&database, "main", &added).unwrap();
        let outcome = merge(&database, &side);
        if expected {
            assert!(matches!(outcome, Ok(MergeOutcome::Merged { .. })), "{outcome:?}");
            assert_eq!(rows(&database, "main"), [[int(1), int(1)], [int(2), int(2)]]);
            // The side has it dropped too, when it takes that over.
            let head = database.branch("main").unwrap().unwrap().head.unwrap();
            database.merge("side", &head, MergeOptions::default()).unwrap();
            assert_eq!(names(&database, "side"), ["id", "a"]);
        } else {
            let refused = outcome.unwrap_err();
            assert!(refused.contains("was dropped on one side"), "{refused}");
        }
    }
    // The dropping of one is taken back, and the other branch writes rows without it: it is there again.
    for swapped in [false, true] {
        let database = database(&[("a", Type::Int), ("b", Type::Int)]);
        write(&database, "main", &[&[int(1), int(1), int(5)]]);
        commit(&database, "main");
        change(&database, "main", |transaction| transaction.drop_column("t", "b"));
        let dropped_b = commit(&database, "main");
        database.create_branch("side", Some(dropped_b)).unwrap();
        let (back, writes) = if swapped { ("side", "main") } else { ("main", "side") };
        write(&database, writes, &[&[int(2), int(2)]]);
        commit(&database, writes);
        revert(&database, back, &dropped_b).unwrap();
        assert_eq!(names(&database, back), ["id", "a", "b"]);
        let side = database.branch("side").unwrap().unwrap().head.unwrap();
        merge(&database, &side).unwrap();
        assert_eq!(rows(&database, "main"), [[int(1), int(1), int(5)], [int(2), int(2), Value::Null]]);
        assert_eq!(dropped(&database, "main"), [0_u32; 0]);
    }
}
