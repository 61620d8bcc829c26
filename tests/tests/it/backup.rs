//! Backups, fsck and collection, on files and through a server.

use std::path::Path;

use pleach_engine::backup::Backup;
use pleach_tests::{Sandbox, Server};
use serde_json::{Value, json};

fn csv(rows: usize) -> String {
    let line = |n: usize| format!("{n},value {},{}\n", n * 2_654_435_761 % 100_000, n % 17);
    format!("k,v,n\n{}", (0..rows).map(line).collect::<String>())
}

fn url(sandbox: &Sandbox, name: &str) -> String {
    format!("file://{}", sandbox.path(name).display())
}

/// A database `db` with two branches, a tag, a remote, a lost head under `recovery/` and uncommitted work.
fn filled(sandbox: &Sandbox) {
    let run = |args: &[&str]| sandbox.run(&[&["-C", "db"], args].concat()).ok();
    sandbox.run(&["init", "db"]).ok();
    sandbox.write("rows.csv", &csv(20_000));
    run(&["import", "t", "rows.csv", "--key", "k", "--commit", "rows"]);
    run(&["tag", "v1"]);
    run(&["switch", "side", "-c"]);
    run(&["put", "notes", "side", "1"]);
    run(&["commit", "-m", "side"]);
    run(&["put", "notes", "lost", "1"]);
    run(&["commit", "-m", "lost"]);
    run(&["reset", "HEAD~1", "--hard"]);
    run(&["put", "notes", "uncommitted", "on side"]);
    run(&["switch", "main"]);
    run(&["put", "notes", "uncommitted", "on main"]);
    run(&["remote", "add", "origin", "http://127.0.0.1:1/db"]);
}

/// Everything that commands show of a database.
fn shown(sandbox: &Sandbox, dir: &str) -> Vec<String> {
    let show = |args: &[&str]| sandbox.run(&[&["-C", dir, "--json"], args].concat()).ok();
    vec![
        show(&["branch"]),
        show(&["tag"]),
        show(&["remote", "list"]),
        show(&["status"]),
        show(&["log"]),
        show(&["log", "side"]),
        show(&["diff"]),
        show(&["export", "t"]),
        show(&["scan", "notes"]),
    ]
}

#[test]
fn f1_a_backup_brings_all_of_it_back_and_the_second_sync_sends_only_what_changed() {
    let sandbox = Sandbox::new();
    filled(&sandbox);
    let backup = url(&sandbox, "backup");
    let sync = || sandbox.run(&["-C", "db", "backup", "sync", &backup, "--json"]).json();
    let first = sync();
    let before = shown(&sandbox, "db");
    assert!(first["bytes_written"].as_u64().unwrap() > 300_000, "{first}");

    sandbox.run(&["-C", "db", "put", "notes", "uncommitted", "again"]).ok();
    let second = sync();
    println!("one row: {second}");
    assert!(second["bytes_written"].as_u64().unwrap() < 1000, "{second}");
    assert!(second["chunks"].as_u64().unwrap() <= 2, "{second}");
    sandbox.write("one.csv", "k,v,n\n5000,changed,3\n");
    sandbox.run(&["-C", "db", "import", "t", "one.csv", "--upsert"]).ok();
    let third = sync();
    println!("one row of 20,000: {third}");
    assert!(third["bytes_written"].as_u64().unwrap() < 1500, "{third}");
    let after = shown(&sandbox, "db");

    let listed = sandbox.run(&["backup", "list", &backup, "--json"]).json();
    let points = listed["points"].as_array().unwrap();
    for (point, synced) in points.iter().zip([&first, &second, &third]) {
        for field in ["time", "digest", "refs", "bytes"] {
            assert_eq!(point[field], synced[field], "{field}");
        }
    }
    assert_eq!(points.len(), 3);
    assert_eq!(sandbox.run(&["backup", "verify", &backup, "--json"]).json()["damages"], json!([]));

    let restore = |dir: &str, at: &[&str]| {
        sandbox.run(&[&["backup", "restore", &backup, dir, "--json"], at].concat()).json()
    };
    let restored = restore("last", &[]);
    assert_eq!(restored["digest"], third["digest"]);
    assert_eq!(shown(&sandbox, "last"), after);
    let time = first["time"].as_str().unwrap();
    assert_eq!(restore("first", &["--at", time])["digest"], first["digest"]);
    assert_eq!(shown(&sandbox, "first"), before);
    // Byte for byte the same refs: a sync of what was restored finds the same state, and nothing to copy.
    let again = sandbox.run(&["-C", "last", "backup", "sync", &backup, "--json"]).json();
    assert_eq!((&again["digest"], &again["chunks"]), (&third["digest"], &json!(0)));
    assert_eq!(sandbox.run(&["-C", "first", "fsck", "--json"]).json()["damages"], json!([]));
}

