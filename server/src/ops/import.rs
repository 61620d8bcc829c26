//! Import of a file's rows into a typed table: one transaction, nothing by halves, in bounded memory whatever the file's length.
//!
//! The file is read twice when the table is new (its types, then its rows). Its rows are loaded into the transaction, which sorts them in
//! parts. If the table has rows, what was loaded is taken back, and joined with these in key order, so that a row that is there
//! already is no change. A refusal names the line, which a further reading finds again: rows do not carry their places for an
//! error that is rare.

use std::iter::Peekable;
use std::ops::Bound;
use std::path::Path;

use pleach_engine::row::{Schema, Type};
use pleach_engine::{Hash, LoadOptions, NewCommit, Scan, Table, Transaction};

use super::{Session, history, rows};
use crate::error::{Failure, Result};
use crate::proto::{self, CommitResponse, ImportMode, ImportResponse, ImportStart};
use crate::tabular::{self, Source, TabularError};

/// Below one file row for so many table rows, rows are looked up one by one and not by a scan.
const ROWS_SCANNED_FOR_A_LOOKUP: u64 = 32;

/// Edits that are held in memory, bytes; more are written ahead. A row's takes some bytes beside its key and value.
const EDIT_BYTES_MAX: usize = 32 << 20;
const EDIT_BYTES: usize = 100;

const ALL: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Unbounded, Bound::Unbounded);

/// Imports all rows of `source`.
pub fn import(session: &Session, start: &ImportStart, source: &Source) -> Result<ImportResponse> {
    let branch = session.branch()?;
    let transaction = session.database.begin(branch)?;
    let table = transaction.snapshot().table(&start.table)?;
    let schema = match &table {
        Some(table) => existing_schema(start, table)?,
        None => {
            check_key(&start.key)?;
            tabular::infer(source, &start.key, &types(start)?)?
        }
    };
    let mut import = Import { start, source, schema, transaction, held: 0, done: ImportResponse::default() };
    match &table {
        None => {
            session.create_table(&mut import.transaction, &start.table, Some(import.schema.clone()))?;
            import.done.inserted = import.load()?;
        }
        Some(table) => import.join(table)?,
    }
    let Import { transaction, mut done, .. } = import;
    done.token = rows::finish(transaction)?;
    if let Some(message) = &start.commit {
        done.commit = commit(session, branch, message, &start.author)?;
    }
    if let Some(commit) = &done.commit {
        done.token.clone_from(&commit.token);
    }
    Ok(done)
}

