//! What a holder of some roots lacks to have others: the walk that fetch, push, replication and backup share.
//!
//! Commits that are missing come oldest first, each with its catalogue and all below as one *piece*, then catalogues asked for
//! by themselves. Within a piece chunks come depth-first, parents before children. A subtree is passed over unread if the
//! holder has it: if it stands in the same range of a *candidate*, an earlier version of the node, or was sent before. The
//! first candidate is the likely base of a delta.
//!
//! The cost is the nodes that differ, on both sides: a candidate is opened only where its range holds something new.
//!
//! A holder that wants a part of it all says which ([`Scope`]); what that leaves out is not followed.

use std::{collections::HashSet, vec};

use pleach_chunkstore::{Chunk, Hash, Lease, Store};

use crate::{
    catalogue,
    chunks::{self, Read},
    commit::Commit,
    database::Database,
    error::Result,
    history,
    kinds::{COMMIT, MAP},
    map::node::Node,
    scope::{Place, Scope},
};

/// Most earlier versions that are compared with a node; more would cost more than they spare.
const CANDIDATES_MAX: usize = 16;
/// What a chunk that was sent takes in memory.
const SENT_BYTES: usize = 64;

/// The earlier version from which a chunk's delta is likely small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// A chunk that the holder has, by address. At the top of a piece only.
    Hash(Hash),
    /// The child of that index ([`Chunk::child`]) of the base of the parent.
    Child(u32),
}

/// A chunk that the holder lacks.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The chunk.
    pub chunk: Chunk,
    /// Its index among the children of the chunk above it; `None` if it begins a piece, and so is not a child of a chunk sent before.
    pub child: Option<u32>,
    /// Its likely base, if the holder has one.
    pub base: Option<Base>,
    /// The indexes of its children that come next, in order, each with all below it. The holder has the others, or got them
    /// earlier.
    pub follow: Vec<u32>,
}

/// Chunks that a holder lacks, parents before children.
pub struct Difference {
    store: Store,
    /// Handles that keep the targets and bases as long as the walk lasts.
    _pins: Vec<Store>,
    /// Commits that are still to come, and then roots.
    commits: vec::IntoIter<Hash>,
    roots: vec::IntoIter<Root>,
    stack: Vec<Open>,
    scope: Scope,
    /// With a depth, the commits that the holder has or gets: it may lack the ancestors of what it has. `None`: all that are reached.
    known: Option<HashSet<Hash>>,
    /// Whether the chunk that was given last is the last of the stack.
    opened: bool,
    /// Where a piece goes on of which the holder has the beginning.
    resumed: Option<Resumed>,
    /// See [`Difference::left_out`].
    left_out: u32,
    sent: HashSet<Hash>,
    /// What the hashes of the commits and of what was sent take: there is no doing with less.
    lease: Lease,
}

/// The way down to where a piece goes on.
struct Resumed {
    top: Hash,
    /// For each chunk on the way, the child that comes next.
    path: Vec<u32>,
    /// How many chunks of it were given.
    given: usize,
}

/// A catalogue root that was asked for by itself.
struct Root {
    hash: Hash,
    candidates: Vec<Hash>,
}

/// A chunk that was sent, some of whose children are still to come.
struct Open {
    chunk: Chunk,
    place: Place,
    /// Earlier versions of it; the first is the base that was named with it, if `based`.
    candidates: Vec<Chunk>,
    based: bool,
    follow: Vec<u32>,
    next: usize,
}

/// What a holder of the closures of `bases` lacks to have those of `targets`. Both are commits or catalogue roots, and stay here as long
/// as the difference lives.
///
/// # Errors
/// [`Error::Missing`](crate::Error::Missing) if a target or base is not here; the store's.
pub fn difference(database: &Database, targets: &[Hash], bases: &[Hash]) -> Result<Difference> {
    difference_in(database, targets, bases, Scope::default())
}

