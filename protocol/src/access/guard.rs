//! Calls that last, held against the users of the moment: the service in front of a service that asks who calls, and goes on asking.
//!
//! A call is let in once, before anything of it is read. When users are replaced it may go on as long as its user is there and has
//! every grant that it had; else it ends at its next message, in either direction. The first message of an answer is let through: where
//! it is the only one it says what was done, and nobody is refused who was served. Put around services by `server`, and by whoever has services of their own.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;

use super::{Access, Caller};

/// A service for those alone who have access, for as long as they have it. It reads no message of a call that has none.
#[derive(Clone)]
pub struct Guarded<S> {
    service: S,
    access: Access,
}

impl Access {
    /// Stands before `service`.
    pub fn guard<S>(&self, service: S) -> Guarded<S> {
        Guarded { service, access: self.clone() }
    }
}

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<Response<Body>, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let caller = match self.access.caller(&MetadataMap::from_headers(request.headers().clone())) {
            Ok(caller) => caller,
            Err(status) => return Box::pin(async move { Ok(status.into_http()) }),
        };
        let mut pass = Pass { access: self.access.clone(), caller };
        let watch = |pass: &Pass, side| {
            let pass = pass.clone();
            move |body| {
                Body::new(Watched { body, pass, side, is_next_free: side == Side::Response, is_ended: false })
            }
        };
        let served = self.service.call(request.map(watch(&pass, Side::Request)));
        Box::pin(async move {
            let response = served.await?;
            // Whatever came of it is for want of the messages that were kept from it.
            if is_error(response.headers())
                && let Err(status) = pass.check()
            {
                return Ok(status.into_http());
            }
            Ok(response.map(watch(&pass, Side::Response)))
        })
    }
}

/// That somebody was let in.
#[derive(Clone)]
struct Pass {
    access: Access,
    caller: Caller,
}

impl Pass {
    /// Whether it still holds.
    fn check(&mut self) -> Result<(), Status> {
        self.caller = self.access.again(&self.caller)?;
        Ok(())
    }
}

/// Whether headers or trailers say that a call failed.
fn is_error(headers: &HeaderMap) -> bool {
    headers.get(Status::GRPC_STATUS).is_some_and(|status| status != "0")
}

/// The messages of a call in one direction.
struct Watched {
    body: Body,
    pass: Pass,
    side: Side,
    /// Whether the next message is let through whatever the users of the moment are.
    is_next_free: bool,
    is_ended: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Request,
    Response,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_ended {
            return Poll::Ready(None);
        }
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            end => return Poll::Ready(end),
        };
        let is_asked = match frame.trailers_ref() {
            Some(trailers) => is_error(trailers),
            None => !std::mem::replace(&mut self.is_next_free, false),
        };
        let Err(status) = (if is_asked { self.pass.check() } else { Ok(()) }) else {
            return Poll::Ready(Some(Ok(frame)));
        };
        self.is_ended = true;
        Poll::Ready(Some(match self.side {
            Side::Request => Err(status),
            Side::Response => {
                let mut trailers = HeaderMap::new();
                status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.is_ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.side {
            Side::Request => self.body.size_hint(),
            // It may end with another word than it began.
            Side::Response => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use tonic::Code;
    use tower::{ServiceExt, service_fn};

    use super::super::{Token, User};
    use super::*;

    /// A body of these frames.
    struct Frames(VecDeque<Frame<Bytes>>);

    impl http_body::Body for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    fn frames(messages: &[&'static str], status: Code) -> Body {
        let mut frames: VecDeque<_> =
            messages.iter().map(|message| Frame::data(Bytes::from_static(message.as_bytes()))).collect();
        let mut trailers = HeaderMap::new();
        Status::new(status, "").add_header(&mut trailers).unwrap();
        frames.push_back(Frame::trailers(trailers));
        Body::new(Frames(frames))
    }

    /// The messages that come through, and the status at the end.
    async fn read(mut body: Body) -> (Vec<Bytes>, Code) {
        let mut messages = Vec::new();
        loop {
            let frame =
                std::future::poll_fn(|context| http_body::Body::poll_frame(Pin::new(&mut body), context));
            match frame.await {
                Some(Ok(frame)) if frame.is_data() => messages.push(frame.into_data().unwrap()),
                Some(Ok(frame)) => {
                    let trailers = frame.into_trailers().unwrap();
                    assert!(http_body::Body::is_end_stream(&body) || read_end(&mut body).await);
                    return (messages, Status::from_header_map(&trailers).unwrap().code());
                }
                Some(Err(status)) => return (messages, status.code()),
                None => panic!("no status"),
            }
        }
    }

    async fn read_end(body: &mut Body) -> bool {
        let end = std::future::poll_fn(|context| http_body::Body::poll_frame(Pin::new(&mut *body), context));
        end.await.is_none()
    }

    fn access() -> (Access, Request<Body>) {
        let token = Token::from_random([7; 32]);
        let user = User { name: "ada".into(), token_hash: token.hash(), grants: Vec::new() };
        let request = Request::builder().header("authorization", format!("Bearer {}", token.reveal()));
        (Access::of(vec![user]), request.body(Body::empty()).unwrap())
    }

    /// What the caller gets of a service that answers so, whose users are gone when it begins.
    async fn answered(messages: &[&'static str], status: Code) -> (Vec<Bytes>, Code) {
        let (access, request) = access();
        let mut response = Some(Response::new(frames(messages, status)));
        let service = service_fn(move |_| std::future::ready(Ok::<_, Infallible>(response.take().unwrap())));
        let response = access.guard(service).oneshot(request).await.unwrap();
        access.replace(Vec::new());
        read(response.into_body()).await
    }

    #[tokio::test]
    async fn an_answer_that_goes_on_ends_when_its_user_is_gone() {
        assert_eq!(answered(&["a", "b", "c"], Code::Ok).await, (vec!["a".into()], Code::Unauthenticated));
        assert_eq!(answered(&["a"], Code::Aborted).await, (vec!["a".into()], Code::Unauthenticated));
        // What was done is told.
        assert_eq!(answered(&["a"], Code::Ok).await, (vec!["a".into()], Code::Ok));
        assert_eq!(answered(&[], Code::Ok).await, (vec![], Code::Ok));
    }

    #[tokio::test]
    async fn a_request_that_goes_on_ends_when_its_user_is_gone() {
        let (access, request) = access();
        let request = request.map(|_| frames(&["a", "b"], Code::Ok));
        let users = access.clone();
        let service = service_fn(move |request: Request<Body>| {
            users.replace(Vec::new());
            async move {
                assert_eq!(read(request.into_body()).await, (vec![], Code::Unauthenticated));
                Ok::<_, Infallible>(Status::cancelled("cut").into_http::<Body>())
            }
        });
        // What the service makes of it is of no interest to the caller.
        let response = access.guard(service).oneshot(request).await.unwrap();
        assert_eq!(Status::from_header_map(response.headers()).unwrap().code(), Code::Unauthenticated);
    }

    #[tokio::test]
    async fn who_has_no_access_reaches_no_service() {
        let (access, _) = access();
        let service = service_fn(|_: Request<Body>| async { panic!("it was called") });
        let service = access.guard(ServiceExt::map_err(service, |never: Infallible| never));
        let response = service.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(Status::from_header_map(response.headers()).unwrap().code(), Code::Unauthenticated);
    }
}
