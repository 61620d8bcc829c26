//! Applying a patch: every row is compared with what the patch says of it, then changed in a transaction of its own.
//!
//! Edits beyond [`EDIT_BYTES_MAX`] are written ahead, and the transaction then changes their tables as a whole. Rows of typed tables
//! must be rows of their columns.
//!
//! A column is its id, which is never used again: where a patch takes back the adding of a column it is dropped, and columns that the table
//! dropped and the patch knows nothing of are remembered still.

use std::{collections::BTreeMap, io::Read};

use pleach_chunkstore::Hash;

use super::{
    Kind, VALUE_BYTES_HELD_MAX,
    record::{Record, RecordReader, Splice},
};
use crate::{
    blob::ValueReader,
    database::Database,
    definition::Definition,
    error::{Error, Result},
    index::IndexChange,
    map::{
        self,
        config::MapConfig,
        cursor::Rows,
        node::{Tag, Value},
    },
    names,
    row::Schema,
    transaction::{Transaction, TransactionOutcome},
};

/// Edits that are held in memory, bytes.
const EDIT_BYTES_MAX: u64 = 8 << 20;
/// A row's edit takes some bytes beside its key and value.
const EDIT_BYTES: u64 = 100;

/// What a patch changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Tables that it is about.
    pub tables: u64,
    /// Rows that are new.
    pub inserted: u64,
    /// Rows whose value changed.
    pub updated: u64,
    /// Rows that are gone.
    pub deleted: u64,
}

impl Database {
    /// Applies a patch to a branch's work, in one transaction: whole or not at all.
    ///
    /// # Errors
    /// [`Error::MalformedPatch`]; [`Error::PatchMismatch`] where the work is not as the patch expects; [`Error::Source`];
    /// [`Error::UnknownBranch`], [`Error::UnresolvedConflicts`]. Nothing changed then.
    pub fn apply_patch(&self, branch: &str, source: &mut dyn Read) -> Result<(Applied, TransactionOutcome)> {
        let mut transaction = self.begin(branch)?;
        let count = self.count_conflicts(&transaction.snapshot().root())?;
        if count > 0 {
            // A table that is changed as a whole forgets its conflicts.
            return Err(Error::UnresolvedConflicts { branch: branch.to_owned(), count });
        }
        let mut patch = Application::new(&mut transaction);
        let mut records = RecordReader::new(source)?;
        let mut meter = self.store().meter("patching", "rows", None);
        while let Some(record) = records.next()? {
            meter.add(u64::from(!matches!(record, Record::Table { .. })));
            match record {
                Record::Table { name, kind, before, after, indexes } => {
                    let [before, after] = [before, after].map(|side| side.map(|side| side.definition));
                    patch.table(name, kind, before, after, indexes)?;
                }
                Record::Insert { key } => {
                    patch.expect_absent(&key)?;
                    patch.applied.inserted += 1;
                    patch.put_from(&key, &mut records)?;
                }
                Record::Delete { key } => {
                    patch.expect_from(&key, &mut records)?;
                    patch.delete(&key)?;
                }
                Record::Update { key } => {
                    patch.expect_from(&key, &mut records)?;
                    patch.applied.updated += 1;
                    patch.put_from(&key, &mut records)?;
                }
                Record::Splice { key, splice } => patch.splice(&key, &splice)?,
            }
        }
        let applied = patch.finish()?;
        meter.end();
        Ok((applied, transaction.commit()?))
    }
}

/// A patch that is being applied.
pub(super) struct Application<'a> {
    transaction: &'a mut Transaction,
    pub(super) applied: Applied,
    table: Option<Current>,
    /// What the edits not written ahead take, bytes, and the tables that they are in.
    held: u64,
    held_in: Vec<String>,
}

/// The table at hand.
struct Current {
    name: String,
    kind: Kind,
    /// The columns before, and those of which rows must be after.
    schemas: [Option<Schema>; 2],
    deleted: u64,
}

