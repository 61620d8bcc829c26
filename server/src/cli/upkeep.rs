//! fsck, gc, and backups.

use std::path::PathBuf;

use pleach_engine::KeepFor;
use serde_json::{Value, json};

use super::args::Backup;
use super::backend::{Backend, Remote};
use super::{Context, print};
use crate::error::{Failure, Result};
use crate::ops::upkeep as ops;
use crate::proto::*;

/// A call with one answer, on a server.
macro_rules! call {
    ($remote:expr, $name:ident, $request:expr) => {{
        let remote: &mut Remote = &mut $remote;
        let answer = remote.runtime.block_on(remote.client.$name($request));
        answer.map(tonic::Response::into_inner).map_err(|status| Failure::from_status(&status))
    }};
}

pub(super) fn fsck(context: &mut Context, repair_from: Option<String>) -> Result<()> {
    let mut backend = context.backend()?;
    let request = FsckRequest { target: backend.target(), repair_from: repair_from.unwrap_or_default() };
    let progress = context.output.progress("fsck");
    progress.watch(&mut backend);
    let report = match &mut backend {
        Backend::Local(session) => {
            let credentials = || context.credentials();
            ops::fsck(session, &request, &credentials)
        }
        Backend::Remote(remote) => call!(*remote, fsck, request.clone()),
    }?;
    drop(progress);
    if context.output.json {
        context.output.document(&report_to_json(&report))?;
    } else {
        damages(context, &report)?;
        let repaired = match report.repaired {
            0 => String::new(),
            chunks => format!(", {} repaired", print::count(chunks, "chunk")),
        };
        let promised = match report.promised {
            0 => String::new(),
            chunks => format!(", {} not in this partial clone", print::count(chunks, "chunk")),
        };
        let refs = print::count(report.refs, "ref");
        context.output.line(format!(
            "{}, {} bytes, {refs}: {}{repaired}{promised}",
            print::count(report.chunks, "chunk"),
            report.bytes,
            print::count(report.damages.len() as u64, "damage"),
        ))?;
    }
    if report.damages.is_empty() {
        return Ok(());
    }
    let what = print::count(report.damages.len() as u64, "chunk");
    let failure = Failure::damaged(format!("{what} of the database are damaged or missing"));
    Err(match request.repair_from.as_str() {
        "" => failure.hint(
            "`pleach fsck --repair-from REMOTE` brings back what a remote, another copy or a backup has",
        ),
        from => failure.hint(format!("`{from}` does not have them: name another copy, or restore a backup")),
    })
}

fn damages(context: &mut Context, report: &FsckResponse) -> Result<()> {
    for damage in &report.damages {
        let place = match damage.file.as_str() {
            "" => String::new(),
            file => format!("{file} byte {}: ", damage.offset),
        };
        let needed = match (damage.traced, damage.needed_by.is_empty()) {
            (false, _) => String::new(),
            (true, true) => "; nothing needs it: `pleach gc` removes it".to_owned(),
            (true, false) => format!("; needed by {}", damage.needed_by.join(", ")),
        };
        let chunk = match damage.hash.as_str() {
            "" => String::new(),
            hash => format!("chunk {hash}: "),
        };
        context.output.line(format!("{place}{chunk}{}{needed}", damage.what))?;
    }
    Ok(())
}

fn report_to_json(report: &FsckResponse) -> Value {
    let damage = |damage: &Damage| {
        json!({
            "file": (!damage.file.is_empty()).then_some(&damage.file),
            "offset": (!damage.file.is_empty()).then_some(damage.offset),
            "hash": print::hash(&damage.hash),
            "what": damage.what,
            "needed_by": damage.traced.then_some(&damage.needed_by),
        })
    };
    json!({
        "chunks": report.chunks,
        "bytes": report.bytes,
        "refs": report.refs,
        "damages": report.damages.iter().map(damage).collect::<Vec<_>>(),
        "repaired": report.repaired,
        "promised": report.promised,
    })
}

