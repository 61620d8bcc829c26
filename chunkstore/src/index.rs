//! The index: where each chunk lies.
//!
//! One idea: a hash is uniform, so its bytes serve as shard number and table hash as they are. The door is narrow (`get`, `contains`,
//! `insert`), so that a more compact index can take this one's place. Read by every load, written by appends and by opening.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use parking_lot::RwLock;

use crate::frame::Location;
use crate::hash::Hash;

const SHARDS: usize = 64;

/// Takes the eight bytes that a [`Hash`] offers as they are.
#[derive(Default, Clone)]
pub(crate) struct Uniform(u64);

impl Hasher for Uniform {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

pub(crate) type Uniformly = BuildHasherDefault<Uniform>;

/// Where each chunk lies.
pub(crate) struct Index {
    shards: Vec<RwLock<HashMap<Hash, Location, Uniformly>>>,
}

impl Index {
    pub(crate) fn new() -> Index {
        Index { shards: (0..SHARDS).map(|_| RwLock::default()).collect() }
    }

    fn shard(&self, hash: &Hash) -> &RwLock<HashMap<Hash, Location, Uniformly>> {
        // The last byte: the table inside uses the first eight.
        &self.shards[usize::from(hash.as_bytes()[31]) % SHARDS]
    }

    pub(crate) fn get(&self, hash: &Hash) -> Option<Location> {
        self.shard(hash).read().get(hash).copied()
    }

    /// Notes where a chunk lies: the last place counts, so that what was written anew takes the place of what could not be read.
    pub(crate) fn insert(&self, hash: Hash, location: Location) {
        self.shard(&hash).write().insert(hash, location);
    }

    /// The chunks that lie in these files, in no order.
    pub(crate) fn in_files(&self, files: &BTreeSet<u32>) -> Vec<(Hash, Location)> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.read();
            let entries = shard.iter().filter(|(_, place)| files.contains(&place.file));
            found.extend(entries.map(|(hash, place)| (*hash, *place)));
        }
        found
    }

    /// Forgets the chunks whose place is of this kind.
    pub(crate) fn forget(&self, gone: impl Fn(&Location) -> bool) {
        self.shards.iter().for_each(|shard| shard.write().retain(|_, place| !gone(place)));
    }

    /// All chunks and where they lie, in no order.
    pub(crate) fn entries(&self) -> Vec<(Hash, Location)> {
        let entries = |shard: &RwLock<HashMap<Hash, Location, Uniformly>>| {
            shard.read().iter().map(|(hash, place)| (*hash, *place)).collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(entries).collect()
    }

    /// All chunks, in no order.
    pub(crate) fn hashes(&self) -> Vec<Hash> {
        self.shards.iter().flat_map(|shard| shard.read().keys().copied().collect::<Vec<_>>()).collect()
    }

    /// Number of chunks.
    pub(crate) fn len(&self) -> u64 {
        self.shards.iter().map(|shard| shard.read().len() as u64).sum()
    }
}
