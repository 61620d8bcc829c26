//! Progress: how far calls that take long are, told while they run.
//!
//! One idea: a handle of the store may have an observer, and whatever takes long on that handle counts what it does in a [`Meter`], which now and then tells
//! the observer. Beside [`Cancel`](crate::Cancel), and carried as that is. A handle without one counts nothing, and looks at no clock.
//!
//! Invariants (tests here, and `progress_tests.rs` of the engine):
//! 1. What is told was done: counts only grow, and never pass the total.
//! 2. A total is known, not guessed; else there is none.
//! 3. An observer is called by the thread that made the call, at most once an interval and at the end of a task it was told of, and never under a lock that
//!    readers or appends wait for.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How far a task of a call is. A call may be several tasks, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done, as one word: `loading`, `merging`.
    pub task: &'static str,
    /// What is counted, as a plural: `rows`, `chunks`, `bytes`.
    pub unit: &'static str,
    /// So many are done.
    pub done: u64,
    /// Of so many, if that is known.
    pub total: Option<u64>,
}

/// Told how far the calls of those handles of a store are that have it ([`Store::observed`](crate::Store::observed)). Clones are one observer.
#[derive(Clone)]
pub struct Observer {
    tell: Arc<dyn Fn(Progress) + Send + Sync>,
    interval: Duration,
}

impl Observer {
    /// An observer that calls `tell` about every 10 ms while something takes longer than that. It is called in the middle of the call that it tells of,
    /// which waits for it, and which may have the order of writing, or the turn to compact: it may read, and must not change the database, compact or collect.
    pub fn new(tell: impl Fn(Progress) + Send + Sync + 'static) -> Observer {
        Observer::every(Duration::from_millis(10), tell)
    }

    /// An observer that is told at most once in `interval`, and of nothing that takes less.
    pub fn every(interval: Duration, tell: impl Fn(Progress) + Send + Sync + 'static) -> Observer {
        Observer { tell: Arc::new(tell), interval }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

/// Counts what a task does.
#[derive(Debug)]
pub struct Meter {
    progress: Progress,
    watch: Option<Watch>,
}

#[derive(Debug)]
struct Watch {
    observer: Observer,
    /// When the observer was last told, or the task began.
    since: Instant,
    is_told: bool,
    /// Counts since the last look at the clock.
    unseen: u32,
}

impl Meter {
    /// A meter that tells `observer`, if there is one.
    pub(crate) fn new(
        observer: Option<&Observer>,
        task: &'static str,
        unit: &'static str,
        total: Option<u64>,
    ) -> Meter {
        let watch = |observer: &Observer| Watch {
            observer: observer.clone(),
            since: Instant::now(),
            is_told: false,
            unseen: 0,
        };
        Meter { progress: Progress { task, unit, done: 0, total }, watch: observer.map(watch) }
    }

    /// So many more are done. Never are more than all.
    #[inline]
    pub fn add(&mut self, count: u64) {
        if self.watch.is_some() {
            self.count(count);
        }
    }

    fn count(&mut self, count: u64) {
        /// Looking at the clock costs as much as a row or two.
        const LOOK_EVERY: u32 = 64;
        self.note(count);
        if let Some(watch) = &mut self.watch {
            watch.unseen += 1;
            if watch.unseen >= LOOK_EVERY {
                watch.look(self.progress);
            }
        }
    }

    /// So many are done by now, if it is more than before. For what comes in large shares: each is followed by a look at the clock.
    pub fn reach(&mut self, done: u64) {
        self.progress.done = self.progress.done.max(done);
        if let Some(watch) = &mut self.watch {
            watch.look(self.progress);
        }
    }

    /// So many more are done, where nobody can be told.
    pub fn note(&mut self, count: u64) {
        let done = self.progress.done + count;
        self.progress.done = self.progress.total.map_or(done, |total| done.min(total));
    }

    /// The task is over: whoever was told of it learns how it ended.
    pub fn end(mut self) {
        if let Some(watch) = &mut self.watch {
            match watch.is_told {
                true => (watch.observer.tell)(self.progress),
                false => watch.look(self.progress),
            }
        }
    }
}

impl Watch {
    fn look(&mut self, progress: Progress) {
        self.unseen = 0;
        if self.since.elapsed() >= self.observer.interval {
            (self.observer.tell)(progress);
            (self.since, self.is_told) = (Instant::now(), true);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use parking_lot::Mutex;

    use super::*;

    fn told(interval: Duration, run: impl FnOnce(Meter)) -> Vec<(u64, Option<u64>)> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let into = seen.clone();
        let observer = Observer::every(interval, move |p| into.lock().push((p.done, p.total)));
        run(Meter::new(Some(&observer), "counting", "rows", Some(1000)));
        let seen = seen.lock();
        seen.clone()
    }

    #[test]
    fn counts_grow_and_the_end_is_told() {
        let seen = told(Duration::ZERO, |mut meter| {
            (0..1000).for_each(|_| meter.add(1));
            meter.end();
        });
        assert_eq!((seen.first(), seen.last()), (Some(&(64, Some(1000))), Some(&(1000, Some(1000)))));
        assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "{seen:?}");
    }

    #[test]
    fn what_takes_less_than_the_interval_is_not_told() {
        let seen = told(Duration::from_secs(600), |mut meter| {
            (0..1000).for_each(|_| meter.add(1));
            meter.end();
        });
        assert_eq!(seen, []);
    }
}
