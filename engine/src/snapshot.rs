//! Read-only views: a branch's root, its tables, and the differences between two roots.
//!
//! A snapshot owns what it reads from, so that it and its iterators can be kept, and sent to other threads, as long as
//! wanted: its handle of the store is pinned to its root, and everything made from it has a clone of that handle.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    ops::{Bound, Range},
};

use pleach_chunkstore::{Hash, Store};

use crate::{
    blob::{self, ValueReader},
    catalogue::{self, IndexEntry, TableEntry},
    chunks::{self, Read},
    definition::Definition,
    error::Result,
    index,
    map::{
        self,
        cursor::Rows,
        diff::{self, Changed, Counts, Diff, RowChange},
        node::{Stored, Tag, Value},
        range::KeyRange,
        rank,
    },
    row::Schema,
    sample::Sample,
};

/// A read-only view of one root of a branch.
#[derive(Clone)]
pub struct Snapshot {
    store: Store,
    root: Hash,
}

impl Snapshot {
    /// A view of `root`, which stays as long as the view or anything made from it.
    ///
    /// # Errors
    /// [`Error::Missing`](crate::Error::Missing).
    pub(crate) fn new(store: &Store, root: Hash) -> Result<Snapshot> {
        Ok(Snapshot { store: chunks::pin(store, &root)?, root })
    }

    /// The store, by a handle that keeps what is viewed.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// The root that is viewed.
    pub fn root(&self) -> Hash {
        self.root
    }

    /// All tables, by name.
    ///
    /// # Errors
    /// The store's.
    pub fn tables(&self) -> Result<Vec<(String, Table)>> {
        let entries = catalogue::tables(&self.store, &self.root)?;
        entries
            .into_iter()
            .map(|(name, entry)| {
                let table = Table::load(&self.store, self.root, &name, entry)?;
                Ok((name, table))
            })
            .collect()
    }

    /// The table called `name`; `None` if there is none.
    ///
    /// # Errors
    /// The store's.
    pub fn table(&self, name: &str) -> Result<Option<Table>> {
        let entry = catalogue::table(&self.store, &self.root, name)?;
        entry.map(|entry| Table::load(&self.store, self.root, name, entry)).transpose()
    }

    /// The tables that differ between this root and `to`, by name: in their rows, their definition or their indexes. Equal tables are
    /// not opened.
    ///
    /// # Errors
    /// The store's.
    pub fn diff(&self, to: &Snapshot) -> Result<Vec<TableDiff>> {
        let sides = || ((&self.store, self.root), (&to.store, to.root));
        let (before, after) = sides();
        let mut tables = index::reindexed(before, after)?;
        let (before, after) = sides();
        for table in catalogue::changed_tables(before, after, None)? {
            tables.insert(table?);
        }
        let diff = |table: String| {
            let (from, to) = (self.table(&table)?, to.table(&table)?);
            Ok(TableDiff { table, from, to })
        };
        tables.into_iter().map(diff).collect()
    }
}

/// A read-only view of one table.
#[derive(Clone)]
pub struct Table {
    store: Store,
    /// The root of the catalogue that has it.
    catalogue: Hash,
    name: String,
    entry: TableEntry,
    definition: Definition,
}

impl Table {
    pub(crate) fn load(store: &Store, catalogue: Hash, name: &str, entry: TableEntry) -> Result<Table> {
        let definition = Definition::decode(&store.chunk(&entry.definition)?)?;
        Ok(Table { store: store.clone(), catalogue, name: name.to_owned(), entry, definition })
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn index_entry(&self, name: &str) -> Result<Option<IndexEntry>> {
        catalogue::index(&self.store, &self.catalogue, &self.name, name)
    }

    pub(crate) fn index_entries(&self) -> Result<BTreeMap<String, IndexEntry>> {
        catalogue::indexes(&self.store, &self.catalogue, &self.name)
    }

    /// What the table is.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// The columns; `None` in a raw key-value table.
    pub fn schema(&self) -> Option<&Schema> {
        self.definition.schema.as_ref()
    }

    /// The address of the root of its rows.
    pub fn root(&self) -> Hash {
        self.entry.rows
    }

    /// The value at `key`.
    ///
    /// # Errors
    /// The store's.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        map::get(&self.store, &self.entry.rows, key)?.map(|value| load_value(&self.store, value)).transpose()
    }

