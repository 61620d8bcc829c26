//! Who takes whose changes.

use std::time::Duration;

use pleach_tests::{Sandbox, Server, eventually, free_port};

use super::{Nodes, role};

fn becomes(nodes: &Nodes, server: &Server, expected: (&str, u64)) {
    eventually(&format!("it is {expected:?}"), || {
        (role(&nodes.status(server)) == (expected.0.to_owned(), expected.1)).then_some(())
    });
}

#[test]
fn c3_a_database_that_is_made_or_cloned_is_on_the_standby() {
    let nodes = Nodes::pair();
    let config = std::fs::read_to_string(nodes.sandbox.path("one.yaml")).unwrap();
    nodes.sandbox.write("one.yaml", &format!("remotes_allowed: [\"file:///\"]\n{config}"));
    let (one, two) = (nodes.start(0), nodes.start(1));
    nodes.create(&one);
    eventually("the empty database is on the standby", || {
        let listed = nodes.sandbox.run(&["--server", &two.url(), "database", "list"]).ok();
        listed.contains("db").then_some(())
    });
    nodes.sandbox.run(&["init", "local"]).ok();
    nodes.sandbox.run(&["-C", "local", "put", "t", "k", "v"]).ok();
    nodes.sandbox.run(&["-C", "local", "commit", "-m", "cloned"]).ok();
    let url = format!("file://{}", nodes.sandbox.path("shared").display());
    nodes.sandbox.run(&["-C", "local", "remote", "add", "origin", &url]).ok();
    nodes.sandbox.run(&["-C", "local", "push"]).ok();
    nodes.sandbox.run(&["--server", &one.url(), "database", "clone", &url, "copy"]).ok();
    eventually("the clone is on the standby", || {
        let log = nodes.sandbox.run(&two.args("copy", &["log"])).stdout;
        log.contains("cloned").then_some(())
    });
    eventually("each has a row without error", || {
        let status = nodes.status(&one);
        let rows = status["databases"].as_array()?;
        let good =
            |name: &str| rows.iter().any(|row| row["database"] == name && row["replication_lag_millis"] == 0);
        (good("db") && good("copy")).then_some(())
    });
}

#[test]
fn c4_databases_older_than_the_cluster_and_a_new_standby_catch_up() {
    let mut nodes = Nodes::pair();
    nodes.sandbox.run(&["init", "one/db"]).ok();
    nodes.sandbox.run(&["-C", "one/db", "put", "t", "a", "v"]).ok();
    nodes.sandbox.run(&["-C", "one/db", "commit", "-m", "before the cluster"]).ok();
    nodes.sandbox.run(&["-C", "one/db", "put", "t", "b", "v"]).ok();
    let (mut one, two) = (nodes.start(0), nodes.start(1));
    nodes.caught_up(&two, &["a", "b"]);
    assert!(nodes.sandbox.run(&two.args("db", &["log"])).ok().contains("before the cluster"));
    // One more node.
    nodes.ports.push(free_port());
    nodes.configure(0, "primary", 1);
    nodes.configure(2, "standby", 1);
    let three = nodes.start(2);
    one.stop();
    let one = nodes.start(0);
    nodes.put(&one, "c").ok();
    nodes.caught_up(&three, &["a", "b", "c"]);
    nodes.caught_up(&two, &["a", "b", "c"]);
}

#[test]
fn c8_a_primary_takes_no_changes_of_a_primary_below_it() {
    let nodes = Nodes::pair();
    nodes.configure(0, "primary", 5);
    nodes.configure(1, "primary", 1);
    let mut two = nodes.start(1);
    nodes.create(&two);
    nodes.put(&two, "theirs").ok();
    nodes.sandbox.run(&["--server", &two.url(), "database", "create", "other"]).ok();
    let one = nodes.start(0);
    nodes.create(&one);
    nodes.put(&one, "mine").ok();
    becomes(&nodes, &two, ("standby", 5));
    nodes.caught_up(&two, &["mine"]);
    assert_eq!(role(&nodes.status(&one)), ("primary".into(), 5));
    assert_eq!(nodes.keys(&one), ["mine"]);
    let listed = nodes.sandbox.run(&["--server", &one.url(), "database", "list"]).ok();
    assert_eq!(listed.trim(), "db", "nothing of the other came here");
    two.stop();
    assert!(!nodes.recovered(1).is_empty(), "what it had is kept there");
}

#[test]
fn c9_what_a_standby_does_goes_to_no_standby_of_its_own() {
    let nodes = Nodes::new(3, "");
    nodes.configure_with(0, "primary", 1, &[1]);
    nodes.configure_with(1, "standby", 1, &[0, 2]);
    nodes.configure_with(2, "standby", 1, &[1]);
    let (one, two, three) = (nodes.start(0), nodes.start(1), nodes.start(2));
    nodes.create(&one);
    nodes.put(&one, "a").ok();
    nodes.caught_up(&two, &["a"]);
    for key in ["a", "b", "c"] {
        nodes.put(&one, key).ok();
        nodes.sandbox.run(&two.args("db", &["gc"])).ok();
    }
    nodes.caught_up(&two, &["a", "b", "c"]);
    nodes.assume(&two, "standby", 3).ok();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(nodes.sandbox.run(&["--server", &three.url(), "database", "list"]).ok(), "");
    assert_eq!(role(&nodes.status(&three)), ("standby".into(), 1), "not even its epoch");
    let row = &nodes.status(&two)["databases"][1];
    assert!(row["replication_lag_millis"].is_null() && row["current_error"].is_null(), "{row}");
}

