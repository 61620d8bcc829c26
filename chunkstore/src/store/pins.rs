//! What a collection must leave alone although no ref leads to it: roots that someone reads, and chunks on their way to a root.
//!
//! One idea: whoever reads or writes holds a value, and dropping it gives the right up. A pinned handle keeps one root and all under it; a
//! [`Hold`] keeps what is appended while it lives, and what its holder found in the store and builds upon.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Shared, Store};
use crate::error::Result;
use crate::hash::Hash;
use crate::stats::Stats;

/// Roots and holds that are alive.
#[derive(Default)]
pub(super) struct Pins {
    /// How many handles keep each root.
    roots: HashMap<Hash, usize>,
    /// Number of holds.
    holds: usize,
}

impl Pins {
    /// Notes in `stats` how much is kept.
    pub(super) fn count(&self, stats: &mut Stats) {
        stats.pinned_roots = self.roots.len() as u64;
        stats.holds = self.holds as u64;
    }
}

/// Keeps a root and all under it from collection.
pub(super) struct Pin {
    shared: Arc<Shared>,
    root: Hash,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.shared.pins.lock();
        if let Some(count) = pins.roots.get_mut(&self.root) {
            *count -= 1;
            if *count == 0 {
                pins.roots.remove(&self.root);
            }
        }
    }
}

/// Keeps from collection whatever is appended while it lives, and whatever its holder found with [`Hold::keep`].
#[must_use = "what it keeps may be collected as soon as it is dropped"]
pub struct Hold {
    store: Store,
    kept: Mutex<HashSet<Hash>>,
}

impl Hold {
    /// Whether the store has the chunk. If so, it and all under it stay at least as long as the hold.
    pub fn keep(&self, hash: &Hash) -> bool {
        let found = self.store.contains(hash);
        if found {
            self.kept.lock().insert(*hash);
        }
        found
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.store.shared.pins.lock().holds -= 1;
    }
}

impl Store {
    /// This store, by a handle whose clones keep the chunk `root` and all under it from collection as long as one of them lives; `None` if
    /// the store lacks it.
    pub fn pinned(&self, root: &Hash) -> Result<Option<Store>> {
        if !self.contains(root) {
            return Ok(None);
        }
        *self.shared.pins.lock().roots.entry(*root).or_default() += 1;
        let pin = Arc::new(Pin { shared: self.shared.clone(), root: *root });
        Ok(Some(Store { shared: self.shared.clone(), _pin: Some(pin) }))
    }

    /// Keeps from collection whatever is appended from now on, as long as the hold lives.
    pub fn hold(&self) -> Hold {
        self.shared.pins.lock().holds += 1;
        Hold { store: self.clone(), kept: Mutex::default() }
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
