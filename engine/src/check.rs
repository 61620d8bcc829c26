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
    lineage::{Lineage, skip_after},
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

/// Checks that a commit has the lineage that its parents give it; `load` finds them, and what their links name. Anything else is no commit.
///
/// Where a commit is here, all its ancestors are, so the link can be checked. Only a copy without old commits may lack what leads to its
/// target; there the numbers are checked alone.
///
/// # Errors
/// [`Error::Malformed`]; [`Error::Missing`] if `load` does not find a parent.
pub fn check_lineage(chunk: &Chunk, mut load: impl FnMut(&Hash) -> Result<Option<Chunk>>) -> Result<()> {
    if chunk.kind() != COMMIT {
        return Ok(());
    }
    let commit = Commit::decode(chunk)?;
    let mut find = |hash: &Hash| Commit::decode(&load(hash)?.ok_or(Error::Missing { hash: *hash })?);
    let parents = commit.parents.iter().map(&mut find).collect::<Result<Vec<Commit>>>()?;
    let mut expected = Lineage::counted(&parents);
    if let (Some(hash), Some(first)) = (commit.parents.first(), parents.first()) {
        expected.skip = match skip_after(hash, first, find) {
            Err(Error::Missing { .. }) => commit.lineage.skip,
            found => found?,
        };
    }
    match expected == commit.lineage {
        true => Ok(()),
        false => {
            let what = format!("expected {expected:?} after its parents, found {:?}", commit.lineage);
            Err(Error::malformed(chunk.hash(), what))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::collections::HashMap;

    use super::*;

    fn commit(parents: Vec<Hash>, lineage: Lineage) -> Chunk {
        let (author, message) = (String::new(), String::new());
        Commit { root: Hash::of(b"root"), parents, lineage, author, date_micros: 0, message }.encode()
    }

    /// Fourteen commits, each the parent of the next, the last with a link to the seventh.
    fn chain() -> Vec<Chunk> {
        let mut chain: Vec<Chunk> = Vec::new();
        let mut lineages: HashMap<Hash, Commit> = HashMap::new();
        for _ in 0..14 {
            let parents: Vec<Hash> = chain.last().map(|chunk| *chunk.hash()).into_iter().collect();
            let lineage = Lineage::after(&parents, |hash| Ok(lineages[hash].clone())).unwrap();
            let chunk = commit(parents, lineage);
            lineages.insert(*chunk.hash(), Commit::decode(&chunk).unwrap());
            chain.push(chunk);
        }
        chain
    }

    #[test]
    fn a_lineage_that_the_parents_do_not_give_is_refused() {
        let chain = chain();
        let load = |hash: &Hash| Ok(chain.iter().find(|chunk| chunk.hash() == hash).cloned());
        chain.iter().for_each(|chunk| check_lineage(chunk, load).unwrap());
        let last = Commit::decode(&chain[13]).unwrap();
        assert_eq!(last.lineage.skip, Some(*chain[6].hash()));
        let Lineage { generation, depth, straight, skip } = last.lineage;
        for (lineage, why) in [
            (Lineage { generation: generation + 1, ..last.lineage.clone() }, "generation"),
            (Lineage { straight: straight - 1, ..last.lineage.clone() }, "straight"),
            (Lineage { skip: Some(*chain[5].hash()), ..last.lineage.clone() }, "a link to another ancestor"),
            (Lineage { skip: Some(Hash::of(b"x")), ..last.lineage.clone() }, "a link to what is no ancestor"),
            (Lineage { generation: 16, depth: 16, straight: 15, skip: None }, "depth"),
        ] {
            let lying = commit(last.parents.clone(), lineage);
            assert!(matches!(check_lineage(&lying, load), Err(Error::Malformed { .. })), "{why}");
        }
        assert_eq!((generation, depth, straight, skip.is_some()), (14, 14, 13, true));
        let orphan = check_lineage(&chain[13], |_| Ok(None));
        assert!(matches!(orphan, Err(Error::Missing { hash }) if hash == *chain[12].hash()));
    }

    #[test]
    fn without_old_commits_the_numbers_are_checked_alone() {
        let chain = chain();
        let load = |hash: &Hash| Ok(chain[12..].iter().find(|chunk| chunk.hash() == hash).cloned());
        check_lineage(&chain[13], load).unwrap();
        let last = Commit::decode(&chain[13]).unwrap();
        let lying = commit(last.parents, Lineage { straight: 3, ..last.lineage });
        assert!(matches!(check_lineage(&lying, load), Err(Error::Malformed { .. })));
    }
}
