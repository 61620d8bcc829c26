//! Why tabular input was refused, and where.

use pleach_engine::row;

/// Where something is written in a file: both count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Line of the file.
    pub line: u64,
    /// Character of the line.
    pub column: u64,
}

/// Why input could not be read as rows.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TabularError {
    /// The input is not what its format, or its table, asks for.
    #[error("{file}:{}:{}: expected {expected}, found {found}", at.line, at.column)]
    BadInput {
        /// The file, `-` for the standard input.
        file: String,
        /// Where in it.
        at: Position,
        /// What should stand there.
        expected: String,
        /// What does.
        found: String,
    },
    /// What is written is well formed, but no row or schema can be made of it.
    #[error("{file}:{}:{}: {error}", at.line, at.column)]
    Refused {
        /// The file, `-` for the standard input.
        file: String,
        /// Where in it.
        at: Position,
        /// Why.
        error: row::Error,
    },
    /// A new table was to be made without key columns.
    #[error(
        "expected the columns that identify a row of a new table, found none: name them with --key, from {file}'s columns {columns}"
    )]
    NoKey {
        /// The file, `-` for the standard input.
        file: String,
        /// Its columns.
        columns: String,
    },
    /// The file could not be read, or the standard input could not be kept for its second reading.
    #[error("cannot read {file}: {error}")]
    Io {
        /// The file, `-` for the standard input.
        file: String,
        /// What the system said.
        error: std::io::Error,
    },
}

/// `names` in quotes, as an error lists them; a long list is cut.
pub(super) fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN_MAX: usize = 20;
    let mut names: Vec<_> = names.take(SHOWN_MAX + 1).map(|name| format!("`{name}`")).collect();
    if names.len() > SHOWN_MAX {
        names.truncate(SHOWN_MAX);
        names.push("…".into());
    }
    names.join(", ")
}
