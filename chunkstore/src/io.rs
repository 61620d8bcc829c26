//! The only way to the disk: every file effect of the store goes through [`Io`].
//!
//! One idea: so few operations that a test can stand in for the operating system, count each call, and cut the power at any of them.
//! [`disk`] is the real thing; [`memory`] keeps everything in memory, and, for tests, also what would be left after a power cut.

mod counted;
pub mod disk;
pub mod hooked;
pub mod memory;

pub(crate) use counted::Counted;

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
    /// Names of the files in the directory, in any order; empty if there is no directory.
    fn list(&self) -> Result<Vec<String>>;
    /// Renames a file, atomically replacing one that has the new name.
    fn rename(&self, from: &str, to: &str) -> Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync_dir(&self) -> Result<()>;
    /// Takes the lock file `name`, writing `owner` into it.
    fn lock(&self, name: &str, owner: &str) -> Result<Locking>;
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
