//! Through a remote: a read replica that pulls when it is read.

use pleach_tests::{Sandbox, Server, eventually};

struct Replicated {
    sandbox: Sandbox,
    primary: Server,
    replica: Server,
}

impl Replicated {
    /// A primary with database `db`, and a replica that is a clone of it and follows the heads that `heads` matches.
    fn new(heads: &str) -> Replicated {
        let sandbox = Sandbox::new();
        let primary = sandbox.serve(&["--data-dir", "p", "--listen", "127.0.0.1:0"]);
        sandbox.run(&["--server", &primary.url(), "database", "create", "db"]).ok();
        sandbox.run(&primary.args("db", &["put", "t", "a", "1"])).ok();
        sandbox.run(&primary.args("db", &["commit", "-m", "first"])).ok();
        sandbox.run(&["clone", &primary.database("db"), "r/db"]).ok();
        let config = format!(
            "data_dir: r\nlistener: {{host: 127.0.0.1, port: 0}}\nreplication:\n  read_replica_remote: origin\n  {heads}\n"
        );
        sandbox.write("r.yaml", &config);
        let replica = sandbox.serve(&["--config", "r.yaml"]);
        Replicated { sandbox, primary, replica }
    }

    fn on_primary(&self, args: &[&str]) -> String {
        self.sandbox.run(&self.primary.args("db", args)).ok()
    }

    fn on_replica(&self, args: &[&str]) -> pleach_tests::Run {
        self.sandbox.run(&self.replica.args("db", args))
    }
}

#[test]
fn b1_a_commit_on_the_primary_is_seen_by_the_next_read() {
    let pair = Replicated::new("replicate_heads: main");
    assert_eq!(pair.on_replica(&["get", "t", "a"]).ok(), "1\n");
    for n in 0..5 {
        pair.on_primary(&["put", "t", "a", &format!("new {n}")]);
        pair.on_primary(&["commit", "-m", "next"]);
        // No waiting: the replica pulls before it reads.
        assert_eq!(pair.on_replica(&["get", "t", "a"]).ok(), format!("new {n}\n"));
    }
}

#[test]
fn b3_all_heads_follow() {
    let pair = Replicated::new("replicate_all_heads: true");
    pair.on_primary(&["branch", "side"]);
    pair.on_primary(&["tag", "v1"]);
    let listed = pair.on_replica(&["branch"]).ok();
    assert!(listed.contains("side"), "{listed}");
    assert!(pair.on_replica(&["tag"]).ok().contains("v1"));
}

#[test]
fn b4_b5_only_matching_heads_follow() {
    let pair = Replicated::new("replicate_heads: main, *feature*");
    for branch in ["feature1", "myfeature", "a/feature/x", "releases"] {
        pair.on_primary(&["branch", branch]);
    }
    let listed = pair.on_replica(&["branch"]).ok();
    for (branch, follows) in
        [("feature1", true), ("myfeature", true), ("a/feature/x", true), ("releases", false)]
    {
        assert_eq!(listed.contains(branch), follows, "{branch} in {listed}");
    }
}

#[test]
fn b8_a_deleted_branch_is_gone() {
    let pair = Replicated::new("replicate_all_heads: true");
    pair.on_primary(&["branch", "side"]);
    assert!(pair.on_replica(&["branch"]).ok().contains("side"));
    pair.on_primary(&["branch", "-d", "side"]);
    assert!(!pair.on_replica(&["branch"]).ok().contains("side"));
    assert_eq!(pair.on_replica(&["get", "t", "a"]).ok(), "1\n");
}

#[test]
fn b9_a_history_that_was_replaced_is_followed() {
    let pair = Replicated::new("replicate_heads: main");
    pair.on_primary(&["put", "t", "a", "2"]);
    pair.on_primary(&["commit", "-m", "second"]);
    assert_eq!(pair.on_replica(&["get", "t", "a"]).ok(), "2\n");
    pair.on_primary(&["reset", "HEAD~1", "--hard"]);
    assert_eq!(pair.on_replica(&["get", "t", "a"]).ok(), "1\n");
}

#[test]
fn b13_a_replica_refuses_writes() {
    let pair = Replicated::new("replicate_heads: main");
    let refused = pair.on_replica(&["put", "t", "a", "x"]).fails(5);
    assert!(refused.contains("replica"), "{refused}");
}

