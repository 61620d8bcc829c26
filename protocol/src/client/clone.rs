//! Clone: a new database with a remote's branches and tags, or a part of these, and that remote under the name `origin`.

use std::path::Path;

use pleach_engine::{DEFAULT_BRANCH, Database, Hash, Options, RefUpdate, StoreError};

use super::blocking;
use super::fetch::{RemoteRefs, fetch_and, tracking};
use super::promised::serve_promised_from;
use crate::error::{Error, Result};
use crate::part::Part;
use crate::refs::{HEADS, RefPatterns};
use crate::remote::Remote;
use crate::transfer::Transfer;

/// The setting of a clone that is not complete: of what it is one.
const CLONING: &str = "cloning";
/// Characters of its URL there.
const URL_SHOWN: usize = 200;
/// The name that a clone gives to where it came from.
const ORIGIN: &str = "origin";

/// Makes a database in `dir` with the branches and tags of `remote`, or a part of them. Every branch is made here with its work, and the
/// remote's default branch is current. `dir` is made; if it exists it must be empty, or hold the beginning of a clone of the same, on which nobody has
/// worked: that goes on. If something has arrived when this fails, or the process ends, it stays for that; else nothing is left.
///
/// What a partial clone lacks is asked of the remote when it is read, by this handle ([`crate::serve_promised`] does that for others).
///
/// # Errors
/// [`Error::Exists`], [`Error::OtherClone`], [`Error::UnknownBranch`] if no branch matches, [`Error::UnknownTable`], [`Error::NoParts`]; those of a fetch.
pub async fn clone_database(
    remote: &Remote,
    dir: &Path,
    options: Options,
    part: &Part,
) -> Result<(Database, Transfer)> {
    part.check()?;
    if part.is_partial() && remote.place().is_some() {
        return Err(Error::NoParts { url: remote.url().to_string() });
    }
    let patterns = RefPatterns::branches(&part.branches)?;
    let (path, existed) = (dir.to_owned(), dir.exists());
    let what = Cloning::of(&remote.url().to_string(), part);
    let noted = part.clone();
    let (database, is_new) = blocking(move || {
        if std::fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some()) || path.is_file() {
            return Ok((begun(&path, options, &what)?, false));
        }
        let database = Database::init(&path, options)?;
        if noted.is_partial() {
            noted.note(&database, ORIGIN)?;
        }
        database.set_setting(CLONING, Some(&what.0))?;
        Ok((database, true))
    })
    .await?;
    if part.is_partial() {
        serve_promised_from(&database, remote.url());
    }
    match fill(&database, remote, &patterns, part).await {
        Ok(transfer) => Ok((database, transfer)),
        Err(error) => {
            let path = dir.to_owned();
            // The error that matters is the first one.
            let _ = blocking(move || {
                let has_some = database.settings("fetching.").map_or(true, |notes| !notes.is_empty());
                let _ = database.close();
                if is_new && !has_some {
                    remove(&path, existed);
                }
                Ok(())
            })
            .await;
            Err(error)
        }
    }
}

/// Of what a clone is one, as it stands in a setting: the hash of the URL and the part, and the URL, for people.
struct Cloning(String);

impl Cloning {
    fn of(url: &str, part: &Part) -> Cloning {
        let hash = Hash::of(format!("{url}\n{part:?}").as_bytes());
        Cloning(format!("{hash} {}", url.chars().take(URL_SHOWN).collect::<String>()))
    }
}

/// The database in which a clone of the same was begun, if nobody has worked there.
fn begun(path: &Path, options: Options, what: &Cloning) -> Result<Database> {
    let exists = || Error::Exists { path: path.to_owned() };
    let database = Database::open(path, options).map_err(|error| match error {
        // Whoever works on it now may be the clone itself.
        in_use @ pleach_engine::Error::Store(StoreError::Locked { .. }) => Error::from(in_use),
        _ => exists(),
    })?;
    match goes_on(&database, path, what) {
        Ok(()) => Ok(database),
        Err(error) => {
            database.close()?;
            Err(error)
        }
    }
}

