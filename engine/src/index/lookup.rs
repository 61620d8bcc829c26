//! Reading an index: the keys of the rows that have given values, or values in a range.

use std::ops::Bound;

use pleach_chunkstore::{Hash, Store};

use super::IndexDefinition;
use crate::{
    catalogue::IndexEntry,
    chunks::Read,
    error::{Error, Result},
    map::{cursor::Rows, node::Tag},
    row::{Schema, Value},
    snapshot::Table,
};

/// A read-only view of one index. It owns its snapshot.
#[derive(Clone)]
pub struct Index {
    store: Store,
    schema: Schema,
    entry: IndexEntry,
    definition: IndexDefinition,
}

impl Index {
    pub(crate) fn load(store: &Store, schema: &Schema, entry: IndexEntry) -> Result<Index> {
        let definition = IndexDefinition::decode(&store.chunk(&entry.definition)?)?;
        Ok(Index { store: store.clone(), schema: schema.clone(), entry, definition })
    }

    /// What the index is.
    pub fn definition(&self) -> &IndexDefinition {
        &self.definition
    }

    /// The address of its root: equal rows, equal roots.
    pub fn root(&self) -> Hash {
        self.entry.root
    }

    /// The key of the row that has these values in the index columns, or the first of the keys of such rows.
    ///
    /// # Errors
    /// [`Error::Row`](crate::Error::Row) if there are more values than columns or one does not fit; the store's.
    pub fn get(&self, values: &[Value]) -> Result<Option<Vec<u8>>> {
        self.scan(values)?.next().transpose()
    }

    /// The keys of all rows that have these values in the first index columns, in the order of the index; of all rows, if there
    /// are no values. Rows with NULL in an index column are not in a unique index.
    ///
    /// # Errors
    /// As of [`Index::get`].
    pub fn scan(&self, values: &[Value]) -> Result<IndexScan> {
        self.scan_range(Bound::Included(values), Bound::Included(values))
    }

    /// The keys of the rows whose values in the index columns are in a range, in the order of the index. A bound of fewer values
    /// than there are columns stands for all that begin with them.
    ///
    /// # Errors
    /// As of [`Index::get`].
    pub fn scan_range(&self, from: Bound<&[Value]>, to: Bound<&[Value]>) -> Result<IndexScan> {
        let encode = |values: &[Value]| self.schema.encode_values(&self.definition.columns, values);
        let from = match from {
            Bound::Unbounded => Bound::Unbounded,
            Bound::Included(values) => Bound::Included(encode(values)?),
            Bound::Excluded(values) => match after(encode(values)?) {
                Some(key) => Bound::Included(key),
                // Nothing is after all.
                None => return self.rows(Bound::Unbounded, Bound::Excluded(Vec::new())),
            },
        };
        let to = match to {
            Bound::Unbounded => Bound::Unbounded,
            Bound::Excluded(values) => Bound::Excluded(encode(values)?),
            Bound::Included(values) => after(encode(values)?).map_or(Bound::Unbounded, Bound::Excluded),
        };
        self.rows(from, to)
    }

    fn rows(&self, from: Bound<Vec<u8>>, to: Bound<Vec<u8>>) -> Result<IndexScan> {
        let bounds = (from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice));
        let rows = Rows::new(self.store.clone(), &self.entry.root, bounds.0, bounds.1)?;
        let (schema, columns) = (self.schema.clone(), self.definition.columns.clone());
        Ok(IndexScan { root: self.entry.root, rows, unique: self.definition.unique, schema, columns })
    }
}

/// The least key above all that begin with `prefix`; `None` if there is none.
fn after(mut prefix: Vec<u8>) -> Option<Vec<u8>> {
    while let Some(last) = prefix.pop() {
        if let Some(next) = last.checked_add(1) {
            prefix.push(next);
            return Some(prefix);
        }
    }
    None
}

/// Keys of rows in the order of an index. Owns its snapshot.
pub struct IndexScan {
    root: Hash,
    rows: Rows<Store>,
    unique: bool,
    schema: Schema,
    columns: Vec<u32>,
}

impl Iterator for IndexScan {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        let (entry, value) = match self.rows.next_row() {
            Ok(row) => row?,
            Err(error) => return Some(Err(error)),
        };
        if self.unique {
            return Some(match value.tag {
                Tag::Inline => Ok(value.bytes.to_vec()),
                Tag::Blob | Tag::Links => {
                    Err(Error::malformed(&self.root, "expected the keys of rows as values"))
                }
            });
        }
        let row = self.schema.decode_values(&self.columns, entry).map(|(_, row)| row.to_vec());
        Some(row.map_err(Into::into))
    }
}

impl Table {
    /// The index called `name`; `None` if there is none.
    ///
    /// # Errors
    /// The store's.
    pub fn index(&self, name: &str) -> Result<Option<Index>> {
        let Some(schema) = self.schema() else { return Ok(None) };
        let entry = self.index_entry(name)?;
        entry.map(|entry| Index::load(self.store(), schema, entry)).transpose()
    }

    /// All indexes of the table, by name.
    ///
    /// # Errors
    /// The store's.
    pub fn indexes(&self) -> Result<Vec<(String, Index)>> {
        let Some(schema) = self.schema() else { return Ok(Vec::new()) };
        let entries = self.index_entries()?.into_iter();
        entries.map(|(name, entry)| Ok((name, Index::load(self.store(), schema, entry)?))).collect()
    }
}
