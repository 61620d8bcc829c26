//! Backups of a whole server: all its databases as they were at one moment.
//!
//! One idea: a store shows its durable refs, and while those of all databases are looked at together none of them changes; so what a backup has of each is what all were at that
//! moment. Nothing is copied then: what the refs lead to is kept from collection, and copied while writes go on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use pleach_engine::backup::{Backup, Moment, Point, Restored};
use pleach_engine::{KINDS, Options, Store};
use pleach_protocol::{Databases, check_database_name};

use super::upkeep::{directory, end_sync, next_time, of_backup, point_to_message};
use crate::error::{Failure, Result};
use crate::proto::{BackupRestoreResponse, BackupSyncRequest, BackupSyncResponse};

/// Adds a point in time of all databases to the backup at the URL, which is made if absent.
pub fn sync(databases: &Databases, request: &BackupSyncRequest) -> Result<BackupSyncResponse> {
    let backup = Backup::open_or_create(&directory(&request.url)?).map_err(of_backup)?;
    let (time, moment) = loop {
        let generation = databases.generation();
        let all = open_all(databases)?;
        // What was made or dropped while others were opened is in the point, or not, as it is at the moment of all.
        let taken = databases.unchanged_since(generation, || (next_time(&backup), Moment::of(all)));
        if let Some((time, moment)) = taken {
            break (time, moment.map_err(of_backup)?);
        }
    };
    let synced = backup.sync_all(&moment, &time, KINDS).map_err(of_backup)?;
    end_sync(backup, synced)
}

fn open_all(databases: &Databases) -> Result<Vec<(String, Store)>> {
    let mut all = Vec::new();
    for name in databases.list()? {
        let opened = databases.get(&name).map_err(|error| {
            let mut failure = Failure::from(error);
            failure.message =
                format!("database `{name}`, without which there is no backup of all: {}", failure.message);
            failure
        })?;
        all.extend(opened.map(|database| (name, database.store().clone())));
    }
    Ok(all)
}

/// The database called `name` of a point of a server, as a point of it alone.
pub(super) fn of_database(point: &Point, name: &str) -> Result<Point> {
    let mut databases = point.stores();
    databases.remove(name).ok_or_else(|| {
        let names: Vec<String> = databases.into_keys().take(20).collect();
        let failure = Failure::not_found(format!("no database `{name}` in the backup at {}", point.time));
        failure.hint(match names.is_empty() {
            true => "there was none at all; --at TIME names another point".to_owned(),
            false => format!("choose with --from: {}; or another point with --at TIME", names.join(", ")),
        })
    })
}

/// Makes `dir`, which is absent or empty, a data directory with all databases of a point. It is made beside it and renamed when it is whole. What a restore that was cut has
/// restored there is not restored again.
pub(super) fn restore_all(
    backup: &Backup,
    point: &Point,
    dir: &Path,
    force: bool,
) -> Result<BackupRestoreResponse> {
    if force {
        return Err(Failure::usage("--force replaces a database, and this is the backup of a whole server")
            .hint("restore into a new directory, or one database with --from NAME"));
    }
    let file = |path: &Path, error: std::io::Error| Failure::file(path.display(), &error);
    let dir = std::path::absolute(dir).map_err(|error| file(dir, error))?;
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Err(
            Failure::exists(format!("{} is no new directory", dir.display())).hint("choose another one")
        );
    };
    let is_free = match std::fs::read_dir(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        entries => entries.map_err(|error| file(&dir, error))?.next().is_none(),
    };
    if !is_free {
        return Err(Failure::exists(format!("{} is not empty", dir.display())).hint(
            "all databases of a server are restored into a new directory; one of them with --from NAME",
        ));
    }
    let unfinished = parent.join(format!(".{}.restoring", name.to_string_lossy()));
    std::fs::create_dir_all(&unfinished).map_err(|error| file(&unfinished, error))?;
    let databases = point.stores();
    remove_others(&unfinished, &databases.keys().map(String::as_str).collect())?;
    let mut all = Restored { chunks: 0, bytes_written: 0 };
    for (name, alone) in &databases {
        // It becomes a path.
        check_database_name(name)?;
        let place = unfinished.join(name);
        if !is_restored(&place, alone) {
            let restored = backup.restore_dir(alone, &place, true, KINDS).map_err(of_backup)?;
            all.chunks += restored.chunks;
            all.bytes_written += restored.bytes_written;
        }
    }
    std::fs::rename(&unfinished, &dir).map_err(|error| file(&dir, error))?;
    let sync = || std::fs::File::open(parent)?.sync_all();
    sync().map_err(|error| file(parent, error))?;
    let point = Some(point_to_message(point));
    Ok(BackupRestoreResponse { point, chunks: all.chunks, bytes_written: all.bytes_written })
}

/// Whether `dir` holds the state of the point, whole.
fn is_restored(dir: &Path, point: &Point) -> bool {
    let opened = Store::open(dir, Options::default());
    let has = |store: &Store| store.refs("").into_iter().eq(point.refs.clone());
    let is_there = opened.as_ref().is_ok_and(has);
    opened.and_then(Store::close).is_ok() && is_there
}

/// Removes what an earlier restore, of another point, left beside these databases.
fn remove_others(dir: &Path, names: &BTreeSet<&str>) -> Result<()> {
    let unreadable = |error: std::io::Error| Failure::file(dir.display(), &error);
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path: PathBuf = entry.map_err(unreadable)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let of = name.strip_prefix('.').and_then(|rest| rest.strip_suffix(".restoring")).unwrap_or(&name);
        if !names.contains(of) {
            std::fs::remove_dir_all(&path).map_err(|error| Failure::file(path.display(), &error))?;
        }
    }
    Ok(())
}
