//! Partial stores: what they lack is promised, says so through every rewriting, and comes when it is read.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use pleach_chunkstore::backup::{Backup, Kinds, Moment};
use pleach_chunkstore::fsck::{self, Report};
use pleach_chunkstore::io::Io;
use pleach_chunkstore::io::hooked::{Call, Hooked};
use pleach_chunkstore::io::memory::Memory;
use pleach_chunkstore::{
    Cancel, Chunk, Compression, Error, ErrorKind, Hash, Options, Source, SourceError, Store,
};

use crate::basics::{append, leaf, update};
use crate::upkeep::{commit, node, options, rows};

const KINDS: Kinds<'static> = Kinds { check: &fine, earlier: &|_| None };

fn fine(_: &Chunk) -> Result<(), String> {
    Ok(())
}

type Answer = Result<Vec<Chunk>, SourceError>;
type Answering = dyn Fn(&Remote, &[Hash]) -> Answer + Send + Sync;

/// A remote: the chunks that it has, and what it was asked for.
struct Remote {
    chunks: HashMap<Hash, Chunk>,
    asked: Mutex<Vec<Vec<Hash>>>,
    answer: Box<Answering>,
}

impl Remote {
    /// One that sends what it has of what it is asked for.
    fn of(chunks: impl IntoIterator<Item = Chunk>) -> Arc<Remote> {
        Remote::answering(chunks, Remote::find)
    }

    fn answering(
        chunks: impl IntoIterator<Item = Chunk>,
        answer: impl Fn(&Remote, &[Hash]) -> Answer + Send + Sync + 'static,
    ) -> Arc<Remote> {
        let chunks = chunks.into_iter().map(|chunk| (*chunk.hash(), chunk)).collect();
        Arc::new(Remote { chunks, asked: Mutex::default(), answer: Box::new(answer) })
    }

    fn find(&self, wanted: &[Hash]) -> Answer {
        // Copies: what a remote holds in memory must not keep what the store has let go of.
        let copy = |chunk: &Chunk| Chunk::from_bytes(chunk.bytes().to_vec()).unwrap();
        Ok(wanted.iter().filter_map(|hash| self.chunks.get(hash)).map(copy).collect())
    }

    /// How many requests there were, and for how many chunks in all.
    fn asked(&self) -> (usize, usize) {
        let asked = self.asked.lock().unwrap();
        (asked.len(), asked.iter().map(Vec::len).sum())
    }
}

impl Source for Remote {
    fn chunks(&self, wanted: &[Hash]) -> Answer {
        self.asked.lock().unwrap().push(wanted.to_vec());
        (self.answer)(self, wanted)
    }
}

fn partial(store: Store, remote: &Arc<Remote>) -> Store {
    store.set_partial();
    store.set_source(Some(remote.clone()));
    store
}

fn open(disk: &Memory) -> Store {
    Store::open_with_io(Arc::new(disk.clone()), options(Compression::Fast)).unwrap()
}

fn fsck(store: &Store) -> Report {
    fsck::check(store, &fine).unwrap()
}

/// Nothing is damaged, and so many chunks are promised.
#[track_caller]
fn expect_promised(store: &Store, promised: u64, when: &str) {
    let report = fsck(store);
    assert_eq!((report.damages.as_slice(), report.promised), (&[][..], promised), "{when}");
}

fn leaves(count: usize) -> Vec<Chunk> {
    (0..count).map(|number| leaf(&format!("leaf {number}"))).collect()
}

/// A node over nodes.
fn over(children: &[Chunk]) -> Chunk {
    let body: Vec<u8> = children.iter().flat_map(|child| *child.hash().as_bytes()).collect();
    Chunk::build(1, children[0].level() + 1, &body, Some((0, children.len() as u32)), &[], 0)
}

/// Reads all that refs lead to, one child after the other. Gives how many reads that took.
fn walk(store: &Store) -> u64 {
    fn under(store: &Store, chunk: &Chunk) -> u64 {
        let child = |index| store.child(chunk, index).unwrap().expect("the remote has it");
        (0..chunk.child_count()).map(|index| under(store, &child(index))).sum::<u64>() + 1
    }
    store.refs("").iter().map(|(_, root)| under(store, &store.get(root).unwrap().unwrap())).sum()
}

