//! Turns a difference into messages: what a peer lacks, as records of about a quarter of a MiB together. Blocking; memory is one
//! message and the bases on the path, whatever the size of the difference. Called by `server` (fetch), `push`, and by replication.

use bytes::Bytes;
use pleach_engine::{Base, Chunk, Database, Difference, Hash, Sent};

use crate::encoding::{Encoder, Encoding};
use crate::error::{Error, Result};
use crate::limits::MESSAGE_BYTES;
use crate::record::{BaseName, Follow, Record};

/// Encodes a [`Difference`] as messages.
pub struct Sender {
    database: Database,
    difference: Difference,
    encoder: Encoder,
    /// The chunks whose followed children are still to come: their bases, and how many are left.
    path: Vec<Step>,
    message: Vec<u8>,
    records: u64,
}

struct Step {
    base: Option<Chunk>,
    left: usize,
}

impl Sender {
    /// A sender of `difference`, whose bases are read from `database`.
    pub fn new(database: &Database, difference: Difference) -> Result<Sender> {
        Ok(Sender {
            database: database.clone(),
            difference,
            encoder: Encoder::new().map_err(|error| Error::Lost { what: error.to_string() })?,
            path: Vec::new(),
            message: Vec::new(),
            records: 0,
        })
    }

    /// The next message, of about [`MESSAGE_BYTES`]; `None` when everything was given.
    pub fn next_message(&mut self) -> Result<Option<Bytes>> {
        while self.message.len() < MESSAGE_BYTES {
            match self.difference.next() {
                Some(sent) => self.write(sent?)?,
                None => {
                    assert!(self.path.is_empty(), "a difference gives every child that it announces");
                    break;
                }
            }
        }
        let message = std::mem::take(&mut self.message);
        Ok((!message.is_empty()).then(|| Bytes::from(message)))
    }

    /// Records given so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    fn write(&mut self, sent: Sent) -> Result<()> {
        assert_eq!(sent.top, self.path.is_empty(), "a piece starts where the one before is complete");
        let (name, base) = match sent.base {
            None => (None, None),
            Some(Base::Hash(hash)) => (Some(BaseName::Hash(hash)), Some(self.load(&hash)?)),
            Some(Base::Child(index)) => {
                let parent = self.path.last().and_then(|step| step.base.as_ref());
                let hash = parent.and_then(|parent| parent.child(index as usize));
                let hash =
                    hash.ok_or_else(|| Error::protocol("a difference names a child that its base lacks"))?;
                (Some(BaseName::Child(index)), Some(self.load(&hash)?))
            }
        };
        if let Some(step) = self.path.last_mut() {
            step.left -= 1;
        }
        let (encoding, payload) = self
            .encoder
            .encode(sent.chunk.bytes(), base.as_ref().map(Chunk::bytes))
            .map_err(|error| Error::Lost { what: error.to_string() })?;
        let followed = sent.follow.len();
        // A base that neither the payload nor a child needs is not named.
        let base_needed = encoding == Encoding::Delta || followed > 0;
        let record = Record {
            encoding,
            raw_len: sent.chunk.bytes().len(),
            top: sent.top.then(|| *sent.chunk.hash()),
            base: name.filter(|_| base_needed),
            follow: Follow::new(sent.follow, sent.chunk.child_count()),
            payload,
        };
        record.write(&mut self.message);
        self.records += 1;
        self.path.push(Step { base, left: followed });
        while self.path.last().is_some_and(|step| step.left == 0) {
            self.path.pop();
        }
        Ok(())
    }

    fn load(&self, hash: &Hash) -> Result<Chunk> {
        let chunk = self.database.store().get(hash).map_err(pleach_engine::Error::from)?;
        chunk.ok_or_else(|| Error::protocol(format!("base {hash} of a difference is not in the store")))
    }
}
