//! A power cut, or an input/output error, at every effect of creating, appending, sealing, compacting, collecting, closing and opening.
//!
//! What is checked of each state that can be left: the store opens; every acknowledged append is there; what is there is a beginning of what was
//! appended, whole; every chunk of it reads back; and appending goes on. The check is itself checked: it must find each planted fault.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pleach_chunkstore::io::memory::{Faults, Memory};
use pleach_chunkstore::testing::Plant;
use pleach_chunkstore::{Batch, Chunk, Durability, Error, Hash, Options, Outcome, RefUpdate, Result, Store};

type Image = BTreeMap<String, Vec<u8>>;

const STEPS: u64 = 18;

fn options(durability: Durability) -> Options {
    // Short enough that the steps below seal several journals.
    Options { journal_bytes: 1500, background: false, cache_bytes: 0, durability, ..Options::default() }
}

/// Journals so short that compaction finds some that the active one has differences from.
fn upkept() -> Options {
    Options { journal_bytes: 400, ..options(Durability::Full) }
}

/// The node that step `step` writes: one line differs from the step before.
fn node(step: u64) -> Chunk {
    let text: String =
        (0..12).map(|line| format!("line {line} {}\n", if line == step % 12 { step } else { 0 })).collect();
    Chunk::build(1, 0, text.as_bytes(), None, &[], 0)
}

/// What the ref names after step `step`: the nodes of all steps.
fn root(step: u64) -> Chunk {
    let body: Vec<u8> = (1..=step).flat_map(|step| node(step).hash().as_bytes().to_vec()).collect();
    Chunk::build(2, 1, &body, Some((0, step as u32)), &[], 0)
}

/// A chunk that nothing leads to.
fn garbage(step: u64) -> Chunk {
    Chunk::build(1, 0, format!("garbage {step} {}", "g".repeat(200)).as_bytes(), None, &[], 0)
}

/// What is done beside appending.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Upkeep {
    None,
    CompactAndCollect,
}

/// How far a run came: steps `..=acknowledged` must survive, steps `..=attempted` may.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    created: bool,
    acknowledged: u64,
    attempted: u64,
}

fn step(store: &Store, step: u64, progress: &mut Progress, wait: bool) -> Result<()> {
    let mut batch = Batch::default();
    let base = step.checked_sub(1);
    batch.put(node(step), base.map(|before| *node(before).hash()));
    batch.put(garbage(step), None);
    batch.put(root(step), base.map(|before| *root(before).hash()));
    let old = base.filter(|_| step > 1).map(|before| *root(before).hash());
    let update = RefUpdate { name: "heads/main".into(), old, new: Some(*root(step).hash()) };
    progress.attempted = step;
    match store.append(batch, &[update])? {
        Outcome::Appended(ticket) if wait => {
            ticket.wait()?;
            progress.acknowledged = step;
            Ok(())
        }
        Outcome::Appended(_) => Ok(()),
        Outcome::Moved { name, .. } => panic!("{name} moved"),
    }
}

/// Creates a store, appends, closes, opens, appends, and drops it with appends that no one waited for.
fn run(disk: &Memory, options: &Options, upkeep: Upkeep, progress: &mut Progress) -> Result<()> {
    let store = Store::create_with_io(Arc::new(disk.clone()), options.clone())?;
    progress.created = true;
    for number in 1..=STEPS / 2 {
        step(&store, number, progress, number % 3 != 0)?;
        match (upkeep, number % 4) {
            (Upkeep::CompactAndCollect, 0) => drop(store.compact()?),
            (Upkeep::CompactAndCollect, _) => drop(store.maintain()?),
            _ => {}
        }
    }
    store.close()?;
    let store = Store::open_with_io(Arc::new(disk.clone()), options.clone())?;
    for number in STEPS / 2 + 1..=STEPS {
        step(&store, number, progress, number % 3 != 1)?;
        match (upkeep, number % 4) {
            (Upkeep::CompactAndCollect, 0) => drop(store.collect(false)?),
            (Upkeep::CompactAndCollect, 3) => drop(store.compact()?),
            (Upkeep::CompactAndCollect, _) => drop(store.maintain()?),
            _ => {}
        }
    }
    Ok(())
}

