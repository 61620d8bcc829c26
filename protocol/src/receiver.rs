//! Takes messages apart and stores what they hold, trusting nothing in them. Blocking. Called by `server` (push), `fetch`, and by
//! replication.
//!
//! Invariants, each held by tests in `tests/hostile.rs`:
//! 1. A chunk that was sent is stored only if its bytes hash to what a verified parent, or the top, says; if its kind's decoder finds it
//!    canonical; and if every child that does not follow is stored already. A table that was sent as rows is made here.
//! 2. Chunks are stored in post-order, a node after all that it reaches: so a chunk in the store implies its closure, at every
//!    moment, and a transfer that is cut leaves only whole subtrees.
//! 3. Memory is one message, the path of chunks that wait for their children, one batch, and the hashes of what is built upon, whatever
//!    the size of the transfer.
//! 4. Nothing moves a ref but the caller, with the batch that [`Receiver::finish`] returns after the last record.
//! 5. What the transfer builds upon (bases, and children that do not follow), and what it stored, stays until the caller has moved its
//!    refs: the receiver keeps it, and [`Received::append`] passes that on.
//!    Only what comes from the remote of which this is a partial copy may lack more ([`Receiver::of_fetch`]): that has it.
//! 6. At the end, each top is a wanted commit, or was named by a later one: what nobody asked for ends in an error. (Not so in what was
//!    recorded over a longer time, where it stays until the next collection.)

use std::collections::{HashMap, HashSet};

use pleach_engine::{
    Batch, Chunk, ChunkError, Database, Extent, Hash, Hold, Named, Outcome, Rebuild, check_chunk,
    check_lineage,
};

use crate::edits;
use crate::encoding::{Decoder, Encoding};
use crate::error::{Error, Result, within};
use crate::limits::{BATCH_BYTES, DEPTH_MAX, HAVES_MAX, LOOSE_TOPS_MAX, PATH_BYTES_MAX};
use crate::reached::{Place, Reached};
use crate::record::{BaseName, Follow, Record};

/// Verifies and stores the records of one transfer.
pub struct Receiver {
    database: Database,
    hold: Hold,
    /// What neither follows nor is here, the sender has promised.
    is_promised: bool,
    /// This side has asked for it: then a partial copy may ask its own remote for what is missing. What others push is not to make it.
    is_fetch: bool,
    decoder: Decoder,
    path: Vec<Step>,
    path_bytes: usize,
    batch: Batch,
    /// Tops that no later commit named yet, with the number of their record.
    loose: HashMap<Hash, u64>,
    /// Those that the last top named.
    named: Vec<Hash>,
    records: u64,
    done: Extent,
    /// Whether something was stored since that was last asked.
    appended: bool,
    /// Whether tops that no later commit names are of no interest.
    recorded: bool,
}

/// A chunk on the path: verified, not stored before its followed children are.
struct Step {
    chunk: Chunk,
    base: Option<Chunk>,
    /// The followed children that have not arrived yet, the next one last.
    missing: Vec<u32>,
    /// The followed child that arrives.
    current: u32,
}

/// A transfer whose closure is complete, not yet in any ref.
pub struct Received {
    /// The last chunks, to be appended together with the refs that need them.
    pub batch: Batch,
    /// Records in the transfer.
    pub records: u64,
    /// What arrived ([`Receiver::done`]).
    pub done: Extent,
    hold: Hold,
}

impl Received {
    /// Appends the last chunks without moving a ref. What was received stays as long as the hold; the caller's refs are to move before it
    /// goes.
    pub fn append(self, database: &Database) -> Result<Hold> {
        if !self.batch.is_empty() {
            append(database, self.batch)?;
        }
        Ok(self.hold)
    }
}

impl Receiver {
    /// A receiver that stores into `database`, and reads bases from it.
    pub fn new(database: &Database) -> Result<Receiver> {
        Receiver::holding(database, database.store().hold())
    }

    /// [`Receiver::new`] for a transfer whose bases were offered to the sender before, and are kept by `hold`.
    pub fn holding(database: &Database, hold: Hold) -> Result<Receiver> {
        Ok(Receiver {
            database: database.clone(),
            hold,
            is_promised: false,
            is_fetch: false,
            decoder: Decoder::new().map_err(|error| Error::Lost { what: error.to_string() })?,
            path: Vec::new(),
            path_bytes: 0,
            batch: Batch::default(),
            loose: HashMap::new(),
            named: Vec::new(),
            records: 0,
            done: Extent::default(),
            appended: false,
            recorded: false,
        })
    }

