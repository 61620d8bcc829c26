#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::HashSet, ops::Bound};

use proptest::prelude::*;

use crate::*;

fn put(database: &Database, branch: &str, table: &str, rows: &[(&str, &str)]) -> Token {
    let mut transaction = database.begin(branch).unwrap();
    if !transaction.has_table(table).unwrap() {
        transaction.create_table(table, None).unwrap();
    }
    for (key, value) in rows {
        transaction.put(table, key.as_bytes(), value.as_bytes()).unwrap();
    }
    match transaction.commit().unwrap() {
        TransactionOutcome::Committed(token) | TransactionOutcome::Unchanged(token) => token,
        refused => panic!("{refused:?}"),
    }
}

fn commit(database: &Database, branch: &str, message: &str) -> Hash {
    let new =
        NewCommit { message: message.into(), author: "A <a@b>".into(), date_micros: Some(1), amend: false };
    database.commit(branch, new).unwrap().hash
}

fn get(database: &Database, branch: &str, table: &str, key: &str) -> Option<String> {
    let work = database.branch(branch).unwrap().unwrap().work;
    let table = database.snapshot_of_root(work).unwrap().table(table).unwrap()?;
    table.get(key.as_bytes()).unwrap().map(|value| String::from_utf8(value).unwrap())
}

#[test]
fn a_new_database_has_an_unborn_main() {
    let database = Database::memory().unwrap();
    let branches = database.branches().unwrap();
    assert_eq!(branches.len(), 1);
    assert_eq!((branches[0].name.as_str(), branches[0].head), ("main", None));
    assert!(!database.status("main").unwrap().dirty);
    let nothing = database.commit("main", NewCommit::default());
    assert!(matches!(nothing, Err(Error::NothingToCommit { .. })));
}

#[test]
fn a_transaction_is_seen_whole_and_survives_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let root = {
        let database = Database::init(&path, Options::default()).unwrap();
        put(&database, "main", "t", &[("a", "1"), ("b", "2")]);
        commit(&database, "main", "first");
        database.root().unwrap()
    };
    let database = Database::open(&path, Options::default()).unwrap();
    assert_eq!(database.root().unwrap(), root);
    assert_eq!(get(&database, "main", "t", "b").as_deref(), Some("2"));
}

#[test]
fn the_first_committer_of_a_row_wins_and_others_may_write_other_rows() {
    let database = Database::memory().unwrap();
    put(&database, "main", "t", &[("a", "0"), ("b", "0")]);
    let mut first = database.begin("main").unwrap();
    let mut second = database.begin("main").unwrap();
    let mut third = database.begin("main").unwrap();
    first.put("t", b"a", b"1").unwrap();
    second.put("t", b"a", b"2").unwrap();
    third.put("t", b"b", b"3").unwrap();
    assert!(matches!(first.commit().unwrap(), TransactionOutcome::Committed(_)));
    let refused = TransactionOutcome::Refused { table: "t".into(), key: Some(b"a".to_vec()) };
    assert_eq!(second.commit().unwrap(), refused);
    assert!(matches!(third.commit().unwrap(), TransactionOutcome::Committed(_)));
    assert_eq!(get(&database, "main", "t", "a").as_deref(), Some("1"));
    assert_eq!(get(&database, "main", "t", "b").as_deref(), Some("3"));
}

#[test]
fn concurrent_transactions_on_different_rows_all_commit() {
    let database = Database::memory().unwrap();
    put(&database, "main", "t", &[("seed", "0")]);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let database = &database;
            scope.spawn(move || {
                for n in 0..20 {
                    put(database, "main", "t", &[(&format!("{thread}-{n}"), "x")]);
                }
            });
        }
    });
    let work = database.branch("main").unwrap().unwrap().work;
    let table = database.snapshot_of_root(work).unwrap().table("t").unwrap().unwrap();
    assert_eq!(table.rows().unwrap(), 161);
}

#[test]
fn values_of_every_length_come_back() {
    let database = Database::memory().unwrap();
    let value = |len: usize| (0..len).map(|i| (i * i / 7) as u8).collect::<Vec<u8>>();
    let lengths = [0, 1, 1024, 1025, 4096, 65_536, 70_000, 3_000_000];
    let mut transaction = database.begin("main").unwrap();
    transaction.create_table("t", None).unwrap();
    for len in lengths {
        transaction.put("t", &(len as u32).to_be_bytes(), &value(len)).unwrap();
    }
    transaction.commit().unwrap();
    let work = database.branch("main").unwrap().unwrap().work;
    let table = database.snapshot_of_root(work).unwrap().table("t").unwrap().unwrap();
    let rows: Vec<_> =
        table.scan(Bound::Unbounded, Bound::Unbounded).unwrap().map(|row| row.unwrap()).collect();
    assert_eq!(rows.len(), lengths.len());
    for (len, row) in lengths.iter().zip(rows) {
        assert!(row.1 == value(*len), "value of {len} bytes");
    }
    assert_eq!(table.bytes().unwrap(), lengths.iter().map(|len| *len as u64 + 4).sum::<u64>());
}