/// Opens what a crash left and compares it with what was promised. Gives the step that the store is at.
fn check(image: &Image, options: &Options, progress: Progress) -> Result<(Memory, u64), String> {
    let disk = Memory::holding(image.clone());
    let store = match Store::open_with_io(Arc::new(disk.clone()), options.clone()) {
        Ok(store) => store,
        Err(Error::NotFound { .. }) if !progress.created => {
            Store::create_with_io(Arc::new(disk.clone()), options.clone())
                .map_err(|error| format!("cannot be created again: {error}"))?
        }
        Err(error) => return Err(format!("does not open: {error}")),
    };
    let sequence = store.sequence();
    if sequence < progress.acknowledged || sequence > progress.attempted {
        return Err(format!("is at {sequence}, promised {progress:?}"));
    }
    let expected: Option<Hash> = (sequence > 0).then(|| *root(sequence).hash());
    if store.get_ref("heads/main") != expected {
        return Err(format!("the ref of step {sequence} is another"));
    }
    for number in 1..=sequence {
        match store.get(node(number).hash()) {
            Ok(Some(chunk)) if chunk.bytes() == node(number).bytes() => {}
            other => return Err(format!("chunk {number} of {sequence}: {other:?}")),
        }
        // Roots of before are garbage: they are there, with all under them, or they are not.
        match store.get(root(number).hash()) {
            Ok(Some(chunk)) if chunk.children().all(|child| store.contains(&child)) => {}
            Ok(None) if number < sequence => {}
            other => return Err(format!("root {number} of {sequence}: {other:?}")),
        }
    }
    let mut further = Progress { created: true, acknowledged: sequence, attempted: sequence };
    step(&store, sequence + 1, &mut further, true).map_err(|error| format!("cannot append: {error}"))?;
    drop(store);
    let store = Store::open_with_io(Arc::new(disk.clone()), options.clone())
        .map_err(|error| format!("does not open after appending: {error}"))?;
    match store.sequence() == sequence + 1 {
        true => Ok((disk, sequence)),
        false => Err("an append after the crash is lost".to_owned()),
    }
}

/// A sequence of choices that is the same for the same seed.
fn choices(seed: u64) -> impl FnMut() -> bool {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        match seed {
            0 => false,
            1 => true,
            _ => state >> 33 & 1 == 1,
        }
    }
}

/// Cuts the power at each effect of `run`, keeps several mixtures of what was not synced, and checks each; within the recovery of some, cuts
/// the power again. Gives the number of states checked, or what was found.
fn explore(plant: impl Fn(&mut Faults), options: &Options, upkeep: Upkeep) -> Result<u64, String> {
    const SEEDS: u64 = 8;
    let mut states = 0;
    for cut in 1.. {
        let disk = Memory::simulated();
        disk.with_faults(|faults| {
            plant(faults);
            faults.power_cut_at = Some(cut);
        });
        let mut progress = Progress::default();
        let done = run(&disk, options, upkeep, &mut progress).is_ok();
        for seed in 0..SEEDS {
            let image = disk.after_power_cut(choices(seed + if seed > 1 { cut * SEEDS } else { 0 }));
            let (_, sequence) = check(&image, options, progress)
                .map_err(|found| format!("power cut at call {cut}, seed {seed}: {found}"))?;
            states += 1;
            states +=
                again(&image, options, upkeep, Progress { acknowledged: sequence, ..progress }, cut + seed)
                    .map_err(|found| {
                    format!("power cuts at call {cut} and then in recovery, seed {seed}: {found}")
                })?;
        }
        if done && disk.with_faults(|faults| faults.calls < cut).unwrap() {
            return Ok(states);
        }
    }
    unreachable!("a run has an end")
}

/// Opens `image`, appends, and cuts the power in between.
fn again(
    image: &Image,
    options: &Options,
    upkeep: Upkeep,
    progress: Progress,
    seed: u64,
) -> Result<u64, String> {
    let disk = Memory::holding(image.clone());
    disk.with_faults(|faults| {
        faults.power_cut_at = Some(1 + seed % if upkeep == Upkeep::None { 12 } else { 40 })
    });
    let mut further = progress;
    if let Ok(store) = Store::open_with_io(Arc::new(disk.clone()), options.clone()) {
        // What was read at the opening was shown to readers: it must survive as if acknowledged.
        further.acknowledged = store.sequence();
        let done = step(&store, store.sequence() + 1, &mut further, true);
        if done.is_ok() && upkeep == Upkeep::CompactAndCollect {
            let _ = store.collect(false).and_then(|_| store.compact());
        }
        further.attempted = further.attempted.max(progress.attempted);
    }
    check(&disk.after_power_cut(choices(seed)), options, further).map(|_| 1)
}

