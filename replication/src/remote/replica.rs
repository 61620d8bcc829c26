//! A read replica: it follows a remote, and each refresh makes its branches what the remote's are.
//!
//! What a read sees is at most as old as is allowed: each pull, and each heartbeat of a watch, says up to when nothing is missing here (`fresh`). A read that finds
//! that recent enough asks nobody.
//!
//! The one idea: what is pulled is shared. A transaction that begins needs a pull that begins after it, and any such pull will do; so all
//! that wait while one runs share the next. Nothing that the replica had of its own is lost: it is kept under `recovery/`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Mutex, RwLock};
use pleach_engine::{Batch, Branch, Database, Hash, Outcome, RefUpdate};
use pleach_protocol::limits::MOVE_ATTEMPTS;
use pleach_protocol::{Credentials, RefPatterns, RefResult, RefStatus, Remote, fetch};
use tokio::task::{AbortHandle, JoinHandle};

use crate::error::{Error, NotWritable, Result};
use crate::limits::{BACK_OFF, HEARTBEAT, LOOK_AT_PLACE};
use crate::remote::runs::{Runs, Turn};
use crate::shared_refs::{HEADS, WORK};

/// When a replica looks at its remote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Refresh {
    /// Whenever it is read.
    #[default]
    Transaction,
    /// So often, and when it is read if that was too long ago.
    Every(Duration),
    /// As soon as the remote says that something has changed there, if it is a server; else each second.
    Watch,
}

/// What a read replica follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaConfig {
    /// Name of the remote, which each database has.
    pub remote: String,
    /// The branches to follow: names, or patterns in which `*` stands for any characters, `/` too. Spaces around them do not count.
    pub heads: Vec<String>,
    /// Every branch, and tags, instead.
    pub all_heads: bool,
    /// Take a branch that the remote moved to a commit which does not contain the replica's; otherwise that is an error.
    pub force_pull: bool,
    /// What is shown to remotes that are servers.
    pub credentials: Credentials,
    /// When it looks at the remote.
    pub refresh: Refresh,
    /// How old what is read may be: if it is known to be no older, a read asks nobody. Zero: a read asks always, unless the replica looks at the remote on an interval,
    /// and then never.
    pub max_staleness: Duration,
}

/// Follows a remote. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct ReadReplica {
    inner: Arc<Inner>,
    /// Ends what looks at remotes beside reads, with the last clone.
    looking: Arc<Looking>,
}

/// The tasks that look at remotes.
#[derive(Default)]
struct Looking(Mutex<Vec<AbortHandle>>);

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.get_mut().iter().for_each(AbortHandle::abort);
    }
}

struct Inner {
    config: ReplicaConfig,
    /// Which refs are followed; what is wrong with the configuration if none is.
    patterns: Result<RefPatterns, String>,
    pulls: Mutex<HashMap<String, Arc<Pull>>>,
    /// Whether it follows no more. Read while branches are moved.
    is_retired: RwLock<bool>,
}

/// The pulls of one database, one at a time.
#[derive(Default)]
struct Pull {
    pulls: Runs<Refreshed>,
    /// Up to when nothing of the remote is missing here.
    fresh: Mutex<Option<Instant>>,
    /// The identity of the store that it is about.
    store: [u8; 16],
    status: Mutex<PullStatus>,
}

/// What there is to say of the pulls of one database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullStatus {
    /// The database.
    pub database: String,
    /// Pulls that got through, whether or not anything had changed, and those that did not, since the replica began.
    pub pulls: u64,
    /// See `pulls`.
    pub failures: u64,
    /// When the last pull got through.
    pub last_pull: Option<SystemTime>,
    /// How long ago it was known that nothing of the remote is missing here; `None` before the first pull.
    pub staleness: Option<Duration>,
    /// Why the last pull did not get through.
    pub current_error: Option<String>,
}

impl Pull {
    /// Notes a pull that was made.
    fn note(&self, result: &Result<Refreshed>) {
        let mut status = self.status.lock();
        match result {
            Ok(_) => (status.pulls, status.last_pull) = (status.pulls + 1, Some(SystemTime::now())),
            Err(_) => status.failures += 1,
        }
        status.current_error = result.as_ref().err().map(Error::to_string);
    }
}

