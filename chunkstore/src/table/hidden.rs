//! The hidden file: which chunks of tables no longer count.
//!
//! One idea: a collection rewrites only files with enough dead bytes. What it found dead in the others must not be found again, for what is
//! under it may be gone; so it is hidden by a bit, and its bytes go when its table is next rewritten.
//!
//! ```text
//! offset  size  field (little-endian)
//!      0     8  magic     "plchhide"
//!      8     4  version   = 1
//!     12     4  number    of this file, as in its name `hidden-00000009`
//!     16    16  store     the store's identity
//!     32     4  count     of tables
//!     36     …  tables, by number: number u32 · chunks u32 · a bit for each chunk of its index, 1 = hidden, from the lowest bit of each
//!               byte, ceil(chunks / 8) bytes
//!      …    32  checksum  BLAKE3 of all before; its first 16 bytes are in the manifest
//! ```

use std::collections::BTreeMap;

use crate::bytes::Fields;
use crate::error::{Error, Result};
use crate::io::Io;
use crate::journal::{Check, StoreId};
use crate::manifest;

const MAGIC: &[u8; 8] = b"plchhide";
const VERSION: u32 = 1;
const CHECKSUM_BYTES: usize = 32;

/// A bit for each chunk of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bits {
    len: u32,
    bytes: Vec<u8>,
}

impl Bits {
    /// `len` bits, none set.
    pub(crate) fn new(len: u32) -> Bits {
        Bits { len, bytes: vec![0; len.div_ceil(8) as usize] }
    }

    /// Number of bits, set or not.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    pub(crate) fn get(&self, index: u32) -> bool {
        self.bytes.get(index as usize / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
    }

    /// Sets a bit; whether it was not set before.
    pub(crate) fn set(&mut self, index: u32) -> bool {
        let was = self.get(index);
        if let Some(byte) = self.bytes.get_mut(index as usize / 8) {
            *byte |= 1 << (index % 8);
        }
        !was
    }

    /// Number of bits set.
    pub(crate) fn count(&self) -> u64 {
        self.bytes.iter().map(|byte| u64::from(byte.count_ones())).sum()
    }

    /// The bits that are not set here.
    pub(crate) fn inverted(&self) -> Bits {
        let mut bits = Bits { len: self.len, bytes: self.bytes.iter().map(|byte| !byte).collect() };
        if let Some(last) = bits.bytes.last_mut()
            && !self.len.is_multiple_of(8)
        {
            *last &= (1 << (self.len % 8)) - 1;
        }
        bits
    }
}

/// Hidden chunks, by table.
pub(crate) type HiddenChunks = BTreeMap<u32, Bits>;

/// The name of the hidden file with this number.
pub(crate) fn file_name(number: u32) -> String {
    format!("hidden-{number:08}")
}

/// The number of the hidden file with this name.
pub(crate) fn number_of(name: &str) -> Option<u32> {
    let number: u32 = name.strip_prefix("hidden-")?.parse().ok()?;
    (file_name(number) == name).then_some(number)
}

pub(crate) fn encode(number: u32, store: &StoreId, hidden: &HiddenChunks) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(number.to_le_bytes());
    bytes.extend(store);
    bytes.extend((hidden.len() as u32).to_le_bytes());
    for (table, bits) in hidden {
        bytes.extend(table.to_le_bytes());
        bytes.extend(bits.len.to_le_bytes());
        bytes.extend(&bits.bytes);
    }
    let checksum = blake3::hash(&bytes);
    bytes.extend(checksum.as_bytes());
    bytes
}

pub(crate) fn check_of(bytes: &[u8]) -> Check {
    let mut check = Check::default();
    if let Some((_, checksum)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() {
        check.copy_from_slice(&checksum[..16]);
    }
    check
}

/// Writes a hidden file, durable but for its directory entry.
pub(crate) fn write(
    io: &dyn Io,
    number: u32,
    store: &StoreId,
    hidden: &HiddenChunks,
) -> Result<manifest::Hidden> {
    let name = file_name(number);
    let bytes = encode(number, store, hidden);
    let file = io.create(&name).map_err(Error::io("create", &name))?;
    file.write_at(&bytes, 0).map_err(Error::io("write", &name))?;
    file.sync_data().map_err(Error::io("sync", &name))?;
    Ok(manifest::Hidden { number, len: bytes.len() as u64, check: check_of(&bytes) })
}

/// Reads the hidden file that the manifest names.
pub(crate) fn read(io: &dyn Io, entry: &manifest::Hidden, store: &StoreId) -> Result<HiddenChunks> {
    let name = file_name(entry.number);
    let file = match io.open(&name) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::damaged(&name, 0, "the manifest names this file and it is missing"));
        }
        other => other.map_err(Error::io("open", &name))?,
    };
    let len = file.len().map_err(Error::io("measure", &name))?;
    // A bit for each of 2^32 chunks: more is no hidden file, and is not read into memory.
    if len != entry.len || len > 1 << 30 {
        let what = format!("the file is {len} bytes long, and the manifest says {}", entry.len);
        return Err(Error::damaged(&name, len.min(entry.len), what));
    }
    let mut bytes = vec![0; len as usize];
    file.read_at(&mut bytes, 0).map_err(Error::io("read", &name))?;
    decode(&bytes, entry, store)
}

