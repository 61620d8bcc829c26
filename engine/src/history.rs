//! Questions about the graph of commits: ancestry, merge bases, the log.
//!
//! All walk from the newest commits towards older ones by generation, so that they stop as soon as the generation says that the answer
//! cannot lie deeper. Where commits have one parent each (a [`Lineage`](crate::Lineage) says how far), they are passed over by skip links, in
//! a number of steps that grows with the logarithm of theirs. A link is taken only where the walk by parents would come past what it
//! names: so links change what a walk costs, and never what it answers or needs to be here.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
};

use pleach_chunkstore::{Hash, Store};

use crate::{
    chunks::{self, Read},
    commit::Commit,
    error::{Error, Result},
    lineage::skip_depth,
};

pub(crate) fn load(reader: &impl Read, hash: &Hash) -> Result<Commit> {
    Commit::decode(&reader.chunk(hash)?)
}

/// The commit at `depth`, from 1 to its own, on the chain of first parents that begins with the commit at `hash`.
pub(crate) fn on_chain(
    reader: &impl Read,
    mut hash: Hash,
    mut commit: Commit,
    depth: u64,
) -> Result<(Hash, Commit)> {
    while commit.lineage.depth > depth {
        let far = skip_depth(commit.lineage.depth);
        let (next, expected) = match far >= depth.max(1) {
            true => (commit.far(), far),
            false => (commit.parents.first().copied(), commit.lineage.depth - 1),
        };
        let next = next.ok_or_else(|| Error::malformed(&hash, "expected a first parent"))?;
        commit = load(reader, &next)?;
        if commit.lineage.depth != expected {
            let what = format!("expected a commit of depth {expected}, found {}", commit.lineage.depth);
            return Err(Error::malformed(&next, what));
        }
        hash = next;
    }
    Ok((hash, commit))
}

/// The last commit that a walk down from one must come past, whatever it looks for, if that is of generation `lowest` or more: there the
/// graph forks or ends, or the generation is reached.
fn down_straight(reader: &impl Read, hash: Hash, commit: Commit, lowest: u64) -> Result<(Hash, Commit)> {
    let steps = commit.lineage.straight.min(commit.lineage.generation.saturating_sub(lowest));
    let depth = commit.lineage.depth - steps;
    on_chain(reader, hash, commit, depth)
}

/// Whether `ancestor` is `of` or one of its ancestors.
pub(crate) fn is_ancestor(reader: &impl Read, ancestor: &Hash, of: &Hash) -> Result<bool> {
    let sought = load(reader, ancestor)?.lineage;
    let newest = load(reader, of)?;
    let mut seen = HashSet::new();
    // Above it there is only the chain: the ancestor is at its depth there, or nowhere.
    let is_straight = newest.lineage.generation - newest.lineage.straight <= sought.generation;
    // What was merged was mostly merged soon: so the chain is tried from the ancestor's depth upwards, at doubling distances, and each try
    // stops where an earlier one was.
    let mut above = 0;
    loop {
        let depth = sought.depth.saturating_add(above);
        let is_last = depth >= newest.lineage.depth;
        let (from, _) = on_chain(reader, *of, newest.clone(), depth)?;
        if reaches(reader, from, ancestor, sought.generation, &mut seen)? {
            return Ok(true);
        }
        if is_last || is_straight {
            return Ok(false);
        }
        above = (2 * above).max(1);
    }
}

/// Whether `from` is `ancestor`, of that generation, or reaches it. None of `seen` does; all that is looked at is added.
fn reaches(
    reader: &impl Read,
    from: Hash,
    ancestor: &Hash,
    generation: u64,
    seen: &mut HashSet<Hash>,
) -> Result<bool> {
    let mut open = vec![from];
    while let Some(hash) = open.pop() {
        if !seen.insert(hash) {
            continue;
        }
        let commit = load(reader, &hash)?;
        let (hash, commit) = down_straight(reader, hash, commit, generation)?;
        if hash == *ancestor {
            return Ok(true);
        }
        seen.insert(hash);
        if commit.lineage.generation > generation {
            open.extend(commit.parents);
        }
    }
    Ok(false)
}

/// Generation first; of one generation the lowest address is last.
type Key = (u64, Reverse<Hash>);

/// Commits that a walk has come to and not passed. Whoever passes the newest first comes to each once.
struct Open<'a, R> {
    reader: &'a R,
    commits: BTreeMap<Key, Commit>,
}

impl<'a, R: Read> Open<'a, R> {
    fn at(reader: &'a R, starts: &[Hash]) -> Result<Self> {
        let mut open = Open { reader, commits: BTreeMap::new() };
        starts.iter().try_for_each(|start| open.add(*start))?;
        Ok(open)
    }

