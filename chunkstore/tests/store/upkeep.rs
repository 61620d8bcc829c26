//! Compaction and collection: what is in use stays, whatever happens beside them; what is not goes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use pleach_chunkstore::io::hooked::{Call, Hooked};
use pleach_chunkstore::io::memory::Memory;
use pleach_chunkstore::testing::Plant;
use pleach_chunkstore::{Batch, Cancel, Chunk, Compression, Error, Hash, Options, Outcome, RefUpdate, Store};
use proptest::prelude::*;

use crate::basics::{append, leaf, update};

pub(crate) fn options(compression: Compression) -> Options {
    Options { journal_bytes: 4000, cache_bytes: 0, compression, background: false, ..Options::default() }
}

/// A leaf of `lines` lines that tells rows apart; `changed` is in its middle.
pub(crate) fn rows(number: usize, changed: usize) -> Chunk {
    let lines =
        (0..40).map(|line| format!("row {number} {line} {}\n", if line == 20 { changed } else { line }));
    leaf(&lines.collect::<String>())
}

/// A node with these children.
pub(crate) fn node(children: &[Chunk]) -> Chunk {
    let body: Vec<u8> = children.iter().flat_map(|child| child.hash().as_bytes().to_vec()).collect();
    Chunk::build(1, 1, &body, Some((0, children.len() as u32)), &[], 0)
}

/// Appends chunks, each with its earlier version, and moves `name` to the last.
pub(crate) fn commit(store: &Store, name: &str, chunks: &[(Chunk, Option<Hash>)]) {
    let root = chunks.last().map(|(root, _)| *root.hash());
    append(store, chunks, &[update(name, store.appended_ref(name), root)]).wait().unwrap();
}

/// Every chunk that refs lead to reads back. Gives their number.
pub(crate) fn check(store: &Store) -> usize {
    let mut waiting: Vec<Hash> = store.refs("").into_iter().map(|(_, hash)| hash).collect();
    let mut seen = std::collections::HashSet::new();
    while let Some(hash) = waiting.pop() {
        if seen.insert(hash) {
            let chunk = store.get(&hash).unwrap().unwrap_or_else(|| panic!("{hash} is gone"));
            assert_eq!(Hash::of(chunk.bytes()), hash);
            waiting.extend(chunk.children());
        }
    }
    seen.len()
}

/// A tree of `leaves` leaves, then `versions` versions with one leaf changed in each; all under refs if `keep`, else only the last.
fn history(store: &Store, leaves: usize, versions: usize, keep: bool) {
    let mut now: Vec<Chunk> = (0..leaves).map(|number| rows(number, 0)).collect();
    let mut chunks: Vec<_> = now.iter().map(|chunk| (chunk.clone(), None)).collect();
    chunks.push((node(&now), None));
    commit(store, "main", &chunks);
    for version in 1..=versions {
        let (place, before) = (version * 7 % leaves, node(&now));
        let old = std::mem::replace(&mut now[place], rows(version * 7 % leaves, version));
        let chunks = [(now[place].clone(), Some(*old.hash())), (node(&now), Some(*before.hash()))];
        if keep {
            commit(store, &format!("version/{version}"), &chunks);
        }
        commit(store, "main", &chunks);
    }
}

#[test]
fn after_a_compaction_everything_reads_back_and_history_costs_its_differences() {
    for compression in [Compression::None, Compression::Fast, Compression::Dense] {
        let disk = Memory::default();
        let store = Store::create_with_io(Arc::new(disk.clone()), options(compression)).unwrap();
        history(&store, 100, 1, true);
        store.compact().unwrap();
        let before = store.stats().table_bytes;
        history_on(&store, 100, 200);
        let count = check(&store);
        let done = store.compact().unwrap();
        assert!(done.bytes_after < done.bytes_before);
        assert_eq!(
            store.stats().chunks as usize,
            count + 2,
            "the first root and its changed leaf are not in use, and stay"
        );
        assert_eq!(check(&store), count);
        let growth = store.stats().table_bytes - before;
        println!("{compression:?}: {before} bytes, 200 versions more: {growth} bytes");
        // A version is a changed leaf and its root: two entries of 40 bytes, and two differences.
        assert!(growth < 200 * 400, "{growth}");
        let names: Vec<String> = disk.files().into_keys().collect();
        assert_eq!(names.iter().filter(|name| name.starts_with("table-")).count(), 1, "{names:?}");
        assert_eq!(names.iter().filter(|name| name.starts_with("journal-")).count(), 1, "{names:?}");
        store.close().unwrap();
        let store = Store::open_with_io(Arc::new(disk), options(compression)).unwrap();
        assert_eq!(check(&store), count);
    }
}

