//! The exchange between two databases: round trips, bytes, CPU and time, at a delay of 0, 20 and 100 ms, beside git and rsync where they are
//! installed.
//!
//! Both ends are in this process, over real sockets; round trips and what passes at all are counted by a proxy between them, for the rivals too.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pleach_engine::{
    Compression, Database, Durability, Hash, NewCommit, Options, TransactionOutcome, difference,
};
use pleach_protocol::proto::{self, fetch_response::Message, sync_client::SyncClient, sync_server};
use pleach_protocol::record::Record;
use pleach_protocol::testing::{Counts, Proxy};
use pleach_protocol::{
    Databases, Force, Part, PushUpdate, Receiver, RefPatterns, Remote, RemoteUrl, Sender, SyncService,
    Transfer, clone_database, fetch, push, transport,
};
use tokio::runtime::Runtime;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::measure::{anonymous_bytes, cpu_nanos, least_anonymous_bytes};
use crate::rows::SplitMix64;
use crate::store::Figure;

mod rivals;

/// Length of a value; its key has eight bytes.
const VALUE_BYTES: usize = 62;
const ROW_BYTES: u64 = VALUE_BYTES as u64 + 8;
const TABLE: &str = "rows";
const MAIN: &str = "main";
const HEAD: &str = "heads/main";
const NAME: &str = "d1";
/// Refs of the server that nobody has changed.
const MANY_REFS: usize = 20_000;
/// Rows of a larger change.
const MANY_ROWS: u64 = 1_000;
/// How often a small thing is repeated for its median.
const REPEATS: usize = 100;

/// Measures everything, or the parts in `only`, on `count` rows, below `directory`, and hands each figure to `show`.
///
/// # Errors
/// The databases', the network's, and the operating system's.
pub fn run(count: u64, only: &[String], directory: &Path, show: &mut dyn FnMut(Figure)) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let place = tempfile::tempdir_in(directory)?;
    let bench = Bench { count, place: place.path(), runtime: &runtime };
    let is_wanted = |part: &str| only.is_empty() || only.iter().any(|only| only == part);
    if is_wanted("clones") {
        bench.clones(show)?;
    }
    if is_wanted("exchanges") {
        for delay in [0, 20, 100] {
            bench.exchanges(Duration::from_millis(delay), show)?;
        }
        bench.latency(show)?;
        bench.sender(show)?;
    }
    if is_wanted("rivals") {
        for delay in [0, 20, 100] {
            rivals::git(&bench, Duration::from_millis(delay), show)?;
        }
        rivals::rsync(&bench, show)?;
    }
    Ok(())
}

/// The parts of the measurement.
pub const PARTS: [&str; 3] = ["clones", "exchanges", "rivals"];

/// What every case needs.
struct Bench<'a> {
    count: u64,
    place: &'a Path,
    runtime: &'a Runtime,
}

/// A row's value: names and numbers, of which a version has some digits and a counter of its own.
fn value(i: u64, version: u64) -> Vec<u8> {
    let name = SplitMix64::new(i).next_u64();
    let stock = SplitMix64::new(i ^ SplitMix64::new(version).next_u64()).next_u64() % 99_999_989;
    let mut row =
        format!("{name:016x}|{stock:08}|customer {:08}|{version:08}|{i:09}", name % 99_999_989).into_bytes();
    row.resize(VALUE_BYTES, b'.');
    row
}

fn options() -> Options {
    // A sync says something about the disk alone.
    Options { durability: Durability::Eventual { interval: Duration::from_secs(5) }, ..Options::default() }
}

fn put(database: &Database, rows: impl IntoIterator<Item = (u64, Vec<u8>)>) -> Result<Hash> {
    let mut transaction = database.begin(MAIN)?;
    if !transaction.has_table(TABLE)? {
        transaction.create_table(TABLE, None)?;
    }
    for (key, value) in rows {
        transaction.put(TABLE, &key.to_be_bytes(), &value)?;
    }
    ensure!(matches!(transaction.commit()?, TransactionOutcome::Committed(_)), "the rows were not committed");
    let new = NewCommit { message: "a change".into(), author: "bench".into(), ..NewCommit::default() };
    Ok(database.commit(MAIN, new)?.hash)
}

/// A server of a directory of databases, in this process.
struct Server {
    address: SocketAddr,
    databases: Databases,
}

