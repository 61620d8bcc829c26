//! Merging a commit into a branch: catalogue by catalogue, then table by table.
//!
//! A table that one side alone changed is taken whole. One that both changed is merged by row ([`map::merge`](crate::map)).
//! A table that one side dropped and the other changed, or whose definition both changed, is refused before anything is
//! written.

use std::collections::BTreeMap;

use pleach_chunkstore::{Hash, RefUpdate};

use crate::{
    branches::Branch,
    catalogue::{self, Entry, Name, TableEntry},
    chunks::{Read, Writer},
    conflict::{self, Side},
    database::{Database, NewCommit},
    definition::Definition,
    error::{Error, Result},
    history,
    map::merge::{self as rows, Decision, RowConflict},
    names,
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
    /// Decide conflicts at once for this side.
    pub prefer: Option<Side>,
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

/// The merged catalogue, and how many rows of it wait for a decision.
struct Merged {
    root: Hash,
    conflicts: usize,
}

impl Database {
    /// Merges the commit `theirs` into `branch`.
    ///
    /// # Errors
    /// [`Error::UncommittedWork`], [`Error::UnresolvedConflicts`], [`Error::TableConflict`]; nothing changed then.
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
            let merged = self.merge_roots(writer, base_root, branch.work, their_root, options.prefer)?;
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
            self.keep_for_recovery(&Branch { head: None, ..branch.clone() }, updates)?;
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
        prefer: Option<Side>,
    ) -> Result<Merged> {
        let mut changes = Vec::new();
        let mut count = 0;
        for (table, sides) in self.changed_by_theirs(base, ours, theirs)? {
            let Sides { base, ours, theirs } = sides;
            let name = Name::Table(table.clone());
            if ours == base {
                changes.push((name, theirs.map(Entry::Table)));
                continue;
            }
            let (entry, their_rows) = self.mergeable(&table, base, ours, theirs)?;
            let config = Definition::decode(&self.store().chunk(&entry.definition)?)?.config;
            let base_rows = base.map(|base| base.rows);
            let mut decide = |_: &mut Writer, conflict: &RowConflict| {
                Ok(match prefer {
                    None => Decision::Conflict,
                    Some(Side::Ours) => Decision::Row(conflict.ours.clone()),
                    Some(Side::Theirs) => Decision::Row(conflict.theirs.clone()),
                })
            };
            let (merged, conflicts) = rows::merge(
                self.store(),
                writer,
                &config,
                base_rows.as_ref(),
                &entry.rows,
                &their_rows,
                &mut decide,
            )?;
            if !conflicts.is_empty() {
                count += conflicts.len();
                let root = conflict::write(writer, &conflicts)?;
                changes.push((Name::Conflicts(table), Some(Entry::Conflicts(root))));
            }
            changes.push((name, Some(Entry::Table(TableEntry { rows: merged, ..entry }))));
        }
        Ok(Merged { root: catalogue::change(writer, ours, changes)?, conflicts: count })
    }

    /// The tables that theirs changed since the base and that differ from ours.
    fn changed_by_theirs(
        &self,
        base: Option<Hash>,
        ours: Hash,
        theirs: Hash,
    ) -> Result<BTreeMap<String, Sides>> {
        let mut tables: BTreeMap<String, Sides> = BTreeMap::new();
        if let Some(base) = base {
            for (name, entry) in catalogue::tables(self.store(), &base)? {
                tables.entry(name).or_default().base = Some(entry);
            }
        }
        for (name, entry) in catalogue::tables(self.store(), &ours)? {
            tables.entry(name).or_default().ours = Some(entry);
        }
        for (name, entry) in catalogue::tables(self.store(), &theirs)? {
            tables.entry(name).or_default().theirs = Some(entry);
        }
        tables.retain(|_, sides| sides.theirs != sides.base && sides.theirs != sides.ours);
        Ok(tables)
    }

    /// The entry that keeps the merged rows, and the rows of theirs; an error if rows cannot be merged one by one.
    fn mergeable(
        &self,
        table: &str,
        base: Option<TableEntry>,
        ours: Option<TableEntry>,
        theirs: Option<TableEntry>,
    ) -> Result<(TableEntry, Hash)> {
        let refuse = |why| Err(Error::TableConflict { table: table.to_owned(), why });
        let (Some(ours), Some(theirs)) = (ours, theirs) else {
            return refuse("one side dropped it and the other changed it");
        };
        if ours.definition != theirs.definition {
            return refuse(match base {
                None => "both sides made it, with different definitions",
                Some(_) => "its definition changed on one side and its rows on the other",
            });
        }
        if base.is_some_and(|base| base.definition != ours.definition) {
            return refuse("both sides changed its definition");
        }
        Ok((ours, theirs.rows))
    }
}

#[derive(Default)]
struct Sides {
    base: Option<TableEntry>,
    ours: Option<TableEntry>,
    theirs: Option<TableEntry>,
}

fn move_branch(updates: &mut Vec<RefUpdate>, branch: &Branch, head: Hash, root: Hash) {
    updates.push(RefUpdate { name: names::head(&branch.name), old: branch.head, new: Some(head) });
    updates.push(RefUpdate { name: names::work(&branch.name), old: Some(branch.work), new: Some(root) });
}