#[test]
fn a_bulk_load_makes_the_root_that_puts_make() {
    let database = Database::memory().unwrap();
    let rows: Vec<_> =
        (0..3000u32).map(|n| (n.to_be_bytes().to_vec(), format!("v{n}").into_bytes())).collect();
    let mut bulk = database.begin("main").unwrap();
    bulk.create_table("t", None).unwrap();
    bulk.load("t", rows.iter().map(|(k, v)| (k, v))).unwrap();
    assert_eq!(bulk.get("t", &7u32.to_be_bytes()).unwrap().as_deref(), Some(b"v7".as_slice()));
    bulk.commit().unwrap();
    let loaded = database.branch("main").unwrap().unwrap().work;

    let other = Database::memory().unwrap();
    for part in rows.chunks(701).rev() {
        let mut transaction = other.begin("main").unwrap();
        if !transaction.has_table("t").unwrap() {
            transaction.create_table("t", None).unwrap();
        }
        part.iter().for_each(|(key, value)| transaction.put("t", key, value).unwrap());
        transaction.commit().unwrap();
    }
    assert_eq!(other.branch("main").unwrap().unwrap().work, loaded);
}

#[test]
fn branches_keep_their_own_work() {
    let database = Database::memory().unwrap();
    put(&database, "main", "t", &[("a", "1")]);
    let first = commit(&database, "main", "first");
    database.create_branch("feature", Some(first)).unwrap();
    put(&database, "feature", "t", &[("a", "2")]);
    assert_eq!(get(&database, "main", "t", "a").as_deref(), Some("1"));
    assert_eq!(get(&database, "feature", "t", "a").as_deref(), Some("2"));
    database.switch("feature").unwrap();
    assert!(matches!(database.delete_branch("feature"), Err(Error::BranchInUse { .. })));
    database.rename_branch("feature", "topic/x").unwrap();
    assert_eq!(database.current_branch().unwrap(), "topic/x");
    database.switch("main").unwrap();
    database.delete_branch("topic/x").unwrap();
    assert_eq!(database.refs("recovery/").len(), 2, "the head and the uncommitted work are kept");
    for name in ["a..b", "@work", "remotes/origin/x", "", "-d"] {
        assert!(matches!(database.create_branch(name, None), Err(Error::BadName { .. })), "{name}");
    }
}

#[test]
fn a_merge_takes_both_sides_and_a_conflict_waits_as_data() {
    let database = Database::memory().unwrap();
    put(&database, "main", "t", &[("a", "0"), ("b", "0"), ("c", "0")]);
    let base = commit(&database, "main", "base");
    database.create_branch("side", Some(base)).unwrap();
    put(&database, "side", "t", &[("a", "side"), ("b", "side")]);
    let side = commit(&database, "side", "side");
    put(&database, "main", "t", &[("b", "main"), ("c", "main")]);
    let main = commit(&database, "main", "main");

    let conflicted = database.merge("main", &side, MergeOptions::default()).unwrap();
    assert_eq!(conflicted, MergeOutcome::Conflicts { count: 1 });
    let conflicts = database.conflicts("main").unwrap();
    assert_eq!(conflicts.len(), 1);
    assert_eq!(conflicts[0].key, b"b");
    assert_eq!(conflicts[0].theirs.as_deref(), Some(b"side".as_slice()));
    assert!(matches!(database.commit("main", NewCommit::default()), Err(Error::UnresolvedConflicts { .. })));
    assert_eq!(database.status("main").unwrap().conflicts, 1);

    database.merge_abort("main").unwrap();
    assert!(!database.status("main").unwrap().dirty);
    database.merge("main", &side, MergeOptions::default()).unwrap();
    assert_eq!(database.resolve_conflicts("main", Side::Theirs).unwrap(), 1);
    let merged = commit(&database, "main", "merged");
    assert_eq!(database.commit_object(&merged).unwrap().parents, [main, side]);
    for (key, value) in [("a", "side"), ("b", "side"), ("c", "main")] {
        assert_eq!(get(&database, "main", "t", key).as_deref(), Some(value));
    }
    assert_eq!(database.merge("main", &side, MergeOptions::default()).unwrap(), MergeOutcome::UpToDate);
    let forward = database.merge("side", &merged, MergeOptions::default()).unwrap();
    assert_eq!(forward, MergeOutcome::FastForward { head: merged });
    assert_eq!(database.merge_base(&merged, &side).unwrap(), Some(side));
}

