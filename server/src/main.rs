//! The `pleach` binary: hands its arguments to the command line and exits with its status.

use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Nodes of some kilobytes come and go in any order, which the system's allocator pays for with a fifth of a large transaction's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    allow_open_files();
    ExitCode::from(pleach_server::run(std::env::args_os()))
}

/// Takes as many open files as are to be had: a database has one open for each of its files, and the usual limit of 1,024 is for programs that
/// use `select`.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // Refused, the usual limit holds, and reaching it is an error that says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
