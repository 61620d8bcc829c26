//! Doors for tests that other packages run too. [`power`] cuts the power; the rest are doors for fuzzing: decoders that have no other door, fed with bytes that may be anything.
//!
//! One idea: each takes what a file could hold and must come back, with a result or an error. The other decoders are public:
//! [`Chunk::from_bytes`](crate::Chunk::from_bytes), [`frame::parse`](crate::frame::parse) and [`frame::decode`](crate::frame::decode); whole
//! directories are opened through [`Memory::holding`](crate::io::memory::Memory::holding).

pub mod power;
mod specimen;

pub use specimen::{Image, Specimen, options, specimen};

use crate::error::Result;
use crate::io::Io;
use crate::io::memory::Memory;
use crate::journal::group::{self, Group, GroupHeader, Kind, Place};
use crate::journal::replay::{Expect, replay};
use crate::journal::{self, Journal, seal};
use crate::manifest::Manifest;

/// A fault to be planted, so that a test can show that it would be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// A sync that failed is tried again, as if that helped.
    SyncAgain,
    /// A new table is in the manifest before it is on the disk.
    ManifestBeforeTable,
    /// A writer builds upon what a collection is about to remove.
    NoBarrier,
    /// A file goes although a journal has differences from chunks in it.
    BaseDropped,
    /// A chunk is handed out without a look at its hash.
    HashUnchecked,
}

const STORE: journal::StoreId = [1; 16];

/// Decodes a manifest.
pub fn manifest(bytes: &[u8]) -> Result<()> {
    Manifest::decode(bytes).map(drop)
}

/// Replays a journal with a good header and first group, and `tail` behind; `durable_end` is what the watermark says. Gives the number of
/// good groups.
pub fn journal(tail: &[u8], durable_end: u64) -> Result<u64> {
    replay(&open_journal(&[&first_group(), tail].concat())?, Expect::Active(durable_end))
        .map(|replay| replay.groups)
}

/// Replays a journal whose second group has good checks and this body; so the body's decoder is reached.
pub fn group(frame_count: u32, record_count: u32, body: &[u8]) -> Result<u64> {
    let key = journal::key_of(&journal::header(1, &STORE));
    let mut bytes = first_group();
    let offset = (journal::HEADER_BYTES + bytes.len()) as u64;
    let mut previous = journal::Check::default();
    previous.copy_from_slice(&bytes[44..group::HEADER_BYTES]);
    let sequence = u64::from(record_count > 0);
    let place = Place { offset, previous, sequence, synced_end: 0 };
    let mut finished = Group::with_body(body, frame_count, record_count).finish();
    bytes.extend(finished.place(&key, &place).0);
    replay(&open_journal(&bytes)?, Expect::Active(0)).map(|replay| replay.groups)
}

/// Decodes an index, its check made good.
pub fn index(bytes: &[u8]) -> bool {
    let key = [7; 32];
    let checked = [bytes, &blake3::keyed_hash(&key, bytes).as_bytes()[..16]].concat();
    seal::decode(&checked, 1, u64::MAX, &key).is_some()
}

/// Looks for a group's header in bytes that may be anything.
pub fn group_header(bytes: &[u8], offset: u64) -> bool {
    GroupHeader::parse(bytes, &[7; 32], offset).is_some()
}

fn first_group() -> Vec<u8> {
    let key = journal::key_of(&journal::header(1, &STORE));
    let offset = journal::HEADER_BYTES as u64;
    let place = Place { offset, previous: journal::first_check(&key), sequence: 0, synced_end: 0 };
    Group::new(Kind::Checkpoint).finish().place(&key, &place).0.to_vec()
}

fn open_journal(groups: &[u8]) -> Result<Journal> {
    let bytes = [&journal::header(1, &STORE)[..], groups].concat();
    let memory = Memory::holding([(journal::file_name(1), bytes)].into());
    Journal::open(&memory as &dyn Io, 1, &STORE)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    proptest::proptest! {
        #[test]
        fn every_door_takes_any_bytes(bytes: Vec<u8>, number: u32, few in 0..3_u32) {
            let _ = (manifest(&bytes), index(&bytes), group_header(&bytes, u64::from(number)));
            let _ = (group(number, few, &bytes), group(few, number, &bytes), group(few, few, &bytes));
            assert_eq!(journal(&bytes, 0).unwrap(), 1);
        }
    }

    #[test]
    fn a_specimen_has_a_file_of_every_kind() {
        let specimen = specimen().unwrap();
        let manifest = Manifest::decode(&specimen.files["manifest"]).unwrap();
        let held = manifest.sealed.iter().filter(|sealed| sealed.held).count();
        assert!(held > 0 && manifest.sealed.len() > held, "sealed and held journals: {manifest:?}");
        let held = manifest.tables.iter().filter(|table| table.held).count();
        assert!(held > 0 && manifest.tables.len() > held + 2, "tables and held ones: {manifest:?}");
        assert!(manifest.hidden.is_some(), "a hidden file");
        let lens: Vec<_> = specimen.files.iter().map(|(name, bytes)| (name, bytes.len())).collect();
        println!("{lens:?} {}", lens.iter().map(|(_, len)| len).sum::<usize>());
        let mut encodings = std::collections::BTreeSet::new();
        for listed in &manifest.tables {
            let io = Memory::holding(specimen.files.clone());
            let table = crate::table::Table::open(&io, listed, &manifest.store).unwrap();
            table
                .for_each(|_, _, place| {
                    let bytes = table.read(u64::from(place.offset), place.len as usize)?;
                    let found = crate::frame::parse(&bytes).unwrap().0.encoding;
                    encodings.insert(format!("{found:?}").split(' ').next().unwrap().to_owned());
                    Ok(())
                })
                .unwrap();
        }
        let all = ["Delta", "Patch", "Raw", "Zstd", "ZstdDictionary"];
        assert_eq!(encodings.into_iter().collect::<Vec<_>>(), all, "frames of every encoding");
        assert!(!specimen.chunks.is_empty() && specimen.past.len() > 3);
    }

    #[test]
    fn the_door_to_a_groups_body_reaches_it() {
        assert_eq!(group(0, 0, b"").unwrap(), 2);
        assert!(group(1, 0, b"no frame").is_err());
        assert!(journal(b"", u64::MAX).is_err(), "shorter than the watermark says");
    }
}
