//! A place for objects in memory, whose n-th call can fail, before or after it had its effect.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use pleach_protocol::{Error, Objects, Result};
use tokio::sync::Notify;

/// How a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fault {
    /// Nothing is done.
    Refused,
    /// It is done, and the answer lost.
    AnswerLost,
}

#[derive(Debug, Default)]
pub(super) struct Memory {
    objects: Mutex<BTreeMap<String, Bytes>>,
    calls: AtomicUsize,
    fault: Mutex<Option<(usize, Fault)>>,
    /// Where the next put of a manifest says that it came, and waits.
    pause: Mutex<Option<Arc<[Notify; 2]>>>,
    careless: bool,
    /// Names of the calls so far.
    log: Mutex<Vec<String>>,
}

impl Memory {
    pub(super) fn new() -> Arc<Memory> {
        Arc::default()
    }

    /// Memory where a put if absent succeeds whatever is there.
    pub(super) fn careless() -> Arc<Memory> {
        Arc::new(Memory { careless: true, ..Memory::default() })
    }

    /// The objects as they are.
    pub(super) fn objects(&self) -> BTreeMap<String, Bytes> {
        self.objects.lock().unwrap().clone()
    }

    pub(super) fn set(&self, objects: BTreeMap<String, Bytes>) {
        *self.objects.lock().unwrap() = objects;
    }

    /// Lets the `n`-th call from now on, from 0, go wrong.
    pub(super) fn fail(&self, n: usize, fault: Fault) {
        *self.fault.lock().unwrap() = Some((self.calls.load(Ordering::SeqCst) + n, fault));
    }

    /// Stops the next put of a manifest before it has its effect: the first is notified then, the second lets it go on.
    pub(super) fn pause(&self) -> Arc<[Notify; 2]> {
        let pause = Arc::<[Notify; 2]>::default();
        *self.pause.lock().unwrap() = Some(pause.clone());
        pause
    }

    /// Whether the fault has happened; there is none any more.
    pub(super) fn failed(&self) -> bool {
        self.fault.lock().unwrap().take().is_none_or(|(n, _)| n < self.calls.load(Ordering::SeqCst))
    }

    /// Names of the calls since this was asked last.
    pub(super) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    fn call<T>(
        &self,
        name: &str,
        key: &str,
        effect: impl FnOnce(&mut BTreeMap<String, Bytes>) -> T,
    ) -> Result<T> {
        self.log.lock().unwrap().push(format!("{name} {}", key.split('/').next().unwrap()));
        let n = self.calls.fetch_add(1, Ordering::SeqCst);
        let fault = self.fault.lock().unwrap().filter(|(at, _)| *at == n).map(|(_, fault)| fault);
        let lost = || Err(Error::Unreachable { url: "memory".into(), what: "the connection was cut".into() });
        match fault {
            Some(Fault::Refused) => lost(),
            Some(Fault::AnswerLost) => {
                effect(&mut self.objects.lock().unwrap());
                lost()
            }
            None => Ok(effect(&mut self.objects.lock().unwrap())),
        }
    }
}

#[tonic::async_trait]
impl Objects for Memory {
    async fn list(&self, prefix: &str, max: usize) -> Result<Vec<String>> {
        self.call("list", prefix, |objects| {
            objects.keys().filter(|key| key.starts_with(prefix)).take(max).cloned().collect()
        })
    }

    async fn get(&self, key: &str, bytes_max: usize) -> Result<Option<Bytes>> {
        match self.call("get", key, |objects| objects.get(key).cloned())? {
            Some(object) if object.len() > bytes_max => {
                let (found, limit) = (object.len() as u64, bytes_max as u64);
                Err(Error::Limit { what: "bytes of an object", found, limit })
            }
            got => Ok(got),
        }
    }

    async fn put(&self, key: &str, object: Bytes) -> Result<()> {
        self.call("put", key, |objects| drop(objects.insert(key.to_owned(), object)))
    }

    async fn put_if_absent(&self, key: &str, object: Bytes) -> Result<bool> {
        let pause = key.starts_with("manifest/").then(|| self.pause.lock().unwrap().take()).flatten();
        if let Some(pause) = pause {
            pause[0].notify_one();
            pause[1].notified().await;
        }
        self.call("put_if_absent", key, |objects| {
            if !self.careless && objects.contains_key(key) {
                return false;
            }
            objects.insert(key.to_owned(), object);
            true
        })
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.call("delete", key, |objects| drop(objects.remove(key)))
    }
}
