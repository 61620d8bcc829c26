//! Single rows and ranges of them: put, get, delete, scan.

use std::ops::Bound;
use std::time::{Duration, Instant};

use pleach_engine::row::{self, Schema};
use pleach_engine::{Error, Transaction, TransactionOutcome};

use super::{Session, Sink};
use crate::convert;
use crate::error::{Failure, Result};
use crate::proto::{
    DeleteRequest, DeleteResponse, GetRequest, GetResponse, Key, PutRequest, PutResponse, Row, ScanRequest,
    ScanResponse, Value, key,
};

/// How long a put begins again when another transaction was first, and how long it waits between: a refusal names a write that is
/// still on its way to the disk, and a snapshot shows only what has arrived there.
const PUT_AGAIN_MAX: Duration = Duration::from_secs(10);
const PUT_PAUSE: Duration = Duration::from_millis(1);

/// Rows of a scan travel in messages of about so many bytes.
const MESSAGE_BYTES: usize = 64 << 10;

/// Puts one row. Whoever puts last wins: a put that met another one begins again.
pub fn put(session: &Session, request: &PutRequest) -> Result<PutResponse> {
    let table = &request.table;
    let deadline = Instant::now() + PUT_AGAIN_MAX;
    loop {
        let mut transaction = session.database.begin(session.branch()?)?;
        let cells = (request.columns.as_slice(), request.cells.as_slice());
        put_row(session, &mut transaction, table, (&request.key, &request.value), cells)?;
        match transaction.commit()? {
            TransactionOutcome::Committed(token) | TransactionOutcome::Unchanged(token) => {
                return Ok(PutResponse { token: token.to_string() });
            }
            TransactionOutcome::Refused { .. } if Instant::now() < deadline => std::thread::sleep(PUT_PAUSE),
            TransactionOutcome::Refused { .. } => {
                return Err(Failure::conflict(format!(
                    "others write to table `{table}` all the time: nothing was written"
                ))
                .hint("run the command again"));
            }
        }
    }
}

/// Puts one row: `raw` is its key and value in a raw table, which is made if it is absent; `cells` are, in a typed one, some columns and
/// their values.
pub(super) fn put_row(
    session: &Session,
    transaction: &mut Transaction,
    table: &str,
    raw: (&[u8], &[u8]),
    cells: (&[String], &[Value]),
) -> Result<()> {
    let is_typed = !cells.1.is_empty();
    match transaction.definition(table)? {
        Some(definition) => match (definition.schema, is_typed) {
            (Some(schema), true) => {
                let (key, value) = typed_row(table, &schema, cells.0, cells.1)?;
                return Ok(transaction.put(table, &key, &value)?);
            }
            (Some(_), false) => {
                return Err(Failure::refused(format!(
                    "table `{table}` has typed columns: put writes raw tables only"
                ))
                .hint(format!("use import --upsert with a file that holds the row: `pleach import {table} FILE --upsert`; over the data API, give its cells")));
            }
            (None, true) => {
                return Err(Failure::refused(format!("table `{table}` holds raw keys and values, no cells"))
                    .hint("give a key and a value"));
            }
            (None, false) => {}
        },
        None if is_typed => {
            return Err(Error::UnknownTable { name: table.to_owned() }.into());
        }
        None => session.create_table(transaction, table, None)?,
    }
    Ok(transaction.put(table, raw.0, raw.1)?)
}

/// The stored form of a row with these cells in these columns, and NULL in the others.
fn typed_row(table: &str, schema: &Schema, names: &[String], cells: &[Value]) -> Result<(Vec<u8>, Vec<u8>)> {
    let columns = schema.columns();
    let count = if names.is_empty() { columns.len() } else { names.len() };
    if cells.len() != count {
        return Err(Failure::usage(format!(
            "table `{table}`: expected {count} cells in a row, found {}",
            cells.len()
        ))
        .hint("give a cell for each column that is named, or for all of the table in their order"));
    }
    if names.is_empty() {
        let values = convert::values_of_cells(columns, cells)?;
        return Ok(schema.encode_row(&values)?);
    }
    let mut values = vec![row::Value::Null; columns.len()];
    for (index, (name, cell)) in names.iter().zip(cells).enumerate() {
        if names.iter().take(index).any(|before| before == name) {
            return Err(Failure::usage(format!("column `{name}` is named twice")).hint("name it once"));
        }
        let column = columns.iter().zip(&mut values).find(|(column, _)| column.name == *name);
        let (column, value) = column.ok_or_else(|| {
            Failure::not_found(format!("table `{table}` has no column `{name}`"))
                .hint(format!("`pleach table show {table}` lists its columns"))
        })?;
        *value = convert::value_of_cell(column, cell)?;
    }
    Ok(schema.encode_row(&values)?)
}

/// The row of one key; absent is "not found", unless that is asked for otherwise.
pub fn get(session: &Session, request: &GetRequest) -> Result<GetResponse> {
    let table = session.table(&request.table, &request.at)?;
    let key = bytes_of(table.schema(), request.key.as_ref())?;
    let value = table.get(&key)?;
    if value.is_none() && !request.absent_ok {
        return Err(no_key(&request.table, request.key.as_ref()));
    }
    let row = value.map(|value| convert::row_to_message(table.schema(), key, value)).transpose()?;
    Ok(GetResponse { schema: table.schema().map(convert::schema_to_message), row })
}

