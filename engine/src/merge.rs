//! Merging a commit into a branch: catalogue by catalogue, then table by table.
//!
//! A table that one side alone changed is taken whole. Of one that both changed, the columns are merged first, by their ids
//! ([`row::merge`](crate::row)), then the rows ([`map::merge`](crate::map)), and a row that both changed by its cells
//! ([`resolve`](crate::resolve)). As ids mean the same on both sides, rows of either are rows of the merged table as they
//! are. Indexes follow the rows ([`index`](crate::index)). A table that one side dropped and the other changed, and columns that both changed in ways that exclude each other,
//! are refused before anything is written.

use std::collections::BTreeMap;

use pleach_chunkstore::{Hash, RefUpdate};

use crate::{
    branches::Branch,
    catalogue::{self, Entry, IndexEntry, Name, TableEntry},
    chunks::{Read, Writer},
    conflict::{Conflicts, Side},
    database::{Database, NewCommit},
    definition::Definition,
    error::{Error, Result},
    history,
    index::{self, Indexed},
    map::{
        diff::{self, Diff, Range},
        merge as rows,
    },
    names,
    resolve::{self, Decider, Resolver},
    row::{
        Column, Schema,
        merge::{self as cells, ColumnConflict, DROPPED_AND_CHANGED, MergedSchema},
    },
};

/// How to merge.
#[derive(Debug, Clone, Default)]
pub struct MergeOptions {
    /// The message of the merge commit; `None` names the commit that was merged.
    pub message: Option<String>,
    /// Who, as `NAME <MAIL>`.
    pub author: String,
    /// When, microseconds since 1970 UTC; `None` is now.
    pub date_micros: Option<i64>,
    /// Decide conflicts at once for this side: of cells in typed rows, else of rows; and of names of columns.
    pub prefer: Option<Side>,
    /// Decides about rows in conflict, before the preferred side does.
    pub resolver: Option<Resolver>,
    /// Columns, by table and name, of which the changes of both sides are added up: of base 10, ours 12 and theirs 15 comes 17.
    /// They are ints or decimals. What both sides changed alike counts once.
    pub deltas: Vec<(String, String)>,
}

/// What a merge did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MergeOutcome {
    /// The branch has the commit already.
    UpToDate,
    /// The branch had nothing of its own; its head is the commit now.
    FastForward {
        /// The new head.
        head: Hash,
    },
    /// A merge commit was made.
    Merged {
        /// The new head.
        commit: Hash,
    },
    /// Rows conflict; they wait in the branch's work for a decision.
    Conflicts {
        /// How many rows.
        count: usize,
    },
}

type CatalogueChanges = Vec<(Name, Option<Entry>)>;

/// The merged catalogue, and how many rows of it wait for a decision.
struct Merged {
    root: Hash,
    conflicts: usize,
}

impl Database {
    /// Merges the commit `theirs` into `branch`.
    ///
    /// # Errors
    /// [`Error::UncommittedWork`], [`Error::UnresolvedConflicts`], [`Error::TableConflict`], [`Error::ColumnConflict`],
    /// [`Error::IndexConflict`]; [`Error::UniqueViolation`], where rows that wait for a decision count as they are in ours. Nothing
    /// changed then.
    pub fn merge(&self, branch: &str, theirs: &Hash, options: MergeOptions) -> Result<MergeOutcome> {
        let (outcome, _) = self.write(|writer, updates| {
            let branch = self.appended_branch(branch)?;
            // Nothing but the caller may know of it any longer.
            writer.keep(theirs)?;
            if let Some(head) = branch.head
                && history::is_ancestor(self.store(), theirs, &head)?
            {
                return Ok(MergeOutcome::UpToDate);
            }
            if branch.work != self.committed_root(branch.head)? {
                let count = self.count_conflicts(&branch.work)?;
                return Err(match count {
                    0 => Error::UncommittedWork { branch: branch.name },
                    _ => Error::UnresolvedConflicts { branch: branch.name, count },
                });
            }
            let their_root = self.commit_object(theirs)?.root;
            let Some(head) = branch.head else {
                move_branch(updates, &branch, *theirs, their_root);
                return Ok(MergeOutcome::FastForward { head: *theirs });
            };
            let base = history::merge_base(self.store(), &head, theirs)?;
            if base == Some(head) {
                move_branch(updates, &branch, *theirs, their_root);
                return Ok(MergeOutcome::FastForward { head: *theirs });
            }
            let base_root = base.map(|base| self.commit_object(&base)).transpose()?.map(|commit| commit.root);
            let merged = self.merge_roots(writer, base_root, branch.work, their_root, &options)?;
            if merged.conflicts > 0 {
                let merge = vec![(Name::Merge, Some(Entry::Merge(*theirs)))];
                let work = catalogue::change(writer, merged.root, merge)?;
                let name = names::work(&branch.name);
                updates.push(RefUpdate { name, old: Some(branch.work), new: Some(work) });
                return Ok(MergeOutcome::Conflicts { count: merged.conflicts });
            }
            let message = options.message.unwrap_or_else(|| format!("Merge {theirs} into {}", branch.name));
            let (author, date_micros) = (options.author, options.date_micros);
            let new = NewCommit { message, author, date_micros, amend: false };
            let commit = self.put_commit(writer, merged.root, vec![head, *theirs], &new)?;
            move_branch(updates, &branch, commit, merged.root);
            Ok(MergeOutcome::Merged { commit })
        })?;
        Ok(outcome)
    }

