//! A cluster that elects its primary: real servers over the real etcd, and over a directory as an object store would be.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pleach_client::{Client, Options};
use pleach_tests::{Run, Sandbox, Server, eventually, free_port};
use serde_json::Value;

use crate::authority::{self, Authority};

/// How long a lease lasts here: the shortest that etcd gives.
const LEASE: Duration = Duration::from_secs(2);

/// etcd; killed when dropped.
struct Etcd {
    members: Vec<Child>,
    dir: tempfile::TempDir,
    /// Of each member, for clients and for the others.
    ports: Vec<[u16; 2]>,
    /// What its clients speak with it by.
    scheme: &'static str,
    tls: Vec<String>,
}

impl Etcd {
    /// Some members that run, if this machine has etcd; by TLS with these arguments, if there are any.
    fn start(members: usize, tls: Vec<String>) -> Option<Etcd> {
        let there = Command::new("etcd").arg("--version").stdout(Stdio::null()).status();
        if !there.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: there is no etcd on this machine; Debian has it as etcd-server");
            return None;
        }
        let (dir, ports) = (tempfile::tempdir().unwrap(), vec![[0; 2]; members]);
        let ports: Vec<[u16; 2]> = ports.into_iter().map(|_| [free_port(), free_port()]).collect();
        let scheme = if tls.is_empty() { "http" } else { "https" };
        let mut etcd = Etcd { members: Vec::new(), dir, ports, scheme, tls };
        etcd.restart();
        for [client, _] in &etcd.ports {
            eventually("etcd listens", || std::net::TcpStream::connect(("127.0.0.1", *client)).ok());
        }
        Some(etcd)
    }

    fn endpoint(&self, member: usize) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.ports[member][0])
    }

    fn spawn(&self, member: usize) -> Child {
        let peer = |member: usize| format!("http://127.0.0.1:{}", self.ports[member][1]);
        let all: Vec<String> =
            (0..self.ports.len()).map(|other| format!("{other}={}", peer(other))).collect();
        let (client, peer, name) = (self.endpoint(member), peer(member), member.to_string());
        Command::new("etcd")
            .arg("--data-dir")
            .arg(self.dir.path().join(&name))
            .args(["--name", &name, "--initial-cluster", &all.join(",")])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(&self.tls)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn stop(&mut self) {
        for mut member in self.members.drain(..) {
            let _ = member.kill();
            let _ = member.wait();
        }
    }

    fn restart(&mut self) {
        self.members = (0..self.ports.len()).map(|member| self.spawn(member)).collect();
    }

    /// Sends a signal to a member.
    fn signal(&self, member: usize, name: &str) {
        let pid = self.members[member].id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.stop();
    }
}

const NAMES: [&str; 3] = ["one", "two", "three"];

/// Nodes that elect their primary.
struct Nodes {
    sandbox: Sandbox,
    etcd: Option<Etcd>,
    certificates: Option<Sandbox>,
    _place: Option<tempfile::TempDir>,
    count: usize,
}

impl Nodes {
    /// By etcd, if this machine has it.
    fn by_etcd(count: usize, ack: &str, lease: Duration) -> Option<Nodes> {
        let etcd = Etcd::start(1, Vec::new())?;
        let (endpoint, lease) = (etcd.endpoint(0), lease.as_secs());
        let election =
            format!("{{provider: etcd, endpoints: [\"{endpoint}\"], prefix: test, lease: {lease}s}}");
        Some(Nodes { etcd: Some(etcd), ..Nodes::new(count, ack, &election) })
    }

    /// By etcd of three members, which know each other and their clients by certificates.
    fn by_three_etcd(count: usize, ack: &str, lease: Duration) -> Option<Nodes> {
        let certificates = Sandbox::new();
        let authority = Authority::new(&certificates, "etcd");
        authority.issue(&certificates, "etcd", &["127.0.0.1"], authority::key(), false);
        authority.issue(&certificates, "node", &["node"], authority::key(), false);
        let path = |name: &str| certificates.path(name).display().to_string();
        let options = ["--cert-file", "--key-file", "--trusted-ca-file"];
        let files = ["etcd.pem", "etcd.key", "etcd-ca.pem"].map(path);
        let tls = options.into_iter().zip(files).flat_map(|(option, file)| [option.to_owned(), file]);
        let etcd = Etcd::start(3, tls.chain(["--client-cert-auth".to_owned()]).collect())?;
        let election = format!(
            "{{provider: etcd, endpoints: {:?}, prefix: test, lease: {}s, tls_ca: {}, tls_cert: {}, tls_key: {}}}",
            [0, 1, 2].map(|member| etcd.endpoint(member)),
            lease.as_secs(),
            path("etcd-ca.pem"),
            path("node.pem"),
            path("node.key"),
        );
        let nodes = Nodes::new(count, ack, &election);
        Some(Nodes { etcd: Some(etcd), certificates: Some(certificates), ..nodes })
    }

