//! Where results are printed: one locked, buffered stdout; all else goes to stderr. A reader that goes away ends the
//! command quietly ([`Kind::Closed`](crate::error::Kind)).

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use serde_json::Value;

use super::progress::Progress;
use crate::error::{Failure, Kind, Result};

/// The command's printer.
pub(crate) struct Output {
    /// Print JSON documents in place of text.
    pub(crate) json: bool,
    quiet: bool,
    stdout: BufWriter<StdoutLock<'static>>,
}

impl Output {
    pub(crate) fn new(json: bool, quiet: bool) -> Output {
        Output { json, quiet, stdout: BufWriter::with_capacity(64 << 10, io::stdout().lock()) }
    }

    /// Prints one line of a result.
    pub(crate) fn line(&mut self, line: impl AsRef<[u8]>) -> Result<()> {
        self.bytes(line.as_ref())?;
        self.bytes(b"\n")
    }

    /// Prints bytes of a result as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.stdout.write_all(bytes).map_err(|error| Failure::file("standard output", &error))
    }

    /// Prints one JSON document on one line.
    pub(crate) fn document(&mut self, document: &Value) -> Result<()> {
        self.line(document.to_string())
    }

    /// Hands everything printed so far to the system.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.stdout.flush().map_err(|error| Failure::file("standard output", &error))
    }

    /// Shows on a terminal that `what` runs, until the answer is dropped.
    #[must_use]
    pub(crate) fn progress(&self, what: impl Into<String>) -> Progress {
        match !self.quiet && io::stderr().is_terminal() {
            true => Progress::on_stderr(what.into()),
            false => Progress::nowhere(),
        }
    }

    /// Says something beside the result, on stderr, unless `--quiet`. Nobody listening is no failure.
    pub(crate) fn note(&self, note: impl AsRef<str>) {
        if !self.quiet {
            let _ = writeln!(io::stderr(), "{}", note.as_ref());
        }
    }
}

/// Prints a failure and gives the exit status.
pub(crate) fn report(failure: &Failure) -> u8 {
    let status = failure.kind.exit_status();
    if !matches!(failure.kind, Kind::Closed | Kind::Interrupted) {
        let mut stderr = io::stderr().lock();
        let _ = writeln!(stderr, "error: {}", failure.message);
        if let Some(hint) = &failure.hint {
            let _ = writeln!(stderr, "hint: {hint}");
        }
    }
    status
}
