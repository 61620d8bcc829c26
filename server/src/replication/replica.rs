//! The gate of a read replica: no writes, and every read is of the remote as it is now, or as fresh as is asked for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pleach_engine::{Database, Hash, Token};
use pleach_protocol::{Databases, Part, Remote, check_database_name, clone_database};
use pleach_replication::{ReadReplica, ReplicaConfig};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::Follow;
use crate::credentials;
use crate::error::{Failure, Result};
use crate::gate::{Gate, Observed, Permit, Waiting, poll};

/// How many of the newest commits of each branch a read replica looks through for the write of a token.
const COMMITS_SEARCHED: usize = 1000;

/// How many databases are brought up to date at the same time before a promotion.
const REFRESHED_AT_ONCE: usize = 16;

/// The gate of a read replica. Its calls come from threads that may block.
pub(super) struct ReplicaGate {
    replica: ReadReplica,
    follow: Follow,
    databases: Databases,
    waiting: Waiting,
    runtime: Handle,
    /// What was last logged of each database: the same is not said with each read.
    said: Mutex<HashMap<String, String>>,
}

impl ReplicaGate {
    /// In a runtime.
    pub(super) fn new(follow: &Follow, databases: &Databases) -> Result<ReplicaGate> {
        let replica = ReadReplica::new(ReplicaConfig {
            remote: follow.remote.clone(),
            heads: follow.heads.clone(),
            all_heads: follow.all_heads,
            force_pull: follow.force_pull,
            credentials: credentials::read()?,
            refresh: follow.refresh,
            max_staleness: follow.max_staleness,
        });
        let (follow, databases) = (follow.clone(), databases.clone());
        let (waiting, runtime, said) = (Waiting::default(), Handle::current(), Mutex::default());
        Ok(ReplicaGate { replica, follow, databases, waiting, runtime, said })
    }

    /// Name of the remote that it follows.
    pub(super) fn remote(&self) -> &str {
        &self.follow.remote
    }

    /// Why it follows nothing, if it does not.
    pub(super) fn warning(&self) -> Option<&str> {
        self.replica.warning()
    }

    /// Follows no more.
    pub(super) fn retire(&self) {
        self.replica.retire();
    }

    /// Brings every database to where the remote is now, as far as that comes within `limit`. Gives what did not work, by database.
    pub(super) fn refresh_all(&self, limit: Option<Duration>) -> Result<Vec<(String, Failure)>> {
        let mut failures = BTreeMap::new();
        let mut refreshed = JoinSet::new();
        let turns = Arc::new(Semaphore::new(REFRESHED_AT_ONCE));
        let _runtime = self.runtime.enter();
        for name in self.databases.list()? {
            let (replica, turns) = (self.replica.clone(), turns.clone());
            match self.databases.get(&name) {
                Ok(Some(database)) => {
                    failures.insert(name.clone(), Failure::remote("its remote did not answer in time"));
                    refreshed.spawn(async move {
                        let _turn = turns.acquire_owned().await;
                        let refreshed = replica.refresh_now(&name, &database).await;
                        (name, refreshed)
                    });
                }
                Ok(None) => {}
                Err(error) => drop(failures.insert(name, error.into())),
            }
        }
        self.runtime.block_on(async {
            let deadline = limit.map(|limit| Instant::now() + limit);
            let late = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::pin!(late);
            loop {
                let ended = tokio::select! {
                    ended = refreshed.join_next() => ended,
                    () = &mut late => None,
                };
                match ended {
                    None => break,
                    Some(Ok((name, Ok(_)))) => drop(failures.remove(&name)),
                    Some(Ok((name, Err(error)))) => drop(failures.insert(name, error.into())),
                    // It stays among those that did not answer.
                    Some(Err(_)) => {}
                }
            }
        });
        Ok(failures.into_iter().collect())
    }

    /// Logs what is wrong with a database, once as long as it is the same.
    fn say(&self, name: &str, warnings: &[String]) {
        let now = warnings.join("; ");
        let mut said = self.said.lock();
        let before = match now.is_empty() {
            true => said.remove(name),
            false => said.insert(name.to_owned(), now.clone()),
        };
        drop(said);
        if !now.is_empty() && before.as_ref() != Some(&now) {
            tracing::warn!(database = name, "{now}");
        }
    }
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
        self.say(name, &warnings);
        Ok(())
    }

    /// A token of the remote names its root: it is here as some branch's work, or as what a commit holds.
    fn wait_for(&self, name: &str, database: &Database, token: &Token, limit: Duration) -> bool {
        let is_disabled = self.replica.warning().is_some();
        poll(limit, || match is_disabled {
            true => database.sequence() >= token.sequence,
            false => {
                let refreshed = self.runtime.block_on(self.replica.refresh_now(name, database));
                refreshed.is_ok() && has_write(database, token).unwrap_or(false)
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

    /// One remote, which is never behind what it had.
    fn follows(&self) -> Option<u64> {
        Some(0)
    }

    fn observe(&self) -> Observed {
        // One that is disabled takes writes.
        let role = if self.replica.gate().is_ok() { "primary" } else { "replica" };
        let (remote, pulls) = (self.follow.remote.clone(), self.replica.status());
        Observed { role, remote, pulls, ..Observed::default() }
    }
}

/// Whether a branch is, or was in its newest commits, what the token's write made of it. What it was before, and became again by that write, is no sign: that
/// does not go on from the commit that the write went on from.
fn has_write(database: &Database, token: &Token) -> Result<bool> {
    if token.head.is_some_and(|head| !database.store().contains(&head)) {
        return Ok(false);
    }
    let goes_on = |commit: &Hash| match &token.head {
        Some(head) => database.is_ancestor(head, commit),
        None => Ok(true),
    };
    for branch in database.branches()? {
        if branch.work == token.root && branch.head.as_ref().map_or(Ok(token.head.is_none()), goes_on)? {
            return Ok(true);
        }
        let Some(head) = branch.head else { continue };
        for commit in database.log(&head)?.take(COMMITS_SEARCHED) {
            let (hash, commit) = commit?;
            if commit.root == token.root && goes_on(&hash)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use pleach_engine::{NewCommit, TransactionOutcome};

    use super::*;

    fn put(database: &Database, value: &str) -> Token {
        let mut transaction = database.begin("main").unwrap();
        if !transaction.has_table("t").unwrap() {
            transaction.create_table("t", None).unwrap();
        }
        transaction.put("t", b"k", value.as_bytes()).unwrap();
        match transaction.commit().unwrap() {
            TransactionOutcome::Committed(token) => token,
            other => panic!("{other:?}"),
        }
    }

    fn commit(database: &Database) -> Token {
        database.commit("main", NewCommit { message: "m".into(), ..NewCommit::default() }).unwrap().token
    }

    #[test]
    fn what_a_branch_was_before_is_not_taken_for_a_write_that_makes_it_so_again() {
        let database = Database::memory().unwrap();
        let has = |token: &Token| has_write(&database, token).unwrap();
        let first = put(&database, "a");
        assert!(has(&first));
        commit(&database);
        put(&database, "b");
        let second = commit(&database);
        assert!(has(&first), "its commit is there");
        // The same content as at first, on a primary that this replica follows.
        let again = Token { sequence: second.sequence + 1, root: first.root, ..second };
        assert!(!has(&again), "it is what the branch was, not what it is to become");
        assert_eq!(put(&database, "a").root, again.root);
        assert!(has(&again));
        commit(&database);
        put(&database, "c");
        commit(&database);
        assert!(has(&again), "its commit is there");
        assert!(!has(&Token { head: Some(Hash::of(b"elsewhere")), ..again }));
    }
}
