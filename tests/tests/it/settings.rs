//! Through a remote: settings that change while the server runs, and the promotion of a read replica.

use pleach_tests::{Run, Sandbox, Server, eventually};

/// A server with databases, and remotes in directories.
struct Site {
    sandbox: Sandbox,
    server: Server,
    /// What stands in its file under `replication:`.
    stanza: String,
}

impl Site {
    /// A server of the databases in `s`, which `prepare` makes.
    fn new(stanza: &str, prepare: impl FnOnce(&Sandbox)) -> Site {
        let sandbox = Sandbox::new();
        prepare(&sandbox);
        let server = started(&sandbox, stanza);
        Site { sandbox, server, stanza: stanza.to_owned() }
    }

    fn restart(&mut self) {
        assert_eq!(self.server.stop(), 0);
        self.server = started(&self.sandbox, &self.stanza);
    }

    fn run(&self, args: &[&str]) -> Run {
        self.sandbox.run(&self.server.args("db", args))
    }

    fn config(&self, args: &[&str]) -> Run {
        let url = self.server.url();
        self.sandbox.run(&[&["--server", &url, "config"], args].concat())
    }

    fn commit(&self, key: &str) -> Run {
        self.run(&["put", "t", key, "1"]).ok();
        let committed = self.run(&["commit", "-m", key]);
        assert_eq!(committed.status, 0, "{}", committed.stderr);
        committed
    }

    fn promote(&self, args: &[&str]) -> Run {
        let url = self.server.url();
        self.sandbox.run(&[&["--server", &url, "replica", "promote"], args].concat())
    }
}

fn started(sandbox: &Sandbox, stanza: &str) -> Server {
    let stanza = if stanza.is_empty() { String::new() } else { format!("replication:\n{stanza}\n") };
    sandbox.write("s.yaml", &format!("data_dir: s\nlistener: {{host: 127.0.0.1, port: 0}}\n{stanza}"));
    sandbox.serve(&["--config", "s.yaml"])
}

fn url(sandbox: &Sandbox, name: &str) -> String {
    format!("file://{}", sandbox.path(name).display())
}

/// Makes the database `name` of the server, with remotes `origin` and `backup`.
fn with_remotes(sandbox: &Sandbox, name: &str) {
    sandbox.run(&["init", &format!("s/{name}")]).ok();
    for remote in ["origin", "backup"] {
        let there = url(sandbox, &format!("{remote}-{name}"));
        sandbox.run(&["-C", &format!("s/{name}"), "remote", "add", remote, &there]).ok();
    }
}

/// The messages of the commits on `main` of a remote in a directory, newest first.
fn there(sandbox: &Sandbox, name: &str) -> Vec<String> {
    let _ = std::fs::remove_dir_all(sandbox.path("looked"));
    if sandbox.run(&["clone", &url(sandbox, name), "looked"]).status != 0 {
        return Vec::new();
    }
    messages(sandbox.run(&["-C", "looked", "log", "--json"]))
}

