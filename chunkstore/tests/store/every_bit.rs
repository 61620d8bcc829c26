//! A store with a file of every kind, and everything that a disk can do to those: the right bytes, or an error that says where.
//!
//! What is checked of each damage: opening succeeds, or names the damaged file; then every chunk that a ref leads to gives its bytes, or an error
//! that names it, and is never absent; fsck finds the same, and so does a reader beside the writer. Whatever reads right still does so after appending, compacting, collecting and opening again.
//! `PLEACH_SOAK=1` spares nothing: every bit, and the store's life after each damage.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use pleach_chunkstore::fsck;
use pleach_chunkstore::io::memory::Memory;
use pleach_chunkstore::testing::{Image, Plant, Specimen, options, specimen};
use pleach_chunkstore::{Batch, Chunk, Error, Hash, Options, Outcome, Store, Verify};

use crate::basics::{leaf, update};

fn soak() -> bool {
    std::env::var_os("PLEACH_SOAK").is_some_and(|value| value == "1")
}

fn open(image: &Image) -> (Memory, Result<Store, Error>) {
    let disk = Memory::holding(image.clone());
    let store = Store::open_with_io(Arc::new(disk.clone()), options());
    (disk, store)
}

/// What became of damaged images.
#[derive(Default)]
struct Tally {
    /// Whether stores that open go on with their lives.
    lives: bool,
    /// Whether a store may be what it was at an earlier close, whole: two old files can agree with all the others.
    may_be_older: bool,
    older: usize,
    refused: usize,
    unreadable: usize,
    harmless: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { refused, unreadable, harmless, older, .. } = self;
        let all = refused + unreadable + harmless + older;
        write!(f, "{all} damages: {refused} refused, {unreadable} told on reading, {harmless} harmless")?;
        if *older > 0 { write!(f, ", {older} an earlier state") } else { Ok(()) }
    }
}

impl Tally {
    /// Judges stores by what follows, too.
    fn of_lives() -> Tally {
        Tally { lives: true, ..Tally::default() }
    }

    /// Opens a damaged image. `files` are those that may be blamed when it is refused.
    fn judge(&mut self, specimen: &Specimen, image: &Image, files: &[&str], what: &dyn Fn() -> String) {
        let (disk, opened) = open(image);
        let store = match opened {
            Ok(store) => store,
            Err(Error::Damaged { file, offset, .. }) => {
                assert!(files.contains(&file.as_str()), "{}: {file} at {offset} is blamed", what());
                self.refused += 1;
                return;
            }
            Err(Error::Version { file, .. }) if files.contains(&file.as_str()) => {
                self.refused += 1;
                return;
            }
            Err(error) => panic!("{}: {error}", what()),
        };
        let refs = store.refs("");
        if refs != specimen.refs {
            // What it was is whole.
            readable(&store, &under(&refs, &specimen.chunks), what);
            assert!(self.may_be_older, "{}: {refs:?}", what());
            assert!(specimen.past.iter().any(|(_, past)| *past == refs), "{}: {refs:?}", what());
            self.older += 1;
            return;
        }
        let read = readable(&store, &specimen.chunks, what);
        match read.len() == specimen.chunks.len() {
            true => self.harmless += 1,
            false => self.unreadable += 1,
        }
        if self.lives {
            is_found(&disk, &store, &specimen.chunks, &read, what);
            lives_on(&disk, store, read, what);
        }
    }
}

/// Those of the chunks that refs lead to.
fn under(refs: &[(String, Hash)], chunks: &BTreeMap<Hash, Chunk>) -> BTreeMap<Hash, Chunk> {
    let mut waiting: Vec<Hash> = refs.iter().map(|(_, hash)| *hash).collect();
    let mut found = BTreeMap::new();
    while let Some(chunk) = waiting.pop().map(|hash| chunks.get(&hash)) {
        if let Some(chunk) = chunk {
            waiting.extend(chunk.children());
            found.insert(*chunk.hash(), chunk.clone());
        }
    }
    found
}

