//! Three-way merge of schemas, column by column, and of rows, cell by cell.
//!
//! The one idea: a column is its id on all sides, so nothing is matched by name or place, and no row is rewritten because a
//! schema was merged. What one side alone did to a column holds; what both did differently is refused by name.
//!
//! | one side | the other | merged |
//! |---|---|---|
//! | added | nothing | added, after the columns of ours |
//! | added | added the same: name, type and creation default | one column |
//! | renamed | nothing, or the same | renamed |
//! | renamed | renamed otherwise | refused, unless a side is preferred |
//! | dropped | nothing, or dropped | dropped |
//! | dropped | renamed, or changed cells of rows that the base has (`engine/src/merge.rs`) | refused, unless who dropped it is preferred |
//! | added and dropped | added the same | refused |
//! | brought back (by taking back that it was dropped) | nothing | brought back |
//!
//! A row that both sides changed is merged if they changed different cells, or the same cells alike.

use super::error::Error;
use super::schema::{Column, Dropped, Schema};
use super::types::Type;
use super::value::{Value, decimal_fits};
use crate::conflict::Side;

/// Why two changes of a schema cannot be merged: the column, and what was done to it and can be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ColumnConflict {
    pub(crate) column: String,
    pub(crate) why: &'static str,
}

/// A merged schema.
pub(crate) struct MergedSchema {
    pub(crate) schema: Schema,
    /// Columns that one side alone dropped: who did, and the column.
    pub(crate) dropped: Vec<(Side, Column)>,
}

pub(crate) const DROPPED_AND_CHANGED: &str = "was dropped on one side and its cells were changed on the other; drop it on both sides, or prefer the side that dropped it";
const DROPPED_AND_RENAMED: &str = "was dropped on one side and renamed on the other; drop it on both sides, or prefer the side that dropped it";
const DROPPED_AND_ADDED: &str = "was added on both sides and dropped again on one; drop it on the other side too, or add it under another name";
const RENAMED_TWICE: &str =
    "was renamed on both sides, to different names; give it one name on both sides, or prefer one side";
const SAME_NAME: &str = "is the name of two different columns, one of each side; rename one of them";
const SAME_ID: &str = "has the id of another column of the other side; drop it and add it under another name";
const MADE_ANEW: &str = "is not in a table of that name on the other side, which was made anew there; drop or rename one of the two tables";

/// What a schema knows of a column.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State<'a> {
    Absent,
    Live(&'a Column),
    Dropped,
}

impl Schema {
    fn state(&self, id: u32) -> State<'_> {
        match self.column_by_id(id) {
            Some(column) => State::Live(column),
            None if self.dropped().any(|dropped| dropped == id) => State::Dropped,
            None => State::Absent,
        }
    }
}

/// Merges what `ours` and `theirs` made of `base`.
pub(crate) fn schemas(
    base: &Schema,
    ours: &Schema,
    theirs: &Schema,
    prefer: Option<Side>,
) -> Result<MergedSchema, ColumnConflict> {
    for side in [ours, theirs] {
        if base.key_parts() != side.key_parts() {
            let column = base.key_columns().next().map(|column| column.name.clone()).unwrap_or_default();
            return Err(ColumnConflict { column, why: MADE_ANEW });
        }
    }
    let mut merge = SchemaMerge { base, ours, theirs, prefer, columns: Vec::new(), dropped: Vec::new() };
    ours.columns.iter().try_for_each(|column| merge.column(column))?;
    let only_theirs = theirs.columns.iter().filter(|column| ours.column_by_id(column.id).is_none());
    only_theirs.into_iter().try_for_each(|column| merge.column(column))?;
    merge.finish()
}

struct SchemaMerge<'a> {
    base: &'a Schema,
    ours: &'a Schema,
    theirs: &'a Schema,
    prefer: Option<Side>,
    columns: Vec<Column>,
    dropped: Vec<(Side, Column)>,
}