    /// What `f` makes of the value at `key`, which is not copied if it is inline.
    ///
    /// # Errors
    /// The store's.
    pub fn get_with<T>(&self, key: &[u8], f: impl FnOnce(&[u8]) -> T) -> Result<Option<T>> {
        let Some((leaf, i)) = map::find(&self.store, &self.entry.rows, key)? else { return Ok(None) };
        let value = leaf.value(i);
        Ok(Some(match value.tag {
            Tag::Blob => f(&blob::load(&self.store, value)?),
            Tag::Inline | Tag::Links => f(value.bytes),
        }))
    }

    /// The value at `key`, to be read piece by piece and from any place; `None` if there is no such row.
    ///
    /// # Errors
    /// The store's.
    pub fn read(&self, key: &[u8]) -> Result<Option<ValueReader>> {
        let value = map::get(&self.store, &self.entry.rows, key)?;
        value.map(|value| ValueReader::new(&self.store, value)).transpose()
    }

    /// Some bytes of the value at `key`, cut off at its end. Reads the pieces that they lie in, and the list of pieces.
    ///
    /// # Errors
    /// The store's.
    pub fn get_range(&self, key: &[u8], range: Range<u64>) -> Result<Option<Vec<u8>>> {
        self.read(key)?.map(|mut value| value.range(range)).transpose()
    }

    /// The value at `key` as it is stored.
    pub(crate) fn stored(&self, key: &[u8]) -> Result<Option<Value>> {
        map::get(&self.store, &self.entry.rows, key)
    }

    /// Number of rows.
    ///
    /// # Errors
    /// The store's.
    pub fn rows(&self) -> Result<u64> {
        Ok(map::size(&self.store, &self.entry.rows)?.0)
    }

    /// Bytes of keys and values.
    ///
    /// # Errors
    /// The store's.
    pub fn bytes(&self) -> Result<u64> {
        Ok(map::size(&self.store, &self.entry.rows)?.1)
    }

    /// The rows from one key to another, in key order, from both ends.
    ///
    /// # Errors
    /// The store's.
    pub fn scan(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<Scan> {
        Scan::new(self.store.clone(), &self.entry.rows, from, to)
    }

    /// The rows whose keys begin with `prefix`, in key order, from both ends.
    ///
    /// # Errors
    /// The store's.
    pub fn prefix(&self, prefix: &[u8]) -> Result<Scan> {
        let range = KeyRange::prefix(prefix);
        let (from, to) = range.bounds();
        self.scan(from, to)
    }

    /// The row with the lowest key.
    ///
    /// # Errors
    /// The store's.
    pub fn first(&self) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        self.select(0)
    }

    /// The row with the highest key.
    ///
    /// # Errors
    /// The store's.
    pub fn last(&self) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        match self.rows()? {
            0 => Ok(None),
            rows => self.select(rows - 1),
        }
    }

    /// How many rows lie between two keys. Reads the nodes at the two ends, and none between.
    ///
    /// # Errors
    /// The store's.
    pub fn count(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<u64> {
        rank::count(&self.store, &self.entry.rows, &KeyRange::new(from, to))
    }

    /// How many rows come before `key`, whether or not there is a row with that key. Reads one node a level.
    ///
    /// # Errors
    /// The store's.
    pub fn rank(&self, key: &[u8]) -> Result<u64> {
        rank::rank(&self.store, &self.entry.rows, key)
    }

    /// The row that has `n` rows before it; `None` if there are not as many. Reads one node a level.
    ///
    /// # Errors
    /// The store's.
    pub fn select(&self, n: u64) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let row = rank::select(&self.store, &self.entry.rows, n)?;
        row.map(|(key, value)| Ok((key, load_value(&self.store, value)?))).transpose()
    }

    /// `n` different rows, in key order, each set of as many equally likely; all rows if there are not more. The same rows for
    /// the same seed and number of rows. Keeps `n` numbers in memory, and reads one node a level for each row.
    ///
    /// # Errors
    /// The store's.
    pub fn sample(&self, n: u64, seed: u64) -> Result<Sample> {
        Sample::new(self.clone(), n, seed)
    }
}

