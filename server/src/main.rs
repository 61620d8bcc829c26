//! The `pleach` binary: hands its arguments to the command line and exits with its status.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(pleach_server::run(std::env::args_os()))
}
