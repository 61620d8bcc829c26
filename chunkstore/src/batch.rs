//! A batch: the chunks of one append, in the order in which they were put.
//!
//! One idea: each chunk may name an earlier version of itself, so that only the difference is kept. Filled by whoever edits trees.

use std::collections::HashMap;

use crate::chunk::{Chunk, ChunkError};
use crate::hash::Hash;
use crate::index::Uniformly;
use crate::patch::{self, Kept};

/// A chunk, and how it is to be kept.
pub(crate) struct Put {
    pub(crate) chunk: Chunk,
    /// An earlier version of the same node.
    pub(crate) base: Option<Base>,
    /// It is written even if the store has it.
    pub(crate) anew: bool,
    /// Whether some of its strong children are promised, whatever the store is: it is a copy of one whose are.
    pub(crate) partial: bool,
}

/// The earlier version that a chunk is a difference from.
pub(crate) enum Base {
    At(Hash),
    /// The chunk, and the patch that leads from it to its next version.
    Known(Chunk, Vec<u8>),
}

impl Base {
    pub(crate) fn hash(&self) -> &Hash {
        match self {
            Base::At(hash) => hash,
            Base::Known(chunk, _) => chunk.hash(),
        }
    }
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
        self.add(chunk, base.map(Base::At));
    }

    /// Adds the next version of `base`: its bytes with some of them replaced, at ascending places of the chunk, header included, by others of
    /// the same length. Gives the chunk. What is known to be equal is neither compared nor looked up.
    ///
    /// # Panics
    /// If the places do not ascend or reach beyond the chunk: the caller's bug.
    pub fn put_replaced<B: AsRef<[u8]>>(
        &mut self,
        base: &Chunk,
        replaced: &[(usize, B)],
    ) -> Result<Chunk, ChunkError> {
        let mut bytes = base.bytes().to_vec();
        let (mut kept, mut done) = (Vec::with_capacity(replaced.len() + 1), 0);
        for (start, new) in replaced {
            let (start, new) = (*start, new.as_ref());
            assert!(done <= start, "replaced places ascend");
            kept.push(Kept { at: done, base_at: done, len: start - done });
            done = start + new.len();
            bytes[start..done].copy_from_slice(new);
        }
        kept.push(Kept { at: done, base_at: done, len: bytes.len() - done });
        let patch = patch::between(&bytes, base.bytes(), kept);
        let chunk = Chunk::from_bytes(bytes)?;
        self.add(chunk.clone(), patch.map(|patch| Base::Known(base.clone(), patch)));
        Ok(chunk)
    }

    /// Adds the next version of `base`, which has these stretches of it, ascending in both: what else they share is not looked for. A stretch
    /// that is not in both is passed over.
    pub fn put_keeping(&mut self, chunk: Chunk, base: &Chunk, kept: &[Kept]) {
        let patch = patch::keeping(chunk.bytes(), base.bytes(), kept.iter().copied());
        self.add(chunk, patch.map(|patch| Base::Known(base.clone(), patch)));
    }

    fn add(&mut self, chunk: Chunk, base: Option<Base>) {
        let hash = *chunk.hash();
        if let std::collections::hash_map::Entry::Vacant(place) = self.places.entry(hash) {
            place.insert(self.chunks.len());
            self.bytes += chunk.bytes().len();
            let base = base.filter(|base| *base.hash() != hash);
            self.chunks.push(Put { chunk, base, anew: false, partial: false });
        }
    }

    /// [`Batch::put`] of a chunk some of whose strong children are promised.
    pub(crate) fn put_partial(&mut self, chunk: Chunk, base: Option<Hash>) {
        let hash = *chunk.hash();
        self.put(chunk, base);
        if let Some(put) = self.places.get(&hash).and_then(|place| self.chunks.get_mut(*place)) {
            put.partial = true;
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

    /// Which of the chunks, in the order in which they were put, has this hash.
    pub(crate) fn place(&self, hash: &Hash) -> Option<usize> {
        self.places.get(hash).copied()
    }

    /// The chunks, in the order in which they were put.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Put> {
        self.chunks.iter()
    }
}
