//! Any bytes as a hidden file's tables, behind a good head and with good checks. What decodes must encode to the same bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pleach_chunkstore::testing;

fuzz_target!(|input: &[u8]| {
    if let Ok(again) = testing::hidden(input) {
        assert_eq!(again, input);
    }
});
