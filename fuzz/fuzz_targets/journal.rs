//! Any bytes behind the good beginning of a journal, as a group's body with good checks, as a group's header, and as an
//! index.
//!
//! Input: first byte which of these, then for a body two bytes, numbers of frames and of records; the rest the bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pleach_chunkstore::testing;

fuzz_target!(|input: &[u8]| {
    let Some((door, bytes)) = input.split_first() else { return };
    match (door % 4, bytes) {
        // A torn tail, unless a header in it proves that more had been durable: that is damage.
        (0, tail) => assert!(testing::journal(tail, 0).map_or(true, |groups| groups >= 1)),
        (1, [frames, records, body @ ..]) => {
            let _ = testing::group(u32::from(*frames), u32::from(*records), body);
        }
        (2, bytes) => {
            let _ = testing::group_header(bytes, bytes.len() as u64);
        }
        (3, bytes) => {
            let _ = testing::index(bytes);
        }
        _ => {}
    }
});
