//! The store as its users see it: one binary, a file per promise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

mod basics;
mod chains;
mod cost;
mod crash;
mod damage;
mod faults;
mod model;
mod slow_disk;
