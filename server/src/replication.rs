//! Replication as this server does it, by its configuration: alone, or a node of a cluster with a port for its peers; and [`through`] a remote, to which it pushes or
//! which it follows, and which can be changed while it runs. Each is a [`Gate`] for the service, and something to stop at the end.

mod primary;
mod replica;
mod through;
mod users;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use pleach_engine::{Database, Token};
use pleach_protocol::{Access, Databases, Incoming, ServerTls};
use pleach_replication::{
    CaughtUp, Cluster, ClusterConfig, ElectionStatus, Epoch, HistoryEntry, RoleRequest, StandbyRemote,
    Standing, StatusRow, Tenure,
};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use self::through::Through;
use crate::config::{self, Config, Layers};
use crate::error::{Failure, Result};
use crate::gate::{Alone, Gate, Observed, Permit, Written};
use crate::listen;
use crate::proto::{
    self, AssumeRoleRequest, AssumeRoleResponse, ClusterHistoryEntry, ClusterHistoryRequest,
    ClusterHistoryResponse, ClusterStatusRequest, ClusterStatusResponse, DatabaseRoot, StandbyCaughtUp,
    StandbyStatus,
};

/// Something that a person should know, while it is so.
type Warning = Arc<Mutex<Option<String>>>;

/// What runs beside the listener.
pub(crate) struct Replication {
    through: Arc<Through>,
    node: Option<Node>,
}

/// A node of a cluster, and the server of its port.
struct Node {
    cluster: Cluster,
    /// Its users are those of its primary.
    shares_users: bool,
    /// What a person should know of its users.
    warning: Warning,
    stop: watch::Sender<bool>,
    port: JoinHandle<std::result::Result<(), tonic::transport::Error>>,
}

impl Replication {
    /// Starts what the configuration says: roles are recovered and the cluster port is served when it returns. `layers` are what it was made of; `listener_url` is
    /// what standbys tell clients that want to write, `tls` what the cluster port shows.
    pub(crate) async fn start(
        config: &Config,
        layers: Layers,
        databases: &Databases,
        listener_url: String,
        tls: Option<ServerTls>,
    ) -> Result<Replication> {
        let (base, node): (Arc<dyn Gate>, _) = match &config.cluster {
            Some(cluster) => {
                let node = Replication::cluster(cluster, databases, listener_url, tls).await?;
                let (cluster, warning) = (node.cluster.clone(), node.warning.clone());
                (Arc::new(ClusterGate { cluster, warning, runtime: Handle::current() }), Some(node))
            }
            None => (Arc::new(Alone), None),
        };
        let through = Through::start(layers, config.replication.as_ref(), base, databases).await?;
        Ok(Replication { through, node })
    }

    async fn cluster(
        config: &config::Cluster,
        databases: &Databases,
        listener_url: String,
        tls: Option<ServerTls>,
    ) -> Result<Node> {
        config.peer_tls.check()?;
        let (socket, address) =
            listen::bind_first(&config.remotesapi, "cluster.remotesapi in the configuration")?;
        if tls.is_none() && !address.ip().is_loopback() {
            tracing::warn!(
                "replication travels in the clear: who can change what is sent on the way can change what a standby has, and its role; set \
                 cluster.remotesapi.tls_cert and tls_key"
            );
        }
        let standbys = config.standby_remotes.iter().map(|standby| StandbyRemote {
            fingerprint: standby.fingerprint,
            ..StandbyRemote::new(&standby.name, &standby.remote_url_template)
        });
        let standbys = standbys.collect();
        let cluster = Cluster::start(
            ClusterConfig {
                bootstrap_role: match config.bootstrap_role {
                    config::Role::Primary => pleach_replication::Role::Primary,
                    config::Role::Standby => pleach_replication::Role::Standby,
                },
                bootstrap_epoch: Epoch(config.bootstrap_epoch),
                ack: config.ack,
                election: config.election.clone(),
                listener_url,
                node_key: config.node_key.clone(),
                tls: config.peer_tls.clone(),
                replicate_drops: config.replicate_drops,
                cascade: config.cascade,
                standby_pin_max: config.standby_pin_max,
                ..ClusterConfig::new(standbys)
            },
            databases.clone(),
        )
        .await?;
        let (stop, mut stopped) = watch::channel(false);
        // By TLS it is HTTP/2, whose server speaks first: so a client hears at once that its certificate is refused.
        let mut port = pleach_protocol::transport().accept_http1(tls.is_none());
        let incoming = Incoming::new(listen::start(socket)?, tls);
        let port = port.add_routes(cluster.routes());
        let port = tokio::spawn(port.serve_with_incoming_shutdown(incoming, async move {
            // An error means that the sender is gone, which is a reason to stop as well.
            let _ = stopped.wait_for(|stop| *stop).await;
        }));
        tracing::info!("peers are served on {address}");
        Ok(Node { cluster, shares_users: config.replicate_users, warning: Warning::default(), stop, port })
    }