fn messages(log: Run) -> Vec<String> {
    log.json_lines().iter().map(|commit| commit["message"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a6_a_remote_that_is_switched_or_unset_takes_effect_at_the_next_commit() {
    let mut site = Site::new("  replicate_to_remote: origin", |sandbox| with_remotes(sandbox, "db"));
    let [origin, backup] = ["origin-db", "backup-db"];
    site.commit("one");
    assert_eq!(there(&site.sandbox, origin), ["one"]);
    site.config(&["set", "replication.replicate_to_remote", "backup"]).ok();
    site.commit("two");
    assert_eq!(there(&site.sandbox, backup), ["two", "one"]);
    assert_eq!(there(&site.sandbox, origin), ["one"], "nothing more goes to the old one");
    // It is as durable as it is in force.
    site.server.kill();
    site.server = started(&site.sandbox, &site.stanza);
    site.commit("three");
    assert_eq!(there(&site.sandbox, backup), ["three", "two", "one"]);
    assert_eq!(there(&site.sandbox, origin), ["one"]);
    site.config(&["unset", "replicate_to_remote"]).ok();
    let quiet = site.commit("four");
    assert!(!quiet.stderr.contains("warning"), "{}", quiet.stderr);
    site.restart();
    site.commit("five");
    site.restart();
    assert_eq!(there(&site.sandbox, backup), ["three", "two", "one"]);
    assert_eq!(there(&site.sandbox, origin), ["one"]);
    // Set again, it gets all that came since.
    site.config(&["set", "replicate_to_remote", "origin"]).ok();
    eventually("all is there", || (there(&site.sandbox, origin).len() == 5).then_some(()));
}

#[test]
fn a6_a_server_without_a_stanza_begins_to_push_when_it_is_set() {
    let site = Site::new("", |sandbox| with_remotes(sandbox, "db"));
    site.commit("one");
    site.config(&["set", "transaction_commit", "true"]).ok();
    site.config(&["set", "replicate_to_remote", "origin"]).ok();
    site.run(&["put", "t", "b", "2"]).ok();
    assert_eq!(there(&site.sandbox, "origin-db"), ["Transaction commit", "one"]);
    // What changes how it is pushed keeps the remote going.
    site.config(&["set", "transaction_commit_message", "by itself"]).ok();
    site.run(&["put", "t", "b", "3"]).ok();
    site.config(&["set", "async_replication", "true"]).ok();
    site.run(&["put", "t", "b", "4"]).ok();
    let all = ["by itself", "by itself", "Transaction commit", "one"];
    eventually("all is there", || (there(&site.sandbox, "origin-db") == all).then_some(()));
}

#[test]
fn a6_a_change_to_a_policy_of_conflicts_is_in_force_at_once() {
    let site = Site::new("  replicate_to_remote: origin", |sandbox| with_remotes(sandbox, "db"));
    site.commit("one");
    site.sandbox.run(&["clone", &url(&site.sandbox, "origin-db"), "stranger"]).ok();
    site.sandbox.run(&["-C", "stranger", "put", "t", "s", "1"]).ok();
    site.sandbox.run(&["-C", "stranger", "commit", "-m", "theirs"]).ok();
    site.sandbox.run(&["-C", "stranger", "push"]).ok();
    let stuck = site.commit("two");
    assert!(stuck.stderr.contains("somebody else moved it"), "{}", stuck.stderr);
    site.config(&["set", "on_conflict", "merge"]).ok();
    eventually("it is merged and pushed", || {
        let there = there(&site.sandbox, "origin-db");
        (there.len() == 4 && there.contains(&"theirs".to_owned())).then_some(())
    });
    assert_eq!(site.run(&["get", "t", "s"]).ok(), "1\n");
}

#[test]
fn a6_a_push_that_hangs_ends_when_the_remote_is_switched() {
    let mut remote = None;
    let site = Site::new("  replicate_to_remote: origin", |sandbox| {
        let server = sandbox.serve(&["--data-dir", "there", "--listen", "127.0.0.1:0"]);
        sandbox.run(&["--server", &server.url(), "database", "create", "db"]).ok();
        sandbox.run(&["init", "s/db"]).ok();
        sandbox.run(&["-C", "s/db", "remote", "add", "origin", &server.database("db")]).ok();
        sandbox.run(&["-C", "s/db", "remote", "add", "backup", &url(sandbox, "backup")]).ok();
        remote = Some(server);
    });
    let remote = remote.unwrap();
    site.commit("one");
    remote.signal("STOP");
    std::thread::scope(|scope| {
        let began = std::time::Instant::now();
        let writer = scope.spawn(|| site.commit("two"));
        eventually("it is done here", || (messages(site.run(&["log", "--json"])).len() == 2).then_some(()));
        assert!(!writer.is_finished(), "it waits for the push");
        site.config(&["set", "replicate_to_remote", "backup"]).ok();
        let committed = writer.join().unwrap();
        assert!(committed.stderr.contains("ended while this was pushed"), "{}", committed.stderr);
        // By itself a push gives up after a minute.
        assert!(began.elapsed().as_secs() < 30, "{:?}", began.elapsed());
    });
    eventually("it goes to the other", || (there(&site.sandbox, "backup") == ["two", "one"]).then_some(()));
    remote.signal("CONT");
}

#[test]
fn a6_writes_go_on_while_the_remote_is_switched_back_and_forth() {
    let site = Site::new("  replicate_to_remote: origin", |sandbox| with_remotes(sandbox, "db"));
    site.run(&["put", "t", "a", "0"]).ok();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let site = &site;
                scope.spawn(move || {
                    for n in 0..10 {
                        let (key, message) = (format!("{writer}-{n}"), format!("{writer}-{n}"));
                        site.run(&["put", "t", &key, "1"]).ok();
                        // Another writer may have committed it with his own.
                        let committed = site.run(&["commit", "-m", &message]);
                        assert!(
                            committed.status == 0 || committed.stderr.contains("nothing"),
                            "{}",
                            committed.stderr
                        );
                    }
                })
            })
            .collect();
        for n in 0..8 {
            let remote = ["backup", "origin"][n % 2];
            site.config(&["set", "replicate_to_remote", remote]).ok();
        }
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
    site.commit("last");
    let here = messages(site.run(&["log", "--json"]));
    assert_eq!(there(&site.sandbox, "origin-db"), here);
    assert_eq!(site.run(&["scan", "t"]).ok().lines().count(), 32);
}

#[test]
fn config_shows_each_value_with_where_it_comes_from() {
    let site = Site::new("  replicate_to_remote: origin\n  on_conflict: merge", |sandbox| {
        with_remotes(sandbox, "db");
    });
    assert_eq!(site.config(&["get", "replication.replicate_to_remote"]).ok(), "origin\n");
    assert_eq!(site.config(&["get", "replicate_heads"]).ok(), "\n");
    assert_eq!(site.config(&["get", "listener.port"]).ok(), "0\n");
    let set = site.config(&["set", "max_staleness", "5s"]).ok();
    assert_eq!(set, "replication.max_staleness\t5s\n");
    let shown = site.config(&["show", "--origin"]).ok();
    for line in [
        "listener.host\t127.0.0.1\tfile s.yaml",
        "replication.on_conflict\tmerge\tfile s.yaml",
        "replication.force_pull\ttrue\tdefault",
        "store.cache\t256MiB\tdefault",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
    let settings = "replication.max_staleness\t5s\tsettings ";
    assert!(
        shown.lines().any(|line| line.starts_with(settings) && line.ends_with("settings.yaml")),
        "{shown}"
    );
    assert!(site.config(&["show"]).ok().lines().any(|line| line == "replication.on_conflict\tmerge"));
    let value = site.config(&["get", "replicate_all_heads", "--json"]).json();
    assert_eq!(
        value,
        serde_json::json!({"key": "replication.replicate_all_heads", "value": false, "origin": "default"})
    );
    let all = site.config(&["show", "--json"]).json();
    assert!(all["values"].as_array().unwrap().len() > 15, "{all}");
}

#[test]
fn config_refuses_what_is_wrong_and_changes_nothing() {
    let site = Site::new("  replicate_to_remote: origin", |sandbox| with_remotes(sandbox, "db"));
    let refused = |args: &[&str], status: i32, what: &str| {
        let said = site.config(args).fails(status);
        assert!(said.contains(what), "{args:?}: {said}");
        assert!(said.contains("hint:") || said.contains("expected") || said.contains("exclude"), "{said}");
    };
    refused(&["set", "listener.port", "1"], 2, "cannot be changed while the server runs");
    refused(&["unset", "store.cache"], 2, "cannot be changed while the server runs");
    refused(&["set", "replicate_to_remot", "a"], 2, "did you mean `replication.replicate_to_remote`");
    refused(&["get", "listener.prot"], 2, "did you mean `listener.port`");
    refused(&["set", "on_conflict", "perhaps"], 2, "expected reject or merge, found `perhaps`");
    refused(&["set", "async_replication", "on"], 2, "expected true or false, found `on`");
    refused(&["set", "remote_url_template", "file:///x"], 2, "contains {database}");
    refused(&["set", "read_replica_remote", "origin"], 2, "exclude each other");
    refused(&["set", "replicate_to_remote", "orign"], 1, "remote `orign` not found");
    assert!(!site.sandbox.path("s/settings.yaml").exists());
    site.commit("one");
    assert_eq!(there(&site.sandbox, "origin-db"), ["one"]);
    // It is about a server.
    let local = site.sandbox.run(&["-C", "s", "config", "show"]).fails(2);
    assert!(local.contains("--server"), "{local}");
    let local = site.sandbox.run(&["replica", "promote"]).fails(2);
    assert!(local.contains("--server"), "{local}");
}

#[test]
fn damaged_settings_are_an_error_at_the_start_that_says_what_to_do() {
    let mut site = Site::new("  replicate_to_remote: origin", |sandbox| with_remotes(sandbox, "db"));
    site.config(&["set", "replicate_to_remote", "backup"]).ok();
    assert_eq!(site.server.stop(), 0);
    let path = site.sandbox.path("s/settings.yaml");
    let whole = std::fs::read_to_string(&path).unwrap();
    for damaged in ["", &whole[..whole.len() - 12], "replication: {replicate_to_remote: [a]}", "\u{0}\u{0}"] {
        std::fs::write(&path, damaged).unwrap();
        for check in [&["serve", "--config", "s.yaml", "--check"][..], &["serve", "--config", "s.yaml"]] {
            let said = site.sandbox.run(check).fails(2);
            assert!(said.contains("settings.yaml") && said.contains("or remove it"), "{damaged:?}: {said}");
        }
    }
    std::fs::write(&path, &whole).unwrap();
    site.server = started(&site.sandbox, &site.stanza);
    assert_eq!(site.config(&["get", "replicate_to_remote"]).ok(), "backup\n");
}

#[test]
fn a_read_replica_is_configured_while_it_runs() {
    let site = Site::new("", |sandbox| {
        sandbox.run(&["init", "main"]).ok();
        sandbox.run(&["-C", "main", "put", "t", "a", "1"]).ok();
        sandbox.run(&["-C", "main", "commit", "-m", "one"]).ok();
        sandbox.run(&["-C", "main", "remote", "add", "origin", &url(sandbox, "there")]).ok();
        sandbox.run(&["-C", "main", "push"]).ok();
        sandbox.run(&["clone", &url(sandbox, "there"), "s/db"]).ok();
    });
    let next = |value: &str| {
        site.sandbox.run(&["-C", "main", "put", "t", "a", value]).ok();
        site.sandbox.run(&["-C", "main", "commit", "-m", value]).ok();
        site.sandbox.run(&["-C", "main", "push"]).ok();
    };
    // What it would follow is not said: it goes on as it was, with a warning.
    let disabled = site.config(&["set", "read_replica_remote", "origin"]);
    assert!(disabled.stderr.contains("replication disabled"), "{}", disabled.stderr);
    disabled.ok();
    site.run(&["put", "t", "own", "1"]).ok();
    site.config(&["set", "replicate_heads", "main"]).ok();
    next("2");
    assert_eq!(site.run(&["get", "t", "a"]).ok(), "2\n");
    assert!(site.run(&["put", "t", "a", "x"]).fails(5).contains("read replica"));
    // Both, and it is disabled again.
    site.config(&["set", "replicate_all_heads", "true"]).ok();
    next("3");
    assert_eq!(site.run(&["get", "t", "a"]).ok(), "2\n");
    site.config(&["unset", "replicate_heads"]).ok();
    assert_eq!(site.run(&["get", "t", "a"]).ok(), "3\n");
    site.config(&["unset", "read_replica_remote"]).ok();
    next("4");
    assert_eq!(site.run(&["get", "t", "a"]).ok(), "3\n");
    site.run(&["put", "t", "a", "mine"]).ok();
    assert_eq!(site.run(&["get", "t", "a"]).ok(), "mine\n");
}

/// A primary that pushes to a directory, and a replica that follows it; both are servers.
struct Followed {
    /// Its database is `main/db`.
    primary: Server,
    /// Follows the heads that its stanza says.
    replica: Site,
}

impl Followed {
    fn new(heads: &str) -> Followed {
        let stanza = format!("  read_replica_remote: origin\n  {heads}");
        let mut primary = None;
        let replica = Site::new(&stanza, |sandbox| {
            sandbox.run(&["init", "main/db"]).ok();
            sandbox.run(&["-C", "main/db", "remote", "add", "origin", &url(sandbox, "there")]).ok();
            sandbox.write(
                "main.yaml",
                "data_dir: main\nlistener: {host: 127.0.0.1, port: 0}\nreplication: {replicate_to_remote: origin}\n",
            );
            let server = sandbox.serve(&["--config", "main.yaml"]);
            sandbox.run(&server.args("db", &["put", "t", "a", "1"])).ok();
            sandbox.run(&server.args("db", &["commit", "-m", "one"])).ok();
            sandbox.run(&["clone", &url(sandbox, "there"), "s/db"]).ok();
            primary = Some(server);
        });
        Followed { primary: primary.unwrap(), replica }
    }

    fn on_primary(&self, args: &[&str]) -> Run {
        self.replica.sandbox.run(&self.primary.args("db", args))
    }

    fn there(&self) -> Vec<String> {
        there(&self.replica.sandbox, "there")
    }
}

#[test]
fn b14_a_promoted_replica_takes_writes_from_the_remotes_head_on_and_pushes_them() {
    let mut followed = Followed::new("replicate_all_heads: true");
    // It never saw this before its promotion.
    followed.on_primary(&["put", "t", "b", "2"]).ok();
    followed.on_primary(&["commit", "-m", "two"]).ok();
    followed.on_primary(&["branch", "side"]).ok();
    followed.on_primary(&["tag", "v1"]).ok();
    followed.primary.kill();
    let said = followed.replica.promote(&[]);
    assert!(!said.stderr.contains("warning"), "{}", said.stderr);
    said.ok();
    let replica = &mut followed.replica;
    assert_eq!(messages(replica.run(&["log", "--json"])), ["two", "one"]);
    let committed = replica.commit("three");
    assert!(!committed.stderr.contains("warning"), "{}", committed.stderr);
    assert_eq!(there(&replica.sandbox, "there"), ["three", "two", "one"]);
    replica.run(&["branch", "-d", "side"]).ok();
    replica.run(&["tag", "-d", "v1"]).ok();
    assert_eq!(there(&replica.sandbox, "there").len(), 3);
    for what in ["branch", "tag"] {
        let listed = replica.sandbox.run(&["-C", "looked", what]).ok();
        assert!(!listed.contains("side") && !listed.contains("v1"), "{listed}");
    }
    // So it stays.
    replica.server.kill();
    replica.server = started(&replica.sandbox, &replica.stanza);
    assert_eq!(replica.config(&["get", "read_replica_remote"]).ok(), "\n");
    assert_eq!(replica.config(&["get", "replicate_to_remote"]).ok(), "origin\n");
    replica.commit("four");
    assert_eq!(there(&replica.sandbox, "there"), ["four", "three", "two", "one"]);
    // And there is nothing more to promote.
    assert!(replica.promote(&[]).fails(1).contains("no read replica"));
}

#[test]
fn b14_a_stranger_who_pushed_after_the_promotion_is_not_overwritten() {
    let followed = Followed::new("replicate_heads: main");
    followed.replica.promote(&[]).ok();
    // The old primary was not dead.
    followed.on_primary(&["put", "t", "a", "theirs"]).ok();
    followed.on_primary(&["commit", "-m", "theirs"]).ok();
    let committed = followed.replica.commit("ours");
    assert!(committed.stderr.contains("somebody else moved it"), "{}", committed.stderr);
    assert_eq!(followed.there(), ["theirs", "one"]);
    // Other branches go on.
    followed.replica.run(&["branch", "other"]).ok();
    followed.there();
    assert!(followed.replica.sandbox.run(&["-C", "looked", "branch"]).ok().contains("other"));
}

#[test]
fn b14_reads_and_writes_go_on_through_a_promotion_and_no_write_is_lost() {
    let followed = Followed::new("replicate_heads: main");
    let replica = &followed.replica;
    let acknowledged = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            for _ in 0..25 {
                assert_eq!(replica.run(&["get", "t", "a"]).ok(), "1\n");
            }
        });
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                scope.spawn(move || {
                    let mut acknowledged = Vec::new();
                    while acknowledged.len() < 8 {
                        let key = format!("{writer}-{}", acknowledged.len());
                        let put = replica.run(&["put", "t", &key, "1"]);
                        match put.status {
                            0 => acknowledged.push(key),
                            _ => assert!(put.fails(5).contains("read replica")),
                        }
                    }
                    acknowledged
                })
            })
            .collect();
        replica.promote(&[]).ok();
        reader.join().unwrap();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
    });
    let scanned = replica.run(&["scan", "t"]).ok();
    for key in acknowledged {
        assert!(scanned.contains(&format!("{key}\t1")), "{key} is lost: {scanned}");
    }
    replica.commit("all");
    assert_eq!(followed.there(), ["all", "one"]);
}

