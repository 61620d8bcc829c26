//! What tests and measurements of whoever uses the protocol need: a proxy between a client and a server, which delays, counts, and cuts
//! connections in the middle; the same without sockets, in memory; a server with a fault.

mod faulty;
mod memory;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use faulty::{Fault, Faulty};
pub use memory::remote_in_memory;

/// Bytes that are passed on together.
const PIECE: usize = 16 << 10;
/// Pieces on their way in one direction: enough for 80 MB/s at a delay of 100 ms.
const PIECES_AHEAD: usize = 512;

/// A proxy on a free port of the loopback. It ends when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    target: Mutex<SocketAddr>,
    delay: Duration,
    /// For each connection: how many bytes may pass on it.
    cut_after: Mutex<Box<dyn FnMut() -> Option<u64> + Send>>,
    counts: Counters,
    held: watch::Sender<Held>,
}

/// What nothing passes on: those who talk notice nothing but silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// From clients to the server.
    pub up: bool,
    /// From the server to clients.
    pub down: bool,
}

#[derive(Default)]
struct Counters {
    connections: AtomicU64,
    cuts: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    turns: AtomicU64,
    pieces: AtomicU64,
    last_was_up: AtomicBool,
}

/// What passed so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Connections that were accepted.
    pub connections: u64,
    /// Connections that were cut.
    pub cuts: u64,
    /// Bytes from clients to the server, with all that is around messages.
    pub up: u64,
    /// Bytes from the server to clients.
    pub down: u64,
    /// How often somebody said something, in either direction: about as many as there were messages, when few come.
    pub pieces: u64,
    /// How often a client said something after the server had: round trips, and acknowledgements that looked like one.
    pub turns: u64,
}

impl Proxy {
    /// A proxy to `target` that passes each byte on after `delay`. `cut_after` is asked for each connection how many bytes, of both directions
    /// together, may pass before it is cut; `None` is as many as come.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn start(
        target: SocketAddr,
        delay: Duration,
        cut_after: impl FnMut() -> Option<u64> + Send + 'static,
    ) -> io::Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            delay,
            cut_after: Mutex::new(Box::new(cut_after)),
            counts: Counters::default(),
            held: watch::Sender::default(),
        });
        let accepting = tokio::spawn({
            let shared = shared.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(pass(client, shared.clone()));
                }
            }
        });
        Ok(Proxy { address, shared, accepting })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Later connections lead there.
    pub fn lead_to(&self, target: SocketAddr) {
        *self.shared.target.lock() = target;
    }

    /// Passes nothing on in these directions until told otherwise, on all connections, those to come included. What is said meanwhile passes then.
    pub fn hold(&self, held: Held) {
        self.shared.held.send_replace(held);
    }

    /// What passed so far.
    pub fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { connections, cuts, up, down, turns, pieces, .. } = &self.shared.counts;
        Counts {
            connections: of(connections),
            cuts: of(cuts),
            up: of(up),
            down: of(down),
            pieces: of(pieces),
            turns: of(turns),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(client: TcpStream, shared: Arc<Shared>) {
    shared.counts.connections.fetch_add(1, Ordering::Relaxed);
    let target = *shared.target.lock();
    let Ok(server) = TcpStream::connect(target).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let left = Arc::new(AtomicU64::new((shared.cut_after.lock())().unwrap_or(u64::MAX)));
    let (cut, mut is_cut) = watch::channel(false);
    let cut = Arc::new(cut);
    let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
    let up = Direction { shared: shared.clone(), left: left.clone(), cut: cut.clone(), up: true };
    let down = Direction { shared: shared.clone(), left, cut, up: false };
    let both = async { tokio::join!(up.pass(client_in, server_out), down.pass(server_in, client_out)) };
    tokio::select! {
        _ = both => {}
        Ok(_) = is_cut.wait_for(|cut| *cut) => {
            shared.counts.cuts.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One direction of a connection.
struct Direction {
    shared: Arc<Shared>,
    /// How many bytes may still pass.
    left: Arc<AtomicU64>,
    cut: Arc<watch::Sender<bool>>,
    up: bool,
}

impl Direction {
    async fn pass(self, mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf) {
        let (pieces, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_AHEAD);
        let delay = self.shared.delay;
        let read = async move {
            loop {
                let mut piece = vec![0; PIECE];
                match from.read(&mut piece).await {
                    Ok(len @ 1..) => piece.truncate(len),
                    _ => return,
                }
                if pieces.send((Instant::now() + delay, piece)).await.is_err() {
                    return;
                }
            }
        };
        let write = async {
            while let Some((when, piece)) = due.recv().await {
                tokio::time::sleep_until(when).await;
                let is_free = |held: &Held| if self.up { !held.up } else { !held.down };
                // The sender lives as long as the proxy's connections.
                let _ = self.shared.held.subscribe().wait_for(is_free).await;
                let passed = self.take(piece.len());
                if to.write_all(&piece[..passed]).await.is_err() {
                    return;
                }
                if passed < piece.len() {
                    // Nobody reads it any more if the connection is gone already.
                    let _ = self.cut.send(true);
                    return;
                }
            }
            // The end of one direction is no end of the other.
            let _ = to.shutdown().await;
        };
        tokio::join!(read, write);
    }

    /// Counts a piece; how much of it may pass.
    fn take(&self, len: usize) -> usize {
        let counts = &self.shared.counts;
        let before = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(len as u64)));
        let passed = before.map_or(0, |left| left.min(len as u64));
        let of = if self.up { &counts.up } else { &counts.down };
        of.fetch_add(passed, Ordering::Relaxed);
        counts.pieces.fetch_add(1, Ordering::Relaxed);
        if !counts.last_was_up.swap(self.up, Ordering::Relaxed) && self.up {
            counts.turns.fetch_add(1, Ordering::Relaxed);
        }
        passed as usize
    }
}
