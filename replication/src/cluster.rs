//! A node of a cluster, whole: what an embedder starts, mounts, asks and stops. Async; everything that blocks runs on threads that may.
//!
//! ```no_run
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! use pleach_protocol::{Databases, transport};
//! use pleach_replication::{Cluster, ClusterConfig, StandbyRemote};
//! use tonic::transport::server::TcpIncoming;
//!
//! let databases = Databases::new("data".as_ref(), pleach_engine::Options::default())?;
//! let standby = StandbyRemote::new("standby", "http://127.0.0.1:50052/{database}");
//! let cluster = Cluster::start(ClusterConfig::new(vec![standby]), databases).await?;
//! let incoming = TcpIncoming::bind("127.0.0.1:50051".parse()?)?.with_nodelay(Some(true));
//! transport().add_service(cluster.service().into_server()).serve_with_incoming(incoming).await?;
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use pleach_engine::{Database, Token};
use pleach_protocol::Databases;
use tokio::sync::{mpsc, watch};

use crate::applied::Applied;
use crate::error::{Behind, Error, NotWritable, Result};
use crate::limits::{BACK_OFF, HAND_OVER, LOOK_FOR_DATABASES};
use crate::node::{Node, WritePermit};
use crate::peer::Peer;
use crate::role::{self, Epoch, Role, Standing, Transition};
use crate::role_file::RoleFile;
use crate::session;
use crate::standby::ReplicationService;
use crate::tracked::Tracked;

/// What a node of a cluster is started with.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// The other nodes, each of which this one replicates to while it is primary.
    pub standbys: Vec<StandbyRemote>,
    /// The role of a node that has none yet; a role once taken wins.
    pub bootstrap_role: Role,
    /// Its epoch.
    pub bootstrap_epoch: Epoch,
    /// Where clients reach this node, which its standbys tell them; empty if that is not to be told.
    pub listener_url: String,
    /// How long a hand-over may take.
    pub hand_over: Duration,
}

impl ClusterConfig {
    /// A primary at epoch 0 unless the node has a role already: the documented defaults.
    pub fn new(standbys: Vec<StandbyRemote>) -> ClusterConfig {
        ClusterConfig {
            standbys,
            bootstrap_role: Role::Primary,
            bootstrap_epoch: Epoch(0),
            listener_url: String::new(),
            hand_over: HAND_OVER,
        }
    }
}

/// Another node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandbyRemote {
    /// Its name in the status.
    pub name: String,
    /// Where its cluster port is: `http://HOST:PORT/{database}`.
    pub url_template: String,
}

impl StandbyRemote {
    /// The node called `name` at `url_template`.
    pub fn new(name: &str, url_template: &str) -> StandbyRemote {
        StandbyRemote { name: name.to_owned(), url_template: url_template.to_owned() }
    }
}

/// A database on a standby, as the status shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusRow {
    /// The database.
    pub database: String,
    /// Name of the standby remote.
    pub standby_remote: String,
    /// This node's role.
    pub role: Role,
    /// This node's epoch.
    pub epoch: Epoch,
    /// Milliseconds since the first change that the standby lacks: 0 if it lacks none, `None` if that is not known, as on a standby.
    pub replication_lag_millis: Option<u64>,
    /// On a primary, when the standby last acknowledged a change; on a standby, when it last heard its primary.
    pub last_update: Option<SystemTime>,
    /// What hinders replication now.
    pub current_error: Option<String>,
}

/// A node of a cluster. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    node: Arc<Node>,
    peers: Arc<[Arc<Peer>]>,
    tracked: Tracked,
    applied: Arc<Applied>,
    listener_url: String,
    hand_over: Duration,
    /// Held while a role is being assumed.
    assuming: tokio::sync::Mutex<()>,
    stop: watch::Sender<bool>,
    /// Every task and thread holds a clone; the receiver ends with the last.
    alive: Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>,
}

