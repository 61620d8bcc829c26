//! A server with a fault, which whoever tests with it must find.

use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status, Streaming};

use crate::limits::MESSAGE_BYTES_MAX;
use crate::proto::sync_server::{Sync, SyncServer};
use crate::proto::{
    FetchRequest, FetchResponse, GetRequest, GetResponse, PushRequest, WatchRequest, fetch_response::Message,
};
use crate::server::{SyncService, transport};

/// What a faulty server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It begins each fetch anew, wherever the one before was cut.
    ForgetPlace,
    /// It leaves out the second message of what a fetch is sent, and counts on.
    SkipMessage,
}

/// A service that answers as another one does, but for a fault.
pub struct Faulty {
    service: SyncService,
    fault: Fault,
}

impl Faulty {
    /// A server of it.
    pub fn serve(service: SyncService, fault: Fault) -> Router {
        let server = SyncServer::new(Faulty { service, fault })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        transport().add_service(server)
    }
}

type Answers<T> = Result<Response<ReceiverStream<Result<T, Status>>>, Status>;

#[tonic::async_trait]
impl Sync for Faulty {
    type FetchStream = ReceiverStream<Result<FetchResponse, Status>>;
    type PushStream = <SyncService as Sync>::PushStream;
    type WatchStream = <SyncService as Sync>::WatchStream;

    async fn fetch(&self, mut request: Request<FetchRequest>) -> Answers<FetchResponse> {
        if self.fault == Fault::ForgetPlace {
            request.get_mut().resume = None;
            request.get_mut().haves.clear();
        }
        let mut answers = self.service.fetch(request).await?.into_inner();
        let skips = self.fault == Fault::SkipMessage;
        let (pass, passed) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut data = 0;
            while let Some(answer) = answers.next().await {
                let message = answer.as_ref().ok().and_then(|answer| answer.message.as_ref());
                data += u32::from(matches!(message, Some(Message::Data(_))));
                if skips && data == 2 && matches!(message, Some(Message::Data(_))) {
                    continue;
                }
                if pass.send(answer).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(passed)))
    }

    async fn push(
        &self,
        request: Request<Streaming<PushRequest>>,
    ) -> Result<Response<Self::PushStream>, Status> {
        self.service.push(request).await
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.service.watch(request).await
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        self.service.get(request).await
    }
}