/// Versions `from..to` of a node of 40 leaves, of which only every other one is here; version n under `vN`, the last under `main`.
fn versions(store: &Store, from: usize, to: usize) {
    let of = |version: usize| -> Vec<Chunk> {
        let changed = |number| if number == version * 2 % 40 { version } else { 0 };
        (0..40).map(|number| rows(number, changed(number))).collect()
    };
    for version in from..to {
        let (now, before) = (of(version), node(&of(version.saturating_sub(1))));
        let mut chunks: Vec<_> = now.iter().step_by(2).map(|leaf| (leaf.clone(), None)).collect();
        let base = (version > 0).then_some(*before.hash());
        chunks.push((node(&now), base));
        commit(store, &format!("v{version}"), &chunks);
        commit(store, "main", &chunks);
    }
}

#[test]
fn what_names_promised_chunks_says_so_through_every_rewriting() {
    const PROMISED: u64 = 20;
    let disk = Memory::default();
    let store = Store::create_with_io(Arc::new(disk.clone()), options(Compression::Fast)).unwrap();
    store.set_partial();
    versions(&store, 0, 30);
    let whole = [rows(90, 0), rows(91, 0)];
    commit(&store, "whole", &[(whole[0].clone(), None), (whole[1].clone(), None), (node(&whole), None)]);
    assert!(store.stats().journals > 2 && store.stats().frames_delta > 20);
    expect_promised(&store, PROMISED, "in journals");
    drop(store);
    // From here on nothing says that the store is partial but its frames.
    let store = open(&disk);
    expect_promised(&store, PROMISED, "in journals, opened again");
    store.compact().unwrap();
    expect_promised(&store, PROMISED, "in tables");
    drop(store);
    let store = open(&disk);
    expect_promised(&store, PROMISED, "in tables, opened again");
    store.set_partial();
    versions(&store, 30, 40);
    for version in 5..38 {
        let name = format!("v{version}");
        append(&store, &[], &[update(&name, store.get_ref(&name), None)]).wait().unwrap();
    }
    assert!(store.collect(false).unwrap().files_rewritten > 1);
    expect_promised(&store, PROMISED, "collected");
    store.compact().unwrap();
    drop(store);
    let store = open(&disk);
    expect_promised(&store, PROMISED, "collected and compacted, opened again");
    store.set_partial();
    versions(&store, 40, 43);
    drop(store);
    // A journal that was sealed without an index is read from its start.
    for (name, bytes) in disk.files().into_iter().filter(|(name, _)| name.starts_with("journal-")) {
        if let Some(at) = bytes.windows(4).rposition(|window| window == b"PLIX") {
            disk.open(&name).unwrap().write_at(b"?", at as u64).unwrap();
        }
    }
    expect_promised(&open(&disk), PROMISED, "replayed");
}

#[test]
fn a_backup_of_a_partial_store_and_what_is_restored_from_it_promise_the_same() {
    let source = Store::memory(options(Compression::Fast));
    source.set_partial();
    versions(&source, 0, 4);
    let backup = Backup::in_store(Store::memory(options(Compression::Fast))).unwrap();
    let first = backup.sync(&source, "2026-01-01T00:00:00.000000Z", KINDS).unwrap();
    versions(&source, 4, 6);
    let second = backup.sync(&source, "2026-01-01T00:00:01.000000Z", KINDS).unwrap();
    assert!(second.chunks < first.chunks);
    let report = backup.verify(KINDS).unwrap();
    assert_eq!((report.damages.as_slice(), report.promised), (&[][..], 20));
    assert!(!backup.store().is_partial() && backup.store().get(rows(1, 0).hash()).unwrap().is_none());
    let restored = Store::memory(options(Compression::Fast));
    backup.restore(&second.point, &restored, KINDS).unwrap();
    expect_promised(&restored, 20, "restored");
    assert_eq!((restored.refs(""), restored.stats().chunks), (source.refs(""), source.stats().chunks));
    let remote = Remote::of((0..40).map(|number| rows(number, 0)));
    assert_eq!(walk(&partial(restored, &remote)), 7 * 41);
    // Among others it would be passed over by who has what it lacks.
    let among = Moment::of(vec![("clone".to_owned(), source)]).map(drop);
    assert!(matches!(among, Err(Error::PartialSource { name }) if name == "clone"));
}