    /// Gives up a merge: the branch's work is its head's root again. What it was is kept under `recovery/`.
    ///
    /// # Errors
    /// [`Error::NoMerge`].
    pub fn merge_abort(&self, branch: &str) -> Result<()> {
        self.write(|_, updates| {
            let branch = self.appended_branch(branch)?;
            if catalogue::merging(self.store(), &branch.work)?.is_none() {
                return Err(Error::NoMerge { branch: branch.name });
            }
            updates.push(self.keep(&names::work(&branch.name), branch.work));
            let root = self.committed_root(branch.head)?;
            let name = names::work(&branch.name);
            updates.push(RefUpdate { name, old: Some(branch.work), new: Some(root) });
            Ok(())
        })?;
        Ok(())
    }

    fn merge_roots(
        &self,
        writer: &mut Writer,
        base: Option<Hash>,
        ours: Hash,
        theirs: Hash,
        options: &MergeOptions,
    ) -> Result<Merged> {
        for (table, _) in &options.deltas {
            let has = |root| catalogue::table(self.store(), root, table).map(|entry| entry.is_some());
            if !has(&ours)? && !has(&theirs)? {
                return Err(Error::UnknownTable { name: table.clone() });
            }
        }
        let mut changes = Vec::new();
        let mut conflicts = 0;
        for (table, Sides { base, ours, theirs }) in self.changed_by_theirs(base, ours, theirs)? {
            match (ours, theirs) {
                (ours, theirs) if ours == base => {
                    let indexes = theirs.as_ref().map(|side| side.indexes.clone()).unwrap_or_default();
                    changes.extend(index_changes(&table, ours.as_ref(), indexes));
                    changes.push((Name::Table(table), theirs.map(|side| Entry::Table(side.entry))));
                }
                (Some(ours), Some(theirs)) => {
                    let (change, count) = self.merge_table(writer, &table, base, ours, theirs, options)?;
                    changes.extend(change);
                    conflicts += count;
                }
                _ => {
                    let why = "one side dropped it and the other changed it";
                    return Err(Error::TableConflict { table, why });
                }
            }
        }
        Ok(Merged { root: catalogue::change(writer, ours, changes)?, conflicts })
    }

    /// Merges a table that both sides changed. Gives what changes in the catalogue, and how many rows wait for a decision.
    fn merge_table(
        &self,
        writer: &mut Writer,
        table: &str,
        base: Option<TableSide>,
        ours: TableSide,
        theirs: TableSide,
        options: &MergeOptions,
    ) -> Result<(CatalogueChanges, usize)> {
        let from_base = base.as_ref().map(|base| base.entry);
        let definition =
            self.merge_definitions(table, from_base, ours.entry, theirs.entry, options.prefer)?;
        let decider = Decider::new(table, &definition, options)?;
        let mut conflicts = Conflicts::default();
        let rows = rows::merge(
            self.store(),
            writer,
            &definition.config,
            from_base.map(|base| base.rows).as_ref(),
            &ours.entry.rows,
            &theirs.entry.rows,
            &mut |writer, conflict| {
                let decision = decider.decide(writer, conflict)?;
                if decision == rows::Decision::Conflict {
                    conflicts.push(writer, conflict)?;
                }
                Ok(decision)
            },
        )?;
        let chunk = definition.encode();
        let entry = TableEntry { definition: *chunk.hash(), rows };
        if entry.definition != ours.entry.definition {
            writer.put(chunk, None)?;
        }
        let mut changes = vec![(Name::Table(table.to_owned()), Some(Entry::Table(entry)))];
        if let Some(schema) = &definition.schema {
            let base = base.map(|base| base.indexes).unwrap_or_default();
            let sides = [(&ours.indexes, ours.entry.rows), (&theirs.indexes, theirs.entry.rows)];
            let indexes = index::merge(writer, Indexed { table, schema }, &base, sides, rows)?;
            changes.extend(index_changes(table, Some(&ours), indexes));
        }
        let (count, root) = conflicts.finish(writer)?;
        if let Some(root) = root {
            changes.push((Name::Conflicts(table.to_owned()), Some(Entry::Conflicts(root))));
        }
        Ok((changes, count))
    }