/// As [`history`], going on from a tree that is there.
fn history_on(store: &Store, leaves: usize, versions: usize) {
    let mut now: Vec<Chunk> = (0..leaves).map(|number| rows(number, 0)).collect();
    now[7] = rows(7, 1);
    for version in 2..versions + 2 {
        let (place, before) = (version * 7 % leaves, node(&now));
        let old = std::mem::replace(&mut now[place], rows(version * 7 % leaves, version));
        let chunks = [(now[place].clone(), Some(*old.hash())), (node(&now), Some(*before.hash()))];
        commit(store, &format!("version/{version}"), &chunks);
    }
}

#[test]
fn a_collection_removes_what_nothing_leads_to_and_nothing_else() {
    for compacted in [false, true] {
        let disk = Memory::default();
        let store = Store::create_with_io(Arc::new(disk.clone()), options(Compression::Fast)).unwrap();
        history(&store, 60, 80, false);
        if compacted {
            store.compact().unwrap();
        }
        let (all, live) = (store.stats().chunks as usize, check(&store));
        assert!(all > live + 100);
        let found = store.collect(true).unwrap();
        assert_eq!((found.live_chunks, found.dead_chunks), (live as u64, (all - live) as u64));
        assert_eq!(store.stats().chunks as usize, all, "a dry run only looks");
        let done = store.collect(false).unwrap();
        assert_eq!((done.live_chunks, done.dead_chunks), (live as u64, (all - live) as u64));
        assert!(done.bytes_after < done.bytes_before, "{done:?}");
        assert_eq!(store.stats().chunks as usize, live);
        assert_eq!(check(&store), live);
        store.close().unwrap();
        let store = Store::open_with_io(Arc::new(disk.clone()), options(Compression::Fast)).unwrap();
        assert_eq!((check(&store), store.stats().chunks as usize), (live, live), "after opening again");
        // What was removed can be written again.
        let gone = rows(0, 0);
        assert!(!store.contains(node(std::slice::from_ref(&gone)).hash()));
        commit(&store, "again", &[(gone.clone(), None), (node(&[gone]), None)]);
        check(&store);
    }
}

