//! Upkeep: fsck and repair, collection of garbage, backups. Of one database, which stays in use meanwhile.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use pleach_engine::backup::{Backup, Of, Point, Synced};
use pleach_engine::fsck::{Damage, Report};
use pleach_engine::{Database, KINDS, KeepFor, Observer, Options, Store, StoreError};
use pleach_protocol::{Credentials, Part, Remote, RemoteUrl, clone_database};

use super::{Session, server_backup};
use crate::error::{Failure, Kind, Result};
use crate::proto::{self, *};

/// The directory that a URL names.
///
/// # Errors
/// Any other kind of URL: the failure says what is possible.
pub fn directory(url: &str) -> Result<PathBuf> {
    let possible = "name a directory: file:///PATH";
    let Some(path) = url.strip_prefix("file://") else {
        let failure = match url.split_once("://") {
            Some((scheme @ ("s3" | "gs" | "az" | "http" | "https"), _)) => {
                Failure::usage(format!("{scheme}:// is not supported here yet: `{url}`"))
            }
            _ => Failure::usage(format!("expected a URL file:///PATH, found `{url}`")),
        };
        return Err(failure.hint(possible));
    };
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(
            Failure::usage(format!("expected an absolute path without `..`, found `{url}`")).hint(possible)
        );
    }
    Ok(PathBuf::from(path))
}

/// Checks every chunk; with `repair_from`, brings back what is damaged and checks again. `credentials` finds what to show to a remote.
pub fn fsck(
    session: &Session,
    request: &FsckRequest,
    credentials: &dyn Fn() -> Result<Credentials>,
) -> Result<FsckResponse> {
    let database = &session.database;
    let report = database.fsck()?;
    if request.repair_from.is_empty() || report.damages.is_empty() {
        return Ok(to_message(report, 0));
    }
    let source = RepairSource::open(database, &request.repair_from, credentials)?;
    let repaired = database.repair(&report, &|hash| source.store().get(hash))?;
    Ok(to_message(database.fsck()?, repaired.chunks))
}

/// Where whole chunks come from.
enum RepairSource {
    Directory(Store),
    /// A clone that was made for it.
    Clone(Database, #[expect(dead_code, reason = "removed when dropped")] tempfile::TempDir),
}

impl RepairSource {
    fn open(
        database: &Database,
        from: &str,
        credentials: &dyn Fn() -> Result<Credentials>,
    ) -> Result<RepairSource> {
        let url = match from.contains("://") {
            true => from.to_owned(),
            false => database.setting(&format!("remote.{from}.url"))?.ok_or_else(|| {
                Failure::not_found(format!("no remote `{from}`")).hint(
                    "`pleach remote list` shows them; file:///PATH names a database or backup on this machine",
                )
            })?,
        };
        if from.starts_with("file://") {
            let dir = directory(&url)?;
            // A remote in a directory is cloned as any other.
            if !dir.join("format").is_file() {
                return Ok(RepairSource::Directory(Store::open(&dir, Options::default())?));
            }
        }
        // What its branches and tags reach: uncommitted work is in no clone.
        let url: RemoteUrl = credentials()?.authorize(url.parse()?);
        let dir = tempfile::tempdir().map_err(|error| Failure::file("the temporary directory", &error))?;
        let runtime = crate::cli::runtime()?;
        let clone = dir.path().join("clone");
        let cloned = runtime.block_on(async {
            let remote = Remote::connect(&url).await?;
            clone_database(&remote, &clone, Options::default(), &Part::default()).await
        })?;
        Ok(RepairSource::Clone(cloned.0, dir))
    }

