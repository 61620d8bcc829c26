//! A table file: immutable chunks in the order of their trees, mapped into memory, under an index of their hashes.
//!
//! One idea: compaction writes what journals brought once more, side by side as it is read, newest versions whole and older ones as
//! differences from newer ones. So a table needs no other file, and what is read most often is decoded in one step.
//!
//! ```text
//! offset  size  field (little-endian)
//!      0     8  magic       "plchtabl"
//!      8     4  version     = 2
//!     12     4  number      of this table, as in its name `table-00000007`
//!     16    16  store       the store's identity
//!     32    16  zero        kept
//!     48    16  checksum    BLAKE3 of the 48 bytes before, its first 16 bytes
//!     64     …  dictionary  what zstd frames with a dictionary are compressed with, if any
//!      …     …  frames      see `frame`; each base lies before the deltas from it
//!      …  40×n  index       by hash: hash 32 · offset u32 · len 23 bits, step 7 bits, leaf 1 bit, partial 1 bit
//!      …    64  footer      chunks u32 · dictionary_len u32 · index_offset u32 · zero u32
//!                           · digest 32: BLAKE3, keyed by the hash of the header, of dictionary and index
//!                           · check 16: BLAKE3, keyed likewise, of the 48 bytes before, its first 16 bytes
//! ```
//!
//! Header, footer, dictionary and index are checked when the table is opened, and the footer's check is in the manifest; a chunk is
//! hashed when it is first loaded. A short check of each piece of the index stays in memory: whatever reads the index to decide what stays
//! and what goes, or to say that a chunk is absent, checks the pieces again, for bytes may rot under an open store.
//!
//! Written by [`write`] alone; found through [`lookup`]; [`hidden`] says which chunks no longer count.

pub(crate) mod hidden;
pub(crate) mod lookup;
pub(crate) mod write;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::bytes::Fields;
use crate::error::{Error, Result};
use crate::frame::{Dictionary, Location, STEPS_MAX};
use crate::hash::Hash;
use crate::io::{File, Io};
use crate::journal::{Check, StoreId, checksum};
use crate::manifest::Listed;

/// The longest table, in bytes.
pub(crate) const TABLE_BYTES_MAX: u64 = 256 << 20;
/// Length of a table's header.
pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const ENTRY_BYTES: usize = 40;
pub(crate) const FOOTER_BYTES: usize = 64;
/// Entries of the index that are checked together.
const PIECE_ENTRIES: u32 = 256;
/// The longest dictionary, in bytes.
pub(crate) const DICTIONARY_BYTES_MAX: usize = 64 << 10;
/// zstd's level for what is compressed with a dictionary.
pub(crate) const DICTIONARY_LEVEL: i32 = 9;
const MAGIC: &[u8; 8] = b"plchtabl";
const VERSION: u32 = 2;
const CHECKED_BYTES: usize = 48;

/// The name of the table with this number.
pub(crate) fn file_name(number: u32) -> String {
    format!("table-{number:08}")
}

/// The number of the table with this name.
pub(crate) fn number_of(name: &str) -> Option<u32> {
    let number: u32 = name.strip_prefix("table-")?.parse().ok()?;
    (file_name(number) == name).then_some(number)
}

/// A table's header.
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

/// An entry of the index.
pub(crate) fn encode_entry(hash: &Hash, place: &Location) -> [u8; ENTRY_BYTES] {
    let mut bytes = [0; ENTRY_BYTES];
    let flags = u32::from(place.leaf) | u32::from(place.partial) << 1;
    let packed = place.len | u32::from(place.step) << 23 | flags << 30;
    bytes[..32].copy_from_slice(hash.as_bytes());
    bytes[32..36].copy_from_slice(&place.offset.to_le_bytes());
    bytes[36..].copy_from_slice(&packed.to_le_bytes());
    bytes
}

