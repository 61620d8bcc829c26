//! Power cuts in random workloads on a simulated disk.
//!
//! One idea: everything follows from a seed: how the store is opened, what is done, at which effect the power goes off or a call fails, and
//! which of the unsynced sectors survive. What is promised of whatever is left: it opens; its refs are those after one of the appends
//! tried, not before the last one acknowledged; every chunk that they lead to reads back; and appending goes on. While that is checked the
//! power may go off again.
//!
//! Called by this crate's tests for seconds, and by `pleach-soak` for hours.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::chunk::Chunk;
use crate::io::memory::Memory;
use crate::{Batch, Compression, Durability, Error, Options, Outcome, RefUpdate, Result, Store};

/// A fault that must be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// Syncing a file does nothing.
    NoDataSync,
    /// Syncing the directory does nothing.
    NoDirSync,
    /// An append is acknowledged before it is synced.
    EarlyAck,
}

/// Runs the workload of `seed` with some power cuts and checks what each can leave. Gives the number of states checked, or what was found.
pub fn power_cuts(seed: u64, plant: Option<Plant>) -> Result<u64, String> {
    const CUTS: u64 = 6;
    const MIXTURES: u64 = 4;
    let (_, _, effects) = Run::new(seed, plant).play(|_| {});
    let mut states = 0;
    for cut in 0..CUTS {
        let mut random = Random::new(seed ^ cut << 48);
        let at = 1 + random.below(effects + 2);
        let fails = random.below(4) == 0;
        let (disk, progress, _) = Run::new(seed, plant).play(|faults| match fails {
            true => faults.error_at = Some(at),
            false => faults.power_cut_at = Some(at),
        });
        for mixture in 0..MIXTURES {
            let image = disk.after_power_cut(survivors(mixture, &mut random));
            let what = if fails { "error" } else { "power cut" };
            states += check(image, &progress, &mut random).map_err(|found| {
                format!("seed {seed}, {what} at effect {at} of {effects}, mixture {mixture}: {found}")
            })?;
        }
    }
    Ok(states)
}

/// Which of the unsynced things survive: none, all, or a random mixture.
fn survivors(mixture: u64, random: &mut Random) -> impl FnMut() -> bool {
    let mut random = Random::new(random.next());
    move || match mixture {
        0 => false,
        1 => true,
        _ => random.below(2) == 0,
    }
}

/// Files by name.
type Image = BTreeMap<String, Vec<u8>>;

/// A root and its leaves.
struct Tree {
    root: Chunk,
    leaves: Vec<Chunk>,
}

/// What each ref names.
type State = BTreeMap<String, Arc<Tree>>;

/// What was promised, and what was tried.
#[derive(Default)]
struct Progress {
    created: bool,
    /// Appends up to this one must survive.
    acknowledged: usize,
    /// The state after each append tried; the first is empty.
    states: Vec<State>,
}

/// A workload under way.
struct Run {
    random: Random,
    options: Options,
    plant: Option<Plant>,
    progress: Progress,
}

impl Run {
    fn new(seed: u64, plant: Option<Plant>) -> Run {
        let mut random = Random::new(seed);
        let early = Durability::Eventual { interval: Duration::from_secs(3600) };
        let options = Options {
            cache_bytes: [0, 1 << 20][random.below(2) as usize],
            durability: if plant == Some(Plant::EarlyAck) { early } else { Durability::Full },
            delta: random.below(4) > 0,
            // Short, so that journals are sealed.
            journal_bytes: 1000 << random.below(5),
            compression: [Compression::None, Compression::Fast, Compression::Dense][random.below(3) as usize],
            background: false,
            ..Options::default()
        };
        Run {
            random,
            options,
            plant,
            progress: Progress { states: vec![State::new()], ..Progress::default() },
        }
    }