#[test]
fn an_amend_during_a_merge_is_refused_and_a_dropped_table_takes_its_conflicts_along() {
    let database = Database::memory().unwrap();
    put(&database, "main", "t", &[("a", "0")]);
    let base = commit(&database, "main", "base");
    database.create_branch("side", Some(base)).unwrap();
    put(&database, "side", "t", &[("a", "side")]);
    let side = commit(&database, "side", "side");
    put(&database, "main", "t", &[("a", "main")]);
    commit(&database, "main", "main");
    database.merge("main", &side, MergeOptions::default()).unwrap();
    let mut transaction = database.begin("main").unwrap();
    transaction.drop_table("t").unwrap();
    transaction.commit().unwrap();
    assert_eq!(database.conflicts("main").unwrap(), []);
    let amend = database.commit("main", NewCommit { amend: true, ..NewCommit::default() });
    assert!(matches!(amend, Err(Error::MergeUnderWay { .. })));
}

#[test]
fn a_table_made_and_dropped_in_one_transaction_leaves_nothing() {
    let database = Database::memory().unwrap();
    let mut transaction = database.begin("main").unwrap();
    transaction.create_table("x", None).unwrap();
    transaction.create_table("kept", None).unwrap();
    transaction.drop_table("x").unwrap();
    assert!(matches!(transaction.put("x", b"k", b"v"), Err(Error::UnknownTable { .. })));
    assert!(matches!(transaction.commit().unwrap(), TransactionOutcome::Committed(_)));
    assert_eq!(get(&database, "main", "kept", "k"), None);
    assert!(database.begin("main").unwrap().has_table("kept").unwrap());
}

#[test]
fn work_in_the_middle_of_a_merge_is_sent_with_what_is_merged() {
    let (source, copy) = (Database::memory().unwrap(), Database::memory().unwrap());
    put(&source, "main", "t", &[("a", "0")]);
    let base = commit(&source, "main", "base");
    source.create_branch("side", Some(base)).unwrap();
    for n in 0..3 {
        put(&source, "side", "t", &[("a", &format!("side {n}"))]);
        commit(&source, "side", "side");
    }
    let side = source.branch("side").unwrap().unwrap().head.unwrap();
    put(&source, "main", "t", &[("a", "main")]);
    let head = commit(&source, "main", "main");
    assert_eq!(
        source.merge("main", &side, MergeOptions::default()).unwrap(),
        MergeOutcome::Conflicts { count: 1 }
    );
    let work = source.branch("main").unwrap().unwrap().work;
    // The branch that is merged is not among what is asked for: the work alone reaches it.
    transfer(&source, &copy, &[head, work], &[]);
    assert_eq!(transfer(&source, &copy, &[head, work], &[head, work]), 0);
}

#[test]
fn a_typed_table_is_sent_with_its_columns_and_indexes() {
    let (source, copy) = (Database::memory().unwrap(), Database::memory().unwrap());
    let column = |(id, name): (u32, &str)| row::Column { id, name: name.into(), ty: row::Type::Int };
    let schema = Schema::new([(0, "id"), (1, "a")].map(column).to_vec(), vec![0]).unwrap();
    let mut held = Vec::new();
    let row = |n: i64| [row::Value::Int(n), row::Value::Int(n % 10)];
    for step in 0..3 {
        let mut transaction = source.begin("main").unwrap();
        match step {
            0 => transaction.create_table("t", Some(schema.clone())).unwrap(),
            1 => transaction.create_index("t", "by_a", &["a"], false).unwrap(),
            _ => {
                transaction.add_column("t", "b", row::Type::Int, row::Value::Int(1)).unwrap();
                transaction.rename_column("t", "a", "c").unwrap();
            }
        }
        for n in 0..1000 {
            let (key, value) = schema.encode_row(&row(n * 3 + step)).unwrap();
            transaction.put("t", &key, &value).unwrap();
        }
        transaction.commit().unwrap();
        let head = commit(&source, "main", "step");
        transfer(&source, &copy, &[head], &held);
        held = vec![head];
        let root = source.commit_object(&head).unwrap().root;
        let table = copy.snapshot_of_root(root).unwrap().table("t").unwrap().unwrap();
        if step > 0 {
            let by_a = table.index("by_a").unwrap().unwrap();
            let found = by_a.scan(&[row::Value::Int(7)]).unwrap().count();
            assert_eq!(found as i64, (0..1000 * 3).filter(|n| n % 3 <= step && n % 10 == 7).count() as i64);
        }
    }
}

