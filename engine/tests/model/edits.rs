//! Edits of an open transaction, and of the plain model of it.

use std::ops::Bound;

use pleach_engine::{Definition, Error, MapConfig, Transaction};

use crate::{
    plain::{self, Changes, TABLES, TYPED, Table, Touched},
    program::{Edit, Row, key},
};

/// Where the typed table stands among all.
const TYPED_AT: usize = 2;

/// Small nodes, so that few rows make several levels.
pub(crate) fn definition(table: &str, salt: u64) -> Definition {
    let config = MapConfig { leaf_mean: 8, inner_mean: 8, inline_bytes: 64, salt };
    Definition { config, schema: (table == TYPED).then(plain::schema) }
}

/// Edits a table in an open transaction and in the model of it.
pub(crate) fn edit((transaction, changes): &mut (Transaction, Changes), edit: &Edit) {
    let Changes { seen, view, touched, .. } = changes;
    let at = match edit {
        Edit::Put(at, _) | Edit::Delete(at, _) | Edit::DeleteRange(at, ..) => at,
        Edit::Load(at, ..) | Edit::Create(at, _) | Edit::Drop(at) => at,
        Edit::Index => &TYPED_AT,
    };
    let table = TABLES[*at];
    if let Edit::Create(_, other) = edit {
        let salt = u64::from(*other);
        let counted = table == TYPED;
        let made = create(transaction, table, salt, counted);
        assert_eq!(made.is_err(), view.contains_key(table), "{made:?}");
        if made.is_ok() {
            view.insert(table, Table { salt, counted, ..Table::default() });
            let touched = touched.entry(table).or_default();
            (touched.replaced, touched.indexed) = (true, counted);
        }
        return;
    }
    let Some(model) = view.get_mut(table) else {
        assert!(matches!(transaction.put(table, b"k", b"v"), Err(Error::UnknownTable { .. })));
        assert!(matches!(transaction.drop_table(table), Err(Error::UnknownTable { .. })));
        return;
    };
    match edit {
        Edit::Put(_, row) => {
            let (key, value) = row.encode(table);
            transaction.put(table, &key, &value).unwrap();
            assert_eq!(transaction.get(table, &key).unwrap().as_ref(), Some(&value));
            touched.entry(table).or_default().keys.insert(key.clone());
            model.rows.insert(key, value);
        }
        Edit::Delete(_, number) => {
            let key = key(table, *number);
            let was_there = model.rows.remove(&key).is_some();
            assert_eq!(transaction.delete(table, &key).unwrap(), was_there);
            assert_eq!(transaction.get(table, &key).unwrap(), None);
            if was_there {
                touched.entry(table).or_default().keys.insert(key);
            }
        }
        Edit::DeleteRange(_, from, to) => {
            let [from, to] = [*from, *to].map(|number| key(table, number));
            transaction.delete_range(table, Bound::Included(&from), Bound::Excluded(&to)).unwrap();
            if from < to {
                let touched = touched.entry(table).or_default();
                touched.keys.retain(|key| *key < from || *key >= to);
                model.rows.retain(|key, _| *key < from || *key >= to);
                touched.ranges.push([from, to]);
            }
        }
        Edit::Load(_, from, count, apart) => {
            let row =
                |n: u16| Row { number: from + n * apart, value: 7, name: None, count: 12 }.encode(table);
            model.rows = (0..*count).map(row).collect();
            transaction.load(table, &model.rows).unwrap();
            let touched = touched.entry(table).or_default();
            let Touched { dropped, indexed, .. } = *touched;
            *touched = Touched { replaced: true, dropped, indexed, ..Touched::default() };
        }
        Edit::Drop(_) => {
            transaction.drop_table(table).unwrap();
            view.remove(table);
            match seen.contains_key(table) {
                true => drop(touched.insert(table, Touched { dropped: true, ..Touched::default() })),
                false => drop(touched.remove(table)),
            }
        }
        Edit::Index => {
            match model.counted {
                true => transaction.drop_index(table, "by_count").unwrap(),
                false => transaction.create_index(table, "by_count", &["count"], false).unwrap(),
            }
            model.counted = !model.counted;
            touched.entry(table).or_default().indexed = true;
        }
        Edit::Create(..) => unreachable!("done above"),
    }
}

/// Makes a table; the typed one with its indexes, that of counts if it is to be `counted`.
pub(crate) fn create(
    transaction: &mut Transaction,
    table: &str,
    salt: u64,
    counted: bool,
) -> Result<(), Error> {
    transaction.create_table_with(table, definition(table, salt))?;
    if table == TYPED {
        transaction.create_index(table, "by_name", &["name"], true)?;
    }
    if counted {
        transaction.create_index(table, "by_count", &["count"], false)?;
    }
    Ok(())
}