/// The chunk and the place that an entry states, if its frame can lie in a table whose frames are at `frames`.
pub(crate) fn decode_entry(bytes: &[u8], file: u32, frames: Range<u64>) -> Option<(Hash, Location)> {
    let mut fields = Fields::new(bytes);
    let (hash, offset, packed) = (fields.hash()?, fields.u32()?, fields.u32()?);
    let place = Location {
        file,
        offset,
        len: packed & ((1 << 23) - 1),
        step: (packed >> 23) as u8 & 0x7f,
        crossed: false,
        leaf: packed >> 30 & 1 == 1,
        partial: packed >> 31 == 1,
    };
    let fits = u64::from(offset) >= frames.start && u64::from(offset) + u64::from(place.len) <= frames.end;
    (fits && place.step <= STEPS_MAX && !(place.leaf && place.partial)).then_some((hash, place))
}

/// What a footer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) chunks: u32,
    pub(crate) dictionary_len: u32,
    pub(crate) index_offset: u32,
    pub(crate) digest: [u8; 32],
}

impl Footer {
    pub(crate) fn encode(&self, key: &[u8; 32]) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0; FOOTER_BYTES];
        bytes[..4].copy_from_slice(&self.chunks.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.dictionary_len.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.index_offset.to_le_bytes());
        bytes[16..CHECKED_BYTES].copy_from_slice(&self.digest);
        let check = blake3::keyed_hash(key, &bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&check.as_bytes()[..16]);
        bytes
    }

    /// The footer of a table of `len` bytes, if these bytes are one.
    fn decode(bytes: &[u8; FOOTER_BYTES], key: &[u8; 32], len: u64) -> Option<Footer> {
        let mut fields = Fields::new(bytes);
        let (chunks, dictionary_len, index_offset) = (fields.u32()?, fields.u32()?, fields.u32()?);
        fields.u32()?;
        let footer = Footer { chunks, dictionary_len, index_offset, digest: fields.array()? };
        let index_len = u64::from(chunks) * ENTRY_BYTES as u64;
        let whole = u64::from(index_offset) + index_len + FOOTER_BYTES as u64 == len;
        let room = HEADER_BYTES as u64 + u64::from(dictionary_len) <= u64::from(index_offset);
        let good = whole && room && dictionary_len as usize <= DICTIONARY_BYTES_MAX;
        (good && footer.encode(key) == *bytes).then_some(footer)
    }
}

/// An open table.
pub(crate) struct Table {
    pub(crate) number: u32,
    pub(crate) name: String,
    pub(crate) listed: Listed,
    pub(crate) dictionary: Option<Arc<Dictionary>>,
    file: Arc<dyn File>,
    footer: Footer,
    /// A check for each piece of the index, as it was when the table was opened.
    pieces: Vec<u64>,
    /// A bit for each chunk that was hashed since the table was opened.
    verified: Vec<AtomicU64>,
}

