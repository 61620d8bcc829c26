//! Databases that are dropped, here and there.

use pleach_tests::{Run, Server, eventually};

use super::Nodes;

impl Nodes {
    fn on(&self, server: &Server, args: &[&str]) -> Run {
        let all: Vec<String> = ["--server".to_owned(), server.url()]
            .into_iter()
            .chain(args.iter().map(|arg| (*arg).to_owned()))
            .collect();
        self.sandbox.run(&all)
    }

    fn make(&self, server: &Server, name: &str, value: &str) {
        eventually("the database is made", || {
            (self.on(server, &["database", "create", name]).status == 0).then_some(())
        });
        self.sandbox.run(&server.args(name, &["put", "t", "k", value])).ok();
    }

    fn put_in(&self, server: &Server, name: &str, value: &str) {
        eventually("the primary takes writes", || {
            let put = self.sandbox.run(&server.args(name, &["put", "t", "k", value]));
            (put.status == 0).then_some(())
        });
    }

    fn names(&self, server: &Server) -> Vec<String> {
        self.on(server, &["database", "list"]).ok().lines().map(str::to_owned).collect()
    }

    fn has(&self, server: &Server, name: &str, value: &str) {
        eventually(&format!("{name} has {value}"), || {
            let got = self.sandbox.run(&server.args(name, &["get", "t", "k"]));
            (got.stdout.trim() == value).then_some(())
        });
    }

    fn lists(&self, server: &Server, names: &[&str]) {
        eventually(&format!("the databases are {names:?}"), || (self.names(server) == names).then_some(()));
    }

    /// What a node set aside.
    fn aside(&self, node: usize) -> Vec<String> {
        let names = std::fs::read_dir(self.sandbox.path(super::NAMES[node])).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut aside: Vec<String> = names.filter(|name| name.contains(".dropped")).collect();
        aside.sort();
        aside
    }
}

#[test]
fn c30_a_drop_is_replicated_and_the_same_name_made_anew_is_another_database() {
    let nodes = Nodes::with_ack(2, "count: 1, timeout: 20s, on_timeout: error");
    let (one, two) = (nodes.start(0), nodes.start(1));
    nodes.make(&one, "shop", "old");
    nodes.make(&one, "stays", "v");
    nodes.has(&two, "shop", "old");
    nodes.on(&one, &["database", "drop", "shop"]).ok();
    // The drop was acknowledged like a write: no waiting here.
    assert_eq!(nodes.names(&two), ["stays"]);
    nodes.make(&one, "shop", "new");
    nodes.has(&two, "shop", "new");
    // At once, one after the other.
    for value in ["a", "b", "c"] {
        nodes.on(&one, &["database", "drop", "shop"]).ok();
        nodes.make(&one, "shop", value);
    }
    nodes.has(&two, "shop", "c");
    nodes.lists(&two, &["shop", "stays"]);
    assert_eq!(nodes.aside(1), [""; 0], "nothing was worth keeping");
    // No client can see or name the register.
    assert_eq!(nodes.names(&one), ["shop", "stays"]);
    for args in [&["database", "drop", "cluster.register"], &["database", "create", "cluster.register"]] {
        assert_ne!(nodes.on(&one, args).status, 0);
    }
    assert_ne!(nodes.sandbox.run(&one.args("cluster.register", &["table", "list"])).status, 0);
    let rows = nodes.status(&one)["databases"].to_string();
    assert!(!rows.contains("register"), "{rows}");
}

#[test]
fn c30_a_standby_that_was_away_drops_what_was_dropped_and_gets_what_was_made_anew() {
    let nodes = Nodes::pair();
    let (mut one, mut two) = (nodes.start(0), nodes.start(1));
    for name in ["gone", "anew", "stays"] {
        nodes.make(&one, name, "old");
        nodes.has(&two, name, "old");
    }
    two.kill();
    nodes.on(&one, &["database", "drop", "gone"]).ok();
    nodes.on(&one, &["database", "drop", "anew"]).ok();
    nodes.make(&one, "anew", "new");
    // It is not forgotten by a restart of the primary either, which hears the standby first.
    one.kill();
    let mut two = nodes.start(1);
    let one = nodes.start(0);
    nodes.has(&two, "anew", "new");
    nodes.lists(&two, &["anew", "stays"]);
    nodes.lists(&one, &["anew", "stays"]);
    // Roles swap, and it goes on in the other direction.
    eventually("the primary hands over", || (nodes.assume(&one, "standby", 2).status == 0).then_some(()));
    nodes.assume(&two, "primary", 2).ok();
    nodes.on(&two, &["database", "drop", "stays"]).ok();
    nodes.lists(&one, &["anew"]);
    nodes.make(&two, "later", "v");
    nodes.has(&one, "later", "v");
    two.stop();
}

