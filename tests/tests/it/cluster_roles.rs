//! Roles of a cluster, as an operator changes and sees them: real servers.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use pleach_client::{Client, Options};
use pleach_tests::{Run, Sandbox, Server, eventually, free_port};
use serde_json::Value;

/// Servers that name each other as standbys. The first begins as primary.
struct Nodes {
    sandbox: Sandbox,
    ports: Vec<u16>,
    /// More lines of each `cluster:` stanza.
    more: String,
}

const NAMES: [&str; 3] = ["one", "two", "three"];

impl Nodes {
    fn new(nodes: usize, more: &str) -> Nodes {
        let ports = (0..nodes).map(|_| free_port()).collect();
        let nodes = Nodes { sandbox: Sandbox::new(), ports, more: more.to_owned() };
        (0..nodes.ports.len()).for_each(|node| nodes.configure(node, ""));
        nodes
    }

    /// Writes a node's configuration, with lines beside its `cluster:` stanza.
    fn configure(&self, node: usize, beside: &str) {
        let peers = (0..self.ports.len()).filter(|peer| *peer != node).map(|peer| {
            let (name, port) = (NAMES[peer], self.ports[peer]);
            format!("    - {{name: {name}, remote_url_template: \"http://127.0.0.1:{port}/{{database}}\"}}\n")
        });
        let config = format!(
            "data_dir: {name}\nlistener: {{host: 127.0.0.1, port: 0}}\n{beside}cluster:\n  standby_remotes:\n{peers}  \
             bootstrap_role: {role}\n  bootstrap_epoch: 1\n  remotesapi: {{address: 127.0.0.1, port: {own}}}\n{more}",
            name = NAMES[node],
            peers = peers.collect::<String>(),
            role = if node == 0 { "primary" } else { "standby" },
            own = self.ports[node],
            more = self.more,
        );
        self.sandbox.write(&format!("{}.yaml", NAMES[node]), &config);
    }

    fn start(&self, node: usize) -> Server {
        self.sandbox.serve(&["--config", &format!("{}.yaml", NAMES[node])])
    }

    fn cluster(&self, server: &Server, args: &[&str]) -> Run {
        let url = server.url();
        self.sandbox.run(&[&["--server", &url, "cluster"], args].concat())
    }

    fn assume(&self, server: &Server, role: &str, epoch: u64) -> Run {
        self.cluster(server, &["assume-role", role, &epoch.to_string()])
    }

    fn transition(&self, server: &Server, epoch: u64, min_caught_up: usize) -> Run {
        let (epoch, min) = (epoch.to_string(), min_caught_up.to_string());
        self.cluster(server, &["transition-to-standby", &epoch, "--min-caught-up", &min, "--json"])
    }

    fn status(&self, server: &Server) -> Value {
        self.cluster(server, &["status", "--json"]).json()
    }

    fn role(&self, server: &Server) -> (String, u64) {
        let status = self.status(server);
        (status["role"].as_str().unwrap().to_owned(), status["epoch"].as_u64().unwrap())
    }

    fn becomes(&self, server: &Server, role: &str, epoch: u64) {
        eventually("the node has the role", || (self.role(server) == (role.into(), epoch)).then_some(()));
    }

    fn history(&self, server: &Server) -> Vec<Value> {
        self.cluster(server, &["history", "--json"]).json_lines()
    }

    fn create(&self, server: &Server) {
        let create = || self.sandbox.run(&["--server", &server.url(), "database", "create", "db"]);
        eventually("the database is made", || (create().status == 0).then_some(()));
    }

    fn put(&self, server: &Server, key: &str) -> Run {
        self.sandbox.run(&server.args("db", &["put", "t", key, "v"]))
    }

    fn keys(&self, server: &Server) -> Vec<String> {
        let scanned = self.sandbox.run(&server.args("db", &["scan", "t"]));
        scanned.stdout.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
    }

    fn caught_up(&self, server: &Server, keys: &[&str]) {
        eventually("the standby has every row", || (self.keys(server) == keys).then_some(()));
    }
}

