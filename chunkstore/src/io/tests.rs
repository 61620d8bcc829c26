//! What disk and memory do alike.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::disk::Disk;
use super::memory::Memory;
use super::*;

fn both(check: impl Fn(&dyn Io)) {
    let dir = tempfile::tempdir().unwrap();
    check(&Disk::new(dir.path()));
    check(&Memory::default());
    check(&Memory::simulated());
}

#[test]
fn a_mapped_file_is_read_and_not_written() {
    both(|io| {
        assert_eq!(io.map("table").err().unwrap().kind(), std::io::ErrorKind::NotFound);
        io.create("table").unwrap().write_at(b"frame", 0).unwrap();
        let mapped = io.map("table").unwrap();
        let mut found = [0; 5];
        mapped.read_at(&mut found, 0).unwrap();
        assert_eq!((&found, mapped.len().unwrap()), (b"frame", 5));
        assert_eq!(mapped.read_at(&mut found, 1).unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
        assert!(mapped.write_at(b"x", 0).is_err());
        io.remove("table").unwrap();
        mapped.read_at(&mut found, 0).unwrap();
    });
}

#[test]
fn a_reserved_file_is_as_long_as_asked() {
    both(|io| {
        for bytes in [0, 1, 100_000, 3 << 20] {
            io.reserve("spare", bytes).unwrap();
            assert_eq!(io.open("spare").unwrap().len().unwrap(), bytes);
        }
        assert_eq!(io.list().unwrap(), ["spare"]);
    });
}

#[test]
fn a_reserved_file_takes_its_bytes_from_the_disk() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    Disk::new(dir.path()).reserve("spare", 1 << 20).unwrap();
    assert!(std::fs::metadata(dir.path().join("spare")).unwrap().blocks() * 512 >= 1 << 20);
}

#[test]
fn what_cannot_be_reserved_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::new(dir.path());
    assert!(disk.reserve("spare", 1 << 60).is_err());
    assert!(disk.list().unwrap().is_empty());

    let memory = Memory::simulated();
    memory.with_faults(|faults| faults.capacity_bytes = Some(1 << 20));
    memory.reserve("first", 700_000).unwrap();
    let full = memory.reserve("second", 700_000).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(memory.list().unwrap(), ["first"]);
    memory.remove("first").unwrap();
    memory.reserve("second", 700_000).unwrap();
}

#[test]
fn reserving_is_an_effect_that_a_power_cut_can_stop() {
    let effects = |memory: &Memory| memory.with_faults(|faults| faults.calls).unwrap();
    let memory = Memory::simulated();
    memory.reserve("spare", 1000).unwrap();
    let all = effects(&memory);
    assert!(all >= 2);
    for cut in 1..=all {
        let memory = Memory::simulated();
        memory.with_faults(|faults| faults.power_cut_at = Some(cut));
        assert!(memory.reserve("spare", 1000).is_err());
    }
}

#[test]
fn a_lock_that_was_given_back_is_free_although_a_child_is_being_started() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::new(dir.path());
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                std::process::Command::new("true").status().unwrap();
            }
        });
        let busy = (0..2000).filter(|_| matches!(disk.lock("LOCK", "us").unwrap(), Locking::Busy(_))).count();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(busy, 0);
    });
}
