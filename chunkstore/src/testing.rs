//! Doors for tests that other packages run too. [`power`] cuts the power; the rest are doors for fuzzing: decoders that have no other door, fed with bytes that may be anything.
//!
//! One idea: each takes what a file could hold and must come back, with a result or an error. The other decoders are public:
//! [`Chunk::from_bytes`](crate::Chunk::from_bytes), [`frame::parse`](crate::frame::parse) and [`frame::decode`](crate::frame::decode); whole
//! directories are opened through [`Memory::holding`](crate::io::memory::Memory::holding).

pub mod power;
mod specimen;

pub use specimen::{Image, Specimen, options, specimen};

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::Result;
use crate::frame::{self, Dictionary, Encoding, FrameError, FrameHeader, Location, Source};
use crate::hash::Hash;
use crate::io::Io;
use crate::io::memory::Memory;
use crate::journal::group::{self, Group, GroupHeader, Kind, Place};
use crate::journal::replay::{Expect, replay};
use crate::journal::{self, Journal, seal};
use crate::manifest::{Hidden, Listed, Manifest};
use crate::table::lookup::{Found, Lookup};
use crate::table::{self, Footer, Table, hidden};

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

/// Decodes a manifest with these fields and a good checksum, and gives them as they would be encoded.
pub fn manifest_fields(fields: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Manifest::decode(&[fields, blake3::hash(fields).as_bytes()].concat())?.encode();
    bytes.truncate(bytes.len() - 32);
    Ok(bytes)
}

/// Decodes a hidden file with a good head and good checks whose tables are these bytes, and gives them as they would be encoded.
pub fn hidden(tables: &[u8]) -> Result<Vec<u8>> {
    const HEAD_BYTES: usize = 32;
    let empty = hidden::encode(9, &STORE, &hidden::HiddenChunks::new());
    let mut bytes = [&empty[..HEAD_BYTES], tables].concat();
    let checksum = *blake3::hash(&bytes).as_bytes();
    bytes.extend(checksum);
    let entry = Hidden { number: 9, len: bytes.len() as u64, check: hidden::check_of(&bytes) };
    let again = hidden::encode(9, &STORE, &hidden::decode(&bytes, &entry, &STORE)?);
    Ok(again[HEAD_BYTES..again.len() - checksum.len()].to_vec())
}

/// What a table is made of.
pub struct TableParts<'a> {
    /// The dictionary.
    pub dictionary: &'a [u8],
    /// The frames, side by side.
    pub frames: &'a [u8],
    /// Of each entry, what follows the hash. The offset counts from the first frame.
    pub entries: Vec<[u8; 8]>,
    /// What is added to the footer's fields.
    pub lie: [u32; 3],
}