    /// The same for what this side has asked for. If `is_promised`, what neither follows nor is here is promised: the sender is the remote of which this
    /// is a partial copy.
    #[must_use]
    pub(crate) fn of_fetch(self, is_promised: bool) -> Receiver {
        Receiver { is_promised, is_fetch: true, ..self }
    }

    /// [`Receiver::holding`] for what was recorded over a longer time. It ends with [`Receiver::finish_recorded`], and any number of its commits may
    /// be named by nothing.
    pub(crate) fn recorded(database: &Database, hold: Hold) -> Result<Receiver> {
        Ok(Receiver { recorded: true, ..Receiver::holding(database, hold)? })
    }

    /// Records taken so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Rows that arrived with all below them, as leaves or as edits, and the bytes of their keys and values.
    pub fn done(&self) -> Extent {
        self.done
    }

    /// Takes the records of one message. After an error nothing more may be given: drop the receiver.
    pub fn receive(&mut self, message: &[u8]) -> Result<()> {
        let mut offset = 0;
        while offset < message.len() {
            let (record, end) = Record::parse(message, offset).map_err(|malformed| Error::Record {
                record: self.records,
                offset: malformed.offset,
                what: malformed.what,
            })?;
            self.take(&record, offset)?;
            self.records += 1;
            offset = end;
        }
        Ok(())
    }

    /// How far the transfer has come, if some MiB were stored since that was last asked.
    pub fn progress(&mut self) -> Result<Option<Reached>> {
        if !std::mem::take(&mut self.appended) {
            return Ok(None);
        }
        self.append_rest()?;
        Ok(Some(self.reached()))
    }

    /// Stores what is complete, of a transfer that was cut, and says how far it has come. What was received stays as long as the hold.
    pub fn cut(mut self) -> Result<(Reached, Hold)> {
        self.append_rest()?;
        Ok((self.reached(), self.hold))
    }

    fn append_rest(&mut self) -> Result<()> {
        match self.batch.is_empty() {
            true => Ok(()),
            false => append(&self.database, std::mem::take(&mut self.batch)),
        }
    }

    fn reached(&self) -> Reached {
        let top = self.path.first().map(|step| *step.chunk.hash());
        let mut whole: Vec<(u64, Hash)> = self.loose.iter().map(|(hash, record)| (*record, *hash)).collect();
        whole.retain(|(_, hash)| Some(*hash) != top);
        whole.sort_unstable_by(|a, b| b.cmp(a));
        let named = self.named.iter().filter(|_| top.is_some()).copied();
        let commits = named.chain(whole.into_iter().map(|(_, hash)| hash)).take(HAVES_MAX).collect();
        let path = self.path.iter().enumerate().map(|(depth, step)| match depth + 1 == self.path.len() {
            true => step.missing.last().copied().unwrap_or_default(),
            false => step.current,
        });
        Reached { commits, place: top.map(|top| Place { top, path: path.collect() }) }
    }

    /// Ends the transfer: `records` is how many the peer says that it sent, `wanted` the commits or roots that it was for.
    pub fn finish(self, records: u64, wanted: &[Hash]) -> Result<Received> {
        self.check_end(records)?;
        let wanted_set: HashSet<&Hash> = wanted.iter().collect();
        if let Some((_, &record)) = self.loose.iter().find(|(hash, _)| !wanted_set.contains(hash)) {
            return Err(Error::Unasked { record });
        }
        self.finish_recorded(records, wanted)
    }

    /// [`Receiver::finish`] for what was recorded over a longer time: commits that were pushed, and forced away or deleted since, are not
    /// wanted by anything now.
    pub(crate) fn finish_recorded(self, records: u64, wanted: &[Hash]) -> Result<Received> {
        self.check_end(records)?;
        for hash in wanted {
            // A partial copy may lack an ancestor of what it said that it has.
            if !self.holds(hash) && !self.obtains(hash)? {
                return Err(Error::protocol(format!("{hash} is wanted, but was not sent")));
            }
        }
        Ok(Received { batch: self.batch, records: self.records, done: self.done, hold: self.hold })
    }

    fn check_end(&self, records: u64) -> Result<()> {
        if let Some(step) = self.path.last() {
            return Err(Error::protocol(format!(
                "the transfer ends while {} children of chunk {} are missing",
                step.missing.len(),
                step.chunk.hash()
            )));
        }
        if records != self.records {
            return Err(Error::protocol(format!("{} records arrived, {records} were sent", self.records)));
        }
        Ok(())
    }

