//! The store as its users see it: one binary, a file per promise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

mod backup;
mod basics;
mod chains;
mod conformance;
mod cost;
mod crash;
mod damage;
mod every_bit;
mod faults;
mod fsck;
mod interleaved;
mod model;
mod partial;
mod power;
mod reader;
mod slow_disk;
mod upkeep;
