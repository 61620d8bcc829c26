//! A frame: how one chunk lies in a file.
//!
//! One idea: a new version of a node differs little from the one before it, so it is kept as a *delta*: zstd with the earlier
//! version as prefix. A delta names its base by place, and its step is one more than its base's, so a chain always ends, at most
//! [`STEPS_MAX`] deltas later, in a frame that needs no other. After the last step the next version is a delta of that full frame again, as
//! long as the two still resemble each other: so a node that changes often is seldom written whole.
//!
//! ```text
//! size    field
//!    1    encoding     1 raw · 2 zstd · 3 (kept: zstd with a dictionary) · 4 delta
//!    1    cipher       0 none; other values are kept for encryption
//!    1    step         0, or for a delta its base's step + 1
//!  1–5    raw_len      varint: length of the chunk
//!  1–5    payload_len  varint: length of the payload
//!   32    hash         of the chunk
//!                      -- a delta only --
//!  1–5    base_file    varint: number of the file that holds the base's frame; 0 = this file
//!  1–5    base_offset  varint: start of the base's frame; if base_file is 0, how many bytes before this frame's start
//!  1–5    base_len     varint: length of the base's frame, header included
//!                      --
//!    …    payload      raw: the chunk · zstd and delta: one zstd frame without its magic number
//! ```
//!
//! Lengths are checked against the bytes that are there and against `CHUNK_BYTES_MAX` before anything is allocated. What comes out is
//! still to be hashed: the store does so before it makes a [`Chunk`](crate::Chunk).
//!
//! Frames do not say where they stand, so that they can be made outside every lock.

use std::cell::RefCell;

use zstd::zstd_safe::{CCtx, DCtx, DParameter, FrameFormat};

use crate::bytes::{Fields, put_varint};
use crate::chunk::CHUNK_BYTES_MAX;
use crate::hash::Hash;

/// Most deltas between a frame and the full frame that its chain ends in.
pub const STEPS_MAX: u8 = 16;

/// zstd's level for deltas: what differs is short, so a deeper search finds nothing more.
const DELTA_LEVEL: i32 = 1;
/// The number at the start of a standard zstd frame, which is not stored.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// A delta is kept if it is shorter than this share of the chunk.
const DELTA_SHARE: (usize, usize) = (3, 4);

/// Where a frame lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Number of the file.
    pub file: u32,
    /// Start of the frame, in bytes from the start of the file.
    pub offset: u32,
    /// Length of the frame, in bytes, header included.
    pub len: u32,
    /// Deltas between this frame and a full one.
    pub step: u8,
}

/// How a payload is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Encoding {
    /// The chunk's bytes.
    Raw,
    /// zstd.
    Zstd,
    /// zstd with the base chunk as prefix.
    Delta {
        /// Number of the base's file; 0 = the file of this frame.
        file: u32,
        /// Start of the base's frame, or its distance before this frame if `file` is 0.
        offset: u32,
        /// Length of the base's frame.
        len: u32,
    },
}

const RAW: u8 = 1;
const ZSTD: u8 = 2;
const DELTA: u8 = 4;

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// How the payload is encoded.
    pub encoding: Encoding,
    /// Deltas between this frame and a full one.
    pub step: u8,
    /// Length of the chunk.
    pub raw_len: u32,
    /// Length of the payload.
    pub payload_len: u32,
    /// The chunk's address.
    pub hash: Hash,
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

fn parse_header(fields: &mut Fields<'_>) -> Option<Result<FrameHeader, FrameError>> {
    let (encoding, cipher, step) = (fields.u8()?, fields.u8()?, fields.u8()?);
    let (raw_len, payload_len, hash) = (fields.varint()?, fields.varint()?, fields.hash()?);
    let encoding = match encoding {
        RAW => Encoding::Raw,
        ZSTD => Encoding::Zstd,
        DELTA => Encoding::Delta { file: fields.varint()?, offset: fields.varint()?, len: fields.varint()? },
        _ => return Some(refuse("a frame's encoding is unknown")),
    };
    if cipher != 0 {
        return Some(refuse("a frame is encrypted, which this version cannot read"));
    }
    if raw_len as usize > CHUNK_BYTES_MAX {
        return Some(refuse("a frame is longer than a chunk may be"));
    }
    match encoding {
        Encoding::Raw if raw_len != payload_len => {
            return Some(refuse("a raw frame's two lengths differ"));
        }
        Encoding::Delta { .. } if step == 0 || step > STEPS_MAX => {
            return Some(refuse("a delta's step is out of range"));
        }
        Encoding::Raw | Encoding::Zstd if step != 0 => {
            return Some(refuse("a full frame's step is not 0"));
        }
        _ => {}
    }
    Some(Ok(FrameHeader { encoding, step, raw_len, payload_len, hash }))
}

