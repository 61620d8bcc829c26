//! What a fetch offers as known: commits whose closure is here, so that the server sends the difference to them.
//!
//! The refs that this remote had when it was last seen come first: the server has almost always gone on from there. Branches made
//! here follow. Older commits are offered only when the server knew none of these (it was restored from a backup, or is another
//! server): then at growing distances, so that at
//! most about twice the difference travels.

use std::collections::HashSet;

use pleach_engine::{Database, Hash};

use crate::error::Result;
use crate::limits::{HAVES_DISTANCE_MAX, HAVES_MAX};
use crate::refs::{HEADS, tracking_prefix};

/// The newest commits known of `remote`, then those of this database's branches; at most [`HAVES_MAX`].
pub(crate) fn newest(database: &Database, remote: &str) -> Vec<Hash> {
    let tracking = database.refs(&tracking_prefix(remote));
    let mut seen = HashSet::new();
    let tips = tracking.into_iter().chain(database.refs(HEADS)).map(|(_, hash)| hash);
    tips.filter(|hash| seen.insert(*hash)).take(HAVES_MAX).collect()
}

/// The commits of [`newest`], and first parents of them at distances 1, 2, 4 … 64, or the first commit of all before that.
pub(crate) fn with_ancestors(database: &Database, remote: &str) -> Result<Vec<Hash>> {
    let mut haves = newest(database, remote);
    let mut seen: HashSet<Hash> = haves.iter().copied().collect();
    for tip in haves.clone() {
        let mut commit = database.commit_object(&tip)?;
        for distance in 1..=HAVES_DISTANCE_MAX {
            // A partial copy ends somewhere.
            let here = |parent: &&Hash| database.store().contains(parent);
            let Some(&parent) = commit.parents.first().filter(here) else { break };
            commit = database.commit_object(&parent)?;
            let offered = distance.is_power_of_two() || commit.parents.is_empty();
            if offered && haves.len() < HAVES_MAX && seen.insert(parent) {
                haves.push(parent);
            }
        }
    }
    Ok(haves)
}
