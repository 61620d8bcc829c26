//! Replication of Pleach databases: direct to standbys ([`Cluster`]), and through a remote ([`Primary`], [`ReadReplica`]).
//!
//! The one idea: a standby is brought up to date by the difference between what it acknowledged and what is here, whatever lies
//! between. So there is no log to keep, to trim or to fall out of, and a standby that was away for a day is a standby that was away for
//! a second.
//!
//! Follow a transaction to a standby: the engine makes it durable and calls the watch that [`tracked`](Cluster) set → `peer` notes the
//! lag and wakes the `session` → it computes what the standby lacks and sends it in the records of `pleach_protocol` → `standby` verifies,
//! stores, moves the refs durably, acknowledges → `peer` notes it → `cluster` acknowledges the transaction, by the policy of `ack`.
//!
//! Follow a change of role: the machine in [`role`] says what becomes of the node, `node` makes that durable in `role_file` before anything
//! shows it, `cluster` hands over first where that is due, and every stream ends and is opened anew in the new standing.
//!
//! With an election, a lease from outside of the cluster says who is asked to be primary: `lease` has it, `election` says what a node does about it, and `elector` does
//! that.
//!
//! Who calls is known before anything that the caller says is looked at: see [`auth`].
//!
//! What is not here: arguments and environment, and users.

mod ack;
mod applied;
pub mod auth;
mod behind;
mod change;
mod cluster;
mod election;
mod elector;
mod error;
mod history;
mod lease;
pub mod limits;
mod node;
mod peer;
mod place;
mod primary;
pub mod proto;
mod register;
mod replica;
pub mod role;
mod role_file;
mod runs;
mod session;
mod shared_refs;
mod standby;
mod strict;
mod tracked;

pub use ack::{AckCount, AckLevel, AckPolicy, OnTimeout};
pub use auth::{Fingerprint, NodeKey};
pub use cluster::{
    CaughtUp, Cluster, ClusterConfig, RoleRequest, StandbyRemote, StatusRow, Taken, Tenure, TenureOver,
};
pub use elector::{ElectionConfig, ElectionProvider, ElectionStatus};
pub use error::{Behind, Error, ErrorKind, NotWritable, Result};
pub use history::{HistoryCause, HistoryEntry, HistoryEvent, RoleAt, RoleChanges};
pub use node::WritePermit;
pub use place::{Making, Place};
pub use primary::{OnConflict, Primary, PrimaryConfig, PushPermit, PushStatus, count_as_pushed};
pub use replica::{PullStatus, ReadReplica, Refresh, Refreshed, ReplicaConfig};
pub use role::{Alarm, Epoch, NodeId, Refusal, Role, Standing};

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

/// Runs what blocks on a thread that may.
async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result,
        Err(lost) => Err(Error::Lost { what: lost.to_string() }),
    }
}
