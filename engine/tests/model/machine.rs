//! Runs a program on a database and on the plain model of it, and compares them: each outcome, after each step what is cheap to know, and at the
//! end everything.

use std::{collections::BTreeMap, time::Duration};

use pleach_engine::{
    Compression, Database, Durability, Error, Hash, MergeOptions, MergeOutcome, NewCommit, Options, Side,
    Snapshot, Transaction, TransactionOutcome,
};
use tempfile::TempDir;

use crate::{
    compare,
    edits::edit,
    plain::{self, Branch, Changes, TYPED, Tables, Word, Work, World},
    program::{Index, Step},
};

pub(crate) struct Machine {
    directory: TempDir,
    /// There until it is closed.
    database: Option<Database>,
    world: World,
    open: Vec<(Transaction, Changes)>,
    views: Vec<(Snapshot, Tables)>,
}

fn options() -> Options {
    Options {
        durability: Durability::Eventual { interval: Duration::from_secs(10) },
        // Journals are sealed, and chunks leave the cache, after a few steps.
        journal_bytes: 64 << 10,
        cache_bytes: 128 << 10,
        compression: Compression::Fast,
        background: false,
        ..Options::default()
    }
}

impl Machine {
    pub(crate) fn new() -> Machine {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::init(directory.path(), options()).unwrap();
        let branches = BTreeMap::from([("main".to_owned(), Branch::default())]);
        let world = World { branches, current: "main".into(), ..World::default() };
        Machine { directory, database: Some(database), world, open: Vec::new(), views: Vec::new() }
    }

    fn database(&self) -> &Database {
        self.database.as_ref().unwrap()
    }

    pub(crate) fn run(mut self, program: &[Step]) {
        for (number, step) in program.iter().enumerate() {
            let (expected, found) = self.step(step);
            assert_eq!(found, expected, "step {number}: {step:?}");
            compare::cheap(self.database(), &self.world);
        }
        compare::everything(self.database(), &self.world);
        for (snapshot, tables) in &self.views {
            compare::tables(snapshot, tables);
        }
        self.reopen();
        compare::branches(self.database(), &self.world);
    }

    /// Runs a step on both; gives what the model expects, and what came of it.
    fn step(&mut self, step: &Step) -> (Word, Word) {
        match step {
            Step::Write(branch, edits) => {
                let mut open = self.begin(&self.branch(*branch));
                edits.iter().for_each(|one| edit(&mut open, one));
                self.end(open)
            }
            Step::Race(branch, edits) => {
                let mut both = [(); 2].map(|()| self.begin(&self.branch(*branch)));
                for (open, edits) in both.iter_mut().zip(edits) {
                    edits.iter().for_each(|one| edit(open, one));
                }
                let [one, two] = both.map(|open| self.end(open));
                (format!("{}, then {}", one.0, two.0), format!("{}, then {}", one.1, two.1))
            }
            Step::Begin(branch) => {
                if self.open.len() < 3 {
                    self.open.push(self.begin(&self.branch(*branch)));
                }
                nothing()
            }
            Step::Edit(transaction, edits) => {
                if let Some(at) = transaction.checked_rem(self.open.len()) {
                    edits.iter().for_each(|one| edit(&mut self.open[at], one));
                }
                nothing()
            }
            Step::End(transaction, commit) => match transaction.checked_rem(self.open.len()) {
                Some(at) => {
                    let open = self.open.swap_remove(at);
                    if *commit { self.end(open) } else { nothing() }
                }
                None => nothing(),
            },
            Step::Commit { branch, amend } => {
                let name = self.branch_that(*branch, |branch| self.world.is_dirty(branch));
                self.commit(&name, *amend)
            }
            Step::Merge { .. } | Step::Resolve(..) | Step::Abort(_) => self.merging(step),
            Step::Revert(branch, commit) => match self.commit_at(*commit) {
                Some(commit) => {
                    let name = self.branch_that(*branch, |branch| !self.world.is_dirty(branch));
                    self.revert(&name, commit)
                }
                None => nothing(),
            },
            Step::View(branch) => {
                let branch = self.branch(*branch);
                let snapshot = self.begin(&branch).0.snapshot().clone();
                self.views.push((snapshot, self.world.branches[&branch].work.tables.clone()));
                nothing()
            }
            Step::Collect => {
                self.database().store().collect(false).unwrap();
                nothing()
            }
            Step::Compact => {
                self.database().store().compact().unwrap();
                nothing()
            }
            Step::Reopen => {
                self.reopen();
                nothing()
            }
            _ => self.refs(step),
        }
    }

