//! A call fails, or its answer is lost, at every place: nothing is lost, nothing is there twice, and doing it again helps.

use std::collections::BTreeMap;

use bytes::Bytes;
use pleach_engine::{Batch, Outcome, RefUpdate};

use pleach_protocol::collect_remote;

use super::*;

/// Manifests and packs at a remote.
fn counts(memory: &Memory) -> (usize, usize) {
    let objects = memory.objects();
    let count = |prefix: &str| objects.keys().filter(|key| key.starts_with(prefix)).count();
    (count("manifest/"), count("pack/"))
}

fn noise(i: u64) -> String {
    (0..20u64).map(|j| Hash::of(&(i * 31 + j).to_le_bytes()).to_string()).collect()
}

/// What a remote has after some pushes of one row.
async fn after_pushes(pushes: u64) -> BTreeMap<String, Bytes> {
    let memory = Memory::new();
    let a = Copy::new(&in_memory(&memory));
    for number in 0..pushes {
        a.put(number, "before");
        a.push().await;
    }
    memory.objects()
}

/// Pushes `rows` rows to what has `before`, with the `n`-th call going wrong in the way of `fault`, then again. Gives whether a call went
/// wrong.
async fn cut_push(before: &BTreeMap<String, Bytes>, rows: u64, n: usize, fault: Fault) -> bool {
    let memory = Memory::new();
    memory.set(before.clone());
    let remote = in_memory(&memory);
    let a = if before.is_empty() { Copy::new(&remote) } else { Copy::cloned(&remote).await };
    let (old, (manifests, _)) = (a.head("main"), counts(&memory));
    let head = a.put_rows("main", (0..rows).map(|i| (i, noise(i))));
    memory.fail(n, fault);
    let cut = a.try_push(Force::No).await;
    let failed = memory.failed();
    // Whoever looks now finds what was before, or what was pushed, and all of it.
    let reader = Copy::new(&remote);
    match reader.try_fetch().await {
        Ok(_) => {
            let found = reader.db.get_ref("remotes/origin/main");
            assert!(found == old || found == Some(head), "{found:?}");
            check_whole(&reader.db);
        }
        Err(error) => assert!(old.is_none() && matches!(error, Error::NothingThere { .. }), "{error}"),
    }
    let again = a.push().await;
    if let Ok(cut) = cut {
        assert!(matches!(cut.refs[0].status, RefStatus::New | RefStatus::Updated), "fault at {n}: {cut:?}");
        assert_eq!(again.refs[0].status, RefStatus::Unchanged, "fault at {n}");
    }
    assert_eq!(counts(&memory).0, manifests + 1, "fault at {n}: {:?}", memory.objects().keys());
    reader.pull().await;
    assert_eq!(reader.db.root().unwrap(), a.db.root().unwrap());
    check_whole(&reader.db);
    // And from there on as ever.
    reader.put(1, "after");
    reader.push().await;
    a.pull().await;
    assert_eq!(reader.db.root().unwrap(), a.db.root().unwrap());
    failed
}

#[tokio::test]
async fn a_push_that_is_cut_at_any_call_is_done_or_not_and_can_be_repeated() {
    // The last is the 64th, which merges what was pushed before.
    for (pushes, rows) in [(0, 2), (0, 300), (2, 2), (2, 300), (64, 2)] {
        let before = after_pushes(pushes).await;
        for fault in [Fault::Refused, Fault::AnswerLost] {
            let mut n = 0;
            while cut_push(&before, rows, n, fault).await {
                // Of the manifests that are read at once, one is like another.
                n = if pushes == 64 && n == 5 { 63 } else { n + 1 };
            }
            assert!(n >= 3, "calls of a push: {n}");
        }
    }
}

#[tokio::test]
async fn a_fetch_that_is_cut_at_any_call_moves_nothing_and_can_be_repeated() {
    for fault in [Fault::Refused, Fault::AnswerLost] {
        let mut n = 0;
        loop {
            let memory = Memory::new();
            let remote = in_memory(&memory);
            let a = Copy::new(&remote);
            a.put(1, "one");
            a.push().await;
            let b = Copy::cloned(&remote).await;
            a.put_rows("main", (0..300).map(|i| (i, noise(i))));
            a.push().await;
            a.put(1, "three");
            let head = a.put(2, "four");
            a.push().await;
            let before = b.db.refs("");
            memory.fail(n, fault);
            let cut = b.try_fetch().await;
            let failed = memory.failed();
            assert_eq!(cut.is_err(), failed);
            if failed {
                assert_eq!(b.db.refs(""), before, "cut at {n}");
            }
            b.fetch().await;
            assert_eq!(b.tracking(), [("remotes/origin/main".to_owned(), head)]);
            check_whole(&b.db);
            if !failed {
                break;
            }
            n += 1;
        }
        assert_eq!(n, 5, "the format, a list, two manifests, a pack");
    }
}

