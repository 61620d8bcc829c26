//! A read replica: it follows a remote, and each refresh makes its branches what the remote's are.
//!
//! The one idea: what is pulled is shared. A transaction that begins needs a pull that begins after it, and any such pull will do; so all
//! that wait while one runs share the next. Nothing that the replica had of its own is lost: it is kept under `recovery/`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use pleach_engine::{Batch, Branch, Database, Hash, Outcome, RefUpdate};
use pleach_protocol::limits::MOVE_ATTEMPTS;
use pleach_protocol::{Credentials, RefPatterns, RefResult, RefStatus, Remote, RemoteUrl, fetch};

use crate::error::{Error, ErrorKind, NotWritable, Result};
use crate::shared_refs::{self, HEADS, WORK};

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
}

/// Follows a remote. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct ReadReplica {
    inner: Arc<Inner>,
}

struct Inner {
    config: ReplicaConfig,
    /// Which refs are followed; what is wrong with the configuration if none is.
    patterns: Result<RefPatterns, String>,
    pulls: Mutex<HashMap<String, Arc<Pull>>>,
}

/// The pulls of one database, one at a time.
#[derive(Default)]
struct Pull {
    started: AtomicU64,
    last: tokio::sync::Mutex<Last>,
}

struct Last {
    /// Number of the pull whose result this is.
    number: u64,
    result: Result<Refreshed, (String, ErrorKind)>,
    remote: Option<Remote>,
}

impl Default for Last {
    fn default() -> Last {
        Last { number: 0, result: Ok(Refreshed::default()), remote: None }
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
        ReadReplica { inner: Arc::new(Inner { config, patterns, pulls: Mutex::default() }) }
    }

    /// Why the replica is disabled, if it is.
    pub fn warning(&self) -> Option<&str> {
        self.inner.patterns.as_ref().err().map(String::as_str)
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
        let pull = self.inner.pulls.lock().entry(name.to_owned()).or_default().clone();
        // One that runs now may have asked the remote already; the one after it will not have.
        let needed = pull.started.load(Ordering::SeqCst) + 1;
        let mut last = pull.last.lock().await;
        if last.number < needed {
            let number = pull.started.fetch_add(1, Ordering::SeqCst) + 1;
            let result = self.inner.pull(database, patterns, &mut last.remote).await;
            last.result = result.map_err(|error| (error.to_string(), error.kind()));
            last.number = number;
        }
        last.result.clone().map_err(|(what, kind)| Error::Shared { what, kind })
    }
}

impl Inner {
    async fn pull(
        self: &Arc<Inner>,
        database: &Database,
        patterns: &RefPatterns,
        open: &mut Option<Remote>,
    ) -> Result<Refreshed> {
        let name = &self.config.remote;
        let url = database.setting(&format!("remote.{name}.url"))?;
        let url: RemoteUrl = url.ok_or_else(|| Error::UnknownRemote { remote: name.clone() })?.parse()?;
        let url = self.config.credentials.authorize(url);
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
        let mut plan = Plan { number: database.sequence(), ..Plan::default() };
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
                    plan.moves.push(shared_refs::keep(database, &tag.name, old, plan.number));
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
    /// Under which what is lost is kept.
    number: u64,
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
            self.moves.push(shared_refs::keep(
                database,
                &format!("{HEADS}{}", branch.name),
                head,
                self.number,
            ));
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
            self.moves.push(shared_refs::keep(database, &name, branch.work, self.number));
        }
        Ok(())
    }
}
