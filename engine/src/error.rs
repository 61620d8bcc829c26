//! What can go wrong in the engine, and what the caller can do about it.
//!
//! Outcomes that are part of normal work (a refused transaction, a conflict, a moved ref) are types of their own, not
//! errors. [`Error::kind`] sorts the rest by what helps.

use pleach_chunkstore::{ChunkError, Hash};

/// The result of an engine call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// What was named is not there.
    NotFound,
    /// The request cannot be done as asked; nothing changed. The message says what to do first.
    Refused,
    /// The input breaks a limit or a rule; change it.
    Invalid,
    /// Stored bytes are not what they must be.
    Damaged,
    /// The disk or the store failed; see the source.
    Store,
    /// A remote is needed, for what is not in this partial copy or for its approval, and is not at hand or failed: see to that, and try again.
    Remote,
    /// The caller's own wish; nothing changed.
    Cancelled,
}

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The chunk store failed.
    #[error(transparent)]
    Store(pleach_chunkstore::Error),
    /// The call was cancelled, by [`Cancel::cancel`](pleach_chunkstore::Cancel::cancel).
    #[error("the call was cancelled: nothing was changed, and the database goes on working")]
    Cancelled,
    /// The directory holds a store that is no database: a backup, for one.
    #[error("{dir} holds a store that is no database; if it is a backup, restore it into another directory")]
    NoDatabase {
        /// The directory.
        dir: String,
    },
    /// A chunk that something refers to is not in the store.
    #[error("chunk {hash} is missing from the store; run fsck, and fetch again from a remote that has it")]
    Missing {
        /// The address of the absent chunk.
        hash: Hash,
    },
    /// A chunk is not a canonical chunk of its kind.
    #[error("chunk {hash} is malformed: {what}")]
    Malformed {
        /// The address of the chunk.
        hash: Hash,
        /// What was expected and what was found.
        what: String,
    },
    /// The chunk's own header is malformed.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// A typed row or schema is not valid.
    #[error(transparent)]
    Row(#[from] crate::row::Error),
    /// No branch of that name.
    #[error("branch `{name}` not found; `branch` lists those that exist")]
    UnknownBranch {
        /// The name asked for.
        name: String,
    },
    /// No table of that name.
    #[error("table `{name}` not found; `table list` shows those that exist")]
    UnknownTable {
        /// The name asked for.
        name: String,
    },
    /// No tag of that name.
    #[error("tag `{name}` not found; `tag` lists those that exist")]
    UnknownTag {
        /// The name asked for.
        name: String,
    },
    /// No feed of that name.
    #[error(
        "feed `{name}` not found; `Database::feeds` lists those that exist, `Database::create_feed` makes one"
    )]
    UnknownFeed {
        /// The name asked for.
        name: String,
    },
    /// The bytes are no position of the feed.
    #[error(
        "the position cannot be gone on from: {what}; begin again from the last root that was acknowledged"
    )]
    BadPosition {
        /// What is wrong with it.
        what: &'static str,
    },
    /// No revision of that spelling.
    #[error("revision `{revision}` not found: expected {expected}")]
    UnknownRevision {
        /// The spelling asked for.
        revision: String,
        /// What a revision may be.
        expected: String,
    },
    /// No ref of that name keeps anything.
    #[error("no ref `{name}` under recovery/; `recovery list` shows what is kept")]
    NotKept {
        /// The name asked for.
        name: String,
    },
    /// A branch, tag or table of that name is there already.
    #[error("{what} `{name}` already exists; choose another name or delete it first")]
    Exists {
        /// `branch`, `tag` or `table`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The name breaks the rules of names.
    #[error("`{name}` is not a valid {what} name: {why}")]
    BadName {
        /// `branch`, `tag` or `table`.
        what: &'static str,
        /// The name as given.
        name: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// A key is longer than the limit.
    #[error("key of {found} bytes: at most {max} bytes are allowed")]
    KeyTooLong {
        /// Length found, bytes.
        found: usize,
        /// Limit, bytes.
        max: usize,
    },
    /// A value is longer than the limit.
    #[error("value of {found} bytes: at most {max} bytes are allowed; split it over several keys")]
    ValueTooLong {
        /// Length found, bytes.
        found: usize,
        /// Limit, bytes.
        max: usize,
    },
    /// Bytes were asked to be replaced where a value has none.
    #[error(
        "bytes {from} to {to} are not all in the value, which is {len} bytes long; ask for its length first"
    )]
    OutsideValue {
        /// The first byte to replace.
        from: u64,
        /// The byte behind the last.
        to: u64,
        /// Length of the value, bytes.
        len: u64,
    },
    /// What was to be stored could not be read.
    #[error("cannot read what is to be stored: {source}; nothing was changed")]
    Source {
        /// Why.
        source: std::io::Error,
    },
    /// What was asked for could not be written.
    #[error("cannot write the result: {source}; what was written so far is not whole")]
    Output {
        /// Why.
        source: std::io::Error,
    },
    /// The file is no patch, or no whole one.
    #[error("the patch is malformed in its block at byte {offset}: {what}")]
    MalformedPatch {
        /// Where the block at hand begins in the file, bytes.
        offset: u64,
        /// What was expected and what was found.
        what: String,
    },
    /// The branch is not as a patch expects it.
    #[error("the patch does not fit table `{table}`{}: {why}; nothing was changed", in_row(.key))]
    PatchMismatch {
        /// The table.
        table: String,
        /// The row's key as text; `None` if it is about the table.
        key: Option<String>,
        /// What was expected and what was found.
        why: String,
    },
    /// A merge is no change that can be taken back by itself.
    #[error(
        "commit {commit} is a merge: which of its sides to take back is not said; make a patch from it to the parent \
         that is to stay, and apply that"
    )]
    RevertsMerge {
        /// The commit.
        commit: Hash,
    },
    /// Sorted input was not sorted.
    #[error("keys must come in strictly ascending order; entry {entry} does not")]
    Unsorted {
        /// Index of the first entry out of order.
        entry: u64,
    },
    /// The branch's work equals its head.
    #[error("nothing to commit on branch `{branch}`: its work equals its head")]
    NothingToCommit {
        /// The branch.
        branch: String,
    },
    /// There is no commit to amend.
    #[error("branch `{branch}` has no commit to amend; commit first")]
    NothingToAmend {
        /// The branch.
        branch: String,
    },
    /// A merge waits for its conflicts to be resolved.
    #[error("branch `{branch}` has {count} unresolved conflicts; resolve them or abort the merge first")]
    UnresolvedConflicts {
        /// The branch.
        branch: String,
        /// How many rows conflict.
        count: usize,
    },
    /// The operation needs a branch without uncommitted work.
    #[error("branch `{branch}` has uncommitted work; commit it or reset it first")]
    UncommittedWork {
        /// The branch.
        branch: String,
    },
    /// A merge waits to be committed.
    #[error("a merge is under way on branch `{branch}`; commit it or abort it first")]
    MergeUnderWay {
        /// The branch.
        branch: String,
    },
    /// No merge is under way.
    #[error("no merge is under way on branch `{branch}`")]
    NoMerge {
        /// The branch.
        branch: String,
    },
    /// Both sides changed a table in ways that cannot be merged by row.
    #[error("table `{table}` cannot be merged: {why}; make both sides agree on the table first")]
    TableConflict {
        /// The table.
        table: String,
        /// What both sides did.
        why: &'static str,
    },
    /// Both sides changed the columns of a table in ways that exclude each other.
    #[error("the columns of table `{table}` cannot be merged: `{column}` {why}")]
    ColumnConflict {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// What was done to it, and what can be done about it.
        why: &'static str,
    },
    /// Two rows have the same values in the columns of a unique index.
    #[error("index `{index}` of table `{table}` is unique, and the rows {} and {} both have {key}; change or delete one of them", .rows[0], .rows[1])]
    UniqueViolation {
        /// The table.
        table: String,
        /// The index.
        index: String,
        /// The values, by column.
        key: String,
        /// The keys of the rows, by column.
        rows: [String; 2],
    },
    /// The values of a row make too long a key of an index.
    #[error(
        "row {row} of table `{table}` makes a key of {found} bytes in index `{index}`: at most {max} bytes are allowed; shorten its values or drop the index"
    )]
    IndexKeyTooLong {
        /// The table.
        table: String,
        /// The index.
        index: String,
        /// The key of the row, by column.
        row: String,
        /// Length found, bytes.
        found: usize,
        /// Limit, bytes.
        max: usize,
    },
    /// No index of that name.
    #[error("index `{index}` of table `{table}` not found; `Table::indexes` lists those that exist")]
    UnknownIndex {
        /// The table.
        table: String,
        /// The name asked for.
        index: String,
    },
    /// A column is in an index.
    #[error("column `{column}` of table `{table}` is in index `{index}`; drop the index first")]
    ColumnIndexed {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// The index.
        index: String,
    },
    /// Both sides of a merge changed an index.
    #[error("index `{index}` of table `{table}` cannot be merged: {why}")]
    IndexConflict {
        /// The table.
        table: String,
        /// The index.
        index: String,
        /// What both sides did, and what can be done about it.
        why: &'static str,
    },
    /// A raw table was asked for what only typed ones have.
    #[error(
        "table `{table}` holds raw keys and values and has no columns; make a table with a schema for that"
    )]
    NotTyped {
        /// The table.
        table: String,
    },
    /// The branch is in use.
    #[error("branch `{name}` is the current branch; switch to another one first")]
    BranchInUse {
        /// The branch.
        name: String,
    },
    /// The thread that was committing this transaction, together with others, was lost.
    #[error("the transaction was not committed: the thread that led its group panicked; begin again")]
    Unanswered,
    /// The savepoint is none of this transaction.
    #[error(
        "the savepoint is gone: it was rolled back past or released, or it is of another transaction; make a new one"
    )]
    UnknownSavepoint,
    /// Whoever must approve of changes of branches and tags does not.
    #[error("{why}; nothing was changed")]
    Disapproved {
        /// Why not.
        why: String,
    },
    /// Whoever must approve of changes of branches and tags could not be asked.
    #[error("{why}; nothing was changed")]
    ApproverAway {
        /// Why not.
        why: String,
    },
    /// Whoever must approve of changes of branches and tags was asked, and gave no answer.
    #[error(
        "whether a change is done is not known, and nothing else is changed until it is: {why}; it is settled as soon as there is an answer"
    )]
    Unsettled {
        /// Why there was none.
        why: String,
    },
    /// A ref moved while it was being changed, more often than is worth trying.
    #[error("ref `{name}` was moved by somebody else meanwhile; look at it and try again")]
    Moved {
        /// The ref.
        name: String,
    },
}

