//! Calls that are cancelled from another thread: they end, nothing is changed, and others notice nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    ops::Bound,
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};

use crate::*;

const ALL: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Unbounded, Bound::Unbounded);

fn rows(value: u8) -> impl Iterator<Item = ([u8; 4], [u8; 8])> {
    (0..20_000_u32).map(move |n| (n.to_be_bytes(), [value; 8]))
}

/// Two branches with a commit of their own upon a common one, all rows changed on both.
fn database() -> Database {
    let database = Database::memory().unwrap();
    let mut transaction = database.begin("main").unwrap();
    transaction.create_table("t", None).unwrap();
    transaction.load("t", rows(0)).unwrap();
    transaction.commit().unwrap();
    commit(&database, "main");
    let head = database.branch("main").unwrap().unwrap().head.unwrap();
    database.create_branch("other", Some(head)).unwrap();
    for (branch, value) in [("main", 1), ("other", 2)] {
        let mut transaction = database.begin(branch).unwrap();
        rows(value).for_each(|(key, value)| transaction.put("t", &key, &value).unwrap());
        transaction.commit().unwrap();
        commit(&database, branch);
    }
    database
}

fn commit(database: &Database, branch: &str) {
    database.commit(branch, NewCommit { message: "m".into(), ..NewCommit::default() }).unwrap();
}

/// Runs `call`, which never ends by itself, on a handle that is cancelled when it tells that it is under way.
fn cancelled<T: Send>(database: &Database, call: impl Fn(&Database, &(dyn Fn() + Sync)) -> Result<T> + Sync) {
    let cancel = Cancel::new();
    let (refs, handle) = (database.refs(""), database.cancellable(&cancel));
    let (tell, told) = mpsc::channel();
    let (answer, answered) = mpsc::channel();
    let answered = Mutex::new(answered);
    thread::scope(|scope| {
        let call = scope.spawn(|| {
            call(&handle, &|| {
                tell.send(()).unwrap();
                // Fails the second time: then it was cancelled long ago.
                let _ = answered.lock().unwrap().recv();
            })
        });
        told.recv().unwrap();
        cancel.cancel();
        answer.send(()).unwrap();
        drop(answer);
        assert!(matches!(call.join().unwrap(), Err(Error::Cancelled)));
    });
    assert_eq!(database.refs(""), refs);
    assert!(matches!(handle.begin("main").and_then(|mut begun| begun.get("t", b"k")), Err(Error::Cancelled)));
    let mut transaction = database.begin("main").unwrap();
    transaction.put("t", b"after", &refs.len().to_be_bytes()).unwrap();
    transaction.commit().unwrap();
}

fn snapshot(database: &Database, branch: &str) -> Result<Snapshot> {
    database.snapshot_of_root(database.branch(branch)?.unwrap().work)
}

#[test]
fn long_reads_end_when_they_are_cancelled() {
    let database = database();
    cancelled(&database, |database, under_way| -> Result<()> {
        let table = snapshot(database, "main")?.table("t")?.unwrap();
        loop {
            for (i, row) in table.scan(ALL.0, ALL.1)?.enumerate() {
                row?;
                if i == 5 {
                    under_way();
                }
            }
        }
    });
    cancelled(&database, |database, under_way| -> Result<()> {
        let diffs = snapshot(database, "main")?.diff(&snapshot(database, "other")?)?;
        loop {
            for (i, change) in diffs[0].changes()?.enumerate() {
                change?;
                if i == 5 {
                    under_way();
                }
            }
        }
    });
    // An observer outlives the call that it is told of.
    let database_of = |database: &Database, under_way: &(dyn Fn() + Sync)| {
        let (tell, told) = mpsc::channel();
        let (answer, answered) = mpsc::channel::<()>();
        let answered = Mutex::new(answered);
        let observer = Observer::every(Duration::ZERO, move |_| {
            if tell.send(()).is_ok() {
                let _ = answered.lock().unwrap().recv();
            }
        });
        thread::scope(|scope| {
            let handle = database.observed(&observer);
            let checked = scope.spawn(move || handle.fsck());
            drop(observer);
            told.recv().unwrap();
            drop(told);
            under_way();
            drop(answer);
            checked.join().unwrap()
        })
    };
    cancelled(&database, database_of);
    cancelled(&database, |database, under_way| {
        let heads: Vec<_> = database.refs("heads/").into_iter().map(|(_, head)| head).collect();
        for sent in difference(database, &heads, &[])? {
            sent?;
            under_way();
        }
        Ok(())
    });
}