    /// By a directory, or by the bucket that `PLEACH_TEST_BUCKET` names.
    fn by_directory(count: usize, ack: &str) -> Nodes {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().display();
        let url = match std::env::var("PLEACH_TEST_BUCKET") {
            Ok(bucket) => format!("{bucket}{path}"),
            Err(_) => format!("file://{path}"),
        };
        let election = format!("{{provider: object_store, url: \"{url}\", lease: 2s}}");
        Nodes { _place: Some(place), ..Nodes::new(count, ack, &election) }
    }

    fn new(count: usize, ack: &str, election: &str) -> Nodes {
        let sandbox = Sandbox::new();
        let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
        for node in 0..count {
            let peers: String = (0..count)
                .filter(|peer| *peer != node)
                .map(|peer| {
                    let (name, port) = (NAMES[peer], ports[peer]);
                    format!("    - {{name: {name}, remote_url_template: \"http://127.0.0.1:{port}/{{database}}\"}}\n")
                })
                .collect();
            let role = if node == 0 { "primary" } else { "standby" };
            let listener = free_port();
            let config = format!(
                "data_dir: {name}\nlistener: {{host: 127.0.0.1, port: {listener}}}\ncluster:\n  standby_remotes:\n{peers}  \
                 bootstrap_role: {role}\n  remotesapi: {{address: 127.0.0.1, port: {own}}}\n  ack: {{{ack}}}\n  election: {election}\n",
                name = NAMES[node],
                own = ports[node],
            );
            sandbox.write(&format!("{}.yaml", NAMES[node]), &config);
        }
        Nodes { sandbox, etcd: None, certificates: None, _place: None, count }
    }

    fn start(&self, node: usize) -> Server {
        self.sandbox.serve(&["--config", &format!("{}.yaml", NAMES[node])])
    }

    fn start_all(&self) -> Vec<Server> {
        (0..self.count).map(|node| self.start(node)).collect()
    }

    fn cluster(&self, server: &Server, args: &[&str]) -> Run {
        let url = server.url();
        self.sandbox.run(&[&["--server", &url, "cluster"], args].concat())
    }

    fn status(&self, server: &Server) -> Value {
        self.cluster(server, &["status", "--json"]).json()
    }

    fn epoch(&self, server: &Server) -> u64 {
        self.status(server)["epoch"].as_u64().unwrap()
    }

    fn leads(&self, server: &Server) -> bool {
        self.status(server)["takes_writes"].as_bool().unwrap()
    }

    fn elected(&self, server: &Server) {
        eventually("the node is elected", || self.leads(server).then_some(()));
    }

    fn follows(&self, server: &Server, primary: &Server) {
        eventually("the node follows the primary", || {
            let (one, other) = (self.status(server), self.status(primary));
            (one["role"] == "standby" && one["leader"] == other["node"] && one["epoch"] == other["epoch"])
                .then_some(())
        });
    }

    fn put(&self, server: &Server, key: &str) -> Run {
        self.sandbox.run(&server.args("db", &["put", "t", key, "v"]))
    }

    fn keys(&self, server: &Server) -> Vec<String> {
        let scanned = self.sandbox.run(&server.args("db", &["scan", "t"]));
        scanned.stdout.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
    }

    fn create(&self, server: &Server) {
        self.elected(server);
        self.sandbox.run(&["--server", &server.url(), "database", "create", "db"]).ok();
    }

    fn caught_up(&self, server: &Server, keys: &[&str]) {
        eventually("the standby has every row", || (self.keys(server) == keys).then_some(()));
    }
}

