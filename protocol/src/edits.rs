//! A table told by its rows that changed: the payload of a record with encoding *edits* (see `record`). This file holds the only
//! description of its bytes. Written by `sender`, read by `receiver`; the engine finds the rows, and makes the table of them.
//!
//! ```text
//! payload = how ‖ keys_len ‖ keys_enc_len? ‖ keys ‖ values_len ‖ values
//!
//! how           1 byte   bits 0-1: the encoding of keys, 0 raw or 1 zstd; bits 2-3: that of values, 0 raw, 1 zstd, 2 delta; others zero
//! keys_len      varint   length of the keys when decoded, 1 to EDITS_BYTES_MAX
//! keys_enc_len  varint   their length here; absent if they are raw
//! keys                   for each row, in key order, at least one and at most EDITS_ROWS_MAX, whose keys have at most EDITS_BYTES_MAX bytes together:
//!                          varint: how many bytes its key shares with the key before · varint: how many follow · those
//!                          varint: 0 the row is gone · 1 its new value is as long as the old one · n + 2 it has n bytes
//! values_len    varint   length of the values when decoded, 0 to EDITS_BYTES_MAX
//! values        the rest: the new values, end to end. A delta has the old values of all these rows, end to end, as its prefix; those that
//!               are out of line, or were not there, are left out
//! ```
//! Varints are those of a record.

use pleach_engine::RowEdit;

use crate::encoding::{Decoder, Encoder, Encoding};
use crate::limits::{EDITS_BYTES_MAX, EDITS_ROWS_MAX, KEY_BYTES_MAX};
use crate::record::{Bytes, write_varint};

const GONE: u32 = 0;
const AS_LONG: u32 = 1;
const LONGER: u32 = 2;

/// A key, and the value that it has now; `None`: its row is gone.
pub(crate) type Row = (Vec<u8>, Option<Vec<u8>>);

/// The payload that says `edits`; `None` if that would be more than a receiver takes.
pub(crate) fn encode(encoder: &mut Encoder, edits: &[RowEdit]) -> std::io::Result<Option<Vec<u8>>> {
    let (mut keys, mut values, mut olds) = (Vec::new(), Vec::new(), Vec::new());
    let mut before: &[u8] = &[];
    for RowEdit { key, old, new } in edits {
        let shared = key.iter().zip(before).take_while(|(a, b)| a == b).count();
        write_varint(&mut keys, shared as u32);
        write_varint(&mut keys, (key.len() - shared) as u32);
        keys.extend_from_slice(&key[shared..]);
        let what = match (new, old) {
            (None, _) => GONE,
            (Some(new), Some(old)) if new.len() == old.len() => AS_LONG,
            (Some(new), _) => new.len() as u32 + LONGER,
        };
        write_varint(&mut keys, what);
        values.extend_from_slice(new.as_deref().unwrap_or_default());
        olds.extend_from_slice(old.as_deref().unwrap_or_default());
        before = key;
    }
    // What stands around the keys counts too.
    if edits.len() > EDITS_ROWS_MAX || keys.len().max(values.len()).max(olds.len()) > EDITS_BYTES_MAX {
        return Ok(None);
    }
    let mut payload = vec![0];
    write_varint(&mut payload, keys.len() as u32);
    let (keys_encoding, encoded) = encoder.encode(&keys, None)?;
    if keys_encoding != Encoding::Raw {
        write_varint(&mut payload, encoded.len() as u32);
    }
    payload.extend_from_slice(encoded);
    write_varint(&mut payload, values.len() as u32);
    let prefix = (!olds.is_empty()).then_some(olds.as_slice());
    let (values_encoding, encoded) = encoder.encode(&values, prefix)?;
    payload.extend_from_slice(encoded);
    payload[0] = code(keys_encoding) | code(values_encoding) << 2;
    Ok(Some(payload))
}

fn code(encoding: Encoding) -> u8 {
    match encoding {
        Encoding::Raw | Encoding::Edits => 0,
        Encoding::Zstd => 1,
        Encoding::Delta => 2,
    }
}

fn encoding(code: u8) -> Option<Encoding> {
    [Encoding::Raw, Encoding::Zstd, Encoding::Delta].get(usize::from(code & 3)).copied()
}

