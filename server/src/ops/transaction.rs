//! A transaction that lasts over several requests, as a session of the data API holds one: reads of one state and of its own changes,
//! writes, and in the end a commit or nothing.

use pleach_engine::{Definition, Error, Scan, Snapshot, Transaction};

use super::rows::{self, borrowed, bounds, bytes_of};
use super::{Session, Sink};
use crate::convert;
use crate::error::Result;
use crate::proto::{
    GetResponse, ScannedRows, TransactionDelete, TransactionGet, TransactionPut, TransactionScan,
};

/// A transaction that is under way. Dropped, it leaves no trace.
pub struct Open {
    session: Session,
    /// Name of the database.
    database: String,
    state: State,
}

enum State {
    /// A state that is only read.
    Fixed(Snapshot),
    /// A branch's work, and what is changed in it.
    Work(Box<Transaction>),
}

impl Open {
    /// Begins one where the session is, in the database of this name. On a tag or commit it is read-only, asked for or not.
    pub fn begin(session: Session, read_only: bool, database: &str) -> Result<Open> {
        let state = match read_only || session.here().is_err() {
            true => State::Fixed(session.snapshot("")?),
            false => State::Work(Box::new(session.database.begin(session.branch()?)?)),
        };
        Ok(Open { session, database: database.to_owned(), state })
    }

    /// Whether it can write nothing.
    pub fn is_read_only(&self) -> bool {
        matches!(self.state, State::Fixed(_))
    }

    /// Name of the database.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The branch, tag or commit that it is on.
    pub fn place(&self) -> &str {
        self.session.place()
    }

    /// The row of a key, if there is one.
    pub fn get(&mut self, request: &TransactionGet) -> Result<GetResponse> {
        let schema = self.definition(&request.table)?.schema;
        let key = bytes_of(schema.as_ref(), request.key.as_ref())?;
        let value = match &mut self.state {
            State::Work(transaction) => transaction.get(&request.table, &key)?,
            State::Fixed(snapshot) => {
                snapshot.table(&request.table)?.map(|table| table.get(&key)).transpose()?.flatten()
            }
        };
        let row = value.map(|value| convert::row_to_message(schema.as_ref(), key, value)).transpose()?;
        Ok(GetResponse { schema: schema.as_ref().map(convert::schema_to_message), row })
    }

    /// The rows from one key to another, in key order.
    pub fn scan(&mut self, request: &TransactionScan, sink: Sink<'_, ScannedRows>) -> Result<()> {
        let schema = self.definition(&request.table)?.schema;
        let (from, to) = (request.from.as_ref(), request.to.as_ref());
        let range = bounds(schema.as_ref(), from, to)?;
        let rows: Option<Scan> = match (range, &mut self.state) {
            (None, _) => None,
            (Some((from, to)), State::Work(transaction)) => {
                Some(transaction.scan(&request.table, borrowed(&from), borrowed(&to))?)
            }
            (Some((from, to)), State::Fixed(snapshot)) => {
                let table = snapshot.table(&request.table)?;
                table.map(|table| table.scan(borrowed(&from), borrowed(&to))).transpose()?
            }
        };
        let rows = rows.into_iter().flatten();
        let mut first = schema.as_ref().map(convert::schema_to_message);
        rows::in_messages(schema.as_ref(), rows, request.limit, |rows, last| {
            sink(ScannedRows { schema: first.take(), rows, last })
        })
    }

    /// Writes rows, all or none. A raw table is made if it is absent.
    pub fn put(&mut self, request: &TransactionPut) -> Result<()> {
        self.all_or_nothing(|session, transaction| {
            for row in &request.rows {
                let cells = (request.columns.as_slice(), row.cells.as_slice());
                rows::put_row(session, transaction, &request.table, (&row.key, &row.value), cells)?;
            }
            Ok(())
        })
    }

    /// Deletes rows; gives how many there were.
    pub fn delete(&mut self, request: &TransactionDelete) -> Result<u64> {
        let schema = self.definition(&request.table)?.schema;
        self.all_or_nothing(|_, transaction| {
            let mut count = 0;
            for key in &request.keys {
                let key = bytes_of(schema.as_ref(), Some(key))?;
                count += u64::from(transaction.delete(&request.table, &key)?);
            }
            Ok(count)
        })
    }

    /// Commits; gives the token, empty if nothing could be written, and where it was.
    pub fn commit(self) -> Result<(String, Session)> {
        let token = match self.state {
            State::Fixed(_) => String::new(),
            State::Work(transaction) => rows::finish(*transaction)?,
        };
        Ok((token, self.session))
    }

    fn definition(&mut self, table: &str) -> Result<Definition> {
        let definition = match &mut self.state {
            State::Work(transaction) => transaction.definition(table)?,
            State::Fixed(snapshot) => snapshot.table(table)?.map(|table| table.definition().clone()),
        };
        definition.ok_or_else(|| Error::UnknownTable { name: table.to_owned() }.into())
    }

    /// Changes what may be changed; of what fails nothing stays.
    fn all_or_nothing<T>(
        &mut self,
        change: impl FnOnce(&Session, &mut Transaction) -> Result<T>,
    ) -> Result<T> {
        let State::Work(transaction) = &mut self.state else {
            // A tag or commit says so; who asked for a branch to be read-only meant it.
            self.session.branch()?;
            return Err(crate::error::Failure::not_allowed("this transaction is read-only")
                .hint("begin one that is not, to write"));
        };
        let before = transaction.savepoint();
        match change(&self.session, transaction) {
            Ok(done) => {
                transaction.release(before)?;
                Ok(done)
            }
            Err(failure) => {
                transaction.rollback_to(&before)?;
                transaction.release(before)?;
                Err(failure)
            }
        }
    }
}
