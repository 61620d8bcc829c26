//! The manifest: which files make up the store.
//!
//! One idea: a file counts only when the manifest lists it, and the manifest is replaced atomically: written under another name, synced,
//! renamed, and the directory synced. Whatever a crash leaves beside it is not part of the store.
//!
//! ```text
//! offset  size  field (little-endian)
//!      0     8  magic       "plchmnfs"
//!      8     4  version     = 2
//!     12    16  store       the store's identity
//!     28     8  generation  one more at each replacement, from 1
//!     36     4  next        the number that the next file gets; all numbers in use are less, and none is used twice
//!     40     4  count       of files
//!     44  49×n  files, by number: number u32 · kind u8 · end u64 · index_len u64 · mark u64 · check 16 · tier u32
//!      …    28  hidden      number u32 · len u64 · check 16: the file that says which chunks of tables do not count; zeros = none
//!      …    32  checksum    BLAKE3 of all before
//!
//! kind                  end                    index_len          mark                          check               tier
//! 0 active journal      0                      0                  0                             0                   0
//! 1 sealed journal      end of its last group  length or 0        sequence after that group     of that group       0
//! 2 held journal        (as sealed)
//! 3 table               length of the file     run                newest journal it came from   of its footer       from 0
//! 4 held table          (as table)
//! ```
//!
//! Tables that one compaction wrote together are a *run*, known by the number of its first table.
//!
//! A *held* file was rewritten, and stays because a journal has differences from chunks in it: it is read as their base and not otherwise.
//!
//! Invariants: numbers ascend and are less than `next`; one journal is active, and its number is more than that of every other journal
//! (`a_manifest_that_breaks_a_rule_is_refused`).

use std::io::ErrorKind;

use crate::bytes::Fields;
use crate::error::{Error, Result};
use crate::io::Io;
use crate::journal::{Check, StoreId};
use crate::{journal, table};

/// The manifest's name.
pub(crate) const FILE: &str = "manifest";
/// The name that a new manifest is written under.
pub(crate) const NEW_FILE: &str = "manifest.new";
const MAGIC: &[u8; 8] = b"plchmnfs";
const VERSION: u32 = 2;
const ENTRY_BYTES: usize = 49;
const HIDDEN_BYTES: usize = 28;
const CHECKSUM_BYTES: usize = 32;
/// Far beyond any number, length, generation and tier that is reached: so counting on from what a manifest says never overflows.
const NUMBER_MAX: u32 = u32::MAX - (1 << 20);
const LEN_MAX: u64 = 1 << 40;
const COUNT_MAX: u64 = 1 << 60;

/// What the manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) store: StoreId,
    pub(crate) generation: u64,
    /// The number that the next file gets.
    pub(crate) next: u32,
    /// By number, the active one left out.
    pub(crate) sealed: Vec<Sealed>,
    /// Number of the active journal.
    pub(crate) active: u32,
    /// By number.
    pub(crate) tables: Vec<Listed>,
    pub(crate) hidden: Option<Hidden>,
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
    /// Whether it is there only for the differences from its chunks.
    pub(crate) held: bool,
}

/// A table file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) number: u32,
    pub(crate) len: u64,
    /// Number of the newest journal that chunks of it came from.
    pub(crate) newest: u32,
    /// Check of its footer.
    pub(crate) check: Check,
    /// How often its chunks were merged.
    pub(crate) tier: u32,
    /// Number of the first table that was written together with it.
    pub(crate) run: u32,
    /// Whether it is there only for the differences from its chunks.
    pub(crate) held: bool,
}

/// The file that says which chunks of tables do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hidden {
    pub(crate) number: u32,
    pub(crate) len: u64,
    pub(crate) check: Check,
}

/// What the manifest says of a file.
enum Entry {
    Active(u32),
    Sealed(Sealed),
    Table(Listed),
}

const ACTIVE: u8 = 0;
const SEALED: u8 = 1;
const SEALED_HELD: u8 = 2;
const TABLE: u8 = 3;
const TABLE_HELD: u8 = 4;

