//! Fetch, push, pull and clone between databases, over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};

use pleach_engine::{Database, Hash, MergeOptions, MergeOutcome, NewCommit, Options, TransactionOutcome};
use pleach_protocol::{
    Databases, Error, Force, Part, PushGate, PushPermit, PushUpdate, RefPatterns, RefStatus, Remote,
    RemoteUrl, SyncService, Transfer, clone_database, fetch, pull, push, transport,
};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tonic::transport::server::TcpIncoming;

/// A server on a free port, with its data directory.
struct Server {
    address: SocketAddr,
    databases: Databases,
    _dir: TempDir,
}

impl Server {
    async fn start() -> Server {
        Server::start_with(|_: &str| Ok(Box::new(()) as PushPermit)).await
    }

    async fn start_with(gate: impl PushGate) -> Server {
        let dir = TempDir::new().unwrap();
        let databases = Databases::new(dir.path(), Options::default()).unwrap();
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap().with_nodelay(Some(true));
        let address = incoming.local_addr().unwrap();
        let service = SyncService::new(databases.clone()).with_gate(gate).into_server();
        tokio::spawn(transport().add_service(service).serve_with_incoming(incoming));
        Server { address, databases, _dir: dir }
    }

    fn url(&self, database: &str) -> RemoteUrl {
        RemoteUrl::parse(&format!("http://{}/{database}", self.address)).unwrap()
    }

    async fn clone(&self, database: &str) -> Copy {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("copy");
        let (db, transfer) = clone_database(
            &connected(&self.url(database)).await,
            &path,
            Options::default(),
            &Part::default(),
        )
        .await
        .unwrap();
        let remote = Remote::connect(&self.url(database)).await.unwrap();
        Copy { db, transfer, remote, _dir: dir }
    }
}

async fn connected(url: &RemoteUrl) -> Remote {
    Remote::connect(url).await.unwrap()
}

/// A clone, with an open connection to where it came from.
struct Copy {
    db: Database,
    transfer: Transfer,
    remote: Remote,
    _dir: TempDir,
}

impl Copy {
    async fn fetch(&self) -> Transfer {
        fetch(&self.db, &self.remote, "origin", &RefPatterns::all()).await.unwrap()
    }

    async fn pull(&self) -> (Transfer, MergeOutcome) {
        let options = MergeOptions { author: "tester".into(), ..MergeOptions::default() };
        pull(&self.db, &self.remote, "origin", "main", "main", options).await.unwrap()
    }

    async fn push(&self, force: Force) -> Transfer {
        let head = self.db.branch("main").unwrap().unwrap().head;
        self.push_ref("heads/main", head, force).await
    }

    async fn push_ref(&self, name: &str, new: Option<Hash>, force: Force) -> Transfer {
        let updates = [PushUpdate { name: name.into(), new }];
        push(&self.db, &self.remote, "origin", &updates, force).await.unwrap()
    }
}

fn put(db: &Database, branch: &str, table: &str, rows: impl IntoIterator<Item = (u64, String)>) {
    let mut transaction = db.begin(branch).unwrap();
    if !transaction.has_table(table).unwrap() {
        transaction.create_table(table, None).unwrap();
    }
    for (key, value) in rows {
        transaction.put(table, &key.to_be_bytes(), value.as_bytes()).unwrap();
    }
    assert!(!matches!(transaction.commit().unwrap(), TransactionOutcome::Refused { .. }));
}

fn commit(db: &Database, branch: &str, message: &str) -> Hash {
    let new = NewCommit { message: message.into(), author: "tester".into(), ..NewCommit::default() };
    db.commit(branch, new).unwrap().hash
}

fn value(i: u64) -> String {
    format!(
        "{{\"id\":{i},\"name\":\"row {}\",\"group\":{}}}",
        i.wrapping_mul(2_654_435_761) % 100_000,
        i % 17
    )
}

/// A server whose database `shop` has one commit of `rows` rows.
async fn shop(rows: u64) -> (Server, Database) {
    let server = Server::start().await;
    let db = server.databases.create("shop").unwrap();
    put(&db, "main", "stock", (0..rows).map(|i| (i, value(i))));
    commit(&db, "main", "first");
    (server, db)
}

