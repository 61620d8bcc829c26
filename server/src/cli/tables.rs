//! table list, show, drop.

use serde_json::{Value, json};

use super::args::Table;
use super::{Context, print};
use crate::error::Result;
use crate::proto::{DropTableRequest, ListTablesRequest, ShowTableRequest, TableInfo};

pub(super) fn table(context: &mut Context, arguments: Table) -> Result<()> {
    let mut backend = context.backend()?;
    match arguments {
        Table::List { at } => {
            let target = backend.target_after(&at.after)?;
            let tables =
                backend.list_tables(ListTablesRequest { target, at: at.at.unwrap_or_default() })?.tables;
            if context.output.json {
                let tables: Vec<Value> = tables.iter().map(to_json).collect();
                return context.output.document(&json!({"tables": tables}));
            }
            for table in tables {
                let kind = if table.schema.is_some() { "typed" } else { "raw" };
                context
                    .output
                    .line(format!("{}\t{kind}\t{} rows\t{} bytes", table.name, table.rows, table.bytes))?;
            }
            Ok(())
        }
        Table::Show { name, at } => {
            let target = backend.target_after(&at.after)?;
            let request = ShowTableRequest { target, table: name, at: at.at.unwrap_or_default() };
            let table = backend.show_table(request)?.table.unwrap_or_default();
            if context.output.json {
                return context.output.document(&to_json(&table));
            }
            plain(context, &table)
        }
        Table::Drop { name } => {
            let target = backend.target();
            let response = backend.drop_table(DropTableRequest { target, table: name })?;
            context.written(json!({}), &response.token)
        }
    }
}

fn plain(context: &mut Context, table: &TableInfo) -> Result<()> {
    context.output.line(format!("table {}", table.name))?;
    match &table.schema {
        None => context.output.line("raw keys and values")?,
        Some(schema) => {
            for column in &schema.columns {
                context.output.line(format!("column {}\t{}", column.name, column.r#type))?;
            }
            context.output.line(format!("key {}", print::key_names(schema).join(", ")))?;
        }
    }
    context.output.line(format!("rows {}", table.rows))?;
    context.output.line(format!("bytes {}", table.bytes))
}

pub(super) fn to_json(table: &TableInfo) -> Value {
    json!({
        "table": table.name,
        "rows": table.rows,
        "bytes": table.bytes,
        "schema": print::schema_to_json(table.schema.as_ref()),
    })
}
