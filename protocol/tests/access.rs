//! Transfers of users who are replaced while they run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;

use bytes::Bytes;
use pleach_engine::{Database, NewCommit, Options};
use pleach_protocol::proto::{self, push_request::Message, sync_client::SyncClient};
use pleach_protocol::{
    Access, Bearer, Databases, Grant, Incoming, Right, SyncService, Token, User, endpoint, transport,
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status};

type Client = SyncClient<InterceptedService<Channel, Bearer>>;

/// A server with the database `shop`, and its one user.
struct Server {
    address: SocketAddr,
    access: Access,
    user: User,
    token: Token,
    shop: Database,
    _dir: TempDir,
}

impl Server {
    async fn start() -> Server {
        let dir = TempDir::new().unwrap();
        let databases = Databases::new(dir.path(), Options::default()).unwrap();
        let shop = databases.create("shop").unwrap();
        let token = Token::from_random([7; 32]);
        let grants = [Right::Read, Right::Write].map(|right| Grant {
            database: "shop".into(),
            refs: "*".into(),
            right,
        });
        let user = User { name: "ada".into(), token_hash: token.hash(), grants: grants.to_vec() };
        let access = Access::of(vec![user.clone()]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = SyncService::new(databases).with_access(access.clone()).into_server();
        tokio::spawn(transport().add_service(service).serve_with_incoming(Incoming::new(listener, None)));
        Server { address, access, user, token, shop, _dir: dir }
    }

    async fn client(&self) -> Client {
        // What one window holds may be on its way when users are replaced: it is small.
        let endpoint = endpoint(&format!("http://{}", self.address)).unwrap();
        let endpoint = endpoint.initial_stream_window_size(1 << 16).initial_connection_window_size(1 << 16);
        SyncClient::with_interceptor(endpoint.connect().await.unwrap(), Bearer::new(Some(self.token.clone())))
    }

    /// The user as before, but with this right only.
    fn with_right(&self, right: Right) -> User {
        let grants = self.user.grants.iter().filter(|grant| grant.right == right).cloned().collect();
        User { grants, ..self.user.clone() }
    }
}

/// Commits 8 MiB that do not compress.
fn fill(db: &Database) {
    let mut transaction = db.begin("main").unwrap();
    transaction.create_table("t", None).unwrap();
    for row in 0..8u32 {
        let mut state = u64::from(row) + 1;
        let random = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        let value: Vec<u8> = (0..1 << 20).map(random).collect();
        transaction.put("t", &row.to_be_bytes(), &value).unwrap();
    }
    transaction.commit().unwrap();
    db.commit("main", NewCommit { message: "c".into(), ..NewCommit::default() }).unwrap();
}

/// Begins a fetch, replaces the users, reads on.
async fn fetched(server: &Server, users: Vec<User>) -> Result<u64, Status> {
    let request = proto::FetchRequest { database: "shop".into(), ..Default::default() };
    let mut stream = server.client().await.fetch(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    server.access.replace(users);
    let mut messages = 0;
    while stream.message().await?.is_some() {
        messages += 1;
    }
    Ok(messages)
}

#[tokio::test]
async fn a_fetch_goes_on_as_long_as_its_user_is_there_with_what_was_granted() {
    let server = Server::start().await;
    fill(&server.shop);
    let same = vec![server.user.clone()];
    assert!(fetched(&server, same.clone()).await.unwrap() > 16);
    assert_eq!(fetched(&server, Vec::new()).await.unwrap_err().code(), Code::Unauthenticated);
    server.access.replace(same);
    let less = vec![server.with_right(Right::Read)];
    assert_eq!(fetched(&server, less).await.unwrap_err().code(), Code::PermissionDenied);
}

/// Begins a push of a branch, replaces the users, and ends it.
async fn pushed(server: &Server, branch: &str, users: Vec<User>) -> Result<(), Status> {
    let head = server.shop.branch("main").unwrap().unwrap().head.unwrap();
    let (messages, stream) = mpsc::channel(1);
    let send = |message| messages.send(proto::PushRequest { message: Some(message) });
    let begin = proto::Begin {
        database: "shop".into(),
        idempotency_key: Bytes::from(branch.as_bytes()[..16].to_vec()),
        updates: vec![proto::RefUpdate {
            name: format!("heads/{branch}"),
            new: Bytes::copy_from_slice(head.as_bytes()),
            expected: Some(proto::ref_update::Expected::Absent(true)),
            force: false,
        }],
        ..Default::default()
    };
    let mut client = server.client().await;
    let (answers, begun) =
        tokio::join!(client.push(ReceiverStream::new(stream)), send(Message::Begin(begin)));
    begun.unwrap();
    server.access.replace(users);
    let _ = send(Message::Finish(proto::Finish { records: 0 })).await;
    answers?.into_inner().message().await.map(|answer| assert!(answer.is_some()))
}

#[tokio::test]
async fn a_push_goes_on_as_long_as_its_user_is_there_with_what_was_granted() {
    let server = Server::start().await;
    fill(&server.shop);
    let same = vec![server.user.clone()];
    pushed(&server, "of-one-who-stays", same.clone()).await.unwrap();
    let gone = pushed(&server, "of-one-who-is-gone", Vec::new()).await.unwrap_err();
    assert_eq!(gone.code(), Code::Unauthenticated, "{gone}");
    server.access.replace(same);
    let less = vec![server.with_right(Right::Read)];
    let less = pushed(&server, "of-one-who-may-no-more", less).await.unwrap_err();
    assert_eq!(less.code(), Code::PermissionDenied, "{less}");
    let is_there = |branch| server.shop.branch(branch).unwrap().is_some();
    assert!(is_there("of-one-who-stays"));
    assert!(!is_there("of-one-who-is-gone") && !is_there("of-one-who-may-no-more"));
}
