//! remote compact, remote collect: upkeep of remotes where nobody answers. A server looks after its database itself.

use std::time::Duration;

use pleach_engine::Database;
use pleach_protocol::limits::RETIRED_GRACE;
use pleach_protocol::{Compacted, Remote, collect_remote, compact_remote};
use serde_json::json;

use super::args::PacksOf;
use super::{Context, backend, print, remotes};
use crate::error::Result;

pub(super) fn compact(context: &mut Context, database: &Database, of: &PacksOf) -> Result<()> {
    let url = remotes::url_of(context, database, &of.name)?;
    let progress = context.output.progress(format!("compacting {url}"));
    let done = backend::runtime()?.block_on(async {
        let remote = Remote::connect(&url).await?;
        let done = compact_remote(&remote, grace(of)).await?;
        swept(&remote, of, done).await
    })?;
    drop(progress);
    report(context, &done)
}

pub(super) fn collect(context: &mut Context, database: &Database, of: &PacksOf) -> Result<()> {
    let url = remotes::url_of(context, database, &of.name)?;
    let progress = context.output.progress(format!("collecting {url}"));
    let done = backend::runtime()?.block_on(async {
        let remote = Remote::connect(&url).await?;
        let done = collect_remote(database, &remote, grace(of)).await?;
        swept(&remote, of, done).await
    })?;
    drop(progress);
    report(context, &done)
}

fn grace(of: &PacksOf) -> Duration {
    if of.now { Duration::ZERO } else { RETIRED_GRACE }
}

/// What was done, and with `--now` the packs removed that were only noted.
async fn swept(remote: &Remote, of: &PacksOf, done: Compacted) -> pleach_protocol::Result<Compacted> {
    if !of.now || done.retired == 0 {
        return Ok(done);
    }
    let swept = compact_remote(remote, Duration::ZERO).await?;
    let (bytes_written, removed) = (done.bytes_written + swept.bytes_written, done.removed + swept.removed);
    Ok(Compacted { bytes_written, removed, ..swept })
}

fn report(context: &mut Context, done: &Compacted) -> Result<()> {
    if context.output.json {
        return context.output.document(&json!({
            "packs": done.packs,
            "bytes_written": done.bytes_written,
            "retired": done.retired,
            "removed": done.removed,
        }));
    }
    let (packs, bytes) = (print::count(done.packs as u64, "pack"), done.bytes_written);
    let (retired, removed) = (done.retired, done.removed);
    context
        .output
        .line(format!("{packs}, {bytes} bytes written; {retired} to be removed later, {removed} removed"))
}
