//! Three-way merge of maps: what theirs changed since the base, applied to ours.
//!
//! The three trees are opened together, from the top, and cut where all three have a boundary between the same keys. A stretch that theirs
//! left as it was in the base is left alone; one that ours left alone is taken from theirs as whole nodes, unread, for between the same
//! boundaries the same rows make the same nodes. Only a stretch that both changed is opened further, and at the leaves merged row by row:
//! a row that one side alone changed is taken; one that both changed alike is no conflict; about one that both changed differently
//! the caller decides.
//!
//! What is found is applied to ours by [`graft`], level by level. When the plan has grown too large to be held, what was found so far is applied, and the three trees are opened
//! again behind it: there ours is as it was.

use pleach_chunkstore::{Hash, Lease, Meter};

use super::{
    align::{self, Sides, Stretch},
    build::Closed,
    config::MapConfig,
    edit::Edit,
    graft::{self, Graft},
    node::{Node, Stored, Value},
};
use crate::{
    chunks::{Read, Writer},
    error::{Error, Result},
};

/// What a row is taken to need in memory beside its bytes, and with the nodes that are made of it.
const ROW_BYTES: usize = 192;
/// What a node of a graft is taken to need beside its key.
const NODE_BYTES: usize = 160;

/// A row that both sides changed, each in its own way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowConflict {
    pub(crate) key: Vec<u8>,
    pub(crate) base: Option<Value>,
    pub(crate) ours: Option<Value>,
    pub(crate) theirs: Option<Value>,
}

/// What becomes of a row that both sides changed, each in its own way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It stays as it is in ours; who decides so has noted it.
    Conflict,
    /// It becomes this; `None`: it goes.
    Row(Option<Value>),
}

/// Decides about a row in conflict.
pub(crate) type Decide<'a> = &'a mut dyn FnMut(&mut Writer, &RowConflict) -> Result<Decision>;

/// Merges `theirs` into `ours`; `decide` is asked about every row in conflict once, in key order. Returns the merged root.
pub(crate) fn merge(
    reader: &impl Read,
    writer: &mut Writer,
    config: &MapConfig,
    base: Option<&Hash>,
    ours: &Hash,
    theirs: &Hash,
    decide: Decide<'_>,
) -> Result<Hash> {
    if ours == theirs || base == Some(theirs) {
        return Ok(*ours);
    }
    if base == Some(ours) {
        return Ok(*theirs);
    }
    let rows = |root: &Hash| Ok::<_, Error>(super::size(reader, root)?.0);
    let total = Some(rows(ours)? + rows(theirs)?);
    let mut meter = Some(writer.store().meter("merging", "rows", total));
    let (mut ours, mut after) = (*ours, None);
    loop {
        let roots = [base, Some(&ours), Some(theirs)];
        let found = plan(reader, writer, roots, decide, after, meter.take())?;
        (after, meter) = (found.full, found.meter);
        if after.is_none() {
            meter.take().into_iter().for_each(Meter::end);
        }
        ours = graft::apply(writer, config, ours, found.rows, found.grafts)?;
        if after.is_none() {
            return Ok(ours);
        }
        // `reader` is the store.
        writer.flush()?;
    }
}

/// What is to be done to ours behind the key `after`, or a first part of it.
fn plan(
    reader: &impl Read,
    writer: &mut Writer,
    roots: [Option<&Hash>; 3],
    decide: Decide<'_>,
    after: Option<Vec<u8>>,
    meter: Option<Meter>,
) -> Result<Found> {
    let lease = writer.store().lease();
    let found = Found { rows: Vec::new(), grafts: Vec::new(), full: None, meter };
    let roots = roots.map(|root| root.map(|root| Node::load(reader, root)).transpose());
    let [base, ours_root, theirs] = roots;
    let tops = [base?, ours_root?, theirs?];
    let level = tops.iter().flatten().map(Node::level).min().unwrap_or(0);
    let [base, ours_nodes, theirs] =
        tops.map(|top| top.map_or(Ok(Vec::new()), |top| align::nodes(reader, &top, level)));
    let mut plan = Plan { reader, writer, decide, after, lease, bytes: 0, found };
    let (base, ours_nodes, theirs) = (base?, ours_nodes?, theirs?);
    plan.stretch(level, Stretch { sides: [&base, &ours_nodes, &theirs], after: None, is_last: true })?;
    Ok(plan.found)
}

