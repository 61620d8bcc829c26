//! Rows as CSV records and as JSON objects.
//!
//! The one idea: what is written reads back to the same values. A CSV field is quoted only when it must be: when it
//! holds a comma, a quote or a line end, and when it is empty text, because an empty unquoted field is NULL.

use pleach_engine::row::{Column, Schema, Type, Value};
use serde_json::{Map, Number, Value as Json};

/// Appends a CSV record without its line end; `None` is NULL.
pub fn write_csv_record<'a>(out: &mut String, fields: impl IntoIterator<Item = Option<&'a str>>) {
    for (index, field) in fields.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        match field {
            None => {}
            Some(text) if text.is_empty() || text.contains([',', '"', '\r', '\n']) => {
                out.push('"');
                out.push_str(&text.replace('"', "\"\""));
                out.push('"');
            }
            Some(text) => out.push_str(text),
        }
    }
}

/// Appends the header's record: the columns' names.
pub fn header_to_csv(out: &mut String, schema: &Schema) {
    write_csv_record(out, schema.columns().iter().map(|column| Some(column.name.as_str())));
}

/// Appends a row's record, its `values` being in column order.
pub fn row_to_csv(out: &mut String, schema: &Schema, values: &[Value]) {
    write_values(out, schema.columns().iter(), values);
}

/// The record of a key's `values`, in key order.
pub fn key_to_csv(schema: &Schema, values: &[Value]) -> String {
    let mut out = String::new();
    write_values(&mut out, schema.key_columns(), values);
    out
}

fn write_values<'a>(out: &mut String, columns: impl Iterator<Item = &'a Column>, values: &[Value]) {
    let texts: Vec<_> = columns.zip(values).map(|(column, value)| value.to_text(&column.ty)).collect();
    write_csv_record(out, texts.iter().map(Option::as_deref));
}

/// The object of a row, its `values` being in column order.
pub fn row_to_json(schema: &Schema, values: &[Value]) -> Map<String, Json> {
    to_json(schema.columns().iter(), values)
}

/// The object of a key's `values`, in key order.
pub fn key_to_json(schema: &Schema, values: &[Value]) -> Map<String, Json> {
    to_json(schema.key_columns(), values)
}

fn to_json<'a>(columns: impl Iterator<Item = &'a Column>, values: &[Value]) -> Map<String, Json> {
    columns
        .zip(values)
        .map(|(column, value)| (column.name.clone(), value_to_json(&column.ty, value)))
        .collect()
}

/// A value of type `ty` in JSON: int and float are numbers (a NaN or an infinity, which JSON lacks, is a string), bool
/// is a bool, NULL is null, bytes are as [`bytes_to_json`] says, and all else is a string of the canonical text.
pub fn value_to_json(ty: &Type, value: &Value) -> Json {
    match value {
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => Json::Number(Number::from(*value)),
        Value::Bytes(bytes) => bytes_to_json(bytes),
        Value::Float(float) => {
            // A whole number is written without a point, as in its canonical text.
            let text = value.to_text(ty).unwrap_or_default();
            match text.parse::<i64>() {
                Ok(whole) => Json::Number(Number::from(whole)),
                Err(_) => Number::from_f64(*float).map_or(Json::String(text), Json::Number),
            }
        }
        _ => value.to_text(ty).map_or(Json::Null, Json::String),
    }
}

/// Bytes in JSON: a string if they are UTF-8, else `{"hex":"00ff"}`.
pub fn bytes_to_json(bytes: &[u8]) -> Json {
    match std::str::from_utf8(bytes) {
        Ok(text) => Json::String(text.to_owned()),
        Err(_) => {
            let digits = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            Json::Object(Map::from_iter([("hex".to_owned(), Json::String(digits))]))
        }
    }
}
