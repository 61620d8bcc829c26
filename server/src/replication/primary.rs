//! The gate of a primary that pushes on write: after a write has been done as any other, what it did to branches and tags is pushed.

use std::sync::Arc;
use std::time::Duration;

use pleach_engine::{Database, NewCommit, Token};
use pleach_protocol::{Bearer, Databases, RemoteUrl, connect, endpoint};
use pleach_replication::{OnConflict, Primary, PrimaryConfig};
use tokio::runtime::Handle;
use tonic::Code;

use crate::config::Push;
use crate::credentials;
use crate::error::{Failure, Result};
use crate::gate::{Gate, Permit, Waiting, Written};
use crate::proto::data_client::DataClient;
use crate::proto::{AssumeRoleRequest, AssumeRoleResponse, ClusterStatusResponse, CreateDatabaseRequest};

/// How long a server that stops goes on pushing.
const DRAIN_MAX: Duration = Duration::from_secs(20);

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
    /// In a runtime, on a thread that may block.
    pub(super) fn new(push: &Push, inner: Arc<dyn Gate>, databases: &Databases) -> Result<PrimaryGate> {
        let writable = inner.clone();
        let primary = Primary::new(PrimaryConfig {
            remote: push.remote.clone(),
            credentials: credentials::read()?,
            on_conflict: match push.merges {
                true => OnConflict::Merge,
                false => OnConflict::Reject,
            },
            author: crate::author::default(),
            // Of a cluster, the node alone that takes writes.
            permit: Arc::new(move || writable.writable().ok()),
        });
        let (push, databases) = (push.clone(), databases.clone());
        let gate = PrimaryGate {
            inner,
            primary,
            push,
            databases,
            waiting: Waiting::default(),
            runtime: Handle::current(),
        };
        gate.follow_all()?;
        Ok(gate)
    }

    /// Pushes what is left.
    pub(super) async fn stop(&self) {
        self.primary.shutdown(DRAIN_MAX).await;
    }

    /// Follows all databases that there are, and no others: of an earlier process something may be left to push.
    fn follow_all(&self) -> Result<()> {
        let _runtime = self.runtime.enter();
        let names = self.databases.list()?;
        for status in self.primary.status() {
            if !names.contains(&status.database) {
                self.primary.forget(&status.database);
            }
        }
        for name in names {
            match self.databases.get(&name) {
                Ok(Some(database)) => {
                    self.register(&name, &database);
                    self.primary.follow(&name, &database);
                }
                Ok(None) => {}
                // It is told when somebody uses it; the others are pushed.
                Err(error) => tracing::warn!(database = name, "cannot be opened, and is not pushed: {error}"),
            }
        }
        Ok(())
    }

    /// Gives a database the remote, if it has none and the configuration says where it is; and makes it there, if that is a server. If that fails, pushes say so.
    fn register(&self, name: &str, database: &Database) {
        let key = format!("remote.{}.url", self.push.remote);
        let Some(template) = self.push.template.as_ref().filter(|_| self.inner.writable().is_ok()) else {
            return;
        };
        let url = template.url(name);
        let registered = match database.setting(&key) {
            Ok(Some(_)) => return,
            Ok(None) => self
                .runtime
                .block_on(make_there(&url))
                .and_then(|()| Ok(database.set_setting(&key, Some(&url))?)),
            Err(error) => Err(error.into()),
        };
        match registered {
            Ok(()) => tracing::info!(database = name, remote = self.push.remote, "is pushed to {url}"),
            // The next write tries again.
            Err(failure) => tracing::warn!(database = name, "is not pushed to {url} yet: {failure}"),
        }
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

impl Gate for PrimaryGate {
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
        let waiting = match self.waiting.enter() {
            Ok(waiting) => waiting,
            Err(failure) => {
                warnings.push(format!("replication to `{}`: {failure}", self.push.remote));
                return Ok(warnings);
            }
        };
        self.register(name, database);
        if self.push.in_background {
            let _runtime = self.runtime.enter();
            self.primary.follow(name, database);
        } else if let Err(error) = self.runtime.block_on(self.primary.push(name, database)) {
            let remote = &self.push.remote;
            warnings.push(format!("replication to `{remote}`: {error}; it is tried again"));
        }
        drop(waiting);
        Ok(warnings)
    }

    fn databases_changed(&self) -> Result<()> {
        self.inner.databases_changed()?;
        self.follow_all()
    }

    fn status(&self) -> Result<ClusterStatusResponse> {
        self.inner.status()
    }

    fn assume_role(&self, request: &AssumeRoleRequest) -> Result<AssumeRoleResponse> {
        let assumed = self.inner.assume_role(request)?;
        // What came while this node was a standby, and what was not for it to push.
        self.follow_all()?;
        self.primary.wake();
        Ok(assumed)
    }
}

/// Makes the database that a URL names, if it is a server's and is not there.
async fn make_there(url: &str) -> Result<()> {
    let url: RemoteUrl = url.parse()?;
    let Some(host) = url.host() else { return Ok(()) };
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
