//! Bad input: a clear error with its status, and nothing changed.

use std::net::TcpListener;

use pleach_tests::Sandbox;

use crate::tables::{FRUIT, fruit};

#[track_caller]
fn refused_import(content: &str, args: &[&str], expected: &str) {
    let sandbox = fruit();
    sandbox.write("bad.csv", content);
    let mut all = vec!["-C", "db", "import", "fruit", "bad.csv"];
    all.extend(args);
    let said = sandbox.run(&all).fails(1);
    assert!(said.contains(expected), "expected `{expected}` in: {said}");
    assert_eq!(sandbox.run(&["-C", "db", "export", "fruit"]).ok(), FRUIT, "nothing is imported by halves");
    assert_eq!(sandbox.run(&["-C", "db", "status", "--json"]).json()["dirty"], false);
}

#[test]
fn a_ragged_line_is_named_by_file_line_and_column() {
    refused_import("id,name,price,ripe,picked\n7,fig,1.0,true,\n8,nut\n", &["--upsert"], "bad.csv:3:");
}

#[test]
fn a_value_of_the_wrong_type_is_named_by_file_line_and_column() {
    let rows = "id,name,price,ripe,picked\n7,fig,1.0,true,\n8,nut,cheap,true,\n";
    refused_import(rows, &["--upsert"], "bad.csv:3:7: expected");
}

#[test]
fn a_duplicate_key_in_the_file_or_table_is_refused() {
    let header = "id,name,price,ripe,picked\n";
    refused_import(&format!("{header}7,fig,1.0,true,\n7,nut,1.0,true,\n"), &["--upsert"], "bad.csv:3:1");
    refused_import(&format!("{header}7,fig,1.0,true,\n2,nut,1.0,true,\n"), &[], "bad.csv:3:1");
    // Of several the first in the file is told, whatever the order of keys; one in the file itself before one of the table.
    let fruit = |keys: &[u8]| {
        let rows: String = keys.iter().map(|key| format!("{key},fig,1.0,true,\n")).collect();
        format!("{header}{rows}")
    };
    let again = |line: u64, key: u8, first: u64| {
        format!(
            "bad.csv:{line}:1: expected a key that is new, found the key {key} again, first on line {first}"
        )
    };
    refused_import(&fruit(&[7, 8, 9, 9, 7, 9]), &["--replace"], &again(5, 9, 4));
    refused_import(&fruit(&[2, 8, 9, 8, 8]), &[], &again(5, 8, 3));
    refused_import(
        &fruit(&[7, 3, 1, 2]),
        &[],
        "bad.csv:3:1: expected a key that is new, found the key 3, which the table has",
    );
    let sandbox = Sandbox::new();
    sandbox.run(&["init", "db"]).ok();
    sandbox.write("bad.csv", &fruit(&[7, 8, 9, 9, 7]));
    let said = sandbox.run(&["-C", "db", "import", "new", "bad.csv", "--key", "id"]).fails(1);
    assert!(said.contains(&again(5, 9, 4)), "{said}");
    assert_eq!(sandbox.run(&["-C", "db", "status", "--json"]).json()["dirty"], false);
}

#[test]
fn an_open_quote_and_bytes_that_are_no_text_are_refused() {
    refused_import("id,name,price,ripe,picked\n7,\"fig,1.0,true,\n", &["--upsert"], "bad.csv:2:3");
    let sandbox = fruit();
    std::fs::write(sandbox.path("bad.csv"), b"id,name,price,ripe,picked\n7,f\xff,1.0,true,\n").unwrap();
    let said = sandbox.run(&["-C", "db", "import", "fruit", "bad.csv", "--upsert"]).fails(1);
    assert!(said.contains("bad.csv:2:"), "{said}");
}

