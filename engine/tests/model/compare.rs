//! What a database has, compared with what the plain model has.

use std::{collections::BTreeMap, ops::Bound};

use pleach_engine::{
    Change, Database, Hash, NewCommit, Revision, Snapshot, TableStat,
    row::{Type, Value},
};

use crate::{
    edits::create,
    plain::{self, Branch, Rows, TYPED, Table, Tables, Work, World},
};

const ALL: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Unbounded, Bound::Unbounded);

/// Refs, numbers of rows, and how works differ from heads.
pub(crate) fn cheap(database: &Database, world: &World) {
    assert_eq!(database.current_branch().unwrap(), world.current);
    let tags: Vec<_> = world.tags.iter().map(|(name, at)| (name.clone(), world.commits[*at].hash)).collect();
    assert_eq!(database.tags().unwrap(), tags);
    let hash = |commit: Option<usize>| commit.map(|commit| world.commits[commit].hash);
    let heads: Vec<_> =
        world.branches.iter().map(|(name, branch)| (name.clone(), hash(branch.head))).collect();
    let branches = database.branches().unwrap();
    assert_eq!(branches.iter().map(|one| (one.name.clone(), one.head)).collect::<Vec<_>>(), heads);
    for (found, Branch { work, .. }) in branches.iter().zip(world.branches.values()) {
        let tables = database.snapshot_of_root(found.work).unwrap().tables().unwrap();
        let counts: Vec<_> =
            tables.iter().map(|(name, table)| (name.as_str(), table.rows().unwrap() as usize)).collect();
        let expected: Vec<_> = work.tables.iter().map(|(name, table)| (*name, table.rows.len())).collect();
        assert_eq!(counts, expected, "{}", found.name);
    }
    let (name, branch) = world.branches.iter().next_back().unwrap();
    let status = database.status(name).unwrap();
    assert_eq!(status.dirty, world.is_dirty(branch));
    assert_eq!(status.merging, hash(branch.work.merging));
    assert_eq!(status.conflicts, branch.work.conflicts.len());
    assert_eq!(status.tables, stats(&world.committed(branch.head), &branch.work.tables));
}

/// All that is in every branch, and its history.
pub(crate) fn branches(database: &Database, world: &World) {
    cheap(database, world);
    for (name, Branch { work, head }) in &world.branches {
        let found = database.branch(name).unwrap().unwrap();
        let snapshot = database.snapshot_of_root(found.work).unwrap();
        tables(&snapshot, &work.tables);
        conflicts(database, name, work);
        if work.merging.is_none() {
            assert_eq!(found.work, root_made_at_once(&work.tables), "{name}");
        }
        if let Some(head) = head {
            log(database, world, *head);
        }
    }
}

/// Every row of every branch and commit, all that differs between any two commits, and the history.
pub(crate) fn everything(database: &Database, world: &World) {
    branches(database, world);
    let snapshots: Vec<_> = world
        .commits
        .iter()
        .map(|commit| database.snapshot(&Revision::Commit(commit.hash)).unwrap())
        .collect();
    for (snapshot, commit) in snapshots.iter().zip(&world.commits) {
        tables(snapshot, &commit.tables);
    }
    for (a, from) in world.commits.iter().enumerate() {
        for (b, to) in world.commits.iter().enumerate() {
            differences([&snapshots[a], &snapshots[b]], [&from.tables, &to.tables]);
            let base = world.merge_base(a, b);
            let found = database.merge_base(&from.hash, &to.hash).unwrap();
            assert_eq!(found, base.map(|base| world.commits[base].hash));
            assert_eq!(database.is_ancestor(&from.hash, &to.hash).unwrap(), base == Some(a));
        }
    }
    let report = database.fsck().unwrap();
    assert!(report.damages.is_empty(), "{report:?}");
}

/// The log of a commit: what it reaches, newest first.
fn log(database: &Database, world: &World, head: usize) {
    let found = database.log(&world.commits[head].hash).unwrap();
    let found: Vec<_> = found
        .map(|entry| entry.unwrap())
        .map(|(hash, commit)| (hash, commit.parents, commit.lineage.generation))
        .collect();
    let expected: Vec<_> = world
        .ancestors(head)
        .into_iter()
        .rev()
        .map(|at| {
            let commit = &world.commits[at];
            let parents: Vec<Hash> =
                commit.parents.iter().map(|parent| world.commits[*parent].hash).collect();
            (commit.hash, parents, commit.generation)
        })
        .collect();
    assert_eq!(found, expected);
}

fn conflicts(database: &Database, branch: &str, work: &Work) {
    let found = database.conflicts(branch).unwrap();
    let found: Vec<_> =
        found.into_iter().map(|one| (one.table, one.key, [one.base, one.ours, one.theirs])).collect();
    let expected = work.conflicts.iter();
    let expected: Vec<_> =
        expected.map(|((table, key), sides)| (table.to_string(), key.clone(), sides.clone())).collect();
    assert_eq!(found, expected, "{branch}");
}

