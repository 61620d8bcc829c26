//! The daemon: one port for the data API, fetch and push, health and reflection, over the databases of one data directory.
//!
//! It accepts only when everything else is in place, says where on stderr (`listening on ADDRESS:PORT`), and on SIGTERM or
//! SIGINT stops accepting, lets running requests end, and closes its databases, so that the next start recovers nothing.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pleach_client::MESSAGE_BYTES_MAX;
use pleach_engine::{Durability, Options};
use pleach_protocol::{Access, Databases, Incoming, ServerTls, SyncService};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use crate::config::{Config, Layers, Store};
use crate::credentials;
use crate::error::{Failure, Result};
use crate::gate::{Gate, THREADS_MAX};
use crate::listen;
use crate::metrics::{Metrics, port::Port};
use crate::proto::{self, data_server::DataServer};
use crate::replication::Replication;
use crate::service::DataService;
use crate::users;

/// How long running requests may take to end after a signal.
const DRAIN_MAX: Duration = Duration::from_secs(20);

/// Serves until a signal says to stop. `layers` are what `config` was made of.
pub fn run(config: &Config, layers: Layers) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(THREADS_MAX)
        .build()
        .map_err(|error| Failure::refused(format!("cannot start the server's threads: {error}")))?;
    let databases = Databases::new(&config.data_dir, options(&config.store))?;
    databases.set_credentials(credentials::read()?);
    let served = runtime.block_on(serve(config, layers, &databases));
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
    let (cache_bytes, compression) = (store.cache_bytes, store.compression);
    Options { cache_bytes, durability, compression, ..Options::default() }
}

async fn serve(config: &Config, layers: Layers, databases: &Databases) -> Result<()> {
    let mut stop = std::pin::pin!(stop_signal()?);
    let access = users::access(config.users_file.as_deref())?;
    let tls = config.tls.as_ref().map(listen::tls).transpose()?;
    let cluster_tls = config.cluster.as_ref().and_then(|cluster| cluster.tls.as_ref());
    let cluster_tls = cluster_tls.map(listen::tls).transpose()?;
    let certificates = [&tls, &cluster_tls].into_iter().flatten().cloned().collect();
    let reread = Arc::new(Notify::new());
    reread_at_hangup(access.clone(), config.users_file.clone(), certificates, reread.clone())?;
    if tls.is_none() && !config.listener.is_loopback() {
        tracing::warn!("tokens and data travel in the clear: set listener.tls_cert and tls_key");
    }
    let (socket, address) = listen::bind(&config.listener, "--listen HOST:PORT")?;
    let metrics = Metrics::default();
    let port = Port::new(metrics.clone(), databases);
    if let Some(address) = &config.metrics {
        let (socket, address) = listen::bind(address, "metrics in the configuration")?;
        tokio::spawn(port.clone().serve(listen::start(socket)?));
        tracing::info!("metrics are served on http://{address}/metrics");
    }
    let scheme = if tls.is_some() { "https" } else { "http" };
    let listener_url = format!("{scheme}://{address}");
    for key in layers.overridden() {
        tracing::warn!(
            "replication.{key} of the configuration's file does not count: it was changed while the server ran, and settings.yaml keeps that; \
             `pleach config show --origin` shows it, `pleach config unset {key}` or `config set` changes it"
        );
    }
    // A signal counts from the beginning on: what has begun by then is left.
    let replication = tokio::select! {
        stopped = &mut stop => return stopped,
        started = Replication::start(config, layers, databases, listener_url, cluster_tls) => started?,
    };
    let ready = async {
        replication.heard().await;
        replication.share_users(&access, config, reread).await;
    };
    tokio::select! {
        stopped = &mut stop => {
            replication.stop().await;
            return stopped;
        }
        () = ready => {}
    }
    let service = DataService::new(databases.clone(), replication.gate())
        .with_remotes_allowed(&config.remotes_allowed)
        .with_recovery_keep(config.recovery_keep)
        .with_access(access.clone())
        .with_metrics(metrics.clone());
    let incoming = || {
        let incoming = Incoming::new(listen::start(socket)?, tls);
        port.ready(replication.gate());
        Ok(incoming)
    };
    let stop = async {
        let stopped = stop.await;
        port.stopping();
        stopped
    };
    let (gate, services) = (replication.gate(), (service, metrics));
    let served = listen(incoming, address, databases, services, access, gate, stop).await;
    replication.stop().await;
    served
}

/// Serves the connections that `incoming` begins to accept, until `stop`.
async fn listen(
    incoming: impl FnOnce() -> Result<Incoming>,
    address: SocketAddr,
    databases: &Databases,
    (service, metrics): (DataService, Metrics),
    access: Access,
    gate: Arc<dyn Gate>,
    stop: impl Future<Output = Result<()>>,
) -> Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<DataServer<DataService>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| Failure::refused(format!("cannot describe the services: {error}")))?;
    let sync = SyncService::new(databases.clone())
        .with_gate(move |_: &str| gate.writable().map_err(|failure| failure.message))
        .with_access(access.clone());
    let watched = sync.clone();
    let sessions = service.sessions();
    let data = DataServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let data = access.guard(data);
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    let incoming = incoming()?;
    let server = pleach_protocol::transport()
        .layer(metrics.calls().clone())
        .add_service(data)
        .add_service(sync.into_server())
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
    watched.end_watches();
    sessions.end();
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

/// Reads the users and the certificates, if there are any, again at each SIGHUP. A file that is wrong changes nothing.
fn reread_at_hangup(
    access: Access,
    users_file: Option<PathBuf>,
    certificates: Vec<ServerTls>,
    reread: Arc<Notify>,
) -> Result<()> {
    let mut hangup = signal(SignalKind::hangup()).map_err(no_signals)?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            match users_file.as_deref().map(users::read) {
                Some(Ok(users)) => {
                    let count = users.len();
                    access.replace(users);
                    tracing::info!(users = count, "the users were read again");
                }
                Some(Err(failure)) => tracing::error!("the users stay as they were: {failure}"),
                None => {}
            }
            for tls in &certificates {
                match tls.reread() {
                    Ok(()) => tracing::info!("the certificates were read again"),
                    Err(error) => tracing::error!("the certificates stay as they were: {error}"),
                }
            }
            reread.notify_one();
        }
    });
    Ok(())
}

/// The line that scripts wait for.
fn announce(address: SocketAddr) -> Result<()> {
    writeln!(std::io::stderr(), "listening on {address}")
        .map_err(|error| Failure::file("standard error", &error))
}

/// Resolves at the first SIGTERM, or SIGINT, which is no success. Listens from now on.
fn stop_signal() -> Result<impl Future<Output = Result<()>>> {
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Err(Failure::interrupted()),
        }
    })
}

fn no_signals(error: std::io::Error) -> Failure {
    Failure::refused(format!("cannot listen for signals: {error}"))
}
