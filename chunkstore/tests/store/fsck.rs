//! What is damaged or missing is found, with its place and whom it concerns, and repaired from elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pleach_chunkstore::fsck::{self, Damage};
use pleach_chunkstore::io::Io;
use pleach_chunkstore::io::memory::Memory;
use pleach_chunkstore::{Chunk, Hash, Observer, Options, Store};

use crate::basics::{append, leaf, update};

const LEAVES: usize = 600;

fn fine(_: &Chunk) -> Result<(), String> {
    Ok(())
}

fn text(number: usize) -> Chunk {
    leaf(&format!("{number:04} {}", "what a leaf says ".repeat(6)))
}

fn parent(children: &[Hash]) -> Chunk {
    let body: Vec<u8> = children.iter().flat_map(|child| *child.as_bytes()).collect();
    Chunk::build(1, 1, &body, Some((0, children.len() as u32)), &[], 0)
}

/// `heads/even` and `heads/odd` reach half of the leaves each, `heads/all` both.
fn fill(disk: &Memory) -> Store {
    let options = Options { journal_bytes: 8192, background: false, ..Options::default() };
    let store = Store::create_with_io(Arc::new(disk.clone()), options).unwrap();
    let mut sides: [Vec<Hash>; 2] = Default::default();
    for number in 0..LEAVES {
        let leaf = text(number);
        sides[number % 2].push(*leaf.hash());
        append(&store, &[(leaf, None)], &[]).wait().unwrap();
    }
    let sides = sides.map(|side| parent(&side));
    let all = parent(&[*sides[0].hash(), *sides[1].hash()]);
    let refs = [("heads/even", &sides[0]), ("heads/odd", &sides[1]), ("heads/all", &all)];
    let updates: Vec<_> = refs.iter().map(|(name, root)| update(name, None, Some(*root.hash()))).collect();
    let chunks = [(sides[0].clone(), None), (sides[1].clone(), None), (all.clone(), None)];
    append(&store, &chunks, &updates).wait().unwrap();
    store
}

/// Changes a byte of what a leaf says, wherever it stands; gives the file.
fn damage(disk: &Memory, number: usize) -> String {
    let needle = format!("{number:04} what");
    for (name, bytes) in disk.files() {
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle.as_bytes()) {
            disk.open(&name).unwrap().write_at(b"?", at as u64 + 6).unwrap();
            return name;
        }
    }
    panic!("leaf {number} is in no file");
}

fn check(store: &Store) -> fsck::Report {
    fsck::check(store, &fine).unwrap()
}

#[test]
fn a_sound_store_is_read_to_its_last_chunk() {
    let store = fill(&Memory::default());
    let seen = Arc::new(AtomicU64::new(0));
    let into = seen.clone();
    let observer = Observer::every(Duration::ZERO, move |progress| {
        assert!(progress.total.is_some_and(|total| progress.done <= total));
        into.fetch_max(progress.done, Ordering::Relaxed);
    });
    let report = fsck::check(&store.observed(&observer), &fine).unwrap();
    let chunks = LEAVES as u64 + 3;
    assert_eq!((report.chunks, report.refs, report.damages.len()), (chunks, 3, 0));
    assert_eq!(seen.load(Ordering::Relaxed), chunks);
    assert_eq!(store.stats().pinned_roots, 0);
}

#[test]
fn damage_is_found_past_the_cache_with_its_place_and_the_refs_that_need_it() {
    let disk = Memory::default();
    let store = fill(&disk);
    let (bad, also_bad) = (text(7), text(300));
    assert!(store.get(bad.hash()).unwrap().is_some(), "it is in the cache");
    let (file, also_file) = (damage(&disk, 7), damage(&disk, 300));
    let report = check(&store);
    let found: BTreeMap<Hash, &Damage> = report.damages.iter().map(|damage| (damage.hash, damage)).collect();
    assert_eq!(found.keys().collect::<Vec<_>>().len(), 2);
    for (chunk, file, side) in [(&bad, file, "heads/odd"), (&also_bad, also_file, "heads/even")] {
        let damage = found[chunk.hash()];
        assert_eq!(damage.file, file);
        let bytes = &disk.files()[&file];
        let frame = &bytes[damage.offset as usize..][..200];
        assert!(frame.windows(9).any(|window| window == &chunk.body()[9..18]), "the frame is at the offset");
        assert!(damage.what.contains(&chunk.hash().to_string()), "{}", damage.what);
        assert_eq!(damage.needed_by.as_deref().unwrap(), ["heads/all", side]);
    }
}

