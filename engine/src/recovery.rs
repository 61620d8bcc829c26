//! What a change by force, a failover, or a change that was given up took away: it is kept, as a ref under `recovery/`, until it is
//! dropped or expires.
//!
//! ```text
//! recovery/REF/MILLIS → what the ref REF was: heads/BRANCH, tags/TAG → commit    work/BRANCH → root of the uncommitted catalogue
//! MILLIS: when, in milliseconds since 1970; where that is taken, the next that is free
//! ```
//!
//! These refs are local: each copy of a database keeps what it alone has lost. A collection leaves everything that they reach.

use std::time::Duration;

use crate::branches::Branch;
use crate::database::{Database, now_micros};
use crate::error::{Error, Result};
use crate::names::{self, RECOVERY};
use crate::{Batch, Hash, Outcome, RefUpdate};

/// A clock that says an earlier time (the start of 2020) was not set.
const CLOCK_IS_SET_MILLIS: u64 = 1_577_836_800_000;

/// Refs that are dropped in one change.
const DROPPED_AT_ONCE: usize = 1000;

/// What is kept of one ref.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The ref that keeps it, under `recovery/`.
    pub name: String,
    /// The ref that it was: `heads/BRANCH`, `tags/TAG` or `work/BRANCH`.
    pub of: String,
    /// A commit; for `work/BRANCH`, a root.
    pub hash: Hash,
    /// When it was lost, in milliseconds since 1970. `None`: the clock was not set.
    pub at_millis: Option<u64>,
    /// Tells which of two was lost later, also if the clock was not set.
    number: u64,
}

impl Kept {
    fn new(name: String, hash: Hash) -> Option<Kept> {
        let (of, number) = name.strip_prefix(RECOVERY)?.rsplit_once('/')?;
        let number = number.parse().ok()?;
        let of = of.to_owned();
        Some(Kept { name, of, hash, at_millis: (number >= CLOCK_IS_SET_MILLIS).then_some(number), number })
    }
}

/// How long it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepFor {
    /// What was lost longer ago is dropped.
    pub age: Duration,
    /// Of each database, no more than so many refs; those that were lost first are dropped.
    pub count: u64,
}

impl Default for KeepFor {
    fn default() -> KeepFor {
        KeepFor { age: Duration::from_hours(30 * 24), count: 1000 }
    }
}

/// What [`Database::restore_kept`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The ref that has it now.
    pub name: String,
    /// The commit, or the root of work.
    pub hash: Hash,
    /// As what that which it replaced is kept, under `recovery/`.
    pub kept: Vec<String>,
}

impl Database {
    /// The change that keeps what the ref `name` was. For changes that also move that ref, which keep it once.
    pub fn keep(&self, name: &str, lost: Hash) -> RefUpdate {
        let mut number = u64::try_from(now_micros() / 1000).unwrap_or(0);
        loop {
            let kept = format!("{RECOVERY}{name}/{number}");
            // As appended: changes that are not durable yet may have taken the number.
            match self.store().appended_ref(&kept) {
                Some(old) if old != lost => number += 1,
                old => return RefUpdate { name: kept, old, new: Some(lost) },
            }
        }
    }

    /// Keeps a branch that is about to go or to move: its head, and work that is not its head's.
    pub(crate) fn keep_branch(&self, branch: &Branch, updates: &mut Vec<RefUpdate>) -> Result<()> {
        updates.extend(branch.head.map(|head| self.keep(&names::head(&branch.name), head)));
        self.keep_work(branch, updates)
    }

    /// Keeps the work of a branch that is about to be replaced, if it is not its head's.
    pub(crate) fn keep_work(&self, branch: &Branch, updates: &mut Vec<RefUpdate>) -> Result<()> {
        if branch.work != self.committed_root(branch.head)? {
            updates.push(self.keep(&names::work(&branch.name), branch.work));
        }
        Ok(())
    }

    /// All that is kept, what was lost first at the beginning.
    pub fn kept(&self) -> Vec<Kept> {
        let refs = self.refs(RECOVERY).into_iter();
        let mut kept: Vec<Kept> = refs.filter_map(|(name, hash)| Kept::new(name, hash)).collect();
        kept.sort_by(|one, other| (one.number, &one.name).cmp(&(other.number, &other.name)));
        kept
    }

