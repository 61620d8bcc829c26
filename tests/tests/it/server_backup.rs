//! Backups of all databases of a server at one moment, with writers at work, and killed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pleach_tests::{Sandbox, Server};
use serde_json::{Value, json};

fn served(sandbox: &Sandbox) -> Server {
    let allowed = url(sandbox, "share");
    let config = format!("data_dir: data\nlistener: {{port: 0}}\nremotes_allowed: ['{allowed}']\n");
    sandbox.write("config.yaml", &config);
    sandbox.serve(&["--config", "config.yaml"])
}

fn url(sandbox: &Sandbox, name: &str) -> String {
    format!("file://{}", sandbox.path(name).display())
}

/// Runs a command that is about the server, not about a database of it.
fn of_server(sandbox: &Sandbox, server: &Server, args: &[&str]) -> pleach_tests::Run {
    sandbox.run(&[&["--server", &server.url()], args].concat())
}

fn create(sandbox: &Sandbox, server: &Server, names: &[&str]) {
    names.iter().for_each(|name| drop(of_server(sandbox, server, &["database", "create", name]).ok()));
}

fn put(sandbox: &Sandbox, server: &Server, database: &str, key: &str, value: &str) {
    sandbox.run(&server.args(database, &["put", "t", key, value])).ok();
}

/// The row `key` of table `t` in the database of a directory that nobody serves.
fn get(sandbox: &Sandbox, dir: &str, key: &str) -> String {
    sandbox.run(&["-C", dir, "get", "t", key]).ok().trim().to_owned()
}

fn names(point: &Value) -> Vec<&str> {
    let databases = point["databases"].as_array().unwrap();
    databases.iter().map(|database| database["database"].as_str().unwrap()).collect()
}

#[test]
fn f3_a_server_is_backed_up_at_one_point_and_restored_to_any_of_them() {
    let sandbox = Sandbox::new();
    let mut server = served(&sandbox);
    let backup = url(&sandbox, "share/all");
    let sync = |server: &Server| of_server(&sandbox, server, &["backup", "sync", &backup, "--json"]).json();
    create(&sandbox, &server, &["shop", "stock", "users"]);
    let rows: String = (0..5000).map(|n| format!("{n},value {}\n", n * 7919 % 5000)).collect();
    sandbox.write("rows.csv", &format!("k,v\n{rows}"));
    sandbox.run(&server.args("shop", &["import", "rows", "rows.csv", "--key", "k", "--commit", "rows"])).ok();
    for database in ["shop", "stock", "users"] {
        put(&sandbox, &server, database, "k", "one");
    }
    let first = sync(&server);
    assert_eq!(names(&first), ["shop", "stock", "users"]);

    // Of three databases one has changed, by a row that is not committed.
    put(&sandbox, &server, "stock", "k", "two");
    let second = sync(&server);
    println!("one row in one of three databases: {} bytes", second["bytes_written"]);
    assert!(second["bytes_written"].as_u64().unwrap() < 1500, "{second}");
    let digests = |point: &Value| -> Vec<Value> {
        point["databases"].as_array().unwrap().iter().map(|database| database["digest"].clone()).collect()
    };
    let (then, now) = (digests(&first), digests(&second));
    assert!(then[0] == now[0] && then[1] != now[1] && then[2] == now[2]);
    let nothing = sync(&server);
    println!("nothing in three databases: {} bytes", nothing["bytes_written"]);
    assert!(nothing["bytes_written"].as_u64().unwrap() < 600, "{nothing}");
    assert_eq!((&nothing["digest"], &nothing["chunks"]), (&second["digest"], &json!(0)));

    // Databases come and go; one is another under an old name.
    of_server(&sandbox, &server, &["database", "drop", "users"]).ok();
    of_server(&sandbox, &server, &["database", "drop", "stock"]).ok();
    create(&sandbox, &server, &["stock", "orders"]);
    put(&sandbox, &server, "stock", "k", "anew");
    // Those that are not open are in it, too.
    assert_eq!(server.stop(), 0);
    let server = served(&sandbox);
    let last = sync(&server);
    assert_eq!(names(&last), ["orders", "shop", "stock"]);

    let listed = of_server(&sandbox, &server, &["backup", "list", &backup, "--json"]).json();
    let points = listed["points"].as_array().unwrap();
    for (point, synced) in points.iter().zip([&first, &second, &nothing, &last]) {
        for field in ["time", "digest", "refs", "bytes", "databases"] {
            assert_eq!(point[field], synced[field], "{field}");
        }
    }
    assert_eq!(points.len(), 4);
    assert_eq!(sandbox.run(&["backup", "verify", &backup, "--json"]).json()["damages"], json!([]));
    of_server(&sandbox, &server, &["backup", "verify", &backup]).ok();

    // All of it, into a directory that is a data directory. A restore that was cut, after one database, and an older one, of another point, left this.
    let at = |point: &Value| point["time"].as_str().unwrap().to_owned();
    sandbox.run(&["init", ".then.restoring/of-another-point"]).ok();
    let left = ["backup", "restore", &backup, ".then.restoring/shop", "--from", "shop", "--at", &at(&first)];
    sandbox.run(&left).ok();
    let restored = sandbox.run(&["backup", "restore", &backup, "then", "--at", &at(&first), "--json"]).json();
    assert_eq!((&restored["digest"], &restored["databases"]), (&first["digest"], &first["databases"]));
    assert!(!sandbox.path(".then.restoring").exists());
    assert!(restored["chunks"].as_u64().unwrap() < 10, "the rest was copied: {restored}");
    let then = sandbox.serve(&["--data-dir", "then", "--listen", "127.0.0.1:0"]);
    let list = of_server(&sandbox, &then, &["database", "list"]).ok();
    assert_eq!(list.split_whitespace().collect::<Vec<_>>(), ["shop", "stock", "users"]);
    for database in ["shop", "stock", "users"] {
        assert_eq!(sandbox.run(&then.args(database, &["get", "t", "k"])).ok(), "one\n");
        sandbox.run(&then.args(database, &["fsck"])).ok();
    }
    let export = |server: &Server| sandbox.run(&server.args("shop", &["export", "rows"])).ok();
    assert_eq!(export(&then), export(&server));
    drop(then);
    sandbox.run(&["backup", "restore", &backup, "now"]).ok();
    assert_eq!(get(&sandbox, "now/stock", "k"), "anew");
    assert!(!sandbox.path("now/users").exists() && sandbox.path("now/orders").exists());

    // One of it, into a directory, and into the server, under its own name and another.
    sandbox.run(&["backup", "restore", &backup, "one", "--from", "users", "--at", &at(&second)]).ok();
    assert_eq!(get(&sandbox, "one", "k"), "one");
    let alone =
        sandbox.run(&server.args("users", &["backup", "restore", &backup, "--at", &at(&first), "--json"]));
    assert_eq!(alone.json()["digest"], first["databases"][2]["digest"]);
    let from = ["backup", "restore", &backup, "--at", &at(&second), "--from", "stock"];
    sandbox.run(&server.args("stock-then", &from)).ok();
    assert_eq!(sandbox.run(&server.args("users", &["get", "t", "k"])).ok(), "one\n");
    assert_eq!(sandbox.run(&server.args("stock-then", &["get", "t", "k"])).ok(), "two\n");
    // What was restored is in the next point, and costs nothing.
    let next = sync(&server);
    assert_eq!(names(&next), ["orders", "shop", "stock", "stock-then", "users"]);
    assert_eq!(next["chunks"], 0, "{next}");
}

