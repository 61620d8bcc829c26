//! Deleting a range of keys at the cost of its edges: what lies between is dropped unread.
//!
//! Two paths lead to the ends of the range. On each level, from the leaves up, one run of nodes goes, from the one on the left
//! path to the one on the right path, and what stays of these two, with what was made on the level below between them, is
//! cut into nodes again; nodes right of it are taken up until a boundary meets an old one. All that this asks of the level
//! above is again one run of entries that goes and a few that come.
//!
//! Invariant (test `deleted_ranges_leave_the_built_root`): the result is the root that building the rows that are left gives.

use std::ops::Range;

use pleach_chunkstore::Hash;

use super::{
    build::{self, Closed, LevelBuilder, TreeBuilder},
    config::MapConfig,
    diff::{self, Diff},
    edit,
    node::Node,
    range::KeyRange,
};
use crate::{
    chunks::{Read, Writer},
    error::{Error, Result},
};

/// The root of the map at `root` without the rows in `range`.
pub(crate) fn delete(writer: &mut Writer, config: &MapConfig, root: Hash, range: &KeyRange) -> Result<Hash> {
    if range.is_empty() {
        return Ok(root);
    }
    let mut left = Path::to(writer, &root, Some(&range.from))?;
    let mut right = Path::to(writer, &root, range.to.as_deref())?;
    if left.same_place(&right) {
        return Ok(root);
    }
    let mut made = Vec::new();
    let top = left.0.len() as u8 - 1;
    for level in 0..=top {
        made = join(writer, LevelBuilder::new(*config, level), &left, &mut right, made)?;
        left.0.pop();
        right.0.pop();
    }
    let mut nodes = made.into_iter();
    match (nodes.next(), nodes.next()) {
        (None, _) => build::empty(writer),
        (Some(only), None) => edit::collapse(writer, only.child.hash),
        (Some(first), Some(second)) => {
            let mut builder = TreeBuilder::above(*config, top + 1);
            for Closed { key, child } in [first, second].into_iter().chain(nodes) {
                builder.push_child(writer, &key, child)?;
            }
            builder.finish(writer)
        }
    }
}

/// Cuts one level again from the left path's node on: its entries before the range, `between`, and the entries behind the
/// range, until a boundary meets an old one. Returns the nodes; the right path then stands on the last node taken up.
fn join(
    writer: &mut Writer,
    builder: LevelBuilder,
    left: &Path,
    right: &mut Path,
    between: Vec<Closed>,
) -> Result<Vec<Closed>> {
    let (node, end) = left.last()?;
    let mut seam = Seam { builder, made: Vec::new(), last_key: None };
    seam.push(writer, node, 0..*end)?;
    for Closed { key, child } in between {
        seam.check(&key, &child.hash)?;
        seam.made
            .extend(seam.builder.add(writer, &key, Some(node), |encoder| encoder.push_child(&key, child))?);
    }
    let (node, i) = right.last()?;
    // A leaf's entry there is the first that stays; an inner node's leads to what was taken up below.
    let mut next = if node.is_leaf() { *i } else { *i + 1 };
    loop {
        let (node, _) = right.last()?;
        seam.push(writer, node, next..node.len())?;
        if right.is_last() {
            let last = seam.builder.close(writer)?;
            seam.made.extend(last);
            return Ok(seam.made);
        }
        if seam.builder.is_at_boundary() {
            return Ok(seam.made);
        }
        right.advance(writer)?;
        next = 0;
    }
}

/// The nodes of a level that are made anew.
struct Seam {
    builder: LevelBuilder,
    made: Vec<Closed>,
    last_key: Option<Vec<u8>>,
}

impl Seam {
    fn push(&mut self, writer: &mut Writer, node: &Node, entries: Range<usize>) -> Result<()> {
        if let Some(last) = entries.end.checked_sub(1).filter(|last| *last >= entries.start) {
            self.check(&node.key(entries.start), node.hash())?;
            self.last_key = Some(node.key(last));
        }
        self.builder.add_entries(writer, node, entries, |closed| self.made.push(closed))
    }

    /// Nodes are checked one by one when they arrive; that they follow each other shows here.
    fn check(&mut self, key: &[u8], node: &Hash) -> Result<()> {
        if self.last_key.as_deref().is_some_and(|last| key <= last) {
            return Err(Error::malformed(node, "expected keys beyond those of the node before"));
        }
        self.last_key = Some(key.to_vec());
        Ok(())
    }
}

/// A way from the root to a place between two entries: each node with the index of the child taken, or of the row behind the
/// place.
struct Path(Vec<(Node, usize)>);

impl Path {
    /// The way to the first row whose key is at least `key`; without a key, behind the last row.
    fn to(reader: &impl Read, root: &Hash, key: Option<&[u8]>) -> Result<Path> {
        let mut path = Vec::new();
        let mut node = Node::load(reader, root)?;
        loop {
            let i = key.map_or(node.len(), |key| node.lower_bound(key));
            if node.is_leaf() {
                path.push((node, i));
                return Ok(Path(path));
            }
            let i = i.min(node.len() - 1);
            let child = node.load_child_in_place(reader, i)?;
            path.push((node, i));
            node = child;
        }
    }

    fn same_place(&self, other: &Path) -> bool {
        self.0.iter().map(|(_, i)| i).eq(other.0.iter().map(|(_, i)| i))
    }

    fn last(&self) -> Result<&(Node, usize)> {
        self.0.last().ok_or_else(|| Error::malformed(&Hash::of(&[]), "expected a node on each level"))
    }

    /// Whether its last node is the last of its level.
    fn is_last(&self) -> bool {
        self.0.iter().rev().skip(1).all(|(node, i)| i + 1 == node.len())
    }

    /// Moves to the next node of the same level.
    fn advance(&mut self, reader: &impl Read) -> Result<()> {
        let height = self.0.len();
        self.0.pop();
        while self.0.last().is_some_and(|(node, i)| i + 1 == node.len()) {
            self.0.pop();
        }
        if let Some((_, i)) = self.0.last_mut() {
            *i += 1;
        }
        while self.0.len() < height {
            let (node, i) = self.last()?;
            let child = node.load_child_in_place(reader, *i)?;
            self.0.push((child, 0));
        }
        Ok(())
    }
}

/// The first key in `range` whose row is not the same in both maps.
pub(crate) fn first_change(
    reader: &impl Read,
    maps: [&Hash; 2],
    range: &KeyRange,
) -> Result<Option<Vec<u8>>> {
    if maps[0] == maps[1] || range.is_empty() {
        return Ok(None);
    }
    if super::get(reader, maps[0], &range.from)? != super::get(reader, maps[1], &range.from)? {
        return Ok(Some(range.from.clone()));
    }
    let [old, new] = maps.map(|root| Some((reader, *root)));
    let beyond = diff::Range { after: Some(range.from.clone()), until: range.to.clone() };
    let change = Diff::between(old, new, &beyond)?.next_change()?;
    let is_inside = |key: &Vec<u8>| range.to.as_ref().is_none_or(|to| key < to);
    Ok(change.map(|change| change.key).filter(is_inside))
}
