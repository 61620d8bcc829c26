//! What the mean sizes of nodes cost: the counts from which the default configuration of a map was chosen.
//!
//! For each pair of means one database that compacts nothing: the rows are loaded, transactions of random updates are committed, and
//! differences are read. For each of several kinds of rows, with the default means, how they are cut. Only counts are reported, so a run says
//! the same on any machine.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use pleach_engine::{Database, Definition, Hash, MapConfig, Options, Snapshot, Store};

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
    let directory = tempfile::tempdir()?;
    let database = counted(directory.path())?;
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

/// A database that writes nothing but what is committed.
fn counted(directory: &Path) -> Result<Database> {
    let options = Options { background: false, ..Options::default() };
    Ok(Database::init(&directory.join("database"), options)?)
}

fn work(database: &Database) -> Result<Snapshot> {
    let root = database.branch("main")?.context("no branch")?.work;
    Ok(database.snapshot_of_root(root)?)
}

fn loads(store: &Store) -> u64 {
    let stats = store.stats();
    stats.cache_hits + stats.cache_misses
}

/// How one kind of rows is cut into leaves.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The kind of rows.
    pub rows: &'static str,
    /// Leaves.
    pub leaves: usize,
    /// Rows of the smallest leaf but the last, of half and of 99 in 100 of the leaves at most, and of the largest.
    pub sizes: [usize; 4],
    /// Bytes of the largest leaf.
    pub bytes_max: usize,
    /// Nodes made by an insert of one row, for each level.
    pub rewritten: f64,
}

/// Inserts that are counted.
const INSERTS: usize = 100;

/// Cuts several kinds of rows, `count` of each, with the default configuration, and with a salt those that were chosen against it.
pub fn shapes(count: usize) -> Result<Vec<Shape>> {
    let random = Rows::new(count);
    let random: Vec<Vec<u8>> = (0..count).map(|row| random.key(row).to_vec()).collect();
    let numbers: Vec<Vec<u8>> = (0..count as u64).map(|n| (n * 2).to_be_bytes().to_vec()).collect();
    let text: Vec<Vec<u8>> =
        (0..count).map(|n| format!("customer/{:06}/order/{:04}", n / 50, n % 50 * 2).into_bytes()).collect();
    let chosen = |ends: bool| {
        let keys = (0_u64..).map(|n| (n * 2).to_be_bytes().to_vec());
        keys.filter(move |key| ends_leaf(key) == ends).take(count).collect::<Vec<_>>()
    };
    let (default, salted) = (MapConfig::default(), MapConfig { salt: 0x7069_6e63, ..MapConfig::default() });
    let kinds = [
        ("16-byte random keys, 100 B", random.clone(), 100, default),
        ("8-byte numbers, 4 B", numbers.clone(), 4, default),
        ("8-byte numbers, 900 B", numbers, 900, default),
        ("text, 30 B", text, 30, default),
        ("chosen to end no leaf, 100 B", chosen(false), 100, default),
        ("the same, salted", chosen(false), 100, salted),
        ("chosen to end every leaf, 100 B", chosen(true), 100, default),
        ("the same, salted", chosen(true), 100, salted),
    ];
    kinds.into_iter().map(|(name, keys, len, config)| shape(name, &keys, len, config)).collect()
}

/// Whether a leaf of the default configuration ends after a row with this key, its guards aside.
fn ends_leaf(key: &[u8]) -> bool {
    let mean = u64::from(MapConfig::default().leaf_mean);
    xxhash_rust::xxh3::xxh3_64_with_seed(key, 0x9e37_79b9_7f4a_7c15) <= u64::MAX / (mean - mean / 4 + 1)
}

fn shape(name: &'static str, keys: &[Vec<u8>], value_len: usize, config: MapConfig) -> Result<Shape> {
    let database = Database::memory()?;
    let mut transaction = database.begin("main")?;
    transaction.create_table_with("rows", Definition { config, schema: None })?;
    let value = vec![7; value_len];
    transaction.load("rows", keys.iter().map(|key| (key, &value)))?;
    transaction.commit()?;
    let mut before = nodes(&database)?;
    let mut leaves: Vec<(usize, usize)> =
        before.values().filter(|node| node.level == 0).map(|node| (node.rows, node.bytes)).collect();
    leaves.sort_unstable();
    let bytes_max = leaves.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
    let rows_at = |part: usize| leaves.get((leaves.len() - 1) * part / 100).map_or(0, |leaf| leaf.0);
    // The last leaf ends where the table does, and may be of any size.
    let smallest = leaves.get(1).map_or(0, |leaf| leaf.0);
    let sizes = [smallest, rows_at(50), rows_at(99), rows_at(100)];
    let mut random = SplitMix64::new(9);
    let (mut made, mut levels) = (0, 0);
    for _ in 0..INSERTS {
        // Behind a key that is there, and before the next.
        let key = [keys[random.below(keys.len())].as_slice(), &[0x80]].concat();
        let mut transaction = database.begin("main")?;
        transaction.put("rows", &key, &value)?;
        transaction.commit()?;
        let after = nodes(&database)?;
        made += after.keys().filter(|hash| !before.contains_key(hash)).count();
        levels += after.values().map(|node| usize::from(node.level) + 1).max().unwrap_or(1);
        before = after;
    }
    Ok(Shape { rows: name, leaves: leaves.len(), sizes, bytes_max, rewritten: made as f64 / levels as f64 })
}

struct NodeSize {
    level: u8,
    rows: usize,
    bytes: usize,
}

/// All nodes of the table.
fn nodes(database: &Database) -> Result<HashMap<Hash, NodeSize>> {
    let table = work(database)?.table("rows")?.context("no table")?;
    let mut nodes = HashMap::new();
    let mut open = vec![table.root()];
    while let Some(hash) = open.pop() {
        let chunk = database.store().get(&hash)?.context("a node is missing")?;
        // A node's body begins with the number of its entries.
        let rows = chunk.body().first_chunk().map_or(0, |count| usize::from(u16::from_le_bytes(*count)));
        if chunk.level() > 0 {
            open.extend(chunk.children());
        }
        nodes.insert(hash, NodeSize { level: chunk.level(), rows, bytes: chunk.bytes().len() });
    }
    Ok(nodes)
}
