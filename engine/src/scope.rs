//! Which part of a database a copy has: the scope of a difference for a partial clone.
//!
//! A partial copy has chunks without some of their children. What it lacks it was promised by the remote that it is a copy of
//! ([`Database::partial_of`](crate::Database::partial_of)). Where the walk of a difference leaves something out is decided here alone.

use std::collections::BTreeSet;

use pleach_chunkstore::Chunk;

use crate::{catalogue, error::Result, kinds::COMMIT, map::node::Node};

/// The part of a database that is wanted. The default is all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Only the commits that are fewer steps than this from a target; 0 is none of them, and `None` all.
    pub depth: Option<u32>,
    /// Only the rows, the indexes and the conflicts of these tables. Of the others their names and definitions come along. Empty: all tables.
    pub tables: BTreeSet<String>,
    /// Commits, each with the root of its catalogue, and nothing below.
    pub lazy: bool,
}

/// Where a chunk stands, as far as a scope asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Commit,
    Catalogue,
    /// Below a catalogue.
    Below,
}

impl Place {
    /// Where a child of `parent`, which stands here, stands.
    pub(crate) fn of_child(self, parent: &Chunk) -> Place {
        match self {
            Place::Commit => Place::Catalogue,
            Place::Catalogue if parent.level() > 0 => Place::Catalogue,
            Place::Catalogue | Place::Below => Place::Below,
        }
    }

    /// Where a chunk stands that is no child of another.
    pub(crate) fn of_top(chunk: &Chunk) -> Place {
        if chunk.kind() == COMMIT { Place::Commit } else { Place::Catalogue }
    }
}

impl Scope {
    /// Whether nothing is left out.
    pub fn is_all(&self) -> bool {
        *self == Scope::default()
    }

    /// The indexes of the children of a chunk that are left out.
    pub(crate) fn left_out(&self, chunk: &Chunk, place: Place) -> Result<BTreeSet<u32>> {
        match place {
            Place::Catalogue if self.lazy => Ok((0..chunk.child_count() as u32).collect()),
            Place::Catalogue if !self.tables.is_empty() && chunk.level() == 0 => self.other_tables(chunk),
            _ => Ok(BTreeSet::new()),
        }
    }

    fn other_tables(&self, leaf: &Chunk) -> Result<BTreeSet<u32>> {
        let node = Node::parse(leaf.clone())?;
        let (mut left_out, mut child) = (BTreeSet::new(), 0);
        for entry in 0..node.len() {
            let links = node.links(entry) as u32;
            if let Some((table, first)) = catalogue::rows_of(&node.key(entry))
                && !self.tables.contains(table)
            {
                left_out.extend(child + first..child + links);
            }
            child += links;
        }
        Ok(left_out)
    }
}
