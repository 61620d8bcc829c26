//! Through a remote: a primary that pushes on write, to a server and to a directory.

use std::time::{Duration, Instant};

use pleach_tests::{Run, Sandbox, Server, eventually};

/// Where a primary pushes to.
enum Place {
    Server(Server),
    Directory,
}

struct Pair {
    sandbox: Sandbox,
    primary: Server,
    place: Place,
    settings: String,
}

impl Pair {
    /// A primary with database `db`, whose `origin` is a server's database, or a directory, to which it pushes as `settings` say.
    fn new(is_server: bool, settings: &str) -> Pair {
        let sandbox = Sandbox::new();
        let place = match is_server {
            false => Place::Directory,
            true => {
                let server = sandbox.serve(&["--data-dir", "remote", "--listen", "127.0.0.1:0"]);
                sandbox.run(&["--server", &server.url(), "database", "create", "db"]).ok();
                Place::Server(server)
            }
        };
        let url = match &place {
            Place::Server(server) => server.database("db"),
            Place::Directory => format!("file://{}", sandbox.path("remote").display()),
        };
        sandbox.run(&["init", "p/db"]).ok();
        sandbox.run(&["-C", "p/db", "remote", "add", "origin", &url]).ok();
        let primary = started(&sandbox, settings);
        Pair { sandbox, primary, place, settings: settings.to_owned() }
    }

    fn both(settings: &str) -> [Pair; 2] {
        [Pair::new(true, settings), Pair::new(false, settings)]
    }

    fn run(&self, args: &[&str]) -> Run {
        self.sandbox.run(&self.primary.args("db", args))
    }

    fn put(&self, key: &str, value: &str) {
        self.run(&["put", "t", key, value]).ok();
    }

    fn head(&self) -> String {
        self.run(&["log", "-n", "1", "--json"]).json_lines()[0]["hash"].as_str().unwrap().to_owned()
    }

    /// The branches and tags at the remote, by name, each with its commit.
    fn there(&self) -> Vec<String> {
        let list = |args: &[String]| {
            ["branch", "tag"]
                .iter()
                .flat_map(|what| refs(&self.sandbox.run(&[args, &[(*what).to_owned()]].concat())))
                .collect()
        };
        match &self.place {
            Place::Server(server) => list(&server.args("db", &[])),
            Place::Directory => {
                let _ = std::fs::remove_dir_all(self.sandbox.path("looked"));
                let url = format!("file://{}", self.sandbox.path("remote").display());
                match self.sandbox.run(&["clone", &url, "looked"]).status {
                    0 => list(&["-C".into(), "looked".into()]),
                    _ => Vec::new(),
                }
            }
        }
    }

    fn here(&self) -> Vec<String> {
        ["branch", "tag"].iter().flat_map(|what| refs(&self.run(&[what]))).collect()
    }

    fn restart(&mut self) {
        self.primary = started(&self.sandbox, &self.settings);
    }
}

/// What a list of branches or tags says of those that have a commit: names and commits.
fn refs(listed: &Run) -> Vec<String> {
    let lines = listed.stdout.lines().map(|line| line.trim_start_matches(['*', ' ']));
    let fields = lines.map(|line| line.split('\t').take(2).collect::<Vec<_>>());
    fields
        .filter(|fields| fields.get(1).is_some_and(|hash| hash.len() == 64))
        .map(|fields| fields.join(" "))
        .collect()
}

fn started(sandbox: &Sandbox, settings: &str) -> Server {
    let text = format!(
        "data_dir: p\nlistener: {{host: 127.0.0.1, port: 0}}\nreplication:\n  replicate_to_remote: origin\n{settings}\n"
    );
    sandbox.write("p.yaml", &text);
    sandbox.serve(&["--config", "p.yaml"])
}

#[test]
fn a1_remote_head_is_the_commit_when_the_call_returns() {
    for pair in Pair::both("") {
        for n in 0..3 {
            pair.put("a", &n.to_string());
            let committed = pair.run(&["commit", "-m", "m"]);
            assert!(!committed.stderr.contains("warning"), "{}", committed.stderr);
            committed.ok();
            let there = pair.there();
            assert!(there.len() == 1 && there[0].contains(&pair.head()[..8]), "{there:?}");
        }
    }
}

