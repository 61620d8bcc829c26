//! Random programs of a transaction, against a plain model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, ops::Bound};

use pleach_chunkstore::Lease;
use proptest::{collection::vec, prelude::*};

use super::{spill, tests::commit_together};
use crate::{
    row::{Column, Type, Value},
    *,
};

/// A raw table and a typed one, by these names.
const TABLES: [&str; 2] = ["raw", "typed"];
const KEYS: u16 = 120;

#[derive(Debug, Clone)]
enum Step {
    Put(usize, u16, u8),
    /// A row is put as it is, or deleted although it is not there: nothing changes, and it is written still.
    PutAgain(usize, u16),
    Delete(usize, u16),
    DeleteRange(usize, u16, u16),
    Load(usize, u16),
    Create(usize),
    Drop(usize),
    AddColumn,
    CreateIndex(bool),
    DropIndex(bool),
    Mark,
    Rollback(usize),
    Release(usize),
    /// Edits are written ahead, and that fails after so many states.
    Fail(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (table, key, mark) = (0..2_usize, 0..KEYS, 0..4_usize);
    prop_oneof![
        20 => (table.clone(), key.clone(), any::<u8>()).prop_map(|(t, k, v)| Step::Put(t, k, v)),
        3 => (table.clone(), key.clone()).prop_map(|(t, k)| Step::PutAgain(t, k)),
        5 => (table.clone(), key.clone()).prop_map(|(t, k)| Step::Delete(t, k)),
        3 => (table.clone(), key.clone(), key.clone()).prop_map(|(t, a, b)| Step::DeleteRange(t, a, b)),
        1 => (table.clone(), key).prop_map(|(t, k)| Step::Load(t, k)),
        1 => table.clone().prop_map(Step::Create),
        1 => table.prop_map(Step::Drop),
        1 => Just(Step::AddColumn),
        1 => any::<bool>().prop_map(Step::CreateIndex),
        1 => any::<bool>().prop_map(Step::DropIndex),
        6 => Just(Step::Mark),
        4 => mark.clone().prop_map(Step::Rollback),
        1 => mark.clone().prop_map(Step::Release),
        2 => mark.prop_map(Step::Fail),
    ]
}

fn programs() -> impl Strategy<Value = Vec<Vec<Step>>> {
    vec(vec(step(), 1..60), 1..3)
}

#[derive(Debug, Clone, PartialEq)]
struct TableModel {
    definition: Definition,
    indexes: BTreeMap<String, IndexDefinition>,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
}

type Model = BTreeMap<&'static str, TableModel>;

fn schema() -> Schema {
    let columns = [("id", Type::Int), ("a", Type::Int)].into_iter().zip(0..);
    let columns = columns.map(|((name, ty), id)| Column { id, name: name.into(), ty }).collect();
    Schema::new(columns, vec![0]).unwrap()
}

fn key_of(table: usize, key: u16) -> Vec<u8> {
    match table {
        0 => key.to_be_bytes().to_vec(),
        _ => schema().encode_key(&[Value::Int(key.into())]).unwrap(),
    }
}

/// A row as the table wants it; in the typed one two may have one `a` only if they are not `apart`.
fn row_of(definition: &Definition, table: usize, key: u16, value: u8, apart: bool) -> (Vec<u8>, Vec<u8>) {
    match &definition.schema {
        None => (key_of(table, key), vec![value; usize::from(value)]),
        Some(schema) => {
            let a = i64::from(value) + if apart { i64::from(key) * 1000 } else { 0 };
            let mut cells = vec![Value::Int(key.into()), Value::Int(a)];
            cells.resize(schema.columns().len(), Value::Null);
            schema.encode_row(&cells).unwrap()
        }
    }
}

fn index_of(unique: bool) -> &'static str {
    if unique { "one_a" } else { "by_a" }
}

/// A transaction beside its model.
struct Run {
    transaction: Transaction,
    model: Model,
    marks: Vec<(Savepoint, Model)>,
    apart: bool,
}

impl Run {
    fn begin(database: &Database, model: &Model, apart: bool) -> Run {
        let transaction = database.begin("main").unwrap();
        Run { transaction, model: model.clone(), marks: Vec::new(), apart }
    }

