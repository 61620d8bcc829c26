//! Each rule of reading and writing, and the exact position of each refusal.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;

use pleach_engine::row::{Column, Schema, Type, Value};
use serde_json::json;

use super::*;

fn source(format: Format, bytes: impl AsRef<[u8]>) -> Source {
    Source::keep("f", bytes.as_ref(), format).unwrap()
}

fn csv(bytes: impl AsRef<[u8]>) -> Source {
    source(Format::Csv, bytes)
}

fn jsonl(bytes: impl AsRef<[u8]>) -> Source {
    source(Format::Jsonl, bytes)
}

/// A schema of `name type` pairs, keyed by the first.
fn schema(columns: &[(&str, &str)]) -> Schema {
    let columns = (0..).zip(columns).map(|(id, (name, ty))| Column {
        id,
        name: (*name).into(),
        ty: ty.parse().unwrap(),
    });
    Schema::new(columns.collect(), vec![0]).unwrap()
}

fn texts(count: usize) -> Schema {
    schema(&[("a", "text"), ("b", "text"), ("c", "text")][..count])
}

fn read(source: &Source, schema: &Schema) -> Result<Vec<Vec<Value>>, TabularError> {
    rows(source, schema)?.map(|row| row.map(|row| row.values)).collect()
}

/// The refusal of a file with columns a, b and c of type text.
fn refusal(source: &Source) -> String {
    read(source, &texts(3)).unwrap_err().to_string()
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

fn inferred(source: &Source) -> Vec<String> {
    let first = match source.format() {
        Format::Jsonl => "k",
        _ => "a",
    };
    let schema = infer(source, &[first.into()], &[]).unwrap();
    schema.columns().iter().map(|column| column.ty.to_string()).collect()
}

/// The type that a column of these fields gets.
fn type_of(fields: &[&str]) -> String {
    let lines: String = fields.iter().map(|field| format!("1,{field}\n")).collect();
    inferred(&csv(format!("a,b\n{lines}")))[1].clone()
}

fn json_type_of(values: &[&str]) -> String {
    let lines: String = values.iter().map(|value| format!("{{\"k\":1,\"v\":{value}}}\n")).collect();
    inferred(&jsonl(lines))[1].clone()
}

#[test]
fn an_empty_unquoted_field_is_null_and_a_quoted_one_is_empty_text() {
    let rows = read(&csv("a,b,c\nx,,\"\"\n"), &texts(3)).unwrap();
    assert_eq!(rows, [[text("x"), Value::Null, text("")]]);
}

#[test]
fn quoted_fields_hold_delimiters_quotes_and_line_ends() {
    let rows = read(&csv("a,b\n\"x,\"\"y\"\"\",\"1\r\n2\n\"\n5\" pipe,z"), &texts(2)).unwrap();
    assert_eq!(rows, [[text("x,\"y\""), text("1\r\n2\n")], [text("5\" pipe"), text("z")]]);
}

#[test]
fn lines_end_in_lf_or_crlf_and_a_byte_order_mark_is_skipped() {
    let rows = read(&csv("\u{feff}a,b\r\n1,2\r\n3,\n"), &texts(2)).unwrap();
    assert_eq!(rows, [[text("1"), text("2")], [text("3"), Value::Null]]);
}

#[test]
fn tsv_is_the_same_with_tabs() {
    let rows = read(&source(Format::Tsv, "a\tb\nx,y\t\"1\t2\"\n\"\"\t\n"), &texts(2)).unwrap();
    assert_eq!(rows, [[text("x,y"), text("1\t2")], [text(""), Value::Null]]);
}

#[test]
fn columns_are_matched_by_name_whatever_their_order() {
    let rows = read(&csv("c,a,b\n3,1,2\n"), &texts(3)).unwrap();
    assert_eq!(rows, [[text("1"), text("2"), text("3")]]);
    let rows = read(&jsonl(r#"{"c":"3","a":"1"}"#), &texts(3)).unwrap();
    assert_eq!(rows, [[text("1"), Value::Null, text("3")]]);
}

#[test]
fn bad_csv_is_refused_at_its_exact_position() {
    for (bytes, message) in [
        ("", "f:1:1: expected a header line of column names, found an empty file"),
        ("a,,c\n", "f:1:3: expected a column name, found an empty field"),
        ("a,b,\"a\"\n", "f:1:5: expected column names to differ, found `a` again"),
        ("a,é,c\n", "f:1:3: expected one of the table's columns `a`, `b`, `c`, found `é`"),
        ("é,b,x\n", "f:1:1: expected one of the table's columns `a`, `b`, `c`, found `é`"),
        ("a,c\n", "f:1:4: expected a column `b`, which the table has, found only `a`, `c`"),
        ("a,b,c\n1,2\n", "f:2:4: expected 3 fields, as in the header, found 2 fields"),
        ("a,b,c\n1,2,3\né,2,3,4,5\n", "f:3:7: expected 3 fields, as in the header, found 5 fields"),
        ("a,b,c\n\n1,2,3\n", "f:2:1: expected 3 fields, as in the header, found an empty line"),
        (
            "a,b,c\n1,\"é\n\n\"x,3\n",
            "f:4:2: expected a comma or the end of the line after a closing quote, found \"x\"",
        ),
        ("a,b,c\n1,\"2\n3,4\n", "f:2:3: expected a closing quote, found the end of the file"),
        ("a,b,c\n1,\"2\n\",3,4\n", "f:3:5: expected 3 fields, as in the header, found 4 fields"),
        (
            "a,b,c\r1,2,3\r",
            "f:1:6: expected a carriage return at the end of a line or in a quoted field only, found one in an unquoted field",
        ),
        ("a,b,c\n,2,3\n", "f:2:1: expected a value for the key column `a`, found NULL"),
    ] {
        assert_eq!(refusal(&csv(bytes)), message, "{bytes:?}");
    }
    assert_eq!(refusal(&csv(b"a,b,c\n\xc3\xa9,\xff,3\n")), "f:2:3: expected UTF-8 text, found the byte 0xff");
}

#[test]
fn a_bad_value_is_refused_where_its_field_starts() {
    let schema = schema(&[("k", "text"), ("n", "int")]);
    for (source, message) in [
        (csv("k,n\né,1\né\"x,two\n"), "f:3:5: expected an int"),
        (csv("k,n\n\"a\nb\",\"\"\n"), "f:3:4: expected an int"),
        (csv("n,k\n1.0,x\n"), "f:2:1: expected an int"),
        (jsonl("{\"k\":\"é\",\"n\": 1.5}\n"), "f:1:15: expected an int"),
        (jsonl("{\"k\":\"a\",\"n\":1}\n{ \"n\" : true ,\"k\":\"b\"}\n"), "f:2:9: expected an int"),
    ] {
        let message = message.to_owned() + ", a whole number";
        let found = read(&source, &schema).unwrap_err().to_string();
        assert!(found.starts_with(&message), "{found}");
    }
}

#[test]
fn bad_json_lines_are_refused_at_their_exact_position() {
    for (bytes, message) in [
        ("{\"a\":\"1\"}\n\n", "f:2:1: expected one JSON object a line, found an empty line"),
        (
            "[1]\n",
            "f:1:1: expected one JSON object a line, found an error: invalid type: sequence, expected an object",
        ),
        (
            "{\"a\":\"é\" \"b\":2}\n",
            "f:1:10: expected one JSON object a line, found an error: expected `,` or `}`",
        ),
        ("{\"a\":01}\n", "f:1:7: expected one JSON object a line, found an error: invalid number"),
        ("{\"a\":1} {}\n", "f:1:9: expected one JSON object a line, found an error: trailing characters"),
        ("{\"a\":1", "f:1:7: expected one JSON object a line, found an error: EOF while parsing an object"),
        ("{\"é\":1}\n", "f:1:2: expected one of the table's columns `a`, `b`, `c`, found `é`"),
        ("{\"a\":\"é\",\"b\":2,\"\\u0061\":3}\n", "f:1:16: expected a member's name once, found `a` again"),
        (
            "{\"a\":1,\"b\":[2]}\n",
            "f:1:12: expected a string, number, true, false, null or {\"hex\":\"…\"}, found an array",
        ),
        (
            "{\"a\":{\"hex\":\"0\"}}\n",
            "f:1:6: expected a string, number, true, false, null or {\"hex\":\"…\"}, found another object",
        ),
        (
            "{\"a\":\"\\ud800\"}\n",
            "f:1:6: expected a string, number, true, false, null or {\"hex\":\"…\"}, found a string with an escape that is no character",
        ),
        ("{\"a\":{\"hex\":\"00\"}}\n", "f:1:6: expected text, found bytes in hex"),
        ("{\"b\":1}\n", "f:1:1: expected a value for the key column `a`, found NULL"),
        ("{\"b\":1,\"a\":null}\n", "f:1:12: expected a value for the key column `a`, found NULL"),
    ] {
        assert_eq!(refusal(&jsonl(bytes)), message, "{bytes:?}");
    }
    assert_eq!(refusal(&jsonl(b"{\"a\":\"\xff\"}")), "f:1:7: expected UTF-8 text, found the byte 0xff");
}

#[test]
fn rows_end_at_the_first_error_and_know_their_lines() {
    let mut rows = rows(&csv("a,b\n\"x\ny\",1\nz,2\nbad\nw,3\n"), &texts(2)).unwrap();
    assert_eq!(rows.next().unwrap().unwrap().line, 2);
    assert_eq!(rows.next().unwrap().unwrap().line, 4);
    assert!(rows.next().unwrap().is_err());
    assert!(rows.next().is_none());
}

#[test]
fn rows_that_the_caller_refuses_are_named_at_their_key() {
    let schema = schema(&[("k", "text"), ("n", "int")]);
    let source = csv(format!("n,k\n1,\"a,b\"\n2,{}\n", "x".repeat(2000)));
    let rows: Vec<_> = rows(&source, &schema).unwrap().map(Result::unwrap).collect();
    assert_eq!(
        rows[0].duplicate_key(&source, &schema, Some(7)).to_string(),
        "f:2:3: expected a key that is new, found the key \"a,b\" again, first on line 7"
    );
    assert_eq!(
        rows[0].duplicate_key(&source, &schema, None).to_string(),
        "f:2:3: expected a key that is new, found the key \"a,b\", which the table has: use --upsert to update rows"
    );
    let error = schema.encode_row(&rows[1].values).unwrap_err();
    let message = rows[1].refuse(&source, &schema, error).to_string();
    assert!(
        message.starts_with("f:3:3: expected a key of at most 1024 bytes, found 2002 bytes"),
        "{message}"
    );
}

#[test]
fn a_type_is_inferred_when_every_value_prints_back() {
    for (fields, ty) in [
        (&["true", "", "false"][..], "bool"),
        (&["1", "-20", "0", ""], "int"),
        (&["1.5", "2", "0.25"], "float"),
        (&["9.99", "19.95"], "float"),
        (&["1.5", "NaN", "-inf"], "float"),
        (&["1.50", "2.25"], "decimal(38,2)"),
        (&["-0.10", ""], "decimal(38,2)"),
        (&["12345678901234567890"], "decimal(38,0)"),
        (&["0.1234567890123456789"], "decimal(38,19)"),
        (&["2024-02-29", "0001-01-01"], "date"),
        (&["2024-01-02T03:04:05Z", "2024-01-02T03:04:05.5Z"], "timestamp"),
        (&["67e55044-10b1-426f-9247-bb680e5fe0c8"], "uuid"),
        (&["\"7\"", "8"], "int"),
    ] {
        assert_eq!(type_of(fields), ty, "{fields:?}");
    }
}

#[test]
fn a_column_stays_text_when_a_value_would_print_otherwise() {
    for fields in [
        &["007", "8"][..],
        &["0041", "0042"],
        &["1e21", "2"],
        &["NaN"],
        &["inf", "-inf"],
        &["TRUE"],
        &["t"],
        &["+1"],
        &["-0"],
        &["1.50", "2"],
        &["1.5 "],
        &[".5"],
        &["2024-1-2"],
        &["2023-02-29"],
        &["2024-01-02", "x"],
        &["2024-01-02 03:04:05Z"],
        &["2024-01-02T03:04:05.50Z"],
        &["67E55044-10b1-426f-9247-bb680e5fe0c8"],
        &["\\x00"],
        &["1", "\"\""],
        &["", ""],
        &[],
    ] {
        assert_eq!(type_of(fields), "text", "{fields:?}");
    }
}

#[test]
fn in_json_the_kind_of_a_value_bounds_its_type() {
    for (values, ty) in [
        (&["true", "null"][..], "bool"),
        (&["1", "-2"], "int"),
        (&["1.0", "2.25"], "float"),
        (&["1e3", "2"], "float"),
        (&["1.5", "\"NaN\""], "float"),
        (&["12345678901234567890"], "text"),
        (&["0.1234567890123456789"], "text"),
        (&["\"1\""], "text"),
        (&["\"1.50\""], "text"),
        (&["\"true\""], "text"),
        (&["1", "\"x\""], "text"),
        (&["\"2024-02-29\""], "date"),
        (&["\"2024-01-02T03:04:05Z\""], "timestamp"),
        (&["\"67e55044-10b1-426f-9247-bb680e5fe0c8\""], "uuid"),
        (&["\"x\"", "{\"hex\":\"ff00\"}"], "bytes"),
        (&["null"], "text"),
    ] {
        assert_eq!(json_type_of(values), ty, "{values:?}");
    }
}

#[test]
fn json_columns_stand_in_the_order_in_which_they_first_appear() {
    let schema =
        infer(&jsonl("{\"k\":1}\n{\"z\":2,\"k\":3}\n{\"b\":4,\"k\":5}\n"), &["k".into()], &[]).unwrap();
    let names: Vec<_> = schema.columns().iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["k", "z", "b"]);
}

#[test]
fn given_types_and_keys_are_taken_and_must_name_columns() {
    let source = csv("a,b\n1,2\n");
    let schema = infer(&source, &["b".into(), "a".into()], &[("a".into(), Type::Text)]).unwrap();
    assert_eq!(schema.key(), [1, 0]);
    assert_eq!(schema.column("a").unwrap().ty, Type::Text);
    assert_eq!(schema.column("b").unwrap().ty, Type::Int);

    let refused =
        |key: &[String], types: &[(String, Type)]| infer(&source, key, types).unwrap_err().to_string();
    assert_eq!(
        refused(&["x".into()], &[]),
        "f:1:4: expected a column `x`, which --key names, found the columns `a`, `b`"
    );
    assert_eq!(
        refused(&["a".into()], &[("x".into(), Type::Int)]),
        "f:1:4: expected a column `x`, which --types names, found the columns `a`, `b`"
    );
    assert_eq!(
        refused(&[], &[]),
        "expected the columns that identify a row of a new table, found none: name them with --key, from f's columns `a`, `b`"
    );
    assert_eq!(
        refused(&["a".into(), "a".into()], &[]),
        "f:1:1: expected each key column once, found `a` twice"
    );
}

#[test]
fn inferring_refuses_the_same_files() {
    let refused = |source: &Source| infer(source, &["a".into()], &[]).unwrap_err().to_string();
    assert_eq!(refused(&csv("a,b\n1\n")), "f:2:2: expected 2 fields, as in the header, found 1 field");
    assert_eq!(refused(&jsonl("{\"a\":1,\"a\":2}")), "f:1:8: expected a member's name once, found `a` again");
    assert_eq!(refused(&jsonl("{\"\":1}")), "f:1:2: expected a column name, found an empty one");
    let long = format!("a,{}\n1,2\n", "x".repeat(256));
    assert_eq!(refused(&csv(long)), "f:1:1: expected a column name of 1 to 255 bytes, found 256 bytes");
}

#[test]
fn files_and_pipes_larger_than_memory_are_read_twice() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.TSV");
    std::fs::File::create(&path).unwrap().write_all(b"a\tb\n1\tx\n").unwrap();
    let file = Source::open(&path, None).unwrap();
    assert_eq!(file.format(), Format::Tsv);

    let line = format!("1,{}\n", "x".repeat(99));
    let count = (9 << 20) / line.len();
    let pipe = csv(format!("a,b\n{}", line.repeat(count)));
    for (source, expected) in [(&file, 1), (&pipe, count)] {
        let schema = infer(source, &["a".into()], &[]).unwrap();
        assert_eq!(schema.column("a").unwrap().ty, Type::Int);
        assert_eq!(rows(source, &schema).unwrap().filter(Result::is_ok).count(), expected);
    }

    let missing = directory.path().join("none.csv");
    let error = Source::open(&missing, None).unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot read {}: ", missing.display())));
}

/// One column of each type, and a row with something to quote in it.
fn every_type() -> (Schema, Vec<Value>) {
    let schema = schema(&[
        ("text", "text"),
        ("bool", "bool"),
        ("int", "int"),
        ("float", "float"),
        ("decimal", "decimal(9,2)"),
        ("bytes", "bytes"),
        ("date", "date"),
        ("timestamp", "timestamp"),
        ("uuid", "uuid"),
        ("null", "text"),
    ]);
    let row = vec![
        text("say \"hi\",\nbye"),
        Value::Bool(true),
        Value::Int(-7),
        Value::Float(2.5),
        Value::Decimal(150),
        Value::Bytes(vec![0xff, 0]),
        Value::Date(0),
        Value::Timestamp(1_500_000),
        Value::Uuid([0xab; 16]),
        Value::Null,
    ];
    (schema, row)
}

#[test]
fn rows_are_written_as_csv_and_read_back() {
    let (schema, row) = every_type();
    let mut out = String::new();
    header_to_csv(&mut out, &schema);
    out.push('\n');
    row_to_csv(&mut out, &schema, &row);
    assert_eq!(
        out,
        "text,bool,int,float,decimal,bytes,date,timestamp,uuid,null\n\
         \"say \"\"hi\"\",\nbye\",true,-7,2.5,1.50,\\xff00,1970-01-01,1970-01-01T00:00:01.5Z,\
         abababab-abab-abab-abab-abababababab,"
    );
    assert_eq!(read(&csv(out), &schema).unwrap(), [row]);
}

#[test]
fn rows_are_written_as_json_and_read_back() {
    let (schema, row) = every_type();
    let object = row_to_json(&schema, &row);
    let line = serde_json::to_string(&object).unwrap();
    assert_eq!(
        line,
        r#"{"text":"say \"hi\",\nbye","bool":true,"int":-7,"float":2.5,"decimal":"1.50","bytes":{"hex":"ff00"},"date":"1970-01-01","timestamp":"1970-01-01T00:00:01.5Z","uuid":"abababab-abab-abab-abab-abababababab","null":null}"#
    );
    assert_eq!(read(&jsonl(line), &schema).unwrap(), [row]);
}

#[test]
fn only_fields_that_need_quotes_get_them() {
    let mut out = String::new();
    let fields =
        [Some("a b"), None, Some(""), Some("a,b"), Some("a\"b"), Some("a\rb"), Some("a\nb"), Some("a\tb'")];
    write_csv_record(&mut out, fields);
    assert_eq!(out, "a b,,\"\",\"a,b\",\"a\"\"b\",\"a\rb\",\"a\nb\",a\tb'");
}

#[test]
fn json_numbers_and_bytes_take_the_form_that_json_has_for_them() {
    for (float, json) in [
        (1.5, json!(1.5)),
        (2.0, json!(2)),
        (-0.0, json!(0)),
        (1e300, json!(1e300)),
        (f64::NAN, json!("NaN")),
        (f64::NEG_INFINITY, json!("-inf")),
    ] {
        assert_eq!(value_to_json(&Type::Float, &Value::Float(float)), json);
    }
    assert_eq!(bytes_to_json("é".as_bytes()), json!("é"));
    assert_eq!(bytes_to_json(&[0xc3]), json!({"hex": "c3"}));
}

#[test]
fn keys_are_csv_records_of_the_key_columns() {
    let columns = ["a text", "v bool", "n int"].iter().zip(0..).map(|(column, id)| {
        let (name, ty) = column.split_once(' ').unwrap();
        Column { id, name: name.into(), ty: ty.parse().unwrap() }
    });
    let schema = Schema::new(columns.collect(), vec![2, 0]).unwrap();
    let key = [Value::Int(7), text("x,\ny")];
    assert_eq!(key_to_csv(&schema, &key), "7,\"x,\ny\"");
    assert_eq!(parse_key(&schema, "7,\"x,\ny\"").unwrap(), key);
    assert_eq!(parse_key(&schema, "7,\"\"").unwrap(), [Value::Int(7), text("")]);
    assert_eq!(serde_json::Value::Object(key_to_json(&schema, &key)), json!({"n": 7, "a": "x,\ny"}));
    for (record, message) in [
        ("7", "KEY:1:2: expected 2 CSV fields for the key `n`, `a`, found 1 in \"7\""),
        ("", "KEY:1:1: expected 2 CSV fields for the key `n`, `a`, found 0 in \"\""),
        ("7,x,y", "KEY:1:6: expected 2 CSV fields for the key `n`, `a`, found 3 in \"7,x,y\""),
        ("7,", "KEY:1:3: expected a value for the key column `a`, found NULL"),
        ("7,x\n8,y", "KEY:2:1: expected one CSV record, found another line"),
    ] {
        assert_eq!(parse_key(&schema, record).unwrap_err().to_string(), message);
    }
    let error = parse_key(&schema, "x,y").unwrap_err().to_string();
    assert!(error.starts_with("KEY:1:1: expected an int"), "{error}");
}

/// Every string of at most `length` characters of `alphabet`.
fn strings<T: Clone>(alphabet: &[T], length: usize) -> Vec<Vec<T>> {
    let mut all = vec![Vec::new()];
    let mut from = 0;
    for _ in 0..length {
        let longest = all[from..].to_vec();
        from = all.len();
        for string in longest {
            all.extend(alphabet.iter().map(|last| [string.as_slice(), std::slice::from_ref(last)].concat()));
        }
    }
    all
}

#[test]
fn every_text_written_as_csv_reads_back() {
    let fields: Vec<String> = strings(&['a', ',', '"', '\r', '\n', 'é'], 4)
        .into_iter()
        .map(|chars| chars.into_iter().collect())
        .collect();
    let mut out = "a,b\n".to_owned();
    for field in &fields {
        write_csv_record(&mut out, [Some(field.as_str()), None]);
        out.push('\n');
    }
    let rows = read(&csv(out), &texts(2)).unwrap();
    assert!(rows.into_iter().eq(fields.iter().map(|field| vec![text(field), Value::Null])));
}

#[test]
fn no_bytes_make_a_reader_panic_or_point_outside_the_file() {
    for (format, alphabet) in
        [(Format::Csv, *b"a,\"\r\n\xff"), (Format::Jsonl, *b"{}\":a\n"), (Format::Jsonl, *b"{}\"\\a\xc3")]
    {
        for bytes in strings(&alphabet, 5) {
            let (line_max, column_max) =
                (bytes.iter().filter(|byte| **byte == b'\n').count() as u64 + 1, bytes.len() as u64 + 1);
            for error in [
                read(&source(format, &bytes), &texts(1)).err(),
                infer(&source(format, &bytes), &["a".into()], &[]).err(),
            ] {
                if let Some(TabularError::BadInput { at, .. }) = error {
                    assert!((1..=line_max).contains(&at.line), "{bytes:?}");
                    assert!((1..=column_max).contains(&at.column), "{bytes:?}");
                }
            }
        }
    }
}
