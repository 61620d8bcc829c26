//! completions, man, version: the command line about itself.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use serde_json::json;

use super::Context;
use super::args::Cli;
use crate::error::{Failure, Result};

pub(super) fn completions(context: &mut Context, shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pleach", &mut script);
    context.output.bytes(&script)
}

/// One page for each command, `pleach.1` and `pleach-COMMAND.1`.
pub(super) fn man(context: &mut Context, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).map_err(|error| Failure::file(directory.display(), &error))?;
    clap_mangen::generate_to(Cli::command(), directory)
        .map_err(|error| Failure::file(directory.display(), &error))?;
    context.output.note(format!("manual pages are in {}", directory.display()));
    Ok(())
}

pub(super) fn version(context: &mut Context) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    if context.output.json {
        return context.output.document(&json!({"version": version}));
    }
    context.output.line(format!("pleach {version}"))
}
