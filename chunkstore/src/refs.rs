//! Refs: names of hashes, changed by compare-and-set.
//!
//! One idea: a change says what it replaces. Two maps exist: the *appended* one, which new changes are compared with, and the *durable* one,
//! which readers see.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::error::{Error, Result};
use crate::hash::Hash;

/// The longest name of a ref, in bytes.
pub const NAME_BYTES_MAX: usize = 1024;

/// The most bytes that all refs together may take as records.
const BYTES_MAX: u64 = 512 << 20;

/// A wished change of a ref. `old` `None`: it must not exist. `new` `None`: delete it. `old == new`: only check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefUpdate {
    /// The ref's name, 1 to [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// What it must be now.
    pub old: Option<Hash>,
    /// What it shall be.
    pub new: Option<Hash>,
}

/// A change as recorded; unlike an update it always changes something.
pub(crate) type Change = RefUpdate;

/// A ref that is not what an update expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) name: String,
    pub(crate) expected: Option<Hash>,
    pub(crate) found: Option<Hash>,
}

/// Names of changed refs that are remembered: enough for who looks after each change, or each few.
const RECENT_MAX: usize = 1024;

/// Which refs changed of late, so that who saw an earlier state need not look at all of them.
pub(crate) struct Recent {
    /// What changed after this sequence is remembered.
    since: u64,
    /// With the sequence of each change, in order.
    changed: VecDeque<(u64, String)>,
}

impl Recent {
    /// Nothing is known of what was up to `sequence`.
    pub(crate) fn since(sequence: u64) -> Recent {
        Recent { since: sequence, changed: VecDeque::new() }
    }

    /// The ref `name` changed with `sequence`, the highest so far.
    pub(crate) fn note(&mut self, sequence: u64, name: &str) {
        if self.changed.len() >= RECENT_MAX
            && let Some((forgotten, _)) = self.changed.pop_front()
        {
            self.since = forgotten;
        }
        self.changed.push_back((sequence, name.to_owned()));
    }

    /// The names of the refs that changed after `sequence`, each once; `None` if that is not remembered.
    pub(crate) fn after(&self, sequence: u64) -> Option<BTreeSet<&str>> {
        let later = self.changed.iter().rev().take_while(|(at, _)| *at > sequence);
        (sequence >= self.since).then(|| later.map(|(_, name)| name.as_str()).collect())
    }
}

/// Refuses names that no ref can have.
pub(crate) fn check_names(updates: &[RefUpdate]) -> Result<()> {
    match updates.iter().find(|update| update.name.is_empty() || update.name.len() > NAME_BYTES_MAX) {
        Some(bad) => {
            Err(Error::BadRefName { name: bad.name.chars().take(80).collect(), max: NAME_BYTES_MAX })
        }
        None => Ok(()),
    }
}

/// Bytes that all these refs take as records: each its name, an address and a few bytes more.
pub(crate) fn bytes<'a>(names: impl Iterator<Item = &'a String>) -> u64 {
    names.map(|name| name.len() as u64 + 40).sum()
}

/// Bytes that the refs take after `changes`, which fit them, and took `before`. Refuses too many, unless they become fewer.
pub(crate) fn bytes_after(before: u64, changes: &[Change]) -> Result<u64> {
    let made = changes.iter().filter(|change| change.old.is_none()).map(|change| &change.name);
    let gone = changes.iter().filter(|change| change.new.is_none()).map(|change| &change.name);
    let after = (before + bytes(made)).saturating_sub(bytes(gone));
    match after > BYTES_MAX && after > before {
        true => Err(Error::TooManyRefs { bytes: after, bytes_max: BYTES_MAX }),
        false => Ok(after),
    }
}

/// Compares every update with `refs`; each sees the ones before it.
pub(crate) fn compare(refs: &BTreeMap<String, Hash>, updates: &[RefUpdate]) -> Result<(), Moved> {
    let mut changed: BTreeMap<&str, Option<Hash>> = BTreeMap::new();
    for update in updates {
        let found = match changed.get(update.name.as_str()) {
            Some(value) => *value,
            None => refs.get(&update.name).copied(),
        };
        if found != update.old {
            return Err(Moved { name: update.name.clone(), expected: update.old, found });
        }
        changed.insert(&update.name, update.new);
    }
    Ok(())
}

/// Makes a change, if the ref is what it expects.
pub(crate) fn apply(refs: &mut BTreeMap<String, Hash>, change: &Change) -> Result<(), Moved> {
    let found = refs.get(&change.name).copied();
    if found != change.old {
        return Err(Moved { name: change.name.clone(), expected: change.old, found });
    }
    match change.new {
        Some(new) => refs.insert(change.name.clone(), new),
        None => refs.remove(&change.name),
    };
    Ok(())
}

/// The refs whose names begin with `prefix`, by name.
pub(crate) fn with_prefix(refs: &BTreeMap<String, Hash>, prefix: &str) -> Vec<(String, Hash)> {
    refs.range(prefix.to_owned()..)
        .take_while(|(name, _)| name.starts_with(prefix))
        .map(|(name, hash)| (name.clone(), *hash))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn what_changed_of_late_is_remembered_up_to_a_limit() {
        let mut recent = Recent::since(5);
        let after = |recent: &Recent, sequence| {
            recent.after(sequence).map(|names| names.into_iter().map(str::to_owned).collect::<Vec<_>>())
        };
        assert_eq!((after(&recent, 4), after(&recent, 5)), (None, Some(vec![])));
        for (sequence, name) in [(6, "b"), (6, "a"), (8, "b")] {
            recent.note(sequence, name);
        }
        assert_eq!(after(&recent, 5).unwrap(), ["a", "b"]);
        assert_eq!(
            (after(&recent, 6).unwrap(), after(&recent, 7).unwrap()),
            (vec!["b".into()], vec!["b".into()])
        );
        assert_eq!(after(&recent, 8).unwrap(), [] as [String; 0]);
        (0..RECENT_MAX as u64 - 2).for_each(|n| recent.note(9 + n, "c"));
        // Of the first change one name is gone, and so is the change.
        assert_eq!(after(&recent, 5), None);
        assert_eq!(after(&recent, 6).unwrap(), ["b", "c"]);
    }

    #[test]
    fn refs_grow_up_to_their_limit_and_shrink_beyond_it() {
        let hash = Some(Hash::of(b"here"));
        let change = |old, new| Change { name: "n".repeat(1000), old, new };
        let (made, moved, gone) = (change(None, hash), change(hash, hash), change(hash, None));
        assert_eq!(bytes_after(0, &[made.clone(), moved.clone()]).unwrap(), 1040);
        assert_eq!(bytes_after(1040, std::slice::from_ref(&gone)).unwrap(), 0);
        let error = bytes_after(BYTES_MAX - 1000, &[made]).unwrap_err();
        assert!(matches!(error, Error::TooManyRefs { bytes, .. } if bytes == BYTES_MAX + 40), "{error}");
        assert_eq!(bytes_after(BYTES_MAX + 2000, &[moved]).unwrap(), BYTES_MAX + 2000);
        assert_eq!(bytes_after(BYTES_MAX + 2000, &[gone]).unwrap(), BYTES_MAX + 960);
    }
}
