//! A lease in an object store or directory, which has neither clock nor locks, and puts an object *if absent* for exactly one of those who try.
//!
//! The one idea: the lease is a list of objects `lease/NUMBER`, each put if absent by who knows the one before; a renewal is a new one. NUMBER counts down, so that
//! one short LIST finds the newest. Nobody compares clocks: a lease is over for a node that has seen no new object for its time and a margin, by its own clock; as that began when
//! the object was seen, so after it was put, the holder's time, which began when it sent the object, is over before.
//!
//! An object is `{"node","fence","held"}`. Old ones are removed; who puts one into such a gap, because it slept since it looked, sees when it looks again that it is not the
//! newest. `candidates/NODE` holds what each node told last.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use pleach_protocol::{Objects, Remote, RemoteUrl};
use serde::{Deserialize, Serialize};

use super::clock;
use super::{Candidate, Lease, LeaseProvider, Observed};

/// Objects of the lease that stay.
const KEPT: u64 = 64;
/// Candidates that are read: more than a cluster has nodes.
const CANDIDATES_MAX: usize = 64;
/// Bytes of an object.
const BYTES_MAX: usize = 64 << 10;

/// A lease in a place for objects.
#[derive(Debug)]
pub(crate) struct ObjectLease {
    url: String,
    objects: Arc<dyn Objects>,
    lease: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the newest object that was seen, what is in it, and since when it is the newest.
    seen: Option<(u64, Entry, Duration)>,
    /// The place refuses to put what is there.
    probed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    node: String,
    fence: u64,
    held: bool,
}

fn key(number: u64) -> String {
    format!("lease/{:020}", u64::MAX - number)
}

impl ObjectLease {
    /// One at `url`, a directory or bucket, that lasts for `lease`.
    pub(crate) async fn open(url: &str, lease: Duration) -> Result<ObjectLease, String> {
        let url: RemoteUrl = url.parse().map_err(|error: pleach_protocol::Error| error.to_string())?;
        let remote = Remote::connect(&url).await.map_err(|error| error.to_string())?;
        let Some(objects) = remote.objects() else {
            return Err(format!("{url} is a server: a lease lies in a directory or bucket"));
        };
        Ok(ObjectLease::new(&url.to_string(), objects, lease))
    }

    fn new(url: &str, objects: Arc<dyn Objects>, lease: Duration) -> ObjectLease {
        ObjectLease { url: url.to_owned(), objects, lease, state: Mutex::default() }
    }

    fn failed(&self, error: &pleach_protocol::Error) -> String {
        format!("{}: {error}", self.url)
    }

    async fn get<T: for<'a> Deserialize<'a>>(&self, key: &str) -> Result<Option<T>, String> {
        let object = self.objects.get(key, BYTES_MAX).await.map_err(|error| self.failed(&error))?;
        let Some(object) = object else { return Ok(None) };
        let wrong = |error| format!("{}: {key} is not Pleach's: {error}", self.url);
        serde_json::from_slice(&object).map(Some).map_err(wrong)
    }

    /// The number of the newest object; 0 if there is none.
    async fn newest(&self) -> Result<u64, String> {
        let keys = self.objects.list("lease/", 1).await.map_err(|error| self.failed(&error))?;
        let Some(name) = keys.first() else { return Ok(0) };
        let number = name.strip_prefix("lease/").and_then(|number| number.parse::<u64>().ok());
        let number = number.ok_or_else(|| format!("{}: {name} is not Pleach's", self.url))?;
        Ok(u64::MAX - number)
    }

    /// Looks at the newest object, and notes since when it is that.
    async fn look(&self) -> Result<Option<(u64, Entry, Duration)>, String> {
        let number = self.newest().await?;
        if number == 0 {
            return Ok(None);
        }
        if let Some(seen) = self.state.lock().seen.clone().filter(|(seen, ..)| *seen == number) {
            return Ok(Some(seen));
        }
        let entry = self.get(&key(number)).await?;
        let entry = entry.ok_or_else(|| format!("{}: {} is gone", self.url, key(number)))?;
        // Counted from now, which is after it was put.
        let seen = (number, entry, clock());
        self.state.lock().seen = Some(seen.clone());
        Ok(Some(seen))
    }

