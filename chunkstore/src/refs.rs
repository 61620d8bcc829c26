//! Refs: names of hashes, changed by compare-and-set.
//!
//! One idea: a change says what it replaces. Two maps exist: the *appended* one, which new changes are compared with, and the *durable* one,
//! which readers see.

use std::collections::BTreeMap;

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
