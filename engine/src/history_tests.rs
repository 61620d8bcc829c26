//! What walks over histories answer, beside a plain model; and how many commits they read, which repeats on any machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    cell::Cell,
    collections::{BTreeSet, HashMap},
};

use pleach_chunkstore::{Batch, Chunk, Options, Outcome};
use proptest::prelude::*;

use super::*;
use crate::lineage::Lineage;

/// Commits in memory, which count how often one is read.
#[derive(Default)]
struct Graph {
    chunks: HashMap<Hash, Chunk>,
    /// In the order in which they were made.
    hashes: Vec<Hash>,
    reads: Cell<u64>,
}

impl Read for Graph {
    fn chunk(&self, hash: &Hash) -> Result<Chunk> {
        self.reads.set(self.reads.get() + 1);
        self.chunks.get(hash).cloned().ok_or(Error::Missing { hash: *hash })
    }

    fn child(&self, parent: &Chunk, index: usize) -> Result<Chunk> {
        self.chunk(&parent.child(index).unwrap())
    }
}

impl Graph {
    fn commit(&mut self, parents: &[Hash]) -> Hash {
        let lineage = Lineage::after(parents, |hash| load(self, hash)).unwrap();
        let (parents, message) = (parents.to_vec(), self.hashes.len().to_string());
        let (root, author) = (Hash::of(b"root"), String::new());
        // Clocks go wrong.
        let date_micros = (self.hashes.len() + self.hashes.len() * 7919 % 100) as i64;
        let chunk = Commit { root, parents, lineage, author, date_micros, message }.encode();
        let hash = *chunk.hash();
        self.chunks.insert(hash, chunk);
        self.hashes.push(hash);
        hash
    }

    /// So many commits after `from`; gives all of them.
    fn chain(&mut self, from: Option<Hash>, commits: usize) -> Vec<Hash> {
        let mut last = from;
        (0..commits)
            .map(|_| {
                let next = self.commit(last.as_slice());
                last = Some(next);
                next
            })
            .collect()
    }

    /// What `f` gives, and how many commits it read.
    fn counted<T>(&self, f: impl FnOnce(&Graph) -> Result<T>) -> (T, u64) {
        self.reads.set(0);
        let answer = f(self).unwrap();
        (answer, self.reads.get())
    }
}

const COMMITS: usize = 5_000;
/// What reaching any depth of a chain of so many may read.
const FEW: u64 = 3 * COMMITS.ilog2() as u64;

#[test]
fn making_a_commit_reads_two_others() {
    let mut graph = Graph::default();
    let last = *graph.chain(None, 1000).last().unwrap();
    for _ in 0..100 {
        let (_, reads) = graph.counted(|graph| Lineage::after(&[last], |hash| load(graph, hash)));
        assert!(reads <= 2, "{reads}");
    }
}

#[test]
fn any_depth_of_a_chain_is_reached_in_logarithmic_steps() {
    let mut graph = Graph::default();
    let chain = graph.chain(None, COMMITS);
    for (from, to) in [(COMMITS, 1), (COMMITS, 2), (COMMITS - 1, COMMITS / 2), (4_096, 2_047), (4_095, 3)] {
        let newest = load(&graph, &chain[from - 1]).unwrap();
        let ((hash, _), reads) = graph.counted(|graph| on_chain(graph, chain[from - 1], newest, to as u64));
        assert_eq!(hash, chain[to - 1]);
        assert!(reads <= FEW, "{reads} from {from} to {to}");
    }
}

#[test]
fn ancestors_along_a_chain_are_found_in_logarithmic_steps() {
    let mut graph = Graph::default();
    let chain = graph.chain(None, COMMITS);
    let side = graph.chain(Some(chain[COMMITS / 2]), COMMITS / 2);
    let (first, last) = (chain[0], *chain.last().unwrap());
    for (ancestor, of, expected) in [
        (first, last, true),
        (last, first, false),
        (chain[COMMITS - 2], last, true),
        (chain[COMMITS / 3], *side.last().unwrap(), true),
        (side[10], last, false),
        (last, *side.last().unwrap(), false),
    ] {
        let (is, reads) = graph.counted(|graph| is_ancestor(graph, &ancestor, &of));
        assert_eq!(is, expected);
        assert!(reads <= FEW + 4, "{reads}");
    }
}

