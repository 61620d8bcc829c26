//! Where a commit stands among its ancestors: three numbers and a link, by which walks pass over many commits at once.
//!
//! The *chain* of a commit is itself, its first parent, the first parent of that, and so on; its *depth* is how many these are. A commit's
//! *skip link* names one far down its chain. How far follows from the depth alone: write the depth as a sum of numbers 2^k − 1, always the
//! largest that still fits, and the link passes over as many commits as the last of them. 22 = 15 + 7 leads to 15, and 23 = 15 + 7 + 1
//! to 22. So
//!
//! 1. the chain is cut into complete binary trees, each commit being the root of what its link passes over: any depth of the chain is reached
//!    in at most 3 log₂ of its length steps, by taking the link if it does not lead too far, and else the first parent;
//! 2. every other link would name the first parent, and is left out;
//! 3. any other is where the link of the first parent's link leads: to make it, one more commit is read.
//!
//! All of it follows from the parents ([`Lineage::after`]), so a commit has one lineage, and whoever receives one checks it
//! ([`check_lineage`](crate::check_lineage)). Links are weak children: they keep nothing, and no walk over a graph of chunks follows them.

use pleach_chunkstore::Hash;

use crate::{
    commit::Commit,
    error::{Error, Result},
};

/// A commit's place among its ancestors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    /// One more than the highest generation of its parents, 1 without parents: an ancestor's is always lower.
    pub generation: u64,
    /// How many commits its chain has, itself included.
    pub depth: u64,
    /// How many commits at the beginning of its chain, itself included, have exactly one parent: these have no ancestors but on the chain.
    pub straight: u64,
    /// The commit that the skip link names; `None` if that is the first parent, or none.
    pub skip: Option<Hash>,
}

impl Lineage {
    /// The lineage of a commit with these parents, which `load` finds, and with them what the first one's link names.
    pub(crate) fn after(parents: &[Hash], mut load: impl FnMut(&Hash) -> Result<Commit>) -> Result<Lineage> {
        let commits = parents.iter().map(&mut load).collect::<Result<Vec<Commit>>>()?;
        let counted = Lineage::counted(&commits);
        let skip = match (parents.first(), commits.first()) {
            (Some(hash), Some(first)) => skip_after(hash, first, load)?,
            _ => None,
        };
        Ok(Lineage { skip, ..counted })
    }

    /// As [`Lineage::after`], without the link.
    pub(crate) fn counted(parents: &[Commit]) -> Lineage {
        let highest = parents.iter().map(|parent| parent.lineage.generation).max();
        let first = parents.first().map(|parent| &parent.lineage);
        Lineage {
            generation: highest.unwrap_or(0).saturating_add(1),
            depth: first.map_or(0, |first| first.depth).saturating_add(1),
            straight: match parents {
                [only] => only.lineage.straight.saturating_add(1),
                _ => 0,
            },
            skip: None,
        }
    }

    /// Whether a commit with so many parents can have this lineage, as far as it alone tells.
    pub(crate) fn is_possible(&self, parents: usize) -> bool {
        let Lineage { generation, depth, straight, skip } = self;
        let counts = match parents {
            0 => (*generation, *depth, *straight) == (1, 1, 0),
            1 => *depth >= 2 && (1..*depth).contains(straight),
            _ => *depth >= 2 && *straight == 0,
        };
        counts && generation >= depth && skip.is_some() == has_skip(*depth)
    }
}

/// The depth that the link of a commit at `depth` leads to; 0 if it has nowhere to lead.
pub(crate) fn skip_depth(depth: u64) -> u64 {
    let (mut rest, mut term) = (depth, u64::MAX);
    while rest > 0 {
        while term > rest {
            term >>= 1;
        }
        rest -= term;
    }
    depth.saturating_sub(term)
}

/// Whether the link of a commit at `depth` is written.
fn has_skip(depth: u64) -> bool {
    let to = skip_depth(depth);
    to > 0 && to + 1 < depth
}

/// The link of a commit whose first parent is `first`, at `hash`.
pub(crate) fn skip_after(
    hash: &Hash,
    first: &Commit,
    mut load: impl FnMut(&Hash) -> Result<Commit>,
) -> Result<Option<Hash>> {
    if !has_skip(first.lineage.depth.saturating_add(1)) {
        return Ok(None);
    }
    let nowhere = |hash: &Hash| Error::malformed(hash, "expected its link to lead somewhere");
    let half = first.far().ok_or_else(|| nowhere(hash))?;
    load(&half)?.far().ok_or_else(|| nowhere(&half)).map(Some)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn links_lead_where_the_depth_says() {
        let leads = [0, 1, 0, 3, 4, 3, 0, 7, 8, 7, 10, 11, 10, 7, 0, 15, 16, 15, 18, 19, 18, 15, 22];
        for (depth, to) in (1..).zip(leads) {
            assert_eq!(skip_depth(depth), to, "depth {depth}");
        }
        for depth in [u64::MAX, u64::MAX - 1, 1 << 63, (1 << 63) - 1] {
            assert!(skip_depth(depth) < depth);
        }
    }

    #[test]
    fn a_link_is_the_first_parent_or_the_link_of_its_link() {
        for depth in 2..10_000 {
            let to = skip_depth(depth);
            if has_skip(depth) {
                assert_eq!(to, skip_depth(skip_depth(depth - 1)));
            } else {
                assert!(to == 0 || to == depth - 1);
            }
        }
        assert_eq!(
            (1..=1000).filter(|&depth| has_skip(depth)).count(),
            488,
            "nearly every other one is written"
        );
    }
}