#[tokio::test]
async fn what_a_database_remembers_of_a_remote_decides_nothing() {
    let memory = Memory::new();
    let remote = in_memory(&memory);
    let a = Copy::new(&remote);
    for number in 0..70 {
        a.put(number, "x");
        a.push().await;
    }
    let b = Copy::cloned(&remote).await;
    let position = b.db.setting("remote.origin.position").unwrap().unwrap();
    a.put(1, "more");
    a.push().await;
    let words: Vec<&str> = position.split(' ').collect();
    let wrong = [
        None,
        Some("no position".to_owned()),
        Some(format!("{} 3 {} {}", words[0], words[2], words[3])),
        Some(format!("{} 9999 {} {}", words[0], words[2], words[3])),
        Some(format!("{} 69 {} {}", words[0], words[3], words[3])),
        Some(format!("{} 69 {} {}", "0".repeat(32), words[2], words[3])),
        Some(format!("{} 69 {} {}", words[0], words[2], words[2])),
    ];
    for (number, text) in wrong.into_iter().enumerate() {
        let head = a.put(2, &number.to_string());
        a.push().await;
        b.db.set_setting("remote.origin.position", text.as_deref()).unwrap();
        let fetched = b.fetch().await;
        assert_eq!(b.tracking(), [("remotes/origin/main".to_owned(), head)], "{text:?}");
        assert!(fetched.chunks < 40, "only what is new since what is here: {text:?} {fetched:?}");
        check_whole(&b.db);
    }
    // The same URL, and another remote.
    let other = Memory::new();
    let c = Copy::new(&in_memory(&other));
    for number in 0..100 {
        c.put(number, "y");
        c.push().await;
    }
    memory.set(other.objects());
    assert_eq!(b.fetch().await.refs[0].status, RefStatus::Forced);
    assert_eq!(b.db.get_ref("remotes/origin/main"), c.head("main"));
    // One that was set back, and went on otherwise.
    let objects = memory.objects();
    c.put(1, "lost");
    c.push().await;
    memory.set(other.objects());
    b.fetch().await;
    memory.set(objects);
    let d = Copy::cloned(&remote).await;
    d.put(1, "instead");
    d.push().await;
    let head = d.put(2, "instead");
    d.push().await;
    let fetched = b.fetch().await;
    assert_eq!(
        fetched.round_trips, 3,
        "a list, the manifest that does not follow, those that do: {fetched:?}"
    );
    assert_eq!(b.db.get_ref("remotes/origin/main"), Some(head));
    // The refs that go with the position are gone.
    let seen = b.db.refs("seen/origin/");
    assert_eq!(seen.len(), 1);
    let moves: Vec<_> =
        seen.into_iter().map(|(name, old)| RefUpdate { name, old: Some(old), new: None }).collect();
    assert!(matches!(b.db.update_refs(Batch::default(), &moves).unwrap(), Outcome::Appended(_)));
    b.fetch().await;
    assert_eq!(b.db.get_ref("remotes/origin/main"), Some(head), "it is not taken for deleted");
    check_whole(&b.db);
}

#[tokio::test]
async fn a_place_whose_second_put_is_not_refused_is_no_remote() {
    let careless = Memory::careless();
    let a = Copy::new(&in_memory(&careless));
    a.put(1, "x");
    let error = a.try_push(Force::No).await.unwrap_err();
    assert!(matches!(error, Error::NotConditional { .. }), "{error}");
    assert_eq!(careless.objects().len(), 0, "nothing is left");
}

