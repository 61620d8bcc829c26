//! Watch: who learns of refs that move, when, and who does not; over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use pleach_engine::{Batch, Database, Hash, NewCommit, Options, Outcome, RefUpdate};
use pleach_protocol::proto::{self, WatchRequest, WatchResponse, sync_client::SyncClient};
use pleach_protocol::{
    Access, Credential, Databases, Error, Grant, RefChange, RefPatterns, Remote, RemoteUrl, Right,
    SyncService, Token, User, Watching, limits, refs_digest, transport, watch,
};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Status, Streaming};

/// No answer takes as long as this; what never comes is not waited for longer than [`A_WHILE`].
const LONG: Duration = Duration::from_secs(20);
const A_WHILE: Duration = Duration::from_millis(200);

struct Server {
    address: SocketAddr,
    databases: Databases,
    service: SyncService,
    /// Dropped to let the server stop as one that is told to.
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
    _dir: TempDir,
}

impl Server {
    async fn start(access: Access) -> Server {
        let dir = TempDir::new().unwrap();
        let databases = Databases::new(dir.path(), Options::default()).unwrap();
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap().with_nodelay(Some(true));
        let address = incoming.local_addr().unwrap();
        let service = SyncService::new(databases.clone()).with_access(access);
        let (stop, stopped) = oneshot::channel::<()>();
        let router = transport().add_service(service.clone().into_server());
        let serving = tokio::spawn(async move {
            router.serve_with_incoming_shutdown(incoming, async { drop(stopped.await) }).await.unwrap();
        });
        Server { address, databases, service, stop: Some(stop), serving, _dir: dir }
    }

    fn url(&self) -> RemoteUrl {
        RemoteUrl::parse(&format!("http://{}/shop", self.address)).unwrap()
    }

    async fn remote(&self, token: Option<Token>) -> Remote {
        Remote::connect(&self.url().with_credential(Credential { token, ..Credential::default() }))
            .await
            .unwrap()
    }

    async fn watch(&self) -> Watching {
        watch(&self.remote(None).await, &RefPatterns::all(), &[], None).await.unwrap()
    }

    async fn connect(&self, window: u32) -> SyncClient<Channel> {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).unwrap();
        let endpoint = endpoint.initial_stream_window_size(window).initial_connection_window_size(window);
        SyncClient::new(endpoint.connect().await.unwrap())
            .max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
    }
}

/// A server with the database `shop`, which has a branch `main` with two commits.
async fn shop(access: Access) -> (Server, Database, [Hash; 2]) {
    let server = Server::start(access).await;
    let db = server.databases.create("shop").unwrap();
    let commits = ["one", "two"].map(|message| {
        let new = NewCommit { message: message.into(), author: "tester".into(), ..NewCommit::default() };
        let mut transaction = db.begin("main").unwrap();
        transaction.create_table(message, None).unwrap();
        transaction.commit().unwrap();
        db.commit("main", new).unwrap().hash
    });
    (server, db, commits)
}

fn set(db: &Database, refs: &[(&str, Option<Hash>)]) {
    let updates: Vec<RefUpdate> = refs
        .iter()
        .map(|(name, new)| RefUpdate { name: (*name).into(), old: db.get_ref(name), new: *new })
        .collect();
    let outcome = db.update_refs(Batch::default(), &updates).unwrap();
    assert!(matches!(outcome, Outcome::Appended(_)));
}

fn change(name: &str, old: Option<Hash>, new: Option<Hash>) -> RefChange {
    RefChange { name: name.into(), old, new }
}

async fn next(watching: &mut Watching) -> Result<Vec<RefChange>, Error> {
    timeout(LONG, watching.next()).await.expect("an answer")
}

async fn hears_nothing(watching: &mut Watching) {
    let heard = timeout(A_WHILE, watching.next()).await;
    assert!(heard.is_err(), "{heard:?}");
}

/// What was told so far, as a client of another make would keep it.
#[derive(Default)]
struct Refs(BTreeMap<String, Vec<u8>>);

