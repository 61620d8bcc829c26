//! Files in memory: a store without a disk, and a disk whose power can be cut.
//!
//! One idea: a plain [`Memory`] keeps what the files hold *live*. A [`Memory::simulated`] one also keeps what is *durable*, the effects
//! that no sync has covered yet, and counts calls, so that a test can stop at the n-th call and ask what a power cut leaves:
//! * unsynced bytes of a file survive or not, by sectors of 512 bytes, in any mixture, whatever the order of the writes;
//! * a creation, rename or removal survives or not by itself until the directory is synced; a file may survive without its bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::{File, Io, Locking, fill};

/// What a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// Files in memory. Cloning shares them.
#[derive(Clone, Default)]
pub struct Memory {
    disk: Arc<Disk>,
}

#[derive(Default)]
struct Disk {
    live: Mutex<BTreeMap<String, Arc<Contents>>>,
    locks: Arc<Mutex<BTreeMap<String, String>>>,
    simulation: Option<Simulation>,
}

#[derive(Default)]
struct Contents {
    live: RwLock<Vec<u8>>,
    /// What is on disk for certain, and the sectors written since; unused when not simulated.
    durable: Mutex<(Vec<u8>, BTreeSet<usize>)>,
}

#[derive(Default)]
struct Simulation {
    durable_dir: Mutex<BTreeMap<String, Arc<Contents>>>,
    dir_changes: Mutex<Vec<DirChange>>,
    faults: Mutex<Faults>,
}

#[derive(Clone)]
enum DirChange {
    Link(String, Arc<Contents>),
    Rename(String, String),
    Remove(String),
}

/// What goes wrong in a simulated disk, and how many effects it has seen.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Effects so far: creations, renames, removals, writes and syncs.
    pub calls: u64,
    /// The power goes off at this call: a write leaves any part of itself, every later call fails.
    pub power_cut_at: Option<u64>,
    /// This call fails with an input/output error. A write then leaves its first half; what a sync should have written is never written.
    pub error_at: Option<u64>,
    /// Bytes that all files may hold together; a write beyond leaves what fits.
    pub capacity_bytes: Option<u64>,
    /// Planted fault: syncing a file does nothing.
    pub ignore_sync_data: bool,
    /// Planted fault: syncing the directory does nothing.
    pub ignore_sync_dir: bool,
}

impl Memory {
    /// An empty directory that takes part in a simulation.
    pub fn simulated() -> Memory {
        Memory { disk: Arc::new(Disk { simulation: Some(Simulation::default()), ..Disk::default() }) }
    }

    /// A simulated directory that durably holds these files.
    pub fn holding(files: BTreeMap<String, Vec<u8>>) -> Memory {
        let dir: BTreeMap<_, _> =
            files.into_iter().map(|(name, bytes)| (name, Arc::new(Contents::holding(bytes)))).collect();
        let simulation = Simulation { durable_dir: Mutex::new(dir.clone()), ..Simulation::default() };
        Memory {
            disk: Arc::new(Disk { live: Mutex::new(dir), simulation: Some(simulation), ..Disk::default() }),
        }
    }

    /// What the files hold now, as the process sees them.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let live = self.disk.live.lock();
        live.iter().map(|(name, contents)| (name.clone(), contents.live.read().clone())).collect()
    }

    /// Changes what goes wrong from now on; no effect on a directory that is not simulated.
    pub fn with_faults<T>(&self, change: impl FnOnce(&mut Faults) -> T) -> Option<T> {
        self.disk.simulation.as_ref().map(|simulation| change(&mut simulation.faults.lock()))
    }

    /// What the files hold after a power cut now. `keep` is asked, for each thing not yet synced, whether it survives.
    pub fn after_power_cut(&self, mut keep: impl FnMut() -> bool) -> BTreeMap<String, Vec<u8>> {
        let Some(simulation) = &self.disk.simulation else { return BTreeMap::new() };
        let mut dir = simulation.durable_dir.lock().clone();
        for change in simulation.dir_changes.lock().iter() {
            if keep() {
                change.apply(&mut dir);
            }
        }
        dir.into_iter().map(|(name, contents)| (name, contents.after_power_cut(&mut keep))).collect()
    }
}

