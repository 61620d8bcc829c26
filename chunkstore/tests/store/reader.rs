//! Stores that only read, beside the one that writes.

use std::sync::Arc;
use std::thread;

use pleach_chunkstore::io::memory::Memory;
use pleach_chunkstore::{Batch, Compression, Error, Hash, Store};

use crate::basics::append;
use crate::upkeep::{check, commit, node, options, rows};

#[test]
fn a_reader_shows_what_is_durable_and_follows_the_writer() {
    let disk = Memory::default();
    let store = Store::create_with_io(Arc::new(disk.clone()), options(Compression::Fast)).unwrap();
    let open = || Store::open_to_read_with_io(Arc::new(disk.clone()), options(Compression::Fast)).unwrap();
    let empty = open();
    assert!(!empty.refresh().unwrap());
    let reader = open();
    for number in 0..60 {
        let leaf = rows(number % 5, number);
        let root = node(&[leaf.clone()]);
        commit(&store, "main", &[(leaf, None), (root.clone(), None)]);
        assert!(reader.refresh().unwrap());
        assert_eq!((reader.get_ref("main"), reader.sequence()), (Some(*root.hash()), number as u64 + 1));
        check(&reader);
        assert!(!reader.refresh().unwrap(), "nothing has happened since");
        match number % 10 {
            4 => drop(store.compact().unwrap()),
            7 => drop(store.maintain().unwrap()),
            9 => drop(store.collect(false).unwrap()),
            _ => continue,
        }
        check(&reader);
        reader.refresh().unwrap();
        check(&reader);
    }
    assert_eq!(empty.get_ref("main"), None, "who does not refresh sees what was");
    let before = disk.files();
    let late = open();
    assert_eq!(late.refs(""), store.refs(""));
    assert_eq!(check(&late), check(&store));
    assert!(matches!(late.append(Batch::default(), &[]), Err(Error::ReadOnly)));
    assert!(matches!(late.compact(), Err(Error::ReadOnly)));
    assert!(matches!(late.collect(false), Err(Error::ReadOnly)));
    late.close().unwrap();
    drop(reader);
    assert_eq!(disk.files(), before, "reading changes nothing");
}

#[test]
fn a_reader_does_not_see_what_is_appended_and_not_durable() {
    let disk = Memory::simulated();
    let store = Store::create_with_io(Arc::new(disk.clone()), options(Compression::Fast)).unwrap();
    let (one, two) = (rows(1, 1), rows(2, 2));
    commit(&store, "main", &[(one.clone(), None)]);
    let _unsynced =
        append(&store, &[(two.clone(), None)], &[crate::basics::update("two", None, Some(*two.hash()))]);
    let reader = Store::open_to_read_with_io(Arc::new(disk), options(Compression::Fast)).unwrap();
    assert_eq!((reader.get_ref("main"), reader.get_ref("two")), (Some(*one.hash()), None));
    assert!(!reader.contains(two.hash()));
}

#[test]
fn readers_open_and_follow_while_the_writer_compacts_and_collects() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), options(Compression::Fast)).unwrap();
    commit(&store, "main", &[(rows(0, 0), None)]);
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut before: Option<Hash> = None;
            for turn in 0..300_usize {
                let leaf = rows(turn % 3, turn);
                let hash = *leaf.hash();
                commit(&store, "main", &[(leaf, before)]);
                before = Some(hash);
                match turn % 7 {
                    3 => drop(store.compact().unwrap()),
                    5 => drop(store.collect(false).unwrap()),
                    _ => {}
                }
            }
        });
        let mut seen = 0;
        while !writing.is_finished() {
            let reader = Store::open_to_read(dir.path(), options(Compression::Fast)).unwrap();
            for _ in 0..5 {
                check(&reader);
                reader.refresh().unwrap();
                assert!(reader.sequence() >= seen);
                seen = reader.sequence();
            }
        }
    });
}
