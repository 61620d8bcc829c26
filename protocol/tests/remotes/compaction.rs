//! Packs are merged, what is not needed goes, and nobody who reads or writes notices.

use std::time::Duration;

use pleach_protocol::limits::PACK_BYTES;
use pleach_protocol::{Compacted, collect_remote, compact_remote};

use super::*;

const NOW: Duration = Duration::ZERO;
const LATER: Duration = Duration::from_secs(3600);

fn packs(memory: &Memory) -> Vec<String> {
    memory.objects().into_keys().filter(|key| key.starts_with("pack/")).collect()
}

pub(super) fn noise(from: u64, rows: u64) -> impl Iterator<Item = (u64, String)> {
    (from..from + rows)
        .map(|i| (i, (0..20u64).map(|j| Hash::of(&(i * 31 + j).to_le_bytes()).to_string()).collect()))
}

#[tokio::test]
async fn many_small_pushes_become_few_packs() {
    let (memory, remote, a, b) = two_copies().await;
    let mut sent = 0;
    for number in 0..200 {
        a.put(number, &value(number));
        sent += a.push().await.bytes_sent;
    }
    let stored: u64 = memory.objects().values().map(|object| object.len() as u64).sum();
    println!("200 pushes: {sent} bytes sent, {stored} stored, packs {:?}", packs(&memory));
    assert!(packs(&memory).len() <= 5, "{:?}", packs(&memory));
    assert!(sent < 3 * stored, "each byte is rewritten a few times");
    b.pull().await;
    assert_eq!(b.db.root().unwrap(), a.db.root().unwrap());
    memory.calls();
    let c = Copy::cloned(&remote).await;
    assert!(memory.calls().len() < 20, "a list, the manifests since the last that has everything, the packs");
    assert_eq!(c.db.root().unwrap(), a.db.root().unwrap());
    [b, c].iter().for_each(|copy| check_whole(&copy.db));
}

#[tokio::test]
async fn a_large_push_is_packs_of_a_bounded_size_and_one_stream() {
    let memory = Memory::new();
    let remote = in_memory(&memory);
    let a = Copy::new(&remote);
    a.put_rows("main", noise(0, 15_000));
    let pushed = a.push().await;
    let objects = memory.objects();
    let sizes: Vec<usize> = packs(&memory).iter().map(|key| objects[key].len()).collect();
    assert!(sizes.len() == 2 && sizes.iter().all(|size| *size <= PACK_BYTES), "{sizes:?}");
    let b = Copy::new(&remote);
    let (cloned, _) = b.pull().await;
    assert_eq!((cloned.round_trips, cloned.chunks), (3, pushed.chunks));
    assert_eq!(b.db.root().unwrap(), a.db.root().unwrap());
    // Both are too large to be merged.
    assert_eq!(compact_remote(&remote, NOW).await.unwrap().bytes_written, 0);
}

#[tokio::test]
async fn who_finds_a_pack_gone_begins_again_from_the_head() {
    let (memory, remote, a, b) = two_copies().await;
    for part in 0..3 {
        a.put_rows("main", noise(part * 100, 100));
        a.push().await;
    }
    let before = packs(&memory);
    assert_eq!(before.len(), 3);
    let done = compact_remote(&remote, LATER).await.unwrap();
    assert_eq!((done.packs, done.retired, done.removed), (1, 3, 0), "{done:?}");
    assert_eq!(packs(&memory).len(), 4, "the old ones are still there for who reads slowly");
    let done = compact_remote(&remote, LATER).await.unwrap();
    assert_eq!((done.retired, done.removed), (3, 0), "{done:?}");
    let done = compact_remote(&remote, NOW).await.unwrap();
    assert_eq!((done.retired, done.removed, done.bytes_written), (0, 3, 0), "{done:?}");
    assert!(before.iter().all(|key| !packs(&memory).contains(key)));
    let (pulled, _) = b.pull().await;
    assert_eq!(b.db.root().unwrap(), a.db.root().unwrap());
    assert!(pulled.round_trips > 3, "it began again: {pulled:?}");
    a.put(1, "more");
    a.push().await;
    assert_eq!(b.pull().await.0.round_trips, 2);
    check_whole(&b.db);
}

