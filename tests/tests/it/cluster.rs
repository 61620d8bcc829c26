//! Direct to standbys: real servers.

mod adoption;
mod cascade;
mod claims;
mod contents;
mod drops;
mod pins;
mod roles;
mod users;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pleach_protocol::testing::Proxy;
use pleach_tests::{Sandbox, Server, eventually, free_port};
use serde_json::Value;

/// Servers that name each other as standbys.
struct Nodes {
    sandbox: Sandbox,
    ports: Vec<u16>,
    /// More lines of each `cluster:` stanza.
    more: String,
}

/// A proxy between two nodes, with what it runs on.
struct Link {
    proxy: Proxy,
    _runtime: tokio::runtime::Runtime,
}

const NAMES: [&str; 4] = ["one", "two", "three", "four"];

impl Nodes {
    /// A primary and a standby.
    fn pair() -> Nodes {
        Nodes::new(2, "")
    }

    /// A primary and standbys, with an acknowledgement policy.
    fn with_ack(nodes: usize, ack: &str) -> Nodes {
        Nodes::new(nodes, &format!("  ack: {{{ack}}}\n"))
    }

    fn new(nodes: usize, more: &str) -> Nodes {
        let ports = (0..nodes).map(|_| free_port()).collect();
        let nodes = Nodes { sandbox: Sandbox::new(), ports, more: more.to_owned() };
        nodes.configure(0, "primary", 1);
        (1..nodes.ports.len()).for_each(|node| nodes.configure(node, "standby", 1));
        nodes
    }

    fn configure(&self, node: usize, role: &str, epoch: u64) {
        let peers: Vec<usize> = (0..self.ports.len()).filter(|peer| *peer != node).collect();
        self.configure_with(node, role, epoch, &peers);
    }

    /// A node that names these peers.
    fn configure_with(&self, node: usize, role: &str, epoch: u64, peers: &[usize]) {
        let peers = peers.iter().map(|&peer| {
            let (name, port) = (NAMES[peer], self.ports[peer]);
            format!("    - {{name: {name}, remote_url_template: \"http://127.0.0.1:{port}/{{database}}\"}}\n")
        });
        let config = format!(
            "data_dir: {name}\nlistener: {{host: 127.0.0.1, port: 0}}\ncluster:\n  standby_remotes:\n{peers}  \
             bootstrap_role: {role}\n  bootstrap_epoch: {epoch}\n  remotesapi: {{address: 127.0.0.1, port: {own}}}\n{more}",
            name = NAMES[node],
            peers = peers.collect::<String>(),
            own = self.ports[node],
            more = self.more,
        );
        self.sandbox.write(&format!("{}.yaml", NAMES[node]), &config);
    }

    /// What passes from a node to another one goes by a proxy, which counts it. Before that node is started.
    fn link(&self, from: usize, to: usize) -> Link {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let target = std::net::SocketAddr::from(([127, 0, 0, 1], self.ports[to]));
        let proxy = runtime.block_on(Proxy::start(target, Duration::ZERO, || None)).unwrap();
        let file = format!("{}.yaml", NAMES[from]);
        let config = std::fs::read_to_string(self.sandbox.path(&file)).unwrap();
        let by_proxy = format!(":{}/", proxy.address().port());
        self.sandbox.write(&file, &config.replace(&format!(":{}/", self.ports[to]), &by_proxy));
        Link { proxy, _runtime: runtime }
    }

    /// Adds lines to the configuration of a node, at the end of its `cluster:` stanza.
    fn add(&self, node: usize, more: &str) {
        let file = format!("{}.yaml", NAMES[node]);
        let config = std::fs::read_to_string(self.sandbox.path(&file)).unwrap();
        self.sandbox.write(&file, &format!("{config}{more}"));
    }

