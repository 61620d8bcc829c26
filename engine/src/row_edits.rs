//! The difference of two tables as the rows that changed, and the way back: from rows that changed to the table. What fetch, push and
//! replication send instead of nodes: a map's root follows from its rows, so whoever has the old table makes the new one, and its hash
//! says whether it is the one that was meant.
//!
//! A table, or an index, is named by the catalogue leaf that lists it: the leaf leads to its definition, without which it cannot be cut
//! into nodes. Rows whose values are out of line, or are links, do not travel so.

use pleach_chunkstore::{Batch, Chunk, Hash, Store};

use crate::{
    chunks::{Read, Writer},
    definition::Definition,
    error::{Error, Result},
    index::IndexDefinition,
    kinds::{DEFINITION, INDEX, MAP},
    map::{
        self,
        config::{KEY_BYTES_MAX, MapConfig},
        diff::{Diff, Range},
        edit::{self, Edit},
        node::{Node, Stored, Tag, Value},
    },
};

/// The root of a table or an index, as a leaf of a catalogue names it.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    /// The leaf.
    pub leaf: &'a Chunk,
    /// The root's index among the leaf's children.
    pub child: u32,
}

/// A row that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowEdit {
    /// Its key, as stored.
    pub key: Vec<u8>,
    /// What its value was; `None` if there was none, or if it was out of line.
    pub old: Option<Vec<u8>>,
    /// What its value is; `None`: the row is gone.
    pub new: Option<Vec<u8>>,
}

/// How much a difference may be to be told in rows.
#[derive(Debug, Clone, Copy)]
pub struct RowEditLimits {
    /// Rows.
    pub rows: usize,
    /// Bytes of their keys; of their old values; of their new values.
    pub bytes: usize,
}

/// The rows that lead from one table to another, in key order. `None` if they cannot be told so: one of the two is no table or index, they
/// are cut into nodes in different ways, a new value is out of line, or there are more rows than `limits` say.
///
/// # Errors
/// The store's.
pub fn row_edits(
    store: &Store,
    from: Named<'_>,
    to: Named<'_>,
    limits: RowEditLimits,
) -> Result<Option<Vec<RowEdit>>> {
    let (Some((config, from)), Some((to_config, to))) = (find(store, from)?, find(store, to)?) else {
        return Ok(None);
    };
    if config != to_config {
        return Ok(None);
    }
    let mut diff = Diff::between(Some((store, from)), Some((store, to)), &Range::default())?;
    let mut edits = Vec::new();
    let (mut keys, mut olds, mut news) = (0, 0, 0);
    while let Some(changed) = diff.next_row()? {
        let new = match changed.new {
            None => None,
            Some(Stored { tag: Tag::Inline, bytes }) => Some(bytes.to_vec()),
            Some(_) => return Ok(None),
        };
        let old = changed.old.and_then(inline);
        keys += changed.key.len();
        olds += old.as_ref().map_or(0, Vec::len);
        news += new.as_ref().map_or(0, Vec::len);
        if edits.len() == limits.rows || keys.max(olds).max(news) > limits.bytes {
            return Ok(None);
        }
        edits.push(RowEdit { key: changed.key.to_vec(), old, new });
    }
    Ok(Some(edits))
}

/// Makes the next version of a table from the rows that changed.
pub struct Rebuild {
    writer: Writer,
    config: MapConfig,
    root: Hash,
}

impl Rebuild {
    /// Of the table `from`, which is in the store or in `batch`. The one that `to` names must be cut into nodes in the same way.
    ///
    /// # Errors
    /// [`Error::Malformed`] if one of the two is no table or index, or they are cut in different ways; [`Error::Missing`], and the store's.
    pub fn new(store: &Store, batch: Batch, from: Named<'_>, to: Named<'_>) -> Result<Rebuild> {
        let writer = Writer::continuing(store, batch);
        let (from_found, to_found) = (find(&writer, from)?, find(&writer, to)?);
        let (Some((from_config, root)), Some((config, _))) = (from_found, to_found) else {
            return Err(Error::malformed(to.leaf.hash(), "expected the entry of a table or an index"));
        };
        // Else one row would make every node anew.
        if from_config != config {
            return Err(Error::malformed(
                to.leaf.hash(),
                "expected a table that is cut into nodes as before",
            ));
        }
        Ok(Rebuild { writer, config, root })
    }

    /// What stands at `key`, as [`RowEdit::old`] has it.
    ///
    /// # Errors
    /// The store's, and [`Error::Malformed`].
    pub fn old(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let found = map::find(&self.writer, &self.root, key)?;
        Ok(found.and_then(|(leaf, i)| inline(leaf.value(i))))
    }

    /// Sets or deletes rows, in key order, and gives the root that results, with all its nodes that are not in the store in the batch. They
    /// are put there children first.
    ///
    /// # Errors
    /// [`Error::Unsorted`]; [`Error::Malformed`] if a key or a value is longer than a row's can be, or if the old table is no map.
    pub fn apply(
        mut self,
        rows: impl IntoIterator<Item = (Vec<u8>, Option<Vec<u8>>)>,
    ) -> Result<(Chunk, Batch)> {
        let mut edits = Vec::new();
        for (key, new) in rows {
            let longest = usize::from(self.config.inline_bytes);
            if key.len() > KEY_BYTES_MAX || new.as_ref().is_some_and(|new| new.len() > longest) {
                let what = format!("expected keys of {KEY_BYTES_MAX} bytes at most, and values of {longest}");
                return Err(Error::malformed(&self.root, what));
            }
            edits.push(Edit { key, new: new.map(|bytes| Value { tag: Tag::Inline, bytes }) });
        }
        let root = edit::apply(&mut self.writer, &self.config, self.root, &edits)?;
        let chunk = self.writer.chunk(&root)?;
        Ok((chunk, self.writer.into_batch()))
    }
}

fn inline(value: Stored<'_>) -> Option<Vec<u8>> {
    (value.tag == Tag::Inline).then(|| value.bytes.to_vec())
}

/// How the table is cut into nodes, and its root; `None` if it is no table or index.
fn find(reader: &impl Read, named: Named<'_>) -> Result<Option<(MapConfig, Hash)>> {
    let leaf = named.leaf;
    if leaf.kind() != MAP || leaf.level() != 0 {
        return Ok(None);
    }
    let node = Node::parse(leaf.clone())?;
    let mut before = 0;
    for i in 0..node.len() {
        let links = node.links(i);
        if (named.child as usize) < before + links {
            // An entry of a table or an index names its definition, then its root.
            if node.value(i).tag != Tag::Links || links != 2 || named.child as usize != before + 1 {
                return Ok(None);
            }
            let [Some(definition), Some(root)] = [before, before + 1].map(|child| leaf.child(child)) else {
                return Ok(None);
            };
            let definition = reader.chunk(&definition)?;
            let config = match definition.kind() {
                DEFINITION => Definition::decode(&definition)?.config,
                INDEX => IndexDefinition::decode(&definition)?.config,
                _ => return Ok(None),
            };
            return Ok(Some((config, root)));
        }
        before += links;
    }
    Ok(None)
}
