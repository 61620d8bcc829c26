//! Walking a map in key order.
//!
//! A [`Cursor`] stands on an *item*: a row, or a subtree that has not been opened. What to open is the caller's choice:
//! a scan opens everything, diff and merge skip subtrees that both sides share.

use std::ops::Bound;

use pleach_chunkstore::Hash;

use super::node::{Node, Stored};
use crate::{chunks::Read, error::Result};

/// Stands on one item of a map: a row (level 0) or a whole subtree (its node's level + 1).
pub(crate) struct Cursor<R> {
    reader: R,
    path: Vec<(Node, usize)>,
}

impl<R: Read> Cursor<R> {
    /// A cursor on the first item of the root node.
    pub(crate) fn new(reader: R, root: &Hash) -> Result<Cursor<R>> {
        let node = Node::load(&reader, root)?;
        let mut cursor = Cursor { reader, path: vec![(node, 0)] };
        cursor.climb();
        Ok(cursor)
    }

    /// A cursor on the first row whose key is at least, or beyond, the bound.
    pub(crate) fn seek(reader: R, root: &Hash, from: Bound<&[u8]>) -> Result<Cursor<R>> {
        let mut cursor = Cursor { reader, path: Vec::new() };
        let mut node = Node::load(&cursor.reader, root)?;
        loop {
            let i = match from {
                Bound::Unbounded => 0,
                Bound::Included(key) => node.lower_bound(key),
                Bound::Excluded(key) => {
                    let i = node.lower_bound(key);
                    i + usize::from(node.is_leaf() && node.key_is(i, key))
                }
            };
            let is_inner = !node.is_leaf() && i < node.len();
            let child = is_inner.then(|| node.load_child(&cursor.reader, i)).transpose()?;
            cursor.path.push((node, i));
            match child {
                Some(child) => node = child,
                None => break,
            }
        }
        cursor.climb();
        Ok(cursor)
    }

    /// Leaves nodes whose items are used up.
    fn climb(&mut self) {
        while self.path.last().is_some_and(|(node, i)| *i >= node.len()) {
            self.path.pop();
            if let Some((_, i)) = self.path.last_mut() {
                *i += 1;
            }
        }
    }

    /// The level of the item: 0 for a row, `n` for a subtree whose parent has level `n`; `None` at the end.
    pub(crate) fn level(&self) -> Option<u8> {
        self.path.last().map(|(node, _)| node.level())
    }

    /// The node and the index of the item in it.
    pub(crate) fn item(&self) -> Option<(&Node, usize)> {
        self.path.last().map(|(node, i)| (node, *i))
    }

    /// Rows of the item: one, or those of the subtree.
    pub(crate) fn rows(&self) -> u64 {
        self.item().map_or(0, |(node, i)| if node.is_leaf() { 1 } else { node.child(i).rows })
    }

    /// Whether all rows up to `key` lie before the item.
    pub(crate) fn has_passed(&self, key: &[u8]) -> bool {
        let before = self.path.iter().rev().find(|(_, i)| *i > 0);
        before.is_some_and(|(node, i)| node.lower_bound(key) < *i)
    }

    /// Passes over the item, unopened.
    pub(crate) fn skip(&mut self) {
        if let Some((_, i)) = self.path.last_mut() {
            *i += 1;
        }
        self.climb();
    }

    /// Passes over as many rows, all of the leaf that the cursor is in.
    pub(crate) fn skip_rows(&mut self, rows: usize) {
        if let Some((_, i)) = self.path.last_mut() {
            *i += rows;
        }
        self.climb();
    }

    /// Opens the subtree that the cursor stands on.
    pub(crate) fn descend(&mut self) -> Result<()> {
        let Some((node, i)) = self.item() else { return Ok(()) };
        let child = node.load_child(&self.reader, i)?;
        self.path.push((child, 0));
        Ok(())
    }

    /// Opens subtrees until the item is a row; false at the end of the map.
    pub(crate) fn reach_row(&mut self) -> Result<bool> {
        loop {
            match self.level() {
                None => return Ok(false),
                Some(0) => return Ok(true),
                Some(_) => self.descend()?,
            }
        }
    }
}

/// Stands behind a row of a map, and moves backwards.
struct BackCursor {
    /// Each node with the index of the child taken; the leaf with that of the row behind the place.
    path: Vec<(Node, usize)>,
}

