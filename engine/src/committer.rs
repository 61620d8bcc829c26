//! The committer: folds the transactions that wait into one edit, one append, one fsync.
//!
//! A transaction that commits joins the queue; whoever gets the order of writing next takes the whole queue, admits its
//! members one after the other, and appends what they amount to. A member is admitted if nothing that it wrote has changed
//! since its snapshot; one that is refused, or that fails, never fails another. While a group becomes durable, the next one is
//! appended. Indexes are brought along with the rows; who would break a unique one fails alone, because a group that fails is
//! tried member by member. A transaction that wrote edits ahead is a group by itself, and its rows are merged into the branch's.

use std::{
    collections::{BTreeMap, btree_map},
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};
use pleach_chunkstore::{Hash, RefUpdate, Store, Ticket};

use crate::{
    blob,
    catalogue::{self, Entry, IndexEntry, Name, TableEntry},
    chunks::{Read, Writer},
    database::Database,
    definition::Definition,
    error::{Error, Result},
    index::{self, Indexed},
    map::{
        self, build,
        config::MapConfig,
        cursor::Rows,
        delete,
        diff::{self, Diff, Range},
        edit::{self, Edit},
        merge,
        node::{Stored, Tag, Value},
        range::{KeyRange, RangeSet},
    },
    names,
    transaction::{NewValue, Spilled, TableEdits, Token, TransactionOutcome},
};

/// Transactions that wait to be committed.
#[derive(Default)]
pub(crate) struct Queue(Mutex<Vec<Arc<Waiting>>>);

