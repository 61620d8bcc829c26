//! What becomes of a row that both sides of a merge changed.
//!
//! In a typed table the row is merged cell by cell ([`row::merge`](crate::row)); if different cells were changed, or the same
//! ones alike, that is all. What is left is decided by the first of these that decides: the columns whose changes are added
//! up, a function of the caller's, the preferred side. Else the row is a conflict and stays as it is in ours.
//!
//! Called by merges, and by decisions about conflicts that were kept. Transactions do not merge: they conflict by row.

use std::{fmt, sync::Arc};

use crate::{
    blob,
    chunks::{Read, Writer},
    conflict::{Conflict, Side},
    definition::Definition,
    error::{Error, Result},
    map::{
        merge::{Decision, RowConflict},
        node::{Stored, Value},
    },
    merge::MergeOptions,
    row::{
        self, Schema,
        merge::{self as cells, MergedRow},
    },
};

/// What a [`Resolver`] decides about a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// As on the branch.
    Ours,
    /// As in what is merged.
    Theirs,
    /// This value; `None` deletes the row. In a typed table it is a row of the schema that was given.
    Row(Option<Vec<u8>>),
    /// Nothing: the preferred side decides, if there is one, or the row is a conflict.
    Undecided,
}

type Function = dyn Fn(&Conflict, Option<&Schema>) -> Result<Resolution> + Send + Sync;

/// A function that decides about rows in conflict. It gets the row's three versions, and the merged schema, by which all
/// three can be decoded; `None` in a raw table.
#[derive(Clone)]
pub struct Resolver(Arc<Function>);

impl Resolver {
    /// A resolver that calls `f`, while no other change of the database is made. An error of it ends the merge.
    pub fn new(
        f: impl Fn(&Conflict, Option<&Schema>) -> Result<Resolution> + Send + Sync + 'static,
    ) -> Resolver {
        Resolver(Arc::new(f))
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

/// Decides about the rows of one table.
pub(crate) struct Decider<'a> {
    table: &'a str,
    /// The merged definition.
    definition: &'a Definition,
    /// Positions of the columns whose changes are added up.
    deltas: Vec<usize>,
    resolver: Option<&'a Resolver>,
    prefer: Option<Side>,
}

/// What the cells of a row in conflict say.
enum Cells {
    /// It was changed on both sides: what comes of it, and the cells of theirs.
    Merged(MergedRow, Vec<row::Value>),
    /// One side deleted it, the other changed no cell of it.
    Deleted,
    /// Nothing: the table is raw, only one side has the row and changed it, or the bytes of a side are no row.
    Unknown,
}

impl<'a> Decider<'a> {
    pub(crate) fn new(
        table: &'a str,
        definition: &'a Definition,
        options: &'a MergeOptions,
    ) -> Result<Decider<'a>> {
        let mut deltas = Vec::new();
        for (_, name) in options.deltas.iter().filter(|(of, _)| of == table) {
            let Some(schema) = &definition.schema else {
                return Err(Error::NotTyped { table: table.to_owned() });
            };
            let column = schema.columns().iter().position(|column| column.name == *name);
            let position = column.ok_or_else(|| row::Error::NoSuchColumn { column: name.clone() })?;
            let column = &schema.columns()[position];
            if !cells::is_addable(&column.ty) {
                return Err(row::Error::NotAddable { column: name.clone(), ty: column.ty }.into());
            }
            deltas.push(position);
        }
        let (resolver, prefer) = (options.resolver.as_ref(), options.prefer);
        Ok(Decider { table, definition, deltas, resolver, prefer })
    }

