//! Typed rows from and to CSV, TSV and JSON lines: bytes in, values out, and back. No database here.
//!
//! The one idea: every field knows the line and the column where it was written, from the first byte read to the last
//! refusal, so that bad input is always `FILE:LINE:COLUMN: expected …, found …`. Columns of a position count
//! characters, both count from 1, and a field's position is where it starts (its opening quote, if it has one).
//!
//! What is read:
//! * **CSV** (RFC 4180) and **TSV** (the same with tabs): a header line of distinct names, then records of as many
//!   fields. An empty unquoted field is NULL, `""` is empty text; quoted fields may hold delimiters, line ends and
//!   doubled quotes. A quote inside an unquoted field is a quote. Lines end in LF or CRLF; a byte order mark is
//!   skipped. Ragged records and empty lines are errors.
//! * **JSON lines**: one object a line, its members being columns; an absent member is NULL. Numbers are kept as
//!   written; bytes are a string (its UTF-8) or `{"hex":"00ff"}`.
//!
//! [`infer`] finds a new table's schema in a first pass, [`rows`] reads the rows in a second; a [`Source`] can be read
//! twice, whatever it is. Imports call these; exports, `get`, `scan` and `diff` call the writers.

mod cell;
mod csv;
mod error;
mod infer;
mod jsonl;
mod lines;
mod rows;
mod source;
#[cfg(test)]
mod tests;
mod write;

pub use error::{Position, TabularError};
pub use infer::infer;
pub use rows::{Row, Rows, parse_key, rows};
pub use source::{Format, Source};
pub use write::{
    bytes_to_json, header_to_csv, key_to_csv, key_to_json, row_to_csv, row_to_json, value_to_json,
    write_csv_record,
};
