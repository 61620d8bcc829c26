//! The refs that an exchange speaks of: their names, the patterns that choose among them, and one digest over many of them.
//!
//! On the wire a ref is `heads/NAME` or `tags/NAME`. Here, what a remote's branch was when it was last seen is the tracking ref
//! `remotes/REMOTE/NAME`; tags are shared and have one name on both sides. Called by both sides of fetch and push.

use pleach_engine::{Batch, Database, Hash, Outcome, check_ref_name};

use crate::error::{Error, Result, within};
use crate::limits::{PATTERNS_MAX, REF_NAME_BYTES_MAX, REFS_MAX};

/// Prefix of branches.
pub const HEADS: &str = "heads/";
/// Prefix of tags.
pub const TAGS: &str = "tags/";

/// Chooses refs by pattern: `*` stands for any characters, `/` too; all else is literal, and the whole name must match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefPatterns(Vec<String>);

impl RefPatterns {
    /// All branches and tags.
    pub fn all() -> RefPatterns {
        RefPatterns(vec!["heads/*".into(), "tags/*".into()])
    }

    /// These patterns, each beginning with `heads/` or `tags/`; none means all.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<RefPatterns> {
        within("number of ref patterns", patterns.len(), PATTERNS_MAX)?;
        let patterns: Vec<String> = patterns.iter().map(|pattern| pattern.as_ref().to_owned()).collect();
        for pattern in &patterns {
            within("bytes of a ref pattern", pattern.len(), REF_NAME_BYTES_MAX)?;
            if !pattern.starts_with(HEADS) && !pattern.starts_with(TAGS) {
                return Err(Error::BadRef { name: pattern.clone(), pattern: true });
            }
        }
        Ok(if patterns.is_empty() { RefPatterns::all() } else { RefPatterns(patterns) })
    }

    /// These branches, and all tags; no branch means all.
    pub fn branches<S: AsRef<str>>(branches: &[S]) -> Result<RefPatterns> {
        if branches.is_empty() {
            return Ok(RefPatterns::all());
        }
        let mut patterns: Vec<String> =
            branches.iter().map(|branch| format!("{HEADS}{}", branch.as_ref())).collect();
        patterns.push("tags/*".into());
        RefPatterns::new(&patterns)
    }

    /// The patterns as they travel: empty for all.
    pub(crate) fn wants(&self) -> Vec<String> {
        if *self == RefPatterns::all() { Vec::new() } else { self.0.clone() }
    }

    /// Whether a ref is chosen.
    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern.as_bytes(), name.as_bytes()))
    }

    /// The branches and tags of `database` that are chosen, sorted by name.
    pub(crate) fn of(&self, database: &Database) -> Result<Vec<(String, Hash)>> {
        let mut refs = database.refs(HEADS);
        refs.extend(database.refs(TAGS));
        refs.retain(|(name, _)| self.matches(name));
        within("number of refs", refs.len(), REFS_MAX)?;
        Ok(refs)
    }

    /// What `database` knows of the chosen refs of `remote`, under the remote's names and sorted by them: its branches as they were
    /// last seen, and the tags here.
    pub(crate) fn known(&self, database: &Database, remote: &str) -> Vec<(String, Hash)> {
        let prefix = tracking_prefix(remote);
        let tracking = database.refs(&prefix).into_iter();
        let heads = tracking
            .filter_map(|(name, hash)| Some((format!("{HEADS}{}", name.strip_prefix(&prefix)?), hash)));
        let mut refs: Vec<(String, Hash)> = heads.chain(database.refs(TAGS)).collect();
        refs.retain(|(name, _)| self.matches(name));
        refs
    }
}

/// Waits until the change that was in the way of another can be seen: refs are compared as appended, and read as they are on disk.
pub(crate) fn settled(database: &Database) -> Result<()> {
    let _: Outcome = database.update_refs(Batch::default(), &[])?;
    Ok(())
}

/// Prefix of the tracking refs of `remote`.
pub(crate) fn tracking_prefix(remote: &str) -> String {
    format!("remotes/{remote}/")
}

/// Prefix of the refs that note where a primary that pushes on write last put the branches and tags of `remote`.
pub fn pushed_prefix(remote: &str) -> String {
    format!("pushed/{remote}/")
}

/// What `database` knows a ref of `remote` to be: a branch when it was last pushed or fetched, a tag when it was last pushed.
pub(crate) fn known_place(database: &Database, remote: &str, name: &str) -> Option<Hash> {
    match name.starts_with(HEADS) {
        true => database.get_ref(&local_name(remote, name)),
        false => database.get_ref(&format!("{}{name}", pushed_prefix(remote))),
    }
}

