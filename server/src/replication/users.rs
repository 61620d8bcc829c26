//! The users of a cluster's nodes: a primary publishes its `users_file`, when it starts to take writes and whenever the file was read again;
//! a standby writes what is published to its own, and has it in force at once. So who could log in before a change of role can after it.
//!
//! What stood in the file of a standby before the first time is kept beside it, as `FILE.replaced`.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pleach_protocol::Access;
use pleach_replication::Cluster;
use tokio::sync::Notify;

use super::Warning;
use crate::error::{Failure, Result};
use crate::users;

/// The published document.
const DOCUMENT: &str = "users";

/// The users of this node.
pub(super) struct Users {
    cluster: Cluster,
    access: Access,
    file: Option<PathBuf>,
    warning: Warning,
}

impl Users {
    pub(super) fn new(cluster: Cluster, access: Access, file: Option<PathBuf>, warning: Warning) -> Users {
        Users { cluster, access, file, warning }
    }

    /// Publishes and takes over, by the role of the moment, as long as the server runs.
    pub(super) async fn share(self, reread: Arc<Notify>) {
        let (mut leads, mut changes) = (self.cluster.leads(), self.cluster.published_changes());
        loop {
            let is_leading = *leads.borrow_and_update();
            changes.borrow_and_update();
            let shared = if is_leading { self.publish().await } else { self.take_over().await };
            *self.warning.lock() = match shared {
                Ok(warning) => warning,
                Err(failure) => {
                    tracing::error!("the users of the cluster are not the same on all nodes: {failure}");
                    Some(format!("the users of the cluster are not those of this node: {failure}"))
                }
            };
            tokio::select! {
                changed = leads.changed() => if changed.is_err() { return },
                changed = changes.changed() => if changed.is_err() { return },
                () = reread.notified() => {}
            }
        }
    }

    async fn publish(&self) -> Result<Option<String>> {
        let Some(file) = self.file.clone() else { return Ok(None) };
        let read = tokio::task::spawn_blocking(move || {
            // What is wrong is in force nowhere.
            users::read(&file)?;
            std::fs::read(&file).map_err(|error| Failure::file(file.display(), &error))
        });
        let content = read.await.map_err(|lost| Failure::refused(lost.to_string()))??;
        self.cluster.publish(DOCUMENT, content).await?;
        Ok(None)
    }

    async fn take_over(&self) -> Result<Option<String>> {
        let Some(content) = self.cluster.published(DOCUMENT).await? else { return Ok(None) };
        let Some(file) = self.file.clone() else {
            let what = "the primary has users, and this node has no users_file: whoever reaches it may do everything, and after a change of \
                        role, too; name a file with `users_file` in its config.yaml";
            return Ok(Some(what.to_owned()));
        };
        let written = tokio::task::spawn_blocking(move || take_over(&file, &content));
        if let Some(users) = written.await.map_err(|lost| Failure::refused(lost.to_string()))?? {
            tracing::info!(users = users.len(), "the users are those of the primary");
            self.access.replace(users);
        }
        Ok(None)
    }
}

/// Has `file` hold `content`; gives its users if it did not.
fn take_over(file: &Path, content: &[u8]) -> Result<Option<Vec<pleach_protocol::User>>> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error: std::io::Error| Failure::file(&path, &error)
    };
    if std::fs::read(file).map_err(failed(file))? == content {
        return Ok(None);
    }
    let users = users::parse(&String::from_utf8_lossy(content), file)?;
    let replaced = beside(file, "replaced");
    if !replaced.exists() {
        std::fs::copy(file, &replaced).map_err(failed(&replaced))?;
        tracing::warn!("what stood in {} is kept as {}", file.display(), replaced.display());
    }
    let new = beside(file, "new");
    let replace = || {
        let mut written = File::create(&new)?;
        written.set_permissions(std::fs::metadata(file)?.permissions())?;
        written.write_all(content)?;
        written.sync_all()?;
        std::fs::rename(&new, file)?;
        let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)?.sync_all()
    };
    replace().map_err(failed(file))?;
    Ok(Some(users))
}

fn beside(file: &Path, end: &str) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(format!(".{end}"));
    path.into()
}