/// By standby, whether it had caught up, as `transition-to-standby --json` tells of one database.
fn caught_up(taken: &Value) -> Vec<(String, bool)> {
    let mut rows: Vec<_> = taken["databases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            assert_eq!(row["database"], "db");
            let name = row["standby_remote"].as_str().unwrap().to_owned();
            assert!(row["remote_url"].as_str().unwrap().ends_with("/db"), "{row}");
            (name, row["caught_up"].as_bool().unwrap())
        })
        .collect();
    rows.sort();
    rows
}

#[test]
fn c18_a_primary_hands_over_to_as_many_standbys_as_it_is_told() {
    let nodes = Nodes::new(3, "");
    let (one, two, mut three) = (nodes.start(0), nodes.start(1), nodes.start(2));
    nodes.create(&one);
    nodes.put(&one, "a").ok();
    nodes.caught_up(&two, &["a"]);
    nodes.caught_up(&three, &["a"]);

    // At once, when all have everything.
    let begun = Instant::now();
    let taken = nodes.transition(&one, 2, 1).json();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!((taken["role"].as_str(), taken["epoch"].as_u64()), (Some("standby"), Some(2)));
    assert_eq!(caught_up(&taken), [("three".into(), true), ("two".into(), true)]);
    nodes.assume(&two, "primary", 2).ok();
    nodes.put(&two, "b").ok();
    nodes.caught_up(&three, &["a", "b"]);
    nodes.caught_up(&one, &["a", "b"]);

    // One is gone: two are too many, and nothing changes; one is enough, at the end of the time.
    three.kill();
    nodes.put(&two, "c").ok();
    let refused = nodes.transition(&two, 3, 2).fails(1);
    assert!(refused.contains("`db` on three") && !refused.contains("on one ("), "{refused}");
    assert!(refused.contains("1 of the 2 standbys"), "{refused}");
    assert_eq!(nodes.role(&two), ("primary".into(), 2));
    nodes.put(&two, "d").ok();
    let begun = Instant::now();
    let taken = nodes.transition(&two, 3, 1).json();
    assert!(begun.elapsed() > Duration::from_secs(5), "it waits for all as long as it may");
    assert_eq!(caught_up(&taken), [("one".into(), true), ("three".into(), false)]);
    // Everything acknowledged is there, without waiting.
    assert_eq!(nodes.keys(&one), ["a", "b", "c", "d"]);
    nodes.assume(&one, "primary", 3).ok();
    nodes.put(&one, "e").ok();
    let three = nodes.start(2);
    for server in [&two, &three] {
        nodes.caught_up(server, &["a", "b", "c", "d", "e"]);
    }
}

#[test]
fn c18_fewer_standbys_than_acknowledge_are_refused() {
    let nodes = Nodes::new(3, "  ack: {count: 2, on_timeout: error}\n");
    let (one, _two, _three) = (nodes.start(0), nodes.start(1), nodes.start(2));
    nodes.create(&one);
    for count in [0, 1, 3] {
        let refused = nodes.transition(&one, 2, count).fails(2);
        assert!(refused.contains("expected from 2 to 2 standbys"), "{refused}");
    }
    assert_eq!(nodes.role(&one), ("primary".into(), 1));
    nodes.put(&one, "a").ok();
    nodes.transition(&one, 2, 2).json();
}

