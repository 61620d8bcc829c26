//! What this node is, while it runs: its state, who may write, and the one way in which that changes.
//!
//! The one idea: the state changes under [`Node::step`] alone, which runs the machine of `role` and does its effects in their order:
//! durable first, and while nothing of a peer is being applied. Called by `cluster`, by each session, and by the server before each write.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use pleach_engine::{Database, Hash};
use pleach_protocol::Databases;
use tokio::sync::watch;

use crate::cluster::applied::Position;
use crate::cluster::history::{History, HistoryCause, HistoryEntry, HistoryEvent, RoleAt};
use crate::cluster::register;
use crate::cluster::role::{self, Alarm, Effect, Input, NodeId, Reaction, Role, Standing, State, Writes};
use crate::cluster::role_file::RoleFile;
use crate::error::{Error, NotWritable, Result};
use crate::shared_refs;

/// This node.
pub(crate) struct Node {
    id: NodeId,
    databases: Databases,
    history: History,
    /// Held while the standing is made durable and shown.
    file: Mutex<RoleFile>,
    /// Held shared while a change of a peer is applied, and alone while the standing changes: so a fenced change never lands.
    applying: RwLock<()>,
    state: Mutex<Running>,
    standing: watch::Sender<Standing>,
    /// Whether this node sends its changes to its standbys.
    leads: watch::Sender<bool>,
    /// How many writes are under way.
    writes: watch::Sender<usize>,
    /// Held while this node takes from a standby what it lacks.
    adopting: tokio::sync::Mutex<()>,
    /// It drops what its primary drops, and tells its standbys what it drops.
    replicates_drops: bool,
    /// How many streams were taken.
    streams: AtomicU64,
    /// Whence changes come now.
    feed: watch::Sender<Option<Feed>>,
    /// Counts changes of the register by others.
    register_changes: watch::Sender<u64>,
}

/// Whence the changes of a standby come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Feed {
    /// The standing in which they are followed.
    standing: Standing,
    /// By which nodes they come, the primary first and the caller last.
    pub(crate) path: Vec<NodeId>,
    /// Tells streams of one caller apart.
    number: u64,
}

/// A stream by which changes come, as long as it does.
pub(crate) struct Feeding {
    node: Arc<Node>,
    feed: Feed,
}

impl Feeding {
    /// Whether no other took its place.
    ///
    /// # Errors
    /// [`Error::Fed`] if another node did, [`Error::Superseded`] if a later stream of the same one did.
    pub(crate) fn is_current(&self) -> Result<()> {
        match self.node.feed.borrow().as_ref() {
            Some(feed) if *feed == self.feed => Ok(()),
            Some(Feed { path, .. }) if path.last() != self.feed.path.last() => {
                Err(Error::Fed { from: path.last().copied().unwrap_or(self.node.id) })
            }
            _ => Err(Error::Superseded),
        }
    }
}

impl Drop for Feeding {
    fn drop(&mut self) {
        self.node.feed.send_if_modified(|feed| {
            let is_mine = feed.as_ref() == Some(&self.feed);
            if is_mine {
                *feed = None;
            }
            is_mine
        });
    }
}

struct Running {
    role: State,
    /// What a person should look at, since the standing last changed.
    alarm: Option<Alarm>,
    /// Where clients reach the primary that this node follows.
    primary: Option<String>,
    /// When the primary that this node follows was last heard.
    heard: Option<SystemTime>,
}

/// Allows one write, and counts it until it is dropped: a hand-over waits for it.
pub struct WritePermit {
    node: Arc<Node>,
}

impl Drop for WritePermit {
    fn drop(&mut self) {
        self.node.writes.send_modify(|writes| *writes -= 1);
    }
}

impl Node {
    /// The node in `state`, which `file` keeps.
    pub(crate) fn new(file: RoleFile, state: State, databases: Databases, replicates_drops: bool) -> Node {
        Node {
            id: state.me,
            history: History::open(databases.data_dir(), &state.standing),
            databases,
            file: Mutex::new(file),
            applying: RwLock::new(()),
            standing: watch::Sender::new(state.standing),
            leads: watch::Sender::new(state.leads()),
            state: Mutex::new(Running { role: state, alarm: None, primary: None, heard: None }),
            writes: watch::Sender::new(0),
            adopting: tokio::sync::Mutex::default(),
            replicates_drops,
            streams: AtomicU64::new(0),
            feed: watch::Sender::new(None),
            register_changes: watch::Sender::new(0),
        }
    }

    pub(crate) fn id(&self) -> NodeId {
        self.id
    }

    pub(crate) fn databases(&self) -> &Databases {
        &self.databases
    }

    /// A database, the register too.
    pub(crate) fn database(&self, name: &str) -> Result<Option<Database>> {
        Ok(if name == register::NAME {
            self.databases.get_hidden(name)?
        } else {
            self.databases.get(name)?
        })
    }