#[test]
fn b14_with_a_dead_remote_a_promotion_is_refused_unless_it_is_forced() {
    let mut followed = Followed::new("replicate_heads: main");
    assert_eq!(followed.replica.run(&["get", "t", "a"]).ok(), "1\n");
    let (there, gone) = (followed.replica.sandbox.path("there"), followed.replica.sandbox.path("gone"));
    followed.primary.kill();
    std::fs::rename(&there, &gone).unwrap();
    let said = followed.replica.promote(&[]);
    assert_ne!(said.status, 0);
    assert!(said.stderr.contains("read replica still") && said.stderr.contains("--force"), "{}", said.stderr);
    assert!(followed.replica.run(&["put", "t", "x", "1"]).fails(5).contains("read replica"));
    let forced = followed.replica.promote(&["--force"]);
    assert!(forced.stderr.contains("warning: database `db`"), "{}", forced.stderr);
    forced.ok();
    // A file in the way, so that nothing can begin there anew.
    std::fs::write(&there, "").unwrap();
    let committed = followed.replica.commit("two");
    assert!(committed.stderr.contains("it is tried again"), "{}", committed.stderr);
    std::fs::remove_file(&there).unwrap();
    std::fs::rename(&gone, &there).unwrap();
    eventually("it is pushed when the remote returns", || (followed.there() == ["two", "one"]).then_some(()));
}

