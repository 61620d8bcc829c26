//! Runs of one thing, a pull or a push, one at a time and shared: a run that begins after somebody asked will do for him, so all who wait while one runs share
//! the next.

use std::sync::atomic::{AtomicU64, Ordering};

use pleach_protocol::Remote;
use tokio::sync::{Mutex, MutexGuard};

use crate::error::{Error, ErrorKind, Result};

/// The runs of one thing, and the connection that they keep.
pub(crate) struct Runs<T> {
    started: AtomicU64,
    last: Mutex<Last<T>>,
}

struct Last<T> {
    /// Number of the run whose result this is.
    number: u64,
    result: Result<T, (String, ErrorKind)>,
    remote: Option<Remote>,
}

impl<T: Default> Default for Runs<T> {
    fn default() -> Runs<T> {
        let last = Last { number: 0, result: Ok(T::default()), remote: None };
        Runs { started: AtomicU64::new(0), last: Mutex::new(last) }
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
    last: MutexGuard<'a, Last<T>>,
}

impl<T: Clone> Runs<T> {
    /// Waits until none is under way.
    pub(crate) async fn idle(&self) {
        drop(self.last.lock().await);
    }

    /// Waits for the run under way, if there is one.
    pub(crate) async fn turn(&self) -> Turn<'_, T> {
        // One that runs now may have looked already; the one after it will not have.
        let needed = self.started.load(Ordering::SeqCst) + 1;
        let last = self.last.lock().await;
        if last.number >= needed {
            return Turn::Shared(last.shared());
        }
        Turn::Ours(Run { number: self.started.fetch_add(1, Ordering::SeqCst) + 1, last })
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
        &mut self.last.remote
    }

    /// Gives the result to all who share it.
    pub(crate) fn end(mut self, result: Result<T>) -> Result<T> {
        self.last.result = result.map_err(|error| (error.to_string(), error.kind()));
        self.last.number = self.number;
        self.last.shared()
    }
}
