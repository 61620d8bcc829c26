//! Chunks kept as differences: over many journals, and written anew.

use std::sync::Arc;

use pleach_chunkstore::io::memory::Memory;
use pleach_chunkstore::{Batch, Chunk, Error, Hash, Options, Outcome, Store};

use crate::basics::append;

fn options() -> Options {
    // Short journals: a few frames each.
    Options { journal_bytes: 3000, background: false, cache_bytes: 0, ..Options::default() }
}

/// A node of 40 rows of 32 bytes, one of which is another in each version; every 16th version has a row more.
fn version(number: u32) -> Chunk {
    let row = |row: u32| {
        let last = (0..=number).rev().find(|changed| changed % 40 == row).unwrap_or(0);
        *Hash::of(&[row.to_le_bytes(), last.to_le_bytes()].concat()).as_bytes()
    };
    let body: Vec<u8> = (0..40 + number / 16).flat_map(row).collect();
    Chunk::build(1, 0, &body, None, &[], 0)
}

#[test]
fn versions_over_many_journals_stay_differences_and_read_back() {
    let disk = Memory::default();
    let store = Store::create_with_io(Arc::new(disk.clone()), options()).unwrap();
    let versions: Vec<Chunk> = (0..200).map(version).collect();
    let mut base = None;
    for chunk in &versions {
        append(&store, &[(chunk.clone(), base)], &[]).wait().unwrap();
        base = Some(*chunk.hash());
    }
    let stats = store.stats();
    println!("{} deltas, {} raw frames in {} journals", stats.frames_delta, stats.frames_raw, stats.journals);
    assert!(stats.journals > 10, "{stats:?}");
    assert!(stats.frames_raw < 30, "chains go on over journals: {stats:?}");
    // A chain that reached a third file would be refused here, by its frames' flags.
    for round in 0..2 {
        let store = if round == 0 { store.clone() } else { reopened_from(&disk) };
        for (number, chunk) in versions.iter().enumerate() {
            let found = store.get(chunk.hash()).unwrap().unwrap();
            assert_eq!(found.bytes(), chunk.bytes(), "version {number}");
        }
    }
}

fn reopened_from(disk: &Memory) -> Store {
    Store::open_with_io(Arc::new(Memory::holding(disk.files())), options()).unwrap()
}

proptest::proptest! {
    /// What is replaced is known and not looked for: so the difference that is kept must be the right one.
    #[test]
    fn replaced_bytes_read_back(
        rounds in proptest::collection::vec(proptest::collection::vec((0..40_usize, 1..32_usize, proptest::prelude::any::<u8>()), 1..60), 1..20),
        delta: bool,
    ) {
        let disk = Memory::default();
        let store = Store::create_with_io(Arc::new(disk.clone()), Options { delta, ..options() }).unwrap();
        let mut chunk = version(0);
        append(&store, &[(chunk.clone(), None)], &[]).wait().unwrap();
        for mut round in rounds {
            round.sort();
            round.dedup_by_key(|(row, ..)| *row);
            let replaced: Vec<(usize, Vec<u8>)> =
                round.iter().map(|(row, len, byte)| (16 + 32 * row, vec![*byte; *len])).collect();
            let mut expected = chunk.bytes().to_vec();
            for (place, bytes) in &replaced {
                expected[*place..place + bytes.len()].copy_from_slice(bytes);
            }
            let mut batch = Batch::default();
            let next = batch.put_replaced(&chunk, &replaced).unwrap();
            proptest::prop_assert_eq!(next.bytes(), &expected);
            let Outcome::Appended(ticket) = store.append(batch, &[]).unwrap() else { panic!("moved") };
            ticket.wait().unwrap();
            chunk = next;
            let found = store.get(chunk.hash()).unwrap().unwrap();
            proptest::prop_assert_eq!(found.bytes(), &expected);
        }
    }
}

#[test]
fn a_damaged_chunk_is_repaired_by_putting_it_anew() {
    let disk = Memory::default();
    let store = Store::create_with_io(Arc::new(disk.clone()), options()).unwrap();
    let (chunk, newer) = (version(1), version(2));
    append(&store, &[(chunk.clone(), None), (newer.clone(), Some(*chunk.hash()))], &[]).wait().unwrap();
    // More appends, so that the journal is sealed: opening reads its index and no frame.
    for number in 1000..1004 {
        append(&store, &[(version(number), None)], &[]).wait().unwrap();
    }
    store.close().unwrap();
    let mut files = disk.files();
    let journal = files.get_mut("journal-00000001").unwrap();
    let at = journal.windows(32).position(|window| window == &chunk.body()[..32]).unwrap();
    journal[at] ^= 1;

    let disk = Memory::holding(files);
    let store = Store::open_with_io(Arc::new(disk.clone()), options()).unwrap();
    for damaged in [&chunk, &newer] {
        assert!(matches!(store.get(damaged.hash()), Err(Error::Damaged { .. })));
    }
    let mut batch = Batch::default();
    batch.put(chunk.clone(), None);
    assert!(matches!(store.append(batch, &[]), Ok(Outcome::Appended(_))));
    let reopened = reopened_from(&disk);
    assert!(reopened.get(chunk.hash()).is_err(), "what the store has is not written");

    let mut batch = Batch::default();
    batch.put(newer.clone(), Some(*chunk.hash()));
    batch.put_anew(newer.clone());
    batch.put_anew(chunk.clone());
    let Outcome::Appended(ticket) = store.append(batch, &[]).unwrap() else { panic!("moved") };
    ticket.wait().unwrap();
    for store in [store, reopened_from(&disk)] {
        for chunk in [&chunk, &newer] {
            assert_eq!(store.get(chunk.hash()).unwrap().unwrap().bytes(), chunk.bytes());
        }
    }
}
