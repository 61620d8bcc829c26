//! A journal: the file that every append goes to, and where chunks lie.
//!
//! One idea: a journal only grows. It is a header, then groups ([`group`]), each chained to the one before; when it is long enough it is
//! sealed, which adds an index ([`seal`]) at its end and a line to the manifest. What a crash left behind its last good
//! group stays there and is cut by the manifest, never overwritten.
//!
//! ```text
//! offset  size  field (little-endian)
//!      0     8  magic     "plchjrnl"
//!      8     4  version   = 4
//!     12     4  number    of this journal, as in its name `journal-00000001`
//!     16    16  store     the store's identity, random, made once
//!     32    16  zero      kept
//!     48    16  checksum  BLAKE3 of the 48 bytes before, its first 16 bytes
//!     64     …  groups; the first is a checkpoint of all refs
//! ```
//!
//! Checks inside a journal are keyed by the hash of this header, so that nothing written by a stranger into a chunk, and no
//! block of another journal, can pass for a group.

pub(crate) mod group;
pub(crate) mod replay;
pub(crate) mod seal;

use std::sync::Arc;

use crate::bytes::Fields;
use crate::error::{Error, Result};
use crate::io::{File, Io};

/// Length of a journal's header.
pub(crate) const HEADER_BYTES: usize = 64;
const MAGIC: &[u8; 8] = b"plchjrnl";
const VERSION: u32 = 4;
const CHECKED_BYTES: usize = 48;

/// The store's identity, in every file of it.
pub(crate) type StoreId = [u8; 16];
/// The check of a group, chained over the check of the group before it.
pub(crate) type Check = [u8; 16];

/// An open journal.
pub(crate) struct Journal {
    pub(crate) number: u32,
    pub(crate) name: String,
    pub(crate) file: Arc<dyn File>,
    /// Keys the checks of this journal's groups and index.
    pub(crate) key: [u8; 32],
}

/// The name of the journal with this number.
pub(crate) fn file_name(number: u32) -> String {
    format!("journal-{number:08}")
}

/// The number of the journal with this name.
pub(crate) fn number_of(name: &str) -> Option<u32> {
    let number: u32 = name.strip_prefix("journal-")?.parse().ok()?;
    (file_name(number) == name).then_some(number)
}

/// A journal's header.
pub(crate) fn header(number: u32, store: &StoreId) -> [u8; HEADER_BYTES] {
    let mut bytes = [0_u8; HEADER_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&number.to_le_bytes());
    bytes[16..32].copy_from_slice(store);
    let check = checksum(&bytes[..CHECKED_BYTES]);
    bytes[CHECKED_BYTES..].copy_from_slice(&check);
    bytes
}

/// The key of the groups in the journal with this header.
pub(crate) fn key_of(header: &[u8; HEADER_BYTES]) -> [u8; 32] {
    *blake3::hash(header).as_bytes()
}

/// The first 16 bytes of a BLAKE3 hash: enough where no one can choose both sides.
pub(crate) fn checksum(bytes: &[u8]) -> [u8; 16] {
    let mut check = [0_u8; 16];
    check.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    check
}

impl Journal {
    /// Opens the journal `number`, which must be there and belong to this store.
    pub(crate) fn open(io: &dyn Io, number: u32, store: &StoreId) -> Result<Journal> {
        let name = file_name(number);
        let file = match io.open(&name) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::damaged(&name, 0, "the manifest lists this journal and it is missing"));
            }
            other => other.map_err(Error::io("open", &name))?,
        };
        Journal::from_file(file, number, store)
    }

    pub(crate) fn from_file(file: Arc<dyn File>, number: u32, store: &StoreId) -> Result<Journal> {
        let name = file_name(number);
        let mut found = [0_u8; HEADER_BYTES];
        let len = file.len().map_err(Error::io("measure", &name))?;
        if len < HEADER_BYTES as u64 {
            return Err(Error::damaged(&name, len, "the journal ends inside its header"));
        }
        file.read_at(&mut found, 0).map_err(Error::io("read", &name))?;
        let mut fields = Fields::new(&found);
        if fields.take(8) != Some(MAGIC) {
            return Err(Error::damaged(&name, 0, "a journal begins with \"plchjrnl\""));
        }
        let version = fields.u32().unwrap_or(0);
        // The version is believed only with its checksum: a flipped bit is damage, not another version.
        if found[CHECKED_BYTES..] != checksum(&found[..CHECKED_BYTES]) {
            return Err(Error::damaged(&name, 8, "the journal's header does not match its checksum"));
        }
        if version != VERSION {
            return Err(Error::Version { file: name, found: version, expected: VERSION });
        }
        if found != header(number, store) {
            return Err(Error::damaged(&name, 12, "this is another journal, or another store's"));
        }
        Ok(Journal { number, name, file, key: key_of(&found) })
    }

    /// Reads `len` bytes from `offset`; a file that ends before is damaged.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.file.read_at(&mut bytes, offset).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                Error::damaged(&self.name, offset, "the file ends before what was written there")
            }
            _ => Error::io("read", &self.name)(error),
        })?;
        Ok(bytes)
    }

    /// What the check of the first group is chained to.
    pub(crate) fn first_check(&self) -> Check {
        first_check(&self.key)
    }
}

/// What the check of the first group of the journal with this key is chained to.
pub(crate) fn first_check(key: &[u8; 32]) -> Check {
    let mut check = [0; 16];
    check.copy_from_slice(&key[..16]);
    check
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::bytes::tests::hex;

    #[test]
    fn golden_bytes_of_a_journals_header() {
        let fields = format!("706c63686a726e6c 04000000 03000000 {}{}", "ab".repeat(16), "00".repeat(16));
        assert_eq!(
            hex(&header(3, &[0xab; 16])),
            format!("{fields} c47ee9bae0f1837330605a77d38340c0").replace(' ', "")
        );
    }

    #[test]
    fn a_journal_of_another_version_is_refused_by_its_version() {
        let mut bytes = header(1, &[7; 16]);
        bytes[8] = 2;
        let check = checksum(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&check);
        let memory = crate::io::memory::Memory::holding([(file_name(1), bytes.to_vec())].into());
        let opened = Journal::open(&memory, 1, &[7; 16]).map(|_| ());
        assert!(matches!(opened, Err(Error::Version { found: 2, expected: 4, .. })), "{opened:?}");
    }

    #[test]
    fn only_names_of_journals_have_numbers() {
        assert_eq!(number_of(&file_name(12)), Some(12));
        assert_eq!(number_of("journal-123456789"), Some(123_456_789));
        for name in ["journal-1", "journal-+0000001", "journal-", "journal-00000001.new", "manifest"] {
            assert_eq!(number_of(name), None, "{name}");
        }
    }
}
