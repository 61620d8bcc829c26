//! What can be wrong with a schema, with values for it, with a text, or with stored bytes.
//!
//! The one idea: an error carries the column (or the offset), what was expected and what was found, so that whoever
//! knows the file and the line can print a complete sentence without looking anything up.

use super::{
    COLUMN_ID_MAX, COLUMNS_MAX, DECIMAL_PRECISION_MAX, DEFAULT_BYTES_MAX, KEY_BYTES_MAX, NAME_BYTES_MAX, Type,
};

/// Why a schema, a row or stored bytes were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A schema without key columns: rows would have no identity.
    #[error("expected at least one key column, found none: choose the columns that identify a row")]
    NoKey,
    /// Two columns with one name.
    #[error("expected column names to differ, found `{name}` twice")]
    DuplicateName {
        /// The repeated name.
        name: String,
    },
    /// Two columns with one id.
    #[error("expected column ids to differ, found {id} twice")]
    DuplicateId {
        /// The repeated id.
        id: u32,
    },
    /// An empty or overlong column name.
    #[error("expected a column name of 1 to {NAME_BYTES_MAX} bytes, found {length} bytes")]
    BadName {
        /// Length of the name in bytes.
        length: usize,
    },
    /// A column id above the largest.
    #[error("expected a column id of at most {COLUMN_ID_MAX}, found {id}")]
    BadId {
        /// The id.
        id: u32,
    },
    /// A key that names a column which is not there.
    #[error("expected the id of a column in the key, found {id}")]
    UnknownKeyColumn {
        /// The id in the key.
        id: u32,
    },
    /// A key that names a column twice.
    #[error("expected each key column once, found `{column}` twice")]
    DuplicateKeyColumn {
        /// Name of the column.
        column: String,
    },
    /// More columns than a schema holds, those that were dropped included.
    #[error(
        "expected at most {COLUMNS_MAX} columns, those that were dropped included, and 2 MiB of schema; found {count} columns: make a new table and copy the rows"
    )]
    TooManyColumns {
        /// Columns found.
        count: usize,
    },
    /// A creation default that is too long.
    #[error(
        "expected a creation default of at most {DEFAULT_BYTES_MAX} bytes, found {length} bytes: add the column without one and update the rows"
    )]
    DefaultTooLong {
        /// Length of the default in bytes.
        length: usize,
    },
    /// What a key column cannot do.
    #[error(
        "key column `{column}` cannot {what}: the key is fixed when the table is made, so make a new table and copy the rows"
    )]
    KeyColumn {
        /// The key column.
        column: String,
        /// What was asked for.
        what: &'static str,
    },
    /// No column of that name.
    #[error("column `{column}` not found; `table show` lists those that exist")]
    NoSuchColumn {
        /// The name asked for.
        column: String,
    },
    /// A column whose changes cannot be added up.
    #[error(
        "changes of column `{column}` cannot be added up: expected an int or a decimal, found {ty}; decide its conflicts otherwise"
    )]
    NotAddable {
        /// The column.
        column: String,
        /// Its type.
        ty: Type,
    },
    /// A schema of another version.
    #[error(
        "expected a schema of version {expected}, found version {found}: use the version of this program that wrote it"
    )]
    SchemaVersion {
        /// The version that this program reads.
        expected: u8,
        /// The version found.
        found: u8,
    },
    /// A decimal type that cannot be stored.
    #[error(
        "expected decimal(P,S) with P from 1 to {DECIMAL_PRECISION_MAX} and S at most P, found decimal({precision},{scale})"
    )]
    BadDecimal {
        /// Digits in all.
        precision: u8,
        /// Digits after the point.
        scale: u8,
    },
    /// A row with too many or too few values.
    #[error("expected {expected} values, found {found}")]
    WrongCount {
        /// Values the schema asks for.
        expected: usize,
        /// Values given.
        found: usize,
    },
    /// A value of another type, or outside its column's range.
    #[error("column `{column}`: expected {expected}, found {found}")]
    WrongValue {
        /// Name of the column.
        column: String,
        /// What the column holds.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A key longer than [`KEY_BYTES_MAX`].
    #[error(
        "expected a key of at most {KEY_BYTES_MAX} bytes, found {length} bytes, of which column `{column}` takes {column_bytes}: key columns hold what identifies a row, so shorten this value or choose another key"
    )]
    KeyTooLong {
        /// The key column that takes the most bytes.
        column: String,
        /// Bytes that column takes.
        column_bytes: usize,
        /// Bytes of the whole key.
        length: usize,
    },
    /// A column that the schema does not have.
    #[error("expected the id of a column, found {id}")]
    UnknownColumn {
        /// The id.
        id: u32,
    },
    /// A key column was asked of a row's value.
    #[error("column `{column}` is in the row's key: decode the key to read it")]
    InKey {
        /// Name of the column.
        column: String,
    },
    /// Rows stored under one schema cannot be read under another.
    #[error("rows stored with column `{column}` cannot be read here: expected {expected}, found {found}")]
    Incompatible {
        /// Name of the stored column.
        column: String,
        /// What the reading schema has.
        expected: String,
        /// What the stored schema has.
        found: String,
    },
    /// Stored bytes that no encoder writes.
    #[error("damaged {part} at byte {offset}: expected {expected}, found {found}")]
    Malformed {
        /// Which encoding: `row key`, `row value` or `schema`.
        part: &'static str,
        /// Offset in that part, in bytes.
        offset: usize,
        /// What the layout asks for.
        expected: String,
        /// What is there.
        found: String,
    },
}

/// A text that is no value, or no name, of the wanted type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found}")]
pub struct ParseError {
    /// What the type's text looks like.
    pub expected: String,
    /// The text, quoted, and shortened when it is long.
    pub found: String,
}

/// Characters of a refused text that an error repeats.
const FOUND_CHARS_MAX: usize = 60;

impl ParseError {
    /// Refuses `text` where a value of type `ty` was wanted.
    pub(super) fn value(ty: &Type, text: &str) -> ParseError {
        ParseError { expected: ty.expectation(), found: quote(text) }
    }
}

/// `text` in quotes, control characters escaped, cut after 60 characters.
pub(super) fn quote(text: &str) -> String {
    match text.char_indices().nth(FOUND_CHARS_MAX) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
    }
}
