//! Any bytes as a manifest, and as the fields of one with a good checksum. What decodes must encode to the same bytes.
//!
//! Input: the manifest, or what stands before its checksum.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pleach_chunkstore::testing;

fuzz_target!(|input: &[u8]| {
    let _ = testing::manifest(input);
    if let Ok(again) = testing::manifest_fields(input) {
        assert_eq!(again, input);
    }
});
