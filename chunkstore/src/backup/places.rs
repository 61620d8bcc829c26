//! Where a store is restored to.
//!
//! One idea: it is made beside its place, under `.NAME.restoring`, and renamed when it is whole and durable; a store that is there before is
//! `.NAME.replaced` until then. A crash leaves one or the other in its place, or, between the two renames, both beside it: then the restore
//! is run again.

use std::fs;
use std::path::{Path, PathBuf};

use super::options;
use crate::error::{Error, Result};
use crate::store::Store;

/// The directory that a store is restored to, and those beside it that are used meanwhile.
pub(super) struct Places {
    dir: PathBuf,
    parent: PathBuf,
    /// The new store while it is made.
    new: PathBuf,
    /// The old one while the new one takes its place.
    old: PathBuf,
}

/// What is in the directory.
pub(super) enum There {
    Nothing,
    /// A store; open, so that nobody uses it meanwhile, unless it is damaged.
    Store(Option<Box<Store>>),
}

impl Places {
    pub(super) fn of(dir: &Path) -> Result<Places> {
        let at = dir.display().to_string();
        let dir = std::path::absolute(dir).map_err(Error::io("find", &at))?;
        let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
            return Err(Error::NotEmpty { dir: at });
        };
        let beside = |what: &str| parent.join(format!(".{}.{what}", name.to_string_lossy()));
        let (new, old, parent) = (beside("restoring"), beside("replaced"), parent.to_owned());
        Ok(Places { new, old, parent, dir })
    }

    /// What is there to be replaced; refuses what must stay.
    pub(super) fn look(&self, force: bool) -> Result<There> {
        let at = self.dir.display().to_string();
        let is_empty = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
            entries => entries.map_err(Error::io("list", &at))?.next().is_none(),
        };
        if is_empty {
            return Ok(There::Nothing);
        }
        // One that is damaged is a store too: the more reason to restore it.
        match Store::open(&self.dir, options()) {
            Err(Error::NotFound { .. }) => Err(Error::NotEmpty { dir: at }),
            Err(error @ Error::Locked { .. }) => Err(error),
            _ if !force => Err(Error::AlreadyExists { dir: at }),
            Ok(store) => Ok(There::Store(Some(Box::new(store)))),
            Err(_) => Ok(There::Store(None)),
        }
    }

    /// The store that is being made: where a restore that was cut left off, or a new one.
    pub(super) fn unfinished(&self) -> Result<Store> {
        match Store::open(&self.new, options()) {
            Ok(store) if store.refs("").is_empty() => return Ok(store),
            Err(error @ Error::Locked { .. }) => return Err(error),
            Err(Error::NotFound { .. }) if !self.new.exists() => {}
            // Another point, whole or damaged, that never took its place.
            _ => remove(&self.new)?,
        }
        Store::create(&self.new, options())
    }

    /// Puts the new store in its place, and removes the one that was there.
    pub(super) fn replace(&self, there: There) -> Result<()> {
        if let There::Store(open) = there {
            // What lies there from before was replaced.
            remove(&self.old)?;
            rename(&self.dir, &self.old)?;
            drop(open);
        }
        rename(&self.new, &self.dir)?;
        let parent = self.parent.display().to_string();
        let sync = || fs::File::open(&self.parent)?.sync_all();
        sync().map_err(Error::io("sync", &parent))?;
        remove(&self.old)
    }
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(Error::io("rename", &from.display().to_string()))
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(Error::io("remove", &dir.display().to_string())),
    }
}
