//! Pushes that are cut and go on, by who wants another's, or wants them to stay for ever.

use pleach_protocol::limits::{CUT_PUSH_KEPT, CUT_PUSHES_KEPT};
use pleach_protocol::proto::push_response::Message as Answer;
use pleach_protocol::{Access, Bearer, Grant, Right, Token, User, endpoint};
use push_request::Message::{Begin, Data, Finish};
use tokio::sync::mpsc;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use super::*;

/// A push whose messages are sent one by one.
struct Open {
    requests: mpsc::Sender<proto::PushRequest>,
    answers: tokio::task::JoinHandle<Result<Streaming<proto::PushResponse>, Status>>,
}

type Client = SyncClient<InterceptedService<Channel, Bearer>>;

async fn client(address: SocketAddr, token: Option<Token>) -> Client {
    let channel = endpoint(&format!("http://{address}")).unwrap().connect().await.unwrap();
    SyncClient::with_interceptor(channel, Bearer::new(token))
}

impl Open {
    async fn new(mut client: Client, messages: Vec<push_request::Message>) -> Open {
        let (requests, stream) = mpsc::channel(64);
        let answers =
            tokio::spawn(async move { Ok(client.push(ReceiverStream::new(stream)).await?.into_inner()) });
        let open = Open { requests, answers };
        for message in messages {
            open.send(message).await;
        }
        open
    }

    async fn send(&self, message: push_request::Message) {
        let _ = self.requests.send(proto::PushRequest { message: Some(message) }).await;
    }

    /// The answers from now on.
    async fn answers(self) -> Result<Vec<Answer>, Status> {
        drop(self.requests);
        let mut stream = self.answers.await.unwrap()?;
        let mut answers = Vec::new();
        while let Some(answer) = stream.message().await? {
            answers.extend(answer.message);
        }
        Ok(answers)
    }
}

/// A push of some commit to a branch, under a key.
fn begin_of(key: u8, branch: &str, new: Hash, resuming: bool) -> push_request::Message {
    let mut begin = begin(new);
    begin.idempotency_key = Bytes::from(vec![key; 16]);
    begin.updates[0].name = format!("heads/{branch}");
    begin.resuming = resuming;
    Begin(begin)
}

fn halves(
    db: &Database,
    head: Hash,
) -> (push_request::Message, push_request::Message, push_request::Message) {
    let all = sent(db, head);
    let (first, second) = all.split_at(all.len() / 2);
    let data = |some: &[Sent]| Data(Bytes::from(message(some)));
    (data(first), data(second), Finish(proto::Finish { records: all.len() as u64 }))
}

#[tokio::test]
async fn a_push_is_taken_over_by_its_own_caller_alone() {
    let (db, commits) = source();
    let (first, second, finish) = halves(&db, commits[0]);
    let dir = TempDir::new().unwrap();
    let databases = Databases::new(dir.path(), Options::default()).unwrap();
    let there = databases.create("x").unwrap();
    let tokens = [7, 8].map(|n| Token::from_random([n; 32]));
    let grant = |right| Grant { database: "x".into(), refs: "*".into(), right };
    let users = ["ada", "eve"].iter().zip(&tokens).map(|(name, token)| User {
        name: (*name).into(),
        token_hash: token.hash(),
        grants: vec![grant(Right::Read), grant(Right::Write)],
    });
    let (incoming, address) = listen();
    let service = SyncService::new(databases).with_access(Access::of(users.collect())).into_server();
    tokio::spawn(transport().add_service(service).serve_with_incoming(incoming));
    let [ada, eve] = tokens.map(|token| async move { client(address, Some(token)).await });
    let (ada, eve) = (ada.await, eve.await);

    let begin = |resuming| begin_of(3, "new", commits[0], resuming);
    let hers = Open::new(ada.clone(), vec![begin(false), first.clone()]).await;
    // Somebody who knows the key has nothing of it.
    let probe = Open::new(eve.clone(), vec![begin(true)]).await.answers().await.unwrap_err();
    assert_eq!(probe.code(), tonic::Code::Cancelled, "{probe}");
    hers.send(second.clone()).await;
    hers.send(finish.clone()).await;
    let answers = hers.answers().await.unwrap();
    assert!(matches!(answers[..], [Answer::Result(_)]), "{answers:?}");
    // Nor is what was answered to another told.
    let theirs = Open::new(eve, vec![begin(false), Finish(proto::Finish { records: 0 })]).await;
    let [Answer::Result(result)] = &theirs.answers().await.unwrap()[..] else { panic!() };
    assert_eq!(result.refs[0].status(), proto::RefStatus::Unchanged);
    let again = Open::new(ada.clone(), vec![begin(true)]).await.answers().await.unwrap();
    assert_eq!(again, answers, "what was answered is answered again, however it is asked");

    // The same caller, on another connection: the first ends, the second goes on.
    let begin = |resuming| begin_of(4, "other", commits[1], resuming);
    let (first, second, finish) = halves(&db, commits[1]);
    let old = Open::new(ada.clone(), vec![begin(false), first]).await;
    // It runs when its messages were taken: then the hold that keeps them is there.
    while there.store().stats().holds == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let new = Open::new(ada, vec![begin(true), second.clone()]).await;
    let _still_open = old.requests.clone();
    let status = old.answers().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Cancelled, "{status}");
    // It did not wait for the Progress, and begins in the middle: refused, as anything that does not follow.
    new.send(finish).await;
    let status = new.answers().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
    assert_eq!(there.get_ref("heads/other"), None);
    assert_sound(&there);
}

