//! What every kind of directory must do for a store: run [`check`] on yours before you trust it with data.
//!
//! One idea: the promises of [`Io`] and those of a store upon it, each tried through the public doors only, so that whatever is passed is held
//! by whoever implements the trait. What it cannot try is a power cut; `docs/durability.md` says what is assumed of the disk.
//!
//! ```
//! use std::sync::Arc;
//! use pleach_chunkstore::{conformance, io::memory::Memory};
//!
//! conformance::check(&|| Arc::new(Memory::default())).unwrap();
//! ```

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::io::ErrorKind;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::batch::Batch;
use crate::chunk::{CHUNK_BYTES_MAX, Chunk};
use crate::error::Error;
use crate::fsck;
use crate::hash::Hash;
use crate::io::{Io, Locking};
use crate::refs::RefUpdate;
use crate::store::{Durability, Options, Outcome, Store};

/// A promise that is not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{promise}: {what}")]
pub struct Broken {
    /// Which.
    pub promise: &'static str,
    /// What was expected and found.
    pub what: String,
}

type Kept = Result<(), String>;
type Promise = (&'static str, fn(Arc<dyn Io>) -> Kept);

const PROMISES: [Promise; 16] = [
    ("an empty directory has no files, and opening what is absent says so", nothing),
    ("what is written is read back, and nothing is read beyond the end", files),
    ("a rename replaces, and a removal removes", names),
    ("a mapped file reads like any other", mapped),
    ("bytes are taken beforehand", reserved),
    ("a lock is held by one, who can be told", locks),
    ("a store is made once, and opened where one is", creation),
    ("a store is open once at a time", one_at_a_time),
    ("what is appended is there, at once and after opening again", reopening),
    ("what is absent is None", absent),
    ("a ref that is not what an update expects refuses the whole append", compare_and_set),
    ("appends have an order, and none is lost among threads", order),
    ("what is there is not written again", duplicates),
    ("large batches and the longest chunk are read back", large),
    ("journals that are sealed, compacted and collected hold what they held", maintenance),
    ("an eventual store has everything after it is closed", eventual),
];

/// Tries every promise, each in a new and empty directory that `make` gives.
///
/// # Errors
/// The first promise that is not kept.
pub fn check(make: &dyn Fn() -> Arc<dyn Io>) -> Result<(), Broken> {
    PROMISES.iter().try_for_each(|(promise, kept)| kept(make()).map_err(|what| Broken { promise, what }))
}

fn text(error: impl Display) -> String {
    error.to_string()
}

fn equal<T: PartialEq + Debug>(what: &str, found: T, expected: T) -> Kept {
    match found == expected {
        true => Ok(()),
        false => Err(format!("{what}: expected {expected:?}, found {found:?}")),
    }
}

fn refuses<T>(what: &str, kind: ErrorKind, result: std::io::Result<T>) -> Kept {
    equal(what, result.err().map(|error| error.kind()), Some(kind))
}

// Files.

fn nothing(io: Arc<dyn Io>) -> Kept {
    equal("files", io.list().map_err(text)?, Vec::new())?;
    refuses("opening what is absent", ErrorKind::NotFound, io.open("absent"))?;
    refuses("mapping what is absent", ErrorKind::NotFound, io.map("absent"))?;
    refuses("removing what is absent", ErrorKind::NotFound, io.remove("absent"))
}

fn files(io: Arc<dyn Io>) -> Kept {
    let file = io.create("a").map_err(text)?;
    equal("length of a new file", file.len().map_err(text)?, 0)?;
    file.write_at(b"hello", 0).map_err(text)?;
    file.write_at(b"!", 7).map_err(text)?;
    file.sync_data().map_err(text)?;
    io.sync_dir().map_err(text)?;
    let again = io.open("a").map_err(text)?;
    let mut bytes = [1; 8];
    again.read_at(&mut bytes, 0).map_err(text)?;
    equal("bytes", &bytes, b"hello\0\0!")?;
    equal("length", again.len().map_err(text)?, 8)?;
    refuses("reading beyond the end", ErrorKind::UnexpectedEof, again.read_at(&mut bytes, 1))?;
    refuses("reading far beyond the end", ErrorKind::UnexpectedEof, again.read_at(&mut bytes, 1 << 40))?;
    again.write_at(b"J", 0).map_err(text)?;
    file.read_at(&mut bytes[..1], 0).map_err(text)?;
    equal("what another handle wrote", bytes[0], b'J')?;
    io.create("a").map_err(text)?;
    equal("length of a file made anew", io.open("a").map_err(text)?.len().map_err(text)?, 0)
}

fn names(io: Arc<dyn Io>) -> Kept {
    for name in ["old", "new", "third"] {
        io.create(name).map_err(text)?.write_at(name.as_bytes(), 0).map_err(text)?;
    }
    io.rename("new", "old").map_err(text)?;
    let mut bytes = [0; 3];
    io.open("old").map_err(text)?.read_at(&mut bytes, 0).map_err(text)?;
    equal("what has the name now", &bytes, b"new")?;
    io.remove("third").map_err(text)?;
    refuses("renaming what is absent", ErrorKind::NotFound, io.rename("third", "old"))?;
    io.sync_dir().map_err(text)?;
    equal("files", io.list().map_err(text)?, vec!["old".to_owned()])
}

fn mapped(io: Arc<dyn Io>) -> Kept {
    let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let file = io.create("a").map_err(text)?;
    file.write_at(&bytes, 0).map_err(text)?;
    file.sync_data().map_err(text)?;
    let mapped = io.map("a").map_err(text)?;
    equal("length", mapped.len().map_err(text)?, bytes.len() as u64)?;
    for (from, len) in [(0, 1), (4095, 4098), (bytes.len() - 5, 5), (0, bytes.len())] {
        let mut found = vec![0; len];
        mapped.read_at(&mut found, from as u64).map_err(text)?;
        equal("bytes", found == bytes[from..from + len], true)?;
    }
    let beyond = mapped.read_at(&mut [0; 8], bytes.len() as u64 - 4);
    refuses("reading beyond the end", ErrorKind::UnexpectedEof, beyond)
}

fn reserved(io: Arc<dyn Io>) -> Kept {
    io.reserve("spare", 100_000).map_err(text)?;
    equal("length", io.open("spare").map_err(text)?.len().map_err(text)?, 100_000)?;
    io.remove("spare").map_err(text)
}

fn locks(io: Arc<dyn Io>) -> Kept {
    let take = |owner: &str| io.lock("LOCK", owner).map_err(text);
    let Locking::Held(held) = take("one")? else { return Err("nobody holds it, and it is busy".to_owned()) };
    match take("two")? {
        Locking::Busy(owner) => equal("owner", owner.as_str(), "one")?,
        Locking::Held(_) => return Err("two hold it".to_owned()),
    }
    drop(held);
    match take("three")? {
        Locking::Held(_) => Ok(()),
        Locking::Busy(owner) => Err(format!("it was given back, and {owner} holds it")),
    }
}

// Stores.

fn small() -> Options {
    Options { journal_bytes: 64 << 10, cache_bytes: 0, background: false, ..Options::default() }
}

fn create(io: &Arc<dyn Io>) -> Result<Store, String> {
    Store::create_with_io(io.clone(), small()).map_err(text)
}

fn open(io: &Arc<dyn Io>) -> Result<Store, String> {
    Store::open_with_io(io.clone(), small()).map_err(text)
}

fn leaf(number: u64) -> Chunk {
    let text: String =
        (0..40).map(|line| format!("line {line} of {}\n", if line == 7 { number } else { 0 })).collect();
    Chunk::build(1, 0, text.as_bytes(), None, &[], 0)
}

/// A chunk that names the one before it: a chain of which the last keeps all.
fn link(number: u64, before: Option<Hash>) -> Chunk {
    let mut body = before.map(|before| before.as_bytes().to_vec()).unwrap_or_default();
    body.extend(number.to_le_bytes());
    Chunk::build(2, 1, &body, before.map(|_| (0, 1)), &[], 0)
}

fn append(store: &Store, chunks: &[(Chunk, Option<Hash>)], updates: &[RefUpdate]) -> Kept {
    let mut batch = Batch::default();
    chunks.iter().for_each(|(chunk, base)| batch.put(chunk.clone(), *base));
    match store.append(batch, updates).map_err(text)? {
        Outcome::Appended(ticket) => ticket.wait().map_err(text),
        Outcome::Moved { name, expected, found } => {
            Err(format!("{name} is expected to be {expected:?}, and found to be {found:?}"))
        }
    }
}

fn update(name: &str, old: Option<Hash>, new: Option<Hash>) -> RefUpdate {
    RefUpdate { name: name.to_owned(), old, new }
}

fn holds(store: &Store, chunk: &Chunk) -> Kept {
    match store.get(chunk.hash()).map_err(text)? {
        Some(found) => equal("bytes of a chunk", found.bytes() == chunk.bytes(), true),
        None => Err(format!("chunk {} is not there", chunk.hash())),
    }
}

fn creation(io: Arc<dyn Io>) -> Kept {
    match Store::open_with_io(io.clone(), small()) {
        Err(Error::NotFound { .. }) => {}
        other => return Err(format!("opening nothing: {:?}", other.err())),
    }
    create(&io)?.close().map_err(text)?;
    match Store::create_with_io(io.clone(), small()) {
        Err(Error::AlreadyExists { .. }) => {}
        other => return Err(format!("making it twice: {:?}", other.err())),
    }
    equal("sequence", open(&io)?.sequence(), 0)
}

fn one_at_a_time(io: Arc<dyn Io>) -> Kept {
    let store = create(&io)?;
    match Store::open_with_io(io.clone(), small()) {
        Err(Error::Locked { pid, .. }) => equal("who has it", pid, std::process::id().to_string())?,
        other => return Err(format!("opening it twice: {:?}", other.err())),
    }
    let clone = store.clone();
    drop(store);
    if Store::open_with_io(io.clone(), small()).is_ok() {
        return Err("a clone has it open still, and it opens".to_owned());
    }
    drop(clone);
    open(&io)?.close().map_err(text)?;
    open(&io).map(drop)
}

fn reopening(io: Arc<dyn Io>) -> Kept {
    let mut store = create(&io)?;
    let mut refs: BTreeMap<String, Hash> = BTreeMap::new();
    for number in 0..300 {
        let chunk = leaf(number);
        let name = format!("heads/{}", number % 7);
        let update = update(&name, refs.get(&name).copied(), Some(*chunk.hash()));
        let base = number.checked_sub(1).map(|before| *leaf(before).hash());
        append(&store, &[(chunk.clone(), base)], std::slice::from_ref(&update))?;
        equal("the ref", store.get_ref(&name), update.new)?;
        refs.insert(name, *chunk.hash());
        if number % 50 == 49 {
            if number % 100 == 99 {
                store.close().map_err(text)?;
            } else {
                drop(store);
            }
            store = open(&io)?;
        }
        equal("sequence", store.sequence(), number + 1)?;
    }
    equal("refs", store.refs("heads/").into_iter().collect(), refs)?;
    (0..300).try_for_each(|number| holds(&store, &leaf(number)))
}

fn absent(io: Arc<dyn Io>) -> Kept {
    let store = create(&io)?;
    let chunk = leaf(1);
    append(&store, &[(chunk.clone(), None)], &[])?;
    let other = leaf(2);
    equal("an absent chunk", store.get(other.hash()).map_err(text)?, None)?;
    equal("whether it is there", store.contains(other.hash()), false)?;
    equal("an absent ref", store.get_ref("heads/main"), None)?;
    append(&store, &[], &[update("heads/main", None, Some(*chunk.hash()))])?;
    append(&store, &[], &[update("heads/main", Some(*chunk.hash()), None)])?;
    drop(store);
    let store = open(&io)?;
    equal("a ref that was deleted", store.get_ref("heads/main"), None)?;
    equal("an absent chunk", store.get(other.hash()).map_err(text)?, None)
}

fn compare_and_set(io: Arc<dyn Io>) -> Kept {
    let store = create(&io)?;
    let (one, two, three) = (leaf(1), leaf(2), leaf(3));
    append(&store, &[(one.clone(), None)], &[update("a", None, Some(*one.hash()))])?;
    let mut batch = Batch::default();
    batch.put(two.clone(), None);
    batch.put(three.clone(), None);
    let updates = [update("b", None, Some(*two.hash())), update("a", Some(*two.hash()), Some(*three.hash()))];
    match store.append(batch, &updates).map_err(text)? {
        Outcome::Moved { name, expected, found } => {
            equal(
                "what moved",
                (name.as_str(), expected, found),
                ("a", Some(*two.hash()), Some(*one.hash())),
            )?;
        }
        Outcome::Appended(_) => return Err("it was appended".to_owned()),
    }
    equal("refs", store.refs(""), vec![("a".to_owned(), *one.hash())])?;
    equal("a chunk of the refused append", store.contains(two.hash()), false)?;
    drop(store);
    let store = open(&io)?;
    equal("refs", store.refs(""), vec![("a".to_owned(), *one.hash())])
}

fn order(io: Arc<dyn Io>) -> Kept {
    const THREADS: u64 = 4;
    const EACH: u64 = 50;
    let store = create(&io)?;
    let work = |thread: u64| -> Kept {
        for round in 0..EACH {
            loop {
                let before = store.appended_ref("chain");
                let link = link(thread * EACH + round, before);
                let (mut batch, new) = (Batch::default(), *link.hash());
                batch.put(link, before);
                match store.append(batch, &[update("chain", before, Some(new))]).map_err(text)? {
                    Outcome::Appended(ticket) => {
                        ticket.wait().map_err(text)?;
                        break;
                    }
                    Outcome::Moved { .. } => {}
                }
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|number| scope.spawn(move || work(number))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| "a thread panicked".to_owned())?)
    })?;
    equal("sequence", store.sequence(), THREADS * EACH)?;
    drop(store);
    let store = open(&io)?;
    let (mut at, mut links) = (store.get_ref("chain"), 0);
    while let Some(hash) = at {
        let chunk =
            store.get(&hash).map_err(text)?.ok_or_else(|| format!("link {links} from the end is lost"))?;
        at = chunk.child(0);
        links += 1;
    }
    equal("links", links, THREADS * EACH)
}

