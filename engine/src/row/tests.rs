//! The module's invariants, held by properties against a plain model, and its bytes, pinned.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cmp::Ordering;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

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
    fn key_order_is_value_order((schema, rows) in any_table(2)) {
        let keys: Vec<_> = rows.iter().map(|row| schema.encode_row(row).unwrap().0).collect();
        let order = schema
            .key()
            .iter()
            .map(|&id| schema.position(id).unwrap())
            .map(|position| compare(&rows[0][position], &rows[1][position]))
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal);
        prop_assert_eq!(keys[0].cmp(&keys[1]), order);
    }

    #[test]
    fn rows_round_trip((schema, rows) in any_table(1)) {
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
        (schema, rows) in any_table(1),
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
            prop_assert_eq!(schema.encode_row(&row).unwrap(), (key, value));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        (schema, _) in any_table(0),
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
    fn schemas_round_trip((schema, _) in any_table(0), cut in any::<proptest::sample::Index>()) {
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
        "0105".to_owned()
            + "09046e6f746505"
            + "00026964"
            + "02"
            + "01026f6e07"
            + "0205707269636504"
            + "0502"
            + "0a04676f6e6503"
            + "0100"
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
    assert_eq!(with(vec![column(4096, "id", Type::Int)], vec![4096]), Error::BadId { id: 4096 });
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
