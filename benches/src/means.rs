//! What the mean sizes of nodes cost: the counts from which the default configuration of a map was chosen.
//!
//! For each pair of means one database in memory: the rows are loaded, transactions of random updates are committed, and
//! differences are read. Only counts are reported, so a run says the same on any machine.

use anyhow::{Context, Result};
use pleach_engine::{Database, Definition, MapConfig, Snapshot, Store};

use crate::rows::{Rows, SplitMix64, value};

/// The pairs compared: rows in a leaf, children of an inner node.
const MEANS: [(u16, u16); 5] = [(32, 64), (64, 64), (64, 128), (128, 128), (192, 192)];
/// Updates in a transaction, and how many transactions are counted.
const TRANSACTIONS: [(usize, usize); 3] = [(1, 200), (100, 50), (10_000, 3)];

/// What one pair of means costs.
#[derive(Clone, Debug)]
pub struct Cost {
    /// Mean rows in a leaf, mean children of an inner node.
    pub means: (u16, u16),
    /// Chunks of the loaded table.
    pub chunks: u64,
    /// By transaction size: updates, bytes written by one, nodes read by the diff of one.
    pub transactions: Vec<(usize, u64, u64)>,
}

/// Measures every pair on a table of `rows` rows.
pub fn run(rows: usize) -> Result<Vec<Cost>> {
    MEANS.iter().map(|means| cost(rows, *means)).collect()
}

fn cost(count: usize, means: (u16, u16)) -> Result<Cost> {
    let rows = Rows::new(count);
    let database = Database::memory()?;
    let mut transaction = database.begin("main")?;
    let config = MapConfig { leaf_mean: means.0, inner_mean: means.1, ..MapConfig::default() };
    transaction.create_table_with("rows", Definition { config, schema: None })?;
    transaction.load("rows", (0..count).map(|row| (rows.key(row), value(row, 0))))?;
    transaction.commit()?;
    let chunks = database.store().stats().chunks;
    let mut random = SplitMix64::new(1);
    let mut version = 0;
    let mut transactions = Vec::new();
    for (updates, times) in TRANSACTIONS {
        let updates = updates.min(count);
        let before = database.store().stats().bytes_written;
        let mut from = work(&database)?;
        for _ in 0..times {
            from = work(&database)?;
            version += 1;
            let mut transaction = database.begin("main")?;
            for row in random.distinct_below(count, updates) {
                transaction.put("rows", rows.key(row), &value(row, version))?;
            }
            transaction.commit()?;
        }
        let bytes = (database.store().stats().bytes_written - before) / times as u64;
        let read_before = loads(database.store());
        for table in from.diff(&work(&database)?)? {
            table.changes()?.try_for_each(|change| change.map(drop))?;
        }
        transactions.push((updates, bytes, loads(database.store()) - read_before));
    }
    Ok(Cost { means, chunks, transactions })
}

fn work(database: &Database) -> Result<Snapshot> {
    let root = database.branch("main")?.context("no branch")?.work;
    Ok(database.snapshot_of_root(root)?)
}

fn loads(store: &Store) -> u64 {
    let stats = store.stats();
    stats.cache_hits + stats.cache_misses
}
