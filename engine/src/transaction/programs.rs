//! Random programs of a transaction, against a plain model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, ops::Bound};

use proptest::{collection::vec, prelude::*};

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
        1 => mark.prop_map(Step::Release),
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

/// A row as the table wants it; in the typed one no two have one `a`.
fn row_of(definition: &Definition, table: usize, key: u16, value: u8) -> (Vec<u8>, Vec<u8>) {
    match &definition.schema {
        None => (key_of(table, key), vec![value; usize::from(value)]),
        Some(schema) => {
            let mut cells =
                vec![Value::Int(key.into()), Value::Int(i64::from(key) * 1000 + i64::from(value))];
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
}

impl Run {
    fn begin(database: &Database, model: &Model) -> Run {
        Run { transaction: database.begin("main").unwrap(), model: model.clone(), marks: Vec::new() }
    }

    fn take(&mut self, step: &Step) {
        let Run { transaction, model, marks } = self;
        let name = match step {
            Step::Put(t, ..) | Step::PutAgain(t, _) | Step::Delete(t, _) | Step::Load(t, _) => TABLES[*t],
            Step::DeleteRange(t, ..) | Step::Create(t) | Step::Drop(t) => TABLES[*t],
            _ => TABLES[1],
        };
        let there = model.get_mut(name);
        match (step, there) {
            (Step::Put(t, key, value), Some(table)) => {
                let (key, value) = row_of(&table.definition, *t, *key, *value);
                transaction.put(name, &key, &value).unwrap();
                table.rows.insert(key, value);
            }
            (Step::PutAgain(t, key), Some(table)) => {
                let (key, value) = row_of(&table.definition, *t, *key, 1);
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
                let row = |key| row_of(&table.definition, *t, key, 3);
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

/// The root of a branch that holds just this.
fn root_of(model: &Model) -> Hash {
    let database = Database::memory().unwrap();
    let mut transaction = database.begin("main").unwrap();
    for (name, TableModel { definition, indexes, rows }) in model {
        transaction.create_table_with(name, definition.clone()).unwrap();
        transaction.load(name, rows).unwrap();
        for (index, definition) in indexes {
            transaction.set_index(name, index, Some(definition.clone()));
        }
    }
    transaction.commit().unwrap();
    work(&database)
}

fn work(database: &Database) -> Hash {
    database.branch("main").unwrap().unwrap().work
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn savepoints_are_those_of_a_plain_model(programs in programs()) {
        let database = Database::memory().unwrap();
        let mut model = Model::new();
        for table in 0..TABLES.len() {
            let mut run = Run::begin(&database, &model);
            run.take(&Step::Create(table));
            run.take(&Step::Load(table, 90));
            run.transaction.commit().unwrap();
            model = run.model;
        }
        for program in programs {
            let mut run = Run::begin(&database, &model);
            program.iter().for_each(|step| run.take(step));
            run.check();
            run.transaction.commit().unwrap();
            model = run.model;
            prop_assert_eq!(work(&database), root_of(&model));
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
