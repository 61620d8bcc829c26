//! Typed rows: how a table with columns becomes ordered byte keys and byte values.
//!
//! The one idea: **every row has exactly one encoding**. A map's shape, and so its hash, is a function of its bytes;
//! two nodes that hold equal rows must therefore produce equal bytes, whatever the order or the source of the edits.
//! Encoders normalise (−0 becomes 0, every NaN becomes one NaN, cells equal to their column's creation default are left
//! out), and decoders refuse whatever an encoder would not have written.
//!
//! **Equal rows have equal bytes**, exactly: a row is its key and its cells by column id. Rows that are written under one
//! schema and have equal values are equal, whenever its columns were added. A column that is dropped stays in the rows
//! that were last written before, as cells that nobody reads; such a row equals one written later only once it is
//! written again (its bytes then have no such cell; `Transaction::rewrite_rows` does that for a table). The choice is that a drop costs one small chunk, however many rows
//! there are, and that a branch which still has the column merges with one that has not, row by row.
//!
//! A [`Schema`] says which columns there are and which of them form the key. Key columns live in the map's key
//! (`key.rs`: bytewise order is the order of the values), all others in its value (`cells.rs`). Text in and out is
//! `text.rs`. The engine keeps a schema's bytes (`schema_bytes.rs`) in the table's definition; `alter.rs` changes
//! schemas, `merge.rs` merges them, and rows by cell. Imports, exports, queries and diffs call this module, and so do indexes (`columns.rs`), and nothing here reads files or knows of CSV.
//!
//! Invariants, and the tests in `row/tests.rs` that hold them:
//! 1. Bytewise order of keys is the order of the key values, column by column (`key_order_is_value_order`).
//! 2. Decoding what was encoded gives the same values (`rows_round_trip`).
//! 3. Bytes that decode are the bytes that encoding the result gives, unless they have cells of dropped columns
//!    (`what_decodes_encodes_to_the_same_bytes`).
//! 4. No input makes a decoder panic (`arbitrary_bytes_never_panic`).
//! 5. `parse(to_text(v)) == v` (`text_round_trips`).
//! 6. Changes of the schema change no value of a row in the columns that stay (`rows_outlive_changes_of_their_schema`).

mod alter;
mod bytes;
mod calendar;
mod cells;
mod columns;
mod error;
mod key;
pub(crate) mod merge;
mod schema;
mod schema_bytes;
#[cfg(test)]
mod tests;
mod text;
mod types;
mod value;

pub use alter::DEFAULT_BYTES_MAX;
pub use cells::COLUMN_ID_MAX;
pub use error::{Error, ParseError};
pub use key::KEY_BYTES_MAX;
pub use schema::{COLUMNS_MAX, Column, NAME_BYTES_MAX, Schema};
pub use types::{DECIMAL_PRECISION_MAX, Type};
pub use value::Value;
