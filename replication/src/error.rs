//! What can go wrong in replication. Why a role is not assumed is a [`Refusal`], why a write is not taken a [`NotWritable`]: both are
//! answers, and [`Error`] carries the first. [`Error::kind`] says what a caller can do.

use std::fmt;
use std::path::PathBuf;

use crate::cluster::role::{Epoch, NodeId, Refusal, Role, Standing};

/// The result of an operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Correct the configuration or the arguments.
    Input,
    /// The node's role or state does not allow it now; the message says what to do first.
    Refused,
    /// A peer or remote cannot be reached, or the connection was cut: try again.
    Network,
    /// The local disk or store failed or is damaged; see the source.
    Store,
}

/// A database that a standby does not have whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    /// The database.
    pub database: String,
    /// Name of the standby.
    pub standby: String,
    /// What was last wrong with the connection to it.
    pub error: Option<String>,
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` on {}", self.database, self.standby)?;
        self.error.as_ref().map_or(Ok(()), |error| write!(f, " ({error})"))
    }
}

fn count(refs: usize) -> String {
    if refs == 1 { "1 ref was not pushed".to_owned() } else { format!("{refs} refs were not pushed") }
}

fn list(behind: &[Behind]) -> String {
    behind.iter().map(Behind::to_string).collect::<Vec<_>>().join(", ")
}

/// An error of replication.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration that cannot be.
    #[error("cluster configuration: {what}")]
    BadConfig {
        /// What was expected, and found.
        what: String,
    },
    /// The file that keeps the role is not what it must be.
    #[error(
        "{}: the file that keeps this node's role is damaged: {what}; restore it from a backup, or remove it and start the node as \
         a standby, so that it learns the epoch from its primary",
        path.display()
    )]
    DamagedRole {
        /// The file.
        path: PathBuf,
        /// What was expected, and found.
        what: String,
    },
    /// The file of this node's key holds something else.
    #[error(
        "{}: this is no key of a node: {what}; name another file with node_key, or remove this one and the node makes itself a key, whose \
         fingerprint its peers then need",
        path.display()
    )]
    BadKey {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// A node did not prove who it is.
    #[error("{url} did not prove who it is: {why}")]
    Unauthenticated {
        /// Its address.
        url: String,
        /// What is wrong.
        why: crate::cluster::auth::Refused,
    },
    /// A peer does not publish its keys as it should.
    #[error("{url}{what}; pin the `fingerprint` of that node, or have it publish its keys")]
    NoKeys {
        /// Its address.
        url: String,
        /// What is wrong.
        what: String,
    },
    /// What a database notes of the last change that was applied to it cannot be read.
    #[error("{what}")]
    BadPosition {
        /// What was expected, and found.
        what: String,
    },
    /// A node became primary, and takes no writes yet.
    #[error(
        "this node is {standing}, durably, and takes no writes yet: {why}; it takes them as soon as that is so. If that cannot be, assume the \
         role of primary at a higher epoch on a node that has everything that was acknowledged"
    )]
    NotGranted {
        /// What it is.
        standing: Standing,
        /// What is missing.
        why: NotWritable,
    },
    /// Not enough standbys have a write, as far as this node knows.
    #[error(
        "the outcome of the write is open: it is durable on this server, and {had} of the {needed} standbys that must have it said so {why}; \
         it goes on to them, and may be lost if this server is. Read it before you write it again"
    )]
    Unacknowledged {
        /// Standbys that have it.
        had: usize,
        /// Standbys that must have it.
        needed: usize,
        /// `in 10.0 s`, or what became of this node.
        why: String,
    },
    /// A write was done, and the lease by which this node was elected was over before it could be promised.
    #[error(
        "the outcome of the write is open: it is durable on this server, whose lease as primary was over before the write could be promised; it may be \
         lost to the next primary. Read it before you write it again"
    )]
    LeaseOver,
    /// A role is not assumed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Standbys did not catch up in time, so that the primary stays what it is.
    #[error(
        "failed to transition from primary to standby gracefully: {had} of the {needed} standbys that must have everything have it after \
         {seconds:.1} s, could not replicate {}; this node is still {standing} and writable: bring the standbys up, or assume the role of \
         primary on one of them",
        list(behind)
    )]
    NotCaughtUp {
        /// What it is still.
        standing: Standing,
        /// How long it waited, in seconds.
        seconds: f64,
        /// Standbys that have everything.
        had: usize,
        /// Standbys that must.
        needed: usize,
        /// Who lacks what.
        behind: Vec<Behind>,
    },
    /// A hand-over is to be done with so many standbys that what was acknowledged could be lost, or with more than there are.
    #[error(
        "expected from {least} to {standbys} standbys that must have caught up, found {count}; with fewer than have a write before it is \
         acknowledged (ack.count), and with none, a node could lead that lacks what was acknowledged"
    )]
    TooFew {
        /// As asked.
        count: usize,
        /// The least.
        least: usize,
        /// How many there are.
        standbys: usize,
    },
    /// Writes that had begun did not end in time, so that the primary stays what it is.
    #[error(
        "{writes} writes under way did not end in {seconds:.1} s; this node is still {standing} and writable: try again"
    )]
    StillWriting {
        /// What it is still.
        standing: Standing,
        /// How long it waited, in seconds.
        seconds: f64,
        /// How many.
        writes: usize,
    },
    /// The node's standing changed while a role was being assumed.
    #[error("this node became {standing} meanwhile; look at the cluster's status and try again")]
    Overtaken {
        /// What it is now.
        standing: Standing,
    },
    /// Who is primary is not for an operator to say.
    #[error(
        "this cluster elects its primary (cluster.election): the node that holds the lease is asked to be it; to move the role, make the primary a \
         standby (`pleach cluster transition-to-standby`), and another node is elected; to decide by hand, take cluster.election out of the \
         configuration of every node"
    )]
    Elected,
    /// Another role is being assumed.
    #[error("a role is being assumed at this moment; look at the cluster's status and try again")]
    Busy,
    /// A standby cannot be reached, or the stream to it was cut.
    #[error("{url}: {what}")]
    Unreachable {
        /// Its address.
        url: String,
        /// What the transport said.
        what: String,
    },
    /// A peer refused a stream or a change.
    #[error("{url}: the standby answered {code}: {what}")]
    PeerRefused {
        /// Its address.
        url: String,
        /// The gRPC status code.
        code: tonic::Code,
        /// Its message.
        what: String,
    },
    /// A peer's messages are not what the contract says.
    #[error("the peer broke the protocol: {what}")]
    Protocol {
        /// What was expected, and found.
        what: String,
    },
    /// A peer is in a standing in which it does not follow this node.
    #[error("the peer is {standing} and does not follow this node")]
    NotFollowing {
        /// What the peer is.
        standing: Standing,
    },
    /// A standby remote leads to this node itself.
    #[error("{url} is this node itself ({node}); correct the standby remote")]
    Myself {
        /// The URL.
        url: String,
        /// This node.
        node: NodeId,
    },
    /// A node gets its changes from another already.
    #[error("this node gets its changes from {from} already, by a way that is as short")]
    Fed {
        /// The node.
        from: NodeId,
    },
    /// A node opened another stream.
    #[error("another stream of this node took the place of this one")]
    Superseded,
    /// What is forwarded would come back.
    #[error(
        "{url} is node {node}, by which changes come here: nothing is sent to it, which would be a loop; leave it out of standby_remotes, or keep it for the time after a change of role"
    )]
    Loop {
        /// Its address.
        url: String,
        /// The node.
        node: NodeId,
    },
    /// A ref of a standby is not what the primary thought.
    #[error("`{name}` of database `{database}` is not what the primary thinks; it looks again")]
    Moved {
        /// The database.
        database: String,
        /// The ref.
        name: String,
    },
    /// A peer names a database that is not here, and does not ask to make it.
    #[error("no database `{database}` here; the primary looks again")]
    UnknownDatabase {
        /// The name.
        database: String,
    },
    /// A followed remote is not configured.
    #[error("remote `{remote}` not found; add it with `remote add {remote} URL`")]
    UnknownRemote {
        /// Its name.
        remote: String,
    },
    /// What a database is to be pushed to is not there, and cannot be made.
    #[error("{url} cannot be made: {what}")]
    NotMade {
        /// Its URL.
        url: String,
        /// Why.
        what: String,
    },
    /// Something is to be pushed, and this node is not the primary any more.
    #[error("it was not pushed: this node is no primary now; the primary pushes it when it has it")]
    NoPrimary,
    /// Something is to be pushed, and somebody else decides by now where to.
    #[error("it was not pushed there: where to push was changed meanwhile")]
    Retired,
    /// Two databases have one remote: the second would overwrite what the first pushed.
    #[error(
        "`{url}` is the remote of database `{database}` already: give this one a remote of its own, or drop it"
    )]
    SharedRemote {
        /// The remote's URL.
        url: String,
        /// Whose remote it is.
        database: String,
    },
    /// Refs cannot be pushed as they are; the others were.
    #[error("{} to `{remote}`: {}", count(refs.len()), refs.iter().map(|(name, why)| format!("{name}: {why}")).collect::<Vec<_>>().join("; "))]
    Stuck {
        /// The remote.
        remote: String,
        /// By name, and why.
        refs: std::collections::BTreeMap<String, String>,
    },
    /// A branch to follow is not on the remote.
    #[error(
        "unable to find `{branch}` on `{remote}`: branch not found; correct replicate_heads, or make the branch there"
    )]
    UnknownBranch {
        /// The branch.
        branch: String,
        /// Name of the remote.
        remote: String,
    },
    /// A branch of the remote does not contain the replica's, and that is not to be given up.
    #[error(
        "branch `{branch}`: `{remote}` moved it to a commit that does not contain the replica's; the replica keeps its own while \
         force_pull is false"
    )]
    NotFastForward {
        /// The branch.
        branch: String,
        /// Name of the remote.
        remote: String,
    },
    /// A refresh that this one waited for failed.
    #[error("{what}")]
    Shared {
        /// The message of its error.
        what: String,
        /// Its kind.
        kind: ErrorKind,
    },
    /// The exchange of chunks failed.
    #[error(transparent)]
    Exchange(#[from] pleach_protocol::Error),
    /// The engine, or the store below it.
    #[error(transparent)]
    Engine(#[from] pleach_engine::Error),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A thread or task ended without an answer.
    #[error("a thread of replication ended without an answer: {what}")]
    Lost {
        /// What the runtime said.
        what: String,
    },
}

impl Error {
    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::BadConfig { .. }
            | Error::BadKey { .. }
            | Error::Myself { .. }
            | Error::TooFew { .. }
            | Error::UnknownRemote { .. }
            | Error::SharedRemote { .. }
            | Error::UnknownBranch { .. } => ErrorKind::Input,
            Error::Refused(_)
            | Error::NotCaughtUp { .. }
            | Error::NotGranted { .. }
            | Error::StillWriting { .. }
            | Error::Overtaken { .. }
            | Error::Busy
            | Error::Elected
            | Error::NotFollowing { .. }
            | Error::Fed { .. }
            | Error::Superseded
            | Error::Loop { .. }
            | Error::Stuck { .. }
            | Error::NoPrimary
            | Error::Retired
            | Error::NotFastForward { .. } => ErrorKind::Refused,
            Error::Unreachable { .. }
            | Error::PeerRefused { .. }
            | Error::Unauthenticated { .. }
            | Error::NoKeys { .. }
            | Error::NotMade { .. }
            | Error::Protocol { .. }
            | Error::Moved { .. }
            | Error::Unacknowledged { .. }
            | Error::LeaseOver
            | Error::UnknownDatabase { .. } => ErrorKind::Network,
            Error::Shared { kind, .. } => *kind,
            Error::Exchange(error) => match error.kind() {
                pleach_protocol::ErrorKind::Input | pleach_protocol::ErrorKind::NotFound => ErrorKind::Input,
                pleach_protocol::ErrorKind::Store => ErrorKind::Store,
                _ => ErrorKind::Network,
            },
            Error::BadPosition { .. }
            | Error::DamagedRole { .. }
            | Error::Engine(_)
            | Error::Io { .. }
            | Error::Lost { .. } => ErrorKind::Store,
        }
    }

    pub(crate) fn protocol(what: impl Into<String>) -> Error {
        Error::Protocol { what: what.into() }
    }
}

/// Why a write is not taken here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotWritable {
    /// A standby takes no writes but its primary's.
    #[error("this server is a read-only standby at epoch {epoch}; write to {}", .primary.as_deref().unwrap_or("its primary"))]
    Standby {
        /// Its epoch.
        epoch: Epoch,
        /// URL of the primary, if it is known.
        primary: Option<String>,
    },
    /// Two primaries of one epoch were found.
    #[error(
        "this server is read-only: another server is primary at its epoch {epoch} too; decide which of them leads, and assume roles \
         at a higher epoch"
    )]
    BrokenConfig {
        /// Its epoch.
        epoch: Epoch,
    },
    /// The primary waits for other nodes before it takes writes.
    #[error(
        "this server is primary at epoch {epoch} and read-only: {}",
        if *ahead {
            format!(
                "a standby has writes of this epoch that are lost here, and this server gets them back from it first; if that cannot be, assume the \
                 role of primary at a higher epoch on that standby{}",
                list_of(peers)
            )
        } else {
            format!("{granted} of the {needed} other nodes that must agree have done so{}", list_of(peers))
        }
    )]
    Claiming {
        /// Its epoch.
        epoch: Epoch,
        /// Nodes that granted.
        granted: usize,
        /// Nodes that must grant.
        needed: usize,
        /// A standby has more of this epoch than this node.
        ahead: bool,
        /// What this node knows of those that did not grant.
        peers: Vec<String>,
    },
    /// The primary does not hold the lease by which it was elected.
    #[error(
        "this server is primary at epoch {epoch} and read-only: it does not hold the lease of the election; try again in a moment, or on another \
         server"
    )]
    NoLease {
        /// Its epoch.
        epoch: Epoch,
    },
    /// The primary is handing over.
    #[error("this server is read-only while it hands over to a standby; try again in a moment")]
    HandingOver,
    /// A read replica takes no writes.
    #[error("this server is a read replica: it follows remote `{remote}` and takes no writes; write there")]
    ReadReplica {
        /// Name of the remote.
        remote: String,
    },
}

/// What is said of other nodes, at the end of a sentence.
fn list_of(peers: &[String]) -> String {
    match peers.is_empty() {
        true => "; try again in a moment".to_owned(),
        false => format!(": {}", peers.join("; ")),
    }
}

impl NotWritable {
    /// The role that refuses, for the status; `None` for a read replica.
    pub fn role(&self) -> Option<Role> {
        match self {
            NotWritable::Standby { .. } => Some(Role::Standby),
            NotWritable::BrokenConfig { .. } => Some(Role::DetectedBrokenConfig),
            NotWritable::HandingOver | NotWritable::Claiming { .. } | NotWritable::NoLease { .. } => {
                Some(Role::Primary)
            }
            NotWritable::ReadReplica { .. } => None,
        }
    }
}