impl BackCursor {
    /// A cursor behind the last row whose key is at most, or before, the bound.
    fn seek(reader: &impl Read, root: &Hash, to: Bound<&[u8]>) -> Result<BackCursor> {
        let mut path: Vec<(Node, usize)> = Vec::new();
        let mut node = Node::load(reader, root)?;
        loop {
            let i = match to {
                Bound::Unbounded => node.len(),
                Bound::Excluded(key) => node.lower_bound(key),
                Bound::Included(key) => {
                    let i = node.lower_bound(key);
                    i + usize::from(node.is_leaf() && node.key_is(i, key))
                }
            };
            if node.is_leaf() {
                path.push((node, i));
                return Ok(BackCursor { path });
            }
            let i = i.min(node.len() - 1);
            let child = node.load_child(reader, i)?;
            path.push((node, i));
            node = child;
        }
    }

    /// Moves before the row, which it gives: its leaf, and its index there.
    fn step(&mut self, reader: &impl Read) -> Result<Option<(&Node, usize)>> {
        while self.path.last().is_some_and(|(_, i)| *i == 0) {
            self.path.pop();
        }
        if let Some((_, i)) = self.path.last_mut() {
            *i -= 1;
        }
        loop {
            let child = match self.path.last() {
                Some((node, i)) if !node.is_leaf() => node.load_child(reader, *i)?,
                _ => break,
            };
            let last = child.len() - 1;
            self.path.push((child, last));
        }
        Ok(self.path.last().map(|(node, i)| (node, *i)))
    }
}

/// Rows of a range in key order, from both ends; owns its reader.
pub(crate) struct Rows<R> {
    cursor: Cursor<R>,
    root: Hash,
    /// Where the rows that are left end: the row last given from the back, if any.
    to: Bound<Vec<u8>>,
    /// Where they begin; once `started`, behind `key`, the row last given from the front.
    from: Bound<Vec<u8>>,
    key: Vec<u8>,
    started: bool,
    back: Option<BackCursor>,
}

impl<R: Read> Rows<R> {
    pub(crate) fn new(reader: R, root: &Hash, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<Rows<R>> {
        let cursor = Cursor::seek(reader, root, from)?;
        let (from, to) = (from.map(<[u8]>::to_vec), to.map(<[u8]>::to_vec));
        Ok(Rows { cursor, root: *root, to, from, key: Vec::new(), started: false, back: None })
    }

    /// The next row, borrowed until the next call.
    pub(crate) fn next_row(&mut self) -> Result<Option<(&[u8], Stored<'_>)>> {
        if std::mem::replace(&mut self.started, true) {
            self.cursor.skip();
        }
        if !self.cursor.reach_row()? {
            return Ok(None);
        }
        let Some((node, i)) = self.cursor.item() else { return Ok(None) };
        node.key_into(i, &mut self.key);
        let beyond = match &self.to {
            Bound::Unbounded => false,
            Bound::Included(to) => self.key > *to,
            Bound::Excluded(to) => self.key >= *to,
        };
        Ok((!beyond).then(|| (self.key.as_slice(), node.value(i))))
    }

    /// Calls `f` with each row that is left, leaf by leaf: the bounds are looked at once in each.
    pub(crate) fn for_each(mut self, mut f: impl FnMut(&[u8], Stored<'_>) -> Result<()>) -> Result<()> {
        if self.started {
            self.cursor.skip();
        }
        while self.cursor.reach_row()? {
            let Some((leaf, first)) = self.cursor.item() else { return Ok(()) };
            let end = match &self.to {
                Bound::Unbounded => leaf.len(),
                Bound::Excluded(to) => leaf.lower_bound(to),
                Bound::Included(to) => {
                    let end = leaf.lower_bound(to);
                    end + usize::from(leaf.key_is(end, to))
                }
            };
            let prefix = leaf.prefix();
            self.key.clear();
            self.key.extend_from_slice(prefix);
            for i in first..end {
                self.key.truncate(prefix.len());
                self.key.extend_from_slice(leaf.suffix(i));
                f(&self.key, leaf.value(i))?;
            }
            if end < leaf.len() {
                return Ok(());
            }
            self.cursor.skip_rows(end - first);
        }
        Ok(())
    }

    /// The last row that is left, borrowed until the next call.
    pub(crate) fn next_row_back(&mut self) -> Result<Option<(&[u8], Stored<'_>)>> {
        let back = match &mut self.back {
            Some(back) => back,
            none => none.insert(BackCursor::seek(
                &self.cursor.reader,
                &self.root,
                self.to.as_ref().map(Vec::as_slice),
            )?),
        };
        let Some((node, i)) = back.step(&self.cursor.reader)? else { return Ok(None) };
        let key = node.key(i);
        let before = match &self.from {
            _ if self.started && key <= self.key => true,
            Bound::Unbounded => false,
            Bound::Included(from) => key < *from,
            Bound::Excluded(from) => key <= *from,
        };
        if before {
            return Ok(None);
        }
        self.to = Bound::Excluded(key);
        Ok(match &self.to {
            Bound::Excluded(key) => Some((key, node.value(i))),
            _ => None,
        })
    }
}