#[test]
fn a2_a_transaction_alone_pushes_nothing() {
    for pair in Pair::both("") {
        pair.put("a", "1");
        assert_eq!(pair.there(), Vec::<String>::new());
    }
}

#[test]
fn a3_each_transaction_is_a_version_commit_and_pushed() {
    for (settings, message) in
        [("", "Transaction commit"), ("  transaction_commit_message: by itself", "by itself")]
    {
        let pair = Pair::new(true, &format!("  transaction_commit: true\n{settings}"));
        for n in 0..3 {
            pair.put("a", &n.to_string());
        }
        pair.sandbox.write("t.csv", "k,v\n1,2\n");
        pair.run(&["import", "i", "t.csv", "--key", "k"]).ok();
        let log = pair.run(&["log", "--json"]).json_lines();
        assert_eq!(log.len(), 4);
        assert!(log.iter().all(|commit| commit["message"] == message), "{log:?}");
        assert_eq!(pair.there(), pair.here());
    }
}

#[test]
fn a4_the_remote_follows_branches_and_tags() {
    for pair in Pair::both("") {
        pair.put("a", "1");
        for step in [
            &["commit", "-m", "one"][..],
            &["branch", "feature"],
            &["tag", "v1"],
            &["put", "t", "b", "2"],
            &["commit", "-m", "two", "--amend"],
            &["tag", "-d", "v1"],
            &["branch", "-d", "feature"],
        ] {
            let done = pair.run(step);
            assert!(!done.stderr.contains("warning"), "{step:?}: {}", done.stderr);
            done.ok();
            assert_eq!(pair.there(), pair.here(), "{step:?}");
        }
    }
}

#[test]
fn a5_heads_to_follow_have_no_effect_on_a_primary() {
    let pair = Pair::new(true, "  replicate_heads: main\n  replicate_all_heads: true");
    pair.put("a", "1");
    pair.run(&["commit", "-m", "one"]).ok();
    pair.run(&["branch", "other"]).ok();
    assert_eq!(pair.there().len(), 2);
    assert_eq!(pair.there(), pair.here());
}

#[test]
fn a7_a_database_without_the_remote_is_told_of_and_the_others_are_pushed() {
    let pair = Pair::new(true, "");
    pair.sandbox.run(&["--server", &pair.primary.url(), "database", "create", "bad"]).ok();
    pair.sandbox.run(&pair.primary.args("bad", &["put", "t", "a", "1"])).ok();
    let committed = pair.sandbox.run(&pair.primary.args("bad", &["commit", "-m", "one"]));
    assert!(committed.stderr.contains("remote `origin` not found"), "{}", committed.stderr);
    committed.ok();
    pair.put("a", "1");
    pair.run(&["commit", "-m", "one"]).ok();
    assert_eq!(pair.there(), pair.here());
}

#[test]
fn a7_at_the_start_the_one_that_lacks_the_remote_is_disabled_alone() {
    let sandbox = Sandbox::new();
    for name in ["bad", "one", "two"] {
        let dir = format!("p/{name}");
        sandbox.run(&["init", &dir]).ok();
        sandbox.run(&["-C", &dir, "put", "t", "a", "1"]).ok();
        sandbox.run(&["-C", &dir, "commit", "-m", "before"]).ok();
        if name != "bad" {
            let url = format!("file://{}", sandbox.path(&format!("there-{name}")).display());
            sandbox.run(&["-C", &dir, "remote", "add", "origin", &url]).ok();
        }
    }
    let primary = started(&sandbox, "");
    for name in ["one", "two"] {
        let format = format!("there-{name}/format");
        eventually("what was there before is pushed", || sandbox.path(&format).exists().then_some(()));
    }
    eventually("it is told", || primary.log().contains("remote `origin` not found").then_some(()));
    for name in ["bad", "one", "two"] {
        let committed = sandbox.run(&primary.args(name, &["branch", "side"]));
        let is_told = committed.stderr.contains("remote `origin` not found");
        assert_eq!(is_told, name == "bad", "{}", committed.stderr);
        assert_eq!(committed.stderr.contains("is not replicated"), name == "bad", "{}", committed.stderr);
        committed.ok();
    }
    // It is told once, and nothing is tried over and over.
    assert_eq!(primary.log().matches("a push did not get through").count(), 1, "{}", primary.log());
}

