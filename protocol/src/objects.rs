//! What a remote that is no server needs of the place where it lies: five operations on objects named by keys.
//!
//! The one idea: an object that is put *if absent* is put by exactly one of those who try, on a directory and on every bucket worth the
//! name. Nothing else is asked of the place: no locks, no clock, no order between objects. `packs` builds everything on it.
//!
//! A key is text of letters, digits, `-` and `/`. An object is at most some tens of MiB, and put whole or not at all.

#[cfg(feature = "object-stores")]
mod bucket;
mod directory;

use std::fmt;

use bytes::Bytes;

use crate::error::Result;

#[cfg(feature = "object-stores")]
pub(crate) use self::bucket::open as open_bucket;
pub(crate) use self::directory::Directory;

/// A place for objects: a directory, a bucket, or whatever an embedder has.
///
/// What an operation did is durable, and seen by every later one of anybody, when it returns. After an error it may have been done, or
/// be done later.
///
/// # Errors
/// Of each: [`Error::Unreachable`](crate::Error::Unreachable), [`Error::NotAllowed`](crate::Error::NotAllowed),
/// [`Error::NoPlace`](crate::Error::NoPlace), [`Error::Io`](crate::Error::Io).
#[tonic::async_trait]
pub trait Objects: fmt::Debug + Send + Sync + 'static {
    /// The first keys, at most `max`, that begin with `prefix`, sorted bytewise; `prefix` is empty or ends with `/`.
    async fn list(&self, prefix: &str, max: usize) -> Result<Vec<String>>;

    /// The object; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) if it has more than `bytes_max` bytes; it is not read then.
    async fn get(&self, key: &str, bytes_max: usize) -> Result<Option<Bytes>>;

    /// Puts an object, in the place of one that is there.
    async fn put(&self, key: &str, object: Bytes) -> Result<()>;

    /// Puts an object and gives true, or gives false if there is one: of those who try at the same time, exactly one gets true.
    async fn put_if_absent(&self, key: &str, object: Bytes) -> Result<bool>;

    /// Removes an object. That there is none is no error.
    async fn delete(&self, key: &str) -> Result<()>;
}
