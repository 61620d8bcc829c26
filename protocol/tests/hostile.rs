//! What a hostile or broken peer sends: each a typed refusal, with the refs as they were and nothing in the store but whole,
//! verified subtrees.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::sync::LazyLock;

use bytes::Bytes;
use pleach_engine::{Batch, Chunk, Database, Hash, NewCommit, Options, RefUpdate, Sent, difference};
use pleach_protocol::limits::{CHUNK_BYTES_MAX, DEPTH_MAX};
use pleach_protocol::proto::{self, fetch_response, push_request, sync_client::SyncClient, sync_server};
use pleach_protocol::record::{BaseName, Follow, Record};
use pleach_protocol::{
    Databases, Encoding, Error, Receiver, RefPatterns, Remote, RemoteUrl, SyncService, fetch, transport,
};
use proptest::{prelude::*, test_runner::FileFailurePersistence};
use tempfile::TempDir;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

#[path = "hostile/callers.rs"]
mod callers;
#[path = "hostile/pushes.rs"]
mod pushes;
#[path = "hostile/remotes.rs"]
mod remotes;
#[path = "hostile/rows.rs"]
mod rows;
#[path = "hostile/slow.rs"]
mod slow;

/// A database with two commits of a table that has inner nodes.
fn source() -> (Database, Vec<Hash>) {
    let db = Database::memory().unwrap();
    let mut commits = Vec::new();
    for round in 0..2u64 {
        let mut transaction = db.begin("main").unwrap();
        if round == 0 {
            transaction.create_table("t", None).unwrap();
        }
        for i in 0..2000u64 {
            transaction
                .put("t", &(i * (round + 1)).to_be_bytes(), format!("row {i} of {round}").as_bytes())
                .unwrap();
        }
        transaction.commit().unwrap();
        let new = NewCommit {
            message: "c".into(),
            author: "a".into(),
            date_micros: Some(0),
            ..NewCommit::default()
        };
        commits.push(db.commit("main", new).unwrap().hash);
    }
    (db, commits)
}

fn sent(db: &Database, target: Hash) -> Vec<Sent> {
    difference(db, &[target], &[]).unwrap().map(Result::unwrap).collect()
}

fn record(sent: &Sent) -> Record<'_> {
    let bytes = sent.chunk.bytes();
    Record {
        encoding: Encoding::Raw,
        raw_len: bytes.len(),
        top: sent.child.is_none().then(|| *sent.chunk.hash()),
        base: None,
        follow: Follow::new(sent.follow.clone(), sent.chunk.child_count()),
        payload: bytes,
    }
}

fn written(record: &Record<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    record.write(&mut out);
    out
}

fn message(all: &[Sent]) -> Vec<u8> {
    all.iter().flat_map(|sent| written(&record(sent))).collect()
}

/// Receives `message` as a transfer of `wanted` into an empty database, which must stay as it was but for closed subtrees.
fn refusal(message: &[u8], records: u64, wanted: Hash) -> Error {
    let db = Database::memory().unwrap();
    let before = db.refs("");
    let mut receiver = Receiver::new(&db).unwrap();
    let error = match receiver.receive(message) {
        Ok(()) => receiver.finish(records, &[wanted]).err().expect("it must be refused"),
        Err(error) => error,
    };
    assert_eq!(db.refs(""), before);
    assert!(!db.store().contains(&wanted), "the root of an incomplete transfer is not stored");
    error
}

#[test]
fn the_records_of_an_honest_peer_are_taken() {
    let (db, commits) = source();
    let all = sent(&db, commits[1]);
    let here = Database::memory().unwrap();
    let mut receiver = Receiver::new(&here).unwrap();
    receiver.receive(&message(&all)).unwrap();
    let received = receiver.finish(all.len() as u64, &[commits[1]]).unwrap();
    let hold = received.append(&here).unwrap();
    assert_eq!(here.store().stats().holds, 1, "until the caller has moved its refs");
    drop(hold);
    assert_eq!(here.store().stats().holds, 0);
    assert_eq!(sent(&here, commits[1]).len(), all.len());
}

