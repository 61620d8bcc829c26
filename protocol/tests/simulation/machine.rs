//! Runs random steps on both sides and on the model of them, and compares.

use std::ops::{AddAssign, Bound};
use std::sync::Arc;
use std::time::Duration;

use pleach_engine::{
    Compression, Database, Durability, Error, Hash, MergeOptions, MergeOutcome, NewCommit, Options, Side,
    TransactionOutcome,
};
use pleach_protocol::Part;
use tempfile::TempDir;

use crate::dice::{Dice, mixed};
use crate::exchange::Serving;
use crate::model::{Branch, History, MAIN, Refs, Rows, TABLES, Tables};

/// The side that serves, and the one that is a copy of it.
pub(crate) const THERE: usize = 0;
pub(crate) const HERE: usize = 1;

/// Rows of a table at most.
const ROWS: usize = 450;
/// Names of branches beside the first, and of tags.
const BRANCHES: [&str; 3] = ["b0", "b1", "b2"];
const TAGS: [&str; 3] = ["t0", "t1", "t2"];

/// What was done.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) steps: u64,
    pub(crate) exchanges: u64,
    pub(crate) cuts: u64,
    /// Exchanges that ended with an error, after cuts.
    pub(crate) given_up: u64,
    /// Pushes.
    pub(crate) refused: u64,
    /// Merges of two sides that had both gone on.
    pub(crate) merged: u64,
    /// Copies made of a part.
    pub(crate) parts: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.steps += other.steps;
        self.exchanges += other.exchanges;
        self.cuts += other.cuts;
        self.given_up += other.given_up;
        self.refused += other.refused;
        self.merged += other.merged;
        self.parts += other.parts;
    }
}

pub(crate) struct Machine {
    pub(crate) dir: TempDir,
    pub(crate) dice: Dice,
    pub(crate) history: History,
    pub(crate) refs: [Refs; 2],
    pub(crate) serving: Arc<Serving>,
    /// The copy; there until another one is made, or it is opened again.
    pub(crate) here: Option<Database>,
    pub(crate) part: Part,
    /// Copies made so far; the last one's directory has that number.
    pub(crate) copies: usize,
    versions: u64,
    pub(crate) counts: Counts,
    /// What was done, for people.
    pub(crate) steps: Vec<String>,
    aloud: bool,
}