#[test]
fn f2_a_restore_onto_a_database_is_refused_without_force() {
    let sandbox = Sandbox::new();
    filled(&sandbox);
    let backup = url(&sandbox, "backup");
    let point = sandbox.run(&["-C", "db", "backup", "sync", &backup, "--json"]).json();
    sandbox.run(&["-C", "db", "put", "notes", "since", "then"]).ok();
    let now = shown(&sandbox, "db");
    let refused = sandbox.run(&["backup", "restore", &backup, "db"]).fails(1);
    assert!(refused.contains("--force"), "{refused}");
    sandbox.write("other/file", "not a database");
    sandbox.run(&["backup", "restore", &backup, "other", "--force"]).fails(1);
    let early = sandbox.run(&["backup", "restore", &backup, "db", "--force", "--at", "2000-01-01T00:00:00Z"]);
    assert!(early.fails(1).contains(point["time"].as_str().unwrap()), "the first point is named");
    assert_eq!(shown(&sandbox, "db"), now, "nothing changed");
    let forced = sandbox.run(&["backup", "restore", &backup, "db", "--force", "--json"]).json();
    assert_eq!(forced["digest"], point["digest"]);
    sandbox.run(&["-C", "db", "get", "notes", "since"]).fails(1);
}

/// Changes a byte of the text in the only journal of `dir` that holds it; gives where it stands.
fn damage(dir: &Path, text: &str) -> u64 {
    let path = dir.join("journal-00000001");
    let bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(text.len()).rposition(|window| window == text.as_bytes()).unwrap();
    // In place, as a disk would: the file may be open.
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
    at as u64
}

#[test]
fn f2_a_damaged_backup_is_reported_by_verify() {
    let sandbox = Sandbox::new();
    filled(&sandbox);
    let backup = url(&sandbox, "backup");
    sandbox.run(&["-C", "db", "backup", "sync", &backup]).ok();
    let at = damage(&sandbox.path("backup"), "on side");
    let run = sandbox.run(&["backup", "verify", &backup, "--json"]);
    assert_eq!(run.status, 1, "{run:?}");
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let found = &report["damages"][0];
    assert_eq!(found["file"], "journal-00000001");
    assert!(found["offset"].as_u64().unwrap() <= at, "{found}");
    sandbox.run(&["backup", "restore", &backup, "new"]).fails(3);
    assert!(!sandbox.path("new").exists());
}

#[test]
fn a_backup_says_who_uses_it_and_whose_it_is() {
    let sandbox = Sandbox::new();
    for name in ["one", "two"] {
        sandbox.run(&["init", name]).ok();
        sandbox.run(&["-C", name, "put", "t", "k", name]).ok();
    }
    let at = url(&sandbox, "backup");
    sandbox.run(&["-C", "one", "backup", "sync", &at]).ok();
    let other = sandbox.run(&["-C", "two", "backup", "sync", &at]).fails(1);
    assert!(other.contains("another store"), "{other}");
    sandbox.run(&["-C", "one", "backup", "sync", &url(&sandbox, "two")]).fails(1);
    sandbox.run(&["-C", "one", "backup", "list", &url(&sandbox, "absent")]).fails(1);
    sandbox.run(&["-C", "one", "backup", "sync", "s3://bucket/x"]).fails(2);
    let held = Backup::open(&sandbox.path("backup")).unwrap();
    let busy = sandbox.run(&["-C", "one", "backup", "sync", &at]).fails(1);
    assert!(busy.contains(&format!("process {}", std::process::id())), "{busy}");
    drop(held);
    sandbox.run(&["-C", "one", "backup", "sync", &at]).ok();
    // A backup is no database, and is not made one by looking at it.
    sandbox.run(&["-C", "backup", "status"]).fails(1);
    assert_eq!(sandbox.run(&["backup", "verify", &at, "--json"]).json()["points"], 2);
}

fn served(sandbox: &Sandbox) -> Server {
    let allowed = url(sandbox, "share");
    sandbox.write(
        "config.yaml",
        &format!("data_dir: .\nlistener: {{port: 0}}\nremotes_allowed: ['{allowed}']\n"),
    );
    sandbox.serve(&["--config", "config.yaml"])
}