impl Refs {
    fn take(&mut self, answer: WatchResponse) {
        if answer.whole {
            self.0.clear();
        }
        for one in answer.refs {
            match one.hash.is_empty() {
                true => drop(self.0.remove(&one.name)),
                false => drop(self.0.insert(one.name, one.hash.to_vec())),
            }
        }
    }

    fn are(&self, db: &Database) -> bool {
        let refs = db.refs("heads/").into_iter().chain(db.refs("tags/"));
        self.0 == refs.map(|(name, hash)| (name, hash.as_bytes().to_vec())).collect()
    }
}

async fn answer(stream: &mut Streaming<WatchResponse>) -> Result<WatchResponse, Status> {
    Ok(timeout(LONG, stream.message()).await.expect("an answer")?.expect("no end"))
}

#[tokio::test]
async fn first_the_refs_are_told_and_then_each_change_in_order() {
    let (server, db, [one, two]) = shop(Access::open()).await;
    let mut watching = server.watch().await;
    assert_eq!(next(&mut watching).await.unwrap(), [change("heads/main", None, Some(two))]);
    hears_nothing(&mut watching).await;
    // Work moves with each transaction, and is no ref that anybody watches.
    db.begin("main").unwrap().create_table("more", None).unwrap();
    set(&db, &[("work/other", db.get_ref("work/main"))]);
    hears_nothing(&mut watching).await;
    set(&db, &[("heads/other", Some(one)), ("tags/v1", Some(one))]);
    let made = [change("heads/other", None, Some(one)), change("tags/v1", None, Some(one))];
    assert_eq!(next(&mut watching).await.unwrap(), made);
    set(&db, &[("heads/other", Some(two))]);
    assert_eq!(next(&mut watching).await.unwrap(), [change("heads/other", Some(one), Some(two))]);
    set(&db, &[("heads/other", None)]);
    assert_eq!(next(&mut watching).await.unwrap(), [change("heads/other", Some(two), None)]);
    let refs: Vec<&str> = watching.refs().keys().map(String::as_str).collect();
    assert_eq!(refs, ["heads/main", "tags/v1"]);
    hears_nothing(&mut watching).await;
}

#[tokio::test]
async fn who_knows_the_refs_is_told_so_and_who_watches_some_hears_of_no_others() {
    let (server, db, [one, two]) = shop(Access::open()).await;
    let remote = server.remote(None).await;
    let known = db.refs("heads/");
    let mut all = watch(&remote, &RefPatterns::all(), &known, None).await.unwrap();
    let tags = RefPatterns::new(&["tags/v*"]).unwrap();
    let mut tags = watch(&remote, &tags, &[], None).await.unwrap();
    assert_eq!(next(&mut all).await.unwrap(), []);
    assert_eq!(next(&mut tags).await.unwrap(), []);
    set(&db, &[("heads/other", Some(one)), ("tags/old", Some(one))]);
    set(&db, &[("tags/v1", Some(two))]);
    assert_eq!(next(&mut tags).await.unwrap(), [change("tags/v1", None, Some(two))]);
    // What is known otherwise is brought up to date by the first answer.
    let wrong = [("heads/gone".to_owned(), one), ("heads/main".to_owned(), one)];
    let heads = RefPatterns::new(&["heads/*"]).unwrap();
    let mut stale = watch(&remote, &heads, &wrong, None).await.unwrap();
    let expected = [
        change("heads/gone", Some(one), None),
        change("heads/main", Some(one), Some(two)),
        change("heads/other", None, Some(one)),
    ];
    assert_eq!(next(&mut stale).await.unwrap(), expected);
    let mut client = server.connect(1 << 20).await;
    let known_refs = refs_digest(&db.refs("heads/")).as_bytes().to_vec().into();
    let request = WatchRequest {
        database: "shop".into(),
        wants: vec!["heads/*".into()],
        known_refs,
        ..WatchRequest::default()
    };
    let mut stream = client.watch(request).await.unwrap().into_inner();
    let first = answer(&mut stream).await.unwrap();
    assert_eq!(first, WatchResponse { unchanged: true, ..WatchResponse::default() });
}