/// `kill -9` of the primary: the standby leads, with everything, and the old one follows when it returns.
fn killed(nodes: &Nodes) {
    let mut one = nodes.start(0);
    let two = nodes.start(1);
    nodes.create(&one);
    nodes.follows(&two, &one);
    nodes.put(&one, "a").ok();
    nodes.put(&two, "refused").fails(5);
    one.kill();
    let killed = Instant::now();
    nodes.elected(&two);
    let took = killed.elapsed();
    println!("the standby led {took:.1?} after the primary was killed, with a lease of {LEASE:?}");
    // Its time, a margin where nobody's clock is asked, and a look or two.
    assert!(took < LEASE * 3, "{took:?}");
    assert_eq!(nodes.keys(&two), ["a"]);
    let one = nodes.start(0);
    nodes.follows(&one, &two);
    nodes.put(&two, "b").ok();
    nodes.caught_up(&one, &["a", "b"]);
    let history = nodes.cluster(&two, &["history", "--json"]).json_lines();
    let elected =
        history.iter().find(|entry| entry["event"] == "changed" && entry["to"]["role"] == "primary");
    assert_eq!(elected.unwrap()["cause"], "election");
}

#[test]
fn a_primary_that_is_killed_is_replaced_by_etcd() {
    let Some(nodes) = Nodes::by_etcd(2, "count: 1, on_timeout: error", LEASE) else { return };
    killed(&nodes);
}

#[test]
fn a_primary_that_is_killed_is_replaced_by_a_directory() {
    killed(&Nodes::by_directory(2, "count: 1, on_timeout: error"));
}

