//! Standbys that forward to standbys of their own.

use pleach_tests::{Server, eventually};

use super::{Nodes, role};

impl Nodes {
    /// The first leads the second, which forwards to the third, which forwards as well.
    fn chain() -> Nodes {
        let nodes = Nodes::new(3, "");
        nodes.configure_with(0, "primary", 1, &[1]);
        nodes.configure_with(1, "standby", 1, &[0, 2]);
        nodes.configure_with(2, "standby", 1, &[1]);
        nodes.add(1, "  cascade: true\n");
        nodes.add(2, "  cascade: true\n");
        nodes
    }

    fn is(&self, server: &Server, expected: &str, epoch: u64) {
        eventually(&format!("it is {expected} at {epoch}"), || {
            (role(&self.status(server)) == (expected.to_owned(), epoch)).then_some(())
        });
    }

    fn says_of(&self, server: &Server, standby: &str, said: &str) {
        eventually(&format!("the row of {standby} says {said}"), || {
            let status = self.status(server);
            let row =
                status["databases"].as_array()?.iter().find(|row| row["standby_remote"] == standby)?.clone();
            assert!(row["current_error"].is_null(), "nothing is wrong: {row}");
            row["note"].as_str()?.contains(said).then_some(())
        });
    }
}

#[test]
fn c34_what_a_primary_writes_reaches_the_standby_of_its_standby() {
    let nodes = Nodes::chain();
    let (one, two, mut three) = (nodes.start(0), nodes.start(1), nodes.start(2));
    nodes.create(&one);
    let token = nodes.sandbox.run(&one.args("db", &["--json", "put", "t", "a", "v"])).json()["token"].clone();
    // A token of the primary holds two hops away.
    let scan = ["scan", "t", "--after", token.as_str().unwrap()];
    eventually("the token holds at the end of the chain", || {
        nodes.sandbox.run(&three.args("db", &scan)).stdout.contains('a').then_some(())
    });
    nodes.sandbox.run(&one.args("db", &["commit", "-m", "first"])).ok();
    nodes.sandbox.run(&["--server", &one.url(), "database", "create", "other"]).ok();
    eventually("both databases are there", || {
        let listed = nodes.sandbox.run(&["--server", &three.url(), "database", "list"]).ok();
        (listed == "db\nother\n").then_some(())
    });
    nodes.sandbox.run(&["--server", &one.url(), "database", "drop", "other"]).ok();
    eventually("the drop is there", || {
        let listed = nodes.sandbox.run(&["--server", &three.url(), "database", "list"]).ok();
        (listed == "db\n").then_some(())
    });
    nodes.is(&three, "standby", 1);
    // Nothing goes back to where it came from, and the status says so.
    nodes.says_of(&two, "one", "loop");
    nodes.says_of(&three, "two", "loop");
    // Once, and not again and again.
    for (server, of) in [(&two, "one"), (&three, "two")] {
        let said = format!(
            "nothing is sent to a standby: http://127.0.0.1:{}",
            nodes.ports[usize::from(of == "two")]
        );
        assert_eq!(server.log().matches(&said).count(), 1, "{}", server.log());
    }
    let row = &nodes.status(&two)["databases"][1];
    assert_eq!(
        (row["standby_remote"].as_str(), row["replication_lag_millis"].as_u64()),
        (Some("three"), Some(0))
    );
    // Who writes at its end is told where to.
    let refused = nodes.put(&three, "x").fails(5);
    assert!(refused.contains(&one.url()), "{refused}");
    // One that was away gets what it lacks.
    three.kill();
    nodes.put(&one, "b").ok();
    let three = nodes.start(2);
    nodes.caught_up(&three, &["a", "b"]);
}

#[test]
fn c34_epochs_pass_through_in_both_directions_and_the_end_follows_who_leads() {
    let nodes = Nodes::chain();
    let (one, two, three) = (nodes.start(0), nodes.start(1), nodes.start(2));
    nodes.create(&one);
    nodes.put(&one, "a").ok();
    nodes.caught_up(&three, &["a"]);
    // There and back: each change of epoch reaches the end.
    nodes.assume(&one, "standby", 2).ok();
    nodes.assume(&two, "primary", 2).ok();
    nodes.put(&two, "b").ok();
    nodes.is(&three, "standby", 2);
    nodes.caught_up(&three, &["a", "b"]);
    nodes.caught_up(&one, &["a", "b"]);
    eventually("roles swap back", || (nodes.assume(&two, "standby", 3).status == 0).then_some(()));
    nodes.assume(&one, "primary", 3).ok();
    nodes.put(&one, "c").ok();
    nodes.is(&three, "standby", 3);
    nodes.caught_up(&three, &["a", "b", "c"]);
    // Who is at the end takes over: the others follow, each by the one between.
    nodes.assume(&three, "primary", 9).ok();
    nodes.put(&three, "d").ok();
    nodes.is(&two, "standby", 9);
    nodes.caught_up(&two, &["a", "b", "c", "d"]);
    nodes.is(&one, "standby", 9);
    nodes.caught_up(&one, &["a", "b", "c", "d"]);
}

#[test]
fn c34_a_node_keeps_to_the_shorter_way_and_takes_the_other_when_that_is_gone() {
    let nodes = Nodes::new(3, "");
    nodes.add(1, "  cascade: true\n");
    let (mut one, two, three) = (nodes.start(0), nodes.start(1), nodes.start(2));
    nodes.create(&one);
    for n in 0..20 {
        nodes.put(&one, &format!("{n:02}")).ok();
    }
    let mut keys: Vec<String> = (0..20).map(|n| format!("{n:02}")).collect();
    nodes.caught_up(&three, &keys.iter().map(String::as_str).collect::<Vec<_>>());
    nodes.says_of(&two, "three", "by a way that is as short");
    assert!(!three.log().contains("ABORTED") && !three.log().contains("looks again"), "{}", three.log());
    // The primary names the third node no more: it gets what comes by the second.
    one.stop();
    nodes.configure_with(0, "primary", 1, &[1]);
    let one = nodes.start(0);
    nodes.put(&one, "later").ok();
    keys.push("later".into());
    nodes.caught_up(&three, &keys.iter().map(String::as_str).collect::<Vec<_>>());
}
