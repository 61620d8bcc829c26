//! The serving side: a tonic service over [`Databases`], to be put on the embedder's own router.
//!
//! Network and chunks are apart: async code moves messages, one blocking thread for each transfer reads or writes chunks, and a
//! channel of [`MESSAGES_AHEAD`] messages between them passes back-pressure on, so that memory is bounded on a slow connection as
//! on a slow disk.
//!
//! ```no_run
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! use pleach_protocol::{Databases, Identity, Incoming, ServerTls, SyncService, transport};
//! use tokio::net::TcpListener;
//!
//! let databases = Databases::new("data".as_ref(), pleach_engine::Options::default())?;
//! let tls = ServerTls::read(Identity { cert: "chain.pem".into(), key: "key.pem".into() }, None)?;
//! let incoming = Incoming::new(TcpListener::bind("127.0.0.1:7420").await?, Some(tls));
//! transport().add_service(SyncService::new(databases).into_server()).serve_with_incoming(incoming).await?;
//! # Ok(())
//! # }
//! ```

mod fetch;
mod get;
mod pace;
mod push;
mod turns;
mod watch;

use std::sync::{Arc, Weak};

use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use self::pace::Pace;
use self::push::{Answers, Pushes};
use self::turns::{Class, Turns};
use self::watch::{Watch, Watches};
use crate::access::{Access, Guarded, Right};
use crate::databases::Databases;
use crate::error::Error;
use crate::limits::{
    CONNECTION_WINDOW_BYTES, CUT_PUSH_KEPT, DRAIN_MESSAGES_MAX, KEEP_ALIVE, MESSAGE_BYTES_MAX,
    MESSAGES_AHEAD, STREAM_WINDOW_BYTES, STREAMS_MAX,
};
use crate::proto::{self, sync_server::SyncServer};
use crate::transfer::framed;

/// Held while a push moves refs, so that who changes a role can wait until it is done.
pub type PushPermit = Box<dyn Send>;

/// Says whether pushes are taken: a standby or a read replica refuses them.
pub trait PushGate: Send + Sync + 'static {
    /// Lets a push to `database` in, or says, for people, why nothing may be pushed to it now. Asked before anything else, and
    /// again when the chunks are here; the permit is held while refs move.
    fn admit(&self, database: &str) -> Result<PushPermit, String>;
}

impl<F: Fn(&str) -> Result<PushPermit, String> + Send + Sync + 'static> PushGate for F {
    fn admit(&self, database: &str) -> Result<PushPermit, String> {
        self(database)
    }
}

/// Answers Fetch, Push, Watch and Get.
#[derive(Clone)]
pub struct SyncService {
    databases: Databases,
    gate: Arc<dyn PushGate>,
    access: Access,
    answers: Arc<Answers>,
    pushes: Arc<Pushes>,
    turns: Arc<Turns>,
    watches: Arc<Watches>,
}

impl SyncService {
    /// A service over `databases` that takes pushes.
    pub fn new(databases: Databases) -> SyncService {
        let watches = Arc::new(Watches::new(databases.clone()));
        SyncService {
            databases,
            watches,
            gate: Arc::new(|_: &str| Ok(Box::new(()) as PushPermit)),
            access: Access::open(),
            answers: Arc::default(),
            pushes: Arc::default(),
            turns: Turns::new(),
        }
    }

    /// The same service, asking `gate` before each push.
    pub fn with_gate(self, gate: impl PushGate) -> SyncService {
        SyncService { gate: Arc::new(gate), ..self }
    }

    /// The same service, for those alone who have access.
    pub fn with_access(self, access: Access) -> SyncService {
        SyncService { access, ..self }
    }

    /// Ends all watches, which otherwise last as long as their callers wish, and takes no more: call it on a clone when the server is to stop.
    pub fn end_watches(&self) {
        self.watches.end();
    }

    /// The service for a tonic router, with its limits set. It reads no message of a call that has no access.
    pub fn into_server(self) -> Guarded<SyncServer<SyncService>> {
        let access = self.access.clone();
        let server = SyncServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        access.guard(server)
    }
}

