//! A database of a server that is made as the clone of a remote.

use pleach_protocol::{
    Databases, Error, Part, Remote, RemoteUrl, check_database_name, clone_database, forget_remote,
};

use crate::credentials;
use crate::error::{Failure, Result};
use crate::proto::{CloneDatabaseRequest, CloneDatabaseResponse, ClonedRef};

/// What a clone calls where it came from.
const ORIGIN: &str = "origin";
/// And what it is called if that name is another remote's.
const UPSTREAM: &str = "upstream";

/// Clones `request`'s remote. A remote that the databases of this server are `given` is not taken for the one that this came from.
pub fn clone(
    databases: &Databases,
    request: &CloneDatabaseRequest,
    given: Option<String>,
) -> Result<CloneDatabaseResponse> {
    let CloneDatabaseRequest { name, url } = request;
    check_database_name(name)?;
    let url: RemoteUrl = credentials::read()?.authorize(url.parse()?);
    let runtime = crate::cli::runtime()?;
    let mut cloned = CloneDatabaseResponse::default();
    let made = databases.create_with(name, |dir, options| {
        let (database, transfer) = runtime.block_on(async {
            let remote = Remote::connect(&url).await?;
            clone_database(&remote, dir, options, &Part::default()).await
        })?;
        if given.as_deref() == Some(ORIGIN) {
            forget_remote(&database, ORIGIN)?;
            database.set_setting(&format!("remote.{ORIGIN}.url"), None)?;
            database.set_setting(&format!("remote.{UPSTREAM}.url"), Some(&url.to_string()))?;
        }
        let refs = ["heads/", "tags/"].into_iter().flat_map(|prefix| database.refs(prefix));
        cloned = CloneDatabaseResponse {
            refs: refs.map(|(name, hash)| ClonedRef { name, hash: hash.to_string() }).collect(),
            chunks: transfer.chunks,
            bytes_sent: transfer.bytes_sent,
            bytes_received: transfer.bytes_received,
            round_trips: transfer.round_trips,
        };
        Ok(database.close()?)
    });
    match made {
        Ok(_) => Ok(cloned),
        Err(Error::Exists { .. }) => Err(Failure::exists(format!("database `{name}` exists already"))
            .hint("use it as it is, choose another name, or drop it first")),
        Err(error) => Err(error.into()),
    }
}