#[test]
fn what_was_merged_soon_is_found_without_reading_what_came_later() {
    let mut graph = Graph::default();
    let mut main = graph.chain(None, 10);
    let mut merged = Vec::new();
    for _ in 0..400 {
        let from = *main.last().unwrap();
        let side = graph.chain(Some(main[main.len() - 4]), 3);
        main.push(graph.commit(&[from, side[2]]));
        main.extend(graph.chain(main.last().copied(), 2));
        merged.push(side[0]);
    }
    let newest = *main.last().unwrap();
    for side in [merged[0], merged[200], merged[399]] {
        let (is, reads) = graph.counted(|graph| is_ancestor(graph, &side, &newest));
        assert!(is && reads <= 10 * FEW, "{is}, {reads}");
    }
    let (is, reads) = graph.counted(|graph| is_ancestor(graph, &main[0], &newest));
    assert!(is && reads <= FEW, "{is}, {reads}");
}

#[test]
fn a_merge_base_far_back_is_found_in_logarithmic_steps() {
    let mut graph = Graph::default();
    let trunk = graph.chain(None, COMMITS / 2);
    let fork = *trunk.last().unwrap();
    let main = graph.chain(Some(fork), COMMITS / 2);
    // Of equal length, shorter, and one whose chain has another depth than generation.
    let side = graph.chain(Some(fork), COMMITS / 2);
    let early = graph.chain(Some(trunk[77]), 10);
    let other = graph.chain(None, 2_000);
    let joined = graph.commit(&[other[1_999], trunk[1_000]]);
    let deep = graph.chain(Some(joined), COMMITS);
    let other_joined = graph.commit(&[trunk[1_000], other[1_999]]);
    let other_deep = graph.chain(Some(other_joined), COMMITS);
    // Two sides of a chain that was merged into one of its own branches.
    let (left, right) = (graph.chain(Some(trunk[99]), 1_000), graph.chain(Some(trunk[10]), 1_200));
    let both = graph.commit(&[left[999], right[1_199]]);
    let both = graph.chain(Some(both), 10);
    let last = |chain: &[Hash]| *chain.last().unwrap();
    for (a, b, base) in [
        (last(&main), last(&side), Some(fork)),
        (last(&main), side[0], Some(fork)),
        (last(&main), last(&early), Some(trunk[77])),
        (last(&main), last(&trunk), Some(fork)),
        (last(&main), last(&other), None),
        (last(&main), last(&deep), Some(trunk[1_000])),
        (last(&deep), deep[3], Some(deep[3])),
        (last(&deep), last(&other_deep), Some(other[1_999])),
        (last(&main), last(&both), Some(trunk[99])),
        (right[1_000], last(&left), Some(trunk[10])),
    ] {
        for (a, b) in [(a, b), (b, a)] {
            let (found, reads) = graph.counted(|graph| merge_base(graph, &a, &b));
            assert_eq!(found, base);
            // To the lower chain's height, to where they meet on both, and once more after a merge.
            assert!(reads <= 8 * FEW, "{reads}");
        }
    }
}

#[test]
fn what_a_holder_lacks_is_found_without_reading_what_else_it_has() {
    let mut graph = Graph::default();
    let trunk = graph.chain(None, 1_000);
    let held = graph.chain(Some(trunk[500]), COMMITS);
    let wanted = graph.chain(Some(trunk[999]), 3);
    let (found, reads) = graph
        .counted(|graph| missing(graph, &wanted[2..], &[trunk[998], *held.last().unwrap()], None, || {}));
    assert_eq!(found, [&trunk[999..], &wanted].concat());
    assert!(reads <= FEW, "{reads}");
}

/// The graph's commits in a store.
fn stored(graph: &Graph) -> Store {
    let (store, mut batch) = (Store::memory(Options::default()), Batch::default());
    graph.chunks.values().for_each(|chunk| batch.put(chunk.clone(), None));
    assert!(matches!(store.append(batch, &[]).unwrap(), Outcome::Appended(_)));
    store
}