#[test]
fn c18_who_lags_gets_the_rest_from_those_that_caught_up_before_it_leads() {
    let nodes = Nodes::new(3, "  ack: {count: 1, on_timeout: error}\n");
    let (mut one, mut two, mut three) = (nodes.start(0), nodes.start(1), nodes.start(2));
    nodes.create(&one);
    nodes.put(&one, "a").ok();
    nodes.caught_up(&three, &["a"]);
    three.kill();
    nodes.put(&one, "b").ok();
    let taken = nodes.transition(&one, 2, 1).json();
    assert_eq!(caught_up(&taken), [("three".into(), false), ("two".into(), true)]);
    one.kill();
    two.kill();
    let three = nodes.start(2);
    let refused = nodes.assume(&three, "primary", 2).fails(1);
    assert!(refused.contains("takes no writes yet"), "{refused}");
    nodes.put(&three, "c").fails(5);
    let two = nodes.start(1);
    eventually("the one that lagged leads", || (nodes.put(&three, "c").status == 0).then_some(()));
    assert_eq!(nodes.keys(&three), ["a", "b", "c"]);
    nodes.caught_up(&two, &["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c12_c13_sessions_end_when_a_hand_over_begins_and_begin_again_when_it_fails() {
    let nodes = Nodes::new(2, "");
    let (one, mut two) = (nodes.start(0), nodes.start(1));
    nodes.create(&one);
    nodes.put(&one, "a").ok();
    nodes.caught_up(&two, &["a"]);
    two.kill();
    let client = Client::connect([one.url()], Options::default()).unwrap();
    let db = client.database("db");
    let (mut writer, mut reader) = (db.begin().await.unwrap(), db.begin_read_only().await.unwrap());
    writer.put("t", "b", "v").await.unwrap();
    reader.get("t", "a").await.unwrap();

    // The hand-over cannot succeed: what it does at its start shows while it waits for the standby.
    let url = one.url();
    let command = ["--server", &url, "cluster", "assume-role", "standby", "2"].map(str::to_owned);
    let mut handing_over =
        nodes.sandbox.command(&command).stderr(std::process::Stdio::null()).spawn().unwrap();
    let ended = loop {
        match reader.get("t", "a").await {
            Ok(_) => {
                assert!(handing_over.try_wait().unwrap().is_none(), "it ended, and the session did not");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(ended) => break ended,
        }
    };
    assert!(ended.to_string().contains("hands over its role to a standby: reconnect"), "{ended}");
    let ended = writer.put("t", "c", "v").await.err();
    let ended = match ended {
        Some(ended) => ended,
        None => writer.commit().await.unwrap_err(),
    };
    assert!(ended.to_string().contains("hands over its role to a standby: reconnect"), "{ended}");
    assert!(handing_over.try_wait().unwrap().is_none(), "they ended when it began");
    // Read-only meanwhile; who only reads may begin.
    nodes.put(&one, "refused").fails(5);
    assert!(db.begin_read_only().await.unwrap().get("t", "a").await.unwrap().is_some());

    assert_eq!(handing_over.wait().unwrap().code(), Some(1));
    assert_eq!(nodes.role(&one), ("primary".into(), 1));
    let mut again = db.begin().await.unwrap();
    assert!(again.get("t", "b").await.unwrap().is_none(), "what was not committed is rolled back");
    again.put("t", "b", "v").await.unwrap();
    again.commit().await.unwrap();
    assert_eq!(nodes.keys(&one), ["a", "b"]);
}

#[test]
fn each_change_of_role_is_in_the_history_with_who_why_and_the_roots_then() {
    let nodes = Nodes::new(2, "");
    let (one, mut two) = (nodes.start(0), nodes.start(1));
    nodes.create(&one);
    nodes.put(&one, "a").ok();
    nodes.caught_up(&two, &["a"]);
    nodes.assume(&two, "primary", 1).fails(1);
    nodes.assume(&one, "standby", 2).ok();
    nodes.assume(&two, "primary", 2).ok();
    eventually("the old primary follows", || {
        (nodes.status(&one)["leader"] == nodes.status(&two)["node"]).then_some(())
    });
    let of = |server: &Server, event: &str| -> Vec<Value> {
        nodes.history(server).into_iter().filter(|entry| entry["event"] == event).collect()
    };
    let refused = &of(&two, "refused")[0];
    assert_eq!((&refused["from"]["role"], &refused["to"]["role"]), (&"standby".into(), &"primary".into()));
    assert!(refused["why"].as_str().unwrap().contains("different role"), "{refused}");
    let handed_over = of(&one, "changed");
    let handed_over =
        handed_over.iter().find(|entry| entry["to"]["epoch"] == 2 && entry["cause"] == "operator");
    let handed_over = handed_over.expect("the hand-over is there");
    assert_eq!(handed_over["why"], "handed over");
    let taken = of(&two, "changed")[0].clone();
    assert_eq!((&taken["to"]["role"], &taken["cause"]), (&"primary".into(), &"operator".into()));
    assert!(taken["roots"]["db"].is_string(), "{taken}");
    assert_eq!(taken["roots"], handed_over["roots"], "the standby had everything");

    // Killed, it is all there; newest first, and no more than asked for. The old primary of an epoch met a newer one.
    two.kill();
    nodes.assume(&one, "primary", 3).ok();
    let mut two = nodes.start(1);
    nodes.becomes(&two, "standby", 3);
    let newest = nodes.cluster(&two, &["history", "-n", "1", "--json"]).json_lines();
    assert_eq!(newest.len(), 1);
    assert_eq!((&newest[0]["cause"], &newest[0]["to"]["epoch"]), (&"peer".into(), &3.into()));
    assert_eq!(newest[0]["node"], nodes.status(&one)["node"]);
    let words = of(&two, "started").len();
    assert_eq!(words, 2, "two starts");
    assert!(of(&two, "changed").contains(&taken), "what was noted stays");
    let plain = nodes.cluster(&two, &["history"]).ok();
    assert!(
        plain.lines().next().unwrap().contains("primary at epoch 2 -> standby at epoch 3\tpeer"),
        "{plain}"
    );
    assert!(two.log().contains("the standing of this node changed"), "{}", two.log());

    // A tail that a crash damaged is told of, and hides nothing else.
    two.kill();
    let path = nodes.sandbox.path("two/cluster.history");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.truncate(bytes.len() - 10);
    std::fs::write(&path, bytes).unwrap();
    let two = nodes.start(1);
    let read = nodes.cluster(&two, &["history", "--json"]);
    assert!(read.stderr.contains("damaged or cut off"), "{}", read.stderr);
    assert!(read.json_lines().contains(&taken));
}

#[test]
fn an_epoch_that_is_not_believed_is_an_alarm_in_the_history_once() {
    let nodes = Nodes::new(2, "");
    let (one, two) = (nodes.start(0), nodes.start(1));
    nodes.assume(&two, "standby", 1 << 40).ok();
    let alarms = || -> Vec<Value> {
        nodes.history(&one).into_iter().filter(|entry| entry["event"] == "alarm").collect()
    };
    let alarm = eventually("the alarm is there", || alarms().first().cloned());
    assert_eq!((&alarm["cause"], &alarm["node"]), (&"peer".into(), &nodes.status(&two)["node"]));
    assert!(alarm["why"].as_str().unwrap().contains("it is not believed"), "{alarm}");
    assert_eq!(nodes.role(&one), ("primary".into(), 1));
    // It meets the other one again and again.
    let tries = one.log().matches("replication to a standby was interrupted").count();
    eventually("they met again", || {
        (one.log().matches("replication to a standby was interrupted").count() > tries).then_some(())
    });
    assert_eq!(alarms().len(), 1);
}

#[test]
fn the_history_names_the_user_who_asked_and_metrics_count_the_changes() {
    let nodes = Nodes::new(2, "");
    let new = nodes.sandbox.run(&["token", "new", "ada", "--json"]).json();
    let (token, hash) = (new["token"].as_str().unwrap(), new["token_hash"].as_str().unwrap());
    nodes.sandbox.write(
        "users.yaml",
        &format!(
            "users:\n  - {{name: ada, token_hash: \"{hash}\", grants: [{{database: \"*\", refs: \"*\", allow: admin}}]}}\n\
             \x20 - {{name: bob, token_hash: \"{hash}\", grants: [{{database: db, refs: \"*\", allow: admin}}]}}\n"
        )
        .replacen(&format!("bob, token_hash: \"{hash}\""), &format!("bob, token_hash: \"blake3:{}\"", "0".repeat(64)), 1),
    );
    nodes.sandbox.write("token", token);
    let metrics = free_port();
    nodes.configure(1, &format!("users_file: users.yaml\nmetrics: {{host: 127.0.0.1, port: {metrics}}}\n"));
    let two = nodes.start(1);
    let run = |args: &[&str]| {
        let url = two.url();
        nodes.sandbox.run(&[&["--server", &url, "--token-file", "token", "cluster"], args].concat())
    };
    nodes.cluster(&two, &["history"]).fails(5);
    run(&["assume-role", "standby", "7"]).ok();
    let newest = run(&["history", "-n", "1", "--json"]).json_lines().remove(0);
    assert_eq!((&newest["by"], &newest["cause"]), (&"ada".into(), &"operator".into()));
    let (_, scraped) = crate::metrics::get(metrics, "/metrics");
    assert!(scraped.contains("\npleach_role_changes_total 1"), "{scraped}");
    assert!(scraped.contains("\npleach_role_changed_timestamp_seconds "), "{scraped}");
}

/// Passes bytes on to `port`, and, of each connection, not more than `limit` back: whoever called then hears nothing, and nothing ends. Gives the port where.
fn falls_silent(port: u16, limit: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = listener.local_addr().unwrap().port();
    let pass = |mut from: TcpStream, mut to: TcpStream, mut left: usize| {
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                if length > left {
                    std::thread::park();
                }
                left -= length;
                if to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
    };
    std::thread::spawn(move || {
        for caller in listener.incoming().map_while(Result::ok) {
            let Ok(called) = TcpStream::connect(("127.0.0.1", port)) else { continue };
            pass(caller.try_clone().unwrap(), called.try_clone().unwrap(), usize::MAX);
            pass(called, caller, limit);
        }
    });
    here
}

#[test]
fn a_primary_listens_though_the_standby_that_gives_it_back_what_it_lost_falls_silent() {
    let nodes = Nodes::new(2, "  ack: {count: 1, timeout: 10s, on_timeout: error}\n");
    let (mut one, two) = (nodes.start(0), nodes.start(1));
    nodes.create(&one);
    nodes.put(&one, "a").ok();
    one.stop();
    let (disk, before) = (nodes.sandbox.path("one"), nodes.sandbox.path("before"));
    pleach_tests::script::copy_dir(&disk, &before);
    let mut one = nodes.start(0);
    let mut seed = 1_u64;
    let mut rows = String::from("k,v\n");
    for row in 0..40_000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        rows.push_str(&format!("{row},{:016x}{seed:016x}\n", seed ^ (seed >> 31)));
    }
    nodes.sandbox.write("big.csv", &rows);
    let imported =
        || nodes.sandbox.run(&one.args("db", &["import", "big", "big.csv", "--key", "k"])).status == 0;
    eventually("the rows are there", || imported().then_some(()));
    one.kill();
    std::fs::remove_dir_all(&disk).unwrap();
    pleach_tests::script::copy_dir(&before, &disk);

    let direct = std::fs::read_to_string(nodes.sandbox.path("one.yaml")).unwrap();
    let metrics = free_port();
    let by_relay = direct.replace(
        &format!("127.0.0.1:{}/", nodes.ports[1]),
        &format!("127.0.0.1:{}/", falls_silent(nodes.ports[1], 200_000)),
    );
    assert_ne!(by_relay, direct);
    let by_relay = format!("metrics: {{host: 127.0.0.1, port: {metrics}}}\n{by_relay}");
    nodes.sandbox.write("one.yaml", &by_relay);

    // A signal counts before it listens, too.
    let log = std::fs::File::create(nodes.sandbox.path("one.log")).unwrap();
    let mut command = nodes.sandbox.command(&["serve", "--config", "one.yaml"]);
    let mut starting = command.stdout(std::process::Stdio::null()).stderr(log).spawn().unwrap();
    let said = || std::fs::read_to_string(nodes.sandbox.path("one.log")).unwrap();
    eventually("its peers are served", || said().contains("peers are served").then_some(()));
    let term = ["-TERM", &starting.id().to_string()];
    assert!(std::process::Command::new("kill").args(term).status().unwrap().success());
    let ended = eventually("it ends", || starting.try_wait().unwrap());
    assert!(ended.success() && !said().contains("listening on"), "{ended}: {}", said());

    let begun = Instant::now();
    let mut one = nodes.start(0);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!(nodes.keys(&one), ["a"]);
    let refused = nodes.put(&one, "b").fails(5);
    assert!(refused.contains("gets them back") && refused.contains("`two` has more of `db`"), "{refused}");
    let status = nodes.status(&one);
    assert_eq!((&status["role"], &status["takes_writes"]), (&"primary".into(), &false.into()));
    assert!(status["warnings"].to_string().contains("`two` has more of `db`"), "{status}");
    let (_, scraped) = crate::metrics::get(metrics, "/metrics");
    assert!(scraped.contains("\npleach_takes_writes 0"), "{scraped}");
    assert_eq!(crate::metrics::get(metrics, "/role?is=primary").0, 503);
    let begun = Instant::now();
    assert_eq!(one.stop(), 0);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());

    nodes.sandbox.write("one.yaml", &direct);
    let one = nodes.start(0);
    eventually("the primary takes writes", || (nodes.put(&one, "b").status == 0).then_some(()));
    assert_eq!(nodes.sandbox.run(&one.args("db", &["export", "big"])).ok().lines().count(), 40_001);
    nodes.caught_up(&two, &["a", "b"]);
}

#[test]
fn a_primary_that_waits_for_others_says_for_whom_and_why() {
    let nodes = Nodes::new(3, "  ack: {count: 1, timeout: 10s, on_timeout: error}\n");
    let (mut one, two, mut three) = (nodes.start(0), nodes.start(1), nodes.start(2));
    nodes.create(&one);
    nodes.put(&one, "a").ok();
    nodes.caught_up(&two, &["a"]);
    one.kill();
    three.kill();
    let refused = nodes.assume(&two, "primary", 2);
    assert!(refused.status != 0 && refused.stderr.contains("0 of the 1 other nodes"), "{}", refused.stderr);
    for name in ["one", "three"] {
        let said = format!("`{name}` does not answer as it should (");
        assert!(refused.stderr.contains(&said), "{}", refused.stderr);
        assert!(nodes.put(&two, "b").fails(5).contains(&said));
        assert!(nodes.status(&two)["warnings"].to_string().contains(&said));
    }
    let one = nodes.start(0);
    eventually("it takes writes", || (nodes.put(&two, "b").status == 0).then_some(()));
    assert!(!nodes.status(&two)["warnings"].to_string().contains("does not answer"));
    nodes.caught_up(&one, &["a", "b"]);
}

#[test]
fn what_was_set_aside_when_a_database_was_dropped_stands_in_the_status_with_its_bytes() {
    let nodes = Nodes::new(2, "");
    let (one, mut two) = (nodes.start(0), nodes.start(1));
    nodes.create(&one);
    nodes.put(&one, "a").ok();
    nodes.caught_up(&two, &["a"]);
    assert!(!nodes.status(&two)["warnings"].to_string().contains("db.dropped"));
    // What it had when it was started again is not in the next change, and is kept under recovery/.
    two.stop();
    nodes.put(&one, "b").ok();
    let two = nodes.start(1);
    nodes.caught_up(&two, &["a", "b"]);
    nodes.sandbox.run(&["--server", &one.url(), "database", "drop", "db"]).ok();
    let aside = nodes.sandbox.path("two").join("db.dropped");
    eventually("it is set aside", || aside.exists().then_some(()));
    let bytes: u64 = std::fs::read_dir(&aside)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap())
        .filter(std::fs::Metadata::is_file)
        .map(|file| file.len())
        .sum();
    let said = format!("db.dropped keeps {bytes} bytes");
    let warnings = nodes.status(&two)["warnings"].to_string();
    assert!(bytes > 0 && warnings.contains(&said), "{said}: {warnings}");
    std::fs::remove_dir_all(&aside).unwrap();
    assert!(!nodes.status(&two)["warnings"].to_string().contains("db.dropped"));
}

