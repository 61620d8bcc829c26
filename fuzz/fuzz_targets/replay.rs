//! A store that appends, dies, and finds the tail of its journal changed: what it then has is a beginning of what was appended, or it says damage.
//!
//! Input: first byte the number of appends, then a byte each (chunks, and whether a sync follows); then what happens to the tail: one byte whether the
//! watermark stays, two bytes how far from the end, the rest what stands there (bit 15 of the distance: the file is cut there first).

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use pleach_chunkstore::io::memory::Memory;
use pleach_chunkstore::{Batch, Chunk, Error, Hash, Outcome, RefUpdate, Store, testing};

fn append(store: &Store, number: u32, chunks: u8, old: Option<Hash>) -> Hash {
    let mut batch = Batch::default();
    let mut base = old;
    for index in 0..=chunks % 4 {
        let body = [&b"what is said in each of them, and what is not: "[..], &number.to_le_bytes(), &[index]]
            .concat();
        let chunk = Chunk::build(1, 0, &body, None, &[], 0);
        batch.put(chunk.clone(), base);
        base = Some(*chunk.hash());
    }
    let update = RefUpdate { name: "main".into(), old, new: base };
    match store.append(batch, &[update]).expect("appends") {
        Outcome::Appended(ticket) if chunks & 0x80 != 0 => ticket.wait().expect("syncs"),
        Outcome::Appended(_) => {}
        Outcome::Moved { .. } => panic!("nobody else writes"),
    }
    base.expect("a chunk")
}

fuzz_target!(|input: &[u8]| {
    let Some((&count, rest)) = input.split_first() else { return };
    let Some((appends, rest)) = rest.split_at_checked(usize::from(count % 16)) else { return };
    let disk = Memory::default();
    let store = Store::create_with_io(Arc::new(disk.clone()), testing::options()).expect("creates");
    let mut roots = vec![None];
    for (&chunks, number) in appends.iter().zip(0..) {
        let old = *roots.last().expect("never empty");
        roots.push(Some(append(&store, number, chunks, old)));
    }
    let mut files = disk.files();
    if let [watermark, low, high, tail @ ..] = rest {
        if watermark & 1 == 0 {
            files.remove("watermark");
        }
        let journal = files.get_mut("journal-00000001").expect("the journal");
        let distance = usize::from(u16::from_le_bytes([*low, *high & 0x7f]));
        let from = journal.len().saturating_sub(distance);
        if high & 0x80 != 0 {
            journal.truncate(from);
        }
        journal.resize(journal.len().max(from + tail.len()), 0);
        journal[from..from + tail.len()].copy_from_slice(tail);
    }
    let disk = Memory::holding(files);
    let open = || Store::open_with_io(Arc::new(disk.clone()), testing::options());
    let store = match open() {
        Ok(store) => store,
        Err(Error::Damaged { .. } | Error::Version { .. }) => return,
        Err(error) => panic!("{error}"),
    };
    let length = usize::try_from(store.sequence()).expect("few");
    assert_eq!(store.get_ref("main"), roots[length], "a beginning of what was appended");
    let check = |store: &Store, last: Option<Hash>| {
        for root in roots[..=length].iter().chain([&last]).flatten() {
            assert!(store.get(root).expect("reads").is_some());
        }
    };
    check(&store, None);
    let last = Some(append(&store, 1000, 0x81, roots[length]));
    check(&store, last);
    drop(store);
    let store = open().expect("opens again");
    assert_eq!(store.get_ref("main"), last);
    check(&store, last);
});
