//! Where chunks are read from and written to: the store alone, or the store and a batch that is not in it yet.
//!
//! Everything that walks a graph is generic over [`Read`], so that a transaction sees the nodes that it just made.
//! A [`Writer`] gives a large batch to the store piece by piece; as nodes are made children first, what is in the store
//! always has its whole closure there.
//!
//! No ref leads yet to what a writer has spilled, and what a change builds upon may lose its last ref meanwhile; so a writer
//! holds the one and keeps the other until the refs of its change are appended. Whoever only reads pins the root that it
//! starts from ([`pin`]).

use pleach_chunkstore::{Batch, Chunk, Hash, Hold, Outcome, RefUpdate, Store, Ticket, patch::Kept};

use crate::{
    error::{Error, Result},
    map::build,
};

/// A writer hands its batch to the store when it holds this many bytes at most, or such a part of the memory for work.
const BATCH_BYTES_MAX: usize = 2 << 20;
const BATCH_BYTES_MIN: usize = 256 << 10;
const BATCH_SHARE: u64 = 16;

/// A source of chunks.
pub(crate) trait Read {
    /// The chunk at `hash`; absent is [`Error::Missing`].
    fn chunk(&self, hash: &Hash) -> Result<Chunk>;

    /// The child of `parent` at `index`; absent is [`Error::Missing`].
    fn child(&self, parent: &Chunk, index: usize) -> Result<Chunk>;
}

impl Read for Store {
    fn chunk(&self, hash: &Hash) -> Result<Chunk> {
        if let Some(chunk) = self.local(hash)? {
            return Ok(chunk);
        }
        // A branch without a commit is compared with the empty map, whether or not a ref leads to one.
        if *hash == *build::empty_chunk().hash() {
            return Ok(build::empty_chunk().clone());
        }
        self.get(hash)?.ok_or(Error::Missing { hash: *hash })
    }

    fn child(&self, parent: &Chunk, index: usize) -> Result<Chunk> {
        let child = Store::child(self, parent, index)?;
        child.ok_or_else(|| Error::Missing { hash: parent.child(index).unwrap_or(*parent.hash()) })
    }
}

impl<R: Read> Read for &R {
    fn chunk(&self, hash: &Hash) -> Result<Chunk> {
        (**self).chunk(hash)
    }

    fn child(&self, parent: &Chunk, index: usize) -> Result<Chunk> {
        (**self).child(parent, index)
    }
}

/// The store, by a handle whose clones keep `root` and all under it as long as one of them lives.
pub(crate) fn pin(store: &Store, root: &Hash) -> Result<Store> {
    let mut pinned = store.pinned(root)?;
    // A partial copy gets it first.
    if pinned.is_none() && store.is_partial() && store.get(root)?.is_some() {
        pinned = store.pinned(root)?;
    }
    match pinned {
        Some(pinned) => Ok(pinned),
        None if *root == *build::empty_chunk().hash() => Ok(store.clone()),
        None => Err(Error::Missing { hash: *root }),
    }
}

/// Appends `batch` and moves refs, none of which then names what is not there. `hold` was taken before the first chunk was
/// made that the refs lead to.
pub(crate) fn append(store: &Store, hold: &Hold, batch: Batch, updates: &[RefUpdate]) -> Result<Outcome> {
    for new in updates.iter().filter_map(|update| update.new) {
        if !batch.contains(&new) {
            keep(store, hold, &new)?;
        }
    }
    Ok(store.append(batch, updates)?)
}

/// Has `hold` keep a chunk and all under it. A partial copy gets it first.
fn keep(store: &Store, hold: &Hold, hash: &Hash) -> Result<()> {
    let obtained = || Ok::<_, Error>(store.is_partial() && store.get(hash)?.is_some() && hold.keep(hash));
    match hold.keep(hash) || obtained()? {
        true => Ok(()),
        false => Err(Error::Missing { hash: *hash }),
    }
}

