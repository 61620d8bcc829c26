//! How long a transfer waits for its caller. There are only so many turns: who neither reads nor sends, or hardly, must not hold one for
//! as long as it likes.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc::{Sender, error::TrySendError};
use tokio::time::{Instant, timeout};

use crate::limits::{BYTES_A_SECOND_MIN, MESSAGE_TIMEOUT};

/// The patience that is left: waiting takes from it, what moves adds to it.
pub(super) struct Pace {
    left: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { left: MESSAGE_TIMEOUT }
    }
}

impl Pace {
    /// Waits for something that the caller is to do; `None` when there is no patience left.
    pub(super) async fn wait<T>(&mut self, something: impl Future<Output = T>) -> Option<T> {
        let began = Instant::now();
        let done = timeout(self.left, something).await.ok();
        self.left = match done {
            Some(_) => self.left.saturating_sub(began.elapsed()),
            None => Duration::ZERO,
        };
        done
    }

    /// Gives a message to who reads it, from a thread that may block. Whether it was taken: else the reader is gone, or reads too slowly.
    pub(super) fn send<T>(&mut self, messages: &Sender<T>, message: T) -> bool {
        match messages.try_send(message) {
            Ok(()) => true,
            Err(TrySendError::Full(message)) => {
                Handle::current().block_on(self.wait(messages.send(message))).is_some_and(|sent| sent.is_ok())
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }

    /// Notes that so many bytes moved.
    pub(super) fn moved(&mut self, bytes: u64) {
        if !self.is_over() {
            let more = Duration::from_secs_f64(bytes as f64 / BYTES_A_SECOND_MIN as f64);
            self.left = (self.left + more).min(MESSAGE_TIMEOUT);
        }
    }

    /// Whether there is no patience left.
    pub(super) fn is_over(&self) -> bool {
        self.left.is_zero()
    }
}
