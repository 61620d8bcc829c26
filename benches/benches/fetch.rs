//! Criterion benches of fetch over a loopback connection: nothing to do, and a commit of k rows of 100,000.
//!
//! Beside the time, the bytes and round trips of each are printed once, because only they repeat on a shared machine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    reason = "a bench fails by panicking, and prints"
)]

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use pleach_bench::rows::{Rows, SplitMix64};
use pleach_engine::{Database, NewCommit, Options};
use pleach_protocol::{
    Databases, Part, RefPatterns, Remote, RemoteUrl, SyncService, clone_database, fetch, transport,
};
use tokio::runtime::Runtime;
use tonic::transport::server::TcpIncoming;

const ROWS: usize = 100_000;

/// A served database and a clone of it.
struct Pair {
    rows: Rows,
    served: Database,
    clone: Database,
    remote: Remote,
    random: SplitMix64,
    version: u64,
}

impl Pair {
    async fn new(directory: &std::path::Path) -> Pair {
        let databases = Databases::new(&directory.join("server"), Options::default()).unwrap();
        let served = databases.create("bench").unwrap();
        let rows = Rows::new(ROWS);
        let mut transaction = served.begin("main").unwrap();
        transaction.create_table("rows", None).unwrap();
        let values = rows.first_values();
        transaction
            .load("rows", values.iter().enumerate().map(|(row, value)| (rows.key(row), value)))
            .unwrap();
        transaction.commit().unwrap();
        served.commit("main", NewCommit { message: "base".into(), ..NewCommit::default() }).unwrap();

        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap().with_nodelay(Some(true));
        let url = format!("http://{}/bench", incoming.local_addr().unwrap());
        let service = SyncService::new(databases).into_server();
        tokio::spawn(transport().add_service(service).serve_with_incoming(incoming));
        let url = RemoteUrl::parse(&url).unwrap();
        let remote = Remote::connect(&url).await.unwrap();
        let (clone, transfer) =
            clone_database(&remote, &directory.join("clone"), Options::default(), &Part::default())
                .await
                .unwrap();
        eprintln!("clone: {} chunks, {} bytes", transfer.chunks, transfer.bytes_received);
        Pair { rows, served, clone, remote, random: SplitMix64::new(4), version: 0 }
    }

    /// Commits `k` changed rows on the server.
    fn change(&mut self, k: usize) {
        self.version += 1;
        let mut transaction = self.served.begin("main").unwrap();
        for row in self.random.distinct_below(ROWS, k) {
            let (key, value) = self.rows.edit(row, self.version);
            transaction.put("rows", &key, &value).unwrap();
        }
        transaction.commit().unwrap();
        self.served.commit("main", NewCommit { message: "change".into(), ..NewCommit::default() }).unwrap();
    }
}

fn fetches(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut pair = runtime.block_on(Pair::new(directory.path()));
    let mut group = criterion.benchmark_group("fetch");
    group.sample_size(10);
    for k in [0, 1, 100, 10_000] {
        let mut counts = None;
        group.bench_function(format!("{k} of 100k rows"), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut elapsed = Duration::ZERO;
                for _ in 0..iterations {
                    if k > 0 {
                        pair.change(k);
                    }
                    let start = Instant::now();
                    let patterns = RefPatterns::all();
                    let transfer =
                        runtime.block_on(fetch(&pair.clone, &pair.remote, "origin", &patterns)).unwrap();
                    elapsed += start.elapsed();
                    assert_eq!(transfer.chunks > 0, k > 0);
                    counts = Some((transfer.bytes_sent + transfer.bytes_received, transfer.round_trips));
                }
                elapsed
            });
        });
        if let Some((bytes, round_trips)) = counts {
            eprintln!("fetch of {k} rows: {bytes} bytes, {round_trips} round trips");
        }
    }
    group.finish();
}

criterion_group!(benches, fetches);
criterion_main!(benches);
