//! What replication says about this server's requests: whether it may write, what a read must wait for, which role it has.
//!
//! The service asks before it looks a database up, so that a standby refuses a write to a database that it does not have.
//! [`Alone`] is the gate of a server without replication.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pleach_engine::{Database, Token};
use pleach_replication::{ElectionStatus, PullStatus, PushStatus, RoleChanges, Standing, StatusRow, Tenure};
use tokio::sync::watch;

use crate::error::{Failure, Result};
use crate::proto::{
    AssumeRoleRequest, AssumeRoleResponse, ClusterHistoryRequest, ClusterHistoryResponse,
    ClusterStatusRequest, ClusterStatusResponse, GetConfigRequest, GetConfigResponse, PromoteReplicaRequest,
    PromoteReplicaResponse, SetConfigRequest, SetConfigResponse,
};

/// Held while a write runs; a change of role waits until all are gone.
pub type Permit = Box<dyn Send>;

/// A write that was done.
#[derive(Clone, Copy)]
pub struct Written<'a> {
    /// Name of the database.
    pub name: &'a str,
    /// The database.
    pub database: &'a Database,
    /// The branch that it was on, if it was on one.
    pub branch: Option<&'a str>,
    /// Whether it was a transaction on tables: no commit, nor a change of branches or tags by itself.
    pub is_transaction: bool,
}

