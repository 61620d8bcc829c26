//! Direct to standbys: acknowledged writes, lag, changes of roles, and what an idle cluster says.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use pleach_client::{Client, Database, Options};
use pleach_protocol::testing::Proxy;
use pleach_tests::{Sandbox, Server, free_port};
use tokio::task::JoinSet;

use super::{Bench, client, cpu, millis, percentile, serve, timed};

const NAMES: [&str; 3] = ["one", "two", "three"];
/// Writes one after the other.
const WRITES: usize = 500;
/// Writes of all writers together.
const LOAD: usize = 20_000;
const WRITERS: usize = 64;
/// The delay, in each direction, with which round trips are counted.
const FAR: Duration = Duration::from_millis(20);
/// How long lag is measured.
const LAG: Duration = Duration::from_secs(5);
const SWITCHES: usize = 5;
/// How long writes may take to be answered again after a switch.
const RESUMED: Duration = Duration::from_secs(30);
const DATABASES: usize = 500;
/// How long an idle cluster is listened to.
const IDLE: Duration = Duration::from_secs(30);

/// Nodes of a cluster; the first is primary.
struct Cluster {
    sandbox: Sandbox,
    nodes: Vec<Server>,
    /// From each node to each other one, in the order of who calls.
    links: Vec<Proxy>,
}

impl Cluster {
    fn new(bench: &Bench<'_>, nodes: usize, ack: &str, delay: Duration) -> Result<Cluster> {
        let sandbox = Sandbox::new();
        let names = &NAMES[..nodes];
        let ports: Vec<u16> = names.iter().map(|_| free_port()).collect();
        let (mut links, mut servers) = (Vec::new(), Vec::new());
        for (from, name) in names.iter().enumerate() {
            let mut standbys = String::new();
            for (to, port) in ports.iter().enumerate().filter(|(to, _)| *to != from) {
                let target = SocketAddr::from(([127, 0, 0, 1], *port));
                let link = bench.runtime.block_on(Proxy::start(target, delay, || None))?;
                let url = format!("http://{}/{{database}}", link.address());
                standbys += &format!("    - {{name: {}, remote_url_template: \"{url}\"}}\n", names[to]);
                links.push(link);
            }
            let role = if from == 0 { "primary" } else { "standby" };
            let text = format!(
                "data_dir: {name}\nlistener: {{host: 127.0.0.1, port: 0}}\ncluster:\n  standby_remotes:\n{standbys}  bootstrap_role: {role}\n  bootstrap_epoch: 1\n  ack: {ack}\n  \
                 remotesapi: {{address: 127.0.0.1, port: {}}}\n",
                ports[from]
            );
            servers.push((*name, text));
        }
        // Standbys first: the primary finds them.
        let mut started: Vec<Server> =
            servers.iter().rev().map(|(name, text)| serve(&sandbox, name, text)).collect();
        started.reverse();
        Ok(Cluster { sandbox, nodes: started, links })
    }

    /// A database with a row, on all nodes.
    fn database(&self, bench: &Bench<'_>) -> Result<Database> {
        let database = client(&[&self.nodes[0]])?.database("db");
        bench.runtime.block_on(async {
            database.client().create_database("db").await?;
            let token = database.put("t", "first", "value").await?.token.context("a token")?;
            for node in &self.nodes[1..] {
                let standby = client(&[node])?.with_token("db", token);
                while standby.database("db").get("t", "first").await.is_err() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            anyhow::Ok(())
        })?;
        Ok(database)
    }

    fn bytes(&self) -> u64 {
        self.links.iter().map(Proxy::counts).map(|counts| counts.up + counts.down).sum()
    }

    fn assume(&self, node: usize, role: &str, epoch: u64) -> Result<()> {
        let epoch = epoch.to_string();
        let assumed =
            self.sandbox.run(&["--server", &self.nodes[node].url(), "cluster", "assume-role", role, &epoch]);
        ensure!(assumed.status == 0, "{role} at {epoch} was not assumed: {}", assumed.stderr);
        Ok(())
    }
}

/// Puts rows, one after the other; how long each took.
async fn put(database: &Database, count: usize, prefix: &str) -> Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(count);
    for number in 0..count {
        let (time, written) = timed(database.put("t", format!("{prefix}{number:08}"), "value")).await;
        let written = written?;
        ensure!(written.warnings.is_empty(), "{:?}", written.warnings);
        times.push(time);
    }
    Ok(times)
}