    /// Half of the time the current branch.
    fn branch(&self, index: Index) -> String {
        branch_at(&self.world, index)
    }

    /// One of the branches of which that is so, if there is one.
    fn branch_that(&self, index: Index, is: impl Fn(&Branch) -> bool) -> String {
        let such: Vec<_> = self.world.branches.iter().filter(|(_, branch)| is(branch)).collect();
        let one = index.checked_rem(such.len()).map(|at| such[at].0.clone());
        one.unwrap_or_else(|| self.branch(index))
    }

    fn commit_at(&self, index: Index) -> Option<usize> {
        commit_at(&self.world, index)
    }

    /// Mostly one that the branch has not.
    fn commit_beside(&self, name: &str, index: Index) -> Option<usize> {
        let head = self.world.branches[name].head;
        let had = head.map(|head| self.world.ancestors(head)).unwrap_or_default();
        let others: Vec<_> = (0..self.world.commits.len()).filter(|commit| !had.contains(commit)).collect();
        let one = index.checked_rem(others.len()).filter(|_| !index.is_multiple_of(8));
        one.map(|at| others[at]).or_else(|| self.commit_at(index))
    }

    fn hash(&self, commit: usize) -> Hash {
        self.world.commits[commit].hash
    }

    fn new_commit(&self, amend: bool) -> NewCommit {
        let number = self.world.commits.len();
        NewCommit {
            message: format!("commit {number}"),
            date_micros: Some(number as i64),
            amend,
            ..NewCommit::default()
        }
    }

    fn reopen(&mut self) {
        self.open.clear();
        self.views.clear();
        self.database.take().unwrap().close().unwrap();
        self.database = Some(Database::open(self.directory.path(), options()).unwrap());
    }

    fn begin(&self, branch: &str) -> (Transaction, Changes) {
        let seen = self.world.branches[branch].work.tables.clone();
        let changes =
            Changes { branch: branch.to_owned(), view: seen.clone(), seen, touched: BTreeMap::new() };
        (self.database().begin(branch).unwrap(), changes)
    }

    fn end(&mut self, (transaction, changes): (Transaction, Changes)) -> (Word, Word) {
        let found = match transaction.commit() {
            Ok(TransactionOutcome::Committed(_)) => "Committed".into(),
            Ok(TransactionOutcome::Unchanged(_)) => "Unchanged".into(),
            Ok(TransactionOutcome::Refused { table, key }) => format!("Refused {table} {key:?}"),
            Err(error) => name(&error),
        };
        (self.world.finish(changes), found)
    }

    fn commit(&mut self, name: &str, amend: bool) -> (Word, Word) {
        let planned = self.world.plan_commit(&self.world.branches[name], amend);
        let found = self.database().commit(name, self.new_commit(amend));
        self.committed(name, planned, found.map(|committed| committed.hash))
    }

    /// A version commit of the branch's work with the parents that were planned.
    fn committed(
        &mut self,
        name: &str,
        planned: Result<Vec<usize>, Word>,
        found: Result<Hash, Error>,
    ) -> (Word, Word) {
        match (planned, found) {
            (Ok(parents), Ok(hash)) => {
                let tables = self.world.branches[name].work.tables.clone();
                let head = self.world.add_commit(hash, tables.clone(), parents);
                self.move_branch(name, head, tables);
                nothing()
            }
            (planned, found) => {
                (outcome(planned.map(drop)), outcome(found.map(drop).map_err(|e| self::name(&e))))
            }
        }
    }

    fn move_branch(&mut self, name: &str, head: usize, tables: Tables) {
        let work = Work { tables, ..Work::default() };
        self.world.branches.insert(name.to_owned(), Branch { head: Some(head), work });
    }

    fn revert(&mut self, name: &str, commit: usize) -> (Word, Word) {
        let planned = self.world.plan_revert(&self.world.branches[name], commit);
        let counted =
            |tables: &Tables| tables.get(TYPED).filter(|table| table.counted).map(|table| table.salt);
        let now = counted(&self.world.branches[name].work.tables);
        let then = planned.as_ref().ok().and_then(counted);
        if counted(&self.world.commits[commit].tables).is_none() && now.zip(then).is_some_and(|(a, b)| a != b)
        {
            // An index that the commit says nothing of keeps its salt, which the model does not know.
            return nothing();
        }
        let found = self.database().revert(name, &self.hash(commit), self.new_commit(false));
        let planned = planned.and_then(|tables| {
            let branch = self.world.branches.get_mut(name).unwrap();
            branch.work.tables = tables;
            self.world.plan_commit(&self.world.branches[name], false)
        });
        self.committed(name, planned, found.map(|committed| committed.hash))
    }