impl SchemaMerge<'_> {
    /// Merges a column that at least one side has.
    fn column(&mut self, column: &Column) -> Result<(), ColumnConflict> {
        let id = column.id;
        let refuse = |why| Err(ColumnConflict { column: column.name.clone(), why });
        let natures = [self.base, self.ours, self.theirs].map(|schema| schema.nature(id));
        let mut natures = natures.into_iter().flatten();
        let first = natures.next();
        if natures.any(|other| Some(&other) != first.as_ref()) {
            return refuse(SAME_ID);
        }
        match (self.base.state(id), self.ours.state(id), self.theirs.state(id)) {
            (State::Live(base), State::Live(ours), State::Live(theirs)) => {
                let name = match (&base.name, &ours.name, &theirs.name, self.prefer) {
                    (_, ours, theirs, _) if ours == theirs => ours,
                    (base, ours, theirs, _) if ours == base => theirs,
                    (base, ours, theirs, _) if theirs == base => ours,
                    (_, ours, _, Some(Side::Ours)) => ours,
                    (_, _, theirs, Some(Side::Theirs)) => theirs,
                    (.., None) => return refuse(RENAMED_TWICE),
                };
                self.columns.push(Column { name: name.clone(), ..column.clone() });
            }
            (_, State::Live(ours), State::Live(theirs)) => {
                let name = match self.prefer {
                    _ if ours.name == theirs.name => &ours.name,
                    Some(Side::Ours) => &ours.name,
                    Some(Side::Theirs) => &theirs.name,
                    None => return refuse(RENAMED_TWICE),
                };
                self.columns.push(Column { name: name.clone(), ..column.clone() });
            }
            (State::Live(base), State::Live(left), State::Dropped) => {
                self.dropped_by(Side::Theirs, base, left)?
            }
            (State::Live(base), State::Dropped, State::Live(left)) => {
                self.dropped_by(Side::Ours, base, left)?
            }
            (State::Absent, State::Dropped, _) | (State::Absent, _, State::Dropped) => {
                return refuse(DROPPED_AND_ADDED);
            }
            (State::Absent, ..) => self.columns.push(column.clone()),
            (State::Dropped, State::Live(_), State::Dropped)
            | (State::Dropped, State::Dropped, State::Live(_)) => self.columns.push(column.clone()),
            _ => return refuse(MADE_ANEW),
        }
        Ok(())
    }

    fn dropped_by(&mut self, side: Side, base: &Column, left: &Column) -> Result<(), ColumnConflict> {
        if left.name != base.name && self.prefer != Some(side) {
            return Err(ColumnConflict { column: left.name.clone(), why: DROPPED_AND_RENAMED });
        }
        self.dropped.push((side, left.clone()));
        Ok(())
    }

    fn finish(self) -> Result<MergedSchema, ColumnConflict> {
        let SchemaMerge { ours, theirs, columns, dropped, .. } = self;
        let mut gone: Vec<Dropped> = ours.dropped_columns();
        gone.extend(theirs.dropped_columns());
        gone.sort_by_key(|dropped| dropped.id);
        gone.dedup_by_key(|dropped| dropped.id);
        // One side brought back what both had dropped.
        gone.retain(|gone| columns.iter().all(|column| column.id != gone.id));
        let defaults = columns.iter().map(|column| {
            let nature = ours.nature(column.id).or_else(|| theirs.nature(column.id));
            nature.map_or(Value::Null, |(_, default)| default)
        });
        let defaults = defaults.collect();
        match Schema::assemble(columns, defaults, ours.key_parts(), gone) {
            Ok(schema) => Ok(MergedSchema { schema, dropped }),
            Err(Error::DuplicateName { name }) => Err(ColumnConflict { column: name, why: SAME_NAME }),
            Err(_) => Err(ColumnConflict {
                column: theirs.columns.last().map(|column| column.name.clone()).unwrap_or_default(),
                why: "makes more columns than a table holds; drop some",
            }),
        }
    }
}

/// A row merged cell by cell.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MergedRow {
    /// Its cells; those in conflict are as in ours.
    pub(crate) values: Vec<Value>,
    /// Positions of cells that both sides changed, each in its own way.
    pub(crate) conflicts: Vec<usize>,
}

/// Merges rows whose values are in the order of `columns`; those at the positions in `deltas` by adding both changes.
pub(crate) fn rows(
    columns: &[Column],
    deltas: &[usize],
    base: &[Value],
    ours: Vec<Value>,
    theirs: &[Value],
) -> MergedRow {
    let mut merged = MergedRow { values: ours, conflicts: Vec::new() };
    let cells = merged.values.iter_mut().zip(base.iter().zip(theirs)).zip(columns).enumerate();
    for (position, ((ours, (base, theirs)), column)) in cells {
        if ours == theirs || theirs == base {
            continue;
        }
        if ours == base {
            *ours = theirs.clone();
            continue;
        }
        let sum = deltas.contains(&position).then(|| add_changes(&column.ty, base, ours, theirs)).flatten();
        match sum {
            Some(sum) => *ours = sum,
            None => merged.conflicts.push(position),
        }
    }
    merged
}

/// Whether changes of such cells can be added. Those of floats cannot: the sum would depend on the order.
pub(crate) fn is_addable(ty: &Type) -> bool {
    matches!(ty, Type::Int | Type::Decimal { .. })
}

/// `base` with the change of both sides; `None` if a side is NULL or the result does not fit.
fn add_changes(ty: &Type, base: &Value, ours: &Value, theirs: &Value) -> Option<Value> {
    let sum = |base: i128, ours: i128, theirs: i128| ours.checked_add(theirs.checked_sub(base)?);
    match (ty, base, ours, theirs) {
        (Type::Int, Value::Int(base), Value::Int(ours), Value::Int(theirs)) => {
            let sum = sum(i128::from(*base), i128::from(*ours), i128::from(*theirs))?;
            i64::try_from(sum).ok().map(Value::Int)
        }
        (
            Type::Decimal { precision, .. },
            Value::Decimal(base),
            Value::Decimal(ours),
            Value::Decimal(theirs),
        ) => sum(*base, *ours, *theirs).filter(|sum| decimal_fits(*sum, *precision)).map(Value::Decimal),
        _ => None,
    }
}
