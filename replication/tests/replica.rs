//! A read replica over real sockets: how old what it shows may be, and what that costs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pleach_engine::{Database, Hash, NewCommit, Options, TransactionOutcome};
use pleach_protocol::testing::Proxy;
use pleach_protocol::{
    Credentials, Databases, Force, Part, PushUpdate, Remote, RemoteUrl, SyncService, clone_database, push,
    transport,
};
use pleach_replication::{ErrorKind, ReadReplica, Refresh, ReplicaConfig};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::transport::server::TcpIncoming;

fn write(db: &Database, value: &str) -> Hash {
    let mut transaction = db.begin("main").unwrap();
    if !transaction.has_table("t").unwrap() {
        transaction.create_table("t", None).unwrap();
    }
    transaction.put("t", b"k", value.as_bytes()).unwrap();
    assert!(!matches!(transaction.commit().unwrap(), TransactionOutcome::Refused { .. }));
    let new = NewCommit { message: "m".into(), author: "a".into(), ..NewCommit::default() };
    db.commit("main", new).unwrap().hash
}

fn head(db: &Database) -> Option<Hash> {
    db.get_ref("heads/main")
}

/// A primary's server, by a proxy, and a clone of its database.
struct Pair {
    primary: Database,
    databases: Databases,
    /// What the server runs on, while it runs.
    serving: Option<Runtime>,
    proxy: Proxy,
    db: Database,
    _dir: TempDir,
}

impl Pair {
    async fn new() -> Pair {
        let dir = TempDir::new().unwrap();
        let databases = Databases::new(&dir.path().join("data"), Options::default()).unwrap();
        let primary = databases.create("shop").unwrap();
        write(&primary, "first");
        let (serving, address) = serve(&databases);
        let proxy = Proxy::start(address, Duration::ZERO, || None).await.unwrap();
        let url = RemoteUrl::parse(&format!("http://{}/shop", proxy.address())).unwrap();
        let remote = Remote::connect(&url).await.unwrap();
        let path = dir.path().join("r");
        let (db, _) = clone_database(&remote, &path, Options::default(), &Part::default()).await.unwrap();
        Pair { primary, databases, serving: Some(serving), proxy, db, _dir: dir }
    }

    /// The server goes away, with all its connections.
    fn away(&mut self) {
        self.serving.take().into_iter().for_each(Runtime::shutdown_background);
    }

    fn back(&mut self) {
        let (serving, address) = serve(&self.databases);
        self.proxy.lead_to(address);
        self.serving = Some(serving);
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.away();
    }
}

fn serve(databases: &Databases) -> (Runtime, SocketAddr) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let entered = runtime.enter();
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap().with_nodelay(Some(true));
    let address = incoming.local_addr().unwrap();
    let service = SyncService::new(databases.clone()).into_server();
    runtime.spawn(transport().add_service(service).serve_with_incoming(incoming));
    drop(entered);
    (runtime, address)
}

