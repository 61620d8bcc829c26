//! What passes between here and a remote, and how far that brings a transfer, for those who transfer: counted, told, and held to a rate.
//!
//! A transfer that receives is slowed by not reading: the sender then waits for the window of the connection.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use pleach_engine::Extent;

use crate::error::Result;
use crate::limits::RATE_MIN;
use crate::objects::Objects;

/// How a transfer is watched and limited. By default not at all. Clones share the rate and the counts.
#[derive(Clone, Default)]
pub struct Flow(Option<Arc<Inner>>);

struct Inner {
    /// Bytes a second, sent and received together.
    rate: Option<u64>,
    tell: Option<Tell>,
    state: Mutex<State>,
}

type Tell = Box<dyn Fn(&Passed) + Send + Sync>;

#[derive(Default)]
struct State {
    passed: Passed,
    /// What the transfers come to whose total is known, and how many there are of which it is not.
    total: Extent,
    untold: usize,
    /// When all that passed so far was due, by the rate.
    due: Option<Instant>,
}

/// What has passed so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passed {
    /// Bytes of messages, or of objects, that were sent.
    pub bytes_sent: u64,
    /// Bytes that were received.
    pub bytes_received: u64,
    /// Rows that were received and stored, or sent, and the bytes of their keys and values: those of leaves, when a table travels as these, and those that changed
    /// alone when it travels so. A transfer that goes on after a cut counts what was there of the commit that was under way.
    pub done: Extent,
    /// What `done` is of, if that is known. It is at least `done`, and the same when a transfer ends well; until then it may be an estimate, and get more or less. A server
    /// says it of a longer transfer, and is believed; of directories and buckets it is known only in the end.
    pub total: Option<Extent>,
}

impl Flow {
    /// At most so many bytes a second (at least [`RATE_MIN`](crate::limits::RATE_MIN)), sent and received together; `None` is as many as can be. `tell` is called with what has passed,
    /// after each message or object, from whatever thread; it must not block.
    pub fn new(rate: Option<u64>, tell: Option<impl Fn(&Passed) + Send + Sync + 'static>) -> Flow {
        let tell = tell.map(|tell| Box::new(tell) as Tell);
        let rate = rate.map(|rate| rate.max(RATE_MIN));
        Flow(Some(Arc::new(Inner { rate, tell, state: Mutex::default() })))
    }

    /// Counts what was received, and gives how long to wait before more is read.
    fn pass(&self, sent: u64, received: u64) -> Duration {
        let Some(inner) = &self.0 else { return Duration::ZERO };
        let mut state = inner.state.lock();
        state.passed.bytes_sent += sent;
        state.passed.bytes_received += received;
        let passed = state.passed();
        let mut wait = Duration::ZERO;
        if let Some(rate) = inner.rate {
            let now = Instant::now();
            let due = state.due.unwrap_or(now).max(now)
                + Duration::from_secs_f64((sent + received) as f64 / rate as f64);
            state.due = Some(due);
            wait = due - now;
        }
        drop(state);
        if let Some(tell) = &inner.tell {
            tell(&passed);
        }
        wait
    }

    /// Counts how far a transfer is that begins.
    pub(crate) fn begin(&self) -> Tally {
        if let Some(inner) = &self.0 {
            inner.state.lock().untold += 1;
        }
        Tally { flow: self.clone(), done: Extent::default(), total: None, is_kept: false }
    }

    pub(crate) async fn received(&self, bytes: u64) {
        sleep(self.pass(0, bytes)).await;
    }

    pub(crate) async fn sent(&self, bytes: u64) {
        sleep(self.pass(bytes, 0)).await;
    }

    /// [`Flow::sent`] of a thread that may block.
    pub(crate) fn sent_blocking(&self, bytes: u64) {
        let wait = self.pass(bytes, 0);
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
    }

    /// The same place, whose objects pass as this says.
    pub(crate) fn over(&self, objects: Arc<dyn Objects>) -> Arc<dyn Objects> {
        match &self.0 {
            None => objects,
            Some(_) => Arc::new(Flowing { flow: self.clone(), objects }),
        }
    }
}

