//! What readers read from: the files of the store, and where chunks lie in its tables.
//!
//! One idea: a view never changes. Compaction, collection and sealing put another in its place, and whoever still reads the old one has its
//! files open as long as needed. Chunks in journals are in the index beside it ([`crate::index`]), which is looked into first.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::Shared;
use crate::chunk::{Chunk, ChunkError};
use crate::error::{Error, Result};
use crate::frame::{self, Encoding, FrameError, Location, Source};
use crate::hash::Hash;
use crate::journal::{self, Journal};
use crate::stats::count;
use crate::table::hidden::HiddenChunks;
use crate::table::lookup::Lookup;
use crate::table::{self, Table};
use crate::testing::Plant;

/// The files of one generation.
#[derive(Clone, Default)]
pub(super) struct View {
    pub(super) journals: HashMap<u32, Arc<Journal>>,
    /// All tables, held ones too, by number.
    pub(super) tables: HashMap<u32, Arc<Table>>,
    /// Tables that are there only for the differences from their chunks.
    pub(super) held: BTreeSet<u32>,
    pub(super) lookup: Arc<Lookup>,
    pub(super) hidden: Arc<HiddenChunks>,
    pub(super) plant: Option<Plant>,
}

/// Where a chunk lies.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) place: Location,
    /// Its ordinal, if it lies in a table.
    pub(super) ordinal: Option<u32>,
}

impl View {
    /// Makes the lookup of all tables that are not held.
    pub(super) fn index_tables(&mut self) -> Result<()> {
        let mut tables: Vec<_> =
            self.tables.values().filter(|table| !self.held.contains(&table.number)).cloned().collect();
        tables.sort_by_key(|table| table.number);
        let hidden = self.hidden.clone();
        self.lookup = Arc::new(Lookup::build(tables, |number| hidden.get(&number))?);
        Ok(())
    }

    /// The frame at `place`.
    pub(super) fn read_frame(&self, place: Location) -> Result<Source, LoadError> {
        if let Some(journal) = self.journals.get(&place.file) {
            let bytes = journal.read(u64::from(place.offset), place.len as usize)?;
            return Ok(Source { bytes, dictionary: None });
        }
        let Some(table) = self.tables.get(&place.file) else { return Err(LoadError::Gone) };
        let bytes = table.read(u64::from(place.offset), place.len as usize)?;
        Ok(Source { bytes, dictionary: table.dictionary.clone() })
    }

    /// The bytes of the chunk at `place`, not hashed.
    pub(super) fn decode(&self, place: Location) -> Result<Vec<u8>, LoadError> {
        frame::decode(place, |place| self.read_frame(place))
    }

    /// The chunk `hash`, found at `found`; hashed if it was not since its file was opened, or if `always`.
    pub(super) fn load(&self, hash: &Hash, found: &Found, always: bool) -> Result<Chunk, LoadError> {
        let bytes = self.decode(found.place)?;
        let table = found.ordinal.and_then(|ordinal| Some((self.tables.get(&found.place.file)?, ordinal)));
        let known = !always && table.is_some_and(|(table, ordinal)| table.is_verified(ordinal));
        if known || self.plant == Some(Plant::HashUnchecked) {
            return Ok(Chunk::verified(bytes, hash)?);
        }
        let chunk = Chunk::verify(bytes, hash)?;
        if let Some((table, ordinal)) = table {
            table.set_verified(ordinal);
        }
        Ok(chunk)
    }
}

/// A chunk without strong children as a table has it, by itself. Nothing says that it is not damaged.
pub struct Stored {
    bytes: Vec<u8>,
    start: usize,
    raw_len: usize,
    is_zipped: bool,
}

