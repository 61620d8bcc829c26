//! What the targets of the exchange, and their seeds, begin with: a database of two commits, how the second is sent to who has the first, and
//! places in memory where packs lie.

#![allow(dead_code, reason = "each target uses its part")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use pleach_engine::{
    Batch, Chunk, Database, Definition, Hash, MapConfig, NewCommit, RefUpdate, Sent, TransactionOutcome,
    difference,
};
use pleach_protocol::record::{Follow, Record};
use pleach_protocol::{Encoding, Objects, Receiver, Sender};

/// A table of 200 rows in small nodes, and what a commit changed in it.
pub struct Specimen {
    pub database: Database,
    pub commits: [Hash; 2],
}

impl Specimen {
    pub fn new() -> Specimen {
        let database = Database::memory().expect("a database");
        let commits = [0, 1].map(|version| Specimen::commit(&database, version));
        Specimen { database, commits }
    }

    /// A database that has the first commit alone.
    pub fn first() -> Database {
        let database = Database::memory().expect("a database");
        Specimen::commit(&database, 0);
        database
    }

    fn commit(database: &Database, version: u64) -> Hash {
        let config = MapConfig { leaf_mean: 8, inner_mean: 8, inline_bytes: 64, salt: 1 };
        let mut transaction = database.begin("main").expect("a branch");
        if version == 0 {
            let definition = Definition { config, schema: None };
            transaction.create_table_with("t", definition).expect("a new table");
        }
        for row in (0..200 / (version * 20 + 1)).map(|row| row * (version * 20 + 1)) {
            let value = format!("row {row} of {version}");
            transaction.put("t", &key(row), value.as_bytes()).expect("a row");
        }
        assert!(!matches!(transaction.commit(), Ok(TransactionOutcome::Refused { .. }) | Err(_)));
        let new = NewCommit {
            message: "m".into(),
            author: "a".into(),
            date_micros: Some(version as i64),
            ..NewCommit::default()
        };
        database.commit("main", new).expect("commits").hash
    }

    /// The chunks of the first commit, parents before children.
    pub fn chunks(&self) -> Vec<Sent> {
        let all = difference(&self.database, &self.commits[..1], &[]).expect("reads");
        all.map(|sent| sent.expect("reads")).collect()
    }

    /// The messages that bring who has `from` to the commit `to`.
    pub fn messages(&self, from: &[Hash], to: Hash, edits: bool) -> Vec<u8> {
        let difference = difference(&self.database, &[to], from).expect("reads");
        let mut sender = Sender::new(&self.database, difference).expect("a sender").with_edits(edits);
        let messages = std::iter::from_fn(|| sender.next_message().expect("reads"));
        messages.flatten().collect()
    }
}

pub fn key(row: u64) -> [u8; 2] {
    (row as u16).to_be_bytes()
}

/// A chunk as it is sent: as it is.
pub fn write(sent: &Sent, chunk: &Chunk, out: &mut Vec<u8>) {
    let record = Record {
        encoding: Encoding::Raw,
        raw_len: chunk.bytes().len(),
        top: sent.child.is_none().then(|| *chunk.hash()),
        base: None,
        follow: Follow::new(sent.follow.clone(), chunk.child_count()),
        payload: chunk.bytes(),
    };
    record.write(out);
}

/// A database that has taken `messages` with the commit `to`, which `heads/held` names; nothing if they are refused.
pub fn holding(messages: &[u8], to: Hash) -> Option<Database> {
    let database = Database::memory().expect("a database");
    let mut receiver = Receiver::new(&database).expect("a receiver");
    receiver.receive(messages).ok()?;
    let records = receiver.records();
    let received = receiver.finish(records, &[to]).ok()?;
    let _hold = received.append(&database).expect("memory does not fail");
    let update = RefUpdate { name: "remotes/o/held".into(), old: None, new: Some(to) };
    let _moved = database.update_refs(Batch::default(), &[update]).expect("memory does not fail");
    Some(database)
}

/// Every chunk that a ref leads to is here.
pub fn check_whole(database: &Database) {
    let mut waiting: Vec<Hash> = database.refs("").into_iter().map(|(_, hash)| hash).collect();
    let mut seen = std::collections::BTreeSet::new();
    while let Some(hash) = waiting.pop() {
        if seen.insert(hash) {
            let chunk = database.store().get(&hash).expect("reads").expect("a chunk that is led to");
            waiting.extend(chunk.children());
        }
    }
}

/// Objects by their keys.
pub type Image = BTreeMap<String, Vec<u8>>;

/// A place for objects in memory.
#[derive(Debug, Default)]
pub struct Place(pub Mutex<Image>);

impl Place {
    pub fn holding(image: Image) -> Arc<Place> {
        Arc::new(Place(Mutex::new(image)))
    }

    fn objects(&self) -> std::sync::MutexGuard<'_, Image> {
        self.0.lock().expect("nobody fails with it")
    }
}

#[tonic::async_trait]
impl Objects for Place {
    async fn list(&self, prefix: &str, max: usize) -> pleach_protocol::Result<Vec<String>> {
        Ok(self.objects().keys().filter(|key| key.starts_with(prefix)).take(max).cloned().collect())
    }

    async fn get(&self, key: &str, _: usize) -> pleach_protocol::Result<Option<bytes::Bytes>> {
        Ok(self.objects().get(key).map(|object| object.clone().into()))
    }

    async fn put(&self, key: &str, object: bytes::Bytes) -> pleach_protocol::Result<()> {
        self.objects().insert(key.to_owned(), object.to_vec());
        Ok(())
    }

    async fn put_if_absent(&self, key: &str, object: bytes::Bytes) -> pleach_protocol::Result<bool> {
        let mut objects = self.objects();
        let is_absent = !objects.contains_key(key);
        if is_absent {
            objects.insert(key.to_owned(), object.to_vec());
        }
        Ok(is_absent)
    }

    async fn delete(&self, key: &str) -> pleach_protocol::Result<()> {
        self.objects().remove(key);
        Ok(())
    }
}
