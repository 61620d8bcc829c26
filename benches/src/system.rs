//! What a storage system must do to be compared: one trait, one file per system.
//!
//! A system holds one table of byte keys and values under named branches; `main` is the first. One that keeps no
//! versions has only `main`, and the workloads that need branches leave it out. Every change is durable when its
//! call returns. Each system is used through the fastest public calls that its documentation recommends for the job, in
//! its default configuration except for what the file says.

use std::path::Path;

use anyhow::Result;
use pleach_engine::Options;

use crate::rows::{Edit, Rows, Value};

pub mod lmdb;
pub mod pleach;
pub mod prolly_map;

/// Name of the first branch.
pub const MAIN: &str = "main";

/// Counters that a system keeps about itself, since it was opened. `None`: it keeps no such count.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Bytes written, where the kernel's count of write calls would miss some.
    pub bytes_written: Option<u64>,
    /// Sync calls, where they bypass the C library.
    pub fsyncs: Option<u64>,
    /// Tree nodes looked at, from the store or from a cache.
    pub nodes_read: Option<u64>,
}

/// A store under comparison, opened on a directory of its own.
pub trait System {
    /// True if branches, `diff` and `merge` are there.
    fn versions(&self) -> bool;

    /// Fills the empty table on `main` from rows in key order, durable on return.
    fn load(&mut self, rows: &Rows, values: &[Value]) -> Result<()>;

    /// Returns when what a load left to be done in the background is done: it is no part of the cases that follow.
    fn settle(&mut self) -> Result<()> {
        Ok(())
    }

    /// Reads the value of each row of `order` on `main`. A row that is not there is an error.
    fn get(&mut self, rows: &Rows, order: &[usize]) -> Result<Seen>;

    /// Reads every row of `main` in key order.
    fn scan(&mut self) -> Result<Seen>;

    /// One durable transaction of `edits` on `branch`.
    fn update(&mut self, branch: &str, edits: &[Edit]) -> Result<()>;

    /// Records `branch` as a version, for systems where that is an act of its own; a merge starts from versions.
    fn commit(&mut self, branch: &str) -> Result<()>;

    /// Makes `name` a copy of `from`, which has no change since its last `commit`.
    fn branch(&mut self, name: &str, from: &str) -> Result<()>;

    /// Walks the difference of two branches and returns the number of changed rows.
    fn diff(&mut self, from: &str, to: &str) -> Result<u64>;

    /// Counts the changed rows of two branches without listing them; `None` if that is no call of its own.
    fn stat(&mut self, _from: &str, _to: &str) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Walks the difference in parts made for as many threads, one after the other: the nodes that each reads; none if it cannot be split.
    fn split_diff(&mut self, _from: &str, _to: &str, _parts: usize) -> Result<Vec<u64>> {
        Ok(Vec::new())
    }

    /// Merges `theirs` into `ours`, durable on return. Their common base is `base`.
    fn merge(&mut self, base: &str, ours: &str, theirs: &str) -> Result<()>;

    /// Forgets what is cached in the process, as a restart does.
    fn reopen(&mut self) -> Result<()>;

    /// Its own counters.
    fn counters(&self) -> Counters;
}

/// What a read saw, to check it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Rows.
    pub rows: u64,
    /// Sum over their values of one byte each: no read is optimised away, and a wrong value shows.
    pub sum: u64,
}

impl Seen {
    /// Counts one value.
    #[inline]
    pub fn value(&mut self, value: &[u8]) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(u64::from(value[value.len() / 4]));
    }
}

/// The names that `--systems` takes, in the order in which they take turns.
pub const NAMES: [&str; 3] = ["pleach", "lmdb", "prolly-map"];

/// Opens the system called `name`, empty, in `directory`. `options` are Pleach's.
pub fn open(name: &str, directory: &Path, rows: usize, options: &Options) -> Result<Box<dyn System>> {
    match name {
        "pleach" => Ok(Box::new(pleach::Pleach::create(directory, options.clone())?)),
        "lmdb" => Ok(Box::new(lmdb::Lmdb::create(directory, rows)?)),
        "prolly-map" => Ok(Box::new(prolly_map::ProllyMap::create(directory)?)),
        other => anyhow::bail!("no system is called {other}; there are {}", NAMES.join(", ")),
    }
}
