//! The columns of a table, its key, and the way from values to key and value bytes and back.
//!
//! The one idea: a column is its id. Its name and its place among the columns are for people; stored rows know ids
//! only. The engine keeps [`Schema::encode`]'s bytes in the table's definition.
//!
//! ```text
//! schema  = 01 columns column* keys id*       01 is the version of this layout
//! columns = varint, how many columns
//! column  = id name type                      in the order in which the columns are shown
//! id      = varint, at most 4,095
//! name    = varint length, 1 to 255 bytes of UTF-8
//! type    = 01 bool | 02 int | 03 float | 04 P S decimal(P,S), a byte each | 05 text | 06 bytes | 07 date
//!         | 08 timestamp | 09 uuid
//! keys    = varint, how many key columns, at least one; then their ids in key order
//! ```

use super::bytes::{Reader, put_bytes, put_varint};
use super::cells::{self, Bitmap};
use super::error::Error;
use super::key::{self, KEY_BYTES_MAX};
use super::types::Type;
use super::value::Value;

/// The largest column id: a presence bitmap then has at most 512 bytes.
pub const COLUMN_ID_MAX: u32 = 4095;

/// Most bytes of a column's name.
pub const NAME_BYTES_MAX: usize = 255;

const VERSION: u8 = 1;

/// A column. Its identity is its id, not its name or its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Unique in the table and never reused; at most [`COLUMN_ID_MAX`].
    pub id: u32,
    /// Unique in the table; 1 to [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// Type of its values.
    pub ty: Type,
}

/// The columns and the key of a typed table; always valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    columns: Vec<Column>,
    /// Column ids in key order.
    key: Vec<u32>,
    /// Positions in `columns` of the key columns, in key order; derived.
    key_positions: Vec<usize>,
    /// Positions in `columns` of all others, by ascending id; derived.
    cell_positions: Vec<usize>,
}

impl Schema {
    /// A schema of `columns`, in the order in which they are shown, and the ids of its key columns in key order.
    pub fn new(columns: Vec<Column>, key: Vec<u32>) -> Result<Schema, Error> {
        for (position, column) in columns.iter().enumerate() {
            check_column(column)?;
            let before = columns.get(..position).unwrap_or_default();
            if before.iter().any(|other| other.id == column.id) {
                return Err(Error::DuplicateId { id: column.id });
            }
            if before.iter().any(|other| other.name == column.name) {
                return Err(Error::DuplicateName { name: column.name.clone() });
            }
        }
        if key.is_empty() {
            return Err(Error::NoKey);
        }
        let mut key_positions = Vec::with_capacity(key.len());
        for &id in &key {
            let position =
                columns.iter().position(|column| column.id == id).ok_or(Error::UnknownKeyColumn { id })?;
            if key_positions.contains(&position) {
                return Err(Error::DuplicateKeyColumn { column: columns[position].name.clone() });
            }
            key_positions.push(position);
        }
        let mut cell_positions: Vec<usize> =
            (0..columns.len()).filter(|position| !key_positions.contains(position)).collect();
        cell_positions.sort_by_key(|&position| columns[position].id);
        Ok(Schema { columns, key, key_positions, cell_positions })
    }

    /// The columns in the order in which they are shown.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The ids of the key columns, in key order.
    pub fn key(&self) -> &[u32] {
        &self.key
    }

