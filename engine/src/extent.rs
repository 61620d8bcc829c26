//! How much chunks hold, in rows and in bytes of their keys and values: what a transfer tells of how far it is. Chunks say it of themselves and of what is
//! below them, so that little is read for it.
//!
//! What is told twice is the same: the extents of all chunks of a table ([`Extent::of`]) add up to what its root says of it ([`Extent::of_map`]). Only what
//! stands in it twice, and is one chunk, counts twice there.

use std::collections::BTreeMap;
use std::iter::{self, Sum};
use std::ops::{Add, AddAssign};

use pleach_chunkstore::{Chunk, Hash, Store};

use crate::{
    blob, catalogue,
    chunks::Read,
    error::Result,
    history,
    kinds::{BLOB, MAP},
    map::node::{Node, Tag, value_bytes},
};

/// Rows of tables and entries of indexes, and the bytes of their keys and values, out-of-line values included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    /// How many.
    pub rows: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

impl Extent {
    /// What stands in a chunk itself: the rows of a leaf, the bytes of a piece of a value; nothing in what leads to others.
    pub fn of(chunk: &Chunk) -> Extent {
        match (chunk.kind(), chunk.level()) {
            (BLOB, 0) => Extent { rows: 0, bytes: chunk.body().len() as u64 },
            (MAP, 0) => Node::parse(chunk.clone()).map(|leaf| of_leaf(&leaf)).unwrap_or_default(),
            _ => Extent::default(),
        }
    }

    /// What a chunk says that stands below each of its children, by index. An inner node of a catalogue counts its entries and not what they lead to, and
    /// its leaves count nothing.
    pub fn below(chunk: &Chunk) -> Vec<Extent> {
        match (chunk.kind(), chunk.level()) {
            (BLOB, 1) => blob::lengths(chunk).map(|bytes| Extent { rows: 0, bytes }).collect(),
            (MAP, _) => Node::parse(chunk.clone()).map(|node| below_node(&node)).unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// [`Extent::below`] of some children, and below a catalogue's leaf what the roots of tables and indexes say, which are read.
    ///
    /// # Errors
    /// The store's; [`Error::Missing`](crate::Error::Missing).
    pub fn of_children(store: &Store, chunk: &Chunk, children: &[u32]) -> Result<Vec<Extent>> {
        let below = Extent::below(chunk);
        let leads = (chunk.kind(), chunk.level()) == (MAP, 0) && below.iter().all(|below| below.bytes == 0);
        let of = |child: &u32| match chunk.child(*child as usize).filter(|_| leads) {
            Some(root) => Ok(Extent::of_map(&store.chunk(&root)?)),
            None => Ok(below.get(*child as usize).copied().unwrap_or_default()),
        };
        children.iter().map(of).collect()
    }

    /// What stands in a chunk and all below it, by what it says.
    pub fn of_map(chunk: &Chunk) -> Extent {
        Extent::below(chunk).into_iter().chain(iter::once(Extent::of(chunk))).sum()
    }

    /// What stands in all tables and indexes of a commit, unless they are more than `most`: the root of each is read.
    ///
    /// # Errors
    /// The store's; [`Error::Missing`](crate::Error::Missing).
    pub fn of_commit(store: &Store, commit: &Hash, most: usize) -> Result<Option<Extent>> {
        let catalogue = history::load(store, commit)?.root;
        if Node::load(store, &catalogue)?.rows() > most as u64 {
            return Ok(None);
        }
        let tables = catalogue::tables(store, &catalogue)?.into_iter().map(|(_, table)| table.rows);
        let indexes =
            catalogue::all_indexes(store, &catalogue)?.into_values().flat_map(BTreeMap::into_values);
        let roots = tables.chain(indexes.map(|index| index.root));
        roots.map(|root| Ok(Extent::of_map(&store.chunk(&root)?))).sum::<Result<Extent>>().map(Some)
    }

    /// Such a part of it, of one.
    #[must_use]
    pub fn part(self, part: f64) -> Extent {
        Extent { rows: (self.rows as f64 * part) as u64, bytes: (self.bytes as f64 * part) as u64 }
    }

    /// The greater number of rows, and of bytes.
    #[must_use]
    pub fn max(self, other: Extent) -> Extent {
        Extent { rows: self.rows.max(other.rows), bytes: self.bytes.max(other.bytes) }
    }

    /// What is left of it without the other; nothing if that is more.
    #[must_use]
    pub fn without(self, other: Extent) -> Extent {
        Extent { rows: self.rows.saturating_sub(other.rows), bytes: self.bytes.saturating_sub(other.bytes) }
    }
}

impl Add for Extent {
    type Output = Extent;

    fn add(self, other: Extent) -> Extent {
        Extent { rows: self.rows.saturating_add(other.rows), bytes: self.bytes.saturating_add(other.bytes) }
    }
}

impl AddAssign for Extent {
    fn add_assign(&mut self, other: Extent) {
        *self = *self + other;
    }
}

impl Sum for Extent {
    fn sum<I: Iterator<Item = Extent>>(extents: I) -> Extent {
        extents.fold(Extent::default(), Add::add)
    }
}

/// The rows of a leaf, without the values that are out of line; those of a catalogue are no rows.
fn of_leaf(leaf: &Node) -> Extent {
    let all = Extent { rows: leaf.len() as u64, bytes: leaf.bytes() };
    match leaf.chunk().child_count() {
        0 => all,
        _ if (0..leaf.len()).any(|i| leaf.value(i).tag == Tag::Links) => Extent::default(),
        _ => all.without(below_node(leaf).into_iter().sum()),
    }
}

fn below_node(node: &Node) -> Vec<Extent> {
    let children = 0..node.len();
    if !node.is_leaf() {
        let child = |i| node.child(i);
        return children.map(child).map(|child| Extent { rows: child.rows, bytes: child.bytes }).collect();
    }
    let of = |i| {
        let value = node.value(i);
        let bytes = if value.tag == Tag::Blob { value_bytes(&value) } else { 0 };
        iter::repeat_n(Extent { rows: 0, bytes }, node.links(i))
    };
    children.flat_map(of).collect()
}
