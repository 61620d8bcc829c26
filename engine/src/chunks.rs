//! Where chunks are read from and written to: the store alone, or the store and a batch that is not in it yet.
//!
//! Everything that walks a graph is generic over [`Read`], so that a transaction sees the nodes that it just made.
//! A [`Writer`] gives a large batch to the store piece by piece; as nodes are made children first, what is in the store
//! always has its whole closure there.

use pleach_chunkstore::{Batch, Chunk, Hash, Outcome, Store};

use crate::error::{Error, Result};

/// A writer hands its batch to the store when it holds this many bytes.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// A source of chunks.
pub(crate) trait Read {
    /// The chunk at `hash`; absent is [`Error::Missing`].
    fn chunk(&self, hash: &Hash) -> Result<Chunk>;
}

impl Read for Store {
    fn chunk(&self, hash: &Hash) -> Result<Chunk> {
        self.get(hash)?.ok_or(Error::Missing { hash: *hash })
    }
}

impl<R: Read> Read for &R {
    fn chunk(&self, hash: &Hash) -> Result<Chunk> {
        (**self).chunk(hash)
    }
}

/// New chunks on their way into the store.
pub(crate) struct Writer {
    store: Store,
    batch: Batch,
}

impl Writer {
    pub(crate) fn new(store: &Store) -> Writer {
        Writer { store: store.clone(), batch: Batch::default() }
    }

    /// Adds a chunk whose children are in the store or in this writer. `base` is an earlier version of it, if known.
    pub(crate) fn put(&mut self, chunk: Chunk, base: Option<Hash>) -> Result<()> {
        self.batch.put(chunk, base);
        self.hand_over()
    }

    /// Adds the next version of `base`: some bytes replaced, at ascending places, by as many others. Gives the chunk.
    pub(crate) fn put_replaced<B: AsRef<[u8]>>(
        &mut self,
        base: &Chunk,
        replaced: &[(usize, B)],
    ) -> Result<Chunk> {
        let made = self.batch.put_replaced(base, replaced);
        let chunk = made.map_err(|error| Error::malformed(base.hash(), error.to_string()))?;
        self.hand_over()?;
        Ok(chunk)
    }

    fn hand_over(&mut self) -> Result<()> {
        if self.batch.bytes() > BATCH_BYTES_MAX {
            match self.store.append(std::mem::take(&mut self.batch), &[])? {
                Outcome::Appended(_) => {}
                Outcome::Moved { name, .. } => return Err(Error::Moved { name }),
            }
        }
        Ok(())
    }

    /// What is left to append, with the refs that make it reachable.
    pub(crate) fn into_batch(self) -> Batch {
        self.batch
    }
}

impl Read for Writer {
    fn chunk(&self, hash: &Hash) -> Result<Chunk> {
        match self.batch.get(hash) {
            Some(chunk) => Ok(chunk.clone()),
            None => self.store.chunk(hash),
        }
    }
}
