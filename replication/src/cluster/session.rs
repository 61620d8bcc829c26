//! One stream from this primary to one standby: greet, learn what the standby holds, then keep it equal. The contract is
//! `proto/pleach/replication/v1/replication.proto`.
//!
//! The one idea: a change is not logged but computed, as the difference between what the standby acknowledged and what is here now. So a
//! standby that is behind gets one change however much it missed, and the primary keeps only the refs that each standby last had.
//! Network and chunks are apart: a blocking thread walks the difference, a bounded channel passes back-pressure on.
//!
//! A primary that claims an epoch, and finds the standby ahead in some database, takes that first: the same change in the other direction
//! (`adoption`).

mod adoption;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use pleach_engine::Database;
use pleach_protocol::limits::{MESSAGE_BYTES_MAX, MESSAGES_AHEAD, REFS_MAX};
use pleach_protocol::{ChannelBinding, may_send_edits};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::cluster::applied::{Applied, Position};
use crate::cluster::auth::{Auth, Fingerprint, Nonce, Refused};
use crate::cluster::change::{Gathered, Part, Reading};
use crate::cluster::node::Node;
use crate::cluster::peer::Peer;
use crate::cluster::proto::replicate_request::Message as Request;
use crate::cluster::proto::replicate_response::Message as Answer;
use crate::cluster::proto::replication_client::ReplicationClient;
use crate::cluster::proto::{self, ReplicateRequest, ReplicateResponse};
use crate::cluster::register::{self, Incarnation};
use crate::cluster::role::{Input, NodeId, Reaction, Role, Standing};
use crate::cluster::tracked::Tracked;
use crate::error::{Error, Result};
use crate::limits::{CHANGES_AHEAD, HEARTBEAT};
use crate::shared_refs::{KeptMoves, SharedRefs};

/// What a primary says to each standby.
pub(crate) struct Greeting {
    /// Signs it.
    pub(crate) auth: Arc<Auth>,
    /// Where clients reach this node.
    pub(crate) listener_url: String,
    /// It acknowledges what has arrived at standbys, though it is not durable there.
    pub(crate) tell_received: bool,
    /// What this node has applied.
    pub(crate) applied: Arc<Applied>,
}

/// How a standby forwards what it applied.
pub(crate) struct Forward {
    /// By which nodes it comes here, the primary first.
    pub(crate) path: Vec<NodeId>,
    /// How far it has come.
    pub(crate) applied: Arc<Applied>,
}

/// Leads the standby, or forwards to it, until the stream ends, which is always an error.
pub(crate) async fn run(
    node: &Arc<Node>,
    peer: &Peer,
    databases: &Tracked,
    standing: Standing,
    greeting: &Greeting,
    forward: Option<Forward>,
) -> Error {
    let ended = async {
        let (requests, stream) = mpsc::channel(MESSAGES_AHEAD);
        let hello = proto::Hello {
            node: proto::node_bytes(node.id()),
            standing: Some((&standing).into()),
            format_digest: pleach_protocol::format_digest(),
            features: 0,
            listener_url: match forward {
                Some(_) => node.primary_url().unwrap_or_default(),
                None => greeting.listener_url.clone(),
            },
            tell_received: greeting.tell_received && forward.is_none(),
            path: forward
                .iter()
                .flat_map(|forward| &forward.path)
                .map(|node| proto::node_bytes(*node))
                .collect(),
        };
        let (channel, bound) = peer.connect().await?;
        let to = peer.keys().of_server(&channel).await;
        let to = to.map_err(|what| Error::NoKeys { url: peer.server().to_owned(), what })?;
        if to == greeting.auth.fingerprint() {
            return Err(Error::Myself { url: peer.server().to_owned(), node: node.id() });
        }
        let binding = bound.binding();
        let signed = greeting.auth.greet(to, hello, binding);
        let (signed, nonce) = signed.map_err(|why| unauthenticated(peer, why))?;
        send(&requests, Request::Greeting(signed)).await?;
        let mut client = ReplicationClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let answers = client.replicate(ReceiverStream::new(stream)).await;
        let mut answers =
            Answers { stream: answers.map_err(|status| refused(peer, &status))?.into_inner(), peer };
        let asked = Asked { auth: &greeting.auth, to, nonce, binding };
        let Greeted { who, held, edits } =
            greet(node, peer, &standing, forward.as_ref(), &asked, &mut answers).await?;
        peer.connected();
        let mut session = Session {
            node,
            peer,
            who,
            databases,
            standing,
            forward,
            edits,
            held,
            sending: None,
            in_flight: HashMap::new(),
            requests,
        };
        if session.forward.is_none() {
            session.hear(&mut answers, &greeting.applied).await?;
        }
        session.keep().await?;
        session.lead(&mut answers).await
    };
    match ended.await {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

/// What an answer must be one to.
struct Asked<'a> {
    auth: &'a Auth,
    to: Fingerprint,
    nonce: Nonce,
    binding: Option<ChannelBinding>,
}

fn unauthenticated(peer: &Peer, why: Refused) -> Error {
    Error::Unauthenticated { url: peer.server().to_owned(), why }
}

/// The answers of a standby.
struct Answers<'a> {
    stream: Streaming<ReplicateResponse>,
    peer: &'a Peer,
}

