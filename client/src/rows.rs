//! Rows that are read as they come, and the ranges of keys that they are asked for by.

use std::collections::VecDeque;
use std::ops::{Range, RangeFrom, RangeFull, RangeTo};
use std::sync::Arc;

use crate::client::{Answers, Client};
use crate::error::{Error, Failed, Result};
use crate::nodes::InUse;
use crate::proto::{ScanResponse, Schema};
use crate::value::{Key, Row};

/// From one key, included, to another, not included. Made of `..`, `from..`, `..to` and `from..to`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KeyRange {
    pub(crate) from: Option<Key>,
    pub(crate) to: Option<Key>,
    pub(crate) limit: u64,
}

impl KeyRange {
    /// At most so many rows of it.
    #[must_use]
    pub fn at_most(range: impl Into<KeyRange>, rows: u64) -> KeyRange {
        KeyRange { limit: rows, ..range.into() }
    }
}

impl From<RangeFull> for KeyRange {
    fn from(_: RangeFull) -> KeyRange {
        KeyRange::default()
    }
}

impl<K: Into<Key>> From<RangeFrom<K>> for KeyRange {
    fn from(range: RangeFrom<K>) -> KeyRange {
        KeyRange { from: Some(range.start.into()), ..KeyRange::default() }
    }
}

impl<K: Into<Key>> From<RangeTo<K>> for KeyRange {
    fn from(range: RangeTo<K>) -> KeyRange {
        KeyRange { to: Some(range.end.into()), ..KeyRange::default() }
    }
}

impl<K: Into<Key>> From<Range<K>> for KeyRange {
    fn from(range: Range<K>) -> KeyRange {
        KeyRange { from: Some(range.start.into()), to: Some(range.end.into()), limit: 0 }
    }
}

/// Rows in key order, as their server sends them. It sends no faster than they are read; dropped, it stops.
pub struct Rows {
    client: Client,
    answers: Answers<ScanResponse>,
    read: Read,
    in_use: InUse,
}

impl Rows {
    pub(crate) fn new(client: Client, answers: Answers<ScanResponse>, in_use: InUse) -> Rows {
        Rows { client, answers, read: Read::default(), in_use }
    }

    /// The next one; `None` after the last.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the connection is lost; [`Error::Refused`].
    pub async fn next(&mut self) -> Result<Option<Row>> {
        loop {
            if let Some(row) = self.read.next() {
                return Ok(Some(row));
            }
            match self.answers.next().await {
                Ok(Some(response)) => self.read.add(response.schema, response.rows),
                Ok(None) => return Ok(None),
                Err(status) => return Err(interrupted(&self.client, &self.in_use, &status).await),
            }
        }
    }

    /// All that are left.
    ///
    /// # Errors
    /// As [`Rows::next`].
    pub async fn all(mut self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        while let Some(row) = self.next().await? {
            rows.push(row);
        }
        Ok(rows)
    }
}

/// Why an answer that had begun goes no further.
pub(crate) async fn interrupted(client: &Client, in_use: &InUse, status: &tonic::Status) -> Error {
    let server = in_use.node.url.clone();
    match Failed::of(&server, status) {
        Failed::Answered(refusal) => Error::Refused(refusal),
        Failed::Unsent(what) | Failed::Lost(what) => {
            client.lost(&in_use.node).await;
            Error::Interrupted { server, what }
        }
    }
}

/// Rows that have arrived and were not asked for yet.
#[derive(Default)]
pub(crate) struct Read {
    schema: Option<Arc<Schema>>,
    rows: VecDeque<crate::proto::Row>,
}

impl Read {
    pub(crate) fn add(&mut self, schema: Option<Schema>, rows: Vec<crate::proto::Row>) {
        self.schema = schema.map(Arc::new).or(self.schema.take());
        self.rows = rows.into();
    }

    pub(crate) fn next(&mut self) -> Option<Row> {
        self.rows.pop_front().map(|row| Row::from_message(self.schema.clone(), row))
    }
}
