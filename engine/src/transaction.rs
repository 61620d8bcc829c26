//! Transactions: edits against a snapshot of a branch's work, committed whole or not at all.
//!
//! Isolation is that of a snapshot; of two transactions that wrote one row, the first to commit wins and the other is
//! refused by name of the row; who deletes a range writes what is in it. Committing is the business of
//! [`committer`](crate::committer); what was changed so far, and the way back to a savepoint, is that of [`edits`]; what does not
//! fit in memory is that of [`spill`].

mod edits;
#[cfg(test)]
mod programs;
mod spill;

use std::{
    collections::{BTreeMap, btree_map},
    fmt, io,
    ops::{Bound, Range},
    str::FromStr,
};

use pleach_chunkstore::{Hash, Hold, Lease};

use edits::Edits;
pub use edits::Savepoint;
pub(crate) use edits::{NewValue, Spilled, TableEdits};

pub(crate) use crate::committer::Queue;
use crate::{
    blob::{self, VALUE_BYTES_MAX, ValueReader},
    chunks::{self, Writer},
    database::Database,
    definition::Definition,
    error::{Error, Result},
    index::IndexDefinition,
    load::{self, LoadOptions},
    map::{
        self,
        build::{self, TreeBuilder},
        config::KEY_BYTES_MAX,
        cursor::Rows,
        node::{Stored, Tag, Value},
        range::KeyRange,
    },
    names,
    row::{self, Schema},
    snapshot::{Scan, Snapshot, Table, load_value},
};

/// Says which change a write was, so that a later read, here or on a copy, can wait for it. As text: `EPOCH.SEQUENCE.ROOT`, and `.HEAD` if
/// the branch has one: a root may come back, a root that goes on from a commit is later than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// The epoch of the primary; 0 outside a cluster.
    pub epoch: u64,
    /// The number of the change.
    pub sequence: u64,
    /// The branch's root after it.
    pub root: Hash,
    /// The branch's last commit then.
    pub head: Option<Hash>,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.epoch, self.sequence, self.root)?;
        self.head.map_or(Ok(()), |head| write!(f, ".{head}"))
    }
}

/// The text is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a token EPOCH.SEQUENCE.ROOT[.HEAD] as a write answers it, found `{0}`")]
pub struct BadToken(String);

impl FromStr for Token {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Token, BadToken> {
        let bad = || BadToken(text.to_owned());
        let mut parts = text.split('.');
        let (Some(epoch), Some(sequence), Some(root)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(bad());
        };
        let head = parts.next();
        if parts.next().is_some() {
            return Err(bad());
        }
        Ok(Token {
            epoch: epoch.parse().map_err(|_| bad())?,
            sequence: sequence.parse().map_err(|_| bad())?,
            root: root.parse().map_err(|_| bad())?,
            head: head.map(str::parse).transpose().map_err(|_| bad())?,
        })
    }
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransactionOutcome {
    /// It is durable.
    Committed(Token),
    /// It changed nothing; the token is that of the branch as it is.
    Unchanged(Token),
    /// Another transaction wrote the row, or changed the table, first. Nothing changed; begin again.
    Refused {
        /// The table.
        table: String,
        /// The row's key; `None` if the table itself was changed.
        key: Option<Vec<u8>>,
    },
}

/// Where the rows of a table are.
enum Written {
    /// In the map at this root.
    At(Hash),
    /// There are none.
    Nowhere,
    /// Where the snapshot has them.
    InSnapshot,
}

/// A transaction on a branch's work. Dropped without [`Transaction::commit`], it leaves no trace.
///
/// It may be larger than memory: edits beyond what it gets of [`Options::work_bytes`](pleach_chunkstore::Options::work_bytes) are written ahead, where its reads find
/// them, and none of what it promises changes by that. What stays in memory then are the ranges that it deleted.
pub struct Transaction {
    database: Database,
    branch: String,
    snapshot: Snapshot,
    tables: BTreeMap<String, Option<Table>>,
    edits: Edits,
    /// Keeps what was written ahead of the commit.
    ahead: Option<Hold>,
    /// The right to keep edits in memory, once it has some.
    lease: Option<Lease>,
}

impl Transaction {
    pub(crate) fn new(database: &Database, branch: String, snapshot: Snapshot) -> Transaction {
        let (tables, edits) = (BTreeMap::new(), Edits::default());
        Transaction { database: database.clone(), branch, snapshot, tables, edits, ahead: None, lease: None }
    }

    /// The branch.
    pub fn branch(&self) -> &str {
        &self.branch
    }

