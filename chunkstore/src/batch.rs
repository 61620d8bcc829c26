//! A batch: the chunks of one append, in the order in which they were put.
//!
//! One idea: each chunk may name an earlier version of itself, so that only the difference is kept. Filled by whoever edits trees.

use std::collections::HashMap;

use crate::chunk::Chunk;
use crate::hash::Hash;
use crate::index::Uniformly;

/// A chunk, and how it is to be kept.
pub(crate) struct Put {
    pub(crate) chunk: Chunk,
    /// An earlier version of the same node.
    pub(crate) base: Option<Hash>,
    /// It is written even if the store has it.
    pub(crate) anew: bool,
}

/// Chunks to be appended together.
#[derive(Default)]
pub struct Batch {
    chunks: Vec<Put>,
    places: HashMap<Hash, usize, Uniformly>,
    bytes: usize,
}

impl Batch {
    /// Adds a chunk, unless it is there. `base` is an earlier version of the same node, in the store or put before in this batch; it only
    /// matters for how much space the chunk takes.
    pub fn put(&mut self, chunk: Chunk, base: Option<Hash>) {
        let hash = *chunk.hash();
        if let std::collections::hash_map::Entry::Vacant(place) = self.places.entry(hash) {
            place.insert(self.chunks.len());
            self.bytes += chunk.bytes().len();
            self.chunks.push(Put { chunk, base: base.filter(|base| *base != hash), anew: false });
        }
    }

    /// Adds a chunk that is to be written whole even if the store has it: to repair one that cannot be read.
    pub fn put_anew(&mut self, chunk: Chunk) {
        let hash = *chunk.hash();
        self.put(chunk, None);
        if let Some(put) = self.places.get(&hash).and_then(|place| self.chunks.get_mut(*place)) {
            (put.base, put.anew) = (None, true);
        }
    }

    /// The chunk with this hash, if it was put.
    pub fn get(&self, hash: &Hash) -> Option<&Chunk> {
        self.places.get(hash).and_then(|place| self.chunks.get(*place)).map(|put| &put.chunk)
    }

    /// Whether the chunk was put.
    pub fn contains(&self, hash: &Hash) -> bool {
        self.places.contains_key(hash)
    }

    /// Number of chunks.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether no chunk was put.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Bytes of all chunks together.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The chunks, in the order in which they were put.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Put> {
        self.chunks.iter()
    }
}
