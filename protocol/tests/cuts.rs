//! Connections that are cut: what was sent stays sent, at any point, of a fetch and of a push.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use pleach_engine::{Database, Hash, MergeOptions, NewCommit, Options, TransactionOutcome, difference};
use pleach_protocol::proto::{
    self, push_request::Message, push_response::Message as Answer, sync_client::SyncClient,
};
use pleach_protocol::testing::Proxy;
use pleach_protocol::{
    Databases, Error, FEATURE_EDITS, Force, Part, PushUpdate, Receiver, RefPatterns, Remote, RemoteUrl,
    Sender, SyncService, Transfer, clone_database, fetch, pull, push, transport,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;

fn mixed(i: u64) -> u64 {
    i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// Rows that hardly compress.
fn put(db: &Database, rows: impl IntoIterator<Item = u64>, version: u64) {
    let mut transaction = db.begin("main").unwrap();
    if !transaction.has_table("t").unwrap() {
        transaction.create_table("t", None).unwrap();
    }
    for i in rows {
        let value: Vec<u8> =
            (0..8).flat_map(|word| mixed(i ^ mixed(version * 8 + word)).to_le_bytes()).collect();
        transaction.put("t", &i.to_be_bytes(), &value).unwrap();
    }
    assert!(!matches!(transaction.commit().unwrap(), TransactionOutcome::Refused { .. }));
}

fn commit(db: &Database) -> Hash {
    let new = NewCommit { message: "m".into(), author: "a".into(), ..NewCommit::default() };
    db.commit("main", new).unwrap().hash
}

/// A server over the databases in a directory; it ends when it is dropped.
struct Server {
    address: SocketAddr,
    databases: Databases,
    serving: JoinHandle<()>,
}

impl Server {
    fn start(dir: &TempDir) -> Server {
        let databases = Databases::new(dir.path(), Options::default()).unwrap();
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap().with_nodelay(Some(true));
        let address = incoming.local_addr().unwrap();
        let service = SyncService::new(databases.clone()).into_server();
        let serving = tokio::spawn(async move {
            transport().add_service(service).serve_with_incoming(incoming).await.unwrap();
        });
        Server { address, databases, serving }
    }

    /// A proxy to it that cuts each connection after so many bytes, the first `times`.
    async fn cutting(&self, mut times: u64, mut after: impl FnMut() -> u64 + Send + 'static) -> Proxy {
        let cut_after = move || {
            times = times.checked_sub(1)?;
            Some(after())
        };
        Proxy::start(self.address, Duration::ZERO, cut_after).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn url(address: SocketAddr) -> RemoteUrl {
    RemoteUrl::parse(&format!("http://{address}/shop")).unwrap()
}

async fn connected(url: &RemoteUrl) -> Remote {
    Remote::connect(url).await.unwrap()
}

fn random(seed: u64, from: u64, to: u64) -> impl FnMut() -> u64 + Send + 'static {
    let mut state = seed;
    move || {
        state = mixed(state + 1);
        from + state % (to - from)
    }
}

async fn clone(address: SocketAddr, dir: &TempDir, name: &str) -> (Database, Transfer) {
    clone_database(
        &connected(&url(address)).await,
        &dir.path().join(name),
        Options::default(),
        &Part::default(),
    )
    .await
    .unwrap()
}

fn assert_whole(db: &Database, like: &Database) {
    assert_eq!(db.root().unwrap(), like.root().unwrap());
    assert_eq!(db.fsck().unwrap().damages, []);
}

/// A server with three commits that change every row, and what a clone of it costs without a cut.
async fn three_commits(dir: &TempDir) -> (Server, Database, Transfer) {
    let server = Server::start(dir);
    let db = server.databases.create("shop").unwrap();
    for version in 0..3 {
        put(&db, 0..20_000, version);
        commit(&db);
    }
    let (_, whole) = clone(server.address, dir, "whole").await;
    (server, db, whole)
}

/// What is sent again after a cut: the chunks that lead to where the transfer goes on.
const AGAIN_BYTES: u64 = 64 << 10;

#[tokio::test]
async fn a_clone_that_is_cut_again_and_again_goes_on_where_it_was() {
    let dir = TempDir::new().unwrap();
    let (server, db, whole) = three_commits(&dir).await;
    let proxy = server.cutting(15, random(1, 100_000, 700_000)).await;
    let (copy, transfer) = clone(proxy.address(), &dir, "cut").await;
    assert_whole(&copy, &db);
    let cuts = proxy.counts().cuts;
    assert!(cuts >= 8, "{:?}", proxy.counts());
    assert_eq!(u64::from(transfer.round_trips), cuts + 1);
    // Of what arrived, nothing else is sent again. (The proxy has counted more: what lay in the window when the connection was cut.)
    assert!(transfer.bytes_received <= whole.bytes_received + cuts * AGAIN_BYTES, "{transfer:?} {whole:?}");
}

/// A server with a small database, a copy of it that has gone on by some MiB, and the push that is due.
async fn ahead(dir: &TempDir) -> (Server, Database, Database, [PushUpdate; 1]) {
    let server = Server::start(dir);
    let there = server.databases.create("shop").unwrap();
    put(&there, 0..100, 0);
    commit(&there);
    let (db, _) = clone(server.address, dir, "copy").await;
    for version in 1..4 {
        put(&db, 0..40_000, version);
        commit(&db);
    }
    let new = db.branch("main").unwrap().unwrap().head;
    (server, there, db, [PushUpdate { name: "heads/main".into(), new }])
}

#[tokio::test]
async fn a_push_that_is_cut_again_and_again_goes_on_where_it_was() {
    let dir = TempDir::new().unwrap();
    let (server, there, db, updates) = ahead(&dir).await;
    // If it began anew each time, it would not end before the cuts do.
    let proxy = server.cutting(40, random(2, 1_000_000, 3_000_000)).await;
    let remote = Remote::connect(&url(proxy.address())).await.unwrap();
    let transfer = push(&db, &remote, "origin", &updates, Force::No).await.unwrap();
    assert_eq!(transfer.refs[0].new, updates[0].new);
    assert_whole(&there, &db);
    let counts = proxy.counts();
    assert!((3..30).contains(&counts.cuts), "{counts:?}");
    assert_eq!(u64::from(transfer.round_trips), counts.cuts + 1, "{counts:?}");
}

/// What the server has got of a push is said when the push goes on, and the rest is enough.
#[tokio::test]
async fn nothing_that_a_server_has_got_of_a_push_is_sent_again() {
    let dir = TempDir::new().unwrap();
    let (server, there, db, updates) = ahead(&dir).await;
    let (new, base) = (updates[0].new.unwrap(), there.branch("main").unwrap().unwrap().head.unwrap());
    let messages = |difference| -> (Vec<Message>, u64) {
        let mut sender = Sender::new(&db, difference).unwrap().with_edits(true);
        let data: Vec<Message> =
            std::iter::from_fn(|| sender.next_message().unwrap()).map(Message::Data).collect();
        (data, sender.records())
    };
    let (all, records) = messages(difference(&db, &[new], &[base]).unwrap());
    let begin = |resuming| {
        let bytes = |hash: Hash| Bytes::copy_from_slice(hash.as_bytes());
        Message::Begin(proto::Begin {
            database: "shop".into(),
            idempotency_key: Bytes::from_static(&[3; 16]),
            updates: vec![proto::RefUpdate {
                name: "heads/main".into(),
                new: bytes(new),
                expected: Some(proto::ref_update::Expected::Old(bytes(base))),
                force: false,
            }],
            bases: bytes(base),
            format_digest: pleach_protocol::format_digest(),
            features: FEATURE_EDITS,
            resuming,
        })
    };
    let open = async || {
        let (requests, stream) = tokio::sync::mpsc::channel(1);
        let mut client = SyncClient::connect(format!("http://{}", server.address)).await.unwrap();
        let answers =
            tokio::spawn(async move { client.push(ReceiverStream::new(stream)).await.unwrap().into_inner() });
        let send =
            async move |message| requests.send(proto::PushRequest { message: Some(message) }).await.unwrap();
        (send, answers)
    };
    let (send, answers) = open().await;
    send(begin(false)).await;
    let half = all.len() * 2 / 3;
    for message in &all[..half] {
        send(message.clone()).await;
    }
    // The stream ends without a Finish. The server says so, after it has taken all that was sent.
    drop(send);
    let mut answers = answers.await.unwrap();
    let status = loop {
        match answers.message().await {
            Ok(answer) => assert!(matches!(answer.unwrap().message, Some(Answer::Progress(_)))),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), tonic::Code::Cancelled, "{status}");
    assert!(there.store().collect(false).unwrap().dead_chunks <= 200, "what arrived is kept");

    let (send, answers) = open().await;
    send(begin(true)).await;
    let mut answers = answers.await.unwrap();
    let Some(Answer::Progress(progress)) = answers.message().await.unwrap().unwrap().message else {
        panic!()
    };
    let place = progress.place.unwrap();
    let top = Hash::from_bytes(place.top[..].try_into().unwrap());
    let commits = progress.commits.chunks(32).map(|hash| Hash::from_bytes(hash.try_into().unwrap()));
    let bases: Vec<Hash> = commits.chain([base]).collect();
    let (rest, rest_records) = messages(difference(&db, &[new], &bases).unwrap().resumed(top, place.path));
    assert!(rest_records * 2 < records, "{rest_records} of {records}");
    for message in rest {
        send(message).await;
    }
    send(Message::Finish(proto::Finish { records: rest_records })).await;
    drop(send);
    let answer = answers.message().await.unwrap().unwrap().message;
    assert!(matches!(answer, Some(Answer::Result(_))), "{answer:?}");
    assert_whole(&there, &db);
}

#[tokio::test]
async fn a_transfer_goes_on_at_a_server_that_was_restarted_and_beside_collections() {
    let dir = TempDir::new().unwrap();
    let (server, there, db, updates) = ahead(&dir).await;
    let proxy = server.cutting(3, random(5, 1_000_000, 2_000_000)).await;
    let done = Arc::new(AtomicBool::new(false));
    let collecting = {
        let (db, done) = (db.clone(), done.clone());
        std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                db.store().collect(false).unwrap();
            }
        })
    };
    let pushing = tokio::spawn({
        let (db, address) = (db.clone(), proxy.address());
        async move {
            let remote = Remote::connect(&url(address)).await.unwrap();
            push(&db, &remote, "origin", &updates, Force::No).await.unwrap()
        }
    });
    while proxy.counts().cuts < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(there);
    server.databases.close().unwrap();
    drop(server);
    let server = Server::start(&dir);
    proxy.lead_to(server.address);
    pushing.await.unwrap();
    let there = server.databases.get("shop").unwrap().unwrap();
    assert_whole(&there, &db);

    // And the other way: here are only the first rows, of which the server has gone on.
    put(&there, 0..40_000, 9);
    commit(&there);
    let cutting = server.cutting(4, random(6, 500_000, 1_000_000)).await;
    let remote = Remote::connect(&url(cutting.address())).await.unwrap();
    fetch(&db, &remote, "origin", &RefPatterns::all()).await.unwrap();
    done.store(true, Ordering::Relaxed);
    collecting.join().unwrap();
    assert_eq!(cutting.counts().cuts, 4);
    assert_eq!(db.get_ref("remotes/origin/main"), there.get_ref("heads/main"));
    assert_eq!(db.fsck().unwrap().damages, []);
}

