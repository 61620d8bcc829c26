//! How a chunk's bytes travel: as they are, compressed, or as a delta: compressed with an earlier version of the same node before
//! it. The sender tries what it has and takes the smallest, but does not try again and again what has not helped: values that are compressed already, or random, cost as
//! much to compress as others. Called by `sender` and `receiver`.
//!
//! Compressed payloads are zstd frames without the magic number, checksum and dictionary id: the record around them says the
//! length, and the chunk's hash is the checksum.

use std::io;

use zstd::zstd_safe::{CCtx, CParameter, DCtx, DParameter, FrameFormat, compress_bound, get_error_name};

use crate::limits::ZSTD_WINDOW_LOG_MAX;

/// zstd level for whole chunks: clone is bound by the processor, and what is left in a node to compress is little.
const FULL_LEVEL: i32 = 1;
/// zstd level for deltas.
const DELTA_LEVEL: i32 = 3;
/// A delta that is smaller than this part of the chunk is taken without trying the other encodings.
const DELTA_GOOD: usize = 4;
/// A whole chunk is worth compressing if it gets shorter by such a part.
const FULL_GOOD: usize = 8;
/// When one was not, so many like it are passed over before the next is tried.
const PASSED_OVER: u8 = 15;
/// What is told apart for that.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Like {
    /// Chunks that lead to others.
    Inner,
    /// Other chunks, by their kind.
    Leaf(u8),
    /// Chunks that were not looked into, by the kind and the level of what leads to them.
    Below(u8, u8),
}

/// How many that are; some may be taken together.
const LIKES: usize = 9;

impl Like {
    fn index(self) -> usize {
        match self {
            Like::Inner => 0,
            Like::Leaf(kind) => 1 + usize::from(kind % 4),
            Like::Below(kind, level) => 5 + usize::from(2 * (kind % 2) + level.min(1)),
        }
    }
}

/// The magic number of a zstd frame, which the one-shot dictionary call always writes and no payload carries.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// How the payload of a record is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// The chunk's bytes.
    Raw,
    /// A zstd frame.
    Zstd,
    /// A zstd frame with the base's bytes as its prefix.
    Delta,
    /// The rows of the base that differ: no chunk's bytes, but what the chunk and all below it follow from.
    Edits,
}

/// Encodes chunks one after another.
pub(crate) struct Encoder {
    context: CCtx<'static>,
    delta: Vec<u8>,
    full: Vec<u8>,
    /// How many chunks that are alike are passed over next.
    pass_over: [u8; LIKES],
}

impl Encoder {
    pub(crate) fn new() -> io::Result<Encoder> {
        let mut context = CCtx::create();
        context.set_parameter(CParameter::CompressionLevel(FULL_LEVEL)).map_err(zstd_error)?;
        context.set_parameter(CParameter::Format(FrameFormat::Magicless)).map_err(zstd_error)?;
        context.set_parameter(CParameter::ChecksumFlag(false)).map_err(zstd_error)?;
        Ok(Encoder { context, delta: Vec::new(), full: Vec::new(), pass_over: [0; LIKES] })
    }

    /// [`Encoder::encode`] of a chunk that is like others before.
    pub(crate) fn encode_like<'a>(
        &'a mut self,
        like: Like,
        bytes: &'a [u8],
        base: Option<&[u8]>,
    ) -> io::Result<(Encoding, &'a [u8])> {
        let like = like.index();
        if base.is_none() && self.pass_over[like] > 0 {
            self.pass_over[like] -= 1;
            return Ok((Encoding::Raw, bytes));
        }
        let (encoding, len) = {
            let (encoding, payload) = self.encode(bytes, base)?;
            (encoding, payload.len())
        };
        if base.is_none() && len > bytes.len() - bytes.len() / FULL_GOOD {
            self.pass_over[like] = PASSED_OVER;
        }
        Ok((encoding, self.encoded(encoding, bytes)))
    }

    /// What was encoded last.
    fn encoded<'a>(&'a self, encoding: Encoding, bytes: &'a [u8]) -> &'a [u8] {
        match encoding {
            Encoding::Raw => bytes,
            Encoding::Zstd => &self.full,
            Encoding::Delta | Encoding::Edits => &self.delta[MAGIC.len()..],
        }
    }

    /// The smallest encoding of `bytes`, with or without `base`.
    pub(crate) fn encode<'a>(
        &'a mut self,
        bytes: &'a [u8],
        base: Option<&[u8]>,
    ) -> io::Result<(Encoding, &'a [u8])> {
        let mut best = (Encoding::Raw, bytes.len());
        if let Some(base) = base {
            self.delta.clear();
            self.delta.reserve(compress_bound(bytes.len()));
            self.context
                .compress_using_dict(&mut self.delta, bytes, base, DELTA_LEVEL)
                .map_err(zstd_error)?;
            assert!(self.delta.starts_with(&MAGIC), "the one-shot dictionary call writes the magic number");
            let len = self.delta.len() - MAGIC.len();
            if len < best.1 {
                best = (Encoding::Delta, len);
            }
        }
        if best.1 > bytes.len() / DELTA_GOOD {
            self.full.clear();
            self.full.reserve(compress_bound(bytes.len()));
            self.context.compress2(&mut self.full, bytes).map_err(zstd_error)?;
            if self.full.len() < best.1 {
                best = (Encoding::Zstd, self.full.len());
            }
        }
        Ok((best.0, self.encoded(best.0, bytes)))
    }
}