/// Appends a frame to `out` and returns its length.
///
/// # Panics
/// If the header and the payload contradict each other: the caller's bug.
pub fn put(out: &mut Vec<u8>, header: &FrameHeader, payload: &[u8]) -> u32 {
    assert_eq!(header.payload_len as usize, payload.len(), "a frame's payload_len is its payload's length");
    let start = out.len();
    let code = match header.encoding {
        Encoding::Raw => RAW,
        Encoding::Zstd => ZSTD,
        Encoding::Delta { .. } => DELTA,
    };
    out.extend([code, 0, header.step]);
    put_varint(out, header.raw_len);
    put_varint(out, header.payload_len);
    out.extend(header.hash.as_bytes());
    if let Encoding::Delta { file, offset, len } = header.encoding {
        put_varint(out, file);
        put_varint(out, offset);
        put_varint(out, len);
    }
    out.extend(payload);
    debug_assert!(parse(&out[start..]).is_ok_and(|(read, _)| read == *header), "a frame reads back");
    (out.len() - start) as u32
}

/// The chunk's bytes, from its frame at `at`. `read` gives the bytes at a location; it is called once for each step of the chain.
/// The result has the length that the frame states, and is not hashed yet.
pub fn decode<E: From<FrameError>>(
    at: Location,
    mut read: impl FnMut(Location) -> Result<Vec<u8>, E>,
) -> Result<Vec<u8>, E> {
    let mut deltas: Vec<(Vec<u8>, u32)> = Vec::new();
    let mut place = at;
    let mut chunk = loop {
        let frame = read(place)?;
        let (header, payload) = parse(&frame)?;
        check_step(&header, &place)?;
        match header.encoding {
            Encoding::Raw => break payload.to_vec(),
            Encoding::Zstd => break unzip(payload, &[], header.raw_len)?,
            Encoding::Delta { file, offset, len } => {
                let base = base_of(place, header.step, file, offset, len)?;
                deltas.push((payload.to_vec(), header.raw_len));
                place = base;
            }
        }
    };
    for (payload, raw_len) in deltas.iter().rev() {
        chunk = unzip(payload, &chunk, *raw_len)?;
    }
    Ok(chunk)
}

/// The full frame that the chain from `at` ends in: its place, its chunk's address and its bytes, not hashed yet.
pub(crate) fn decode_start<E: From<FrameError>>(
    at: Location,
    mut read: impl FnMut(Location) -> Result<Vec<u8>, E>,
) -> Result<(Location, Hash, Vec<u8>), E> {
    let mut place = at;
    loop {
        let frame = read(place)?;
        let (header, payload) = parse(&frame)?;
        check_step(&header, &place)?;
        place = match header.encoding {
            Encoding::Raw => return Ok((place, header.hash, payload.to_vec())),
            Encoding::Zstd => return Ok((place, header.hash, unzip(payload, &[], header.raw_len)?)),
            Encoding::Delta { file, offset, len } => base_of(place, header.step, file, offset, len)?,
        };
    }
}

fn check_step(header: &FrameHeader, place: &Location) -> Result<(), FrameError> {
    match header.step == place.step {
        true => Ok(()),
        false => refuse("a frame's step is not the one that its place promises"),
    }
}

/// Where the base of a delta at `place` lies. Its step is one less, so a chain of places cannot turn in a circle.
fn base_of(place: Location, step: u8, file: u32, offset: u32, len: u32) -> Result<Location, FrameError> {
    let step = step.checked_sub(1).ok_or(FrameError { what: "a delta's step is 0" })?;
    if len as usize > FRAME_BYTES_MAX {
        return refuse("a delta's base is longer than a frame may be");
    }
    if file != 0 {
        return Ok(Location { file, offset, len, step });
    }
    match place.offset.checked_sub(offset) {
        Some(start) if offset > 0 => Ok(Location { file: place.file, offset: start, len, step }),
        _ => refuse("a delta's base does not lie before it"),
    }
}

/// No frame is longer: the longest chunk, kept raw, and the longest header.
pub(crate) const FRAME_BYTES_MAX: usize = CHUNK_BYTES_MAX + 64;

