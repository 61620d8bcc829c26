//! The manifest: which files make up the store.
//!
//! One idea: a file counts only when the manifest lists it, and the manifest is replaced atomically: written under another name, synced,
//! renamed, and the directory synced. Whatever a crash leaves beside it is not part of the store.
//!
//! ```text
//! offset  size  field (little-endian)
//!      0     8  magic       "plchmnfs"
//!      8     4  version     = 1
//!     12    16  store       the store's identity
//!     28     8  generation  one more at each replacement, from 1
//!     36     4  count       of journals
//!     40  49×n  journals, in order: number u32 · state u8: 0 active, 1 sealed · end u64 · index_len u64 (0 = no index)
//!               · sequence u64 · check 16 · zero u32; an active journal's fields after its state are zero
//!      …    32  checksum    BLAKE3 of all before
//! ```
//!
//! Invariants: numbers ascend; the last journal, and no other, is active (`a_manifest_that_breaks_a_rule_is_refused`).

use std::io::ErrorKind;

use crate::bytes::Fields;
use crate::error::{Error, Result};
use crate::io::Io;
use crate::journal::{Check, StoreId};

/// The manifest's name.
pub(crate) const FILE: &str = "manifest";
/// The name that a new manifest is written under.
pub(crate) const NEW_FILE: &str = "manifest.new";
const MAGIC: &[u8; 8] = b"plchmnfs";
const VERSION: u32 = 1;
const ENTRY_BYTES: usize = 49;
const CHECKSUM_BYTES: usize = 32;

/// What the manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) store: StoreId,
    pub(crate) generation: u64,
    /// In order, the active one left out.
    pub(crate) sealed: Vec<Sealed>,
    /// Number of the active journal.
    pub(crate) active: u32,
}

/// A sealed journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) number: u32,
    /// End of its last group.
    pub(crate) end: u64,
    /// Length of the index that follows, or 0.
    pub(crate) index_len: u64,
    /// Sequence after its last group.
    pub(crate) sequence: u64,
    /// Check of its last group.
    pub(crate) check: Check,
}