impl Server {
    fn start(bench: &Bench<'_>, directory: &Path, options: Options) -> Result<Server> {
        std::fs::create_dir_all(directory)?;
        let databases = Databases::new(directory, options)?;
        let service = SyncService::new(databases.clone()).into_server();
        let incoming = bench.runtime.block_on(async { TcpIncoming::bind(([127, 0, 0, 1], 0).into()) });
        let incoming = incoming.map_err(|error| anyhow::anyhow!("{error}"))?.with_nodelay(Some(true));
        let address = incoming.local_addr()?;
        bench.runtime.spawn(transport().add_service(service).serve_with_incoming(incoming));
        Ok(Server { address, databases })
    }
}

fn url(address: SocketAddr) -> Result<RemoteUrl> {
    Ok(RemoteUrl::parse(&format!("http://{address}/{NAME}"))?)
}

/// What an exchange did, and the bytes of its records: that of its commit, and the others.
type Exchanged = (Transfer, Option<(u64, u64)>);

/// What passed between two moments, and how long it took.
struct Passed {
    before: Counts,
    since: Instant,
}

impl Passed {
    fn now(proxy: &Proxy) -> Passed {
        Passed { before: proxy.counts(), since: Instant::now() }
    }

    fn tell(&self, proxy: &Proxy, figure: &mut dyn FnMut(&'static str, f64)) {
        figure("ms", self.since.elapsed().as_secs_f64() * 1e3);
        let now = proxy.counts();
        figure("bytes_with_http", (now.up + now.down - self.before.up - self.before.down) as f64);
    }
}

fn messages_bytes(transfer: &Transfer) -> f64 {
    (transfer.bytes_sent + transfer.bytes_received) as f64
}

impl Bench<'_> {
    fn clone(&self, server: &Server, path: &Path, options: Options) -> Result<(Database, Transfer)> {
        let url = url(server.address)?;
        Ok(self.runtime.block_on(async {
            let remote = Remote::connect(&url).await?;
            clone_database(&remote, path, options, &Part::default()).await
        })?)
    }

    /// Clones: bytes beside what a compressor makes of all rows at once, and CPU of both ends.
    fn clones(&self, show: &mut dyn FnMut(Figure)) -> Result<()> {
        let incompressible = |i: u64| {
            let mut random = SplitMix64::new(i);
            (0..8).flat_map(|_| random.next_u64().to_le_bytes()).take(VALUE_BYTES).collect::<Vec<u8>>()
        };
        for (case, compression, random) in [
            ("clone", Compression::Fast, false),
            ("clone, dense store", Compression::Dense, false),
            ("clone, incompressible", Compression::Fast, true),
        ] {
            let mut figure = |metric, value: f64| show(Figure { case: case.to_owned(), metric, value });
            let directory = self.place.join(case.replace([' ', ','], "_"));
            let server = Server::start(self, &directory, Options { compression, ..options() })?;
            let database = server.databases.create(NAME)?;
            put(
                &database,
                (0..self.count).map(|i| (i, if random { incompressible(i) } else { value(i, 0) })),
            )?;
            database.store().compact()?;
            database.close()?;
            server.databases.close()?;
            let opened = Options { compression, ..options() };
            self.ends(&directory, &opened, &mut figure)?;
            let server = Server::start(self, &directory, opened)?;
            let database = server.databases.get(NAME)?.context("the database is gone")?;
            let before = least_anonymous_bytes()?;
            let (cpu, since) = (cpu_nanos(), Instant::now());
            let (peak, stop) = peak_memory();
            let path = directory.join("copy");
            // Compaction comes later, in the background; it is measured by itself.
            let copy_options = Options { background: false, compression, ..options() };
            let (copy, transfer) = self.clone(&server, &path, copy_options)?;
            let gigabytes = (self.count * ROW_BYTES) as f64 / 1e9;
            figure("cpu_s_per_GB", (cpu_nanos() - cpu) as f64 / 1e9 / gigabytes);
            figure("s_per_GB", since.elapsed().as_secs_f64() / gigabytes);
            drop(stop);
            figure(
                "peak_memory_MB_both_ends",
                peak.join().map_or(0, |peak| peak.saturating_sub(before)) as f64 / 1e6,
            );
            figure("round_trips", f64::from(transfer.round_trips));
            figure("bytes", messages_bytes(&transfer));
            if !random {
                let rows = (0..self.count).flat_map(|i| i.to_be_bytes().into_iter().chain(value(i, 0)));
                let rows: Vec<u8> = rows.collect();
                let stream = zstd::bulk::compress(&rows, 3)?.len();
                figure("of_zstd3_of_all_rows", messages_bytes(&transfer) / stream as f64);
                let nodes = per_node(&database)?;
                figure("of_zstd3_of_each_node", messages_bytes(&transfer) / nodes as f64);
            }
            ensure!(copy.root()? == database.root()?, "the clone is not the same");
            let cpu = cpu_nanos();
            copy.store().compact()?;
            figure("compaction_cpu_s_per_GB", (cpu_nanos() - cpu) as f64 / 1e9 / gigabytes);
            copy.close()?;
            server.databases.close()?;
            std::fs::remove_dir_all(&directory)?;
        }
        Ok(())
    }

