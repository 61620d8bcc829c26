//! A primary whose commits fail if they cannot be pushed: the remote has each change of branches and tags before this copy does.
//!
//! The engine asks before it moves a branch or a tag ([`Approve`]); what is asked about is here already, durable and pending. The answer is the remote's: the change is pushed, in one round trip, and
//! done here when it is done there. Nothing else of the database is written meanwhile. If the remote refuses, or cannot be reached, nothing has changed on either side. If the push was
//! sent and not answered, the change stays pending, and is asked about again, until the remote says what became of it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use pleach_engine::{Approve, Database, Disapproval, RefUpdate};
use pleach_protocol::{HELD_BACK, PushUpdate, RefStatus, Remote, Transfer, pushed_prefix};
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::remote::primary::{PUSHED, Pusher, Stage, in_the_way, note_pushed, pushed};
use crate::shared_refs::HEADS;

/// How long the remote is waited for.
const ASKED_MAX: Duration = Duration::from_secs(20);

/// How long it waits before it pushes again what was not answered, while somebody waits for it.
const WAITS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];

/// What a primary keeps for this.
#[derive(Default)]
pub(crate) struct Strict {
    /// Who is asked, while it is strict.
    approver: parking_lot::Mutex<Option<Arc<dyn Approve>>>,
    /// A connection that is open, for the one who is asked.
    remote: Mutex<Option<Remote>>,
}

impl Strict {
    /// Waits until nobody is asked.
    pub(crate) async fn idle(&self) {
        drop(self.remote.lock().await);
    }
}

struct Remotely {
    pusher: Weak<Pusher>,
    runtime: Handle,
}

type Answer<T> = std::result::Result<T, Disapproval>;

impl Remotely {
    /// Runs it in the runtime, one of whose threads may be the one that waits here.
    fn run<T, F>(&self, what: impl FnOnce(Arc<Pusher>) -> F) -> Answer<T>
    where
        T: Send + 'static,
        F: Future<Output = Answer<T>> + Send + 'static,
    {
        let pusher = self.pusher.upgrade();
        let pusher = pusher.ok_or_else(|| Disapproval::Away("this primary has stopped".to_owned()))?;
        let running = what(pusher);
        let (tell, told) = std::sync::mpsc::channel();
        self.runtime.spawn(async move {
            // Whoever asked waits for it.
            let _ = tell.send(running.await);
        });
        told.recv().map_err(|_| Disapproval::Unknown("this primary was stopped meanwhile".to_owned()))?
    }
}

impl Approve for Remotely {
    fn prepare(&self, _: &Database) -> Answer<()> {
        self.run(|pusher| async move {
            let late = || Disapproval::Away(pusher.not_pushed("it does not answer"));
            tokio::time::timeout(ASKED_MAX, pusher.prepare()).await.map_err(|_| late())?
        })
    }

    fn approve(&self, _: &Database, changes: &[RefUpdate], again: bool) -> Answer<Vec<RefUpdate>> {
        let is_pushed = |change: &&RefUpdate| PUSHED.iter().any(|prefix| change.name.starts_with(prefix));
        let changes = changes.iter().filter(is_pushed);
        let updates =
            changes.map(|change| PushUpdate { name: change.name.clone(), new: change.new }).collect();
        self.run(move |pusher| async move {
            let late = || Disapproval::Unknown(pusher.not_pushed("it does not answer"));
            tokio::time::timeout(ASKED_MAX, pusher.push_first(updates, again)).await.map_err(|_| late())?
        })
    }
}

impl Pusher {
    /// Has the remote asked from now on, or nobody. In a runtime.
    pub(crate) fn set_strict(self: &Arc<Pusher>, strict: bool) {
        let mut approver = self.strict.approver.lock();
        match (strict, &*approver) {
            (true, None) => {
                let remotely = Remotely { pusher: Arc::downgrade(self), runtime: Handle::current() };
                let remotely: Arc<dyn Approve> = Arc::new(remotely);
                self.database.set_approver(remotely.clone());
                *approver = Some(remotely);
            }
            (false, Some(remotely)) => {
                self.database.remove_approver(remotely);
                *approver = None;
            }
            _ => {}
        }
    }

    /// Asks about what is pending, if there is anything.
    pub(crate) async fn settle(&self) -> Result<()> {
        if self.database.refs("pending/").is_empty() {
            return Ok(());
        }
        let database = self.database.clone();
        crate::blocking(move || Ok(database.settle()?)).await
    }

    /// Pushes what is not there yet: of the time before this was strict, for one.
    async fn prepare(self: &Arc<Pusher>) -> Answer<()> {
        let away = |error: Error| Disapproval::Away(self.not_pushed(&error.to_string()));
        match self.push().await {
            // What is stuck is asked about when it is to change.
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Refused => {}
            Err(error) => return Err(away(error)),
        }
        let (database, config) = (self.database.clone(), self.config().clone());
        let noted = crate::blocking(move || {
            let url = crate::remote::remote_url(&database, &config.remote, &config.credentials)?.to_string();
            note_pushed(&database, &config.remote, &url, &[])
        });
        noted.await.map_err(away)
    }