thread_local! {
    static ENCODER: RefCell<Option<CCtx<'static>>> = const { RefCell::new(None) };
    static DECODER: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

/// The payload of a delta from `base` to `chunk`, if it is worth keeping.
pub fn delta(chunk: &[u8], base: &[u8]) -> Option<Vec<u8>> {
    zip(chunk, base, chunk.len() / DELTA_SHARE.1 * DELTA_SHARE.0)
}

/// The payload of a delta from the full frame `start` of a chain to `chunk`, if it saves at least half: each new chain from the same start
/// carries all that changed since, so a full frame soon costs less.
pub(crate) fn delta_of_start(chunk: &[u8], start: &[u8]) -> Option<Vec<u8>> {
    zip(chunk, start, chunk.len() / 2)
}

/// The payload of a zstd frame of `chunk`, if it is shorter.
pub fn compress(chunk: &[u8]) -> Option<Vec<u8>> {
    zip(chunk, &[], chunk.len())
}

fn zip(bytes: &[u8], prefix: &[u8], len_max: usize) -> Option<Vec<u8>> {
    // zstd takes a prefix that begins with its dictionary number for a trained dictionary: a chunk begins with its format.
    debug_assert!(!prefix.starts_with(&[0x37, 0xa4, 0x30, 0xec]));
    let mut out = Vec::with_capacity(len_max + ZSTD_MAGIC.len());
    ENCODER.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = CCtx::try_create();
        }
        // An output that does not fit is an error of zstd's, and the answer that the frame is not worth keeping.
        slot.as_mut()?.compress_using_dict(&mut out, bytes, prefix, DELTA_LEVEL).ok()
    })?;
    out.strip_prefix(&ZSTD_MAGIC).filter(|payload| payload.len() < len_max).map(<[u8]>::to_vec)
}

