//! The servers that a client knows: which of them to ask next, which to leave out for a while, and which takes writes.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use pleach_protocol::{Bearer, endpoint};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::MESSAGE_BYTES_MAX;
use crate::error::{Error, Failed, Result};
use crate::options::{Options, Spread};
use crate::proto::data_client::DataClient;

/// The data API of one server.
pub(crate) type Stub = DataClient<InterceptedService<Channel, Bearer>>;

/// Calls at once on one connection, transactions too. A server lets in some more, so that none waits for another to end.
const CALLS_MAX: usize = pleach_protocol::limits::STREAMS_MAX as usize / 4 * 3;
/// Servers that a client remembers beside those in its list: primaries that others named.
const LEARNED_MAX: usize = 16;
/// Of reads that go to the server with the least lag, one in so many goes to another.
const ELSEWHERE: usize = 16;
/// How far a server's lag moves towards that of its last answer.
const WEIGHT: f64 = 0.2;

/// A server.
pub(crate) struct Node {
    pub(crate) url: String,
    endpoint: Endpoint,
    /// One, once there is one; more while more calls last than one takes.
    connections: tokio::sync::Mutex<Vec<Arc<Connection>>>,
    outstanding: AtomicUsize,
    health: Mutex<Health>,
}

/// A connection to a server.
struct Connection {
    channel: Channel,
    /// Calls that are on it.
    calls: AtomicUsize,
}

#[derive(Default)]
struct Health {
    /// Times in a row that it could not be reached.
    failures: u32,
    /// Left out until then.
    out_until: Option<Instant>,
    /// How long reads took, lately, seconds.
    lag: f64,
}

impl Node {
    pub(crate) fn new(address: &str) -> Result<Arc<Node>> {
        let bad = |what: &str| Error::BadAddress { address: address.to_owned(), what: what.to_owned() };
        let url = address.trim_end_matches('/');
        let authority = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        match authority {
            None => return Err(bad("it begins with neither http:// nor https://")),
            Some("") => return Err(bad("it names no host")),
            Some(rest) if rest.contains('/') => return Err(bad("databases are named in calls, not here")),
            Some(_) => {}
        }
        let endpoint = endpoint(url).map_err(|error| bad(&error.to_string()))?;
        Ok(Arc::new(Node {
            url: url.to_owned(),
            endpoint,
            connections: tokio::sync::Mutex::default(),
            outstanding: AtomicUsize::new(0),
            health: Mutex::default(),
        }))
    }

    /// Its data API, for one call. Connects, if need be.
    pub(crate) async fn begin(self: &Arc<Node>, options: &Options) -> Result<(Stub, InUse), Failed> {
        let mut held = self.connections.lock().await;
        let free = |connection: &&Arc<Connection>| connection.calls.load(Ordering::Relaxed) < CALLS_MAX;
        let connection = match held.iter().find(free).cloned() {
            Some(connection) => connection,
            None => {
                let connected =
                    pleach_protocol::connect(&self.url, &self.endpoint, &options.credential).await;
                let channel = connected.map_err(|error| Failed::Unsent(error.to_string()))?;
                let connection = Arc::new(Connection { channel, calls: AtomicUsize::new(0) });
                held.push(connection.clone());
                connection
            }
        };
        // Those that were needed for a while are closed.
        held.retain(|other| Arc::ptr_eq(other, &connection) || other.calls.load(Ordering::Relaxed) > 0);
        connection.calls.fetch_add(1, Ordering::Relaxed);
        self.outstanding.fetch_add(1, Ordering::Relaxed);
        let bearer = Bearer::new(options.credential.token.clone());
        let stub = DataClient::with_interceptor(connection.channel.clone(), bearer)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok((stub, InUse { node: self.clone(), connection }))
    }

    /// It could not be reached, or was lost: it is left out for a while, and then connected to anew.
    pub(crate) async fn lost(&self, options: &Options) {
        self.connections.lock().await.clear();
        let mut health = self.health.lock();
        let longer = 1 << health.failures.min(4);
        health.failures = health.failures.saturating_add(1);
        health.out_until = Some(Instant::now() + options.leave_out * longer);
    }