#[test]
fn b14_a_pull_that_was_under_way_takes_no_write_back_and_force_does_not_wait_for_a_silent_remote() {
    let mut remote = None;
    let stanza = "  read_replica_remote: origin\n  replicate_heads: main\n  async_replication: true";
    let site = Site::new(stanza, |sandbox| {
        let server = sandbox.serve(&["--data-dir", "there", "--listen", "127.0.0.1:0"]);
        sandbox.run(&["--server", &server.url(), "database", "create", "db"]).ok();
        sandbox.run(&server.args("db", &["put", "t", "a", "1"])).ok();
        sandbox.run(&server.args("db", &["commit", "-m", "one"])).ok();
        sandbox.run(&["clone", &server.database("db"), "s/db"]).ok();
        remote = Some(server);
    });
    let remote = remote.unwrap();
    assert_eq!(site.run(&["get", "t", "a"]).ok(), "1\n");
    remote.signal("STOP");
    std::thread::scope(|scope| {
        let read = scope.spawn(|| site.run(&["get", "t", "a"]));
        let began = std::time::Instant::now();
        let forced = site.promote(&["--force"]);
        assert!(forced.stderr.contains("did not answer in time"), "{}", forced.stderr);
        forced.ok();
        assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
        site.commit("mine");
        assert!(!read.is_finished(), "its pull is under way");
        remote.signal("CONT");
        assert_eq!(read.join().unwrap().ok(), "1\n");
    });
    assert_eq!(messages(site.run(&["log", "--json"])), ["mine", "one"]);
    let at_remote = || messages(site.sandbox.run(&remote.args("db", &["log", "--json"])));
    eventually("it is pushed", || (at_remote() == ["mine", "one"]).then_some(()));
    assert_eq!(messages(site.run(&["log", "--json"])), ["mine", "one"]);
}

