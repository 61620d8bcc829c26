//! What a transaction changed so far, and the way back.
//!
//! One idea: every change is a [`Step`], and taking a step gives the one that leads back. From the first savepoint on these are kept in
//! a log. So a savepoint is a place in the log and costs nothing, and going back costs what was done since.
//!
//! Invariants (test `savepoints_are_those_of_a_plain_model`):
//! 1. Taking back all steps of the log behind a mark, the last first, makes the tables what they were at the mark.
//! 2. `kept` and `logged` are the bytes of the rows and ranges that the tables and the log hold.
//! 3. At the first `folded` marks the tables have no rows and ranges, and before the last of these the log has steps of whole tables only.
//!    What stands under such a mark leads back to it whatever rows are edited on top. (test `a_bound_on_memory_changes_no_outcome`)

use std::{
    collections::{BTreeMap, btree_map},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use pleach_chunkstore::Hash;
use smallvec::SmallVec;

use crate::{
    definition::Definition,
    error::{Error, Result},
    index::IndexDefinition,
    map::{
        node::Value,
        range::{KeyRange, RangeSet},
    },
};

/// What a row or a range is taken to need in memory beside its bytes: its place in the tree of edits, and, while it is committed, in those of its group.
const ENTRY_BYTES: usize = 192;

/// A row's key: one that is short lies in the tree of edits itself, so that finding its place waits for no memory besides.
pub(crate) type RowKey = SmallVec<[u8; 24]>;

/// The edits of one table.
#[derive(Clone, Default)]
pub(crate) struct TableEdits {
    /// The table of the snapshot is dropped before anything else.
    pub(crate) dropped: bool,
    /// The table is made, with this definition.
    pub(crate) created: Option<Definition>,
    /// The table that is there gets this definition: its columns change, its rows do not.
    pub(crate) altered: Option<Definition>,
    /// Indexes by name: made, or with `None` dropped.
    pub(crate) indexes: BTreeMap<String, Option<IndexDefinition>>,
    /// Rows given in bulk: the root of a map that replaces the table's rows.
    pub(crate) loaded: Option<Hash>,
    /// Rows edited one by one, as far as they were written ahead.
    pub(crate) spilled: Option<Spilled>,
    /// Ranges of keys whose rows go, before the rows below come.
    pub(crate) deleted: RangeSet,
    /// Rows by key; `None` deletes.
    pub(crate) rows: BTreeMap<RowKey, Option<NewValue>>,
    /// Bytes of the ranges and rows.
    pub(super) bytes: usize,
}

/// Edits of rows that were written ahead: what is needed to see them, and to say at the commit which rows they are.
#[derive(Clone)]
pub(crate) struct Spilled {
    /// The rows of the snapshot that they were applied to.
    pub(crate) base: Hash,
    /// The rows with the edits.
    pub(crate) rows: Hash,
    /// A map whose keys are those of the rows that were edited, also of those that are as they were.
    pub(crate) edited: Hash,
    /// The ranges that were deleted.
    pub(crate) deleted: Arc<RangeSet>,
}

/// A value to be set.
#[derive(Clone)]
pub(crate) enum NewValue {
    Bytes(Vec<u8>),
    /// What a leaf stores for it; its pieces were written ahead.
    Stored(Value),
}

impl TableEdits {
    /// Whether the table, or all its rows, are replaced.
    pub(crate) fn replaces(&self) -> bool {
        self.dropped || self.created.is_some() || self.loaded.is_some()
    }

    /// Whether nothing was edited.
    fn is_empty(&self) -> bool {
        let is_table_same = !self.replaces() && self.altered.is_none() && self.indexes.is_empty();
        is_table_same && self.spilled.is_none() && !self.has_rows()
    }

    /// Whether there are edits of rows that are not written ahead.
    pub(super) fn has_rows(&self) -> bool {
        !self.rows.is_empty() || !self.deleted.is_empty()
    }

    /// These edits without those of rows that are in memory.
    pub(super) fn of_table(&self) -> TableEdits {
        TableEdits {
            dropped: self.dropped,
            created: self.created.clone(),
            altered: self.altered.clone(),
            indexes: self.indexes.clone(),
            loaded: self.loaded,
            spilled: self.spilled.clone(),
            ..TableEdits::default()
        }
    }
}

/// A place in a transaction to which [`Transaction::rollback_to`](crate::Transaction::rollback_to) leads back.
#[derive(Debug)]
pub struct Savepoint {
    number: u64,
}

/// A savepoint: its number, and the length of the log when it was made.
struct Mark {
    number: u64,
    log: usize,
}

/// A change of a transaction's edits.
enum Step {
    /// The edit of a row becomes this; `None`: there is none.
    Row { table: String, key: RowKey, edit: Option<Option<NewValue>> },
    /// A range is deleted, in which no row is edited.
    Delete { table: String, range: KeyRange },
    /// That is taken back: what the range was joined to goes, and the parts of that come.
    Restore { table: String, range: KeyRange, joined: KeyRange, parts: Vec<KeyRange> },
    /// The definition that a table is given, and its indexes, become these.
    Definition { table: String, edits: TableEdits },
    /// All edits of a table become these; `None`: there are none.
    Table { table: String, edits: Option<TableEdits> },
}

impl Step {
    fn table(&self) -> &String {
        match self {
            Step::Row { table, .. } | Step::Delete { table, .. } | Step::Restore { table, .. } => table,
            Step::Definition { table, .. } | Step::Table { table, .. } => table,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Step::Row { key, edit, .. } => row_bytes(key, edit.as_ref().and_then(Option::as_ref)),
            Step::Delete { range, .. } => range_bytes(range),
            Step::Restore { range, joined, parts, .. } => {
                range_bytes(range) + range_bytes(joined) + ranges_bytes(parts)
            }
            Step::Definition { .. } | Step::Table { edits: None, .. } => 0,
            Step::Table { edits: Some(edits), .. } => edits.bytes,
        }
    }
}

fn row_bytes(key: &[u8], value: Option<&NewValue>) -> usize {
    let value = match value {
        Some(NewValue::Bytes(bytes)) => bytes.len(),
        Some(NewValue::Stored(value)) => value.bytes.len(),
        None => 0,
    };
    key.len() + value + ENTRY_BYTES
}

fn range_bytes(range: &KeyRange) -> usize {
    range.from.len() + range.to.as_ref().map_or(0, Vec::len) + ENTRY_BYTES
}

fn ranges_bytes(ranges: &[KeyRange]) -> usize {
    ranges.iter().map(range_bytes).sum()
}

/// Writes the rows and ranges that are in memory, or fails and changes nothing.
pub(super) trait Fold: FnMut(&mut BTreeMap<String, TableEdits>) -> Result<()> {}

impl<F: FnMut(&mut BTreeMap<String, TableEdits>) -> Result<()>> Fold for F {}

/// The edits of a transaction, by table.
#[derive(Default)]
pub(crate) struct Edits {
    tables: BTreeMap<String, TableEdits>,
    /// The steps that lead back to the first mark, the first to be taken last.
    log: Vec<Step>,
    marks: Vec<Mark>,
    /// How many of the marks, from the first, stand where nothing is in memory.
    folded: usize,
    kept: usize,
    logged: usize,
}

impl Edits {
    pub(crate) fn get(&self, table: &str) -> Option<&TableEdits> {
        self.tables.get(table)
    }

    /// The edits by table, of those tables that have some.
    pub(crate) fn into_tables(mut self) -> BTreeMap<String, TableEdits> {
        self.tables.retain(|_, edits| !edits.is_empty());
        self.tables
    }

    /// Sets the row at `key`, or with `None` deletes it.
    pub(crate) fn set_row(&mut self, table: &str, key: &[u8], value: Option<NewValue>) {
        let edits = match self.tables.get_mut(table) {
            Some(edits) => edits,
            None => self.tables.entry(table.to_owned()).or_default(),
        };
        let bytes = row_bytes(key, value.as_ref());
        let old = edits.rows.insert(RowKey::from_slice(key), value);
        let old_bytes = old.as_ref().map_or(0, |old| row_bytes(key, old.as_ref()));
        edits.bytes = edits.bytes + bytes - old_bytes;
        self.kept = self.kept + bytes - old_bytes;
        self.note(|| Step::Row { table: table.to_owned(), key: RowKey::from_slice(key), edit: old });
    }

    /// Deletes the rows in `range`.
    pub(crate) fn delete_range(&mut self, table: &str, range: KeyRange) {
        if range.is_empty() {
            return;
        }
        let edits = self.tables.entry(table.to_owned()).or_default();
        let superseded: Vec<_> =
            edits.rows.range::<[u8], _>(range.bounds()).map(|(key, _)| key.clone()).collect();
        for key in superseded {
            let back = self.take(Step::Row { table: table.to_owned(), key, edit: None });
            self.note(|| back);
        }
        let back = self.take(Step::Delete { table: table.to_owned(), range });
        self.note(|| back);
    }

    /// Changes the definition that a table is given, or its indexes.
    pub(crate) fn change(&mut self, table: &str, change: impl FnOnce(&mut TableEdits)) {
        let edits = self.tables.entry(table.to_owned()).or_default();
        let before = (!self.marks.is_empty()).then(|| edits.of_table());
        change(edits);
        if let Some(edits) = before {
            self.note(|| Step::Definition { table: table.to_owned(), edits });
        }
    }

    /// Makes the edits of a table these; `None`: there are none.
    pub(crate) fn replace(&mut self, table: &str, edits: Option<TableEdits>) {
        let back = self.take(Step::Table { table: table.to_owned(), edits });
        self.note(|| back);
    }

    /// Makes all rows of a table those of the map at `root`.
    pub(crate) fn replace_rows(&mut self, table: &str, root: Hash) {
        let before = self.tables.get(table).map(TableEdits::of_table).unwrap_or_default();
        self.replace(table, Some(TableEdits { loaded: Some(root), spilled: None, ..before }));
    }

    /// Notes the step back from what was just done, if a savepoint may need it.
    fn note(&mut self, back: impl FnOnce() -> Step) {
        if !self.marks.is_empty() {
            self.push(back());
        }
    }

    fn push(&mut self, step: Step) {
        self.logged += step.bytes();
        self.log.push(step);
    }

    fn pop(&mut self) -> Option<Step> {
        let step = self.log.pop()?;
        self.logged -= step.bytes();
        Some(step)
    }

    /// Takes a step; gives the one that leads back.
    fn take(&mut self, step: Step) -> Step {
        match step {
            Step::Row { table, key, edit } => {
                let edits = self.tables.entry(table.clone()).or_default();
                let bytes = edit.as_ref().map_or(0, |edit| row_bytes(&key, edit.as_ref()));
                let old = match edit {
                    Some(edit) => edits.rows.insert(key.clone(), edit),
                    None => edits.rows.remove(&key),
                };
                let old_bytes = old.as_ref().map_or(0, |old| row_bytes(&key, old.as_ref()));
                edits.bytes = edits.bytes + bytes - old_bytes;
                self.kept = self.kept + bytes - old_bytes;
                Step::Row { table, key, edit: old }
            }
            Step::Delete { table, range } => {
                let edits = self.tables.entry(table.clone()).or_default();
                let (joined, parts) = edits.deleted.insert(range.clone());
                edits.bytes = edits.bytes + range_bytes(&joined) - ranges_bytes(&parts);
                self.kept = self.kept + range_bytes(&joined) - ranges_bytes(&parts);
                Step::Restore { table, range, joined, parts }
            }
            Step::Restore { table, range, joined, parts } => {
                let edits = self.tables.entry(table.clone()).or_default();
                edits.deleted.replace(&joined, &parts);
                edits.bytes = edits.bytes + ranges_bytes(&parts) - range_bytes(&joined);
                self.kept = self.kept + ranges_bytes(&parts) - range_bytes(&joined);
                Step::Delete { table, range }
            }
            Step::Definition { table, edits } => {
                let now = self.tables.entry(table.clone()).or_default();
                let back = now.of_table();
                let TableEdits { created, altered, indexes, .. } = edits;
                (now.created, now.altered, now.indexes) = (created, altered, indexes);
                Step::Definition { table, edits: back }
            }
            Step::Table { table, edits } => {
                self.kept += edits.as_ref().map_or(0, |edits| edits.bytes);
                let old = match (edits, self.tables.entry(table.clone())) {
                    (Some(edits), btree_map::Entry::Occupied(mut slot)) => Some(slot.insert(edits)),
                    (Some(edits), btree_map::Entry::Vacant(slot)) => {
                        slot.insert(edits);
                        None
                    }
                    (None, btree_map::Entry::Occupied(slot)) => Some(slot.remove()),
                    (None, btree_map::Entry::Vacant(_)) => None,
                };
                self.kept -= old.as_ref().map_or(0, |edits| edits.bytes);
                Step::Table { table, edits: old }
            }
        }
    }

    /// Marks this place.
    pub(crate) fn mark(&mut self) -> Savepoint {
        // Numbers are those of the process, so that no mark of another transaction is taken for one of this.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.marks.push(Mark { number, log: self.log.len() });
        Savepoint { number }
    }

    fn find(&self, mark: &Savepoint) -> Result<usize> {
        self.marks.binary_search_by_key(&mark.number, |mark| mark.number).map_err(|_| Error::UnknownSavepoint)
    }

    /// Takes back all that was done since `mark`; the marks made since are gone.
    pub(crate) fn rollback_to(&mut self, mark: &Savepoint) -> Result<()> {
        let at = self.find(mark)?;
        let log = self.marks[at].log;
        while self.log.len() > log
            && let Some(step) = self.pop()
        {
            self.take(step);
        }
        self.truncate_marks(at + 1);
        Ok(())
    }

    /// Forgets `mark` and the marks made since; what was done stays.
    pub(crate) fn release(&mut self, mark: &Savepoint) -> Result<()> {
        let at = self.find(mark)?;
        self.truncate_marks(at);
        if self.marks.is_empty() {
            self.log.clear();
            self.logged = 0;
        }
        Ok(())
    }

    fn truncate_marks(&mut self, len: usize) {
        self.marks.truncate(len);
        self.folded = self.folded.min(len);
    }

    /// Whether there are edits of rows that were written ahead and are still to be told apart at the commit.
    pub(crate) fn has_spilled(&self) -> bool {
        self.tables.values().any(|edits| edits.spilled.is_some())
    }

    /// Runs `fold`, which is to leave no rows and ranges in memory, on the tables as they were at each mark and as they are. After
    /// an error of `fold`, which then has changed nothing, the edits come to the same as before.
    pub(crate) fn fold(&mut self, mut fold: impl Fold) -> Result<()> {
        // Back to the last mark that was folded, or else to the first. From there all steps are taken again.
        let first = self.folded.saturating_sub(1);
        let Some(&Mark { log: start, .. }) = self.marks.get(first) else {
            return self.fold_tables(&mut fold);
        };
        let mut ahead = Vec::with_capacity(self.log.len() - start);
        let marks = self.marks[first + 1..].iter();
        let mut ends: Vec<usize> = marks.map(|mark| mark.log).chain([self.log.len()]).collect();
        while self.log.len() > start
            && let Some(step) = self.pop()
        {
            let step = self.take(step);
            ahead.push(step);
        }
        let mut folded = self.fold_tables(&mut fold);
        self.folded = if folded.is_ok() { first + 1 } else { self.folded };
        ends.insert(0, start);
        for (i, ends) in ends.windows(2).enumerate() {
            let steps = ahead.split_off(ahead.len() - (ends[1] - ends[0]));
            folded = self.take_again(steps, &mut fold, folded);
            if let Some(mark) = self.marks.get_mut(first + 1 + i) {
                mark.log = self.log.len();
                self.folded += usize::from(folded.is_ok());
            }
        }
        folded
    }

    /// Takes steps, the last first, and notes those that lead back: unless something has failed, as steps of whole tables.
    fn take_again(&mut self, steps: Vec<Step>, fold: &mut impl Fold, so_far: Result<()>) -> Result<()> {
        let begin = self.log.len();
        let mut before = BTreeMap::new();
        for step in steps.into_iter().rev() {
            if so_far.is_ok() {
                let table = step.table();
                before.entry(table.clone()).or_insert_with(|| self.tables.get(table).cloned());
            }
            let back = self.take(step);
            self.push(back);
        }
        so_far?;
        self.fold_tables(fold)?;
        while self.log.len() > begin {
            self.pop();
        }
        before.into_iter().for_each(|(table, edits)| self.push(Step::Table { table, edits }));
        Ok(())
    }

    fn fold_tables(&mut self, fold: &mut impl Fold) -> Result<()> {
        if self.kept == 0 {
            return Ok(());
        }
        fold(&mut self.tables)?;
        self.kept = self.tables.values().map(|edits| edits.bytes).sum();
        Ok(())
    }

    /// Bytes of rows and ranges in memory, those that lead back to savepoints included.
    pub(crate) fn bytes(&self) -> usize {
        self.kept + self.logged
    }
}

#[cfg(test)]
impl Edits {
    /// Bytes as counted one by one.
    pub(crate) fn counted_bytes(&self) -> usize {
        let table = |edits: &TableEdits| {
            let rows: usize = edits.rows.iter().map(|(key, value)| row_bytes(key, value.as_ref())).sum();
            let bytes = rows + ranges_bytes(&edits.deleted.iter().collect::<Vec<_>>());
            assert_eq!(edits.bytes, bytes);
            bytes
        };
        let logged = |step: &Step| match step {
            Step::Table { edits: Some(edits), .. } => table(edits),
            step => step.bytes(),
        };
        self.tables.values().map(table).sum::<usize>() + self.log.iter().map(logged).sum::<usize>()
    }
}