impl Contents {
    fn holding(bytes: Vec<u8>) -> Contents {
        Contents { live: RwLock::new(bytes.clone()), durable: Mutex::new((bytes, BTreeSet::new())) }
    }

    fn after_power_cut(&self, keep: &mut impl FnMut() -> bool) -> Vec<u8> {
        let live = self.live.read();
        let (mut bytes, unsynced) = self.durable.lock().clone();
        for sector in unsynced.into_iter().filter(|_| keep()) {
            let start = sector * SECTOR_BYTES;
            let end = live.len().min(start + SECTOR_BYTES);
            if start < end {
                bytes.resize(bytes.len().max(end), 0);
                bytes[start..end].copy_from_slice(&live[start..end]);
            }
        }
        bytes
    }
}

impl DirChange {
    fn apply(&self, dir: &mut BTreeMap<String, Arc<Contents>>) {
        match self {
            DirChange::Link(name, contents) => {
                dir.insert(name.clone(), contents.clone());
            }
            DirChange::Rename(from, to) => {
                // The new name may reach the disk although the creation under the old one did not: then nothing is left to rename.
                if let Some(contents) = dir.remove(from) {
                    dir.insert(to.clone(), contents);
                }
            }
            DirChange::Remove(name) => {
                dir.remove(name);
            }
        }
    }
}

/// What becomes of a call.
enum Fate {
    Done,
    /// It fails after as many of its bytes as this.
    Failed(Error, usize),
}

impl Disk {
    fn fate(&self, bytes: usize, grows: usize) -> Fate {
        let Some(simulation) = &self.simulation else { return Fate::Done };
        let mut faults = simulation.faults.lock();
        faults.calls += 1;
        if let Some(cut) = faults.power_cut_at {
            if faults.calls == cut {
                return Fate::Failed(Error::other("the power is off"), bytes);
            }
            if faults.calls > cut {
                return Fate::Failed(Error::other("the power is off"), 0);
            }
        }
        if faults.error_at == Some(faults.calls) {
            return Fate::Failed(Error::other("planted input/output error"), bytes / 2);
        }
        if let Some(capacity) = faults.capacity_bytes.filter(|_| grows > 0) {
            let used: usize = self.live.lock().values().map(|contents| contents.live.read().len()).sum();
            let free = (capacity as usize).saturating_sub(used);
            if grows > free {
                return Fate::Failed(ErrorKind::StorageFull.into(), bytes - (grows - free).min(bytes));
            }
        }
        Fate::Done
    }

    fn dir_fate(&self) -> Result<()> {
        match self.fate(0, 0) {
            Fate::Failed(error, _) => Err(error),
            _ => Ok(()),
        }
    }

    fn note(&self, change: DirChange) {
        if let Some(simulation) = &self.simulation {
            simulation.dir_changes.lock().push(change);
        }
    }
}

impl Io for Memory {
    fn place(&self) -> String {
        "memory".to_owned()
    }

    fn create(&self, name: &str) -> Result<Arc<dyn File>> {
        self.disk.dir_fate()?;
        let contents = Arc::new(Contents::default());
        self.disk.live.lock().insert(name.to_owned(), contents.clone());
        self.disk.note(DirChange::Link(name.to_owned(), contents.clone()));
        Ok(Arc::new(MemoryFile { disk: self.disk.clone(), contents, read_only: false }))
    }

    fn open(&self, name: &str) -> Result<Arc<dyn File>> {
        let contents = self.disk.live.lock().get(name).cloned().ok_or(ErrorKind::NotFound)?;
        Ok(Arc::new(MemoryFile { disk: self.disk.clone(), contents, read_only: false }))
    }

