//! The blocks of a patch file: bytes are given out only after the check of their block.

use std::io::{self, Read, Write};

use pleach_chunkstore::Hash;

use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"PLPATCH\0";
const VERSION: u16 = 2;
const HEADER: usize = 10;
const BLOCK_BYTES_MAX: usize = 64 << 10;
/// Length and check.
const BLOCK_HEADER: usize = 4 + Hash::LEN;

fn check(before: &Hash, bytes: &[u8]) -> Hash {
    let length = (bytes.len() as u32).to_le_bytes();
    Hash::of(&[before.as_bytes().as_slice(), &length, bytes].concat())
}

/// Cuts a stream of bytes into blocks.
pub(super) struct BlockWriter<'a> {
    out: &'a mut dyn Write,
    block: Vec<u8>,
    check: Hash,
}

impl<'a> BlockWriter<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Result<BlockWriter<'a>> {
        let header = [MAGIC.as_slice(), &VERSION.to_le_bytes()].concat();
        out.write_all(&header).map_err(cannot_write)?;
        Ok(BlockWriter { out, block: Vec::with_capacity(BLOCK_BYTES_MAX), check: Hash::of(&header) })
    }

    pub(super) fn bytes(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (taken, rest) = bytes.split_at(bytes.len().min(BLOCK_BYTES_MAX - self.block.len()));
            self.block.extend_from_slice(taken);
            bytes = rest;
            if self.block.len() == BLOCK_BYTES_MAX {
                self.end_block()?;
            }
        }
        Ok(())
    }

    pub(super) fn byte(&mut self, byte: u8) -> Result<()> {
        self.bytes(&[byte])
    }

    pub(super) fn number(&mut self, mut number: u64) -> Result<()> {
        while number >= 0x80 {
            self.byte(number as u8 | 0x80)?;
            number >>= 7;
        }
        self.byte(number as u8)
    }

    /// A length and that many bytes.
    pub(super) fn sized(&mut self, bytes: &[u8]) -> Result<()> {
        self.number(bytes.len() as u64)?;
        self.bytes(bytes)
    }

    /// A length and that many bytes of `source`, which has them.
    pub(super) fn copied(&mut self, len: u64, source: &mut dyn Read) -> Result<()> {
        self.number(len)?;
        let copied = io::copy(&mut source.take(len), self).map_err(Error::from_io)?;
        match copied == len {
            true => Ok(()),
            false => Err(Error::Source { source: io::ErrorKind::UnexpectedEof.into() }),
        }
    }

    fn end_block(&mut self) -> Result<()> {
        self.check = check(&self.check, &self.block);
        let length = (self.block.len() as u32).to_le_bytes();
        for part in [length.as_slice(), self.check.as_bytes(), &self.block] {
            self.out.write_all(part).map_err(cannot_write)?;
        }
        self.block.clear();
        Ok(())
    }

    /// Writes what is left, and the end.
    pub(super) fn finish(mut self) -> Result<()> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        self.end_block()?;
        self.out.flush().map_err(cannot_write)
    }
}

impl Write for BlockWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn cannot_write(source: io::Error) -> Error {
    Error::Output { source }
}

/// Puts the bytes of checked blocks together again.
pub(super) struct BlockReader<'a> {
    source: &'a mut dyn Read,
    block: Vec<u8>,
    at: usize,
    check: Hash,
    /// Where in the file the block at hand begins, and where it ends.
    start: u64,
    end: u64,
    ended: bool,
}