    /// What the ref `name`, under `recovery/`, keeps.
    ///
    /// # Errors
    /// [`Error::NotKept`].
    pub fn kept_as(&self, name: &str) -> Result<Kept> {
        let kept = self.get_ref(name).and_then(|hash| Kept::new(name.to_owned(), hash));
        kept.ok_or_else(|| Error::NotKept { name: name.to_owned() })
    }

    /// Puts back what the ref `name`, under `recovery/`, keeps: as what it was or, with `into`, as a new branch or tag of that name. A branch
    /// whose head is put back has the work of that commit. What is there now is kept in turn.
    ///
    /// # Errors
    /// [`Error::NotKept`]; [`Error::UnknownBranch`] for the work of a branch that is gone, without `into`; [`Error::Exists`] and
    /// [`Error::BadName`] for `into`.
    pub fn restore_kept(&self, name: &str, into: Option<&str>) -> Result<Restored> {
        let Kept { of, hash, .. } = self.kept_as(name)?;
        let (kind, short) = of.split_once('/').unwrap_or((&of, ""));
        let what = if kind == "tags" { "tag" } else { "branch" };
        let to = into.unwrap_or(short);
        names::check_ref(what, to)?;
        let exists = || Error::Exists { what, name: to.to_owned() };
        let (restored, _) = self.write(|writer, updates| {
            writer.keep(&hash)?;
            let ref_is_there = |name: &str| self.store().appended_ref(name).is_some();
            let moves = match kind {
                "tags" if into.is_some() && ref_is_there(&names::tag(to)) => return Err(exists()),
                "tags" => vec![(names::tag(to), hash)],
                _ if into.is_some() && ref_is_there(&names::work(to)) => return Err(exists()),
                "work" if into.is_none() && !ref_is_there(&names::work(to)) => {
                    return Err(Error::UnknownBranch { name: to.to_owned() });
                }
                // Work goes on from where its branch is.
                "work" => {
                    let head = self.store().appended_ref(&names::head(short));
                    let head = head.filter(|_| into.is_some()).map(|head| (names::head(to), head));
                    head.into_iter().chain([(names::work(to), hash)]).collect()
                }
                _ => vec![(names::head(to), hash), (names::work(to), self.commit_object(&hash)?.root)],
            };
            if what == "branch" && ref_is_there(&names::work(to)) {
                let branch = self.appended_branch(to)?;
                match kind {
                    "work" => self.keep_work(&branch, updates)?,
                    _ if branch.head == Some(hash) => self.keep_work(&branch, updates)?,
                    _ => self.keep_branch(&branch, updates)?,
                }
            } else if let Some(old) = self.store().appended_ref(&names::tag(to)).filter(|_| what == "tag") {
                updates.push(self.keep(&names::tag(to), old));
            }
            let kept = updates.iter().map(|update| update.name.clone()).collect();
            for (name, new) in moves {
                let old = self.store().appended_ref(&name);
                updates.push(RefUpdate { name, old, new: Some(new) });
            }
            Ok(Restored { name: format!("{kind}/{to}"), hash, kept })
        })?;
        Ok(restored)
    }

    /// Drops the ref `name` under `recovery/`. A collection may remove what only that reached.
    ///
    /// # Errors
    /// [`Error::NotKept`].
    pub fn drop_kept(&self, name: &str) -> Result<Kept> {
        let kept = self.kept_as(name)?;
        self.drop_all_kept(std::slice::from_ref(&kept))?;
        Ok(kept)
    }

    /// What has been kept for longer than `keep_for` says at the time `now_millis`, in milliseconds since 1970.
    pub fn expired(&self, keep_for: &KeepFor, now_millis: u64) -> Vec<Kept> {
        let mut kept = self.kept();
        let beyond = kept.len().saturating_sub(usize::try_from(keep_for.count).unwrap_or(usize::MAX));
        let age = |at: u64| Duration::from_millis(now_millis.saturating_sub(at));
        let mut place = 0;
        kept.retain(|kept| {
            place += 1;
            place <= beyond || kept.at_millis.is_some_and(|at| age(at) > keep_for.age)
        });
        kept
    }

