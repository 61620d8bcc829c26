//! The kinds of chunks that the engine writes, and the one check that every chunk from outside must pass.
//!
//! Invariants, held by [`check_chunk`] (test `a_chunk_that_is_not_canonical_is_refused` in `node.rs`, fuzz target `node`):
//! 1. A chunk decodes as its kind and would encode to the same bytes: one content, one address.
//! 2. Its header lists exactly the addresses that its body holds, so that walks that know no kinds see all of them.

use pleach_chunkstore::Chunk;

use crate::{Error, blob, commit::Commit, definition::Definition, error::Result, map::node::Node};

/// A node of a prolly map; the chunk's level is the height above the leaves.
pub(crate) const MAP: u8 = 1;
/// A piece of a large value, or at level 1 the list of its pieces.
pub(crate) const BLOB: u8 = 2;
/// The definition of a table: map configuration and schema.
pub(crate) const DEFINITION: u8 = 3;
/// A version commit.
pub(crate) const COMMIT: u8 = 4;

/// Checks that a chunk is the canonical form of its kind and lists exactly its references.
///
/// # Errors
/// [`Error::Malformed`] says what was expected and found.
pub fn check_chunk(chunk: &Chunk) -> Result<()> {
    match chunk.kind() {
        MAP => Node::check(chunk),
        BLOB => blob::check(chunk),
        DEFINITION => Definition::decode(chunk).map(drop),
        COMMIT => Commit::decode(chunk).map(drop),
        kind => Err(Error::malformed(
            chunk.hash(),
            format!("kind {kind} is not known; this version reads 1 to 4"),
        )),
    }
}