/// Whether this is the beginning of the same clone, as that left it.
fn goes_on(database: &Database, path: &Path, what: &Cloning) -> Result<()> {
    let exists = || Error::Exists { path: path.to_owned() };
    let begun = database.setting(CLONING)?.ok_or_else(exists)?;
    if begun != what.0 {
        let of = begun.split_once(' ').map_or_else(String::new, |(_, url)| url.to_owned());
        return Err(Error::OtherClone { path: path.to_owned(), of });
    }
    // A clone makes its branches all at once, with the last that it does.
    match database.refs(HEADS).is_empty() && database.status(DEFAULT_BRANCH)?.dirty {
        true => Err(exists()),
        false => Ok(()),
    }
}

async fn fill(database: &Database, remote: &Remote, patterns: &RefPatterns, part: &Part) -> Result<Transfer> {
    let (known, wanted) = (patterns.clone(), part.clone());
    // A clone that ended just before it said so is only brought up to date.
    let has_branches = !database.refs(HEADS).is_empty();
    let settle = Box::new(move |database: &Database, refs: &RemoteRefs| {
        if !wanted.branches.is_empty() && !refs.keys().any(|name| name.starts_with(HEADS)) {
            return Err(Error::UnknownBranch {
                remote: ORIGIN.to_owned(),
                branch: wanted.branches.join(", "),
            });
        }
        check_tables(database, &wanted.tables, refs)?;
        let (mut moves, results) = tracking(database, ORIGIN, &known, refs)?;
        if !has_branches {
            moves.extend(own_branches(database, refs)?);
        }
        Ok((moves, results))
    });
    let (transfer, default_branch) = fetch_and(database, remote, ORIGIN, patterns, part, settle).await?;
    let (database, url) = (database.clone(), remote.url().to_string());
    blocking(move || {
        database.set_setting(&format!("remote.{ORIGIN}.url"), Some(&url))?;
        database.set_setting(CLONING, None)?;
        if !has_branches && !default_branch.is_empty() && default_branch != DEFAULT_BRANCH {
            database.switch(&default_branch)?;
            // The branch that every new database has is no branch of the remote, unless that says so.
            if database.branch(DEFAULT_BRANCH)?.is_some_and(|branch| branch.head.is_none()) {
                database.delete_branch(DEFAULT_BRANCH)?;
            }
        }
        Ok(())
    })
    .await?;
    Ok(transfer)
}

/// Refuses a table that none of the refs has.
fn check_tables(database: &Database, tables: &[String], refs: &RemoteRefs) -> Result<()> {
    let mut unknown = tables.to_vec();
    for head in refs.values() {
        if unknown.is_empty() {
            return Ok(());
        }
        let snapshot = database.snapshot_of_root(database.commit_object(head)?.root)?;
        let mut still = Vec::new();
        for table in unknown {
            if snapshot.table(&table)?.is_none() {
                still.push(table);
            }
        }
        unknown = still;
    }
    match unknown.into_iter().next() {
        None => Ok(()),
        Some(table) => Err(Error::UnknownTable { remote: ORIGIN.to_owned(), table }),
    }
}

/// Every branch of the remote as a branch here: its head, and work that equals it.
fn own_branches(database: &Database, refs: &RemoteRefs) -> Result<Vec<RefUpdate>> {
    let mut moves = Vec::new();
    for (name, &head) in refs {
        if let Some(branch) = name.strip_prefix(HEADS) {
            let work = format!("work/{branch}");
            let root = database.commit_object(&head)?.root;
            moves.push(RefUpdate { name: name.clone(), old: None, new: Some(head) });
            moves.push(RefUpdate { old: database.get_ref(&work), name: work, new: Some(root) });
        }
    }
    Ok(moves)
}

/// Removes what was made: the directory, or what is in it if it was there before.
fn remove(dir: &Path, keep: bool) {
    if !keep {
        let _ = std::fs::remove_dir_all(dir);
        return;
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
    }
}
