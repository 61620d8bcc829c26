//! Questions about the graph of commits: ancestry, merge bases, the log.
//!
//! All walk from the newest commits towards older ones by generation, so that they stop as soon as the generation says
//! that the answer cannot lie deeper.

use std::collections::{BinaryHeap, HashMap, HashSet};

use pleach_chunkstore::{Hash, Store};

use crate::{
    chunks::{self, Read},
    commit::Commit,
    error::Result,
};

pub(crate) fn load(reader: &impl Read, hash: &Hash) -> Result<Commit> {
    Commit::decode(&reader.chunk(hash)?)
}

/// Whether `ancestor` is `of` or one of its ancestors.
pub(crate) fn is_ancestor(reader: &impl Read, ancestor: &Hash, of: &Hash) -> Result<bool> {
    let lowest = load(reader, ancestor)?.generation;
    let mut seen = HashSet::new();
    let mut open = vec![*of];
    while let Some(hash) = open.pop() {
        if hash == *ancestor {
            return Ok(true);
        }
        if seen.insert(hash) {
            let commit = load(reader, &hash)?;
            if commit.generation > lowest {
                open.extend(commit.parents);
            }
        }
    }
    Ok(false)
}

/// The common ancestor of `a` and `b` with the highest generation; of several, the one with the lowest address.
pub(crate) fn merge_base(reader: &impl Read, a: &Hash, b: &Hash) -> Result<Option<Hash>> {
    const FROM_A: u8 = 1;
    const FROM_B: u8 = 2;
    let mut sides: HashMap<Hash, u8> = HashMap::new();
    let mut open = BinaryHeap::new();
    for (start, side) in [(a, FROM_A), (b, FROM_B)] {
        *sides.entry(*start).or_default() |= side;
        open.push((load(reader, start)?.generation, std::cmp::Reverse(*start)));
    }
    // Highest generation first: when a commit comes out, all its descendants have marked it.
    while let Some((_, std::cmp::Reverse(hash))) = open.pop() {
        let side = sides.get(&hash).copied().unwrap_or_default();
        if side == FROM_A | FROM_B {
            return Ok(Some(hash));
        }
        for parent in load(reader, &hash)?.parents {
            let marks = sides.entry(parent).or_default();
            if *marks == 0 {
                open.push((load(reader, &parent)?.generation, std::cmp::Reverse(parent)));
            }
            *marks |= side;
        }
    }
    Ok(None)
}

/// Commits that some starts reach, each once, newest first. Keeps them as long as it lives.
pub struct Log {
    reader: Store,
    /// Handles that keep the starts.
    _pins: Vec<Store>,
    open: BinaryHeap<(i64, u64, Hash)>,
    seen: HashSet<Hash>,
}

impl Log {
    pub(crate) fn new(reader: Store, starts: &[Hash]) -> Result<Log> {
        let pins = starts.iter().map(|start| chunks::pin(&reader, start)).collect::<Result<_>>()?;
        let mut log = Log { reader, _pins: pins, open: BinaryHeap::new(), seen: HashSet::new() };
        starts.iter().try_for_each(|start| log.add(*start))?;
        Ok(log)
    }

    fn add(&mut self, hash: Hash) -> Result<()> {
        if self.seen.insert(hash) {
            let commit = load(&self.reader, &hash)?;
            self.open.push((commit.date_micros, commit.generation, hash));
        }
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<(Hash, Commit)>> {
        let Some((_, _, hash)) = self.open.pop() else { return Ok(None) };
        let commit = load(&self.reader, &hash)?;
        for parent in &commit.parents {
            self.add(*parent)?;
        }
        Ok(Some((hash, commit)))
    }
}

impl Iterator for Log {
    type Item = Result<(Hash, Commit)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

/// The commits that `targets` reach and `bases` do not, parents before children.
pub(crate) fn missing(reader: &impl Read, targets: &[Hash], bases: &[Hash]) -> Result<Vec<Hash>> {
    const WANTED: u8 = 1;
    const HELD: u8 = 2;
    let mut marks: HashMap<Hash, u8> = HashMap::new();
    let mut open = BinaryHeap::new();
    for (starts, mark) in [(targets, WANTED), (bases, HELD)] {
        for start in starts {
            let marked = marks.entry(*start).or_default();
            if *marked == 0 {
                open.push((load(reader, start)?.generation, *start));
            }
            *marked |= mark;
        }
    }
    let mut missing = Vec::new();
    let mut wanted_open = targets.iter().collect::<HashSet<_>>().len();
    while wanted_open > 0 {
        let Some((_, hash)) = open.pop() else { break };
        let mark = marks.get(&hash).copied().unwrap_or_default();
        if mark & WANTED != 0 {
            wanted_open -= 1;
        }
        if mark == WANTED {
            missing.push(hash);
        }
        for parent in load(reader, &hash)?.parents {
            let marked = marks.entry(parent).or_default();
            if *marked == 0 {
                open.push((load(reader, &parent)?.generation, parent));
            }
            // What is held reaches only what is held.
            let passed_on = if mark & HELD != 0 { HELD } else { WANTED };
            if passed_on == WANTED && *marked & WANTED == 0 {
                wanted_open += 1;
            }
            *marked |= passed_on;
        }
    }
    missing.reverse();
    Ok(missing)
}