/// Decodes payloads one after another.
pub(crate) struct Decoder {
    context: DCtx<'static>,
}

impl Decoder {
    pub(crate) fn new() -> io::Result<Decoder> {
        let mut context = DCtx::create();
        context.set_parameter(DParameter::Format(FrameFormat::Magicless)).map_err(zstd_error)?;
        context.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX)).map_err(zstd_error)?;
        Ok(Decoder { context })
    }

    /// The chunk of `raw_len` bytes that `payload` encodes. Never allocates more than `raw_len`; what does not come out at exactly
    /// that length is an error, in words.
    pub(crate) fn decode(
        &mut self,
        encoding: Encoding,
        payload: &[u8],
        raw_len: usize,
        base: &[u8],
    ) -> Result<Vec<u8>, String> {
        if encoding == Encoding::Raw {
            return match payload.len() == raw_len {
                true => Ok(payload.to_vec()),
                false => Err(format!("raw payload of {} bytes, expected {raw_len}", payload.len())),
            };
        }
        if encoding == Encoding::Edits {
            return Err("edits where bytes were expected".to_owned());
        }
        let prefix = if encoding == Encoding::Delta { base } else { &[] };
        let mut bytes = Vec::with_capacity(raw_len);
        self.context
            .decompress_using_dict(&mut bytes, payload, prefix)
            .map_err(|code| format!("zstd: {}", get_error_name(code)))?;
        match bytes.len() == raw_len {
            true => Ok(bytes),
            false => Err(format!("payload decodes to {} bytes, expected {raw_len}", bytes.len())),
        }
    }
}

fn zstd_error(code: usize) -> io::Error {
    io::Error::other(format!("zstd: {}", get_error_name(code)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn text(n: usize) -> Vec<u8> {
        (0..n).flat_map(|i| format!("row {:08x};", i.wrapping_mul(2_654_435_761)).into_bytes()).collect()
    }

    #[test]
    fn each_encoding_is_chosen_where_it_is_smallest_and_decodes_to_the_same_bytes() {
        let old = text(300);
        let mut new = old.clone();
        new[1500] ^= 1;
        let noise: Vec<u8> =
            (0..64u32).flat_map(|i| *pleach_engine::Hash::of(&i.to_le_bytes()).as_bytes()).collect();
        let cases = [
            (&new, Some(&old), Encoding::Delta),
            (&new, None, Encoding::Zstd),
            (&noise, None, Encoding::Raw),
        ];
        let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new().unwrap());
        for (bytes, base, expected) in cases {
            let (encoding, payload) = encoder.encode(bytes, base.map(Vec::as_slice)).unwrap();
            assert_eq!(encoding, expected);
            let decoded =
                decoder.decode(encoding, payload, bytes.len(), base.map_or(&[], Vec::as_slice)).unwrap();
            assert_eq!(&decoded, bytes);
        }
    }

    #[test]
    fn what_did_not_help_is_tried_now_and_then_until_it_does() {
        let noise = |seed: u32| -> Vec<u8> {
            (0..64).flat_map(|i| *pleach_engine::Hash::of(&(seed + i).to_le_bytes()).as_bytes()).collect()
        };
        let rows = text(100);
        let mut encoder = Encoder::new().unwrap();
        let mut encode = |kind, bytes: &[u8]| encoder.encode_like(Like::Leaf(kind), bytes, None).unwrap().0;
        assert_eq!(encode(1, &rows), Encoding::Zstd);
        assert_eq!(encode(1, &noise(1)), Encoding::Raw);
        assert_eq!(encode(2, &rows), Encoding::Zstd, "another kind");
        let next = (0..40).position(|_| encode(1, &rows) == Encoding::Zstd).unwrap();
        assert_eq!(next, usize::from(PASSED_OVER));
        assert_eq!(encode(1, &rows), Encoding::Zstd);
    }

    #[test]
    fn one_changed_byte_in_a_node_is_a_delta_of_a_few_dozen_bytes() {
        let old = text(300);
        let mut new = old.clone();
        new[1500] ^= 1;
        let mut encoder = Encoder::new().unwrap();
        let (_, payload) = encoder.encode(&new, Some(&old)).unwrap();
        assert!(payload.len() < 64, "{} bytes", payload.len());
    }

    #[test]
    fn a_payload_that_inflates_beyond_its_stated_length_is_refused() {
        let zeros = vec![0u8; 1 << 20];
        let mut encoder = Encoder::new().unwrap();
        let (encoding, payload) = encoder.encode(&zeros, None).unwrap();
        assert_eq!(encoding, Encoding::Zstd);
        let mut decoder = Decoder::new().unwrap();
        assert!(decoder.decode(encoding, payload, 4096, &[]).is_err());
        assert!(decoder.decode(encoding, payload, (1 << 20) + 1, &[]).is_err());
        assert!(decoder.decode(encoding, payload, 1 << 20, &[]).is_ok());
    }
}
