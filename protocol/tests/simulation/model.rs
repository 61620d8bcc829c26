//! The plain model: what each commit holds, and what the refs of a side are. It knows nothing of nodes, chunks, messages and cuts.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use pleach_engine::{Hash, Side};
use pleach_protocol::Force;

/// The tables that each commit has.
pub(crate) const TABLES: [&str; 2] = ["a", "b"];
/// The branch that is there always, and current.
pub(crate) const MAIN: &str = "main";

/// Rows of a table: of each number the version of its value.
pub(crate) type Rows = BTreeMap<u16, u64>;
pub(crate) type Tables = [Rows; TABLES.len()];

pub(crate) struct Commit {
    pub(crate) parents: Vec<Hash>,
    pub(crate) generation: u64,
    pub(crate) tables: Tables,
}

/// All that was ever committed, on either side, and the root of all that was ever in a branch's work.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) commits: BTreeMap<Hash, Commit>,
    pub(crate) roots: BTreeMap<Tables, Hash>,
}

impl History {
    pub(crate) fn add(&mut self, hash: Hash, parents: Vec<Hash>, tables: Tables) {
        let generation = parents.iter().map(|parent| self.commits[parent].generation + 1).max().unwrap_or(0);
        self.commits.entry(hash).or_insert(Commit { parents, generation, tables });
    }

    pub(crate) fn tables(&self, commit: Hash) -> &Tables {
        &self.commits[&commit].tables
    }

    /// Commits and all before them.
    pub(crate) fn closure(&self, of: impl IntoIterator<Item = Hash>) -> BTreeSet<Hash> {
        let (mut found, mut open) = (BTreeSet::new(), Vec::from_iter(of));
        while let Some(commit) = open.pop() {
            if found.insert(commit) {
                open.extend(&self.commits[&commit].parents);
            }
        }
        found
    }

    pub(crate) fn is_ancestor(&self, ancestor: Hash, of: Hash) -> bool {
        self.closure([of]).contains(&ancestor)
    }

    /// The tables that a merge makes, where both sides have commits of their own.
    pub(crate) fn merged(&self, ours: Hash, theirs: Hash, prefer: Side) -> Tables {
        let (ours_all, theirs_all) = (self.closure([ours]), self.closure([theirs]));
        let rank = |commit: &&Hash| (self.commits[*commit].generation, Reverse(**commit));
        let base = ours_all.intersection(&theirs_all).max_by_key(rank).expect("all begin alike");
        let [base, ours, theirs] = [*base, ours, theirs].map(|commit| self.tables(commit));
        let mut merged = Tables::default();
        for (table, rows) in merged.iter_mut().enumerate() {
            for row in ours[table].keys().chain(theirs[table].keys()) {
                let [base, ours, theirs] = [base, ours, theirs].map(|tables| tables[table].get(row));
                let version = match (ours == base, theirs == base) {
                    (true, _) => theirs,
                    (_, true) => ours,
                    _ if prefer == Side::Ours => ours,
                    _ => theirs,
                };
                rows.extend(version.map(|version| (*row, *version)));
            }
        }
        merged
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Branch {
    pub(crate) head: Hash,
    pub(crate) work: Tables,
}

/// The refs of a side.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Refs {
    pub(crate) branches: BTreeMap<String, Branch>,
    pub(crate) tags: BTreeMap<String, Hash>,
    /// Where the branches of the remote were when they were last seen.
    pub(crate) tracking: BTreeMap<String, Hash>,
}

/// What becomes of one ref that is pushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Unchanged,
    Moves,
    Refused,
}

impl Refs {
    pub(crate) fn is_dirty(&self, history: &History, branch: &str) -> bool {
        self.branches.get(branch).is_some_and(|branch| branch.work != *history.tables(branch.head))
    }

    /// The commits that some ref leads to.
    pub(crate) fn reached(&self, history: &History) -> Vec<Hash> {
        let heads = self.branches.values().map(|branch| branch.head);
        let others = self.tags.values().chain(self.tracking.values());
        history.closure(heads.chain(others.copied())).into_iter().collect()
    }

    /// A ref by its full name.
    pub(crate) fn get(&self, name: &str) -> Option<Hash> {
        match name.strip_prefix("heads/") {
            Some(branch) => self.branches.get(branch).map(|branch| branch.head),
            None => self.tags.get(&name["tags/".len()..]).copied(),
        }
    }

    /// Moves a ref that was pushed, and a branch's work with it.
    pub(crate) fn set(&mut self, history: &History, name: &str, new: Option<Hash>) {
        match (name.strip_prefix("heads/"), new) {
            (Some(branch), Some(head)) => {
                let work = history.tables(head).clone();
                self.branches.insert(branch.to_owned(), Branch { head, work });
            }
            (Some(branch), None) => drop(self.branches.remove(branch)),
            (None, Some(at)) => drop(self.tags.insert(name["tags/".len()..].to_owned(), at)),
            (None, None) => drop(self.tags.remove(&name["tags/".len()..])),
        }
    }

    /// What becomes of a ref here, to which somebody pushes who last saw it at `tracked`.
    pub(crate) fn verdict(
        &self,
        history: &History,
        name: &str,
        new: Option<Hash>,
        tracked: Option<Hash>,
        force: Force,
    ) -> Verdict {
        let found = self.get(name);
        let branch = name.strip_prefix("heads/");
        let forward = |found: Option<Hash>| match (found, new) {
            (Some(found), Some(new)) => history.is_ancestor(found, new),
            (None, _) => true,
            (_, None) => false,
        };
        let may = match (branch, force) {
            _ if found == new => return Verdict::Unchanged,
            (Some(branch), _) if self.is_dirty(history, branch) || (branch == MAIN && new.is_none()) => false,
            (_, Force::Yes) => true,
            // Nobody here is a primary that knows where it put a tag.
            (None, Force::Known) => found.is_none(),
            (None, Force::No) => found.is_none() || new.is_none(),
            (Some(_), Force::Known) => found == tracked || found.is_none(),
            (Some(_), Force::No) => forward(found) || (new.is_none() && found == tracked),
        };
        if may { Verdict::Moves } else { Verdict::Refused }
    }

    /// What a fetch leaves here of the branches that match, and of all tags or none.
    pub(crate) fn fetched(&mut self, there: &Refs, matches: impl Fn(&str) -> bool, tags: bool) {
        self.tracking.retain(|branch, _| !matches(branch));
        let seen = there.branches.iter().filter(|(branch, _)| matches(branch));
        self.tracking.extend(seen.map(|(name, branch)| (name.clone(), branch.head)));
        for (tag, at) in there.tags.iter().filter(|_| tags) {
            self.tags.entry(tag.clone()).or_insert(*at);
        }
    }
}
