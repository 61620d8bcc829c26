//! Roles of a node: asking for one, handing over, and what sessions of clients go by meanwhile. What becomes of the node is `role`; the order in which a primary lets go is here.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use super::{Cluster, Inner};
use crate::cluster::history::{HistoryCause, HistoryEntry, HistoryEvent, RoleAt};
use crate::cluster::peer::Peer;
use crate::cluster::role::{Epoch, Input, Role, Standing, Writes};
use crate::error::{Error, Result};

/// Characters of an unknown role in the history.
const WORD_MAX: usize = 64;

/// A role that is asked for.
#[derive(Debug, Clone)]
pub struct RoleRequest {
    /// `primary` or `standby`.
    pub role: String,
    /// The epoch.
    pub epoch: u64,
    /// Of a primary that becomes a standby: how many standbys must have everything at the end of [`ClusterConfig::hand_over`](super::ClusterConfig::hand_over); `None`: all.
    pub min_caught_up: Option<usize>,
    /// Who asks, for the history; empty if that is not known.
    pub by: String,
}

/// A role that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The role, in force and durable.
    pub standing: Standing,
    /// If this node handed over: each database on each standby, at that moment.
    pub standbys: Vec<CaughtUp>,
}

/// A database on a standby, at the moment of a hand-over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaughtUp {
    /// The database.
    pub database: String,
    /// Name of the standby remote.
    pub standby_remote: String,
    /// Its URL.
    pub remote_url: String,
    /// Whether it had everything.
    pub caught_up: bool,
}

/// How long a session of a client may last: until the role of its server changes, or, on a primary, until that begins to hand over.
#[derive(Debug, Clone)]
pub struct Tenure {
    role: Role,
    standing: watch::Receiver<Standing>,
    hand_overs: watch::Receiver<u64>,
    seen: u64,
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenureOver {
    /// The server is primary, and hands over.
    HandsOver,
    /// The server is this now.
    Changed(Standing),
}

impl fmt::Display for TenureOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TenureOver::HandsOver => f.write_str("this server hands over its role to a standby"),
            TenureOver::Changed(standing) => write!(f, "the role of this server changed to {standing}"),
        }
    }
}

impl Tenure {
    /// Returns when it is over, and says why.
    pub async fn over(&mut self) -> TenureOver {
        let Tenure { role, standing, hand_overs, seen } = self;
        let hands_over = async {
            if hand_overs.wait_for(|count| count != seen).await.is_err() {
                // The node is gone, and no session outlives that for long.
                std::future::pending::<()>().await;
            }
        };
        let changes = async {
            if let Ok(now) = standing.wait_for(|now| now.role != *role).await {
                return *now;
            }
            std::future::pending().await
        };
        tokio::select! {
            () = hands_over => TenureOver::HandsOver,
            now = changes => TenureOver::Changed(now),
        }
    }
}

impl Cluster {
    /// How long a session of a client may last that begins now.
    pub fn tenure(&self) -> Tenure {
        // Counted first: a hand-over that begins meanwhile ends the session.
        let hand_overs = self.inner.hand_overs.subscribe();
        let seen = *hand_overs.borrow();
        let standing = self.inner.node.changes();
        let role = standing.borrow().role;
        Tenure { role, standing, hand_overs, seen }
    }

    /// Assumes `role` (`primary` or `standby`) at `epoch`. The role is in force and durable when it returns. A primary that becomes a
    /// standby first refuses writes, ends the sessions of clients ([`Cluster::tenure`]), and waits until every standby has everything.
    ///
    /// # Errors
    /// [`Error::Refused`]; [`Error::NotCaughtUp`] and [`Error::StillWriting`] after [`ClusterConfig::hand_over`](super::ClusterConfig::hand_over), the node then being
    /// what it was, writable; [`Error::Overtaken`]; [`Error::Busy`].
    pub async fn assume_role(&self, role: &str, epoch: u64) -> Result<Standing> {
        let request = RoleRequest { role: role.to_owned(), epoch, min_caught_up: None, by: String::new() };
        Ok(self.take_role(request).await?.standing)
    }

