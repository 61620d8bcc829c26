//! The gate of a primary that pushes on write: after a write has been done as any other, what it did to branches and tags is pushed.

use std::sync::Arc;
use std::time::Duration;

use pleach_engine::{Database, NewCommit, Token};
use pleach_protocol::{Bearer, Databases, Remote, RemoteUrl, begin_remote, connect, endpoint};
use pleach_replication::{Error, OnConflict, Primary, PrimaryConfig, Tenure};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tonic::Code;

use crate::config::Push;
use crate::credentials;
use crate::error::{Failure, Result};
use crate::gate::{Gate, Observed, Permit, Waiting, Written};
use crate::proto::data_client::DataClient;
use crate::proto::{
    AssumeRoleRequest, AssumeRoleResponse, ClusterHistoryRequest, ClusterHistoryResponse,
    ClusterStatusRequest, ClusterStatusResponse, CreateDatabaseRequest,
};

/// How long a server that stops goes on pushing.
const DRAIN_MAX: Duration = Duration::from_secs(20);

/// How long a write waits for its push if errors are to be skipped.
const SKIPPED_AFTER: Duration = Duration::from_secs(5);

/// How long pushes under way may take to end when the remote is changed.
const RETIRE_MAX: Duration = Duration::from_secs(2);

/// The gate behind which writes are pushed. Its calls come from threads that may block.
pub(super) struct PrimaryGate {
    /// What else decides about requests.
    inner: Arc<dyn Gate>,
    primary: Primary,
    push: Push,
    databases: Databases,
    waiting: Waiting,
    runtime: Handle,
}

impl PrimaryGate {
    /// In a runtime. Nothing is pushed before it follows databases. It goes on with the pushes of `old`, if those go to the same remote.
    pub(super) fn new(
        push: &Push,
        inner: Arc<dyn Gate>,
        databases: &Databases,
        old: Option<&PrimaryGate>,
    ) -> Result<PrimaryGate> {
        let primary = match old.map(|old| &old.primary).filter(|primary| primary.remote() == push.remote) {
            Some(primary) => primary.clone(),
            None => {
                let writable = inner.clone();
                Primary::new(PrimaryConfig {
                    remote: push.remote.clone(),
                    credentials: credentials::read()?,
                    on_conflict: on_conflict(push),
                    author: crate::author::default(),
                    strict: push.strict,
                    // Of a cluster, the node alone that takes writes.
                    permit: Arc::new(move || writable.writable().ok()),
                })
            }
        };
        let (push, databases) = (push.clone(), databases.clone());
        let (waiting, runtime) = (Waiting::default(), Handle::current());
        Ok(PrimaryGate { inner, primary, push, databases, waiting, runtime })
    }

    /// Pushes as is configured, of all databases.
    pub(super) fn begin(self: &Arc<PrimaryGate>) -> Result<()> {
        self.primary.set_on_conflict(on_conflict(&self.push));
        let _runtime = self.runtime.enter();
        self.primary.set_strict(self.push.strict);
        drop(self.follow_all()?);
        Ok(())
    }

    /// Whether both push by the same means.
    pub(super) fn goes_on_with(&self, other: &PrimaryGate) -> bool {
        self.primary.remote() == other.primary.remote()
    }

    /// Pushes what is left.
    pub(super) async fn stop(&self) {
        self.primary.shutdown(DRAIN_MAX).await;
    }

    /// Pushes nothing more.
    pub(super) fn retire(&self) {
        self.runtime.block_on(self.primary.retire(RETIRE_MAX));
    }

    /// Follows all databases that there are, and no others: of an earlier process something may be left to push. Gives who is still being given a remote.
    fn follow_all(self: &Arc<PrimaryGate>) -> Result<Vec<JoinHandle<()>>> {
        let _runtime = self.runtime.enter();
        let mut names = self.databases.list()?;
        for status in self.primary.status() {
            if !names.contains(&status.database) {
                self.primary.forget(&status.database);
            }
        }
        let mut begun = Vec::new();
        // Of two databases with one remote, it is rather that of the one which is called as the remote is.
        names.sort_by_cached_key(|name| !self.is_called_as_its_remote(name));
        for name in names {
            match self.databases.get(&name) {
                Ok(Some(database)) if self.is_to_register(&database) => {
                    let gate = self.clone();
                    begun.push(tokio::task::spawn_blocking(move || {
                        gate.register(&name, &database);
                        gate.follow(&name, &database);
                    }));
                }
                Ok(Some(database)) => self.follow(&name, &database),
                Ok(None) => {}
                // It is told when somebody uses it; the others are pushed.
                Err(error) => tracing::warn!(database = name, "cannot be opened, and is not pushed: {error}"),
            }
        }
        Ok(begun)
    }

