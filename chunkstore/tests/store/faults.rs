//! A full disk and a failing one, while the store is open; and many who wait for one sync.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use pleach_chunkstore::io::hooked::Hooked;
use pleach_chunkstore::io::memory::Memory;
use pleach_chunkstore::{Batch, Error, ErrorKind, Options, Outcome, Store};

use crate::basics::{append, leaf, update};

fn used(disk: &Memory) -> u64 {
    disk.files().values().map(|bytes| bytes.len() as u64).sum()
}

#[test]
fn a_full_disk_refuses_appends_and_heals_when_space_is_freed() {
    let (one, two) = (leaf(&"first".repeat(40)), leaf(&"second".repeat(40)));
    for free in 0..900 {
        let disk = Memory::simulated();
        let store = Store::create_with_io(Arc::new(disk.clone()), Options::default()).unwrap();
        append(&store, &[(one.clone(), None)], &[update("a", None, Some(*one.hash()))]).wait().unwrap();
        disk.with_faults(|faults| faults.capacity_bytes = Some(used(&disk) + free));
        let wish = || {
            let mut batch = Batch::default();
            batch.put(two.clone(), None);
            store.append(batch, &[update("a", Some(*one.hash()), Some(*two.hash()))])
        };
        // The first may fit; else both it and the journal that should take its place meet the full disk.
        for _ in 0..2 {
            match wish() {
                Ok(_) => break,
                Err(error) => {
                    assert!(matches!(error, Error::DiskFull { .. }), "{free}: {error}");
                    assert_eq!(error.kind(), ErrorKind::Retry);
                    assert!(!store.contains(two.hash()), "nothing of a failed append is kept");
                    assert_eq!(store.appended_ref("a"), Some(*one.hash()));
                    assert!(store.get(one.hash()).unwrap().is_some(), "reads go on");
                }
            }
        }
        disk.with_faults(|faults| faults.capacity_bytes = None);
        match wish() {
            Ok(Outcome::Appended(ticket)) => ticket.wait().unwrap(),
            Ok(Outcome::Moved { found, .. }) => assert_eq!(found, Some(*two.hash()), "it had fit"),
            Err(error) => panic!("{free}: {error}"),
        }
        store.close().unwrap();
        let store = Store::open_with_io(Arc::new(Memory::holding(disk.files())), Options::default()).unwrap();
        assert_eq!(store.get_ref("a"), Some(*two.hash()));
        assert_eq!(store.get(two.hash()).unwrap().unwrap().bytes(), two.bytes());
    }
}

#[test]
fn a_failed_sync_poisons_the_store_until_it_is_opened_again() {
    let disk = Memory::simulated();
    let store = Store::create_with_io(Arc::new(disk.clone()), Options::default()).unwrap();
    let (one, two) = (leaf("one"), leaf("two"));
    append(&store, &[(one.clone(), None)], &[update("a", None, Some(*one.hash()))]).wait().unwrap();
    let ticket = append(&store, &[(two.clone(), None)], &[update("a", Some(*one.hash()), Some(*two.hash()))]);
    disk.with_faults(|faults| faults.error_at = Some(faults.calls + 1));
    for _ in 0..2 {
        assert!(matches!(ticket.wait(), Err(Error::Poisoned { .. })), "and no later wait tries again");
    }
    assert_eq!(store.get_ref("a"), Some(*one.hash()), "what is not durable does not show");
    assert!(store.get(one.hash()).unwrap().is_some(), "reads go on");
    assert!(matches!(store.append(Batch::default(), &[]), Err(Error::Poisoned { .. })));
    assert!(matches!(store.close(), Err(Error::Poisoned { .. })));
    drop(ticket);
    let store =
        Store::open_with_io(Arc::new(Memory::holding(disk.after_power_cut(|| false))), Options::default())
            .unwrap();
    assert_eq!(store.get_ref("a"), Some(*one.hash()));
    append(&store, &[(two.clone(), None)], &[update("b", None, Some(*two.hash()))]).wait().unwrap();
}