    /// Decides for one side, without a function.
    pub(crate) fn of_side(table: &'a str, definition: &'a Definition, side: Side) -> Decider<'a> {
        Decider { table, definition, deltas: Vec::new(), resolver: None, prefer: Some(side) }
    }

    pub(crate) fn decide(&self, writer: &mut Writer, conflict: &RowConflict) -> Result<Decision> {
        let mut cells = self.cells(writer, conflict)?;
        match &cells {
            Cells::Deleted => return Ok(Decision::Row(None)),
            Cells::Merged(merged, _) if merged.conflicts.is_empty() => {
                return self.row(writer, &merged.values);
            }
            Cells::Merged(..) | Cells::Unknown => {}
        }
        if let Some(resolver) = self.resolver {
            match self.ask(writer, resolver, conflict)? {
                Resolution::Undecided => {}
                Resolution::Ours => return Ok(Decision::Row(conflict.ours.clone())),
                Resolution::Theirs => return Ok(Decision::Row(conflict.theirs.clone())),
                Resolution::Row(None) => return Ok(Decision::Row(None)),
                Resolution::Row(Some(value)) => return self.given(writer, &conflict.key, value),
            }
        }
        match (self.prefer, &mut cells) {
            (None, _) => Ok(Decision::Conflict),
            (Some(Side::Ours), Cells::Merged(merged, _)) => self.row(writer, &merged.values),
            (Some(Side::Theirs), Cells::Merged(merged, theirs)) => {
                for &position in &merged.conflicts {
                    merged.values[position] = theirs[position].clone();
                }
                self.row(writer, &merged.values)
            }
            (Some(Side::Ours), _) => Ok(Decision::Row(conflict.ours.clone())),
            (Some(Side::Theirs), _) => Ok(Decision::Row(conflict.theirs.clone())),
        }
    }

    fn cells(&self, reader: &impl Read, conflict: &RowConflict) -> Result<Cells> {
        let Some(schema) = &self.definition.schema else { return Ok(Cells::Unknown) };
        let mut sides = [const { None }; 3];
        for (side, value) in sides.iter_mut().zip([&conflict.base, &conflict.ours, &conflict.theirs]) {
            if let Some(value) = value {
                match schema.decode_row(&conflict.key, &load(reader, value)?) {
                    Ok(values) => *side = Some(values),
                    Err(_) => return Ok(Cells::Unknown),
                }
            }
        }
        // Bytes may differ where cells do not: in one of a column that was dropped.
        Ok(match sides {
            [Some(base), Some(ours), Some(theirs)] => {
                Cells::Merged(cells::rows(schema.columns(), &self.deltas, &base, ours, &theirs), theirs)
            }
            [None, Some(ours), Some(theirs)] if ours == theirs => {
                Cells::Merged(MergedRow { values: ours, conflicts: Vec::new() }, theirs)
            }
            [Some(base), Some(left), None] | [Some(base), None, Some(left)] if base == left => Cells::Deleted,
            _ => Cells::Unknown,
        })
    }

    fn row(&self, writer: &mut Writer, values: &[row::Value]) -> Result<Decision> {
        let Some(schema) = &self.definition.schema else { return Ok(Decision::Conflict) };
        let (_, value) = schema.encode_row(values)?;
        Ok(Decision::Row(Some(blob::store(writer, self.definition.config.inline_bytes, &value)?)))
    }

    fn ask(&self, reader: &impl Read, resolver: &Resolver, conflict: &RowConflict) -> Result<Resolution> {
        let side = |side: &Option<Value>| side.as_ref().map(|value| load(reader, value)).transpose();
        let conflict = Conflict {
            table: self.table.to_owned(),
            key: conflict.key.clone(),
            base: side(&conflict.base)?,
            ours: side(&conflict.ours)?,
            theirs: side(&conflict.theirs)?,
        };
        (resolver.0)(&conflict, self.definition.schema.as_ref())
    }

    /// A row that a resolver made, in its one encoding.
    fn given(&self, writer: &mut Writer, key: &[u8], value: Vec<u8>) -> Result<Decision> {
        if let Some(schema) = &self.definition.schema {
            return self.row(writer, &schema.decode_row(key, &value)?);
        }
        Ok(Decision::Row(Some(blob::store(writer, self.definition.config.inline_bytes, &value)?)))
    }
}

/// The whole value that is stored.
pub(crate) fn load(reader: &impl Read, value: &Value) -> Result<Vec<u8>> {
    blob::load(reader, Stored { tag: value.tag, bytes: &value.bytes })
}