/// A primary that sleeps through its lease takes no write when it wakes, and follows.
fn stopped(nodes: &Nodes) {
    let (one, two) = (nodes.start(0), nodes.start(1));
    nodes.create(&one);
    nodes.follows(&two, &one);
    nodes.put(&one, "a").ok();
    nodes.caught_up(&two, &["a"]);
    one.signal("STOP");
    nodes.elected(&two);
    nodes.put(&two, "b").ok();
    // Writes wait for the old primary while it sleeps, and are the first thing that it does.
    let writers: Vec<_> = (0..4)
        .map(|n| {
            let mut command = nodes.sandbox.command(&one.args("db", &["put", "t", &format!("late{n}"), "v"]));
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    one.signal("CONT");
    for mut writer in writers {
        assert_eq!(writer.wait().unwrap().code(), Some(5), "no write of an old primary");
    }
    nodes.follows(&one, &two);
    nodes.caught_up(&one, &["a", "b"]);
    assert_eq!(nodes.keys(&two), ["a", "b"]);
}

#[test]
fn a_primary_that_slept_through_its_lease_takes_no_write_by_etcd() {
    let Some(nodes) = Nodes::by_etcd(2, "count: 0", LEASE) else { return };
    stopped(&nodes);
}

#[test]
fn a_primary_that_slept_through_its_lease_takes_no_write_by_a_directory() {
    stopped(&Nodes::by_directory(2, "count: 0"));
}

#[test]
fn without_etcd_a_primary_is_read_only_before_its_lease_is_over_and_leads_again_after() {
    let lease = Duration::from_secs(5);
    let Some(mut nodes) = Nodes::by_etcd(2, "count: 0", lease) else { return };
    let (one, two) = (nodes.start(0), nodes.start(1));
    nodes.create(&one);
    nodes.follows(&two, &one);
    nodes.put(&one, "a").ok();
    let epoch = nodes.epoch(&one);
    nodes.etcd.as_mut().unwrap().stop();
    let stopped = Instant::now();
    let refused = loop {
        let put = nodes.put(&one, "b");
        // One that had begun when the time was over is not promised: its outcome is open.
        if !matches!(put.status, 0 | 4) {
            break put;
        }
        assert!(stopped.elapsed() < lease, "it takes writes though its lease is over");
    };
    println!("read-only {:.1?} after etcd was stopped, with a lease of {lease:?}", stopped.elapsed());
    assert!(stopped.elapsed() < lease, "{:?}", stopped.elapsed());
    let refused = refused.fails(5);
    assert!(refused.contains("does not hold the lease"), "{refused}");
    let status = nodes.status(&one);
    assert_eq!((&status["role"], &status["takes_writes"]), (&"primary".into(), &false.into()));
    let error = eventually("the status says why", || {
        nodes.status(&one)["election"]["error"].as_str().map(str::to_owned)
    });
    assert!(error.contains("127.0.0.1"), "{error}");
    assert!(!nodes.leads(&two), "nobody is primary by itself");
    nodes.etcd.as_mut().unwrap().restart();
    let leader = eventually("a node is elected", || [&one, &two].into_iter().find(|node| nodes.leads(node)));
    assert!(nodes.epoch(leader) > epoch);
    nodes.put(leader, "z").ok();
    eventually("both have it", || {
        let keys = nodes.keys(&one);
        (keys.last().map(String::as_str) == Some("z") && keys == nodes.keys(&two)).then_some(())
    });
}

/// Neither a member of etcd that is silent, whoever is connected to it, nor one that is gone hinders anybody; and certificates are shown.
#[test]
fn of_three_members_of_etcd_one_may_be_silent_or_gone() {
    let lease = Duration::from_secs(6);
    let Some(mut nodes) = Nodes::by_three_etcd(2, "count: 1, on_timeout: error", lease) else { return };
    let (mut one, two) = (nodes.start(0), nodes.start(1));
    nodes.create(&one);
    nodes.follows(&two, &one);
    let epoch = nodes.epoch(&one);
    // The first one is who both nodes ask.
    nodes.etcd.as_ref().unwrap().signal(0, "STOP");
    let silent = Instant::now();
    let mut refused = 0;
    while silent.elapsed() < 2 * lease {
        refused += u32::from(nodes.put(&one, "a").status != 0);
        std::thread::sleep(Duration::from_millis(200));
    }
    println!("{refused} writes refused while a member of etcd was silent, with a lease of {lease:?}");
    nodes.put(&one, "b").ok();
    assert_eq!((nodes.leads(&one), nodes.epoch(&one)), (true, epoch), "its lease goes on");
    one.kill();
    nodes.elected(&two);
    nodes.etcd.as_ref().unwrap().signal(0, "CONT");
    nodes.etcd.as_mut().unwrap().members[1].kill().unwrap();
    let one = nodes.start(0);
    nodes.follows(&one, &two);
    nodes.put(&two, "c").ok();
    nodes.caught_up(&one, &["a", "b", "c"]);
    // Who shows the certificate of another authority is not let in, and says so.
    let stranger = nodes.certificates.as_ref().unwrap();
    Authority::new(stranger, "other").issue(stranger, "node", &["node"], authority::key(), false);
    drop(one);
    let one = nodes.start(0);
    let error = eventually("the status says why", || {
        nodes.status(&one)["election"]["error"].as_str().map(str::to_owned)
    });
    assert!(error.contains("https://127.0.0.1"), "{error}");
    println!("a certificate of another authority: {error}");
}

/// Of two candidates one wins, and no acknowledged write is lost.
fn three(nodes: &Nodes) {
    let mut servers = nodes.start_all();
    nodes.create(&servers[0]);
    nodes.follows(&servers[1], &servers[0]);
    nodes.follows(&servers[2], &servers[0]);
    for n in 0..20 {
        nodes.put(&servers[0], &format!("{n:02}")).ok();
    }
    servers[0].kill();
    let rest = &servers[1..];
    let leader = eventually("one is elected", || rest.iter().position(|node| nodes.leads(node)));
    let (leader, other) = (&rest[leader], &rest[1 - leader]);
    nodes.follows(other, leader);
    assert!(!nodes.leads(other), "one wins");
    let keys: Vec<String> = (0..20).map(|n| format!("{n:02}")).collect();
    assert_eq!(nodes.keys(leader), keys);
    nodes.put(leader, "20").ok();
}

#[test]
fn of_two_candidates_one_wins_by_etcd() {
    let Some(nodes) = Nodes::by_etcd(3, "count: 1, on_timeout: error", LEASE) else { return };
    three(&nodes);
}

#[test]
fn of_two_candidates_one_wins_by_a_directory() {
    three(&Nodes::by_directory(3, "count: 1, on_timeout: error"));
}

/// Primaries that are killed, or sleep and wake, one after the other under writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_over_elections_and_all_nodes_are_equal_at_the_end() {
    let nodes = Nodes::by_directory(3, "count: 1, on_timeout: error, timeout: 3s");
    let mut servers = nodes.start_all();
    nodes.create(&servers[0]);
    let urls: Vec<String> = servers.iter().map(Server::url).collect();
    let client = Client::connect(&urls, Options::default()).unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writer = tokio::spawn(async move {
        let (mut acknowledged, mut n) = (Vec::new(), 0);
        while !*stopped.borrow() {
            n += 1;
            let key = format!("{n:06}");
            if client.database("db").put("t", &key, "v").await.is_ok() {
                acknowledged.push(key);
            }
        }
        acknowledged
    });
    let mut epoch = 0;
    for round in 0..4 {
        let leader = eventually("a node is elected", || {
            servers.iter().position(|node| nodes.leads(node) && nodes.epoch(node) > epoch)
        });
        epoch = nodes.epoch(&servers[leader]);
        // Writes go on for a while.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let next = (leader + 1) % 3;
        match round % 2 {
            0 => servers[leader].kill(),
            _ => servers[leader].signal("STOP"),
        }
        let others = [next, (leader + 2) % 3];
        eventually("another one is elected", || {
            others.iter().find(|other| nodes.leads(&servers[**other])).map(|_| ())
        });
        match round % 2 {
            0 => servers[leader] = nodes.start(leader),
            _ => servers[leader].signal("CONT"),
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.send_replace(true);
    let acknowledged = writer.await.unwrap();
    let leaders = || servers.iter().filter(|node| nodes.leads(node)).count();
    eventually("there is one primary", || (leaders() == 1).then_some(()));
    let keys = eventually("all nodes are equal", || {
        let keys: Vec<_> = servers.iter().map(|server| nodes.keys(server)).collect();
        keys.iter().all(|other| *other == keys[0]).then(|| keys[0].clone())
    });
    let there: std::collections::BTreeSet<&String> = keys.iter().collect();
    let lost: Vec<&String> = acknowledged.iter().filter(|key| !there.contains(key)).collect();
    println!("{} writes acknowledged over 4 elections", acknowledged.len());
    assert!(acknowledged.len() > 50, "{}", acknowledged.len());
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn a_primary_that_stops_in_order_hands_over_at_once_and_an_operator_moves_the_role_by_a_transition() {
    let nodes = Nodes::by_directory(2, "count: 0");
    let (mut one, two) = (nodes.start(0), nodes.start(1));
    nodes.create(&one);
    nodes.follows(&two, &one);
    nodes.put(&one, "a").ok();
    let begun = Instant::now();
    assert_eq!(one.stop(), 0);
    nodes.elected(&two);
    println!("the standby led {:.1?} after the primary was told to stop", begun.elapsed());
    assert_eq!(nodes.keys(&two), ["a"], "what was written last is there");
    let one = nodes.start(0);
    nodes.follows(&one, &two);

    // An operator does not make a primary here; making it a standby has the other one elected.
    let epoch = nodes.epoch(&two);
    let refused = nodes.cluster(&one, &["assume-role", "primary", "100"]).fails(1);
    assert!(refused.contains("elects its primary"), "{refused}");
    let higher = (epoch + 5).to_string();
    nodes.cluster(&two, &["transition-to-standby", &higher, "--min-caught-up", "1"]).ok();
    nodes.elected(&one);
    assert!(nodes.epoch(&one) > epoch + 5, "above every epoch that is known");
    nodes.follows(&two, &one);
    nodes.put(&one, "b").ok();
    nodes.caught_up(&two, &["a", "b"]);
}

#[test]
fn a_wrong_election_is_refused_at_the_start() {
    let sandbox = Sandbox::new();
    for (election, what) in [
        ("{provider: zookeeper}", "expected none, etcd or object_store"),
        ("{provider: etcd}", "endpoints: expected at least one"),
        ("{provider: etcd, endpoints: [\"h:1\"]}", "expected http://HOST:PORT"),
        ("{provider: object_store}", "url: expected a bucket or directory"),
        ("{provider: object_store, url: \"http://h:1/db\"}", "found the server"),
        ("{provider: none, url: \"file:///x\"}", "is for provider: object_store"),
        ("{provider: etcd, endpoints: [\"http://h:1\"], lease: 1s}", "whole seconds from 2s"),
        ("{provider: etcd, endpoint: \"http://h:1\"}", "unknown key"),
    ] {
        let remote = "{name: s, remote_url_template: \"http://127.0.0.1:1/{database}\"}";
        sandbox.write(
            "c.yaml",
            &format!("data_dir: data\ncluster:\n  standby_remotes: [{remote}]\n  election: {election}\n"),
        );
        let refused = sandbox.run(&["serve", "--config", "c.yaml", "--check"]).fails(2);
        assert!(refused.contains(what), "{election}: {refused}");
    }
}