impl<'a> Application<'a> {
    pub(super) fn new(transaction: &'a mut Transaction) -> Application<'a> {
        Application { transaction, applied: Applied::default(), table: None, held: 0, held_in: Vec::new() }
    }

    /// Goes on to the next table. `after` is given if it is not as before.
    pub(super) fn table(
        &mut self,
        name: String,
        kind: Kind,
        before: Option<Definition>,
        after: Option<Definition>,
        indexes: Vec<IndexChange>,
    ) -> Result<()> {
        self.end_table()?;
        self.applied.tables += 1;
        let found = self.transaction.definition(&name)?;
        let refuse =
            |why: &str| Err(Error::PatchMismatch { table: name.clone(), key: None, why: why.to_owned() });
        match (&found, &before) {
            (Some(_), None) => return refuse("it makes the table, which is there"),
            (None, Some(_)) => return refuse("it changes the table, which is not there"),
            (Some(found), Some(before)) if !same_columns(found, before) => {
                return refuse("the table has other columns than where the patch was made");
            }
            // So that turning the patch around leads back.
            (Some(found), Some(before)) if kind != Kind::Changed && found.config != before.config => {
                return refuse("the table is cut into nodes otherwise than where the patch was made");
            }
            _ => {}
        }
        self.expect_indexes(&name, kind, &indexes)?;
        let known = before.and_then(|before| before.schema);
        let mut rows_of = found.and_then(|found| found.schema);
        if kind != Kind::Dropped {
            for gone in indexes.iter().filter(|index| index.before.is_some()) {
                self.transaction.set_index(&name, &gone.index, None);
            }
        }
        match (kind, after) {
            (Kind::Added, Some(after)) => {
                rows_of.clone_from(&after.schema);
                self.transaction.create_table_with(&name, after)?;
            }
            (Kind::Redefined, Some(after)) => {
                rows_of = self.redefine(&name, rows_of.as_ref(), known.as_ref(), after)?;
            }
            _ => {}
        }
        for IndexChange { index, after, .. } in indexes {
            let Some(definition) = after else { continue };
            names::check_index(&index)?;
            let has = |id: &u32| rows_of.as_ref().is_some_and(|schema| schema.column_by_id(*id).is_some());
            if !definition.columns.iter().all(has) {
                let why = format!("it makes index `{index}` of columns that the table has not");
                return Err(Error::PatchMismatch { table: name, key: None, why });
            }
            self.transaction.set_index(&name, &index, Some(definition));
        }
        self.table = Some(Current { name, kind, schemas: [known, rows_of], deleted: 0 });
        Ok(())
    }

    /// Makes sure that the indexes that the patch is about are as it says.
    fn expect_indexes(&mut self, table: &str, kind: Kind, changes: &[IndexChange]) -> Result<()> {
        let refuse = |why| Err(Error::PatchMismatch { table: table.to_owned(), key: None, why });
        let found = match kind {
            Kind::Added => BTreeMap::new(),
            _ => self.transaction.indexes(table)?,
        };
        for IndexChange { index, before, .. } in changes {
            match (found.get(index), before) {
                (None, Some(_)) => return refuse(format!("it changes index `{index}`, which is not there")),
                (Some(_), None) => return refuse(format!("it makes index `{index}`, which is there")),
                (found, before) if found != before.as_ref() => {
                    return refuse(format!("it expects another index `{index}` than is there"));
                }
                _ => {}
            }
        }
        if kind == Kind::Dropped && found.len() > changes.len() {
            let (known, found) = (changes.len(), found.len());
            return refuse(format!("it drops a table of {known} indexes, and there are {found}"));
        }
        Ok(())
    }

    /// Gives a table another definition, where the patch knows it with the columns `before` and it is as in `found`. Gives the
    /// columns of which its rows must then be.
    fn redefine(
        &mut self,
        table: &str,
        found: Option<&Schema>,
        before: Option<&Schema>,
        after: Definition,
    ) -> Result<Option<Schema>> {
        let (Some(found), Some(before), Some(columns)) = (found, before, &after.schema) else {
            let schema = after.schema.clone();
            self.transaction.redefine(table, after)?;
            return Ok(schema);
        };
        let unknown: Vec<u32> = found.dropped().filter(|id| !before.has_or_had(*id)).collect();
        let again: Vec<u32> =
            unknown.iter().copied().filter(|id| columns.column_by_id(*id).is_some()).collect();
        if !again.is_empty() {
            let why = "it makes a column anew that was dropped, of which the row has a cell";
            self.expect_rows_of(table, &found.forgetting(&again)?, why)?;
        }
        let rows = columns.remembering(found, |id| unknown.contains(&id))?;
        // What was added since is dropped, and no row may have a cell of it.
        let schema = if before.came_of(columns) { rows.remembering(before, |_| true)? } else { rows.clone() };
        self.transaction.redefine(table, Definition { schema: Some(schema), ..after })?;
        Ok(Some(rows))
    }

    /// Makes sure that all rows that the table has now are rows of these columns.
    fn expect_rows_of(&mut self, table: &str, schema: &Schema, why: &str) -> Result<()> {
        let root = self.transaction.rows_root(table)?;
        let store = self.transaction.database().store();
        let all = std::ops::Bound::Unbounded;
        let mut rows = Rows::new(store, &root, all, all)?;
        while let Some((key, value)) = rows.next_row()? {
            let value = crate::blob::load(store, value)?;
            if let Err(error) = schema.decode_row(key, &value) {
                let (key, why) = (Some(key_text(Some(schema), key)), format!("{why}: {error}"));
                return Err(Error::PatchMismatch { table: table.to_owned(), key, why });
            }
        }
        Ok(())
    }

    /// Ends the last table. The changes are then in the transaction.
    pub(super) fn finish(mut self) -> Result<Applied> {
        self.end_table()?;
        Ok(self.applied)
    }

    fn end_table(&mut self) -> Result<()> {
        let Some(Current { name, kind, schemas: [before, after], deleted, .. }) = self.table.take() else {
            return Ok(());
        };
        let mismatch = |key, why: String| Error::PatchMismatch { table: name.clone(), key, why };
        match kind {
            Kind::Dropped => {
                let root = self.transaction.rows_root(&name)?;
                let (rows, _) = map::size(self.transaction.database().store(), &root)?;
                if rows != deleted {
                    let why = format!("it drops a table of {deleted} rows, and there are {rows}");
                    return Err(mismatch(None, why));
                }
                self.transaction.drop_table(&name)
            }
            Kind::Redefined => {
                let Some(after) = after else { return Ok(()) };
                if before.is_some_and(|before| after.compatible_with(&before).is_ok()) {
                    return Ok(());
                }
                // Rows that the patch knows nothing of must be rows of the new columns too.
                self.expect_rows_of(&name, &after, "it is no row of the new columns")
            }
            Kind::Changed | Kind::Added => Ok(()),
        }
    }

    fn current(&mut self) -> Result<(&mut Transaction, &mut Current)> {
        match &mut self.table {
            Some(current) => Ok((self.transaction, current)),
            // The reader of records gives no row before a table.
            None => Err(Error::MalformedPatch { offset: 0, what: "expected a table before its rows".into() }),
        }
    }

    fn mismatch(&self, key: &[u8], why: impl Into<String>) -> Error {
        let (table, schema) = match &self.table {
            Some(Current { name, schemas: [before, after], .. }) => {
                (name.clone(), before.as_ref().or(after.as_ref()))
            }
            None => (String::new(), None),
        };
        Error::PatchMismatch { table, key: Some(key_text(schema, key)), why: why.into() }
    }

    pub(super) fn stored(&mut self, key: &[u8]) -> Result<Option<Value>> {
        let (transaction, current) = self.current()?;
        transaction.stored(&current.name, key)
    }

    pub(super) fn expect_absent(&mut self, key: &[u8]) -> Result<()> {
        match self.stored(key)? {
            None => Ok(()),
            Some(_) => Err(self.mismatch(key, "it inserts the row, which is there")),
        }
    }

    /// The value that stands at `key`, which must be there.
    pub(super) fn expect_there(&mut self, key: &[u8]) -> Result<Value> {
        match self.stored(key)? {
            Some(value) => Ok(value),
            None => Err(self.mismatch(key, "it changes the row, which is not there")),
        }
    }

    /// How the table at hand is cut into nodes.
    pub(super) fn config(&mut self) -> Result<Option<MapConfig>> {
        let (transaction, current) = self.current()?;
        Ok(transaction.definition(&current.name)?.map(|definition| definition.config))
    }

    pub(super) fn is_changed(&self, key: &[u8]) -> Error {
        self.mismatch(key, "it expects another value than stands there")
    }

    /// Compares the row with the value that comes next, a piece at a time.
    fn expect_from(&mut self, key: &[u8], records: &mut RecordReader<'_>) -> Result<()> {
        let value = self.expect_there(key)?;
        let mut found = self.reader(value)?;
        let len = records.value_len()?;
        if len != found.len() {
            return Err(self.is_changed(key));
        }
        let mut place = 0;
        let mut expected = Vec::new();
        while place < len {
            expected.clear();
            records.blocks().take_into((len - place).min(64 << 10), &mut expected)?;
            let end = place + expected.len() as u64;
            if found.range(place..end)? != expected {
                return Err(self.is_changed(key));
            }
            place = end;
        }
        Ok(())
    }

    pub(super) fn reader(&self, value: Value) -> Result<ValueReader> {
        ValueReader::new(self.transaction.database().store(), value)
    }

    pub(super) fn delete(&mut self, key: &[u8]) -> Result<()> {
        self.applied.deleted += 1;
        let (transaction, current) = self.current()?;
        current.deleted += 1;
        if current.kind == Kind::Dropped {
            // The table goes with all its rows.
            return Ok(());
        }
        transaction.delete(&current.name, key)?;
        self.hold(key, 0)
    }

    /// Sets the row to the value that comes next.
    fn put_from(&mut self, key: &[u8], records: &mut RecordReader<'_>) -> Result<()> {
        let len = records.value_len()?;
        let (transaction, current) = self.current()?;
        if len > VALUE_BYTES_HELD_MAX && current.schemas[1].is_none() {
            let mut source = Read::take(&mut *records.blocks(), len);
            let found = transaction.put_from(&current.name, key, &mut source)?;
            if found != len {
                return Err(records.blocks().malformed("expected the rest of a value"));
            }
            return self.hold(key, 0);
        }
        let value = records.blocks().owned(len)?;
        self.put(key, &value)
    }

    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.check_row(key, value)?;
        let (transaction, current) = self.current()?;
        transaction.put(&current.name, key, value)?;
        self.hold(key, value.len() as u64)
    }

