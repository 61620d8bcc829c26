//! What a collection must leave alone although no ref leads to it: roots that someone reads, and chunks on their way to a root.
//!
//! One idea: whoever reads or writes holds a value, and dropping it gives the right up. A pinned handle keeps one root and all under it; a
//! [`Hold`] keeps what is appended while it lives, and what its holder found in the store and builds upon.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::view::Found;
use super::{Shared, Store};
use crate::error::Result;
use crate::hash::Hash;
use crate::index::Uniformly;
use crate::stats::Stats;

/// Roots and holds that are alive.
#[derive(Default)]
pub(super) struct Pins {
    /// How many handles keep each root.
    roots: HashMap<Hash, usize, Uniformly>,
    holds: HashMap<u64, Held>,
    next: u64,
}

struct Held {
    /// The journal that was active when the hold began.
    since: u32,
    kept: HashSet<Hash, Uniformly>,
}

impl Pins {
    /// All that is pinned or kept.
    pub(super) fn roots(&self) -> impl Iterator<Item = Hash> + '_ {
        self.roots.keys().chain(self.holds.values().flat_map(|held| &held.kept)).copied()
    }

    /// The journal that was active when the oldest hold began.
    pub(super) fn held_since(&self) -> Option<u32> {
        self.holds.values().map(|held| held.since).min()
    }

    /// Keeps chunks that an append found in the store, for every hold that began after they were written: which one it was made under is
    /// not known.
    pub(super) fn keep_in_holds(&mut self, reused: &[(Hash, Found)]) {
        for held in self.holds.values_mut() {
            let older = |found: &Found| found.ordinal.is_some() || found.place.file < held.since;
            held.kept.extend(reused.iter().filter(|(_, found)| older(found)).map(|(hash, _)| hash));
        }
    }

    fn unpin(&mut self, root: &Hash) {
        if let Some(count) = self.roots.get_mut(root) {
            *count -= 1;
            if *count == 0 {
                self.roots.remove(root);
            }
        }
    }

    /// Notes in `stats` how much is kept.
    pub(super) fn count(&self, stats: &mut Stats) {
        stats.pinned_roots = self.roots.len() as u64;
        stats.holds = self.holds.len() as u64;
    }
}

/// Keeps a root and all under it from collection.
pub(super) struct Pin {
    shared: Arc<Shared>,
    root: Hash,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.shared.pins.lock().unpin(&self.root);
    }
}

/// Keeps from collection whatever is appended while it lives, and whatever its holder found with [`Hold::keep`].
#[must_use = "what it keeps may be collected as soon as it is dropped"]
pub struct Hold {
    shared: Arc<Shared>,
    number: u64,
}

impl Hold {
    /// Whether the store has the chunk. If so, it and all under it stay at least as long as the hold.
    pub fn keep(&self, hash: &Hash) -> bool {
        // First kept, then looked for: a collection that begins in between knows of it.
        if let Some(held) = self.shared.pins.lock().holds.get_mut(&self.number) {
            held.kept.insert(*hash);
        }
        // What cannot be looked up is not absent: reading it will tell why.
        let is_there = self.shared.reuse(hash).map_or(true, |found| found.is_some());
        if !is_there && let Some(held) = self.shared.pins.lock().holds.get_mut(&self.number) {
            held.kept.remove(hash);
        }
        is_there
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.pins.lock().holds.remove(&self.number);
    }
}

impl Store {
    /// This store, by a handle whose clones keep the chunk `root` and all under it from collection as long as one of them lives; `None` if
    /// the store lacks it.
    pub fn pinned(&self, root: &Hash) -> Result<Option<Store>> {
        let shared = &self.shared;
        // First pinned, then looked for: a collection that begins in between knows of it.
        *shared.pins.lock().roots.entry(*root).or_default() += 1;
        let pin = Arc::new(Pin { shared: shared.clone(), root: *root });
        Ok(shared.reuse(root)?.map(|_| Store { _pin: Some(pin), ..self.clone() }))
    }

    /// Keeps from collection whatever is appended from now on, as long as the hold lives.
    pub fn hold(&self) -> Hold {
        let shared = &self.shared;
        let appender = shared.appender.lock();
        let mut pins = shared.pins.lock();
        let number = pins.next;
        pins.next += 1;
        pins.holds.insert(number, Held { since: appender.journal.number, kept: HashSet::default() });
        Hold { shared: shared.clone(), number }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::store::{Options, Outcome};
    use crate::{Batch, Chunk};

    fn store() -> (Store, Hash) {
        let store = Store::memory(Options::default());
        let chunk = Chunk::build(1, 0, b"root", None, &[], 0);
        let root = *chunk.hash();
        let mut batch = Batch::default();
        batch.put(chunk, None);
        assert!(matches!(store.append(batch, &[]).unwrap(), Outcome::Appended(_)));
        (store, root)
    }

    fn kept(store: &Store) -> (u64, u64) {
        (store.stats().pinned_roots, store.stats().holds)
    }

    #[test]
    fn a_root_is_pinned_until_the_last_clone_of_its_last_handle_goes() {
        let (store, root) = store();
        let pinned = store.pinned(&root).unwrap().unwrap();
        let (clone, again) = (pinned.clone(), store.pinned(&root).unwrap().unwrap());
        drop(pinned);
        assert_eq!(kept(&store), (1, 0));
        drop(clone);
        assert_eq!(kept(&store), (1, 0), "the other handle keeps it");
        drop(again);
        assert_eq!(kept(&store), (0, 0));
    }

    #[test]
    fn what_is_absent_is_neither_pinned_nor_kept() {
        let (store, root) = store();
        let absent = Hash::of(b"absent");
        assert!(store.pinned(&absent).unwrap().is_none());
        let hold = store.hold();
        assert_eq!((hold.keep(&root), hold.keep(&absent)), (true, false));
        assert_eq!(kept(&store), (0, 1));
        drop(hold);
        assert_eq!(kept(&store), (0, 0));
    }
}