    fn take(&mut self, record: &Record<'_>, offset: usize) -> Result<()> {
        let expected = self.expected(record)?;
        let base = self.base(record)?;
        if record.encoding == Encoding::Edits {
            return self.rebuild(record, expected);
        }
        let base_bytes = base.as_ref().map_or(&[][..], Chunk::bytes);
        let bytes = self
            .decoder
            .decode(record.encoding, record.payload, record.raw_len, base_bytes)
            .map_err(|what| Error::Record { record: self.records, offset, what })?;
        let malformed = |what: String| Error::Record { record: self.records, offset, what };
        let chunk = Chunk::verify(bytes, &expected).map_err(|error| match error {
            ChunkError::HashMismatch { expected, found } => {
                Error::WrongHash { record: self.records, expected, found }
            }
            other => malformed(other.to_string()),
        })?;
        check_chunk(&chunk).map_err(|error| malformed(error.to_string()))?;
        let missing = self.missing(record, &chunk)?;
        if record.top.is_some() && !self.recorded {
            self.top(&chunk)?;
        }
        self.push(Step { chunk, base, missing, current: 0 })
    }

    /// Makes a table of the one before and the rows that changed. What it comes to must be what the parent expects; until then nothing
    /// leads to it.
    fn rebuild(&mut self, record: &Record<'_>, expected: Hash) -> Result<()> {
        let record_number = self.records;
        let wrong = |what: String| Error::WrongEdits { record: record_number, what, found: None };
        let (Some(parent), Some(BaseName::Child(of_base))) = (self.path.last(), record.base) else {
            return Err(wrong("they are of nothing".to_owned()));
        };
        let Some(base) = &parent.base else { return Err(wrong("they are of nothing".to_owned())) };
        let from = Named { leaf: base, child: of_base };
        let to = Named { leaf: &parent.chunk, child: parent.current };
        let batch = std::mem::take(&mut self.batch);
        let refused = |error: pleach_engine::Error| match error {
            pleach_engine::Error::Store(_) => Error::from(error),
            other => wrong(other.to_string()),
        };
        let rebuild = Rebuild::new(self.database.store(), batch, from, to).map_err(refused)?;
        let edits = edits::decode(&mut self.decoder, record.payload, |key| rebuild.old(key));
        let edits = edits.map_err(refused)?.map_err(wrong)?;
        let bytes = |(key, new): &edits::Row| key.len() + new.as_ref().map_or(0, Vec::len);
        let rows = Extent { rows: edits.len() as u64, bytes: edits.iter().map(bytes).sum::<usize>() as u64 };
        let (root, batch) = rebuild.apply(edits).map_err(refused)?;
        self.batch = batch;
        if *root.hash() != expected {
            let found = *root.hash();
            let what = format!("they make {found}, expected {expected}");
            return Err(Error::WrongEdits { record: record_number, what, found: Some(found) });
        }
        self.done += rows;
        self.close()
    }

    /// The hash that the next chunk must have.
    fn expected(&mut self, record: &Record<'_>) -> Result<Hash> {
        let unasked = Error::Unasked { record: self.records };
        match (self.path.last_mut(), record.top) {
            (None, Some(hash)) => Ok(hash),
            (Some(parent), None) => {
                parent.current = parent.missing.pop().ok_or(unasked)?;
                parent.chunk.child(parent.current as usize).ok_or(Error::Unasked { record: self.records })
            }
            _ => Err(unasked),
        }
    }

    fn base(&self, record: &Record<'_>) -> Result<Option<Chunk>> {
        let unknown = |what: String| Error::UnknownBase { record: self.records, what };
        let hash = match record.base {
            None => return Ok(None),
            Some(BaseName::Hash(hash)) => hash,
            Some(BaseName::Child(index)) => {
                let base = self.path.last().and_then(|parent| parent.base.as_ref());
                let base = base.ok_or_else(|| unknown("its parent has no base".into()))?;
                base.child(index as usize).ok_or_else(|| {
                    unknown(format!("child {index} of {}, which has {}", base.hash(), base.child_count()))
                })?
            }
        };
        if let Some(chunk) = self.batch.get(&hash) {
            return Ok(Some(chunk.clone()));
        }
        if matches!(record.base, Some(BaseName::Hash(_))) && !self.holds(&hash) && !self.obtains(&hash)? {
            return Err(unknown(hash.to_string()));
        }
        match self.database.store().get(&hash).map_err(pleach_engine::Error::from)? {
            Some(chunk) => Ok(Some(chunk)),
            None => Err(unknown(hash.to_string())),
        }
    }

