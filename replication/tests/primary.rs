//! A primary that pushes on write: to a server over real sockets, to a directory, and to a bucket if `PLEACH_TEST_BUCKET` names one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use pleach_engine::{Database, Hash, MergeOptions, NewCommit, Options, TransactionOutcome};
use pleach_protocol::testing::Proxy;
use pleach_protocol::{
    Credentials, Databases, Force, Part, PushUpdate, Remote, RemoteUrl, SyncService, clone_database, push,
    transport,
};
use pleach_replication::{ErrorKind, OnConflict, Primary, PrimaryConfig, PushStatus, count_as_pushed};
use tempfile::TempDir;
use tonic::transport::server::TcpIncoming;

fn put(db: &Database, branch: &str, key: &str, value: &str) {
    let mut transaction = db.begin(branch).unwrap();
    if !transaction.has_table("t").unwrap() {
        transaction.create_table("t", None).unwrap();
    }
    transaction.put("t", key.as_bytes(), value.as_bytes()).unwrap();
    assert!(!matches!(transaction.commit().unwrap(), TransactionOutcome::Refused { .. }));
}

fn new_commit(amend: bool) -> NewCommit {
    NewCommit { message: "m".into(), author: "a".into(), amend, ..NewCommit::default() }
}

fn commit(db: &Database, branch: &str) -> Hash {
    db.commit(branch, new_commit(false)).unwrap().hash
}

fn get(db: &Database, branch: &str, key: &str) -> Option<String> {
    let snapshot = db.snapshot_of_root(db.get_ref(&format!("work/{branch}"))?).unwrap();
    let value = snapshot.table("t").unwrap()?.get(key.as_bytes()).unwrap()?;
    Some(String::from_utf8(value).unwrap())
}

/// Where a primary pushes to: a server, by a proxy, or a directory or bucket.
enum Place {
    Server { proxy: Proxy, address: SocketAddr, db: Database },
    Objects,
}

struct Shop {
    dir: TempDir,
    url: String,
    place: Place,
}

impl Shop {
    async fn server() -> Shop {
        Shop::cutting(|| None).await
    }

    /// A server to which each connection is cut after so many bytes.
    async fn cutting(cut_after: impl FnMut() -> Option<u64> + Send + 'static) -> Shop {
        let dir = TempDir::new().unwrap();
        let databases = Databases::new(&dir.path().join("data"), Options::default()).unwrap();
        let db = databases.create("shop").unwrap();
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap().with_nodelay(Some(true));
        let address = incoming.local_addr().unwrap();
        let service = SyncService::new(databases).into_server();
        tokio::spawn(transport().add_service(service).serve_with_incoming(incoming));
        let proxy = Proxy::start(address, Duration::ZERO, cut_after).await.unwrap();
        let url = format!("http://{}/shop", proxy.address());
        Shop { dir, url, place: Place::Server { proxy, address, db } }
    }

    fn directory() -> Shop {
        let dir = TempDir::new().unwrap();
        let url = format!("file://{}", dir.path().join("remote").display());
        Shop { dir, url, place: Place::Objects }
    }

    /// In the bucket, where nobody was before.
    fn bucket() -> Option<Shop> {
        let bucket = std::env::var("PLEACH_TEST_BUCKET").ok()?;
        let dir = TempDir::new().unwrap();
        let name = dir.path().file_name().unwrap().to_str().unwrap();
        let url = format!("{bucket}/{}", name.trim_start_matches('.'));
        Some(Shop { dir, url, place: Place::Objects })
    }

    async fn all() -> Vec<Shop> {
        [Shop::server().await, Shop::directory()].into_iter().chain(Shop::bucket()).collect()
    }

    /// A database that has it as `origin`.
    fn database(&self, name: &str) -> Database {
        let db = Database::init(&self.dir.path().join(name), Options::default()).unwrap();
        db.set_setting("remote.origin.url", Some(&self.url)).unwrap();
        db
    }

    /// The branches and tags there.
    async fn refs(&self) -> BTreeMap<String, Hash> {
        let db = match &self.place {
            Place::Server { db, .. } => db.clone(),
            Place::Objects => {
                let path = TempDir::new().unwrap();
                self.clone(path.path()).await
            }
        };
        here(&db)
    }