    /// Has the remote move its refs before they move here. Gives what notes that it did.
    async fn push_first(self: &Arc<Pusher>, updates: Vec<PushUpdate>, again: bool) -> Answer<Vec<RefUpdate>> {
        let Some(_permit) = (self.config().permit)() else {
            return Err(Disapproval::Away(self.not_pushed(&Error::NoPrimary.to_string())));
        };
        let mut open = self.strict.remote.lock().await;
        let mut stage = self.shared.stage.subscribe();
        let retired = || self.not_pushed(&Error::Retired.to_string());
        if *stage.borrow() != Stage::Pushing {
            return Err(Disapproval::Away(retired()));
        }
        let away = |error: Error| Disapproval::Away(self.not_pushed(&error.to_string()));
        let mut was_sent = again;
        let mut tries = WAITS.iter();
        loop {
            // A fetch may have seen there what somebody else made of a branch: then that is what a push expects there.
            if let Some(why) = self.in_the_way(&updates).await.map_err(away)? {
                return match was_sent && self.has_arrived(&updates).await {
                    true => Ok(self.notes(&updates)),
                    false => Err(Disapproval::Refused(self.not_pushed(&why))),
                };
            }
            let sent = tokio::select! {
                sent = self.send(&mut open, &updates) => sent,
                _ = stage.wait_for(|stage| *stage == Stage::Retired) => return Err(Disapproval::Unknown(retired())),
            };
            let error = match sent {
                Ok(transfer) if !transfer.is_rejected() => {
                    self.count(&transfer);
                    return Ok(self.notes(&updates));
                }
                Ok(transfer) => {
                    // What is there now is known here afterwards; if not, the next refusal says the same.
                    let fetched = self.fetch(&mut open).await;
                    return match was_sent && fetched.is_ok() && self.has_arrived(&updates).await {
                        true => Ok(self.notes(&updates)),
                        false => Err(Disapproval::Refused(self.not_pushed(&reasons(&transfer)))),
                    };
                }
                Err(error) => error,
            };
            was_sent |= matches!(error, Error::Exchange(pleach_protocol::Error::Uncertain { .. }));
            let why = self.not_pushed(&error.to_string());
            match tries.next() {
                _ if !was_sent => return Err(Disapproval::Away(why)),
                Some(wait) => tokio::time::sleep(*wait).await,
                None => return Err(Disapproval::Unknown(why)),
            }
        }
    }

    /// What keeps one of these from being pushed, as far as is known here.
    async fn in_the_way(&self, updates: &[PushUpdate]) -> Result<Option<String>> {
        let (database, remote, updates) =
            (self.database.clone(), self.config().remote.clone(), updates.to_vec());
        crate::blocking(move || {
            let pushed = pushed(&database, &remote)?;
            for PushUpdate { name, new } in updates {
                if let Some(why) = in_the_way(&database, &remote, &name, pushed.get(&name), new)? {
                    return Ok(Some(format!("{name}: {why}")));
                }
            }
            Ok(None)
        })
        .await
    }

    fn not_pushed(&self, why: &str) -> String {
        format!("not pushed to `{}`: {why}", self.config().remote)
    }

    /// What notes that these were pushed.
    fn notes(&self, updates: &[PushUpdate]) -> Vec<RefUpdate> {
        let prefix = pushed_prefix(&self.config().remote);
        let note = |update: &PushUpdate| {
            let name = format!("{prefix}{}", update.name);
            RefUpdate { old: self.database.get_ref(&name), name, new: update.new }
        };
        updates.iter().map(note).filter(|note| note.old != note.new).collect()
    }

    /// Whether a push that was not answered was done: somebody went on from it.
    async fn has_arrived(&self, updates: &[PushUpdate]) -> bool {
        let (database, remote, updates) =
            (self.database.clone(), self.config().remote.clone(), updates.to_vec());
        let looked = crate::blocking(move || {
            for PushUpdate { name, new } in updates {
                let there = name.strip_prefix(HEADS).map(|branch| format!("remotes/{remote}/{branch}"));
                if let (Some(there), Some(new)) = (there.and_then(|there| database.get_ref(&there)), new)
                    && database.is_ancestor(&new, &there)?
                {
                    return Ok(true);
                }
            }
            Ok(false)
        });
        looked.await.unwrap_or(false)
    }
}

/// Why a remote moves none of its refs.
fn reasons(transfer: &Transfer) -> String {
    let reason = |one: &pleach_protocol::RefResult| match &one.status {
        RefStatus::Rejected { reason } if reason != HELD_BACK => Some(format!("{}: {reason}", one.name)),
        _ => None,
    };
    let reasons: Vec<String> = transfer.refs.iter().filter_map(reason).collect();
    match reasons.is_empty() {
        true => HELD_BACK.to_owned(),
        false => reasons.join("; "),
    }
}
