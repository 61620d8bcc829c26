//! How far a transfer has come, so that it goes on there after it was cut. Kept by `receiver`, told by whoever asks for the rest, used by
//! `sender`'s side to walk the difference from there.
//!
//! What a receiver has stored is whole subtrees. So two things say where to go on: the commits that are complete, which count as held like any
//! other, and a place within the piece that was under way. The chunks that lead to that place are sent again, and name as following
//! only what comes from there on; that the rest is held is checked as ever. A place that does not fit (the receiver's store was collected, the
//! sender's refs have moved) costs bytes, never more.

use std::collections::HashSet;

use pleach_engine::Hash;

use crate::error::{Error, Result, within};
use crate::limits::{DEPTH_MAX, HAVES_MAX, RESUME_TRIES, RESUME_WAIT, RESUME_WAIT_MAX};
use crate::proto;
use crate::refs::hash_from;

/// How far a receiver has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reached {
    /// Commits that are stored with all that they reach, the newest first.
    pub commits: Vec<Hash>,
    /// Where the piece that was under way goes on.
    pub place: Option<Place>,
}

impl Reached {
    /// Adds how far an attempt has come that began here. Whether that is any further.
    pub(crate) fn go_on(&mut self, attempt: Reached) -> bool {
        if attempt == Reached::default() || attempt == *self {
            return false;
        }
        let earlier = std::mem::replace(self, attempt);
        let known: HashSet<Hash> = self.commits.iter().copied().collect();
        self.commits.extend(earlier.commits.into_iter().filter(|commit| !known.contains(commit)));
        self.commits.truncate(HAVES_MAX);
        true
    }
}

/// A place within a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The piece's top.
    pub top: Hash,
    /// For each chunk on the way down, the index of the child that comes next.
    pub path: Vec<u32>,
}

impl Place {
    pub(crate) fn to_proto(&self) -> proto::Place {
        proto::Place { top: bytes::Bytes::copy_from_slice(self.top.as_bytes()), path: self.path.clone() }
    }

    pub(crate) fn from_proto(place: &proto::Place) -> Result<Place> {
        within("depth of a place", place.path.len(), DEPTH_MAX)?;
        if place.path.is_empty() {
            return Err(Error::protocol("a place within a piece has a path"));
        }
        Ok(Place { top: hash_from(&place.top, "top")?, path: place.path.clone() })
    }
}

/// How long a transfer that is cut again and again is taken up.
#[derive(Default)]
pub(crate) struct Patience {
    /// Attempts since the last that got any further.
    tries: u32,
    /// Whether one did.
    moved: bool,
}

impl Patience {
    /// Waits before the next attempt: longer each time that the last got no further. After too many of those, `why` is the end. A transfer that never
    /// got anywhere is tried once more: its connection may have been an old one.
    pub(crate) async fn wait(&mut self, further: bool, why: Error) -> Result<()> {
        self.moved |= further;
        self.tries = if further { 0 } else { self.tries + 1 };
        if self.tries >= if self.moved { RESUME_TRIES } else { 2 } {
            return Err(why);
        }
        tokio::time::sleep((RESUME_WAIT * 2u32.pow(self.tries)).min(RESUME_WAIT_MAX)).await;
        Ok(())
    }
}
