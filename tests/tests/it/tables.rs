//! Tables on the local command line: import, reads, differences, commits, export.

use pleach_tests::Sandbox;
use serde_json::json;

pub(crate) const FRUIT: &str =
    "id,name,price,ripe,picked\n1,apple,1.20,true,2024-05-01\n2,pear,0.95,false,2024-05-02\n3,plum,,true,\n";

/// A database `db` with the table `fruit` committed.
pub(crate) fn fruit() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.run(&["init", "db"]).ok();
    sandbox.write("fruit.csv", FRUIT);
    sandbox.run(&["-C", "db", "import", "fruit", "fruit.csv", "--key", "id"]).ok();
    sandbox.run(&["-C", "db", "commit", "-m", "fruit"]).ok();
    sandbox
}

#[test]
fn an_imported_table_comes_back_as_it_was() {
    let sandbox = fruit();
    assert_eq!(sandbox.run(&["-C", "db", "export", "fruit"]).ok(), FRUIT);
    assert_eq!(sandbox.run(&["-C", "db", "get", "fruit", "2"]).ok(), "2,pear,0.95,false,2024-05-02\n");
    let row = sandbox.run(&["-C", "db", "get", "fruit", "3", "--json"]).json();
    assert_eq!(row, json!({"id": 3, "name": "plum", "price": null, "ripe": true, "picked": null}));
    let scan = sandbox.run(&["-C", "db", "scan", "fruit", "--from", "2", "--limit", "1"]).ok();
    assert_eq!(scan, "2,pear,0.95,false,2024-05-02\n");
    let exported = sandbox.run(&["-C", "db", "export", "fruit", "--format", "jsonl"]).json_lines();
    assert_eq!(exported.len(), 3);
}

#[test]
fn a_key_that_is_not_there_is_status_1() {
    let sandbox = fruit();
    sandbox.run(&["-C", "db", "get", "fruit", "9"]).fails(1);
    sandbox.run(&["-C", "db", "get", "nuts", "9"]).fails(1);
}

#[test]
fn raw_tables_hold_any_key_and_value() {
    let sandbox = Sandbox::new();
    sandbox.run(&["init"]).ok();
    sandbox.run(&["put", "kv", "greeting", "hello\tworld"]).ok();
    sandbox.run(&["put", "kv", "00ff", "c0de", "--hex"]).ok();
    assert_eq!(sandbox.run(&["get", "kv", "greeting"]).ok(), "hello\tworld\n");
    let lines = sandbox.run(&["scan", "kv", "--json"]).json_lines();
    assert_eq!(lines[0], json!({"key": {"hex": "00ff"}, "value": {"hex": "c0de"}}));
    assert_eq!(lines[1], json!({"key": "greeting", "value": "hello\tworld"}));
    assert!(sandbox.run(&["scan", "kv", "--from", "g"]).ok().contains("greeting\thello\\tworld"));
    sandbox.run(&["del", "kv", "greeting"]).ok();
    sandbox.run(&["get", "kv", "greeting"]).fails(1);
}

#[test]
fn put_into_a_typed_table_points_to_upsert() {
    let said = fruit().run(&["-C", "db", "put", "fruit", "1", "x"]).fails(1);
    assert!(said.contains("import --upsert"), "{said}");
}

#[test]
fn replace_leaves_equal_rows_alone_and_upsert_adds() {
    let sandbox = fruit();
    let next = "id,name,price,ripe,picked\n1,apple,1.20,true,2024-05-01\n2,pear,1.05,false,2024-05-02\n4,fig,2.00,true,\n";
    sandbox.write("next.csv", next);
    sandbox.run(&["-C", "db", "import", "fruit", "next.csv", "--replace"]).ok();
    let stat = sandbox.run(&["-C", "db", "diff", "--stat", "--json"]).json_lines();
    assert_eq!(stat, [json!({"table": "fruit", "inserted": 1, "updated": 1, "deleted": 1})]);
    let changes = sandbox.run(&["-C", "db", "diff", "--json"]).json_lines();
    assert_eq!(changes.len(), 3);
    let pear = &changes[0];
    assert_eq!(pear["op"], "update");
    assert_eq!(pear["key"], json!({"id": 2}));
    assert_eq!(pear["old"]["price"], "0.95");
    let status = sandbox.run(&["-C", "db", "status", "--json"]).json();
    assert_eq!(status["dirty"], true);
    assert_eq!(status["branch"], "main");
    sandbox.run(&["-C", "db", "commit", "-m", "next"]).ok();

    sandbox.write("more.csv", "id,name,price,ripe,picked\n4,fig,2.10,true,\n5,lime,0.30,false,\n");
    sandbox.run(&["-C", "db", "import", "fruit", "more.csv", "--upsert", "--commit", "more"]).ok();
    assert_eq!(sandbox.run(&["-C", "db", "status", "--json"]).json()["dirty"], false);
    let log = sandbox.run(&["-C", "db", "log", "--json"]).json_lines();
    let messages: Vec<_> = log.iter().map(|commit| commit["message"].as_str().unwrap()).collect();
    assert_eq!(messages, ["more", "next", "fruit"]);
    assert_eq!(log[0]["author"], "Tester <test@example.org>");
    assert_eq!(log[0]["parents"], json!([log[1]["hash"]]));
    assert_eq!(sandbox.run(&["-C", "db", "export", "fruit", "--at", "HEAD~2"]).ok(), FRUIT);
    assert_eq!(sandbox.run(&["-C", "db", "export", "fruit", "--at", "HEAD~1"]).ok(), next);
}