/// The chunks that read right; the others are told to be damaged, by name.
fn readable(
    store: &Store,
    chunks: &BTreeMap<Hash, Chunk>,
    what: &dyn Fn() -> String,
) -> BTreeMap<Hash, Chunk> {
    let mut read = BTreeMap::new();
    for (hash, chunk) in chunks {
        match store.get(hash) {
            Ok(Some(found)) => {
                assert_eq!(found.bytes(), chunk.bytes(), "{}", what());
                read.insert(*hash, chunk.clone());
            }
            Err(Error::Damaged { hash: told, .. }) => assert_eq!(told, Some(*hash), "{}", what()),
            other => panic!("{}: {hash}: {other:?}", what()),
        }
    }
    read
}

/// A reader beside the writer reads the same, as far as it comes, and fsck names what does not read.
fn is_found(
    disk: &Memory,
    store: &Store,
    chunks: &BTreeMap<Hash, Chunk>,
    read: &BTreeMap<Hash, Chunk>,
    what: &dyn Fn() -> String,
) {
    match Store::open_to_read_with_io(Arc::new(disk.clone()), options()) {
        Ok(reader) => {
            let known = under(&reader.refs(""), chunks);
            let expected = known.keys().filter(|hash| read.contains_key(hash)).count();
            assert_eq!(readable(&reader, &known, what).len(), expected, "{}", what());
        }
        Err(Error::Damaged { .. }) => {}
        Err(error) => panic!("{}: {error}", what()),
    }
    let report = fsck::check(store, &|_| Ok(())).unwrap();
    let told: BTreeSet<Hash> = report.damages.iter().map(|damage| damage.hash).collect();
    for hash in chunks.keys() {
        assert_eq!(told.contains(hash), !read.contains_key(hash), "{}: {hash}", what());
    }
}

/// Appends, compacts, collects, closes and opens again: what read right still does.
fn lives_on(disk: &Memory, store: Store, mut read: BTreeMap<Hash, Chunk>, what: &dyn Fn() -> String) {
    let new = leaf("written after the damage");
    let mut batch = Batch::default();
    // A difference from whatever there is, damaged or not.
    batch.put(new.clone(), read.keys().next().copied());
    match store.append(batch, &[update("after", None, Some(*new.hash()))]) {
        Ok(Outcome::Appended(ticket)) => ticket.wait().unwrap(),
        Ok(Outcome::Moved { name, .. }) => panic!("{}: {name} moved", what()),
        Err(error) => panic!("{}: {error}", what()),
    }
    read.insert(*new.hash(), new);
    let told = |outcome: Result<(), Error>| match outcome {
        Ok(()) | Err(Error::Damaged { .. }) => {}
        Err(error) => panic!("{}: {error}", what()),
    };
    told(store.collect(false).map(drop));
    told(store.compact().map(drop));
    told(store.collect(false).map(drop));
    assert_eq!(readable(&store, &read, what).len(), read.len(), "{}", what());
    store.close().unwrap();
    let (_, store) = open(&disk.files());
    let store = store.unwrap_or_else(|error| panic!("{}, opened again: {error}", what()));
    assert_eq!(readable(&store, &read, what).len(), read.len(), "{}", what());
}

#[test]
fn every_flipped_bit_is_told_or_harmless() {
    let specimen = specimen().unwrap();
    let mut all = 0;
    for (name, bytes) in &specimen.files {
        let mut tally = Tally { lives: soak(), ..Tally::default() };
        let mut image = specimen.files.clone();
        // The table with a dictionary is the only long file: of each of its bytes one bit.
        let is_spared = |bit: usize| !soak() && bytes.len() > 4096 && bit / 8 % 8 != bit % 8;
        for bit in (0..bytes.len() * 8).filter(|bit| !is_spared(*bit)) {
            image.get_mut(name).unwrap()[bit / 8] ^= 1 << (bit % 8);
            tally.judge(&specimen, &image, &[name], &|| format!("bit {bit} of {name}"));
            image.get_mut(name).unwrap()[bit / 8] ^= 1 << (bit % 8);
            all += 1;
        }
        println!("{name}: {tally}");
    }
    println!("{all} bits of {} files", specimen.files.len());
}

