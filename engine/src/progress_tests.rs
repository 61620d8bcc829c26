//! What observers are told: that what was told was done, that totals are right, and who is told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use crate::{
    row::{Column, Type, Value},
    *,
};

const ROWS: u64 = 5000;

/// What was told, task by task, in order.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Progress>>>);

impl Told {
    /// An observer that is told at each look.
    fn observer(&self) -> Observer {
        let (told, caller) = (self.0.clone(), thread::current().id());
        Observer::every(Duration::ZERO, move |progress| {
            assert_eq!(
                thread::current().id(),
                caller,
                "{progress:?} is told by the thread that made the call"
            );
            told.lock().unwrap().push(progress);
        })
    }

    /// By task: what the last word of each was, in order. All words are taken.
    fn ends(&self) -> BTreeMap<&'static str, Vec<(u64, Option<u64>)>> {
        let told = std::mem::take(&mut *self.0.lock().unwrap());
        let mut ends: BTreeMap<_, Vec<(u64, Option<u64>)>> = BTreeMap::new();
        let mut last: Option<Progress> = None;
        for progress in told {
            assert!(progress.total.is_none_or(|total| progress.done <= total), "{progress:?}");
            let ends = ends.entry(progress.task).or_default();
            match last.replace(progress) {
                Some(before)
                    if (before.task, before.total) == (progress.task, progress.total)
                        && before.done <= progress.done =>
                {
                    *ends.last_mut().unwrap() = (progress.done, progress.total);
                }
                _ => ends.push((progress.done, progress.total)),
            }
        }
        ends
    }
}

fn observed() -> (Database, Told) {
    let told = Told::default();
    (Database::memory().unwrap().observed(&told.observer()), told)
}

fn key(n: u64) -> [u8; 8] {
    n.to_be_bytes()
}

fn load(database: &Database, options: &LoadOptions, rows: impl Iterator<Item = u64>) {
    let mut transaction = database.begin("main").unwrap();
    transaction.create_table("t", None).unwrap();
    transaction.load_with("t", rows.map(|n| (key(n), [0; 100])), options).unwrap();
    transaction.commit().unwrap();
}

fn put(database: &Database, branch: &str, rows: impl Iterator<Item = u64>, value: u8) {
    let mut transaction = database.begin(branch).unwrap();
    rows.for_each(|n| transaction.put("t", &key(n), &[value; 100]).unwrap());
    assert!(matches!(transaction.commit().unwrap(), TransactionOutcome::Committed(_)));
}

fn commit(database: &Database, branch: &str) -> Hash {
    database.commit(branch, NewCommit { message: "m".into(), ..NewCommit::default() }).unwrap().hash
}

#[test]
fn loads_tell_the_rows_they_took_and_those_they_merged() {
    let (database, told) = observed();
    load(&database, &LoadOptions::default(), 0..ROWS);
    assert_eq!(told.ends()["loading"], [(ROWS, None)]);
    let (database, told) = observed();
    let options = LoadOptions { unsorted: true, sort_bytes: 64 << 10, ..LoadOptions::default() };
    // Each key twice, far apart: both are merged, and one stays.
    load(&database, &options, (0..ROWS).chain(0..ROWS).map(|n| n * 7919 % ROWS));
    let ends = told.ends();
    assert_eq!(ends["loading"], [(2 * ROWS, None)]);
    let &[.., (merged, total)] = ends["sorting"].as_slice() else { panic!("{ends:?}") };
    assert_eq!((merged, total), (2 * ROWS, Some(2 * ROWS)));
}

#[test]
fn commits_tell_the_rows_they_apply_and_differences_the_rows_they_pass() {
    let (database, told) = observed();
    load(&database, &LoadOptions::default(), 0..ROWS);
    let before = commit(&database, "main");
    told.ends();
    put(&database, "main", (0..ROWS).step_by(10), 1);
    let ends = told.ends();
    assert_eq!(ends["applying"][0], (ROWS / 10, Some(ROWS / 10)));
    assert_eq!(ends["admitting"], [(ROWS / 10, Some(ROWS / 10))]);
    let after = commit(&database, "main");
    let first = before;
    let [before, after] = [before, after].map(|commit| {
        let root = database.commit_object(&commit).unwrap().root;
        database.snapshot_of_root(root).unwrap()
    });
    told.ends();
    let diff = &before.diff(&after).unwrap()[0];
    assert_eq!(diff.stat().unwrap().updated, ROWS / 10);
    assert_eq!(told.ends()["comparing"], [(2 * ROWS, Some(2 * ROWS))]);
    // Of a part nobody knows how much there is to pass.
    assert_eq!(diff.changes_after(&key(ROWS / 2)).unwrap().count() as u64, ROWS / 20 - 1);
    assert!(matches!(told.ends()["comparing"].as_slice(), [(passed, None)] if *passed < 2 * ROWS));
    // Nothing is passed twice where most is passed unread.
    put(&database, "main", 17..18, 2);
    let now = database.snapshot_of_root(database.branch("main").unwrap().unwrap().work).unwrap();
    told.ends();
    assert_eq!(after.diff(&now).unwrap()[0].changes().unwrap().count(), 1);
    assert_eq!(told.ends()["comparing"], [(2 * ROWS, Some(2 * ROWS))]);
    let mut patch = Vec::new();
    patch::make(&before.diff(&after).unwrap(), &mut patch).unwrap();
    database.create_branch("other", Some(first)).unwrap();
    told.ends();
    let (applied, _) = database.apply_patch("other", &mut patch.as_slice()).unwrap();
    assert_eq!((applied.updated, told.ends()["patching"].as_slice()), (ROWS / 10, &[(ROWS / 10, None)][..]));
}