    fn follow(&self, name: &str, database: &Database) {
        let _runtime = self.runtime.enter();
        self.primary.follow(name, database);
    }

    fn is_called_as_its_remote(&self, name: &str) -> bool {
        let database = self.databases.get(name).ok().flatten();
        let url = database.and_then(|database| database.setting(&self.key()).ok().flatten());
        url.and_then(|url| url.parse::<RemoteUrl>().ok()).is_some_and(|url| url.database() == name)
    }

    /// The setting with the URL of the remote.
    fn key(&self) -> String {
        format!("remote.{}.url", self.push.remote)
    }

    /// Whether a database has no remote, and the configuration says where it is.
    fn is_to_register(&self, database: &Database) -> bool {
        self.push.template.is_some()
            && self.inner.writable().is_ok()
            && matches!(database.setting(&self.key()), Ok(None))
    }

    /// Gives a database the remote, if it has none and the configuration says where it is; and makes it there. If that fails, pushes say so.
    fn register(&self, name: &str, database: &Database) {
        let Some(template) = self.push.template.as_ref().filter(|_| self.is_to_register(database)) else {
            return;
        };
        let url = template.url(name);
        let registered = self
            .runtime
            .block_on(make_there(&url))
            .and_then(|()| Ok(database.set_setting(&self.key(), Some(&url))?));
        match registered {
            Ok(()) => tracing::info!(database = name, remote = self.push.remote, "is pushed to {url}"),
            // The next write tries again.
            Err(failure) => tracing::warn!(database = name, "is not pushed to {url} yet: {failure}"),
        }
    }

    /// Pushes what was written, or says why not.
    fn push(&self, name: &str, database: &Database) -> Option<String> {
        let remote = &self.push.remote;
        let waiting = match self.waiting.enter() {
            Ok(waiting) => waiting,
            Err(failure) => return Some(format!("replication to `{remote}`: {failure}")),
        };
        self.register(name, database);
        if self.push.in_background {
            self.follow(name, database);
            return None;
        }
        let pushed = match self.push.skip_errors {
            false => self.runtime.block_on(self.primary.push(name, database)),
            true => match self.push_if_soon(name, database) {
                Some(pushed) => pushed,
                None => {
                    let status = self.primary.status_of(name).unwrap_or_default();
                    let why = status.current_error.unwrap_or_else(|| "it does not answer".to_owned());
                    return Some(format!("replication to `{remote}`: {why}; it is not waited for"));
                }
            },
        };
        drop(waiting);
        match pushed {
            // What is configured by now is followed from here.
            Ok(()) | Err(Error::Retired) => None,
            Err(error) => {
                let is_disabled = self.primary.status_of(name).is_some_and(|status| status.is_disabled);
                let then = if is_disabled { "this database is not replicated" } else { "it is tried again" };
                Some(format!("replication to `{remote}`: {error}; {then}"))
            }
        }
    }

    /// Pushes, unless something waits for it for long already, or it takes long: then it goes on by itself.
    fn push_if_soon(&self, name: &str, database: &Database) -> Option<pleach_replication::Result<()>> {
        let since = self.primary.status_of(name).and_then(|status| status.behind_since?.elapsed().ok());
        if since.is_some_and(|since| since > SKIPPED_AFTER) {
            self.follow(name, database);
            return None;
        }
        let (primary, name, database) = (self.primary.clone(), name.to_owned(), database.clone());
        let push = self.runtime.spawn(async move { primary.push(&name, &database).await });
        let pushed = self.runtime.block_on(async { tokio::time::timeout(SKIPPED_AFTER, push).await });
        pushed.ok()?.ok()
    }