#[tokio::test]
async fn heartbeats_say_that_nothing_has_changed() {
    let (server, db, [one, two]) = shop(Access::open()).await;
    let (remote, beat) = (server.remote(None).await, Duration::from_millis(100));
    let known = db.refs("heads/");
    let mut watching = watch(&remote, &RefPatterns::all(), &known, Some(beat)).await.unwrap();
    let began = std::time::Instant::now();
    // The first answer, and three heartbeats.
    for _ in 0..4 {
        assert_eq!(next(&mut watching).await.unwrap(), []);
    }
    assert!(began.elapsed() >= 3 * beat);
    for tag in 0..20 {
        set(&db, &[(format!("tags/v{tag}").as_str(), Some(if tag % 2 == 0 { one } else { two }))]);
        // A heartbeat may be on its way already, but none comes after the change was made that does not tell it.
        let mut told = next(&mut watching).await.unwrap();
        if told.is_empty() {
            told = next(&mut watching).await.unwrap();
        }
        assert_eq!(told.len(), 1, "{tag}");
        tokio::time::sleep(Duration::from_millis(7 * tag)).await;
    }
}

/// A reader for whom more waits than fits between it and the server, and the names of the branches, of 200 bytes, that this takes.
async fn slow_reader(server: &Server, db: &Database, head: Hash) -> (Vec<String>, Streaming<WatchResponse>) {
    let names: Vec<String> = (0..6000).map(|i| format!("heads/{i:0200}")).collect();
    set(db, &names.iter().map(|name| (name.as_str(), Some(head))).collect::<Vec<_>>());
    let mut client = server.connect(65_535).await;
    let request = WatchRequest { database: "shop".into(), ..WatchRequest::default() };
    (names, client.watch(request).await.unwrap().into_inner())
}