/// Bytes and round trips of a write that is durable on a standby when it is answered.
pub(super) fn writes(bench: &mut Bench<'_>) -> Result<()> {
    let case = "one-row write, durable on a standby";
    let ack = "{count: 1, level: durable, on_timeout: error}";
    let alone = Cluster::new(bench, 2, "{count: 0}", Duration::ZERO)?;
    let database = alone.database(bench)?;
    let mut unacknowledged = bench.runtime.block_on(put(&database, WRITES, "a"))?;
    let near = Cluster::new(bench, 2, ack, Duration::ZERO)?;
    let database = near.database(bench)?;
    let before = near.bytes();
    let mut times = bench.runtime.block_on(put(&database, WRITES, "a"))?;
    bench.figure(case, "bytes_on_the_wire", (near.bytes() - before) as f64 / WRITES as f64);
    bench.figure(case, "median_ms", millis(percentile(&mut times, 50)));
    bench.figure(
        "one-row write, acknowledged at once",
        "median_ms",
        millis(percentile(&mut unacknowledged, 50)),
    );
    let far = Cluster::new(bench, 2, ack, FAR)?;
    let database = far.database(bench)?;
    let mut distant = bench.runtime.block_on(put(&database, 50, "a"))?;
    let trips = percentile(&mut distant, 50).saturating_sub(percentile(&mut times, 50));
    bench.figure(case, "round_trips", trips.as_secs_f64() / (2.0 * FAR.as_secs_f64()));
    Ok(())
}

/// Writes of many clients; how long they took.
fn write_load(bench: &Bench<'_>, database: &Database, prefix: &'static str) -> Result<Duration> {
    let begun = Instant::now();
    bench.runtime.block_on(async {
        let mut all = JoinSet::new();
        for writer in 0..WRITERS {
            let database = database.clone();
            all.spawn(async move { put(&database, LOAD / WRITERS, &format!("{prefix}{writer:02}-")).await });
        }
        while let Some(done) = all.join_next().await {
            done??;
        }
        anyhow::Ok(())
    })?;
    Ok(begun.elapsed())
}

/// CPU of an acknowledged write of 64 writers, both nodes together, beside a server alone.
pub(super) fn load(bench: &mut Bench<'_>) -> Result<()> {
    let sandbox = Sandbox::new();
    let server = sandbox.serve(&["--data-dir", "alone", "--listen", "127.0.0.1:0"]);
    let database = client(&[&server])?.database("db");
    bench.runtime.block_on(database.client().create_database("db"))?;
    write_load(bench, &database, "warm")?;
    let before = cpu(&server)?;
    let took = write_load(bench, &database, "x")?;
    let alone = (cpu(&server)? - before).as_secs_f64() / LOAD as f64;
    bench.figure("64 writers, alone", "cpu_us", alone * 1e6);
    bench.figure("64 writers, alone", "writes_per_s", LOAD as f64 / took.as_secs_f64());
    let cluster = Cluster::new(bench, 2, "{count: 1, level: durable, on_timeout: error}", Duration::ZERO)?;
    let database = cluster.database(bench)?;
    write_load(bench, &database, "warm")?;
    let both = || -> Result<Duration> { Ok(cpu(&cluster.nodes[0])? + cpu(&cluster.nodes[1])?) };
    let (before, bytes) = (both()?, cluster.bytes());
    let took = write_load(bench, &database, "x")?;
    let replicated = (both()? - before).as_secs_f64() / LOAD as f64;
    let case = "64 writers, durable on a standby";
    bench.figure(case, "cpu_us_of_both", replicated * 1e6);
    bench.figure(case, "times_alone", replicated / alone);
    bench.figure(case, "writes_per_s", LOAD as f64 / took.as_secs_f64());
    bench.figure(case, "bytes_on_the_wire", (cluster.bytes() - bytes) as f64 / LOAD as f64);
    Ok(())
}