/// Deletes the row of one key; absent is "not found", unless that is asked for otherwise.
pub fn delete(session: &Session, request: &DeleteRequest) -> Result<DeleteResponse> {
    let table = &request.table;
    let mut transaction = session.database.begin(session.branch()?)?;
    let definition = transaction.definition(table)?;
    let schema = definition.ok_or_else(|| Error::UnknownTable { name: table.clone() })?.schema;
    let key = bytes_of(schema.as_ref(), request.key.as_ref())?;
    let deleted = transaction.delete(table, &key)?;
    if !deleted && !request.absent_ok {
        return Err(no_key(table, request.key.as_ref()));
    }
    Ok(DeleteResponse { token: finish(transaction)?, deleted })
}

/// The rows from one key to another, in key order.
pub fn scan(session: &Session, request: &ScanRequest, sink: Sink<'_, ScanResponse>) -> Result<()> {
    let table = session.table(&request.table, &request.at)?;
    let range = bounds(table.schema(), request.from.as_ref(), request.to.as_ref())?;
    let rows = range.map(|range| table.scan(borrowed(&range.0), borrowed(&range.1))).transpose()?;
    let mut schema = table.schema().map(convert::schema_to_message);
    in_messages(table.schema(), rows.into_iter().flatten(), request.limit, |rows, _| {
        let message = ScanResponse { schema: schema.take(), rows };
        if message.schema.is_some() || !message.rows.is_empty() { sink(message) } else { Ok(()) }
    })
}

/// Both ends of a range of stored keys.
type Range = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// The range from one key to another; none when it is turned around.
pub(super) fn bounds(schema: Option<&Schema>, from: Option<&Key>, to: Option<&Key>) -> Result<Option<Range>> {
    let bytes = |key: Option<&Key>| key.map(|key| bytes_of(schema, Some(key))).transpose();
    let (from, to) = (bytes(from)?, bytes(to)?);
    let is_empty = matches!((&from, &to), (Some(from), Some(to)) if from >= to);
    let range =
        (from.map_or(Bound::Unbounded, Bound::Included), to.map_or(Bound::Unbounded, Bound::Excluded));
    Ok((!is_empty).then_some(range))
}

/// An end of a range, as the engine takes it.
pub(super) fn borrowed(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

/// Hands on rows, at most `limit` if that is not 0, in messages of a bounded size, and says of each whether it is the last. There is at least one.
pub(super) fn in_messages(
    schema: Option<&Schema>,
    rows: impl Iterator<Item = RowResult>,
    limit: u64,
    mut send: impl FnMut(Vec<Row>, bool) -> Result<()>,
) -> Result<()> {
    let limit = if limit == 0 { u64::MAX } else { limit };
    let (mut message, mut bytes) = (Vec::new(), 0);
    for (row, _) in rows.zip(0..limit) {
        let (key, value) = row?;
        bytes += key.len() + value.len();
        message.push(convert::row_to_message(schema, key, value)?);
        if bytes >= MESSAGE_BYTES {
            send(std::mem::take(&mut message), false)?;
            bytes = 0;
        }
    }
    send(message, true)
}

type RowResult = pleach_engine::Result<(Vec<u8>, Vec<u8>)>;

/// The bytes that a key is stored under.
pub(super) fn bytes_of(schema: Option<&Schema>, key: Option<&Key>) -> Result<Vec<u8>> {
    match (schema, key.and_then(|key| key.kind.as_ref())) {
        (_, None) => Err(Failure::usage("a key is missing in the request")),
        (None, Some(key::Kind::Text(text))) => Ok(text.clone().into_bytes()),
        (None, Some(key::Kind::Bytes(bytes))) => Ok(bytes.clone()),
        (Some(schema), Some(key::Kind::Text(text))) => convert::key_bytes(schema, text),
        (Some(schema), Some(key::Kind::Cells(key))) => {
            let values = convert::values_of_cells(schema.key_columns(), &key.cells)?;
            Ok(schema.encode_key(&values)?)
        }
        (None, Some(key::Kind::Cells(_))) => {
            Err(Failure::usage("the table holds raw keys and values: its keys have no cells")
                .hint("give the key as text or bytes"))
        }
        (Some(_), Some(key::Kind::Bytes(_))) => {
            Err(Failure::usage("the table has typed columns: its keys are no plain bytes")
                .hint("give the key columns as one CSV record, without --hex"))
        }
    }
}

fn no_key(table: &str, key: Option<&Key>) -> Failure {
    let key = match key.and_then(|key| key.kind.as_ref()) {
        Some(key::Kind::Text(text)) => text.clone(),
        Some(key::Kind::Bytes(bytes)) => convert::hex_digits(bytes),
        Some(key::Kind::Cells(key)) => {
            let cells: Vec<_> = key.cells.iter().map(convert::shown).collect();
            cells.join(",")
        }
        None => String::new(),
    };
    Failure::not_found(format!("no row with key `{key}` in table `{table}`"))
        .hint(format!("`pleach scan {table} --from KEY --limit 10` shows the keys near it"))
}

/// Makes a transaction durable and gives its token.
pub(super) fn finish(transaction: Transaction) -> Result<String> {
    match transaction.commit()? {
        TransactionOutcome::Committed(token) | TransactionOutcome::Unchanged(token) => Ok(token.to_string()),
        TransactionOutcome::Refused { table, key } => Err(Failure::conflict(format!(
            "another transaction changed {} table `{table}` meanwhile: nothing was written",
            if key.is_some() { "the same row of" } else { "the" }
        ))
        .hint("run the command again, or begin the transaction again")),
    }
}