#[test]
fn a_server_backs_up_a_database_in_use_and_restores_it_under_another_name() {
    let sandbox = Sandbox::new();
    filled(&sandbox);
    let server = served(&sandbox);
    let backup = url(&sandbox, "share/db");
    let synced = sandbox.run(&server.args("db", &["backup", "sync", &backup, "--json"])).json();
    sandbox.run(&server.args("db", &["put", "notes", "since", "then"])).ok();
    let restored = sandbox.run(&server.args("again", &["backup", "restore", &backup, "--json"])).json();
    assert_eq!((&restored["digest"], &restored["database"]), (&synced["digest"], &json!("again")));
    let get = |database: &str, key: &str| sandbox.run(&server.args(database, &["get", "notes", key]));
    assert_eq!(get("again", "uncommitted").ok(), "on main\n");
    get("again", "since").fails(1);
    sandbox.run(&server.args("db", &["backup", "restore", &backup])).fails(1);
    sandbox.run(&server.args("db", &["backup", "verify", &backup])).ok();
    let listed = sandbox.run(&server.args("db", &["backup", "list", &backup, "--json"])).json();
    assert_eq!(listed["points"].as_array().unwrap().len(), 1);
    for (outside, status) in [("elsewhere", 5), ("shared", 5), ("share/../elsewhere", 2)] {
        let outside = url(&sandbox, outside);
        for command in ["sync", "list", "verify", "restore"] {
            sandbox.run(&server.args("new", &["backup", command, &outside])).fails(status);
        }
        assert!(!sandbox.path("elsewhere").exists() && !sandbox.path("new").exists());
    }
}

#[test]
fn fsck_of_a_store_in_use_names_the_damage_and_repairs_it_from_a_backup() {
    let sandbox = Sandbox::new();
    filled(&sandbox);
    let server = served(&sandbox);
    let backup = url(&sandbox, "share/db");
    let fsck = |more: &[&str]| sandbox.run(&server.args("db", &[&["fsck", "--json"], more].concat()));
    assert_eq!(fsck(&[]).json()["damages"], json!([]));
    sandbox.run(&server.args("db", &["backup", "sync", &backup])).ok();
    let at = damage(&sandbox.path("db"), "on side");
    let run = fsck(&[]);
    assert_eq!(run.status, 3, "{run:?}");
    assert!(run.stderr.contains("--repair-from"), "{run:?}");
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let found = &report["damages"][0];
    assert_eq!((&found["file"], &found["needed_by"]), (&json!("journal-00000001"), &json!(["work/side"])));
    let offset = found["offset"].as_u64().unwrap();
    assert!(offset <= at && at - offset < 300, "{found}");
    fsck(&["--repair-from", "origin"]).fails(4);
    fsck(&["--repair-from", &url(&sandbox, "elsewhere")]).fails(5);
    let repaired = fsck(&["--repair-from", &backup]).json();
    assert_eq!((&repaired["repaired"], &repaired["damages"]), (&json!(1), &json!([])));
    assert_eq!(sandbox.run(&server.args("db@side", &["get", "notes", "uncommitted"])).ok(), "on side\n");
}

#[test]
fn fsck_of_a_store_that_does_not_open_says_why() {
    let sandbox = Sandbox::new();
    filled(&sandbox);
    damage(&sandbox.path("db"), "on side");
    let refused = sandbox.run(&["-C", "db", "fsck"]).fails(3);
    assert!(refused.contains("journal-00000001") && refused.contains("backup"), "{refused}");
}

#[test]
fn a_damaged_database_is_repaired_from_a_remote() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve(&["--data-dir", "data", "--listen", "127.0.0.1:0"]);
    sandbox.run(&["--server", &server.url(), "database", "create", "db"]).ok();
    sandbox.run(&server.args("db", &["put", "t", "k", "a value to be damaged"])).ok();
    sandbox.run(&server.args("db", &["commit", "-m", "one"])).ok();
    sandbox.run(&["clone", &server.database("db"), "copies/copy"]).ok();
    let copies = sandbox.serve(&["--data-dir", "copies", "--listen", "127.0.0.1:0"]);
    sandbox.run(&copies.args("copy", &["fsck"])).ok();
    damage(&sandbox.path("copies/copy"), "a value to be damaged");
    sandbox.run(&copies.args("copy", &["fsck"])).fails(3);
    let repaired = sandbox.run(&copies.args("copy", &["fsck", "--repair-from", "origin", "--json"])).json();
    assert_eq!(repaired["repaired"], 1);
    sandbox.run(&copies.args("copy", &["fsck"])).ok();
}

