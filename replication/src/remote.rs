//! Replication through a remote: a [`Primary`] pushes its branches, a [`ReadReplica`] pulls them.
//!
//! Follow a commit to a replica: the engine makes it durable and calls the watch that `primary` set → what has moved is noted in the database, so that a push
//! survives a restart, and the pusher of that database wakes → it pushes the branches that differ, all in one go, and notes what the remote has now; a write
//! that waits is answered. On the other side `replica` asks the remote when a transaction begins, in an interval, or when the remote says that a ref moved, and moves
//! its refs to the remote's. Those that ask at once share one answer (`runs`).
//!
//! `strict` pushes before a ref moves here, `place` makes the database where it is pushed to for the first time, `behind` counts what is not pushed yet.

mod behind;
mod place;
mod primary;
mod replica;
mod runs;
mod strict;

use crate::error::{Error, Result};

pub use place::{Making, Place};
pub use primary::{OnConflict, Primary, PrimaryConfig, PushPermit, PushStatus, count_as_pushed};
pub use replica::{PullStatus, ReadReplica, Refresh, Refreshed, ReplicaConfig};

/// Where the remote called `name` of a database is, with what is shown to it.
fn remote_url(
    database: &pleach_engine::Database,
    name: &str,
    credentials: &pleach_protocol::Credentials,
) -> Result<pleach_protocol::RemoteUrl> {
    let url = database.setting(&format!("remote.{name}.url"))?;
    let url = url.ok_or_else(|| Error::UnknownRemote { remote: name.to_owned() })?;
    Ok(credentials.authorize(url.parse()?))
}
