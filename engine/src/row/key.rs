//! The bytes of a row's key: the key columns' values one after the other, so that comparing keys bytewise compares
//! the rows by their first key column, then by the second, and so on.
//!
//! The one idea: each value's bytes compare as the value does *and* no value's bytes are a prefix of another's, so
//! that values can stand side by side without lengths. `schema.rs` calls this for each key column.
//!
//! ```text
//! key   = value*                    as many as the schema has key columns, at most 1,024 bytes in all
//! value = 00                        NULL, before every other value
//!       | 01 payload
//! ```
//!
//! | type | payload |
//! |---|---|
//! | bool | `00` false, `01` true |
//! | int, timestamp | 8 bytes big-endian, sign bit flipped |
//! | date | 4 bytes big-endian, sign bit flipped |
//! | decimal | the scaled integer: 16 bytes big-endian, sign bit flipped |
//! | float | IEEE 754 bits big-endian: sign bit flipped if it was 0, else all bits flipped; −0 is stored as 0, every NaN as `7ff8000000000000` before flipping, which sorts last |
//! | text, bytes | the bytes, each `00` as `00 ff`, then `00` |
//! | uuid | its 16 bytes |
//!
//! The terminator `00` is followed by the end, or by the next value's `00`, `01` or `02`: below the `ff` that follows an
//! escaped zero, so a text sorts before all longer texts that begin with it.
//!
//! In a *descending* column a value is `02` for NULL, which is last, or `01` and the payload with all its bytes
//! complemented; text and bytes end with `00 01` there before that, so that the end is known whatever follows.

use super::bytes::Reader;
use super::error::Error;
use super::types::Type;
use super::value::{Value, float_bits};

/// Most bytes of a key; maps refuse longer ones.
pub const KEY_BYTES_MAX: usize = 1024;

const NULL: u8 = 0;
const PRESENT: u8 = 1;
const NULL_LAST: u8 = 2;
const END: u8 = 1;
const ESCAPE: u8 = 0xff;
const SIGN: u64 = 1 << 63;

/// Appends `value`, which [`Value::check`] has accepted.
pub(super) fn put(out: &mut Vec<u8>, value: &Value, descending: bool) {
    if value.is_null() {
        return out.push(if descending { NULL_LAST } else { NULL });
    }
    out.push(PRESENT);
    let start = out.len();
    match value {
        Value::Null => {}
        Value::Bool(value) => out.push(u8::from(*value)),
        Value::Int(value) | Value::Timestamp(value) => out.extend((*value as u64 ^ SIGN).to_be_bytes()),
        Value::Date(days) => out.extend((*days as u32 ^ 1 << 31).to_be_bytes()),
        Value::Decimal(scaled) => out.extend((*scaled as u128 ^ 1 << 127).to_be_bytes()),
        Value::Float(value) => {
            let bits = float_bits(*value);
            out.extend((if bits & SIGN == 0 { bits ^ SIGN } else { !bits }).to_be_bytes());
        }
        Value::Text(text) => put_escaped(out, text.as_bytes(), descending),
        Value::Bytes(bytes) => put_escaped(out, bytes, descending),
        Value::Uuid(bytes) => out.extend(bytes),
    }
    if descending {
        out.iter_mut().skip(start).for_each(|byte| *byte = !*byte);
    }
}

fn put_escaped(out: &mut Vec<u8>, bytes: &[u8], descending: bool) {
    for &byte in bytes {
        out.push(byte);
        if byte == 0 {
            out.push(ESCAPE);
        }
    }
    out.push(0);
    if descending {
        out.push(END);
    }
}

/// Reads the next value, of type `ty`.
pub(super) fn read(reader: &mut Reader<'_>, ty: &Type, descending: bool) -> Result<Value, Error> {
    let offset = reader.offset();
    match (reader.byte()?, descending) {
        (NULL, false) | (NULL_LAST, true) => Ok(Value::Null),
        (PRESENT, false) => read_payload(reader, ty, false),
        (PRESENT, true) => reader.complemented(|reader| read_payload(reader, ty, true)),
        (byte, false) => Err(reader.malformed(offset, "0 or 1", byte.to_string())),
        (byte, true) => Err(reader.malformed(offset, "1 or 2", byte.to_string())),
    }
}

fn read_payload(reader: &mut Reader<'_>, ty: &Type, descending: bool) -> Result<Value, Error> {
    let start = reader.offset();
    let value = match ty {
        Type::Bool => Value::Bool(reader.bit()?),
        Type::Int => Value::Int((u64::from_be_bytes(reader.array()?) ^ SIGN) as i64),
        Type::Timestamp => Value::Timestamp((u64::from_be_bytes(reader.array()?) ^ SIGN) as i64),
        Type::Date => Value::Date((u32::from_be_bytes(reader.array()?) ^ 1 << 31) as i32),
        Type::Decimal { .. } => Value::Decimal((u128::from_be_bytes(reader.array()?) ^ 1 << 127) as i128),
        Type::Float => {
            let flipped = u64::from_be_bytes(reader.array()?);
            let bits = if flipped & SIGN == 0 { !flipped } else { flipped ^ SIGN };
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
            let bytes = read_escaped(reader, descending)?;
            Value::Text(reader.text(bytes)?)
        }
        Type::Bytes => Value::Bytes(read_escaped(reader, descending)?),
        Type::Uuid => Value::Uuid(reader.array()?),
    };
    value.check(ty).map_err(|error| reader.malformed(start, error.expected, error.found))?;
    Ok(value)
}

fn read_escaped(reader: &mut Reader<'_>, descending: bool) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    loop {
        let rest = reader.rest();
        let Some(zero) = rest.iter().position(|&byte| byte == 0) else {
            let end = reader.offset() + rest.len();
            return Err(reader.malformed(end, "00 after text or bytes", "the end"));
        };
        out.extend_from_slice(reader.take(zero + 1)?);
        if reader.rest().first() == Some(&ESCAPE) {
            reader.byte()?;
        } else {
            let offset = reader.offset();
            if descending && reader.byte()? != END {
                return Err(reader.malformed(
                    offset,
                    "01 after the 00 that ends text or bytes",
                    "another byte",
                ));
            }
            out.pop();
            return Ok(out);
        }
    }
}