/// All tables of a view, and each from both ends, by rank and by index.
pub(crate) fn tables(snapshot: &Snapshot, expected: &Tables) {
    let found = snapshot.tables().unwrap();
    assert!(found.iter().map(|(name, _)| name.as_str()).eq(expected.keys().copied()));
    for ((name, table), Table { salt, counted, rows }) in found.iter().zip(expected.values()) {
        assert_eq!(table.definition().config.salt, *salt);
        let scan = || table.scan(ALL.0, ALL.1).unwrap();
        assert!(scan().map(|row| row.unwrap()).eq(rows.clone()), "{name}");
        assert!(scan().rev().map(|row| row.unwrap()).eq(rows.clone().into_iter().rev()), "{name} backwards");
        let bytes: usize = rows.keys().map(Vec::len).sum();
        assert!(table.bytes().unwrap() as usize >= bytes);
        places(table, rows);
        if name == TYPED {
            assert_eq!(table.check_indexes().unwrap(), Vec::<String>::new());
            indexes(table, *counted, rows);
        }
    }
}

/// Counts, ranks and single rows, around some keys.
fn places(table: &pleach_engine::Table, rows: &Rows) {
    for (rank, (key, value)) in rows.iter().enumerate().step_by(17) {
        let beyond = [key.as_slice(), &[0]].concat();
        assert_eq!(table.get(key).unwrap().as_ref(), Some(value));
        assert_eq!(table.get(&beyond).unwrap(), rows.get(&beyond).cloned());
        assert_eq!(table.rank(key).unwrap() as usize, rank);
        assert_eq!(table.select(rank as u64).unwrap(), Some((key.clone(), value.clone())));
        let behind = table.count(Bound::Excluded(key), Bound::Unbounded).unwrap();
        assert_eq!(behind as usize, rows.len() - rank - 1);
        let begins = rows.keys().filter(|other| other.starts_with(key)).count();
        assert_eq!(table.prefix(key).unwrap().count(), begins);
    }
    assert_eq!(table.select(rows.len() as u64).unwrap(), None);
}

/// Which indexes there are, and the rows of each count, by the index of counts.
fn indexes(table: &pleach_engine::Table, counted: bool, rows: &Rows) {
    let found: Vec<_> = table.indexes().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(found, if counted { vec!["by_count", "by_name"] } else { vec!["by_name"] });
    let (schema, Some(index)) = (plain::schema(), table.index("by_count").unwrap()) else { return };
    let mut by_count: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for (key, value) in rows {
        let count = schema.decode_row(key, value).unwrap()[2].to_text(&Type::Int).unwrap();
        by_count.entry(count).or_default().push(key.clone());
    }
    for (count, keys) in by_count {
        let found = index.scan(&[Value::Int(count.parse().unwrap())]).unwrap();
        assert!(found.map(|row| row.unwrap()).eq(keys), "count {count}");
    }
}

/// The differences of all tables: whole, counted, in parts, and stopped and taken up again.
fn differences([from, to]: [&Snapshot; 2], [old, new]: [&Tables; 2]) {
    let found = from.diff(to).unwrap();
    assert_eq!(found.iter().map(|diff| diff.stat().unwrap()).collect::<Vec<_>>(), stats(old, new));
    for diff in &found {
        let [old, new] = [old, new].map(|side| side.get(diff.table.as_str()));
        let expected = changes(old, new);
        assert!(diff.changes().unwrap().map(|change| change.unwrap()).eq(expected.clone()));
        let parts = diff.split(3).unwrap().into_iter().flatten();
        assert!(parts.map(|change| change.unwrap()).eq(expected.clone()));
        if let Some(middle) = expected.get(expected.len() / 2) {
            let rest = diff.changes_after(&middle.key).unwrap().map(|change| change.unwrap());
            assert!(rest.eq(expected[expected.len() / 2 + 1..].iter().cloned()));
        }
    }
}

fn changes(old: Option<&Table>, new: Option<&Table>) -> Vec<Change> {
    let nothing = Rows::new();
    let [old, new] = [old, new].map(|side| side.map_or(&nothing, |table| &table.rows));
    let keys: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let change =
        |key: &Vec<u8>| Change { key: key.clone(), old: old.get(key).cloned(), new: new.get(key).cloned() };
    keys.into_iter().map(change).filter(|change| change.old != change.new).collect()
}

/// Of the tables that differ.
fn stats(old: &Tables, new: &Tables) -> Vec<TableStat> {
    let differ = plain::TABLES.into_iter().filter(|table| old.get(table) != new.get(table));
    differ
        .map(|table| {
            let changes = changes(old.get(table), new.get(table));
            let count = |is: fn(&Change) -> bool| changes.iter().filter(|change| is(change)).count() as u64;
            TableStat {
                table: table.to_owned(),
                inserted: count(|change| change.old.is_none()),
                updated: count(|change| change.old.is_some() && change.new.is_some()),
                deleted: count(|change| change.new.is_none()),
            }
        })
        .collect()
}

/// The root of a branch that got these tables in one transaction, the rows from the last to the first.
pub(crate) fn root_made_at_once(tables: &Tables) -> Hash {
    let database = Database::memory().unwrap();
    let mut transaction = database.begin("main").unwrap();
    for (name, table) in tables {
        create(&mut transaction, name, table.salt, table.counted).unwrap();
        for (key, value) in table.rows.iter().rev() {
            transaction.put(name, key, value).unwrap();
        }
    }
    transaction.commit().unwrap();
    let _ = database.commit("main", NewCommit::default());
    database.branch("main").unwrap().unwrap().work
}
