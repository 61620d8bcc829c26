//! Files in a directory of the operating system.
//!
//! One idea: positioned reads and writes, which need no lock and no seek. `std` syncs with `F_FULLFSYNC` on macOS, where `fsync`
//! does not reach the disk.

use std::fs::{self, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Result, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::map::Mapped;
use super::{File, Io, Locking, fill};

/// A directory on disk.
pub struct Disk {
    dir: PathBuf,
}

impl Disk {
    /// The directory `dir`, which need not exist.
    pub fn new(dir: &Path) -> Disk {
        Disk { dir: dir.to_owned() }
    }

    /// The directory `dir`, made with its parents if need be, each durably.
    pub fn create_dir(dir: &Path) -> Result<Disk> {
        let mut missing = Vec::new();
        let mut at = dir;
        while !at.as_os_str().is_empty() && !at.try_exists()? {
            missing.push(at);
            at = at.parent().unwrap_or(Path::new(""));
        }
        for made in missing.into_iter().rev() {
            match fs::create_dir(made) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                other => other?,
            }
            let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
            fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Ok(Disk::new(dir))
    }
}

impl Io for Disk {
    fn place(&self) -> String {
        self.dir.display().to_string()
    }

    fn create(&self, name: &str) -> Result<Arc<dyn File>> {
        let path = self.dir.join(name);
        Ok(Arc::new(OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?))
    }

    fn open(&self, name: &str) -> Result<Arc<dyn File>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(self.dir.join(name))?))
    }

    fn open_to_read(&self, name: &str) -> Result<Arc<dyn File>> {
        Ok(Arc::new(fs::File::open(self.dir.join(name))?))
    }

    fn map(&self, name: &str) -> Result<Arc<dyn File>> {
        Ok(Arc::new(Mapped::new(fs::File::open(self.dir.join(name))?)?))
    }

    fn list(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        // A name that is not UTF-8 is none of ours.
        entries
            .filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose())
            .collect()
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> Result<()> {
        fs::remove_file(self.dir.join(name))
    }

    fn sync_dir(&self) -> Result<()> {
        fs::File::open(&self.dir)?.sync_all()
    }

    fn reserve(&self, name: &str, bytes: u64) -> Result<()> {
        let file = fs::File::create(self.dir.join(name))?;
        let reserved = allocate(&file, bytes).and_then(|()| file.sync_data());
        if reserved.is_err() {
            let _ = self.remove(name);
        }
        reserved
    }

    fn lock(&self, name: &str, owner: &str) -> Result<Locking> {
        let path = self.dir.join(name);
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0)?;
                file.rewind()?;
                file.write_all(owner.as_bytes())?;
                Ok(Locking::Held(Box::new(HeldLock(file))))
            }
            Err(TryLockError::WouldBlock) => {
                let mut found = Vec::new();
                file.take(1024).read_to_end(&mut found)?;
                Ok(Locking::Busy(String::from_utf8_lossy(&found).into_owned()))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// A lock that goes with this, and not with the last copy of its descriptor: a child that a program is just starting has one too, until it
/// runs its own program.
struct HeldLock(fs::File);

impl Drop for HeldLock {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// Takes space for a file of `bytes` bytes from the disk.
#[cfg(target_os = "linux")]
fn allocate(file: &fs::File, bytes: u64) -> Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::{Errno, retry_on_intr};
    if bytes == 0 {
        return Ok(());
    }
    match retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, bytes)) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => fill(file, bytes),
        other => Ok(other?),
    }
}

#[cfg(not(target_os = "linux"))]
fn allocate(file: &fs::File, bytes: u64) -> Result<()> {
    fill(file, bytes)
}

impl File for fs::File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> Result<()> {
        fs::File::sync_data(self)
    }

    fn len(&self) -> Result<u64> {
        Ok(self.metadata()?.len())
    }
}
