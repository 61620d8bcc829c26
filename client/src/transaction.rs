//! A transaction: a session of the data API with one server, for as long as it takes.
//!
//! One idea: requests are answered in their order, so that who knows how many answers are owed knows which is whose. A call that is
//! dropped before its answer came, or a scan before its end, leaves answers behind, which the next call passes over.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Response, Status, Streaming};

use crate::client::{is_final, refused, row_of};
use crate::database::{Database, Written};
use crate::error::{Error, Failed, Result, status_of};
use crate::nodes::{InUse, Stub};
use crate::proto::session_request::Request as Ask;
use crate::proto::session_response::Response as Said;
use crate::proto::*;
use crate::rows::{KeyRange, Read};
use crate::value::{Key, Row, Value, named};

/// Requests that wait to be sent.
const REQUESTS_WAITING_MAX: usize = 4;

/// A transaction that is under way, with one server. Dropped, it is rolled back.
pub struct Transaction {
    database: Database,
    requests: mpsc::Sender<SessionRequest>,
    answers: Streaming<SessionResponse>,
    /// Requests that were sent and not answered to the end.
    owed: usize,
    is_read_only: bool,
    in_use: InUse,
}

impl std::fmt::Debug for Transaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transaction").field("database", &self.database).finish_non_exhaustive()
    }
}

/// A session in which a transaction was begun.
struct Begun {
    requests: mpsc::Sender<SessionRequest>,
    answers: Streaming<SessionResponse>,
    is_read_only: bool,
}

async fn open(mut stub: Stub, begin: BeginTransaction) -> Result<Response<Begun>, Status> {
    let (requests, receiver) = mpsc::channel(REQUESTS_WAITING_MAX);
    let gone = |_| Status::internal("the session is gone");
    requests.send(SessionRequest { request: Some(Ask::Begin(begin)) }).await.map_err(gone)?;
    let mut answers = stub.session(ReceiverStream::new(receiver)).await?.into_inner();
    match answers.message().await?.and_then(|answer| answer.response) {
        Some(Said::Begun(begun)) => {
            Ok(Response::new(Begun { requests, answers, is_read_only: begun.read_only }))
        }
        Some(Said::Failure(failure)) => Err(status_of(&failure)),
        _ => Err(Status::unavailable("the session ended before it began")),
    }
}

