//! What became of this node: each change of its standing and why, each role that was refused, each alarm, in two small files of its data directory. This file
//! holds the only description of their bytes. Called by `node`, which notes, and by `cluster`, which reads.
//!
//! `cluster.history` is text, a line for each entry, oldest first: 16 hexadecimal digits, which are the first of the BLAKE3-256 of what follows
//! the space, a space, and the entry as one JSON object:
//!
//! ```text
//! {"at":MICROSECONDS SINCE 1970,"event":"started|changed|refused|alarm","from":{"role","epoch"},"to":{"role","epoch"},
//!  "cause":"start|operator|election|peer","by":"NAME","node":"PEER","why":"TEXT","roots":{"DATABASE":"HASH"},"more_databases":N}
//! ```
//!
//! What does not apply is left out. A file that has grown to [`HISTORY_BYTES_MAX`] becomes `cluster.history.old`, and the one that had that name is gone.
//!
//! Invariants, held by the tests below:
//! 1. An entry that was noted is there after a crash: it is synced before [`History::note`] returns, after what it tells of is durable.
//! 2. No change is missing: what a crash kept from being noted is seen at the next start, when what was noted last is not what the role file says.
//! 3. A line that is damaged or cut off is left out, and said to be; it hides no other. It never keeps a node from starting, nor from changing its role.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use pleach_engine::Hash;
use serde::{Deserialize, Serialize};

use crate::cluster::role::Standing;
use crate::limits::{HISTORY_BYTES_MAX, HISTORY_ROOTS_MAX};

const NAME: &str = "cluster.history";
const OLD: &str = "cluster.history.old";
/// Digits of a line's hash.
const DIGITS: usize = 16;

/// What an entry tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HistoryEvent {
    /// The node started, in the standing that it had.
    Started,
    /// Its standing changed.
    Changed,
    /// A role was asked for, and not taken.
    Refused,
    /// It found something that a person should look at.
    Alarm,
}

impl HistoryEvent {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            HistoryEvent::Started => "started",
            HistoryEvent::Changed => "changed",
            HistoryEvent::Refused => "refused",
            HistoryEvent::Alarm => "alarm",
        }
    }
}

/// Who or what is behind an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HistoryCause {
    /// The start of the node.
    Start,
    /// Somebody asked.
    Operator,
    /// The election.
    Election,
    /// What a peer said.
    Peer,
}

impl HistoryCause {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            HistoryCause::Start => "start",
            HistoryCause::Operator => "operator",
            HistoryCause::Election => "election",
            HistoryCause::Peer => "peer",
        }
    }
}

/// A role and its epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleAt {
    /// The word for the role.
    pub role: String,
    /// The epoch.
    pub epoch: u64,
}

impl From<&Standing> for RoleAt {
    fn from(standing: &Standing) -> RoleAt {
        RoleAt { role: standing.role.word().to_owned(), epoch: standing.epoch.0 }
    }
}

/// Something that happened to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// When, in microseconds since 1970, by the node's clock.
    pub at: u64,
    /// What.
    pub event: HistoryEvent,
    /// What the node was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<RoleAt>,
    /// What it is since, or what was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<RoleAt>,
    /// Who or what is behind it.
    pub cause: HistoryCause,
    /// The name of the user who asked; empty if there are no users.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// The peer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Of a change: by database, the root of all its branches, tags and works then.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub roots: BTreeMap<String, String>,
    /// Databases beyond those.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_databases: u64,
}

// The signature is serde's.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl HistoryEntry {
    /// An entry of now.
    pub(crate) fn new(event: HistoryEvent, cause: HistoryCause) -> HistoryEntry {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        HistoryEntry {
            at: u64::try_from(now.as_micros()).unwrap_or(u64::MAX),
            event,
            from: None,
            to: None,
            cause,
            by: String::new(),
            node: String::new(),
            why: String::new(),
            roots: BTreeMap::new(),
            more_databases: 0,
        }
    }

    /// The same, with the roots of the databases then, as many as an entry may have.
    pub(crate) fn with_roots(mut self, roots: BTreeMap<String, Hash>) -> HistoryEntry {
        self.more_databases = roots.len().saturating_sub(HISTORY_ROOTS_MAX) as u64;
        let named = roots.into_iter().take(HISTORY_ROOTS_MAX);
        self.roots = named.map(|(name, root)| (name, root.to_string())).collect();
        self
    }

    /// When.
    pub fn time(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(self.at)
    }
}

/// What is known of the changes of a node's role without reading them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RoleChanges {
    /// How many there were since the start.
    pub count: u64,
    /// When the last one was, before the start too.
    pub last: Option<SystemTime>,
}

/// The files.
pub(crate) struct History {
    dir: PathBuf,
    writing: Mutex<Writing>,
}