#[test]
fn the_same_rows_in_any_order_and_batches_make_the_same_root() {
    let rows: Vec<String> = (0..500).map(|n| format!("{n},value {}", n * 7 % 13)).collect();
    let root = |sandbox: &Sandbox| sandbox.run(&["commit", "-m", "m", "--json"]).json()["root"].clone();
    let (one, other) = (Sandbox::new(), Sandbox::new());
    one.run(&["init"]).ok();
    one.write("all.csv", &format!("k,v\n{}\n", rows.join("\n")));
    one.run(&["import", "t", "all.csv", "--key", "k"]).ok();
    other.run(&["init"]).ok();
    for (i, part) in rows.chunks(170).rev().enumerate() {
        let mut part = part.to_vec();
        part.reverse();
        other.write("part.csv", &format!("k,v\n{}\n", part.join("\n")));
        let mut args = vec!["import", "t", "part.csv", "--key", "k"];
        if i > 0 {
            args.push("--upsert");
        }
        other.run(&args).ok();
    }
    assert_eq!(root(&one), root(&other));
}

#[test]
fn an_import_from_standard_input_infers_types() {
    let sandbox = Sandbox::new();
    sandbox.run(&["init"]).ok();
    let input = "code,big,when\n007,9007199254740993,2024-02-29T10:00:00Z\n008,1,2024-03-01T00:00:00Z\n";
    sandbox.run_with_input(&["import", "t", "-", "--key", "code"], input).ok();
    assert_eq!(sandbox.run(&["export", "t"]).ok(), input);
    let row = sandbox.run(&["get", "t", "007", "--json"]).json();
    assert_eq!(row, json!({"code": "007", "big": 9_007_199_254_740_993_i64, "when": "2024-02-29T10:00:00Z"}));
}

#[test]
fn a_table_is_listed_shown_and_dropped() {
    let sandbox = fruit();
    assert!(sandbox.run(&["-C", "db", "table", "list"]).ok().contains("fruit"));
    let shown = sandbox.run(&["-C", "db", "table", "show", "fruit"]).ok();
    assert!(shown.contains("price") && shown.contains("date"), "{shown}");
    sandbox.run(&["-C", "db", "table", "drop", "fruit"]).ok();
    sandbox.run(&["-C", "db", "export", "fruit"]).fails(1);
    assert_eq!(sandbox.run(&["-C", "db", "export", "fruit", "--at", "HEAD"]).ok(), FRUIT);
}

#[test]
fn a_chunk_printed_hashes_to_its_address() {
    let sandbox = fruit();
    let head = sandbox.run(&["-C", "db", "status", "--json"]).json()["head"].as_str().unwrap().to_owned();
    let output = sandbox.command(&["-C", "db", "chunk", "cat", &head]).output().unwrap();
    assert!(output.status.success());
    assert_eq!(pleach_engine::Hash::of(&output.stdout).to_string(), head);
}

#[test]
fn a_change_of_indexes_alone_is_seen_and_taken_back() {
    let sandbox = fruit();
    let change = |f: &dyn Fn(&mut pleach_engine::Transaction)| {
        let database = pleach_engine::Database::open(&sandbox.path("db"), Default::default()).unwrap();
        let mut transaction = database.begin("main").unwrap();
        f(&mut transaction);
        transaction.commit().unwrap();
        database.close().unwrap();
    };
    change(&|transaction| transaction.create_index("fruit", "by_name", &["name", "id"], true).unwrap());
    let status = sandbox.run(&["-C", "db", "status", "--json"]).json();
    let nothing = json!([{"table": "fruit", "inserted": 0, "updated": 0, "deleted": 0}]);
    assert_eq!((&status["dirty"], &status["tables"]), (&json!(true), &nothing));
    assert_eq!(sandbox.run(&["-C", "db", "diff"]).ok(), "table fruit (indexes changed)\n");
    assert_eq!(json!(sandbox.run(&["-C", "db", "diff", "--stat", "--json"]).json_lines()), nothing);
    let lines = sandbox.run(&["-C", "db", "diff", "--json"]).json_lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!((&lines[0]["op"], &lines[0]["key"]), (&json!("schema"), &json!(null)));
    assert_eq!(lines[0]["old"]["indexes"], json!({}));
    let indexes = json!({"by_name": {"columns": ["name", "id"], "unique": true}});
    assert_eq!(lines[0]["new"]["indexes"], indexes);
    assert_eq!(lines[0]["new"]["columns"], lines[0]["old"]["columns"]);

    sandbox.run(&["-C", "db", "commit", "-m", "an index"]).ok();
    sandbox.run(&["-C", "db", "revert", "HEAD"]).ok();
    assert_eq!(sandbox.run(&["-C", "db", "diff", "HEAD~2", "HEAD", "--json"]).ok(), "");
    assert_eq!(sandbox.run(&["-C", "db", "diff", "HEAD~1", "HEAD"]).ok(), "table fruit (indexes changed)\n");
}
