//! Any bytes as a patch file, and as the records of one with good blocks, which reaches further: turned around and back, and applied to a
//! database. What cannot be applied changes nothing.
//!
//! Input: the file; or, if it does not begin as one, its records.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pleach_engine::{Database, Hash, patch};

fuzz_target!(|input: &[u8]| {
    match input.starts_with(b"PLPATCH") {
        true => check(input),
        false => check(&file(input)),
    }
});

fn check(file: &[u8]) {
    let database = Database::memory().expect("a database");
    let mut transaction = database.begin("main").expect("a branch");
    transaction.create_table("t", None).expect("no such table yet");
    for row in 0..40_u8 {
        transaction.put("t", &[b'k', row], &[row; 3]).expect("a row");
    }
    transaction.commit().expect("memory does not fail");
    let before = database.root().expect("refs");
    let applied = database.apply_patch("main", &mut &file[..]);
    let mut turned = Vec::new();
    let inverted = patch::invert(&mut &file[..], &mut turned);
    if applied.is_err() {
        assert_eq!(database.root().expect("refs"), before);
        return;
    }
    inverted.expect("what is applied is whole");
    let mut again = Vec::new();
    patch::invert(&mut &turned[..], &mut again).expect("a patch turned around is one");
    database.apply_patch("main", &mut &turned[..]).expect("what was applied is taken back");
    assert_eq!(database.root().expect("refs"), before);
}

/// A patch file with these records.
fn file(records: &[u8]) -> Vec<u8> {
    let mut file = b"PLPATCH\0\x02\0".to_vec();
    let mut check = Hash::of(&file);
    for block in records.chunks(1 << 16).chain([&[][..]]) {
        let length = (block.len() as u32).to_le_bytes();
        check = Hash::of(&[check.as_bytes().as_slice(), &length, block].concat());
        file.extend_from_slice(&[&length, check.as_bytes().as_slice(), block].concat());
    }
    file
}
