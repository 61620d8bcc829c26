//! Payloads made by zstd: of a chunk by itself, with a dictionary, or with an earlier version as prefix.
//!
//! One idea: what comes out is kept only if it is short enough, and zstd is given no more room than that, so it stops by itself. Contexts are
//! made once a thread; a dictionary is digested once a file. Used by appends for deltas, by compaction for the rest.

use std::cell::RefCell;
use std::sync::OnceLock;

use zstd::zstd_safe::{self, CCtx, CDict, DCtx, DDict, DParameter, FrameFormat, SafeResult};

use super::{FrameError, refuse};

/// zstd's level for deltas: what differs is short, so a deeper search finds nothing more.
const DELTA_LEVEL: i32 = 1;
/// The number at the start of a standard zstd frame, which is not stored.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// A delta is kept if it is shorter than this share of the chunk.
const DELTA_SHARE: (usize, usize) = (3, 4);

thread_local! {
    static ENCODER: RefCell<Option<CCtx<'static>>> = const { RefCell::new(None) };
    static DECODER: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

/// A dictionary that a file's frames share, ready for use.
pub struct Dictionary {
    bytes: Vec<u8>,
    level: i32,
    /// `None` if zstd refuses the bytes: then every frame that needs them is an error.
    decoder: Option<DDict<'static>>,
    encoder: OnceLock<Option<CDict<'static>>>,
}

impl Dictionary {
    /// Digests a dictionary for reading; for writing, at `level`, when it is first needed.
    pub fn new(bytes: Vec<u8>, level: i32) -> Dictionary {
        let decoder = DDict::try_create(&bytes);
        Dictionary { bytes, level, decoder, encoder: OnceLock::new() }
    }

    /// The dictionary as it is stored.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// A dictionary of at most `max_bytes` for chunks that resemble the samples; `None` if there are too few to learn from.
pub fn train(samples: &[impl AsRef<[u8]>], max_bytes: usize) -> Option<Vec<u8>> {
    let lens: Vec<usize> = samples.iter().map(|sample| sample.as_ref().len()).collect();
    let joined: Vec<u8> = samples.iter().flat_map(|sample| sample.as_ref()).copied().collect();
    let mut out = Vec::with_capacity(max_bytes);
    zstd_safe::train_from_buffer(&mut out, &joined, &lens).ok()?;
    Some(out)
}

/// The payload of a delta from `base` to `chunk`, if it is worth keeping.
pub fn delta(chunk: &[u8], base: &[u8]) -> Option<Vec<u8>> {
    // zstd would take such a prefix for a trained dictionary. No chunk begins so, but a base that was damaged may.
    if base.starts_with(&[0x37, 0xa4, 0x30, 0xec]) {
        return None;
    }
    zip(chunk.len() / DELTA_SHARE.1 * DELTA_SHARE.0, |encoder, out| {
        encoder.compress_using_dict(out, chunk, base, DELTA_LEVEL)
    })
}

/// The payload of a zstd frame of `chunk`, if it is shorter.
pub fn compress(chunk: &[u8], level: i32) -> Option<Vec<u8>> {
    zip(chunk.len(), |encoder, out| encoder.compress_using_dict(out, chunk, &[], level))
}

/// The payload of a zstd frame of `chunk` with a dictionary, if it is shorter.
pub fn compress_with(chunk: &[u8], dictionary: &Dictionary) -> Option<Vec<u8>> {
    let prepared =
        dictionary.encoder.get_or_init(|| CDict::try_create(&dictionary.bytes, dictionary.level)).as_ref()?;
    zip(chunk.len(), |encoder, out| encoder.compress_using_cdict(out, chunk, prepared))
}

fn zip(
    len_max: usize,
    compress: impl FnOnce(&mut CCtx<'static>, &mut Vec<u8>) -> SafeResult,
) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(len_max + ZSTD_MAGIC.len());
    ENCODER.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = CCtx::try_create();
        }
        // An output that does not fit is an error of zstd's, and the answer that the frame is not worth keeping.
        compress(slot.as_mut()?, &mut out).ok()
    })?;
    out.strip_prefix(&ZSTD_MAGIC).filter(|payload| payload.len() < len_max).map(<[u8]>::to_vec)
}

/// The chunk of a payload made with `prefix`, which may be empty.
pub(super) fn unzip(payload: &[u8], prefix: &[u8], raw_len: u32) -> Result<Vec<u8>, FrameError> {
    unzip_by(raw_len, |decoder, out| decoder.decompress_using_dict(out, payload, prefix))
}

/// The chunk of a payload made with a dictionary.
pub(super) fn unzip_with(
    payload: &[u8],
    dictionary: &Dictionary,
    raw_len: u32,
) -> Result<Vec<u8>, FrameError> {
    let Some(prepared) = &dictionary.decoder else {
        return refuse("the dictionary of a frame's file is not one of zstd's");
    };
    unzip_by(raw_len, |decoder, out| decoder.decompress_using_ddict(out, payload, prepared))
}

fn unzip_by(
    raw_len: u32,
    decompress: impl FnOnce(&mut DCtx<'static>, &mut Vec<u8>) -> SafeResult,
) -> Result<Vec<u8>, FrameError> {
    let raw_len = raw_len as usize;
    let mut out = Vec::with_capacity(raw_len);
    let unzipped = DECODER.with_borrow_mut(|slot| {
        if slot.is_none() {
            let mut decoder = DCtx::try_create()?;
            decoder.set_parameter(DParameter::Format(FrameFormat::Magicless)).ok()?;
            *slot = Some(decoder);
        }
        decompress(slot.as_mut()?, &mut out).ok()
    });
    match unzipped {
        Some(len) if len == raw_len => Ok(out),
        Some(_) => refuse("a frame's payload has another length than it states"),
        None => refuse("a frame's payload is not valid zstd"),
    }
}
