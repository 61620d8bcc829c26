//! Log lines: to stderr, only those asked for. A server logs `info` by itself, other commands `warn`.

use std::io;

use tracing_subscriber::EnvFilter;

use super::args::{Global, LogFormat};
use crate::error::{Failure, Result};

pub(super) fn start(global: &Global, is_server: bool) -> Result<()> {
    let level = global.log.as_deref().unwrap_or(if is_server { "info" } else { "warn" });
    let filter = EnvFilter::try_new(level).map_err(|error| {
        Failure::usage(format!("--log: `{level}`: {error}"))
            .hint("give error, warn, info, debug or trace, or a filter such as pleach_protocol=debug")
    })?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match global.log_format {
        LogFormat::Text => subscriber.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).try_init(),
        LogFormat::Json => subscriber.json().try_init(),
    };
    // A second command in one process (a test) logs where the first one did.
    started.or(Ok(()))
}
