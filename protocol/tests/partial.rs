//! Clones of a part of a remote: what comes with them, what is asked for later and at what cost, and that they write, push, fetch and merge as any other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::ops::Bound;
use std::path::Path;
use std::time::Duration;

use pleach_engine::{
    Database, ErrorKind, Hash, MergeOptions, MergeOutcome, NewCommit, Options, Scope, TransactionOutcome,
    difference_in,
};
use pleach_protocol::proto::{self, GetRequest, GetResponse, sync_client::SyncClient};
use pleach_protocol::testing::Proxy;
use pleach_protocol::{
    Credentials, Databases, Error, Force, Part, PushUpdate, Receiver, RefPatterns, Remote, RemoteUrl, Sender,
    SyncService, Transfer, clone_database, fetch, pull, push, serve_promised, transport,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::Status;
use tonic::transport::Endpoint;
use tonic::transport::server::TcpIncoming;

const ROWS: u64 = 20_000;
const COMMITS: usize = 40;

fn mixed(i: u64) -> u64 {
    i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

fn value(table: &str, row: u64, version: u64) -> Vec<u8> {
    format!("{table} {:016x}{:016x}", mixed(row ^ mixed(version)), mixed(row + version)).into_bytes()
}

fn put(db: &Database, branch: &str, table: &str, rows: impl IntoIterator<Item = u64>, version: u64) {
    let mut transaction = db.begin(branch).unwrap();
    if !transaction.has_table(table).unwrap() {
        transaction.create_table(table, None).unwrap();
    }
    for row in rows {
        transaction.put(table, &row.to_be_bytes(), &value(table, row, version)).unwrap();
    }
    assert!(!matches!(transaction.commit().unwrap(), TransactionOutcome::Refused { .. }));
}

fn commit(db: &Database, branch: &str) -> Hash {
    let new = NewCommit { message: "m".into(), author: "a".into(), ..NewCommit::default() };
    db.commit(branch, new).unwrap().hash
}

/// The value of a row at the head of a branch's work.
fn get(db: &Database, branch: &str, table: &str, row: u64) -> pleach_engine::Result<Option<Vec<u8>>> {
    let snapshot = db.snapshot_of_root(db.get_ref(&format!("work/{branch}")).unwrap())?;
    let Some(table) = snapshot.table(table)? else { return Ok(None) };
    table.get(&row.to_be_bytes())
}

fn count(db: &Database, table: &str) -> usize {
    let snapshot = db.snapshot_of_root(db.get_ref("work/main").unwrap()).unwrap();
    let table = snapshot.table(table).unwrap().unwrap();
    table.scan(Bound::Unbounded, Bound::Unbounded).unwrap().inspect(|row| assert!(row.is_ok())).count()
}

fn requests(db: &Database) -> u64 {
    db.store().stats().source_requests
}

/// A server whose database `shop` has tables `a` and `b` of [`ROWS`] rows and [`COMMITS`] commits after the first, each of a row of both; a branch `old`
/// stands at the second.
struct Server {
    address: SocketAddr,
    db: Database,
    heads: Vec<Hash>,
    serving: Serving,
    _dir: TempDir,
}

impl Server {
    fn start() -> Server {
        let dir = TempDir::new().unwrap();
        let databases = Databases::new(dir.path(), Options::default()).unwrap();
        let db = databases.create("shop").unwrap();
        put(&db, "main", "a", 0..ROWS, 0);
        put(&db, "main", "b", 0..ROWS, 0);
        let mut heads = vec![commit(&db, "main")];
        for number in 1..=COMMITS as u64 {
            put(&db, "main", "a", [number * 100], number);
            put(&db, "main", "b", [number * 100], number);
            heads.push(commit(&db, "main"));
        }
        db.create_branch("old", Some(heads[1])).unwrap();
        let (address, serving) = serve(databases);
        Server { address, db, heads, serving, _dir: dir }
    }

    async fn clone(&self, dir: &Path, part: &Part) -> (Database, Transfer) {
        let remote = connected(self.address).await;
        clone_database(&remote, dir, Options::default(), part).await.unwrap()
    }

    fn head(&self) -> Hash {
        self.db.get_ref("heads/main").unwrap()
    }

    /// Goes away, with all its connections.
    fn stop(&mut self) {
        self.serving.stop();
    }
}

/// The runtime that a server runs on.
struct Serving(Option<Runtime>);

impl Serving {
    fn stop(&mut self) {
        self.0.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(databases: Databases) -> (SocketAddr, Serving) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let entered = runtime.enter();
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap().with_nodelay(Some(true));
    let address = incoming.local_addr().unwrap();
    let service = SyncService::new(databases).into_server();
    runtime.spawn(transport().add_service(service).serve_with_incoming(incoming));
    drop(entered);
    (address, Serving(Some(runtime)))
}

fn url(address: SocketAddr) -> RemoteUrl {
    RemoteUrl::parse(&format!("http://{address}/shop")).unwrap()
}

async fn connected(address: SocketAddr) -> Remote {
    Remote::connect(&url(address)).await.unwrap()
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(f).await.unwrap()
}

fn lazy() -> Part {
    Part { lazy: true, ..Part::default() }
}

fn table(name: &str) -> Part {
    Part { tables: vec![name.to_owned()], ..Part::default() }
}

fn depth(depth: u32) -> Part {
    Part { depth: Some(depth), ..Part::default() }
}

/// Nothing is damaged; so much is promised.
fn promised(db: &Database) -> u64 {
    let report = db.fsck().unwrap();
    assert_eq!(report.damages, []);
    report.promised
}

#[tokio::test]
async fn a_lazy_clone_opens_at_once_and_reads_what_it_is_asked_for() {
    let mut server = Server::start();
    let dir = TempDir::new().unwrap();
    let (db, transfer) = server.clone(&dir.path().join("c"), &lazy()).await;
    assert!(transfer.chunks <= 4 && transfer.bytes_received < 2_000, "{transfer:?}");
    assert_eq!(db.root().unwrap(), server.db.root().unwrap());
    let db = blocking(move || {
        assert!(promised(&db) > 0);
        assert_eq!(get(&db, "main", "a", 4_000).unwrap().unwrap(), value("a", 4_000, 40));
        let height = requests(&db);
        assert!(height <= 5, "{height} requests for one row: one a level");
        assert_eq!(get(&db, "main", "a", 4_000).unwrap().unwrap(), value("a", 4_000, 40));
        assert_eq!(requests(&db), height, "what was read is here");
        assert_eq!(count(&db, "b"), ROWS as usize);
        let scan = requests(&db) - height;
        assert!(scan <= 20, "{scan} requests for {ROWS} rows in order");
        let before = requests(&db);
        assert_eq!(db.log(&db.get_ref("heads/main").unwrap()).unwrap().count(), COMMITS + 1);
        assert_eq!(requests(&db) - before, 1, "ancestors come together");
        db
    })
    .await;
    server.stop();
    blocking(move || {
        assert_eq!(count(&db, "b"), ROWS as usize, "all of that is here");
        let error = (0..ROWS).find_map(|row| get(&db, "main", "a", row).err()).unwrap();
        assert_eq!(error.kind(), ErrorKind::Remote, "{error}");
        assert!(error.to_string().contains("is not in this partial copy"), "{error}");
        assert!(promised(&db) > 0);
    })
    .await;
}

#[tokio::test]
async fn a_lazy_clone_writes_pushes_pulls_and_merges() {
    let server = Server::start();
    let dir = TempDir::new().unwrap();
    let (db, _) = server.clone(&dir.path().join("c"), &lazy()).await;
    let remote = connected(server.address).await;
    let db = blocking(move || {
        put(&db, "main", "a", [7, 15_000], 100);
        commit(&db, "main");
        db
    })
    .await;
    let update =
        |db: &Database| vec![PushUpdate { name: "heads/main".into(), new: db.get_ref("heads/main") }];
    let pushed = push(&db, &remote, "origin", &update(&db), Force::No).await.unwrap();
    assert!(pushed.bytes_sent < 1_500, "{pushed:?}");
    assert_eq!(server.head(), db.get_ref("heads/main").unwrap());
    assert_eq!(promised(&server.db), 0, "the server got everything");
    // Both sides go on, and meet.
    put(&server.db, "main", "a", [8, 9_000], 200);
    put(&server.db, "main", "b", [10], 200);
    commit(&server.db, "main");
    let db = blocking(move || {
        put(&db, "main", "a", [9], 300);
        put(&db, "main", "b", [19_000], 300);
        commit(&db, "main");
        db
    })
    .await;
    let (_, outcome) = pull(&db, &remote, "origin", "main", "main", MergeOptions::default()).await.unwrap();
    assert!(matches!(outcome, MergeOutcome::Merged { .. }), "{outcome:?}");
    push(&db, &remote, "origin", &update(&db), Force::No).await.unwrap();
    for (table, row, version) in
        [("a", 7, 100), ("a", 8, 200), ("a", 9, 300), ("b", 10, 200), ("b", 19_000, 300), ("b", 11, 0)]
    {
        let found = get(&server.db, "main", table, row).unwrap().unwrap();
        assert_eq!(found, value(table, row, version), "{table} {row}");
    }
    assert_eq!(promised(&server.db), 0);
    blocking(move || {
        assert_eq!((count(&db, "a"), count(&db, "b")), (ROWS as usize, ROWS as usize));
        promised(&db);
    })
    .await;
}

#[tokio::test]
async fn a_clone_of_a_table_has_that_and_asks_for_others() {
    let server = Server::start();
    let dir = TempDir::new().unwrap();
    let (_, whole) = server.clone(&dir.path().join("w"), &Part::default()).await;
    let (db, part) = server.clone(&dir.path().join("c"), &table("a")).await;
    let share = part.bytes_received as f64 / whole.bytes_received as f64;
    assert!((0.4..0.6).contains(&share), "{share} of a clone with both tables");
    let remote = connected(server.address).await;
    let db = blocking(move || {
        assert_eq!(count(&db, "a"), ROWS as usize);
        // In all versions.
        for (_, commit) in db.log(&db.get_ref("heads/main").unwrap()).unwrap().map(|entry| entry.unwrap()) {
            let snapshot = db.snapshot_of_root(commit.root).unwrap();
            let names: Vec<String> = snapshot.tables().unwrap().into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, ["a", "b"]);
            snapshot.table("a").unwrap().unwrap().get(&100_u64.to_be_bytes()).unwrap().unwrap();
        }
        assert_eq!(requests(&db), 0, "nothing of that was lacking");
        db
    })
    .await;
    // Of what is new it gets the same part.
    put(&server.db, "main", "a", 0..100, 500);
    put(&server.db, "main", "b", 0..ROWS, 500);
    commit(&server.db, "main");
    let (transfer, outcome) =
        pull(&db, &remote, "origin", "main", "main", MergeOptions::default()).await.unwrap();
    assert!(matches!(outcome, MergeOutcome::FastForward { .. }), "{outcome:?}");
    assert!(transfer.bytes_received < 10_000, "{transfer:?}");
    let db = blocking(move || {
        assert_eq!(get(&db, "main", "a", 99).unwrap().unwrap(), value("a", 99, 500));
        assert_eq!(requests(&db), 0);
        assert_eq!(get(&db, "main", "b", 99).unwrap().unwrap(), value("b", 99, 500));
        assert!(requests(&db) > 0);
        put(&db, "main", "a", [1], 600);
        commit(&db, "main");
        promised(&db);
        db
    })
    .await;
    let update = [PushUpdate { name: "heads/main".into(), new: db.get_ref("heads/main") }];
    push(&db, &remote, "origin", &update, Force::No).await.unwrap();
    assert_eq!(get(&server.db, "main", "a", 1).unwrap().unwrap(), value("a", 1, 600));
    assert_eq!(promised(&server.db), 0);
}

#[tokio::test]
async fn a_clone_of_the_newest_commits_asks_for_older_ones() {
    let server = Server::start();
    let dir = TempDir::new().unwrap();
    let (db, transfer) =
        server.clone(&dir.path().join("c"), &Part { branches: vec!["main".into()], ..depth(5) }).await;
    assert_eq!(transfer.refs.len(), 1);
    assert_eq!(requests(&db), 0, "what was sent built upon nothing else");
    let head = server.head();
    let db = blocking(move || {
        let newest: Vec<Hash> = db.log(&head).unwrap().take(5).map(|entry| entry.unwrap().0).collect();
        assert_eq!(newest.len(), 5);
        assert_eq!(count(&db, "a"), ROWS as usize);
        assert_eq!(promised(&db), 1, "the parent of the oldest commit");
        db
    })
    .await;
    // A branch that was made before all that is here, and a merge with it.
    put(&server.db, "old", "a", [3], 700);
    commit(&server.db, "old");
    let remote = connected(server.address).await;
    fetch(&db, &remote, "origin", &RefPatterns::all()).await.unwrap();
    let first = server.heads[0];
    let db = blocking(move || {
        let theirs = db.get_ref("remotes/origin/old").unwrap();
        let outcome = db.merge("main", &theirs, MergeOptions::default()).unwrap();
        assert!(matches!(outcome, MergeOutcome::Merged { .. }), "{outcome:?}");
        assert_eq!(get(&db, "main", "a", 3).unwrap().unwrap(), value("a", 3, 700));
        assert!(db.is_ancestor(&first, &db.get_ref("heads/main").unwrap()).unwrap());
        promised(&db);
        db
    })
    .await;
    let update = [PushUpdate { name: "heads/main".into(), new: db.get_ref("heads/main") }];
    push(&db, &remote, "origin", &update, Force::No).await.unwrap();
    assert_eq!(promised(&server.db), 0);
    assert_eq!(get(&server.db, "main", "a", 3).unwrap().unwrap(), value("a", 3, 700));
}

#[tokio::test]
async fn refs_may_go_back_to_commits_that_a_partial_clone_lacks() {
    let server = Server::start();
    let dir = TempDir::new().unwrap();
    for (number, part) in [lazy(), depth(2)].into_iter().enumerate() {
        let (db, _) = server.clone(&dir.path().join(number.to_string()), &part).await;
        // There.
        server.db.create_tag(&format!("t{number}"), server.heads[3 + number]).unwrap();
        server.db.create_branch(&format!("b{number}"), Some(server.heads[5 + number])).unwrap();
        let remote = connected(server.address).await;
        fetch(&db, &remote, "origin", &RefPatterns::all()).await.unwrap();
        assert_eq!(db.get_ref(&format!("tags/t{number}")), Some(server.heads[3 + number]));
        assert_eq!(db.get_ref(&format!("remotes/origin/b{number}")), Some(server.heads[5 + number]));
        // And here.
        let (at, to) = (server.heads[8], server.heads[9]);
        blocking(move || {
            db.create_branch("here", Some(at)).unwrap();
            db.reset("main", &to, true).unwrap();
            assert_eq!(get(&db, "here", "a", 800).unwrap().unwrap(), value("a", 800, 8));
            assert_eq!(get(&db, "main", "b", 900).unwrap().unwrap(), value("b", 900, 9));
            promised(&db);
        })
        .await;
    }
}

#[tokio::test]
async fn without_its_remote_a_log_gives_the_commits_that_are_here() {
    let mut server = Server::start();
    let dir = TempDir::new().unwrap();
    let (db, _) = server.clone(&dir.path().join("c"), &depth(5)).await;
    server.stop();
    let head = server.head();
    blocking(move || {
        let mut log = db.log(&head).unwrap();
        for number in 0..5 {
            assert!(log.next().unwrap().is_ok(), "commit {number}");
        }
        assert_eq!(log.next().unwrap().unwrap_err().kind(), ErrorKind::Remote);
        assert!(log.next().is_none());
    })
    .await;
}

#[tokio::test]
async fn a_partial_clone_stays_one_when_it_is_opened_again_collected_and_compacted() {
    let server = Server::start();
    for part in [lazy(), table("a"), depth(3)] {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("c");
        let (db, _) = server.clone(&path, &part).await;
        let address = server.address;
        blocking(move || {
            db.close().unwrap();
            let db = Database::open(&path, Options::default()).unwrap();
            assert_eq!(db.partial_of().unwrap().as_deref(), Some("origin"));
            let all = |db: &Database| {
                (0..ROWS).step_by(101).try_for_each(|row| get(db, "main", "b", row).map(drop))
            };
            if part.depth.is_none() {
                assert_eq!(all(&db).unwrap_err().kind(), ErrorKind::Remote, "nobody to ask");
            }
            serve_promised(&db, &Credentials::default()).unwrap();
            assert_eq!(db.setting("remote.origin.url").unwrap().unwrap(), url(address).to_string());
            all(&db).unwrap();
            let before = promised(&db);
            db.store().collect(false).unwrap();
            db.store().compact().unwrap();
            assert_eq!(promised(&db), before);
            let asked = requests(&db);
            all(&db).unwrap();
            assert_eq!(requests(&db), asked, "what was read was kept");
            assert_eq!(count(&db, "a"), ROWS as usize);
        })
        .await;
    }
}

#[tokio::test]
async fn a_clone_of_a_part_that_is_cut_goes_on() {
    let server = Server::start();
    put(&server.db, "main", "a", ROWS..5 * ROWS, 0);
    commit(&server.db, "main");
    for part in [table("a"), depth(2)] {
        let dir = TempDir::new().unwrap();
        let (_, whole) = server.clone(&dir.path().join("w"), &part).await;
        let mut cuts = 4;
        let each = whole.bytes_received / 5;
        let cut_after = move || {
            (cuts > 0).then(|| {
                cuts -= 1;
                each
            })
        };
        let proxy = Proxy::start(server.address, Duration::ZERO, cut_after).await.unwrap();
        let remote = connected(proxy.address()).await;
        let (db, transfer) =
            clone_database(&remote, &dir.path().join("c"), Options::default(), &part).await.unwrap();
        assert!(proxy.counts().cuts >= 3);
        assert!(transfer.bytes_received < whole.bytes_received + 4 * (128 << 10), "{transfer:?} {whole:?}");
        let db = blocking(move || {
            assert_eq!(count(&db, "a"), 5 * ROWS as usize);
            db
        })
        .await;
        assert!(promised(&db) > 0);
    }
}

#[tokio::test]
async fn a_part_that_is_not_there_is_refused_and_leaves_nothing() {
    let server = Server::start();
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("c");
    let remote = connected(server.address).await;
    let error = clone_database(&remote, &path, Options::default(), &table("absent")).await.err().unwrap();
    assert!(matches!(&error, Error::UnknownTable { table, .. } if table == "absent"), "{error}");
    assert!(!path.exists());
    let place = dir.path().join("remote");
    let remote =
        Remote::connect(&RemoteUrl::parse(&format!("file://{}", place.display())).unwrap()).await.unwrap();
    let update = [PushUpdate { name: "heads/main".into(), new: server.db.get_ref("heads/main") }];
    push(&server.db, &remote, "place", &update, Force::No).await.unwrap();
    let error = clone_database(&remote, &path, Options::default(), &lazy()).await.err().unwrap();
    assert!(matches!(error, Error::NoParts { .. }), "{error}");
    assert!(!path.exists());
}

#[tokio::test]
async fn a_server_with_a_partial_copy_gives_all_of_it() {
    let server = Server::start();
    let dir = TempDir::new().unwrap();
    let (db, _) = server.clone(&dir.path().join("shop"), &lazy()).await;
    blocking(move || db.close().unwrap()).await;
    let (address, _serving) = serve(Databases::new(dir.path(), Options::default()).unwrap());
    let elsewhere = TempDir::new().unwrap();
    let remote = connected(address).await;
    let path = elsewhere.path().join("c");
    let (copy, _) = clone_database(&remote, &path, Options::default(), &Part::default()).await.unwrap();
    assert_eq!(copy.root().unwrap(), server.db.root().unwrap());
    assert_eq!(promised(&copy), 0);
    assert_eq!(count(&copy, "b"), ROWS as usize);
}

/// A server that knows better than the one behind it: it passes a Get on, and bends the answer.
struct Bending {
    behind: Remote,
    bend: Bend,
}

type Bend = fn(&mut GetResponse);

type Nothing<T> = tokio_stream::wrappers::ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl proto::sync_server::Sync for Bending {
    type FetchStream = Nothing<proto::FetchResponse>;
    type PushStream = Nothing<proto::PushResponse>;
    type WatchStream = Nothing<proto::WatchResponse>;

    async fn fetch(
        &self,
        _: tonic::Request<proto::FetchRequest>,
    ) -> Result<tonic::Response<Self::FetchStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn push(
        &self,
        _: tonic::Request<tonic::Streaming<proto::PushRequest>>,
    ) -> Result<tonic::Response<Self::PushStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn watch(
        &self,
        _: tonic::Request<proto::WatchRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get(&self, request: tonic::Request<GetRequest>) -> Result<tonic::Response<GetResponse>, Status> {
        let endpoint =
            Endpoint::from_shared(format!("http://{}", self.behind.url().host().unwrap())).unwrap();
        let mut client = SyncClient::new(endpoint.connect().await.unwrap());
        let mut answer = client.get(request.into_inner()).await?.into_inner();
        (self.bend)(&mut answer);
        Ok(tonic::Response::new(answer))
    }
}

#[tokio::test]
async fn a_remote_that_does_not_give_what_it_promised_is_told_of_and_nothing_wrong_is_kept() {
    let server = Server::start();
    let bends: [(&str, Bend); 5] = [
        ("answered with 0", |answer| answer.chunks.clear()),
        ("answered with 2", |answer| answer.chunks.push(answer.chunks[0].clone())),
        ("expected", |answer| {
            let mut bytes = answer.chunks[0].to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            answer.chunks[0] = bytes.into();
        }),
        ("none of the ancestors", |answer| answer.ancestors = vec![answer.chunks[0].clone()]),
        ("none of the ancestors", |answer| answer.ancestors.reverse()),
    ];
    for (words, bend) in bends {
        let dir = TempDir::new().unwrap();
        let (db, _) = server.clone(&dir.path().join("c"), &lazy()).await;
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let bending = Bending { behind: connected(server.address).await, bend };
        let service = proto::sync_server::SyncServer::new(bending);
        tokio::spawn(transport().add_service(service).serve_with_incoming(incoming));
        db.set_setting("remote.origin.url", Some(&url(address).to_string())).unwrap();
        serve_promised(&db, &Credentials::default()).unwrap();
        let head = server.head();
        let db = blocking(move || {
            let chunks = db.store().stats().chunks;
            let error = db.log(&head).unwrap().nth(1).unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Remote, "{words}: {error}");
            assert!(error.to_string().contains(words), "{words}: {error}");
            assert_eq!(db.store().stats().chunks, chunks, "{words}");
            promised(&db);
            db
        })
        .await;
        // The honest one is asked again.
        db.set_setting("remote.origin.url", Some(&url(server.address).to_string())).unwrap();
        serve_promised(&db, &Credentials::default()).unwrap();
        blocking(move || assert_eq!(db.log(&head).unwrap().count(), COMMITS + 1)).await;
    }
}

#[tokio::test]
async fn only_its_own_remote_may_leave_something_out() {
    let server = Server::start();
    let dir = TempDir::new().unwrap();
    let (db, _) = server.clone(&dir.path().join("c"), &lazy()).await;
    // Somebody else's server, with a commit whose parent and tables only the promiser has.
    let (other, _) = server.clone(&dir.path().join("shop"), &lazy()).await;
    let other = blocking(move || {
        put(&other, "main", "a", [5], 900);
        commit(&other, "main");
        put(&other, "main", "new", 0..1_000, 900);
        commit(&other, "main");
        other
    })
    .await;
    let head = other.get_ref("heads/main").unwrap();
    other.close().unwrap();
    let (address, _serving) = serve(Databases::new(dir.path(), Options::default()).unwrap());
    let remote = connected(address).await;
    fetch(&db, &remote, "other", &RefPatterns::all()).await.unwrap();
    assert_eq!(db.get_ref("remotes/other/main"), Some(head));
    blocking(move || {
        let theirs = db.snapshot_of_root(db.commit_object(&head).unwrap().root).unwrap();
        let asked = requests(&db);
        let rows = theirs.table("new").unwrap().unwrap();
        assert_eq!(rows.scan(Bound::Unbounded, Bound::Unbounded).unwrap().count(), 1_000);
        assert_eq!(requests(&db), asked, "what is the other's own came whole");
        promised(&db);
    })
    .await;
    // Who holds all takes no part of it as all, whatever the sender says.
    let (whole, _) = server.clone(&dir.path().join("w"), &Part::default()).await;
    let mut receiver = Receiver::new(&whole).unwrap();
    let scope = Scope { tables: ["a".to_owned()].into(), ..Scope::default() };
    put(&server.db, "main", "b", [1], 901);
    let new = commit(&server.db, "main");
    let part = difference_in(&server.db, &[new], &[server.heads[COMMITS]], scope).unwrap();
    let message = Sender::new(&server.db, part).unwrap().next_message().unwrap().unwrap();
    let error = receiver.receive(&message).unwrap_err();
    assert!(matches!(error, Error::MissingChild { .. }), "{error}");
}
