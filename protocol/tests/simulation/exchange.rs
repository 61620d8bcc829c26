//! The exchanges of the two sides, and what the model says of them.

use std::collections::VecDeque;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use pleach_engine::{Chunk, Database, Hash, Source, SourceError};
use pleach_protocol::testing::remote_in_memory;
use pleach_protocol::{
    Databases, Error, Force, Part, PushUpdate, RefPatterns, RefStatus, Remote, RemoteUrl, SyncService,
    Transfer, clone_database, fetch, pull, push,
};

use crate::machine::{HERE, Machine, THERE, merge_options, options};
use crate::model::{MAIN, Refs, TABLES, Verdict};

/// The side that serves, and goes on doing so when it was restarted.
pub(crate) struct Serving {
    dir: PathBuf,
    now: Mutex<(Databases, SyncService)>,
}

impl Serving {
    pub(crate) fn create(dir: &Path) -> Serving {
        let databases = Databases::new(dir, options()).unwrap();
        databases.create("shop").unwrap();
        let service = SyncService::new(databases.clone());
        Serving { dir: dir.to_owned(), now: Mutex::new((databases, service)) }
    }

    pub(crate) fn database(&self) -> Database {
        self.now.lock().0.get("shop").unwrap().unwrap()
    }

    pub(crate) fn restart(&self) {
        let mut now = self.now.lock();
        now.0.close().unwrap();
        let databases = Databases::new(&self.dir, options()).unwrap();
        *now = (databases.clone(), SyncService::new(databases));
    }
}

/// What a copy of a part asks for what it lacks.
struct Promiser(Arc<Serving>);

impl Source for Promiser {
    fn chunks(&self, wanted: &[Hash]) -> Result<Vec<Chunk>, SourceError> {
        let there = self.0.database();
        let found: Vec<Chunk> = wanted.iter().map_while(|hash| there.store().get(hash).unwrap()).collect();
        match found.is_empty() {
            true => Err(Arc::new(std::io::Error::other(format!("{} is gone there", wanted[0])))),
            false => Ok(found),
        }
    }
}

/// What happens before a connection is made.
#[derive(Clone, Copy)]
enum Between {
    Nothing,
    Collect(usize),
    Restart,
}

fn url() -> RemoteUrl {
    RemoteUrl::parse("http://127.0.0.1:9/shop").unwrap()
}

