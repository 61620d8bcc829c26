//! The one check that every chunk from outside must pass.
//!
//! Invariants (test `a_chunk_that_is_not_canonical_is_refused` in `map/node_tests.rs`, fuzz target `node`):
//! 1. A chunk decodes as its kind and would encode to the same bytes: one content, one address.
//! 2. Its header lists exactly the addresses that its body holds, so that walks that know no kinds see all of them.
//!
//! Called by whoever receives chunks.

use pleach_chunkstore::{Chunk, Hash};

use crate::{
    blob,
    commit::Commit,
    definition::Definition,
    error::{Error, Result},
    index::IndexDefinition,
    kinds::{BLOB, COMMIT, DEFINITION, INDEX, MAP},
    map::node::Node,
};

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
        INDEX => IndexDefinition::decode(chunk).map(drop),
        kind => Err(Error::malformed(
            chunk.hash(),
            format!("kind {kind} is not known; this version reads 1 to 5"),
        )),
    }
}

/// Checks that a commit's generation is one more than the highest of its parents, which `load` finds. Anything else is no commit.
///
/// # Errors
/// [`Error::Malformed`]; [`Error::Missing`] if `load` does not find a parent.
pub fn check_generation(chunk: &Chunk, mut load: impl FnMut(&Hash) -> Result<Option<Chunk>>) -> Result<()> {
    if chunk.kind() != COMMIT {
        return Ok(());
    }
    let commit = Commit::decode(chunk)?;
    let mut highest = 0;
    for parent in &commit.parents {
        let parent = load(parent)?.ok_or(Error::Missing { hash: *parent })?;
        highest = Commit::decode(&parent)?.generation.max(highest);
    }
    match highest.checked_add(1) == Some(commit.generation) {
        true => Ok(()),
        false => {
            let what = format!("expected a generation one above {highest}, found {}", commit.generation);
            Err(Error::malformed(chunk.hash(), what))
        }
    }
}
