//! Does what [`election`](crate::cluster::election) says: asks the provider of the lease, renews it, has this node asked to be primary, and closes it for writes before the lease is
//! over. Called by `cluster`, which holds one if an election is configured.

use std::time::Duration;

use parking_lot::Mutex;
use pleach_engine::Database;
use pleach_protocol::ClientTls;
use tokio::sync::watch;

use crate::cluster::applied::Position;
use crate::cluster::election::{Act, Election, Me, Rules};
use crate::cluster::history::HistoryCause;
use crate::cluster::lease::etcd::Etcd;
use crate::cluster::lease::objects::ObjectLease;
use crate::cluster::lease::{Lease, LeaseProvider, Observed, clock};
use crate::cluster::register;
use crate::cluster::role::{Role, Writes};
use crate::cluster::{Cluster, RoleRequest};
use crate::error::{Error, Result};
use crate::limits::LEASE_POLL;

/// How a cluster elects its primary. The same on every node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElectionConfig {
    /// Where the lease is.
    pub provider: ElectionProvider,
    /// How long it lasts: without its primary, a cluster is without one for about so long.
    pub lease: Duration,
}

/// Where a lease is had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElectionProvider {
    /// In etcd.
    Etcd {
        /// `http://HOST:PORT` or `https://HOST:PORT`, any of which will do.
        endpoints: Vec<String>,
        /// What its keys begin with, one for each cluster.
        prefix: String,
        /// Whom to trust, and what to show, by `https`.
        tls: ClientTls,
    },
    /// In a bucket or directory, that is one for each cluster.
    ObjectStore {
        /// Its URL, as that of a remote.
        url: String,
    },
}

impl ElectionProvider {
    fn word(&self) -> &'static str {
        match self {
            ElectionProvider::Etcd { .. } => "etcd",
            ElectionProvider::ObjectStore { .. } => "object_store",
        }
    }
}

/// What there is to see of an election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElectionStatus {
    /// `etcd` or `object_store`.
    pub provider: &'static str,
    /// Until when this node may write: that is to come.
    pub held: bool,
    /// The node that holds the lease, if one does and that is known.
    pub holder: Option<String>,
    /// What hinders it.
    pub error: Option<String>,
}

/// The election of a node.
pub(crate) struct Elector {
    config: ElectionConfig,
    provider: Box<dyn LeaseProvider>,
    /// In which epoch this node may write, and until when.
    may_write: Mutex<Option<(u64, Duration)>>,
    /// Who holds the lease, and what hindered the last request.
    seen: Mutex<(Option<String>, Option<String>)>,
    stop: watch::Sender<bool>,
}

impl Elector {
    pub(crate) async fn new(config: ElectionConfig) -> Result<Elector> {
        let bad = |what: String| Error::BadConfig { what: format!("election: {what}") };
        let provider: Box<dyn LeaseProvider> = match config.provider.clone() {
            ElectionProvider::Etcd { endpoints, .. } if endpoints.is_empty() => {
                return Err(bad("expected at least one endpoint of etcd, found none".into()));
            }
            ElectionProvider::Etcd { endpoints, prefix, tls } => {
                Box::new(Etcd::new(endpoints, &prefix, config.lease, tls))
            }
            ElectionProvider::ObjectStore { url } => {
                Box::new(ObjectLease::open(&url, config.lease).await.map_err(bad)?)
            }
        };
        let (may_write, seen) = (Mutex::default(), Mutex::default());
        Ok(Elector { config, provider, may_write, seen, stop: watch::Sender::new(false) })
    }

    /// Whether a write of `epoch` may be admitted, or acknowledged, now.
    pub(crate) fn allows(&self, epoch: u64) -> bool {
        self.may_write.lock().is_some_and(|(fence, until)| fence == epoch && clock() < until)
    }

    pub(crate) fn status(&self) -> ElectionStatus {
        let held = self.may_write.lock().is_some_and(|(_, until)| clock() < until);
        let (holder, error) = self.seen.lock().clone();
        ElectionStatus { provider: self.config.provider.word(), held, holder, error }
    }

    /// Has [`Elector::run`] hand over, give up the lease, and end.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits for an answer of the provider, as long as that is of use.
    async fn ask<T>(&self, request: impl Future<Output = Result<T, String>>) -> Option<T> {
        let limit = self.config.lease / 4;
        let answer = tokio::time::timeout(limit, request).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")));
        let (answer, error) = match answer {
            Ok(answer) => (Some(answer), None),
            Err(error) => (None, Some(error)),
        };
        let before = std::mem::replace(&mut self.seen.lock().1, error.clone());
        match (error, before) {
            (Some(error), None) => tracing::error!(%error, "the lease of the election cannot be had"),
            (None, Some(_)) => tracing::info!("the lease of the election can be had again"),
            _ => {}
        }
        answer
    }

