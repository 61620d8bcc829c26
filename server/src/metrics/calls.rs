//! Counts calls: a layer around all services of the listener, which sees each call from its first byte to the last of its answer.
//!
//! Its label is the call's method, if it is one of this server's; whatever else strangers call is `other`, so that they cannot fill the memory.

use std::collections::{BTreeMap, HashSet};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use prost::Message;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::{Code, Status};

/// Upper ends of the classes of durations, seconds.
pub(crate) const SECONDS: [f64; 10] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0];

/// What was counted of all calls. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub(crate) struct Calls {
    counted: Arc<Mutex<BTreeMap<&'static str, Method>>>,
    running: Arc<AtomicU64>,
}

/// The calls of one method that have ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Method {
    /// How many, by how they ended.
    pub(crate) outcomes: BTreeMap<&'static str, u64>,
    /// How many fall into each class of [`SECONDS`]; the last: longer than any.
    pub(crate) durations: [u64; SECONDS.len() + 1],
    pub(crate) seconds: f64,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
}

impl Calls {
    /// The methods that were called, by name.
    pub(crate) fn methods(&self) -> BTreeMap<&'static str, Method> {
        self.counted.lock().clone()
    }

    /// Calls that go on.
    pub(crate) fn running(&self) -> u64 {
        self.running.load(Ordering::Relaxed)
    }

    fn begin(&self, path: &str) -> Arc<Call> {
        self.running.fetch_add(1, Ordering::Relaxed);
        Arc::new(Call {
            calls: self.clone(),
            method: known(path),
            began: Instant::now(),
            outcome: OnceLock::new(),
            bytes_received: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
        })
    }
}

/// The name of a method of this server; `other` for what is none.
fn known(path: &str) -> &'static str {
    static METHODS: OnceLock<HashSet<String>> = OnceLock::new();
    let methods = METHODS.get_or_init(|| {
        let sets = [
            crate::proto::FILE_DESCRIPTOR_SET,
            pleach_protocol::proto::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
        ];
        sets.into_iter().flat_map(methods_of).collect()
    });
    methods.get(path.trim_start_matches('/')).map_or("other", String::as_str)
}

/// `package.Service/Method`, of all services that are described.
fn methods_of(descriptors: &[u8]) -> Vec<String> {
    let files = prost_types::FileDescriptorSet::decode(descriptors).unwrap_or_default().file;
    let services = files.iter().flat_map(|file| file.service.iter().map(move |service| (file, service)));
    services
        .flat_map(|(file, service)| {
            let of = format!("{}.{}", file.package(), service.name());
            service.method.iter().map(move |method| format!("{of}/{}", method.name()))
        })
        .collect()
}

/// One call; counted when it is dropped, with the last of its bodies.
struct Call {
    calls: Calls,
    method: &'static str,
    began: Instant,
    outcome: OnceLock<Code>,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
}

impl Call {
    /// Takes the outcome from headers or trailers that say it.
    fn note(&self, headers: &HeaderMap) {
        if let Some(status) = headers.get(Status::GRPC_STATUS) {
            let _ = self.outcome.set(Code::from_bytes(status.as_bytes()));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.calls.running.fetch_sub(1, Ordering::Relaxed);
        let seconds = self.began.elapsed().as_secs_f64();
        // Who went away before the end has seen no outcome.
        let outcome = word(self.outcome.get().copied().unwrap_or(Code::Cancelled));
        let mut counted = self.calls.counted.lock();
        let method = counted.entry(self.method).or_default();
        *method.outcomes.entry(outcome).or_default() += 1;
        let class = SECONDS.iter().position(|end| seconds <= *end).unwrap_or(SECONDS.len());
        if let Some(count) = method.durations.get_mut(class) {
            *count += 1;
        }
        method.seconds += seconds;
        method.bytes_received += self.bytes_received.load(Ordering::Relaxed);
        method.bytes_sent += self.bytes_sent.load(Ordering::Relaxed);
    }
}

fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

impl<S> tower::Layer<S> for Calls {
    type Service = Counted<S>;

    fn layer(&self, service: S) -> Counted<S> {
        Counted { service, calls: self.clone() }
    }
}

/// A service whose calls are counted.
#[derive(Clone)]
pub(crate) struct Counted<S> {
    service: S,
    calls: Calls,
}

impl<S> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<Response<Body>, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let call = self.calls.begin(request.uri().path());
        let passing = |call: &Arc<Call>, side| {
            let call = call.clone();
            move |body| Body::new(Passing { body, call, side })
        };
        let served = self.service.call(request.map(passing(&call, Side::Received)));
        Box::pin(async move {
            let response = served.await?;
            call.note(response.headers());
            Ok(response.map(passing(&call, Side::Sent)))
        })
    }
}

#[derive(Clone, Copy)]
enum Side {
    Received,
    Sent,
}

/// The bytes of a call in one direction.
struct Passing {
    body: Body,
    call: Arc<Call>,
    side: Side,
}

impl http_body::Body for Passing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            let count = match self.side {
                Side::Received => &self.call.bytes_received,
                Side::Sent => &self.call.bytes_sent,
            };
            if let Some(data) = frame.data_ref() {
                count.fetch_add(data.len() as u64, Ordering::Relaxed);
            }
            if let (Side::Sent, Some(trailers)) = (self.side, frame.trailers_ref()) {
                self.call.note(trailers);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn methods_of_this_server_are_known_and_what_strangers_make_up_is_not() {
        for method in ["pleach.data.v1.Data/Put", "pleach.sync.v1.Sync/Fetch", "grpc.health.v1.Health/Check"]
        {
            assert_eq!(known(&format!("/{method}")), method);
        }
        for path in ["/pleach.data.v1.Data/Putt", "/", "", "/x/y/z"] {
            assert_eq!(known(path), "other");
        }
    }

    #[test]
    fn a_call_is_counted_when_its_last_body_goes() {
        let calls = Calls::default();
        let call = calls.begin("/pleach.data.v1.Data/Get");
        let body = call.clone();
        let headers = [("grpc-status".parse().unwrap(), "5".parse().unwrap())];
        call.note(&HeaderMap::from_iter(headers));
        drop(call);
        assert_eq!((calls.running(), calls.methods().len()), (1, 0));
        drop(body);
        drop(calls.begin("/made/up"));
        let methods = calls.methods();
        assert_eq!(methods["pleach.data.v1.Data/Get"].outcomes, BTreeMap::from([("not_found", 1)]));
        assert_eq!(methods["other"].outcomes, BTreeMap::from([("cancelled", 1)]));
        assert_eq!((calls.running(), methods["other"].durations[0]), (0, 1));
    }
}
