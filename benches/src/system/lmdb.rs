//! LMDB through heed: the bar for reads and for small durable transactions. Keeps no versions.
//!
//! Default flags, so a commit is on disk when it returns. The map is sized for the table many times over; it takes
//! address space, not memory. A bulk load appends in key order in one transaction, as LMDB's documentation advises.

use std::path::Path;

use anyhow::{Context, Result, bail};
use heed::types::Bytes;
use heed::{Database, Env, EnvOpenOptions, PutFlags};

use super::{Counters, Seen, System};
use crate::rows::{Edit, Rows, Value};

/// An LMDB environment with one database in it.
#[derive(Debug)]
pub struct Lmdb {
    environment: Env,
    table: Database<Bytes, Bytes>,
}

impl Lmdb {
    /// Makes an environment with room for `rows` rows and their updates.
    pub fn create(directory: &Path, rows: usize) -> Result<Lmdb> {
        let map_bytes = ((rows << 11).max(1 << 28)).next_multiple_of(1 << 16);
        #[allow(unsafe_code)]
        // SAFETY: the directory was just made for this process, and nothing else opens or cuts the file.
        let environment = unsafe { EnvOpenOptions::new().map_size(map_bytes).max_dbs(1).open(directory)? };
        let mut transaction = environment.write_txn()?;
        let table = environment.create_database(&mut transaction, Some("rows"))?;
        transaction.commit()?;
        Ok(Lmdb { environment, table })
    }
}

impl System for Lmdb {
    fn versions(&self) -> bool {
        false
    }

    fn load(&mut self, rows: &Rows, values: &[Value]) -> Result<()> {
        let mut transaction = self.environment.write_txn()?;
        for (row, value) in values.iter().enumerate() {
            self.table.put_with_flags(&mut transaction, PutFlags::APPEND, rows.key(row), value)?;
        }
        Ok(transaction.commit()?)
    }

    fn get(&mut self, rows: &Rows, order: &[usize]) -> Result<Seen> {
        let transaction = self.environment.read_txn()?;
        let mut seen = Seen::default();
        for &row in order {
            seen.value(self.table.get(&transaction, rows.key(row))?.context("a row is missing")?);
        }
        Ok(seen)
    }

    fn scan(&mut self) -> Result<Seen> {
        let transaction = self.environment.read_txn()?;
        let mut seen = Seen::default();
        for entry in self.table.iter(&transaction)? {
            seen.value(entry?.1);
        }
        Ok(seen)
    }

    fn update(&mut self, _branch: &str, edits: &[Edit]) -> Result<()> {
        let mut transaction = self.environment.write_txn()?;
        for (key, value) in edits {
            self.table.put(&mut transaction, key, value)?;
        }
        Ok(transaction.commit()?)
    }

    fn commit(&mut self, _branch: &str) -> Result<()> {
        bail!("LMDB keeps no versions")
    }

    fn branch(&mut self, _name: &str, _from: &str) -> Result<()> {
        bail!("LMDB keeps no versions")
    }

    fn diff(&mut self, _from: &str, _to: &str) -> Result<u64> {
        bail!("LMDB keeps no versions")
    }

    fn merge(&mut self, _base: &str, _ours: &str, _theirs: &str) -> Result<()> {
        bail!("LMDB keeps no versions")
    }

    fn reopen(&mut self) -> Result<()> {
        Ok(())
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }
}