/// What a refresh did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refreshed {
    /// The branches and tags that changed here: `heads/NAME`, `tags/NAME`.
    pub changed: Vec<String>,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

impl ReadReplica {
    /// A replica that follows what `config` says. A configuration that follows nothing gives a replica that is disabled, with a
    /// [`ReadReplica::warning`].
    pub fn new(config: ReplicaConfig) -> ReadReplica {
        let heads: Vec<&str> =
            config.heads.iter().map(|head| head.trim()).filter(|head| !head.is_empty()).collect();
        let disabled =
            |why: &str| Err(format!("{why}, replication disabled: reads and writes use local data"));
        let patterns = match (heads.is_empty(), config.all_heads) {
            (true, false) => disabled("must set either replicate_heads or replicate_all_heads"),
            (false, true) => disabled("cannot set both replicate_heads and replicate_all_heads"),
            (true, true) => Ok(RefPatterns::all()),
            (false, false) => {
                let heads: Vec<String> = heads.iter().map(|head| format!("{HEADS}{head}")).collect();
                RefPatterns::new(&heads).map_err(|error| format!("{error}, replication disabled"))
            }
        };
        let heads = heads.into_iter().map(str::to_owned).collect();
        let config = ReplicaConfig { heads, ..config };
        ReadReplica {
            inner: Arc::new(Inner {
                config,
                patterns,
                pulls: Mutex::default(),
                is_retired: RwLock::default(),
            }),
            looking: Arc::default(),
        }
    }

    /// Why the replica is disabled, if it is.
    pub fn warning(&self) -> Option<&str> {
        self.inner.patterns.as_ref().err().map(String::as_str)
    }

    /// Follows no more, for good: when this returns, no branch is moved any more, not even by a pull that has begun, so that the branches can be written to. Waits for
    /// moves under way; blocking.
    pub fn retire(&self) {
        *self.inner.is_retired.write() = true;
        self.looking.0.lock().drain(..).for_each(|task| task.abort());
    }

    /// Asked before any write.
    ///
    /// # Errors
    /// [`NotWritable::ReadReplica`], unless the replica is disabled.
    pub fn gate(&self) -> Result<(), NotWritable> {
        match self.inner.patterns {
            Ok(_) => Err(NotWritable::ReadReplica { remote: self.inner.config.remote.clone() }),
            Err(_) => Ok(()),
        }
    }

    /// Makes the followed branches of `database`, which is called `name`, what the remote's are at some moment after the call.
    ///
    /// # Errors
    /// [`Error::UnknownRemote`], [`Error::UnknownBranch`], [`Error::NotFastForward`], those of a fetch. What could be followed was.
    pub async fn refresh(&self, name: &str, database: &Database) -> Result<Refreshed> {
        let patterns = match &self.inner.patterns {
            Ok(patterns) => patterns,
            Err(why) => return Ok(Refreshed { changed: Vec::new(), warnings: vec![why.clone()] }),
        };
        let pull = self.pull_of(name, database);
        let age = pull.fresh.lock().map(|fresh| fresh.elapsed());
        let is_fresh = match (self.inner.config.refresh, self.inner.config.max_staleness) {
            (Refresh::Every(_), Duration::ZERO) => age.is_some(),
            (_, Duration::ZERO) => false,
            (_, most) => age.is_some_and(|age| age <= most),
        };
        match is_fresh {
            true => Ok(Refreshed::default()),
            false => self.inner.shared_pull(&pull, database, patterns).await,
        }
    }

    /// [`ReadReplica::refresh`], which asks the remote however recent what is here may be.
    ///
    /// # Errors
    /// As those of [`ReadReplica::refresh`].
    pub async fn refresh_now(&self, name: &str, database: &Database) -> Result<Refreshed> {
        match &self.inner.patterns {
            Ok(patterns) => self.inner.shared_pull(&self.pull_of(name, database), database, patterns).await,
            Err(why) => Ok(Refreshed { changed: Vec::new(), warnings: vec![why.clone()] }),
        }
    }