#[test]
fn a_chunk_with_another_hash_is_refused() {
    let (db, commits) = source();
    let all = sent(&db, commits[0]);
    for index in [0, 1, all.len() - 1] {
        let mut bytes = all[index].chunk.bytes().to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let mut wrong = message(&all[..index]);
        Record { payload: &bytes, ..record(&all[index]) }.write(&mut wrong);
        let error = refusal(&wrong, all.len() as u64, commits[0]);
        assert!(
            matches!(error, Error::WrongHash { record, expected, .. }
            if record == index as u64 && expected == *all[index].chunk.hash()),
            "{error}"
        );
    }
}

#[test]
fn a_chunk_that_nothing_asked_for_is_refused() {
    let (db, commits) = source();
    let all = sent(&db, commits[0]);
    let stranger = Chunk::build(2, 0, b"stranger", None, &[], 0);
    let plain = Sent { chunk: stranger, child: Some(0), base: None, follow: Vec::new() };
    // After a complete piece.
    let mut unasked = message(&all);
    unasked.extend(written(&record(&plain)));
    let error = refusal_of_stored(&unasked, all.len() as u64 + 1, commits[0]);
    assert!(matches!(error, Error::Unasked { record } if record == all.len() as u64), "{error}");
    // A new piece while children are missing.
    let top = Sent { child: None, ..plain.clone() };
    let mut interrupted = message(&all[..2]);
    interrupted.extend(written(&record(&top)));
    assert!(matches!(refusal(&interrupted, 3, commits[0]), Error::Unasked { record: 2 }));
    // The first record of all without a hash.
    assert!(matches!(refusal(&written(&record(&plain)), 1, commits[0]), Error::Unasked { record: 0 }));
}

/// As [`refusal`], where the wanted root may be complete before the fault.
fn refusal_of_stored(message: &[u8], records: u64, wanted: Hash) -> Error {
    let db = Database::memory().unwrap();
    let before = db.refs("");
    let mut receiver = Receiver::new(&db).unwrap();
    let error = match receiver.receive(message) {
        Ok(()) => receiver.finish(records, &[wanted]).err().expect("it must be refused"),
        Err(error) => error,
    };
    assert_eq!(db.refs(""), before);
    error
}

#[test]
fn a_commit_that_is_neither_wanted_nor_an_ancestor_of_what_is_ends_in_an_error() {
    let (db, commits) = source();
    let all = sent(&db, commits[1]);
    let error = refusal_of_stored(&message(&all), all.len() as u64, commits[0]);
    assert!(matches!(error, Error::Unasked { .. }), "{error}");
}

#[test]
fn a_child_that_is_neither_sent_nor_here_is_refused() {
    let (db, commits) = source();
    let all = sent(&db, commits[0]);
    let missing = written(&Record { follow: Follow::None, ..record(&all[0]) });
    let error = refusal(&missing, 1, commits[0]);
    assert!(
        matches!(error, Error::MissingChild { record: 0, parent, .. } if parent == commits[0]),
        "{error}"
    );
}

#[test]
fn a_follow_list_beyond_the_children_is_refused() {
    let (db, commits) = source();
    let all = sent(&db, commits[0]);
    let follow = Follow::Listed(vec![0, 1, 2, 3]);
    let error = refusal(&written(&Record { follow, ..record(&all[0]) }), 1, commits[0]);
    assert!(matches!(error, Error::Record { record: 0, .. }), "{error}");
}

#[test]
fn a_delta_on_a_base_that_is_not_here_is_refused() {
    let (db, commits) = source();
    let all = sent(&db, commits[0]);
    let delta = |base, of: &Sent| {
        let record = Record { encoding: Encoding::Delta, base: Some(base), payload: b"delta", ..record(of) };
        written(&record)
    };
    let error = refusal(&delta(BaseName::Hash(Hash::of(b"nowhere")), &all[0]), 1, commits[0]);
    assert!(matches!(error, Error::UnknownBase { record: 0, .. }), "{error}");
    let mut below = message(&all[..1]);
    below.extend(delta(BaseName::Child(0), &all[1]));
    let error = refusal(&below, 2, commits[0]);
    assert!(matches!(error, Error::UnknownBase { record: 1, .. }), "{error}");
}

