//! Turns a difference into messages: what a peer lacks, as records of about a quarter of a MiB together. Blocking; memory is one
//! message, the bases on the path and the rows of one table that changed, as far as they travel so, whatever the size of the difference. Called by `server` (fetch), `push`, and by replication.

use bytes::Bytes;
use pleach_engine::{
    Base, Chunk, Database, Difference, Extent, Hash, Named, RowEdit, RowEditLimits, Sent, row_edits,
};

use crate::ahead::{Below, Counter, Totals};
use crate::edits;
use crate::encoding::{Encoder, Encoding, Like};
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
    counter: Counter,
    /// Whether a message was given that was full.
    is_long: bool,
    /// Whether the difference was given to its end.
    is_done: bool,
    /// Whether what is sent is all that its newest commit has.
    is_whole: bool,
    /// Whether leaves may travel as the store has them.
    as_stored: bool,
}

struct Step {
    chunk: Chunk,
    base: Option<Chunk>,
    /// The children that follow, and how many of them came.
    follow: Vec<u32>,
    next: usize,
    below: Below,
}

impl Step {
    fn is_complete(&self) -> bool {
        self.next == self.follow.len()
    }
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
            counter: Counter::default(),
            is_long: false,
            is_done: false,
            is_whole: false,
            as_stored: false,
        })
    }

    /// Whether tables may travel as the rows that changed: the receiver takes that, and computes with the same formats.
    #[must_use]
    pub fn with_edits(self, edits: bool) -> Sender {
        Sender { edits, ..self }
    }

    /// Says that what is sent is all that its commits have: the newest tells how much it is at least. For a difference to nothing.
    #[must_use]
    pub fn with_all(self, is_whole: bool) -> Sender {
        Sender { is_whole, ..self }
    }

    /// Whether leaves may travel as the store has them compressed, without being looked into: for a receiver that takes them at once, and will find what a
    /// disk has damaged. What is kept for later is better checked before.
    #[must_use]
    pub fn with_stored(self, as_stored: bool) -> Sender {
        Sender { as_stored, ..self }
    }

    /// The next message, of about [`MESSAGE_BYTES`]; `None` when everything was given.
    pub fn next_message(&mut self) -> Result<Option<Bytes>> {
        while self.message.len() < MESSAGE_BYTES {
            if self.as_stored && self.write_stored()? {
                continue;
            }
            match self.difference.next() {
                Some(sent) => self.write(sent?)?,
                None => {
                    assert!(self.path.is_empty(), "a difference gives every child that it announces");
                    self.is_done = true;
                    break;
                }
            }
        }
        self.is_long |= self.message.len() >= MESSAGE_BYTES;
        let message = std::mem::take(&mut self.message);
        Ok((!message.is_empty()).then(|| Bytes::from(message)))
    }

    /// Records given so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// What was given so far, with what the receiver had before of a piece that goes on.
    pub fn done(&self) -> Extent {
        self.counter.end().done
    }

    /// How far it is with the message that was given last; `None` of a transfer that fits into one.
    pub fn totals(&mut self) -> Result<Option<Totals>> {
        match (self.is_long || self.counter.is_resumed(), self.is_done) {
            (false, _) => return Ok(None),
            (true, true) => return Ok(Some(self.counter.end())),
            (true, false) => {}
        }
        let store = self.database.store();
        if std::mem::take(&mut self.is_whole) {
            let newest = self.difference.newest().or(self.path.first().map(|step| *step.chunk.hash()));
            newest.iter().for_each(|newest| self.counter.all_of(store, newest));
        }
        let mut ahead = Extent::default();
        for Step { chunk, base, follow, next, below } in &mut self.path {
            ahead += self.counter.ahead(store, chunk, base.is_some(), follow, below, *next)?;
        }
        Ok(Some(self.counter.totals(ahead, self.difference.pieces())))
    }

    fn write(&mut self, sent: Sent) -> Result<()> {
        assert_eq!(
            sent.child.is_none(),
            self.path.is_empty(),
            "a piece starts where the one before is complete"
        );
        if sent.child.is_none() {
            self.counter.begin_piece();
        }
        if sent.base.is_none() && self.difference.left_out() > 0 {
            self.counter.had(self.database.store(), &sent.chunk, self.difference.left_out())?;
        }
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
            step.next += 1;
        }
        let io = |error: std::io::Error| Error::Lost { what: error.to_string() };
        let base_bytes = base.as_ref().map(Chunk::bytes);
        let like = match sent.chunk.level() {
            0 => Like::Leaf(sent.chunk.kind()),
            _ => Like::Inner,
        };
        let (encoding, payload) = match &edits {
            Some((edits, _)) if !sent.follow.is_empty() => (Encoding::Edits, edits.as_slice()),
            // A tree of one node may be smaller as that.
            edits => {
                match (edits, self.encoder.encode_like(like, sent.chunk.bytes(), base_bytes).map_err(io)?) {
                    (Some((edits, _)), (_, chunk)) if edits.len() < chunk.len() => {
                        (Encoding::Edits, edits.as_slice())
                    }
                    (_, chunk) => chunk,
                }
            }
        };
        let follow = match (encoding, &edits) {
            (Encoding::Edits, Some((_, extent))) => {
                self.difference.pass();
                self.counter.add(*extent);
                Vec::new()
            }
            _ => {
                self.counter.chunk(&sent.chunk, sent.base.is_some(), &sent.follow);
                sent.follow
            }
        };
        let followed = follow.len();
        // A base that neither the payload nor a child needs is not named.
        let base_needed = matches!(encoding, Encoding::Delta | Encoding::Edits) || followed > 0;
        let record = Record {
            encoding,
            raw_len: sent.chunk.bytes().len(),
            top: sent.child.is_none().then(|| *sent.chunk.hash()),
            base: name.filter(|_| base_needed),
            follow: Follow::new(follow.clone(), sent.chunk.child_count()),
            payload,
        };
        record.write(&mut self.message);
        self.records += 1;
        self.path.push(Step { chunk: sent.chunk, base, follow, next: 0, below: Below::default() });
        while self.path.pop_if(|step| step.is_complete()).is_some() {}
        Ok(())
    }

    /// Writes the next chunk as it lies in the store, if that can be.
    fn write_stored(&mut self) -> Result<bool> {
        let (Some((hash, child)), Some(step)) = (self.difference.lone(), self.path.last_mut()) else {
            return Ok(false);
        };
        // A chunk that nothing counts but itself must be looked into.
        let Some(extent) = step.below.of(&step.chunk, child).filter(|extent| extent.bytes > 0) else {
            return Ok(false);
        };
        let stored = self.database.store().stored(&hash).map_err(pleach_engine::Error::from)?;
        let Some(stored) = stored else { return Ok(false) };
        // What is not compressed there may not have been tried.
        let like = Like::Below(step.chunk.kind(), step.chunk.level());
        let (encoding, payload) = match stored.is_zipped() {
            true => (Encoding::Zstd, stored.payload()),
            false => {
                let encoded = self.encoder.encode_like(like, stored.payload(), None);
                encoded.map_err(|error| Error::Lost { what: error.to_string() })?
            }
        };
        self.difference.took();
        self.counter.add(extent);
        step.next += 1;
        let record = Record {
            encoding,
            raw_len: stored.raw_len(),
            top: None,
            base: None,
            follow: Follow::None,
            payload,
        };
        record.write(&mut self.message);
        self.records += 1;
        while self.path.pop_if(|step| step.is_complete()).is_some() {}
        Ok(true)
    }

    /// What makes child `child` of the last chunk of child `of_base` of its base, as a payload: if both are tables, and the rows are not too many.
    fn edits(&mut self, child: u32, of_base: u32) -> Result<Option<(Vec<u8>, Extent)>> {
        let Some(Step { chunk: parent, base: Some(base), .. }) = self.path.last().filter(|_| self.edits)
        else {
            return Ok(None);
        };
        let (from, to) = (Named { leaf: base, child: of_base }, Named { leaf: parent, child });
        let limits = RowEditLimits { rows: EDITS_ROWS_MAX, bytes: EDITS_BYTES_MAX };
        match row_edits(self.database.store(), from, to, limits)? {
            Some(edits) if !edits.is_empty() => {
                let payload = edits::encode(&mut self.encoder, &edits);
                let payload = payload.map_err(|error| Error::Lost { what: error.to_string() })?;
                Ok(payload.map(|payload| (payload, extent(&edits))))
            }
            _ => Ok(None),
        }
    }

    fn load(&self, hash: &Hash) -> Result<Chunk> {
        let chunk = self.database.store().get(hash).map_err(pleach_engine::Error::from)?;
        chunk.ok_or_else(|| Error::protocol(format!("base {hash} of a difference is not in the store")))
    }
}

/// What the receiver gets by edits.
fn extent(edits: &[RowEdit]) -> Extent {
    let bytes = |edit: &RowEdit| edit.key.len() + edit.new.as_ref().map_or(0, Vec::len);
    Extent { rows: edits.len() as u64, bytes: edits.iter().map(bytes).sum::<usize>() as u64 }
}
