//! The gate of a primary that pushes on write: after a write has been done as any other, what it did to branches and tags is pushed.

use std::sync::Arc;
use std::time::Duration;

use pleach_engine::{Database, NewCommit, Token};
use pleach_protocol::{Bearer, Databases, Remote, RemoteUrl, begin_remote, connect, endpoint};
use pleach_replication::{Error, Making, OnConflict, Place, Primary, PrimaryConfig, Role, Tenure};
use tokio::runtime::Handle;
use tonic::Code;

use crate::config::{Push, UrlTemplate};
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

/// How long a write waits for a push over whose connection nothing passes.
const SILENT_MAX: Duration = Duration::from_secs(20);

/// How often a node that is primary, and takes no writes yet, looks whether it does.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

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
                    place: push.template.clone().map(place),
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
        self.primary.set_place(self.push.template.clone().map(place));
        let _runtime = self.runtime.enter();
        self.primary.set_strict(self.push.strict);
        self.follow_all()?;
        self.follow_role();
        Ok(())
    }

    /// Pushes what came while this node was a standby, and what was not for it to push, whenever it becomes primary.
    fn follow_role(self: &Arc<PrimaryGate>) {
        let Some(mut roles) = self.inner.roles() else { return };
        let gate = Arc::downgrade(self);
        tokio::spawn(async move {
            while roles.changed().await.is_ok() {
                loop {
                    let Some(gate) = gate.upgrade() else { return };
                    // It is not at once that a primary takes writes.
                    if roles.borrow_and_update().role != Role::Primary {
                        break;
                    }
                    if gate.inner.writable().is_ok() {
                        let followed = tokio::task::spawn_blocking(move || {
                            let followed = gate.follow_all();
                            gate.primary.wake();
                            followed
                        });
                        if let Ok(Err(failure)) = followed.await {
                            tracing::warn!("not all databases are pushed by the new primary: {failure}");
                        }
                        break;
                    }
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
        });
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

    /// Follows all databases that there are, and no others: of an earlier process something may be left to push.
    fn follow_all(&self) -> Result<()> {
        let mut names = self.databases.list()?;
        for status in self.primary.status() {
            if !names.contains(&status.database) {
                self.primary.forget(&status.database);
            }
        }
        // Of two databases with one remote, it is rather that of the one which is called as the remote is.
        names.sort_by_cached_key(|name| !self.is_called_as_its_remote(name));
        for name in names {
            match self.databases.get(&name) {
                Ok(Some(database)) => self.follow(&name, &database),
                Ok(None) => {}
                // It is followed when it can be opened; the others are pushed.
                Err(error) => tracing::warn!(database = name, "cannot be opened, and is not pushed: {error}"),
            }
        }
        Ok(())
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

    /// Pushes what was written, or says why not.
    fn push(&self, name: &str, database: &Database) -> Option<String> {
        let remote = &self.push.remote;
        let waiting = match self.waiting.enter() {
            Ok(waiting) => waiting,
            Err(failure) => return Some(format!("replication to `{remote}`: {failure}")),
        };
        if self.push.in_background {
            self.follow(name, database);
            return None;
        }
        let Some(pushed) = self.push_if_soon(name, database) else {
            let before = self.primary.status_of(name).and_then(|status| status.current_error);
            let before = before.map(|error| format!("; the push before did not get through: {error}"));
            return Some(format!(
                "replication to `{remote}`: nothing has passed for a while: it is not waited for, and goes on{}",
                before.unwrap_or_default()
            ));
        };
        drop(waiting);
        match pushed {
            Ok(()) => None,
            Err(Error::Retired) => Some(format!(
                "replication to `{remote}` ended while this was pushed; what is configured now goes on from here, without being waited for"
            )),
            Err(error) => {
                let is_disabled = self.primary.status_of(name).is_some_and(|status| status.is_disabled);
                let then = if is_disabled { "this database is not replicated" } else { "it is tried again" };
                Some(format!("replication to `{remote}`: {error}; {then}"))
            }
        }
    }

    /// Pushes, as long as that goes on; or, if errors are to be skipped, unless something waits for it for long already, or it takes long. Then it goes on
    /// by itself.
    fn push_if_soon(&self, name: &str, database: &Database) -> Option<pleach_replication::Result<()>> {
        let status = || self.primary.status_of(name);
        let since = status().and_then(|status| status.behind_since?.elapsed().ok());
        if self.push.skip_errors && since.is_some_and(|since| since > SKIPPED_AFTER) {
            self.follow(name, database);
            return None;
        }
        let (primary, pushed, database) = (self.primary.clone(), name.to_owned(), database.clone());
        let mut push = self.runtime.spawn(async move { primary.push(&pushed, &database).await });
        let mut limit = if self.push.skip_errors { SKIPPED_AFTER } else { SILENT_MAX };
        loop {
            let waited = self.runtime.block_on(async { tokio::time::timeout(limit, &mut push).await });
            if let Ok(pushed) = waited {
                return pushed.ok();
            }
            let silent = status().and_then(|status| status.last_progress).map(|last| last.elapsed());
            match silent.and_then(|silent| SILENT_MAX.checked_sub(silent)) {
                Some(left) if !self.push.skip_errors && !left.is_zero() => limit = left,
                _ => return None,
            }
        }
    }

    /// Makes a version commit of a transaction, if that is wanted and there is something to commit. The permit of the transaction is held.
    fn commit(&self, database: &Database, branch: &str) -> Result<()> {
        if let Some(message) = &self.push.transaction_commit {
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
        let permit = self.inner.writable()?;
        match self.push.strict {
            true => Ok(Box::new((permit, self.waiting.enter()?))),
            false => Ok(permit),
        }
    }

    fn before_read(&self, name: &str, database: &Database) -> Result<()> {
        self.inner.before_read(name, database)
    }

    fn wait_for(&self, name: &str, database: &Database, token: &Token, limit: Duration) -> bool {
        self.inner.wait_for(name, database, token, limit)
    }

    fn after_write(&self, written: Written<'_>, permit: Permit) -> Result<Vec<String>> {
        let Written { name, database, branch, is_transaction } = written;
        let committed = branch.filter(|_| is_transaction).map(|branch| self.commit(database, branch));
        let mut warnings = self.inner.after_write(written, permit)?;
        if let Some(Err(failure)) = committed {
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

    fn databases_changed(&self, made: Option<&str>) -> Result<()> {
        self.inner.databases_changed(made)?;
        self.follow_all()?;
        let Some(name) = made.filter(|_| self.push.template.is_some()) else { return Ok(()) };
        // It is there, too, when whoever made it is told; or its pushes say why not.
        if let Some(database) = self.databases.get(name)?
            && let Some(warning) = self.push(name, &database)
        {
            tracing::warn!(database = name, "{warning}");
        }
        Ok(())
    }

    fn opened(&self, name: &str, database: &Database) {
        self.follow(name, database);
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
        self.inner.assume_role(request, by)
    }
}

fn on_conflict(push: &Push) -> OnConflict {
    match push.merges {
        true => OnConflict::Merge,
        false => OnConflict::Reject,
    }
}

/// Where `template` says that databases are.
fn place(template: UrlTemplate) -> Arc<dyn Place> {
    struct Templated(UrlTemplate);
    impl Place for Templated {
        fn url(&self, name: &str) -> String {
            self.0.url(name)
        }

        fn make(&self, url: String) -> Making {
            Box::pin(async move { make_there(&url).await.map_err(|failure| failure.to_string()) })
        }
    }
    Arc::new(Templated(template))
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