#[test]
fn upkeep_that_is_cancelled_at_any_call_of_the_disk_leaves_a_whole_store() {
    type Upkeep = fn(&Store) -> Result<(), Error>;
    let (collect, compact): (Upkeep, Upkeep) =
        (|store| store.collect(false).map(drop), |store| store.compact().map(drop));
    for (upkeep, is_collection) in [(collect, true), (compact, false)] {
        let mut cancelled = 0;
        for at in (0..).step_by(13) {
            let (disk, cancel) = (Memory::default(), Cancel::new());
            let (armed, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
            let (counts, counted, flag) = (armed.clone(), calls.clone(), cancel.clone());
            let hooked = Hooked::at_each_call(Arc::new(disk.clone()), move |_, _| {
                if counts.load(Ordering::SeqCst) && counted.fetch_add(1, Ordering::SeqCst) == at {
                    flag.cancel();
                }
                Ok(())
            });
            let store = Store::create_with_io(Arc::new(hooked), options(Compression::Fast)).unwrap();
            history(&store, 20, 30, false);
            store.compact().unwrap();
            history(&store, 20, 10, false);
            let (live, all) = (check(&store), store.stats().chunks);
            armed.store(true, Ordering::SeqCst);
            let outcome = upkeep(&store.cancellable(&cancel));
            armed.store(false, Ordering::SeqCst);
            match outcome {
                Ok(()) if !cancel.is_cancelled() => break,
                // It was as good as over.
                Ok(()) => {}
                Err(Error::Cancelled) => cancelled += 1,
                Err(error) => panic!("{error}"),
            }
            assert_eq!(check(&store), live, "cancelled at call {at}");
            assert!(is_collection || store.stats().chunks == all);
            // Nobody else is cancelled, and there is nothing in the way of the next time.
            commit(&store, "other", &[(rows(500, 5), None)]);
            upkeep(&store).unwrap();
            store.collect(false).unwrap();
            assert_eq!((check(&store), store.stats().chunks as usize), (live + 1, live + 1));
            let files = disk.files().len();
            store.close().unwrap();
            let store = Store::open_with_io(Arc::new(disk.clone()), options(Compression::Fast)).unwrap();
            assert_eq!(check(&store), live + 1);
            assert!(files < 12, "{files} files");
        }
        println!("{cancelled} times cancelled");
        assert!(cancelled > 5, "{cancelled} times");
    }
}

#[test]
fn a_collection_that_waits_for_its_turn_is_cancelled_too() {
    let (stalls, stalled) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (armed, released) = (Arc::new(AtomicBool::new(false)), Mutex::new(released));
    let stalling = armed.clone();
    let slow = Hooked::new(Arc::new(Memory::default()), move |_| {
        if stalling.swap(false, Ordering::SeqCst) {
            stalls.send(()).unwrap();
            released.lock().unwrap().recv().unwrap();
        }
    });
    let store = Store::create_with_io(Arc::new(slow), options(Compression::Fast)).unwrap();
    history(&store, 20, 10, false);
    let live = check(&store);
    armed.store(true, Ordering::SeqCst);
    thread::scope(|scope| {
        let first = scope.spawn(|| store.compact());
        stalled.recv().unwrap();
        let cancel = Cancel::new();
        let handle = store.cancellable(&cancel);
        let second = scope.spawn(move || handle.collect(false));
        cancel.cancel();
        assert!(matches!(second.join().unwrap(), Err(Error::Cancelled)));
        release.send(()).unwrap();
        first.join().unwrap().unwrap();
    });
    assert_eq!(check(&store), live);
}

#[test]
fn what_is_pinned_or_held_stays_until_it_is_let_go() {
    let store = Store::create_with_io(Arc::new(Memory::default()), options(Compression::Fast)).unwrap();
    let (one, two, three) = (rows(1, 1), rows(2, 2), rows(3, 3));
    commit(&store, "a", &[(one.clone(), None), (node(std::slice::from_ref(&one)), None)]);
    let pinned = store.pinned(node(std::slice::from_ref(&one)).hash()).unwrap().unwrap();
    append(&store, &[], &[update("a", store.get_ref("a"), None)]).wait().unwrap();
    append(&store, &[(two.clone(), None)], &[]).wait().unwrap();
    let hold = store.hold();
    assert!(hold.keep(two.hash()));
    append(&store, &[(three.clone(), None)], &[]).wait().unwrap();
    store.collect(false).unwrap();
    for chunk in [&one, &two, &three, &node(std::slice::from_ref(&one))] {
        assert!(pinned.get(chunk.hash()).unwrap().is_some(), "{chunk:?}");
    }
    drop(hold);
    store.collect(false).unwrap();
    assert!(store.contains(one.hash()) && !store.contains(two.hash()) && !store.contains(three.hash()));
    drop(pinned);
    store.collect(false).unwrap();
    assert_eq!(store.stats().chunks, 0);
    assert!(store.pinned(one.hash()).unwrap().is_none());
}

/// Writers that make, and make again, the same few chunks, so that they build upon what collections are about to remove. Gives the
/// number of collections, or a chunk that is gone.
fn race(disk: &Memory, options: &Options) -> Result<u64, String> {
    let store = Store::create_with_io(Arc::new(disk.clone()), options.clone()).unwrap();
    let done = AtomicBool::new(false);
    let write = |writer: usize| {
        let name = format!("writer/{writer}");
        for turn in 0..150_usize {
            let leaves: Vec<Chunk> =
                (0..4).map(|number| rows(number, (turn * 3 + number * writer) % 5)).collect();
            let chunks: Vec<_> = leaves.iter().map(|chunk| (chunk.clone(), None)).collect();
            // The leaves go first, as those of a large import do.
            let hold = store.hold();
            append(&store, &chunks, &[]).wait().unwrap();
            commit(&store, &name, &[(node(&leaves), None)]);
            drop(hold);
            whole(&store, &store.get_ref(&name).unwrap())?;
        }
        Ok(())
    };
    let (collections, ended) = thread::scope(|scope| {
        let write = &write;
        let writers: Vec<_> = (0..3).map(|writer| scope.spawn(move || write(writer))).collect();
        let upkeep = scope.spawn(|| {
            let mut collections = 0;
            while !done.load(Ordering::SeqCst) {
                if store.collect(false).and_then(|_| store.compact()).is_err() {
                    break;
                }
                collections += 1;
            }
            collections
        });
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::SeqCst);
        (upkeep.join().unwrap(), ended)
    });
    ended.into_iter().map(Result::unwrap).collect::<Result<Vec<()>, String>>()?;
    for (_, root) in store.refs("") {
        whole(&store, &root)?;
    }
    Ok(collections)
}

