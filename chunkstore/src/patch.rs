//! A patch: what turns one version of a chunk into the next, for the hot path.
//!
//! One idea: a new version of a node is the earlier one with stretches replaced, inserted or removed, in the same order. So one pass over both
//! finds the difference at the speed of comparing memory, with no compressor and no state. Values of the same length change in place; a row
//! that comes or goes shifts what is behind it in each of the node's arrays, and there the pass finds its place again by a table of the base's
//! words, which is made only then.
//!
//! ```text
//! (copy varint · skip varint · insert_len varint · insert_len bytes)*
//! ```
//!
//! Each step copies `copy` bytes of the base, passes over `skip` of them and puts the bytes; what is left of the base after the last step is
//! copied. Made by appends and by compaction, applied by [`frame::decode`](crate::frame::decode).

use std::ops::Range;
use std::slice;

use crate::bytes::{Fields, put_varint};

/// A patch is given up when it grows beyond this share of the chunk.
const SHARE: (usize, usize) = (3, 4);
/// Equal bytes at the same distance that are worth a step of their own: a word.
const ALIGNED_MIN: usize = 8;
/// Equal bytes at another distance that are taken for the place where both go on.
const SHIFTED_MIN: usize = 16;
/// Bytes compared in vain, for each byte of the chunk, before other distances are not tried any more.
const COMPARED_MAX: usize = 8;
/// The longest chunk that is looked at: the work is linear, but what is longer is no node.
const BYTES_MAX: usize = 1 << 20;

/// The patch from `base` to `chunk`; `None` if it would not be short.
pub fn make(chunk: &[u8], base: &[u8]) -> Option<Vec<u8>> {
    if chunk.len().max(base.len()) > BYTES_MAX {
        return None;
    }
    let whole = 0..chunk.len();
    let aligned = if chunk.len() == base.len() { within(chunk, base, slice::from_ref(&whole)) } else { None };
    if aligned.as_ref().is_some_and(|aligned| aligned.len() <= chunk.len() / 4) {
        return aligned;
    }
    let shifted = Maker::new(chunk, base).run();
    [aligned, shifted].into_iter().flatten().min_by_key(Vec::len)
}

/// The patch from `base` to `chunk`, which has the same length and differs from it within `ranges`, in ascending order, alone.
pub(crate) fn within(chunk: &[u8], base: &[u8], ranges: &[Range<usize>]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(192);
    let out_max = payload_max(chunk);
    let mut done = 0;
    for range in ranges {
        let (chunk, base) = (&chunk[..range.end], &base[..range.end]);
        let mut at = range.start;
        loop {
            at += common_start(&chunk[at..], &base[at..]);
            if at == range.end {
                break;
            }
            let next = next_equal(chunk, base, at);
            if out.len() + next - at > out_max {
                return None;
            }
            put_step(&mut out, at - done, next - at, &chunk[at..next]);
            (at, done) = (next, next);
        }
    }
    (out.len() <= out_max).then_some(out)
}

/// Where the next word that is equal in both begins; their end if there is none.
fn next_equal(chunk: &[u8], base: &[u8], mut at: usize) -> usize {
    while at + ALIGNED_MIN <= chunk.len() {
        let differing = word(chunk, at) ^ word(base, at);
        if differing == 0 {
            return at;
        }
        // Whatever begins before the last byte that differs holds it.
        at += 8 - differing.leading_zeros() as usize / 8;
    }
    chunk.len()
}

fn put_step(out: &mut Vec<u8>, copy: usize, skip: usize, insert: &[u8]) {
    put_varint(out, copy as u32);
    put_varint(out, skip as u32);
    put_varint(out, insert.len() as u32);
    out.extend_from_slice(insert);
}

fn payload_max(chunk: &[u8]) -> usize {
    chunk.len() / SHARE.1 * SHARE.0
}

/// The chunk of `raw_len` bytes that `payload` makes of `base`; `None` if that is not what it does. Nothing longer is ever held.
pub fn apply(payload: &[u8], base: &[u8], raw_len: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(raw_len);
    let mut put = |bytes: &[u8]| {
        let fits = bytes.len() <= raw_len - out.len();
        fits.then(|| out.extend_from_slice(bytes))
    };
    let (mut fields, mut base) = (Fields::new(payload), Fields::new(base));
    while fields.left() > 0 {
        put(base.take(fields.varint()? as usize)?)?;
        base.take(fields.varint()? as usize)?;
        let insert_len = fields.varint()? as usize;
        put(fields.take(insert_len)?)?;
    }
    put(base.take(base.left())?)?;
    (out.len() == raw_len).then_some(out)
}