#[test]
fn a_backup_of_a_store_that_lacks_what_is_not_promised_fails() {
    let source = Store::memory(options(Compression::Fast));
    let (absent, also_absent) = (leaf("absent"), leaf("also absent"));
    commit(&source, "main", &[(node(std::slice::from_ref(&absent)), None)]);
    source.set_partial();
    commit(&source, "other", &[(node(std::slice::from_ref(&also_absent)), None)]);
    let backup = Backup::in_store(Store::memory(options(Compression::Fast))).unwrap();
    let synced = backup.sync(&source, "2026-01-01T00:00:00.000000Z", KINDS);
    assert!(matches!(synced, Err(Error::Missing { hash }) if hash == *absent.hash()));
}

#[test]
fn what_a_whole_chunk_names_is_missing_also_in_a_partial_store() {
    let store = Store::memory(options(Compression::Fast));
    let (missing, promised) = (leaf("missing"), leaf("promised"));
    commit(&store, "whole", &[(node(std::slice::from_ref(&missing)), None)]);
    let remote = Remote::of([missing.clone(), promised.clone()]);
    let store = partial(store, &remote);
    commit(&store, "main", &[(node(&[promised.clone(), missing.clone()]), None)]);
    let report = fsck(&store);
    let found: Vec<_> = report.damages.iter().map(|damage| damage.hash).collect();
    assert_eq!((found.as_slice(), report.promised), (&[*missing.hash()][..], 1));
    assert_eq!(report.damages[0].needed_by.as_deref().unwrap(), ["main", "whole"]);
    append(&store, &[], &[update("gone", None, Some(*promised.hash()))]).wait().unwrap();
    assert_eq!(fsck(&store).damages.len(), 2, "a ref is not partial");
    assert_eq!(remote.asked().0, 0, "looking for whom that concerns asks nobody");
}

#[test]
fn a_store_that_is_not_partial_marks_nothing_and_asks_nobody() {
    let disk = Memory::default();
    let store = Store::create_with_io(Arc::new(disk.clone()), options(Compression::Fast)).unwrap();
    let absent = leaf("absent");
    let remote = Remote::of([absent.clone()]);
    store.set_source(Some(remote.clone()));
    let parent = node(std::slice::from_ref(&absent));
    commit(&store, "main", &[(parent.clone(), None)]);
    assert!(store.get(absent.hash()).unwrap().is_none() && store.child(&parent, 0).unwrap().is_none());
    assert_eq!((remote.asked().0, fsck(&store).damages.len()), (0, 1));
}

#[test]
fn what_is_read_comes_once_and_stays() {
    let disk = Memory::default();
    let store = Store::create_with_io(Arc::new(disk.clone()), options(Compression::Fast)).unwrap();
    let (all, absent) = (leaves(3), leaf("nobody has it"));
    let root = node(&[&all[..], std::slice::from_ref(&absent)].concat());
    let remote = Remote::of(all.clone());
    let store = partial(store, &remote);
    commit(&store, "main", &[(root.clone(), None)]);
    expect_promised(&store, 4, "before");
    assert_eq!(store.get(all[1].hash()).unwrap().unwrap().bytes(), all[1].bytes());
    assert!(store.contains(all[1].hash()) && !store.contains(all[0].hash()));
    assert_eq!(store.child(&root, 1).unwrap().as_ref(), Some(&all[1]));
    assert_eq!(remote.asked(), (1, 1));
    assert_eq!(store.get(absent.hash()).unwrap(), None, "the remote lacks it, too");
    assert_eq!(store.child(&root, 3).unwrap(), None);
    assert_eq!((store.stats().source_requests, store.stats().source_chunks), (3, 1));
    store.close().unwrap();
    let store = open(&disk);
    assert_eq!(store.get(all[1].hash()).unwrap().as_ref(), Some(&all[1]));
    expect_promised(&store, 3, "after");
}