#[test]
fn a_child_of_the_base_that_does_not_exist_is_refused() {
    let (db, commits) = source();
    let all: Vec<Sent> = difference(&db, &[commits[1]], &[commits[0]]).unwrap().map(Result::unwrap).collect();
    // The receiver holds the first commit.
    let here = Database::memory().unwrap();
    let mut receiver = Receiver::new(&here).unwrap();
    let first = sent(&db, commits[0]);
    receiver.receive(&message(&first)).unwrap();
    let _hold = receiver.finish(first.len() as u64, &[commits[0]]).unwrap().append(&here).unwrap();
    let mut receiver = Receiver::new(&here).unwrap();
    let mut bytes = written(&Record { base: Some(BaseName::Hash(commits[0])), ..record(&all[0]) });
    bytes.extend(written(&Record { base: Some(BaseName::Child(7)), ..record(&all[1]) }));
    let error = receiver.receive(&bytes).unwrap_err();
    assert!(matches!(error, Error::UnknownBase { record: 1, .. }), "{error}");
}

#[test]
fn a_decompression_bomb_is_refused_at_its_stated_length() {
    let (db, commits) = source();
    let all = sent(&db, commits[0]);
    let zeros = zstd::bulk::Compressor::new(3)
        .and_then(|mut compressor| compressor.compress(&vec![0; 64 << 20]))
        .unwrap();
    // The payload of a record has no magic number.
    let bomb = Record { encoding: Encoding::Zstd, raw_len: 4096, payload: &zeros[4..], ..record(&all[0]) };
    assert!(matches!(refusal(&written(&bomb), 1, commits[0]), Error::Record { .. }));
    // A stated length beyond the largest chunk, as no encoder of ours writes it.
    let mut stated = vec![0b0101];
    let mut len = CHUNK_BYTES_MAX as u32 + 1;
    while len >= 0x80 {
        stated.push(len as u8 | 0x80);
        len >>= 7;
    }
    stated.push(len as u8);
    stated.extend([0; 100]);
    let error = refusal(&stated, 1, commits[0]);
    assert!(matches!(&error, Error::Record { what, .. } if what.contains("raw_len")), "{error}");
}

#[test]
fn a_transfer_that_is_cut_or_goes_on_is_refused() {
    let (db, commits) = source();
    let all = sent(&db, commits[0]);
    let whole = message(&all);
    // In the middle of a record.
    assert!(matches!(refusal(&whole[..whole.len() - 1], all.len() as u64, commits[0]), Error::Record { .. }));
    // Between records.
    let error = refusal(&message(&all[..all.len() - 1]), all.len() as u64, commits[0]);
    assert!(matches!(&error, Error::Protocol { what } if what.contains("missing")), "{error}");
    // Bytes that are no record behind the last one.
    let trailing = [&whole[..], &[0xff]].concat();
    assert!(matches!(refusal_of_stored(&trailing, all.len() as u64, commits[0]), Error::Record { .. }));
    // Another number of records than the peer says.
    assert!(matches!(refusal_of_stored(&whole, all.len() as u64 + 1, commits[0]), Error::Protocol { .. }));
}

#[test]
fn a_chunk_that_is_not_canonical_is_refused() {
    for (kind, body) in [(9, &b"of a kind that nobody knows"[..]), (4, b"no commit"), (1, b"no node")] {
        let chunk = Chunk::build(kind, 0, body, None, &[], 0);
        let hash = *chunk.hash();
        let top = Sent { chunk, child: None, base: None, follow: Vec::new() };
        let error = refusal(&written(&record(&top)), 1, hash);
        assert!(matches!(&error, Error::Record { what, .. } if what.contains("malformed")), "{error}");
    }
}

/// The sixth commit of a chain has a skip link, to the third: here it leads elsewhere.
#[test]
fn a_commit_whose_skip_link_lies_is_refused() {
    let db = Database::memory().unwrap();
    let mut transaction = db.begin("main").unwrap();
    transaction.create_table("t", None).unwrap();
    transaction.commit().unwrap();
    let mut chain = Vec::new();
    for i in 0..6u8 {
        let mut transaction = db.begin("main").unwrap();
        transaction.put("t", b"k", &[i]).unwrap();
        transaction.commit().unwrap();
        chain.push(db.commit("main", NewCommit::default()).unwrap().hash);
    }
    let honest = db.store().get(&chain[5]).unwrap().unwrap();
    assert_eq!(honest.weak_children().collect::<Vec<_>>(), [chain[2]]);
    for elsewhere in [chain[1], Hash::of(b"nowhere")] {
        let mut bytes = honest.bytes().to_vec();
        let at = bytes.windows(Hash::LEN).position(|found| found == chain[2].as_bytes()).unwrap();
        bytes[at..at + Hash::LEN].copy_from_slice(elsewhere.as_bytes());
        let lying = Chunk::from_bytes(bytes).unwrap();
        let wanted = *lying.hash();
        let mut all = sent(&db, chain[5]);
        for sent in &mut all {
            if sent.chunk == honest {
                sent.chunk = lying.clone();
            }
        }
        let error = refusal(&message(&all), all.len() as u64, wanted);
        assert!(matches!(&error, Error::Record { what, .. } if what.contains("Lineage")), "{error}");
    }
}