/// A patch being made of a chunk whose bytes moved: what lies before `at` and `base_at` is done.
struct Maker<'a> {
    chunk: &'a [u8],
    base: &'a [u8],
    at: usize,
    base_at: usize,
    /// End of what differs in the chunk: from here on both are equal to their ends.
    end: usize,
    base_end: usize,
    words: Words,
    /// Bytes that may still be compared in vain: chosen ones look alike everywhere, and the work must stay linear.
    left: usize,
    out: Vec<u8>,
}

impl<'a> Maker<'a> {
    fn new(chunk: &'a [u8], base: &'a [u8]) -> Maker<'a> {
        let start = common_start(chunk, base);
        let tail = common_end(&chunk[start..], &base[start..]);
        let (end, base_end) = (chunk.len() - tail, base.len() - tail);
        let (words, out) = (Words::of(base), Vec::with_capacity(256));
        let left = COMPARED_MAX * chunk.len();
        Maker { chunk, base, at: 0, base_at: 0, end, base_end, words, left, out }
    }

    fn run(mut self) -> Option<Vec<u8>> {
        loop {
            let (chunk, base) = (&self.chunk[self.at..self.end], &self.base[self.base_at..self.base_end]);
            let copy = common_start(chunk, base);
            if copy == chunk.len() && copy == base.len() {
                return (self.out.len() <= payload_max(self.chunk)).then_some(self.out);
            }
            let (differs, base_differs) = (self.at + copy, self.base_at + copy);
            let (next, base_next) = self.meet(differs, base_differs).unwrap_or((self.end, self.base_end));
            let insert = &self.chunk[differs..next];
            if self.out.len() + insert.len() > payload_max(self.chunk) {
                return None;
            }
            put_step(&mut self.out, copy, base_next - base_differs, insert);
            (self.at, self.base_at) = (next, base_next);
        }
    }

    /// Where both go on alike after they differ at `at` and `base_at`.
    fn meet(&mut self, at: usize, base_at: usize) -> Option<(usize, usize)> {
        for next in at..self.end.saturating_sub(ALIGNED_MIN - 1) {
            let here = word(self.chunk, next);
            let aligned = base_at + (next - at);
            if aligned + 8 <= self.base_end && here == word(self.base, aligned) {
                return Some((next, aligned));
            }
            if self.left > 0
                && let Some(base_next) = self.words.find(here)
                && base_next >= base_at
                && base_next + 8 <= self.base_end
                && here == word(self.base, base_next)
            {
                let back = common_end(&self.chunk[at..next], &self.base[base_at..base_next]);
                let forth = common_start(&self.chunk[next..self.end], &self.base[base_next..self.base_end]);
                // The farther it leads away, the longer must be what is found there.
                if back + forth >= SHIFTED_MIN + base_next.abs_diff(aligned) / 16 {
                    return Some((next - back, base_next - back));
                }
                self.left = self.left.saturating_sub(back + forth);
            }
        }
        None
    }
}

/// Where words of a base stand: the first place of each, among places evenly apart.
struct Words {
    /// Place + 1; 0 = none.
    places: [u32; Words::SLOTS],
}

impl Words {
    const SLOTS: usize = 2048;
    /// Places looked at: at most half the slots.
    const PLACES_MAX: usize = Words::SLOTS / 2;

    fn of(base: &[u8]) -> Words {
        let mut words = Words { places: [0; Words::SLOTS] };
        let apart = (base.len() / Words::PLACES_MAX).max(8);
        for place in (0..base.len().saturating_sub(7)).step_by(apart) {
            let slot = &mut words.places[Words::slot(word(base, place))];
            if *slot == 0 {
                *slot = place as u32 + 1;
            }
        }
        words
    }

    fn find(&self, word: u64) -> Option<usize> {
        self.places[Words::slot(word)].checked_sub(1).map(|place| place as usize)
    }

    fn slot(word: u64) -> usize {
        (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 53) as usize
    }
}

/// The eight bytes at `at`, which are there.
fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// Whether two blocks are equal, without a branch for each word or a call.
#[inline]
fn equal(a: &[u8; 32], b: &[u8; 32]) -> bool {
    (0..4).fold(0, |differing, at| differing | (word(a, 8 * at) ^ word(b, 8 * at))) == 0
}

