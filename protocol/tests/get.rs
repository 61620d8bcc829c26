//! Get: single chunks, by way of a ref or by hash, for who may read them; over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;

use pleach_engine::{Batch, Chunk, Database, Hash, NewCommit, Options, Outcome, RefUpdate};
use pleach_protocol::proto::{self, GetRequest, GetResponse, Path, sync_client::SyncClient};
use pleach_protocol::{
    Access, Bearer, ChunkPath, Credential, Databases, Error, Grant, Remote, RemoteUrl, Right, SyncService,
    Token, User, get, get_below, limits, transport,
};
use tempfile::TempDir;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// A server with users: who may read all of it, who may read `heads/public`, and who may do so of no database that there is.
struct Server {
    address: SocketAddr,
    db: Database,
    all: Token,
    some: Token,
    elsewhere: Token,
    _dir: TempDir,
}

/// A server whose database `shop` has a branch `main` with two commits of `rows` rows, and a branch `public` with the first.
async fn shop(rows: u64) -> (Server, [Hash; 2]) {
    let dir = TempDir::new().unwrap();
    let databases = Databases::new(dir.path(), Options::default()).unwrap();
    let db = databases.create("shop").unwrap();
    let commits = ["one", "two"].map(|message| {
        let mut transaction = db.begin("main").unwrap();
        transaction.create_table(message, None).unwrap();
        for row in 0..rows {
            let value = format!("{message} {:0100}", row.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            transaction.put(message, &row.to_be_bytes(), value.as_bytes()).unwrap();
        }
        transaction.commit().unwrap();
        let new = NewCommit { message: message.into(), author: "tester".into(), ..NewCommit::default() };
        db.commit("main", new).unwrap().hash
    });
    set(&db, "heads/public", Some(commits[0]));
    let user = |number: u8, database: &str, refs: &str| {
        let token = Token::from_random([number; 32]);
        let grant = Grant { database: database.into(), refs: refs.into(), right: Right::Read };
        let user = User { name: format!("user {number}"), token_hash: token.hash(), grants: vec![grant] };
        (token, user)
    };
    let ((all, first), (some, second)) = (user(1, "shop", "*"), user(2, "shop", "pub*"));
    let (elsewhere, third) = user(3, "bank", "*");
    let access = Access::of(vec![first, second, third]);
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap().with_nodelay(Some(true));
    let address = incoming.local_addr().unwrap();
    let service = SyncService::new(databases).with_access(access).into_server();
    tokio::spawn(transport().add_service(service).serve_with_incoming(incoming));
    (Server { address, db, all, some, elsewhere, _dir: dir }, commits)
}

impl Server {
    async fn remote(&self, token: &Token) -> Remote {
        let url = RemoteUrl::parse(&format!("http://{}/shop", self.address)).unwrap();
        Remote::connect(
            &url.with_credential(Credential { token: Some(token.clone()), ..Credential::default() }),
        )
        .await
        .unwrap()
    }

    async fn ask(&self, token: &Token, request: GetRequest) -> Result<GetResponse, Status> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        let channel = endpoint.connect().await.unwrap();
        let mut client: SyncClient<InterceptedService<Channel, Bearer>> =
            SyncClient::with_interceptor(channel, Bearer::new(Some(token.clone())))
                .max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
                .max_encoding_message_size(2 * limits::MESSAGE_BYTES_MAX);
        client.get(request).await.map(tonic::Response::into_inner)
    }

    fn chunk(&self, hash: &Hash) -> Chunk {
        self.db.store().get(hash).unwrap().unwrap()
    }

    /// All chunks below `top`, each with one way there.
    fn below(&self, top: Hash) -> Vec<ChunkPath> {
        let mut found = vec![ChunkPath { steps: vec![], hash: top }];
        let mut next = 0;
        while let Some(ChunkPath { steps, hash }) = found.get(next).cloned() {
            for (step, child) in self.chunk(&hash).children().enumerate() {
                if found.iter().all(|one| one.hash != child) {
                    let steps = [&steps[..], &[step as u32]].concat();
                    found.push(ChunkPath { steps, hash: child });
                }
            }
            next += 1;
        }
        found
    }
}

fn set(db: &Database, name: &str, new: Option<Hash>) {
    let update = RefUpdate { name: name.into(), old: db.get_ref(name), new };
    assert!(matches!(db.update_refs(Batch::default(), &[update]).unwrap(), Outcome::Appended(_)));
}

