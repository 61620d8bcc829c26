//! Replication through a remote, as it is configured at this moment: pushing, following, or neither. It can be exchanged while requests run.
//!
//! The one idea: a configuration's value makes a [`Mode`], at the start and at each change, and the requests of a moment meet the mode of that moment. A change is
//! durable before it is in force, and in force when it is answered: then nothing more goes to the old remote, and no branch is moved by the old one.
//!
//! A write that has begun ends before branches begin to follow a remote, and branches follow none any more before the first write is let in. So no
//! write meets a pull that would take its branch elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use pleach_engine::{Database, Token};
use pleach_protocol::Databases;
use pleach_replication::{Tenure, count_as_pushed};

use super::primary::PrimaryGate;
use super::replica::ReplicaGate;
use crate::config::{self, Layers};
use crate::error::{Failure, Result};
use crate::gate::{Gate, Observed, Permit, Written, poll};
use crate::proto::{
    AssumeRoleRequest, AssumeRoleResponse, ClusterHistoryRequest, ClusterHistoryResponse,
    ClusterStatusRequest, ClusterStatusResponse, ConfigValue, GetConfigRequest, GetConfigResponse,
    PromoteReplicaRequest, PromoteReplicaResponse, SetConfigRequest, SetConfigResponse,
};

/// How long writes that have begun may take to end before a server becomes a read replica.
const WRITES_END_MAX: Duration = Duration::from_secs(10);

/// How long a promotion that is forced waits for the remote.
const FORCED_AFTER: Duration = Duration::from_secs(10);

/// The gate of a server, whose part through a remote can be exchanged. Its calls come from threads that may block, but for [`Gate::writable`].
pub(super) struct Through {
    /// What else decides about requests.
    base: Arc<dyn Gate>,
    databases: Databases,
    /// What is configured.
    layers: Mutex<Layers>,
    /// Held over a change.
    changing: Mutex<()>,
    now: RwLock<Arc<Now>>,
    runtime: tokio::runtime::Handle,
}

/// What requests meet at a moment.
struct Now {
    mode: Mode,
    /// One more with each mode.
    number: u64,
    /// Writes that were let in and have not ended.
    writes: AtomicUsize,
}

/// What a configuration says.
#[derive(Clone)]
enum Mode {
    /// It names no remote.
    Off(Arc<dyn Gate>),
    Primary(Arc<PrimaryGate>),
    Replica(Arc<ReplicaGate>),
    /// To be a read replica once all writes have ended; until then everything but writes is as it was.
    Closing {
        next: Arc<ReplicaGate>,
        old: Box<Mode>,
    },
}

impl Mode {
    /// What `replication` makes. In a runtime. It does nothing yet.
    fn of(
        replication: Option<&config::Replication>,
        base: &Arc<dyn Gate>,
        databases: &Databases,
        old: Option<&Mode>,
    ) -> Result<Mode> {
        Ok(match replication {
            None => Mode::Off(base.clone()),
            Some(config::Replication::Primary(push)) => {
                let old = match old {
                    Some(Mode::Primary(old)) => Some(&**old),
                    _ => None,
                };
                Mode::Primary(Arc::new(PrimaryGate::new(push, base.clone(), databases, old)?))
            }
            Some(config::Replication::Replica(follow)) => {
                Mode::Replica(Arc::new(ReplicaGate::new(follow, databases)?))
            }
        })
    }

    fn gate(&self) -> &dyn Gate {
        match self {
            Mode::Off(gate) => &**gate,
            Mode::Primary(gate) => gate,
            Mode::Replica(gate) => &**gate,
            Mode::Closing { old, .. } => old.gate(),
        }
    }

    /// Why it does not do what it is configured to do, if so.
    fn warning(&self) -> Option<String> {
        match self {
            Mode::Replica(replica) => replica.warning().map(str::to_owned),
            _ => None,
        }
    }

    /// Begins what goes on beside requests.
    fn begin(&self) -> Result<()> {
        if let Some(warning) = self.warning() {
            tracing::warn!("{warning}");
        }
        match self {
            Mode::Primary(primary) => primary.begin(),
            _ => Ok(()),
        }
    }
}

