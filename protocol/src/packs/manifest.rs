//! What lies in the objects of the log: their keys and bytes, here and nowhere else.
//!
//! ```text
//! manifest = magic ‖ version ‖ body ‖ hash
//!
//! magic    8 bytes   "pleachRM"
//! version  4 bytes   1, little-endian
//! body               the message `Manifest` of proto/pleach/remote/v1/manifest.proto
//! hash     32 bytes  BLAKE3-256 of all before
//!
//! key      "manifest/" name "/" high "/" low
//! name     32 hex digits, the remote's own, from its `format`
//! high low 17 and 3 digits, together 2^64 − 1 − number: so the key of the head is the first, and no directory is long
//! ```
//! The next manifest says the hash of the whole object as its `previous`, and so the log cannot be another without the next write
//! noticing.
//!
//! A *pack* is records as `record` describes them, end to end, and nothing else: `b3sum` of it is the hash in its key.
//!
//! ```text
//! key      "pack/" made "-" hash      20 digits: the manifest that it was made for; 64 hex digits: BLAKE3-256 of its bytes
//! ```

use bytes::Bytes;
use pleach_engine::Hash;
use prost::Message as _;

use crate::codec::field;
use crate::error::{Error, Result, within};
use crate::limits::{MANIFEST_BYTES_MAX, PACK_BYTES_MAX, REFS_MAX};
use crate::proto::remote as proto;
use crate::random;
use crate::refs::{check_kept_name, hash_from};

const MAGIC: &[u8; 8] = b"pleachRM";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 12;

/// Every ref and every pack in a manifest has at least a hash and a name or a length. What has fewer bytes for each is none, and is not read:
/// so that a manifest takes no more than some times its bytes when it is.
const ITEM_BYTES_MIN: usize = 40;

/// The field of a manifest whose own fields repeat.
const FULL: u64 = 10;

/// Fields that do not repeat, in a manifest and in its `full`, and some that others may have added.
const FIELDS_ONCE: usize = 32;

/// No log is ever so long; below it, numbers can be counted on without a care.
const NUMBER_END: u64 = 1 << 48;

/// Where manifests lie.
pub(super) const MANIFESTS: &str = "manifest/";
/// Where packs lie.
pub(super) const PACKS: &str = "pack/";

/// The random name of a remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name(pub(super) [u8; 16]);

impl Name {
    pub(super) fn parse(text: &str) -> Option<Name> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = u128::from_str_radix(text, 16).ok().filter(|_| is_hex)?;
        Some(Name(number.to_be_bytes()))
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&random::to_hex(&self.0))
    }
}

/// Where the manifests of the remote `name` lie.
pub(super) fn prefix(name: &Name) -> String {
    format!("{MANIFESTS}{name}/")
}

/// The key of manifest `number`.
pub(super) fn key(name: &Name, number: u64) -> String {
    let down = format!("{:020}", u64::MAX - number);
    let (high, low) = down.split_at(17);
    format!("{}{high}/{low}", prefix(name))
}

/// The remote and the number that a key of a manifest says.
pub(super) fn parse_key(key: &str) -> Option<(Name, u64)> {
    let (name, number) = key.strip_prefix(MANIFESTS)?.split_once('/')?;
    let (high, low) = number.split_once('/')?;
    let digits = |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(high, 17) || !digits(low, 3) {
        return None;
    }
    let number = u64::MAX - format!("{high}{low}").parse::<u64>().ok()?;
    Some((Name::parse(name)?, number)).filter(|_| number < NUMBER_END)
}

/// One manifest, checked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Manifest {
    pub(super) number: u64,
    /// Hash of the whole object before; `None` for number 0.
    pub(super) previous: Option<Hash>,
    pub(super) millis: i64,
    pub(super) format_digest: u64,
    pub(super) changes: Vec<Change>,
    pub(super) packs: Vec<Pack>,
    pub(super) refs_digest: Hash,
    pub(super) full: Option<Full>,
}

/// How one ref differs from what it was in the manifest before.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    pub(super) name: String,
    pub(super) old: Option<Hash>,
    pub(super) new: Option<Hash>,
    pub(super) forced: bool,
}

