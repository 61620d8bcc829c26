//! Export of a table as a file's bytes: CSV with a header, or JSON Lines.

use std::ops::Bound;

use pleach_engine::row::Schema;

use super::{Session, Sink};
use crate::error::{Failure, Result};
use crate::proto::{ExportRequest, ExportResponse, Format};
use crate::tabular;

/// The file travels in messages of about so many bytes.
const MESSAGE_BYTES: usize = 64 << 10;

/// All rows of a table, in key order, columns in the first file's order.
pub fn export(session: &Session, request: &ExportRequest, sink: Sink<'_, ExportResponse>) -> Result<()> {
    let table = session.table(&request.table, &request.at)?;
    let write = match request.format() {
        Format::Unspecified | Format::Csv => csv_record,
        Format::Jsonl => json_line,
        Format::Tsv => {
            return Err(Failure::usage("export writes csv or jsonl, not tsv")
                .hint("give --format csv or --format jsonl"));
        }
    };
    let mut text = String::new();
    if request.format() != Format::Jsonl {
        match table.schema() {
            Some(schema) => tabular::header_to_csv(&mut text, schema),
            None => text.push_str("key,value"),
        }
        text.push('\n');
    }
    for row in table.scan(Bound::Unbounded, Bound::Unbounded)? {
        let (key, value) = row?;
        write(&mut text, table.schema(), &key, &value)?;
        text.push('\n');
        if text.len() >= MESSAGE_BYTES {
            sink(ExportResponse { data: std::mem::take(&mut text).into_bytes() })?;
        }
    }
    if text.is_empty() { Ok(()) } else { sink(ExportResponse { data: text.into_bytes() }) }
}

fn csv_record(text: &mut String, schema: Option<&Schema>, key: &[u8], value: &[u8]) -> Result<()> {
    if let Some(schema) = schema {
        tabular::row_to_csv(text, schema, &decode(schema, key, value)?);
        return Ok(());
    }
    let utf8 = |bytes| {
        std::str::from_utf8(bytes).map_err(|_| {
            Failure::refused("a row of this raw table is not UTF-8 text, which CSV cannot hold")
                .hint("export it with --format jsonl")
        })
    };
    tabular::write_csv_record(text, [Some(utf8(key)?), Some(utf8(value)?)]);
    Ok(())
}

fn json_line(text: &mut String, schema: Option<&Schema>, key: &[u8], value: &[u8]) -> Result<()> {
    let line = match schema {
        Some(schema) => serde_json::Value::Object(tabular::row_to_json(schema, &decode(schema, key, value)?)),
        None => {
            serde_json::json!({"key": tabular::bytes_to_json(key), "value": tabular::bytes_to_json(value)})
        }
    };
    text.push_str(&line.to_string());
    Ok(())
}

fn decode(schema: &Schema, key: &[u8], value: &[u8]) -> Result<Vec<pleach_engine::row::Value>> {
    let damaged = |error| Failure::damaged(format!("a stored row does not fit its table: {error}"));
    schema.decode_row(key, value).map_err(damaged)
}
