//! A database, or a place in it, and what can be done there: one method for each call of the data API that applications need.

use std::collections::VecDeque;
use std::sync::Arc;

use tonic::Response;

use crate::client::{Answers, Client, row_of};
use crate::error::{Error, Result};
use crate::metadata::WARNING;
use crate::nodes::InUse;
use crate::proto::*;
use crate::rows::{KeyRange, Rows, interrupted};
use crate::transaction::Transaction;
use crate::value::{Key, Row, Value, named};

/// What a write answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// Says which write it was. The client keeps it, and sends it with later reads. `None` if nothing could be written.
    pub token: Option<pleach_engine::Token>,
    /// What replication has to say: what was written is durable on the server, and not everywhere yet.
    pub warnings: Vec<String>,
}

/// A version commit that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Commit {
    /// Its hash.
    pub hash: String,
    /// The branch that it is on.
    pub branch: String,
    /// As for any write.
    pub written: Written,
}

/// A row that differs between two states: inserted (no `old`), deleted (no `new`) or updated.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Change {
    /// Its table.
    pub table: String,
    /// The row before.
    pub old: Option<Row>,
    /// The row after.
    pub new: Option<Row>,
}

/// A place in a database: a branch, to read and write, or a tag or commit, to read. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Database {
    client: Client,
    name: String,
    reference: String,
}

/// Calls of the service, as the client tries them.
macro_rules! call {
    ($name:ident) => {
        |mut stub, request| async move { stub.$name(request).await }
    };
    (stream $name:ident) => {
        |mut stub, request| async move { Answers::of(stub.$name(request).await?).await }
    };
}

