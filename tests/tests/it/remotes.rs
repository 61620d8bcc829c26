//! Clone, fetch, push and pull between a local database and a server.

use pleach_tests::{Sandbox, Server, eventually};
use serde_json::{Value, json};

/// A server with database `db`, on which `rows` rows of table `t` are committed.
fn served(sandbox: &Sandbox, rows: usize) -> Server {
    let server = sandbox.serve(&["--data-dir", "data", "--listen", "127.0.0.1:0"]);
    sandbox.run(&["--server", &server.url(), "database", "create", "db"]).ok();
    let lines: Vec<String> = (0..rows).map(|n| format!("{n},value {n}")).collect();
    sandbox.write("rows.csv", &format!("k,v\n{}\n", lines.join("\n")));
    sandbox.run(&server.args("db", &["import", "t", "rows.csv", "--key", "k", "--commit", "rows"])).ok();
    server
}

fn put(sandbox: &Sandbox, dir: &str, table: &str, key: &str, value: &str) {
    sandbox.run(&["-C", dir, "put", table, key, value]).ok();
    sandbox.run(&["-C", dir, "commit", "-m", &format!("{key}={value}")]).ok();
}

fn head(sandbox: &Sandbox, dir: &str) -> Value {
    sandbox.run(&["-C", dir, "status", "--json"]).json()["head"].clone()
}

#[test]
fn a_clone_is_equal_and_follows() {
    let sandbox = Sandbox::new();
    let server = served(&sandbox, 3000);
    let cloned = sandbox.run(&["clone", &server.database("db"), "copy", "--json"]).json();
    assert_eq!(cloned["round_trips"], 1);
    let there = sandbox.run(&server.args("db", &["export", "t"])).ok();
    assert_eq!(sandbox.run(&["-C", "copy", "export", "t"]).ok(), there);

    let nothing = sandbox.run(&["-C", "copy", "pull", "--json"]).json();
    assert_eq!(
        (&nothing["chunks"], &nothing["merge"], &nothing["round_trips"]),
        (&json!(0), &json!("none"), &json!(1))
    );

    sandbox.run(&server.args("db", &["put", "notes", "a", "1"])).ok();
    sandbox.run(&server.args("db", &["commit", "-m", "note"])).ok();
    let pulled = sandbox.run(&["-C", "copy", "pull", "--json"]).json();
    assert_eq!((&pulled["merge"], &pulled["round_trips"]), (&json!("fast-forward"), &json!(1)));
    assert!(pulled["bytes_received"].as_u64().unwrap() < 4000, "{pulled}");
    assert_eq!(sandbox.run(&["-C", "copy", "get", "notes", "a"]).ok(), "1\n");
}

#[test]
fn a_push_of_one_row_into_a_new_table_is_under_4_kb() {
    let sandbox = Sandbox::new();
    let server = served(&sandbox, 3000);
    sandbox.run(&["clone", &server.database("db"), "copy"]).ok();
    put(&sandbox, "copy", "new", "a", "1");
    let pushed = sandbox.run(&["-C", "copy", "push", "--json"]).json();
    let bytes = pushed["bytes_sent"].as_u64().unwrap() + pushed["bytes_received"].as_u64().unwrap();
    assert!(bytes < 4000, "{pushed}");
    assert_eq!(pushed["round_trips"], 1);
    assert_eq!(pushed["refs"][0]["status"], "updated");
    assert_eq!(sandbox.run(&server.args("db", &["get", "new", "a"])).ok(), "1\n");
    let again = sandbox.run(&["-C", "copy", "push", "--json"]).json();
    assert_eq!((&again["refs"][0]["status"], &again["chunks"]), (&json!("unchanged"), &json!(0)));
}

#[test]
fn a_push_that_is_no_fast_forward_is_refused_and_says_what_to_do() {
    let sandbox = Sandbox::new();
    let server = served(&sandbox, 10);
    sandbox.run(&["clone", &server.database("db"), "a"]).ok();
    sandbox.run(&["clone", &server.database("db"), "b"]).ok();
    put(&sandbox, "a", "x", "from", "a");
    put(&sandbox, "b", "y", "from", "b");
    sandbox.run(&["-C", "a", "push"]).ok();
    let winner = head(&sandbox, "a");
    let refused = sandbox.run(&["-C", "b", "push", "--json"]);
    assert_eq!(refused.status, 1);
    assert!(refused.stderr.contains("pull"), "says what to do next: {}", refused.stderr);
    let document: Value = serde_json::from_str(&refused.stdout).unwrap();
    assert_eq!(document["refs"][0]["status"], "rejected");
    let served = sandbox.run(&server.args("db", &["status", "--json"])).json();
    assert_eq!(served["head"], winner, "the winner is not clobbered");

    let pulled = sandbox.run(&["-C", "b", "pull", "--json"]).json();
    assert_eq!(pulled["merge"], "merged");
    sandbox.run(&["-C", "b", "push"]).ok();
    sandbox.run(&["-C", "a", "pull"]).ok();
    assert_eq!(head(&sandbox, "a"), head(&sandbox, "b"));
}

