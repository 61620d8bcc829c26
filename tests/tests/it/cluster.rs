//! Direct to a standby: a pair of real servers.

use pleach_tests::{Sandbox, Server, eventually, free_port};
use serde_json::Value;

/// Two servers that name each other as standby.
struct Pair {
    sandbox: Sandbox,
    ports: [u16; 2],
}

const NAMES: [&str; 2] = ["one", "two"];

impl Pair {
    fn new() -> Pair {
        let pair = Pair { sandbox: Sandbox::new(), ports: [free_port(), free_port()] };
        pair.configure(0, "primary", 1);
        pair.configure(1, "standby", 1);
        pair
    }

    fn configure(&self, node: usize, role: &str, epoch: u64) {
        let [own, peer] = [self.ports[node], self.ports[1 - node]];
        let config = format!(
            "data_dir: {name}\nlistener: {{host: 127.0.0.1, port: 0}}\ncluster:\n  standby_remotes:\n    \
             - {{name: {other}, remote_url_template: \"http://127.0.0.1:{peer}/{{database}}\"}}\n  \
             bootstrap_role: {role}\n  bootstrap_epoch: {epoch}\n  remotesapi: {{address: 127.0.0.1, port: {own}}}\n",
            name = NAMES[node],
            other = NAMES[1 - node],
        );
        self.sandbox.write(&format!("{}.yaml", NAMES[node]), &config);
    }

    fn start(&self, node: usize) -> Server {
        self.sandbox.serve(&["--config", &format!("{}.yaml", NAMES[node])])
    }

    fn assume(&self, server: &Server, role: &str, epoch: u64) -> pleach_tests::Run {
        self.sandbox.run(&["--server", &server.url(), "cluster", "assume-role", role, &epoch.to_string()])
    }

    fn status(&self, server: &Server) -> Value {
        self.sandbox.run(&["--server", &server.url(), "cluster", "status", "--json"]).json()
    }

    fn put(&self, server: &Server, key: &str) -> pleach_tests::Run {
        self.sandbox.run(&server.args("db", &["put", "t", key, "v"]))
    }

    fn keys(&self, server: &Server) -> Vec<String> {
        let scanned = self.sandbox.run(&server.args("db", &["scan", "t"]));
        scanned.stdout.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
    }

    fn caught_up(&self, server: &Server, keys: &[&str]) {
        eventually("the standby has every row", || (self.keys(server) == keys).then_some(()));
    }

    fn create(&self, server: &Server) {
        self.sandbox.run(&["--server", &server.url(), "database", "create", "db"]).ok();
    }
}

fn role(status: &Value) -> (String, u64) {
    (status["role"].as_str().unwrap().to_owned(), status["epoch"].as_u64().unwrap())
}

#[test]
fn c1_c2_every_change_arrives_and_the_lag_is_0() {
    let pair = Pair::new();
    let (primary, standby) = (pair.start(0), pair.start(1));
    pair.create(&primary);
    pair.put(&primary, "a").ok();
    pair.caught_up(&standby, &["a"]);
    let on = |args: &[&str]| pair.sandbox.run(&primary.args("db", args)).ok();
    on(&["commit", "-m", "first"]);
    on(&["branch", "side"]);
    on(&["tag", "v1"]);
    let there = |what: &str, args: &[&str], expected: &str| {
        eventually(what, || {
            pair.sandbox.run(&standby.args("db", args)).stdout.contains(expected).then_some(())
        });
    };
    there("the commit is on the standby", &["log"], "first");
    there("the branch is on the standby", &["branch"], "side");
    there("the tag is on the standby", &["tag"], "v1");
    on(&["branch", "-d", "side"]);
    eventually("the deletion is on the standby", || {
        (!pair.sandbox.run(&standby.args("db", &["branch"])).ok().contains("side")).then_some(())
    });
    eventually("the status shows no lag and no error", || {
        let status = pair.status(&primary);
        let row = status["databases"].as_array()?.first()?.clone();
        (row["database"] == "db" && row["replication_lag_millis"] == 0 && row["current_error"].is_null())
            .then_some(())
    });
    assert_eq!(role(&pair.status(&primary)), ("primary".into(), 1));
    assert_eq!(role(&pair.status(&standby)), ("standby".into(), 1));
}

#[test]
fn c7_a_standby_refuses_writes_before_it_looks_the_database_up() {
    let pair = Pair::new();
    let standby = pair.start(1);
    let refused = pair.put(&standby, "a").fails(5);
    assert!(refused.contains("standby"), "{refused}");
    pair.sandbox.run(&["--server", &standby.url(), "database", "create", "db"]).fails(5);
}

