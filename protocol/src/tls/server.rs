//! The side that is connected to: what it shows and whom it lets in, and the stream of connections for a tonic server.
//!
//! A handshake is no business of the loop that accepts: each has a task of its own, and a time. There are never more than
//! [`HANDSHAKES_MAX`]. While there are as many the time is short, so that who connects and says nothing makes room for others, and long
//! enough for all of a crowd that speaks.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::sign::SingleCertAndKey;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::{ChannelBinding, HTTP2, Identity, TlsError, VERSIONS, provider, read_authorities, wrong_file};
use crate::limits::{ACCEPT_PAUSE, HANDSHAKE_TIMEOUT, HANDSHAKE_TIMEOUT_CROWDED, HANDSHAKES_MAX};

/// What a listener shows, and whom it asks for a certificate. Cheap to clone; all clones are one, which can be read again while it serves.
#[derive(Clone)]
pub struct ServerTls(Arc<Inner>);

struct Inner {
    identity: Identity,
    client_ca: Option<PathBuf>,
    config: ArcSwap<ServerConfig>,
}

impl ServerTls {
    /// Reads the files. With `client_ca`, a file of authorities, only who shows a certificate of one of them is let in.
    ///
    /// # Errors
    /// [`TlsError::BadFile`], also if certificate and key do not belong together.
    pub fn read(identity: Identity, client_ca: Option<PathBuf>) -> Result<ServerTls, TlsError> {
        let config = ArcSwap::from_pointee(config(&identity, client_ca.as_ref())?);
        Ok(ServerTls(Arc::new(Inner { identity, client_ca, config })))
    }

    /// Reads the files again: what they say holds for connections from now on. Those that there are go on.
    ///
    /// # Errors
    /// As [`ServerTls::read`]; then all stays as it was.
    pub fn reread(&self) -> Result<(), TlsError> {
        self.0.config.store(Arc::new(config(&self.0.identity, self.0.client_ca.as_ref())?));
        Ok(())
    }
}

fn config(identity: &Identity, client_ca: Option<&PathBuf>) -> Result<ServerConfig, TlsError> {
    let key = Arc::new(identity.read()?);
    let versions = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&VERSIONS);
    let versions = versions.map_err(|error| TlsError::Handshake { what: error.to_string() })?;
    let clients = match client_ca {
        None => versions.with_no_client_auth(),
        Some(file) => {
            let roots = Arc::new(read_authorities(file)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            versions.with_client_cert_verifier(verifier.map_err(|error| {
                wrong_file(file, error.to_string(), "name a file of authorities' certificates in PEM")
            })?)
        }
    };
    let mut config = clients.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(config)
}

/// The connections of a listener, for tonic's `serve_with_incoming`: with TCP_NODELAY, and by TLS if so said. Dropped, it accepts no more.
pub struct Incoming(ReceiverStream<io::Result<Connection>>);

impl Incoming {
    /// Accepts on `listener`, on the runtime that this is called on.
    pub fn new(listener: TcpListener, tls: Option<ServerTls>) -> Incoming {
        let (ready, connections) = mpsc::channel(1);
        tokio::spawn(accept(listener, tls, ready));
        Incoming(ReceiverStream::new(connections))
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0).poll_next(context)
    }
}

type Ready = mpsc::Sender<io::Result<Connection>>;

