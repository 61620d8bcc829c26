//! Progress of a command that takes longer than a second: one line on stderr that says what runs, how far it is, and for how long, and goes
//! away when it is done. Only on a terminal, and never with `--quiet`.

use std::io::{self, Write};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a command runs before anything is shown, and between two looks at the clock.
const TICK: Duration = Duration::from_secs(1);

/// Shown until dropped.
pub(super) struct Progress {
    shown: Option<(Sender<()>, JoinHandle<()>)>,
    far: Arc<Far>,
}

/// How far it is: so many of so many, or of nobody knows how many.
#[derive(Default)]
struct Far {
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    pub(super) fn nowhere() -> Progress {
        Progress { shown: None, far: Arc::default() }
    }

    /// Shows `what` on stderr, from the first second on.
    pub(super) fn on_stderr(what: String) -> Progress {
        let (done, ticks) = mpsc::channel();
        let started = Instant::now();
        let far = Arc::<Far>::default();
        let seen = far.clone();
        let show = move || {
            let mut shown = false;
            // Nobody seeing it is no failure.
            while ticks.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                let (far, seconds) = (seen.text(), started.elapsed().as_secs());
                shown = write!(io::stderr(), "\r\x1b[K{what} …{far} {seconds} s").is_ok();
            }
            if shown {
                let _ = write!(io::stderr(), "\r\x1b[K");
            }
        };
        Progress { shown: std::thread::Builder::new().spawn(show).ok().map(|thread| (done, thread)), far }
    }

    /// Notes how far it is; 0 for a `total` that is not known.
    pub(super) fn at(&self, done: u64, total: u64) {
        self.far.done.fetch_max(done, Ordering::Relaxed);
        self.far.total.store(total, Ordering::Relaxed);
    }
}

impl Far {
    fn text(&self) -> String {
        match (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed)) {
            (0, _) => String::new(),
            (done, 0) => format!(" {done} chunks,"),
            (done, total) => format!(" {done} of {total} chunks, {} %,", done.saturating_mul(100) / total),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_it_is_is_told_with_what_is_known() {
        let progress = Progress::nowhere();
        assert_eq!(progress.far.text(), "");
        progress.at(300, 0);
        assert_eq!(progress.far.text(), " 300 chunks,");
        progress.at(200, 600);
        assert_eq!(progress.far.text(), " 300 of 600 chunks, 50 %,");
    }
}
