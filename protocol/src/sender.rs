//! Turns a difference into messages: what a peer lacks, as records of about a quarter of a MiB together. Blocking; memory is one
//! message, the bases on the path and the rows of one table that changed, as far as they travel so, whatever the size of the difference. Called by `server` (fetch), `push`, and by replication.

use bytes::Bytes;
use pleach_engine::{Base, Chunk, Database, Difference, Hash, Named, RowEditLimits, Sent, row_edits};

use crate::edits;
use crate::encoding::{Encoder, Encoding};
use crate::error::{Error, Result};
use crate::limits::{EDITS_BYTES_MAX, EDITS_ROWS_MAX, MESSAGE_BYTES};
use crate::record::{BaseName, Follow, Record};

/// Encodes a [`Difference`] as messages.
pub struct Sender {
    database: Database,
    difference: Difference,
    encoder: Encoder,
    /// Whether the receiver makes tables of rows that changed.
    edits: bool,
    /// The chunks whose followed children are still to come: their bases, and how many are left.
    path: Vec<Step>,
    message: Vec<u8>,
    records: u64,
}

struct Step {
    chunk: Chunk,
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
            edits: false,
            path: Vec::new(),
            message: Vec::new(),
            records: 0,
        })
    }

    /// Whether tables may travel as the rows that changed: the receiver takes that, and computes with the same formats.
    #[must_use]
    pub fn with_edits(self, edits: bool) -> Sender {
        Sender { edits, ..self }
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
        assert_eq!(
            sent.child.is_none(),
            self.path.is_empty(),
            "a piece starts where the one before is complete"
        );
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
        let edits = match (sent.child, sent.base) {
            (Some(child), Some(Base::Child(of_base))) => self.edits(child, of_base)?,
            _ => None,
        };
        if let Some(step) = self.path.last_mut() {
            step.left -= 1;
        }
        let io = |error: std::io::Error| Error::Lost { what: error.to_string() };
        let base_bytes = base.as_ref().map(Chunk::bytes);
        let (encoding, payload) = match &edits {
            Some(edits) if !sent.follow.is_empty() => (Encoding::Edits, edits.as_slice()),
            // A tree of one node may be smaller as that.
            edits => match (edits, self.encoder.encode(sent.chunk.bytes(), base_bytes).map_err(io)?) {
                (Some(edits), (_, chunk)) if edits.len() < chunk.len() => (Encoding::Edits, edits.as_slice()),
                (_, chunk) => chunk,
            },
        };
        let follow = match encoding {
            Encoding::Edits => {
                self.difference.pass();
                Vec::new()
            }
            _ => sent.follow,
        };
        let followed = follow.len();
        // A base that neither the payload nor a child needs is not named.
        let base_needed = matches!(encoding, Encoding::Delta | Encoding::Edits) || followed > 0;
        let record = Record {
            encoding,
            raw_len: sent.chunk.bytes().len(),
            top: sent.child.is_none().then(|| *sent.chunk.hash()),
            base: name.filter(|_| base_needed),
            follow: Follow::new(follow, sent.chunk.child_count()),
            payload,
        };
        record.write(&mut self.message);
        self.records += 1;
        self.path.push(Step { chunk: sent.chunk, base, left: followed });
        while self.path.last().is_some_and(|step| step.left == 0) {
            self.path.pop();
        }
        Ok(())
    }

    /// What makes child `child` of the last chunk of child `of_base` of its base, as a payload: if both are tables, and the rows are not too many.
    fn edits(&mut self, child: u32, of_base: u32) -> Result<Option<Vec<u8>>> {
        let Some(Step { chunk: parent, base: Some(base), .. }) = self.path.last().filter(|_| self.edits)
        else {
            return Ok(None);
        };
        let (from, to) = (Named { leaf: base, child: of_base }, Named { leaf: parent, child });
        let limits = RowEditLimits { rows: EDITS_ROWS_MAX, bytes: EDITS_BYTES_MAX };
        match row_edits(self.database.store(), from, to, limits)? {
            Some(edits) if !edits.is_empty() => {
                let payload = edits::encode(&mut self.encoder, &edits);
                payload.map_err(|error| Error::Lost { what: error.to_string() })
            }
            _ => Ok(None),
        }
    }

    fn load(&self, hash: &Hash) -> Result<Chunk> {
        let chunk = self.database.store().get(hash).map_err(pleach_engine::Error::from)?;
        chunk.ok_or_else(|| Error::protocol(format!("base {hash} of a difference is not in the store")))
    }
}