#[test]
fn two_databases_with_one_remote_do_not_overwrite_each_other() {
    let mut pair = Pair::new(false, "");
    pair.put("a", "1");
    pair.run(&["commit", "-m", "one"]).ok();
    let there = pair.there();
    // A backup that is restored under another name has its remotes.
    assert_eq!(pair.primary.stop(), 0);
    let backup = format!("file://{}", pair.sandbox.path("backup").display());
    pair.sandbox.run(&["-C", "p/db", "backup", "sync", &backup]).ok();
    // Whichever comes first by name.
    let copy = pair.sandbox.path("p/a").display().to_string();
    pair.sandbox.run(&["backup", "restore", &backup, &copy]).ok();
    pair.restart();
    pair.sandbox.run(&pair.primary.args("a", &["put", "t", "a", "wrong"])).ok();
    let committed = pair.sandbox.run(&pair.primary.args("a", &["commit", "-m", "wrong"]));
    let first = committed.stderr.contains("is the remote of database `db` already");
    committed.ok();
    pair.put("a", "2");
    let right = pair.run(&["commit", "-m", "two"]);
    let second = right.stderr.contains("is the remote of database `a` already");
    right.ok();
    assert!(first != second, "one of them is refused");
    assert_ne!(pair.there(), there);
}

#[test]
fn a15_with_errors_skipped_a_bad_remote_gives_warnings_only() {
    let sandbox = Sandbox::new();
    sandbox.run(&["init", "p/bad"]).ok();
    sandbox.run(&["init", "p/away"]).ok();
    // Nobody listens there.
    let nobody = format!("http://127.0.0.1:{}/db", pleach_tests::free_port());
    sandbox.run(&["-C", "p/away", "remote", "add", "origin", &nobody]).ok();
    let mut primary = started(&sandbox, "  skip_replication_errors: true");
    for name in ["bad", "away"] {
        let run = |args: &[&str]| sandbox.run(&primary.args(name, args));
        for n in 0..3 {
            run(&["put", "t", "a", &n.to_string()]).ok();
            let committed = run(&["commit", "-m", "m"]);
            assert!(committed.stderr.contains("warning: replication to `origin`"), "{}", committed.stderr);
            committed.ok();
            assert_eq!(run(&["get", "t", "a"]).ok(), format!("{n}\n"));
        }
        assert_eq!(run(&["log", "--json"]).json_lines().len(), 3);
    }
    assert!(primary.log().contains("WARN"), "{}", primary.log());
    assert_eq!(primary.stop(), 0);
}

#[test]
fn a15_with_errors_skipped_no_write_waits_for_a_remote_that_does_not_answer() {
    // It takes connections, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/db", silent.local_addr().unwrap());
    let sandbox = Sandbox::new();
    sandbox.run(&["init", "p/db"]).ok();
    sandbox.run(&["-C", "p/db", "remote", "add", "origin", &url]).ok();
    let primary = started(&sandbox, "  skip_replication_errors: true");
    let run = |args: &[&str]| sandbox.run(&primary.args("db", args));
    let commit = |n: u32| {
        run(&["put", "t", "a", &n.to_string()]).ok();
        let began = std::time::Instant::now();
        let committed = run(&["commit", "-m", "m"]);
        assert!(committed.stderr.contains("it is not waited for"), "{}", committed.stderr);
        committed.ok();
        began.elapsed()
    };
    // The first finds out. A push gives up after a minute.
    assert!(commit(0).as_secs() < 30);
    for n in 1..4 {
        assert!(commit(n).as_secs() < 4, "the next do not wait at all");
    }
}

