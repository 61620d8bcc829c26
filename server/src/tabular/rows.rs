//! A file's rows as values of a schema's columns.
//!
//! The one idea: the header (or each object's names) says which field is which column, so files may have their columns
//! in any order; a column that is unknown, or missing from a header, is refused before the first row.

use std::collections::HashMap;

use pleach_engine::row::{self, Schema, Value};

use super::csv::{Record, Records};
use super::error::{Position, TabularError, list};
use super::jsonl::Objects;
use super::lines::Lines;
use super::source::{Format, Source};

/// Opens `source` for its rows under `schema`, whose columns it must have, in any order.
pub fn rows(source: &Source, schema: &Schema) -> Result<Rows, TabularError> {
    let input = match source.format() {
        Format::Csv => Input::records(source, ',', schema)?,
        Format::Tsv => Input::records(source, '\t', schema)?,
        Format::Jsonl => Input::Objects(Objects::new(source.lines()?)),
    };
    let names = schema.columns().iter().enumerate();
    let places = names.map(|(place, column)| (column.name.clone(), place)).collect();
    let keys = schema.key().iter().filter_map(|&id| schema.position(id)).collect();
    Ok(Rows { schema: schema.clone(), places, keys, input, ended: false })
}

/// The key's values from `text`, a CSV record of the key columns; errors call it `KEY`.
pub fn parse_key(schema: &Schema, text: &str) -> Result<Vec<Value>, TabularError> {
    let bytes = std::io::Cursor::new(text.as_bytes().to_vec());
    let mut records = Records::new(Lines::new("KEY".into(), Box::new(bytes)), ',');
    let mut record = Record::default();
    let width = schema.key().len();
    let names = list(schema.key_columns().map(|column| column.name.as_str()));
    if !records.read_any(&mut record)? || record.len() != width {
        let found = format!("{} in {text:?}", record.len());
        return Err(records.lines().refuse(
            record.end(),
            format!("{width} CSV fields for the key {names}"),
            found,
        ));
    }
    let mut values = Vec::with_capacity(width);
    for (column, (cell, at)) in schema.key_columns().zip(record.cells()) {
        let value = cell.value(&column.ty).map_err(|error| records.lines().refuse_value(at, error))?;
        if value.is_null() {
            return Err(null_key(records.lines(), at, &column.name));
        }
        values.push(value);
    }
    match records.read_any(&mut record)? {
        true => Err(records.lines().refuse(record.start(), "one CSV record", "another line")),
        false => Ok(values),
    }
}

/// A row, and where it was written.
#[derive(Debug)]
pub struct Row {
    /// The line on which it starts.
    pub line: u64,
    /// One value a column, in the schema's order.
    pub values: Vec<Value>,
    /// Where each value is written.
    positions: Vec<Position>,
}

impl Row {
    /// The error for a row that the schema's encoding refused, at the column it names.
    pub fn refuse(&self, source: &Source, schema: &Schema, error: row::Error) -> TabularError {
        let column = match &error {
            row::Error::KeyTooLong { column, .. } | row::Error::WrongValue { column, .. } => {
                schema.column(column)
            }
            _ => None,
        };
        let at = self.position(schema, column.map(|column| column.id));
        TabularError::Refused { file: source.name().to_owned(), at, error }
    }

    /// The error for a row whose key is taken, by another row of the file (`line`) or by the table.
    pub fn duplicate_key(&self, source: &Source, schema: &Schema, line: Option<u64>) -> TabularError {
        let keys = schema.key_columns().filter_map(|column| schema.position(column.id));
        let values: Vec<_> = keys.filter_map(|position| self.values.get(position).cloned()).collect();
        let key = super::write::key_to_csv(schema, &values);
        let found = match line {
            Some(line) => format!("the key {key} again, first on line {line}"),
            None => format!("the key {key}, which the table has: use --upsert to update rows"),
        };
        let at = self.position(schema, schema.key().first().copied());
        TabularError::BadInput {
            file: source.name().to_owned(),
            at,
            expected: "a key that is new".into(),
            found,
        }
    }