    /// It is too far behind for what was asked, and is left out for a while.
    pub(crate) fn behind(&self, options: &Options, waited: Duration) {
        let mut health = self.health.lock();
        health.out_until = Some(Instant::now() + options.leave_out);
        health.lag += WEIGHT * (waited.as_secs_f64() - health.lag);
    }

    /// It answered.
    pub(crate) fn answered(&self, waited: Duration) {
        let mut health = self.health.lock();
        health.failures = 0;
        health.out_until = None;
        health.lag += WEIGHT * (waited.as_secs_f64() - health.lag);
    }

    fn is_out(&self, now: Instant) -> bool {
        self.health.lock().out_until.is_some_and(|until| now < until)
    }
}

/// A call that is on its way, until it is dropped.
pub(crate) struct InUse {
    pub(crate) node: Arc<Node>,
    connection: Arc<Connection>,
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.node.outstanding.fetch_sub(1, Ordering::Relaxed);
        self.connection.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All of them.
pub(crate) struct Nodes {
    all: RwLock<Vec<Arc<Node>>>,
    /// Those that the application named.
    listed: usize,
    primary: Mutex<Option<Arc<Node>>>,
    turn: AtomicUsize,
}

impl Nodes {
    pub(crate) fn new(all: Vec<Arc<Node>>) -> Nodes {
        // Many clients that start together do not all begin with the same server.
        let turn = AtomicUsize::new(random() as usize & 0xffff);
        Nodes { listed: all.len(), all: RwLock::new(all), primary: Mutex::default(), turn }
    }

    /// The order in which a read tries them: those that are left out come last.
    pub(crate) fn for_read(&self, options: &Options) -> Vec<Arc<Node>> {
        let mut order = self.all.read().clone();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = order.len().max(1);
        order.rotate_left(turn % count);
        match options.spread {
            Spread::RoundRobin => {}
            Spread::LeastOutstanding => {
                order.sort_by_key(|node| node.outstanding.load(Ordering::Relaxed));
            }
            Spread::LeastLag if turn.is_multiple_of(ELSEWHERE) => {}
            Spread::LeastLag => order.sort_by(|a, b| {
                let (a, b) = (a.health.lock().lag, b.health.lock().lag);
                a.total_cmp(&b)
            }),
        }
        let primary = self.primary().filter(|_| options.spare_primary);
        let now = Instant::now();
        order.sort_by_key(|node| {
            let is_spared = primary.as_ref().is_some_and(|primary| Arc::ptr_eq(primary, node));
            (node.is_out(now), is_spared)
        });
        order
    }

    /// The order in which a write tries them: the primary, if it is known, then those that are not left out.
    pub(crate) fn for_write(&self) -> Vec<Arc<Node>> {
        let (mut order, primary, now) = (self.all.read().clone(), self.primary(), Instant::now());
        let is_primary =
            |node: &Arc<Node>| primary.as_ref().is_some_and(|primary| Arc::ptr_eq(primary, node));
        order.sort_by_key(|node| (!is_primary(node), node.is_out(now)));
        order
    }

    pub(crate) fn primary(&self) -> Option<Arc<Node>> {
        self.primary.lock().clone()
    }

    /// This one took a write.
    pub(crate) fn took_a_write(&self, node: &Arc<Node>) {
        let mut primary = self.primary.lock();
        if primary.as_ref().is_none_or(|primary| !Arc::ptr_eq(primary, node)) {
            tracing::debug!(server = node.url, "takes writes");
            *primary = Some(node.clone());
        }
    }

    /// This one takes none.
    pub(crate) fn took_no_write(&self, node: &Arc<Node>) {
        self.primary.lock().take_if(|primary| Arc::ptr_eq(primary, node));
    }

