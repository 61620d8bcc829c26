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

/// A stretch of a chunk that stands in its base too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Where it begins in the chunk, header included.
    pub at: usize,
    /// Where it begins in the base.
    pub base_at: usize,
    /// Bytes.
    pub len: usize,
}

/// The patch from `base` to `chunk`; `None` if it would not be short.
pub fn make(chunk: &[u8], base: &[u8]) -> Option<Vec<u8>> {
    if chunk.len().max(base.len()) > BYTES_MAX {
        return None;
    }
    let aligned = if chunk.len() == base.len() { between(chunk, base, []) } else { None };
    if aligned.as_ref().is_some_and(|aligned| aligned.len() <= chunk.len() / 4) {
        return aligned;
    }
    let shifted = Maker::new(chunk, base).run();
    [aligned, shifted].into_iter().flatten().min_by_key(Vec::len)
}

/// The patch from `base` to `chunk` by what is said to stand in both; a stretch that does not, or is not behind those before it, is passed
/// over.
pub(crate) fn keeping(chunk: &[u8], base: &[u8], kept: impl IntoIterator<Item = Kept>) -> Option<Vec<u8>> {
    let (mut at, mut base_at) = (0, 0);
    let is_kept = |stretch: &Kept| {
        let is_kept = stretch.at >= at
            && stretch.base_at >= base_at
            && stretch.len >= ALIGNED_MIN
            && stretch.stands_in(chunk, base);
        if is_kept {
            (at, base_at) = (stretch.at + stretch.len, stretch.base_at + stretch.len);
        }
        is_kept
    };
    between(chunk, base, kept.into_iter().filter(is_kept))
}

/// The patch from `base` to `chunk` by what is known to stand in both, in ascending order in both. What lies between is not searched: where it
/// is equally long in both, what is equal in it stays.
pub(crate) fn between(chunk: &[u8], base: &[u8], kept: impl IntoIterator<Item = Kept>) -> Option<Vec<u8>> {
    let mut steps = Steps { out: Vec::with_capacity(192), out_max: payload_max(chunk), copy: 0 };
    let (mut at, mut base_at) = (0, 0);
    let end = Kept { at: chunk.len(), base_at: base.len(), len: 0 };
    for next in kept.into_iter().chain([end]) {
        steps.between(&chunk[at..next.at], &base[base_at..next.base_at])?;
        steps.copy += next.len;
        (at, base_at) = (next.at + next.len, next.base_at + next.len);
    }
    Some(steps.out)
}

impl Kept {
    /// The same, of the base in the chunk.
    pub(crate) fn turned(self) -> Kept {
        Kept { at: self.base_at, base_at: self.at, len: self.len }
    }

    fn stands_in(&self, chunk: &[u8], base: &[u8]) -> bool {
        let here = self.at.checked_add(self.len).and_then(|end| chunk.get(self.at..end));
        let there = self.base_at.checked_add(self.len).and_then(|end| base.get(self.base_at..end));
        here.is_some() && here == there
    }
}

/// What the chunk that `payload` makes has of its base.
pub(crate) fn kept_by(payload: &[u8], base_len: usize) -> Option<Vec<Kept>> {
    kept_through(&[Kept { at: 0, base_at: 0, len: base_len }], payload, base_len)
}

/// What the chunk that `payload` makes has of an earlier version of its base, of which the base has what `kept` says.
pub(crate) fn kept_through(kept: &[Kept], payload: &[u8], base_len: usize) -> Option<Vec<Kept>> {
    let mut through = Vec::with_capacity(kept.len() + 4);
    let mut kept = kept.iter().copied().peekable();
    let mut copied = |at: usize, from: usize, len: usize| {
        while let Some(stretch) = kept.peek_mut() {
            // What lies before the copied bytes is gone; what reaches beyond them may be copied by the next step.
            let before = from.saturating_sub(stretch.at).min(stretch.len);
            *stretch = Kept {
                at: stretch.at + before,
                base_at: stretch.base_at + before,
                len: stretch.len - before,
            };
            if stretch.len > 0 {
                let inside = (from + len).saturating_sub(stretch.at).min(stretch.len);
                if inside == 0 {
                    return;
                }
                through.push(Kept { at: at + (stretch.at - from), base_at: stretch.base_at, len: inside });
                if inside < stretch.len {
                    return;
                }
            }
            kept.next();
        }
    };
    let mut fields = Fields::new(payload);
    let (mut at, mut base_at) = (0, 0);
    while fields.left() > 0 {
        let copy = fields.varint()? as usize;
        copied(at, base_at, copy);
        let (skip, insert) = (fields.varint()? as usize, fields.varint()? as usize);
        fields.take(insert)?;
        (at, base_at) = (at + copy + insert, base_at + copy + skip);
    }
    copied(at, base_at, base_len.checked_sub(base_at)?);
    Some(through)
}

/// A patch being written: its steps, and how many bytes the next one copies.
struct Steps {
    out: Vec<u8>,
    out_max: usize,
    copy: usize,
}