#[test]
fn c30_however_much_more_a_dropped_database_had_it_does_not_come_back_in_the_place_of_its_successor() {
    // The primary restarts, or one of the standbys is promoted; those that keep what is dropped are no exception.
    for (promoted, keeps) in [(0, false), (1, false), (2, false), (1, true), (2, true)] {
        let nodes = Nodes::with_ack(3, "count: 1, timeout: 20s, on_timeout: error");
        if keeps {
            nodes.add(2, "  replicate_drops: false\n");
        }
        let (mut one, two, mut three) = (nodes.start(0), nodes.start(1), nodes.start(2));
        nodes.make(&one, "shop", "old");
        for value in 0..20 {
            nodes.put_in(&one, "shop", &format!("old {value}"));
        }
        nodes.has(&two, "shop", "old 19");
        nodes.has(&three, "shop", "old 19");
        three.kill();
        nodes.on(&one, &["database", "drop", "shop"]).ok();
        nodes.make(&one, "shop", "new");
        nodes.has(&two, "shop", "new");
        one.kill();
        let three = nodes.start(2);
        let one = match promoted {
            0 => nodes.start(0),
            _ => {
                let leader = if promoted == 1 { &two } else { &three };
                nodes.assume(leader, "primary", 2).ok();
                nodes.start(0)
            }
        };
        let leader = [&one, &two, &three][promoted];
        for server in [&one, &two, &three] {
            nodes.has(server, "shop", "new");
        }
        nodes.put_in(leader, "shop", "newer");
        for server in [&one, &two, &three] {
            nodes.has(server, "shop", "newer");
        }
    }
}

#[test]
fn c30_a_database_that_cannot_be_removed_goes_on_and_is_replicated() {
    let nodes = Nodes::with_ack(2, "count: 1, timeout: 20s, on_timeout: error");
    let (mut one, two) = (nodes.start(0), nodes.start(1));
    nodes.make(&one, "other", "v");
    nodes.make(&one, "shop", "old");
    nodes.has(&two, "shop", "old");
    // Where it is moved to, something is in the way.
    let in_the_way = nodes.sandbox.path("one/.pleach-shop");
    std::fs::create_dir_all(in_the_way.join("x")).unwrap();
    assert_ne!(nodes.on(&one, &["database", "drop", "shop"]).status, 0);
    assert_eq!(nodes.names(&one), ["other", "shop"]);
    // What is written from now on is acknowledged, which is to say on the standby, and stays after a restart.
    for (name, value) in [("other", "w"), ("shop", "after")] {
        nodes.sandbox.run(&one.args(name, &["put", "t", "k", value])).ok();
        nodes.has(&two, name, value);
    }
    one.kill();
    let one = nodes.start(0);
    nodes.has(&one, "shop", "after");
    nodes.put_in(&one, "shop", "later");
    nodes.has(&two, "shop", "later");
    let _ = std::fs::remove_dir_all(&in_the_way);
    nodes.on(&one, &["database", "drop", "shop"]).ok();
    nodes.lists(&two, &["other"]);
    nodes.lists(&one, &["other"]);
}

