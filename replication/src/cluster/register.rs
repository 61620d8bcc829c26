//! The register: a hidden database that a cluster replicates like any other, with what concerns all databases: which were dropped, and
//! documents of the servers, such as their users. No client can name it.
//!
//! The one idea: state, not a log. A database has an *incarnation*, an id that all its copies share, and that of one which was dropped stands in
//! the register. So a standby that was away gets one difference, drops what is of a dropped incarnation, and takes a database that was
//! made anew under the same name for what it is. Which databases exist needs no rows: each comes with its first change. And so
//! nothing is ever dropped because something is missing: a database that the register does not know, of a time before the cluster or
//! of a primary that was replaced, stays.
//!
//! | a node finds | then |
//! |---|---|
//! | a database of a dropped incarnation | it drops it; sets it aside, as `NAME.dropped` in the data directory, if it has something that its primary may never have had: refs under `recovery/`, or writes of its own since it last followed |
//! | the same, and `replicate_drops` is off | it stays, until its primary makes another of that name: then it is set aside |
//! | its own drop, which a crash cut short | it drops it |
//!
//! Invariants, held by the tests below and those named `c30`:
//! 1. That a database is dropped is durable in the register before it is gone: a crash in between leaves a drop to be finished, never a
//!    database that standbys keep.
//! 2. A standby that acknowledged the register has dropped what it names. One that crashed before drops it when it starts.

use std::fmt;

use pleach_engine::{Database, Hash, TransactionOutcome};

use crate::cluster::applied::Position;
use crate::cluster::node::Node;
use crate::cluster::role::Epoch;
use crate::error::{Error, Result};

/// What the register is called, which no database can be called.
pub(crate) const NAME: &str = "cluster.register";

const BRANCH: &str = "main";
/// Name of the database, `/`, and its incarnation, in hexadecimal → nothing.
const DROPPED: &str = "dropped";
/// The same, of databases that are not to be dropped elsewhere.
const LEFT: &str = "left";
/// Name → content.
const DOCUMENTS: &str = "documents";
/// A local setting of a database whose drop has begun here.
const DROPPING: &str = "replication.dropping";
/// What is set aside ends so.
pub(crate) const ASIDE: &str = "dropped";

/// Which of the databases that had a name, one after the other, a copy is of.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Incarnation(pub(crate) [u8; 16]);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Incarnation {
    /// The local setting of a copy that got its database from elsewhere.
    const SETTING: &str = "replication.incarnation";

    /// That of `database`: where it was first made, the id of its store.
    pub(crate) fn of(database: &Database) -> Result<Incarnation> {
        let Some(text) = database.setting(Incarnation::SETTING)? else {
            return Ok(Incarnation(database.store().id()));
        };
        let bytes = (0..text.len()).step_by(2).map(|at| {
            let digits = text.get(at..at + 2)?;
            u8::from_str_radix(digits, 16).ok()
        });
        let bytes: Option<Vec<u8>> = bytes.collect();
        let id = bytes.and_then(|bytes| bytes.try_into().ok());
        let what = || format!("expected `{}` to be 32 digits, found `{text}`", Incarnation::SETTING);
        id.map(Incarnation).ok_or_else(|| Error::BadPosition { what: what() })
    }

    /// That it is a copy of this. Durable when it returns.
    pub(crate) fn mark(self, database: &Database) -> Result<()> {
        if Incarnation::of(database)? != self {
            database.set_setting(Incarnation::SETTING, Some(&self.to_string()))?;
        }
        Ok(())
    }

    /// That arrived.
    pub(crate) fn read(bytes: &[u8]) -> Result<Incarnation> {
        let expected = || Error::protocol(format!("an incarnation has {} bytes, expected 16", bytes.len()));
        bytes.try_into().map(Incarnation).map_err(|_| expected())
    }
}

/// Whether the database `name` of this incarnation was dropped, so that whoever has a copy drops it.
pub(crate) fn is_dropped(register: &Database, name: &str, incarnation: Incarnation) -> Result<bool> {
    Ok(get(register, DROPPED, row(name, incarnation).as_bytes())?.is_some())
}

/// Whether a primary dropped it, whatever becomes of copies.
pub(crate) fn is_gone(register: &Database, name: &str, incarnation: Incarnation) -> Result<bool> {
    let row = row(name, incarnation);
    Ok(get(register, DROPPED, row.as_bytes())?.is_some() || get(register, LEFT, row.as_bytes())?.is_some())
}

