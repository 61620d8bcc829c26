//! Tables of any chunks, in a few of which any are hidden: what is looked up is what a map says.
//!
//! Input: tables, each a byte, how many chunks, then 4 bytes a chunk: the first and second byte of its hash, one byte of its tag (bit 0: hidden), the
//! last byte. So places, tags and whole hashes coincide often.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use pleach_chunkstore::{Hash, testing};

fn hash(&[first, second, tag, last]: &[u8; 4]) -> Hash {
    let mut bytes = [0; 32];
    (bytes[0], bytes[1], bytes[8], bytes[31]) = (first, second, tag >> 1, last);
    Hash::from_bytes(bytes)
}

fuzz_target!(|input: &[u8]| {
    let (mut tables, mut rest) = (Vec::new(), input);
    while let Some((&count, more)) = rest.split_first()
        && tables.len() < 20
    {
        let (chunks, more) = more.split_at(more.len().min(usize::from(count) * 4));
        tables.push(
            chunks
                .as_chunks::<4>()
                .0
                .iter()
                .map(|bytes| (hash(bytes), bytes[2] & 1 == 1))
                .collect::<BTreeMap<_, _>>(),
        );
        rest = more;
    }
    let mut expected: BTreeMap<Hash, usize> = BTreeMap::new();
    for (number, table) in tables.iter().enumerate() {
        expected.extend(table.iter().filter(|(_, hidden)| !**hidden).map(|(hash, _)| (*hash, number)));
    }
    let mut asked: Vec<Hash> = tables.iter().flat_map(|table| table.keys().copied()).collect();
    let absent = asked.iter().map(|hash| {
        let mut bytes = *hash.as_bytes();
        bytes[20] ^= 1;
        Hash::from_bytes(bytes)
    });
    asked.extend(absent.collect::<Vec<_>>());
    let found = testing::lookup(&tables, &asked).expect("good tables");
    for (hash, found) in asked.iter().zip(found) {
        assert_eq!(found, expected.get(hash).copied(), "{hash}");
    }
});
