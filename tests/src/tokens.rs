//! Tokens: clients that write and read on, over servers of which most are behind, and look whether a read is ever older than a write that
//! was answered before it.
//!
//! The replicas here look at their primary once an hour: what makes a read new is its token, and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pleach_client::{Client, Database, Error, Options, Row};

use crate::{Sandbox, Server};

/// A primary with database `db`, and read replicas of it.
pub struct Replicated {
    /// Where they live.
    pub sandbox: Sandbox,
    /// The primary.
    pub primary: Server,
    /// The replicas.
    pub replicas: Vec<Server>,
}

impl Replicated {
    /// With so many replicas.
    pub fn new(replicas: usize) -> Replicated {
        let sandbox = Sandbox::new();
        let primary = sandbox.serve(&["--data-dir", "p", "--listen", "127.0.0.1:0"]);
        sandbox.run(&["--server", &primary.url(), "database", "create", "db"]).ok();
        sandbox.run(&primary.args("db", &["put", "t", "n", "0"])).ok();
        sandbox.run(&primary.args("db", &["commit", "-m", "first"])).ok();
        let replica = |number: usize| {
            let (directory, file) = (format!("r{number}"), format!("r{number}.yaml"));
            sandbox.run(&["clone", &primary.database("db"), &format!("{directory}/db")]).ok();
            let config = format!(
                "data_dir: {directory}\nlistener: {{host: 127.0.0.1, port: 0}}\nreplication:\n  read_replica_remote: origin\n  \
                 replicate_all_heads: true\n  refresh: 1h\n  max_staleness: 1h\n"
            );
            sandbox.write(&file, &config);
            sandbox.serve(&["--config", &file])
        };
        let replicas = (0..replicas).map(replica).collect();
        Replicated { sandbox, primary, replicas }
    }

    /// The addresses of all, the primary last.
    pub fn addresses(&self) -> Vec<String> {
        self.replicas.iter().chain([&self.primary]).map(Server::url).collect()
    }
}

/// What was found.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// Reads that were checked.
    pub checks: u64,
    /// Those that were older than a write which was answered before they began.
    pub stale: u64,
    /// Writes in the meantime.
    pub writes: u64,
    /// How long it took.
    pub took: Duration,
    /// Reads that failed, by the error.
    pub failures: BTreeMap<String, u64>,
}

/// Checks `checks` reads of `readers` tasks, while one task writes a version every `pause`.
///
/// # Errors
/// Of the writes; and of connecting.
pub async fn check(
    addresses: &[String],
    options: Options,
    checks: u64,
    readers: usize,
    pause: Duration,
) -> Result<Tally, Error> {
    let database = Client::connect(addresses, options)?.database("db");
    let (written, left) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(checks)));
    let is_over = Arc::new(AtomicBool::new(false));
    let start = Instant::now();
    // Whatever there was before is older.
    let mut transaction = database.begin().await?;
    let first = number(transaction.get("t", "n").await?) + 1;
    drop(transaction);
    write(&database, first).await?;
    written.store(first, Ordering::SeqCst);
    let writer = tokio::spawn({
        let (database, written, is_over) = (database.clone(), written.clone(), is_over.clone());
        async move {
            let mut number = first;
            while !is_over.load(Ordering::SeqCst) {
                number += 1;
                write(&database, number).await?;
                written.store(number, Ordering::SeqCst);
                tokio::time::sleep(pause).await;
            }
            Ok(number - first)
        }
    });
    let readers: Vec<_> =
        (0..readers).map(|_| tokio::spawn(read(database.clone(), written.clone(), left.clone()))).collect();
    let mut tally = Tally::default();
    for reader in readers {
        let found = reader.await.expect("a reader does not panic");
        tally.checks += found.checks;
        tally.stale += found.stale;
        for (what, count) in found.failures {
            *tally.failures.entry(what).or_default() += count;
        }
    }
    is_over.store(true, Ordering::SeqCst);
    tally.writes = writer.await.expect("the writer does not panic")?;
    tally.took = start.elapsed();
    Ok(tally)
}

async fn write(database: &Database, number: u64) -> Result<(), Error> {
    database.put("t", "n", number.to_string()).await?;
    database.commit("next", "").await.map(drop)
}

fn number(row: Option<Row>) -> u64 {
    let value = row.and_then(|row| String::from_utf8(row.value().to_vec()).ok());
    value.and_then(|value| value.parse().ok()).expect("the number that was written")
}

async fn read(database: Database, written: Arc<AtomicU64>, left: Arc<AtomicU64>) -> Tally {
    let mut tally = Tally::default();
    let one_less = |left: u64| left.checked_sub(1);
    while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
        let least = written.load(Ordering::SeqCst);
        match database.get("t", "n").await {
            Ok(row) => {
                tally.checks += 1;
                tally.stale += u64::from(number(row) < least);
            }
            Err(error) => *tally.failures.entry(error.to_string()).or_default() += 1,
        }
    }
    tally
}