#[test]
fn e6_a_push_over_uncommitted_work_is_refused_and_force_keeps_the_old_head() {
    let sandbox = Sandbox::new();
    let server = served(&sandbox, 10);
    sandbox.run(&["clone", &server.database("db"), "a"]).ok();
    put(&sandbox, "a", "x", "k", "1");
    sandbox.run(&server.args("db", &["put", "dirty", "k", "v"])).ok();
    let refused = sandbox.run(&["-C", "a", "push"]).fails(1);
    assert!(refused.contains("uncommitted"), "{refused}");
    sandbox.run(&server.args("db", &["commit", "-m", "theirs"])).ok();
    sandbox.run(&["-C", "a", "push"]).fails(1);
    let old =
        sandbox.run(&server.args("db", &["status", "--json"])).json()["head"].as_str().unwrap().to_owned();
    let forced = sandbox.run(&["-C", "a", "push", "--force", "--json"]).json();
    assert_eq!(forced["refs"][0]["status"], "forced");
    let kept = sandbox.run(&server.args("db", &["show", &old, "--json"]));
    assert_eq!(kept.status, 0, "the old head is kept: {}", kept.stderr);
    sandbox.run(&["-C", "a", "remote", "add", "other", &server.database("nothing")]).ok();
    let unknown = sandbox.run(&["-C", "a", "push", "other"]).fails(1);
    assert!(unknown.contains("nothing"), "{unknown}");
}

#[test]
fn tags_and_branches_travel_and_are_deleted() {
    let sandbox = Sandbox::new();
    let server = served(&sandbox, 10);
    sandbox.run(&["clone", &server.database("db"), "a"]).ok();
    sandbox.run(&["-C", "a", "switch", "-c", "feature/x"]).ok();
    put(&sandbox, "a", "x", "k", "1");
    sandbox.run(&["-C", "a", "tag", "v1"]).ok();
    sandbox.run(&["-C", "a", "push", "--all", "--tags"]).ok();
    sandbox.run(&["clone", &server.database("db"), "b"]).ok();
    assert_eq!(sandbox.run(&["-C", "b", "get", "x", "k", "--at", "v1"]).ok(), "1\n");
    assert_eq!(sandbox.run(&["-C", "b", "get", "x", "k", "--at", "remotes/origin/feature/x"]).ok(), "1\n");
    sandbox.run(&["-C", "a", "push", "origin", "--delete", "feature/x"]).ok();
    assert!(!sandbox.run(&server.args("db", &["branch"])).ok().contains("feature/x"));
}

#[test]
fn remotes_are_added_listed_and_removed() {
    let sandbox = Sandbox::new();
    sandbox.run(&["init"]).ok();
    sandbox.run(&["remote", "add", "origin", "http://127.0.0.1:7420/db"]).ok();
    assert!(sandbox.run(&["remote", "list"]).ok().contains("origin"));
    sandbox.run(&["remote", "add", "origin", "http://127.0.0.1:7420/db"]).fails(1);
    sandbox.run(&["remote", "remove", "origin"]).ok();
    sandbox.run(&["fetch"]).fails(1);
    assert_eq!(sandbox.run(&["remote", "add", "x", "ftp://host/db"]).status, 2);
}

/// Some MiB of rows that hardly compress, committed on the server.
fn served_noise(sandbox: &Sandbox) -> Server {
    let server = served(sandbox, 10);
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{:016x}", state ^ state >> 31)
    };
    let lines: Vec<String> =
        (0..120_000).map(|n| format!("{n},{}{}{}{}", noise(), noise(), noise(), noise())).collect();
    sandbox.write("noise.csv", &format!("k,v\n{}\n", lines.join("\n")));
    let import = ["import", "noise", "noise.csv", "--key", "k", "--commit", "noise"];
    sandbox.run(&server.args("db", &import)).ok();
    server
}

#[test]
fn e7_a_clone_that_was_killed_goes_on_when_it_is_made_again() {
    let sandbox = Sandbox::new();
    let mut server = served_noise(&sandbox);
    let url = server.database("db");
    let whole = sandbox.run(&["clone", &url, "whole", "--json"]).json();
    let mut clone = sandbox.command(&["clone", &url, "copy", "--limit-rate", "512KiB"]);
    let mut child =
        clone.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    // What has arrived is noted each time that some MiB are stored, at most once a second.
    eventually("some of the clone is stored", || {
        let journal = std::fs::read_dir(sandbox.path("copy")).ok()?.flatten();
        let bytes: u64 =
            journal.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum();
        (bytes > 4_250_000).then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    // It is no database to work with, and no place for another clone.
    sandbox.run(&["clone", &format!("{url}2"), "copy"]).fails(1);
    server.kill();
    let error = sandbox.run(&["clone", &url, "copy"]).fails(4);
    assert!(error.contains("try again"), "{error}");

    let listen = url.trim_start_matches("http://").trim_end_matches("/db").to_owned();
    let _server = sandbox.serve(&["--data-dir", "data", "--listen", &listen]);
    let rest = sandbox.run(&["clone", &url, "copy", "--json"]).json();
    let bytes = |transfer: &Value| transfer["bytes_received"].as_u64().unwrap();
    assert!(bytes(&rest) < bytes(&whole) * 3 / 4, "{rest} of {whole}");
    for dir in ["whole", "copy"] {
        sandbox.run(&["-C", dir, "fsck"]).ok();
    }
    let rows = sandbox.run(&["-C", "copy", "export", "noise"]).ok();
    assert_eq!(rows, sandbox.run(&["-C", "whole", "export", "noise"]).ok());
    sandbox.run(&["clone", &url, "copy"]).fails(1);
}

#[test]
fn a_transfer_keeps_to_its_rate() {
    let sandbox = Sandbox::new();
    let server = served_noise(&sandbox);
    let started = std::time::Instant::now();
    let cloned =
        sandbox.run(&["clone", &server.database("db"), "copy", "--limit-rate", "2MiB", "--json"]).json();
    let seconds = cloned["bytes_received"].as_u64().unwrap() as f64 / f64::from(2 << 20);
    let took = started.elapsed().as_secs_f64();
    assert!(took > seconds * 0.9, "{seconds} s would be right, it took {took}: {cloned}");
    sandbox.run(&["clone", &server.database("db"), "other", "--limit-rate", "fast"]).fails(2);
}