#[test]
fn a_preferred_side_decides_conflicts_at_once() {
    for (prefer, expected) in [(Side::Ours, "main"), (Side::Theirs, "side")] {
        let database = Database::memory().unwrap();
        put(&database, "main", "t", &[("a", "0")]);
        let base = commit(&database, "main", "base");
        database.create_branch("side", Some(base)).unwrap();
        put(&database, "side", "t", &[("a", "side")]);
        let side = commit(&database, "side", "side");
        put(&database, "main", "t", &[("a", "main")]);
        commit(&database, "main", "main");
        let options = MergeOptions { prefer: Some(prefer), ..MergeOptions::default() };
        assert!(matches!(database.merge("main", &side, options).unwrap(), MergeOutcome::Merged { .. }));
        assert_eq!(get(&database, "main", "t", "a").as_deref(), Some(expected));
    }
}

#[test]
fn a_table_dropped_here_and_changed_there_is_refused() {
    let database = Database::memory().unwrap();
    put(&database, "main", "t", &[("a", "0")]);
    let base = commit(&database, "main", "base");
    database.create_branch("side", Some(base)).unwrap();
    put(&database, "side", "t", &[("a", "1")]);
    let side = commit(&database, "side", "side");
    let mut transaction = database.begin("main").unwrap();
    transaction.drop_table("t").unwrap();
    transaction.commit().unwrap();
    commit(&database, "main", "dropped");
    let before = database.root().unwrap();
    let refused = database.merge("main", &side, MergeOptions::default());
    assert!(matches!(refused, Err(Error::TableConflict { .. })));
    assert_eq!(database.root().unwrap(), before);
}

#[test]
fn changes_walked_where_they_lie_are_those_listed_and_counted() {
    let database = Database::memory().unwrap();
    let long = |text: &str| text.repeat(1000);
    put(&database, "main", "t", &[("a", "1"), ("b", &long("old")), ("c", "3"), ("d", &long("gone"))]);
    let from = database.branch("main").unwrap().unwrap().work;
    let before = database.snapshot_of_root(from).unwrap();
    put(&database, "main", "t", &[("a", "2"), ("b", &long("new")), ("e", &long("made")), ("f", "5")]);
    let mut transaction = database.begin("main").unwrap();
    assert!(transaction.delete("t", b"d").unwrap());
    transaction.commit().unwrap();
    let after = database.snapshot_of_root(database.branch("main").unwrap().unwrap().work).unwrap();
    let differences = before.diff(&after).unwrap();
    let [difference] = differences.as_slice() else { panic!("one table changed") };
    let listed: Vec<Change> = difference.changes().unwrap().map(|change| change.unwrap()).collect();
    assert_eq!(listed.iter().map(|change| change.key[0]).collect::<Vec<_>>(), b"abdef");
    assert_eq!(listed[1].new, Some(long("new").into_bytes()));
    let mut walked = Vec::new();
    let copy = |value: Option<&[u8]>| value.map(<[u8]>::to_vec);
    let each = |key: &[u8], old: Option<&[u8]>, new: Option<&[u8]>| {
        walked.push(Change { key: key.to_vec(), old: copy(old), new: copy(new) });
    };
    difference.changes().unwrap().for_each(each).unwrap();
    assert_eq!(walked, listed);
    let stat = difference.stat().unwrap();
    assert_eq!((stat.inserted, stat.updated, stat.deleted), (2, 2, 1));
}

#[test]
fn revisions_are_found_by_every_spelling() {
    let database = Database::memory().unwrap();
    put(&database, "main", "t", &[("a", "1")]);
    let first = commit(&database, "main", "first");
    put(&database, "main", "t", &[("a", "2")]);
    let second = commit(&database, "main", "second");
    database.create_tag("v1", first).unwrap();
    let found = |revision: &str| database.resolve(revision, "main");
    let hex = second.to_string();
    for (revision, expected) in [
        ("HEAD", second),
        ("main", second),
        ("HEAD~1", first),
        ("HEAD~~0", first),
        ("main~", first),
        ("v1", first),
        (&hex, second),
        (&hex[..8], second),
    ] {
        assert_eq!(found(revision).unwrap(), Revision::Commit(expected), "{revision}");
    }
    assert!(matches!(found("@work").unwrap(), Revision::Work { .. }));
    for revision in ["nope", "HEAD~2", "abcdef01", "@work~1", &hex[..7]] {
        assert!(matches!(found(revision), Err(Error::UnknownRevision { .. })), "{revision}");
    }
    let log: Vec<Hash> = database.log(&second).unwrap().map(|entry| entry.unwrap().0).collect();
    assert_eq!(log.len(), 2);
}

#[test]
fn reset_and_amend_keep_what_they_overwrite() {
    let database = Database::memory().unwrap();
    put(&database, "main", "t", &[("a", "1")]);
    let first = commit(&database, "main", "first");
    put(&database, "main", "t", &[("a", "2")]);
    let second = commit(&database, "main", "second");
    database.reset("main", &first, false).unwrap();
    assert_eq!(get(&database, "main", "t", "a").as_deref(), Some("2"));
    assert!(database.status("main").unwrap().dirty);
    database.reset("main", &first, true).unwrap();
    assert_eq!(get(&database, "main", "t", "a").as_deref(), Some("1"));
    let kept: HashSet<Hash> = database.refs("recovery/").into_iter().map(|(_, hash)| hash).collect();
    assert!(kept.contains(&second));
    let amended = NewCommit { message: "better".into(), amend: true, ..NewCommit::default() };
    let amended = database.commit("main", amended).unwrap().hash;
    assert_eq!(database.commit_object(&amended).unwrap().parents, []);
}

