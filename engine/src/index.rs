//! Secondary indexes of typed tables.
//!
//! An index is a map of its own in the catalogue. It is *derived*: its root is a function of its definition and of the table's
//! rows, however they came about. So whoever changes rows (the committer, a merge, a decision about conflicts) brings the
//! indexes of the table along in the same edit, from the difference of the two roots of its rows (`index/follow.rs`).
//!
//! | | key of an entry | value |
//! |---|---|---|
//! | not unique | the index columns' values as in `row/key.rs`, ascending; then the row's key | nothing |
//! | unique | the index columns' values | the row's key |
//!
//! Two rows with equal values in the columns of a unique index would have one entry: they are refused. As in SQL, a row with
//! NULL in an index column is in no unique index.
//!
//! Its definition is a chunk of kind [`INDEX`], level 0, without references. Little-endian:
//!
//! ```text
//! 0 u8 version = 1 · map configuration (14 bytes, see `map::config`) · u8 unique, 0 or 1 · u8 columns, 1 to 16 · their ids, u32 each
//! ```
//!
//! Invariants, held by tests in `typed_tests/indexes.rs`:
//! 1. An index is what building it from the rows gives, after any transactions, merges and decisions
//!    (`indexes_are_what_building_them_gives_after_any_history`).
//!    What came from another database is what that made of it: [`Table::check_indexes`](crate::Table::check_indexes) tells.
//! 2. No two rows have equal values, none of them NULL, in the columns of a unique index (same test).

mod changes;
mod check;
mod follow;
mod lookup;
mod merge;

use pleach_chunkstore::Chunk;

pub use changes::IndexChange;
pub(crate) use changes::reindexed;
pub(crate) use follow::{Indexed, follow};
pub use lookup::{Index, IndexScan};
pub(crate) use merge::merge;

use crate::{
    error::{Error, Result},
    kinds::INDEX,
    map::config::{ENCODED_LEN, MapConfig},
    row::{COLUMN_ID_MAX, Schema, Value},
};

/// Most columns of an index.
pub const INDEX_COLUMNS_MAX: usize = 16;

const VERSION: u8 = 1;

/// What an index is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexDefinition {
    /// How its map is cut into nodes.
    pub config: MapConfig,
    /// Whether no two rows may have equal values.
    pub unique: bool,
    /// The ids of its columns, in order; 1 to [`INDEX_COLUMNS_MAX`], each once.
    pub columns: Vec<u32>,
}

impl IndexDefinition {
    /// The key of the entry that a stored row has; `None` if it has none.
    pub(crate) fn entry(&self, schema: &Schema, key: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>> {
        let values = schema.values_of(&self.columns, key, value)?;
        if self.unique && values.iter().any(Value::is_null) {
            return Ok(None);
        }
        let mut entry = schema.encode_values(&self.columns, &values)?;
        if !self.unique {
            entry.extend_from_slice(key);
        }
        Ok(Some(entry))
    }

    pub(crate) fn encode(&self) -> Chunk {
        assert!((1..=INDEX_COLUMNS_MAX).contains(&self.columns.len()));
        let mut body = vec![VERSION];
        body.extend_from_slice(&self.config.encode());
        body.push(u8::from(self.unique));
        body.push(self.columns.len() as u8);
        self.columns.iter().for_each(|id| body.extend_from_slice(&id.to_le_bytes()));
        Chunk::build(INDEX, 0, &body, None, &[], 0)
    }

    pub(crate) fn decode(chunk: &Chunk) -> Result<IndexDefinition> {
        let malformed = |what: &str| Error::malformed(chunk.hash(), what);
        if chunk.kind() != INDEX || chunk.level() != 0 || chunk.child_count() + chunk.weak_count() > 0 {
            return Err(malformed("expected an index definition without references"));
        }
        let (version, rest) =
            chunk.body().split_first().ok_or_else(|| malformed("expected a version byte"))?;
        if *version != VERSION {
            return Err(malformed(&format!("expected index version {VERSION}, found {version}")));
        }
        let (config, rest) = rest
            .split_first_chunk::<ENCODED_LEN>()
            .ok_or_else(|| malformed("expected a map configuration"))?;
        let config = MapConfig::decode(config)
            .ok_or_else(|| malformed("expected means of 8 to 192 entries and 64 to 1,024 inline bytes"))?;
        let Some(([unique @ (0 | 1), count], ids)) = rest.split_first_chunk::<2>() else {
            return Err(malformed("expected whether it is unique, and a count of columns"));
        };
        let (ids, rest) = ids.as_chunks::<4>();
        let columns: Vec<u32> = ids.iter().map(|id| u32::from_le_bytes(*id)).collect();
        let distinct = (1..columns.len()).all(|i| !columns[..i].contains(&columns[i]));
        if !(1..=INDEX_COLUMNS_MAX).contains(&columns.len())
            || columns.len() != usize::from(*count)
            || !rest.is_empty()
            || !distinct
            || columns.iter().any(|id| *id > COLUMN_ID_MAX)
        {
            return Err(malformed("expected 1 to 16 ids of columns, each once"));
        }
        Ok(IndexDefinition { config, unique: *unique == 1, columns })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn golden_index_definition_bytes() {
        let config = MapConfig { leaf_mean: 64, inner_mean: 128, inline_bytes: 1024, salt: 5 };
        let definition = IndexDefinition { config, unique: true, columns: vec![2, 0x0102_0304] };
        let chunk = definition.encode();
        let good = [1, 64, 0, 128, 0, 0, 4, 5, 0, 0, 0, 0, 0, 0, 0, 1, 2, 2, 0, 0, 0, 4, 3, 2, 1];
        assert_eq!(chunk.body(), good);
        assert_eq!(IndexDefinition::decode(&chunk).unwrap(), definition);
        let decode = |body: &[u8]| IndexDefinition::decode(&Chunk::build(INDEX, 0, body, None, &[], 0));
        for (at, value) in [(0, 2), (1, 7), (15, 2), (16, 1), (16, 3), (24, 0x10)] {
            let mut bad = good;
            bad[at] = value;
            assert!(decode(&bad).is_err(), "byte {at} = {value}");
        }
        let mut twice = good;
        twice.copy_within(17..21, 21);
        assert!(decode(&twice).is_err(), "a column twice");
        (0..good.len()).for_each(|end| assert!(decode(&good[..end]).is_err(), "cut at {end}"));
        assert!(decode(&[&good[..], &[0]].concat()).is_err());
    }
}
