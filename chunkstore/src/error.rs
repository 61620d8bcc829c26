//! What can go wrong, and what to do about it.
//!
//! One idea: absent and moved are not errors (they are `None` and [`Outcome::Moved`](crate::Outcome)); an error says which file, where in it,
//! and the next step. [`Error::kind`] is for programs.

use std::io;
use std::sync::Arc;

use crate::chunk::CHUNK_BYTES_MAX;
use crate::hash::Hash;

/// The result of a store's operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a [`Source`](crate::Source) does not answer: what it, or the way to it, failed with.
pub type SourceError = Arc<dyn std::error::Error + Send + Sync>;

/// A store's failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No store is in the directory.
    #[error("no store in {dir}: create one there, or check the path")]
    NotFound {
        /// The directory.
        dir: String,
    },
    /// A store, or what is left of one, is in the directory.
    #[error("{dir} already holds a store: open it, or choose another directory")]
    AlreadyExists {
        /// The directory.
        dir: String,
    },
    /// Another process, or another part of this one, has the store open for writing.
    #[error("the store in {dir} is in use by process {pid} on {host}: close it there first")]
    Locked {
        /// The directory.
        dir: String,
        /// The process that holds the lock.
        pid: String,
        /// The machine that it runs on.
        host: String,
    },
    /// The directory holds something, and it is no store.
    #[error("{dir} is not empty, and holds no store: choose another directory")]
    NotEmpty {
        /// The directory.
        dir: String,
    },
    /// The store in the directory is no backup.
    #[error("{dir} holds a store that is no backup: choose another place for the backup")]
    NotBackup {
        /// The directory.
        dir: String,
    },
    /// The backup in the directory is of another store.
    #[error("{dir} holds the backup of another store: choose another place, one for each store")]
    OtherSource {
        /// The directory.
        dir: String,
    },
    /// The backup in the directory is of one store, and several were to be added, or the other way round.
    #[error("{dir} holds a backup of {holds}, not of {wanted}: choose another place")]
    OtherKindOfBackup {
        /// The directory.
        dir: String,
        /// What it is a backup of.
        holds: &'static str,
        /// What was to be added to it.
        wanted: &'static str,
    },
    /// A store that is to be backed up together with others is a partial copy.
    #[error("{name} is a partial copy, which a backup of several stores cannot hold: back it up by itself")]
    PartialSource {
        /// What it is called.
        name: String,
    },
    /// A ref that was to be made exists.
    #[error("the ref {name} exists already: try again")]
    RefExists {
        /// The ref.
        name: String,
    },
    /// A chunk that another one, or a ref, names is not in the store.
    #[error("chunk {hash} is missing: run fsck, and repair the store from a backup or a remote")]
    Missing {
        /// Its address.
        hash: Hash,
    },
    /// A chunk of a partial copy is promised by a remote, and none is at hand to ask ([`Store::set_source`](crate::Store::set_source)).
    #[error("chunk {hash} is not in this partial copy; its remote has it: try again with the remote at hand")]
    NotLocal {
        /// Its address.
        hash: Hash,
    },
    /// A chunk of a partial copy is promised by a remote, which failed to give it.
    #[error("chunk {hash} is not in this partial copy, and its remote did not give it: {source}")]
    SourceFailed {
        /// Its address.
        hash: Hash,
        /// What the remote, or the way to it, failed with.
        source: SourceError,
    },
    /// A file holds something else than what was written.
    #[error("{file} is damaged at byte {offset}: {what}{}; restore this store from a backup or a remote", of_chunk(.hash))]
    Damaged {
        /// The file's name in the store's directory.
        file: String,
        /// Where the damage was met, in bytes from the start of the file.
        offset: u64,
        /// The chunk that cannot be read, if one was being read.
        hash: Option<Hash>,
        /// What was expected there.
        what: String,
    },
    /// A file's format is not the one that this program reads.
    #[error(
        "{file} has format {found} and this program reads format {expected}: use the version of Pleach that wrote it, or a newer one"
    )]
    Version {
        /// The file's name in the store's directory.
        file: String,
        /// The format found in it.
        found: u32,
        /// The format that this program reads.
        expected: u32,
    },
    /// The disk, or the quota on it, is full. Nothing of the failed append is kept; reads go on.
    #[error("no space left for {file}: free some and try again, no need to reopen")]
    DiskFull {
        /// The file that could not grow.
        file: String,
    },
    /// The operating system refused an operation.
    #[error("cannot {action} {file}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file's name in the store's directory.
        file: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A failed fsync left unknown what is on disk: no write is accepted until the store is opened again. Reads go on.
    #[error(
        "the store refuses writes since {cause}: close it and open it again; what was not acknowledged may be lost"
    )]
    Poisoned {
        /// The failure.
        cause: String,
    },
    /// A ref was to name a chunk that a collection is removing, as nothing led to it.
    #[error("chunk {hash} is being removed, as nothing led to it: write or fetch it again, then name it")]
    Collected {
        /// The chunk.
        hash: Hash,
    },
    /// The store was opened to read, beside whoever writes it.
    #[error("the store was opened to read: open it for writing, once no one else does, to change it")]
    ReadOnly,
    /// The caller of this handle cancelled its calls.
    #[error("the call was cancelled: nothing was changed, and the store goes on working")]
    Cancelled,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// One append is longer than a group may be.
    #[error("one append of {bytes} bytes is longer than the {bytes_max} allowed: append in parts")]
    BatchTooLarge {
        /// The length of the group that was asked for.
        bytes: u64,
        /// The longest group.
        bytes_max: u64,
    },
    /// All refs together would be longer than one group, which they are written in when a journal begins.
    #[error(
        "all refs together would take {bytes} bytes, more than the {bytes_max} allowed: delete some, or give them shorter names"
    )]
    TooManyRefs {
        /// The bytes that they would take.
        bytes: u64,
        /// The most that they may.
        bytes_max: u64,
    },
    /// A name that no ref can have.
    #[error("{name:?} cannot name a ref: names are 1 to {max} bytes long")]
    BadRefName {
        /// The name, at most its first 80 characters.
        name: String,
        /// The longest name, in bytes.
        max: usize,
    },
}

