//! The shared refs of a database (`heads/`, `tags/`, `work/`), which a primary and its standbys have in common, and what it takes to
//! make a standby's equal to the primary's. Pure but for the reading. Called by `session`, `standby` and `replica`.

use std::collections::BTreeMap;

use pleach_engine::{Database, Hash, Pins};
use pleach_protocol::Sender;

use crate::error::Result;
use crate::limits::BYTES_COUNTED;

pub(crate) const HEADS: &str = "heads/";
pub(crate) const WORK: &str = "work/";
const PREFIXES: [&str; 3] = [HEADS, "tags/", WORK];
/// Longest name of a ref, bytes.
const NAME_BYTES_MAX: usize = 1024;
/// Most commits that a difference is made against; more would cost more than they spare.
const BASES_MAX: usize = 1024;

/// Refs by name.
pub(crate) type SharedRefs = BTreeMap<String, Hash>;

/// A ref of a standby that is to become what the primary's is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Update {
    pub(crate) name: String,
    /// What the standby has.
    pub(crate) old: Option<Hash>,
    /// What the primary has.
    pub(crate) new: Option<Hash>,
    /// Nothing of the primary reaches `old`, as far as is known.
    pub(crate) diverged: bool,
}

/// The durable shared refs of `database`, all of one moment.
pub(crate) fn read(database: &Database) -> SharedRefs {
    let shared = |name: &str| PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    database.refs("").into_iter().filter(|(name, _)| shared(name)).collect()
}

/// One hash for all of them: that of each name, its length in four bytes before it, and what it names, by name. Equal on two nodes if they have the same.
pub(crate) fn root(refs: &SharedRefs) -> Hash {
    let mut bytes = Vec::new();
    for (name, hash) in refs {
        bytes.extend_from_slice(&(name.len() as u32).to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(hash.as_bytes());
    }
    Hash::of(&bytes)
}

/// As [`read`], with pins on what the refs name.
pub(crate) fn read_pinned(database: &Database) -> Result<(SharedRefs, Pins)> {
    loop {
        let refs: Vec<_> = read(database).into_iter().collect();
        if let Some(pins) = database.pin_refs(&refs)? {
            return Ok((refs.into_iter().collect(), pins));
        }
    }
}

/// Whether `name` can be that of a shared ref.
pub(crate) fn is_name(name: &str) -> bool {
    let rest = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix));
    let good_part = |part: &str| !part.is_empty() && part != "." && part != "..";
    name.len() <= NAME_BYTES_MAX
        && !name.contains(|c: char| c.is_control())
        && rest.is_some_and(|rest| rest.split('/').all(good_part))
}

/// What makes `held` equal to `now`, by name; `knows` says whether a hash is in the primary's store.
pub(crate) fn updates(held: &SharedRefs, now: &SharedRefs, knows: impl Fn(&Hash) -> bool) -> Vec<Update> {
    let mut updates = Vec::new();
    for (name, &new) in now {
        let old = held.get(name).copied();
        if old != Some(new) {
            let diverged = old.is_some_and(|old| !knows(&old));
            updates.push(Update { name: name.clone(), old, new: Some(new), diverged });
        }
    }
    for (name, &old) in held {
        if !now.contains_key(name) {
            updates.push(Update { name: name.clone(), old: Some(old), new: None, diverged: !knows(&old) });
        }
    }
    updates
}

/// How many bytes, as stored, `roots` take that the refs of `database` do not need; no further than just above `max`. The cost is what
/// differs.
pub(crate) fn bytes_beyond(database: &Database, roots: &[Hash], max: u64) -> Result<u64> {
    let (refs, _pins) = read_pinned(database)?;
    let now: Vec<Hash> = refs.into_values().collect();
    let mut bytes = 0;
    for sent in pleach_engine::difference(database, roots, &now)? {
        let stored = database.store().bytes_of(sent?.chunk.hash()).map_err(pleach_engine::Error::from)?;
        bytes += stored.unwrap_or(0);
        if bytes > max {
            break;
        }
    }
    Ok(bytes)
}

/// How many bytes of messages `targets` take for who has `known` of `database`; [`BYTES_COUNTED`] stands for that many or more. `edits`: it
/// takes rows that changed. The cost is what differs.
pub(crate) fn bytes_to_send(
    database: &Database,
    mut targets: Vec<Hash>,
    known: &[Hash],
    edits: bool,
) -> Result<u64> {
    targets.sort_unstable();
    targets.dedup();
    let difference = pleach_engine::difference(database, &targets, known)?;
    let mut sender = Sender::new(database, difference)?.with_edits(edits);
    let mut bytes = 0;
    while bytes < BYTES_COUNTED {
        match sender.next_message()? {
            Some(message) => bytes += message.len() as u64,
            None => return Ok(bytes),
        }
    }
    Ok(BYTES_COUNTED)
}