    async fn clone(&self, path: &Path) -> Database {
        let remote = Remote::connect(&RemoteUrl::parse(&self.url).unwrap()).await.unwrap();
        clone_database(&remote, &path.join("clone"), Options::default(), &Part::default()).await.unwrap().0
    }
}

fn config(on_conflict: OnConflict) -> PrimaryConfig {
    PrimaryConfig {
        remote: "origin".into(),
        credentials: Credentials::default(),
        on_conflict,
        author: "p".into(),
        strict: false,
        place: None,
        permit: std::sync::Arc::new(|| Some(Box::new(()))),
    }
}

fn primary() -> Primary {
    Primary::new(config(OnConflict::Reject))
}

fn strict() -> Primary {
    Primary::new(PrimaryConfig { strict: true, ..config(OnConflict::Reject) })
}

/// A commit where it may block.
async fn committed(db: &Database) -> Result<Hash, pleach_engine::Error> {
    let db = db.clone();
    let commit = move || db.commit("main", new_commit(false)).map(|committed| committed.hash);
    tokio::task::spawn_blocking(commit).await.unwrap()
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(f).await.unwrap()
}

fn here(db: &Database) -> BTreeMap<String, Hash> {
    ["heads/", "tags/"].iter().flat_map(|prefix| db.refs(prefix)).collect()
}

fn status(primary: &Primary) -> PushStatus {
    primary.status().pop().unwrap()
}

async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !is_so().await {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a1_the_remote_s_head_is_the_commit_when_the_call_returns() {
    for shop in Shop::all().await {
        let (db, primary) = (shop.database("p"), primary());
        for n in 0..3 {
            put(&db, "main", &n.to_string(), "x");
            let head = commit(&db, "main");
            primary.push("p", &db).await.unwrap();
            assert_eq!(shop.refs().await, BTreeMap::from([("heads/main".to_owned(), head)]));
        }
        let status = status(&primary);
        assert_eq!((status.backlog, status.failures, status.current_error), (0, 0, None));
        assert!(status.pushes <= 3 && status.bytes_sent > 0 && status.last_push.is_some());
    }
}

#[tokio::test]
async fn a1_a_push_of_one_commit_is_one_round_trip() {
    let shop = Shop::server().await;
    let (db, primary) = (shop.database("p"), primary());
    put(&db, "main", "0", "x");
    commit(&db, "main");
    primary.push("p", &db).await.unwrap();
    let Place::Server { proxy, .. } = &shop.place else { unreachable!() };
    let before = status(&primary);
    for n in 0..5 {
        put(&db, "main", "1", &n.to_string());
        commit(&db, "main");
        primary.push("p", &db).await.unwrap();
    }
    let after = status(&primary);
    assert_eq!(after.round_trips - before.round_trips, after.pushes - before.pushes);
    assert_eq!(proxy.counts().connections, 1);
}

#[tokio::test]
async fn a2_a_transaction_without_a_version_commit_pushes_nothing() {
    let shop = Shop::server().await;
    let (db, primary) = (shop.database("p"), primary());
    primary.follow("p", &db);
    put(&db, "main", "a", "1");
    primary.push("p", &db).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let Place::Server { proxy, .. } = &shop.place else { unreachable!() };
    assert_eq!((status(&primary).pushes, proxy.counts().connections), (0, 0));
    assert_eq!(shop.refs().await, BTreeMap::new());
}

#[tokio::test]
async fn a4_the_remote_follows_whatever_becomes_of_branches_and_tags() {
    for shop in Shop::all().await {
        let (db, primary) = (shop.database("p"), primary());
        put(&db, "main", "a", "1");
        let first = commit(&db, "main");
        put(&db, "main", "a", "2");
        let second = commit(&db, "main");
        let steps: [(&str, &dyn Fn()); 9] = [
            ("a branch is made", &|| db.create_branch("feature", Some(first)).unwrap()),
            ("a tag is made", &|| db.create_tag("v1", first).unwrap()),
            ("a commit on it", &|| {
                put(&db, "feature", "b", "1");
                commit(&db, "feature");
            }),
            ("a head is moved by hand", &|| db.reset("feature", &first, true).unwrap()),
            ("a fast-forward", &|| {
                db.merge("feature", &second, MergeOptions::default()).unwrap();
            }),
            ("an amend", &|| {
                put(&db, "feature", "b", "2");
                db.commit("feature", new_commit(true)).unwrap();
            }),
            ("a tag is deleted", &|| db.delete_tag("v1").unwrap()),
            ("a branch is renamed", &|| db.rename_branch("feature", "other").unwrap()),
            ("a branch is deleted", &|| db.delete_branch("other").unwrap()),
        ];
        for (what, step) in steps {
            step();
            primary.push("p", &db).await.unwrap();
            assert_eq!(shop.refs().await, here(&db), "{what}");
        }
    }
}

#[tokio::test]
async fn a4_a_stranger_s_head_is_not_overwritten_and_other_branches_go_on() {
    for shop in Shop::all().await {
        let (db, primary) = (shop.database("p"), primary());
        put(&db, "main", "a", "1");
        let first = commit(&db, "main");
        primary.push("p", &db).await.unwrap();
        let stranger = shop.clone(&shop.dir.path().join("s")).await;
        put(&stranger, "main", "s", "1");
        let theirs = commit(&stranger, "main");
        let remote = Remote::connect(&RemoteUrl::parse(&shop.url).unwrap()).await.unwrap();
        let update = [PushUpdate { name: "heads/main".into(), new: Some(theirs) }];
        assert!(!push(&stranger, &remote, "origin", &update, Force::No).await.unwrap().is_rejected());
        // Both what goes on from what was pushed, and what replaces it.
        for amend in [false, true] {
            put(&db, "main", "a", if amend { "2" } else { "3" });
            db.commit("main", new_commit(amend)).unwrap();
            db.create_branch(if amend { "x" } else { "y" }, Some(first)).unwrap();
            let error = primary.push("p", &db).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused);
            assert!(error.to_string().contains("heads/main: somebody else moved it to"), "{error}");
            let there = shop.refs().await;
            assert_eq!(there["heads/main"], theirs);
            assert_eq!(there[if amend { "heads/x" } else { "heads/y" }], first);
            assert_eq!(status(&primary).backlog, 1);
        }
        // A person merges; then it goes on by itself.
        primary.follow("p", &db);
        db.merge("main", &theirs, MergeOptions::default()).unwrap();
        eventually("the merge is pushed", async || shop.refs().await == here(&db)).await;
        eventually("nothing is left", async || status(&primary).current_error.is_none()).await;
    }
}

