//! The users of a cluster's nodes: a primary publishes its `users_file`, when it starts to take writes and whenever the file was read again;
//! a standby writes what is published to its own, and has it in force at once. So who could log in before a change of role can after it,
//! and nobody else.
//!
//! The one idea: a node keeps, in its data directory, the hash of what it published or took over last; while it publishes, before that the hash
//! of what it replaces. What is published and is not that came from another primary, so it goes before the file, on a node that leads as
//! well; a file that is not that was changed here, by an operator. So a node that leads publishes what was changed on it, and never what
//! it missed.
//!
//! | published \ the file | as it was shared last | changed here |
//! |---|---|---|
//! | as it was shared last | nothing | a primary publishes the file; a standby takes over what is published |
//! | something else | it takes that over | it takes that over, and keeps the file |
//!
//! What is published is in force even if the file cannot be written. What stood in a file that was never shared is kept beside it, as
//! `FILE.replaced`, or `FILE.replaced-2` and so on.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pleach_engine::Hash;
use pleach_protocol::Access;
use pleach_replication::{Cluster, Role};
use tokio::sync::{Notify, watch};

use super::Warning;
use crate::error::{Failure, Result};
use crate::users;

/// The published document.
const DOCUMENT: &str = "users";
/// The file in the data directory with the hash of what was shared last.
const SHARED: &str = "cluster.users";
/// How soon a primary that takes no writes just now tries again to publish.
const AGAIN: Duration = Duration::from_secs(1);

/// The users of this node.
pub(super) struct Users {
    cluster: Cluster,
    access: Access,
    file: Option<PathBuf>,
    shared: PathBuf,
    warning: Warning,
    leads: watch::Receiver<bool>,
    changes: watch::Receiver<u64>,
}

/// What was done about the users.
enum Done {
    /// All.
    All,
    /// All, and that should be known.
    Warned(String),
    /// This node is to publish, and cannot at this moment.
    Later,
}

impl Users {
    pub(super) fn new(
        cluster: Cluster,
        access: Access,
        file: Option<PathBuf>,
        data_dir: &Path,
        warning: Warning,
    ) -> Users {
        let (leads, changes) = (cluster.leads(), cluster.published_changes());
        Users { cluster, access, file, shared: data_dir.join(SHARED), warning, leads, changes }
    }

    /// Publishes and takes over, by the role of the moment, as long as the server runs.
    pub(super) async fn share(mut self, reread: Arc<Notify>) {
        let mut is_done = true;
        loop {
            tokio::select! {
                changed = self.leads.changed() => if changed.is_err() { return },
                changed = self.changes.changed() => if changed.is_err() { return },
                () = reread.notified() => {}
                () = tokio::time::sleep(AGAIN), if !is_done => {}
            }
            is_done = self.look().await;
        }
    }

    /// Publishes or takes over what is to be now; false if that is to be tried again soon.
    pub(super) async fn look(&mut self) -> bool {
        let leads = *self.leads.borrow_and_update();
        self.changes.borrow_and_update();
        let (warning, is_done) = match self.settle(leads).await {
            Ok(Done::All) => (None, true),
            Ok(Done::Warned(warning)) => (Some(warning), true),
            Ok(Done::Later) => (None, false),
            Err(failure) => {
                tracing::error!("the users of the cluster are not the same on all nodes: {failure}");
                let file = self.file.as_deref().unwrap_or(Path::new("users_file"));
                let what = format!(
                    "the users of the cluster are not those in {} of this node: {failure}",
                    file.display()
                );
                (Some(what), true)
            }
        };
        *self.warning.lock() = warning;
        is_done
    }

