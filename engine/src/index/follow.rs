//! Bringing indexes along with the rows of their table.
//!
//! The changed rows between the roots before and after are read once; each takes an entry from an index, or gives it one, or
//! both. These are sorted, in parts if they are many, and applied in the order of the index: so each of its leaves is written once, however many they are, and a
//! value may move from row to row. An index that is new is brought along from the empty map: building and following are one thing.

use pleach_chunkstore::{Hash, Lease};

use super::IndexDefinition;
use crate::{
    catalogue::IndexEntry,
    chunks::{Read, Writer},
    error::{Error, Result},
    map::{
        self,
        config::{KEY_BYTES_MAX, MapConfig},
        diff::{self, Diff, Range},
        edit::{self, Edit},
        node::{Stored, Tag, Value},
        sort::Sorter,
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

/// An index on its way: its name and definition, and the entries that rows take from it and give it.
struct Changes<'a> {
    name: &'a str,
    definition: IndexDefinition,
    /// By entry, in the order of rows: whether it is given, and the row's key.
    entries: Sorter,
}

/// What an edit is taken to need in memory beside its bytes.
const EDIT_BYTES: usize = 128;
/// In the sorter, before a row's key.
const TAKEN: u8 = 0;
const GIVEN: u8 = 1;

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
            let entries = Sorter::of_all(writer.store());
            Ok((Changes { name, definition, entries }, entry))
        })
        .collect::<Result<_>>()?;
    if indexes.is_empty() || from == Some(to) {
        return Ok(());
    }
    let reader: &Writer = writer;
    let meter = diff::meter(reader.store(), [from, Some(to)], &Range::default())?;
    let sides = (from.map(|from| (reader, from)), Some((reader, to)));
    for change in Diff::between(sides.0, sides.1, &Range::default())?.metered(Some(meter)) {
        let change = change?;
        let load = |side: &Option<Value>| side.as_ref().map(|value| resolve::load(reader, value)).transpose();
        let (old, new) = (load(&change.old)?, load(&change.new)?);
        for (changes, _) in &mut indexes {
            changes.row(table, &change.key, old.as_deref(), new.as_deref())?;
        }
    }
    indexes.into_iter().try_for_each(|(changes, entry)| changes.apply(writer, table, entry))
}

impl Changes<'_> {
    /// Takes up a changed row.
    fn row(&mut self, table: Indexed<'_>, key: &[u8], old: Option<&[u8]>, new: Option<&[u8]>) -> Result<()> {
        let entry = |value: Option<&[u8]>| match value {
            Some(value) => self.entry(table, key, value),
            None => Ok(None),
        };
        let (old, new) = (entry(old)?, entry(new)?);
        if old == new {
            return Ok(());
        }
        for (entry, kind) in [(old, TAKEN), (new, GIVEN)] {
            if let Some(entry) = entry {
                let row = [&[kind], key].concat();
                self.entries.push(&entry, Stored { tag: Tag::Inline, bytes: &row })?;
            }
        }
        Ok(())
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
    fn apply(self, writer: &mut Writer, table: Indexed<'_>, index: &mut IndexEntry) -> Result<()> {
        let Changes { name, definition, entries } = self;
        let was = index.root;
        let mut edits = Edits {
            config: definition.config,
            index,
            edits: Vec::new(),
            bytes: 0,
            lease: writer.store().lease(),
        };
        let is_empty = map::size(writer, &was)?.0 == 0;
        let mut group = Group::default();
        let unique = definition.unique;
        let violation =
            |entry: &[u8], one: &[u8], other: &[u8]| violation(table, name, &definition, entry, one, other);
        let mut end = |writer: &mut Writer, group: &mut Group| {
            let Group { entry, is_taken, given } = std::mem::take(group);
            // Whoever had an entry that is given anew either gave it up or has it still.
            if let (Some(row), false, true, false) = (&given, is_taken, unique, is_empty)
                && let Some(holder) = map::get(writer, &was, &entry)?
            {
                return Err(violation(&entry, &holder.bytes, row));
            }
            let value = |row| Value { tag: Tag::Inline, bytes: if unique { row } else { Vec::new() } };
            edits.push(writer, entry, given.map(value))
        };
        entries.finish(|entry, row| {
            let Some((kind, row)) = row.bytes.split_first() else { return Ok(()) };
            if group.is_begun() && group.entry != entry {
                end(writer, &mut group)?;
            }
            group.entry = entry.to_vec();
            match *kind {
                TAKEN => group.is_taken = true,
                _ => {
                    if let Some(other) = group.given.replace(row.to_vec()) {
                        return Err(violation(entry, &other, row));
                    }
                }
            }
            Ok(())
        })?;
        if group.is_begun() {
            end(writer, &mut group)?;
        }
        edits.apply(writer)
    }
}

/// What rows do to one entry.
#[derive(Default)]
struct Group {
    entry: Vec<u8>,
    is_taken: bool,
    /// The row that comes to have it.
    given: Option<Vec<u8>>,
}

impl Group {
    fn is_begun(&self) -> bool {
        self.is_taken || self.given.is_some()
    }
}

/// Edits of an index, in order, which are applied when there are as many as may be held.
struct Edits<'a> {
    config: MapConfig,
    index: &'a mut IndexEntry,
    edits: Vec<Edit<Value>>,
    bytes: u64,
    lease: Lease,
}

impl Edits<'_> {
    fn push(&mut self, writer: &mut Writer, key: Vec<u8>, new: Option<Value>) -> Result<()> {
        self.bytes += (key.len() + new.as_ref().map_or(0, |new| new.bytes.len()) + EDIT_BYTES) as u64;
        self.edits.push(Edit { key, new });
        if self.lease.reach(self.bytes) { Ok(()) } else { self.apply(writer) }
    }

    fn apply(&mut self, writer: &mut Writer) -> Result<()> {
        self.index.root = edit::apply(writer, &self.config, self.index.root, &self.edits)?;
        self.edits.clear();
        self.bytes = 0;
        Ok(())
    }
}

fn violation(
    table: Indexed<'_>,
    index: &str,
    definition: &IndexDefinition,
    entry: &[u8],
    one: &[u8],
    other: &[u8],
) -> Error {
    let columns = &definition.columns;
    let values = table.schema.decode_values(columns, entry).map(|(values, _)| values);
    Error::UniqueViolation {
        table: table.table.to_owned(),
        index: index.to_owned(),
        key: table.schema.describe(columns, &values.unwrap_or_default()),
        rows: [describe_row(table, one), describe_row(table, other)],
    }
}

/// The key of a row, for people.
fn describe_row(table: Indexed<'_>, key: &[u8]) -> String {
    let values = table.schema.decode_key(key).unwrap_or_default();
    table.schema.describe(table.schema.key(), &values)
}