fn duplicates(io: Arc<dyn Io>) -> Kept {
    let store = create(&io)?;
    let chunk = leaf(1);
    let twice = [(chunk.clone(), None), (chunk.clone(), None)];
    append(&store, &twice, &[])?;
    let written = store.stats().bytes_written;
    append(&store, &twice, &[])?;
    equal("bytes written for what is there", store.stats().bytes_written - written, 0)?;
    equal("chunks", store.stats().chunks, 1)?;
    holds(&store, &chunk)
}

fn large(io: Arc<dyn Io>) -> Kept {
    let store = create(&io)?;
    let noise = |number: u64, bytes: usize| {
        let mut state = number | 1;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        let body: Vec<u8> = std::iter::repeat_with(next).take(bytes).collect();
        Chunk::build(1, 0, &body, None, &[], 0)
    };
    let longest = noise(1, CHUNK_BYTES_MAX - 16);
    let many: Vec<_> = (0..2000).map(|number| (noise(number + 2, 2000), None)).collect();
    append(&store, &[&many[..], &[(longest.clone(), None)]].concat(), &[])?;
    let updates: Vec<_> =
        (0..2000).map(|number| update(&format!("tags/{number}"), None, Some(*longest.hash()))).collect();
    append(&store, &[], &updates)?;
    drop(store);
    let store = open(&io)?;
    equal("refs", store.refs("tags/").len(), 2000)?;
    holds(&store, &longest)?;
    many.iter().try_for_each(|(chunk, _)| holds(&store, chunk))
}