    /// What there is to say of each database that was read, by name. Never blocks.
    pub fn status(&self) -> Vec<PullStatus> {
        let pulls: Vec<Arc<Pull>> = self.inner.pulls.lock().values().cloned().collect();
        let of = |pull: Arc<Pull>| {
            let staleness = pull.fresh.lock().map(|fresh| fresh.elapsed());
            PullStatus { staleness, ..pull.status.lock().clone() }
        };
        let mut status: Vec<PullStatus> = pulls.into_iter().map(of).collect();
        status.sort_by(|a, b| a.database.cmp(&b.database));
        status
    }

    /// The pulls of a database; what looks at the remote beside reads is begun with the first.
    fn pull_of(&self, name: &str, database: &Database) -> Arc<Pull> {
        let mut pulls = self.inner.pulls.lock();
        // One that was dropped and made again is another.
        let store = database.store().id();
        if let Some(pull) = pulls.get(name).filter(|pull| pull.store == store) {
            return pull.clone();
        }
        let status = Mutex::new(PullStatus { database: name.to_owned(), ..PullStatus::default() });
        let pull = Arc::new(Pull { store, status, ..Pull::default() });
        let looks = match self.inner.config.refresh {
            Refresh::Transaction => None,
            Refresh::Every(interval) => Some(tokio::spawn(look_every(
                self.inner.clone(),
                Arc::downgrade(&pull),
                database.clone(),
                interval,
            ))),
            Refresh::Watch => Some(tokio::spawn(look_when_told(
                self.inner.clone(),
                Arc::downgrade(&pull),
                database.clone(),
            ))),
        };
        self.looking.0.lock().extend(looks.iter().map(JoinHandle::abort_handle));
        pulls.insert(name.to_owned(), pull.clone());
        pull
    }
}

/// Pulls on an interval, until the replica is gone.
async fn look_every(inner: Arc<Inner>, pull: Weak<Pull>, database: Database, interval: Duration) {
    let mut said = None;
    loop {
        tokio::time::sleep(interval).await;
        let (Some(pull), Ok(patterns)) = (pull.upgrade(), &inner.patterns) else { return };
        let pulled = inner.shared_pull(&pull, &database, patterns).await;
        inner.say(&mut said, pulled.err());
    }
}

/// Pulls whenever the remote says that something has changed, until the replica is gone.
async fn look_when_told(inner: Arc<Inner>, pull: Weak<Pull>, database: Database) {
    let (mut said, mut wait) = (None, BACK_OFF.0);
    loop {
        match inner.watch(&pull, &database, &mut wait).await {
            Ok(()) => return,
            Err(Error::Exchange(pleach_protocol::Error::NoServer { .. })) => {
                return look_every(inner, pull, database, LOOK_AT_PLACE).await;
            }
            Err(error) => inner.say(&mut said, Some(error)),
        }
        tokio::time::sleep(wait).await;
        wait = (2 * wait).min(BACK_OFF.1);
    }
}

impl Inner {
    /// Pulls, or shares a pull that begins after this was called.
    async fn shared_pull(
        self: &Arc<Inner>,
        pull: &Pull,
        database: &Database,
        patterns: &RefPatterns,
    ) -> Result<Refreshed> {
        let mut run = match pull.pulls.turn().await {
            Turn::Shared(result) => return result,
            Turn::Ours(run) => run,
        };
        let began = Instant::now();
        let result = self.pull(database, patterns, run.remote()).await;
        pull.note(&result);
        if result.is_ok() {
            let mut fresh = pull.fresh.lock();
            *fresh = (*fresh).max(Some(began));
        }
        run.end(result)
    }

    /// Pulls whenever the remote says that something has changed; heartbeats in between say that nothing has. Ends when the replica is gone, or with why the watch did.
    async fn watch(
        self: &Arc<Inner>,
        pull: &Weak<Pull>,
        database: &Database,
        wait: &mut Duration,
    ) -> Result<()> {
        let Ok(patterns) = &self.patterns else { return Ok(()) };
        let most = self.config.max_staleness;
        let heartbeat = (!most.is_zero()).then(|| (most / 4).min(HEARTBEAT));
        let url = crate::remote::remote_url(database, &self.config.remote, &self.config.credentials)?;
        let remote = Remote::connect(&url).await?;
        let mut watching = pleach_protocol::watch(&remote, patterns, &[], heartbeat).await?;
        let mut is_due = true;
        loop {
            let asked = Instant::now();
            let changed = watching.next().await?;
            let told = Instant::now();
            // What had to be waited for was sent just now; what lay there already, while a pull ran, may be old.
            let is_new = heartbeat.is_some_and(|heartbeat| told - asked >= heartbeat / 4);
            let Some(pull) = pull.upgrade() else { return Ok(()) };
            is_due |= !changed.is_empty();
            if is_due {
                self.shared_pull(&pull, database, patterns).await?;
                is_due = false;
            } else if is_new {
                let mut fresh = pull.fresh.lock();
                *fresh = (*fresh).max(Some(told));
            }
            *wait = BACK_OFF.0;
        }
    }

