//! The serving side of replication: a tonic service that takes the changes of this node's primary. The contract is
//! `proto/pleach/replication/v1/replication.proto`.
//!
//! Nothing that a caller says is looked at before it is known who it is ([`auth`](crate::auth)).
//!
//! Network and chunks are apart: async code passes messages on, one blocking thread for each stream verifies, stores and acknowledges.
//! Role and epoch are compared when the stream opens, when a change begins, and while its refs move, so that nothing of a primary
//! that was fenced meanwhile ever lands.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pleach_engine::{Database, ErrorKind, RefUpdate};
use pleach_protocol::limits::{MESSAGE_BYTES_MAX, MESSAGES_AHEAD, REFS_MAX};
use pleach_protocol::{ChannelBinding, ConnectionInfo, FEATURE_EDITS, Receiver};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::applied::{Applied, Position};
use crate::auth::{Auth, Caller};
use crate::error::{Error, Result};
use crate::limits::{ANSWERS_AHEAD, DRAIN, GREETING_TIMEOUT, UPDATES_A_MESSAGE};
use crate::node::Node;
use crate::proto::replicate_request::Message;
use crate::proto::replicate_response::Message as Answer;
use crate::proto::replication_server::{Replication, ReplicationServer};
use crate::proto::{self, ReplicateRequest, ReplicateResponse};
use crate::role::{Input as Event, Reaction, Role, Standing};
use crate::shared_refs::{self, SharedRefs, Update};

/// Answers Replicate.
#[derive(Clone)]
pub(crate) struct ReplicationService {
    pub(crate) node: Arc<Node>,
    pub(crate) auth: Arc<Auth>,
    pub(crate) applied: Arc<Applied>,
    /// Whether rows that changed came to the tables that the primary has, whenever it sent such.
    pub(crate) alike: Arc<AtomicBool>,
    pub(crate) stop: watch::Receiver<bool>,
    /// Held by the threads of streams; gone once the node shuts down, which a service that is still mounted does not delay.
    pub(crate) alive: mpsc::WeakSender<()>,
}

