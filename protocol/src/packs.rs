//! A remote that is no server: a directory or a bucket of immutable packs, and a log of numbered manifests.
//!
//! The one idea: a pack is a recorded stream of the protocol. A push writes what it would have sent; a fetch reads what it lacks into the
//! same [`Receiver`](crate::Receiver), so that nothing which lies there is trusted. The one commit point is the next manifest, put *if
//! absent*: who finds it there has lost a race, reads it, and decides again. Everything put before is invisible without it.
//!
//! ```text
//! format                            which format this is, and the remote's own random name (`begin`)
//! manifest/NAME/…                   what each push did (`manifest`), read through `log`
//! pack/NUMBER-HASH                  records, end to end (`write`)
//! probe/…                           left by a first push that was cut
//! ```
//!
//! Invariants, each held by tests in `tests/remotes/`:
//! 1. A manifest is put only when all packs that it names are there.
//! 2. The packs of manifest n build only on what the refs of manifest n − 1 reach: whoever has these refs can take them.
//! 3. A key is never used for two different objects, but for a manifest that becomes a tombstone. A number is never free again.
//! 4. A pack that a manifest notes as retired is not named by any later one, so its object can go without asking anybody.
//! 5. What a database remembers of a remote ([`position`]) spares reading; it decides nothing that is not checked.
//!
//! Called by `client`, which chooses between this and a server by the remote's URL.

mod begin;
mod compact;
mod fetch;
mod gets;
mod log;
mod manifest;
mod position;
mod push;
mod write;

pub use self::compact::{Compacted, collect_remote, compact_remote};
pub(crate) use self::fetch::fetch;
pub use self::position::forget_remote;
pub use self::push::begin_remote;
pub(crate) use self::push::push;

use std::sync::Arc;

use crate::flow::Flow;
use crate::objects::Objects;

/// A place for objects, its URL for messages, and who is told how far transfers are.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) objects: Arc<dyn Objects>,
    pub(crate) flow: Flow,
}
