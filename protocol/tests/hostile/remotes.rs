//! What servers answer to a caller: each case its name, what is answered, and the error. Nothing moves here.

use fetch_response::Message::{Data, End, Plan};
use pleach_protocol::proto::push_response::Message as Answer;
use pleach_protocol::{ErrorKind, Force, Part, PushUpdate, Transfer, clone_database, push};

use super::*;

/// A server that answers every call with the same messages, and counts them.
#[derive(Clone, Default)]
struct Scripted {
    fetch: Vec<fetch_response::Message>,
    push: Vec<Option<Answer>>,
    calls: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

#[tonic::async_trait]
impl sync_server::Sync for Scripted {
    type FetchStream = ReceiverStream<Result<proto::FetchResponse, Status>>;
    type PushStream = ReceiverStream<Result<proto::PushResponse, Status>>;
    type WatchStream = ReceiverStream<Result<proto::WatchResponse, Status>>;

    async fn fetch(&self, _: Request<proto::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        self.calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (messages, stream) = tokio::sync::mpsc::channel(self.fetch.len().max(1));
        for message in self.fetch.clone() {
            messages.send(Ok(proto::FetchResponse { message: Some(message) })).await.unwrap();
        }
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn push(
        &self,
        request: Request<Streaming<proto::PushRequest>>,
    ) -> Result<Response<Self::PushStream>, Status> {
        self.calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut requests = request.into_inner();
        let (messages, stream) = tokio::sync::mpsc::channel(self.push.len().max(1));
        let answers = self.push.clone();
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                if matches!(request.message, Some(push_request::Message::Finish(_))) {
                    break;
                }
            }
            for message in answers {
                let _ = messages.send(Ok(proto::PushResponse { message })).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn watch(&self, _: Request<proto::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get(&self, _: Request<proto::GetRequest>) -> Result<Response<proto::GetResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

impl Scripted {
    async fn start(&self) -> Remote {
        let (incoming, address) = listen();
        let service = sync_server::SyncServer::new(self.clone());
        tokio::spawn(transport().add_service(service).serve_with_incoming(incoming));
        Remote::connect(&RemoteUrl::parse(&format!("http://{address}/x")).unwrap()).await.unwrap()
    }
}

fn named(names: &[&str], hash: Hash) -> proto::Plan {
    let hash = Bytes::copy_from_slice(hash.as_bytes());
    let one = |name: &&str| proto::Ref { name: (*name).into(), hash: hash.clone() };
    proto::Plan { refs: names.iter().map(one).collect(), ..Default::default() }
}

#[tokio::test]
async fn answers_to_a_fetch_that_no_server_of_ours_gives() {
    let (db, commits) = source();
    let all = sent(&db, commits[0]);
    let head = commits[0];
    let data = || Data(Bytes::from(message(&all)));
    let end = || End(proto::End { records: all.len() as u64 });
    let refs = |names: &[&str]| vec![Plan(named(names, head)), data(), end()];
    let planned = |change: &dyn Fn(&mut proto::Plan)| {
        let mut plan = named(&["heads/main"], head);
        change(&mut plan);
        vec![Plan(plan), data(), end()]
    };
    let good = || Plan(named(&["heads/main"], head));
    let cases: Vec<(&str, Vec<fetch_response::Message>, ErrorKind, &str)> = vec![
        ("nothing", vec![], ErrorKind::Peer, "begins with a Plan"),
        ("data first", vec![data(), good(), end()], ErrorKind::Peer, "begins with a Plan"),
        ("an end first", vec![end()], ErrorKind::Peer, "begins with a Plan"),
        ("a second plan", vec![good(), good(), data(), end()], ErrorKind::Peer, "one Plan"),
        ("a plan after data", vec![good(), data(), good(), end()], ErrorKind::Peer, "one Plan"),
        ("two ends", vec![good(), data(), end(), end()], ErrorKind::Peer, "after the End"),
        ("data after the end", vec![good(), data(), end(), data()], ErrorKind::Peer, "after the End"),
        ("no end", vec![good(), data()], ErrorKind::Network, "was cut"),
        ("an end too early", vec![good(), End(proto::End { records: 0 })], ErrorKind::Peer, "was not sent"),
        (
            "records beyond counting",
            vec![good(), data(), End(proto::End { records: u64::MAX })],
            ErrorKind::Peer,
            "records arrived",
        ),
        (
            "bytes that are no record",
            vec![good(), Data(vec![0xff; 100].into()), end()],
            ErrorKind::Peer,
            "malformed",
        ),
        ("another's work", refs(&["work/main"]), ErrorKind::Input, "no ref"),
        ("another's settings", refs(&["local/settings"]), ErrorKind::Input, "no ref"),
        ("a ref of ours", refs(&["remotes/origin/main"]), ErrorKind::Input, "no ref"),
        ("a name that leads elsewhere", refs(&["heads/../../work/main"]), ErrorKind::Input, "no ref"),
        ("a name of lines", refs(&["heads/a\u{1b}[2J"]), ErrorKind::Input, "no ref"),
        ("a long name", refs(&[&format!("heads/{}", "a".repeat(1100))]), ErrorKind::Peer, "ref name"),
        ("a ref twice", refs(&["heads/main", "heads/main"]), ErrorKind::Peer, "twice in the plan"),
        (
            "a hash that is none",
            planned(&|plan| plan.refs[0].hash = vec![1; 31].into()),
            ErrorKind::Peer,
            "31 bytes",
        ),
        (
            "a branch that is not there",
            planned(&|plan| plan.default_branch = "evil".into()),
            ErrorKind::Peer,
            "default branch",
        ),
        (
            "a tag for a branch",
            planned(&|plan| {
                plan.refs[0].name = "tags/main".into();
                plan.default_branch = "main".into();
            }),
            ErrorKind::Peer,
            "default branch",
        ),
        (
            "nothing new to who knows nothing",
            planned(&|plan| plan.unchanged = true),
            ErrorKind::Peer,
            "none were known",
        ),
        (
            "a commit that is not sent",
            planned(&|plan| plan.refs[0].hash = Bytes::copy_from_slice(commits[1].as_bytes())),
            ErrorKind::Peer,
            "not asked for",
        ),
        (
            "a table for a commit",
            planned(&|plan| plan.refs[0].hash = Bytes::copy_from_slice(all[1].chunk.hash().as_bytes())),
            ErrorKind::Peer,
            "not asked for",
        ),
        (
            "a root for a commit",
            {
                let root = db.commit_object(&head).unwrap().root;
                let below: Vec<Sent> = difference(&db, &[root], &[]).unwrap().map(Result::unwrap).collect();
                let records = below.len() as u64;
                let data = Data(Bytes::from(message(&below)));
                vec![Plan(named(&["heads/main"], root)), data, End(proto::End { records })]
            },
            ErrorKind::Peer,
            "malformed",
        ),
    ];
    for (name, messages, kind, what) in cases {
        let scripted = Scripted { fetch: messages, ..Scripted::default() };
        let remote = scripted.start().await;
        let here = Database::memory().unwrap();
        let before = here.refs("");
        let error = fetch(&here, &remote, "origin", &RefPatterns::all()).await.expect_err(name);
        assert!(error.to_string().contains(what), "{name}: {error}");
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert_eq!(here.refs(""), before, "{name}");
        assert_sound(&here);
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("clone");
        let cloned = clone_database(&remote, &path, Options::default(), &Part::default()).await;
        assert_eq!(cloned.err().expect(name).kind(), kind, "{name}");
        assert!(!path.exists(), "{name}");
    }
}

/// A push of one commit to a server that answers so; and what the database was before, and is.
async fn pushed(answers: Vec<Option<Answer>>) -> (Result<Transfer, Error>, usize, bool) {
    let (db, commits) = source();
    let scripted = Scripted { push: answers, ..Scripted::default() };
    let remote = scripted.start().await;
    let before = state(&db);
    let updates = [PushUpdate { name: "heads/main".into(), new: Some(commits[0]) }];
    let pushed = push(&db, &remote, "origin", &updates, Force::No).await;
    let calls = scripted.calls.load(std::sync::atomic::Ordering::Relaxed);
    assert_sound(&db);
    (pushed, calls, state(&db) == before)
}

fn moved(name: &str, new: &[u8]) -> proto::RefMoved {
    proto::RefMoved { name: name.into(), new: Bytes::copy_from_slice(new), ..Default::default() }
}

#[tokio::test]
async fn answers_to_a_push_that_no_server_of_ours_gives() {
    let (_, commits) = source();
    let head = commits[0].as_bytes();
    let result = |refs: &[proto::RefMoved]| Some(Answer::Result(proto::PushResult { refs: refs.to_vec() }));
    let good = || moved("heads/main", head);
    let commits_of = |bytes: usize| {
        Some(Answer::Progress(proto::Progress { commits: vec![7; bytes].into(), place: None }))
    };
    let at = |top: usize, path: Vec<u32>| {
        let place = Some(proto::Place { top: vec![7; top].into(), path });
        Some(Answer::Progress(proto::Progress { commits: Bytes::new(), place }))
    };
    let rejected = |unknown: usize| {
        let unknown_bases = vec![7; unknown].into();
        Some(Answer::Rejected(proto::Rejected { unknown_bases, ..Default::default() }))
    };
    let cases: Vec<(&str, Vec<Option<Answer>>, &str)> = vec![
        ("nothing", vec![], "not answered"),
        ("an empty answer", vec![None], "answered with nothing"),
        ("words, and no answer", vec![commits_of(0)], "not answered"),
        ("a commit and a byte", vec![commits_of(33)], "commits has 1 bytes"),
        ("65 commits", vec![commits_of(65 * 32)], "commits exceeds"),
        ("a place of a short hash", vec![at(31, vec![0])], "31 bytes"),
        ("a place without a path", vec![at(32, vec![])], "has a path"),
        ("a deep place", vec![at(32, vec![0; 49])], "depth of a place"),
        ("a base and a byte", vec![rejected(33)], "unknown_bases"),
        ("65 bases", vec![rejected(65 * 32)], "unknown_bases"),
        ("no ref", vec![result(&[])], "each ref"),
        ("another ref", vec![result(&[moved("heads/other", head)])], "something else"),
        ("one ref more", vec![result(&[good(), moved("heads/other", head)])], "something else"),
        ("a ref twice", vec![result(&[good(), good()])], "something else"),
        ("a ref that is none", vec![result(&[good(), moved("heads/a b", head)])], "something else"),
        ("another commit", vec![result(&[moved("heads/main", commits[1].as_bytes())])], "something else"),
        ("a ref that is gone", vec![result(&[moved("heads/main", &[])])], "something else"),
        ("a short hash", vec![result(&[moved("heads/main", &head[..31])])], "31 bytes"),
    ];
    for (name, answers, what) in cases {
        let (pushed, calls, is_same) = pushed(answers).await;
        let error = pushed.expect_err(name);
        assert!(error.to_string().contains(what), "{name}: {error}");
        assert_eq!(error.kind(), ErrorKind::Peer, "{name}: {error}");
        assert_eq!((calls, is_same), (1, true), "{name}");
    }
}

#[tokio::test]
async fn a_push_believes_no_server_and_ends() {
    let (_, commits) = source();
    let invented = |n: u8| {
        let place = Some(proto::Place { top: vec![n; 32].into(), path: vec![u32::from(n); 48] });
        Some(Answer::Progress(proto::Progress { commits: vec![n; 64 * 32].into(), place }))
    };
    let result = || {
        let refs = vec![moved("heads/main", commits[0].as_bytes())];
        Some(Answer::Result(proto::PushResult { refs }))
    };
    // Commits and places that nobody has heard of are nothing to go on from.
    let answers = (0..=255).map(invented).chain([result()]).collect();
    let (transfer, calls, is_same) = pushed(answers).await;
    assert_eq!((transfer.unwrap().refs.len(), calls, is_same), (1, 1, false));

    let rejected = |change: &dyn Fn(&mut proto::Rejected)| {
        let mut rejected = proto::Rejected::default();
        change(&mut rejected);
        vec![Some(Answer::Rejected(rejected))]
    };
    let one = |reason: proto::Reason, found: &[u8]| proto::RefRejection {
        name: "heads/main".into(),
        found: Bytes::copy_from_slice(found),
        reason: reason.into(),
        detail: String::new(),
    };
    let cases = [
        ("no chunks, whatever is sent", rejected(&|rejected| rejected.send_chunks = true), 3),
        (
            "bases that were not named",
            rejected(&|rejected| rejected.unknown_bases = vec![7; 64 * 32].into()),
            2,
        ),
        ("a commit that nobody has", rejected(&|r| r.refs = vec![one(proto::Reason::Moved, &[7; 32])]), 1),
        ("an absent ref, again and again", rejected(&|r| r.refs = vec![one(proto::Reason::Moved, &[])]), 2),
        (
            "a reason of another version",
            rejected(&|r| {
                r.refs = vec![proto::RefRejection { reason: 99, ..one(proto::Reason::Moved, &[]) }]
            }),
            2,
        ),
        (
            "a ref that was not pushed",
            rejected(&|r| {
                r.refs = vec![proto::RefRejection {
                    name: "heads/x".into(),
                    ..one(proto::Reason::Moved, &[7; 32])
                }]
            }),
            2,
        ),
    ];
    for (name, answers, most) in cases {
        let (transfer, calls, is_same) = pushed(answers).await;
        let transfer = transfer.expect(name);
        assert!(transfer.is_rejected() && is_same && calls <= most, "{name}: {calls} {transfer:?}");
    }
}
