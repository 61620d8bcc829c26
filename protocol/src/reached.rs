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

/// Commits in a setting, whose length is limited.
const COMMITS_NOTED: usize = 8;

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
        if attempt == Reached::default() {
            return false;
        }
        let earlier = std::mem::replace(self, attempt);
        let known: HashSet<Hash> = earlier.commits.iter().copied().collect();
        let further =
            self.place != earlier.place || self.commits.iter().any(|commit| !known.contains(commit));
        let now: HashSet<Hash> = self.commits.iter().copied().collect();
        self.commits.extend(earlier.commits.into_iter().filter(|commit| !now.contains(commit)));
        self.commits.truncate(HAVES_MAX);
        further
    }

    /// As a setting of a database, so that it outlives the process: `TOP:INDEX.INDEX… COMMIT COMMIT…`, hashes in hexadecimal, nothing before the colon
    /// between two pieces.
    pub(crate) fn to_setting(&self) -> String {
        let mut text = String::new();
        if let Some(Place { top, path }) = &self.place {
            let path: Vec<String> = path.iter().map(u32::to_string).collect();
            text = format!("{top}:{}", path.join("."));
        }
        self.commits.iter().take(COMMITS_NOTED).fold(text, |text, commit| format!("{text} {commit}"))
    }

    /// What [`Reached::to_setting`] made; nothing if it is something else.
    pub(crate) fn from_setting(text: &str) -> Reached {
        let read = || {
            let mut parts = text.split(' ');
            let place = match parts.next()?.split_once(':') {
                None => None,
                Some((top, path)) => {
                    let path = path.split('.').map(str::parse).collect::<std::result::Result<_, _>>().ok()?;
                    Some(Place { top: top.parse().ok()?, path })
                }
            };
            let commits = parts.map(|commit| commit.parse().ok()).collect::<Option<_>>()?;
            Some(Reached { commits, place })
        };
        read().unwrap_or_default()
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
        let wait = (RESUME_WAIT * 2u32.pow(self.tries.saturating_sub(1))).min(RESUME_WAIT_MAX);
        tracing::info!("the connection was cut, the transfer goes on in {} ms: {why}", wait.as_millis());
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_setting_says_how_far_a_transfer_has_come() {
        let (top, commits) = (Hash::of(b"top"), vec![Hash::of(b"a"), Hash::of(b"b")]);
        for reached in [
            Reached { commits: commits.clone(), place: Some(Place { top, path: vec![0, 12, 300] }) },
            Reached { commits: Vec::new(), place: Some(Place { top, path: vec![u32::MAX; 48] }) },
            Reached { commits, place: None },
            Reached::default(),
        ] {
            assert_eq!(Reached::from_setting(&reached.to_setting()), reached);
            assert!(reached.to_setting().len() <= 1024);
        }
        for other in ["x", ":", "12:1", &format!("{top}:"), &format!("{top}:1.x"), &format!("{top}:1 zz")] {
            assert_eq!(Reached::from_setting(other), Reached::default(), "{other}");
        }
        let many = Reached { commits: vec![top; 64], place: Some(Place { top, path: vec![9999; 48] }) };
        assert!(many.to_setting().len() <= 1024);
    }

    #[test]
    fn what_was_whole_before_stays_so_when_an_attempt_gets_further() {
        let hash = |n: u8| Hash::of(&[n]);
        let mut reached = Reached { commits: vec![hash(1)], place: None };
        assert!(!reached.go_on(Reached::default()));
        assert!(reached.go_on(Reached { commits: vec![hash(3), hash(2)], place: None }));
        assert_eq!(reached.commits, [hash(3), hash(2), hash(1)]);
        assert!(!reached.clone().go_on(reached.clone()));
        // Less than was known is no progress, and takes nothing away.
        assert!(!reached.go_on(Reached { commits: vec![hash(3)], place: None }));
        assert_eq!(reached.commits, [hash(3), hash(2), hash(1)]);
    }
}
