//! Replication as this server does it, by its configuration: alone, a read replica of a remote, or a node of a cluster with a port
//! for its peers; and, unless it is a replica, pushing to a remote. Each is a [`Gate`] for the service, and something to stop at the end.

mod primary;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pleach_engine::{Database, Hash, Token};
use pleach_protocol::{Databases, Part, Remote, check_database_name, clone_database};
use pleach_replication::{
    Cluster, ClusterConfig, Epoch, ReadReplica, ReplicaConfig, StandbyRemote, StatusRow,
};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;

use self::primary::PrimaryGate;
use crate::config::{self, Config};
use crate::credentials;
use crate::error::{Failure, Result};
use crate::gate::{Alone, Gate, Permit, Waiting, Written, no_cluster, poll};
use crate::listen;
use crate::proto::{AssumeRoleRequest, AssumeRoleResponse, ClusterStatusResponse, StandbyStatus};

/// How many of the newest commits of each branch a read replica looks through for the write of a token.
const COMMITS_SEARCHED: usize = 1000;

/// What runs beside the listener.
pub(crate) struct Replication {
    gate: Arc<dyn Gate>,
    node: Option<Node>,
    pushing: Option<Arc<PrimaryGate>>,
}

/// A node of a cluster, and the server of its port.
struct Node {
    cluster: Cluster,
    stop: watch::Sender<bool>,
    port: JoinHandle<std::result::Result<(), tonic::transport::Error>>,
}

impl Replication {
    /// Starts what the configuration says: roles are recovered and the cluster port is served when it returns. `listener_url` is what
    /// standbys tell clients that want to write.
    pub(crate) async fn start(
        config: &Config,
        databases: &Databases,
        listener_url: String,
    ) -> Result<Replication> {
        let mut replication = match (&config.cluster, &config.replication) {
            (Some(cluster), _) => Replication::cluster(cluster, databases, listener_url).await?,
            (None, Some(config::Replication::Replica(follow))) => Replication::replica(follow, databases)?,
            (None, _) => Replication { gate: Arc::new(Alone), node: None, pushing: None },
        };
        if let Some(config::Replication::Primary(push)) = &config.replication {
            let (push, inner, databases) = (push.clone(), replication.gate, databases.clone());
            let made = tokio::task::spawn_blocking(move || PrimaryGate::new(&push, inner, &databases)).await;
            let pushing =
                made.map_err(|lost| Failure::refused(format!("replication did not start: {lost}")))?;
            let pushing = Arc::new(pushing?);
            replication.gate = pushing.clone();
            replication.pushing = Some(pushing);
        }
        Ok(replication)
    }

    fn replica(follow: &config::Follow, databases: &Databases) -> Result<Replication> {
        let replica = ReadReplica::new(ReplicaConfig {
            remote: follow.remote.clone(),
            heads: follow.heads.clone(),
            all_heads: follow.all_heads,
            force_pull: follow.force_pull,
            credentials: credentials::read()?,
            refresh: follow.refresh,
            max_staleness: follow.max_staleness,
        });
        if let Some(warning) = replica.warning() {
            tracing::warn!("{warning}");
        }
        let (follow, databases) = (follow.clone(), databases.clone());
        let gate = Arc::new(ReplicaGate {
            replica,
            follow,
            databases,
            waiting: Waiting::default(),
            runtime: Handle::current(),
        });
        Ok(Replication { gate, node: None, pushing: None })
    }

    async fn cluster(
        config: &config::Cluster,
        databases: &Databases,
        listener_url: String,
    ) -> Result<Replication> {
        let (socket, address) = listen::bind(&config.remotesapi, "cluster.remotesapi in the configuration")?;
        let standbys = config.standby_remotes.iter();
        let standbys =
            standbys.map(|standby| StandbyRemote::new(&standby.name, &standby.remote_url_template)).collect();
        let cluster = Cluster::start(
            ClusterConfig {
                bootstrap_role: match config.bootstrap_role {
                    config::Role::Primary => pleach_replication::Role::Primary,
                    config::Role::Standby => pleach_replication::Role::Standby,
                },
                bootstrap_epoch: Epoch(config.bootstrap_epoch),
                ack: config.ack,
                listener_url,
                ..ClusterConfig::new(standbys)
            },
            databases.clone(),
        )
        .await?;
        let (stop, mut stopped) = watch::channel(false);
        let incoming = TcpIncoming::from(listen::start(socket)?).with_nodelay(Some(true));
        let port = pleach_protocol::transport().add_service(cluster.service().into_server());
        let port = tokio::spawn(port.serve_with_incoming_shutdown(incoming, async move {
            // An error means that the sender is gone, which is a reason to stop as well.
            let _ = stopped.wait_for(|stop| *stop).await;
        }));
        tracing::info!("peers are served on {address}");
        let gate = Arc::new(ClusterGate { cluster: cluster.clone(), runtime: Handle::current() });
        Ok(Replication { gate, node: Some(Node { cluster, stop, port }), pushing: None })
    }

