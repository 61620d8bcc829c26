//! The databases that a server keeps side by side: one directory each, under one data directory, opened and locked at first use.
//!
//! Making and dropping are atomic: a database is made under a name that no database can have and renamed into place, and renamed
//! away before it is removed. Blocking. Called by `server` here, and by whoever embeds it for its own commands.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use pleach_engine::{Database, Options, StoreError};
use tokio::sync::watch;

use crate::access::Credentials;
use crate::client::serve_promised;
use crate::error::{Error, Result};

/// A directory name that begins so is a database being made or dropped.
const UNFINISHED: &str = ".pleach-";

/// The databases under one data directory. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Databases {
    inner: Arc<Inner>,
}

struct Inner {
    data_dir: PathBuf,
    options: Options,
    /// What is shown to the remotes of partial copies.
    credentials: Mutex<Credentials>,
    /// One slot per name that was asked for. The lock of a slot is held while its database is opened, made or dropped, so that
    /// this happens once; the lock of the map never is.
    slots: Mutex<HashMap<String, Arc<Mutex<Option<Database>>>>>,
    /// One more whenever a database was made or dropped, which happens under this lock. Taken after a slot's.
    generation: Mutex<u64>,
    /// Told whenever some were closed or dropped.
    losses: watch::Sender<()>,
    /// Called with each database when it has been opened, before anybody else has it.
    opened: Mutex<Option<OnOpen>>,
}

type OnOpen = Arc<dyn Fn(&str, &Database) + Send + Sync>;

impl Databases {
    /// The databases under `data_dir`, which is made if absent. What a crash left half made or half dropped there is removed.
    pub fn new(data_dir: &Path, options: Options) -> Result<Databases> {
        std::fs::create_dir_all(data_dir).map_err(|source| io(data_dir, source))?;
        for name in entries(data_dir)? {
            if name.starts_with(UNFINISHED) {
                let path = data_dir.join(name);
                std::fs::remove_dir_all(&path).map_err(|source| io(&path, source))?;
            }
        }
        let inner = Inner {
            data_dir: data_dir.to_owned(),
            options,
            credentials: Mutex::default(),
            slots: Mutex::default(),
            generation: Mutex::default(),
            losses: watch::Sender::default(),
            opened: Mutex::default(),
        };
        Ok(Databases { inner: Arc::new(inner) })
    }

    /// What databases that are partial copies, and are opened from now on, show to their remotes, which they ask for what they lack.
    pub fn set_credentials(&self, credentials: Credentials) {
        *self.inner.credentials.lock() = credentials;
    }

    /// Has `f` called with the name of each database that is opened from now on, before anybody else has it. It must not use these databases.
    pub fn on_open(&self, f: impl Fn(&str, &Database) + Send + Sync + 'static) {
        *self.inner.opened.lock() = Some(Arc::new(f));
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.inner.data_dir
    }

    /// The database called `name`, opened now if it was not; `None` if there is none. Callers at the same time open it once.
    pub fn get(&self, name: &str) -> Result<Option<Database>> {
        if check_database_name(name).is_err() {
            return Ok(None);
        }
        self.inner.get(name)
    }

    /// A database that the server keeps for itself, if it was made: no client can name it, as its name has a dot, and no list shows it.
    pub fn get_hidden(&self, name: &str) -> Result<Option<Database>> {
        debug_assert!(name.contains('.'));
        self.inner.get(name)
    }

    /// [`Databases::get_hidden`], made if it is not there.
    pub fn make_hidden(&self, name: &str) -> Result<Database> {
        loop {
            if let Some(database) = self.get_hidden(name)? {
                return Ok(database);
            }
            match self.inner.create(name, |dir, options| Ok(Database::init(dir, options)?.close()?)) {
                Err(Error::Exists { .. }) => {}
                made => return made,
            }
        }
    }

    /// The database called `name`, if it is open.
    pub(crate) fn opened(&self, name: &str) -> Option<Database> {
        let slot = self.inner.slots.lock().get(name)?.clone();
        let open = slot.lock();
        open.clone()
    }

