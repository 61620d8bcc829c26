//! Progress of a command that takes longer than a second: one line on stderr that says what runs and for how long, and goes
//! away when it is done. Only on a terminal, and never with `--quiet`.

use std::io::{self, Write};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a command runs before anything is shown, and between two looks at the clock.
const TICK: Duration = Duration::from_secs(1);

/// Shown until dropped.
pub(super) struct Progress {
    shown: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    pub(super) fn nowhere() -> Progress {
        Progress { shown: None }
    }

    /// Shows `what` on stderr, from the first second on.
    pub(super) fn on_stderr(what: String) -> Progress {
        let (done, ticks) = mpsc::channel();
        let started = Instant::now();
        let show = move || {
            let mut shown = false;
            // Nobody seeing it is no failure.
            while ticks.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                shown = write!(io::stderr(), "\r\x1b[K{what} … {} s", started.elapsed().as_secs()).is_ok();
            }
            if shown {
                let _ = write!(io::stderr(), "\r\x1b[K");
            }
        };
        Progress { shown: std::thread::Builder::new().spawn(show).ok().map(|thread| (done, thread)) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((done, thread)) = self.shown.take() {
            drop(done);
            // The thread only prints.
            let _ = thread.join();
        }
    }
}
