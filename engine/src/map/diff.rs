//! The difference of two maps, in time proportional to it.
//!
//! Two cursors walk both maps in key order. Where they stand on subtrees of one level with the same address, both skip it
//! unread; else the higher one, or both, open theirs. What differs surfaces as rows. A difference can begin and end at any key, so that it can
//! be stopped and resumed, and be [split](ranges) over threads.

use std::{cmp::Ordering, ops::Bound};

use pleach_chunkstore::{Hash, Meter, Store};

use super::{
    align::{self, Stretch},
    build::Closed,
    cursor::Cursor,
    node::{Node, Stored, Value},
};
use crate::{chunks::Read, error::Result};

/// A changed row: what stood and what stands at its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowChange {
    pub(crate) key: Vec<u8>,
    pub(crate) old: Option<Value>,
    pub(crate) new: Option<Value>,
}

/// A changed row where it lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Changed<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) old: Option<Stored<'a>>,
    pub(crate) new: Option<Stored<'a>>,
}

/// How many rows one map alone has, and how many both have with different values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) inserted: u64,
    pub(crate) updated: u64,
    pub(crate) deleted: u64,
}

/// The changed rows between two maps, in key order.
pub(crate) struct Diff<R> {
    from: Option<Cursor<R>>,
    to: Option<Cursor<R>>,
    /// The last key that may be told; all if there is none.
    until: Option<Vec<u8>>,
    /// What the cursors stand on, to be passed over before the next change is looked for.
    found: Found,
    /// Of how many rows, from where both cursors stand, the keys are known to be the same.
    alike: usize,
    key: Vec<u8>,
    /// Counts the rows of both maps that were passed.
    meter: Option<Meter>,
}

/// What two cursors stand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// No change as far as they have looked.
    Nothing,
    /// A row, or a subtree, that the first map alone has.
    Old,
    /// One that the second map alone has.
    New,
    /// Rows with one key and two values.
    Both,
}

/// The keys beyond `after` and up to `until`; `None` is where the map begins, and where it ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) after: Option<Vec<u8>>,
    pub(crate) until: Option<Vec<u8>>,
}

impl<R: Read> Diff<R> {
    /// The changes within `range` that lead from one map to another, each with where it is read from; `None` is the empty map.
    pub(crate) fn between(from: Option<(R, Hash)>, to: Option<(R, Hash)>, range: &Range) -> Result<Diff<R>> {
        if from.as_ref().map(|(_, root)| root) == to.as_ref().map(|(_, root)| root) {
            return Ok(Diff::of(None, None, None));
        }
        let cursor = |(reader, root): (R, Hash)| match &range.after {
            None => Cursor::new(reader, &root),
            Some(after) => Cursor::seek(reader, &root, Bound::Excluded(after.as_slice())),
        };
        let (from, to) = (from.map(cursor).transpose()?, to.map(cursor).transpose()?);
        Ok(Diff::of(from, to, range.until.clone()))
    }

    fn of(from: Option<Cursor<R>>, to: Option<Cursor<R>>, until: Option<Vec<u8>>) -> Diff<R> {
        Diff { from, to, until, found: Found::Nothing, alike: 0, key: Vec::new(), meter: None }
    }

    /// This difference, which counts in `meter` the rows of both maps that it passes, read or not.
    pub(crate) fn metered(self, meter: Option<Meter>) -> Diff<R> {
        Diff { meter, ..self }
    }

    fn count(&mut self, rows: u64) {
        if let Some(meter) = &mut self.meter {
            meter.add(rows);
        }
    }

    /// The next changed row.
    pub(crate) fn next_change(&mut self) -> Result<Option<RowChange>> {
        Ok(self.next_row()?.map(|Changed { key, old, new }| RowChange {
            key: key.to_vec(),
            old: old.map(Value::from),
            new: new.map(Value::from),
        }))
    }