#[test]
fn f3_no_point_has_a_later_commit_without_an_earlier_one_with_writers_and_kills() {
    let sandbox = Sandbox::new();
    let mut server = served(&sandbox);
    let backup = url(&sandbox, "share/all");
    create(&sandbox, &server, &["first", "second", "third"]);
    for database in ["first", "second", "third"] {
        put(&sandbox, &server, database, "count", "0");
    }
    let count = AtomicU64::new(0);
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        let goal = count.load(Ordering::SeqCst) + 4;
        let bases = ["first", "second", "third"].map(|name| server.args(name, &["put", "t", "count"]));
        // In one database after the other, each when the one before has answered.
        let put_all = || {
            let count = (count.fetch_add(1, Ordering::SeqCst) + 1).to_string();
            let put = |base: &Vec<String>| sandbox.run(&[&base[..], std::slice::from_ref(&count)].concat());
            bases.iter().all(|base| put(base).status == 0)
        };
        std::thread::scope(|scope| {
            // Until the server is killed.
            scope.spawn(|| while put_all() {});
            while count.load(Ordering::SeqCst) < goal {
                let synced = of_server(&sandbox, &server, &["backup", "sync", &backup, "--json"]).json();
                acknowledged.push(synced["time"].as_str().unwrap().to_owned());
            }
            // Killed in the middle of the next one.
            let mut last =
                sandbox.command(&["--server", &server.url(), "backup", "sync", &backup]).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(5 + 7 * round));
            server.kill();
            last.wait().unwrap();
        });
        server = served(&sandbox);
    }
    let list = || of_server(&sandbox, &server, &["backup", "list", &backup, "--json"]).json();
    let listed = list();
    let times: Vec<&str> =
        listed["points"].as_array().unwrap().iter().map(|point| point["time"].as_str().unwrap()).collect();
    assert!(acknowledged.iter().all(|time| times.contains(&time.as_str())), "{acknowledged:?} {times:?}");
    assert_eq!(sandbox.run(&["backup", "verify", &backup, "--json"]).json()["damages"], json!([]));
    let mut moving = 0;
    for time in times {
        let dir = format!("at-{time}");
        sandbox.run(&["backup", "restore", &backup, &dir, "--at", time]).ok();
        let counts: Vec<u64> = ["first", "second", "third"]
            .iter()
            .map(|name| get(&sandbox, &format!("{dir}/{name}"), "count").parse().unwrap())
            .collect();
        assert!(counts[0] >= counts[1] && counts[1] >= counts[2] && counts[0] <= counts[2] + 4, "{counts:?}");
        moving += u64::from(counts[0] > counts[2]);
    }
    println!("{count:?} rounds of commits; {moving} points fell between two of one round");
    let next = of_server(&sandbox, &server, &["backup", "sync", &backup, "--json"]).json();
    assert!(next["chunks"].as_u64().unwrap() < 20, "the next one goes on: {next}");
}