impl Cluster {
    /// Starts a node over `databases`: recovers its role, opens all databases, and begins to replicate if it is a primary. Tasks run on
    /// the current tokio runtime until [`Cluster::shutdown`].
    ///
    /// # Errors
    /// [`Error::BadConfig`], [`Error::DamagedRole`], those of the data directory.
    pub async fn start(config: ClusterConfig, databases: Databases) -> Result<Cluster> {
        if config.standbys.is_empty() {
            return Err(Error::BadConfig { what: "expected at least one standby remote, found none".into() });
        }
        let peers = config
            .standbys
            .iter()
            .map(|standby| Peer::new(&standby.name, &standby.url_template).map(Arc::new));
        let peers: Arc<[Arc<Peer>]> = peers.collect::<Result<Vec<_>>>()?.into();
        if let Some(twice) =
            (1..peers.len()).find(|&i| peers[..i].iter().any(|peer| peer.name() == peers[i].name()))
        {
            let what = format!("the standby remote `{}` is there twice", peers[twice].name());
            return Err(Error::BadConfig { what });
        }
        let cluster = crate::blocking(move || open(config, databases, peers)).await?;
        cluster
            .inner
            .peers
            .iter()
            .for_each(|peer| cluster.inner.spawn(lead(cluster.inner.clone(), peer.clone())));
        cluster.inner.spawn(look(cluster.inner.clone()));
        Ok(cluster)
    }

    /// The service to mount on the cluster port: `cluster.service().into_server()`.
    pub fn service(&self) -> ReplicationService {
        // After a shutdown it still answers, by refusing each stream.
        let alive = match self.inner.alive.lock().as_ref() {
            Some((alive, _)) => alive.downgrade(),
            None => mpsc::channel(1).0.downgrade(),
        };
        ReplicationService {
            node: self.inner.node.clone(),
            applied: self.inner.applied.clone(),
            alike: Arc::new(AtomicBool::new(true)),
            stop: self.inner.stop.subscribe(),
            alive,
        }
    }

    // Seeing it.

    /// Role, epoch and leader now.
    pub fn standing(&self) -> Standing {
        self.inner.node.standing()
    }

    /// The role now.
    pub fn role(&self) -> Role {
        self.standing().role
    }

    /// The epoch now.
    pub fn epoch(&self) -> Epoch {
        self.standing().epoch
    }

    /// Tells each change of the standing: sessions that were opened under another role are to be ended.
    pub fn changes(&self) -> watch::Receiver<Standing> {
        self.inner.node.changes()
    }

    /// A row for each database and standby remote, by name. Blocking: it lists the data directory.
    pub fn status(&self) -> Vec<StatusRow> {
        // What cannot be listed now is shown as it was; the log says why.
        if let Err(error) = self.inner.tracked.look() {
            tracing::warn!(%error, "the databases cannot be listed");
        }
        self.known_status()
    }

    /// [`Cluster::status`] of the databases that are known already. Never blocks.
    pub fn known_status(&self) -> Vec<StatusRow> {
        let Inner { node, peers, tracked, .. } = &*self.inner;
        let Standing { role, epoch, .. } = node.standing();
        let mut rows = Vec::new();
        for (database, _) in tracked.all() {
            for peer in peers.iter() {
                let link = peer.status(&database);
                let (lag, last_update, error) = match role {
                    Role::Primary => (link.lag_millis, link.last_update, link.error),
                    Role::Standby => (None, node.heard(), None),
                    Role::DetectedBrokenConfig => {
                        (None, link.last_update, Some(NotWritable::BrokenConfig { epoch }.to_string()))
                    }
                };
                rows.push(StatusRow {
                    database: database.clone(),
                    standby_remote: peer.name().to_owned(),
                    role,
                    epoch,
                    replication_lag_millis: lag,
                    last_update,
                    current_error: error,
                });
            }
        }
        rows
    }

    // Writing and reading.

    /// Asked before any write, push included. The permit is held until the write has returned: a hand-over waits for it.
    ///
    /// # Errors
    /// Why this node takes no writes now.
    pub fn gate(&self) -> Result<WritePermit, NotWritable> {
        self.inner.node.admit()
    }

    /// Takes up databases that were made, and leaves those that were dropped, at once; without this call that happens within a second.
    pub async fn look_for_databases(&self) -> Result<()> {
        let inner = self.inner.clone();
        crate::blocking(move || inner.tracked.look()).await
    }

