//! A frame: how one chunk lies in a file.
//!
//! One idea: a new version of a node differs little from the one before it, so it is kept as the difference from a *base*: as a
//! [`patch`], or as a *delta*, zstd with the base as prefix. Such a frame names its base by the place of the base's frame, and its
//! step is one more than its base's, so a chain always ends, at most [`STEPS_MAX`] steps later, in a frame that needs no other.
//!
//! ```text
//! size    field
//!    1    encoding     low 4 bits: 1 raw · 2 zstd · 3 zstd with the file's dictionary · 4 delta · 5 patch
//!                      bit 5: partial: some strong children of the chunk were not in the store when it was written, and are promised
//!                      bit 6: crossed: the chain from here leaves this file · bit 7: leaf: the chunk has no strong children
//!    1    cipher       0 none; other values are kept for encryption
//!    1    step         0, or for a delta and a patch its base's step + 1
//!  1–5    raw_len      varint: length of the chunk
//!  1–5    payload_len  varint: length of the payload
//!                      -- delta and patch only --
//!  1–5    base_file    varint: number of the file that holds the base's frame; 0 = this file
//!  1–5    base_offset  varint: start of the base's frame; if base_file is 0, how many bytes before this frame's start
//!  1–5    base_len     varint: length of the base's frame, header included
//!                      --
//!    …    payload      raw: the chunk · patch: see `patch` · others: one zstd frame without its magic number
//! ```
//!
//! A frame does not say whose it is: the file that holds it has the hashes, beside the frames (a journal) or in its index (a table file). It does
//! not say where it stands either, so that it can be made outside every lock.
//!
//! A base in another file must not be crossed: a file depends on others directly, never through a third. Journals keep chains of at most
//! [`JOURNAL_STEPS_MAX`] steps; a table file is never crossed, and its frames name no other file.
//!
//! What a partial frame does not say is that a child is missing: it may have come since. What a frame says that is not partial is that each of
//! them is there, and one that is not is damage. A leaf is not partial.
//!
//! Lengths are checked against the bytes that are there and against `CHUNK_BYTES_MAX` before anything is allocated. What comes out is
//! still to be hashed: the store does so before it makes a [`Chunk`](crate::Chunk).

mod compress;

use std::ops::Range;
use std::sync::Arc;

use crate::bytes::{Fields, put_varint};
use crate::chunk::CHUNK_BYTES_MAX;
use crate::patch::{self, Kept};

pub use compress::{Dictionary, compress, compress_with, delta, train};

/// No header is longer.
pub(crate) const HEADER_BYTES_MAX: usize = 3 + 5 * 5;
/// Most steps between any frame and the full frame that its chain ends in.
pub const STEPS_MAX: u8 = 64;
/// Most steps between a journal's frame and the full frame that its chain ends in.
pub const JOURNAL_STEPS_MAX: u8 = 16;

/// Where a frame lies, and what its header is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Number of the file.
    pub file: u32,
    /// Start of the frame, in bytes from the start of the file.
    pub offset: u32,
    /// Length of the frame, in bytes, header included.
    pub len: u32,
    /// Frames between this one and a full one, that one included.
    pub step: u8,
    /// Whether the chain from this frame leaves its file.
    pub crossed: bool,
    /// Whether the chunk has no strong children.
    pub leaf: bool,
    /// Whether strong children of the chunk are promised: some were not in the store when it was written.
    pub partial: bool,
}

/// How a payload is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Encoding {
    /// The chunk's bytes.
    Raw,
    /// zstd.
    Zstd,
    /// zstd with the dictionary of the file.
    ZstdDictionary,
    /// zstd with the base chunk as prefix.
    Delta {
        /// Number of the base's file; 0 = the file of this frame.
        file: u32,
        /// Start of the base's frame, or its distance before this frame if `file` is 0.
        offset: u32,
        /// Length of the base's frame.
        len: u32,
    },
    /// A patch of the base chunk.
    Patch {
        /// Number of the base's file; 0 = the file of this frame.
        file: u32,
        /// Start of the base's frame, or its distance before this frame if `file` is 0.
        offset: u32,
        /// Length of the base's frame.
        len: u32,
    },
}