impl Through {
    /// The mode that `replication`, of `layers`, says.
    pub(super) async fn start(
        layers: Layers,
        replication: Option<&config::Replication>,
        base: Arc<dyn Gate>,
        databases: &Databases,
    ) -> Result<Arc<Through>> {
        let mode = Mode::of(replication, &base, databases, None)?;
        let begun = mode.clone();
        let now = RwLock::new(Arc::new(Now { mode, number: 0, writes: AtomicUsize::new(0) }));
        let (layers, changing, runtime) =
            (Mutex::new(layers), Mutex::default(), tokio::runtime::Handle::current());
        let through =
            Arc::new(Through { base, databases: databases.clone(), layers, changing, now, runtime });
        let begun = tokio::task::spawn_blocking(move || begun.begin()).await;
        begun.map_err(|lost| Failure::refused(format!("replication did not start: {lost}")))??;
        // Those that could not be opened until now.
        let weak = Arc::downgrade(&through);
        databases.on_open(move |name, database| {
            if let Some(through) = weak.upgrade() {
                through.opened(name, database);
            }
        });
        Ok(through)
    }

    /// Pushes what is left.
    pub(super) async fn stop(&self) {
        if let Mode::Primary(primary) = &self.now().mode {
            primary.stop().await;
        }
    }

    fn now(&self) -> Arc<Now> {
        self.now.read().clone()
    }

    fn meet(&self, mode: Mode) {
        let mut now = self.now.write();
        *now = Arc::new(Now { mode, number: now.number + 1, writes: AtomicUsize::new(0) });
    }

    fn layers(&self) -> Layers {
        self.layers.lock().clone()
    }

    /// Puts `changed` in the place of `layers`, while nobody else changes them. Gives warnings.
    fn change(&self, layers: &Layers, changed: Layers) -> Result<Vec<String>> {
        let (before, after) = (layers.config()?.replication, changed.config()?.replication);
        if before == after {
            changed.save()?;
            *self.layers.lock() = changed;
            return Ok(Vec::new());
        }
        let warnings = self.check_remote(before.as_ref(), after.as_ref())?;
        let _runtime = self.runtime.enter();
        let old = self.now();
        let next = Mode::of(after.as_ref(), &self.base, &self.databases, Some(&old.mode))?;
        if let Mode::Replica(next) = &next
            && next.writable().is_err()
        {
            self.close(&old, next)?;
        }
        if let Err(failure) = changed.save() {
            *self.now.write() = old;
            return Err(failure);
        }
        *self.layers.lock() = changed;
        self.exchange(&old.mode, &next);
        let begun = next.begin();
        let warnings = warnings.into_iter().chain(next.warning());
        Ok(warnings.chain(begun.err().map(|failure| failure.to_string())).collect())
    }

    /// Lets no more writes in, and waits until those that were have ended.
    fn close(&self, old: &Arc<Now>, next: &Arc<ReplicaGate>) -> Result<()> {
        self.meet(Mode::Closing { next: next.clone(), old: Box::new(old.mode.clone()) });
        if poll(WRITES_END_MAX, || old.writes.load(Ordering::SeqCst) == 0) {
            return Ok(());
        }
        *self.now.write() = old.clone();
        let writes = old.writes.load(Ordering::SeqCst);
        Err(Failure::refused(format!(
            "{writes} writes under way did not end in {WRITES_END_MAX:?}: nothing was changed"
        ))
        .hint("try again when they have ended"))
    }

    /// Has requests meet `next` from now on, and ends what went on beside them.
    fn exchange(&self, old: &Mode, next: &Mode) {
        match (old, next) {
            (Mode::Replica(replica), _) => {
                replica.retire();
                self.meet(next.clone());
            }
            (Mode::Primary(old), Mode::Primary(new)) if old.goes_on_with(new) => self.meet(next.clone()),
            (Mode::Primary(old), Mode::Replica(_)) => {
                old.retire();
                self.meet(next.clone());
            }
            (Mode::Primary(old), _) => {
                self.meet(next.clone());
                old.retire();
            }
            _ => self.meet(next.clone()),
        }
    }

