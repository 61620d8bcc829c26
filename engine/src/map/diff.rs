//! The difference of two maps, in time proportional to it.
//!
//! Two cursors walk both maps in key order. Where they stand on subtrees of one level with the same address, both skip it
//! unread; else the higher one, or both, open theirs. What differs surfaces as rows. A difference can begin and end at any key, so that it can
//! be stopped and resumed, and be [split](ranges) over threads.

use std::{cmp::Ordering, ops::Bound};

use pleach_chunkstore::Hash;

use super::{
    align::{self, Stretch},
    build::Closed,
    cursor::Cursor,
    node::{Node, Value},
};
use crate::{chunks::Read, error::Result};

/// A changed row: what stood and what stands at its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowChange {
    pub(crate) key: Vec<u8>,
    pub(crate) old: Option<Value>,
    pub(crate) new: Option<Value>,
}

/// The changed rows between two maps, in key order.
pub(crate) struct Diff<R> {
    from: Option<Cursor<R>>,
    to: Option<Cursor<R>>,
    /// The last key that may be told; all if there is none.
    until: Option<Vec<u8>>,
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
            return Ok(Diff { from: None, to: None, until: None });
        }
        let cursor = |(reader, root): (R, Hash)| match &range.after {
            None => Cursor::new(reader, &root),
            Some(after) => Cursor::seek(reader, &root, Bound::Excluded(after.as_slice())),
        };
        let (from, to) = (from.map(cursor).transpose()?, to.map(cursor).transpose()?);
        Ok(Diff { from, to, until: range.until.clone() })
    }

    /// The next changed row.
    pub(crate) fn next_change(&mut self) -> Result<Option<RowChange>> {
        let change = self.next_of_all()?;
        let is_beyond = |change: &RowChange| self.until.as_ref().is_some_and(|until| change.key > *until);
        if change.as_ref().is_none_or(is_beyond) {
            (self.from, self.to) = (None, None);
            return Ok(None);
        }
        Ok(change)
    }

    /// Whether both sides have passed the last key.
    fn is_over(&self) -> bool {
        let is_past = |cursor: &Option<Cursor<R>>, until: &[u8]| {
            cursor.as_ref().is_none_or(|cursor| cursor.level().is_none() || cursor.has_passed(until))
        };
        self.until.as_ref().is_some_and(|until| is_past(&self.from, until) && is_past(&self.to, until))
    }

    fn next_of_all(&mut self) -> Result<Option<RowChange>> {
        loop {
            if self.is_over() {
                return Ok(None);
            }
            let (from, to) = (self.from.as_mut(), self.to.as_mut());
            let from_level = from.as_ref().and_then(|cursor| cursor.level());
            let to_level = to.as_ref().and_then(|cursor| cursor.level());
            match (from.filter(|_| from_level.is_some()), to.filter(|_| to_level.is_some())) {
                (None, None) => return Ok(None),
                (Some(from), None) => {
                    from.reach_row()?;
                    return Ok(Some(one_sided(from, |key, old| RowChange {
                        key,
                        old: Some(old),
                        new: None,
                    })));
                }
                (None, Some(to)) => {
                    to.reach_row()?;
                    return Ok(Some(one_sided(to, |key, new| RowChange { key, old: None, new: Some(new) })));
                }
                (Some(from), Some(to)) => {
                    if let Some(change) = step(from, to)? {
                        return Ok(Some(change));
                    }
                }
            }
        }
    }
}

impl<R: Read> Iterator for Diff<R> {
    type Item = Result<RowChange>;

    fn next(&mut self) -> Option<Result<RowChange>> {
        self.next_change().transpose()
    }
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

/// Moves both cursors past or into their items; a difference of rows comes out.
fn step<R: Read>(from: &mut Cursor<R>, to: &mut Cursor<R>) -> Result<Option<RowChange>> {
    let (Some((a, i)), Some((b, j))) = (from.item(), to.item()) else { return Ok(None) };
    match a.level().cmp(&b.level()) {
        Ordering::Greater => from.descend()?,
        Ordering::Less => to.descend()?,
        Ordering::Equal if !a.is_leaf() => {
            if a.child_hash(i) == b.child_hash(j) {
                from.skip();
                to.skip();
            } else {
                from.descend()?;
                to.descend()?;
            }
        }
        Ordering::Equal => {
            let same = a.same_rows(i, b, j);
            if same > 0 {
                from.skip_rows(same);
                to.skip_rows(same);
                return Ok(None);
            }
            let order = if a.prefix() == b.prefix() {
                a.suffix(i).cmp(b.suffix(j))
            } else {
                a.prefix().iter().chain(a.suffix(i)).cmp(b.prefix().iter().chain(b.suffix(j)))
            };
            match order {
                Ordering::Less => {
                    return Ok(Some(one_sided(from, |key, old| RowChange {
                        key,
                        old: Some(old),
                        new: None,
                    })));
                }
                Ordering::Greater => {
                    return Ok(Some(one_sided(to, |key, new| RowChange { key, old: None, new: Some(new) })));
                }
                Ordering::Equal => {
                    let (old, new) = (a.value(i), b.value(j));
                    let change = (old != new).then(|| RowChange {
                        key: a.key(i),
                        old: Some(Value { tag: old.tag, bytes: old.bytes.to_vec() }),
                        new: Some(Value { tag: new.tag, bytes: new.bytes.to_vec() }),
                    });
                    from.skip();
                    to.skip();
                    return Ok(change);
                }
            }
        }
    }
    Ok(None)
}

/// The row that the cursor stands on as a change, and the cursor past it.
fn one_sided<R: Read>(cursor: &mut Cursor<R>, change: impl FnOnce(Vec<u8>, Value) -> RowChange) -> RowChange {
    let (key, value) = match cursor.item() {
        Some((node, i)) => {
            let value = node.value(i);
            (node.key(i), Value { tag: value.tag, bytes: value.bytes.to_vec() })
        }
        None => unreachable!("a cursor that has a level stands on an item"),
    };
    cursor.skip();
    change(key, value)
}
