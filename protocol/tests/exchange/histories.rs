//! Whatever happens to a database, one that fetches now and then has what a fresh clone has.

use proptest::{prelude::*, test_runner::FileFailurePersistence};

use super::*;

/// One thing that happens to the database that is fetched from.
#[derive(Debug, Clone)]
enum Step {
    Put { branch: usize, from: u64, rows: u64, salt: u64 },
    Delete { branch: usize, from: u64, rows: u64 },
    Commit { branch: usize },
    Branch { at: usize },
    Merge { into: usize, from: usize },
    Fetch,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3usize, 0..3000u64, 1..400u64, any::<u64>())
            .prop_map(|(branch, from, rows, salt)| Step::Put { branch, from, rows, salt }),
        2 => (0..3usize, 0..3000u64, 1..600u64).prop_map(|(branch, from, rows)| Step::Delete { branch, from, rows }),
        5 => (0..3usize).prop_map(|branch| Step::Commit { branch }),
        1 => (0..3usize).prop_map(|at| Step::Branch { at }),
        2 => (0..3usize, 0..3usize).prop_map(|(into, from)| Step::Merge { into, from }),
        3 => Just(Step::Fetch),
    ]
}

fn branch_name(db: &Database, index: usize) -> String {
    let branches = db.branches().unwrap();
    branches[index % branches.len()].name.clone()
}

fn apply(db: &Database, step: &Step, number: usize) {
    match step {
        Step::Put { branch, from, rows, salt } => {
            let rows = (*from..from + rows).map(|i| (i, value(i.wrapping_add(*salt))));
            put(db, &branch_name(db, *branch), "t", rows);
        }
        Step::Delete { branch, from, rows } => {
            let mut transaction = db.begin(&branch_name(db, *branch)).unwrap();
            if transaction.has_table("t").unwrap() {
                (*from..from + rows).for_each(|i| {
                    transaction.delete("t", &i.to_be_bytes()).unwrap();
                });
            }
            transaction.commit().unwrap();
        }
        Step::Commit { branch } => {
            // There may be nothing to commit.
            let new = NewCommit { message: number.to_string(), author: "a".into(), ..NewCommit::default() };
            let _ = db.commit(&branch_name(db, *branch), new);
        }
        Step::Branch { at } => {
            let at = db.branch(&branch_name(db, *at)).unwrap().unwrap().head;
            db.create_branch(&format!("b{number}"), at).unwrap();
        }
        Step::Merge { into, from } => {
            let theirs = db.branch(&branch_name(db, *from)).unwrap().unwrap().head;
            let options = MergeOptions {
                author: "a".into(),
                prefer: Some(pleach_engine::Side::Ours),
                ..MergeOptions::default()
            };
            // Uncommitted work, or unrelated changes, may stand in the way.
            if let Some(theirs) = theirs {
                let _ = db.merge(&branch_name(db, *into), &theirs, options);
            }
        }
        Step::Fetch => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 12,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]
    #[test]
    fn a_database_that_fetches_along_any_history_has_what_a_fresh_clone_has(
        steps in proptest::collection::vec(step(), 1..40)
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Server::start().await;
            let db = server.databases.create("shop").unwrap();
            let copy = server.clone("shop").await;
            for (number, step) in steps.iter().enumerate() {
                apply(&db, step, number);
                if matches!(step, Step::Fetch) {
                    copy.fetch().await;
                }
            }
            copy.fetch().await;
            let heads = |db: &Database, prefix: &str| -> Vec<(String, Hash)> {
                let refs = db.refs(prefix).into_iter();
                refs.map(|(name, hash)| (name[prefix.len()..].to_owned(), hash)).collect()
            };
            assert_eq!(heads(&copy.db, "remotes/origin/"), heads(&db, "heads/"));
            // Everything that the heads reach is here, and holds the same rows.
            for (name, head) in heads(&db, "heads/") {
                let root = copy.db.commit_object(&head).unwrap().root;
                let here = copy.db.snapshot_of_root(root).unwrap();
                let there = db.snapshot_of_root(root).unwrap();
                let rows = |snapshot: &pleach_engine::Snapshot| match snapshot.table("t").unwrap() {
                    Some(table) => table
                        .scan(std::ops::Bound::Unbounded, std::ops::Bound::Unbounded)
                        .unwrap()
                        .map(Result::unwrap)
                        .collect(),
                    None => Vec::new(),
                };
                assert_eq!(rows(&here), rows(&there), "{name}");
                pleach_engine::difference(&copy.db, &[head], &[]).unwrap().for_each(|sent| drop(sent.unwrap()));
            }
            assert_eq!(heads(&server.clone("shop").await.db, "heads/"), heads(&db, "heads/"));
        });
    }
}
