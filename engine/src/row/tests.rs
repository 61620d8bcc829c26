//! The module's invariants, held by properties against a plain model, and its bytes, pinned.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cmp::Ordering;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

// Of `golden_bytes_of_a_changed_schema_and_its_rows`: the id of the added column, alone and as in a row.
const GOLDEN_ID: u32 = 3_843_854;
const GOLDEN_DELTA: &str = "8faeea01";
const GOLDEN_SCHEMA: &str = "020300026964020002026f6e07008eceea01016e02010e020000020101010500";

const ALL: [Type; 9] = [
    Type::Bool,
    Type::Int,
    Type::Float,
    Type::Decimal { precision: 20, scale: 3 },
    Type::Text,
    Type::Bytes,
    Type::Date,
    Type::Timestamp,
    Type::Uuid,
];

fn column(id: u32, name: &str, ty: Type) -> Column {
    Column { id, name: name.into(), ty }
}

/// Values of one type, with many that lie close together, and NULL.
fn any_value(ty: Type) -> BoxedStrategy<Value> {
    let present = match ty {
        Type::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Type::Int => prop_oneof![any::<i64>(), -2..3i64].prop_map(Value::Int).boxed(),
        Type::Float => prop_oneof![
            any::<u64>().prop_map(f64::from_bits),
            proptest::sample::select(vec![
                0.0,
                -0.0,
                f64::NAN,
                -f64::NAN,
                f64::INFINITY,
                f64::NEG_INFINITY,
                1.0,
                -1.0
            ])
        ]
        .prop_map(Value::Float)
        .boxed(),
        Type::Decimal { precision, .. } => {
            let limit = 10i128.pow(u32::from(precision)) - 1;
            prop_oneof![-limit..=limit, -2..3i128].prop_map(Value::Decimal).boxed()
        }
        Type::Text => vec(proptest::sample::select(vec!['\0', '\u{1}', 'a', 'é', '\u{10ffff}']), 0..5)
            .prop_map(|chars| Value::Text(chars.into_iter().collect()))
            .boxed(),
        Type::Bytes => {
            vec(proptest::sample::select(vec![0u8, 1, 2, 0xfe, 0xff]), 0..5).prop_map(Value::Bytes).boxed()
        }
        Type::Date => (-719_162..=2_932_896i32).prop_map(Value::Date).boxed(),
        Type::Timestamp => {
            (-719_162 * 86_400_000_000i64..2_932_897 * 86_400_000_000).prop_map(Value::Timestamp).boxed()
        }
        Type::Uuid => any::<[u8; 16]>().prop_map(Value::Uuid).boxed(),
    };
    prop_oneof![1 => Just(Value::Null), 9 => present].boxed()
}

fn any_type() -> impl Strategy<Value = Type> {
    proptest::sample::select(ALL.to_vec())
}

/// A schema whose ids do not follow the columns' order and whose key does not either, and `rows` rows of it.
fn any_table(rows: usize) -> impl Strategy<Value = (Schema, Vec<Vec<Value>>)> {
    (vec((any_type(), any::<u8>()), 1..8), any::<proptest::sample::Index>(), 1..4usize).prop_flat_map(
        move |(types, first, keys)| {
            let count = types.len();
            let columns: Vec<Column> = types
                .iter()
                .enumerate()
                .map(|(i, (ty, jitter))| {
                    column(((count - i) * 256) as u32 + u32::from(*jitter), &format!("c{i}"), *ty)
                })
                .collect();
            let first = first.index(count);
            let key = (0..keys.min(count)).map(|i| columns[(first + count - i) % count].id).collect();
            let schema = Schema::new(columns, key).unwrap();
            let row: Vec<_> = types.into_iter().map(|(ty, _)| any_value(ty)).collect();
            (Just(schema), vec(row, rows))
        },
    )
}

