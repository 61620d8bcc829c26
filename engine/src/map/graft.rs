//! Grafts: whole nodes of a level that take the place of others, unread.
//!
//! Between two boundaries that both trees have, the same rows make the same nodes; so a merge takes what one side alone changed as it is.
//! Where a boundary turns out not to hold, a graft is split into those below it, and at last into edits of entries.

use pleach_chunkstore::Hash;

use super::{
    align::{children, same, stretches},
    build::Closed,
    config::MapConfig,
    edit::{self, Changes, Edit, Payload},
    node::{Child, Node, Value},
};
use crate::{
    chunks::{Read, Writer},
    error::Result,
};

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
    fn covers_any<T>(&self, keys: &[(Vec<u8>, T)]) -> bool {
        let first = keys.partition_point(|(key, _)| self.after.as_ref().is_some_and(|after| key <= after));
        keys.get(first).is_some_and(|(key, _)| self.old.last().is_some_and(|last| *key <= last.key))
    }

    /// The grafts of the level below that come to the same.
    fn split(&self, reader: &impl Read) -> Result<Vec<Graft>> {
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
    fn node_edits(&self) -> Vec<Edit<Child>> {
        let entries = |nodes: &[Closed]| nodes.iter().map(|node| (node.key.clone(), node.child)).collect();
        differences(entries(&self.old), entries(&self.new))
    }

    /// The edits of its own level that come to the same.
    fn entry_edits<P: Entry>(&self, reader: &impl Read) -> Result<Vec<Edit<P>>> {
        Ok(differences(entries(reader, &self.old)?, entries(reader, &self.new)?))
    }
}

/// Applies `edits`, as [`edit::apply`] does, and puts whole nodes in the place of others: `grafts` by level, the leaves' first, apart from each other and from the edits by
/// boundaries that all have.
pub(crate) fn apply(
    writer: &mut Writer,
    config: &MapConfig,
    root: Hash,
    edits: Vec<Edit<Value>>,
    mut grafts: Vec<Vec<Graft>>,
) -> Result<Hash> {
    let top = Node::load(writer, &root)?.level();
    grafts.resize_with(usize::from(top) + 1, Vec::new);
    let mut changes = edit_beside(writer, config, root, 0, edits, &mut grafts)?;
    for level in 1..=top {
        let mut ups = changes.into_edits();
        ups.extend(grafts[usize::from(level) - 1].iter().flat_map(Graft::node_edits));
        changes = edit_beside(writer, config, root, level, ups, &mut grafts)?;
    }
    edit::finish(writer, config, root, top, changes)
}

/// Applies `edits` to one level, beside grafts of it and of those above. Where the rebuilding of a node reaches into a graft, its boundary does not
/// hold: the graft is split down to this level, and becomes edits too. So do all of the top level, which have no level above.
fn edit_beside<P: Entry>(
    writer: &mut Writer,
    config: &MapConfig,
    root: Hash,
    level: u8,
    mut edits: Vec<Edit<P>>,
    grafts: &mut [Vec<Graft>],
) -> Result<Changes> {
    let at = usize::from(level);
    let mut reached = if at + 1 == grafts.len() { std::mem::take(&mut grafts[at]) } else { Vec::new() };
    loop {
        for graft in reached {
            edits.extend(graft.entry_edits(writer)?);
        }
        edits.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let changes = edit::edit_level(writer, config, root, level, &edits)?;
        let is_reached = |graft: &mut Graft| graft.covers_any(&changes.gone);
        for above in (at + 1..grafts.len()).rev() {
            for graft in grafts[above].extract_if(.., is_reached).collect::<Vec<_>>() {
                grafts[above - 1].extend(graft.split(writer)?);
            }
        }
        reached = grafts[at].extract_if(.., is_reached).collect();
        if reached.is_empty() {
            return Ok(changes);
        }
    }
}

/// What an entry of a level holds, taken out of its node.
trait Entry: Payload + PartialEq + Sized {
    /// What entry `i` of the node holds.
    fn of(node: &Node, i: usize) -> Self;
}

impl Entry for Value {
    fn of(node: &Node, i: usize) -> Value {
        node.value(i).into()
    }
}

impl Entry for Child {
    fn of(node: &Node, i: usize) -> Child {
        node.child(i)
    }
}

/// What these nodes hold.
fn entries<P: Entry>(reader: &impl Read, nodes: &[Closed]) -> Result<Vec<(Vec<u8>, P)>> {
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
