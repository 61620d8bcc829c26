//! The bytes of a row's value: the columns that are not in the key.
//!
//! The one idea: a cell is there only if it differs from its column's *creation default*: what rows written before the
//! column was added read in it, NULL unless the column was added with another. So adding a column leaves the stored
//! rows as they are, and so does moving, renaming or dropping one.
//!
//! ```text
//! value  = length bitmap cell* added*
//! length = varint, bytes of the bitmap
//! bitmap = bit (id % 8) of byte (id / 8) is set when the column with that id, at most 4,095, has a cell; the last byte
//!          is never 00
//! added  = varint, the column's id less the one before (4,095 before the first), never 0; then the cell
//! cell   = the value's bytes, in ascending order of column id; where the creation default is not NULL, before them 01,
//!          or 00 alone for NULL
//! ```
//!
//! A row whose cells are all as their columns' creation defaults is the single byte `00`. Bits of key columns are clear.
//!
//! A cell of a column that was dropped stays in the rows that were last written before: it is checked and passed over.
//! A row that is written has none. So a row's bytes are a function of its cells by id, those of dropped columns included.
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

/// The largest id of a column whose cells are in the bitmap, which then has at most 512 bytes.
pub(super) const BITMAP_ID_MAX: u32 = 4095;

/// The largest column id.
pub const COLUMN_ID_MAX: u32 = (1 << 28) - 1;

/// A column outside the key, as far as its cells go; also one that was dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) id: u32,
    pub(super) ty: Type,
    /// What a row without a cell reads.
    pub(super) default: Value,
    /// Where in the schema's columns it stands; `None` once it was dropped.
    pub(super) position: Option<usize>,
}

/// The value bytes of a row; `values` are in column order and fit their columns. `slots` ascend by id.
pub(super) fn encode(slots: &[Slot], values: &[Value]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(slots.len());
    for slot in slots {
        match slot.position.and_then(|position| values.get(position)) {
            Some(value) if *value != slot.default => stored.push((slot, value)),
            _ => {}
        }
    }
    let (bitmap, added) = stored.split_at(stored.partition_point(|(slot, _)| slot.id <= BITMAP_ID_MAX));
    let mut out = Vec::new();
    put_bitmap(&mut out, bitmap.iter().map(|(slot, _)| slot.id));
    bitmap.iter().for_each(|(slot, value)| put_cell(&mut out, slot, value));
    let mut before = BITMAP_ID_MAX;
    for (slot, value) in added {
        put_varint(&mut out, u128::from(slot.id - before));
        put_cell(&mut out, slot, value);
        before = slot.id;
    }
    out
}

/// Reads a row's value bytes; `each` gets the cells that are there. Gives whether one is of a dropped column.
pub(super) fn decode(
    slots: &[Slot],
    value: &[u8],
    mut each: impl FnMut(&Slot, Value),
) -> Result<bool, Error> {
    let mut reader = Reader::new("row value", value);
    let bitmap = Bitmap::read(&mut reader)?;
    let (mut present, mut dropped) = (0, false);
    let mut one = |reader: &mut Reader<'_>, slot: &Slot| {
        let cell = read_cell(reader, slot)?;
        dropped |= slot.position.is_none();
        each(slot, cell);
        Ok::<_, Error>(())
    };
    for slot in slots.iter().filter(|slot| bitmap.has(slot.id)) {
        one(&mut reader, slot)?;
        present += 1;
    }
    if present != bitmap.count() {
        let found = format!("{} cells of other columns", bitmap.count() - present);
        return Err(reader.malformed(0, "cells of columns outside the key only", found));
    }
    let mut before = BITMAP_ID_MAX;
    while let Some((offset, id)) = read_added_id(&mut reader, before)? {
        match slots.binary_search_by_key(&id, |slot| slot.id).ok().and_then(|at| slots.get(at)) {
            Some(slot) => one(&mut reader, slot)?,
            None => {
                let found = format!("the id {id}");
                return Err(reader.malformed(offset, "the id of a column outside the key", found));
            }
        }
        before = id;
    }
    Ok(dropped)
}