/// What is to be done to ours.
struct Found {
    rows: Vec<Edit<Value>>,
    /// By level, the leaves' first.
    grafts: Vec<Vec<Graft>>,
    /// Up to this key it is all; `None`: up to the end.
    full: Option<Vec<u8>>,
    /// Counts the rows of ours and theirs that were passed.
    meter: Option<Meter>,
}

struct Plan<'a, R> {
    reader: &'a R,
    writer: &'a mut Writer,
    decide: Decide<'a>,
    /// Up to this key it is done.
    after: Option<Vec<u8>>,
    /// The right to hold what is found, and how many bytes that are.
    lease: Lease,
    bytes: u64,
    found: Found,
}

impl<R: Read> Plan<'_, R> {
    /// Plans for a stretch of nodes of this level.
    fn stretch(&mut self, level: u8, stretch: Stretch<'_>) -> Result<()> {
        let Stretch { sides, after, is_last } = stretch;
        let [base, ours, theirs] = sides;
        let last = sides.iter().filter_map(|side| side.last()).map(|node| node.key.as_slice()).max();
        let is_done = self.after.as_deref().is_some_and(|after| last.is_some_and(|last| last <= after));
        if self.found.full.is_some() || is_done {
            return Ok(());
        }
        let rows = || ours.iter().chain(theirs).map(|node| node.child.rows).sum();
        if align::same(ours, theirs) || align::same(base, theirs) {
            self.count(rows());
            return Ok(());
        }
        // Where some of it is done, ours may be as the base again, by a decision.
        let is_begun = self.after.as_deref().is_some_and(|done| after.is_none_or(|before| before < done));
        if align::same(base, ours) && !ours.is_empty() && !is_begun {
            let at = usize::from(level);
            let grafts = &mut self.found.grafts;
            grafts.resize_with(grafts.len().max(at + 1), Vec::new);
            let after = after.map(<[u8]>::to_vec);
            grafts[at].push(Graft { after, old: ours.to_vec(), new: theirs.to_vec(), is_last });
            self.count(rows());
            let bytes = ours.iter().chain(theirs).map(|node| node.key.len() + NODE_BYTES).sum();
            self.hold(bytes, last.filter(|_| !is_last));
            return Ok(());
        }
        if level == 0 {
            return self.merge_rows(sides);
        }
        let below = sides.map(|side| align::children(self.reader, side));
        let [base, ours, theirs] = below;
        let (base, ours, theirs) = (base?, ours?, theirs?);
        align::stretches([&base, &ours, &theirs], after, is_last)
            .try_for_each(|stretch| self.stretch(level - 1, stretch))
    }

    fn count(&mut self, rows: u64) {
        self.found.meter.iter_mut().for_each(|meter| meter.add(rows));
    }

    /// Says that so many bytes more are held of what is to be done up to `key`. Behind `None` nothing comes.
    fn hold(&mut self, bytes: usize, key: Option<&[u8]>) {
        self.bytes += bytes as u64;
        if !self.lease.reach(self.bytes) {
            self.found.full = key.map(<[u8]>::to_vec);
        }
    }

    /// Merges the rows of these leaves.
    fn merge_rows(&mut self, sides: Sides<'_>) -> Result<()> {
        let reader = self.reader;
        // What an earlier part has done is not read again.
        let is_done = |leaf: &Closed| self.after.as_deref().is_some_and(|after| leaf.key.as_slice() <= after);
        let leaves = sides.map(|side| Leaves::open(reader, &side[side.partition_point(is_done)..]));
        let [base, ours, theirs] = leaves;
        let (mut base, mut ours, mut theirs) = (base?, ours?, theirs?);
        loop {
            let same = base.same_rows(&ours).min(base.same_rows(&theirs));
            if same > 0 {
                self.count(2 * same as u64);
                for side in [&mut base, &mut ours, &mut theirs] {
                    side.advance(same)?;
                }
                continue;
            }
            let keys = [base.key(), ours.key(), theirs.key()];
            let Some(key) = keys.into_iter().flatten().min().map(<[u8]>::to_vec) else { return Ok(()) };
            let [old, our, their] = [base.at(&key), ours.at(&key), theirs.at(&key)];
            let is_done = self.after.as_ref().is_some_and(|after| key <= *after);
            let mut edit = None;
            if their != old && their != our && !is_done {
                if our == old {
                    edit = Some(their.map(Value::from));
                } else {
                    let [base, ours, theirs] = [old, our, their].map(|value| value.map(Value::from));
                    let conflict = RowConflict { key: key.clone(), base, ours, theirs };
                    match (self.decide)(self.writer, &conflict)? {
                        Decision::Row(new) if new != conflict.ours => edit = Some(new),
                        Decision::Conflict | Decision::Row(_) => {}
                    }
                }
            }
            let stands = [old.is_some(), our.is_some(), their.is_some()];
            self.count(u64::from(stands[1]) + u64::from(stands[2]));
            for (side, stands) in [&mut base, &mut ours, &mut theirs].into_iter().zip(stands) {
                side.advance(usize::from(stands))?;
            }
            if let Some(new) = edit {
                let bytes = key.len() + new.as_ref().map_or(0, |new| new.bytes.len()) + ROW_BYTES;
                self.hold(bytes, Some(&key));
                self.found.rows.push(Edit { key, new });
                if self.found.full.is_some() {
                    return Ok(());
                }
            }
        }
    }
}