impl Queue {
    /// Takes a transaction out; false if it is not there.
    fn leave(&self, waiting: &Arc<Waiting>) -> bool {
        let mut queue = self.0.lock();
        let at = queue.iter().position(|other| Arc::ptr_eq(other, waiting));
        at.map(|at| queue.remove(at)).is_some()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

pub(crate) struct Waiting {
    request: Mutex<Request>,
    reply: Mutex<Option<Result<Reply>>>,
}

struct Request {
    branch: String,
    snapshot: Hash,
    edits: BTreeMap<String, TableEdits>,
    /// The handle of the store that it was made from.
    store: Store,
}

impl Request {
    /// Whether some of the edits of rows were written ahead.
    fn is_spilled(&self) -> bool {
        self.edits.values().any(|edits| edits.spilled.is_some())
    }
}

enum Reply {
    Refused { table: String, key: Option<Vec<u8>> },
    Appended { ticket: Arc<Ticket>, root: Hash, head: Option<Hash>, changed: bool },
}

impl Database {
    pub(crate) fn commit_edits(
        &self,
        branch: String,
        snapshot: Hash,
        edits: BTreeMap<String, TableEdits>,
    ) -> Result<TransactionOutcome> {
        let store = self.store().clone();
        let request = Mutex::new(Request { branch, snapshot, edits, store });
        let waiting = Arc::new(Waiting { request, reply: Mutex::new(None) });
        self.queue().0.lock().push(waiting.clone());
        match self.order() {
            Ok(_order) if waiting.reply.lock().is_none() => self.plain().run_queue(&waiting),
            Ok(_) => {}
            Err(cancelled) if self.queue().leave(&waiting) => return Err(cancelled),
            // Whoever took it out of the queue answers it before giving the order up.
            Err(_) => self.pass_order(),
        }
        // Who leads a group answers everybody in it, unless it panics.
        let reply = waiting.reply.lock().take().unwrap_or(Err(Error::Unanswered));
        match reply? {
            Reply::Refused { table, key } => Ok(TransactionOutcome::Refused { table, key }),
            Reply::Appended { ticket, root, head, changed } => {
                ticket.wait()?;
                let token = Token { epoch: self.epoch(), sequence: ticket.sequence(), root, head };
                Ok(if changed {
                    TransactionOutcome::Committed(token)
                } else {
                    TransactionOutcome::Unchanged(token)
                })
            }
        }
    }

    /// Answers everybody in the queue. The order of writing is held.
    fn run_queue(&self, own: &Arc<Waiting>) {
        let mut group = std::mem::take(&mut *self.queue().0.lock());
        let is_cancelled =
            |waiting: &mut Arc<Waiting>| waiting.request.lock().store.check_cancelled().is_err();
        for cancelled in group.extract_if(.., is_cancelled) {
            *cancelled.reply.lock() = Some(Err(Error::Cancelled));
        }
        let is_alone = |waiting: &Arc<Waiting>| waiting.request.lock().is_spilled();
        let groups = group.chunk_by(|one, next| !is_alone(one) && !is_alone(next));
        groups.for_each(|group| self.run_group(group, own));
    }

    fn run_group(&self, group: &[Arc<Waiting>], own: &Arc<Waiting>) {
        // Only who is alone may be cancelled without harm to another.
        let tried = match group {
            [only] => {
                let store = only.request.lock().store.clone();
                // Who is told of progress is told by his own thread.
                let is_own = Arc::ptr_eq(only, own);
                self.by(if is_own { store } else { store.unobserved() }).try_group(group)
            }
            _ => self.try_group(group),
        };
        match (tried, group) {
            (Ok(replies), _) => {
                for (waiting, reply) in group.iter().zip(replies) {
                    *waiting.reply.lock() = Some(Ok(reply));
                }
            }
            (Err(error), [only]) => *only.reply.lock() = Some(Err(error)),
            // Whose fault it was shows when each is tried alone.
            (Err(_), _) => group.chunks(1).for_each(|alone| self.run_group(alone, own)),
        }
    }

    fn try_group(&self, group: &[Arc<Waiting>]) -> Result<Vec<Reply>> {
        let mut writer = Writer::new(self.store());
        let requests: Vec<_> = group.iter().map(|waiting| waiting.request.lock()).collect();
        let mut branches: BTreeMap<&str, BranchState<'_>> = BTreeMap::new();
        let mut refusals = Vec::with_capacity(group.len());
        for request in &requests {
            let state = match branches.entry(&request.branch) {
                btree_map::Entry::Occupied(slot) => slot.into_mut(),
                btree_map::Entry::Vacant(slot) => {
                    let root = self.appended_branch(&request.branch)?.work;
                    slot.insert(BranchState { root, tables: BTreeMap::new() })
                }
            };
            refusals.push(state.admit(&mut writer, request)?);
        }
        let mut updates = Vec::new();
        let mut roots = BTreeMap::new();
        for (branch, state) in branches {
            let (old, new) = (state.root, state.fold(&mut writer)?);
            if old != new {
                updates.push(RefUpdate { name: names::work(branch), old: Some(old), new: Some(new) });
            }
            let head = self.store().appended_ref(&names::head(branch));
            roots.insert(branch, (new, head, old != new));
        }
        let ticket = Arc::new(writer.append(&updates)?);
        let reply = |(request, refusal): (&MutexGuard<'_, Request>, Option<Refusal>)| match refusal {
            Some(Refusal { table, key }) => Reply::Refused { table, key },
            None => {
                let (root, head, changed) = roots[request.branch.as_str()];
                Reply::Appended { ticket: ticket.clone(), root, head, changed }
            }
        };
        Ok(requests.iter().zip(refusals).map(reply).collect())
    }
}

/// Why a member is not admitted.
struct Refusal {
    table: String,
    key: Option<Vec<u8>>,
}

/// A branch's work with the changes of the members admitted so far.
struct BranchState<'a> {
    root: Hash,
    tables: BTreeMap<&'a str, TableState<'a>>,
}

/// A table of the group: what is appended, and what the group adds.
struct TableState<'a> {
    /// The entry before the rows below are applied; `None` if there is no such table.
    entry: Option<TableEntry>,
    /// Whether a member of the group changed the table itself: others have not seen that.
    restructured: bool,
    /// Whether it replaced the table or all its rows.
    replaced: bool,
    /// Ranges that members deleted. No member deletes a range in which one before it wrote a row, so ranges go first.
    deleted: RangeSet,
    rows: BTreeMap<&'a [u8], Option<&'a NewValue>>,
    /// The rows and the indexes before the group.
    before: Option<Hash>,
    had: BTreeMap<String, IndexEntry>,
    /// The indexes that are to be: where each stands.
    indexes: BTreeMap<String, IndexState>,
}