#[test]
fn merges_tell_the_rows_of_both_sides_and_decisions_those_in_conflict() {
    let (database, told) = observed();
    load(&database, &LoadOptions::default(), 0..ROWS);
    let base = commit(&database, "main");
    database.create_branch("other", Some(base)).unwrap();
    put(&database, "main", (0..ROWS).step_by(3), 1);
    put(&database, "other", (0..ROWS + 1000).step_by(4), 2);
    commit(&database, "main");
    let theirs = commit(&database, "other");
    told.ends();
    let outcome = database.merge("main", &theirs, MergeOptions::default()).unwrap();
    let MergeOutcome::Conflicts { count } = outcome else { panic!("{outcome:?}") };
    let both = 2 * ROWS + 250;
    assert_eq!(told.ends()["merging"], [(both, Some(both))]);
    database.resolve_conflicts("main", Side::Theirs).unwrap();
    assert_eq!(told.ends()["deciding"], [(count as u64, Some(count as u64))]);
}

#[test]
fn indexes_blobs_and_upkeep_are_told() {
    let (database, told) = observed();
    let column = |id, name: &str| Column { id, name: name.into(), ty: Type::Int };
    let schema = Schema::new(vec![column(0, "id"), column(1, "a")], vec![0]).unwrap();
    let mut transaction = database.begin("main").unwrap();
    transaction.create_table("typed", Some(schema.clone())).unwrap();
    let rows = (0..ROWS as i64).map(|n| schema.encode_row(&[Value::Int(n), Value::Int(n % 100)]).unwrap());
    transaction.load("typed", rows).unwrap();
    transaction.commit().unwrap();
    let mut transaction = database.begin("main").unwrap();
    transaction.create_index("typed", "by_a", &["a"], false).unwrap();
    told.ends();
    transaction.commit().unwrap();
    let ends = told.ends();
    assert_eq!(ends["comparing"], [(ROWS, Some(ROWS))]);
    assert_eq!(ends["applying"][0], (ROWS, Some(ROWS)));
    let mut transaction = database.begin("main").unwrap();
    transaction.create_table("t", None).unwrap();
    let value: Vec<u8> = (0..8_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    transaction.put_from("t", b"k", &mut value.as_slice()).unwrap();
    assert_eq!(told.ends()["storing"], [(value.len() as u64, None)]);
    transaction.put("t", b"whole", &value[1..]).unwrap();
    transaction.commit().unwrap();
    let bytes = value.len() as u64 - 1;
    assert_eq!(told.ends()["storing"], [(bytes, Some(bytes))]);
    let report = database.fsck().unwrap();
    assert_eq!(told.ends()["checking"], [(report.chunks, Some(report.chunks))]);
    database.store().compact().unwrap();
    let chunks = database.store().stats().chunks;
    assert_eq!(told.ends()["compacting"], [(chunks, Some(chunks))]);
    let collected = database.store().collect(false).unwrap();
    assert_eq!(told.ends()["marking"], [(collected.live_chunks, None)]);
}

#[test]
fn who_leads_a_group_is_not_told_of_others() {
    let (database, _) = observed();
    load(&database, &LoadOptions::default(), 0..ROWS);
    let database = database.by(database.store().unobserved());
    let commit = |from: u64| {
        // Fails if another thread tells it.
        let told = Told::default();
        let mut transaction = database.observed(&told.observer()).begin("main").unwrap();
        (from..from + 500).for_each(|n| transaction.put("t", &key(n), b"v").unwrap());
        // Written ahead, so that each is a group by itself.
        transaction.rows("t").unwrap();
        assert!(matches!(transaction.commit().unwrap(), TransactionOutcome::Committed(_)));
    };
    thread::scope(|scope| {
        database.in_order(|| {
            for from in [0, 500] {
                scope.spawn(move || commit(from));
            }
            while database.queue().len() < 2 {
                thread::yield_now();
            }
        });
    });
}