    /// Logs what is wrong with the remote, once as long as it is the same.
    fn say(&self, said: &mut Option<String>, error: Option<Error>) {
        let error = error.map(|error| error.to_string());
        if let Some(error) = error.as_ref().filter(|_| error != *said) {
            tracing::warn!(remote = self.config.remote, "the replica was not refreshed: {error}");
        }
        *said = error;
    }

    async fn pull(
        self: &Arc<Inner>,
        database: &Database,
        patterns: &RefPatterns,
        open: &mut Option<Remote>,
    ) -> Result<Refreshed> {
        let name = &self.config.remote;
        let url = crate::remote::remote_url(database, name, &self.config.credentials)?;
        // A connection that was kept may have died unseen; a new one says what is true.
        let kept = open.take().filter(|remote| *remote.url() == url);
        let again = match &kept {
            Some(remote) => fetch(database, remote, name, patterns).await.ok(),
            None => None,
        };
        let (remote, transfer) = match (kept, again) {
            (Some(remote), Some(transfer)) => (remote, transfer),
            _ => {
                let remote = Remote::connect(&url).await?;
                let transfer = fetch(database, &remote, name, patterns).await?;
                (remote, transfer)
            }
        };
        *open = Some(remote);
        let (inner, database, patterns) = (self.clone(), database.clone(), patterns.clone());
        crate::blocking(move || inner.follow(&database, &patterns, &transfer.refs)).await
    }

    /// Moves the branches here to what was fetched. Blocking.
    fn follow(
        &self,
        database: &Database,
        patterns: &RefPatterns,
        fetched: &[RefResult],
    ) -> Result<Refreshed> {
        let is_retired = self.is_retired.read();
        if *is_retired {
            return Ok(Refreshed::default());
        }
        let mut moved = String::new();
        for _ in 0..MOVE_ATTEMPTS {
            let plan = self.plan(database, patterns, fetched)?;
            if !plan.moves.is_empty()
                && let Outcome::Moved { name, .. } = database.update_refs(Batch::default(), &plan.moves)?
            {
                moved = name;
                continue;
            }
            return match plan.error {
                Some(error) => Err(error),
                None => Ok(plan.refreshed),
            };
        }
        Err(Error::Exchange(pleach_protocol::Error::Moved { name: moved }))
    }

    fn plan(&self, database: &Database, patterns: &RefPatterns, fetched: &[RefResult]) -> Result<Plan> {
        let followed = |branch: &str| patterns.matches(&format!("{HEADS}{branch}"));
        let prefix = format!("remotes/{}/", self.config.remote);
        let mut theirs: BTreeMap<String, Hash> = database
            .refs(&prefix)
            .into_iter()
            .map(|(name, hash)| (name[prefix.len()..].to_owned(), hash))
            .filter(|(branch, _)| followed(branch))
            .collect();
        let mut plan = Plan::default();
        self.check_heads(&theirs, &mut plan);
        for branch in database.branches()?.into_iter().filter(|branch| followed(&branch.name)) {
            match (theirs.remove(&branch.name), branch.head) {
                (Some(new), _) => self.move_branch(database, &branch, new, &mut plan)?,
                (None, Some(_)) => plan.delete(database, &branch)?,
                // A branch that has no commit yet is none of the remote's.
                (None, None) => {}
            }
        }
        for (branch, new) in theirs {
            plan.create(database, &branch, new)?;
        }
        for tag in fetched.iter().filter(|one| one.name.starts_with("tags/")) {
            match (&tag.status, tag.old, tag.new) {
                (RefStatus::Rejected { .. }, Some(old), Some(_)) if self.config.force_pull => {
                    plan.moves.push(database.keep(&tag.name, old));
                    plan.set(&tag.name, Some(old), tag.new);
                }
                _ => plan.refreshed.changed.push(tag.name.clone()),
            }
        }
        Ok(plan)
    }