#[tokio::test]
async fn a_small_exchange_may_be_cut_at_any_byte() {
    let dir = TempDir::new().unwrap();
    let (server, there, db, updates) = ahead(&dir).await;
    let direct = Remote::connect(&url(server.address)).await.unwrap();
    push(&db, &direct, "origin", &updates, Force::No).await.unwrap();
    for after in (0..1500).step_by(67) {
        // A push of a row, then a pull of one, each over a connection of its own that ends early.
        put(&db, [after], 11);
        let new = Some(commit(&db));
        let proxy = server.cutting(1, move || after).await;
        if let Ok(remote) = Remote::connect(&url(proxy.address())).await {
            let updates = [PushUpdate { name: "heads/main".into(), new }];
            let pushed = push(&db, &remote, "origin", &updates, Force::No).await.unwrap();
            assert_eq!(pushed.refs[0].new, new, "{after}");
            assert_eq!(there.get_ref("heads/main"), new, "{after}");
        } else {
            push(&db, &direct, "origin", &[PushUpdate { name: "heads/main".into(), new }], Force::No)
                .await
                .unwrap();
        }
        put(&there, [after + 1], 12);
        let new = Some(commit(&there));
        let proxy = server.cutting(1, move || after).await;
        let remote = match Remote::connect(&url(proxy.address())).await {
            Ok(remote) => remote,
            Err(_) => direct.clone(),
        };
        let options = MergeOptions { author: "a".into(), ..MergeOptions::default() };
        pull(&db, &remote, "origin", "main", "main", options).await.unwrap();
        assert_eq!(db.get_ref("heads/main"), new, "{after}");
    }
    assert_whole(&db, &there);
}

