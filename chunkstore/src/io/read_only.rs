//! An [`Io`] that changes nothing, around the one that could.
//!
//! One idea: a store that only reads goes through the same code as one that writes; whatever would change a file is refused here. Put around the
//! `Io` of a store that is opened to read.

use std::io::{ErrorKind, Result};
use std::sync::Arc;

use super::{File, Io, Locking};

/// Reads alone.
pub(crate) struct ReadOnly {
    pub(crate) io: Arc<dyn Io>,
}

fn refused<T>() -> Result<T> {
    Err(ErrorKind::ReadOnlyFilesystem.into())
}

impl Io for ReadOnly {
    fn place(&self) -> String {
        self.io.place()
    }

    fn create(&self, _: &str) -> Result<Arc<dyn File>> {
        refused()
    }

    fn open(&self, name: &str) -> Result<Arc<dyn File>> {
        self.io.open_to_read(name)
    }

    fn map(&self, name: &str) -> Result<Arc<dyn File>> {
        self.io.map(name)
    }

    fn list(&self) -> Result<Vec<String>> {
        self.io.list()
    }

    fn rename(&self, _: &str, _: &str) -> Result<()> {
        refused()
    }

    fn remove(&self, _: &str) -> Result<()> {
        refused()
    }

    fn sync_dir(&self) -> Result<()> {
        refused()
    }

    fn reserve(&self, _: &str, _: u64) -> Result<()> {
        refused()
    }

    /// Any number may read, beside one who writes: there is nothing to lock.
    fn lock(&self, _: &str, _: &str) -> Result<Locking> {
        Ok(Locking::Held(Box::new(())))
    }
}