    /// The names of all databases, that of the register first.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let mut names = self.databases.list()?;
        if self.databases.get_hidden(register::NAME)?.is_some() {
            names.insert(0, register::NAME.to_owned());
        }
        Ok(names)
    }

    /// Makes a database, the register too.
    pub(crate) fn create(&self, name: &str) -> Result<Database> {
        Ok(if name == register::NAME {
            self.databases.make_hidden(name)?
        } else {
            self.databases.create(name)?
        })
    }

    pub(crate) fn replicates_drops(&self) -> bool {
        self.replicates_drops
    }

    /// Counts the changes of the register that came from others.
    pub(crate) fn register_changes(&self) -> &watch::Sender<u64> {
        &self.register_changes
    }

    /// What became of it.
    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// By database, one hash of all that nodes have in common. Blocking.
    pub(crate) fn roots(&self) -> BTreeMap<String, Hash> {
        let loaded = self.databases.loaded();
        loaded
            .into_iter()
            .map(|(name, database)| (name, shared_refs::root(&shared_refs::read(&database))))
            .collect()
    }

    pub(crate) fn standing(&self) -> Standing {
        self.state.lock().role.standing
    }

    /// Whole, as the machine knows it.
    pub(crate) fn state(&self) -> State {
        self.state.lock().role.clone()
    }

    /// What a person should look at.
    pub(crate) fn alarm(&self) -> Option<Alarm> {
        self.state.lock().alarm
    }

    /// Tells whether this node sends its changes to its standbys.
    pub(crate) fn leads(&self) -> watch::Receiver<bool> {
        self.leads.subscribe()
    }

    /// Tells each change of the standing.
    pub(crate) fn changes(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Returns when the standing is no longer `seen`.
    pub(crate) async fn left(&self, seen: Standing) {
        // The sender lives as long as this node.
        let _ = self.standing.subscribe().wait_for(|now| *now != seen).await;
    }

    // Writes.

    /// Allows a write, or says why not.
    pub(crate) fn admit(self: &Arc<Node>) -> Result<WritePermit, NotWritable> {
        let state = self.state.lock();
        let epoch = state.role.standing.epoch;
        match &state.role.writes {
            Writes::No if state.role.standing.role == Role::DetectedBrokenConfig => {
                Err(NotWritable::BrokenConfig { epoch })
            }
            Writes::No => Err(NotWritable::Standby { epoch, primary: state.primary.clone() }),
            Writes::HandingOver { .. } => Err(NotWritable::HandingOver),
            Writes::Claiming { granted, .. } => Err(NotWritable::Claiming {
                epoch,
                granted: granted.len(),
                needed: state.role.quorum.grants(),
                ahead: state.role.has_led() && state.role.adopts(),
                peers: Vec::new(),
            }),
            Writes::Open => {
                // Counted under the lock under which a hand-over begins, which so sees it.
                self.writes.send_modify(|writes| *writes += 1);
                Ok(WritePermit { node: self.clone() })
            }
        }
    }

    /// Returns when no write is under way.
    pub(crate) async fn idle(&self) {
        let _ = self.writes.subscribe().wait_for(|writes| *writes == 0).await;
    }

    /// How many writes are under way.
    pub(crate) fn writes(&self) -> usize {
        *self.writes.borrow()
    }

    // Standing.

    /// Takes `input`: runs the machine, and does what it says. Gives what the node answers. Blocking.
    ///
    /// # Errors
    /// [`Error::Refused`](crate::Error::Refused). What could not be made durable: the node goes on as it was.
    pub(crate) fn step(&self, input: &Input) -> Result<Reaction> {
        self.step_for(input, HistoryCause::Peer, "")
    }

    /// [`Node::step`] with who or what is behind `input`, and the name of the user who asks, for the history.
    pub(crate) fn step_for(&self, input: &Input, cause: HistoryCause, by: &str) -> Result<Reaction> {
        let file = self.file.lock();
        let was = self.state();
        let role::Step { state: next, effects } = role::step(&was, input)?;
        let mut reaction = Reaction::Nothing;
        let mut alone = None;
        let entry = |event| {
            let (node, why) = explain(input);
            let from = Some(RoleAt::from(&was.standing));
            HistoryEntry { from, node, why, by: by.to_owned(), ..HistoryEntry::new(event, cause) }
        };
        let mut noted = Vec::new();
        for effect in effects {
            match effect {
                Effect::Persist => {
                    alone = Some(self.applying.write());
                    if was.has_led() && !next.has_led() {
                        self.keep_positions(&was)?;
                    }
                    file.write(&next)?;
                }
                Effect::Show => {
                    self.show(&was, &next);
                    if next.standing != was.standing {
                        let to = Some(RoleAt::from(&next.standing));
                        let entry = HistoryEntry { to, ..entry(HistoryEvent::Changed) };
                        noted.push(entry.with_roots(self.roots()));
                    }
                }
                Effect::Answer(answer) => reaction = answer,
                Effect::Alarm(alarm) => {
                    // A peer that comes again and again is noted once.
                    if self.state.lock().alarm.replace(alarm) != Some(alarm) {
                        noted.push(HistoryEntry { why: alarm.to_string(), ..entry(HistoryEvent::Alarm) });
                    }
                }
            }
        }
        drop(alone);
        noted.into_iter().for_each(|entry| self.history.note(entry));
        Ok(reaction)
    }

    /// Has all databases keep how far they have come.
    fn keep_positions(&self, state: &State) -> Result<()> {
        for name in self.names()? {
            match self.database(&name) {
                Ok(Some(database)) => Position::keep(&database, state)?,
                Ok(None) => {}
                // It counts as having whatever its numbers say.
                Err(error) => tracing::error!(database = name, %error, "the database cannot be opened"),
            }
        }
        Ok(())
    }

    fn show(&self, was: &State, next: &State) {
        let (before, standing) = (was.standing, next.standing);
        // Tokens carry the new epoch before a write can be admitted under it.
        for database in self.databases.loaded().values() {
            database.set_epoch(standing.epoch.0);
        }
        let mut state = self.state.lock();
        state.role = next.clone();
        if standing != before {
            state.alarm = None;
        }
        if standing.leader != before.leader {
            state.primary = None;
            state.heard = None;
        }
        drop(state);
        if standing != before {
            self.standing.send_replace(standing);
        }
        self.leads.send_if_modified(|leads| std::mem::replace(leads, next.leads()) != next.leads());
    }

    /// The right to apply a change of the primary that was followed in `followed`; the standing this node is in instead. Blocking.
    pub(crate) fn apply(&self, followed: &Standing) -> Result<RwLockReadGuard<'_, ()>, Standing> {
        let applying = self.applying.read();
        let state = self.state();
        let (Some(leader), epoch) = (followed.leader, followed.epoch) else { return Err(state.standing) };
        let follows = role::step(&state, &Input::Change { leader, epoch })
            .is_ok_and(|step| step.effects == [Effect::Answer(Reaction::Follow)]);
        if follows { Ok(applying) } else { Err(state.standing) }
    }

    /// One at a time takes what this node lacks; what waits for standbys to be heard waits for that.
    pub(crate) async fn adopting(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.adopting.lock().await
    }

    /// The right to take what a standby has, while this node claims the epoch of `standing`; the standing it is in instead.
    /// Blocking.
    pub(crate) fn adopt(&self, standing: &Standing) -> Result<RwLockReadGuard<'_, ()>, Standing> {
        let applying = self.applying.read();
        let state = self.state();
        if state.standing == *standing && state.adopts() { Ok(applying) } else { Err(state.standing) }
    }

    /// Notes where clients reach the primary that is followed in `standing`.
    pub(crate) fn follow(&self, standing: &Standing, primary: String) {
        let mut state = self.state.lock();
        if state.role.standing == *standing && !primary.is_empty() {
            state.primary = Some(primary);
        }
    }

    /// Where clients reach the primary that is followed, if it is known.
    pub(crate) fn primary_url(&self) -> Option<String> {
        self.state.lock().primary.clone()
    }

    /// Takes changes that come by `path`, whose last node calls, in the place of those that came by a longer way, or by an earlier stream of
    /// that node.
    ///
    /// # Errors
    /// [`Error::Fed`].
    pub(crate) fn feed(self: &Arc<Node>, standing: Standing, path: Vec<NodeId>) -> Result<Feeding> {
        let mut taken = Err(Error::Superseded);
        self.feed.send_modify(|feed| {
            let rival = feed.as_ref().filter(|feed| {
                feed.standing == standing && feed.path.last() != path.last() && feed.path.len() <= path.len()
            });
            taken = match rival {
                Some(rival) => Err(Error::Fed { from: rival.path.last().copied().unwrap_or(self.id) }),
                None => {
                    let new = Feed { standing, path, number: self.streams.fetch_add(1, Ordering::Relaxed) };
                    *feed = Some(new.clone());
                    Ok(Feeding { node: self.clone(), feed: new })
                }
            };
        });
        taken
    }

    /// Tells whence changes come.
    pub(crate) fn feeds(&self) -> watch::Receiver<Option<Feed>> {
        self.feed.subscribe()
    }

    /// Notes that the followed primary was heard.
    pub(crate) fn hear(&self) {
        self.state.lock().heard = Some(SystemTime::now());
    }

    /// When the followed primary was last heard.
    pub(crate) fn heard(&self) -> Option<SystemTime> {
        self.state.lock().heard
    }
}