    /// Refuses the name of a remote that no database has; or says so, if errors are to be skipped.
    fn check_remote(
        &self,
        before: Option<&config::Replication>,
        after: Option<&config::Replication>,
    ) -> Result<Vec<String>> {
        let facts = |replication: &config::Replication| match replication {
            config::Replication::Primary(push) => {
                (push.remote.clone(), push.template.is_some(), push.skip_errors)
            }
            config::Replication::Replica(follow) => {
                (follow.remote.clone(), follow.template.is_some(), follow.skip_errors)
            }
        };
        let Some((remote, has_template, skips)) = after.map(facts) else { return Ok(Vec::new()) };
        if has_template || before.map(facts).is_some_and(|(before, ..)| before == remote) {
            return Ok(Vec::new());
        }
        let (key, names) = (format!("remote.{remote}.url"), self.databases.list()?);
        let has = |name: &String| match self.databases.get(name) {
            Ok(Some(database)) => !matches!(database.setting(&key), Ok(None)),
            _ => false,
        };
        let lacking: Vec<String> = names.iter().filter(|name| !has(name)).cloned().collect();
        match lacking.len() {
            0 => Ok(Vec::new()),
            all if all == names.len() && !skips => {
                Err(Failure::not_found(format!("remote `{remote}` not found: no database of this server has it")).hint(
                    "name one that `pleach remote list` shows, or set replication.remote_url_template first; with skip_replication_errors it is only warned of",
                ))
            }
            _ => Ok(vec![format!("remote `{remote}` not found in {}: not replicated", lacking.join(", "))]),
        }
    }
}