    fn merging(&mut self, step: &Step) -> (Word, Word) {
        match step {
            Step::Merge { branch, theirs, prefer } => {
                let name = self.branch_that(*branch, |branch| !self.world.is_dirty(branch));
                let Some(theirs) = self.commit_beside(&name, *theirs) else { return nothing() };
                let expected = self.plan_merge(&name, theirs, *prefer);
                let NewCommit { message, date_micros, .. } = self.new_commit(false);
                let options = MergeOptions {
                    message: Some(message),
                    date_micros,
                    prefer: *prefer,
                    ..MergeOptions::default()
                };
                let found = self.database().merge(&name, &self.hash(theirs), options);
                if let (Ok(MergeOutcome::Merged { commit }), "Merged") = (&found, expected.as_str()) {
                    let branch = &self.world.branches[&name];
                    let (tables, parents) = (branch.work.tables.clone(), vec![branch.head.unwrap(), theirs]);
                    let head = self.world.add_commit(*commit, tables.clone(), parents);
                    self.move_branch(&name, head, tables);
                }
                let found = match found {
                    Ok(MergeOutcome::Merged { .. }) => "Merged".into(),
                    Ok(MergeOutcome::FastForward { head }) => format!("FastForward {head}"),
                    Ok(outcome) => format!("{outcome:?}"),
                    Err(error) => self::name(&error),
                };
                (expected, found)
            }
            Step::Resolve(branch, side) => {
                let name = self.branch_that(*branch, |branch| branch.work.merging.is_some());
                let found = self.database().resolve_conflicts(&name, *side);
                let work = &mut self.world.branches.get_mut(&name).unwrap().work;
                let expected = resolve(work, *side);
                (expected, found.map_or_else(|error| self::name(&error), |count| count.to_string()))
            }
            Step::Abort(branch) => {
                let name = self.branch_that(*branch, |branch| branch.work.merging.is_some());
                let found = self.database().merge_abort(&name);
                let branch = &self.world.branches[&name];
                let expected = branch.work.merging.map(drop).ok_or("NoMerge".into());
                if expected.is_ok() {
                    let tables = self.world.committed(branch.head);
                    self.world.branches.get_mut(&name).unwrap().work = Work { tables, ..Work::default() };
                }
                (outcome(expected), outcome(found.map_err(|error| self::name(&error))))
            }
            _ => unreachable!("what is no merge is done elsewhere"),
        }
    }

    /// Merges in the model, but for the commit.
    fn plan_merge(&mut self, name: &str, theirs: usize, prefer: Option<Side>) -> Word {
        let branch = &self.world.branches[name];
        let base = branch.head.and_then(|head| self.world.merge_base(head, theirs));
        if base == Some(theirs) {
            return "UpToDate".into();
        }
        if self.world.is_dirty(branch) {
            let conflicts = branch.work.conflicts.is_empty();
            return if conflicts { "UncommittedWork" } else { "UnresolvedConflicts" }.into();
        }
        if branch.head.is_none() || base == branch.head {
            let tables = self.world.commits[theirs].tables.clone();
            self.move_branch(name, theirs, tables);
            return format!("FastForward {}", self.hash(theirs));
        }
        let merged = plain::merge(
            &self.world.committed(base),
            &branch.work.tables,
            &self.world.committed(Some(theirs)),
            prefer,
        );
        let (tables, conflicts) = match merged {
            Ok(merged) => merged,
            Err(word) => return word,
        };
        let count = conflicts.len();
        let work = &mut self.world.branches.get_mut(name).unwrap().work;
        work.tables = tables;
        if count == 0 {
            return "Merged".into();
        }
        (work.merging, work.conflicts) = (Some(theirs), conflicts);
        format!("Conflicts {{ count: {count} }}")
    }