    /// Puts the object after `number`; whether it is the newest then.
    async fn put(&self, number: u64, entry: &Entry) -> Result<bool, String> {
        let bytes = serde_json::to_vec(entry).map_err(|error| error.to_string())?;
        let next = number + 1;
        let put = self.objects.put_if_absent(&key(next), Bytes::from(bytes)).await;
        let put = put.map_err(|error| self.failed(&error))?;
        // One that was put by a request whose answer was lost is as good.
        if !put && self.get::<Entry>(&key(next)).await?.as_ref() != Some(entry) {
            return Ok(false);
        }
        if self.newest().await? != next {
            return Ok(false);
        }
        self.state.lock().seen = Some((next, entry.clone(), clock()));
        if let Some(old) = next.checked_sub(KEPT).filter(|old| *old > 0) {
            // What stays for now goes with the whole place.
            let _ = self.objects.delete(&key(old)).await;
        }
        Ok(true)
    }

    /// Refuses a place that lets two put the same object.
    async fn probe(&self, node: &str) -> Result<(), String> {
        if self.state.lock().probed {
            return Ok(());
        }
        let key = format!("probe/{node}");
        let object = || Bytes::from_static(b"probe");
        self.objects.put(&key, object()).await.map_err(|error| self.failed(&error))?;
        if self.objects.put_if_absent(&key, object()).await.map_err(|error| self.failed(&error))? {
            return Err(format!(
                "{}: the store puts an object that is there already, though it is told not to: no lease can be kept there",
                self.url
            ));
        }
        self.state.lock().probed = true;
        Ok(())
    }

    fn is_over(&self, seen: &(u64, Entry, Duration)) -> bool {
        let (_, entry, since) = seen;
        !entry.held || clock().saturating_sub(*since) > self.lease + self.lease / 5
    }
}

#[tonic::async_trait]
impl LeaseProvider for ObjectLease {
    async fn observe(&self) -> Result<Observed, String> {
        let Some(seen) = self.look().await? else {
            return Ok(Observed { candidates: self.candidates().await?, ..Observed::default() });
        };
        let (holder, candidates) = match self.is_over(&seen) {
            true => (None, self.candidates().await?),
            // Nobody asks for them.
            false => (Some(seen.1.node.clone()), Vec::new()),
        };
        Ok(Observed { fence: seen.1.fence, holder, candidates })
    }

    async fn acquire(&self, node: &str, above: u64) -> Result<Option<Lease>, String> {
        self.probe(node).await?;
        let seen = self.look().await?;
        if let Some(seen) = &seen
            && !self.is_over(seen)
            && seen.1.node != node
        {
            return Ok(None);
        }
        let (number, fence) = seen.map_or((0, 0), |(number, entry, _)| (number, entry.fence));
        let fence = fence.max(above) + 1;
        let entry = Entry { node: node.to_owned(), fence, held: true };
        Ok(self.put(number, &entry).await?.then(|| Lease { node: node.to_owned(), fence, id: 0 }))
    }

    async fn renew(&self, lease: &Lease) -> Result<bool, String> {
        let entry = Entry { node: lease.node.clone(), fence: lease.fence, held: true };
        match self.look().await? {
            Some((number, seen, _)) if seen == entry => self.put(number, &entry).await,
            _ => Ok(false),
        }
    }

    async fn release(&self, lease: &Lease, floor: u64) -> Result<(), String> {
        let held = Entry { node: lease.node.clone(), fence: lease.fence, held: true };
        if let Some((number, seen, _)) = self.look().await?
            && seen == held
        {
            let entry = Entry { fence: lease.fence.max(floor), held: false, ..held };
            // If somebody was faster, it is not this node's to release any more.
            self.put(number, &entry).await?;
        }
        Ok(())
    }

