//! Progress of a command that takes longer than a second: one line on stderr that says what runs, how far it is, and for how long, and goes
//! away when it is done. Only on a terminal, and never with `--quiet`.

use std::fmt::{self, Display};
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
struct Far(Mutex<Told>);

#[derive(Clone, Copy, Default)]
enum Told {
    #[default]
    Nothing,
    Call(engine::Progress),
    Transfer(Passed),
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

    /// Who is to be told how far it is, if it is shown.
    pub(super) fn observer(&self) -> Option<Observer> {
        let far = self.far.clone();
        self.shown.as_ref().map(|_| Observer::new(move |progress| *far.0.lock() = Told::Call(progress)))
    }

    /// What tells how much of a transfer has passed, if it is shown, and holds it to a rate.
    pub(super) fn flow(&self, limit: Limit) -> Flow {
        let far = self.far.clone();
        let tell =
            self.shown.as_ref().map(|_| move |passed: &Passed| *far.0.lock() = Told::Transfer(*passed));
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
        match *self.0.lock() {
            Told::Nothing => String::new(),
            Told::Call(engine::Progress { task, unit, done, total }) => match total {
                None => format!(" {task}: {done} {unit},"),
                Some(total) => format!(" {task}: {done} of {total} {unit}, {} %,", percent(done, total)),
            },
            Told::Transfer(Passed { bytes_sent, bytes_received, done, total }) => {
                let bytes = Bytes(bytes_sent.saturating_add(bytes_received));
                match total {
                    // What a large value takes shows in its bytes alone.
                    Some(total) => {
                        let (rows, percent) = (total.rows, percent(done.bytes, total.bytes));
                        format!(" {} of {rows} rows, {percent} %, {bytes},", done.rows)
                    }
                    None if done.rows > 0 => format!(" {} rows, {bytes},", done.rows),
                    None => format!(" {bytes},"),
                }
            }
        }
    }
}

fn percent(done: u64, total: u64) -> u64 {
    done.saturating_mul(100) / total.max(1)
}

/// Bytes, for people.
struct Bytes(u64);

impl Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes @ ..1_000 => write!(f, "{bytes} bytes"),
            bytes @ ..1_000_000 => write!(f, "{:.1} kB", bytes as f64 / 1e3),
            bytes @ ..1_000_000_000 => write!(f, "{:.1} MB", bytes as f64 / 1e6),
            bytes => write!(f, "{:.2} GB", bytes as f64 / 1e9),
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
    use pleach_engine::Extent;

    use super::*;

    #[test]
    fn how_far_it_is_is_told_with_what_is_known() {
        let far = Far::default();
        assert_eq!(far.text(), "");
        let told = engine::Progress { task: "loading", unit: "rows", done: 200, total: None };
        *far.0.lock() = Told::Call(told);
        assert_eq!(far.text(), " loading: 200 rows,");
        *far.0.lock() = Told::Call(engine::Progress { total: Some(600), ..told });
        assert_eq!(far.text(), " loading: 200 of 600 rows, 33 %,");
    }

    #[test]
    fn a_transfer_tells_its_rows_and_what_passed() {
        let far = Far::default();
        let mut passed = Passed { bytes_sent: 100, bytes_received: 850, ..Passed::default() };
        let text = |passed: Passed| {
            *far.0.lock() = Told::Transfer(passed);
            far.text()
        };
        assert_eq!(text(passed), " 950 bytes,");
        passed.done = Extent { rows: 300, bytes: 50_000 };
        passed.bytes_received = 25_000;
        assert_eq!(text(passed), " 300 rows, 25.1 kB,");
        passed.total = Some(Extent { rows: 1_000, bytes: 200_000 });
        assert_eq!(text(passed), " 300 of 1000 rows, 25 %, 25.1 kB,");
    }
}