impl<'a> BlockReader<'a> {
    pub(super) fn new(source: &'a mut dyn Read) -> Result<BlockReader<'a>> {
        let check = Hash::of(&[]);
        let mut reader = BlockReader {
            source,
            block: Vec::new(),
            at: 0,
            check,
            start: 0,
            end: HEADER as u64,
            ended: false,
        };
        let header: [u8; HEADER] = reader.raw()?;
        if !header.starts_with(MAGIC) {
            return Err(reader.malformed("expected the first bytes of a patch; is this a patch file?"));
        }
        let version = u16::from_le_bytes([header[8], header[9]]);
        if version != VERSION {
            return Err(reader.malformed(format!(
                "expected a patch of version {VERSION}, found version {version}; use the pleach that made it"
            )));
        }
        reader.check = Hash::of(&header);
        Ok(reader)
    }

    /// What is wrong with the block that is read.
    pub(super) fn malformed(&self, what: impl Into<String>) -> Error {
        Error::MalformedPatch { offset: self.start, what: what.into() }
    }

    fn raw<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.source.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                self.malformed(format!("expected {} bytes more; the file was cut off", bytes.len()))
            }
            _ => Error::from_io(error),
        })
    }

    /// Takes up the next block; false at the end.
    fn next_block(&mut self) -> Result<bool> {
        if self.ended {
            return Ok(false);
        }
        self.start = self.end;
        let header: [u8; BLOCK_HEADER] = self.raw()?;
        let (length, expected) = header.split_at(4);
        let length = length.iter().rev().fold(0, |length, byte| length << 8 | usize::from(*byte));
        if length > BLOCK_BYTES_MAX {
            return Err(self.malformed(format!("expected a block of at most 64 KiB, found {length} bytes")));
        }
        let mut block = std::mem::take(&mut self.block);
        block.resize(length, 0);
        self.fill(&mut block)?;
        self.block = block;
        self.check = check(&self.check, &self.block);
        if self.check.as_bytes().as_slice() != expected {
            return Err(self.malformed("the check of a block does not hold: the file was changed"));
        }
        self.at = 0;
        self.ended = length == 0;
        self.end += (BLOCK_HEADER + length) as u64;
        Ok(!self.ended)
    }

    /// Some bytes of the block at hand, at most `most`; none at the end.
    fn here(&mut self, most: usize) -> Result<&[u8]> {
        if self.at == self.block.len() && !self.next_block()? {
            return Ok(&[]);
        }
        let to = self.block.len().min(self.at + most);
        let here = &self.block[self.at..to];
        self.at = to;
        Ok(here)
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        match self.here(1)? {
            [byte] => Ok(*byte),
            _ => Err(self.malformed("expected another record")),
        }
    }

    pub(super) fn number(&mut self) -> Result<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            number |= bits << shift;
            if byte & 0x80 == 0 {
                if (byte == 0 && shift > 0) || bits << shift >> shift != bits {
                    break;
                }
                return Ok(number);
            }
        }
        Err(self.malformed("expected a number of at most 64 bits in its shortest form"))
    }

    /// A length, of at most `max`.
    pub(super) fn length(&mut self, what: &str, max: u64) -> Result<u64> {
        match self.number()? {
            length if length <= max => Ok(length),
            length => {
                Err(self.malformed(format!("expected a {what} of at most {max} bytes, found {length}")))
            }
        }
    }

    /// Adds `count` bytes to `into`. Memory is taken as the bytes come.
    pub(super) fn take_into(&mut self, count: u64, into: &mut Vec<u8>) -> Result<()> {
        let mut left = count;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX);
            let here = self.here(most)?;
            if here.is_empty() {
                return Err(self.malformed(format!("expected {left} bytes more of a record")));
            }
            into.extend_from_slice(here);
            left -= here.len() as u64;
        }
        Ok(())
    }

    pub(super) fn owned(&mut self, count: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.take_into(count, &mut bytes)?;
        Ok(bytes)
    }

    /// A length of at most `max`, and that many bytes.
    pub(super) fn sized(&mut self, what: &str, max: u64) -> Result<Vec<u8>> {
        let length = self.length(what, max)?;
        self.owned(length)
    }

    /// Makes sure that nothing follows the last record.
    pub(super) fn finish(&mut self) -> Result<()> {
        if self.at < self.block.len() || self.next_block()? {
            return Err(self.malformed("expected nothing after the last record"));
        }
        match self.source.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.malformed("expected nothing after the last block")),
            Err(error) => Err(Error::from_io(error)),
        }
    }
}

impl Read for BlockReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        let here = self.here(into.len()).map_err(io::Error::other)?;
        let read = here.len();
        into[..read].copy_from_slice(here);
        Ok(read)
    }
}
