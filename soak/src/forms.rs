//! The forms: what each is called, which faults can be planted in it, and how it runs.
//!
//! What they try and check is in `pleach-tests` and in `pleach_chunkstore::testing`, where the tests have it from too.

use pleach_chunkstore::testing::power::{self, power_cuts};
use pleach_tests::{
    kills::Victim,
    small_disk::{Level, SmallDisk, fill_and_free},
    syscalls::{Fault, Traced},
};

use crate::{Plant, Run, Stop, cluster, cuts, lazyfs, log_writes, replicas, tokens};

/// A named long test.
pub(crate) struct Form {
    pub(crate) name: &'static str,
    pub(crate) plants: &'static [Plant],
    /// Gives what it counted.
    pub(crate) run: fn(&Run) -> Result<String, Stop>,
}

pub(crate) const FORMS: [Form; 10] = [
    Form {
        name: "power-cuts",
        plants: &[Plant::NoDataSync, Plant::NoDirSync, Plant::EarlyAck],
        run: simulated_power_cuts,
    },
    Form { name: "kills", plants: &[Plant::EarlyAck], run: kills },
    Form { name: "syscalls", plants: &[Plant::LostWrite], run: syscalls },
    Form { name: "full-disk", plants: &[Plant::EarlyAck], run: full_disk },
    Form { name: "cuts", plants: &[Plant::NoResume, Plant::SkippedChunks], run: cuts::run },
    Form { name: "replicas", plants: &[Plant::EarlyAck, Plant::StaleReads], run: replicas::run },
    Form { name: "cluster", plants: &[Plant::EarlyAck, Plant::NoToken], run: cluster::run },
    Form { name: "tokens", plants: &[Plant::NoToken], run: tokens::run },
    Form { name: "lazyfs", plants: &[Plant::NoDataSync], run: lazyfs::run },
    Form { name: "log-writes", plants: &[Plant::NoDataSync], run: log_writes::run },
];

/// A form that tried nothing, or in which nothing got through, has checked nothing: that is no success.
pub(crate) fn checked(counts: &[(&str, u64)]) -> Result<(), Stop> {
    let none = counts.iter().find(|(_, count)| *count == 0);
    none.map_or(Ok(()), |(what, _)| Err(Stop::Found(format!("nothing was checked: no {what}"))))
}

/// Random workloads on the simulated disk, a seed after another.
fn simulated_power_cuts(run: &Run) -> Result<String, Stop> {
    let plant = run.plant.map(|plant| match plant {
        Plant::NoDirSync => power::Plant::NoDirSync,
        Plant::EarlyAck => power::Plant::EarlyAck,
        _ => power::Plant::NoDataSync,
    });
    let (mut seed, mut states) = (run.seed, 0);
    while run.goes_on() {
        states += power_cuts(seed, plant)?;
        seed += 1;
    }
    checked(&[("states", states)])?;
    Ok(format!("{states} states of {} random workloads", seed - run.seed))
}

/// kill -9 of a server under several clients.
fn kills(run: &Run) -> Result<String, Stop> {
    let mut victim = Victim::new(4, run.plant == Some(Plant::EarlyAck));
    let mut round = run.seed;
    let mut counts = victim.round(0)?;
    while run.goes_on() {
        // From at once to some dozens of writes.
        counts = victim.round(round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59)?;
        round += 1;
    }
    checked(&[("kills", counts.kills), ("writes acknowledged", counts.acknowledged)])?;
    Ok(format!(
        "{} kills, {} collections, {} writes acknowledged, {} there without",
        counts.kills, counts.collections, counts.acknowledged, counts.unacknowledged
    ))
}

/// Every fault at every system call, once.
fn syscalls(run: &Run) -> Result<String, Stop> {
    let traced = Traced::new().map_err(Stop::Missing)?;
    let faults: &[Fault] = match run.plant {
        Some(_) => &[Fault::Phantom],
        None => &[Fault::Kill, Fault::Error("EIO"), Fault::Error("ENOSPC"), Fault::Error("EDQUOT")],
    };
    let points = traced.points(faults);
    let mut happened = 0;
    for point in &points {
        happened += usize::from(traced.play(point)?);
    }
    checked(&[("faults that happened", happened as u64)])?;
    Ok(format!("{} faults at system calls, {happened} happened", points.len()))
}

/// Every level of a full disk, byte by byte of the value that no longer fits.
fn full_disk(run: &Run) -> Result<String, Stop> {
    let disk = SmallDisk::mount().map_err(Stop::Missing)?;
    let (mut levels, mut acknowledged, mut refused) = (0, 0, 0);
    while run.goes_on() {
        let n = run.seed + levels;
        let level = Level { free: n % 12 * 4096, value_bytes: 600 + (n * 61 % 4096) as usize };
        let seen = fill_and_free(&disk, level, run.plant.is_some())?;
        levels += 1;
        acknowledged += seen.acknowledged;
        refused += seen.refused;
    }
    checked(&[("writes acknowledged", acknowledged), ("writes refused", refused)])?;
    Ok(format!("{levels} levels, {acknowledged} writes acknowledged, {refused} refused"))
}
