//! A standby without a network, and what a primary would say to it: for fuzzing, which says anything.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use pleach_engine::{Database, Hash, Options};
use pleach_protocol::Databases;
use tokio::sync::mpsc;

use super::{Input, Stream};
use crate::cluster::applied::Applied;
use crate::cluster::change::{Gathered, Part, Reading};
use crate::cluster::node::Node;
use crate::cluster::proto::{self, replicate_request::Message};
use crate::cluster::register::Incarnation;
use crate::cluster::role::{Epoch, NodeId, Quorum, Role, Standing, State};
use crate::cluster::role_file::{Record, RoleFile};
use crate::error::Result;
use crate::shared_refs;

/// One of two nodes, a standby.
pub struct Standby {
    node: Arc<Node>,
    applied: Arc<Applied>,
}

impl Standby {
    /// A new one, whose databases are in `dir`.
    ///
    /// # Errors
    /// Those of files.
    pub fn create(dir: &Path) -> Result<Standby> {
        let standing = Standing { role: Role::Standby, epoch: Epoch(1), leader: None };
        let quorum = Quorum::new(1, 0);
        let restart = |me, record: Record| State::start(me, record.standing, record.led, quorum, false);
        let (file, state) =
            RoleFile::open(dir, |me| State::start(me, standing, None, quorum, true), restart)?;
        let databases = Databases::new(dir, Options::default())?;
        let node = Arc::new(Node::new(file, state, databases, true));
        Ok(Standby { node, applied: Arc::new(Applied::new()) })
    }

    /// Serves a stream that begins with `hello` and goes on with `messages`, whose answers nobody reads.
    ///
    /// # Errors
    /// Why the stream is refused.
    pub fn serve(&self, hello: proto::Hello, messages: impl IntoIterator<Item = Message>) -> Result<()> {
        let mut stream = Stream {
            node: self.node.clone(),
            applied: self.applied.clone(),
            alike: Arc::new(AtomicBool::new(true)),
            answers: mpsc::channel(1).0,
            followed: None,
            greeted: None,
            feeding: None,
            wanted: BTreeMap::new(),
            change: None,
        };
        let mut messages = messages.into_iter();
        stream.serve(hello, |_| proto::Signed::default(), &mut || messages.next().map(Input::Message))
    }

    /// What it is.
    pub fn standing(&self) -> Standing {
        self.node.standing()
    }

    /// Its databases, by name.
    ///
    /// # Errors
    /// The store's.
    pub fn databases(&self) -> Result<Vec<(String, Database)>> {
        let mut databases = Vec::new();
        for name in self.node.names()? {
            databases.extend(self.node.database(&name)?.map(|database| (name, database)));
        }
        Ok(databases)
    }
}

/// What the primary `node` of the epoch says first.
pub fn hello(node: NodeId, epoch: u64) -> proto::Hello {
    let standing = Standing { role: Role::Primary, epoch: Epoch(epoch), leader: Some(node) };
    proto::Hello {
        node: proto::node_bytes(node),
        standing: Some((&standing).into()),
        format_digest: pleach_protocol::format_digest(),
        ..proto::Hello::default()
    }
}

/// What a primary of the epoch says to a standby that has those of the refs `held` that are shared of its database `name`, and lacks the rest.
///
/// # Errors
/// The store's.
pub fn change(
    database: &Database,
    name: &str,
    epoch: u64,
    held: &BTreeMap<String, Hash>,
    edits: bool,
) -> Result<Vec<Message>> {
    let shared = held.iter().filter(|(name, _)| shared_refs::is_shared(name));
    let shared = shared.map(|(name, hash)| (name.clone(), *hash)).collect();
    let reading = Reading::of(database, shared, None)?;
    let change = proto::Change {
        epoch,
        sequence: reading.sequence,
        database: name.to_owned(),
        create: held.is_empty(),
        incarnation: Incarnation::of(database)?.into(),
    };
    let (mut gathered, mut messages) = (Gathered::default(), Vec::new());
    let mut send = |part: Part| {
        messages.push(part.into());
        Ok(())
    };
    let records = reading.send(database, change, edits, &mut |part| gathered.add(part, &mut send))?;
    messages.push(gathered.last(records));
    Ok(messages)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn what_a_primary_says_is_taken_and_what_it_does_not_say_is_not() {
        let (dir, primary) = (tempfile::tempdir().unwrap(), Database::memory().unwrap());
        let standby = Standby::create(dir.path()).unwrap();
        let (node, refs) = (NodeId([7; 16]), |database: &Database| shared_refs::read(database));
        let first = change(&primary, "shop", 2, &BTreeMap::new(), true).unwrap();
        standby.serve(hello(node, 2), first.clone()).unwrap();
        let [(name, database)] = &standby.databases().unwrap()[..] else { panic!("one database") };
        assert_eq!((name.as_str(), refs(database)), ("shop", refs(&primary)));
        let held = refs(&primary);
        let mut transaction = primary.begin("main").unwrap();
        transaction.create_table("t", None).unwrap();
        transaction.commit().unwrap();
        let second = change(&primary, "shop", 2, &held, true).unwrap();
        standby.serve(hello(node, 2), second.clone()).unwrap();
        assert_eq!(refs(database), refs(&primary));
        assert!(standby.serve(hello(node, 2), second).is_err(), "it moves from what is no more");
        assert!(standby.serve(hello(NodeId([8; 16]), 2), first).is_ok(), "another of its epoch is told so");
        assert_eq!((standby.standing().leader, refs(database)), (Some(node), refs(&primary)));
    }
}