/// One cell of a row's value bytes; `None` if it is not there. The cells before it are passed over, not checked.
pub(super) fn decode_one(slots: &[Slot], wanted: &Slot, value: &[u8]) -> Result<Option<Value>, Error> {
    let mut reader = Reader::new("row value", value);
    let bitmap = Bitmap::read(&mut reader)?;
    if wanted.id <= BITMAP_ID_MAX && !bitmap.has(wanted.id) {
        return Ok(None);
    }
    for slot in slots.iter().filter(|slot| bitmap.has(slot.id)) {
        if slot.id == wanted.id {
            return read_cell(&mut reader, slot).map(Some);
        }
        skip_cell(&mut reader, slot)?;
    }
    let mut before = BITMAP_ID_MAX;
    while let Some((_, id)) = read_added_id(&mut reader, before)? {
        let slot = slots.binary_search_by_key(&id, |slot| slot.id).ok().and_then(|at| slots.get(at));
        match slot {
            Some(slot) if slot.id < wanted.id => skip_cell(&mut reader, slot)?,
            Some(slot) if slot.id == wanted.id => return read_cell(&mut reader, slot).map(Some),
            _ => break,
        }
        before = id;
    }
    Ok(None)
}

/// The offset of the next added column's id, and the id; `None` at the end.
fn read_added_id(reader: &mut Reader<'_>, before: u32) -> Result<Option<(usize, u32)>, Error> {
    if reader.rest().is_empty() {
        return Ok(None);
    }
    let offset = reader.offset();
    match reader.varint(u128::from(COLUMN_ID_MAX - before))? as u32 {
        0 => Err(reader.malformed(offset, "a column id above the one before", "the same again")),
        more => Ok(Some((offset, before + more))),
    }
}

fn put_cell(out: &mut Vec<u8>, slot: &Slot, value: &Value) {
    if !slot.default.is_null() {
        out.push(u8::from(!value.is_null()));
    }
    put(out, value);
}

fn read_cell(reader: &mut Reader<'_>, slot: &Slot) -> Result<Value, Error> {
    let start = reader.offset();
    if slot.default.is_null() {
        return read(reader, &slot.ty);
    }
    if !reader.bit()? {
        return Ok(Value::Null);
    }
    let value = read(reader, &slot.ty)?;
    match value == slot.default {
        true => Err(reader.malformed(
            start,
            "a cell that differs from its column's creation default",
            "an equal one",
        )),
        false => Ok(value),
    }
}

fn skip_cell(reader: &mut Reader<'_>, slot: &Slot) -> Result<(), Error> {
    if !slot.default.is_null() && !reader.bit()? {
        return Ok(());
    }
    skip(reader, &slot.ty)
}

/// Appends a bitmap of `ids`, which ascend.
fn put_bitmap(out: &mut Vec<u8>, ids: impl DoubleEndedIterator<Item = u32> + Clone) {
    let length = ids.clone().next_back().map_or(0, |id| id as usize / 8 + 1);
    put_varint(out, length as u128);
    let start = out.len();
    out.resize(start + length, 0);
    for id in ids {
        out[start + id as usize / 8] |= 1 << (id % 8);
    }
}

/// The presence bitmap of a stored value.
struct Bitmap<'a> {
    bytes: &'a [u8],
}

impl<'a> Bitmap<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Bitmap<'a>, Error> {
        let bytes = reader.bytes()?;
        let most = BITMAP_ID_MAX as usize / 8 + 1;
        match bytes.last() {
            _ if bytes.len() > most => Err(reader.malformed(
                0,
                format!("a bitmap of at most {most} bytes"),
                format!("{} bytes", bytes.len()),
            )),
            Some(0) => {
                Err(reader.malformed(reader.offset() - 1, "a bitmap without zero bytes at its end", "00"))
            }
            _ => Ok(Bitmap { bytes }),
        }
    }

    fn has(&self, id: u32) -> bool {
        self.bytes.get(id as usize / 8).is_some_and(|byte| byte >> (id % 8) & 1 == 1)
    }

    /// How many cells there are.
    fn count(&self) -> usize {
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
fn skip(reader: &mut Reader<'_>, ty: &Type) -> Result<(), Error> {
    match ty {
        Type::Bool => reader.bit().map(drop),
        Type::Int | Type::Date | Type::Timestamp | Type::Decimal { .. } => reader.varint(u128::MAX).map(drop),
        Type::Float => reader.take(8).map(drop),
        Type::Text | Type::Bytes => reader.bytes().map(drop),
        Type::Uuid => reader.take(16).map(drop),
    }
}