    /// The server that `from` says takes writes: none if it is no address that the client may go to from there.
    pub(crate) fn named(&self, from: &Node, url: &str) -> Option<Arc<Node>> {
        let url = url.trim_end_matches('/');
        if let Some(known) = self.all.read().iter().find(|node| node.url == url) {
            return Some(known.clone());
        }
        let scheme = |url: &str| url.split_once("://").map(|(scheme, _)| scheme.to_owned());
        let node = Node::new(url).ok()?;
        let host = node.endpoint.uri().host().unwrap_or_default().to_owned();
        // What it listens on when it listens everywhere is no address.
        let is_nowhere = ["0.0.0.0", "[::]"].contains(&host.as_str());
        if is_nowhere || (scheme(&from.url) == Some("https".into()) && scheme(url) != Some("https".into())) {
            return None;
        }
        let mut all = self.all.write();
        if all.len() >= self.listed + LEARNED_MAX {
            all.remove(self.listed);
        }
        all.push(node.clone());
        Some(node)
    }
}

/// Somewhat random, to spread what would come together.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn nodes(urls: &[&str]) -> Nodes {
        Nodes::new(urls.iter().map(|url| Node::new(url).unwrap()).collect())
    }

    fn urls(order: &[Arc<Node>]) -> Vec<&str> {
        order.iter().map(|node| node.url.as_str()).collect()
    }

    #[test]
    fn addresses_that_are_none_are_refused() {
        for address in ["db:7420", "ftp://db", "http://", "http://db:7420/book"] {
            assert!(matches!(Node::new(address), Err(Error::BadAddress { .. })), "{address}");
        }
        assert_eq!(Node::new("http://db:7420/").unwrap().url, "http://db:7420");
    }

    #[tokio::test]
    async fn reads_go_round_and_who_was_lost_comes_last() {
        let nodes = nodes(&["http://a:1", "http://b:1", "http://c:1"]);
        let options = Options { leave_out: Duration::from_secs(1000), ..Options::default() };
        let first: Vec<String> = (0..3).map(|_| nodes.for_read(&options)[0].url.clone()).collect();
        assert_eq!(first.iter().collect::<std::collections::HashSet<_>>().len(), 3, "{first:?}");
        let b = nodes.all.read()[1].clone();
        b.lost(&options).await;
        for _ in 0..3 {
            assert_eq!(nodes.for_read(&options)[2].url, "http://b:1");
        }
        b.answered(Duration::ZERO);
        assert!((0..3).any(|_| nodes.for_read(&options)[0].url == "http://b:1"));
    }

    #[test]
    fn reads_go_where_least_is_on_its_way_or_least_was_waited_for() {
        let nodes = nodes(&["http://a:1", "http://b:1"]);
        let options = Options { spread: Spread::LeastOutstanding, ..Options::default() };
        nodes.all.read()[0].outstanding.store(1, Ordering::Relaxed);
        assert!((0..4).all(|_| nodes.for_read(&options)[0].url == "http://b:1"));
        let options = Options { spread: Spread::LeastLag, ..Options::default() };
        nodes.all.read()[0].answered(Duration::from_millis(1));
        nodes.all.read()[1].answered(Duration::from_secs(1));
        let to_a = (0..64).filter(|_| nodes.for_read(&options)[0].url == "http://a:1").count();
        assert!((60..=64).contains(&to_a), "{to_a}");
    }

    #[test]
    fn a_primary_is_asked_first_for_writes_and_spared_for_reads() {
        let nodes = nodes(&["http://a:1", "http://b:1"]);
        let b = nodes.all.read()[1].clone();
        nodes.took_a_write(&b);
        assert_eq!(urls(&nodes.for_write()), ["http://b:1", "http://a:1"]);
        let options = Options { spare_primary: true, ..Options::default() };
        assert!((0..3).all(|_| urls(&nodes.for_read(&options)) == ["http://a:1", "http://b:1"]));
        nodes.took_no_write(&b);
        assert_eq!(urls(&nodes.for_write()), ["http://a:1", "http://b:1"]);
    }

    #[test]
    fn a_primary_that_is_named_is_remembered_unless_it_is_no_place_to_go() {
        let nodes = nodes(&["https://a:1"]);
        let a = nodes.all.read()[0].clone();
        assert!(nodes.named(&a, "http://b:1").is_none(), "a token is not sent in the clear");
        assert!(nodes.named(&a, "https://0.0.0.0:7420").is_none());
        assert!(nodes.named(&a, "nonsense").is_none());
        let b = nodes.named(&a, "https://b:1/").unwrap();
        assert!(Arc::ptr_eq(&b, &nodes.named(&a, "https://b:1").unwrap()));
        for n in 0..100 {
            nodes.named(&a, &format!("https://c{n}:1")).unwrap();
        }
        assert_eq!(nodes.all.read().len(), 1 + LEARNED_MAX);
        assert_eq!(nodes.all.read()[0].url, "https://a:1");
    }
}