    /// Notes which of the branches to follow the remote does not have.
    fn check_heads(&self, theirs: &BTreeMap<String, Hash>, plan: &mut Plan) {
        let remote = &self.config.remote;
        for head in &self.config.heads {
            if !head.contains('*') {
                if !theirs.contains_key(head) {
                    plan.error = Some(Error::UnknownBranch { branch: head.clone(), remote: remote.clone() });
                }
            } else if let Ok(pattern) = RefPatterns::new(&[format!("{HEADS}{head}")])
                && !theirs.keys().any(|branch| pattern.matches(&format!("{HEADS}{branch}")))
            {
                plan.refreshed
                    .warnings
                    .push(format!("branch pattern '{head}' did not match any branch of `{remote}`"));
            }
        }
    }

    fn move_branch(&self, database: &Database, branch: &Branch, new: Hash, plan: &mut Plan) -> Result<()> {
        let root = database.commit_object(&new)?.root;
        if branch.head == Some(new) && branch.work == root {
            return Ok(());
        }
        if let Some(old) = branch.head.filter(|old| *old != new)
            && !database.is_ancestor(&old, &new)?
        {
            if !self.config.force_pull {
                let (branch, remote) = (branch.name.clone(), self.config.remote.clone());
                plan.error = Some(Error::NotFastForward { branch, remote });
                return Ok(());
            }
            plan.keep_head(database, branch);
        }
        plan.keep_work(database, branch)?;
        if branch.head != Some(new) {
            plan.set(&format!("{HEADS}{}", branch.name), branch.head, Some(new));
        }
        if branch.work != root {
            plan.moves.push(RefUpdate {
                name: format!("{WORK}{}", branch.name),
                old: Some(branch.work),
                new: Some(root),
            });
        }
        Ok(())
    }
}

/// The moves that make the branches here those of the remote.
#[derive(Default)]
struct Plan {
    moves: Vec<RefUpdate>,
    refreshed: Refreshed,
    /// What could not be followed, after all that could.
    error: Option<Error>,
}

impl Plan {
    fn set(&mut self, name: &str, old: Option<Hash>, new: Option<Hash>) {
        self.moves.push(RefUpdate { name: name.to_owned(), old, new });
        self.refreshed.changed.push(name.to_owned());
    }

    fn create(&mut self, database: &Database, branch: &str, new: Hash) -> Result<()> {
        let root = database.commit_object(&new)?.root;
        self.set(&format!("{HEADS}{branch}"), None, Some(new));
        self.moves.push(RefUpdate { name: format!("{WORK}{branch}"), old: None, new: Some(root) });
        Ok(())
    }

    fn delete(&mut self, database: &Database, branch: &Branch) -> Result<()> {
        self.keep_head(database, branch);
        self.keep_work(database, branch)?;
        self.set(&format!("{HEADS}{}", branch.name), branch.head, None);
        self.moves.push(RefUpdate {
            name: format!("{WORK}{}", branch.name),
            old: Some(branch.work),
            new: None,
        });
        Ok(())
    }

    fn keep_head(&mut self, database: &Database, branch: &Branch) {
        if let Some(head) = branch.head {
            self.moves.push(database.keep(&format!("{HEADS}{}", branch.name), head));
        }
    }

    /// Keeps uncommitted work, which a replica has only from the time before it was one.
    fn keep_work(&mut self, database: &Database, branch: &Branch) -> Result<()> {
        let committed =
            branch.head.map(|head| database.commit_object(&head)).transpose()?.map(|commit| commit.root);
        let dirty = match committed {
            Some(root) => root != branch.work,
            None => !database.snapshot_of_root(branch.work)?.tables()?.is_empty(),
        };
        if dirty {
            let name = format!("{WORK}{}", branch.name);
            self.moves.push(database.keep(&name, branch.work));
        }
        Ok(())
    }
}
