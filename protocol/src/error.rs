//! What can go wrong in an exchange. Expected outcomes (a push that is refused, a merge with conflicts) are not here: they are
//! values of [`crate::Transfer`]. [`Error::kind`] says what a caller can do.

use std::path::PathBuf;

use pleach_engine::Hash;

use crate::tls::TlsError;

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Correct the name, the URL or the arguments.
    Input,
    /// Something asked for does not exist.
    NotFound,
    /// The peer cannot be reached, or the connection was cut: try again.
    Network,
    /// The peer does not allow this.
    NotAllowed,
    /// The peer broke the protocol: nothing that it sent was kept in a ref.
    Peer,
    /// The local store failed or is damaged; see the source.
    Store,
}

/// An error of the exchange.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A URL that is no remote.
    #[error(
        "`{url}` is no remote: {what}; supported: http://HOST:PORT/DATABASE, https://HOST:PORT/DATABASE, file:///DIRECTORY, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX"
    )]
    BadUrl {
        /// The URL as given.
        url: String,
        /// What is wrong with it.
        what: String,
    },
    /// A database name that is not allowed.
    #[error("`{name}` is no database name: it must match [a-z0-9_][a-z0-9_-]{{0,62}}")]
    BadDatabaseName {
        /// The name as given.
        name: String,
    },
    /// A ref, or a pattern of refs, that is not allowed.
    #[error("`{name}` is no ref that can be exchanged: expected heads/NAME or tags/NAME{}", if *.pattern { ", where `*` stands for any characters" } else { "" })]
    BadRef {
        /// The name or pattern as given.
        name: String,
        /// Whether it was meant as a pattern.
        pattern: bool,
    },
    /// A directory or database that is to be made exists.
    #[error("{} exists already and is not empty; give another directory", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// A remote was asked for a part of its database, and only gives all of it.
    #[error(
        "{url} is no server: it gives whole branches alone; clone without --table, --depth and --lazy, \
         or from a server"
    )]
    NoParts {
        /// URL of the remote.
        url: String,
    },
    /// A clone was asked for tables that none of its branches has.
    #[error("remote `{remote}` has no table `{table}` in the branches and tags that were asked for")]
    UnknownTable {
        /// Name of the remote.
        remote: String,
        /// The table.
        table: String,
    },
    /// A directory holds the beginning of another clone.
    #[error("{} holds the beginning of a clone of {of}, or of another part of it; go on with that, or give another directory", path.display())]
    OtherClone {
        /// The directory.
        path: PathBuf,
        /// Of which URL.
        of: String,
    },
    /// The server has no such database.
    #[error(
        "{url}: no such database on the server; make it there with `database create`, or correct the URL"
    )]
    UnknownDatabase {
        /// URL of the remote.
        url: String,
    },
    /// Nobody has pushed to a directory or bucket yet.
    #[error("{url}: there is no remote; push to it first, or correct the URL")]
    NothingThere {
        /// URL of the remote.
        url: String,
    },
    /// There is no such bucket.
    #[error("{url}: there is no such bucket or container; make it, or correct the URL")]
    NoPlace {
        /// URL of the remote.
        url: String,
    },
    /// Something else is where a remote was to begin.
    #[error("{url} is not empty and no remote: there is `{found}`; give another directory or prefix")]
    NotARemote {
        /// URL of the remote.
        url: String,
        /// What is there.
        found: String,
    },
    /// A place that lets two writers both win.
    #[error(
        "{url}: the server puts an object although there is one and it was asked not to, so that pushes would be lost; \
         use another server, or a newer version of it"
    )]
    NotConditional {
        /// URL of the remote.
        url: String,
    },
    /// What lies at a remote is not what was put there.
    #[error("{url}: {key} is damaged: {what}; bring it back from a copy, or push to a new remote")]
    DamagedRemote {
        /// URL of the remote.
        url: String,
        /// The object.
        key: String,
        /// What is wrong with it.
        what: String,
    },
    /// Something was written by another version of this program.
    #[error(
        "{what} was found, this program knows version {known}; use the program that wrote it, or a newer one"
    )]
    OtherFormat {
        /// What has which version.
        what: String,
        /// The version that is known here.
        known: u32,
    },
    /// Others push to a remote faster than this one can.
    #[error("{url}: others pushed first, {attempts} times; try again")]
    Busy {
        /// URL of the remote.
        url: String,
        /// How often it was tried.
        attempts: usize,
    },
    /// A collection needs all refs of the remote.
    #[error("{url}: {name} is not in this database; fetch, then try again")]
    NotFetched {
        /// URL of the remote.
        url: String,
        /// The ref.
        name: String,
    },
    /// A server looks after its database itself.
    #[error("{url} is a server, which looks after its database itself; use `gc` there")]
    NoUpkeep {
        /// URL of the remote.
        url: String,
    },
    /// Something that only a server does.
    #[error("{url} is no server: {instead}")]
    NoServer {
        /// URL of the remote.
        url: String,
        /// Why not, and what to do.
        instead: &'static str,
    },
    /// A server gave no chunk, or has no such database.
    #[error("{url}: {what}")]
    NoChunk {
        /// URL of the remote.
        url: String,
        /// The server's reason.
        what: String,
    },
    /// A remote has no such branch.
    #[error("remote `{remote}` has no branch `{branch}`")]
    UnknownBranch {
        /// Name of the remote.
        remote: String,
        /// Name of the branch.
        branch: String,
    },
    /// Nobody answers at the address, or the connection was cut.
    #[error("{url}: {what}; check that the server runs and can be reached, then try again")]
    Unreachable {
        /// URL of the remote.
        url: String,
        /// What the transport said.
        what: String,
    },
    /// A push may have arrived or not: it was sent, and not answered.
    #[error("{source}; the push may have arrived or not: push again to learn it")]
    Uncertain {
        /// URL of the remote.
        url: String,
        /// Why there was no answer.
        source: Box<Error>,
    },
    /// There is no connection by TLS: a file that is wrong here, a peer that is not who it should be, or that does not want us.
    #[error("{url}: {error}")]
    Tls {
        /// URL of the remote.
        url: String,
        /// What is wrong.
        error: TlsError,
    },
    /// The server refuses writes, or the caller may not do this.
    #[error("{url}: {what}")]
    NotAllowed {
        /// URL of the remote.
        url: String,
        /// The server's reason.
        what: String,
    },
    /// The server has users, and the token, or none, is that of no user.
    #[error("{url}: {what}")]
    NotAUser {
        /// URL of the remote.
        url: String,
        /// The server's reason.
        what: String,
    },
    /// The server answered with an error.
    #[error("{url}: the server answered {code}: {what}")]
    Refused {
        /// URL of the remote.
        url: String,
        /// The gRPC status code.
        code: tonic::Code,
        /// The server's message.
        what: String,
    },
    /// The peer's messages are not what the contract says.
    #[error("the peer broke the protocol: {what}")]
    Protocol {
        /// What was expected, and found.
        what: String,
    },
    /// A record that cannot be read.
    #[error("record {record}: malformed at byte {offset} of its message: {what}")]
    Record {
        /// Number of the record in the transfer, from 0.
        record: u64,
        /// Where in the message, in bytes.
        offset: usize,
        /// What was expected, and found.
        what: String,
    },
    /// A chunk is not the one that its parent, or the peer, named.
    #[error("record {record}: the chunk's hash is {found}, expected {expected}; it was not stored")]
    WrongHash {
        /// Number of the record in the transfer.
        record: u64,
        /// What the verified parent says.
        expected: Hash,
        /// What the bytes hash to.
        found: Hash,
    },
    /// A table that was sent as the rows that changed does not come out as its parent says.
    #[error(
        "record {record}: rows that changed do not make the table that was meant: {what}; it was not stored"
    )]
    WrongEdits {
        /// Number of the record in the transfer.
        record: u64,
        /// What is wrong.
        what: String,
        /// The root that they make, if they make one.
        found: Option<Hash>,
    },
    /// A chunk that nothing asked for.
    #[error("record {record}: a chunk that was not asked for; it was not stored")]
    Unasked {
        /// Number of the record in the transfer.
        record: u64,
    },
    /// A delta on a chunk that is not here.
    #[error("record {record}: a delta on a base that is not here ({what})")]
    UnknownBase {
        /// Number of the record in the transfer.
        record: u64,
        /// Which base.
        what: String,
    },
    /// A chunk names a child that is neither here nor in the transfer.
    #[error(
        "record {record}: chunk {parent} needs {child}, which is neither here nor sent; it was not stored"
    )]
    MissingChild {
        /// Number of the record in the transfer.
        record: u64,
        /// The chunk received.
        parent: Hash,
        /// The child it lacks.
        child: Hash,
    },
    /// Something exceeds a limit.
    #[error("{what} exceeds the limit: {found} > {limit}")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        found: u64,
        /// How large it may be.
        limit: u64,
    },
    /// The transfer ended before it was complete.
    #[error("the transfer was cut after {records} records; no ref was moved: try again")]
    Cut {
        /// Records received.
        records: u64,
    },
    /// A ref moved here while the transfer ran.
    #[error("{name} was moved here by somebody else during the transfer; try again")]
    Moved {
        /// The ref.
        name: String,
    },
    /// The engine, or the store below it.
    #[error(transparent)]
    Engine(#[from] pleach_engine::Error),
    /// A directory could not be made, read, moved or removed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A thread of the transfer ended without an answer.
    #[error("a thread of the transfer ended without an answer: {what}")]
    Lost {
        /// What the runtime said.
        what: String,
    },
}

