//! What a server counts and shows: metrics for Prometheus, and whether it lives, is ready, and in which role.
//!
//! One idea: a scrape reads what is there and waits for nobody. Databases, stores and replication keep their own figures, which `exposition` collects with a deadline; counted here
//! is only what nobody else knows: the calls of clients (`calls`), warnings, backups. `port` serves it.

pub(crate) mod calls;
mod exposition;
pub(crate) mod port;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use self::calls::Calls;

/// What is counted since the server started. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    started: SystemTime,
    calls: Calls,
    /// By database.
    warnings: Mutex<BTreeMap<String, u64>>,
    /// When the last backup was done, by what it is of.
    backups: Mutex<BTreeMap<&'static str, SystemTime>>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let inner = Inner {
            started: SystemTime::now(),
            calls: Calls::default(),
            warnings: Mutex::default(),
            backups: Mutex::default(),
        };
        Metrics { inner: Arc::new(inner) }
    }
}

impl Metrics {
    /// The calls of clients.
    pub(crate) fn calls(&self) -> &Calls {
        &self.inner.calls
    }

    /// A client was warned by replication.
    pub(crate) fn warned(&self, database: &str) {
        *self.inner.warnings.lock().entry(database.to_owned()).or_default() += 1;
    }

    /// A backup was done; `of` is `database` or `server`.
    pub(crate) fn backed_up(&self, of: &'static str) {
        self.inner.backups.lock().insert(of, SystemTime::now());
    }
}
