//! A primary that pushes on write: what its branches and tags become here, they become at a remote.
//!
//! The one idea: there is no queue. What is still to be pushed is what the refs here are and were not yet at the last push that got through, which is
//! noted in refs of this copy (`pushed/REMOTE/…`). So it survives a restart, grows with the number of refs that changed and not with that of the commits, and each ref
//! is pushed once, to where it is by then. A push has all changes from before it began; so all who wait while one runs share the next.
//!
//! A ref is moved at the remote only from where this primary last put it, or goes on from what is there. What somebody else put there is not overwritten: that
//! ref is *stuck*, and said to be, until it is merged here, or merged by the policy; the others go on.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use pleach_engine::{Batch, Database, Hash, MergeOptions, MergeOutcome, Outcome, RefUpdate, Side};
use pleach_protocol::limits::MOVE_ATTEMPTS;
use pleach_protocol::{
    Credentials, Flow, Force, HELD_BACK, PushUpdate, RefPatterns, RefStatus, Remote, RemoteUrl, Transfer,
    fetch, push, pushed_prefix,
};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::error::{Error, Result};
use crate::limits::{BACK_OFF, PUSH_MERGES};
use crate::remote::behind::Backlog;
use crate::remote::place::Place;
use crate::remote::runs::{Runs, Turn};
use crate::remote::strict::Strict;
use crate::shared_refs::HEADS;

/// Prefix of branches and tags.
pub(crate) const PUSHED: [&str; 2] = [HEADS, "tags/"];

/// What becomes of a branch that somebody else moved at the remote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnConflict {
    /// It stays as it is on both sides, and the primary says so.
    #[default]
    Reject,
    /// What is there is merged into the branch here, and the merge is pushed. Where both changed a cell, the remote's, which came first, prevails; the merge has both as
    /// parents.
    Merge,
}

/// What a primary pushes to.
#[derive(Clone)]
pub struct PrimaryConfig {
    /// Name of the remote, which each database has.
    pub remote: String,
    /// What is shown to remotes that are servers.
    pub credentials: Credentials,
    /// What becomes of a branch that somebody else moved there.
    pub on_conflict: OnConflict,
    /// Who merges by that policy, as `NAME <MAIL>`.
    pub author: String,
    /// Branches and tags move here only once they have moved there; a write that cannot be pushed fails. See [`Approve`](pleach_engine::Approve).
    pub strict: bool,
    /// Where databases are pushed to that have no such remote.
    pub place: Option<Arc<dyn Place>>,
    /// Lets this node write and push, as long as what it gives is held: of the nodes of a cluster, only the primary may.
    pub permit: Arc<dyn Fn() -> Option<PushPermit> + Send + Sync>,
}

/// Held while a primary does what only a primary may.
pub type PushPermit = Box<dyn Send>;

/// Pushes each change of the branches and tags of its databases. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Primary {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    pushers: Mutex<HashMap<String, Arc<Pusher>>>,
    stopping: watch::Sender<bool>,
}

/// What the pushes of all databases share.
pub(crate) struct Shared {
    config: PrimaryConfig,
    on_conflict: Mutex<OnConflict>,
    place: Mutex<Option<Arc<dyn Place>>>,
    strict: AtomicBool,
    /// Whose remote each URL is: the first database's that had it.
    urls: Mutex<HashMap<String, String>>,
    pub(crate) stage: watch::Sender<Stage>,
}

/// How far a primary is with its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Pushing,
    /// No push begins.
    Retiring,
    /// And none goes on.
    Retired,
}

impl Shared {
    pub(crate) fn place(&self) -> Option<Arc<dyn Place>> {
        self.place.lock().clone()
    }

    /// Notes that the database pushes to `url`.
    ///
    /// # Errors
    /// [`Error::SharedRemote`], if that is another's.
    fn claim(&self, url: &str, name: &str) -> Result<()> {
        let mut urls = self.urls.lock();
        match urls.get(url) {
            Some(owner) if owner == name => Ok(()),
            Some(owner) => Err(Error::SharedRemote { url: url.to_owned(), database: owner.clone() }),
            None => {
                urls.retain(|_, owner| owner != name);
                urls.insert(url.to_owned(), name.to_owned());
                Ok(())
            }
        }
    }
}

