//! A batch: the chunks of one append, in the order in which they were put.
//!
//! One idea: each chunk may name an earlier version of itself, so that only the difference is kept. Filled by whoever edits trees.

use std::collections::HashMap;

use crate::chunk::Chunk;
use crate::hash::Hash;
use crate::index::Uniformly;

/// Chunks to be appended together.
#[derive(Default)]
pub struct Batch {
    chunks: Vec<(Chunk, Option<Hash>)>,
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
            self.chunks.push((chunk, base.filter(|base| *base != hash)));
        }
    }

    /// The chunk with this hash, if it was put.
    pub fn get(&self, hash: &Hash) -> Option<&Chunk> {
        self.places.get(hash).and_then(|place| self.chunks.get(*place)).map(|(chunk, _)| chunk)
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

    /// The chunks with their bases, in the order in which they were put.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(Chunk, Option<Hash>)> {
        self.chunks.iter()
    }
}
