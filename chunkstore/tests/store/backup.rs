//! Backups: what a sync costs, what a restore gives, who is refused, and a power cut at every effect of either.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pleach_chunkstore::backup::{Backup, Kinds, Moment, Of, Point, digest};
use pleach_chunkstore::io::memory::Memory;
use pleach_chunkstore::{Batch, Chunk, Error, Hash, Options, Outcome, RefUpdate, Store};

/// Kind of a version: it names its tree, then the version before.
const VERSION: u8 = 2;

fn fine(_: &Chunk) -> Result<(), String> {
    Ok(())
}

fn earlier(chunk: &Chunk) -> Option<usize> {
    (chunk.kind() == VERSION && chunk.child_count() > 1).then_some(1)
}

const KINDS: Kinds<'static> = Kinds { check: &fine, earlier: &earlier };

fn parent(kind: u8, children: &[Hash], text: &str) -> Chunk {
    let mut body: Vec<u8> = children.iter().flat_map(|child| *child.as_bytes()).collect();
    body.extend(text.as_bytes());
    Chunk::build(kind, 1, &body, Some((0, children.len() as u32)), &[], 0)
}

/// A history of a table of `leaves` leaves under nodes of 64, each version of which changes one.
struct Source {
    store: Store,
    rows: Vec<u64>,
    head: Option<Hash>,
}

impl Source {
    fn new(leaves: usize) -> Source {
        let mut source =
            Source { store: Store::memory(Options::default()), rows: vec![0; leaves], head: None };
        source.version();
        source
    }

    fn tree(&self, batch: &mut Batch, base: Option<&[u64]>) -> Hash {
        let leaf = |index: usize, row: u64| {
            let text: String = (0..40)
                .map(|line| format!("row {index}.{line} says {}\n", if line == 20 { row } else { 0 }))
                .collect();
            Chunk::build(1, 0, text.as_bytes(), None, &[], 0)
        };
        let node = |rows: &[u64], from: usize| {
            let hashes: Vec<Hash> =
                rows.iter().enumerate().map(|(i, row)| *leaf(from + i, *row).hash()).collect();
            parent(1, &hashes, "")
        };
        let mut nodes = Vec::new();
        for (number, rows) in self.rows.chunks(64).enumerate() {
            let from = number * 64;
            let before = base.map(|base| &base[from..from + rows.len()]);
            for (index, row) in rows.iter().enumerate() {
                batch.put(
                    leaf(from + index, *row),
                    before.map(|before| *leaf(from + index, before[index]).hash()),
                );
            }
            let chunk = node(rows, from);
            nodes.push(*chunk.hash());
            batch.put(chunk, before.map(|before| *node(before, from).hash()));
        }
        let root = parent(1, &nodes, "");
        let hash = *root.hash();
        batch.put(root, None);
        hash
    }

    /// Makes a version; the first, or one that changes a row.
    fn version(&mut self) -> Hash {
        let before = self.rows.clone();
        let number = self.store.sequence();
        if self.head.is_some() {
            let at = (number as usize * 37) % self.rows.len();
            self.rows[at] = number;
        }
        let mut batch = Batch::default();
        let root = self.tree(&mut batch, self.head.is_some().then_some(&before[..]));
        let version = parent(
            VERSION,
            &[Some(root), self.head].into_iter().flatten().collect::<Vec<_>>(),
            "who and why",
        );
        let hash = *version.hash();
        batch.put(version, self.head);
        let updates =
            [("heads/main", self.head), ("work/main", self.store.get_ref("work/main"))].map(|(name, old)| {
                let new = if name == "heads/main" { hash } else { root };
                RefUpdate { name: name.into(), old, new: Some(new) }
            });
        append(&self.store, batch, &updates);
        self.head = Some(hash);
        hash
    }

    fn set(&self, name: &str, new: Option<Hash>) {
        append(
            &self.store,
            Batch::default(),
            &[RefUpdate { name: name.into(), old: self.store.get_ref(name), new }],
        );
    }