/// What there is to say of the pushes of one database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PushStatus {
    /// The database.
    pub database: String,
    /// Refs that are not yet at the remote what they are here.
    pub backlog: usize,
    /// Commits of branches here that are not there, as counted when a push did not get through last; at most
    /// [`COMMITS_COUNTED`](crate::limits::COMMITS_COUNTED) of each branch.
    pub commits_behind: u64,
    /// And the bytes that a push would send; at most [`BYTES_COUNTED`](crate::limits::BYTES_COUNTED).
    pub bytes_behind: u64,
    /// Pushes that got through, and those that did not, since the primary began.
    pub pushes: u64,
    /// See `pushes`.
    pub failures: u64,
    /// Bytes of messages sent, and round trips.
    pub bytes_sent: u64,
    /// See `bytes_sent`.
    pub round_trips: u64,
    /// When the last push got through.
    pub last_push: Option<SystemTime>,
    /// When the oldest change was seen that is not at the remote yet.
    pub behind_since: Option<SystemTime>,
    /// When a push began last, or something passed over its connection.
    pub last_progress: Option<Instant>,
    /// Why the last push did not get through, or what is stuck.
    pub current_error: Option<String>,
    /// There is no such remote: nothing is tried until something changes here.
    pub is_disabled: bool,
}

/// The pushes of one database, one at a time.
pub(crate) struct Pusher {
    pub(crate) shared: Arc<Shared>,
    name: String,
    /// By a handle whose changes are not asked about.
    pub(crate) database: Database,
    pushes: Runs<()>,
    changed: Notify,
    pub(crate) strict: Strict,
    status: Mutex<PushStatus>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// Refs that are not pushed, by name, and why.
type Stuck = BTreeMap<String, String>;

impl Primary {
    /// A primary that pushes as `config` says, from when it is told of databases.
    pub fn new(config: PrimaryConfig) -> Primary {
        let shared = Shared {
            on_conflict: Mutex::new(config.on_conflict),
            place: Mutex::new(config.place.clone()),
            strict: AtomicBool::new(config.strict),
            config,
            urls: Mutex::default(),
            stage: watch::Sender::new(Stage::Pushing),
        };
        let (shared, stopping) = (Arc::new(shared), watch::Sender::new(false));
        Primary { inner: Arc::new(Inner { shared, pushers: Mutex::default(), stopping }) }
    }

    /// Name of the remote that it pushes to.
    pub fn remote(&self) -> &str {
        &self.inner.shared.config.remote
    }

    /// What becomes, from now on, of a branch that somebody else moved at the remote.
    pub fn set_on_conflict(&self, on_conflict: OnConflict) {
        *self.inner.shared.on_conflict.lock() = on_conflict;
        self.wake();
    }

    /// Where databases are pushed to, from now on, that have no such remote.
    pub fn set_place(&self, place: Option<Arc<dyn Place>>) {
        *self.inner.shared.place.lock() = place;
        self.wake();
    }

    /// Whether branches and tags, from now on, move here only once they have moved there. In a runtime.
    pub fn set_strict(&self, strict: bool) {
        let pushers = self.inner.pushers.lock();
        self.inner.shared.strict.store(strict, Ordering::SeqCst);
        pushers.values().for_each(|pusher| pusher.set_strict(strict));
    }

    /// Has `database`, which is called `name`, pushed whenever its branches or tags have changed, and what has not been pushed yet now. In a runtime.
    pub fn follow(&self, name: &str, database: &Database) {
        drop(self.pusher(name, database));
    }

    /// Forgets a database that is dropped or closed: nothing more is pushed of it.
    pub fn forget(&self, name: &str) {
        let pusher = self.inner.pushers.lock().remove(name);
        self.inner.shared.urls.lock().retain(|_, owner| owner != name);
        let Some(pusher) = pusher else { return };
        pusher.set_strict(false);
        if let Some(task) = pusher.task.lock().take() {
            task.abort();
        }
    }

