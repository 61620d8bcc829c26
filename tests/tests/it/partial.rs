//! Clones of a part of a server's database.

use pleach_tests::{Sandbox, Server};
use serde_json::json;

/// A server with database `db`: tables `a` and `b` of 500 rows, and five commits.
fn served(sandbox: &Sandbox) -> Server {
    let server = sandbox.serve(&["--data-dir", "data", "--listen", "127.0.0.1:0"]);
    sandbox.run(&["--server", &server.url(), "database", "create", "db"]).ok();
    for table in ["a", "b"] {
        let rows: Vec<String> = (0..500).map(|n| format!("{n},{table} {}", n * 7919 % 10_007)).collect();
        sandbox.write("rows.csv", &format!("k,v\n{}\n", rows.join("\n")));
        sandbox.run(&server.args("db", &["import", table, "rows.csv", "--key", "k", "--commit", table])).ok();
    }
    for n in 0..3 {
        sandbox.run(&server.args("db", &["put", "notes", &n.to_string(), "x"])).ok();
        sandbox.run(&server.args("db", &["commit", "-m", &format!("note {n}")])).ok();
    }
    server
}

#[test]
fn clones_of_a_part_read_write_and_push_as_any_other() {
    let sandbox = Sandbox::new();
    let server = served(&sandbox);
    let url = server.database("db");
    let there = |table: &str| sandbox.run(&server.args("db", &["export", table])).ok();
    let whole = sandbox.run(&["clone", &url, "whole", "--json"]).json();
    let received = |document: &serde_json::Value| document["bytes_received"].as_u64().unwrap();
    for (name, options) in [
        ("lazy", &["--lazy"][..]),
        ("table", &["--table", "a", "--table", "notes"]),
        ("depth", &["--depth", "2"]),
    ] {
        let cloned = sandbox.run(&[&["clone", &url, name, "--json"], options].concat()).json();
        assert!(received(&cloned) < received(&whole), "{name}: {cloned}");
        let fsck = sandbox.run(&["-C", name, "fsck", "--json"]).json();
        assert_eq!(fsck["damages"], json!([]));
        assert!(fsck["promised"].as_u64().unwrap() > 0, "{name}: {fsck}");
        for table in ["a", "b"] {
            assert_eq!(sandbox.run(&["-C", name, "export", table]).ok(), there(table), "{name}");
        }
        assert_eq!(
            sandbox.run(&["-C", name, "log", "--json"]).json_lines().len(),
            5 + usize::from(name != "lazy")
        );
        sandbox.run(&["-C", name, "pull"]).ok();
        if name == "lazy" {
            sandbox.run(&["-C", name, "put", "notes", name, "1"]).ok();
            sandbox.run(&["-C", name, "commit", "-m", name]).ok();
            sandbox.run(&["-C", name, "push"]).ok();
            assert_eq!(sandbox.run(&server.args("db", &["get", "notes", name])).ok(), "1\n");
        }
        sandbox.run(&["-C", name, "gc"]).ok();
        let fsck = sandbox.run(&["-C", name, "fsck"]).ok();
        // Of table `b`, which was left out, there is one version, and that was read.
        assert_eq!(fsck.contains("not in this partial clone"), name != "table", "{name}: {fsck}");
    }
    assert_eq!(sandbox.run(&server.args("db", &["fsck", "--json"])).json()["promised"], 0);
}

#[test]
fn without_its_remote_a_partial_clone_says_what_it_lacks() {
    let sandbox = Sandbox::new();
    let mut server = served(&sandbox);
    sandbox.run(&["clone", &server.database("db"), "copy", "--depth", "2"]).ok();
    let refused = sandbox.run(&["-C", "copy", "remote", "remove", "origin"]);
    assert_eq!(refused.status, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("has the rest"), "{}", refused.stderr);
    server.stop();
    assert_eq!(sandbox.run(&["-C", "copy", "export", "b"]).ok().lines().count(), 501);
    assert_eq!(sandbox.run(&["-C", "copy", "log", "-n", "2"]).status, 0);
    let log = sandbox.run(&["-C", "copy", "log", "--json"]);
    assert_eq!((log.status, log.stdout.lines().count()), (4, 2), "{}", log.stderr);
    assert!(log.stderr.contains("not in this partial clone"), "{}", log.stderr);
    sandbox.run(&["-C", "copy", "put", "notes", "mine", "1"]).ok();
    sandbox.run(&["-C", "copy", "commit", "-m", "mine"]).ok();
}

#[test]
fn parts_that_make_no_sense_are_refused() {
    let sandbox = Sandbox::new();
    let server = served(&sandbox);
    let url = server.database("db");
    for (options, status, words) in [
        (&["--depth", "0"][..], 2, "0"),
        (&["--lazy", "--table", "a"], 2, "--table"),
        (&["--table", "absent"], 1, "has no table `absent`"),
    ] {
        let refused = sandbox.run(&[&["clone", &url, "copy"], options].concat());
        assert_eq!(refused.status, status, "{options:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(words), "{options:?}: {}", refused.stderr);
        assert!(!sandbox.path("copy").exists());
    }
    sandbox.run(&["clone", &url, "whole"]).ok();
    let place = format!("file://{}", sandbox.path("place").display());
    sandbox.run(&["-C", "whole", "remote", "add", "place", &place]).ok();
    sandbox.run(&["-C", "whole", "push", "place"]).ok();
    let refused = sandbox.run(&["clone", &place, "copy", "--lazy"]);
    assert_eq!(refused.status, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("from a server"), "{}", refused.stderr);
}