/// From the answer of a write that waits for nobody until a standby shows it, at full write load.
pub(super) fn lag(bench: &mut Bench<'_>) -> Result<()> {
    let cluster = Cluster::new(bench, 2, "{count: 0}", Duration::ZERO)?;
    let database = cluster.database(bench)?;
    let over = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicUsize::new(0));
    for writer in 0..WRITERS {
        let (database, over, written) = (database.clone(), over.clone(), written.clone());
        bench.runtime.spawn(async move {
            let mut number = 0;
            while !over.load(Ordering::Relaxed) {
                number += 1;
                if database.put("t", format!("{writer}-{number}"), "value").await.is_ok() {
                    written.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    let syncs = syncs(&cluster.sandbox, &over)?;
    let (mut lags, mut answers) = bench.runtime.block_on(async {
        let (end, mut lags, mut answers) = (Instant::now() + LAG, Vec::new(), Vec::new());
        let (mut number, standby) = (0, client(&[&cluster.nodes[1]])?);
        while Instant::now() < end {
            number += 1;
            let row = format!("probe{number}");
            let (time, written) = timed(database.put("t", row.as_str(), "value")).await;
            let token = written?.token.context("a token")?;
            answers.push(time);
            standby.saw("db", token);
            let (time, found) = timed(standby.database("db").get("t", row.as_str())).await;
            ensure!(found?.is_some(), "a read was stale");
            lags.push(time);
        }
        anyhow::Ok((lags, answers))
    })?;
    over.store(true, Ordering::Relaxed);
    let mut syncs = syncs.join().map_err(|_| anyhow::anyhow!("the thread that syncs panicked"))??;
    let case = "lag at full write load";
    bench.figure(case, "writes_per_s", written.load(Ordering::Relaxed) as f64 / LAG.as_secs_f64());
    bench.figure(case, "median_ms", millis(percentile(&mut lags, 50)));
    bench.figure(case, "p99_ms", millis(percentile(&mut lags, 99)));
    bench.figure(case, "p99_of_a_write_ms", millis(percentile(&mut answers, 99)));
    bench.figure(case, "p99_of_a_sync_ms", millis(percentile(&mut syncs, 99)));
    Ok(())
}

/// Times syncs of a file on the same disk until `over`.
fn syncs(sandbox: &Sandbox, over: &Arc<AtomicBool>) -> Result<JoinHandle<io::Result<Vec<Duration>>>> {
    let mut file = File::create(sandbox.path("synced"))?;
    let over = over.clone();
    Ok(std::thread::spawn(move || {
        let mut times = Vec::new();
        while !over.load(Ordering::Relaxed) {
            let begun = Instant::now();
            file.write_all(&[0; 512])?;
            file.sync_data()?;
            times.push(begun.elapsed());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(times)
    }))
}

/// How long nobody took writes: in a planned switch, and after the primary died.
pub(super) fn switches(bench: &mut Bench<'_>) -> Result<()> {
    let cluster =
        Cluster::new(bench, 2, "{count: 1, level: durable, timeout: 1s, on_timeout: error}", Duration::ZERO)?;
    cluster.database(bench)?;
    let (mut gaps, mut commands) = (Vec::new(), Vec::new());
    let mut epoch = 1;
    for switch in 0..SWITCHES {
        epoch += 1;
        let (from, to) = (switch % 2, (switch + 1) % 2);
        let load = Load::start(bench, &cluster)?;
        let begun = Instant::now();
        cluster.assume(from, "standby", epoch)?;
        cluster.assume(to, "primary", epoch)?;
        commands.push(begun.elapsed());
        gaps.push(load.longest_gap()?);
    }
    bench.figure("planned switch under load", "commands_median_ms", millis(percentile(&mut commands, 50)));
    bench.figure("planned switch under load", "without_writes_median_ms", millis(percentile(&mut gaps, 50)));
    bench.figure("planned switch under load", "without_writes_most_ms", millis(percentile(&mut gaps, 100)));
    drop(cluster);
    let (mut gaps, mut commands) = (Vec::new(), Vec::new());
    for _ in 0..SWITCHES {
        let mut cluster = Cluster::new(
            bench,
            3,
            "{count: 1, level: durable, timeout: 1s, on_timeout: error}",
            Duration::ZERO,
        )?;
        cluster.database(bench)?;
        let load = Load::start(bench, &cluster)?;
        cluster.nodes[0].kill();
        let begun = Instant::now();
        cluster.assume(1, "primary", 2)?;
        commands.push(begun.elapsed());
        gaps.push(load.longest_gap()?);
    }
    bench.figure("promotion, the primary dead", "command_median_ms", millis(percentile(&mut commands, 50)));
    bench.figure(
        "promotion, the primary dead",
        "without_writes_median_ms",
        millis(percentile(&mut gaps, 50)),
    );
    bench.figure("promotion, the primary dead", "without_writes_most_ms", millis(percentile(&mut gaps, 100)));
    Ok(())
}

/// Clients that write to whoever takes it.
struct Load {
    over: Arc<AtomicBool>,
    answered: Arc<Mutex<Vec<Instant>>>,
}

impl Load {
    /// Half a second of it has passed when this returns.
    fn start(bench: &Bench<'_>, cluster: &Cluster) -> Result<Load> {
        let over = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(Mutex::new(Vec::new()));
        let urls: Vec<String> = cluster.nodes.iter().map(Server::url).collect();
        for writer in 0..8 {
            let options = Options { pause: Duration::from_millis(5), ..Options::default() };
            let database = Client::connect(&urls, options)?.database("db");
            let (over, answered) = (over.clone(), answered.clone());
            bench.runtime.spawn(async move {
                let mut number = 0;
                while !over.load(Ordering::Relaxed) {
                    number += 1;
                    if database.put("t", format!("{writer}-{number}"), "value").await.is_ok() {
                        answered.lock().push(Instant::now());
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_millis(500));
        Ok(Load { over, answered })
    }

    /// The longest time without an answer, until writes have been answered again for half a second.
    fn longest_gap(self) -> Result<Duration> {
        let done = Instant::now();
        let goes_on =
            || self.answered.lock().iter().any(|answered| *answered > done + Duration::from_millis(500));
        while !goes_on() {
            ensure!(done.elapsed() < RESUMED, "no write was answered in {RESUMED:?} after the switch");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.over.store(true, Ordering::Relaxed);
        let mut answered = self.answered.lock().clone();
        answered.sort_unstable();
        Ok(answered.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default())
    }
}

/// What three nodes with many databases say to each other when nothing happens.
pub(super) fn idle(bench: &mut Bench<'_>) -> Result<()> {
    let cluster = Cluster::new(bench, 3, "{count: 1, level: durable, on_timeout: error}", Duration::ZERO)?;
    let one = client(&[&cluster.nodes[0]])?;
    bench.runtime.block_on(async {
        for number in 0..DATABASES {
            one.create_database(&format!("db{number}")).await?;
        }
        let last = one.database(&format!("db{}", DATABASES - 1));
        last.put("t", "k", "value").await?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        anyhow::Ok(())
    })?;
    let pieces = || -> u64 { cluster.links.iter().map(|link| link.counts().pieces).sum() };
    let cpu_of_all = || -> Result<Duration> {
        cluster.nodes.iter().map(cpu).try_fold(Duration::ZERO, |sum, one| Ok(sum + one?))
    };
    let (before, bytes, spent) = (pieces(), cluster.bytes(), cpu_of_all()?);
    std::thread::sleep(IDLE);
    let case = "idle, 500 databases on 2 standbys";
    bench.figure(case, "pieces_per_s", (pieces() - before) as f64 / IDLE.as_secs_f64());
    bench.figure(case, "bytes_per_s", (cluster.bytes() - bytes) as f64 / IDLE.as_secs_f64());
    bench.figure(case, "cpu_ms_per_s", millis(cpu_of_all()? - spent) / IDLE.as_secs_f64());
    Ok(())
}
