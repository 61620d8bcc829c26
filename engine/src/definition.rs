//! The definition of a table: how its map is cut into nodes, and its schema.
//!
//! A chunk of kind [`DEFINITION`], level 0, without references. Tables that are alike share it; it is written once.
//!
//! ```text
//! 0 u8 version = 1 · map configuration (14 bytes, see `map::config`) · encoded schema (none in a raw table)
//! ```

use pleach_chunkstore::Chunk;

use crate::{
    error::{Error, Result},
    kinds::DEFINITION,
    map::config::{ENCODED_LEN, MapConfig},
    row::Schema,
};

const VERSION: u8 = 1;

/// What a table is: the configuration of its map, and its columns unless it holds raw keys and values.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// How the table's map is cut into nodes.
    pub config: MapConfig,
    /// The columns; `None` in a raw key-value table.
    pub schema: Option<Schema>,
}

impl Definition {
    /// What a table is if nothing else is said: typed with a schema, of raw keys and values without; not salted, so that equal content has
    /// equal roots in any database.
    pub fn new(schema: Option<Schema>) -> Definition {
        // A cell takes about 12 bytes on average, its share of the key included.
        let config = schema
            .as_ref()
            .map_or_else(MapConfig::default, |schema| MapConfig::for_row_bytes(schema.columns().len() * 12));
        Definition { config, schema }
    }

    /// The same with a salt, for a table whose keys strangers choose: [`Database::salt`](crate::Database::salt), or one that is random and kept
    /// from them. Without it they can choose keys so that one insert rewrites hundreds of leaves. Equal content then has equal roots only under
    /// the same salt.
    pub fn salted(self, salt: u64) -> Definition {
        Definition { config: MapConfig { salt, ..self.config }, ..self }
    }

    pub(crate) fn encode(&self) -> Chunk {
        let mut body = vec![VERSION];
        body.extend_from_slice(&self.config.encode());
        if let Some(schema) = &self.schema {
            body.extend_from_slice(&schema.encode());
        }
        Chunk::build(DEFINITION, 0, &body, None, &[], 0)
    }

    pub(crate) fn decode(chunk: &Chunk) -> Result<Definition> {
        let malformed = |what: &str| Error::malformed(chunk.hash(), what);
        if chunk.kind() != DEFINITION || chunk.level() != 0 || chunk.child_count() + chunk.weak_count() > 0 {
            return Err(malformed("expected a table definition without references"));
        }
        let (version, rest) =
            chunk.body().split_first().ok_or_else(|| malformed("expected a version byte"))?;
        if *version != VERSION {
            return Err(malformed(&format!("expected definition version {VERSION}, found {version}")));
        }
        let (config, schema) = rest
            .split_first_chunk::<ENCODED_LEN>()
            .ok_or_else(|| malformed("expected a map configuration"))?;
        let config = MapConfig::decode(config)
            .ok_or_else(|| malformed("expected means of 8 to 192 entries and 64 to 1,024 inline bytes"))?;
        let schema = match schema {
            [] => None,
            bytes => Some(Schema::decode(bytes)?),
        };
        Ok(Definition { config, schema })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn golden_definition_bytes() {
        let config = MapConfig { leaf_mean: 64, inner_mean: 128, inline_bytes: 1024, salt: 5 };
        let definition = Definition { config, schema: None };
        let chunk = definition.encode();
        assert_eq!(chunk.body(), [1, 64, 0, 128, 0, 0, 4, 5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Definition::decode(&chunk).unwrap(), definition);
    }

    #[test]
    fn a_definition_of_another_version_or_out_of_range_is_refused() {
        let good = [1, 64, 0, 128, 0, 0, 4, 5, 0, 0, 0, 0, 0, 0, 0];
        let decode = |body: &[u8]| Definition::decode(&Chunk::build(DEFINITION, 0, body, None, &[], 0));
        assert!(decode(&good).is_ok());
        for (at, value) in [(0, 2), (1, 7), (3, 255), (5, 9)] {
            let mut bad = good;
            bad[at] = value;
            assert!(decode(&bad).is_err(), "byte {at} = {value}");
        }
        assert!(decode(&good[..14]).is_err());
    }
}