    /// Drops what has been kept for longer than `keep_for` says at the time `now_millis`. Gives how many refs that were.
    ///
    /// # Errors
    /// The store's.
    pub fn drop_expired(&self, keep_for: &KeepFor, now_millis: u64) -> Result<u64> {
        let mut dropped = 0;
        loop {
            let mut expired = self.expired(keep_for, now_millis);
            expired.truncate(DROPPED_AT_ONCE);
            match self.drop_all_kept(&expired) {
                Ok(()) if expired.is_empty() => return Ok(dropped),
                Ok(()) => dropped += expired.len() as u64,
                // Somebody else drops, too.
                Err(Error::Moved { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn drop_all_kept(&self, kept: &[Kept]) -> Result<()> {
        let drop = |kept: &Kept| RefUpdate { name: kept.name.clone(), old: Some(kept.hash), new: None };
        let drops: Vec<RefUpdate> = kept.iter().map(drop).collect();
        if drops.is_empty() {
            return Ok(());
        }
        match self.update_refs(Batch::default(), &drops)? {
            Outcome::Appended(_) => Ok(()),
            Outcome::Moved { name, .. } => Err(Error::Moved { name }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::NewCommit;

    const DAY: u64 = 24 * 3_600_000;

    fn put(database: &Database, branch: &str, value: &[u8]) {
        let mut transaction = database.begin(branch).unwrap();
        if !transaction.has_table("t").unwrap() {
            transaction.create_table("t", None).unwrap();
        }
        transaction.put("t", b"k", value).unwrap();
        transaction.commit().unwrap();
    }

    fn commit(database: &Database, branch: &str, value: &[u8]) -> Hash {
        put(database, branch, value);
        database.commit(branch, NewCommit::default()).unwrap().hash
    }

    fn branch(database: &Database, name: &str) -> Branch {
        database.branch(name).unwrap().unwrap()
    }

    fn kept_of(database: &Database, of: &str) -> Vec<Kept> {
        database.kept().into_iter().filter(|kept| kept.of == of).collect()
    }

    fn update(database: &Database, updates: &[RefUpdate]) {
        let outcome = database.update_refs(Batch::default(), updates).unwrap();
        assert!(matches!(outcome, Outcome::Appended(_)));
    }

    /// Keeps the head of `main` as if it had been lost at these times.
    fn keep_at(database: &Database, times: &[u64]) {
        let head = branch(database, "main").head;
        let keep = |at| RefUpdate { name: format!("recovery/heads/main/{at}"), old: None, new: head };
        update(database, &times.iter().map(keep).collect::<Vec<_>>());
    }

    #[test]
    fn a_branch_that_was_moved_comes_back_with_its_work_and_what_replaced_it_is_kept() {
        let database = Database::memory().unwrap();
        let (first, second) = (commit(&database, "main", b"1"), commit(&database, "main", b"2"));
        put(&database, "main", b"3");
        let work = branch(&database, "main").work;
        database.reset("main", &first, true).unwrap();
        let [head] = &kept_of(&database, "heads/main")[..] else { panic!("one head") };
        let [of_work] = &kept_of(&database, "work/main")[..] else { panic!("one work") };
        assert_eq!((head.hash, of_work.hash), (second, work));
        let since = u64::try_from(now_micros() / 1000).unwrap() - head.at_millis.unwrap();
        assert!(since < 60_000, "{since} ms ago");

        let restored = database.restore_kept(&head.name, None).unwrap();
        assert_eq!(restored.name, "heads/main");
        assert_eq!(database.get_ref(&restored.kept[0]), Some(first));
        assert_eq!(branch(&database, "main").head, Some(second));
        assert!(!database.status("main").unwrap().dirty);
        let restored = database.restore_kept(&of_work.name, None).unwrap();
        assert_eq!(
            (restored.name.as_str(), &restored.kept[..]),
            ("work/main", &[][..]),
            "nothing was lost by it"
        );
        assert_eq!((branch(&database, "main").head, branch(&database, "main").work), (Some(second), work));
        // Work that was not committed is kept when other work takes its place.
        put(&database, "main", b"4");
        let newer = branch(&database, "main").work;
        let restored = database.restore_kept(&of_work.name, None).unwrap();
        assert_eq!(database.get_ref(&restored.kept[0]), Some(newer));
    }

    #[test]
    fn what_is_gone_comes_back_and_what_is_there_is_left_alone_under_another_name() {
        let database = Database::memory().unwrap();
        let head = commit(&database, "main", b"1");
        database.create_branch("b", Some(head)).unwrap();
        put(&database, "b", b"2");
        let work = branch(&database, "b").work;
        database.delete_branch("b").unwrap();
        let (of_head, of_work) = (&kept_of(&database, "heads/b")[0], &kept_of(&database, "work/b")[0]);
        let gone = database.restore_kept(&of_work.name, None);
        assert!(matches!(gone, Err(Error::UnknownBranch { name }) if name == "b"));
        let taken = database.restore_kept(&of_head.name, Some("main"));
        assert!(matches!(taken, Err(Error::Exists { what: "branch", .. })));
        assert!(matches!(database.restore_kept(&of_head.name, Some("a..b")), Err(Error::BadName { .. })));
        assert_eq!(database.restore_kept(&of_work.name, Some("c")).unwrap().name, "work/c");
        assert_eq!((branch(&database, "c").head, branch(&database, "c").work), (None, work));
        database.restore_kept(&of_head.name, None).unwrap();
        database.restore_kept(&of_work.name, None).unwrap();
        assert_eq!(branch(&database, "b"), Branch { name: "b".into(), head: Some(head), work });
        database.restore_kept(&of_work.name, Some("d")).unwrap();
        assert_eq!(branch(&database, "d"), Branch { name: "d".into(), head: Some(head), work });
        assert_eq!(database.drop_kept(&of_head.name).unwrap().hash, head);
        for name in [of_head.name.as_str(), "heads/main", "recovery/x", ""] {
            assert!(matches!(database.restore_kept(name, None), Err(Error::NotKept { .. })), "{name}");
            assert!(matches!(database.drop_kept(name), Err(Error::NotKept { .. })), "{name}");
        }
    }

    #[test]
    fn a_tag_comes_back() {
        let database = Database::memory().unwrap();
        let (first, second) = (commit(&database, "main", b"1"), commit(&database, "main", b"2"));
        database.create_tag("v1", second).unwrap();
        let keep = database.keep("tags/v1", first);
        let name = keep.name.clone();
        update(&database, &[keep]);
        assert!(matches!(database.restore_kept(&name, Some("v1")), Err(Error::Exists { what: "tag", .. })));
        database.restore_kept(&name, Some("v0")).unwrap();
        let restored = database.restore_kept(&name, None).unwrap();
        assert_eq!(database.get_ref(&restored.kept[0]), Some(second));
        let tags = [("v0".to_owned(), first), ("v1".to_owned(), first)];
        assert_eq!(database.tags().unwrap(), tags);
    }

    #[test]
    fn several_of_one_moment_are_all_kept() {
        let database = Database::memory().unwrap();
        let hashes: Vec<Hash> = (0..20).map(|value: u8| commit(&database, "main", &[value])).collect();
        for &hash in &hashes {
            update(&database, &[database.keep("heads/main", hash)]);
        }
        let kept: Vec<Hash> = database.kept().into_iter().map(|kept| kept.hash).collect();
        assert_eq!(kept, hashes, "in the order in which they were lost");
    }

    #[test]
    fn what_is_too_old_or_too_much_expires_and_the_oldest_first() {
        let database = Database::memory().unwrap();
        commit(&database, "main", b"1");
        let now = CLOCK_IS_SET_MILLIS + 100 * DAY;
        // Of a clock that was not set, and 40, 30 and 2 days ago, and of a clock that is ahead.
        let times = [5, now - 40 * DAY, now - 30 * DAY, now - 2 * DAY, now + 9 * DAY];
        keep_at(&database, &times);
        let expired = |age_days: u64, count| {
            let keep_for = KeepFor { age: Duration::from_millis(age_days * DAY), count };
            let expired = database.expired(&keep_for, now).into_iter();
            expired.map(|kept| kept.number).collect::<Vec<_>>()
        };
        assert_eq!(expired(30, 1000), times[1..2]);
        assert_eq!(expired(1, 1000), times[1..4]);
        assert_eq!(expired(1000, 4), times[..1]);
        assert_eq!(expired(30, 0), times);
        let one = KeepFor { age: Duration::ZERO, count: 1 };
        let all = database.expired(&one, now);
        std::thread::scope(|scope| {
            let dropping: Vec<_> = (0..2).map(|_| scope.spawn(|| database.drop_expired(&one, now))).collect();
            let dropped = dropping.into_iter().map(|one| one.join().unwrap().unwrap()).sum::<u64>();
            assert_eq!(dropped, all.len() as u64, "each once");
        });
        assert_eq!(database.kept().len(), 1);
        assert!(matches!(database.drop_all_kept(&all), Err(Error::Moved { .. })));
    }
}