#[tokio::test]
async fn a_clone_has_the_same_database_root_and_one_round_trip() {
    let (server, db) = shop(20_000).await;
    db.create_tag("v1", db.branch("main").unwrap().unwrap().head.unwrap()).unwrap();
    let copy = server.clone("shop").await;
    assert_eq!(copy.db.root().unwrap(), db.root().unwrap());
    assert_eq!(copy.transfer.round_trips, 1);
    // What the head reaches, and nothing else.
    let head = db.get_ref("heads/main").unwrap();
    let reached = pleach_engine::difference(&db, &[head], &[]).unwrap().count();
    assert_eq!(copy.transfer.chunks, reached as u64, "{:?}", copy.transfer);
    assert_eq!(copy.db.setting("remote.origin.url").unwrap(), Some(server.url("shop").to_string()));
    assert_eq!(copy.db.current_branch().unwrap(), "main");
}

#[tokio::test]
async fn nothing_to_do_is_one_round_trip_of_at_most_120_bytes() {
    let (server, _db) = shop(1000).await;
    let copy = server.clone("shop").await;
    let transfer = copy.fetch().await;
    assert_eq!((transfer.round_trips, transfer.chunks, transfer.refs.len()), (1, 0, 0));
    assert!(transfer.bytes_sent + transfer.bytes_received <= 120, "{transfer:?}");
}

#[tokio::test]
async fn a_pull_of_one_changed_row_moves_the_commit_the_catalogue_and_the_row() {
    let (server, db) = shop(100_000).await;
    let copy = server.clone("shop").await;
    put(&db, "main", "stock", [(51_234, "changed".to_owned())]);
    commit(&db, "main", "second");
    let (transfer, merge) = copy.pull().await;
    assert!(matches!(merge, MergeOutcome::FastForward { .. }));
    assert_eq!(copy.db.root().unwrap(), db.root().unwrap());
    assert_eq!(transfer.round_trips, 1);
    assert_eq!(transfer.chunks, 3, "the commit, the catalogue, the row: {transfer:?}");
    assert!(transfer.bytes_sent + transfer.bytes_received < 450, "{transfer:?}");
}

#[tokio::test]
async fn a_push_of_one_row_into_a_new_table_takes_less_than_700_bytes() {
    let (server, db) = shop(20_000).await;
    let copy = server.clone("shop").await;
    put(&copy.db, "main", "notes", [(1, "hello".to_owned())]);
    let head = commit(&copy.db, "main", "a note");
    let transfer = copy.push(Force::No).await;
    assert_eq!(transfer.refs[0].status, RefStatus::Updated);
    assert_eq!((transfer.round_trips, transfer.refs[0].new), (1, Some(head)));
    assert!(transfer.bytes_sent + transfer.bytes_received < 700, "{transfer:?}");
    // The server's work moved along with its head.
    assert_eq!(db.root().unwrap(), copy.db.root().unwrap());
    assert!(!db.status("main").unwrap().dirty);
    assert_eq!(copy.db.get_ref("remotes/origin/main"), Some(head));
    assert_eq!(copy.fetch().await.chunks, 0);
}

#[tokio::test]
async fn a_push_that_is_no_fast_forward_is_refused_with_what_to_do_next() {
    let (server, db) = shop(100).await;
    let copy = server.clone("shop").await;
    put(&db, "main", "stock", [(1, "theirs".to_owned())]);
    let theirs = commit(&db, "main", "theirs");
    put(&copy.db, "main", "stock", [(2, "ours".to_owned())]);
    commit(&copy.db, "main", "ours");
    let transfer = copy.push(Force::No).await;
    let RefStatus::Rejected { reason } = &transfer.refs[0].status else { panic!("{transfer:?}") };
    assert!(reason.contains("pull"), "{reason}");
    assert_eq!((transfer.refs[0].old, db.get_ref("heads/main")), (Some(theirs), Some(theirs)));
    // After a fetch it is known where the remote is, and it is refused all the same.
    copy.fetch().await;
    let transfer = copy.push(Force::No).await;
    let RefStatus::Rejected { reason } = &transfer.refs[0].status else { panic!("{transfer:?}") };
    assert!(reason.contains("no fast-forward"), "{reason}");
    // What it says to do helps.
    let (_, merge) = copy.pull().await;
    assert!(matches!(merge, MergeOutcome::Merged { .. }));
    assert_eq!(copy.push(Force::No).await.refs[0].status, RefStatus::Updated);
    assert_eq!(db.root().unwrap(), copy.db.root().unwrap());
}

