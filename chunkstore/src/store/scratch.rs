//! Files for what does not fit in memory for a while: nothing of them is left by an error or a crash.
//!
//! A file loses its name as soon as it is made, and so is gone when it is closed. What a crash leaves between the two is empty, and is removed with the
//! other strays. Used by whoever sorts.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Store;
use crate::error::{Error, Result};
use crate::io::File;

/// What the names begin with.
pub(super) const PREFIX: &str = "scratch-";

/// A file of the store's directory without a name; in memory if the store is. It is gone when this is dropped.
pub struct Scratch {
    name: String,
    file: Arc<dyn File>,
}

impl Store {
    /// Makes a file without a name.
    pub fn scratch(&self) -> Result<Scratch> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("{PREFIX}{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let file = self.shared.io.create(&name).map_err(Error::io("create", &name))?;
        match self.shared.io.remove(&name) {
            // Strays were removed meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            removed => removed.map_err(Error::io("remove", &name))?,
        }
        Ok(Scratch { name, file })
    }
}

impl Scratch {
    /// Fills `buffer` from `offset`, where as many bytes were written.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_at(buffer, offset).map_err(Error::io("read", &self.name))
    }

    /// Writes all of `bytes` at `offset`. They are not made durable.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file.write_at(bytes, offset).map_err(Error::io("write", &self.name))
    }
}