#[test]
fn c20_a_primary_that_a_higher_one_replicates_to_takes_that_state() {
    let nodes = Nodes::pair();
    nodes.configure(0, "primary", 10);
    nodes.configure(1, "primary", 15);
    let mut one = nodes.start(0);
    nodes.create(&one);
    nodes.put(&one, "old").ok();
    let two = nodes.start(1);
    nodes.create(&two);
    nodes.put(&two, "new").ok();
    becomes(&nodes, &one, ("standby", 15));
    nodes.caught_up(&one, &["new"]);
    nodes.put(&one, "x").fails(5);
    assert_eq!(role(&nodes.status(&two)), ("primary".into(), 15));
    one.stop();
    assert!(!nodes.recovered(0).is_empty(), "what it had is kept");
}

#[test]
fn c22_a_third_primary_of_the_epoch_is_broken_too() {
    let nodes = Nodes::new(3, "");
    (0..3).for_each(|node| nodes.configure(node, "primary", 1));
    let (one, two) = (nodes.start(0), nodes.start(1));
    for server in [&one, &two] {
        becomes(&nodes, server, ("detected_broken_config", 1));
    }
    let three = nodes.start(2);
    becomes(&nodes, &three, ("detected_broken_config", 1));
    for server in [&one, &two, &three] {
        nodes.put(server, "a").fails(5);
    }
    nodes.assume(&three, "primary", 2).ok();
    for server in [&one, &two] {
        becomes(&nodes, server, ("standby", 2));
    }
    nodes.create(&three);
    nodes.put(&three, "a").ok();
    nodes.caught_up(&one, &["a"]);
    nodes.caught_up(&two, &["a"]);
}

#[test]
fn c24_a_standby_never_becomes_primary_by_itself() {
    let nodes = Nodes::new(3, "");
    let mut servers = [nodes.start(0), nodes.start(1), nodes.start(2)];
    nodes.create(&servers[0]);
    let mut keys = Vec::new();
    for round in 0..12 {
        let node = [0, 1, 0, 2][round % 4];
        match round % 3 {
            0 => servers[node].kill(),
            1 => drop(servers[node].stop()),
            _ => {
                servers[node].signal("STOP");
                std::thread::sleep(Duration::from_millis(300));
                servers[node].signal("CONT");
            }
        }
        for standby in [1, 2].into_iter().filter(|standby| *standby != node) {
            assert_eq!(role(&nodes.status(&servers[standby])), ("standby".into(), 1));
            nodes.put(&servers[standby], "x").fails(5);
        }
        if round % 3 != 2 {
            servers[node] = nodes.start(node);
        }
        keys.push(format!("{round:02}"));
        let key = &keys[keys.len() - 1];
        eventually("the primary takes writes", || (nodes.put(&servers[0], key).status == 0).then_some(()));
    }
    let expected: Vec<&str> = keys.iter().map(String::as_str).collect();
    for standby in [1, 2] {
        nodes.caught_up(&servers[standby], &expected);
        assert_eq!(role(&nodes.status(&servers[standby])), ("standby".into(), 1));
    }
    assert_eq!(role(&nodes.status(&servers[0])), ("primary".into(), 1));
}

#[test]
fn c25_a_primary_below_the_epoch_of_its_standby_is_fenced_and_steps_down() {
    let nodes = Nodes::pair();
    let (one, two) = (nodes.start(0), nodes.start(1));
    nodes.create(&one);
    nodes.put(&one, "a").ok();
    nodes.caught_up(&two, &["a"]);
    // It is cut off, while its standby is raised.
    one.signal("STOP");
    nodes.assume(&two, "standby", 2).ok();
    one.signal("CONT");
    // Its next change is refused, or it hears so before.
    let _ = nodes.put(&one, "b");
    becomes(&nodes, &one, ("standby", 1));
    nodes.put(&one, "c").fails(5);
    assert_eq!(role(&nodes.status(&two)), ("standby".into(), 2));
    assert_eq!(nodes.keys(&two), ["a"]);
}

#[test]
fn each_bad_setting_of_drops_users_cascade_and_pins_is_refused() {
    let sandbox = Sandbox::new();
    let remote = "standby_remotes: [{name: s, remote_url_template: \"http://127.0.0.1:1/{database}\"}]";
    for (setting, said) in [
        ("replicate_drops: perhaps", "c.yaml:3:20"),
        ("replicate_users: 1", "c.yaml:3:20"),
        ("cascade: up", "c.yaml:3:12"),
        ("standby_pin_max: much", "cluster.standby_pin_max"),
        ("standby_pins_max: 1GiB", "did you mean `standby_pin_max`"),
    ] {
        sandbox.write("c.yaml", &format!("cluster:\n  {remote}\n  {setting}\n"));
        let refused = sandbox.run(&["serve", "--config", "c.yaml", "--check"]).fails(2);
        assert!(refused.contains(said), "{setting}: {refused}");
    }
}
