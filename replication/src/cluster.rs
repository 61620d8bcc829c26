//! A node of a cluster, whole: what an embedder starts, mounts, asks and stops. Async; everything that blocks runs on threads that may.
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
//! transport().accept_http1(true).add_routes(cluster.routes()).serve_with_incoming(incoming).await?;
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use pleach_engine::{Database, Hash, Token};
use pleach_protocol::{ClientTls, Databases};
use tokio::sync::{mpsc, watch};
use tonic::service::Routes;

use crate::error::{Behind, Error, NotWritable, Result};
use crate::limits::{HAND_OVER, HEAR, STANDBY_PIN_MAX};
use crate::shared_refs;

mod ack;
mod applied;
pub mod auth;
mod change;
mod election;
mod elector;
mod history;
mod lease;
mod node;
mod peer;
pub mod proto;
mod register;
pub mod role;
mod role_file;
mod roles;
mod session;
pub(crate) mod standby;
mod tasks;
mod tracked;

use applied::{Applied, Position};
use auth::{Auth, JWKS_PATH};
use elector::Elector;
use node::Node;
use peer::{LinkStatus, Measured, Peer};
use role::{Input, Quorum, State, Writes};
use role_file::{Record, RoleFile};
use session::Greeting;
use standby::ReplicationService;
use tracked::Tracked;

pub use ack::{AckCount, AckLevel, AckPolicy, OnTimeout};
pub use auth::{Fingerprint, NodeKey};
pub use elector::{ElectionConfig, ElectionProvider, ElectionStatus};
pub use history::{HistoryCause, HistoryEntry, HistoryEvent, RoleAt, RoleChanges};
pub use node::WritePermit;
pub use role::{Alarm, Epoch, NodeId, Refusal, Role, Standing};
pub use roles::{CaughtUp, RoleRequest, Taken, Tenure, TenureOver};

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
    /// When a write is acknowledged. The same on every node: it says how many of them must agree with a new primary.
    pub ack: AckPolicy,
    /// How the primary is elected; `None`: an operator says who it is.
    pub election: Option<ElectionConfig>,
    /// File of this node's key, which is made if it is not there; `None`: `node.pem` in the data directory.
    pub node_key: Option<PathBuf>,
    /// Standbys drop what this node drops while it is primary, and this one drops what its primary does.
    pub replicate_drops: bool,
    /// While it is a standby, this node sends what it applied to its standbys.
    pub cascade: bool,
    /// Bytes that are kept of a database for one standby which is away, and that nothing else needs.
    pub standby_pin_max: u64,
    /// For peers whose URL begins with `https`: whom to trust, and what to show.
    pub tls: ClientTls,
}

impl ClusterConfig {
    /// A primary at epoch 0 unless the node has a role already, whose writes wait for nobody: the documented defaults.
    pub fn new(standbys: Vec<StandbyRemote>) -> ClusterConfig {
        ClusterConfig {
            standbys,
            bootstrap_role: Role::Primary,
            bootstrap_epoch: Epoch(0),
            listener_url: String::new(),
            hand_over: HAND_OVER,
            ack: AckPolicy::default(),
            replicate_drops: true,
            election: None,
            cascade: false,
            standby_pin_max: STANDBY_PIN_MAX,
            node_key: None,
            tls: ClientTls::default(),
        }
    }
}

/// Another node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandbyRemote {
    /// Its name in the status.
    pub name: String,
    /// Where its cluster port is: `http://HOST:PORT/{database}`, or `https`.
    pub url_template: String,
    /// Its key, and no other; `None`: the keys that it publishes, whichever they are.
    pub fingerprint: Option<Fingerprint>,
}

impl StandbyRemote {
    /// The node called `name` at `url_template`, which is trusted by the keys that it publishes.
    pub fn new(name: &str, url_template: &str) -> StandbyRemote {
        StandbyRemote { name: name.to_owned(), url_template: url_template.to_owned(), fingerprint: None }
    }

