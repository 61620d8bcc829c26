//! Backups: a store that keeps what other points in time of a store were, or of several stores together.
//!
//! One idea: a backup *is* a store. A point in time is a ref `backups/TIME`; what it leads to lists the refs of the source at one moment and,
//! through them, all that they reach. So whatever two points share is there once, and what a point costs is what changed: chunks that the
//! backup has are passed over, others are kept as their difference from the same node of the point before. A point of several stores is the same, its refs being
//! those of all of them at one [`Moment`].
//!
//! Invariants, each held by tests in `tests/store/backup.rs`:
//! 1. A chunk in the backup implies its closure, but for what the source lacks as promised: children are appended before parents. So a sync that was cut, at whatever call, is gone
//!    on with by the next one.
//! 2. A point appears whole, by one append, when all that it leads to is durable; before that there is none.
//! 3. A restored store has exactly the refs of the point. They too appear by one append, at the end.
//! 4. A backup takes points of one store only: of the one it was begun for, or of one restored from it. One of several takes points of stores one of which
//!    it knows, from a point or as restored from one.
//! 5. No store of a point of several is partial: what one lacks would be lacking in all that share the chunk that names it.
//!
//! The layout of a point is in `point.rs`.

mod copy;
mod places;
mod point;

use std::path::Path;
use std::sync::Arc;

use crate::batch::Batch;
use crate::chunk::Chunk;
use crate::error::{Error, Result};
use crate::fsck::{self, Check};
use crate::hash::Hash;
use crate::io::Io;
use crate::io::disk::Disk;
use crate::progress::{Meter, Observer};
use crate::refs::RefUpdate;
use crate::store::{Options, Outcome, Store};

use copy::{Copy, pair};
use places::Places;
pub use point::{KIND, Of, Point, Refs, digest};
use point::{SOURCE, check, decode_page, decode_point, encode_pages, encode_point};

const POINTS: &str = "backups/";
const SOURCES: &str = "backup-of/";

/// What the owner of the chunks knows of them.
#[derive(Clone, Copy)]
pub struct Kinds<'a> {
    /// Whether a chunk is what its kind says.
    pub check: Check<'a>,
    /// The index of the child that is an earlier version of the chunk, if it has such a child: what is copied is kept as a difference from
    /// that.
    pub earlier: &'a (dyn Fn(&Chunk) -> Option<usize> + Sync),
}

/// Several stores, by name, as all of them were at one moment. What they led to then stays in them as long as this lives.
pub struct Moment {
    sources: Vec<(String, Store)>,
    refs: Vec<Refs>,
    _pins: Vec<Store>,
}

impl Moment {
    /// Now. Nothing is copied, and the stores stay in use: they show no change for as long as it takes to copy their refs in memory. The names have no `/`.
    ///
    /// # Errors
    /// [`Error::PartialSource`]; [`Error::Missing`] if a ref names what is not there.
    pub fn of(sources: Vec<(String, Store)>) -> Result<Moment> {
        debug_assert!(sources.iter().all(|(name, _)| !name.is_empty() && !name.contains('/')));
        if let Some((name, _)) = sources.iter().find(|(_, store)| store.is_partial()) {
            return Err(Error::PartialSource { name: name.clone() });
        }
        let stores: Vec<&Store> = sources.iter().map(|(_, store)| store).collect();
        let (refs, pins) = pinned_refs(&stores)?;
        Ok(Moment { sources, refs, _pins: pins })
    }
}

/// What a sync did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    /// The new point.
    pub point: Point,
    /// Chunks copied.
    pub chunks: u64,
    /// Bytes written to the backup's files, all in all.
    pub bytes_written: u64,
}

/// What a restore did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Chunks copied.
    pub chunks: u64,
    /// Bytes written to the new store's files, all in all.
    pub bytes_written: u64,
}

/// An open backup. While it is open nobody else can open it: the error names who has it.
pub struct Backup {
    store: Store,
    batch_bytes: usize,
}

/// Copying appends so many bytes at a time.
const BATCH_BYTES: usize = 8 << 20;

impl Backup {
    /// Opens the backup in `dir`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotBackup`]; [`Error::Locked`] names who uses it.
    pub fn open(dir: &Path) -> Result<Backup> {
        Backup::open_with_io(Arc::new(Disk::new(dir)))
    }

    /// Opens the backup in `dir`, or makes one, with the directory.
    ///
    /// # Errors
    /// As those of [`Backup::open`].
    pub fn open_or_create(dir: &Path) -> Result<Backup> {
        let disk = Disk::create_dir(dir).map_err(Error::io("create", &dir.display().to_string()))?;
        Backup::open_or_create_with_io(Arc::new(disk))
    }

