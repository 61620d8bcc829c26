//! Between the engine's typed rows and the data API's messages. The two directions are inverses for every row that fits
//! its schema; what a server sends that does not fit is an error, never a wrong row.

use pleach_engine::row::{self, Type};

use crate::error::{Failure, Result};
use crate::proto::{Column, Row, Schema, Value, value::Kind};
use crate::tabular;

/// A schema as a message.
pub(crate) fn schema_to_message(schema: &row::Schema) -> Schema {
    let columns = schema.columns().iter();
    Schema {
        columns: columns
            .map(|column| Column { id: column.id, name: column.name.clone(), r#type: column.ty.to_string() })
            .collect(),
        key: schema.key().to_vec(),
    }
}

/// A schema from a message.
pub(crate) fn schema_from_message(message: &Schema) -> Result<row::Schema> {
    let column = |column: &Column| {
        let ty: Type = column.r#type.parse().map_err(|error| strange(format!("column type: {error}")))?;
        Ok(row::Column { id: column.id, name: column.name.clone(), ty })
    };
    let columns = message.columns.iter().map(column).collect::<Result<_>>()?;
    row::Schema::new(columns, message.key.clone()).map_err(|error| strange(error.to_string()))
}

/// A stored row as a message.
pub(crate) fn row_to_message(schema: Option<&row::Schema>, key: Vec<u8>, value: Vec<u8>) -> Result<Row> {
    let Some(schema) = schema else { return Ok(Row { key, value, cells: Vec::new() }) };
    let values = schema.decode_row(&key, &value).map_err(damaged)?;
    let cells = schema.columns().iter().zip(values).map(|(column, value)| cell(value, &column.ty)).collect();
    Ok(Row { cells, ..Row::default() })
}

/// A stored key as a message: a row with nothing else in it.
pub(crate) fn key_to_message(schema: Option<&row::Schema>, key: Vec<u8>) -> Result<Row> {
    let Some(schema) = schema else { return Ok(Row { key, ..Row::default() }) };
    let values = schema.decode_key(&key).map_err(damaged)?;
    let mut cells = vec![Value::default(); schema.columns().len()];
    for (id, value) in schema.key().iter().zip(values) {
        let position = schema
            .position(*id)
            .and_then(|position| Some((cells.get_mut(position)?, schema.columns().get(position)?)));
        if let Some((slot, column)) = position {
            *slot = cell(value, &column.ty);
        }
    }
    Ok(Row { cells, ..Row::default() })
}

/// The cells of a typed row's message, in column order.
pub(crate) fn values_from_message(schema: &row::Schema, row: &Row) -> Result<Vec<row::Value>> {
    if row.cells.len() != schema.columns().len() {
        return Err(strange(format!(
            "expected {} cells in a row, found {}",
            schema.columns().len(),
            row.cells.len()
        )));
    }
    let cells = schema.columns().iter().zip(&row.cells);
    cells.map(|(column, cell)| value(cell, &column.ty).map_err(strange)).collect()
}

/// The values of the cells that a client gives for these columns.
pub(crate) fn values_of_cells<'a>(
    columns: impl IntoIterator<Item = &'a row::Column, IntoIter: ExactSizeIterator>,
    cells: &[Value],
) -> Result<Vec<row::Value>> {
    let columns = columns.into_iter();
    if columns.len() != cells.len() {
        return Err(Failure::usage(format!("expected {} cells, found {}", columns.len(), cells.len()))
            .hint("give one for each column, in their order"));
    }
    columns.zip(cells).map(|(column, cell)| value_of_cell(column, cell)).collect()
}

/// The value of the cell that a client gives for a column.
pub(crate) fn value_of_cell(column: &row::Column, cell: &Value) -> Result<row::Value> {
    let refused = |what| {
        Failure::refused(format!("column `{}`: {what}", column.name))
            .hint("give it as the column's type is written: `pleach table show TABLE` shows the types")
    };
    value(cell, &column.ty).map_err(refused)
}

/// A cell as words show it.
pub(crate) fn shown(cell: &Value) -> String {
    match &cell.kind {
        None => String::new(),
        Some(Kind::Bool(value)) => value.to_string(),
        Some(Kind::Int(value)) => value.to_string(),
        Some(Kind::Float(value)) => value.to_string(),
        Some(Kind::Text(value)) => value.clone(),
        Some(Kind::Bytes(value)) => hex_digits(value),
    }
}

/// The stored key that a CSV record of the key columns means.
pub(crate) fn key_bytes(schema: &row::Schema, text: &str) -> Result<Vec<u8>> {
    let values = tabular::parse_key(schema, text)?;
    Ok(schema.encode_key(&values).map_err(pleach_engine::Error::from)?)
}

/// Bytes as lowercase hexadecimal digits.
pub(crate) fn hex_digits(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut digits, byte| {
        // Writing to a String cannot fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

fn cell(value: row::Value, ty: &Type) -> Value {
    let kind = match value {
        row::Value::Null => None,
        row::Value::Bool(value) => Some(Kind::Bool(value)),
        row::Value::Int(value) => Some(Kind::Int(value)),
        row::Value::Float(value) => Some(Kind::Float(value)),
        row::Value::Text(value) => Some(Kind::Text(value)),
        row::Value::Bytes(value) => Some(Kind::Bytes(value)),
        written => written.to_text(ty).map(Kind::Text),
    };
    Value { kind }
}

fn value(cell: &Value, ty: &Type) -> std::result::Result<row::Value, String> {
    Ok(match (cell.kind.as_ref(), ty) {
        (None, _) => row::Value::Null,
        (Some(Kind::Bool(value)), Type::Bool) => row::Value::Bool(*value),
        (Some(Kind::Int(value)), Type::Int) => row::Value::Int(*value),
        (Some(Kind::Float(value)), Type::Float) => row::Value::Float(*value),
        (Some(Kind::Text(value)), Type::Text) => row::Value::Text(value.clone()),
        (Some(Kind::Bytes(value)), Type::Bytes) => row::Value::Bytes(value.clone()),
        (Some(Kind::Text(text)), Type::Decimal { .. } | Type::Date | Type::Timestamp | Type::Uuid) => {
            row::Value::parse(text, ty).map_err(|error| error.to_string())?
        }
        (Some(found), ty) => return Err(format!("expected a cell of type {ty}, found {found:?}")),
    })
}

fn damaged(error: row::Error) -> Failure {
    Failure::damaged(format!("a stored row does not fit its table: {error}"))
}

fn strange(what: String) -> Failure {
    Failure::remote(format!("the server sent what this command cannot read: {what}"))
        .hint("use a command and a server of one version")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn schema() -> row::Schema {
        let types = ["int", "text", "bool", "float", "decimal(9,2)", "bytes", "date", "timestamp", "uuid"];
        let column = |(id, ty): (usize, &&str)| row::Column {
            id: id as u32,
            name: format!("c{id}"),
            ty: ty.parse().unwrap(),
        };
        row::Schema::new(types.iter().enumerate().map(column).collect(), vec![1, 0]).unwrap()
    }

    fn values() -> Vec<row::Value> {
        use row::Value::{Bool, Bytes, Date, Decimal, Float, Int, Null, Timestamp, Uuid};
        vec![
            Int(-7),
            row::Value::Text("é".into()),
            Bool(true),
            Float(0.1),
            Decimal(-1230),
            Bytes(vec![0, 255]),
            Date(19782),
            Timestamp(1),
            Uuid([7; 16]),
            Null,
        ]
        .into_iter()
        .take(9)
        .collect()
    }

    #[test]
    fn schemas_and_rows_of_every_type_cross_as_they_are() {
        let schema = schema();
        let there = schema_from_message(&schema_to_message(&schema)).unwrap();
        assert_eq!(there, schema);
        let (key, value) = schema.encode_row(&values()).unwrap();
        let row = row_to_message(Some(&schema), key, value).unwrap();
        assert_eq!(values_from_message(&there, &row).unwrap(), values());
    }

    #[test]
    fn a_key_alone_has_null_in_all_other_cells() {
        let schema = schema();
        let (key, _) = schema.encode_row(&values()).unwrap();
        let row = key_to_message(Some(&schema), key).unwrap();
        let cells = values_from_message(&schema, &row).unwrap();
        assert_eq!(cells[..2], values()[..2]);
        assert!(cells[2..].iter().all(row::Value::is_null));
    }

    #[test]
    fn a_row_that_does_not_fit_its_schema_is_refused() {
        let schema = schema();
        assert!(values_from_message(&schema, &Row::default()).is_err());
        let mut row = row_to_message(
            Some(&schema),
            schema.encode_row(&values()).unwrap().0,
            schema.encode_row(&values()).unwrap().1,
        )
        .unwrap();
        row.cells.swap(0, 1);
        assert!(values_from_message(&schema, &row).is_err());
    }
}