    fn refs(&self) -> BTreeMap<String, Hash> {
        self.store.refs("").into_iter().collect()
    }
}

fn append(store: &Store, batch: Batch, updates: &[RefUpdate]) {
    match store.append(batch, updates).unwrap() {
        Outcome::Appended(ticket) => ticket.wait().unwrap(),
        Outcome::Moved { name, .. } => panic!("{name} moved"),
    }
}

fn time(number: u64) -> String {
    format!("2026-01-01T00:00:{number:02}.000000Z")
}

fn backup_at(disk: &Memory) -> Backup {
    Backup::open_or_create_with_io(Arc::new(disk.clone())).unwrap()
}

/// A backup that appends so little at a time that a cut falls between two batches of one tree.
fn small_batches(disk: &Memory) -> Result<Backup, Error> {
    Ok(Backup::open_or_create_with_io(Arc::new(disk.clone()))?.with_batch_bytes(4096))
}

fn sound(backup: &Backup) {
    assert_eq!(backup.verify(KINDS).unwrap().damages, []);
}

#[test]
fn the_first_point_costs_what_the_history_holds_and_each_next_one_what_changed() {
    let mut source = Source::new(2000);
    (0..100).for_each(|_| {
        source.version();
    });
    let held = source.store.stats().journal_bytes;
    let disk = Memory::default();
    let backup = backup_at(&disk);
    let first = backup.sync(&source.store, &time(1), KINDS).unwrap();
    println!("source {held} bytes; first point {} bytes, {} chunks", first.bytes_written, first.chunks);
    assert!(first.bytes_written < held + held / 10, "versions are kept as differences from the one before");
    assert_eq!(first.chunks, source.store.stats().chunks);
    source.version();
    let second = backup.sync(&source.store, &time(2), KINDS).unwrap();
    println!(
        "one row: {} bytes, of which {} are chunks of the source",
        second.bytes_written, second.point.bytes
    );
    assert_eq!(second.chunks, 4, "leaf, node, root, version");
    assert!(second.bytes_written < 1500, "{}", second.bytes_written);
    let third = backup.sync(&source.store, &time(3), KINDS).unwrap();
    println!("nothing: {} bytes", third.bytes_written);
    assert_eq!((third.chunks, third.point.bytes), (0, 0));
    assert!(third.bytes_written < 600, "{}", third.bytes_written);
    assert_eq!(third.point.digest(), second.point.digest());
    sound(&backup);
    assert_eq!((source.store.stats().pinned_roots, source.store.stats().holds), (0, 0));
}

#[test]
fn a_ref_more_costs_the_same_among_thousands() {
    let source = Source::new(8);
    (0..3000).for_each(|number| source.set(&format!("heads/branch-{number:04}"), source.head));
    let backup = backup_at(&Memory::default());
    backup.sync(&source.store, &time(1), KINDS).unwrap();
    source.set("heads/one-more", source.head);
    let second = backup.sync(&source.store, &time(2), KINDS).unwrap();
    println!("one ref among 3000: {} bytes", second.bytes_written);
    assert!(second.bytes_written < 4000, "{}", second.bytes_written);
}

#[test]
fn every_point_is_restored_with_exactly_its_refs() {
    let mut source = Source::new(300);
    let backup = backup_at(&Memory::default());
    let mut states = Vec::new();
    for number in 1..=4 {
        source.version();
        source.set("tags/last", source.head);
        source.set("recovery/old", (number % 2 == 0).then_some(source.head).flatten());
        backup.sync(&source.store, &time(number), KINDS).unwrap();
        states.push(source.refs());
    }
    let points = backup.points().unwrap();
    assert_eq!(points.len(), 4);
    for (point, refs) in points.iter().zip(&states) {
        let target = Store::memory(Options::default());
        let restored = backup.restore(point, &target, KINDS).unwrap();
        let found: BTreeMap<String, Hash> = target.refs("").into_iter().collect();
        assert_eq!((&found, digest(&found)), (refs, point.digest()));
        assert_eq!(restored.chunks, target.stats().chunks);
        let report = pleach_chunkstore::fsck::check(&target, &fine).unwrap();
        assert_eq!(report.damages, []);
        let again = backup.restore(point, &target, KINDS);
        assert!(matches!(again, Err(Error::AlreadyExists { .. })), "it has refs");
    }
}