    fn store(&self) -> &Store {
        match self {
            RepairSource::Directory(store) => store,
            RepairSource::Clone(database, _) => database.store(),
        }
    }
}

fn to_message(report: Report, repaired: u64) -> FsckResponse {
    let damage = |damage: Damage| proto::Damage {
        file: damage.file,
        offset: damage.offset,
        hash: damage.hash.to_string(),
        what: damage.what,
        traced: damage.needed_by.is_some(),
        needed_by: damage.needed_by.unwrap_or_default(),
    };
    let Report { chunks, bytes, refs, promised, damages } = report;
    let damages = damages.into_iter().map(damage).collect();
    FsckResponse { chunks, bytes, refs, damages, repaired, promised }
}

/// Bytes of a store that is compacted whole: about the longest table.
const COMPACTED_WHOLE_MAX: u64 = 256 << 20;

/// Drops what was kept under `recovery/` for longer than `keep_for`, removes what nothing leads to, and compacts what stays.
pub fn gc(session: &Session, request: &GcRequest, keep_for: &KeepFor) -> Result<GcResponse> {
    let (database, store) = (&session.database, session.database.store());
    let purged = match request.purge.as_str() {
        "" => String::new(),
        name => database.drop_kept(name)?.hash.to_string(),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let expired = match request.dry_run {
        true => database.expired(keep_for, now).len() as u64,
        false => database.drop_expired(keep_for, now)?,
    };
    let bytes = || {
        let stats = store.stats();
        stats.journal_bytes + stats.table_bytes
    };
    let bytes_before = bytes();
    let collected = store.collect(request.dry_run)?;
    let mut response = GcResponse {
        live_chunks: collected.live_chunks,
        dead_chunks: collected.dead_chunks,
        bytes_before,
        // Of a dry run, what it expects.
        bytes_after: collected.bytes_after,
        files_rewritten: collected.files_rewritten,
        purged,
        expired,
    };
    let stats = store.stats();
    // One table, and a journal that was just begun, are as compact as can be; held files go with the journal that needs them. Of a store
    // that does not fit in one table only what is due is rewritten: all of it would cost its size, each time.
    let is_compact = stats.journals + stats.tables <= 2 + stats.held_files;
    if !request.dry_run && !is_compact {
        if bytes() <= COMPACTED_WHOLE_MAX {
            response.files_rewritten += store.compact()?.files_before;
        } else {
            while store.maintain()? {}
        }
    }
    if !request.dry_run {
        response.bytes_after = bytes();
    }
    Ok(response)
}

/// Adds a point in time to the backup at the URL, which is made if absent.
pub fn backup_sync(session: &Session, request: &BackupSyncRequest) -> Result<BackupSyncResponse> {
    let backup = Backup::open_or_create(&directory(&request.url)?).map_err(of_backup)?;
    let time = next_time(&backup);
    let synced = backup.sync(session.database.store(), &time, KINDS).map_err(of_backup)?;
    end_sync(backup, synced)
}

/// Now, as the time of a new point.
pub(super) fn next_time(backup: &Backup) -> String {
    let mut time = jiff::Timestamp::now();
    // Another point may have been made within the microsecond.
    while backup.has(&time_text(time)) {
        time = jiff::Timestamp::from_microsecond(time.as_microsecond() + 1).unwrap_or(time);
    }
    time_text(time)
}

pub(super) fn end_sync(backup: Backup, synced: Synced) -> Result<BackupSyncResponse> {
    backup.close().map_err(of_backup)?;
    let point = Some(point_to_message(&synced.point));
    Ok(BackupSyncResponse { point, chunks: synced.chunks, bytes_written: synced.bytes_written })
}

/// The points in time of the backup at the URL.
pub fn backup_list(request: &BackupListRequest) -> Result<BackupListResponse> {
    let points = open(&request.url)?.points().map_err(of_backup)?;
    Ok(BackupListResponse { points: points.iter().map(point_to_message).collect() })
}

/// Makes `dir` a database as it was at a point in time; or, of a server's backup, if none of its databases is named, a directory of all of them.
pub fn backup_restore(
    request: &BackupRestoreRequest,
    dir: &Path,
    force: bool,
    observer: Option<&Observer>,
) -> Result<BackupRestoreResponse> {
    let backup = observed(open(&request.url)?, observer);
    let mut point = point_at(&backup, &request.at)?;
    let made = request.target.as_ref().map(|target| target.database.as_str());
    match (&point.of, request.from.as_str(), made) {
        (Of::One(_), "", _) => {}
        (Of::One(_), from, _) => {
            return Err(Failure::usage(format!("--from {from}: the backup is of one database"))
                .hint("leave --from out"));
        }
        (Of::Several(_), "", None) => return server_backup::restore_all(&backup, &point, dir, force),
        (Of::Several(_), "", Some(name)) | (Of::Several(_), name, _) => {
            point = server_backup::of_database(&point, name)?;
        }
    }
    let restored = backup.restore_dir(&point, dir, force, KINDS).map_err(|error| match error {
        StoreError::AlreadyExists { dir } => Failure::exists(format!("{dir} holds a database already"))
            .hint("--force replaces it; it is kept until the restored one is in its place"),
        StoreError::NotEmpty { dir } => Failure::exists(format!("{dir} is not empty, and holds no database"))
            .hint("choose another directory"),
        StoreError::Locked { dir, pid, host } => {
            Failure::refused(format!("{dir} is in use by process {pid} on {host}"))
                .hint("stop that process first")
        }
        other => of_backup(other),
    })?;
    let point = Some(point_to_message(&point));
    Ok(BackupRestoreResponse { point, chunks: restored.chunks, bytes_written: restored.bytes_written })
}

/// Checks every chunk of the backup at the URL, and every point.
pub fn backup_verify(
    request: &BackupVerifyRequest,
    observer: Option<&Observer>,
) -> Result<BackupVerifyResponse> {
    let backup = match Backup::open(&directory(&request.url)?) {
        // Damage that keeps it from opening is damage that was found.
        Err(StoreError::Damaged { file, offset, hash, what }) => {
            let hash = super::hex(hash);
            let damage = proto::Damage { file, offset, hash, what, ..proto::Damage::default() };
            let report = FsckResponse { damages: vec![damage], ..FsckResponse::default() };
            return Ok(BackupVerifyResponse { points: 0, report: Some(report) });
        }
        opened => observed(opened.map_err(of_backup)?, observer),
    };
    let report = backup.verify(KINDS).map_err(of_backup)?;
    let points = backup.store().refs("backups/").len() as u64;
    Ok(BackupVerifyResponse { points, report: Some(to_message(report, 0)) })
}

fn observed(backup: Backup, observer: Option<&Observer>) -> Backup {
    match observer {
        Some(observer) => backup.observed(observer),
        None => backup,
    }
}

fn open(url: &str) -> Result<Backup> {
    Backup::open(&directory(url)?).map_err(of_backup)
}

/// The last point at or before `at`; the last of all if that is empty.
fn point_at(backup: &Backup, at: &str) -> Result<Point> {
    let mut points = backup.points().map_err(of_backup)?;
    let none = || {
        Failure::not_found("the backup has no point in time yet").hint("`pleach backup sync URL` makes one")
    };
    let first = points.first().map(|point| point.time.clone()).ok_or_else(none)?;
    if !at.is_empty() {
        let time: jiff::Timestamp = at.parse().map_err(|_| {
            Failure::usage(format!("--at: expected a time as RFC 3339, found `{at}`"))
                .hint("for example 2026-11-21T06:13:00Z; `pleach backup list URL` shows the points")
        })?;
        // A time is as long as it is precise: what was taken within its last digit counts.
        let last = time_text(time);
        points.retain(|point| point.time <= last);
    }
    points.pop().ok_or_else(|| {
        Failure::not_found(format!("no point in time at or before {at}: the first is {first}"))
            .hint("`pleach backup list URL` shows them all")
    })
}

fn time_text(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

pub(super) fn point_to_message(point: &Point) -> BackupPoint {
    let database = |(database, alone): (String, Point)| BackupDatabase {
        database,
        digest: alone.digest().to_string(),
        refs: alone.refs.len() as u64,
    };
    BackupPoint {
        time: point.time.clone(),
        digest: point.digest().to_string(),
        refs: point.refs.len() as u64,
        bytes: point.bytes,
        of_server: matches!(point.of, Of::Several(_)),
        databases: point.stores().into_iter().map(database).collect(),
    }
}

/// A failure of the backup's store, not of the database's.
pub(super) fn of_backup(error: StoreError) -> Failure {
    let failure = match &error {
        StoreError::OtherKindOfBackup { dir, holds: "one store", .. } => {
            return Failure::refused(format!("{dir} holds a backup of one database, not of a server"))
                .hint("choose another place for the server's, or name the database with --database");
        }
        StoreError::OtherKindOfBackup { dir, .. } => {
            return Failure::refused(format!("{dir} holds a backup of a whole server, not of one database"))
                .hint("choose another place for the database's, or leave --database out");
        }
        StoreError::PartialSource { name } => {
            return Failure::refused(format!("database `{name}` is a partial clone, which a backup of a whole server cannot hold"))
                .hint("back up that one by itself with --database, and move it to another server; or replace it by a whole clone");
        }
        StoreError::NotFound { dir } => {
            return Failure::not_found(format!("no backup in {dir}"))
                .hint("`pleach backup sync URL` begins one");
        }
        StoreError::Locked { dir, pid, host } => {
            return Failure::refused(format!("the backup in {dir} is in use by process {pid} on {host}"))
                .hint("one backup at a time can be made into it: try again when that one is done");
        }
        _ => Failure::from(error),
    };
    match failure.kind {
        Kind::Damaged => failure.hint("`pleach backup verify URL` shows what is damaged"),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_file_url_is_an_absolute_path_and_others_say_what_is_possible() {
        assert_eq!(directory("file:///a/b c").unwrap(), Path::new("/a/b c"));
        for url in ["s3://bucket/x", "http://h:1/db", "file://host/a", "file:///a/../b", "/a", "a", ""] {
            let failure = directory(url).unwrap_err();
            assert_eq!(failure.kind, Kind::Usage, "{url}");
            assert!(failure.hint.unwrap().contains("file:///PATH"), "{url}");
        }
    }

    #[test]
    fn times_of_points_have_one_length() {
        for micros in [0, 1, 1_500_000] {
            assert_eq!(time_text(jiff::Timestamp::from_microsecond(micros).unwrap()).len(), 27);
        }
    }
}
