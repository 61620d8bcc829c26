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

use pleach_chunkstore::{Hash, Meter};

use super::{
    build::{self, Closed, LevelBuilder, TreeBuilder},
    config::MapConfig,
    node::{Child, Encoder, Node, Stored, Value},
};
use crate::{
    chunks::Writer,
    error::{Error, Result},
};

/// What became of a node is taken to need so many bytes of memory, until the level above has it. Each edit may change another node, so that of many edits as
/// many are applied at once as make such a part of the memory for work.
const CHANGE_BYTES: usize = 384;
const CHANGE_SHARE: usize = 4;
const CHANGES_MIN: usize = 4096;

/// A change of one key: its new payload, or none to delete it.
pub(crate) struct Edit<P, K = Vec<u8>> {
    pub(crate) key: K,
    pub(crate) new: Option<P>,
}

/// Bytes that take the place of as many, from this offset of a node's chunk on.
type Replaced<'a> = (usize, Cow<'a, [u8]>);

/// What an entry of a level holds beside its key.
pub(crate) trait Payload {
    fn push(&self, encoder: &mut Encoder, key: &[u8]);
    /// Says which bytes, at which places of the node's chunk, make this entry `i`'s payload; false if it does not fit there.
    fn replace<'a>(&'a self, node: &Node, i: usize, replaced: &mut Vec<Replaced<'a>>) -> bool;
}

impl Payload for Stored<'_> {
    fn push(&self, encoder: &mut Encoder, key: &[u8]) {
        encoder.push_value(key, *self);
    }

    fn replace<'a>(&'a self, node: &Node, i: usize, replaced: &mut Vec<Replaced<'a>>) -> bool {
        let place = node.value_place(i, *self);
        replaced.extend(place.map(|place| (place, Cow::Borrowed(self.bytes))));
        place.is_some()
    }
}

impl Payload for Value {
    fn push(&self, encoder: &mut Encoder, key: &[u8]) {
        self.stored().push(encoder, key);
    }

    fn replace<'a>(&'a self, node: &Node, i: usize, replaced: &mut Vec<Replaced<'a>>) -> bool {
        let place = node.value_place(i, self.stored());
        replaced.extend(place.map(|place| (place, Cow::Borrowed(self.bytes.as_slice()))));
        place.is_some()
    }
}