#[test]
fn a_backup_takes_one_store_and_those_restored_from_it() {
    let (source, other) = (Source::new(8), Source::new(9));
    let disk = Memory::default();
    let backup = backup_at(&disk);
    backup.sync(&source.store, &time(1), KINDS).unwrap();
    let refused = backup.sync(&other.store, &time(2), KINDS);
    assert!(matches!(refused, Err(Error::OtherSource { .. })), "{refused:?}");
    let restored = Store::memory(Options::default());
    backup.restore(&backup.points().unwrap()[0], &restored, KINDS).unwrap();
    backup.sync(&restored, &time(2), KINDS).unwrap();
    let busy = Backup::open_with_io(Arc::new(disk.clone()));
    assert!(matches!(busy, Err(Error::Locked { ref pid, .. }) if *pid == std::process::id().to_string()));
    let points: Vec<String> = backup.points().unwrap().into_iter().map(|point| point.time).collect();
    assert_eq!(points, [time(1), time(2)]);
    let again = backup.sync(&source.store, &time(2), KINDS);
    assert!(matches!(again, Err(Error::RefExists { .. })));
}

#[test]
fn a_store_that_is_no_backup_is_left_alone() {
    let disk = Memory::default();
    let store = Store::create_with_io(Arc::new(disk.clone()), Options::default()).unwrap();
    let chunk = Chunk::build(1, 0, b"mine", None, &[], 0);
    let (mut batch, root) = (Batch::default(), *chunk.hash());
    batch.put(chunk, None);
    append(&store, batch, &[RefUpdate { name: "work/main".into(), old: None, new: Some(root) }]);
    drop(store);
    for opened in
        [Backup::open_with_io(Arc::new(disk.clone())), Backup::open_or_create_with_io(Arc::new(disk.clone()))]
    {
        assert!(matches!(opened, Err(Error::NotBackup { .. })));
    }
    assert!(matches!(Backup::open_with_io(Arc::new(Memory::default())), Err(Error::NotFound { .. })));
}

#[test]
fn a_writer_meanwhile_is_in_the_point_whole_or_not_at_all() {
    let source = Source::new(500);
    let root = source.head;
    for (name, old) in [("a", None), ("b", None)] {
        append(&source.store, Batch::default(), &[RefUpdate { name: name.into(), old, new: root }]);
    }
    let calls = AtomicU64::new(0);
    // Moves both refs at once, and drops what the head was, each time that the copy looks at a chunk.
    let meddle = |chunk: &Chunk| {
        let number = calls.fetch_add(1, Ordering::Relaxed);
        let new = Chunk::build(1, 0, format!("written meanwhile {number}").as_bytes(), None, &[], 0);
        let (mut batch, hash) = (Batch::default(), *new.hash());
        batch.put(new, None);
        let updates = ["a", "b", "heads/main"].map(|name| RefUpdate {
            name: name.into(),
            old: source.store.get_ref(name),
            new: Some(hash),
        });
        append(&source.store, batch, &updates);
        earlier(chunk)
    };
    let backup = backup_at(&Memory::default());
    let synced = backup.sync(&source.store, &time(1), Kinds { check: &fine, earlier: &meddle }).unwrap();
    assert!(calls.load(Ordering::Relaxed) > 500);
    assert_eq!(synced.point.refs["a"], synced.point.refs["b"]);
    assert_eq!(synced.point.refs["heads/main"], root.unwrap(), "as it was when the sync began");
    let next = backup.sync(&source.store, &time(2), KINDS).unwrap();
    assert_eq!(next.point.refs["a"], source.store.get_ref("a").unwrap());
    sound(&backup);
}