#[test]
fn a_damaged_database_is_repaired_from_a_directory_it_was_pushed_to() {
    let sandbox = Sandbox::new();
    sandbox.run(&["init", "data/db"]).ok();
    let run = |args: &[&str]| sandbox.run(&[&["-C", "data/db"], args].concat());
    run(&["put", "t", "k", "a value to be damaged"]).ok();
    run(&["commit", "-m", "one"]).ok();
    run(&["remote", "add", "disk", &url(&sandbox, "disk")]).ok();
    run(&["push", "disk"]).ok();
    let server = sandbox.serve(&["--data-dir", "data", "--listen", "127.0.0.1:0"]);
    sandbox.run(&server.args("db", &["fsck"])).ok();
    damage(&sandbox.path("data/db"), "a value to be damaged");
    sandbox.run(&server.args("db", &["fsck"])).fails(3);
    let repaired = sandbox.run(&server.args("db", &["fsck", "--repair-from", "disk", "--json"])).json();
    assert_eq!((&repaired["repaired"], &repaired["damages"]), (&json!(1), &json!([])));
}

#[test]
fn gc_takes_what_nothing_leads_to_and_a_backup_made_before_still_has_it() {
    let sandbox = Sandbox::new();
    filled(&sandbox);
    let run = |args: &[&str]| sandbox.run(&[&["-C", "db"], args].concat());
    run(&["backup", "sync", &url(&sandbox, "backup")]).ok();
    let before = shown(&sandbox, "db");
    sandbox.write("other.csv", &csv(20_000).replace("value", "other"));
    run(&["import", "t", "other.csv", "--replace"]).ok();
    run(&["reset", "HEAD", "--hard"]).ok();
    run(&["put", "notes", "uncommitted", "on main"]).ok();
    let rows = run(&["export", "t"]).ok();
    assert_eq!(
        run(&["gc", "--dry-run", "--json"]).json()["dead_chunks"],
        run(&["gc", "--dry-run", "--json"]).json()["dead_chunks"]
    );
    let listed = run(&["recovery", "list"]).ok();
    let kept = listed.split_whitespace().find(|word| word.starts_with("recovery/work/main/")).unwrap();
    let done = run(&["gc", "--purge", kept, "--json"]).json();
    assert!(done["dead_chunks"].as_u64().unwrap() > 50, "{done}");
    let (first, again) = (run(&["gc", "--json"]).json(), run(&["gc", "--json"]).json());
    assert_eq!(again["bytes_after"], first["bytes_after"], "nothing to do costs nothing");
    assert_eq!(again["files_rewritten"], 0, "{again}");
    assert_eq!(run(&["export", "t"]).ok(), rows);
    assert_eq!(run(&["fsck", "--json"]).json()["damages"], json!([]));
    sandbox.run(&["backup", "restore", &url(&sandbox, "backup"), "old"]).ok();
    assert_eq!(shown(&sandbox, "old"), before);

    let stats = run(&["stats", "--json"]).json();
    let weigh = |kind: &str| {
        let files = stats["files"].as_array().unwrap().iter().find(|file| file["kind"] == kind).unwrap();
        (files["count"].as_u64().unwrap(), files["bytes"].as_u64().unwrap())
    };
    assert!(weigh("journal").0 >= 1 && weigh("table").0 >= 1 && weigh("table").1 > 10_000, "{stats}");
    assert_eq!(stats["tables"][1]["table"], "t");
}

#[test]
fn gc_drops_a_recovery_ref_when_asked_to() {
    let sandbox = Sandbox::new();
    filled(&sandbox);
    let run = |args: &[&str]| sandbox.run(&[&["-C", "db"], args].concat());
    run(&["gc", "--dry-run"]).ok();
    let refused = run(&["gc", "--purge", "heads/main"]).fails(1);
    assert!(refused.contains("recovery list"), "{refused}");
    let listed = run(&["recovery", "list"]).ok();
    let kept = listed.split_whitespace().find(|word| word.starts_with("recovery/heads/side/")).unwrap();
    let done = run(&["gc", "--purge", kept, "--json"]).json();
    assert_eq!(done["purged"].as_str().unwrap().len(), 64);
    run(&["gc", "--purge", kept]).fails(1);
    let done = run(&["gc", "--json"]).json();
    assert_eq!(done["dead_chunks"], 0, "the last one took it: {done}");
    assert_eq!(run(&["fsck", "--json"]).json()["damages"], json!([]));
}