impl Stored {
    /// A zstd frame without its magic number, or the chunk's bytes.
    pub fn payload(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// Whether the payload is a zstd frame.
    pub fn is_zipped(&self) -> bool {
        self.is_zipped
    }

    /// Length of the chunk, in bytes.
    pub fn raw_len(&self) -> usize {
        self.raw_len
    }
}

/// Why a chunk cannot be loaded.
pub(super) enum LoadError {
    /// The file is not part of the store any more: the chunk has moved.
    Gone,
    Frame(FrameError),
    Chunk(ChunkError),
    Store(Error),
}

impl LoadError {
    /// The error to be told, of the chunk `hash` at `place`.
    pub(super) fn tell(self, hash: &Hash, place: &Location, in_table: bool) -> Error {
        let file = match in_table {
            true => table::file_name(place.file),
            false => journal::file_name(place.file),
        };
        let damaged =
            |what: String| Error::Damaged { file, offset: u64::from(place.offset), hash: Some(*hash), what };
        match self {
            LoadError::Gone => {
                damaged("it, or its base, lies in a file that is not part of the store".to_owned())
            }
            LoadError::Frame(error) => damaged(error.to_string()),
            LoadError::Chunk(error) => damaged(error.to_string()),
            LoadError::Store(error) => error.of(hash),
        }
    }
}

impl From<FrameError> for LoadError {
    fn from(error: FrameError) -> LoadError {
        LoadError::Frame(error)
    }
}

impl From<ChunkError> for LoadError {
    fn from(error: ChunkError) -> LoadError {
        LoadError::Chunk(error)
    }
}

impl From<Error> for LoadError {
    fn from(error: Error) -> LoadError {
        LoadError::Store(error)
    }
}

/// How often a chunk that moved is looked up again before that counts as damage.
const LOOKUPS_MAX: usize = 8;

impl Shared {
    /// Where the chunk lies, and the view in which that holds; `None` if the store lacks it.
    pub(super) fn locate(&self, hash: &Hash) -> Result<Option<(Found, Arc<View>)>> {
        loop {
            let before = self.view.load();
            // Journals first: what leaves them is in the view by then.
            let recent = self.index.get(hash);
            let view = self.view.load_full();
            if let Some(place) = recent {
                return Ok(Some((Found { place, ordinal: None }, view)));
            }
            if let Some(found) = view.lookup.get(hash)? {
                return Ok(Some((Found { place: found.place, ordinal: Some(found.ordinal) }, view)));
            }
            // It may have gone from a table to a journal between the two looks.
            if Arc::ptr_eq(&before, &view) {
                return Ok(None);
            }
        }
    }

    /// See [`Store::stored`](super::Store::stored).
    pub(super) fn stored(&self, hash: &Hash) -> Result<Option<Stored>> {
        let Some((Found { place, ordinal: Some(_) }, view)) = self.locate(hash)? else { return Ok(None) };
        if !place.leaf || place.step > 0 {
            return Ok(None);
        }
        // Whoever loads the chunk says what is wrong with it.
        let Ok(Source { bytes, .. }) = view.read_frame(place) else { return Ok(None) };
        let Ok((header, payload)) = frame::parse(&bytes) else { return Ok(None) };
        let is_zipped = match header.encoding {
            Encoding::Zstd => true,
            Encoding::Raw => false,
            _ => return Ok(None),
        };
        let (raw_len, start) = (header.raw_len as usize, bytes.len() - payload.len());
        Ok(header.leaf.then_some(Stored { bytes, start, raw_len, is_zipped }))
    }

    /// Loads the chunk from its file; `None` if the store lacks it.
    pub(super) fn load(&self, hash: &Hash, always: bool) -> Result<Option<Chunk>> {
        for attempt in 1.. {
            let Some((found, view)) = self.locate(hash).map_err(|error| error.of(hash))? else {
                return Ok(None);
            };
            count(&self.counters.chunk_loads, 1);
            match view.load(hash, &found, always) {
                Ok(chunk) => return Ok(Some(chunk)),
                Err(LoadError::Gone) if attempt < LOOKUPS_MAX => {}
                Err(error) => return Err(error.tell(hash, &found.place, found.ordinal.is_some())),
            }
        }
        Ok(None)
    }
}
