//! What an exchange with a remote that is no server costs: waits, requests and bytes, which repeat.

use super::*;

#[tokio::test]
async fn small_exchanges_cost_what_changed_and_a_list() {
    let memory = Memory::new();
    let remote = in_memory(&memory);
    let a = Copy::new(&remote);
    a.put_rows("main", (0..100_000).map(|i| (i, value(i))));
    let first = a.push().await;
    let dir = TempDir::new().unwrap();
    memory.calls();
    let b = Copy { db: Database::init(&dir.path().join("b"), Options::default()).unwrap(), remote };
    let (cloned, _) = b.pull().await;
    println!("first push of 100,000 rows: {first:?}\nclone: {cloned:?}, {:?}", memory.calls());
    assert_eq!(cloned.round_trips, 3, "a list, the manifest, the packs");
    // A server sends the same records.
    let server = conformance::server().await;
    let through_a_server = Copy { db: a.db.clone(), remote: server.remote.clone() }.push().await;
    let (served, _) = Copy::cloned(&server.remote).await.pull().await;
    println!("to a server: {through_a_server:?}; nothing to do there: {served:?}");
    assert_eq!(through_a_server.chunks, cloned.chunks);
    let more = cloned.bytes_received.abs_diff(through_a_server.bytes_sent);
    assert!(more < 1000, "{more} bytes apart");
    assert_eq!(b.db.root().unwrap(), a.db.root().unwrap());

    let nothing = b.fetch().await;
    assert_eq!(
        (nothing.round_trips, &memory.calls()[..]),
        (1, &["get format", "list manifest"].map(String::from)[..])
    );
    let format = nothing.bytes_received;
    assert!(nothing.bytes_sent == 0 && format < 120, "{nothing:?}");

    a.put(51_234, "changed");
    let pushed = a.push().await;
    let calls = memory.calls();
    println!("push of one row: {pushed:?}, {calls:?}");
    assert_eq!(pushed.round_trips, 2);
    assert_eq!(calls, ["get format", "list manifest", "get manifest", "put_if_absent manifest"]);
    assert!(pushed.bytes_sent < 1200, "{pushed:?}");

    let (pulled, _) = b.pull().await;
    let calls = memory.calls();
    println!("pull of one row: {pulled:?}, {calls:?}");
    assert_eq!(
        (pulled.round_trips, &calls[..]),
        (2, &["get format", "list manifest", "get manifest"].map(String::from)[..])
    );
    assert_eq!(pulled.bytes_received, pushed.bytes_sent + format);

    // Nothing new to push is one wait too.
    assert_eq!((a.push().await.round_trips, memory.calls().len()), (1, 3));
}

#[tokio::test]
async fn catching_up_takes_two_waits_at_any_depth() {
    let (memory, _, a, b) = two_copies().await;
    let mut sent = 0;
    for number in 0..100 {
        a.put(number, "next");
        sent += a.push().await.bytes_sent;
    }
    memory.calls();
    let (pulled, _) = b.pull().await;
    println!("catching up by 100 pushes: {pulled:?}, {} requests", memory.calls().len());
    assert_eq!(pulled.round_trips, 2);
    assert!(pulled.bytes_received < sent, "{pulled:?}");
    assert_eq!(b.db.root().unwrap(), a.db.root().unwrap());
}

#[tokio::test]
async fn a_large_manifest_is_read_once_more_and_alone() {
    let (memory, remote, a, b) = two_copies().await;
    let tags: Vec<_> =
        (0..25_000).map(|i| PushUpdate { name: format!("tags/{i:05}"), new: a.head("main") }).collect();
    let pushed = push(&a.db, &remote, "origin", &tags, Force::No).await.unwrap();
    assert!(!pushed.is_rejected());
    a.put(1, "small");
    a.push().await;
    memory.calls();
    let (pulled, _) = b.pull().await;
    assert_eq!((pulled.round_trips, memory.calls().len()), (3, 5), "two manifests, the large one again");
    assert_eq!(b.db.refs("tags/").len(), tags.len());
    assert_eq!(b.head("main"), a.head("main"));
}