/// Where `database` keeps a ref of `remote`: a tracking ref for a branch, the tag itself for a tag.
pub(crate) fn local_name(remote: &str, name: &str) -> String {
    match name.strip_prefix(HEADS) {
        Some(branch) => format!("{}{branch}", tracking_prefix(remote)),
        None => name.to_owned(),
    }
}

/// Refuses what cannot be the full name of a branch or tag that is exchanged.
pub(crate) fn check_name(name: &str) -> Result<()> {
    within("bytes of a ref name", name.len(), REF_NAME_BYTES_MAX)?;
    let bad = || Error::BadRef { name: name.to_owned(), pattern: false };
    let short = name.strip_prefix(HEADS).or_else(|| name.strip_prefix(TAGS)).ok_or_else(bad)?;
    check_ref_name("branch or tag", short).map_err(|_| bad())
}

/// Refuses what cannot be the name of a ref that a directory or bucket has: of one that is exchanged, or `recovery/NAME/NUMBER`, what is kept of it.
pub(crate) fn check_kept_name(name: &str) -> Result<()> {
    let kept = name.strip_prefix("recovery/").and_then(|kept| kept.rsplit_once('/'));
    let is_number = |number: &str| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    match kept {
        Some((name, number)) if is_number(number) => check_name(name),
        _ => check_name(name),
    }
}

/// One hash over refs, sorted by name: BLAKE3 of, for each, the length of its name as four bytes little-endian, the name, the hash.
pub fn refs_digest<'a>(refs: impl IntoIterator<Item = &'a (String, Hash)>) -> Hash {
    let mut bytes = Vec::new();
    for (name, hash) in refs {
        bytes.extend_from_slice(&(name.len() as u32).to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(hash.as_bytes());
    }
    Hash::of(&bytes)
}

/// A hash as it travels.
pub(crate) fn hash_from(bytes: &[u8], field: &'static str) -> Result<Hash> {
    match <[u8; Hash::LEN]>::try_from(bytes) {
        Ok(hash) => Ok(Hash::from_bytes(hash)),
        Err(_) => Err(Error::protocol(format!("{field} has {} bytes, expected {}", bytes.len(), Hash::LEN))),
    }
}

/// Hashes as they travel, end to end; at most `max`.
pub(crate) fn hashes_from(bytes: &[u8], field: &'static str, max: usize) -> Result<Vec<Hash>> {
    within(field, bytes.len() / Hash::LEN, max)?;
    bytes.chunks(Hash::LEN).map(|hash| hash_from(hash, field)).collect()
}

/// Hashes end to end.
pub(crate) fn hashes_to_bytes(hashes: &[Hash]) -> bytes::Bytes {
    hashes.iter().flat_map(|hash| *hash.as_bytes()).collect()
}

/// Whether `name` matches `pattern`; time in proportion to the product of their lengths at worst.
pub(crate) fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, n));
            p += 1;
        } else if pattern.get(p) == Some(&name[n]) {
            p += 1;
            n += 1;
        } else if let Some((after, from)) = star {
            // Let the last star take one byte more.
            star = Some((after, from + 1));
            p = after;
            n = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters_and_all_else_is_literal() {
        let patterns = RefPatterns::new(&["heads/main", "heads/*feature*"]).unwrap();
        for name in ["heads/main", "heads/feature1", "heads/myfeature", "heads/a/feature/x"] {
            assert!(patterns.matches(name), "{name}");
        }
        for name in ["heads/releases", "heads/main2", "heads/xmain", "tags/feature", "heads/featur"] {
            assert!(!patterns.matches(name), "{name}");
        }
    }

    #[test]
    fn many_stars_take_no_long_time() {
        let pattern = format!("heads/{}b", "*a".repeat(300));
        assert!(!matches(pattern.as_bytes(), format!("heads/{}", "a".repeat(900)).as_bytes()));
    }

    #[test]
    fn patterns_outside_branches_and_tags_are_refused() {
        assert!(matches!(RefPatterns::new(&["work/*"]), Err(Error::BadRef { pattern: true, .. })));
        assert!(matches!(RefPatterns::new(&["*"]), Err(Error::BadRef { .. })));
    }

    #[test]
    fn names_that_could_mean_something_else_are_refused() {
        for name in [
            "work/main",
            "heads/",
            "heads//a",
            "heads/a..b",
            "heads/a b",
            "heads/.a",
            "heads/a\n",
            "recovery/x",
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["heads/main", "tags/v1.0", "heads/a/b-c_d"] {
            check_name(name).unwrap();
        }
    }
}