#[test]
fn what_a_reopened_store_shows_after_a_failed_sync_survives_a_power_cut() {
    let disk = Memory::simulated();
    let open = || Store::open_with_io(Arc::new(disk.clone()), Options::default()).unwrap();
    let store = Store::create_with_io(Arc::new(disk.clone()), Options::default()).unwrap();
    // Long, so that what comes after it lies in other sectors.
    let (one, two, three) = (leaf("one"), leaf(&"two".repeat(3000)), leaf("three"));
    append(&store, &[(one.clone(), None)], &[update("a", None, Some(*one.hash()))]).wait().unwrap();
    let ticket = append(&store, &[(two.clone(), None)], &[update("a", Some(*one.hash()), Some(*two.hash()))]);
    disk.with_faults(|faults| faults.error_at = Some(faults.calls + 1));
    assert!(matches!(ticket.wait(), Err(Error::Poisoned { .. })));
    drop((ticket, store));
    // The same machine goes on: the bytes are read from its memory, where a failed sync has left them marked as clean.
    let store = open();
    let shown = store.get_ref("a");
    append(&store, &[(three.clone(), None)], &[update("b", None, Some(*three.hash()))]).wait().unwrap();
    std::mem::forget(store);
    let after = Memory::holding(disk.after_power_cut(|| false));
    let store = Store::open_with_io(Arc::new(after), Options::default()).unwrap();
    assert_eq!(store.get_ref("a"), shown);
    assert_eq!(store.get_ref("b"), Some(*three.hash()), "what was acknowledged is there");
}

/// How many commits wait for the disk, and how many threads can still bring one.
#[derive(Default)]
struct Gauge {
    appended: AtomicU64,
    durable: AtomicU64,
    threads: AtomicU64,
}

impl Gauge {
    fn someone_can_append(&self) -> bool {
        let waiting = self.appended.load(Ordering::SeqCst) - self.durable.load(Ordering::SeqCst);
        waiting < self.threads.load(Ordering::SeqCst)
    }
}

#[test]
fn threads_that_commit_together_share_their_syncs() {
    const THREADS: usize = 8;
    const EACH: usize = 50;
    let gauge = Arc::new(Gauge::default());
    let syncing = gauge.clone();
    // A sync of a file does not return before everyone who can append has.
    let io = Hooked::new(Arc::new(Memory::default()), move |_| {
        while syncing.someone_can_append() {
            thread::yield_now();
        }
    });
    let store = Store::create_with_io(Arc::new(io), Options::default()).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (watched, watching) = (seen.clone(), gauge.clone());
    store.watch(Box::new(move |sequence| {
        watched.lock().unwrap().push(sequence);
        watching.durable.store(sequence, Ordering::SeqCst);
        ControlFlow::Continue(())
    }));
    let before = store.stats().fsyncs;
    gauge.threads.store(THREADS as u64, Ordering::SeqCst);
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (store, gauge) = (&store, &gauge);
            scope.spawn(move || {
                let name = format!("heads/{number}");
                let mut old = None;
                for turn in 0..EACH {
                    let chunk = leaf(&format!("{number} {turn}"));
                    let new = Some(*chunk.hash());
                    let ticket = append(store, &[(chunk, None)], &[update(&name, old, new)]);
                    gauge.appended.fetch_add(1, Ordering::SeqCst);
                    ticket.wait().unwrap();
                    assert_eq!(store.get_ref(&name), new, "shown before the wait ends");
                    old = new;
                }
                gauge.threads.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    let fsyncs = store.stats().fsyncs - before;
    println!("{} commits by {THREADS} threads: {fsyncs} fsyncs", THREADS * EACH);
    assert_eq!(store.sequence(), (THREADS * EACH) as u64);
    assert!(fsyncs <= 2 * EACH as u64 + 1, "{fsyncs} fsyncs for {} commits", THREADS * EACH);
    let seen = seen.lock().unwrap();
    assert!(seen.is_sorted() && seen.last() == Some(&store.sequence()));
}