/// The rows that a payload says, each with its key and its new value; `old` tells what stands at a key. An error that is not `old`'s is one of the
/// payload, in words.
pub(crate) fn decode<E>(
    decoder: &mut Decoder,
    payload: &[u8],
    mut old: impl FnMut(&[u8]) -> Result<Option<Vec<u8>>, E>,
) -> Result<Result<Vec<Row>, String>, E> {
    let (rows, values) = match keys(decoder, payload) {
        Ok(read) => read,
        Err(what) => return Ok(Err(what)),
    };
    let mut olds = Vec::new();
    let mut lens = Vec::with_capacity(rows.len());
    for (key, what) in &rows {
        let old = old(key)?;
        lens.push(match (*what, &old) {
            (GONE, _) => None,
            (AS_LONG, None) => return Ok(Err("a value as long as one that is not here".to_owned())),
            (AS_LONG, Some(old)) => Some(old.len()),
            (longer, _) => Some((longer - LONGER) as usize),
        });
        olds.extend_from_slice(old.as_deref().unwrap_or_default());
        if olds.len() > EDITS_BYTES_MAX {
            return Ok(Err(format!("old values of more than {EDITS_BYTES_MAX} bytes")));
        }
    }
    Ok(values.read(decoder, &olds).and_then(|values| {
        let mut rest = values.as_slice();
        let mut edits = Vec::with_capacity(rows.len());
        for ((key, _), len) in rows.into_iter().zip(lens) {
            let new = match len {
                None => None,
                Some(len) => {
                    let (new, after) =
                        rest.split_at_checked(len).ok_or("values that are shorter than the rows say")?;
                    rest = after;
                    Some(new.to_vec())
                }
            };
            edits.push((key, new));
        }
        if !rest.is_empty() {
            return Err(format!("{} bytes of values beyond those of the rows", rest.len()));
        }
        Ok(edits)
    }))
}

/// The values of a payload, still encoded.
struct Values<'a> {
    encoding: Encoding,
    raw_len: usize,
    encoded: &'a [u8],
}

impl Values<'_> {
    fn read(&self, decoder: &mut Decoder, olds: &[u8]) -> Result<Vec<u8>, String> {
        decoder.decode(self.encoding, self.encoded, self.raw_len, olds)
    }
}

type Rows = Vec<(Vec<u8>, u32)>;

/// The keys of a payload, each with what becomes of its row, and the values.
fn keys<'a>(decoder: &mut Decoder, payload: &'a [u8]) -> Result<(Rows, Values<'a>), String> {
    let mut bytes = Bytes::new(payload);
    let what = |malformed: crate::record::Malformed| malformed.what;
    let how = bytes.take(1, "how").map_err(what)?[0];
    let encodings = (encoding(how), encoding(how >> 2));
    let (Some(of_keys @ (Encoding::Raw | Encoding::Zstd)), Some(of_values), 0) =
        (encodings.0, encodings.1, how >> 4)
    else {
        return Err(format!("edits encoded as {how:#04x}, which is none of this version"));
    };
    let len = |bytes: &mut Bytes<'_>, field: &str| match bytes.varint(field).map_err(what)? as usize {
        len if len <= EDITS_BYTES_MAX => Ok(len),
        len => Err(format!("{field} is {len}, expected at most {EDITS_BYTES_MAX}")),
    };
    let keys_len = len(&mut bytes, "keys_len")?;
    let keys_enc_len = if of_keys == Encoding::Raw { keys_len } else { len(&mut bytes, "keys_enc_len")? };
    let encoded = bytes.take(keys_enc_len, "keys").map_err(what)?;
    let decoded = decoder.decode(of_keys, encoded, keys_len, &[])?;
    let raw_len = len(&mut bytes, "values_len")?;
    let values = Values { encoding: of_values, raw_len, encoded: bytes.rest() };

    let mut bytes = Bytes::new(&decoded);
    let mut rows: Rows = Vec::new();
    let mut total = 0;
    while bytes.left() > 0 {
        if rows.len() == EDITS_ROWS_MAX {
            return Err(format!("more than {EDITS_ROWS_MAX} rows"));
        }
        let before = rows.last().map_or(&[][..], |(key, _)| key);
        let shared = bytes.varint("shared").map_err(what)? as usize;
        let len = bytes.varint("length of a key").map_err(what)? as usize;
        if shared > before.len() || shared.saturating_add(len) > KEY_BYTES_MAX {
            return Err(format!("a key that shares {shared} bytes of {} and has {len} more", before.len()));
        }
        let key = [&before[..shared], bytes.take(len, "key").map_err(what)?].concat();
        if !rows.is_empty() && key.as_slice() <= before {
            return Err("keys that do not ascend".to_owned());
        }
        // A byte of one key may stand for one in each that comes after it.
        total += key.len();
        if total > EDITS_BYTES_MAX {
            return Err(format!("keys of more than {EDITS_BYTES_MAX} bytes"));
        }
        rows.push((key, bytes.varint("length of a value").map_err(what)?));
    }
    match rows.is_empty() {
        true => Err("edits of no row".to_owned()),
        false => Ok((rows, values)),
    }
}