/// A store whose manifest lists a table of these parts, all checks made good; and the hashes in its index: those of the chunks that are there, any
/// other where no chunk is.
pub fn store_with_table(parts: &TableParts<'_>) -> (Vec<Hash>, Memory) {
    const NUMBER: u32 = 2;
    let header = table::header(NUMBER, &STORE);
    let key = table::key_of(&header);
    let mut bytes = [&header[..], parts.dictionary, parts.frames].concat();
    let index_offset = bytes.len() as u32;
    let first = header.len() + parts.dictionary.len();
    let dictionary = (!parts.dictionary.is_empty())
        .then(|| Arc::new(Dictionary::new(parts.dictionary.to_vec(), table::DICTIONARY_LEVEL)));
    let mut index: Vec<[u8; table::ENTRY_BYTES]> = Vec::new();
    for entry in &parts.entries {
        let [a, b, c, d, packed @ ..] = *entry;
        let offset = u32::from_le_bytes([a, b, c, d]).wrapping_add(first as u32);
        let entry = [&[0; Hash::LEN][..], &offset.to_le_bytes(), &packed].concat();
        let decoded = table::decode_entry(&entry, NUMBER, first as u64..u64::from(index_offset)).and_then(
            |(_, place)| {
                let read = |place: Location| {
                    let start = place.offset as usize;
                    let bytes = bytes.get(start..start + place.len as usize);
                    let bytes = bytes.ok_or(FrameError { what: "no such place" })?.to_vec();
                    Ok::<_, FrameError>(Source { bytes, dictionary: dictionary.clone() })
                };
                frame::decode(place, read).ok()
            },
        );
        let hash = decoded.map_or_else(|| Hash::of(&entry), |chunk| Hash::of(&chunk));
        let mut whole = [0; table::ENTRY_BYTES];
        whole.copy_from_slice(&[hash.as_bytes(), &entry[Hash::LEN..]].concat());
        index.push(whole);
    }
    index.sort_unstable();
    index.dedup_by_key(|entry| entry.first_chunk::<32>().copied());
    let mut hasher = blake3::Hasher::new_keyed(&key);
    hasher.update(parts.dictionary).update(index.as_flattened());
    bytes.extend(index.as_flattened());
    let fields = [index.len() as u32, parts.dictionary.len() as u32, index_offset];
    let [chunks, dictionary_len, index_offset] =
        [0, 1, 2].map(|field: usize| fields[field].wrapping_add(parts.lie[field]));
    let footer = Footer { chunks, dictionary_len, index_offset, digest: *hasher.finalize().as_bytes() };
    let footer = footer.encode(&key);
    bytes.extend(footer);
    let (len, check) = (bytes.len() as u64, table::check_of(&footer));
    let listed = Listed { number: NUMBER, len, newest: 1, check, tier: 0, run: NUMBER, held: false };
    let manifest = Manifest { next: 4, active: 3, tables: vec![listed], ..Manifest::first(STORE) };
    let files = [
        (crate::manifest::FILE.to_owned(), manifest.encode()),
        (journal::file_name(3), [&journal::header(3, &STORE)[..], &checkpoint(3)].concat()),
        (table::file_name(NUMBER), bytes),
    ];
    let hashes = index.iter().filter_map(|entry| Hash::from_slice(&entry[..Hash::LEN]));
    (hashes.collect(), Memory::holding(files.into()))
}

/// Which of these tables each of the hashes asked for is found in. A table's chunks are in the order of their hashes; true is hidden.
pub fn lookup(tables: &[BTreeMap<Hash, bool>], asked: &[Hash]) -> Result<Vec<Option<usize>>> {
    let lookup = lookup_of(tables)?;
    let number = |found: Found| lookup.tables()[found.slot].number as usize - 1;
    asked.iter().map(|hash| Ok(lookup.get(hash)?.map(number))).collect()
}

/// Opens tables of these chunks, whose frames are empty.
pub(crate) fn lookup_of(tables: &[BTreeMap<Hash, bool>]) -> Result<Lookup> {
    let memory = Memory::default();
    let mut hidden = hidden::HiddenChunks::new();
    let mut open = Vec::new();
    for (chunks, number) in tables.iter().zip(1..) {
        let mut writer = table::write::Writer::create(&memory, number, &STORE, &[], table::TABLE_BYTES_MAX)?;
        let mut bits = hidden::Bits::new(chunks.len() as u32);
        let header = FrameHeader {
            encoding: Encoding::Raw,
            step: 0,
            crossed: false,
            leaf: true,
            partial: false,
            raw_len: 0,
            payload_len: 0,
        };
        for ((hash, is_hidden), ordinal) in chunks.iter().zip(0..) {
            writer.put(*hash, &header, &[])?;
            if *is_hidden {
                bits.set(ordinal);
            }
        }
        hidden.insert(number, bits);
        let listed = writer.finish(0, 0, number, None)?;
        open.push(Arc::new(Table::open(&memory, &listed, &STORE)?));
    }
    Lookup::build(open, |number| hidden.get(&number))
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
    checkpoint(1)
}

/// The first group of the journal with this number.
fn checkpoint(number: u32) -> Vec<u8> {
    let key = journal::key_of(&journal::header(number, &STORE));
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
