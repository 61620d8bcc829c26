//! Ctrl-C: the command ends at once with status 130. That is safe at any point, since nothing is acknowledged before it is
//! durable.

use crate::error::{Failure, Result};

/// Exits the process with status 130 when it is interrupted.
pub(super) fn exit_on_interrupt() -> Result<()> {
    let failed = |error: std::io::Error| Failure::refused(format!("cannot listen for Ctrl-C: {error}"));
    let runtime = super::backend::runtime()?;
    let watch = move || {
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            std::process::exit(130);
        }
    };
    std::thread::Builder::new().name("interrupt".into()).spawn(watch).map_err(failed)?;
    Ok(())
}