    /// [`Cluster::assume_role`] with all that can be said about it. Of a hand-over to fewer than all standbys: it waits until all have
    /// everything, as long as it may, and succeeds if then at least so many have. Not fewer than one, nor than must have a write before that
    /// is acknowledged: else a node could lead that lacks it.
    ///
    /// # Errors
    /// Those of [`Cluster::assume_role`]; [`Error::TooFew`].
    pub async fn take_role(&self, request: RoleRequest) -> Result<Taken> {
        self.take_role_for(request, HistoryCause::Operator).await
    }

    pub(crate) async fn take_role_for(&self, request: RoleRequest, cause: HistoryCause) -> Result<Taken> {
        let inner = self.inner.clone();
        // Runs to its end even if the caller goes away.
        match tokio::spawn(async move { inner.take_role(request, cause).await }).await {
            Ok(result) => result,
            Err(lost) => Err(Error::Lost { what: lost.to_string() }),
        }
    }
}

impl Inner {
    /// Takes a role, and has it in the history if it is not taken.
    async fn take_role(self: Arc<Inner>, request: RoleRequest, cause: HistoryCause) -> Result<Taken> {
        let RoleRequest { role: word, epoch, min_caught_up, by } = request;
        let is_operator = cause == HistoryCause::Operator;
        let result = match word.parse::<Role>() {
            Ok(Role::Primary) if is_operator && self.elector.is_some() => Err(Error::Elected),
            Ok(role) => self.clone().assume(role, Epoch(epoch), min_caught_up, (cause, &by)).await,
            Err(refusal) => Err(refusal.into()),
        };
        // A role that is taken, and not granted writes yet, is there as a change.
        if let Some(error) = result.as_ref().err().filter(|error| !matches!(error, Error::NotGranted { .. }))
        {
            let entry = HistoryEntry {
                from: Some(RoleAt::from(&self.node.standing())),
                to: Some(RoleAt { role: word.chars().take(WORD_MAX).collect(), epoch }),
                by,
                why: error.to_string(),
                ..HistoryEntry::new(HistoryEvent::Refused, cause)
            };
            let node = self.node.clone();
            crate::blocking(move || {
                node.history().note(entry);
                Ok(())
            })
            .await?;
        }
        result
    }

    /// `by`: who or what is behind it.
    async fn assume(
        self: Arc<Inner>,
        role: Role,
        epoch: Epoch,
        min_caught_up: Option<usize>,
        by: (HistoryCause, &str),
    ) -> Result<Taken> {
        let needed = self.min_caught_up(min_caught_up)?;
        let Ok(_assuming) = self.assuming.try_lock() else { return Err(Error::Busy) };
        let current = self.node.standing();
        self.note_own_writes(&current);
        self.step_for(Input::Assume { role, epoch }, by).await?;
        let mut standbys = Vec::new();
        if let Writes::HandingOver { .. } = self.node.state().writes {
            self.hand_overs.send_modify(|count| *count += 1);
            let handed_over = self.clone().hand_over(current, needed, by).await;
            if handed_over.is_err() {
                self.step_for(Input::HandOverFailed, by).await?;
            }
            standbys = handed_over?;
        }
        let standing = self.node.standing();
        match (standing.role, standing.epoch) == (role, epoch) {
            true => Ok(Taken { standing: self.granted(standing).await?, standbys }),
            false => Err(Error::Overtaken { standing }),
        }
    }

    /// As few standbys as may have everything when this node hands over.
    pub(super) fn least_caught_up(&self) -> usize {
        self.ack.needed(self.peers.len()).max(1)
    }