/// The rows of leaves that stand side by side.
struct Leaves<'a, R> {
    reader: &'a R,
    /// Those that come after this one.
    rest: std::slice::Iter<'a, Closed>,
    node: Option<Node>,
    row: usize,
    key: Vec<u8>,
}

impl<'a, R: Read> Leaves<'a, R> {
    fn open(reader: &'a R, leaves: &'a [Closed]) -> Result<Leaves<'a, R>> {
        let mut leaves = Leaves { reader, rest: leaves.iter(), node: None, row: 0, key: Vec::new() };
        leaves.advance(0)?;
        Ok(leaves)
    }

    /// The key of this row; `None` at the end.
    fn key(&self) -> Option<&[u8]> {
        self.node.as_ref().map(|_| self.key.as_slice())
    }

    /// The value at `key`, which is that of this row or less.
    fn at(&self, key: &[u8]) -> Option<Stored<'_>> {
        self.node.as_ref().filter(|_| self.key == key).map(|node| node.value(self.row))
    }

    /// How many rows are the same from here on and from there on.
    fn same_rows(&self, other: &Leaves<'_, R>) -> usize {
        match (&self.node, &other.node) {
            (Some(node), Some(there)) => node.same_rows(self.row, there, other.row),
            _ => 0,
        }
    }

    /// Passes over `rows` rows of this leaf.
    fn advance(&mut self, rows: usize) -> Result<()> {
        self.row += rows;
        while self.node.as_ref().is_none_or(|node| self.row >= node.len()) {
            self.row = 0;
            let next = self.rest.next().map(|leaf| Node::load(self.reader, &leaf.child.hash));
            self.node = next.transpose()?;
            if self.node.is_none() {
                return Ok(());
            }
        }
        if let Some(node) = &self.node {
            node.key_into(self.row, &mut self.key);
        }
        Ok(())
    }
}