/// [`difference`], of which the holder wants a part: then and before.
///
/// # Errors
/// Those of [`difference`].
pub fn difference_in(
    database: &Database,
    targets: &[Hash],
    bases: &[Hash],
    scope: Scope,
) -> Result<Difference> {
    let store = database.store().clone();
    let starts = targets.iter().chain(bases);
    let pins = starts.map(|start| chunks::pin(&store, start)).collect::<Result<_>>()?;
    let is_commit = |hash: &Hash| Ok::<_, crate::Error>(store.chunk(hash)?.kind() == COMMIT);
    let split = |hashes: &[Hash]| {
        let (mut commits, mut roots) = (Vec::new(), Vec::new());
        for hash in hashes {
            if is_commit(hash)? { commits.push(*hash) } else { roots.push(*hash) }
        }
        Ok::<_, crate::Error>((commits, roots))
    };
    let (mut target_commits, mut target_roots) = split(targets)?;
    let (mut base_commits, mut held_roots) = split(bases)?;
    // Work in the middle of a merge reaches the commit that is merged, with all its ancestors.
    for (roots, commits) in [(&target_roots, &mut target_commits), (&held_roots, &mut base_commits)] {
        for root in roots {
            commits.extend(catalogue::merging(&store, root)?);
        }
    }
    let mut meter = store.meter("searching", "commits", None);
    let commits = history::missing(&store, &target_commits, &base_commits, scope.depth, || meter.add(1))?;
    meter.end();
    let known = scope.depth.map(|_| commits.iter().chain(&base_commits).copied().collect());
    let commits = commits.into_iter();
    for commit in base_commits.iter().chain(&target_commits) {
        held_roots.push(history::load(&store, commit)?.root);
    }
    target_roots.retain(|hash| !held_roots.contains(hash));
    held_roots.truncate(CANDIDATES_MAX);
    let roots = target_roots.into_iter().map(|hash| Root { hash, candidates: held_roots.clone() });
    let roots = roots.collect::<Vec<_>>().into_iter();
    let (stack, sent, lease) = (Vec::new(), HashSet::new(), store.lease());
    let (opened, resumed, left_out) = (false, None, 0);
    Ok(Difference {
        store,
        _pins: pins,
        commits,
        roots,
        stack,
        scope,
        known,
        opened,
        resumed,
        left_out,
        sent,
        lease,
    })
}

impl Difference {
    /// Leaves out what lies before a place of the piece that begins with `top`, which the holder has: `path` has, for each chunk on the way down,
    /// the index of the child that comes next. The chunks on the way are given. If no piece begins so, nothing is left out.
    #[must_use]
    pub fn resumed(self, top: Hash, path: Vec<u32>) -> Difference {
        Difference { resumed: Some(Resumed { top, path, given: 0 }), ..self }
    }

    /// Passes over all below the chunk that was given last: the holder gets it in another way.
    pub fn pass(&mut self) {
        // It is open only if something below it was to come.
        if self.opened {
            self.stack.pop();
            self.opened = false;
        }
        self.leave_way();
    }

    /// The chunk that comes next, and its index among its parent's children, if the holder has no earlier version of the parent. [`Difference::took`] passes over it.
    pub fn lone(&self) -> Option<(Hash, u32)> {
        let open = self.stack.last().filter(|open| open.candidates.is_empty())?;
        let index = *open.follow.get(open.next)?;
        Some((open.chunk.child(index as usize)?, index))
    }

    /// Notes that the holder gets the next chunk in another way. It has no strong children.
    pub fn took(&mut self) {
        if let (Some((hash, index)), Some(open)) = (self.lone(), self.stack.last_mut()) {
            open.next += 1;
            (self.opened, self.left_out) = (false, 0);
            self.place(&hash, Some(index));
            self.sent.insert(hash);
        }
    }

    /// How many pieces are still to come, beside that of the chunk that was given last.
    pub fn pieces(&self) -> usize {
        self.commits.len() + self.roots.len()
    }

    /// The newest commit that is still to come.
    pub fn newest(&self) -> Option<Hash> {
        self.commits.as_slice().last().copied()
    }

    /// How many children of the chunk that was given last, the first ones, lie before the place where its piece goes on.
    pub fn left_out(&self) -> u32 {
        self.left_out
    }