impl Transaction {
    pub(crate) async fn begin(database: &Database) -> Result<Transaction> {
        match database.client().write(Transaction::request(database, false), open).await {
            Ok((begun, in_use)) => Ok(Transaction::new(database, begun.into_inner(), in_use)),
            // Nothing was written.
            Err(Error::Unknown { server, what }) => Err(Error::Lost { server, what }),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn begin_read_only(database: &Database) -> Result<Transaction> {
        let (begun, in_use) = database.client().read(Transaction::request(database, true), open).await?;
        Ok(Transaction::new(database, begun, in_use))
    }

    fn request(database: &Database, read_only: bool) -> BeginTransaction {
        let idle_max = database.client().options().idle_max;
        let idle_max = idle_max.map(|max| u32::try_from(max.as_millis()).unwrap_or(u32::MAX));
        BeginTransaction {
            target: Some(database.target_after()),
            read_only,
            idle_max_millis: idle_max.unwrap_or_default(),
        }
    }

    fn new(database: &Database, begun: Begun, in_use: InUse) -> Transaction {
        let Begun { requests, answers, is_read_only } = begun;
        Transaction { database: database.clone(), requests, answers, owed: 0, is_read_only, in_use }
    }

    /// Whether it can write nothing.
    pub fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// The URL of the server that it is with.
    pub fn server(&self) -> &str {
        &self.in_use.node.url
    }

    /// The row of a key, if there is one.
    ///
    /// # Errors
    /// [`Error::is_not_found`] if there is no such table; [`Error::Ended`], [`Error::Lost`].
    pub async fn get(&mut self, table: &str, key: impl Into<Key>) -> Result<Option<Row>> {
        let key = Some(key.into().into_message());
        match self.ask(Ask::Get(TransactionGet { table: table.to_owned(), key })).await? {
            Said::Row(row) => Ok(row_of(row)),
            _ => Err(self.strange()),
        }
    }

    /// The rows of a range of keys, in key order.
    ///
    /// # Errors
    /// [`Error::is_not_found`] if there is no such table; [`Error::Ended`], [`Error::Lost`].
    pub async fn scan(&mut self, table: &str, range: impl Into<KeyRange>) -> Result<TransactionRows<'_>> {
        let KeyRange { from, to, limit } = range.into();
        let (from, to) = (from.map(Key::into_message), to.map(Key::into_message));
        let first = self.ask(Ask::Scan(TransactionScan { table: table.to_owned(), from, to, limit })).await?;
        let mut rows = TransactionRows { transaction: self, read: Read::default(), is_over: false };
        rows.take(first)?;
        Ok(rows)
    }

    /// Puts a row into a raw table, which is made if it is absent.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Ended`], [`Error::Lost`].
    pub async fn put(&mut self, table: &str, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.put_all(table, [(key, value)]).await
    }

    /// Puts rows into a raw table, all or none.
    ///
    /// # Errors
    /// As [`Transaction::put`].
    pub async fn put_all<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        table: &str,
        rows: impl IntoIterator<Item = (K, V)>,
    ) -> Result<()> {
        let row = |(key, value): (K, V)| NewRow {
            key: key.as_ref().to_vec(),
            value: value.as_ref().to_vec(),
            cells: Vec::new(),
        };
        let rows = rows.into_iter().map(row).collect();
        self.put_rows(TransactionPut { table: table.to_owned(), rows, columns: Vec::new() }).await
    }

    /// Puts a row into a typed table: these columns, and NULL in the others.
    ///
    /// # Errors
    /// As [`Transaction::put`].
    pub async fn put_row<N: Into<String>, V: Into<Value>>(
        &mut self,
        table: &str,
        cells: impl IntoIterator<Item = (N, V)>,
    ) -> Result<()> {
        let (columns, cells) = named(cells);
        let rows = vec![NewRow { cells, ..NewRow::default() }];
        self.put_rows(TransactionPut { table: table.to_owned(), rows, columns }).await
    }

    async fn put_rows(&mut self, put: TransactionPut) -> Result<()> {
        match self.ask(Ask::Put(put)).await? {
            Said::Put(RowsPut {}) => Ok(()),
            _ => Err(self.strange()),
        }
    }

    /// Deletes a row; says whether there was one.
    ///
    /// # Errors
    /// As [`Transaction::put`].
    pub async fn delete(&mut self, table: &str, key: impl Into<Key>) -> Result<bool> {
        let keys = vec![key.into().into_message()];
        match self.ask(Ask::Delete(TransactionDelete { table: table.to_owned(), keys })).await? {
            Said::Deleted(RowsDeleted { count }) => Ok(count > 0),
            _ => Err(self.strange()),
        }
    }

    /// Commits: durable when it returns.
    ///
    /// # Errors
    /// [`Error::Conflict`] if another transaction was first; [`Error::Ended`], [`Error::Refused`]: nothing was written. [`Error::Unknown`] if the answer was
    /// lost.
    pub async fn commit(mut self) -> Result<Written> {
        match self.ask(Ask::Commit(CommitTransaction {})).await {
            Ok(Said::Committed(TransactionCommitted { token, warnings })) => {
                Ok(self.database.written(&token, warnings))
            }
            Ok(_) => Err(self.strange()),
            Err(Error::Lost { server, what }) if !self.is_read_only => Err(Error::Unknown { server, what }),
            Err(error) => Err(error),
        }
    }

