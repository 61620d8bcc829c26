//! How far a sender is, and what is still to come: told from the chunks on the way down to where it is, which say what is below them. So nothing is counted
//! before it is sent, and a small transfer costs nothing.
//!
//! What follows as a whole is known exactly. Of a node that has an earlier version only a part follows; until its turn comes, that is taken to be as much as of the
//! nodes of its level so far. What later commits bring is taken to be what those before them did, without the largest; and all of a clone is at least what its newest
//! commit has. In the end it is exact. Called by `sender`.

use pleach_engine::{Chunk, Extent, Hash, Store};

use crate::error::Result;
use crate::limits::{COUNTED_TABLES_MAX, DEPTH_MAX};
use crate::proto;

/// How far a transfer is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// What is done: what the receiver had of it before, when it goes on where another was cut, and what was sent.
    pub done: Extent,
    /// What there is to be done, as far as that is known: never less than `done`, and the same in the end.
    pub total: Extent,
    /// What of both the receiver had before.
    pub before: Extent,
}

impl From<Totals> for proto::Totals {
    fn from(Totals { total, before, .. }: Totals) -> proto::Totals {
        let (rows, bytes) = (total.rows, total.bytes);
        proto::Totals { rows, bytes, rows_before: before.rows, bytes_before: before.bytes }
    }
}

/// Counts what is sent.
#[derive(Debug)]
pub(crate) struct Counter {
    sent: Extent,
    before: Extent,
    /// For each level, of its nodes that have an earlier version: the rows below them, and those of what follows.
    parts: [(u64, u64); DEPTH_MAX],
    pieces: Pieces,
    /// What there is at least.
    least: Extent,
}

/// What the pieces were that were sent.
#[derive(Debug, Default)]
struct Pieces {
    count: u64,
    sum: Extent,
    largest: Extent,
    /// What was sent before the one under way.
    before: Extent,
}

/// What stands below the children of a chunk, once that was asked: as it says itself, and of those that follow.
#[derive(Debug, Default)]
pub(crate) struct Below {
    said: Option<Vec<Extent>>,
    following: Option<Vec<Extent>>,
}

impl Below {
    /// What the chunk says of a child.
    pub(crate) fn of(&mut self, chunk: &Chunk, child: u32) -> Option<Extent> {
        self.said.get_or_insert_with(|| Extent::below(chunk)).get(child as usize).copied()
    }
}

impl Default for Counter {
    fn default() -> Counter {
        let (sent, before, least) = Default::default();
        Counter { sent, before, parts: [(0, 0); DEPTH_MAX], pieces: Pieces::default(), least }
    }
}

impl Counter {
    /// Notes that the chunk of a top comes next.
    pub(crate) fn begin_piece(&mut self) {
        let pieces = &mut self.pieces;
        let piece = self.sent.without(pieces.before);
        if piece != Extent::default() {
            pieces.count += 1;
            pieces.sum += piece;
            pieces.largest = pieces.largest.max(piece);
        }
        pieces.before = self.sent;
    }

    /// Notes a chunk that was sent, and of those that have an earlier version what follows.
    pub(crate) fn chunk(&mut self, chunk: &Chunk, is_based: bool, follow: &[u32]) {
        self.sent += Extent::of(chunk);
        let Some(part) = self.parts.get_mut(usize::from(chunk.level())) else { return };
        if is_based && chunk.level() > 0 && !follow.is_empty() {
            let below = Extent::below(chunk);
            let following = follow.iter().filter_map(|index| below.get(*index as usize));
            part.0 = part.0.saturating_add(below.iter().copied().sum::<Extent>().rows);
            part.1 = part.1.saturating_add(following.copied().sum::<Extent>().rows);
        }
    }

    /// Notes what was sent in another way.
    pub(crate) fn add(&mut self, extent: Extent) {
        self.sent += extent;
    }

    /// Notes the first `count` children of a chunk, which the receiver has got before.
    pub(crate) fn had(&mut self, store: &Store, chunk: &Chunk, count: u32) -> Result<()> {
        // What the receiver says that it has may be anything.
        let had: Vec<u32> = (0..count.min(chunk.child_count() as u32)).collect();
        self.before += Extent::of_children(store, chunk, &had)?.into_iter().sum();
        Ok(())
    }

    /// Notes that all that a commit has is sent, perhaps after others. What cannot be read is not counted; whoever sends it will find that.
    pub(crate) fn all_of(&mut self, store: &Store, commit: &Hash) {
        let counted = Extent::of_commit(store, commit, COUNTED_TABLES_MAX);
        self.least = counted.ok().flatten().unwrap_or_default();
    }

    /// Whether the receiver had something of the piece under way before.
    pub(crate) fn is_resumed(&self) -> bool {
        self.before != Extent::default()
    }

    /// What is likely to be sent of what stands below the children that follow a chunk, from the `next` of them on.
    pub(crate) fn ahead(
        &self,
        store: &Store,
        chunk: &Chunk,
        is_based: bool,
        follow: &[u32],
        below: &mut Below,
        next: usize,
    ) -> Result<Extent> {
        let below = match &mut below.following {
            Some(below) => below,
            none => none.insert(Extent::of_children(store, chunk, follow)?),
        };
        let rest: Extent = below.get(next..).unwrap_or_default().iter().copied().sum();
        let lower = self.parts.iter().take(usize::from(chunk.level())).skip(1).filter(|_| is_based);
        let part = |(all, some): &(u64, u64)| if *all == 0 { 1.0 } else { *some as f64 / *all as f64 };
        Ok(rest.part(lower.map(part).product()))
    }

    /// How far it is, when `ahead` of the piece under way and `pieces` more are to come.
    pub(crate) fn totals(&self, ahead: Extent, pieces: usize) -> Totals {
        let done = self.before + self.sent;
        let before = &self.pieces;
        let usual = before.sum.without(before.largest).part(pieces as f64 / before.count.max(2) as f64);
        Totals { done, total: (done + ahead + usual).max(self.least), before: self.before }
    }

    /// How far it is in the end.
    pub(crate) fn end(&self) -> Totals {
        let done = self.before + self.sent;
        Totals { done, total: done, before: self.before }
    }
}