#[tokio::test]
async fn a_collection_leaves_what_the_refs_reach() {
    let (memory, remote, a, b) = two_copies().await;
    let lost = b.put_rows("main", noise(0, 200));
    b.push().await;
    let head = a.put(1, "instead");
    assert_eq!(a.try_push(Force::Yes).await.unwrap().refs[0].status, RefStatus::Forced);
    let keeps = |object: &bytes::Bytes| object.windows(20).any(|text| text == b"recovery/heads/main/");
    assert!(memory.objects().values().any(keeps), "what was forced away has a ref");
    let error = collect_remote(&Database::memory().unwrap(), &remote, NOW).await.unwrap_err();
    assert!(matches!(error, Error::NotFetched { .. }), "{error}");
    collect_remote(&a.db, &remote, NOW).await.unwrap();
    let done = compact_remote(&remote, NOW).await.unwrap();
    assert_eq!((done.packs, done.retired), (1, 0), "{done:?}");
    let stored: usize = packs(&memory).iter().map(|key| memory.objects()[key].len()).sum();
    assert!(stored < 2000, "{stored} bytes");
    let c = Copy::cloned(&remote).await;
    assert_eq!((c.head("main"), c.db.store().contains(&lost)), (Some(head), false));
    // Who had what is gone goes on, and so does who has it not.
    assert_eq!(b.fetch().await.refs[0].status, RefStatus::Forced);
    c.put(2, "more");
    c.push().await;
    a.pull().await;
    b.fetch().await;
    assert_eq!((a.head("main"), b.db.get_ref("remotes/origin/main")), (c.head("main"), c.head("main")));
    [a, b, c].iter().for_each(|copy| check_whole(&copy.db));
}

#[tokio::test]
async fn packs_of_a_push_that_was_cut_are_noted_then_removed_and_can_be_pushed_again() {
    let memory = Memory::new();
    let remote = in_memory(&memory);
    let a = Copy::new(&remote);
    a.put(0, "base");
    a.push().await;
    a.put_rows("main", noise(0, 100));
    a.push().await;
    // Its manifest was never put.
    let objects = memory.objects();
    let head = objects.keys().find(|key| key.starts_with("manifest/")).unwrap().clone();
    memory.set(objects.into_iter().filter(|(key, _)| *key != head).collect());
    assert_eq!(packs(&memory).len(), 1);
    let done = compact_remote(&remote, NOW).await.unwrap();
    assert_eq!((done.retired, done.removed), (1, 0), "{done:?}");
    let again = a.push().await;
    assert_eq!(again.refs[0].status, RefStatus::Updated);
    let done = compact_remote(&remote, NOW).await.unwrap();
    assert_eq!(
        (done.packs, done.removed),
        (1, 1),
        "the one that was noted, not the one that was pushed again: {done:?}"
    );
    let b = Copy::cloned(&remote).await;
    assert_eq!(b.db.root().unwrap(), a.db.root().unwrap());
}

#[tokio::test]
async fn a_push_that_a_collection_overtakes_writes_what_it_lacks_now() {
    let memory = Memory::new();
    let remote = in_memory(&memory);
    let a = Copy::new(&remote);
    let first = a.put(0, "base");
    a.push().await;
    a.db.create_branch("side", Some(first)).unwrap();
    let side = a.put_rows("side", noise(0, 100));
    a.push_ref("heads/side", Some(side), Force::No).await;
    let b = Copy::cloned(&remote).await;
    // What is pushed builds on the branch that goes meanwhile, with all that only it reached.
    b.db.create_branch("more", Some(side)).unwrap();
    let more = b.put_rows("more", noise(100, 100));
    let pause = memory.pause();
    let overtaken = async {
        pause[0].notified().await;
        assert_eq!(packs(&memory).len(), 2, "of the branch, and of the push that waits");
        a.push_ref("heads/side", None, Force::No).await;
        collect_remote(&a.db, &remote, NOW).await.unwrap();
        compact_remote(&remote, NOW).await.unwrap();
        assert_eq!(packs(&memory).len(), 1, "of what is left");
        pause[1].notify_one();
    };
    let (pushed, ()) = tokio::join!(b.push_ref("heads/more", Some(more), Force::No), overtaken);
    assert_eq!(pushed.refs[0].status, RefStatus::New);
    let c = Copy::cloned(&remote).await;
    assert_eq!(c.db.get_ref("remotes/origin/more"), Some(more));
    check_whole(&c.db);
}

