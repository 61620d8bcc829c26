//! prolly-map on its redb store: the rival that does the same job in the same language.
//!
//! Default configuration; redb's default durability, so each of its transactions is on disk when it returns. Nodes
//! are written by one redb transaction and the named root by a second, as `Prolly::publish_named_root` does it.
//! `reopen` makes a fresh manager on the open store: nothing decoded is cached, and nothing is known of how the
//! branches came to be.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use prolly::{Config, Mutation, Prolly, SortedBatchBuilder, Tree};
use prolly_store_redb::RedbStore;

use super::{Counters, MAIN, Seen, System};
use crate::rows::{Edit, Rows, Value};

/// A manager and the store under it.
pub struct ProllyMap {
    store: Arc<RedbStore>,
    manager: Prolly<Arc<RedbStore>>,
}

impl ProllyMap {
    /// Makes a store in `directory`.
    pub fn create(directory: &Path) -> Result<ProllyMap> {
        let store = Arc::new(RedbStore::open(directory.join("rows.redb"))?);
        let manager = Prolly::new(store.clone(), Config::default());
        Ok(ProllyMap { store, manager })
    }

    fn tree(&self, branch: &str) -> Result<Tree> {
        self.manager.load_named_root(branch.as_bytes())?.with_context(|| format!("no branch {branch}"))
    }

    fn publish(&self, branch: &str, tree: &Tree) -> Result<()> {
        Ok(self.manager.publish_named_root(branch.as_bytes(), tree)?)
    }
}

impl System for ProllyMap {
    fn versions(&self) -> bool {
        true
    }

    fn load(&mut self, rows: &Rows, values: &[Value]) -> Result<()> {
        let mut builder = SortedBatchBuilder::new(self.store.clone(), Config::default());
        for (row, value) in values.iter().enumerate() {
            builder.add(rows.key(row).to_vec(), value.to_vec())?;
        }
        let tree = builder.build()?;
        self.publish(MAIN, &tree)
    }

    fn get(&mut self, rows: &Rows, order: &[usize]) -> Result<Seen> {
        let tree = self.tree(MAIN)?;
        let mut session = self.manager.read(&tree)?;
        let mut seen = Seen::default();
        for &row in order {
            session.get_with(rows.key(row), |value| seen.value(value))?.context("a row is missing")?;
        }
        Ok(seen)
    }

    fn scan(&mut self) -> Result<Seen> {
        let tree = self.tree(MAIN)?;
        let mut session = self.manager.read(&tree)?;
        let mut seen = Seen::default();
        session.scan_range_until(&[], None, |entry| {
            seen.value(entry.value());
            ControlFlow::<()>::Continue(())
        })?;
        Ok(seen)
    }

    fn update(&mut self, branch: &str, edits: &[Edit]) -> Result<()> {
        let mutations = edits
            .iter()
            .map(|(key, value)| Mutation::Upsert { key: key.to_vec(), val: value.to_vec() })
            .collect();
        let tree = self.manager.batch(&self.tree(branch)?, mutations)?;
        self.publish(branch, &tree)
    }

    fn commit(&mut self, branch: &str) -> Result<()> {
        self.tree(branch).map(drop)
    }

    fn branch(&mut self, name: &str, from: &str) -> Result<()> {
        self.publish(name, &self.tree(from)?)
    }

    fn diff(&mut self, from: &str, to: &str) -> Result<u64> {
        Ok(self.manager.diff(&self.tree(from)?, &self.tree(to)?)?.len() as u64)
    }

    fn merge(&mut self, base: &str, ours: &str, theirs: &str) -> Result<()> {
        let merged = self.manager.merge(&self.tree(base)?, &self.tree(ours)?, &self.tree(theirs)?, None)?;
        self.publish(ours, &merged)
    }

    fn reopen(&mut self) -> Result<()> {
        self.manager = Prolly::new(self.store.clone(), Config::default());
        Ok(())
    }

    fn counters(&self) -> Counters {
        let metrics = self.manager.metrics();
        Counters {
            nodes_read: Some(metrics.node_cache_hits + metrics.node_cache_misses),
            ..Counters::default()
        }
    }
}