    /// Pushes all that is durable in `database` when this is called; one push serves all who wait. Nothing to push costs nothing.
    ///
    /// # Errors
    /// [`Error::UnknownRemote`], [`Error::Stuck`], those of a push. What did not get through is tried again until it does.
    pub async fn push(&self, name: &str, database: &Database) -> Result<()> {
        self.pusher(name, database).push().await
    }

    /// Looks at all databases again: something may be pushed now that might not before.
    pub fn wake(&self) {
        self.inner.pushers.lock().values().for_each(|pusher| pusher.changed.notify_one());
    }

    /// What there is to say of one database.
    pub fn status_of(&self, name: &str) -> Option<PushStatus> {
        self.inner.pushers.lock().get(name).map(|pusher| pusher.status.lock().clone())
    }

    /// What there is to say of each database, by name.
    pub fn status(&self) -> Vec<PushStatus> {
        let pushers: Vec<Arc<Pusher>> = self.inner.pushers.lock().values().cloned().collect();
        let mut status: Vec<PushStatus> = pushers.iter().map(|pusher| pusher.status.lock().clone()).collect();
        status.sort_by(|a, b| a.database.cmp(&b.database));
        status
    }

    /// Stops pushing, after one more push of what is left in each database, for `limit` at most. What does not get through then is pushed after the next start.
    pub async fn shutdown(&self, limit: Duration) {
        self.inner.stopping.send_replace(true);
        let pushers: Vec<Arc<Pusher>> = self.inner.pushers.lock().drain().map(|(_, pusher)| pusher).collect();
        let mut drained = JoinSet::new();
        for pusher in pushers {
            drained.spawn(async move { pusher.drain(limit).await });
        }
        drained.join_all().await;
    }

    /// Stops pushing without another push, for good: something else decides by now what is pushed, and where to. Pushes under way may end for `limit`; when this
    /// returns nothing more is sent.
    pub async fn retire(&self, limit: Duration) {
        self.inner.stopping.send_replace(true);
        self.inner.shared.stage.send_replace(Stage::Retiring);
        let pushers: Vec<Arc<Pusher>> = self.inner.pushers.lock().drain().map(|(_, pusher)| pusher).collect();
        let ended = async {
            for pusher in &pushers {
                pusher.set_strict(false);
                pusher.pushes.idle().await;
                pusher.strict.idle().await;
            }
        };
        let is_ended = tokio::time::timeout(limit, ended).await.is_ok();
        self.inner.shared.stage.send_replace(Stage::Retired);
        if !is_ended {
            for pusher in &pushers {
                pusher.set_strict(false);
                pusher.pushes.idle().await;
                pusher.strict.idle().await;
            }
        }
    }