#[test]
fn f3_what_cannot_be_done_is_refused_and_said() {
    let sandbox = Sandbox::new();
    let server = served(&sandbox);
    let (one, all) = (url(&sandbox, "share/one"), url(&sandbox, "share/all"));
    create(&sandbox, &server, &["shop"]);
    put(&sandbox, &server, "shop", "k", "v");
    sandbox.run(&server.args("shop", &["backup", "sync", &one])).ok();
    of_server(&sandbox, &server, &["backup", "sync", &all]).ok();
    // A backup is of one kind.
    let refused = of_server(&sandbox, &server, &["backup", "sync", &one]).fails(1);
    assert!(refused.contains("one database") && refused.contains("--database"), "{refused}");
    let refused = sandbox.run(&server.args("shop", &["backup", "sync", &all])).fails(1);
    assert!(refused.contains("whole server"), "{refused}");
    sandbox.run(&["backup", "restore", &one, "x", "--from", "shop"]).fails(2);
    // Where the server may write is said by its configuration.
    of_server(&sandbox, &server, &["backup", "sync", &url(&sandbox, "elsewhere")]).fails(5);
    // A restore replaces nothing.
    sandbox.write("full/thesis.txt", "years of work");
    sandbox.run(&["backup", "restore", &all, "full"]).fails(1);
    sandbox.run(&["backup", "restore", &all, "full", "--force"]).fails(2);
    assert!(sandbox.path("full/thesis.txt").exists());
    sandbox.run(&server.args("shop", &["backup", "restore", &all])).fails(1);
    let refused = sandbox.run(&server.args("stock", &["backup", "restore", &all])).fails(1);
    assert!(refused.contains("--from: shop"), "{refused}");
    sandbox.run(&["backup", "restore", &all, "x", "--from", "stock"]).fails(1);
    assert!(!sandbox.path("x").exists() && !sandbox.path("data/stock").exists());
    // Another server's is another backup.
    let other = sandbox.serve(&["--data-dir", "other", "--listen", "127.0.0.1:0"]);
    create(&sandbox, &other, &["shop"]);
    drop(other);
    let config =
        format!("data_dir: other\nlistener: {{port: 0}}\nremotes_allowed: ['{}']\n", url(&sandbox, "share"));
    sandbox.write("other.yaml", &config);
    let other = sandbox.serve(&["--config", "other.yaml"]);
    of_server(&sandbox, &other, &["backup", "sync", &all]).fails(1);
    // A damaged one is reported.
    let journal = sandbox.path("share/all/journal-00000001");
    let mut bytes = std::fs::read(&journal).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&journal, &bytes).unwrap();
    let run = sandbox.run(&["backup", "verify", &all]);
    assert_eq!(run.status, 1, "{run:?}");
}

#[test]
fn f3_only_who_may_administer_the_whole_server_backs_it_up() {
    let sandbox = Sandbox::new();
    let mut users = "users:\n".to_owned();
    for (name, grant) in [
        ("root", "{database: '*', refs: '*', allow: admin}"),
        ("shop", "{database: shop, refs: '*', allow: admin}"),
    ] {
        let new = sandbox.run(&["token", "new", name, "--json"]).json();
        let hash = new["token_hash"].as_str().unwrap().to_owned();
        sandbox.write(&format!("{name}.token"), new["token"].as_str().unwrap());
        users += &format!("  - {{name: {name}, token_hash: \"{hash}\", grants: [{grant}]}}\n");
    }
    sandbox.write("users.yaml", &users);
    let allowed = url(&sandbox, "share");
    let config = format!(
        "data_dir: data\nlistener: {{port: 0}}\nusers_file: users.yaml\nremotes_allowed: ['{allowed}']\n"
    );
    sandbox.write("config.yaml", &config);
    let server = sandbox.serve(&["--config", "config.yaml"]);
    let as_user = |user: &str, args: &[&str]| {
        let token = format!("{user}.token");
        of_server(&sandbox, &server, &[&["--token-file", &token], args].concat())
    };
    as_user("root", &["database", "create", "shop"]).ok();
    let backup = url(&sandbox, "share/all");
    as_user("shop", &["backup", "sync", &backup]).fails(5);
    assert!(!sandbox.path("share").exists());
    as_user("root", &["backup", "sync", &backup]).ok();
}
