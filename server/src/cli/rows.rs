//! put, get, del, scan.

use serde_json::json;

use super::args::{Del, Get, Put, Scan};
use super::{Context, print};
use crate::error::{Failure, Result};
use crate::proto::{DeleteRequest, GetRequest, Key, PutRequest, ScanRequest, key};

pub(super) fn put(context: &mut Context, arguments: Put) -> Result<()> {
    let (key, value) = if arguments.hex {
        (unhex(&arguments.key)?, unhex(&arguments.value)?)
    } else {
        (arguments.key.into_bytes(), arguments.value.into_bytes())
    };
    let mut backend = context.backend()?;
    let target = backend.target();
    let response =
        backend.put(PutRequest { target, table: arguments.table, key, value, ..PutRequest::default() })?;
    context.written(json!({}), &response.token)
}

pub(super) fn get(context: &mut Context, arguments: Get) -> Result<()> {
    let mut backend = context.backend()?;
    let request = GetRequest {
        target: backend.target_after(&arguments.at.after)?,
        table: arguments.table,
        key: Some(key(arguments.key, arguments.hex)?),
        at: arguments.at.at.unwrap_or_default(),
        absent_ok: false,
    };
    let response = backend.get(request)?;
    let rows = print::Rows::new(response.schema.as_ref(), arguments.hex)?;
    let row = response.row.unwrap_or_default();
    if context.output.json {
        return context.output.document(&rows.json(&row)?);
    }
    context.output.line(rows.value(&row)?)
}

pub(super) fn del(context: &mut Context, arguments: Del) -> Result<()> {
    let key = Some(key(arguments.key, arguments.hex)?);
    let mut backend = context.backend()?;
    let target = backend.target();
    let response = backend.delete(DeleteRequest { target, table: arguments.table, key, absent_ok: false })?;
    context.written(json!({}), &response.token)
}

pub(super) fn scan(context: &mut Context, arguments: Scan) -> Result<()> {
    let hex = arguments.hex;
    if arguments.limit == Some(0) {
        return Ok(());
    }
    let bound = |text: Option<String>| text.map(|text| key(text, hex)).transpose();
    let mut backend = context.backend()?;
    let request = ScanRequest {
        target: backend.target_after(&arguments.at.after)?,
        table: arguments.table,
        from: bound(arguments.from)?,
        to: bound(arguments.to)?,
        limit: arguments.limit.unwrap_or_default(),
        at: arguments.at.at.unwrap_or_default(),
    };
    let mut rows = print::Rows::new(None, hex)?;
    let output = &mut context.output;
    backend.scan(request, &mut |message| {
        if message.schema.is_some() {
            rows = print::Rows::new(message.schema.as_ref(), hex)?;
        }
        for row in &message.rows {
            if output.json {
                output.document(&rows.json(row)?)?;
            } else {
                output.line(rows.line(row)?)?;
            }
        }
        Ok(())
    })
}

fn key(text: String, hex: bool) -> Result<Key> {
    let kind = if hex { key::Kind::Bytes(unhex(&text)?) } else { key::Kind::Text(text) };
    Ok(Key { kind: Some(kind) })
}

/// Bytes from hexadecimal digits.
fn unhex(text: &str) -> Result<Vec<u8>> {
    let digit = |digit: &u8| char::from(*digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let digits: Option<Vec<u8>> = text.as_bytes().iter().map(digit).collect();
    match digits {
        Some(digits) if digits.len() % 2 == 0 => {
            Ok(digits.as_chunks::<2>().0.iter().map(|[high, low]| high << 4 | low).collect())
        }
        _ => Err(Failure::usage(format!(
            "--hex: expected an even number of hexadecimal digits, found `{text}`"
        ))
        .hint("for example ff00; leave --hex out for text")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn hexadecimal_digits_are_bytes_or_a_usage_error() {
        assert_eq!(unhex("00fFa1").unwrap(), [0, 255, 161]);
        assert!(unhex("").unwrap().is_empty());
        for wrong in ["0", "0g", "é", "0x12"] {
            assert_eq!(unhex(wrong).unwrap_err().kind.exit_status(), 2);
        }
    }
}