/// The same of the copy that is here.
pub(crate) fn is_gone_copy(register: Option<&Database>, name: &str, database: &Database) -> Result<bool> {
    match register {
        Some(register) => is_gone(register, name, Incarnation::of(database)?),
        None => Ok(false),
    }
}

fn row(name: &str, incarnation: Incarnation) -> String {
    format!("{name}/{incarnation}")
}

/// The incarnation that a primary sends `database` as. One that was dropped and is here again, from a backup for one, gets another.
pub(crate) fn incarnation_to_send(
    register: Option<&Database>,
    name: &str,
    database: &Database,
) -> Result<Incarnation> {
    if is_being_dropped(database)? {
        return Err(Error::UnknownDatabase { database: name.to_owned() });
    }
    let mut incarnation = Incarnation::of(database)?;
    while let Some(register) = register
        && is_gone(register, name, incarnation)?
    {
        let next = Hash::of(&incarnation.0);
        incarnation.0.copy_from_slice(&next.as_bytes()[..16]);
    }
    incarnation.mark(database)?;
    Ok(incarnation)
}

/// Notes that `database` is to be dropped, durably: whatever happens now, it will be; `everywhere`: by standbys as well.
pub(crate) fn note_drop(
    register: &Database,
    name: &str,
    database: &Database,
    everywhere: bool,
) -> Result<()> {
    database.set_setting(DROPPING, Some("1"))?;
    let table = if everywhere { DROPPED } else { LEFT };
    let noted = Incarnation::of(database)
        .and_then(|incarnation| put(register, table, row(name, incarnation).as_bytes(), b""));
    if noted.is_err() {
        // Nobody was told: it goes on as it was. If not even this can be noted, that is seen when databases are looked for.
        let _ = database.set_setting(DROPPING, None);
    }
    noted
}

/// Whether its drop has begun here.
pub(crate) fn is_being_dropped(database: &Database) -> Result<bool> {
    Ok(database.setting(DROPPING)?.is_some())
}

/// Whether its drop was noted, so that nobody is to have it any more. A drop that failed before that is forgotten.
pub(crate) fn concerns_nobody(node: &Node, name: &str, database: &Database) -> Result<bool> {
    if !is_being_dropped(database)? {
        return Ok(false);
    }
    let is_noted = is_gone_copy(node.database(NAME)?.as_ref(), name, database)?;
    if !is_noted {
        database.set_setting(DROPPING, None)?;
    }
    Ok(is_noted)
}

/// What was last published under `name`.
pub(crate) fn document(register: &Database, name: &str) -> Result<Option<Vec<u8>>> {
    get(register, DOCUMENTS, name.as_bytes())
}

/// Publishes `content` under `name`, unless it is what stands there.
pub(crate) fn publish(register: &Database, name: &str, content: &[u8]) -> Result<()> {
    match document(register, name)?.as_deref() == Some(content) {
        true => Ok(()),
        false => put(register, DOCUMENTS, name.as_bytes(), content),
    }
}

fn get(register: &Database, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut transaction = register.begin(BRANCH)?;
    match transaction.has_table(table)? {
        true => Ok(transaction.get(table, key)?),
        false => Ok(None),
    }
}

fn put(register: &Database, table: &str, key: &[u8], value: &[u8]) -> Result<()> {
    loop {
        let mut transaction = register.begin(BRANCH)?;
        if !transaction.has_table(table)? {
            transaction.create_table(table, None)?;
        }
        transaction.put(table, key, value)?;
        // Two that make a table at the same time conflict.
        match transaction.commit()? {
            TransactionOutcome::Refused { .. } => {}
            TransactionOutcome::Committed(_) | TransactionOutcome::Unchanged(_) => return Ok(()),
        }
    }
}

