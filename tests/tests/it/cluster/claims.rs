//! A node that is made primary, and what others have that it lacks.

use pleach_tests::{Server, eventually};

use super::{NAMES, Nodes, role};

impl Nodes {
    fn put_into(&self, server: &Server, database: &str, key: &str) -> pleach_tests::Run {
        self.sandbox.run(&server.args(database, &["put", "t", key, "v"]))
    }

    fn keys_of(&self, server: &Server, database: &str) -> Vec<String> {
        let scanned = self.sandbox.run(&server.args(database, &["scan", "t"]));
        scanned.stdout.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
    }

    fn have(&self, server: &Server, database: &str, keys: &[&str]) {
        eventually("every row is there", || (self.keys_of(server, database) == keys).then_some(()));
    }

    /// A database of a node that is stopped is as it was.
    fn put_database_back(&self, node: usize, database: &str, kept: &std::path::Path) {
        let dir = self.sandbox.path(NAMES[node]).join(database);
        std::fs::remove_dir_all(&dir).unwrap();
        pleach_tests::script::copy_dir(&kept.join(database), &dir);
    }

    /// Three nodes that are stopped: the primary has everything, and each standby what the other lacks, as when changes of two databases
    /// reached them in different order. Each of these writes was acknowledged by one.
    fn of_which_each_is_ahead_in_one() -> Nodes {
        let nodes = Nodes::with_ack(3, "count: 1, timeout: 20s, on_timeout: error");
        let (mut one, mut two, mut three) = (nodes.start(0), nodes.start(1), nodes.start(2));
        for name in ["a", "b"] {
            let create = || nodes.sandbox.run(&["--server", &one.url(), "database", "create", name]);
            eventually("the database is made", || (create().status == 0).then_some(()));
            nodes.put_into(&one, name, "k1").ok();
            nodes.have(&two, name, &["k1"]);
            nodes.have(&three, name, &["k1"]);
        }
        two.stop();
        three.stop();
        let before = [nodes.keep_disk(1), nodes.keep_disk(2)];
        let (mut two, mut three) = (nodes.start(1), nodes.start(2));
        for name in ["a", "b"] {
            nodes.put_into(&one, name, "k2").ok();
            nodes.put_into(&one, name, "k3").ok();
            nodes.have(&two, name, &["k1", "k2", "k3"]);
            nodes.have(&three, name, &["k1", "k2", "k3"]);
        }
        one.kill();
        two.stop();
        three.stop();
        nodes.put_database_back(1, "b", &before[0]);
        nodes.put_database_back(2, "a", &before[1]);
        nodes
    }
}

#[test]
fn c17_either_standby_can_be_promoted_though_each_lacks_what_the_other_has() {
    for promoted in [1, 2] {
        let nodes = Nodes::of_which_each_is_ahead_in_one();
        let (leader, other) = (nodes.start(promoted), nodes.start(3 - promoted));
        nodes.assume(&leader, "primary", 2).ok();
        for name in ["a", "b"] {
            assert_eq!(nodes.keys_of(&leader, name), ["k1", "k2", "k3"], "{name}: {}", leader.log());
            nodes.put_into(&leader, name, "k4").ok();
            nodes.have(&other, name, &["k1", "k2", "k3", "k4"]);
        }
        // The old primary follows.
        let one = nodes.start(0);
        for name in ["a", "b"] {
            nodes.have(&one, name, &["k1", "k2", "k3", "k4"]);
        }
        assert_eq!(role(&nodes.status(&one)), ("standby".into(), 2));
    }
}

#[test]
fn c17_a_claimant_without_a_quorum_waits_and_gets_what_it_lacks_from_the_old_primary_too() {
    let nodes = Nodes::of_which_each_is_ahead_in_one();
    let mut two = nodes.start(1);
    nodes.assume(&two, "primary", 2).fails(1);
    nodes.put_into(&two, "a", "k4").fails(5);
    // It still claims when it comes back.
    two.kill();
    let two = nodes.start(1);
    nodes.put_into(&two, "a", "k4").fails(5);
    let one = nodes.start(0);
    for name in ["a", "b"] {
        eventually("it takes writes", || (nodes.put_into(&two, name, "k4").status == 0).then_some(()));
        assert_eq!(nodes.keys_of(&two, name), ["k1", "k2", "k3", "k4"], "{name}");
        nodes.have(&one, name, &["k1", "k2", "k3", "k4"]);
    }
    let three = nodes.start(2);
    for name in ["a", "b"] {
        nodes.have(&three, name, &["k1", "k2", "k3", "k4"]);
    }
}

#[test]
fn c17_a_claimant_whose_granter_dies_while_it_gives_goes_on_claiming() {
    let nodes = Nodes::of_which_each_is_ahead_in_one();
    let two = nodes.start(1);
    let assume = ["--server", &two.url(), "cluster", "assume-role", "primary", "2"];
    let mut assuming = nodes.sandbox.command(&assume);
    let mut assuming =
        assuming.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    for millis in [0, 50, 100, 150, 250] {
        let mut three = nodes.start(2);
        std::thread::sleep(std::time::Duration::from_millis(millis));
        three.kill();
    }
    assuming.wait().unwrap();
    let three = nodes.start(2);
    for name in ["a", "b"] {
        eventually("it takes writes", || (nodes.put_into(&two, name, "k5").status == 0).then_some(()));
        let keys = nodes.keys_of(&two, name);
        assert!(
            ["k1", "k2", "k3", "k5"].iter().all(|key| keys.iter().any(|one| one == key)),
            "{name}: {keys:?}"
        );
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        nodes.have(&three, name, &keys);
    }
}

#[test]
fn c16_what_a_former_primary_notes_for_itself_is_nothing_that_others_lack() {
    let nodes = Nodes::with_ack(3, "count: 1, timeout: 20s, on_timeout: error");
    let (mut one, two, mut three) = (nodes.start(0), nodes.start(1), nodes.start(2));
    nodes.create(&one);
    nodes.put(&one, "a").ok();
    nodes.caught_up(&two, &["a"]);
    nodes.caught_up(&three, &["a"]);
    nodes.assume(&one, "standby", 2).ok();
    three.kill();
    one.stop();
    let dir = nodes.sandbox.path("one/db");
    for name in ["origin", "backup", "third"] {
        let url = format!("file:///nowhere/{name}");
        nodes.sandbox.run(&["-C", dir.to_str().unwrap(), "remote", "add", name, &url]).ok();
    }
    let one = nodes.start(0);
    nodes.assume(&two, "primary", 2).ok();
    nodes.put(&two, "b").ok();
    nodes.caught_up(&one, &["a", "b"]);
    assert!(!two.log().contains("has more than this node"), "{}", two.log());
}