#[derive(Default)]
struct Writing {
    changes: RoleChanges,
}

impl History {
    /// The history in `dir` of a node that starts in `standing`, which is noted.
    pub(crate) fn open(dir: &Path, standing: &Standing) -> History {
        let history = History { dir: dir.to_owned(), writing: Mutex::default() };
        let (entries, warnings) = history.read();
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let changes = entries.iter().rev().filter(|entry| entry.event == HistoryEvent::Changed);
        history.writing.lock().changes.last = changes.map(HistoryEntry::time).next();
        let stands =
            |entry: &&HistoryEntry| matches!(entry.event, HistoryEvent::Started | HistoryEvent::Changed);
        let known = entries.iter().rev().find(stands).and_then(|entry| entry.to.clone());
        let now = RoleAt::from(standing);
        if let Some(from) = known.filter(|known| *known != now) {
            history.note(HistoryEntry {
                from: Some(from),
                to: Some(now.clone()),
                why: "found at the start: the node ended before it noted this".into(),
                ..HistoryEntry::new(HistoryEvent::Changed, HistoryCause::Start)
            });
        }
        history.note(HistoryEntry {
            to: Some(now),
            ..HistoryEntry::new(HistoryEvent::Started, HistoryCause::Start)
        });
        history
    }

    pub(crate) fn changes(&self) -> RoleChanges {
        self.writing.lock().changes
    }

    /// Notes `entry`, durably, and logs it. What fails is said in the log, and nothing else. Blocking.
    pub(crate) fn note(&self, entry: HistoryEntry) {
        log(&entry);
        let mut writing = self.writing.lock();
        if entry.event == HistoryEvent::Changed {
            writing.changes.count += 1;
            writing.changes.last = Some(entry.time());
        }
        if let Err(error) = self.append(&entry) {
            tracing::error!(%error, file = %self.dir.join(NAME).display(), "the history of this node cannot be written");
        }
    }

    fn append(&self, entry: &HistoryEntry) -> io::Result<()> {
        let path = self.dir.join(NAME);
        let line = line(entry)?;
        let mut file = open(&path)?;
        let mut length = file.seek(SeekFrom::End(0))?;
        if length > 0 && length + line.len() as u64 > HISTORY_BYTES_MAX {
            fs::rename(&path, self.dir.join(OLD))?;
            file = open(&path)?;
            length = 0;
        }
        let mut bytes = Vec::with_capacity(line.len() + 1);
        if length > 0 {
            // What a crash cut off stays a line of its own.
            let mut last = [0];
            file.seek(SeekFrom::Start(length - 1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                bytes.push(b'\n');
            }
        }
        bytes.extend(line);
        file.write_all(&bytes)?;
        file.sync_data()?;
        if length == 0 {
            File::open(&self.dir)?.sync_all()?;
        }
        Ok(())
    }

    /// Every entry, oldest first, and what is wrong with the files. Blocking.
    pub(crate) fn read(&self) -> (Vec<HistoryEntry>, Vec<String>) {
        let (mut entries, mut warnings) = (Vec::new(), Vec::new());
        for name in [OLD, NAME] {
            let path = self.dir.join(name);
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    warnings.push(format!("{}: {error}", path.display()));
                    continue;
                }
            };
            let lines = bytes.split(|byte| *byte == b'\n').enumerate();
            for (number, text) in lines.filter(|(_, text)| !text.is_empty()) {
                match parse(text) {
                    Some(entry) => entries.push(entry),
                    None => warnings.push(format!(
                        "{}: line {} is damaged or cut off, and left out",
                        path.display(),
                        number + 1
                    )),
                }
            }
        }
        (entries, warnings)
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).open(path)
}

fn line(entry: &HistoryEntry) -> io::Result<Vec<u8>> {
    let text = serde_json::to_string(entry)?;
    let digits = Hash::of(text.as_bytes()).to_string();
    Ok(format!("{} {text}\n", &digits[..DIGITS]).into_bytes())
}

fn parse(line: &[u8]) -> Option<HistoryEntry> {
    let (digits, text) = (line.get(..DIGITS)?, line.get(DIGITS + 1..)?);
    let hash = Hash::of(text).to_string();
    (hash.as_bytes().starts_with(digits) && line[DIGITS] == b' ')
        .then(|| serde_json::from_slice(text).ok())
        .flatten()
}

