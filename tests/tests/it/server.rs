//! The data API: the same commands against a running server.

use std::time::Duration;

use pleach_tests::Sandbox;
use serde_json::json;

use crate::tables::FRUIT;

#[test]
fn commands_on_a_server_do_what_they_do_locally() {
    let sandbox = Sandbox::new();
    let mut server = sandbox.serve(&["--data-dir", "data", "--listen", "127.0.0.1:0"]);
    let url = server.url();
    sandbox.run(&["--server", &url, "database", "create", "shop"]).ok();
    sandbox.run(&["--server", &url, "database", "create", "shop"]).fails(1);
    sandbox.run(&["--server", &url, "database", "create", "No Name"]).fails(2);
    assert!(sandbox.run(&["--server", &url, "database", "list"]).ok().contains("shop"));
    sandbox.write("fruit.csv", FRUIT);
    let on = |args: &[&str]| sandbox.run(&server.args("shop", args));
    on(&["import", "fruit", "fruit.csv", "--key", "id"]).ok();
    let written = on(&["put", "kv", "k", "v", "--json"]).json();
    assert!(written["token"].is_string(), "{written}");
    assert_eq!(on(&["get", "kv", "k", "--after", written["token"].as_str().unwrap()]).ok(), "v\n");
    assert_eq!(on(&["export", "fruit"]).ok(), FRUIT);
    assert_eq!(on(&["status", "--json"]).json()["tables"].as_array().unwrap().len(), 2);
    let committed = on(&["commit", "-m", "first", "--json"]).json();
    assert_eq!(committed["branch"], "main");
    on(&["branch", "side"]).ok();
    on(&["tag", "v1"]).ok();
    let side = sandbox.run(&server.args("shop@side", &["put", "kv", "k", "side"]));
    side.ok();
    sandbox.run(&server.args("shop@side", &["commit", "-m", "side"])).ok();
    on(&["merge", "side"]).ok();
    assert_eq!(on(&["get", "kv", "k"]).ok(), "side\n");
    assert_eq!(on(&["log", "--json"]).json_lines().len(), 2);
    assert_eq!(
        on(&["diff", "v1", "HEAD", "--stat", "--json"]).json_lines(),
        [json!({"table": "kv", "inserted": 0, "updated": 1, "deleted": 0})]
    );
    let read_only = sandbox.run(&server.args("shop@v1", &["put", "kv", "k", "x"]));
    assert!([1, 2, 5].contains(&read_only.status), "a tag is read-only: {}", read_only.stderr);
    assert_eq!(sandbox.run(&server.args("shop@v1", &["get", "kv", "k"])).ok(), "v\n");
    sandbox.run(&server.args("nothing", &["status"])).fails(1);
    assert_eq!(sandbox.run(&server.args("shop", &["switch", "side"])).status, 2);
    assert_eq!(server.stop(), 0, "{}", server.log());

    // What the server made is a database like any other.
    assert_eq!(sandbox.run(&["-C", "data/shop", "export", "fruit"]).ok(), FRUIT);
}

#[test]
fn tables_that_clients_make_have_the_salt_of_the_database() {
    let sandbox = Sandbox::new();
    let mut server = sandbox.serve(&["--data-dir", "data", "--listen", "127.0.0.1:0"]);
    for name in ["one", "two"] {
        sandbox.run(&["--server", &server.url(), "database", "create", name]).ok();
        sandbox.run(&server.args(name, &["put", "kv", "k", "v"])).ok();
    }
    sandbox.write("fruit.csv", FRUIT);
    sandbox.run(&server.args("one", &["commit", "-m", "kv"])).ok();
    sandbox.run(&server.args("one", &["branch", "side"])).ok();
    // What two branches make of one name is one table.
    let import = ["import", "fruit", "fruit.csv", "--key", "id", "--commit", "fruit"];
    sandbox.run(&server.args("one@side", &import)).ok();
    sandbox.run(&server.args("one", &import)).ok();
    sandbox.run(&server.args("one", &["merge", "side"])).ok();
    assert_eq!(server.stop(), 0, "{}", server.log());
    sandbox.run(&["-C", "data/two", "put", "local", "k", "v"]).ok();

    let salt = |name: &str, table: &str| {
        let database = pleach_engine::Database::open(&sandbox.path(name), Default::default()).unwrap();
        let work = database.branch("main").unwrap().unwrap().work;
        let table = database.snapshot_of_root(work).unwrap().table(table).unwrap().unwrap();
        table.definition().config.salt
    };
    let one = salt("data/one", "kv");
    assert_ne!(one, 0);
    assert_eq!(salt("data/one", "fruit"), one);
    assert_ne!(salt("data/two", "kv"), one);
    assert_eq!(salt("data/two", "local"), 0, "the command line's own tables have none");
}

#[test]
fn writers_on_different_rows_all_succeed_and_survive_kill_9() {
    let sandbox = Sandbox::new();
    let mut server = sandbox.serve(&["--data-dir", "data", "--listen", "127.0.0.1:0"]);
    sandbox.run(&["--server", &server.url(), "database", "create", "db"]).ok();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let (sandbox, server) = (&sandbox, &server);
            scope.spawn(move || {
                for n in 0..5 {
                    sandbox
                        .run(&server.args("db", &["put", &format!("t{writer}"), &n.to_string(), "x"]))
                        .ok();
                }
            });
        }
    });
    server.kill();
    for writer in 0..4 {
        let rows = sandbox.run(&["-C", "data/db", "scan", &format!("t{writer}")]).ok();
        assert_eq!(rows.lines().count(), 5, "what was acknowledged survives");
    }
}

#[test]
fn a_token_from_the_future_is_refused_within_its_limit() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve(&["--data-dir", "data", "--listen", "127.0.0.1:0"]);
    sandbox.run(&["--server", &server.url(), "database", "create", "db"]).ok();
    let written = sandbox.run(&server.args("db", &["put", "t", "a", "1", "--json"])).json();
    let token = written["token"].as_str().unwrap().to_owned();
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    parts[1] = (parts[1].parse::<u64>().unwrap() + 1000).to_string();
    let start = std::time::Instant::now();
    let run = sandbox.run(&server.args("db", &["get", "t", "a", "--after", &parts.join(".")]));
    assert_ne!(run.status, 0, "never stale");
    assert!(start.elapsed() < Duration::from_secs(55));
}
