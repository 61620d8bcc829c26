//! What this node is, while it runs: its standing, who may write, and the one way in which that changes.
//!
//! The one idea: a standing changes under [`Node::take`] alone, which makes it durable before anything shows it, and while nothing of
//! a peer is being applied. Called by `cluster`, by each session, and by the server before each write.

use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use pleach_protocol::Databases;
use tokio::sync::watch;

use crate::error::{NotWritable, Result};
use crate::role::{NodeId, Reaction, Role, Standing, meet};
use crate::role_file::RoleFile;

/// This node.
pub(crate) struct Node {
    id: NodeId,
    databases: Databases,
    /// Held while the standing is made durable and shown.
    file: Mutex<RoleFile>,
    /// Held shared while a change of a peer is applied, and alone while the standing changes: so a fenced change never lands.
    applying: RwLock<()>,
    state: Mutex<State>,
    standing: watch::Sender<Standing>,
    /// How many writes are under way.
    writes: watch::Sender<usize>,
}

struct State {
    standing: Standing,
    handing_over: bool,
    /// Where clients reach the primary that this node follows.
    primary: Option<String>,
    /// When the primary that this node follows was last heard.
    heard: Option<SystemTime>,
}

/// Allows one write, and counts it until it is dropped: a hand-over waits for it.
pub struct WritePermit {
    node: Arc<Node>,
}

impl Drop for WritePermit {
    fn drop(&mut self) {
        self.node.writes.send_modify(|writes| *writes -= 1);
    }
}

/// Makes the node writable again unless the hand-over succeeded, however its call ends.
pub(crate) struct HandOver {
    node: Arc<Node>,
}

impl Drop for HandOver {
    fn drop(&mut self) {
        self.node.state.lock().handing_over = false;
    }
}

impl Node {
    /// The node whose standing is kept in `file`.
    pub(crate) fn new(file: RoleFile, standing: Standing, databases: Databases) -> Node {
        Node {
            id: file.node(),
            databases,
            file: Mutex::new(file),
            applying: RwLock::new(()),
            state: Mutex::new(State { standing, handing_over: false, primary: None, heard: None }),
            standing: watch::Sender::new(standing),
            writes: watch::Sender::new(0),
        }
    }

    pub(crate) fn id(&self) -> NodeId {
        self.id
    }

    pub(crate) fn databases(&self) -> &Databases {
        &self.databases
    }

    pub(crate) fn standing(&self) -> Standing {
        self.state.lock().standing
    }

    /// Tells each change of the standing.
    pub(crate) fn changes(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Returns when the standing is no longer `seen`.
    pub(crate) async fn left(&self, seen: Standing) {
        // The sender lives as long as this node.
        let _ = self.standing.subscribe().wait_for(|now| *now != seen).await;
    }

    // Writes.

    /// Allows a write, or says why not.
    pub(crate) fn admit(self: &Arc<Node>) -> Result<WritePermit, NotWritable> {
        let state = self.state.lock();
        let epoch = state.standing.epoch;
        match state.standing.role {
            Role::Standby => Err(NotWritable::Standby { epoch, primary: state.primary.clone() }),
            Role::DetectedBrokenConfig => Err(NotWritable::BrokenConfig { epoch }),
            Role::Primary if state.handing_over => Err(NotWritable::HandingOver),
            Role::Primary => {
                // Counted under the lock under which a hand-over begins, which so sees it.
                self.writes.send_modify(|writes| *writes += 1);
                Ok(WritePermit { node: self.clone() })
            }
        }
    }

    /// Admits no more writes until the guard is dropped; `None` if that is under way already.
    pub(crate) fn hand_over(self: &Arc<Node>) -> Option<HandOver> {
        let mut state = self.state.lock();
        if state.handing_over {
            return None;
        }
        state.handing_over = true;
        Some(HandOver { node: self.clone() })
    }

    /// Returns when no write is under way.
    pub(crate) async fn idle(&self) {
        let _ = self.writes.subscribe().wait_for(|writes| *writes == 0).await;
    }

    /// How many writes are under way.
    pub(crate) fn writes(&self) -> usize {
        *self.writes.borrow()
    }

    // Standing.

    /// Takes the standing `next` if the node still is in `expected`: durable first, then shown. False if it no longer is. Blocking.
    ///
    /// # Errors
    /// The standing could not be made durable; the node goes on in the one it had.
    pub(crate) fn take(&self, expected: &Standing, next: Standing) -> Result<bool> {
        let file = self.file.lock();
        if self.standing() != *expected {
            return Ok(false);
        }
        if next == *expected {
            return Ok(true);
        }
        let _alone = self.applying.write();
        file.write(&next)?;
        // Tokens carry the new epoch before a write can be admitted under it.
        for database in self.databases.loaded().values() {
            database.set_epoch(next.epoch.0);
        }
        let mut state = self.state.lock();
        state.standing = next;
        if next.leader != expected.leader {
            state.primary = None;
            state.heard = None;
        }
        drop(state);
        tracing::warn!(was = %expected, now = %next, "the standing of this node changed");
        self.standing.send_replace(next);
        Ok(true)
    }

    /// Meets a peer: reacts, and takes the standing that follows. Blocking.
    pub(crate) fn meet(&self, peer: &Standing) -> Result<Reaction> {
        loop {
            let current = self.standing();
            let reaction = meet(&current, peer);
            match reaction.next() {
                Some(next) if !self.take(&current, next)? => continue,
                _ => return Ok(reaction),
            }
        }
    }

    /// The right to apply a change while the node is in `standing`; the standing it is in instead. Blocking.
    pub(crate) fn apply(&self, standing: &Standing) -> Result<RwLockReadGuard<'_, ()>, Standing> {
        let applying = self.applying.read();
        let now = self.standing();
        if now == *standing { Ok(applying) } else { Err(now) }
    }

