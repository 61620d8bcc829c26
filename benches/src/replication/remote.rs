//! Through a remote: pushes on write, and replicas that pull on read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pleach_client::{Client, Database, Options};
use pleach_protocol::testing::Proxy;
use pleach_tests::tokens::{Replicated, check};
use pleach_tests::{Sandbox, Server};
use tokio::task::JoinSet;

use super::{Bench, client, millis, percentile, serve, timed};

const COMMITS: usize = 200;
/// Transactions that begin at the same time.
const STARTS: usize = 1_000;
const WAVES: usize = 5;
const DATABASES: usize = 50;
/// How long commits of neighbours are measured.
const NEIGHBOURS: Duration = Duration::from_secs(5);
/// The delay, in each direction, of the slow remote.
const SLOW: Duration = Duration::from_millis(250);
const READS: u64 = 20_000;

/// Puts a row that differs from all before, and commits it.
async fn commit(database: &Database, number: usize) -> Result<()> {
    database.put("t", format!("{:06}", number % 1000), format!("{:?}", Instant::now())).await?;
    let done = database.commit("one row", "").await?;
    ensure!(done.written.warnings.is_empty(), "a commit was not pushed: {:?}", done.written.warnings);
    Ok(())
}

/// Round trips and bytes of a one-row commit that is pushed when it is answered.
pub(super) fn pushes(bench: &mut Bench<'_>) -> Result<()> {
    let sandbox = Sandbox::new();
    let remote = sandbox.serve(&["--data-dir", "remote", "--listen", "127.0.0.1:0"]);
    let primary = primary(&sandbox, &remote.database("{database}"));
    let one = client(&[&primary])?;
    let mut times = Vec::new();
    bench.runtime.block_on(async {
        one.create_database("db").await?;
        let database = one.database("db");
        commit(&database, 0).await?;
        for number in 1..=COMMITS {
            let (took, done) = timed(commit(&database, number)).await;
            done?;
            times.push(took);
        }
        anyhow::Ok(())
    })?;
    let stats = sandbox.run(&["--server", &primary.url(), "stats", "--json"]).json();
    let pushed = &stats["replication"][0];
    let of = |name: &str| pushed[name].as_f64().unwrap_or_default();
    bench.figure("one-row commit, pushed", "round_trips", of("round_trips") / of("done"));
    bench.figure("one-row commit, pushed", "bytes_sent", of("bytes_sent") / of("done"));
    bench.figure("one-row commit, pushed", "put_and_commit_median_ms", millis(percentile(&mut times, 50)));
    Ok(())
}

fn primary(sandbox: &Sandbox, template: &str) -> Server {
    let text = format!(
        "data_dir: p\nlistener: {{host: 127.0.0.1, port: 0}}\nreplication:\n  replicate_to_remote: origin\n  remote_url_template: '{template}'\n"
    );
    serve(sandbox, "p", &text)
}

/// Commits on and on until told to end.
fn writer(
    bench: &Bench<'_>,
    database: Database,
) -> (Arc<AtomicBool>, tokio::task::JoinHandle<Result<usize>>) {
    let over = Arc::new(AtomicBool::new(false));
    let task = bench.runtime.spawn({
        let over = over.clone();
        async move {
            let mut number = 0;
            while !over.load(Ordering::Relaxed) {
                number += 1;
                commit(&database, number).await?;
            }
            Ok(number)
        }
    });
    (over, task)
}

/// Transactions on a replica that asks for each, one and a thousand at a time, while the primary writes.
pub(super) fn starts(bench: &mut Bench<'_>) -> Result<()> {
    let sandbox = Sandbox::new();
    let primary = sandbox.serve(&["--data-dir", "p", "--listen", "127.0.0.1:0"]);
    let source = client(&[&primary])?.database("db");
    bench.runtime.block_on(async {
        source.client().create_database("db").await?;
        commit(&source, 0).await
    })?;
    let text = format!(
        "data_dir: r\nlistener: {{host: 127.0.0.1, port: 0}}\nreplication:\n  read_replica_remote: origin\n  replicate_all_heads: true\n  remote_url_template: '{}'\n",
        primary.database("{database}")
    );
    let replica = serve(&sandbox, "r", &text);
    // Its reads ask for nothing but what the remote has.
    let options = Options { read_your_writes: false, ..Options::default() };
    let reader = Client::connect(&[replica.url()], options)?.database("db");
    let (over, writing) = writer(bench, source);
    let pulls = || {
        let stats = sandbox.run(&["--server", &replica.url(), "stats", "--json"]).json();
        stats["replication"][0]["done"].as_f64().context("the replica pulls")
    };
    let (mut alone, mut at_once, mut took) = (Vec::new(), Vec::new(), Vec::new());
    let pulled = bench.runtime.block_on(async {
        for _ in 0..100 {
            let (time, begun) = timed(reader.begin_read_only()).await;
            begun?.rollback().await?;
            alone.push(time);
        }
        // Connections, threads and memory that the first take.
        at_once_begun(&reader).await?;
        let before = pulls()?;
        for _ in 0..WAVES {
            let (mut times, all) = at_once_begun(&reader).await?;
            at_once.append(&mut times);
            took.push(all);
        }
        let pulled = pulls()? - before;
        over.store(true, Ordering::Relaxed);
        writing.await??;
        anyhow::Ok(pulled)
    })?;
    let pull = percentile(&mut alone, 50);
    bench.figure("a transaction of a replica begins", "median_ms", millis(pull));
    for (metric, percent) in [("median_ms", 50), ("p99_ms", 99)] {
        bench.figure("1,000 begin at once", metric, millis(percentile(&mut at_once, percent)));
    }
    bench.figure("1,000 begin at once", "all_begun_ms", millis(percentile(&mut took, 50)));
    bench.figure("1,000 begin at once", "pulls", pulled / WAVES as f64);
    // What so many cost where nobody is asked.
    let plain = client(&[&primary])?.database("db");
    let mut unasked = bench.runtime.block_on(async {
        at_once_begun(&plain).await?;
        anyhow::Ok(at_once_begun(&plain).await?.0)
    })?;
    bench.figure("1,000 begin at once on the primary", "p99_ms", millis(percentile(&mut unasked, 99)));
    Ok(())
}

