//! A database: one chunk store, its refs, and the order in which they change.
//!
//! Every change of refs goes through [`Database::write`], one at a time and in order, and is durable when the call returns;
//! the wait for the disk happens after the next change may begin, so that concurrent callers share it. Readers see durable
//! refs alone.

use std::{
    ops::ControlFlow,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use pleach_chunkstore::{Batch, Cancel, Hash, Observer, Options, Outcome, RefUpdate, RefsSince, Store};

use crate::{
    approval::Order,
    branches::Branch,
    catalogue,
    chunks::{self, Writer},
    commit::{AUTHOR_BYTES_MAX, Commit, MESSAGE_BYTES_MAX},
    error::{Error, Result},
    history::{self, Log},
    lineage::Lineage,
    map::{
        build, edit,
        node::{Node, Stored, Tag},
    },
    names,
    pins::Pins,
    settings,
    snapshot::{Snapshot, TableStat},
    transaction::{Queue, Token, Transaction},
};

/// The name of the branch that a new database has.
pub const DEFAULT_BRANCH: &str = "main";

/// A versioned database. Cheap to clone; all clones are one database.
#[derive(Clone)]
pub struct Database {
    inner: Arc<Inner>,
    /// The store, by a handle that may be cancelled.
    store: Store,
    /// Whether changes by this handle need approval, if there is somebody to give it.
    asks: bool,
}

struct Inner {
    store: Store,
    order: Order,
    queue: Queue,
    epoch: AtomicU64,
}

/// What a version commit is made with.
#[derive(Debug, Clone, Default)]
pub struct NewCommit {
    /// Why.
    pub message: String,
    /// Who, as `NAME <MAIL>`.
    pub author: String,
    /// When, microseconds since 1970 UTC; `None` is now.
    pub date_micros: Option<i64>,
    /// Replace the branch's head instead of adding to it.
    pub amend: bool,
}

/// A version commit just made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The commit's address.
    pub hash: Hash,
    /// The root that was committed.
    pub root: Hash,
    /// The token of the change.
    pub token: Token,
}

/// How a branch's work differs from its head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The branch.
    pub branch: String,
    /// Its last commit.
    pub head: Option<Hash>,
    /// The root of its work.
    pub work: Hash,
    /// Whether there is anything to commit.
    pub dirty: bool,
    /// Rows in conflict.
    pub conflicts: usize,
    /// The commit whose merge is under way.
    pub merging: Option<Hash>,
    /// Changed tables, by name.
    pub tables: Vec<TableStat>,
}

impl Database {
    /// Makes a database in `dir`, with the branch `main` and no commit.
    ///
    /// # Errors
    /// The store's; one that is there already is refused.
    pub fn init(dir: &Path, options: Options) -> Result<Database> {
        Database::begin_history(Store::create(dir, options)?)
    }

    /// Opens the database in `dir` for reading and writing.
    ///
    /// # Errors
    /// The store's: not found, locked by another process, damaged, of another version.
    pub fn open(dir: &Path, options: Options) -> Result<Database> {
        let store = Store::open(dir, options)?;
        // A process that died while it made the store left one without refs; nothing was acknowledged there.
        match store.get_ref(names::SETTINGS) {
            Some(_) => Database::over(store).opened(),
            None if store.refs("").is_empty() => Database::begin_history(store),
            None => Err(Error::NoDatabase { dir: dir.display().to_string() }),
        }
    }

    /// Makes a database in memory.
    ///
    /// # Errors
    /// None that depends on the outside.
    pub fn memory() -> Result<Database> {
        Database::begin_history(Store::memory(Options::default()))
    }

    #[cfg(test)]
    pub(crate) fn memory_with(options: Options) -> Database {
        Database::begin_history(Store::memory(options)).unwrap_or_else(|error| unreachable!("{error}"))
    }

    fn over(store: Store) -> Database {
        Database {
            inner: Arc::new(Inner {
                order: Order::new(&store),
                store: store.clone(),
                queue: Queue::default(),
                epoch: AtomicU64::new(0),
            }),
            store,
            asks: true,
        }
    }

    fn begin_history(store: Store) -> Result<Database> {
        let database = Database::over(store);
        database.write(|writer, updates| {
            let empty = build::empty(writer)?;
            let current = settings::edit(settings::CURRENT_BRANCH, Some(DEFAULT_BRANCH));
            let settings = edit::apply(writer, &catalogue::CONFIG, empty, &[current])?;
            updates.push(RefUpdate { name: names::work(DEFAULT_BRANCH), old: None, new: Some(empty) });
            updates.push(RefUpdate { name: names::SETTINGS.to_owned(), old: None, new: Some(settings) });
            Ok(())
        })?;
        Ok(database)
    }