pub(super) fn gc(context: &mut Context, dry_run: bool, purge: Option<String>) -> Result<()> {
    let mut backend = context.backend()?;
    let request = GcRequest { target: backend.target(), dry_run, purge: purge.unwrap_or_default() };
    let progress = context.output.progress("gc");
    progress.watch(&mut backend);
    let done = match &mut backend {
        Backend::Local(session) => ops::gc(session, &request, &KeepFor::default()),
        Backend::Remote(remote) => call!(*remote, gc, request.clone()),
    }?;
    drop(progress);
    if context.output.json {
        return context.output.document(&json!({
            "dry_run": dry_run,
            "live_chunks": done.live_chunks,
            "dead_chunks": done.dead_chunks,
            "bytes_before": done.bytes_before,
            "bytes_after": done.bytes_after,
            "files_rewritten": done.files_rewritten,
            "purged": print::hash(&done.purged),
            "expired": done.expired,
        }));
    }
    if !done.purged.is_empty() {
        context.output.line(format!("dropped {}, which was {}", request.purge, done.purged))?;
    }
    if done.expired > 0 {
        let refs = print::count(done.expired, "ref");
        let (what, until) =
            if dry_run { ("to drop", "is kept until then") } else { ("dropped", "may go now") };
        context.output.line(format!(
            "{refs} under recovery/ {what}, which were kept for long enough: what they reached {until}"
        ))?;
    }
    let (live, dead) = (print::count(done.live_chunks, "chunk"), done.dead_chunks);
    if dry_run {
        return context.output.line(format!("{live} in use, {dead} not"));
    }
    let files = print::count(done.files_rewritten, "file");
    let (before, after) = (done.bytes_before, done.bytes_after);
    context.output.line(format!(
        "{live} in use, {dead} removed; {files} rewritten, {before} bytes before, {after} after"
    ))
}

pub(super) fn backup(context: &mut Context, arguments: Backup) -> Result<()> {
    match arguments {
        Backup::Sync { url } => sync(context, url),
        Backup::List { url } => list(context, url),
        Backup::Restore { url, directory, at, force, from } => {
            let request = BackupRestoreRequest {
                target: None,
                url,
                at: at.unwrap_or_default(),
                from: from.unwrap_or_default(),
            };
            restore(context, request, directory, force)
        }
        Backup::Verify { url } => verify(context, url),
    }
}

fn sync(context: &mut Context, url: String) -> Result<()> {
    let mut backend = match (&context.global.server, &context.global.database) {
        // All databases of it.
        (Some(_), None) => Backend::Remote(Box::new(context.server()?)),
        _ => context.backend()?,
    };
    let request = BackupSyncRequest { target: backend.target(), url };
    let progress = context.output.progress("backup");
    progress.watch(&mut backend);
    let done = match &mut backend {
        Backend::Local(session) => ops::backup_sync(session, &request),
        Backend::Remote(remote) => call!(*remote, backup_sync, request),
    }?;
    drop(progress);
    let point = done.point.unwrap_or_default();
    if context.output.json {
        let mut document = point_to_json(&point);
        document["chunks"] = done.chunks.into();
        document["bytes_written"] = done.bytes_written.into();
        return context.output.document(&document);
    }
    let (chunks, refs) = (print::count(done.chunks, "chunk"), refs(&point));
    context.output.line(format!(
        "{}: state {}, {refs}; {chunks} copied, {} bytes written",
        point.time, point.digest, done.bytes_written
    ))
}

fn list(context: &mut Context, url: String) -> Result<()> {
    let request = BackupListRequest { url };
    let points = match context.global.server {
        None => ops::backup_list(&request),
        Some(_) => call!(context.server()?, backup_list, request),
    }?;
    if context.output.json {
        let points: Vec<Value> = points.points.iter().map(point_to_json).collect();
        return context.output.document(&json!({"points": points}));
    }
    points.points.iter().try_for_each(|point| {
        let refs = refs(point);
        context.output.line(format!("{}\t{}\t{refs}\t{} bytes", point.time, point.digest, point.bytes))
    })
}

