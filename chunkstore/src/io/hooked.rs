//! An [`Io`] that calls its owner before its own calls: to slow them, to stall them, to have them fail, or to look.
//!
//! One idea: what concurrency is worth shows only while a disk is slow, and what goes wrong beside a step only while that step is stopped
//! in its middle; only whoever measures or tests knows where. For tests and benches.

use std::io::Result;
use std::sync::Arc;

use super::{File, Io, Locking};

/// A call that an [`Io`], or one of its files, is about to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Call {
    /// A file is made, or space reserved for one.
    Create,
    /// A file gets another name.
    Rename,
    /// A file goes.
    Remove,
    /// The directory is synced.
    SyncDir,
    /// Bytes of a file are read, be it mapped or not.
    Read,
    /// Bytes of a file are written.
    Write,
    /// A file is synced.
    SyncData,
}

/// Called with the name of the file: the old one of one that is renamed, none for the directory.
type Hook = Arc<dyn Fn(Call, &str) -> Result<()> + Send + Sync>;

/// Another [`Io`], and what to do before its calls.
pub struct Hooked {
    io: Arc<dyn Io>,
    hook: Hook,
}

struct HookedFile {
    file: Arc<dyn File>,
    name: String,
    hook: Hook,
}

impl Hooked {
    /// Calls `before_sync` with a file's name before the file is synced, on the thread that syncs.
    pub fn new(io: Arc<dyn Io>, before_sync: impl Fn(&str) + Send + Sync + 'static) -> Hooked {
        Hooked::at_each_call(io, move |call, name| {
            if call == Call::SyncData {
                before_sync(name);
            }
            Ok(())
        })
    }

    /// Calls `hook` with each [`Call`] and the name of its file, on the thread that makes the call. If it gives an error, that is the
    /// call's, which is not made.
    pub fn at_each_call(
        io: Arc<dyn Io>,
        hook: impl Fn(Call, &str) -> Result<()> + Send + Sync + 'static,
    ) -> Hooked {
        Hooked { io, hook: Arc::new(hook) }
    }

    fn file(&self, name: &str, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(HookedFile { file, name: name.to_owned(), hook: self.hook.clone() })
    }
}

impl Io for Hooked {
    fn place(&self) -> String {
        self.io.place()
    }

    fn create(&self, name: &str) -> Result<Arc<dyn File>> {
        (self.hook)(Call::Create, name)?;
        self.io.create(name).map(|file| self.file(name, file))
    }

    fn open(&self, name: &str) -> Result<Arc<dyn File>> {
        self.io.open(name).map(|file| self.file(name, file))
    }

    fn open_to_read(&self, name: &str) -> Result<Arc<dyn File>> {
        self.io.open_to_read(name).map(|file| self.file(name, file))
    }

    fn map(&self, name: &str) -> Result<Arc<dyn File>> {
        self.io.map(name).map(|file| self.file(name, file))
    }

    fn reserve(&self, name: &str, bytes: u64) -> Result<()> {
        (self.hook)(Call::Create, name)?;
        self.io.reserve(name, bytes)
    }

    fn list(&self) -> Result<Vec<String>> {
        self.io.list()
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        (self.hook)(Call::Rename, from)?;
        self.io.rename(from, to)
    }

    fn remove(&self, name: &str) -> Result<()> {
        (self.hook)(Call::Remove, name)?;
        self.io.remove(name)
    }

    fn sync_dir(&self) -> Result<()> {
        (self.hook)(Call::SyncDir, "")?;
        self.io.sync_dir()
    }

    fn lock(&self, name: &str, owner: &str) -> Result<Locking> {
        self.io.lock(name, owner)
    }
}

impl File for HookedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        (self.hook)(Call::Read, &self.name)?;
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        (self.hook)(Call::Write, &self.name)?;
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> Result<()> {
        (self.hook)(Call::SyncData, &self.name)?;
        self.file.sync_data()
    }

    fn len(&self) -> Result<u64> {
        self.file.len()
    }
}
