//! A chunk as its difference from another: from which, and how.
//!
//! One idea: a chunk that is appended costs what changed. Its base is the version before it, or, where that chain is at its longest or would lead
//! through a third file, the full frame that the chain starts from. Called by [`super::append`] for each chunk of a batch, outside every lock.

use std::borrow::Cow;

use super::Shared;
use super::view::Found;
use crate::batch::{self, Batch};
use crate::chunk::Chunk;
use crate::frame::{self, Encoding, JOURNAL_STEPS_MAX, Location};
use crate::hash::Hash;
use crate::journal::group::Group;
use crate::patch::{self, Kept};

/// What a chunk's difference is made from.
pub(super) struct Base<'a> {
    /// Where it lies; in the group being made the file is 0 and the offset the distance.
    place: Location,
    /// Whether a frame with this base is crossed.
    crossed: bool,
    bytes: BaseBytes<'a>,
    /// A difference is kept if it is no longer than the chunk's length over this.
    share: usize,
}

const WHOLE: usize = 1;
/// Each new chain from the same start carries all that changed since, so a full frame soon costs less.
const HALF: usize = 2;

enum BaseBytes<'a> {
    Chunk(Chunk),
    /// Those of a chain's start, and what the chunk has of them, if that is known.
    Start(Vec<u8>, Option<Vec<Kept>>),
    /// The bytes are not needed: this is the patch.
    Patched(&'a [u8]),
}

/// A chunk as its difference from another.
pub(super) struct Difference<'a> {
    pub(super) encoding: Encoding,
    pub(super) step: u8,
    pub(super) crossed: bool,
    pub(super) payload: Cow<'a, [u8]>,
}

impl Shared {
    /// A base that lies at `place` in the group being made.
    pub(super) fn base_in_group(
        &self,
        batch: &Batch,
        group: &Group,
        place: Location,
        hash: &Hash,
    ) -> Option<Base<'static>> {
        let chunk = batch.get(hash).filter(|_| place.step < JOURNAL_STEPS_MAX)?;
        let distance = group.next_frame() - place.offset;
        let (bytes, share) = (BaseBytes::Chunk(chunk.clone()), WHOLE);
        Some(Base { place: Location { offset: distance, ..place }, crossed: place.crossed, bytes, share })
    }

    /// A base in the store, for a frame of the journal `active`: the version asked for, or the full frame that its chain starts from, if
    /// the chain is at its longest or leaves a journal that is not the active one. A base that cannot be read is no reason to refuse
    /// the chunk: it is written whole.
    pub(super) fn base_in_store<'a>(
        &self,
        base: &'a batch::Base,
        active: u32,
        superseded: &mut Vec<Hash>,
    ) -> Option<Base<'a>> {
        let (Found { place, .. }, view) = self.locate(base.hash()).ok()??;
        if place.step > 0 {
            superseded.push(*base.hash());
        }
        let ends = place.step >= JOURNAL_STEPS_MAX || (place.crossed && place.file != active);
        let (place, bytes, share) = if ends {
            // Its hash is not known and not needed: a difference copies only bytes that were seen to be equal.
            let start = frame::decode_start(place, |place| view.read_frame(place)).ok()?;
            let kept = match base {
                batch::Base::Known(chunk, patch) => {
                    start.kept.and_then(|kept| patch::kept_through(&kept, patch, chunk.bytes().len()))
                }
                batch::Base::At(_) => None,
            };
            (start.place, BaseBytes::Start(start.bytes, kept), HALF)
        } else {
            let bytes = match base {
                batch::Base::At(hash) => BaseBytes::Chunk(self.get(hash).ok()??),
                batch::Base::Known(_, patch) => BaseBytes::Patched(patch),
            };
            (place, bytes, WHOLE)
        };
        Some(Base { place, crossed: place.crossed || place.file != active, bytes, share })
    }
}

impl<'a> Base<'a> {
    /// The chunk as its difference from this base, if that is short. A patch is tried first; zstd, which costs many times as much, only
    /// where bytes moved and the patch is long or none, and taken only if it saves a quarter of it.
    pub(super) fn difference_to(&self, chunk: &Chunk) -> Option<Difference<'a>> {
        let bytes = chunk.bytes();
        let is_short = |payload: &Vec<u8>| payload.len() <= bytes.len() / self.share;
        let base_bytes = match &self.bytes {
            BaseBytes::Patched(patch) => return Some(self.difference(true, Cow::Borrowed(*patch))),
            BaseBytes::Start(start, Some(kept)) => {
                let patch = patch::keeping(bytes, start, kept.iter().copied()).filter(is_short)?;
                return Some(self.difference(true, Cow::Owned(patch)));
            }
            BaseBytes::Chunk(chunk) => chunk.bytes(),
            BaseBytes::Start(start, None) => start,
        };
        let patch = patch::make(bytes, base_bytes);
        let is_good = |patch: &Vec<u8>| bytes.len() == base_bytes.len() || patch.len() <= bytes.len() / 4;
        let delta = match &patch {
            Some(patch) if is_good(patch) => None,
            _ => frame::delta(bytes, base_bytes),
        };
        let (is_patch, payload) = match (patch, delta) {
            (Some(patch), Some(delta)) if delta.len() >= patch.len() / 4 * 3 => (true, patch),
            (_, Some(delta)) => (false, delta),
            (patch, None) => (true, patch?),
        };
        is_short(&payload).then(|| self.difference(is_patch, Cow::Owned(payload)))
    }

    /// What a frame with this base and this payload says.
    fn difference(&self, is_patch: bool, payload: Cow<'a, [u8]>) -> Difference<'a> {
        let Location { file, offset, len, step, .. } = self.place;
        let encoding = match is_patch {
            true => Encoding::Patch { file, offset, len },
            false => Encoding::Delta { file, offset, len },
        };
        Difference { encoding, step: step + 1, crossed: self.crossed, payload }
    }
}