fn paths(reference: &str, paths: &[&[u32]]) -> GetRequest {
    let paths = paths.iter().map(|steps| Path { steps: steps.to_vec() }).collect();
    GetRequest { database: "shop".into(), r#ref: reference.into(), paths, ..GetRequest::default() }
}

fn hashes(hashes: &[Hash]) -> GetRequest {
    let hashes: Vec<u8> = hashes.iter().flat_map(|hash| *hash.as_bytes()).collect();
    GetRequest { database: "shop".into(), hashes: hashes.into(), ..GetRequest::default() }
}

#[tokio::test]
async fn all_that_a_ref_reaches_is_given_by_its_place_and_by_its_hash() {
    let (server, [_, two]) = shop(20_000).await;
    let places = server.below(two);
    let bytes: usize = places.iter().map(|place| server.chunk(&place.hash).bytes().len()).sum();
    assert!(bytes > 2 * limits::GET_BYTES, "{bytes} bytes are more than one answer");
    let remote = server.remote(&server.all).await;
    let wanted: Vec<Hash> = places.iter().map(|place| place.hash).collect();
    let by_place = get_below(&remote, "heads/main", &two, &places).await.unwrap();
    let by_hash = get(&remote, &wanted).await.unwrap();
    for (chunks, how) in [(by_place, "by place"), (by_hash, "by hash")] {
        assert_eq!(chunks.iter().map(|chunk| *chunk.hash()).collect::<Vec<_>>(), wanted, "{how}");
    }
    assert!(get(&remote, &[]).await.unwrap().is_empty());
    let answer = server.ask(&server.all, hashes(&wanted)).await.unwrap();
    let sent: usize = answer.chunks.iter().map(bytes::Bytes::len).sum();
    assert!(sent <= limits::GET_BYTES && answer.chunks.len() < wanted.len(), "{sent} bytes");
}

#[tokio::test]
async fn who_may_read_one_branch_gets_what_it_reaches_and_nothing_else() {
    let (server, [one, two]) = shop(100).await;
    let remote = server.remote(&server.some).await;
    let places = server.below(one);
    assert_eq!(get_below(&remote, "heads/public", &one, &places).await.unwrap().len(), places.len());
    // By hash there is nothing, not even what the branch reaches.
    assert!(matches!(get(&remote, &[one]).await, Err(Error::NoChunk { .. })));
    let absent = Hash::of(b"absent");
    let mut refusals = Vec::new();
    for request in [
        hashes(&[one]),
        hashes(&[two]),
        hashes(&[absent]),
        paths("heads/main", &[&[]]),
        paths("heads/absent", &[&[]]),
        paths("heads/public-but-absent", &[&[]]),
        paths("tags/absent", &[&[]]),
        // The commit that a ref is taken to name says nothing of a ref that may not be read.
        GetRequest { commit: two.as_bytes().to_vec().into(), ..paths("heads/main", &[&[]]) },
        GetRequest { commit: one.as_bytes().to_vec().into(), ..paths("heads/main", &[&[]]) },
        // Out of range, at once and below what is there.
        paths("heads/public", &[&[1]]),
        paths("heads/public", &[&[u32::MAX]]),
        paths("heads/public", &[&[], &[0, 0, 0, 0, 0, 0, 0]]),
    ] {
        let refusal = server.ask(&server.some, request.clone()).await.expect_err(&format!("{request:?}"));
        refusals.push((refusal.code(), refusal.message().to_owned()));
    }
    let expected = (Code::NotFound, refusals[0].1.clone());
    assert!(refusals.iter().all(|refusal| *refusal == expected), "{refusals:?}");
    // And for who may read everything, what is absent is that.
    let refusal = server.ask(&server.all, hashes(&[two, absent])).await.unwrap_err();
    assert_eq!((refusal.code(), refusal.message().to_owned()), expected);
}

#[tokio::test]
async fn a_database_that_there_is_and_one_that_there_is_not_are_refused_alike() {
    let (server, _) = shop(1).await;
    let mut refusals = Vec::new();
    for database in ["shop", "absent"] {
        let request = GetRequest { database: database.into(), ..paths("heads/main", &[&[]]) };
        let refusal = server.ask(&server.elsewhere, request).await.unwrap_err();
        refusals.push((refusal.code(), refusal.message().replace(database, "")));
    }
    assert_eq!(refusals[0].0, Code::PermissionDenied);
    assert_eq!(refusals[0], refusals[1]);
    let stranger = Token::from_random([9; 32]);
    let refusal = server.ask(&stranger, paths("heads/main", &[&[]])).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn what_breaks_the_contract_or_a_limit_is_refused_before_anything_is_read() {
    let (server, [one, _]) = shop(1).await;
    let deep = vec![0; limits::DEPTH_MAX + 1];
    let many = vec![&[][..]; limits::GET_CHUNKS_MAX + 1];
    let both = GetRequest { hashes: one.as_bytes().to_vec().into(), ..paths("heads/main", &[&[]]) };
    let base = GetRequest { database: "shop".into(), ..GetRequest::default() };
    for (request, code) in [
        (paths("heads/main", &[&deep]), Code::ResourceExhausted),
        (paths("heads/main", &many), Code::ResourceExhausted),
        (hashes(&vec![one; limits::GET_CHUNKS_MAX + 1]), Code::ResourceExhausted),
        (paths("heads/main", &vec![&[][..]; 1_000_000]), Code::ResourceExhausted),
        (paths("heads/main", &vec![&[][..]; 3_000_000]), Code::OutOfRange),
        (both, Code::InvalidArgument),
        (base.clone(), Code::InvalidArgument),
        (paths("", &[&[]]), Code::InvalidArgument),
        (paths("heads/main", &[]), Code::InvalidArgument),
        (GetRequest { hashes: vec![0; 33].into(), ..base.clone() }, Code::InvalidArgument),
        (paths("work/main", &[&[]]), Code::InvalidArgument),
        (paths("heads/../x", &[&[]]), Code::InvalidArgument),
        (paths(&format!("heads/{}", "a".repeat(2000)), &[&[]]), Code::ResourceExhausted),
        (GetRequest { commit: vec![1; 31].into(), ..paths("heads/main", &[&[]]) }, Code::InvalidArgument),
    ] {
        let what =
            format!("{} paths, {} hashes of {:?}", request.paths.len(), request.hashes.len(), request.r#ref);
        let refusal = server.ask(&server.all, request).await.expect_err(&what);
        assert_eq!(refusal.code(), code, "{what}: {refusal}");
    }
}

#[tokio::test]
async fn a_ref_that_has_moved_is_told_apart() {
    let (server, [one, two]) = shop(1).await;
    let remote = server.remote(&server.all).await;
    let top = ChunkPath { steps: vec![], hash: one };
    let moved = get_below(&remote, "heads/main", &one, std::slice::from_ref(&top)).await;
    assert!(matches!(moved, Err(Error::Moved { ref name }) if name == "heads/main"), "{moved:?}");
    // A chunk that is not the one that its parent names is not taken.
    let wrong = get_below(&remote, "heads/main", &two, &[top]).await;
    assert!(
        matches!(wrong, Err(Error::WrongHash { expected, found, .. }) if (expected, found) == (one, two))
    );
}

/// A server that answers each Get with these bytes.
struct Lying(Vec<Vec<u8>>);

type Nothing<T> = tokio_stream::wrappers::ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl proto::sync_server::Sync for Lying {
    type FetchStream = Nothing<proto::FetchResponse>;
    type PushStream = Nothing<proto::PushResponse>;
    type WatchStream = Nothing<proto::WatchResponse>;

    async fn fetch(
        &self,
        _: tonic::Request<proto::FetchRequest>,
    ) -> Result<tonic::Response<Self::FetchStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn push(
        &self,
        _: tonic::Request<tonic::Streaming<proto::PushRequest>>,
    ) -> Result<tonic::Response<Self::PushStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn watch(
        &self,
        _: tonic::Request<proto::WatchRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get(&self, _: tonic::Request<GetRequest>) -> Result<tonic::Response<GetResponse>, Status> {
        let chunks = self.0.iter().cloned().map(Into::into).collect();
        Ok(tonic::Response::new(GetResponse { chunks, ancestors: Vec::new() }))
    }
}

#[tokio::test]
async fn what_a_server_sends_is_checked_and_a_directory_is_asked_for_nothing() {
    let (server, [one, two]) = shop(1).await;
    let (first, mut bent) = (server.chunk(&one).bytes().to_vec(), server.chunk(&two).bytes().to_vec());
    bent[40] ^= 1;
    // Hashes to what it is asked for, and is no chunk that anybody makes.
    let odd = Chunk::build(200, 0, b"odd", None, &[], 0);
    for (answer, wanted, expected) in [
        (vec![], one, "answered with 0"),
        (vec![first.clone(), first.clone()], one, "answered with 2"),
        (vec![bent], two, "expected"),
        (vec![first], two, "expected"),
        (vec![b"short".to_vec()], Hash::of(b"short"), "header"),
        (vec![odd.bytes().to_vec()], *odd.hash(), "kind"),
    ] {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let service = proto::sync_server::SyncServer::new(Lying(answer));
        tokio::spawn(transport().add_service(service).serve_with_incoming(incoming));
        let url = RemoteUrl::parse(&format!("http://{address}/shop")).unwrap();
        let remote = Remote::connect(&url).await.unwrap();
        let error = get(&remote, &[wanted]).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let dir = TempDir::new().unwrap();
    let url = RemoteUrl::parse(&format!("file://{}", dir.path().display())).unwrap();
    let error = get(&Remote::connect(&url).await.unwrap(), &[one]).await.unwrap_err();
    assert!(matches!(error, Error::NoServer { .. }), "{error}");
}