#[test]
fn damage_in_a_backup_is_found_with_its_place_and_point() {
    let mut source = Source::new(100);
    let disk = Memory::default();
    let backup = backup_at(&disk);
    backup.sync(&source.store, &time(1), KINDS).unwrap();
    source.version();
    backup.sync(&source.store, &time(2), KINDS).unwrap();
    sound(&backup);
    let (name, bytes) = disk.files().into_iter().find(|(name, _)| name.starts_with("journal")).unwrap();
    let needle = b"row 99.3 says 0";
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    use pleach_chunkstore::io::Io;
    disk.open(&name).unwrap().write_at(b"X", at as u64).unwrap();
    let report = backup.verify(KINDS).unwrap();
    assert_eq!(report.damages.len(), 1, "{report:?}");
    let damage = &report.damages[0];
    assert!(damage.file == name && damage.offset < at as u64 && at as u64 - damage.offset < 2000);
    assert_eq!(
        damage.needed_by.as_deref().unwrap(),
        [format!("backups/{}", time(1)), format!("backups/{}", time(2))]
    );
}

#[test]
fn a_sync_that_is_cut_between_batches_leaves_closed_subtrees_and_the_next_one_copies_the_rest() {
    let source = Source::new(300);
    let total = source.store.stats().chunks;
    let mut resumed = 0;
    for cut in 1.. {
        let disk = Memory::simulated();
        disk.with_faults(|faults| faults.power_cut_at = Some(cut));
        let done = small_batches(&disk).and_then(|backup| backup.sync(&source.store, &time(1), KINDS));
        let backup = backup_at(&Memory::holding(disk.after_power_cut(|| true)));
        let there = backup.store().stats().chunks;
        sound(&backup);
        if done.is_ok() {
            break;
        }
        let next = backup.sync(&source.store, &time(2), KINDS).unwrap();
        assert!(next.chunks <= total - there.saturating_sub(3), "{} of {total} again", next.chunks);
        resumed += u64::from((20..total).contains(&next.chunks));
    }
    assert!(resumed >= 20, "batches were there before the cut");
}

/// A sequence of choices that is the same for the same seed.
fn choices(seed: u64) -> impl FnMut() -> bool {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        match seed {
            0 => false,
            1 => true,
            _ => state >> 33 & 1 == 1,
        }
    }
}

/// Runs `work` on a simulated disk whose power is cut at each of its effects, and shows each image to `check`, with what `work` said. Gives
/// the number of images.
fn explore(work: impl Fn(&Memory) -> u64, check: impl Fn(BTreeMap<String, Vec<u8>>, u64)) -> u64 {
    let mut images = 0;
    for cut in 1.. {
        let disk = Memory::simulated();
        disk.with_faults(|faults| faults.power_cut_at = Some(cut));
        let done = work(&disk);
        for seed in 0..6 {
            check(disk.after_power_cut(choices(seed + if seed > 1 { cut * 6 } else { 0 })), done);
            images += 1;
        }
        if disk.with_faults(|faults| faults.calls < cut).unwrap() {
            break;
        }
    }
    images
}

