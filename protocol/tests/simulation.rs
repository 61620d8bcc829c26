//! Two sides that work and exchange, against a plain model: whatever chance has them do, and wherever their connections are cut.
//!
//! One side serves, the other is a copy of it, whole or a part. Client and server are the real ones, over pipes in memory that end where chance says, in
//! paused time. A commit is what the model says its tables are, and equal tables have one root on both sides: so to compare hashes is to compare all
//! that is below them. The rows are read at the end.
//!
//! `PLEACH_SIMULATION_SEEDS=2000 cargo test -p pleach-protocol --test simulation` runs as many seeds; `PLEACH_SIMULATION_SEED=17` runs that one, and says its
//! steps.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[path = "simulation/dice.rs"]
mod dice;
#[path = "simulation/exchange.rs"]
mod exchange;
#[path = "simulation/machine.rs"]
mod machine;
#[path = "simulation/model.rs"]
mod model;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use machine::{Counts, Machine};

/// Seeds that are run if no number is given.
const SEEDS: u64 = 40;
/// Steps of each.
const STEPS: usize = 25;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|number| number.parse().expect("a number"))
}

#[test]
fn two_sides_are_what_a_plain_model_of_them_is_after_any_exchange_and_any_cut() {
    let one = number("PLEACH_SIMULATION_SEED");
    let seeds = one.map_or(0..number("PLEACH_SIMULATION_SEEDS").unwrap_or(SEEDS), |seed| seed..seed + 1);
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut counts = Counts::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return counts;
            }
            let mut machine = Machine::new(seed, one.is_some());
            let run = catch_unwind(AssertUnwindSafe(|| machine.run(STEPS)));
            counts += machine.counts;
            if run.is_err() {
                next.store(seeds.end, Ordering::Relaxed);
                eprintln!("{}", machine.steps.join("\n"));
                panic!(
                    "seed {seed} after {} steps: PLEACH_SIMULATION_SEED={seed} runs it again",
                    counts.steps
                );
            }
        }
    };
    // They wait for the disk most of the time.
    let threads = 4 * std::thread::available_parallelism().map_or(1, usize::from);
    let counts = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).fold(Counts::default(), |mut all, counts| {
            all += counts;
            all
        })
    });
    eprintln!("{counts:?}");
    // Chance has tried what it is there to try.
    if one.is_none() {
        let Counts { steps, exchanges, cuts, given_up, refused, merged, parts } = counts;
        for (what, count) in [
            ("steps", steps),
            ("exchanges", exchanges),
            ("cuts", cuts),
            ("exchanges given up", given_up),
            ("pushes refused", refused),
            ("merges", merged),
            ("partial copies", parts),
        ] {
            assert!(count > 0, "no {what}");
        }
    }
}
