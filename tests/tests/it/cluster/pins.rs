//! What a primary keeps for a standby that is away, and what it sends when that is back, in bytes.

use std::fmt::Write;

use pleach_tests::{Server, eventually};

use super::{Link, Nodes, warnings};

const ROWS: usize = 40_000;
const CHANGED: usize = 2_000;
const ROUNDS: usize = 12;

/// Rows `0, step, 2 step…`, with values of that round that do not compress.
fn rows(count: usize, step: usize, round: u64) -> String {
    let mut text = String::from("k,v\n");
    let mut state = round + 1;
    for row in 0..count {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        writeln!(text, "{},{:016x}", row * step, state ^ (state >> 29)).unwrap();
    }
    text
}

struct Away {
    nodes: Nodes,
    one: Server,
    link: Link,
    /// Bytes of a fetch of the rows that changed.
    fetched: u64,
}

impl Away {
    /// A standby that was there, and is away while a few rows of many change again and again, and the primary collects its garbage.
    fn new(more: &str) -> Away {
        let nodes = Nodes::pair();
        nodes.add(0, more);
        let link = nodes.link(0, 1);
        let (one, mut two) = (nodes.start(0), nodes.start(1));
        nodes.create(&one);
        nodes.sandbox.write("rows.csv", &rows(ROWS, 1, 0));
        nodes.sandbox.run(&one.args("db", &["import", "t", "rows.csv", "--key", "k"])).ok();
        nodes.sandbox.run(&one.args("db", &["commit", "-m", "before"])).ok();
        eventually("the standby has it", || {
            (nodes.status(&one)["databases"][0]["replication_lag_millis"] == 0).then_some(())
        });
        nodes.sandbox.run(&["clone", &one.database("db"), "copy"]).ok();
        let change = |round: usize| {
            nodes.sandbox.write("rows.csv", &rows(CHANGED, ROWS / CHANGED, round as u64));
            nodes.sandbox.run(&one.args("db", &["import", "t", "rows.csv", "--upsert"])).ok();
        };
        // Work that no commit keeps.
        change(ROUNDS + 1);
        eventually("the standby has that", || {
            (nodes.status(&one)["databases"][0]["replication_lag_millis"] == 0).then_some(())
        });
        two.kill();
        (1..=ROUNDS).for_each(change);
        nodes.sandbox.run(&one.args("db", &["commit", "-m", "after"])).ok();
        let fetched = nodes.sandbox.run(&["-C", "copy", "fetch", "--json"]).json();
        let fetched = fetched["bytes_received"].as_u64().unwrap();
        Away { nodes, one, link, fetched }
    }

    /// The standby returns. Gives the bytes that it then gets.
    fn back(&self) -> u64 {
        let before = self.link.proxy.counts().up;
        let two = self.nodes.start(1);
        eventually("the standby has it", || {
            (self.nodes.status(&self.one)["databases"][0]["replication_lag_millis"] == 0).then_some(())
        });
        let bytes = self.link.proxy.counts().up - before;
        let export = |server: &Server| self.nodes.sandbox.run(&server.args("db", &["export", "t"])).ok();
        assert!(export(&two) == export(&self.one));
        bytes
    }

    fn pinned(&self) -> u64 {
        self.nodes.status(&self.one)["databases"][0]["pinned_bytes"].as_u64().unwrap()
    }
}

#[test]
fn c35_a_standby_that_was_away_gets_the_rows_that_changed_and_one_root_was_kept_for_it() {
    let away = Away::new("");
    let before = eventually("what is kept is measured", || Some(away.pinned()).filter(|bytes| *bytes > 0));
    away.nodes.sandbox.run(&away.one.args("db", &["gc"])).ok();
    let bytes = away.back();
    println!(
        "{} writes on {CHANGED} of {ROWS} rows: {bytes} B on the wire, {} B to fetch them, {before} B kept",
        ROUNDS * CHANGED,
        away.fetched
    );
    assert!(bytes * 10 <= away.fetched * 12, "{bytes} B on the wire, {} B to fetch them", away.fetched);
    eventually("nothing is kept any more", || (away.pinned() == 0).then_some(()));
}

#[test]
fn c35_beyond_the_limit_what_a_standby_had_is_let_go_and_it_gets_what_both_still_lack() {
    let away = Away::new("  standby_pin_max: 10KiB\n");
    let said = eventually("it is let go", || {
        let said = warnings(&away.nodes.status(&away.one));
        said.contains("standby_pin_max").then_some(said)
    });
    assert!(said.contains("standby `two` had of `db`"), "{said}");
    assert_eq!(away.pinned(), 0);
    away.nodes.sandbox.run(&away.one.args("db", &["gc"])).ok();
    let bytes = away.back();
    println!("beyond standby_pin_max: {bytes} B on the wire, {} B to fetch the rows", away.fetched);
    eventually("all is well again", || {
        (!warnings(&away.nodes.status(&away.one)).contains("standby_pin_max")).then_some(())
    });
}
