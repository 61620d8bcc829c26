//! A primary whose commits fail if the remote does not have them.

use pleach_tests::{Sandbox, Server, free_port};

const SETTINGS: &str = "data_dir: p\nlistener: {host: 127.0.0.1, port: 0}\nreplication: {replicate_to_remote: origin, strict: true}\n";

/// A strict primary with database `db`, whose `origin` is at `url`.
fn primary(sandbox: &Sandbox, url: &str) -> Server {
    sandbox.run(&["init", "p/db"]).ok();
    sandbox.run(&["-C", "p/db", "remote", "add", "origin", url]).ok();
    sandbox.write("p.yaml", SETTINGS);
    sandbox.serve(&["--config", "p.yaml"])
}

fn head(sandbox: &Sandbox, server: &Server) -> Option<String> {
    let log = sandbox.run(&server.args("db", &["log", "-n", "1", "--json"]));
    log.json_lines().first().map(|commit| commit["hash"].as_str().unwrap().to_owned())
}

#[test]
fn a12_a_strict_commit_fails_while_the_remote_is_away_and_nothing_has_changed() {
    let sandbox = Sandbox::new();
    let listen = format!("127.0.0.1:{}", free_port());
    let serve = || sandbox.serve(&["--data-dir", "remote", "--listen", &listen]);
    let mut remote = serve();
    sandbox.run(&["--server", &remote.url(), "database", "create", "db"]).ok();
    let primary = primary(&sandbox, &remote.database("db"));
    let run = |args: &[&str]| sandbox.run(&primary.args("db", args));
    run(&["put", "t", "a", "1"]).ok();
    run(&["commit", "-m", "one"]).ok();
    let one = head(&sandbox, &primary);
    assert_eq!(head(&sandbox, &remote), one);

    remote.kill();
    run(&["put", "t", "a", "2"]).ok();
    for args in [&["commit", "-m", "two"][..], &["branch", "other"], &["tag", "t1"]] {
        let error = run(args).fails(4);
        assert!(error.contains("not pushed to `origin`") && error.contains("nothing was changed"), "{error}");
    }
    assert_eq!(head(&sandbox, &primary), one);
    assert_eq!(run(&["get", "t", "a"]).ok(), "2\n");
    assert_eq!(run(&["status", "--json"]).json()["dirty"], true);

    let remote = serve();
    run(&["commit", "-m", "two"]).ok();
    let two = head(&sandbox, &primary);
    assert_eq!(head(&sandbox, &remote), two);
    assert_ne!(two, one);
    // What clients push is no exception.
    sandbox.run(&["clone", &primary.database("db"), "client"]).ok();
    sandbox.run(&["-C", "client", "put", "t", "b", "1"]).ok();
    sandbox.run(&["-C", "client", "commit", "-m", "three"]).ok();
    sandbox.run(&["-C", "client", "push"]).ok();
    assert_eq!(head(&sandbox, &remote), head(&sandbox, &primary));
    drop(remote);
    sandbox.run(&["-C", "client", "put", "t", "b", "2"]).ok();
    sandbox.run(&["-C", "client", "commit", "-m", "four"]).ok();
    let error = sandbox.run(&["-C", "client", "push"]).fails(4);
    assert!(error.contains("not pushed to `origin`"), "{error}");
}

#[test]
fn a12_a_strict_commit_fails_while_the_directory_is_away() {
    let sandbox = Sandbox::new();
    let primary = primary(&sandbox, &format!("file://{}", sandbox.path("remote").display()));
    let run = |args: &[&str]| sandbox.run(&primary.args("db", args));
    // A file in the way of the directory.
    sandbox.write("remote", "");
    run(&["put", "t", "a", "1"]).ok();
    let error = run(&["commit", "-m", "one"]).fails(4);
    assert!(error.contains("nothing was changed"), "{error}");
    assert_eq!(head(&sandbox, &primary), None);
    std::fs::remove_file(sandbox.path("remote")).unwrap();
    run(&["commit", "-m", "one"]).ok();
    sandbox.run(&["clone", &format!("file://{}", sandbox.path("remote").display()), "looked"]).ok();
    let looked = sandbox.run(&["-C", "looked", "log", "--json"]).json_lines();
    assert_eq!(looked[0]["hash"].as_str(), head(&sandbox, &primary).as_deref());
}

#[test]
fn strict_excludes_what_contradicts_it() {
    let sandbox = Sandbox::new();
    for other in ["async_replication: true", "on_conflict: merge", "skip_replication_errors: true"] {
        sandbox.write("p.yaml", &SETTINGS.replace("strict: true", &format!("strict: true, {other}")));
        let error = sandbox.run(&["serve", "--config", "p.yaml", "--check"]).fails(2);
        assert!(error.contains("replication.strict") && error.contains(other), "{error}");
    }
}

#[test]
fn a12_a_strict_server_asks_from_the_first_commit_of_a_database_that_its_template_places() {
    let sandbox = Sandbox::new();
    let listen = format!("127.0.0.1:{}", free_port());
    let serve = || sandbox.serve(&["--data-dir", "remote", "--listen", &listen]);
    let template = format!("  remote_url_template: 'http://{listen}/{{database}}'\n");
    sandbox.write(
        "p.yaml",
        &format!("data_dir: p\nlistener: {{host: 127.0.0.1, port: 0}}\nreplication:\n  replicate_to_remote: origin\n  strict: true\n{template}"),
    );
    let primary = sandbox.serve(&["--config", "p.yaml"]);
    let run = |args: &[&str]| sandbox.run(&primary.args("db", args));
    // The remote is not there yet.
    sandbox.run(&["--server", &primary.url(), "database", "create", "db"]).ok();
    run(&["put", "t", "a", "1"]).ok();
    let error = run(&["commit", "-m", "one"]).fails(4);
    assert!(error.contains("not pushed to `origin`") && error.contains("nothing was changed"), "{error}");
    assert_eq!(head(&sandbox, &primary), None);
    let remote = serve();
    run(&["commit", "-m", "one"]).ok();
    assert_eq!(head(&sandbox, &remote), head(&sandbox, &primary));
}