pub(crate) fn load_value(store: &Store, value: Value) -> Result<Vec<u8>> {
    match value.tag {
        Tag::Blob => blob::load(store, Stored { tag: value.tag, bytes: &value.bytes }),
        Tag::Inline | Tag::Links => Ok(value.bytes),
    }
}

/// Rows in key order, from both ends. Owns its snapshot.
pub struct Scan {
    store: Store,
    rows: Rows<Store>,
}

impl Scan {
    /// The rows of the map at `root`, which `store` keeps.
    pub(crate) fn new(store: Store, root: &Hash, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<Scan> {
        let rows = Rows::new(store.clone(), root, from, to)?;
        Ok(Scan { store, rows })
    }

    /// Calls `f` with each row that is left, without copying keys and inline values.
    ///
    /// # Errors
    /// The store's.
    pub fn for_each(self, mut f: impl FnMut(&[u8], &[u8])) -> Result<()> {
        self.rows.for_each(|key, value| {
            match value.tag {
                Tag::Blob => f(key, &blob::load(&self.store, value)?),
                Tag::Inline | Tag::Links => f(key, value.bytes),
            }
            Ok(())
        })
    }
}

impl Iterator for Scan {
    type Item = Result<(Vec<u8>, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = match self.rows.next_row() {
            Ok(row) => row?,
            Err(error) => return Some(Err(error)),
        };
        Some(blob::load(&self.store, row.1).map(|value| (row.0.to_vec(), value)))
    }
}

impl DoubleEndedIterator for Scan {
    fn next_back(&mut self) -> Option<Self::Item> {
        let row = match self.rows.next_row_back() {
            Ok(row) => row?,
            Err(error) => return Some(Err(error)),
        };
        Some(blob::load(&self.store, row.1).map(|value| (row.0.to_vec(), value)))
    }
}

/// What happened to a table between two roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableChange {
    /// It is new.
    Added,
    /// It is gone.
    Dropped,
    /// Its rows, its definition or its indexes changed.
    Changed,
}

/// How a table differs between two roots.
#[derive(Clone)]
pub struct TableDiff {
    /// The table's name.
    pub table: String,
    /// The table before; `None` if it is new.
    pub from: Option<Table>,
    /// The table after; `None` if it is gone.
    pub to: Option<Table>,
}

/// Where a table's rows are read from.
type Side = Option<(Store, Hash)>;

impl TableDiff {
    /// What happened to the table.
    pub fn kind(&self) -> TableChange {
        match (&self.from, &self.to) {
            (None, _) => TableChange::Added,
            (_, None) => TableChange::Dropped,
            _ => TableChange::Changed,
        }
    }

    /// Whether the table's definition changed, appeared or went. Of its indexes [`TableDiff::index_changes`] tells.
    pub fn schema_changed(&self) -> bool {
        self.from.as_ref().map(Table::definition) != self.to.as_ref().map(Table::definition)
    }

    /// The changed rows, in key order.
    ///
    /// # Errors
    /// The store's.
    pub fn changes(&self) -> Result<Changes> {
        self.changes_within(&diff::Range::default())
    }

    /// The changed rows beyond the key `after`, in key order: what is left of [`TableDiff::changes`] when it was stopped there.
    ///
    /// # Errors
    /// The store's.
    pub fn changes_after(&self, after: &[u8]) -> Result<Changes> {
        self.changes_within(&diff::Range { after: Some(after.to_vec()), until: None })
    }

    /// The changed rows in at most `parts` iterators, to be walked by as many threads: one after the other they give all changes in key order, and
    /// each has about as many nodes to read.
    ///
    /// # Errors
    /// The store's.
    pub fn split(&self, parts: usize) -> Result<Vec<Changes>> {
        let (from, to) = self.sides();
        match (from, to) {
            (Some(from), Some(to)) => {
                let ranges = diff::ranges(&from, &to, parts.max(1))?;
                ranges.iter().map(|range| self.changes_within(range)).collect()
            }
            // With one side only there is nothing to skip, and nothing to tell parts by.
            _ => Ok(vec![self.changes()?]),
        }
    }

    fn sides(&self) -> (Side, Side) {
        let side =
            |table: &Option<Table>| table.as_ref().map(|table| (table.store.clone(), table.entry.rows));
        (side(&self.from), side(&self.to))
    }

