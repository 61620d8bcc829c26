//! Tables that travel as the rows that changed: how little that is, that the same table comes out, and what happens when it does not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use pleach_engine::row::{Column, Type, Value};
use pleach_engine::{
    Database, Definition, Hash, NewCommit, Schema, Transaction, TransactionOutcome, difference,
};
use pleach_protocol::proto::{self, fetch_response, push_request, push_response, sync_server};
use pleach_protocol::record::Record;
use pleach_protocol::{
    Encoding, Error, FEATURE_EDITS, Force, PushUpdate, Receiver, RefPatterns, Remote, RemoteUrl, Sender,
    fetch, push, transport,
};
use proptest::{prelude::*, test_runner::FileFailurePersistence};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

fn mixed(i: u64) -> u64 {
    i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// A row of 62 bytes, of which a version has eight random digits and a counter of its own.
fn value(i: u64, version: u64) -> Vec<u8> {
    let (name, stock) = (mixed(i), mixed(i ^ mixed(version)) % 99_999_989);
    format!(
        "{name:016x}|{stock:08}|customer {:08}|{:08}|{:09}",
        name % 99_999_989,
        version % 1_000_000,
        i % 1009
    )
    .into_bytes()
}

/// One transaction on table `t`, and a commit of it.
fn change(db: &Database, rows: impl FnOnce(&mut Transaction)) -> Hash {
    let mut transaction = db.begin("main").unwrap();
    if !transaction.has_table("t").unwrap() {
        transaction.create_table("t", None).unwrap();
    }
    rows(&mut transaction);
    assert!(!matches!(transaction.commit().unwrap(), TransactionOutcome::Refused { .. }));
    let new = NewCommit { message: "m".into(), author: "a".into(), ..NewCommit::default() };
    match db.commit("main", new) {
        Ok(committed) => committed.hash,
        Err(_) => db.branch("main").unwrap().unwrap().head.unwrap(),
    }
}

fn set(db: &Database, rows: impl IntoIterator<Item = u64>, version: u64) -> Hash {
    let mut rows = rows.into_iter();
    change(db, |t| rows.try_for_each(|i| t.put("t", &i.to_be_bytes(), &value(i, version))).unwrap())
}

/// The messages that bring who has `from` to `to`.
fn messages(db: &Database, from: Option<Hash>, to: Hash, edits: bool) -> Vec<Bytes> {
    let bases: Vec<Hash> = from.into_iter().collect();
    let mut sender = Sender::new(db, difference(db, &[to], &bases).unwrap()).unwrap().with_edits(edits);
    std::iter::from_fn(|| sender.next_message().unwrap()).collect()
}

/// Calls `f` with each record.
fn for_each(messages: &[Bytes], mut f: impl FnMut(Record<'_>, usize)) {
    for message in messages {
        let mut at = 0;
        while at < message.len() {
            let (record, end) = Record::parse(message, at).unwrap();
            f(record, end - at);
            at = end;
        }
    }
}

/// Each record's encoding and length.
fn sizes(messages: &[Bytes]) -> Vec<(Encoding, usize)> {
    let mut sizes = Vec::new();
    for_each(messages, |record, len| sizes.push((record.encoding, len)));
    sizes
}

/// Takes messages, and moves `heads/main` there.
fn receive(here: &Database, messages: &[Bytes], to: Hash) -> Result<(), Error> {
    let mut receiver = Receiver::new(here)?;
    messages.iter().try_for_each(|message| receiver.receive(message))?;
    let records = receiver.records();
    let _hold = receiver.finish(records, &[to])?.append(here)?;
    let old = here.get_ref("remotes/o/main");
    let update = pleach_engine::RefUpdate { name: "remotes/o/main".into(), old, new: Some(to) };
    let outcome = here.update_refs(pleach_engine::Batch::default(), &[update])?;
    assert!(matches!(outcome, pleach_engine::Outcome::Appended(_)));
    Ok(())
}

#[test]
fn a_changed_row_takes_few_bytes_beside_its_commit() {
    let db = Database::memory().unwrap();
    const ROWS: u64 = 200_000;
    let first = set(&db, 0..ROWS, 0);
    let one = set(&db, [123_456], 1);
    let thousand = set(&db, (0..1000).map(|i| mixed(i) % ROWS), 2);
    let here = Database::memory().unwrap();
    receive(&here, &messages(&db, None, first, true), first).unwrap();
    for (from, to, rows, most) in [(first, one, 1, 150), (one, thousand, 1000, 20)] {
        let messages = messages(&db, Some(from), to, true);
        let sizes = sizes(&messages);
        let [commit, catalogue, table] = sizes[..] else { panic!("{sizes:?}") };
        assert_eq!(table.0, Encoding::Edits);
        assert!(commit.1 <= 200, "{sizes:?}");
        assert!((catalogue.1 + table.1) / rows <= most, "{sizes:?}");
        receive(&here, &messages, to).unwrap();
    }
    assert_eq!(here.commit_object(&thousand).unwrap(), db.commit_object(&thousand).unwrap());
}

#[test]
fn what_is_no_small_change_of_rows_travels_as_nodes() {
    let db = Database::memory().unwrap();
    let first = set(&db, 0..50_000, 0);
    let most = set(&db, 0..40_000, 1);
    let long = change(&db, |t| t.put("t", b"long", &vec![7; 5000]).unwrap());
    for (from, to) in [(first, most), (most, long)] {
        let sent = messages(&db, Some(from), to, true);
        assert!(sizes(&sent).iter().all(|(encoding, _)| *encoding != Encoding::Edits));
        assert!(sizes(&sent).len() > 4);
    }
    // What stands out of line already, and does not change, is in nobody's way.
    let after = set(&db, [17], 2);
    assert_eq!(sizes(&messages(&db, Some(long), after, true)).last().unwrap().0, Encoding::Edits);
}

#[test]
fn long_keys_that_together_are_just_too_many_travel_as_nodes() {
    let db = Database::memory().unwrap();
    let keys: Vec<Hash> = (0..32_600u32).map(|i| Hash::of(&i.to_le_bytes())).collect();
    let put = |value: &'static [u8]| {
        change(&db, |t| keys.iter().for_each(|key| t.put("t", key.as_bytes(), value).unwrap()))
    };
    let (first, second) = (put(b"first"), put(b"second"));
    let here = Database::memory().unwrap();
    receive(&here, &messages(&db, None, first, true), first).unwrap();
    receive(&here, &messages(&db, Some(first), second, true), second).unwrap();
}

#[test]
fn a_table_that_is_cut_into_nodes_in_another_way_travels_as_nodes() {
    let db = Database::memory().unwrap();
    let first = set(&db, 0..5000, 0);
    let salted = change(&db, |t| {
        t.drop_table("t").unwrap();
        t.create_table_with("t", Definition::new(None).salted(7)).unwrap();
        (0..5000u64).for_each(|i| t.put("t", &i.to_be_bytes(), &value(i, u64::from(i == 9))).unwrap());
    });
    let here = Database::memory().unwrap();
    receive(&here, &messages(&db, None, first, true), first).unwrap();
    let messages = messages(&db, Some(first), salted, true);
    assert!(sizes(&messages).iter().all(|(encoding, _)| *encoding != Encoding::Edits));
    receive(&here, &messages, salted).unwrap();
}

/// One row of the typed table, or of the raw one.
#[derive(Debug, Clone)]
enum Step {
    Put { key: u64, rows: u64, version: u64, len: usize },
    Delete { key: u64, rows: u64 },
    Typed { id: i64, rows: i64, group: i64 },
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![8 => 0..200usize, 1 => 900..3000usize];
    prop_oneof![
        4 => (0..4000u64, 1..200u64, any::<u64>(), len)
            .prop_map(|(key, rows, version, len)| Step::Put { key, rows, version, len }),
        2 => (0..4000u64, 1..400u64).prop_map(|(key, rows)| Step::Delete { key, rows }),
        3 => (0..3000i64, 1..100i64, 0..50i64).prop_map(|(id, rows, group)| Step::Typed { id, rows, group }),
    ]
}

fn typed() -> Schema {
    let columns = [("id", Type::Int), ("group", Type::Int), ("name", Type::Text)];
    let columns = columns.into_iter().zip(0..).map(|((name, ty), id)| Column { id, name: name.into(), ty });
    Schema::new(columns.collect(), vec![0]).unwrap()
}

fn apply(t: &mut Transaction, step: &Step) {
    match *step {
        Step::Put { key, rows, version, len } => {
            for i in key..key + rows {
                let mut value = value(i, version);
                value.resize(len, b' ');
                t.put("t", &i.to_be_bytes(), &value).unwrap();
            }
        }
        Step::Delete { key, rows } => {
            for i in key..key + rows {
                t.delete("t", &i.to_be_bytes()).unwrap();
            }
        }
        Step::Typed { id, rows, group } => {
            for id in id..id + rows {
                let row = [Value::Int(id), Value::Int(group), Value::Text(format!("name {}", id % 7))];
                let (key, value) = typed().encode_row(&row).unwrap();
                t.put("typed", &key, &value).unwrap();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]
    #[test]
    fn the_rows_that_changed_make_the_table_that_was_built(programs in prop::collection::vec(prop::collection::vec(step(), 1..6), 1..6)) {
        let (db, here) = (Database::memory().unwrap(), Database::memory().unwrap());
        let mut from = change(&db, |t| {
            t.create_table("typed", Some(typed())).unwrap();
            t.create_index("typed", "by_group", &["group", "name"], false).unwrap();
            (0..3000).for_each(|i| apply(t, &Step::Put { key: i, rows: 1, version: 0, len: 70 }));
            apply(t, &Step::Typed { id: 0, rows: 2000, group: 1 });
        });
        receive(&here, &messages(&db, None, from, true), from).unwrap();
        for program in programs {
            let to = change(&db, |t| program.iter().for_each(|step| apply(t, step)));
            receive(&here, &messages(&db, Some(from), to, true), to).unwrap();
            let received: Vec<_> = difference(&here, &[to], &[]).unwrap().map(|sent| *sent.unwrap().chunk.hash()).collect();
            let sent: Vec<_> = difference(&db, &[to], &[]).unwrap().map(|sent| *sent.unwrap().chunk.hash()).collect();
            prop_assert_eq!(received, sent);
            from = to;
        }
    }
}

/// The messages of `honest`, with the edits of `other` in place of their own.
fn forged(honest: &[Bytes], other: &[Bytes]) -> Vec<Bytes> {
    let mut payloads = Vec::new();
    for_each(other, |record, _| {
        if record.encoding == Encoding::Edits {
            payloads.push(record.payload.to_vec());
        }
    });
    let mut out = Vec::new();
    for_each(honest, |record, _| {
        let forged = (record.encoding == Encoding::Edits).then(|| payloads.remove(0));
        Record { payload: forged.as_deref().unwrap_or(record.payload), ..record }.write(&mut out);
    });
    vec![Bytes::from(out)]
}

/// A database, two commits that go on from one, and another database that has the one.
fn forked() -> (Database, [Hash; 3], Database) {
    let db = Database::memory().unwrap();
    let first = set(&db, 0..20_000, 0);
    let here = Database::memory().unwrap();
    receive(&here, &messages(&db, None, first, true), first).unwrap();
    let second = set(&db, [5000, 12_000], 1);
    let third = set(&db, [77, 5000], 9);
    (db, [first, second, third], here)
}

#[test]
fn rows_that_make_another_table_are_refused_and_nothing_leads_to_it() {
    let (db, [first, second, third], here) = forked();
    let honest = messages(&db, Some(first), second, true);
    let forged = forged(&honest, &messages(&db, Some(second), third, true));
    let before = here.refs("");
    let error = receive(&here, &forged, second).unwrap_err();
    assert!(matches!(error, Error::WrongEdits { record: 2, .. }), "{error}");
    assert_eq!(here.refs(""), before);
    assert!(!here.store().contains(&second));
    receive(&here, &honest, second).unwrap();
}

#[test]
fn damaged_edits_are_refused_or_say_the_same() {
    let (db, [first, second, _], here) = forked();
    let honest = messages(&db, Some(first), second, true);
    let mut payload = Vec::new();
    for_each(&honest, |record, _| {
        if record.encoding == Encoding::Edits {
            payload = record.payload.to_vec();
        }
    });
    for at in 0..payload.len() {
        for bit in 0..8 {
            let mut damaged = payload.clone();
            damaged[at] ^= 1 << bit;
            let mut out = Vec::new();
            for_each(&honest, |record, _| {
                let payload = if record.encoding == Encoding::Edits { &damaged } else { record.payload };
                Record { payload, ..record }.write(&mut out);
            });
            let mut receiver = Receiver::new(&here).unwrap();
            let taken = receiver.receive(&out).and_then(|()| receiver.finish(3, &[second]));
            match taken {
                // One bit of a zstd frame says nothing.
                Ok(_) | Err(Error::Record { .. } | Error::WrongEdits { .. }) => {}
                Err(other) => panic!("{at} {bit}: {other}"),
            }
        }
    }
}

/// A remote whose edits come to something else, and that takes none.
#[derive(Clone)]
struct Odd {
    plan: proto::Plan,
    edits: Vec<Bytes>,
    chunks: Vec<Bytes>,
    asked: Arc<Mutex<Vec<u64>>>,
}

#[tonic::async_trait]
impl sync_server::Sync for Odd {
    type FetchStream = ReceiverStream<Result<proto::FetchResponse, Status>>;
    type PushStream = ReceiverStream<Result<proto::PushResponse, Status>>;
    type WatchStream = ReceiverStream<Result<proto::WatchResponse, Status>>;

    async fn fetch(
        &self,
        request: Request<proto::FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        use fetch_response::Message;
        let features = request.into_inner().features & FEATURE_EDITS;
        self.asked.lock().unwrap().push(features);
        let data = if features & FEATURE_EDITS != 0 { &self.edits } else { &self.chunks };
        let mut records = 0;
        for_each(data, |_, _| records += 1);
        let end = Message::End(proto::End { records });
        let data = data.iter().cloned().map(Message::Data);
        let (messages, stream) = tokio::sync::mpsc::channel(64);
        for message in [Message::Plan(self.plan.clone())].into_iter().chain(data).chain([end]) {
            messages.send(Ok(proto::FetchResponse { message: Some(message) })).await.unwrap();
        }
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn push(
        &self,
        request: Request<Streaming<proto::PushRequest>>,
    ) -> Result<Response<Self::PushStream>, Status> {
        let mut requests = request.into_inner();
        let Some(push_request::Message::Begin(begin)) = requests.message().await?.unwrap().message else {
            panic!()
        };
        self.asked.lock().unwrap().push(begin.features);
        while requests.message().await?.is_some() {}
        let answer = match begin.features & FEATURE_EDITS != 0 {
            true => {
                push_response::Message::Rejected(proto::Rejected { send_chunks: true, ..Default::default() })
            }
            false => push_response::Message::Result(proto::PushResult {
                refs: vec![proto::RefMoved {
                    name: begin.updates[0].name.clone(),
                    new: begin.updates[0].new.clone(),
                    ..Default::default()
                }],
            }),
        };
        let (messages, stream) = tokio::sync::mpsc::channel(1);
        messages.send(Ok(proto::PushResponse { message: Some(answer) })).await.unwrap();
        Ok(Response::new(ReceiverStream::new(stream)))
    }
    async fn watch(&self, _: Request<proto::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get(&self, _: Request<proto::GetRequest>) -> Result<Response<proto::GetResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

#[tokio::test]
async fn with_a_remote_that_does_not_compute_alike_chunks_are_exchanged() {
    let (db, [first, second, third], here) = forked();
    let honest = messages(&db, Some(first), second, true);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let name = "heads/main".to_owned();
    let odd = Odd {
        plan: proto::Plan {
            refs: vec![proto::Ref { name: name.clone(), hash: Bytes::copy_from_slice(second.as_bytes()) }],
            haves_known: 1,
            ..Default::default()
        },
        edits: forged(&honest, &messages(&db, Some(second), third, true)),
        chunks: messages(&db, Some(first), second, false),
        asked: asked.clone(),
    };
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap().with_nodelay(Some(true));
    let address = incoming.local_addr().unwrap();
    tokio::spawn(transport().add_service(sync_server::SyncServer::new(odd)).serve_with_incoming(incoming));
    let remote = Remote::connect(&RemoteUrl::parse(&format!("http://{address}/x")).unwrap()).await.unwrap();
    let fetched = fetch(&here, &remote, "o", &RefPatterns::all()).await.unwrap();
    assert_eq!((fetched.round_trips, here.get_ref("remotes/o/main")), (2, Some(second)));
    assert_eq!(asked.lock().unwrap().split_off(0), [FEATURE_EDITS, 0]);
    let updates = [PushUpdate { name, new: Some(second) }];
    let pushed = push(&here, &remote, "o", &updates, Force::No).await.unwrap();
    assert_eq!((pushed.round_trips, pushed.refs[0].new), (2, Some(second)));
    assert_eq!(asked.lock().unwrap().split_off(0), [FEATURE_EDITS, 0]);
}