/// Everything under `root` reads back.
fn whole(store: &Store, root: &Hash) -> Result<(), String> {
    let mut waiting = vec![*root];
    while let Some(hash) = waiting.pop() {
        let chunk = store.get(&hash).map_err(|error| error.to_string())?;
        waiting.extend(chunk.ok_or_else(|| format!("{hash} is gone"))?.children());
    }
    Ok(())
}

#[test]
fn writers_and_collections_go_on_together() {
    let (disk, options) = (Memory::default(), options(Compression::Fast));
    let collections = race(&disk, &options).unwrap();
    println!("{collections} collections beside 450 commits");
    let store = Store::open_with_io(Arc::new(disk), options).unwrap();
    check(&store);
}

/// In the middle of a collection a writer makes again what the collection has found dead, and names it by a ref.
fn rebuild_what_is_collected(plant: Option<Plant>) -> Result<(), String> {
    // What the writer does, once, when the collection is about to make a file.
    type Write = Box<dyn FnOnce() + Send>;
    let writes: Arc<Mutex<Option<Write>>> = Arc::default();
    let waiting = writes.clone();
    let io = Hooked::at_each_call(Arc::new(Memory::default()), move |call, name| {
        if call == Call::Create
            && name.starts_with("hidden-")
            && let Some(write) = waiting.lock().unwrap().take()
        {
            write();
        }
        Ok(())
    });
    let options = Options { plant, ..options(Compression::Fast) };
    let store = Store::create_with_io(Arc::new(io), options).unwrap();
    let (live, dead) = (rows(1, 1), rows(2, 2));
    commit(&store, "live", &[(live, None)]);
    append(&store, &[(dead.clone(), None)], &[]).wait().unwrap();
    // Into a table, most of which is live: so the dead chunk is hidden there.
    store.compact().unwrap();
    let writer = store.clone();
    *writes.lock().unwrap() = Some(Box::new(move || {
        commit(&writer, "again", &[(dead.clone(), None), (node(&[dead]), None)]);
    }));
    store.collect(false).unwrap();
    assert!(writes.lock().unwrap().is_none(), "the writer came in between");
    whole(&store, &store.get_ref("again").unwrap())
}

#[test]
fn what_is_made_again_during_a_collection_stays() {
    rebuild_what_is_collected(None).unwrap();
    println!("{}", rebuild_what_is_collected(Some(Plant::NoBarrier)).unwrap_err());
}

#[test]
fn a_disk_that_is_full_can_be_collected() {
    let disk = Memory::simulated();
    let store = Store::create_with_io(Arc::new(disk.clone()), options(Compression::Fast)).unwrap();
    history(&store, 60, 80, false);
    store.compact().unwrap();
    let used: u64 = disk.files().values().map(|bytes| bytes.len() as u64).sum();
    disk.with_faults(|faults| faults.capacity_bytes = Some(used));
    let chunk = rows(77, 77);
    let mut batch = Batch::default();
    batch.put(chunk.clone(), None);
    assert!(matches!(store.append(batch, &[]), Err(Error::DiskFull { .. })));
    let live = check(&store);
    let done = store.collect(false).unwrap();
    assert!(done.bytes_after < done.bytes_before, "{done:?}");
    assert_eq!(check(&store), live);
    commit(&store, "more", &[(chunk, None)]);
}

