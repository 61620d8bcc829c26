//! The watermark: how far the active journal is known to be durable.
//!
//! One idea: it is written after each sync and has none of its own, so it may lag, but it never states what is not so. It tells
//! damage from a torn tail, and a clean close from a crash. Losing it only loses that knowledge, so a watermark that cannot be read is ignored.
//!
//! ```text
//! offset  size  field (little-endian)
//!      0     8  magic     "plchwtrm"
//!      8     4  version   = 1
//!     12     4  number    of the journal
//!     16     8  end       of its last durable group
//!     24    16  store     the store's identity
//!     40    16  checksum  BLAKE3 of the 40 bytes before, its first 16 bytes
//! ```
//!
//! The 56 bytes lie in one sector, which a disk writes whole or not at all.

use std::sync::Arc;

use crate::bytes::Fields;
use crate::error::{Error, Result};
use crate::io::{File, Io};
use crate::journal::{StoreId, checksum};

/// The watermark's name.
pub(crate) const FILE: &str = "watermark";
const MAGIC: &[u8; 8] = b"plchwtrm";
const VERSION: u32 = 1;
const BYTES: usize = 56;

/// A place in the sequence of journals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark {
    pub(crate) number: u32,
    pub(crate) end: u64,
}

/// The open watermark file.
pub(crate) struct Watermark {
    file: Arc<dyn File>,
    store: StoreId,
    /// What the file says, and whether that was synced.
    written: Option<(Mark, bool)>,
}

impl Watermark {
    /// Makes an empty watermark file.
    pub(crate) fn create(io: &dyn Io, store: StoreId) -> Result<Watermark> {
        let file = io.create(FILE).map_err(Error::io("create", FILE))?;
        Ok(Watermark { file, store, written: None })
    }

    /// Opens the watermark, making it if it is gone.
    pub(crate) fn open(io: &dyn Io, store: StoreId) -> Result<Watermark> {
        let file = match io.open(FILE) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Watermark::create(io, store);
            }
            other => other.map_err(Error::io("open", FILE))?,
        };
        let found = read(&*file, &store);
        Ok(Watermark { file, store, written: found.map(|mark| (mark, true)) })
    }

    /// Opens the watermark that another process writes; one that is gone says nothing.
    pub(crate) fn open_to_read(io: &dyn Io, store: StoreId) -> Result<Option<Watermark>> {
        match io.open(FILE) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("open", FILE)(error)),
            Ok(file) => {
                let written = read(&*file, &store).map(|mark| (mark, true));
                Ok(Some(Watermark { file, store, written }))
            }
        }
    }

    /// What the file says by now.
    pub(crate) fn read_again(&self) -> Option<Mark> {
        read(&*self.file, &self.store)
    }

    /// What the file says.
    pub(crate) fn mark(&self) -> Option<Mark> {
        self.written.map(|(mark, _)| mark)
    }

    /// Writes `mark`, without a sync.
    pub(crate) fn write(&mut self, mark: Mark) -> Result<()> {
        if self.mark() != Some(mark) {
            self.written = None;
            self.file.write_at(&encode(mark, &self.store), 0).map_err(Error::io("write", FILE))?;
            self.written = Some((mark, false));
        }
        Ok(())
    }

    /// Makes what was written durable.
    pub(crate) fn sync(&mut self) -> Result<()> {
        if let Some((_, synced)) = &mut self.written
            && !*synced
        {
            self.file.sync_data().map_err(Error::io("sync", FILE))?;
            *synced = true;
        }
        Ok(())
    }
}

fn read(file: &dyn File, store: &StoreId) -> Option<Mark> {
    let mut bytes = [0; BYTES];
    file.read_at(&mut bytes, 0).ok().and_then(|()| decode(&bytes, store))
}

fn encode(mark: Mark, store: &StoreId) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BYTES);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(mark.number.to_le_bytes());
    bytes.extend(mark.end.to_le_bytes());
    bytes.extend(store);
    bytes.extend(checksum(&bytes));
    bytes
}

fn decode(bytes: &[u8; BYTES], store: &StoreId) -> Option<Mark> {
    let mut fields = Fields::new(bytes);
    fields.take(12)?;
    let mark = Mark { number: fields.u32()?, end: fields.u64()? };
    (encode(mark, store) == bytes).then_some(mark)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::bytes::tests::hex;

    #[test]
    fn golden_bytes_of_a_watermark() {
        let mark = Mark { number: 3, end: 0x1234 };
        let bytes = encode(mark, &[0xab; 16]);
        let fields = format!("706c63687774726d 01000000 03000000 3412000000000000 {}", "ab".repeat(16));
        assert_eq!(hex(&bytes), format!("{fields} 68dea0a82d343679647d08e4dcacc469").replace(' ', ""));
        let bytes: [u8; BYTES] = bytes.try_into().unwrap();
        assert_eq!(decode(&bytes, &[0xab; 16]), Some(mark));
        assert_eq!(decode(&bytes, &[0xac; 16]), None, "another store's");
    }
}