    /// What only changes refs.
    fn refs(&mut self, step: &Step) -> (Word, Word) {
        let world = &mut self.world;
        let database = self.database.as_ref().unwrap();
        let (expected, found): (Result<(), &str>, _) = match step {
            Step::Reset { branch, to, hard } => {
                let Some(to) = commit_at(world, *to) else { return nothing() };
                let name = branch_at(world, *branch);
                let tables = world.committed(Some(to));
                let branch = world.branches.get_mut(&name).unwrap();
                branch.head = Some(to);
                if *hard {
                    branch.work = Work { tables, ..Work::default() };
                }
                (Ok(()), database.reset(&name, &world.commits[to].hash, *hard))
            }
            Step::CreateBranch(name, at) => {
                let (name, head) = (format!("branch-{name}"), at.and_then(|at| commit_at(world, at)));
                let found = database.create_branch(&name, head.map(|head| world.commits[head].hash));
                let work = Work { tables: world.committed(head), ..Work::default() };
                let is_new = !world.branches.contains_key(&name);
                world.branches.entry(name).or_insert(Branch { head, work });
                (is_new.then_some(()).ok_or("Exists"), found)
            }
            Step::DeleteBranch(branch) => {
                let name = branch_at(world, *branch);
                let expected = (name != world.current).then_some(()).ok_or("BranchInUse");
                if expected.is_ok() {
                    world.branches.remove(&name);
                }
                (expected, database.delete_branch(&name))
            }
            Step::RenameBranch(branch, new) => {
                let (old, new) = (branch_at(world, *branch), format!("branch-{new}"));
                let expected = (!world.branches.contains_key(&new)).then_some(()).ok_or("Exists");
                if expected.is_ok() {
                    let branch = world.branches.remove(&old).unwrap();
                    world.branches.insert(new.clone(), branch);
                    if world.current == old {
                        world.current.clone_from(&new);
                    }
                }
                (expected, database.rename_branch(&old, &new))
            }
            Step::Switch(branch) => {
                world.current = branch_at(world, *branch);
                (Ok(()), database.switch(&world.current))
            }
            Step::CreateTag(name, at) => {
                let (name, Some(at)) = (format!("tag-{name}"), commit_at(world, *at)) else {
                    return nothing();
                };
                let found = database.create_tag(&name, world.commits[at].hash);
                let is_new = !world.tags.contains_key(&name);
                world.tags.entry(name).or_insert(at);
                (is_new.then_some(()).ok_or("Exists"), found)
            }
            Step::DeleteTag(name) => {
                let name = format!("tag-{name}");
                let found = database.delete_tag(&name);
                (world.tags.remove(&name).map(drop).ok_or("UnknownTag"), found)
            }
            _ => unreachable!("what changes more than refs is done elsewhere"),
        };
        (outcome(expected.map_err(Word::from)), outcome(found.map_err(|error| name(&error))))
    }
}

fn branch_at(world: &World, index: Index) -> String {
    match index % 2 {
        0 => world.current.clone(),
        _ => world.branches.keys().nth(index % world.branches.len()).unwrap().clone(),
    }
}

/// Mostly one of the last.
fn commit_at(world: &World, index: Index) -> Option<usize> {
    let commits = world.commits.len();
    let among = if index.is_multiple_of(4) { commits } else { commits.min(4) };
    index.checked_rem(among).map(|back| commits - 1 - back)
}

/// Decides all conflicts for a side.
fn resolve(work: &mut Work, side: Side) -> Word {
    if work.merging.is_none() {
        return "NoMerge".into();
    }
    let before = work.clone();
    let conflicts = std::mem::take(&mut work.conflicts);
    for ((table, key), sides) in &conflicts {
        let rows = &mut work.tables.get_mut(table).unwrap().rows;
        if side == Side::Ours && rows.get(key) != sides[1].as_ref() {
            continue;
        }
        match plain::decide(table, key, sides, Some(side)).unwrap() {
            Some(new) => drop(rows.insert(key.clone(), new)),
            None => drop(rows.remove(key)),
        }
    }
    if plain::violates_unique(&work.tables) {
        *work = before;
        return "UniqueViolation".into();
    }
    conflicts.len().to_string()
}

/// What is always the same.
fn nothing() -> (Word, Word) {
    ("done".into(), "done".into())
}

fn outcome(result: Result<(), Word>) -> Word {
    result.map_or_else(|word| word, |()| "done".into())
}

/// The name of an error.
fn name(error: &Error) -> Word {
    format!("{error:?}").split([' ', '{', '(']).next().unwrap().to_owned()
}
