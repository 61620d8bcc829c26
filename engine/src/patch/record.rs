//! Reading the records of a patch: their order and what may stand where is checked here, what they say is their reader's.

use std::io::Read;

use pleach_chunkstore::{Chunk, Hash};

use super::{DELETE, END, INDEXES_MAX, INSERT, Kind, SPLICE, TABLE, UPDATE, file::BlockReader};
use crate::{
    VALUE_BYTES_MAX,
    definition::Definition,
    error::{Error, Result},
    index::{IndexChange, IndexDefinition},
    kinds::{DEFINITION, INDEX},
    map::{
        config::KEY_BYTES_MAX,
        node::{Tag, Value},
    },
};

/// Longest name of a table and longest definition in a patch, bytes: what a map's key and a chunk can hold.
const NAME_BYTES_MAX: u64 = KEY_BYTES_MAX as u64;
const DEFINITION_BYTES_MAX: u64 = 1 << 20;

/// A table's definition, and its bytes.
pub(super) struct Described {
    pub(super) definition: Definition,
    pub(super) bytes: Vec<u8>,
}

/// A record. The values of a row follow it, and are read before the next record.
pub(super) enum Record {
    Table {
        name: String,
        kind: Kind,
        before: Option<Box<Described>>,
        after: Option<Box<Described>>,
        indexes: Vec<IndexChange>,
    },
    Insert {
        key: Vec<u8>,
    },
    Delete {
        key: Vec<u8>,
    },
    Update {
        key: Vec<u8>,
    },
    Splice {
        key: Vec<u8>,
        splice: Splice,
    },
}

/// A change of some bytes of a blob.
pub(super) struct Splice {
    pub(super) old: Value,
    pub(super) new: Value,
    pub(super) place: u64,
    pub(super) old_bytes: Vec<u8>,
    pub(super) new_bytes: Vec<u8>,
}

pub(super) struct RecordReader<'a> {
    blocks: BlockReader<'a>,
    table: Option<(String, Kind)>,
    /// The table's key before; `None` before its first row.
    key: Option<Vec<u8>>,
}

impl<'a> RecordReader<'a> {
    pub(super) fn new(source: &'a mut dyn Read) -> Result<RecordReader<'a>> {
        Ok(RecordReader { blocks: BlockReader::new(source)?, table: None, key: None })
    }

    pub(super) fn blocks(&mut self) -> &mut BlockReader<'a> {
        &mut self.blocks
    }

    /// The next record; `None` at the end of the file, which is then whole.
    pub(super) fn next(&mut self) -> Result<Option<Record>> {
        let tag = self.blocks.byte()?;
        let kind = self.table.as_ref().map(|(_, kind)| *kind);
        let rows_fit = match (tag, kind) {
            (INSERT, Some(kind)) => kind != Kind::Dropped,
            (DELETE, Some(kind)) => kind != Kind::Added,
            (UPDATE | SPLICE, Some(kind)) => matches!(kind, Kind::Changed | Kind::Redefined),
            _ => false,
        };
        Ok(Some(match tag {
            END => {
                self.blocks.finish()?;
                return Ok(None);
            }
            TABLE => self.table()?,
            INSERT if rows_fit => Record::Insert { key: self.key()? },
            DELETE if rows_fit => Record::Delete { key: self.key()? },
            UPDATE if rows_fit => Record::Update { key: self.key()? },
            SPLICE if rows_fit => Record::Splice { key: self.key()?, splice: self.splice()? },
            _ => return Err(self.blocks.malformed(format!("expected no record of kind {tag} here"))),
        }))
    }

    fn table(&mut self) -> Result<Record> {
        let name = self.name()?;
        if self.table.as_ref().is_some_and(|(last, _)| *last >= name) {
            return Err(self.blocks.malformed("expected tables in the order of their names, each once"));
        }
        let kind = self.kind(&[Kind::Changed, Kind::Added, Kind::Dropped, Kind::Redefined])?;
        let before = if kind == Kind::Added { None } else { Some(self.definition()?) };
        let after =
            if matches!(kind, Kind::Added | Kind::Redefined) { Some(self.definition()?) } else { None };
        let indexes = self.indexes(kind)?;
        self.table = Some((name.clone(), kind));
        self.key = None;
        Ok(Record::Table { name, kind, before, after, indexes })
    }

    fn name(&mut self) -> Result<String> {
        let name = self.blocks.sized("name", NAME_BYTES_MAX)?;
        String::from_utf8(name).map_err(|_| self.blocks.malformed("expected a name in UTF-8"))
    }