impl State {
    fn passed(&self) -> Passed {
        Passed { total: (self.untold == 0).then_some(self.total.max(self.passed.done)), ..self.passed }
    }
}

/// How far one transfer is. What it did counts no more if it is dropped before its end.
pub(crate) struct Tally {
    flow: Flow,
    done: Extent,
    total: Option<Extent>,
    is_kept: bool,
}

impl Tally {
    /// Tells how far it is; a total that is not known any more stays what it was.
    pub(crate) fn at(&mut self, done: Extent, total: Option<Extent>) {
        let total = total.or(self.total).map(|total| total.max(done));
        if (done, total) != (self.done, self.total) {
            self.set(done, total, true);
        }
    }

    /// It came to its end.
    pub(crate) fn end(mut self, done: Extent) {
        self.is_kept = true;
        self.set(done, Some(done), true);
    }

    fn set(&mut self, done: Extent, total: Option<Extent>, is_told: bool) {
        let Some(inner) = &self.flow.0 else { return };
        let mut state = inner.state.lock();
        state.passed.done = state.passed.done.without(self.done) + done;
        state.total = state.total.without(self.total.unwrap_or_default()) + total.unwrap_or_default();
        state.untold = state.untold + usize::from(total.is_none()) - usize::from(self.total.is_none());
        (self.done, self.total) = (done, total);
        let passed = state.passed();
        drop(state);
        if let Some(tell) = inner.tell.as_ref().filter(|_| is_told) {
            tell(&passed);
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        if !self.is_kept {
            self.set(Extent::default(), Some(Extent::default()), false);
        }
    }
}

async fn sleep(wait: Duration) {
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow")
            .field("rate", &self.0.as_ref().and_then(|inner| inner.rate))
            .finish_non_exhaustive()
    }
}

/// A place for objects, each of which passes as a flow says.
#[derive(Debug)]
struct Flowing {
    flow: Flow,
    objects: Arc<dyn Objects>,
}

#[tonic::async_trait]
impl Objects for Flowing {
    async fn list(&self, prefix: &str, max: usize) -> Result<Vec<String>> {
        self.objects.list(prefix, max).await
    }

    async fn get(&self, key: &str, bytes_max: usize) -> Result<Option<Bytes>> {
        let object = self.objects.get(key, bytes_max).await?;
        self.flow.received(object.as_ref().map_or(0, Bytes::len) as u64).await;
        Ok(object)
    }

    async fn put(&self, key: &str, object: Bytes) -> Result<()> {
        self.flow.sent(object.len() as u64).await;
        self.objects.put(key, object).await
    }

    async fn put_if_absent(&self, key: &str, object: Bytes) -> Result<bool> {
        self.flow.sent(object.len() as u64).await;
        self.objects.put_if_absent(key, object).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.objects.delete(key).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn a_rate_makes_those_wait_who_are_ahead_of_it_and_gives_no_credit_for_pauses() {
        let told = Arc::new(AtomicU64::new(0));
        let seen = told.clone();
        let tell =
            move |passed: &Passed| seen.store(passed.bytes_sent + passed.bytes_received, Ordering::Relaxed);
        let flow = Flow::new(Some(1_000_000), Some(tell));
        let first = flow.pass(0, 100_000);
        assert!((Duration::from_millis(99)..=Duration::from_millis(100)).contains(&first), "{first:?}");
        let second = flow.pass(50_000, 0);
        assert!((Duration::from_millis(100)..=Duration::from_millis(150)).contains(&second), "{second:?}");
        assert_eq!(told.load(Ordering::Relaxed), 150_000);
        std::thread::sleep(second + Duration::from_millis(30));
        let after_a_pause = flow.pass(0, 100_000);
        assert!(after_a_pause >= Duration::from_millis(99), "{after_a_pause:?}");
        assert_eq!(Flow::default().pass(1 << 40, 0), Duration::ZERO);
    }
}