    /// The tables that theirs changed since the base and that differ from ours.
    fn changed_by_theirs(
        &self,
        base: Option<Hash>,
        ours: Hash,
        theirs: Hash,
    ) -> Result<BTreeMap<String, Sides>> {
        let mut tables: BTreeMap<String, Sides> = BTreeMap::new();
        let load = |root: Hash| {
            let mut indexes = catalogue::all_indexes(self.store(), &root)?;
            let entries = catalogue::tables(self.store(), &root)?.into_iter();
            let sides = entries.map(|(name, entry)| {
                let indexes = indexes.remove(&name).unwrap_or_default();
                (name, TableSide { entry, indexes })
            });
            Ok::<_, Error>(sides.collect::<Vec<_>>())
        };
        for (name, side) in base.map(load).transpose()?.into_iter().flatten() {
            tables.entry(name).or_default().base = Some(side);
        }
        for (name, side) in load(ours)? {
            tables.entry(name).or_default().ours = Some(side);
        }
        for (name, side) in load(theirs)? {
            tables.entry(name).or_default().theirs = Some(side);
        }
        tables.retain(|_, sides| sides.theirs != sides.base && sides.theirs != sides.ours);
        Ok(tables)
    }

    /// What a table is that both sides changed.
    fn merge_definitions(
        &self,
        table: &str,
        base: Option<TableEntry>,
        ours: TableEntry,
        theirs: TableEntry,
        prefer: Option<Side>,
    ) -> Result<Definition> {
        let load = |entry: TableEntry| Definition::decode(&self.store().chunk(&entry.definition)?);
        if ours.definition == theirs.definition && base.is_none_or(|base| base.definition == ours.definition)
        {
            return load(ours);
        }
        let refuse = |why| Err(Error::TableConflict { table: table.to_owned(), why });
        let Some(base) = base else { return refuse("both sides made it, with different definitions") };
        let definitions = [load(base)?, load(ours)?, load(theirs)?];
        let [base_config, our_config, their_config] = definitions.each_ref().map(|one| one.config);
        let [Some(base_schema), Some(our_schema), Some(their_schema)] =
            definitions.each_ref().map(|one| one.schema.as_ref())
        else {
            return refuse("one side made it anew, with columns or without");
        };
        if base_config != our_config || base_config != their_config {
            return refuse("one side made it anew, with nodes of another size");
        }
        let conflict =
            |ColumnConflict { column, why }| Error::ColumnConflict { table: table.to_owned(), column, why };
        let MergedSchema { schema, dropped } =
            cells::schemas(base_schema, our_schema, their_schema, prefer).map_err(conflict)?;
        for (side, entry, schema) in [(Side::Ours, theirs, their_schema), (Side::Theirs, ours, our_schema)] {
            let dropped: Vec<&Column> = dropped
                .iter()
                .filter(|(by, _)| *by == side && prefer != Some(side))
                .map(|(_, column)| column)
                .collect();
            if let Some(column) = self.changed_column(schema, &dropped, &base.rows, &entry.rows)? {
                return Err(conflict(ColumnConflict { column, why: DROPPED_AND_CHANGED }));
            }
        }
        Ok(Definition { config: base_config, schema: Some(schema) })
    }

    /// The first of `columns` of which a row, that is in both maps, has another cell.
    fn changed_column(
        &self,
        schema: &Schema,
        columns: &[&Column],
        from: &Hash,
        to: &Hash,
    ) -> Result<Option<String>> {
        if columns.is_empty() {
            return Ok(None);
        }
        let [from, to] = [from, to].map(|root| Some((self.store(), *root)));
        let meter =
            diff::meter(self.store(), [from, to].map(|side| side.map(|(_, root)| root)), &Range::default())?;
        for change in Diff::between(from, to, &Range::default())?.metered(Some(meter)) {
            let change = change?;
            let (Some(old), Some(new)) = (&change.old, &change.new) else { continue };
            let (old, new) = (resolve::load(self.store(), old)?, resolve::load(self.store(), new)?);
            let differs = |column: &&&Column| schema.cell(&old, column.id) != schema.cell(&new, column.id);
            if let Some(column) = columns.iter().find(differs) {
                return Ok(Some(column.name.clone()));
            }
        }
        Ok(None)
    }
}

#[derive(Default)]
struct Sides {
    base: Option<TableSide>,
    ours: Option<TableSide>,
    theirs: Option<TableSide>,
}

/// A table as one side has it.
#[derive(PartialEq)]
struct TableSide {
    entry: TableEntry,
    indexes: BTreeMap<String, IndexEntry>,
}

/// What makes the indexes of a table, as `ours` has them, these.
fn index_changes(
    table: &str,
    ours: Option<&TableSide>,
    indexes: BTreeMap<String, IndexEntry>,
) -> CatalogueChanges {
    let name = |index: &String| Name::Index(table.to_owned(), index.clone());
    let had = ours.into_iter().flat_map(|side| side.indexes.keys());
    let gone = had.filter(|index| !indexes.contains_key(*index)).map(|index| (name(index), None));
    let there = indexes.iter().map(|(index, entry)| (name(index), Some(Entry::Index(*entry))));
    gone.chain(there).collect()
}

fn move_branch(updates: &mut Vec<RefUpdate>, branch: &Branch, head: Hash, root: Hash) {
    updates.push(RefUpdate { name: names::head(&branch.name), old: branch.head, new: Some(head) });
    updates.push(RefUpdate { name: names::work(&branch.name), old: Some(branch.work), new: Some(root) });
}
