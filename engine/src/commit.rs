//! A version commit: a root with parents.
//!
//! A chunk of kind [`COMMIT`], level 0. Little-endian:
//!
//! ```text
//! 0 root address · parent addresses (the chunk's run: 1 + n addresses)
//!   u64 generation · i64 date, µs since 1970 UTC · u16 length and bytes of the author · u32 length and bytes of the message
//! ```
//!
//! The generation is one more than the highest of the parents', 1 without parents: an ancestor's is always lower.

use pleach_chunkstore::{Chunk, Hash};

use crate::{
    error::{Error, Result},
    kinds::COMMIT,
};

/// Most parents of a commit.
const PARENTS_MAX: usize = 64;
/// Longest author, bytes.
pub const AUTHOR_BYTES_MAX: usize = 1024;
/// Longest message, bytes.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// A version commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The catalogue that was committed.
    pub root: Hash,
    /// The commits it was made from; the first is the branch's earlier head.
    pub parents: Vec<Hash>,
    /// One more than the highest generation of its parents.
    pub generation: u64,
    /// Who made it, as `NAME <MAIL>`.
    pub author: String,
    /// When, microseconds since 1970 UTC.
    pub date_micros: i64,
    /// Why.
    pub message: String,
}

impl Commit {
    pub(crate) fn encode(&self) -> Chunk {
        assert!(self.parents.len() <= PARENTS_MAX && self.author.len() <= AUTHOR_BYTES_MAX);
        assert!(self.message.len() <= MESSAGE_BYTES_MAX);
        let mut body = self.root.as_bytes().to_vec();
        self.parents.iter().for_each(|parent| body.extend_from_slice(parent.as_bytes()));
        body.extend_from_slice(&self.generation.to_le_bytes());
        body.extend_from_slice(&self.date_micros.to_le_bytes());
        body.extend_from_slice(&(self.author.len() as u16).to_le_bytes());
        body.extend_from_slice(self.author.as_bytes());
        body.extend_from_slice(&(self.message.len() as u32).to_le_bytes());
        body.extend_from_slice(self.message.as_bytes());
        Chunk::build(COMMIT, 0, &body, Some((0, 1 + self.parents.len() as u32)), &[], 0)
    }

    pub(crate) fn decode(chunk: &Chunk) -> Result<Commit> {
        let malformed = |what: &str| Error::malformed(chunk.hash(), what);
        if chunk.kind() != COMMIT || chunk.level() != 0 {
            return Err(malformed(&format!("expected a commit, found kind {}", chunk.kind())));
        }
        let run = chunk.run();
        let addresses = run.len() / Hash::LEN;
        // The run is all that is listed, and the body begins with it: one commit, one encoding.
        let listed = chunk.child_count() == addresses && chunk.weak_count() == 0;
        if !(1..=1 + PARENTS_MAX).contains(&addresses)
            || !listed
            || !std::ptr::eq(run.as_ptr(), chunk.body().as_ptr())
        {
            return Err(malformed("expected a root and at most 64 parents"));
        }
        let mut children = chunk.children();
        let root = children.next().ok_or_else(|| malformed("expected a root"))?;
        let parents: Vec<Hash> = children.collect();
        let mut fields = Fields { chunk, rest: &chunk.body()[run.len()..] };
        let generation = u64::from_le_bytes(fields.take()?);
        let date_micros = i64::from_le_bytes(fields.take()?);
        let author_len = u16::from_le_bytes(fields.take()?);
        let author = fields.text(usize::from(author_len))?;
        let message_len = u32::from_le_bytes(fields.take()?);
        let message = fields.text(message_len as usize)?;
        let rest = fields.rest;
        if !rest.is_empty()
            || author.len() > AUTHOR_BYTES_MAX
            || message.len() > MESSAGE_BYTES_MAX
            || generation == 0
        {
            return Err(malformed(
                "expected no bytes after the message, lengths in their limits, a generation",
            ));
        }
        Ok(Commit { root, parents, generation, author, date_micros, message })
    }
}

/// The bytes of a commit that have not been read yet.
struct Fields<'a> {
    chunk: &'a Chunk,
    rest: &'a [u8],
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or_else(|| Error::malformed(self.chunk.hash(), format!("expected {N} more bytes")))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn text(&mut self, len: usize) -> Result<String> {
        let malformed = || Error::malformed(self.chunk.hash(), format!("expected {len} bytes of UTF-8"));
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(malformed)?;
        let text = std::str::from_utf8(taken).map_err(|_| malformed())?.to_owned();
        self.rest = rest;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn commit() -> Commit {
        Commit {
            root: Hash::from_bytes([1; 32]),
            parents: vec![Hash::from_bytes([2; 32])],
            generation: 3,
            author: "A".into(),
            date_micros: -1,
            message: "hi".into(),
        }
    }

    #[test]
    fn golden_commit_bytes() {
        let mut expected = [[1u8; 32], [2; 32]].concat();
        expected.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[0xff; 8]);
        expected.extend_from_slice(b"\x01\0A\x02\0\0\0hi");
        let chunk = commit().encode();
        assert_eq!(chunk.body(), expected);
        assert_eq!(Commit::decode(&chunk).unwrap(), commit());
    }

    #[test]
    fn a_commit_that_is_not_canonical_is_refused() {
        let body = commit().encode().body().to_vec();
        let build =
            |body: &[u8], run, list: &[u32]| Commit::decode(&Chunk::build(COMMIT, 0, body, run, list, 0));
        assert!(build(&body, Some((0, 2)), &[]).is_ok());
        assert!(build(&body, Some((0, 1)), &[32]).is_err(), "addresses listed one by one");
        assert!(build(&body, None, &[]).is_err(), "no addresses");
        assert!(build(&body[..body.len() - 1], Some((0, 2)), &[]).is_err(), "cut");
        assert!(build(&[&body[..], b"x"].concat(), Some((0, 2)), &[]).is_err(), "longer");
        let mut unborn = body.clone();
        unborn[64..72].fill(0);
        assert!(build(&unborn, Some((0, 2)), &[]).is_err(), "generation 0");
        let again = [&body[..], &body[..64]].concat();
        assert!(build(&again, Some((body.len() as u32, 2)), &[]).is_err(), "the same addresses elsewhere");
    }
}
