//! A lease in etcd, by its own API. Keys under a prefix: `leader`, which lives as long as an etcd lease and says who holds it; `fence`, the last number; and
//! `candidates/NODE`. All are written in transactions that compare what they were read as.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pleach_protocol::{ClientTls, endpoint, root_cause};
use serde::{Deserialize, Serialize};
use tonic::transport::Channel;

use self::proto::compare::{CompareTarget, TargetUnion};
use self::proto::kv_client::KvClient;
use self::proto::lease_client::LeaseClient;
use self::proto::request_op::Request;
use self::proto::{
    Compare, DeleteRangeRequest, KeyValue, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest,
    PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use super::{Candidate, Lease, LeaseProvider, Observed};

/// The part of etcd's API that is used, as generated.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
mod proto {
    tonic::include_proto!("etcdserverpb");
}

/// Keys that are read at once: more than a cluster has nodes.
const KEYS_MAX: i64 = 1000;

/// A lease in etcd.
#[derive(Debug)]
pub(crate) struct Etcd {
    endpoints: Vec<String>,
    prefix: String,
    seconds: i64,
    tls: ClientTls,
    /// Which endpoint is in use.
    turn: AtomicUsize,
    channel: Mutex<Option<Channel>>,
}

/// Has the next call go to another endpoint when it is dropped, unless the one in use has answered.
struct Turn<'a> {
    etcd: &'a Etcd,
    is_over: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.is_over {
            *self.etcd.channel.lock() = None;
            self.etcd.turn.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The value of `leader`.
#[derive(Serialize, Deserialize)]
struct Leader {
    node: String,
    fence: u64,
}

impl Etcd {
    /// One at any of `endpoints`, in keys under `prefix`, that lasts for `lease`, whole seconds.
    pub(crate) fn new(endpoints: Vec<String>, prefix: &str, lease: Duration, tls: ClientTls) -> Etcd {
        let seconds = i64::try_from(lease.as_secs()).unwrap_or(i64::MAX);
        let prefix = prefix.trim_end_matches('/').to_owned();
        Etcd { endpoints, prefix, seconds, tls, turn: AtomicUsize::new(0), channel: Mutex::default() }
    }

    fn key(&self, name: &str) -> bytes::Bytes {
        format!("{}/{name}", self.prefix).into_bytes().into()
    }

    fn put(&self, name: &str, value: String, lease: i64) -> RequestOp {
        let put = PutRequest { key: self.key(name), value: value.into_bytes().into(), lease };
        RequestOp { request: Some(Request::RequestPut(put)) }
    }

    /// That `name` is as it was read; 0: absent.
    fn unchanged(&self, name: &str, revision: i64) -> Compare {
        Compare {
            target: CompareTarget::Mod.into(),
            key: self.key(name),
            target_union: Some(TargetUnion::ModRevision(revision)),
            ..Compare::default()
        }
    }

    async fn channel(&self) -> Result<Channel, String> {
        if let Some(channel) = self.channel.lock().clone() {
            return Ok(channel);
        }
        let mut why = String::new();
        for _ in 0..self.endpoints.len() {
            let url = &self.endpoints[self.turn.load(Ordering::Relaxed) % self.endpoints.len()];
            let connected = match endpoint(url) {
                Ok(endpoint) => self.tls.connect(&endpoint).await,
                Err(error) => return Err(format!("{url} is no URL: {error}")),
            };
            match connected {
                Ok(channel) => {
                    *self.channel.lock() = Some(channel.clone());
                    return Ok(channel);
                }
                Err(error) => why = format!("{url}: {}", root_cause(&error)),
            }
            self.turn.fetch_add(1, Ordering::Relaxed);
        }
        Err(why)
    }

    fn failed(&self, status: &tonic::Status) -> String {
        let url = &self.endpoints[self.turn.load(Ordering::Relaxed) % self.endpoints.len()];
        format!("etcd at {url}: {}", status.message())
    }

    /// Makes a call. If that fails, or who waits for it gives up, the next one goes to another endpoint.
    async fn call<T>(&self, call: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        let mut turn = Turn { etcd: self, is_over: true };
        let answer = call.await;
        turn.is_over = answer.is_err();
        answer
    }

    /// What stands under the prefix.
    async fn read(&self) -> Result<Vec<KeyValue>, String> {
        let mut kv = KvClient::new(self.channel().await?);
        // `0` is the character after `/`.
        let range_end = format!("{}0", self.prefix).into_bytes().into();
        let request = RangeRequest { key: self.key(""), range_end, limit: KEYS_MAX };
        let answer = kv.range(request).await.map_err(|status| self.failed(&status))?;
        Ok(answer.into_inner().kvs)
    }

    async fn transact(&self, compare: Vec<Compare>, success: Vec<RequestOp>) -> Result<bool, String> {
        let mut kv = KvClient::new(self.channel().await?);
        let answer = kv.txn(TxnRequest { compare, success }).await;
        Ok(answer.map_err(|status| self.failed(&status))?.into_inner().succeeded)
    }

    /// The key and what it holds, of those that were read.
    fn find<'a>(&self, kvs: &'a [KeyValue], name: &str) -> Option<&'a KeyValue> {
        let key = self.key(name);
        kvs.iter().find(|kv| kv.key == key)
    }

    fn leader(&self, kvs: &[KeyValue]) -> Result<Option<(Leader, i64, i64)>, String> {
        let Some(kv) = self.find(kvs, "leader") else { return Ok(None) };
        let leader = serde_json::from_slice(&kv.value)
            .map_err(|error| format!("etcd: key {}/leader is not Pleach's: {error}", self.prefix))?;
        Ok(Some((leader, kv.mod_revision, kv.lease)))
    }

    /// The last fence, and the revision of its key.
    fn fence(&self, kvs: &[KeyValue]) -> Result<(u64, i64), String> {
        let Some(kv) = self.find(kvs, "fence") else { return Ok((0, 0)) };
        let fence = std::str::from_utf8(&kv.value).ok().and_then(|text| text.parse().ok());
        let fence =
            fence.ok_or_else(|| format!("etcd: key {}/fence holds no number of Pleach's", self.prefix))?;
        Ok((fence, kv.mod_revision))
    }
}

