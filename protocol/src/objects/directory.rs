//! A directory as a place for objects: the key is the path below it.
//!
//! The one idea: an object is written under a temporary name, synced, and given its own name by a hard link, which fails if there is one;
//! then the directory is synced. So an object has all its bytes from the first moment that anybody sees it, and stays. A writer that was
//! killed leaves a temporary file, which no reader sees and a later writer removes. Blocking work runs on threads made for it.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use bytes::Bytes;

use super::Objects;
use crate::error::{Error, Result, within};
use crate::limits::TEMPORARY_GRACE;
use crate::random;

/// Where objects lie that have not got their name yet. It is no key, since it begins with a dot.
const TEMPORARY: &str = ".pleach-temporary";

/// The objects under one directory, which the first put makes.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    root: Arc<PathBuf>,
    /// Old temporary files are removed once.
    cleaned: Arc<Once>,
}

impl Directory {
    pub(crate) fn new(root: &Path) -> Directory {
        Directory { root: Arc::new(root.to_owned()), cleaned: Arc::new(Once::new()) }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Directory) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let directory = self.clone();
        crate::client::blocking(move || f(&directory)).await
    }

    /// Writes and syncs an object under a temporary name, and has `name` give it its own. Gives what `name` gives.
    fn write(&self, key: &str, object: &[u8], name: fn(&Path, &Path) -> Result<bool>) -> Result<bool> {
        let temporary = self.root.join(TEMPORARY);
        make_directory(&temporary)?;
        self.cleaned.call_once(|| clean(&temporary));
        let path = self.root.join(key);
        let parent = path.parent().unwrap_or(&self.root);
        make_directory(parent)?;
        let unnamed = temporary.join(random::hex());
        let written = write_synced(&unnamed, object).and_then(|()| name(&unnamed, &path));
        // Renamed, or of no more use; if it stays, a later writer removes it.
        let _ = fs::remove_file(&unnamed);
        let written = written?;
        sync_directory(parent)?;
        Ok(written)
    }
}

#[tonic::async_trait]
impl Objects for Directory {
    async fn list(&self, prefix: &str, max: usize) -> Result<Vec<String>> {
        let prefix = prefix.to_owned();
        self.blocking(move |directory| {
            let mut keys = Vec::new();
            walk(&directory.root.join(&prefix), &prefix, max, &mut keys)?;
            Ok(keys)
        })
        .await
    }

    async fn get(&self, key: &str, bytes_max: usize) -> Result<Option<Bytes>> {
        let path = self.root.join(key);
        self.blocking(move |_| {
            let metadata = match fs::symlink_metadata(&path) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(source) => return Err(Error::Io { path, source }),
            };
            if !metadata.is_file() {
                // Reading a device or a pipe might never end.
                let source = std::io::Error::other("expected a file, and no link");
                return Err(Error::Io { path, source });
            }
            let mut object = Vec::new();
            let file = fs::File::open(&path);
            let read = file.and_then(|file| file.take(bytes_max as u64 + 1).read_to_end(&mut object));
            match read {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(source) => return Err(Error::Io { path, source }),
            }
            within("bytes of an object", object.len(), bytes_max)?;
            Ok(Some(Bytes::from(object)))
        })
        .await
    }

    async fn put(&self, key: &str, object: Bytes) -> Result<()> {
        let key = key.to_owned();
        let rename =
            |from: &Path, to: &Path| fs::rename(from, to).map(|()| true).map_err(|source| io(to, source));
        self.blocking(move |directory| directory.write(&key, &object, rename)).await.map(|_| ())
    }

    async fn put_if_absent(&self, key: &str, object: Bytes) -> Result<bool> {
        let key = key.to_owned();
        let link = |from: &Path, to: &Path| match fs::hard_link(from, to) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(source) => Err(io(to, source)),
        };
        self.blocking(move |directory| directory.write(&key, &object, link)).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let path = self.root.join(key);
        self.blocking(move |_| match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::Io { path, source: error }),
            _ => Ok(()),
        })
        .await
    }
}

