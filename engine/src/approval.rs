//! The order in which refs change, and changes of branches and tags that somebody must approve of first: a remote that is to have them whenever this copy has.
//!
//! Such a change is made in three steps. What it moves is appended as *pending*, durable, with all chunks that it needs; the [`Approve`]r is asked, while no lock is held that readers, or its
//! own notes, need; then the change is done, or given up. Nobody else changes a shared ref meanwhile: what was planned is still what is there. If no answer comes, the change stays pending,
//! also over a restart, and whoever wants to write next asks again first. So an answer that was lost leaves neither a change that nobody knows of, nor one that is there and here is not.
//!
//! ```text
//! pending/from/NAME → what NAME is     pending/to/NAME → what it becomes     one of both: it is made, or goes
//! ```

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use pleach_chunkstore::{Hash, RefUpdate, Store, Ticket};

use crate::{
    chunks::Writer,
    database::Database,
    error::{Error, Result},
    names, settings,
};

const PENDING: &str = "pending/";
const FROM: &str = "pending/from/";
const TO: &str = "pending/to/";

/// How long writers wait for an answer about somebody else's change.
const ASKED_MAX: Duration = Duration::from_secs(5);

/// How long an approver that gave no answer is not asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Who must approve of each change of branches and tags before it is done.
///
/// Its calls may block: readers are not kept, but other writers of the database are. In them only local refs may be changed, by [`Database::update_refs`].
pub trait Approve: Send + Sync + 'static {
    /// Gets ready to be asked, before anything is planned. Here, and with the handle that it gets, any ref may be changed.
    ///
    /// # Errors
    /// Why it could not be asked; then nothing is done that would need it.
    fn prepare(&self, database: &Database) -> Result<(), Disapproval>;

    /// Whether these changes may be done: all or none. Those of works, and local ones, are in them too. It is asked about the same `again` after it gave no answer, and after a crash: it may have
    /// approved then. Gives changes of local refs that are to be done together with them.
    ///
    /// # Errors
    /// Why not, or that there is no answer.
    fn approve(
        &self,
        database: &Database,
        changes: &[RefUpdate],
        again: bool,
    ) -> Result<Vec<RefUpdate>, Disapproval>;
}

/// Why a change of branches or tags may not be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disapproval {
    /// It must not be.
    Refused(String),
    /// Nobody could be asked, and so nobody has done anything.
    Away(String),
    /// There was no answer: it may have been done there.
    Unknown(String),
}

impl From<Disapproval> for Error {
    fn from(why: Disapproval) -> Error {
        match why {
            Disapproval::Refused(why) => Error::Disapproved { why },
            Disapproval::Away(why) => Error::ApproverAway { why },
            Disapproval::Unknown(why) => Error::Unsettled { why },
        }
    }
}

/// The order of writing.
pub(crate) struct Order {
    /// Held while a change is planned and appended; not while it becomes durable. True while the approver is asked.
    asking: Mutex<bool>,
    asked: Condvar,
    is_pending: AtomicBool,
    approver: RwLock<Option<Arc<dyn Approve>>>,
    /// When there was no answer, and why.
    unanswered: Mutex<Option<(Instant, String)>>,
}

impl Order {
    pub(crate) fn new(store: &Store) -> Order {
        Order {
            asking: Mutex::new(false),
            asked: Condvar::new(),
            is_pending: AtomicBool::new(!store.refs(PENDING).is_empty()),
            approver: RwLock::default(),
            unanswered: Mutex::default(),
        }
    }
}

/// Says that the approver is not asked any more.
struct Asking<'a>(&'a Order);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        *self.0.asking.lock() = false;
        self.0.asked.notify_all();
    }
}

impl Database {
    /// Has branches and tags move only if `approver` approves, whoever moves them. It takes the place of another.
    pub fn set_approver(&self, approver: Arc<dyn Approve>) {
        *self.order_of_writing().approver.write() = Some(approver);
    }

    /// Has branches and tags just move, if this is who must approve.
    pub fn remove_approver(&self, approver: &Arc<dyn Approve>) {
        let mut now = self.order_of_writing().approver.write();
        now.take_if(|now| Arc::ptr_eq(now, approver));
    }