    /// The index of the first child that the holder lacks of a chunk, if it stands on the way to where the piece goes on.
    fn place(&mut self, hash: &Hash, child: Option<u32>) -> u32 {
        let Some(resumed) = &mut self.resumed else { return 0 };
        let on_way = match (resumed.given, child) {
            (0, None) => resumed.top == *hash,
            (0, Some(_)) => return 0,
            (given, child) => child.is_some() && resumed.path.get(given - 1).copied() == child,
        };
        match resumed.path.get(resumed.given).copied().filter(|_| on_way) {
            Some(first) => {
                resumed.given += 1;
                first
            }
            None => {
                self.leave_way();
                0
            }
        }
    }

    /// From here on nothing is left out, if something was.
    fn leave_way(&mut self) {
        self.resumed.take_if(|resumed| resumed.given > 0);
    }

    fn advance(&mut self) -> Result<Option<Sent>> {
        while let Some(open) = self.stack.last_mut() {
            let Some(index) = open.follow.get(open.next).copied() else {
                self.stack.pop();
                continue;
            };
            open.next += 1;
            let Some(hash) = open.chunk.child(index as usize) else { continue };
            let chunk = self.store.chunk(&hash)?;
            let pairs = pair(&self.store, &open.chunk, index, &open.candidates, chunk.level())?;
            let base = pairs.base.filter(|_| open.based).map(Base::Child);
            return self.send(chunk, Some(index), base, pairs.candidates).map(Some);
        }
        while let Some(hash) = self.commits.next() {
            if !self.sent.contains(&hash) {
                let chunk = self.store.chunk(&hash)?;
                let mut parents = Commit::decode(&chunk)?.parents;
                parents.retain(|parent| self.known.as_ref().is_none_or(|known| known.contains(parent)));
                return self.send_top(chunk, &parents).map(Some);
            }
        }
        while let Some(Root { hash, candidates }) = self.roots.next() {
            if !self.sent.contains(&hash) {
                return self.send_top(self.store.chunk(&hash)?, &candidates).map(Some);
            }
        }
        Ok(None)
    }

    fn send_top(&mut self, chunk: Chunk, candidates: &[Hash]) -> Result<Sent> {
        let candidates: Vec<Chunk> =
            candidates.iter().map(|hash| self.store.chunk(hash)).collect::<Result<_>>()?;
        let base = candidates.first().map(|chunk| Base::Hash(*chunk.hash()));
        self.send(chunk, None, base, candidates)
    }

    fn send(
        &mut self,
        chunk: Chunk,
        child: Option<u32>,
        base: Option<Base>,
        candidates: Vec<Chunk>,
    ) -> Result<Sent> {
        self.sent.insert(*chunk.hash());
        let place = match (child, self.stack.last()) {
            (Some(_), Some(open)) => open.place.of_child(&open.chunk),
            _ => Place::of_top(&chunk),
        };
        let unwanted = self.scope.left_out(&chunk, place)?;
        self.lease.take((self.commits.len() * Hash::LEN + self.sent.len() * SENT_BYTES) as u64);
        let mut held = HashSet::new();
        for candidate in &candidates {
            held.insert(*candidate.hash());
            // The holder has no more of an earlier version.
            let unwanted = self.scope.left_out(candidate, place)?;
            let children = candidate.children().enumerate();
            held.extend(children.filter(|(i, _)| !unwanted.contains(&(*i as u32))).map(|(_, child)| child));
        }
        self.left_out = self.place(chunk.hash(), child);
        let first = self.left_out as usize;
        let mut follow = Vec::new();
        let mut following = HashSet::new();
        for (i, child) in chunk.children().enumerate() {
            // A commit's parents are held or were sent as pieces of their own.
            let parent_commit = chunk.kind() == COMMIT && i > 0;
            if !parent_commit
                && i >= first
                && !unwanted.contains(&(i as u32))
                && !held.contains(&child)
                && !self.sent.contains(&child)
                && following.insert(child)
            {
                follow.push(i as u32);
            }
        }
        let sent = Sent { chunk: chunk.clone(), child, base, follow: follow.clone() };
        self.opened = !follow.is_empty();
        if self.opened {
            self.stack.push(Open { chunk, place, candidates, based: base.is_some(), follow, next: 0 });
        }
        Ok(sent)
    }
}