#[test]
fn long_writes_end_when_they_are_cancelled_and_change_nothing() {
    let database = database();
    cancelled(&database, |database, under_way| {
        let mut transaction = database.begin("main")?;
        transaction.load(
            "t",
            (0..u64::MAX)
                .inspect(|n| {
                    if *n == 1000 {
                        under_way()
                    }
                })
                .map(|n| (n.to_be_bytes(), b"v")),
        )
    });
    cancelled(&database, |database, under_way| {
        let mut transaction = database.begin("main")?;
        transaction.put("t", b"k", b"v")?;
        under_way();
        transaction.commit()
    });
    let database = self::database();
    let other = database.branch("other").unwrap().unwrap().head.unwrap();
    let (asked, first) = mpsc::channel();
    let (answer, answered) = mpsc::channel();
    let (asked, answered) = (Mutex::new(asked), Mutex::new(answered));
    let cancel = Cancel::new();
    let refs = database.refs("");
    let resolver = Resolver::new(move |_, _| {
        if asked.lock().unwrap().send(()).is_ok() {
            answered.lock().unwrap().recv().unwrap();
        }
        Ok(Resolution::Ours)
    });
    thread::scope(|scope| {
        let handle = database.cancellable(&cancel);
        let options = MergeOptions { resolver: Some(resolver), ..MergeOptions::default() };
        let merge = scope.spawn(move || handle.merge("main", &other, options));
        first.recv().unwrap();
        drop(first);
        cancel.cancel();
        answer.send(()).unwrap();
        assert!(matches!(merge.join().unwrap(), Err(Error::Cancelled)));
    });
    assert_eq!(database.refs(""), refs);
    let options = MergeOptions { prefer: Some(Side::Ours), ..MergeOptions::default() };
    assert!(matches!(database.merge("main", &other, options).unwrap(), MergeOutcome::Merged { .. }));
}

#[test]
fn who_waits_for_others_is_cancelled_and_the_others_are_not() {
    let database = database();
    let cancel = Cancel::new();
    let begin = |database: &Database, key: &[u8]| {
        let mut transaction = database.begin("main").unwrap();
        transaction.put("t", key, b"v").unwrap();
        transaction
    };
    let handle = database.cancellable(&cancel);
    let (one, other) = (begin(&handle, b"one"), begin(&database, b"other"));
    thread::scope(|scope| {
        let other = database.in_order(|| {
            let one = scope.spawn(|| one.commit());
            let reset = scope.spawn(|| handle.set_setting("k", Some("v")));
            let other = scope.spawn(|| other.commit());
            while database.queue().len() < 2 {
                thread::yield_now();
            }
            cancel.cancel();
            assert!(matches!(one.join().unwrap(), Err(Error::Cancelled)));
            assert!(matches!(reset.join().unwrap(), Err(Error::Cancelled)));
            other
        });
        assert!(matches!(other.join().unwrap(), Ok(TransactionOutcome::Committed(_))));
    });
    let table = snapshot(&database, "main").unwrap().table("t").unwrap().unwrap();
    assert_eq!((table.get(b"one").unwrap(), table.get(b"other").unwrap()), (None, Some(b"v".to_vec())));
}

#[test]
fn a_change_on_its_way_to_the_disk_is_not_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::init(&dir.path().join("db"), Options::default()).unwrap();
    let cancel = Cancel::new();
    let handle = database.cancellable(&cancel);
    let mut transaction = handle.begin("main").unwrap();
    transaction.create_table("t", None).unwrap();
    // Called when the change is durable, before the commit returns.
    let when_durable = cancel.clone();
    database.watch(move |_| when_durable.cancel());
    assert!(matches!(transaction.commit(), Ok(TransactionOutcome::Committed(_))));
    assert!(cancel.is_cancelled() && database.begin("main").unwrap().has_table("t").unwrap());
}