#[test]
fn every_cut_and_everything_appended_is_told_or_harmless() {
    let specimen = specimen().unwrap();
    let mut cuts = Tally { lives: soak(), ..Tally::default() };
    let mut growths = Tally::of_lives();
    for (name, bytes) in &specimen.files {
        let mut image = specimen.files.clone();
        for len in (0..bytes.len()).rev() {
            image.get_mut(name).unwrap().truncate(len);
            cuts.judge(&specimen, &image, &[name], &|| format!("{name} cut at {len}"));
        }
        for garbage in [&[0][..], &[0xa5; 7], &[0; 512], &[0xff; 5000], bytes] {
            let mut image = specimen.files.clone();
            image.get_mut(name).unwrap().extend(garbage);
            growths.judge(&specimen, &image, &[name], &|| format!("{name} and {} bytes more", garbage.len()));
        }
    }
    println!("cut: {cuts}\ngrown: {growths}");
}

const BLOCK_BYTES: usize = 512;

#[test]
fn every_block_zeroed_or_in_the_place_of_another_is_told_or_harmless() {
    let specimen = specimen().unwrap();
    let blocks: Vec<(&String, &[u8], usize)> = specimen
        .files
        .iter()
        .flat_map(|(name, bytes)| {
            bytes.chunks(BLOCK_BYTES).zip(0..).map(move |(block, at)| (name, block, at))
        })
        .collect();
    let (mut zeroed, mut swapped) = (Tally::of_lives(), Tally::of_lives());
    let put = |image: &mut Image, name: &String, at: usize, block: &[u8]| {
        let place = &mut image.get_mut(name).unwrap()[at * BLOCK_BYTES..];
        let len = place.len().min(block.len());
        place[..len].copy_from_slice(&block[..len]);
    };
    for (index, (name, block, at)) in blocks.iter().enumerate() {
        let mut image = specimen.files.clone();
        put(&mut image, name, *at, &[0; BLOCK_BYTES]);
        zeroed.judge(&specimen, &image, &[name], &|| format!("block {at} of {name} zeroed"));
        for (other, other_block, other_at) in &blocks[..index] {
            let mut image = specimen.files.clone();
            put(&mut image, name, *at, other_block);
            put(&mut image, other, *other_at, block);
            swapped.judge(&specimen, &image, &[name, other], &|| {
                format!("block {at} of {name} and block {other_at} of {other} swapped")
            });
        }
    }
    println!("zeroed: {zeroed}\nswapped: {swapped}");
}

#[test]
fn files_that_are_missing_swapped_or_of_another_store_are_told_or_harmless() {
    let (specimen, foreign) = (specimen().unwrap(), specimen().unwrap());
    let mut tally = Tally::of_lives();
    for name in specimen.files.keys() {
        let mut image = specimen.files.clone();
        image.remove(name);
        tally.judge(&specimen, &image, &[name], &|| format!("{name} missing"));
        let created = Store::create_with_io(Arc::new(Memory::holding(image)), options());
        let left = specimen.files.keys().filter(|left| *left != name);
        assert!(matches!(created, Err(Error::AlreadyExists { .. })), "{name} missing: beside {left:?}");
        let mut image = specimen.files.clone();
        image.insert(name.clone(), foreign.files[name].clone());
        // A foreign manifest finds the other files foreign.
        let blamed: Vec<&str> = match name.as_str() {
            "manifest" => specimen.files.keys().map(String::as_str).collect(),
            _ => vec![name],
        };
        tally.judge(&specimen, &image, &blamed, &|| format!("{name} of another store"));
        for other in specimen.files.keys().filter(|other| *other < name) {
            let mut image = specimen.files.clone();
            image.insert(name.clone(), specimen.files[other].clone());
            image.insert(other.clone(), specimen.files[name].clone());
            tally.judge(&specimen, &image, &[name, other], &|| format!("{name} and {other} swapped"));
            image.insert(other.clone(), specimen.files[other].clone());
            tally.judge(&specimen, &image, &[name, other], &|| format!("{other} in the place of {name}"));
        }
    }
    println!("{tally}");
    let mut image = specimen.files.clone();
    image.retain(|name, _| name != "manifest" && !name.starts_with("journal-"));
    assert!(matches!(open(&image).1, Err(Error::Damaged { .. })), "tables without anything else");
    let created = Store::create_with_io(Arc::new(Memory::holding(image)), options());
    assert!(matches!(created, Err(Error::AlreadyExists { .. })), "tables without anything else");
}