    /// The same, with this key and no other.
    #[must_use]
    pub fn pinned(self, fingerprint: Fingerprint) -> StandbyRemote {
        StandbyRemote { fingerprint: Some(fingerprint), ..self }
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
    /// Why this node sends nothing there, though nothing is wrong: changes come there, or from there, by another way.
    pub note: Option<String>,
    /// Bytes that are kept for the standby and nothing else needs, when that was last measured; 0 while it has everything.
    pub pinned_bytes: u64,
    /// The number of the last change of the database here.
    pub sequence: u64,
    /// Of the last one that was sent to the standby; `None`, as in those below, if that is not known, as on a standby.
    pub sent: Option<u64>,
    /// Of the last one that has arrived there whole.
    pub received: Option<u64>,
    /// Of the last one that is durable there, and visible to readers.
    pub durable: Option<u64>,
    /// Bytes of messages that the standby lacks: 0 if it lacks nothing, `None` if that was not measured yet.
    pub backlog_bytes: Option<u64>,
    /// How often a stream to the standby ended, or did not come about, since this node last began to lead.
    pub retries: u64,
}

/// What a standby costs that has `roots` of `database`, and nothing later, of which no more than `max` is kept.
fn measured(database: &Database, roots: &[Hash], sequence: u64, max: u64) -> Result<Measured> {
    let began = Instant::now();
    let kept = shared_refs::bytes_beyond(database, roots, max)?;
    let targets: Vec<Hash> = shared_refs::read(database).into_values().collect();
    let lacks = shared_refs::bytes_to_send(database, targets, roots, true)?;
    Ok(Measured { sequence, kept, lacks, took: began.elapsed() })
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
    greeting: Greeting,
    /// This node has heard its standbys, or waited for it.
    heard: watch::Sender<bool>,
    hand_over: Duration,
    cascade: bool,
    standby_pin_max: u64,
    ack: AckPolicy,
    /// Counts what arrived or became durable at standbys.
    acks: watch::Sender<u64>,
    /// Writes that succeeded with a warning, and that fewer standbys had than must.
    unacknowledged: AtomicU64,
    /// Held while a role is being assumed.
    assuming: tokio::sync::Mutex<()>,
    /// Counts hand-overs that began.
    hand_overs: watch::Sender<u64>,
    elector: Option<Arc<Elector>>,
    /// Ends with the election.
    electing: Mutex<Option<tokio::task::JoinHandle<()>>>,
    stop: watch::Sender<bool>,
    /// Every task and thread holds a clone; the receiver ends with the last.
    alive: Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>,
}

impl Cluster {
    /// Starts a node over `databases`: recovers its role, opens all databases, and begins to replicate if it is a primary. Tasks run on
    /// the current tokio runtime until [`Cluster::shutdown`].
    ///
    /// A primary that restarts hears its standbys first, for a moment ([`Cluster::heard`]): if one has writes that were lost here, it takes
    /// none.
    ///
    /// # Errors
    /// [`Error::BadConfig`], [`Error::DamagedRole`], [`Error::BadKey`], those of the data directory.
    pub async fn start(config: ClusterConfig, databases: Databases) -> Result<Cluster> {
        if config.standbys.is_empty() {
            return Err(Error::BadConfig { what: "expected at least one standby remote, found none".into() });
        }
        if let AckCount::Number(count) = config.ack.count
            && count > config.standbys.len()
        {
            let found = config.standbys.len();
            let what =
                format!("ack.count: expected at most {found}, as many as there are standbys, found {count}");
            return Err(Error::BadConfig { what });
        }
        let (acks, news) = (watch::Sender::new(0), watch::Sender::new(0));
        let peers = config
            .standbys
            .iter()
            .map(|standby| Peer::new(standby, config.tls.clone(), acks.clone(), news.clone()).map(Arc::new));
        let peers: Arc<[Arc<Peer>]> = peers.collect::<Result<Vec<_>>>()?.into();
        if let Some(twice) =
            (1..peers.len()).find(|&i| peers[..i].iter().any(|peer| peer.name() == peers[i].name()))
        {
            let what = format!("the standby remote `{}` is there twice", peers[twice].name());
            return Err(Error::BadConfig { what });
        }
        let elector = match config.election.clone() {
            Some(election) => Some(Arc::new(Elector::new(election).await?)),
            None => None,
        };
        let opened = crate::blocking(move || open(config, databases, peers, acks, news, elector));
        let cluster = opened.await?;
        let inner = &cluster.inner;
        if let Some(elector) = inner.elector.clone() {
            let (electing, nodes) = (cluster.clone(), inner.peers.len() + 1);
            let task = tokio::spawn(async move { elector.run(electing, nodes).await });
            *inner.electing.lock() = Some(task);
        }
        for peer in inner.peers.iter() {
            inner.spawn(tasks::lead(inner.clone(), peer.clone()));
            inner.spawn(tasks::keep_keys(peer.clone()));
        }
        inner.spawn(tasks::look(inner.clone()));
        inner.spawn(tasks::measure(inner.clone()));
        inner.spawn(tasks::hear(inner.clone()));
        Ok(cluster)
    }

