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