#[test]
fn a11_pushes_in_the_background_are_drained_at_a_clean_stop() {
    let mut pair = Pair::new(true, "  async_replication: true");
    pair.put("a", "0");
    pair.run(&["commit", "-m", "m"]).ok();
    eventually("the first is pushed", || (pair.there().len() == 1).then_some(()));
    let Place::Server(remote) = &pair.place else { unreachable!() };
    // As slow as a remote can be.
    remote.signal("STOP");
    for n in 1..5 {
        pair.put("a", &n.to_string());
        let committed = pair.run(&["commit", "-m", "m"]);
        assert!(!committed.stderr.contains("warning"), "{}", committed.stderr);
        committed.ok();
    }
    let here = pair.here();
    pair.primary.signal("TERM");
    eventually("it stops", || pair.primary.log().contains("stopping").then_some(()));
    remote.signal("CONT");
    assert_eq!(pair.primary.stop(), 0);
    assert_eq!(pair.there(), here, "the last commit is there, too");
}

#[test]
fn a12_a13_a_commit_stands_while_the_remote_is_away_and_is_pushed_when_it_returns_also_after_a_restart() {
    let mut pair = Pair::new(false, "");
    // A file in the way of the directory.
    pair.sandbox.write("remote", "");
    pair.put("a", "1");
    let committed = pair.run(&["commit", "-m", "one"]);
    assert!(committed.stderr.contains("warning: replication to `origin`"), "{}", committed.stderr);
    committed.ok();
    pair.run(&["branch", "other"]).ok();
    pair.primary.kill();
    pair.restart();
    eventually("it is tried and told", || pair.primary.log().contains("did not get through").then_some(()));
    std::fs::remove_file(pair.sandbox.path("remote")).unwrap();
    let here = pair.here();
    assert_eq!(here.len(), 2);
    eventually("all is pushed, without a new commit", || (pair.there() == here).then_some(()));
}

#[test]
fn a14_a_stranger_s_head_is_not_overwritten() {
    for pair in Pair::both("") {
        pair.put("a", "1");
        pair.run(&["commit", "-m", "one"]).ok();
        let url = match &pair.place {
            Place::Server(server) => server.database("db"),
            Place::Directory => format!("file://{}", pair.sandbox.path("remote").display()),
        };
        pair.sandbox.run(&["clone", &url, "stranger"]).ok();
        pair.sandbox.run(&["-C", "stranger", "put", "t", "s", "1"]).ok();
        pair.sandbox.run(&["-C", "stranger", "commit", "-m", "theirs"]).ok();
        pair.sandbox.run(&["-C", "stranger", "push"]).ok();
        let theirs = pair.there();
        pair.put("a", "2");
        let committed = pair.run(&["commit", "-m", "two"]);
        assert!(committed.stderr.contains("heads/main: somebody else moved it"), "{}", committed.stderr);
        committed.ok();
        assert_eq!(pair.there(), theirs);
    }
}

#[test]
fn a14_by_the_policy_both_are_merged() {
    let pair = Pair::new(true, "  on_conflict: merge");
    pair.put("a", "1");
    pair.run(&["commit", "-m", "one"]).ok();
    let Place::Server(server) = &pair.place else { unreachable!() };
    pair.sandbox.run(&server.args("db", &["put", "t", "s", "1"])).ok();
    pair.sandbox.run(&server.args("db", &["commit", "-m", "theirs"])).ok();
    pair.put("a", "2");
    pair.run(&["commit", "-m", "two"]).ok();
    assert_eq!(pair.there(), pair.here());
    assert_eq!(pair.run(&["get", "t", "s"]).ok(), "1\n");
    assert_eq!(pair.sandbox.run(&server.args("db", &["get", "t", "a"])).ok(), "2\n");
}

#[test]
fn a16_what_a_client_pushes_to_the_primary_is_pushed_on() {
    for pair in Pair::both("") {
        pair.put("a", "1");
        pair.run(&["commit", "-m", "one"]).ok();
        pair.sandbox.run(&["clone", &pair.primary.database("db"), "client"]).ok();
        pair.sandbox.run(&["-C", "client", "put", "t", "c", "1"]).ok();
        pair.sandbox.run(&["-C", "client", "commit", "-m", "two"]).ok();
        pair.sandbox.run(&["-C", "client", "push"]).ok();
        let here = pair.here();
        eventually("it is pushed on", || (pair.there() == here).then_some(()));
    }
}

