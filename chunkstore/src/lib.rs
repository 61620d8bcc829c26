//! A durable set of immutable chunks under their hashes, and one chain of roots, on local disk or in memory.
//!
//! One idea: a root is the hash of everything under it, so storing a change costs the changed chunks and one record, and nothing that
//! is stored is ever changed. This crate knows nothing of keys, commits or networks.
//!
//! | to learn about | read |
//! |---|---|
//! | the files of a store, and which file of this crate describes each | `docs/format.md` |
//! | what survives what, and why | `docs/durability.md` |
//! | the door | [`Store`] |
//! | a chunk's layout | [`chunk`] |
//! | a frame's layout | [`frame`] |
//! | putting something else in the place of the disk | [`io`] |
//!
//! ```
//! use pleach_chunkstore::{Batch, Chunk, Options, Outcome, RefUpdate, Store};
//!
//! # fn main() -> pleach_chunkstore::Result<()> {
//! let store = Store::memory(Options::default());
//! let chunk = Chunk::build(1, 0, b"hello", None, &[], 0);
//! let root = *chunk.hash();
//! let mut batch = Batch::default();
//! batch.put(chunk, None);
//! let update = RefUpdate { name: "heads/main".into(), old: None, new: Some(root) };
//! if let Outcome::Appended(ticket) = store.append(batch, &[update])? {
//!     ticket.wait()?; // on disk
//! }
//! assert_eq!(store.get_ref("heads/main"), Some(root));
//! # Ok(())
//! # }
//! ```

#[cfg(not(unix))]
compile_error!(
    "Pleach runs on Linux and macOS; other systems are refused until their durability is designed"
);

pub mod backup;
mod batch;
mod budget;
mod bytes;
mod cancel;
pub mod chunk;
pub mod conformance;
mod error;
pub mod frame;
pub mod fsck;
mod hash;
mod index;
pub mod io;
mod journal;
mod lock;
mod manifest;
pub mod patch;
mod progress;
mod refs;
mod stats;
mod store;
mod table;
#[doc(hidden)]
pub mod testing;
mod watermark;

pub use batch::Batch;
pub use budget::Lease;
pub use cancel::Cancel;
pub use chunk::{CHUNK_BYTES_MAX, Chunk, ChunkError};
pub use error::{Error, ErrorKind, Result, SourceError};
pub use hash::{Hash, ParseHashError};
pub use progress::{Meter, Observer, Progress};
pub use refs::{NAME_BYTES_MAX, RefUpdate};
pub use stats::Stats;
pub use store::{
    Collected, Compacted, Compression, Durability, Hold, Options, Outcome, RefsSince, Scratch, Source, Store,
    Stored, Ticket, Verify,
};