    /// The ends of a clone one by one, without a network between: CPU of each for a GB of rows, beside that of zstd for the same chunks.
    fn ends(
        &self,
        directory: &Path,
        options: &Options,
        figure: &mut dyn FnMut(&'static str, f64),
    ) -> Result<()> {
        let gigabytes = (self.count * ROW_BYTES) as f64 / 1e9;
        let database = Database::open(&directory.join(NAME), options.clone())?;
        let head = database.branch(MAIN)?.and_then(|branch| branch.head).context("no commit")?;
        let cpu = cpu_nanos();
        let mut sender = Sender::new(&database, difference(&database, &[head], &[])?)?.with_stored(true);
        let mut messages = Vec::new();
        while let Some(message) = sender.next_message()? {
            messages.push(message);
        }
        figure("sender_cpu_s_per_GB", (cpu_nanos() - cpu) as f64 / 1e9 / gigabytes);
        let records = sender.records();
        let path = directory.join("received");
        let received = Database::init(&path, Options { background: false, ..options.clone() })?;
        let cpu = cpu_nanos();
        let mut receiver = Receiver::new(&received)?;
        messages.iter().try_for_each(|message| receiver.receive(message))?;
        let _hold = receiver.finish(records, &[head])?.append(&received)?;
        figure("receiver_cpu_s_per_GB", (cpu_nanos() - cpu) as f64 / 1e9 / gigabytes);
        received.close()?;
        std::fs::remove_dir_all(&path)?;
        let chunks = difference(&database, &[head], &[])?.map(|sent| Ok(sent?.chunk));
        let chunks = chunks.collect::<Result<Vec<_>>>()?;
        let cpu = cpu_nanos();
        let zipped = chunks
            .iter()
            .map(|chunk| zstd::bulk::compress(chunk.bytes(), 1))
            .collect::<Result<Vec<_>, _>>()?;
        figure("zstd1_of_each_node_cpu_s_per_GB", (cpu_nanos() - cpu) as f64 / 1e9 / gigabytes);
        let cpu = cpu_nanos();
        for (zipped, chunk) in zipped.iter().zip(&chunks) {
            zstd::bulk::decompress(zipped, chunk.bytes().len())?;
        }
        figure("of_inflating_them", (cpu_nanos() - cpu) as f64 / 1e9 / gigabytes);
        let cpu = cpu_nanos();
        ensure!(chunks.iter().all(|chunk| Hash::of(chunk.bytes()) == *chunk.hash()), "a chunk is damaged");
        figure("of_hashing_them", (cpu_nanos() - cpu) as f64 / 1e9 / gigabytes);
        Ok(database.close()?)
    }

    /// Small exchanges, on an open connection with a delay each way.
    fn exchanges(&self, delay: Duration, show: &mut dyn FnMut(Figure)) -> Result<()> {
        let directory = self.place.join("exchange");
        let server = Server::start(self, &directory, options())?;
        let there = server.databases.create(NAME)?;
        put(&there, (0..self.count).map(|i| (i, value(i, 0))))?;
        let path = directory.join("copy");
        let (here, _) = self.clone(&server, &path, options())?;
        let proxy = self.runtime.block_on(Proxy::start(server.address, delay, || None))?;
        let remote = self.runtime.block_on(Remote::connect(&url(proxy.address())?))?;
        let fetch = || {
            let fetched = self.runtime.block_on(fetch(&here, &remote, "origin", &RefPatterns::all()))?;
            here.merge(
                MAIN,
                &there_head(&here)?,
                pleach_engine::MergeOptions { author: "bench".into(), ..Default::default() },
            )?;
            anyhow::Ok(fetched)
        };
        let mut case = |name: &str, rows: u64, exchange: &mut dyn FnMut() -> Result<Exchanged>| {
            let case = format!("{name}, {} ms", delay.as_millis());
            let mut figure = |metric, value: f64| show(Figure { case: case.clone(), metric, value });
            let passed = Passed::now(&proxy);
            let (transfer, records) = exchange()?;
            passed.tell(&proxy, &mut figure);
            figure("round_trips", f64::from(transfer.round_trips));
            figure("bytes", messages_bytes(&transfer));
            if let Some((commit, others)) = records {
                figure("record_bytes_of_the_commit", commit as f64);
                figure("record_bytes_a_row", others as f64 / rows as f64);
            }
            anyhow::Ok(())
        };
        let mut random = SplitMix64::new(7);
        fetch()?;
        case("nothing to do", 0, &mut || Ok((fetch()?, None)))?;
        let mut version = 1;
        for (name, rows) in [("pull of 1 row", 1), ("pull of 1,000 random rows", MANY_ROWS)] {
            let base = there_head(&here)?;
            let changed: Vec<u64> = (0..rows).map(|_| random.next_u64() % self.count).collect();
            let new = put(&there, changed.into_iter().map(|i| (i, value(i, version))))?;
            version += 1;
            case(name, rows, &mut || Ok((fetch()?, Some(record_bytes(&there, base, new)?))))?;
        }
        let base = there_head(&here)?;
        let new = put(&here, [(random.next_u64() % self.count, value(0, version))])?;
        case("push of 1 row", 1, &mut || {
            let updates = [PushUpdate { name: HEAD.to_owned(), new: Some(new) }];
            let pushed = self.runtime.block_on(push(&here, &remote, "origin", &updates, Force::No))?;
            Ok((pushed, Some(record_bytes(&here, base, new)?)))
        })?;
        for _ in 0..MANY_ROWS {
            version += 1;
            put(&there, [(random.next_u64() % self.count, value(1, version))])?;
        }
        case("pull of 1,000 commits of 1 row", MANY_ROWS, &mut || Ok((fetch()?, None)))?;
        let head = there_head(&here)?;
        for i in 0..MANY_REFS {
            there.create_branch(&format!("b{i}"), Some(head))?;
        }
        fetch()?;
        case("nothing to do, 20,000 refs", 0, &mut || Ok((fetch()?, None)))?;
        here.close()?;
        server.databases.close()?;
        std::fs::remove_dir_all(&directory)?;
        Ok(())
    }

    /// Medians on loopback: a pull of one row beside a call that does nothing.
    fn latency(&self, show: &mut dyn FnMut(Figure)) -> Result<()> {
        let directory = self.place.join("latency");
        let server = Server::start(self, &directory, options())?;
        let there = server.databases.create(NAME)?;
        put(&there, (0..self.count).map(|i| (i, value(i, 0))))?;
        let path = directory.join("copy");
        let (here, _) = self.clone(&server, &path, options())?;
        let remote = self.runtime.block_on(Remote::connect(&url(server.address)?))?;
        let mut pulls = Vec::new();
        for version in 1..=REPEATS as u64 {
            let row = SplitMix64::new(version).next_u64() % self.count;
            put(&there, [(row, value(row, version))])?;
            let since = Instant::now();
            self.runtime.block_on(fetch(&here, &remote, "origin", &RefPatterns::all()))?;
            pulls.push(since.elapsed());
        }
        let echo = self.runtime.block_on(echoes())?;
        let mut figure = |metric, value: f64| {
            show(Figure { case: "pull of 1 row, loopback".into(), metric, value });
        };
        let pull = median(pulls);
        figure("median_us", pull.as_secs_f64() * 1e6);
        figure("of_a_call_that_does_nothing", pull.as_secs_f64() / echo.as_secs_f64());
        here.close()?;
        server.databases.close()?;
        std::fs::remove_dir_all(&directory)?;
        Ok(())
    }

    /// What a sender does for a difference of one row, and of many.
    fn sender(&self, show: &mut dyn FnMut(Figure)) -> Result<()> {
        let directory = self.place.join("sender");
        let database = Database::init(&directory, options())?;
        let mut base = put(&database, (0..self.count).map(|i| (i, value(i, 0))))?;
        for rows in [1, MANY_ROWS] {
            let (mut cpu, mut read, mut made) = (Vec::new(), 0, 0);
            for repeat in 0..REPEATS as u64 {
                let mut random = SplitMix64::new(repeat);
                let rows =
                    (0..rows).map(|_| random.next_u64() % self.count).map(|i| (i, value(i, repeat + 1)));
                let (chunks, new) =
                    (database.store().stats().chunks, put(&database, rows.collect::<Vec<_>>())?);
                made += database.store().stats().chunks - chunks;
                let (before, since) = (gets(&database), cpu_nanos());
                let mut sender =
                    Sender::new(&database, difference(&database, &[new], &[base])?)?.with_edits(true);
                while sender.next_message()?.is_some() {}
                cpu.push(Duration::from_nanos(cpu_nanos() - since));
                read += gets(&database) - before;
                base = new;
            }
            let mut figure = |metric, value: f64| {
                show(Figure { case: format!("difference of {rows} rows, sender"), metric, value });
            };
            figure("median_cpu_us", median(cpu).as_secs_f64() * 1e6);
            figure("nodes_read_per_changed", read as f64 / made as f64);
        }
        database.close()?;
        Ok(std::fs::remove_dir_all(&directory)?)
    }
}

fn there_head(here: &Database) -> Result<Hash> {
    here.get_ref(&format!("remotes/origin/{MAIN}")).context("the remote has no branch main")
}

fn gets(database: &Database) -> u64 {
    database.store().stats().cache_hits + database.store().stats().cache_misses
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Bytes of the records of a difference of one commit: that of the commit, and the others.
fn record_bytes(database: &Database, base: Hash, new: Hash) -> Result<(u64, u64)> {
    let mut sender = Sender::new(database, difference(database, &[new], &[base])?)?.with_edits(true);
    let (mut all, mut commit) = (0, None);
    while let Some(message) = sender.next_message()? {
        all += message.len() as u64;
        if commit.is_none() {
            let record = Record::parse(&message, 0).map_err(|malformed| anyhow::anyhow!("{malformed:?}"))?;
            commit = Some(record.1 as u64);
        }
    }
    let commit = commit.context("the difference is empty")?;
    Ok((commit, all - commit))
}

/// Bytes of all nodes, each compressed by itself.
fn per_node(database: &Database) -> Result<u64> {
    let head = database.branch(MAIN)?.and_then(|branch| branch.head).context("no commit")?;
    let mut bytes = 0;
    for sent in difference(database, &[head], &[])? {
        bytes += zstd::bulk::compress(sent?.chunk.bytes(), 3)?.len() as u64;
    }
    Ok(bytes)
}

/// Looks at this process's memory until what is given back is dropped.
fn peak_memory() -> (std::thread::JoinHandle<u64>, std::sync::mpsc::Sender<()>) {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let looking = std::thread::spawn(move || {
        let mut peak = 0;
        while stopped.recv_timeout(Duration::from_millis(5))
            == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            peak = peak.max(anonymous_bytes(std::process::id()).unwrap_or_default());
        }
        peak
    });
    (looking, stop)
}

/// A server that answers each fetch with an empty plan.
struct Echo;

#[tonic::async_trait]
impl sync_server::Sync for Echo {
    type FetchStream = ReceiverStream<Result<proto::FetchResponse, Status>>;
    type PushStream = ReceiverStream<Result<proto::PushResponse, Status>>;
    type WatchStream = ReceiverStream<Result<proto::WatchResponse, Status>>;