impl Steps {
    /// What stands in the chunk and in the base between two stretches that both have. `None` if the patch is too long then.
    fn between(&mut self, chunk: &[u8], base: &[u8]) -> Option<()> {
        if chunk.len() != base.len() {
            return self.put(base.len(), chunk);
        }
        let mut at = 0;
        loop {
            let same = common_start(&chunk[at..], &base[at..]);
            at += same;
            self.copy += same;
            if at == chunk.len() {
                return Some(());
            }
            let next = next_equal(chunk, base, at);
            self.put(next - at, &chunk[at..next])?;
            at = next;
        }
    }

    fn put(&mut self, skip: usize, insert: &[u8]) -> Option<()> {
        if self.out.len() + insert.len() > self.out_max {
            return None;
        }
        put_step(&mut self.out, std::mem::take(&mut self.copy), skip, insert);
        (self.out.len() <= self.out_max).then_some(())
    }
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
// By itself it is compiled to vectors; within a caller, measured, it is not, and takes three times as long.
#[inline(never)]
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
    fn what_is_said_to_be_kept_is_not_searched_and_not_believed() {
        let base = leaf((0..60).map(|row| (row, 80)));
        // A row comes after row 30: what follows in each of the three arrays has moved.
        let chunk = leaf((0..61).map(|row| (if row == 31 { 99 } else { row - row / 32 }, 80)));
        let (keys, ends, values) = (12, 12 + 60 * 12, 12 + 60 * 14);
        let all = [
            Kept { at: keys, base_at: keys, len: 31 * 12 },
            Kept { at: keys + 32 * 12, base_at: keys + 31 * 12, len: 29 * 12 },
            Kept { at: ends + 12, base_at: ends, len: 31 * 2 },
            Kept { at: values + 14, base_at: values, len: 31 * 80 },
            Kept { at: values + 14 + 32 * 80, base_at: values + 31 * 80, len: 29 * 80 },
        ];
        let patch = |kept: &[Kept]| {
            let patch = keeping(&chunk, &base, kept.iter().copied())?;
            assert_eq!(apply(&patch, &base, chunk.len()).as_deref(), Some(&chunk[..]));
            Some(patch.len())
        };
        let known = patch(&all).unwrap();
        assert!(known < 190, "a row, the ends behind it and the head: {known}");
        let unsaid = patch(&all[..4]).unwrap();
        assert!(unsaid > known + 29 * 80 - 4, "what is not said to be kept is written: {unsaid}");
        let mut lies = all.to_vec();
        lies.insert(0, Kept { at: 0, base_at: usize::MAX, len: 9 });
        lies.insert(1, Kept { at: 4, base_at: 8, len: 9 });
        lies.insert(4, Kept { at: keys, base_at: keys, len: 31 * 12 });
        lies.push(Kept { at: chunk.len() - 8, base_at: base.len() - 8, len: 9 });
        assert_eq!(patch(&lies), Some(known));
    }

    #[test]
    fn many_steps_together_cost_what_they_brought() {
        let start = noise(8000, 1);
        let (mut chunk, mut kept) = (start.clone(), vec![Kept { at: 0, base_at: 0, len: 8000 }]);
        for step in 0..16_u32 {
            let mut next = chunk.clone();
            let at = 400 * step as usize + 17;
            next.splice(at..at, noise(20, 100 + step));
            next.drain(7000..7010);
            let payload = make(&next, &chunk).unwrap();
            kept = kept_through(&kept, &payload, chunk.len()).unwrap();
            chunk = next;
        }
        let payload = keeping(&chunk, &start, kept).unwrap();
        assert_eq!(apply(&payload, &start, chunk.len()), Some(chunk));
        assert!(payload.len() < 17 * (20 + 6), "{}", payload.len());
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
        fn what_is_kept_through_patches_stands_in_both(
            len in 0..4000_usize,
            few in 1..=255_u8,
            steps in prop::collection::vec(prop::collection::vec(edit(), 0..6), 1..6),
        ) {
            let start: Vec<u8> = noise(len, 3).iter().map(|byte| byte % few).collect();
            let (mut chunk, mut kept) = (start.clone(), vec![Kept { at: 0, base_at: 0, len }]);
            for edits in steps {
                let next = edited(&chunk, &edits);
                let Some(payload) = make(&next, &chunk) else { continue };
                kept = kept_through(&kept, &payload, chunk.len()).unwrap();
                chunk = next;
            }
            prop_assert!(kept.iter().all(|stretch| stretch.stands_in(&chunk, &start)));
            let ascend = |pair: &[Kept]| {
                pair[0].at + pair[0].len <= pair[1].at && pair[0].base_at + pair[0].len <= pair[1].base_at
            };
            prop_assert!(kept.windows(2).all(ascend));
            if let Some(payload) = keeping(&chunk, &start, kept) {
                prop_assert_eq!(apply(&payload, &start, chunk.len()), Some(chunk));
            }
        }

        #[test]
        fn any_payload_is_applied_or_refused(payload: Vec<u8>, base: Vec<u8>, raw_len in 0..300_usize) {
            let kept = kept_by(&payload, base.len());
            if let Some(chunk) = apply(&payload, &base, raw_len) {
                prop_assert!(kept.is_some_and(|kept| kept.iter().all(|stretch| stretch.stands_in(&chunk, &base))));
                prop_assert_eq!(chunk.len(), raw_len);
                prop_assert!(chunk.capacity() <= raw_len.max(8));
            }
        }
    }
}