    fn map(&self, name: &str) -> Result<Arc<dyn File>> {
        let contents = self.disk.live.lock().get(name).cloned().ok_or(ErrorKind::NotFound)?;
        Ok(Arc::new(MemoryFile { disk: self.disk.clone(), contents, read_only: true }))
    }

    fn list(&self) -> Result<Vec<String>> {
        Ok(self.disk.live.lock().keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.disk.dir_fate()?;
        let mut live = self.disk.live.lock();
        let contents = live.remove(from).ok_or(ErrorKind::NotFound)?;
        live.insert(to.to_owned(), contents);
        self.disk.note(DirChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.disk.dir_fate()?;
        self.disk.live.lock().remove(name).ok_or(ErrorKind::NotFound)?;
        self.disk.note(DirChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> Result<()> {
        self.disk.dir_fate()?;
        if let Some(simulation) = &self.disk.simulation
            && !simulation.faults.lock().ignore_sync_dir
        {
            *simulation.durable_dir.lock() = self.disk.live.lock().clone();
            simulation.dir_changes.lock().clear();
        }
        Ok(())
    }

    fn reserve(&self, name: &str, bytes: u64) -> Result<()> {
        let reserved = self.create(name).and_then(|file| fill(&*file, bytes));
        if reserved.is_err() {
            let _ = self.remove(name);
        }
        reserved
    }

    fn lock(&self, name: &str, owner: &str) -> Result<Locking> {
        let mut locks = self.disk.locks.lock();
        if let Some(found) = locks.get(name) {
            return Ok(Locking::Busy(found.clone()));
        }
        locks.insert(name.to_owned(), owner.to_owned());
        Ok(Locking::Held(Box::new(MemoryLock { locks: self.disk.locks.clone(), name: name.to_owned() })))
    }
}

struct MemoryLock {
    locks: Arc<Mutex<BTreeMap<String, String>>>,
    name: String,
}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.locks.lock().remove(&self.name);
    }
}

struct MemoryFile {
    disk: Arc<Disk>,
    contents: Arc<Contents>,
    read_only: bool,
}

impl File for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let live = self.contents.live.read();
        let start = usize::try_from(offset).map_err(|_| ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(buffer.len()).ok_or(ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(live.get(start..end).ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        if self.read_only {
            return Err(ErrorKind::PermissionDenied.into());
        }
        let start = usize::try_from(offset).map_err(|_| ErrorKind::FileTooLarge)?;
        let end = start.checked_add(bytes.len()).ok_or(ErrorKind::FileTooLarge)?;
        let grows = end.saturating_sub(self.contents.live.read().len());
        let (done, outcome) = match self.disk.fate(bytes.len(), grows) {
            Fate::Failed(error, done) => (done, Err(error)),
            _ => (bytes.len(), Ok(())),
        };
        if done == 0 {
            return outcome;
        }
        let mut live = self.contents.live.write();
        let len = live.len().max(start + done);
        live.resize(len, 0);
        live[start..start + done].copy_from_slice(&bytes[..done]);
        if self.disk.simulation.is_some() {
            let sectors = start / SECTOR_BYTES..=(start + done - 1) / SECTOR_BYTES;
            self.contents.durable.lock().1.extend(sectors);
        }
        outcome
    }

    fn sync_data(&self) -> Result<()> {
        let Some(simulation) = &self.disk.simulation else { return Ok(()) };
        if let Err(error) = self.disk.dir_fate() {
            // As Linux does: what a failed sync did not write counts as written from then on, and no later sync writes it.
            if simulation.faults.lock().power_cut_at.is_none() {
                self.contents.durable.lock().1.clear();
            }
            return Err(error);
        }
        if !simulation.faults.lock().ignore_sync_data {
            let synced = self.contents.after_power_cut(&mut || true);
            *self.contents.durable.lock() = (synced, BTreeSet::new());
        }
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        Ok(self.contents.live.read().len() as u64)
    }
}