#[test]
fn who_looks_at_the_store_as_it_is_asks_nobody() {
    let remote = Remote::answering(leaves(4), |_, wanted| panic!("asked for {wanted:?}"));
    let store = partial(Store::memory(options(Compression::Fast)), &remote);
    let all = leaves(4);
    let root = node(&all);
    commit(&store, "main", &[(all[0].clone(), None), (root.clone(), None)]);
    let absent = all[1].hash();
    assert!(!store.contains(absent) && store.local(absent).unwrap().is_none());
    assert!(store.pinned(absent).unwrap().is_none() && !store.hold().keep(absent));
    // A new version of what names promised chunks, as a difference.
    commit(
        &store,
        "main",
        &[(leaf("new"), None), (node(&[&all[1..], &[leaf("new")]].concat()), Some(*root.hash()))],
    );
    expect_promised(&store, 3, "in a journal");
    store.collect(false).unwrap();
    store.compact().unwrap();
    store.collect(true).unwrap();
    expect_promised(&store, 3, "in a table");
    let backup = Backup::in_store(Store::memory(options(Compression::Fast))).unwrap();
    backup.sync(&store, "2026-01-01T00:00:00.000000Z", KINDS).unwrap();
    assert_eq!(remote.asked().0, 0);
}

#[test]
fn without_its_remote_a_read_says_what_to_do() {
    let store = Store::memory(options(Compression::Fast));
    let all = leaves(2);
    let root = node(&all);
    store.set_partial();
    commit(&store, "main", &[(all[0].clone(), None), (root.clone(), None)]);
    for read in [store.get(all[1].hash()), store.child(&root, 1)] {
        let error = read.unwrap_err();
        assert!(matches!(error, Error::NotLocal { hash } if hash == *all[1].hash()));
        assert_eq!(error.kind(), ErrorKind::Remote);
        assert!(
            error.to_string().contains("partial copy") && error.to_string().contains("remote"),
            "{error}"
        );
    }
    assert!(store.child(&root, 0).unwrap().is_some() && store.child(&root, 2).unwrap().is_none());
}

