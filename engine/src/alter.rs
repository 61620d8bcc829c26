//! Changes of a typed table's columns, in a transaction.
//!
//! They change the table's definition and no row ([`row`](crate::row) says why that suffices). Of two transactions that
//! change one table's definition, or of which one changes it and the other writes rows that it read before, the first to
//! commit wins.

use crate::{
    error::Result,
    row::{Type, Value},
    transaction::Transaction,
};

impl Transaction {
    /// Adds a column to a typed table, as its last. Rows that are there read `default` in it; rows written later have what
    /// is written. No row is rewritten.
    ///
    /// # Errors
    /// [`Error::UnknownTable`], [`Error::NotTyped`], [`Error::Row`] if the name is taken or the default does not fit.
    ///
    /// [`Error::UnknownTable`]: crate::Error::UnknownTable
    /// [`Error::NotTyped`]: crate::Error::NotTyped
    /// [`Error::Row`]: crate::Error::Row
    pub fn add_column(&mut self, table: &str, name: &str, ty: Type, default: Value) -> Result<()> {
        self.alter(table, |schema| schema.add_column(name, ty, default))
    }

    /// Drops a column that is not in the key. Its cells cannot be read any longer; each goes when its row is next written.
    ///
    /// # Errors
    /// As of [`Transaction::add_column`]; [`Error::Row`](crate::Error::Row) if there is no such column or it is in the key.
    pub fn drop_column(&mut self, table: &str, name: &str) -> Result<()> {
        self.alter(table, |schema| schema.drop_column(name))
    }

    /// Renames a column.
    ///
    /// # Errors
    /// As of [`Transaction::add_column`]; [`Error::Row`](crate::Error::Row) if there is no such column or the name is taken.
    pub fn rename_column(&mut self, table: &str, from: &str, to: &str) -> Result<()> {
        self.alter(table, |schema| schema.rename_column(from, to))
    }
}