    /// What the cluster port serves: Replicate, and the keys of this node. By HTTP/2, and without TLS by HTTP/1.1 as well, for whoever
    /// looks at the keys; with TLS not so, as a client would then not hear that its certificate is refused.
    pub fn routes(&self) -> Routes {
        let jwks = self.inner.greeting.auth.jwks();
        let publish = || async move { ([(axum::http::header::CONTENT_TYPE, "application/json")], jwks) };
        let router = Routes::new(self.service().into_server()).into_axum_router();
        router.route(JWKS_PATH, axum::routing::get(publish)).into()
    }

    /// Returns once this node, if it is a primary that restarted, has heard its standbys, or has waited for that. Its port must be served.
    /// What a standby gives back by then goes on to come back; until it is here, this node takes no writes.
    pub async fn heard(&self) {
        // The sender lives as long as the node.
        let _ = self.inner.heard.subscribe().wait_for(|heard| *heard).await;
    }

    fn service(&self) -> ReplicationService {
        // After a shutdown it still answers, by refusing each stream.
        let alive = match self.inner.alive.lock().as_ref() {
            Some((alive, _)) => alive.downgrade(),
            None => mpsc::channel(1).0.downgrade(),
        };
        ReplicationService {
            node: self.inner.node.clone(),
            auth: self.inner.greeting.auth.clone(),
            applied: self.inner.applied.clone(),
            alike: Arc::new(AtomicBool::new(true)),
            stop: self.inner.stop.subscribe(),
            alive,
        }
    }

    // Seeing it.

    /// What other nodes know this one by.
    pub fn fingerprint(&self) -> Fingerprint {
        self.inner.greeting.auth.fingerprint()
    }

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

    /// Who this node is.
    pub fn id(&self) -> NodeId {
        self.inner.node.id()
    }

    /// How the election stands; `None` if there is none.
    pub fn election(&self) -> Option<ElectionStatus> {
        self.inner.elector.as_ref().map(|elector| elector.status())
    }

    pub(crate) fn state(&self) -> State {
        self.inner.node.state()
    }

    pub(crate) fn databases(&self) -> Vec<(String, Database)> {
        self.inner.tracked.all()
    }

    /// As few standbys as a primary may hand over to.
    pub(crate) fn least_caught_up(&self) -> usize {
        self.inner.least_caught_up()
    }

    /// Whether it takes writes now.
    pub fn takes_writes(&self) -> bool {
        self.gate().is_ok()
    }

    /// By database, one hash of its branches, tags and works, which is the same on two nodes if and only if they are. Blocking.
    pub fn roots(&self) -> BTreeMap<String, Hash> {
        self.inner.node.roots()
    }

    /// What became of this node, oldest first, and what is wrong with the files that tell it. Blocking.
    pub fn history(&self) -> (Vec<HistoryEntry>, Vec<String>) {
        self.inner.node.history().read()
    }

    /// How often its role changed, and when it did last.
    pub fn role_changes(&self) -> RoleChanges {
        self.inner.node.history().changes()
    }