#[test]
fn a_power_cut_at_any_effect_of_a_sync_leaves_whole_points_and_the_next_sync_goes_on() {
    let mut source = Source::new(70);
    let first = Store::memory(Options::default());
    let seed_backup = backup_at(&Memory::default());
    seed_backup.sync(&source.store, &time(0), KINDS).unwrap();
    // The same store as it was, so that both points can be made again and again: one restored from a backup of it.
    seed_backup.restore(&seed_backup.points().unwrap()[0], &first, KINDS).unwrap();
    source.version();
    let whole = |point: &Point| match point.time == time(1) {
        true => digest(&first.refs("").into_iter().collect()),
        false => digest(&source.refs()),
    };
    // One source whose refs move would be another at each run: the backup is told that both are one.
    let sync_both = |disk: &Memory| -> u64 {
        let Ok(backup) = small_batches(disk) else { return 0 };
        if backup.sync(&first, &time(1), KINDS).is_err() {
            return 0;
        }
        1
    };
    let images = explore(sync_both, |image, done| {
        let disk = Memory::holding(image);
        let backup = backup_at(&disk);
        let points = backup.points().unwrap();
        assert!(points.len() as u64 >= done, "an acknowledged point is lost");
        points.iter().for_each(|point| assert_eq!(point.digest(), whole(point)));
        sound(&backup);
        if points.is_empty() {
            backup.sync(&first, &time(1), KINDS).unwrap();
        }
        sound(&backup);
        let target = Store::memory(Options::default());
        backup.restore(&backup.points().unwrap()[0], &target, KINDS).unwrap();
        assert_eq!(target.refs(""), first.refs(""));
    });
    println!("{images} states after power cuts in a first sync");
    assert!(images > 30);
}

#[test]
fn a_power_cut_at_any_effect_of_a_later_sync_keeps_the_points_before() {
    let mut source = Source::new(70);
    let disk = Memory::default();
    let backup = backup_at(&disk);
    backup.sync(&source.store, &time(1), KINDS).unwrap();
    let before = digest(&source.refs());
    drop(backup);
    let image = disk.files();
    source.version();
    let after = digest(&source.refs());
    let mut images = 0;
    for cut in 1.. {
        let disk = Memory::holding(image.clone());
        disk.with_faults(|faults| faults.power_cut_at = Some(cut));
        let done =
            small_batches(&disk).and_then(|backup| backup.sync(&source.store, &time(2), KINDS)).is_ok();
        for seed in 0..6 {
            let left = disk.after_power_cut(choices(seed + if seed > 1 { cut * 6 } else { 0 }));
            let backup = backup_at(&Memory::holding(left));
            let digests: Vec<Hash> = backup.points().unwrap().iter().map(Point::digest).collect();
            let whole = [&[before][..], &[before, after]];
            assert!(whole[usize::from(done)..].contains(&&digests[..]), "cut at {cut}, seed {seed}");
            sound(&backup);
            let last = backup.sync(&source.store, &time(3), KINDS).unwrap();
            assert_eq!(last.point.digest(), after);
            sound(&backup);
            images += 1;
        }
        if disk.with_faults(|faults| faults.calls < cut).unwrap() {
            break;
        }
    }
    println!("{images} states after power cuts in a later sync");
    assert!(images > 10);
}

/// A backup whose journals are sealed, and compacted, every few chunks.
fn short_journals(disk: &Memory) -> Result<Backup, Error> {
    let options = Options { journal_bytes: 20_000, background: false, ..Options::default() };
    let io = Arc::new(disk.clone());
    let store = match Store::open_with_io(io.clone(), options.clone()) {
        Err(Error::NotFound { .. }) => Store::create_with_io(io, options),
        opened => opened,
    };
    Ok(Backup::in_store(store?)?.with_batch_bytes(8192))
}

#[test]
fn what_a_sync_filled_is_compacted_when_its_point_is_there() {
    let source = Source::new(300);
    let disk = Memory::default();
    let backup = short_journals(&disk).unwrap();
    backup.sync(&source.store, &time(1), KINDS).unwrap();
    let stats = backup.store().stats();
    assert!(stats.tables > 0 && stats.journals < 4, "{stats:?}");
    sound(&backup);
    let weight = |disk: &Memory| disk.files().values().map(Vec::len).sum::<usize>();
    let raw = Memory::default();
    backup_at(&raw).sync(&source.store, &time(1), KINDS).unwrap();
    println!("{} bytes in tables, {} in a journal", weight(&disk), weight(&raw));
    assert!(weight(&disk) < weight(&raw));
}

