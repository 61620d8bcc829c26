//! The whole engine against a plain model: random programs of edits, versions, branches, merges, reverts, collections and reopenings.
//!
//! `PLEACH_MODEL_CASES=1000 cargo test -p pleach-engine --test model` runs as many programs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod compare;
mod edits;
mod machine;
mod one_root;
mod plain;
mod program;

use proptest::prelude::*;

/// Programs that are run if no number is given.
const CASES: u32 = 6;

fn cases() -> u32 {
    std::env::var("PLEACH_MODEL_CASES").map_or(CASES, |cases| cases.parse().expect("a number of cases"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_database_is_what_a_plain_model_of_it_is_after_any_program(program in program::program()) {
        machine::Machine::new().run(&program);
    }
}
