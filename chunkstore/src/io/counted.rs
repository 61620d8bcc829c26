//! An [`Io`] that counts, around the one that does.
//!
//! One idea: every effect passes here, so no caller can forget to count. Put around each store's `Io` when it is opened.

use std::io::Result;
use std::sync::Arc;

use super::{File, Io, Locking};
use crate::stats::{Counters, count};

/// Counts calls and bytes.
pub(crate) struct Counted {
    pub(crate) io: Arc<dyn Io>,
    pub(crate) counters: Arc<Counters>,
}

struct CountedFile {
    file: Arc<dyn File>,
    counters: Arc<Counters>,
}

impl Counted {
    fn file(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(CountedFile { file, counters: self.counters.clone() })
    }
}

impl Io for Counted {
    fn place(&self) -> String {
        self.io.place()
    }

    fn create(&self, name: &str) -> Result<Arc<dyn File>> {
        self.io.create(name).map(|file| self.file(file))
    }

    fn open(&self, name: &str) -> Result<Arc<dyn File>> {
        self.io.open(name).map(|file| self.file(file))
    }

    fn open_to_read(&self, name: &str) -> Result<Arc<dyn File>> {
        self.io.open_to_read(name).map(|file| self.file(file))
    }

    fn map(&self, name: &str) -> Result<Arc<dyn File>> {
        self.io.map(name).map(|file| self.file(file))
    }

    fn list(&self) -> Result<Vec<String>> {
        self.io.list()
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.io.rename(from, to)
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.io.remove(name)
    }

    fn sync_dir(&self) -> Result<()> {
        count(&self.counters.fsyncs, 1);
        self.io.sync_dir()
    }

    fn reserve(&self, name: &str, bytes: u64) -> Result<()> {
        count(&self.counters.fsyncs, 1);
        self.io.reserve(name, bytes)
    }

    fn lock(&self, name: &str, owner: &str) -> Result<Locking> {
        self.io.lock(name, owner)
    }
}

impl File for CountedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        count(&self.counters.bytes_read, buffer.len() as u64);
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        count(&self.counters.writes, 1);
        count(&self.counters.bytes_written, bytes.len() as u64);
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> Result<()> {
        count(&self.counters.fsyncs, 1);
        self.file.sync_data()
    }

    fn len(&self) -> Result<u64> {
        self.file.len()
    }
}
