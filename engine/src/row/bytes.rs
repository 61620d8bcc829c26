//! Varints, and a reader that never runs past its bytes.
//!
//! The one idea: a decoder asks for what the layout says comes next and gets it or an error that names the offset.
//! Varints are LEB128 (seven bits a byte, least significant first, high bit = more follows) in their shortest form;
//! signed numbers are zigzagged first (0, −1, 1, −2 → 0, 1, 2, 3). Used by `key.rs`, `cells.rs` and `schema.rs`.

use super::error::Error;

/// Appends `number` as a varint.
pub(super) fn put_varint(out: &mut Vec<u8>, mut number: u128) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends `number` as a zigzag varint.
pub(super) fn put_signed(out: &mut Vec<u8>, number: i128) {
    put_varint(out, (number << 1 ^ number >> 127) as u128);
}

/// Appends a length and the bytes.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u128);
    out.extend_from_slice(bytes);
}

/// Reads `bytes` from the front; errors call them a `part` (`row key`, `row value`, `schema`).
pub(super) struct Reader<'a> {
    part: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(part: &'static str, bytes: &'a [u8]) -> Reader<'a> {
        Reader { part, bytes, at: 0 }
    }

    /// Lets `read` read from here as if all bytes were complemented.
    pub(super) fn complemented<T>(
        &mut self,
        read: impl FnOnce(&mut Reader<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let bytes: Vec<u8> = self.bytes.iter().map(|byte| !byte).collect();
        let mut reader = Reader { part: self.part, bytes: &bytes, at: self.at };
        let value = read(&mut reader)?;
        self.at = reader.at;
        Ok(value)
    }

    pub(super) fn offset(&self) -> usize {
        self.at
    }

    pub(super) fn malformed(
        &self,
        offset: usize,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Error {
        Error::Malformed { part: self.part, offset, expected: expected.into(), found: found.into() }
    }

    /// The rest, unread.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let taken = self.rest().get(..count).ok_or_else(|| {
            self.malformed(self.at, format!("{count} bytes"), format!("{} bytes", self.rest().len()))
        })?;
        self.at += count;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let offset = self.at;
        let taken = self.take(N)?;
        taken
            .try_into()
            .map_err(|_| self.malformed(offset, format!("{N} bytes"), format!("{} bytes", taken.len())))
    }

    pub(super) fn byte(&mut self) -> Result<u8, Error> {
        Ok(self.array::<1>()?[0])
    }

    /// A byte that is 0 or 1.
    pub(super) fn bit(&mut self) -> Result<bool, Error> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            byte => Err(self.malformed(self.at - 1, "0 or 1", byte.to_string())),
        }
    }

    /// A varint of at most `max`.
    pub(super) fn varint(&mut self, max: u128) -> Result<u128, Error> {
        let start = self.at;
        let mut number = 0u128;
        for shift in (0..=126).step_by(7) {
            let byte = self.byte()?;
            let bits = u128::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte < 0x80 {
                if byte == 0 && shift > 0 {
                    return Err(self.malformed(start, "the shortest varint", "a varint padded with zeros"));
                }
                if number > max {
                    break;
                }
                return Ok(number);
            }
        }
        Err(self.malformed(start, format!("a varint of at most {max}"), "a larger one"))
    }

    /// A varint that counts bytes or entries of at least one byte, so that it cannot exceed what is left.
    pub(super) fn count(&mut self) -> Result<usize, Error> {
        let start = self.at;
        let count = self.varint(u128::from(u64::MAX))?;
        match usize::try_from(count) {
            Ok(count) if count <= self.rest().len() => Ok(count),
            _ => Err(self.malformed(
                start,
                format!("a count of at most {}", self.rest().len()),
                count.to_string(),
            )),
        }
    }

    /// A zigzag varint whose unsigned form is at most `max`.
    pub(super) fn signed(&mut self, max: u128) -> Result<i128, Error> {
        let number = self.varint(max)?;
        Ok((number >> 1) as i128 ^ -((number & 1) as i128))
    }

    /// A length and as many bytes.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Error> {
        let count = self.count()?;
        self.take(count)
    }

    /// `bytes`, which end at the current offset, as text.
    pub(super) fn text(&self, bytes: Vec<u8>) -> Result<String, Error> {
        String::from_utf8(bytes)
            .map_err(|error| self.malformed(self.at, "UTF-8 text before it", error.to_string()))
    }

    /// Refuses bytes after the end.
    pub(super) fn end(&self) -> Result<(), Error> {
        match self.rest().len() {
            0 => Ok(()),
            more => Err(self.malformed(self.at, "the end", format!("{more} more bytes"))),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numbers_read_back_and_only_in_their_shortest_form() {
        for number in
            [0, 1, -1, 63, -64, 64, i128::from(i64::MAX), i128::from(i64::MIN), i128::MAX, i128::MIN]
        {
            let mut out = Vec::new();
            put_signed(&mut out, number);
            let mut reader = Reader::new("row value", &out);
            assert_eq!(reader.signed(u128::MAX).unwrap(), number);
            reader.end().unwrap();
        }
        for bytes in [&[0x80, 0][..], &[0xff, 0x80, 0], &[0x80], &[0xff; 19], &[0xff; 40], &[]] {
            assert!(Reader::new("row value", bytes).varint(u128::MAX).is_err(), "{bytes:?}");
        }
        assert!(Reader::new("row value", &[11]).varint(10).is_err());
    }

    #[test]
    fn a_count_beyond_the_bytes_is_refused_before_anything_is_allocated() {
        assert!(Reader::new("row value", &[0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2]).count().is_err());
    }
}