#[tokio::test]
async fn a4_a_stranger_s_tag_is_neither_overwritten_nor_deleted() {
    for shop in Shop::all().await {
        let (db, primary) = (shop.database("p"), primary());
        put(&db, "main", "a", "1");
        let first = commit(&db, "main");
        put(&db, "main", "a", "2");
        let second = commit(&db, "main");
        primary.push("p", &db).await.unwrap();
        let stranger = shop.clone(&shop.dir.path().join("s")).await;
        let remote = Remote::connect(&RemoteUrl::parse(&shop.url).unwrap()).await.unwrap();
        let theirs = async |name: &str, new| {
            let update = [PushUpdate { name: name.into(), new: Some(new) }];
            assert!(!push(&stranger, &remote, "origin", &update, Force::Yes).await.unwrap().is_rejected());
        };
        // One that is made here, too, and one that this primary pushed and somebody else moved.
        theirs("tags/v1", first).await;
        db.create_tag("v1", second).unwrap();
        db.create_tag("v2", second).unwrap();
        let error = primary.push("p", &db).await.unwrap_err();
        assert!(error.to_string().contains("tags/v1"), "{error}");
        theirs("tags/v2", first).await;
        db.delete_tag("v2").unwrap();
        let error = primary.push("p", &db).await.unwrap_err();
        assert!(error.to_string().contains("tags/v2"), "{error}");
        let there = shop.refs().await;
        assert_eq!((there["tags/v1"], there["tags/v2"]), (first, first));
        // What it put there itself it may move.
        db.create_tag("v3", first).unwrap();
        let _ = primary.push("p", &db).await;
        db.delete_tag("v3").unwrap();
        db.create_tag("v3", second).unwrap();
        let _ = primary.push("p", &db).await;
        assert_eq!(shop.refs().await["tags/v3"], second);
    }
}

