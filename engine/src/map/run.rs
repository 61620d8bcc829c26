//! Runs: whole nodes of a level that take the place of others, unread.
//!
//! Between two boundaries that both trees have, the same rows make the same nodes; so a merge takes what one side alone changed as it is.
//! Where a boundary turns out not to hold, a run is split into the runs below it, and at last into edits of entries.

use super::{
    build::Closed,
    edit::{Edit, Payload},
    node::{Child, Node},
};
use crate::{chunks::Read, error::Result};

/// Nodes of one level that take the place of others of the same range of keys, between the same boundaries.
pub(crate) struct Run {
    /// The boundary before them; `None` at the start of the map.
    pub(crate) after: Option<Vec<u8>>,
    /// The nodes that go.
    pub(crate) old: Vec<Closed>,
    /// The nodes that come.
    pub(crate) new: Vec<Closed>,
    /// Whether they are the end of their level.
    pub(crate) is_last: bool,
}

impl Run {
    /// Whether one of these keys, which are in order, lies where the run does.
    pub(crate) fn covers_any<T>(&self, keys: &[(Vec<u8>, T)]) -> bool {
        let first = keys.partition_point(|(key, _)| self.after.as_ref().is_some_and(|after| key <= after));
        keys.get(first).is_some_and(|(key, _)| self.old.last().is_some_and(|last| *key <= last.key))
    }

    /// The runs of the level below that come to the same.
    pub(crate) fn split(&self, reader: &impl Read) -> Result<Vec<Run>> {
        let (old, new) = (children(reader, &self.old)?, children(reader, &self.new)?);
        let mut runs = Vec::new();
        for stretch in stretches([&[], &old, &new], self.after.as_deref(), self.is_last) {
            let [_, old, new] = stretch.sides;
            if !same(old, new) {
                let after = stretch.after.map(<[u8]>::to_vec);
                let (old, new) = (old.to_vec(), new.to_vec());
                runs.push(Run { after, old, new, is_last: stretch.is_last });
            }
        }
        Ok(runs)
    }

    /// What the run asks of the level above.
    pub(crate) fn node_edits(&self) -> Vec<Edit<Child>> {
        let entries = |nodes: &[Closed]| nodes.iter().map(|node| (node.key.clone(), node.child)).collect();
        differences(entries(&self.old), entries(&self.new))
    }

    /// The edits of its own level that come to the same.
    pub(crate) fn entry_edits<P: Payload>(&self, reader: &impl Read) -> Result<Vec<Edit<P>>> {
        Ok(differences(entries(reader, &self.old)?, entries(reader, &self.new)?))
    }
}

/// What these nodes hold.
fn entries<P: Payload>(reader: &impl Read, nodes: &[Closed]) -> Result<Vec<(Vec<u8>, P)>> {
    let mut entries = Vec::new();
    for node in nodes {
        let node = Node::load(reader, &node.child.hash)?;
        entries.extend((0..node.len()).map(|i| (node.key(i), P::of(&node, i))));
    }
    Ok(entries)
}

/// The edits that lead from some entries to others, both in key order.
fn differences<P: PartialEq>(old: Vec<(Vec<u8>, P)>, new: Vec<(Vec<u8>, P)>) -> Vec<Edit<P>> {
    let mut edits = Vec::new();
    let mut old = old.into_iter().peekable();
    for (key, payload) in new {
        while let Some((key, _)) = old.next_if(|(old, _)| *old < key) {
            edits.push(Edit { key, new: None });
        }
        let is_same = old.next_if(|(old, _)| *old == key).is_some_and(|(_, old)| old == payload);
        if !is_same {
            edits.push(Edit { key, new: Some(payload) });
        }
    }
    edits.extend(old.map(|(key, _)| Edit { key, new: None }));
    edits
}

/// Whether these are the same nodes.
pub(crate) fn same(a: &[Closed], b: &[Closed]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.child.hash == b.child.hash)
}

/// The nodes of one level of a tree, in key order; none of an empty map.
pub(crate) fn nodes(reader: &impl Read, top: &Node, level: u8) -> Result<Vec<Closed>> {
    let Some(last_key) = top.last_key() else { return Ok(Vec::new()) };
    let mut nodes = vec![Closed::of(last_key, top.chunk())?];
    for _ in level..top.level() {
        nodes = children(reader, &nodes)?;
    }
    Ok(nodes)
}

/// The children of these nodes, which stand side by side.
pub(crate) fn children(reader: &impl Read, nodes: &[Closed]) -> Result<Vec<Closed>> {
    let mut found = Vec::new();
    for parent in nodes {
        let node = Node::load(reader, &parent.child.hash)?;
        found.extend((0..node.len()).map(|i| Closed { key: node.key(i), child: node.child(i) }));
    }
    Ok(found)
}

/// Nodes of several trees, of one level and one range of keys: a base, ours and theirs.
pub(crate) type Sides<'a> = [&'a [Closed]; 3];

/// Nodes between two boundaries that all sides have.
#[derive(Clone, Copy)]
pub(crate) struct Stretch<'a> {
    pub(crate) sides: Sides<'a>,
    /// The boundary before; `None` at the start of the map.
    pub(crate) after: Option<&'a [u8]>,
    /// Whether it is the end of its level.
    pub(crate) is_last: bool,
}

/// Cuts sides into the shortest stretches. A side without any node has no say.
pub(crate) fn stretches<'a>(
    sides: Sides<'a>,
    after: Option<&'a [u8]>,
    is_last: bool,
) -> impl Iterator<Item = Stretch<'a>> {
    let (mut from, mut after, mut is_over) = ([0; 3], after, false);
    std::iter::from_fn(move || {
        if is_over {
            return None;
        }
        let to = boundary(sides, from, is_last).unwrap_or(sides.map(<[Closed]>::len));
        is_over = to == sides.map(<[Closed]>::len);
        let part = |side: usize| &sides[side][from[side]..to[side]];
        let stretch = Stretch { sides: [part(0), part(1), part(2)], after, is_last: is_last && is_over };
        after = stretch.sides.iter().filter_map(|side| side.last()).map(|node| node.key.as_slice()).next();
        from = to;
        Some(stretch)
    })
}

/// Where the next key is passed that ends a node on every side. The last node of a level ends where it does because nothing follows: that is
/// no boundary for the sides that go on.
fn boundary(sides: Sides<'_>, from: [usize; 3], is_last: bool) -> Option<[usize; 3]> {
    let mut at = from;
    loop {
        let mut highest: &[u8] = &[];
        for (side, at) in sides.iter().zip(at).filter(|(side, _)| !side.is_empty()) {
            let node = side.get(at).filter(|_| !(is_last && at + 1 == side.len()))?;
            highest = highest.max(&node.key);
        }
        let mut are_equal = true;
        for (side, at) in sides.iter().zip(&mut at).filter(|(side, _)| !side.is_empty()) {
            are_equal &= side[*at].key == highest;
            *at += side[*at..].iter().take_while(|node| node.key.as_slice() < highest).count();
        }
        if are_equal {
            for (at, side) in at.iter_mut().zip(sides) {
                *at += usize::from(!side.is_empty());
            }
            return Some(at);
        }
    }
}
