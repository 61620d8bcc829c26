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

/// Roots and holds that are alive.
#[derive(Default)]
pub(super) struct Pins {
    /// How many handles keep each root.
    roots: HashMap<Hash, usize>,
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
        Hold { store: self.clone(), kept: Mutex::default() }
    }
}
