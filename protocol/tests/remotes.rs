//! Remotes of all kinds behave alike: a server, a directory, objects in memory, and a bucket if `PLEACH_TEST_BUCKET` names one
//! (`s3://bucket/prefix`; see `tests/s3.sh`, `ceph.sh`, `azure.sh`, `gcs.sh`). Then what is special to those that are no server: cuts at every call, hostile bytes,
//! merging and collecting packs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::sync::Arc;

use pleach_engine::{Database, Hash, MergeOptions, MergeOutcome, NewCommit, Options, TransactionOutcome};
use pleach_protocol::{
    Databases, Error, Force, Part, PushUpdate, RefPatterns, RefStatus, Remote, RemoteUrl, SyncService,
    Transfer, clone_database, fetch, pull, push, transport,
};
use tempfile::TempDir;
use tonic::transport::server::TcpIncoming;

#[path = "remotes/compaction.rs"]
mod compaction;
#[path = "remotes/conformance.rs"]
mod conformance;
#[path = "remotes/costs.rs"]
mod costs;
#[path = "remotes/faults.rs"]
mod faults;
#[path = "remotes/hostile.rs"]
mod hostile;
#[path = "remotes/memory.rs"]
mod memory;

use memory::{Fault, Memory};

/// A remote in memory.
fn in_memory(memory: &Arc<Memory>) -> Remote {
    Remote::at(&RemoteUrl::parse("file:///memory").unwrap(), memory.clone())
}

/// A remote in memory, and two copies with the one row that was pushed there.
async fn two_copies() -> (Arc<Memory>, Remote, Copy, Copy) {
    let memory = Memory::new();
    let remote = in_memory(&memory);
    let a = Copy::new(&remote);
    a.put(0, "base");
    a.push().await;
    let b = Copy::cloned(&remote).await;
    (memory, remote, a, b)
}

/// A database in memory that knows a remote as `origin`.
struct Copy {
    db: Database,
    remote: Remote,
}

impl Copy {
    fn new(remote: &Remote) -> Copy {
        Copy { db: Database::memory().unwrap(), remote: remote.clone() }
    }

    /// A copy with what the remote has, on branch main.
    async fn cloned(remote: &Remote) -> Copy {
        let copy = Copy::new(remote);
        copy.pull().await;
        copy
    }

    fn put(&self, key: u64, value: &str) -> Hash {
        self.put_rows("main", [(key, value.to_owned())])
    }

    fn put_rows(&self, branch: &str, rows: impl IntoIterator<Item = (u64, String)>) -> Hash {
        let mut transaction = self.db.begin(branch).unwrap();
        if !transaction.has_table("t").unwrap() {
            transaction.create_table("t", None).unwrap();
        }
        for (key, value) in rows {
            transaction.put("t", &key.to_be_bytes(), value.as_bytes()).unwrap();
        }
        assert!(!matches!(transaction.commit().unwrap(), TransactionOutcome::Refused { .. }));
        let new = NewCommit { message: "m".into(), author: "tester".into(), ..NewCommit::default() };
        self.db.commit(branch, new).unwrap().hash
    }

    fn head(&self, branch: &str) -> Option<Hash> {
        self.db.branch(branch).unwrap().and_then(|branch| branch.head)
    }

    async fn try_fetch(&self) -> Result<Transfer, Error> {
        fetch(&self.db, &self.remote, "origin", &RefPatterns::all()).await
    }

    async fn fetch(&self) -> Transfer {
        self.try_fetch().await.unwrap()
    }

    async fn pull(&self) -> (Transfer, MergeOutcome) {
        let options = MergeOptions { author: "tester".into(), ..MergeOptions::default() };
        pull(&self.db, &self.remote, "origin", "main", "main", options).await.unwrap()
    }

    async fn try_push(&self, force: Force) -> Result<Transfer, Error> {
        let updates = [PushUpdate { name: "heads/main".into(), new: self.head("main") }];
        push(&self.db, &self.remote, "origin", &updates, force).await
    }

    async fn push(&self) -> Transfer {
        let transfer = self.try_push(Force::No).await.unwrap();
        assert!(!transfer.is_rejected(), "{transfer:?}");
        transfer
    }

    async fn push_ref(&self, name: &str, new: Option<Hash>, force: Force) -> Transfer {
        let updates = [PushUpdate { name: name.into(), new }];
        push(&self.db, &self.remote, "origin", &updates, force).await.unwrap()
    }

    /// What the remote's branches are here.
    fn tracking(&self) -> Vec<(String, Hash)> {
        self.db.refs("remotes/origin/")
    }
}

fn value(i: u64) -> String {
    format!(
        "{{\"id\":{i},\"name\":\"row {}\",\"group\":{}}}",
        i.wrapping_mul(2_654_435_761) % 100_000,
        i % 17
    )
}

/// Everything that the refs of a database reach is there.
fn check_whole(db: &Database) {
    assert_eq!(db.fsck().unwrap().damages, []);
}
