//! Bringing indexes along with the rows of their table.
//!
//! The changed rows between the roots before and after are read once; each takes an entry from an index, or gives it one, or
//! both. An index that is new is brought along from the empty map: so building and following are one thing. Of more entries than may be in memory
//! those that go are taken out first, in parts, and then those that come put in, so that a value may move from row to row.

use std::collections::BTreeMap;

use pleach_chunkstore::{Hash, Lease};

use super::IndexDefinition;
use crate::{
    catalogue::IndexEntry,
    chunks::{Read, Writer},
    error::{Error, Result},
    map::{
        self,
        config::KEY_BYTES_MAX,
        diff::{self, Diff, Range},
        edit::{self, Edit},
        node::{Tag, Value},
    },
    resolve,
    row::Schema,
};

/// A table whose indexes follow its rows.
#[derive(Clone, Copy)]
pub(crate) struct Indexed<'a> {
    pub(crate) table: &'a str,
    pub(crate) schema: &'a Schema,
}

/// An index on its way: its name and definition, and the entries that rows take from it and give it, by key.
struct Changes<'a> {
    name: &'a str,
    definition: IndexDefinition,
    /// The rows that had the entries.
    taken: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The rows that have them.
    given: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Brings indexes from the rows at `from` (`None`: no rows) to those at `to`.
///
/// # Errors
/// [`Error::UniqueViolation`], [`Error::IndexKeyTooLong`]; [`Error::Row`] if a row is no row of the schema.
pub(crate) fn follow<'a>(
    writer: &mut Writer,
    table: Indexed<'_>,
    indexes: impl IntoIterator<Item = (&'a String, &'a mut IndexEntry)>,
    from: Option<Hash>,
    to: Hash,
) -> Result<()> {
    let mut indexes: Vec<(Changes<'a>, &mut IndexEntry)> = indexes
        .into_iter()
        .map(|(name, entry)| {
            let definition = IndexDefinition::decode(&writer.chunk(&entry.definition)?)?;
            let (taken, given) = (BTreeMap::new(), BTreeMap::new());
            Ok((Changes { name, definition, taken, given }, entry))
        })
        .collect::<Result<_>>()?;
    if indexes.is_empty() || from == Some(to) {
        return Ok(());
    }
    let mut walk = Walk { table, from, to, lease: writer.store().lease() };
    // Two walks from an empty map would be one that finds nothing to take, and one that finds all.
    let first = if from.is_none() { Part::Given } else { Part::All };
    if walk.collect(writer, &mut indexes, first)? {
        return indexes.iter_mut().try_for_each(|(changes, entry)| changes.apply(writer, table, entry));
    }
    for part in [Part::Taken, Part::Given] {
        walk.collect(writer, &mut indexes, part)?;
        indexes.iter_mut().try_for_each(|(changes, entry)| changes.apply(writer, table, entry))?;
    }
    Ok(())
}

/// Which entries are collected.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    /// All, if they fit in memory.
    All,
    /// Those that rows give up; when there are many they are applied.
    Taken,
    /// Those that rows come to have; when there are many they are applied.
    Given,
}

/// The changed rows between two roots.
struct Walk<'a> {
    table: Indexed<'a>,
    from: Option<Hash>,
    to: Hash,
    /// The right to hold entries in memory.
    lease: Lease,
}