    /// Sets the row to a value whose chunks are in the store.
    pub(super) fn put_stored(&mut self, key: &[u8], value: Value) -> Result<()> {
        let (transaction, current) = self.current()?;
        transaction.put_stored(&current.name, key, value)?;
        self.hold(key, 0)
    }

    fn check_row(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let schema = self.table.as_ref().and_then(|current| current.schemas[1].as_ref());
        match schema.map(|schema| schema.decode_row(key, value)) {
            Some(Err(error)) => {
                Err(self.mismatch(key, format!("it is no row of the table's columns: {error}")))
            }
            _ => Ok(()),
        }
    }

    fn splice(&mut self, key: &[u8], splice: &Splice) -> Result<()> {
        let value = self.expect_there(key)?;
        let end = splice.place + splice.old_bytes.len() as u64;
        // One that was put in this transaction is not in the store yet; the patch has each row but once.
        if value != splice.old || self.reader(value)?.range(splice.place..end)? != splice.old_bytes {
            return Err(self.is_changed(key));
        }
        self.applied.updated += 1;
        let (transaction, current) = self.current()?;
        transaction.splice(&current.name, key, splice.place..end, &splice.new_bytes)?;
        let made = self.expect_there(key)?;
        if made != splice.new {
            return Err(self.mismatch(key, "the bytes that it puts in do not make the value that it says"));
        }
        if self.table.as_ref().is_some_and(|current| current.schemas[1].is_some()) {
            let len = splice_len(&made);
            let value = self.reader(made)?.range(0..len)?;
            self.check_row(key, &value)?;
        }
        self.hold(key, 0)
    }

