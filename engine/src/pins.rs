//! Roots that someone outside the engine still needs: what a transfer starts from, what a standby acknowledged.
//!
//! A pin is a handle of the store ([`Store::pinned`]); this is a set of them, so that moving on from one set of refs to the next
//! costs what moved.

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
        Pins::default().moved_to(store, roots)
    }

    /// Pins those of `roots` that are in the store; the ones pinned here already are taken over.
    ///
    /// # Errors
    /// The store's.
    pub fn moved_to(&self, store: &Store, roots: impl IntoIterator<Item = Hash>) -> Result<Pins> {
        let mut handles = BTreeMap::new();
        for root in roots {
            if handles.contains_key(&root) {
                continue;
            }
            let handle = match self.handles.get(&root) {
                Some(handle) => Some(handle.clone()),
                None => store.pinned(&root)?,
            };
            handles.extend(handle.map(|handle| (root, handle)));
        }
        Ok(Pins { handles })
    }

    /// What is pinned.
    pub fn roots(&self) -> impl Iterator<Item = Hash> + '_ {
        self.handles.keys().copied()
    }

    /// Whether `root` is pinned: then it is in the store.
    pub fn contains(&self, root: &Hash) -> bool {
        self.handles.contains_key(root)
    }
}
