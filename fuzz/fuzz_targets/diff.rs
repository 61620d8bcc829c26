//! What differs between two maps, one of which was made of the other by edits: all of it, counted, in parts, and from any key on, both ways, against maps
//! in memory.
//!
//! Input: the rows; the edits (see `content`); `u8` number of parts; the rest, `u16` each, where the difference is taken up again.

#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use pleach_engine::{Change, TableDiff};

mod content;

use content::{Bytes, Rows};

fuzz_target!(|input: &[u8]| {
    let mut bytes = Bytes(input);
    let old = bytes.rows();
    let edits = bytes.edits();
    let new = content::edited(&old, &edits);
    let database = content::database(&old);
    let from = content::table(&database, "main");
    content::write(&database, "main", |transaction| {
        edits.iter().for_each(|edit| edit.write(transaction));
    });
    let to = content::table(&database, "main");
    content::check(&to, &new);
    let diff = |from, to| TableDiff { table: content::TABLE.into(), from: Some(from), to: Some(to) };
    check(&diff(from.clone(), to.clone()), &changes(&old, &new), Bytes(bytes.0));
    check(&diff(to, from), &changes(&new, &old), bytes);
});

fn changes(old: &Rows, new: &Rows) -> Vec<Change> {
    let keys: BTreeSet<&Vec<u8>> = old.keys().chain(new.keys()).collect();
    let change =
        |key: &Vec<u8>| Change { key: key.clone(), old: old.get(key).cloned(), new: new.get(key).cloned() };
    keys.into_iter().map(change).filter(|change| change.old != change.new).collect()
}

fn check(diff: &TableDiff, expected: &[Change], mut bytes: Bytes<'_>) {
    let found = diff.changes().expect("reads").map(|change| change.expect("reads"));
    assert!(found.eq(expected.iter().cloned()));
    let stat = diff.stat().expect("reads");
    let count = |is: fn(&Change) -> bool| expected.iter().filter(|change| is(change)).count() as u64;
    assert_eq!(stat.inserted, count(|change| change.old.is_none()));
    assert_eq!(stat.deleted, count(|change| change.new.is_none()));
    assert_eq!(stat.inserted + stat.deleted + stat.updated, expected.len() as u64);
    let parts = diff.split(usize::from(bytes.byte() % 16)).expect("reads").into_iter().flatten();
    assert!(parts.map(|change| change.expect("reads")).eq(expected.iter().cloned()));
    for place in bytes.0.chunks(2).take(16) {
        let rest = diff.changes_after(place).expect("reads").map(|change| change.expect("reads"));
        let first = expected.partition_point(|change| change.key.as_slice() <= place);
        assert!(rest.eq(expected[first..].iter().cloned()), "after {place:?}");
    }
}
