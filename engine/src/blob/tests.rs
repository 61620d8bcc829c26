#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::io::{Read as _, Seek, SeekFrom};

use pleach_chunkstore::{Options, Store};
use proptest::prelude::{
    ProptestConfig, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest,
};

use super::*;

/// Bytes that look random and are always the same.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = |state: &mut u32| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*state >> 24) as u8
    };
    (0..len).map(|_| next(&mut state)).collect()
}

#[test]
fn golden_cuts_and_list_of_a_blob() {
    // Where values are cut, and so which chunks they share with their other versions, changed if this fails.
    let mut writer = Writer::new(&Store::memory(Options::default()));
    let value = noise(100_000);
    let stored = store(&mut writer, 1024, &value).unwrap();
    let stored = Stored { tag: stored.tag, bytes: &stored.bytes };
    let (address, len) = blob_address(stored).unwrap();
    assert_eq!(len, 100_000);
    let list = writer.chunk(&address).unwrap();
    let lengths: Vec<u32> = list.body()[list.run().len()..]
        .chunks_exact(4)
        .map(|len| u32::from_le_bytes([len[0], len[1], len[2], len[3]]))
        .collect();
    assert_eq!(lengths, [21856, 4280, 6336, 32886, 22051, 12591]);
    assert_eq!(load(&writer, stored).unwrap(), value);
    check(&list).unwrap();
}

#[test]
fn a_list_that_says_more_than_a_value_may_hold_is_refused_unread() {
    let writer = Writer::new(&Store::memory(Options::default()));
    let mut bytes = vec![0; 32];
    bytes.extend_from_slice(&(VALUE_BYTES_MAX as u64 + 1).to_le_bytes());
    let refused = load(&writer, Stored { tag: Tag::Blob, bytes: &bytes });
    assert!(matches!(refused, Err(Error::Malformed { .. })));
}

#[test]
fn an_insertion_near_the_start_rewrites_a_piece_or_two() {
    let database = Store::memory(Options::default());
    let mut value = noise(1_000_000);
    let pieces = |value: &[u8]| {
        let mut writer = Writer::new(&database);
        let stored = store(&mut writer, 1024, value).unwrap();
        let (address, _) = blob_address(Stored { tag: stored.tag, bytes: &stored.bytes }).unwrap();
        writer.chunk(&address).unwrap().children().collect::<std::collections::HashSet<_>>()
    };
    let before = pieces(&value);
    value.insert(5_000, 7);
    let new = pieces(&value).difference(&before).count();
    assert!(new <= 3, "{new} of {} pieces are new", before.len());
}

fn memory() -> Writer {
    Writer::new(&Store::memory(Options::default()))
}

fn stored(value: &Value) -> Stored<'_> {
    Stored { tag: value.tag, bytes: &value.bytes }
}

/// Values of bytes that are cut by content, and of bytes that are cut at the greatest length.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![1 => 0_usize..2_000, 3 => 2_000_usize..400_000];
    (len, any::<bool>()).prop_map(|(len, flat)| if flat { vec![3; len] } else { noise(len) })
}

/// Where to change: anywhere, or right at a cut.
#[derive(Debug, Clone)]
enum Place {
    Anywhere(prop::sample::Index),
    NearCut(prop::sample::Index, i64),
}

impl Place {
    fn of(&self, value: &[u8]) -> usize {
        match self {
            Place::Anywhere(index) => index.index(value.len() + 1),
            Place::NearCut(index, by) => {
                let cuts = fastcdc::v2020::FastCDC::new(value, PIECE_MIN, PIECE_MEAN, PIECE_MAX);
                let cuts: Vec<_> = cuts.map(|cut| (cut.offset + cut.length) as i64).collect();
                if cuts.is_empty() {
                    return 0;
                }
                (cuts[index.index(cuts.len())] + by).clamp(0, value.len() as i64) as usize
            }
        }
    }
}

