//! What those see who watch a server: metrics, health, readiness, role. Each condition that an alert of `monitoring/alerts.yaml` is about shows in the metrics of real servers.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use pleach_tests::{Sandbox, Server, eventually, free_port};
use serde_json::json;

/// What a server answers to `GET`: the status and the body.
pub(crate) fn get(port: u16, path: &str) -> (u16, String) {
    get_as(port, path, "*/*")
}

fn get_as(port: u16, path: &str, accept: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The samples of `/metrics`, by name and labels as they are written.
fn samples(port: u16) -> BTreeMap<String, f64> {
    let (status, text) = get(port, "/metrics");
    assert_eq!(status, 200, "{text}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

/// Waits until a sample is as expected.
fn until(port: u16, sample: &str, expected: impl Fn(f64) -> bool) -> f64 {
    eventually(sample, || samples(port).get(sample).copied().filter(|value| expected(*value)))
}

fn create(sandbox: &Sandbox, server: &Server, name: &str) {
    sandbox.run(&["--server", &server.url(), "database", "create", name]).ok();
}

/// A server with the databases of `name`, whose configuration goes on with `rest`; and the port of its metrics.
fn watched(sandbox: &Sandbox, name: &str, rest: &str) -> (Server, u16) {
    let port = free_port();
    let config = format!(
        "data_dir: {name}\nlistener: {{port: 0}}\nmetrics: {{host: 127.0.0.1, port: {port}}}\n{rest}\n"
    );
    sandbox.write(&format!("{name}.yaml"), &config);
    (sandbox.serve(&["--config", &format!("{name}.yaml")]), port)
}

#[test]
fn d1_a_server_shows_that_it_lives_is_ready_and_which_role_it_has() {
    let sandbox = Sandbox::new();
    let (mut server, port) = watched(&sandbox, "data", "");
    assert_eq!(get(port, "/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(get(port, "/readyz"), (200, "ready\n".to_owned()));
    assert_eq!(get(port, "/role"), (200, "primary\n".to_owned()));
    assert_eq!(get(port, "/role?is=primary"), (200, "primary\n".to_owned()));
    assert_eq!(get(port, "/role?is=standby"), (503, "primary\n".to_owned()));
    assert_eq!(get(port, "/role?is=king").0, 400);
    assert_eq!(get(port, "/role?primary").0, 400);
    assert_eq!(get(port, "/elsewhere").0, 404);
    let found = samples(port);
    assert_eq!(found["pleach_role{role=\"primary\"}"], 1.0);
    assert_eq!(found["pleach_role{role=\"detected_broken_config\"}"], 0.0);
    assert!(!found.contains_key("pleach_epoch"), "it is in no cluster");
    // A port that is taken is said to be, before anything is served.
    sandbox.write(
        "second.yaml",
        &format!("data_dir: other\nlistener: {{port: 0}}\nmetrics: {{port: {port}}}\n"),
    );
    let refused = sandbox.run(&["serve", "--config", "second.yaml"]).fails(1);
    assert!(refused.contains("metrics in the configuration"), "{refused}");
    assert_eq!(server.stop(), 0);
    // Off unless it is asked for.
    let without = sandbox.serve(&["--data-dir", "data", "--listen", "127.0.0.1:0", "--log", "info"]);
    assert!(!without.log().contains("metrics"), "{}", without.log());
}

#[test]
fn metrics_count_calls_and_show_databases_that_are_in_use() {
    let sandbox = Sandbox::new();
    let (mut server, _) = watched(&sandbox, "data", "");
    create(&sandbox, &server, "shop");
    create(&sandbox, &server, "idle");
    assert_eq!(server.stop(), 0);
    let (server, port) = watched(&sandbox, "data", "");
    assert_eq!(samples(port)["pleach_databases_open"], 0.0);
    let shop = |args: &[&str]| sandbox.run(&server.args("shop", args));
    shop(&["put", "t", "a", "1"]).ok();
    shop(&["put", "t", "b", "2"]).ok();
    shop(&["get", "t", "a"]).ok();
    shop(&["get", "t", "absent"]).fails(1);
    shop(&["commit", "-m", "one"]).ok();
    sandbox.run(&["clone", &server.database("shop"), "clone"]).ok();
    let found = samples(port);
    let count = |method: &str, outcome: &str| {
        found[&format!("pleach_requests_total{{method=\"pleach.{method}\",outcome=\"{outcome}\"}}")]
    };
    assert_eq!(count("data.v1.Data/Put", "ok"), 2.0);
    assert_eq!((count("data.v1.Data/Get", "ok"), count("data.v1.Data/Get", "not_found")), (1.0, 1.0));
    assert_eq!(count("sync.v1.Sync/Fetch", "ok"), 1.0);
    let of_put = |what: &str| found[&format!("pleach_request_{what}{{method=\"pleach.data.v1.Data/Put\"}}")];
    assert_eq!(of_put("duration_seconds_count"), 2.0);
    assert!(of_put("duration_seconds_sum") > 0.0 && of_put("received_bytes_total") > 10.0);
    assert!(found["pleach_request_sent_bytes_total{method=\"pleach.sync.v1.Sync/Fetch\"}"] > 100.0);
    assert_eq!(found["pleach_requests_running"], 0.0);
    let of_shop = |what: &str| found[&format!("pleach_database_{what}{{database=\"shop\"}}")];
    assert!(of_shop("sequence") >= 3.0 && of_shop("refs") >= 2.0 && of_shop("journal_bytes") > 100.0);
    assert!(of_shop("fsyncs_total") >= 2.0 && of_shop("written_bytes_total") > 100.0);
    assert_eq!((of_shop("busy"), of_shop("poisoned"), of_shop("compaction_failed")), (0.0, 0.0, 0.0));
    assert!(!found.keys().any(|name| name.contains("idle")), "what nobody used is not opened");
    // In the format that is asked for; a counter is called otherwise in each.
    let (open, older) = (get_as(port, "/metrics", "application/openmetrics-text").1, get(port, "/metrics").1);
    assert!(open.contains("# TYPE pleach_requests counter\n") && open.ends_with("\n# EOF\n"), "{open}");
    assert!(older.contains("# TYPE pleach_requests_total counter\n") && !older.contains("EOF"), "{older}");
    assert!(older.contains("# HELP pleach_requests_total Calls"), "{older}");
    // A row more is a sequence more.
    shop(&["put", "t", "c", "3"]).ok();
    assert!(samples(port)["pleach_database_sequence{database=\"shop\"}"] > of_shop("sequence"));
}

#[test]
fn d3_pushes_that_do_not_get_through_show_in_the_metrics_and_in_stats() {
    let sandbox = Sandbox::new();
    sandbox.run(&["init", "data/shop"]).ok();
    let remote = format!("file://{}", sandbox.path("remote").display());
    sandbox.run(&["-C", "data/shop", "remote", "add", "origin", &remote]).ok();
    let (server, port) = watched(&sandbox, "data", "replication: {replicate_to_remote: origin}");
    let run = |args: &[&str]| sandbox.run(&server.args("shop", args));
    let push = |what: &str| format!("pleach_push_{what}{{database=\"shop\",remote=\"origin\"}}");
    run(&["put", "t", "a", "1"]).ok();
    run(&["commit", "-m", "one"]).ok();
    let pushed = samples(port);
    assert_eq!((pushed[&push("error")], pushed[&push("backlog_refs")]), (0.0, 0.0));
    assert_eq!((pushed[&push("lag_seconds")], pushed[&push("lag_commits")]), (0.0, 0.0));
    assert!(pushed[&push("total")] >= 1.0 && pushed[&push("sent_bytes_total")] > 100.0);
    assert!(pushed[&push("last_success_timestamp_seconds")] > 1.7e9);
    // The remote is away, and something else in its place.
    std::fs::rename(sandbox.path("remote"), sandbox.path("away")).unwrap();
    sandbox.write("remote", "no directory");
    for number in ["two", "three"] {
        run(&["put", "t", "a", number]).ok();
        run(&["commit", "-m", number]).ok();
    }
    until(port, &push("error"), |error| error == 1.0);
    until(port, &push("lag_commits"), |commits| commits == 2.0);
    let behind = samples(port);
    assert_eq!(behind[&push("backlog_refs")], 1.0);
    assert!(behind[&push("lag_seconds")] > 0.0 && behind[&push("failures_total")] >= 1.0);
    assert_eq!(behind["pleach_replication_warnings_total{database=\"shop\"}"], 2.0);
    until(port, &push("lag_seconds"), |lag| lag > behind[&push("lag_seconds")]);
    let all = sandbox.run(&["--server", &server.url(), "stats", "--json"]).json();
    let one = &all["replication"][0];
    assert_eq!(
        (&one["database"], &one["remote"], &one["direction"]),
        (&json!("shop"), &json!("origin"), &json!("push"))
    );
    assert_eq!((&one["lag_commits"], &one["backlog"]), (&json!(2), &json!(1)));
    let bytes = one["lag_bytes"].as_u64().unwrap();
    assert!((1..4000).contains(&bytes), "two commits of a row each: {bytes}");
    assert!(one["lag_millis"].as_u64().unwrap() > 0 && one["current_error"].is_string(), "{one}");
    let plain = run(&["stats"]).ok();
    assert!(
        plain.contains("shop\tpush origin\tlag ")
            && plain.contains("2 commits, ")
            && plain.contains(" bytes, 1 ref to push"),
        "{plain}"
    );
    // It returns.
    std::fs::remove_file(sandbox.path("remote")).unwrap();
    std::fs::rename(sandbox.path("away"), sandbox.path("remote")).unwrap();
    until(port, &push("error"), |error| error == 0.0);
    let after = samples(port);
    assert_eq!(
        (after[&push("lag_seconds")], after[&push("lag_commits")], after[&push("backlog_refs")]),
        (0.0, 0.0, 0.0)
    );
}

#[test]
fn d3_a_replica_that_cannot_pull_shows_in_the_metrics() {
    let sandbox = Sandbox::new();
    let mut primary = sandbox.serve(&["--data-dir", "p", "--listen", "127.0.0.1:0"]);
    create(&sandbox, &primary, "shop");
    sandbox.run(&primary.args("shop", &["put", "t", "a", "1"])).ok();
    sandbox.run(&primary.args("shop", &["commit", "-m", "one"])).ok();
    sandbox.run(&["clone", &primary.database("shop"), "r/shop"]).ok();
    let settings = "replication: {read_replica_remote: origin, replicate_all_heads: true, refresh: 100ms}";
    let (replica, port) = watched(&sandbox, "r", settings);
    assert_eq!(get(port, "/role?is=replica"), (200, "replica\n".to_owned()));
    sandbox.run(&replica.args("shop", &["get", "t", "a"])).ok();
    let pull = |what: &str| format!("pleach_pull_{what}{{database=\"shop\",remote=\"origin\"}}");
    until(port, &pull("total"), |pulls| pulls >= 2.0);
    let fresh = samples(port);
    assert_eq!(fresh[&pull("error")], 0.0);
    assert!(
        fresh[&pull("staleness_seconds")] < 60.0 && fresh[&pull("last_success_timestamp_seconds")] > 1.7e9
    );
    primary.kill();
    until(port, &pull("error"), |error| error == 1.0);
    until(port, &pull("failures_total"), |failures| failures >= 1.0);
    until(port, &pull("staleness_seconds"), |age| age > 1.0);
    let stats = sandbox.run(&["--server", &replica.url(), "stats", "--json"]).json();
    assert_eq!(stats["replication"][0]["direction"], "pull");
    assert!(stats["replication"][0]["current_error"].is_string(), "{stats}");
}

/// Two nodes of a cluster that name each other, both with that role at epoch 1.
struct Pair {
    sandbox: Sandbox,
    cluster_ports: [u16; 2],
}

impl Pair {
    fn new() -> Pair {
        Pair { sandbox: Sandbox::new(), cluster_ports: [free_port(), free_port()] }
    }

    fn start(&self, node: usize, role: &str) -> (Server, u16) {
        let [own, peer] = [self.cluster_ports[node], self.cluster_ports[1 - node]];
        let cluster = format!(
            "cluster:\n  standby_remotes: [{{name: peer, remote_url_template: \"http://127.0.0.1:{peer}/{{database}}\"}}]\n  \
             bootstrap_role: {role}\n  remotesapi: {{address: 127.0.0.1, port: {own}}}\n"
        );
        watched(&self.sandbox, &format!("node-{node}"), &cluster)
    }
}

#[test]
fn d3_no_primary_unknown_and_growing_lag_and_errors_of_a_standby_show_in_the_metrics() {
    let pair = Pair::new();
    let (primary, port) = pair.start(0, "primary");
    create(&pair.sandbox, &primary, "shop");
    let of = |what: &str| format!("pleach_standby_{what}{{database=\"shop\",standby=\"peer\"}}");
    // The standby was never there: how far it is is unknown, and why is told.
    until(port, &of("error"), |error| error == 1.0);
    let alone = samples(port);
    assert_eq!((alone[&of("lag_known")], alone.get(&of("lag_seconds"))), (0.0, None));
    assert_eq!((alone["pleach_epoch"], alone["pleach_role{role=\"primary\"}"]), (1.0, 1.0));
    assert_eq!(alone["pleach_takes_writes"], 1.0);
    let (mut standby, standby_port) = pair.start(1, "standby");
    until(port, &of("lag_seconds"), |lag| lag == 0.0);
    until(port, &of("error"), |error| error == 0.0);
    assert!(samples(port)[&of("last_update_timestamp_seconds")] > 1.7e9);
    assert_eq!(get(standby_port, "/role"), (200, "standby\n".to_owned()));
    assert_eq!(get(standby_port, "/role?is=primary").0, 503);
    // A standby looks for what it has each second, and knows no lag.
    until(standby_port, &of("lag_known"), |is| is == 0.0);
    assert_eq!(samples(standby_port)["pleach_role{role=\"standby\"}"], 1.0);
    assert_eq!(samples(standby_port)["pleach_takes_writes"], 0.0);
    // It dies, and what is written lags more and more.
    standby.kill();
    pair.sandbox.run(&primary.args("shop", &["put", "t", "a", "1"])).ok();
    until(port, &of("error"), |error| error == 1.0);
    let lag = until(port, &of("lag_seconds"), |lag| lag > 0.0);
    until(port, &of("lag_seconds"), |later| later > lag);
    let stats = pair.sandbox.run(&["--server", &primary.url(), "stats", "--json"]).json();
    assert_eq!(
        (&stats["replication"][0]["direction"], &stats["replication"][0]["remote"]),
        (&json!("standby"), &json!("peer"))
    );
    // Nobody is primary.
    let (standby, standby_port) = pair.start(1, "standby");
    until(port, &of("lag_seconds"), |lag| lag == 0.0);
    pair.sandbox.run(&["--server", &primary.url(), "cluster", "assume-role", "standby", "2"]).ok();
    for port in [port, standby_port] {
        until(port, "pleach_role{role=\"primary\"}", |is| is == 0.0);
    }
    drop(standby);
}

#[test]
fn d3_a_broken_configuration_shows_in_the_metrics_of_both() {
    let pair = Pair::new();
    let (first, second) = (pair.start(0, "primary"), pair.start(1, "primary"));
    for (_, port) in [&first, &second] {
        until(*port, "pleach_role{role=\"detected_broken_config\"}", |is| is == 1.0);
        assert_eq!(get(*port, "/role?is=primary"), (503, "detected_broken_config\n".to_owned()));
        assert_eq!(get(*port, "/readyz").0, 200, "it serves reads");
    }
}

#[test]
fn a_backup_shows_in_the_metrics() {
    let sandbox = Sandbox::new();
    let share = format!("file://{}", sandbox.path("share").display());
    let (server, port) = watched(&sandbox, "data", &format!("remotes_allowed: ['{share}']"));
    create(&sandbox, &server, "shop");
    let sample = "pleach_backup_last_success_timestamp_seconds{of=\"server\"}";
    assert!(!samples(port).contains_key(sample));
    sandbox.run(&["--server", &server.url(), "backup", "sync", &format!("{share}/all")]).ok();
    assert!(samples(port)[sample] > 1.7e9);
}

/// The names of metrics that a text is about, as they are without `_total`, `_bucket`, `_sum` and `_count`.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("pleach_") && !word.ends_with('_'));
    let stem = |name: &str| {
        let ends = ["_total", "_bucket", "_sum", "_count"];
        ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name).to_owned()
    };
    names.map(stem).collect()
}

#[test]
fn every_metric_is_in_the_docs_and_every_alert_and_panel_is_about_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let source = read("server/src/metrics/exposition.rs");
    let known = names(
        &source
            .replace("pleach_engine", "")
            .replace("pleach_protocol", "")
            .replace("pleach_replication::", ""),
    );
    assert!(known.len() > 40, "{known:?}");
    let documented = names(&read("docs/monitoring.md"));
    assert_eq!(known, documented);
    for path in ["monitoring/alerts.yaml", "monitoring/alerts_test.yaml", "monitoring/grafana/pleach.json"] {
        let used = names(&read(path));
        let unknown: Vec<&String> = used.difference(&known).collect();
        assert!(unknown.is_empty() && used.len() > 5, "{path}: {unknown:?}");
    }
    let dashboard: serde_json::Value = serde_json::from_str(&read("monitoring/grafana/pleach.json")).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 5);
}
