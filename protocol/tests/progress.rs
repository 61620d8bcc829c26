//! How far a transfer is, told while it lasts: never more than there is, and in the end exactly all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pleach_engine::{Database, Extent, NewCommit, Options, TransactionOutcome};
use pleach_protocol::testing::Proxy;
use pleach_protocol::{
    Databases, Flow, Force, Part, Passed, PushUpdate, RefPatterns, Remote, RemoteUrl, SyncService, Transfer,
    clone_database, fetch, push, transport,
};
use tempfile::TempDir;
use tonic::transport::server::TcpIncoming;

const VALUE_BYTES: u64 = 64;
const ROW_BYTES: u64 = 8 + VALUE_BYTES;

fn mixed(i: u64) -> u64 {
    i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

fn value(i: u64, words: u64) -> Vec<u8> {
    (0..words).flat_map(|word| mixed(i ^ mixed(word)).to_le_bytes()).collect()
}

/// Puts rows that hardly compress, without a commit.
fn work(db: &Database, table: &str, keys: impl IntoIterator<Item = u64>, version: u64) {
    let mut transaction = db.begin("main").unwrap();
    if !transaction.has_table(table).unwrap() {
        transaction.create_table(table, None).unwrap();
    }
    for i in keys {
        let value = value(i ^ mixed(version), VALUE_BYTES / 8);
        transaction.put(table, &i.to_be_bytes(), &value).unwrap();
    }
    assert!(!matches!(transaction.commit().unwrap(), TransactionOutcome::Refused { .. }));
}

fn put(db: &Database, table: &str, keys: impl IntoIterator<Item = u64>, version: u64) {
    work(db, table, keys, version);
    let new = NewCommit { message: "m".into(), author: "a".into(), ..NewCommit::default() };
    db.commit("main", new).unwrap();
}

async fn serve(dir: &Path) -> (SocketAddr, Database) {
    let databases = Databases::new(dir, Options::default()).unwrap();
    let db = databases.create("shop").unwrap();
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap().with_nodelay(Some(true));
    let address = incoming.local_addr().unwrap();
    let service = SyncService::new(databases).into_server();
    tokio::spawn(transport().add_service(service).serve_with_incoming(incoming));
    (address, db)
}

/// What was told of transfers over a connection.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Passed>>>);

impl Told {
    async fn connect(&self, url: &str) -> Remote {
        let told = self.0.clone();
        let tell = move |passed: &Passed| told.lock().unwrap().push(*passed);
        Remote::connect(&RemoteUrl::parse(url).unwrap()).await.unwrap().with_flow(Flow::new(None, Some(tell)))
    }

    /// What a clone from a server told, which is as the server has it in the end.
    async fn clone(&self, address: SocketAddr, dir: &TempDir, like: &Database) -> (Database, Transfer) {
        let remote = self.connect(&format!("http://{address}/shop")).await;
        let path = dir.path().join("copy");
        let (copy, transfer) =
            clone_database(&remote, &path, Options::default(), &Part::default()).await.unwrap();
        assert_eq!(copy.root().unwrap(), like.root().unwrap());
        (copy, transfer)
    }

    async fn fetch(&self, address: SocketAddr, copy: &Database) {
        let remote = self.connect(&format!("http://{address}/shop")).await;
        fetch(copy, &remote, "origin", &RefPatterns::all()).await.unwrap();
    }

    /// All that was told since the last time. What is done was never more than there is.
    fn take(&self) -> Vec<Passed> {
        let told = std::mem::take(&mut *self.0.lock().unwrap());
        for Passed { done, total, .. } in &told {
            assert!(total.is_none_or(|total| total.max(*done) == total), "{done:?} of {total:?}");
        }
        told
    }

    /// What was done in the end, which is all there was, and which the sender had said before.
    fn all(&self) -> Extent {
        let told = self.take();
        let last = told.last().unwrap();
        assert_eq!(last.total, Some(last.done));
        assert_eq!(told[told.len() - 2].total, last.total, "what the sender said last");
        assert!(told.windows(2).all(|two| two[0].done.max(two[1].done) == two[1].done), "it only grows");
        last.done
    }
}

fn rows(rows: u64) -> Extent {
    Extent { rows, bytes: rows * ROW_BYTES }
}

#[tokio::test]
async fn a_clone_tells_from_its_first_message_on_what_it_comes_to() {
    let dir = TempDir::new().unwrap();
    let (address, db) = serve(&dir.path().join("server")).await;
    put(&db, "t", 0..20_000, 0);
    put(&db, "u", 0..1_000, 1);
    let told = Told::default();
    told.clone(address, &dir, &db).await;
    let totals: Vec<Extent> = told.0.lock().unwrap().iter().filter_map(|passed| passed.total).collect();
    assert!(totals.len() >= 5, "{totals:?}");
    assert!(totals.iter().all(|total| *total == rows(21_000)), "{totals:?}");
    assert_eq!(told.all(), rows(21_000));
}

#[tokio::test]
async fn values_that_are_out_of_line_count_with_their_bytes() {
    let dir = TempDir::new().unwrap();
    let (address, db) = serve(&dir.path().join("server")).await;
    let mut transaction = db.begin("main").unwrap();
    transaction.create_table("blobs", None).unwrap();
    let lens = [5_000u64, 200_000, 900_000, 64];
    for (i, len) in (0..).zip(lens) {
        transaction.put("blobs", &u64::to_be_bytes(i), &value(i, len / 8)).unwrap();
    }
    assert!(!matches!(transaction.commit().unwrap(), TransactionOutcome::Refused { .. }));
    put(&db, "t", 0..100, 0);
    let told = Told::default();
    told.clone(address, &dir, &db).await;
    let blobs = Extent { rows: 4, bytes: lens.iter().sum::<u64>() + 4 * 8 };
    assert_eq!(told.all(), blobs + rows(100));
}

#[tokio::test]
async fn a_clone_that_goes_on_after_cuts_counts_what_was_there() {
    let dir = TempDir::new().unwrap();
    let (address, db) = serve(&dir.path().join("server")).await;
    work(&db, "t", 0..20_000, 0);
    put(&db, "u", 0..20_000, 1);
    let mut cuts = [900_000, 900_000].into_iter();
    let proxy = Proxy::start(address, Duration::ZERO, move || cuts.next()).await.unwrap();
    let told = Told::default();
    told.clone(proxy.address(), &dir, &db).await;
    assert_eq!(proxy.counts().cuts, 2);
    let told = told.take();
    let last = told.last().unwrap();
    assert_eq!((last.done, last.total), (rows(40_000), Some(rows(40_000))));
    assert!(told.iter().filter_map(|passed| passed.total).all(|total| total.rows == 40_000));
}

#[tokio::test]
async fn a_difference_ends_with_what_differed_whether_it_travels_as_leaves_or_as_rows() {
    let dir = TempDir::new().unwrap();
    let (address, db) = serve(&dir.path().join("server")).await;
    put(&db, "t", 0..60_000, 0);
    let told = Told::default();
    let (copy, _) = told.clone(address, &dir, &db).await;
    told.all();
    // A third of the table is too much to be told in rows.
    put(&db, "t", 0..20_000, 1);
    told.fetch(address, &copy).await;
    let leaves = told.all();
    assert!((20_000..21_000).contains(&leaves.rows), "{leaves:?}");
    assert_eq!(leaves, rows(leaves.rows));

    put(&db, "t", (0..60_000).step_by(6), 2);
    told.fetch(address, &copy).await;
    assert_eq!(told.all(), rows(10_000));

    // A small one tells no total before it ends.
    put(&db, "t", [7], 3);
    told.fetch(address, &copy).await;
    let small = told.take();
    assert_eq!(small.iter().filter_map(|passed| passed.total).collect::<Vec<_>>(), [rows(1)]);
}

#[tokio::test]
async fn what_is_still_to_come_of_nodes_that_changed_is_taken_to_be_as_much_as_of_those_before() {
    let dir = TempDir::new().unwrap();
    let (address, db) = serve(&dir.path().join("server")).await;
    let every = |n: usize| (0..200_000).step_by(n);
    put(&db, "t", every(1), 0);
    let told = Told::default();
    let (copy, _) = told.clone(address, &dir, &db).await;
    told.all();
    // Some rows of each hundredth part.
    let changed = |range: Range<u64>| every(1).filter(move |i| range.contains(&(i % 2_000)));
    put(&db, "t", changed(0..250), 1);
    told.fetch(address, &copy).await;
    let events = told.0.lock().unwrap().clone();
    let all = told.all();
    assert!(all.rows < 100_000, "{all:?}");
    let first = events.iter().find_map(|passed| passed.total).unwrap();
    assert!((all.rows / 2..all.rows * 2).contains(&first.rows), "{first:?} of {all:?}");
}

#[tokio::test]
async fn a_push_tells_what_it_comes_to() {
    let dir = TempDir::new().unwrap();
    let (address, there) = serve(&dir.path().join("server")).await;
    let db = Database::init(&dir.path().join("here"), Options::default()).unwrap();
    let told = Told::default();
    let remote = told.connect(&format!("http://{address}/shop")).await;
    // What is told of a connection is told of all its transfers together.
    for (range, all) in [(0..20_000, 20_000), (20_000..25_000, 25_000)] {
        put(&db, "t", range, 0);
        let new = db.branch("main").unwrap().unwrap().head;
        let updates = [PushUpdate { name: "heads/main".into(), new }];
        push(&db, &remote, "origin", &updates, Force::No).await.unwrap();
        assert_eq!(there.get_ref("heads/main"), new);
        assert_eq!(told.all(), rows(all));
    }
}

#[tokio::test]
async fn a_directory_is_told_of_alike() {
    let dir = TempDir::new().unwrap();
    let db = Database::init(&dir.path().join("here"), Options::default()).unwrap();
    put(&db, "t", 0..20_000, 0);
    let url = format!("file://{}", dir.path().join("remote").display());
    let told = Told::default();
    let remote = told.connect(&url).await;
    let new = db.branch("main").unwrap().unwrap().head;
    let updates = [PushUpdate { name: "heads/main".into(), new }];
    push(&db, &remote, "origin", &updates, Force::No).await.unwrap();
    assert_eq!(told.take().last().unwrap().total, Some(rows(20_000)));
    let told = Told::default();
    let remote = told.connect(&url).await;
    clone_database(&remote, &dir.path().join("copy"), Options::default(), &Part::default()).await.unwrap();
    let last = *told.take().last().unwrap();
    assert_eq!((last.done, last.total), (rows(20_000), Some(rows(20_000))));
}
