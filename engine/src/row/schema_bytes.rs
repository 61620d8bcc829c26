//! The bytes of a schema, which the engine keeps in the table's definition.
//!
//! ```text
//! schema  = 02 columns column* keys key* gone dropped*     02 is the version of this layout
//! columns = varint, how many columns
//! column  = id name type default              in the order in which the columns are shown
//! id      = varint, at most 2^28 - 1
//! name    = varint length, 1 to 255 bytes of UTF-8
//! type    = 01 bool | 02 int | 03 float | 04 P S decimal(P,S), a byte each | 05 text | 06 bytes | 07 date
//!         | 08 timestamp | 09 uuid
//! default = the creation default: 00 NULL, or 01 and its bytes as a cell, at most 1,024 (`cells.rs`)
//! keys    = varint, how many key columns, at least one
//! key     = id, 00 ascending or 01 descending; in key order
//! gone    = varint, how many columns were dropped
//! dropped = id type default                   by ascending id
//! ```
//!
//! Equal schemas have equal bytes. Other versions are refused.

use super::alter::DEFAULT_BYTES_MAX;
use super::bytes::{Reader, put_bytes, put_varint};
use super::cells::{self, COLUMN_ID_MAX};
use super::error::Error;
use super::schema::{COLUMNS_MAX, Column, Dropped, Schema, check_column};
use super::types::Type;
use super::value::Value;

const VERSION: u8 = 2;

impl Schema {
    /// The schema's bytes; equal schemas have equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_varint(&mut out, self.columns.len() as u128);
        for (column, default) in self.columns.iter().zip(&self.defaults) {
            put_varint(&mut out, u128::from(column.id));
            put_bytes(&mut out, column.name.as_bytes());
            put_type(&mut out, &column.ty);
            put_default(&mut out, default);
        }
        put_varint(&mut out, self.key.len() as u128);
        for (&id, &descending) in self.key.iter().zip(&self.descending) {
            put_varint(&mut out, u128::from(id));
            out.push(u8::from(descending));
        }
        put_varint(&mut out, self.dropped().count() as u128);
        for slot in self.dropped_slots() {
            put_varint(&mut out, u128::from(slot.id));
            put_type(&mut out, &slot.ty);
            put_default(&mut out, &slot.default);
        }
        out
    }

    /// Reads what [`Schema::encode`] wrote, and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Schema, Error> {
        let mut reader = Reader::new("schema", bytes);
        let version = reader.byte()?;
        if version != VERSION {
            return Err(Error::SchemaVersion { expected: VERSION, found: version });
        }
        let (mut columns, mut defaults) = (Vec::new(), Vec::new());
        for _ in 0..read_count(&mut reader)? {
            let id = read_id(&mut reader)?;
            let name = reader.bytes()?.to_vec();
            let column = Column { id, name: reader.text(name)?, ty: read_type(&mut reader)? };
            check_column(&column)?;
            defaults.push(read_default(&mut reader, &column.ty)?);
            columns.push(column);
        }
        let count = read_count(&mut reader)?;
        let key = (0..count).map(|_| Ok((read_id(&mut reader)?, reader.bit()?))).collect::<Result<_, _>>()?;
        let mut dropped: Vec<Dropped> = Vec::new();
        for _ in 0..read_count(&mut reader)? {
            let offset = reader.offset();
            let (id, ty) = (read_id(&mut reader)?, read_type(&mut reader)?);
            ty.check()?;
            if dropped.last().is_some_and(|before| before.id >= id) {
                return Err(reader.malformed(offset, "dropped columns by ascending id", id.to_string()));
            }
            dropped.push(Dropped { id, ty, default: read_default(&mut reader, &ty)? });
        }
        reader.end()?;
        Schema::assemble(columns, defaults, key, dropped)
    }
}

/// A count of columns.
fn read_count(reader: &mut Reader<'_>) -> Result<usize, Error> {
    match reader.count()? {
        count if count > COLUMNS_MAX => Err(Error::TooManyColumns { count }),
        count => Ok(count),
    }
}

fn put_default(out: &mut Vec<u8>, default: &Value) {
    out.push(u8::from(!default.is_null()));
    cells::put(out, default);
}

fn read_default(reader: &mut Reader<'_>, ty: &Type) -> Result<Value, Error> {
    if !reader.bit()? {
        return Ok(Value::Null);
    }
    let start = reader.offset();
    let value = cells::read(reader, ty)?;
    match reader.offset() - start {
        length if length > DEFAULT_BYTES_MAX => Err(Error::DefaultTooLong { length }),
        _ => Ok(value),
    }
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