impl Encoding {
    /// The base's file, offset and length, if there is a base.
    pub(crate) fn base(self) -> Option<(u32, u32, u32)> {
        match self {
            Encoding::Raw | Encoding::Zstd | Encoding::ZstdDictionary => None,
            Encoding::Delta { file, offset, len } | Encoding::Patch { file, offset, len } => {
                Some((file, offset, len))
            }
        }
    }

    fn code(self) -> u8 {
        match self {
            Encoding::Raw => RAW,
            Encoding::Zstd => ZSTD,
            Encoding::ZstdDictionary => ZSTD_DICTIONARY,
            Encoding::Delta { .. } => DELTA,
            Encoding::Patch { .. } => PATCH,
        }
    }
}

const RAW: u8 = 1;
const ZSTD: u8 = 2;
const ZSTD_DICTIONARY: u8 = 3;
const DELTA: u8 = 4;
const PATCH: u8 = 5;
const CODE_BITS: u8 = 0x0f;
const PARTIAL: u8 = 0x20;
const CROSSED: u8 = 0x40;
const LEAF: u8 = 0x80;

/// The bits of a frame's first byte that say whether it is crossed, a leaf, and partial.
pub(crate) fn flags(crossed: bool, leaf: bool, partial: bool) -> u8 {
    (u8::from(crossed) * CROSSED) | (u8::from(leaf) * LEAF) | (u8::from(partial) * PARTIAL)
}

/// Whether these bits say crossed, leaf, and partial; `None` if they say anything else, or contradict each other.
pub(crate) fn parse_flags(flags: u8) -> Option<(bool, bool, bool)> {
    let [crossed, leaf, partial] = [CROSSED, LEAF, PARTIAL].map(|flag| flags & flag != 0);
    (flags & !(CROSSED | LEAF | PARTIAL) == 0 && !(leaf && partial)).then_some((crossed, leaf, partial))
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// How the payload is encoded.
    pub encoding: Encoding,
    /// Frames between this one and a full one, that one included.
    pub step: u8,
    /// Whether the chain from this frame leaves its file.
    pub crossed: bool,
    /// Whether the chunk has no strong children.
    pub leaf: bool,
    /// Whether strong children of the chunk are promised.
    pub partial: bool,
    /// Length of the chunk.
    pub raw_len: u32,
    /// Length of the payload.
    pub payload_len: u32,
}

/// Why bytes are not a frame, or why a frame does not give a chunk: the rule that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct FrameError {
    /// The rule.
    pub what: &'static str,
}

fn refuse<T>(what: &'static str) -> Result<T, FrameError> {
    Err(FrameError { what })
}

/// Splits the frame at the start of `bytes` into its header and its payload; bytes after it are left alone.
pub fn parse(bytes: &[u8]) -> Result<(FrameHeader, &[u8]), FrameError> {
    parse_next(&mut Fields::new(bytes))
}

/// Reads one frame.
pub(crate) fn parse_next<'a>(fields: &mut Fields<'a>) -> Result<(FrameHeader, &'a [u8]), FrameError> {
    let header = parse_header(fields).ok_or(FrameError { what: "the frame's header is cut short" })??;
    let Some(payload) = fields.take(header.payload_len as usize) else {
        return refuse("the frame's payload is cut short");
    };
    Ok((header, payload))
}

/// The header at the start of `bytes`, whose payload need not be there.
pub(crate) fn parse_head(bytes: &[u8]) -> Result<FrameHeader, FrameError> {
    parse_header(&mut Fields::new(bytes)).ok_or(FrameError { what: "the frame's header is cut short" })?
}

