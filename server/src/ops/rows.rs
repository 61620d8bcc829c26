//! Single rows and ranges of them: put, get, delete, scan.

use std::ops::Bound;
use std::time::{Duration, Instant};

use pleach_engine::row::Schema;
use pleach_engine::{Error, Table, Transaction, TransactionOutcome};

use super::{Session, Sink};
use crate::convert;
use crate::error::{Failure, Result};
use crate::proto::{
    DeleteRequest, DeleteResponse, GetRequest, GetResponse, Key, PutRequest, PutResponse, ScanRequest,
    ScanResponse, key,
};

/// How long a put begins again when another transaction was first, and how long it waits between: a refusal names a write that is
/// still on its way to the disk, and a snapshot shows only what has arrived there.
const PUT_AGAIN_MAX: Duration = Duration::from_secs(10);
const PUT_PAUSE: Duration = Duration::from_millis(1);

/// Rows of a scan travel in messages of about so many bytes.
const MESSAGE_BYTES: usize = 64 << 10;

/// Puts one row into a raw table. Whoever puts last wins: a put that met another one begins again.
pub fn put(session: &Session, request: &PutRequest) -> Result<PutResponse> {
    let table = &request.table;
    let deadline = Instant::now() + PUT_AGAIN_MAX;
    loop {
        let mut transaction = session.database.begin(session.branch()?)?;
        match transaction.definition(table)? {
            Some(definition) if definition.schema.is_some() => {
                return Err(Failure::refused(format!(
                    "table `{table}` has typed columns: put writes raw tables only"
                ))
                .hint(format!("use import --upsert with a file that holds the row: `pleach import {table} FILE --upsert`")));
            }
            Some(_) => {}
            None => session.create_table(&mut transaction, table, None)?,
        }
        transaction.put(table, &request.key, &request.value)?;
        match transaction.commit()? {
            TransactionOutcome::Committed(token) | TransactionOutcome::Unchanged(token) => {
                return Ok(PutResponse { token: token.to_string() });
            }
            TransactionOutcome::Refused { .. } if Instant::now() < deadline => std::thread::sleep(PUT_PAUSE),
            TransactionOutcome::Refused { .. } => {
                return Err(Failure::refused(format!(
                    "others write to table `{table}` all the time: nothing was written"
                ))
                .hint("run the command again"));
            }
        }
    }
}

/// The row of one key; absent is "not found".
pub fn get(session: &Session, request: &GetRequest) -> Result<GetResponse> {
    let table = session.table(&request.table, &request.at)?;
    let key = bytes_of(table.schema(), request.key.as_ref())?;
    let Some(value) = table.get(&key)? else { return Err(no_key(&request.table, request.key.as_ref())) };
    Ok(GetResponse {
        schema: table.schema().map(convert::schema_to_message),
        row: Some(convert::row_to_message(table.schema(), key, value)?),
    })
}

/// Deletes the row of one key; absent is "not found".
pub fn delete(session: &Session, request: &DeleteRequest) -> Result<DeleteResponse> {
    let table = &request.table;
    let mut transaction = session.database.begin(session.branch()?)?;
    let definition = transaction.definition(table)?;
    let schema = definition.ok_or_else(|| Error::UnknownTable { name: table.clone() })?.schema;
    let key = bytes_of(schema.as_ref(), request.key.as_ref())?;
    if !transaction.delete(table, &key)? {
        return Err(no_key(table, request.key.as_ref()));
    }
    Ok(DeleteResponse { token: finish(transaction)? })
}

/// The rows from one key to another, in key order.
pub fn scan(session: &Session, request: &ScanRequest, sink: Sink<'_, ScanResponse>) -> Result<()> {
    let table = session.table(&request.table, &request.at)?;
    let bound = |key: &Option<Key>| key.as_ref().map(|key| bytes_of(table.schema(), Some(key))).transpose();
    let (from, to) = (bound(&request.from)?, bound(&request.to)?);
    let limit = if request.limit == 0 { u64::MAX } else { request.limit };
    let mut message =
        ScanResponse { schema: table.schema().map(convert::schema_to_message), rows: Vec::new() };
    let mut bytes = 0;
    for (row, _) in range(&table, from.as_deref(), to.as_deref())?.zip(0..limit) {
        let (key, value) = row?;
        bytes += key.len() + value.len();
        message.rows.push(convert::row_to_message(table.schema(), key, value)?);
        if bytes >= MESSAGE_BYTES {
            sink(std::mem::take(&mut message))?;
            bytes = 0;
        }
    }
    if message.schema.is_some() || !message.rows.is_empty() { sink(message) } else { Ok(()) }
}

/// The rows of `table` in `from..to`; none when the range is turned around.
fn range(table: &Table, from: Option<&[u8]>, to: Option<&[u8]>) -> Result<impl Iterator<Item = RowResult>> {
    let is_empty = matches!((from, to), (Some(from), Some(to)) if from >= to);
    let lower = from.map_or(Bound::Unbounded, Bound::Included);
    let upper = to.map_or(Bound::Unbounded, Bound::Excluded);
    Ok(if is_empty { None } else { Some(table.scan(lower, upper)?) }.into_iter().flatten())
}

type RowResult = pleach_engine::Result<(Vec<u8>, Vec<u8>)>;

/// The bytes that a key is stored under.
fn bytes_of(schema: Option<&Schema>, key: Option<&Key>) -> Result<Vec<u8>> {
    match (schema, key.and_then(|key| key.kind.as_ref())) {
        (_, None) => Err(Failure::usage("a key is missing in the request")),
        (None, Some(key::Kind::Text(text))) => Ok(text.clone().into_bytes()),
        (None, Some(key::Kind::Bytes(bytes))) => Ok(bytes.clone()),
        (Some(schema), Some(key::Kind::Text(text))) => convert::key_bytes(schema, text),
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
        None => String::new(),
    };
    Failure::not_found(format!("no row with key `{key}` in table `{table}`"))
        .hint(format!("`pleach scan {table} --from KEY --limit 10` shows the keys near it"))
}

/// Makes a transaction durable and gives its token.
pub(super) fn finish(transaction: Transaction) -> Result<String> {
    match transaction.commit()? {
        TransactionOutcome::Committed(token) | TransactionOutcome::Unchanged(token) => Ok(token.to_string()),
        TransactionOutcome::Refused { table, key } => Err(Failure::refused(format!(
            "another transaction changed {} table `{table}` meanwhile: nothing was written",
            if key.is_some() { "the same row of" } else { "the" }
        ))
        .hint("run the command again")),
    }
}
