//! A fault at each system call of the real binary: what was acknowledged is there afterwards, and work goes on.
//!
//! Sampled evenly; with `PLEACH_SOAK=1`, and in `pleach-soak syscalls`, every one.

use pleach_tests::syscalls::{Fault, Traced};

/// How many points the short form tries.
const POINTS: usize = 300;

const FAULTS: [Fault; 3] = [Fault::Kill, Fault::Error("EIO"), Fault::Error("ENOSPC")];

fn traced() -> Option<Traced> {
    Traced::new().inspect_err(|missing| eprintln!("skipped, nothing was tested: {missing}")).ok()
}

#[test]
fn a_fault_at_any_system_call_loses_nothing_acknowledged() {
    let Some(traced) = traced() else { return };
    let points = traced.points(&FAULTS);
    let tried = match std::env::var_os("PLEACH_SOAK") {
        Some(_) => points.len(),
        None => points.len().min(POINTS),
    };
    let mut happened = 0;
    for point in (0..tried).map(|n| &points[n * points.len() / tried]) {
        happened += usize::from(traced.play(point).unwrap_or_else(|found| panic!("{found}")));
    }
    println!("{tried} of {} faults at system calls, {happened} happened, nothing was lost", points.len());
    assert!(happened * 10 > tried * 9, "{happened} of {tried}");
}

#[test]
fn the_check_finds_a_write_that_never_reached_the_disk() {
    let Some(traced) = traced() else { return };
    let found = traced.points(&[Fault::Phantom]).iter().find_map(|point| traced.play(point).err());
    println!("{}", found.expect("a write that was reported and never made is found"));
}