#[tokio::test]
async fn a_forced_push_keeps_the_old_head_under_recovery() {
    let (server, db) = shop(100).await;
    let copy = server.clone("shop").await;
    put(&db, "main", "stock", [(1, "theirs".to_owned())]);
    let theirs = commit(&db, "main", "theirs");
    put(&copy.db, "main", "stock", [(2, "ours".to_owned())]);
    let ours = commit(&copy.db, "main", "ours");
    // The remote is not where it was last seen: that alone stops a push that is forced only from there.
    assert!(copy.push(Force::Known).await.is_rejected());
    assert_eq!(copy.push(Force::Yes).await.refs[0].status, RefStatus::Forced);
    assert_eq!(db.get_ref("heads/main"), Some(ours));
    assert!(db.refs("recovery/heads/main/").iter().any(|(_, kept)| *kept == theirs));
}

#[tokio::test]
async fn a_push_to_a_branch_with_uncommitted_work_is_refused_even_by_force() {
    let (server, db) = shop(100).await;
    let copy = server.clone("shop").await;
    put(&db, "main", "stock", [(1, "uncommitted".to_owned())]);
    let root = db.root().unwrap();
    put(&copy.db, "main", "stock", [(2, "ours".to_owned())]);
    commit(&copy.db, "main", "ours");
    for force in [Force::No, Force::Yes] {
        let transfer = copy.push(force).await;
        let RefStatus::Rejected { reason } = &transfer.refs[0].status else { panic!("{transfer:?}") };
        assert!(reason.contains("uncommitted work"), "{reason}");
    }
    assert_eq!(db.root().unwrap(), root);
}

#[tokio::test]
async fn a_push_makes_moves_and_deletes_branches_and_tags_all_or_none() {
    let (server, db) = shop(100).await;
    let copy = server.clone("shop").await;
    let first = db.get_ref("heads/main").unwrap();
    put(&copy.db, "main", "stock", [(2, "ours".to_owned())]);
    let second = commit(&copy.db, "main", "ours");
    let update = |name: &str, new| PushUpdate { name: name.into(), new };
    let updates = [
        update("heads/main", Some(second)),
        update("heads/next", Some(second)),
        update("tags/v1", Some(first)),
    ];
    let transfer = push(&copy.db, &copy.remote, "origin", &updates, Force::No).await.unwrap();
    let statuses: Vec<&str> = transfer.refs.iter().map(|one| one.status.word()).collect();
    assert_eq!(statuses, ["updated", "new", "new"]);
    assert_eq!(db.branch("next").unwrap().unwrap().head, Some(second));
    assert_eq!(copy.push_ref("tags/v1", Some(first), Force::No).await.refs[0].status, RefStatus::Unchanged);
    // One refusal keeps all where they are.
    let updates = [update("tags/v1", Some(second)), update("tags/v2", Some(second))];
    let transfer = push(&copy.db, &copy.remote, "origin", &updates, Force::No).await.unwrap();
    assert!(transfer.refs.iter().all(|one| matches!(one.status, RefStatus::Rejected { .. })), "{transfer:?}");
    assert_eq!((db.get_ref("tags/v1"), db.get_ref("tags/v2")), (Some(first), None));
    assert!(copy.push_ref("heads/main", None, Force::Yes).await.is_rejected(), "the current branch stays");
    assert_eq!(copy.push_ref("heads/next", None, Force::No).await.refs[0].status, RefStatus::Deleted);
    assert!(db.branch("next").unwrap().is_none());
    assert!(copy.db.get_ref("remotes/origin/next").is_none());
}

#[tokio::test]
async fn a_database_made_apart_is_pushed_to_an_empty_one_and_pulled_by_another() {
    let server = Server::start().await;
    let db = server.databases.create("shop").unwrap();
    let other = server.clone("shop").await;
    assert_eq!((other.transfer.chunks, other.transfer.refs.len()), (0, 0));
    put(&other.db, "main", "stock", (0..5000).map(|i| (i, value(i))));
    commit(&other.db, "main", "first");
    assert_eq!(other.push(Force::No).await.refs[0].status, RefStatus::New);
    assert_eq!(db.root().unwrap(), other.db.root().unwrap());
    let third = server.clone("shop").await;
    assert_eq!(third.db.root().unwrap(), db.root().unwrap());
}