    /// Notes where clients reach the primary that is followed in `standing`.
    pub(crate) fn follow(&self, standing: &Standing, primary: String) {
        let mut state = self.state.lock();
        if state.standing == *standing && !primary.is_empty() {
            state.primary = Some(primary);
        }
    }

    /// Notes that the followed primary was heard.
    pub(crate) fn hear(&self) {
        self.state.lock().heard = Some(SystemTime::now());
    }

    /// When the followed primary was last heard.
    pub(crate) fn heard(&self) -> Option<SystemTime> {
        self.state.lock().heard
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use pleach_engine::Options;

    use super::*;
    use crate::role::Epoch;

    fn node(role: Role) -> (tempfile::TempDir, Arc<Node>) {
        let dir = tempfile::tempdir().unwrap();
        let bootstrap =
            |id| Standing { role, epoch: Epoch(1), leader: (role == Role::Primary).then_some(id) };
        let (file, standing) = RoleFile::open(dir.path(), bootstrap).unwrap();
        let databases = Databases::new(dir.path(), Options::default()).unwrap();
        (dir, Arc::new(Node::new(file, standing, databases)))
    }

    #[test]
    fn a_standby_admits_no_write_and_names_its_primary_when_it_knows_it() {
        let (_dir, node) = node(Role::Standby);
        let unknown = node.admit().err().unwrap();
        assert!(unknown.to_string().contains("read-only standby at epoch 1"), "{unknown}");
        node.follow(&node.standing(), "http://127.0.0.1:7420".into());
        assert!(node.admit().err().unwrap().to_string().contains("http://127.0.0.1:7420"));
    }

    #[tokio::test]
    async fn a_hand_over_waits_for_writes_that_were_admitted_and_admits_no_more() {
        let (_dir, node) = node(Role::Primary);
        let write = node.admit().unwrap();
        let hand_over = node.hand_over().unwrap();
        assert!(node.hand_over().is_none());
        assert_eq!(node.admit().err(), Some(NotWritable::HandingOver));
        assert_eq!(node.writes(), 1);
        drop(write);
        node.idle().await;
        drop(hand_over);
        assert!(node.admit().is_ok());
    }

    #[test]
    fn a_standing_that_cannot_be_made_durable_is_not_shown() {
        let (dir, node) = node(Role::Primary);
        let current = node.standing();
        std::fs::remove_dir_all(dir.path()).unwrap();
        let next = Standing { role: Role::Standby, epoch: Epoch(2), leader: None };
        assert!(node.take(&current, next).is_err());
        assert_eq!(node.standing(), current);
        assert!(node.admit().is_ok());
    }

    #[test]
    fn a_change_is_applied_only_in_the_standing_in_which_it_was_taken() {
        let (_dir, node) = node(Role::Standby);
        let followed = node.standing();
        assert!(node.apply(&followed).is_ok());
        let next = Standing { role: Role::Primary, epoch: Epoch(2), leader: Some(node.id()) };
        assert!(node.take(&followed, next).unwrap());
        assert_eq!(node.apply(&followed).err(), Some(next));
    }
}