/// A transport with the windows and limits that the exchange needs, for the connections of an [`Incoming`](crate::Incoming). Any other
/// listener must set TCP_NODELAY on what it accepts: the setting of this builder has no effect on it, and without, pushes are more than
/// ten times slower.
pub fn transport() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .tcp_nodelay(true)
}

#[tonic::async_trait]
impl proto::sync_server::Sync for SyncService {
    type FetchStream = ReceiverStream<Result<proto::FetchResponse, Status>>;
    type PushStream = ReceiverStream<Result<proto::PushResponse, Status>>;
    type WatchStream = ReceiverStream<Result<proto::WatchResponse, Status>>;

    async fn fetch(
        &self,
        request: Request<proto::FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let caller = self.access.caller(request.metadata())?;
        // Nobody who gets nothing takes a turn of others.
        caller.require(Right::Read, &request.get_ref().database).map_err(|error| status(&error))?;
        // Who has nothing gets everything, and who goes on was getting much.
        let is_long = request.get_ref().haves.is_empty() || request.get_ref().resume.is_some();
        let mut turn = self.turns.take(if is_long { Class::Long } else { Class::Live }).await?;
        let (messages, last, stream) = answers()?;
        let databases = self.databases.clone();
        tokio::task::spawn_blocking(move || {
            let mut pace = Pace::default();
            let served = fetch::serve(&databases, &caller, &request.into_inner(), &mut |message| {
                let message = proto::FetchResponse { message: Some(message) };
                let bytes = framed(&message);
                let is_taken = turn.moves(bytes) && pace.send(&messages, Ok(message));
                pace.moved(bytes);
                is_taken
            });
            // The caller may be gone; then nobody waits for what is said.
            match served {
                Err(error) => drop(last.send(Err(status(&error)))),
                Ok(()) if pace.is_over() => drop(last.send(Err(Status::unavailable(
                    "the answer was not read; fetch again, what has arrived is not sent twice",
                )))),
                Ok(()) if turn.is_lost() => drop(last.send(Err(Status::unavailable(
                    "others go first; fetch again, what has arrived is not sent twice",
                )))),
                Ok(()) => {}
            }
            drop(turn);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn push(
        &self,
        request: Request<Streaming<proto::PushRequest>>,
    ) -> Result<Response<Self::PushStream>, Status> {
        let caller = self.access.caller(request.metadata())?;
        if !caller.may_any(Right::Write) {
            return Err(status(&caller.refuse(Right::Write, "any database")));
        }
        let mut turn = self.turns.take(Class::Live).await?;
        let (messages, mut received) = mpsc::channel(MESSAGES_AHEAD);
        let (answer, last, stream) = answers()?;
        let service = self.clone();
        let stop = Arc::new(Notify::new());
        let stopping = stop.clone();
        tokio::task::spawn_blocking(move || {
            let response = |message| proto::PushResponse { message: Some(message) };
            // Who does not read how far it has come misses some of it.
            let mut tell = |message| drop(answer.try_send(Ok(response(message))));
            // Who must go on later sees the same as one whose connection broke.
            let mut next = || received.blocking_recv().filter(|message| turn.moves(framed(message)));
            let answered = push::serve(&service, &caller, &mut next, &mut tell, stopping);
            if matches!(answered, Err(Error::Cut { .. })) {
                tokio::runtime::Handle::current().spawn(forget(Arc::downgrade(&service.pushes)));
            }
            drop(last.send(answered.map(response).map_err(|error| status(&error))));
            drop(turn);
        });
        tokio::spawn(pump(request.into_inner(), messages, stop));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn watch(
        &self,
        request: Request<proto::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let caller = self.access.caller(request.metadata())?;
        caller.require(Right::Read, &request.get_ref().database).map_err(|error| status(&error))?;
        let place = self.watches.place()?;
        // One answer waits for the caller, the next is made when that is read; and there is room for the end.
        let (answers, stream) = mpsc::channel(2);
        let (metadata, _, request) = request.into_parts();
        let (watches, access) = (self.watches.clone(), self.access.clone());
        let watch = Watch { watches, access, metadata, caller, request };
        tokio::spawn(async move {
            watch.serve(answers).await;
            drop(place);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn get(&self, request: Request<proto::GetRequest>) -> Result<Response<proto::GetResponse>, Status> {
        let caller = self.access.caller(request.metadata())?;
        caller.require(Right::Read, &request.get_ref().database).map_err(|error| status(&error))?;
        let stopping = || Status::unavailable("shutting down");
        let turn = self.turns.take(Class::Live).await?;
        let databases = self.databases.clone();
        let answered = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            get::serve(&databases, &caller, request.get_ref()).map_err(|error| status(&error))
        });
        answered.await.map_err(|_| stopping())?.map(Response::new)
    }
}

/// A channel for the messages of an answer, with a place for the last one of all: it is said at once, whether or not anybody reads.
#[allow(clippy::type_complexity, clippy::result_large_err, reason = "three ends of a channel, used at once")]
fn answers<T>() -> Result<
    (
        mpsc::Sender<Result<T, Status>>,
        mpsc::OwnedPermit<Result<T, Status>>,
        mpsc::Receiver<Result<T, Status>>,
    ),
    Status,
> {
    let (messages, stream) = mpsc::channel(MESSAGES_AHEAD + 1);
    let last = messages.clone().try_reserve_owned();
    Ok((messages, last.map_err(|_| Status::internal("a channel without room"))?, stream))
}

/// Lets go of pushes that were cut, and that nobody has taken up by then.
async fn forget(pushes: Weak<Pushes>) {
    tokio::time::sleep(CUT_PUSH_KEPT).await;
    if let Some(pushes) = pushes.upgrade() {
        pushes.forget_old();
    }
}

/// Passes the messages of a push on to its thread. When the thread has answered, what the caller had sent already is read and
/// dropped, so that the answer reaches it instead of a reset stream.
async fn pump(
    mut stream: Streaming<proto::PushRequest>,
    messages: mpsc::Sender<proto::PushRequest>,
    stop: Arc<Notify>,
) {
    let mut dropped = 0;
    let mut pace = Pace::default();
    while dropped < DRAIN_MESSAGES_MAX {
        let message = tokio::select! {
            message = pace.wait(stream.message()) => message,
            () = stop.notified() => break,
        };
        match message {
            Some(Ok(Some(message))) => {
                pace.moved(framed(&message));
                dropped += usize::from(messages.send(message).await.is_err());
            }
            // The end, a broken connection, or silence: the thread sees that no more comes.
            _ => break,
        }
    }
}

/// An error as the caller may see it: what went wrong inside the server stays in its log.
fn status(error: &Error) -> Status {
    let code = match error {
        Error::UnknownDatabase { .. } | Error::BadDatabaseName { .. } => Code::NotFound,
        Error::NotAllowed { what, .. } => return Status::permission_denied(what),
        Error::NoChunk { what, .. } => return Status::not_found(what),
        Error::Limit { .. } => Code::ResourceExhausted,
        Error::Moved { .. } => Code::Aborted,
        Error::Cut { .. } => Code::Cancelled,
        Error::Engine(
            pleach_engine::Error::Disapproved { .. } | pleach_engine::Error::ApproverAway { .. },
        ) => Code::FailedPrecondition,
        // Whoever pushes is not told that it is not done.
        Error::Engine(pleach_engine::Error::Unsettled { .. }) => Code::Unknown,
        Error::BadRef { .. }
        | Error::Protocol { .. }
        | Error::Record { .. }
        | Error::WrongHash { .. }
        | Error::WrongEdits { .. }
        | Error::Unasked { .. }
        | Error::UnknownBase { .. }
        | Error::MissingChild { .. } => Code::InvalidArgument,
        inside => {
            tracing::error!(error = %inside, "a transfer failed in the local store");
            let damaged =
                matches!(inside, Error::Engine(error) if error.kind() == pleach_engine::ErrorKind::Damaged);
            let code = if damaged { Code::DataLoss } else { Code::Internal };
            return Status::new(code, "the server's store failed; its log says more");
        }
    };
    Status::new(code, error.to_string())
}
