//! Any bytes as a file of frames: parsing one, and decoding the chain that ends at it.
//!
//! Input: first byte the step that the place promises (bit 7: crossed), the second (times 8) where the frame starts, the rest the file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pleach_chunkstore::frame::{self, FrameError, Location, Source};

fuzz_target!(|input: &[u8]| {
    let [step, start, file @ ..] = input else { return };
    let offset = usize::from(*start) * 8;
    let Some(rest) = file.get(offset..) else { return };
    if let Ok((header, payload)) = frame::parse(rest) {
        assert_eq!(header.payload_len as usize, payload.len());
    }
    let (step, crossed) = (*step & 0x7f, *step & 0x80 != 0);
    let at = Location { file: 1, offset: offset as u32, len: rest.len() as u32, step, crossed, leaf: false };
    let _ = frame::decode(at, |place| {
        let start = place.offset as usize;
        let end = start.checked_add(place.len as usize).ok_or(FrameError { what: "no such place" })?;
        let bytes = file.get(start..end).ok_or(FrameError { what: "no such place" })?.to_vec();
        Ok::<_, FrameError>(Source { bytes, dictionary: None })
    });
});
