//! What a primary lacks, and a standby has: it takes that before it takes writes, over the stream that it has just opened. One that restarts
//! may have lost it; one that claims a new epoch may have got less of some database than another standby did.
//!
//! The one idea: what the standby has is one change more, in the other direction. So the same code sends and applies it (`change`), and the
//! machine of `role` is told twice: that the standby is ahead, and that it is so no more. One standby at a time; of each database, whoever has
//! most is the one whose state remains, as each gives what goes beyond what is here by then. What is here alone is kept.
//!
//! What the standby gives is durable there, and made by a primary of an epoch below this one, or by this node: it follows this node by then,
//! and takes nothing from anybody else.

use std::sync::Arc;

use pleach_engine::Database;
use pleach_protocol::FEATURE_EDITS;
use pleach_protocol::limits::MESSAGES_AHEAD;
use tokio::sync::mpsc;

use super::{Answer, Answers, Request, Session, cut, send};
use crate::cluster::applied::{Applied, Position};
use crate::cluster::change::{Arriving, Part};
use crate::cluster::node::Node;
use crate::cluster::proto;
use crate::cluster::register::{self, Incarnation};
use crate::cluster::role::{Epoch, Input, Standing};
use crate::cluster::standby::receives;
use crate::error::{Error, Result};
use crate::limits::{SEQUENCE_JUMP_MAX, SILENCE_MAX};