#[test]
fn a8_a_database_that_is_made_gets_its_remote_by_the_template() {
    for is_server in [true, false] {
        let sandbox = Sandbox::new();
        let remote = sandbox.serve(&["--data-dir", "remote", "--listen", "127.0.0.1:0"]);
        let template = match is_server {
            true => remote.database("{database}"),
            false => format!("file://{}", sandbox.path("places/{database}").display()),
        };
        let primary = started(&sandbox, &format!("  remote_url_template: '{template}'"));
        sandbox.run(&["--server", &primary.url(), "database", "create", "shop"]).ok();
        if is_server {
            let listed = sandbox.run(&["--server", &remote.url(), "database", "list"]).ok();
            assert_eq!(listed, "shop\n", "it is there at once");
        }
        sandbox.run(&["clone", &template.replace("{database}", "shop"), "early"]).ok();
        sandbox.run(&primary.args("shop", &["put", "t", "a", "1"])).ok();
        let committed = sandbox.run(&primary.args("shop", &["commit", "-m", "one"]));
        assert!(!committed.stderr.contains("warning"), "{}", committed.stderr);
        committed.ok();
        sandbox.run(&["clone", &template.replace("{database}", "shop"), "copy"]).ok();
        assert_eq!(sandbox.run(&["-C", "copy", "get", "t", "a"]).ok(), "1\n");
        // Who was there before the first commit gets it, too.
        sandbox.run(&["-C", "early", "pull"]).ok();
        assert_eq!(sandbox.run(&["-C", "early", "get", "t", "a"]).ok(), "1\n");
    }
}

#[test]
fn a8_nobody_waits_long_for_the_remote_of_a_template_that_says_nothing() {
    let sandbox = Sandbox::new();
    // It takes connections, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let template = format!("http://{}/{{database}}", silent.local_addr().unwrap());
    let primary =
        started(&sandbox, &format!("  remote_url_template: '{template}'\n  async_replication: true"));
    let began = Instant::now();
    sandbox.run(&["--server", &primary.url(), "database", "create", "shop"]).ok();
    sandbox.run(&primary.args("shop", &["put", "t", "a", "1"])).ok();
    sandbox.run(&primary.args("shop", &["commit", "-m", "one"])).ok();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let remotes = sandbox.run(&primary.args("shop", &["config", "get", "remote_url_template"])).ok();
    assert!(remotes.contains(&template), "{remotes}");
    // Who pushes at once waits as long as nothing passes, and is told.
    sandbox.run(&primary.args("shop", &["config", "set", "async_replication", "false"])).ok();
    let began = Instant::now();
    sandbox.run(&primary.args("shop", &["put", "t", "a", "2"])).ok();
    let committed = sandbox.run(&primary.args("shop", &["commit", "-m", "two"]));
    assert!(committed.stderr.contains("it is not waited for"), "{}", committed.stderr);
    committed.ok();
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

#[test]
fn a9_a_template_without_the_database_is_refused() {
    let sandbox = Sandbox::new();
    let text = "replication: {replicate_to_remote: origin, remote_url_template: 'file:///share/remotes'}\n";
    sandbox.write("p.yaml", text);
    let checked = sandbox.run(&["serve", "--config", "p.yaml", "--check"]).fails(2);
    assert!(checked.contains("expected a URL that contains {database}"), "{checked}");
}

#[test]
fn a10_without_a_template_a_database_is_replicated_when_it_has_the_remote() {
    let sandbox = Sandbox::new();
    let mut primary = started(&sandbox, "");
    sandbox.run(&["--server", &primary.url(), "database", "create", "shop"]).ok();
    sandbox.run(&primary.args("shop", &["put", "t", "a", "1"])).ok();
    sandbox.run(&primary.args("shop", &["commit", "-m", "one"])).ok();
    assert_eq!(primary.stop(), 0);
    let listed = sandbox.run(&["-C", "p/shop", "remote", "list"]).ok();
    assert_eq!(listed, "", "it has no remote by itself");
    let url = format!("file://{}", sandbox.path("remote").display());
    sandbox.run(&["-C", "p/shop", "remote", "add", "origin", &url]).ok();
    let _primary = started(&sandbox, "");
    eventually("it is pushed", || sandbox.path("remote/format").exists().then_some(()));
}