/// How many bytes both begin with.
pub fn common_start(a: &[u8], b: &[u8]) -> usize {
    let len = a.len().min(b.len());
    let (a, b) = (&a[..len], &b[..len]);
    let equal = a.as_chunks().0.iter().zip(b.as_chunks().0).take_while(|(a, b)| equal(a, b)).count();
    let mut at = equal * 32;
    while at + 8 <= len {
        let differing = word(a, at) ^ word(b, at);
        if differing != 0 {
            return at + differing.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at + a[at..].iter().zip(&b[at..]).take_while(|(a, b)| a == b).count()
}

/// How many bytes both end with.
fn common_end(a: &[u8], b: &[u8]) -> usize {
    let len = a.len().min(b.len());
    let (a, b) = (&a[a.len() - len..], &b[b.len() - len..]);
    let equal = a
        .as_rchunks::<32>()
        .1
        .iter()
        .rev()
        .zip(b.as_rchunks::<32>().1.iter().rev())
        .take_while(|(a, b)| equal(a, b));
    let mut left = len - equal.count() * 32;
    while left >= 8 {
        let differing = word(a, left - 8) ^ word(b, left - 8);
        if differing != 0 {
            return len - left + differing.leading_zeros() as usize / 8;
        }
        left -= 8;
    }
    len - left + a[..left].iter().rev().zip(b[..left].iter().rev()).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;
    use crate::bytes::tests::hex;
    use crate::hash::Hash;

    fn noise(len: usize, seed: u32) -> Vec<u8> {
        let blocks = (0..len.div_ceil(32) as u32)
            .flat_map(|block| *Hash::of(&[seed.to_le_bytes(), block.to_le_bytes()].concat()).as_bytes());
        blocks.take(len).collect()
    }

    /// A leaf as the engine lays it out: header, keys of 12 bytes, ends of values, values of some 80 bytes.
    fn leaf(rows: impl Iterator<Item = (u32, usize)>) -> Vec<u8> {
        let (mut keys, mut ends, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for (row, len) in rows {
            keys.extend(noise(12, row));
            values.extend(noise(len, row + 1_000_000));
            ends.extend((values.len() as u16).to_le_bytes());
        }
        let counts = [keys.len() as u32 / 12, keys.len() as u32, values.len() as u32];
        [counts.map(u32::to_le_bytes).as_flattened(), &keys, &ends, &values].concat()
    }

    #[test]
    fn a_patch_is_short_or_none() {
        for (chunk, base) in [
            ("abc", "xyz"),
            ("ab", "ba"),
            ("0123456789", "9876543210"),
            ("a", "ab"),
            ("", "abc"),
            ("a234", "a567"),
        ] {
            assert_eq!(make(chunk.as_bytes(), base.as_bytes()), None, "{chunk:?} from {base:?}");
        }
    }

    #[test]
    fn golden_bytes_of_a_patch() {
        let base = *b"the quick brown fox jumps over the lazy dog";
        let chunk = *b"the quick green fox jumps over the lazy dog";
        assert_eq!(hex(&make(&chunk, &base).unwrap()), "0a040467726565");
        assert_eq!(make(&base, &base).unwrap(), b"");
    }

    #[test]
    fn a_change_in_a_node_costs_what_differs() {
        let base = leaf((0..60).map(|row| (row, 80)));
        let cost = |chunk: &[u8]| {
            let payload = make(chunk, &base).unwrap();
            assert_eq!(apply(&payload, &base, chunk.len()).as_deref(), Some(chunk));
            payload.len()
        };
        let updated = leaf((0..60).map(|row| (row, if row == 30 { 81 } else { 80 })));
        assert!(cost(&updated) < 80, "a value longer by a byte: the ends behind it: {}", cost(&updated));
        let inserted = leaf((0..61).map(|row| (if row == 30 { 99 } else { row - row / 31 }, 80)));
        assert!(cost(&inserted) < 180, "one row more: its 92 bytes and the ends: {}", cost(&inserted));
        let removed = leaf((0..60).filter(|row| *row != 30).map(|row| (row, 80)));
        assert!(cost(&removed) < 90, "one row less: the ends: {}", cost(&removed));
        let appended = leaf((0..61).map(|row| (row, 80)));
        assert!(cost(&appended) < 120, "one row more at the end: {}", cost(&appended));
        let mut many = base.clone();
        for place in (100..base.len() - 8).step_by(200) {
            many[place..place + 8].copy_from_slice(&[0xee; 8]);
        }
        assert!(cost(&many) < base.len() / 200 * 13 + 13, "every 200th byte: {}", cost(&many));
        let swapped = leaf((0..60).map(|row| (if row == 30 { 99 } else { row + u32::from(row > 30) }, 80)));
        assert!(cost(&swapped) < 250, "as long, but shifted inside: {}", cost(&swapped));
    }

    #[test]
    fn what_does_not_resemble_its_base_has_no_patch() {
        assert_eq!(make(&noise(5000, 1), &noise(5000, 2)), None);
        assert_eq!(make(&noise(5000, 1), &noise(4000, 2)), None);
        assert_eq!(make(&noise(5000, 1), b""), None);
        assert_eq!(make(&vec![0; BYTES_MAX + 1], &vec![0; BYTES_MAX + 1]), None);
    }

    #[test]
    fn a_payload_that_lies_is_refused_before_it_takes_memory() {
        let base = noise(100, 1);
        assert_eq!(apply(b"", &base, 100).as_ref(), Some(&base));
        for (payload, raw_len) in [
            (&b""[..], 99),
            (b"", 101),
            (&[101, 0, 0], 101),
            (&[100, 1, 0], 100),
            (&[0, 101, 0], 0),
            (&[0, 0, 1], 101),
            (&[0, 0, 2, 7], 101),
            (&[0, 0], 100),
            (&[0], 100),
            (&[0x80], 100),
            (&[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0], 100),
            (&[0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f], 100),
        ] {
            assert_eq!(apply(payload, &base, raw_len), None, "{payload:?} for {raw_len}");
        }
    }

    #[derive(Debug, Clone)]
    enum Edit {
        Replace(usize, Vec<u8>),
        Insert(usize, Vec<u8>),
        Remove(usize, usize),
        Append(Vec<u8>),
    }

    fn edit() -> impl Strategy<Value = Edit> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..120);
        prop_oneof![
            (any::<usize>(), bytes()).prop_map(|(at, bytes)| Edit::Replace(at, bytes)),
            (any::<usize>(), bytes()).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
            (any::<usize>(), 0..200_usize).prop_map(|(at, len)| Edit::Remove(at, len)),
            bytes().prop_map(Edit::Append),
        ]
    }

    fn edited(base: &[u8], edits: &[Edit]) -> Vec<u8> {
        let mut chunk = base.to_vec();
        for edit in edits {
            let place = |at: usize| at % (chunk.len() + 1);
            match edit {
                Edit::Replace(at, bytes) => {
                    let at = place(*at);
                    let end = (at + bytes.len()).min(chunk.len());
                    chunk[at..end].copy_from_slice(&bytes[..end - at]);
                }
                Edit::Insert(at, bytes) => {
                    let at = place(*at);
                    chunk.splice(at..at, bytes.iter().copied());
                }
                Edit::Remove(at, len) => {
                    let at = place(*at);
                    let end = (at + len).min(chunk.len());
                    chunk.drain(at..end);
                }
                Edit::Append(bytes) => chunk.extend(bytes),
            }
        }
        chunk
    }

    proptest! {
        #[test]
        fn a_patch_makes_the_chunk_of_its_base(
            len in 0..6000_usize,
            few in 1..5_u8,
            seed: u32,
            edits in prop::collection::vec(edit(), 0..12),
        ) {
            // Noise, and bytes of which there are few, so that words recur.
            let repetitive: Vec<u8> = noise(len, seed).iter().map(|byte| byte % few).collect();
            for base in [noise(len, seed), repetitive] {
                let chunk = edited(&base, &edits);
                if let Some(payload) = make(&chunk, &base) {
                    prop_assert_eq!(apply(&payload, &base, chunk.len()), Some(chunk.clone()));
                    prop_assert!(payload.len() <= chunk.len() + 64);
                }
                if let Some(payload) = make(&base, &chunk) {
                    prop_assert_eq!(apply(&payload, &chunk, base.len()), Some(base));
                }
            }
        }

        #[test]
        fn any_payload_is_applied_or_refused(payload: Vec<u8>, base: Vec<u8>, raw_len in 0..300_usize) {
            if let Some(chunk) = apply(&payload, &base, raw_len) {
                prop_assert_eq!(chunk.len(), raw_len);
                prop_assert!(chunk.capacity() <= raw_len.max(8));
            }
        }
    }
}