#[test]
fn c30_a_node_killed_in_the_middle_of_a_drop_finishes_it() {
    let nodes = Nodes::pair();
    let (mut one, mut two) = (nodes.start(0), nodes.start(1));
    nodes.make(&one, "stays", "v");
    for (round, millis) in [0, 1, 2, 4, 8, 16, 30, 60].into_iter().enumerate() {
        let name = format!("d{round}");
        nodes.make(&one, &name, "v");
        nodes.has(&two, &name, "v");
        let args = ["--server", &one.url(), "database", "drop", &name];
        let mut dropping = nodes.sandbox.command(&args);
        let mut dropping = dropping.stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20 + millis));
        let done = dropping.try_wait().unwrap().is_some_and(|status| status.success());
        if round % 2 == 0 {
            one.kill();
            one = nodes.start(0);
        } else {
            two.kill();
            two = nodes.start(1);
        }
        dropping.wait().unwrap();
        // Whole or not at all, and the same on both.
        if done || !nodes.names(&one).contains(&name) {
            nodes.lists(&one, &["stays"]);
            nodes.lists(&two, &["stays"]);
        } else {
            eventually("it can be dropped again", || {
                let names = nodes.names(&one);
                let args = ["database", "drop", &name];
                (!names.contains(&name) || nodes.on(&one, &args).status == 0).then_some(())
            });
            nodes.lists(&two, &["stays"]);
        }
    }
    nodes.has(&two, "stays", "v");
    assert_eq!(nodes.aside(0), [""; 0]);
    assert_eq!(nodes.aside(1), [""; 0]);
}

#[test]
fn c30_what_the_primary_never_had_is_set_aside_and_what_no_cluster_knew_stays() {
    let nodes = Nodes::pair();
    // Of a time before the cluster, on the standby alone.
    nodes.sandbox.run(&["init", "two/mine"]).ok();
    nodes.sandbox.run(&["-C", "two/mine", "put", "t", "k", "mine"]).ok();
    let (mut one, mut two) = (nodes.start(0), nodes.start(1));
    nodes.make(&one, "shop", "shared");
    nodes.has(&two, "shop", "shared");
    // The old primary has a tail that the new one drops without having seen it.
    two.kill();
    nodes.sandbox.run(&one.args("shop", &["put", "t", "k", "tail"])).ok();
    one.kill();
    let two = nodes.start(1);
    nodes.assume(&two, "primary", 2).ok();
    nodes.on(&two, &["database", "drop", "shop"]).ok();
    nodes.make(&two, "shop", "new");
    let one = nodes.start(0);
    nodes.has(&one, "shop", "new");
    assert_eq!(nodes.aside(0), ["shop.dropped"]);
    let dir = nodes.sandbox.path("one/shop.dropped");
    eventually("what was set aside can be read", || {
        let got = nodes.sandbox.run(&["-C", dir.to_str().unwrap(), "get", "t", "k"]);
        (got.stdout.trim() == "tail").then_some(())
    });
    // The primary's own database, which was never dropped, came to the other as well.
    nodes.has(&one, "mine", "mine");
    nodes.lists(&one, &["mine", "shop"]);
}

#[test]
fn c30_drops_are_not_replicated_if_either_side_says_so() {
    for node in [0, 1] {
        let nodes = Nodes::pair();
        nodes.add(node, "  replicate_drops: false\n");
        let (mut one, two) = (nodes.start(0), nodes.start(1));
        nodes.make(&one, "shop", "old");
        nodes.make(&one, "mark", "v");
        nodes.has(&two, "shop", "old");
        nodes.on(&one, &["database", "drop", "shop"]).ok();
        nodes.sandbox.run(&one.args("mark", &["put", "t", "k", "after"])).ok();
        nodes.has(&two, "mark", "after");
        assert_eq!(nodes.names(&two), ["mark", "shop"], "{node}");
        // A primary that restarts has not lost what it dropped.
        one.kill();
        one = nodes.start(0);
        nodes.put_in(&one, "mark", "again");
        nodes.has(&two, "mark", "again");
        assert_eq!(nodes.names(&one), ["mark"], "{node}");
        nodes.has(&two, "shop", "old");
        // One of the same name takes its place, and nothing is lost.
        nodes.make(&one, "shop", "new");
        nodes.has(&two, "shop", "new");
        drop(two);
        let kept = pleach_engine::Database::open(&nodes.sandbox.path("two/shop"), Default::default());
        let is_kept = !kept.unwrap().refs("recovery/").is_empty() || nodes.aside(1) == ["shop.dropped"];
        assert!(is_kept, "{node}");
    }
}
