//! Feeds: what changed on a branch since a root, in order, to be stopped anywhere and gone on with later.
//!
//! One idea: two roots say all that happened between them, so a feed needs no log, and a position in it is the two roots and the last thing that was
//! told. As long as a feed lives its roots are pinned. For consumers that outlive the process there are feeds with a name, whose roots are
//! held by local refs: `feeds/since/NAME` is what the consumer acknowledged last, `feeds/to/NAME` what it is on its way to. They are moved by compare-and-set.
//!
//! A position as bytes; integers are little-endian:
//!
//! ```text
//! 0   u8 version = 1
//! 1   [u8; 32] the root that the feed begins at
//! 33  [u8; 32] the root that it leads to
//! 65  u8 place: 0 the start · 1 in a table, before its rows · 2 in a table, behind a row · 3 behind a table
//! 66  places 1 to 3: u16 length of the table's name, the name
//! …   place 2: u16 length of the row's key, the key
//! …   [u8; 8] the first bytes of the BLAKE3 hash of all before
//! ```
//!
//! Invariants (test `a_feed_stopped_anywhere_goes_on_as_if_it_had_not_been`):
//! 1. Items come by table, in the order of names; of a table first what became of itself and its indexes, then its rows in the order of keys.
//! 2. What comes behind a position, after any number of stops, is what would have come without them.

use std::{collections::BTreeSet, sync::Arc};

use pleach_chunkstore::{Hash, RefUpdate, Store};

use crate::{
    catalogue::{self, ChangedTables},
    chunks::{Read, Writer},
    database::Database,
    definition::Definition,
    error::{Error, Result},
    history,
    index::{self, IndexChange},
    kinds::COMMIT,
    map::build,
    names,
    snapshot::{Change, Changes, Snapshot, Table, TableDiff},
};

const VERSION: u8 = 1;
const CHECK_LEN: usize = 8;

/// What a feed tells.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum FeedItem {
    /// A table is new, is gone, or has another definition or other indexes. Its changed rows come next: all of them, if it is new or gone.
    Table {
        /// The table's name.
        table: Arc<str>,
        /// Its definition before; `None` if it is new.
        before: Option<Box<Definition>>,
        /// Its definition after; `None` if it is gone.
        after: Option<Box<Definition>>,
        /// Its indexes that came, went or became others, by name.
        indexes: Vec<IndexChange>,
    },
    /// A row was inserted, updated or deleted.
    Row {
        /// The table's name.
        table: Arc<str>,
        /// What became of the row.
        change: Change,
    },
}

/// How far a feed has come.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Start,
    /// In a table, before its rows.
    Table(Arc<str>),
    /// In a table, behind a row.
    Row(Arc<str>, Vec<u8>),
    /// Behind a table.
    Behind(Arc<str>),
}

/// What changed between two roots, item by item, in bounded memory: but for the names of tables whose indexes changed. Keeps both roots as
/// long as it lives.
///
/// ```
/// use pleach_engine::{Database, FeedItem};
///
/// # fn main() -> Result<(), pleach_engine::Error> {
/// let database = Database::memory()?;
/// let mut transaction = database.begin("main")?;
/// transaction.create_table("fruit", None)?;
/// transaction.put("fruit", b"apple", b"red")?;
/// transaction.put("fruit", b"plum", b"blue")?;
/// transaction.commit()?;
///
/// let mut feed = database.changes("main", None)?;
/// assert!(matches!(feed.next(), Some(Ok(FeedItem::Table { before: None, .. }))));
/// assert!(matches!(feed.next(), Some(Ok(FeedItem::Row { change, .. })) if change.key == b"apple"));
/// let stopped = feed.position(); // bytes, to be kept anywhere
///
/// let mut feed = database.resume_changes(&stopped)?;
/// assert!(matches!(feed.next(), Some(Ok(FeedItem::Row { change, .. })) if change.key == b"plum"));
/// assert!(feed.next().is_none());
/// let nothing_since = database.changes("main", Some(feed.target()))?.count();
/// assert_eq!(nothing_since, 0);
/// # Ok(())
/// # }
/// ```
pub struct Feed {
    database: Database,
    /// The name of a feed that is held by refs.
    name: Option<String>,
    from: Snapshot,
    to: Snapshot,
    place: Place,
    tables: Tables,
    current: Option<Current>,
}

/// The names of the tables that differ, from the next one on.
struct Tables {
    /// Those that differ in themselves, and the first of them if it was looked at.
    changed: ChangedTables<Store>,
    ahead: Option<String>,
    /// Those whose indexes differ.
    reindexed: BTreeSet<String>,
}