fn maintenance(io: Arc<dyn Io>) -> Kept {
    let store = create(&io)?;
    let mut last = None;
    for number in 0..400 {
        let link = link(number, last);
        let new = *link.hash();
        let dead = leaf(number);
        append(&store, &[(link, last), (dead, None)], &[update("chain", last, Some(new))])?;
        last = Some(new);
    }
    let whole = |store: &Store| -> Kept {
        let report = fsck::check(store, &|_| Ok(())).map_err(text)?;
        equal("damages", report.damages, Vec::new())?;
        equal("the ref", store.get_ref("chain"), last)
    };
    store.compact().map_err(text)?;
    whole(&store)?;
    let collected = store.collect(false).map_err(text)?;
    equal("chunks that nothing leads to", collected.dead_chunks, 400)?;
    equal("one of them", store.contains(leaf(5).hash()), false)?;
    whole(&store)?;
    store.close().map_err(text)?;
    let store = open(&io)?;
    equal("chunks", store.stats().chunks, 400)?;
    whole(&store)
}

fn eventual(io: Arc<dyn Io>) -> Kept {
    let durability = Durability::Eventual { interval: Duration::from_secs(3600) };
    let store = Store::create_with_io(io.clone(), Options { durability, ..small() }).map_err(text)?;
    let mut last = None;
    for number in 0..100 {
        let link = link(number, last);
        let new = *link.hash();
        append(&store, &[(link, last)], &[update("chain", last, Some(new))])?;
        equal("the ref, at once", store.get_ref("chain"), Some(new))?;
        last = Some(new);
    }
    store.close().map_err(text)?;
    let store = open(&io)?;
    equal("the ref", store.get_ref("chain"), last)?;
    equal("sequence", store.sequence(), 100)
}
