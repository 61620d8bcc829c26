//! Turning a patch around: what it deletes is inserted, and what it makes of a value was one before.

use std::io::{Read, Write};

use super::{
    DELETE, END, INSERT, Kind, SPLICE, UPDATE,
    file::BlockWriter,
    make::{put_indexes, put_key, put_splice, put_table},
    record::{Record, RecordReader, Splice},
};
use crate::{error::Result, index::IndexChange};

/// Writes the patch that takes back what the one in `source` does.
///
/// # Errors
/// [`Error::MalformedPatch`](crate::Error::MalformedPatch); [`Error::Source`](crate::Error::Source), [`Error::Output`](crate::Error::Output).
/// What was written until then is no whole patch.
pub fn invert(source: &mut dyn Read, out: &mut dyn Write) -> Result<()> {
    let mut records = RecordReader::new(source)?;
    let mut blocks = BlockWriter::new(out)?;
    let mut last = Vec::new();
    while let Some(record) = records.next()? {
        match record {
            Record::Table { name, kind, before, after, mut indexes } => {
                let kind = match kind {
                    Kind::Added => Kind::Dropped,
                    Kind::Dropped => Kind::Added,
                    kind => kind,
                };
                let definitions = [&after, &before].into_iter().flatten();
                put_table(&mut blocks, &name, kind, definitions.map(|side| side.bytes.as_slice()))?;
                for IndexChange { before, after, .. } in &mut indexes {
                    std::mem::swap(before, after);
                }
                put_indexes(&mut blocks, &indexes)?;
                last.clear();
            }
            Record::Insert { key } => {
                put_key(&mut blocks, DELETE, &mut last, key)?;
                copy_value(&mut records, &mut blocks)?;
            }
            Record::Delete { key } => {
                put_key(&mut blocks, INSERT, &mut last, key)?;
                copy_value(&mut records, &mut blocks)?;
            }
            Record::Update { key } => {
                put_key(&mut blocks, UPDATE, &mut last, key)?;
                let len = records.value_len()?;
                let old = records.blocks().owned(len)?;
                copy_value(&mut records, &mut blocks)?;
                blocks.sized(&old)?;
            }
            Record::Splice { key, splice } => {
                let Splice { old, new, place, old_bytes, new_bytes } = splice;
                put_key(&mut blocks, SPLICE, &mut last, key)?;
                let turned = Splice { old: new, new: old, place, old_bytes: new_bytes, new_bytes: old_bytes };
                put_splice(&mut blocks, &turned)?;
            }
        }
    }
    blocks.byte(END)?;
    blocks.finish()
}

fn copy_value(records: &mut RecordReader<'_>, blocks: &mut BlockWriter<'_>) -> Result<()> {
    let len = records.value_len()?;
    blocks.copied(len, records.blocks())
}