#[test]
fn b14_what_is_no_replica_is_not_promoted() {
    for (stanza, why) in [
        ("", "no read replica"),
        ("  replicate_to_remote: origin", "no read replica"),
        ("  read_replica_remote: origin", "follows nothing"),
    ] {
        let site = Site::new(stanza, |sandbox| with_remotes(sandbox, "db"));
        let said = site.promote(&[]).fails(1);
        assert!(said.contains(why) && said.contains("hint:"), "{said}");
        assert!(!site.sandbox.path("s/settings.yaml").exists());
    }
}

#[test]
fn a_standby_has_settings_of_its_own() {
    let sandbox = Sandbox::new();
    let peer = format!("http://127.0.0.1:{}/{{database}}", pleach_tests::free_port());
    sandbox.write(
        "s.yaml",
        &format!(
            "data_dir: s\nlistener: {{host: 127.0.0.1, port: 0}}\ncluster:\n  standby_remotes:\n    - {{name: a, remote_url_template: \"{peer}\"}}\n  \
             bootstrap_role: standby\n  remotesapi: {{address: 127.0.0.1, port: 0}}\n"
        ),
    );
    let server = sandbox.serve(&["--config", "s.yaml"]);
    let config = |args: &[&str]| sandbox.run(&[&["--server", &server.url(), "config"], args].concat());
    config(&["set", "replicate_to_remote", "origin"]).ok();
    assert_eq!(config(&["get", "replicate_to_remote"]).ok(), "origin\n");
    assert_eq!(config(&["get", "cluster.bootstrap_role"]).ok(), "standby\n");
    config(&["unset", "replicate_to_remote"]).ok();
    let both = config(&["set", "read_replica_remote", "origin"]).fails(2);
    assert!(both.contains("cluster exclude each other"), "{both}");
}

