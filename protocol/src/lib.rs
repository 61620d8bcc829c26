//! The chunk exchange of Pleach: fetch, push, pull and clone between databases over gRPC, one round trip each, and by way of directories and
//! buckets.
//!
//! The one idea: a root is the hash of everything below it. The sender walks the difference between what is wanted and what the
//! receiver says it has, and sends only that; the receiver knows from each verified chunk what the next one must hash to, so that
//! nothing has to be trusted and no hash has to travel.
//!
//! Follow a pull: [`fetch`] offers what is here (`haves`) → `server/fetch.rs` plans and walks the engine's difference → [`Sender`]
//! turns it into [`record`]s, encoded as `encoding` finds smallest → [`Receiver`] verifies and stores them, children before parents
//! → the refs move by one compare-and-set → the engine merges. A push is the same from the other side. At a remote that is no server,
//! `packs` reads and writes the same records as objects.
//!
//! Beside these, [`watch`] tells when a server's refs move, and [`get`] and [`get_below`] ask it for single chunks.
//!
//! What is not here: roles, epochs and acknowledgements (replication), arguments and environment (the server).

mod access;
mod ahead;
mod client;
mod codec;
mod databases;
mod edits;
mod encoding;
mod error;
mod flow;
mod haves;
pub mod limits;
mod objects;
mod packs;
mod part;
pub mod proto;
mod random;
mod reached;
mod receiver;
pub mod record;
mod refs;
mod remote;
mod sender;
mod server;
pub mod testing;
mod tls;
mod transfer;

pub use access::{Access, Bearer, Caller, Credential, Credentials, Grant, Guarded, Right, Token, User};
pub use ahead::Totals;
pub use client::{
    ChunkPath, Force, HELD_BACK, PushUpdate, RefChange, Watching, clone_database, fetch, get, get_below,
    pull, push, serve_promised, watch,
};
pub use databases::{Databases, check_database_name};
pub use encoding::Encoding;
pub use error::{Error, ErrorKind, Result};
pub use flow::{Flow, Passed};
pub use objects::Objects;
pub use packs::{Compacted, begin_remote, collect_remote, compact_remote, forget_remote};
pub use part::Part;
pub use reached::{Place, Reached};
pub use receiver::{Received, Receiver};
pub use refs::{HEADS, RefPatterns, TAGS, pushed_prefix, refs_digest};
pub use remote::{Remote, RemoteUrl, connect, endpoint, root_cause};
pub use sender::Sender;
pub use server::{PushGate, PushPermit, SyncService, transport};
pub use tls::{
    Bound, ChannelBinding, ClientTls, Connection, ConnectionInfo, Identity, Incoming, PeerNames, ServerTls,
    TlsError,
};
pub use transfer::{RefResult, RefStatus, Transfer};

/// The formats that two sides must share to compute the same chunks from the same rows; whole chunks travel regardless.
const FORMATS: &[u8] = b"pleach: chunk 1, map 1, blob 1, definition 1, commit 2, row 1";

/// What a side computes with, as `format_digest` says it: the first eight bytes, little-endian, of the hash of its formats.
pub fn format_digest() -> u64 {
    let hash = pleach_engine::Hash::of(FORMATS);
    hash.as_bytes().iter().take(8).rev().fold(0, |digest, byte| digest << 8 | u64::from(*byte))
}

/// The bit of `features` of a side that takes tables as the rows that changed ([`Encoding::Edits`]).
pub const FEATURE_EDITS: u64 = 1;

/// The bit of `features` of a side that shows how far a fetch is ([`Totals`]).
pub const FEATURE_TOTALS: u64 = 2;

/// Whether tables may be sent as rows that changed, to who says this of himself.
pub fn may_send_edits(digest: u64, features: u64) -> bool {
    digest == format_digest() && features & FEATURE_EDITS != 0
}

/// Says aloud that a remote computes with other formats.
fn check_format(remote: &str, theirs: u64) {
    if theirs != format_digest() {
        tracing::warn!(remote, "the remote computes with other formats; whole chunks are exchanged");
    }
}