    /// [`Backup::open`] in a directory of any kind.
    ///
    /// # Errors
    /// As those of [`Backup::open`].
    pub fn open_with_io(io: Arc<dyn Io>) -> Result<Backup> {
        Backup::in_store(Store::open_with_io(io, options())?)
    }

    /// [`Backup::open_or_create`] in a directory of any kind.
    ///
    /// # Errors
    /// As those of [`Backup::open`].
    pub fn open_or_create_with_io(io: Arc<dyn Io>) -> Result<Backup> {
        Backup::in_store(match Store::open_with_io(io.clone(), options()) {
            Err(Error::NotFound { .. }) => Store::create_with_io(io, options())?,
            opened => opened?,
        })
    }

    /// The backup that an open store is, or, if it has no refs, will be.
    ///
    /// # Errors
    /// [`Error::NotBackup`].
    pub fn in_store(store: Store) -> Result<Backup> {
        let foreign = |name: &str| !name.starts_with(POINTS) && !name.starts_with(SOURCES);
        match store.refs("").iter().any(|(name, _)| foreign(name)) {
            true => Err(Error::NotBackup { dir: store.dir() }),
            false => Ok(Backup { store, batch_bytes: BATCH_BYTES }),
        }
    }

    /// For tests: appends about so many bytes at a time.
    #[doc(hidden)]
    #[must_use]
    pub fn with_batch_bytes(self, batch_bytes: usize) -> Backup {
        Backup { batch_bytes, ..self }
    }

    /// The store that the backup is, for reading chunks.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Closes the backup.
    ///
    /// # Errors
    /// The store's.
    pub fn close(self) -> Result<()> {
        self.store.close()
    }

    /// Whether there is a point `time`.
    pub fn has(&self, time: &str) -> bool {
        self.store.get_ref(&format!("{POINTS}{time}")).is_some()
    }

    /// The points in time, oldest first.
    ///
    /// # Errors
    /// [`Error::Damaged`] if one cannot be read.
    pub fn points(&self) -> Result<Vec<Point>> {
        self.store.refs(POINTS).iter().map(|(name, root)| self.point(name, root)).collect()
    }

    fn point(&self, name: &str, root: &Hash) -> Result<Point> {
        let malformed = |chunk: &Chunk| {
            let (file, offset) = self.store.place(chunk.hash()).ok().flatten().unwrap_or_default();
            let what = "a chunk of the backup breaks a rule of its layout";
            Error::damaged(&self.store.file_name(file), u64::from(offset), what).of(chunk.hash())
        };
        let chunk = get(&self.store, root)?;
        let (of, bytes) = decode_point(&chunk).ok_or_else(|| malformed(&chunk))?;
        let mut refs = Refs::new();
        for page in chunk.children() {
            let page = get(&self.store, &page)?;
            refs.extend(decode_page(&page).ok_or_else(|| malformed(&page))?);
        }
        Ok(Point { time: name[POINTS.len()..].to_owned(), refs, of, bytes })
    }

    /// Adds the point `time` of `source`: all its durable refs, as they are at one moment during the call, and all that they reach. `time` is
    /// later than that of any point there is. The source stays in use meanwhile.
    ///
    /// # Errors
    /// [`Error::OtherSource`]; those of both stores. No point is added then, and what was copied is not copied again.
    pub fn sync(&self, source: &Store, time: &str, kinds: Kinds<'_>) -> Result<Synced> {
        let before = self.store.stats().bytes_written;
        let of = Of::One(source.id());
        let last = self.last(&of)?;
        self.claim(source)?;
        let (mut refs, _pins) = pinned_refs(&[source])?;
        let refs = refs.pop().unwrap_or_default();
        self.add(&[(source, &refs, String::new())], time, of, last, before, kinds)
    }

    /// Adds the point `time` of several stores, as they were at `moment`, and all that they reached then. `time` is later than that of any point there is.
    ///
    /// # Errors
    /// [`Error::OtherSource`] if it knows none of them; those of both sides. No point is added then, and what was copied is not copied again.
    pub fn sync_all(&self, moment: &Moment, time: &str, kinds: Kinds<'_>) -> Result<Synced> {
        let before = self.store.stats().bytes_written;
        let of = Of::Several(moment.sources.iter().map(|(name, store)| (name.clone(), store.id())).collect());
        let last = self.last(&of)?;
        let knows = |(_, store): &(String, Store)| self.store.get_ref(&source_ref(store)).is_some();
        let is_new = last.is_none() || self.store.refs(SOURCES).is_empty();
        if !is_new && !moment.sources.is_empty() && !moment.sources.iter().any(knows) {
            return Err(Error::OtherSource { dir: self.store.dir() });
        }
        let sources = moment.sources.iter().zip(&moment.refs);
        let sources: Vec<(&Store, &Refs, String)> =
            sources.map(|((name, store), refs)| (store, refs, format!("{name}/"))).collect();
        self.add(&sources, time, of, last, before, kinds)
    }