    /// The chunk store below.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// This database, by a handle whose calls can be ended from another thread: soon after [`Cancel::cancel`] they fail with [`Error::Cancelled`], and so do
    /// those of all that was made from the handle: snapshots, iterators, transactions. A call that was cancelled has changed nothing; one whose change is on
    /// its way to the disk is not cut short, and succeeds. Other handles are as before.
    ///
    /// ```
    /// use pleach_engine::{Cancel, Database, Error};
    ///
    /// # fn main() -> Result<(), Error> {
    /// let database = Database::memory()?;
    /// let cancel = Cancel::new();
    /// let mut transaction = database.cancellable(&cancel).begin("main")?;
    /// cancel.cancel(); // in another thread, while something takes long
    /// assert!(matches!(transaction.create_table("fruit", None), Err(Error::Cancelled)));
    /// assert!(!database.begin("main")?.has_table("fruit")?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn cancellable(&self, cancel: &Cancel) -> Database {
        self.by(self.store.cancellable(cancel))
    }

    /// This database, by a handle whose calls tell `observer` how far they are, while they run, and so do those of all that is made from the handle:
    /// snapshots, iterators, transactions. A call may be several tasks, one after the other; what takes less than 10 ms is not told. Iterators tell while they are walked. Who has no observer pays
    /// nothing for it.
    ///
    /// | task | what is counted | total |
    /// |---|---|---|
    /// | `loading` | rows given to [`Transaction::load`] | not known |
    /// | `sorting` | rows merged, of those that came in any order | known |
    /// | `storing` | bytes of a long value | known, unless it comes from a source |
    /// | `applying` | changed rows written into a table or an index: in commits, merges and when edits are written ahead | known |
    /// | `admitting` | changed rows compared with what others changed meanwhile | known |
    /// | `comparing` | rows of both sides passed, read or not: differences, patches, indexes made or brought along | known, but for parts of a difference |
    /// | `merging` | rows of both sides passed, read or not | known |
    /// | `deciding` | rows in conflict | known |
    /// | `patching` | changed rows of a patch applied | not known |
    /// | `rewriting` | rows of a table written again | known |
    /// | `searching` | commits that a holder lacks | not known |
    /// | `marking` | chunks found in use by a collection | not known |
    /// | `compacting` | chunks written by a compaction or a collection | known |
    /// | `copying` | chunks copied by a backup | not known |
    /// | `checking` | chunks read by an fsck; rows compared with an index | known |
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// use std::sync::Arc;
    /// use pleach_engine::{Database, Observer};
    ///
    /// # fn main() -> Result<(), pleach_engine::Error> {
    /// let loaded = Arc::new(AtomicU64::new(0));
    /// let shown = loaded.clone();
    /// let observer = Observer::new(move |progress| shown.store(progress.done, Ordering::Relaxed));
    /// let mut transaction = Database::memory()?.observed(&observer).begin("main")?;
    /// transaction.create_table("fruit", None)?;
    /// transaction.load("fruit", (0..1000_u32).map(|n| (n.to_be_bytes(), b"a row")))?;
    /// transaction.commit()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn observed(&self, observer: &Observer) -> Database {
        self.by(self.store.observed(observer))
    }

    /// Closes the store, so that the next opening has nothing to recover. Other clones keep it open until they go.
    ///
    /// # Errors
    /// The store's.
    pub fn close(self) -> Result<()> {
        match Arc::into_inner(self.inner) {
            Some(inner) => Ok(inner.store.close()?),
            None => Ok(()),
        }
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.inner.queue
    }

    /// This database, by a handle that nobody cancels.
    pub(crate) fn plain(&self) -> Database {
        self.by(self.inner.store.clone())
    }

    /// This database, by that handle of its store.
    pub(crate) fn by(&self, store: Store) -> Database {
        Database { inner: self.inner.clone(), store, asks: self.asks }
    }

    /// This database, by a handle whose changes need nobody's approval ([`Database::set_approver`]).
    pub fn unapproved(&self) -> Database {
        Database { asks: false, ..self.clone() }
    }

    /// Whether changes by this handle need approval, if there is somebody to give it.
    pub(crate) fn asks(&self) -> bool {
        self.asks
    }

    pub(crate) fn order_of_writing(&self) -> &Order {
        &self.inner.order
    }

    /// Runs `f` while nobody else changes refs.
    #[cfg(test)]
    pub(crate) fn in_order<T>(&self, f: impl FnOnce() -> T) -> T {
        let _order = self.order();
        f()
    }

    /// Plans a change on the appended state, appends it, and waits until it is durable.
    pub(crate) fn write<T>(
        &self,
        plan: impl FnOnce(&mut Writer, &mut Vec<RefUpdate>) -> Result<T>,
    ) -> Result<(T, u64)> {
        let approval = self.prepare_approval();
        let order = self.order()?;
        let mut writer = Writer::new(self.store());
        let mut updates = Vec::new();
        let planned = plan(&mut writer, &mut updates)?;
        let ticket = self.append_in_order(order, writer, &updates, approval)?;
        ticket.wait()?;
        Ok((planned, ticket.sequence()))
    }

    /// [`Database::write`], of settings alone, which is not kept while somebody is asked for approval of something else.
    pub(crate) fn write_setting(
        &self,
        plan: impl FnOnce(&mut Writer, &mut Vec<RefUpdate>) -> Result<()>,
    ) -> Result<()> {
        let order = self.order_for(&[])?;
        let mut writer = Writer::new(self.store());
        let mut updates = Vec::new();
        plan(&mut writer, &mut updates)?;
        Ok(self.append_in_order(order, writer, &updates, None)?.wait()?)
    }

    // Refs.

    /// The durable refs whose names begin with `prefix`, sorted.
    pub fn refs(&self, prefix: &str) -> Vec<(String, Hash)> {
        self.store().refs(prefix)
    }

    /// What changed of the durable refs since the change `sequence`, see [`Store::refs_since`].
    pub fn refs_since(&self, sequence: u64) -> Option<RefsSince> {
        self.store().refs_since(sequence)
    }

    /// A durable ref.
    pub fn get_ref(&self, name: &str) -> Option<Hash> {
        self.store().get_ref(name)
    }

    /// Runs `read` on what a durable ref names. If that was collected because the ref moved meanwhile, reads again.
    pub(crate) fn at_ref<T>(&self, name: &str, read: impl Fn(Option<Hash>) -> Result<T>) -> Result<T> {
        let mut found = self.get_ref(name);
        loop {
            match read(found) {
                Err(Error::Missing { hash }) => {
                    let before = std::mem::replace(&mut found, self.get_ref(name));
                    if found == before {
                        return Err(Error::Missing { hash });
                    }
                }
                other => return other,
            }
        }
    }

    /// The durable refs whose names begin with `prefix`, sorted, and pins on what they name.
    ///
    /// # Errors
    /// [`Error::Missing`], if a ref names what is not there.
    pub fn pinned_refs(&self, prefix: &str) -> Result<(Vec<(String, Hash)>, Pins)> {
        loop {
            let refs = self.refs(prefix);
            if let Some(pins) = self.pin_refs(&refs)? {
                return Ok((refs, pins));
            }
        }
    }

    /// Pins what `refs`, just read, name; `None` if one has moved and what it named was collected before the pin was set: then
    /// they are to be read again.
    ///
    /// # Errors
    /// [`Error::Missing`], if a ref names what is not there.
    pub fn pin_refs(&self, refs: &[(String, Hash)]) -> Result<Option<Pins>> {
        let pins = Pins::of(self.store(), refs.iter().map(|(_, hash)| *hash))?;
        match refs.iter().find(|(_, hash)| !pins.contains(hash)) {
            None => Ok(Some(pins)),
            Some((name, hash)) if self.get_ref(name) != Some(*hash) => Ok(None),
            Some((_, hash)) => Err(Error::Missing { hash: *hash }),
        }
    }

    /// Appends chunks and moves refs by compare-and-set, all or none; durable when it returns `Appended`.
    ///
    /// # Errors
    /// [`Error::Missing`] if a ref would name what is not there; the store's.
    pub fn update_refs(&self, batch: Batch, updates: &[RefUpdate]) -> Result<Outcome> {
        let writer = Writer::continuing(self.store(), batch);
        let is_public = updates.iter().any(|update| names::is_public(&update.name));
        let approval = if is_public { self.prepare_approval() } else { None };
        let order = self.order_for(updates)?;
        let expected = |name: &str| updates.iter().find(|update| update.name == name);
        match self.append_in_order(order, writer, updates, approval) {
            Ok(ticket) => {
                ticket.wait()?;
                Ok(Outcome::Appended(ticket))
            }
            Err(Error::Moved { name }) => Ok(Outcome::Moved {
                expected: expected(&name).and_then(|update| update.old),
                found: self.store().appended_ref(&name),
                name,
            }),
            Err(error) => Err(error),
        }
    }

    /// The number of the last durable change.
    pub fn sequence(&self) -> u64 {
        self.store().sequence()
    }

    /// The epoch that tokens carry; 0 outside a cluster.
    pub fn epoch(&self) -> u64 {
        self.inner.epoch.load(Ordering::Acquire)
    }

    /// Sets the epoch that tokens carry from now on. It is the caller's to keep.
    pub fn set_epoch(&self, epoch: u64) {
        self.inner.epoch.store(epoch, Ordering::Release);
    }

    /// Calls `f` with the number of the last durable change whenever refs became durable. It must not block.
    pub fn watch(&self, f: impl Fn(u64) + Send + Sync + 'static) {
        self.store().watch(Box::new(move |sequence| {
            f(sequence);
            ControlFlow::Continue(())
        }));
    }

    /// The database root: the root of the map of all shared refs, which two copies compare.
    ///
    /// # Errors
    /// The store's.
    pub fn root(&self) -> Result<Hash> {
        let mut writer = Writer::new(self.store());
        let mut builder = build::TreeBuilder::new(catalogue::CONFIG);
        // `heads/` < `tags/` < `work/`, each sorted.
        for (name, hash) in names::SHARED.iter().flat_map(|prefix| self.refs(prefix)) {
            let value = Stored { tag: Tag::Links, bytes: hash.as_bytes() };
            builder.push(&mut writer, name.as_bytes(), value)?;
        }
        builder.finish(&mut writer)
    }

    // Reading.

    /// A read-only view of the catalogue at `root`.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub fn snapshot_of_root(&self, root: Hash) -> Result<Snapshot> {
        let snapshot = Snapshot::new(self.store(), root)?;
        Node::load(snapshot.store(), &root)?;
        Ok(snapshot)
    }

    /// The commit at `hash`.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::Malformed`] if it is no commit.
    pub fn commit_object(&self, hash: &Hash) -> Result<Commit> {
        history::load(self.store(), hash)
    }

    /// The commits that `from` reaches, itself first, newest first.
    ///
    /// # Errors
    /// [`Error::Missing`] if there is no such commit.
    pub fn log(&self, from: &Hash) -> Result<Log> {
        Log::new(self.store().clone(), &[*from])
    }

    /// The best common ancestor of two commits; `None` if their histories are unrelated.
    ///
    /// # Errors
    /// The store's.
    pub fn merge_base(&self, a: &Hash, b: &Hash) -> Result<Option<Hash>> {
        let _b = chunks::pin(self.store(), b)?;
        history::merge_base(&chunks::pin(self.store(), a)?, a, b)
    }

    /// Whether `ancestor` is `of` or one of its ancestors.
    ///
    /// # Errors
    /// The store's.
    pub fn is_ancestor(&self, ancestor: &Hash, of: &Hash) -> Result<bool> {
        let _of = chunks::pin(self.store(), of)?;
        history::is_ancestor(&chunks::pin(self.store(), ancestor)?, ancestor, of)
    }

    /// How a branch's work differs from its head.
    ///
    /// # Errors
    /// [`Error::UnknownBranch`].
    pub fn status(&self, branch: &str) -> Result<Status> {
        self.at_ref(&names::work(branch), |_| self.status_of(self.existing_branch(branch)?))
    }

    fn status_of(&self, Branch { name, head, work }: Branch) -> Result<Status> {
        let now = Snapshot::new(self.store(), work)?;
        let committed = self.committed_root(head)?;
        let merging = catalogue::merging(self.store(), &work)?;
        let diffs = Snapshot::new(self.store(), committed)?.diff(&now)?;
        Ok(Status {
            branch: name,
            head,
            work,
            dirty: committed != work,
            conflicts: self.count_conflicts(&work)?,
            merging,
            tables: diffs.iter().map(|diff| diff.stat()).collect::<Result<_>>()?,
        })
    }

    /// The root of a branch's head; the empty catalogue before the first commit.
    pub(crate) fn committed_root(&self, head: Option<Hash>) -> Result<Hash> {
        match head {
            Some(head) => Ok(self.commit_object(&head)?.root),
            None => Ok(*build::empty_chunk().hash()),
        }
    }

    // Writing.

    /// Begins a transaction on a branch's work, as it is now.
    ///
    /// # Errors
    /// [`Error::UnknownBranch`].
    pub fn begin(&self, branch: &str) -> Result<Transaction> {
        self.at_ref(&names::work(branch), |work| {
            let unknown = || Error::UnknownBranch { name: branch.to_owned() };
            let snapshot = Snapshot::new(self.store(), work.ok_or_else(unknown)?)?;
            Ok(Transaction::new(self, branch.to_owned(), snapshot))
        })
    }

    /// Makes a version commit of a branch's work.
    ///
    /// # Errors
    /// [`Error::NothingToCommit`], [`Error::NothingToAmend`], [`Error::UnresolvedConflicts`].
    pub fn commit(&self, branch: &str, new: NewCommit) -> Result<Committed> {
        for (what, len, max) in [
            ("author", new.author.len(), AUTHOR_BYTES_MAX),
            ("message", new.message.len(), MESSAGE_BYTES_MAX),
        ] {
            if len > max {
                let why = "it is too long: at most 1 KiB of author and 1 MiB of message";
                return Err(Error::BadName { what, name: format!("{len} bytes"), why });
            }
        }
        let ((hash, root), sequence) = self.write(|writer, updates| {
            let branch = self.appended_branch(branch)?;
            let count = self.count_conflicts(&branch.work)?;
            if count > 0 {
                return Err(Error::UnresolvedConflicts { branch: branch.name, count });
            }
            let merging = catalogue::merging(self.store(), &branch.work)?;
            let root = catalogue::change(writer, branch.work, vec![(catalogue::Name::Merge, None)])?;
            let parents = match (new.amend, branch.head) {
                (true, Some(_)) if merging.is_some() => {
                    return Err(Error::MergeUnderWay { branch: branch.name });
                }
                (true, None) => return Err(Error::NothingToAmend { branch: branch.name }),
                (true, Some(head)) => {
                    updates.push(self.keep(&names::head(&branch.name), head));
                    self.commit_object(&head)?.parents
                }
                (false, head) => {
                    if merging.is_none() && self.committed_root(head)? == root {
                        return Err(Error::NothingToCommit { branch: branch.name });
                    }
                    head.into_iter().chain(merging).collect()
                }
            };
            let hash = self.put_commit(writer, root, parents, &new)?;
            updates.push(RefUpdate { name: names::head(&branch.name), old: branch.head, new: Some(hash) });
            updates.push(RefUpdate {
                name: names::work(&branch.name),
                old: Some(branch.work),
                new: Some(root),
            });
            Ok((hash, root))
        })?;
        Ok(Committed { hash, root, token: Token { epoch: self.epoch(), sequence, root, head: Some(hash) } })
    }

    /// Writes a commit of `root`; the first parent is its likely base.
    pub(crate) fn put_commit(
        &self,
        writer: &mut Writer,
        root: Hash,
        parents: Vec<Hash>,
        new: &NewCommit,
    ) -> Result<Hash> {
        parents.iter().try_for_each(|parent| writer.keep(parent))?;
        let lineage = Lineage::after(&parents, |hash| self.commit_object(hash))?;
        let base = parents.first().copied();
        let date_micros = new.date_micros.unwrap_or_else(now_micros);
        let (author, message) = (new.author.clone(), new.message.clone());
        let chunk = Commit { root, parents, lineage, author, date_micros, message }.encode();
        let hash = *chunk.hash();
        writer.put(chunk, base)?;
        Ok(hash)
    }

    /// Moves a branch's head to a commit; its work too if `hard`. What that makes unreachable is kept under `recovery/`.
    ///
    /// # Errors
    /// [`Error::UnknownBranch`]; [`Error::Missing`] if there is no such commit.
    pub fn reset(&self, branch: &str, to: &Hash, hard: bool) -> Result<()> {
        let commit = self.commit_object(to)?;
        self.write(|_, updates| {
            let branch = self.appended_branch(branch)?;
            let lost = branch.head.filter(|head| head != to);
            updates.extend(lost.map(|head| self.keep(&names::head(&branch.name), head)));
            if hard {
                self.keep_work(&branch, updates)?;
            }
            updates.push(RefUpdate { name: names::head(&branch.name), old: branch.head, new: Some(*to) });
            if hard {
                let name = names::work(&branch.name);
                updates.push(RefUpdate { name, old: Some(branch.work), new: Some(commit.root) });
            }
            Ok(())
        })?;
        Ok(())
    }
}

pub(crate) fn now_micros() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

#[cfg(test)]
#[path = "database_tests.rs"]
mod tests;