#[test]
fn settings_are_durable_text() {
    let database = Database::memory().unwrap();
    database.set_setting("remote.origin.url", Some("http://h/db")).unwrap();
    database.set_setting("remote.backup.url", Some("http://h/b")).unwrap();
    assert_eq!(database.settings("remote.").unwrap().len(), 2);
    database.set_setting("remote.backup.url", None).unwrap();
    assert_eq!(database.setting("remote.backup.url").unwrap(), None);
    assert_eq!(database.setting("remote.origin.url").unwrap().as_deref(), Some("http://h/db"));
}

#[test]
fn a_token_reads_as_it_prints() {
    let token = put(&Database::memory().unwrap(), "main", "t", &[("a", "1")]);
    assert_eq!(token.to_string().parse::<Token>().unwrap(), token);
    assert!("1.2".parse::<Token>().is_err());
}

/// Applies a difference to a copy as a receiver would; fails if the closure of a chunk would be incomplete.
fn transfer(from: &Database, to: &Database, targets: &[Hash], bases: &[Hash]) -> usize {
    let sent: Vec<Sent> = difference(from, targets, bases).unwrap().map(|sent| sent.unwrap()).collect();
    let mut index = 0;
    let mut batch = Batch::default();
    while index < sent.len() {
        assert!(sent[index].child.is_none());
        receive(to, &sent, &mut index, None, &mut batch);
    }
    assert!(matches!(to.update_refs(batch, &[]).unwrap(), Outcome::Appended(_)));
    sent.len()
}

fn receive(to: &Database, sent: &[Sent], index: &mut usize, parent_base: Option<&Chunk>, batch: &mut Batch) {
    let Sent { chunk, base, follow, .. } = &sent[*index];
    *index += 1;
    check_chunk(chunk).unwrap();
    let base = match base {
        None => None,
        Some(Base::Hash(hash)) => Some(to.store().get(hash).unwrap().or(batch.get(hash).cloned()).unwrap()),
        Some(Base::Child(i)) => {
            let hash = parent_base.unwrap().child(*i as usize).unwrap();
            let base = to.store().get(&hash).unwrap().or(batch.get(&hash).cloned()).unwrap();
            assert_eq!((base.kind(), base.level()), (chunk.kind(), chunk.level()));
            Some(base)
        }
    };
    for (i, child) in chunk.children().enumerate() {
        if follow.contains(&(i as u32)) {
            assert_eq!(*sent[*index].chunk.hash(), child);
            assert!(sent[*index].child.is_some());
            receive(to, sent, index, base.as_ref(), batch);
        } else {
            assert!(
                to.store().contains(&child) || batch.contains(&child),
                "child {i} is neither sent nor held"
            );
        }
    }
    batch.put(chunk.clone(), base.map(|base| *base.hash()));
}

#[derive(Debug, Clone)]
enum Step {
    Put { branch: u8, key: u16, value: u8 },
    Fill { branch: u8, from: u16 },
    Delete { branch: u8, from: u16 },
    Commit { branch: u8 },
    Branch { from: u8 },
    Merge { into: u8, from: u8 },
    Send,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let branch = 0u8..3;
    let step = prop_oneof![
        4 => (branch.clone(), 0u16..2000, any::<u8>()).prop_map(|(branch, key, value)| Step::Put { branch, key, value }),
        1 => (branch.clone(), 0u16..2000).prop_map(|(branch, from)| Step::Fill { branch, from }),
        1 => (branch.clone(), 0u16..2000).prop_map(|(branch, from)| Step::Delete { branch, from }),
        3 => branch.clone().prop_map(|branch| Step::Commit { branch }),
        1 => branch.clone().prop_map(|from| Step::Branch { from }),
        2 => (branch.clone(), branch).prop_map(|(into, from)| Step::Merge { into, from }),
        2 => Just(Step::Send),
    ];
    prop::collection::vec(step, 1..30)
}

