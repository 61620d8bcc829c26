//! Waiting for the disk: one sync for all who wait.
//!
//! One idea: whoever waits and finds no sync under way makes one (the *turn*), for everything appended so far; the others sleep until it
//! covers them. Appends go on meanwhile, and the next turn covers them all. After a sync, and only then, refs show to readers.
//!
//! A failed sync poisons the store: what the operating system still holds and what is on disk may differ from then on, so nothing is
//! written any more, and nothing is tried again.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::append::Appender;
use super::{Durability, Shared};
use crate::error::{Error, Result};
use crate::refs;
use crate::testing::Plant;
use crate::watermark::Mark;

/// Who may sync, and how far that has come.
#[derive(Default)]
pub(super) struct Turn {
    taken: bool,
    /// Groups, counted since the store was opened, known to be durable.
    durable_group: u64,
}

/// The right to sync, given back when dropped.
pub(super) struct TakenTurn<'a> {
    shared: &'a Shared,
}

impl Drop for TakenTurn<'_> {
    fn drop(&mut self) {
        self.shared.turn.lock().taken = false;
        self.shared.turned.notify_all();
    }
}

/// An append's place in the order of appends. Keeps the store open.
#[must_use]
#[derive(Clone)]
pub struct Ticket {
    shared: Arc<Shared>,
    group: u64,
    sequence: u64,
}

impl Ticket {
    pub(super) fn new(shared: Arc<Shared>, group: u64, sequence: u64) -> Ticket {
        Ticket { shared, group, sequence }
    }

    /// Returns when the append, and all before it, are on disk; at once under [`Durability::Eventual`].
    pub fn wait(&self) -> Result<()> {
        match self.shared.options.durability {
            Durability::Full => self.shared.wait(self.group),
            Durability::Eventual { .. } => Ok(()),
        }
    }

    /// Sequence of the root record, or, for an append that changes no ref, of the one before it.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

impl Shared {
    /// Returns when `group` is durable.
    fn wait(&self, group: u64) -> Result<()> {
        let mut turn = self.turn.lock();
        loop {
            if turn.durable_group >= group {
                return Ok(());
            }
            self.check_poison()?;
            if turn.taken {
                self.turned.wait(&mut turn);
                continue;
            }
            turn.taken = true;
            drop(turn);
            let taken = TakenTurn { shared: self };
            self.sync_appended(&taken)?;
            drop(taken);
            turn = self.turn.lock();
        }
    }

    pub(super) fn take_turn(&self) -> TakenTurn<'_> {
        let mut turn = self.turn.lock();
        while turn.taken {
            self.turned.wait(&mut turn);
        }
        turn.taken = true;
        TakenTurn { shared: self }
    }

    /// Syncs what is appended, shows it to readers, and notes it in the watermark. Whoever holds the turn is alone in this.
    pub(super) fn sync_appended(&self, turn: &TakenTurn<'_>) -> Result<()> {
        self.check_poison()?;
        let (journal, group, end) = {
            let appender = self.appender.lock();
            (appender.journal.clone(), appender.group, appender.end)
        };
        if self.turn.lock().durable_group >= group {
            return Ok(());
        }
        let mut synced = journal.file.sync_data();
        if synced.is_err() && self.options.plant == Some(Plant::SyncAgain) {
            synced = journal.file.sync_data();
        }
        if let Err(error) = synced {
            return Err(self.poison("a sync failed", &error));
        }
        let changed = {
            let mut appender = self.appender.lock();
            // The journal is the same still: only the holder of the turn begins another.
            appender.synced_end = end;
            self.publish(&mut appender, group)
        };
        self.set_durable(turn, group);
        if changed {
            self.call_watchers();
        }
        // A watermark that cannot be written only lags: see `watermark`.
        if let Some(watermark) = self.watermark.lock().as_mut() {
            let _ = watermark.write(Mark { number: journal.number, end });
        }
        Ok(())
    }

    /// Lets those go on who wait for `group` or one before.
    pub(super) fn set_durable(&self, _: &TakenTurn<'_>, group: u64) {
        self.turn.lock().durable_group = group;
        self.turned.notify_all();
    }

    /// Shows the refs of all groups up to `group` to readers; whether there were any.
    pub(super) fn publish(&self, appender: &mut Appender, group: u64) -> bool {
        let mut changed = false;
        let mut durable = self.durable.write();
        while let Some(pending) = appender.pending.pop_front_if(|pending| pending.group <= group) {
            for change in &pending.changes {
                let applied = refs::apply(&mut durable.refs, change);
                debug_assert!(applied.is_ok());
                durable.recent.note(pending.sequence, &change.name);
            }
            durable.sequence = pending.sequence;
            changed = true;
        }
        changed
    }

    pub(super) fn call_watchers(&self) {
        let sequence = self.durable.read().sequence;
        let watchers = self.watchers.lock().clone();
        let ended: Vec<_> = watchers.iter().filter(|watcher| watcher(sequence).is_break()).collect();
        if !ended.is_empty() {
            let goes_on = |watcher: &_| !ended.iter().any(|ended| Arc::ptr_eq(ended, watcher));
            self.watchers.lock().retain(goes_on);
        }
    }

    /// Whether a failure forbids all writing.
    pub(super) fn check_poison(&self) -> Result<()> {
        match self.poison.get() {
            Some(cause) => Err(Error::Poisoned { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Refuses all writes from now on.
    pub(super) fn poison(&self, what: &str, error: &dyn std::fmt::Display) -> Error {
        let said = || {
            let cause = format!("{what}: {error}");
            tracing::error!(store = %self.io.place(), "no write is taken until it is opened again: {cause}");
            cause
        };
        let cause = self.poison.get_or_init(said).clone();
        self.turned.notify_all();
        Error::Poisoned { cause }
    }

    /// Makes everything durable, notes the clean end, and gives the lock back. The second time it does nothing.
    pub(super) fn close(&self) -> Result<()> {
        {
            let mut appender = self.appender.lock();
            if appender.closed {
                return Ok(());
            }
            appender.closed = true;
        }
        // Held to the end: whoever has the lock next must be alone.
        let _maintenance = self.maintenance.stop();
        *self.closing.0.lock() = true;
        self.closing.1.notify_all();
        let turn = self.take_turn();
        let synced = self.sync_appended(&turn).and_then(|()| {
            let mark = {
                let appender = self.appender.lock();
                Mark { number: appender.journal.number, end: appender.end }
            };
            match self.watermark.lock().as_mut() {
                Some(watermark) => watermark.write(mark).and_then(|()| watermark.sync()),
                None => Ok(()),
            }
        });
        self.lock.lock().take();
        synced
    }
}

/// Starts the thread that syncs an eventual store every `interval`, until it is closed or gone.
pub(super) fn sync_every(
    interval: Duration,
    shared: Weak<Shared>,
    closing: Arc<(Mutex<bool>, Condvar)>,
) -> std::io::Result<()> {
    let sync = move || {
        loop {
            let mut closed = closing.0.lock();
            if !*closed {
                closing.1.wait_for(&mut closed, interval);
            }
            if *closed {
                return;
            }
            drop(closed);
            let Some(shared) = shared.upgrade() else { return };
            // A failure has poisoned the store: the next append says so.
            let turn = shared.take_turn();
            if shared.sync_appended(&turn).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("pleach-sync".to_owned()).spawn(sync).map(drop)
}