impl Tables {
    /// Those behind `after`.
    fn new(from: &Snapshot, to: &Snapshot, after: Option<&str>) -> Result<Tables> {
        let sides = || ((from.store().clone(), from.root()), (to.store().clone(), to.root()));
        let (before, now) = sides();
        let mut reindexed = index::reindexed(before, now)?;
        reindexed.retain(|table| after.is_none_or(|after| table.as_str() > after));
        let (before, now) = sides();
        Ok(Tables { changed: catalogue::changed_tables(before, now, after)?, ahead: None, reindexed })
    }

    /// The next table, and whether its indexes differ.
    fn next(&mut self) -> Result<Option<(String, bool)>> {
        if self.ahead.is_none() {
            self.ahead = self.changed.next().transpose()?;
        }
        let comes_first = |table: &&String| self.ahead.as_ref().is_none_or(|ahead| *table <= ahead);
        if let Some(table) = self.reindexed.first().filter(comes_first).cloned() {
            self.reindexed.remove(&table);
            self.ahead.take_if(|ahead| *ahead == table);
            return Ok(Some((table, true)));
        }
        Ok(self.ahead.take().map(|table| (table, false)))
    }
}

/// The table at hand.
struct Current {
    table: Arc<str>,
    /// What is to be told of the table itself.
    item: Option<FeedItem>,
    changes: Changes,
}

impl Database {
    /// What changed on a branch's work since `since`: a root of it, or a commit; `None` is the beginning, when there was nothing. It leads to the
    /// work as it is now ([`Feed::target`]), from which the next call goes on.
    ///
    /// # Errors
    /// [`Error::UnknownBranch`]; [`Error::Missing`] if the root is not here, or was collected as nothing held it.
    pub fn changes(&self, branch: &str, since: Option<Hash>) -> Result<Feed> {
        let from = Snapshot::new(self.store(), self.root_since(since)?)?;
        let to = self.begin(branch)?.snapshot().clone();
        Feed::new(self, None, from, to, Place::Start)
    }

    /// The feed that had come to `position` ([`Feed::position`]), from there on. It leads to the root that it led to.
    ///
    /// # Errors
    /// [`Error::BadPosition`] if the bytes are no position; [`Error::Missing`] if one of its roots was collected, as nothing held it: a
    /// feed with a name ([`Database::create_feed`]) holds its own.
    pub fn resume_changes(&self, position: &[u8]) -> Result<Feed> {
        let [from, to] = roots(position)?;
        let (from, to) = (Snapshot::new(self.store(), from)?, Snapshot::new(self.store(), to)?);
        let mut feed = Feed::new(self, None, from, to, Place::Start)?;
        feed.resume(position)?;
        Ok(feed)
    }

    /// Makes a feed with a name, for a consumer that outlives the process: it begins at `since`, as [`Database::changes`] does, and keeps what it needs
    /// until [`Database::delete_feed`]. It stays with this copy of the database.
    ///
    /// # Errors
    /// [`Error::BadName`], [`Error::Exists`]; [`Error::Missing`] if there is no such root.
    pub fn create_feed(&self, name: &str, since: Option<Hash>) -> Result<()> {
        names::check_ref("feed", name)?;
        self.write(|writer, updates| {
            if self.store().appended_ref(&names::feed_since(name)).is_some() {
                return Err(Error::Exists { what: "feed", name: name.to_owned() });
            }
            let root = match since {
                Some(_) => self.root_since(since)?,
                None => build::empty(writer)?,
            };
            writer.keep(&root)?;
            updates.push(RefUpdate { name: names::feed_since(name), old: None, new: Some(root) });
            Ok(())
        })?;
        Ok(())
    }

    /// The feeds with a name, and the root that each has acknowledged.
    pub fn feeds(&self) -> Vec<(String, Hash)> {
        let name =
            |(name, root): (String, Hash)| Some((name.strip_prefix(names::FEED_SINCE)?.to_owned(), root));
        self.refs(names::FEED_SINCE).into_iter().filter_map(name).collect()
    }

    /// What a feed with a name is to tell next: from the root that was acknowledged to a branch's work as it is now, or, if it was on its way when it was
    /// opened last, to where it led then. So a position that the consumer kept is still one of this feed ([`Feed::resume`]).
    ///
    /// # Errors
    /// [`Error::UnknownFeed`], [`Error::UnknownBranch`].
    pub fn feed(&self, name: &str, branch: &str) -> Result<Feed> {
        let ((from, to), _) = self.write(|writer, updates| {
            let from = self.feed_root(name)?;
            if let Some(to) = self.store().appended_ref(&names::feed_to(name)) {
                return Ok((from, to));
            }
            let to = self.appended_branch(branch)?.work;
            if from != to {
                writer.keep(&to)?;
                updates.push(RefUpdate { name: names::feed_to(name), old: None, new: Some(to) });
            }
            Ok((from, to))
        })?;
        let (from, to) = (Snapshot::new(self.store(), from)?, Snapshot::new(self.store(), to)?);
        Feed::new(self, Some(name.to_owned()), from, to, Place::Start)
    }

