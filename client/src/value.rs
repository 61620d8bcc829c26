//! Cells, keys and rows, as an application has them.

use std::sync::Arc;

use crate::proto::{self, key, value::Kind};

/// One cell of a typed row. Decimals (`12.30`), dates (`2024-02-29`), timestamps (RFC 3339, UTC) and uuids are text in their written form.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Value {
    /// Nothing.
    #[default]
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// Text; decimals, dates, timestamps and uuids, too.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl Value {
    /// The number, if it is a whole one.
    pub fn as_int(&self) -> Option<i64> {
        if let Value::Int(value) = self { Some(*value) } else { None }
    }

    /// The text, if it is text.
    pub fn as_text(&self) -> Option<&str> {
        if let Value::Text(value) = self { Some(value) } else { None }
    }

    pub(crate) fn into_message(self) -> proto::Value {
        let kind = match self {
            Value::Null => None,
            Value::Bool(value) => Some(Kind::Bool(value)),
            Value::Int(value) => Some(Kind::Int(value)),
            Value::Float(value) => Some(Kind::Float(value)),
            Value::Text(value) => Some(Kind::Text(value)),
            Value::Bytes(value) => Some(Kind::Bytes(value)),
        };
        proto::Value { kind }
    }

    fn from_message(message: proto::Value) -> Value {
        match message.kind {
            None => Value::Null,
            Some(Kind::Bool(value)) => Value::Bool(value),
            Some(Kind::Int(value)) => Value::Int(value),
            Some(Kind::Float(value)) => Value::Float(value),
            Some(Kind::Text(value)) => Value::Text(value),
            Some(Kind::Bytes(value)) => Value::Bytes(value),
        }
    }
}

macro_rules! from {
    ($target:ident: $($from:ty => $variant:ident($value:ident) $to:expr;)*) => {
        $(impl From<$from> for $target {
            fn from($value: $from) -> $target {
                $target::$variant($to)
            }
        })*
    };
}

from! { Value:
    bool => Bool(value) value;
    i64 => Int(value) value;
    i32 => Int(value) value.into();
    u32 => Int(value) value.into();
    f64 => Float(value) value;
    &str => Text(value) value.to_owned();
    String => Text(value) value;
    &[u8] => Bytes(value) value.to_vec();
    Vec<u8> => Bytes(value) value;
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

/// Which row.
#[derive(Debug, Clone, PartialEq)]
pub enum Key {
    /// Of a raw table, its text; of a typed one, the key columns as one CSV record.
    Text(String),
    /// Of a raw table.
    Bytes(Vec<u8>),
    /// Of a typed table: the key columns, in key order.
    Cells(Vec<Value>),
}

from! { Key:
    &str => Text(key) key.to_owned();
    &String => Text(key) key.clone();
    String => Text(key) key;
    &[u8] => Bytes(key) key.to_vec();
    Vec<u8> => Bytes(key) key;
    Value => Cells(key) vec![key];
    i64 => Cells(key) vec![key.into()];
    Vec<Value> => Cells(key) key;
}

impl<const N: usize> From<[Value; N]> for Key {
    fn from(key: [Value; N]) -> Key {
        Key::Cells(key.into())
    }
}

impl Key {
    pub(crate) fn into_message(self) -> proto::Key {
        let kind = match self {
            Key::Text(text) => key::Kind::Text(text),
            Key::Bytes(bytes) => key::Kind::Bytes(bytes),
            Key::Cells(cells) => {
                key::Kind::Cells(proto::Cells { cells: cells.into_iter().map(Value::into_message).collect() })
            }
        };
        proto::Key { kind: Some(kind) }
    }
}

/// A row as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    schema: Option<Arc<proto::Schema>>,
    key: Vec<u8>,
    value: Vec<u8>,
    cells: Vec<Value>,
}

impl Row {
    pub(crate) fn from_message(schema: Option<Arc<proto::Schema>>, row: proto::Row) -> Row {
        let proto::Row { key, value, cells } = row;
        Row { schema, key, value, cells: cells.into_iter().map(Value::from_message).collect() }
    }

    /// Its key in a raw table; empty in a typed one.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Its value in a raw table; empty in a typed one.
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// Its cells in a typed table, in the written order of the columns; empty in a raw one.
    pub fn cells(&self) -> &[Value] {
        &self.cells
    }

    /// The cell in the column of this name.
    pub fn get(&self, column: &str) -> Option<&Value> {
        let columns = &self.schema.as_ref()?.columns;
        self.cells.get(columns.iter().position(|found| found.name == column)?)
    }

    /// The names of its columns; none in a raw table.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.schema.iter().flat_map(|schema| schema.columns.iter().map(|column| column.name.as_str()))
    }
}

/// Names and cells, in messages' order.
pub(crate) fn named<N: Into<String>, V: Into<Value>>(
    cells: impl IntoIterator<Item = (N, V)>,
) -> (Vec<String>, Vec<proto::Value>) {
    cells.into_iter().map(|(name, value)| (name.into(), value.into().into_message())).unzip()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn cells_cross_as_they_are() {
        let values = [
            Value::Null,
            true.into(),
            (-7).into(),
            0.1.into(),
            "é".into(),
            vec![0u8, 255].into(),
            Value::from(None::<i64>),
        ];
        for value in values {
            assert_eq!(Value::from_message(value.clone().into_message()), value);
        }
    }

    #[test]
    fn a_cell_is_found_by_the_name_of_its_column() {
        let column = |name: &str| proto::Column { name: name.into(), ..proto::Column::default() };
        let schema = proto::Schema { columns: vec![column("id"), column("name")], key: vec![0] };
        let cells = vec![Value::from(1).into_message(), Value::from("ada").into_message()];
        let row = Row::from_message(Some(Arc::new(schema)), proto::Row { cells, ..proto::Row::default() });
        assert_eq!(row.get("name").and_then(Value::as_text), Some("ada"));
        assert_eq!(row.get("none"), None);
        assert_eq!(row.columns().collect::<Vec<_>>(), ["id", "name"]);
    }
}
