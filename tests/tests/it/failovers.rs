//! Roles that go from node to node while nodes and links fail: a round of what `pleach-soak cluster` does for hours.

use pleach_tests::failovers::{Counts, Planted, round};

#[test]
fn c16_c19_c20_no_acknowledged_write_is_lost_whatever_fails() {
    let counts = Counts::default();
    round(0, None, &counts).unwrap_or_else(|what| panic!("{what}; {counts}"));
    assert_eq!(counts.lack(), None, "{counts}");
    println!("{counts}");
}

#[test]
fn the_checker_finds_writes_that_are_acknowledged_too_early() {
    let counts = Counts::default();
    let found = (0..8).find_map(|seed| round(seed, Some(Planted::EarlyAck), &counts).err());
    println!("{}", found.expect("it is found"));
}
