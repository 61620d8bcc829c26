//! Pleach through its embedding API, with the options that it has by default unless the comparison is asked for others.
//!
//! A bulk load is `Transaction::load`; an update is one transaction on a branch's work. Diffs compare the works of
//! two branches; a merge is the version merge, and makes its commit. `reopen` closes the database and opens it again.

use std::ops::Bound;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use pleach_engine::{
    Database, Error, MergeOptions, MergeOutcome, NewCommit, Options, Snapshot, Table, TableDiff,
    TransactionOutcome,
};

use super::{Counters, MAIN, Seen, System};
use crate::rows::{Edit, Rows, Value};

const TABLE: &str = "rows";

/// An open database.
pub struct Pleach {
    directory: PathBuf,
    options: Options,
    database: Database,
}

impl Pleach {
    /// Makes a database in `directory`.
    pub fn create(directory: &Path, options: Options) -> Result<Pleach> {
        let directory = directory.join("database");
        let database = Database::init(&directory, options.clone())?;
        Ok(Pleach { directory, options, database })
    }

    fn snapshot(&self, branch: &str) -> Result<Snapshot> {
        let branch = self.database.branch(branch)?.with_context(|| format!("no branch {branch}"))?;
        Ok(self.database.snapshot_of_root(branch.work)?)
    }

    fn table(&self) -> Result<Table> {
        self.snapshot(MAIN)?.table(TABLE)?.context("no table")
    }

    fn differences(&self, from: &str, to: &str) -> Result<Vec<TableDiff>> {
        Ok(self.snapshot(from)?.diff(&self.snapshot(to)?)?)
    }

    fn nodes_read(&self) -> u64 {
        let stats = self.database.store().stats();
        stats.cache_hits + stats.cache_misses
    }
}

impl System for Pleach {
    fn versions(&self) -> bool {
        true
    }

    fn load(&mut self, rows: &Rows, values: &[Value]) -> Result<()> {
        let mut transaction = self.database.begin(MAIN)?;
        transaction.create_table(TABLE, None)?;
        transaction.load(TABLE, values.iter().enumerate().map(|(row, value)| (rows.key(row), value)))?;
        committed(&transaction.commit()?)
    }

    fn settle(&mut self) -> Result<()> {
        // What lies in the active journal too would be compacted in the middle of a later case.
        self.database.store().compact()?;
        Ok(())
    }

    fn get(&mut self, rows: &Rows, order: &[usize]) -> Result<Seen> {
        let table = self.table()?;
        let mut seen = Seen::default();
        for &row in order {
            table.get_with(rows.key(row), |value| seen.value(value))?.context("a row is missing")?;
        }
        Ok(seen)
    }

    fn scan(&mut self) -> Result<Seen> {
        let mut seen = Seen::default();
        self.table()?.scan(Bound::Unbounded, Bound::Unbounded)?.for_each(|_, value| seen.value(value))?;
        Ok(seen)
    }

    fn update(&mut self, branch: &str, edits: &[Edit]) -> Result<()> {
        let mut transaction = self.database.begin(branch)?;
        for (key, value) in edits {
            transaction.put(TABLE, key, value)?;
        }
        committed(&transaction.commit()?)
    }

    fn commit(&mut self, branch: &str) -> Result<()> {
        match self.database.commit(branch, NewCommit { message: "measured".into(), ..NewCommit::default() }) {
            Ok(_) | Err(Error::NothingToCommit { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn branch(&mut self, name: &str, from: &str) -> Result<()> {
        let head = self.database.branch(from)?.and_then(|branch| branch.head).context("nothing committed")?;
        Ok(self.database.create_branch(name, Some(head))?)
    }

    fn diff(&mut self, from: &str, to: &str) -> Result<u64> {
        let mut changed = 0;
        for table in self.differences(from, to)? {
            table.changes()?.for_each(|_, _, _| changed += 1)?;
        }
        Ok(changed)
    }

    fn stat(&mut self, from: &str, to: &str) -> Result<Option<u64>> {
        let mut changed = 0;
        for table in self.differences(from, to)? {
            let stat = table.stat()?;
            changed += stat.inserted + stat.updated + stat.deleted;
        }
        Ok(Some(changed))
    }

    fn split_diff(&mut self, from: &str, to: &str, parts: usize) -> Result<Vec<u64>> {
        let mut nodes = Vec::new();
        for table in self.differences(from, to)? {
            for part in table.split(parts)? {
                let before = self.nodes_read();
                part.for_each(|_, _, _| ())?;
                nodes.push(self.nodes_read() - before);
            }
        }
        Ok(nodes)
    }

    fn merge(&mut self, _base: &str, ours: &str, theirs: &str) -> Result<()> {
        let head =
            self.database.branch(theirs)?.and_then(|branch| branch.head).context("nothing committed")?;
        match self.database.merge(ours, &head, MergeOptions::default())? {
            MergeOutcome::Merged { .. } => Ok(()),
            other => bail!("not merged: {other:?}"),
        }
    }

    fn reopen(&mut self) -> Result<()> {
        let closed = std::mem::replace(&mut self.database, Database::memory()?);
        closed.close()?;
        self.database = Database::open(&self.directory, self.options.clone())?;
        Ok(())
    }

    fn counters(&self) -> Counters {
        let stats = self.database.store().stats();
        Counters {
            bytes_written: Some(stats.bytes_written),
            fsyncs: Some(stats.fsyncs),
            nodes_read: Some(self.nodes_read()),
        }
    }
}

fn committed(outcome: &TransactionOutcome) -> Result<()> {
    match outcome {
        TransactionOutcome::Committed(_) => Ok(()),
        other => bail!("not committed: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::measure::Reading;

    #[test]
    fn the_stores_own_counts_agree_with_the_kernels() {
        let directory = tempfile::tempdir().unwrap();
        let mut pleach = Pleach::create(directory.path(), Options::default()).unwrap();
        let rows = Rows::new(2_000);
        pleach.load(&rows, &rows.first_values()).unwrap();
        let (own, seen) = (pleach.counters(), Reading::now().unwrap());
        for version in 1..=10 {
            pleach.update(MAIN, &[rows.edit(version, version as u64)]).unwrap();
        }
        let (own_after, seen) = (pleach.counters(), Reading::now().unwrap().since(seen));
        let written = own_after.bytes_written.unwrap() - own.bytes_written.unwrap();
        // Other tests of this process write too, so the kernel may see more, never less.
        assert!(written > 1_000 && seen.bytes_written >= written, "{written} of {}", seen.bytes_written);
        let synced = own_after.fsyncs.unwrap() - own.fsyncs.unwrap();
        assert!(synced == 10 && seen.fsyncs >= synced, "{synced} of {}", seen.fsyncs);
    }
}