#[tokio::test]
async fn what_is_somebody_elses_is_not_written_into() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("thesis.txt"), b"mine").unwrap();
    let url = RemoteUrl::parse(&format!("file://{}", dir.path().display())).unwrap();
    let a = Copy::new(&Remote::connect(&url).await.unwrap());
    a.put(1, "x");
    let error = a.try_push(Force::No).await.unwrap_err();
    assert!(matches!(&error, Error::NotARemote { found, .. } if found == "thesis.txt"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_manifest_of_a_remote_that_was_removed_hides_none_of_the_one_begun_again() {
    // What sorts first is another one each time.
    for _ in 0..6 {
        let (memory, remote, a, b) = two_copies().await;
        a.put(1, "nobody's");
        let left = memory.objects();
        a.push().await;
        let stray = memory.objects().into_iter().filter(|(key, _)| !left.contains_key(key));
        memory.set(BTreeMap::new());
        let c = Copy::new(&remote);
        let head = c.put(0, "begun again");
        c.push().await;
        memory.set(memory.objects().into_iter().chain(stray).collect());
        // Who was before, with it and beside it; who was never there; and who writes.
        for reader in [&a, &b, &Copy::new(&remote)] {
            reader.fetch().await;
            assert_eq!(reader.tracking(), [("remotes/origin/main".to_owned(), head)]);
        }
        let head = c.put(1, "goes on");
        assert_eq!(c.push().await.refs[0].status, RefStatus::Updated);
        assert!(a.try_push(Force::No).await.unwrap().is_rejected());
        b.fetch().await;
        assert_eq!(b.tracking(), [("remotes/origin/main".to_owned(), head)]);
        check_whole(&b.db);
    }
}

#[tokio::test]
async fn a_manifest_without_a_format_is_damage_and_nothing_is_begun_beside_it() {
    let (memory, remote, a, b) = two_copies().await;
    let mut objects = memory.objects();
    objects.remove("format");
    memory.set(objects.clone());
    a.put(1, "more");
    for error in [b.try_fetch().await.unwrap_err(), a.try_push(Force::No).await.unwrap_err()] {
        assert!(matches!(&error, Error::DamagedRemote { key, .. } if key == "format"), "{error}");
    }
    let error = Copy::new(&remote).try_fetch().await.unwrap_err();
    assert!(matches!(&error, Error::DamagedRemote { key, .. } if key == "format"), "{error}");
    assert_eq!(memory.objects(), objects);
}

/// A remote of six packs, and the calls that read packs when all of it is fetched, up to the `n`-th, which fails.
async fn cut_clone(n: usize) -> (Arc<Memory>, Copy, Copy) {
    let memory = Memory::new();
    let remote = in_memory(&memory);
    let a = Copy::new(&remote);
    for part in 0..6 {
        a.put_rows("main", (part * 150..part * 150 + 150).map(|i| (i, noise(i))));
        a.push().await;
    }
    let b = Copy::new(&remote);
    // The format, a list and six manifests come before.
    memory.fail(8 + n, Fault::Refused);
    b.try_fetch().await.unwrap_err();
    assert!(memory.failed());
    assert_eq!(b.tracking(), []);
    memory.calls();
    (memory, a, b)
}

fn packs_read(memory: &Memory) -> usize {
    memory.calls().iter().filter(|call| *call == "get pack").count()
}

#[tokio::test]
async fn a_fetch_that_was_cut_goes_on_after_the_packs_that_it_stored() {
    for n in 0..6 {
        let (memory, a, b) = cut_clone(n).await;
        let fetched = b.fetch().await;
        assert_eq!(packs_read(&memory), 6 - n, "{fetched:?}");
        assert_eq!(b.tracking(), a.tracking());
        check_whole(&b.db);
        assert_eq!(b.db.setting("fetching.origin").unwrap(), None);
    }
}

#[tokio::test]
async fn a_fetch_that_goes_on_reads_all_of_it_if_what_was_stored_is_gone_or_the_packs_are_others() {
    let (memory, a, b) = cut_clone(4).await;
    assert!(b.db.store().collect(false).unwrap().dead_chunks > 10);
    b.fetch().await;
    assert!(packs_read(&memory) >= 6);
    assert_eq!(b.tracking(), a.tracking());
    check_whole(&b.db);
    let (_, a, b) = cut_clone(4).await;
    collect_remote(&a.db, &a.remote, std::time::Duration::ZERO).await.unwrap();
    a.put(1, "more");
    a.push().await;
    b.fetch().await;
    assert_eq!(b.tracking(), a.tracking());
    check_whole(&b.db);
    for text in ["nonsense", "pack/1"] {
        let (_, a, b) = cut_clone(2).await;
        b.db.set_setting("fetching.origin", Some(text)).unwrap();
        b.fetch().await;
        assert_eq!(b.tracking(), a.tracking());
        check_whole(&b.db);
    }
}

#[tokio::test]
async fn a_clone_that_was_cut_stays_and_goes_on_if_it_stored_something() {
    for n in [0, 3] {
        let (memory, a, _) = cut_clone(5).await;
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("c");
        memory.fail(8 + n, Fault::Refused);
        assert!(clone_database(&a.remote, &path, Options::default(), &Part::default()).await.is_err());
        assert_eq!((memory.failed(), path.exists()), (true, n > 0));
        memory.calls();
        let (db, _) = clone_database(&a.remote, &path, Options::default(), &Part::default()).await.unwrap();
        assert_eq!(packs_read(&memory), 6 - n);
        assert_eq!(db.branch("main").unwrap().unwrap().head, a.head("main"));
        check_whole(&db);
    }
}
