//! A primary that restarts, and what its standbys have that it lost.

use std::time::Duration;

use pleach_tests::eventually;

use super::{Nodes, role};

#[test]
fn c36_a_primary_whose_disk_lost_what_was_acknowledged_gets_it_back_from_its_standby() {
    // Whatever was promised: what a standby has is not given up.
    for ack in ["count: 1, timeout: 10s, on_timeout: error", "count: 0"] {
        let nodes = Nodes::with_ack(2, ack);
        let (mut one, two) = (nodes.start(0), nodes.start(1));
        nodes.create(&one);
        nodes.put(&one, "a").ok();
        nodes.caught_up(&two, &["a"]);
        one.stop();
        let before = nodes.keep_disk(0);
        let mut one = nodes.start(0);
        let lost = nodes.put_for_token(&one, "b");
        nodes.sandbox.run(&one.args("db", &["commit", "-m", "lost"])).ok();
        nodes.sandbox.run(&one.args("db", &["tag", "v1"])).ok();
        eventually("the standby has it all", || {
            nodes.sandbox.run(&two.args("db", &["tag"])).stdout.contains("v1").then_some(())
        });
        one.kill();
        nodes.put_disk_back(0, &before);
        let one = nodes.start(0);
        let next = nodes.put_for_token(&one, "c");
        assert_eq!(nodes.keys(&one), ["a", "b", "c"], "{ack}: {}", one.log());
        assert!(nodes.sandbox.run(&one.args("db", &["log"])).ok().contains("lost"));
        assert!(nodes.sandbox.run(&one.args("db", &["tag"])).ok().contains("v1"));
        // Readers with a token of what was lost, or of what came after, are told right.
        assert_eq!(next.0, lost.0, "the epoch is the same");
        assert!(next.1 > lost.1, "and so no number is given twice: {next:?} after {lost:?}");
        nodes.caught_up(&two, &["a", "b", "c"]);
        assert_eq!(role(&nodes.status(&one)), ("primary".into(), 1));
        assert_eq!(role(&nodes.status(&two)), ("standby".into(), 1));
        drop(two);
        assert!(nodes.recovered(1).is_empty(), "nothing of the standby was replaced");
    }
}

#[test]
fn c36_a_whole_database_that_was_lost_comes_back_and_what_the_standby_never_had_is_kept() {
    let nodes = Nodes::with_ack(2, "count: 1, timeout: 10s, on_timeout: warn");
    let (mut one, mut two) = (nodes.start(0), nodes.start(1));
    nodes.create(&one);
    nodes.put(&one, "a").ok();
    one.stop();
    let before = nodes.keep_disk(0);
    let mut one = nodes.start(0);
    nodes.sandbox.run(&["--server", &one.url(), "database", "create", "later"]).ok();
    nodes.sandbox.run(&one.args("later", &["put", "t", "k", "v"])).ok();
    nodes.put(&one, "b").ok();
    nodes.put(&one, "bb").ok();
    one.kill();
    two.stop();
    // Back at its old state, and alone: what it writes now, after it waited, the standby never has.
    nodes.put_disk_back(0, &before);
    let mut one = nodes.start(0);
    nodes.put(&one, "own").ok();
    one.kill();
    let two = nodes.start(1);
    let one = nodes.start(0);
    eventually("the primary takes writes", || (nodes.put(&one, "c").status == 0).then_some(()));
    assert_eq!(nodes.keys(&one), ["a", "b", "bb", "c"], "{}", one.log());
    assert_eq!(nodes.sandbox.run(&one.args("later", &["get", "t", "k"])).ok().trim(), "v");
    nodes.caught_up(&two, &["a", "b", "bb", "c"]);
    drop((one, two));
    let kept = nodes.recovered(0);
    let has_own = |(_, root): &(String, pleach_engine::Hash)| {
        let database = nodes.database(0);
        let table = database.snapshot_of_root(*root).unwrap().table("t").unwrap();
        table.is_some_and(|table| table.get(b"own").unwrap().is_some())
    };
    assert!(kept.iter().any(has_own), "{kept:?}");
    assert!(nodes.recovered(1).is_empty(), "nothing of the standby was replaced");
}