#[test]
fn a_log_gives_each_commit_once_and_forgets_it() {
    let mut graph = Graph::default();
    let mut main = graph.chain(None, 10);
    for number in 0..700 {
        let from = *main.last().unwrap();
        let side = graph.chain(Some(main[main.len() - 1 - number % 9]), 3);
        main.push(graph.commit(&[from, side[2]]));
        main.extend(graph.chain(main.last().copied(), 1));
    }
    let mut log = Log::new(stored(&graph), &[*main.last().unwrap(), main[7]]).unwrap();
    let (mut given, mut most) = (HashSet::new(), 0);
    while let Some(entry) = log.next() {
        assert!(given.insert(entry.unwrap().0), "each once");
        most = most.max(log.seen.len());
    }
    assert_eq!(given.len(), graph.hashes.len());
    assert!(most <= SEEN_MAX + 2, "{most} of {} remembered", given.len());
}

#[test]
fn a_page_of_the_log_reads_no_commit_beyond_it() {
    let mut graph = Graph::default();
    let chain = graph.chain(None, 300);
    let store = stored(&graph);
    let reads = |store: &Store| store.stats().cache_hits + store.stats().cache_misses;
    let before = reads(&store);
    let page: Vec<Hash> =
        Log::new(store.clone(), &chain[299..]).unwrap().take(50).map(|entry| entry.unwrap().0).collect();
    assert!(page.iter().eq(chain[250..].iter().rev()));
    assert_eq!(reads(&store) - before, 50);
}

#[test]
fn a_link_to_another_depth_than_it_says_is_refused() {
    let mut graph = Graph::default();
    let chain = graph.chain(None, 13);
    let honest = graph.commit(&chain[12..]);
    let honest = load(&graph, &honest).unwrap();
    assert_eq!(honest.lineage.skip, Some(chain[6]));
    let lineage = Lineage { skip: Some(chain[5]), ..honest.lineage.clone() };
    let lying = Commit { lineage, ..honest };
    let at = *lying.encode().hash();
    assert!(matches!(on_chain(&graph, at, lying, 2), Err(Error::Malformed { hash, .. }) if hash == chain[5]));
}

/// The plain model: the ancestors of each commit, itself included, by number.
#[derive(Default)]
struct Model {
    parents: Vec<Vec<usize>>,
    ancestors: Vec<BTreeSet<usize>>,
}

impl Model {
    fn commit(&mut self, parents: Vec<usize>) -> usize {
        let number = self.parents.len();
        let inherited = parents.iter().flat_map(|&parent| self.ancestors[parent].iter().copied());
        self.ancestors.push(inherited.chain([number]).collect());
        self.parents.push(parents);
        number
    }