/// What `updates` lead to, each once.
pub(crate) fn targets(updates: &[Update]) -> Vec<Hash> {
    let mut targets: Vec<Hash> = updates.iter().filter_map(|update| update.new).collect();
    targets.sort_unstable();
    targets.dedup();
    targets
}

/// What the standby holds and the primary knows, to which the data of `updates` is a difference. What the refs move from comes first. A
/// transaction moves one working root, and needs no more than that and the branch's head; what moves a head or a tag, or makes a ref,
/// may lead to a commit of any branch.
pub(crate) fn bases(held: &SharedRefs, updates: &[Update], knows: impl Fn(&Hash) -> bool) -> Vec<Hash> {
    let known = |hash: &Hash| knows(hash);
    let mut bases: Vec<Hash> =
        updates.iter().filter(|update| !update.diverged).filter_map(|update| update.old).collect();
    let work_moves = |update: &&Update| update.old.is_some() && update.name.starts_with(WORK);
    if updates.iter().all(|update| work_moves(&update)) {
        let branches = updates.iter().filter_map(|update| update.name.strip_prefix(WORK));
        bases.extend(
            branches.filter_map(|branch| held.get(&format!("{HEADS}{branch}"))).filter(|head| known(head)),
        );
    } else {
        let commits = held.iter().filter(|(name, _)| !name.starts_with(WORK)).map(|(_, hash)| hash);
        bases.extend(commits.filter(|hash| known(hash)).take(BASES_MAX));
    }
    let mut seen = std::collections::HashSet::new();
    bases.retain(|hash| seen.insert(*hash));
    bases
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn hash(n: u8) -> Hash {
        Hash::of(&[n])
    }

    fn refs(refs: &[(&str, u8)]) -> SharedRefs {
        refs.iter().map(|(name, n)| ((*name).to_owned(), hash(*n))).collect()
    }

    #[test]
    fn equal_refs_need_no_update() {
        let both = refs(&[("heads/main", 1), ("work/main", 2)]);
        assert_eq!(updates(&both, &both, |_| true), []);
    }

    #[test]
    fn what_is_new_moved_or_gone_is_an_update_from_what_the_standby_has() {
        let held = refs(&[("heads/gone", 1), ("heads/main", 2), ("work/main", 3)]);
        let now = refs(&[("heads/main", 4), ("heads/new", 5), ("work/main", 3)]);
        let update = |name: &str, old, new| Update { name: name.into(), old, new, diverged: false };
        let expected = [
            update("heads/main", Some(hash(2)), Some(hash(4))),
            update("heads/new", None, Some(hash(5))),
            update("heads/gone", Some(hash(1)), None),
        ];
        assert_eq!(updates(&held, &now, |_| true), expected);
    }

    #[test]
    fn what_only_the_standby_knows_has_diverged() {
        let held = refs(&[("heads/theirs", 8), ("heads/main", 9)]);
        let now = refs(&[("heads/main", 4)]);
        let found = updates(&held, &now, |known| *known == hash(4));
        assert!(found.iter().all(|update| update.diverged), "{found:?}");
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn a_transaction_is_a_difference_to_the_working_root_before_and_its_head_alone() {
        let held = refs(&[("heads/a", 1), ("heads/main", 2), ("work/a", 3), ("work/main", 4)]);
        let now = refs(&[("heads/a", 1), ("heads/main", 2), ("work/a", 3), ("work/main", 5)]);
        let moved = updates(&held, &now, |_| true);
        assert_eq!(bases(&held, &moved, |_| true), [hash(4), hash(2)]);
    }

    #[test]
    fn a_commit_is_a_difference_to_every_commit_that_both_know() {
        let held = refs(&[("heads/a", 1), ("heads/main", 2), ("heads/own", 7), ("work/main", 4)]);
        let now = refs(&[("heads/a", 1), ("heads/main", 6), ("heads/own", 7), ("work/main", 4)]);
        let moved = updates(&held, &now, |_| true);
        assert_eq!(bases(&held, &moved, |known| *known != hash(7)), [hash(2), hash(1)]);
    }

    #[test]
    fn only_shared_refs_have_names_that_are_taken() {
        for name in ["heads/main", "tags/v1", "work/a/b"] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "recovery/heads/main/1",
            "local/settings",
            "heads/",
            "work//a",
            "heads/../x",
            "tags/a\n",
            "main",
            "",
        ] {
            assert!(!is_name(name), "{name:?}");
        }
        assert!(!is_name(&format!("heads/{}", "a".repeat(2000))));
    }
}
