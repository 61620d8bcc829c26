//! An [`Io`] that calls its owner before each sync of a file: to slow it, to stall it, or to look.
//!
//! One idea: what concurrency is worth shows only while a disk is slow, and only whoever measures knows how slow. For tests and benches.

use std::io::Result;
use std::sync::Arc;

use super::{File, Io, Locking};

/// Called with the name of the file.
type Hook = Arc<dyn Fn(&str) + Send + Sync>;

/// Another [`Io`], and what to do before its files' syncs.
pub struct Hooked {
    io: Arc<dyn Io>,
    before_sync: Hook,
}

struct HookedFile {
    file: Arc<dyn File>,
    name: String,
    before_sync: Hook,
}

impl Hooked {
    /// Calls `before_sync` with a file's name before the file is synced, on the thread that syncs.
    pub fn new(io: Arc<dyn Io>, before_sync: impl Fn(&str) + Send + Sync + 'static) -> Hooked {
        Hooked { io, before_sync: Arc::new(before_sync) }
    }

    fn file(&self, name: &str, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(HookedFile { file, name: name.to_owned(), before_sync: self.before_sync.clone() })
    }
}

impl Io for Hooked {
    fn place(&self) -> String {
        self.io.place()
    }

    fn create(&self, name: &str) -> Result<Arc<dyn File>> {
        self.io.create(name).map(|file| self.file(name, file))
    }

    fn open(&self, name: &str) -> Result<Arc<dyn File>> {
        self.io.open(name).map(|file| self.file(name, file))
    }

    fn open_to_read(&self, name: &str) -> Result<Arc<dyn File>> {
        self.io.open_to_read(name).map(|file| self.file(name, file))
    }

    fn map(&self, name: &str) -> Result<Arc<dyn File>> {
        self.io.map(name)
    }

    fn reserve(&self, name: &str, bytes: u64) -> Result<()> {
        self.io.reserve(name, bytes)
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
        self.io.sync_dir()
    }

    fn lock(&self, name: &str, owner: &str) -> Result<Locking> {
        self.io.lock(name, owner)
    }
}

impl File for HookedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> Result<()> {
        (self.before_sync)(&self.name);
        self.file.sync_data()
    }

    fn len(&self) -> Result<u64> {
        self.file.len()
    }
}