/// Between the requests of clients and the replication of this server. Blocking.
pub trait Gate: Send + Sync + 'static {
    /// Lets a write in; a standby and a read replica answer "not allowed" and name who takes writes, if they know.
    fn writable(&self) -> Result<Permit>;

    /// Brings `database` up to what a read must see.
    fn before_read(&self, name: &str, database: &Database) -> Result<()>;

    /// Waits until `database` has the write of `token`; false if it does not within `limit`.
    fn wait_for(&self, name: &str, database: &Database, token: &Token, limit: Duration) -> bool;

    /// What is followed, if a write that is found here stays as long as that is followed: then nobody waits for its token twice.
    fn follows(&self) -> Option<u64> {
        None
    }

    /// Does what replication has to do about a write before that is answered. The permit of the write is held while anything more is written, and let
    /// go before anybody is waited for. Gives warnings for whoever wrote; an error says that the write is done here, and what is open.
    fn after_write(&self, _written: Written<'_>, _permit: Permit) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// A database was opened, and nobody has it yet.
    fn opened(&self, _name: &str, _database: &Database) {}

    /// Brings a database here that is asked for and not here; false if there is nowhere to get it from.
    fn obtain(&self, _name: &str) -> Result<bool> {
        Ok(false)
    }

    /// Name of the remote that databases are given which are made here, if they are given one.
    fn remote_of_new(&self) -> Option<String> {
        None
    }

    /// What there is to see of replication. Never blocks, and opens no database.
    fn observe(&self) -> Observed {
        Observed::default()
    }

    /// The database called `made` was made; or some were dropped.
    fn databases_changed(&self, _made: Option<&str>) -> Result<()> {
        Ok(())
    }

    /// The database called `name` is about to be dropped, if it is there: whoever follows drops it, too.
    fn dropping(&self, _name: &str) -> Result<()> {
        Ok(())
    }

    /// The database that was about to be dropped could not be removed.
    fn not_dropped(&self, _name: &str) -> Result<()> {
        Ok(())
    }

    /// Does what replication has to do about a drop before that is answered. Gives warnings.
    fn dropped(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Tells role and epoch whenever they change. None where there are no roles.
    fn roles(&self) -> Option<watch::Receiver<Standing>> {
        None
    }

    /// How long a session of a client may last that begins now: transactions that clients have open end with the role. None where there are no roles.
    fn tenure(&self) -> Option<Tenure> {
        None
    }

    /// Role, epoch, and every database on every standby.
    fn status(&self, _request: &ClusterStatusRequest) -> Result<ClusterStatusResponse> {
        Err(no_cluster())
    }

    /// Takes a role; returns when it is in force and durable. `by` is the name of the user who asks.
    fn assume_role(&self, _request: &AssumeRoleRequest, _by: &str) -> Result<AssumeRoleResponse> {
        Err(no_cluster())
    }

    /// What became of this node.
    fn history(&self, _request: &ClusterHistoryRequest) -> Result<ClusterHistoryResponse> {
        Err(no_cluster())
    }

    /// The configuration in force.
    fn get_config(&self, _request: &GetConfigRequest) -> Result<GetConfigResponse> {
        Err(not_configured())
    }

    /// Changes a setting; returns when it is in force and durable.
    fn set_config(&self, _request: &SetConfigRequest) -> Result<SetConfigResponse> {
        Err(not_configured())
    }

    /// Makes a read replica a primary.
    fn promote_replica(&self, _request: &PromoteReplicaRequest) -> Result<PromoteReplicaResponse> {
        Err(not_configured())
    }
}

fn not_configured() -> Failure {
    Failure::refused("this server was embedded without its configuration")
        .hint("ask the program that embeds it")
}

/// What there is to see of replication.
#[derive(Debug)]
pub struct Observed {
    /// `primary`, which takes writes; `replica`; and of a cluster's node `standby` and `detected_broken_config`, too.
    pub role: &'static str,
    /// Of a cluster's node.
    pub epoch: Option<u64>,
    /// Of a cluster's node: whether it takes writes now.
    pub takes_writes: Option<bool>,
    /// The remote that `pushes` and `pulls` are about.
    pub remote: String,
    /// What a primary pushes, by database.
    pub pushes: Vec<PushStatus>,
    /// What a read replica pulls, by database.
    pub pulls: Vec<PullStatus>,
    /// Of a cluster, each database on each standby.
    pub standbys: Vec<StatusRow>,
    /// Of a cluster's node.
    pub role_changes: Option<RoleChanges>,
    /// Of a cluster that elects its primary.
    pub election: Option<ElectionStatus>,
}

impl Default for Observed {
    fn default() -> Observed {
        let (pushes, pulls, standbys) = Default::default();
        Observed {
            role: "primary",
            epoch: None,
            takes_writes: None,
            remote: String::new(),
            pushes,
            pulls,
            standbys,
            role_changes: None,
            election: None,
        }
    }
}

/// A server that replicates with nobody: every write is let in.
pub struct Alone;

impl Gate for Alone {
    fn writable(&self) -> Result<Permit> {
        Ok(Box::new(()))
    }

    fn before_read(&self, _name: &str, _database: &Database) -> Result<()> {
        Ok(())
    }

    fn wait_for(&self, _name: &str, database: &Database, token: &Token, limit: Duration) -> bool {
        poll(limit, || database.sequence() >= token.sequence)
    }
}

fn no_cluster() -> Failure {
    Failure::refused("this server is in no cluster")
        .hint("add a `cluster:` stanza to its config.yaml and restart it")
}

/// Requests that may wait for a remote at the same time. Each has a thread, and the transfer that they wait for needs some, too: there are
/// [`THREADS_MAX`].
const WAITING_MAX: usize = 1024;
/// Threads for what blocks.
pub(crate) const THREADS_MAX: usize = 4 * WAITING_MAX;

/// Counts the requests that wait for a remote.
#[derive(Default)]
pub(crate) struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    /// One more, until what this gives is dropped.
    pub(crate) fn enter(&self) -> Result<impl Drop + Send + 'static> {
        struct One(Arc<AtomicUsize>);
        impl Drop for One {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let one = One(self.0.clone());
        match self.0.fetch_add(1, Ordering::SeqCst) < WAITING_MAX {
            true => Ok(one),
            false => Err(Failure::remote(format!("{WAITING_MAX} requests wait for the remote already"))
                .hint("see that the remote answers, and try again")),
        }
    }
}

/// How often [`poll`] looks.
const POLL: Duration = Duration::from_millis(2);

/// Asks until the answer is yes, or time is over.
pub(crate) fn poll(limit: Duration, reached: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !reached() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
    true
}
