//! What a client sees during a drill: it writes all the time, or looks who would take writes, and notes when it could.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use pleach_client::{Error as ClientError, Written};

use super::{CATCH_UP_MAX, LOOK, Node, TABLE, client, failed};
use crate::error::{Failure, Result};
use crate::proto::ClusterStatusRequest;

/// Between two writes.
const PAUSE: Duration = Duration::from_millis(1);

/// The key of a write; rows of other drills, which ended early, have others.
pub(super) fn key(drill: u128, n: u64) -> String {
    format!("{drill:020}-{n:020}")
}

/// What a client saw.
#[derive(Default)]
pub(super) struct Counted {
    /// What its keys begin with.
    pub(super) drill: u128,
    pub(super) acknowledged: Vec<u64>,
    pub(super) open: usize,
    pub(super) token: Option<pleach_engine::Token>,
    /// When it could write, in order.
    times: Vec<Instant>,
}

impl Counted {
    fn note(&mut self, n: u64, written: std::result::Result<Written, ClientError>) {
        match written {
            Ok(written) => {
                self.acknowledged.push(n);
                self.token = written.token.or(self.token);
                self.times.push(Instant::now());
            }
            Err(ClientError::Unknown { .. }) => self.open += 1,
            Err(_) => {}
        }
    }
}

/// A client that writes, or looks who would take writes, all the time.
pub(super) struct Probe {
    counted: Arc<Mutex<Counted>>,
    end: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
    writes: bool,
}

impl Probe {
    /// Writes to the database `scratch`, which is made if it is not there, and is seen on both nodes when this returns.
    pub(super) async fn writes(nodes: &[Node; 2], scratch: &str) -> Result<Probe> {
        let [first, second] = nodes;
        let client = client([first.url.as_str(), second.url.as_str()], first)?;
        match client.create_database(scratch).await {
            Ok(()) => {}
            Err(error) if error.exists() => {}
            Err(error) => return Err(failed(&error)),
        }
        let database = client.database(scratch);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let drill = since.as_micros();
        let written = database.put(TABLE, key(drill, 0), "").await.map_err(|error| failed(&error))?;
        let reader = second.alone()?;
        if let Some(token) = written.token {
            reader.saw(scratch, token);
        }
        let begun = Instant::now();
        while let Err(error) = reader.database(scratch).get(TABLE, key(drill, 0).as_str()).await {
            if begun.elapsed() > CATCH_UP_MAX {
                return Err(Failure::refused(format!(
                    "the drill does not begin: {} does not get what is written: {error}",
                    second.url
                ))
                .hint(format!("no role was changed; database {scratch} stays")));
            }
            tokio::time::sleep(LOOK).await;
        }
        let counted = Arc::new(Mutex::new(Counted { drill, acknowledged: vec![0], ..Counted::default() }));
        let end = Arc::new(AtomicBool::new(false));
        let (noted, ended) = (counted.clone(), end.clone());
        let task = tokio::spawn(async move {
            let mut n = 0;
            while !ended.load(Ordering::SeqCst) {
                n += 1;
                let written = database.put(TABLE, key(drill, n), "").await;
                noted.lock().note(n, written);
                tokio::time::sleep(PAUSE).await;
            }
        });
        Ok(Probe { counted, end, task, writes: true })
    }

    /// Asks both nodes whether they take writes.
    pub(super) fn watches(nodes: &[Node; 2]) -> Probe {
        let counted = Arc::new(Mutex::new(Counted::default()));
        let end = Arc::new(AtomicBool::new(false));
        let (noted, ended) = (counted.clone(), end.clone());
        let clients = nodes.each_ref().map(|node| node.client.clone());
        let task = tokio::spawn(async move {
            while !ended.load(Ordering::SeqCst) {
                for client in &clients {
                    let status = client.clone().cluster_status(ClusterStatusRequest::default()).await;
                    if status.is_ok_and(|status| status.into_inner().takes_writes) {
                        noted.lock().times.push(Instant::now());
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Probe { counted, end, task, writes: false }
    }

    /// Whether it could write after `since`.
    pub(super) fn wrote_after(&self, since: Instant) -> bool {
        self.counted.lock().times.last().is_some_and(|last| *last > since)
    }

    /// The longest time since `begun` in which it could not write.
    pub(super) fn longest_gap(&self, begun: Instant) -> Duration {
        let counted = self.counted.lock();
        let first = counted.times.partition_point(|time| *time < begun).saturating_sub(1);
        let gaps = counted.times[first..].windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or_default()
    }

    /// Ends it. What it wrote, if it did.
    pub(super) async fn end(self) -> Option<Counted> {
        self.end.store(true, Ordering::SeqCst);
        // A probe that panicked has counted what it wrote.
        let _ = self.task.await;
        self.writes.then(|| std::mem::take(&mut *self.counted.lock()))
    }
}
