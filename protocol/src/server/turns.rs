//! Whose turn it is: what is live goes before what catches up, and that before a clone.
//!
//! One idea: nobody knows how long an exchange is before it is over, so each begins as *live*, and becomes *long* when it has moved some MiB; what asks for everything, or goes
//! on with what was long, is long from the start. Each class has its own turns, so that no number of long ones keeps a live one waiting. A live one that has become long takes a turn
//! of those, and gives its own back; if there is none, it keeps its own as long as no live one waits for it, and else is cut: it goes on where it was, in line with the long ones.
//!
//! Beside live ones at work, long ones rest before each message, but never for more than [`YIELD_MAX`]: so they go on, whatever there is.
//!
//! Invariants (tests here, and `tests/priorities.rs`):
//! 1. No more than [`TRANSFERS_MAX`](crate::limits::TRANSFERS_MAX) exchanges have a turn.
//! 2. A live exchange waits only for live ones.
//! 3. A long one makes a message each `YIELD_MAX`, if its caller reads it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::limits::{LIVE_BYTES, LIVE_MAX, LONG_MAX, YIELD_MAX};

/// The turns of one server.
pub(super) struct Turns {
    live: Arc<Semaphore>,
    long: Arc<Semaphore>,
    /// Live exchanges that wait for a turn.
    waiting: AtomicUsize,
    /// Live exchanges that have one.
    working: Mutex<usize>,
    rested: Condvar,
}

/// A turn of one exchange.
pub(super) struct Turn {
    turns: Arc<Turns>,
    /// None once it was given up.
    permit: Option<OwnedSemaphorePermit>,
    is_live: bool,
    moved: u64,
}

/// What an exchange is taken to be when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Live,
    Long,
}

impl Turns {
    pub(super) fn new() -> Arc<Turns> {
        Arc::new(Turns {
            live: Arc::new(Semaphore::new(LIVE_MAX)),
            long: Arc::new(Semaphore::new(LONG_MAX)),
            waiting: AtomicUsize::new(0),
            working: Mutex::new(0),
            rested: Condvar::new(),
        })
    }

    /// Waits for a turn.
    #[allow(clippy::result_large_err, reason = "what the service answers")]
    pub(super) async fn take(self: &Arc<Turns>, class: Class) -> Result<Turn, Status> {
        let is_live = class == Class::Live;
        let permit = match is_live {
            true => {
                let _waits = Waits::new(&self.waiting);
                self.live.clone().acquire_owned().await
            }
            false => self.long.clone().acquire_owned().await,
        };
        let permit = permit.map_err(|_| Status::unavailable("shutting down"))?;
        if is_live {
            *self.working.lock() += 1;
        }
        Ok(Turn { turns: self.clone(), permit: Some(permit), is_live, moved: 0 })
    }

    fn rest(&self) {
        let until = Instant::now() + YIELD_MAX;
        let mut working = self.working.lock();
        while *working > 0 && !self.rested.wait_until(&mut working, until).timed_out() {}
    }

    fn end_live(&self) {
        let mut working = self.working.lock();
        *working -= 1;
        if *working == 0 {
            self.rested.notify_all();
        }
    }
}

/// A live exchange that waits, for as long as this is there.
struct Waits<'a>(&'a AtomicUsize);

impl Waits<'_> {
    fn new(waiting: &AtomicUsize) -> Waits<'_> {
        waiting.fetch_add(1, Ordering::SeqCst);
        Waits(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Turn {
    /// Notes that so many bytes are about to move, after a rest if others go first. Whether the turn lasts: else it was given to who waited for it, and the exchange is
    /// to be cut. From a thread that may block.
    pub(super) fn moves(&mut self, bytes: u64) -> bool {
        self.moved = self.moved.saturating_add(bytes);
        if self.is_live && self.moved > LIVE_BYTES {
            match self.turns.long.clone().try_acquire_owned() {
                Ok(long) => self.become_long(Some(long)),
                Err(_) if self.turns.waiting.load(Ordering::SeqCst) > 0 => self.become_long(None),
                Err(_) => {}
            }
        }
        if !self.is_live && self.permit.is_some() {
            self.turns.rest();
        }
        self.permit.is_some()
    }

    /// Whether it was given to who waited for it.
    pub(super) fn is_lost(&self) -> bool {
        self.permit.is_none()
    }

    fn become_long(&mut self, permit: Option<OwnedSemaphorePermit>) {
        self.permit = permit;
        self.is_live = false;
        self.turns.end_live();
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.is_live {
            self.turns.end_live();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    async fn all(turns: &Arc<Turns>, class: Class, count: usize) -> Vec<Turn> {
        let mut taken = Vec::new();
        for _ in 0..count {
            taken.push(timeout(SOON, turns.take(class)).await.unwrap().unwrap());
        }
        taken
    }

    #[tokio::test]
    async fn no_number_of_long_exchanges_keeps_a_live_one_waiting() {
        let turns = Turns::new();
        let long = all(&turns, Class::Long, LONG_MAX).await;
        let mut next = std::pin::pin!(turns.take(Class::Long));
        assert!(timeout(Duration::ZERO, next.as_mut()).await.is_err(), "the next long one waits");
        drop(all(&turns, Class::Live, LIVE_MAX).await);
        drop(long);
        timeout(SOON, next).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_has_become_long_gives_its_turn_to_live_ones() {
        let turns = Turns::new();
        let mut live = all(&turns, Class::Live, LIVE_MAX).await;
        assert!(live.iter_mut().all(|turn| turn.moves(LIVE_BYTES)));
        assert_eq!(turns.live.available_permits(), 0, "none is long yet");
        assert!(live[0].moves(1));
        assert_eq!((turns.live.available_permits(), turns.long.available_permits()), (1, LONG_MAX - 1));
        drop(live.remove(0));
        assert_eq!(turns.long.available_permits(), LONG_MAX);
    }

    #[tokio::test]
    async fn without_a_turn_for_long_ones_it_is_cut_only_when_a_live_one_waits() {
        let turns = Turns::new();
        let long = all(&turns, Class::Long, LONG_MAX).await;
        let mut live = all(&turns, Class::Live, LIVE_MAX).await;
        assert!(live[0].moves(LIVE_BYTES + 1));
        let waiting = tokio::spawn({
            let turns = turns.clone();
            async move { turns.take(Class::Live).await.unwrap() }
        });
        while turns.waiting.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        assert!(live[1].moves(LIVE_BYTES), "which is no long one");
        assert!(!live[0].moves(1) && live[0].is_lost());
        timeout(SOON, waiting).await.unwrap().unwrap();
        drop((long, live));
        assert_eq!(*turns.working.lock(), 0);
    }

    #[tokio::test]
    async fn a_long_one_rests_while_a_live_one_is_at_work_but_not_for_ever() {
        let turns = Turns::new();
        let mut long = all(&turns, Class::Long, 1).await.remove(0);
        let since = Instant::now();
        assert!(long.moves(1));
        assert!(since.elapsed() < YIELD_MAX);
        let live = all(&turns, Class::Live, 1).await;
        let since = Instant::now();
        assert!(long.moves(1));
        assert!(since.elapsed() >= YIELD_MAX);
        let resting = std::thread::spawn(move || long.moves(1));
        drop(live);
        assert!(resting.join().unwrap());
    }
}
