//! Objects of JSON lines.
//!
//! The one idea: members are taken as slices of the line, so that a number keeps its digits, a repeated name is seen,
//! and a slice's place in the line is its position.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::cell::Cell;
use super::error::{Position, TabularError};
use super::lines::Lines;

/// A member of an object.
pub(super) struct Member<'a> {
    pub(super) name: Cow<'a, str>,
    /// Where the name starts.
    pub(super) name_at: Position,
    pub(super) cell: Cell<'a>,
    /// Where the value starts.
    pub(super) at: Position,
}

/// Reads one object a line.
pub(super) struct Objects {
    lines: Lines,
    line: String,
}

impl Objects {
    pub(super) fn new(lines: Lines) -> Objects {
        Objects { lines, line: String::new() }
    }

    /// Reads the next line's members, in their order; `None` at the end of the file. Names may repeat: the caller,
    /// who looks each up, refuses that.
    pub(super) fn read(&mut self) -> Result<Option<(Vec<Member<'_>>, &Lines)>, TabularError> {
        if !self.lines.read(&mut self.line)? {
            return Ok(None);
        }
        let Objects { lines, line } = self;
        if line.trim().is_empty() {
            let at = Position { line: lines.number(), column: 1 };
            return Err(lines.refuse(at, "one JSON object a line", "an empty line"));
        }
        let raw: RawMembers<'_> = serde_json::from_str(line).map_err(|error| syntax(lines, line, &error))?;
        let mut place = Place { lines, line, offset: 0, column: 1 };
        let mut members = Vec::with_capacity(raw.0.len());
        for (name, value) in raw.0 {
            let name_at = place.of(name);
            let at = place.of(value);
            let name = string(name).map_err(|what| lines.refuse(name_at, "a member's name", what))?;
            let cell = cell(value).map_err(|found| {
                lines.refuse(at, r#"a string, number, true, false, null or {"hex":"…"}"#, found)
            })?;
            members.push(Member { name, name_at, cell, at });
        }
        Ok(Some((members, lines)))
    }

    pub(super) fn lines(&self) -> &Lines {
        &self.lines
    }
}

/// Finds positions of slices of a line, in the order in which they stand there.
struct Place<'a> {
    lines: &'a Lines,
    line: &'a str,
    offset: usize,
    column: u64,
}

impl Place<'_> {
    fn of(&mut self, slice: &RawValue) -> Position {
        let offset = slice.get().as_ptr() as usize - self.line.as_ptr() as usize;
        let passed = self.line.get(self.offset..offset).unwrap_or_default();
        self.column += passed.chars().count() as u64;
        self.offset = offset;
        Position { line: self.lines.number(), column: self.column }
    }
}

/// What serde_json says, at the character where it says it.
fn syntax(lines: &Lines, line: &str, error: &serde_json::Error) -> TabularError {
    let length = line.trim_end_matches(['\r', '\n']).len();
    let bytes = if error.is_eof() { length } else { error.column().saturating_sub(1).min(length) };
    let column = line.char_indices().take_while(|(offset, _)| *offset < bytes).count() as u64 + 1;
    let what = error.to_string();
    let what = what.split(" at line ").next().unwrap_or_default();
    lines.refuse(
        Position { line: lines.number(), column },
        "one JSON object a line",
        format!("an error: {what}"),
    )
}

fn string(raw: &RawValue) -> Result<Cow<'_, str>, String> {
    let written = raw.get().strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default();
    match written.contains('\\') {
        false => Ok(Cow::Borrowed(written)),
        true => match serde_json::from_str(raw.get()) {
            Ok(text) => Ok(Cow::Owned(text)),
            Err(_) => Err("a string with an escape that is no character".into()),
        },
    }
}

/// The cell, or what was found instead of one.
fn cell(raw: &RawValue) -> Result<Cell<'_>, String> {
    let written = raw.get();
    match written.as_bytes().first() {
        Some(b'n') => Ok(Cell::Null),
        Some(b't' | b'f') => Ok(Cell::Bool(written)),
        Some(b'"') => Ok(Cell::Text(string(raw)?)),
        Some(b'[') => Err("an array".into()),
        Some(b'{') => hex(written).map(Cell::Hex).ok_or_else(|| "another object".into()),
        _ => Ok(Cell::Number(written)),
    }
}

/// The bytes of `{"hex":"00ff"}`.
fn hex(object: &str) -> Option<Vec<u8>> {
    let members: RawMembers<'_> = serde_json::from_str(object).ok()?;
    let [(name, value)] = members.0.as_slice() else { return None };
    if string(name).ok()? != "hex" || !value.get().starts_with('"') {
        return None;
    }
    let digits = string(value).ok()?;
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

/// An object's members as they are written.
struct RawMembers<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for RawMembers<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = RawMembers<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawMembers<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(RawMembers(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}
