//! Content of a map that bytes describe, for the targets that compare maps; and a database that has it, cut into small nodes.
//!
//! Input, as far as there are bytes, zeros behind: `u8` stretches of rows (at most 7), each `u8` where it begins, `u8` how many rows, `u8` how
//! far apart (bits 0 and 1) and how long the values are (the rest). Edits: `u8` how many (at most 31), each `u8` what
//! is done, in its lowest three bits, and to how many rows, 1 to 32, in the others; `u16` from which number on.

use std::collections::BTreeMap;
use std::ops::Bound;

use pleach_engine::{Database, Definition, Hash, MapConfig, Table, Transaction, TransactionOutcome};

pub type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

pub const TABLE: &str = "t";

/// Bytes that never end.
pub struct Bytes<'a>(pub &'a [u8]);

impl Bytes<'_> {
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    pub fn rows(&mut self) -> Rows {
        let mut rows = Rows::new();
        for _ in 0..self.byte() % 8 {
            let (from, count, form) = (u16::from(self.byte()) * 8, u16::from(self.byte()), self.byte());
            let apart = u16::from(form & 3) + 1;
            rows.extend((0..count).map(|n| (key(from + n * apart), value(form >> 2, n))));
        }
        rows
    }

    pub fn edits(&mut self) -> Vec<Edit> {
        (0..self.byte() % 32).map(|_| self.edit()).collect()
    }

    fn edit(&mut self) -> Edit {
        let (kind, from) = (self.byte(), u16::from_le_bytes([self.byte(), self.byte()]) % 2304);
        let (kind, count) = (kind & 7, u16::from(kind >> 3) + 1);
        let numbers = from..from + count;
        match kind {
            0 | 1 => Edit::Put(numbers.map(|n| (key(n), value(kind, n))).collect()),
            2 => Edit::Put(numbers.map(|n| (key(n * 3 % 2304), value(5, n))).collect()),
            // Keys that lie between those of numbers, and begin with them.
            3 => Edit::Put(numbers.map(|n| ([key(n), vec![0]].concat(), value(2, n))).collect()),
            4 => Edit::Delete(numbers.map(key).collect()),
            5 => Edit::Delete(numbers.map(|n| key(n * 3 % 2304)).collect()),
            6 => Edit::DeleteRange(key(from), key(from + count)),
            _ => Edit::DeleteRange(key(from), key(from + count * 32)),
        }
    }
}

fn key(number: u16) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

/// Long ones are kept out of line.
fn value(form: u8, number: u16) -> Vec<u8> {
    let len = if form == 63 { 80 } else { usize::from(form % 12) };
    vec![form ^ number as u8; len]
}

pub enum Edit {
    Put(Rows),
    Delete(Vec<Vec<u8>>),
    /// The keys from one to before another.
    DeleteRange(Vec<u8>, Vec<u8>),
}

impl Edit {
    pub fn apply(&self, rows: &mut Rows) {
        match self {
            Edit::Put(new) => rows.extend(new.clone()),
            Edit::Delete(keys) => keys.iter().for_each(|key| drop(rows.remove(key))),
            Edit::DeleteRange(from, to) => rows.retain(|key, _| key < from || key >= to),
        }
    }

    pub fn write(&self, transaction: &mut Transaction) {
        match self {
            Edit::Put(rows) => {
                rows.iter().for_each(|(key, value)| transaction.put(TABLE, key, value).expect("a row"));
            }
            Edit::Delete(keys) => {
                for key in keys {
                    let _was_there = transaction.delete(TABLE, key).expect("a table");
                }
            }
            Edit::DeleteRange(from, to) => {
                let (from, to) = (Bound::Included(from.as_slice()), Bound::Excluded(to.as_slice()));
                transaction.delete_range(TABLE, from, to).expect("a table");
            }
        }
    }
}

pub fn edited(rows: &Rows, edits: &[Edit]) -> Rows {
    let mut rows = rows.clone();
    edits.iter().for_each(|edit| edit.apply(&mut rows));
    rows
}

/// One transaction on a branch.
pub fn write(database: &Database, branch: &str, edit: impl FnOnce(&mut Transaction)) {
    let mut transaction = database.begin(branch).expect("a branch");
    edit(&mut transaction);
    match transaction.commit().expect("memory does not fail") {
        TransactionOutcome::Refused { .. } => panic!("nobody else writes"),
        TransactionOutcome::Committed(_) | TransactionOutcome::Unchanged(_) => {}
    }
}

/// A database whose `main` has these rows.
pub fn database(rows: &Rows) -> Database {
    let database = Database::memory().expect("a database");
    let config = MapConfig { leaf_mean: 8, inner_mean: 8, inline_bytes: 64, salt: 1 };
    write(&database, "main", |transaction| {
        transaction.create_table_with(TABLE, Definition { config, schema: None }).expect("a new table");
        transaction.load(TABLE, rows).expect("rows in order");
    });
    database
}

pub fn table(database: &Database, branch: &str) -> Table {
    let work = database.branch(branch).expect("refs").expect("a branch").work;
    let snapshot = database.snapshot_of_root(work).expect("what a ref names");
    snapshot.table(TABLE).expect("reads").expect("the table")
}

/// Checks that a table has these rows, and the root that they have when they are loaded.
pub fn check(table: &Table, rows: &Rows) {
    assert_eq!(table.root(), root(rows));
    let found = table.scan(Bound::Unbounded, Bound::Unbounded).expect("reads");
    assert!(found.map(|row| row.expect("reads")).eq(rows.clone()));
}

fn root(rows: &Rows) -> Hash {
    table(&database(rows), "main").root()
}