    /// The indexes of the children that follow, the next one last; the others must be here.
    fn missing(&self, record: &Record<'_>, chunk: &Chunk) -> Result<Vec<u32>> {
        let count = chunk.child_count();
        let mut missing: Vec<u32> = match &record.follow {
            Follow::None => Vec::new(),
            Follow::All => (0..count as u32).collect(),
            Follow::Listed(indexes) => indexes.clone(),
        };
        if missing.last().is_some_and(|&last| last as usize >= count) {
            let what = format!("child {:?} follows, the chunk has {count}", missing.last());
            return Err(Error::Record { record: self.records, offset: 0, what });
        }
        let mut followed = missing.iter().peekable();
        let mut repeated: Option<HashSet<Hash>> = None;
        for (index, child) in chunk.children().enumerate() {
            if followed.next_if(|&&next| next as usize == index).is_some() || self.holds(&child) {
                continue;
            }
            // A child that stands twice follows once.
            let follows = || missing.iter().filter_map(|&index| chunk.child(index as usize)).collect();
            let repeats = repeated.get_or_insert_with(follows).contains(&child);
            if !repeats && !self.is_promised && !self.obtains(&child)? {
                return Err(Error::MissingChild { record: self.records, parent: *chunk.hash(), child });
            }
        }
        missing.reverse();
        Ok(missing)
    }

    /// Notes a top: it is loose until a later one names it.
    fn top(&mut self, chunk: &Chunk) -> Result<()> {
        self.named = chunk.children().filter(|child| self.loose.remove(child).is_some()).collect();
        self.loose.insert(*chunk.hash(), self.records);
        within("commits that nothing names", self.loose.len(), LOOSE_TOPS_MAX)
    }

    fn push(&mut self, step: Step) -> Result<()> {
        self.path_bytes += step.bytes();
        self.path.push(step);
        within("depth of a tree", self.path.len(), DEPTH_MAX)?;
        within("bytes of a path", self.path_bytes, PATH_BYTES_MAX)?;
        self.close()
    }

    /// Stores the chunks at the end of the path that wait for nothing any more.
    fn close(&mut self) -> Result<()> {
        while let Some(step) = self.path.pop_if(|step| step.missing.is_empty()) {
            self.path_bytes -= step.bytes();
            self.done += Extent::of(&step.chunk);
            self.store(step)?;
        }
        Ok(())
    }

    fn store(&mut self, step: Step) -> Result<()> {
        if self.holds(step.chunk.hash()) {
            return Ok(());
        }
        let parent = |hash: &Hash| match (self.batch.get(hash), self.is_promised) {
            (Some(chunk), _) => Ok(Some(chunk.clone())),
            (None, true) => Ok(self.database.store().local(hash)?),
            (None, false) => Ok(self.database.store().get(hash)?),
        };
        match check_lineage(&step.chunk, parent) {
            // Where history is cut off, the place in it is the promiser's word. Whoever this is pushed to checks it.
            Err(pleach_engine::Error::Missing { .. }) if self.is_promised => {}
            checked => checked.map_err(|error| Error::Record {
                record: self.records,
                offset: 0,
                what: error.to_string(),
            })?,
        }
        self.batch.put(step.chunk, step.base.map(|base| *base.hash()));
        if self.batch.bytes() < BATCH_BYTES {
            return Ok(());
        }
        self.appended = true;
        append(&self.database, std::mem::take(&mut self.batch))
    }

    /// Whether the chunk is here now, as this is a partial copy, whose remote has it.
    fn obtains(&self, hash: &Hash) -> Result<bool> {
        let store = self.database.store();
        if !self.is_fetch || !store.is_partial() {
            return Ok(false);
        }
        match store.get(hash).map_err(pleach_engine::Error::from) {
            Ok(found) => Ok(found.is_some() && self.hold.keep(hash)),
            // It does not give it: then it is not here.
            Err(error) if error.kind() == pleach_engine::ErrorKind::Remote => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the chunk is here; then it and all under it stay until the refs are moved.
    fn holds(&self, hash: &Hash) -> bool {
        // What is absent is not kept: a hold would remember the hash of every chunk that arrives.
        self.batch.contains(hash) || (self.database.store().contains(hash) && self.hold.keep(hash))
    }
}

/// Appends closed chunks. They are durable when the refs that need them are.
fn append(database: &Database, batch: Batch) -> Result<()> {
    match database.store().append(batch, &[]).map_err(pleach_engine::Error::from)? {
        Outcome::Appended(_) => Ok(()),
        Outcome::Moved { name, .. } => Err(Error::Moved { name }),
    }
}

impl Step {
    fn bytes(&self) -> usize {
        self.chunk.bytes().len() + self.base.as_ref().map_or(0, |base| base.bytes().len())
    }
}
