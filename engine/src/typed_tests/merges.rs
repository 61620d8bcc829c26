//! Merges of columns, and of rows cell by cell.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;

fn merge(database: &Database, theirs: &Hash) -> Result<MergeOutcome> {
    database.merge("main", theirs, options())
}

fn options() -> MergeOptions {
    MergeOptions { date_micros: Some(1), ..MergeOptions::default() }
}

fn merged(database: &Database, theirs: &Hash) {
    let outcome = merge(database, theirs).unwrap();
    assert!(matches!(outcome, MergeOutcome::Merged { .. }), "{outcome:?}");
}

#[test]
fn columns_that_one_side_changed_and_rows_that_the_other_did_are_both_merged() {
    for swapped in [false, true] {
        let database = database(&[("a", Type::Text), ("b", Type::Int)]);
        write(&database, "main", &[&[int(1), text("x"), int(10)], &[int(2), text("y"), int(20)]]);
        let columns = |transaction: &mut Transaction| {
            transaction.add_column("t", "n", Type::Int, int(5))?;
            transaction.drop_column("t", "b")?;
            transaction.rename_column("t", "a", "name")
        };
        let written = |transaction: &mut Transaction| {
            put(transaction, "t", &[int(1), text("changed"), int(10)])?;
            put(transaction, "t", &[int(3), text("new"), int(30)])
        };
        let side = match swapped {
            false => diverge(&database, columns, written),
            true => diverge(&database, written, columns),
        };
        merged(&database, &side);
        assert_eq!(names(&database, "main"), ["id", "name", "n"]);
        let expected =
            [[int(1), text("changed"), int(5)], [int(2), text("y"), int(5)], [int(3), text("new"), int(5)]];
        assert_eq!(rows(&database, "main"), expected);
    }
}

#[test]
fn columns_added_on_both_sides_are_both_there_and_the_same_one_is_there_once() {
    let database = database(&[("a", Type::Text)]);
    write(&database, "main", &[&[int(1), text("x")], &[int(2), text("y")]]);
    let side = diverge(
        &database,
        |transaction| {
            transaction.add_column("t", "both", Type::Int, Value::Null)?;
            transaction.add_column("t", "ours", Type::Int, int(1))?;
            put(transaction, "t", &[int(1), text("x"), int(7), int(8)])
        },
        |transaction| {
            transaction.add_column("t", "theirs", Type::Text, text("d"))?;
            transaction.add_column("t", "both", Type::Int, Value::Null)?;
            put(transaction, "t", &[int(1), text("x"), text("t"), int(7)])?;
            put(transaction, "t", &[int(2), text("y"), text("u"), Value::Null])
        },
    );
    merged(&database, &side);
    assert_eq!(names(&database, "main"), ["id", "a", "both", "ours", "theirs"]);
    assert_eq!(
        rows(&database, "main"),
        [[int(1), text("x"), int(7), int(8), text("t")], [int(2), text("y"), Value::Null, int(1), text("u")]]
    );
    // Merging back, and on, is as with any other change.
    let head = database.branch("main").unwrap().unwrap().head.unwrap();
    change(&database, "side", |transaction| transaction.rename_column("t", "theirs", "renamed"));
    commit(&database, "side");
    let outcome = database.merge("side", &head, options()).unwrap();
    assert!(matches!(outcome, MergeOutcome::Merged { .. }));
    let theirs = database.branch("side").unwrap().unwrap().head.unwrap();
    assert!(matches!(merge(&database, &theirs).unwrap(), MergeOutcome::FastForward { .. }));
    assert!(names(&database, "main").contains(&"renamed".to_owned()));
    assert_eq!(rows(&database, "main").len(), 2);
}