    /// One of `kinds`.
    fn kind(&mut self, kinds: &[Kind]) -> Result<Kind> {
        let found = self.blocks.byte()?;
        let kind = kinds.iter().find(|kind| **kind as u8 == found).copied();
        kind.ok_or_else(|| self.blocks.malformed(format!("expected no change of kind {found} here")))
    }

    /// The changes of the indexes of a table of which there is this change.
    fn indexes(&mut self, table: Kind) -> Result<Vec<IndexChange>> {
        let count = self.blocks.number()?;
        if count > INDEXES_MAX {
            return Err(self
                .blocks
                .malformed(format!("expected at most {INDEXES_MAX} indexes, found {count}")));
        }
        let mut changes: Vec<IndexChange> = Vec::new();
        for _ in 0..count {
            let index = self.name()?;
            if changes.last().is_some_and(|last| last.index >= index) {
                return Err(self.blocks.malformed("expected indexes in the order of their names, each once"));
            }
            let kind = self.kind(match table {
                Kind::Added => &[Kind::Added],
                Kind::Dropped => &[Kind::Dropped],
                Kind::Changed | Kind::Redefined => &[Kind::Added, Kind::Dropped, Kind::Redefined],
            })?;
            let before = if kind == Kind::Added { None } else { Some(self.index()?) };
            let after = if kind == Kind::Dropped { None } else { Some(self.index()?) };
            if before == after {
                return Err(self.blocks.malformed("expected an index to change"));
            }
            changes.push(IndexChange { index, before, after });
        }
        Ok(changes)
    }

    fn index(&mut self) -> Result<IndexDefinition> {
        let bytes = self.blocks.sized("definition", DEFINITION_BYTES_MAX)?;
        let chunk = Chunk::build(INDEX, 0, &bytes, None, &[], 0);
        // Whatever decodes is canonical.
        IndexDefinition::decode(&chunk).map_err(|error: Error| {
            self.blocks.malformed(format!("expected the definition of an index: {error}"))
        })
    }

    fn definition(&mut self) -> Result<Box<Described>> {
        let bytes = self.blocks.sized("definition", DEFINITION_BYTES_MAX)?;
        let chunk = Chunk::build(DEFINITION, 0, &bytes, None, &[], 0);
        match Definition::decode(&chunk) {
            Ok(definition) if definition.encode() == chunk => Ok(Box::new(Described { definition, bytes })),
            Ok(_) => Err(self.blocks.malformed("expected the canonical bytes of a table's definition")),
            Err(error) => Err(self.blocks.malformed(format!("expected a table's definition: {error}"))),
        }
    }

    fn key(&mut self) -> Result<Vec<u8>> {
        let before = self.key.as_deref().unwrap_or_default();
        let shared = self.blocks.number()?;
        let Some(mut key) =
            usize::try_from(shared).ok().and_then(|shared| before.get(..shared)).map(<[u8]>::to_vec)
        else {
            return Err(self.blocks.malformed("expected a key that shares no more than the key before has"));
        };
        let rest = self.blocks.length("key", KEY_BYTES_MAX as u64 - shared)?;
        self.blocks.take_into(rest, &mut key)?;
        if self.key.as_ref().is_some_and(|before| *before >= key) {
            return Err(self.blocks.malformed("expected rows in the order of their keys, each once"));
        }
        self.key = Some(key.clone());
        Ok(key)
    }

    fn splice(&mut self) -> Result<Splice> {
        let (old, old_len) = self.blob()?;
        let (new, new_len) = self.blob()?;
        let place = self.blocks.number()?;
        let old_bytes = self.held()?;
        let new_bytes = self.held()?;
        let rest = old_len.checked_sub(old_bytes.len() as u64).filter(|rest| place <= *rest);
        match rest.map(|rest| rest + new_bytes.len() as u64) {
            Some(len) if len == new_len => Ok(Splice { old, new, place, old_bytes, new_bytes }),
            _ => Err(self.blocks.malformed("expected bytes that lead from the old length to the new one")),
        }
    }

    fn held(&mut self) -> Result<Vec<u8>> {
        self.blocks.sized("changed part", super::VALUE_BYTES_HELD_MAX)
    }

    fn blob(&mut self) -> Result<(Value, u64)> {
        let mut bytes = self.blocks.owned(Hash::LEN as u64)?;
        let len = self.value_len()?;
        bytes.extend_from_slice(&len.to_le_bytes());
        Ok((Value { tag: Tag::Blob, bytes }, len))
    }

    /// The length of a value; its bytes follow.
    pub(super) fn value_len(&mut self) -> Result<u64> {
        self.blocks.length("value", VALUE_BYTES_MAX as u64)
    }
}
