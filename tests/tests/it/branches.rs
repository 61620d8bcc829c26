//! Branches, tags and merges on the local command line.

use pleach_tests::Sandbox;

use crate::tables::{FRUIT, fruit};

fn upsert(sandbox: &Sandbox, rows: &str) {
    sandbox.write("rows.csv", &format!("id,name,price,ripe,picked\n{rows}\n"));
    sandbox.run(&["-C", "db", "import", "fruit", "rows.csv", "--upsert"]).ok();
}

fn commit(sandbox: &Sandbox, message: &str) {
    sandbox.run(&["-C", "db", "commit", "-m", message]).ok();
}

#[test]
fn branches_keep_their_own_work_and_merge_without_conflict() {
    let sandbox = fruit();
    sandbox.run(&["-C", "db", "branch", "side"]).ok();
    upsert(&sandbox, "1,apple,1.30,true,2024-05-01");
    sandbox.run(&["-C", "db", "switch", "side"]).ok();
    assert_eq!(sandbox.run(&["-C", "db", "export", "fruit"]).ok(), FRUIT, "work stays with its branch");
    upsert(&sandbox, "4,fig,2.00,true,");
    commit(&sandbox, "fig");
    sandbox.run(&["-C", "db", "switch", "main"]).ok();
    let refused = sandbox.run(&["-C", "db", "merge", "side"]).fails(1);
    assert!(refused.contains("commit"), "says what to do first: {refused}");
    commit(&sandbox, "dearer");
    sandbox.run(&["-C", "db", "merge", "side", "-m", "both"]).ok();
    let merged = sandbox.run(&["-C", "db", "export", "fruit"]).ok();
    assert!(merged.contains("1,apple,1.3") && merged.contains("4,fig,2"), "{merged}");
    let log = sandbox.run(&["-C", "db", "log", "-n", "1", "--json"]).json_lines();
    assert_eq!(log[0]["parents"].as_array().unwrap().len(), 2);
}

fn conflicted() -> Sandbox {
    let sandbox = fruit();
    sandbox.run(&["-C", "db", "switch", "side", "-c"]).ok();
    upsert(&sandbox, "2,pear,9.99,false,2024-05-02");
    commit(&sandbox, "theirs");
    sandbox.run(&["-C", "db", "switch", "main"]).ok();
    upsert(&sandbox, "2,pear,1.11,false,2024-05-02");
    commit(&sandbox, "ours");
    sandbox.run(&["-C", "db", "merge", "side"]).fails(1);
    sandbox
}

#[test]
fn a_conflict_waits_and_is_resolved() {
    let sandbox = conflicted();
    assert_eq!(sandbox.run(&["-C", "db", "status", "--json"]).json()["conflicts"], 1);
    let listed = sandbox.run(&["-C", "db", "conflicts"]).ok();
    assert!(listed.contains("fruit") && listed.contains('2'), "{listed}");
    sandbox.run(&["-C", "db", "commit", "-m", "too early"]).fails(1);
    sandbox.run(&["-C", "db", "conflicts", "--resolve", "theirs"]).ok();
    commit(&sandbox, "merged");
    assert!(sandbox.run(&["-C", "db", "get", "fruit", "2"]).ok().contains("9.99"));
    let log = sandbox.run(&["-C", "db", "log", "-n", "1", "--json"]).json_lines();
    assert_eq!(log[0]["parents"].as_array().unwrap().len(), 2);
}

#[test]
fn a_merge_is_aborted_without_trace() {
    let sandbox = conflicted();
    sandbox.run(&["-C", "db", "merge", "--abort"]).ok();
    let status = sandbox.run(&["-C", "db", "status", "--json"]).json();
    assert_eq!((status["dirty"].as_bool(), status["conflicts"].as_u64()), (Some(false), Some(0)));
    assert!(sandbox.run(&["-C", "db", "get", "fruit", "2"]).ok().contains("1.11"));
    sandbox.run(&["-C", "db", "merge", "--abort"]).fails(1);
}

#[test]
fn a_preferred_side_decides() {
    let sandbox = conflicted();
    sandbox.run(&["-C", "db", "merge", "--abort"]).ok();
    sandbox.run(&["-C", "db", "merge", "side", "--prefer", "ours"]).ok();
    assert!(sandbox.run(&["-C", "db", "get", "fruit", "2"]).ok().contains("1.11"));
}

#[test]
fn tags_and_hash_prefixes_name_commits() {
    let sandbox = fruit();
    sandbox.run(&["-C", "db", "tag", "v1"]).ok();
    upsert(&sandbox, "9,kiwi,0.50,true,");
    commit(&sandbox, "kiwi");
    assert_eq!(sandbox.run(&["-C", "db", "export", "fruit", "--at", "v1"]).ok(), FRUIT);
    let hash =
        sandbox.run(&["-C", "db", "log", "--json"]).json_lines()[1]["hash"].as_str().unwrap().to_owned();
    assert_eq!(sandbox.run(&["-C", "db", "export", "fruit", "--at", &hash[..8]]).ok(), FRUIT);
    assert!(sandbox.run(&["-C", "db", "tag"]).ok().contains("v1"));
    sandbox.run(&["-C", "db", "tag", "-d", "v1"]).ok();
    sandbox.run(&["-C", "db", "export", "fruit", "--at", "v1"]).fails(1);
    sandbox.run(&["-C", "db", "tag", "v2", "nothing"]).fails(1);
}

#[test]
fn a_reset_moves_the_head_and_keeps_work_unless_hard() {
    let sandbox = fruit();
    upsert(&sandbox, "9,kiwi,0.50,true,");
    commit(&sandbox, "kiwi");
    sandbox.run(&["-C", "db", "reset", "HEAD~1"]).ok();
    assert!(sandbox.run(&["-C", "db", "get", "fruit", "9"]).status == 0);
    sandbox.run(&["-C", "db", "reset", "HEAD", "--hard"]).ok();
    assert_eq!(sandbox.run(&["-C", "db", "export", "fruit"]).ok(), FRUIT);
}

#[test]
fn branches_are_renamed_and_deleted() {
    let sandbox = fruit();
    sandbox.run(&["-C", "db", "branch", "a"]).ok();
    sandbox.run(&["-C", "db", "branch", "-m", "a", "b/c"]).ok();
    let listed = sandbox.run(&["-C", "db", "branch"]).ok();
    assert!(listed.contains("  b/c\t") && !listed.contains("  a\t"), "{listed}");
    sandbox.run(&["-C", "db", "branch", "-d", "b/c"]).ok();
    sandbox.run(&["-C", "db", "branch", "-d", "main"]).fails(1);
    sandbox.run(&["-C", "db", "switch", "b/c"]).fails(1);
}