impl ReplicationService {
    /// The service for a tonic router, with its limits set.
    pub(crate) fn into_server(self) -> ReplicationServer<ReplicationService> {
        ReplicationServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl Replication for ReplicationService {
    type ReplicateStream = ReceiverStream<Result<ReplicateResponse, Status>>;

    async fn replicate(
        &self,
        request: Request<Streaming<ReplicateRequest>>,
    ) -> Result<Response<Self::ReplicateStream>, Status> {
        let channel = request.extensions().get::<ConnectionInfo>().and_then(|connection| connection.binding);
        let mut requests = request.into_inner();
        let (hello, caller) = greeted(&self.auth, &mut requests, channel).await?;
        let (inputs, mut received) = mpsc::channel(MESSAGES_AHEAD);
        let (answers, stream) = mpsc::channel(ANSWERS_AHEAD);
        let alive = self.alive.upgrade().ok_or_else(|| Status::unavailable("this node is shutting down"))?;
        let (node, applied, alike) = (self.node.clone(), self.applied.clone(), self.alike.clone());
        let sign = {
            let auth = self.auth.clone();
            move |ack| auth.answer(&caller, ack, channel)
        };
        tokio::task::spawn_blocking(move || {
            let mut stream =
                Stream { node, applied, alike, answers, followed: None, tells_received: false, change: None };
            if let Err(error) = stream.serve(hello, sign, &mut || received.blocking_recv()) {
                tracing::warn!(%error, "a stream of replication ended");
                // The primary may be gone; then nobody waits for the error.
                let _ = stream.answers.blocking_send(Err(status(&error)));
            }
            drop(alive);
        });
        let (node, stop) = (self.node.clone(), self.stop.clone());
        tokio::spawn(pump(requests, inputs, node, stop));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Waits for the greeting of a stream, and checks who it is from.
async fn greeted(
    auth: &Auth,
    requests: &mut Streaming<ReplicateRequest>,
    channel: Option<ChannelBinding>,
) -> Result<(proto::Hello, Caller), Status> {
    let first = tokio::time::timeout(GREETING_TIMEOUT, requests.message()).await;
    let first = first.map_err(|_| Status::unauthenticated("no greeting came"))??;
    let Some(ReplicateRequest { message: Some(Message::Greeting(signed)) }) = first else {
        return Err(Status::unauthenticated("a stream begins with a signed greeting"));
    };
    auth.hear(&signed, channel).await.map_err(|why| {
        tracing::warn!("somebody who wants to replicate is refused: {why}");
        Status::unauthenticated(why.to_string())
    })
}

/// What the thread of a stream is told.
enum Input {
    Message(Message),
    /// The standing of this node changed.
    Standing,
}

/// Passes messages, and changes of the standing, on to the thread of a stream.
async fn pump(
    mut stream: Streaming<ReplicateRequest>,
    inputs: mpsc::Sender<Input>,
    node: Arc<Node>,
    mut stop: watch::Receiver<bool>,
) {
    let mut standings = node.changes();
    loop {
        let input = tokio::select! {
            message = stream.message() => match message {
                Ok(Some(ReplicateRequest { message: Some(message) })) => Input::Message(message),
                // The end, a broken connection, or a message of a later version: the thread sees that no more comes.
                _ => return,
            },
            Ok(()) = standings.changed() => Input::Standing,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        if inputs.send(input).await.is_err() {
            break;
        }
    }
    // The thread refused the stream. What was sent already is read, so that the reason arrives instead of a reset.
    let drain = async { while let Ok(Some(_)) = stream.message().await {} };
    let _ = tokio::time::timeout(DRAIN, drain).await;
}

/// One stream, on its thread.
struct Stream {
    node: Arc<Node>,
    applied: Arc<Applied>,
    alike: Arc<AtomicBool>,
    answers: mpsc::Sender<Result<ReplicateResponse, Status>>,
    /// The standing in which this node follows the caller.
    followed: Option<Standing>,
    /// The caller wants to know what arrived, before that is durable.
    tells_received: bool,
    change: Option<Change>,
}

/// A change on its way.
struct Change {
    sequence: u64,
    name: String,
    database: Database,
    /// The database was made for this change.
    created: bool,
    updates: Vec<Update>,
    receiver: Receiver,
}

impl Stream {
    /// Serves until the stream ends, or this node does not follow the caller any longer.
    fn serve(
        &mut self,
        hello: proto::Hello,
        sign: impl FnOnce(proto::HelloAck) -> proto::Signed,
        next: &mut dyn FnMut() -> Option<Input>,
    ) -> Result<()> {
        let mut fenced = self.hello(hello, sign)?;
        while fenced.is_none() {
            let Some(input) = next() else { return Ok(()) };
            fenced = match input {
                Input::Standing => self.outranked(),
                Input::Message(message) => self.take(message)?,
            };
        }
        let standing = fenced.as_ref().map(Into::into);
        self.answer(Answer::Fenced(proto::Fenced { standing }));
        Ok(())
    }

    /// The standing of this node, if it is no longer the one in which it follows the caller.
    fn outranked(&self) -> Option<Standing> {
        let now = self.node.standing();
        self.followed.filter(|followed| *followed != now).map(|_| now)
    }

    fn answer(&self, message: Answer) {
        // Whoever does not wait for the answer has gone; the next message of the stream is its end.
        let _ = self.answers.blocking_send(Ok(ReplicateResponse { message: Some(message) }));
    }

    /// Takes a message. Gives the standing in which the caller is not followed, if that is so.
    fn take(&mut self, message: Message) -> Result<Option<Standing>> {
        match (message, &self.followed) {
            (_, None) | (Message::Greeting(_), Some(_)) => {
                return Err(Error::protocol("a stream begins with one Greeting"));
            }
            (Message::Heartbeat(_), Some(_)) => self.node.hear(),
            (Message::Change(change), Some(_)) => return self.begin(change),
            (Message::Updates(part), Some(_)) => {
                let change = under_way(&mut self.change)?;
                for update in part.updates {
                    change.updates.push(update.try_into()?);
                }
                if change.updates.len() > REFS_MAX {
                    return Err(Error::protocol(format!("more than {REFS_MAX} updates in a change")));
                }
            }
            (Message::Data(data), Some(_)) => {
                let received = under_way(&mut self.change)?.receiver.receive(&data);
                if let Err(pleach_protocol::Error::WrongEdits { .. }) = received {
                    // The primary comes again, and then sends chunks.
                    self.alike.store(false, Ordering::Relaxed);
                }
                received?;
            }
            (Message::Finish(finish), Some(followed)) => {
                let followed = *followed;
                let change =
                    self.change.take().ok_or_else(|| Error::protocol("a Finish without a Change"))?;
                return self.finish(change, finish.records, &followed);
            }
        }
        Ok(None)
    }

    /// Meets the caller, and says what is here if it is to be followed.
    fn hello(
        &mut self,
        hello: proto::Hello,
        sign: impl FnOnce(proto::HelloAck) -> proto::Signed,
    ) -> Result<Option<Standing>> {
        let caller = proto::node(&hello.node)?;
        let theirs = Standing::try_from(hello.standing)?;
        if theirs.role != Role::Primary || theirs.leader != Some(caller) {
            return Err(Error::protocol("only a primary replicates"));
        }
        // A node that calls itself must not find two primaries; the answer shows it.
        let myself = caller == self.node.id();
        let meet = Event::Meet { node: caller, standing: theirs };
        let reaction = if myself { Reaction::Nothing } else { self.node.step(&meet)? };
        let standing = self.node.standing();
        self.answer(Answer::GreetingAnswer(sign(proto::HelloAck {
            node: proto::node_bytes(self.node.id()),
            standing: Some((&standing).into()),
            format_digest: pleach_protocol::format_digest(),
            features: if self.alike.load(Ordering::Relaxed) { FEATURE_EDITS } else { 0 },
        })));
        if reaction != Reaction::Follow {
            return Ok(Some(standing));
        }
        self.followed = Some(Standing { role: Role::Standby, ..theirs });
        self.tells_received = hello.tell_received;
        self.node.follow(&standing, hello.listener_url);
        self.node.hear();
        self.held()?;
        Ok(self.outranked())
    }

    /// Says which databases are here, with their shared refs.
    fn held(&self) -> Result<()> {
        for name in self.node.databases().list()? {
            let Some(database) = self.node.databases().get(&name)? else { continue };
            // Read before the refs, which so are no older.
            let mut position = Position::of(&database, self.node.state().led)?.map(Into::into);
            let refs: Vec<_> = shared_refs::read(&database).into_iter().collect();
            for part in refs.chunks(UPDATES_A_MESSAGE) {
                let refs = part.iter().map(|(name, hash)| proto::Ref {
                    name: name.clone(),
                    hash: proto::hash_bytes(Some(*hash)),
                });
                let held =
                    proto::Held { database: name.clone(), refs: refs.collect(), position: position.take() };
                self.answer(Answer::Held(held));
            }
        }
        self.answer(Answer::Ready(proto::Ready {}));
        Ok(())
    }

    fn begin(&mut self, change: proto::Change) -> Result<Option<Standing>> {
        let Some(followed) = self.followed.filter(|followed| followed.epoch.0 == change.epoch) else {
            return Err(Error::protocol(format!(
                "a change of epoch {}, which this stream is not of",
                change.epoch
            )));
        };
        if self.change.is_some() {
            return Err(Error::protocol("a Change before the Finish of the one before"));
        }
        let applying = match self.node.apply(&followed) {
            Ok(applying) => applying,
            Err(now) => return Ok(Some(now)),
        };
        let databases = self.node.databases();
        let (database, created) = match databases.get(&change.database)? {
            Some(database) => (database, false),
            None if change.create => (databases.create(&change.database)?, true),
            None => return Err(Error::UnknownDatabase { database: change.database }),
        };
        database.set_epoch(followed.epoch.0);
        drop(applying);
        let receiver = Receiver::new(&database)?;
        let (sequence, name, updates) = (change.sequence, change.database, Vec::new());
        self.change = Some(Change { sequence, name, database, created, updates, receiver });
        Ok(None)
    }

    /// Moves the refs of a change that has arrived whole, and acknowledges it.
    fn finish(&mut self, change: Change, records: u64, followed: &Standing) -> Result<Option<Standing>> {
        let Change { sequence, name, database, created, updates, receiver } = change;
        let mut names = HashSet::new();
        if let Some(twice) = updates.iter().find(|update| !names.insert(&update.name)) {
            return Err(Error::protocol(format!("{} stands twice in a change", twice.name)));
        }
        let received = receiver.finish(records, &shared_refs::targets(&updates))?;
        if self.tells_received {
            self.answer(Answer::Received(proto::Received { database: name.clone(), sequence }));
        }
        // Until the refs have moved, nothing else keeps what was received.
        let _hold = received.append(&database)?;
        check(&database, &updates)?;
        let mut updates = updates;
        if !self.applied.has(&name, followed.epoch.0) {
            mark_lost(&database, &mut updates)?;
        }
        let updates = ref_updates(&database, created, updates);
        {
            let _applying = match self.node.apply(followed) {
                Ok(applying) => applying,
                Err(now) => return Ok(Some(now)),
            };
            let position = Position { epoch: followed.epoch.0, sequence };
            if !updates.is_empty() || Position::of(&database, None)? != Some(position) {
                // Durable when it returns.
                let moved = database.update_refs_and_setting(&updates, Position::SETTING, &position.text());
                moved.map_err(|error| match error {
                    pleach_engine::Error::Moved { name: moved } => {
                        Error::Moved { database: name.clone(), name: moved }
                    }
                    other => other.into(),
                })?;
            }
            self.applied.note(&name, followed.epoch.0, sequence);
        }
        self.node.hear();
        self.answer(Answer::Ack(proto::Ack { database: name, sequence }));
        Ok(None)
    }
}

fn under_way(change: &mut Option<Change>) -> Result<&mut Change> {
    change.as_mut().ok_or_else(|| Error::protocol("a part of a change before its Change"))
}

/// Checks that heads and tags become commits, and work becomes a catalogue.
fn check(database: &Database, updates: &[Update]) -> Result<()> {
    for update in updates {
        let Some(new) = &update.new else { continue };
        let fits = match update.name.starts_with("work/") {
            true => database.snapshot_of_root(*new).map(drop),
            false => database.commit_object(new).map(drop),
        };
        fits.map_err(|error| Error::protocol(format!("{}: {error}", update.name)))?;
    }
    Ok(())
}

/// Marks as diverged what the first change of a leader would lose. That the leader's store has it is not enough: chunks of a change that
/// was fenced stay there, though no ref of it ever named them.
fn mark_lost(database: &Database, updates: &mut [Update]) -> Result<()> {
    for update in updates {
        let Some(old) = update.old.filter(|old| update.new != Some(*old)) else { continue };
        let goes_on = match (update.name.strip_prefix("work/"), update.new) {
            // Work that was committed is kept by its head.
            (Some(branch), _) => match database.branch(branch)?.and_then(|branch| branch.head) {
                Some(head) => database.commit_object(&head)?.root == old,
                None => database.snapshot_of_root(old)?.tables()?.is_empty(),
            },
            (None, Some(new)) => database.is_ancestor(&old, &new)?,
            (None, None) => false,
        };
        update.diverged |= !goes_on;
    }
    Ok(())
}

/// The moves of a change, with what keeps a diverged value under `recovery/`.
fn ref_updates(database: &Database, created: bool, updates: Vec<Update>) -> Vec<RefUpdate> {
    let mut moves: Vec<RefUpdate> = Vec::with_capacity(updates.len());
    // A database that was just made has a first branch of its own, which nobody has seen.
    let mut made: SharedRefs = if created { shared_refs::read(database) } else { SharedRefs::new() };
    let number = database.sequence();
    for Update { name, old, new, diverged } in updates {
        if let Some(lost) = old.filter(|_| diverged) {
            tracing::warn!(was = name, %lost, "the primary does not have this any more; it is kept under recovery/");
            moves.push(shared_refs::keep(database, &name, lost, number));
        }
        let old = old.or(made.remove(&name));
        moves.push(RefUpdate { name, old, new });
    }
    moves.extend(made.into_iter().map(|(name, old)| RefUpdate { name, old: Some(old), new: None }));
    moves
}

/// An error as the primary sees it.
fn status(error: &Error) -> Status {
    let code = match error {
        Error::Protocol { .. } => Code::InvalidArgument,
        Error::Moved { .. } | Error::UnknownDatabase { .. } => Code::Aborted,
        Error::Exchange(error) => match error.kind() {
            pleach_protocol::ErrorKind::Peer | pleach_protocol::ErrorKind::Input => Code::InvalidArgument,
            _ => Code::Internal,
        },
        Error::Engine(error) if error.kind() == ErrorKind::Damaged => Code::DataLoss,
        _ => Code::Internal,
    };
    Status::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use pleach_engine::{Hash, NewCommit};

    use super::*;

    fn put(database: &Database, value: &[u8]) {
        let mut transaction = database.begin("main").unwrap();
        if !transaction.has_table("t").unwrap() {
            transaction.create_table("t", None).unwrap();
        }
        transaction.put("t", b"k", value).unwrap();
        transaction.commit().unwrap();
    }

    fn is_lost(database: &Database, name: &str, old: Hash, new: Option<Hash>) -> bool {
        let mut updates = [Update { name: name.into(), old: Some(old), new, diverged: false }];
        mark_lost(database, &mut updates).unwrap();
        updates[0].diverged
    }

    #[test]
    fn the_first_change_of_a_leader_keeps_what_it_does_not_go_on_from() {
        let database = Database::memory().unwrap();
        put(&database, b"1");
        let first = database.commit("main", NewCommit::default()).unwrap();
        put(&database, b"2");
        let second =
            database.commit("main", NewCommit { message: "tail".into(), ..NewCommit::default() }).unwrap();
        assert!(!is_lost(&database, "heads/main", first.hash, Some(second.hash)), "it goes on");
        assert!(is_lost(&database, "heads/main", second.hash, Some(first.hash)), "the tail is left behind");
        assert!(is_lost(&database, "heads/main", second.hash, None), "the branch is gone");
        assert!(!is_lost(&database, "work/main", second.root, Some(first.root)), "the head keeps it");
        put(&database, b"3");
        let work = database.branch("main").unwrap().unwrap().work;
        assert!(is_lost(&database, "work/main", work, Some(second.root)), "nothing else keeps it");
    }
}
