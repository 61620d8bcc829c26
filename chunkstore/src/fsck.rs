//! Fsck: reads every chunk of an open store from its file, says what is damaged and who needs it, and repairs from elsewhere.
//!
//! One idea: if every chunk reads back as its address says, names only what is there, and every ref does, then every ref's closure is
//! whole; no walk is needed for that. A chunk that is marked as partial names what is there or promised ([`Store::set_partial`]); no source is asked
//! for that. Only when something is damaged does a walk from the refs find whom it concerns. The store is in use
//! meanwhile: what is appended since the start is not looked at, what a collection takes is no damage.
//!
//! Memory is in proportion to the number of chunks, whatever their bytes. Called by `fsck` and by [`backup`](crate::backup).

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;

use crate::batch::Batch;
use crate::chunk::Chunk;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::index::Uniformly;
use crate::progress::Meter;
use crate::store::{Outcome, Store};

/// Chunks that a thread takes at a time.
const SHARE: usize = 256;
/// Threads at most: more wait for the same disk.
const THREADS_MAX: usize = 16;
/// Damages whose refs are looked for, in rounds of one bit each.
const TRACED_MAX: usize = 1024;
const ROUND: usize = u64::BITS as usize;
/// A repair appends so many bytes at a time.
const BATCH_BYTES: usize = 8 << 20;

/// Whether a chunk is what its kind says, and lists exactly its references; the error says what is wrong.
pub type Check<'a> = &'a (dyn Fn(&Chunk) -> Result<(), String> + Sync);

/// What is wrong with a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file that is damaged; of a chunk that is missing, that of the chunk which names it, or empty if a ref does.
    pub file: String,
    /// Where in the file the frame begins that cannot be read: the chunk's, or one that it is a difference from.
    pub offset: u64,
    /// The chunk that is damaged or missing.
    pub hash: Hash,
    /// What was expected and found.
    pub what: String,
    /// The chunk that names it, if it is missing.
    pub named_by: Option<Hash>,
    /// The refs that lead to it, by name; `None` if that was not looked for, there being too many damages.
    pub needed_by: Option<Vec<String>>,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Chunks read.
    pub chunks: u64,
    /// Their bytes, header included.
    pub bytes: u64,
    /// Refs whose closure was checked.
    pub refs: u64,
    /// Chunks that are not here, and that nothing but partial chunks name: a remote has them. Always 0 in a store that never was partial.
    pub promised: u64,
    /// By file and offset.
    pub damages: Vec<Damage>,
}

/// What a repair did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Chunks written anew.
    pub chunks: u64,
    /// Those that the source does not have.
    pub lacking: Vec<Hash>,
}