    /// Deletes a feed with a name: nothing is held for it any longer.
    ///
    /// # Errors
    /// [`Error::UnknownFeed`].
    pub fn delete_feed(&self, name: &str) -> Result<()> {
        self.write(|_, updates| {
            let from = self.feed_root(name)?;
            updates.push(RefUpdate { name: names::feed_since(name), old: Some(from), new: None });
            let to = self.store().appended_ref(&names::feed_to(name));
            updates.extend(to.map(|to| RefUpdate { name: names::feed_to(name), old: Some(to), new: None }));
            Ok(())
        })?;
        Ok(())
    }

    /// What a feed with a name has acknowledged.
    fn feed_root(&self, name: &str) -> Result<Hash> {
        let root = self.store().appended_ref(&names::feed_since(name));
        root.ok_or_else(|| Error::UnknownFeed { name: name.to_owned() })
    }

    /// The root of a branch that a feed is to begin at.
    fn root_since(&self, since: Option<Hash>) -> Result<Hash> {
        match since {
            None => Ok(*build::empty_chunk().hash()),
            Some(hash) if self.store().chunk(&hash)?.kind() == COMMIT => {
                Ok(history::load(self.store(), &hash)?.root)
            }
            Some(root) => Ok(root),
        }
    }
}

impl Feed {
    fn new(
        database: &Database,
        name: Option<String>,
        from: Snapshot,
        to: Snapshot,
        place: Place,
    ) -> Result<Feed> {
        let tables = Tables::new(&from, &to, None)?;
        Ok(Feed { database: database.clone(), name, from, to, place, tables, current: None })
    }

    /// The root that the feed begins at.
    pub fn since(&self) -> Hash {
        self.from.root()
    }

    /// The root that the feed leads to: whoever was told all goes on from there.
    pub fn target(&self) -> Hash {
        self.to.root()
    }

    /// Behind what was told last, as bytes: [`Database::resume_changes`] or [`Feed::resume`] goes on there.
    pub fn position(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(self.since().as_bytes());
        out.extend_from_slice(self.target().as_bytes());
        let (place, table, key) = match &self.place {
            Place::Start => (0, None, None),
            Place::Table(table) => (1, Some(table), None),
            Place::Row(table, key) => (2, Some(table), Some(key)),
            Place::Behind(table) => (3, Some(table), None),
        };
        out.push(place);
        for part in [table.map(|table| table.as_bytes()), key.map(Vec::as_slice)].into_iter().flatten() {
            // Names have at most 250 bytes, keys 1,024.
            out.extend_from_slice(&(part.len() as u16).to_le_bytes());
            out.extend_from_slice(part);
        }
        let check = Hash::of(&out);
        out.extend_from_slice(&check.as_bytes()[..CHECK_LEN]);
        out
    }

    /// Goes to a position of this feed.
    ///
    /// # Errors
    /// [`Error::BadPosition`] if the bytes are no position, or one of a feed between other roots.
    pub fn resume(&mut self, position: &[u8]) -> Result<()> {
        if roots(position)? != [self.since(), self.target()] {
            return Err(Error::BadPosition { what: "it is one of a feed between other roots" });
        }
        let place = decode_place(position)?;
        let (table, after) = match &place {
            Place::Start => (None, None),
            Place::Behind(table) | Place::Table(table) => (Some(table), None),
            Place::Row(table, key) => (Some(table), Some(key.clone())),
        };
        let mut current = None;
        if let Some(table) = table {
            let diff = self.table(table)?;
            if diff.from.is_none() && diff.to.is_none() {
                return Err(Error::BadPosition { what: "its table is in neither of its roots" });
            }
            let changes = match &after {
                Some(after) => diff.changes_after(after)?,
                None => diff.changes()?,
            };
            current = Some(Current { table: table.clone(), item: None, changes });
        }
        self.tables = Tables::new(&self.from, &self.to, table.map(|table| &**table))?;
        self.current = current.filter(|_| !matches!(place, Place::Behind(_)));
        self.place = place;
        Ok(())
    }

    /// Passes over what is left of the table of the item that was told last.
    pub fn skip_table(&mut self) {
        if let Place::Table(table) | Place::Row(table, _) = &self.place {
            let is_same = |current: &Current| current.table == *table;
            self.current = self.current.take().filter(|current| !is_same(current));
            self.place = Place::Behind(table.clone());
        }
    }