#[test]
fn the_stores_thread_compacts_sealed_journals() {
    let disk = Memory::default();
    let options = Options { background: true, ..options(Compression::Fast) };
    let store = Store::create_with_io(Arc::new(disk.clone()), options.clone()).unwrap();
    history(&store, 60, 80, true);
    let count = check(&store);
    for _ in 0..200 {
        if store.stats().tables > 0 && store.stats().journals <= 3 {
            break;
        }
        thread::sleep(std::time::Duration::from_millis(10));
        append(&store, &[(leaf("x"), None)], &[]).wait().unwrap();
    }
    let stats = store.stats();
    assert!(stats.tables > 0, "{stats:?}");
    assert_eq!(check(&store), count);
    store.close().unwrap();
    let store = Store::open_with_io(Arc::new(disk), options).unwrap();
    assert_eq!(check(&store), count);
}

#[test]
fn a_ref_to_what_is_not_in_use_any_more_is_refused_or_keeps_it() {
    let store = Store::create_with_io(Arc::new(Memory::default()), options(Compression::Fast)).unwrap();
    let chunk = rows(1, 1);
    append(&store, &[(chunk.clone(), None)], &[]).wait().unwrap();
    store.collect(false).unwrap();
    assert!(!store.contains(chunk.hash()));
    let wish = RefUpdate { name: "a".into(), old: None, new: Some(*chunk.hash()) };
    let mut batch = Batch::default();
    batch.put(chunk.clone(), None);
    assert!(matches!(store.append(batch, &[wish]), Ok(Outcome::Appended(_))));
    store.collect(false).unwrap();
    assert!(store.contains(chunk.hash()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Random commits on a few branches, deletions, compactions, collections, reopenings.
    #[test]
    fn any_sequence_of_upkeep_keeps_what_refs_lead_to(steps in prop::collection::vec((0..10_u8, 0..4_usize, 0..6_usize), 1..60)) {
        let disk = Memory::default();
        let mut store = Store::create_with_io(Arc::new(disk.clone()), options(Compression::Dense)).unwrap();
        let mut trees: BTreeMap<usize, Vec<Chunk>> = BTreeMap::new();
        for (turn, (what, branch, place)) in steps.into_iter().enumerate() {
            let name = format!("branch/{branch}");
            match what {
                0 => drop(store.compact().unwrap()),
                1 => drop(store.collect(false).unwrap()),
                2 => {
                    store.close().unwrap();
                    store = Store::open_with_io(Arc::new(disk.clone()), options(Compression::Dense)).unwrap();
                }
                3 if trees.remove(&branch).is_some() => {
                    append(&store, &[], &[update(&name, store.get_ref(&name), None)]).wait().unwrap();
                }
                _ => {
                    let first: Vec<Chunk> = (0..6).map(|number| rows(number, 0)).collect();
                    let tree = trees.entry(branch).or_insert(first);
                    let before = node(tree);
                    let old = std::mem::replace(&mut tree[place], rows(place, turn));
                    let mut chunks: Vec<(Chunk, Option<Hash>)> =
                        tree.iter().map(|chunk| (chunk.clone(), Some(*old.hash()))).collect();
                    chunks.push((node(tree), Some(*before.hash())));
                    commit(&store, &name, &chunks);
                }
            }
            check(&store);
        }
        store.collect(false).unwrap();
        let live = check(&store);
        prop_assert_eq!(store.stats().chunks as usize, live);
        let _ = Error::Closed;
    }
}

#[test]
fn what_is_loaded_does_not_drive_out_what_is_in_use() {
    let options = Options { cache_bytes: 64 << 10, background: false, ..Options::default() };
    let store = Store::create_with_io(Arc::new(Memory::default()), options).unwrap();
    let leaves: Vec<Chunk> =
        (0..400).map(|number| leaf(&format!("{number} {}", "leaf".repeat(250)))).collect();
    let root = node(&leaves[..40]);
    let used = leaf("in use");
    append(&store, &[(used.clone(), None)], &[update("used", None, Some(*used.hash()))]).wait().unwrap();
    assert_eq!(store.get(used.hash()).unwrap(), Some(used.clone()));
    let before = store.stats();
    for leaf in &leaves {
        append(&store, &[(leaf.clone(), None)], &[]).wait().unwrap();
    }
    append(&store, &[(root.clone(), None)], &[]).wait().unwrap();
    assert!(store.stats().cache_bytes < before.cache_bytes + 8192, "an inner node's bytes, and no leaf's");
    assert_eq!(store.get(used.hash()).unwrap(), Some(used));
    assert_eq!(store.get(root.hash()).unwrap(), Some(root));
    assert_eq!(store.stats().cache_hits, before.cache_hits + 2);
}
