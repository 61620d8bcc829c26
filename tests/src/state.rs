//! What a database holds, as text: for comparing it before and after something went wrong.
//!
//! One idea: two states are the same if their texts are. A text says nothing of when commits were made, so that two runs of one script
//! give the same texts. Making it reads and checks everything that a ref leads to.

use std::{collections::HashSet, fmt::Write, ops::Bound, path::Path};

use pleach_engine::{Database, Error, Options, StoreError, check_chunk, check_lineage};

/// The text of a directory in which no database is.
pub const NO_DATABASE: &str = "no database";

/// What the database in `dir` holds; or why it cannot be opened, or what of it cannot be read.
pub fn state(dir: &Path) -> Result<String, String> {
    match Database::open(dir, Options::default()) {
        Ok(database) => describe(&database).map_err(|error| format!("cannot be read: {error}")),
        Err(Error::Store(StoreError::NotFound { .. })) => Ok(NO_DATABASE.to_owned()),
        Err(error) => Err(format!("does not open: {error}")),
    }
}

fn describe(database: &Database) -> Result<String, Error> {
    check(database)?;
    let mut text = format!("on {}\n", database.current_branch()?);
    for branch in database.branches()? {
        let _ = writeln!(text, "branch {}", branch.name);
        if let Some(head) = branch.head {
            for commit in database.log(&head)? {
                let (_, commit) = commit?;
                let _ = writeln!(text, "  commit {:?} of {}", commit.message, commit.root);
            }
        }
        for (name, table) in database.snapshot_of_root(branch.work)?.tables()? {
            let _ = writeln!(text, "  table {name}");
            table.scan(Bound::Unbounded, Bound::Unbounded)?.for_each(|key, value| {
                let _ = writeln!(text, "    {} = {}", key.escape_ascii(), value.escape_ascii());
            })?;
        }
    }
    for (tag, _) in database.tags()? {
        let _ = writeln!(text, "tag {tag}");
    }
    Ok(text)
}

/// Checks every chunk that a ref leads to.
fn check(database: &Database) -> Result<(), Error> {
    let mut open: Vec<_> = database.refs("").into_iter().map(|(_, hash)| hash).collect();
    let mut seen = HashSet::new();
    while let Some(hash) = open.pop() {
        if seen.insert(hash) {
            let chunk = database.store().get(&hash)?.ok_or(Error::Missing { hash })?;
            check_chunk(&chunk)?;
            check_lineage(&chunk, |parent| Ok(database.store().get(parent)?))?;
            open.extend(chunk.children());
        }
    }
    Ok(())
}