#[test]
fn damage_in_a_table_is_found_and_repaired() {
    let disk = Memory::default();
    let store = fill(&disk);
    store.compact().unwrap();
    assert_eq!(check(&store).damages, []);
    let (name, bytes) = disk.files().into_iter().find(|(name, _)| name.starts_with("table-")).unwrap();
    let at = bytes.len() as u64 / 3;
    disk.open(&name).unwrap().write_at(&[bytes[at as usize] ^ 1], at).unwrap();
    let damages = check(&store).damages;
    assert!(!damages.is_empty());
    for damage in &damages {
        assert!(damage.file == name && damage.offset <= at, "{damage:?}");
        assert!(damage.needed_by.as_deref().unwrap().contains(&"heads/all".to_owned()));
    }
    let sound = fill(&Memory::default());
    let repaired = fsck::repair(&store, &damages, &fine, &|hash| sound.get(hash)).unwrap();
    assert_eq!(repaired.chunks, damages.len() as u64);
    assert_eq!(check(&store).damages, []);
    // What was written anew outlives the next compaction.
    store.compact().unwrap();
    assert_eq!(check(&store).damages, []);
}

#[test]
fn what_a_chunk_or_a_ref_names_must_be_there() {
    let store = Store::memory(Options::default());
    let (absent, gone) = (text(1), text(2));
    let names_it = parent(&[*absent.hash()]);
    let updates =
        [update("heads/main", None, Some(*names_it.hash())), update("tags/v1", None, Some(*gone.hash()))];
    append(&store, &[(names_it.clone(), None)], &updates).wait().unwrap();
    let report = check(&store);
    let of = |hash: &Hash| report.damages.iter().find(|damage| damage.hash == *hash).unwrap();
    assert_eq!(report.damages.len(), 2);
    let child = of(absent.hash());
    assert_eq!(
        (child.file.as_str(), child.needed_by.as_deref().unwrap()),
        ("journal-00000001", &["heads/main".to_owned()][..])
    );
    assert!(child.what.contains(&names_it.hash().to_string()), "{}", child.what);
    assert_eq!(of(gone.hash()).needed_by.as_deref().unwrap(), ["tags/v1"]);
}

#[test]
fn what_breaks_a_rule_of_its_kind_is_damage() {
    let store = fill(&Memory::default());
    let bad = *text(5).hash();
    let rule = |chunk: &Chunk| if *chunk.hash() == bad { Err("a rule".to_owned()) } else { Ok(()) };
    let report = fsck::check(&store, &rule).unwrap();
    let found: Vec<_> = report.damages.iter().map(|damage| (damage.hash, damage.what.as_str())).collect();
    assert_eq!(found, [(bad, "a rule")]);
}

#[test]
fn more_damages_than_are_traced_at_once_are_each_traced() {
    let disk = Memory::default();
    let store = fill(&disk);
    (0..200).for_each(|number| drop(damage(&disk, number)));
    let report = check(&store);
    assert_eq!(report.damages.len(), 200);
    for damage in &report.damages {
        let number = (0..200).find(|number| *text(*number).hash() == damage.hash).unwrap();
        let side = ["heads/even", "heads/odd"][number % 2];
        assert_eq!(damage.needed_by.as_deref().unwrap(), ["heads/all", side]);
    }
}

#[test]
fn a_repair_brings_back_what_the_source_has_and_names_what_it_lacks() {
    let disk = Memory::default();
    let store = fill(&disk);
    let sound = fill(&Memory::default());
    let (bad, lacking) = (*text(7).hash(), *text(300).hash());
    damage(&disk, 7);
    damage(&disk, 300);
    let report = check(&store);
    let source = |hash: &Hash| if *hash == lacking { Ok(None) } else { sound.get(hash) };
    let repaired = fsck::repair(&store, &report.damages, &fine, &source).unwrap();
    assert_eq!((repaired.chunks, repaired.lacking.as_slice()), (1, &[lacking][..]));
    let still: Vec<Hash> = check(&store).damages.iter().map(|damage| damage.hash).collect();
    assert_eq!(still, [lacking]);
    fsck::repair(&store, &check(&store).damages, &fine, &|hash| sound.get(hash)).unwrap();
    assert_eq!(check(&store).damages, []);
    drop(store);
    let store = Store::open_with_io(Arc::new(disk.clone()), Options::default()).unwrap();
    assert_eq!(check(&store).damages, [], "what was written anew is what is found after opening");
    assert_eq!(store.get(&bad).unwrap().unwrap(), text(7));
}

#[test]
fn a_repair_brings_what_is_missing_under_what_is_missing_children_first() {
    let sound = fill(&Memory::default());
    let root = sound.get_ref("heads/all").unwrap();
    let store = Store::memory(Options::default());
    append(&store, &[], &[update("heads/all", None, Some(root))]).wait().unwrap();
    let damages = check(&store).damages;
    assert_eq!(damages.len(), 1, "nothing is known of what lies below");
    let lacking = *text(4).hash();
    let source = |hash: &Hash| if *hash == lacking { Ok(None) } else { sound.get(hash) };
    let repaired = fsck::repair(&store, &damages, &fine, &source).unwrap();
    assert_eq!(repaired.lacking.len(), 3, "a leaf, and the two that cannot be whole without it");
    assert!(!store.contains(&root), "what is there is closed");
    let repaired = fsck::repair(&store, &damages, &fine, &|hash| sound.get(hash)).unwrap();
    assert_eq!((repaired.chunks, store.stats().chunks), (3, LEAVES as u64 + 3));
    assert_eq!(check(&store).damages, []);
}