#[test]
fn a_power_cut_at_any_effect_of_a_sync_that_seals_and_compacts_leaves_whole_points() {
    let source = Source::new(60);
    let state = digest(&source.refs());
    let sync = |disk: &Memory| -> u64 {
        let synced = short_journals(disk).and_then(|backup| backup.sync(&source.store, &time(1), KINDS));
        u64::from(synced.is_ok())
    };
    let images = explore(sync, |image, done| {
        let backup = short_journals(&Memory::holding(image)).unwrap();
        let digests: Vec<Hash> = backup.points().unwrap().iter().map(Point::digest).collect();
        assert!(digests == [state] || digests.is_empty() && done == 0);
        sound(&backup);
        let last = backup.sync(&source.store, &time(2), KINDS).unwrap();
        assert_eq!(last.point.digest(), state);
        sound(&backup);
    });
    println!("{images} states after power cuts in a sync that seals and compacts");
    assert!(images > 300, "{images}");
}

#[test]
fn a_power_cut_at_any_effect_of_a_restore_leaves_all_refs_or_none_and_it_is_gone_on_with() {
    let mut source = Source::new(70);
    source.version();
    let backup = small_batches(&Memory::default()).unwrap();
    let point = backup.sync(&source.store, &time(1), KINDS).unwrap().point;
    let open = |disk: &Memory| {
        let io = Arc::new(disk.clone());
        match Store::open_with_io(io.clone(), Options::default()) {
            Err(Error::NotFound { .. }) => Store::create_with_io(io, Options::default()),
            opened => opened,
        }
    };
    let restore = |disk: &Memory| -> u64 {
        let restored = open(disk).and_then(|store| backup.restore(&point, &store, KINDS));
        u64::from(restored.is_ok())
    };
    let images = explore(restore, |image, done| {
        let store = open(&Memory::holding(image)).unwrap();
        let refs: BTreeMap<String, Hash> = store.refs("").into_iter().collect();
        assert!(refs.is_empty() && done == 0 || refs == point.refs);
        if refs.is_empty() {
            backup.restore(&point, &store, KINDS).unwrap();
        }
        assert_eq!(digest(&store.refs("").into_iter().collect()), point.digest());
        assert_eq!(pleach_chunkstore::fsck::check(&store, &fine).unwrap().damages, []);
    });
    println!("{images} states after power cuts in a restore");
    assert!(images > 30);
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_directory_is_restored_whole_and_what_is_there_stays_until_then() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("db");
    let mut source = Source::new(70);
    let backup = Backup::open_or_create(&dir.path().join("backup")).unwrap();
    let first = backup.sync(&source.store, &time(1), KINDS).unwrap().point;
    source.version();
    let second = backup.sync(&source.store, &time(2), KINDS).unwrap().point;
    let refs = |dir: &Path| -> BTreeMap<String, Hash> {
        Store::open(dir, Options::default()).unwrap().refs("").into_iter().collect()
    };
    let restore = |point: &Point, force| backup.restore_dir(point, &at, force, KINDS);
    restore(&first, false).unwrap();
    assert_eq!(refs(&at), first.refs);
    assert!(matches!(restore(&second, false), Err(Error::AlreadyExists { .. })));
    let open = Store::open(&at, Options::default()).unwrap();
    assert!(matches!(restore(&second, true), Err(Error::Locked { .. })), "it is in use");
    drop(open);
    assert_eq!(refs(&at), first.refs);

    // A restore that fails leaves what was there: here the source of the chunks is damaged.
    let broken = Kinds { earlier: &|_: &Chunk| None, ..KINDS };
    let absent = Point { refs: [("x".to_owned(), Hash::of(b"absent"))].into(), ..second.clone() };
    assert!(matches!(backup.restore_dir(&absent, &at, true, broken), Err(Error::Missing { .. })));
    assert_eq!(refs(&at), first.refs);
    assert_eq!(names(dir.path()), [".db.restoring", "backup", "db"], "what was copied is not copied again");

    restore(&second, true).unwrap();
    assert_eq!(refs(&at), second.refs);
    assert_eq!(names(dir.path()), ["backup", "db"]);

    std::fs::write(at.join("manifest"), b"damaged").unwrap();
    restore(&first, true).unwrap();
    assert_eq!(refs(&at), first.refs);

    let full = dir.path().join("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("thesis.txt"), b"years of work").unwrap();
    let refused = backup.restore_dir(&first, &full, true, KINDS);
    assert!(matches!(refused, Err(Error::NotEmpty { .. })));
    assert_eq!(names(&full), ["thesis.txt"]);
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    backup.restore_dir(&first, &dir.path().join("empty"), false, KINDS).unwrap();
}

#[test]
fn a_crash_between_the_two_renames_is_mended_by_the_next_restore() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("db");
    let source = Source::new(20);
    let backup = Backup::open_or_create(&dir.path().join("backup")).unwrap();
    let point = backup.sync(&source.store, &time(1), KINDS).unwrap().point;
    backup.restore_dir(&point, &at, false, KINDS).unwrap();
    std::fs::rename(&at, dir.path().join(".db.replaced")).unwrap();
    let new = Store::create(&dir.path().join(".db.restoring"), Options::default()).unwrap();
    backup.restore(&point, &new, KINDS).unwrap();
    drop(new);
    backup.restore_dir(&point, &at, false, KINDS).unwrap();
    assert_eq!(names(dir.path()), ["backup", "db"]);
}

