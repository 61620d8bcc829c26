//! Building a map from entries in order: each node is written once, children before parents.
//!
//! One encoder a level; when a level's encoder closes a node, its entry goes to the level above. The root is the only
//! node of the lowest level that has just one node, which is what [`edit`](super::edit) arrives at too.

use std::sync::LazyLock;

use pleach_chunkstore::{Chunk, Hash};

use super::{
    config::{KEY_BYTES_MAX, MapConfig},
    node::{Child, Encoder, Node, Stored},
};
use crate::{
    chunks::Writer,
    error::{Error, Result},
};

/// Collects the entries of one level and closes nodes at boundaries.
pub(crate) struct LevelBuilder {
    config: MapConfig,
    level: u8,
    encoder: Encoder,
    base: Option<Hash>,
}

/// A node, as the level above has it: its last key, and what is below.
#[derive(Debug, Clone)]
pub(crate) struct Closed {
    pub(crate) key: Vec<u8>,
    pub(crate) child: Child,
}

impl LevelBuilder {
    pub(crate) fn new(config: MapConfig, level: u8) -> LevelBuilder {
        LevelBuilder { config, level, encoder: Encoder::new(level), base: None }
    }

    /// Whether the last entry closed a node.
    pub(crate) fn is_at_boundary(&self) -> bool {
        self.encoder.len() == 0
    }

    /// Adds an entry by `push`; `base` is the earlier node that it stood in.
    pub(crate) fn add(
        &mut self,
        writer: &mut Writer,
        key: &[u8],
        base: Option<Hash>,
        push: impl FnOnce(&mut Encoder),
    ) -> Result<Option<Closed>> {
        if self.encoder.len() == 0 {
            self.base = base;
        }
        push(&mut self.encoder);
        if self.config.ends_node(self.level, key, self.encoder.len()) {
            return self.close(writer);
        }
        Ok(None)
    }

    /// Closes the node under way, if it has entries.
    pub(crate) fn close(&mut self, writer: &mut Writer) -> Result<Option<Closed>> {
        if self.encoder.len() == 0 {
            return Ok(None);
        }
        let key = self.encoder.last_key().to_vec();
        let chunk = self.encoder.finish();
        let closed = Closed::of(key, &chunk)?;
        writer.put(chunk, self.base.take())?;
        Ok(Some(closed))
    }
}

impl Closed {
    /// The entry of the node `chunk`, whose last key is `key`.
    pub(crate) fn of(key: Vec<u8>, chunk: &Chunk) -> Result<Closed> {
        let node = Node::parse(chunk.clone())?;
        Ok(Closed { key, child: Child { hash: *chunk.hash(), rows: node.rows(), bytes: node.bytes() } })
    }
}

/// Builds a whole tree from sorted entries.
pub(crate) struct TreeBuilder {
    config: MapConfig,
    first_level: u8,
    levels: Vec<Level>,
    order: Ascending,
}

/// Says whether keys come in strictly ascending order, and none is too long.
#[derive(Default)]
pub(crate) struct Ascending {
    last_key: Vec<u8>,
    keys: u64,
}

impl Ascending {
    pub(crate) fn check(&mut self, key: &[u8]) -> Result<()> {
        if key.len() > KEY_BYTES_MAX {
            return Err(Error::KeyTooLong { found: key.len(), max: KEY_BYTES_MAX });
        }
        if self.keys > 0 && key <= self.last_key.as_slice() {
            return Err(Error::Unsorted { entry: self.keys });
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.keys += 1;
        Ok(())
    }
}

struct Level {
    builder: LevelBuilder,
    /// How many nodes this level has closed, and the last of them.
    closed: u64,
    last: Option<Hash>,
}

impl TreeBuilder {
    /// A builder of a map whose rows come through [`TreeBuilder::push`].
    pub(crate) fn new(config: MapConfig) -> TreeBuilder {
        TreeBuilder::above(config, 0)
    }

    /// A builder of the levels from `level` on, whose entries come through [`TreeBuilder::push_child`].
    pub(crate) fn above(config: MapConfig, level: u8) -> TreeBuilder {
        TreeBuilder { config, first_level: level, levels: Vec::new(), order: Ascending::default() }
    }

    /// Adds a row; keys come in strictly ascending order.
    pub(crate) fn push(&mut self, writer: &mut Writer, key: &[u8], value: Stored<'_>) -> Result<()> {
        self.order.check(key)?;
        self.add(writer, 0, key, None, |encoder| encoder.push_value(key, value))
    }

    /// Adds a leaf that was made elsewhere, to a builder that gets no rows.
    pub(crate) fn push_leaf(&mut self, writer: &mut Writer, (closed, chunk): (Closed, Chunk)) -> Result<()> {
        writer.put(chunk, None)?;
        self.closed(writer, 0, closed)
    }

    /// Adds a child to the first level.
    pub(crate) fn push_child(
        &mut self,
        writer: &mut Writer,
        key: &[u8],
        child: Child,
        base: Option<Hash>,
    ) -> Result<()> {
        self.add(writer, 0, key, base, |encoder| encoder.push_child(key, child))
    }

    fn add(
        &mut self,
        writer: &mut Writer,
        at: usize,
        key: &[u8],
        base: Option<Hash>,
        push: impl FnOnce(&mut Encoder),
    ) -> Result<()> {
        let level = self.level(at);
        if let Some(closed) = level.builder.add(writer, key, base, push)? {
            self.closed(writer, at, closed)?;
        }
        Ok(())
    }

    fn level(&mut self, at: usize) -> &mut Level {
        while self.levels.len() <= at {
            let level = self.first_level + self.levels.len() as u8;
            let builder = LevelBuilder::new(self.config, level);
            self.levels.push(Level { builder, closed: 0, last: None });
        }
        &mut self.levels[at]
    }

    fn closed(&mut self, writer: &mut Writer, at: usize, closed: Closed) -> Result<()> {
        let level = self.level(at);
        level.closed += 1;
        level.last = Some(closed.child.hash);
        let Closed { key, child } = closed;
        self.add(writer, at + 1, &key, None, |encoder| encoder.push_child(&key, child))
    }

    /// Closes every level and returns the root.
    pub(crate) fn finish(mut self, writer: &mut Writer) -> Result<Hash> {
        let mut at = 0;
        loop {
            if let Some(closed) = self.level(at).builder.close(writer)? {
                self.closed(writer, at, closed)?;
            }
            match (self.levels[at].closed, self.levels[at].last) {
                (1, Some(root)) => return Ok(root),
                (0, _) => return empty(writer),
                _ => at += 1,
            }
        }
    }
}

/// Writes the node of the empty map and returns its address.
pub(crate) fn empty(writer: &mut Writer) -> Result<Hash> {
    writer.put(empty_chunk().clone(), None)?;
    Ok(*empty_chunk().hash())
}

/// The node of the empty map.
pub(crate) fn empty_chunk() -> &'static Chunk {
    static EMPTY: LazyLock<Chunk> = LazyLock::new(|| Encoder::new(0).finish());
    &EMPTY
}