    /// The branch's work as it was when the transaction began.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Whether there is such a table, this transaction's changes included.
    ///
    /// # Errors
    /// The store's.
    pub fn has_table(&mut self, table: &str) -> Result<bool> {
        Ok(self.definition(table)?.is_some())
    }

    /// The table's definition, this transaction's changes included.
    ///
    /// # Errors
    /// The store's.
    pub fn definition(&mut self, table: &str) -> Result<Option<Definition>> {
        if let Some(edits) = self.edits.get(table) {
            if let Some(definition) = edits.created.as_ref().or(edits.altered.as_ref()) {
                return Ok(Some(definition.clone()));
            }
            if edits.dropped {
                return Ok(None);
            }
        }
        Ok(self.snapshot_table(table)?.map(|table| table.definition().clone()))
    }

    fn snapshot_table(&mut self, table: &str) -> Result<Option<&Table>> {
        let slot = match self.tables.entry(table.to_owned()) {
            btree_map::Entry::Occupied(slot) => slot.into_mut(),
            btree_map::Entry::Vacant(slot) => slot.insert(self.snapshot.table(table)?),
        };
        Ok(slot.as_ref())
    }

    /// Makes a table: typed with a schema, of raw keys and values without. If strangers choose its keys, give it a salt
    /// ([`Definition::salted`], [`Transaction::create_table_with`]).
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::BadName`].
    pub fn create_table(&mut self, table: &str, schema: Option<Schema>) -> Result<()> {
        self.create_table_with(table, Definition::new(schema))
    }

    /// Makes a table with a configuration of its own.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::BadName`].
    pub fn create_table_with(&mut self, table: &str, definition: Definition) -> Result<()> {
        names::check_table(table)?;
        if self.has_table(table)? {
            return Err(Error::Exists { what: "table", name: table.to_owned() });
        }
        self.edits.change(table, |edits| edits.created = Some(definition));
        Ok(())
    }

    /// Drops a table.
    ///
    /// # Errors
    /// [`Error::UnknownTable`].
    pub fn drop_table(&mut self, table: &str) -> Result<()> {
        self.require(table)?;
        // Nothing is left of one that was made by this transaction.
        let dropped = self.snapshot_table(table)?.is_some();
        self.edits.replace(table, dropped.then(|| TableEdits { dropped, ..TableEdits::default() }));
        Ok(())
    }

    /// The indexes of a table, this transaction's changes included.
    ///
    /// # Errors
    /// [`Error::UnknownTable`].
    pub fn indexes(&mut self, table: &str) -> Result<BTreeMap<String, IndexDefinition>> {
        self.require(table)?;
        let mut indexes = BTreeMap::new();
        let replaced = self.edits.get(table).is_some_and(|edits| edits.dropped || edits.created.is_some());
        if !replaced && let Some(table) = self.snapshot_table(table)? {
            for (name, index) in table.indexes()? {
                indexes.insert(name, index.definition().clone());
            }
        }
        for (name, index) in self.edits.get(table).iter().flat_map(|edits| &edits.indexes) {
            match index {
                Some(definition) => drop(indexes.insert(name.clone(), definition.clone())),
                None => drop(indexes.remove(name)),
            }
        }
        Ok(indexes)
    }

    /// Makes an index, or drops one.
    pub(crate) fn set_index(&mut self, table: &str, name: &str, definition: Option<IndexDefinition>) {
        self.edits.change(table, |edits| drop(edits.indexes.insert(name.to_owned(), definition)));
    }

    /// Changes the columns of a typed table.
    pub(crate) fn alter(
        &mut self,
        table: &str,
        change: impl FnOnce(&Schema) -> Result<Schema, row::Error>,
    ) -> Result<()> {
        let definition = self.require(table)?;
        let Some(schema) = &definition.schema else {
            return Err(Error::NotTyped { table: table.to_owned() });
        };
        let changed = Definition { schema: Some(change(schema)?), ..definition };
        self.edits.change(table, |edits| match &mut edits.created {
            Some(created) => *created = changed,
            None => edits.altered = Some(changed),
        });
        Ok(())
    }

    pub(crate) fn require(&mut self, table: &str) -> Result<Definition> {
        self.definition(table)?.ok_or_else(|| Error::UnknownTable { name: table.to_owned() })
    }

