//! The catalogue: the map from names to everything that a branch's root holds.
//!
//! A root of a branch, committed or not, is the root of such a map. Its keys begin with a letter that says what they name;
//! its values are addresses alone (tag `Links`):
//!
//! ```text
//! t NAME         a table: its definition, the root of its rows
//! c NAME         rows of table NAME in conflict: the root of the map of conflicts (values: see `conflict`)
//! i TABLE/NAME   index NAME of a table: its definition, its root (entries: see `index`)
//! m              the merge under way: the commit being merged
//! ```
//!
//! Its configuration is fixed. Read and written by transactions, merge and the version commits.

use std::{collections::BTreeMap, ops::Bound};

use pleach_chunkstore::Hash;

use crate::{
    chunks::{Read, Writer},
    error::{Error, Result},
    map::{
        self,
        config::MapConfig,
        cursor::Rows,
        diff::{Diff, Range},
        edit::{self, Edit},
        node::{Stored, Tag, Value},
    },
};

/// How catalogues are cut into nodes.
pub(crate) const CONFIG: MapConfig = MapConfig { leaf_mean: 32, inner_mean: 64, inline_bytes: 1024, salt: 0 };

/// A table's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TableEntry {
    pub(crate) definition: Hash,
    pub(crate) rows: Hash,
}

/// An index's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) definition: Hash,
    pub(crate) root: Hash,
}

/// What a change of the catalogue sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    Table(TableEntry),
    Conflicts(Hash),
    Index(IndexEntry),
    Merge(Hash),
}

/// Which entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    Conflicts(String),
    /// Of a table, by its name.
    Index(String, String),
    Merge,
    Table(String),
}

impl Name {
    fn key(&self) -> Vec<u8> {
        match self {
            Name::Table(name) => [b"t", name.as_bytes()].concat(),
            Name::Conflicts(name) => [b"c", name.as_bytes()].concat(),
            Name::Index(table, name) => [b"i", table.as_bytes(), b"/", name.as_bytes()].concat(),
            Name::Merge => b"m".to_vec(),
        }
    }
}

impl Entry {
    fn value(&self) -> Value {
        let bytes = match self {
            Entry::Table(table) => [*table.definition.as_bytes(), *table.rows.as_bytes()].concat(),
            Entry::Index(index) => [*index.definition.as_bytes(), *index.root.as_bytes()].concat(),
            Entry::Conflicts(hash) | Entry::Merge(hash) => hash.as_bytes().to_vec(),
        };
        Value { tag: Tag::Links, bytes }
    }
}

/// The table whose rows, index or conflicts an entry's key names, and which of the entry's addresses is the first that leads to these: what
/// comes before defines them.
pub(crate) fn rows_of(key: &[u8]) -> Option<(&str, u32)> {
    let (kind, name) = key.split_first()?;
    let name = std::str::from_utf8(name).ok()?;
    match kind {
        b't' => Some((name, 1)),
        b'i' => name.split_once('/').map(|(table, _)| (table, 1)),
        b'c' => Some((name, 0)),
        _ => None,
    }
}

fn links<const N: usize>(root: &Hash, value: Stored<'_>) -> Result<[Hash; N]> {
    if value.tag != Tag::Links || value.bytes.len() != N * Hash::LEN {
        return Err(Error::malformed(root, format!("expected a catalogue entry of {N} addresses")));
    }
    let mut links = [Hash::from_bytes([0; Hash::LEN]); N];
    for (link, bytes) in links.iter_mut().zip(value.bytes.chunks_exact(Hash::LEN)) {
        if let Some(bytes) = bytes.first_chunk() {
            *link = Hash::from_bytes(*bytes);
        }
    }
    Ok(links)
}

/// The entry of table `name` in the catalogue at `root`.
pub(crate) fn table(reader: &impl Read, root: &Hash, name: &str) -> Result<Option<TableEntry>> {
    let Some(value) = map::get(reader, root, &Name::Table(name.to_owned()).key())? else { return Ok(None) };
    let [definition, rows] = links(root, Stored { tag: value.tag, bytes: &value.bytes })?;
    Ok(Some(TableEntry { definition, rows }))
}

/// All tables in the catalogue at `root`, by name.
pub(crate) fn tables(reader: &impl Read, root: &Hash) -> Result<Vec<(String, TableEntry)>> {
    entries(reader, root, b"t", |value| {
        let [definition, rows] = links(root, value)?;
        Ok(TableEntry { definition, rows })
    })
}

/// The maps of conflicts in the catalogue at `root`, by table.
pub(crate) fn conflicts(reader: &impl Read, root: &Hash) -> Result<Vec<(String, Hash)>> {
    entries(reader, root, b"c", |value| Ok(links::<1>(root, value)?[0]))
}

/// The indexes of a table in the catalogue at `root`, by name.
pub(crate) fn indexes(reader: &impl Read, root: &Hash, table: &str) -> Result<BTreeMap<String, IndexEntry>> {
    let prefix = Name::Index(table.to_owned(), String::new()).key();
    let found = entries(reader, root, &prefix, |value| index_entry(root, value))?;
    Ok(found.into_iter().collect())
}