/// Recorded records, inline or in an object of their own.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pack {
    pub(super) made: u64,
    pub(super) hash: Hash,
    pub(super) bytes: u64,
    pub(super) records: u64,
    pub(super) last: u64,
    pub(super) inline: Option<Bytes>,
}

/// Everything that was before, so that nobody who begins here reads older manifests.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Full {
    /// All refs after the manifest.
    pub(super) refs: Vec<(String, Hash)>,
    /// The packs before those of the manifest itself.
    pub(super) packs: Vec<Pack>,
    /// Packs that are named no more, and since when.
    pub(super) retired: Vec<(Pack, i64)>,
    /// Manifests below this number are tombstones.
    pub(super) trimmed: u64,
}

/// What an object of the log is.
#[derive(Debug)]
pub(super) enum Entry {
    /// A manifest, and the hash of its whole object.
    Manifest(Box<Manifest>, Hash),
    /// It was a manifest; nobody needs it.
    Tombstone,
}

impl Pack {
    pub(super) fn key(&self) -> String {
        format!("{PACKS}{:020}-{}", self.made, self.hash)
    }

    /// Whether these are the bytes that the manifest names.
    pub(super) fn is(&self, bytes: &[u8]) -> bool {
        bytes.len() as u64 == self.bytes && Hash::of(bytes) == self.hash
    }

    fn to_proto(&self) -> proto::Pack {
        proto::Pack {
            made: self.made,
            hash: to_bytes(&self.hash),
            bytes: self.bytes,
            records: self.records,
            last: self.last,
            inline: self.inline.clone().unwrap_or_default(),
        }
    }

    fn from_proto(pack: proto::Pack, number: u64) -> Result<Pack> {
        let inline = (!pack.inline.is_empty()).then_some(pack.inline);
        within("bytes of a pack", usize::try_from(pack.bytes).unwrap_or(usize::MAX), PACK_BYTES_MAX)?;
        let pack = Pack {
            made: pack.made,
            hash: hash_from(&pack.hash, "hash of a pack")?,
            bytes: pack.bytes,
            records: pack.records,
            last: pack.last,
            inline,
        };
        let is_whole = pack.inline.as_ref().is_none_or(|inline| pack.is(inline));
        if pack.made > number || pack.last > number || pack.records > pack.bytes || !is_whole {
            return Err(Error::protocol("it names a pack that cannot be"));
        }
        Ok(pack)
    }
}

impl Manifest {
    /// The bytes of its object. Two calls never give the same.
    ///
    /// # Errors
    /// [`Error::Limit`], if it is too large to be read again.
    pub(super) fn encode(&self) -> Result<Bytes> {
        let full = self.full.as_ref().map(|full| proto::Full {
            refs: full
                .refs
                .iter()
                .map(|(name, hash)| proto::Ref { name: name.clone(), hash: to_bytes(hash) })
                .collect(),
            packs: full.packs.iter().map(Pack::to_proto).collect(),
            retired: full
                .retired
                .iter()
                .map(|(pack, millis)| proto::Retired { pack: Some(pack.to_proto()), millis: *millis })
                .collect(),
            trimmed: full.trimmed,
        });
        let changes = self.changes.iter().map(|change| proto::Change {
            name: change.name.clone(),
            old: change.old.as_ref().map(to_bytes).unwrap_or_default(),
            new: change.new.as_ref().map(to_bytes).unwrap_or_default(),
            forced: change.forced,
        });
        let body = proto::Manifest {
            number: self.number,
            previous: self.previous.as_ref().map(to_bytes).unwrap_or_default(),
            writer: Bytes::copy_from_slice(&random::sixteen()),
            millis: self.millis,
            format_digest: self.format_digest,
            tombstone: false,
            changes: changes.collect(),
            packs: self.packs.iter().map(Pack::to_proto).collect(),
            refs_digest: to_bytes(&self.refs_digest),
            full,
        };
        let object = enclose(&body);
        within("bytes of a manifest", object.len(), MANIFEST_BYTES_MAX)?;
        Ok(object)
    }
}

