//! A version commit: a root with parents.
//!
//! A chunk of kind [`COMMIT`], level 0. Little-endian:
//!
//! ```text
//! 0 u8 version = 2 · root address · parent addresses (the chunk's run: 1 + n addresses)
//!   u64 generation · u64 depth · u64 straight · address that the skip link names, if its depth has one (the chunk's list: weak)
//!   i64 date, µs since 1970 UTC · u16 length and bytes of the author · u32 length and bytes of the message
//! ```
//!
//! What generation, depth, straight and the link are, and when there is one: [`lineage`](crate::lineage). Other versions are refused.

use pleach_chunkstore::{Chunk, Hash};

use crate::{
    error::{Error, Result},
    kinds::COMMIT,
    lineage::{Lineage, skip_depth},
};

const VERSION: u8 = 2;
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
    /// Where it stands among its ancestors.
    pub lineage: Lineage,
    /// Who made it, as `NAME <MAIL>`.
    pub author: String,
    /// When, microseconds since 1970 UTC.
    pub date_micros: i64,
    /// Why.
    pub message: String,
}

impl Commit {
    /// The parents of the commit that `chunk` is, which was checked; none if it is no commit.
    pub fn parents_of(chunk: &Chunk) -> impl Iterator<Item = Hash> {
        chunk.children().skip(if chunk.kind() == COMMIT { 1 } else { usize::MAX })
    }

    pub(crate) fn encode(&self) -> Chunk {
        assert!(self.parents.len() <= PARENTS_MAX && self.author.len() <= AUTHOR_BYTES_MAX);
        assert!(self.message.len() <= MESSAGE_BYTES_MAX && self.lineage.is_possible(self.parents.len()));
        let Lineage { generation, depth, straight, skip } = &self.lineage;
        let mut body = vec![VERSION];
        body.extend_from_slice(self.root.as_bytes());
        self.parents.iter().for_each(|parent| body.extend_from_slice(parent.as_bytes()));
        [generation, depth, straight].iter().for_each(|number| body.extend_from_slice(&number.to_le_bytes()));
        let list = [body.len() as u32];
        skip.iter().for_each(|skip| body.extend_from_slice(skip.as_bytes()));
        body.extend_from_slice(&self.date_micros.to_le_bytes());
        body.extend_from_slice(&(self.author.len() as u16).to_le_bytes());
        body.extend_from_slice(self.author.as_bytes());
        body.extend_from_slice(&(self.message.len() as u32).to_le_bytes());
        body.extend_from_slice(self.message.as_bytes());
        let links = usize::from(skip.is_some());
        let run = (1, 1 + self.parents.len() as u32);
        Chunk::build(COMMIT, 0, &body, Some(run), &list[..links], links as u16)
    }

    pub(crate) fn decode(chunk: &Chunk) -> Result<Commit> {
        let malformed = |what: &str| Error::malformed(chunk.hash(), what);
        if chunk.kind() != COMMIT || chunk.level() != 0 {
            return Err(malformed(&format!("expected a commit, found kind {}", chunk.kind())));
        }
        let mut children = chunk.children();
        let mut fields = Fields { chunk, rest: chunk.body() };
        let [version] = fields.take()?;
        let run = chunk.run();
        if version != VERSION || !std::ptr::eq(run.as_ptr(), fields.rest.as_ptr()) {
            return Err(malformed("expected a commit of version 2; other versions of Pleach made others"));
        }
        // The run, the link after the numbers, and nothing else is listed: one commit, one encoding.
        let addresses = run.len() / Hash::LEN;
        if !(1..=1 + PARENTS_MAX).contains(&addresses) || chunk.child_count() != addresses {
            return Err(malformed("expected a root and at most 64 parents"));
        }
        let root = children.next().ok_or_else(|| malformed("expected a root"))?;
        let parents: Vec<Hash> = children.collect();
        fields.rest = &fields.rest[run.len()..];
        let generation = u64::from_le_bytes(fields.take()?);
        let depth = u64::from_le_bytes(fields.take()?);
        let straight = u64::from_le_bytes(fields.take()?);
        let place = chunk.body().len() - fields.rest.len();
        let skip = match chunk.weak_count() {
            0 => None,
            1 if chunk.list_offsets().eq([place as u32]) => Some(Hash::from_bytes(fields.take()?)),
            _ => return Err(malformed("expected at most one skip link, after the numbers")),
        };
        let lineage = Lineage { generation, depth, straight, skip };
        if !lineage.is_possible(parents.len()) {
            return Err(malformed(
                "expected numbers, and a skip link or none, as its depth and parents have it",
            ));
        }
        let date_micros = i64::from_le_bytes(fields.take()?);
        let author_len = u16::from_le_bytes(fields.take()?);
        let author = fields.text(usize::from(author_len))?;
        let message_len = u32::from_le_bytes(fields.take()?);
        let message = fields.text(message_len as usize)?;
        let rest = fields.rest;
        if !rest.is_empty() || author.len() > AUTHOR_BYTES_MAX || message.len() > MESSAGE_BYTES_MAX {
            return Err(malformed("expected no bytes after the message, and lengths in their limits"));
        }
        Ok(Commit { root, parents, lineage, author, date_micros, message })
    }

