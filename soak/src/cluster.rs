//! `cluster`: nodes that are killed, stopped, cut off and given roles, under clients that write and read. What is done and checked is in `pleach_tests::failovers`.

use pleach_tests::failovers::{Counts, Planted, round};

use crate::{Plant, Run, Stop};

pub(crate) fn run(run: &Run) -> Result<String, Stop> {
    let planted = run.plant.map(|plant| match plant {
        Plant::EarlyAck => Planted::EarlyAck,
        _ => Planted::NoToken,
    });
    let (counts, mut seed) = (Counts::default(), run.seed);
    while run.goes_on() {
        round(seed, planted, &counts).map_err(|what| format!("seed {seed}: {what}"))?;
        seed += 1;
        if (seed - run.seed).is_multiple_of(20) {
            eprintln!("{} rounds so far: {counts}", seed - run.seed);
        }
    }
    if let Some(what) = counts.lack() {
        return Err(Stop::Found(format!("{what}: {counts}")));
    }
    let rounds = seed - run.seed;
    Ok(format!(
        "{rounds} rounds: {counts}; none was stale or lost, no epoch had two primaries, and all were the same at the end of each"
    ))
}