    /// Waits until `database` shows the write that `token` names; false if it does not within `limit`.
    pub async fn wait_for(&self, name: &str, database: &Database, token: &Token, limit: Duration) -> bool {
        let mut moves = self.inner.applied.moves();
        let seen = async {
            while !self.inner.shows(name, database, token) {
                if moves.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(limit, seen).await.is_ok()
    }

    /// Waits until every standby has everything that is here now; on a standby, for ever.
    pub async fn caught_up(&self) {
        self.inner.caught_up().await;
    }

    // Roles.

    /// Assumes `role` (`primary` or `standby`) at `epoch`. The role is in force and durable when it returns. A primary that becomes a
    /// standby first refuses writes and waits until every standby has everything.
    ///
    /// # Errors
    /// [`Error::Refused`]; [`Error::NotCaughtUp`] and [`Error::StillWriting`] after [`ClusterConfig::hand_over`], the node then being
    /// what it was, writable; [`Error::Overtaken`]; [`Error::Busy`].
    pub async fn assume_role(&self, role: &str, epoch: u64) -> Result<Standing> {
        let (inner, role) = (self.inner.clone(), role.parse()?);
        // Runs to its end even if the caller goes away.
        match tokio::spawn(async move { inner.assume(role, Epoch(epoch)).await }).await {
            Ok(result) => result,
            Err(lost) => Err(Error::Lost { what: lost.to_string() }),
        }
    }

    /// Stops replication, in both directions, and lets go of all databases, so that they can be closed. The role stays.
    pub async fn shutdown(&self) {
        self.inner.stop.send_replace(true);
        let alive = self.inner.alive.lock().take();
        if let Some((own, mut others)) = alive {
            drop(own);
            // Nobody sends; it ends with the last task and thread.
            let _ = others.recv().await;
        }
        self.inner.tracked.clear();
    }
}

fn open(config: ClusterConfig, databases: Databases, peers: Arc<[Arc<Peer>]>) -> Result<Cluster> {
    let (role, epoch) = (config.bootstrap_role, config.bootstrap_epoch);
    let bootstrap = |id| Standing { role, epoch, leader: (role == Role::Primary).then_some(id) };
    let (file, standing) = RoleFile::open(databases.data_dir(), bootstrap)?;
    let node = Arc::new(Node::new(file, standing, databases));
    tracing::info!(node = %node.id(), %standing, "this node of the cluster starts");
    let tracked = Tracked::new(node.clone(), peers.clone());
    tracked.look()?;
    let inner = Inner {
        node,
        peers,
        tracked,
        applied: Arc::new(Applied::new()),
        listener_url: config.listener_url,
        hand_over: config.hand_over,
        assuming: tokio::sync::Mutex::new(()),
        stop: watch::Sender::new(false),
        alive: Mutex::new(Some(mpsc::channel(1))),
    };
    Ok(Cluster { inner: Arc::new(inner) })
}

impl Inner {
    /// Runs `task` until the node is shut down.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut stop = self.stop.subscribe();
        let alive = self.alive.lock().as_ref().map(|(alive, _)| alive.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = task => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
            drop(alive);
        });
    }

    /// Whether `database` shows the write that `token` names.
    fn shows(&self, name: &str, database: &Database, token: &Token) -> bool {
        let Standing { role, epoch, .. } = self.node.standing();
        let own = role == Role::Primary && token.epoch == epoch.0 && database.sequence() >= token.sequence;
        own || self.applied.covers(name, token)
            || database.refs("work/").iter().any(|(_, root)| *root == token.root)
    }

    fn behind(&self) -> Vec<Behind> {
        let tracked = self.tracked.all();
        let links = tracked
            .iter()
            .flat_map(|(name, database)| self.peers.iter().map(move |peer| (name, database, peer)));
        links.filter_map(|(name, database, peer)| peer.behind(name, database.sequence())).collect()
    }

    async fn caught_up(&self) {
        for peer in self.peers.iter() {
            let mut progress = peer.progress();
            let behind =
                || self.tracked.all().iter().any(|(name, db)| peer.behind(name, db.sequence()).is_some());
            while behind() {
                // The sender lives as long as the peer.
                let _ = progress.changed().await;
            }
        }
    }