    /// Makes a version commit of a transaction, if that is wanted and there is something to commit.
    fn commit(&self, database: &Database, branch: &str) -> Result<()> {
        if let Some(message) = &self.push.transaction_commit {
            let _permit = self.inner.writable()?;
            let status = database.status(branch)?;
            if status.dirty && status.conflicts == 0 {
                let new = NewCommit {
                    message: message.clone(),
                    author: crate::author::default(),
                    ..NewCommit::default()
                };
                database.commit(branch, new)?;
            }
        }
        Ok(())
    }
}

impl Gate for Arc<PrimaryGate> {
    fn writable(&self) -> Result<Permit> {
        self.inner.writable()
    }

    fn before_read(&self, name: &str, database: &Database) -> Result<()> {
        self.inner.before_read(name, database)
    }

    fn wait_for(&self, name: &str, database: &Database, token: &Token, limit: Duration) -> bool {
        self.inner.wait_for(name, database, token, limit)
    }

    fn after_write(&self, written: Written<'_>) -> Result<Vec<String>> {
        let Written { name, database, branch, is_transaction } = written;
        let mut warnings = self.inner.after_write(Written { name, database, branch, is_transaction })?;
        if let Some(branch) = branch.filter(|_| is_transaction)
            && let Err(failure) = self.commit(database, branch)
        {
            warnings.push(format!("no version commit was made of the transaction: {failure}"));
        }
        if is_transaction && self.push.transaction_commit.is_none() {
            // It moved no branch and no tag.
            return Ok(warnings);
        }
        warnings.extend(self.push(name, database));
        Ok(warnings)
    }

    fn remote_of_new(&self) -> Option<String> {
        self.push.template.as_ref().map(|_| self.push.remote.clone())
    }

    fn observe(&self) -> Observed {
        Observed { remote: self.push.remote.clone(), pushes: self.primary.status(), ..self.inner.observe() }
    }

    fn databases_changed(&self) -> Result<()> {
        self.inner.databases_changed()?;
        // A database that was just made is there, too, when whoever made it is told.
        for begun in self.follow_all()? {
            let _ = self.runtime.block_on(begun);
        }
        Ok(())
    }

    fn tenure(&self) -> Option<Tenure> {
        self.inner.tenure()
    }

    fn status(&self, request: &ClusterStatusRequest) -> Result<ClusterStatusResponse> {
        self.inner.status(request)
    }

    fn history(&self, request: &ClusterHistoryRequest) -> Result<ClusterHistoryResponse> {
        self.inner.history(request)
    }

    fn assume_role(&self, request: &AssumeRoleRequest, by: &str) -> Result<AssumeRoleResponse> {
        let assumed = self.inner.assume_role(request, by)?;
        // What came while this node was a standby, and what was not for it to push.
        drop(self.follow_all()?);
        self.primary.wake();
        Ok(assumed)
    }
}

fn on_conflict(push: &Push) -> OnConflict {
    match push.merges {
        true => OnConflict::Merge,
        false => OnConflict::Reject,
    }
}

/// Makes the database that a URL names, if it is not there: at a server, by a call that needs a token of an administrator there; in a directory or bucket, as a remote
/// without branches.
async fn make_there(url: &str) -> Result<()> {
    let url: RemoteUrl = credentials::read()?.authorize(url.parse()?);
    let Some(host) = url.host() else {
        return Ok(begin_remote(&Remote::connect(&url).await?).await?);
    };
    let credential = credentials::read()?.of(host);
    let server = url.to_string();
    let server = server.trim_end_matches(url.database()).trim_end_matches('/');
    let wrong = |error| Failure::usage(format!("`{server}` is no URL: {error}"));
    let channel = connect(server, &endpoint(server).map_err(wrong)?, &credential).await?;
    let mut client = DataClient::with_interceptor(channel, Bearer::new(credential.token));
    let request = CreateDatabaseRequest { name: url.database().to_owned() };
    match client.create_database(request).await {
        Ok(_) => Ok(()),
        Err(status) if status.code() == Code::AlreadyExists => Ok(()),
        Err(status) => Err(Failure::from_status(&status)),
    }
}
