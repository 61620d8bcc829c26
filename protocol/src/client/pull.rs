//! Pull: fetch, then merge the remote's branch into one here.

use pleach_engine::{Database, MergeOptions, MergeOutcome};

use super::{blocking, fetch};
use crate::error::{Error, Result};
use crate::refs::{HEADS, RefPatterns, local_name};
use crate::remote::Remote;
use crate::transfer::Transfer;

/// Fetches everything from `remote`, then merges its branch `theirs` into `branch` here: fast-forward if possible.
///
/// # Errors
/// [`Error::UnknownBranch`] if the remote has no such branch; the engine's if `branch` has uncommitted work. What was fetched stays.
pub async fn pull(
    database: &Database,
    remote: &Remote,
    name: &str,
    theirs: &str,
    branch: &str,
    options: MergeOptions,
) -> Result<(Transfer, MergeOutcome)> {
    let transfer = fetch(database, remote, name, &RefPatterns::all()).await?;
    let tracked = database.get_ref(&local_name(name, &format!("{HEADS}{theirs}")));
    let unknown = || Error::UnknownBranch { remote: name.to_owned(), branch: theirs.to_owned() };
    let tracked = tracked.ok_or_else(unknown)?;
    let (database, branch) = (database.clone(), branch.to_owned());
    let outcome = blocking(move || Ok(database.merge(&branch, &tracked, options)?)).await?;
    Ok((transfer, outcome))
}
