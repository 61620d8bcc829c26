//! Patches and reverted commits, locally and on a server.

use pleach_tests::Sandbox;
use serde_json::json;

use crate::tables::{FRUIT, fruit};

const CHANGED: &str =
    "id,name,price,ripe,picked\n1,apple,1.30,true,2024-05-01\n3,plum,,true,\n4,fig,2.00,true,\n";

/// The table `fruit`, a copy of the database in `copy`, and then another version committed.
fn two_versions() -> Sandbox {
    let sandbox = fruit();
    sandbox.run(&["init", "copy"]).ok();
    sandbox.run(&["-C", "copy", "import", "fruit", "fruit.csv", "--key", "id", "--commit", "fruit"]).ok();
    sandbox.write("changed.csv", CHANGED);
    sandbox.run(&["-C", "db", "import", "fruit", "changed.csv", "--replace", "--commit", "changed"]).ok();
    sandbox
}

#[test]
fn a_patch_carries_a_change_to_another_database_and_back() {
    let sandbox = two_versions();
    let made = sandbox.run(&["-C", "db", "patch", "make", "HEAD~1", "HEAD", "-o", "p", "--json"]).json();
    assert_eq!(made["file"], "p");
    let applied = sandbox.run(&["-C", "copy", "patch", "apply", "p", "--json"]).json();
    assert_eq!(applied, json!({"tables": 1, "inserted": 1, "updated": 1, "deleted": 1}));
    assert_eq!(sandbox.run(&["-C", "copy", "export", "fruit"]).ok(), CHANGED);
    let twice = sandbox.run(&["-C", "copy", "patch", "apply", "p"]).fails(1);
    assert!(twice.contains("`fruit`") && twice.contains("`1`"), "it names the table and the row: {twice}");
    assert_eq!(sandbox.run(&["-C", "copy", "export", "fruit"]).ok(), CHANGED);
    sandbox.run(&["-C", "copy", "patch", "apply", "p", "--reverse"]).ok();
    assert_eq!(sandbox.run(&["-C", "copy", "export", "fruit"]).ok(), FRUIT);
    assert_eq!(sandbox.run(&["-C", "copy", "status", "--json"]).json()["dirty"], false);
}

#[test]
fn what_is_no_patch_is_refused_and_nothing_is_changed() {
    let sandbox = two_versions();
    sandbox.run(&["-C", "db", "patch", "make", "HEAD~1", "-o", "p"]).ok();
    let patch = std::fs::read(sandbox.path("p")).unwrap();
    for (name, bytes) in [("cut", &patch[..patch.len() - 9]), ("csv", FRUIT.as_bytes()), ("empty", &[])] {
        std::fs::write(sandbox.path(name), bytes).unwrap();
        sandbox.run(&["-C", "copy", "patch", "apply", name]).fails(1);
        sandbox.run(&["-C", "copy", "patch", "apply", name, "--reverse"]).fails(1);
    }
    sandbox.run(&["-C", "copy", "patch", "apply", "nothing"]).fails(1);
    assert_eq!(sandbox.run(&["-C", "copy", "export", "fruit"]).ok(), FRUIT);
    sandbox.run(&["-C", "db", "patch", "make", "HEAD~1", "--table", "nuts", "-o", "none"]).fails(1);
    assert!(!sandbox.path("none").exists(), "no file is left by halves");
}

#[test]
fn a_commit_is_reverted_by_a_new_one() {
    let sandbox = two_versions();
    sandbox.run(&["-C", "db", "put", "kv", "k", "v"]).ok();
    let refused = sandbox.run(&["-C", "db", "revert", "HEAD"]).fails(1);
    assert!(refused.contains("commit"), "says what to do first: {refused}");
    sandbox.run(&["-C", "db", "commit", "-m", "kv"]).ok();
    let made = sandbox.run(&["-C", "db", "revert", "HEAD~1", "--json"]).json();
    assert_eq!(made["branch"], "main");
    assert_eq!(sandbox.run(&["-C", "db", "export", "fruit"]).ok(), FRUIT);
    assert_eq!(sandbox.run(&["-C", "db", "get", "kv", "k"]).ok(), "v\n");
    let log = sandbox.run(&["-C", "db", "log", "-n", "1", "--json"]).json_lines();
    assert_eq!(log[0]["hash"], made["hash"]);
    assert!(log[0]["message"].as_str().unwrap().contains("changed"), "{}", log[0]);
    sandbox.run(&["-C", "db", "revert", "HEAD~2"]).fails(1);
    sandbox.run(&["-C", "db", "revert", "nothing"]).fails(1);
}

#[test]
fn patches_and_reverts_on_a_server_do_what_they_do_locally() {
    let sandbox = two_versions();
    sandbox.run(&["-C", "db", "patch", "make", "HEAD~1", "HEAD", "-o", "p"]).ok();
    let import = ["import", "fruit", "fruit.csv", "--key", "id", "--commit", "fruit"];
    std::fs::create_dir(sandbox.path("data")).unwrap();
    sandbox.run(&["init", "data/shop"]).ok();
    sandbox.run(&[&["-C", "data/shop"], &import[..]].concat()).ok();
    let mut server = sandbox.serve(&["--data-dir", "data", "--listen", "127.0.0.1:0"]);
    // To a table that a client made, which is cut into nodes otherwise, it goes as well.
    sandbox.run(&["--server", &server.url(), "database", "create", "other"]).ok();
    sandbox.run(&server.args("other", &import)).ok();
    sandbox.run(&server.args("other", &["patch", "apply", "p"])).ok();
    assert_eq!(sandbox.run(&server.args("other", &["export", "fruit"])).ok(), CHANGED);
    let on = |args: &[&str]| sandbox.run(&server.args("shop", args));
    let applied = on(&["patch", "apply", "p", "--json"]).json();
    assert!(applied["token"].is_string() && applied["inserted"] == 1, "{applied}");
    assert_eq!(on(&["export", "fruit"]).ok(), CHANGED);
    on(&["patch", "make", "-o", "from-server"]).ok();
    assert_eq!(
        std::fs::read(sandbox.path("from-server")).unwrap(),
        std::fs::read(sandbox.path("p")).unwrap()
    );
    let twice = on(&["patch", "apply", "p"]).fails(1);
    assert!(twice.contains("`fruit`"), "{twice}");
    on(&["patch", "apply", "p", "--reverse"]).ok();
    assert_eq!(on(&["export", "fruit"]).ok(), FRUIT);
    on(&["patch", "apply", "p"]).ok();
    on(&["commit", "-m", "changed"]).ok();
    on(&["revert", "HEAD", "-m", "back"]).ok();
    assert_eq!(on(&["export", "fruit"]).ok(), FRUIT);
    let read_only = sandbox.run(&server.args("shop@HEAD", &["patch", "apply", "p"]));
    assert_ne!(read_only.status, 0);
    assert_eq!(server.stop(), 0, "{}", server.log());
}
