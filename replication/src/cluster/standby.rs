//! The serving side of replication: a tonic service that takes the changes of this node's primary, and gives it what it lacks before it
//! takes writes. The contract is
//! `proto/pleach/replication/v1/replication.proto`.
//!
//! Nothing that a caller says is looked at before it is known who it is ([`auth`](crate::cluster::auth)).
//!
//! Network and chunks are apart: async code passes messages on, one blocking thread for each stream verifies, stores and acknowledges.
//! Role and epoch are compared when the stream opens, when a change begins, and while its refs move, so that nothing of a primary
//! that was fenced meanwhile ever lands.

#[doc(hidden)]
pub mod testing;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pleach_engine::{Database, ErrorKind};
use pleach_protocol::limits::{MESSAGE_BYTES_MAX, MESSAGES_AHEAD, REFS_MAX};
use pleach_protocol::{ChannelBinding, ConnectionInfo, FEATURE_EDITS, may_send_edits};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::cluster::applied::{Applied, Position};
use crate::cluster::auth::{Auth, Caller};
use crate::cluster::change::{Arriving, Part, Reading};
use crate::cluster::node::{Feeding, Node};
use crate::cluster::proto::replicate_request::Message;
use crate::cluster::proto::replicate_response::Message as Answer;
use crate::cluster::proto::replication_server::{Replication, ReplicationServer};
use crate::cluster::proto::{self, ReplicateRequest, ReplicateResponse};
use crate::cluster::register::{self, Incarnation};
use crate::cluster::role::{Input as Event, Reaction, Role, Standing};
use crate::error::{Error, Result};
use crate::limits::{ANSWERS_AHEAD, DRAIN, GREETING_TIMEOUT, PATH_MAX};
use crate::shared_refs::SharedRefs;

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
            let mut stream = Stream {
                node,
                applied,
                alike,
                answers,
                followed: None,
                greeted: None,
                feeding: None,
                wanted: SharedRefs::new(),
                change: None,
            };
            if let Err(error) = stream.serve(hello, sign, &mut || received.blocking_recv()) {
                match error {
                    // Who calls comes again, for the time when it is needed.
                    Error::Fed { .. } => tracing::debug!("{error}"),
                    _ => tracing::warn!(%error, "a stream of replication ended"),
                }
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
    /// The standing of this node changed, or whence its changes come.
    Standing,
}