    /// Returns once this server may be asked: a primary of a cluster that restarted hears its standbys first, for a moment.
    pub(crate) async fn heard(&self) {
        if let Some(node) = &self.node {
            node.cluster.heard().await;
        }
    }

    /// Keeps the users of a cluster's nodes the same, if the configuration says so; those that were published are in force when it returns.
    /// `reread` is told whenever this node's own were read again.
    pub(crate) async fn share_users(&self, access: &Access, config: &Config, reread: Arc<Notify>) {
        if let Some(Node { cluster, shares_users: true, warning, .. }) = &self.node {
            let (cluster, access, warning) = (cluster.clone(), access.clone(), warning.clone());
            let file = config.users_file.clone();
            let mut users = users::Users::new(cluster, access, file, &config.data_dir, warning);
            if !users.look().await {
                // It leads, and does not take writes yet.
                reread.notify_one();
            }
            tokio::spawn(users.share(reread));
        }
    }

    /// Who decides about writes and roles.
    pub(crate) fn gate(&self) -> Arc<dyn Gate> {
        self.through.clone()
    }

    /// Stops replication and lets go of all databases.
    pub(crate) async fn stop(self) {
        self.through.stop().await;
        if let Some(Node { cluster, stop, port, .. }) = self.node {
            stop.send_replace(true);
            cluster.shutdown().await;
            if let Err(error) = port.await {
                tracing::warn!("the cluster port ended with an error: {error}");
            }
        }
    }
}

/// The gate of a cluster's node. Its calls come from threads that may block.
struct ClusterGate {
    cluster: Cluster,
    /// What a person should know of the users of this node.
    warning: Warning,
    runtime: Handle,
}

impl Gate for ClusterGate {
    fn writable(&self) -> Result<Permit> {
        Ok(Box::new(self.cluster.gate()?))
    }

    fn before_read(&self, _name: &str, _database: &Database) -> Result<()> {
        Ok(())
    }

    fn wait_for(&self, name: &str, database: &Database, token: &Token, limit: Duration) -> bool {
        self.runtime.block_on(self.cluster.wait_for(name, database, token, limit))
    }

    /// Waits until as many standbys have the write as the configuration says.
    fn after_write(
        &self,
        Written { name, database, .. }: Written<'_>,
        permit: Permit,
    ) -> Result<Vec<String>> {
        drop(permit);
        let acknowledged = self.cluster.acknowledged(name, database.sequence());
        Ok(self.runtime.block_on(acknowledged)?.into_iter().collect())
    }

    fn databases_changed(&self, _made: Option<&str>) -> Result<()> {
        Ok(self.runtime.block_on(self.cluster.look_for_databases())?)
    }

    fn dropping(&self, name: &str) -> Result<()> {
        Ok(self.runtime.block_on(self.cluster.dropping(name))?)
    }

    fn not_dropped(&self, name: &str) -> Result<()> {
        Ok(self.runtime.block_on(self.cluster.not_dropped(name))?)
    }

    /// Waits until as many standbys know of the drop as the configuration says.
    fn dropped(&self) -> Result<Vec<String>> {
        Ok(self.runtime.block_on(self.cluster.noted())?.into_iter().collect())
    }

    fn roles(&self) -> Option<watch::Receiver<Standing>> {
        Some(self.cluster.changes())
    }

    fn tenure(&self) -> Option<Tenure> {
        Some(self.cluster.tenure())
    }

