//! Import of a file's rows into a typed table: one transaction, nothing by halves.
//!
//! The file is read twice when the table is new (its types, then its rows) and its rows are held sorted in memory. They are
//! then joined with the table's rows in key order, so that a row that is there already is no change. A refusal names the
//! line, which a further reading finds again: rows do not carry their places for an error that is rare.

use std::iter::Peekable;
use std::ops::Bound;
use std::path::Path;

use pleach_engine::row::{Schema, Type};
use pleach_engine::{NewCommit, Scan, Table, Transaction};

use super::{Session, history, rows};
use crate::error::{Failure, Result};
use crate::proto::{self, CommitResponse, ImportMode, ImportResponse, ImportStart};
use crate::tabular::{self, Source, TabularError};

/// Below one file row for so many table rows, rows are looked up one by one and not by a scan.
const ROWS_SCANNED_FOR_A_LOOKUP: u64 = 32;

/// A row of the file as it is stored.
struct Entry {
    key: Vec<u8>,
    value: Vec<u8>,
    line: u64,
}

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
    let entries = read(source, &schema)?;
    let mut import = Import { start, source, schema, transaction, done: ImportResponse::default() };
    match &table {
        None => {
            import.transaction.create_table(&start.table, Some(import.schema.clone()))?;
            import.done.inserted = entries.len() as u64;
            import.transaction.load(&start.table, entries.iter().map(|entry| (&entry.key, &entry.value)))?;
        }
        Some(table) => import.join(table, entries)?,
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

/// The file's rows in key order, each key once.
fn read(source: &Source, schema: &Schema) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for row in tabular::rows(source, schema)? {
        let row = row?;
        let (key, value) =
            schema.encode_row(&row.values).map_err(|error| row.refuse(source, schema, error))?;
        entries.push(Entry { key, value, line: row.line });
    }
    entries.sort_by(|a, b| (&a.key, a.line).cmp(&(&b.key, b.line)));
    let repeated = entries.windows(2).filter_map(|pair| match pair {
        [first, second] if first.key == second.key => Some((second.line, first.line)),
        _ => None,
    });
    match repeated.min() {
        Some((line, first)) => Err(duplicate(source, schema, line, Some(first))),
        None => Ok(entries),
    }
}

/// The refusal of the row on `line`, whose key is taken: by the row on line `first`, or by the table.
fn duplicate(source: &Source, schema: &Schema, line: u64, first: Option<u64>) -> Failure {
    let row = || -> std::result::Result<Option<tabular::Row>, TabularError> {
        tabular::rows(source, schema)?
            .find(|row| row.as_ref().map_or(true, |row| row.line == line))
            .transpose()
    };
    match row() {
        Ok(Some(row)) => row.duplicate_key(source, schema, first).into(),
        Ok(None) => Failure::refused(format!("{} changed while it was read", source.name()))
            .hint("run the import again when nobody writes to the file"),
        Err(error) => error.into(),
    }
}

/// An import into a table that has rows.
struct Import<'a> {
    start: &'a ImportStart,
    source: &'a Source,
    schema: Schema,
    transaction: Transaction,
    done: ImportResponse,
}

impl Import<'_> {
    fn join(&mut self, table: &Table, entries: Vec<Entry>) -> Result<()> {
        let replaces = self.start.mode() == ImportMode::Replace;
        let looks_up = (entries.len() as u64).saturating_mul(ROWS_SCANNED_FOR_A_LOOKUP) < table.rows()?;
        if looks_up && !replaces {
            let mut taken = Vec::new();
            for entry in entries {
                let old = table.get(&entry.key)?;
                self.put(entry, old.as_deref(), &mut taken)?;
            }
            return self.refuse(taken);
        }
        let from = match entries.first() {
            Some(first) if !replaces => Bound::Included(first.key.clone()),
            _ => Bound::Unbounded,
        };
        let to = match entries.last() {
            Some(last) if !replaces => Bound::Included(last.key.clone()),
            _ => Bound::Unbounded,
        };
        if entries.is_empty() && !replaces {
            return Ok(());
        }
        let mut old =
            table.scan(from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice))?.peekable();
        let mut taken = Vec::new();
        for entry in entries {
            self.pass(&mut old, Some(&entry.key), replaces)?;
            let equal =
                old.next_if(|row| row.as_ref().map_or(true, |(key, _)| *key == entry.key)).transpose()?;
            self.put(entry, equal.as_ref().map(|(_, value)| value.as_slice()), &mut taken)?;
        }
        self.pass(&mut old, None, replaces)?;
        self.refuse(taken)
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
            }
        }
        Ok(())
    }

    /// Puts a row where `old` is; the lines of rows whose key may not be taken are noted.
    fn put(&mut self, entry: Entry, old: Option<&[u8]>, taken: &mut Vec<u64>) -> Result<()> {
        let updates = matches!(self.start.mode(), ImportMode::Upsert | ImportMode::Replace);
        match old {
            Some(_) if !updates => {
                taken.push(entry.line);
                return Ok(());
            }
            Some(old) if old == entry.value => {
                self.done.unchanged += 1;
                return Ok(());
            }
            Some(_) => self.done.updated += 1,
            None => self.done.inserted += 1,
        }
        Ok(self.transaction.put(&self.start.table, &entry.key, &entry.value)?)
    }

    /// Refuses the first line of the file whose key is taken.
    fn refuse(&self, taken: Vec<u64>) -> Result<()> {
        match taken.into_iter().min() {
            Some(line) => Err(duplicate(self.source, &self.schema, line, None)),
            None => Ok(()),
        }
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