/// How much a point is of.
fn refs(point: &BackupPoint) -> String {
    let refs = print::count(point.refs, "ref");
    match point.of_server {
        true => format!("{}, {refs}", print::count(point.databases.len() as u64, "database")),
        false => refs,
    }
}

/// `databases` is null for a point of one database.
fn point_to_json(point: &BackupPoint) -> Value {
    let database =
        |one: &BackupDatabase| json!({"database": one.database, "digest": one.digest, "refs": one.refs});
    let databases = point.of_server.then(|| point.databases.iter().map(database).collect::<Vec<_>>());
    json!({"time": point.time, "digest": point.digest, "refs": point.refs, "bytes": point.bytes, "databases": databases})
}

fn restore(
    context: &mut Context,
    mut request: BackupRestoreRequest,
    directory: Option<PathBuf>,
    force: bool,
) -> Result<()> {
    let progress = context.output.progress("restoring");
    let (done, place) = match (&context.global.server, directory) {
        (None, Some(directory)) => {
            let observer = progress.observer();
            let done = ops::backup_restore(&request, &directory, force, observer.as_ref())?;
            (done, json!({"directory": directory.display().to_string()}))
        }
        (None, None) => {
            return Err(Failure::usage("restore needs a directory").hint(
                "`pleach backup restore URL DIR`: a new directory, or with --force a database to replace",
            ));
        }
        (Some(_), Some(_)) => {
            return Err(Failure::usage("with --server, --database NAME names the database that is made")
                .hint("leave the directory out"));
        }
        (Some(_), None) if force => {
            return Err(Failure::usage("--force replaces a local database only")
                .hint("restore under another name, or drop the database there first"));
        }
        (Some(_), None) => {
            let Some(name) = context.global.database.clone() else {
                return Err(Failure::usage("restore with --server needs --database NAME")
                    .hint("a name that is free there"));
            };
            request.target = Some(Target { database: name.clone(), ..Target::default() });
            (call!(context.server()?, backup_restore, request)?, json!({"database": name}))
        }
    };
    drop(progress);
    let point = done.point.unwrap_or_default();
    if context.output.json {
        let mut document = point_to_json(&point);
        for (key, value) in place.as_object().into_iter().flatten() {
            document[key] = value.clone();
        }
        document["chunks"] = done.chunks.into();
        document["bytes_written"] = done.bytes_written.into();
        return context.output.document(&document);
    }
    let place = place.as_object().and_then(|place| place.values().next()?.as_str().map(str::to_owned));
    let (chunks, refs) = (print::count(done.chunks, "chunk"), refs(&point));
    context.output.line(format!(
        "{} as of {}: state {}, {refs}, {chunks}",
        place.unwrap_or_default(),
        point.time,
        point.digest
    ))
}

fn verify(context: &mut Context, url: String) -> Result<()> {
    let request = BackupVerifyRequest { url };
    let progress = context.output.progress("verifying");
    let verified = match context.global.server {
        None => ops::backup_verify(&request, progress.observer().as_ref()),
        Some(_) => call!(context.server()?, backup_verify, request),
    }?;
    drop(progress);
    let report = verified.report.unwrap_or_default();
    if context.output.json {
        let mut document = report_to_json(&report);
        document["points"] = verified.points.into();
        context.output.document(&document)?;
    } else {
        damages(context, &report)?;
        context.output.line(format!(
            "{}, {}, {} bytes: {}",
            print::count(verified.points, "point"),
            print::count(report.chunks, "chunk"),
            report.bytes,
            print::count(report.damages.len() as u64, "damage"),
        ))?;
    }
    match report.damages.len() {
        0 => Ok(()),
        count => Err(Failure::refused(format!("{} in the backup", print::count(count as u64, "damage")))
            .hint(
                "make a new backup elsewhere while the database is whole; the points that are named are not",
            )),
    }
}
