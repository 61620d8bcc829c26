//! Clones without number do not keep a small pull waiting, and go on beside it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use pleach_engine::{Database, NewCommit, Options, TransactionOutcome};
use pleach_protocol::limits::{LONG_MAX, STREAMS_MAX, TRANSFERS_MAX};
use pleach_protocol::proto::{FetchRequest, FetchResponse, fetch_response::Message, sync_client::SyncClient};
use pleach_protocol::{
    Databases, Part, RefPatterns, Remote, RemoteUrl, SyncService, clone_database, fetch, transport,
};
use tempfile::TempDir;
use tonic::Streaming;
use tonic::transport::server::TcpIncoming;

fn mixed(i: u64) -> u64 {
    i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

fn put(db: &Database, keys: impl IntoIterator<Item = u64>, version: u64) {
    let mut transaction = db.begin("main").unwrap();
    if !transaction.has_table("t").unwrap() {
        transaction.create_table("t", None).unwrap();
    }
    for i in keys {
        let value: Vec<u8> =
            (0..16).flat_map(|word| mixed(i ^ mixed(version * 16 + word)).to_le_bytes()).collect();
        transaction.put("t", &i.to_be_bytes(), &value).unwrap();
    }
    assert!(!matches!(transaction.commit().unwrap(), TransactionOutcome::Refused { .. }));
    let new = NewCommit { message: "m".into(), author: "a".into(), ..NewCommit::default() };
    db.commit("main", new).unwrap();
}

/// Reads a fetch to its end, and gives how many messages came.
async fn read(stream: &mut Streaming<FetchResponse>) -> usize {
    let mut messages = 0;
    while let Some(FetchResponse { message }) = stream.message().await.unwrap() {
        messages += 1;
        if matches!(message, Some(Message::End(_))) {
            return messages;
        }
    }
    panic!("the answer was cut after {messages} messages")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_pull_does_not_wait_for_clones_that_take_every_turn_they_get() {
    let dir = TempDir::new().unwrap();
    let databases = Databases::new(&dir.path().join("server"), Options::default()).unwrap();
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap().with_nodelay(Some(true));
    let address = incoming.local_addr().unwrap();
    tokio::spawn(
        transport()
            .add_service(SyncService::new(databases.clone()).into_server())
            .serve_with_incoming(incoming),
    );
    // A small database to pull from, and one whose clones fill what is between them and who does not read them.
    let (small, large) = (databases.create("small").unwrap(), databases.create("large").unwrap());
    put(&small, 0..100, 0);
    put(&large, 0..35_000, 0);
    let url = RemoteUrl::parse(&format!("http://{address}/small")).unwrap();
    let remote = Remote::connect(&url).await.unwrap();
    let path = dir.path().join("copy");
    let (copy, _) = clone_database(&remote, &path, Options::default(), &Part::default()).await.unwrap();

    let (mut begun, mut waiting) = (Vec::new(), Vec::new());
    for _ in 0..(TRANSFERS_MAX + 4).div_ceil(STREAMS_MAX as usize / 2) {
        let client = SyncClient::connect(format!("http://{address}")).await.unwrap();
        for _ in 0..STREAMS_MAX / 2 {
            let mut client = client.clone();
            let request = FetchRequest { database: "large".into(), ..FetchRequest::default() };
            if begun.len() < LONG_MAX {
                begun.push(client.fetch(request).await.unwrap().into_inner());
            } else {
                waiting.push(tokio::spawn(async move { client.fetch(request).await.unwrap().into_inner() }));
            }
        }
    }

    put(&small, [7], 1);
    let all = RefPatterns::all();
    let pulled = fetch(&copy, &remote, "origin", &all);
    let pulled = tokio::time::timeout(Duration::from_secs(20), pulled).await;
    assert_eq!(pulled.expect("it waits for clones").unwrap().round_trips, 1);
    assert_eq!(copy.get_ref("remotes/origin/main"), small.get_ref("heads/main"));
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()), "the clones that have a turn do not end");

    // What lies between them and who reads them is one window: it is read together.
    let reading = begun.into_iter().map(|mut stream| tokio::spawn(async move { read(&mut stream).await }));
    let reading: Vec<_> = reading.collect();
    let waiting = waiting
        .into_iter()
        .map(|waiting| tokio::spawn(async move { read(&mut waiting.await.unwrap()).await }));
    let waiting: Vec<_> = waiting.collect();
    for read in reading.into_iter().chain(waiting) {
        assert!(read.await.unwrap() > 10);
    }
}
