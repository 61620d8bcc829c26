//! What an embedder does every day: put chunks, move refs, close, open, read.

use std::path::Path;

use pleach_chunkstore::{Batch, Chunk, Error, Hash, Options, Outcome, RefUpdate, Store, Ticket};

pub(crate) fn leaf(text: &str) -> Chunk {
    Chunk::build(1, 0, text.as_bytes(), None, &[], 0)
}

pub(crate) fn update(name: &str, old: Option<Hash>, new: Option<Hash>) -> RefUpdate {
    RefUpdate { name: name.into(), old, new }
}

pub(crate) fn append(store: &Store, chunks: &[(Chunk, Option<Hash>)], updates: &[RefUpdate]) -> Ticket {
    let mut batch = Batch::default();
    chunks.iter().for_each(|(chunk, base)| batch.put(chunk.clone(), *base));
    match store.append(batch, updates).unwrap() {
        Outcome::Appended(ticket) => ticket,
        Outcome::Moved { name, .. } => panic!("{name} moved"),
    }
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_was_appended_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("a/b");
    let store = Store::create(&at, Options::default()).unwrap();
    let (one, two) = (leaf("one"), leaf("two"));
    append(&store, &[(one.clone(), None)], &[update("heads/main", None, Some(*one.hash()))]).wait().unwrap();
    assert_eq!((store.get_ref("heads/main"), store.sequence()), (Some(*one.hash()), 1));
    append(&store, &[(two.clone(), None)], &[]).wait().unwrap();
    assert_eq!(store.sequence(), 1);
    store.close().unwrap();
    assert_eq!(files(&at), ["LOCK", "journal-00000001", "manifest", "watermark"]);

    let store = Store::open(&at, Options::default()).unwrap();
    assert_eq!(store.stats().fsyncs, 0, "a clean close leaves nothing to recover");
    for chunk in [&one, &two] {
        assert_eq!(store.get(chunk.hash()).unwrap().unwrap().bytes(), chunk.bytes());
    }
    assert_eq!(store.get(&Hash::of(b"absent")).unwrap(), None);
    assert_eq!(store.refs("heads/"), [("heads/main".to_owned(), *one.hash())]);
    assert_eq!(store.refs("tags/"), []);
}

#[test]
fn numbers_of_changes_can_leave_some_out_and_never_go_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), Options::default()).unwrap();
    let leaves: Vec<_> = (0..4).map(|n| leaf(&n.to_string())).collect();
    let step = |store: &Store, n: usize| {
        let old = n.checked_sub(1).map(|before| *leaves[before].hash());
        let update = update("a", old, Some(*leaves[n].hash()));
        append(store, &[(leaves[n].clone(), None)], &[update]).wait().unwrap();
        store.sequence()
    };
    assert_eq!(step(&store, 0), 1);
    store.raise_sequence(1000);
    assert_eq!(step(&store, 1), 1000);
    store.raise_sequence(5);
    assert_eq!(step(&store, 2), 1001);
    store.close().unwrap();
    let store = Store::open(dir.path(), Options::default()).unwrap();
    assert_eq!(store.sequence(), 1001);
    assert_eq!(step(&store, 3), 1002);
}

#[test]
fn a_moved_ref_refuses_the_whole_append() {
    let store = Store::memory(Options::default());
    let (one, two) = (leaf("one"), leaf("two"));
    append(&store, &[(one.clone(), None)], &[update("a", None, Some(*one.hash()))]).wait().unwrap();
    let mut batch = Batch::default();
    batch.put(two.clone(), None);
    let updates = [update("b", None, Some(*two.hash())), update("a", None, Some(*two.hash()))];
    match store.append(batch, &updates).unwrap() {
        Outcome::Moved { name, expected, found } => {
            assert_eq!((name.as_str(), expected, found), ("a", None, Some(*one.hash())));
        }
        Outcome::Appended(_) => panic!("appended"),
    }
    assert_eq!((store.contains(two.hash()), store.appended_ref("b")), (false, None));
}

#[test]
fn refs_show_to_readers_when_durable_and_to_the_appender_at_once() {
    let store = Store::memory(Options::default());
    let one = leaf("one");
    let ticket = append(&store, &[(one.clone(), None)], &[update("a", None, Some(*one.hash()))]);
    assert_eq!((store.get_ref("a"), store.appended_ref("a")), (None, Some(*one.hash())));
    assert!(store.get(one.hash()).unwrap().is_some());
    ticket.wait().unwrap();
    assert_eq!((store.get_ref("a"), store.sequence()), (Some(*one.hash()), ticket.sequence()));
}

#[test]
fn a_second_writer_is_told_who_holds_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), Options::default()).unwrap();
    match Store::open(dir.path(), Options::default()) {
        Err(Error::Locked { pid, .. }) => assert_eq!(pid, std::process::id().to_string()),
        other => panic!("{:?}", other.err()),
    }
    assert!(matches!(Store::create(dir.path(), Options::default()), Err(Error::Locked { .. })));
    drop(store);
    assert!(matches!(Store::create(dir.path(), Options::default()), Err(Error::AlreadyExists { .. })));
    Store::open(dir.path(), Options::default()).unwrap();
}

#[test]
fn a_directory_without_a_store_is_not_found_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Store::open(dir.path(), Options::default()), Err(Error::NotFound { .. })));
    assert!(matches!(Store::open(&dir.path().join("none"), Options::default()), Err(Error::NotFound { .. })));
    assert!(files(dir.path()).is_empty());
}

#[test]
fn an_update_of_an_unchanged_ref_only_checks() {
    let store = Store::memory(Options::default());
    let one = leaf("one");
    let _ = append(&store, &[(one.clone(), None)], &[update("a", None, Some(*one.hash()))]);
    let written = store.stats().bytes_written;
    let same = [update("a", Some(*one.hash()), Some(*one.hash())), update("b", None, None)];
    append(&store, &[(one, None)], &same).wait().unwrap();
    assert_eq!(store.sequence(), 1);
    assert_eq!(store.stats().bytes_written - written, 56, "nothing but the watermark");
}
