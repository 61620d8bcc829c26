//! A server with users: who gets in, and what each may do there.

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use pleach_tests::{Run, Sandbox, Server, eventually};

/// A server with users, and the tokens of these.
struct Guarded {
    sandbox: Sandbox,
    server: Server,
}

const USERS: [(&str, &str); 7] = [
    ("admin", r#"[{database: "*", refs: "*", allow: admin}]"#),
    ("writer", r#"[{database: shop, refs: "*", allow: write}]"#),
    ("reader", r#"[{database: "sho*", refs: "*", allow: read}]"#),
    (
        "partner",
        r#"[{database: shop, refs: "pub*", allow: write}, {database: shop, refs: main, allow: read}]"#,
    ),
    ("publisher", r#"[{database: shop, refs: "pub*", allow: write}]"#),
    ("keeper", r#"[{database: "shop*", refs: "*", allow: admin}]"#),
    ("nobody", "[]"),
];

impl Guarded {
    fn new() -> Guarded {
        let sandbox = Sandbox::new();
        let mut users = String::from("users:\n");
        for (name, grants) in USERS {
            let made = sandbox.run(&["token", "new", name, "--json"]).json();
            sandbox.write(&format!("tokens/{name}"), &format!("{}\n", made["token"].as_str().unwrap()));
            let hash = made["token_hash"].as_str().unwrap();
            users += &format!("  - {{name: {name}, token_hash: \"{hash}\", grants: {grants}}}\n");
        }
        sandbox.write("users.yaml", &users);
        sandbox.write("config.yaml", "data_dir: data\nlistener: {port: 0}\nusers_file: users.yaml\n");
        let server = sandbox.serve(&["--config", "config.yaml"]);
        let guarded = Guarded { sandbox, server };
        guarded.run("admin", "shop", &["database", "create", "shop"]).ok();
        guarded.run("admin", "shop", &["database", "create", "bank"]).ok();
        guarded.run("admin", "shop", &["put", "t", "k", "v"]).ok();
        guarded.run("admin", "shop", &["commit", "-m", "one"]).ok();
        guarded
    }

    fn token(&self, user: &str) -> PathBuf {
        self.sandbox.path("tokens").join(user)
    }

    fn run(&self, user: &str, database: &str, args: &[&str]) -> Run {
        let mut all = self.server.args(database, args);
        all.extend(["--token-file".to_owned(), self.token(user).display().to_string()]);
        self.sandbox.run(&all)
    }
}

#[test]
fn e5_a_user_may_do_what_is_granted_and_nothing_else() {
    let guarded = Guarded::new();
    let anonymous = guarded.sandbox.run(&guarded.server.args("shop", &["get", "t", "k"])).fails(5);
    assert!(anonymous.contains("has no token") && anonymous.contains("--token-file"), "{anonymous}");
    guarded.sandbox.write("tokens/stranger", &"0".repeat(64));
    for (user, read, write, create) in [
        ("stranger", 5, 5, 5),
        ("nobody", 5, 5, 5),
        ("reader", 0, 5, 5),
        ("writer", 0, 0, 5),
        ("admin", 0, 0, 0),
    ] {
        let status = |args: &[&str]| guarded.run(user, "shop", args).status;
        assert_eq!(status(&["get", "t", "k"]), read, "{user} reads");
        assert_eq!(status(&["log"]), read, "{user} reads a stream");
        assert_eq!(status(&["put", "t", user, "x"]), write, "{user} writes");
        assert_eq!(status(&["branch", &format!("of-{user}")]), write, "{user} makes a branch");
        assert_eq!(status(&["gc", "--dry-run"]), create, "{user} collects");
        assert_eq!(status(&["recovery", "list"]), read, "{user} sees what was lost");
        assert_eq!(status(&["fsck"]), create, "{user} checks");
        assert_eq!(status(&["database", "create", &format!("of-{user}")]), create, "{user} makes a database");
    }
    let keys = guarded.run("reader", "shop", &["scan", "t"]).ok();
    assert_eq!(keys, "admin\tx\nk\tv\nwriter\tx\n");
    // What is not granted is not known of either.
    let absent = guarded.run("writer", "absent", &["get", "t", "k"]).fails(5);
    let hidden = guarded.run("writer", "bank", &["get", "t", "k"]).fails(5);
    assert_eq!(absent.replace("absent", "bank"), hidden);
    assert_eq!(guarded.run("reader", "", &["database", "list"]).ok(), "shop\n");
    assert_eq!(guarded.run("nobody", "", &["database", "list"]).ok(), "");
    assert_eq!(guarded.run("admin", "", &["cluster", "status"]).status, 1, "there is none");
    guarded.run("writer", "", &["cluster", "status"]).fails(5);
}

#[test]
fn e5_a_chunk_is_printed_by_its_hash_to_who_may_read_the_whole_database() {
    let guarded = Guarded::new();
    let head = guarded.run("admin", "shop", &["log", "-n", "1", "--json"]).json()["hash"].clone();
    let head = head.as_str().unwrap();
    let cat = |user: &str, hash: &str| guarded.run(user, "shop", &["chunk", "cat", hash]);
    let mut command = guarded.sandbox.command(&guarded.server.args("shop", &["chunk", "cat", head]));
    let output = command.arg("--token-file").arg(guarded.token("reader")).output().unwrap();
    assert_eq!(pleach_engine::Hash::of(&output.stdout).to_string(), head);
    let absent = cat("reader", &"0".repeat(64)).fails(1);
    // Others are told the same of what is there and what is not.
    for hash in [head, &"0".repeat(64)] {
        assert_eq!(cat("publisher", hash).fails(1), absent);
        cat("nobody", hash).fails(5);
    }
}

#[test]
fn e5_a_grant_for_some_branches_shows_no_others() {
    let guarded = Guarded::new();
    let admin = |args: &[&str]| guarded.run("admin", "shop@secret", args).ok();
    guarded.run("admin", "shop", &["branch", "secret"]).ok();
    guarded.run("admin", "shop", &["branch", "public"]).ok();
    admin(&["put", "t", "hidden", "v"]);
    admin(&["commit", "-m", "hidden"]);
    let hidden = admin(&["log", "-n", "1", "--json"]);
    let hidden: serde_json::Value = serde_json::from_str(hidden.trim()).unwrap();
    let hidden = hidden["hash"].as_str().unwrap();
    let partner = |place: &str, args: &[&str]| guarded.run("partner", place, args);
    assert_eq!(partner("shop@public", &["get", "t", "k"]).ok(), "v\n");
    partner("shop@public", &["put", "t", "ours", "v"]).ok();
    partner("shop@public", &["commit", "-m", "ours"]).ok();
    partner("shop@public", &["branch", "public2"]).ok();
    partner("shop@public", &["diff", "main", "public"]).ok();
    let branches = partner("shop", &["branch"]).ok();
    assert!(branches.contains("main") && branches.contains("public2") && !branches.contains("secret"));
    for (place, args) in [
        ("shop", &["put", "t", "k", "w"][..]),
        ("shop", &["branch", "other"]),
        ("shop", &["tag", "v1"]),
        ("shop@secret", &["get", "t", "hidden"]),
        ("shop@absent", &["get", "t", "hidden"]),
        (&format!("shop@{hidden}"), &["get", "t", "hidden"]),
        ("shop@public", &["show", hidden]),
        ("shop@public", &["log", "secret"]),
        ("shop@public", &["diff", "secret~0", "public"]),
        ("shop@public", &["merge", "secret"]),
        ("shop@public", &["get", "t", "hidden", "--at", "secret"]),
        ("shop@public", &["branch", "publication", &hidden[..10]]),
        ("shop@public", &["branch", "-d", "secret"]),
        ("shop@public", &["branch", "-m", "public2", "other"]),
        ("shop@public", &["reset", hidden, "--hard"]),
    ] {
        let refusal = partner(place, args).fails(5);
        assert!(refusal.contains("partner"), "{place} {args:?}: {refusal}");
    }
}

impl Guarded {
    /// Runs a command whose user has this one's token for the server's host.
    fn as_remote(&self, user: &str, args: &[&str]) -> Run {
        let token = std::fs::read_to_string(self.token(user)).unwrap();
        let host = self.server.url().replace("http://", "");
        let entry = format!("credentials: [{{host: \"{host}\", token: {}}}]\n", token.trim());
        self.sandbox.write(&format!("home-{user}/pleach/credentials.yaml"), &entry);
        let mut command = self.sandbox.command(args);
        let output = command.env("XDG_CONFIG_HOME", self.sandbox.path(&format!("home-{user}"))).output();
        pleach_tests::finish(output.unwrap())
    }
}

#[test]
fn e5_fetch_and_push_give_and_take_what_is_granted() {
    let guarded = Guarded::new();
    guarded.run("admin", "shop", &["branch", "secret"]).ok();
    guarded.run("admin", "shop", &["branch", "public"]).ok();
    guarded.run("admin", "shop@secret", &["put", "t", "hidden", "v"]).ok();
    let hidden = guarded.run("admin", "shop@secret", &["commit", "-m", "hidden", "--json"]).json();
    let hidden = hidden["hash"].as_str().unwrap();
    let url = guarded.server.database("shop");
    let refused = guarded.sandbox.run(&["clone", &url, "anonymous"]).fails(5);
    assert!(refused.contains("has no token") && refused.contains("credentials.yaml"), "{refused}");
    for (user, status) in [("nobody", 5), ("reader", 0), ("writer", 0), ("partner", 0), ("admin", 0)] {
        assert_eq!(guarded.as_remote(user, &["clone", &url, user]).status, status, "{user}");
    }
    let tracking = guarded.sandbox.run(&["-C", "partner", "branch"]).ok();
    assert!(tracking.contains("public") && !tracking.contains("secret"), "{tracking}");
    guarded.sandbox.run(&["-C", "partner", "show", hidden]).fails(1);
    guarded.sandbox.run(&["-C", "reader", "show", hidden]).ok();
    let commit = |user: &str, branch: &str| {
        let run = |args: &[&str]| guarded.sandbox.run(&[&["-C", user], args].concat()).ok();
        run(&["switch", branch]);
        run(&["put", "t", user, branch]);
        run(&["commit", "-m", user]);
    };
    for (user, branch, status) in
        [("reader", "main", 5), ("partner", "main", 5), ("partner", "public", 5), ("writer", "main", 0)]
    {
        commit(user, branch);
        let pushed = guarded.as_remote(user, &["-C", user, "push", "origin", branch]);
        assert_eq!(pushed.status, status, "{user} {branch}: {}", pushed.stderr);
    }
    // Who may not read all could, by hashes, push a ref to what is hidden: so nothing is pushed.
    let refused = guarded.as_remote("partner", &["-C", "partner", "push", "origin", "public"]).fails(5);
    assert!(refused.contains("may not read all of database `shop`"), "{refused}");
    guarded.as_remote("partner", &["-C", "partner", "push", "--delete", "secret"]).fails(5);
    let branches = guarded.run("admin", "shop", &["branch"]).ok();
    assert!(branches.contains("secret"), "{branches}");
    guarded.run("admin", "shop@public", &["get", "t", "partner"]).fails(1);
    // A push by force, and again, is nobody's theft.
    let writer = |args: &[&str]| guarded.as_remote("writer", &[&["-C", "writer"], args].concat());
    writer(&["commit", "--amend", "-m", "other"]).ok();
    writer(&["push"]).fails(1);
    writer(&["push", "--force"]).ok();
    assert_eq!(guarded.run("admin", "shop", &["get", "t", "writer"]).ok(), "main\n");
    guarded.run("admin", "shop", &["get", "t", "reader"]).fails(1);
}

#[test]
fn e5_who_may_not_read_main_begins_where_they_may() {
    let guarded = Guarded::new();
    let publisher = |args: &[&str]| guarded.run("publisher", "shop", args);
    publisher(&["branch"]).fails(5);
    guarded.run("admin", "shop", &["branch", "public"]).ok();
    assert_eq!(publisher(&["get", "t", "k"]).ok(), "v\n");
    let branches = publisher(&["branch"]).ok();
    assert!(branches.contains("public") && !branches.contains("main"), "{branches}");
    publisher(&["tag", "public-v1"]).ok();
    publisher(&["tag", "-d", "public-v1"]).ok();
    publisher(&["branch", "heads/public"]).fails(5);
    let stats = publisher(&["stats", "--json"]).ok();
    assert!(stats.contains("\"t\"") && !stats.contains("cache_hits"), "{stats}");
}

#[test]
fn e5_an_administrator_of_one_database_gets_no_backup_of_another() {
    let guarded = Guarded::new();
    let url = format!("file://{}", guarded.sandbox.path("backups/bank").display());
    guarded.run("keeper", "shop", &["gc", "--dry-run"]).ok();
    guarded.run("keeper", "shop2", &["database", "create", "shop2"]).ok();
    for args in [&["backup", "sync", &url][..], &["backup", "list", &url], &["backup", "restore", &url]] {
        let refused = guarded.run("keeper", "shop3", args).fails(5);
        assert!(refused.contains("the whole server"), "{args:?}: {refused}");
    }
    // Whether the server may use a URL is told to those alone who may have it do so.
    let refused = guarded.run("reader", "shop", &["fsck", "--repair-from", &url]).fails(5);
    assert!(refused.contains("may not administer"), "{refused}");
}

#[test]
fn e5_users_are_read_again_at_a_hangup() {
    let guarded = Guarded::new();
    let users = std::fs::read_to_string(guarded.sandbox.path("users.yaml")).unwrap();
    let read = |user: &str| guarded.run(user, "shop", &["get", "t", "k"]).status;
    guarded.sandbox.write("users.yaml", "users: [{name: x}]");
    guarded.server.signal("HUP");
    eventually("the wrong file was refused", || {
        guarded.server.log().contains("stay as they were").then_some(())
    });
    assert_eq!(read("reader"), 0);
    let without: String =
        users.lines().filter(|line| !line.contains("reader")).map(|line| format!("{line}\n")).collect();
    guarded.sandbox.write("users.yaml", &without);
    guarded.server.signal("HUP");
    eventually("the reader is out", || (read("reader") == 5).then_some(()));
    assert_eq!(read("writer"), 0);
}

#[test]
fn e5_a_call_that_goes_on_ends_when_its_user_is_gone() {
    let guarded = Guarded::new();
    let users = std::fs::read_to_string(guarded.sandbox.path("users.yaml")).unwrap();
    let mut imports = ["writer", "admin"].map(|user| {
        let mut args = guarded.server.args("shop", &["import", user, "-", "--key", "k", "--token-file"]);
        args.push(guarded.token(user).display().to_string());
        let mut command = guarded.sandbox.command(&args);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // More than is kept on the way: the server has begun.
        let rows: String = (0..400_000).map(|row| format!("{row}\n")).collect();
        child.stdin.as_mut().unwrap().write_all(format!("k\n{rows}").as_bytes()).unwrap();
        child
    });
    let without: String =
        users.lines().filter(|line| !line.contains("writer")).map(|line| format!("{line}\n")).collect();
    guarded.sandbox.write("users.yaml", &without);
    guarded.server.signal("HUP");
    eventually("the users were read", || guarded.server.log().contains("read again").then_some(()));
    for child in &mut imports {
        // Who was refused may be gone already.
        let _ = child.stdin.take().unwrap().write_all(b"last\n");
    }
    let [writer, admin] = imports.map(|child| pleach_tests::finish(child.wait_with_output().unwrap()));
    let refused = writer.fails(5);
    assert!(refused.contains("`writer` is no user of this server any more"), "{refused}");
    admin.ok();
    guarded.run("admin", "shop", &["get", "writer", "1"]).fails(1);
    assert_eq!(guarded.run("admin", "shop", &["get", "admin", "last"]).ok(), "last\n");
}

#[test]
fn e5_a_listener_for_others_needs_users_or_is_said_to_be_open() {
    let sandbox = Sandbox::new();
    let check = |extra: &str, flags: &[&str]| {
        sandbox.write("config.yaml", &format!("listener: {{host: 0.0.0.0, port: 0}}\n{extra}"));
        let mut args = vec!["serve", "--config", "config.yaml", "--check"];
        args.extend(flags);
        sandbox.run(&args)
    };
    assert!(check("", &[]).fails(2).contains("has no users"));
    check("", &["--insecure"]).ok();
    assert!(check("users_file: users.yaml", &[]).fails(2).contains("cannot read the users"));
    let entry = sandbox.run(&["token", "new", "ada"]).ok();
    let entry: String = entry.lines().skip(1).map(|line| format!("{line}\n")).collect();
    sandbox.write("users.yaml", &format!("users:\n{entry}"));
    check("users_file: users.yaml", &[]).ok();
}