/// Checks every chunk that `store` has now. Its observer is told of chunks.
///
/// # Errors
/// None of what is damaged, which the report says; the store's, if it was closed; [`Error::Cancelled`].
pub fn check(store: &Store, check: Check<'_>) -> Result<Report> {
    let (refs, _pins) = pinned_refs(store)?;
    let mut hashes = store.hashes()?;
    // In the order in which they lie, so that the disk is read forwards.
    hashes.sort_by_cached_key(|hash| store.place(hash).ok());
    let found = Mutex::new(HashMap::<Hash, Damage, Uniformly>::default());
    let promised = Mutex::new(HashSet::<Hash, Uniformly>::default());
    let note = |finding: Finding| match finding {
        Finding::Damage(damage) => drop(found.lock().entry(damage.hash).or_insert(damage)),
        Finding::Promised(hash) => drop(promised.lock().insert(hash)),
    };
    let (next, done, bytes) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let total = hashes.len() as u64;
    let mut meter = store.meter("checking", "chunks", Some(total));
    // Only the caller's thread tells.
    let work = |mut meter: Option<&mut Meter>| {
        loop {
            let from = next.fetch_add(SHARE, Ordering::Relaxed);
            let Some(share) = hashes.get(from..hashes.len().min(from + SHARE)).filter(|s| !s.is_empty())
            else {
                return;
            };
            if store.check_cancelled().is_err() {
                return;
            }
            let read = share.iter().map(|hash| check_one(store, hash, check, &note)).sum();
            bytes.fetch_add(read, Ordering::Relaxed);
            let share = share.len() as u64;
            let done = done.fetch_add(share, Ordering::Relaxed) + share;
            if let Some(meter) = &mut meter {
                meter.reach(done);
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    thread::scope(|scope| {
        (1..threads).for_each(|_| drop(scope.spawn(|| work(None))));
        work(Some(&mut meter));
    });
    store.check_cancelled()?;
    meter.reach(total);
    meter.end();
    for (name, root) in &refs {
        if !store.contains(root) {
            let what = format!("the ref {name} names it, and it is missing");
            let (file, offset, hash) = (String::new(), 0, *root);
            note(Finding::Damage(Damage { file, offset, hash, what, named_by: None, needed_by: None }));
        }
    }
    let mut damages: Vec<Damage> = found.into_inner().into_values().collect();
    let still = |damage: &Damage| match damage.named_by {
        Some(parent) => store.contains(&parent) && !store.contains(&damage.hash),
        None => true,
    };
    if !damages.iter().all(still) {
        // A collection took a child, and its parent just after that was looked at. Another parent may miss it still.
        return self::check(store, check);
    }
    damages.sort_by(|a, b| (&a.file, a.offset, &a.hash).cmp(&(&b.file, b.offset, &b.hash)));
    let mut promised = promised.into_inner();
    for damage in &damages {
        // A chunk that is not partial names it, too.
        promised.remove(&damage.hash);
    }
    trace(store, &refs, &mut damages);
    // A walk that was cut short has not seen what is damaged.
    store.check_cancelled()?;
    let (bytes, refs, promised) = (bytes.into_inner(), refs.len() as u64, promised.len() as u64);
    Ok(Report { chunks: total, bytes, refs, promised, damages })
}

/// What is found at a chunk.
enum Finding {
    Damage(Damage),
    /// A child that is not here, and need not be.
    Promised(Hash),
}

type Refs = Vec<(String, Hash)>;

/// The appended refs, and handles that keep what they name.
fn pinned_refs(store: &Store) -> Result<(Refs, Vec<Store>)> {
    loop {
        let refs = store.appended_refs("");
        let mut pins = Vec::new();
        let mut moved = false;
        for (name, root) in &refs {
            match store.pinned(root)? {
                Some(pin) => pins.push(pin),
                // Gone because the ref has moved, or missing: the check says so.
                None => moved |= store.appended_ref(name) != Some(*root),
            }
        }
        if !moved {
            return Ok((refs, pins));
        }
    }
}

/// Checks a chunk, and that what it names is there. Gives its bytes.
fn check_one(store: &Store, hash: &Hash, check: Check<'_>, note: &dyn Fn(Finding)) -> u64 {
    let damage = |hash: &Hash, named_by: Option<&Hash>, place: Option<(String, u64)>, what: String| {
        let (file, offset) = place.unwrap_or_default();
        let named_by = named_by.copied();
        note(Finding::Damage(Damage { file, offset, hash: *hash, what, named_by, needed_by: None }));
    };
    let place = || {
        let (file, offset) = store.place(hash).ok()??;
        Some((store.file_name(file), u64::from(offset)))
    };
    let chunk = match store.read_anew(hash) {
        Ok(Some(chunk)) => chunk,
        // A collection took it meanwhile.
        Ok(None) => return 0,
        // Where the damage is: in the chunk's own frame, or in one that it is a difference from.
        Err(Error::Damaged { file, offset, what, .. }) => {
            damage(hash, None, Some((file, offset)), what);
            return 0;
        }
        Err(error) => {
            damage(hash, None, place(), error.to_string());
            return 0;
        }
    };
    if let Err(what) = check(&chunk) {
        damage(hash, None, place(), what);
    }
    for child in chunk.children().filter(|child| !store.contains(child)) {
        if store.is_partial_chunk(hash) {
            note(Finding::Promised(child));
        } else if store.contains(hash) {
            let what = format!("chunk {hash}, which lies there, names it, and it is missing");
            damage(&child, Some(hash), place(), what);
        }
    }
    chunk.bytes().len() as u64
}

/// Finds the refs that lead to each damage.
fn trace(store: &Store, refs: &[(String, Hash)], damages: &mut [Damage]) {
    for round in damages.chunks_mut(ROUND).take(TRACED_MAX / ROUND) {
        let bits: HashMap<Hash, u64, Uniformly> =
            round.iter().enumerate().map(|(bit, damage)| (damage.hash, 1 << bit)).collect();
        let mut reached: HashMap<Hash, u64, Uniformly> = HashMap::default();
        round.iter_mut().for_each(|damage| damage.needed_by = Some(Vec::new()));
        for (name, root) in refs {
            let reaches = reach(store, root, &bits, &mut reached);
            for (bit, damage) in round.iter_mut().enumerate() {
                if reaches & (1 << bit) != 0 {
                    damage.needed_by.get_or_insert_default().push(name.clone());
                }
            }
        }
    }
}

/// Which of the chunks that have a bit are under `root`, itself included. What was found for each chunk is kept in `reached`.
fn reach(
    store: &Store,
    root: &Hash,
    bits: &HashMap<Hash, u64, Uniformly>,
    reached: &mut HashMap<Hash, u64, Uniformly>,
) -> u64 {
    /// A chunk, its children from the next one on, and what was reached so far.
    struct Open {
        hash: Hash,
        children: std::vec::IntoIter<Hash>,
        reaches: u64,
    }
    let open = |hash: Hash| {
        // What cannot be read has a bit of its own, and nothing that can be found under it.
        let children = match store.local(&hash) {
            Ok(Some(chunk)) => chunk.children().collect(),
            _ => Vec::new(),
        };
        Open { hash, children: children.into_iter(), reaches: bits.get(&hash).copied().unwrap_or(0) }
    };
    if let Some(known) = reached.get(root) {
        return *known;
    }
    let mut path = vec![open(*root)];
    while let Some(last) = path.last_mut() {
        match last.children.next() {
            Some(child) => match reached.get(&child) {
                Some(known) => last.reaches |= known,
                None => path.push(open(child)),
            },
            None => {
                let (hash, reaches) = (last.hash, last.reaches);
                path.pop();
                reached.insert(hash, reaches);
                if let Some(parent) = path.last_mut() {
                    parent.reaches |= reaches;
                }
            }
        }
    }
    reached.get(root).copied().unwrap_or(0)
}

/// Writes anew what is damaged or missing, as far as `source` has it, with whatever of it is missing under that; children first. In a partial store
/// what is missing under that is promised, and stays so. Durable when it returns. Whether all is well then is for another [`check`] to say.
///
/// # Errors
/// The source's, and the store's.
pub fn repair(
    store: &Store,
    damages: &[Damage],
    check: Check<'_>,
    source: &dyn Fn(&Hash) -> Result<Option<Chunk>>,
) -> Result<Repaired> {
    let _hold = store.hold();
    let needs =
        |batch: &Batch, child: &Hash| !store.is_partial() && !batch.contains(child) && !store.contains(child);
    let mut repaired = Repaired::default();
    let mut lacking = HashSet::new();
    let mut batch = Batch::default();
    for damage in damages {
        let mut path: Vec<Chunk> = Vec::new();
        let mut wanted = vec![damage.hash];
        while let Some(hash) = wanted.pop() {
            if batch.contains(&hash) {
                continue;
            }
            if let Some(chunk) = path.pop_if(|chunk| *chunk.hash() == hash) {
                // Its children are there: they were asked for after it.
                if !chunk.children().any(|child| needs(&batch, &child)) {
                    repaired.chunks += 1;
                    batch.put_anew(chunk);
                    if batch.bytes() > BATCH_BYTES {
                        append(store, std::mem::take(&mut batch))?;
                    }
                } else {
                    lacking.insert(hash);
                }
                continue;
            }
            if lacking.contains(&hash) {
                continue;
            }
            match source(&hash)?.filter(|chunk| *chunk.hash() == hash && check(chunk).is_ok()) {
                None => drop(lacking.insert(hash)),
                Some(chunk) => {
                    wanted.push(hash);
                    wanted.extend(chunk.children().filter(|child| needs(&batch, child)));
                    path.push(chunk);
                }
            }
        }
    }
    append(store, batch)?;
    repaired.lacking = lacking.into_iter().collect();
    repaired.lacking.sort_unstable();
    Ok(repaired)
}

fn append(store: &Store, batch: Batch) -> Result<()> {
    match store.append(batch, &[])? {
        Outcome::Appended(ticket) => ticket.wait(),
        Outcome::Moved { .. } => unreachable!("no ref is moved"),
    }
}