#[test]
fn a_remote_that_fails_is_told_and_asked_again() {
    let fails = Arc::new(AtomicBool::new(true));
    let failing = fails.clone();
    let remote = Remote::answering(leaves(2), move |remote, wanted| match failing.load(Ordering::SeqCst) {
        true => Err(Arc::new(std::io::Error::other("the line is dead"))),
        false => remote.find(wanted),
    });
    let store = partial(Store::memory(options(Compression::Fast)), &remote);
    let all = leaves(2);
    commit(&store, "main", &[(node(&all), None)]);
    let error = store.child(&node(&all), 0).unwrap_err();
    assert!(matches!(&error, Error::SourceFailed { hash, .. } if hash == all[0].hash()));
    assert!(error.to_string().contains("the line is dead"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Remote);
    assert!(std::error::Error::source(&error).is_some());
    assert_eq!(store.stats().chunks, 1);
    fails.store(false, Ordering::SeqCst);
    assert_eq!(walk(&store), 3);
}

#[test]
fn a_remote_that_sends_something_else_gives_nothing() {
    let (wanted, other) = (leaf("wanted"), leaf("other"));
    let sent = other.clone();
    let remote = Remote::answering([], move |_, _| Ok(vec![sent.clone()]));
    let store = partial(Store::memory(options(Compression::Fast)), &remote);
    commit(&store, "main", &[(node(std::slice::from_ref(&wanted)), None)]);
    assert_eq!(store.get(wanted.hash()).unwrap(), None);
    assert!(!store.contains(wanted.hash()));
    assert_eq!(store.local(other.hash()).unwrap(), Some(other), "what was not asked for is kept");
    expect_promised(&store, 1, "it is promised still");
}

#[test]
fn what_comes_with_an_answer_is_marked_by_what_it_lacks_itself() {
    let all = leaves(4);
    let (whole, lacking) = (node(&all[..2]), node(&all[2..]));
    let sent = vec![whole.clone(), lacking.clone(), all[0].clone(), all[1].clone(), all[2].clone()];
    let remote = Remote::answering([], move |_, _| Ok(sent.clone()));
    let store = partial(Store::memory(options(Compression::Fast)), &remote);
    commit(&store, "main", &[(over(&[whole.clone(), lacking.clone()]), None)]);
    assert_eq!(store.get(whole.hash()).unwrap(), Some(whole));
    expect_promised(&store, 1, "the last leaf");
    assert!(store.local(lacking.hash()).unwrap().is_some());
    assert_eq!(remote.asked(), (1, 1));
}

#[test]
fn children_read_in_order_are_asked_for_more_and_more_at_a_time() {
    let all = leaves(1000);
    let root = node(&all);
    let remote = Remote::of(all);
    let store = partial(Store::memory(Options::default()), &remote);
    commit(&store, "main", &[(root, None)]);
    assert_eq!(walk(&store), 1001);
    // 1, 2, 4 … 256, and then 256 at a time.
    assert_eq!(remote.asked(), (11, 1000));
    assert_eq!(walk(&store), 1001);
    assert_eq!(remote.asked(), (11, 1000), "now they are here");
}

#[test]
fn reading_in_order_goes_on_in_the_next_node_whatever_is_here_already() {
    let all = leaves(1000);
    let nodes: Vec<Chunk> = all.chunks(100).map(node).collect();
    let remote = Remote::of(all.iter().chain(&nodes).cloned());
    let store = partial(Store::memory(Options::default()), &remote);
    // Some are here: those a reader passes over.
    let here: Vec<_> = [0, 1, 300, 301, 555].map(|number| (all[number].clone(), None)).into();
    append(&store, &here, &[]).wait().unwrap();
    commit(&store, "main", &[(over(&nodes), None)]);
    assert_eq!(walk(&store), 1011);
    // Nodes: 1, 2, 4, 3. Leaves: 1 to 64 in the first node, then a node at a time.
    assert_eq!(remote.asked(), (4 + 7 + 9, 1000 + 10 - 5));
}

#[test]
fn readers_in_order_do_not_disturb_each_other() {
    let all = leaves(2000);
    let nodes: Vec<Chunk> = all.chunks(1000).map(node).collect();
    let remote = Remote::of(all);
    let store = partial(Store::memory(Options::default()), &remote);
    let chunks = [(nodes[0].clone(), None), (nodes[1].clone(), None), (over(&nodes), None)];
    commit(&store, "main", &chunks);
    for index in 0..1000 {
        nodes.iter().for_each(|node| assert!(store.child(node, index).unwrap().is_some()));
    }
    assert_eq!(remote.asked(), (22, 2000));
}

#[test]
fn children_read_at_random_are_asked_for_one_by_one() {
    let all = leaves(1000);
    let root = node(&all);
    let remote = Remote::of(all);
    let store = partial(Store::memory(Options::default()), &remote);
    commit(&store, "main", &[(root.clone(), None)]);
    let mut order: Vec<usize> = (0..1000).collect();
    order.sort_by_key(|number| Hash::of(&number.to_le_bytes()));
    for index in &order {
        assert!(store.child(&root, *index).unwrap().is_some());
    }
    let (requests, chunks) = remote.asked();
    assert!(requests > 900 && chunks == 1000, "{requests} requests for {chunks} chunks");
    // So are those by their address, in whatever order.
    let all = leaves(50);
    let remote = Remote::of(all.clone());
    let store = partial(Store::memory(Options::default()), &remote);
    all.iter().for_each(|leaf| assert!(store.get(leaf.hash()).unwrap().is_some()));
    assert_eq!(remote.asked(), (50, 50));
}

#[test]
fn readers_of_one_absent_chunk_share_a_request() {
    const READERS: usize = 8;
    let all = leaves(40);
    let root = node(&all);
    let started = Arc::new(Barrier::new(READERS));
    let begun = started.clone();
    let is_first = AtomicBool::new(true);
    let remote = Remote::answering(all.clone(), move |remote, wanted| {
        if is_first.swap(false, Ordering::SeqCst) {
            // The first request is under way until all others are about to read.
            begun.wait();
        }
        remote.find(wanted)
    });
    let store = partial(Store::memory(Options::default()), &remote);
    commit(&store, "main", &[(root.clone(), None)]);
    thread::scope(|scope| {
        let (store, root, all) = (&store, &root, &all);
        scope.spawn(|| assert!(store.child(root, 0).unwrap().is_some()));
        while remote.asked().0 == 0 {
            thread::yield_now();
        }
        for reader in 1..READERS {
            let started = started.clone();
            scope.spawn(move || {
                started.wait();
                for (index, leaf) in all.iter().enumerate() {
                    let read =
                        if reader % 2 == 0 { store.get(leaf.hash()) } else { store.child(root, index) };
                    assert_eq!(read.unwrap().as_ref(), Some(leaf));
                }
            });
        }
    });
    let asked: Vec<Hash> = remote.asked.lock().unwrap().concat();
    let distinct: BTreeSet<&Hash> = asked.iter().collect();
    assert_eq!((asked.len(), distinct.len()), (40, 40), "none is asked for twice");
}

#[test]
fn a_read_that_is_cancelled_meanwhile_keeps_what_came() {
    let cancel = Cancel::new();
    let ending = cancel.clone();
    let remote = Remote::answering(leaves(2), move |remote, wanted| {
        ending.cancel();
        remote.find(wanted)
    });
    let store = partial(Store::memory(options(Compression::Fast)), &remote);
    let all = leaves(2);
    commit(&store, "main", &[(node(&all), None)]);
    let handle = store.cancellable(&cancel);
    assert!(matches!(handle.get(all[0].hash()), Err(Error::Cancelled)));
    assert!(store.contains(all[0].hash()));
    assert!(matches!(handle.get(all[1].hash()), Err(Error::Cancelled)));
    assert_eq!(remote.asked(), (1, 1), "who is cancelled asks for nothing");
}

#[test]
fn what_cannot_be_kept_is_read_all_the_same() {
    let all = leaves(300);
    let root = node(&all);
    let remote = Remote::of(all.clone());
    let disk = Memory::simulated();
    let io: Arc<dyn Io> = Arc::new(disk.clone());
    let store = partial(Store::create_with_io(io.clone(), options(Compression::Fast)).unwrap(), &remote);
    commit(&store, "main", &[(root.clone(), None)]);
    // Somebody who only reads, beside the writer.
    let reader = partial(Store::open_to_read_with_io(io, Options::default()).unwrap(), &remote);
    assert_eq!((walk(&reader), reader.stats().writes), (301, 0));
    let used: usize = disk.files().values().map(Vec::len).sum();
    disk.with_faults(|faults| faults.capacity_bytes = Some(used as u64));
    assert_eq!(store.get(all[7].hash()).unwrap().as_ref(), Some(&all[7]));
    assert!(!store.contains(all[7].hash()));
    disk.with_faults(|faults| faults.capacity_bytes = None);
    assert_eq!(walk(&store), 301);
    expect_promised(&store, 0, "all is here");
}

#[test]
fn a_power_cut_after_reads_takes_only_what_comes_again() {
    let all = leaves(200);
    let nodes: Vec<Chunk> = all.chunks(20).map(node).collect();
    let root = over(&nodes);
    let remote = Remote::of(all.iter().chain(&nodes).cloned());
    let disk = Memory::simulated();
    let store = Store::create_with_io(Arc::new(disk.clone()), options(Compression::Fast)).unwrap();
    let store = partial(store, &remote);
    commit(&store, "main", &[(root, None)]);
    assert_eq!(walk(&store), 211);
    // And something that builds upon what was read.
    let mine = leaf("mine");
    commit(&store, "mine", &[(mine.clone(), None), (node(&[all[3].clone(), mine]), None)]);
    let _ = append(&store, &[(leaf("on its way"), None)], &[]);
    for seed in 0..20_u64 {
        let count = AtomicU64::new(0);
        let keep = || Hash::of(&[seed, count.fetch_add(1, Ordering::SeqCst)].map(u64::to_le_bytes).concat());
        let files = disk.after_power_cut(|| seed > 0 && keep().as_bytes()[0] % 2 == 0);
        let again = open(&Memory::holding(files));
        let report = fsck(&again);
        assert_eq!(report.damages, [], "seed {seed}");
        let again = partial(again, &remote);
        assert_eq!(walk(&again), 211 + 3, "seed {seed}");
        expect_promised(&again, 0, "all was read");
    }
}

#[test]
fn what_comes_while_a_collection_sweeps_does_not_count_on_what_is_swept() {
    let all = leaves(6);
    let (kept, late) = (node(&all[..3]), node(&all[3..]));
    let remote = Remote::of([late.clone()]);
    let (sweeping, slot) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None::<Store>)));
    let (armed, reader, wanted) = (sweeping.clone(), slot.clone(), *late.hash());
    // When the first table of the sweep is made, the chunk comes that names what is about to go.
    let io = Hooked::at_each_call(Arc::new(Memory::default()), move |call, name| {
        if call == Call::Create && name.starts_with("table-") && armed.swap(false, Ordering::SeqCst) {
            let store = reader.lock().unwrap().clone().unwrap();
            assert!(store.get(&wanted).unwrap().is_some());
        }
        Ok(())
    });
    let store = partial(Store::create_with_io(Arc::new(io), options(Compression::Fast)).unwrap(), &remote);
    let put = |chunks: &[Chunk]| chunks.iter().map(|chunk| (chunk.clone(), None)).collect::<Vec<_>>();
    commit(&store, "main", &put(&[&all[..3], &[kept.clone(), over(&[kept, late.clone()])]].concat()));
    append(&store, &put(&all[3..]), &[]).wait().unwrap();
    *slot.lock().unwrap() = Some(store.clone());
    sweeping.store(true, Ordering::SeqCst);
    store.collect(false).unwrap();
    *slot.lock().unwrap() = None;
    assert!(!sweeping.load(Ordering::SeqCst) && store.contains(late.hash()));
    assert!(!store.contains(all[4].hash()), "nothing led to it when marking was over");
    expect_promised(&store, 3, "the leaves of what came");
    store.collect(false).unwrap();
    expect_promised(&store, 3, "collected again");
}

