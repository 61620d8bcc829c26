//! Names of refs, and where each kind of ref lives.
//!
//! ```text
//! shared (replication compares them):  heads/BRANCH · tags/TAG → commit    work/BRANCH → root of the uncommitted catalogue
//! local:                               remotes/REMOTE/BRANCH → commit    local/settings → root of a map of text
//!                                      recovery/REF/MILLIS → what REF was, see `recovery`
//!                                      seen/REMOTE/heads/BRANCH, seen/REMOTE/tags/TAG → commit, see `packs` of the protocol
//!                                      pushed/REMOTE/heads/…, pushed/REMOTE/tags/… → commit, see `primary` of replication
//!                                      pending/from/REF, pending/to/REF → a change that waits, see `approval`
//!                                      feeds/since/NAME · feeds/to/NAME → root of a branch's work, see `feed`
//! ```

use crate::error::{Error, Result};

pub(crate) const HEADS: &str = "heads/";
pub(crate) const TAGS: &str = "tags/";
pub(crate) const WORK: &str = "work/";
pub(crate) const REMOTES: &str = "remotes/";
pub(crate) const RECOVERY: &str = "recovery/";
pub(crate) const SETTINGS: &str = "local/settings";
pub(crate) const FEED_SINCE: &str = "feeds/since/";
const FEED_TO: &str = "feeds/to/";
/// The prefixes of the shared map of refs.
pub(crate) const SHARED: [&str; 3] = [HEADS, TAGS, WORK];

/// Whether replication compares the ref.
pub(crate) fn is_shared(name: &str) -> bool {
    SHARED.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether the ref is a branch's head or a tag, which remotes have.
pub(crate) fn is_public(name: &str) -> bool {
    name.starts_with(HEADS) || name.starts_with(TAGS)
}

pub(crate) fn head(branch: &str) -> String {
    format!("{HEADS}{branch}")
}

pub(crate) fn work(branch: &str) -> String {
    format!("{WORK}{branch}")
}

pub(crate) fn feed_since(name: &str) -> String {
    format!("{FEED_SINCE}{name}")
}

pub(crate) fn feed_to(name: &str) -> String {
    format!("{FEED_TO}{name}")
}

pub(crate) fn tag(name: &str) -> String {
    format!("{TAGS}{name}")
}

/// Checks the name of a branch or tag (`what`) by git's rules, and by ours: `@…`, `remotes/…` and `recovery/…` are reserved.
///
/// # Errors
/// [`Error::BadName`] says which rule.
pub fn check_ref(what: &'static str, name: &str) -> Result<()> {
    let bad = |why| Err(Error::BadName { what, name: name.to_owned(), why });
    if name.is_empty() || name.len() > 250 {
        return bad("expected 1 to 250 bytes");
    }
    if name == "HEAD" || name.starts_with(['-', '@']) || name.contains("@{") {
        return bad("`HEAD`, `@{` and a leading `-` or `@` are reserved");
    }
    if name.starts_with(REMOTES) || name.starts_with(RECOVERY) {
        return bad("`remotes/` and `recovery/` name refs of their own");
    }
    if name.contains(|c: char| c.is_control() || " ~^:?*[\\".contains(c)) || name.contains("..") {
        return bad("spaces, control characters, `..` and any of ~^:?*[\\ are not allowed");
    }
    let bad_part = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with(".lock");
    if name.split('/').any(bad_part) || name.ends_with('.') {
        return bad(
            "its parts between slashes must not be empty, begin or end with `.`, or end with `.lock`",
        );
    }
    Ok(())
}

/// Checks a table's name: any text without `/`.
pub(crate) fn check_table(name: &str) -> Result<()> {
    check_text("table", name)
}

/// Checks an index's name: any text without `/`.
pub(crate) fn check_index(name: &str) -> Result<()> {
    check_text("index", name)
}

fn check_text(what: &'static str, name: &str) -> Result<()> {
    let bad = |why| Err(Error::BadName { what, name: name.to_owned(), why });
    if name.is_empty() || name.len() > 250 {
        return bad("expected 1 to 250 bytes");
    }
    if name.contains(|c: char| c == '/' || c.is_control()) {
        return bad("`/` and control characters are not allowed");
    }
    Ok(())
}