#[test]
fn c5_role_and_epoch_survive_kill_9_and_win_over_the_bootstrap() {
    let pair = Pair::new();
    let mut node = pair.start(1);
    pair.assume(&node, "standby", 10).ok();
    node.kill();
    pair.configure(1, "primary", 15);
    let node = pair.start(1);
    assert_eq!(role(&pair.status(&node)), ("standby".into(), 10));
}

#[test]
fn c6_each_bad_cluster_configuration_is_refused() {
    let sandbox = Sandbox::new();
    let remote = "{name: s, remote_url_template: \"http://127.0.0.1:1/{database}\"}";
    let no_template = "{name: s, remote_url_template: \"http://127.0.0.1:1/db\"}";
    let api = "remotesapi: {address: 127.0.0.1, port: 50051}";
    for (what, cluster) in [
        ("no standbys", format!("standby_remotes: []\n  {api}")),
        ("an empty name", format!("standby_remotes: [{}]\n  {api}", remote.replace("name: s", "name: \"\""))),
        ("a template without {database}", format!("standby_remotes: [{no_template}]\n  {api}")),
        ("an unknown role", format!("standby_remotes: [{remote}]\n  bootstrap_role: boss\n  {api}")),
        ("a negative epoch", format!("standby_remotes: [{remote}]\n  bootstrap_epoch: -1\n  {api}")),
        (
            "a bad port",
            format!("standby_remotes: [{remote}]\n  remotesapi: {{address: 127.0.0.1, port: 70000}}"),
        ),
    ] {
        sandbox.write("c.yaml", &format!("data_dir: data\ncluster:\n  {cluster}\n"));
        let run = sandbox.run(&["serve", "--config", "c.yaml", "--check"]);
        assert_eq!(run.status, 2, "{what}: {}", run.stderr);
    }
}

#[test]
fn c10_c11_a_role_is_taken_or_refused_with_its_reason() {
    let pair = Pair::new();
    let node = pair.start(1);
    pair.assume(&node, "standby", 10).ok();
    for (role, epoch) in [("standby", 9), ("primary", 10), ("boss", 11), ("detected_broken_config", 11)] {
        let run = pair.assume(&node, role, epoch);
        assert_ne!(run.status, 0, "{role}@{epoch}");
        assert!(run.stderr.contains("error:"), "{role}@{epoch}: {}", run.stderr);
    }
    assert_eq!(role(&pair.status(&node)), ("standby".into(), 10));
    pair.assume(&node, "standby", 10).ok();
    pair.assume(&node, "standby", 12).ok();
    assert_eq!(role(&pair.status(&node)), ("standby".into(), 12));
}

#[test]
fn c12_c15_c16_roles_swap_there_and_back_and_nothing_acknowledged_is_lost() {
    let pair = Pair::new();
    let (one, two) = (pair.start(0), pair.start(1));
    pair.create(&one);
    let mut keys = Vec::new();
    for n in 0..20 {
        let key = format!("a{n:02}");
        pair.put(&one, &key).ok();
        keys.push(key);
    }
    pair.assume(&one, "standby", 2).ok();
    // Everything acknowledged is on the standby when the call returns: no waiting here.
    assert_eq!(pair.keys(&two), keys);
    pair.put(&one, "late").fails(5);
    pair.assume(&two, "primary", 2).ok();
    for n in 0..20 {
        let key = format!("b{n:02}");
        pair.put(&two, &key).ok();
        keys.push(key);
    }
    let expected: Vec<&str> = keys.iter().map(String::as_str).collect();
    pair.caught_up(&one, &expected);
    pair.assume(&two, "standby", 3).ok();
    assert_eq!(pair.keys(&one), keys);
    pair.assume(&one, "primary", 3).ok();
    pair.put(&one, "c").ok();
    keys.push("c".into());
    let expected: Vec<&str> = keys.iter().map(String::as_str).collect();
    pair.caught_up(&two, &expected);
}

#[test]
fn c13_without_a_standby_a_graceful_change_fails_and_the_primary_stays() {
    let pair = Pair::new();
    let primary = pair.start(0);
    pair.create(&primary);
    pair.put(&primary, "a").ok();
    let said = pair.assume(&primary, "standby", 2);
    assert_ne!(said.status, 0);
    assert_eq!(role(&pair.status(&primary)), ("primary".into(), 1));
    pair.put(&primary, "b").ok();
}

