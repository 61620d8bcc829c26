//! Progress of a command that takes longer than a second: one line on stderr that says what runs, how far it is, and for how long, and goes
//! away when it is done. Only on a terminal, and never with `--quiet`.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pleach_engine::{self as engine, Observer};
use pleach_protocol::{Flow, Passed};

use super::args::Limit;
use super::backend::Backend;

/// How long a command runs before anything is shown, and between two looks at the clock.
const TICK: Duration = Duration::from_secs(1);

/// Shown until dropped.
pub(super) struct Progress {
    shown: Option<(Sender<()>, JoinHandle<()>)>,
    far: Arc<Far>,
}

/// How far it is, as it was last told.
#[derive(Default)]
struct Far(Mutex<Option<engine::Progress>>);

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

    /// Who is to be told how far it is, if it is shown.
    pub(super) fn observer(&self) -> Option<Observer> {
        let far = self.far.clone();
        self.shown.as_ref().map(|_| Observer::new(move |progress| *far.0.lock() = Some(progress)))
    }

    /// What tells how much of a transfer has passed, if it is shown, and holds it to a rate.
    pub(super) fn flow(&self, limit: Limit) -> Flow {
        let far = self.far.clone();
        let tell = self.shown.as_ref().map(|_| {
            move |passed: &Passed| {
                let done = passed.bytes_sent + passed.bytes_received;
                *far.0.lock() = Some(engine::Progress { task: "transfer", unit: "bytes", done, total: None });
            }
        });
        match (limit.limit_rate, &tell) {
            (None, None) => Flow::default(),
            (rate, _) => Flow::new(rate, tell),
        }
    }

    /// Shows how far the calls of a local backend are.
    pub(super) fn watch(&self, backend: &mut Backend) {
        if let (Backend::Local(session), Some(observer)) = (backend, self.observer()) {
            session.database = session.database.observed(&observer);
        }
    }
}

impl Far {
    fn text(&self) -> String {
        let Some(engine::Progress { task, unit, done, total }) = *self.0.lock() else { return String::new() };
        match total {
            None => format!(" {task}: {done} {unit},"),
            Some(total) => {
                let percent = done.saturating_mul(100) / total.max(1);
                format!(" {task}: {done} of {total} {unit}, {percent} %,")
            }
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
        let far = Far::default();
        assert_eq!(far.text(), "");
        let told = engine::Progress { task: "loading", unit: "rows", done: 200, total: None };
        *far.0.lock() = Some(told);
        assert_eq!(far.text(), " loading: 200 rows,");
        *far.0.lock() = Some(engine::Progress { total: Some(600), ..told });
        assert_eq!(far.text(), " loading: 200 of 600 rows, 33 %,");
    }
}