impl Answers<'_> {
    async fn next(&mut self) -> Result<Answer> {
        let cut = || Error::Unreachable {
            url: self.peer.server().to_owned(),
            what: "the stream was closed".into(),
        };
        let answer = self.stream.message().await.map_err(|status| refused(self.peer, &status))?;
        answer.ok_or_else(cut)?.message.ok_or_else(|| Error::protocol("an empty answer"))
    }
}

/// What a standby told of itself.
struct Greeted {
    who: NodeId,
    /// By name, its databases.
    held: BTreeMap<String, Held>,
    /// Whether it takes rows that changed.
    edits: bool,
}

/// A database as a standby has it.
#[derive(Default)]
struct Held {
    refs: SharedRefs,
    /// After which change of which store here the refs were these.
    seen: Option<([u8; 16], u64)>,
    incarnation: Option<Incarnation>,
    /// How far it had come when it greeted.
    position: Option<Position>,
}

/// Says Hello's part of the exchange: reacts to what the peer is, and learns what it holds.
async fn greet(
    node: &Arc<Node>,
    peer: &Peer,
    standing: &Standing,
    forward: Option<&Forward>,
    asked: &Asked<'_>,
    answers: &mut Answers<'_>,
) -> Result<Greeted> {
    let Answer::GreetingAnswer(signed) = answers.next().await? else {
        return Err(Error::protocol("the answer to a Greeting begins with a GreetingAnswer"));
    };
    // What it says counts once it is known who says it.
    let ack = asked.auth.check_answer(asked.to, &asked.nonce, &signed, asked.binding);
    let ack = ack.map_err(|why| unauthenticated(peer, why))?;
    let who = proto::node(&ack.node)?;
    if who == node.id() {
        return Err(Error::Myself { url: peer.server().to_owned(), node: node.id() });
    }
    let theirs = Standing::try_from(ack.standing)?;
    let reaction = meet(node, who, theirs).await?;
    if forward.is_some_and(|forward| forward.path.contains(&who)) {
        return Err(Error::Loop { url: peer.server().to_owned(), node: who });
    }
    let expected = if forward.is_some() { Reaction::Nothing } else { Reaction::Lead };
    if reaction != expected || theirs != (Standing { role: Role::Standby, ..*standing }) {
        return Err(Error::NotFollowing { standing: theirs });
    }
    if ack.format_digest != pleach_protocol::format_digest() {
        tracing::warn!(
            standby = peer.name(),
            "the standby computes with other formats; whole chunks are sent"
        );
    }
    let mut held: BTreeMap<String, Held> = BTreeMap::new();
    loop {
        match answers.next().await? {
            Answer::Ready(_) => {
                let edits = may_send_edits(ack.format_digest, ack.features);
                return Ok(Greeted { who, held, edits });
            }
            Answer::Held(part) => {
                let held = held.entry(part.database).or_default();
                if let Some(position) = part.position {
                    held.position = Some(position.into());
                }
                if !part.incarnation.is_empty() {
                    held.incarnation = Some(Incarnation::read(&part.incarnation)?);
                }
                for one in part.refs {
                    held.refs.insert(one.name, proto::hash(&one.hash)?);
                }
                if held.refs.len() > REFS_MAX {
                    return Err(Error::protocol(format!("more than {REFS_MAX} refs in a database")));
                }
            }
            _ => return Err(Error::protocol("expected Held or Ready")),
        }
    }
}

/// Meets the peer on a thread that may write the role file.
async fn meet(node: &Arc<Node>, who: NodeId, theirs: Standing) -> Result<Reaction> {
    let node = node.clone();
    crate::blocking(move || node.step(&Input::Meet { node: who, standing: theirs })).await
}

struct Session<'a> {
    node: &'a Arc<Node>,
    peer: &'a Peer,
    who: NodeId,
    databases: &'a Tracked,
    standing: Standing,
    /// This node is a standby itself.
    forward: Option<Forward>,
    /// Whether tables travel as the rows that changed.
    edits: bool,
    /// What the standby has of each database once the last change that was sent has arrived; not while one is being sent.
    held: BTreeMap<String, Held>,
    /// The change that a thread is sending.
    sending: Option<Sending>,
    /// What was sent and is not acknowledged, by database, in order.
    in_flight: HashMap<String, VecDeque<Sent>>,
    requests: mpsc::Sender<ReplicateRequest>,
}