impl Database {
    pub(crate) fn new(client: Client, place: &str) -> Database {
        let (name, reference) = place.split_once('@').unwrap_or((place, ""));
        Database { client, name: name.to_owned(), reference: reference.to_owned() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The client that asks for it.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The same database on another branch, tag or commit.
    #[must_use]
    pub fn at(&self, reference: &str) -> Database {
        Database { reference: reference.to_owned(), ..self.clone() }
    }

    /// What a write is about.
    pub(crate) fn target(&self) -> Target {
        Target { database: self.name.clone(), reference: self.reference.clone(), ..Target::default() }
    }

    /// What a read is about, and what it must see.
    pub(crate) fn target_after(&self) -> Target {
        let options = self.client.options();
        let token = self.client.token(&self.name).filter(|_| options.read_your_writes);
        let millis = u32::try_from(options.token_wait.as_millis()).unwrap_or(u32::MAX).max(1);
        Target {
            after: token.map(|token| token.to_string()).unwrap_or_default(),
            after_wait_millis: millis,
            ..self.target()
        }
    }

    /// Keeps the token of a write.
    pub(crate) fn written(&self, token: &str, warnings: Vec<String>) -> Written {
        let token = token.parse().ok();
        if let Some(token) = token {
            self.client.saw(&self.name, token);
        }
        Written { token, warnings }
    }

    fn answered<A>(&self, (response, _): (Response<A>, InUse), token: fn(&A) -> &str) -> (A, Written) {
        let warnings = response.metadata().get_all_bin(WARNING).iter();
        let text = |warning: &tonic::metadata::BinaryMetadataValue| {
            warning.to_bytes().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).ok()
        };
        let warnings = warnings.filter_map(text).collect();
        let answer = response.into_inner();
        let written = self.written(token(&answer), warnings);
        (answer, written)
    }

    // Reading.

    /// The row of a key, if there is one.
    ///
    /// # Errors
    /// [`Error::is_not_found`] if there is no such database, branch or table; those of any read: [`Error::Refused`], [`Error::Unavailable`].
    pub async fn get(&self, table: &str, key: impl Into<Key>) -> Result<Option<Row>> {
        let request = GetRequest {
            target: Some(self.target_after()),
            table: table.to_owned(),
            key: Some(key.into().into_message()),
            at: String::new(),
            absent_ok: true,
        };
        let (answer, _) = self.client.read(request, call!(get)).await?;
        Ok(row_of(answer))
    }

    /// The rows of a range of keys, in key order: `..` for all, `"a".."b"`, [`KeyRange::at_most`].
    ///
    /// # Errors
    /// Those of any read; afterwards, those of [`Rows::next`].
    pub async fn scan(&self, table: &str, range: impl Into<KeyRange>) -> Result<Rows> {
        let KeyRange { from, to, limit } = range.into();
        let request = ScanRequest {
            target: Some(self.target_after()),
            table: table.to_owned(),
            from: from.map(Key::into_message),
            to: to.map(Key::into_message),
            limit,
            at: String::new(),
        };
        let (answers, in_use) = self.client.read(request, call!(stream scan)).await?;
        Ok(Rows::new(self.client.clone(), answers, in_use))
    }

    /// The rows that differ from one revision to another, table by table. A revision is a branch, a tag, a hash, `HEAD`, `HEAD~N`, or `@work`, what is
    /// not committed yet.
    ///
    /// # Errors
    /// Those of any read; afterwards, those of [`Changes::next`].
    pub async fn diff(&self, from: &str, to: &str) -> Result<Changes> {
        let target = Some(self.target_after());
        let request = DiffRequest { target, from: from.into(), to: to.into(), table: String::new() };
        let (answers, in_use) = self.client.read(request, call!(stream diff)).await?;
        let (client, table) = (self.client.clone(), TableDiff::default());
        Ok(Changes { client, answers, table, schemas: (None, None), rows: VecDeque::new(), in_use })
    }

    /// The newest commits, newest first; 0: all of them.
    ///
    /// # Errors
    /// Those of any read.
    pub async fn log(&self, limit: u64) -> Result<Vec<CommitInfo>> {
        let request = LogRequest { target: Some(self.target_after()), revision: String::new(), limit };
        let (mut answers, in_use) = self.client.read(request, call!(stream log)).await?;
        let mut commits = Vec::new();
        loop {
            match answers.next().await {
                Ok(Some(answer)) => commits.extend(answer.commit),
                Ok(None) => return Ok(commits),
                Err(status) => return Err(interrupted(&self.client, &in_use, &status).await),
            }
        }
    }

    /// The tables.
    ///
    /// # Errors
    /// Those of any read.
    pub async fn tables(&self) -> Result<Vec<TableInfo>> {
        let request = ListTablesRequest { target: Some(self.target_after()), at: String::new() };
        Ok(self.client.read(request, call!(list_tables)).await?.0.tables)
    }

    /// The branch, its head, and what is not committed in it.
    ///
    /// # Errors
    /// Those of any read.
    pub async fn status(&self) -> Result<StatusResponse> {
        let request = StatusRequest { target: Some(self.target_after()) };
        Ok(self.client.read(request, call!(status)).await?.0)
    }

    /// The branches.
    ///
    /// # Errors
    /// Those of any read.
    pub async fn branches(&self) -> Result<Vec<BranchInfo>> {
        let request = ListBranchesRequest { target: Some(self.target_after()) };
        Ok(self.client.read(request, call!(list_branches)).await?.0.branches)
    }

    /// The tags.
    ///
    /// # Errors
    /// Those of any read.
    pub async fn tags(&self) -> Result<Vec<TagInfo>> {
        let request = ListTagsRequest { target: Some(self.target_after()) };
        Ok(self.client.read(request, call!(list_tags)).await?.0.tags)
    }

    // Writing.

    /// Puts one row into a raw table, which is made if it is absent. Who puts last wins.
    ///
    /// # Errors
    /// Those of any write: [`Error::Refused`], [`Error::Unavailable`], [`Error::Unknown`].
    pub async fn put(&self, table: &str, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Written> {
        let request = PutRequest {
            target: Some(self.target()),
            table: table.to_owned(),
            key: key.as_ref().to_vec(),
            value: value.as_ref().to_vec(),
            ..PutRequest::default()
        };
        let done = self.client.write(request, call!(put)).await?;
        Ok(self.answered(done, |answer| &answer.token).1)
    }

    /// Puts one row into a typed table: these columns, and NULL in the others. Who puts last wins.
    ///
    /// # Errors
    /// Those of any write.
    pub async fn put_row<N: Into<String>, V: Into<Value>>(
        &self,
        table: &str,
        cells: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Written> {
        let (columns, cells) = named(cells);
        let (target, table) = (Some(self.target()), table.to_owned());
        let request = PutRequest { target, table, cells, columns, ..PutRequest::default() };
        let done = self.client.write(request, call!(put)).await?;
        Ok(self.answered(done, |answer| &answer.token).1)
    }

    /// Deletes a row; says whether there was one.
    ///
    /// # Errors
    /// Those of any write; [`Error::Conflict`].
    pub async fn delete(&self, table: &str, key: impl Into<Key>) -> Result<(bool, Written)> {
        let request = DeleteRequest {
            target: Some(self.target()),
            table: table.to_owned(),
            key: Some(key.into().into_message()),
            absent_ok: true,
        };
        let done = self.client.write(request, call!(delete)).await?;
        let (answer, written) = self.answered(done, |answer| &answer.token);
        Ok((answer.deleted, written))
    }

    /// Drops a table.
    ///
    /// # Errors
    /// Those of any write; [`Error::Conflict`].
    pub async fn drop_table(&self, table: &str) -> Result<Written> {
        let request = DropTableRequest { target: Some(self.target()), table: table.to_owned() };
        let done = self.client.write(request, call!(drop_table)).await?;
        Ok(self.answered(done, |answer| &answer.token).1)
    }

    /// Makes a version commit of the branch's work. `author` is `NAME <MAIL>`; empty: the server's own.
    ///
    /// # Errors
    /// Those of any write; [`Error::Refused`] if there is nothing to commit.
    pub async fn commit(&self, message: &str, author: &str) -> Result<Commit> {
        let request = CommitRequest {
            target: Some(self.target()),
            message: message.to_owned(),
            author: author.to_owned(),
            amend: false,
        };
        let done = self.client.write(request, call!(commit)).await?;
        let (answer, written) = self.answered(done, |answer| &answer.token);
        Ok(Commit { hash: answer.hash, branch: answer.branch, written })
    }

    /// Makes a branch at a revision; empty: at the head of this one.
    ///
    /// # Errors
    /// Those of any write; [`Error::exists`].
    pub async fn create_branch(&self, name: &str, at: &str) -> Result<Written> {
        let request = CreateBranchRequest { target: Some(self.target()), name: name.into(), at: at.into() };
        let done = self.client.write(request, call!(create_branch)).await?;
        Ok(self.answered(done, |answer| &answer.token).1)
    }

    /// Deletes a branch.
    ///
    /// # Errors
    /// Those of any write; [`Error::is_not_found`].
    pub async fn delete_branch(&self, name: &str) -> Result<Written> {
        let request = DeleteBranchRequest { target: Some(self.target()), name: name.to_owned() };
        let done = self.client.write(request, call!(delete_branch)).await?;
        Ok(self.answered(done, |answer| &answer.token).1)
    }

    /// Makes a tag at a revision; empty: at the head of this branch.
    ///
    /// # Errors
    /// Those of any write; [`Error::exists`].
    pub async fn create_tag(&self, name: &str, at: &str) -> Result<Written> {
        let request = CreateTagRequest { target: Some(self.target()), name: name.into(), at: at.into() };
        let done = self.client.write(request, call!(create_tag)).await?;
        Ok(self.answered(done, |answer| &answer.token).1)
    }

    /// Deletes a tag.
    ///
    /// # Errors
    /// Those of any write; [`Error::is_not_found`].
    pub async fn delete_tag(&self, name: &str) -> Result<Written> {
        let request = DeleteTagRequest { target: Some(self.target()), name: name.to_owned() };
        let done = self.client.write(request, call!(delete_tag)).await?;
        Ok(self.answered(done, |answer| &answer.token).1)
    }

    /// Merges a revision into this branch. What comes of it, conflicts too, is in the answer.
    ///
    /// # Errors
    /// Those of any write.
    pub async fn merge(&self, revision: &str, prefer: Side) -> Result<(MergeResponse, Written)> {
        let request = MergeRequest {
            target: Some(self.target()),
            revision: revision.to_owned(),
            prefer: prefer.into(),
            ..MergeRequest::default()
        };
        let done = self.client.write(request, call!(merge)).await?;
        Ok(self.answered(done, |answer| &answer.token))
    }

    // Transactions.

    /// Begins a transaction on the branch, on a server that takes writes. On a tag or commit it is read-only.
    ///
    /// # Errors
    /// Those of any write, except [`Error::Unknown`]; [`Error::is_not_found`].
    pub async fn begin(&self) -> Result<Transaction> {
        Transaction::begin(self).await
    }

    /// Begins a transaction that only reads, of one state, on any server.
    ///
    /// # Errors
    /// Those of any read; [`Error::is_not_found`].
    pub async fn begin_read_only(&self) -> Result<Transaction> {
        Transaction::begin_read_only(self).await
    }

    /// Runs `body` in a transaction and commits it; again, from the start, if another transaction was first or its server was lost before
    /// the commit, as often as [`Options::tries_max`](crate::Options::tries_max) says. `body` is given the transaction, and gives it back to be
    /// committed; when it fails, it is rolled back.
    ///
    /// ```no_run
    /// # async fn example(book: pleach_client::Database) -> Result<(), pleach_client::Error> {
    /// let add = |mut transaction: pleach_client::Transaction| async move {
    ///     let calls = transaction.get("calls", "ada").await?.map_or(0, |row| row.value().len());
    ///     transaction.put("calls", "ada", "x".repeat(calls + 1)).await?;
    ///     Ok((transaction, calls + 1))
    /// };
    /// let (calls, _) = book.transaction(add).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of `body`; of [`Database::begin`]; of [`Transaction::commit`].
    pub async fn transaction<T, F, Fut>(&self, mut body: F) -> Result<(T, Written)>
    where
        F: FnMut(Transaction) -> Fut,
        Fut: Future<Output = Result<(Transaction, T)>>,
    {
        let mut tries = 0;
        loop {
            let done = match self.begin().await {
                Ok(transaction) => match body(transaction).await {
                    Ok((transaction, value)) => transaction.commit().await.map(|written| (value, written)),
                    Err(error) => Err(error),
                },
                Err(error) => Err(error),
            };
            tries += 1;
            match done {
                Err(error) if error.is_worth_beginning_again() && tries < self.client.options().tries_max => {
                    tracing::debug!(%error, "a transaction begins again");
                    tokio::time::sleep(self.client.options().pause).await;
                }
                done => return done,
            }
        }
    }
}

/// Rows that differ between two states, as their server sends them.
pub struct Changes {
    client: Client,
    answers: Answers<DiffResponse>,
    table: TableDiff,
    schemas: (Option<Arc<Schema>>, Option<Arc<Schema>>),
    rows: VecDeque<crate::proto::Change>,
    in_use: InUse,
}

impl Changes {
    /// The next one; `None` after the last.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the connection is lost; [`Error::Refused`].
    pub async fn next(&mut self) -> Result<Option<Change>> {
        loop {
            if let Some(change) = self.rows.pop_front() {
                let row = |schema: &Option<Arc<Schema>>, row: Option<crate::proto::Row>| {
                    row.map(|row| Row::from_message(schema.clone(), row))
                };
                let (old, new) = (row(&self.schemas.0, change.old), row(&self.schemas.1, change.new));
                return Ok(Some(Change { table: self.table.table.clone(), old, new }));
            }
            let response = match self.answers.next().await {
                Ok(Some(response)) => response,
                Ok(None) => return Ok(None),
                Err(status) => return Err(self.interrupted(&status).await),
            };
            if let Some(table) = response.table {
                self.schemas = (table.from.clone().map(Arc::new), table.to.clone().map(Arc::new));
                self.table = table;
            }
            self.rows = response.changes.into();
        }
    }

    async fn interrupted(&self, status: &tonic::Status) -> Error {
        interrupted(&self.client, &self.in_use, status).await
    }
}