/// An index of a table of the group.
struct IndexState {
    entry: IndexEntry,
    /// Whether a member of the group made it: it has no entries yet.
    new: bool,
}

impl<'a> BranchState<'a> {
    /// Admits a request whole, or says what stands against it.
    fn admit(&mut self, writer: &mut Writer, request: &'a Request) -> Result<Option<Refusal>> {
        for (table, edits) in &request.edits {
            let state = match self.tables.entry(table) {
                btree_map::Entry::Occupied(slot) => slot.into_mut(),
                btree_map::Entry::Vacant(slot) => {
                    let entry = catalogue::table(writer, &self.root, table)?;
                    let indexes = catalogue::indexes(writer, &self.root, table)?;
                    slot.insert(TableState::new(entry, indexes))
                }
            };
            let seen = catalogue::table(writer, &request.snapshot, table)?;
            if let Some(key) = state.refuses(writer, seen, edits)? {
                return Ok(Some(Refusal { table: table.clone(), key }));
            }
            if (edits.altered.is_some() || edits.dropped || !edits.indexes.is_empty())
                && !state.has_indexes(&catalogue::indexes(writer, &request.snapshot, table)?)
            {
                return Ok(Some(Refusal { table: table.clone(), key: None }));
            }
        }
        for (table, edits) in &request.edits {
            if let Some(state) = self.tables.get_mut(table.as_str()) {
                state.apply(writer, edits)?;
            }
        }
        Ok(None)
    }

    /// Writes the admitted changes; returns the branch's new root.
    fn fold(self, writer: &mut Writer) -> Result<Hash> {
        let mut changes = Vec::with_capacity(self.tables.len());
        for (table, state) in self.tables {
            if state.replaced {
                // What was in conflict was rows of the table as it was.
                changes.push((Name::Conflicts(table.to_owned()), None));
            }
            let name = |index: &String| Name::Index(table.to_owned(), index.clone());
            let had = state.had.clone();
            let (entry, indexes) = match state.entry {
                Some(entry) => state.fold(writer, table, entry)?,
                None => Default::default(),
            };
            let gone = had.keys().filter(|index| !indexes.contains_key(*index));
            changes.extend(gone.map(|index| (name(index), None)));
            changes.extend(indexes.iter().map(|(index, entry)| (name(index), Some(Entry::Index(*entry)))));
            let entry = entry.map(Entry::Table);
            changes.push((Name::Table(table.to_owned()), entry));
        }
        catalogue::change(writer, self.root, changes)
    }
}