    /// Rolls back, and returns when the server has done so. Dropping the transaction does the same, soon.
    ///
    /// # Errors
    /// [`Error::Ended`], [`Error::Lost`]: rolled back, too.
    pub async fn rollback(mut self) -> Result<()> {
        self.ask(Ask::Rollback(RollbackTransaction {})).await.map(drop)
    }

    /// Sends a request and waits for its answer, the first message of it.
    async fn ask(&mut self, ask: Ask) -> Result<Said> {
        // An error means that the session is over; what it answered last says why.
        if self.requests.send(SessionRequest { request: Some(ask) }).await.is_ok() {
            self.owed += 1;
        }
        self.heard().await
    }

    /// The next message of the answer to the last request.
    async fn heard(&mut self) -> Result<Said> {
        loop {
            let heard = match self.answers.message().await {
                Ok(Some(heard)) => heard,
                Ok(None) => return Err(self.over(&Status::unavailable("the session ended")).await),
                Err(status) => return Err(self.over(&status).await),
            };
            let is_ours = self.owed <= 1;
            if is_final(&heard) {
                self.owed = self.owed.saturating_sub(1);
            }
            match heard.response {
                _ if !is_ours => {}
                Some(Said::Failure(failure)) => {
                    return Err(match Failed::of(self.server(), &status_of(&failure)) {
                        // Where the transaction ends, with a change of role, it can begin again.
                        Failed::Answered(refusal) if refusal.role.is_some() => Error::Ended(refusal),
                        Failed::Answered(refusal) => refused(refusal),
                        failed => Error::Lost { server: self.server().to_owned(), what: failed.what() },
                    });
                }
                Some(said) => return Ok(said),
                None => return Err(self.strange()),
            }
        }
    }

    /// What it means that the session is over.
    async fn over(&self, status: &Status) -> Error {
        match Failed::of(self.server(), status) {
            Failed::Answered(refusal) if [Code::Unavailable, Code::Aborted].contains(&refusal.code) => {
                Error::Ended(refusal)
            }
            Failed::Answered(refusal) => Error::Refused(refusal),
            failed => {
                self.database.client().lost(&self.in_use.node).await;
                Error::Lost { server: self.server().to_owned(), what: failed.what() }
            }
        }
    }

    fn strange(&self) -> Error {
        Error::Strange { server: self.server().to_owned(), what: "another answer than was asked for" }
    }
}

/// The rows of a scan in a transaction. Dropped before its end, the rest is not read.
pub struct TransactionRows<'a> {
    transaction: &'a mut Transaction,
    read: Read,
    is_over: bool,
}

impl TransactionRows<'_> {
    /// The next one; `None` after the last.
    ///
    /// # Errors
    /// [`Error::Ended`], [`Error::Lost`], [`Error::Refused`].
    pub async fn next(&mut self) -> Result<Option<Row>> {
        loop {
            if let Some(row) = self.read.next() {
                return Ok(Some(row));
            }
            if self.is_over {
                return Ok(None);
            }
            match self.transaction.heard().await {
                Ok(said) => self.take(said)?,
                Err(error) => {
                    self.is_over = true;
                    return Err(error);
                }
            }
        }
    }

    /// All that are left.
    ///
    /// # Errors
    /// As [`TransactionRows::next`].
    pub async fn all(mut self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        while let Some(row) = self.next().await? {
            rows.push(row);
        }
        Ok(rows)
    }

    fn take(&mut self, said: Said) -> Result<()> {
        let Said::Rows(ScannedRows { schema, rows, last }) = said else {
            self.is_over = true;
            return Err(self.transaction.strange());
        };
        self.read.add(schema, rows);
        self.is_over = last;
        Ok(())
    }
}

impl Drop for TransactionRows<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            // Where that cannot be sent now, the rest is read and passed over.
            let _ = self
                .transaction
                .requests
                .try_send(SessionRequest { request: Some(Ask::EndScan(EndScan {})) });
        }
    }
}