/// Passes messages, and changes of the standing, on to the thread of a stream.
async fn pump(
    mut stream: Streaming<ReplicateRequest>,
    inputs: mpsc::Sender<Input>,
    node: Arc<Node>,
    mut stop: watch::Receiver<bool>,
) {
    let (mut standings, mut feeds) = (node.changes(), node.feeds());
    loop {
        let input = tokio::select! {
            message = stream.message() => match message {
                Ok(Some(ReplicateRequest { message: Some(message) })) => Input::Message(message),
                // The end, a broken connection, or a message of a later version: the thread sees that no more comes.
                _ => return,
            },
            Ok(()) = standings.changed() => Input::Standing,
            Ok(()) = feeds.changed() => Input::Standing,
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
    /// What the caller said of itself.
    greeted: Option<Greeted>,
    /// That it is this stream by which changes come.
    feeding: Option<Feeding>,
    /// What the caller has of the database that it will want.
    wanted: SharedRefs,
    change: Option<Arriving>,
}

struct Greeted {
    /// It wants to know what arrived, before that is durable.
    tells_received: bool,
    /// What it computes with.
    format_digest: u64,
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
                Input::Standing => self.outranked()?,
                Input::Message(message) => self.take(message)?,
            };
        }
        let standing = fenced.as_ref().map(Into::into);
        self.answer(Answer::Fenced(proto::Fenced { standing }));
        Ok(())
    }

    /// The standing of this node, if it is no longer the one in which it follows the caller.
    fn outranked(&self) -> Result<Option<Standing>> {
        let now = self.node.standing();
        if self.followed.is_some_and(|followed| followed != now) {
            return Ok(Some(now));
        }
        self.feeding.as_ref().map_or(Ok(()), Feeding::is_current)?;
        Ok(None)
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
            (Message::Updates(part), Some(_)) => under_way(&mut self.change)?.update(part)?,
            (Message::Data(data), Some(_)) => {
                let received = under_way(&mut self.change)?.data(&data);
                if let Err(Error::Exchange(pleach_protocol::Error::WrongEdits { .. })) = received {
                    // The primary comes again, and then sends chunks.
                    self.alike.store(false, Ordering::Relaxed);
                }
                received?;
            }
            (Message::Whole(whole), Some(_)) => return self.take_whole(whole),
            (Message::Held(part), Some(_)) => {
                for one in part.refs {
                    self.wanted.insert(one.name, proto::hash(&one.hash)?);
                }
                if self.wanted.len() > REFS_MAX {
                    return Err(Error::protocol(format!("more than {REFS_MAX} refs in a database")));
                }
            }
            (Message::Want(want), Some(followed)) => {
                let followed = *followed;
                return self.give(&want, &followed);
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

    /// Takes the parts of a change that came as one message.
    fn take_whole(&mut self, whole: proto::Whole) -> Result<Option<Standing>> {
        let proto::Whole { change, updates, data, records } = whole;
        let change = change.ok_or_else(|| Error::protocol("a Whole without a Change"))?;
        let begins = [Message::Change(change), Message::Updates(proto::Updates { updates })];
        let data = (!data.is_empty()).then_some(Message::Data(data));
        for part in begins.into_iter().chain(data) {
            if let Some(fenced) = self.take(part)? {
                return Ok(Some(fenced));
            }
        }
        self.take(Message::Finish(proto::Finish { records }))
    }

    /// Meets the caller, and says what is here if it is to be followed.
    fn hello(
        &mut self,
        hello: proto::Hello,
        sign: impl FnOnce(proto::HelloAck) -> proto::Signed,
    ) -> Result<Option<Standing>> {
        let caller = proto::node(&hello.node)?;
        let theirs = Standing::try_from(hello.standing)?;
        let mut path = hello.path.iter().map(|node| proto::node(node)).collect::<Result<Vec<_>>>()?;
        if path.len() > PATH_MAX {
            return Err(Error::protocol(format!("a path of more than {PATH_MAX} nodes")));
        }
        let expected = match path.first() {
            None => (Role::Primary, Some(caller)),
            first => (Role::Standby, first.copied()),
        };
        if (theirs.role, theirs.leader) != expected {
            return Err(Error::protocol("only a primary, or a standby that says by which nodes, replicates"));
        }
        path.push(caller);
        // A node that calls itself must not find two primaries; the answer shows it.
        let comes_back = path.contains(&self.node.id());
        // Whom a forwarder follows is met by its word, but not by a primary: that one the forwarder outranks, or not.
        let is_word = path.len() > 1 && self.node.standing().role != Role::Primary;
        let meet = match is_word {
            true => Event::Meet { node: path[0], standing: Standing { role: Role::Primary, ..theirs } },
            false => Event::Meet { node: caller, standing: theirs },
        };
        let reaction = if comes_back { Reaction::Nothing } else { self.node.step(&meet)? };
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
        self.greeted =
            Some(Greeted { tells_received: hello.tell_received, format_digest: hello.format_digest });
        // Before the feed, which tells those that forward: they pass on where the primary is.
        self.node.follow(&standing, hello.listener_url);
        self.feeding = Some(self.node.feed(standing, path)?);
        self.node.hear();
        self.held()?;
        self.outranked()
    }

    /// Says which databases are here, with their shared refs.
    fn held(&self) -> Result<()> {
        for name in self.node.names()? {
            let Some(database) = self.node.database(&name)? else { continue };
            for held in proto::held(&name, &database, &self.node.state())? {
                self.answer(Answer::Held(held));
            }
        }
        self.answer(Answer::Ready(proto::Ready {}));
        Ok(())
    }

    /// Gives the caller what it lacks of a database.
    fn give(&mut self, want: &proto::Want, followed: &Standing) -> Result<Option<Standing>> {
        if let Err(now) = self.node.apply(followed) {
            return Ok(Some(now));
        }
        let held = std::mem::take(&mut self.wanted);
        let unknown = || Error::UnknownDatabase { database: want.database.clone() };
        let database = self.node.database(&want.database)?.ok_or_else(unknown)?;
        let state = self.node.state();
        let (position, reading) = loop {
            let position = Position::of(&database, &state)?;
            let reading = Reading::of(&database, held.clone(), None)?;
            // A change of the caller from before it restarted may still have been on its way.
            if Position::of(&database, &state)? == position {
                break (position, reading);
            }
        };
        let Some(position) = position else {
            return Err(Error::protocol(format!(
                "nothing of `{}` is known to be of a primary",
                want.database
            )));
        };
        tracing::warn!(
            database = want.database,
            position = position.text(),
            "the primary takes what it lacks"
        );
        let change = proto::Change {
            epoch: position.epoch,
            sequence: position.sequence,
            database: want.database.clone(),
            create: held.is_empty(),
            incarnation: Incarnation::of(&database)?.into(),
        };
        let format_digest = self.greeted.as_ref().map_or(0, |greeted| greeted.format_digest);
        let edits = may_send_edits(format_digest, want.features);
        let records = reading.send(&database, change, edits, &mut |part| {
            self.answer(part.into());
            Ok(())
        })?;
        self.answer(Part::Finish(proto::Finish { records }).into());
        Ok(None)
    }

    fn begin(&mut self, change: proto::Change) -> Result<Option<Standing>> {
        let Some(followed) = self.followed.filter(|followed| followed.epoch.0 == change.epoch) else {
            return Err(Error::protocol(format!(
                "a change of epoch {}, which this stream is not of",
                change.epoch
            )));
        };
        if let Some(now) = self.outranked()? {
            return Ok(Some(now));
        }
        if self.change.is_some() {
            return Err(Error::protocol("a Change before the Finish of the one before"));
        }
        let applying = match self.node.apply(&followed) {
            Ok(applying) => applying,
            Err(now) => return Ok(Some(now)),
        };
        let (database, created) = match receives(&self.node, &change)? {
            Some(received) => received,
            None => return Err(Error::UnknownDatabase { database: change.database }),
        };
        if created {
            self.applied.forget(&change.database);
        }
        database.set_epoch(followed.epoch.0);
        drop(applying);
        self.change = Some(Arriving::new(database, created, change)?);
        Ok(None)
    }

    /// Moves the refs of a change that has arrived whole, and acknowledges it.
    fn finish(&mut self, change: Arriving, records: u64, followed: &Standing) -> Result<Option<Standing>> {
        let arrived = change.finish(records)?;
        let (database, sequence) = (arrived.name.clone(), arrived.sequence);
        if self.greeted.as_ref().is_some_and(|greeted| greeted.tells_received) {
            self.answer(Answer::Received(proto::Received { database: database.clone(), sequence }));
        }
        let prepared = arrived.prepare(!self.applied.has(&database, followed.epoch.0))?;
        if let Some(now) = self.outranked()? {
            return Ok(Some(now));
        }
        {
            let _applying = match self.node.apply(followed) {
                Ok(applying) => applying,
                Err(now) => return Ok(Some(now)),
            };
            prepared.apply(followed.epoch.0)?;
            self.applied.note(&database, followed.epoch.0, sequence);
            if database == register::NAME {
                for name in register::drop_dropped(&self.node, true)? {
                    self.applied.forget(&name);
                }
                self.node.register_changes().send_modify(|count| *count += 1);
            }
        }
        self.node.hear();
        self.answer(Answer::Ack(proto::Ack { database, sequence }));
        Ok(None)
    }
}

/// The database that a change is to be applied to, and whether it was made for it; `None` if it is not here and not to be made. What is
/// here of another incarnation is set aside if the sender has nothing of it, and else goes over into the sender's.
pub(crate) fn receives(node: &Node, change: &proto::Change) -> Result<Option<(Database, bool)>> {
    let (name, incarnation) = (&change.database, Incarnation::read(&change.incarnation)?);
    if let Some(database) = node.database(name)? {
        let is_other = Incarnation::of(&database)? != incarnation;
        if !change.create || !is_other || name == register::NAME {
            incarnation.mark(&database)?;
            return Ok(Some((database, false)));
        }
        drop(database);
        register::set_aside(node, name, "its primary made another database of that name")?;
    } else if !change.create {
        return Ok(None);
    }
    let database = node.create(name)?;
    incarnation.mark(&database)?;
    Ok(Some((database, true)))
}

impl From<Part> for Answer {
    fn from(part: Part) -> Answer {
        match part {
            Part::Change(change) => Answer::Change(change),
            Part::Updates(updates) => Answer::Updates(updates),
            Part::Data(data) => Answer::Data(data),
            Part::Finish(finish) => Answer::Finish(finish),
        }
    }
}

fn under_way(change: &mut Option<Arriving>) -> Result<&mut Arriving> {
    change.as_mut().ok_or_else(|| Error::protocol("a part of a change before its Change"))
}

/// An error as the primary sees it.
fn status(error: &Error) -> Status {
    let code = match error {
        Error::Protocol { .. } => Code::InvalidArgument,
        Error::Moved { .. } | Error::UnknownDatabase { .. } | Error::Superseded => Code::Aborted,
        Error::Fed { .. } => Code::FailedPrecondition,
        Error::Exchange(error) => match error.kind() {
            pleach_protocol::ErrorKind::Peer | pleach_protocol::ErrorKind::Input => Code::InvalidArgument,
            _ => Code::Internal,
        },
        Error::Engine(error) if error.kind() == ErrorKind::Damaged => Code::DataLoss,
        _ => Code::Internal,
    };
    Status::new(code, error.to_string())
}