    fn take(&mut self, step: &Step) {
        let Run { transaction, model, marks, apart } = self;
        let name = match step {
            Step::Put(t, ..) | Step::PutAgain(t, _) | Step::Delete(t, _) | Step::Load(t, _) => TABLES[*t],
            Step::DeleteRange(t, ..) | Step::Create(t) | Step::Drop(t) => TABLES[*t],
            _ => TABLES[1],
        };
        let there = model.get_mut(name);
        match (step, there) {
            (Step::Put(t, key, value), Some(table)) => {
                let (key, value) = row_of(&table.definition, *t, *key, *value, *apart);
                transaction.put(name, &key, &value).unwrap();
                table.rows.insert(key, value);
            }
            (Step::PutAgain(t, key), Some(table)) => {
                let (key, value) = row_of(&table.definition, *t, *key, 1, *apart);
                match table.rows.get(&key) {
                    Some(value) => transaction.put(name, &key, value).unwrap(),
                    None => {
                        transaction.put(name, &key, &value).unwrap();
                        assert!(transaction.delete(name, &key).unwrap());
                    }
                }
            }
            (Step::Delete(t, key), Some(table)) => {
                let key = key_of(*t, *key);
                let there = table.rows.remove(&key).is_some();
                assert_eq!(transaction.delete(name, &key).unwrap(), there);
            }
            (Step::DeleteRange(t, from, to), Some(table)) => {
                let (from, to) = (key_of(*t, *from), key_of(*t, *to));
                transaction.delete_range(name, Bound::Included(&from), Bound::Excluded(&to)).unwrap();
                table.rows.retain(|key, _| *key < from || *key >= to);
            }
            (Step::Load(t, count), Some(table)) => {
                let row = |key| row_of(&table.definition, *t, key, 3, true);
                table.rows = (0..*count).step_by(2).map(row).collect();
                transaction.load(name, &table.rows).unwrap();
            }
            (Step::Create(t), None) => {
                transaction.create_table(name, (*t == 1).then(schema)).unwrap();
                let definition = transaction.definition(name).unwrap().unwrap();
                let (indexes, rows) = Default::default();
                model.insert(name, TableModel { definition, indexes, rows });
            }
            (Step::Drop(_), Some(_)) => {
                transaction.drop_table(name).unwrap();
                model.remove(name);
            }
            (Step::AddColumn, Some(table)) => {
                let column = format!("c{}", table.definition.schema.as_ref().unwrap().columns().len());
                transaction.add_column(name, &column, Type::Int, Value::Null).unwrap();
                table.definition = transaction.definition(name).unwrap().unwrap();
            }
            (Step::CreateIndex(unique), Some(table)) if !table.indexes.contains_key(index_of(*unique)) => {
                transaction.create_index(name, index_of(*unique), &["a"], *unique).unwrap();
                table.indexes = transaction.indexes(name).unwrap();
            }
            (Step::DropIndex(unique), Some(table)) if table.indexes.contains_key(index_of(*unique)) => {
                table.indexes.remove(index_of(*unique));
                transaction.drop_index(name, index_of(*unique)).unwrap();
            }
            (Step::Mark, _) => marks.push((transaction.savepoint(), model.clone())),
            (Step::Rollback(back), _) if !marks.is_empty() => {
                let at = marks.len().saturating_sub(1 + back);
                transaction.rollback_to(&marks[at].0).unwrap();
                model.clone_from(&marks[at].1);
                for (gone, _) in marks.drain(at + 1..) {
                    assert!(matches!(transaction.rollback_to(&gone), Err(Error::UnknownSavepoint)));
                }
            }
            (Step::Release(back), _) if !marks.is_empty() => {
                let at = marks.len().saturating_sub(1 + back);
                let mut gone = marks.drain(at..);
                transaction.release(gone.next().unwrap().0).unwrap();
                for (gone, _) in gone {
                    assert!(matches!(transaction.release(gone), Err(Error::UnknownSavepoint)));
                }
            }
            (Step::Fail(states), _) => {
                let mut left = *states;
                let Transaction { database, snapshot, ahead, edits, .. } = transaction;
                let failed = edits.fold(|tables| {
                    left = left.checked_sub(1).ok_or(Error::Cancelled)?;
                    spill::fold_all(database, snapshot, ahead, tables)
                });
                assert!(matches!(failed, Ok(()) | Err(Error::Cancelled)));
            }
            _ => {}
        }
    }