    /// Takes part in the election, until [`Elector::stop`].
    pub(crate) async fn run(&self, cluster: Cluster, nodes: usize) {
        cluster.heard().await;
        let node = cluster.id().to_string();
        let rules = Rules { node: node.clone(), nodes, lease: self.config.lease };
        let mut election = Election::new(rules);
        let mut lease: Option<Lease> = None;
        let mut stop = self.stop.subscribe();
        while !*stop.borrow() {
            let observed = self.ask(self.provider.observe()).await;
            self.seen.lock().0 = observed.as_ref().and_then(|Observed { holder, .. }| holder.clone());
            let me = me(&cluster, election.fence().is_none()).await;
            let act = election.step(clock(), &me, observed.as_ref());
            self.allow(&election);
            let acted = act.is_some();
            match act {
                Some(Act::Stand(candidate)) => {
                    self.ask(self.provider.stand(&candidate)).await;
                }
                Some(Act::Acquire { above }) => {
                    let sent = clock();
                    lease = self.ask(self.provider.acquire(&node, above)).await.flatten();
                    if let Some(Lease { fence, .. }) = lease {
                        tracing::warn!(fence, "this node holds the lease, and is to be primary");
                        election.acquired(sent, fence);
                        assume(cluster.clone(), fence);
                    }
                }
                Some(Act::Renew) => {
                    let sent = clock();
                    if let Some(lease) = &lease
                        && let Some(is_held) = self.ask(self.provider.renew(lease)).await
                    {
                        if !is_held {
                            tracing::error!("this node has lost the lease, and takes no writes");
                        }
                        election.renewed(sent, is_held);
                    }
                }
                Some(Act::Release { floor }) => {
                    tracing::warn!(floor, "this node gives up the lease");
                    if let Some(lease) = lease.take() {
                        self.ask(self.provider.release(&lease, floor)).await;
                    }
                }
                None => {}
            }
            self.allow(&election);
            let poll = (self.config.lease / 10).clamp(LEASE_POLL.0, LEASE_POLL.1);
            // What was done shows at once.
            let pause = if acted { LEASE_POLL.0 } else { poll };
            let _ = tokio::time::timeout(pause, stop.wait_for(|stop| *stop)).await;
        }
        if let Some(lease) = lease.filter(|lease| election.fence() == Some(lease.fence)) {
            self.resign(&cluster, &lease).await;
        }
    }

    fn allow(&self, election: &Election) {
        *self.may_write.lock() = election.may_write();
    }

    /// Hands over, if there is somebody to hand over to, and gives up the lease.
    async fn resign(&self, cluster: &Cluster, lease: &Lease) {
        let standing = cluster.standing();
        let mut floor = standing.epoch.0;
        if standing.role == Role::Primary {
            let least = Some(cluster.least_caught_up());
            let request = RoleRequest {
                role: Role::Standby.word().to_owned(),
                epoch: floor + 1,
                min_caught_up: least,
                by: String::new(),
            };
            match cluster.take_role_for(request, HistoryCause::Election).await {
                Ok(taken) => floor = taken.standing.epoch.0,
                Err(error) => tracing::warn!(%error, "this node stops without handing over"),
            }
        }
        *self.may_write.lock() = None;
        self.ask(self.provider.release(lease, floor)).await;
    }
}

/// Asks this node to be primary, as an operator would.
fn assume(cluster: Cluster, epoch: u64) {
    tokio::spawn(async move {
        let request = RoleRequest {
            role: Role::Primary.word().to_owned(),
            epoch,
            min_caught_up: None,
            by: String::new(),
        };
        if let Err(error) = cluster.take_role_for(request, HistoryCause::Election).await {
            tracing::warn!(%error, "this node holds the lease, and does not lead");
        }
    });
}

/// What this node is; what it has is looked up if it may be told.
async fn me(cluster: &Cluster, with_positions: bool) -> Me {
    let state = cluster.state();
    let may_stand = match &state.writes {
        Writes::Claiming { .. } => !state.gets_back(),
        Writes::HandingOver { .. } => false,
        Writes::Open | Writes::No => state.standing.role != Role::DetectedBrokenConfig,
    };
    let mut me = Me {
        role: state.standing.role,
        epoch: state.standing.epoch.0,
        leads: state.leads(),
        may_stand,
        has: (0, 0),
    };
    if with_positions && may_stand {
        let databases = cluster.databases();
        let positions = crate::blocking(move || {
            let register =
                databases.iter().find(|(name, _)| name == register::NAME).map(|(_, register)| register);
            let position = |(name, database): &(String, Database)| {
                // What is left of one that was dropped counts for nothing.
                Ok(match register::is_gone_copy(register, name, database)? {
                    true => None,
                    false => Position::of(database, &state)?,
                })
            };
            databases.iter().map(position).collect::<Result<Vec<_>>>()
        });
        match positions.await {
            Ok(positions) => {
                let epoch = positions.iter().flatten().map(|position| position.epoch).max().unwrap_or(0);
                let of_it = positions.iter().flatten().filter(|position| position.epoch == epoch);
                me.has = (epoch, of_it.map(|position| position.sequence).sum());
            }
            Err(error) => {
                tracing::error!(%error, "this node does not stand: how far it has come is not known");
                me.may_stand = false;
            }
        }
    }
    me
}
