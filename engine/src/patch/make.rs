//! Writing a patch from the difference of two states.

use std::io::Write;

use super::{
    DELETE, END, INSERT, Kind, SPLICE, TABLE, UPDATE, VALUE_BYTES_HELD_MAX, file::BlockWriter, record::Splice,
};
use crate::{
    blob::ValueReader,
    definition::Definition,
    error::Result,
    index::IndexChange,
    map::{
        diff::RowChange,
        node::{Tag, Value},
    },
    snapshot::{Changes, Table, TableChange, TableDiff},
};

/// Writes what leads from one state to the other, as [`Snapshot::diff`](crate::Snapshot::diff) gives it. The patch is whole when this returns.
///
/// # Errors
/// The store's; [`Error::Output`](crate::Error::Output).
pub fn make(differences: &[TableDiff], out: &mut dyn Write) -> Result<()> {
    let mut blocks = BlockWriter::new(out)?;
    let mut tables: Vec<&TableDiff> = differences.iter().collect();
    tables.sort_by(|a, b| a.table.cmp(&b.table));
    for table in tables {
        let kind = match table.kind() {
            TableChange::Added => Kind::Added,
            TableChange::Dropped => Kind::Dropped,
            TableChange::Changed if table.schema_changed() => Kind::Redefined,
            TableChange::Changed => Kind::Changed,
        };
        let [before, after] = [&table.from, &table.to].map(|side| side.as_ref().map(Table::definition));
        let definitions = match kind {
            Kind::Redefined => [before, after],
            _ => [before.or(after), None],
        };
        let definitions: Vec<_> = definitions.into_iter().flatten().map(bytes_of).collect();
        put_table(&mut blocks, &table.table, kind, definitions.iter().map(Vec::as_slice))?;
        put_indexes(&mut blocks, &table.index_changes()?)?;
        put_rows(&mut blocks, table.changes()?)?;
    }
    blocks.byte(END)?;
    blocks.finish()
}

fn bytes_of(definition: &Definition) -> Vec<u8> {
    definition.encode().body().to_vec()
}

pub(super) fn put_table<'a>(
    blocks: &mut BlockWriter<'_>,
    name: &str,
    kind: Kind,
    definitions: impl Iterator<Item = &'a [u8]>,
) -> Result<()> {
    blocks.byte(TABLE)?;
    blocks.sized(name.as_bytes())?;
    blocks.byte(kind as u8)?;
    for definition in definitions {
        blocks.sized(definition)?;
    }
    Ok(())
}

pub(super) fn put_indexes(blocks: &mut BlockWriter<'_>, indexes: &[IndexChange]) -> Result<()> {
    blocks.number(indexes.len() as u64)?;
    for IndexChange { index, before, after } in indexes {
        let kind = match (before, after) {
            (None, _) => Kind::Added,
            (_, None) => Kind::Dropped,
            _ => Kind::Redefined,
        };
        blocks.sized(index.as_bytes())?;
        blocks.byte(kind as u8)?;
        for definition in [before, after].into_iter().flatten() {
            blocks.sized(definition.encode().body())?;
        }
    }
    Ok(())
}

/// Writes a row's tag and its key, of which `before` is the one before.
pub(super) fn put_key(
    blocks: &mut BlockWriter<'_>,
    tag: u8,
    before: &mut Vec<u8>,
    key: Vec<u8>,
) -> Result<()> {
    let shared = before.iter().zip(&key).take_while(|(a, b)| a == b).count();
    blocks.byte(tag)?;
    blocks.number(shared as u64)?;
    blocks.sized(&key[shared..])?;
    *before = key;
    Ok(())
}

pub(super) fn put_splice(blocks: &mut BlockWriter<'_>, splice: &Splice) -> Result<()> {
    for blob in [&splice.old, &splice.new] {
        let (address, len) = blob.bytes.split_at(blob.bytes.len() - 8);
        blocks.bytes(address)?;
        blocks.number(len.iter().rev().fold(0, |len, byte| len << 8 | u64::from(*byte)))?;
    }
    blocks.number(splice.place)?;
    blocks.sized(&splice.old_bytes)?;
    blocks.sized(&splice.new_bytes)
}

fn put_rows(blocks: &mut BlockWriter<'_>, mut changes: Changes) -> Result<()> {
    let mut before = Vec::new();
    while let Some(RowChange { key, old, new }) = changes.next_stored()? {
        match (old, new) {
            (None, None) => {}
            (None, Some(new)) => {
                put_key(blocks, INSERT, &mut before, key)?;
                put_value(blocks, changes.after(new)?)?;
            }
            (Some(old), None) => {
                put_key(blocks, DELETE, &mut before, key)?;
                put_value(blocks, changes.before(old)?)?;
            }
            (Some(old), Some(new)) => match spliced(&changes, &old, &new)? {
                Some(splice) => {
                    put_key(blocks, SPLICE, &mut before, key)?;
                    put_splice(blocks, &splice)?;
                }
                None => {
                    put_key(blocks, UPDATE, &mut before, key)?;
                    put_value(blocks, changes.before(old)?)?;
                    put_value(blocks, changes.after(new)?)?;
                }
            },
        }
    }
    Ok(())
}

fn put_value(blocks: &mut BlockWriter<'_>, mut value: ValueReader) -> Result<()> {
    blocks.copied(value.len(), &mut value)
}

/// The bytes that differ between two blobs, if they lie close together.
fn spliced(changes: &Changes, old: &Value, new: &Value) -> Result<Option<Splice>> {
    if old.tag != Tag::Blob || new.tag != Tag::Blob {
        return Ok(None);
    }
    let (mut before, mut after) = (changes.before(old.clone())?, changes.after(new.clone())?);
    let (start, old_end, new_end) = before.differing(&after);
    if (old_end - start).max(new_end - start) > VALUE_BYTES_HELD_MAX {
        return Ok(None);
    }
    let (mut old_bytes, mut new_bytes) = (before.range(start..old_end)?, after.range(start..new_end)?);
    let same = old_bytes.iter().zip(&new_bytes).take_while(|(a, b)| a == b).count();
    old_bytes.drain(..same);
    new_bytes.drain(..same);
    let tail = old_bytes.iter().rev().zip(new_bytes.iter().rev()).take_while(|(a, b)| a == b).count();
    old_bytes.truncate(old_bytes.len() - tail);
    new_bytes.truncate(new_bytes.len() - tail);
    let place = start + same as u64;
    Ok(Some(Splice { old: old.clone(), new: new.clone(), place, old_bytes, new_bytes }))
}
