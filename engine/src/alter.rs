//! Changes of a typed table's columns and indexes, in a transaction.
//!
//! Changes of columns change the table's definition and no row ([`row`](crate::row) says why that suffices). Of two transactions that
//! change one table's definition, or of which one changes it and the other writes rows that it read before, the first to
//! commit wins. Rows that others write do not stand against a change of columns or indexes.

use std::{collections::BTreeMap, ops::Bound};

use crate::{
    blob,
    error::{Error, Result},
    index::{INDEX_COLUMNS_MAX, IndexDefinition},
    map::{self, config::MapConfig, cursor::Rows},
    names,
    row::{self, Type, Value},
    transaction::Transaction,
};

impl Transaction {
    /// Adds a column to a typed table, as its last. Rows that are there read `default` in it; rows written later have what
    /// is written. No row is rewritten.
    ///
    /// # Errors
    /// [`Error::UnknownTable`], [`Error::NotTyped`], [`Error::Row`] if the name is taken or the default does not fit.
    pub fn add_column(&mut self, table: &str, name: &str, ty: Type, default: Value) -> Result<()> {
        self.alter(table, |schema| schema.add_column(name, ty, default))
    }

    /// Drops a column that is not in the key. Its cells cannot be read any longer; each goes when its row is next written.
    ///
    /// # Errors
    /// As of [`Transaction::add_column`]; [`Error::Row`] if there is no such column or it is in the key; [`Error::ColumnIndexed`].
    pub fn drop_column(&mut self, table: &str, name: &str) -> Result<()> {
        let indexes = match self.has_table(table)? {
            true => self.indexes(table)?,
            false => BTreeMap::new(),
        };
        let id = self.definition(table)?.and_then(|definition| {
            let column = definition.schema?.column(name)?.id;
            Some(column)
        });
        match indexes.into_iter().find(|(_, index)| id.is_some_and(|id| index.columns.contains(&id))) {
            None => self.alter(table, |schema| schema.drop_column(name)),
            Some((index, _)) => {
                Err(Error::ColumnIndexed { table: table.to_owned(), column: name.to_owned(), index })
            }
        }
    }

    /// Writes again the rows that have cells of dropped columns, without these; returns how many. Then equal rows have equal bytes
    /// once more, and the cells are in no row of this branch's work. All rows are read, and one after the other written again.
    ///
    /// # Errors
    /// [`Error::UnknownTable`], [`Error::NotTyped`]; [`Error::Row`] if a row is no row of the table.
    pub fn rewrite_rows(&mut self, table: &str) -> Result<u64> {
        let Some(schema) = self.require(table)?.schema else {
            return Err(Error::NotTyped { table: table.to_owned() });
        };
        let root = self.rows_root(table)?;
        let store = self.database().store().clone();
        let mut rows = Rows::new(&store, &root, Bound::Unbounded, Bound::Unbounded)?;
        let mut again = 0;
        let mut meter = store.meter("rewriting", "rows", Some(map::size(&store, &root)?.0));
        while let Some((key, value)) = rows.next_row()? {
            meter.add(1);
            let value = blob::load(&store, value)?;
            if schema.has_dropped_cells(&value)? {
                let (_, value) = schema.encode_row(&schema.decode_row(key, &value)?)?;
                self.put(table, key, &value)?;
                again += 1;
            }
        }
        meter.end();
        Ok(again)
    }

    /// Renames a column.
    ///
    /// # Errors
    /// As of [`Transaction::add_column`]; [`Error::Row`] if there is no such column or the name is taken.
    pub fn rename_column(&mut self, table: &str, from: &str, to: &str) -> Result<()> {
        self.alter(table, |schema| schema.rename_column(from, to))
    }

    /// Makes an index of a typed table over some of its columns, those of the key included. It is built when the transaction
    /// commits, and follows the rows from then on. If it is unique, no two rows may have equal values there, NULL aside.
    ///
    /// # Errors
    /// [`Error::UnknownTable`], [`Error::NotTyped`], [`Error::Exists`], [`Error::BadName`]; [`Error::Row`] if there is no such
    /// column or it is named twice. At commit: [`Error::UniqueViolation`], [`Error::IndexKeyTooLong`].
    pub fn create_index(&mut self, table: &str, index: &str, columns: &[&str], unique: bool) -> Result<()> {
        names::check_index(index)?;
        let definition = self.require(table)?;
        let Some(schema) = &definition.schema else {
            return Err(Error::NotTyped { table: table.to_owned() });
        };
        if self.indexes(table)?.contains_key(index) {
            return Err(Error::Exists { what: "index", name: index.to_owned() });
        }
        if !(1..=INDEX_COLUMNS_MAX).contains(&columns.len()) {
            let why = "expected 1 to 16 columns";
            return Err(Error::BadName { what: "index", name: index.to_owned(), why });
        }
        let mut ids = Vec::with_capacity(columns.len());
        for &name in columns {
            let column = schema.column(name);
            let id = column.ok_or_else(|| row::Error::NoSuchColumn { column: name.to_owned() })?.id;
            if ids.contains(&id) {
                return Err(row::Error::DuplicateKeyColumn { column: name.to_owned() }.into());
            }
            ids.push(id);
        }
        // An entry takes some 40 bytes, and the key of a row fits in it whatever the table keeps inline.
        let sized = MapConfig::for_row_bytes(40);
        let config = MapConfig { salt: definition.config.salt, ..sized };
        self.set_index(table, index, Some(IndexDefinition { config, unique, columns: ids }));
        Ok(())
    }

    /// Drops an index.
    ///
    /// # Errors
    /// [`Error::UnknownTable`], [`Error::UnknownIndex`].
    pub fn drop_index(&mut self, table: &str, index: &str) -> Result<()> {
        if !self.indexes(table)?.contains_key(index) {
            return Err(Error::UnknownIndex { table: table.to_owned(), index: index.to_owned() });
        }
        self.set_index(table, index, None);
        Ok(())
    }
}
