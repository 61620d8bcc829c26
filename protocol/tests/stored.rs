//! Leaves travel as the store has them: not looked into, and the same for who receives them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use bytes::Bytes;
use pleach_engine::{Database, Extent, Hash, NewCommit, Options, TransactionOutcome, difference};
use pleach_protocol::{Error, Receiver, Sender};
use tempfile::TempDir;

const ROWS: u64 = 20_000;
const ROW_BYTES: u64 = 8 + 56;

fn mixed(i: u64) -> u64 {
    i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

fn noise(i: u64, words: u64) -> Vec<u8> {
    (0..words).flat_map(|word| mixed(i ^ mixed(word)).to_le_bytes()).collect()
}

/// A compacted store, opened anew, with rows that compress, others that do not, and values out of line.
fn compacted(dir: &Path) -> (Database, Hash, Extent) {
    let db = Database::init(dir, Options::default()).unwrap();
    let mut transaction = db.begin("main").unwrap();
    for table in ["text", "noise", "blobs"] {
        transaction.create_table(table, None).unwrap();
    }
    for i in 0..ROWS {
        let text = format!("customer {:08} of the shop {:08}, row {i:012}", mixed(i) % 1_000, mixed(i) % 7);
        transaction.put("text", &i.to_be_bytes(), &text.into_bytes()[..56]).unwrap();
        transaction.put("noise", &i.to_be_bytes(), &noise(i, 7)).unwrap();
    }
    for i in 0..5 {
        transaction.put("blobs", &u64::to_be_bytes(i), &noise(i, 25_000)).unwrap();
    }
    assert!(!matches!(transaction.commit().unwrap(), TransactionOutcome::Refused { .. }));
    let new = NewCommit { message: "m".into(), author: "a".into(), ..NewCommit::default() };
    let head = db.commit("main", new).unwrap().hash;
    db.store().compact().unwrap();
    db.close().unwrap();
    let bytes = 2 * ROWS * ROW_BYTES + 5 * (8 + 200_000);
    (Database::open(dir, Options::default()).unwrap(), head, Extent { rows: 2 * ROWS + 5, bytes })
}

/// All messages of a sender of everything, and how many chunks it read.
fn send(db: &Database, head: Hash, as_stored: bool) -> (Vec<Bytes>, u64, u64) {
    let reads = || db.store().stats().cache_misses;
    let before = reads();
    let mut sender = Sender::new(db, difference(db, &[head], &[]).unwrap()).unwrap().with_stored(as_stored);
    let mut messages = Vec::new();
    while let Some(message) = sender.next_message().unwrap() {
        messages.push(message);
    }
    (messages, sender.records(), reads() - before)
}

fn receive(db: &Database, messages: &[Bytes], records: u64, head: Hash) -> Result<Extent, Error> {
    let mut receiver = Receiver::new(db)?;
    messages.iter().try_for_each(|message| receiver.receive(message))?;
    let received = receiver.finish(records, &[head])?;
    let done = received.done;
    let _hold = received.append(db)?;
    Ok(done)
}

#[test]
fn leaves_of_a_compacted_store_are_passed_on_unread() {
    let dir = TempDir::new().unwrap();
    let (db, head, extent) = compacted(&dir.path().join("here"));
    let (as_stored, records, reads) = send(&db, head, true);
    let (encoded, encoded_records, encoded_reads) = send(&db, head, false);
    assert_eq!(records, encoded_records);
    assert!(encoded_reads > records / 2, "{encoded_reads} of {records}");
    assert!(reads * 10 < records, "{reads} of {records}");
    let len = |messages: &[Bytes]| messages.iter().map(Bytes::len).sum::<usize>();
    assert!(len(&as_stored) * 100 <= len(&encoded) * 102, "{} {}", len(&as_stored), len(&encoded));
    for (name, messages) in [("stored", &as_stored), ("encoded", &encoded)] {
        let copy = Database::init(&dir.path().join(name), Options::default()).unwrap();
        assert_eq!(receive(&copy, messages, records, head).unwrap(), extent);
        assert!(copy.store().contains(&head));
        assert_eq!(copy.fsck().unwrap().damages, []);
    }
}

#[test]
fn a_piece_goes_on_among_leaves_that_were_passed_on() {
    let dir = TempDir::new().unwrap();
    let (db, head, extent) = compacted(&dir.path().join("here"));
    let (messages, records, _) = send(&db, head, true);
    for cut in [1, messages.len() / 3, messages.len() - 1] {
        let copy = Database::init(&dir.path().join(cut.to_string()), Options::default()).unwrap();
        let mut receiver = Receiver::new(&copy).unwrap();
        messages[..cut].iter().for_each(|message| receiver.receive(message).unwrap());
        let had = receiver.done();
        let (reached, hold) = receiver.cut().unwrap();
        let place = reached.place.unwrap();
        let rest = difference(&db, &[head], &[]).unwrap().resumed(place.top, place.path);
        let mut sender = Sender::new(&db, rest).unwrap().with_stored(true);
        let mut receiver = Receiver::holding(&copy, hold).unwrap();
        let mut totals = None;
        while let Some(message) = sender.next_message().unwrap() {
            receiver.receive(&message).unwrap();
            totals = sender.totals().unwrap();
        }
        let totals = totals.unwrap();
        assert_eq!((totals.before, totals.done, totals.total), (had, extent, extent));
        assert!(sender.records() < records);
        let received = receiver.finish(sender.records(), &[head]).unwrap();
        assert_eq!(received.done + had, extent);
        let _hold = received.append(&copy).unwrap();
        assert_eq!(copy.fsck().unwrap().damages, []);
    }
}

#[test]
fn what_a_disk_has_damaged_is_found_by_who_receives_it() {
    let dir = TempDir::new().unwrap();
    let here = dir.path().join("here");
    let (db, ..) = compacted(&here);
    db.close().unwrap();
    let tables = std::fs::read_dir(&here).unwrap().map(|entry| entry.unwrap().path());
    let table = tables.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&table).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&table, bytes).unwrap();
    let db = Database::open(&here, Options::default()).unwrap();
    let head = db.branch("main").unwrap().unwrap().head.unwrap();
    let (messages, records, _) = send(&db, head, true);
    let copy = Database::init(&dir.path().join("copy"), Options::default()).unwrap();
    let error = receive(&copy, &messages, records, head).unwrap_err();
    assert!(matches!(error, Error::WrongHash { .. } | Error::Record { .. }), "{error}");
    assert!(!copy.store().contains(&head));
}
