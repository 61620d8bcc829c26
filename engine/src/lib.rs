//! The engine of Pleach: prolly maps, typed rows, commits, branches, transactions, diff and merge over a chunk store.
//!
//! The one idea: a root is the hash of everything below it, so two states are compared in time proportional to what
//! differs. [`Database`] is the door; it blocks, knows no network and no environment, and never prints.
//!
//! ```
//! use pleach_engine::{Database, NewCommit, TransactionOutcome};
//!
//! # fn main() -> Result<(), pleach_engine::Error> {
//! let database = Database::memory()?;
//! let mut transaction = database.begin("main")?;
//! transaction.create_table("fruit", None)?;
//! transaction.put("fruit", b"apple", b"red")?;
//! assert!(matches!(transaction.commit()?, TransactionOutcome::Committed(_)));
//! let commit = database.commit("main", NewCommit { message: "first".into(), ..NewCommit::default() })?;
//! let fruit = database.snapshot_of_root(commit.root)?.table("fruit")?;
//! assert_eq!(fruit.and_then(|table| table.get(b"apple").ok()?), Some(b"red".to_vec()));
//! # Ok(())
//! # }
//! ```

mod alter;
mod approval;
#[cfg(test)]
mod approval_tests;
mod blob;
mod branches;
#[cfg(test)]
mod cancel_tests;
mod catalogue;
mod check;
mod chunks;
mod commit;
mod committer;
mod conflict;
mod database;
mod definition;
mod difference;
mod error;
mod extent;
mod feed;
mod history;
mod index;
mod kinds;
mod lineage;
mod load;
mod map;
mod merge;
mod names;
mod partial;
pub mod patch;
mod pins;
#[cfg(test)]
mod progress_tests;
mod recovery;
mod resolve;
mod revision;
pub mod row;
mod row_edits;
mod salt;
mod sample;
mod scope;
mod settings;
mod snapshot;
mod transaction;
#[cfg(test)]
mod typed_tests;
mod upkeep;

pub use approval::{Approve, Disapproval};
pub use blob::{VALUE_BYTES_MAX, ValueReader};
pub use branches::Branch;
pub use check::{check_chunk, check_lineage};
pub use commit::{AUTHOR_BYTES_MAX, Commit, MESSAGE_BYTES_MAX};
pub use conflict::{Conflict, Side};
pub use database::{Committed, DEFAULT_BRANCH, Database, NewCommit, Status};
pub use definition::Definition;
pub use difference::{Base, Difference, Sent, difference, difference_in};
pub use error::{Error, ErrorKind, Result};
pub use extent::Extent;
pub use feed::{Feed, FeedItem};
pub use history::Log;
pub use index::{INDEX_COLUMNS_MAX, Index, IndexChange, IndexDefinition, IndexScan};
pub use lineage::Lineage;
pub use load::LoadOptions;
pub use map::config::{KEY_BYTES_MAX, MapConfig};
pub use merge::{MergeOptions, MergeOutcome};
pub use names::check_ref as check_ref_name;
pub use pins::Pins;
pub use pleach_chunkstore::{
    Batch, CHUNK_BYTES_MAX, Cancel, Chunk, ChunkError, Durability, Error as StoreError, Hash, Hold, Observer,
    Options, Outcome, Progress, RefUpdate, RefsSince, Source, SourceError, Stats, Store, Ticket,
};
pub use pleach_chunkstore::{Compression, backup, fsck};
pub use recovery::{KeepFor, Kept, Restored};
pub use resolve::{Resolution, Resolver};
pub use revision::Revision;
pub use row::Schema;
pub use row_edits::{Named, Rebuild, RowEdit, RowEditLimits, row_edits};
pub use sample::Sample;
pub use scope::Scope;
pub use snapshot::{Change, Changes, Scan, Snapshot, Table, TableChange, TableDiff, TableStat};
pub use transaction::{BadToken, Savepoint, Token, Transaction, TransactionOutcome};
pub use upkeep::KINDS;
