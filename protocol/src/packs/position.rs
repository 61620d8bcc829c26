//! What a database remembers of a remote: the manifest up to which it has everything, and the refs that were there.
//!
//! The refs are local refs, `seen/REMOTE/heads/…` and `seen/REMOTE/tags/…`, so that what they reach stays here and the next packs can be
//! taken. The manifest is the setting `remote.REMOTE.position`: the remote's name, the number, the manifest's hash, and the digest of the
//! refs, with spaces between. If refs and digest differ, because a process died in between, nothing is remembered.

use std::collections::BTreeMap;

use pleach_engine::{Batch, Database, Hash, Outcome, RefUpdate};

use super::manifest::Name;
use crate::error::{Error, Result};
use crate::refs::{HEADS, TAGS, pushed_prefix, refs_digest, tracking_prefix};

/// Refs by name.
pub(super) type Refs = BTreeMap<String, Hash>;

/// Up to where a database has what a remote has.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Position {
    pub(super) name: Name,
    pub(super) number: u64,
    pub(super) hash: Hash,
    /// Branches and tags there, at that number.
    pub(super) refs: Refs,
}

/// The digest that a manifest has of its refs: of branches and tags.
pub(super) fn digest(refs: &Refs) -> Hash {
    let refs: Vec<(String, Hash)> = public(refs).map(|(name, hash)| (name.clone(), *hash)).collect();
    refs_digest(&refs)
}

/// The refs that are exchanged; what is kept under `recovery/` is not.
pub(super) fn public(refs: &Refs) -> impl Iterator<Item = (&String, &Hash)> {
    refs.iter().filter(|(name, _)| is_public(name))
}

/// Whether a ref is exchanged.
pub(super) fn is_public(name: &str) -> bool {
    name.starts_with(HEADS) || name.starts_with(TAGS)
}

/// Prefix of the refs that `remote` had.
fn seen_prefix(remote: &str) -> String {
    format!("seen/{remote}/")
}

fn setting(remote: &str) -> String {
    format!("remote.{remote}.position")
}

/// What is remembered of `remote`, if it is whole.
pub(super) fn read(database: &Database, remote: &str) -> Result<Option<Position>> {
    let Some(text) = database.setting(&setting(remote))? else { return Ok(None) };
    let prefix = seen_prefix(remote);
    let refs: Refs = database
        .refs(&prefix)
        .into_iter()
        .filter_map(|(name, hash)| Some((name.strip_prefix(&prefix)?.to_owned(), hash)))
        .collect();
    let position = parse(&text).filter(|(.., of_refs)| *of_refs == digest(&refs));
    Ok(position.map(|(name, number, hash, _)| Position { name, number, hash, refs }))
}

fn parse(text: &str) -> Option<(Name, u64, Hash, Hash)> {
    let mut words = text.split(' ');
    let name = Name::parse(words.next()?)?;
    let number = words.next()?.parse().ok()?;
    Some((name, number, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// The moves that make the refs remembered of `remote` those in `refs`.
pub(super) fn moves(database: &Database, remote: &str, refs: &Refs) -> Vec<RefUpdate> {
    let prefix = seen_prefix(remote);
    let mut old: BTreeMap<String, Hash> = database.refs(&prefix).into_iter().collect();
    let mut moves = Vec::new();
    for (name, &new) in public(refs) {
        let name = format!("{prefix}{name}");
        let old = old.remove(&name);
        if old != Some(new) {
            moves.push(RefUpdate { name, old, new: Some(new) });
        }
    }
    moves.extend(old.into_iter().map(|(name, old)| RefUpdate { name, old: Some(old), new: None }));
    moves
}

/// Remembers where a database is, when the refs were moved.
pub(super) fn write(database: &Database, remote: &str, position: &Position) -> Result<()> {
    let Position { name, number, hash, refs } = position;
    let text = format!("{name} {number} {hash} {}", digest(refs));
    if database.setting(&setting(remote))?.as_ref() != Some(&text) {
        database.set_setting(&setting(remote), Some(&text))?;
    }
    Ok(())
}

/// Forgets what is known of `remote`, when it is removed: its tracking refs, what was pushed there on write, and where this database was with it.
///
/// # Errors
/// [`Error::Moved`](crate::Error::Moved), if a transfer moved one of them meanwhile; the store's.
pub fn forget_remote(database: &Database, remote: &str) -> Result<()> {
    let mut moves = moves(database, remote, &Refs::new());
    let tracking = database.refs(&tracking_prefix(remote)).into_iter();
    let tracking = tracking.chain(database.refs(&pushed_prefix(remote)));
    moves.extend(tracking.map(|(name, old)| RefUpdate { name, old: Some(old), new: None }));
    if !moves.is_empty()
        && let Outcome::Moved { name, .. } = database.update_refs(Batch::default(), &moves)?
    {
        return Err(Error::Moved { name });
    }
    crate::client::forget_note(database, remote)?;
    if database.setting(&setting(remote))?.is_some() {
        database.set_setting(&setting(remote), None)?;
    }
    Ok(())
}