/// What each call does, at the endpoint whose turn it is.
impl Etcd {
    async fn try_observe(&self) -> Result<Observed, String> {
        let kvs = self.read().await?;
        let prefix = self.key("candidates/");
        let candidates = kvs.iter().filter(|kv| kv.key.starts_with(&prefix));
        Ok(Observed {
            fence: self.fence(&kvs)?.0,
            holder: self.leader(&kvs)?.map(|(leader, ..)| leader.node),
            // What is none of a node of this version is left out.
            candidates: candidates.filter_map(|kv| serde_json::from_slice(&kv.value).ok()).collect(),
        })
    }

    async fn try_acquire(&self, node: &str, above: u64) -> Result<Option<Lease>, String> {
        let kvs = self.read().await?;
        let (fence, fence_revision) = self.fence(&kvs)?;
        let leader_revision = match self.leader(&kvs)? {
            Some((leader, ..)) if leader.node != node => return Ok(None),
            Some((_, revision, _)) => revision,
            None => 0,
        };
        let mut leases = LeaseClient::new(self.channel().await?);
        let granted = leases.lease_grant(LeaseGrantRequest { ttl: self.seconds }).await;
        let granted = granted.map_err(|status| self.failed(&status))?.into_inner();
        let fence = fence.max(above) + 1;
        let leader = serde_json::to_string(&Leader { node: node.to_owned(), fence });
        let compare =
            vec![self.unchanged("leader", leader_revision), self.unchanged("fence", fence_revision)];
        let success = vec![
            self.put("leader", leader.map_err(|error| error.to_string())?, granted.id),
            self.put("fence", fence.to_string(), 0),
        ];
        if self.transact(compare, success).await? {
            return Ok(Some(Lease { node: node.to_owned(), fence, id: granted.id }));
        }
        // What is not revoked goes by itself.
        let _ = leases.lease_revoke(LeaseRevokeRequest { id: granted.id }).await;
        Ok(None)
    }

    async fn try_renew(&self, lease: &Lease) -> Result<bool, String> {
        let mut leases = LeaseClient::new(self.channel().await?);
        let request = LeaseKeepAliveRequest { id: lease.id };
        let answers = leases.lease_keep_alive(tokio_stream::once(request)).await;
        let mut answers = answers.map_err(|status| self.failed(&status))?.into_inner();
        let answer = answers.message().await.map_err(|status| self.failed(&status))?;
        if answer.is_none_or(|answer| answer.ttl < self.seconds) {
            return Ok(false);
        }
        // The lease lives; so does what hangs on it, unless somebody removed that.
        let kvs = self.read().await?;
        let leader = self.leader(&kvs)?;
        Ok(leader.is_some_and(|(leader, _, id)| (leader.fence, id) == (lease.fence, lease.id)))
    }

    async fn try_release(&self, lease: &Lease, floor: u64) -> Result<(), String> {
        let kvs = self.read().await?;
        let (fence, fence_revision) = self.fence(&kvs)?;
        if let Some((leader, revision, _)) = self.leader(&kvs)?
            && leader.fence == lease.fence
        {
            let compare = vec![self.unchanged("leader", revision), self.unchanged("fence", fence_revision)];
            let delete = DeleteRangeRequest { key: self.key("leader") };
            let delete = RequestOp { request: Some(Request::RequestDeleteRange(delete)) };
            // If somebody was faster, it is not this node's to release any more.
            self.transact(compare, vec![delete, self.put("fence", fence.max(floor).to_string(), 0)]).await?;
        }
        let mut leases = LeaseClient::new(self.channel().await?);
        let _ = leases.lease_revoke(LeaseRevokeRequest { id: lease.id }).await;
        Ok(())
    }

    async fn try_stand(&self, candidate: &Candidate) -> Result<(), String> {
        let value = serde_json::to_string(candidate).map_err(|error| error.to_string())?;
        let name = format!("candidates/{}", candidate.node);
        self.transact(Vec::new(), vec![self.put(&name, value, 0)]).await?;
        Ok(())
    }
}

#[tonic::async_trait]
impl LeaseProvider for Etcd {
    async fn observe(&self) -> Result<Observed, String> {
        self.call(self.try_observe()).await
    }

    async fn acquire(&self, node: &str, above: u64) -> Result<Option<Lease>, String> {
        self.call(self.try_acquire(node, above)).await
    }

    async fn renew(&self, lease: &Lease) -> Result<bool, String> {
        self.call(self.try_renew(lease)).await
    }

    async fn release(&self, lease: &Lease, floor: u64) -> Result<(), String> {
        self.call(self.try_release(lease, floor)).await
    }

    async fn stand(&self, candidate: &Candidate) -> Result<(), String> {
        self.call(self.try_stand(candidate)).await
    }
}