    /// The last point, and its address. Refuses to add one of another kind.
    fn last(&self, of: &Of) -> Result<Option<(Point, Hash)>> {
        let Some((name, root)) = self.store.refs(POINTS).pop() else { return Ok(None) };
        let point = self.point(&name, &root)?;
        match point.of.differs(of) {
            Some([holds, wanted]) => Err(Error::OtherKindOfBackup { dir: self.store.dir(), holds, wanted }),
            None => Ok(Some((point, root))),
        }
    }

    /// Copies what the backup lacks of the sources, each of which has its refs and what stands before their names in the point; and adds the point.
    fn add(
        &self,
        sources: &[(&Store, &Refs, String)],
        time: &str,
        of: Of,
        last: Option<(Point, Hash)>,
        before: u64,
        kinds: Kinds<'_>,
    ) -> Result<Synced> {
        let base = last.as_ref().map(|(point, _)| &point.refs);
        let hold = self.store.hold();
        let started = self.store.stats().bytes_written;
        let (mut all, mut chunks) = (Refs::new(), 0);
        for (source, refs, prefix) in sources {
            let mut copy = Copy::new(source, &self.store, self.batch_bytes, kinds, copying(source));
            for (name, root) in *refs {
                let name = format!("{prefix}{name}");
                copy.tree(root, base.and_then(|base| base.get(&name)))?;
                all.insert(name, *root);
            }
            chunks += copy.end()?;
        }
        let bytes = self.store.stats().bytes_written - started;
        let (point, mut batch) = self.encode(&all, &of, bytes, last.map(|(_, root)| root))?;
        let mut refs = vec![(format!("{POINTS}{time}"), point)];
        for (source, _, _) in sources {
            if self.store.get_ref(&source_ref(source)).is_none() {
                refs.push(put_source(&mut batch, source));
            }
        }
        set_refs(&self.store, batch, &refs)?;
        drop(hold);
        // The journals that were filled become tables, which take less. The point is there whatever becomes of that.
        while self.store.maintain().unwrap_or(false) {}
        Ok(Synced {
            point: Point { time: time.to_owned(), refs: all, of, bytes },
            chunks,
            bytes_written: self.store.stats().bytes_written - before,
        })
    }

    /// This backup, whose [`Backup::restore`] and [`Backup::verify`] tell `observer` how many chunks they copied or checked. [`Backup::sync`] tells the
    /// observer of its source.
    pub fn observed(self, observer: &Observer) -> Backup {
        Backup { store: self.store.observed(observer), ..self }
    }

    /// Makes sure that this is a backup of `source`.
    fn claim(&self, source: &Store) -> Result<()> {
        let name = source_ref(source);
        let sources = self.store.refs(SOURCES);
        if sources.iter().any(|(known, _)| *known == name) {
            return Ok(());
        }
        if !sources.is_empty() && !self.store.refs(POINTS).is_empty() {
            return Err(Error::OtherSource { dir: self.store.dir() });
        }
        self.note_source(source)
    }

    fn note_source(&self, source: &Store) -> Result<()> {
        if self.store.get_ref(&source_ref(source)).is_some() {
            return Ok(());
        }
        let mut batch = Batch::default();
        let source = put_source(&mut batch, source);
        set_refs(&self.store, batch, &[source])
    }

    /// The chunks of a point, as differences from those of the point `base`.
    fn encode(&self, refs: &Refs, of: &Of, bytes: u64, base: Option<Hash>) -> Result<(Hash, Batch)> {
        let pages = encode_pages(refs);
        let point = encode_point(&pages, of, bytes);
        let pairs = match &base {
            Some(base) => pair(&point, &get(&self.store, base)?),
            None => Vec::new(),
        };
        let mut batch = Batch::default();
        for (index, page) in pages.into_iter().enumerate() {
            batch.put(page, pairs.get(index).copied().flatten());
        }
        let root = *point.hash();
        batch.put(point, base);
        Ok((root, batch))
    }

