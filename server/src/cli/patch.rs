//! patch make, patch apply, revert.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::args::{Patch, Revert};
use super::backend::Backend;
use super::{Context, history, print};
use crate::error::{Failure, Result};
use crate::proto::{ApplyPatchResponse, MakePatchRequest, RevertRequest};

pub(super) fn patch(context: &mut Context, arguments: Patch) -> Result<()> {
    match arguments {
        Patch::Make { from, to, table, output, after } => {
            let mut backend = context.backend()?;
            let request = MakePatchRequest {
                target: backend.target_after(&after)?,
                from: from.unwrap_or_default(),
                to: to.unwrap_or_default(),
                table: table.unwrap_or_default(),
            };
            match output {
                None => backend.make_patch(request, &mut |message| context.output.bytes(&message.data)),
                Some(path) => make(context, &mut backend, request, &path),
            }
        }
        Patch::Apply { file, reverse } => apply(context, &file, reverse),
    }
}

/// Writes a patch to a file, which is not left there by halves.
fn make(
    context: &mut Context,
    backend: &mut Backend,
    request: MakePatchRequest,
    path: &PathBuf,
) -> Result<()> {
    let failed = |error: io::Error| Failure::file(path.display(), &error);
    let mut file = File::create(path).map_err(failed)?;
    let mut bytes = 0;
    let made = backend.make_patch(request, &mut |message| {
        bytes += message.data.len() as u64;
        file.write_all(&message.data).map_err(failed)
    });
    if let Err(failure) = made.and_then(|()| file.sync_all().map_err(failed)) {
        // The failure that is told is the one that came first.
        let _ = std::fs::remove_file(path);
        return Err(failure);
    }
    let file = path.display().to_string();
    match context.output.json {
        true => context.output.document(&json!({"file": file, "bytes": bytes})),
        false => context.output.line(format!("{} in {file}", print::count(bytes, "byte"))),
    }
}

fn apply(context: &mut Context, path: &Path, reverse: bool) -> Result<()> {
    let name = path.display().to_string();
    let mut file: Box<dyn Read + Send> = match path == Path::new("-") {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(path).map_err(|error| Failure::file(&name, &error))?),
    };
    let mut backend = context.backend()?;
    let done = match reverse {
        false => backend.apply_patch(&name, &mut file)?,
        true => apply_reversed(&mut backend, &name, &mut file)?,
    };
    let counts = json!({
        "tables": done.tables,
        "inserted": done.inserted,
        "updated": done.updated,
        "deleted": done.deleted,
    });
    let line = format!("{} inserted, {} updated, {} deleted", done.inserted, done.updated, done.deleted);
    context.done(&line, counts, &done.token)
}

/// Turns the patch around while it is applied.
fn apply_reversed(
    backend: &mut Backend,
    name: &str,
    file: &mut (dyn Read + Send),
) -> Result<ApplyPatchResponse> {
    let pipe = |error: io::Error| Failure::refused(format!("cannot make a pipe: {error}"));
    let (mut reader, mut writer) = io::pipe().map_err(pipe)?;
    std::thread::scope(|scope| {
        let turning = scope.spawn(move || pleach_engine::patch::invert(file, &mut writer));
        let applied = backend.apply_patch(name, &mut reader);
        drop(reader);
        match (turning.join(), applied) {
            (_, Ok(done)) => Ok(done),
            // What cannot be written is what nobody reads any more.
            (Ok(Err(error)), Err(_)) if !matches!(error, pleach_engine::Error::Output { .. }) => {
                Err(error.into())
            }
            (_, Err(failure)) => Err(failure),
        }
    })
}

pub(super) fn revert(context: &mut Context, arguments: Revert) -> Result<()> {
    let mut backend = context.backend()?;
    let request = RevertRequest {
        target: backend.target(),
        revision: arguments.revision,
        message: arguments.message.unwrap_or_default(),
        author: history::author(arguments.author),
    };
    let made = backend.revert(request)?;
    let line = format!("{} on {}", made.hash, made.branch);
    context.done(&line, json!({"hash": made.hash, "branch": made.branch, "root": made.root}), &made.token)
}