/// The same for whoever reads the log: one structured event for each entry.
fn log(entry: &HistoryEntry) {
    let text = |at: &Option<RoleAt>| {
        at.as_ref().map_or(String::new(), |at| format!("{} at epoch {}", at.role, at.epoch))
    };
    let (from, to) = (text(&entry.from), text(&entry.to));
    let HistoryEntry { cause, by, node, why, .. } = entry;
    let cause = cause.word();
    match entry.event {
        HistoryEvent::Started => tracing::info!(to, "this node starts in the standing that it had"),
        HistoryEvent::Changed => {
            tracing::warn!(from, to, cause, by, node, why, "the standing of this node changed");
        }
        HistoryEvent::Refused => {
            tracing::warn!(from, to, cause, by, why, "a role was asked for, and not taken");
        }
        HistoryEvent::Alarm => tracing::error!(from, node, "{why}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::cluster::role::{Epoch, Role};

    fn standing(role: Role, epoch: u64) -> Standing {
        Standing { role, epoch: Epoch(epoch), leader: None }
    }

    fn changed(epoch: u64) -> HistoryEntry {
        HistoryEntry {
            to: Some(RoleAt::from(&standing(Role::Standby, epoch))),
            ..HistoryEntry::new(HistoryEvent::Changed, HistoryCause::Peer)
        }
    }

    fn epochs(entries: &[HistoryEntry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.to.as_ref().unwrap().epoch).collect()
    }

    #[test]
    fn what_was_noted_is_read_in_order_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(dir.path(), &standing(Role::Standby, 1));
        assert_eq!(history.changes(), RoleChanges::default());
        let roots = BTreeMap::from([("db".to_owned(), Hash::of(b"root"))]);
        history.note(changed(2).with_roots(roots));
        assert_eq!(history.changes().count, 1);
        let again = History::open(dir.path(), &standing(Role::Standby, 2));
        let (entries, warnings) = again.read();
        assert_eq!((epochs(&entries), warnings), (vec![1, 2, 2], vec![]));
        assert_eq!(entries[1].roots["db"], Hash::of(b"root").to_string());
        assert_eq!(again.changes(), RoleChanges { count: 0, last: Some(entries[1].time()) });
    }

    #[test]
    fn a_change_that_a_crash_kept_from_being_noted_is_found_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        drop(History::open(dir.path(), &standing(Role::Standby, 1)));
        let (entries, _) = History::open(dir.path(), &standing(Role::Primary, 2)).read();
        let found = &entries[1];
        assert_eq!((found.event, found.cause), (HistoryEvent::Changed, HistoryCause::Start));
        assert_eq!(found.from.as_ref().unwrap().epoch, 1);
        assert_eq!(found.to.as_ref().unwrap().role, "primary");
    }

    #[test]
    fn a_file_cut_or_damaged_anywhere_hides_one_line_and_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let history = History::open(dir.path(), &standing(Role::Standby, 1));
        (2..5).for_each(|epoch| history.note(changed(epoch)));
        let whole = fs::read(&path).unwrap();
        let ends: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] == b'\n').collect();
        for length in 1..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            history.note(changed(9));
            let (entries, warnings) = history.read();
            let mut left: Vec<u64> = (1..=ends.iter().filter(|end| **end <= length).count() as u64).collect();
            left.push(9);
            assert_eq!(epochs(&entries), left, "cut at {length}");
            let torn = !ends.iter().any(|end| *end == length || *end + 1 == length);
            assert_eq!(warnings.len(), usize::from(torn), "cut at {length}");
        }
        for at in (0..ends[2]).filter(|at| !ends.contains(at)) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            let (entries, warnings) = history.read();
            assert!(entries.len() == 3 && !warnings.is_empty(), "at {at}: {entries:?}");
        }
    }

    #[test]
    fn two_files_bound_it_and_the_newest_entries_stay() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(dir.path(), &standing(Role::Standby, 1));
        let roots: BTreeMap<_, _> =
            (0..HISTORY_ROOTS_MAX + 7).map(|n| (format!("{n:063}"), Hash::of(b"r"))).collect();
        let last = 3 * HISTORY_BYTES_MAX / (100 * HISTORY_ROOTS_MAX as u64);
        for epoch in 2..=last {
            history.note(changed(epoch).with_roots(roots.clone()));
        }
        let size = |name| fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(size(NAME) <= HISTORY_BYTES_MAX && size(OLD) <= HISTORY_BYTES_MAX);
        let (entries, warnings) = history.read();
        assert!(warnings.is_empty());
        assert_eq!(entries[0].more_databases, 7);
        let epochs = epochs(&entries);
        assert!(epochs[0] > 2, "the oldest are gone");
        assert!(epochs.windows(2).all(|pair| pair[1] == pair[0] + 1) && epochs.last() == Some(&last));
    }

    #[test]
    fn a_history_that_cannot_be_written_hinders_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(dir.path(), &standing(Role::Standby, 1));
        fs::remove_dir_all(dir.path()).unwrap();
        history.note(changed(2));
        assert_eq!(history.changes().count, 1);
    }
}