fn unzip(payload: &[u8], prefix: &[u8], raw_len: u32) -> Result<Vec<u8>, FrameError> {
    let raw_len = raw_len as usize;
    let mut out = Vec::with_capacity(raw_len);
    let unzipped = DECODER.with_borrow_mut(|slot| {
        if slot.is_none() {
            let mut decoder = DCtx::try_create()?;
            decoder.set_parameter(DParameter::Format(FrameFormat::Magicless)).ok()?;
            *slot = Some(decoder);
        }
        slot.as_mut()?.decompress_using_dict(&mut out, payload, prefix).ok()
    });
    match unzipped {
        Some(len) if len == raw_len => Ok(out),
        Some(_) => refuse("a frame's payload has another length than it states"),
        None => refuse("a frame's payload is not valid zstd"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::bytes::tests::hex;

    fn frame(encoding: Encoding, step: u8, chunk: &[u8], payload: &[u8]) -> Vec<u8> {
        let header = FrameHeader {
            encoding,
            step,
            raw_len: chunk.len() as u32,
            payload_len: payload.len() as u32,
            hash: Hash::of(chunk),
        };
        let mut out = Vec::new();
        assert_eq!(put(&mut out, &header, payload) as usize, out.len());
        out
    }

    #[test]
    fn golden_bytes_of_a_raw_frame_and_of_a_delta() {
        let hash = hex(Hash::of(b"chunk").as_bytes());
        let raw = frame(Encoding::Raw, 0, b"chunk", b"chunk");
        assert_eq!(hex(&raw), format!("0100000505{hash}6368756e6b"));
        let delta = frame(Encoding::Delta { file: 3, offset: 300, len: 42 }, 1, b"chunk", b"xy");
        assert_eq!(hex(&delta), format!("0400010502{hash}03ac022a7879"));
    }

    /// Frames by offset, each `step` a delta of the one before.
    fn chain(steps: u8) -> (BTreeMap<u32, Vec<u8>>, Location, Vec<u8>) {
        let version = |step: u8| -> Vec<u8> {
            (0..60_u32)
                .flat_map(|line| {
                    Hash::of(&[line as u8, if line == 7 { step } else { 0 }]).as_bytes().to_vec()
                })
                .collect()
        };
        let mut frames = BTreeMap::new();
        let first = frame(Encoding::Raw, 0, &version(0), &version(0));
        let mut at = Location { file: 1, offset: 64, len: first.len() as u32, step: 0 };
        frames.insert(at.offset, first);
        for step in 1..=steps {
            let payload = delta(&version(step), &version(step - 1)).unwrap();
            assert!(payload.len() < 60, "{} bytes for 32 that changed", payload.len());
            let next = at.offset + at.len;
            let encoding = Encoding::Delta { file: 0, offset: at.len, len: at.len };
            let bytes = frame(encoding, step, &version(step), &payload);
            at = Location { file: 1, offset: next, len: bytes.len() as u32, step };
            frames.insert(next, bytes);
        }
        (frames, at, version(steps))
    }

    #[test]
    fn a_chain_of_deltas_gives_the_chunk_in_as_many_reads() {
        for steps in [0, 1, STEPS_MAX] {
            let (frames, at, expected) = chain(steps);
            let mut reads = 0;
            let found = decode(at, |place| {
                reads += 1;
                frames.get(&place.offset).cloned().ok_or(FrameError { what: "no frame there" })
            });
            assert_eq!((found, reads), (Ok(expected), usize::from(steps) + 1));
        }
    }

    #[test]
    fn a_chain_that_turns_in_a_circle_ends_in_an_error() {
        let payload = delta(&[7; 600], &[7; 600]).unwrap();
        let bytes = frame(Encoding::Delta { file: 1, offset: 64, len: 50 }, 9, &[7; 600], &payload);
        let at = Location { file: 1, offset: 64, len: bytes.len() as u32, step: 9 };
        let mut reads = 0;
        let found = decode(at, |_| {
            reads += 1;
            Ok::<_, FrameError>(bytes.clone())
        });
        assert!(found.is_err());
        assert_eq!(reads, 2);
    }

    #[test]
    fn sizes_that_lie_are_refused_before_anything_is_allocated() {
        let zipped = compress(&[b'z'; 5000]).unwrap();
        let good = frame(Encoding::Zstd, 0, &[b'z'; 5000], &zipped);
        let at = Location { file: 1, offset: 64, len: good.len() as u32, step: 0 };
        let read = |bytes: Vec<u8>| decode(at, move |_| Ok::<_, FrameError>(bytes.clone()));
        assert_eq!(read(good), Ok(vec![b'z'; 5000]));
        for claimed in [0, 4999, 5001, CHUNK_BYTES_MAX] {
            let lying = frame(Encoding::Zstd, 0, &vec![b'z'; claimed], &zipped);
            assert!(read(lying).is_err(), "{claimed}");
        }
        let header = FrameHeader {
            encoding: Encoding::Zstd,
            step: 0,
            raw_len: CHUNK_BYTES_MAX as u32 + 1,
            payload_len: 0,
            hash: Hash::of(b""),
        };
        let mut out = vec![2, 0, 0];
        put_varint(&mut out, header.raw_len);
        out.push(0);
        out.extend([0; 32]);
        assert_eq!(parse(&out), refuse("a frame is longer than a chunk may be"));
    }

    #[test]
    fn a_cipher_or_an_encoding_that_is_not_known_is_refused() {
        let good = frame(Encoding::Raw, 0, b"chunk", b"chunk");
        for (at, value) in [(0, 0), (0, 3), (0, 5), (1, 1), (2, 1)] {
            let mut bytes = good.clone();
            bytes[at] = value;
            assert!(parse(&bytes).is_err(), "byte {at} = {value}");
        }
        for len in 0..good.len() {
            assert!(parse(&good[..len]).is_err(), "cut at {len}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_frame_or_an_error(bytes: Vec<u8>, encoding in 0..6_u8, step in 0..18_u8) {
            let forced = [&[encoding, 0, step][..], &bytes].concat();
            for bytes in [bytes, forced] {
                let at = Location { file: 1, offset: 64, len: bytes.len() as u32, step };
                let _ = decode(at, |_| Ok::<_, FrameError>(bytes.clone()));
            }
        }

        #[test]
        fn what_is_compressed_reads_back(base in prop::collection::vec(any::<u8>(), 16..2000), cut in 0..2000_usize, new: [u8; 9]) {
            let mut chunk = base.clone();
            let cut = cut % chunk.len();
            chunk.splice(cut..cut, new);
            let payload = delta(&chunk, &base);
            if let Some(payload) = payload {
                prop_assert_eq!(unzip(&payload, &base, chunk.len() as u32), Ok(chunk.clone()));
            }
            if let Some(payload) = compress(&chunk) {
                prop_assert_eq!(unzip(&payload, &[], chunk.len() as u32), Ok(chunk));
            }
        }
    }
}