/// What the caller of a failed operation can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request cannot be met as it is: change it.
    Request,
    /// Something outside is in the way (a full disk, a lock): remove it and try again.
    Retry,
    /// Close the store and open it again.
    Reopen,
    /// The files are damaged or foreign: restore them.
    Restore,
    /// A remote is needed, and not at hand or failing: see to it and try again. What is here can be read meanwhile.
    Remote,
    /// The operating system failed in a way that the store cannot judge.
    System,
}

impl Error {
    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::NotFound { .. }
            | Error::AlreadyExists { .. }
            | Error::NotEmpty { .. }
            | Error::NotBackup { .. }
            | Error::OtherSource { .. }
            | Error::OtherKindOfBackup { .. }
            | Error::PartialSource { .. }
            | Error::BatchTooLarge { .. }
            | Error::TooManyRefs { .. }
            | Error::ReadOnly
            | Error::Cancelled
            | Error::BadRefName { .. } => ErrorKind::Request,
            Error::Locked { .. }
            | Error::DiskFull { .. }
            | Error::RefExists { .. }
            | Error::Collected { .. } => ErrorKind::Retry,
            Error::Poisoned { .. } | Error::Closed => ErrorKind::Reopen,
            Error::Damaged { .. } | Error::Missing { .. } | Error::Version { .. } => ErrorKind::Restore,
            Error::NotLocal { .. } | Error::SourceFailed { .. } => ErrorKind::Remote,
            Error::Io { .. } => ErrorKind::System,
        }
    }

    pub(crate) fn damaged(file: &str, offset: u64, what: impl Into<String>) -> Error {
        Error::Damaged { file: file.to_owned(), offset, hash: None, what: what.into() }
    }

    /// Names the chunk that was being read, if the error is damage.
    pub(crate) fn of(mut self, chunk: &Hash) -> Error {
        if let Error::Damaged { hash, .. } = &mut self {
            *hash = Some(*chunk);
        }
        self
    }

    /// The error for an operating system's refusal, to be used with `map_err`.
    pub(crate) fn io(action: &'static str, file: &str) -> impl FnOnce(io::Error) -> Error {
        let file = file.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::DiskFull { file },
            _ => Error::Io { action, file, source },
        }
    }
}

fn of_chunk(hash: &Option<Hash>) -> String {
    hash.map(|hash| format!(" (chunk {hash})")).unwrap_or_default()
}

// A chunk's length must fit the fields that carry it.
const _: () = assert!(CHUNK_BYTES_MAX <= u32::MAX as usize);