#[test]
fn a_row_that_only_lost_the_cell_of_a_dropped_column_was_not_changed() {
    let database = database(&[("a", Type::Text), ("b", Type::Int)]);
    let row = |n, b: i64| [int(n), text("x"), int(b)];
    write(&database, "main", &[&row(1, 1), &row(2, 1), &row(3, 1)]);
    let side = diverge(
        &database,
        |transaction| {
            transaction.drop_column("t", "b")?;
            // All of them are written again, as they are.
            (1..6).try_for_each(|n| put(transaction, "t", &[int(n), text("x")]))
        },
        |transaction| {
            transaction.delete("t", &schema(&[]).encode_key(&[int(1)])?)?;
            put(transaction, "t", &[int(2), text("y"), int(1)])?;
            // One that ours has too, without the cell.
            put(transaction, "t", &row(4, 4))
        },
    );
    merged(&database, &side);
    let expected = [[int(2), text("y")], [int(3), text("x")], [int(4), text("x")], [int(5), text("x")]];
    assert_eq!(rows(&database, "main"), expected);
    let table = table(&database, "main");
    for row in table.scan(std::ops::Bound::Unbounded, std::ops::Bound::Unbounded).unwrap() {
        assert!(!table.schema().unwrap().has_dropped_cells(&row.unwrap().1).unwrap());
    }
}

#[test]
fn two_columns_that_came_by_one_id_are_refused() {
    let base = schema(&[]);
    let with = |name: &str, ty| {
        let added = Column { id: 5000, name: name.into(), ty };
        Schema::new([base.columns(), &[added]].concat(), vec![0]).unwrap()
    };
    let merge = |theirs| row::merge::schemas(&base, &with("x", Type::Int), &theirs, Some(Side::Ours));
    let refused = merge(with("y", Type::Text)).err().unwrap();
    assert_eq!(refused.column, "x");
    assert!(refused.why.contains("has the id of another column"), "{}", refused.why);
    assert!(merge(with("y", Type::Int)).is_ok(), "one column, renamed");
}

type Change = fn(&mut Transaction) -> Result<()>;

