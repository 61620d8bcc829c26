//! The kinds of chunks that the engine writes. 255 is that of what a backup adds (`pleach_chunkstore::backup`).

/// A node of a prolly map; the chunk's level is the height above the leaves.
pub(crate) const MAP: u8 = 1;
/// A piece of a large value, or at level 1 the list of its pieces.
pub(crate) const BLOB: u8 = 2;
/// The definition of a table: map configuration and schema.
pub(crate) const DEFINITION: u8 = 3;
/// The definition of an index.
pub(crate) const INDEX: u8 = 5;
/// A version commit.
pub(crate) const COMMIT: u8 = 4;