fn parse_header(fields: &mut Fields<'_>) -> Option<Result<FrameHeader, FrameError>> {
    let (first, cipher, step) = (fields.u8()?, fields.u8()?, fields.u8()?);
    let (raw_len, payload_len) = (fields.varint()?, fields.varint()?);
    let Some((crossed, leaf, partial)) = parse_flags(first & !CODE_BITS) else {
        return Some(refuse("a frame has an unknown flag, or is a leaf and partial"));
    };
    let mut base = || Some((fields.varint()?, fields.varint()?, fields.varint()?));
    let encoding = match first & CODE_BITS {
        RAW => Encoding::Raw,
        ZSTD => Encoding::Zstd,
        ZSTD_DICTIONARY => Encoding::ZstdDictionary,
        DELTA => {
            let (file, offset, len) = base()?;
            Encoding::Delta { file, offset, len }
        }
        PATCH => {
            let (file, offset, len) = base()?;
            Encoding::Patch { file, offset, len }
        }
        _ => return Some(refuse("a frame's encoding is unknown")),
    };
    let header = FrameHeader { encoding, step, crossed, leaf, partial, raw_len, payload_len };
    Some(check_header(&header, cipher).map(|()| header))
}

fn check_header(header: &FrameHeader, cipher: u8) -> Result<(), FrameError> {
    if cipher != 0 {
        return refuse("a frame is encrypted, which this version cannot read");
    }
    if header.raw_len as usize > CHUNK_BYTES_MAX {
        return refuse("a frame is longer than a chunk may be");
    }
    if header.encoding == Encoding::Raw && header.raw_len != header.payload_len {
        return refuse("a raw frame's two lengths differ");
    }
    match header.encoding.base() {
        None if header.step != 0 || header.crossed => {
            refuse("a full frame's step is not 0, or it is crossed")
        }
        Some(_) if header.step == 0 || header.step > STEPS_MAX => refuse("a frame's step is out of range"),
        Some((_, _, len)) if len as usize > FRAME_BYTES_MAX => refuse("a base is longer than a frame may be"),
        _ => Ok(()),
    }
}

/// Appends a frame to `out` and returns its length.
///
/// # Panics
/// If the header and the payload contradict each other: the caller's bug.
pub fn put(out: &mut Vec<u8>, header: &FrameHeader, payload: &[u8]) -> u32 {
    assert_eq!(header.payload_len as usize, payload.len(), "a frame's payload_len is its payload's length");
    let start = out.len();
    let flags = flags(header.crossed, header.leaf, header.partial);
    out.extend([header.encoding.code() | flags, 0, header.step]);
    put_varint(out, header.raw_len);
    put_varint(out, header.payload_len);
    if let Some((file, offset, len)) = header.encoding.base() {
        put_varint(out, file);
        put_varint(out, offset);
        put_varint(out, len);
    }
    out.extend_from_slice(payload);
    debug_assert!(parse(&out[start..]).is_ok_and(|(read, _)| read == *header), "a frame reads back");
    (out.len() - start) as u32
}

/// What decoding reads at a location.
pub struct Source {
    /// The frame.
    pub bytes: Vec<u8>,
    /// The dictionary of the file that it lies in.
    pub dictionary: Option<Arc<Dictionary>>,
}

/// The chunk's bytes, from its frame at `at`. `read` gives what lies at a location; it is called once for each step of the chain. Of a base's
/// location, `leaf` and `partial` say nothing. The result has the length that the frame states, and is not hashed yet.
pub fn decode<E: From<FrameError>>(
    at: Location,
    mut read: impl FnMut(Location) -> Result<Source, E>,
) -> Result<Vec<u8>, E> {
    let mut differences = Vec::new();
    let mut place = at;
    let mut chunk = loop {
        let step = read_step(place, &mut read)?;
        match base_of(place, &step.header)? {
            Some(base) => {
                differences.push(step);
                place = base;
            }
            None => break step.full()?,
        }
    };
    for step in differences.iter().rev() {
        chunk = step.apply(&chunk)?;
    }
    Ok(chunk)
}

/// The full frame that a chain ends in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) place: Location,
    /// Its chunk's bytes, not hashed.
    pub(crate) bytes: Vec<u8>,
    /// What the chain's first chunk has of them, if patches alone lead to it.
    pub(crate) kept: Option<Vec<Kept>>,
}