impl Payload for Child {
    fn push(&self, encoder: &mut Encoder, key: &[u8]) {
        encoder.push_child(key, *self);
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
pub(crate) fn apply<P: Payload, K: AsRef<[u8]>>(
    writer: &mut Writer,
    config: &MapConfig,
    root: Hash,
    edits: &[Edit<P, K>],
) -> Result<Hash> {
    if let Some(unsorted) = edits.windows(2).position(|pair| pair[0].key.as_ref() >= pair[1].key.as_ref()) {
        return Err(Error::Unsorted { entry: unsorted as u64 + 1 });
    }
    let work_bytes = usize::try_from(writer.store().options().work_bytes).unwrap_or(usize::MAX);
    let part = (work_bytes / CHANGE_SHARE / CHANGE_BYTES).max(CHANGES_MIN);
    edits.chunks(part).try_fold(root, |root, part| apply_sorted(writer, config, root, part))
}

fn apply_sorted<P: Payload, K: AsRef<[u8]>>(
    writer: &mut Writer,
    config: &MapConfig,
    root: Hash,
    edits: &[Edit<P, K>],
) -> Result<Hash> {
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

/// The root of a tree whose top level has become this.
pub(super) fn finish(
    writer: &mut Writer,
    config: &MapConfig,
    root: Hash,
    top: u8,
    changes: Changes,
) -> Result<Hash> {
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
                builder.push_child(writer, &key, child)?;
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
pub(super) fn edit_level<P: Payload, K: AsRef<[u8]>>(
    writer: &mut Writer,
    config: &MapConfig,
    root: Hash,
    level: u8,
    edits: &[Edit<P, K>],
) -> Result<Changes> {
    let mut cursor = LevelCursor::new(root, level);
    let mut changes = Changes::default();
    let mut next = 0;
    let mut meter = (level == 0).then(|| writer.store().meter("applying", "rows", Some(edits.len() as u64)));
    while next < edits.len() {
        cursor.seek(writer, edits[next].key.as_ref())?;
        next = match replace_payloads(writer, &cursor, &edits[next..], &mut changes)? {
            Some(replaced) => {
                meter.iter_mut().for_each(|meter| meter.add(replaced as u64));
                next + replaced
            }
            None => rebuild_run(writer, config, &mut cursor, edits, next, &mut changes, &mut meter)?,
        };
    }
    meter.into_iter().for_each(Meter::end);
    Ok(changes)
}

/// Makes the cursor's node anew with the payloads that `edits` begin with, in place; returns how many those were. `None` if one of them
/// adds or removes a key, or changes a payload's length: then nothing was done.
fn replace_payloads<P: Payload, K: AsRef<[u8]>>(
    writer: &mut Writer,
    cursor: &LevelCursor,
    edits: &[Edit<P, K>],
    changes: &mut Changes,
) -> Result<Option<usize>> {
    let node = cursor.node()?;
    let Some(last_key) = node.last_key() else { return Ok(None) };
    let mut replaced = Vec::new();
    let mut taken = 0;
    for edit in edits.iter().take_while(|edit| edit.key.as_ref() <= last_key.as_slice()) {
        let (Some(payload), Ok(i)) = (&edit.new, node.search(edit.key.as_ref())) else { return Ok(None) };
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
        changes.gone.push((last_key.clone(), *node.hash()));
        changes.made.push(Closed::of(last_key, &Node::parse(chunk)?));
    }
    Ok(Some(taken))
}

/// Rebuilds nodes from the cursor's on until an old boundary is met; returns the index of the first edit not applied.
fn rebuild_run<P: Payload, K: AsRef<[u8]>>(
    writer: &mut Writer,
    config: &MapConfig,
    cursor: &mut LevelCursor,
    edits: &[Edit<P, K>],
    mut next: usize,
    changes: &mut Changes,
    meter: &mut Option<Meter>,
) -> Result<usize> {
    let mut builder = LevelBuilder::new(*config, cursor.level);
    let mut last_key: Option<Vec<u8>> = None;
    loop {
        let node = cursor.node()?.clone();
        let is_last = cursor.is_last();
        // Nodes are checked one by one when they arrive; that they follow each other shows here.
        if node.len() > 0 && last_key.is_some_and(|last| node.key(0) <= last) {
            return Err(Error::malformed(node.hash(), "expected keys beyond those of the node before"));
        }
        last_key = node.last_key();
        changes.gone.extend(last_key.clone().map(|key| (key, *node.hash())));
        let mut i = 0;
        loop {
            // Entries up to the next edit stay.
            let place = edits.get(next).map_or(Err(node.len()), |edit| node.search(edit.key.as_ref()));
            let (Ok(until) | Err(until)) = place;
            builder.add_entries(writer, &node, i..until, |closed| changes.made.push(closed))?;
            i = until + usize::from(place.is_ok());
            if until == node.len() && !is_last {
                break;
            }
            let Some(edit) = edits.get(next) else { break };
            if let Some(payload) = &edit.new {
                let key = edit.key.as_ref();
                let push = |encoder: &mut Encoder| payload.push(encoder, key);
                changes.made.extend(builder.add(writer, key, Some(&node), push)?);
            }
            next += 1;
            meter.iter_mut().for_each(|meter| meter.add(1));
        }
        if is_last {
            changes.made.extend(builder.close(writer)?);
            return Ok(next);
        }
        if builder.is_at_boundary() {
            return Ok(next);
        }
        cursor.advance(writer)?;
    }
}

/// What became of a level: nodes taken up and nodes made, both in key order.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) gone: Vec<(Vec<u8>, Hash)>,
    made: Vec<Closed>,
}

impl Changes {
    /// Whether every node is as it was.
    fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.made.is_empty()
    }

    /// What that asks of the level above; a node made again as it was is no change.
    pub(super) fn into_edits(self) -> Vec<Edit<Child>> {
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
            let child = node.load_child_in_place(writer, i)?;
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
            let child = node.load_child_in_place(writer, i)?;
            self.path.push((node, i));
            node = child;
            i = 0;
        }
        self.node = Some(node);
        Ok(())
    }
}
