//! Where to find a chunk among all tables: one table of 8-byte slots in memory.
//!
//! One idea: a hash says where its slot should be, tables list their chunks by hash, and so merging their lists fills the slots from left to
//! right. A slot names a table and an entry of its index, which has the whole hash; 24 more bits of the hash in the slot tell nearly always
//! that a chunk is absent, without a look at any file.
//!
//! ```text
//! bits    field of a slot
//! 40–63   tag      bytes 8–10 of the hash
//! 24–39   slot     number of the table in this lookup; 65,535 = the slot is free
//!  0–23   ordinal  of the entry in the table's index
//! ```
//!
//! Four slots in five are taken: 10 bytes a chunk. Made anew, whole, when tables come and go.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::Table;
use super::hidden::Bits;
use crate::error::{Error, Result};
use crate::frame::Location;
use crate::hash::Hash;

const FREE: u64 = u64::MAX;
const TABLES_MAX: usize = 0xffff;
const CHUNKS_MAX: u32 = 1 << 24;

/// An entry found in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Position of the table in [`Lookup::tables`].
    pub(crate) slot: usize,
    pub(crate) ordinal: u32,
    pub(crate) place: Location,
}

/// All chunks that lie in tables and count.
#[derive(Default)]
pub(crate) struct Lookup {
    tables: Vec<Arc<Table>>,
    slots: Vec<u64>,
    /// Home slots: what [`Lookup::slots`] has more is the overflow of the last ones.
    homes: u64,
    len: u64,
}

impl Lookup {
    /// The lookup of `tables`; of a chunk that several have, the one with the highest number counts. `hidden` gives, for a table, the
    /// chunks that do not count.
    pub(crate) fn build<'a>(
        tables: Vec<Arc<Table>>,
        hidden: impl Fn(u32) -> Option<&'a Bits>,
    ) -> Result<Lookup> {
        if tables.len() >= TABLES_MAX {
            return Err(Error::damaged(crate::manifest::FILE, 40, "more than 65,534 tables"));
        }
        if let Some(table) = tables.iter().find(|table| table.len() > CHUNKS_MAX) {
            return Err(Error::damaged(&table.name, 0, "more than 16,777,216 chunks in a table"));
        }
        let chunks: u64 = tables.iter().map(|table| u64::from(table.len())).sum();
        let homes = chunks + chunks / 4 + 1;
        let mut lookup = Lookup { tables, slots: Vec::with_capacity(homes as usize + 16), homes, len: 0 };
        let mut cursors: Vec<Cursor> = Vec::new();
        for table in &lookup.tables {
            cursors.push(Cursor { table: table.clone(), at: 0, piece: Vec::new(), first: 0 });
        }
        // By hash; of equal ones the table with the highest number first.
        let mut heap = BinaryHeap::new();
        for (index, cursor) in cursors.iter_mut().enumerate() {
            if let Some((hash, ordinal)) = cursor.next(&hidden)? {
                heap.push(Reverse((hash, Reverse(cursor.table.number), index, ordinal)));
            }
        }
        let mut last = None;
        while let Some(Reverse((hash, _, index, ordinal))) = heap.pop() {
            if last != Some(hash) {
                lookup.push(&hash, index, ordinal);
                last = Some(hash);
            }
            if let Some((hash, ordinal)) = cursors[index].next(&hidden)? {
                heap.push(Reverse((hash, Reverse(cursors[index].table.number), index, ordinal)));
            }
        }
        Ok(lookup)
    }

    /// Adds a chunk whose hash is not less than the ones before.
    fn push(&mut self, hash: &Hash, slot: usize, ordinal: u32) {
        let home = self.home(hash);
        while self.slots.len() < home {
            self.slots.push(FREE);
        }
        self.slots.push(tag(hash) | (slot as u64) << 24 | u64::from(ordinal));
        self.len += 1;
    }

    fn home(&self, hash: &Hash) -> usize {
        let bytes = hash.as_bytes();
        let head = u64::from_be_bytes([
            bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
        ]);
        (u128::from(head) * u128::from(self.homes) >> 64) as usize
    }

    /// Where the chunk lies; `None` if no table has it.
    pub(crate) fn get(&self, hash: &Hash) -> Result<Option<Found>> {
        let tag = tag(hash);
        let from = self.home(hash).min(self.slots.len());
        for value in self.slots[from..].iter().take_while(|value| **value != FREE) {
            if value & TAG != tag {
                continue;
            }
            let (slot, ordinal) = ((value >> 24 & 0xffff) as usize, (value & 0xff_ffff) as u32);
            let (found, place) = self.tables[slot].entry(ordinal)?;
            if found == *hash {
                return Ok(Some(Found { slot, ordinal, place }));
            }
            // By chance once in 16 million. Or the entry is not what it was: then the chunk is not absent.
            self.tables[slot].check_entry(ordinal)?;
        }
        Ok(None)
    }

    /// The tables, in the order of their slots.
    pub(crate) fn tables(&self) -> &[Arc<Table>] {
        &self.tables
    }

    /// Number of chunks.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.slots.capacity() as u64 * 8
    }

    /// Calls `f` with each chunk that counts, in no order that means anything.
    pub(crate) fn for_each(&self, mut f: impl FnMut(Hash, Found) -> Result<()>) -> Result<()> {
        for value in self.slots.iter().filter(|value| **value != FREE) {
            let (slot, ordinal) = ((value >> 24 & 0xffff) as usize, (value & 0xff_ffff) as u32);
            let (hash, place) = self.tables[slot].entry(ordinal)?;
            f(hash, Found { slot, ordinal, place })?;
        }
        Ok(())
    }
}

