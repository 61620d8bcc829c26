//! Spellings of revisions: `HEAD`, `@work`, branches, tags, `remotes/…`, `recovery/…`, commit hashes and prefixes, `REV~N`.

use pleach_chunkstore::Hash;

use crate::{
    database::Database,
    error::{Error, Result},
    history::{self, Log},
    names,
    snapshot::Snapshot,
};

/// Fewest hexadecimal digits that name a commit.
const PREFIX_DIGITS_MIN: usize = 8;

/// What a spelling stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revision {
    /// A commit.
    Commit(Hash),
    /// The uncommitted work of a branch.
    Work {
        /// The branch.
        branch: String,
        /// The root of its work.
        root: Hash,
    },
}

impl Database {
    /// Finds what `revision` stands for; `branch` is the one that `HEAD` and `@work` speak of.
    ///
    /// # Errors
    /// [`Error::UnknownRevision`] says what was expected; [`Error::UnknownBranch`].
    pub fn resolve(&self, revision: &str, branch: &str) -> Result<Revision> {
        if revision == "@work" {
            let root = self.existing_branch(branch)?.work;
            return Ok(Revision::Work { branch: branch.to_owned(), root });
        }
        let unknown = |expected: &str| Error::UnknownRevision {
            revision: revision.to_owned(),
            expected: expected.to_owned(),
        };
        if let Some((start, suffixes)) = revision.split_once('~') {
            let mut steps = 0u64;
            for suffix in suffixes.split('~') {
                let number = if suffix.is_empty() { Ok(1) } else { suffix.parse::<u64>() };
                steps = steps.saturating_add(number.map_err(|_| unknown("a number after `~`"))?);
            }
            let Revision::Commit(hash) = self.resolve(start, branch)? else {
                return Err(unknown("a commit before `~`; `@work` has no ancestors, `HEAD` has"));
            };
            let commit = self.commit_object(&hash)?;
            let most = commit.lineage.depth - 1;
            let depth =
                most.checked_sub(steps).ok_or_else(|| unknown(&format!("at most {most} steps back")))? + 1;
            let (found, _) = history::on_chain(self.store(), hash, commit, depth)?;
            return Ok(Revision::Commit(found));
        }
        if revision == "HEAD" {
            let head = self.existing_branch(branch)?.head;
            return head
                .map(Revision::Commit)
                .ok_or_else(|| unknown("a branch with a commit; this one has none yet"));
        }
        if let Some(found) = self.branch(revision)? {
            let head = found.head.map(Revision::Commit);
            return head.ok_or_else(|| unknown("a branch with a commit; this one has none yet"));
        }
        if let Some(hash) = self.get_ref(&names::tag(revision)) {
            return Ok(Revision::Commit(hash));
        }
        for prefix in ["remotes/", "recovery/", "heads/", "tags/"] {
            if revision.starts_with(prefix)
                && let Some(hash) = self.get_ref(revision)
            {
                return Ok(self.commit_or_work(hash, branch));
            }
        }
        self.resolve_hash(revision)?.ok_or_else(|| {
            unknown("a branch, tag, remotes/…, recovery/…, a commit hash or a unique prefix of 8 digits, HEAD, @work")
        })
    }

    /// A ref under `recovery/` may keep a commit or a work root.
    fn commit_or_work(&self, hash: Hash, branch: &str) -> Revision {
        match self.commit_object(&hash) {
            Ok(_) => Revision::Commit(hash),
            Err(_) => Revision::Work { branch: branch.to_owned(), root: hash },
        }
    }

    fn resolve_hash(&self, digits: &str) -> Result<Option<Revision>> {
        let is_hex = digits.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
        if !is_hex || !(PREFIX_DIGITS_MIN..=2 * Hash::LEN).contains(&digits.len()) {
            return Ok(None);
        }
        if let Ok(hash) = digits.parse::<Hash>() {
            let there = self.store().get(&hash)?.is_some() && self.commit_object(&hash).is_ok();
            return Ok(there.then_some(Revision::Commit(hash)));
        }
        let mut found = None;
        for hash in self.all_commits()? {
            let hash = hash?;
            if hash.to_string().starts_with(digits) {
                if found.is_some() {
                    return Err(Error::UnknownRevision {
                        revision: digits.to_owned(),
                        expected: "a longer prefix; several commits begin so".to_owned(),
                    });
                }
                found = Some(Revision::Commit(hash));
            }
        }
        Ok(found)
    }

    /// Every commit that a ref reaches, once.
    fn all_commits(&self) -> Result<impl Iterator<Item = Result<Hash>>> {
        let mut starts = Vec::new();
        for prefix in [names::HEADS, names::TAGS, "remotes/", "recovery/heads/"] {
            starts.extend(self.refs(prefix).into_iter().map(|(_, hash)| hash));
        }
        // Those that are gone are not looked for: their refs have moved.
        starts.retain(|start| self.store().contains(start));
        let log = Log::new(self.store().clone(), &starts)?;
        Ok(log.map(|entry| entry.map(|(hash, _)| hash)))
    }

    /// A read-only view of a revision.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub fn snapshot(&self, revision: &Revision) -> Result<Snapshot> {
        match revision {
            Revision::Commit(hash) => self.snapshot_of_root(self.commit_object(hash)?.root),
            Revision::Work { root, .. } => self.snapshot_of_root(*root),
        }
    }
}
