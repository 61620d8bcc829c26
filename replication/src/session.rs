//! One stream from this primary to one standby: greet, learn what the standby holds, then keep it equal. The contract is
//! `proto/pleach/replication/v1/replication.proto`.
//!
//! The one idea: a change is not logged but computed, as the difference between what the standby acknowledged and what is here now. So a
//! standby that is behind gets one change however much it missed, and the primary keeps only the refs that each standby last had.
//! Network and chunks are apart: a blocking thread walks the difference, a bounded channel passes back-pressure on.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use pleach_engine::{Database, Hash, Pins};
use pleach_protocol::limits::{MESSAGE_BYTES_MAX, MESSAGES_AHEAD, REFS_MAX};
use pleach_protocol::{ChannelBinding, Sender, may_send_edits};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::applied::Position;
use crate::auth::{Auth, Fingerprint, Nonce, Refused};
use crate::error::{Error, Result};
use crate::limits::{CHANGES_AHEAD, HEARTBEAT, UPDATES_A_MESSAGE};
use crate::node::Node;
use crate::peer::Peer;
use crate::proto::replicate_request::Message as Request;
use crate::proto::replicate_response::Message as Answer;
use crate::proto::replication_client::ReplicationClient;
use crate::proto::{self, ReplicateRequest, ReplicateResponse};
use crate::role::{Input, NodeId, Reaction, Standing};
use crate::shared_refs::{self, SharedRefs};
use crate::tracked::Tracked;

/// What a primary says to each standby.
pub(crate) struct Greeting {
    /// Signs it.
    pub(crate) auth: Arc<Auth>,
    /// Where clients reach this node.
    pub(crate) listener_url: String,
    /// It acknowledges what has arrived at standbys, though it is not durable there.
    pub(crate) tell_received: bool,
}

