//! How far each database of this node has come, by epoch, so that a read can wait for the write that a token names.
//!
//! The one idea of [`Position`]: with each change that it applies, and in the same step, a standby notes the change's number in the
//! primary's epoch. So it can tell which of two copies has more, whoever is asked and however often they restarted.
//!
//! A token `(epoch, sequence, root)` is covered if this node applied that sequence of that epoch, or made it as primary. What is
//! remembered is lost at a restart and learnt again from the primary's next change: a read may then wait or fail, but is never stale.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use pleach_engine::{Database, Token};
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::role::Epoch;

use crate::limits::EPOCHS_KEPT;

/// How far a copy of a database has come: the number of a change in the epoch of its primary. Who has more is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) epoch: u64,
    pub(crate) sequence: u64,
}

impl Position {
    /// The setting that keeps the position of the last change that was applied, as `EPOCH.SEQUENCE`.
    pub(crate) const SETTING: &str = "replication.position";

    /// The position of the last change of a primary that was applied to `database`, if one was.
    pub(crate) fn applied(database: &Database) -> Result<Option<Position>> {
        let Some(text) = database.setting(Position::SETTING)? else { return Ok(None) };
        let number = |text: &str| text.parse::<u64>().ok();
        let position = text.split_once('.').and_then(|(epoch, sequence)| {
            Some(Position { epoch: number(epoch)?, sequence: number(sequence)? })
        });
        let what = || format!("expected `{}` to be EPOCH.SEQUENCE, found `{text}`", Position::SETTING);
        position.map(Some).ok_or_else(|| Error::BadPosition { what: what() })
    }

    /// The position of `database` on a node that last took writes in epoch `led`.
    pub(crate) fn of(database: &Database, led: Option<Epoch>) -> Result<Option<Position>> {
        let own = led.map(|epoch| Position { epoch: epoch.0, sequence: database.sequence() });
        Ok(own.max(Position::applied(database)?))
    }

    /// As the setting has it.
    pub(crate) fn text(&self) -> String {
        format!("{}.{}", self.epoch, self.sequence)
    }
}

/// What this node has applied.
pub(crate) struct Applied {
    /// By database, the highest sequence of each epoch.
    positions: Mutex<HashMap<String, BTreeMap<u64, u64>>>,
    moved: watch::Sender<u64>,
}

impl Applied {
    pub(crate) fn new() -> Applied {
        Applied { positions: Mutex::default(), moved: watch::Sender::new(0) }
    }

    /// `database` holds all of `epoch` up to `sequence`, durably.
    pub(crate) fn note(&self, database: &str, epoch: u64, sequence: u64) {
        let mut positions = self.positions.lock();
        let epochs = positions.entry(database.to_owned()).or_default();
        let highest = epochs.entry(epoch).or_default();
        *highest = sequence.max(*highest);
        while epochs.len() > EPOCHS_KEPT {
            epochs.pop_first();
        }
        drop(positions);
        self.moved.send_modify(|count| *count += 1);
    }

    /// `database` is gone; another may come under its name.
    pub(crate) fn forget(&self, database: &str) {
        self.positions.lock().remove(database);
    }

    /// Whether anything of `epoch` was applied to `database` since this node started.
    pub(crate) fn has(&self, database: &str, epoch: u64) -> bool {
        self.positions.lock().get(database).is_some_and(|epochs| epochs.contains_key(&epoch))
    }

    /// How far `database` has come in `epoch` since this node started.
    pub(crate) fn reached(&self, database: &str, epoch: u64) -> Option<u64> {
        self.positions.lock().get(database)?.get(&epoch).copied()
    }

    /// Whether what `token` names was applied here.
    pub(crate) fn covers(&self, database: &str, token: &Token) -> bool {
        let positions = self.positions.lock();
        let applied = positions.get(database).and_then(|epochs| epochs.get(&token.epoch));
        applied.is_some_and(|&sequence| sequence >= token.sequence)
    }

    /// Tells each change applied.
    pub(crate) fn moves(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use pleach_engine::Hash;

    use super::*;

    fn token(epoch: u64, sequence: u64) -> Token {
        Token { epoch, sequence, root: Hash::of(b"root"), head: None }
    }

    #[test]
    fn a_token_is_covered_by_its_own_epoch_alone() {
        let applied = Applied::new();
        applied.note("shop", 1, 10);
        applied.note("shop", 2, 3);
        applied.note("shop", 1, 8);
        assert!(applied.covers("shop", &token(1, 10)));
        assert!(!applied.covers("shop", &token(1, 11)));
        assert!(!applied.covers("shop", &token(2, 4)), "epoch 1 came further, but is another history");
        assert!(!applied.covers("other", &token(1, 1)));
    }

    #[test]
    fn a_position_is_kept_with_the_refs_and_a_later_epoch_is_further() {
        let database = Database::memory().unwrap();
        assert_eq!(Position::of(&database, None).unwrap(), None);
        let applied = Position { epoch: 2, sequence: 7 };
        database.update_refs_and_setting(&[], Position::SETTING, &applied.text()).unwrap();
        assert_eq!(Position::of(&database, None).unwrap(), Some(applied));
        assert_eq!(Position::of(&database, Some(Epoch(1))).unwrap(), Some(applied), "it led before that");
        let own = Position { epoch: 3, sequence: database.sequence() };
        assert_eq!(Position::of(&database, Some(Epoch(3))).unwrap(), Some(own));
        database.set_setting(Position::SETTING, Some("7")).unwrap();
        assert!(Position::of(&database, None).is_err());
    }

    #[test]
    fn the_oldest_epochs_are_forgotten() {
        let applied = Applied::new();
        (0..=EPOCHS_KEPT as u64).for_each(|epoch| applied.note("shop", epoch, 1));
        assert!(!applied.covers("shop", &token(0, 1)));
        assert!(applied.covers("shop", &token(1, 1)));
    }
}