    /// Notes, durably, that the consumer of a feed with a name has all that the feed tells: it begins at [`Feed::target`] from then on. What the feed has not
    /// told yet is not told again either.
    ///
    /// # Errors
    /// [`Error::UnknownFeed`] if it has no name, or was deleted; [`Error::Moved`] if somebody else has acknowledged it meanwhile.
    pub fn acknowledge(&self) -> Result<()> {
        let Some(name) = &self.name else {
            return Err(Error::UnknownFeed { name: String::new() });
        };
        let (from, to) = (self.since(), self.target());
        self.database.write(|_: &mut Writer, updates| {
            let found = self.database.feed_root(name)?;
            if found != from {
                return Err(Error::Moved { name: names::feed_since(name) });
            }
            if from != to {
                updates.push(RefUpdate { name: names::feed_since(name), old: Some(from), new: Some(to) });
                updates.push(RefUpdate { name: names::feed_to(name), old: Some(to), new: None });
            }
            Ok(())
        })?;
        Ok(())
    }

    /// How a table differs.
    fn table(&self, name: &str) -> Result<TableDiff> {
        let (from, to) = (self.from.table(name)?, self.to.table(name)?);
        Ok(TableDiff { table: name.to_owned(), from, to })
    }

    /// The next table that differs.
    fn next_table(&mut self) -> Result<Option<Current>> {
        let Some((name, reindexed)) = self.tables.next()? else { return Ok(None) };
        let diff = self.table(&name)?;
        let table: Arc<str> = name.into();
        let definition =
            |side: &Option<Table>| side.as_ref().map(|table| Box::new(table.definition().clone()));
        let indexes = if reindexed { diff.index_changes()? } else { Vec::new() };
        let item = (reindexed || diff.schema_changed()).then(|| FeedItem::Table {
            table: table.clone(),
            before: definition(&diff.from),
            after: definition(&diff.to),
            indexes,
        });
        Ok(Some(Current { table, item, changes: diff.changes()? }))
    }

    fn next_item(&mut self) -> Result<Option<FeedItem>> {
        loop {
            let current = match &mut self.current {
                Some(current) => current,
                None => match self.next_table()? {
                    Some(next) => self.current.insert(next),
                    None => return Ok(None),
                },
            };
            if let Some(item) = current.item.take() {
                self.place = Place::Table(current.table.clone());
                return Ok(Some(item));
            }
            if let Some(change) = current.changes.next().transpose()? {
                self.place = Place::Row(current.table.clone(), change.key.clone());
                return Ok(Some(FeedItem::Row { table: current.table.clone(), change }));
            }
            self.current = None;
        }
    }
}

impl Iterator for Feed {
    type Item = Result<FeedItem>;

    fn next(&mut self) -> Option<Result<FeedItem>> {
        self.next_item().transpose()
    }
}

const MALFORMED: Error = Error::BadPosition { what: "the bytes are not those that a feed gave" };

/// The two roots of a position, whose bytes are whole.
fn roots(position: &[u8]) -> Result<[Hash; 2]> {
    let (bytes, check) = position.split_last_chunk::<CHECK_LEN>().ok_or(MALFORMED)?;
    if Hash::of(bytes).as_bytes()[..CHECK_LEN] != *check {
        return Err(MALFORMED);
    }
    let (version, rest) = bytes.split_first().ok_or(MALFORMED)?;
    if *version != VERSION {
        return Err(Error::BadPosition { what: "another version of Pleach made it" });
    }
    let (from, rest) = rest.split_first_chunk::<{ Hash::LEN }>().ok_or(MALFORMED)?;
    let (to, _) = rest.split_first_chunk::<{ Hash::LEN }>().ok_or(MALFORMED)?;
    Ok([Hash::from_bytes(*from), Hash::from_bytes(*to)])
}

/// The place of a position whose bytes are whole.
fn decode_place(position: &[u8]) -> Result<Place> {
    let end = position.len().saturating_sub(CHECK_LEN);
    let bytes = position.get(1 + 2 * Hash::LEN..end).ok_or(MALFORMED)?;
    let (place, mut rest) = bytes.split_first().ok_or(MALFORMED)?;
    let mut part = || {
        let (len, bytes) = rest.split_first_chunk::<2>().ok_or(MALFORMED)?;
        let (part, behind) =
            bytes.split_at_checked(usize::from(u16::from_le_bytes(*len))).ok_or(MALFORMED)?;
        rest = behind;
        Ok::<_, Error>(part)
    };
    let mut table = || Ok::<_, Error>(Arc::from(std::str::from_utf8(part()?).map_err(|_| MALFORMED)?));
    let place = match place {
        0 => Place::Start,
        1 => Place::Table(table()?),
        2 => {
            let table = table()?;
            Place::Row(table, part()?.to_vec())
        }
        3 => Place::Behind(table()?),
        _ => return Err(MALFORMED),
    };
    if rest.is_empty() { Ok(place) } else { Err(MALFORMED) }
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
