//! Refs: names of hashes, changed by compare-and-set.
//!
//! One idea: a change says what it replaces. Two maps exist: the *appended* one, which new changes are compared with, and the *durable* one,
//! which readers see.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::hash::Hash;

/// The longest name of a ref, in bytes.
pub const NAME_BYTES_MAX: usize = 1024;

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