    /// Makes `target`, which has no refs, what the source was at `point`. What an earlier restore of the same kind, which was cut, has copied
    /// there is not copied again.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if it has refs; those of both stores. It has no refs then.
    pub fn restore(&self, point: &Point, target: &Store, kinds: Kinds<'_>) -> Result<Restored> {
        if !target.appended_refs("").is_empty() {
            return Err(Error::AlreadyExists { dir: target.dir() });
        }
        let before = target.stats().bytes_written;
        // Written first: a store that was restored, and then used, must find its backup open to it.
        self.note_source(target)?;
        let hold = target.hold();
        let mut copy = Copy::new(&self.store, target, self.batch_bytes, kinds, copying(&self.store));
        for root in point.refs.values() {
            copy.tree(root, None)?;
        }
        let chunks = copy.end()?;
        let refs: Vec<(String, Hash)> = point.refs.clone().into_iter().collect();
        set_refs(target, Batch::default(), &refs)?;
        drop(hold);
        Ok(Restored { chunks, bytes_written: target.stats().bytes_written - before })
    }

    /// Makes the directory `dir` a store as the source was at `point`. It is made beside it and renamed into place, so that it is there whole
    /// or not at all. With `force` it takes the place of a store that is there, which is kept aside until the new one is in its place.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] without `force`, [`Error::NotEmpty`] if something else is there, [`Error::Locked`] if it is in use; those of
    /// [`Backup::restore`].
    pub fn restore_dir(&self, point: &Point, dir: &Path, force: bool, kinds: Kinds<'_>) -> Result<Restored> {
        let places = Places::of(dir)?;
        let there = places.look(force)?;
        let target = places.unfinished()?;
        let restored = self.restore(point, &target, kinds)?;
        target.close()?;
        places.replace(there)?;
        Ok(restored)
    }

    /// Reads every chunk of the backup from its files, checks each, and that every point is whole.
    ///
    /// # Errors
    /// None of what is damaged, which the report says.
    pub fn verify(&self, kinds: Kinds<'_>) -> Result<fsck::Report> {
        let check = |chunk: &Chunk| if chunk.kind() == KIND { check(chunk) } else { (kinds.check)(chunk) };
        fsck::check(&self.store, &check)
    }
}

fn copying(from: &Store) -> Meter {
    from.meter("copying", "chunks", None)
}

fn options() -> Options {
    Options { cache_bytes: 64 << 20, ..Options::default() }
}

fn source_ref(source: &Store) -> String {
    let id: String = source.id().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{SOURCES}{id}")
}

/// Adds what says that a store is a source of a backup; gives the ref that leads to it.
fn put_source(batch: &mut Batch, source: &Store) -> (String, Hash) {
    let chunk = Chunk::build(KIND, SOURCE, &source.id(), None, &[], 0);
    let hash = *chunk.hash();
    batch.put(chunk, None);
    (source_ref(source), hash)
}

fn get(store: &Store, hash: &Hash) -> Result<Chunk> {
    store.get(hash)?.ok_or(Error::Missing { hash: *hash })
}

/// Makes refs that do not exist; durable when it returns.
fn set_refs(store: &Store, batch: Batch, refs: &[(String, Hash)]) -> Result<()> {
    let update = |(name, new): &(String, Hash)| RefUpdate { name: name.clone(), old: None, new: Some(*new) };
    match store.append(batch, &refs.iter().map(update).collect::<Vec<_>>())? {
        Outcome::Appended(ticket) => ticket.wait(),
        Outcome::Moved { name, .. } => Err(Error::RefExists { name }),
    }
}

/// The durable refs of stores, all as they are at one moment, and handles that keep what they name.
fn pinned_refs(stores: &[&Store]) -> Result<(Vec<Refs>, Vec<Store>)> {
    loop {
        let all = Store::refs_at_one_moment(stores);
        if let Some(pins) = pin(stores, &all)? {
            return Ok((all, pins));
        }
    }
}

/// Handles that keep what the refs name; `None` if one has moved, and what it named was collected.
fn pin(stores: &[&Store], all: &[Refs]) -> Result<Option<Vec<Store>>> {
    let mut pins = Vec::new();
    for (store, refs) in stores.iter().zip(all) {
        for (name, root) in refs {
            match store.pinned(root)? {
                Some(pin) => pins.push(pin),
                None if store.get_ref(name) == Some(*root) => return Err(Error::Missing { hash: *root }),
                None => return Ok(None),
            }
        }
    }
    Ok(Some(pins))
}
