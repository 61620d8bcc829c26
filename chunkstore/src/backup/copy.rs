//! Copying what one store lacks of another.
//!
//! One idea: what the target has is passed over, with all under it, and what it lacks comes after its children; so the target is closed at
//! every moment. What the source lacks itself, as a remote has promised it, stays promised: the copy of a chunk that names it is marked as partial.
//!
//! Each chunk is kept as a difference: from the earlier version that its kind names, else from what stood in its place in the
//! earlier version of its parent. Memory is the path from the root, one batch, and the addresses of versions that are to come.

use std::collections::{HashMap, HashSet};

use super::Kinds;
use crate::batch::Batch;
use crate::chunk::Chunk;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::index::Uniformly;
use crate::progress::Meter;
use crate::store::{Outcome, Store};

/// Copies what one store lacks of another, children before parents.
pub(super) struct Copy<'a> {
    from: &'a Store,
    to: &'a Store,
    kinds: Kinds<'a>,
    meter: Meter,
    batch: Batch,
    batch_bytes: usize,
    chunks: u64,
}

/// A chunk whose children are being copied.
struct Open {
    chunk: Chunk,
    base: Option<Hash>,
    /// For each child, the one that stands in its place in the base; none before they are looked at.
    pairs: Option<Vec<Option<Hash>>>,
    next: usize,
    /// Whether a child was passed over that the source lacks, and the target too.
    lacks: bool,
}

impl<'a> Copy<'a> {
    /// Copying from one store to another, which is given batches of about `batch_bytes`; `meter` counts chunks.
    pub(super) fn new(
        from: &'a Store,
        to: &'a Store,
        batch_bytes: usize,
        kinds: Kinds<'a>,
        meter: Meter,
    ) -> Copy<'a> {
        Copy { from, to, kinds, meter, batch: Batch::default(), batch_bytes, chunks: 0 }
    }

    /// A chunk of the source, from its file and hashed now: rot must not be copied. `None` if the source lacks it, and may: it is promised to the
    /// chunk that names it.
    fn get(&self, hash: &Hash, named_by: Option<&Hash>) -> Result<Option<Chunk>> {
        match self.from.read_anew(hash)? {
            None if named_by.is_some_and(|parent| self.from.is_partial_chunk(parent)) => Ok(None),
            None => Err(Error::Missing { hash: *hash }),
            found => Ok(found),
        }
    }

    /// Whether the target has the chunk, and so its closure, or will have it with the batch.
    fn has(&self, hash: &Hash) -> bool {
        self.batch.contains(hash) || self.to.contains(hash)
    }

    /// Copies `root` and all under it; `base`, if the target has it, is an earlier version.
    pub(super) fn tree(&mut self, root: &Hash, base: Option<&Hash>) -> Result<()> {
        // Earlier versions come first. They may be many, so that of each only the address is kept until it is its turn.
        let mut versions = Vec::new();
        let mut version = Some(*root);
        while let Some(hash) = version.filter(|hash| !self.has(hash)) {
            let Some(chunk) = self.get(&hash, versions.last())? else { break };
            versions.push(hash);
            version = (self.kinds.earlier)(&chunk).and_then(|index| chunk.child(index));
        }
        while let Some(version) = versions.pop() {
            self.walk(&version, base)?;
        }
        Ok(())
    }

    fn walk(&mut self, root: &Hash, base: Option<&Hash>) -> Result<()> {
        let mut path: Vec<Open> = Vec::new();
        self.open(&mut path, root, base)?;
        while let Some(last) = path.last_mut() {
            let pairs = last.pairs.get_or_insert_with(|| match &last.base {
                Some(base) if last.chunk.child_count() > 0 => self.pair(&last.chunk, base),
                _ => Vec::new(),
            });
            match last.chunk.child(last.next) {
                Some(child) => {
                    let base = pairs.get(last.next).copied().flatten();
                    last.next += 1;
                    self.open(&mut path, &child, base.as_ref())?;
                }
                None => {
                    if let Some(open) = path.pop() {
                        self.put(open)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Begins with a chunk that the target lacks; before it, with an earlier version of it that the target lacks. One that is promised to the last
    /// chunk of the path is passed over.
    fn open(&self, path: &mut Vec<Open>, hash: &Hash, base: Option<&Hash>) -> Result<()> {
        let mut hash = *hash;
        while !self.has(&hash) {
            let Some(chunk) = self.get(&hash, path.last().map(|parent| parent.chunk.hash()))? else {
                if let Some(parent) = path.last_mut() {
                    parent.lacks = true;
                }
                return Ok(());
            };
            let earlier = (self.kinds.earlier)(&chunk).and_then(|index| chunk.child(index));
            path.push(Open { chunk, base: earlier.or(base.copied()), pairs: None, next: 0, lacks: false });
            match earlier {
                Some(earlier) => hash = earlier,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Pairs the children of a chunk with those of its base, which the target has by now; if it cannot be read, with none.
    fn pair(&self, chunk: &Chunk, base: &Hash) -> Vec<Option<Hash>> {
        let there = self.batch.get(base).cloned().or_else(|| self.to.local(base).ok().flatten());
        there.map(|base| pair(chunk, &base)).unwrap_or_default()
    }

    fn put(&mut self, open: Open) -> Result<()> {
        let Open { chunk, base, lacks, .. } = open;
        if self.batch.contains(chunk.hash()) {
            return Ok(());
        }
        match lacks {
            true => self.batch.put_partial(chunk, base),
            false => self.batch.put(chunk, base),
        }
        self.chunks += 1;
        self.meter.add(1);
        if self.batch.bytes() > self.batch_bytes { self.flush() } else { Ok(()) }
    }

    /// Hands over what is left; gives the number of chunks that were copied.
    pub(super) fn end(mut self) -> Result<u64> {
        self.flush()?;
        self.meter.end();
        Ok(self.chunks)
    }

    fn flush(&mut self) -> Result<()> {
        match self.to.append(std::mem::take(&mut self.batch), &[])? {
            Outcome::Appended(_) => Ok(()),
            Outcome::Moved { .. } => unreachable!("no ref is moved"),
        }
    }
}

/// For each child of `new`, the child of `old` that stands in its place: between children that both have, the ones that only one has are
/// taken in order.
pub(super) fn pair(new: &Chunk, old: &Chunk) -> Vec<Option<Hash>> {
    if (new.kind(), new.level()) != (old.kind(), old.level()) {
        return Vec::new();
    }
    let (new, old): (Vec<Hash>, Vec<Hash>) = (new.children().collect(), old.children().collect());
    let kept: HashSet<&Hash, Uniformly> = new.iter().collect();
    let places: HashMap<&Hash, usize, Uniformly> =
        old.iter().enumerate().map(|(place, hash)| (hash, place)).collect();
    let mut at = 0;
    let pair_one = |hash: &Hash| match places.get(hash) {
        Some(place) => {
            at = at.max(place + 1);
            None
        }
        None => {
            let there = old.get(at).filter(|there| !kept.contains(there)).copied();
            at += usize::from(there.is_some());
            there
        }
    };
    new.iter().map(pair_one).collect()
}