impl Error {
    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Tls { error, .. } if error.is_input() => ErrorKind::Input,
            Error::BadUrl { .. }
            | Error::BadDatabaseName { .. }
            | Error::BadRef { .. }
            | Error::NotARemote { .. }
            | Error::NotFetched { .. }
            | Error::NoUpkeep { .. }
            | Error::NoServer { .. }
            | Error::NoParts { .. }
            | Error::OtherClone { .. }
            | Error::Exists { .. } => ErrorKind::Input,
            Error::UnknownDatabase { .. }
            | Error::UnknownBranch { .. }
            | Error::UnknownTable { .. }
            | Error::NoChunk { .. }
            | Error::NothingThere { .. }
            | Error::NoPlace { .. } => ErrorKind::NotFound,
            Error::Unreachable { .. }
            | Error::Uncertain { .. }
            | Error::Tls { .. }
            | Error::Cut { .. }
            | Error::Moved { .. }
            | Error::Busy { .. }
            | Error::Refused { .. } => ErrorKind::Network,
            Error::NotAllowed { .. } | Error::NotAUser { .. } => ErrorKind::NotAllowed,
            Error::Protocol { .. }
            | Error::NotConditional { .. }
            | Error::DamagedRemote { .. }
            | Error::OtherFormat { .. }
            | Error::Record { .. }
            | Error::WrongHash { .. }
            | Error::WrongEdits { .. }
            | Error::Unasked { .. }
            | Error::UnknownBase { .. }
            | Error::MissingChild { .. }
            | Error::Limit { .. } => ErrorKind::Peer,
            Error::Engine(error) if error.kind() == pleach_engine::ErrorKind::Remote => ErrorKind::Network,
            Error::Engine(_) | Error::Io { .. } | Error::Lost { .. } => ErrorKind::Store,
        }
    }

    pub(crate) fn uncertain(url: String, source: Error) -> Error {
        Error::Uncertain { url, source: Box::new(source) }
    }

    pub(crate) fn protocol(what: impl Into<String>) -> Error {
        Error::Protocol { what: what.into() }
    }
}

/// Refuses `found` above `limit`.
pub(crate) fn within(what: &'static str, found: usize, limit: usize) -> Result<()> {
    if found > limit {
        return Err(Error::Limit { what, found: found as u64, limit: limit as u64 });
    }
    Ok(())
}