    /// The next changed row, borrowed until the next call.
    pub(crate) fn next_row(&mut self) -> Result<Option<Changed<'_>>> {
        if !self.advance(false)? {
            return Ok(None);
        }
        let mut key = std::mem::take(&mut self.key);
        if let [Some((leaf, i)), _] | [None, Some((leaf, i))] = self.item() {
            leaf.key_into(i, &mut key);
        }
        self.key = key;
        if self.until.as_ref().is_some_and(|until| self.key > *until) {
            (self.from, self.to, self.found) = (None, None, Found::Nothing);
            return Ok(None);
        }
        let [old, new] = self.item().map(|item| item.map(|(leaf, i)| leaf.value(i)));
        Ok(Some(Changed { key: &self.key, old, new }))
    }

    /// Where the change lies that was found: before, and after.
    fn item(&self) -> [Option<(&Node, usize)>; 2] {
        let (old, new) = (self.from.as_ref(), self.to.as_ref());
        let old = old.filter(|_| matches!(self.found, Found::Old | Found::Both));
        let new = new.filter(|_| matches!(self.found, Found::New | Found::Both));
        [old.and_then(Cursor::item), new.and_then(Cursor::item)]
    }

    /// How many rows differ from here on. What lies between two rows of one side, and is the other's alone, is counted unread.
    pub(crate) fn counts(mut self) -> Result<Counts> {
        debug_assert!(self.until.is_none(), "whole subtrees may reach beyond an end");
        let mut counts = Counts::default();
        let rows = |cursor: &Option<Cursor<R>>| cursor.as_ref().map_or(0, Cursor::rows);
        while self.advance(true)? {
            match self.found {
                Found::Nothing => {}
                Found::Old => counts.deleted += rows(&self.from),
                Found::New => counts.inserted += rows(&self.to),
                Found::Both => counts.updated += 1,
            }
        }
        Ok(counts)
    }

    /// Moves to the next change: a row, or, if `whole`, maybe a subtree that one side alone has. False at the end.
    fn advance(&mut self, whole: bool) -> Result<bool> {
        let mut passed = 0;
        if let Some(from) = self.from.as_mut().filter(|_| matches!(self.found, Found::Old | Found::Both)) {
            passed += from.rows();
            from.skip();
        }
        if let Some(to) = self.to.as_mut().filter(|_| matches!(self.found, Found::New | Found::Both)) {
            passed += to.rows();
            to.skip();
        }
        self.count(passed);
        // Beside a row that one side alone has, none are.
        self.alike = self.alike.saturating_sub(1);
        self.found = Found::Nothing;
        while self.found == Found::Nothing {
            if self.is_over() {
                self.meter.take().into_iter().for_each(Meter::end);
                return Ok(false);
            }
            let from = self.from.as_mut().filter(|cursor| cursor.level().is_some());
            let to = self.to.as_mut().filter(|cursor| cursor.level().is_some());
            let (rest, found) = match (from, to) {
                (None, None) => {
                    self.meter.take().into_iter().for_each(Meter::end);
                    return Ok(false);
                }
                (Some(from), Some(to)) => {
                    let mut passed = 0;
                    self.found = step(from, to, &mut self.alike, &mut passed, whole)?;
                    self.count(passed);
                    continue;
                }
                (Some(from), None) => (from, Found::Old),
                (None, Some(to)) => (to, Found::New),
            };
            if !whole {
                rest.reach_row()?;
            }
            self.found = found;
        }
        Ok(true)
    }

    /// Whether both sides have passed the last key.
    fn is_over(&self) -> bool {
        let is_past = |cursor: &Option<Cursor<R>>, until: &[u8]| {
            cursor.as_ref().is_none_or(|cursor| cursor.level().is_none() || cursor.has_passed(until))
        };
        self.until.as_ref().is_some_and(|until| is_past(&self.from, until) && is_past(&self.to, until))
    }
}

impl<R: Read> Iterator for Diff<R> {
    type Item = Result<RowChange>;

    fn next(&mut self) -> Option<Result<RowChange>> {
        self.next_change().transpose()
    }
}

/// A meter of the difference between two maps. What is passed of a part of them is not known beforehand.
pub(crate) fn meter(store: &Store, roots: [Option<Hash>; 2], range: &Range) -> Result<Meter> {
    let size = |root: &Hash| Ok(super::size(store, root)?.0);
    let total = match *range == Range::default() && store.is_observed() {
        true => Some(roots.iter().flatten().map(size).sum::<Result<u64>>()?),
        false => None,
    };
    Ok(store.meter("comparing", "rows", total))
}