    fn chain(&self, number: usize) -> Vec<usize> {
        std::iter::successors(Some(number), |&number| self.parents[number].first().copied()).collect()
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// So many commits after one.
    Grow(usize, usize),
    /// A merge.
    Merge(Vec<usize>),
    /// A commit without parents.
    Root,
}

fn step() -> impl Strategy<Value = Step> {
    let any = || any::<prop::sample::Index>().prop_map(|index| index.index(1 << 20));
    prop_oneof![
        5 => (any(), 1..20usize).prop_map(|(from, commits)| Step::Grow(from, commits)),
        // Near the newest, as most are.
        3 => (0..3usize, 1..9usize).prop_map(|(back, commits)| Step::Grow(usize::MAX - back, commits)),
        4 => prop::collection::vec(any(), 2..4).prop_map(Step::Merge),
        2 => (0..3usize, 1..30usize).prop_map(|(a, b)| Step::Merge(vec![usize::MAX - a, usize::MAX - b])),
        1 => Just(Step::Root),
    ]
}

fn grown(steps: &[Step]) -> (Graph, Model) {
    let (mut graph, mut model) = (Graph::default(), Model::default());
    let mut commit = |model: &mut Model, parents: Vec<usize>| {
        let hashes: Vec<Hash> = parents.iter().map(|&parent| graph.hashes[parent]).collect();
        graph.commit(&hashes);
        model.commit(parents)
    };
    commit(&mut model, Vec::new());
    for step in steps {
        let there = model.parents.len();
        // Large numbers count from the newest.
        let at = |number: usize| match usize::MAX - number {
            back if back < 64 => there - 1 - back.min(there - 1),
            _ => number % there,
        };
        match step {
            Step::Grow(from, commits) => {
                let mut last = at(*from);
                for _ in 0..*commits {
                    last = commit(&mut model, vec![last]);
                }
            }
            Step::Merge(parents) => {
                let mut unequal: Vec<usize> = Vec::new();
                for parent in parents.iter().map(|&parent| at(parent)) {
                    if !unequal.contains(&parent) {
                        unequal.push(parent);
                    }
                }
                commit(&mut model, unequal);
            }
            Step::Root => drop(commit(&mut model, Vec::new())),
        }
    }
    (graph, model)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn every_answer_is_the_model_s(
        steps in prop::collection::vec(step(), 1..16),
        sets in prop::collection::vec((prop::collection::vec(any::<prop::sample::Index>(), 1..4), prop::collection::vec(any::<prop::sample::Index>(), 0..4)), 8),
    ) {
        let (graph, model) = grown(&steps);
        let count = model.parents.len();
        let number: HashMap<Hash, usize> = graph.hashes.iter().enumerate().map(|(n, hash)| (*hash, n)).collect();
        let generation = |number: usize| load(&graph, &graph.hashes[number]).unwrap().lineage.generation;
        for (n, hash) in graph.hashes.iter().enumerate() {
            let chain = model.chain(n);
            let commit = load(&graph, hash).unwrap();
            prop_assert_eq!(commit.lineage.depth as usize, chain.len());
            let forks = chain.iter().position(|&at| model.parents[at].len() != 1).unwrap();
            prop_assert_eq!(commit.lineage.straight as usize, forks);
            for (back, at) in chain.iter().enumerate() {
                let depth = (chain.len() - back) as u64;
                let (found, _) = on_chain(&graph, *hash, commit.clone(), depth).unwrap();
                prop_assert_eq!(found, graph.hashes[*at]);
            }
        }
        // Every pair of small graphs, and of large ones enough.
        let apart = 1 + count / 40;
        for a in (0..count).rev().step_by(apart) {
            for b in (0..count).rev().step_by(apart) {
                let (ours, theirs) = (&graph.hashes[a], &graph.hashes[b]);
                prop_assert_eq!(is_ancestor(&graph, ours, theirs).unwrap(), model.ancestors[b].contains(&a));
                let common = model.ancestors[a].intersection(&model.ancestors[b]);
                let best = common.map(|&n| (generation(n), Reverse(graph.hashes[n]))).max();
                prop_assert_eq!(merge_base(&graph, ours, theirs).unwrap(), best.map(|(_, Reverse(hash))| hash));
            }
        }
        for (targets, bases) in sets {
            let pick = |set: &[prop::sample::Index]| set.iter().map(|index| index.index(count)).collect::<Vec<_>>();
            let (targets, bases) = (pick(&targets), pick(&bases));
            let hashes = |set: &[usize]| set.iter().map(|&n| graph.hashes[n]).collect::<Vec<_>>();
            let found: Vec<usize> =
                missing(&graph, &hashes(&targets), &hashes(&bases), None, || {}).unwrap().iter().map(|hash| number[hash]).collect();
            let reached = |set: &[usize]| set.iter().flat_map(|&n| model.ancestors[n].clone()).collect::<BTreeSet<_>>();
            let expected: BTreeSet<usize> = reached(&targets).difference(&reached(&bases)).copied().collect();
            prop_assert_eq!(found.iter().copied().collect::<BTreeSet<_>>(), expected);
            prop_assert_eq!(found.len(), found.iter().collect::<BTreeSet<_>>().len(), "each once");
            for (place, &n) in found.iter().enumerate() {
                for parent in &model.parents[n] {
                    prop_assert!(!found[place..].contains(parent), "parents come first");
                }
            }
            for depth in [1, 2, 5] {
                let newest = missing(&graph, &hashes(&targets), &hashes(&bases), Some(depth), || {}).unwrap();
                let newest: Vec<usize> = newest.iter().map(|hash| number[hash]).collect();
                let mut near: BTreeSet<usize> = targets.iter().copied().collect();
                for _ in 1..depth {
                    near.extend(near.clone().iter().flat_map(|&n| model.parents[n].clone()));
                }
                let expected: Vec<usize> = found.iter().copied().filter(|n| near.contains(n)).collect();
                prop_assert_eq!(newest, expected, "in the same order");
            }
        }
    }
}