impl Entry {
    fn number(&self) -> u32 {
        match self {
            Entry::Active(number) => *number,
            Entry::Sealed(sealed) => sealed.number,
            Entry::Table(table) => table.number,
        }
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        let (kind, end, index_len, mark, check, tier) = match self {
            Entry::Active(_) => (ACTIVE, 0, 0, 0, Check::default(), 0),
            Entry::Sealed(sealed) => (
                if sealed.held { SEALED_HELD } else { SEALED },
                sealed.end,
                sealed.index_len,
                sealed.sequence,
                sealed.check,
                0,
            ),
            Entry::Table(table) => (
                if table.held { TABLE_HELD } else { TABLE },
                table.len,
                u64::from(table.run),
                u64::from(table.newest),
                table.check,
                table.tier,
            ),
        };
        bytes.extend(self.number().to_le_bytes());
        bytes.push(kind);
        bytes.extend(end.to_le_bytes());
        bytes.extend(index_len.to_le_bytes());
        bytes.extend(mark.to_le_bytes());
        bytes.extend(check);
        bytes.extend(tier.to_le_bytes());
    }

    fn decode(fields: &mut Fields<'_>) -> Option<Entry> {
        let (number, kind) = (fields.u32()?, fields.u8()?);
        let (end, index_len, mark) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let (check, tier) = (fields.array()?, fields.u32()?);
        if end > LEN_MAX || index_len > LEN_MAX || mark > COUNT_MAX || tier > NUMBER_MAX {
            return None;
        }
        match kind {
            ACTIVE if (end, index_len, mark, check, tier) == (0, 0, 0, Check::default(), 0) => {
                Some(Entry::Active(number))
            }
            SEALED | SEALED_HELD if tier == 0 => {
                let held = kind == SEALED_HELD;
                Some(Entry::Sealed(Sealed { number, end, index_len, sequence: mark, check, held }))
            }
            TABLE | TABLE_HELD => {
                let (newest, run) = (u32::try_from(mark).ok()?, u32::try_from(index_len).ok()?);
                let held = kind == TABLE_HELD;
                Some(Entry::Table(Listed { number, len: end, newest, check, tier, run, held }))
            }
            _ => None,
        }
    }
}

impl Manifest {
    /// The manifest of a new store, whose first journal is number 1.
    pub(crate) fn first(store: StoreId) -> Manifest {
        Manifest {
            store,
            generation: 1,
            next: 2,
            sealed: Vec::new(),
            active: 1,
            tables: Vec::new(),
            hidden: None,
        }
    }

    /// The number for another file.
    pub(crate) fn take_number(&mut self) -> u32 {
        self.next += 1;
        self.next - 1
    }