    /// Tells each change of the standing.
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
        let Inner { node, peers, tracked, cascade, .. } = &*self.inner;
        let Standing { role, epoch, .. } = node.standing();
        let alarm = node.alarm().map(|alarm| alarm.to_string());
        let mut rows = Vec::new();
        for (database, handle) in tracked.all().into_iter().filter(|(name, _)| name != register::NAME) {
            let sequence = handle.sequence();
            for peer in peers.iter() {
                let link = peer.status(&database, sequence);
                let link = match role {
                    Role::Primary => LinkStatus { note: None, ..link },
                    Role::Standby if *cascade => {
                        LinkStatus { last_update: link.last_update.or_else(|| node.heard()), ..link }
                    }
                    Role::Standby => LinkStatus { last_update: node.heard(), ..LinkStatus::default() },
                    Role::DetectedBrokenConfig => LinkStatus {
                        last_update: link.last_update,
                        error: Some(NotWritable::BrokenConfig { epoch }.to_string()),
                        ..LinkStatus::default()
                    },
                };
                rows.push(StatusRow {
                    database: database.clone(),
                    standby_remote: peer.name().to_owned(),
                    role,
                    epoch,
                    replication_lag_millis: link.lag_millis,
                    last_update: link.last_update,
                    current_error: link.error.or_else(|| alarm.clone()),
                    note: link.note,
                    pinned_bytes: link.pinned_bytes,
                    sequence,
                    sent: link.sent,
                    received: link.received,
                    durable: link.durable,
                    backlog_bytes: link.backlog_bytes,
                    retries: link.retries,
                });
            }
        }
        rows
    }

    /// What a person should know of this node, beyond the rows of [`Cluster::status`]: how acknowledged writes can be lost, what it
    /// found wrong, and what it keeps of databases that were dropped. Blocking: it looks into the data directory.
    pub fn warnings(&self) -> Vec<String> {
        let Inner { node, ack, unacknowledged, .. } = &*self.inner;
        let mut warnings: Vec<String> = ack.risk().map(str::to_owned).into_iter().collect();
        match unacknowledged.load(Ordering::Relaxed) {
            0 => {}
            1 => {
                warnings.push("1 write succeeded since the start that not enough standbys had in time".into())
            }
            writes => warnings.push(format!(
                "{writes} writes succeeded since the start that not enough standbys had in time"
            )),
        }
        if let Writes::Claiming { .. } = node.state().writes
            && let Err(why) = self.inner.admit()
        {
            warnings.push(why.to_string());
        }
        warnings.extend(node.alarm().as_ref().map(Alarm::to_string));
        for (database, handle) in self.inner.tracked.all() {
            let sequence = handle.sequence();
            let let_go = self.inner.peers.iter().filter(|peer| peer.status(&database, sequence).is_let_go);
            warnings.extend(let_go.map(|peer| let_go_of(peer, &database, self.inner.standby_pin_max)));
        }
        warnings.extend(set_aside(node.databases().data_dir()));
        let trusted_by_url = self.inner.peers.iter().filter(|peer| !peer.keys().is_pinned());
        warnings.extend(trusted_by_url.map(|peer| unpinned(peer)));
        warnings
    }

    // What concerns all databases.

    /// Notes that the database called `name` is about to be dropped, so that standbys drop it, too. Durable when it returns: whatever happens
    /// then, it will be gone. The caller holds a permit to write.
    pub async fn dropping(&self, name: &str) -> Result<()> {
        let (inner, name) = (self.inner.clone(), name.to_owned());
        crate::blocking(move || {
            let Some(database) = inner.node.databases().get(&name)? else { return Ok(()) };
            let everywhere = inner.node.replicates_drops();
            let register = inner.node.create(register::NAME)?;
            let noted =
                inner.tracked.leave(&name, || register::note_drop(&register, &name, &database, everywhere));
            drop(database);
            noted.and(inner.tracked.look())
        })
        .await
    }

    /// A database whose drop was noted could not be removed: it goes on, and comes to standbys anew.
    pub async fn not_dropped(&self, name: &str) -> Result<()> {
        let (inner, name) = (self.inner.clone(), name.to_owned());
        crate::blocking(move || {
            register::undo_drop(&inner.node, &name)?;
            inner.tracked.look()
        })
        .await
    }

    /// Waits until as many standbys as the policy says have what was noted last, as [`Cluster::acknowledged`].
    ///
    /// # Errors
    /// [`Error::Unacknowledged`].
    pub async fn noted(&self) -> Result<Option<String>> {
        match self.inner.tracked.get(register::NAME) {
            Some(register) => self.inner.acknowledged(register::NAME, register.sequence()).await,
            None => Ok(None),
        }
    }

