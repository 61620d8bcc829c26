//! The client: how a call finds its server. Everything above says only what is asked; which server is tried, what is tried again, and
//! what must not be, is decided here.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pleach_engine::Token;
use tonic::{Code, Response, Status};

use crate::database::Database;
use crate::error::{Error, Failed, Refusal, Result};
use crate::nodes::{InUse, Node, Nodes, Stub, random};
use crate::options::Options;
use crate::proto::{
    CreateDatabaseRequest, DropDatabaseRequest, GetResponse, ListDatabasesRequest, SessionResponse,
};

/// The longest pause before all servers are tried again.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A client of some servers that hold the same databases. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    nodes: Nodes,
    options: Options,
    /// Of the newest write of each database that is known of.
    tokens: Mutex<HashMap<String, Token>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the servers at `addresses`, `http://HOST:PORT` or `https://HOST:PORT` each: primary, standbys and read replicas in any order.
    /// It connects at the first call, to each server by itself, so that some may be away.
    ///
    /// # Errors
    /// [`Error::BadAddress`].
    pub fn connect<A: AsRef<str>>(
        addresses: impl IntoIterator<Item = A>,
        options: Options,
    ) -> Result<Client> {
        let nodes = addresses.into_iter().map(|address| Node::new(address.as_ref()));
        let nodes: Vec<_> = nodes.collect::<Result<_>>()?;
        if nodes.is_empty() {
            return Err(Error::BadAddress {
                address: String::new(),
                what: "there is none in the list".into(),
            });
        }
        let inner = Inner { nodes: Nodes::new(nodes), options, tokens: Mutex::default() };
        Ok(Client { inner: Arc::new(inner) })
    }

    /// A database, or a place in it: `NAME`, `NAME@BRANCH`, `NAME@TAG`, `NAME@HASH`. Tags and hashes are read-only. Without one, it is branch `main`.
    pub fn database(&self, place: &str) -> Database {
        Database::new(self.clone(), place)
    }

    /// The names of the databases that the servers have.
    ///
    /// # Errors
    /// Those of any read.
    pub async fn databases(&self) -> Result<Vec<String>> {
        let request = ListDatabasesRequest {};
        let (answer, _) =
            self.read(request, |mut stub, request| async move { stub.list_databases(request).await }).await?;
        Ok(answer.databases)
    }

    /// Makes a database.
    ///
    /// # Errors
    /// Those of any write; [`Error::exists`].
    pub async fn create_database(&self, name: &str) -> Result<()> {
        let request = CreateDatabaseRequest { name: name.to_owned() };
        self.write(request, |mut stub, request| async move { stub.create_database(request).await }).await?;
        Ok(())
    }

    /// Drops a database.
    ///
    /// # Errors
    /// Those of any write; [`Error::is_not_found`].
    pub async fn drop_database(&self, name: &str) -> Result<()> {
        let request = DropDatabaseRequest { name: name.to_owned() };
        self.write(request, |mut stub, request| async move { stub.drop_database(request).await }).await?;
        self.inner.tokens.lock().remove(name);
        Ok(())
    }

    /// The token of the newest write of a database that this client knows of, its own or one that it was given.
    pub fn token(&self, database: &str) -> Option<Token> {
        self.inner.tokens.lock().get(database).copied()
    }

    /// Has later reads of a database see the write of this token, too: that of another client.
    #[must_use]
    pub fn with_token(self, database: &str, token: Token) -> Client {
        self.saw(database, token);
        self
    }

    /// As [`Client::with_token`], for a client that is in use.
    pub fn saw(&self, database: &str, token: Token) {
        let mut tokens = self.inner.tokens.lock();
        let known = tokens.entry(database.to_owned()).or_insert(token);
        if (token.epoch, token.sequence) > (known.epoch, known.sequence) {
            *known = token;
        }
    }

    pub(crate) fn options(&self) -> &Options {
        &self.inner.options
    }

    /// Asks a server that can answer; gives the answer, and the call, which lasts as long as what is left of it to read.
    pub(crate) async fn read<Q, A, F, Fut>(&self, request: Q, call: F) -> Result<(A, InUse)>
    where
        Q: Clone,
        F: Fn(Stub, Q) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        let Inner { nodes, options, .. } = &*self.inner;
        let mut tries = Tries::new(options, "read");
        loop {
            for node in nodes.for_read(options) {
                let start = Instant::now();
                match attempt(&node, options, request.clone(), &call).await {
                    Ok((answer, in_use)) => {
                        node.answered(start.elapsed());
                        return Ok((answer.into_inner(), in_use));
                    }
                    Err(Failed::Answered(refusal)) => match refusal.code {
                        // It does not have a token's write yet, or is busy, or its remote is away: another may do.
                        Code::Unavailable | Code::ResourceExhausted => {
                            node.behind(options, start.elapsed());
                            tries.failed(&node, refusal.message);
                        }
                        _ => return Err(Error::Refused(refusal)),
                    },
                    Err(failed) => {
                        node.lost(options).await;
                        tries.failed(&node, failed.what());
                    }
                }
                if tries.are_over() {
                    return Err(tries.error());
                }
            }
            tries.pause().await?;
        }
    }

    /// Has a server that takes writes do something, once; gives the answer, and who that was.
    pub(crate) async fn write<Q, A, F, Fut>(&self, request: Q, call: F) -> Result<(Response<A>, InUse)>
    where
        Q: Clone,
        F: Fn(Stub, Q) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        let Inner { nodes, options, .. } = &*self.inner;
        let mut tries = Tries::new(options, "write");
        loop {
            let mut order = nodes.for_write();
            order.reverse();
            let mut named = Vec::new();
            while let Some(node) = order.pop() {
                match attempt(&node, options, request.clone(), &call).await {
                    Ok(done) => {
                        nodes.took_a_write(&node);
                        node.answered(Duration::ZERO);
                        return Ok(done);
                    }
                    Err(Failed::Answered(refusal)) if refusal.role.is_some() => {
                        nodes.took_no_write(&node);
                        let primary = refusal.primary.as_deref().and_then(|url| nodes.named(&node, url));
                        // Each is followed once in a round: two servers may name each other.
                        if let Some(primary) = primary.filter(|primary| !named.contains(&primary.url)) {
                            named.push(primary.url.clone());
                            order.retain(|next| !Arc::ptr_eq(next, &primary));
                            order.push(primary);
                        }
                        tries.failed(&node, refusal.message);
                    }
                    Err(Failed::Answered(refusal)) => {
                        // It takes writes; this one it does not.
                        nodes.took_a_write(&node);
                        return Err(refused(refusal));
                    }
                    Err(Failed::Unsent(what)) => {
                        nodes.took_no_write(&node);
                        node.lost(options).await;
                        tries.failed(&node, what);
                    }
                    Err(Failed::Lost(what)) => {
                        nodes.took_no_write(&node);
                        node.lost(options).await;
                        return Err(Error::Unknown { server: node.url.clone(), what });
                    }
                }
                if tries.are_over() {
                    return Err(tries.error());
                }
            }
            tries.pause().await?;
        }
    }

    /// The connection of a call was lost, or not: who served it is asked less for a while.
    pub(crate) async fn lost(&self, node: &Node) {
        node.lost(&self.inner.options).await;
    }
}

