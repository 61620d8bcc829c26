//! Applying a sorted batch of changes to a map in one pass, level by level.
//!
//! A level of the tree is a sorted sequence of entries cut into nodes, and what a changed level asks of the level above
//! is again a sorted batch of changes: the last keys of nodes that are gone, and those of the new ones. So one routine
//! serves every level. It takes up the node in which a change falls, feeds old and new entries to a builder, and stops
//! where the builder's boundary meets an old one; every other node is reused unread.
//!
//! Most changes only replace payloads by others of the same length. Boundaries are a function of the keys, so the node that such
//! changes fall in is copied and changed in place, and is what the builder would have made.
//!
//! Invariant (tests `edits_in_any_order_make_the_built_root`, `a_changed_value_rewrites_one_node_per_level`): the
//! result is the root that building the same content from nothing gives.

use std::borrow::Cow;

use pleach_chunkstore::Hash;

use super::{
    build::{self, Closed, LevelBuilder, TreeBuilder},
    config::MapConfig,
    graft::Graft,
    node::{Child, Encoder, Node, Stored, Value},
};
use crate::{
    chunks::Writer,
    error::{Error, Result},
};

/// A change of one key: its new payload, or none to delete it.
pub(crate) struct Edit<P> {
    pub(crate) key: Vec<u8>,
    pub(crate) new: Option<P>,
}

/// Bytes that take the place of as many, from this offset of a node's chunk on.
type Replaced<'a> = (usize, Cow<'a, [u8]>);

/// What an entry of a level holds beside its key.
pub(crate) trait Payload: Sized + PartialEq {
    /// What entry `i` of the node holds.
    fn of(node: &Node, i: usize) -> Self;
    fn push(&self, encoder: &mut Encoder, key: &[u8]);
    fn push_old(node: &Node, i: usize, encoder: &mut Encoder, key: &[u8]);
    /// Says which bytes, at which places of the node's chunk, make this entry `i`'s payload; false if it does not fit there.
    fn replace<'a>(&'a self, node: &Node, i: usize, replaced: &mut Vec<Replaced<'a>>) -> bool;
}

impl Payload for Value {
    fn of(node: &Node, i: usize) -> Value {
        node.value(i).into()
    }

    fn push(&self, encoder: &mut Encoder, key: &[u8]) {
        encoder.push_value(key, Stored { tag: self.tag, bytes: &self.bytes });
    }

    fn push_old(node: &Node, i: usize, encoder: &mut Encoder, key: &[u8]) {
        encoder.push_value(key, node.value(i));
    }

    fn replace<'a>(&'a self, node: &Node, i: usize, replaced: &mut Vec<Replaced<'a>>) -> bool {
        let place = node.value_place(i, Stored { tag: self.tag, bytes: &self.bytes });
        replaced.extend(place.map(|place| (place, Cow::Borrowed(self.bytes.as_slice()))));
        place.is_some()
    }
}

impl Payload for Child {
    fn of(node: &Node, i: usize) -> Child {
        node.child(i)
    }

    fn push(&self, encoder: &mut Encoder, key: &[u8]) {
        encoder.push_child(key, *self);
    }

    fn push_old(node: &Node, i: usize, encoder: &mut Encoder, key: &[u8]) {
        encoder.push_child(key, node.child(i));
    }

    fn replace<'a>(&'a self, node: &Node, i: usize, replaced: &mut Vec<Replaced<'a>>) -> bool {
        let [hash, rows, bytes] = node.child_places(i);
        replaced.extend([
            (hash, Cow::Borrowed(self.hash.as_bytes().as_slice())),
            (rows, Cow::Owned(self.rows.to_le_bytes().to_vec())),
            (bytes, Cow::Owned(self.bytes.to_le_bytes().to_vec())),
        ]);
        true
    }
}

/// Applies `edits`, sorted by key and each key once, to the map at `root`; returns the new root.
pub(crate) fn apply(
    writer: &mut Writer,
    config: &MapConfig,
    root: Hash,
    edits: &[Edit<Value>],
) -> Result<Hash> {
    let Some(unsorted) = edits.windows(2).position(|pair| pair[0].key >= pair[1].key) else {
        return apply_sorted(writer, config, root, edits);
    };
    Err(Error::Unsorted { entry: unsorted as u64 + 1 })
}

fn apply_sorted(writer: &mut Writer, config: &MapConfig, root: Hash, edits: &[Edit<Value>]) -> Result<Hash> {
    if edits.is_empty() {
        return Ok(root);
    }
    let top = Node::load(writer, &root)?.level();
    let mut changes = edit_level(writer, config, root, 0, edits)?;
    for level in 1..=top {
        let ups = changes.into_edits();
        if ups.is_empty() {
            return Ok(root);
        }
        changes = edit_level(writer, config, root, level, &ups)?;
    }
    finish(writer, config, root, top, changes)
}