fn run(database: &Database, step: &Step) {
    let branches = database.branches().unwrap();
    let name = |n: &u8| branches[usize::from(*n) % branches.len()].name.clone();
    let edit = |branch: &u8, rows: &[(Vec<u8>, Option<Vec<u8>>)]| {
        let mut transaction = database.begin(&name(branch)).unwrap();
        if !transaction.has_table("t").unwrap() {
            transaction.create_table("t", None).unwrap();
        }
        for (key, value) in rows {
            match value {
                Some(value) => transaction.put("t", key, value).unwrap(),
                None => drop(transaction.delete("t", key).unwrap()),
            }
        }
        transaction.commit().unwrap();
    };
    let key = |n: u16| format!("key {n:05}").into_bytes();
    match step {
        Step::Put { branch, key: n, value } => {
            edit(branch, &[(key(*n), Some(vec![*value; usize::from(*value) * 20]))]);
        }
        Step::Fill { branch, from } => {
            let rows: Vec<_> = (*from..from + 700).map(|n| (key(n), Some(vec![1; 50]))).collect();
            edit(branch, &rows);
        }
        Step::Delete { branch, from } => {
            let rows: Vec<_> = (*from..from + 500).map(|n| (key(n), None)).collect();
            edit(branch, &rows);
        }
        Step::Commit { branch } => {
            let _ =
                database.commit(&name(branch), NewCommit { date_micros: Some(0), ..NewCommit::default() });
        }
        Step::Branch { from } => {
            let at = database.branch(&name(from)).unwrap().unwrap().head;
            if branches.len() < 3 {
                database.create_branch(&format!("b{}", branches.len()), at).unwrap();
            }
        }
        Step::Merge { into, from } => {
            if let Some(head) = database.branch(&name(from)).unwrap().unwrap().head {
                let options = MergeOptions {
                    prefer: Some(Side::Ours),
                    date_micros: Some(0),
                    ..MergeOptions::default()
                };
                let _ = database.merge(&name(into), &head, options);
            }
        }
        Step::Send => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_difference_completes_a_copy_of_any_history(steps in steps()) {
        let (source, copy) = (Database::memory().unwrap(), Database::memory().unwrap());
        let mut held: Vec<Hash> = Vec::new();
        for step in steps.iter().chain([&Step::Send]) {
            run(&source, step);
            if matches!(step, Step::Send) {
                let targets: Vec<Hash> = ["heads/", "work/"].iter()
                    .flat_map(|prefix| source.refs(prefix)).map(|(_, hash)| hash).collect();
                transfer(&source, &copy, &targets, &held);
                held.extend(&targets);
                prop_assert_eq!(transfer(&source, &copy, &targets, &held), 0, "nothing is sent twice");
            }
        }
    }
}

/// Roots pinned and holds taken.
fn kept(database: &Database) -> (u64, u64) {
    let stats = database.store().stats();
    (stats.pinned_roots, stats.holds)
}

#[test]
fn a_root_stays_pinned_until_the_last_that_reads_it_goes() {
    let database = Database::memory().unwrap();
    put(&database, "main", "t", &[("a", "1")]);
    let first = commit(&database, "main", "first");
    put(&database, "main", "t", &[("b", "2")]);
    let second = commit(&database, "main", "second");
    assert_eq!(kept(&database), (0, 0));
    let snapshot =
        |commit: &Hash| database.snapshot_of_root(database.commit_object(commit).unwrap().root).unwrap();
    let scan = {
        let table = snapshot(&second).table("t").unwrap().unwrap();
        table.scan(Bound::Unbounded, Bound::Unbounded).unwrap()
    };
    assert_eq!(kept(&database), (1, 0), "the snapshot and the table are gone, the scan is not");
    drop(scan);
    assert_eq!(kept(&database), (0, 0));
    let changes = {
        let diffs = snapshot(&first).diff(&snapshot(&second)).unwrap();
        diffs[0].changes().unwrap()
    };
    assert_eq!(kept(&database), (2, 0), "both sides");
    assert_eq!(changes.count(), 1);
    let transaction = database.begin("main").unwrap();
    assert_eq!(kept(&database), (1, 0));
    drop(transaction);
    let log = database.log(&second).unwrap();
    let sent = difference(&database, &[second], &[first]).unwrap();
    assert_eq!(kept(&database), (2, 0));
    drop(log);
    drop(sent);
    database.status("main").unwrap();
    database.conflicts("main").unwrap();
    database.merge_base(&first, &second).unwrap();
    database.resolve(&first.to_string()[..9], "main").unwrap();
    assert_eq!(kept(&database), (0, 0));
}

#[test]
fn what_is_written_ahead_is_held_until_it_is_committed_or_given_up() {
    let database = Database::memory().unwrap();
    let value = "x".repeat(1000);
    let load = || {
        let mut transaction = database.begin("main").unwrap();
        if !transaction.has_table("t").unwrap() {
            transaction.create_table("t", None).unwrap();
        }
        let chunks = database.store().stats().chunks;
        transaction.load("t", (0..20_000_u32).map(|i| (i.to_be_bytes(), value.as_bytes()))).unwrap();
        (transaction, database.store().stats().chunks - chunks)
    };
    let (given_up, written) = load();
    assert!(written > 100, "more than one batch is in the store");
    assert_eq!(kept(&database), (1, 1));
    drop(given_up);
    assert_eq!(kept(&database), (0, 0));
    let (transaction, _) = load();
    transaction.commit().unwrap();
    assert_eq!(kept(&database), (0, 0));
    let planned = database.write(|_, _| Ok(kept(&database))).unwrap().0;
    assert_eq!(planned, (0, 1), "every change holds what it writes while it is planned");
}

#[test]
fn no_ref_is_set_to_what_is_not_there() {
    let database = Database::memory().unwrap();
    put(&database, "main", "t", &[("a", "1")]);
    commit(&database, "main", "first");
    let absent = Hash::of(b"absent");
    let update = RefUpdate { name: "tags/v1".into(), old: None, new: Some(absent) };
    let refused = database.update_refs(Batch::default(), std::slice::from_ref(&update));
    assert!(matches!(refused, Err(Error::Missing { hash }) if hash == absent));
    let refused = database.write(|_, updates| {
        updates.push(update);
        Ok(())
    });
    assert!(matches!(refused, Err(Error::Missing { hash }) if hash == absent));
    assert_eq!((database.get_ref("tags/v1"), kept(&database)), (None, (0, 0)));
}

#[test]
fn a_branch_without_a_commit_needs_no_empty_map_in_the_store() {
    let database = Database::memory().unwrap();
    put(&database, "main", "t", &[("a", "1")]);
    let empty = database.committed_root(None).unwrap();
    assert!(database.status("main").unwrap().dirty);
    database.create_branch("side", None).unwrap();
    database.reset("side", &commit(&database, "main", "first"), true).unwrap();
    assert_eq!(database.refs("recovery/"), [], "an empty map is no loss");
    let bare = Store::memory(Options::default());
    assert!(Snapshot::new(&bare, empty).unwrap().tables().unwrap().is_empty());
}

/// Collects, and checks that what is left is whole. Gives how many chunks went.
fn collect(database: &Database) -> u64 {
    let collected = database.store().collect(false).unwrap();
    assert_eq!(database.fsck().unwrap().damages, []);
    collected.dead_chunks
}

#[test]
fn a_collection_leaves_what_is_read_and_takes_it_when_nobody_does() {
    type Reading = Box<dyn FnOnce() -> usize>;
    type Begin = fn(&Database, Hash, Hash) -> Reading;
    fn at(database: &Database, commit: Hash) -> Snapshot {
        database.snapshot_of_root(database.commit_object(&commit).unwrap().root).unwrap()
    }
    let scan: Begin = |database, _, second| {
        let table = at(database, second).table("t").unwrap().unwrap();
        let mut scan = table.scan(Bound::Unbounded, Bound::Unbounded).unwrap();
        assert!(scan.next().is_some());
        Box::new(move || scan.map(Result::unwrap).count() + 1)
    };
    let changes: Begin = |database, first, second| {
        let diffs = at(database, first).diff(&at(database, second)).unwrap();
        let changes = diffs.iter().find(|diff| diff.table == "t").unwrap().changes().unwrap();
        drop(diffs);
        Box::new(move || changes.map(Result::unwrap).count())
    };
    let log: Begin = |database, _, second| {
        let log = database.log(&second).unwrap();
        Box::new(move || log.map(Result::unwrap).count())
    };
    let sent: Begin = |database, first, second| {
        let sent = difference(database, &[second], &[first]).unwrap();
        Box::new(move || sent.map(Result::unwrap).count().min(5))
    };
    let transaction: Begin = |database, _, _| {
        let mut transaction = database.begin("main").unwrap();
        Box::new(move || transaction.get("t", b"00007").unwrap().map_or(0, |value| value.len()))
    };
    for (what, begin, expected) in [
        ("a scan", scan, 3000),
        ("changes", changes, 1),
        ("a log", log, 2),
        ("what a peer lacks", sent, 5),
        ("a transaction", transaction, 7),
    ] {
        let dir = tempfile::tempdir().unwrap();
        // Without a cache, which would still have what is gone.
        let options = Options { cache_bytes: 0, ..Options::default() };
        let database = Database::init(&dir.path().join("db"), options).unwrap();
        let rows: Vec<(String, String)> =
            (0..3000).map(|i| (format!("{i:05}"), format!("value {i}"))).collect();
        let rows: Vec<(&str, &str)> =
            rows.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        put(&database, "main", "t", &rows);
        let first = commit(&database, "main", "first");
        put(&database, "main", "t", &[("00001", "changed")]);
        put(&database, "main", "u", &rows[..10]);
        let second = commit(&database, "main", "second");
        let reading = begin(&database, first, second);
        // What it reads loses its last ref.
        let (work, empty) = (database.get_ref("work/main"), database.committed_root(None).unwrap());
        let updates = [
            RefUpdate { name: "heads/main".into(), old: Some(second), new: None },
            RefUpdate { name: "work/main".into(), old: work, new: Some(empty) },
        ];
        assert!(matches!(database.update_refs(Batch::default(), &updates), Ok(Outcome::Appended(_))));
        collect(&database);
        assert_eq!(reading(), expected, "{what}");
        assert_eq!(kept(&database), (0, 0), "{what}");
        collect(&database);
        assert!(matches!(database.commit_object(&first), Err(Error::Missing { .. })), "{what} is over");
        assert_eq!(database.status("main").unwrap().tables, []);
        assert!(matches!(database.create_tag("v1", second), Err(Error::Missing { .. })));
    }
}

#[test]
fn a_collection_leaves_what_is_written_ahead() {
    let database = Database::memory().unwrap();
    let value = "x".repeat(900);
    let mut transaction = database.begin("main").unwrap();
    transaction.create_table("t", None).unwrap();
    transaction.load("t", (0..20_000_u32).map(|i| (i.to_be_bytes(), value.as_bytes()))).unwrap();
    database.store().collect(false).unwrap();
    assert!(matches!(transaction.commit().unwrap(), TransactionOutcome::Committed(_)));
    assert!(collect(&database) <= 1, "the empty map of the first work, and nothing else");
    let work = database.branch("main").unwrap().unwrap().work;
    let table = database.snapshot_of_root(work).unwrap().table("t").unwrap().unwrap();
    assert_eq!(table.scan(Bound::Unbounded, Bound::Unbounded).unwrap().count(), 20_000);

    let (_, sequence) = database
        .write(|writer, _| {
            // A change that has spilled is collected under, and then given up.
            for i in 0..10_000_u32 {
                let chunk = Chunk::build(2, 0, &[&i.to_be_bytes(), value.as_bytes()].concat(), None, &[], 0);
                writer.put(chunk, None)?;
            }
            assert_eq!(self::collect(&database), 0, "it is held");
            Ok(())
        })
        .unwrap();
    assert_eq!(sequence, database.sequence());
    assert!(collect(&database) > 9_000, "and nothing holds it now");
}

#[test]
fn writers_readers_and_collections_at_once_lose_nothing() {
    const WRITERS: usize = 3;
    let dir = tempfile::tempdir().unwrap();
    let options = Options { journal_bytes: 256 << 10, cache_bytes: 1 << 20, ..Options::default() };
    let database = Database::init(&dir.path().join("db"), options).unwrap();
    for writer in 0..WRITERS {
        let name = format!("b{writer}");
        database.create_branch(&name, None).unwrap();
        put(&database, &name, "t", &[("k", "0")]);
        commit(&database, &name, "0");
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    let (collections, checks) = std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut collections = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) || collections < 3 {
                database.store().collect(false).unwrap();
                collections += 1;
            }
            collections
        });
        let checker = scope.spawn(|| {
            let mut checks = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) || checks < 3 {
                assert_eq!(database.fsck().unwrap().damages, []);
                checks += 1;
            }
            checks
        });
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let database = &database;
                scope.spawn(move || {
                    let name = format!("b{writer}");
                    for round in 1..60 {
                        let text = format!("{round}");
                        let rows: Vec<(String, String)> = (0..200)
                            .map(|i| (format!("{:03}", (i * 7 + round) % 500), format!("{round} {i}")))
                            .collect();
                        let rows: Vec<(&str, &str)> =
                            rows.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                        put(database, &name, "t", &rows);
                        put(database, &name, "t", &[("k", &text)]);
                        match round % 3 {
                            // What was written is given up: there is something to collect.
                            0 => {
                                let head = database.branch(&name).unwrap().unwrap().head.unwrap();
                                database.reset(&name, &head, true).unwrap();
                                for (kept, old) in database.refs(&format!("recovery/work/{name}/")) {
                                    let drop = RefUpdate { name: kept, old: Some(old), new: None };
                                    let _ = database.update_refs(Batch::default(), &[drop]).unwrap();
                                }
                            }
                            _ => drop(commit(database, &name, &text)),
                        }
                        let status = database.status(&name).unwrap();
                        let count = database.log(&status.head.unwrap()).unwrap().map(Result::unwrap).count();
                        assert!(count > 1 || round < 2);
                        assert!(get(database, &name, "t", "k").is_some());
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        (collector.join().unwrap(), checker.join().unwrap())
    });
    assert!(collections > 0 && checks > 0);
    assert_eq!(kept(&database), (0, 0));
    collect(&database);
    drop(database);
    let database = Database::open(&dir.path().join("db"), Options::default()).unwrap();
    assert_eq!(database.fsck().unwrap().damages, []);
    assert_eq!(get(&database, "b0", "t", "k").as_deref(), Some("59"));
}