    /// Asks about a change that is still pending, if one is: because there was no answer, or a crash. Returns when none is.
    ///
    /// # Errors
    /// [`Error::Unsettled`], if there is no answer again; those of writing. A change that is refused now is kept under `recovery/`, which is no error.
    pub fn settle(&self) -> Result<()> {
        drop(self.order()?);
        Ok(())
    }

    /// The order of writing: nobody else changes refs while it is held.
    ///
    /// # Errors
    /// [`Error::Cancelled`], while somebody else has it; [`Error::Unsettled`].
    pub(crate) fn order(&self) -> Result<MutexGuard<'_, bool>> {
        loop {
            let order = self.take_order(true)?;
            if !self.order_of_writing().is_pending.load(Ordering::Acquire) {
                return Ok(order);
            }
            match self.ask_again(order) {
                Ok(_) | Err(Error::Disapproved { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// [`Database::order`] for a change of these refs: local ones may change while the approver is asked.
    pub(crate) fn order_for(&self, updates: &[RefUpdate]) -> Result<MutexGuard<'_, bool>> {
        match updates.iter().any(|update| names::is_shared(&update.name)) {
            true => self.order(),
            false => self.take_order(false),
        }
    }

    /// Who is to approve of changes by this handle, if anybody, and whether that can be asked.
    pub(crate) fn prepare_approval(&self) -> Option<Result<(), Disapproval>> {
        let approver = self.order_of_writing().approver.read().clone().filter(|_| self.asks())?;
        Some(approver.prepare(&self.unapproved()))
    }

    /// Waits until whoever has the order of writing now has given it up.
    pub(crate) fn pass_order(&self) {
        drop(self.order_of_writing().asking.lock());
    }

    /// The order of writing; shared refs must not be changed while the approver is asked.
    fn take_order(&self, is_shared: bool) -> Result<MutexGuard<'_, bool>> {
        /// How long a handle that may be cancelled waits before it looks whether it was.
        const LOOK_EVERY: Duration = Duration::from_millis(5);
        let order = self.order_of_writing();
        let cancel = self.store().cancel();
        let until = Instant::now() + ASKED_MAX;
        loop {
            let asking = match cancel {
                None => Some(order.asking.lock()),
                Some(cancel) => {
                    cancel.check()?;
                    order.asking.try_lock_for(LOOK_EVERY)
                }
            };
            let Some(mut asking) = asking else { continue };
            if is_shared && *asking {
                let look = cancel.map_or(until, |_| until.min(Instant::now() + LOOK_EVERY));
                order.asked.wait_until(&mut asking, look);
            }
            if !is_shared || !*asking {
                return Ok(asking);
            }
            if Instant::now() >= until {
                let why = "another change waits for approval, for too long";
                return Err(Error::ApproverAway { why: why.to_owned() });
            }
        }
    }

    /// Appends a planned change and what it needs, and gives up the order: at once, or if somebody must approve of it after that. Gives the change's ticket; if it was approved, it is durable.
    pub(crate) fn append_in_order(
        &self,
        mut order: MutexGuard<'_, bool>,
        writer: Writer,
        updates: &[RefUpdate],
        approval: Option<Result<(), Disapproval>>,
    ) -> Result<Ticket> {
        let Some(can_ask) = approval.filter(|_| updates.iter().any(|update| names::is_public(&update.name)))
        else {
            return writer.append(updates);
        };
        can_ask?;
        if let Some(moved) =
            updates.iter().find(|update| self.store().appended_ref(&update.name) != update.old)
        {
            return Err(Error::Moved { name: moved.name.clone() });
        }
        let pending = writer.append(&pending(updates))?;
        self.order_of_writing().is_pending.store(true, Ordering::Release);
        *order = true;
        drop(order);
        let _asking = Asking(self.order_of_writing());
        pending.wait()?;
        self.decide(updates, false)
    }

    /// Asks about what is pending.
    fn ask_again(&self, mut order: MutexGuard<'_, bool>) -> Result<Ticket> {
        let writing = self.order_of_writing();
        if let Some((when, why)) = &*writing.unanswered.lock()
            && when.elapsed() < ASK_AGAIN
        {
            return Err(Error::Unsettled { why: why.clone() });
        }
        *order = true;
        drop(order);
        let _asking = Asking(writing);
        self.decide(&changes(self.store()), true)
    }

    /// Asks whether a pending change may be done, and does it or gives it up. What is given up of an earlier call is kept under `recovery/`.
    fn decide(&self, changes: &[RefUpdate], is_earlier: bool) -> Result<Ticket> {
        let writing = self.order_of_writing();
        let approver = writing.approver.read().clone();
        let answer = match approver {
            Some(approver) => approver.approve(&self.unapproved(), changes, is_earlier),
            // Nobody has been asked, and nobody need be any more.
            None if !is_earlier => Ok(Vec::new()),
            None => Err(Disapproval::Refused("nobody is there any more to approve of it".to_owned())),
        };
        let mut done: Vec<RefUpdate> = pending(changes)
            .into_iter()
            .map(|RefUpdate { name, new, .. }| RefUpdate { name, old: new, new: None })
            .collect();
        let answer = match answer {
            // What could not be asked now may have been done when it was asked before.
            Err(Disapproval::Away(why)) if is_earlier => Err(Disapproval::Unknown(why)),
            other => other,
        };
        let disapproval = match answer {
            Err(Disapproval::Unknown(why)) => {
                *writing.unanswered.lock() = Some((Instant::now(), why.clone()));
                return Err(Error::Unsettled { why });
            }
            Err(disapproval) if is_earlier => {
                self.keep_given_up(changes, &mut done);
                Some(disapproval)
            }
            Err(disapproval) => Some(disapproval),
            Ok(beside) => {
                done.extend(changes.iter().cloned().chain(beside));
                None
            }
        };
        let ticket = self.plain().append_decided(done)?;
        ticket.wait()?;
        writing.is_pending.store(false, Ordering::Release);
        *writing.unanswered.lock() = None;
        match disapproval {
            Some(disapproval) => Err(disapproval.into()),
            None => Ok(ticket),
        }
    }

    /// Appends what was decided. A local ref that has changed meanwhile stays what it is; of the settings, what the change is about is set in those of now.
    fn append_decided(&self, mut updates: Vec<RefUpdate>) -> Result<Ticket> {
        let _order = self.take_order(false)?;
        let mut branch = None;
        loop {
            let mut writer = Writer::new(self.store());
            let mut all = updates.clone();
            if let Some(branch) = &branch {
                self.plan_setting(&mut writer, &mut all, settings::CURRENT_BRANCH, Option::as_deref(branch))?;
            }
            let name = match writer.append(&all) {
                Err(Error::Moved { name }) if !names::is_shared(&name) && !name.starts_with(PENDING) => name,
                appended => return appended,
            };
            let mut moved = updates.extract_if(.., |update| update.name == name);
            // No other setting changes together with branches.
            if let Some(RefUpdate { new, .. }) = moved.find(|_| name == names::SETTINGS) {
                branch = Some(self.setting_in(new, settings::CURRENT_BRANCH)?);
            }
        }
    }

    fn keep_given_up(&self, changes: &[RefUpdate], updates: &mut Vec<RefUpdate>) {
        for change in changes.iter().filter(|change| names::is_shared(&change.name)) {
            updates.extend(change.new.map(|new| self.keep(&change.name, new)));
        }
    }
}

/// What notes changes as pending.
fn pending(changes: &[RefUpdate]) -> Vec<RefUpdate> {
    let note = |prefix, change: &RefUpdate, hash: Option<Hash>| {
        hash.map(|hash| RefUpdate { name: format!("{prefix}{}", change.name), old: None, new: Some(hash) })
    };
    let notes = |change| [note(FROM, change, change.old), note(TO, change, change.new)];
    changes.iter().flat_map(notes).flatten().collect()
}

/// The changes that are noted as pending.
fn changes(store: &Store) -> Vec<RefUpdate> {
    let mut changes: BTreeMap<String, RefUpdate> = BTreeMap::new();
    for (noted, hash) in store.refs(PENDING) {
        for (prefix, is_new) in [(FROM, false), (TO, true)] {
            let Some(name) = noted.strip_prefix(prefix) else { continue };
            let change = changes.entry(name.to_owned());
            let change = change.or_insert_with(|| RefUpdate { name: name.to_owned(), old: None, new: None });
            *(if is_new { &mut change.new } else { &mut change.old }) = Some(hash);
        }
    }
    changes.into_values().collect()
}