/// Begins a thousand transactions at once, and ends them. How long each took to begin, and all together.
async fn at_once_begun(database: &Database) -> Result<(Vec<Duration>, Duration)> {
    let (mut all, begun) = (JoinSet::new(), Instant::now());
    for _ in 0..STARTS {
        let database = database.clone();
        all.spawn(async move { timed(database.begin_read_only()).await });
    }
    let (mut times, mut open) = (Vec::new(), Vec::new());
    while let Some(one) = all.join_next().await {
        let (time, transaction) = one?;
        times.push(time);
        open.push(transaction?);
    }
    let took = begun.elapsed();
    for one in open {
        one.rollback().await?;
    }
    Ok((times, took))
}

/// Commits in forty-nine databases, with and without a fiftieth whose remote is slow.
pub(super) fn neighbours(bench: &mut Bench<'_>) -> Result<()> {
    let sandbox = Sandbox::new();
    let remote = sandbox.serve(&["--data-dir", "remote", "--listen", "127.0.0.1:0"]);
    let mut primary = primary(&sandbox, &remote.database("{database}"));
    let all = client(&[&primary])?;
    let names: Vec<String> = (0..DATABASES).map(|number| format!("db{number}")).collect();
    bench.runtime.block_on(async {
        for name in &names {
            all.create_database(name).await?;
            commit(&all.database(name), 0).await?;
        }
        anyhow::Ok(())
    })?;
    around(bench, &all, &names, "49 databases, the 50th idle", false)?;
    around(bench, &all, &names, "49 databases beside a busy 50th", true)?;
    let address = remote.url().trim_start_matches("http://").parse()?;
    let proxy = bench.runtime.block_on(Proxy::start(address, SLOW, || None))?;
    let slow = format!("http://{}/{}", proxy.address(), names[0]);
    // The remote of a database is changed where nobody serves it.
    ensure!(primary.stop() == 0, "the primary did not stop well");
    let dir = format!("p/{}", names[0]);
    sandbox.run(&["-C", &dir, "remote", "remove", "origin"]).ok();
    sandbox.run(&["-C", &dir, "remote", "add", "origin", &slow]).ok();
    let primary = sandbox.serve(&["--config", "p.yaml"]);
    around(bench, &client(&[&primary])?, &names, "49 databases beside a slow remote", true)
}

/// Commits in all databases but the first, while that has commits of its own, or not.
fn around(bench: &mut Bench<'_>, all: &Client, names: &[String], case: &str, busy: bool) -> Result<()> {
    let first = busy.then(|| writer(bench, all.database(&names[0])));
    let mut times = Vec::new();
    let commits = bench.runtime.block_on(async {
        let (end, mut number) = (Instant::now() + NEIGHBOURS, 0);
        while Instant::now() < end {
            number += 1;
            let database = all.database(&names[1 + number % (names.len() - 1)]);
            let (time, done) = timed(commit(&database, number)).await;
            done?;
            times.push(time);
        }
        match first {
            None => anyhow::Ok(0),
            Some((over, writing)) => {
                over.store(true, Ordering::Relaxed);
                writing.await?
            }
        }
    })?;
    bench.figure(case, "commits", times.len() as f64);
    bench.figure(case, "median_ms", millis(percentile(&mut times, 50)));
    bench.figure(case, "p99_ms", millis(percentile(&mut times, 99)));
    bench.figure(case, "commits_of_the_50th", commits as f64);
    Ok(())
}

/// Reads with tokens, over a primary and so many replicas.
pub(super) fn reads(bench: &mut Bench<'_>) -> Result<()> {
    for replicas in [0, 1, 2, 4] {
        let servers = Replicated::new(replicas);
        let options = Options { spare_primary: true, ..Options::default() };
        let addresses = servers.addresses();
        let checked = check(&addresses, options, READS, 16, Duration::from_millis(20));
        let tally = bench.runtime.block_on(checked)?;
        ensure!(tally.stale == 0 && tally.failures.is_empty(), "{tally:?}");
        let case = format!("a primary and {replicas} replicas");
        bench.figure(&case, "reads_per_s", tally.checks as f64 / tally.took.as_secs_f64());
    }
    Ok(())
}
