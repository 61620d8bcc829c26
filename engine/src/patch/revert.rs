//! Taking back what one commit changed: its patch turned around and applied, without a file between.

use pleach_chunkstore::Hash;

use super::{Kind, apply::Application};
use crate::{
    database::{Committed, Database, NewCommit},
    error::{Error, Result},
    map::diff::RowChange,
    names,
    snapshot::{Table, TableChange, TableDiff},
    transaction::TransactionOutcome,
};

impl Database {
    /// Takes back on `branch` what `commit` changed since its parent, and makes a version commit of that.
    ///
    /// # Errors
    /// [`Error::PatchMismatch`] where something was changed since; [`Error::RevertsMerge`]; [`Error::UncommittedWork`],
    /// [`Error::UnresolvedConflicts`], [`Error::MergeUnderWay`]; [`Error::NothingToCommit`] if the commit changed nothing. Nothing changed
    /// then. [`Error::Moved`] if others changed the branch meanwhile.
    pub fn revert(&self, branch: &str, commit: &Hash, new: NewCommit) -> Result<Committed> {
        let status = self.status(branch)?;
        match status {
            _ if status.conflicts > 0 => {
                return Err(Error::UnresolvedConflicts { branch: status.branch, count: status.conflicts });
            }
            _ if status.merging.is_some() => return Err(Error::MergeUnderWay { branch: status.branch }),
            _ if status.dirty => return Err(Error::UncommittedWork { branch: status.branch }),
            _ => {}
        }
        let reverted = self.commit_object(commit)?;
        let parent = match reverted.parents.as_slice() {
            [] => None,
            [parent] => Some(*parent),
            _ => return Err(Error::RevertsMerge { commit: *commit }),
        };
        let before = crate::snapshot::Snapshot::new(self.store(), self.committed_root(parent)?)?;
        let after = self.snapshot_of_root(reverted.root)?;
        let mut transaction = self.begin(branch)?;
        let mut patch = Application::new(&mut transaction);
        for difference in after.diff(&before)? {
            take_over(&mut patch, &difference)?;
        }
        patch.finish()?;
        match transaction.commit()? {
            TransactionOutcome::Committed(_) | TransactionOutcome::Unchanged(_) => {}
            TransactionOutcome::Refused { .. } => return Err(Error::Moved { name: names::work(branch) }),
        }
        drop((before, after));
        self.commit(branch, new)
    }
}

/// Applies how a table differs. The snapshots that it is read from are kept by who calls.
fn take_over(patch: &mut Application<'_>, difference: &TableDiff) -> Result<()> {
    let [before, after] =
        [&difference.from, &difference.to].map(|side| side.as_ref().map(Table::definition).cloned());
    let kind = match difference.kind() {
        TableChange::Added => Kind::Added,
        TableChange::Dropped => Kind::Dropped,
        TableChange::Changed if difference.schema_changed() => Kind::Redefined,
        TableChange::Changed => Kind::Changed,
    };
    let config = after.as_ref().map(|after| after.config);
    let described = if kind == Kind::Changed { None } else { after };
    patch.table(difference.table.clone(), kind, before, described, difference.index_changes()?)?;
    // Where values are cut and kept inline alike, they are taken as they are stored.
    let same_form = patch.config()? == config;
    let mut changes = difference.changes()?;
    while let Some(RowChange { key, old, new }) = changes.next_stored()? {
        match old {
            None => patch.expect_absent(&key)?,
            Some(old) => {
                let found = patch.expect_there(&key)?;
                if found != old {
                    // The same value is stored otherwise where other values are inline.
                    let (mut found, mut old) = (patch.reader(found)?, changes.before(old)?);
                    let len = old.len();
                    if found.len() != len || found.range(0..len)? != old.range(0..len)? {
                        return Err(patch.is_changed(&key));
                    }
                }
            }
        }
        match new {
            None => patch.delete(&key)?,
            Some(new) if same_form => patch.put_stored(&key, new)?,
            Some(new) => {
                let mut new = changes.after(new)?;
                let len = new.len();
                patch.put(&key, &new.range(0..len)?)?;
            }
        }
    }
    Ok(())
}
