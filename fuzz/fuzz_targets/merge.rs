//! Two branches of one version, each with edits, merged, and what conflicts decided: rows, conflicts and root against maps in memory.
//!
//! Input: `u8` who is preferred (nobody, ours, theirs), and, in bit 7, for whom conflicts are decided; the rows; the edits of ours; those of theirs
//! (see `content`).

#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use pleach_engine::{Conflict, Database, MergeOptions, MergeOutcome, NewCommit, Side};

mod content;

use content::{Bytes, Rows, TABLE};

fuzz_target!(|input: &[u8]| {
    let mut bytes = Bytes(input);
    let first = bytes.byte();
    let prefer = [None, Some(Side::Ours), Some(Side::Theirs)][usize::from(first & 0x7f) % 3];
    let decided = if first & 0x80 == 0 { Side::Ours } else { Side::Theirs };
    let base = bytes.rows();
    let edits = [bytes.edits(), bytes.edits()];
    let [ours, theirs] = edits.each_ref().map(|edits| content::edited(&base, edits));
    let database = content::database(&base);
    commit(&database, "main");
    let head = database.branch("main").expect("refs").expect("a branch").head;
    database.create_branch("other", head).expect("a new branch");
    for (branch, edits) in ["main", "other"].into_iter().zip(&edits) {
        content::write(&database, branch, |transaction| {
            edits.iter().for_each(|edit| edit.write(transaction));
        });
        commit(&database, branch);
    }
    let other = database.branch("other").expect("refs").expect("a branch").head.expect("a version");
    let options = MergeOptions { prefer, ..MergeOptions::default() };
    let outcome = database.merge("main", &other, options).expect("tables of one definition merge");
    let (mut merged, conflicts) = merge(&base, &ours, &theirs, prefer);
    match outcome {
        MergeOutcome::UpToDate => assert_eq!(theirs, base),
        MergeOutcome::FastForward { .. } => assert_eq!(ours, base),
        MergeOutcome::Merged { .. } => assert_eq!(conflicts, []),
        MergeOutcome::Conflicts { count } => assert_eq!(count, conflicts.len()),
    }
    content::check(&content::table(&database, "main"), &merged);
    assert_eq!(database.conflicts("main").expect("reads"), conflicts);
    if conflicts.is_empty() {
        return;
    }
    assert_eq!(database.resolve_conflicts("main", decided).expect("a merge is under way"), conflicts.len());
    for Conflict { key, ours, theirs, .. } in conflicts {
        match if decided == Side::Ours { ours } else { theirs } {
            Some(value) => drop(merged.insert(key, value)),
            None => drop(merged.remove(&key)),
        }
    }
    content::check(&content::table(&database, "main"), &merged);
    commit(&database, "main");
});

/// A version, if there is anything new.
fn commit(database: &Database, branch: &str) {
    let status = database.status(branch).expect("a branch");
    if status.dirty {
        database.commit(branch, NewCommit::default()).expect("something to commit");
    }
}

fn merge(base: &Rows, ours: &Rows, theirs: &Rows, prefer: Option<Side>) -> (Rows, Vec<Conflict>) {
    let (mut merged, mut conflicts) = (ours.clone(), Vec::new());
    for key in base.keys().chain(theirs.keys()).collect::<BTreeSet<_>>() {
        let [base, our, their] = [base, ours, theirs].map(|side| side.get(key).cloned());
        if their == base || their == our {
            continue;
        }
        if our != base && prefer.is_none() {
            let (table, key) = (TABLE.to_owned(), key.clone());
            conflicts.push(Conflict { table, key, base, ours: our, theirs: their });
        } else if our == base || prefer == Some(Side::Theirs) {
            match their {
                Some(value) => drop(merged.insert(key.clone(), value)),
                None => drop(merged.remove(key)),
            }
        }
    }
    (merged, conflicts)
}
