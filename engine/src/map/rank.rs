//! Counting rows by what inner nodes say of their subtrees: one node a level is read, whatever lies between.

use pleach_chunkstore::Hash;

use super::{
    node::{Node, Value},
    range::KeyRange,
};
use crate::{chunks::Read, error::Result};

/// How many rows of the map at `root` come before `key`.
pub(crate) fn rank(reader: &impl Read, root: &Hash, key: &[u8]) -> Result<u64> {
    let mut node = Node::load(reader, root)?;
    let mut rows = 0_u64;
    loop {
        let i = node.lower_bound(key);
        if node.is_leaf() {
            return Ok(rows.saturating_add(i as u64));
        }
        rows = (0..i).fold(rows, |sum, child| sum.saturating_add(node.child(child).rows));
        if i == node.len() {
            return Ok(rows);
        }
        node = node.load_child(reader, i)?;
    }
}

/// How many rows of the map at `root` lie in `range`.
pub(crate) fn count(reader: &impl Read, root: &Hash, range: &KeyRange) -> Result<u64> {
    if range.is_empty() {
        return Ok(0);
    }
    let end = match &range.to {
        Some(to) => rank(reader, root, to)?,
        None => super::size(reader, root)?.0,
    };
    Ok(end.saturating_sub(rank(reader, root, &range.from)?))
}

/// The row that has `n` rows before it; `None` if there are not as many.
pub(crate) fn select(reader: &impl Read, root: &Hash, mut n: u64) -> Result<Option<(Vec<u8>, Value)>> {
    let mut node = Node::load(reader, root)?;
    loop {
        if node.is_leaf() {
            let i = usize::try_from(n).unwrap_or(usize::MAX);
            return Ok((i < node.len()).then(|| {
                let value = node.value(i);
                (node.key(i), Value { tag: value.tag, bytes: value.bytes.to_vec() })
            }));
        }
        let mut i = 0;
        while i < node.len() && node.child(i).rows <= n {
            n -= node.child(i).rows;
            i += 1;
        }
        if i == node.len() {
            return Ok(None);
        }
        node = node.load_child(reader, i)?;
    }
}