impl Table {
    /// Opens the table that the manifest lists, which must be there, whole, and this store's.
    pub(crate) fn open(io: &dyn Io, listed: &Listed, store: &StoreId) -> Result<Table> {
        let name = file_name(listed.number);
        let file = match io.map(&name) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::damaged(&name, 0, "the manifest lists this table and it is missing"));
            }
            other => other.map_err(Error::io("open", &name))?,
        };
        let len = file.len().map_err(Error::io("measure", &name))?;
        if len != listed.len || len < (HEADER_BYTES + FOOTER_BYTES) as u64 || len > TABLE_BYTES_MAX {
            let what = format!("the table is {len} bytes long, and the manifest says {}", listed.len);
            return Err(Error::damaged(&name, len.min(listed.len), what));
        }
        let key = check_header(&*file, &name, listed.number, store)?;
        let mut bytes = [0; FOOTER_BYTES];
        let footer_at = len - FOOTER_BYTES as u64;
        read_into(&*file, &name, &mut bytes, footer_at)?;
        let footer = Footer::decode(&bytes, &key, len).filter(|_| bytes[CHECKED_BYTES..] == listed.check);
        let Some(footer) = footer else {
            return Err(Error::damaged(
                &name,
                footer_at,
                "the table's footer is not the one in the manifest",
            ));
        };
        let dictionary = read(&*file, &name, HEADER_BYTES as u64, footer.dictionary_len as usize)?;
        let verified = (0..footer.chunks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let mut table = Table {
            number: listed.number,
            name,
            listed: *listed,
            dictionary: None,
            file,
            footer,
            pieces: Vec::new(),
            verified,
        };
        table.pieces = table.check_digest(&key, &dictionary)?;
        table.dictionary =
            (!dictionary.is_empty()).then(|| Arc::new(Dictionary::new(dictionary, DICTIONARY_LEVEL)));
        Ok(table)
    }

    /// Checks dictionary and index against the footer's digest, and gives the checks of the index's pieces.
    fn check_digest(&self, key: &[u8; 32], dictionary: &[u8]) -> Result<Vec<u64>> {
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher.update(dictionary);
        let mut checks = Vec::with_capacity(self.pieces() as usize);
        let (mut last, mut ascends) = (None, true);
        for piece in 0..self.pieces() {
            let (_, bytes) = self.read_piece(piece)?;
            hasher.update(&bytes);
            checks.push(check_of_piece(&bytes));
            for entry in bytes.chunks_exact(ENTRY_BYTES) {
                let hash = Hash::from_slice(&entry[..Hash::LEN]);
                ascends &= last < hash;
                last = hash;
            }
        }
        let index = u64::from(self.footer.index_offset);
        if *hasher.finalize().as_bytes() != self.footer.digest {
            return Err(self.damaged(index, "the table's index or dictionary does not match its digest"));
        }
        match ascends {
            true => Ok(checks),
            false => Err(self.damaged(index, "the table's index is not in the order of its hashes")),
        }
    }

    /// Checks that the index is what it was when the table was opened.
    pub(crate) fn check_index(&self) -> Result<()> {
        (0..self.pieces()).try_for_each(|piece| self.piece(piece).map(drop))
    }

    /// Checks that the entry at `ordinal`, and those around it, are what they were when the table was opened.
    pub(crate) fn check_entry(&self, ordinal: u32) -> Result<()> {
        self.piece(ordinal / PIECE_ENTRIES).map(drop)
    }

    /// Number of chunks.
    pub(crate) fn len(&self) -> u32 {
        self.footer.chunks
    }

    /// Bytes of memory that grow with the number of chunks.
    #[cfg(test)]
    pub(crate) fn memory_bytes(&self) -> u64 {
        8 * (self.pieces.capacity() + self.verified.capacity()) as u64
    }

    /// Bytes of all frames.
    pub(crate) fn frames_len(&self) -> u64 {
        u64::from(self.footer.index_offset - self.footer.dictionary_len) - HEADER_BYTES as u64
    }

    /// The chunk at `ordinal` of the index, and its place.
    pub(crate) fn entry(&self, ordinal: u32) -> Result<(Hash, Location)> {
        let at = u64::from(self.footer.index_offset) + u64::from(ordinal) * ENTRY_BYTES as u64;
        let mut bytes = [0; ENTRY_BYTES];
        read_into(&*self.file, &self.name, &mut bytes, at)?;
        self.decode_entry(&bytes, at)
    }

    /// The hashes of a piece of the index, and the ordinal of the first.
    pub(crate) fn hashes(&self, ordinal: u32) -> Result<(u32, Vec<Hash>)> {
        let (_, bytes) = self.piece(ordinal / PIECE_ENTRIES)?;
        let hashes =
            bytes.chunks_exact(ENTRY_BYTES).filter_map(|entry| Hash::from_slice(&entry[..Hash::LEN]));
        Ok((ordinal / PIECE_ENTRIES * PIECE_ENTRIES, hashes.collect()))
    }

    /// Calls `f` with each chunk, by hash, and its ordinal.
    pub(crate) fn for_each(&self, mut f: impl FnMut(u32, Hash, Location) -> Result<()>) -> Result<()> {
        for piece in 0..self.pieces() {
            let (at, bytes) = self.piece(piece)?;
            for (ordinal, bytes) in (piece * PIECE_ENTRIES..).zip(bytes.chunks_exact(ENTRY_BYTES)) {
                let (hash, place) = self.decode_entry(bytes, at)?;
                f(ordinal, hash, place)?;
            }
        }
        Ok(())
    }

    fn decode_entry(&self, bytes: &[u8], at: u64) -> Result<(Hash, Location)> {
        let start = HEADER_BYTES as u64 + u64::from(self.footer.dictionary_len);
        decode_entry(bytes, self.number, start..u64::from(self.footer.index_offset))
            .ok_or_else(|| self.damaged(at, "an entry of the table's index breaks a rule"))
    }

    /// Number of pieces of the index.
    fn pieces(&self) -> u32 {
        self.footer.chunks.div_ceil(PIECE_ENTRIES)
    }

    /// A piece of the index, as it was when the table was opened, and where it begins.
    fn piece(&self, piece: u32) -> Result<(u64, Vec<u8>)> {
        let (at, bytes) = self.read_piece(piece)?;
        match self.pieces.get(piece as usize) == Some(&check_of_piece(&bytes)) {
            true => Ok((at, bytes)),
            false => Err(self.damaged(at, "the table's index has changed since the table was opened")),
        }
    }

    fn read_piece(&self, piece: u32) -> Result<(u64, Vec<u8>)> {
        let first = piece * PIECE_ENTRIES;
        let count = PIECE_ENTRIES.min(self.footer.chunks.saturating_sub(first));
        let at = u64::from(self.footer.index_offset) + u64::from(first) * ENTRY_BYTES as u64;
        Ok((at, self.read(at, count as usize * ENTRY_BYTES)?))
    }

    /// Reads `len` bytes from `offset`.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        read(&*self.file, &self.name, offset, len)
    }

    /// Whether the chunk at `ordinal` was hashed since the table was opened.
    pub(crate) fn is_verified(&self, ordinal: u32) -> bool {
        let word = self.verified.get(ordinal as usize / 64);
        word.is_some_and(|word| word.load(Ordering::Relaxed) >> (ordinal % 64) & 1 == 1)
    }

    pub(crate) fn set_verified(&self, ordinal: u32) {
        if let Some(word) = self.verified.get(ordinal as usize / 64) {
            word.fetch_or(1 << (ordinal % 64), Ordering::Relaxed);
        }
    }

    fn damaged(&self, offset: u64, what: &str) -> Error {
        Error::damaged(&self.name, offset, what)
    }
}