fn place() -> impl Strategy<Value = Place> {
    prop_oneof![
        any::<prop::sample::Index>().prop_map(Place::Anywhere),
        (any::<prop::sample::Index>(), -3_i64..4).prop_map(|(index, by)| Place::NearCut(index, by)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_spliced_value_is_the_one_stored_whole(
        value in value(), from in place(), to in place(), short in any::<bool>(), length in 0_usize..4, new in value(),
    ) {
        let mut writer = memory();
        let old = store(&mut writer, 1024, &value).unwrap();
        let (from, to) = (from.of(&value), to.of(&value));
        let (from, mut to) = (from.min(to), from.max(to));
        let new = if short { &new[..length.min(new.len())] } else { &new[..] };
        if short && length > 1 {
            to = (from + length).min(value.len());
        }
        let spliced = splice(&mut writer, 1024, stored(&old), from as u64..to as u64, new).unwrap();
        let mut whole = value.clone();
        whole.splice(from..to, new.iter().copied());
        prop_assert_eq!(&spliced, &store(&mut writer, 1024, &whole).unwrap());
        prop_assert!(load(&writer, stored(&spliced)).unwrap() == whole);
    }

    #[test]
    fn a_value_cut_off_is_the_one_stored_whole(value in value(), to in place()) {
        let mut writer = memory();
        let old = store(&mut writer, 1024, &value).unwrap();
        let to = to.of(&value);
        let cut_off = splice(&mut writer, 1024, stored(&old), to as u64..value.len() as u64, &[]).unwrap();
        prop_assert_eq!(&cut_off, &store(&mut writer, 1024, &value[..to]).unwrap());
        let again = splice(&mut writer, 1024, stored(&cut_off), to as u64..to as u64, &value[to..]).unwrap();
        prop_assert_eq!(again, old);
    }

    #[test]
    fn a_value_that_streams_in_is_the_one_stored_whole(value in value(), step in 1_usize..70_000) {
        /// Gives no more than a few bytes at a time.
        struct Slow<'a>(&'a [u8], usize);
        impl std::io::Read for Slow<'_> {
            fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
                let most = into.len().min(self.1);
                std::io::Read::read(&mut self.0, &mut into[..most])
            }
        }
        let mut writer = memory();
        let streamed = write(&mut writer, 1024, &mut Slow(&value, step)).unwrap();
        prop_assert_eq!(streamed, store(&mut writer, 1024, &value).unwrap());
    }

    #[test]
    fn any_part_of_a_value_is_read_from_its_pieces(
        value in value(), seeks in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..100_000), 1..6),
    ) {
        let database = Store::memory(Options::default());
        let mut writer = Writer::new(&database);
        let kept = store(&mut writer, 1024, &value).unwrap();
        let _appended = writer.append(&[]).unwrap();
        let mut reader = ValueReader::new(&database, kept).unwrap();
        prop_assert_eq!(reader.len(), value.len() as u64);
        for (at, len) in seeks {
            let at = at.index(value.len() + 10);
            let expected = &value[at.min(value.len())..(at + len).min(value.len())];
            let mut read = Vec::new();
            reader.seek(SeekFrom::Start(at as u64)).unwrap();
            std::io::Read::take(&mut reader, len as u64).read_to_end(&mut read).unwrap();
            prop_assert!(read == expected);
            prop_assert!(reader.range(at as u64..(at + len) as u64).unwrap() == expected);
        }
        reader.seek(SeekFrom::End(0)).unwrap();
        prop_assert_eq!(reader.read(&mut [0; 9]).unwrap(), 0);
        prop_assert!(reader.seek(SeekFrom::End(-(value.len() as i64) - 1)).is_err());
    }
}

#[test]
fn a_part_of_a_value_is_read_without_the_rest() {
    let database = Store::memory(Options::default());
    let mut writer = Writer::new(&database);
    let kept = store(&mut writer, 1024, &noise(10_000_000)).unwrap();
    let _appended = writer.append(&[]).unwrap();
    let loads = || database.stats().cache_hits + database.stats().cache_misses;
    let before = loads();
    let mut reader = ValueReader::new(&database, kept).unwrap();
    reader.range(5_000_000..5_000_010).unwrap();
    assert!(loads() - before <= 3, "{} chunks for the list and ten bytes", loads() - before);
}

#[test]
fn a_piece_that_is_not_as_long_as_its_list_says_is_refused() {
    let mut writer = memory();
    let kept = store(&mut writer, 1024, &noise(100_000)).unwrap();
    let (address, len) = blob_address(stored(&kept)).unwrap();
    let list = writer.chunk(&address).unwrap();
    let mut body = list.body().to_vec();
    let at = list.run().len();
    // One byte moves from the first piece to the second.
    body[at] -= 1;
    body[at + 4] += 1;
    let wrong = Chunk::build(BLOB, 1, &body, Some((0, 6)), &[], 0);
    let hash = *wrong.hash();
    writer.put(wrong, None).unwrap();
    let parts = pieces(&writer, &hash, len).unwrap();
    assert!(matches!(piece(&writer, parts[0]), Err(Error::Malformed { .. })));
    assert!(matches!(pieces(&writer, &hash, len + 1), Err(Error::Malformed { .. })));
    let bytes = [hash.as_bytes().as_slice(), &len.to_le_bytes()].concat();
    let wrong = Value { tag: Tag::Blob, bytes };
    assert!(splice(&mut writer, 1024, stored(&wrong), 10..10, b"x").is_err());
}

#[test]
fn a_range_outside_of_the_value_is_refused() {
    let mut writer = memory();
    for value in [noise(10), noise(100_000)] {
        let kept = store(&mut writer, 1024, &value).unwrap();
        let len = value.len() as u64;
        for range in [len + 1..len + 1, 0..len + 1, std::ops::Range { start: 5, end: 4 }] {
            let refused = splice(&mut writer, 1024, stored(&kept), range, b"x");
            assert!(matches!(refused, Err(Error::OutsideValue { .. })));
        }
    }
}