/// The version commit afterwards; none when the work equals the head.
fn commit(session: &Session, branch: &str, message: &str, author: &str) -> Result<Option<CommitResponse>> {
    let new =
        NewCommit { message: message.to_owned(), author: history::author(author), ..NewCommit::default() };
    match session.database.commit(branch, new) {
        Ok(made) => Ok(Some(history::committed(branch, &made))),
        Err(pleach_engine::Error::NothingToCommit { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The schema of a table that is there, which the flags may repeat but not change.
fn existing_schema(start: &ImportStart, table: &Table) -> Result<Schema> {
    let name = &start.table;
    let Some(schema) = table.schema() else {
        return Err(Failure::refused(format!(
            "table `{name}` holds raw keys and values: import needs a typed table"
        ))
        .hint(format!("import into another table, or drop this one first: `pleach table drop {name}`")));
    };
    let key: Vec<&str> = schema.key_columns().map(|column| column.name.as_str()).collect();
    if !start.key.is_empty() && start.key != key {
        return Err(Failure::refused(format!(
            "--key: expected {}, the key of table `{name}`, found {}",
            key.join(","),
            start.key.join(",")
        ))
        .hint("leave --key out: an existing table keeps its key"));
    }
    for (column, ty) in types(start)? {
        match schema.column(&column) {
            Some(known) if known.ty == ty => {}
            Some(known) => {
                return Err(Failure::refused(format!(
                    "--types: expected {column}={}, as in table `{name}`, found {ty}",
                    known.ty
                ))
                .hint("leave --types out: an existing table keeps its types"));
            }
            None => {
                return Err(Failure::refused(format!("--types: table `{name}` has no column `{column}`"))
                    .hint(format!("`pleach table show {name}` lists its columns")));
            }
        }
    }
    Ok(schema.clone())
}

fn types(start: &ImportStart) -> Result<Vec<(String, Type)>> {
    let parse = |(column, ty): (&String, &String)| match ty.parse::<Type>() {
        Ok(ty) => Ok((column.clone(), ty)),
        Err(error) => Err(Failure::usage(format!("--types: {column}: {error}"))),
    };
    start.types.iter().map(parse).collect()
}

/// Refuses a `--key` that cannot be one, before the file is read.
fn check_key(key: &[String]) -> Result<()> {
    match key.iter().enumerate().find(|(i, column)| key[..*i].contains(column)) {
        Some((_, column)) => {
            Err(Failure::usage(format!("--key names `{column}` twice")).hint("name each key column once"))
        }
        None => Ok(()),
    }
}

/// The refusal of the row on `line`, whose key the row on line `first` has.
fn duplicate(source: &Source, schema: &Schema, line: u64, first: u64) -> Failure {
    let row = || -> std::result::Result<Option<tabular::Row>, TabularError> {
        tabular::rows(source, schema)?
            .find(|row| row.as_ref().map_or(true, |row| row.line == line))
            .transpose()
    };
    match row() {
        Ok(Some(row)) => row.duplicate_key(source, schema, Some(first)).into(),
        Ok(None) => changed(source),
        Err(error) => error.into(),
    }
}

/// The refusal of a file of which a further reading gives something else.
fn changed(source: &Source) -> Failure {
    Failure::refused(format!("{} changed while it was read", source.name()))
        .hint("run the import again when nobody writes to the file")
}

fn unsorted() -> LoadOptions {
    LoadOptions { unsorted: true, ..LoadOptions::default() }
}

struct Import<'a> {
    start: &'a ImportStart,
    source: &'a Source,
    schema: Schema,
    transaction: Transaction,
    /// What the edits not written ahead take, bytes.
    held: usize,
    done: ImportResponse,
}

impl Import<'_> {
    /// Makes the table's rows those of the file, each key once; returns how many.
    fn load(&mut self) -> Result<u64> {
        let Import { start, source, schema, .. } = self;
        let (mut read, mut failure) = (0, None);
        let encoded = |row: tabular::Row| match schema.encode_row(&row.values) {
            Ok(row) => Ok(row),
            Err(error) => Err(row.refuse(source, schema, error)),
        };
        let rows = tabular::rows(source, schema)?.map_while(|row| match row.and_then(encoded) {
            Ok(row) => {
                read += 1;
                Some(row)
            }
            Err(error) => {
                failure = Some(error);
                None
            }
        });
        self.transaction.load_with(&start.table, rows, &unsorted())?;
        if let Some(error) = failure {
            return Err(error.into());
        }
        match self.transaction.rows(&start.table)? {
            loaded if loaded < read => Err(self.repeated()?),
            loaded => Ok(loaded),
        }
    }

    /// The refusal of the first row of the file whose key a row before it has.
    fn repeated(&mut self) -> Result<Failure> {
        let Import { start, source, schema, .. } = self;
        // Sorted by key, as hashes that leave room for the line. What is loaded is not committed.
        let lines = tabular::rows(source, schema)?.map_while(|row| {
            let row = row.ok()?;
            let (key, _) = schema.encode_row(&row.values).ok()?;
            Some(([Hash::of(&key).as_bytes().as_slice(), &row.line.to_be_bytes()].concat(), []))
        });
        self.transaction.load_with(&start.table, lines, &unsorted())?;
        let (mut before, mut least) = (None, None);
        for row in self.transaction.scan(&start.table, ALL.0, ALL.1)? {
            let (entry, _) = row?;
            let Some((key, line)) = entry.split_last_chunk::<8>() else { continue };
            let line = u64::from_be_bytes(*line);
            if let Some((last, first)) = before.replace((key.to_vec(), line))
                && last == key
            {
                let pair = (line, first);
                least = Some(least.map_or(pair, |least: (u64, u64)| least.min(pair)));
            }
        }
        Ok(match least {
            Some((line, first)) => duplicate(source, schema, line, first),
            None => changed(source),
        })
    }

    /// Imports into a table that is there.
    fn join(&mut self, table: &Table) -> Result<()> {
        let before = self.transaction.savepoint();
        let count = self.load()?;
        let name = &self.start.table;
        let entries = self.transaction.scan(name, ALL.0, ALL.1)?;
        let mut ends = self.transaction.scan(name, ALL.0, ALL.1)?;
        self.transaction.rollback_to(&before)?;
        self.transaction.release(before)?;

        let replaces = self.start.mode() == ImportMode::Replace;
        if count.saturating_mul(ROWS_SCANNED_FOR_A_LOOKUP) < table.rows()? && !replaces {
            for entry in entries {
                let (key, value) = entry?;
                let old = table.get(&key)?;
                self.put(table, &key, &value, old.as_deref())?;
            }
            return Ok(());
        }
        let first = ends.next().transpose()?.map(|(key, _)| key);
        let last = ends.next_back().transpose()?.map_or_else(|| first.clone(), |(key, _)| Some(key));
        let (from, to) = match (&first, &last) {
            _ if replaces => ALL,
            (Some(first), Some(last)) => {
                (Bound::Included(first.as_slice()), Bound::Included(last.as_slice()))
            }
            _ => return Ok(()),
        };
        let mut old = table.scan(from, to)?.peekable();
        for entry in entries {
            let (key, value) = entry?;
            self.pass(&mut old, Some(&key), replaces)?;
            let equal = old.next_if(|row| row.as_ref().map_or(true, |(old, _)| *old == key)).transpose()?;
            self.put(table, &key, &value, equal.as_ref().map(|(_, value)| value.as_slice()))?;
        }
        self.pass(&mut old, None, replaces)
    }

    /// Goes over the table's rows below `key`, which the file does not have.
    fn pass(&mut self, old: &mut Peekable<Scan>, key: Option<&Vec<u8>>, deletes: bool) -> Result<()> {
        if key.is_none() && !deletes {
            return Ok(());
        }
        let is_below = |row: &pleach_engine::Result<(Vec<u8>, Vec<u8>)>| match (row, key) {
            (Ok((row, _)), Some(key)) => row < key,
            _ => true,
        };
        while let Some(row) = old.next_if(is_below) {
            let (key, _) = row?;
            if deletes {
                self.transaction.delete(&self.start.table, &key)?;
                self.done.deleted += 1;
                self.hold(key.len())?;
            }
        }
        Ok(())
    }

    /// Puts a row where `old` is; refuses if its key may not be taken.
    fn put(&mut self, table: &Table, key: &[u8], value: &[u8], old: Option<&[u8]>) -> Result<()> {
        let updates = matches!(self.start.mode(), ImportMode::Upsert | ImportMode::Replace);
        match old {
            Some(_) if !updates => return Err(self.taken(table)?),
            Some(old) if old == value => {
                self.done.unchanged += 1;
                return Ok(());
            }
            Some(_) => self.done.updated += 1,
            None => self.done.inserted += 1,
        }
        self.transaction.put(&self.start.table, key, value)?;
        self.hold(key.len() + value.len())
    }

    /// Counts an edit, and has all written ahead when there are many.
    fn hold(&mut self, bytes: usize) -> Result<()> {
        self.held += bytes + EDIT_BYTES;
        if self.held > EDIT_BYTES_MAX {
            self.held = 0;
            let _rows = self.transaction.rows(&self.start.table)?;
        }
        Ok(())
    }

    /// The refusal of the first row of the file whose key the table has.
    fn taken(&self, table: &Table) -> Result<Failure> {
        for row in tabular::rows(self.source, &self.schema)? {
            let row = row?;
            let key = self.schema.encode_row(&row.values).map(|(key, _)| key);
            if let Ok(key) = key
                && table.get_with(&key, |_| ())?.is_some()
            {
                return Ok(row.duplicate_key(self.source, &self.schema, None).into());
            }
        }
        Ok(changed(self.source))
    }
}

/// The format that a request names, else the one that the file's name says.
pub fn format(start: &ImportStart) -> tabular::Format {
    match start.format() {
        proto::Format::Unspecified => tabular::Format::of_path(Path::new(&start.file)),
        proto::Format::Csv => tabular::Format::Csv,
        proto::Format::Tsv => tabular::Format::Tsv,
        proto::Format::Jsonl => tabular::Format::Jsonl,
    }
}