    /// Sets the value at `key`.
    ///
    /// # Errors
    /// [`Error::UnknownTable`], [`Error::KeyTooLong`], [`Error::ValueTooLong`].
    pub fn put(&mut self, table: &str, key: &[u8], value: &[u8]) -> Result<()> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(Error::ValueTooLong { found: value.len(), max: VALUE_BYTES_MAX });
        }
        self.edit(table, key, Some(NewValue::Bytes(value.to_vec())))
    }

    /// Deletes the row at `key`; false if there was none.
    ///
    /// # Errors
    /// [`Error::UnknownTable`].
    pub fn delete(&mut self, table: &str, key: &[u8]) -> Result<bool> {
        let there = self.stored(table, key)?.is_some();
        if there {
            self.edit(table, key, None)?;
        }
        Ok(there)
    }

    /// Deletes the rows from one key to another, at the cost of the two ends: the nodes between are not read. It conflicts with a
    /// concurrent transaction that wrote any row there, and with none where no row was.
    ///
    /// # Errors
    /// [`Error::UnknownTable`].
    pub fn delete_range(&mut self, table: &str, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<()> {
        self.require(table)?;
        let range = KeyRange::new(from, to);
        if range.is_empty() {
            return Ok(());
        }
        self.make_room()?;
        self.edits.delete_range(table, range);
        Ok(())
    }

    fn edit(&mut self, table: &str, key: &[u8], value: Option<NewValue>) -> Result<()> {
        if key.len() > KEY_BYTES_MAX {
            return Err(Error::KeyTooLong { found: key.len(), max: KEY_BYTES_MAX });
        }
        if self.edits.get(table).is_none_or(|edits| edits.dropped && edits.created.is_none()) {
            self.require(table)?;
        }
        self.make_room()?;
        self.edits.set_row(table, key, value);
        Ok(())
    }

    /// Sets the value at `key` to what `source` gives until its end, in bounded memory; gives its length.
    ///
    /// # Errors
    /// [`Error::UnknownTable`], [`Error::KeyTooLong`], [`Error::ValueTooLong`]; [`Error::Source`] if the source fails.
    pub fn put_from(&mut self, table: &str, key: &[u8], source: &mut dyn io::Read) -> Result<u64> {
        let config = self.require(table)?.config;
        let value = self.write_ahead(|writer| blob::write(writer, config.inline_bytes, source))?;
        let len = ValueReader::new(self.database.store(), value.clone())?.len();
        self.edit(table, key, Some(NewValue::Stored(value)))?;
        Ok(len)
    }

    /// Replaces some bytes of the value at `key` by others, which may be more or fewer; what is absent is an empty value. It
    /// costs the pieces around the change, whatever the length of the value, and the row is then the one that [`Transaction::put`] of
    /// the whole new value would make.
    ///
    /// # Errors
    /// [`Error::UnknownTable`], [`Error::OutsideValue`], [`Error::KeyTooLong`], [`Error::ValueTooLong`].
    pub fn splice(&mut self, table: &str, key: &[u8], range: Range<u64>, new: &[u8]) -> Result<()> {
        let config = self.require(table)?.config;
        let old = self.stored(table, key)?.unwrap_or(Value { tag: Tag::Inline, bytes: Vec::new() });
        let old = Stored { tag: old.tag, bytes: &old.bytes };
        let value = self.write_ahead(|writer| blob::splice(writer, config.inline_bytes, old, range, new))?;
        self.edit(table, key, Some(NewValue::Stored(value)))
    }

    /// The value at `key`, this transaction's changes included.
    ///
    /// # Errors
    /// [`Error::UnknownTable`].
    pub fn get(&mut self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let value = self.stored(table, key)?;
        value.map(|value| load_value(self.database.store(), value)).transpose()
    }

    /// The value at `key`, this transaction's changes included, to be read piece by piece while the transaction lasts.
    ///
    /// # Errors
    /// [`Error::UnknownTable`].
    pub fn read(&mut self, table: &str, key: &[u8]) -> Result<Option<ValueReader>> {
        let value = self.stored(table, key)?;
        value.map(|value| ValueReader::new(self.snapshot.store(), value)).transpose()
    }

    /// The rows of a table from one key to another as they are now, this transaction's changes included, in key order, from both ends. Edits
    /// that are in memory are written ahead first; those made later the iterator does not see.
    ///
    /// ```
    /// # use std::ops::Bound;
    /// # fn main() -> Result<(), pleach_engine::Error> {
    /// # let database = pleach_engine::Database::memory()?;
    /// let mut transaction = database.begin("main")?;
    /// transaction.create_table("fruit", None)?;
    /// transaction.put("fruit", b"plum", b"blue")?;
    /// transaction.put("fruit", b"apple", b"red")?;
    /// let fruit = transaction.scan("fruit", Bound::Unbounded, Bound::Unbounded)?;
    /// let names: Result<Vec<_>, _> = fruit.map(|row| row.map(|(name, _)| name)).collect();
    /// assert_eq!(names?, [b"apple".to_vec(), b"plum".to_vec()]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownTable`].
    pub fn scan(&mut self, table: &str, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<Scan> {
        let root = self.rows_root(table)?;
        Scan::new(chunks::pin(self.database.store(), &root)?, &root, from, to)
    }

    /// Number of rows of a table, this transaction's changes included. Edits that are in memory are written ahead first.
    ///
    /// # Errors
    /// [`Error::UnknownTable`].
    pub fn rows(&mut self, table: &str) -> Result<u64> {
        let root = self.rows_root(table)?;
        Ok(map::size(self.database.store(), &root)?.0)
    }

    /// The value at `key` as it is stored; one that is not stored yet counts as inline, whatever its length.
    pub(crate) fn stored(&mut self, table: &str, key: &[u8]) -> Result<Option<Value>> {
        if let Some(edits) = self.edits.get(table) {
            match edits.rows.get(key) {
                Some(Some(NewValue::Bytes(bytes))) => {
                    return Ok(Some(Value { tag: Tag::Inline, bytes: bytes.clone() }));
                }
                Some(Some(NewValue::Stored(value))) => return Ok(Some(value.clone())),
                Some(None) => return Ok(None),
                None if edits.deleted.contains(key) => return Ok(None),
                None => {}
            }
        }
        match self.written_rows(table) {
            Written::At(root) => map::get(self.database.store(), &root, key),
            Written::Nowhere => Ok(None),
            Written::InSnapshot => {
                self.require(table)?;
                match self.snapshot_table(table)? {
                    Some(table) => table.stored(key),
                    None => Ok(None),
                }
            }
        }
    }

    /// Where the rows are that the edits in memory build upon.
    fn written_rows(&self, table: &str) -> Written {
        match self.edits.get(table) {
            Some(TableEdits { loaded: Some(root), .. }) => Written::At(*root),
            Some(TableEdits { spilled: Some(spilled), .. }) => Written::At(spilled.rows),
            Some(TableEdits { created: Some(_), .. }) => Written::Nowhere,
            _ => Written::InSnapshot,
        }
    }

    /// The rows of a table as this transaction leaves them so far, written ahead if it changed any.
    pub(crate) fn rows_root(&mut self, table: &str) -> Result<Hash> {
        self.require(table)?;
        self.spill()?;
        match self.written_rows(table) {
            Written::At(root) => Ok(root),
            Written::Nowhere => self.write_ahead(build::empty),
            Written::InSnapshot => {
                let root = self.snapshot_table(table)?.map(Table::root);
                root.ok_or_else(|| Error::UnknownTable { name: table.to_owned() })
            }
        }
    }

    /// Gives a table another definition. Its rows stay as they are; its indexes are built anew.
    ///
    /// # Errors
    /// [`Error::ColumnIndexed`] if an index needs a column that goes.
    pub(crate) fn redefine(&mut self, table: &str, definition: Definition) -> Result<()> {
        let old = self.require(table)?;
        let config = old.config;
        let indexes = self.indexes(table)?;
        let has =
            |id: &u32| definition.schema.as_ref().is_some_and(|schema| schema.column_by_id(*id).is_some());
        for (index, id) in
            indexes.iter().flat_map(|(name, index)| index.columns.iter().map(move |id| (name, id)))
        {
            if !has(id) {
                let column = old.schema.as_ref().and_then(|schema| schema.column_by_id(*id));
                return Err(Error::ColumnIndexed {
                    table: table.to_owned(),
                    column: column.map(|column| column.name.clone()).unwrap_or_default(),
                    index: index.clone(),
                });
            }
        }
        let mut root = self.rows_root(table)?;
        if config != definition.config {
            let store = self.database.store().clone();
            root = self.write_ahead(|writer| {
                let mut rows = Rows::new(&store, &root, Bound::Unbounded, Bound::Unbounded)?;
                let mut builder = TreeBuilder::new(definition.config);
                let mut meter = store.meter("rewriting", "rows", Some(map::size(&store, &root)?.0));
                while let Some((key, value)) = rows.next_row()? {
                    meter.add(1);
                    let value = blob::load(&store, value)?;
                    let value = blob::store(writer, definition.config.inline_bytes, &value)?;
                    builder.push(writer, key, Stored { tag: value.tag, bytes: &value.bytes })?;
                }
                meter.end();
                builder.finish(writer)
            })?;
        }
        let dropped = self.snapshot_table(table)?.is_some();
        let edits = TableEdits {
            dropped,
            created: Some(definition),
            loaded: Some(root),
            indexes: indexes.into_iter().map(|(name, index)| (name, Some(index))).collect(),
            ..TableEdits::default()
        };
        self.edits.replace(table, Some(edits));
        Ok(())
    }

    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// Sets a row to what a leaf stores for it; whoever calls keeps its chunks until the commit.
    pub(crate) fn put_stored(&mut self, table: &str, key: &[u8], value: Value) -> Result<()> {
        self.edit(table, key, Some(NewValue::Stored(value)))
    }

    /// Writes chunks that the commit will need, and holds them until then.
    fn write_ahead<T>(&mut self, write: impl FnOnce(&mut Writer) -> Result<T>) -> Result<T> {
        write_ahead(&self.database, &mut self.ahead, write)
    }

    /// Replaces all rows of a table by `rows`, which come in strictly ascending order of keys. Each node is written once, in
    /// bounded memory, and many nodes are made on several threads; what was put into the table before, in this transaction, is replaced too.
    ///
    /// # Errors
    /// [`Error::UnknownTable`], [`Error::Unsorted`], the limits on keys and values.
    pub fn load<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        table: &str,
        rows: impl IntoIterator<Item = (K, V)>,
    ) -> Result<()> {
        self.load_with(table, rows, &LoadOptions::default())
    }

    /// As [`Transaction::load`], of rows in any order, or on another number of threads.
    ///
    /// # Errors
    /// Those of [`Transaction::load`], but for [`Error::Unsorted`] if the rows may come in any order.
    pub fn load_with<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        table: &str,
        rows: impl IntoIterator<Item = (K, V)>,
        options: &LoadOptions,
    ) -> Result<()> {
        let config = self.require(table)?.config;
        let store = self.database.store().clone();
        let root = self.write_ahead(|writer| load::build(writer, &store, config, rows, options))?;
        self.edits.replace_rows(table, root);
        Ok(())
    }

    /// Marks this place, so that [`Transaction::rollback_to`] leads back to it. It costs nothing, whatever the transaction holds; from
    /// then on the way back is kept in memory, as much as is changed. Savepoints nest.
    ///
    /// ```
    /// # fn main() -> Result<(), pleach_engine::Error> {
    /// # let database = pleach_engine::Database::memory()?;
    /// let mut transaction = database.begin("main")?;
    /// transaction.create_table("fruit", None)?;
    /// let before = transaction.savepoint();
    /// transaction.put("fruit", b"apple", b"red")?;
    /// transaction.rollback_to(&before)?;
    /// assert_eq!(transaction.get("fruit", b"apple")?, None);
    /// # Ok(())
    /// # }
    /// ```
    pub fn savepoint(&mut self) -> Savepoint {
        self.edits.mark()
    }

    /// Takes back all that was done since `savepoint`, which stays; those made since are gone. It costs what was done since.
    ///
    /// # Errors
    /// [`Error::UnknownSavepoint`] if it is gone, or of another transaction. Nothing is taken back then.
    pub fn rollback_to(&mut self, savepoint: &Savepoint) -> Result<()> {
        self.edits.rollback_to(savepoint)
    }

    /// Forgets `savepoint` and those made since; what was done stays. When none is left, no way back is kept any longer.
    ///
    /// # Errors
    /// [`Error::UnknownSavepoint`] if it is gone, or of another transaction.
    pub fn release(&mut self, savepoint: Savepoint) -> Result<()> {
        self.edits.release(&savepoint)
    }

    /// Commits: durable when it returns `Committed`.
    ///
    /// # Errors
    /// The store's. After an error of the disk the outcome is not known until the store is opened again.
    pub fn commit(mut self) -> Result<TransactionOutcome> {
        if self.edits.has_spilled() {
            self.spill()?;
        }
        let Transaction { database, branch, snapshot, edits, ahead, lease, .. } = self;
        let outcome = database.commit_edits(branch, snapshot.root(), edits.into_tables());
        drop((snapshot, ahead, lease));
        outcome
    }
}

/// Writes chunks that a commit will need. `hold` keeps them: it is taken before the first one is written.
fn write_ahead<T>(
    database: &Database,
    hold: &mut Option<Hold>,
    write: impl FnOnce(&mut Writer) -> Result<T>,
) -> Result<T> {
    hold.get_or_insert_with(|| database.store().hold());
    let mut writer = Writer::new(database.store());
    let written = write(&mut writer)?;
    let _written = writer.append(&[])?;
    Ok(written)
}

#[cfg(test)]
#[path = "transaction_tests.rs"]
mod tests;
