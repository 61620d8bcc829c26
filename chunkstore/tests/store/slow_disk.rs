//! A disk that is slow: those who wait for it share the wait, and those who read do not notice.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use pleach_chunkstore::io::hooked::Hooked;
use pleach_chunkstore::io::memory::Memory;
use pleach_chunkstore::{Hash, Options, Store};

use crate::basics::{append, leaf, update};

const SYNC: Duration = Duration::from_millis(2);

/// Commits of `threads` threads, `each` of every one, on a disk whose syncs take [`SYNC`]: fsyncs and time.
fn commits(threads: u64, each: u64) -> (u64, Duration) {
    let waiting = Arc::new(AtomicU64::new(0));
    let left = Arc::new(AtomicU64::new(0));
    let (on_disk, running) = (waiting.clone(), left.clone());
    let slow = Hooked::new(Arc::new(Memory::default()), move |_| {
        thread::sleep(SYNC);
        // On a machine that is busy with others, a thread may not get to its append in that time: a group is all who could be in it.
        while on_disk.load(Ordering::SeqCst) < running.load(Ordering::SeqCst) {
            thread::yield_now();
        }
    });
    let store = Store::create_with_io(Arc::new(slow), Options::default()).unwrap();
    let (before, start) = (store.stats().fsyncs, Instant::now());
    left.store(threads, Ordering::SeqCst);
    thread::scope(|scope| {
        for number in 0..threads {
            let (store, waiting, left) = (&store, &waiting, &left);
            scope.spawn(move || {
                let mut old: Option<Hash> = None;
                for turn in 0..each {
                    let chunk = leaf(&format!("{number} {turn}"));
                    let new = Some(*chunk.hash());
                    let ticket =
                        append(store, &[(chunk, None)], &[update(&format!("work/{number}"), old, new)]);
                    waiting.fetch_add(1, Ordering::SeqCst);
                    ticket.wait().unwrap();
                    waiting.fetch_sub(1, Ordering::SeqCst);
                    old = new;
                }
                left.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (store.stats().fsyncs - before, start.elapsed())
}

#[test]
fn sixty_four_threads_commit_many_times_as_fast_as_one() {
    let per_second = |commits: u64, time: Duration| commits as f64 / time.as_secs_f64();
    let (alone_fsyncs, alone_time) = commits(1, 40);
    let (fsyncs, time) = commits(64, 20);
    let (alone, together) = (per_second(40, alone_time), per_second(64 * 20, time));
    println!(
        "with {SYNC:?} a sync: 1 thread {alone:.0} commits/s, {alone_fsyncs} fsyncs for 40; 64 threads {together:.0} \
         commits/s, {fsyncs} fsyncs for {}; {:.0} times as many",
        64 * 20,
        together / alone
    );
    assert_eq!(alone_fsyncs, 40, "each waits for its own");
    assert!(fsyncs * 16 <= 64 * 20, "{fsyncs} fsyncs for {} commits", 64 * 20);
    assert!(together >= 8.0 * alone, "{together:.0} and {alone:.0} commits/s");
}

#[test]
fn reads_go_on_while_a_sync_is_stalled() {
    const STALL: Duration = Duration::from_secs(1);
    let (stalls, stalled) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (stalling, released) = (Arc::new(AtomicBool::new(false)), Mutex::new(released));
    let armed = stalling.clone();
    let slow = Hooked::new(Arc::new(Memory::default()), move |_| {
        if armed.swap(false, Ordering::SeqCst) {
            stalls.send(()).unwrap();
            // Ended by the test when it has read enough; if reads wait for this sync it takes its second, and they are seen to.
            let ended = released.lock().unwrap().recv_timeout(STALL);
            assert_ne!(ended, Err(RecvTimeoutError::Disconnected));
        }
    });
    let options = Options { cache_bytes: 0, ..Options::default() };
    let store = Store::create_with_io(Arc::new(slow), options).unwrap();
    let chunks: Vec<_> = (0..500).map(|number| leaf(&format!("{number} {}", "text ".repeat(800)))).collect();
    let first = *chunks[0].hash();
    let all: Vec<_> = chunks.iter().map(|chunk| (chunk.clone(), None)).collect();
    append(&store, &all, &[update("heads/main", None, Some(first))]).wait().unwrap();

    stalling.store(true, Ordering::SeqCst);
    let second = leaf("another");
    let moved = update("heads/main", Some(first), Some(*second.hash()));
    let ticket = append(&store, &[(second, None)], &[moved]);
    thread::scope(|scope| {
        let syncing = scope.spawn(|| ticket.wait().unwrap());
        stalled.recv().unwrap();
        let start = Instant::now();
        let mut times = Vec::new();
        while times.len() < 2000 && start.elapsed() < STALL {
            let chunk = &chunks[times.len() % chunks.len()];
            let read = Instant::now();
            assert!(store.get(chunk.hash()).unwrap().is_some());
            assert_eq!(store.get_ref("heads/main"), Some(first), "as it is on disk");
            times.push(read.elapsed());
        }
        assert!(!syncing.is_finished(), "the sync is stalled still");
        // Nor does the next append wait.
        let appending = Instant::now();
        drop(append(&store, &[(leaf("a third"), None)], &[]));
        let appended = appending.elapsed();
        release.send(()).unwrap();
        syncing.join().unwrap();
        times.sort();
        let (median, slow, slowest) =
            (times[times.len() / 2], times[times.len() * 99 / 100], times[times.len() - 1]);
        println!(
            "{} reads during a stalled sync: median {median:?}, of a hundred one over {slow:?}, slowest {slowest:?}; \
             an append {appended:?}",
            times.len()
        );
        // The slowest of all is the scheduler's on a busy machine: it is only held against the stall.
        assert!(slow < Duration::from_millis(10), "{slow:?}");
        assert!(slowest.max(appended) < STALL / 2, "{slowest:?}, {appended:?}");
    });
    assert_ne!(store.get_ref("heads/main"), Some(first));
}