pub(crate) fn options() -> Options {
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

/// Some are kept out of line; none compresses.
fn value(row: u16, version: u64) -> Vec<u8> {
    let words = if (u64::from(row) ^ version).is_multiple_of(97) { 400 } else { 6 };
    let first = mixed(u64::from(row) << 32 ^ version);
    let mut value = Vec::with_capacity(8 * words);
    (0..words as u64).for_each(|word| value.extend_from_slice(&mixed(first ^ word).to_le_bytes()));
    value
}

impl Machine {
    pub(crate) fn new(seed: u64, aloud: bool) -> Machine {
        let dir = TempDir::new().unwrap();
        let serving = Arc::new(Serving::create(&dir.path().join("there")));
        let mut machine = Machine {
            dir,
            dice: Dice::new(seed),
            history: History::default(),
            refs: Default::default(),
            serving,
            here: None,
            part: Part::default(),
            copies: 0,
            versions: 10,
            counts: Counts::default(),
            steps: Vec::new(),
            aloud,
        };
        machine.first_commit();
        machine
    }

    pub(crate) fn note(&mut self, step: String) {
        if self.aloud {
            eprintln!("{step}");
        }
        self.steps.push(step);
    }

    pub(crate) fn run(&mut self, steps: usize) {
        self.clone_anew();
        for _ in 0..steps {
            self.step();
            self.counts.steps += 1;
        }
        for side in [THERE, HERE] {
            self.read_everything(side);
            self.check(side);
        }
        self.part = Part::default();
        self.clone_whole();
        self.read_everything(HERE);
    }

    fn step(&mut self) {
        let side = self.dice.below(2);
        match self.dice.below(100) {
            0..26 => {
                self.write(side);
                // Work that is not committed stands in the way of others.
                if self.dice.chance(70) {
                    self.commit(side);
                }
            }
            26..40 => self.commit(side),
            40..45 => self.branch(side),
            45..47 => self.delete_branch(side),
            47..50 => self.tag(side),
            50..52 => self.delete_tag(side),
            52..55 => self.reset(side),
            55..58 => self.merge(side),
            58..70 => self.fetch(),
            70..86 => self.push(),
            86..93 => self.pull(),
            93..95 => self.collect(side),
            95..97 => self.reopen(side),
            _ => self.clone_anew(),
        }
        self.check_refs(side);
    }

    pub(crate) fn database(&self, side: usize) -> Database {
        match side {
            THERE => self.serving.database(),
            _ => self.here.clone().unwrap(),
        }
    }

    fn first_commit(&mut self) {
        let db = self.database(THERE);
        let rows: Rows = (0..ROWS as u16 * 2 / 3).map(|row| (row, 1)).collect();
        let mut transaction = db.begin(MAIN).unwrap();
        for table in TABLES {
            transaction.create_table(table, None).unwrap();
            rows.keys().for_each(|row| transaction.put(table, &row.to_be_bytes(), &value(*row, 1)).unwrap());
        }
        transaction.commit().unwrap();
        let tables: Tables = [rows.clone(), rows];
        let head = db.commit(MAIN, new_commit()).unwrap().hash;
        self.history.add(head, Vec::new(), tables.clone());
        self.refs[THERE].branches.insert(MAIN.to_owned(), Branch { head, work: tables });
        self.check_refs(THERE);
    }

    fn any_branch(&mut self, side: usize) -> String {
        let names: Vec<String> = self.refs[side].branches.keys().cloned().collect();
        self.dice.one_of(&names).expect("the first branch is there always")
    }

    pub(crate) fn write(&mut self, side: usize) {
        let branch = self.any_branch(side);
        let table = self.dice.below(TABLES.len());
        // Now and then both sides write the same.
        self.versions += 1;
        let version = if self.dice.chance(20) { self.dice.below(4) as u64 } else { self.versions };
        let from = self.dice.below(ROWS);
        let (rows, deleted): (Vec<usize>, bool) = match self.dice.below(10) {
            0..6 => ((0..1 + self.dice.below(8)).map(|_| self.dice.below(ROWS)).collect(), false),
            6..8 => ((from..ROWS.min(from + 1 + self.dice.below(150))).collect(), false),
            _ => ((from..ROWS.min(from + 1 + self.dice.below(80))).collect(), true),
        };
        self.note(format!(
            "{side}: {branch}: {} rows from {from} of {table}, {version}, {deleted}",
            rows.len()
        ));
        let mut transaction = self.database(side).begin(&branch).unwrap();
        let work = &mut self.refs[side].branches.get_mut(&branch).unwrap().work[table];
        for row in rows.into_iter().map(|row| row as u16) {
            if deleted {
                let was = transaction.delete(TABLES[table], &row.to_be_bytes()).unwrap();
                assert_eq!(was, work.remove(&row).is_some(), "row {row}");
            } else {
                transaction.put(TABLES[table], &row.to_be_bytes(), &value(row, version)).unwrap();
                work.insert(row, version);
            }
        }
        let outcome = transaction.commit().unwrap();
        assert!(!matches!(outcome, TransactionOutcome::Refused { .. }), "{outcome:?}");
    }

    pub(crate) fn commit(&mut self, side: usize) {
        let refs = &self.refs[side];
        let dirty: Vec<String> =
            refs.branches.keys().filter(|name| refs.is_dirty(&self.history, name)).cloned().collect();
        let Some(name) = self.dice.one_of(&dirty) else { return };
        self.note(format!("{side}: {name}: commit"));
        let hash = self.database(side).commit(&name, new_commit()).unwrap().hash;
        let branch = self.refs[side].branches.get_mut(&name).unwrap();
        self.history.add(hash, vec![branch.head], branch.work.clone());
        branch.head = hash;
    }

    pub(crate) fn any_commit(&mut self, side: usize) -> Hash {
        // Half of the time one of the newest.
        let mut reached = self.refs[side].reached(&self.history);
        reached.sort_by_key(|commit| self.history.commits[commit].generation);
        let oldest = if self.dice.chance(50) { reached.len().saturating_sub(3) } else { 0 };
        self.dice.one_of(&reached[oldest..]).expect("there is a first commit")
    }

    fn branch(&mut self, side: usize) {
        let (name, at) = (self.dice.one_of(&BRANCHES).unwrap(), self.any_commit(side));
        self.note(format!("{side}: {name} at {at}"));
        let made = self.database(side).create_branch(name, Some(at));
        let is_new = !self.refs[side].branches.contains_key(name);
        assert_eq!(made.is_ok(), is_new, "{made:?}");
        if is_new {
            self.refs[side].set(&self.history, &format!("heads/{name}"), Some(at));
        }
    }

    fn delete_branch(&mut self, side: usize) {
        let name = self.any_branch(side);
        self.note(format!("{side}: {name} deleted"));
        let deleted = self.database(side).delete_branch(&name);
        assert_eq!(deleted.is_ok(), name != MAIN, "{deleted:?}");
        if name != MAIN {
            self.refs[side].branches.remove(&name);
        }
    }

    fn tag(&mut self, side: usize) {
        let name = self.dice.one_of(&TAGS).unwrap();
        // A head: what only a tag leads to would go with it, also for a copy to which it was promised.
        let branch = self.any_branch(side);
        let at = self.refs[side].branches[&branch].head;
        self.note(format!("{side}: tag {name} at {at}"));
        let made = self.database(side).create_tag(name, at);
        let is_new = !self.refs[side].tags.contains_key(name);
        assert_eq!(made.is_ok(), is_new, "{made:?}");
        self.refs[side].tags.entry(name.to_owned()).or_insert(at);
    }

    fn delete_tag(&mut self, side: usize) {
        let refs = &self.refs[side];
        let by_heads = self.history.closure(refs.branches.values().map(|branch| branch.head));
        let kept: Vec<String> =
            refs.tags.iter().filter(|(_, at)| by_heads.contains(at)).map(|(tag, _)| tag.clone()).collect();
        let Some(name) = self.dice.one_of(&kept) else { return };
        self.note(format!("{side}: tag {name} deleted"));
        self.database(side).delete_tag(&name).unwrap();
        self.refs[side].tags.remove(&name);
    }

    fn reset(&mut self, side: usize) {
        let (name, to) = (self.any_branch(side), self.any_commit(side));
        self.note(format!("{side}: {name} forced to {to}"));
        self.database(side).reset(&name, &to, true).unwrap();
        self.refs[side].set(&self.history, &format!("heads/{name}"), Some(to));
    }

    fn merge(&mut self, side: usize) {
        let (name, theirs, prefer) = (self.any_branch(side), self.any_commit(side), self.prefer());
        self.note(format!("{side}: {name}: merge {theirs}"));
        let outcome = self.database(side).merge(&name, &theirs, merge_options(prefer));
        self.expect_merge(side, &name, theirs, prefer, outcome);
    }

    pub(crate) fn prefer(&mut self) -> Side {
        if self.dice.chance(50) { Side::Ours } else { Side::Theirs }
    }

    pub(crate) fn expect_merge(
        &mut self,
        side: usize,
        name: &str,
        theirs: Hash,
        prefer: Side,
        outcome: Result<MergeOutcome, Error>,
    ) {
        let is_dirty = self.refs[side].is_dirty(&self.history, name);
        let branch = self.refs[side].branches.get_mut(name).unwrap();
        let head = branch.head;
        if self.history.is_ancestor(theirs, head) {
            assert_eq!(outcome.unwrap(), MergeOutcome::UpToDate);
        } else if is_dirty {
            assert!(matches!(outcome, Err(Error::UncommittedWork { .. })), "{outcome:?}");
        } else if self.history.is_ancestor(head, theirs) {
            assert_eq!(outcome.unwrap(), MergeOutcome::FastForward { head: theirs });
            *branch = Branch { head: theirs, work: self.history.tables(theirs).clone() };
        } else {
            let MergeOutcome::Merged { commit } = outcome.unwrap() else { panic!("both have gone on") };
            let work = self.history.merged(head, theirs, prefer);
            self.history.add(commit, vec![head, theirs], work.clone());
            *branch = Branch { head: commit, work };
            self.counts.merged += 1;
        }
    }

    fn collect(&mut self, side: usize) {
        self.note(format!("{side}: collected"));
        let db = self.database(side);
        db.store().collect(false).unwrap();
        if self.dice.chance(50) {
            db.store().compact().unwrap();
        }
        self.check(side);
    }

    fn reopen(&mut self, side: usize) {
        self.note(format!("{side}: opened again"));
        if side == THERE {
            self.serving.restart();
        } else {
            let path = self.path();
            self.here.take().unwrap().close().unwrap();
            self.here = Some(Database::open(&path, options()).unwrap());
            self.serve_promised();
        }
        self.check(side);
    }

    /// Compares the refs of a side with the model's, and so all that they lead to.
    pub(crate) fn check_refs(&mut self, side: usize) {
        let (db, refs) = (self.database(side), &self.refs[side]);
        let found = |prefix: &str| -> Vec<(String, Hash)> {
            let refs = db.refs(prefix).into_iter();
            refs.map(|(name, hash)| (name[prefix.len()..].to_owned(), hash)).collect()
        };
        let branches = refs.branches.iter();
        let heads: Vec<(String, Hash)> = branches.map(|(name, branch)| (name.clone(), branch.head)).collect();
        assert_eq!(found("heads/"), heads, "{side}: heads");
        assert_eq!(found("tags/"), Vec::from_iter(refs.tags.clone()), "{side}: tags");
        assert_eq!(found("remotes/origin/"), Vec::from_iter(refs.tracking.clone()), "{side}: tracking refs");
        assert_eq!(found("work/").len(), heads.len(), "{side}: work");
        for (name, root) in found("work/") {
            let expected = *self.history.roots.entry(refs.branches[&name].work.clone()).or_insert(root);
            assert_eq!(root, expected, "{side}: equal tables, equal roots: {name}");
        }
    }

    /// [`Machine::check_refs`], and that all that is in the store is whole and right.
    pub(crate) fn check(&mut self, side: usize) {
        self.check_refs(side);
        let report = self.database(side).fsck().unwrap();
        assert_eq!(report.damages, [], "{side}");
        let is_part = side == HERE && self.part.is_partial();
        assert!(is_part || report.promised == 0, "{side}: {} promised chunks", report.promised);
    }

    /// Compares every row of every commit that a ref leads to.
    fn read_everything(&mut self, side: usize) {
        let db = self.database(side);
        for hash in self.refs[side].reached(&self.history) {
            let commit = db.commit_object(&hash).unwrap();
            let expected = &self.history.commits[&hash];
            assert_eq!(commit.parents, expected.parents, "{side}: {hash}");
            let snapshot = db.snapshot_of_root(commit.root).unwrap();
            for (name, rows) in TABLES.into_iter().zip(&expected.tables) {
                let table = snapshot.table(name).unwrap().unwrap();
                let found = table.scan(Bound::Unbounded, Bound::Unbounded).unwrap().map(Result::unwrap);
                let expected =
                    rows.iter().map(|(row, version)| (row.to_be_bytes().to_vec(), value(*row, *version)));
                assert!(found.eq(expected), "{side}: {hash}: rows of {name}");
            }
        }
    }
}

fn new_commit() -> NewCommit {
    // Equal commits on both sides are one.
    NewCommit { message: "m".into(), author: "a".into(), date_micros: Some(0), amend: false }
}

pub(crate) fn merge_options(prefer: Side) -> MergeOptions {
    MergeOptions {
        message: Some("m".into()),
        author: "a".into(),
        date_micros: Some(0),
        prefer: Some(prefer),
        ..MergeOptions::default()
    }
}
