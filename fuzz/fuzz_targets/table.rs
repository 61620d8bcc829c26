//! A table of any frames under an index with good checks, in a store whose manifest lists it: opened, read, compacted, collected.
//!
//! Input: first byte (times 8) the dictionary's length, the second the number of entries (bit 7: a footer that lies), two bytes the length of the
//! frames; then the dictionary, the entries (8 bytes each: offset and length as in a table, hashes are found), the frames, and what the footer
//! adds to what it should say (3 × 4 bytes).

#![no_main]

use libfuzzer_sys::fuzz_target;
use pleach_chunkstore::testing::{self, TableParts};
use pleach_chunkstore::{Error, Hash, Store};

fuzz_target!(|input: &[u8]| {
    let [dictionary_len, entries, low, high, rest @ ..] = input else { return };
    let Some((dictionary, rest)) = rest.split_at_checked(usize::from(*dictionary_len) * 8) else { return };
    let Some((entries, rest)) = rest.split_at_checked(usize::from(*entries & 0x7f) * 8) else { return };
    let frames_len = usize::from(u16::from_le_bytes([*low, *high]));
    let Some((frames, rest)) = rest.split_at_checked(frames_len) else { return };
    let entries = entries.as_chunks::<8>().0.to_vec();
    let lie = match rest.as_chunks::<4>().0 {
        [a, b, c, ..] if input[1] & 0x80 != 0 => [a, b, c].map(|bytes| u32::from_le_bytes(*bytes)),
        _ => [0; 3],
    };
    let (hashes, disk) = testing::store_with_table(&TableParts { dictionary, frames, entries, lie });
    let open = || Store::open_with_io(std::sync::Arc::new(disk.clone()), testing::options());
    let store = match open() {
        Ok(store) => store,
        Err(Error::Damaged { .. }) => return,
        Err(error) => panic!("{error}"),
    };
    let read = |store: &Store| -> Vec<Hash> {
        let is_there = |hash: &Hash| match store.get(hash) {
            Ok(Some(chunk)) => chunk.hash() == hash,
            Ok(None) => panic!("{hash} is absent"),
            Err(Error::Damaged { .. }) => false,
            Err(error) => panic!("{error}"),
        };
        hashes.iter().filter(|hash| is_there(hash)).copied().collect()
    };
    let there = read(&store);
    match store.compact() {
        Ok(_) | Err(Error::Damaged { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    assert_eq!(read(&store), there);
    store.close().expect("closes");
    let store = open().expect("opens again");
    assert_eq!(read(&store), there);
    // No ref leads to anything.
    match store.collect(false) {
        Ok(_) => assert_eq!(store.stats().chunks, 0),
        Err(Error::Damaged { .. }) => {}
        Err(error) => panic!("{error}"),
    }
});