    async fn fetch(&self, _: Request<proto::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let (messages, stream) = tokio::sync::mpsc::channel(1);
        let plan = Message::Plan(proto::Plan { unchanged: true, ..Default::default() });
        // The caller reads it.
        let _ = messages.try_send(Ok(proto::FetchResponse { message: Some(plan) }));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn push(
        &self,
        _: Request<Streaming<proto::PushRequest>>,
    ) -> Result<Response<Self::PushStream>, Status> {
        Err(Status::unimplemented("an echo"))
    }

    async fn watch(&self, _: Request<proto::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("an echo"))
    }

    async fn get(&self, _: Request<proto::GetRequest>) -> Result<Response<proto::GetResponse>, Status> {
        Err(Status::unimplemented("an echo"))
    }
}

/// The median of calls that do nothing.
async fn echoes() -> Result<Duration> {
    let incoming =
        TcpIncoming::bind(([127, 0, 0, 1], 0).into()).map_err(|error| anyhow::anyhow!("{error}"))?;
    let incoming = incoming.with_nodelay(Some(true));
    let address = incoming.local_addr()?;
    tokio::spawn(transport().add_service(sync_server::SyncServer::new(Echo)).serve_with_incoming(incoming));
    let mut client = SyncClient::connect(format!("http://{address}")).await?;
    let mut times = Vec::new();
    for _ in 0..10 * REPEATS {
        let since = Instant::now();
        let mut answers = client.fetch(proto::FetchRequest::default()).await?.into_inner();
        while answers.message().await?.is_some() {}
        times.push(since.elapsed());
    }
    Ok(median(times))
}
