//! Rows in conflict, kept as data in the branch's work until somebody decides.
//!
//! A merge that finds conflicts leaves ours in the tables, and beside each table a map from the row's key to its three
//! versions. A version commit is refused until the map is gone. A conflict's value:
//!
//! ```text
//! 0 u8 presence: bit 0 base, bit 1 ours, bit 2 theirs · for each that is present: u8 tag · u32 length · bytes as in a leaf
//! ```
//!
//! A blob named in it is held by the commits that are merged, which the work holds too.

use std::ops::Bound;

use pleach_chunkstore::{Hash, RefUpdate};

use crate::{
    blob,
    branches::Branch,
    catalogue::{self, Entry, Name, TableEntry},
    chunks::{Read, Writer},
    database::Database,
    definition::Definition,
    error::{Error, Result},
    index::{self, Indexed},
    map::{
        self,
        build::TreeBuilder,
        cursor::Rows,
        edit::{self, Edit},
        merge::{Decision, RowConflict},
        node::{Stored, Tag, Value},
    },
    names,
    resolve::Decider,
    snapshot::{Snapshot, load_value},
};

/// One of the two sides of a merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The branch that is merged into.
    Ours,
    /// What is merged.
    Theirs,
}

/// A row that both sides of a merge changed, each in its own way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The table.
    pub table: String,
    /// The row's key.
    pub key: Vec<u8>,
    /// Its value in the common ancestor.
    pub base: Option<Vec<u8>>,
    /// Its value on the branch.
    pub ours: Option<Vec<u8>>,
    /// Its value in what is merged.
    pub theirs: Option<Vec<u8>>,
}