fn check_header(file: &dyn File, name: &str, number: u32, store: &StoreId) -> Result<[u8; 32]> {
    let mut found = [0; HEADER_BYTES];
    read_into(file, name, &mut found, 0)?;
    let mut fields = Fields::new(&found);
    if fields.take(8) != Some(MAGIC) {
        return Err(Error::damaged(name, 0, "a table begins with \"plchtabl\""));
    }
    let version = fields.u32().unwrap_or(0);
    if found[CHECKED_BYTES..] != checksum(&found[..CHECKED_BYTES]) {
        return Err(Error::damaged(name, 8, "the table's header does not match its checksum"));
    }
    if version != VERSION {
        return Err(Error::Version { file: name.to_owned(), found: version, expected: VERSION });
    }
    if found != header(number, store) {
        return Err(Error::damaged(name, 12, "this is another table, or another store's"));
    }
    Ok(key_of(&found))
}

/// Enough to tell bytes that rotted: whoever can choose them can choose the footer, too.
fn check_of_piece(bytes: &[u8]) -> u64 {
    let hash = blake3::hash(bytes);
    hash.as_bytes().first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

/// The key of the checks in the table with this header.
pub(crate) fn key_of(header: &[u8; HEADER_BYTES]) -> [u8; 32] {
    *blake3::hash(header).as_bytes()
}

fn read(file: &dyn File, name: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    read_into(file, name, &mut bytes, offset)?;
    Ok(bytes)
}

fn read_into(file: &dyn File, name: &str, buffer: &mut [u8], offset: u64) -> Result<()> {
    file.read_at(buffer, offset).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            Error::damaged(name, offset, "the file ends before what was written there")
        }
        _ => Error::io("read", name)(error),
    })
}

