//! The difference of two maps, in time proportional to it.
//!
//! Two cursors walk both maps in key order. Where they stand on subtrees of one level with the same address, both skip it
//! unread; else the higher one, or both, open theirs. What differs surfaces as rows.

use std::cmp::Ordering;

use pleach_chunkstore::Hash;

use super::{cursor::Cursor, node::Value};
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
}

impl<R: Read> Diff<R> {
    /// The changes that lead from one map to another, each with where it is read from; `None` is the empty map.
    pub(crate) fn between(from: Option<(R, Hash)>, to: Option<(R, Hash)>) -> Result<Diff<R>> {
        if from.as_ref().map(|(_, root)| root) == to.as_ref().map(|(_, root)| root) {
            return Ok(Diff { from: None, to: None });
        }
        let cursor = |(reader, root): (R, Hash)| Cursor::new(reader, &root);
        Ok(Diff { from: from.map(cursor).transpose()?, to: to.map(cursor).transpose()? })
    }

    /// The next changed row.
    pub(crate) fn next_change(&mut self) -> Result<Option<RowChange>> {
        loop {
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
