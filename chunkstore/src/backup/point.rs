//! Points in time as chunks.
//!
//! ```text
//! ref backup-of/ID       → source: kind 255, level 2, body = the 16 bytes of ID, which is a store's identity in hexadecimal digits
//! ref backups/TIME       → point:  kind 255, level 1, body = addresses of its pages (the run) · source 16 · bytes u64, those of new chunks
//!             of several stores:   kind 255, level 3, body = addresses of its pages (the run) · bytes u64 · for each store: length u16 · name · source 16
//! a page of a point:               kind 255, level 0, body = what its refs name (the run) · for each ref: length u16 · name
//! ```
//! TIME is RFC 3339, UTC, in microseconds, so that names sort by time. Integers are little-endian. Pages hold refs in the order of their
//! names; one ends behind a name whose hash says so, so that a ref that moves changes one page. In a point of several stores a ref is called
//! STORE/NAME; the names of stores, in order, have no `/`.

use std::collections::BTreeMap;

use crate::bytes::Fields;
use crate::chunk::Chunk;
use crate::hash::Hash;

/// The kind of the chunks that a backup adds to those of its source.
pub const KIND: u8 = 255;
const PAGE: u8 = 0;
pub(super) const POINT: u8 = 1;
pub(super) const SOURCE: u8 = 2;
pub(super) const POINT_OF_SEVERAL: u8 = 3;

/// A page ends behind one in so many names, by hash, and after so many at the latest.
const PAGE_REFS_MEAN: u8 = 64;
const PAGE_REFS_MAX: usize = 1024;

/// The refs of a store at one moment, by name.
pub type Refs = BTreeMap<String, Hash>;

/// What a point in time is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Of {
    /// One store, with its identity.
    One([u8; 16]),
    /// Several stores, by name, with their identities. The names of their refs begin with theirs, and a `/`.
    Several(BTreeMap<String, [u8; 16]>),
}

impl Of {
    /// Whether both are of one store, or both of several; else what they are of, for people.
    pub(super) fn differs(&self, other: &Of) -> Option<[&'static str; 2]> {
        let word = |of: &Of| match of {
            Of::One(_) => "one store",
            Of::Several(_) => "several stores",
        };
        (word(self) != word(other)).then(|| [word(self), word(other)])
    }
}

/// A point in time that a backup keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// When, as in the name of its ref.
    pub time: String,
    /// The refs of the source at that moment.
    pub refs: Refs,
    /// What it is a point of.
    pub of: Of,
    /// Bytes written for the chunks that the backup did not have.
    pub bytes: u64,
}

impl Point {
    /// Equal for equal states: see [`digest`].
    pub fn digest(&self) -> Hash {
        digest(&self.refs)
    }

    /// The stores of a point of several, by name, each as a point of it alone. Of their bytes only those of all together are known.
    pub fn stores(&self) -> BTreeMap<String, Point> {
        let Of::Several(stores) = &self.of else { return BTreeMap::new() };
        let alone = |(name, source): (&String, &[u8; 16])| {
            let prefix = format!("{name}/");
            let from = self.refs.range(prefix.clone()..);
            let own = from.map_while(|(full, hash)| Some((full.strip_prefix(&prefix)?.to_owned(), *hash)));
            let (time, refs, of) = (self.time.clone(), own.collect(), Of::One(*source));
            (name.clone(), Point { time, refs, of, bytes: self.bytes })
        };
        stores.iter().map(alone).collect()
    }
}

