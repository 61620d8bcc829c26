//! One stream from this primary to one standby: greet, learn what the standby holds, then keep it equal. The contract is
//! `proto/pleach/replication/v1/replication.proto`.
//!
//! The one idea: a change is not logged but computed, as the difference between what the standby acknowledged and what is here now. So a
//! standby that is behind gets one change however much it missed, and the primary keeps only the refs that each standby last had.
//! Network and chunks are apart: a blocking thread walks the difference, a bounded channel passes back-pressure on.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use pleach_engine::{Database, Hash, Pins};
use pleach_protocol::limits::{MESSAGE_BYTES_MAX, MESSAGES_AHEAD, REFS_MAX};
use pleach_protocol::{Sender, endpoint, may_send_edits, root_cause};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::error::{Error, Result};
use crate::limits::{HEARTBEAT, UPDATES_A_MESSAGE};
use crate::node::Node;
use crate::peer::Peer;
use crate::proto::replicate_request::Message as Request;
use crate::proto::replicate_response::Message as Answer;
use crate::proto::replication_client::ReplicationClient;
use crate::proto::{self, ReplicateRequest, ReplicateResponse};
use crate::role::{Reaction, Standing};
use crate::shared_refs::{self, SharedRefs};
use crate::tracked::Tracked;

/// Leads the standby until the stream ends, which is always an error. `listener_url` is where clients reach this node.
pub(crate) async fn run(
    node: &Arc<Node>,
    peer: &Peer,
    databases: &Tracked,
    standing: Standing,
    listener_url: &str,
) -> Error {
    let ended = async {
        let (requests, stream) = mpsc::channel(MESSAGES_AHEAD);
        let hello = proto::Hello {
            node: proto::node_bytes(node.id()),
            standing: Some((&standing).into()),
            format_digest: pleach_protocol::format_digest(),
            features: 0,
            listener_url: listener_url.to_owned(),
        };
        send(&requests, Request::Hello(hello)).await?;
        let mut client = connect(peer.server()).await?;
        let answers = client.replicate(ReceiverStream::new(stream)).await;
        let mut answers =
            Answers { stream: answers.map_err(|status| refused(peer, &status))?.into_inner(), peer };
        let (held, edits) = greet(node, peer, &standing, &mut answers).await?;
        pin(peer, databases, &held).await?;
        peer.connected();
        let session = Session {
            peer,
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

async fn connect(server: &str) -> Result<ReplicationClient<Channel>> {
    let unreachable = |error: &dyn std::error::Error| Error::Unreachable {
        url: server.to_owned(),
        what: root_cause(error),
    };
    let endpoint = endpoint(server).map_err(|error| unreachable(&error))?.keep_alive_while_idle(true);
    let channel = endpoint.connect().await.map_err(|error| unreachable(&error))?;
    Ok(ReplicationClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX))
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

/// Says Hello's part of the exchange: reacts to what the peer is, and learns what it holds, and whether it takes rows that changed.
async fn greet(
    node: &Arc<Node>,
    peer: &Peer,
    standing: &Standing,
    answers: &mut Answers<'_>,
) -> Result<(BTreeMap<String, SharedRefs>, bool)> {
    let Answer::HelloAck(ack) = answers.next().await? else {
        return Err(Error::protocol("the answer to a Hello begins with a HelloAck"));
    };
    if proto::node(&ack.node)? == node.id() {
        return Err(Error::Myself { url: peer.server().to_owned(), node: node.id() });
    }
    let theirs = Standing::try_from(ack.standing)?;
    let reaction = meet(node, theirs).await?;
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
    loop {
        match answers.next().await? {
            Answer::Ready(_) => return Ok((held, may_send_edits(ack.format_digest, ack.features))),
            Answer::Held(part) => {
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

/// Meets the peer on a thread that may write the role file.
async fn meet(node: &Arc<Node>, theirs: Standing) -> Result<Reaction> {
    let node = node.clone();
    crate::blocking(move || node.meet(&theirs)).await
}

struct Session<'a> {
    peer: &'a Peer,
    databases: &'a Tracked,
    standing: Standing,
    /// Whether tables travel as the rows that changed.
    edits: bool,
    /// What the standby has of each database, while no change of it is under way.
    held: BTreeMap<String, SharedRefs>,
    /// The change that a thread is sending.
    sending: Option<Sending>,
    /// What was sent and is not acknowledged, by database.
    in_flight: HashMap<String, Sent>,
    requests: mpsc::Sender<ReplicateRequest>,
}

struct Sending {
    database: String,
    thread: JoinHandle<Result<Sent>>,
}

/// A change that was sent but for its Finish.
struct Sent {
    sequence: u64,
    /// What the standby has after it.
    refs: SharedRefs,
    records: u64,
    read_at: Instant,
    /// Keeps them here.
    pins: Pins,
}

impl Session<'_> {
    async fn lead(mut self, node: &Arc<Node>, answers: &mut Answers<'_>) -> Result<std::convert::Infallible> {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        loop {
            if self.sending.is_none() {
                self.sending = self.next_change();
            }
            tokio::select! {
                answer = answers.next() => match answer? {
                    Answer::Ack(ack) => self.ack(&ack)?,
                    Answer::Fenced(fenced) => {
                        let standing = Standing::try_from(fenced.standing)?;
                        meet(node, standing).await?;
                        return Err(Error::NotFollowing { standing });
                    }
                    _ => return Err(Error::protocol("expected Ack or Fenced")),
                },
                sent = sent(&mut self.sending) => {
                    let (database, sent) = sent?;
                    let finish = proto::Finish { records: sent.records };
                    self.peer.sent(&database, sent.pins.clone());
                    self.in_flight.insert(database, sent);
                    send(&self.requests, Request::Finish(finish)).await?;
                }
                () = self.peer.changed() => {}
                _ = heartbeat.tick(), if self.sending.is_none() => {
                    send(&self.requests, Request::Heartbeat(proto::Heartbeat {})).await?;
                }
            }
        }
    }

    /// Begins to send what the standby lacks of some database, one at a time for each.
    fn next_change(&mut self) -> Option<Sending> {
        let lacks = |name: &String, database: &Database| {
            !self.in_flight.contains_key(name) && self.peer.behind(name, database.sequence()).is_some()
        };
        let (name, database) = self.databases.find(lacks)?;
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
        let sent = self.in_flight.remove(&ack.database).filter(|sent| sent.sequence == ack.sequence);
        let Some(sent) = sent else {
            let what = format!("an Ack of `{}` at {}, which was not sent", ack.database, ack.sequence);
            return Err(Error::protocol(what));
        };
        self.held.insert(ack.database.clone(), sent.refs);
        if let Some(database) = self.databases.get(&ack.database) {
            self.peer.acked(&ack.database, sent.sequence, sent.read_at, database.sequence());
            self.peer.holds(&ack.database, sent.pins);
        }
        Ok(())
    }
}

/// The change that was being sent, when its thread is done; never if there is none.
async fn sent(sending: &mut Option<Sending>) -> Result<(String, Sent)> {
    let Some(under_way) = sending else { return std::future::pending().await };
    let sent = (&mut under_way.thread).await.map_err(|lost| Error::Lost { what: lost.to_string() })?;
    let database = std::mem::take(&mut under_way.database);
    *sending = None;
    Ok((database, sent?))
}

/// Sends a change but for its Finish: what makes `held` equal to `database` now. Blocking.
fn send_change(
    database: &Database,
    change: proto::Change,
    held: &SharedRefs,
    edits: bool,
    send: &mut dyn FnMut(Request) -> Result<()>,
) -> Result<Sent> {
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
    Ok(Sent { sequence, refs, records, read_at, pins })
}

async fn send(requests: &mpsc::Sender<ReplicateRequest>, message: Request) -> Result<()> {
    requests.send(ReplicateRequest { message: Some(message) }).await.map_err(|_| cut())
}

fn cut() -> Error {
    Error::Lost { what: "the stream to the standby was closed".into() }
}

/// What a gRPC status of the standby means.
fn refused(peer: &Peer, status: &Status) -> Error {
    let url = peer.server().to_owned();
    match std::error::Error::source(status) {
        Some(cause) => Error::Unreachable { url, what: root_cause(cause) },
        None => Error::PeerRefused { url, code: status.code(), what: status.message().to_owned() },
    }
}