    fn pusher(&self, name: &str, database: &Database) -> Arc<Pusher> {
        let mut pushers = self.inner.pushers.lock();
        // One that was dropped and made again is another.
        if let Some(pusher) = pushers.get(name).filter(|pusher| is_same(&pusher.database, database)) {
            return pusher.clone();
        }
        let pusher = Arc::new(Pusher {
            shared: self.inner.shared.clone(),
            name: name.to_owned(),
            // What it does itself is pushed, or was.
            database: database.unapproved(),
            pushes: Runs::default(),
            changed: Notify::new(),
            strict: Strict::default(),
            status: Mutex::new(PushStatus { database: name.to_owned(), ..PushStatus::default() }),
            task: Mutex::default(),
        });
        // Whose remote it is does not depend on which push comes first. What is wrong with it, the push says.
        let _ = pusher.settle_down();
        let _ = pusher.url();
        pusher.set_strict(self.inner.shared.strict.load(Ordering::SeqCst));
        let weak = Arc::downgrade(&pusher);
        database.store().watch(Box::new(move |_| match Weak::upgrade(&weak) {
            Some(pusher) => {
                pusher.changed.notify_one();
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(()),
        }));
        // What was left by an earlier process.
        pusher.changed.notify_one();
        let stopping = self.inner.stopping.subscribe();
        *pusher.task.lock() = Some(tokio::spawn(pusher.clone().run(stopping)));
        if let Some(task) =
            pushers.insert(name.to_owned(), pusher.clone()).and_then(|old| old.task.lock().take())
        {
            task.abort();
        }
        pusher
    }
}

fn is_same(one: &Database, other: &Database) -> bool {
    one.store().id() == other.store().id()
}

impl Pusher {
    pub(crate) fn config(&self) -> &PrimaryConfig {
        &self.shared.config
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Ends the task, and pushes once more.
    async fn drain(self: &Arc<Pusher>, limit: Duration) {
        let may_push = (self.config().permit)().is_some();
        let task = self.task.lock().take();
        let last = async {
            if let Some(task) = task {
                // It ends between two pushes.
                let _ = task.await;
            }
            if may_push { self.push().await } else { Ok(()) }
        };
        let drained = tokio::time::timeout(limit, last).await;
        self.set_strict(false);
        let why = match drained {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it takes too long".to_owned(),
        };
        let remote = &self.config().remote;
        tracing::warn!(database = self.name, remote, "stopped before everything was pushed: {why}");
    }

    /// Pushes after each change, and again after a while what did not get through.
    async fn run(self: Arc<Pusher>, mut stopping: watch::Receiver<bool>) {
        let (mut wait, mut counted): (Option<Duration>, _) = (None, None);
        loop {
            // What did not get through is not tried more often because more has changed.
            let due = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => self.changed.notified().await,
                }
            };
            tokio::select! {
                () = due => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            if (self.config().permit)().is_none() {
                // It may come back without a word.
                wait = Some(BACK_OFF.1);
                continue;
            }
            let before = self.status.lock().current_error.clone();
            wait = match self.push().await {
                Ok(()) => None,
                Err(Error::Retired) => return,
                Err(error) => {
                    // Nobody waits for it, and as long as nothing changes here it stays what it is.
                    let now = self.database.sequence();
                    if counted != Some(now) {
                        counted = Some(now);
                        self.count_backlog().await;
                    }
                    if before.as_deref() != Some(&error.to_string()) {
                        let remote = &self.config().remote;
                        tracing::warn!(database = self.name, remote, "a push did not get through: {error}");
                    }
                    // What only a change here can mend waits for one.
                    let is_disabled = self.status.lock().is_disabled;
                    (!is_disabled).then(|| wait.map_or(BACK_OFF.0, |wait| (2 * wait).min(BACK_OFF.1)))
                }
            };
        }
    }

    /// Pushes, or shares a push that begins after this was called.
    pub(crate) async fn push(self: &Arc<Pusher>) -> Result<()> {
        match self.pushes.turn().await {
            Turn::Shared(result) => result,
            Turn::Ours(mut run) => {
                let mut stage = self.shared.stage.subscribe();
                if *stage.borrow() != Stage::Pushing {
                    return Err(Error::Retired);
                }
                let result = tokio::select! {
                    result = self.push_now(run.remote()) => result,
                    _ = stage.wait_for(|stage| *stage == Stage::Retired) => return Err(Error::Retired),
                };
                self.note(&result);
                run.end(result)
            }
        }
    }

    fn note(&self, result: &Result<()>) {
        let mut status = self.status.lock();
        status.current_error = result.as_ref().err().map(Error::to_string);
        status.is_disabled = matches!(result, Err(Error::UnknownRemote { .. }));
        match result {
            Ok(()) => {
                (status.backlog, status.behind_since) = (0, None);
                (status.commits_behind, status.bytes_behind) = (0, 0);
            }
            Err(_) => status.failures += 1,
        }
    }

    /// Counts how far behind the remote is.
    async fn count_backlog(&self) {
        let (database, remote) = (self.database.clone(), self.config().remote.clone());
        let is_server = self.url().is_ok_and(|url| url.host().is_some());
        let counted = crate::blocking(move || Backlog::of(&database, &remote, is_server)).await;
        // What cannot be read now is counted next time.
        if let Ok(Backlog { commits, bytes }) = counted {
            let mut status = self.status.lock();
            (status.commits_behind, status.bytes_behind) = (commits, bytes);
        }
    }

    fn came_on(&self) {
        self.status.lock().last_progress = Some(Instant::now());
    }

