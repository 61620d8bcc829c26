//! What changes by force took away: listed, shown, put back, dropped, and dropped by itself in the end.

use pleach_tests::{Run, Sandbox, Server};
use serde_json::{Value, json};

/// A database with two commits on `main`.
fn filled() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.run(&["init", "db"]).ok();
    for value in ["1", "2"] {
        sandbox.run(&["-C", "db", "put", "t", "k", value]).ok();
        sandbox.run(&["-C", "db", "commit", "-m", &format!("put {value}")]).ok();
    }
    sandbox
}

/// What is kept, of `run`'s database.
fn kept(run: &dyn Fn(&[&str]) -> Run) -> Vec<Value> {
    run(&["recovery", "list", "--json"]).json()["kept"].as_array().unwrap().clone()
}

fn text<'a>(kept: &'a Value, field: &str) -> &'a str {
    kept[field].as_str().unwrap()
}

#[test]
fn what_a_reset_took_is_listed_shown_and_put_back() {
    let sandbox = filled();
    let run = |args: &[&str]| sandbox.run(&[&["-C", "db"], args].concat());
    assert_eq!((run(&["recovery", "list"]).ok().as_str(), kept(&run)), ("", vec![]));
    run(&["reset", "HEAD", "--hard"]).ok();
    assert_eq!(kept(&run), [] as [Value; 0], "nothing was lost");
    let head = run(&["status", "--json"]).json()["head"].clone();
    run(&["put", "t", "more", "work"]).ok();
    run(&["reset", "HEAD~1", "--hard"]).ok();

    let listed = kept(&run);
    let of = |of: &str| listed.iter().find(|kept| kept["of"] == of).unwrap();
    let (commit, work) = (of("heads/main"), of("work/main"));
    assert_eq!((&commit["hash"], &commit["commit"]["message"]), (&head, &json!("put 2")));
    assert_eq!(work["commit"], Value::Null);
    let lines = run(&["recovery", "list"]).ok();
    for kept in [commit, work] {
        assert!(text(kept, "kept_at").starts_with("20") && text(kept, "kept_at").ends_with('Z'), "{kept}");
        let begin = format!("{}\t{}\t{}\t", text(kept, "ref"), text(kept, "kept_at"), text(kept, "hash"));
        assert!(lines.contains(&begin), "{lines}");
    }
    assert!(lines.contains("\tput 2\n") && lines.contains("\tuncommitted work\n"), "{lines}");

    // Against the branch as it is now: the value that was, and the row that was not committed.
    let shown = run(&["recovery", "show", text(work, "ref"), "--json"]).json();
    assert_eq!(shown["tables"], json!([{"table": "t", "inserted": 1, "updated": 1, "deleted": 0}]));
    let shown = run(&["recovery", "show", text(commit, "ref")]).ok();
    assert!(shown.contains("put 2") && shown.contains("t: 0 inserted, 1 updated, 0 deleted"), "{shown}");
    assert_eq!(run(&["get", "t", "k", "--at", text(commit, "ref")]).ok(), "2\n");

    let before = run(&["status", "--json"]).json()["head"].clone();
    let done = run(&["recovery", "restore", text(commit, "ref"), "--json"]).json();
    assert_eq!((&done["ref"], &done["hash"]), (&json!("heads/main"), &head));
    let status = run(&["status", "--json"]).json();
    assert_eq!((&status["head"], &status["dirty"]), (&head, &json!(false)));
    let replaced = kept(&run).into_iter().find(|kept| kept["ref"] == done["kept"][0]).unwrap();
    assert_eq!(replaced["hash"], before, "what it replaced is kept in turn");
    run(&["recovery", "restore", text(work, "ref")]).ok();
    assert_eq!(run(&["get", "t", "more"]).ok(), "work\n");
    // As a new branch, beside what is there.
    run(&["recovery", "restore", text(&replaced, "ref"), "--as", "old"]).ok();
    assert_eq!(run(&["get", "t", "k", "--at", "old"]).ok(), "1\n");
    let taken = run(&["recovery", "restore", text(&replaced, "ref"), "--as", "main"]).fails(1);
    assert!(taken.contains("already exists"), "{taken}");

    let dropped = run(&["recovery", "drop", text(&replaced, "ref"), "--json"]).json();
    assert_eq!(dropped, json!({"dropped": replaced["ref"], "hash": before}));
    for command in ["show", "restore", "drop"] {
        for name in [text(&replaced, "ref"), "main", "heads/main", "recovery/", "recovery/heads/main/x"] {
            let refused = run(&["recovery", command, name]).fails(1);
            assert!(refused.contains(name) && refused.contains("recovery list"), "{refused}");
        }
    }
}