/// New chunks on their way into the store.
pub(crate) struct Writer {
    store: Store,
    batch: Batch,
    batch_bytes: usize,
    hold: Hold,
}

impl Writer {
    pub(crate) fn new(store: &Store) -> Writer {
        let share = (store.options().work_bytes / BATCH_SHARE) as usize;
        let batch_bytes = share.clamp(BATCH_BYTES_MIN, BATCH_BYTES_MAX);
        Writer { store: store.clone(), batch: Batch::default(), batch_bytes, hold: store.hold() }
    }

    /// A writer that goes on with a batch, whose chunks stand in it children first.
    pub(crate) fn continuing(store: &Store, batch: Batch) -> Writer {
        Writer { batch, ..Writer::new(store) }
    }

    /// What was not handed to the store yet.
    pub(crate) fn into_batch(self) -> Batch {
        self.batch
    }

    /// The store that it writes to.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Adds a chunk whose children are in the store or in this writer. `base` is an earlier version of it, if known.
    pub(crate) fn put(&mut self, chunk: Chunk, base: Option<Hash>) -> Result<()> {
        self.store.check_cancelled()?;
        self.batch.put(chunk, base);
        self.hand_over()
    }

    /// Adds the next version of `base`, which has these stretches of it, ascending in both.
    pub(crate) fn put_keeping(&mut self, chunk: Chunk, base: &Chunk, kept: &[Kept]) -> Result<()> {
        self.store.check_cancelled()?;
        self.batch.put_keeping(chunk, base, kept);
        self.hand_over()
    }

    /// Adds the next version of `base`: some bytes replaced, at ascending places, by as many others. Gives the chunk.
    pub(crate) fn put_replaced<B: AsRef<[u8]>>(
        &mut self,
        base: &Chunk,
        replaced: &[(usize, B)],
    ) -> Result<Chunk> {
        self.store.check_cancelled()?;
        let made = self.batch.put_replaced(base, replaced);
        let chunk = made.map_err(|error| Error::malformed(base.hash(), error.to_string()))?;
        self.hand_over()?;
        Ok(chunk)
    }

    fn hand_over(&mut self) -> Result<()> {
        if self.batch.bytes() > self.batch_bytes { self.flush() } else { Ok(()) }
    }

    /// Hands all over to the store, where others can read it.
    pub(crate) fn flush(&mut self) -> Result<()> {
        if !self.batch.is_empty() {
            match self.store.append(std::mem::take(&mut self.batch), &[])? {
                Outcome::Appended(_) => {}
                Outcome::Moved { name, .. } => return Err(Error::Moved { name }),
            }
        }
        Ok(())
    }

    /// Keeps a chunk and all under it until the writer is appended: no ref may lead to it any longer.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub(crate) fn keep(&self, hash: &Hash) -> Result<()> {
        if self.batch.contains(hash) { Ok(()) } else { keep(&self.store, &self.hold, hash) }
    }

    /// Appends what is left, with the refs that make it reachable.
    pub(crate) fn append(self, updates: &[RefUpdate]) -> Result<Ticket> {
        match append(&self.store, &self.hold, self.batch, updates)? {
            Outcome::Appended(ticket) => Ok(ticket),
            Outcome::Moved { name, .. } => Err(Error::Moved { name }),
        }
    }
}

impl Read for Writer {
    fn chunk(&self, hash: &Hash) -> Result<Chunk> {
        match self.batch.get(hash) {
            Some(chunk) => Ok(chunk.clone()),
            None => self.store.chunk(hash),
        }
    }

    fn child(&self, parent: &Chunk, index: usize) -> Result<Chunk> {
        let hash = parent.child(index).filter(|_| !self.batch.is_empty());
        match hash.and_then(|hash| self.batch.get(&hash)) {
            Some(chunk) => Ok(chunk.clone()),
            None => Read::child(&self.store, parent, index),
        }
    }
}