/// A drill on a pair, as `--json` tells of it.
fn drill(nodes: &Nodes, primary: &Server, standby: &Server, more: &[&str]) -> Run {
    let url = standby.url();
    nodes.cluster(primary, &[&["drill", "--standby", &url, "--json"], more].concat())
}

#[test]
fn a_drill_switches_there_and_back_and_reports_what_it_took() {
    let nodes = Nodes::new(2, "  ack: {count: 1, on_timeout: error}\n");
    let (one, two) = (nodes.start(0), nodes.start(1));
    nodes.create(&one);
    nodes.put(&one, "a").ok();
    nodes.caught_up(&two, &["a"]);
    let report = drill(&nodes, &one, &two, &[]).json();
    let switches = report["switches"].as_array().unwrap();
    assert_eq!(switches.len(), 2);
    for (switch, (from, to, epoch)) in switches.iter().zip([(&one, &two, 2), (&two, &one, 3)]) {
        assert_eq!((&switch["from"], &switch["to"]), (&from.url().into(), &to.url().into()));
        assert_eq!(switch["epoch"], epoch);
        let steps = ["handed_over_millis", "assumed_millis", "writable_millis", "caught_up_millis"];
        let steps = steps.map(|step| switch[step].as_u64().unwrap());
        assert!(steps.is_sorted() && steps[3] > 0, "{switch}");
        assert!((1..=steps[3]).contains(&switch["without_writable_millis"].as_u64().unwrap()), "{switch}");
    }
    assert!(report["acknowledged"].as_u64().unwrap() > 10, "{report}");
    assert_eq!((&report["lost"], &report["databases_equal"]), (&0.into(), &2.into()));
    assert_eq!(report["databases_not_equal"], serde_json::json!([]));
    assert_eq!((nodes.role(&one), nodes.role(&two)), (("primary".into(), 3), ("standby".into(), 3)));

    // Without writes, and again: the roles are what they were.
    let report = drill(&nodes, &one, &two, &["--no-writes"]).json();
    assert_eq!((&report["probe"], &report["acknowledged"]), (&"none".into(), &Value::Null));
    assert_eq!(nodes.role(&one), ("primary".into(), 5));
    let plain = nodes.cluster(&one, &["drill", "--standby", &two.url()]).ok();
    assert!(plain.contains("without a writable node") && plain.contains(", 0 lost, "), "{plain}");
}

