//! Transactions larger than memory: edits of rows beyond a bound are written ahead of the commit.
//!
//! One idea: what was written ahead is the rows that the edits lead to, so that reads and the next edits build upon them; and beside these
//! the keys that were edited. At the commit ([`committer`](crate::committer)) the one is merged into the branch, if that has moved, and the other says whether
//! a row is among those that somebody else changed meanwhile. So the outcome is that of a transaction in memory, by row.

use std::{collections::BTreeMap, sync::Arc};

use pleach_chunkstore::{Hash, Hold};

use super::{NewValue, Spilled, TableEdits, Transaction, write_ahead};
use crate::{
    chunks::Writer,
    committer::fold_rows,
    database::Database,
    error::{Error, Result},
    map::{
        build,
        config::MapConfig,
        range::{KeyRange, RangeSet},
    },
    snapshot::{Snapshot, Table},
};

/// How the maps of edited keys are cut into nodes.
const KEYS: MapConfig = MapConfig { leaf_mean: 192, inner_mean: 192, inline_bytes: 64, salt: 0 };

/// What a map of edited keys has for each.
static EDITED: NewValue = NewValue::Bytes(Vec::new());

impl Transaction {
    /// Writes edits ahead if they take more memory than this transaction gets.
    pub(super) fn make_room(&mut self) -> Result<()> {
        let lease = self.lease.get_or_insert_with(|| self.database.store().lease());
        if !lease.reach(self.edits.bytes() as u64) {
            self.spill()?;
        }
        Ok(())
    }

    /// Writes all edits of rows ahead, those that lead back to savepoints too.
    pub(super) fn spill(&mut self) -> Result<()> {
        let Transaction { database, snapshot, edits, ahead, lease, .. } = self;
        edits.fold(|tables| fold_all(database, snapshot, ahead, tables))?;
        // The way back to savepoints may stay.
        if let Some(lease) = lease {
            lease.release();
            lease.take(edits.bytes() as u64);
        }
        Ok(())
    }
}

/// Writes the edits of rows that are in memory.
pub(super) fn fold_all(
    database: &Database,
    snapshot: &Snapshot,
    ahead: &mut Option<Hold>,
    tables: &mut BTreeMap<String, TableEdits>,
) -> Result<()> {
    let edited = tables.iter().filter(|(_, edits)| edits.has_rows());
    let folded: BTreeMap<String, TableEdits> = write_ahead(database, ahead, |writer| {
        edited
            .map(|(name, edits)| {
                // A table that a transaction makes anew is not that of the snapshot.
                let is_new = edits.dropped || edits.created.is_some();
                let table = if is_new { None } else { snapshot.table(name)? };
                Ok((name.clone(), fold(writer, name, table, edits)?))
            })
            .collect::<Result<_>>()
    })?;
    tables.extend(folded);
    Ok(())
}

/// What the edits of a table become when those of its rows are written. `table` is that of the snapshot, unless it is made anew.
fn fold(writer: &mut Writer, name: &str, table: Option<Table>, edits: &TableEdits) -> Result<TableEdits> {
    let definition = edits.created.as_ref().or(table.as_ref().map(Table::definition));
    let config = definition.ok_or_else(|| Error::UnknownTable { name: name.to_owned() })?.config;
    let mut folded = edits.of_table();
    let rows = || edits.rows.iter().map(|(key, value)| (key.as_slice(), value.as_ref()));
    match (&table, edits.loaded) {
        (Some(table), None) => {
            let spilled = match edits.spilled.clone() {
                Some(spilled) => spilled,
                None => Spilled {
                    base: table.root(),
                    rows: table.root(),
                    edited: build::empty(writer)?,
                    deleted: Arc::default(),
                },
            };
            let Spilled { base, rows: root, edited, mut deleted } = spilled;
            let keys = edits.rows.keys().map(|key| (key.as_slice(), Some(&EDITED)));
            if !edits.deleted.is_empty() {
                let deleted: &mut RangeSet = Arc::make_mut(&mut deleted);
                edits.deleted.iter().for_each(|range: KeyRange| drop(deleted.insert(range)));
            }
            folded.spilled = Some(Spilled {
                base,
                rows: fold_rows(writer, &config, root, &edits.deleted, rows())?,
                edited: fold_rows(writer, &KEYS, edited, &edits.deleted, keys)?,
                deleted,
            });
        }
        // Nobody else has seen rows that are given in bulk, or of a table that is new.
        (_, loaded) => {
            let root: Hash = loaded.map_or_else(|| build::empty(writer), Ok)?;
            folded.loaded = Some(fold_rows(writer, &config, root, &edits.deleted, rows())?);
        }
    }
    Ok(folded)
}
