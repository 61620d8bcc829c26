//! Any bytes as a chunk, through its kind's decoder; and any bytes as the body of a chunk with a good header, which reaches
//! further into the decoders.
//!
//! Input: first byte the kind, second the level, the rest the bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pleach_engine::{Chunk, check_chunk};

fuzz_target!(|input: &[u8]| {
    if let Ok(chunk) = Chunk::from_bytes(input.to_vec()) {
        assert_eq!(chunk.bytes(), input);
        assert_eq!(chunk.children().count(), chunk.child_count());
        let _ = check_chunk(&chunk);
    }
    if let [kind, level, body @ ..] = input
        && *kind > 0
    {
        let _ = check_chunk(&Chunk::build(*kind, *level, body, None, &[], 0));
    }
});
