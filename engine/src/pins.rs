//! Roots that someone outside the engine still needs: what a transfer starts from, what a server is asked for.
//!
//! A pin is a handle of the store ([`Store::pinned`]); this is a set of them.

use std::collections::BTreeMap;

use pleach_chunkstore::{Hash, Store};

use crate::error::Result;

/// Keeps roots, and all under them, from collection as long as it lives.
#[derive(Clone, Default)]
pub struct Pins {
    handles: BTreeMap<Hash, Store>,
}

impl Pins {
    /// Pins those of `roots` that are in the store.
    ///
    /// # Errors
    /// The store's.
    pub fn of(store: &Store, roots: impl IntoIterator<Item = Hash>) -> Result<Pins> {
        let mut handles = BTreeMap::new();
        for root in roots {
            if !handles.contains_key(&root) {
                handles.extend(store.pinned(&root)?.map(|handle| (root, handle)));
            }
        }
        Ok(Pins { handles })
    }

    /// Whether `root` is pinned: then it is in the store.
    pub fn contains(&self, root: &Hash) -> bool {
        self.handles.contains_key(root)
    }
}