    /// Each node has the users of its own file, `NAME-users.yaml`.
    fn with_users(&self) {
        for name in &NAMES[..self.ports.len()] {
            let file = format!("{name}.yaml");
            let config = std::fs::read_to_string(self.sandbox.path(&file)).unwrap();
            self.sandbox.write(&file, &format!("users_file: {name}-users.yaml\n{config}"));
        }
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

    /// Epoch and sequence of the token of the write.
    fn put_for_token(&self, server: &Server, key: &str) -> (u64, u64) {
        let answer = self.sandbox.run(&server.args("db", &["--json", "put", "t", key, "v"])).json();
        let token = answer["token"].as_str().unwrap().to_owned();
        let mut numbers = token.split('.').map_while(|number| number.parse().ok());
        (numbers.next().unwrap(), numbers.next().unwrap())
    }

    /// The database of a node that is stopped.
    fn database(&self, node: usize) -> pleach_engine::Database {
        let dir = self.sandbox.path(NAMES[node]).join("db");
        pleach_engine::Database::open(&dir, Default::default()).unwrap()
    }

    /// What a node that is stopped keeps under `recovery/`.
    fn recovered(&self, node: usize) -> Vec<(String, pleach_engine::Hash)> {
        self.database(node).refs("recovery/")
    }

    /// A copy of the disk of a node that is stopped.
    fn keep_disk(&self, node: usize) -> PathBuf {
        let kept = self.sandbox.path(&format!("{}-before", NAMES[node]));
        pleach_tests::script::copy_dir(&self.sandbox.path(NAMES[node]), &kept);
        kept
    }

    /// The disk of a node is as it was.
    fn put_disk_back(&self, node: usize, kept: &Path) {
        let dir = self.sandbox.path(NAMES[node]);
        std::fs::remove_dir_all(&dir).unwrap();
        pleach_tests::script::copy_dir(kept, &dir);
    }

    fn keys(&self, server: &Server) -> Vec<String> {
        let scanned = self.sandbox.run(&server.args("db", &["scan", "t"]));
        scanned.stdout.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
    }

    fn caught_up(&self, server: &Server, keys: &[&str]) {
        eventually("the standby has every row", || (self.keys(server) == keys).then_some(()));
    }

    fn create(&self, server: &Server) {
        // A primary that others must agree with takes writes a moment after they are there.
        let create = || self.sandbox.run(&["--server", &server.url(), "database", "create", "db"]);
        eventually("the database is made", || (create().status == 0).then_some(()));
    }
}

fn role(status: &Value) -> (String, u64) {
    (status["role"].as_str().unwrap().to_owned(), status["epoch"].as_u64().unwrap())
}

#[test]
fn c1_c2_every_change_arrives_and_the_lag_is_0() {
    let pair = Nodes::pair();
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
fn d2_each_row_says_how_far_the_standby_is() {
    let pair = Nodes::pair();
    let (primary, mut standby) = (pair.start(0), pair.start(1));
    pair.create(&primary);
    pair.put(&primary, "a").ok();
    let row = |server: &Server| pair.status(server)["databases"][0].clone();
    let numbers =
        |row: &Value| ["sequence", "sent", "received", "durable", "applied"].map(|field| row[field].as_u64());
    let is_level = || {
        let row = row(&primary);
        let all = numbers(&row);
        let is_level = all.iter().all(|number| number.is_some() && *number == all[0]);
        (is_level && row["backlog_bytes"] == 0 && row["replication_lag_millis"] == 0).then_some(row)
    };
    let level = eventually("the standby has everything", is_level);
    assert!(level["current_error"].is_null() && level["last_update"].is_string(), "{level}");
    let [here, there @ ..] = numbers(&row(&standby));
    assert!(here.is_some() && there == [None; 4], "a standby knows of itself");
    standby.kill();
    for key in ["b", "c"] {
        pair.put(&primary, key).ok();
    }
    let behind = eventually("it is known what a standby that is away lacks", || {
        let row = row(&primary);
        (row["backlog_bytes"].as_u64() > Some(0) && row["retries"].as_u64() > Some(0)).then_some(row)
    });
    let [here, .., applied] = numbers(&behind);
    assert_eq!((here, applied), (numbers(&level)[0].map(|here| here + 2), numbers(&level)[4]));
    assert!(behind["replication_lag_millis"].as_u64() > Some(0), "{behind}");
    assert!(behind["current_error"].is_string(), "{behind}");
    let _standby = pair.start(1);
    eventually("the standby has everything again", is_level);
}

#[test]
fn d4_an_idle_cluster_says_as_little_however_many_databases_it_has() {
    let pair = Nodes::pair();
    let link = pair.link(0, 1);
    let (primary, standby) = (pair.start(0), pair.start(1));
    pair.create(&primary);
    for number in 0..50 {
        let name = format!("more{number}");
        pair.sandbox.run(&["--server", &primary.url(), "database", "create", &name]).ok();
    }
    eventually("all are there", || {
        let listed = pair.sandbox.run(&["--server", &standby.url(), "database", "list"]).ok();
        let status = pair.status(&primary);
        let rows = status["databases"].as_array()?;
        let is_level = rows.iter().all(|row| row["backlog_bytes"] == 0);
        (listed.lines().count() == 51 && rows.len() == 51 && is_level).then_some(())
    });
    let before = link.proxy.counts().pieces;
    let seconds = 11;
    std::thread::sleep(Duration::from_secs(seconds));
    let pieces = link.proxy.counts().pieces - before;
    assert!((2..=seconds).contains(&pieces), "{pieces} pieces in {seconds} s");
}

#[test]
fn c7_a_standby_refuses_writes_before_it_looks_the_database_up() {
    let pair = Nodes::pair();
    let standby = pair.start(1);
    let refused = pair.put(&standby, "a").fails(5);
    assert!(refused.contains("standby"), "{refused}");
    pair.sandbox.run(&["--server", &standby.url(), "database", "create", "db"]).fails(5);
}

#[test]
fn c5_role_and_epoch_survive_kill_9_and_win_over_the_bootstrap() {
    let pair = Nodes::pair();
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
    let pair = Nodes::pair();
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
    let pair = Nodes::pair();
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
    let pair = Nodes::pair();
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
    let pair = Nodes::pair();
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
    let pair = Nodes::pair();
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
    // The tail that never reached the new primary is kept on the old one, and listed.
    let run = |server: &Server, args: &[&str]| pair.sandbox.run(&server.args("db", args));
    let kept = run(&one, &["recovery", "list", "--json"]).json()["kept"].clone();
    let tail = kept[0]["ref"].as_str().unwrap();
    assert_eq!(kept[0]["of"], "work/main", "{kept}");
    let shown = run(&one, &["recovery", "show", tail, "--json"]).json();
    assert_eq!(shown["tables"][0]["inserted"], 1, "{shown}");
    assert_eq!(run(&one, &["get", "t", "tail", "--at", tail]).ok(), "v\n");
    run(&one, &["recovery", "restore", tail]).fails(5);
    run(&one, &["recovery", "drop", tail]).ok();
    assert_eq!(run(&one, &["recovery", "list"]).ok(), "");
    assert_eq!(run(&two, &["recovery", "list"]).ok(), "");
}

#[test]
fn c21_c23_two_primaries_of_one_epoch_both_stop_writing_until_one_has_a_higher_one() {
    let pair = Nodes::pair();
    pair.configure(1, "primary", 1);
    let (one, two) = (pair.start(0), pair.start(1));
    for server in [&one, &two] {
        eventually("the broken configuration is detected", || {
            (role(&pair.status(server)).0 == "detected_broken_config").then_some(())
        });
        pair.put(server, "a").fails(5);
    }
    // As it was asked to be, and what a primary of a higher epoch replicates to.
    pair.assume(&one, "primary", 2).ok();
    assert_eq!(role(&pair.status(&one)), ("primary".into(), 2));
    eventually("the other one follows", || (role(&pair.status(&two)) == ("standby".into(), 2)).then_some(()));
    pair.create(&one);
    pair.put(&one, "a").ok();
    pair.caught_up(&two, &["a"]);
}

#[test]
fn a_standby_killed_and_restarted_catches_up() {
    let pair = Nodes::pair();
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
    let pair = Nodes::pair();
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

// Acknowledgements.

fn warnings(status: &Value) -> String {
    status["warnings"].to_string()
}

#[test]
fn c27_what_a_standby_acknowledged_is_there_when_the_primary_is_killed_at_once() {
    for level in ["received", "durable", "applied"] {
        let nodes = Nodes::with_ack(2, &format!("count: 1, level: {level}, timeout: 20s, on_timeout: error"));
        let (mut one, two) = (nodes.start(0), nodes.start(1));
        nodes.create(&one);
        let mut keys = Vec::new();
        for n in 0..10 {
            let key = format!("{n:02}");
            let answer = nodes.sandbox.run(&one.args("db", &["--json", "put", "t", &key, "v"])).json();
            let token = answer["token"].as_str().unwrap().to_owned();
            assert_eq!(token.split('.').count(), 3, "epoch, sequence and root: {token}");
            keys.push(key);
        }
        one.kill();
        if level == "received" {
            // It had arrived; it is shown a moment later.
            nodes.caught_up(&two, &keys.iter().map(String::as_str).collect::<Vec<_>>());
        }
        assert_eq!(nodes.keys(&two), keys, "{level}");
        assert_eq!(warnings(&nodes.status(&two)).contains("ack.level: received"), level == "received");
    }
}

#[test]
fn c27_a_write_that_standbys_do_not_have_in_time_warns_or_fails() {
    for on_timeout in ["warn", "error"] {
        let nodes = Nodes::with_ack(2, &format!("count: all, timeout: 2s, on_timeout: {on_timeout}"));
        let (one, mut two) = (nodes.start(0), nodes.start(1));
        nodes.create(&one);
        nodes.put(&one, "a").ok();
        two.kill();
        let late = nodes.put(&one, "b");
        assert!(late.stderr.contains("0 of the 1 standbys"), "{}", late.stderr);
        if on_timeout == "warn" {
            late.ok();
            assert!(warnings(&nodes.status(&one)).contains("succeeded since the start"));
        } else {
            assert!(late.fails(4).contains("outcome of the write is open"));
        }
        // It is durable here, and goes on to the standby when that is back; writes wait for it again at once.
        assert_eq!(nodes.keys(&one), ["a", "b"]);
        let two = nodes.start(1);
        nodes.caught_up(&two, &["a", "b"]);
        assert_eq!(nodes.put(&one, "c").ok(), "");
        assert_eq!(nodes.keys(&two), ["a", "b", "c"]);
    }
}

#[test]
fn c27_a_write_that_blocks_returns_when_the_standby_is_there() {
    let nodes = Nodes::with_ack(2, "count: 1, timeout: 100ms, on_timeout: block");
    let one = nodes.start(0);
    nodes.create(&one);
    let mut writing = nodes.sandbox.command(&one.args("db", &["put", "t", "a", "v"])).spawn().unwrap();
    eventually("the write is done here", || (nodes.keys(&one) == ["a"]).then_some(()));
    std::thread::sleep(Duration::from_millis(500));
    assert!(writing.try_wait().unwrap().is_none(), "the write waits");
    let two = nodes.start(1);
    assert!(writing.wait().unwrap().success());
    assert_eq!(nodes.keys(&two), ["a"]);
}

#[test]
fn c27_a_policy_that_can_lose_says_so_and_one_that_cannot_be_is_refused() {
    let pair = Nodes::pair();
    let one = pair.start(0);
    assert!(warnings(&pair.status(&one)).contains("ack.count: 0"));
    for (ack, said) in [
        ("count: 2", "cluster.ack.count"),
        ("count: some", "cluster.ack.count"),
        ("level: written", "cluster.ack.level"),
        ("on_timeout: retry", "cluster.ack.on_timeout"),
        ("timeout: soon", "cluster.ack.timeout"),
    ] {
        let nodes = Nodes::with_ack(2, ack);
        let checked = nodes.sandbox.run(&["serve", "--config", "one.yaml", "--check"]);
        assert!(checked.fails(2).contains(said), "{ack}");
    }
    let strict = Nodes::with_ack(2, "count: 1, on_timeout: error");
    let one = strict.start(0);
    assert!(!warnings(&strict.status(&one)).contains("lost"));
}

#[test]
fn c29_writes_wait_for_two_of_three_standbys_and_not_for_the_slow_one() {
    let nodes = Nodes::with_ack(4, "count: 2, timeout: 10s, on_timeout: error");
    let one = nodes.start(0);
    let standbys: Vec<_> = (1..4).map(|node| nodes.start(node)).collect();
    nodes.create(&one);
    let mut keys = vec!["a".to_owned()];
    nodes.put(&one, "a").ok();
    // It answers nobody, and its connections stand.
    standbys[2].signal("STOP");
    let started = Instant::now();
    for n in 0..10 {
        keys.push(format!("b{n}"));
        nodes.put(&one, &keys[keys.len() - 1]).ok();
    }
    assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
    let expected: Vec<&str> = keys.iter().map(String::as_str).collect();
    nodes.caught_up(&standbys[0], &expected);
    nodes.caught_up(&standbys[1], &expected);
    // It is back, and another is gone: writes wait for it at once.
    standbys[2].signal("CONT");
    standbys[1].signal("STOP");
    nodes.put(&one, "c").ok();
    keys.push("c".into());
    assert_eq!(nodes.keys(&standbys[2]), keys);
    standbys[1].signal("CONT");
}

#[test]
fn three_nodes_of_which_one_acknowledges_need_another_to_agree_with_a_new_primary() {
    let nodes = Nodes::with_ack(3, "count: 1, timeout: 10s, on_timeout: error");
    let (mut one, mut two, mut three) = (nodes.start(0), nodes.start(1), nodes.start(2));
    nodes.create(&one);
    nodes.put(&one, "a").ok();
    nodes.caught_up(&two, &["a"]);
    nodes.caught_up(&three, &["a"]);
    // What is acknowledged is on `three` alone beside the primary.
    two.kill();
    nodes.put(&one, "b").ok();
    one.kill();
    three.kill();
    let two = nodes.start(1);
    let alone = nodes.assume(&two, "primary", 2);
    assert_ne!(alone.status, 0);
    assert!(alone.stderr.contains("takes no writes yet"), "nobody agrees: {}", alone.stderr);
    nodes.put(&two, "x").fails(5);
    let three = nodes.start(2);
    // It agrees once what it has and the new primary lacks is there, too.
    eventually("it takes writes", || (nodes.put(&two, "c").status == 0).then_some(()));
    assert_eq!(nodes.keys(&two), ["a", "b", "c"], "what was acknowledged is there");
    nodes.caught_up(&three, &["a", "b", "c"]);
}