/// A schema with descending key columns, added columns (some with a creation default) and dropped ones; and rows.
fn any_altered_table(rows: usize) -> impl Strategy<Value = (Schema, Vec<Vec<Value>>)> {
    let added = any_type().prop_flat_map(|ty| (Just(ty), any_value(ty), any::<bool>()));
    let parts =
        (any_table(0), vec(any::<bool>(), 4), vec(added, 0..4), vec(any::<proptest::sample::Index>(), 0..3));
    parts.prop_flat_map(move |((schema, _), directions, added, drops)| {
        let descending: Vec<u32> =
            schema.key().iter().zip(directions).filter(|(_, down)| *down).map(|(id, _)| *id).collect();
        let mut schema = schema.descending(&descending).unwrap();
        for (i, (ty, default, with_default)) in added.into_iter().enumerate() {
            let default = if with_default { default } else { Value::Null };
            schema = schema.add_column(&format!("a{i}"), ty, default).unwrap();
        }
        for drop in drops {
            let name = schema.columns()[drop.index(schema.columns().len())].name.clone();
            schema = schema.drop_column(&name).unwrap_or(schema);
        }
        // Each value is at times its column's creation default.
        let row: Vec<_> = schema
            .columns()
            .iter()
            .map(|column| {
                let default = schema.creation_default(column.id).unwrap().clone();
                prop_oneof![2 => any_value(column.ty), 1 => Just(default)]
            })
            .collect();
        (Just(schema), vec(row, rows))
    })
}

/// The order that keys must have, written from the values alone.
fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Null, Value::Null) => Ordering::Equal,
        (Value::Null, _) => Ordering::Less,
        (_, Value::Null) => Ordering::Greater,
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Int(a), Value::Int(b)) | (Value::Timestamp(a), Value::Timestamp(b)) => a.cmp(b),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan())),
        (Value::Decimal(a), Value::Decimal(b)) => a.cmp(b),
        (Value::Text(a), Value::Text(b)) => a.chars().cmp(b.chars()),
        (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
        (Value::Date(a), Value::Date(b)) => a.cmp(b),
        (Value::Uuid(a), Value::Uuid(b)) => a.cmp(b),
        _ => panic!("values of two types"),
    }
}

