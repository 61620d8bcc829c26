//! Typed tables through the database: changes of columns, merges of them and of cells, indexes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::{
    row::{Column, Type, Value},
    *,
};

mod columns;
mod indexes;
mod merges;

/// A schema whose first column, an int called `id`, is the key.
fn schema(columns: &[(&str, Type)]) -> Schema {
    let key = ("id", Type::Int);
    let all = std::iter::once(&key).chain(columns);
    let columns = all.zip(0..).map(|((name, ty), id)| Column { id, name: (*name).into(), ty: *ty });
    Schema::new(columns.collect(), vec![0]).unwrap()
}

fn int(n: i64) -> Value {
    Value::Int(n)
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

/// A database whose `main` has the typed table `t`.
fn database(columns: &[(&str, Type)]) -> Database {
    let database = Database::memory().unwrap();
    change(&database, "main", |transaction| transaction.create_table("t", Some(schema(columns))));
    database
}

/// One transaction that is committed.
fn change(database: &Database, branch: &str, f: impl FnOnce(&mut Transaction) -> Result<()>) {
    let mut transaction = database.begin(branch).unwrap();
    f(&mut transaction).unwrap();
    let outcome = transaction.commit().unwrap();
    assert!(!matches!(outcome, TransactionOutcome::Refused { .. }), "{outcome:?}");
}

fn put(transaction: &mut Transaction, table: &str, values: &[Value]) -> Result<()> {
    let schema = transaction.definition(table)?.unwrap().schema.unwrap();
    let (key, value) = schema.encode_row(values)?;
    transaction.put(table, &key, &value)
}

fn write(database: &Database, branch: &str, rows: &[&[Value]]) {
    change(database, branch, |transaction| rows.iter().try_for_each(|row| put(transaction, "t", row)));
}

fn commit(database: &Database, branch: &str) -> Hash {
    let new = NewCommit { message: "m".into(), date_micros: Some(1), ..NewCommit::default() };
    database.commit(branch, new).unwrap().hash
}

fn table(database: &Database, branch: &str) -> Table {
    let work = database.branch(branch).unwrap().unwrap().work;
    database.snapshot_of_root(work).unwrap().table("t").unwrap().unwrap()
}

fn names(database: &Database, branch: &str) -> Vec<String> {
    table(database, branch).schema().unwrap().columns().iter().map(|column| column.name.clone()).collect()
}

fn rows(database: &Database, branch: &str) -> Vec<Vec<Value>> {
    let table = table(database, branch);
    let scan = table.scan(std::ops::Bound::Unbounded, std::ops::Bound::Unbounded).unwrap();
    scan.map(|row| row.unwrap())
        .map(|(key, value)| table.schema().unwrap().decode_row(&key, &value).unwrap())
        .collect()
}

/// Commits `main`, changes it and a branch `side` made of it, and commits both; gives the head of `side`.
fn diverge(
    database: &Database,
    ours: impl FnOnce(&mut Transaction) -> Result<()>,
    theirs: impl FnOnce(&mut Transaction) -> Result<()>,
) -> Hash {
    let base = commit(database, "main");
    database.create_branch("side", Some(base)).unwrap();
    change(database, "main", ours);
    change(database, "side", theirs);
    commit(database, "main");
    commit(database, "side")
}