/// The bytes of a manifest that is needed no more.
pub(super) fn tombstone(number: u64) -> Bytes {
    enclose(&proto::Manifest { number, tombstone: true, ..proto::Manifest::default() })
}

fn enclose(body: &proto::Manifest) -> Bytes {
    let mut object = Vec::with_capacity(HEAD_BYTES + body.encoded_len() + Hash::LEN);
    object.extend_from_slice(MAGIC);
    object.extend_from_slice(&VERSION.to_le_bytes());
    object.extend_from_slice(&body.encode_to_vec());
    let hash = Hash::of(&object);
    object.extend_from_slice(hash.as_bytes());
    Bytes::from(object)
}

/// Reads the object of manifest `number`.
///
/// # Errors
/// [`Error::OtherFormat`], or what is wrong with it as [`Error::Protocol`] and [`Error::Limit`].
pub(super) fn decode(object: &Bytes, number: u64) -> Result<Entry> {
    let Some(end) = object.len().checked_sub(Hash::LEN).filter(|end| *end >= HEAD_BYTES) else {
        return Err(Error::protocol(format!("it has {} bytes, which is too short", object.len())));
    };
    if object[..MAGIC.len()] != MAGIC[..] {
        return Err(Error::protocol("it does not begin as a manifest does"));
    }
    if Hash::of(&object[..end]).as_bytes()[..] != object[end..] {
        return Err(Error::protocol("its bytes do not hash to what stands at their end"));
    }
    let version =
        object[MAGIC.len()..HEAD_BYTES].iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
    if version != VERSION {
        return Err(Error::OtherFormat { what: format!("a manifest of version {version}"), known: VERSION });
    }
    let most = (end - HEAD_BYTES) / ITEM_BYTES_MIN + FIELDS_ONCE;
    within("fields of a manifest", fields(&object[HEAD_BYTES..end], true), most)?;
    let body = proto::Manifest::decode(object.slice(HEAD_BYTES..end))
        .map_err(|error| Error::protocol(format!("its body cannot be read: {error}")))?;
    if body.number != number {
        return Err(Error::protocol(format!("it says that it is number {}", body.number)));
    }
    if body.tombstone {
        return Ok(Entry::Tombstone);
    }
    Ok(Entry::Manifest(Box::new(from_proto(body)?), Hash::of(object)))
}

/// How many fields a manifest has, and those in what it lists; no fewer than are there.
fn fields(mut body: &[u8], is_outer: bool) -> usize {
    let mut count = 0;
    while let Some((tag, inside)) = field(&mut body) {
        let inner = if is_outer && tag == FULL << 3 | 2 { fields(inside, false) } else { 0 };
        count += 1 + inner;
    }
    count
}

fn from_proto(body: proto::Manifest) -> Result<Manifest> {
    let number = body.number;
    let pack = |pack| Pack::from_proto(pack, number);
    let previous = optional(&body.previous)?;
    if previous.is_none() != (number == 0) {
        return Err(Error::protocol("only the first manifest has none before"));
    }
    within("refs in a manifest", body.changes.len(), REFS_MAX)?;
    let mut changes = Vec::with_capacity(body.changes.len());
    for change in body.changes {
        check_kept_name(&change.name)?;
        let (old, new) = (optional(&change.old)?, optional(&change.new)?);
        changes.push(Change { name: change.name, old, new, forced: change.forced });
    }
    let full = body.full.map(|full| from_full(full, number)).transpose()?;
    Ok(Manifest {
        number,
        previous,
        millis: body.millis,
        format_digest: body.format_digest,
        changes,
        packs: body.packs.into_iter().map(pack).collect::<Result<_>>()?,
        refs_digest: hash_from(&body.refs_digest, "refs_digest")?,
        full,
    })
}

fn from_full(full: proto::Full, number: u64) -> Result<Full> {
    within("refs in a manifest", full.refs.len(), REFS_MAX)?;
    let mut refs = Vec::with_capacity(full.refs.len());
    for one in full.refs {
        check_kept_name(&one.name)?;
        refs.push((one.name, hash_from(&one.hash, "hash")?));
    }
    let pack = |pack| Pack::from_proto(pack, number);
    let retired = |retired: proto::Retired| Ok((pack(retired.pack.unwrap_or_default())?, retired.millis));
    Ok(Full {
        refs,
        packs: full.packs.into_iter().map(pack).collect::<Result<_>>()?,
        retired: full.retired.into_iter().map(retired).collect::<Result<_>>()?,
        trimmed: full.trimmed,
    })
}

