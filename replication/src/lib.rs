//! Replication of Pleach databases: direct to standbys ([`Cluster`]), and through a remote ([`Primary`], [`ReadReplica`]).
//!
//! The one idea: a standby is brought up to date by the difference between what it acknowledged and what is here, whatever lies
//! between. So there is no log to keep, to trim or to fall out of, and a standby that was away for a day is a standby that was away for
//! a second.
//!
//! [`cluster`](Cluster) is the one, `remote` the other; each says at its top how to follow a change through it. They share what a ref is that replicates
//! (`shared_refs`), the limits and the errors.
//!
//! What is not here: arguments and environment, and users.

mod cluster;
mod error;
pub mod limits;
mod remote;
mod shared_refs;

#[doc(hidden)]
pub use cluster::standby::testing;
pub use cluster::{
    AckCount, AckLevel, AckPolicy, Alarm, CaughtUp, Cluster, ClusterConfig, ElectionConfig, ElectionProvider,
    ElectionStatus, Epoch, Fingerprint, HistoryCause, HistoryEntry, HistoryEvent, NodeId, NodeKey, OnTimeout,
    Refusal, Role, RoleAt, RoleChanges, RoleRequest, StandbyRemote, Standing, StatusRow, Taken, Tenure,
    TenureOver, WritePermit, auth, proto, role,
};
pub use error::{Behind, Error, ErrorKind, NotWritable, Result};
pub use remote::{
    Making, OnConflict, Place, Primary, PrimaryConfig, PullStatus, PushPermit, PushStatus, ReadReplica,
    Refresh, Refreshed, ReplicaConfig, count_as_pushed,
};

/// Runs what blocks on a thread that may.
async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result,
        Err(lost) => Err(Error::Lost { what: lost.to_string() }),
    }
}
