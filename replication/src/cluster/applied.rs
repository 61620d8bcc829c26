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

use crate::cluster::role::State;
use crate::error::{Error, Result};

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

    /// The position of `database` on a node in `state`.
    pub(crate) fn of(database: &Database, state: &State) -> Result<Option<Position>> {
        let own = state.led.map(|epoch| Position { epoch: epoch.0, sequence: database.sequence() });
        let applied = Position::applied(database)?;
        let is_kept = applied.map(|applied| applied.epoch) >= own.map(|own| own.epoch);
        Ok(if is_kept && !state.has_led() { applied } else { own.max(applied) })
    }

    /// Has `database` keep the position that it has on a node in `state`, which no longer leads from now on: what is noted there later, of a
    /// push for one, is no change of a primary. Durable when it returns.
    pub(crate) fn keep(database: &Database, state: &State) -> Result<()> {
        let kept = Position::applied(database)?;
        match Position::of(database, state)? {
            Some(position) if kept != Some(position) => {
                Ok(database.set_setting(Position::SETTING, Some(&position.text()))?)
            }
            _ => Ok(()),
        }
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
    use crate::cluster::role::{Epoch, NodeId, Quorum, Role, Standing};

    /// A node at epoch 3 that took writes last in epoch `led`.
    fn node(role: Role, led: Option<u64>) -> State {
        let (me, led) = (NodeId([1; 16]), led.map(Epoch));
        let standing = Standing { role, epoch: Epoch(3), leader: None };
        State::start(me, standing, led, Quorum::new(1, 1), false)
    }

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
        assert_eq!(Position::of(&database, &node(Role::Standby, None)).unwrap(), None);
        let applied = Position { epoch: 2, sequence: 7 };
        database.update_refs_and_setting(&[], Position::SETTING, &applied.text()).unwrap();
        assert_eq!(Position::of(&database, &node(Role::Standby, None)).unwrap(), Some(applied));
        assert_eq!(
            Position::of(&database, &node(Role::Standby, Some(1))).unwrap(),
            Some(applied),
            "it led before that"
        );
        let own = Position { epoch: 3, sequence: database.sequence() };
        assert_eq!(Position::of(&database, &node(Role::Primary, Some(3))).unwrap(), Some(own));
        database.set_setting(Position::SETTING, Some("7")).unwrap();
        assert!(Position::of(&database, &node(Role::Standby, None)).is_err());
    }

    #[test]
    fn what_a_former_primary_notes_locally_moves_its_position_no_more() {
        let database = Database::memory().unwrap();
        let (leads, led) = (node(Role::Primary, Some(3)), node(Role::Standby, Some(3)));
        let note = |n: u32| database.set_setting("some.local", Some(&n.to_string())).unwrap();
        note(1);
        let last = Position::of(&database, &leads).unwrap();
        assert_eq!(last, Some(Position { epoch: 3, sequence: database.sequence() }));
        Position::keep(&database, &leads).unwrap();
        (2..9).for_each(note);
        assert_eq!(Position::of(&database, &led).unwrap(), last);
        let sequence = database.sequence();
        Position::keep(&database, &led).unwrap();
        assert_eq!(database.sequence(), sequence, "what is kept is not written again");
        // It leads that epoch again, after a restart that it kept its position for and did not come to step down.
        assert!(Position::of(&database, &leads).unwrap() > last);
    }

    #[test]
    fn the_oldest_epochs_are_forgotten() {
        let applied = Applied::new();
        (0..=EPOCHS_KEPT as u64).for_each(|epoch| applied.note("shop", epoch, 1));
        assert!(!applied.covers("shop", &token(0, 1)));
        assert!(applied.covers("shop", &token(1, 1)));
    }
}