fn several(sources: &[(&str, &Store)]) -> Moment {
    let sources = sources.iter().map(|(name, store)| ((*name).to_owned(), (*store).clone()));
    Moment::of(sources.collect()).unwrap()
}

#[test]
fn a_point_of_several_stores_is_what_all_were_at_one_moment_and_costs_what_changed() {
    let (mut one, two) = (Source::new(300), Source::new(200));
    let backup = backup_at(&Memory::default());
    let moment = several(&[("one", &one.store), ("two", &two.store)]);
    let (before, unchanged) = (one.refs(), two.refs());
    // What comes after the moment is not in the point, and what was then stays until it is copied.
    one.version();
    let first = backup.sync_all(&moment, &time(1), KINDS).unwrap();
    drop(moment);
    let stores = first.point.stores();
    assert_eq!((&stores["one"].refs, &stores["two"].refs), (&before, &unchanged));
    assert_eq!(stores["one"].of, Of::One(one.store.id()));
    assert_eq!(one.store.stats().pinned_roots, 0);

    let second =
        backup.sync_all(&several(&[("one", &one.store), ("two", &two.store)]), &time(2), KINDS).unwrap();
    println!("one row in one of two stores: {} bytes", second.bytes_written);
    assert_eq!(second.chunks, 4);
    assert!(second.bytes_written < 1500, "{}", second.bytes_written);
    let third =
        backup.sync_all(&several(&[("one", &one.store), ("three", &two.store)]), &time(3), KINDS).unwrap();
    assert_eq!(third.chunks, 0, "under another name");

    let points = backup.points().unwrap();
    let restored = |point: &Point, name: &str| {
        let target = Store::memory(Options::default());
        backup.restore(&point.stores()[name], &target, KINDS).unwrap();
        assert_eq!(pleach_chunkstore::fsck::check(&target, &fine).unwrap().damages, []);
        target
    };
    assert_eq!(points[0], first.point);
    assert_eq!(restored(&points[0], "one").refs(""), before.into_iter().collect::<Vec<_>>());
    assert_eq!(restored(&points[1], "one").refs(""), one.store.refs(""));
    let again = restored(&points[2], "three");
    assert_eq!(again.refs(""), two.store.refs(""));
    sound(&backup);
    // What was restored from it may go on.
    let next = backup.sync_all(&several(&[("two", &again)]), &time(4), KINDS).unwrap();
    assert_eq!(next.chunks, 0);
}

