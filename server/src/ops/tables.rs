//! The tables of one state: list, show, drop.

use pleach_engine::{Error, Table};

use super::{Session, rows};
use crate::convert;
use crate::error::Result;
use crate::proto::{
    DropTableRequest, DropTableResponse, ListTablesRequest, ListTablesResponse, ShowTableRequest,
    ShowTableResponse, TableInfo,
};

/// All tables, by name.
pub fn list(session: &Session, request: &ListTablesRequest) -> Result<ListTablesResponse> {
    let tables = session.snapshot(&request.at)?.tables()?;
    let tables = tables.into_iter().map(|(name, table)| info(name, &table)).collect::<Result<_>>()?;
    Ok(ListTablesResponse { tables })
}

/// One table.
pub fn show(session: &Session, request: &ShowTableRequest) -> Result<ShowTableResponse> {
    let table = session.table(&request.table, &request.at)?;
    Ok(ShowTableResponse { table: Some(info(request.table.clone(), &table)?) })
}

/// Drops a table and its rows.
pub fn drop(session: &Session, request: &DropTableRequest) -> Result<DropTableResponse> {
    let mut transaction = session.database.begin(session.branch()?)?;
    if !transaction.has_table(&request.table)? {
        return Err(Error::UnknownTable { name: request.table.clone() }.into());
    }
    transaction.drop_table(&request.table)?;
    Ok(DropTableResponse { token: rows::finish(transaction)? })
}

pub(super) fn info(name: String, table: &Table) -> Result<TableInfo> {
    Ok(TableInfo {
        name,
        schema: table.schema().map(convert::schema_to_message),
        rows: table.rows()?,
        bytes: table.bytes()?,
    })
}
