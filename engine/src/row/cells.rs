//! The bytes of a row's value: the columns that are not in the key.
//!
//! The one idea: a bit per column id says which cells are there, and a NULL cell is not. Ids never change, so adding a
//! column leaves the stored rows as they are (they read NULL in it), and so does moving or renaming one.
//!
//! ```text
//! value  = length bitmap cell*
//! length = varint, bytes of the bitmap
//! bitmap = bit (id % 8) of byte (id / 8) is set when the column with that id has a cell; the last byte is never 00
//! cell   = the value's bytes, in ascending order of column id
//! ```
//!
//! A row in which all those columns are NULL is the single byte `00`. Bits of key columns are clear.
//!
//! | type | cell |
//! |---|---|
//! | bool | `00` false, `01` true |
//! | int, date, timestamp, decimal (scaled) | zigzag varint |
//! | float | IEEE 754 bits, 8 bytes little-endian; −0 is 0, every NaN is `7ff8000000000000` |
//! | text, bytes | varint length, then the bytes |
//! | uuid | its 16 bytes |
//!
//! Varints are as `bytes.rs` says. `schema.rs` calls this.

use super::bytes::{Reader, put_bytes, put_signed, put_varint};
use super::error::Error;
use super::types::Type;
use super::value::{Value, float_bits};

/// Appends a bitmap of `ids`, which ascend.
pub(super) fn put_bitmap(out: &mut Vec<u8>, ids: &[u32]) {
    let length = ids.last().map_or(0, |&id| id as usize / 8 + 1);
    put_varint(out, length as u128);
    let start = out.len();
    out.resize(start + length, 0);
    for &id in ids {
        out[start + id as usize / 8] |= 1 << (id % 8);
    }
}

/// The presence bitmap of a stored value.
pub(super) struct Bitmap<'a> {
    bytes: &'a [u8],
}

impl<'a> Bitmap<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Bitmap<'a>, Error> {
        let bytes = reader.bytes()?;
        match bytes.last() {
            Some(0) => {
                Err(reader.malformed(reader.offset() - 1, "a bitmap without zero bytes at its end", "00"))
            }
            _ => Ok(Bitmap { bytes }),
        }
    }

    pub(super) fn has(&self, id: u32) -> bool {
        self.bytes.get(id as usize / 8).is_some_and(|byte| byte >> (id % 8) & 1 == 1)
    }

    /// How many cells there are.
    pub(super) fn count(&self) -> usize {
        self.bytes.iter().map(|byte| byte.count_ones() as usize).sum()
    }
}

/// Appends the cell of a `value` that is not NULL and that [`Value::check`] has accepted.
pub(super) fn put(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => {}
        Value::Bool(value) => out.push(u8::from(*value)),
        Value::Int(value) | Value::Timestamp(value) => put_signed(out, i128::from(*value)),
        Value::Date(days) => put_signed(out, i128::from(*days)),
        Value::Decimal(scaled) => put_signed(out, *scaled),
        Value::Float(value) => out.extend(float_bits(*value).to_le_bytes()),
        Value::Text(text) => put_bytes(out, text.as_bytes()),
        Value::Bytes(bytes) => put_bytes(out, bytes),
        Value::Uuid(bytes) => out.extend(bytes),
    }
}

/// Reads the next cell, of type `ty`.
pub(super) fn read(reader: &mut Reader<'_>, ty: &Type) -> Result<Value, Error> {
    let start = reader.offset();
    let value = match ty {
        Type::Bool => Value::Bool(reader.bit()?),
        Type::Int => Value::Int(reader.signed(u128::from(u64::MAX))? as i64),
        Type::Timestamp => Value::Timestamp(reader.signed(u128::from(u64::MAX))? as i64),
        Type::Date => Value::Date(reader.signed(u128::from(u32::MAX))? as i32),
        Type::Decimal { .. } => Value::Decimal(reader.signed(u128::MAX)?),
        Type::Float => {
            let bits = u64::from_le_bytes(reader.array()?);
            let value = f64::from_bits(bits);
            if float_bits(value) != bits {
                return Err(reader.malformed(
                    start,
                    "a float in its one form",
                    format!("the bits {bits:016x}"),
                ));
            }
            Value::Float(value)
        }
        Type::Text => {
            let bytes = reader.bytes()?.to_vec();
            Value::Text(reader.text(bytes)?)
        }
        Type::Bytes => Value::Bytes(reader.bytes()?.to_vec()),
        Type::Uuid => Value::Uuid(reader.array()?),
    };
    value.check(ty).map_err(|error| reader.malformed(start, error.expected, error.found))?;
    Ok(value)
}

/// Passes over a cell of type `ty` without making its value.
pub(super) fn skip(reader: &mut Reader<'_>, ty: &Type) -> Result<(), Error> {
    match ty {
        Type::Bool => reader.bit().map(drop),
        Type::Int | Type::Date | Type::Timestamp | Type::Decimal { .. } => reader.varint(u128::MAX).map(drop),
        Type::Float => reader.take(8).map(drop),
        Type::Text | Type::Bytes => reader.bytes().map(drop),
        Type::Uuid => reader.take(16).map(drop),
    }
}