    async fn assume(self: Arc<Inner>, role: Role, epoch: Epoch) -> Result<Standing> {
        let Ok(_assuming) = self.assuming.try_lock() else { return Err(Error::Busy) };
        let current = self.node.standing();
        let next = match role::assume(self.node.id(), &current, role, epoch)? {
            Transition::Nothing => return Ok(current),
            Transition::Take(next) => self.clone().take(current, next).await?,
            Transition::Raise(next) => {
                self.note_own_writes(&current);
                self.clone().take(current, next).await?
            }
            Transition::HandOver(next) => self.clone().hand_over(current, next).await?,
        };
        Ok(next)
    }

    async fn take(self: Arc<Inner>, current: Standing, next: Standing) -> Result<Standing> {
        let node = self.node.clone();
        match crate::blocking(move || node.take(&current, next)).await? {
            true => Ok(next),
            false => Err(Error::Overtaken { standing: self.node.standing() }),
        }
    }

    /// Hands over: no more writes, everything on every standby, and only then the new standing.
    async fn hand_over(self: Arc<Inner>, current: Standing, next: Standing) -> Result<Standing> {
        let Some(handing_over) = self.node.hand_over() else { return Err(Error::Busy) };
        let seconds = self.hand_over.as_secs_f64();
        let inner = self.clone();
        let everything = async {
            inner.node.idle().await;
            let look = inner.clone();
            crate::blocking(move || look.tracked.look()).await?;
            // An acknowledgement from before says nothing of a standby that has died since: each is asked again.
            inner.peers.iter().for_each(|peer| {
                peer.doubt();
                peer.kick();
            });
            inner.caught_up().await;
            Ok::<_, Error>(())
        };
        tokio::select! {
            done = tokio::time::timeout(self.hand_over, everything) => match done {
                Ok(done) => done?,
                Err(_) if self.node.writes() > 0 => {
                    return Err(Error::StillWriting { standing: current, seconds, writes: self.node.writes() });
                }
                Err(_) => return Err(Error::NotCaughtUp { standing: current, seconds, behind: self.behind() }),
            },
            () = self.node.left(current) => return Err(Error::Overtaken { standing: self.node.standing() }),
        }
        self.note_own_writes(&current);
        let standing = self.clone().take(current, next).await?;
        drop(handing_over);
        Ok(standing)
    }

    /// What this node wrote as primary of an epoch that it leaves stays here: tokens of that epoch are covered.
    fn note_own_writes(&self, current: &Standing) {
        if current.role == Role::Primary {
            for (name, database) in self.tracked.all() {
                self.applied.note(&name, current.epoch.0, database.sequence());
            }
        }
    }
}

/// Leads one standby whenever this node is primary.
async fn lead(inner: Arc<Inner>, peer: Arc<Peer>) {
    let (node, mut standings) = (&inner.node, inner.node.changes());
    loop {
        // The sender lives as long as the node.
        let standing = match standings.wait_for(|standing| standing.role == Role::Primary).await {
            Ok(standing) => *standing,
            Err(_) => return,
        };
        peer.reset();
        tokio::select! {
            () = lead_in(&inner, &peer, standing) => {}
            () = node.left(standing) => {}
        }
        peer.let_go();
    }
}

/// Leads one standby, connecting again and again.
async fn lead_in(inner: &Inner, peer: &Peer, standing: Standing) {
    let mut pause = BACK_OFF.0;
    loop {
        let progress = peer.progress();
        let error = session::run(&inner.node, peer, &inner.tracked, standing, &inner.listener_url).await;
        tracing::warn!(standby = peer.name(), %error, "replication to a standby was interrupted");
        peer.failed(&error);
        let came_on = progress.has_changed().unwrap_or(false);
        pause = if came_on { BACK_OFF.0 } else { (pause * 2).min(BACK_OFF.1) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = peer.kicked() => {}
        }
    }
}

/// Looks for databases that were made or dropped.
async fn look(inner: Arc<Inner>) {
    let mut interval = tokio::time::interval(LOOK_FOR_DATABASES);
    loop {
        interval.tick().await;
        let looking = inner.clone();
        if let Err(error) = crate::blocking(move || looking.tracked.look()).await {
            tracing::error!(%error, "cannot look for databases");
        }
    }
}