    fn add(&mut self, hash: Hash) -> Result<()> {
        let commit = load(self.reader, &hash)?;
        self.put(hash, commit);
        Ok(())
    }

    fn put(&mut self, hash: Hash, commit: Commit) {
        self.commits.insert((commit.lineage.generation, Reverse(hash)), commit);
    }

    fn newest(&self) -> Option<(&Key, &Commit)> {
        self.commits.last_key_value()
    }

    /// Puts its parents in the place of the newest commit; or, if only commits of one parent each lie between, an ancestor of it further
    /// down whose generation is not below `lowest`.
    fn pass_newest(&mut self, lowest: u64) -> Result<()> {
        let Some(((generation, Reverse(hash)), commit)) = self.commits.pop_last() else { return Ok(()) };
        if commit.lineage.straight == 0 || generation <= lowest {
            return commit.parents.into_iter().try_for_each(|parent| self.add(parent));
        }
        let (hash, commit) = down_straight(self.reader, hash, commit, lowest)?;
        self.put(hash, commit);
        Ok(())
    }

    /// The newest commits, all of one generation.
    fn level(&self) -> impl Iterator<Item = (Hash, &Commit)> {
        let newest = self.newest().map(|((generation, _), _)| *generation);
        let all = self.commits.iter().rev();
        let level = all.take_while(move |((generation, _), _)| Some(*generation) == newest);
        level.map(|((_, Reverse(hash)), commit)| (*hash, commit))
    }

    /// The generation of the commits next to [`Open::level`]; 0 without any.
    fn next_generation(&self) -> u64 {
        self.commits.keys().rev().nth(self.level().count()).map_or(0, |(generation, _)| *generation)
    }

    /// Puts the ancestors so many steps down their chains in the place of [`Open::level`].
    fn pass_level(&mut self, steps: u64) -> Result<()> {
        let level: Vec<(Hash, Commit)> = self.level().map(|(hash, commit)| (hash, commit.clone())).collect();
        for (hash, commit) in level {
            self.commits.remove(&(commit.lineage.generation, Reverse(hash)));
            let depth = commit.lineage.depth.saturating_sub(steps);
            let (hash, commit) = on_chain(self.reader, hash, commit, depth)?;
            self.put(hash, commit);
        }
        Ok(())
    }
}

/// The common ancestor of `a` and `b` with the highest generation; of several, the one with the lowest address.
pub(crate) fn merge_base(reader: &impl Read, a: &Hash, b: &Hash) -> Result<Option<Hash>> {
    let (mut ours, mut theirs) = (Open::at(reader, &[*a])?, Open::at(reader, &[*b])?);
    while let (Some((our, _)), Some((their, _))) = (ours.newest(), theirs.newest()) {
        let (our, their) = (*our, *their);
        match our.cmp(&their) {
            // All descendants of it on either side were passed.
            Ordering::Equal => return Ok(Some(our.1.0)),
            _ if our.0 == their.0 && pass_together(&mut ours, &mut theirs)? => {}
            Ordering::Greater => ours.pass_newest(their.0)?,
            Ordering::Less => theirs.pass_newest(our.0)?,
        }
    }
    Ok(None)
}

/// Of two walks whose newest commits are of one generation: passes over commits of one parent on both, until a chain of the one meets
/// a chain of the other. False, and nothing is done, if there are too few commits to pass over for that.
fn pass_together<R: Read>(ours: &mut Open<'_, R>, theirs: &mut Open<'_, R>) -> Result<bool> {
    let both = || ours.level().chain(theirs.level());
    let straight = both().map(|(_, commit)| commit.lineage.straight).min().unwrap_or(0);
    let generation = both().map(|(_, commit)| commit.lineage.generation).max().unwrap_or(0);
    let next = ours.next_generation().max(theirs.next_generation());
    let mut steps = straight.min(generation - next);
    if steps < (ours.level().count() * theirs.level().count()) as u64 {
        return Ok(false);
    }
    for (our, our_commit) in ours.level() {
        for (their, their_commit) in theirs.level() {
            // Generation and depth go down together here: commits of unequal depth have none in common.
            if our_commit.lineage.depth == their_commit.lineage.depth {
                let (our, their) = ((our, our_commit.clone()), (their, their_commit.clone()));
                steps = steps_apart(ours.reader, our, their, steps)?;
            }
        }
    }
    ours.pass_level(steps)?;
    theirs.pass_level(steps)?;
    // None if a commit of both is here already.
    Ok(steps > 0)
}