impl Manifest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.store);
        bytes.extend(self.generation.to_le_bytes());
        bytes.extend((self.sealed.len() as u32 + 1).to_le_bytes());
        for sealed in &self.sealed {
            bytes.extend(sealed.number.to_le_bytes());
            bytes.push(1);
            bytes.extend(sealed.end.to_le_bytes());
            bytes.extend(sealed.index_len.to_le_bytes());
            bytes.extend(sealed.sequence.to_le_bytes());
            bytes.extend(sealed.check);
            bytes.extend([0; 4]);
        }
        bytes.extend(self.active.to_le_bytes());
        bytes.extend([0; ENTRY_BYTES - 4]);
        let checksum = blake3::hash(&bytes);
        bytes.extend(checksum.as_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Manifest> {
        let damaged = |offset: usize, what: &str| Error::damaged(FILE, offset as u64, what);
        let Some((checked, checksum)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
            return Err(damaged(bytes.len(), "the manifest is empty or cut short"));
        };
        if !checked.starts_with(MAGIC) {
            return Err(damaged(0, "a manifest begins with \"plchmnfs\""));
        }
        if blake3::hash(checked).as_bytes() != checksum {
            return Err(damaged(0, "the manifest does not match its checksum"));
        }
        let mut fields = Fields::new(&checked[MAGIC.len()..]);
        let version = fields.u32().unwrap_or(0);
        if version != VERSION {
            return Err(Error::Version { file: FILE.to_owned(), found: version, expected: VERSION });
        }
        Manifest::decode_fields(&mut fields)
            .ok_or_else(|| damaged(MAGIC.len() + fields.at(), "the manifest breaks a rule of its layout"))
    }

    fn decode_fields(fields: &mut Fields<'_>) -> Option<Manifest> {
        let (store, generation, count) = (fields.array()?, fields.u64()?, fields.u32()? as usize);
        if fields.left() != count.checked_mul(ENTRY_BYTES)? {
            return None;
        }
        let mut sealed: Vec<Sealed> = Vec::new();
        for index in 1..=count {
            let (number, state) = (fields.u32()?, fields.u8()?);
            let entry = Sealed {
                number,
                end: fields.u64()?,
                index_len: fields.u64()?,
                sequence: fields.u64()?,
                check: fields.array()?,
            };
            let zero = fields.u32()? == 0;
            let ascends = sealed.last().map_or(number > 0, |last| last.number < number);
            if !zero || !ascends || state != u8::from(index < count) {
                return None;
            }
            if index == count {
                let blank = Sealed { number, end: 0, index_len: 0, sequence: 0, check: [0; 16] };
                return (entry == blank).then_some(Manifest { store, generation, sealed, active: number });
            }
            sealed.push(entry);
        }
        None
    }

    /// Reads the manifest under `name`, if there is one.
    pub(crate) fn read(io: &dyn Io, name: &str) -> Result<Option<Manifest>> {
        let file = match io.open(name) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.map_err(Error::io("open", name))?,
        };
        let len = file.len().map_err(Error::io("measure", name))?;
        // 16 MiB lists 350,000 journals: more is no manifest, and is not read into memory.
        if len > 16 << 20 {
            return Err(Error::damaged(name, 0, "the manifest is longer than any manifest"));
        }
        let mut bytes = vec![0; len as usize];
        file.read_at(&mut bytes, 0).map_err(Error::io("read", name))?;
        Manifest::decode(&bytes).map(Some)
    }

    /// Writes this manifest durably under its temporary name; it does not count yet.
    pub(crate) fn write_new(&self, io: &dyn Io) -> Result<()> {
        let file = io.create(NEW_FILE).map_err(Error::io("create", NEW_FILE))?;
        file.write_at(&self.encode(), 0).map_err(Error::io("write", NEW_FILE))?;
        file.sync_data().map_err(Error::io("sync", NEW_FILE))
    }

    /// Makes the manifest written by [`Manifest::write_new`] the one that counts. After an error, either may.
    pub(crate) fn replace(io: &dyn Io) -> Result<()> {
        io.rename(NEW_FILE, FILE).map_err(Error::io("rename", NEW_FILE))?;
        io.sync_dir().map_err(Error::io("sync the directory of", FILE))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::bytes::tests::hex;

    fn manifest() -> Manifest {
        let sealed = Sealed { number: 1, end: 0x1234, index_len: 0x56, sequence: 9, check: [0xcc; 16] };
        Manifest { store: [0xab; 16], generation: 2, sealed: vec![sealed], active: 2 }
    }

    #[test]
    fn golden_bytes_of_a_manifest() {
        let head = format!("706c63686d6e6673 01000000 {} 0200000000000000 02000000", "ab".repeat(16));
        let sealed = format!(
            "01000000 01 3412000000000000 5600000000000000 0900000000000000 {} 00000000",
            "cc".repeat(16)
        );
        let active = format!("02000000 00 {}", "00".repeat(44));
        let checksum = "aec15fe381a4aef5dd27277ea10de0e324991267c4dd0db32a4f0a8bb9075506";
        let bytes = manifest().encode();
        assert_eq!(hex(&bytes), format!("{head}{sealed}{active}{checksum}").replace(' ', ""));
        assert_eq!(Manifest::decode(&bytes).unwrap(), manifest());
    }

    #[test]
    fn a_manifest_that_breaks_a_rule_is_refused() {
        let good = manifest().encode();
        let with = |at: usize, value: u8| {
            let mut bytes = good[..good.len() - CHECKSUM_BYTES].to_vec();
            bytes[at] = value;
            let checksum = blake3::hash(&bytes);
            bytes.extend(checksum.as_bytes());
            Manifest::decode(&bytes)
        };
        assert!(with(0, b'p').is_ok());
        assert!(matches!(with(8, 2), Err(Error::Version { found: 2, expected: 1, .. })));
        for (at, value, why) in [
            (0, b'P', "no magic"),
            (36, 3, "a count that lies"),
            (40, 2, "numbers that do not ascend"),
            (40, 0, "number 0"),
            (44, 0, "two active journals"),
            (93, 1, "no active journal"),
            (88, 1, "a field that must be zero"),
            (94, 1, "an active journal with an end"),
        ] {
            assert!(matches!(with(at, value), Err(Error::Damaged { .. })), "{why}");
        }
        for len in 0..good.len() {
            assert!(Manifest::decode(&good[..len]).is_err(), "cut at {len}");
        }
    }
}