/// Accepts until nobody takes connections any more. Then the handshakes end too.
async fn accept(listener: TcpListener, tls: Option<ServerTls>, ready: Ready) {
    let mut handshakes = Handshakes::default();
    loop {
        let accepted = tokio::select! {
            () = ready.closed() => return,
            accepted = listener.accept() => accepted,
        };
        let (tcp, peer) = match accepted {
            Ok(accepted) => accepted,
            // Whoever it was is gone.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                tracing::warn!("a connection could not be accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // A connection for which this fails is one that reading from fails too.
        let _ = tcp.set_nodelay(true);
        match &tls {
            None => drop(ready.send(Ok(Connection(Link::Plain(tcp)))).await),
            Some(tls) => {
                handshakes.room().await;
                handshakes.begin(shake_hands(tcp, peer, tls.0.config.load_full(), ready.clone()));
            }
        }
    }
}

/// Handshakes on their way.
#[derive(Default)]
struct Handshakes {
    tasks: JoinSet<()>,
    oldest_first: VecDeque<(Instant, AbortHandle)>,
}

impl Handshakes {
    /// Waits until there may be one more.
    async fn room(&mut self) {
        loop {
            while self.tasks.try_join_next().is_some() {}
            self.oldest_first.retain(|(_, handshake)| !handshake.is_finished());
            if self.tasks.len() < HANDSHAKES_MAX {
                return;
            }
            let oldest_begun = self.oldest_first.front().map_or_else(Instant::now, |(begun, _)| *begun);
            let ended =
                tokio::time::timeout_at(oldest_begun + HANDSHAKE_TIMEOUT_CROWDED, self.tasks.join_next());
            if ended.await.is_err()
                && let Some((_, oldest)) = self.oldest_first.pop_front()
            {
                oldest.abort();
                self.tasks.join_next().await;
            }
        }
    }

    fn begin(&mut self, handshake: impl Future<Output = ()> + Send + 'static) {
        self.oldest_first.push_back((Instant::now(), self.tasks.spawn(handshake)));
    }
}

async fn shake_hands(tcp: TcpStream, peer: SocketAddr, config: Arc<ServerConfig>, ready: Ready) {
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(tcp, config)).await {
        // Who does not take it is gone.
        Ok(Ok(connection)) => drop(ready.send(Ok(connection)).await),
        Ok(Err(error)) => tracing::debug!(%peer, "a TLS handshake failed: {error}"),
        Err(_) => tracing::debug!(%peer, "a TLS handshake took longer than {HANDSHAKE_TIMEOUT:?}"),
    }
}

async fn handshake(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<Connection> {
    let mut first = [0];
    tcp.peek(&mut first).await?;
    // HTTP/2 in the clear begins with `PRI`, TLS with a byte that is no letter.
    if first == *b"P" {
        return Err(send_away(tcp).await?);
    }
    let stream = TlsAcceptor::from(config).accept(tcp).await?;
    Ok(Connection(Link::Tls(Box::new(stream))))
}

/// Answers who speaks HTTP/2 in the clear, until it goes: none of its calls has a security that is adequate.
async fn send_away(tcp: TcpStream) -> io::Result<io::Error> {
    let mut connection = h2::server::handshake(tcp).await.map_err(io::Error::other)?;
    while let Some(call) = connection.accept().await {
        let (_, mut answer) = call.map_err(io::Error::other)?;
        answer.send_reset(h2::Reason::INADEQUATE_SECURITY);
    }
    Ok(io::Error::new(io::ErrorKind::InvalidData, "it was no TLS"))
}

/// A connection that was let in.
pub struct Connection(Link);

enum Link {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What a call finds in its extensions about its connection.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// Both ends.
    pub tcp: TcpConnectInfo,
    /// What stands for the TLS connection; `None` if there is no TLS.
    pub binding: Option<ChannelBinding>,
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        match &self.0 {
            Link::Plain(stream) => ConnectionInfo { tcp: stream.connect_info(), binding: None },
            Link::Tls(stream) => {
                let (tcp, tls) = stream.get_ref();
                // It fails before the handshake is done only, and then nothing was let in.
                ConnectionInfo { tcp: tcp.connect_info(), binding: ChannelBinding::of(tls).ok() }
            }
        }
    }
}

/// The same call of either kind of stream.
macro_rules! either {
    ($connection:expr, $call:ident($($argument:expr),*)) => {
        match &mut $connection.get_mut().0 {
            Link::Plain(stream) => Pin::new(stream).$call($($argument),*),
            Link::Tls(stream) => Pin::new(stream).$call($($argument),*),
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, poll_read(context, buffer))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            Link::Plain(stream) => stream.is_write_vectored(),
            Link::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_shutdown(context))
    }
}