#[test]
fn wrong_usage_is_status_2() {
    let sandbox = fruit();
    for args in [
        vec!["frobnicate"],
        vec!["-C", "db", "import", "fruit"],
        vec!["-C", "db", "scan", "fruit", "--limit", "many"],
        vec!["-C", "db", "--server", "http://127.0.0.1:1", "--database", "db", "status"],
    ] {
        let run = sandbox.run(&args);
        assert_eq!(run.status, 2, "{args:?}: {}", run.stderr);
        assert!(!run.stderr.is_empty());
    }
    sandbox.write("new.csv", "a,b\n1,2\n");
    let said = sandbox.run(&["-C", "db", "import", "new", "new.csv"]);
    assert!([1, 2].contains(&said.status) && said.stderr.contains("--key"), "{}", said.stderr);
}

#[test]
fn a_directory_without_a_database_is_status_1() {
    let sandbox = Sandbox::new();
    let said = sandbox.run(&["status"]).fails(1);
    assert!(said.contains("init"), "says what to do: {said}");
    sandbox.run(&["-C", "nowhere", "status"]).fails(1);
    sandbox.run(&["init", "db"]).ok();
    sandbox.run(&["init", "db"]).fails(1);
    sandbox.run(&["-C", "db", "log", "nothing"]).fails(1);
    sandbox.run(&["-C", "db", "commit", "-m", "nothing to commit"]).fails(1);
}

#[test]
fn a_locked_database_names_who_holds_it() {
    let sandbox = Sandbox::new();
    sandbox.run(&["init", "data/db"]).ok();
    let server = sandbox.serve(&["--data-dir", "data", "--listen", "127.0.0.1:0"]);
    sandbox.run(&server.args("db", &["put", "t", "a", "1"])).ok();
    let said = sandbox.run(&["-C", "data/db", "status"]).fails(1);
    assert!(said.contains("process"), "{said}");
}

#[test]
fn a_server_that_is_not_there_is_status_4() {
    let port = pleach_tests::free_port();
    let sandbox = fruit();
    let url = format!("http://127.0.0.1:{port}");
    sandbox.run(&["--server", &url, "--database", "db", "status"]).fails(4);
    sandbox.run(&["-C", "db", "remote", "add", "origin", &format!("{url}/db")]).ok();
    sandbox.run(&["-C", "db", "push"]).fails(4);
    sandbox.run(&["clone", &format!("{url}/db"), "copy"]).fails(4);
    assert!(!sandbox.path("copy").exists(), "a clone that failed leaves nothing");
}

#[test]
fn a_port_in_use_is_status_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let sandbox = Sandbox::new();
    let address = taken.local_addr().unwrap().to_string();
    let said = sandbox.run(&["serve", "--data-dir", "data", "--listen", &address]).fails(1);
    assert!(
        said.contains(&address) || said.contains(&taken.local_addr().unwrap().port().to_string()),
        "{said}"
    );
}

#[test]
fn a_bad_configuration_is_status_2_and_suggests() {
    let sandbox = Sandbox::new();
    sandbox.write("config.yaml", "data_dir: data\nlistner: {port: 7420}\n");
    let said = sandbox.run(&["serve", "--config", "config.yaml", "--check"]).fails(2);
    assert!(said.contains("listener"), "{said}");
    sandbox.write("config.yaml", "data_dir: data\nlistener: {host: 0.0.0.0, port: 0}\n");
    let said = sandbox.run(&["serve", "--config", "config.yaml", "--check"]).fails(2);
    assert!(said.contains("--insecure"), "{said}");
    sandbox.write("config.yaml", "data_dir: data\n");
    sandbox.run(&["serve", "--config", "config.yaml", "--check"]).ok();
}

#[test]
fn damage_is_status_3_and_names_the_file() {
    let sandbox = fruit();
    let journal = std::fs::read_dir(sandbox.path("db"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("journal"))
        .unwrap();
    let mut bytes = std::fs::read(&journal).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&journal, bytes).unwrap();
    let said = sandbox.run(&["-C", "db", "export", "fruit"]).fails(3);
    assert!(said.contains("journal"), "{said}");
}

#[test]
fn an_empty_manifest_is_damage_and_never_a_new_store() {
    let sandbox = fruit();
    std::fs::write(sandbox.path("db/manifest"), b"").unwrap();
    sandbox.run(&["-C", "db", "status"]).fails(3);
    sandbox.run(&["init", "db"]).fails(1);
}
