//! Prolly maps: ordered byte keys to byte values, as a tree of chunks whose shape is a function of the content.
//!
//! So equal maps have equal roots, two maps are compared in time proportional to their difference, and a change rewrites
//! one node a level. Files: `config` (where nodes end), `node` (their bytes), `build`, `leaves` (building by
//! several threads), `sort` (rows in any order), `edit`, `delete` (of ranges), `cursor`,
//! `rank` (counting), `range`, `align` (trees side by side), `diff`, `merge`, `graft` (whole nodes taken from another tree).

pub(crate) mod align;
pub(crate) mod build;
pub(crate) mod config;
pub(crate) mod cursor;
pub(crate) mod delete;
pub(crate) mod diff;
pub(crate) mod edit;
pub(crate) mod graft;
pub(crate) mod leaves;
pub(crate) mod merge;
pub(crate) mod node;
pub(crate) mod range;
pub(crate) mod rank;
pub(crate) mod sort;

use pleach_chunkstore::Hash;

use crate::{
    chunks::Read,
    error::Result,
    map::node::{Node, Value},
};

/// The value at `key` in the map at `root`, as stored.
pub(crate) fn get(reader: &impl Read, root: &Hash, key: &[u8]) -> Result<Option<Value>> {
    Ok(find(reader, root, key)?.map(|(leaf, i)| leaf.value(i).into()))
}

/// The leaf that holds the row at `key` in the map at `root`, and the row's index in it.
pub(crate) fn find(reader: &impl Read, root: &Hash, key: &[u8]) -> Result<Option<(Node, usize)>> {
    let mut node = Node::load(&reader, root)?;
    loop {
        let found = node.search(key);
        if node.is_leaf() {
            return Ok(found.ok().map(|i| (node, i)));
        }
        let (Ok(i) | Err(i)) = found;
        if i == node.len() {
            return Ok(None);
        }
        node = node.load_child(reader, i)?;
    }
}

/// Rows and bytes of the map at `root`.
pub(crate) fn size(reader: &impl Read, root: &Hash) -> Result<(u64, u64)> {
    let node: Node = Node::load(&reader, root)?;
    Ok((node.rows(), node.bytes()))
}

#[cfg(test)]
mod tests;