    /// How many standbys must have everything before this node hands over, of whom somebody said so.
    fn min_caught_up(&self, asked: Option<usize>) -> Result<usize> {
        let (standbys, least) = (self.peers.len(), self.least_caught_up());
        match asked {
            None => Ok(standbys),
            Some(count) if (least..=standbys).contains(&count) => Ok(count),
            Some(count) => Err(Error::TooFew { count, least, standbys }),
        }
    }

    /// Waits until this node, if it is primary in `standing`, takes writes.
    async fn granted(&self, standing: Standing) -> Result<Standing> {
        let mut leads = self.node.leads();
        if standing.role != Role::Primary || *leads.borrow() {
            return Ok(standing);
        }
        tokio::select! {
            _ = leads.wait_for(|leads| *leads) => Ok(standing),
            () = self.node.left(standing) => Err(Error::Overtaken { standing: self.node.standing() }),
            () = tokio::time::sleep(self.hand_over) => match self.admit() {
                Ok(_) => Ok(standing),
                Err(why) => Err(Error::NotGranted { standing, why }),
            },
        }
    }

    /// Hands over: no more writes, everything on every standby or, at the end of the time, on `needed` of them, and only then the new standing.
    async fn hand_over(
        self: Arc<Inner>,
        current: Standing,
        needed: usize,
        by: (HistoryCause, &str),
    ) -> Result<Vec<CaughtUp>> {
        let seconds = self.hand_over.as_secs_f64();
        let (inner, asked) = (self.clone(), AtomicBool::new(false));
        let everything = async {
            inner.node.idle().await;
            let look = inner.clone();
            crate::blocking(move || look.tracked.look()).await?;
            // An acknowledgement from before says nothing of a standby that has died since: each is asked again.
            inner.peers.iter().for_each(|peer| {
                peer.doubt();
                peer.kick();
            });
            asked.store(true, Ordering::Relaxed);
            inner.caught_up().await;
            Ok::<_, Error>(())
        };
        let in_time = tokio::select! {
            done = tokio::time::timeout(self.hand_over, everything) => done,
            () = self.node.left(current) => return Err(Error::Overtaken { standing: self.node.standing() }),
        };
        match in_time {
            Ok(done) => done?,
            Err(_) if self.node.writes() > 0 => {
                return Err(Error::StillWriting { standing: current, seconds, writes: self.node.writes() });
            }
            Err(_) => {
                let behind = self.behind();
                let lacks = |peer: &&Arc<Peer>| behind.iter().any(|behind| behind.standby == peer.name());
                let had = match asked.load(Ordering::Relaxed) {
                    true => self.peers.len() - self.peers.iter().filter(lacks).count(),
                    false => 0,
                };
                if had < needed {
                    return Err(Error::NotCaughtUp { standing: current, seconds, had, needed, behind });
                }
                tracing::warn!(had, lacking = ?behind, "handing over to fewer than all standbys");
            }
        }
        self.note_own_writes(&current);
        let standbys = self.whether_caught_up();
        self.step_for(Input::HandedOver, by).await?;
        Ok(standbys)
    }

    /// Each database on each standby, and whether it has everything.
    fn whether_caught_up(&self) -> Vec<CaughtUp> {
        let tracked = self.tracked.all();
        let links = tracked.iter().flat_map(|link| self.peers.iter().map(move |peer| (link, peer)));
        links
            .map(|((name, database), peer)| CaughtUp {
                database: name.clone(),
                standby_remote: peer.name().to_owned(),
                remote_url: format!("{}/{name}", peer.server()),
                caught_up: peer.behind(name, database.sequence()).is_none(),
            })
            .collect()
    }

    /// What this node wrote as primary of an epoch that it leaves stays here: tokens of that epoch are covered.
    fn note_own_writes(&self, current: &Standing) {
        if current.role == Role::Primary {
            for (name, database) in self.tracked.all() {
                self.applied.note(&name, current.epoch.0, database.sequence());
            }
        }
    }
}