const TAG: u64 = !0 << 40;

fn tag(hash: &Hash) -> u64 {
    let bytes = hash.as_bytes();
    u64::from_be_bytes([bytes[8], bytes[9], bytes[10], 0, 0, 0, 0, 0])
}

/// The chunks of a table that count, by hash, read in pieces.
struct Cursor {
    table: Arc<Table>,
    /// Ordinal of the next entry.
    at: u32,
    piece: Vec<Hash>,
    /// Ordinal of the first entry of `piece`.
    first: u32,
}

impl Cursor {
    fn next<'a>(&mut self, hidden: &impl Fn(u32) -> Option<&'a Bits>) -> Result<Option<(Hash, u32)>> {
        let bits = hidden(self.table.number);
        while self.at < self.table.len() {
            let ordinal = self.at;
            self.at += 1;
            if bits.is_some_and(|bits| bits.get(ordinal)) {
                continue;
            }
            return Ok(Some((self.hash(ordinal)?, ordinal)));
        }
        Ok(None)
    }

    fn hash(&mut self, ordinal: u32) -> Result<Hash> {
        if ordinal.wrapping_sub(self.first) as usize >= self.piece.len() {
            (self.first, self.piece) = self.table.hashes(ordinal)?;
        }
        match self.piece.get(ordinal.wrapping_sub(self.first) as usize) {
            Some(hash) => Ok(*hash),
            None => Err(Error::damaged(&self.table.name, 0, "the table's index is shorter than it states")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::{lookup, lookup_of};

    /// Hashes of which many share their place, their tag, or both.
    fn hash() -> impl Strategy<Value = Hash> {
        (0..3_u8, 0..4_u8, 0..3_u8, 0..3_u8).prop_map(|(first, second, tag, last)| {
            let mut bytes = [0; Hash::LEN];
            (bytes[0], bytes[1], bytes[9], bytes[31]) = (first * 127, second, tag, last);
            Hash::from_bytes(bytes)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_lookup_finds_what_a_map_does(
            tables in prop::collection::vec(prop::collection::btree_map(hash(), any::<bool>(), 0..40), 0..8),
            others in prop::collection::vec(hash(), 0..40),
        ) {
            let mut model: BTreeMap<Hash, usize> = BTreeMap::new();
            for (number, table) in tables.iter().enumerate() {
                // Of a chunk in several tables the last one counts, among those where it is not hidden.
                model.extend(table.iter().filter(|(_, hidden)| !**hidden).map(|(hash, _)| (*hash, number)));
            }
            let asked: Vec<Hash> = tables.iter().flat_map(BTreeMap::keys).chain(&others).copied().collect();
            let expected: Vec<Option<usize>> = asked.iter().map(|hash| model.get(hash).copied()).collect();
            prop_assert_eq!(lookup(&tables, &asked).unwrap(), expected);
            let lookup = lookup_of(&tables).unwrap();
            prop_assert_eq!(lookup.len(), model.len() as u64);
            let mut all = BTreeMap::new();
            lookup.for_each(|hash, found| {
                assert_eq!(all.insert(hash, lookup.tables()[found.slot].number as usize - 1), None);
                assert_eq!(lookup.tables()[found.slot].entry(found.ordinal)?, (hash, found.place));
                Ok(())
            }).unwrap();
            prop_assert_eq!(all, model);
        }
    }

    #[test]
    fn a_chunk_takes_at_most_12_bytes_of_memory() {
        const CHUNKS: u32 = 100_000;
        let mut tables = vec![BTreeMap::new(); 5];
        for chunk in 0..CHUNKS {
            tables[chunk as usize % 5].insert(Hash::of(&chunk.to_le_bytes()), false);
        }
        let lookup = lookup_of(&tables).unwrap();
        let bytes = lookup.bytes() + lookup.tables().iter().map(|table| table.memory_bytes()).sum::<u64>();
        println!("{:.2} bytes a chunk", bytes as f64 / f64::from(CHUNKS));
        assert!(bytes <= 12 * u64::from(CHUNKS), "{bytes} bytes for {CHUNKS} chunks");
        let places = lookup.slots.iter().filter(|value| **value != FREE).count();
        assert_eq!((lookup.len(), places), (u64::from(CHUNKS), CHUNKS as usize));
        for chunk in 0..2 * CHUNKS {
            let found = lookup.get(&Hash::of(&chunk.to_le_bytes())).unwrap();
            assert_eq!(found.map(|found| found.slot), (chunk < CHUNKS).then_some(chunk as usize % 5));
        }
    }
}