#[tokio::test]
async fn a_push_from_a_stale_view_that_contains_the_remote_is_made_again_from_there() {
    let (server, db) = shop(5000).await;
    let copy = server.clone("shop").await;
    put(&copy.db, "main", "stock", [(2, "second".to_owned())]);
    commit(&copy.db, "main", "second");
    // The same commit reaches the server by another way, so that this tracking ref is old.
    let second = Remote::connect(&server.url("shop")).await.unwrap();
    let head = copy.db.get_ref("heads/main");
    push(&copy.db, &second, "elsewhere", &[PushUpdate { name: "heads/main".into(), new: head }], Force::No)
        .await
        .unwrap();
    put(&copy.db, "main", "stock", [(3, "third".to_owned())]);
    commit(&copy.db, "main", "third");
    let transfer = copy.push(Force::No).await;
    assert_eq!(transfer.refs[0].status, RefStatus::Updated);
    assert_eq!(transfer.round_trips, 2);
    assert_eq!(db.root().unwrap(), copy.db.root().unwrap());
}

#[tokio::test]
async fn a_fetch_follows_branches_that_are_made_moved_by_force_and_deleted() {
    let (server, db) = shop(100).await;
    let copy = server.clone("shop").await;
    let first = db.get_ref("heads/main").unwrap();
    db.create_branch("next", Some(first)).unwrap();
    assert_eq!(copy.fetch().await.refs[0].status, RefStatus::New);
    put(&db, "next", "stock", [(7, "x".to_owned())]);
    let moved = commit(&db, "next", "moved");
    assert_eq!(copy.fetch().await.refs[0].status, RefStatus::Updated);
    db.reset("next", &first, true).unwrap();
    let transfer = copy.fetch().await;
    assert_eq!((transfer.refs[0].old, &transfer.refs[0].status), (Some(moved), &RefStatus::Forced));
    db.delete_branch("next").unwrap();
    assert_eq!(copy.fetch().await.refs[0].status, RefStatus::Deleted);
    assert_eq!(copy.db.refs("remotes/origin/").len(), 1);
}

#[tokio::test]
async fn a_server_that_was_set_back_is_asked_again_with_older_commits() {
    let (server, db) = shop(5000).await;
    let old = server.clone("shop").await;
    for i in 0..3 {
        put(&db, "main", "stock", [(i, "lost".to_owned())]);
        commit(&db, "main", "lost");
    }
    let copy = server.clone("shop").await;
    // The server loses its database, and gets back what it was three commits ago.
    drop(db);
    assert!(server.databases.drop_database("shop").unwrap());
    let db = server.databases.create("shop").unwrap();
    let remote = Remote::connect(&server.url("shop")).await.unwrap();
    let updates = [PushUpdate { name: "heads/main".into(), new: old.db.get_ref("heads/main") }];
    push(&old.db, &remote, "again", &updates, Force::No).await.unwrap();
    put(&db, "main", "stock", [(77, "new".to_owned())]);
    commit(&db, "main", "new");
    let transfer = copy.fetch().await;
    assert_eq!(transfer.refs[0].status, RefStatus::Forced);
    assert_eq!(transfer.round_trips, 2);
    assert!(transfer.chunks < 12, "not the whole table: {transfer:?}");
}

#[tokio::test]
async fn two_thousand_unchanged_branches_cost_what_one_costs() {
    let (server, db) = shop(100).await;
    let one = server.clone("shop").await.fetch().await;
    let branch = db.branch("main").unwrap().unwrap();
    let made =
        |i: usize| {
            let name = format!("b{i}");
            [("heads", branch.head), ("work", Some(branch.work))].map(|(kind, new)| {
                pleach_engine::RefUpdate { name: format!("{kind}/{name}"), old: None, new }
            })
        };
    let moves: Vec<_> = (0..2000).flat_map(made).collect();
    let outcome = db.update_refs(pleach_engine::Batch::default(), &moves).unwrap();
    assert!(matches!(outcome, pleach_engine::Outcome::Appended(_)));
    let copy = server.clone("shop").await;
    assert_eq!(copy.db.root().unwrap(), db.root().unwrap());
    let many = copy.fetch().await;
    assert_eq!((many.bytes_sent, many.bytes_received), (one.bytes_sent, one.bytes_received));
}