    /// The key columns, in key order.
    pub fn key_columns(&self) -> impl ExactSizeIterator<Item = &Column> + '_ {
        self.key_positions.iter().map(|&position| &self.columns[position])
    }

    /// The column called `name`.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The column with `id`.
    pub fn column_by_id(&self, id: u32) -> Option<&Column> {
        self.columns.iter().find(|column| column.id == id)
    }

    /// Where in [`Schema::columns`], and in a row's values, the column with `id` stands.
    pub fn position(&self, id: u32) -> Option<usize> {
        self.columns.iter().position(|column| column.id == id)
    }

    /// Whether the column with `id` is in the key.
    pub fn is_key(&self, id: u32) -> bool {
        self.key.contains(&id)
    }

    /// Whether rows stored under `stored` read unchanged under this schema: same key, and every stored column is here
    /// with its type. Names and order may differ, and columns may be added; those read NULL.
    pub fn compatible_with(&self, stored: &Schema) -> Result<(), Error> {
        for (position, column) in stored.columns.iter().enumerate() {
            let refuse = |expected: String, found: String| {
                Err(Error::Incompatible { column: column.name.clone(), expected, found })
            };
            let place = |schema: &Schema| match schema.key.iter().position(|&id| id == column.id) {
                Some(place) => format!("key column {}", place + 1),
                None => "no key column".into(),
            };
            match self.column_by_id(column.id) {
                None => {
                    return refuse(
                        format!("no column with id {}", column.id),
                        format!("column {}", position + 1),
                    );
                }
                Some(here) if here.ty != column.ty => {
                    return refuse(here.ty.to_string(), column.ty.to_string());
                }
                Some(_) if place(self) != place(stored) => return refuse(place(self), place(stored)),
                Some(_) => {}
            }
        }
        match self.key_columns().find(|column| stored.column_by_id(column.id).is_none()) {
            Some(new) => Err(Error::Incompatible {
                column: new.name.clone(),
                expected: "a key column".into(),
                found: "no such column".into(),
            }),
            None => Ok(()),
        }
    }

    /// The key's bytes. `values` are the key's values in key order; or, when some columns are not in the key, those of
    /// all columns in column order. NULL is encoded, and sorts first.
    pub fn encode_key(&self, values: &[Value]) -> Result<Vec<u8>, Error> {
        if values.len() == self.key.len() {
            return self.put_key(values.iter());
        }
        self.check_count(values)?;
        self.put_key(self.key_positions.iter().map(|&position| &values[position]))
    }

    /// The key's values, in key order.
    pub fn decode_key(&self, key: &[u8]) -> Result<Vec<Value>, Error> {
        let mut reader = Reader::new("row key", key);
        if key.len() > KEY_BYTES_MAX {
            return Err(reader.malformed(
                0,
                format!("at most {KEY_BYTES_MAX} bytes"),
                format!("{} bytes", key.len()),
            ));
        }
        let values =
            self.key_columns().map(|column| key::read(&mut reader, &column.ty)).collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(values)
    }

    /// The key and the value of a row, whose `values` are in column order.
    pub fn encode_row(&self, values: &[Value]) -> Result<(Vec<u8>, Vec<u8>), Error> {
        self.check_count(values)?;
        let key = self.put_key(self.key_positions.iter().map(|&position| &values[position]))?;
        let mut ids = Vec::with_capacity(self.cell_positions.len());
        for &position in &self.cell_positions {
            let column = &self.columns[position];
            check_value(column, &values[position])?;
            if !values[position].is_null() {
                ids.push(column.id);
            }
        }
        let mut value = Vec::new();
        cells::put_bitmap(&mut value, &ids);
        for &position in &self.cell_positions {
            cells::put(&mut value, &values[position]);
        }
        Ok((key, value))
    }

    /// The values of a row, in column order.
    pub fn decode_row(&self, key: &[u8], value: &[u8]) -> Result<Vec<Value>, Error> {
        let mut values = vec![Value::Null; self.columns.len()];
        for (&position, part) in self.key_positions.iter().zip(self.decode_key(key)?) {
            values[position] = part;
        }
        let mut reader = Reader::new("row value", value);
        let bitmap = Bitmap::read(&mut reader)?;
        let mut present = 0;
        for &position in &self.cell_positions {
            let column = &self.columns[position];
            if bitmap.has(column.id) {
                values[position] = cells::read(&mut reader, &column.ty)?;
                present += 1;
            }
        }
        if present != bitmap.count() {
            let found = format!("{} cells of other columns", bitmap.count() - present);
            return Err(reader.malformed(0, "cells of columns outside the key only", found));
        }
        reader.end()?;
        Ok(values)
    }

    /// One cell of a row's value bytes, without decoding the others; NULL if it is absent. A key column is
    /// [`Error::InKey`]. The other cells are passed over, not checked.
    pub fn cell(&self, value: &[u8], id: u32) -> Result<Value, Error> {
        let wanted = self.column_by_id(id).ok_or(Error::UnknownColumn { id })?;
        if self.is_key(id) {
            return Err(Error::InKey { column: wanted.name.clone() });
        }
        let mut reader = Reader::new("row value", value);
        let bitmap = Bitmap::read(&mut reader)?;
        if !bitmap.has(id) {
            return Ok(Value::Null);
        }
        for &position in &self.cell_positions {
            let column = &self.columns[position];
            if column.id == id {
                break;
            }
            if bitmap.has(column.id) {
                cells::skip(&mut reader, &column.ty)?;
            }
        }
        cells::read(&mut reader, &wanted.ty)
    }

    /// The schema's bytes; equal schemas have equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_varint(&mut out, self.columns.len() as u128);
        for column in &self.columns {
            put_varint(&mut out, u128::from(column.id));
            put_bytes(&mut out, column.name.as_bytes());
            put_type(&mut out, &column.ty);
        }
        put_varint(&mut out, self.key.len() as u128);
        for &id in &self.key {
            put_varint(&mut out, u128::from(id));
        }
        out
    }

    /// Reads what [`Schema::encode`] wrote, and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Schema, Error> {
        let mut reader = Reader::new("schema", bytes);
        let version = reader.byte()?;
        if version != VERSION {
            return Err(reader.malformed(0, format!("version {VERSION}"), format!("version {version}")));
        }
        let count = reader.count()?;
        let mut columns = Vec::new();
        for _ in 0..count {
            let id = read_id(&mut reader)?;
            let name = reader.bytes()?.to_vec();
            let column = Column { id, name: reader.text(name)?, ty: read_type(&mut reader)? };
            check_column(&column)?;
            columns.push(column);
            if columns.len() > COLUMN_ID_MAX as usize + 1 {
                return Err(Error::BadId { id: COLUMN_ID_MAX + 1 });
            }
        }
        let count = reader.count()?;
        let key = (0..count).map(|_| read_id(&mut reader)).collect::<Result<_, _>>()?;
        reader.end()?;
        Schema::new(columns, key)
    }

    fn check_count(&self, values: &[Value]) -> Result<(), Error> {
        match values.len() == self.columns.len() {
            true => Ok(()),
            false => Err(Error::WrongCount { expected: self.columns.len(), found: values.len() }),
        }
    }

    /// Encodes values given in key order.
    fn put_key<'a>(&self, values: impl Iterator<Item = &'a Value>) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        let mut widest = ("", 0);
        for (column, value) in self.key_columns().zip(values) {
            check_value(column, value)?;
            let start = out.len();
            key::put(&mut out, value);
            if out.len() - start > widest.1 {
                widest = (&column.name, out.len() - start);
            }
        }
        if out.len() > KEY_BYTES_MAX {
            let (column, column_bytes) = widest;
            return Err(Error::KeyTooLong { column: column.to_owned(), column_bytes, length: out.len() });
        }
        Ok(out)
    }
}