/// A chain of commits, each following its parent as if it were a child in a tree: honest hashes, an absurd depth.
#[test]
fn an_absurdly_deep_graph_is_refused() {
    let db = Database::memory().unwrap();
    let mut chain = Vec::new();
    for i in 0..=DEPTH_MAX as u64 + 1 {
        let mut transaction = db.begin("main").unwrap();
        if i == 0 {
            transaction.create_table("t", None).unwrap();
        }
        transaction.put("t", b"k", &i.to_be_bytes()).unwrap();
        transaction.commit().unwrap();
        let new = NewCommit { message: "c".into(), ..NewCommit::default() };
        chain.push(db.commit("main", new).unwrap().hash);
    }
    // The newest first: the catalogue of each is held by the receiver, its parent comes next.
    let mut bytes = Vec::new();
    for (depth, hash) in chain.iter().rev().enumerate() {
        let chunk = db.store().get(hash).unwrap().unwrap();
        let follow = if chunk.child_count() > 1 { vec![1] } else { Vec::new() };
        bytes.extend(written(&record(&Sent { chunk, child: (depth > 0).then_some(0), base: None, follow })));
    }
    let here = Database::memory().unwrap();
    let roots: Vec<Hash> = chain.iter().map(|hash| db.commit_object(hash).unwrap().root).collect();
    let all: Vec<Sent> = difference(&db, &roots, &[]).unwrap().map(Result::unwrap).collect();
    let mut receiver = Receiver::new(&here).unwrap();
    receiver.receive(&message(&all)).unwrap();
    let _hold = receiver.finish(all.len() as u64, &roots).unwrap().append(&here).unwrap();
    let error = Receiver::new(&here).unwrap().receive(&bytes).unwrap_err();
    assert!(matches!(error, Error::Limit { what: "depth of a tree", .. }), "{error}");
    assert!(!here.store().contains(chain.last().unwrap()));
}

/// One honest transfer: its message, records and commit.
static WHOLE: LazyLock<(Vec<u8>, u64, Hash)> = LazyLock::new(|| {
    let (db, commits) = source();
    let all = sent(&db, commits[0]);
    (message(&all), all.len() as u64, commits[0])
});

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]
    #[test]
    fn one_changed_byte_anywhere_never_panics_nor_changes_what_arrives(at in any::<prop::sample::Index>(), bit in 0..8u32) {
        let (mut bytes, records, wanted) = WHOLE.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let here = Database::memory().unwrap();
        let mut receiver = Receiver::new(&here).unwrap();
        let received = receiver.receive(&bytes).and_then(|()| receiver.finish(records, &[wanted]));
        // Hardly any change is taken. One bit of each zstd frame says nothing, so that all is as it was sent.
        if let Ok(received) = received {
            let _hold = received.append(&here).unwrap();
            let arrived: Vec<Sent> = difference(&here, &[wanted], &[]).unwrap().map(Result::unwrap).collect();
            prop_assert_eq!(message(&arrived), WHOLE.0.clone());
        }
    }
}

/// A server that answers every fetch with the same messages.
#[derive(Clone)]
struct Canned(Vec<fetch_response::Message>);

#[tonic::async_trait]
impl sync_server::Sync for Canned {
    type FetchStream = ReceiverStream<Result<proto::FetchResponse, Status>>;
    type PushStream = ReceiverStream<Result<proto::PushResponse, Status>>;
    type WatchStream = ReceiverStream<Result<proto::WatchResponse, Status>>;