#[tokio::test]
async fn only_the_branches_asked_for_are_cloned() {
    let (server, db) = shop(100).await;
    let first = db.get_ref("heads/main").unwrap();
    db.create_branch("feature/a", Some(first)).unwrap();
    put(&db, "feature/a", "stock", [(7, "x".to_owned())]);
    commit(&db, "feature/a", "on a");
    let dir = TempDir::new().unwrap();
    let only = ["feature/*".to_owned()];
    let (copy, _) = clone_database(
        &connected(&server.url("shop")).await,
        &dir.path().join("c"),
        Options::default(),
        &Part::branches(&only),
    )
    .await
    .unwrap();
    let branches: Vec<String> = copy.branches().unwrap().into_iter().map(|branch| branch.name).collect();
    assert_eq!(branches, ["feature/a"]);
    assert_eq!(copy.current_branch().unwrap(), "feature/a");
    let none = ["nothing".to_owned()];
    let path = dir.path().join("d");
    let error = clone_database(
        &connected(&server.url("shop")).await,
        &path,
        Options::default(),
        &Part::branches(&none),
    )
    .await
    .err()
    .unwrap();
    assert!(matches!(error, Error::UnknownBranch { .. }), "{error}");
    assert!(!path.exists());
}

#[tokio::test]
async fn a_large_clone_and_push_span_many_messages_and_batches() {
    let server = Server::start().await;
    let db = server.databases.create("big").unwrap();
    let noise =
        |i: u64| (0..20u64).map(|j| Hash::of(&(i * 31 + j).to_le_bytes()).to_string()).collect::<String>();
    put(&db, "main", "noise", (0..8000).map(|i| (i, noise(i))));
    commit(&db, "main", "noise");
    let copy = server.clone("big").await;
    assert_eq!(copy.db.root().unwrap(), db.root().unwrap());
    let away = server.databases.create("away").unwrap();
    let remote = Remote::connect(&server.url("away")).await.unwrap();
    let updates = [PushUpdate { name: "heads/main".into(), new: copy.db.get_ref("heads/main") }];
    let transfer = push(&copy.db, &remote, "away", &updates, Force::No).await.unwrap();
    assert_eq!((transfer.round_trips, transfer.chunks), (1, copy.transfer.chunks));
    assert_eq!(away.root().unwrap(), db.root().unwrap());
}

#[tokio::test]
async fn a_large_push_that_is_refused_at_once_is_answered_and_not_sent_to_the_end() {
    let server = Server::start_with(|database: &str| match database {
        "shop" => Err("read-only standby".to_owned()),
        _ => Ok(Box::new(()) as PushPermit),
    })
    .await;
    let db = Database::memory().unwrap();
    let noise =
        |i: u64| (0..20u64).map(|j| Hash::of(&(i * 31 + j).to_le_bytes()).to_string()).collect::<String>();
    put(&db, "main", "noise", (0..8000).map(|i| (i, noise(i))));
    let head = commit(&db, "main", "noise");
    let remote = Remote::connect(&server.url("shop")).await.unwrap();
    let updates = [PushUpdate { name: "heads/main".into(), new: Some(head) }];
    // Refused before it is looked up: there is no such database.
    let error = push(&db, &remote, "origin", &updates, Force::No).await.unwrap_err();
    assert!(matches!(&error, Error::NotAllowed { what, .. } if what == "read-only standby"), "{error}");
}

#[tokio::test]
async fn what_is_not_there_is_said_clearly_and_leaves_nothing_behind() {
    let server = Server::start().await;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("copy");
    let error =
        clone_database(&connected(&server.url("absent")).await, &path, Options::default(), &Part::default())
            .await
            .err()
            .unwrap();
    assert!(matches!(error, Error::UnknownDatabase { .. }), "{error}");
    assert!(!path.exists());
    // A port that was just free.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = RemoteUrl::parse(&format!("http://{free}/shop")).unwrap();
    let error = Remote::connect(&url).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    // A directory with something in it is not touched.
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("mine"), b"x").unwrap();
    let error =
        clone_database(&connected(&server.url("absent")).await, &path, Options::default(), &Part::default())
            .await
            .err()
            .unwrap();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    assert!(path.join("mine").exists());
}