/// The check by which the manifest knows a table: the end of its footer.
pub(crate) fn check_of(footer: &[u8; FOOTER_BYTES]) -> Check {
    let mut check = Check::default();
    check.copy_from_slice(&footer[CHECKED_BYTES..]);
    check
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::bytes::tests::hex;
    use crate::frame::{Encoding, FrameHeader};
    use crate::io::memory::Memory;

    const STORE: StoreId = [0xab; 16];
    const NAME: &str = "table-00000007";

    /// A table of two chunks, whose hashes are told; and what the manifest says of it.
    fn table() -> (Vec<u8>, Listed) {
        let memory = Memory::default();
        let mut writer = write::Writer::create(&memory, 7, &STORE, b"dict", TABLE_BYTES_MAX).unwrap();
        let raw = FrameHeader {
            encoding: Encoding::Raw,
            step: 0,
            crossed: false,
            leaf: true,
            partial: false,
            raw_len: 5,
            payload_len: 5,
        };
        let base = writer.put(Hash::from_bytes([2; 32]), &raw, b"chunk").unwrap();
        assert_eq!((base.offset, base.len), (68, 10));
        let patch = Encoding::Patch { file: 0, offset: 10, len: 10 };
        let patched =
            FrameHeader { encoding: patch, step: 1, leaf: false, partial: true, payload_len: 0, ..raw };
        writer.put(Hash::from_bytes([1; 32]), &patched, b"").unwrap();
        let listed = writer.finish(5, 2, 6, None).unwrap();
        (memory.files().remove(NAME).unwrap(), listed)
    }

    fn open(bytes: &[u8], listed: &Listed) -> Result<Table> {
        let memory = Memory::holding([(NAME.to_owned(), bytes.to_vec())].into());
        Table::open(&memory, listed, &STORE)
    }

    #[test]
    fn golden_bytes_of_a_table() {
        let (bytes, listed) = table();
        let header = format!("706c63687461626c 02000000 07000000 {}{}", "ab".repeat(16), "00".repeat(16));
        let frames = "64696374 81000005056368756e6b 2500010500000a0a";
        let (one, two) = ("01".repeat(32), "02".repeat(32));
        let index = format!("{one} 4e000000 08008080 {two} 44000000 0a000040");
        let fields = "02000000 04000000 56000000 00000000";
        let (start, footer) = bytes.split_at(bytes.len() - FOOTER_BYTES);
        assert_eq!(hex(&start[..48]), header.replace(' ', ""));
        assert_eq!(start[48..64], checksum(&start[..48]));
        assert_eq!(hex(&start[64..]), format!("{frames}{index}").replace(' ', ""));
        assert_eq!(hex(&footer[..16]), fields.replace(' ', ""));
        let key = *blake3::hash(&start[..64]).as_bytes();
        let digest = blake3::keyed_hash(&key, &[b"dict", &start[86..]].concat());
        assert_eq!(footer[16..48], *digest.as_bytes());
        assert_eq!(footer[48..], blake3::keyed_hash(&key, &footer[..48]).as_bytes()[..16]);
        assert_eq!(footer[48..], listed.check);
        assert_eq!((listed.len, listed.newest, listed.tier, listed.run), (bytes.len() as u64, 5, 2, 6));
        assert_eq!(hex(&bytes[48..64]), "6053b3b7988599c9cdd8fe354a85b962");
        assert_eq!(
            hex(&footer[16..]),
            "c2d4f7022f374249d9f7962c89df96bf0564422ed161aabc4c1114104b47453ef1e0cdb83598b7cf948d7f00e88411ef"
        );

        let table = open(&bytes, &listed).unwrap();
        let leaf =
            Location { file: 7, offset: 68, len: 10, step: 0, crossed: false, leaf: true, partial: false };
        let patched = Location { offset: 78, len: 8, step: 1, leaf: false, partial: true, ..leaf };
        let mut entries = Vec::new();
        table
            .for_each(|ordinal, hash, place| {
                entries.push((ordinal, hash, place));
                Ok(())
            })
            .unwrap();
        let hashes = [Hash::from_bytes([1; 32]), Hash::from_bytes([2; 32])];
        assert_eq!(entries, [(0, hashes[0], patched), (1, hashes[1], leaf)]);
        assert_eq!(table.hashes(1).unwrap(), (0, hashes.to_vec()));
        assert_eq!(table.dictionary.as_ref().unwrap().bytes(), b"dict");
        assert_eq!(table.frames_len(), 18);
    }

    #[test]
    fn a_table_is_opened_whole_or_refused() {
        let (bytes, listed) = table();
        let frames = 68 * 8..86 * 8;
        for bit in (0..bytes.len() * 8).filter(|bit| !frames.contains(bit)) {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let opened = open(&flipped, &listed).map(drop);
            assert!(matches!(opened, Err(Error::Damaged { .. })), "bit {bit}: {opened:?}");
        }
        for len in 0..bytes.len() {
            assert!(open(&bytes[..len], &listed).is_err(), "cut at {len}");
            let agreed = Listed { len: len as u64, ..listed };
            assert!(open(&bytes[..len], &agreed).is_err(), "cut at {len}, and so says the manifest");
        }
        let other = Listed { number: 8, ..listed };
        let memory = Memory::holding([(file_name(8), bytes.clone())].into());
        assert!(matches!(Table::open(&memory, &other, &STORE), Err(Error::Damaged { .. })), "another number");
        assert!(matches!(Table::open(&memory, &listed, &STORE), Err(Error::Damaged { .. })), "missing");
    }

    /// The table with its header or index changed, and checks made good.
    fn remade(change: impl FnOnce(&mut [u8])) -> Result<Table> {
        let (mut bytes, listed) = table();
        change(&mut bytes);
        let check = checksum(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..HEADER_BYTES].copy_from_slice(&check);
        let key = *blake3::hash(&bytes[..HEADER_BYTES]).as_bytes();
        let footer = bytes.len() - FOOTER_BYTES;
        let digest = *blake3::keyed_hash(&key, &[b"dict", &bytes[86..footer]].concat()).as_bytes();
        let footer = Footer { chunks: 2, dictionary_len: 4, index_offset: 86, digest }.encode(&key);
        let start = bytes.len() - FOOTER_BYTES;
        bytes[start..].copy_from_slice(&footer);
        open(&bytes, &Listed { check: check_of(&footer), ..listed })
    }

    #[test]
    fn a_table_of_another_version_or_order_is_refused() {
        assert!(remade(|_| {}).is_ok());
        for version in [0, 1, u32::MAX] {
            let opened = remade(|bytes| bytes[8..12].copy_from_slice(&version.to_le_bytes())).map(drop);
            assert!(
                matches!(opened, Err(Error::Version { found, expected: 2, .. }) if found == version),
                "{opened:?}"
            );
        }
        for (at, what) in [(16, "another store's"), (40, "a field that is kept")] {
            assert!(matches!(remade(|bytes| bytes[at] ^= 1), Err(Error::Damaged { .. })), "{what}");
        }
        let swapped = remade(|bytes| bytes[86..86 + 80].rotate_left(40));
        assert!(matches!(swapped, Err(Error::Damaged { .. })), "hashes that do not ascend");
        let twice = remade(|bytes| bytes.copy_within(86..118, 126));
        assert!(matches!(twice, Err(Error::Damaged { .. })), "a hash that is there twice");
        for (at, value, what) in [
            (118, 67, "a frame in the dictionary"),
            (118, 79, "a frame that reaches into the index"),
            (124, 0xa0, "a step of 65"),
            (125, 0xc0, "a leaf that is partial"),
        ] {
            let table = remade(|bytes| bytes[at] = value).unwrap();
            assert!(matches!(table.entry(0), Err(Error::Damaged { .. })), "{what}");
            assert!(table.entry(1).is_ok());
        }
    }

    #[test]
    fn only_names_of_tables_have_numbers() {
        assert_eq!(
            (number_of(NAME), number_of("table-7"), number_of("journal-00000007")),
            (Some(7), None, None)
        );
    }
}