#[test]
fn older_files_beside_newer_ones_are_told_or_harmless() {
    let specimen = specimen().unwrap();
    let images = specimen.past.iter().map(|(image, _)| image).chain([&specimen.files]);
    let all: Vec<&str> = images.flat_map(|image| image.keys().map(String::as_str)).collect();
    let (mut one, mut tally) = (Tally::of_lives(), Tally { may_be_older: true, ..Tally::of_lives() });
    for (age, (old, _)) in specimen.past.iter().enumerate() {
        for (name, bytes) in old.iter().filter(|(name, bytes)| specimen.files.get(*name) != Some(bytes)) {
            let mut image = specimen.files.clone();
            image.insert(name.clone(), bytes.clone());
            one.judge(&specimen, &image, &all, &|| format!("{name} of {age}"));
            // Two old files agree more than one.
            for (other, bytes) in old {
                let mut image = image.clone();
                image.insert(other.clone(), bytes.clone());
                tally.judge(&specimen, &image, &all, &|| format!("{name} and {other} of {age}"));
            }
        }
        // An old file under the name of each newer one of its kind.
        for (name, bytes) in old {
            let kind = |name: &str| name.split('-').next().map(str::to_owned);
            for newer in specimen.files.keys().filter(|newer| *newer > name && kind(newer) == kind(name)) {
                let mut image = specimen.files.clone();
                image.insert(newer.clone(), bytes.clone());
                tally.judge(&specimen, &image, &[newer], &|| format!("{name} of {age} as {newer}"));
            }
        }
        // All that there was, and what came since. The manifest is the only old file, but nothing that it lists is missing.
        let mut image: Image = specimen
            .past
            .iter()
            .flat_map(|(image, _)| image)
            .map(|(name, bytes)| (name.clone(), bytes.clone()))
            .collect();
        image.extend(specimen.files.clone());
        image.insert("manifest".to_owned(), old["manifest"].clone());
        tally.judge(&specimen, &image, &all, &|| format!("the manifest of {age} beside all files ever"));
        image.remove("watermark");
        tally.judge(&specimen, &image, &all, &|| format!("the manifest of {age}, without a watermark"));
    }
    println!("one old file: {one}\nmore: {tally}");
}

/// A table by its name, what it should hold, and the file, open for whoever damages it.
type Victim = (String, Vec<u8>, File);

/// The specimen on a real disk, open, its tables mapped.
fn on_disk(specimen: &Specimen) -> (tempfile::TempDir, Store, Vec<Victim>) {
    let dir = tempfile::tempdir().unwrap();
    specimen.files.iter().for_each(|(name, bytes)| std::fs::write(dir.path().join(name), bytes).unwrap());
    let store = Store::open(dir.path(), Options { verify: Verify::Always, ..options() }).unwrap();
    let tables = specimen.files.iter().filter(|(name, _)| name.starts_with("table-"));
    let tables = tables.map(|(name, bytes)| {
        let file = File::options().write(true).open(dir.path().join(name)).unwrap();
        (name.clone(), bytes.clone(), file)
    });
    let tables = tables.collect();
    (dir, store, tables)
}

/// Where the index of a table begins and ends.
fn index_of(table: &[u8]) -> std::ops::Range<usize> {
    let footer = table.len() - 64;
    u32::from_le_bytes(table[footer + 8..footer + 12].try_into().unwrap()) as usize..footer
}

