//! Sessions of the data API: transactions of clients, one after the other, over one stream.
//!
//! One idea: a session is a conversation of one task with one client, and between two requests it holds a transaction and no thread. It
//! lasts as long as its client asks for something: who is silent for too long, or does not read what was asked for, is told so and
//! loses the transaction, whose snapshot is kept from collection as long as it lives. It takes the permit to write for the commit alone, so
//! that no session stands in the way of a change of role; and it ends with the role that it began under.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use pleach_protocol::{Caller, Right};
use pleach_replication::Tenure;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::error::{Failure, Result};
use crate::ops::Session;
use crate::ops::transaction::Open;
use crate::proto::session_request::Request as Asked;
use crate::proto::session_response::Response as Said;
use crate::proto::*;
use crate::rights::Rights;
use crate::service::{Answer, Answers, DataService, MESSAGES_WAITING_MAX};

/// Sessions that are open at the same time.
const SESSIONS_MAX: usize = 1024;
/// How long a client may ask for nothing, or not read what it asked for.
const IDLE_MAX: Duration = Duration::from_secs(300);

/// The sessions that are open. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Sessions {
    free: Arc<Semaphore>,
    end: Arc<watch::Sender<bool>>,
}

impl Default for Sessions {
    fn default() -> Sessions {
        let (free, end) = (Arc::new(Semaphore::new(SESSIONS_MAX)), Arc::new(watch::Sender::new(false)));
        Sessions { free, end }
    }
}

impl Sessions {
    /// Ends all, each after what it is doing, and those that are yet to come.
    pub(crate) fn end(&self) {
        self.end.send_replace(true);
    }
}