/// The full frame that the chain from `at` ends in.
pub(crate) fn decode_start<E: From<FrameError>>(
    at: Location,
    mut read: impl FnMut(Location) -> Result<Source, E>,
) -> Result<Start, E> {
    let mut place = at;
    let mut steps = Vec::new();
    loop {
        let step = read_step(place, &mut read)?;
        if let Some(base) = base_of(place, &step.header)? {
            place = base;
            steps.push(step);
            continue;
        }
        let bytes = step.full()?;
        let mut kept = Some((vec![Kept { at: 0, base_at: 0, len: bytes.len() }], bytes.len()));
        for step in steps.iter().rev() {
            let is_patch = matches!(step.header.encoding, Encoding::Patch { .. });
            let through = kept
                .filter(|_| is_patch)
                .and_then(|(kept, len)| patch::kept_through(&kept, step.payload(), len));
            kept = through.map(|kept| (kept, step.header.raw_len as usize));
        }
        return Ok(Start { place, bytes, kept: kept.map(|(kept, _)| kept) });
    }
}

/// A frame of a chain, as read.
struct Step {
    source: Source,
    header: FrameHeader,
    payload: Range<usize>,
}

fn read_step<E: From<FrameError>>(
    place: Location,
    read: &mut impl FnMut(Location) -> Result<Source, E>,
) -> Result<Step, E> {
    let source = read(place)?;
    let mut fields = Fields::new(&source.bytes);
    let (header, payload) = parse_next(&mut fields)?;
    if (header.step, header.crossed) != (place.step, place.crossed) {
        return Err(FrameError { what: "a frame is not the one that its place promises" }.into());
    }
    let payload = fields.at() - payload.len()..fields.at();
    Ok(Step { source, header, payload })
}

impl Step {
    fn payload(&self) -> &[u8] {
        &self.source.bytes[self.payload.clone()]
    }

    /// The chunk of a full frame.
    fn full(&self) -> Result<Vec<u8>, FrameError> {
        match (self.header.encoding, &self.source.dictionary) {
            (Encoding::Raw, _) => Ok(self.payload().to_vec()),
            (Encoding::ZstdDictionary, None) => refuse("a frame needs a dictionary, and its file has none"),
            (Encoding::ZstdDictionary, Some(dictionary)) => {
                compress::unzip_with(self.payload(), dictionary, self.header.raw_len)
            }
            _ => compress::unzip(self.payload(), &[], self.header.raw_len),
        }
    }

    /// The chunk of a frame with this base.
    fn apply(&self, base: &[u8]) -> Result<Vec<u8>, FrameError> {
        match self.header.encoding {
            Encoding::Patch { .. } => patch::apply(self.payload(), base, self.header.raw_len as usize)
                .ok_or(FrameError { what: "a patch does not fit its base" }),
            _ => compress::unzip(self.payload(), base, self.header.raw_len),
        }
    }
}

/// Where the base of the frame at `place` lies, if it has one. Its step is one less, so a chain of places cannot turn in a circle.
fn base_of(place: Location, header: &FrameHeader) -> Result<Option<Location>, FrameError> {
    let Some((file, offset, len)) = header.encoding.base() else { return Ok(None) };
    let step = header.step.checked_sub(1).ok_or(FrameError { what: "a frame's step is out of range" })?;
    let base =
        Location { file, offset, len, step, crossed: false, leaf: header.leaf, partial: header.partial };
    if file != 0 && file != place.file {
        return match header.crossed {
            true => Ok(Some(base)),
            false => refuse("a frame's base lies in another file, and it is not crossed"),
        };
    }
    let start = if file == 0 { place.offset.checked_sub(offset) } else { Some(offset) };
    match start {
        Some(start) if start.checked_add(len).is_some_and(|end| end <= place.offset) => {
            Ok(Some(Location { file: place.file, offset: start, crossed: header.crossed, ..base }))
        }
        _ => refuse("a frame's base does not lie before it"),
    }
}

