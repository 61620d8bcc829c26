//! The wall clock of a server, by `libfaketime`: it jumps while the server runs. The monotonic clock goes on as it is.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Where Debian has it.
const LIBRARIES: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
];

/// A clock, which starts right.
pub struct Clock {
    library: &'static str,
    /// Says how far it is from the right time.
    file: PathBuf,
}

impl Clock {
    /// A clock that is kept in `file`; none where `libfaketime` is not installed.
    pub fn new(file: PathBuf) -> Option<Clock> {
        let library = LIBRARIES.into_iter().find(|library| Path::new(library).exists())?;
        let clock = Clock { library, file };
        clock.jump(0);
        Some(clock)
    }

    /// Has the command go by it.
    pub fn give(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", self.library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.file)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }

    /// Sets it so many seconds after, or before, the right time.
    pub fn jump(&self, seconds: i64) {
        // Replaced, so that nobody reads half of it.
        let next = self.file.with_extension("next");
        fs::write(&next, format!("{seconds:+}\n")).unwrap();
        fs::rename(&next, &self.file).unwrap();
    }
}