    fn position(&self, schema: &Schema, id: Option<u32>) -> Position {
        let start = Position { line: self.line, column: 1 };
        id.and_then(|id| schema.position(id))
            .and_then(|place| self.positions.get(place))
            .copied()
            .unwrap_or(start)
    }
}

/// The rows of a source; ends at the first error.
pub struct Rows {
    schema: Schema,
    /// Where each column stands in the schema, by name.
    places: HashMap<String, usize>,
    /// Where the key columns stand there.
    keys: Vec<usize>,
    input: Input,
    ended: bool,
}

enum Input {
    Records {
        records: Records,
        record: Record,
        /// For each field, its column's position in the schema.
        columns: Vec<usize>,
    },
    Objects(Objects),
}

impl Input {
    fn records(source: &Source, delimiter: char, schema: &Schema) -> Result<Input, TabularError> {
        let mut records = Records::new(source.lines()?, delimiter);
        let header = records.header()?;
        let mut columns = Vec::with_capacity(header.len());
        for (name, at, _) in header.fields() {
            let position = schema.columns().iter().position(|column| column.name == name);
            columns.push(position.ok_or_else(|| unknown_column(records.lines(), at, schema, name))?);
        }
        if let Some(missing) = (0..schema.columns().len()).find(|position| !columns.contains(position)) {
            let expected = format!("a column `{}`, which the table has", schema.columns()[missing].name);
            let found = format!("only {}", list(header.fields().map(|(name, ..)| name)));
            return Err(records.lines().refuse(header.end(), expected, found));
        }
        Ok(Input::Records { records, record: Record::default(), columns })
    }
}

impl Rows {
    fn read(&mut self) -> Result<Option<Row>, TabularError> {
        let width = self.schema.columns().len();
        let mut values = vec![Value::Null; width];
        let (line, positions, lines) = match &mut self.input {
            Input::Records { records, record, columns } => {
                if !records.read_row(record, width)? {
                    return Ok(None);
                }
                let mut positions = vec![record.start(); width];
                for (&place, (cell, at)) in columns.iter().zip(record.cells()) {
                    let ty = &self.schema.columns()[place].ty;
                    values[place] =
                        cell.value(ty).map_err(|error| records.lines().refuse_value(at, error))?;
                    positions[place] = at;
                }
                (record.start().line, positions, records.lines())
            }
            Input::Objects(objects) => {
                let Some((members, lines)) = objects.read()? else { return Ok(None) };
                let start = Position { line: lines.number(), column: 1 };
                let (mut positions, mut seen) = (vec![start; width], vec![false; width]);
                for member in members {
                    let Some(&place) = self.places.get(member.name.as_ref()) else {
                        return Err(unknown_column(lines, member.name_at, &self.schema, &member.name));
                    };
                    if std::mem::replace(&mut seen[place], true) {
                        let found = format!("`{}` again", member.name);
                        return Err(lines.refuse(member.name_at, "a member's name once", found));
                    }
                    let ty = &self.schema.columns()[place].ty;
                    values[place] =
                        member.cell.value(ty).map_err(|error| lines.refuse_value(member.at, error))?;
                    positions[place] = member.at;
                }
                (start.line, positions, objects.lines())
            }
        };
        if let Some(&place) = self.keys.iter().find(|&&place| values[place].is_null()) {
            return Err(null_key(lines, positions[place], &self.schema.columns()[place].name));
        }
        Ok(Some(Row { line, values, positions }))
    }
}

impl Iterator for Rows {
    type Item = Result<Row, TabularError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let row = self.read().transpose();
        self.ended = !matches!(row, Some(Ok(_)));
        row
    }
}

fn null_key(lines: &Lines, at: Position, column: &str) -> TabularError {
    lines.refuse(at, format!("a value for the key column `{column}`"), "NULL")
}

fn unknown_column(lines: &Lines, at: Position, schema: &Schema, name: &str) -> TabularError {
    let columns = list(schema.columns().iter().map(|column| column.name.as_str()));
    lines.refuse(at, format!("one of the table's columns {columns}"), format!("`{name}`"))
}