    async fn settle(&self, leads: bool) -> Result<Done> {
        let published = self.cluster.published(DOCUMENT).await?;
        let Some(file) = self.file.clone() else {
            let what = "the cluster has users, and this node has no users_file: whoever reaches it may do everything, and after a change of \
                        role, too; name a file with `users_file` in its config.yaml";
            return Ok(published.map_or(Done::All, |_| Done::Warned(what.to_owned())));
        };
        let here = Here { file, shared: self.shared.clone(), access: self.access.clone() };
        let follows = self.cluster.role() == Role::Standby;
        let before = published.clone();
        let (here, is_taken) = blocking(move || {
            let is_taken = match before {
                Some(content) if follows || !here.is_shared(&content)? => {
                    here.take_over(&content)?;
                    true
                }
                _ => false,
            };
            Ok((here, is_taken))
        })
        .await?;
        if is_taken || !leads {
            return Ok(Done::All);
        }
        let before = published.clone();
        let (here, content) = blocking(move || {
            let content = here.read()?;
            // A crash may come on either side of what is published now.
            let both: Vec<&[u8]> = before.iter().chain([&content]).map(Vec::as_slice).collect();
            here.note(&both)?;
            Ok((here, content))
        })
        .await?;
        let is_new = published.as_ref() != Some(&content);
        if is_new && !self.cluster.publish(DOCUMENT, content.clone()).await? {
            return Ok(Done::Later);
        }
        blocking(move || here.note(&[&content])).await?;
        Ok(Done::All)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|lost| Failure::refused(lost.to_string()))?
}

/// What this node has of users. Blocking.
struct Here {
    file: PathBuf,
    shared: PathBuf,
    access: Access,
}

impl Here {
    /// The hashes that are noted, a line each.
    fn noted(&self) -> Result<String> {
        match std::fs::read_to_string(&self.shared) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
            noted => noted.map_err(failed(&self.shared)),
        }
    }

    /// Whether this is what the node published or took over last.
    fn is_shared(&self, content: &[u8]) -> Result<bool> {
        let hash = Hash::of(content).to_string();
        Ok(self.noted()?.lines().any(|noted| noted == hash))
    }

    /// Notes that what is shared is one of these.
    fn note(&self, contents: &[&[u8]]) -> Result<()> {
        let hashes = contents.iter().map(|content| format!("{}\n", Hash::of(content)));
        let mut hashes: Vec<String> = hashes.collect();
        hashes.dedup();
        match hashes.concat() {
            hashes if hashes == self.noted()? => Ok(()),
            hashes => replace(&self.shared, hashes.as_bytes()),
        }
    }

    /// What is in the file, which is in force from now on.
    fn read(&self) -> Result<Vec<u8>> {
        let content = std::fs::read(&self.file).map_err(failed(&self.file))?;
        // What is wrong is in force nowhere.
        self.access.replace(users::parse(&String::from_utf8_lossy(&content), &self.file)?);
        Ok(content)
    }

    /// Has the users in `content` in force, and in the file.
    fn take_over(&self, content: &[u8]) -> Result<()> {
        let users = users::parse(&String::from_utf8_lossy(content), Path::new("the published users"))?;
        let count = users.len();
        self.access.replace(users);
        let old = std::fs::read(&self.file).map_err(failed(&self.file))?;
        if old != content {
            // What it was about to publish, and may not have, is kept as well.
            if self.noted()?.lines().next() != Some(Hash::of(&old).to_string().as_str()) {
                self.keep(&old)?;
            }
            replace(&self.file, content)?;
            tracing::info!(users = count, "the users are those of the primary");
        }
        self.note(&[content])
    }

    /// Keeps what stood in the file, unless it is kept already.
    fn keep(&self, old: &[u8]) -> Result<()> {
        let mut number = 1;
        loop {
            let end = if number == 1 { "replaced".to_owned() } else { format!("replaced-{number}") };
            let kept = beside(&self.file, &end);
            match std::fs::read(&kept) {
                Ok(content) if content == old => return Ok(()),
                Ok(_) => number += 1,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    std::fs::copy(&self.file, &kept).map_err(failed(&kept))?;
                    tracing::warn!("what stood in {} is kept as {}", self.file.display(), kept.display());
                    return Ok(());
                }
                Err(error) => return Err(failed(&kept)(error)),
            }
        }
    }
}

/// Puts `content` in the place of what is in `file`, whole or not at all. Durable when it returns.
fn replace(file: &Path, content: &[u8]) -> Result<()> {
    let new = beside(file, "new");
    let replace = || {
        let mut written = File::create(&new)?;
        if let Ok(old) = std::fs::metadata(file) {
            written.set_permissions(old.permissions())?;
        }
        written.write_all(content)?;
        written.sync_all()?;
        std::fs::rename(&new, file)?;
        let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)?.sync_all()
    };
    replace().map_err(failed(file))
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> Failure + use<> {
    let path = path.display().to_string();
    move |error| Failure::file(path, &error)
}

fn beside(file: &Path, end: &str) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(format!(".{end}"));
    path.into()
}
