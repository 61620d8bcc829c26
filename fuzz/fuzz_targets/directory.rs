//! A store with a file of every kind, some of whose files changed: opened, read, and living on. Never a wrong byte, nothing absent that a ref leads to,
//! and what reads once reads on.
//!
//! Input: 6 bytes a change: the file, what is done to it, two bytes where, two bytes with what.

#![no_main]

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use pleach_chunkstore::io::memory::Memory;
use pleach_chunkstore::testing::{self, Image, Specimen};
use pleach_chunkstore::{Batch, Chunk, Error, Hash, Outcome, RefUpdate, Store};

static SPECIMEN: LazyLock<Specimen> = LazyLock::new(|| testing::specimen().expect("a specimen"));

fn change(image: &mut Image, [file, action, at @ .., value, more]: [u8; 6]) {
    let names: Vec<&String> = SPECIMEN.files.keys().collect();
    let pick = |number: u8| names[usize::from(number) % names.len()].clone();
    let name = pick(file);
    let at = usize::from(u16::from_le_bytes(at));
    let other = SPECIMEN.files[&pick(more)].clone();
    let past = &SPECIMEN.past[usize::from(value) % SPECIMEN.past.len()].0;
    let bytes = image.entry(name.clone()).or_default();
    let len = bytes.len();
    match action % 10 {
        0 if len > 0 => bytes[at % len] ^= value | 1,
        1 if len > 0 => bytes[at % len] = value,
        2 => bytes.truncate(at % (len + 1)),
        3 => bytes.resize(len + at % 1024, value),
        4 => bytes.iter_mut().skip(at / 512 * 512).take(512).for_each(|byte| *byte = 0),
        5 => {
            let piece = other.into_iter().skip(usize::from(value) * 64).take(512);
            bytes.iter_mut().skip(at).zip(piece).for_each(|(byte, put)| *byte = put);
        }
        6 => *bytes = other,
        7 => drop(image.remove(&name)),
        8 => image.extend(past.get(&name).map(|old| (name, old.clone()))),
        9 => image.extend(past.iter().map(|(name, old)| (name.clone(), old.clone())).take(at % 16)),
        _ => {}
    }
}

/// What reads; of the chunks that refs lead to none is absent.
fn read(store: &Store) -> BTreeMap<Hash, Chunk> {
    let mut waiting: Vec<Hash> = store.refs("").into_iter().map(|(_, hash)| hash).collect();
    let mut found = BTreeMap::new();
    while let Some(hash) = waiting.pop() {
        match store.get(&hash) {
            Ok(Some(chunk)) => {
                assert_eq!(Hash::of(chunk.bytes()), hash);
                waiting.extend(chunk.children());
                found.insert(hash, chunk);
            }
            Ok(None) => panic!("{hash} is absent"),
            Err(Error::Damaged { hash: told, .. }) => assert_eq!(told, Some(hash)),
            Err(error) => panic!("{error}"),
        }
    }
    found
}

fn told<T>(outcome: Result<T, Error>) {
    match outcome {
        Ok(_) | Err(Error::Damaged { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

fuzz_target!(|input: &[u8]| {
    let mut image = SPECIMEN.files.clone();
    input.as_chunks::<6>().0.iter().take(8).for_each(|bytes| change(&mut image, *bytes));
    let disk = Memory::holding(image);
    let open = || Store::open_with_io(Arc::new(disk.clone()), testing::options());
    let store = match open() {
        Ok(store) => store,
        Err(Error::Damaged { .. } | Error::Version { .. } | Error::NotFound { .. }) => return,
        Err(error) => panic!("{error}"),
    };
    let mut there = read(&store);
    let new = Chunk::build(1, 0, input, None, &[], 0);
    let mut batch = Batch::default();
    batch.put(new.clone(), there.keys().next().copied());
    let update = RefUpdate { name: "new".into(), old: None, new: Some(*new.hash()) };
    match store.append(batch, &[update]).expect("appends") {
        Outcome::Appended(ticket) => ticket.wait().expect("syncs"),
        Outcome::Moved { .. } => panic!("nobody else writes"),
    }
    there.insert(*new.hash(), new);
    told(store.collect(false));
    told(store.compact());
    told(store.collect(false));
    assert_eq!(read(&store), there);
    store.close().expect("closes");
    assert_eq!(read(&open().expect("opens again")), there);
});