/// All indexes in the catalogue at `root`, by table and name.
pub(crate) fn all_indexes(
    reader: &impl Read,
    root: &Hash,
) -> Result<BTreeMap<String, BTreeMap<String, IndexEntry>>> {
    let mut tables: BTreeMap<String, BTreeMap<String, IndexEntry>> = BTreeMap::new();
    for (path, entry) in entries(reader, root, b"i", |value| index_entry(root, value))? {
        let (table, name) = path.split_once('/').ok_or_else(|| bad_index_name(root))?;
        tables.entry(table.to_owned()).or_default().insert(name.to_owned(), entry);
    }
    Ok(tables)
}

/// Calls `f` with each index that is not the same in two catalogues: its table, and what it was and is.
pub(crate) fn changed_indexes<R: Read>(
    from: (R, Hash),
    to: (R, Hash),
    mut f: impl FnMut(&str, [Option<IndexEntry>; 2]),
) -> Result<()> {
    let root = to.1;
    // All keys with an `i`, as there are none with a `j`.
    let range = Range { after: Some(b"i".to_vec()), until: Some(b"j".to_vec()) };
    let mut changes = Diff::between(Some(from), Some(to), &range)?;
    while let Some(change) = changes.next_change()? {
        let path = change.key.get(1..).and_then(|path| std::str::from_utf8(path).ok());
        let (table, _) = path.and_then(|path| path.split_once('/')).ok_or_else(|| bad_index_name(&root))?;
        let entry = |value: Option<Value>| {
            value.map(|value| index_entry(&root, Stored { tag: value.tag, bytes: &value.bytes })).transpose()
        };
        f(table, [entry(change.old)?, entry(change.new)?]);
    }
    Ok(())
}

/// The tables whose entries are not the same in two catalogues, those behind `after` in the order of names.
pub(crate) fn changed_tables<R: Read>(
    from: (R, Hash),
    to: (R, Hash),
    after: Option<&str>,
) -> Result<ChangedTables<R>> {
    let root = to.1;
    let after = [b"t", after.unwrap_or_default().as_bytes()].concat();
    let changes = Diff::between(Some(from), Some(to), &Range { after: Some(after), until: None })?;
    Ok(ChangedTables { root, changes })
}

/// The names of tables that differ.
pub(crate) struct ChangedTables<R> {
    root: Hash,
    changes: Diff<R>,
}

impl<R: Read> Iterator for ChangedTables<R> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Result<String>> {
        let change = self.changes.next_change().transpose()?;
        // Tables are the last in a catalogue.
        let name = change.map(|change| change.key.get(1..).map(<[u8]>::to_vec).unwrap_or_default());
        let utf8 = |name| {
            String::from_utf8(name)
                .map_err(|_| Error::malformed(&self.root, "expected names of tables to be UTF-8"))
        };
        Some(name.and_then(utf8))
    }
}

fn bad_index_name(root: &Hash) -> Error {
    Error::malformed(root, "expected the name of an index to be TABLE/NAME")
}

/// One index of a table.
pub(crate) fn index(reader: &impl Read, root: &Hash, table: &str, name: &str) -> Result<Option<IndexEntry>> {
    let value = map::get(reader, root, &Name::Index(table.to_owned(), name.to_owned()).key())?;
    value.map(|value| index_entry(root, Stored { tag: value.tag, bytes: &value.bytes })).transpose()
}

fn index_entry(root: &Hash, value: Stored<'_>) -> Result<IndexEntry> {
    let [definition, index] = links(root, value)?;
    Ok(IndexEntry { definition, root: index })
}

/// The commit whose merge is under way.
pub(crate) fn merging(reader: &impl Read, root: &Hash) -> Result<Option<Hash>> {
    let value = map::get(reader, root, &Name::Merge.key())?;
    value.map(|value| Ok(links::<1>(root, Stored { tag: value.tag, bytes: &value.bytes })?[0])).transpose()
}

fn entries<T>(
    reader: &impl Read,
    root: &Hash,
    prefix: &[u8],
    decode: impl Fn(Stored<'_>) -> Result<T>,
) -> Result<Vec<(String, T)>> {
    let mut rows = Rows::new(reader, root, Bound::Included(prefix), Bound::Unbounded)?;
    let mut entries = Vec::new();
    while let Some((key, value)) = rows.next_row()? {
        let Some(name) = key.strip_prefix(prefix) else { break };
        let name = std::str::from_utf8(name)
            .map_err(|_| Error::malformed(root, "expected names of tables to be UTF-8"))?;
        entries.push((name.to_owned(), decode(value)?));
    }
    Ok(entries)
}

/// Applies changes to the catalogue at `root`; `None` removes an entry.
pub(crate) fn change(writer: &mut Writer, root: Hash, changes: Vec<(Name, Option<Entry>)>) -> Result<Hash> {
    let mut edits: Vec<_> = changes
        .into_iter()
        .map(|(name, entry)| Edit { key: name.key(), new: entry.map(|entry| entry.value()) })
        .collect();
    edits.sort_by(|a, b| a.key.cmp(&b.key));
    edit::apply(writer, &CONFIG, root, &edits)
}