    /// Pushes until nothing is left that can be.
    async fn push_now(self: &Arc<Pusher>, open: &mut Option<Remote>) -> Result<()> {
        self.came_on();
        self.begin_there().await?;
        self.settle().await?;
        let (mut refused, mut has_fetched, mut merges) = (Stuck::new(), false, 0);
        loop {
            let Due { updates, stuck } = self.due(&refused).await?;
            if (!updates.is_empty() || !stuck.is_empty()) && (self.config().permit)().is_none() {
                return Err(Error::NoPrimary);
            }
            if updates.is_empty() {
                let may_merge = *self.shared.on_conflict.lock() == OnConflict::Merge && merges < PUSH_MERGES;
                if stuck.is_empty() {
                    return Ok(());
                }
                if may_merge && self.merge(open, &stuck).await? {
                    merges += 1;
                    refused.clear();
                    continue;
                }
                return Err(Error::Stuck { remote: self.config().remote.clone(), refs: stuck });
            }
            let transfer = self.send(open, &updates).await?;
            if !transfer.is_rejected() {
                let url = open.as_ref().map(|remote| remote.url().to_string()).unwrap_or_default();
                self.pushed(url, updates, &transfer).await?;
                if stuck.is_empty() {
                    // All that was due when this began is there. What has come since has its own push.
                    self.changed.notify_one();
                    return Ok(());
                }
                continue;
            }
            // What is there may be what this goes on from, and not have been known here.
            if !std::mem::replace(&mut has_fetched, true) {
                self.fetch(open).await?;
                continue;
            }
            let before = refused.len();
            for one in transfer.refs {
                if let RefStatus::Rejected { reason } = one.status
                    && reason != HELD_BACK
                {
                    refused.insert(one.name, reason);
                }
            }
            if refused.len() == before {
                // The remote does not say which of them it refuses: to ask again would be to ask for ever.
                let all = updates.into_iter().map(|update| (update.name, HELD_BACK.to_owned()));
                return Err(Error::Stuck { remote: self.config().remote.clone(), refs: all.collect() });
            }
        }
    }

    /// What is to be pushed, but for what was refused.
    async fn due(&self, refused: &Stuck) -> Result<Due> {
        let (database, remote, refused) =
            (self.database.clone(), self.config().remote.clone(), refused.clone());
        let due = crate::blocking(move || Due::of(&database, &remote, &refused)).await?;
        let mut status = self.status.lock();
        status.backlog = due.updates.len() + due.stuck.len();
        if status.backlog > 0 {
            status.behind_since.get_or_insert_with(SystemTime::now);
        }
        Ok(due)
    }

    /// Notes a push that got through.
    async fn pushed(&self, url: String, updates: Vec<PushUpdate>, transfer: &Transfer) -> Result<()> {
        let (database, remote) = (self.database.clone(), self.config().remote.clone());
        crate::blocking(move || note_pushed(&database, &remote, &url, &updates)).await?;
        self.count(transfer);
        Ok(())
    }

    /// Counts a push that got through.
    pub(crate) fn count(&self, transfer: &Transfer) {
        let mut status = self.status.lock();
        status.pushes += 1;
        status.bytes_sent += transfer.bytes_sent;
        status.round_trips += u64::from(transfer.round_trips);
        status.last_push = Some(SystemTime::now());
    }

    /// One push of these, over the connection that is open, or a new one.
    pub(crate) async fn send(
        self: &Arc<Pusher>,
        open: &mut Option<Remote>,
        updates: &[PushUpdate],
    ) -> Result<Transfer> {
        let remote = self.remote(open).await?;
        let transfer = push(&self.database, &remote, &self.config().remote, updates, Force::Known).await?;
        *open = Some(remote);
        Ok(transfer)
    }

    /// Where it pushes to.
    pub(crate) fn url(&self) -> Result<RemoteUrl> {
        let PrimaryConfig { remote, credentials, .. } = self.config();
        let url = crate::remote::remote_url(&self.database, remote, credentials)?;
        self.shared.claim(&url.to_string(), &self.name)?;
        Ok(url)
    }

