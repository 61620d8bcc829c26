//! How far behind a remote is: the commits and the bytes that are here and were not pushed, counted when a push did not get through.

use std::collections::BTreeMap;

use pleach_engine::{Database, Hash};

use crate::error::Result;
use crate::limits::COMMITS_COUNTED;
use crate::remote::primary::{PUSHED, pushed};
use crate::shared_refs::{self, HEADS};

/// What is here and was not pushed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Backlog {
    /// Commits of branches; of each, at most [`COMMITS_COUNTED`].
    pub(crate) commits: u64,
    /// Bytes that a push would send now, as messages; [`BYTES_COUNTED`](crate::limits::BYTES_COUNTED) stands for that many or more.
    pub(crate) bytes: u64,
}

impl Backlog {
    /// That of `database` and its remote, which takes rows that changed if it is a server. Reads what would be sent. Blocking.
    pub(crate) fn of(database: &Database, remote: &str, is_server: bool) -> Result<Backlog> {
        let there = pushed(database, remote)?;
        let here: BTreeMap<String, Hash> = PUSHED.iter().flat_map(|prefix| database.refs(prefix)).collect();
        let commits = commits_ahead(database, &there, &here)?;
        Ok(Backlog { commits, bytes: bytes_ahead(database, &there, &here, is_server)? })
    }
}

fn commits_ahead(
    database: &Database,
    there: &BTreeMap<String, Hash>,
    here: &BTreeMap<String, Hash>,
) -> Result<u64> {
    let mut ahead = 0;
    for (name, head) in here.iter().filter(|(name, _)| name.starts_with(HEADS)) {
        let there = there.get(name);
        if there == Some(head) {
            continue;
        }
        for commit in database.log(head)?.take(COMMITS_COUNTED) {
            let (commit, _) = commit?;
            match there {
                Some(there) if commit == *there => break,
                Some(there) => ahead += u64::from(!database.is_ancestor(&commit, there)?),
                None => ahead += 1,
            }
        }
    }
    Ok(ahead)
}

fn bytes_ahead(
    database: &Database,
    there: &BTreeMap<String, Hash>,
    here: &BTreeMap<String, Hash>,
    is_server: bool,
) -> Result<u64> {
    let moved = here.iter().filter(|(name, new)| there.get(*name) != Some(new));
    let targets: Vec<Hash> = moved.map(|(_, new)| *new).collect();
    if targets.is_empty() {
        return Ok(0);
    }
    let known = there.values().filter(|hash| database.store().contains(hash));
    let known: Vec<Hash> = known.copied().collect();
    shared_refs::bytes_to_send(database, targets, &known, is_server)
}