impl Machine {
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join(self.copies.to_string())
    }

    /// Has a copy of a part ask the other side.
    pub(crate) fn serve_promised(&self) {
        self.database(HERE).set_source(Some(Arc::new(Promiser(self.serving.clone()))));
    }

    /// Runs an exchange whose first connections are cut, `cuts` at most.
    fn exchange<T>(
        &mut self,
        cuts: usize,
        run: impl AsyncFnOnce(&Remote) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut plan: VecDeque<(u64, Between)> = (0..cuts)
            .map(|_| {
                let between = match self.dice.below(10) {
                    0..2 => Between::Collect(self.dice.below(2)),
                    2 => Between::Restart,
                    _ => Between::Nothing,
                };
                (self.dice.bytes(), between)
            })
            .collect();
        let connections = Arc::new(AtomicU64::new(0));
        let open = {
            let (serving, here, connections) = (self.serving.clone(), self.here.clone(), connections.clone());
            let mut between = Between::Nothing;
            move || {
                connections.fetch_add(1, Ordering::Relaxed);
                match (between, &here) {
                    (Between::Collect(HERE), Some(here)) => drop(here.store().collect(false).unwrap()),
                    (Between::Collect(_), _) => drop(serving.database().store().collect(false).unwrap()),
                    (Between::Restart, _) => serving.restart(),
                    (Between::Nothing, _) => {}
                }
                let cut = plan.pop_front();
                between = cut.map_or(Between::Nothing, |(_, between)| between);
                (serving.now.lock().1.clone(), cut.map(|(bytes, _)| bytes))
            }
        };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let outcome = runtime.block_on(async { run(&remote_in_memory(&url(), open).await?).await });
        // What is under way still ends.
        drop(runtime);
        let cuts = connections.load(Ordering::Relaxed).saturating_sub(1);
        self.counts.exchanges += 1;
        self.counts.cuts += cuts;
        if let Err(error) = &outcome
            && is_cut(error)
        {
            self.counts.given_up += 1;
        }
        outcome
    }

    fn some_cuts(&mut self) -> usize {
        if self.dice.chance(60) { 1 + self.dice.below(4) } else { 0 }
    }

    pub(crate) fn clone_anew(&mut self) {
        self.part = match self.dice.below(8) {
            0 => Part { lazy: true, ..Part::default() },
            1 => Part { tables: vec!["a".to_owned()], ..Part::default() },
            2 => Part { depth: Some(1 + self.dice.below(3) as u32), ..Part::default() },
            3 => Part { tables: vec!["b".to_owned()], depth: Some(2), ..Part::default() },
            4 => Part { lazy: true, depth: Some(3), ..Part::default() },
            5 => Part { branches: vec![MAIN.to_owned()], ..Part::default() },
            _ => Part::default(),
        };
        self.counts.parts += u64::from(self.part.is_partial());
        self.clone_whole();
    }

    /// Makes a new copy of the part, as often as it takes.
    pub(crate) fn clone_whole(&mut self) {
        if let Some(here) = self.here.take() {
            here.close().unwrap();
        }
        self.copies += 1;
        let mut tries = self.dice.below(4);
        loop {
            let cuts = if tries == 0 { 0 } else { 1 + self.dice.below(3) };
            self.note(format!("clone {:?}, {cuts} cuts", self.part));
            let (path, part) = (self.path(), self.part.clone());
            let cloned =
                self.exchange(cuts, async |remote| clone_database(remote, &path, options(), &part).await);
            match cloned {
                Ok((db, _)) => {
                    self.here = Some(db);
                    break;
                }
                Err(error) => assert!(cuts > 0 && is_cut(&error), "{error}"),
            }
            tries -= 1;
            if self.dice.chance(40) {
                self.write(THERE);
                self.commit(THERE);
            }
            if self.dice.chance(20) {
                self.database(THERE).store().collect(false).unwrap();
            }
        }
        self.check_part();
        if self.part.is_partial() {
            self.serve_promised();
        }
        let (there, part) = (self.refs[THERE].clone(), self.part.clone());
        let mut here = Refs::default();
        here.fetched(
            &there,
            |branch| part.branches.is_empty() || part.branches.iter().any(|one| one == branch),
            true,
        );
        for (branch, head) in here.tracking.clone() {
            here.set(&self.history, &format!("heads/{branch}"), Some(head));
        }
        self.refs[HERE] = here;
        self.check(THERE);
        self.check(HERE);
        let is_clean = there.branches.keys().all(|branch| !there.is_dirty(&self.history, branch));
        if is_clean && part.branches.is_empty() {
            assert_eq!(self.database(HERE).root().unwrap(), self.database(THERE).root().unwrap());
        }
    }

    /// The part that was asked for is here: so it is read while nobody can be asked for more.
    fn check_part(&self) {
        let db = self.database(HERE);
        if self.part.lazy {
            return;
        }
        for (_, head) in db.refs("heads/") {
            let snapshot = db.snapshot_of_root(db.commit_object(&head).unwrap().root).unwrap();
            for table in TABLES {
                let is_wanted =
                    self.part.tables.is_empty() || self.part.tables.iter().any(|one| one == table);
                if let Some(table) = snapshot.table(table).unwrap().filter(|_| is_wanted) {
                    table.scan(Bound::Unbounded, Bound::Unbounded).unwrap().for_each(|_, _| {}).unwrap();
                }
            }
        }
    }

    pub(crate) fn fetch(&mut self) {
        let (cuts, narrow) = (self.some_cuts(), self.dice.chance(20));
        let matches = move |branch: &str| !narrow || branch.starts_with('b');
        let patterns = if narrow { RefPatterns::new(&["heads/b*"]).unwrap() } else { RefPatterns::all() };
        self.note(format!("fetch {patterns:?}, {cuts} cuts"));
        let here = self.database(HERE);
        let fetched = self.exchange(cuts, async |remote| fetch(&here, remote, "origin", &patterns).await);
        match fetched {
            Ok(_) => {
                let [there, here] = &mut self.refs;
                here.fetched(there, matches, !narrow);
            }
            Err(error) => assert!(cuts > 0 && is_cut(&error), "{error}"),
        }
        self.check(THERE);
        self.check(HERE);
    }

    pub(crate) fn pull(&mut self) {
        let (cuts, prefer) = (self.some_cuts(), self.prefer());
        let names = |refs: &Refs| -> Vec<String> { refs.branches.keys().cloned().collect() };
        let (theirs, ours) = (names(&self.refs[THERE]), names(&self.refs[HERE]));
        let (theirs, ours) = (self.dice.one_of(&theirs).unwrap(), self.dice.one_of(&ours).unwrap());
        self.note(format!("pull {theirs} into {ours}, {cuts} cuts"));
        let here = self.database(HERE);
        let pulled = self.exchange(cuts, async |remote| {
            pull(&here, remote, "origin", &theirs, &ours, merge_options(prefer)).await
        });
        let outcome = match pulled {
            Ok((_, outcome)) => Ok(outcome),
            Err(Error::Engine(error)) => Err(error),
            Err(error) => {
                assert!(cuts > 0 && is_cut(&error), "{error}");
                self.check(HERE);
                return;
            }
        };
        let [there, here] = &mut self.refs;
        here.fetched(there, |_| true, true);
        let theirs = there.branches[&theirs].head;
        self.expect_merge(HERE, &ours, theirs, prefer, outcome);
        self.check(THERE);
        self.check(HERE);
    }

    /// What is pushed: some refs that one side has, to where they are here, to anywhere, or away.
    fn updates(&mut self) -> Vec<PushUpdate> {
        let mut names: Vec<String> = Vec::new();
        for refs in &self.refs {
            names.extend(refs.branches.keys().map(|branch| format!("heads/{branch}")));
            names.extend(refs.tags.keys().map(|tag| format!("tags/{tag}")));
        }
        let mut updates: Vec<PushUpdate> = Vec::new();
        for _ in 0..if self.dice.chance(60) { 1 } else { 3 } {
            let name = self.dice.one_of(&names).unwrap();
            let new = match self.dice.below(10) {
                0 => None,
                1 => Some(self.any_commit(HERE)),
                _ => self.refs[HERE].get(&name),
            };
            if updates.iter().all(|update| update.name != name) {
                updates.push(PushUpdate { name, new });
            }
        }
        updates
    }

    pub(crate) fn push(&mut self) {
        let (cuts, updates) = (self.some_cuts(), self.updates());
        let force = match self.dice.below(10) {
            0..6 => Force::No,
            6..8 => Force::Known,
            _ => Force::Yes,
        };
        let verdicts: Vec<Verdict> = updates
            .iter()
            .map(|PushUpdate { name, new }| {
                let branch = name.strip_prefix("heads/");
                let tracked = branch.and_then(|branch| self.refs[HERE].tracking.get(branch)).copied();
                self.refs[THERE].verdict(&self.history, name, *new, tracked, force)
            })
            .collect();
        let told: Vec<_> = updates.iter().map(|one| format!("{} to {:?}", one.name, one.new)).collect();
        self.note(format!("push {told:?}, {force:?}, {cuts} cuts: {verdicts:?}"));
        let is_refused = verdicts.contains(&Verdict::Refused);
        let mut after = self.refs[THERE].clone();
        for (update, verdict) in updates.iter().zip(&verdicts) {
            if *verdict == Verdict::Moves && !is_refused {
                after.set(&self.history, &update.name, update.new);
            }
        }
        let here = self.database(HERE);
        let pushed = self.exchange(cuts, async |remote| push(&here, remote, "origin", &updates, force).await);
        match pushed {
            Ok(transfer) => {
                self.refs[THERE] = after;
                self.expect_results(&updates, &verdicts, &transfer);
            }
            Err(error) => {
                assert!(cuts > 0 && is_cut(&error), "{error}");
                // Whether it moved them is not known here; but all, or none.
                let db = self.database(THERE);
                if updates.iter().all(|update| db.get_ref(&update.name) == after.get(&update.name)) {
                    self.refs[THERE] = after;
                }
            }
        }
        self.check(THERE);
        self.check(HERE);
    }

    fn expect_results(&mut self, updates: &[PushUpdate], verdicts: &[Verdict], transfer: &Transfer) {
        let is_refused = verdicts.contains(&Verdict::Refused);
        self.counts.refused += u64::from(is_refused);
        assert_eq!(transfer.is_rejected(), is_refused, "{transfer:?}");
        for (update, verdict) in updates.iter().zip(verdicts) {
            let result = transfer.refs.iter().find(|result| result.name == update.name).unwrap();
            assert_eq!(result.new, update.new);
            let is_rejected = matches!(result.status, RefStatus::Rejected { .. });
            assert_eq!(is_rejected, is_refused && *verdict != Verdict::Unchanged, "{result:?}");
            if let (false, Some(branch)) = (is_refused, update.name.strip_prefix("heads/")) {
                let tracking = &mut self.refs[HERE].tracking;
                match update.new {
                    Some(new) => drop(tracking.insert(branch.to_owned(), new)),
                    None => drop(tracking.remove(branch)),
                }
            }
        }
    }
}

/// Whether an exchange ended since it was cut too often.
fn is_cut(error: &Error) -> bool {
    matches!(error, Error::Unreachable { .. } | Error::Uncertain { .. })
        || matches!(error, Error::Refused { code, .. } if *code == tonic::Code::Cancelled)
}