    /// Names of the files that the manifest lists.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> + '_ {
        let journals = self.sealed.iter().map(|sealed| sealed.number).chain([self.active]);
        journals
            .map(journal::file_name)
            .chain(self.tables.iter().map(|table| table::file_name(table.number)))
            .chain(self.hidden.iter().map(|hidden| table::hidden::file_name(hidden.number)))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut entries: Vec<Entry> = self.sealed.iter().copied().map(Entry::Sealed).collect();
        entries.push(Entry::Active(self.active));
        entries.extend(self.tables.iter().copied().map(Entry::Table));
        entries.sort_by_key(Entry::number);
        let mut bytes = Vec::new();
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.store);
        bytes.extend(self.generation.to_le_bytes());
        bytes.extend(self.next.to_le_bytes());
        bytes.extend((entries.len() as u32).to_le_bytes());
        entries.iter().for_each(|entry| entry.encode(&mut bytes));
        let hidden = self.hidden.unwrap_or(Hidden { number: 0, len: 0, check: Check::default() });
        bytes.extend(hidden.number.to_le_bytes());
        bytes.extend(hidden.len.to_le_bytes());
        bytes.extend(hidden.check);
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
        let (store, generation, next) = (fields.array()?, fields.u64()?, fields.u32()?);
        let count = fields.u32()? as usize;
        if fields.left() != count.checked_mul(ENTRY_BYTES)?.checked_add(HIDDEN_BYTES)? {
            return None;
        }
        if next > NUMBER_MAX || generation > COUNT_MAX {
            return None;
        }
        let mut manifest = Manifest { next, generation, active: 0, ..Manifest::first(store) };
        let mut last = 0;
        for _ in 0..count {
            let entry = Entry::decode(fields)?;
            if entry.number() <= last || entry.number() >= next {
                return None;
            }
            last = entry.number();
            match entry {
                Entry::Table(table) => manifest.tables.push(table),
                Entry::Sealed(sealed) if manifest.active == 0 => manifest.sealed.push(sealed),
                Entry::Active(number) if manifest.active == 0 => manifest.active = number,
                Entry::Sealed(_) | Entry::Active(_) => return None,
            }
        }
        let hidden = Hidden { number: fields.u32()?, len: fields.u64()?, check: fields.array()? };
        let is_blank = (hidden.len, hidden.check) == (0, Check::default());
        if manifest.active == 0 || hidden.number >= next || hidden.number == 0 && !is_blank {
            return None;
        }
        manifest.hidden = Some(hidden).filter(|hidden| hidden.number > 0);
        Some(manifest)
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
        let sealed =
            Sealed { number: 1, end: 0x1234, index_len: 0x56, sequence: 9, check: [0xcc; 16], held: true };
        let table =
            Listed { number: 3, len: 0x7890, newest: 1, check: [0xdd; 16], tier: 2, run: 3, held: false };
        let hidden = Hidden { number: 4, len: 0x21, check: [0xee; 16] };
        Manifest {
            generation: 2,
            next: 5,
            sealed: vec![sealed],
            active: 2,
            tables: vec![table],
            hidden: Some(hidden),
            ..Manifest::first([0xab; 16])
        }
    }

    #[test]
    fn golden_bytes_of_a_manifest() {
        let head =
            format!("706c63686d6e6673 02000000 {} 0200000000000000 05000000 03000000", "ab".repeat(16));
        let sealed = format!(
            "01000000 02 3412000000000000 5600000000000000 0900000000000000 {} 00000000",
            "cc".repeat(16)
        );
        let active = format!("02000000 00 {}", "00".repeat(44));
        let table = format!(
            "03000000 03 9078000000000000 0300000000000000 0100000000000000 {} 02000000",
            "dd".repeat(16)
        );
        let hidden = format!("04000000 2100000000000000 {}", "ee".repeat(16));
        let bytes = manifest().encode();
        let (fields, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().unwrap();
        assert_eq!(hex(fields), format!("{head}{sealed}{active}{table}{hidden}").replace(' ', ""));
        assert_eq!(checksum, blake3::hash(fields).as_bytes());
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
        assert!(matches!(with(8, 1), Err(Error::Version { found: 1, expected: 2, .. })));
        for (at, value, why) in [
            (0, b'P', "no magic"),
            (36, 3, "a number that is not less than the next"),
            (40, 4, "a count that lies"),
            (44, 2, "numbers that do not ascend"),
            (44, 0, "number 0"),
            (48, 0, "two active journals, and an active journal with an end"),
            (97, 1, "no active journal"),
            (48, 5, "an unknown kind"),
            (89, 1, "a journal with a tier"),
            (98, 1, "an active journal with an end"),
            (159, 1, "a run beyond 32 bits"),
            (167, 1, "a newest journal beyond 32 bits"),
            (191, 5, "a hidden file with a number that is not less than the next"),
            (191, 0, "no hidden file, with a length"),
        ] {
            assert!(matches!(with(at, value), Err(Error::Damaged { .. })), "{why}");
        }
        for len in 0..good.len() {
            assert!(Manifest::decode(&good[..len]).is_err(), "cut at {len}");
        }
    }
}