/// As [`apply`], and puts whole nodes in the place of others: `grafts` by level, the leaves' first, apart from each other and from the edits by
/// boundaries that all have.
pub(crate) fn apply_with_grafts(
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
    finish(writer, config, root, top, changes)
}

/// Applies `edits` to one level, beside grafts of it and of those above. Where the rebuilding of a node reaches into a graft, its boundary does not
/// hold: the graft is split down to this level, and becomes edits too. So do all of the top level, which have no level above.
fn edit_beside<P: Payload>(
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
        let changes = edit_level(writer, config, root, level, &edits)?;
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

/// The root of a tree whose top level has become this.
fn finish(writer: &mut Writer, config: &MapConfig, root: Hash, top: u8, changes: Changes) -> Result<Hash> {
    if changes.is_empty() {
        return Ok(root);
    }
    // The top level was one node, so what was made of it is the whole level.
    let mut nodes = changes.made.into_iter();
    match (nodes.next(), nodes.next()) {
        (None, _) => build::empty(writer),
        (Some(only), None) => collapse(writer, only.child.hash),
        (Some(first), Some(second)) => {
            let mut builder = TreeBuilder::above(*config, top + 1);
            for Closed { key, child } in [first, second].into_iter().chain(nodes) {
                builder.push_child(writer, &key, child, Some(root))?;
            }
            builder.finish(writer)
        }
    }
}

/// The root is the only node of the lowest level that has just one.
pub(super) fn collapse(writer: &Writer, mut root: Hash) -> Result<Hash> {
    loop {
        let node = Node::load(writer, &root)?;
        if node.is_leaf() || node.len() > 1 {
            return Ok(root);
        }
        root = node.child_hash(0);
    }
}

/// Applies `edits` to one level of the tree at `root`; returns what became of its nodes.
fn edit_level<P: Payload>(
    writer: &mut Writer,
    config: &MapConfig,
    root: Hash,
    level: u8,
    edits: &[Edit<P>],
) -> Result<Changes> {
    let mut cursor = LevelCursor::new(root, level);
    let mut changes = Changes::default();
    let mut next = 0;
    while next < edits.len() {
        cursor.seek(writer, &edits[next].key)?;
        next = match replace_payloads(writer, &cursor, &edits[next..], &mut changes)? {
            Some(replaced) => next + replaced,
            None => rebuild_run(writer, config, &mut cursor, edits, next, &mut changes)?,
        };
    }
    Ok(changes)
}

/// Makes the cursor's node anew with the payloads that `edits` begin with, in place; returns how many those were. `None` if one of them
/// adds or removes a key, or changes a payload's length: then nothing was done.
fn replace_payloads<P: Payload>(
    writer: &mut Writer,
    cursor: &LevelCursor,
    edits: &[Edit<P>],
    changes: &mut Changes,
) -> Result<Option<usize>> {
    let node = cursor.node()?;
    let Some(last_key) = node.last_key() else { return Ok(None) };
    let mut replaced = Vec::new();
    let mut taken = 0;
    for edit in edits.iter().take_while(|edit| edit.key <= last_key) {
        let i = node.lower_bound(&edit.key);
        let Some(payload) = edit.new.as_ref().filter(|_| node.key_is(i, &edit.key)) else { return Ok(None) };
        if !payload.replace(node, i, &mut replaced) {
            return Ok(None);
        }
        taken += 1;
    }
    // Behind the last key of its level a key is added.
    if taken == 0 || (cursor.is_last() && taken < edits.len()) {
        return Ok(None);
    }
    let old = node.chunk().bytes();
    replaced.retain(|(place, new)| old[*place..place + new.len()] != **new);
    if !replaced.is_empty() {
        replaced.sort_by_key(|(place, _)| *place);
        let chunk = writer.put_replaced(node.chunk(), &replaced)?;
        changes.gone(last_key.clone(), *node.hash());
        changes.extend(Some(Closed::of(last_key, &chunk)?));
    }
    Ok(Some(taken))
}

/// Rebuilds nodes from the cursor's on until an old boundary is met; returns the index of the first edit not applied.
fn rebuild_run<P: Payload>(
    writer: &mut Writer,
    config: &MapConfig,
    cursor: &mut LevelCursor,
    edits: &[Edit<P>],
    mut next: usize,
    changes: &mut Changes,
) -> Result<usize> {
    let mut builder = LevelBuilder::new(*config, cursor.level);
    let (mut key, mut last_key) = (Vec::new(), Vec::new());
    let mut first = true;
    loop {
        let node = cursor.node()?.clone();
        let base = Some(*node.hash());
        let last = cursor.is_last();
        if let Some(last_key) = node.last_key() {
            changes.gone(last_key, *node.hash());
        }
        for i in 0..node.len() {
            node.key_into(i, &mut key);
            // Nodes are checked one by one when they arrive; that they follow each other shows here.
            if !std::mem::take(&mut first) && key <= last_key {
                return Err(Error::malformed(node.hash(), "expected keys beyond those of the node before"));
            }
            last_key.clone_from(&key);
            while next < edits.len() && edits[next].key < key {
                add_edit(writer, &mut builder, &edits[next], base, changes)?;
                next += 1;
            }
            if next < edits.len() && edits[next].key == key {
                add_edit(writer, &mut builder, &edits[next], base, changes)?;
                next += 1;
            } else {
                let closed =
                    builder.add(writer, &key, base, |encoder| P::push_old(&node, i, encoder, &key))?;
                changes.extend(closed);
            }
        }
        if last {
            for edit in &edits[next..] {
                add_edit(writer, &mut builder, edit, base, changes)?;
            }
            changes.extend(builder.close(writer)?);
            return Ok(edits.len());
        }
        if builder.is_at_boundary() {
            return Ok(next);
        }
        cursor.advance(writer)?;
    }
}

fn add_edit<P: Payload>(
    writer: &mut Writer,
    builder: &mut LevelBuilder,
    edit: &Edit<P>,
    base: Option<Hash>,
    changes: &mut Changes,
) -> Result<()> {
    if let Some(payload) = &edit.new {
        changes.extend(builder.add(writer, &edit.key, base, |encoder| payload.push(encoder, &edit.key))?);
    }
    Ok(())
}

/// What became of a level: nodes taken up and nodes made, both in key order.
#[derive(Default)]
struct Changes {
    gone: Vec<(Vec<u8>, Hash)>,
    made: Vec<Closed>,
}

impl Changes {
    /// Whether every node is as it was.
    fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.made.is_empty()
    }

    fn gone(&mut self, last_key: Vec<u8>, hash: Hash) {
        self.gone.push((last_key, hash));
    }

    fn extend(&mut self, closed: Option<Closed>) {
        self.made.extend(closed);
    }

    /// What that asks of the level above; a node made again as it was is no change.
    fn into_edits(self) -> Vec<Edit<Child>> {
        let mut edits = Vec::with_capacity(self.made.len());
        let mut gone = self.gone.into_iter().peekable();
        for Closed { key, child } in self.made {
            while let Some((key, _)) = gone.next_if(|(old, _)| *old < key) {
                edits.push(Edit { key, new: None });
            }
            let same_key = gone.next_if(|(old, _)| *old == key);
            if same_key.is_none_or(|(_, hash)| hash != child.hash) {
                edits.push(Edit { key, new: Some(child) });
            }
        }
        edits.extend(gone.map(|(key, _)| Edit { key, new: None }));
        edits
    }
}