    fn status(&self, request: &ClusterStatusRequest) -> Result<ClusterStatusResponse> {
        let standing = self.cluster.standing();
        let roots = if request.roots { self.cluster.roots() } else { BTreeMap::new() };
        let databases = self.cluster.status().into_iter().map(row).collect();
        Ok(ClusterStatusResponse {
            role: standing.role.word().to_owned(),
            epoch: standing.epoch.0,
            databases,
            warnings: self.cluster.warnings().into_iter().chain(self.warning.lock().clone()).collect(),
            fingerprint: self.cluster.fingerprint().to_string(),
            takes_writes: self.cluster.takes_writes(),
            election: self.cluster.election().map(election),
            node: self.cluster.id().to_string(),
            leader: standing.leader.map(|leader| leader.to_string()).unwrap_or_default(),
            roots: roots
                .into_iter()
                .map(|(database, root)| DatabaseRoot { database, root: root.to_string() })
                .collect(),
        })
    }

    fn observe(&self) -> Observed {
        let standing = self.cluster.standing();
        let (role, epoch, standbys) =
            (standing.role.word(), Some(standing.epoch.0), self.cluster.known_status());
        let role_changes = Some(self.cluster.role_changes());
        let (election, takes_writes) = (self.cluster.election(), Some(self.cluster.takes_writes()));
        Observed { role, epoch, takes_writes, standbys, role_changes, election, ..Observed::default() }
    }

    fn assume_role(&self, request: &AssumeRoleRequest, by: &str) -> Result<AssumeRoleResponse> {
        let AssumeRoleRequest { role, epoch, min_caught_up } = request.clone();
        let min_caught_up = min_caught_up.map(|count| usize::try_from(count).unwrap_or(usize::MAX));
        if min_caught_up.is_some() && role == "primary" {
            return Err(Failure::usage(
                "only a node that becomes a standby hands over to standbys that must have caught up",
            )
            .hint("leave min_caught_up out"));
        }
        let request = RoleRequest { role, epoch, min_caught_up, by: by.to_owned() };
        let taken = self.runtime.block_on(self.cluster.take_role(request))?;
        Ok(AssumeRoleResponse {
            role: taken.standing.role.word().to_owned(),
            epoch: taken.standing.epoch.0,
            standbys: taken.standbys.into_iter().map(caught_up).collect(),
        })
    }

    fn history(&self, request: &ClusterHistoryRequest) -> Result<ClusterHistoryResponse> {
        let (entries, warnings) = self.cluster.history();
        let limit = if request.limit == 0 { entries.len() } else { request.limit as usize };
        Ok(ClusterHistoryResponse {
            entries: entries.into_iter().rev().take(limit).map(entry).collect(),
            warnings,
        })
    }
}

fn election(election: ElectionStatus) -> proto::Election {
    let ElectionStatus { provider, held, holder, error } = election;
    proto::Election { provider: provider.to_owned(), held, holder, error }
}

fn caught_up(standby: CaughtUp) -> StandbyCaughtUp {
    let CaughtUp { database, standby_remote, remote_url, caught_up } = standby;
    StandbyCaughtUp { database, standby_remote, remote_url, caught_up }
}

fn entry(entry: HistoryEntry) -> ClusterHistoryEntry {
    let at = |at: pleach_replication::RoleAt| proto::RoleAt { role: at.role, epoch: at.epoch };
    let roots = entry.roots.into_iter();
    ClusterHistoryEntry {
        at_micros: i64::try_from(entry.at).unwrap_or(i64::MAX),
        event: entry.event.word().to_owned(),
        from: entry.from.map(at),
        to: entry.to.map(at),
        cause: entry.cause.word().to_owned(),
        by: entry.by,
        node: entry.node,
        why: entry.why,
        roots: roots.map(|(database, root)| DatabaseRoot { database, root }).collect(),
        more_databases: entry.more_databases,
    }
}

fn row(row: StatusRow) -> StandbyStatus {
    let micros = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        i64::try_from(since.as_micros()).ok()
    };
    StandbyStatus {
        database: row.database,
        standby_remote: row.standby_remote,
        role: row.role.word().to_owned(),
        epoch: row.epoch.0,
        replication_lag_millis: row.replication_lag_millis,
        last_update_micros: row.last_update.and_then(micros),
        current_error: row.current_error,
        pinned_bytes: row.pinned_bytes,
        note: row.note,
        sequence: row.sequence,
        sent: row.sent,
        received: row.received,
        durable: row.durable,
        backlog_bytes: row.backlog_bytes,
        retries: row.retries,
    }
}
