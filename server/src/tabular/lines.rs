//! Numbered lines of UTF-8, and the refusals that name them.
//!
//! The one idea: text is checked where it enters, a line at a time, so that the readers above never see bytes.

use std::io::{BufRead, Read};

use pleach_engine::row::ParseError;

use super::error::{Position, TabularError};

/// Most bytes of a line, and of a record that runs over lines.
pub(super) const RECORD_BYTES_MAX: usize = 64 << 20;

/// Reads lines, the first of which is number 1.
pub(super) struct Lines {
    file: String,
    input: Box<dyn BufRead + Send>,
    number: u64,
}

impl Lines {
    pub(super) fn new(file: String, input: Box<dyn BufRead + Send>) -> Lines {
        Lines { file, input, number: 0 }
    }

    /// The number of the line that was read last.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Puts the next line, with its line end, in `line`; false at the end of the file.
    pub(super) fn read(&mut self, line: &mut String) -> Result<bool, TabularError> {
        let mut bytes = std::mem::take(line).into_bytes();
        bytes.clear();
        let mut input = self.input.by_ref().take(RECORD_BYTES_MAX as u64 + 1);
        input
            .read_until(b'\n', &mut bytes)
            .map_err(|error| TabularError::Io { file: self.file.clone(), error })?;
        if bytes.is_empty() {
            return Ok(false);
        }
        self.number += 1;
        if self.number == 1 && bytes.starts_with("\u{feff}".as_bytes()) {
            bytes.drain(..3);
        }
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(self.refuse(
                Position { line: self.number, column: 1 },
                format!("a line of at most {RECORD_BYTES_MAX} bytes"),
                "a longer one",
            ));
        }
        *line = String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let (before, after) = error.as_bytes().split_at(valid);
            let column = String::from_utf8_lossy(before).chars().count() as u64 + 1;
            let byte = after.first().copied().unwrap_or_default();
            self.refuse(
                Position { line: self.number, column },
                "UTF-8 text",
                format!("the byte 0x{byte:02x}"),
            )
        })?;
        Ok(true)
    }

    pub(super) fn refuse(
        &self,
        at: Position,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> TabularError {
        TabularError::BadInput { file: self.file.clone(), at, expected: expected.into(), found: found.into() }
    }

    pub(super) fn refuse_value(&self, at: Position, error: ParseError) -> TabularError {
        self.refuse(at, error.expected, error.found)
    }
}