/// No frame is longer: the longest chunk, kept raw, and the longest header.
pub(crate) const FRAME_BYTES_MAX: usize = CHUNK_BYTES_MAX + 64;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::bytes::tests::hex;
    use crate::hash::Hash;

    fn put_flagged(
        encoding: Encoding,
        step: u8,
        (crossed, leaf, partial): (bool, bool, bool),
        raw_len: usize,
        payload: &[u8],
    ) -> Vec<u8> {
        let (raw_len, payload_len) = (raw_len as u32, payload.len() as u32);
        let mut out = Vec::new();
        let header = FrameHeader { encoding, step, crossed, leaf, partial, raw_len, payload_len };
        assert_eq!(put(&mut out, &header, payload) as usize, out.len());
        out
    }

    fn frame(encoding: Encoding, step: u8, chunk: &[u8], payload: &[u8]) -> Vec<u8> {
        put_flagged(encoding, step, (false, false, false), chunk.len(), payload)
    }

    fn at(offset: u32, bytes: &[u8], step: u8) -> Location {
        Location {
            file: 1,
            offset,
            len: bytes.len() as u32,
            step,
            crossed: false,
            leaf: false,
            partial: false,
        }
    }

    fn source(bytes: &[u8]) -> Source {
        Source { bytes: bytes.to_vec(), dictionary: None }
    }

    #[test]
    fn golden_bytes_of_frames() {
        let (place, whole) = (Encoding::Delta { file: 3, offset: 300, len: 42 }, (false, false, false));
        assert_eq!(hex(&put_flagged(Encoding::Raw, 0, whole, 5, b"chunk")), "01000005056368756e6b");
        assert_eq!(hex(&put_flagged(Encoding::Zstd, 0, (false, true, false), 5, b"xy")), "82000005027879");
        assert_eq!(hex(&put_flagged(Encoding::ZstdDictionary, 0, whole, 5, b"xy")), "03000005027879");
        assert_eq!(hex(&put_flagged(place, 1, (true, false, false), 5, b"xy")), "440001050203ac022a7879");
        let near = Encoding::Patch { file: 0, offset: 50, len: 42 };
        assert_eq!(
            hex(&put_flagged(near, 64, (true, true, false), 5, b"xy")),
            "c500400502".to_owned() + "00322a7879"
        );
        assert_eq!(hex(&put_flagged(Encoding::Raw, 0, (false, false, true), 2, b"xy")), "21000002027879");
        assert_eq!(
            hex(&put_flagged(near, 64, (true, false, true), 5, b"xy")),
            "6500400502".to_owned() + "00322a7879"
        );
    }

    /// Frames by offset, each `step` the difference from the one before: patches and deltas in turn.
    fn chain(steps: u8) -> (BTreeMap<u32, Vec<u8>>, Location, Vec<u8>) {
        let version = |step: u8| -> Vec<u8> {
            let line = |line: u32| [line as u8, if line == 7 { step } else { 0 }];
            (0..60).flat_map(|number| *Hash::of(&line(number)).as_bytes()).collect()
        };
        let mut frames = BTreeMap::new();
        let first = frame(Encoding::Raw, 0, &version(0), &version(0));
        let mut place = at(64, &first, 0);
        frames.insert(place.offset, first);
        for step in 1..=steps {
            let (offset, len) = (place.len, place.len);
            let (chunk, base) = (version(step), version(step - 1));
            let (encoding, payload) = match step % 2 {
                0 => (Encoding::Delta { file: 0, offset, len }, delta(&chunk, &base)),
                _ => (Encoding::Patch { file: 1, offset: place.offset, len }, patch::make(&chunk, &base)),
            };
            let payload = payload.unwrap();
            assert!(payload.len() < 60, "{} bytes for 32 that changed", payload.len());
            let bytes = frame(encoding, step, &chunk, &payload);
            place = at(place.offset + place.len, &bytes, step);
            frames.insert(place.offset, bytes);
        }
        (frames, place, version(steps))
    }

    #[test]
    fn a_chain_gives_the_chunk_in_as_many_reads() {
        for steps in [0, 1, JOURNAL_STEPS_MAX, STEPS_MAX] {
            let (frames, place, expected) = chain(steps);
            let mut reads = 0;
            let mut read = |place: Location| {
                reads += 1;
                frames
                    .get(&place.offset)
                    .map(|bytes| source(bytes))
                    .ok_or(FrameError { what: "no frame there" })
            };
            assert_eq!(decode(place, &mut read), Ok(expected));
            let start = decode_start(place, &mut read).unwrap();
            assert_eq!((start.place, start.bytes), (at(64, &frames[&64], 0), chain(0).2));
            // The second step and every other is no patch.
            let kept = start.kept.map(|kept| kept.iter().map(|stretch| stretch.len).sum::<usize>());
            assert_eq!(kept.is_some(), steps < 2, "{steps} steps");
            assert!(
                kept.is_none_or(|kept| (kept < chain(0).2.len()) == (steps > 0)),
                "{steps} steps: {kept:?}"
            );
            assert_eq!(reads, 2 * (usize::from(steps) + 1));
        }
    }

    #[test]
    fn a_base_is_where_the_rules_allow_it_or_refused() {
        let base = frame(Encoding::Raw, 0, b"chunk", b"chunk");
        let len = base.len() as u32;
        let read = |file, offset, step, (crossed, base_crossed)| {
            let bytes =
                put_flagged(Encoding::Patch { file, offset, len }, step, (crossed, false, false), 5, b"");
            let place = Location { crossed, ..at(300, &bytes, step) };
            decode(place, |place| match place.offset {
                300 => Ok::<_, FrameError>(source(&bytes)),
                _ if place.step > 0 => {
                    let near = Encoding::Patch { file: 0, offset: len, len };
                    Ok(source(&put_flagged(near, place.step, (base_crossed, false, false), 5, b"")))
                }
                _ => Ok(source(&base)),
            })
        };
        let good = (false, false);
        assert_eq!(read(0, 300 - 64, 1, good), Ok(b"chunk".to_vec()));
        assert_eq!(read(1, 64, 1, good), Ok(b"chunk".to_vec()));
        assert_eq!(read(2, 400, 1, (true, false)), Ok(b"chunk".to_vec()));
        assert_eq!(read(1, 64, 2, good), Ok(b"chunk".to_vec()));
        for (file, offset, step, crossed, why) in [
            (0, len - 1, 1, good, "it reaches into the frame"),
            (0, 0, 1, good, "it is the frame"),
            (0, 301, 1, good, "it lies before the file"),
            (1, 300, 1, good, "it is the frame"),
            (1, 400, 1, good, "it lies after the frame"),
            (1, u32::MAX, 1, good, "its end is nowhere"),
            (2, 64, 1, good, "it lies in another file, and the frame is not crossed"),
            (1, 64, 1, (true, false), "the frame is crossed, and its base is full"),
            (1, 64, 2, (true, false), "the frame is crossed, and its base is not"),
            (2, 64, 2, (true, true), "a base in another file is crossed"),
        ] {
            assert!(read(file, offset, step, crossed).is_err(), "{why}");
        }
    }

    #[test]
    fn a_chain_that_turns_in_a_circle_ends_in_an_error() {
        let len = 50;
        let bytes =
            put_flagged(Encoding::Delta { file: 2, offset: 64, len }, 9, (true, false, false), 600, b"x");
        let mut reads = 0;
        let found = decode(Location { crossed: true, ..at(64, &bytes, 9) }, |_| {
            reads += 1;
            Ok::<_, FrameError>(source(&bytes))
        });
        assert!(found.is_err());
        assert_eq!(reads, 2);
    }

    #[test]
    fn sizes_that_lie_are_refused_before_anything_is_allocated() {
        let zipped = compress(&[b'z'; 5000], 1).unwrap();
        let read = |bytes: Vec<u8>| decode(at(64, &bytes, 0), |_| Ok::<_, FrameError>(source(&bytes)));
        assert_eq!(read(frame(Encoding::Zstd, 0, &[b'z'; 5000], &zipped)), Ok(vec![b'z'; 5000]));
        for claimed in [0, 4999, 5001, CHUNK_BYTES_MAX] {
            assert!(read(frame(Encoding::Zstd, 0, &vec![b'z'; claimed], &zipped)).is_err(), "{claimed}");
        }
        let mut out = vec![2, 0, 0];
        put_varint(&mut out, CHUNK_BYTES_MAX as u32 + 1);
        out.push(0);
        assert_eq!(parse(&out), refuse("a frame is longer than a chunk may be"));
        let mut out = vec![5, 0, 1, 0, 0, 0, 9];
        put_varint(&mut out, FRAME_BYTES_MAX as u32 + 1);
        assert_eq!(parse(&out), refuse("a base is longer than a frame may be"));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let good = frame(Encoding::Raw, 0, b"chunk", b"chunk");
        for (at, value) in [(0, 0), (0, 6), (0, 0x11), (0, 0xa1), (0, 0x41), (1, 1), (2, 1)] {
            let mut bytes = good.clone();
            bytes[at] = value;
            assert!(parse(&bytes).is_err(), "byte {at} = {value}");
        }
        for len in 0..good.len() {
            assert!(parse(&good[..len]).is_err(), "cut at {len}");
        }
        for step in [0, STEPS_MAX + 1] {
            let good = frame(Encoding::Patch { file: 0, offset: 9, len: 9 }, 1, b"", b"");
            assert!(parse(&[&good[..2], &[step], &good[3..]].concat()).is_err(), "step {step}");
        }
    }

    #[test]
    fn a_dictionary_serves_the_frames_of_its_file() {
        let sample = |number: u32| {
            format!("{{\"name\": \"row {number}\", \"colour\": \"{}\"}}", number % 7).into_bytes()
        };
        let samples: Vec<_> = (0..2000).map(sample).collect();
        let trained = train(&samples, 4096).unwrap();
        assert!(trained.len() <= 4096);
        assert_eq!(train(&samples[..1], 4096), None);
        let dictionary = Arc::new(Dictionary::new(trained.clone(), 3));
        assert_eq!(dictionary.bytes(), trained);
        let chunk = sample(77_777);
        let payload = compress_with(&chunk, &dictionary).unwrap();
        assert!(compress(&chunk, 3).is_none_or(|plain| payload.len() < plain.len() / 2));
        let bytes = frame(Encoding::ZstdDictionary, 0, &chunk, &payload);
        let read = |dictionary: Option<&Arc<Dictionary>>| {
            decode(at(64, &bytes, 0), |_| {
                Ok::<_, FrameError>(Source { bytes: bytes.clone(), dictionary: dictionary.cloned() })
            })
        };
        assert_eq!(read(Some(&dictionary)), Ok(chunk));
        assert!(read(None).is_err());
        assert!(read(Some(&Arc::new(Dictionary::new(b"another".to_vec(), 3)))).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_frame_or_an_error(bytes: Vec<u8>, first: u8, step in 0..66_u8) {
            let forced = [&[first, 0, step][..], &bytes].concat();
            for bytes in [bytes, forced] {
                let _ = decode(at(64, &bytes, step), |_| Ok::<_, FrameError>(source(&bytes)));
            }
        }

        #[test]
        fn what_is_compressed_reads_back(base in prop::collection::vec(any::<u8>(), 16..2000), cut in 0..2000_usize, new: [u8; 9]) {
            let mut chunk = base.clone();
            let cut = cut % chunk.len();
            chunk.splice(cut..cut, new);
            if let Some(payload) = delta(&chunk, &base) {
                prop_assert_eq!(compress::unzip(&payload, &base, chunk.len() as u32), Ok(chunk.clone()));
            }
            if let Some(payload) = compress(&chunk, 1) {
                prop_assert_eq!(compress::unzip(&payload, &[], chunk.len() as u32), Ok(chunk));
            }
        }
    }
}
