//! A new table's schema from a file's values.
//!
//! The one idea: a type is taken only if every value of its column would be written back exactly as it is in the file,
//! so inferring can lose nothing: `007`, `0041`, `1,5`, `2024-1-2` and `TRUE` leave their column text.
//!
//! Types are tried in this order, and the first that all values fit is taken:
//! 1. bool, 2. int.
//! 3. float, if some value has a point: of numbers with a point most are measurements, whose later values have more
//!    digits than the first file's. Without a point, digits with an `e` in them are more often hex codes than numbers.
//! 4. decimal(38,S), when all values have S digits after the point and float would drop a zero (`1.50`) or a digit.
//!    The precision is the widest: how large the first file's values happen to be says nothing about the next.
//! 5. date, 6. timestamp, 7. uuid: no value fits two of these.
//! 8. text, also for a column without values.
//!
//! JSON says more, and is believed: a string is never a number or a bool (a postcode of digits was quoted on purpose),
//! a number is an int, or a float if its value survives however it is written, and a column of strings with
//! `{"hex":…}` among them is bytes. `--types` overrules all of this.

use std::collections::HashMap;

use pleach_engine::row::{Column, DECIMAL_PRECISION_MAX, Schema, Type};

use super::cell::Cell;
use super::csv::{Record, Records};
use super::error::{Position, TabularError, list};
use super::jsonl::Objects;
use super::source::{Format, Source};

/// Reads all of `source` and gives the schema of a new table for it: columns in the file's order (JSON: in the order
/// in which members first appear), `key` naming the key columns and `types` the columns whose type is not inferred.
pub fn infer(source: &Source, key: &[String], types: &[(String, Type)]) -> Result<Schema, TabularError> {
    let found = match source.format() {
        Format::Csv => read_records(source, ',')?,
        Format::Tsv => read_records(source, '\t')?,
        Format::Jsonl => read_objects(source)?,
    };
    let names = || list(found.columns.iter().map(|(name, _)| name.as_str()));
    let position = |name: &String, option: &str| {
        found.columns.iter().position(|(column, _)| column == name).ok_or_else(|| TabularError::BadInput {
            file: source.name().to_owned(),
            at: found.names_end,
            expected: format!("a column `{name}`, which {option} names"),
            found: format!("the columns {}", names()),
        })
    };
    if key.is_empty() {
        return Err(TabularError::NoKey { file: source.name().to_owned(), columns: names() });
    }
    let mut columns: Vec<Column> = (0..)
        .zip(&found.columns)
        .map(|(id, (name, guess))| Column { id, name: name.clone(), ty: guess.verdict() })
        .collect();
    for (name, ty) in types {
        columns[position(name, "--types")?].ty = *ty;
    }
    let key =
        key.iter().map(|name| Ok(position(name, "--key")? as u32)).collect::<Result<_, TabularError>>()?;
    Schema::new(columns, key).map_err(|error| TabularError::Refused {
        file: source.name().to_owned(),
        at: Position { line: 1, column: 1 },
        error,
    })
}

/// What a file holds.
struct Found {
    columns: Vec<(String, Guess)>,
    /// Where one more column would be named.
    names_end: Position,
}

fn read_records(source: &Source, delimiter: char) -> Result<Found, TabularError> {
    let mut records = Records::new(source.lines()?, delimiter);
    let header = records.header()?;
    let mut columns: Vec<_> = header.fields().map(|(name, ..)| (name.to_owned(), Guess::default())).collect();
    let mut record = Record::default();
    while records.read_row(&mut record, columns.len())? {
        for ((_, guess), (cell, _)) in columns.iter_mut().zip(record.cells()) {
            guess.see(&cell);
        }
    }
    Ok(Found { columns, names_end: header.end() })
}

fn read_objects(source: &Source) -> Result<Found, TabularError> {
    let mut objects = Objects::new(source.lines()?);
    let mut columns: Vec<(String, Guess)> = Vec::new();
    // A column's position, and the line that named it last.
    let mut named: HashMap<String, (usize, u64)> = HashMap::new();
    while let Some((members, lines)) = objects.read()? {
        for member in members {
            let position = match named.get_mut(member.name.as_ref()) {
                Some((_, line)) if *line == lines.number() => {
                    let found = format!("`{}` again", member.name);
                    return Err(lines.refuse(member.name_at, "a member's name once", found));
                }
                Some((position, line)) => {
                    *line = lines.number();
                    *position
                }
                None if member.name.is_empty() => {
                    return Err(lines.refuse(member.name_at, "a column name", "an empty one"));
                }
                None => {
                    named.insert(member.name.to_string(), (columns.len(), lines.number()));
                    columns.push((member.name.into_owned(), Guess::default()));
                    columns.len() - 1
                }
            };
            columns[position].1.see(&member.cell);
        }
    }
    Ok(Found { columns, names_end: Position { line: 1, column: 1 } })
}

/// The types in the order in which they are tried; decimal's scale is the column's.
const ORDER: [Type; 8] = [
    Type::Bool,
    Type::Int,
    Type::Float,
    Type::Decimal { precision: DECIMAL_PRECISION_MAX, scale: 0 },
    Type::Date,
    Type::Timestamp,
    Type::Uuid,
    Type::Bytes,
];

/// What a column's values so far allow.
#[derive(Default)]
struct Guess {
    ruled_out: [bool; ORDER.len()],
    /// Digits after the point in the first value; `None` before it.
    scale: Option<u8>,
    /// Some number is written with a point, or in JSON with an exponent.
    point: bool,
    /// Some value is `{"hex":…}`.
    hex: bool,
}

impl Guess {
    fn see(&mut self, cell: &Cell<'_>) {
        match cell {
            Cell::Null => return,
            Cell::Plain(text) => self.point |= text.contains('.'),
            Cell::Number(text) => self.point |= text.contains(['.', 'e', 'E']),
            Cell::Hex(_) => self.hex = true,
            Cell::Bool(_) | Cell::Text(_) => {}
        }
        let scale = *self.scale.get_or_insert_with(|| match cell {
            Cell::Plain(text) => text
                .split_once('.')
                .and_then(|(_, fraction)| u8::try_from(fraction.len()).ok())
                .map_or(0, |scale| scale.min(DECIMAL_PRECISION_MAX)),
            _ => 0,
        });
        for (ruled_out, ty) in self.ruled_out.iter_mut().zip(ORDER) {
            *ruled_out = *ruled_out || !cell.prints_back(&with_scale(ty, scale));
        }
    }

    fn verdict(&self) -> Type {
        let Some(scale) = self.scale else { return Type::Text };
        let allowed = |ty: &Type| match ty {
            Type::Float => self.point,
            Type::Bytes => self.hex,
            _ => true,
        };
        self.ruled_out
            .iter()
            .zip(ORDER)
            .find(|(ruled_out, ty)| !**ruled_out && allowed(ty))
            .map_or(Type::Text, |(_, ty)| with_scale(ty, scale))
    }
}

fn with_scale(ty: Type, scale: u8) -> Type {
    match ty {
        Type::Decimal { precision, .. } => Type::Decimal { precision, scale },
        other => other,
    }
}
