//! Writing a table: frames as they come, then the index and the footer.
//!
//! One idea: a table is not part of the store before a manifest lists it, so it is written without any order among its bytes, and synced
//! once at its end.

use std::sync::Arc;

use super::{
    ENTRY_BYTES, FOOTER_BYTES, Footer, HEADER_BYTES, check_of, encode_entry, file_name, header, key_of,
};
use crate::error::{Error, Result};
use crate::frame::{self, FrameHeader, Location};
use crate::hash::Hash;
use crate::io::{File, Io};
use crate::journal::StoreId;
use crate::manifest::Listed;
use crate::testing::Plant;

/// Bytes gathered before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// A table being written.
pub(crate) struct Writer {
    number: u32,
    name: String,
    file: Arc<dyn File>,
    key: [u8; 32],
    hasher: blake3::Hasher,
    dictionary_len: u32,
    /// End of what was handed to the file; `buffer` follows.
    written: u64,
    buffer: Vec<u8>,
    entries: Vec<(Hash, Location)>,
    bytes_max: u64,
}

impl Writer {
    /// Begins a table of at most `bytes_max` bytes.
    pub(crate) fn create(
        io: &dyn Io,
        number: u32,
        store: &StoreId,
        dictionary: &[u8],
        bytes_max: u64,
    ) -> Result<Writer> {
        let name = file_name(number);
        let file = io.create(&name).map_err(Error::io("create", &name))?;
        let header = header(number, store);
        let key = key_of(&header);
        let mut hasher = blake3::Hasher::new_keyed(&key);
        hasher.update(dictionary);
        Ok(Writer {
            number,
            name,
            file,
            key,
            hasher,
            dictionary_len: dictionary.len() as u32,
            written: 0,
            buffer: [&header[..], dictionary].concat(),
            entries: Vec::new(),
            bytes_max,
        })
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Where the next frame will start.
    pub(crate) fn next_offset(&self) -> u32 {
        (self.written + self.buffer.len() as u64) as u32
    }

    /// Whether no chunk was put.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a frame of `len` bytes more still leaves a table of allowed length.
    pub(crate) fn has_room(&self, len: usize) -> bool {
        let index_len = (self.entries.len() + 1) * ENTRY_BYTES + FOOTER_BYTES;
        u64::from(self.next_offset()) + (len + index_len) as u64 <= self.bytes_max
    }

    /// Adds a frame and gives its place.
    pub(crate) fn put(&mut self, hash: Hash, header: &FrameHeader, payload: &[u8]) -> Result<Location> {
        let offset = self.next_offset();
        let len = frame::put(&mut self.buffer, header, payload);
        let FrameHeader { step, leaf, partial, .. } = *header;
        let place = Location { file: self.number, offset, len, step, crossed: false, leaf, partial };
        self.entries.push((hash, place));
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(place)
    }

    fn flush(&mut self) -> Result<()> {
        self.file.write_at(&self.buffer, self.written).map_err(Error::io("write", &self.name))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Writes index and footer and syncs the file; its directory entry is not durable yet.
    pub(crate) fn finish(mut self, newest: u32, tier: u32, run: u32, plant: Option<Plant>) -> Result<Listed> {
        self.entries.sort_unstable_by_key(|(hash, _)| *hash);
        let index_offset = self.next_offset();
        for (hash, place) in std::mem::take(&mut self.entries) {
            let entry = encode_entry(&hash, &place);
            self.hasher.update(&entry);
            self.buffer.extend(entry);
        }
        let index_len = self.next_offset() - index_offset;
        let footer = Footer {
            chunks: index_len / ENTRY_BYTES as u32,
            dictionary_len: self.dictionary_len,
            index_offset,
            digest: *self.hasher.finalize().as_bytes(),
        };
        let footer = footer.encode(&self.key);
        self.buffer.extend(footer);
        self.flush()?;
        if plant != Some(Plant::ManifestBeforeTable) {
            self.file.sync_data().map_err(Error::io("sync", &self.name))?;
        }
        debug_assert!(self.written > HEADER_BYTES as u64);
        Ok(Listed {
            number: self.number,
            len: self.written,
            newest,
            check: check_of(&footer),
            tier,
            run,
            held: false,
        })
    }
}