#[test]
fn a_point_of_several_stores_among_hundreds_costs_what_changed() {
    let stores: Vec<(String, Source)> = (0..300).map(|n| (format!("store-{n:03}"), Source::new(2))).collect();
    let mut stores: BTreeMap<String, Source> = stores.into_iter().collect();
    let backup = backup_at(&Memory::default());
    let moment = |stores: &BTreeMap<String, Source>| {
        let sources: Vec<(&str, &Store)> =
            stores.iter().map(|(name, source)| (name.as_str(), &source.store)).collect();
        several(&sources)
    };
    backup.sync_all(&moment(&stores), &time(1), KINDS).unwrap();
    stores.get_mut("store-123").unwrap().version();
    let second = backup.sync_all(&moment(&stores), &time(2), KINDS).unwrap();
    println!("one row in one of 300 stores: {} bytes", second.bytes_written);
    assert!(second.bytes_written < 1500, "{}", second.bytes_written);
    let nothing = backup.sync_all(&moment(&stores), &time(3), KINDS).unwrap();
    println!("nothing in 300 stores: {} bytes", nothing.bytes_written);
    assert!(nothing.bytes_written < 600, "{}", nothing.bytes_written);
    sound(&backup);
}

#[test]
fn a_moment_never_has_what_came_later_in_one_store_without_what_came_before_in_another() {
    let stores = [(); 2].map(|()| Store::memory(Options::default()));
    let number = |hash: Option<&Hash>| {
        hash.map_or(0, |hash| u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap()))
    };
    let writing = std::sync::atomic::AtomicBool::new(true);
    let (mut looks, mut seen, mut wrong) = (0, 0, None);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut last = None;
            for count in 1_u64.. {
                let mut bytes = [0; 32];
                bytes[..8].copy_from_slice(&count.to_le_bytes());
                let new = Some(Hash::from_bytes(bytes));
                for store in &stores {
                    append(store, Batch::default(), &[RefUpdate { name: "count".into(), old: last, new }]);
                }
                last = new;
                if !writing.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        while seen < 20_000 && looks < 2_000_000 {
            // The one that is written first is named last: who looked at them one after the other would be found out.
            let refs = Store::refs_at_one_moment(&[&stores[1], &stores[0]]);
            let (later, first) = (number(refs[0].get("count")), number(refs[1].get("count")));
            (looks, seen) = (looks + 1, first);
            if later > first || first > later + 1 {
                wrong = Some((first, later));
                break;
            }
        }
        writing.store(false, Ordering::Relaxed);
    });
    assert_eq!(wrong, None, "what was written first, and what after it, at one moment");
    println!("{looks} looks at {seen} pairs of changes");
    assert!(looks > 100 && seen > 100);
}

#[test]
fn a_backup_is_of_one_store_or_of_several_that_it_knows() {
    let (source, other) = (Source::new(4), Source::new(5));
    let backup = backup_at(&Memory::default());
    backup.sync(&source.store, &time(1), KINDS).unwrap();
    let refused = backup.sync_all(&several(&[("a", &source.store)]), &time(2), KINDS);
    assert!(matches!(refused, Err(Error::OtherKindOfBackup { holds: "one store", .. })), "{refused:?}");
    let backup = backup_at(&Memory::default());
    backup.sync_all(&several(&[("a", &source.store)]), &time(1), KINDS).unwrap();
    let refused = backup.sync(&source.store, &time(2), KINDS);
    assert!(matches!(refused, Err(Error::OtherKindOfBackup { holds: "several stores", .. })), "{refused:?}");
    let refused = backup.sync_all(&several(&[("a", &other.store)]), &time(2), KINDS);
    assert!(matches!(refused, Err(Error::OtherSource { .. })), "{refused:?}");
    backup.sync_all(&several(&[("a", &other.store), ("b", &source.store)]), &time(2), KINDS).unwrap();
    // All were dropped.
    backup.sync_all(&several(&[]), &time(3), KINDS).unwrap();
    assert_eq!(backup.points().unwrap()[2].stores(), BTreeMap::new());
    sound(&backup);
}