#[test]
fn a_deleted_branch_comes_back_head_first_and_its_work_then() {
    let sandbox = filled();
    let run = |args: &[&str]| sandbox.run(&[&["-C", "db"], args].concat());
    run(&["switch", "-c", "side"]).ok();
    run(&["put", "t", "k", "3"]).ok();
    run(&["switch", "main"]).ok();
    run(&["branch", "-d", "side"]).ok();
    let listed = kept(&run);
    let of = |of: &str| text(listed.iter().find(|kept| kept["of"] == of).unwrap(), "ref");
    let gone = run(&["recovery", "show", of("work/side"), "--json"]).json();
    assert_eq!(gone["tables"], Value::Null, "there is nothing to compare it with");
    let refused = run(&["recovery", "restore", of("work/side")]).fails(1);
    assert!(refused.contains("its head first") && refused.contains("--as"), "{refused}");
    run(&["recovery", "restore", of("heads/side")]).ok();
    assert_eq!(run(&["get", "t", "k", "--at", "side"]).ok(), "2\n");
    run(&["recovery", "restore", of("work/side")]).ok();
    run(&["switch", "side"]).ok();
    assert_eq!(run(&["get", "t", "k"]).ok(), "3\n");
}

/// A server whose configuration has these lines too, and a clone of its database.
fn served(lines: &str) -> (Sandbox, Server) {
    let sandbox = Sandbox::new();
    sandbox.write("config.yaml", &format!("data_dir: data\nlistener: {{port: 0}}\n{lines}\n"));
    let server = sandbox.serve(&["--config", "config.yaml"]);
    sandbox.run(&server.args("db", &["database", "create", "db"])).ok();
    sandbox.run(&server.args("db", &["put", "t", "k", "1"])).ok();
    sandbox.run(&server.args("db", &["commit", "-m", "one"])).ok();
    sandbox.run(&["clone", &server.database("db"), "clone"]).ok();
    (sandbox, server)
}

/// Has the clone's branch replace the server's, with another commit each time.
fn push_by_force(sandbox: &Sandbox, value: &str) {
    sandbox.run(&["-C", "clone", "put", "t", "k", value]).ok();
    sandbox.run(&["-C", "clone", "commit", "-m", value, "--amend"]).ok();
    sandbox.run(&["-C", "clone", "push", "--force"]).ok();
}

#[test]
fn a_server_puts_back_what_pushes_by_force_took() {
    let (sandbox, server) = served("");
    let run = |args: &[&str]| sandbox.run(&server.args("db", args));
    let before = run(&["status", "--json"]).json()["head"].clone();
    push_by_force(&sandbox, "2");
    push_by_force(&sandbox, "3");
    let listed = kept(&run);
    let messages: Vec<&str> = listed.iter().map(|kept| text(&kept["commit"], "message")).collect();
    assert_eq!(messages, ["one", "2"], "what was lost first at the beginning");
    let shown = run(&["recovery", "show", text(&listed[0], "ref"), "--json"]).json();
    assert_eq!(shown["tables"][0]["updated"], 1);
    let done = run(&["recovery", "restore", text(&listed[0], "ref"), "--json"]).json();
    assert_eq!(done["hash"], before);
    let token = text(&done, "token");
    assert_eq!(run(&["get", "t", "k", "--after", token]).ok(), "1\n");
    run(&["recovery", "restore", text(&listed[1], "ref"), "--as", "second"]).ok();
    sandbox.run(&["-C", "clone", "fetch"]).ok();
    assert_eq!(sandbox.run(&["-C", "clone", "get", "t", "k", "--at", "remotes/origin/second"]).ok(), "2\n");
    run(&["recovery", "drop", text(&listed[1], "ref")]).ok();
    assert!(!kept(&run).iter().any(|kept| kept["ref"] == listed[1]["ref"]));
}

#[test]
fn a_collection_drops_what_was_kept_for_long_enough() {
    for (keep, stay) in [("", 3), ("recovery_keep: {age: 1ms}", 0), ("recovery_keep: {count: 2}", 2)] {
        let (sandbox, server) = served(keep);
        let run = |args: &[&str]| sandbox.run(&server.args("db", args));
        ["2", "3", "4"].iter().for_each(|value| push_by_force(&sandbox, value));
        let all = kept(&run);
        assert_eq!(all.len(), 3, "nothing goes before a collection");
        std::thread::sleep(std::time::Duration::from_millis(5));
        let dry = run(&["gc", "--dry-run", "--json"]).json();
        assert_eq!((&dry["expired"], kept(&run).len()), (&json!(3 - stay), 3));
        let done = run(&["gc", "--json"]).json();
        assert_eq!(done["expired"], json!(3 - stay), "{keep}");
        assert_eq!(kept(&run), all[3 - stay..], "{keep}: the newest stay");
        for (place, kept) in all.iter().enumerate() {
            let status = if place < 3 - stay { 1 } else { 0 };
            assert_eq!(run(&["show", text(kept, "hash")]).status, status, "{keep}: {kept}");
        }
        assert_eq!(run(&["get", "t", "k"]).ok(), "4\n");
    }
}

#[test]
fn how_long_to_keep_is_checked() {
    let sandbox = Sandbox::new();
    for (keep, expected) in [
        ("{age: long}", "recovery_keep.age: expected a duration such as 100ms"),
        ("{count: -1}", "recovery_keep.count: expected a number of refs, found -1"),
        ("{days: 3}", "age"),
    ] {
        sandbox.write("config.yaml", &format!("data_dir: data\nrecovery_keep: {keep}\n"));
        let refused = sandbox.run(&["serve", "--config", "config.yaml", "--check"]).fails(2);
        assert!(refused.contains(expected), "{keep}: {refused}");
    }
}