fn replica(refresh: Refresh, max_staleness: Duration) -> ReadReplica {
    ReadReplica::new(ReplicaConfig {
        remote: "origin".into(),
        heads: vec!["main".into()],
        all_heads: false,
        force_pull: true,
        credentials: Credentials::default(),
        refresh,
        max_staleness,
    })
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn b11_a_read_asks_once_or_not_at_all_if_it_may_be_older() {
    let pair = Pair::new().await;
    let always = replica(Refresh::Transaction, Duration::ZERO);
    for n in 0..5 {
        let new = write(&pair.primary, &n.to_string());
        let before = pair.proxy.counts().up;
        always.refresh("shop", &pair.db).await.unwrap();
        assert_eq!(head(&pair.db), Some(new));
        assert!(pair.proxy.counts().up > before);
    }
    let sometimes = replica(Refresh::Transaction, Duration::from_secs(60));
    sometimes.refresh("shop", &pair.db).await.unwrap();
    let (old, before) = (head(&pair.db), pair.proxy.counts().connections);
    write(&pair.primary, "new");
    for _ in 0..1_000 {
        sometimes.refresh("shop", &pair.db).await.unwrap();
    }
    assert_eq!((head(&pair.db), pair.proxy.counts().connections), (old, before));
}

#[tokio::test]
async fn b11_a_watch_brings_changes_by_itself_and_its_heartbeats_spare_reads_the_question() {
    let pair = Pair::new().await;
    let most = Duration::from_millis(800);
    let replica = replica(Refresh::Watch, most);
    replica.refresh("shop", &pair.db).await.unwrap();
    for n in 0..10 {
        let new = write(&pair.primary, &n.to_string());
        eventually("the change comes by itself", || head(&pair.db) == Some(new)).await;
    }
    // Nothing changes for several times as long as reads may be behind; heartbeats say so.
    tokio::time::sleep(2 * most).await;
    let before = pair.proxy.counts().up;
    let until = Instant::now() + 2 * most;
    while Instant::now() < until {
        replica.refresh("shop", &pair.db).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // A fetch takes more than a hundred bytes up; there are some three hundred reads.
    let asked = pair.proxy.counts().up - before;
    assert!(asked < 3_000, "{asked} bytes");
}

#[tokio::test]
async fn b15_without_the_remote_reads_go_on_as_long_as_they_may_be_behind_and_then_fail() {
    for refresh in [Refresh::Transaction, Refresh::Watch, Refresh::Every(Duration::from_millis(100))] {
        let mut pair = Pair::new().await;
        let most = Duration::from_millis(1_500);
        let replica = replica(refresh, most);
        replica.refresh("shop", &pair.db).await.unwrap();
        pair.away();
        let began = Instant::now();
        replica.refresh("shop", &pair.db).await.unwrap();
        let failed = loop {
            match replica.refresh("shop", &pair.db).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => break error,
            }
        };
        assert_eq!(failed.kind(), ErrorKind::Network, "{refresh:?}");
        assert!(began.elapsed() > most / 2, "{refresh:?}: {:?}", began.elapsed());
        pair.back();
        let new = write(&pair.primary, "new");
        replica.refresh("shop", &pair.db).await.unwrap();
        assert_eq!(head(&pair.db), Some(new), "{refresh:?}");
    }
}

#[tokio::test]
async fn on_an_interval_reads_wait_for_nobody() {
    let pair = Pair::new().await;
    let replica = replica(Refresh::Every(Duration::from_millis(50)), Duration::ZERO);
    replica.refresh("shop", &pair.db).await.unwrap();
    let new = write(&pair.primary, "new");
    eventually("it comes by itself", || head(&pair.db) == Some(new)).await;
}

#[tokio::test]
async fn b12_a_thousand_reads_while_the_primary_writes_share_pulls() {
    let pair = Pair::new().await;
    let replica = replica(Refresh::Transaction, Duration::ZERO);
    replica.refresh("shop", &pair.db).await.unwrap();
    let began = Instant::now();
    for n in 0..10 {
        write(&pair.primary, &n.to_string());
        replica.refresh("shop", &pair.db).await.unwrap();
    }
    let one = began.elapsed() / 10;
    let primary = pair.primary.clone();
    let writing = tokio::task::spawn_blocking(move || {
        for n in 0..20 {
            write(&primary, &format!("again {n}"));
        }
    });
    let turns = pair.proxy.counts().turns;
    let waits: Vec<_> = (0..1_000)
        .map(|_| {
            let (replica, db) = (replica.clone(), pair.db.clone());
            tokio::spawn(async move { replica.refresh("shop", &db).await.map(drop).unwrap() })
        })
        .collect();
    for wait in waits {
        wait.await.unwrap();
    }
    let asked = pair.proxy.counts().turns - turns;
    writing.await.unwrap();
    // Two pulls serve all that wait; some begin later. Frames that acknowledge look like turns, too.
    assert!(asked < 40, "{asked} turns, a pull takes {one:?}");
}

#[tokio::test]
async fn a_directory_is_looked_at_each_second_where_a_server_would_tell() {
    let dir = TempDir::new().unwrap();
    let url = format!("file://{}", dir.path().join("remote").display());
    let primary = Database::init(&dir.path().join("p"), Options::default()).unwrap();
    let remote = Remote::connect(&RemoteUrl::parse(&url).unwrap()).await.unwrap();
    let send = async |new| {
        let update = [PushUpdate { name: "heads/main".into(), new: Some(new) }];
        push(&primary, &remote, "origin", &update, Force::No).await.unwrap();
    };
    send(write(&primary, "1")).await;
    let path = dir.path().join("r");
    let (db, _) = clone_database(&remote, &path, Options::default(), &Part::default()).await.unwrap();
    let replica = replica(Refresh::Watch, Duration::ZERO);
    replica.refresh("shop", &db).await.unwrap();
    let new = write(&primary, "2");
    send(new).await;
    eventually("it comes by itself", || head(&db) == Some(new)).await;
}

#[tokio::test]
async fn b14_one_that_is_retired_moves_no_branch_any_more() {
    for refresh in [Refresh::Transaction, Refresh::Watch, Refresh::Every(Duration::from_millis(5))] {
        let pair = Pair::new().await;
        let replica = replica(refresh, Duration::ZERO);
        replica.refresh_now("shop", &pair.db).await.unwrap();
        let retired = replica.clone();
        tokio::task::spawn_blocking(move || retired.retire()).await.unwrap();
        let mine = write(&pair.db, "mine");
        for n in 0..20 {
            write(&pair.primary, &format!("theirs {n}"));
            let refreshed = replica.refresh_now("shop", &pair.db).await.unwrap();
            assert!(refreshed.changed.is_empty());
            assert_eq!(head(&pair.db), Some(mine), "{refresh:?}");
        }
    }
}
