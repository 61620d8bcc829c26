//! Three-way merge of maps: what theirs changed since the base, applied to ours.
//!
//! The three trees are opened together, from the top, and cut where all three have a boundary between the same keys. A stretch that theirs
//! left as it was in the base is left alone; one that ours left alone is taken from theirs as whole nodes, unread, for between the same
//! boundaries the same rows make the same nodes. Only a stretch that both changed is opened further, and at the leaves merged row by row:
//! a row that one side alone changed is taken; one that both changed alike is no conflict; about one that both changed differently
//! the caller decides.
//!
//! What is found is applied to ours by [`edit`], level by level.

use pleach_chunkstore::Hash;

use super::{
    align::{self, Sides, Stretch},
    build::Closed,
    config::MapConfig,
    edit::{self, Edit},
    graft::Graft,
    node::{Node, Stored, Value},
};
use crate::{
    chunks::{Read, Writer},
    error::Result,
};

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
    /// It stays as it is in ours, and is told as a conflict.
    Conflict,
    /// It becomes this; `None`: it goes.
    Row(Option<Value>),
}

/// Decides about a row in conflict.
pub(crate) type Decide<'a> = &'a mut dyn FnMut(&mut Writer, &RowConflict) -> Result<Decision>;

/// Merges `theirs` into `ours`; `decide` is asked about every row in conflict, in key order. Returns the merged root and the conflicts
/// that were left, in key order.
pub(crate) fn merge(
    reader: &impl Read,
    writer: &mut Writer,
    config: &MapConfig,
    base: Option<&Hash>,
    ours: &Hash,
    theirs: &Hash,
    decide: Decide<'_>,
) -> Result<(Hash, Vec<RowConflict>)> {
    if ours == theirs || base == Some(theirs) {
        return Ok((*ours, Vec::new()));
    }
    if base == Some(ours) {
        return Ok((*theirs, Vec::new()));
    }
    let roots = [base, Some(ours), Some(theirs)];
    let roots = roots.map(|root| root.map(|root| Node::load(reader, root)).transpose());
    let [base, ours_root, theirs] = roots;
    let tops = [base?, ours_root?, theirs?];
    let level = tops.iter().flatten().map(Node::level).min().unwrap_or(0);
    let [base, ours_nodes, theirs] =
        tops.map(|top| top.map_or(Ok(Vec::new()), |top| align::nodes(reader, &top, level)));
    let mut plan =
        Plan { reader, writer, decide, rows: Vec::new(), grafts: Vec::new(), conflicts: Vec::new() };
    let (base, ours_nodes, theirs) = (base?, ours_nodes?, theirs?);
    plan.stretch(level, Stretch { sides: [&base, &ours_nodes, &theirs], after: None, is_last: true })?;
    let Plan { rows, grafts, conflicts, .. } = plan;
    Ok((edit::apply_with_grafts(writer, config, *ours, rows, grafts)?, conflicts))
}

/// What is to be done to ours.
struct Plan<'a, R> {
    reader: &'a R,
    writer: &'a mut Writer,
    decide: Decide<'a>,
    rows: Vec<Edit<Value>>,
    /// By level, the leaves' first.
    grafts: Vec<Vec<Graft>>,
    conflicts: Vec<RowConflict>,
}

impl<R: Read> Plan<'_, R> {
    /// Plans for a stretch of nodes of this level.
    fn stretch(&mut self, level: u8, stretch: Stretch<'_>) -> Result<()> {
        let Stretch { sides, after, is_last } = stretch;
        let [base, ours, theirs] = sides;
        if align::same(ours, theirs) || align::same(base, theirs) {
            return Ok(());
        }
        if align::same(base, ours) && !ours.is_empty() {
            let at = usize::from(level);
            self.grafts.resize_with(self.grafts.len().max(at + 1), Vec::new);
            let after = after.map(<[u8]>::to_vec);
            self.grafts[at].push(Graft { after, old: ours.to_vec(), new: theirs.to_vec(), is_last });
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

    /// Merges the rows of these leaves.
    fn merge_rows(&mut self, sides: Sides<'_>) -> Result<()> {
        let reader = self.reader;
        let leaves = sides.map(|side| Leaves::open(reader, side));
        let [base, ours, theirs] = leaves;
        let (mut base, mut ours, mut theirs) = (base?, ours?, theirs?);
        loop {
            let same = base.same_rows(&ours).min(base.same_rows(&theirs));
            if same > 0 {
                for side in [&mut base, &mut ours, &mut theirs] {
                    side.advance(same)?;
                }
                continue;
            }
            let keys = [base.key(), ours.key(), theirs.key()];
            let Some(key) = keys.into_iter().flatten().min().map(<[u8]>::to_vec) else { return Ok(()) };
            let [old, our, their] = [base.at(&key), ours.at(&key), theirs.at(&key)];
            if their != old && their != our {
                if our == old {
                    self.rows.push(Edit { key: key.clone(), new: their.map(Value::from) });
                } else {
                    let [base, ours, theirs] = [old, our, their].map(|value| value.map(Value::from));
                    let conflict = RowConflict { key: key.clone(), base, ours, theirs };
                    match (self.decide)(self.writer, &conflict)? {
                        Decision::Conflict => self.conflicts.push(conflict),
                        Decision::Row(new) if new == conflict.ours => {}
                        Decision::Row(new) => self.rows.push(Edit { key: conflict.key, new }),
                    }
                }
            }
            let stands = [old.is_some(), our.is_some(), their.is_some()];
            for (side, stands) in [&mut base, &mut ours, &mut theirs].into_iter().zip(stands) {
                side.advance(usize::from(stands))?;
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