    /// Whether there is a database called `name`.
    pub(crate) fn has(&self, name: &str) -> bool {
        check_database_name(name).is_ok() && self.inner.path(name).is_dir()
    }

    /// Says when databases were closed or dropped.
    pub(crate) fn losses(&self) -> watch::Receiver<()> {
        self.inner.losses.subscribe()
    }

    /// Makes an empty database called `name`.
    ///
    /// # Errors
    /// [`Error::BadDatabaseName`], [`Error::Exists`].
    pub fn create(&self, name: &str) -> Result<Database> {
        self.create_with(name, |dir, options| Ok(Database::init(dir, options)?.close()?))
    }

    /// Makes a database called `name` by whatever `make` puts into the directory that it is given (a clone, a restored backup) and
    /// closes again. If `make` fails, nothing is left.
    pub fn create_with(
        &self,
        name: &str,
        make: impl FnOnce(&Path, Options) -> Result<()>,
    ) -> Result<Database> {
        check_database_name(name)?;
        self.inner.create(name, make)
    }

    /// Removes the database called `name`; false if there is none. What still uses it fails from now on.
    pub fn drop_database(&self, name: &str) -> Result<bool> {
        let unfinished = self.inner.unfinished(name);
        if !self.inner.move_away(name, &unfinished)? {
            return Ok(false);
        }
        std::fs::remove_dir_all(&unfinished).map_err(|source| io(&unfinished, source))?;
        Ok(true)
    }

    /// Takes the database called `name` out of the list, and keeps its directory beside the others as `NAME.MARK`, or `NAME.MARK-2` and so on. Gives where;
    /// `None` if there is none.
    pub fn set_aside(&self, name: &str, mark: &str) -> Result<Option<PathBuf>> {
        let mut kept = self.inner.path(&format!("{name}.{mark}"));
        let mut number = 2;
        while kept.exists() {
            kept = self.inner.path(&format!("{name}.{mark}-{number}"));
            number += 1;
        }
        Ok(self.inner.move_away(name, &kept)?.then_some(kept))
    }

    /// Names of the databases there, sorted. None is opened for it.
    pub fn list(&self) -> Result<Vec<String>> {
        let mut names = entries(&self.inner.data_dir)?;
        names.retain(|name| check_database_name(name).is_ok() && self.inner.looks_like_one(name));
        names.sort();
        Ok(names)
    }

    /// The databases that are open, by name.
    pub fn loaded(&self) -> BTreeMap<String, Database> {
        let slots: Vec<_> =
            self.inner.slots.lock().iter().map(|(name, slot)| (name.clone(), slot.clone())).collect();
        let listed = slots.into_iter().filter(|(name, _)| check_database_name(name).is_ok());
        listed.filter_map(|(name, slot)| Some((name, slot.lock().clone()?))).collect()
    }

    /// The databases that are open, by name; those that are being opened, made or dropped at `deadline` are left out.
    pub fn loaded_before(&self, deadline: Instant) -> BTreeMap<String, Database> {
        let slots: Vec<_> =
            self.inner.slots.lock().iter().map(|(name, slot)| (name.clone(), slot.clone())).collect();
        let open = |slot: &Mutex<Option<Database>>| slot.try_lock_until(deadline)?.clone();
        let listed = slots.into_iter().filter(|(name, _)| check_database_name(name).is_ok());
        listed.filter_map(|(name, slot)| Some((name, open(&slot)?))).collect()
    }

    /// How many times databases were made and dropped.
    pub fn generation(&self) -> u64 {
        *self.inner.generation.lock()
    }

    /// Does `f`, which must not wait for anything here, while no database is made or dropped; `None` if one was since `generation` was asked for. So what was listed and opened
    /// since then is all there is.
    pub fn unchanged_since<T>(&self, generation: u64, f: impl FnOnce() -> T) -> Option<T> {
        let now = self.inner.generation.lock();
        (*now == generation).then(f)
    }

    /// Closes all open databases, so that the next start has nothing to recover. They are opened again at the next use.
    pub fn close(&self) -> Result<()> {
        let slots = std::mem::take(&mut *self.inner.slots.lock());
        let mut first = Ok(());
        for slot in slots.into_values() {
            if let Some(database) = slot.lock().take() {
                first = first.and(database.close().map_err(Error::from));
            }
        }
        self.inner.losses.send_replace(());
        first
    }
}