/// Ranges of keys, at most `parts` of them, that together hold all that differs between two maps, each about as much of it: as far as inner
/// nodes tell.
pub(crate) fn ranges<R: Read>(from: &(R, Hash), to: &(R, Hash), parts: usize) -> Result<Vec<Range>> {
    /// More differing nodes make the parts no more equal.
    const NODES_OF_PART: usize = 64;
    let ((reader, from), (their_reader, to)) = (from, to);
    let tops = (Node::load(reader, from)?, Node::load(their_reader, to)?);
    let mut level = tops.0.level().min(tops.1.level());
    let (old, new) = (align::nodes(reader, &tops.0, level)?, align::nodes(their_reader, &tops.1, level)?);
    let mut differing = vec![Differing { after: None, old, new, is_last: true }];
    while level > 0 && differing.iter().map(Differing::nodes).sum::<usize>() < parts * NODES_OF_PART {
        let mut below = Vec::new();
        for Differing { after, old, new, is_last } in &differing {
            let (old, new) = (align::children(reader, old)?, align::children(their_reader, new)?);
            let stretches = align::stretches([&[], &old, &new], after.as_deref(), *is_last);
            below.extend(stretches.filter_map(Differing::of));
        }
        differing = below;
        level -= 1;
    }
    let total: usize = differing.iter().map(Differing::nodes).sum();
    let mut ranges: Vec<Range> = Vec::new();
    let mut passed = 0;
    for stretch in differing {
        // A part begins with the stretch in whose middle the last one has its share.
        let part = (passed + stretch.nodes() / 2) * parts / total.max(1);
        passed += stretch.nodes();
        if ranges.is_empty() || part >= ranges.len() && stretch.after.is_some() {
            if let Some(last) = ranges.last_mut() {
                last.until.clone_from(&stretch.after);
            }
            ranges.push(Range { after: stretch.after, until: None });
        }
    }
    Ok(ranges)
}

/// Nodes of two maps between two boundaries, with something that differs.
struct Differing {
    after: Option<Vec<u8>>,
    old: Vec<Closed>,
    new: Vec<Closed>,
    is_last: bool,
}

impl Differing {
    fn of(stretch: Stretch<'_>) -> Option<Differing> {
        let ([_, old, new], after) = (stretch.sides, stretch.after.map(<[u8]>::to_vec));
        let differ = !align::same(old, new);
        differ.then(|| Differing { after, old: old.to_vec(), new: new.to_vec(), is_last: stretch.is_last })
    }

    fn nodes(&self) -> usize {
        self.old.len() + self.new.len()
    }
}

/// Moves both cursors past or into their items, unless they stand on a change.
/// Adds to `passed` how many rows they were moved past.
fn step<R: Read>(
    from: &mut Cursor<R>,
    to: &mut Cursor<R>,
    alike: &mut usize,
    passed: &mut u64,
    whole: bool,
) -> Result<Found> {
    let (Some((a, i)), Some((b, j))) = (from.item(), to.item()) else { return Ok(Found::Nothing) };
    match a.level().cmp(&b.level()) {
        // All of a subtree lies before a row if its last key does.
        Ordering::Greater if whole && b.is_leaf() && a.key_cmp(i, b, j) == Ordering::Less => {
            return Ok(Found::Old);
        }
        Ordering::Less if whole && a.is_leaf() && b.key_cmp(j, a, i) == Ordering::Less => {
            return Ok(Found::New);
        }
        Ordering::Greater => from.descend()?,
        Ordering::Less => to.descend()?,
        Ordering::Equal if !a.is_leaf() => {
            if a.child_hash(i) == b.child_hash(j) {
                *passed += from.rows() + to.rows();
                from.skip();
                to.skip();
            } else {
                from.descend()?;
                to.descend()?;
            }
        }
        Ordering::Equal => {
            if *alike == 0 {
                *alike = match a.same_keys(i, b, j) {
                    0 => match a.key_cmp(i, b, j) {
                        Ordering::Less => return Ok(Found::Old),
                        Ordering::Greater => return Ok(Found::New),
                        // Equal, but not cut alike.
                        Ordering::Equal => 1,
                    },
                    alike => alike,
                };
            }
            let same = match a.same_values(i, b, j, *alike) {
                0 if a.value(i) != b.value(j) => return Ok(Found::Both),
                same => same.max(1),
            };
            *alike -= same;
            *passed += 2 * same as u64;
            from.skip_rows(same);
            to.skip_rows(same);
        }
    }
    Ok(Found::Nothing)
}
