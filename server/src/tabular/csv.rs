//! Records of CSV and TSV.
//!
//! The one idea: a reader of our own, because a field must say whether it was quoted (an empty one is NULL if not) and
//! where it stood, on which line of a record that runs over several. The grammar is RFC 4180's; `tabular.rs` says
//! what is accepted beyond it.

use std::ops::Range;

use super::cell::Cell;
use super::error::{Position, TabularError};
use super::lines::{Lines, RECORD_BYTES_MAX};

/// One record; reused from read to read.
#[derive(Default)]
pub(super) struct Record {
    /// All fields' text, unescaped, one after the other.
    text: String,
    fields: Vec<Field>,
    /// Behind the last character.
    end: Option<Position>,
}

struct Field {
    range: Range<usize>,
    quoted: bool,
    at: Position,
}

impl Record {
    pub(super) fn len(&self) -> usize {
        self.fields.len()
    }

    /// Where the record starts.
    pub(super) fn start(&self) -> Position {
        self.fields.first().map_or(self.end(), |field| field.at)
    }

    /// Behind the record's last character.
    pub(super) fn end(&self) -> Position {
        self.end.unwrap_or(Position { line: 1, column: 1 })
    }

    /// Each field's text, where it starts, and whether it was quoted.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&str, Position, bool)> + '_ {
        self.fields
            .iter()
            .map(|field| (self.text.get(field.range.clone()).unwrap_or_default(), field.at, field.quoted))
    }

    /// Each field as a cell, and where it starts: empty and unquoted is NULL.
    pub(super) fn cells(&self) -> impl Iterator<Item = (Cell<'_>, Position)> + '_ {
        self.fields().map(|(text, at, quoted)| match text.is_empty() && !quoted {
            true => (Cell::Null, at),
            false => (Cell::Plain(text), at),
        })
    }
}

/// Reads records, header included.
pub(super) struct Records {
    lines: Lines,
    delimiter: char,
    line: String,
    /// Length of `line` without its line end.
    end: usize,
    /// How far `line` is read, in bytes and as the column of the next character.
    at: usize,
    column: u64,
}

impl Records {
    pub(super) fn new(lines: Lines, delimiter: char) -> Records {
        Records { lines, delimiter, line: String::new(), end: 0, at: 0, column: 1 }
    }

    pub(super) fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Reads a header: distinct names, none empty.
    pub(super) fn header(&mut self) -> Result<Record, TabularError> {
        let mut header = Record::default();
        if !self.read_any(&mut header)? {
            return Err(self.lines.refuse(header.end(), "a header line of column names", "an empty file"));
        }
        let mut names = std::collections::HashSet::new();
        for (name, at, _) in header.fields() {
            if name.is_empty() {
                return Err(self.lines.refuse(at, "a column name", "an empty field"));
            }
            if !names.insert(name) {
                return Err(self.lines.refuse(at, "column names to differ", format!("`{name}` again")));
            }
        }
        Ok(header)
    }

    /// Reads a record of as many fields as the header has; false at the end of the file.
    pub(super) fn read_row(&mut self, record: &mut Record, width: usize) -> Result<bool, TabularError> {
        if !self.read_any(record)? {
            return Ok(false);
        }
        let empty = record.len() == 1 && self.end == 0;
        if record.len() == width && !empty {
            return Ok(true);
        }
        let counted = |count: usize| if count == 1 { "1 field".into() } else { format!("{count} fields") };
        let found = if empty { "an empty line".into() } else { counted(record.len()) };
        let at = record.fields.get(width).map_or(record.end(), |surplus| surplus.at);
        Err(self.lines.refuse(at, format!("{}, as in the header", counted(width)), found))
    }

    /// Reads a record of any number of fields; false at the end of the file.
    pub(super) fn read_any(&mut self, record: &mut Record) -> Result<bool, TabularError> {
        record.text.clear();
        record.fields.clear();
        if !self.next_line()? {
            return Ok(false);
        }
        loop {
            let (at, start) = (self.position(), record.text.len());
            let quoted = self.rest().starts_with('"');
            match quoted {
                true => self.quoted(&mut record.text, at)?,
                false => self.unquoted(&mut record.text)?,
            }
            record.fields.push(Field { range: start..record.text.len(), quoted, at });
            record.end = Some(self.position());
            if self.at == self.end {
                return Ok(true);
            }
            if !self.rest().starts_with(self.delimiter) {
                let expected =
                    format!("{} or the end of the line after a closing quote", self.delimiter_name());
                let found = format!("{:?}", self.rest().chars().next().unwrap_or_default().to_string());
                return Err(self.lines.refuse(self.position(), expected, found));
            }
            self.advance(1);
        }
    }

    fn unquoted(&mut self, text: &mut String) -> Result<(), TabularError> {
        let rest = self.rest();
        let field = rest.split(self.delimiter).next().unwrap_or_default();
        let length = field.len();
        if let Some(before) = field.find('\r') {
            self.advance(before);
            let expected = "a carriage return at the end of a line or in a quoted field only";
            return Err(self.lines.refuse(self.position(), expected, "one in an unquoted field"));
        }
        text.push_str(field);
        self.advance(length);
        Ok(())
    }

    /// Reads from the opening quote, at `opening`, to behind the closing one, over as many lines as it takes.
    fn quoted(&mut self, text: &mut String, opening: Position) -> Result<(), TabularError> {
        self.advance(1);
        loop {
            let rest = self.line.get(self.at..).unwrap_or_default();
            if let Some(quote) = rest.find('"') {
                text.push_str(rest.get(..quote).unwrap_or_default());
                self.advance(quote + 1);
                if !self.rest().starts_with('"') {
                    return Ok(());
                }
                text.push('"');
                self.advance(1);
                continue;
            }
            text.push_str(rest);
            if text.len() > RECORD_BYTES_MAX {
                let expected = format!("a closing quote within {RECORD_BYTES_MAX} bytes");
                return Err(self.lines.refuse(opening, expected, "none"));
            }
            if !self.next_line()? {
                return Err(self.lines.refuse(opening, "a closing quote", "the end of the file"));
            }
        }
    }

    fn next_line(&mut self) -> Result<bool, TabularError> {
        let more = self.lines.read(&mut self.line)?;
        let content = self.line.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
        self.end = content.map_or(self.line.len(), str::len);
        (self.at, self.column) = (0, 1);
        Ok(more)
    }

    /// What is left of the line, without its line end.
    fn rest(&self) -> &str {
        self.line.get(self.at..self.end).unwrap_or_default()
    }

    fn advance(&mut self, bytes: usize) {
        let passed = self.line.get(self.at..self.at + bytes).unwrap_or_default();
        self.column += passed.chars().count() as u64;
        self.at += bytes;
    }

    fn position(&self) -> Position {
        Position { line: self.lines.number(), column: self.column }
    }

    fn delimiter_name(&self) -> &'static str {
        if self.delimiter == '\t' { "a tab" } else { "a comma" }
    }
}
