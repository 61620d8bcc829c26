//! A lease that at most one node of a cluster holds at a time, from something outside of the cluster that knows who that is: etcd ([`etcd`]), or an object store
//! ([`objects`]). Called by `elector`; what is done about it is `election`.
//!
//! What a provider promises: each lease has a number, higher than that of each one before, the *fence*; and once a lease was granted or renewed by a request, nobody else
//! is given one until the lease's time has passed since that request was sent, or it was released. So who holds it, and counts its time from when it sent the request, knows
//! by its own clock alone until when it is the only one.

pub(crate) mod etcd;
pub(crate) mod objects;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Time since some moment of this machine's past, which goes on while the process is stopped, and, where the system says how, while the machine sleeps.
pub(crate) fn clock() -> Duration {
    #[cfg(target_os = "linux")]
    let id = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let id = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(id);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Where a lease is had. What goes wrong is told in words.
#[tonic::async_trait]
pub(crate) trait LeaseProvider: fmt::Debug + Send + Sync + 'static {
    /// Who holds it, as far as can be seen.
    async fn observe(&self) -> Result<Observed, String>;

    /// Takes it for `node`, if nobody holds it, or `node` itself does from a former life; `None` if somebody else was first. The fence will be higher than `above`.
    async fn acquire(&self, node: &str, above: u64) -> Result<Option<Lease>, String>;

    /// Renews it; false if it is lost.
    async fn renew(&self, lease: &Lease) -> Result<bool, String>;

    /// Gives it up. The next fence will be higher than `floor`, too.
    async fn release(&self, lease: &Lease, floor: u64) -> Result<(), String>;

    /// Tells the other nodes what this one has, in the place of what it told before.
    async fn stand(&self, candidate: &Candidate) -> Result<(), String>;
}

/// A lease that was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) node: String,
    /// Its number, which becomes the epoch.
    pub(crate) fence: u64,
    /// What the provider knows it by.
    pub(crate) id: i64,
}

/// What a provider shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Observed {
    /// The fence of the last lease, or what it was raised to.
    pub(crate) fence: u64,
    /// Who holds the lease, if that is not over.
    pub(crate) holder: Option<String>,
    /// Who stood, in this round or others; what they told last.
    pub(crate) candidates: Vec<Candidate>,
}

/// A node that could lead, and what it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Candidate {
    pub(crate) node: String,
    /// The fence of the lease that is over.
    pub(crate) round: u64,
    /// The node's epoch.
    pub(crate) epoch: u64,
    /// The highest epoch of which it has changes, and how many of them, over all databases.
    pub(crate) has: (u64, u64),
    /// It is primary.
    pub(crate) leads: bool,
}

impl Candidate {
    /// Whether it goes before `other`: it has more; of two that have as much, the one that leads; then by name.
    pub(crate) fn is_better_than(&self, other: &Candidate) -> bool {
        let key = |one: &Candidate| (one.has, one.leads);
        key(self) > key(other) || key(self) == key(other) && self.node < other.node
    }
}
