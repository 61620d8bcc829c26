//! Runs of one thing, a pull or a push, one at a time and shared: a run that begins after somebody asked will do for him, so all who wait while one runs share
//! the next.

use std::sync::atomic::{AtomicU64, Ordering};

use pleach_protocol::Remote;
use tokio::sync::{Mutex, MutexGuard, watch};

use crate::error::{Error, ErrorKind, Result};

/// The runs of one thing, and the connection that they keep.
pub(crate) struct Runs<T> {
    started: AtomicU64,
    last: watch::Sender<Last<T>>,
    /// Who holds this runs.
    remote: Mutex<Option<Remote>>,
}

/// The result of the last run that ended.
struct Last<T> {
    number: u64,
    result: Result<T, (String, ErrorKind)>,
}

impl<T: Default> Default for Runs<T> {
    fn default() -> Runs<T> {
        let last = watch::Sender::new(Last { number: 0, result: Ok(T::default()) });
        Runs { started: AtomicU64::new(0), last, remote: Mutex::default() }
    }
}

/// What whoever asked for a run gets.
pub(crate) enum Turn<'a, T> {
    /// The result of one that began after he asked.
    Shared(Result<T>),
    /// It is his to make one.
    Ours(Run<'a, T>),
}

/// A run that is to be made.
pub(crate) struct Run<'a, T> {
    number: u64,
    last: &'a watch::Sender<Last<T>>,
    remote: MutexGuard<'a, Option<Remote>>,
}

impl<T: Clone> Runs<T> {
    /// Waits until none is under way.
    pub(crate) async fn idle(&self) {
        drop(self.remote.lock().await);
    }

    /// Waits for the run under way, if there is one.
    pub(crate) async fn turn(&self) -> Turn<'_, T> {
        // One that runs now may have looked already; the one after it will not have.
        let needed = self.started.load(Ordering::SeqCst) + 1;
        let mut ended = self.last.subscribe();
        tokio::select! {
            // All who share a result get it at once, not one after the other.
            biased;
            Ok(last) = ended.wait_for(|last| last.number >= needed) => Turn::Shared(last.shared()),
            remote = self.remote.lock() => {
                let last = self.last.borrow();
                if last.number >= needed {
                    return Turn::Shared(last.shared());
                }
                let number = self.started.fetch_add(1, Ordering::SeqCst) + 1;
                Turn::Ours(Run { number, last: &self.last, remote })
            }
        }
    }
}

impl<T: Clone> Last<T> {
    fn shared(&self) -> Result<T> {
        self.result.clone().map_err(|(what, kind)| Error::Shared { what, kind })
    }
}

impl<T: Clone> Run<'_, T> {
    /// The connection that the last run left open, to be left open again.
    pub(crate) fn remote(&mut self) -> &mut Option<Remote> {
        &mut self.remote
    }

    /// Gives the result to all who share it.
    pub(crate) fn end(self, result: Result<T>) -> Result<T> {
        let last =
            Last { number: self.number, result: result.map_err(|error| (error.to_string(), error.kind())) };
        let shared = last.shared();
        // Before the next one may run.
        self.last.send_replace(last);
        shared
    }
}