/// Appends the keys under `dir` to `keys`, in order, until there are `max`.
fn walk(dir: &Path, prefix: &str, max: usize, keys: &mut Vec<String>) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(io(dir, source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| io(dir, source))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_directory = entry.file_type().map_err(|source| io(dir, source))?.is_dir();
        if name != TEMPORARY {
            // With its slash a directory sorts as its keys do.
            names.push(if is_directory { name + "/" } else { name });
        }
    }
    names.sort_unstable();
    for name in names {
        if keys.len() >= max {
            break;
        }
        match name.strip_suffix('/') {
            Some(inner) => walk(&dir.join(inner), &format!("{prefix}{name}"), max, keys)?,
            None => keys.push(format!("{prefix}{name}")),
        }
    }
    Ok(())
}

fn write_synced(path: &Path, object: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create_new(path)?;
        file.write_all(object)?;
        file.sync_all()
    };
    write().map_err(|source| io(path, source))
}

/// Makes a directory and those above it, durably.
fn make_directory(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let Some(parent) = dir.parent() else { return Ok(()) };
    make_directory(parent)?;
    match fs::create_dir(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(io(dir, error)),
        _ => {}
    }
    sync_directory(parent)
}

fn sync_directory(dir: &Path) -> Result<()> {
    let sync = || File::open(dir)?.sync_all();
    sync().map_err(|source| io(dir, source))
}

/// Removes what writers who are gone left. Nothing depends on it, so its errors are nobody's.
fn clean(temporary: &Path) {
    for entry in fs::read_dir(temporary).into_iter().flatten().flatten() {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        if modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > TEMPORARY_GRACE)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::time::SystemTime;

    use super::*;

    #[tokio::test]
    async fn keys_come_in_the_order_of_their_bytes_and_temporary_files_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("made/below");
        let objects = Directory::new(&root);
        assert_eq!(objects.list("", 9).await.unwrap(), Vec::<String>::new());
        for key in ["b/2", "b-1", "b/10", "a", "b/1/x"] {
            assert!(objects.put_if_absent(key, Bytes::from(key.to_owned())).await.unwrap());
        }
        fs::write(root.join(TEMPORARY).join("left"), b"half").unwrap();
        assert_eq!(objects.list("", 9).await.unwrap(), ["a", "b-1", "b/1/x", "b/10", "b/2"]);
        assert_eq!(objects.list("b/", 2).await.unwrap(), ["b/1/x", "b/10"]);
        assert_eq!(objects.get("b/10", 4).await.unwrap().unwrap(), "b/10");
        assert!(matches!(objects.get("b/10", 3).await, Err(Error::Limit { .. })));
        assert_eq!(objects.get("c", 3).await.unwrap(), None);
    }

    #[tokio::test]
    async fn of_two_that_put_if_absent_one_does() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Directory::new(dir.path());
        for round in 0..20 {
            let key = format!("k/{round}");
            let put = |text: &'static str| {
                let (objects, key) = (objects.clone(), key.clone());
                tokio::spawn(async move { objects.put_if_absent(&key, Bytes::from(text)).await.unwrap() })
            };
            let (one, other) = (put("one"), put("other"));
            let won = (one.await.unwrap(), other.await.unwrap());
            assert!(won.0 != won.1, "{won:?}");
            let expected = if won.0 { "one" } else { "other" };
            assert_eq!(objects.get(&key, 9).await.unwrap().unwrap(), expected);
        }
        objects.put("k/0", Bytes::from("new")).await.unwrap();
        assert_eq!(objects.get("k/0", 9).await.unwrap().unwrap(), "new");
        objects.delete("k/0").await.unwrap();
        objects.delete("k/0").await.unwrap();
        assert_eq!(objects.get("k/0", 9).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_a_killed_writer_left_goes_after_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join(TEMPORARY);
        fs::create_dir(&left).unwrap();
        for (name, age) in [("old", TEMPORARY_GRACE * 2), ("young", TEMPORARY_GRACE / 2)] {
            let file = File::create(left.join(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        }
        Directory::new(dir.path()).put("k", Bytes::new()).await.unwrap();
        assert!(!left.join("old").exists() && left.join("young").exists());
    }
}