struct Sending {
    database: String,
    thread: JoinHandle<Result<Made>>,
}

/// A change of which only the last message is still to be sent.
struct Made {
    sent: Sent,
    last: Request,
    /// What the standby has then, and what keeps that.
    held: Held,
    kept: KeptMoves,
}

/// A change that was sent, and is to be acknowledged.
struct Sent {
    /// Of which store it is: another may come under the same name.
    store: [u8; 16],
    /// The number of the last change here that is included.
    sequence: u64,
    /// The primary's number of it.
    said: u64,
    read_at: Instant,
}

impl Session<'_> {
    /// Keeps what the standby holds, as far as it is here: what it lacks is a difference to that.
    async fn keep(&self) -> Result<()> {
        for (name, held) in &self.held {
            if let Some(database) = self.databases.get(name) {
                let refs = held.refs.clone();
                let kept = crate::blocking(move || KeptMoves::to_all(database.store(), &refs)).await?;
                self.peer.holds(name, kept);
            }
        }
        Ok(())
    }

    /// Reacts to a standby that does not follow.
    async fn fenced(&self, fenced: &proto::Fenced) -> Result<Error> {
        let standing = Standing::try_from(fenced.standing.clone())?;
        meet(self.node, self.who, standing).await?;
        Ok(Error::NotFollowing { standing })
    }

    async fn lead(mut self, answers: &mut Answers<'_>) -> Result<std::convert::Infallible> {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        let mut leads = self.node.leads();
        loop {
            if self.sending.is_none() && (*leads.borrow_and_update() || self.forward.is_some()) {
                self.sending = self.next_change();
            }
            tokio::select! {
                answer = answers.next() => match answer? {
                    Answer::Ack(ack) => self.ack(&ack)?,
                    Answer::Received(received) => self.peer.received(&received.database, received.sequence),
                    Answer::Fenced(fenced) => return Err(self.fenced(&fenced).await?),
                    _ => return Err(Error::protocol("expected Ack or Fenced")),
                },
                sent = sent(&mut self.sending) => {
                    let (database, Made { sent, last, mut held, kept }) = sent?;
                    // What is no longer kept is to be kept anew, all of it.
                    if !self.peer.sent(&database, sent.sequence, kept) {
                        held.seen = None;
                    }
                    self.held.insert(database.clone(), held);
                    self.in_flight.entry(database).or_default().push_back(sent);
                    send(&self.requests, last).await?;
                }
                () = self.peer.changed() => {}
                // The sender lives as long as the node.
                Ok(()) = leads.changed() => {}
                _ = heartbeat.tick(), if self.sending.is_none() => {
                    send(&self.requests, Request::Heartbeat(proto::Heartbeat {})).await?;
                }
            }
        }
    }

    /// Begins to send what the standby lacks of some database: first one of which nothing is on its way. What the register says goes before
    /// all that comes after it.
    fn next_change(&mut self) -> Option<Sending> {
        let lacks = |name: &String, database: &Database| {
            !self.in_flight.contains_key(name)
                && self.peer.behind(name, database.sequence()).is_some()
                && self.may_send(name)
        };
        let has_more = |name: &String, database: &Database| {
            let last = self.in_flight.get(name).and_then(VecDeque::back);
            last.is_some_and(|last| last.sequence < database.sequence())
        };
        let has_room = |name: &String| self.in_flight.get(name).is_none_or(|sent| sent.len() < CHANGES_AHEAD);
        let register = register::NAME.to_owned();
        let of_register = self
            .databases
            .get(&register)
            .filter(|database| lacks(&register, database) || has_more(&register, database));
        let (name, database) = match of_register {
            Some(database) if has_room(&register) => (register, database),
            Some(_) => return None,
            None => self.databases.find(lacks).or_else(|| {
                self.databases.find(|name, database| has_more(name, database) && has_room(name))
            })?,
        };
        let held = self.held.remove(&name);
        let (epoch, edits, requests) = (self.standing.epoch.0, self.edits, self.requests.clone());
        let (node, named, forwards) = (self.node.clone(), name.clone(), self.forward.is_some());
        let thread = tokio::task::spawn_blocking(move || {
            send_change(&node, &named, &database, held, epoch, forwards, edits, &mut |part| {
                let message = ReplicateRequest { message: Some(part.into()) };
                requests.blocking_send(message).map_err(|_| cut())
            })
        });
        Some(Sending { database: name, thread })
    }

    /// Whether what is here of a database is that of the primary of this epoch, and no less than the standby has. A primary's own always is.
    fn may_send(&self, name: &str) -> bool {
        let (Some(forward), epoch) = (&self.forward, self.standing.epoch.0) else { return true };
        let there = self.held.get(name).and_then(|held| held.position);
        let there = there.filter(|position| position.epoch == epoch).map(|position| position.sequence);
        forward.applied.reached(name, epoch).is_some_and(|here| Some(here) >= there)
    }

    /// Takes an acknowledgement.
    fn ack(&mut self, ack: &proto::Ack) -> Result<()> {
        let in_flight = self.in_flight.get_mut(&ack.database);
        let sent = in_flight.and_then(VecDeque::pop_front).filter(|sent| sent.said == ack.sequence);
        let Some(sent) = sent else {
            let what = format!("an Ack of `{}` at {}, which was not sent", ack.database, ack.sequence);
            return Err(Error::protocol(what));
        };
        if self.in_flight.get(&ack.database).is_some_and(VecDeque::is_empty) {
            self.in_flight.remove(&ack.database);
        }
        let database = self.databases.get(&ack.database);
        if let Some(database) = database.filter(|database| database.store().id() == sent.store) {
            self.peer.acked(&ack.database, sent.sequence, sent.read_at, database.sequence());
            self.peer.has(&ack.database);
        }
        Ok(())
    }
}

