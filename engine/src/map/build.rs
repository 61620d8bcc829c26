//! Building a map from entries in order: each node is written once, children before parents.
//!
//! One encoder a level; when a level's encoder closes a node, its entry goes to the level above. The root is the only
//! node of the lowest level that has just one node, which is what [`edit`](super::edit) arrives at too.

use std::{ops::Range, sync::LazyLock};

use pleach_chunkstore::{Chunk, Hash};

use super::{
    config::{KEY_BYTES_MAX, MapConfig},
    node::{Child, Encoder, Node, Run, Stored},
};
use crate::{
    chunks::Writer,
    error::{Error, Result},
};

/// Collects the entries of one level and closes nodes at boundaries.
///
/// It is told which earlier node an entry comes from. The first entry's is the version before of the node being made, and the entries that
/// this has of that are known, so that the store need not look for what is the same.
pub(crate) struct LevelBuilder {
    config: MapConfig,
    level: u8,
    encoder: Encoder,
    /// The earlier version of the node under way, and the entries that came from it.
    base: Option<Node>,
    runs: Vec<Run>,
}

/// A node, as the level above has it: its last key, and what is below.
#[derive(Debug, Clone)]
pub(crate) struct Closed {
    pub(crate) key: Vec<u8>,
    pub(crate) child: Child,
}

impl LevelBuilder {
    pub(crate) fn new(config: MapConfig, level: u8) -> LevelBuilder {
        LevelBuilder { config, level, encoder: Encoder::new(level), base: None, runs: Vec::new() }
    }

    /// Whether the last entry closed a node.
    pub(crate) fn is_at_boundary(&self) -> bool {
        self.encoder.len() == 0
    }

    /// Adds an entry by `push`; `base` is the earlier node in whose range of keys it lies.
    pub(crate) fn add(
        &mut self,
        writer: &mut Writer,
        key: &[u8],
        base: Option<&Node>,
        push: impl FnOnce(&mut Encoder),
    ) -> Result<Option<Closed>> {
        self.begin(base);
        push(&mut self.encoder);
        self.close_at(writer, key)
    }

    /// Adds these entries of `node`, and gives the nodes that they close.
    pub(crate) fn add_entries(
        &mut self,
        writer: &mut Writer,
        node: &Node,
        entries: Range<usize>,
        mut closed: impl FnMut(Closed),
    ) -> Result<()> {
        let mut key = node.prefix().to_vec();
        for i in entries {
            self.begin(Some(node));
            if self.base.as_ref().is_some_and(|base| base.hash() == node.hash()) {
                let here = self.encoder.len();
                match self.runs.last_mut() {
                    Some(run) if (run.here + run.len, run.there + run.len) == (here, i) => run.len += 1,
                    _ => self.runs.push(Run { here, there: i, len: 1 }),
                }
            }
            key.truncate(node.prefix().len());
            key.extend_from_slice(node.suffix(i));
            self.encoder.push_entry(node, i);
            if let Some(made) = self.close_at(writer, &key)? {
                closed(made);
            }
        }
        Ok(())
    }

    fn begin(&mut self, base: Option<&Node>) {
        if self.encoder.len() == 0 {
            self.base = base.cloned();
        }
    }

    fn close_at(&mut self, writer: &mut Writer, key: &[u8]) -> Result<Option<Closed>> {
        match self.config.ends_node(self.level, key, self.encoder.len()) {
            true => self.close(writer),
            false => Ok(None),
        }
    }

    /// Closes the node under way, if it has entries.
    pub(crate) fn close(&mut self, writer: &mut Writer) -> Result<Option<Closed>> {
        if self.encoder.len() == 0 {
            return Ok(None);
        }
        let key = self.encoder.last_key().to_vec();
        let node = Node::parse(self.encoder.finish())?;
        match self.base.take().filter(|_| !self.runs.is_empty()) {
            Some(base) => {
                let kept = node.kept(&base, &self.runs);
                writer.put_keeping(node.chunk().clone(), base.chunk(), &kept)?;
            }
            None => writer.put(node.chunk().clone(), None)?,
        }
        self.runs.clear();
        Ok(Some(Closed::of(key, &node)))
    }
}

impl Closed {
    /// The entry of `node`, whose last key is `key`.
    pub(crate) fn of(key: Vec<u8>, node: &Node) -> Closed {
        Closed { key, child: Child { hash: *node.hash(), rows: node.rows(), bytes: node.bytes() } }
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
        self.add(writer, 0, key, |encoder| encoder.push_value(key, value))
    }

    /// Adds a leaf that was made elsewhere, to a builder that gets no rows.
    pub(crate) fn push_leaf(&mut self, writer: &mut Writer, (closed, chunk): (Closed, Chunk)) -> Result<()> {
        writer.put(chunk, None)?;
        self.closed(writer, 0, closed)
    }

    /// Adds a child to the first level.
    pub(crate) fn push_child(&mut self, writer: &mut Writer, key: &[u8], child: Child) -> Result<()> {
        self.add(writer, 0, key, |encoder| encoder.push_child(key, child))
    }

    fn add(
        &mut self,
        writer: &mut Writer,
        at: usize,
        key: &[u8],
        push: impl FnOnce(&mut Encoder),
    ) -> Result<()> {
        let level = self.level(at);
        if let Some(closed) = level.builder.add(writer, key, None, push)? {
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
        self.add(writer, at + 1, &key, |encoder| encoder.push_child(&key, child))
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
