//! Merging the indexes of a table.
//!
//! Which indexes there are is merged by name, as definitions; what is in them is not merged but brought along, from the side
//! that has them to the merged rows. Two rows, one of each side, that a unique index excludes end the merge with an error that
//! names both.

use std::collections::{BTreeMap, BTreeSet};

use pleach_chunkstore::Hash;

use super::{IndexDefinition, Indexed, follow};
use crate::{
    catalogue::IndexEntry,
    chunks::{Read, Writer},
    error::{Error, Result},
};

type Indexes = BTreeMap<String, IndexEntry>;

/// The indexes of the merged table, whose rows are at `rows`. `sides` are ours and theirs: indexes, and the rows that they are of.
///
/// # Errors
/// [`Error::IndexConflict`], [`Error::UniqueViolation`].
pub(crate) fn merge(
    writer: &mut Writer,
    table: Indexed<'_>,
    base: &Indexes,
    sides: [(&Indexes, Hash); 2],
    rows: Hash,
) -> Result<Indexes> {
    let [ours, theirs] = sides;
    let names: BTreeSet<&String> = ours.0.keys().chain(theirs.0.keys()).collect();
    let mut merged = Indexes::new();
    for name in names {
        let conflict =
            |why| Err(Error::IndexConflict { table: table.table.to_owned(), index: name.clone(), why });
        let definition = |indexes: &Indexes| indexes.get(name).map(|entry| entry.definition);
        let definition = match (definition(base), definition(ours.0), definition(theirs.0)) {
            (_, ours, theirs) if ours == theirs => ours,
            (base, ours, theirs) if ours == base => theirs,
            (base, ours, theirs) if theirs == base => ours,
            (_, Some(_), Some(_)) => {
                return conflict("both sides made it, over different columns; drop it on one of them");
            }
            _ => return conflict("one side dropped it and the other made it anew; drop it on both sides"),
        };
        let Some(definition) = definition else { continue };
        let columns = IndexDefinition::decode(&writer.chunk(&definition)?)?.columns;
        if columns.iter().any(|id| table.schema.column_by_id(*id).is_none()) {
            return conflict(
                "one side dropped a column of it; drop the index on the other side, or add it there over other columns",
            );
        }
        // Ours if it can be: then the cost is that of what theirs changed.
        let has = |(indexes, from): (&Indexes, Hash)| {
            let entry = indexes.get(name).filter(|entry| entry.definition == definition);
            entry.map(|entry| (*entry, from))
        };
        if let Some((mut entry, from)) = has(ours).or_else(|| has(theirs)) {
            follow(writer, table, [(name, &mut entry)], Some(from), rows)?;
            merged.insert(name.clone(), entry);
        }
    }
    Ok(merged)
}