/// Ends what goes on beside a test, also when that fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn what_is_read_during_collections_stays_and_is_whole() {
    const TREES: usize = 6;
    // Trees that share nodes, and nodes that share leaves.
    let all = leaves(60);
    let nodes: Vec<Chunk> = (0..20).map(|at| node(&all[at * 2..at * 2 + 20])).collect();
    let roots: Vec<Chunk> = (0..TREES).map(|at| over(&nodes[at * 2..at * 2 + 8])).collect();
    let remote = Remote::of(all.iter().chain(&nodes).chain(&roots).cloned());
    let options = Options { cache_bytes: 0, ..options(Compression::Fast) };
    let store = partial(Store::memory(options), &remote);
    commit(&store, "main", &[(roots[0].clone(), None)]);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let collector = scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                store.collect(false).unwrap();
                if store.sequence().is_multiple_of(3) {
                    store.compact().unwrap();
                }
            }
        });
        let over = Over(&is_over);
        for round in 0..60 {
            // What the tree before had by itself becomes garbage, some of which the next but one has again.
            let root = &roots[round * 5 % TREES];
            let pinned = store.pinned(&store.get_ref("main").unwrap()).unwrap().unwrap();
            commit(&store, "main", &[(root.clone(), None)]);
            drop(pinned);
            assert_eq!(walk(&store), 1 + 8 * 21, "round {round}");
            let report = fsck(&store);
            assert_eq!(report.damages, [], "round {round}");
        }
        drop(over);
        collector.join().unwrap();
    });
    // What a chunk that came during a sweep leads to may have been read as it went, and be in memory only: the next collection lets go of it.
    store.collect(false).unwrap();
    walk(&store);
    let before = remote.asked();
    store.collect(false).unwrap();
    walk(&store);
    assert_eq!(remote.asked(), before, "what was read stays while a root leads to it");
    expect_promised(&store, 0, "all is here");
}