#[tokio::test]
async fn a_large_push_that_is_overtaken_by_small_ones_is_not_written_again() {
    let (memory, remote, a, b) = two_copies().await;
    b.db.create_branch("large", b.head("main")).unwrap();
    let large = b.put_rows("large", noise(0, 200));
    memory.calls();
    let pause = memory.pause();
    let overtaken = async {
        pause[0].notified().await;
        a.put(1, "small");
        a.push().await;
        let between = Copy::cloned(&remote).await;
        pause[1].notify_one();
        between
    };
    let (pushed, between) = tokio::join!(b.push_ref("heads/large", Some(large), Force::No), overtaken);
    assert_eq!(pushed.refs[0].status, RefStatus::New);
    assert_eq!(memory.calls().iter().filter(|call| *call == "put pack").count(), 1);
    let c = Copy::cloned(&remote).await;
    assert_eq!((c.head("main"), c.db.get_ref("remotes/origin/large")), (a.head("main"), Some(large)));
    check_whole(&c.db);
    // Who stood before it, and comes so late that only what the head lists is read, gets it too, and by one look.
    for number in 0..300 {
        a.put(number, "later");
        a.push().await;
    }
    let fetched = between.fetch().await;
    assert_eq!(between.db.get_ref("remotes/origin/large"), Some(large));
    assert_eq!(fetched.round_trips, 3, "{fetched:?}");
    check_whole(&between.db);
}

#[tokio::test]
async fn old_manifests_become_tombstones_and_their_numbers_stay_taken() {
    let memory = Memory::new();
    let remote = in_memory(&memory);
    let a = Copy::new(&remote);
    let head = a.put(0, "base");
    a.push().await;
    let b = Copy::cloned(&remote).await;
    for number in 0..700 {
        a.push_ref(&format!("tags/t{}", number % 40), Some(head).filter(|_| number / 40 % 2 == 0), Force::No)
            .await;
    }
    let manifests: Vec<_> =
        memory.objects().into_iter().filter(|(key, _)| key.starts_with("manifest/")).collect();
    let tombstones = manifests.iter().filter(|(_, object)| object.len() < 52).count();
    assert_eq!((manifests.len(), tombstones), (701, 128), "those before the last 512, at the last 64th");
    b.fetch().await;
    assert_eq!(b.db.refs("tags/").len(), a.db.refs("tags/").len().max(20));
    let c = Copy::cloned(&remote).await;
    assert_eq!(c.db.refs("tags/"), b.db.refs("tags/"));
    // Nothing to merge is nothing to do.
    let done = compact_remote(&remote, NOW).await.unwrap();
    assert_eq!(done, Compacted { packs: 1, ..Compacted::default() });
}

#[tokio::test]
async fn a_server_has_no_packs_to_merge() {
    let dir = TempDir::new().unwrap();
    let databases = Databases::new(dir.path(), Options::default()).unwrap();
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = RemoteUrl::parse(&format!("http://{}/shop", incoming.local_addr().unwrap())).unwrap();
    let service = SyncService::new(databases).into_server();
    tokio::spawn(transport().add_service(service).serve_with_incoming(incoming));
    let error = compact_remote(&Remote::connect(&url).await.unwrap(), NOW).await.unwrap_err();
    assert!(matches!(error, Error::NoUpkeep { .. }), "{error}");
}