impl Session<'_> {
    /// Has the node know how far the standby has come, which may make it take writes; takes from it what is lacking here.
    pub(super) async fn hear(&mut self, answers: &mut Answers<'_>, applied: &Arc<Applied>) -> Result<()> {
        let mut adopted = None;
        loop {
            let ahead = self.ahead().await?;
            self.peer.is_ahead(&ahead);
            if *self.node.leads().borrow() {
                return self.count_on(ahead).await;
            }
            let input = Input::Told { node: self.who, epoch: self.standing.epoch, ahead: !ahead.is_empty() };
            let node = self.node.clone();
            crate::blocking(move || node.step(&input)).await?;
            let Some((name, _)) = ahead.first() else { return Ok(()) };
            if !self.node.state().adopts() {
                return Ok(());
            }
            if adopted.as_ref() == Some(name) {
                return Err(Error::protocol(format!("the standby did not give all that it has of `{name}`")));
            }
            let turn = self.node.adopting().await;
            // Another standby may have had it.
            if let Some((name, there)) = self.ahead().await?.into_iter().next()
                && self.node.state().adopts()
            {
                let done = self.adopt(&name, there, answers, applied).await;
                if let Err(Error::Exchange(pleach_protocol::Error::WrongEdits { .. })) = done {
                    self.peer.takes_no_edits();
                }
                done?;
                adopted = Some(name);
            }
            drop(turn);
        }
    }

    /// The databases of which the standby has more than this node, and how far they have come there; the register, which says what was
    /// dropped, comes first.
    async fn ahead(&self) -> Result<Vec<(String, Position)>> {
        let there = self.held.iter().map(|(name, held)| (name.clone(), held.position, held.incarnation));
        let there: Vec<_> = there.collect();
        let (node, standby, epoch) = (self.node.clone(), self.peer.name().to_owned(), self.standing.epoch);
        crate::blocking(move || {
            let state = node.state();
            let led = state.led;
            let register = node.database(register::NAME)?;
            let mut ahead = Vec::new();
            for (name, position, incarnation) in there {
                let Some(position) = position else { continue };
                // What was dropped is not lost.
                if let (Some(register), Some(incarnation)) = (&register, incarnation)
                    && register::is_gone(register, &name, incarnation)?
                {
                    continue;
                }
                let own = match node.database(&name)? {
                    // What is left here of one that was dropped is nothing of the one that was made anew.
                    Some(database) if register::is_gone_copy(register.as_ref(), &name, &database)? => None,
                    Some(database) => Position::of(&database, &state)?,
                    // In an epoch that it led, it made none that it lacks, but for those of this epoch that it lost.
                    None if led == Some(epoch) && position.epoch != epoch.0 => continue,
                    None => None,
                };
                if own < Some(position) {
                    let (here, there) = (own.map(|own| own.text()), position.text());
                    tracing::warn!(
                        database = name,
                        standby,
                        ?here,
                        there,
                        "the standby has more than this node"
                    );
                    ahead.push((name, position));
                }
            }
            ahead.sort_by_key(|(name, _)| name != register::NAME);
            Ok(ahead)
        })
        .await
    }

    /// This node takes writes, and lost what the standby has: what it writes from now on has higher numbers than that.
    async fn count_on(&self, ahead: Vec<(String, Position)>) -> Result<()> {
        let (node, epoch) = (self.node.clone(), self.standing.epoch.0);
        crate::blocking(move || {
            for (name, position) in ahead.into_iter().filter(|(_, position)| position.epoch == epoch) {
                if let Some(database) = node.database(&name)? {
                    let next = Position { sequence: sequence_after(&database, position)?, ..position };
                    let text = next.text();
                    database.update_refs_and_setting_at(next.sequence, &[], Position::SETTING, &text)?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Takes what the standby, which has come as far as `there`, has of the database and this node lacks.
    async fn adopt(
        &self,
        name: &str,
        there: Position,
        answers: &mut Answers<'_>,
        applied: &Arc<Applied>,
    ) -> Result<()> {
        let (node, database) = (self.node.clone(), name.to_owned());
        let mine = crate::blocking(move || {
            let register = node.database(register::NAME)?;
            match node.database(&database)? {
                Some(here) if !register::is_gone_copy(register.as_ref(), &database, &here)? => {
                    proto::held(&database, &here, &node.state())
                }
                _ => Ok(Vec::new()),
            }
        });
        for held in mine.await? {
            send(&self.requests, Request::Held(held)).await?;
        }
        let features = if self.peer.may_take_edits() { FEATURE_EDITS } else { 0 };
        send(&self.requests, Request::Want(proto::Want { database: name.to_owned(), features })).await?;
        let (parts, mut received) = mpsc::channel(MESSAGES_AHEAD);
        let (node, applied) = (self.node.clone(), applied.clone());
        let wanted = Wanted { standing: self.standing, database: name.to_owned(), there };
        let taking = tokio::task::spawn_blocking(move || {
            take(&node, &applied, &wanted, &mut || received.blocking_recv())
        });
        loop {
            let silent = || Error::Lost { what: format!("the standby gave nothing for {SILENCE_MAX:?}") };
            let answer = tokio::time::timeout(SILENCE_MAX, answers.next());
            let part = match answer.await.map_err(|_| silent())?? {
                Answer::Change(change) => Part::Change(change),
                Answer::Updates(updates) => Part::Updates(updates),
                Answer::Data(data) => Part::Data(data),
                Answer::Finish(finish) => Part::Finish(finish),
                Answer::Fenced(fenced) => return Err(self.fenced(&fenced).await?),
                _ => return Err(Error::protocol("expected a change")),
            };
            let is_last = matches!(part, Part::Finish(_));
            // If the thread is gone, what it says is the reason.
            if parts.send(part).await.is_err() || is_last {
                break;
            }
        }
        drop(parts);
        taking.await.map_err(|lost| Error::Lost { what: lost.to_string() })??;
        tracing::warn!(
            database = name,
            standby = self.peer.name(),
            "what was lacking here has come from the standby"
        );
        Ok(())
    }
}

/// What a standby is asked for.
struct Wanted {
    /// In which this node claims its epoch.
    standing: Standing,
    database: String,
    /// How far the standby has come.
    there: Position,
}

/// Takes the change that gives what is `wanted`, as long as this node claims its epoch. Blocking.
fn take(
    node: &Node,
    applied: &Applied,
    Wanted { standing, database: wanted, there }: &Wanted,
    next: &mut dyn FnMut() -> Option<Part>,
) -> Result<()> {
    let overtaken = |standing| Error::Overtaken { standing };
    let Some(Part::Change(change)) = next() else { return Err(cut()) };
    let position = Position { epoch: change.epoch, sequence: change.sequence };
    if change.database != *wanted || position < *there || position.epoch > standing.epoch.0 {
        return Err(Error::protocol(format!("expected a change of `{wanted}` at {} or above", there.text())));
    }
    let incarnation = Incarnation::read(&change.incarnation)?;
    if let Some(register) = node.database(register::NAME)?
        && register::is_gone(&register, wanted, incarnation)?
    {
        return Err(Error::protocol(format!(
            "expected a change of `{wanted}`, found one of a database that was dropped"
        )));
    }
    let is_own = node.state().led == Some(Epoch(position.epoch));
    let applying = node.adopt(standing).map_err(overtaken)?;
    let Some((database, created)) = receives(node, &change)? else {
        return Err(Error::UnknownDatabase { database: change.database });
    };
    if created {
        applied.forget(wanted);
    }
    if is_own {
        sequence_after(&database, position)?;
    }
    drop(applying);
    let mut arriving = Arriving::new(database, created, change)?;
    let finish = loop {
        match next().ok_or_else(cut)? {
            Part::Updates(updates) => arriving.update(updates)?,
            Part::Data(data) => arriving.data(&data)?,
            Part::Finish(finish) => break finish,
            Part::Change(_) => return Err(Error::protocol("a Change before the Finish of the one before")),
        }
    };
    // What is here alone is kept, whatever the standby knows of it.
    let prepared = arriving.finish(finish.records)?.prepare(true)?;
    let _applying = node.adopt(standing).map_err(overtaken)?;
    prepared.adopt(position.epoch, is_own)?;
    applied.note(wanted, position.epoch, position.sequence);
    if wanted == register::NAME {
        for name in register::drop_dropped(node, true)? {
            applied.forget(&name);
        }
        node.register_changes().send_modify(|count| *count += 1);
    }
    Ok(())
}

/// The number of a change that comes after `position`, which a standby says.
fn sequence_after(database: &Database, position: Position) -> Result<u64> {
    match position.sequence.saturating_sub(database.sequence()) > SEQUENCE_JUMP_MAX {
        true => Err(Error::protocol(format!("change {} cannot be", position.sequence))),
        false => Ok(position.sequence + 1),
    }
}