/// Opens a session.
pub(crate) fn open(
    service: &DataService,
    request: Request<Streaming<SessionRequest>>,
) -> Answer<Answers<SessionResponse>> {
    let caller = service.caller(&request)?;
    let sessions = service.sessions();
    let Ok(turn) = sessions.free.clone().try_acquire_owned() else {
        return Err(Status::resource_exhausted(format!("{SESSIONS_MAX} sessions are open already")));
    };
    let tenure = service.gate.tenure();
    let (answers, receiver) = mpsc::channel(MESSAGES_WAITING_MAX);
    let mut conversation = Conversation {
        tenure,
        end: sessions.end.subscribe(),
        service: service.clone(),
        caller,
        idle_max: IDLE_MAX,
        answers,
    };
    tokio::spawn(async move {
        let ended = conversation.run(request.into_inner()).await;
        drop(turn);
        if let Err(status) = ended {
            // A client that went away needs no reason.
            let _ = conversation.answers.send(Err(status)).await;
        }
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
}

/// One session.
struct Conversation {
    service: DataService,
    caller: Caller,
    /// None where there are no roles.
    tenure: Option<Tenure>,
    end: watch::Receiver<bool>,
    idle_max: Duration,
    answers: mpsc::Sender<std::result::Result<SessionResponse, Status>>,
}

/// What a client asks for next: nothing more if it is `None`.
type Next = std::result::Result<Option<SessionRequest>, Status>;

/// Why a scan goes no further.
#[derive(Clone, Copy, PartialEq)]
enum Halt {
    No,
    /// Its client has enough.
    Enough,
    /// Its session is over.
    Over,
}

impl Conversation {
    /// Answers requests until there are no more of them; an error is what the client is told at the end.
    async fn run(&mut self, mut requests: Streaming<SessionRequest>) -> std::result::Result<(), Status> {
        let mut open = None;
        let mut read: Option<Next> = None;
        loop {
            let next = match read.take() {
                Some(next) => next,
                None => self.next(&mut requests, open.is_some()).await?,
            };
            let Some(request) = next? else { return Ok(()) };
            let Some(asked) = request.request else {
                self.say(Said::Failure(
                    Failure::usage("a request of a session asks for nothing this server knows").to_message(),
                ))
                .await?;
                continue;
            };
            if let Asked::Begin(begin) = &asked {
                let asked_for = Duration::from_millis(begin.idle_max_millis.into());
                self.idle_max = if asked_for.is_zero() { IDLE_MAX } else { asked_for.min(IDLE_MAX) };
            }
            if !matches!(asked, Asked::EndScan(_)) {
                open = self.act(asked, open, &mut requests, &mut read).await?;
            }
        }
    }

    /// Waits for the next request, as long as the session may.
    async fn next(
        &mut self,
        requests: &mut Streaming<SessionRequest>,
        is_open: bool,
    ) -> std::result::Result<Next, Status> {
        let idle_max = self.idle_max;
        tokio::select! {
            biased;
            failure = self.ended() => Err(failure.to_status()),
            next = tokio::time::timeout(idle_max, requests.message()) => {
                next.map_err(|_| silent(idle_max, is_open).to_status())
            }
        }
    }

    /// Resolves when the session must end.
    async fn ended(&mut self) -> Failure {
        let Conversation { tenure, end, .. } = self;
        let over = async {
            match tenure {
                Some(tenure) => tenure.over().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            why = over => {
                Failure::remote(format!("{why}: reconnect"))
                    .hint("this session is over, and its transaction rolled back: begin again")
            }
            _ = end.wait_for(|end| *end) => Failure::remote("this server stops: reconnect")
                .hint("this session is over, and its transaction rolled back: begin again, on another server or later"),
        }
    }

    /// Does what was asked, where it may block; listens meanwhile. Gives the transaction that is open then.
    async fn act(
        &mut self,
        asked: Asked,
        open: Option<Open>,
        requests: &mut Streaming<SessionRequest>,
        read: &mut Option<Next>,
    ) -> std::result::Result<Option<Open>, Status> {
        let (halt, halted) = watch::channel(Halt::No);
        let is_scan = matches!(asked, Asked::Scan(_));
        let action = Action {
            service: self.service.clone(),
            caller: self.caller.clone(),
            pieces: Pieces { answers: self.answers.clone(), halted, slow: self.idle_max },
        };
        let runtime = Handle::current();
        let mut action = pin!(tokio::task::spawn_blocking(move || action.run(asked, open, &runtime)));
        let mut over = None;
        let (open, said) = loop {
            tokio::select! {
                done = &mut action => break done.map_err(|_| {
                    Status::internal("the operation ended without an answer; the server's log says why")
                })?,
                failure = self.ended(), if over.is_none() => {
                    over = Some(failure);
                    halt.send_replace(Halt::Over);
                }
                next = requests.message(), if read.is_none() => match next {
                    Ok(Some(SessionRequest { request: Some(Asked::EndScan(_)) })) => {
                        halt.send_replace(Halt::Enough);
                    }
                    Err(status) => {
                        *read = Some(Err(status));
                        halt.send_replace(Halt::Over);
                    }
                    next => *read = Some(next),
                }
            }
        };
        let halted = *halt.borrow();
        match said {
            // Nobody wants the rest of a scan.
            Err(_) if is_scan && halted == Halt::Over => {}
            Err(_) if is_scan && halted == Halt::Enough => {
                self.say(Said::Rows(ScannedRows { last: true, ..ScannedRows::default() })).await?;
            }
            Err(failure) => self.say(Said::Failure(failure.to_message())).await?,
            Ok(Some(said)) => self.say(said).await?,
            // The pieces were sent.
            Ok(None) => {}
        }
        match over {
            Some(failure) => Err(failure.to_status()),
            None => Ok(open),
        }
    }

    /// Sends an answer. A client that does not read it for too long loses the session.
    async fn say(&mut self, said: Said) -> std::result::Result<(), Status> {
        let sent = self.answers.send(Ok(SessionResponse { response: Some(said) }));
        match tokio::time::timeout(self.idle_max, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Failure::closed().to_status()),
            Err(_) => Err(unread(self.idle_max).to_status()),
        }
    }
}

fn silent(idle_max: Duration, is_open: bool) -> Failure {
    let lost = if is_open { ", and its transaction is rolled back" } else { "" };
    Failure::conflict(format!(
        "nothing was asked for {} seconds: this session is over{lost}",
        idle_max.as_secs_f64()
    ))
    .hint("begin again, and keep transactions short: each keeps the state that it reads")
}

fn unread(idle_max: Duration) -> Failure {
    let seconds = idle_max.as_secs_f64();
    Failure::conflict(format!("the answer was not read for {seconds} seconds: this session is over"))
        .hint("begin again, and read what you ask for")
}

/// The answers of a scan, from a thread that may block.
struct Pieces {
    answers: mpsc::Sender<std::result::Result<SessionResponse, Status>>,
    halted: watch::Receiver<Halt>,
    /// How long a client may take to read one.
    slow: Duration,
}

impl Pieces {
    fn send(&mut self, runtime: &Handle, rows: ScannedRows) -> Result<()> {
        let Pieces { answers, halted, slow } = self;
        let said = SessionResponse { response: Some(Said::Rows(rows)) };
        runtime.block_on(async {
            tokio::select! {
                biased;
                _ = halted.wait_for(|halt| *halt != Halt::No) => Err(Failure::closed()),
                sent = tokio::time::timeout(*slow, answers.send(Ok(said))) => match sent {
                    Ok(sent) => sent.map_err(|_| Failure::closed()),
                    Err(_) => Err(unread(*slow)),
                }
            }
        })
    }
}

/// A request that is being answered.
struct Action {
    service: DataService,
    caller: Caller,
    pieces: Pieces,
}

impl Action {
    /// Blocking. Gives the transaction that is open afterwards, and the answer, if it was not sent in pieces.
    fn run(
        mut self,
        asked: Asked,
        open: Option<Open>,
        runtime: &Handle,
    ) -> (Option<Open>, Result<Option<Said>>) {
        let mut open = open;
        let said = self.said(asked, &mut open, runtime);
        (open, said)
    }

    fn said(&mut self, asked: Asked, open: &mut Option<Open>, runtime: &Handle) -> Result<Option<Said>> {
        match asked {
            Asked::Begin(_) if open.is_some() => {
                return Err(Failure::refused("a transaction is open in this session already")
                    .hint("commit it or roll it back first, or use a session for each"));
            }
            Asked::Begin(request) => return self.begin(&request, open).map(Some),
            Asked::Commit(_) => return self.commit(open.take().ok_or_else(none_open)?).map(Some),
            Asked::Rollback(_) => {
                drop(open.take().ok_or_else(none_open)?);
                return Ok(Some(Said::RolledBack(TransactionRolledBack {})));
            }
            _ => {}
        }
        let open = open.as_mut().ok_or_else(none_open)?;
        Ok(Some(match asked {
            Asked::Get(request) => Said::Row(open.get(&request)?),
            Asked::Put(request) => {
                open.put(&request)?;
                Said::Put(RowsPut {})
            }
            Asked::Delete(request) => Said::Deleted(RowsDeleted { count: open.delete(&request)? }),
            Asked::Scan(request) => {
                open.scan(&request, &mut |rows| self.pieces.send(runtime, rows))?;
                return Ok(None);
            }
            Asked::Begin(_) | Asked::Commit(_) | Asked::Rollback(_) | Asked::EndScan(_) => return Ok(None),
        }))
    }

    fn begin(&self, request: &BeginTransaction, open: &mut Option<Open>) -> Result<Said> {
        let target = request.target.clone().unwrap_or_default();
        let writable = match request.read_only {
            true => Ok(()),
            false => self.service.gate.writable().map(drop),
        };
        let session = match (self.service.reader(&target, self.caller.clone()), &writable) {
            (Ok(session), _) => session.of_strangers(),
            // Who asks the wrong server is told that, whatever there is.
            (Err(_), Err(refused)) => return Err(refused.clone()),
            (Err(failure), Ok(())) => return Err(failure),
        };
        if session.here().is_ok() && !request.read_only {
            Rights::of(self.caller.clone(), &target.database).require_some(Right::Write)?;
            writable?;
        }
        let begun = open.insert(Open::begin(session, request.read_only, &target.database)?);
        let (reference, read_only) = (begun.place().to_owned(), begun.is_read_only());
        Ok(Said::Begun(TransactionBegun { reference, read_only }))
    }

    fn commit(&self, open: Open) -> Result<Said> {
        if open.is_read_only() {
            return Ok(Said::Committed(TransactionCommitted::default()));
        }
        let name = open.database().to_owned();
        let permit = self.service.gate.writable()?;
        let (token, session): (String, Session) = open.commit()?;
        let warnings = self.service.after_write(&name, &session, true, permit)?;
        Ok(Said::Committed(TransactionCommitted { token, warnings }))
    }
}

fn none_open() -> Failure {
    Failure::refused("no transaction is open in this session").hint("begin one first")
}
