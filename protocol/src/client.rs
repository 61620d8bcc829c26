//! The asking side: fetch, push, pull and clone of a local database, from and to a server; what a remote is that is none, `packs` does
//! instead. Watch and get need no local database. Async at the edge; chunks are read and written on a blocking
//! thread for each transfer, with a channel of [`MESSAGES_AHEAD`](crate::limits::MESSAGES_AHEAD) messages between.

mod clone;
mod fetch;
mod get;
mod promised;
mod pull;
mod push;
mod watch;

pub use self::clone::clone_database;
pub use self::fetch::fetch;
pub use self::get::{ChunkPath, get, get_below};
pub use self::promised::serve_promised;
pub use self::pull::pull;
pub use self::push::{Force, HELD_BACK, PushUpdate, push};
pub use self::watch::{RefChange, Watching, watch};

pub(crate) use self::fetch::{RemoteRefs, Settle, forget_note, move_refs, note_key};
pub(crate) use self::push::remember;

use crate::error::{Error, Result};

/// Runs `f`, which blocks, on a thread made for it.
pub(crate) async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result,
        Err(lost) => Err(Error::Lost { what: lost.to_string() }),
    }
}