fn check_column(column: &Column) -> Result<(), Error> {
    if column.id > COLUMN_ID_MAX {
        return Err(Error::BadId { id: column.id });
    }
    if !(1..=NAME_BYTES_MAX).contains(&column.name.len()) {
        return Err(Error::BadName { length: column.name.len() });
    }
    column.ty.check()
}

fn check_value(column: &Column, value: &Value) -> Result<(), Error> {
    value.check(&column.ty).map_err(|error| Error::WrongValue {
        column: column.name.clone(),
        expected: error.expected,
        found: error.found,
    })
}

fn put_type(out: &mut Vec<u8>, ty: &Type) {
    match *ty {
        Type::Bool => out.push(1),
        Type::Int => out.push(2),
        Type::Float => out.push(3),
        Type::Decimal { precision, scale } => out.extend([4, precision, scale]),
        Type::Text => out.push(5),
        Type::Bytes => out.push(6),
        Type::Date => out.push(7),
        Type::Timestamp => out.push(8),
        Type::Uuid => out.push(9),
    }
}

fn read_type(reader: &mut Reader<'_>) -> Result<Type, Error> {
    let offset = reader.offset();
    Ok(match reader.byte()? {
        1 => Type::Bool,
        2 => Type::Int,
        3 => Type::Float,
        4 => Type::Decimal { precision: reader.byte()?, scale: reader.byte()? },
        5 => Type::Text,
        6 => Type::Bytes,
        7 => Type::Date,
        8 => Type::Timestamp,
        9 => Type::Uuid,
        tag => return Err(reader.malformed(offset, "a type from 1 to 9", tag.to_string())),
    })
}

fn read_id(reader: &mut Reader<'_>) -> Result<u32, Error> {
    Ok(reader.varint(u128::from(COLUMN_ID_MAX))? as u32)
}