#[tokio::test]
async fn a_key_is_nothing_without_the_push_that_it_was_for() {
    let (db, commits) = source();
    let (first, second, finish) = halves(&db, commits[0]);
    let served = Served::start();
    let open = async |messages| Open::new(client(served.address, None).await, messages).await.answers().await;
    let cut = open(vec![begin_of(5, "a", commits[0], false), first.clone()]).await.unwrap_err();
    assert_eq!(cut.code(), tonic::Code::Cancelled, "{cut}");
    assert_eq!(served.db.store().stats().holds, 1);
    // Another ref, another commit, another database: nothing of it is told, and nothing is taken.
    for other in [begin_of(5, "b", commits[0], true), begin_of(5, "a", commits[1], true)] {
        let Begin(begin) = &other else { panic!() };
        let wants = begin.updates[0].clone();
        let opened = Open::new(client(served.address, None).await, vec![other]).await;
        let mut stream = opened.answers.await.unwrap().unwrap();
        let Some(Answer::Progress(progress)) = stream.message().await.unwrap().unwrap().message else {
            panic!()
        };
        assert_eq!(progress, proto::Progress::default(), "{wants:?}");
    }
    // The push itself may go on, once; it may also begin again.
    let whole = vec![begin_of(5, "a", commits[0], false), first.clone(), second.clone(), finish.clone()];
    let answers = open(whole.clone()).await.unwrap();
    assert!(matches!(answers.last(), Some(Answer::Result(_))), "{answers:?}");
    assert_eq!(open(whole).await.unwrap().last(), answers.last());
    // The key of an answered push, for another one: that is done by itself.
    let other = vec![begin_of(5, "c", commits[0], false), Finish(proto::Finish { records: 0 })];
    let Some(Answer::Result(result)) = open(other).await.unwrap().pop() else { panic!() };
    assert_eq!((result.refs[0].name.as_str(), result.refs[0].status()), ("heads/c", proto::RefStatus::New));
    assert_sound(&served.db);
}

#[tokio::test]
async fn of_many_pushes_that_are_cut_few_are_kept_and_not_for_long() {
    let (db, commits) = source();
    let (first, _, _) = halves(&db, commits[0]);
    let served = Served::start();
    let client = client(served.address, None).await;
    let before = served.state();
    for key in 0..CUT_PUSHES_KEPT as u8 + 10 {
        let messages = vec![begin_of(key, "a", commits[0], key % 2 == 0), first.clone()];
        let status = Open::new(client.clone(), messages).await.answers().await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Cancelled, "{status}");
        assert!(served.db.store().stats().holds as usize <= CUT_PUSHES_KEPT);
    }
    assert_eq!(served.db.store().stats().holds as usize, CUT_PUSHES_KEPT);
    tokio::time::pause();
    tokio::time::advance(CUT_PUSH_KEPT).await;
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    tokio::time::resume();
    assert_eq!(served.db.store().stats().holds, 0);
    served.db.store().collect(false).unwrap();
    assert_eq!(served.state(), before);
    assert_sound(&served.db);
}