    /// Counts an edit, and writes all ahead when there are many.
    fn hold(&mut self, key: &[u8], value: u64) -> Result<()> {
        let (_, current) = self.current()?;
        let name = current.name.clone();
        self.held += key.len() as u64 + value + EDIT_BYTES;
        if self.held_in.last() != Some(&name) {
            self.held_in.push(name);
        }
        if self.held > EDIT_BYTES_MAX {
            self.held = 0;
            for table in std::mem::take(&mut self.held_in) {
                let _root: Hash = self.transaction.rows_root(&table)?;
            }
        }
        Ok(())
    }
}

fn splice_len(value: &Value) -> u64 {
    debug_assert_eq!(value.tag, Tag::Blob);
    value.bytes.last_chunk().map_or(0, |len| u64::from_le_bytes(*len))
}

/// Whether both have the same columns, or none; what they had and dropped aside.
fn same_columns(one: &Definition, other: &Definition) -> bool {
    match (&one.schema, &other.schema) {
        (Some(one), Some(other)) => one.same_columns(other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

/// A key as people read it: the key columns, or text, or hexadecimal digits.
pub(super) fn key_text(schema: Option<&Schema>, key: &[u8]) -> String {
    if let Some(schema) = schema
        && let Ok(values) = schema.decode_key(key)
    {
        let texts = schema.key_columns().zip(values);
        let texts: Vec<_> =
            texts.map(|(column, value)| value.to_text(&column.ty).unwrap_or_default()).collect();
        return texts.join(",");
    }
    match std::str::from_utf8(key) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => key.iter().fold(String::from("0x"), |text, byte| text + &format!("{byte:02x}")),
    }
}