#[test]
fn a_drill_does_not_begin_unless_both_nodes_are_well() {
    let nodes = Nodes::new(3, "");
    let (one, two, mut three) = (nodes.start(0), nodes.start(1), nodes.start(2));
    nodes.create(&one);
    nodes.put(&one, "a").ok();
    nodes.caught_up(&two, &["a"]);
    nodes.caught_up(&three, &["a"]);
    let refused = |primary: &Server, standby: &Server, why: &str| {
        let said = drill(&nodes, primary, standby, &[]).fails(1);
        assert!(said.contains("the drill does not begin") && said.contains(why), "{said}");
        assert!(said.contains("nothing was changed"), "{said}");
        assert_eq!((nodes.role(&one), nodes.role(&two)), (("primary".into(), 1), ("standby".into(), 1)));
    };
    refused(&two, &one, "--server names the primary");
    refused(&one, &one, "are one node");
    three.kill();
    nodes.put(&one, "b").ok();
    refused(&one, &two, "three of `db`");
    assert_eq!(nodes.keys(&two), ["a", "b"]);
}

#[test]
fn a_drill_that_fails_says_where_things_stand_and_what_to_run() {
    let nodes = Nodes::new(2, "");
    let (one, two) = (nodes.start(0), nodes.start(1));
    nodes.create(&one);
    nodes.put(&one, "a").ok();
    nodes.caught_up(&two, &["a"]);
    let (first, second) = (one.url(), two.url());
    let command = ["--server", &first, "cluster", "drill", "--standby", &second].map(str::to_owned);
    let mut drill = nodes.sandbox.command(&command);
    let mut drill =
        drill.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    // It is told to stop once it has begun, at whatever step that is.
    eventually("the first switch is under way", || {
        (nodes.role(&two).1 > 1 || nodes.role(&one).1 > 1).then_some(())
    });
    let interrupted =
        std::process::Command::new("kill").args(["-INT", &drill.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let output = drill.wait().map(|_| ()).and_then(|()| drill.wait_with_output()).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    if output.status.success() {
        return; // It was at its end.
    }
    assert!(said.contains("the drill ended early: interrupted"), "{said}");
    assert!(said.contains(&format!("{first} is ")) && said.contains(&format!("{second} is ")), "{said}");
    // What it says to run makes the first one primary again.
    let hint = said.split("hint: ").nth(1).unwrap();
    for command in hint.split('`').skip(1).step_by(2).filter(|command| command.contains("assume-role")) {
        let words: Vec<&str> = command.split(' ').skip(1).collect();
        nodes.sandbox.run(&words).ok();
    }
    assert_eq!(nodes.role(&one).0, "primary", "{said}");
    nodes.put(&one, "b").ok();
}
