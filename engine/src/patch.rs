//! Patches: a diff as a file, to be carried elsewhere, looked at, turned around and applied.
//!
//! A patch says for each table what it was and what it becomes, which of its indexes come, go or change, and for each changed row what stood
//! there and what stands there after it. Whoever applies one finds every old row and index as the patch says, or nothing is applied. It streams both ways: in memory are one
//! block, one short row or piece of a long one, and the edits until they are written ahead; only turning a patch around keeps the
//! old value of an update that is stored whole.
//!
//! ```text
//! file    = "PLPATCH\0" · u16 version = 2 · block* · end                    little-endian
//! block   = u32 length, 1 to 65,536 · check (32) · bytes
//! end     = u32 0 · check (32)
//! check   = BLAKE3 of the check before, the length and the bytes; before the first stands BLAKE3 of the file's first 10 bytes
//! ```
//!
//! The blocks' bytes, one after the other, are records. Numbers are varints, LEB128 in their shortest form:
//!
//! ```text
//! records = table* · 00
//! table   = 01 · name · 00 · definition · indexes · row*  its rows or its indexes changed
//!         | 01 · name · 01 · definition · indexes · row*  it is new: all rows are inserted, all indexes made
//!         | 01 · name · 02 · definition · indexes · row*  it is gone: all rows are deleted, all indexes dropped
//!         | 01 · name · 03 · old definition · new one · indexes · row*
//! indexes = how many, at most 65,536 · index*             those that are not as before
//! index   = name · 01 · definition                        made
//!         | name · 02 · definition                        dropped
//!         | name · 03 · old definition · new one          made anew
//! row     = 02 · key · value                              inserted
//!         | 03 · key · value                              deleted
//!         | 04 · key · old value · new value              updated
//!         | 05 · key · old blob · new blob · place · old bytes · new bytes
//!                                                         updated from that place on; both values are blobs
//! key     = number of bytes shared with the table's key before · the others
//! blob    = address (32) · length
//! name, definition, value, bytes = length · that many bytes; a definition's are those of its chunk's body
//! ```
//!
//! Tables are sorted by name, and so are the indexes of each; its rows by key. What is in an index follows from the rows, and is not told. A blob's address names its content, so a row of the last form is checked
//! without being read, and costs what changed in it.
//!
//! Files: `file` (blocks), `record` (reading records), `make`, `invert`, `apply`, `revert` (a commit undone without a file).

mod apply;
mod file;
mod invert;
mod make;
mod record;
mod revert;

pub use apply::Applied;
pub use invert::invert;
pub use make::make;

/// Longer values than this stream, bytes.
const VALUE_BYTES_HELD_MAX: u64 = 1 << 20;
/// Most changes of indexes of one table.
const INDEXES_MAX: u64 = 1 << 16;
/// Tags of records.
const END: u8 = 0;
const TABLE: u8 = 1;
const INSERT: u8 = 2;
const DELETE: u8 = 3;
const UPDATE: u8 = 4;
const SPLICE: u8 = 5;

/// What a record says about a table or an index itself, beside its definitions. No index is said to be as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Changed = 0,
    Added = 1,
    Dropped = 2,
    Redefined = 3,
}

#[cfg(test)]
mod tests;
