//! The daemon: one port for the data API, fetch and push, health and reflection, over the databases of one data directory.
//!
//! It accepts only when everything else is in place, says where on stderr (`listening on ADDRESS:PORT`), and on SIGTERM or
//! SIGINT stops accepting, lets running requests end, and closes its databases, so that the next start recovers nothing.

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use pleach_engine::{Durability, Options};
use pleach_protocol::{Databases, SyncService};
use tokio::net::TcpSocket;
use tokio::signal::unix::{SignalKind, signal};
use tonic::transport::server::TcpIncoming;

use crate::config::{Address, Config, Store};
use crate::error::{Failure, Result};
use crate::gate::Gate;
use crate::proto::{self, data_server::DataServer};
use crate::replication::{self, Replication};
use crate::service::{DataService, MESSAGE_BYTES_MAX};

/// How long running requests may take to end after a signal.
const DRAIN_MAX: Duration = Duration::from_secs(20);

/// Serves until a signal says to stop.
pub fn run(config: &Config) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::refused(format!("cannot start the server's threads: {error}")))?;
    let databases = Databases::new(&config.data_dir, options(&config.store))?;
    let served = runtime.block_on(serve(config, &databases));
    // Blocking operations that outlived the drain are left behind; what they had not acknowledged may be lost.
    runtime.shutdown_timeout(Duration::from_secs(1));
    let closed = databases.close();
    served?;
    Ok(closed?)
}

/// What the engine opens databases with.
fn options(store: &Store) -> Options {
    let durability = match store.flush_interval {
        None => Durability::Full,
        Some(interval) => Durability::Eventual { interval },
    };
    Options { cache_bytes: store.cache_bytes, durability, ..Options::default() }
}

async fn serve(config: &Config, databases: &Databases) -> Result<()> {
    let stop = stop_signal()?;
    let (socket, address) = bind(&config.listener, "--listen HOST:PORT")?;
    let replication = Replication::start(config, databases, format!("http://{address}")).await?;
    let served = listen(socket, address, databases, replication.gate(), stop).await;
    replication.stop().await;
    served
}

/// Serves the listener until `stop`.
async fn listen(
    socket: TcpSocket,
    address: SocketAddr,
    databases: &Databases,
    gate: Arc<dyn Gate>,
    stop: impl Future<Output = Result<()>>,
) -> Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<DataServer<DataService>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| Failure::refused(format!("cannot describe the services: {error}")))?;
    let pushes = gate.clone();
    let sync = SyncService::new(databases.clone())
        .with_gate(move |_: &str| pushes.writable().map_err(|failure| failure.message))
        .into_server();
    let data = DataServer::new(DataService::new(databases.clone(), gate))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    let incoming = TcpIncoming::from(replication::listen(socket)?).with_nodelay(Some(true));
    let server = pleach_protocol::transport()
        .add_service(data)
        .add_service(sync)
        .add_service(health_service)
        .add_service(reflection)
        .serve_with_incoming_shutdown(incoming, async {
            // An error means that the sender is gone, which is a reason to stop as well.
            let _ = stopped.await;
        });
    let server = tokio::spawn(server);
    announce(address)?;
    let stopped_by = stop.await;
    tracing::info!("stopping");
    let _ = stopping.send(());
    match tokio::time::timeout(DRAIN_MAX, server).await {
        Ok(Ok(Ok(()))) => stopped_by,
        Ok(Ok(Err(error))) => Err(Failure::refused(format!("the listener failed: {error}"))),
        Ok(Err(error)) => Err(Failure::refused(format!("the listener failed: {error}"))),
        Err(_) => {
            tracing::warn!("requests still run after {DRAIN_MAX:?}: stopping without them");
            stopped_by
        }
    }
}

/// Binds a port, without accepting anybody yet; port 0 takes a free one. `setting` is where another one can be chosen.
pub(crate) fn bind(address: &Address, setting: &str) -> Result<(TcpSocket, SocketAddr)> {
    let bind = || {
        let resolved = (address.host.as_str(), address.port).to_socket_addrs()?.next();
        let resolved = resolved.ok_or(std::io::ErrorKind::AddrNotAvailable)?;
        let socket = if resolved.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A port of a server that was just stopped can be taken again at once.
        socket.set_reuseaddr(true)?;
        socket.bind(resolved)?;
        let bound = socket.local_addr()?;
        Ok((socket, bound))
    };
    bind().map_err(|error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AddrInUse => Failure::refused(format!("{address} is in use by another process"))
            .hint(format!("stop that process, or choose another port with {setting}")),
        std::io::ErrorKind::PermissionDenied => {
            Failure::not_allowed(format!("not allowed to listen on {address}"))
                .hint(format!("choose a port above 1023 with {setting}"))
        }
        _ => Failure::refused(format!("cannot listen on {address}: {error}"))
            .hint(format!("choose an address of this machine with {setting}")),
    })
}

/// The line that scripts wait for.
fn announce(address: SocketAddr) -> Result<()> {
    writeln!(std::io::stderr(), "listening on {address}")
        .map_err(|error| Failure::file("standard error", &error))
}

/// Resolves at the first SIGTERM, or SIGINT, which is no success. Listens from now on.
fn stop_signal() -> Result<impl Future<Output = Result<()>>> {
    let failed = |error: std::io::Error| Failure::refused(format!("cannot listen for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Err(Failure::interrupted()),
        }
    })
}