fn to_bytes(hash: &Hash) -> Bytes {
    Bytes::copy_from_slice(hash.as_bytes())
}

fn optional(bytes: &Bytes) -> Result<Option<Hash>> {
    if bytes.is_empty() { Ok(None) } else { hash_from(bytes, "hash").map(Some) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn manifest() -> Manifest {
        let pack = |inline: &'static [u8]| Pack {
            made: 3,
            hash: Hash::of(inline),
            bytes: inline.len() as u64,
            records: 2,
            last: 4,
            inline: Some(Bytes::from_static(inline)),
        };
        let away = Pack { inline: None, ..pack(b"away") };
        let hash = |text: &str| Hash::of(text.as_bytes());
        Manifest {
            number: 5,
            previous: Some(hash("before")),
            millis: 1_000,
            format_digest: 7,
            changes: vec![Change {
                name: "heads/main".into(),
                old: Some(hash("old")),
                new: None,
                forced: true,
            }],
            packs: vec![pack(b"records"), away.clone()],
            refs_digest: hash("refs"),
            full: Some(Full {
                refs: vec![("recovery/heads/main/5".into(), hash("old"))],
                packs: vec![away.clone()],
                retired: vec![(away, 900)],
                trimmed: 2,
            }),
        }
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let object = manifest().encode().unwrap();
        let Entry::Manifest(read, hash) = decode(&object, 5).unwrap() else { panic!("a manifest") };
        assert_eq!((*read, hash), (manifest(), Hash::of(&object)));
        assert!(matches!(decode(&tombstone(5), 5).unwrap(), Entry::Tombstone));
        assert_ne!(object, manifest().encode().unwrap(), "each writing is another");
    }

    #[test]
    fn the_bytes_of_a_tombstone_are_these() {
        let object = tombstone(300);
        let body = "706c65616368524d".to_owned() + "01000000" + "08ac02" + "3001";
        assert_eq!(random::to_hex(&object[..object.len() - 32]), body);
        assert_eq!(object[object.len() - 32..], Hash::of(&object[..object.len() - 32]).as_bytes()[..]);
    }

    #[test]
    fn no_changed_byte_is_read_as_a_manifest() {
        let object = manifest().encode().unwrap();
        for at in 0..object.len() {
            let mut changed = object.to_vec();
            changed[at] ^= 0x10;
            assert!(decode(&Bytes::from(changed), 5).is_err(), "byte {at}");
            assert!(decode(&object.slice(..at), 5).is_err(), "cut at {at}");
        }
        assert!(decode(&object, 6).is_err(), "under another number");
    }

    #[test]
    fn another_version_is_refused_by_its_number() {
        let mut object = tombstone(1)[..17].to_vec();
        object[8] = 2;
        object.extend_from_slice(Hash::of(&object.clone()).as_bytes());
        let error = decode(&Bytes::from(object), 1).unwrap_err();
        assert!(matches!(error, Error::OtherFormat { .. }), "{error}");
    }

    #[test]
    fn keys_count_down_and_are_read_back() {
        let name = Name([0xab; 16]);
        assert_eq!(key(&name, 0), "manifest/abababababababababababababababab/18446744073709551/615");
        let numbers = [0, 1, 615, 616, 1615, NUMBER_END - 1];
        for pair in numbers.windows(2) {
            assert!(key(&name, pair[1]) < key(&name, pair[0]));
        }
        for number in numbers {
            assert_eq!(parse_key(&key(&name, number)), Some((name, number)));
        }
        assert_eq!(parse_key(&key(&name, NUMBER_END)), None);
        for bad in
            ["manifest/x/18446744073709551/615", "manifest/abababababababababababababababab/1/615", "pack/1"]
        {
            assert_eq!(parse_key(bad), None);
        }
    }
}