#[test]
fn a_place_that_does_not_fit_leaves_nothing_out_or_is_refused() {
    let (db, here) = (Database::memory().unwrap(), Database::memory().unwrap());
    put(&db, 0..5000, 0);
    let head = commit(&db);
    for path in [vec![0], vec![1], vec![0, 7], vec![0, 1, 2, 3, 4, 5, 6], vec![u32::MAX], vec![0, 1, 1]] {
        for top in [head, Hash::of(b"another")] {
            let difference = difference(&db, &[head], &[]).unwrap().resumed(top, path.clone());
            let mut sender = Sender::new(&db, difference).unwrap();
            let mut receiver = Receiver::new(&here).unwrap();
            let mut taken = Ok(());
            while let Some(message) = sender.next_message().unwrap() {
                taken = taken.and_then(|()| receiver.receive(&message));
            }
            match taken.and_then(|()| receiver.finish(sender.records(), &[head])) {
                Ok(_) => assert!(top != head || path == [0], "{path:?}"),
                Err(error) => assert!(matches!(error, Error::MissingChild { .. }), "{error}"),
            }
        }
    }
}

#[tokio::test]
async fn a_clone_that_failed_goes_on_when_it_is_made_again() {
    let dir = TempDir::new().unwrap();
    let (server, db, whole) = three_commits(&dir).await;
    // One connection carries some of it, then the server seems to be away.
    let proxy = server
        .cutting(1000, {
            let mut first = true;
            move || if std::mem::take(&mut first) { 2_500_000 } else { 0 }
        })
        .await;
    let path = dir.path().join("cut");
    let error =
        clone_database(&connected(&url(proxy.address())).await, &path, Options::default(), &Part::default())
            .await
            .err()
            .unwrap();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    // What was begun is no place for another clone.
    let other =
        clone_database(&connected(&url(server.address)).await, &path, Options::default(), &Part::default())
            .await
            .err()
            .unwrap();
    assert!(matches!(other, Error::OtherClone { .. }), "{other}");

    let direct = Proxy::start(server.address, Duration::ZERO, || None).await.unwrap();
    drop(proxy);
    let remote = connected(&url(direct.address())).await;
    let (copy, transfer) = clone_again(&path, direct.address(), &remote).await.unwrap();
    assert_whole(&copy, &db);
    assert!(transfer.bytes_received < whole.bytes_received * 2 / 3, "{transfer:?} {whole:?}");
    assert_eq!(
        copy.settings("").unwrap().into_iter().map(|(key, _)| key).collect::<Vec<_>>(),
        ["branch.current", "remote.origin.url"]
    );
}