#[test]
fn only_who_administers_the_whole_server_sees_and_changes_its_configuration() {
    let sandbox = Sandbox::new();
    let mut users = String::from("users:\n");
    for (name, database) in [("admin", "*"), ("keeper", "db")] {
        let made = sandbox.run(&["token", "new", name, "--json"]).json();
        sandbox.write(name, made["token"].as_str().unwrap());
        let hash = made["token_hash"].as_str().unwrap();
        users += &format!(
            "  - {{name: {name}, token_hash: \"{hash}\", grants: [{{database: \"{database}\", refs: \"*\", allow: admin}}]}}\n"
        );
    }
    sandbox.write("users.yaml", &users);
    sandbox.write("s.yaml", "data_dir: s\nlistener: {port: 0}\nusers_file: users.yaml\n");
    let server = sandbox.serve(&["--config", "s.yaml"]);
    for args in [
        &["config", "show"][..],
        &["config", "get", "listener.port"],
        &["config", "set", "transaction_commit", "true"],
        &["config", "unset", "transaction_commit"],
        &["replica", "promote"],
        &["database", "clone", "file:///nowhere", "db"],
    ] {
        let run = |user: &[&str]| sandbox.run(&[&["--server", &server.url()], user, args].concat());
        run(&[]).fails(5);
        let refused = run(&["--token-file", "keeper"]).fails(5);
        assert!(refused.contains("the whole server"), "{refused}");
        let of_admin = run(&["--token-file", "admin"]);
        assert!(!of_admin.stderr.contains("user `admin` may not"), "{}", of_admin.stderr);
    }
}