/// A proxy whose first connection carries everything to `server` and no answer back, until `cut` ends it.
async fn proxy_that_loses_the_first_answer(server: SocketAddr, cut: Arc<Notify>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut upstream = TcpStream::connect(server).await.unwrap();
        let (mut from, mut to) = (client.split(), upstream.split());
        let mut nowhere = tokio::io::sink();
        tokio::select! {
            _ = tokio::io::copy(&mut from.0, &mut to.1) => {}
            _ = tokio::io::copy(&mut to.0, &mut nowhere) => {}
            () = cut.notified() => {}
        }
        drop((client, upstream));
        while let Ok((mut client, _)) = listener.accept().await {
            let mut upstream = TcpStream::connect(server).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut upstream).await });
        }
    });
    address
}

#[tokio::test]
async fn a_push_whose_answer_is_lost_with_the_connection_is_repeated_and_answered() {
    let (server, db) = shop(100).await;
    let copy = server.clone("shop").await;
    put(&copy.db, "main", "stock", [(2, "ours".to_owned())]);
    let head = commit(&copy.db, "main", "ours");
    let cut = Arc::new(Notify::new());
    let address = proxy_that_loses_the_first_answer(server.address, cut.clone()).await;
    let (watched, moved) = (db.clone(), cut.clone());
    db.watch(move |_| {
        if watched.get_ref("heads/main") == Some(head) {
            moved.notify_one();
        }
    });
    let remote =
        Remote::connect(&RemoteUrl::parse(&format!("http://{address}/shop")).unwrap()).await.unwrap();
    let updates = [PushUpdate { name: "heads/main".into(), new: Some(head) }];
    let transfer = push(&copy.db, &remote, "origin", &updates, Force::No).await.unwrap();
    assert_eq!(transfer.round_trips, 2);
    assert_eq!((transfer.refs[0].new, db.get_ref("heads/main")), (Some(head), Some(head)));
    assert_eq!(copy.db.get_ref("remotes/origin/main"), Some(head));
}

#[path = "exchange/histories.rs"]
mod histories;

#[tokio::test]
async fn a_transfer_keeps_what_it_needs_and_lets_go_of_it() {
    let kept = |db: &Database| (db.store().stats().pinned_roots, db.store().stats().holds);
    let (server, db) = shop(1000).await;
    let copy = server.clone("shop").await;
    put(&db, "main", "stock", [(1, "there".into())]);
    commit(&db, "main", "theirs");
    put(&copy.db, "main", "stock", [(2, "here".into())]);
    commit(&copy.db, "main", "ours");
    assert!(copy.push(Force::No).await.is_rejected());
    assert!(matches!(copy.pull().await.1, MergeOutcome::Merged { .. }));
    assert!(!copy.push(Force::No).await.is_rejected());
    assert_eq!((kept(&db), kept(&copy.db)), ((0, 0), (0, 0)));
}

#[tokio::test]
async fn a_collection_between_a_pushs_chunks_and_its_refs_takes_nothing_of_it() {
    let (collected, databases) = (Arc::new(Mutex::new(Vec::new())), Arc::new(OnceLock::<Databases>::new()));
    let server = {
        let (collected, databases) = (collected.clone(), databases.clone());
        Server::start_with(move |name: &str| {
            let databases: Option<&Databases> = databases.get();
            if let Some(database) = databases.and_then(|databases| databases.get(name).unwrap()) {
                collected.lock().unwrap().push(database.store().collect(false).unwrap().dead_chunks);
            }
            Ok(Box::new(()) as PushPermit)
        })
        .await
    };
    let db = server.databases.create("shop").unwrap();
    put(&db, "main", "stock", (0..3000).map(|i| (i, value(i))));
    commit(&db, "main", "first");
    let copy = server.clone("shop").await;
    databases.set(server.databases.clone()).ok().unwrap();
    put(&copy.db, "main", "stock", [(7, "pushed".into())]);
    put(&copy.db, "main", "more", (0..2000).map(|i| (i, value(i))));
    let head = commit(&copy.db, "main", "second");
    assert!(!copy.push(Force::No).await.is_rejected());
    assert_eq!(collected.lock().unwrap().len(), 2, "before the chunks came, and when they were there");
    assert_eq!(db.branch("main").unwrap().unwrap().head, Some(head));
    db.store().collect(false).unwrap();
    assert_eq!(db.fsck().unwrap().damages, []);
    assert_eq!(db.store().stats().holds, 0);
}