#[test]
fn a_table_that_rots_under_an_open_store_is_told() {
    let specimen = specimen().unwrap();
    let (_dir, store, tables) = on_disk(&specimen);
    let found = store.collect(true).unwrap();
    let (mut told, mut harmless, mut kept) = (0, 0, 0);
    for (name, bytes, file) in &tables {
        let step = if bytes.len() > 4096 && !soak() { 7 } else { 1 };
        for at in (0..bytes.len()).step_by(step) {
            let what = || format!("byte {at} of {name}");
            file.write_all_at(&[bytes[at] ^ 1 << (at % 8)], at as u64).unwrap();
            match readable(&store, &specimen.chunks, &what).len() == specimen.chunks.len() {
                true => harmless += 1,
                false => told += 1,
            }
            // What decides about removal is as it was, or the collection says no.
            match store.collect(true) {
                Ok(now) => assert_eq!(
                    (now.live_chunks, now.dead_chunks),
                    (found.live_chunks, found.dead_chunks),
                    "{}",
                    what()
                ),
                Err(Error::Damaged { .. }) => kept += 1,
                Err(error) => panic!("{}: {error}", what()),
            }
            file.write_all_at(&bytes[at..=at], at as u64).unwrap();
        }
    }
    println!("{told} told on reading, {harmless} not met; {kept} collections refused");
    // And what is rewritten is never less than what there was.
    for (name, bytes, file) in &tables {
        let index = index_of(bytes);
        let at = index.start + 31;
        let what = || format!("byte {at} of {name}");
        file.write_all_at(&[!bytes[at]], at as u64).unwrap();
        let told = readable(&store, &specimen.chunks, &what).len() < specimen.chunks.len();
        if told {
            for outcome in [store.compact().map(drop), store.collect(false).map(drop)] {
                assert!(matches!(outcome, Err(Error::Damaged { .. })), "{}: {outcome:?}", what());
            }
        }
        file.write_all_at(&bytes[at..=at], at as u64).unwrap();
    }
    assert_eq!(readable(&store, &specimen.chunks, &|| "in the end".to_owned()), specimen.chunks);
}

#[test]
fn a_table_that_is_cut_under_an_open_store_is_told_and_the_process_lives() {
    let specimen = specimen().unwrap();
    let (_dir, store, tables) = on_disk(&specimen);
    let (mut told, mut harmless) = (0, 0);
    for (name, bytes, file) in &tables {
        for len in (0..bytes.len()).rev().step_by(if soak() { 1 } else { 61 }) {
            file.set_len(len as u64).unwrap();
            let what = || format!("{name} cut at {len}");
            match readable(&store, &specimen.chunks, &what).len() == specimen.chunks.len() {
                true => harmless += 1,
                false => told += 1,
            }
            assert!(matches!(store.collect(true), Ok(_) | Err(Error::Damaged { .. })), "{}", what());
        }
        file.write_all_at(bytes, 0).unwrap();
    }
    println!("{told} cuts told on reading, {harmless} not met");
    assert_eq!(readable(&store, &specimen.chunks, &|| "in the end".to_owned()), specimen.chunks);
}

#[test]
fn the_check_finds_a_hash_that_is_not_checked() {
    let specimen = specimen().unwrap();
    let options = Options { plant: Some(Plant::HashUnchecked), ..options() };
    let wrong = |name: &str, byte: usize| {
        let mut image = specimen.files.clone();
        image.get_mut(name)?[byte] ^= 1;
        let store = Store::open_with_io(Arc::new(Memory::holding(image)), options.clone()).ok()?;
        let reads = |chunk: &&Chunk| match store.get(chunk.hash()) {
            Ok(Some(found)) => found.bytes() != chunk.bytes(),
            _ => false,
        };
        specimen
            .chunks
            .values()
            .find(reads)
            .map(|chunk| format!("byte {byte} of {name}: {chunk:?} is another"))
    };
    let tables = specimen.files.iter().filter(|(name, _)| name.starts_with("table-"));
    let found = tables.flat_map(|(name, bytes)| (0..bytes.len()).map(move |byte| (name, byte)));
    println!("{}", found.into_iter().find_map(|(name, byte)| wrong(name, byte)).unwrap());
}