    /// Compares what the transaction shows with the model.
    fn check(&mut self) {
        let Run { transaction, model, .. } = self;
        assert_eq!(transaction.edits.bytes(), transaction.edits.counted_bytes());
        for (t, name) in TABLES.into_iter().enumerate() {
            let there = model.get(name);
            assert_eq!(transaction.definition(name).unwrap().as_ref(), there.map(|table| &table.definition));
            let Some(table) = there else { continue };
            assert_eq!(transaction.indexes(name).unwrap(), table.indexes);
            for key in 0..KEYS {
                let key = key_of(t, key);
                assert_eq!(transaction.get(name, &key).unwrap().as_ref(), table.rows.get(&key));
            }
        }
    }
}

/// The root of a branch that holds just this; `None` if there can be none.
fn root_of(model: &Model) -> Option<Hash> {
    let database = Database::memory().unwrap();
    let mut transaction = database.begin("main").unwrap();
    for (name, TableModel { definition, indexes, rows }) in model {
        transaction.create_table_with(name, definition.clone()).unwrap();
        transaction.load(name, rows).unwrap();
        for (index, definition) in indexes {
            transaction.set_index(name, index, Some(definition.clone()));
        }
    }
    match transaction.commit() {
        Err(Error::UniqueViolation { .. }) => None,
        committed => committed.map(|_| work(&database)).ok(),
    }
}

fn work(database: &Database) -> Hash {
    database.branch("main").unwrap().unwrap().work
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn savepoints_are_those_of_a_plain_model(programs in programs()) {
        let database = Database::memory().unwrap();
        let mut model = begin_tables(&database);
        for program in programs {
            let mut run = Run::begin(&database, &model, true);
            program.iter().for_each(|step| run.take(step));
            run.check();
            run.transaction.commit().unwrap();
            model = run.model;
            prop_assert_eq!(Some(work(&database)), root_of(&model));
        }
    }
}

/// Makes the tables, with some rows.
fn begin_tables(database: &Database) -> Model {
    let mut run = Run::begin(database, &Model::new(), true);
    for table in 0..TABLES.len() {
        run.take(&Step::Create(table));
        run.take(&Step::Load(table, 90));
    }
    run.transaction.commit().unwrap();
    run.model
}