#[test]
fn a_power_cut_at_any_effect_loses_nothing_acknowledged() {
    let states = explore(|_| {}, &options(Durability::Full), Upkeep::None).unwrap();
    println!("{states} states after power cuts, none lost an acknowledged append");
    assert!(states > 1000, "{states}");
}

#[test]
fn a_power_cut_at_any_effect_of_compaction_or_collection_loses_nothing() {
    let states = explore(|_| {}, &upkept(), Upkeep::CompactAndCollect).unwrap();
    println!("{states} states after power cuts beside compactions and collections, nothing in use was lost");
    assert!(states > 3000, "{states}");
}

#[test]
fn the_check_finds_a_missing_data_sync() {
    let found = explore(|faults| faults.ignore_sync_data = true, &options(Durability::Full), Upkeep::None)
        .unwrap_err();
    println!("{found}");
}

#[test]
fn the_check_finds_a_missing_directory_sync() {
    let found = explore(|faults| faults.ignore_sync_dir = true, &options(Durability::Full), Upkeep::None)
        .unwrap_err();
    println!("{found}");
}

/// What [`explore`] finds of a planted fault.
fn found(plant: Plant) -> String {
    let options = Options { plant: Some(plant), ..upkept() };
    explore(|_| {}, &options, Upkeep::CompactAndCollect).unwrap_err()
}

#[test]
fn the_check_finds_a_manifest_that_is_durable_before_the_table() {
    println!("{}", found(Plant::ManifestBeforeTable));
}

#[test]
fn the_check_finds_a_base_dropped_under_a_difference_in_use() {
    println!("{}", found(Plant::BaseDropped));
}

#[test]
fn the_check_finds_an_acknowledgement_before_the_sync() {
    let eager = Durability::Eventual { interval: Duration::from_secs(3600) };
    let found = explore(|_| {}, &options(eager), Upkeep::None).unwrap_err();
    println!("{found}");
}

#[test]
fn an_error_at_any_effect_is_reported_and_loses_nothing_acknowledged() {
    for upkeep in [Upkeep::None, Upkeep::CompactAndCollect] {
        let states = explore_errors(&options(Durability::Full), upkeep).unwrap();
        println!("{states} states after input/output errors");
    }
}

#[test]
fn the_check_finds_a_failed_sync_that_is_tried_again() {
    let options = Options { plant: Some(Plant::SyncAgain), ..options(Durability::Full) };
    println!("{}", explore_errors(&options, Upkeep::None).unwrap_err());
}

/// Fails each effect of `run` in turn, cuts the power afterwards, and checks what is left.
fn explore_errors(options: &Options, upkeep: Upkeep) -> Result<u64, String> {
    let mut states = 0;
    for at in 1.. {
        let disk = Memory::simulated();
        disk.with_faults(|faults| faults.error_at = Some(at));
        let mut progress = Progress::default();
        let _ = run(&disk, options, upkeep, &mut progress);
        for seed in 0..4 {
            let image = disk.after_power_cut(choices(seed + if seed > 1 { at * 4 } else { 0 }));
            check(&image, options, progress)
                .map_err(|found| format!("error at call {at}, seed {seed}: {found}"))?;
            states += 1;
        }
        if disk.with_faults(|faults| faults.calls < at).unwrap() {
            return Ok(states);
        }
    }
    unreachable!("a run has an end")
}

#[test]
fn an_eventual_store_loses_only_the_last_appends() {
    let eventual = Durability::Eventual { interval: Duration::from_secs(3600) };
    let disk = Memory::simulated();
    let store = Store::create_with_io(Arc::new(disk.clone()), options(eventual)).unwrap();
    let mut progress = Progress { created: true, ..Progress::default() };
    for number in 1..=6 {
        step(&store, number, &mut progress, true).unwrap();
        assert_eq!(store.sequence(), number, "refs show at once");
    }
    for seed in 0..50 {
        let image = disk.after_power_cut(choices(seed));
        check(&image, &options(eventual), Progress { acknowledged: 0, ..progress }).unwrap();
    }
    store.close().unwrap();
    let image = disk.after_power_cut(choices(0));
    assert_eq!(check(&image, &options(eventual), progress).unwrap().1, 6);
}