    fn changes_within(&self, range: &diff::Range) -> Result<Changes> {
        let (from, to) = self.sides();
        let values = [&from, &to].map(|side| side.as_ref().map(|(store, _)| store.clone()));
        let observed = [&from, &to].into_iter().flatten().find(|(store, _)| store.is_observed());
        let meter = match observed {
            Some((store, _)) => {
                let roots = [&from, &to].map(|side| side.as_ref().map(|(_, root)| *root));
                Some(diff::meter(store, roots, range)?)
            }
            None => None,
        };
        Ok(Changes { values, diff: Diff::between(from, to, range)?.metered(meter) })
    }

    /// How many rows were inserted, updated and deleted. Reads no value that is out of line, and no leaf whose rows one side alone has, its
    /// edges excepted.
    ///
    /// # Errors
    /// The store's.
    pub fn stat(&self) -> Result<TableStat> {
        let Counts { inserted, updated, deleted } = self.changes()?.diff.counts()?;
        Ok(TableStat { table: self.table.clone(), inserted, updated, deleted })
    }
}

/// Numbers of changed rows of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableStat {
    /// The table's name.
    pub table: String,
    /// Rows that are new.
    pub inserted: u64,
    /// Rows whose value changed.
    pub updated: u64,
    /// Rows that are gone.
    pub deleted: u64,
}

/// A changed row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its key.
    pub key: Vec<u8>,
    /// Its value before; `None` if it was not there.
    pub old: Option<Vec<u8>>,
    /// Its value after; `None` if it is gone.
    pub new: Option<Vec<u8>>,
}

/// Changed rows of a table, in key order. Owns its snapshots.
pub struct Changes {
    /// Where values before and after are read from.
    values: [Option<Store>; 2],
    diff: Diff<Store>,
}

impl Changes {
    /// Calls `f` with the key of each changed row that is left and its values before and after, without copying keys and inline values.
    ///
    /// # Errors
    /// The store's.
    pub fn for_each(self, mut f: impl FnMut(&[u8], Option<&[u8]>, Option<&[u8]>)) -> Result<()> {
        let Changes { values: [before, after], mut diff } = self;
        while let Some(Changed { key, old, new }) = diff.next_row()? {
            let (old, new) = (borrow_value(&before, old)?, borrow_value(&after, new)?);
            f(key, old.as_deref(), new.as_deref());
        }
        Ok(())
    }

    /// The next changed row, its values as they are stored.
    pub(crate) fn next_stored(&mut self) -> Result<Option<RowChange>> {
        self.diff.next_change()
    }

    /// A value that a row had before.
    pub(crate) fn before(&self, value: Value) -> Result<ValueReader> {
        Changes::value(&self.values[0], value)
    }

    /// A value that a row has after.
    pub(crate) fn after(&self, value: Value) -> Result<ValueReader> {
        Changes::value(&self.values[1], value)
    }

    fn value(store: &Option<Store>, value: Value) -> Result<ValueReader> {
        match store {
            Some(store) => ValueReader::new(store, value),
            None => unreachable!("a side that has no table has no rows"),
        }
    }
}

/// A value of one side, copied only if it is out of line.
fn borrow_value<'a>(store: &Option<Store>, value: Option<Stored<'a>>) -> Result<Option<Cow<'a, [u8]>>> {
    match (store, value) {
        (Some(store), Some(value)) if value.tag == Tag::Blob => {
            Ok(Some(Cow::Owned(blob::load(store, value)?)))
        }
        (_, value) => Ok(value.map(|value| Cow::Borrowed(value.bytes))),
    }
}

impl Iterator for Changes {
    type Item = Result<Change>;

    fn next(&mut self) -> Option<Self::Item> {
        let change = match self.diff.next_change() {
            Ok(change) => change?,
            Err(error) => return Some(Err(error)),
        };
        let load = |store: &Option<Store>, value: Option<Value>| match (store, value) {
            (Some(store), Some(value)) => load_value(store, value).map(Some),
            _ => Ok(None),
        };
        let [before, after] = &self.values;
        let loaded = || Ok((load(before, change.old)?, load(after, change.new)?));
        Some(loaded().map(|(old, new)| Change { key: change.key, old, new }))
    }
}
