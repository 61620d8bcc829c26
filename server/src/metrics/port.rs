//! The port for those who watch a server: `/metrics`, `/healthz`, `/readyz`, `/role`. Plain HTTP, without users: what it shows are figures, and names of databases and remotes.
//!
//! It answers before the listener does, so that a start that takes long is seen as one, and until the end.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use pleach_protocol::Databases;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};

use super::{Metrics, exposition};
use crate::gate::Gate;

/// Connections at the same time; one more is closed.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take to say what it wants.
const REQUEST_MAX: Duration = Duration::from_secs(30);
/// How long a scrape may take, with those that it waits for.
const SCRAPE_MAX: Duration = Duration::from_secs(8);
/// How long databases may take, all together, to give their figures.
const FIGURES_MAX: Duration = Duration::from_secs(1);
/// All that a server may be.
pub(super) const ROLES: [&str; 4] = ["primary", "standby", "replica", "detected_broken_config"];

/// What the port shows. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Port {
    inner: Arc<Inner>,
}

struct Inner {
    metrics: Metrics,
    databases: Databases,
    /// There when roles are recovered and the listener accepts.
    gate: OnceLock<Arc<dyn Gate>>,
    stopping: AtomicBool,
    /// One scrape at a time: another one waits.
    scraping: Arc<Mutex<()>>,
}

impl Port {
    pub(crate) fn new(metrics: Metrics, databases: &Databases) -> Port {
        let databases = databases.clone();
        let (gate, stopping, scraping) = (OnceLock::new(), AtomicBool::new(false), Arc::default());
        Port { inner: Arc::new(Inner { metrics, databases, gate, stopping, scraping }) }
    }

    /// Roles are recovered, and the listener accepts.
    pub(crate) fn ready(&self, gate: Arc<dyn Gate>) {
        let _ = self.inner.gate.set(gate);
    }

    /// The listener accepts no more.
    pub(crate) fn stopping(&self) {
        self.inner.stopping.store(true, Ordering::SeqCst);
    }

    /// Answers whoever connects, for ever.
    pub(crate) async fn serve(self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of files, most likely: they come back.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let Ok(place) = places.clone().try_acquire_owned() else { continue };
            let port = self.clone();
            tokio::spawn(async move {
                port.converse(stream).await;
                drop(place);
            });
        }
    }

    async fn converse(self, stream: TcpStream) {
        let answer = service_fn(move |request: Request<Incoming>| {
            let port = self.clone();
            async move { Ok::<_, Infallible>(port.answer(&request).await) }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(REQUEST_MAX);
        // A client that breaks off needs no answer.
        let _ = http.serve_connection(TokioIo::new(stream), answer).await;
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "expected GET");
        }
        match request.uri().path() {
            "/metrics" => {
                let accepted = request.headers().get_all(ACCEPT).iter();
                let mut accepted = accepted.filter_map(|types| types.to_str().ok());
                self.scrape(accepted.any(|types| types.contains("application/openmetrics-text"))).await
            }
            "/healthz" => text(StatusCode::OK, "ok"),
            "/readyz" => match self.why_not_ready() {
                None => text(StatusCode::OK, "ready"),
                Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, &why),
            },
            "/role" => self.role(request.uri().query()),
            _ => text(StatusCode::NOT_FOUND, "expected /metrics, /healthz, /readyz or /role"),
        }
    }

    /// Why databases cannot be served now, if so.
    fn why_not_ready(&self) -> Option<String> {
        if self.inner.stopping.load(Ordering::SeqCst) {
            return Some("stopping".to_owned());
        }
        if self.inner.gate.get().is_none() {
            return Some("starting".to_owned());
        }
        let databases = self.inner.databases.loaded_before(Instant::now());
        databases.iter().find_map(|(name, database)| {
            let why = database.store().poisoned()?;
            Some(format!("database {name} takes no writes until the server is started again: {why}"))
        })
    }

    /// The role, as a word; asked for one (`?is=primary`), whether it is that.
    fn role(&self, query: Option<&str>) -> Response<Full<Bytes>> {
        let wanted = match query.map(|query| query.strip_prefix("is=")) {
            None => None,
            Some(Some(role)) if ROLES.contains(&role) => Some(role),
            Some(_) => {
                let message = format!("expected /role, or /role?is= and one of {}", ROLES.join(", "));
                return text(StatusCode::BAD_REQUEST, &message);
            }
        };
        let Some(gate) = self.inner.gate.get() else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "starting");
        };
        let observed = gate.observe();
        let role = observed.role;
        // Who was elected and lost that, or is not granted its epoch, takes no writes, and is nobody to send them to.
        let refuses = observed.takes_writes == Some(false);
        let is_wanted = wanted.is_none_or(|wanted| wanted == role && !(wanted == "primary" && refuses));
        text(if is_wanted { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, role)
    }

    async fn scrape(&self, is_open_metrics: bool) -> Response<Full<Bytes>> {
        let inner = self.inner.clone();
        let scraped = async move {
            let turn = inner.scraping.clone().lock_owned().await;
            // The turn is given back when it has ended, though nobody may wait for it any more.
            let scrape = move || {
                let text = inner.metrics_text();
                drop(turn);
                text
            };
            tokio::task::spawn_blocking(scrape).await.ok()
        };
        let Ok(Some(metrics)) = tokio::time::timeout(SCRAPE_MAX, scraped).await else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "the figures cannot be had in time");
        };
        let (metrics, format) = match is_open_metrics {
            true => (metrics, exposition::OPEN_METRICS),
            false => (exposition::older(&metrics), exposition::OLDER),
        };
        let mut response = Response::new(Full::new(Bytes::from(metrics)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format));
        response
    }
}

impl Inner {
    fn metrics_text(&self) -> String {
        let observed = self.gate.get().map(|gate| gate.observe());
        exposition::text(&self.metrics, &self.databases, observed, Instant::now() + FIGURES_MAX)
    }
}

/// A line of text.
fn text(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{line}\n"))));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}