#[test]
fn b10_a_database_is_cloned_at_its_first_use() {
    let sandbox = Sandbox::new();
    let primary = sandbox.serve(&["--data-dir", "p", "--listen", "127.0.0.1:0"]);
    sandbox.run(&["--server", &primary.url(), "database", "create", "db"]).ok();
    sandbox.run(&primary.args("db", &["put", "t", "a", "1"])).ok();
    sandbox.run(&primary.args("db", &["commit", "-m", "first"])).ok();
    let config = format!(
        "data_dir: r\nlistener: {{host: 127.0.0.1, port: 0}}\nreplication:\n  read_replica_remote: origin\n  replicate_heads: main\n  remote_url_template: '{}'\n",
        primary.database("{database}")
    );
    sandbox.write("r.yaml", &config);
    let replica = sandbox.serve(&["--config", "r.yaml"]);
    let list = || sandbox.run(&["--server", &replica.url(), "database", "list"]).ok();
    assert_eq!(list(), "");
    // Many at once: one clone, and all succeed.
    std::thread::scope(|scope| {
        let reads: Vec<_> =
            (0..12).map(|_| scope.spawn(|| sandbox.run(&replica.args("db", &["get", "t", "a"])))).collect();
        for read in reads {
            assert_eq!(read.join().unwrap().ok(), "1\n");
        }
    });
    assert_eq!(list(), "db\n");
    assert_eq!(replica.log().matches("cloned from").count(), 1, "{}", replica.log());
    let absent = sandbox.run(&replica.args("absent", &["get", "t", "a"])).fails(1);
    assert!(absent.contains("no database `absent`"), "{absent}");
    assert_eq!(list(), "db\n");
}

#[test]
fn b6_a_pattern_that_matches_nothing_is_a_warning_and_a_name_that_is_missing_an_error() {
    let pair = Replicated::new("replicate_heads: main, nothing-*");
    for _ in 0..2 {
        assert_eq!(pair.on_replica(&["get", "t", "a"]).ok(), "1\n");
    }
    let warning = "branch pattern 'nothing-*' did not match any branch";
    assert_eq!(pair.replica.log().matches(warning).count(), 1, "{}", pair.replica.log());
    let pair = Replicated::new("replicate_heads: main, absent");
    let refused = pair.on_replica(&["get", "t", "a"]).fails(1);
    assert!(refused.contains("`absent`"), "{refused}");
    let pair = Replicated::new("replicate_heads: main, absent\n  skip_replication_errors: true");
    pair.on_primary(&["put", "t", "a", "2"]);
    pair.on_primary(&["commit", "-m", "next"]);
    // What can be followed is.
    assert_eq!(pair.on_replica(&["get", "t", "a"]).ok(), "2\n");
    assert!(pair.replica.log().contains("`absent`"), "{}", pair.replica.log());
}

#[test]
fn b7_with_neither_setting_of_heads_or_both_it_runs_on_local_data_and_says_why() {
    for (heads, why) in [
        (
            "skip_replication_errors: false",
            "must set either replicate_heads or replicate_all_heads, replication disabled",
        ),
        (
            "replicate_heads: main\n  replicate_all_heads: true",
            "cannot set both replicate_heads and replicate_all_heads, replication disabled",
        ),
    ] {
        let pair = Replicated::new(heads);
        assert!(pair.replica.log().contains(why), "{}", pair.replica.log());
        pair.on_primary(&["put", "t", "a", "2"]);
        pair.on_primary(&["commit", "-m", "next"]);
        assert_eq!(pair.on_replica(&["get", "t", "a"]).ok(), "1\n");
        pair.on_replica(&["put", "t", "own", "1"]).ok();
        assert_eq!(pair.on_replica(&["get", "t", "own"]).ok(), "1\n");
    }
}

#[test]
fn a15_with_errors_skipped_reads_go_on_with_what_is_here() {
    for (settings, status) in [("\n  skip_replication_errors: true", 0), ("", 4)] {
        let mut pair = Replicated::new(&format!("replicate_heads: main{settings}"));
        assert_eq!(pair.on_replica(&["get", "t", "a"]).ok(), "1\n");
        pair.primary.kill();
        assert_eq!(pair.on_replica(&["get", "t", "a"]).status, status);
        // Also at its start.
        assert_eq!(pair.replica.stop(), 0);
        let replica = pair.sandbox.serve(&["--config", "r.yaml"]);
        let read = pair.sandbox.run(&replica.args("db", &["get", "t", "a"]));
        assert_eq!(read.status, status, "{}", read.stderr);
        if status == 0 {
            assert_eq!(read.stdout, "1\n");
            eventually("it warns", || replica.log().contains("WARN").then_some(()));
        }
    }
}