    /// Gives the disk afterwards, how far it came, and the number of effects.
    fn play(mut self, fault: impl Fn(&mut crate::io::memory::Faults)) -> (Memory, Progress, u64) {
        let disk = Memory::simulated();
        disk.with_faults(|faults| {
            faults.ignore_sync_data = self.plant == Some(Plant::NoDataSync);
            faults.ignore_sync_dir = self.plant == Some(Plant::NoDirSync);
            fault(faults);
        });
        // The first error ends it: the power is off, or it is reported.
        let _ = self.work(&disk);
        let effects = disk.with_faults(|faults| faults.calls).unwrap_or_default();
        (disk, self.progress, effects)
    }

    fn work(&mut self, disk: &Memory) -> Result<()> {
        let mut store = Store::create_with_io(Arc::new(disk.clone()), self.options.clone())?;
        self.progress.created = true;
        for _ in 0..5 + self.random.below(40) {
            match self.random.below(12) {
                0 => {
                    if self.random.below(2) == 0 {
                        store.close()?;
                        self.progress.acknowledged = self.progress.states.len() - 1;
                    } else {
                        drop(store);
                    }
                    store = Store::open_with_io(Arc::new(disk.clone()), self.options.clone())?;
                }
                1 => drop(store.compact()?),
                2 => drop(store.collect(false)?),
                _ => self.append(&store)?,
            }
        }
        if self.random.below(2) == 0 { store.close() } else { Ok(()) }
    }

    fn append(&mut self, store: &Store) -> Result<()> {
        let mut state = self.progress.states.last().cloned().unwrap_or_default();
        let (batch, update) = edit(&mut state, &mut self.random);
        self.progress.states.push(state);
        let tried = self.progress.states.len() - 1;
        match store.append(batch, &[update])? {
            // Else a later append waits for this one too, or none does.
            Outcome::Appended(ticket) if self.random.below(3) > 0 => {
                ticket.wait()?;
                self.progress.acknowledged = tried;
                Ok(())
            }
            Outcome::Appended(_) => Ok(()),
            Outcome::Moved { name, .. } => unreachable!("nobody else moves {name}"),
        }
    }
}

/// Changes a ref: some leaves of its tree, what tree it names, or that it is there.
fn edit(state: &mut State, random: &mut Random) -> (Batch, RefUpdate) {
    let name = format!("heads/{}", random.below(3));
    let old = state.get(&name).cloned();
    let mut batch = Batch::default();
    let other = state.values().nth(random.below(3) as usize).filter(|other| {
        // Naming the same once more would be no change, and no record.
        old.as_ref().is_none_or(|old| old.root.hash() != other.root.hash())
    });
    let new = match (random.below(10), &old, other) {
        (0, Some(_), _) => None,
        (1, _, Some(other)) => Some(other.clone()),
        _ => Some(Arc::new(edited(old.as_deref(), &mut batch, random))),
    };
    match &new {
        Some(tree) => state.insert(name.clone(), tree.clone()),
        None => state.remove(&name),
    };
    let hash = |tree: &Option<Arc<Tree>>| tree.as_ref().map(|tree| *tree.root.hash());
    (batch, RefUpdate { name, old: hash(&old), new: hash(&new) })
}

/// A tree that differs from `old` in a few leaves; what is new of it goes into the batch.
fn edited(old: Option<&Tree>, batch: &mut Batch, random: &mut Random) -> Tree {
    let mut leaves = old.map(|tree| tree.leaves.clone()).unwrap_or_default();
    for _ in 0..1 + random.below(3) {
        let at = random.below(8).min(leaves.len() as u64) as usize;
        let base = leaves.get(at).cloned();
        let mut body = match &base {
            Some(base) if random.below(8) > 0 => base.body().to_vec(),
            _ => (0..20 + random.below(1500)).map(|n| (n / 7) as u8).collect(),
        };
        let from = random.below(body.len() as u64 - 10) as usize;
        body[from..from + 8].copy_from_slice(&random.next().to_le_bytes());
        let leaf = Chunk::build(1, 0, &body, None, &[], 0);
        batch.put(leaf.clone(), base.map(|base| *base.hash()));
        match leaves.get_mut(at) {
            Some(place) => *place = leaf,
            None => leaves.push(leaf),
        }
    }
    let addresses: Vec<u8> = leaves.iter().flat_map(|leaf| *leaf.hash().as_bytes()).collect();
    let root = Chunk::build(1, 1, &addresses, Some((0, leaves.len() as u32)), &[], 0);
    batch.put(root.clone(), old.map(|tree| *tree.root.hash()));
    Tree { root, leaves }
}