impl From<pleach_chunkstore::Error> for Error {
    fn from(error: pleach_chunkstore::Error) -> Error {
        match error {
            pleach_chunkstore::Error::Cancelled => Error::Cancelled,
            other => Error::Store(other),
        }
    }
}

fn in_row(key: &Option<String>) -> String {
    key.as_ref().map(|key| format!(", row `{key}`")).unwrap_or_default()
}

impl Error {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Store(error) if error.kind() == pleach_chunkstore::ErrorKind::Remote => ErrorKind::Remote,
            Error::Store(_) => ErrorKind::Store,
            Error::ApproverAway { .. } | Error::Unsettled { .. } => ErrorKind::Remote,
            Error::Cancelled => ErrorKind::Cancelled,
            Error::Missing { .. } | Error::Malformed { .. } | Error::Chunk(_) => ErrorKind::Damaged,
            Error::UnknownBranch { .. }
            | Error::UnknownTable { .. }
            | Error::UnknownTag { .. }
            | Error::UnknownFeed { .. }
            | Error::UnknownIndex { .. }
            | Error::UnknownRevision { .. }
            | Error::NotKept { .. } => ErrorKind::NotFound,
            Error::Row(_)
            | Error::BadName { .. }
            | Error::KeyTooLong { .. }
            | Error::ValueTooLong { .. }
            | Error::IndexKeyTooLong { .. }
            | Error::OutsideValue { .. }
            | Error::BadPosition { .. }
            | Error::MalformedPatch { .. }
            | Error::Unsorted { .. } => ErrorKind::Invalid,
            _ => ErrorKind::Refused,
        }
    }

    /// What an engine's reader or writer failed with, or the source of what is read.
    pub(crate) fn from_io(error: std::io::Error) -> Error {
        error.downcast::<Error>().unwrap_or_else(|source| Error::Source { source })
    }

    pub(crate) fn malformed(hash: &Hash, what: impl Into<String>) -> Error {
        Error::Malformed { hash: *hash, what: what.into() }
    }
}