#[tokio::test]
async fn what_somebody_made_in_a_clone_that_was_begun_is_left_alone() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(&dir);
    let db = server.databases.create("shop").unwrap();
    put(&db, 0..40_000, 0);
    commit(&db);
    for work in ["rows", "a commit"] {
        let proxy = server
            .cutting(1000, {
                let mut first = true;
                move || if std::mem::take(&mut first) { 1_500_000 } else { 0 }
            })
            .await;
        let path = dir.path().join(work);
        let remote = connected(&url(proxy.address())).await;
        clone_database(&remote, &path, Options::default(), &Part::default()).await.err().unwrap();
        let begun = Database::open(&path, Options::default()).unwrap();
        put(&begun, [7], 7);
        if work == "a commit" {
            commit(&begun);
        }
        let root = begun.root().unwrap();
        begun.close().unwrap();
        std::fs::write(path.join("notes.txt"), "mine").unwrap();
        // Where clones went on before, this one is refused, or leaves the branch as it is.
        let moved = connected(&url(server.address)).await;
        let again = clone_again(&path, server.address, &moved).await;
        if work == "rows" {
            assert!(matches!(again.err().unwrap(), Error::Exists { .. }));
        } else {
            again.unwrap().0.close().unwrap();
        }
        let begun = Database::open(&path, Options::default()).unwrap();
        assert_eq!(begun.root().unwrap(), root, "{work}");
        assert!(path.join("notes.txt").exists());
    }
}

/// Goes on with a clone that was begun by way of another address.
async fn clone_again(
    path: &std::path::Path,
    address: SocketAddr,
    remote: &Remote,
) -> Result<(Database, Transfer), Error> {
    let begun = Database::open(path, Options::default()).unwrap();
    let hash = Hash::of(format!("{}\n{:?}", url(address), Part::default()).as_bytes());
    begun.set_setting("cloning", Some(&format!("{hash} {}", url(address)))).unwrap();
    begun.close().unwrap();
    clone_database(remote, path, Options::default(), &Part::default()).await
}
