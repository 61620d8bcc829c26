//! Ranges of keys, in one form: from a key, inclusive, up to another one, exclusive, or to the end.
//!
//! Keys are ordered bytewise, so the first key beyond `k` is `k` and a zero byte, and every pair of bounds has this form.
//! Used by transactions that delete ranges, and by whoever asks for the rows with a prefix.

use std::{collections::BTreeMap, ops::Bound};

/// Keys from `from`, inclusive, to `to`, exclusive; `None` is the end of the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyRange {
    pub(crate) from: Vec<u8>,
    pub(crate) to: Option<Vec<u8>>,
}

impl KeyRange {
    pub(crate) fn new(from: Bound<&[u8]>, to: Bound<&[u8]>) -> KeyRange {
        let beyond = |key: &[u8]| [key, &[0]].concat();
        let from = match from {
            Bound::Unbounded => Vec::new(),
            Bound::Included(key) => key.to_vec(),
            Bound::Excluded(key) => beyond(key),
        };
        let to = match to {
            Bound::Unbounded => None,
            Bound::Included(key) => Some(beyond(key)),
            Bound::Excluded(key) => Some(key.to_vec()),
        };
        KeyRange { from, to }
    }

    /// The keys that begin with `prefix`.
    pub(crate) fn prefix(prefix: &[u8]) -> KeyRange {
        let last = prefix.iter().rposition(|byte| *byte < u8::MAX);
        let to = last.map(|last| {
            let mut to = prefix[..=last].to_vec();
            to[last] += 1;
            to
        });
        KeyRange { from: prefix.to_vec(), to }
    }

    /// Whether no key lies in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.to.as_ref().is_some_and(|to| *to <= self.from)
    }

    /// As bounds.
    pub(crate) fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (Bound::Included(&self.from), self.to.as_deref().map_or(Bound::Unbounded, Bound::Excluded))
    }

    /// What lies in both.
    fn and(&self, other: &KeyRange) -> KeyRange {
        let to = match (&self.to, &other.to) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.as_ref().or(b.as_ref()),
        };
        KeyRange { from: self.from.as_slice().max(&other.from).to_vec(), to: to.cloned() }
    }
}

/// Ranges that neither overlap nor touch, by their first key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RangeSet(BTreeMap<Vec<u8>, Option<Vec<u8>>>);

impl RangeSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        let before = self.0.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        before.is_some_and(|(_, to)| to.as_deref().is_none_or(|to| key < to))
    }

    /// Adds a range, joined with those that it meets; gives what stands there now, and those ranges. An empty one changes nothing.
    pub(crate) fn insert(&mut self, range: KeyRange) -> (KeyRange, Vec<KeyRange>) {
        if range.is_empty() {
            return (range, Vec::new());
        }
        let KeyRange { mut from, mut to } = range;
        let mut parts = Vec::new();
        loop {
            let up_to = to.as_deref().map_or(Bound::Unbounded, Bound::Included);
            let meets = self.0.range::<[u8], _>((Bound::Unbounded, up_to)).next_back();
            let Some((start, end)) = meets.filter(|(_, end)| end.as_ref().is_none_or(|end| *end >= from))
            else {
                break;
            };
            let (start, end) = (start.clone(), end.clone());
            self.0.remove(&start);
            parts.push(KeyRange { from: start.clone(), to: end.clone() });
            from = from.min(start);
            to = to.zip(end).map(|(a, b)| a.max(b));
        }
        self.0.insert(from.clone(), to.clone());
        (KeyRange { from, to }, parts)
    }

    /// Takes back [`RangeSet::insert`]: what it gave.
    pub(crate) fn replace(&mut self, joined: &KeyRange, parts: &[KeyRange]) {
        self.0.remove(&joined.from);
        self.0.extend(parts.iter().map(|KeyRange { from, to }| (from.clone(), to.clone())));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = KeyRange> + '_ {
        self.0.iter().map(|(from, to)| KeyRange { from: from.clone(), to: to.clone() })
    }

    /// What of `range` lies in the set.
    pub(crate) fn within<'a>(&'a self, range: &'a KeyRange) -> impl Iterator<Item = KeyRange> + 'a {
        self.iter().map(|own| own.and(range)).filter(|both| !both.is_empty())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    fn keys() -> impl Iterator<Item = Vec<u8>> {
        let short = [0, 1, 2, 254, 255];
        std::iter::once(Vec::new())
            .chain(short.into_iter().map(|a| vec![a]))
            .chain(short.into_iter().flat_map(move |a| short.map(|b| vec![a, b])))
    }

    fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
        let keys: Vec<_> = keys().collect();
        let key = prop::sample::select(keys);
        prop_oneof![
            1 => Just(Bound::Unbounded),
            4 => key.clone().prop_map(Bound::Included),
            4 => key.prop_map(Bound::Excluded),
        ]
    }

    fn lies_in(key: &[u8], from: &Bound<Vec<u8>>, to: &Bound<Vec<u8>>) -> bool {
        let after = match from {
            Bound::Unbounded => true,
            Bound::Included(from) => key >= from.as_slice(),
            Bound::Excluded(from) => key > from.as_slice(),
        };
        after
            && match to {
                Bound::Unbounded => true,
                Bound::Included(to) => key <= to.as_slice(),
                Bound::Excluded(to) => key < to.as_slice(),
            }
    }

    #[test]
    fn a_prefix_holds_the_keys_that_begin_with_it() {
        for prefix in keys() {
            let mut set = RangeSet::default();
            set.insert(KeyRange::prefix(&prefix));
            for key in keys() {
                assert_eq!(set.contains(&key), key.starts_with(&prefix), "{prefix:?} {key:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_set_holds_what_its_ranges_hold(ranges in prop::collection::vec((bound(), bound()), 0..6), probe in (bound(), bound())) {
            let mut set = RangeSet::default();
            let range = |(from, to): &(Bound<Vec<u8>>, Bound<Vec<u8>>)| {
                KeyRange::new(from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice))
            };
            ranges.iter().for_each(|bounds| drop(set.insert(range(bounds))));
            let probed = range(&probe);
            let mut both = RangeSet::default();
            set.within(&probed).for_each(|range| drop(both.insert(range)));
            for key in keys() {
                let expected = ranges.iter().any(|(from, to)| lies_in(&key, from, to));
                prop_assert_eq!(set.contains(&key), expected);
                prop_assert_eq!(both.contains(&key), expected && lies_in(&key, &probe.0, &probe.1));
            }
            let ordered: Vec<_> = set.iter().collect();
            prop_assert!(ordered.windows(2).all(|pair| pair[0].to.as_ref().is_some_and(|to| *to < pair[1].from)));
        }
    }
}