/// What the file says, if it is the one that the manifest names.
pub(crate) fn decode(bytes: &[u8], entry: &manifest::Hidden, store: &StoreId) -> Result<HiddenChunks> {
    let name = file_name(entry.number);
    let other = |offset, what| Error::damaged(&name, offset, what);
    let Some((checked, checksum)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(other(0, "the file is cut short"));
    };
    let mut fields = Fields::new(checked);
    if fields.take(8) != Some(MAGIC) {
        return Err(other(0, "a hidden file begins with \"plchhide\""));
    }
    if blake3::hash(checked).as_bytes() != checksum || check_of(bytes) != entry.check {
        return Err(other(0, "the file is not the one in the manifest"));
    }
    match fields.u32() {
        Some(VERSION) => {}
        Some(found) => return Err(Error::Version { file: name, found, expected: VERSION }),
        None => return Err(other(8, "the file is cut short")),
    }
    if (fields.u32(), fields.array()) != (Some(entry.number), Some(*store)) {
        return Err(other(12, "this is another hidden file, or another store's"));
    }
    decode_tables(&mut fields)
        .ok_or_else(|| Error::damaged(&name, fields.at() as u64, "the file breaks a rule of its layout"))
}

fn decode_tables(fields: &mut Fields<'_>) -> Option<HiddenChunks> {
    let count = fields.u32()?;
    let mut hidden = HiddenChunks::new();
    for _ in 0..count {
        let (table, len) = (fields.u32()?, fields.u32()?);
        let bits = Bits { len, bytes: fields.take(len.div_ceil(8) as usize)?.to_vec() };
        let ascends = hidden.last_key_value().is_none_or(|(last, _)| *last < table);
        // No bit stands for a chunk that the table does not have.
        if !ascends || bits.count() + bits.inverted().count() != u64::from(len) {
            return None;
        }
        hidden.insert(table, bits);
    }
    (fields.left() == 0).then_some(hidden)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::bytes::tests::hex;

    proptest::proptest! {
        #[test]
        fn bits_are_a_set_of_numbers(len in 0..70_u32, set: Vec<u8>) {
            let (mut bits, mut model) = (Bits::new(len), std::collections::BTreeSet::new());
            for index in set.into_iter().map(u32::from).filter(|index| *index < len) {
                proptest::prop_assert_eq!(bits.set(index), model.insert(index));
            }
            let found: Vec<u32> = (0..100).filter(|index| bits.get(*index)).collect();
            proptest::prop_assert_eq!(found, model.iter().copied().collect::<Vec<_>>());
            proptest::prop_assert_eq!((bits.len(), bits.count()), (len, model.len() as u64));
            let others: Vec<u32> = (0..100).filter(|index| bits.inverted().get(*index)).collect();
            proptest::prop_assert_eq!(others, (0..len).filter(|index| !model.contains(index)).collect::<Vec<_>>());
            proptest::prop_assert_eq!(bits.inverted().inverted(), bits);
        }
    }

    /// A hidden file whose bytes were changed, read as what the manifest names, if all checks are good.
    fn remade(change: impl FnOnce(&mut Vec<u8>)) -> Result<HiddenChunks> {
        let mut bytes = encode(9, &[0xab; 16], &HiddenChunks::from([(7, Bits::new(11)), (8, Bits::new(3))]));
        bytes.truncate(bytes.len() - CHECKSUM_BYTES);
        change(&mut bytes);
        let checksum = *blake3::hash(&bytes).as_bytes();
        bytes.extend(checksum);
        let entry = manifest::Hidden { number: 9, len: bytes.len() as u64, check: check_of(&bytes) };
        decode(&bytes, &entry, &[0xab; 16])
    }

    #[test]
    fn a_hidden_file_that_breaks_a_rule_is_refused() {
        assert!(remade(|_| {}).is_ok());
        for version in [0, 2] {
            let read = remade(|bytes| bytes[8] = version);
            assert!(
                matches!(read, Err(Error::Version { found, expected: 1, .. }) if found == u32::from(version))
            );
        }
        for (at, value, why) in [
            (0, b'P', "no magic"),
            (12, 8, "another number"),
            (16, 0, "another store's"),
            (32, 1, "more than it counts"),
            (32, 3, "less than it counts"),
            (36, 8, "numbers that do not ascend"),
            (40, 17, "more chunks than bits"),
            (45, 8, "a bit for a chunk that is not there"),
        ] {
            assert!(matches!(remade(|bytes| bytes[at] = value), Err(Error::Damaged { .. })), "{why}");
        }
        for len in 0..55 {
            assert!(
                matches!(remade(|bytes| bytes.truncate(len)), Err(Error::Damaged { .. })),
                "cut at {len}"
            );
        }
    }

    #[test]
    fn golden_bytes_of_a_hidden_file() {
        let mut bits = Bits::new(11);
        assert!(bits.set(0) && bits.set(10) && !bits.set(10));
        assert_eq!((bits.count(), bits.inverted().count()), (2, 9));
        let hidden = HiddenChunks::from([(7, bits)]);
        let bytes = encode(9, &[0xab; 16], &hidden);
        let (fields, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().unwrap();
        let expected =
            format!("706c636868696465 01000000 09000000 {} 01000000 07000000 0b000000 0104", "ab".repeat(16));
        assert_eq!(hex(fields), expected.replace(' ', ""));
        let entry = manifest::Hidden { number: 9, len: bytes.len() as u64, check: check_of(checksum) };
        assert_eq!(decode(&bytes, &entry, &[0xab; 16]).unwrap(), hidden);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(decode(&flipped, &entry, &[0xab; 16]), Err(Error::Damaged { .. })), "bit {bit}");
        }
    }
}