/// The peer behind an input, and what happened, for the history.
fn explain(input: &Input) -> (String, String) {
    match input {
        Input::Assume { role, epoch } => (String::new(), format!("asked to be {role} at epoch {epoch}")),
        Input::HandedOver => (String::new(), "handed over".into()),
        Input::Meet { node, standing } => (node.to_string(), format!("met a node that is {standing}")),
        _ => (String::new(), String::new()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use pleach_engine::Options;

    use super::*;
    use crate::cluster::role::{Epoch, Quorum};

    fn node(role: Role) -> (tempfile::TempDir, Arc<Node>) {
        let dir = tempfile::tempdir().unwrap();
        let bootstrap = |id| {
            let leader = (role == Role::Primary).then_some(id);
            let standing = Standing { role, epoch: Epoch(1), leader };
            State::start(id, standing, None, Quorum::new(1, 0), true)
        };
        let (file, state) = RoleFile::open(dir.path(), bootstrap, |_, _| panic!("a new node")).unwrap();
        let databases = Databases::new(dir.path(), Options::default()).unwrap();
        (dir, Arc::new(Node::new(file, state, databases, true)))
    }

    fn assume(role: Role, epoch: u64) -> Input {
        Input::Assume { role, epoch: Epoch(epoch) }
    }

    #[test]
    fn a_standby_admits_no_write_and_names_its_primary_when_it_knows_it() {
        let (_dir, node) = node(Role::Standby);
        let unknown = node.admit().err().unwrap();
        assert!(unknown.to_string().contains("read-only standby at epoch 1"), "{unknown}");
        node.follow(&node.standing(), "http://127.0.0.1:7420".into());
        assert!(node.admit().err().unwrap().to_string().contains("http://127.0.0.1:7420"));
    }

    #[tokio::test]
    async fn a_hand_over_waits_for_writes_that_were_admitted_and_admits_no_more() {
        let (_dir, node) = node(Role::Primary);
        let write = node.admit().unwrap();
        node.step(&assume(Role::Standby, 2)).unwrap();
        assert!(node.step(&assume(Role::Standby, 2)).is_err());
        assert_eq!(node.admit().err(), Some(NotWritable::HandingOver));
        assert_eq!(node.writes(), 1);
        drop(write);
        node.idle().await;
        node.step(&Input::HandOverFailed).unwrap();
        assert!(node.admit().is_ok());
    }

    #[test]
    fn a_standing_that_cannot_be_made_durable_is_not_shown() {
        let (dir, node) = node(Role::Standby);
        let current = node.state();
        std::fs::remove_dir_all(dir.path()).unwrap();
        assert!(node.step(&assume(Role::Primary, 2)).is_err());
        assert_eq!(node.state(), current);
        assert!(node.admit().is_err());
    }

    #[test]
    fn of_two_ways_by_which_changes_come_the_shorter_is_kept_to() {
        let (_dir, node) = node(Role::Standby);
        let (primary, forwarder) = (NodeId([9; 16]), NodeId([8; 16]));
        let standing = Standing { leader: Some(primary), ..node.standing() };
        let long = node.feed(standing, vec![primary, forwarder]).unwrap();
        assert!(node.feed(standing, vec![primary, NodeId([7; 16])]).is_err(), "the first of equals");
        let again = node.feed(standing, vec![primary, forwarder]).unwrap();
        assert!(again.is_current().is_ok(), "a caller replaces its own stream");
        assert!(matches!(long.is_current(), Err(Error::Superseded)));
        drop(long);
        let direct = node.feed(standing, vec![primary]).unwrap();
        assert!(direct.is_current().is_ok());
        assert!(matches!(again.is_current(), Err(Error::Fed { from }) if from == primary));
        assert!(node.feed(standing, vec![primary, forwarder]).is_err());
        drop(direct);
        assert!(node.feed(standing, vec![primary, forwarder]).is_ok(), "the shorter one is gone");
    }

    #[test]
    fn a_change_is_applied_only_in_the_standing_in_which_it_was_taken() {
        let (_dir, node) = node(Role::Standby);
        let leader = NodeId([9; 16]);
        let standing = Standing { role: Role::Primary, epoch: Epoch(1), leader: Some(leader) };
        let followed = |leader| Standing { role: Role::Standby, epoch: Epoch(1), leader: Some(leader) };
        assert!(node.apply(&followed(leader)).is_err(), "it does not follow it yet");
        assert_eq!(node.step(&Input::Meet { node: leader, standing }).unwrap(), Reaction::Follow);
        assert!(node.apply(&followed(leader)).is_ok());
        assert!(node.apply(&followed(NodeId([8; 16]))).is_err(), "another primary of that epoch");
        node.step(&assume(Role::Primary, 2)).unwrap();
        assert_eq!(node.apply(&followed(leader)).err(), Some(node.standing()));
    }
}