#[test]
fn a_repair_of_a_partial_store_leaves_promised_what_was() {
    let disk = Memory::default();
    let all = leaves(10);
    let lacking = node(&all);
    let whole = node(&all[..2]);
    let store = Store::create_with_io(Arc::new(disk.clone()), options(Compression::Fast)).unwrap();
    store.set_partial();
    let chunks =
        [(all[0].clone(), None), (all[1].clone(), None), (whole.clone(), None), (lacking.clone(), None)];
    commit(&store, "main", &[&chunks[..], &[(over(&[whole, lacking.clone()]), None)]].concat());
    // A byte of the address of the last leaf, and of the first leaf.
    for needle in [&all[9].hash().as_bytes()[..], b"leaf 0"] {
        for (name, bytes) in disk.files() {
            if let Some(at) = bytes.windows(needle.len()).rposition(|window| window == needle) {
                disk.open(&name).unwrap().write_at(b"?", at as u64 + 4).unwrap();
            }
        }
    }
    let damages = fsck(&store).damages;
    assert_eq!(damages.len(), 2);
    let find = |hash: &Hash| Ok(all.iter().chain([&lacking]).find(|chunk| chunk.hash() == hash).cloned());
    let repaired = fsck::repair(&store, &damages, &fine, &find).unwrap();
    assert_eq!((repaired.chunks, repaired.lacking.len()), (2, 0));
    expect_promised(&store, 8, "repaired");
}
