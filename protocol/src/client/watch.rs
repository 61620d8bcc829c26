//! Watch: learns of a server's refs that move, are made or go, as soon as that is durable there.

use std::collections::BTreeMap;
use std::time::Duration;

use pleach_engine::Hash;
use tonic::Streaming;

use super::RemoteRefs;
use crate::error::{Error, Result, within};
use crate::limits::{REFS_MAX, WATCH_HEARTBEAT_MIN};
use crate::proto::{Ref, WatchRequest, WatchResponse};
use crate::refs::{RefPatterns, check_name, hash_from, refs_digest};
use crate::remote::Remote;

/// A ref that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefChange {
    /// Its name on the server, `heads/NAME` or `tags/NAME`.
    pub name: String,
    /// What it was, as far as it was told; `None`: it did not exist, or could not be read.
    pub old: Option<Hash>,
    /// What it is now; `None`: it does not exist, or may not be read.
    pub new: Option<Hash>,
}

/// A watch of a server's refs. Dropping it ends the watch.
pub struct Watching {
    remote: Remote,
    patterns: RefPatterns,
    stream: Streaming<WatchResponse>,
    refs: RemoteRefs,
    /// What was told of the next answer so far: all refs if it is whole, else those that changed.
    arriving: BTreeMap<String, Option<Hash>>,
    is_whole: bool,
}

/// Watches the branches and tags of `remote`, a server, that match `patterns`. `known` is what the caller takes them to be: if they are that, the
/// first answer is short. With a `heartbeat`, of 100 ms at least, an empty answer comes when for so long there was nothing to tell: until then nothing has changed.
///
/// # Errors
/// [`Error::NoServer`]: directories and buckets tell nobody of changes. What the server answers comes from here or from
/// [`Watching::next`].
pub async fn watch(
    remote: &Remote,
    patterns: &RefPatterns,
    known: &[(String, Hash)],
    heartbeat: Option<Duration>,
) -> Result<Watching> {
    if remote.place().is_some() {
        let instead = "it cannot tell of changes; fetch from it on an interval";
        return Err(Error::NoServer { url: remote.url().to_string(), instead });
    }
    let refs: RemoteRefs = known.iter().cloned().collect();
    let sorted: Vec<(String, Hash)> = refs.clone().into_iter().collect();
    let request = WatchRequest {
        database: remote.url().database().to_owned(),
        wants: patterns.wants(),
        known_refs: bytes::Bytes::copy_from_slice(refs_digest(&sorted).as_bytes()),
        heartbeat_millis: heartbeat.map_or(0, |heartbeat| {
            u32::try_from(heartbeat.max(WATCH_HEARTBEAT_MIN).as_millis()).unwrap_or(u32::MAX)
        }),
    };
    let response = remote.client()?.watch(request).await.map_err(|status| remote.error(status))?;
    Ok(Watching {
        remote: remote.clone(),
        patterns: patterns.clone(),
        stream: response.into_inner(),
        refs,
        arriving: BTreeMap::new(),
        is_whole: false,
    })
}

impl Watching {
    /// Waits for the next answer: the refs that changed since the one before, by name. The first comes at once, and is what is not as `known`
    /// was. An answer can be empty, as the first is when all is as known. What changed several times since the last call may come as one
    /// change. If the wait is given up, nothing is lost.
    ///
    /// # Errors
    /// The watch is over then. [`Error::Unreachable`]: the server stopped, closed the database, or cannot be reached; watch again.
    /// [`Error::UnknownDatabase`]: it was dropped. [`Error::NotAUser`], [`Error::NotAllowed`]: the user is gone, or has no right any more.
    pub async fn next(&mut self) -> Result<Vec<RefChange>> {
        loop {
            let answer = self.stream.message().await.map_err(|status| self.remote.error(status))?;
            let Some(answer) = answer else {
                let what = "the server ended the watch".to_owned();
                return Err(Error::Unreachable { url: self.remote.url().to_string(), what });
            };
            if answer.whole {
                self.arriving.clear();
                self.is_whole = true;
            }
            for one in answer.refs {
                let (name, hash) = self.read(one)?;
                self.arriving.insert(name, hash);
            }
            within("refs in a watch", self.refs.len() + self.arriving.len(), 2 * REFS_MAX)?;
            if !answer.more {
                return Ok(self.take_over());
            }
        }
    }

    /// The refs as they are, by name: all that was told so far.
    pub fn refs(&self) -> &BTreeMap<String, Hash> {
        &self.refs
    }

    /// Checks a ref: a name that can be one and was asked for.
    fn read(&self, one: Ref) -> Result<(String, Option<Hash>)> {
        check_name(&one.name)?;
        if !self.patterns.matches(&one.name) {
            return Err(Error::protocol(format!("{} was not asked for", one.name)));
        }
        let hash = (!one.hash.is_empty()).then(|| hash_from(&one.hash, "hash")).transpose()?;
        Ok((one.name, hash))
    }

    /// Makes the refs what has arrived, and says what is new by that.
    fn take_over(&mut self) -> Vec<RefChange> {
        let mut arrived = std::mem::take(&mut self.arriving);
        if std::mem::take(&mut self.is_whole) {
            for name in self.refs.keys() {
                arrived.entry(name.clone()).or_insert(None);
            }
        }
        let mut changes = Vec::new();
        for (name, new) in arrived {
            let old = match new {
                Some(new) => self.refs.insert(name.clone(), new),
                None => self.refs.remove(&name),
            };
            if old != new {
                changes.push(RefChange { name, old, new });
            }
        }
        changes
    }
}