impl<'a> TableState<'a> {
    fn new(entry: Option<TableEntry>, had: BTreeMap<String, IndexEntry>) -> TableState<'a> {
        let state =
            |(name, entry): (&String, &IndexEntry)| (name.clone(), IndexState { entry: *entry, new: false });
        TableState {
            entry,
            restructured: false,
            replaced: false,
            deleted: RangeSet::default(),
            rows: BTreeMap::new(),
            before: entry.map(|entry| entry.rows),
            indexes: had.iter().map(state).collect(),
            had,
        }
    }

    /// Whether the table's indexes are those that a transaction saw.
    fn has_indexes(&self, seen: &BTreeMap<String, IndexEntry>) -> bool {
        let now = self.indexes.iter().map(|(name, index)| (name, index.entry.definition));
        now.eq(seen.iter().map(|(name, entry)| (name, entry.definition)))
    }

    /// What stands against the edits of a transaction that saw `seen`: a row (`Some(Some(key))`) or the table (`Some(None)`).
    fn refuses(
        &self,
        reader: &Writer,
        seen: Option<TableEntry>,
        edits: &TableEdits,
    ) -> Result<Option<Option<Vec<u8>>>> {
        if edits.replaces() {
            let untouched = self.entry == seen && !self.restructured;
            let untouched = untouched && self.rows.is_empty() && self.deleted.is_empty();
            return Ok(if untouched { None } else { Some(None) });
        }
        let (Some(now), Some(seen)) = (self.entry, seen) else { return Ok(Some(None)) };
        if self.restructured || now.definition != seen.definition {
            return Ok(Some(None));
        }
        let mut meter = reader.store().meter("admitting", "rows", Some(edits.rows.len() as u64));
        for key in edits.rows.keys() {
            meter.add(1);
            let written_in_group = self.rows.contains_key(key.as_slice());
            let deleted_in_group =
                || Ok::<_, Error>(self.deleted.contains(key) && map::get(reader, &now.rows, key)?.is_some());
            let changed =
                || Ok::<_, Error>(map::get(reader, &now.rows, key)? != map::get(reader, &seen.rows, key)?);
            if written_in_group || deleted_in_group()? || (now.rows != seen.rows && changed()?) {
                return Ok(Some(Some(key.to_vec())));
            }
        }
        meter.end();
        if let Some(spilled) = &edits.spilled {
            return self.refuses_spilled(reader, &now.rows, spilled);
        }
        for range in edits.deleted.iter() {
            let written = self.written_in(reader, &now.rows, &range)?;
            let changed = || delete::first_change(reader, [&seen.rows, &now.rows], &range);
            if let Some(key) = written.map_or_else(changed, |key| Ok(Some(key)))? {
                return Ok(Some(Some(key)));
            }
        }
        Ok(None)
    }

    /// What stands against edits that were written ahead, in a group of their own.
    fn refuses_spilled(
        &self,
        reader: &Writer,
        now: &Hash,
        spilled: &Spilled,
    ) -> Result<Option<Option<Vec<u8>>>> {
        let [seen, rows] = [&spilled.base, now].map(|root| Some((reader, *root)));
        let meter = diff::meter(reader.store(), [Some(spilled.base), Some(*now)], &Range::default())?;
        for change in Diff::between(seen, rows, &Range::default())?.metered(Some(meter)) {
            let key = change?.key;
            if map::get(reader, &spilled.edited, &key)?.is_some() {
                return Ok(Some(Some(key)));
            }
        }
        for range in spilled.deleted.iter() {
            if let Some(key) = delete::first_change(reader, [&spilled.base, now], &range)? {
                return Ok(Some(Some(key)));
            }
        }
        Ok(None)
    }

    /// A key in `range` that a member of the group wrote or deleted; `rows` is the root that all of them build upon.
    fn written_in(&self, reader: &impl Read, rows: &Hash, range: &KeyRange) -> Result<Option<Vec<u8>>> {
        if let Some((key, _)) = self.rows.range::<[u8], _>(range.bounds()).next() {
            return Ok(Some(key.to_vec()));
        }
        for both in self.deleted.within(range) {
            let (from, to) = both.bounds();
            if let Some((key, _)) = Rows::new(reader, rows, from, to)?.next_row()? {
                return Ok(Some(key.to_vec()));
            }
        }
        Ok(None)
    }

    fn apply(&mut self, writer: &mut Writer, edits: &'a TableEdits) -> Result<()> {
        self.replaced |= edits.replaces();
        self.restructured |= edits.replaces() || edits.altered.is_some();
        if edits.dropped {
            self.entry = None;
            self.indexes.clear();
        }
        if let Some(definition) = &edits.created {
            let chunk = definition.encode();
            let entry = TableEntry { definition: *chunk.hash(), rows: build::empty(writer)? };
            writer.put(chunk, None)?;
            self.entry = Some(entry);
        }
        if let (Some(entry), Some(definition)) = (&mut self.entry, &edits.altered) {
            let chunk = definition.encode();
            entry.definition = *chunk.hash();
            writer.put(chunk, None)?;
        }
        for (name, definition) in &edits.indexes {
            let Some(definition) = definition else {
                self.indexes.remove(name);
                continue;
            };
            let chunk = definition.encode();
            let entry = IndexEntry { definition: *chunk.hash(), root: build::empty(writer)? };
            writer.put(chunk, None)?;
            self.indexes.insert(name.clone(), IndexState { entry, new: true });
        }
        if let (Some(entry), Some(rows)) = (&mut self.entry, edits.loaded) {
            entry.rows = rows;
        }
        if let (Some(entry), Some(Spilled { base, rows, .. })) = (&mut self.entry, &edits.spilled) {
            let config = Definition::decode(&writer.chunk(&entry.definition)?)?.config;
            let store = writer.store().clone();
            // Admitted, so no row was changed on both sides.
            let conflict = &mut |_: &mut Writer, _: &merge::RowConflict| Ok(merge::Decision::Conflict);
            entry.rows = merge::merge(&store, writer, &config, Some(base), &entry.rows, rows, conflict)?;
        }
        edits.deleted.iter().for_each(|range| drop(self.deleted.insert(range)));
        // The second of two sets comes out sorted, and is taken whole.
        self.rows
            .append(&mut edits.rows.iter().map(|(key, value)| (key.as_slice(), value.as_ref())).collect());
        Ok(())
    }

    /// Writes the rows, and brings the indexes along.
    fn fold(
        mut self,
        writer: &mut Writer,
        table: &str,
        entry: TableEntry,
    ) -> Result<(Option<TableEntry>, BTreeMap<String, IndexEntry>)> {
        let Definition { config, schema } = Definition::decode(&writer.chunk(&entry.definition)?)?;
        let changed = self.rows.iter().map(|(key, value)| (*key, *value));
        let rows = fold_rows(writer, &config, entry.rows, &self.deleted, changed)?;
        if let Some(schema) = &schema {
            let indexed = Indexed { table, schema };
            for (new, from) in [(false, self.before), (true, None)] {
                let indexes = self.indexes.iter_mut().filter(|(_, index)| index.new == new);
                let indexes = indexes.map(|(name, index)| (name, &mut index.entry));
                index::follow(writer, indexed, indexes, from, rows)?;
            }
        }
        let indexes = self.indexes.into_iter().map(|(name, index)| (name, index.entry)).collect();
        Ok((Some(TableEntry { rows, ..entry }), indexes))
    }
}

