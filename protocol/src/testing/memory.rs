//! A client and a server without sockets: each connection is a pipe in memory, which ends after so many bytes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::task;
use tonic::transport::server::Connected;

use crate::error::{Error, Result};
use crate::remote::{Remote, RemoteUrl, endpoint, root_cause};
use crate::server::{SyncService, transport};

/// Bytes that one side may be ahead of the other.
const PIPE_BYTES: usize = 64 << 10;

/// A remote whose every connection is made by `open`: by which service it is answered, and how many bytes, of both directions together, may pass before
/// it is cut (`None`: as many as come). `open` may block. The host of `url` is not looked for.
///
/// # Errors
/// [`Error::Unreachable`], if the first connection is cut before it is one; [`Error::BadUrl`].
pub async fn remote_in_memory(
    url: &RemoteUrl,
    open: impl FnMut() -> (SyncService, Option<u64>) + Send + 'static,
) -> Result<Remote> {
    let unreachable = |error: tonic::transport::Error| Error::Unreachable {
        url: url.to_string(),
        what: root_cause(&error),
    };
    let open = Arc::new(Mutex::new(open));
    let connect = tower::service_fn(move |_| {
        let open = open.clone();
        async move {
            let opened = task::spawn_blocking(move || (open.lock())()).await;
            let (service, cut_after) = opened.map_err(io::Error::other)?;
            let (client, server) = tokio::io::duplex(PIPE_BYTES);
            let pipe = Pipe { inner: server, left: cut_after.unwrap_or(u64::MAX) };
            let incoming = tokio_stream::once(Ok::<_, io::Error>(pipe));
            tokio::spawn(transport().add_service(service.into_server()).serve_with_incoming(incoming));
            Ok::<_, io::Error>(TokioIo::new(client))
        }
    });
    let host = format!("http://{}", url.host().unwrap_or_default());
    let channel = endpoint(&host).map_err(unreachable)?.connect_with_connector(connect).await;
    Ok(Remote::over(url, channel.map_err(unreachable)?))
}

/// The server's end of a connection.
struct Pipe {
    inner: DuplexStream,
    /// How many bytes may still pass.
    left: u64,
}

impl Pipe {
    fn check(&self) -> io::Result<()> {
        if self.left == 0 { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl Connected for Pipe {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        let passed = (buffer.filled().len() - before) as u64;
        let passed = passed.min(self.left);
        buffer.set_filled(before + passed as usize);
        self.left -= passed;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let may = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        let passed = ready!(Pin::new(&mut self.inner).poll_write(context, &bytes[..may]))?;
        self.left -= passed as u64;
        Poll::Ready(Ok(passed))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Nobody would come back to say that it is over.
        self.check()?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
