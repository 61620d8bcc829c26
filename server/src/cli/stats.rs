//! stats and chunk cat.

use pleach_engine::{Chunk, Hash};
use pleach_protocol::{Credential, Remote, RemoteUrl, get};
use serde_json::{Value, json};

use super::args::After;
use super::backend::Backend;
use super::{Context, backend, print, tables, tokens};
use crate::error::{Failure, Result};
use crate::proto::{ReplicationStats, StatsRequest};

pub(super) fn stats(context: &mut Context, after: &After) -> Result<()> {
    let mut backend = match (&context.global.server, &context.global.database) {
        // Replication of all its databases.
        (Some(_), None) => Backend::Remote(Box::new(context.server()?)),
        _ => context.backend()?,
    };
    let target = backend.target_after(after)?;
    let stats = backend.stats(StatsRequest { target })?;
    let is_of_server = context.global.server.is_some();
    let mut store: Vec<(String, u64)> = stats.store.into_iter().collect();
    store.sort();
    if context.output.json {
        let tables: Vec<Value> = stats.tables.iter().map(tables::to_json).collect();
        let store: serde_json::Map<String, Value> =
            store.into_iter().map(|(name, figure)| (name, figure.into())).collect();
        let files: Vec<Value> = stats
            .files
            .iter()
            .map(|file| json!({"kind": file.kind, "count": file.count, "bytes": file.bytes}))
            .collect();
        let failure = Some(stats.compaction_failure).filter(|failure| !failure.is_empty());
        let replication = stats.replication.iter().map(replication_to_json);
        let replication = is_of_server.then(|| replication.collect::<Vec<_>>());
        return context.output.document(&json!({
            "tables": tables,
            "files": files,
            "store": store,
            "compaction_failure": failure,
            "replication": replication,
        }));
    }
    for table in &stats.tables {
        context.output.line(format!("table {}\t{} rows\t{} bytes", table.name, table.rows, table.bytes))?;
    }
    for file in &stats.files {
        let files = print::count(file.count, &format!("{} file", file.kind));
        context.output.line(format!("{files}\t{} bytes", file.bytes))?;
    }
    for (name, figure) in store {
        context.output.line(format!("{name}\t{figure}"))?;
    }
    if !stats.compaction_failure.is_empty() {
        context.output.line(format!("compaction failed\t{}", stats.compaction_failure))?;
    }
    stats.replication.iter().try_for_each(|one| context.output.line(replication_line(one)))
}

fn replication_line(one: &ReplicationStats) -> String {
    let mut line = format!("{}\t{} {}", one.database, one.direction, one.remote);
    let lag =
        one.lag_millis.map_or("unknown".to_owned(), |millis| format!("{:.1} s", millis as f64 / 1000.0));
    line += &format!("\tlag {lag}");
    if let Some(commits) = one.lag_commits {
        line += &format!(", {}", print::count(commits, "commit"));
    }
    if let Some(bytes) = one.lag_bytes.filter(|bytes| *bytes > 0) {
        line += &format!(", {bytes} bytes");
    }
    if let Some(backlog) = one.backlog {
        line += &format!(", {} to push", print::count(backlog, "ref"));
    }
    if let (Some(done), Some(failures)) = (one.done, one.failures) {
        line += &format!("\t{done} done, {failures} failed");
    }
    if let Some(error) = &one.current_error {
        line += &format!("\t{error}");
    }
    line
}

fn replication_to_json(one: &ReplicationStats) -> Value {
    json!({
        "database": one.database,
        "remote": one.remote,
        "direction": one.direction,
        "lag_millis": one.lag_millis,
        "lag_commits": one.lag_commits,
        "lag_bytes": one.lag_bytes,
        "backlog": one.backlog,
        "done": one.done,
        "failures": one.failures,
        "bytes_sent": one.bytes_sent,
        "round_trips": one.round_trips,
        "last_update": one.last_update_micros.map(print::time),
        "current_error": one.current_error,
    })
}

/// Prints the chunk's bytes as they are hashed.
pub(super) fn chunk_cat(context: &mut Context, hash: &str) -> Result<()> {
    let address = hash.parse::<Hash>().map_err(|_| {
        Failure::usage(format!("expected 64 hexadecimal digits, found `{hash}`"))
            .hint("`pleach log --json` and `pleach commit --json` print addresses in full")
    })?;
    if context.global.server.is_some() {
        let chunk = from_server(context, &address)?;
        return context.output.bytes(chunk.bytes());
    }
    let database = context.local("chunk cat")?;
    match database.store().get(&address).map_err(pleach_engine::Error::from)? {
        Some(chunk) => context.output.bytes(chunk.bytes()),
        None => Err(Failure::not_found(format!("no chunk {address} in this database"))
            .hint("it may be in a remote: `pleach fetch`")),
    }
}

/// The chunk at `address`, as the server gives it to who may read the whole database, and checked.
fn from_server(context: &Context, address: &Hash) -> Result<Chunk> {
    let (Some(server), Some(database)) = (&context.global.server, &context.global.database) else {
        return Err(Failure::usage("--server needs --database NAME"));
    };
    let name = database.split_once('@').map_or(database.as_str(), |(name, _)| name);
    let url = RemoteUrl::parse(&format!("{}/{name}", server.trim_end_matches('/')))?;
    let tls = url
        .host()
        .map(|host| context.credentials().map(|credentials| credentials.of(host).tls))
        .transpose()?;
    let token = tokens::token(&context.global)?;
    let url = url.with_credential(Credential { token, tls: tls.unwrap_or_default() });
    let asked = async { get(&Remote::connect(&url).await?, &[*address]).await };
    let chunk = backend::runtime()?.block_on(asked)?.pop();
    chunk.ok_or_else(|| Failure::not_found(format!("{url}: no chunk {address}")))
}
