//! How rows look: plain text and JSON, of raw tables and of typed ones.

use pleach_engine::row;
use serde_json::{Map, Value, json};

use crate::convert;
use crate::error::Result;
use crate::proto::{CommitInfo, Index, Row, Schema, TableStat};
use crate::tabular;

/// Prints the rows of one table.
#[derive(Default)]
pub(super) struct Rows {
    schema: Option<row::Schema>,
    /// Raw keys and values as hexadecimal digits.
    hex: bool,
}

impl Rows {
    pub(super) fn new(schema: Option<&Schema>, hex: bool) -> Result<Rows> {
        Ok(Rows { schema: schema.map(convert::schema_from_message).transpose()?, hex })
    }

    /// One line: a CSV record, or `KEY<TAB>VALUE` with tab, newline and backslash escaped.
    pub(super) fn line(&self, row: &Row) -> Result<Vec<u8>> {
        match &self.schema {
            Some(schema) => {
                let mut line = String::new();
                tabular::row_to_csv(&mut line, schema, &convert::values_from_message(schema, row)?);
                Ok(line.into_bytes())
            }
            None => {
                let mut line = self.raw(&row.key);
                line.push(b'\t');
                line.extend(self.raw(&row.value));
                Ok(line)
            }
        }
    }

    /// The value alone of a raw row, as it is; the CSV record of a typed one.
    pub(super) fn value(&self, row: &Row) -> Result<Vec<u8>> {
        match &self.schema {
            Some(_) => self.line(row),
            None if self.hex => Ok(self.raw(&row.value)),
            None => Ok(row.value.clone()),
        }
    }

    /// The key alone, as a command line takes it.
    pub(super) fn key(&self, row: &Row) -> Result<Vec<u8>> {
        match &self.schema {
            Some(schema) => {
                let values = convert::values_from_message(schema, row)?;
                Ok(tabular::key_to_csv(schema, &key_values(schema, &values)).into_bytes())
            }
            None => Ok(self.raw(&row.key)),
        }
    }

    /// The whole row: `{"key","value"}`, or an object of column → value.
    pub(super) fn json(&self, row: &Row) -> Result<Value> {
        match &self.schema {
            Some(schema) => {
                Ok(Value::Object(tabular::row_to_json(schema, &convert::values_from_message(schema, row)?)))
            }
            None => Ok(
                json!({"key": tabular::bytes_to_json(&row.key), "value": tabular::bytes_to_json(&row.value)}),
            ),
        }
    }

    /// The key: a string, or an object of the key columns.
    pub(super) fn key_json(&self, row: &Row) -> Result<Value> {
        let Some(schema) = &self.schema else { return Ok(tabular::bytes_to_json(&row.key)) };
        let values = convert::values_from_message(schema, row)?;
        Ok(Value::Object(tabular::key_to_json(schema, &key_values(schema, &values))))
    }

    /// One side of a change: a raw row's value, or a typed one's object; null when it is absent.
    pub(super) fn side_json(&self, row: Option<&Row>) -> Result<Value> {
        match (row, &self.schema) {
            (None, _) => Ok(Value::Null),
            (Some(row), None) => Ok(tabular::bytes_to_json(&row.value)),
            (Some(row), Some(_)) => self.json(row),
        }
    }

    fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        if self.hex {
            return convert::hex_digits(bytes).into_bytes();
        }
        let mut escaped = Vec::with_capacity(bytes.len());
        for byte in bytes {
            match byte {
                b'\t' => escaped.extend(b"\\t"),
                b'\n' => escaped.extend(b"\\n"),
                b'\\' => escaped.extend(b"\\\\"),
                other => escaped.push(*other),
            }
        }
        escaped
    }
}

fn key_values(schema: &row::Schema, values: &[row::Value]) -> Vec<row::Value> {
    let positions = schema.key().iter().filter_map(|id| schema.position(*id));
    positions.filter_map(|position| values.get(position).cloned()).collect()
}

/// A schema as `{"columns": {NAME: TYPE, …}, "key": [NAME, …]}`; a raw table's is `{"raw": true}`.
pub(super) fn schema_to_json(schema: Option<&Schema>) -> Value {
    let Some(schema) = schema else { return json!({"raw": true}) };
    let columns: Map<String, Value> =
        schema.columns.iter().map(|column| (column.name.clone(), column.r#type.clone().into())).collect();
    json!({"columns": columns, "key": key_names(schema)})
}

/// Indexes by name, of a table with this schema.
pub(super) fn indexes_to_json(schema: &Schema, indexes: &[Index]) -> Value {
    let index = |index: &Index| {
        let columns = column_names(schema, &index.columns);
        (index.name.clone(), json!({"columns": columns, "unique": index.unique}))
    };
    Value::Object(indexes.iter().map(index).collect())
}

pub(super) fn key_names(schema: &Schema) -> Vec<&str> {
    column_names(schema, &schema.key)
}

fn column_names<'a>(schema: &'a Schema, ids: &[u32]) -> Vec<&'a str> {
    let name =
        |id: &u32| schema.columns.iter().find(|column| column.id == *id).map(|column| column.name.as_str());
    ids.iter().filter_map(name).collect()
}

/// Microseconds since 1970 as RFC 3339, UTC.
pub(super) fn time(micros: i64) -> String {
    match jiff::Timestamp::from_microsecond(micros) {
        Ok(time) => time.to_string(),
        Err(_) => format!("{micros} µs"),
    }
}

/// A hash, null when there is none.
pub(super) fn hash(hash: &str) -> Value {
    if hash.is_empty() { Value::Null } else { hash.into() }
}

pub(super) fn commit_to_json(commit: &CommitInfo) -> Value {
    json!({
        "hash": commit.hash,
        "parents": commit.parents,
        "author": commit.author,
        "date": time(commit.date_micros),
        "message": commit.message,
    })
}

pub(super) fn stat_to_json(stat: &TableStat) -> Value {
    json!({"table": stat.table, "inserted": stat.inserted, "updated": stat.updated, "deleted": stat.deleted})
}

/// `TABLE: 1 inserted, 2 updated, 3 deleted`.
pub(super) fn stat_line(stat: &TableStat) -> String {
    format!("{}: {} inserted, {} updated, {} deleted", stat.table, stat.inserted, stat.updated, stat.deleted)
}

/// `1 row`, `2 rows`.
pub(super) fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn row(key: &[u8], value: &[u8]) -> Row {
        Row { key: key.to_vec(), value: value.to_vec(), cells: Vec::new() }
    }

    #[test]
    fn raw_rows_escape_what_would_break_their_line() {
        let rows = Rows::default();
        assert_eq!(rows.line(&row(b"a\tb", b"c\nd\\")).unwrap(), b"a\\tb\tc\\nd\\\\");
        assert_eq!(rows.value(&row(b"k", b"c\nd")).unwrap(), b"c\nd");
    }

    #[test]
    fn bytes_that_are_no_text_are_hex_in_json() {
        let json = Rows::default().json(&row(b"k", &[0xff, 0x00])).unwrap();
        assert_eq!(json.to_string(), r#"{"key":"k","value":{"hex":"ff00"}}"#);
    }

    #[test]
    fn times_are_rfc_3339_in_utc() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(1_500_000), "1970-01-01T00:00:01.5Z");
    }
}
