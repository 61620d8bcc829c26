//! Which indexes differ between two roots: by their definitions, as what is in them follows from the rows.

use std::collections::{BTreeMap, BTreeSet};

use pleach_chunkstore::Hash;

use super::IndexDefinition;
use crate::{
    catalogue::{self, IndexEntry},
    chunks::Read,
    error::Result,
    snapshot::{Table, TableDiff},
};

/// An index that came, went, or became another one of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexChange {
    /// The index's name.
    pub index: String,
    /// What it was; `None` if it is new.
    pub before: Option<IndexDefinition>,
    /// What it is; `None` if it is gone.
    pub after: Option<IndexDefinition>,
}

impl TableDiff {
    /// The indexes that came, went or became others, by name: all of them, if the table is new or gone.
    ///
    /// # Errors
    /// The store's.
    pub fn index_changes(&self) -> Result<Vec<IndexChange>> {
        let [from, to] = [&self.from, &self.to].map(Option::as_ref);
        let (before, after) = (entries(from)?, entries(to)?);
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let mut changes = Vec::new();
        for name in names {
            let [old, new] = [&before, &after].map(|side| side.get(name).map(|entry| entry.definition));
            if old != new {
                let (before, after) = (definition(from, old)?, definition(to, new)?);
                changes.push(IndexChange { index: name.clone(), before, after });
            }
        }
        Ok(changes)
    }
}

fn entries(table: Option<&Table>) -> Result<BTreeMap<String, IndexEntry>> {
    table.map_or_else(|| Ok(BTreeMap::new()), Table::index_entries)
}

fn definition(table: Option<&Table>, definition: Option<Hash>) -> Result<Option<IndexDefinition>> {
    match (table, definition) {
        (Some(table), Some(hash)) => Ok(Some(IndexDefinition::decode(&table.store().chunk(&hash)?)?)),
        _ => Ok(None),
    }
}

/// The tables whose indexes differ between two catalogues. Costs what differs.
pub(crate) fn reindexed<R: Read>(from: (R, Hash), to: (R, Hash)) -> Result<BTreeSet<String>> {
    let mut tables = BTreeSet::new();
    catalogue::changed_indexes(from, to, |table, [before, after]| {
        let definition = |entry: Option<IndexEntry>| entry.map(|entry| entry.definition);
        if definition(before) != definition(after) {
            tables.insert(table.to_owned());
        }
    })?;
    Ok(tables)
}