/// What a server that takes writes refuses one with.
pub(crate) fn refused(refusal: Box<Refusal>) -> Error {
    match refusal.code {
        Code::Aborted => Error::Conflict(refusal),
        // So it says itself.
        Code::Unknown | Code::DeadlineExceeded => {
            Error::Unknown { server: refusal.server, what: refusal.message }
        }
        _ => Error::Refused(refusal),
    }
}

async fn attempt<Q, A, F, Fut>(
    node: &Arc<Node>,
    options: &Options,
    request: Q,
    call: &F,
) -> Result<(Response<A>, InUse), Failed>
where
    F: Fn(Stub, Q) -> Fut,
    Fut: Future<Output = Result<Response<A>, Status>>,
{
    let limit = options.try_max.unwrap_or(Duration::MAX);
    let late = || format!("no answer in {limit:?}");
    let since = Instant::now();
    let begun = tokio::time::timeout(limit, node.begin(options)).await;
    let (stub, in_use) = begun.map_err(|_| Failed::Unsent(late()))??;
    let answer = tokio::time::timeout(limit.saturating_sub(since.elapsed()), call(stub, request)).await;
    match answer.map_err(|_| Failed::Lost(late()))? {
        Ok(answer) => Ok((answer, in_use)),
        Err(status) => Err(Failed::of(&node.url, &status)),
    }
}

/// How often a call was tried, and what came of it.
struct Tries<'a> {
    options: &'a Options,
    what: &'static str,
    count: u32,
    until: Instant,
    pause: Duration,
    said: BTreeMap<String, String>,
}

impl<'a> Tries<'a> {
    fn new(options: &'a Options, what: &'static str) -> Tries<'a> {
        let (until, pause) = (Instant::now() + options.time_max, options.pause);
        Tries { options, what, count: 0, until, pause, said: BTreeMap::new() }
    }

    fn failed(&mut self, node: &Node, what: String) {
        tracing::debug!(server = node.url, what, "a try failed");
        self.count += 1;
        self.said.insert(node.url.clone(), what);
    }

    fn are_over(&self) -> bool {
        self.count >= self.options.tries_max || Instant::now() >= self.until
    }

    fn error(&mut self) -> Error {
        let tried = std::mem::take(&mut self.said).into_iter().collect();
        Error::Unavailable { what: self.what, tried }
    }

    /// Waits before all are tried again; some more or less, so that many clients do not come together.
    async fn pause(&mut self) -> Result<()> {
        let pause = self.pause.min(PAUSE_MAX);
        self.pause = pause * 2;
        let pause = pause.mul_f64(0.5 + (random() % 1000) as f64 / 1000.0);
        if self.are_over() || Instant::now() + pause >= self.until {
            return Err(self.error());
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// An answer that goes on: the first message is read with the call itself, so that a server which fails there is no answer.
pub(crate) struct Answers<T> {
    first: Option<T>,
    rest: tonic::Streaming<T>,
}

impl<T> Answers<T> {
    pub(crate) async fn of(response: Response<tonic::Streaming<T>>) -> Result<Response<Answers<T>>, Status> {
        let (metadata, mut rest, extensions) = response.into_parts();
        let first = rest.message().await?;
        Ok(Response::from_parts(metadata, Answers { first, rest }, extensions))
    }

    pub(crate) async fn next(&mut self) -> Result<Option<T>, Status> {
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => self.rest.message().await,
        }
    }
}

/// What a row's answer carries.
pub(crate) fn row_of(response: GetResponse) -> Option<crate::Row> {
    let schema = response.schema.map(Arc::new);
    response.row.map(|row| crate::Row::from_message(schema, row))
}

/// Whether a session's message is the last of the answer to its request.
pub(crate) fn is_final(response: &SessionResponse) -> bool {
    use crate::proto::session_response::Response::Rows;
    !matches!(&response.response, Some(Rows(rows)) if !rows.last)
}