    async fn remote(self: &Arc<Pusher>, open: &mut Option<Remote>) -> Result<Remote> {
        let url = self.url()?;
        if let Some(remote) = open.take().filter(|remote| *remote.url() == url) {
            return Ok(remote);
        }
        let pusher = Arc::downgrade(self);
        let note = move |_: &_| pusher.upgrade().iter().for_each(|pusher| pusher.came_on());
        Ok(Remote::connect(&url).await?.with_flow(Flow::new(None, Some(note))))
    }

    pub(crate) async fn fetch(self: &Arc<Pusher>, open: &mut Option<Remote>) -> Result<()> {
        let remote = self.remote(open).await?;
        // Tags there are not to become tags here.
        let branches = RefPatterns::new(&[format!("{HEADS}*")])?;
        fetch(&self.database, &remote, &self.config().remote, &branches).await?;
        *open = Some(remote);
        Ok(())
    }

    /// Merges what the remote's branches are by now into those here that are stuck; whether one of them has moved.
    async fn merge(self: &Arc<Pusher>, open: &mut Option<Remote>, stuck: &Stuck) -> Result<bool> {
        self.fetch(open).await?;
        let (database, config) = (self.database.clone(), self.config().clone());
        // A merge is a write.
        let Some(permit) = (self.config().permit)() else { return Ok(false) };
        let branches: Vec<String> =
            stuck.keys().filter_map(|name| name.strip_prefix(HEADS)).map(str::to_owned).collect();
        crate::blocking(move || {
            let _permit = permit;
            let mut moved = false;
            for branch in branches {
                let theirs = database.get_ref(&format!("remotes/{}/{branch}", config.remote));
                let (Some(theirs), Some(_)) = (theirs, database.branch(&branch)?) else { continue };
                let options = MergeOptions {
                    message: Some(format!("Merge {}/{branch} into {branch}", config.remote)),
                    author: config.author.clone(),
                    prefer: Some(Side::Theirs),
                    ..MergeOptions::default()
                };
                match database.merge(&branch, &theirs, options) {
                    Ok(MergeOutcome::UpToDate) => {}
                    Ok(_) => moved = true,
                    // Work in the middle of something, a table that cannot be merged by row: a person's to decide. Others go on.
                    Err(error) if error.kind() == pleach_engine::ErrorKind::Refused => {
                        let remote = &config.remote;
                        tracing::warn!(remote, "branch {branch} is not merged: {error}");
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(moved)
        })
        .await
    }
}

/// What a push is to do.
#[derive(Debug, Default)]
struct Due {
    updates: Vec<PushUpdate>,
    /// What is not the same there, and is not pushed now.
    stuck: Stuck,
}

impl Due {
    /// What the refs of `database` are and were not at the last push to `remote`.
    fn of(database: &Database, remote: &str, refused: &Stuck) -> Result<Due> {
        let here: BTreeMap<String, Hash> = PUSHED.iter().flat_map(|prefix| database.refs(prefix)).collect();
        let pushed = pushed(database, remote)?;
        let gone = pushed.keys().filter(|name| !here.contains_key(*name)).map(|name| (name, None));
        let changed = here.iter().filter(|(name, new)| pushed.get(*name) != Some(new));
        let mut due = Due::default();
        for (name, new) in changed.map(|(name, new)| (name, Some(*new))).chain(gone) {
            let why = match refused.get(name) {
                Some(why) => Some(why.clone()),
                None => in_the_way(database, remote, name, pushed.get(name), new)?,
            };
            match why {
                Some(why) => drop(due.stuck.insert(name.clone(), why)),
                None => due.updates.push(PushUpdate { name: name.clone(), new }),
            }
        }
        Ok(due)
    }
}

/// Why the remote's ref, as it was when it was last seen, must not become `new`: it is not what was pushed, and `new` does not go on from it.
pub(crate) fn in_the_way(
    database: &Database,
    remote: &str,
    name: &str,
    pushed: Option<&Hash>,
    new: Option<Hash>,
) -> Result<Option<String>> {
    let Some(branch) = name.strip_prefix(HEADS) else { return Ok(None) };
    let Some(seen) = database.get_ref(&format!("remotes/{remote}/{branch}")) else { return Ok(None) };
    let goes_on = match new {
        _ if pushed == Some(&seen) => true,
        Some(new) => seen == new || database.is_ancestor(&seen, &new)?,
        None => false,
    };
    Ok((!goes_on).then(|| {
        format!("somebody else moved it to {seen} there; merge `remotes/{remote}/{branch}` into it here")
    }))
}

/// The setting with the URL that `pushed/REMOTE/…` is about.
fn pushed_url(remote: &str) -> String {
    format!("pushed.{remote}.url")
}

/// What branches and tags were at the last push that got through; nothing, if that was to another URL.
pub(crate) fn pushed(database: &Database, remote: &str) -> Result<BTreeMap<String, Hash>> {
    let url = database.setting(&format!("remote.{remote}.url"))?;
    // As a URL is displayed.
    let url = url.as_deref().map(|url| url.strip_suffix('/').unwrap_or(url));
    if database.setting(&pushed_url(remote))?.as_deref() != url {
        return Ok(BTreeMap::new());
    }
    let prefix = pushed_prefix(remote);
    let refs = database.refs(&prefix).into_iter();
    Ok(refs.filter_map(|(name, hash)| Some((name.strip_prefix(&prefix)?.to_owned(), hash))).collect())
}

/// Notes that the remote has what was fetched from it: of a replica that is to push there, only what is new is pushed. What was noted before, by a primary that this
/// was once, counts no more.
///
/// # Errors
/// [`Error::UnknownRemote`], those of the store.
pub fn count_as_pushed(database: &Database, remote: &str) -> Result<()> {
    let key = format!("remote.{remote}.url");
    let url = database.setting(&key)?.ok_or_else(|| Error::UnknownRemote { remote: remote.to_owned() })?;
    let url = url.parse::<RemoteUrl>()?.to_string();
    // Taken for another place's, the old notes go.
    database.set_setting(&pushed_url(remote), None)?;
    let fetched = |branch: &str| database.get_ref(&format!("remotes/{remote}/{branch}"));
    let same = database.refs(HEADS).into_iter();
    let same = same.filter(|(name, head)| name.strip_prefix(HEADS).and_then(fetched) == Some(*head));
    let same: Vec<PushUpdate> = same.map(|(name, head)| PushUpdate { name, new: Some(head) }).collect();
    note_pushed(database, remote, &url, &same)
}

/// Whether what is noted as pushed to the remote is about `url`.
pub(crate) fn is_noted(database: &Database, remote: &str, url: &str) -> Result<bool> {
    Ok(database.setting(&pushed_url(remote))?.as_deref() == Some(url))
}

/// Notes what was pushed to `url`.
pub(crate) fn note_pushed(
    database: &Database,
    remote: &str,
    url: &str,
    updates: &[PushUpdate],
) -> Result<()> {
    let hold = database.store().hold();
    let prefix = pushed_prefix(remote);
    if database.setting(&pushed_url(remote))?.as_deref() != Some(url) {
        // What was noted is about another place, and goes before it could be taken for this one.
        let gone = database.refs(&prefix).into_iter();
        let gone: Vec<RefUpdate> =
            gone.map(|(name, old)| RefUpdate { name, old: Some(old), new: None }).collect();
        if !gone.is_empty() && !matches!(database.update_refs(Batch::default(), &gone)?, Outcome::Appended(_))
        {
            return Ok(());
        }
        database.set_setting(&pushed_url(remote), Some(url))?;
    }
    for _ in 0..MOVE_ATTEMPTS {
        let before: BTreeMap<String, Hash> = database.refs(&prefix).into_iter().collect();
        let moves: Vec<RefUpdate> = updates
            .iter()
            .filter(|update| update.new.is_none_or(|new| hold.keep(&new)))
            .map(|update| {
                let name = format!("{prefix}{}", update.name);
                RefUpdate { old: before.get(&name).copied(), name, new: update.new }
            })
            .filter(|update| update.old != update.new)
            .collect();
        if moves.is_empty() {
            return Ok(());
        }
        if let Outcome::Appended(_) = database.update_refs(Batch::default(), &moves)? {
            return Ok(());
        }
    }
    // The next push finds it there already, and notes it.
    Ok(())
}