impl Walk<'_> {
    /// Collects entries; false, and none are there, if [`Part::All`] are too many.
    fn collect(
        &mut self,
        writer: &mut Writer,
        indexes: &mut [(Changes<'_>, &mut IndexEntry)],
        part: Part,
    ) -> Result<bool> {
        let Walk { table, from, to, .. } = *self;
        let mut meter = Some(diff::meter(writer.store(), [from, Some(to)], &Range::default())?);
        let mut bytes = 0;
        let mut after = None;
        loop {
            let reader: &Writer = writer;
            let range = Range { after: after.take(), until: None };
            let sides = (from.map(|from| (reader, from)), Some((reader, to)));
            let mut changed = Diff::between(sides.0, sides.1, &range)?.metered(meter.take());
            while let Some(change) = changed.next_change()? {
                let load = |side: &Option<Value>| {
                    side.as_ref().map(|value| resolve::load(reader, value)).transpose()
                };
                let (old, new) = (load(&change.old)?, load(&change.new)?);
                for (changes, _) in indexes.iter_mut() {
                    bytes += changes.row(table, &change.key, old.as_deref(), new.as_deref(), part)?;
                }
                if !self.lease.reach(bytes) {
                    after = Some(change.key);
                    break;
                }
            }
            meter = changed.into_meter();
            if after.is_none() {
                return Ok(true);
            }
            if part == Part::All {
                indexes.iter_mut().for_each(|(changes, _)| changes.clear());
                return Ok(false);
            }
            indexes.iter_mut().try_for_each(|(changes, entry)| changes.apply(writer, table, entry))?;
            self.lease.release();
            bytes = 0;
        }
    }
}

impl Changes<'_> {
    /// Takes up a changed row; returns the bytes that it takes here.
    fn row(
        &mut self,
        table: Indexed<'_>,
        key: &[u8],
        old: Option<&[u8]>,
        new: Option<&[u8]>,
        part: Part,
    ) -> Result<u64> {
        let entry = |value: Option<&[u8]>| match value {
            Some(value) => self.entry(table, key, value),
            None => Ok(None),
        };
        let (old, new) = (entry(old)?, entry(new)?);
        if old == new {
            return Ok(0);
        }
        let mut bytes = 0;
        if let Some(old) = old.filter(|_| part != Part::Given) {
            bytes += entry_bytes(&old, key);
            self.taken.insert(old, key.to_vec());
        }
        if let Some(new) = new.filter(|_| part != Part::Taken) {
            bytes += entry_bytes(&new, key);
            if let Some(other) = self.given.insert(new.clone(), key.to_vec()) {
                return Err(self.violation(table, &new, &other, key));
            }
        }
        Ok(bytes)
    }

    fn clear(&mut self) {
        self.taken.clear();
        self.given.clear();
    }

    /// The key of a row's entry; `None` if it has none.
    fn entry(&self, table: Indexed<'_>, key: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.definition.entry(table.schema, key, value)? {
            Some(entry) if entry.len() > KEY_BYTES_MAX => Err(Error::IndexKeyTooLong {
                table: table.table.to_owned(),
                index: self.name.to_owned(),
                row: describe_row(table, key),
                found: entry.len(),
                max: KEY_BYTES_MAX,
            }),
            entry => Ok(entry),
        }
    }

    /// Applies what was taken up to the index.
    fn apply(&mut self, writer: &mut Writer, table: Indexed<'_>, index: &mut IndexEntry) -> Result<()> {
        let root = index.root;
        let is_empty = map::size(writer, &root)?.0 == 0;
        if self.definition.unique && !is_empty {
            for (entry, row) in &self.given {
                // Whoever had an entry that is given anew either gave it up or has it still.
                if !self.taken.contains_key(entry)
                    && let Some(holder) = map::get(writer, &root, entry)?
                {
                    return Err(self.violation(table, entry, &holder.bytes, row));
                }
            }
        }
        let mut edits: BTreeMap<Vec<u8>, Option<Value>> =
            std::mem::take(&mut self.taken).into_keys().map(|entry| (entry, None)).collect();
        let unique = self.definition.unique;
        let value = |row| Value { tag: Tag::Inline, bytes: if unique { row } else { Vec::new() } };
        let given = std::mem::take(&mut self.given).into_iter();
        edits.extend(given.map(|(entry, row)| (entry, Some(value(row)))));
        let edits: Vec<_> = edits.into_iter().map(|(key, new)| Edit { key, new }).collect();
        index.root = edit::apply(writer, &self.definition.config, root, &edits)?;
        Ok(())
    }

    fn violation(&self, table: Indexed<'_>, entry: &[u8], one: &[u8], other: &[u8]) -> Error {
        let columns = &self.definition.columns;
        let values = table.schema.decode_values(columns, entry).map(|(values, _)| values);
        Error::UniqueViolation {
            table: table.table.to_owned(),
            index: self.name.to_owned(),
            key: table.schema.describe(columns, &values.unwrap_or_default()),
            rows: [describe_row(table, one), describe_row(table, other)],
        }
    }
}

/// What an entry is taken to need in memory, also as the edit that it becomes.
fn entry_bytes(entry: &[u8], row: &[u8]) -> u64 {
    (entry.len() + row.len() + 256) as u64
}

/// The key of a row, for people.
fn describe_row(table: Indexed<'_>, key: &[u8]) -> String {
    let values = table.schema.decode_key(key).unwrap_or_default();
    table.schema.describe(table.schema.key(), &values)
}
