//! Any bytes as two files of frames and the dictionary of the first: parsing a frame, and decoding the chain that ends at it.
//!
//! Input: first byte the step that the place promises (bit 7: crossed), the second (times 8) where the frame starts, the third (times 8) the
//! dictionary's length, the fourth (times 8) the second file's; then the dictionary, the second file, the first.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use pleach_chunkstore::frame::{self, Dictionary, FrameError, Location, Source};

fuzz_target!(|input: &[u8]| {
    let [step, start, dictionary_len, other_len, rest @ ..] = input else { return };
    let Some((dictionary, rest)) = rest.split_at_checked(usize::from(*dictionary_len) * 8) else { return };
    let Some((other, file)) = rest.split_at_checked(usize::from(*other_len) * 8) else { return };
    let dictionary = (!dictionary.is_empty()).then(|| Arc::new(Dictionary::new(dictionary.to_vec(), 3)));
    let offset = usize::from(*start) * 8;
    let Some(rest) = file.get(offset..) else { return };
    if let Ok((header, payload)) = frame::parse(rest) {
        assert_eq!(header.payload_len as usize, payload.len());
        let mut again = Vec::new();
        frame::put(&mut again, &header, payload);
        assert!(rest.starts_with(&again), "a frame has one form");
    }
    let (step, crossed) = (*step & 0x7f, *step & 0x80 != 0);
    let at = Location {
        file: 1,
        offset: offset as u32,
        len: rest.len() as u32,
        step,
        crossed,
        leaf: false,
        partial: false,
    };
    let mut reads = 0;
    let _ = frame::decode(at, |place| {
        reads += 1;
        assert!(reads <= usize::from(frame::STEPS_MAX) + 1, "a chain ends");
        let (bytes, dictionary) = match place.file {
            1 => (file, dictionary.clone()),
            2 => (other, None),
            _ => return Err(FrameError { what: "no such file" }),
        };
        let start = place.offset as usize;
        let end = start.checked_add(place.len as usize).ok_or(FrameError { what: "no such place" })?;
        let bytes = bytes.get(start..end).ok_or(FrameError { what: "no such place" })?.to_vec();
        Ok::<_, FrameError>(Source { bytes, dictionary })
    });
});
