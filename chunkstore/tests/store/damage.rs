//! Bytes that changed, files that were cut or swapped: an error or the right bytes, never anything else.

use std::sync::Arc;

use pleach_chunkstore::io::memory::Memory;
use pleach_chunkstore::testing::Image;
use pleach_chunkstore::{Chunk, Error, Options, Store};

use crate::basics::{append, leaf, update};

fn options() -> Options {
    Options { journal_bytes: 900, background: false, cache_bytes: 0, ..Options::default() }
}

fn open(image: &Image) -> Result<Store, Error> {
    Store::open_with_io(Arc::new(Memory::holding(image.clone())), options())
}

fn text(number: usize) -> Chunk {
    leaf(&format!("{number:03} {}", "what a leaf says ".repeat(12)))
}

/// A store with `count` appends; the files as they are before it is closed, and after.
fn store_with(count: usize) -> (Vec<Chunk>, Image, Image) {
    let disk = Memory::default();
    let store = Store::create_with_io(Arc::new(disk.clone()), options()).unwrap();
    let mut chunks: Vec<Chunk> = Vec::new();
    for number in 0..count {
        let (chunk, base) = (text(number), chunks.last().map(|base| *base.hash()));
        let moved = update("heads/main", base, Some(*chunk.hash()));
        append(&store, &[(chunk.clone(), base)], &[moved]).wait().unwrap();
        chunks.push(chunk);
    }
    let before = disk.files();
    store.close().unwrap();
    (chunks, before, disk.files())
}

#[test]
fn a_torn_tail_is_cut_and_appending_goes_on() {
    let (chunks, before, _) = store_with(2);
    let (_, short, _) = store_with(1);
    let name = "journal-00000001";
    let start = short[name].len();
    for len in start..before[name].len() {
        let mut torn = before.clone();
        torn.get_mut(name).unwrap().truncate(len);
        // The watermark is from before the second append, as it may be after a power cut.
        torn.remove("watermark");
        for filler in [None, Some(0), Some(0xa5)] {
            let mut torn = torn.clone();
            if let Some(byte) = filler {
                torn.get_mut(name).unwrap().resize(before[name].len(), byte);
            }
            let disk = Memory::holding(torn);
            let store = Store::open_with_io(Arc::new(disk.clone()), options()).unwrap();
            assert_eq!((store.sequence(), store.contains(chunks[1].hash())), (1, false), "cut at {len}");
            let kept = disk.files()[name].clone();
            let change = update("heads/main", Some(*chunks[0].hash()), Some(*chunks[1].hash()));
            append(&store, &[(chunks[1].clone(), None)], &[change]).wait().unwrap();
            if len > start {
                assert_eq!(disk.files()[name], kept, "a torn tail is never overwritten");
            }
            drop(store);
            let store = open(&disk.files()).unwrap();
            assert_eq!(store.get(chunks[1].hash()).unwrap().unwrap().bytes(), chunks[1].bytes());
        }
    }
}

#[test]
fn a_journal_cut_below_the_watermark_is_damage_and_no_torn_tail() {
    let (_, _, image) = store_with(2);
    let name = "journal-00000001";
    for len in 0..image[name].len() {
        let mut cut = image.clone();
        cut.get_mut(name).unwrap().truncate(len);
        match open(&cut).map(|_| ()) {
            Err(Error::Damaged { file, .. }) => assert_eq!(file, name, "cut at {len}"),
            other => panic!("cut at {len}: {other:?}"),
        }
    }
}

#[test]
fn damage_before_a_later_group_is_no_torn_tail_even_without_the_watermark() {
    let (_, mut image, _) = store_with(3);
    let (_, short, _) = store_with(1);
    image.remove("watermark");
    let name = "journal-00000001";
    let first = short[name].len() - 20;
    image.get_mut(name).unwrap()[first] ^= 1;
    assert!(matches!(open(&image), Err(Error::Damaged { .. })));
}

#[test]
fn a_missing_or_empty_file_is_damage_and_never_a_new_store() {
    let (chunks, _, image) = store_with(8);
    for name in image.keys().filter(|name| *name != "watermark") {
        for emptied in [false, true] {
            let mut lacking = image.clone();
            match emptied {
                true => lacking.get_mut(name).unwrap().clear(),
                false => drop(lacking.remove(name)),
            }
            assert!(matches!(open(&lacking), Err(Error::Damaged { .. })), "{name}");
            let disk = Arc::new(Memory::holding(lacking));
            assert!(
                matches!(Store::create_with_io(disk, options()), Err(Error::AlreadyExists { .. })),
                "{name}"
            );
        }
    }
    let mut without_watermark = image.clone();
    without_watermark.remove("watermark");
    assert!(open(&without_watermark).unwrap().contains(chunks[0].hash()));
}

#[test]
fn swapped_and_foreign_files_are_refused() {
    let (_, _, image) = store_with(8);
    let (_, _, foreign) = store_with(8);
    for name in image.keys().filter(|name| name.starts_with("journal-")) {
        let mut mixed = image.clone();
        mixed.insert(name.clone(), foreign[name].clone());
        assert!(matches!(open(&mixed), Err(Error::Damaged { .. })), "{name} of another store");
    }
    let mut swapped = image.clone();
    swapped.insert("journal-00000001".into(), image["journal-00000002"].clone());
    assert!(matches!(open(&swapped), Err(Error::Damaged { .. })));
}

#[test]
fn an_old_manifest_beside_newer_journals_is_refused() {
    let (_, _, old) = store_with(1);
    let disk = Memory::holding(old.clone());
    let store = Store::open_with_io(Arc::new(disk.clone()), options()).unwrap();
    for number in 10..18 {
        append(&store, &[(text(number), None)], &[]).wait().unwrap();
    }
    store.close().unwrap();
    let mut mixed = disk.files();
    mixed.insert("manifest".into(), old["manifest"].clone());
    assert!(matches!(open(&mixed), Err(Error::Damaged { .. })));
    // The journals alone tell it, too.
    mixed.insert("watermark".into(), old["watermark"].clone());
    assert!(matches!(open(&mixed), Err(Error::Damaged { .. })));
}