/// Ends drops that a crash cut short; if this node `follows`, drops what its primary dropped as well. Gives the names. Blocking.
pub(crate) fn drop_dropped(node: &Node, follows: bool) -> Result<Vec<String>> {
    let mut gone = Vec::new();
    let Some(register) = node.database(NAME)? else { return Ok(gone) };
    for name in node.databases().list()? {
        // One that cannot be opened is said elsewhere.
        let Ok(Some(database)) = node.databases().get(&name) else { continue };
        let is_own = is_being_dropped(&database)?;
        let may_drop = is_own || follows && node.replicates_drops();
        if !may_drop {
            continue;
        }
        let incarnation = Incarnation::of(&database)?;
        let is_named = match is_own {
            true => is_gone(&register, &name, incarnation)?,
            false => is_dropped(&register, &name, incarnation)?,
        };
        if !is_named {
            // It began, and nobody was told.
            if is_own {
                database.set_setting(DROPPING, None)?;
            }
            continue;
        }
        let keeps = !is_own && may_have_more(node, &database)?;
        drop(database);
        let done = match keeps {
            true => set_aside(node, &name, "its primary dropped it"),
            false => node.databases().drop_database(&name).map(drop).map_err(Into::into),
        };
        match done {
            Ok(()) if keeps => {}
            Ok(()) => tracing::warn!(database = name, "dropped, as its primary did"),
            Err(error) => {
                tracing::error!(database = name, %error, "it was dropped, and cannot be removed here");
                undo_drop(node, &name)?;
                continue;
            }
        }
        gone.push(name);
    }
    Ok(gone)
}

/// The drop of `name` that was noted failed here, where the database still is, or ended. As the register says that it was dropped, it goes to
/// standbys as another one.
pub(crate) fn undo_drop(node: &Node, name: &str) -> Result<()> {
    if let Some(database) = node.database(name)?
        && is_being_dropped(&database)?
    {
        database.set_setting(DROPPING, None)?;
    }
    Ok(())
}

/// Takes a database out of the list, and keeps its directory.
pub(crate) fn set_aside(node: &Node, name: &str, why: &str) -> Result<()> {
    if let Some(kept) = node.databases().set_aside(name, ASIDE)? {
        tracing::warn!(database = name, kept = %kept.display(), "set aside, not removed: {why}, and it has what that may never have had");
    }
    Ok(())
}

/// Whether a copy may have something that the primary which it followed last never had.
fn may_have_more(node: &Node, database: &Database) -> Result<bool> {
    let state = node.state();
    let position = Position::of(database, &state)?;
    // It was primary when this last changed.
    let is_own = position.is_some_and(|position| Some(Epoch(position.epoch)) == state.led);
    Ok(!database.refs("recovery/").is_empty() || is_own)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_copy_is_of_the_incarnation_that_it_was_marked_with() {
        let (one, two) = (Database::memory().unwrap(), Database::memory().unwrap());
        let incarnation = Incarnation::of(&one).unwrap();
        assert_eq!(incarnation.0, one.store().id());
        assert_ne!(Incarnation::of(&two).unwrap(), incarnation);
        incarnation.mark(&two).unwrap();
        assert_eq!(Incarnation::of(&two).unwrap(), incarnation);
        two.set_setting(Incarnation::SETTING, Some("no digits")).unwrap();
        assert!(Incarnation::of(&two).is_err());
        assert!(Incarnation::read(&[1; 15]).is_err());
    }

    #[test]
    fn drops_and_documents_stand_in_the_register() {
        let (register, shop) = (Database::memory().unwrap(), Database::memory().unwrap());
        let incarnation = Incarnation::of(&shop).unwrap();
        assert!(!is_dropped(&register, "shop", incarnation).unwrap());
        note_drop(&register, "shop", &shop, false).unwrap();
        assert!(!is_dropped(&register, "shop", incarnation).unwrap());
        assert!(is_gone(&register, "shop", incarnation).unwrap());
        note_drop(&register, "shop", &shop, true).unwrap();
        assert!(is_dropped(&register, "shop", incarnation).unwrap());
        assert!(!is_dropped(&register, "market", incarnation).unwrap(), "a copy under another name");
        assert!(incarnation_to_send(Some(&register), "shop", &shop).is_err(), "it is being dropped");
        shop.set_setting(DROPPING, None).unwrap();
        let again = incarnation_to_send(Some(&register), "shop", &shop).unwrap();
        assert_ne!(again, incarnation, "it is here again");
        assert_eq!(incarnation_to_send(Some(&register), "shop", &shop).unwrap(), again);
        assert_eq!(document(&register, "users").unwrap(), None);
        publish(&register, "users", b"users: []").unwrap();
        let at = register.sequence();
        publish(&register, "users", b"users: []").unwrap();
        assert_eq!(register.sequence(), at, "what stands there is not written again");
        assert_eq!(document(&register, "users").unwrap().unwrap(), b"users: []");
    }
}