/// The hash of a state: BLAKE3 of, for each ref by name, the length of its name as four bytes little-endian, the name, the hash.
pub fn digest(refs: &Refs) -> Hash {
    let mut bytes = Vec::new();
    for (name, hash) in refs {
        bytes.extend((name.len() as u32).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(hash.as_bytes());
    }
    Hash::of(&bytes)
}

pub(super) fn encode_pages(refs: &Refs) -> Vec<Chunk> {
    let mut pages = Vec::new();
    let (mut addresses, mut names, mut count) = (Vec::new(), Vec::new(), 0);
    let mut left = refs.len();
    for (name, hash) in refs {
        addresses.extend(hash.as_bytes());
        names.extend((name.len() as u16).to_le_bytes());
        names.extend(name.as_bytes());
        (count, left) = (count + 1, left - 1);
        let ends = Hash::of(name.as_bytes()).as_bytes()[0].is_multiple_of(PAGE_REFS_MEAN);
        if ends || left == 0 || count == PAGE_REFS_MAX {
            let body = [&addresses[..], &names].concat();
            pages.push(Chunk::build(KIND, PAGE, &body, Some((0, count as u32)), &[], 0));
            (addresses, names, count) = Default::default();
        }
    }
    pages
}

pub(super) fn decode_page(chunk: &Chunk) -> Option<Vec<(String, Hash)>> {
    let only_a_run = chunk.run().len() == Hash::LEN * chunk.child_count() && chunk.weak_count() == 0;
    if (chunk.kind(), chunk.level()) != (KIND, PAGE) || !only_a_run || !chunk.body().starts_with(chunk.run())
    {
        return None;
    }
    let mut fields = Fields::new(&chunk.body()[chunk.run().len()..]);
    let mut refs = Vec::with_capacity(chunk.child_count());
    for hash in chunk.children() {
        let len = u16::from_le_bytes(fields.array()?);
        let name = std::str::from_utf8(fields.take(usize::from(len))?).ok()?;
        refs.push((name.to_owned(), hash));
    }
    (fields.left() == 0).then_some(refs)
}

pub(super) fn encode_point(pages: &[Chunk], of: &Of, bytes: u64) -> Chunk {
    let mut body: Vec<u8> = pages.iter().flat_map(|page| *page.hash().as_bytes()).collect();
    let level = match of {
        Of::One(source) => {
            body.extend(source);
            body.extend(bytes.to_le_bytes());
            POINT
        }
        Of::Several(stores) => {
            body.extend(bytes.to_le_bytes());
            for (name, source) in stores {
                body.extend((name.len() as u16).to_le_bytes());
                body.extend(name.as_bytes());
                body.extend(source);
            }
            POINT_OF_SEVERAL
        }
    };
    Chunk::build(KIND, level, &body, Some((0, pages.len() as u32)), &[], 0)
}

pub(super) fn decode_point(chunk: &Chunk) -> Option<(Of, u64)> {
    let only_a_run = chunk.run().len() == Hash::LEN * chunk.child_count() && chunk.weak_count() == 0;
    if chunk.kind() != KIND || !only_a_run || !chunk.body().starts_with(chunk.run()) {
        return None;
    }
    let mut fields = Fields::new(&chunk.body()[chunk.run().len()..]);
    let point = match chunk.level() {
        POINT => (Of::One(fields.array()?), fields.u64()?),
        POINT_OF_SEVERAL => {
            let bytes = fields.u64()?;
            let mut stores: BTreeMap<String, [u8; 16]> = BTreeMap::new();
            while fields.left() > 0 {
                let len = u16::from_le_bytes(fields.array()?);
                let name = std::str::from_utf8(fields.take(usize::from(len))?).ok()?;
                let is_next = stores.keys().next_back().is_none_or(|last| last.as_str() < name);
                if !is_next || name.is_empty() || name.contains('/') {
                    return None;
                }
                stores.insert(name.to_owned(), fields.array()?);
            }
            (Of::Several(stores), bytes)
        }
        _ => return None,
    };
    (fields.left() == 0).then_some(point)
}

/// Whether a chunk of a backup's own kind is one.
pub(super) fn check(chunk: &Chunk) -> Result<(), String> {
    let good = match chunk.level() {
        PAGE => decode_page(chunk).is_some(),
        POINT | POINT_OF_SEVERAL => decode_point(chunk).is_some(),
        SOURCE => chunk.body().len() == 16 && chunk.child_count() == 0,
        _ => false,
    };
    if good { Ok(()) } else { Err("expected a point of a backup, a page of one, or its source".to_owned()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::bytes::tests::hex;

    #[test]
    fn golden_bytes_of_a_page() {
        let refs = Refs::from([("heads/main".into(), Hash::of(b"a")), ("work/main".into(), Hash::of(b"b"))]);
        let pages = encode_pages(&refs);
        let addresses = format!("{}{}", Hash::of(b"a"), Hash::of(b"b"));
        let header = "01ff0000 00000000 02000000 0000 0000";
        let names = "0a00 68656164732f6d61696e 0900 776f726b2f6d61696e";
        assert_eq!(pages.len(), 1);
        assert_eq!(hex(pages[0].bytes()), format!("{header}{addresses}{names}").replace(' ', ""));
        assert_eq!(decode_page(&pages[0]).unwrap().into_iter().collect::<Refs>(), refs);
    }

    #[test]
    fn golden_bytes_of_a_point_of_several_stores() {
        let of = Of::Several(BTreeMap::from([("b".to_owned(), [1; 16]), ("shop".to_owned(), [2; 16])]));
        let page = encode_pages(&Refs::from([("shop/heads/main".into(), Hash::of(b"a"))])).remove(0);
        let point = encode_point(std::slice::from_ref(&page), &of, 7);
        let header = "01ff0300 00000000 01000000 0000 0000";
        let rest = format!("0700000000000000 0100 62 {} 0400 73686f70 {}", "01".repeat(16), "02".repeat(16));
        assert_eq!(hex(point.bytes()), format!("{header}{}{rest}", page.hash()).replace(' ', ""));
        assert_eq!(decode_point(&point), Some((of.clone(), 7)));
        let refs = decode_page(&page).unwrap().into_iter().collect();
        let stores = Point { time: String::new(), refs, of, bytes: 7 }.stores();
        assert_eq!((&stores["b"].refs, &stores["b"].of), (&Refs::new(), &Of::One([1; 16])));
        assert_eq!(stores["shop"].refs, Refs::from([("heads/main".into(), Hash::of(b"a"))]));
    }

    #[test]
    fn a_ref_that_moves_changes_one_page_of_many() {
        let name = |number: u32| format!("heads/branch-{number}");
        let mut refs: Refs =
            (0..5000).map(|number| (name(number), Hash::of(&number.to_le_bytes()))).collect();
        let before: Vec<Hash> = encode_pages(&refs).iter().map(|page| *page.hash()).collect();
        assert!((40..160).contains(&before.len()), "{} pages", before.len());
        refs.insert(name(77), Hash::of(b"moved"));
        refs.remove(&name(4000));
        let after = encode_pages(&refs);
        assert!(after.iter().filter(|page| !before.contains(page.hash())).count() <= 2);
    }

    #[test]
    fn what_breaks_the_layout_is_refused() {
        let page = encode_pages(&Refs::from([("a".into(), Hash::of(b"a"))])).remove(0);
        assert_eq!(check(&page), Ok(()));
        let of = |level, body: &[u8], count| Chunk::build(KIND, level, body, Some((0, count)), &[], 0);
        let body = page.body();
        let several = |stores: &[u8]| of(POINT_OF_SEVERAL, &[&[0; 8], stores].concat(), 0);
        assert_eq!(check(&several(b"\x01\x00aAAAAAAAAAAAAAAAA")), Ok(()));
        for (bad, why) in [
            (of(PAGE, &body[..body.len() - 1], 1), "a name that is cut"),
            (of(PAGE, &[body, b"x"].concat(), 1), "bytes behind the names"),
            (of(PAGE, body, 0), "names without addresses"),
            (of(POINT, body, 1), "a point without its figures"),
            (of(SOURCE, body, 1), "a source with a child"),
            (of(4, body, 1), "an unknown level"),
            (several(b"\x01\x00bBBBBBBBBBBBBBBBB\x01\x00aAAAAAAAAAAAAAAAA"), "stores out of order"),
            (several(b"\x03\x00a/bAAAAAAAAAAAAAAAA"), "a store with a /"),
            (several(b"\x01\x00aAAAAAAAAAAAAAAA"), "a store that is cut"),
            (
                Chunk::build(KIND, PAGE, &[&[0; 32], body].concat(), Some((32, 1)), &[0], 0),
                "an address by itself",
            ),
        ] {
            assert!(check(&bad).is_err(), "{why}");
        }
    }
}