/// The change that was being sent, when its thread is done; never if there is none.
async fn sent(sending: &mut Option<Sending>) -> Result<(String, Made)> {
    let Some(under_way) = sending else { return std::future::pending().await };
    let sent = (&mut under_way.thread).await.map_err(|lost| Error::Lost { what: lost.to_string() })?;
    let database = std::mem::take(&mut under_way.database);
    *sending = None;
    Ok((database, sent?))
}

/// Sends the change of a database but for its last message, to who has `held` of it. Blocking.
#[allow(clippy::too_many_arguments)] // All that a change depends on, apart from the session, which goes on meanwhile.
fn send_change(
    node: &Node,
    name: &str,
    database: &Database,
    held: Option<Held>,
    epoch: u64,
    forwards: bool,
    edits: bool,
    send: &mut dyn FnMut(Part) -> Result<()>,
) -> Result<Made> {
    let register = node.database(register::NAME)?;
    let incarnation = match name == register::NAME || forwards {
        true => Incarnation::of(database)?,
        false => register::incarnation_to_send(register.as_ref(), name, database)?,
    };
    // What is dropped there with the change of the register before this one, or set aside.
    let is_dropped = match (&register, held.as_ref().and_then(|held| held.incarnation)) {
        (Some(register), Some(other)) if other != incarnation => register::is_dropped(register, name, other)?,
        _ => false,
    };
    let held = held.filter(|_| !is_dropped);
    // Of what is forwarded, the primary's number is read first: there is no less than that.
    let position = if forwards { Position::applied(database)? } else { None };
    let (create, store) = (held.is_none(), database.store().id());
    let Held { refs, seen, position: there, .. } = held.unwrap_or_default();
    let seen = seen.filter(|(of, _)| *of == store).map(|(_, sequence)| sequence);
    let reading = Reading::of(database, refs, seen)?;
    let said = match position {
        Some(position) if position.epoch == epoch => position.sequence,
        Some(_) => return Err(cut()),
        None => reading.sequence,
    };
    let change = proto::Change {
        epoch,
        sequence: said,
        database: name.to_owned(),
        create,
        incarnation: incarnation.into(),
    };
    let mut gathered = Gathered::default();
    let records = reading.send(database, change, edits, &mut |part| gathered.add(part, send))?;
    let last = gathered.last(records);
    let Reading { sequence, read_at, refs, kept, .. } = reading;
    let seen = Some((store, sequence));
    let held = Held { refs, seen, incarnation: Some(incarnation), position: there };
    Ok(Made { sent: Sent { store, sequence, said, read_at }, last, held, kept })
}

impl From<Part> for Request {
    fn from(part: Part) -> Request {
        match part {
            Part::Change(change) => Request::Change(change),
            Part::Updates(updates) => Request::Updates(updates),
            Part::Data(data) => Request::Data(data),
            Part::Finish(finish) => Request::Finish(finish),
        }
    }
}

async fn send(requests: &mpsc::Sender<ReplicateRequest>, message: Request) -> Result<()> {
    requests.send(ReplicateRequest { message: Some(message) }).await.map_err(|_| cut())
}

fn cut() -> Error {
    Error::Lost { what: "the stream to the standby was closed".into() }
}

/// What a gRPC status of the standby means.
fn refused(peer: &Peer, status: &Status) -> Error {
    match std::error::Error::source(status) {
        Some(cause) => peer.unreachable(cause),
        None => {
            let (url, what) = (peer.server().to_owned(), status.message().to_owned());
            Error::PeerRefused { url, code: status.code(), what }
        }
    }
}