#[tokio::test]
async fn a_slow_reader_is_told_why_its_watch_ends() {
    let (server, db, [one, _]) = shop(Access::open()).await;
    let (_, mut stream) = slow_reader(&server, &db, one).await;
    answer(&mut stream).await.unwrap();
    tokio::time::sleep(A_WHILE).await;
    server.service.end_watches();
    let why = loop {
        if let Err(why) = answer(&mut stream).await {
            break why;
        }
    };
    assert_eq!(why.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_slow_reader_is_told_less_often_and_at_last_of_the_newest() {
    let (server, db, [one, two]) = shop(Access::open()).await;
    let (names, mut stream) = slow_reader(&server, &db, one).await;
    let mut refs = Refs::default();
    let first = answer(&mut stream).await.unwrap();
    assert!(first.whole && first.more && first.refs.len() <= 2000, "{}", first.refs.len());
    refs.take(first);
    for round in 0..100 {
        set(&db, &[("heads/moving", Some([one, two][round % 2])), ("tags/moving", Some(one))]);
        set(&db, &[("tags/moving", None), (&names[round], None)]);
    }
    let (mut answers, mut consistent) = (1, 0);
    while !refs.are(&db) {
        let answer = answer(&mut stream).await.unwrap();
        assert!(answer.refs.len() <= 2000, "no answer is larger than a message");
        consistent += u32::from(!answer.more);
        refs.take(answer);
        answers += 1;
    }
    assert!(answers < 20, "{answers} answers");
    assert!(consistent >= 1);
    set(&db, &[("heads/moving", None)]);
    refs.take(answer(&mut stream).await.unwrap());
    assert!(refs.are(&db));
}

#[tokio::test]
async fn more_refs_gone_than_are_remembered_are_told_as_a_whole() {
    let (server, db, [one, _]) = shop(Access::open()).await;
    let mut watching = server.watch().await;
    next(&mut watching).await.unwrap();
    let names: Vec<String> = (0..limits::WATCH_GONE_MAX + 1).map(|i| format!("tags/{i}")).collect();
    let all = |hash| names.iter().map(|name| (name.as_str(), hash)).collect::<Vec<_>>();
    set(&db, &all(Some(one)));
    assert_eq!(next(&mut watching).await.unwrap().len(), names.len());
    set(&db, &all(None));
    let gone = next(&mut watching).await.unwrap();
    assert_eq!(gone.len(), names.len());
    assert!(gone.iter().all(|change| change.new.is_none()));
    assert_eq!(watching.refs().len(), 1);
}

fn user(number: u8, grants: &[(&str, &str)]) -> (Token, User) {
    let token = Token::from_random([number; 32]);
    let grants = grants
        .iter()
        .map(|(database, refs)| Grant {
            database: (*database).into(),
            refs: (*refs).into(),
            right: Right::Read,
        })
        .collect();
    let user = User { name: format!("user {number}"), token_hash: token.hash(), grants };
    (token, user)
}

#[tokio::test]
async fn each_answer_is_for_who_may_read_it_then() {
    let (reader, may_all) = user(1, &[("shop", "*")]);
    let (partner, may_some) = user(2, &[("shop", "pub*")]);
    let access = Access::of(vec![may_all.clone(), may_some]);
    let (server, db, [one, two]) = shop(access.clone()).await;
    set(&db, &[("heads/public", Some(one))]);
    let (ours, theirs) = (server.remote(Some(reader)).await, server.remote(Some(partner)).await);
    let mut all = watch(&ours, &RefPatterns::all(), &[], None).await.unwrap();
    let mut some = watch(&theirs, &RefPatterns::all(), &[], None).await.unwrap();
    assert_eq!(next(&mut all).await.unwrap().len(), 2);
    assert_eq!(next(&mut some).await.unwrap(), [change("heads/public", None, Some(one))]);
    set(&db, &[("heads/secret", Some(two))]);
    assert_eq!(next(&mut all).await.unwrap(), [change("heads/secret", None, Some(two))]);
    hears_nothing(&mut some).await;
    // Another grant: what may be read now looks made. One that is gone ends the call.
    access.replace(vec![may_all.clone(), user(2, &[("shop", "pub*"), ("shop", "sec*")]).1]);
    assert_eq!(next(&mut some).await.unwrap(), [change("heads/secret", None, Some(two))]);
    hears_nothing(&mut all).await;
    access.replace(vec![may_all.clone(), user(2, &[("shop", "sec*")]).1]);
    assert!(matches!(next(&mut some).await, Err(Error::NotAllowed { .. })));
    access.replace(vec![]);
    assert!(matches!(next(&mut all).await, Err(Error::NotAUser { .. })));
    // Neither is let in again.
    let code =
        async |remote| watch(remote, &RefPatterns::all(), &[], None).await.err().map(|error| error.kind());
    assert_eq!(code(&ours).await, Some(pleach_protocol::ErrorKind::NotAllowed));
}

#[tokio::test]
async fn a_watch_ends_when_its_database_is_dropped_and_is_none_of_the_next() {
    let (server, db, [one, _]) = shop(Access::open()).await;
    let mut watching = server.watch().await;
    next(&mut watching).await.unwrap();
    // Somebody else may hold the database longer.
    assert!(server.databases.drop_database("shop").unwrap());
    assert!(matches!(next(&mut watching).await, Err(Error::UnknownDatabase { .. })));
    drop(db);
    let db = server.databases.create("shop").unwrap();
    let mut again = server.watch().await;
    assert_eq!(next(&mut again).await.unwrap(), []);
    let mut other = server.watch().await;
    assert_eq!(next(&mut other).await.unwrap(), []);
    assert!(db.get_ref("heads/main").is_none() && !db.store().contains(&one));
    drop(db);
    // A watch keeps no database open: it can be closed, and opened by another process.
    server.databases.close().unwrap();
    assert!(matches!(next(&mut again).await, Err(Error::Unreachable { .. })));
    let path = server.databases.data_dir().join("shop");
    Database::open(&path, Options::default()).unwrap().close().unwrap();
    let mut none = watch(
        &Remote::connect(&format!("http://{}/none", server.address).parse().unwrap()).await.unwrap(),
        &RefPatterns::all(),
        &[],
        None,
    )
    .await
    .unwrap();
    assert!(matches!(next(&mut none).await, Err(Error::UnknownDatabase { .. })));
}

#[tokio::test]
async fn a_server_that_stops_waits_for_no_watch() {
    let (mut server, ..) = shop(Access::open()).await;
    let mut watching = server.watch().await;
    next(&mut watching).await.unwrap();
    drop(server.stop.take());
    hears_nothing(&mut watching).await;
    assert!(!server.serving.is_finished(), "a watch lasts as long as its caller wishes");
    server.service.end_watches();
    assert!(matches!(next(&mut watching).await, Err(Error::Unreachable { .. })));
    drop(watching);
    timeout(LONG, server.serving).await.expect("it stops").unwrap();
}

#[tokio::test]
async fn what_is_no_server_says_to_ask_on_an_interval() {
    let dir = TempDir::new().unwrap();
    let url = RemoteUrl::parse(&format!("file://{}", dir.path().display())).unwrap();
    let remote = Remote::connect(&url).await.unwrap();
    let error = watch(&remote, &RefPatterns::all(), &[], None).await.err().unwrap();
    assert!(matches!(error, Error::NoServer { .. }) && error.to_string().contains("interval"), "{error}");
}

#[tokio::test]
async fn patterns_beyond_the_limits_are_refused() {
    let (server, ..) = shop(Access::open()).await;
    let mut client = server.connect(1 << 20).await;
    for (wants, code) in [
        (vec!["work/*".to_owned()], Code::InvalidArgument),
        (vec!["heads/*".to_owned(); limits::PATTERNS_MAX + 1], Code::ResourceExhausted),
        (vec![format!("heads/{}", "*a".repeat(1 << 10))], Code::ResourceExhausted),
    ] {
        let request = WatchRequest { database: "shop".into(), wants, ..WatchRequest::default() };
        let mut stream = client.watch(request).await.unwrap().into_inner();
        assert_eq!(answer(&mut stream).await.unwrap_err().code(), code);
    }
}

/// What this process has used of the processors.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // A hundred ticks a second, on every Linux.
    Duration::from_millis(10 * ticks)
}

/// Alone in its process it would measure itself alone; beside other tests it takes the quietest of some spans.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_watches_cost_nothing_while_nothing_happens_and_there_are_no_more() {
    let (server, db, [one, _]) = shop(Access::open()).await;
    let mut streams = Vec::new();
    let open = async || -> Vec<Streaming<WatchResponse>> {
        let mut client = server.connect(1 << 20).await;
        let mut streams = Vec::new();
        for _ in 0..limits::STREAMS_MAX {
            let request = WatchRequest { database: "shop".into(), ..WatchRequest::default() };
            streams.push(client.watch(request).await.unwrap().into_inner());
        }
        streams
    };
    while streams.len() < limits::WATCHES_MAX {
        streams.extend(open().await);
    }
    assert_eq!(streams.len(), limits::WATCHES_MAX);
    for stream in &mut streams {
        assert_eq!(answer(stream).await.unwrap().refs.len(), 1);
    }
    let mut client = server.connect(1 << 20).await;
    let request = WatchRequest { database: "shop".into(), ..WatchRequest::default() };
    let refused = client.watch(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    // Transfers have their turns all the same.
    let fetch = proto::FetchRequest { database: "shop".into(), ..proto::FetchRequest::default() };
    assert!(client.fetch(fetch).await.unwrap().into_inner().message().await.unwrap().is_some());
    if cfg!(target_os = "linux") {
        let mut quietest = Duration::MAX;
        for _ in 0..20 {
            let before = cpu();
            tokio::time::sleep(A_WHILE).await;
            quietest = quietest.min(cpu() - before);
            if quietest <= Duration::from_millis(10) {
                break;
            }
        }
        assert!(quietest <= Duration::from_millis(10), "{quietest:?} of processor in {A_WHILE:?}");
    }
    set(&db, &[("tags/v1", Some(one))]);
    for stream in &mut streams {
        assert_eq!(answer(stream).await.unwrap().refs.len(), 1);
    }
    // One leaves, one comes.
    drop(streams.pop());
    let came = timeout(LONG, async {
        while client.watch(request.clone()).await.is_err() {
            tokio::task::yield_now().await;
        }
    });
    came.await.expect("a place is free");
}