/// The root of `rows` after ranges were deleted and then rows changed.
pub(crate) fn fold_rows<'a>(
    writer: &mut Writer,
    config: &MapConfig,
    mut rows: Hash,
    deleted: &RangeSet,
    changed: impl Iterator<Item = (&'a [u8], Option<&'a NewValue>)> + Clone,
) -> Result<Hash> {
    for range in deleted.iter() {
        rows = delete::delete(writer, config, rows, &range)?;
    }
    let is_long = |bytes: &[u8]| bytes.len() > usize::from(config.inline_bytes);
    let mut long = Vec::new();
    for (_, value) in changed.clone() {
        if let Some(NewValue::Bytes(bytes)) = value
            && is_long(bytes)
        {
            long.push(blob::store(writer, config.inline_bytes, bytes)?);
        }
    }
    let mut long = long.iter().map(Value::stored);
    let edits = changed.map(|(key, value)| {
        let new = value.and_then(|value| match value {
            NewValue::Bytes(bytes) if is_long(bytes) => long.next(),
            NewValue::Bytes(bytes) => Some(Stored { tag: Tag::Inline, bytes }),
            NewValue::Stored(value) => Some(value.stored()),
        });
        Edit { key, new }
    });
    let edits: Vec<_> = edits.collect();
    edit::apply(writer, config, rows, &edits)
}
