//! The only way to the disk: every file effect of the store goes through [`Io`].
//!
//! One idea: so few operations that a test can stand in for the operating system, count each call, and cut the power at any of them.
//! [`disk`] is the real thing; [`memory`] keeps everything in memory, and, for tests, also what would be left after a power cut.

mod counted;
pub mod disk;
pub mod hooked;
mod map;
pub mod memory;
mod read_only;

pub(crate) use counted::Counted;
pub(crate) use read_only::ReadOnly;

use std::io::Result;
use std::sync::Arc;

/// A directory of files. Names are plain file names.
pub trait Io: Send + Sync {
    /// What to call the directory in messages.
    fn place(&self) -> String;
    /// Makes an empty file, or empties the one that is there, open for reading and writing.
    fn create(&self, name: &str) -> Result<Arc<dyn File>>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> Result<Arc<dyn File>>;
    /// Opens a file that someone else may be writing, for reading alone.
    fn open_to_read(&self, name: &str) -> Result<Arc<dyn File>> {
        self.open(name)
    }
    /// Opens a file that is not changed any more for reading, mapped into memory where the system can. Bytes beyond its end, or gone
    /// because it was cut meanwhile, are errors, as with any other file.
    fn map(&self, name: &str) -> Result<Arc<dyn File>>;
    /// Names of the files in the directory, in any order; empty if there is no directory.
    fn list(&self) -> Result<Vec<String>>;
    /// Renames a file, atomically replacing one that has the new name.
    fn rename(&self, from: &str, to: &str) -> Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync_dir(&self) -> Result<()>;
    /// Makes a file of `bytes` bytes that are really taken from the disk, so that removing it gives as many back. If they are not to be
    /// had, no file is left.
    fn reserve(&self, name: &str, bytes: u64) -> Result<()>;
    /// Takes the lock file `name`, writing `owner` into it.
    fn lock(&self, name: &str, owner: &str) -> Result<Locking>;
}

/// Writes zeros up to `bytes`, and syncs: a file system may take space for what is written only then.
fn fill(file: &dyn File, bytes: u64) -> Result<()> {
    static PIECE: [u8; 64 << 10] = [0; 64 << 10];
    for offset in (0..bytes).step_by(PIECE.len()) {
        file.write_at(&PIECE[..(bytes - offset).min(PIECE.len() as u64) as usize], offset)?;
    }
    file.sync_data()
}

/// An open file.
pub trait File: Send + Sync {
    /// Fills `buffer` from `offset`; an error of kind `UnexpectedEof` if the file ends before.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;
    /// Writes all of `bytes` at `offset`, growing the file if need be. On an error any part may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()>;
    /// Makes the file's bytes durable, and its length.
    fn sync_data(&self) -> Result<()>;
    /// The file's length in bytes.
    fn len(&self) -> Result<u64>;
    /// Whether the file holds nothing.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// The answer to a wish for a lock.
pub enum Locking {
    /// The lock, held until this is dropped.
    Held(Box<dyn Send + Sync>),
    /// Someone else holds it; this is what the owner wrote.
    Busy(String),
}

#[cfg(test)]
mod tests;