    /// The commit that its skip link names, written or not; `None` if it has nowhere to lead.
    pub(crate) fn far(&self) -> Option<Hash> {
        match skip_depth(self.lineage.depth) {
            0 => None,
            _ => self.lineage.skip.or_else(|| self.parents.first().copied()),
        }
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

    /// The sixth of a chain: its link leads to the third.
    fn commit() -> Commit {
        let skip = Some(Hash::from_bytes([3; 32]));
        Commit {
            root: Hash::from_bytes([1; 32]),
            parents: vec![Hash::from_bytes([2; 32])],
            lineage: Lineage { generation: 7, depth: 6, straight: 5, skip },
            author: "A".into(),
            date_micros: -1,
            message: "hi".into(),
        }
    }

    #[test]
    fn golden_commit_bytes() {
        let number = |number: u8| [number, 0, 0, 0, 0, 0, 0, 0];
        let mut expected = [&[2][..], &[1; 32], &[2; 32], &number(7), &number(6), &number(5)].concat();
        let after_the_link = [&[0xff; 8][..], b"\x01\0A\x02\0\0\0hi"].concat();
        let linked = commit();
        assert_eq!(linked.encode().body(), [&expected[..], &[3; 32], &after_the_link].concat());
        assert_eq!(Commit::decode(&linked.encode()).unwrap(), linked);
        let mut next = commit();
        next.lineage = Lineage { generation: 8, depth: 7, straight: 6, skip: None };
        [(65, 8), (73, 7), (81, 6)].iter().for_each(|&(at, number)| expected[at] = number);
        assert_eq!(next.encode().body(), [expected, after_the_link].concat());
        assert_eq!(Commit::decode(&next.encode()).unwrap(), next);
        assert_eq!((next.encode().child_count(), linked.encode().child_count()), (2, 2), "a link is weak");
    }

    #[test]
    fn a_commit_that_is_not_canonical_is_refused() {
        let body = commit().encode().body().to_vec();
        let build = |body: &[u8], run, list: &[u32], weak| {
            Commit::decode(&Chunk::build(COMMIT, 0, body, run, list, weak))
        };
        assert!(build(&body, Some((1, 2)), &[89], 1).is_ok());
        assert!(build(&body, Some((1, 1)), &[33, 89], 1).is_err(), "addresses listed one by one");
        assert!(build(&body, None, &[89], 1).is_err(), "no addresses");
        assert!(build(&body, Some((1, 2)), &[], 0).is_err(), "a link that is not listed");
        assert!(build(&body, Some((1, 2)), &[89], 0).is_err(), "a link that keeps what it names");
        assert!(build(&body, Some((1, 2)), &[88], 1).is_err(), "a link elsewhere");
        assert!(build(&body[..body.len() - 1], Some((1, 2)), &[89], 1).is_err(), "cut");
        assert!(build(&[&body[..], b"x"].concat(), Some((1, 2)), &[89], 1).is_err(), "longer");
        let again = [&body[..], &body[1..65]].concat();
        assert!(build(&again, Some((body.len() as u32, 2)), &[89], 1).is_err(), "the addresses elsewhere");
        for (at, value, why) in [
            (0, 1, "another version"),
            (65, 5, "a generation below the depth"),
            (73, 0, "depth 0"),
            (73, 5, "a depth whose link is the first parent"),
            (73, 7, "a depth without a link"),
            (81, 0, "one parent, yet not straight"),
            (81, 6, "straight beyond the first commit"),
        ] {
            let mut changed = body.clone();
            changed[at] = value;
            assert!(build(&changed, Some((1, 2)), &[89], 1).is_err(), "{why}");
        }
    }

    #[test]
    fn a_commit_of_the_first_version_is_refused_by_its_version() {
        let mut body = [[1u8; 32], [2; 32]].concat();
        body.extend_from_slice(&3u64.to_le_bytes());
        body.extend_from_slice(&[0; 14]);
        let error = Commit::decode(&Chunk::build(COMMIT, 0, &body, Some((0, 2)), &[], 0)).unwrap_err();
        assert!(error.to_string().contains("version 2"), "{error}");
    }
}
