//! Grafts: whole nodes of a level that take the place of others, unread.
//!
//! Between two boundaries that both trees have, the same rows make the same nodes; so a merge takes what one side alone changed as it is.
//! Where a boundary turns out not to hold, a graft is split into those below it, and at last into edits of entries.

use super::{
    align::{children, same, stretches},
    build::Closed,
    edit::{Edit, Payload},
    node::{Child, Node},
};
use crate::{chunks::Read, error::Result};

/// Nodes of one level that take the place of others of the same range of keys, between the same boundaries.
pub(crate) struct Graft {
    /// The boundary before them; `None` at the start of the map.
    pub(crate) after: Option<Vec<u8>>,
    /// The nodes that go.
    pub(crate) old: Vec<Closed>,
    /// The nodes that come.
    pub(crate) new: Vec<Closed>,
    /// Whether they are the end of their level.
    pub(crate) is_last: bool,
}

impl Graft {
    /// Whether one of these keys, which are in order, lies where the graft does.
    pub(crate) fn covers_any<T>(&self, keys: &[(Vec<u8>, T)]) -> bool {
        let first = keys.partition_point(|(key, _)| self.after.as_ref().is_some_and(|after| key <= after));
        keys.get(first).is_some_and(|(key, _)| self.old.last().is_some_and(|last| *key <= last.key))
    }

    /// The grafts of the level below that come to the same.
    pub(crate) fn split(&self, reader: &impl Read) -> Result<Vec<Graft>> {
        let (old, new) = (children(reader, &self.old)?, children(reader, &self.new)?);
        let mut grafts = Vec::new();
        for stretch in stretches([&[], &old, &new], self.after.as_deref(), self.is_last) {
            let [_, old, new] = stretch.sides;
            if !same(old, new) {
                let after = stretch.after.map(<[u8]>::to_vec);
                let (old, new) = (old.to_vec(), new.to_vec());
                grafts.push(Graft { after, old, new, is_last: stretch.is_last });
            }
        }
        Ok(grafts)
    }

    /// What the graft asks of the level above.
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