    /// Has standbys know the document `name`. False if this node takes no writes at this moment; then nothing happens.
    pub async fn publish(&self, name: &str, content: Vec<u8>) -> Result<bool> {
        let (cluster, name) = (self.clone(), name.to_owned());
        crate::blocking(move || {
            let Ok(_permit) = cluster.gate() else { return Ok(false) };
            let inner = &cluster.inner;
            register::publish(&inner.node.create(register::NAME)?, &name, &content)?;
            inner.tracked.look()?;
            Ok(true)
        })
        .await
    }

    /// The document `name` as a primary published it last, as far as this node knows; `None` if none did.
    pub async fn published(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let (inner, name) = (self.inner.clone(), name.to_owned());
        crate::blocking(move || match inner.node.database(register::NAME)? {
            Some(register) => register::document(&register, &name),
            None => Ok(None),
        })
        .await
    }

    /// Counts the times that documents, or what was dropped, may have changed by a primary's doing.
    pub fn published_changes(&self) -> watch::Receiver<u64> {
        self.inner.node.register_changes().subscribe()
    }

    /// Tells whether this node takes writes and sends them to its standbys.
    pub fn leads(&self) -> watch::Receiver<bool> {
        self.inner.node.leads()
    }

    // Writing and reading.

    /// Waits until as many standbys have the write as the policy says; `sequence` is that of `database` after it. Gives a warning if they
    /// do not have it in time, and the policy takes that for success.
    ///
    /// # Errors
    /// [`Error::Unacknowledged`]: the write is durable here, and whether it stays is open.
    pub async fn acknowledged(&self, database: &str, sequence: u64) -> Result<Option<String>> {
        self.inner.acknowledged(database, sequence).await
    }