/// Holds what is left against the promise, perhaps after another power cut while it is opened; gives the number of states seen.
fn check(image: Image, progress: &Progress, random: &mut Random) -> Result<u64, String> {
    let most = progress.states.len() - 1;
    if random.below(2) == 0 {
        let disk = Memory::holding(image);
        check_left(&disk, progress, progress.acknowledged..=most)?;
        return Ok(1);
    }
    let disk = Memory::holding(image);
    disk.with_faults(|faults| faults.power_cut_at = Some(1 + random.below(12)));
    let mut least = progress.acknowledged;
    if let Ok(store) = Store::open_with_io(Arc::new(disk.clone()), options()) {
        // What was shown to readers must stay as if acknowledged.
        least = store.sequence() as usize;
        let _ = store.compact();
    }
    let mixture = random.below(4);
    let disk = Memory::holding(disk.after_power_cut(survivors(mixture, random)));
    check_left(&disk, progress, least..=most).map_err(|found| format!("and again at opening: {found}"))?;
    Ok(2)
}

fn check_left(disk: &Memory, progress: &Progress, promised: RangeInclusive<usize>) -> Result<(), String> {
    let open = || Store::open_with_io(Arc::new(disk.clone()), options());
    let store = match open() {
        Err(Error::NotFound { .. }) if !progress.created => {
            Store::create_with_io(Arc::new(disk.clone()), options())
                .map_err(|error| format!("cannot be made again: {error}"))?
        }
        other => other.map_err(|error| format!("does not open: {error}"))?,
    };
    let found = store.sequence() as usize;
    if !promised.contains(&found) {
        return Err(format!("it is at {found}, promised {promised:?}"));
    }
    let mut state = progress.states[found].clone();
    check_state(&store, &state)?;
    // And it goes on.
    let (batch, update) = edit(&mut state, &mut Random::new(found as u64));
    match store.append(batch, &[update]) {
        Ok(Outcome::Appended(ticket)) => ticket.wait().map_err(|error| format!("cannot sync: {error}"))?,
        Ok(Outcome::Moved { name, .. }) => return Err(format!("{name} is not what it shows")),
        Err(error) => return Err(format!("cannot append: {error}")),
    }
    for what in ["appending", "compaction", "collection"] {
        match what {
            "compaction" => store.compact().map(drop),
            "collection" => store.collect(false).map(drop),
            _ => Ok(()),
        }
        .map_err(|error| format!("{what} fails: {error}"))?;
        check_state(&store, &state).map_err(|found| format!("after {what}: {found}"))?;
    }
    drop(store);
    let store = open().map_err(|error| format!("does not open after going on: {error}"))?;
    check_state(&store, &state).map_err(|found| format!("opened after going on: {found}"))
}

fn check_state(store: &Store, state: &State) -> Result<(), String> {
    let expected: Vec<_> = state.iter().map(|(name, tree)| (name.clone(), *tree.root.hash())).collect();
    let found = store.refs("");
    if found != expected {
        return Err(format!("refs {found:?}, expected {expected:?}"));
    }
    for chunk in state.values().flat_map(|tree| tree.leaves.iter().chain([&tree.root])) {
        match store.get(chunk.hash()) {
            Ok(Some(found)) if found.bytes() == chunk.bytes() => {}
            Ok(Some(_)) => return Err(format!("chunk {} holds other bytes", chunk.hash())),
            Ok(None) => return Err(format!("chunk {} is missing", chunk.hash())),
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}

/// How what is left is opened.
fn options() -> Options {
    Options { cache_bytes: 0, journal_bytes: 2000, background: false, ..Options::default() }
}

/// Numbers that are the same for the same seed.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 16) % end
    }
}
