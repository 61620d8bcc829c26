//! What the parts of a store do to one another: each test stops one of them at a named call of the disk, or lets a call fail, and has another
//! go on in between: a writer, a collection, a compaction, a reader, a backup, the next owner of the directory.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::{self, Scope};
use std::time::Duration;

use pleach_chunkstore::backup::{Backup, Kinds};
use pleach_chunkstore::io::Io;
use pleach_chunkstore::io::hooked::{Call, Hooked};
use pleach_chunkstore::io::memory::Memory;
use pleach_chunkstore::{Batch, Chunk, Compression, Error, Options, Outcome, Store, Verify};

use crate::basics::{append, leaf, update};
use crate::upkeep::{check, commit, node, options, rows};

/// In which everything is over that ends at all.
const LONG: Duration = Duration::from_secs(10);
/// What has not happened by then is taken to wait.
const SHORT: Duration = Duration::from_millis(200);

/// Stops who comes to it until it is opened.
#[derive(Default)]
struct Gate {
    reached_and_open: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Gate {
    /// Goes through, once the gate is open.
    fn pass(&self) {
        let mut state = self.reached_and_open.lock().unwrap();
        state.0 = true;
        self.changed.notify_all();
        drop(self.changed.wait_timeout_while(state, LONG, |(_, open)| !*open).unwrap());
    }

    /// Whether someone came to the gate by now, or comes within `limit`.
    fn is_reached_within(&self, limit: Duration) -> bool {
        let state = self.reached_and_open.lock().unwrap();
        self.changed.wait_timeout_while(state, limit, |(reached, _)| !*reached).unwrap().0.0
    }

    fn await_reached(&self) {
        assert!(self.is_reached_within(LONG), "no one came to where it was to be stopped");
    }

    fn open(&self) {
        self.reached_and_open.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

/// Lets the sync of the directory that follows a rename fail, once and when it is told to: what is renamed shows, and may not be durable.
#[derive(Default)]
struct BrokenSync {
    armed: AtomicBool,
    renamed: AtomicBool,
}

impl BrokenSync {
    fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    fn before(&self, call: Call) -> io::Result<()> {
        if call == Call::Rename && self.armed.swap(false, Ordering::SeqCst) {
            self.renamed.store(true, Ordering::SeqCst);
        }
        match call == Call::SyncDir && self.renamed.swap(false, Ordering::SeqCst) {
            true => Err(io::Error::other("planted input/output error")),
            false => Ok(()),
        }
    }
}

/// `disk`, with `hook` called before each call.
fn hooked(disk: &Memory, hook: impl Fn(Call, &str) -> io::Result<()> + Send + Sync + 'static) -> Arc<dyn Io> {
    Arc::new(Hooked::at_each_call(Arc::new(disk.clone()), hook))
}

/// Runs `work` on a thread of this name; what it gives comes by the receiver.
fn run<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Receiver<T> {
    let (done, ended) = mpsc::channel();
    let work = move || drop(done.send(work()));
    thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, work).unwrap();
    ended
}

/// Whether the thread that called is the one of this name.
fn on(name: &str) -> bool {
    thread::current().name() == Some(name)
}

fn create(io: Arc<dyn Io>, options: &Options) -> Store {
    Store::create_with_io(io, options.clone()).unwrap()
}

fn open(disk: &Memory, options: &Options) -> Store {
    Store::open_with_io(Arc::new(disk.clone()), options.clone()).unwrap()
}

/// Journals that are sealed only when that is asked for.
fn long_journals() -> Options {
    Options { journal_bytes: 1 << 20, ..options(Compression::Fast) }
}

/// Journals that one append fills.
fn short_journals() -> Options {
    Options { journal_bytes: 1, ..options(Compression::Fast) }
}

/// Appends until that is refused; gives why.
fn append_until_refused(store: &Store) -> Error {
    for number in 1000..2000 {
        let mut batch = Batch::default();
        batch.put(rows(number, 1), None);
        let outcome = store.append(batch, &[]).and_then(|outcome| match outcome {
            Outcome::Appended(ticket) => ticket.wait(),
            Outcome::Moved { name, .. } => panic!("{name} moved"),
        });
        if let Err(error) = outcome {
            return error;
        }
    }
    panic!("no append was refused");
}

/// Bytes in the files of a store, without what is only kept in reserve.
fn bytes(disk: &Memory) -> usize {
    disk.files().iter().filter(|(name, _)| *name != "spare").map(|(_, bytes)| bytes.len()).sum()
}

/// Those of these files that are gone, but for what was only kept in reserve.
fn removed(before: &BTreeMap<String, Vec<u8>>, disk: &Memory) -> Vec<String> {
    let left = disk.files();
    before.keys().filter(|name| *name != "spare" && !left.contains_key(*name)).cloned().collect()
}

#[test]
fn a_close_waits_for_a_compaction_under_way() {
    let disk = Memory::default();
    let replacing = Arc::new(Gate::default());
    let (gate, written) = (replacing.clone(), AtomicBool::new(false));
    let io = hooked(&disk, move |call, name| {
        if call == Call::Create && on("compacting") {
            written.fetch_or(name.starts_with("table-"), Ordering::SeqCst);
            if name == "manifest.new" && written.load(Ordering::SeqCst) {
                gate.pass();
            }
        }
        Ok(())
    });
    let store = create(io, &long_journals());
    for number in 0..5 {
        commit(&store, &format!("ref/{number}"), &[(rows(number, 1), None)]);
    }
    let refs = store.refs("");
    thread::scope(|scope| {
        let compacting = run(scope, "compacting", || store.compact());
        replacing.await_reached();
        let closing = run(scope, "closing", || store.clone().close());
        let early = closing.recv_timeout(SHORT).err();
        assert_eq!(
            early,
            Some(RecvTimeoutError::Timeout),
            "it was closed while a compaction replaced its manifest"
        );
        let second = Store::open_with_io(Arc::new(disk.clone()), long_journals());
        assert!(matches!(second, Err(Error::Locked { .. })), "the lock was given back: {:?}", second.err());
        replacing.open();
        closing.recv_timeout(LONG).unwrap().unwrap();
        // It was done, or given up.
        let _ = compacting.recv_timeout(LONG).unwrap();
    });
    let second = open(&disk, &long_journals());
    assert_eq!(second.refs(""), refs);
    commit(&second, "second", &[(rows(10, 1), None)]);
    second.compact().unwrap();
    assert_eq!(check(&second), 6);
    second.close().unwrap();
    assert_eq!(check(&open(&disk, &long_journals())), 6);
}

#[test]
fn a_closed_store_leaves_the_files_to_their_next_owner() {
    let disk = Memory::default();
    let options = options(Compression::Fast);
    let store = create(Arc::new(disk.clone()), &options);
    commit(&store, "main", &[(rows(0, 1), None)]);
    store.compact().unwrap();
    for number in 1.. {
        commit(&store, "main", &[(rows(number, 1), None)]);
        if store.stats().journals > 3 {
            break;
        }
    }
    store.clone().close().unwrap();
    let second = open(&disk, &options);
    // As it is before the manifest lists it.
    disk.create("table-00000099").unwrap();
    let before = disk.files();
    assert!(before.contains_key("spare"));
    for (what, outcome) in [
        ("maintain", store.maintain().map(drop)),
        ("compact", store.compact().map(drop)),
        ("collect", store.collect(false).map(drop)),
        ("a dry run", store.collect(true).map(drop)),
    ] {
        assert!(matches!(outcome, Err(Error::Closed)), "{what} on a closed store: {outcome:?}");
        assert!(disk.files().keys().eq(before.keys()), "{what} on a closed store made or removed files");
        assert!(disk.files() == before, "{what} on a closed store changed a file");
    }
    check(&second);
}

#[test]
fn maintenance_after_a_failed_sync_of_the_directory_leaves_what_may_be_listed() {
    let disk = Memory::default();
    let broken = Arc::new(BrokenSync::default());
    let hook = broken.clone();
    let store = create(hooked(&disk, move |call, _| hook.before(call)), &options(Compression::Fast));
    for number in 0.. {
        commit(&store, "main", &[(rows(number, 1), None)]);
        if store.stats().journals > 2 {
            break;
        }
    }
    let main = store.get_ref("main");
    broken.arm();
    assert!(matches!(append_until_refused(&store), Error::Poisoned { .. }));
    let files = disk.files();
    assert!(store.maintain().is_err());
    let gone = removed(&files, &disk);
    assert!(gone.is_empty(), "maintenance of a poisoned store removed {gone:?}");
    assert!(matches!(store.close(), Err(Error::Poisoned { .. })));
    let store = open(&disk, &options(Compression::Fast));
    assert_eq!(store.get_ref("main"), main);
    check(&store);
}

#[test]
fn a_collection_beside_a_failed_sync_of_the_directory_leaves_what_may_be_listed() {
    let disk = Memory::default();
    let (broken, marking) = (Arc::new(BrokenSync::default()), Arc::new(Gate::default()));
    let (hook, gate, stops) = (broken.clone(), marking.clone(), Arc::new(AtomicBool::new(false)));
    let stopping = stops.clone();
    let io = hooked(&disk, move |call, name| {
        let reads = call == Call::Read && name.starts_with("table-") && on("collecting");
        if reads && stopping.load(Ordering::SeqCst) {
            gate.pass();
        }
        hook.before(call)
    });
    let store = create(io, &options(Compression::Fast));
    for number in 0..20 {
        let leaf = rows(number, 1);
        commit(&store, "main", &[(leaf.clone(), None), (node(&[leaf]), None)]);
    }
    store.compact().unwrap();
    let main = store.get_ref("main");
    stops.store(true, Ordering::SeqCst);
    thread::scope(|scope| {
        let collecting = run(scope, "collecting", || store.collect(false));
        marking.await_reached();
        broken.arm();
        assert!(matches!(append_until_refused(&store), Error::Poisoned { .. }));
        let files = disk.files();
        marking.open();
        let collected = collecting.recv_timeout(LONG).unwrap();
        assert!(collected.is_err(), "{collected:?}");
        let gone = removed(&files, &disk);
        assert!(gone.is_empty(), "a collection of a poisoned store removed {gone:?}");
    });
    assert!(matches!(store.close(), Err(Error::Poisoned { .. })));
    let store = open(&disk, &options(Compression::Fast));
    assert_eq!(store.get_ref("main"), main);
    check(&store);
}

/// What a writer does while a collection has begun to mark, and has yet to look at what it is to mark.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Append {
    /// It appends, and is done.
    Done,
    /// It appends, and is done only when the collection has looked.
    Writing,
}

/// A writer appends a node over a chunk that nothing else leads to, while a collection is marking.
fn append_while_marking(append_is: Append) {
    let disk = Memory::default();
    let [begun, writing, reading] = [(); 3].map(|()| Arc::new(Gate::default()));
    // The table that is young, and the one whose chunks must be marked.
    let (young, old) = (Arc::new(OnceLock::<String>::new()), Arc::new(OnceLock::<String>::new()));
    let (gates, tables) = ([begun.clone(), writing.clone(), reading.clone()], [young.clone(), old.clone()]);
    let reads = AtomicUsize::new(0);
    let io = hooked(&disk, move |call, name| {
        let is = |table: &OnceLock<String>| table.get().is_some_and(|table| table == name);
        if on("collecting") && call == Call::Read && is(&tables[0]) {
            // First its index is checked, then, when marking has begun, its chunks become roots.
            if reads.fetch_add(1, Ordering::SeqCst) == 1 {
                gates[0].pass();
            }
        } else if on("collecting") && call == Call::Read && is(&tables[1]) {
            // Only the reads behind the first gate count: it is open then.
            if reads.load(Ordering::SeqCst) > 1 {
                gates[2].pass();
            }
        } else if on("appending") && call == Call::Write && append_is == Append::Writing {
            gates[1].pass();
        }
        Ok(())
    });
    reading.open();
    let store = create(io, &short_journals());
    let (child, other) = (rows(1, 1), rows(2, 2));
    append(&store, &[(child.clone(), None)], &[]).wait().unwrap();
    commit(&store, "other", &[(other.clone(), None), (node(&[other]), None)]);
    store.compact().unwrap();
    let last_table = || disk.files().into_keys().rfind(|name| name.starts_with("table-")).unwrap();
    old.set(last_table()).unwrap();
    // Whatever comes after is young.
    let hold = store.hold();
    append(&store, &[(rows(3, 3), None)], &[]).wait().unwrap();
    append(&store, &[(rows(4, 4), None)], &[]).wait().unwrap();
    assert!(store.maintain().unwrap());
    young.set(last_table()).unwrap();
    assert_ne!(young.get(), old.get());
    thread::scope(|scope| {
        let collecting = run(scope, "collecting", || store.collect(false));
        begun.await_reached();
        assert!(store.contains(child.hash()));
        let appending = run(scope, "appending", || {
            commit(&store, "main", &[(node(std::slice::from_ref(&child)), None)]);
        });
        match append_is {
            Append::Done => appending.recv_timeout(LONG).unwrap(),
            Append::Writing => writing.await_reached(),
        }
        begun.open();
        // The collection marks what was there before; if it waits for the writer, so much the better.
        reading.is_reached_within(SHORT);
        writing.open();
        if append_is == Append::Writing {
            appending.recv_timeout(LONG).unwrap();
        }
        collecting.recv_timeout(LONG).unwrap().unwrap();
    });
    drop(hold);
    assert_eq!(check(&store), 4);
}

#[test]
fn what_is_under_a_chunk_that_is_being_appended_while_marking_stays() {
    append_while_marking(Append::Writing);
}

#[test]
fn what_is_under_a_chunk_that_was_appended_while_marking_stays() {
    append_while_marking(Append::Done);
}

#[test]
fn what_a_collection_takes_is_neither_kept_nor_found_meanwhile() {
    type Look = fn(&Store, &Chunk) -> bool;
    let looks: [(&str, Look); 3] = [
        ("kept by a hold", |store, chunk| store.hold().keep(chunk.hash())),
        ("pinned", |store, chunk| store.pinned(chunk.hash()).unwrap().is_some()),
        ("contained", |store, chunk| store.contains(chunk.hash())),
    ];
    for (what, look) in looks {
        let disk = Memory::default();
        let (sweeping, looking) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
        let gates = [sweeping.clone(), looking.clone()];
        let io = hooked(&disk, move |call, name| {
            if on("collecting") && call == Call::Create && name.starts_with("hidden-") {
                gates[0].pass();
            } else if on("looking") && call == Call::Read && name.starts_with("table-") {
                gates[1].pass();
            }
            Ok(())
        });
        let store = create(io, &long_journals());
        let dead = rows(1, 1);
        append(&store, &[(dead.clone(), None)], &[]).wait().unwrap();
        commit(&store, "main", &[(rows(2, 2), None)]);
        store.compact().unwrap();
        thread::scope(|scope| {
            let collecting = run(scope, "collecting", || store.collect(false));
            sweeping.await_reached();
            let found = run(scope, "looking", || look(&store, &dead));
            looking.await_reached();
            sweeping.open();
            // It ends before the other has seen where the chunk lay, or waits for it.
            let collected = collecting.recv_timeout(SHORT);
            looking.open();
            let found = found.recv_timeout(LONG).unwrap();
            let collected = collected.or_else(|_| collecting.recv_timeout(LONG)).unwrap().unwrap();
            assert_eq!(collected.dead_chunks, 1);
            assert_eq!(store.get(dead.hash()).unwrap(), None);
            assert!(!found, "a chunk was said to be {what} that the collection under way took");
        });
    }
}

/// A store of 200 chunks under as many refs, in one table; closed.
fn two_hundred_refs() -> Memory {
    let disk = Memory::default();
    let store = create(Arc::new(disk.clone()), &long_journals());
    for number in 0..200 {
        commit(&store, &format!("ref/{number}"), &[(rows(number, number), None)]);
    }
    store.compact().unwrap();
    store.close().unwrap();
    disk
}

#[test]
fn a_collection_right_after_opening_frees_what_is_dead() {
    let disk = two_hundred_refs();
    let store = open(&disk, &long_journals());
    for number in 0..150 {
        let name = format!("ref/{number}");
        append(&store, &[], &[update(&name, store.get_ref(&name), None)]).wait().unwrap();
    }
    let before = bytes(&disk);
    let collected = store.collect(false).unwrap();
    assert_eq!((collected.live_chunks, collected.dead_chunks), (50, 150));
    assert_eq!(
        store.stats().held_files,
        0,
        "nothing is a difference from a chunk in the table that was rewritten"
    );
    assert!(bytes(&disk) < before, "{before} bytes before the collection, {} after", bytes(&disk));
    store.close().unwrap();
    let before = bytes(&disk);
    for _ in 0..3 {
        let store = open(&disk, &long_journals());
        store.collect(false).unwrap();
        assert_eq!((check(&store), store.stats().held_files), (50, 0));
        store.close().unwrap();
        assert!(bytes(&disk) <= before, "{before} bytes, {} after another collection", bytes(&disk));
    }
}

#[test]
fn compactions_right_after_opening_leave_one_copy() {
    let disk = two_hundred_refs();
    let before = bytes(&disk);
    for number in 1..=5 {
        let store = open(&disk, &long_journals());
        store.compact().unwrap();
        assert_eq!(
            store.stats().held_files,
            0,
            "nothing is a difference from a chunk in a table: compaction {number}"
        );
        assert_eq!(check(&store), 200);
        store.close().unwrap();
        assert!(bytes(&disk) < before * 2, "{before} bytes, {} after compaction {number}", bytes(&disk));
    }
}

#[test]
fn a_reader_reads_what_lay_in_a_journal_that_is_only_held() {
    let disk = Memory::default();
    let store = create(Arc::new(disk.clone()), &short_journals());
    let (base, of_base) = (rows(1, 100), rows(1, 101));
    let (second, of_second) = (rows(2, 100), rows(2, 101));
    // Three journals: of the chunks in the middle one, one is a difference from the first, and one the base of what is in the third.
    commit(&store, "base", &[(base.clone(), None)]);
    let updates =
        [update("of_base", None, Some(*of_base.hash())), update("second", None, Some(*second.hash()))];
    append(&store, &[(of_base, Some(*base.hash())), (second.clone(), None)], &updates).wait().unwrap();
    commit(&store, "of_second", &[(of_second, Some(*second.hash()))]);
    let reader = Store::open_to_read_with_io(Arc::new(disk), short_journals()).unwrap();
    assert_eq!(check(&reader), 4);
    // The first goes, and the middle one stays as long as the third needs it.
    assert!(store.maintain().unwrap());
    assert_eq!(store.stats().held_files, 1);
    reader.refresh().unwrap();
    for (name, hash) in reader.refs("") {
        let chunk = reader.get(&hash).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(chunk.is_some(), "{name} is gone");
    }
    assert_eq!(check(&reader), 4);
}

/// At one of a reader's reads the writer compacts what was sealed and appends a difference from a chunk of the new table: whether the reader was
/// then opening, or taking in what is new, and whether it reads as often at all.
fn build_upon_a_new_table(at: usize, while_refreshing: bool) -> bool {
    const LATE: usize = usize::MAX / 2;
    let disk = Memory::default();
    let store = create(Arc::new(disk.clone()), &options(Compression::Fast));
    for number in 0..12 {
        commit(&store, &format!("row {number}"), &[(rows(number, 0), None)]);
    }
    let (writer, reads) = (store.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = reads.clone();
    let io = hooked(&disk, move |call, _| {
        if call == Call::Read && counted.fetch_add(1, Ordering::SeqCst) == at {
            assert!(writer.maintain().unwrap(), "a journal was sealed");
            commit(&writer, "later", &[(rows(0, 1), Some(*rows(0, 0).hash()))]);
        }
        Ok(())
    });
    // The count begins where the writer is to come in.
    reads.store(if while_refreshing { LATE } else { 0 }, Ordering::SeqCst);
    let reader = Store::open_to_read_with_io(io, options(Compression::Fast)).unwrap();
    if while_refreshing {
        reads.store(0, Ordering::SeqCst);
        reader.refresh().unwrap();
    }
    let was_in_time = reads.load(Ordering::SeqCst) > at;
    reads.store(LATE, Ordering::SeqCst);
    assert!(check(&reader) >= 12);
    reader.refresh().unwrap();
    assert_eq!(check(&reader), if was_in_time { 13 } else { 12 });
    was_in_time
}

#[test]
fn a_reader_takes_in_nothing_that_builds_upon_a_file_it_lacks() {
    for while_refreshing in [false, true] {
        let reads = (0..).take_while(|at| build_upon_a_new_table(*at, while_refreshing)).count();
        println!("the writer went on at each of {reads} reads, while refreshing: {while_refreshing}");
        assert!(reads > 1);
    }
}

#[test]
fn a_reader_reads_on_while_it_refreshes() {
    const CHUNKS: usize = 30_000;
    let disk = Memory::default();
    let options = Options { journal_bytes: 8 << 20, ..options(Compression::None) };
    let store = create(Arc::new(disk.clone()), &options);
    let fill = |what: &str| {
        let chunks: Vec<Chunk> = (0..CHUNKS).map(|number| leaf(&format!("{what} {number}"))).collect();
        let puts: Vec<_> = chunks.iter().map(|chunk| (chunk.clone(), None)).collect();
        append(&store, &puts, &[]).wait().unwrap();
        chunks
    };
    let early = fill("early");
    // The reader follows only what is acknowledged, and so knows all of it.
    commit(&store, "main", &[(leaf("main"), None)]);
    let reader = Store::open_to_read_with_io(Arc::new(disk), options).unwrap();
    store.compact().unwrap();
    let late = fill("late");
    let done = AtomicBool::new(false);
    let (first, begun) = mpsc::channel();
    thread::scope(|scope| {
        let reading = run(scope, "reading", || {
            let mut failures = Vec::new();
            loop {
                for (early, late) in early.iter().zip(&late).step_by(7) {
                    match reader.get(early.hash()) {
                        Ok(Some(_)) => {}
                        Ok(None) => failures.push(format!("{} is gone", early.hash())),
                        Err(error) => failures.push(error.to_string()),
                    }
                    failures.extend(reader.get(late.hash()).err().map(|error| error.to_string()));
                    let _ = first.send(());
                }
                if done.load(Ordering::SeqCst) {
                    return failures;
                }
            }
        });
        begun.recv_timeout(LONG).unwrap();
        assert!(reader.refresh().unwrap());
        done.store(true, Ordering::SeqCst);
        let failures = reading.recv_timeout(LONG).unwrap();
        assert!(failures.is_empty(), "{} reads failed, the first: {}", failures.len(), failures[0]);
    });
    assert!(late.iter().all(|chunk| reader.contains(chunk.hash())));
}

#[test]
fn what_is_acknowledged_after_a_kill_between_a_rename_and_its_sync_survives_a_power_cut() {
    let disk = Memory::simulated();
    let broken = Arc::new(BrokenSync::default());
    let (hook, killed) = (broken.clone(), AtomicBool::new(false));
    let io = hooked(&disk, move |call, _| {
        if killed.load(Ordering::SeqCst) {
            return Err(io::Error::other("killed"));
        }
        hook.before(call).inspect_err(|_| killed.store(true, Ordering::SeqCst))
    });
    let store = create(io, &options(Compression::Fast));
    commit(&store, "main", &[(rows(0, 1), None)]);
    broken.arm();
    append_until_refused(&store);
    drop(store);
    let store = open(&disk, &options(Compression::Fast));
    commit(&store, "main", &[(rows(1, 1), None)]);
    let acknowledged = store.get_ref("main");
    for keep in [false, true] {
        let left = Memory::holding(disk.after_power_cut(|| keep));
        let store = open(&left, &options(Compression::Fast));
        assert_eq!(store.get_ref("main"), acknowledged, "what was not synced is there: {keep}");
        check(&store);
    }
}

#[test]
fn a_chunk_that_is_written_again_and_not_synced_keeps_its_durable_place() {
    type Upkeep = fn(&Store) -> Result<(), Error>;
    let upkeeps: [(&str, Upkeep); 3] = [
        ("maintained", |store| store.maintain().map(drop)),
        ("compacted", |store| store.compact().map(drop)),
        ("collected", |store| store.collect(false).map(drop)),
    ];
    for (what, upkeep) in upkeeps {
        let disk = Memory::simulated();
        let options = options(Compression::Fast);
        let store = create(Arc::new(disk.clone()), &options);
        let chunk = rows(0, 1);
        commit(&store, "main", &[(chunk.clone(), None)]);
        for number in 1.. {
            commit(&store, "other", &[(rows(number, 1), None)]);
            if store.stats().journals > 1 {
                break;
            }
        }
        let mut again = Batch::default();
        again.put_anew(chunk.clone());
        let Outcome::Appended(_unsynced) = store.append(again, &[]).unwrap() else { panic!("no ref moves") };
        upkeep(&store).unwrap();
        let left = Memory::holding(disk.after_power_cut(|| false));
        let store = open(&left, &options);
        assert_eq!(store.get_ref("main"), Some(*chunk.hash()));
        assert!(store.get(chunk.hash()).unwrap().is_some(), "a store that was {what} lost a chunk");
        check(&store);
    }
}

/// A store with one chunk in a table, read once, and where in its directory a word of the chunk lies.
fn rotting(verify: Verify) -> (Memory, Store, Chunk, String, u64) {
    let disk = Memory::default();
    let options = Options { compression: Compression::None, verify, ..long_journals() };
    let store = create(Arc::new(disk.clone()), &options);
    let chunk = leaf("what the user has once ");
    commit(&store, "main", &[(chunk.clone(), None)]);
    store.compact().unwrap();
    assert_eq!(store.get(chunk.hash()).unwrap().as_ref(), Some(&chunk));
    let (table, bytes) = disk.files().into_iter().find(|(name, _)| name.starts_with("table-")).unwrap();
    let at = bytes.windows(4).position(|word| word == b"user").unwrap();
    (disk, store, chunk, table, at as u64)
}

fn overwrite(disk: &Memory, file: &str, at: u64, bytes: &[u8]) {
    disk.open(file).unwrap().write_at(bytes, at).unwrap();
}

#[test]
fn a_store_that_always_verifies_finds_what_rotted_after_its_first_load() {
    let (disk, store, chunk, table, at) = rotting(Verify::Always);
    overwrite(&disk, &table, at, b"XXXX");
    let found = store.get(chunk.hash());
    assert!(matches!(&found, Err(Error::Damaged { file, .. }) if *file == table), "{found:?}");
    overwrite(&disk, &table, at, b"user");
    assert_eq!(store.get(chunk.hash()).unwrap(), Some(chunk));
}

#[test]
fn a_backup_does_not_take_what_rotted_after_its_first_load() {
    for verify in [Verify::Once, Verify::Always] {
        let (disk, store, chunk, table, at) = rotting(verify);
        overwrite(&disk, &table, at, b"XXXX");
        let backup = Backup::open_or_create_with_io(Arc::new(Memory::default())).unwrap();
        let kinds = Kinds { check: &|_| Ok(()), earlier: &|_| None };
        let sync = |time: &str| backup.sync(&store, time, kinds);
        let damages = || backup.verify(kinds).unwrap().damages;
        if let Err(error) = sync("2026-01-01T00:00:00Z") {
            assert!(error.to_string().contains(&table), "{error}");
        }
        assert_eq!(damages(), [], "after a sync of damaged bytes, {verify:?}");
        overwrite(&disk, &table, at, b"user");
        let synced = sync("2026-01-02T00:00:00Z").unwrap();
        assert_eq!(synced.point.refs["main"], *chunk.hash());
        assert_eq!(backup.store().get(chunk.hash()).unwrap(), Some(chunk));
        assert_eq!(damages(), [], "after a sync of bytes that are whole again, {verify:?}");
    }
}

#[test]
fn a_collection_ends_although_writers_do_not_pause() {
    const WRITERS: usize = 4;
    const LEAVES: usize = 1000;
    let options = Options { journal_bytes: 64 << 20, cache_bytes: 64 << 10, ..options(Compression::Fast) };
    let store = create(Arc::new(Memory::default()), &options);
    let leaf_of = |writer: usize, turn: usize| leaf(&format!("leaf {writer} {turn}"));
    let mut trees: Vec<Vec<Chunk>> = Vec::new();
    for writer in 0..WRITERS {
        let leaves: Vec<Chunk> = (0..LEAVES).map(|number| leaf_of(writer, number)).collect();
        let mut puts: Vec<_> = leaves.iter().map(|chunk| (chunk.clone(), None)).collect();
        puts.push((node(&leaves), None));
        commit(&store, &format!("writer/{writer}"), &puts);
        trees.push(leaves);
    }
    store.compact().unwrap();
    let (done, versions) = (AtomicBool::new(false), AtomicUsize::new(0));
    let write = |writer: usize, mut leaves: Vec<Chunk>| {
        let name = format!("writer/{writer}");
        for turn in LEAVES.. {
            let before = *node(&leaves).hash();
            let old = std::mem::replace(&mut leaves[turn * 7 % LEAVES], leaf_of(writer, turn));
            let (new, root) = (leaf_of(writer, turn), node(&leaves));
            let moved = update(&name, Some(before), Some(*root.hash()));
            let _ = append(&store, &[(new, Some(*old.hash())), (root, Some(before))], &[moved]);
            versions.fetch_add(1, Ordering::SeqCst);
            if done.load(Ordering::SeqCst) {
                return;
            }
        }
    };
    let (write, store) = (&write, &store);
    thread::scope(|scope| {
        for (writer, leaves) in trees.into_iter().enumerate() {
            scope.spawn(move || write(writer, leaves));
        }
        let collecting = run(scope, "collecting", || store.collect(false));
        let collected = collecting.recv_timeout(2 * LONG);
        done.store(true, Ordering::SeqCst);
        let versions = versions.load(Ordering::SeqCst);
        assert!(collected.is_ok(), "a collection had not ended beside {versions} versions");
        collected.unwrap().unwrap();
    });
    // Refs show what is durable.
    append(store, &[(leaf("the last"), None)], &[]).wait().unwrap();
    assert_eq!(store.refs(""), store.appended_refs(""));
    assert_eq!(check(store), WRITERS * (LEAVES + 1));
}