/// What a commit came to, without what tells two databases apart.
fn outcome(committed: Result<TransactionOutcome>) -> String {
    match committed {
        Ok(TransactionOutcome::Committed(token)) => format!("committed {}", token.root),
        Ok(TransactionOutcome::Unchanged(token)) => format!("unchanged {}", token.root),
        Ok(refused) => format!("{refused:?}"),
        // Which of several violations is told is not promised.
        Err(Error::UniqueViolation { index, .. }) => format!("two rows in {index}"),
        Err(error) => format!("{error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_bound_on_memory_changes_no_outcome(
        programs in programs(), beside in vec(step(), 0..8), bound in 0..3000_u64, apart in any::<bool>(),
    ) {
        let databases = [bound, u64::MAX].map(|work_bytes| Database::memory_with(Options { work_bytes, ..Options::default() }));
        let mut model = begin_tables(&databases[0]);
        begin_tables(&databases[1]);
        for program in programs {
            let outcomes = databases.each_ref().map(|database| {
                let mut run = Run::begin(database, &model, apart);
                let mut other = Run::begin(database, &model, apart);
                for step in &program {
                    run.take(step);
                    // Between two steps there is one row or range more than the bound, and the way back from it.
                    let leased = run.transaction.lease.as_ref().map_or(0, Lease::bytes);
                    prop_assert!(run.transaction.edits.bytes() as u64 <= leased + 1800);
                }
                run.check();
                beside.iter().for_each(|step| other.take(step));
                let first = outcome(other.transaction.commit());
                let second = outcome(run.transaction.commit());
                let model = [run.model, other.model].into_iter().find(|model| root_of(model) == Some(work(database)));
                Ok((first, second, work(database), model))
            });
            let [one, two] = outcomes;
            let (one, two) = (one?, two?);
            prop_assert_eq!((&one.0, &one.1, one.2), (&two.0, &two.1, two.2));
            // Both committed, or something failed: what came of it is in neither model.
            let Some(after) = one.3 else { break };
            model = after;
        }
    }
}

#[test]
fn a_savepoint_that_is_gone_or_of_another_transaction_is_refused() {
    let database = Database::memory().unwrap();
    let (mut one, mut other) = (database.begin("main").unwrap(), database.begin("main").unwrap());
    one.create_table("t", None).unwrap();
    let (first, second) = (one.savepoint(), one.savepoint());
    one.put("t", b"k", b"v").unwrap();
    assert!(matches!(other.rollback_to(&first), Err(Error::UnknownSavepoint)));
    one.rollback_to(&first).unwrap();
    assert!(matches!(one.rollback_to(&second), Err(Error::UnknownSavepoint)));
    one.put("t", b"k", b"w").unwrap();
    assert!(matches!(one.release(second), Err(Error::UnknownSavepoint)));
    assert_eq!(one.get("t", b"k").unwrap(), Some(b"w".to_vec()), "what is refused takes nothing back");
    one.rollback_to(&first).unwrap();
    assert_eq!(one.get("t", b"k").unwrap(), None, "one that was rolled back to is there still");
    one.release(first).unwrap();
    assert!(one.edits.bytes() == 0 && one.has_table("t").unwrap());
}

#[test]
fn a_savepoint_costs_what_is_changed_after_it() {
    let database = Database::memory().unwrap();
    let mut transaction = database.begin("main").unwrap();
    transaction.create_table("t", None).unwrap();
    for n in 0..20_000_u32 {
        transaction.put("t", &n.to_be_bytes(), &[1; 100]).unwrap();
    }
    let before = transaction.edits.bytes();
    let marks: Vec<_> = (0..1000).map(|_| transaction.savepoint()).collect();
    assert_eq!(transaction.edits.bytes(), before);
    transaction.put("t", &7_u32.to_be_bytes(), &[2; 100]).unwrap();
    assert!(transaction.edits.bytes() < before + 400);
    transaction.rollback_to(&marks[0]).unwrap();
    assert_eq!(transaction.edits.bytes(), before);
    assert_eq!(transaction.get("t", &7_u32.to_be_bytes()).unwrap(), Some(vec![1; 100]));
}

/// A database that keeps few edits in memory, with a typed table of many rows and an index.
fn small() -> (tempfile::TempDir, Database, Schema) {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { work_bytes: 20_000, ..Options::default() };
    let database = Database::init(&dir.path().join("db"), options).unwrap();
    let mut transaction = database.begin("main").unwrap();
    transaction.create_table("typed", Some(schema())).unwrap();
    transaction.create_index("typed", "one_a", &["a"], true).unwrap();
    for key in 0..4000 {
        let (key, value) = schema().encode_row(&[Value::Int(key), Value::Int(key)]).unwrap();
        transaction.put("typed", &key, &value).unwrap();
    }
    assert!(transaction.edits.bytes() < 20_200);
    transaction.commit().unwrap();
    (dir, database, schema())
}

#[test]
fn a_transaction_larger_than_memory_keeps_indexes_in_step_and_survives_a_collection() {
    let (_dir, database, schema) = small();
    let mut transaction = database.begin("main").unwrap();
    let (mut most, mut mark) = (0, None);
    // Each value of the unique index moves to the row before.
    for key in 0..4000 {
        let (key, value) = schema.encode_row(&[Value::Int(key), Value::Int((key + 1) % 4000)]).unwrap();
        transaction.put("typed", &key, &value).unwrap();
        most = most.max(transaction.edits.bytes());
        if mark.is_none() && most > 15_000 {
            mark = Some(transaction.savepoint());
        }
    }
    assert!(most < 20_300, "{most} bytes of edits in memory");
    database.store().collect(false).unwrap();
    let others = |id: i64, a: i64| {
        let mut other = database.begin("main").unwrap();
        let (key, value) = schema.encode_row(&[Value::Int(id), Value::Int(a)]).unwrap();
        other.put("typed", &key, &value).unwrap();
        other.commit().unwrap()
    };
    assert!(matches!(others(9000, 9000), TransactionOutcome::Committed(_)));
    database.store().collect(false).unwrap();
    transaction.commit().unwrap();
    let table = |work| database.snapshot_of_root(work).unwrap().table("typed").unwrap().unwrap();
    let now = table(work(&database));
    let entries = now.index("one_a").unwrap().unwrap().scan(&[]).unwrap();
    assert_eq!((now.rows().unwrap(), entries.count()), (4001, 4001));
    assert_eq!(now.check_indexes().unwrap(), [""; 0]);
    let key = schema.encode_key(&[Value::Int(7)]).unwrap();
    let row = |table: &Table| schema.decode_row(&key, &table.get(&key).unwrap().unwrap()).unwrap();
    assert_eq!(row(&now), [Value::Int(7), Value::Int(8)]);
    assert_eq!(database.fsck().unwrap().damages, []);

    // The way back is there too, and what was taken back is not written.
    let mut transaction = database.begin("main").unwrap();
    let mark = transaction.savepoint();
    for key in 0..4000 {
        transaction.delete("typed", &schema.encode_key(&[Value::Int(key)]).unwrap()).unwrap();
    }
    database.store().collect(false).unwrap();
    transaction.rollback_to(&mark).unwrap();
    assert_eq!(transaction.commit().unwrap(), TransactionOutcome::Unchanged(database_token(&database)));
}

fn database_token(database: &Database) -> Token {
    Token { epoch: 0, sequence: database.sequence(), root: work(database), head: None }
}

#[test]
fn one_that_wrote_ahead_commits_among_others_by_row() {
    let (_dir, database, schema) = small();
    let row = |key: i64, a: i64| schema.encode_row(&[Value::Int(key), Value::Int(a)]).unwrap();
    let edited = |rows: &[(i64, i64)]| {
        let mut transaction = database.begin("main").unwrap();
        for &(key, a) in rows {
            let (key, value) = row(key, a);
            transaction.put("typed", &key, &value).unwrap();
        }
        transaction
    };
    let many = |from: i64| (from..from + 1000).map(|key| (key, key + 10_000)).collect::<Vec<_>>();
    let members = vec![
        edited(&[(5, 20_005)]),
        edited(&many(0)),
        edited(&many(1000)),
        edited(&[(1500, 20_000)]),
        edited(&[(2500, 20_001)]),
        edited(&many(2000)),
        edited(&many(3000)),
    ];
    let outcomes = commit_together(&database, members);
    let key = |outcome: &TransactionOutcome| match outcome {
        TransactionOutcome::Refused { key, .. } => key.clone(),
        _ => None,
    };
    let refused = |at: i64| Some(schema.encode_key(&[Value::Int(at)]).unwrap());
    let expected = [None, refused(5), None, refused(1500), None, refused(2500), None];
    assert_eq!(outcomes.iter().map(key).collect::<Vec<_>>(), expected);
    let table = database.snapshot_of_root(work(&database)).unwrap().table("typed").unwrap().unwrap();
    assert_eq!(table.check_indexes().unwrap(), [""; 0]);
    for (at, a) in [(5, 20_005), (6, 6), (1500, 11_500), (2500, 20_001), (2501, 2501), (3999, 13_999)] {
        let (key, value) = row(at, a);
        assert_eq!(table.get(&key).unwrap(), Some(value), "{at}");
    }
}

#[test]
fn transactions_share_the_memory_for_edits() {
    let database = Database::memory_with(Options { work_bytes: 30_000, ..Options::default() });
    begin_tables(&database);
    let mut all: Vec<_> = (0..3).map(|_| database.begin("main").unwrap()).collect();
    for n in 0..1000_u16 {
        all.iter_mut().for_each(|one| one.put("raw", &n.to_be_bytes(), &[1; 50]).unwrap());
    }
    let bytes: usize = all.iter().map(|one| one.edits.bytes()).sum();
    // Each has a least, 468 bytes, and a row beyond what it got.
    assert!(bytes <= 30_000 + 3 * 800, "{bytes}");
    assert!((20_000..=30_000).contains(&database.store().stats().leased_bytes_most));
    drop(all);
    assert_eq!(database.store().stats().leased_bytes, 0);
}