impl Inner {
    fn path(&self, name: &str) -> PathBuf {
        self.data_dir.join(name)
    }

    fn unfinished(&self, name: &str) -> PathBuf {
        self.data_dir.join(format!("{UNFINISHED}{name}"))
    }

    fn slot(&self, name: &str) -> Arc<Mutex<Option<Database>>> {
        self.slots.lock().entry(name.to_owned()).or_default().clone()
    }

    fn get(&self, name: &str) -> Result<Option<Database>> {
        if !self.path(name).is_dir() {
            return Ok(None);
        }
        let slot = self.slot(name);
        let mut open = slot.lock();
        if open.is_none() {
            *open = self.open(name)?;
        }
        Ok(open.clone())
    }

    fn create(&self, name: &str, make: impl FnOnce(&Path, Options) -> Result<()>) -> Result<Database> {
        let path = self.path(name);
        let slot = self.slot(name);
        let mut open = slot.lock();
        if path.exists() {
            return Err(Error::Exists { path });
        }
        let unfinished = self.unfinished(name);
        let made = make(&unfinished, self.options.clone())
            .and_then(|()| self.rename(&unfinished, &path))
            .and_then(|()| self.sync());
        if let Err(error) = made {
            let _ = std::fs::remove_dir_all(&unfinished);
            return Err(error);
        }
        let database = self.open(name)?.ok_or_else(|| Error::UnknownDatabase { url: name.to_owned() })?;
        *open = Some(database.clone());
        Ok(database)
    }

    /// Renames the directory of a database, durably, and closes it; false if there is none.
    fn move_away(&self, name: &str, to: &Path) -> Result<bool> {
        check_database_name(name)?;
        let path = self.path(name);
        let slot = self.slot(name);
        let mut open = slot.lock();
        // What is not a database is not ours to move.
        if !path.is_dir() || (open.is_none() && self.open(name)?.is_none()) {
            return Ok(false);
        }
        self.rename(&path, to)?;
        self.sync()?;
        if let Some(database) = open.take() {
            // It is gone already; an error of its last write concerns nobody.
            let _ = database.close();
        }
        self.losses.send_replace(());
        Ok(true)
    }

    fn open(&self, name: &str) -> Result<Option<Database>> {
        match Database::open(&self.path(name), self.options.clone()) {
            Ok(database) => {
                serve_promised(&database, &self.credentials.lock())?;
                let opened = self.opened.lock().clone();
                // What is hidden is no database of clients.
                if let Some(opened) = opened.filter(|_| check_database_name(name).is_ok()) {
                    opened(name, &database);
                }
                Ok(Some(database))
            }
            Err(pleach_engine::Error::Store(StoreError::NotFound { .. })) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a directory holds a store, as far as can be told without locking it.
    fn looks_like_one(&self, name: &str) -> bool {
        self.path(name).join("manifest").is_file()
    }

    /// Makes or drops a database.
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut generation = self.generation.lock();
        std::fs::rename(from, to).map_err(|source| io(to, source))?;
        *generation += 1;
        Ok(())
    }

    /// Makes renames in the data directory durable.
    fn sync(&self) -> Result<()> {
        let sync = || std::fs::File::open(&self.data_dir)?.sync_all();
        sync().map_err(|source| io(&self.data_dir, source))
    }
}

/// Checks the name of a database: `[a-z0-9_][a-z0-9_-]{0,62}`.
pub fn check_database_name(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let good = (1..=63).contains(&name.len())
        && name.starts_with(allowed)
        && name.chars().all(|c| allowed(c) || c == '-');
    if good { Ok(()) } else { Err(Error::BadDatabaseName { name: name.to_owned() }) }
}

fn entries(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|source| io(dir, source))? {
        let entry = entry.map_err(|source| io(dir, source))?;
        names.extend(entry.file_name().into_string().ok());
    }
    Ok(names)
}

fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn databases() -> (tempfile::TempDir, Databases) {
        let dir = tempfile::tempdir().unwrap();
        let databases = Databases::new(dir.path(), Options::default()).unwrap();
        (dir, databases)
    }

    #[test]
    fn only_names_that_are_safe_as_directories_are_allowed() {
        for good in ["a", "0", "_x", "shop-2", &"a".repeat(63)] {
            check_database_name(good).unwrap();
        }
        for bad in ["", "-a", "A", "a.b", "a/b", "..", "ä", &"a".repeat(64)] {
            assert!(check_database_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_made_database_is_found_listed_and_survives_a_restart() {
        let (dir, databases) = databases();
        assert!(databases.get("shop").unwrap().is_none());
        databases.create("shop").unwrap();
        assert!(matches!(databases.create("shop"), Err(Error::Exists { .. })));
        assert_eq!(databases.list().unwrap(), ["shop"]);
        databases.close().unwrap();
        drop(databases);
        let again = Databases::new(dir.path(), Options::default()).unwrap();
        assert!(again.loaded().is_empty());
        assert!(again.get("shop").unwrap().is_some());
        assert_eq!(again.loaded().into_keys().collect::<Vec<_>>(), ["shop"]);
    }

    #[test]
    fn many_first_uses_at_once_open_a_database_once() {
        let (_dir, databases) = databases();
        databases.create("shop").unwrap();
        databases.close().unwrap();
        // A second opening would fail on the store's lock.
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| databases.get("shop").unwrap().is_some())).collect();
            assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
        });
    }

    #[test]
    fn entries_that_are_no_databases_are_ignored_and_not_removed() {
        let (dir, databases) = databases();
        std::fs::create_dir(dir.path().join("empty")).unwrap();
        std::fs::write(dir.path().join("file"), b"x").unwrap();
        assert!(databases.get("empty").unwrap().is_none());
        assert!(databases.get("file").unwrap().is_none());
        assert!(databases.list().unwrap().is_empty());
        assert!(!databases.drop_database("empty").unwrap());
        assert!(dir.path().join("empty").is_dir());
    }

    #[test]
    fn a_dropped_database_is_gone_and_its_name_is_free() {
        let (_dir, databases) = databases();
        databases.create("shop").unwrap();
        assert!(databases.drop_database("shop").unwrap());
        assert!(databases.get("shop").unwrap().is_none());
        assert!(!databases.drop_database("shop").unwrap());
        databases.create("shop").unwrap();
    }

    #[test]
    fn who_only_looks_does_not_wait_for_a_database_that_is_being_made() {
        let (_dir, databases) = databases();
        databases.create("shop").unwrap();
        let (making, begun) = std::sync::mpsc::channel();
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let databases = &databases;
            scope.spawn(move || {
                let make = |_: &Path, _| {
                    making.send(()).unwrap();
                    wait.recv().unwrap();
                    Err(Error::UnknownDatabase { url: "stock".to_owned() })
                };
                databases.create_with("stock", make).map(drop).unwrap_err()
            });
            begun.recv().unwrap();
            let open = databases.loaded_before(Instant::now());
            assert_eq!(open.into_keys().collect::<Vec<_>>(), ["shop"]);
            go_on.send(()).unwrap();
        });
    }

    #[test]
    fn who_lists_all_databases_is_told_if_one_is_made_or_dropped_meanwhile() {
        let (_dir, databases) = databases();
        let before = databases.generation();
        databases.create("shop").unwrap();
        assert_eq!(databases.unchanged_since(before, || ()), None);
        let made = databases.generation();
        assert_eq!(databases.unchanged_since(made, || 7), Some(7));
        databases.drop_database("shop").unwrap();
        assert_eq!(databases.unchanged_since(made, || ()), None);
    }

    #[test]
    fn what_a_crash_left_half_made_is_removed_at_the_next_start() {
        let (dir, databases) = databases();
        let half = dir.path().join(".pleach-shop");
        std::fs::create_dir(&half).unwrap();
        drop(databases);
        Databases::new(dir.path(), Options::default()).unwrap();
        assert!(!half.exists());
    }
}