fn encode(conflict: &RowConflict) -> Vec<u8> {
    let sides = [&conflict.base, &conflict.ours, &conflict.theirs];
    let presence = sides.iter().enumerate().map(|(i, side)| u8::from(side.is_some()) << i).sum();
    let mut bytes = vec![presence];
    for value in sides.into_iter().flatten() {
        bytes.push(value.tag as u8);
        bytes.extend_from_slice(&(value.bytes.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&value.bytes);
    }
    bytes
}

fn decode(key: &[u8], mut bytes: &[u8]) -> Option<RowConflict> {
    let (presence, rest) = bytes.split_first()?;
    bytes = rest;
    let mut side = |bit: u8| {
        if presence & (1 << bit) == 0 {
            return Some(None);
        }
        let (tag, rest) = bytes.split_first()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        bytes = rest;
        let tag = [Tag::Inline, Tag::Blob].into_iter().find(|known| *known as u8 == *tag)?;
        Some(Some(Value { tag, bytes: value.to_vec() }))
    };
    let (base, ours, theirs) = (side(0)?, side(1)?, side(2)?);
    (presence & !7 == 0 && bytes.is_empty()).then(|| RowConflict { key: key.to_vec(), base, ours, theirs })
}

/// A table's conflicts, which are written as they are found, in key order.
#[derive(Default)]
pub(crate) struct Conflicts {
    map: Option<TreeBuilder>,
    count: usize,
}

impl Conflicts {
    pub(crate) fn push(&mut self, writer: &mut Writer, conflict: &RowConflict) -> Result<()> {
        let map = self.map.get_or_insert_with(|| TreeBuilder::new(catalogue::CONFIG));
        let value = blob::store(writer, catalogue::CONFIG.inline_bytes, &encode(conflict))?;
        self.count += 1;
        map.push(writer, &conflict.key, Stored { tag: value.tag, bytes: &value.bytes })
    }

    /// How many there are, and the root of their map, if there are any.
    pub(crate) fn finish(self, writer: &mut Writer) -> Result<(usize, Option<Hash>)> {
        let root = self.map.map(|map| map.finish(writer)).transpose()?;
        Ok((self.count, root))
    }
}

/// Calls `f` with each conflict, in key order.
fn read<R: Read>(reader: R, root: &Hash, mut f: impl FnMut(RowConflict) -> Result<()>) -> Result<()> {
    let mut rows = Rows::new(&reader, root, Bound::Unbounded, Bound::Unbounded)?;
    while let Some((key, value)) = rows.next_row()? {
        let decoded = decode(key, &blob::load(&reader, value)?);
        f(decoded.ok_or_else(|| Error::malformed(root, "expected a conflict's three versions"))?)?;
    }
    Ok(())
}

impl Database {
    /// The rows of a branch that wait for a decision, by table and key.
    ///
    /// # Errors
    /// [`Error::UnknownBranch`].
    pub fn conflicts(&self, branch: &str) -> Result<Vec<Conflict>> {
        self.at_ref(&names::work(branch), |_| {
            self.conflicts_of(&Snapshot::new(self.store(), self.existing_branch(branch)?.work)?)
        })
    }

    fn conflicts_of(&self, work: &Snapshot) -> Result<Vec<Conflict>> {
        let load = |value: Option<Value>| value.map(|value| load_value(self.store(), value)).transpose();
        let mut conflicts = Vec::new();
        for (table, root) in catalogue::conflicts(self.store(), &work.root())? {
            read(self.store(), &root, |row| {
                let (base, ours, theirs) = (load(row.base)?, load(row.ours)?, load(row.theirs)?);
                conflicts.push(Conflict { table: table.clone(), key: row.key, base, ours, theirs });
                Ok(())
            })?;
        }
        Ok(conflicts)
    }

    pub(crate) fn count_conflicts(&self, work: &Hash) -> Result<usize> {
        let mut count = 0;
        for (_, root) in catalogue::conflicts(self.store(), work)? {
            count += map::size(self.store(), &root)?.0 as usize;
        }
        Ok(count)
    }

    /// Decides all conflicts of a branch for one side; returns how many. In a typed row only the cells that both sides changed are
    /// in conflict; others are merged. A row that was written since, by a transaction, stays if the side is ours. The merge is finished by a version commit.
    ///
    /// # Errors
    /// [`Error::UnknownBranch`]; [`Error::NoMerge`] if no merge is under way; [`Error::UniqueViolation`]: nothing is decided then.
    pub fn resolve_conflicts(&self, branch: &str, side: Side) -> Result<usize> {
        let (count, _) = self.write(|writer, updates| {
            let Branch { name, work, .. } = self.appended_branch(branch)?;
            if catalogue::merging(self.store(), &work)?.is_none() {
                return Err(Error::NoMerge { branch: name });
            }
            let mut changes = Vec::new();
            let mut count = 0;
            for (table, root) in catalogue::conflicts(self.store(), &work)? {
                count += map::size(self.store(), &root)?.0 as usize;
                let entry = catalogue::table(self.store(), &work, &table)?
                    .ok_or_else(|| Error::UnknownTable { name: table.clone() })?;
                let definition = Definition::decode(&writer.chunk(&entry.definition)?)?;
                let rows = take_side(writer, &table, &definition, entry.rows, &root, side)?;
                changes.push((Name::Table(table.clone()), Some(Entry::Table(TableEntry { rows, ..entry }))));
                if let Some(schema) = &definition.schema {
                    let mut indexes = catalogue::indexes(self.store(), &work, &table)?;
                    let indexed = Indexed { table: &table, schema };
                    index::follow(writer, indexed, &mut indexes, Some(entry.rows), rows)?;
                    let index = |(name, entry)| (Name::Index(table.clone(), name), Some(Entry::Index(entry)));
                    changes.extend(indexes.into_iter().map(index));
                }
                changes.push((Name::Conflicts(table), None));
            }
            let new = catalogue::change(writer, work, changes)?;
            updates.push(RefUpdate { name: names::work(&name), old: Some(work), new: Some(new) });
            Ok(count)
        })?;
        Ok(count)
    }
}

/// Decides the rows in conflict that the map at `conflicts` has for one side; returns the table's new root.
fn take_side(
    writer: &mut Writer,
    table: &str,
    definition: &Definition,
    mut rows: Hash,
    conflicts: &Hash,
    side: Side,
) -> Result<Hash> {
    /// What an edit is taken to need in memory beside its bytes.
    const EDIT_BYTES: usize = 192;
    let decider = Decider::of_side(table, definition, side);
    let store = writer.store().clone();
    let mut lease = store.lease();
    let (mut edits, mut bytes) = (Vec::new(), 0);
    let mut meter = store.meter("deciding", "rows", Some(map::size(&store, conflicts)?.0));
    read(&store, conflicts, |conflict| {
        meter.add(1);
        if side == Side::Ours && map::get(writer, &rows, &conflict.key)? != conflict.ours {
            return Ok(());
        }
        if let Decision::Row(new) = decider.decide(writer, &conflict)? {
            bytes += conflict.key.len() + new.as_ref().map_or(0, |new| new.bytes.len()) + EDIT_BYTES;
            edits.push(Edit { key: conflict.key, new });
        }
        if !lease.reach(bytes as u64) {
            rows = edit::apply(writer, &definition.config, rows, &std::mem::take(&mut edits))?;
            (bytes, edits) = (0, Vec::new());
            lease.release();
        }
        Ok(())
    })?;
    meter.end();
    edit::apply(writer, &definition.config, rows, &edits)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn golden_conflict_bytes() {
        let value = |bytes: &[u8]| Some(Value { tag: Tag::Inline, bytes: bytes.to_vec() });
        let conflict =
            RowConflict { key: b"k".to_vec(), base: value(b"old"), ours: None, theirs: value(b"new!") };
        let bytes = encode(&conflict);
        assert_eq!(bytes, b"\x05\0\x03\0\0\0old\0\x04\0\0\0new!");
        assert_eq!(decode(b"k", &bytes), Some(conflict));
        for end in 0..bytes.len() {
            assert_eq!(decode(b"k", &bytes[..end]), None, "cut at {end}");
        }
        assert_eq!(decode(b"k", &[&bytes[..], b"x"].concat()), None);
    }
}
