//! Three-way merge of maps: what theirs changed since the base, applied to ours.
//!
//! The two differences from the base are walked together in key order. A row that one side alone changed is taken; a row
//! that both changed alike is no conflict; a row that both changed differently is kept as data for somebody to decide.

use std::cmp::Ordering;

use pleach_chunkstore::Hash;

use super::{
    config::MapConfig,
    diff::{Diff, RowChange},
    edit::{self, Edit},
    node::Value,
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

/// Merges `theirs` into `ours`; `decide` is asked about every row in conflict, in key order. Returns the merged root and the conflicts
/// that were left, in key order.
pub(crate) fn merge(
    reader: &(impl Read + Clone),
    writer: &mut Writer,
    config: &MapConfig,
    base: Option<&Hash>,
    ours: &Hash,
    theirs: &Hash,
    decide: &mut dyn FnMut(&mut Writer, &RowConflict) -> Result<Decision>,
) -> Result<(Hash, Vec<RowConflict>)> {
    let mut our_changes = Diff::new(reader.clone(), base, Some(ours))?;
    let mut their_changes = Diff::new(reader.clone(), base, Some(theirs))?;
    let (mut edits, mut conflicts) = (Vec::new(), Vec::new());
    let mut our_change = our_changes.next_change()?;
    let mut their_change = their_changes.next_change()?;
    while let Some(change) = their_change.take() {
        match our_change.as_ref().map(|ours| ours.key.cmp(&change.key)) {
            Some(Ordering::Less) => {
                our_change = our_changes.next_change()?;
                their_change = Some(change);
                continue;
            }
            Some(Ordering::Equal) => {
                if let Some(RowChange { key, old, new }) = our_change.take()
                    && new != change.new
                {
                    let conflict = RowConflict { key, base: old, ours: new, theirs: change.new };
                    match decide(writer, &conflict)? {
                        Decision::Conflict => conflicts.push(conflict),
                        Decision::Row(new) if new == conflict.ours => {}
                        Decision::Row(new) => edits.push(Edit { key: conflict.key, new }),
                    }
                }
                our_change = our_changes.next_change()?;
            }
            _ => edits.push(Edit { key: change.key, new: change.new }),
        }
        their_change = their_changes.next_change()?;
    }
    Ok((edit::apply(writer, config, *ours, &edits)?, conflicts))
}