proptest! {
    #[test]
    fn key_order_is_value_order((schema, rows) in any_altered_table(2)) {
        let keys: Vec<_> = rows.iter().map(|row| schema.encode_row(row).unwrap().0).collect();
        let order = schema
            .key()
            .iter()
            .map(|&id| schema.position(id).unwrap())
            .map(|position| {
                let order = compare(&rows[0][position], &rows[1][position]);
                let descending = schema.is_descending(schema.columns()[position].id);
                if descending { order.reverse() } else { order }
            })
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal);
        prop_assert_eq!(keys[0].cmp(&keys[1]), order);
    }

    #[test]
    fn rows_round_trip((schema, rows) in any_altered_table(1)) {
        let (key, value) = schema.encode_row(&rows[0]).unwrap();
        prop_assert_eq!(&schema.decode_row(&key, &value).unwrap(), &rows[0]);
        let key_values = schema.decode_key(&key).unwrap();
        prop_assert_eq!(&schema.encode_key(&key_values).unwrap(), &key);
        for (position, column) in schema.columns().iter().enumerate() {
            match schema.cell(&value, column.id) {
                Ok(cell) => prop_assert_eq!(&cell, &rows[0][position]),
                Err(Error::InKey { .. }) => prop_assert!(schema.is_key(column.id)),
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn text_round_trips((ty, value) in any_type().prop_flat_map(|ty| (Just(ty), any_value(ty)))) {
        match value.to_text(&ty) {
            None => prop_assert!(value.is_null()),
            Some(text) => prop_assert_eq!(Value::parse(&text, &ty).unwrap(), value),
        }
    }

    #[test]
    fn what_decodes_encodes_to_the_same_bytes(
        (schema, rows) in any_altered_table(1),
        flips in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (mut key, mut value) = schema.encode_row(&rows[0]).unwrap();
        for (at, byte) in flips {
            let at = at.index(key.len() + value.len());
            match at.checked_sub(key.len()) {
                None => key[at] = byte,
                Some(at) => value[at] = byte,
            }
        }
        if let Ok(row) = schema.decode_row(&key, &value) {
            let again = schema.encode_row(&row).unwrap();
            match schema.has_dropped_cells(&value).unwrap() {
                false => prop_assert_eq!(again, (key, value)),
                true => prop_assert!(again.1.len() < value.len()),
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        (schema, _) in any_altered_table(0),
        key in vec(any::<u8>(), 0..40),
        value in vec(prop_oneof![any::<u8>(), 0..4u8], 0..80),
    ) {
        let _ = schema.decode_row(&key, &value);
        if let Ok(keys) = schema.decode_key(&key) {
            prop_assert_eq!(&schema.encode_key(&keys).unwrap(), &key);
        }
        for column in schema.columns() {
            let _ = schema.cell(&value, column.id);
        }
        if let Ok(schema) = Schema::decode(&value) {
            prop_assert_eq!(schema.encode(), value);
        }
    }

    #[test]
    fn schemas_round_trip((schema, _) in any_altered_table(0), cut in any::<proptest::sample::Index>()) {
        let bytes = schema.encode();
        prop_assert_eq!(&Schema::decode(&bytes).unwrap(), &schema);
        prop_assert!(Schema::decode(&bytes[..cut.index(bytes.len())]).is_err());
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key_hex(ty: Type, value: Value) -> String {
    let schema = Schema::new(vec![column(0, "k", ty)], vec![0]).unwrap();
    hex(&schema.encode_key(&[value]).unwrap())
}

#[test]
fn golden_key_bytes() {
    let decimal = Type::Decimal { precision: 5, scale: 2 };
    for (ty, value, bytes) in [
        (Type::Int, Value::Null, "00"),
        (Type::Bool, Value::Bool(true), "0101"),
        (Type::Int, Value::Int(1), "018000000000000001"),
        (Type::Int, Value::Int(-1), "017fffffffffffffff"),
        (Type::Float, Value::Float(-0.0), "018000000000000000"),
        (Type::Float, Value::Float(1.5), "01bff8000000000000"),
        (Type::Float, Value::Float(-1.5), "014007ffffffffffff"),
        (Type::Float, Value::Float(-f64::NAN), "01fff8000000000000"),
        (decimal, Value::Decimal(-150), "017fffffffffffffffffffffffffffff6a"),
        (Type::Text, Value::Text("a\0b".into()), "016100ff6200"),
        (Type::Text, Value::Text(String::new()), "0100"),
        (Type::Bytes, Value::Bytes(vec![0xff, 0]), "01ff00ff00"),
        (Type::Date, Value::Date(-1), "017fffffff"),
        (Type::Timestamp, Value::Timestamp(0), "018000000000000000"),
        (Type::Uuid, Value::Uuid([7; 16]), "0107070707070707070707070707070707"),
    ] {
        assert_eq!(key_hex(ty, value.clone()), bytes, "{value:?}");
    }
    for (ty, value, bytes) in [
        (Type::Int, Value::Null, "02"),
        (Type::Int, Value::Int(1), "017ffffffffffffffe"),
        (Type::Text, Value::Text("a\0b".into()), "019eff009dfffe"),
    ] {
        let schema = Schema::new(vec![column(0, "k", ty)], vec![0]).unwrap().descending(&[0]).unwrap();
        let key = schema.encode_key(std::slice::from_ref(&value)).unwrap();
        assert_eq!(hex(&key), bytes, "{value:?}, descending");
    }
}

#[test]
fn golden_row_and_schema_bytes() {
    let columns = vec![
        column(9, "note", Type::Text),
        column(0, "id", Type::Int),
        column(1, "on", Type::Date),
        column(2, "price", Type::Decimal { precision: 5, scale: 2 }),
        column(10, "gone", Type::Float),
    ];
    let schema = Schema::new(columns, vec![0]).unwrap();
    assert_eq!(
        hex(&schema.encode()),
        "0205".to_owned()
            + "09046e6f74650500"
            + "0002696402"
            + "00"
            + "01026f6e0700"
            + "0205707269636504"
            + "050200"
            + "0a04676f6e650300"
            + "010000"
            + "00"
    );
    let row = [Value::Text("hi".into()), Value::Int(3), Value::Date(-2), Value::Decimal(1999), Value::Null];
    let (key, value) = schema.encode_row(&row).unwrap();
    assert_eq!(hex(&key), "018000000000000003");
    // Bits 1, 2 and 9; then the date, the price and the text.
    assert_eq!(hex(&value), "020602".to_owned() + "03" + "9e1f" + "026869");
    let bare = [Value::Null, Value::Int(3), Value::Null, Value::Null, Value::Null];
    assert_eq!(hex(&schema.encode_row(&bare).unwrap().1), "00");
}

#[test]
fn values_that_no_encoder_writes_are_refused() {
    let schema = Schema::new(
        vec![column(0, "k", Type::Bool), column(1, "f", Type::Float), column(3, "n", Type::Int)],
        vec![0],
    )
    .unwrap();
    for (what, value) in [
        ("no bitmap", &[][..]),
        ("a zero byte at the bitmap's end", &[1, 0]),
        ("a bitmap cut short", &[2, 8]),
        ("a cell of the key column", &[1, 1, 0]),
        ("a cell of an unknown column", &[1, 4, 0]),
        ("a negative zero", &[1, 2, 0, 0, 0, 0, 0, 0, 0, 0x80]),
        ("another NaN", &[1, 2, 1, 0, 0, 0, 0, 0, 0xf8, 0x7f]),
        ("a padded varint", &[1, 8, 0x80, 0]),
        ("a padded length", &[0x80, 0]),
        ("a byte after the end", &[1, 8, 2, 0]),
        ("a missing cell", &[1, 8]),
        ("an added column that is not there", &[1, 8, 2, 1, 2]),
        ("the id before again", &[0, 0, 2]),
    ] {
        let error = schema.decode_row(&[1, 1], value).unwrap_err();
        assert!(matches!(error, Error::Malformed { part: "row value", .. }), "{what}: {error}");
    }
    for key in [&[][..], &[2], &[1], &[1, 2], &[0, 0], &[1, 1, 0]] {
        let error = schema.decode_row(key, &[0]).unwrap_err();
        assert!(matches!(error, Error::Malformed { part: "row key", .. }), "{key:?}: {error}");
    }
}

#[test]
fn a_key_too_long_names_its_widest_column_and_both_lengths() {
    let schema =
        Schema::new(vec![column(0, "id", Type::Int), column(1, "path", Type::Text)], vec![0, 1]).unwrap();
    let key = |length: usize| schema.encode_key(&[Value::Int(1), Value::Text("x".repeat(length))]);
    assert_eq!(key(1013).unwrap().len(), KEY_BYTES_MAX);
    let error = key(1014).unwrap_err();
    assert_eq!(error, Error::KeyTooLong { column: "path".into(), column_bytes: 1016, length: 1025 });
    assert!(
        error.to_string().contains("at most 1024 bytes, found 1025 bytes, of which column `path` takes 1016")
    );
}

#[test]
fn schemas_without_identity_are_refused() {
    let id = || column(0, "id", Type::Int);
    let with = |columns, key| Schema::new(columns, key).unwrap_err();
    assert_eq!(with(vec![id()], vec![]), Error::NoKey);
    assert_eq!(with(vec![id(), column(0, "x", Type::Int)], vec![0]), Error::DuplicateId { id: 0 });
    assert_eq!(
        with(vec![id(), column(1, "id", Type::Int)], vec![0]),
        Error::DuplicateName { name: "id".into() }
    );
    assert_eq!(with(vec![id()], vec![1]), Error::UnknownKeyColumn { id: 1 });
    assert_eq!(with(vec![id()], vec![0, 0]), Error::DuplicateKeyColumn { column: "id".into() });
    assert_eq!(with(vec![column(0, "", Type::Int)], vec![0]), Error::BadName { length: 0 });
    assert_eq!(with(vec![column(1 << 28, "id", Type::Int)], vec![1 << 28]), Error::BadId { id: 1 << 28 });
    let wide = Type::Decimal { precision: 39, scale: 0 };
    assert_eq!(with(vec![column(0, "d", wide)], vec![0]), Error::BadDecimal { precision: 39, scale: 0 });
}

#[test]
fn values_that_do_not_fit_their_column_are_refused_by_name() {
    let columns =
        vec![column(0, "id", Type::Int), column(1, "price", Type::Decimal { precision: 3, scale: 1 })];
    let schema = Schema::new(columns, vec![0]).unwrap();
    let refused = |values: &[Value]| schema.encode_row(values).unwrap_err().to_string();
    assert_eq!(refused(&[Value::Int(1)]), "expected 2 values, found 1");
    assert_eq!(
        refused(&[Value::Int(1), Value::Decimal(1000)]),
        "column `price`: expected a decimal(3,1), at most 2 digits before the point and 1 after it, found a decimal of 1000 units of its last place"
    );
    assert!(refused(&[Value::Text("x".into()), Value::Null]).starts_with("column `id`: expected an int"));
}

#[test]
fn a_column_added_leaves_stored_rows_readable_and_a_retyped_one_does_not() {
    let stored = Schema::new(vec![column(0, "id", Type::Int), column(1, "a", Type::Text)], vec![0]).unwrap();
    let (key, value) = stored.encode_row(&[Value::Int(1), Value::Text("x".into())]).unwrap();
    let columns =
        vec![column(2, "new", Type::Bool), column(1, "renamed", Type::Text), column(0, "id", Type::Int)];
    let added = Schema::new(columns, vec![0]).unwrap();
    added.compatible_with(&stored).unwrap();
    assert_eq!(
        added.decode_row(&key, &value).unwrap(),
        [Value::Null, Value::Text("x".into()), Value::Int(1)]
    );

    let retyped = Schema::new(vec![column(0, "id", Type::Int), column(1, "a", Type::Int)], vec![0]).unwrap();
    let rekeyed =
        Schema::new(vec![column(0, "id", Type::Int), column(1, "a", Type::Text)], vec![1, 0]).unwrap();
    let dropped = Schema::new(vec![column(0, "id", Type::Int)], vec![0]).unwrap();
    for other in [retyped, rekeyed, dropped] {
        assert!(matches!(other.compatible_with(&stored), Err(Error::Incompatible { .. })));
    }
}

/// A change of a schema: a column added, dropped or renamed, the latter two by place.
#[derive(Debug, Clone)]
enum Step {
    Add(Type, Value),
    Drop(proptest::sample::Index),
    Rename(proptest::sample::Index),
    /// A row is written, with values that fit any column by type.
    Write(usize, Vec<Value>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => any_type().prop_flat_map(|ty| (Just(ty), any_value(ty))).prop_map(|(ty, value)| Step::Add(ty, value)),
        2 => any::<proptest::sample::Index>().prop_map(Step::Drop),
        1 => any::<proptest::sample::Index>().prop_map(Step::Rename),
        4 => (0..4usize, ALL.map(any_value).into_iter().collect::<Vec<_>>()).prop_map(|(row, values)| Step::Write(row, values)),
    ];
    vec(step, 1..25)
}

proptest! {
    #[test]
    fn rows_outlive_changes_of_their_schema(steps in steps()) {
        // The model: each row is its values by column id, as they were last written or as the column began.
        let mut schema = Schema::new(vec![column(0, "k", Type::Int), column(1, "v", Type::Text)], vec![0]).unwrap();
        let mut stored: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut model: Vec<std::collections::BTreeMap<u32, Value>> = Vec::new();
        for n in 0..4 {
            let row = [Value::Int(n), Value::Null];
            stored.push(schema.encode_row(&row).unwrap());
            model.push((0..).zip(row).collect());
        }
        let mut ids = std::collections::BTreeSet::from([0, 1]);
        for (n, step) in steps.into_iter().enumerate() {
            let named = |at: proptest::sample::Index| schema.columns()[at.index(schema.columns().len())].clone();
            match step {
                Step::Add(ty, default) => {
                    schema = schema.add_column(&format!("c{n}"), ty, default.clone()).unwrap();
                    let id = schema.columns().last().unwrap().id;
                    prop_assert!(ids.insert(id), "no id is used twice");
                    model.iter_mut().for_each(|row| { row.insert(id, default.clone()); });
                }
                Step::Drop(at) => {
                    let gone = named(at);
                    match schema.drop_column(&gone.name) {
                        Ok(without) => schema = without,
                        Err(error) => prop_assert_eq!(error.to_string().contains("key column"), true),
                    }
                }
                Step::Rename(at) => schema = schema.rename_column(&named(at).name, &format!("r{n}")).unwrap(),
                Step::Write(row, values) => {
                    let columns = schema.columns().iter();
                    let new: Vec<Value> = columns.map(|column| match column.id {
                        0 => Value::Int(row as i64),
                        _ => values[ALL.iter().position(|ty| *ty == column.ty).unwrap()].clone(),
                    }).collect();
                    for (column, value) in schema.columns().iter().zip(&new) {
                        model[row].insert(column.id, value.clone());
                    }
                    stored[row] = schema.encode_row(&new).unwrap();
                    prop_assert!(!schema.has_dropped_cells(&stored[row].1).unwrap());
                }
            }
            prop_assert_eq!(&Schema::decode(&schema.encode()).unwrap(), &schema);
            for (row, (key, value)) in model.iter().zip(&stored) {
                let expected: Vec<Value> = schema.columns().iter().map(|column| row[&column.id].clone()).collect();
                prop_assert_eq!(&schema.decode_row(key, value).unwrap(), &expected);
                let again = schema.encode_row(&expected).unwrap();
                let equal = &again.1 == value;
                prop_assert_eq!(equal, !schema.has_dropped_cells(value).unwrap(), "equal values, equal bytes");
            }
        }
    }
}

#[test]
fn golden_bytes_of_a_changed_schema_and_its_rows() {
    let columns = vec![column(0, "id", Type::Int), column(1, "a", Type::Text), column(2, "on", Type::Date)];
    let first = Schema::new(columns, vec![0, 2]).unwrap().descending(&[2]).unwrap();
    let added = first.add_column("n", Type::Int, Value::Int(7)).unwrap();
    let schema = added.drop_column("a").unwrap();
    let id = schema.column("n").unwrap().id;
    assert_eq!(id, GOLDEN_ID, "ids of added columns changed");
    assert_eq!(hex(&schema.encode()), GOLDEN_SCHEMA);
    let row = |n| vec![Value::Int(1), Value::Date(-1), n];
    let stored = |n: Value| schema.encode_row(&row(n)).unwrap();
    assert_eq!(hex(&stored(Value::Int(7)).0), "0180000000000000010180000000");
    for (n, bytes) in [(Value::Int(7), "00"), (Value::Null, "00GOLD00"), (Value::Int(8), "00GOLD0110")] {
        assert_eq!(hex(&stored(n.clone()).1), bytes.replace("GOLD", GOLDEN_DELTA), "{n:?}");
    }
    // A row that was written before `a` was dropped.
    let older = [Value::Int(1), Value::Text("x".into()), Value::Date(-1), Value::Int(8)];
    let (key, value) = added.encode_row(&older).unwrap();
    assert_eq!(hex(&value), format!("01020178{GOLDEN_DELTA}0110"));
    assert_eq!(schema.decode_row(&key, &value).unwrap(), row(Value::Int(8)));
    assert!(schema.has_dropped_cells(&value).unwrap());
    let equal = format!("00{GOLDEN_DELTA}010e");
    let equal: Vec<u8> =
        (0..equal.len()).step_by(2).map(|i| u8::from_str_radix(&equal[i..i + 2], 16).unwrap()).collect();
    assert!(schema.decode_row(&key, &equal).is_err(), "a cell equal to the creation default");
}

#[test]
fn changes_of_a_schema_that_cannot_be_are_refused() {
    let columns = vec![column(0, "id", Type::Int), column(1, "a", Type::Text)];
    let schema = Schema::new(columns, vec![0]).unwrap();
    let long = Value::Text("x".repeat(1023));
    for (error, expected) in [
        (schema.add_column("a", Type::Int, Value::Null), "found `a` twice"),
        (schema.add_column("", Type::Int, Value::Null), "1 to 255 bytes"),
        (schema.add_column("n", Type::Int, Value::Bool(true)), "column `n`: expected an int"),
        (
            schema.add_column("n", Type::Text, long),
            "creation default of at most 1024 bytes, found 1025 bytes",
        ),
        (schema.drop_column("id"), "key column `id` cannot be dropped"),
        (schema.drop_column("b"), "column `b` not found"),
        (schema.rename_column("b", "c"), "column `b` not found"),
        (schema.rename_column("a", "id"), "found `id` twice"),
        (schema.clone().descending(&[1]), "the id of a column in the key"),
    ] {
        let error = error.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let renamed = schema.rename_column("id", "key").unwrap();
    assert_eq!(renamed.key_columns().next().unwrap().name, "key");
    // The same name again is another column.
    let first = schema.add_column("n", Type::Int, Value::Null).unwrap();
    let second = first.drop_column("n").unwrap().add_column("n", Type::Int, Value::Null).unwrap();
    assert_ne!(first.column("n").unwrap().id, second.column("n").unwrap().id);
    let mut other = schema.encode();
    other[0] = 1;
    let error = Schema::decode(&other).unwrap_err();
    assert_eq!(error, Error::SchemaVersion { expected: 2, found: 1 });
}