/// Stands on one node of one level, and moves forward only.
struct LevelCursor {
    level: u8,
    root: Hash,
    /// Inner nodes from the root down to the level above, each with the index of the child taken.
    path: Vec<(Node, usize)>,
    node: Option<Node>,
}

impl LevelCursor {
    fn new(root: Hash, level: u8) -> LevelCursor {
        LevelCursor { level, root, path: Vec::new(), node: None }
    }

    fn node(&self) -> Result<&Node> {
        self.node.as_ref().ok_or(Error::Missing { hash: self.root })
    }

    /// Whether the node is the last of its level.
    fn is_last(&self) -> bool {
        self.path.iter().all(|(node, i)| i + 1 == node.len())
    }

    /// Moves to the first node whose last key is at least `key`, or to the last node of the level.
    fn seek(&mut self, writer: &Writer, key: &[u8]) -> Result<()> {
        // An ancestor serves as long as the key is not beyond it; the root serves always.
        while self.path.len() > 1
            && self.path.last().is_some_and(|(node, _)| node.lower_bound(key) == node.len())
        {
            self.path.pop();
        }
        let mut node = match self.path.pop() {
            Some((node, _)) => node,
            None => Node::load(writer, &self.root)?,
        };
        while node.level() > self.level {
            let i = node.lower_bound(key).min(node.len() - 1);
            let child = node.load_child(writer, i)?;
            self.path.push((node, i));
            node = child;
        }
        self.node = Some(node);
        Ok(())
    }

    /// Moves to the next node of the level.
    fn advance(&mut self, writer: &Writer) -> Result<()> {
        while self.path.last().is_some_and(|(node, i)| i + 1 == node.len()) {
            self.path.pop();
        }
        let Some((mut node, taken)) = self.path.pop() else {
            return Err(Error::malformed(&self.root, "expected another node on this level"));
        };
        let mut i = taken + 1;
        while node.level() > self.level {
            let child = node.load_child(writer, i)?;
            self.path.push((node, i));
            node = child;
            i = 0;
        }
        self.node = Some(node);
        Ok(())
    }
}
