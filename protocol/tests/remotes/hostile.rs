//! Whatever lies at a remote, a database takes nothing wrong from it: an error that names the object, and no ref moved.

use super::*;

fn noise(i: u64) -> String {
    (0..20u64).map(|j| Hash::of(&(i * 31 + j).to_le_bytes()).to_string()).collect()
}

/// A remote with manifests, inline packs and packs of their own, and a database that has the first two.
async fn remote() -> (Arc<Memory>, Copy, Copy) {
    let memory = Memory::new();
    let remote = in_memory(&memory);
    let a = Copy::new(&remote);
    a.put(1, "one");
    a.push().await;
    a.put(1, "two");
    a.push().await;
    let b = Copy::cloned(&remote).await;
    a.put_rows("main", (0..200).map(|i| (i, noise(i))));
    a.push().await;
    a.put(1, "three");
    a.push().await;
    (memory, a, b)
}

/// Places of an object where something is changed: each of the first and the last, and some between.
fn places(len: usize) -> impl Iterator<Item = usize> {
    (0..len).filter(move |at| *at < 60 || *at + 60 > len || at % 997 == 0)
}

/// What an object may be instead: gone, with a bit changed here and there, cut, longer.
fn others(object: &[u8]) -> Vec<Option<Vec<u8>>> {
    let flipped = places(object.len()).map(|at| {
        let mut other = object.to_vec();
        other[at] ^= 0x20;
        Some(other)
    });
    let mut others: Vec<_> = flipped.collect();
    others.extend([None, Some(object[..object.len() / 2].to_vec()), Some([object, b"more"].concat())]);
    others
}

#[tokio::test]
async fn a_changed_cut_or_missing_object_is_named_and_moves_nothing() {
    let (memory, _, b) = remote().await;
    let objects = memory.objects();
    let mut read = 0;
    for (key, object) in &objects {
        for other in others(object) {
            let mut now = objects.clone();
            match other {
                Some(other) => drop(now.insert(key.clone(), other.into())),
                None => drop(now.remove(key)),
            }
            memory.set(now);
            // The first manifests are of no interest to who has gone beyond.
            let beyond = key.ends_with("/615") || key.ends_with("/614");
            for db in [Database::memory().unwrap(), b.db.clone()] {
                let reader = Copy { db, remote: b.remote.clone() };
                let known = reader.db.refs("");
                let head_is_gone = key.ends_with("/612") && !memory.objects().contains_key(key);
                if (beyond && !known.is_empty() && reader.db.get_ref("remotes/origin/main").is_some())
                    || head_is_gone
                {
                    continue;
                }
                match reader.try_fetch().await {
                    Err(Error::DamagedRemote { key: named, .. }) => assert_eq!(&named, key),
                    Err(Error::OtherFormat { .. }) if key == "format" => {}
                    other => panic!("{key}: {other:?}"),
                }
                assert_eq!(reader.db.refs(""), known, "{key}");
                read += 1;
            }
        }
    }
    assert!(read > 1000, "{read}");
    memory.set(objects);
    b.fetch().await;
    check_whole(&b.db);
}

#[tokio::test]
async fn a_manifest_that_was_changed_and_sealed_again_gives_an_error_or_what_was_pushed() {
    let (memory, a, b) = remote().await;
    let objects = memory.objects();
    let (key, object) = objects.iter().find(|(key, _)| key.starts_with("manifest/")).unwrap();
    let body = object.len() - Hash::LEN;
    let mut refused = 0;
    for at in 8..body {
        for bit in [0x01, 0x80] {
            let mut other = object[..body].to_vec();
            other[at] ^= bit;
            other.extend_from_slice(Hash::of(&other.clone()).as_bytes());
            memory.set(
                objects
                    .iter()
                    .map(|(key, object)| (key.clone(), object.clone()))
                    .chain([(key.clone(), other.into())])
                    .collect(),
            );
            let fresh = Copy::new(&b.remote);
            let known = fresh.db.refs("");
            match fresh.try_fetch().await {
                Ok(_) => assert_eq!(fresh.db.get_ref("remotes/origin/main"), a.head("main"), "byte {at}"),
                Err(error) => {
                    let kind = error.kind();
                    assert_eq!(kind, pleach_protocol::ErrorKind::Peer, "byte {at}: {error}");
                    assert_eq!(fresh.db.refs(""), known, "byte {at}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > body, "{refused} of {}", 2 * body);
}

#[tokio::test]
async fn a_manifest_of_another_history_is_found_by_the_one_after_it() {
    let (memory, _, _) = remote().await;
    let (other, _, _) = remote().await;
    let (mut objects, others) = (memory.objects(), other.objects());
    let key = |objects: &std::collections::BTreeMap<String, bytes::Bytes>, end: &str| {
        objects.keys().find(|key| key.ends_with(end)).unwrap().clone()
    };
    let second = key(&objects, "/614");
    objects.insert(second, others[&key(&others, "/614")].clone());
    let after = key(&objects, "/614");
    memory.set(objects);
    let error = Copy::new(&in_memory(&memory)).try_fetch().await.unwrap_err();
    let Error::DamagedRemote { key, what, .. } = error else { panic!("{error}") };
    assert!(key == after && what.contains("follow"), "{key}: {what}");
}

#[tokio::test]
async fn another_version_is_refused_by_who_reads_and_by_who_writes() {
    let memory = Memory::new();
    memory.set([("format".to_owned(), "pleach remote 3\nx\n".into())].into());
    let a = Copy::new(&in_memory(&memory));
    a.put(1, "x");
    for error in [a.try_fetch().await.unwrap_err(), a.try_push(Force::No).await.unwrap_err()] {
        assert!(matches!(error, Error::OtherFormat { .. }), "{error}");
    }
    assert_eq!(memory.objects().len(), 1);
}