    /// Who decides about writes and roles.
    pub(crate) fn gate(&self) -> Arc<dyn Gate> {
        self.gate.clone()
    }

    /// Stops replication and lets go of all databases.
    pub(crate) async fn stop(self) {
        if let Some(pushing) = self.pushing {
            pushing.stop().await;
        }
        if let Some(Node { cluster, stop, port }) = self.node {
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
    fn after_write(&self, Written { name, database, .. }: Written<'_>) -> Result<Vec<String>> {
        let acknowledged = self.cluster.acknowledged(name, database.sequence());
        Ok(self.runtime.block_on(acknowledged)?.into_iter().collect())
    }

    fn databases_changed(&self) -> Result<()> {
        Ok(self.runtime.block_on(self.cluster.look_for_databases())?)
    }

    fn status(&self) -> Result<ClusterStatusResponse> {
        let standing = self.cluster.standing();
        let databases = self.cluster.status().into_iter().map(row).collect();
        Ok(ClusterStatusResponse {
            role: standing.role.word().to_owned(),
            epoch: standing.epoch.0,
            databases,
            warnings: self.cluster.warnings(),
        })
    }

    fn assume_role(&self, request: &AssumeRoleRequest) -> Result<AssumeRoleResponse> {
        let standing = self.runtime.block_on(self.cluster.assume_role(&request.role, request.epoch))?;
        Ok(AssumeRoleResponse { role: standing.role.word().to_owned(), epoch: standing.epoch.0 })
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
    }
}

/// The gate of a read replica: no writes, and every read is of the remote as it is now.
struct ReplicaGate {
    replica: ReadReplica,
    follow: config::Follow,
    databases: Databases,
    waiting: Waiting,
    runtime: Handle,
}

impl Gate for ReplicaGate {
    fn writable(&self) -> Result<Permit> {
        self.replica.gate()?;
        Ok(Box::new(()))
    }

    fn before_read(&self, name: &str, database: &Database) -> Result<()> {
        let _waiting = self.waiting.enter()?;
        let warnings = match self.runtime.block_on(self.replica.refresh(name, database)) {
            Ok(refreshed) => refreshed.warnings,
            Err(error) if self.follow.skip_errors => vec![error.to_string()],
            Err(error) => return Err(error.into()),
        };
        for warning in warnings {
            tracing::warn!(database = name, "{warning}");
        }
        Ok(())
    }

    /// A token of the remote names its root: it is here as some branch's work, or as what a commit holds.
    fn wait_for(&self, name: &str, database: &Database, token: &Token, limit: Duration) -> bool {
        let is_disabled = self.replica.warning().is_some();
        poll(limit, || match is_disabled {
            true => database.sequence() >= token.sequence,
            false => {
                let refreshed = self.runtime.block_on(self.replica.refresh_now(name, database));
                refreshed.is_ok() && has_root(database, &token.root).unwrap_or(false)
            }
        })
    }

    /// Clones it, if the configuration says from where. Callers at the same time clone once.
    fn obtain(&self, name: &str) -> Result<bool> {
        let Some(template) = &self.follow.template else { return Ok(false) };
        let _waiting = self.waiting.enter()?;
        check_database_name(name)?;
        let url = credentials::read()?.authorize(template.url(name).parse()?);
        let made = self.databases.create_with(name, |dir, options| {
            self.runtime.block_on(async {
                let remote = Remote::connect(&url).await?;
                let (database, _) = clone_database(&remote, dir, options, &Part::default()).await?;
                let followed = format!("remote.{}.url", self.follow.remote);
                database.set_setting(&followed, Some(&url.to_string()))?;
                Ok(database.close()?)
            })
        });
        match made {
            Ok(_) => {
                tracing::info!(database = name, "cloned from {url}");
                Ok(true)
            }
            // Somebody else was first.
            Err(pleach_protocol::Error::Exists { .. }) => Ok(true),
            // There is none there either.
            Err(error) if error.kind() == pleach_protocol::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn databases_changed(&self) -> Result<()> {
        Ok(())
    }

    fn status(&self) -> Result<ClusterStatusResponse> {
        Err(no_cluster())
    }

    fn assume_role(&self, _request: &AssumeRoleRequest) -> Result<AssumeRoleResponse> {
        Err(no_cluster())
    }
}

fn has_root(database: &Database, root: &Hash) -> Result<bool> {
    for branch in database.branches()? {
        if branch.work == *root {
            return Ok(true);
        }
        if let Some(head) = branch.head {
            for commit in database.log(&head)?.take(COMMITS_SEARCHED) {
                if commit?.1.root == *root {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}
