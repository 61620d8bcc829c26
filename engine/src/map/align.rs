//! Trees side by side: their nodes of one level, cut where all have a boundary between the same keys.
//!
//! Between such boundaries each tree can be looked at by itself: diff, merge and the splitting of work stand on that.

use super::{build::Closed, node::Node};
use crate::{chunks::Read, error::Result};

/// Whether these are the same nodes.
pub(crate) fn same(a: &[Closed], b: &[Closed]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.child.hash == b.child.hash)
}

/// The nodes of one level of a tree, in key order; none of an empty map.
pub(crate) fn nodes(reader: &impl Read, top: &Node, level: u8) -> Result<Vec<Closed>> {
    let Some(last_key) = top.last_key() else { return Ok(Vec::new()) };
    let mut nodes = vec![Closed::of(last_key, top)];
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