impl Iterator for Difference {
    type Item = Result<Sent>;

    fn next(&mut self) -> Option<Result<Sent>> {
        self.advance().transpose()
    }
}

/// The earlier versions of a child, found in its parent's.
struct Pairs {
    candidates: Vec<Chunk>,
    /// The index of the first candidate among the children of the parent's first candidate, if it stands there.
    base: Option<u32>,
}

/// Pairs child `index` of `parent`, whose level is `level`, with what stands in its place in the parent's candidates.
fn pair(store: &Store, parent: &Chunk, index: u32, candidates: &[Chunk], level: u8) -> Result<Pairs> {
    let mut pairs = Pairs { candidates: Vec::new(), base: None };
    for (number, candidate) in candidates.iter().enumerate() {
        if candidate.kind() == MAP && parent.kind() == MAP && candidate.level() < parent.level() {
            // The tree grew: its old root stands lower than the new one, and below some child of it.
            pairs.candidates.push(candidate.clone());
        }
        for place in places(parent, index, candidate)? {
            let Some(hash) = candidate.child(place as usize) else { continue };
            let chunk = store.chunk(&hash)?;
            if number == 0 && pairs.candidates.is_empty() && chunk.level() == level {
                pairs.base = Some(place);
            }
            add_at_level(store, chunk, level, &mut pairs.candidates)?;
        }
    }
    pairs.candidates.truncate(CANDIDATES_MAX);
    Ok(pairs)
}

/// Adds an earlier version, or, if its tree has lost levels since, what stands below it at the child's level.
fn add_at_level(store: &Store, chunk: Chunk, level: u8, candidates: &mut Vec<Chunk>) -> Result<()> {
    if chunk.kind() != MAP || chunk.level() <= level {
        candidates.push(chunk);
        return Ok(());
    }
    for child in chunk.children() {
        if candidates.len() >= CANDIDATES_MAX {
            break;
        }
        add_at_level(store, store.chunk(&child)?, level, candidates)?;
    }
    Ok(())
}

/// The indexes of the children of `candidate` that stand where child `index` of `parent` does.
fn places(parent: &Chunk, index: u32, candidate: &Chunk) -> Result<Vec<u32>> {
    if parent.kind() != candidate.kind() || parent.level() != candidate.level() {
        return Ok(Vec::new());
    }
    match (parent.kind(), parent.level()) {
        (COMMIT, _) => Ok(vec![0]),
        (MAP, 0) => leaf_places(&Node::parse(parent.clone())?, index, &Node::parse(candidate.clone())?),
        (MAP, _) => {
            inner_places(&Node::parse(parent.clone())?, index as usize, &Node::parse(candidate.clone())?)
        }
        _ => Ok(Vec::new()),
    }
}

/// Children of the candidate whose ranges overlap that of the child.
fn inner_places(parent: &Node, index: usize, candidate: &Node) -> Result<Vec<u32>> {
    let first = match index.checked_sub(1) {
        None => 0,
        Some(before) => {
            let key = parent.key(before);
            let at = candidate.lower_bound(&key);
            at + usize::from(candidate.key_is(at, &key))
        }
    };
    let last = candidate.lower_bound(&parent.key(index)).min(candidate.len() - 1);
    Ok((first..=last).map(|place| place as u32).collect())
}

/// The address at the same position in the value at the same key.
fn leaf_places(parent: &Node, index: u32, candidate: &Node) -> Result<Vec<u32>> {
    let mut before = 0;
    for i in 0..parent.len() {
        let links = parent.links(i) as u32;
        if index < before + links {
            let key = parent.key(i);
            let at = candidate.lower_bound(&key);
            if !candidate.key_is(at, &key) || candidate.links(at) as u32 != links {
                return Ok(Vec::new());
            }
            let start: usize = (0..at).map(|j| candidate.links(j)).sum();
            return Ok(vec![start as u32 + index - before]);
        }
        before += links;
    }
    Ok(Vec::new())
}