#[test]
fn c13_a_standby_killed_just_now_is_noticed_before_the_role_is_given_up() {
    let pair = Pair::new();
    let (primary, mut standby) = (pair.start(0), pair.start(1));
    pair.create(&primary);
    pair.put(&primary, "a").ok();
    pair.caught_up(&standby, &["a"]);
    standby.kill();
    assert_ne!(pair.assume(&primary, "standby", 2).status, 0);
    assert_eq!(role(&pair.status(&primary)), ("primary".into(), 1));
    pair.put(&primary, "b").ok();
}

#[test]
fn c17_c19_a_dead_primary_is_replaced_and_its_tail_is_kept() {
    let pair = Pair::new();
    let (mut one, mut two) = (pair.start(0), pair.start(1));
    pair.create(&one);
    pair.put(&one, "shared").ok();
    pair.caught_up(&two, &["shared"]);
    two.kill();
    pair.put(&one, "tail").ok();
    one.kill();

    let two = pair.start(1);
    pair.assume(&two, "primary", 2).ok();
    pair.put(&two, "new").ok();
    let one = pair.start(0);
    eventually("the old primary stepped down", || {
        (role(&pair.status(&one)) == ("standby".into(), 2)).then_some(())
    });
    pair.caught_up(&one, &["new", "shared"]);
    assert_eq!(pair.keys(&two), ["new", "shared"], "the new primary's data is untouched");
    drop(one);
    drop(two);
    // The tail that never reached the new primary is kept on the old one.
    let refs = pleach_engine::Database::open(&pair.sandbox.path("one/db"), Default::default())
        .unwrap()
        .refs("recovery/");
    assert!(!refs.is_empty(), "the tail is kept under recovery/");
}

#[test]
fn c21_two_primaries_of_one_epoch_both_stop_writing() {
    let pair = Pair::new();
    pair.configure(1, "primary", 1);
    let (one, two) = (pair.start(0), pair.start(1));
    for server in [&one, &two] {
        eventually("the broken configuration is detected", || {
            (role(&pair.status(server)).0 == "detected_broken_config").then_some(())
        });
        pair.put(server, "a").fails(5);
    }
    pair.assume(&one, "primary", 2).ok();
    eventually("the other one follows", || (role(&pair.status(&two)) == ("standby".into(), 2)).then_some(()));
}

#[test]
fn a_standby_killed_and_restarted_catches_up() {
    let pair = Pair::new();
    let (primary, mut standby) = (pair.start(0), pair.start(1));
    pair.create(&primary);
    pair.put(&primary, "a").ok();
    pair.caught_up(&standby, &["a"]);
    standby.kill();
    pair.put(&primary, "b").ok();
    let standby = pair.start(1);
    pair.caught_up(&standby, &["a", "b"]);
}

#[test]
fn c32_collections_on_both_nodes_leave_replication_going_on() {
    let pair = Pair::new();
    let (primary, standby) = (pair.start(0), pair.start(1));
    pair.create(&primary);
    let gc = |server: &Server| {
        let done = pair.sandbox.run(&server.args("db", &["gc", "--json"])).json();
        let fsck = pair.sandbox.run(&server.args("db", &["fsck", "--json"])).json();
        assert_eq!(fsck["damages"], serde_json::json!([]));
        done["dead_chunks"].as_u64().unwrap()
    };
    let mut keys: Vec<String> = Vec::new();
    let mut dead = [0, 0];
    let write = |keys: &mut Vec<String>| {
        keys.push(format!("{:02}", keys.len()));
        pair.put(&primary, &keys[keys.len() - 1]).ok();
    };
    for round in 0..6 {
        (0..4).for_each(|_| write(&mut keys));
        if round == 2 {
            pair.sandbox.run(&primary.args("db", &["commit", "-m", "so far"])).ok();
        }
        dead[0] += gc(&primary);
        if round == 0 {
            pair.caught_up(&standby, &keys.iter().map(String::as_str).collect::<Vec<_>>());
        }
        dead[1] += gc(&standby);
    }
    pair.caught_up(&standby, &keys.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(dead[0] > 0 && dead[1] > 0, "there was something to collect: {dead:?}");

    // The standby is away while the primary moves on and collects what the standby has.
    drop(standby);
    (0..4).for_each(|_| write(&mut keys));
    gc(&primary);
    (0..4).for_each(|_| write(&mut keys));
    gc(&primary);
    let standby = pair.start(1);
    pair.caught_up(&standby, &keys.iter().map(String::as_str).collect::<Vec<_>>());
    gc(&primary);
    gc(&standby);
}