/// Leads the standby until the stream ends, which is always an error.
pub(crate) async fn run(
    node: &Arc<Node>,
    peer: &Peer,
    databases: &Tracked,
    standing: Standing,
    greeting: &Greeting,
) -> Error {
    let ended = async {
        let (requests, stream) = mpsc::channel(MESSAGES_AHEAD);
        let hello = proto::Hello {
            node: proto::node_bytes(node.id()),
            standing: Some((&standing).into()),
            format_digest: pleach_protocol::format_digest(),
            features: 0,
            listener_url: greeting.listener_url.clone(),
            tell_received: greeting.tell_received,
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
        let Greeted { who, held, positions, edits } =
            greet(node, peer, &standing, &asked, &mut answers).await?;
        pin(peer, databases, &held).await?;
        peer.connected();
        tell(node, peer, databases, standing, who, positions).await?;
        let session = Session {
            peer,
            who,
            databases,
            standing,
            edits,
            held,
            sending: None,
            in_flight: HashMap::new(),
            requests,
        };
        session.lead(node, &mut answers).await
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
    /// By database, its refs there.
    held: BTreeMap<String, SharedRefs>,
    /// By database, how far it has come.
    positions: BTreeMap<String, Position>,
    /// Whether it takes rows that changed.
    edits: bool,
}

/// Says Hello's part of the exchange: reacts to what the peer is, and learns what it holds.
async fn greet(
    node: &Arc<Node>,
    peer: &Peer,
    standing: &Standing,
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
    if reaction != Reaction::Lead || theirs.epoch != standing.epoch || theirs.leader != Some(node.id()) {
        return Err(Error::NotFollowing { standing: theirs });
    }
    if ack.format_digest != pleach_protocol::format_digest() {
        tracing::warn!(
            standby = peer.name(),
            "the standby computes with other formats; whole chunks are sent"
        );
    }
    let mut held: BTreeMap<String, SharedRefs> = BTreeMap::new();
    let mut positions = BTreeMap::new();
    loop {
        match answers.next().await? {
            Answer::Ready(_) => {
                let edits = may_send_edits(ack.format_digest, ack.features);
                return Ok(Greeted { who, held, positions, edits });
            }
            Answer::Held(part) => {
                if let Some(position) = part.position {
                    positions.insert(part.database.clone(), position.into());
                }
                let refs = held.entry(part.database).or_default();
                for one in part.refs {
                    refs.insert(one.name, proto::hash(&one.hash)?);
                }
                if refs.len() > REFS_MAX {
                    return Err(Error::protocol(format!("more than {REFS_MAX} refs in a database")));
                }
            }
            _ => return Err(Error::protocol("expected Held or Ready")),
        }
    }
}

/// Pins what the standby holds, as far as it is here: what it lacks is a difference to that.
async fn pin(peer: &Peer, databases: &Tracked, held: &BTreeMap<String, SharedRefs>) -> Result<()> {
    for (name, refs) in held {
        if let Some(database) = databases.get(name) {
            let roots: Vec<Hash> = refs.values().copied().collect();
            let pins = crate::blocking(move || Ok(Pins::of(database.store(), roots)?)).await?;
            peer.holds(name, pins);
        }
    }
    Ok(())
}

/// Has the node know how far the standby has come, which may make it take writes.
async fn tell(
    node: &Arc<Node>,
    peer: &Peer,
    databases: &Tracked,
    standing: Standing,
    who: NodeId,
    positions: BTreeMap<String, Position>,
) -> Result<()> {
    if *node.leads().borrow() {
        return Ok(());
    }
    let mine: BTreeMap<String, Database> = databases.all().into_iter().collect();
    let (node, standby) = (node.clone(), peer.name().to_owned());
    crate::blocking(move || {
        let led = node.state().led;
        let mut ahead = false;
        for (name, position) in positions {
            let own = match mine.get(&name) {
                Some(database) => Position::of(database, led)?,
                // This node dropped it, if it led the epoch.
                None if led == Some(standing.epoch) => continue,
                None => None,
            };
            if own < Some(position) {
                ahead = true;
                let (here, there) = (own.map(|own| own.text()), position.text());
                tracing::warn!(database = name, standby, ?here, there, "the standby has more than this node");
            }
        }
        node.step(&Input::Told { node: who, epoch: standing.epoch, ahead })
    })
    .await?;
    Ok(())
}

/// Meets the peer on a thread that may write the role file.
async fn meet(node: &Arc<Node>, who: NodeId, theirs: Standing) -> Result<Reaction> {
    let node = node.clone();
    crate::blocking(move || node.step(&Input::Meet { node: who, standing: theirs })).await
}

struct Session<'a> {
    peer: &'a Peer,
    who: NodeId,
    databases: &'a Tracked,
    standing: Standing,
    /// Whether tables travel as the rows that changed.
    edits: bool,
    /// What the standby has of each database once the last change that was sent has arrived; not while one is being sent.
    held: BTreeMap<String, SharedRefs>,
    /// The change that a thread is sending.
    sending: Option<Sending>,
    /// What was sent and is not acknowledged, by database, in order.
    in_flight: HashMap<String, VecDeque<Sent>>,
    requests: mpsc::Sender<ReplicateRequest>,
}

struct Sending {
    database: String,
    thread: JoinHandle<Result<(Sent, SharedRefs, Pins)>>,
}

/// A change that was sent but for its Finish.
struct Sent {
    sequence: u64,
    records: u64,
    read_at: Instant,
}

impl Session<'_> {
    async fn lead(mut self, node: &Arc<Node>, answers: &mut Answers<'_>) -> Result<std::convert::Infallible> {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        let mut leads = node.leads();
        loop {
            if self.sending.is_none() && *leads.borrow_and_update() {
                self.sending = self.next_change();
            }
            tokio::select! {
                answer = answers.next() => match answer? {
                    Answer::Ack(ack) => self.ack(&ack)?,
                    Answer::Received(received) => self.peer.received(&received.database, received.sequence),
                    Answer::Fenced(fenced) => {
                        let standing = Standing::try_from(fenced.standing)?;
                        meet(node, self.who, standing).await?;
                        return Err(Error::NotFollowing { standing });
                    }
                    _ => return Err(Error::protocol("expected Ack or Fenced")),
                },
                sent = sent(&mut self.sending) => {
                    let (database, sent, refs, pins) = sent?;
                    let finish = proto::Finish { records: sent.records };
                    self.peer.sent(&database, pins);
                    self.held.insert(database.clone(), refs);
                    self.in_flight.entry(database).or_default().push_back(sent);
                    send(&self.requests, Request::Finish(finish)).await?;
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

    /// Begins to send what the standby lacks of some database: first one of which nothing is on its way.
    fn next_change(&mut self) -> Option<Sending> {
        let lacks = |name: &String, database: &Database| {
            !self.in_flight.contains_key(name) && self.peer.behind(name, database.sequence()).is_some()
        };
        let goes_on = |name: &String, database: &Database| {
            let sent = self.in_flight.get(name).filter(|sent| sent.len() < CHANGES_AHEAD);
            sent.and_then(VecDeque::back).is_some_and(|last| last.sequence < database.sequence())
        };
        let (name, database) = self.databases.find(lacks).or_else(|| self.databases.find(goes_on))?;
        let held = self.held.remove(&name);
        let (epoch, edits, requests) = (self.standing.epoch.0, self.edits, self.requests.clone());
        let change = proto::Change { epoch, sequence: 0, database: name.clone(), create: held.is_none() };
        let thread = tokio::task::spawn_blocking(move || {
            send_change(&database, change, &held.unwrap_or_default(), edits, &mut |message| {
                let message = ReplicateRequest { message: Some(message) };
                requests.blocking_send(message).map_err(|_| cut())
            })
        });
        Some(Sending { database: name, thread })
    }

    /// Takes an acknowledgement.
    fn ack(&mut self, ack: &proto::Ack) -> Result<()> {
        let in_flight = self.in_flight.get_mut(&ack.database);
        let sent = in_flight.and_then(VecDeque::pop_front).filter(|sent| sent.sequence == ack.sequence);
        let Some(sent) = sent else {
            let what = format!("an Ack of `{}` at {}, which was not sent", ack.database, ack.sequence);
            return Err(Error::protocol(what));
        };
        if self.in_flight.get(&ack.database).is_some_and(VecDeque::is_empty) {
            self.in_flight.remove(&ack.database);
        }
        if let Some(database) = self.databases.get(&ack.database) {
            self.peer.acked(&ack.database, sent.sequence, sent.read_at, database.sequence());
            self.peer.has(&ack.database);
        }
        Ok(())
    }
}

/// The change that was being sent, when its thread is done; never if there is none.
async fn sent(sending: &mut Option<Sending>) -> Result<(String, Sent, SharedRefs, Pins)> {
    let Some(under_way) = sending else { return std::future::pending().await };
    let sent = (&mut under_way.thread).await.map_err(|lost| Error::Lost { what: lost.to_string() })?;
    let database = std::mem::take(&mut under_way.database);
    *sending = None;
    let (sent, refs, pins) = sent?;
    Ok((database, sent, refs, pins))
}

/// Sends a change but for its Finish: what makes `held` equal to `database` now. Gives what the standby then has, with pins on it.
/// Blocking.
fn send_change(
    database: &Database,
    change: proto::Change,
    held: &SharedRefs,
    edits: bool,
    send: &mut dyn FnMut(Request) -> Result<()>,
) -> Result<(Sent, SharedRefs, Pins)> {
    let read_at = Instant::now();
    // Read before the refs, which so include it.
    let sequence = database.sequence();
    let (refs, pins) = shared_refs::read_pinned(database)?;
    let knows = |hash: &Hash| database.store().contains(hash);
    let updates = shared_refs::updates(held, &refs, knows);
    send(Request::Change(proto::Change { sequence, ..change }))?;
    for part in updates.chunks(UPDATES_A_MESSAGE) {
        send(Request::Updates(proto::Updates { updates: part.iter().map(Into::into).collect() }))?;
    }
    let targets = shared_refs::targets(&updates);
    let mut records = 0;
    if !targets.is_empty() {
        let bases = shared_refs::bases(held, &updates, knows);
        let difference = pleach_engine::difference(database, &targets, &bases)?;
        let mut sender = Sender::new(database, difference)?.with_edits(edits);
        while let Some(data) = sender.next_message()? {
            send(Request::Data(data))?;
        }
        records = sender.records();
    }
    Ok((Sent { sequence, records, read_at }, refs, pins))
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
