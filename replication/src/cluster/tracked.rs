//! The databases that a cluster replicates: all that there are, each watched once. Called by `cluster`, and by each session.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use pleach_engine::Database;

use crate::cluster::node::Node;
use crate::cluster::peer::Peer;
use crate::cluster::register;
use crate::error::Result;

/// The databases under replication.
pub(crate) struct Tracked {
    node: Arc<Node>,
    peers: Arc<[Arc<Peer>]>,
    /// Held while databases are looked for, so that each is watched once.
    looking: Mutex<()>,
    databases: Mutex<BTreeMap<String, Database>>,
}

impl Tracked {
    pub(crate) fn new(node: Arc<Node>, peers: Arc<[Arc<Peer>]>) -> Tracked {
        Tracked { node, peers, looking: Mutex::default(), databases: Mutex::default() }
    }

    /// Takes up databases that were made since, and leaves those that are gone. Opens what it takes up. Blocking.
    ///
    /// # Errors
    /// A database that cannot be opened is left out, and said in the log; other errors of the data directory.
    pub(crate) fn look(&self) -> Result<()> {
        let _looking = self.looking.lock();
        let names = self.node.names()?;
        let is_gone = |(name, database): &(String, Database)| match self.node.database(name) {
            // It was dropped, and another made.
            Ok(Some(now)) => now.store().id() != database.store().id(),
            Ok(None) => true,
            // It cannot be opened now; what is open is still there.
            Err(_) => false,
        };
        let gone = self.all().into_iter().filter(is_gone).map(|(name, _)| name);
        let gone: Vec<String> = gone.collect();
        for name in gone {
            self.databases.lock().remove(&name);
            self.peers.iter().for_each(|peer| peer.forget(&name));
        }
        for name in names {
            if self.databases.lock().contains_key(&name) {
                continue;
            }
            match self.node.database(&name) {
                // One that is damaged hinders no other.
                Ok(Some(database)) => match register::concerns_nobody(&self.node, &name, &database) {
                    Ok(true) => {}
                    Ok(false) => self.take_up(name, database),
                    Err(error) => {
                        tracing::error!(database = name, %error, "not replicated: its settings cannot be read")
                    }
                },
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(database = name, %error, "not replicated: the database cannot be opened")
                }
            }
        }
        Ok(())
    }

    fn take_up(&self, name: String, database: Database) {
        database.set_epoch(self.node.standing().epoch.0);
        let (peers, watched) = (self.peers.clone(), name.clone());
        database.watch(move |_| peers.iter().for_each(|peer| peer.note_change(&watched)));
        self.databases.lock().insert(name.clone(), database);
        self.peers.iter().for_each(|peer| peer.note_change(&name));
    }

    /// Leaves a database that is being dropped; `note` says so, durably, or fails: then it is taken up again when databases are looked for.
    pub(crate) fn leave(&self, name: &str, note: impl FnOnce() -> Result<()>) -> Result<()> {
        let _looking = self.looking.lock();
        self.databases.lock().remove(name);
        self.peers.iter().for_each(|peer| peer.forget(name));
        note()
    }

    /// The database called `name`.
    pub(crate) fn get(&self, name: &str) -> Option<Database> {
        self.databases.lock().get(name).cloned()
    }

    /// All databases, by name, the register too.
    pub(crate) fn all(&self) -> Vec<(String, Database)> {
        self.databases.lock().iter().map(|(name, database)| (name.clone(), database.clone())).collect()
    }

    /// The first database that is `wanted`.
    pub(crate) fn find(&self, wanted: impl Fn(&String, &Database) -> bool) -> Option<(String, Database)> {
        let databases = self.databases.lock();
        let found = databases.iter().find(|(name, database)| wanted(name, database));
        found.map(|(name, database)| (name.clone(), database.clone()))
    }

    /// Lets go of all databases, so that they can be closed.
    pub(crate) fn clear(&self) {
        self.peers.iter().for_each(|peer| peer.let_go());
        self.databases.lock().clear();
    }
}