    /// Asked before any write, push included. The permit is held until the write has returned: a hand-over waits for it.
    ///
    /// # Errors
    /// Why this node takes no writes now.
    pub fn gate(&self) -> Result<WritePermit, NotWritable> {
        let permit = self.inner.admit()?;
        self.inner.leased()?;
        Ok(permit)
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

    /// Stops replication, in both directions, and lets go of all databases, so that they can be closed. The role stays; but a primary that was elected hands over
    /// first, if it can, so that another one is elected at once.
    pub async fn shutdown(&self) {
        let electing = self.inner.electing.lock().take();
        if let (Some(elector), Some(electing)) = (&self.inner.elector, electing) {
            elector.stop();
            // It says in the log what went wrong.
            let _ = electing.await;
        }
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

fn let_go_of(peer: &Peer, database: &str, max: u64) -> String {
    format!(
        "what standby `{}` had of `{database}` is not kept any more, as that came to more than standby_pin_max, {max} bytes: when it is back, \
         it gets the difference from what both still have",
        peer.name()
    )
}

/// What is kept in the data directory of databases that were dropped, in words. What cannot be read is left out.
fn set_aside(data_dir: &Path) -> Vec<String> {
    let is_aside = |path: &Path| {
        let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
        let number = end.strip_prefix(register::ASIDE).map(|end| end.strip_prefix('-').unwrap_or(end));
        number.is_some_and(|number| number.is_empty() || number.parse::<u64>().is_ok())
    };
    let entries = std::fs::read_dir(data_dir).into_iter().flatten().filter_map(Result::ok);
    let mut aside: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| is_aside(path)).collect();
    aside.sort();
    let said = aside.into_iter().map(|path| {
        format!(
            "{} keeps {} bytes of a database that the primary dropped, as it may have had what that never had; look into it with `pleach -C`, \
             and remove the directory when it is not needed",
            path.display(),
            bytes_in(&path)
        )
    });
    said.collect()
}

fn bytes_in(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    entries
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .map(|(path, entry)| if entry.is_dir() { bytes_in(&path) } else { entry.len() })
        .sum()
}

/// In the data directory, unless the configuration names another.
const KEY_FILE: &str = "node.pem";

fn unpinned(peer: &Peer) -> String {
    format!(
        "standby remote `{}` is trusted by the keys that {} publishes: whoever can answer there can replicate; pin its `fingerprint`",
        peer.name(),
        peer.server()
    )
}

fn open(
    config: ClusterConfig,
    databases: Databases,
    peers: Arc<[Arc<Peer>]>,
    acks: watch::Sender<u64>,
    news: watch::Sender<u64>,
    elector: Option<Arc<Elector>>,
) -> Result<Cluster> {
    let (role, epoch) = (config.bootstrap_role, config.bootstrap_epoch);
    let quorum = Quorum::new(peers.len(), config.ack.needed(peers.len()));
    let bootstrap = |id| {
        let standing = Standing { role, epoch, leader: (role == Role::Primary).then_some(id) };
        State::start(id, standing, None, quorum, true)
    };
    let restart = |id, record: Record| State::start(id, record.standing, record.led, quorum, false);
    let (file, state) = RoleFile::open(databases.data_dir(), bootstrap, restart)?;
    let standing = state.standing;
    let node = Arc::new(Node::new(file, state, databases, config.replicate_drops));
    // Before anything is replicated: what a crash left of a drop.
    register::drop_dropped(&node, standing.role == Role::Standby)?;
    let key_file = config.node_key.unwrap_or_else(|| node.databases().data_dir().join(KEY_FILE));
    let keys = peers.iter().map(|peer| peer.keys().clone()).collect();
    let auth = Arc::new(Auth::new(NodeKey::open(&key_file)?, keys, news));
    let fingerprint = auth.fingerprint();
    tracing::info!(node = %node.id(), %fingerprint, %standing, "this node of the cluster starts");
    for peer in peers.iter().filter(|peer| !peer.keys().is_pinned()) {
        tracing::warn!("{}", unpinned(peer));
    }
    if let Some(risk) = config.ack.risk() {
        tracing::warn!("{risk}");
    }
    let tracked = Tracked::new(node.clone(), peers.clone());
    tracked.look()?;
    let applied = Arc::new(Applied::new());
    let inner = Inner {
        node,
        peers,
        tracked,
        applied: applied.clone(),
        heard: watch::Sender::new(false),
        greeting: Greeting {
            auth,
            listener_url: config.listener_url,
            tell_received: config.ack.level == AckLevel::Received && !quorum.may_lose(),
            applied,
        },
        hand_over: config.hand_over,
        cascade: config.cascade,
        standby_pin_max: config.standby_pin_max,
        ack: config.ack,
        acks,
        unacknowledged: AtomicU64::new(0),
        assuming: tokio::sync::Mutex::new(()),
        hand_overs: watch::Sender::new(0),
        elector,
        electing: Mutex::default(),
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
        if own || self.applied.covers(name, token) {
            return true;
        }
        let state = self.node.state();
        let is_later = Position::of(database, &state)
            .is_ok_and(|position| position.is_some_and(|at| at.epoch > token.epoch));
        let is_forgotten = || !self.applied.has(name, token.epoch);
        let is_there = || {
            database.branches().is_ok_and(|branches| {
                branches.iter().any(|branch| branch.work == token.root && branch.head == token.head)
            })
        };
        // A later epoch has all that was acknowledged in one before, unless that may be lost: then what a branch is, is the only sign.
        is_later && (!state.quorum.may_lose() || is_forgotten() && is_there())
    }

    fn behind(&self) -> Vec<Behind> {
        let tracked = self.tracked.all();
        let links = tracked
            .iter()
            .flat_map(|(name, database)| self.peers.iter().map(move |peer| (name, database, peer)));
        links.filter_map(|(name, database, peer)| peer.behind(name, database.sequence())).collect()
    }

    /// Allows a write, or says why not, and on whom that depends.
    fn admit(&self) -> Result<WritePermit, NotWritable> {
        self.node.admit().map_err(|why| match why {
            NotWritable::Claiming { epoch, granted, needed, ahead, .. } => {
                let peers = self.peers.iter().filter_map(|peer| peer.why_not_granted()).collect();
                NotWritable::Claiming { epoch, granted, needed, ahead, peers }
            }
            why => why,
        })
    }

    /// Blocking. A database that cannot be measured is looked at again the next time.
    fn measure(&self) {
        for (name, database) in self.tracked.all() {
            let sequence = database.sequence();
            for peer in self.peers.iter() {
                let Some(roots) = peer.to_measure(&name, sequence) else { continue };
                let measured = match measured(&database, &roots, sequence, self.standby_pin_max) {
                    Ok(measured) => measured,
                    Err(error) => {
                        tracing::warn!(database = name, standby = peer.name(), %error, "what is kept cannot be measured");
                        continue;
                    }
                };
                if peer.measured(&name, measured, self.standby_pin_max) {
                    tracing::warn!("{}", let_go_of(peer, &name, self.standby_pin_max));
                }
            }
        }
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

    /// Runs the machine on a thread that may write the role file.
    async fn step(&self, input: Input) -> Result<()> {
        self.step_for(input, (HistoryCause::Start, "")).await
    }

    /// The same, with who or what is behind the input.
    async fn step_for(&self, input: Input, (cause, by): (HistoryCause, &str)) -> Result<()> {
        let (node, by) = (self.node.clone(), by.to_owned());
        crate::blocking(move || node.step_for(&input, cause, &by)).await?;
        Ok(())
    }

    /// A primary that restarted hears its standbys before it takes writes, for a moment.
    async fn hear(&self) -> Result<()> {
        let mut leads = self.node.leads();
        let standing = self.node.standing();
        if standing.role != Role::Primary || *leads.borrow() {
            return Ok(());
        }
        tokio::select! {
            _ = leads.wait_for(|leads| *leads) => return Ok(()),
            () = self.node.left(standing) => return Ok(()),
            () = tokio::time::sleep(HEAR) => {}
        }
        // What a standby is giving back is waited for.
        let _turn = self.node.adopting().await;
        self.step(Input::Waited).await?;
        match *leads.borrow() {
            true => tracing::warn!("not all standbys told what they have; this primary takes writes without"),
            false => tracing::warn!("this primary takes no writes yet: other nodes must agree first"),
        }
        Ok(())
    }

    async fn acknowledged(self: &Arc<Self>, database: &str, sequence: u64) -> Result<Option<String>> {
        let needed = self.ack.needed(self.peers.len());
        if needed == 0 {
            return self.promised();
        }
        if self.tracked.get(database).is_none() {
            // Made just now.
            let inner = self.clone();
            crate::blocking(move || inner.tracked.look()).await?;
        }
        let (standing, durable) = (self.node.standing(), self.ack.level != AckLevel::Received);
        let had = || self.peers.iter().filter(|peer| peer.reached(database, sequence, durable)).count();
        let mut acks = self.acks.subscribe();
        let enough = async {
            while had() < needed || !self.node.state().may_acknowledge(standing.epoch) {
                // The sender lives as long as this node.
                let _ = acks.changed().await;
            }
        };
        let late = async {
            match self.ack.on_timeout {
                OnTimeout::Block => std::future::pending().await,
                _ => tokio::time::sleep(self.ack.timeout).await,
            }
        };
        let why = tokio::select! {
            biased;
            () = enough => return self.promised(),
            () = self.node.left(standing) => {
                // What they acknowledged before is with whoever leads next; a hand-over waited for that.
                if had() >= needed {
                    return Ok(None);
                }
                format!("before it became {}", self.node.standing())
            }
            () = late => format!("in {:.1} s", self.ack.timeout.as_secs_f64()),
        };
        let left = self.node.standing() != standing;
        let error = Error::Unacknowledged { had: had().min(needed), needed, why };
        match self.ack.on_timeout {
            OnTimeout::Warn if !left && self.leased().is_ok() => {
                self.unacknowledged.fetch_add(1, Ordering::Relaxed);
                Ok(Some(error.to_string()))
            }
            _ => Err(error),
        }
    }

    /// Whether a write that is done here may be promised: not by a node that was elected, and whose lease ended meanwhile.
    fn promised(&self) -> Result<Option<String>> {
        self.leased().map(|()| None).map_err(|_| Error::LeaseOver)
    }

    /// Refuses writes of a node that was elected, and whose lease is over.
    fn leased(&self) -> Result<(), NotWritable> {
        let epoch = self.node.standing().epoch;
        match &self.elector {
            Some(elector) if !elector.allows(epoch.0) => Err(NotWritable::NoLease { epoch }),
            _ => Ok(()),
        }
    }
}