    async fn stand(&self, candidate: &Candidate) -> Result<(), String> {
        let bytes = serde_json::to_vec(candidate).map_err(|error| error.to_string())?;
        let key = format!("candidates/{}", candidate.node);
        self.objects.put(&key, Bytes::from(bytes)).await.map_err(|error| self.failed(&error))
    }
}

impl ObjectLease {
    async fn candidates(&self) -> Result<Vec<Candidate>, String> {
        let keys = self.objects.list("candidates/", CANDIDATES_MAX).await;
        let mut candidates = Vec::new();
        for key in keys.map_err(|error| self.failed(&error))? {
            candidates.extend(self.get(&key).await?);
        }
        Ok(candidates)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const LEASE: Duration = Duration::from_millis(200);

    async fn open(dir: &tempfile::TempDir) -> ObjectLease {
        ObjectLease::open(&format!("file://{}", dir.path().display()), LEASE).await.unwrap()
    }

    #[tokio::test]
    async fn of_many_who_try_at_once_one_has_it_and_fences_rise() {
        let dir = tempfile::tempdir().unwrap();
        let mut tries = tokio::task::JoinSet::new();
        for node in 0..8 {
            let lease = open(&dir).await;
            tries.spawn(async move { lease.acquire(&format!("n{node}"), 10).await.unwrap() });
        }
        let taken: Vec<Lease> = tries.join_all().await.into_iter().flatten().collect();
        assert_eq!(taken.len(), 1, "{taken:?}");
        assert_eq!(taken[0].fence, 11);
        let other = open(&dir).await;
        assert_eq!(other.observe().await.unwrap().holder, Some(taken[0].node.clone()));
        assert_eq!(other.acquire("x", 0).await.unwrap(), None);
        let holder = open(&dir).await;
        holder.release(&taken[0], 20).await.unwrap();
        assert!(!holder.renew(&taken[0]).await.unwrap(), "it is given up");
        let next = other.acquire("x", 0).await.unwrap().unwrap();
        assert_eq!(next.fence, 21, "higher than what it was raised to");
    }

    #[tokio::test]
    async fn it_is_over_for_others_after_its_time_and_a_margin_unless_it_is_renewed() {
        let dir = tempfile::tempdir().unwrap();
        let (holder, other) = (open(&dir).await, open(&dir).await);
        let lease = holder.acquire("a", 0).await.unwrap().unwrap();
        let begun = clock();
        while other.observe().await.unwrap().holder.is_some() {
            if clock() < begun + LEASE * 2 {
                assert!(holder.renew(&lease).await.unwrap());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(clock() >= begun + LEASE * 3, "{:?}", clock() - begun);
        assert_eq!(other.acquire("b", 0).await.unwrap().unwrap().fence, 2);
        assert!(!holder.renew(&lease).await.unwrap(), "somebody else has it");
    }

    #[tokio::test]
    async fn its_own_former_life_does_not_hinder_a_node() {
        let dir = tempfile::tempdir().unwrap();
        open(&dir).await.acquire("a", 0).await.unwrap().unwrap();
        let again = open(&dir).await;
        assert_eq!(again.acquire("a", 0).await.unwrap().unwrap().fence, 2);
    }

    #[tokio::test]
    async fn old_objects_go_and_who_writes_into_the_gap_has_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (holder, sleeper) = (open(&dir).await, open(&dir).await);
        let lease = holder.acquire("a", 0).await.unwrap().unwrap();
        sleeper.look().await.unwrap();
        for _ in 0..2 * KEPT {
            assert!(holder.renew(&lease).await.unwrap());
        }
        let kept = std::fs::read_dir(dir.path().join("lease")).unwrap().count() as u64;
        assert!(kept <= KEPT + 1, "{kept}");
        let late = Entry { node: "b".into(), fence: 2, held: true };
        assert!(!sleeper.put(1, &late).await.unwrap(), "it is not the newest");
        assert!(holder.renew(&lease).await.unwrap());
    }
}