#[test]
fn changes_of_columns_that_exclude_each_other_are_refused_by_name_and_with_a_way_out() {
    let rename: Change = |transaction| transaction.rename_column("t", "a", "one");
    let rename_otherwise: Change = |transaction| transaction.rename_column("t", "a", "two");
    let drop_a: Change = |transaction| transaction.drop_column("t", "a");
    let write_a: Change = |transaction| put(transaction, "t", &[int(1), text("changed"), int(10)]);
    let write_b: Change = |transaction| put(transaction, "t", &[int(1), text("x"), int(11)]);
    let add: Change = |transaction| transaction.add_column("t", "n", Type::Int, Value::Null);
    let add_text: Change = |transaction| transaction.add_column("t", "n", Type::Text, Value::Null);
    let add_and_drop: Change = |transaction| {
        transaction.add_column("t", "n", Type::Int, Value::Null)?;
        transaction.drop_column("t", "n")
    };
    for (ours, theirs, expected, preferred) in [
        (rename, rename_otherwise, Some("`a` was renamed on both sides"), vec!["id", "one", "b"]),
        (drop_a, rename, Some("`one` was dropped on one side and renamed"), vec!["id", "b"]),
        (drop_a, write_a, Some("`a` was dropped on one side and its cells were changed"), vec!["id", "b"]),
        (drop_a, write_b, None, vec!["id", "b"]),
        (drop_a, drop_a, None, vec!["id", "b"]),
        (rename, rename, None, vec!["id", "one", "b"]),
        (add, add, None, vec!["id", "a", "b", "n"]),
        (add, add_text, Some("`n` is the name of two different columns"), vec![]),
        (add, add_and_drop, Some("`n` was added on both sides and dropped again"), vec![]),
    ] {
        for swapped in [false, true] {
            let database = database(&[("a", Type::Text), ("b", Type::Int)]);
            write(&database, "main", &[&[int(1), text("x"), int(10)]]);
            let (mine, other) = if swapped { (theirs, ours) } else { (ours, theirs) };
            let side = diverge(&database, mine, other);
            let before = database.root().unwrap();
            match (merge(&database, &side), expected) {
                (Err(error @ Error::ColumnConflict { .. }), Some(expected)) => {
                    let error = error.to_string().replace("`two`", "`a`");
                    let error = if expected.contains("`a` was renamed") {
                        error.replace("`one`", "`a`")
                    } else {
                        error
                    };
                    assert!(error.starts_with("the columns of table `t` cannot be merged: "), "{error}");
                    assert!(error.contains(expected) && error.contains("; "), "{error}");
                    assert_eq!(database.root().unwrap(), before, "nothing changed");
                    let prefer = Some(if swapped { Side::Theirs } else { Side::Ours });
                    let outcome = database.merge("main", &side, MergeOptions { prefer, ..options() });
                    assert_eq!(outcome.is_ok(), !preferred.is_empty(), "{expected}");
                    if !preferred.is_empty() {
                        assert_eq!(names(&database, "main"), preferred);
                    }
                }
                (Ok(_), None) => assert_eq!(names(&database, "main"), preferred),
                other => panic!("{expected:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_row_changed_on_both_sides_is_merged_by_its_cells() {
    let database = database(&[("a", Type::Text), ("b", Type::Int), ("c", Type::Int)]);
    let row = |n, a: &str, b, c| [int(n), text(a), int(b), int(c)];
    write(
        &database,
        "main",
        &[&row(1, "x", 1, 1), &row(2, "x", 1, 1), &row(3, "x", 1, 1), &row(4, "x", 1, 1)],
    );
    let side = diverge(
        &database,
        |transaction| {
            put(transaction, "t", &row(1, "ours", 1, 1))?;
            put(transaction, "t", &row(2, "same", 2, 1))?;
            put(transaction, "t", &row(3, "ours", 2, 1))?;
            put(transaction, "t", &row(4, "ours", 1, 1))
        },
        |transaction| {
            put(transaction, "t", &row(1, "x", 3, 1))?;
            put(transaction, "t", &row(2, "same", 1, 3))?;
            put(transaction, "t", &row(3, "theirs", 1, 3))?;
            let key = schema(&[]).encode_key(&[int(4)])?;
            transaction.delete("t", &key).map(drop)
        },
    );
    assert_eq!(merge(&database, &side).unwrap(), MergeOutcome::Conflicts { count: 2 });
    let merged = [row(1, "ours", 3, 1), row(2, "same", 2, 3)];
    assert_eq!(rows(&database, "main")[..2], merged);
    assert_eq!(rows(&database, "main")[2..], [row(3, "ours", 2, 1), row(4, "ours", 1, 1)]);
    // A decision for a side is about the cells in conflict; the others are merged.
    database.resolve_conflicts("main", Side::Ours).unwrap();
    assert_eq!(rows(&database, "main")[2..], [row(3, "ours", 2, 3), row(4, "ours", 1, 1)]);
    database.merge_abort("main").unwrap();
    merge(&database, &side).unwrap();
    database.resolve_conflicts("main", Side::Theirs).unwrap();
    assert_eq!(rows(&database, "main")[2..], [row(3, "theirs", 2, 3)]);
    database.merge_abort("main").unwrap();
    let outcome = database.merge("main", &side, MergeOptions { prefer: Some(Side::Theirs), ..options() });
    assert!(matches!(outcome, Ok(MergeOutcome::Merged { .. })));
    assert_eq!(rows(&database, "main")[..2], merged);
    assert_eq!(rows(&database, "main")[2..], [row(3, "theirs", 2, 3)]);
}

#[test]
fn changes_of_a_named_column_are_added_up_if_the_sum_fits() {
    let decimal = Type::Decimal { precision: 3, scale: 1 };
    let columns = [("n", Type::Int), ("d", decimal), ("f", Type::Float), ("a", Type::Text)];
    let row = |id, n, d| [int(id), int(n), Value::Decimal(d), Value::Null, Value::Null];
    let build = || {
        let database = database(&columns);
        write(&database, "main", &[&row(1, 10, 100), &row(2, i64::MAX - 1, 0), &row(3, 0, 990)]);
        let side = diverge(
            &database,
            |transaction| {
                put(transaction, "t", &row(1, 12, 90))?;
                put(transaction, "t", &row(2, i64::MAX, 0))?;
                put(transaction, "t", &row(3, 1, 995))
            },
            |transaction| {
                put(transaction, "t", &row(1, 15, 105))?;
                put(transaction, "t", &row(2, i64::MAX - 3, 0))?;
                put(transaction, "t", &row(3, 1, 996))
            },
        );
        (database, side)
    };
    let named = |columns: &[&str]| {
        let deltas = columns.iter().map(|column| ("t".to_owned(), (*column).to_owned())).collect();
        MergeOptions { deltas, ..options() }
    };
    let (database, side) = build();
    // 995 + 6 does not fit decimal(3,1).
    let outcome = database.merge("main", &side, named(&["n", "d"])).unwrap();
    assert_eq!(outcome, MergeOutcome::Conflicts { count: 1 });
    assert_eq!(rows(&database, "main"), [row(1, 17, 95), row(2, i64::MAX - 2, 0), row(3, 1, 995)]);
    database.merge_abort("main").unwrap();
    let deltas = vec![("none".to_owned(), "n".to_owned())];
    let unknown = database.merge("main", &side, MergeOptions { deltas, ..options() });
    assert!(matches!(unknown, Err(Error::UnknownTable { .. })));
    for (column, expected) in [
        ("f", "changes of column `f` cannot be added up"),
        ("a", "found text"),
        ("none", "column `none` not found"),
    ] {
        let (database, side) = build();
        let error = database.merge("main", &side, named(&[column])).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_function_decides_what_cells_do_not() {
    let database = database(&[("n", Type::Int), ("a", Type::Text)]);
    let row = |id, n, a: &str| [int(id), int(n), text(a)];
    write(&database, "main", &[&row(1, 1, "x"), &row(2, 1, "x"), &row(3, 1, "x"), &row(4, 1, "x")]);
    let base: Vec<i64> = vec![1, 2, 3, 4];
    let side = diverge(
        &database,
        |transaction| base.iter().try_for_each(|id| put(transaction, "t", &row(*id, 20, "x"))),
        |transaction| base.iter().try_for_each(|id| put(transaction, "t", &row(*id, 30, "y"))),
    );
    let resolver = Resolver::new(|conflict, schema| {
        let schema = schema.unwrap();
        let decode =
            |side: &Option<Vec<u8>>| schema.decode_row(&conflict.key, side.as_ref().unwrap()).unwrap();
        let (ours, theirs) = (decode(&conflict.ours), decode(&conflict.theirs));
        assert_eq!((conflict.table.as_str(), &ours[1], &theirs[1]), ("t", &int(20), &int(30)));
        Ok(match ours[0] {
            Value::Int(1) => {
                Resolution::Row(Some(schema.encode_row(&[int(1), int(99), theirs[2].clone()])?.1))
            }
            Value::Int(2) => Resolution::Row(None),
            Value::Int(3) => Resolution::Theirs,
            _ => Resolution::Undecided,
        })
    });
    let undecided = MergeOptions { resolver: Some(resolver.clone()), ..options() };
    assert_eq!(database.merge("main", &side, undecided).unwrap(), MergeOutcome::Conflicts { count: 1 });
    assert_eq!(rows(&database, "main"), [row(1, 99, "y"), row(3, 30, "y"), row(4, 20, "x")]);
    database.merge_abort("main").unwrap();
    let decided = MergeOptions { resolver: Some(resolver), prefer: Some(Side::Ours), ..options() };
    assert!(matches!(database.merge("main", &side, decided).unwrap(), MergeOutcome::Merged { .. }));
    assert_eq!(rows(&database, "main"), [row(1, 99, "y"), row(3, 30, "y"), row(4, 20, "y")]);

    let bad = Resolver::new(|_, _| Ok(Resolution::Row(Some(b"\xff no row".to_vec()))));
    let database = self::database(&[("n", Type::Int)]);
    write(&database, "main", &[&[int(1), int(1)]]);
    let side = diverge(
        &database,
        |transaction| put(transaction, "t", &[int(1), int(2)]),
        |transaction| put(transaction, "t", &[int(1), int(3)]),
    );
    let before = database.root().unwrap();
    let refused = database.merge("main", &side, MergeOptions { resolver: Some(bad), ..options() });
    assert!(matches!(refused, Err(Error::Row(_))));
    assert_eq!(database.root().unwrap(), before);
}

type ModelRow = [Option<i64>; 3];
type Model = BTreeMap<i64, ModelRow>;

/// The row, and what becomes of it: `None` deletes it, else one of its cells is set.
type RowEdit = (i64, Option<(Index, Option<i64>)>);

fn edits() -> impl Strategy<Value = Vec<RowEdit>> {
    let cell = (any::<Index>(), proptest::option::of(0..3i64));
    vec((0..8i64, prop_oneof![1 => Just(None), 5 => cell.prop_map(Some)]), 0..10)
}

/// Applies edits to the model: a deletion, or a cell set, in a row that is made if need be.
fn edited(mut model: Model, edits: &[RowEdit]) -> Model {
    for (id, edit) in edits {
        match edit {
            None => drop(model.remove(id)),
            Some((at, cell)) => model.entry(*id).or_default()[at.index(3)] = *cell,
        }
    }
    model
}

fn save(database: &Database, branch: &str, from: &Model, to: &Model) {
    change(database, branch, |transaction| {
        for id in from.keys().filter(|id| !to.contains_key(id)) {
            let key = schema(&[]).encode_key(&[int(*id)])?;
            transaction.delete("t", &key)?;
        }
        for (id, cells) in to.iter().filter(|(id, cells)| from.get(id) != Some(cells)) {
            let cells = cells.map(|cell| cell.map_or(Value::Null, Value::Int));
            put(transaction, "t", &[&[int(*id)][..], &cells].concat())?;
        }
        Ok(())
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_merge_of_cells_is_that_of_a_plain_model(
        base in edits(), ours in edits(), theirs in edits(), prefer in proptest::sample::select(vec![None, Some(Side::Ours), Some(Side::Theirs)]),
    ) {
        let base = edited(Model::new(), &base);
        let (ours, theirs) = (edited(base.clone(), &ours), edited(base.clone(), &theirs));
        let mut expected = Model::new();
        let mut conflicts = 0;
        for id in 0..8 {
            let [b, o, t] = [&base, &ours, &theirs].map(|side| side.get(&id).copied());
            let row = match (b, o, t) {
                _ if o == t || t == b => o,
                _ if o == b => t,
                (Some(b), Some(o), Some(t)) => {
                    let clash = (0..3).any(|i| o[i] != t[i] && o[i] != b[i] && t[i] != b[i]);
                    let cells = |side: Side| {
                        let mut row = o;
                        for i in 0..3 {
                            let takes = o[i] == b[i] || (t[i] != b[i] && side == Side::Theirs);
                            row[i] = if takes { t[i] } else { o[i] };
                        }
                        Some::<ModelRow>(row)
                    };
                    match (clash, prefer) {
                        (true, None) => { conflicts += 1; Some(o) }
                        (_, side) => cells(side.unwrap_or(Side::Ours)),
                    }
                }
                _ => match prefer {
                    None => { conflicts += 1; o }
                    Some(Side::Ours) => o,
                    Some(Side::Theirs) => t,
                },
            };
            row.map(|row| expected.insert(id, row));
        }
        let database = database(&[("a", Type::Int), ("b", Type::Int), ("c", Type::Int)]);
        save(&database, "main", &Model::new(), &base);
        let first = commit(&database, "main");
        database.create_branch("side", Some(first)).unwrap();
        save(&database, "main", &base, &ours);
        save(&database, "side", &base, &theirs);
        let head = |branch: &str| database.branch(branch).unwrap().unwrap();
        for branch in ["main", "side"] {
            if database.status(branch).unwrap().dirty {
                commit(&database, branch);
            }
        }
        let outcome = database.merge("main", &head("side").head.unwrap(), MergeOptions { prefer, ..options() }).unwrap();
        let found = match outcome { MergeOutcome::Conflicts { count } => count, _ => 0 };
        prop_assert_eq!(found, conflicts);
        let rows: Model = rows(&database, "main").into_iter().map(|row| {
            let cells: Vec<Option<i64>> = row.iter().map(|value| match value { Value::Int(n) => Some(*n), _ => None }).collect();
            (cells[0].unwrap(), [cells[1], cells[2], cells[3]])
        }).collect();
        prop_assert_eq!(rows, expected);
    }
}

/// A change of a column: by place, and to a name of a few.
#[derive(Debug, Clone)]
pub(super) enum ColumnChange {
    Add(usize),
    Drop(Index),
    Rename(Index, usize),
}

pub(super) fn column_change() -> impl Strategy<Value = ColumnChange> {
    prop_oneof![
        2 => (0..4usize).prop_map(ColumnChange::Add),
        1 => any::<Index>().prop_map(ColumnChange::Drop),
        1 => (any::<Index>(), 0..6usize).prop_map(|(at, name)| ColumnChange::Rename(at, name)),
    ]
}

fn column_changes() -> impl Strategy<Value = Vec<ColumnChange>> {
    vec(column_change(), 0..5)
}

fn changed(mut schema: Schema, changes: &[ColumnChange]) -> Schema {
    for change in changes {
        let name = |at: &Index| schema.columns()[at.index(schema.columns().len())].name.clone();
        let changed = match change {
            ColumnChange::Add(n) => schema.add_column(&format!("c{n}"), Type::Int, int(*n as i64)),
            ColumnChange::Drop(at) => schema.drop_column(&name(at)),
            ColumnChange::Rename(at, to) => schema.rename_column(&name(at), &format!("c{to}")),
        };
        schema = changed.unwrap_or(schema);
    }
    schema
}

type Columns = BTreeMap<u32, String>;

fn by_id(schema: &Schema) -> Columns {
    schema.columns().iter().map(|column| (column.id, column.name.clone())).collect()
}

/// The merge of columns known by id: `None` if the changes exclude each other.
fn model_merge(base: &Columns, ours: &Schema, theirs: &Schema) -> Option<Columns> {
    let gone = |schema: &Schema, id: &u32| schema.dropped().any(|dropped| dropped == *id);
    let (o, t) = (by_id(ours), by_id(theirs));
    let mut merged = Columns::new();
    for id in o.keys().chain(t.keys()) {
        let name = match (base.get(id), o.get(id), t.get(id)) {
            (_, Some(o), Some(t)) if o == t => o,
            (Some(b), Some(o), Some(t)) if b == o => t,
            (Some(b), Some(o), Some(t)) if b == t => o,
            (Some(b), Some(left), None) | (Some(b), None, Some(left)) if b == left => continue,
            (None, Some(added), None) if !gone(theirs, id) => added,
            (None, None, Some(added)) if !gone(ours, id) => added,
            _ => return None,
        };
        merged.insert(*id, name.clone());
    }
    let mut names: Vec<&String> = merged.values().collect();
    names.sort();
    names.dedup();
    (names.len() == merged.len()).then_some(merged)
}

proptest! {
    #[test]
    fn a_merge_of_columns_is_that_of_a_plain_model(before in column_changes(), ours in column_changes(), theirs in column_changes()) {
        let base = changed(schema(&[("a", Type::Int), ("b", Type::Int)]), &before);
        let (ours, theirs) = (changed(base.clone(), &ours), changed(base.clone(), &theirs));
        let merge = |ours: &Schema, theirs: &Schema| row::merge::schemas(&base, ours, theirs, None).ok();
        let (merged, swapped) = (merge(&ours, &theirs), merge(&theirs, &ours));
        prop_assert_eq!(merge(&ours, &ours).map(|merged| merged.schema), Some(ours.clone()));
        prop_assert_eq!(merge(&ours, &base).map(|merged| merged.schema), Some(ours.clone()));
        prop_assert_eq!(merge(&base, &theirs).map(|merged| merged.schema), Some(theirs.clone()));
        let expected = model_merge(&by_id(&base), &ours, &theirs);
        prop_assert_eq!(merged.as_ref().map(|merged| by_id(&merged.schema)), expected.clone());
        prop_assert_eq!(swapped.map(|merged| by_id(&merged.schema)), expected);
        let Some(merged) = merged.map(|merged| merged.schema) else { return Ok(()) };
        prop_assert_eq!(&Schema::decode(&merged.encode()).unwrap(), &merged);
        // Rows of either side are rows of the merged table, as they are.
        for side in [&ours, &theirs] {
            let values: Vec<Value> = (0..).take(side.columns().len()).map(|n| int(n * 3 % 4)).collect();
            let (key, value) = side.encode_row(&values).unwrap();
            let read = merged.decode_row(&key, &value).unwrap();
            for (column, found) in merged.columns().iter().zip(read) {
                let expected = match side.position(column.id) {
                    Some(position) => &values[position],
                    None => merged.creation_default(column.id).unwrap(),
                };
                prop_assert_eq!(&found, expected);
            }
        }
    }
}