    async fn fetch(&self, _: Request<proto::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let (messages, stream) = tokio::sync::mpsc::channel(self.0.len().max(1));
        for message in self.0.clone() {
            messages.send(Ok(proto::FetchResponse { message: Some(message) })).await.unwrap();
        }
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn push(
        &self,
        _: Request<Streaming<proto::PushRequest>>,
    ) -> Result<Response<Self::PushStream>, Status> {
        Err(Status::unimplemented("not here"))
    }
    async fn watch(&self, _: Request<proto::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get(&self, _: Request<proto::GetRequest>) -> Result<Response<proto::GetResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

fn listen() -> (TcpIncoming, SocketAddr) {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap().with_nodelay(Some(true));
    let address = incoming.local_addr().unwrap();
    (incoming, address)
}

/// Fetches from a server that answers with these messages.
async fn fetch_canned(
    messages: Vec<fetch_response::Message>,
) -> (Database, Result<pleach_protocol::Transfer, Error>) {
    let (incoming, address) = listen();
    let service = sync_server::SyncServer::new(Canned(messages));
    tokio::spawn(transport().add_service(service).serve_with_incoming(incoming));
    let remote = Remote::connect(&RemoteUrl::parse(&format!("http://{address}/x")).unwrap()).await.unwrap();
    let db = Database::memory().unwrap();
    let fetched = fetch(&db, &remote, "origin", &RefPatterns::all()).await;
    (db, fetched)
}

fn plan(name: &str, hash: Hash) -> fetch_response::Message {
    let hash = Bytes::copy_from_slice(hash.as_bytes());
    fetch_response::Message::Plan(proto::Plan {
        refs: vec![proto::Ref { name: name.into(), hash }],
        ..Default::default()
    })
}

#[tokio::test]
async fn no_ref_moves_unless_the_server_sends_all_of_it_to_the_end() {
    use fetch_response::Message::{Data, End};
    let (db, commits) = source();
    let all = sent(&db, commits[0]);
    let data = || Data(Bytes::from(message(&all)));
    let records = all.len() as u64;
    let good = vec![plan("heads/main", commits[0]), data(), End(proto::End { records })];
    let (here, fetched) = fetch_canned(good).await;
    fetched.unwrap();
    assert_eq!(here.get_ref("remotes/origin/main"), Some(commits[0]));

    let cut = vec![plan("heads/main", commits[0]), data()];
    let nothing = vec![plan("heads/main", commits[0]), End(proto::End { records: 0 })];
    let other = vec![plan("heads/main", commits[1]), data(), End(proto::End { records })];
    let beyond = vec![plan("heads/main", commits[0]), data(), End(proto::End { records }), data()];
    let foreign = vec![plan("recovery/x", commits[0]), data(), End(proto::End { records })];
    let first = vec![data(), plan("heads/main", commits[0])];
    let no_commit = vec![plan("heads/main", *all[1].chunk.hash()), data(), End(proto::End { records })];
    for (messages, what) in [
        (cut, "cut"),
        (nothing, "was not sent"),
        (other, "not asked for"),
        (beyond, "after the End"),
        (foreign, "no ref"),
        (first, "begins with a Plan"),
        (no_commit, "not asked for"),
        (Vec::new(), "begins with a Plan"),
    ] {
        let (here, fetched) = fetch_canned(messages).await;
        let error = fetched.unwrap_err().to_string();
        assert!(error.contains(what), "{what}: {error}");
        assert!(here.refs("remotes/").is_empty(), "{what}");
    }
}

/// A server with a database `x` that has a commit, until the test ends.
struct Served {
    address: SocketAddr,
    db: Database,
    _dir: TempDir,
}

impl Served {
    fn start() -> Served {
        let dir = TempDir::new().unwrap();
        let databases = Databases::new(dir.path(), Options::default()).unwrap();
        let db = databases.create("x").unwrap();
        let mut transaction = db.begin("main").unwrap();
        transaction.create_table("own", None).unwrap();
        transaction.put("own", b"k", b"v").unwrap();
        let _ = transaction.commit().unwrap();
        let new = NewCommit { message: "own".into(), author: "o".into(), ..NewCommit::default() };
        let head = db.commit("main", new).unwrap().hash;
        let tag = RefUpdate { name: "tags/v1".into(), old: None, new: Some(head) };
        let _ = db.update_refs(Batch::default(), &[tag]).unwrap();
        db.set_setting("some", Some("setting")).unwrap();
        let (incoming, address) = listen();
        let service = SyncService::new(databases).into_server();
        tokio::spawn(transport().add_service(service).serve_with_incoming(incoming));
        Served { address, db, _dir: dir }
    }

    async fn client(&self) -> SyncClient<tonic::transport::Channel> {
        SyncClient::connect(format!("http://{}", self.address)).await.unwrap()
    }

    /// Sends these messages, and reads to the end: the last answer, or the status.
    async fn push(
        &self,
        messages: impl IntoIterator<Item = push_request::Message>,
    ) -> Result<proto::push_response::Message, Status> {
        let requests: Vec<_> =
            messages.into_iter().map(|message| proto::PushRequest { message: Some(message) }).collect();
        let mut answers = self.client().await.push(tokio_stream::iter(requests)).await?.into_inner();
        let mut last = None;
        while let Some(answer) = answers.message().await? {
            last = answer.message;
        }
        last.ok_or_else(|| Status::unknown("no answer"))
    }

    fn state(&self) -> State {
        state(&self.db)
    }
}

/// All that must not change: refs, among them that of the settings, and the settings.
type State = (Vec<(String, Hash)>, Vec<(String, String)>);

fn state(db: &Database) -> State {
    (db.refs(""), db.settings("").unwrap())
}

fn assert_sound(db: &Database) {
    assert_eq!(db.fsck().unwrap().damages, []);
}

/// Pushes raw messages to a real server; gives its answer or status, and whether its refs stayed.
async fn push_raw(messages: Vec<push_request::Message>) -> (Result<proto::PushResponse, Status>, bool) {
    let dir = TempDir::new().unwrap();
    let databases = Databases::new(dir.path(), Options::default()).unwrap();
    let db = databases.create("x").unwrap();
    let before = db.refs("");
    let (incoming, address) = listen();
    let service = SyncService::new(databases).into_server();
    tokio::spawn(transport().add_service(service).serve_with_incoming(incoming));
    let mut client = SyncClient::connect(format!("http://{address}")).await.unwrap();
    let requests = messages.into_iter().map(|message| proto::PushRequest { message: Some(message) });
    let requests: Vec<_> = requests.collect();
    let mut answers = client.push(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let answer = answers.message().await.map(Option::unwrap);
    (answer, db.refs("") == before)
}

fn begin(new: Hash) -> proto::Begin {
    proto::Begin {
        database: "x".into(),
        idempotency_key: Bytes::from_static(&[7; 16]),
        updates: vec![proto::RefUpdate {
            name: "heads/main".into(),
            new: Bytes::copy_from_slice(new.as_bytes()),
            expected: Some(proto::ref_update::Expected::Absent(true)),
            force: false,
        }],
        ..Default::default()
    }
}

#[tokio::test]
async fn a_server_moves_no_ref_for_a_push_that_breaks_the_contract() {
    use push_request::Message::{Begin, Data, Finish};
    let (db, commits) = source();
    let all = sent(&db, commits[0]);
    let data = || Data(Bytes::from(message(&all)));
    let finish = || Finish(proto::Finish { records: all.len() as u64 });
    let new = begin(commits[0]);
    let (answer, unmoved) = push_raw(vec![Begin(new.clone()), data(), finish()]).await;
    assert!(matches!(answer.unwrap().message, Some(proto::push_response::Message::Result(_))) && !unmoved);

    let with = |change: &dyn Fn(&mut proto::Begin)| {
        let mut begin = new.clone();
        change(&mut begin);
        vec![Begin(begin), data(), finish()]
    };
    let twice = with(&|begin| begin.updates.push(begin.updates[0].clone()));
    let many = with(&|begin| begin.bases = Bytes::from(vec![1; 65 * 32]));
    let work = with(&|begin| begin.updates[0].name = "work/main".into());
    let short = with(&|begin| begin.updates[0].new = Bytes::from_static(&[1; 31]));
    let no_key = with(&|begin| begin.idempotency_key = Bytes::new());
    let absent = with(&|begin| begin.database = "../x".into());
    let unforced = with(&|begin| begin.updates[0].expected = Some(proto::ref_update::Expected::Any(true)));
    for (messages, code) in [
        (vec![data(), finish()], tonic::Code::InvalidArgument),
        (vec![Begin(new.clone()), data()], tonic::Code::Cancelled),
        (vec![Begin(new.clone()), finish()], tonic::Code::InvalidArgument),
        (vec![Begin(new.clone()), Data(Bytes::from_static(b"\xff\xff"))], tonic::Code::InvalidArgument),
        (vec![Begin(new.clone()), Begin(new.clone())], tonic::Code::InvalidArgument),
        (vec![Begin(begin(commits[1])), data(), finish()], tonic::Code::InvalidArgument),
        (vec![Begin(begin(*all[1].chunk.hash())), data(), finish()], tonic::Code::InvalidArgument),
        (twice, tonic::Code::InvalidArgument),
        (many, tonic::Code::ResourceExhausted),
        (work, tonic::Code::InvalidArgument),
        (short, tonic::Code::InvalidArgument),
        (no_key, tonic::Code::InvalidArgument),
        (absent, tonic::Code::NotFound),
        (unforced, tonic::Code::InvalidArgument),
    ] {
        let shown = format!("{:?}", messages.first());
        let (answer, unmoved) = push_raw(messages).await;
        assert_eq!(answer.expect_err("it must be refused").code(), code, "{shown}");
        assert!(unmoved, "{shown}");
    }
}

#[tokio::test]
async fn a_push_whose_answer_was_lost_gets_the_same_answer_again() {
    let (db, commits) = source();
    let all = sent(&db, commits[0]);
    let dir = TempDir::new().unwrap();
    let databases = Databases::new(dir.path(), Options::default()).unwrap();
    databases.create("x").unwrap();
    let (incoming, address) = listen();
    let service = SyncService::new(databases).into_server();
    tokio::spawn(transport().add_service(service).serve_with_incoming(incoming));
    let mut client = SyncClient::connect(format!("http://{address}")).await.unwrap();
    let mut answers = Vec::new();
    for _ in 0..2 {
        let messages = [
            push_request::Message::Begin(begin(commits[0])),
            push_request::Message::Data(Bytes::from(message(&all))),
            push_request::Message::Finish(proto::Finish { records: all.len() as u64 }),
        ];
        let requests = messages.map(|message| proto::PushRequest { message: Some(message) });
        let mut stream = client.push(tokio_stream::iter(requests)).await.unwrap().into_inner();
        answers.push(stream.message().await.unwrap().unwrap());
    }
    assert_eq!(answers[0], answers[1]);
    // Without the key it finds the ref where it must be.
    let mut other = begin(commits[0]);
    other.idempotency_key = Bytes::from_static(&[8; 16]);
    let requests =
        [push_request::Message::Begin(other), push_request::Message::Finish(proto::Finish { records: 0 })]
            .map(|message| proto::PushRequest { message: Some(message) });
    let mut stream = client.push(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let Some(proto::push_response::Message::Result(result)) =
        stream.message().await.unwrap().unwrap().message
    else {
        panic!("it must be taken")
    };
    assert_eq!(result.refs[0].status(), proto::RefStatus::Unchanged);
}

#[test]
fn collections_while_a_transfer_arrives_take_nothing_of_it_and_all_of_it_when_it_is_given_up() {
    let (db, commits) = source();
    let all = sent(&db, commits[1]);
    for given_up in [false, true] {
        let here = Database::memory().unwrap();
        let collect = || here.store().collect(false).unwrap().dead_chunks;
        let before = here.store().stats().chunks;
        let mut receiver = Receiver::new(&here).unwrap();
        // A collection waits half a second for holds to end.
        for some in all.chunks(20) {
            receiver.receive(&message(some)).unwrap();
            collect();
        }
        let hold = receiver.finish(all.len() as u64, &[commits[1]]).unwrap().append(&here).unwrap();
        collect();
        if !given_up {
            let head = RefUpdate { name: "heads/new".into(), old: None, new: Some(commits[1]) };
            let _ = here.update_refs(Batch::default(), &[head]).unwrap();
        }
        drop(hold);
        collect();
        assert_eq!(here.fsck().unwrap().damages, []);
        assert_eq!(here.store().contains(&commits[1]), !given_up);
        assert_eq!(here.store().stats().chunks > before, !given_up);
    }
}