#[tokio::test]
async fn a6_all_is_pushed_to_another_remote_of_the_same_name() {
    let (first, second) = (Shop::server().await, Shop::directory());
    let (db, primary) = (first.database("p"), primary());
    put(&db, "main", "a", "1");
    let head = commit(&db, "main");
    db.create_tag("v1", head).unwrap();
    primary.push("p", &db).await.unwrap();
    db.set_setting("remote.origin.url", Some(&second.url)).unwrap();
    db.delete_tag("v1").unwrap();
    primary.push("p", &db).await.unwrap();
    assert_eq!(second.refs().await, here(&db));
    assert_eq!(first.refs().await.len(), 2, "nothing more goes to the old one");
    put(&db, "main", "a", "2");
    commit(&db, "main");
    primary.push("p", &db).await.unwrap();
    assert_eq!(second.refs().await, here(&db));
}

#[tokio::test]
async fn a6_one_that_is_retired_sends_nothing_more() {
    let shop = Shop::server().await;
    let Place::Server { proxy, db: there, .. } = &shop.place else { unreachable!() };
    let (db, primary) = (shop.database("p"), primary());
    put(&db, "main", "a", "1");
    let first = commit(&db, "main");
    primary.push("p", &db).await.unwrap();
    primary.retire(Duration::from_secs(5)).await;
    put(&db, "main", "a", "2");
    commit(&db, "main");
    primary.follow("p", &db);
    primary.push("p", &db).await.unwrap_err();
    assert_eq!(there.get_ref("heads/main"), Some(first));
    // Nor does one that hangs: nobody answers behind the proxy.
    let second = self::primary();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.lead_to(silent.local_addr().unwrap());
    let (pusher, pushed) = (second.clone(), db.clone());
    let push = tokio::spawn(async move { pusher.push("p", &pushed).await });
    eventually("it is under way", async || second.status_of("p").is_some_and(|status| status.backlog == 1))
        .await;
    let began = Instant::now();
    second.retire(Duration::from_millis(100)).await;
    push.await.unwrap().unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn b14_what_a_replica_has_from_the_remote_counts_as_pushed() {
    for shop in Shop::all().await {
        let (other, old) = (shop.database("other"), primary());
        for branch in ["main", "side", "gone"] {
            if branch != "main" {
                other.create_branch(branch, other.get_ref("heads/main")).unwrap();
            }
            put(&other, branch, branch, "1");
            commit(&other, branch);
        }
        old.push("other", &other).await.unwrap();
        let dir = TempDir::new().unwrap();
        let replica = shop.clone(dir.path()).await;
        // In an earlier life it was a primary.
        replica.set_setting("pushed.origin.url", Some(&shop.url)).unwrap();
        let main = replica.get_ref("heads/main").unwrap();
        let note = |name: &str| pleach_engine::RefUpdate { name: name.into(), old: None, new: Some(main) };
        let notes = [note("pushed/origin/heads/gone"), note("pushed/origin/heads/side")];
        let noted = replica.update_refs(Default::default(), &notes).unwrap();
        assert!(matches!(noted, pleach_engine::Outcome::Appended(_)));
        replica.delete_branch("gone").unwrap();
        count_as_pushed(&replica, "origin").unwrap();
        let new = primary();
        new.push("r", &replica).await.unwrap();
        assert_eq!((status(&new).pushes, status(&new).bytes_sent), (0, 0), "there is nothing to push");
        assert_eq!(shop.refs().await, here(&other), "and nothing to delete");
        put(&replica, "main", "mine", "1");
        let head = commit(&replica, "main");
        replica.delete_branch("side").unwrap();
        new.push("r", &replica).await.unwrap();
        let there = shop.refs().await;
        assert_eq!((there.get("heads/main"), there.get("heads/side")), (Some(&head), None));
        assert!(there.contains_key("heads/gone"));
    }
}

#[tokio::test]
async fn two_databases_do_not_push_to_one_remote() {
    let shop = Shop::server().await;
    let (one, two) = (shop.database("one"), shop.database("two"));
    let primary = primary();
    for db in [&one, &two] {
        put(db, "main", "a", "1");
        commit(db, "main");
    }
    primary.push("one", &one).await.unwrap();
    let error = primary.push("two", &two).await.unwrap_err();
    assert!(error.to_string().contains("is the remote of database `one` already"), "{error}");
    assert_eq!(shop.refs().await, here(&one));
    // It is free when the first is gone.
    primary.forget("one");
    let error = primary.push("two", &two).await.unwrap_err();
    assert!(error.to_string().contains("somebody else moved it"), "{error}");
}

#[tokio::test]
async fn a11_pushes_in_the_background_catch_up_and_are_drained_at_shutdown() {
    for shop in Shop::all().await {
        let (db, primary) = (shop.database("p"), primary());
        primary.follow("p", &db);
        for n in 0..20 {
            put(&db, "main", &n.to_string(), "x");
            commit(&db, "main");
        }
        primary.shutdown(Duration::from_secs(20)).await;
        assert_eq!(shop.refs().await, here(&db));
    }
}

#[tokio::test]
async fn a13_what_did_not_get_through_is_pushed_when_the_remote_returns_also_after_a_restart() {
    let shop = Shop::server().await;
    let db = shop.database("p");
    let Place::Server { proxy, address, .. } = &shop.place else { unreachable!() };
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    proxy.lead_to(nowhere);
    {
        let primary = primary();
        put(&db, "main", "a", "1");
        commit(&db, "main");
        // The commit stands, and the error is told and kept.
        assert_eq!(primary.push("p", &db).await.unwrap_err().kind(), ErrorKind::Network);
        let status = status(&primary);
        assert_eq!((status.backlog, status.pushes), (1, 0));
        assert!(status.failures > 0 && status.behind_since.is_some() && status.current_error.is_some());
        db.create_branch("feature", None).unwrap();
        primary.shutdown(Duration::from_millis(300)).await;
    }
    assert_eq!(shop.refs().await, BTreeMap::new());
    db.close().unwrap();
    let db = Database::open(&shop.dir.path().join("p"), Options::default()).unwrap();
    let primary = primary();
    primary.follow("p", &db);
    eventually("it is tried", async || status(&primary).failures > 0).await;
    proxy.lead_to(*address);
    eventually("it is pushed without a new commit", async || shop.refs().await == here(&db)).await;
    eventually("nothing is left", async || status(&primary).backlog == 0).await;
}

#[tokio::test]
async fn a14_writers_who_merge_converge_and_lose_nothing() {
    for (shop, commits) in [(Shop::server().await, 20), (Shop::directory(), 8)] {
        let seed = shop.database("seed");
        put(&seed, "main", "seed", "0");
        commit(&seed, "main");
        primary().push("seed", &seed).await.unwrap();
        let mut writers = Vec::new();
        for name in ["x", "y", "z"] {
            let db = shop.clone(&shop.dir.path().join(name)).await;
            let primary = Primary::new(config(OnConflict::Merge));
            writers.push(tokio::spawn(async move {
                for n in 0..commits {
                    put(&db, "main", &format!("{name}{n}"), name);
                    // Here all of them write, too.
                    put(&db, "main", "seed", &format!("{name}{n}"));
                    commit(&db, "main");
                    // It may lose several times; it goes on in the background.
                    let _ = primary.push(name, &db).await;
                }
                (db, primary, name)
            }));
        }
        let mut done = Vec::new();
        for writer in writers {
            done.push(writer.await.unwrap());
        }
        eventually("all is pushed", async || {
            for (db, primary, name) in &done {
                let _ = primary.push(name, db).await;
            }
            done.iter().all(|(_, primary, _)| status(primary).backlog == 0)
        })
        .await;
        let all = shop.clone(&shop.dir.path().join("all")).await;
        for (_, _, name) in &done {
            for n in 0..commits {
                assert_eq!(get(&all, "main", &format!("{name}{n}")).as_deref(), Some(*name));
            }
        }
        assert_eq!(all.fsck().unwrap().damages, []);
    }
}

#[tokio::test]
async fn a_database_without_the_remote_is_told_of_and_others_go_on() {
    let shop = Shop::server().await;
    let (good, bad) = (shop.database("good"), shop.database("bad"));
    bad.set_setting("remote.origin.url", None).unwrap();
    let primary = primary();
    for db in [&good, &bad] {
        put(db, "main", "a", "1");
        commit(db, "main");
    }
    let error = primary.push("bad", &bad).await.unwrap_err();
    assert!(error.to_string().contains("remote `origin` not found"), "{error}");
    primary.push("good", &good).await.unwrap();
    assert_eq!(shop.refs().await, here(&good));
}

#[tokio::test]
async fn those_who_wait_share_pushes() {
    let shop = Shop::server().await;
    let (db, primary) = (shop.database("p"), primary());
    let mut waiting = Vec::new();
    for n in 0..50 {
        put(&db, "main", &n.to_string(), "x");
        commit(&db, "main");
        let (db, primary) = (db.clone(), primary.clone());
        waiting.push(tokio::spawn(async move { primary.push("p", &db).await.unwrap() }));
    }
    for one in waiting {
        one.await.unwrap();
    }
    assert_eq!(shop.refs().await, here(&db));
    assert!(status(&primary).pushes < 25, "{:?}", status(&primary));
}

#[tokio::test(flavor = "multi_thread")]
async fn a12_a_strict_commit_is_at_the_remote_before_it_is_here() {
    for shop in Shop::all().await {
        let (db, primary) = (shop.database("p"), strict());
        put(&db, "main", "before", "x");
        commit(&db, "main");
        // What was there before is pushed first; then each change is one push of one round trip.
        primary.follow("p", &db);
        for n in 0..3 {
            put(&db, "main", &n.to_string(), "x");
            let before = status(&primary);
            let head = committed(&db).await.unwrap();
            assert_eq!(shop.refs().await.get("heads/main"), Some(&head));
            let after = status(&primary);
            if n > 0 {
                let trips = if matches!(shop.place, Place::Objects) { 2 } else { 1 };
                let most = before.round_trips + trips;
                assert!(after.pushes == before.pushes + 1 && after.round_trips <= most, "{after:?}");
            }
            primary.push("p", &db).await.unwrap();
            assert_eq!(status(&primary).pushes, after.pushes, "nothing is left to push");
        }
        let changed = db.clone();
        blocking(move || {
            let head = changed.branch("main").unwrap().unwrap().head.unwrap();
            changed.create_branch("b", Some(head)).unwrap();
            changed.create_tag("t", head).unwrap();
            changed.create_branch("gone", Some(head)).unwrap();
            changed.delete_branch("gone").unwrap();
            put(&changed, "main", "amended", "x");
            changed.commit("main", new_commit(true)).unwrap();
        })
        .await;
        assert_eq!(shop.refs().await, here(&db));
        assert_eq!(here(&db).len(), 3);
        primary.shutdown(Duration::from_secs(5)).await;
        // Whoever comes afterwards is not asked about.
        put(&db, "main", "after", "x");
        commit(&db, "main");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a12_a_strict_commit_that_is_refused_changes_nothing() {
    for shop in Shop::all().await {
        let (db, primary) = (shop.database("p"), strict());
        primary.follow("p", &db);
        put(&db, "main", "a", "1");
        committed(&db).await.unwrap();
        let other = shop.clone(&shop.dir.path().join("other")).await;
        put(&other, "main", "b", "1");
        let theirs = commit(&other, "main");
        let remote = Remote::connect(&RemoteUrl::parse(&shop.url).unwrap()).await.unwrap();
        let update = [PushUpdate { name: "heads/main".into(), new: Some(theirs) }];
        push(&other, &remote, "origin", &update, Force::No).await.unwrap();

        put(&db, "main", "a", "2");
        let before = here(&db);
        let error = committed(&db).await.unwrap_err();
        assert_eq!(error.kind(), pleach_engine::ErrorKind::Refused, "{error}");
        assert!(error.to_string().contains("nothing was changed"), "{error}");
        assert_eq!((here(&db), shop.refs().await["heads/main"]), (before, theirs));
        assert!(db.status("main").unwrap().dirty && db.refs("pending/").is_empty());
        // Nor does the next try, now that what is there is known here.
        let error = committed(&db).await.unwrap_err();
        assert_eq!(error.kind(), pleach_engine::ErrorKind::Refused, "{error}");
        assert_eq!(shop.refs().await["heads/main"], theirs, "a stranger's head stays");
        // A person goes on: what is here on a branch of its own, and then together.
        let going_on = db.clone();
        blocking(move || {
            let theirs = going_on.get_ref("remotes/origin/main").expect("it was fetched");
            going_on.create_branch("mine", going_on.branch("main").unwrap().unwrap().head).unwrap();
            put(&going_on, "mine", "a", "2");
            let mine = going_on.commit("mine", new_commit(false)).unwrap().hash;
            going_on.reset("main", &theirs, true).unwrap();
            going_on.merge("main", &mine, MergeOptions::default()).unwrap();
        })
        .await;
        assert_eq!(shop.refs().await, here(&db));
        assert_eq!((get(&db, "main", "a"), get(&db, "main", "b")), (Some("2".into()), Some("1".into())));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a12_a_strict_commit_without_an_answer_is_settled_when_the_remote_answers() {
    let (mut unsettled, mut done) = (0, 0);
    for cut_after in [0, 400, 700, 1000, 1300, 1600, 2000, 2400] {
        let allowed = std::sync::Arc::new(std::sync::Mutex::new(None));
        let shop = Shop::cutting({
            let allowed = allowed.clone();
            // The first connection after it was set gets so far, the others nowhere.
            move || allowed.lock().unwrap().as_mut().map(|left: &mut u64| std::mem::take(left))
        })
        .await;
        let db = shop.database("p");
        {
            let primary = strict();
            primary.follow("p", &db);
            put(&db, "main", "a", "1");
            committed(&db).await.unwrap();
            primary.shutdown(Duration::from_secs(5)).await;
        }
        let primary = strict();
        primary.follow("p", &db);
        put(&db, "main", "a", "2");
        let before = here(&db);
        *allowed.lock().unwrap() = Some(cut_after);
        let committed = committed(&db).await;
        let is_pending = !db.refs("pending/").is_empty();
        match &committed {
            Ok(_) => assert_eq!(shop.refs().await, here(&db)),
            Err(error) => {
                assert_eq!(error.kind(), pleach_engine::ErrorKind::Remote, "{error}");
                assert_eq!(here(&db), before);
                assert_eq!(is_pending, error.to_string().contains("not known"), "{error}");
                if is_pending {
                    let written = blocking({
                        let db = db.clone();
                        move || {
                            let mut transaction = db.begin("main")?;
                            transaction.put("t", b"b", b"1")?;
                            transaction.commit()
                        }
                    });
                    assert!(matches!(written.await, Err(pleach_engine::Error::Unsettled { .. })));
                    unsettled += 1;
                }
            }
        }
        *allowed.lock().unwrap() = None;
        eventually("it is settled", async || db.refs("pending/").is_empty()).await;
        assert_eq!(shop.refs().await, here(&db));
        assert_eq!(get(&db, "main", "a").as_deref(), Some("2"), "it is committed, or still to be");
        done += usize::from(is_pending && here(&db) != before);
        let db = db.clone();
        blocking(move || put(&db, "main", "b", "1")).await;
    }
    assert!(unsettled > 1 && done > 0, "{unsettled} {done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a12_what_is_not_settled_is_settled_after_a_restart() {
    let allowed = std::sync::Arc::new(std::sync::Mutex::new(None));
    let shop = Shop::cutting({
        let allowed = allowed.clone();
        move || *allowed.lock().unwrap()
    })
    .await;
    let db = shop.database("p");
    {
        let primary = strict();
        primary.follow("p", &db);
        put(&db, "main", "a", "1");
        *allowed.lock().unwrap() = Some(0);
        assert!(committed(&db).await.is_err());
        primary.shutdown(Duration::from_millis(100)).await;
    }
    let pending = db.get_ref("pending/to/heads/main");
    assert!(db.close().is_ok());
    let db = Database::open(&shop.dir.path().join("p"), Options::default()).unwrap();
    *allowed.lock().unwrap() = None;
    let primary = strict();
    primary.follow("p", &db);
    eventually("it is settled", async || db.refs("pending/").is_empty()).await;
    let expected: BTreeMap<String, Hash> =
        pending.into_iter().map(|hash| ("heads/main".to_owned(), hash)).collect();
    assert_eq!((here(&db), shop.refs().await), (expected.clone(), expected));
}
