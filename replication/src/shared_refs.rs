//! The shared refs of a database (`heads/`, `tags/`, `work/`), which a primary and its standbys have in common, and what it takes to
//! make a standby's equal to the primary's. Pure but for the reading. Called by `session`, `standby` and `replica`.

use std::collections::{BTreeMap, HashSet};

use pleach_engine::{Database, Hash, Pins, Store};
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

/// Whether the ref is one of those that are shared.
pub(crate) fn is_shared(name: &str) -> bool {
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The durable shared refs of `database`, all of one moment.
pub(crate) fn read(database: &Database) -> SharedRefs {
    database.refs("").into_iter().filter(|(name, _)| is_shared(name)).collect()
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

/// All that may have to change where `held` is to become `now`.
pub(crate) fn all_changed(held: &SharedRefs, now: SharedRefs) -> Vec<(String, Option<Hash>)> {
    let gone = held.keys().filter(|name| !now.contains_key(*name)).map(|name| (name.clone(), None));
    let mut changed: Vec<_> = gone.collect();
    changed.extend(now.into_iter().map(|(name, hash)| (name, Some(hash))));
    changed
}

/// Makes of `held` what the primary has, where `changed` says what that is of each ref that may be another; gives what that takes.
pub(crate) fn update(
    held: &mut SharedRefs,
    changed: &[(String, Option<Hash>)],
    knows: impl Fn(&Hash) -> bool,
) -> Vec<Update> {
    let mut updates = Vec::new();
    for (name, new) in changed {
        let old = match new {
            Some(new) => held.insert(name.clone(), *new),
            None => held.remove(name),
        };
        if old != *new {
            let diverged = old.is_some_and(|old| !knows(&old));
            updates.push(Update { name: name.clone(), old, new: *new, diverged });
        }
    }
    updates
}

/// A hash, and a handle that keeps it, and all under it, from collection.
type Kept = (Hash, Store);

/// What shared refs name is kept from collection, ref by ref: to go on from one state to the next costs what moved.
#[derive(Default)]
pub(crate) struct KeptRefs(BTreeMap<String, Kept>);

impl KeptRefs {
    /// What is kept.
    pub(crate) fn roots(&self) -> impl Iterator<Item = Hash> + '_ {
        self.0.values().map(|(hash, _)| *hash)
    }

    /// Keeps what is named after `moves`, and lets go of what is not any more.
    pub(crate) fn go_on(&mut self, moves: KeptMoves) {
        if moves.are_all {
            self.0.clear();
        }
        for (name, kept) in moves.moves {
            match kept {
                Some(kept) => self.0.insert(name, kept),
                None => self.0.remove(&name),
            };
        }
    }
}

/// How [`KeptRefs`] go on. What is to be named is kept from now on.
#[derive(Default)]
pub(crate) struct KeptMoves {
    /// They are all refs that there are then.
    are_all: bool,
    moves: Vec<(String, Option<Kept>)>,
}

impl KeptMoves {
    /// To all of these that `store` has, and no others.
    pub(crate) fn to_all(store: &Store, refs: &SharedRefs) -> Result<KeptMoves> {
        let mut moves = Vec::with_capacity(refs.len());
        for (name, hash) in refs {
            let handle = store.pinned(hash).map_err(pleach_engine::Error::from)?;
            moves.extend(handle.map(|handle| (name.clone(), Some((*hash, handle)))));
        }
        Ok(KeptMoves { are_all: true, moves })
    }

    /// To what `refs` of `database` name, as just read; `None` if one has moved, and what it named is gone: then they are to be read again.
    pub(crate) fn to(
        database: &Database,
        refs: &[(String, Option<Hash>)],
        are_all: bool,
    ) -> Result<Option<KeptMoves>> {
        let mut moves = Vec::with_capacity(refs.len());
        for (name, hash) in refs {
            let Some(hash) = hash else {
                moves.push((name.clone(), None));
                continue;
            };
            match database.store().pinned(hash).map_err(pleach_engine::Error::from)? {
                Some(handle) => moves.push((name.clone(), Some((*hash, handle)))),
                None if database.get_ref(name) == Some(*hash) => {
                    return Err(pleach_engine::Error::Missing { hash: *hash }.into());
                }
                None => return Ok(None),
            }
        }
        Ok(Some(KeptMoves { are_all, moves }))
    }

    /// Whether they are all refs that there are then.
    pub(crate) fn are_all(&self) -> bool {
        self.are_all
    }

    /// What is to be named.
    pub(crate) fn roots(&self) -> impl Iterator<Item = Hash> + '_ {
        self.moves.iter().filter_map(|(_, kept)| kept.as_ref().map(|(hash, _)| *hash))
    }
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

/// What the standby, which will have `now` by `updates`, holds and the primary knows, to which the data of `updates` is a difference. What
/// the refs move from comes first. A transaction moves one working root, and needs no more than that and the branch's head; what moves a
/// head or a tag, or makes a ref, may lead to a commit of any branch.
pub(crate) fn bases(now: &SharedRefs, updates: &[Update], knows: impl Fn(&Hash) -> bool) -> Vec<Hash> {
    let known = |hash: &Hash| knows(hash);
    let mut bases: Vec<Hash> =
        updates.iter().filter(|update| !update.diverged).filter_map(|update| update.old).collect();
    let work_moves = |update: &&Update| update.old.is_some() && update.name.starts_with(WORK);
    if updates.iter().all(|update| work_moves(&update)) {
        let branches = updates.iter().filter_map(|update| update.name.strip_prefix(WORK));
        bases.extend(
            branches.filter_map(|branch| now.get(&format!("{HEADS}{branch}"))).filter(|head| known(head)),
        );
    } else {
        let moved: HashSet<&str> = updates.iter().map(|update| update.name.as_str()).collect();
        let stay = |name: &str| !name.starts_with(WORK) && !moved.contains(name);
        let commits = now.iter().filter(|(name, _)| stay(name)).map(|(_, hash)| hash);
        bases.extend(commits.filter(|hash| known(hash)).take(BASES_MAX));
    }
    let mut seen = HashSet::new();
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

    fn updates(held: &SharedRefs, now: &SharedRefs, knows: impl Fn(&Hash) -> bool) -> Vec<Update> {
        let (mut held, changed) = (held.clone(), all_changed(held, now.clone()));
        let updates = update(&mut held, &changed, knows);
        assert_eq!(held, *now);
        updates
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
            update("heads/gone", Some(hash(1)), None),
            update("heads/main", Some(hash(2)), Some(hash(4))),
            update("heads/new", None, Some(hash(5))),
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