/// How many steps lead from two commits of one depth down their chains to where these meet; `most` if more.
fn steps_apart(
    reader: &impl Read,
    (mut our, mut our_commit): (Hash, Commit),
    (mut their, mut their_commit): (Hash, Commit),
    most: u64,
) -> Result<u64> {
    let start = our_commit.lineage.depth;
    loop {
        let depth = our_commit.lineage.depth;
        if our == their || start - depth >= most {
            return Ok(most.min(start - depth));
        }
        // Chains that have met lead to the same commit.
        let to = match our_commit.far() == their_commit.far() {
            true => depth - 1,
            false => skip_depth(depth),
        };
        if start - to >= most {
            // They may meet at the last step: that is the same for whoever takes it.
            return Ok(most);
        }
        (our, our_commit) = on_chain(reader, our, our_commit, to)?;
        (their, their_commit) = on_chain(reader, their, their_commit, to)?;
    }
}

/// The commits that `targets` reach and `bases` do not, parents before children; with a depth, only those that are fewer steps than that from a
/// target. Calls `found` for each.
pub(crate) fn missing(
    reader: &impl Read,
    targets: &[Hash],
    bases: &[Hash],
    depth: Option<u32>,
    mut found: impl FnMut(),
) -> Result<Vec<Hash>> {
    let (mut wanted, mut held) = (Open::at(reader, targets)?, Open::at(reader, bases)?);
    let mut missing = Vec::new();
    // How many steps each open commit may be gone on from: all its children were passed before it is.
    let mut steps: HashMap<Hash, u32> = HashMap::new();
    if let Some(depth) = depth {
        steps.extend(targets.iter().map(|target| (*target, depth.saturating_sub(1))));
    }
    while let Some((&(generation, Reverse(hash)), commit)) = wanted.newest() {
        // What is held comes down to where the wanted ones are; all that such a commit reaches is held too.
        while held.newest().is_some_and(|(key, _)| key.0 > generation) {
            held.pass_newest(generation)?;
        }
        if held.commits.contains_key(&(generation, Reverse(hash))) {
            wanted.commits.pop_last();
            continue;
        }
        missing.push(hash);
        found();
        match (depth, steps.remove(&hash).unwrap_or_default()) {
            // By its parents, one by one, as all of them are asked for.
            (None, _) => wanted.pass_newest(generation)?,
            (Some(_), 0) => drop(wanted.commits.pop_last()),
            (Some(_), left) => {
                for parent in &commit.parents {
                    let steps = steps.entry(*parent).or_default();
                    *steps = (*steps).max(left - 1);
                }
                wanted.pass_newest(generation)?;
            }
        }
    }
    missing.reverse();
    Ok(missing)
}

/// How many commits a log remembers without asking whether it may come to them again.
const SEEN_MAX: usize = 1024;

/// Commits that some starts reach, each once, newest first. Keeps them as long as it lives.
///
/// It reads a commit when it is asked for what comes after one of its children, and forgets those that it cannot come to again: its memory grows with the number of
/// branches that are side by side, and not with what it has given.
pub struct Log {
    reader: Store,
    /// Handles that keep the starts.
    _pins: Vec<Store>,
    /// Those that come next, by date, then generation.
    open: BTreeMap<(i64, u64, Hash), Commit>,
    /// What was come to: generation and address.
    seen: BTreeSet<(u64, Hash)>,
    /// The parents of the commit that was given last, which nobody may ask for.
    parents: Vec<Hash>,
    /// How many of them may be remembered before those are looked for that nothing leads to any longer.
    seen_max: usize,
}

impl Log {
    pub(crate) fn new(reader: Store, starts: &[Hash]) -> Result<Log> {
        let pins = starts.iter().map(|start| chunks::pin(&reader, start)).collect::<Result<_>>()?;
        let (open, seen) = (BTreeMap::new(), BTreeSet::new());
        let mut log = Log { reader, _pins: pins, open, seen, parents: Vec::new(), seen_max: SEEN_MAX };
        starts.iter().try_for_each(|start| log.add(*start))?;
        Ok(log)
    }

    fn add(&mut self, hash: Hash) -> Result<()> {
        let commit = load(&self.reader, &hash)?;
        let generation = commit.lineage.generation;
        if self.seen.insert((generation, hash)) {
            self.open.insert((commit.date_micros, generation, hash), commit);
        }
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<(Hash, Commit)>> {
        for parent in std::mem::take(&mut self.parents) {
            self.add(parent).inspect_err(|_| self.open.clear())?;
        }
        let Some(((_, _, hash), commit)) = self.open.pop_last() else { return Ok(None) };
        self.parents.clone_from(&commit.parents);
        if self.seen.len() > self.seen_max {
            // All that is still to come is below the highest generation that is open.
            let highest = self.open.keys().map(|(_, generation, _)| *generation).max().unwrap_or(0);
            drop(self.seen.split_off(&(highest, Hash::from_bytes([0; Hash::LEN]))));
            self.seen_max = SEEN_MAX.max(2 * self.seen.len());
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

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