/// That a write has not ended.
struct Writing {
    now: Arc<Now>,
    _permit: Option<Permit>,
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.now.writes.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Gate for Through {
    fn writable(&self) -> Result<Permit> {
        let mut writing = {
            let now = self.now.read();
            // Counted before anybody can exchange it: who then waits for writes to end sees this one.
            now.writes.fetch_add(1, Ordering::SeqCst);
            Writing { now: now.clone(), _permit: None }
        };
        let permit = match &writing.now.mode {
            Mode::Closing { next, .. } => next.writable()?,
            mode => mode.gate().writable()?,
        };
        writing._permit = Some(permit);
        Ok(Box::new(writing))
    }

    fn before_read(&self, name: &str, database: &Database) -> Result<()> {
        self.now().mode.gate().before_read(name, database)
    }

    fn wait_for(&self, name: &str, database: &Database, token: &Token, limit: Duration) -> bool {
        self.now().mode.gate().wait_for(name, database, token, limit)
    }

    fn after_write(&self, written: Written<'_>, permit: Permit) -> Result<Vec<String>> {
        self.now().mode.gate().after_write(written, permit)
    }

    fn opened(&self, name: &str, database: &Database) {
        self.now().mode.gate().opened(name, database);
    }

    fn obtain(&self, name: &str) -> Result<bool> {
        self.now().mode.gate().obtain(name)
    }

    fn remote_of_new(&self) -> Option<String> {
        self.now().mode.gate().remote_of_new()
    }

    fn databases_changed(&self, made: Option<&str>) -> Result<()> {
        self.now().mode.gate().databases_changed(made)
    }

    fn dropping(&self, name: &str) -> Result<()> {
        self.base.dropping(name)
    }

    fn not_dropped(&self, name: &str) -> Result<()> {
        self.base.not_dropped(name)
    }

    fn dropped(&self) -> Result<Vec<String>> {
        self.base.dropped()
    }

    /// A change of what goes through a remote changes no role.
    fn tenure(&self) -> Option<Tenure> {
        self.base.tenure()
    }

    fn status(&self, request: &ClusterStatusRequest) -> Result<ClusterStatusResponse> {
        self.now().mode.gate().status(request)
    }

    fn history(&self, request: &ClusterHistoryRequest) -> Result<ClusterHistoryResponse> {
        self.now().mode.gate().history(request)
    }

    fn follows(&self) -> Option<u64> {
        let now = self.now();
        now.mode.gate().follows().map(|_| now.number)
    }

    fn observe(&self) -> Observed {
        self.now().mode.gate().observe()
    }

    fn assume_role(&self, request: &AssumeRoleRequest, by: &str) -> Result<AssumeRoleResponse> {
        self.now().mode.gate().assume_role(request, by)
    }

    fn get_config(&self, request: &GetConfigRequest) -> Result<GetConfigResponse> {
        let layers = self.layers();
        let values = match request.key.is_empty() {
            true => layers.values()?,
            false => vec![layers.value(&request.key)?],
        };
        Ok(GetConfigResponse { values: values.into_iter().map(to_message).collect() })
    }

    fn set_config(&self, request: &SetConfigRequest) -> Result<SetConfigResponse> {
        let _changing = self.changing.lock();
        let layers = self.layers();
        let warnings = self.change(&layers, layers.with(&request.key, request.value.as_deref())?)?;
        let value = self.layers().value(&request.key)?;
        tracing::info!("{} is {} now", value.key, value.value);
        Ok(SetConfigResponse { value: Some(to_message(value)), warnings })
    }

    fn promote_replica(&self, request: &PromoteReplicaRequest) -> Result<PromoteReplicaResponse> {
        let _changing = self.changing.lock();
        let (layers, now) = (self.layers(), self.now());
        let Mode::Replica(replica) = &now.mode else {
            return Err(Failure::refused("this server is no read replica").hint(
                "there is nothing to promote: `pleach config get read_replica_remote` shows what it follows",
            ));
        };
        if let Some(warning) = replica.warning() {
            return Err(Failure::refused(format!("this server follows nothing: {warning}"))
                .hint("it takes writes already; to push them, unset read_replica_remote and set replicate_to_remote"));
        }
        let remote = replica.remote().to_owned();
        // Where the remote is by now.
        let failures = replica.refresh_all(request.force.then_some(FORCED_AFTER))?;
        let mut warnings: Vec<String> =
            failures.iter().map(|(name, failure)| format!("database `{name}`: {failure}")).collect();
        if let Some((_, first)) = failures.first().filter(|_| !request.force) {
            let what = format!(
                "this server is a read replica still: it could not be brought up to date: {}",
                warnings.join("; ")
            );
            return Err(Failure::new(first.kind, what).hint(
                "see that the remote can be reached and promote again; or, if the remote is lost, give --force: what is here counts then, and is pushed when the remote returns",
            ));
        }
        let mut databases = Vec::new();
        for name in self.databases.list()? {
            let Some(database) = self.databases.get(&name).ok().flatten() else { continue };
            if let Err(error) = count_as_pushed(&database, &remote) {
                warnings.push(format!("database `{name}`: {error}"));
            }
            databases.push(name);
        }
        warnings.extend(self.change(&layers, layers.promoted(&remote)?)?);
        tracing::info!(remote, "this server was a read replica, and is a primary that pushes now");
        Ok(PromoteReplicaResponse { remote, databases, warnings })
    }
}

fn to_message(value: config::Value) -> ConfigValue {
    let config::Value { key, value, origin } = value;
    ConfigValue { key, value: value.to_string(), origin: origin.to_string() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::path::Path;

    use pleach_engine::Options;

    use super::*;
    use crate::config::Flags;
    use crate::error::Kind;
    use crate::gate::Alone;

    #[test]
    fn writes_that_have_begun_end_before_a_server_becomes_a_read_replica() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let databases = Databases::new(dir.path(), Options::default()).unwrap();
        let flags = Flags { data_dir: Some(dir.path().to_owned()), ..Flags::default() };
        let layers = Layers::parse("", Path::new("c.yaml"), &flags).unwrap();
        let through = runtime.block_on(Through::start(layers, None, Arc::new(Alone), &databases)).unwrap();
        let set = |key: &str, value: &str| {
            through.set_config(&SetConfigRequest { key: key.into(), value: Some(value.into()) })
        };
        set("replicate_all_heads", "true").unwrap();
        let writing = through.writable().unwrap();
        std::thread::scope(|scope| {
            let changing = scope.spawn(|| set("read_replica_remote", "origin"));
            // No other is let in, and what has begun is waited for.
            assert!(poll(WRITES_END_MAX, || through.writable().is_err()));
            assert_eq!(through.writable().err().unwrap().kind, Kind::NotAllowed);
            assert!(matches!(through.now().mode, Mode::Closing { .. }) && !changing.is_finished());
            drop(writing);
            changing.join().unwrap().unwrap();
        });
        assert!(matches!(through.now().mode, Mode::Replica(_)));
        through.set_config(&SetConfigRequest { key: "read_replica_remote".into(), value: None }).unwrap();
        through.writable().unwrap();
    }
}
