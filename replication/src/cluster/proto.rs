//! The messages and service of `proto/pleach/replication/v1/replication.proto`, as generated, and their translation. What a peer says
//! is checked here, once.
#![allow(missing_docs, unreachable_pub, clippy::all)]

tonic::include_proto!("pleach.replication.v1");

use bytes::Bytes;
use pleach_engine::{Database, Hash};

use crate::cluster::applied;
use crate::cluster::register;
use crate::cluster::role;
use crate::error::{Error, Result};
use crate::limits::UPDATES_A_MESSAGE;
use crate::shared_refs;

impl From<&role::Standing> for Standing {
    fn from(standing: &role::Standing) -> Standing {
        let role = match standing.role {
            role::Role::Primary => Role::Primary,
            role::Role::Standby => Role::Standby,
            role::Role::DetectedBrokenConfig => Role::DetectedBrokenConfig,
        };
        let leader = standing.leader.map_or(Bytes::new(), node_bytes);
        Standing { role: role.into(), epoch: standing.epoch.0, leader }
    }
}

impl TryFrom<Option<Standing>> for role::Standing {
    type Error = Error;

    fn try_from(standing: Option<Standing>) -> Result<role::Standing> {
        let standing = standing.ok_or_else(|| Error::protocol("a standing is missing"))?;
        let role = match standing.role() {
            Role::Primary => role::Role::Primary,
            Role::Standby => role::Role::Standby,
            Role::DetectedBrokenConfig => role::Role::DetectedBrokenConfig,
            Role::Unspecified => return Err(Error::protocol("a role that this version does not know")),
        };
        let leader = if standing.leader.is_empty() { None } else { Some(node(&standing.leader)?) };
        Ok(role::Standing { role, epoch: role::Epoch(standing.epoch), leader })
    }
}

/// A node as it travels.
pub(crate) fn node_bytes(node: role::NodeId) -> Bytes {
    Bytes::copy_from_slice(&node.0)
}

/// A node that arrived.
pub(crate) fn node(bytes: &[u8]) -> Result<role::NodeId> {
    match bytes.try_into() {
        Ok(id) => Ok(role::NodeId(id)),
        Err(_) => Err(Error::protocol(format!("a node has {} bytes, expected 16", bytes.len()))),
    }
}

impl From<applied::Position> for Position {
    fn from(applied::Position { epoch, sequence }: applied::Position) -> Position {
        Position { epoch, sequence }
    }
}

impl From<Position> for applied::Position {
    fn from(Position { epoch, sequence }: Position) -> applied::Position {
        applied::Position { epoch, sequence }
    }
}

/// What this node, which is in `state`, holds of a database, in messages that are not too large; at least one.
pub(crate) fn held(name: &str, database: &Database, state: &role::State) -> Result<Vec<Held>> {
    // Read before the refs, which so are no older.
    let position = applied::Position::of(database, state)?.map(Into::into);
    let incarnation = register::Incarnation::of(database)?.into();
    let refs: Vec<_> = shared_refs::read(database).into_iter().collect();
    let one = |(name, hash): &(String, Hash)| Ref { name: name.clone(), hash: hash_bytes(Some(*hash)) };
    let part = |refs: &[(String, Hash)]| Held {
        database: name.to_owned(),
        refs: refs.iter().map(one).collect(),
        ..Held::default()
    };
    let mut parts: Vec<Held> = refs.chunks(UPDATES_A_MESSAGE).map(part).collect();
    if parts.is_empty() {
        parts.push(part(&[]));
    }
    (parts[0].position, parts[0].incarnation) = (position, incarnation);
    Ok(parts)
}

impl From<register::Incarnation> for Bytes {
    fn from(incarnation: register::Incarnation) -> Bytes {
        Bytes::copy_from_slice(&incarnation.0)
    }
}

/// A hash that arrived.
pub(crate) fn hash(bytes: &[u8]) -> Result<Hash> {
    match bytes.try_into() {
        Ok(hash) => Ok(Hash::from_bytes(hash)),
        Err(_) => Err(Error::protocol(format!("a hash has {} bytes, expected {}", bytes.len(), Hash::LEN))),
    }
}

/// A hash as it travels; empty for none.
pub(crate) fn hash_bytes(hash: Option<Hash>) -> Bytes {
    hash.map_or(Bytes::new(), |hash| Bytes::copy_from_slice(hash.as_bytes()))
}

fn optional_hash(bytes: &[u8]) -> Result<Option<Hash>> {
    if bytes.is_empty() { Ok(None) } else { hash(bytes).map(Some) }
}

impl From<&shared_refs::Update> for Update {
    fn from(update: &shared_refs::Update) -> Update {
        let (old, new) = (hash_bytes(update.old), hash_bytes(update.new));
        Update { name: update.name.clone(), old, new, diverged: update.diverged }
    }
}

impl TryFrom<Update> for shared_refs::Update {
    type Error = Error;

    fn try_from(update: Update) -> Result<shared_refs::Update> {
        if !shared_refs::is_name(&update.name) {
            return Err(Error::protocol(format!("{:?} is no shared ref", update.name)));
        }
        let (old, new) = (optional_hash(&update.old)?, optional_hash(&update.new)?);
        Ok(shared_refs::Update { name: update.name, old, new, diverged: update.diverged })
    }
}