#[test]
fn c36_of_several_standbys_that_have_more_the_longest_wins() {
    let nodes = Nodes::with_ack(3, "count: 1, timeout: 10s, on_timeout: error");
    let (mut one, mut two, three) = (nodes.start(0), nodes.start(1), nodes.start(2));
    nodes.create(&one);
    nodes.put(&one, "a").ok();
    one.stop();
    let before = nodes.keep_disk(0);
    let mut one = nodes.start(0);
    nodes.put(&one, "b").ok();
    nodes.caught_up(&two, &["a", "b"]);
    nodes.caught_up(&three, &["a", "b"]);
    two.kill();
    nodes.put(&one, "c").ok();
    one.kill();
    nodes.put_disk_back(0, &before);
    let two = nodes.start(1);
    let one = nodes.start(0);
    eventually("the primary takes writes", || (nodes.put(&one, "d").status == 0).then_some(()));
    for server in [&one, &two, &three] {
        nodes.caught_up(server, &["a", "b", "c", "d"]);
    }
    drop((one, two, three));
    assert!(nodes.recovered(2).is_empty(), "nothing of the standby that had most was replaced");
}

#[test]
fn c36_either_is_killed_while_the_primary_gets_back_what_it_lost() {
    let nodes = Nodes::with_ack(2, "count: 1, timeout: 30s, on_timeout: error");
    let (mut one, mut two) = (nodes.start(0), nodes.start(1));
    nodes.create(&one);
    nodes.put(&one, "a").ok();
    one.stop();
    let before = nodes.keep_disk(0);
    let mut one = nodes.start(0);
    // So much that it takes a while: values that do not compress.
    let mut seed = 1_u64;
    let mut rows = String::from("k,v\n");
    for row in 0..400 {
        let digits = (0..1500).map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            format!("{:016x}", seed ^ (seed >> 31))
        });
        rows.push_str(&format!("{row},{}\n", digits.collect::<String>()));
    }
    nodes.sandbox.write("big.csv", &rows);
    nodes.sandbox.run(&one.args("db", &["import", "big", "big.csv", "--key", "k"])).ok();
    nodes.put(&one, "b").ok();
    let exported = nodes.sandbox.run(&one.args("db", &["export", "big"])).ok();
    one.kill();
    nodes.put_disk_back(0, &before);
    let serve = || {
        let mut command = nodes.sandbox.command(&["serve", "--config", "one.yaml"]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
    };
    for millis in [100, 200, 300, 450, 700] {
        let mut killed = serve();
        std::thread::sleep(Duration::from_millis(millis));
        killed.kill().unwrap();
        killed.wait().unwrap();
    }
    nodes.put_disk_back(0, &before);
    for millis in [200, 400, 600] {
        let mut waits = serve();
        std::thread::sleep(Duration::from_millis(millis));
        two.kill();
        two = nodes.start(1);
        waits.kill().unwrap();
        waits.wait().unwrap();
        if millis < 600 {
            nodes.put_disk_back(0, &before);
        }
    }
    let one = nodes.start(0);
    eventually("the primary takes writes", || (nodes.put(&one, "c").status == 0).then_some(()));
    for server in [&one, &two] {
        nodes.caught_up(server, &["a", "b", "c"]);
        assert!(nodes.sandbox.run(&server.args("db", &["export", "big"])).ok() == exported);
        let fsck = nodes.sandbox.run(&server.args("db", &["fsck", "--json"])).json();
        assert_eq!(fsck["damages"], serde_json::json!([]));
    }
}

#[test]
fn c36_a_restarted_primary_does_not_wait_for_ever_for_a_standby_that_is_away() {
    let nodes = Nodes::with_ack(2, "count: 1, timeout: 100ms, on_timeout: warn");
    let (mut one, mut two) = (nodes.start(0), nodes.start(1));
    nodes.create(&one);
    nodes.put(&one, "a").ok();
    two.kill();
    one.kill();
    let one = nodes.start(0);
    nodes.put(&one, "b").ok();
    assert!(one.log().contains("takes writes without"), "{}", one.log());
}
