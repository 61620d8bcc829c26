//! What the target of the stream to standbys, and its seeds, begin with: who the primary is, and what it says.

#![allow(dead_code, reason = "each uses its part")]

use std::collections::BTreeMap;

use pleach_engine::{Database, Hash};
use pleach_replication::proto::{ReplicateRequest, replicate_request::Message};
use pleach_replication::role::NodeId;
use pleach_replication::testing::change;
use prost::Message as _;

pub const PRIMARY: NodeId = NodeId([7; 16]);
pub const EPOCH: u64 = 2;
pub const NAME: &str = "shop";

/// What brings who has `held` of its database, or nothing, to what `database` is.
pub fn of(database: &Database, held: Option<&BTreeMap<String, Hash>>, edits: bool) -> Vec<Message> {
    change(database, NAME, EPOCH, held.unwrap_or(&BTreeMap::new()), edits).expect("reads")
}

/// As it travels.
pub fn encoded(messages: Vec<Message>) -> Vec<Vec<u8>> {
    let encoded = |message| ReplicateRequest { message: Some(message) }.encode_to_vec();
    messages.into_iter().map(encoded).collect()
}
