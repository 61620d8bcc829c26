//! The lock on a store's directory: one writer at a time, and an error that names it.
//!
//! One idea: the operating system's lock on the file `LOCK` decides, and goes with the process; the text in the file only tells who.
//! Taken when a store is created or opened.

use crate::error::{Error, Result};
use crate::io::{Io, Locking};

const FILE: &str = "LOCK";

/// The held lock, released when dropped.
pub(crate) struct Lock {
    _held: Box<dyn Send + Sync>,
}

impl Lock {
    pub(crate) fn take(io: &dyn Io) -> Result<Lock> {
        let owner = format!("pid {}\nhost {}\n", std::process::id(), host());
        match io.lock(FILE, &owner).map_err(Error::io("lock", FILE))? {
            Locking::Held(held) => Ok(Lock { _held: held }),
            Locking::Busy(owner) => {
                let field = |name: &str| {
                    let line = owner.lines().find_map(|line| line.strip_prefix(name));
                    line.map_or_else(|| "unknown".to_owned(), |value| value.trim().to_owned())
                };
                Err(Error::Locked { dir: io.place(), pid: field("pid "), host: field("host ") })
            }
        }
    }
}

/// The machine's name, where the operating system tells it in a file.
fn host() -> String {
    let names = ["/proc/sys/kernel/hostname", "/etc/hostname"];
    let found = names.iter().find_map(|path| std::fs::read_to_string(path).ok());
    found.map_or_else(|| "this machine".to_owned(), |name| name.trim().to_owned())
}
