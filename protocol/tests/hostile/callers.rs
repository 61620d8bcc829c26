//! What callers send to a server: each case its name, what is sent, and the status that refuses it. Nothing moves.

use push_request::Message::{Begin, Data, Finish};
use tonic::Code::{self, Cancelled, InvalidArgument, NotFound, OutOfRange, ResourceExhausted};

use super::*;

/// All answers to a fetch, or the status.
async fn fetch_raw(
    served: &Served,
    request: proto::FetchRequest,
) -> Result<Vec<proto::FetchResponse>, Status> {
    let mut stream = served.client().await.fetch(request).await?.into_inner();
    let mut answers = Vec::new();
    while let Some(answer) = stream.message().await? {
        answers.push(answer);
    }
    Ok(answers)
}

fn request() -> proto::FetchRequest {
    proto::FetchRequest { database: "x".into(), ..Default::default() }
}

#[tokio::test]
async fn requests_to_fetch_that_no_caller_of_ours_makes() {
    let served = Served::start();
    let before = served.state();
    let head = before.0.iter().find(|(name, _)| name == "heads/main").unwrap().1;
    let place = |top: &[u8], path: Vec<u32>| proto::FetchRequest {
        resume: Some(proto::Place { top: Bytes::copy_from_slice(top), path }),
        ..request()
    };
    let wants = |wants: Vec<String>| proto::FetchRequest { wants, ..request() };
    let haves = |bytes: usize| proto::FetchRequest { haves: vec![7; bytes].into(), ..request() };
    let named = |name: &str| proto::FetchRequest { database: name.into(), ..request() };
    let cases: Vec<(&str, proto::FetchRequest, Code, &str)> = vec![
        ("257 patterns", wants(vec!["heads/*".into(); 257]), ResourceExhausted, "ref patterns"),
        ("ten million patterns", wants(vec![String::new(); 10_000_000]), OutOfRange, "too large"),
        ("a pattern of all refs", wants(vec!["*".into()]), InvalidArgument, "no ref"),
        ("a pattern of work", wants(vec!["work/*".into()]), InvalidArgument, "no ref"),
        ("an empty pattern", wants(vec![String::new()]), InvalidArgument, "no ref"),
        ("a long pattern", wants(vec![format!("heads/{}", "*a".repeat(600))]), ResourceExhausted, "pattern"),
        ("a have and a byte", haves(33), InvalidArgument, "haves has 1 bytes"),
        ("65 haves", haves(65 * 32), ResourceExhausted, "haves"),
        ("a million haves", haves(32_000_000), OutOfRange, "too large"),
        ("haves as large as a message", haves(4 << 20), ResourceExhausted, "haves"),
        ("a place of a short hash", place(&[1; 31], vec![0]), InvalidArgument, "top has 31 bytes"),
        ("a place without a path", place(&[1; 32], vec![]), InvalidArgument, "has a path"),
        ("a deep place", place(&[1; 32], vec![0; 49]), ResourceExhausted, "depth of a place"),
        ("an absurd place", place(&[1; 32], vec![0; 1_000_000]), ResourceExhausted, "depth of a place"),
        ("no database", named(""), NotFound, "database"),
        ("a path", named("../x"), NotFound, "database"),
        ("a path of dots", named(".."), NotFound, "database"),
        ("another case", named("X"), NotFound, "database"),
        ("a long name", named(&"x".repeat(64)), NotFound, "database"),
        ("a name with a zero", named("x\0"), NotFound, "database"),
        ("a database that is not there", named("y"), NotFound, "database"),
    ];
    for (name, request, code, what) in cases {
        let status = fetch_raw(&served, request).await.expect_err(name);
        assert_eq!(status.code(), code, "{name}: {status}");
        assert!(status.message().contains(what), "{name}: {status}");
        assert_eq!(served.state(), before, "{name}");
    }
    // What a caller says that it has, and has not, is its own loss; what is no commit is not known.
    let root = served.db.commit_object(&head).unwrap().root;
    for (haves, known) in [(root, 0), (Hash::of(b"nowhere"), 0), (head, 1)] {
        let request = proto::FetchRequest { haves: Bytes::copy_from_slice(haves.as_bytes()), ..request() };
        let answers = fetch_raw(&served, request).await.unwrap();
        let Some(fetch_response::Message::Plan(plan)) = &answers[0].message else { panic!("a plan") };
        assert_eq!(plan.haves_known, known);
        assert_eq!(answers.len(), 3 - known as usize);
    }
    // Places that mean nothing, and digests that are none, leave nothing out.
    let whole = fetch_raw(&served, request()).await.unwrap();
    for path in [vec![0], vec![u32::MAX; 48], vec![1, 2, 3]] {
        assert_eq!(fetch_raw(&served, place(&[1; 32], path)).await.unwrap(), whole);
    }
    for digest in [vec![0; 31], vec![0; 32], vec![0; 100_000]] {
        let request = proto::FetchRequest { known_refs: digest.into(), ..request() };
        assert_eq!(fetch_raw(&served, request).await.unwrap(), whole);
    }
    assert_sound(&served.db);
}

#[tokio::test]
async fn pushes_that_break_the_contract() {
    let (db, commits) = source();
    let all = sent(&db, commits[0]);
    let data = |message: Vec<u8>| Data(Bytes::from(message));
    let whole = || data(message(&all));
    let finish = |records| Finish(proto::Finish { records });
    let records = all.len() as u64;
    let fresh = |change: &dyn Fn(&mut proto::Begin)| {
        let mut begin = begin(commits[0]);
        begin.updates[0].name = "heads/new".into();
        change(&mut begin);
        Begin(begin)
    };
    let honest = || fresh(&|_| ());
    let update = |change: &dyn Fn(&mut proto::RefUpdate)| fresh(&|begin| change(&mut begin.updates[0]));
    let updated = |change: &dyn Fn(&mut proto::RefUpdate)| vec![update(change), whole(), finish(records)];
    let begun = |change: &dyn Fn(&mut proto::Begin)| vec![fresh(change), whole(), finish(records)];
    let with = |message: Vec<u8>, records| vec![honest(), data(message), finish(records)];
    let forged = |at: usize, change: &dyn Fn(&mut Record<'_>)| {
        let mut out = message(&all[..at]);
        let mut changed = record(&all[at]);
        change(&mut changed);
        changed.write(&mut out);
        out
    };
    let nowhere = Hash::of(b"nowhere");
    use proto::ref_update::Expected;
    let cases: Vec<(&str, Vec<push_request::Message>, Code, &str)> = vec![
        // The order of messages.
        ("nothing", vec![], Cancelled, "cut after 0"),
        ("data first", vec![whole(), finish(records)], InvalidArgument, "begins with Begin"),
        ("an end first", vec![finish(0)], InvalidArgument, "begins with Begin"),
        ("two beginnings", vec![honest(), honest()], InvalidArgument, "begins once"),
        ("a beginning after data", vec![honest(), whole(), honest()], InvalidArgument, "begins once"),
        ("no end", vec![honest(), whole()], Cancelled, "cut after"),
        ("an end without data", vec![honest(), finish(0)], InvalidArgument, "was not sent"),
        ("an end too early", with(message(&all[..3]), 3), InvalidArgument, "are missing"),
        ("too few records", with(message(&all), records + 1), InvalidArgument, "records arrived"),
        ("too many records", with(message(&all), 0), InvalidArgument, "records arrived"),
        ("records beyond counting", with(message(&all), u64::MAX), InvalidArgument, "records arrived"),
        // The beginning.
        ("no update", begun(&|begin| begin.updates.clear()), InvalidArgument, "one ref at least"),
        ("no key", begun(&|begin| begin.idempotency_key.clear()), InvalidArgument, "0 bytes"),
        (
            "a long key",
            begun(&|begin| begin.idempotency_key = vec![1; 17].into()),
            InvalidArgument,
            "17 bytes",
        ),
        ("a base and a byte", begun(&|begin| begin.bases = vec![1; 33].into()), InvalidArgument, "bases"),
        ("65 bases", begun(&|begin| begin.bases = vec![1; 65 * 32].into()), ResourceExhausted, "bases"),
        ("another database", begun(&|begin| begin.database = "y".into()), NotFound, "database"),
        ("a path", begun(&|begin| begin.database = "../x".into()), NotFound, "database"),
        (
            "a ref twice",
            begun(&|begin| begin.updates.push(begin.updates[0].clone())),
            InvalidArgument,
            "twice",
        ),
        (
            "131,073 refs",
            begun(&|begin| begin.updates = vec![proto::RefUpdate::default(); (1 << 17) + 1]),
            ResourceExhausted,
            "refs in a push",
        ),
        // Its updates.
        ("work", updated(&|update| update.name = "work/main".into()), InvalidArgument, "no ref"),
        ("settings", updated(&|update| update.name = "local/settings".into()), InvalidArgument, "no ref"),
        (
            "a kept ref",
            updated(&|update| update.name = "recovery/heads/x/1".into()),
            InvalidArgument,
            "no ref",
        ),
        ("a remote's ref", updated(&|update| update.name = "remotes/o/x".into()), InvalidArgument, "no ref"),
        ("no name", updated(&|update| update.name = "heads/".into()), InvalidArgument, "no ref"),
        ("a name of dots", updated(&|update| update.name = "heads/a/../b".into()), InvalidArgument, "no ref"),
        ("a name of lines", updated(&|update| update.name = "heads/a\nb".into()), InvalidArgument, "no ref"),
        (
            "a long name",
            updated(&|update| update.name = format!("heads/{}", "a".repeat(2000))),
            ResourceExhausted,
            "ref name",
        ),
        ("a short hash", updated(&|update| update.new = vec![1; 31].into()), InvalidArgument, "31 bytes"),
        ("a long hash", updated(&|update| update.new = vec![1; 64].into()), InvalidArgument, "64 bytes"),
        ("nothing expected", updated(&|update| update.expected = None), InvalidArgument, "expected old"),
        (
            "not absent",
            updated(&|update| update.expected = Some(Expected::Absent(false))),
            InvalidArgument,
            "expected old",
        ),
        (
            "anything, without force",
            updated(&|update| update.expected = Some(Expected::Any(true))),
            InvalidArgument,
            "expected old",
        ),
        (
            "a short old hash",
            updated(&|update| update.expected = Some(Expected::Old(vec![1; 3].into()))),
            InvalidArgument,
            "3 bytes",
        ),
        (
            "a commit that is not sent",
            updated(&|update| update.new = Bytes::copy_from_slice(nowhere.as_bytes())),
            InvalidArgument,
            "not asked for",
        ),
        (
            "a chunk that is no commit",
            updated(&|update| update.new = Bytes::copy_from_slice(all[1].chunk.hash().as_bytes())),
            InvalidArgument,
            "not asked for",
        ),
        // The records.
        ("no record", with(vec![0xff, 0xff], 1), InvalidArgument, "malformed at byte"),
        ("half a record", with(message(&all)[..50].to_vec(), 1), InvalidArgument, "malformed at byte"),
        (
            "a record in two messages",
            {
                let whole = message(&all);
                vec![honest(), data(whole[..50].to_vec()), data(whole[50..].to_vec()), finish(records)]
            },
            InvalidArgument,
            "malformed at byte",
        ),
        (
            "a chunk under another's hash",
            with(forged(0, &|r| r.top = Some(nowhere)), 1),
            InvalidArgument,
            "the chunk's hash is",
        ),
        (
            "a chunk in the place of another",
            with(
                {
                    let (mut out, payload) = (message(&all[..1]), all[2].chunk.bytes());
                    Record { payload, raw_len: payload.len(), ..record(&all[1]) }.write(&mut out);
                    out
                },
                2,
            ),
            InvalidArgument,
            "the chunk's hash is",
        ),
        (
            "a chunk that nobody asked for",
            with(forged(0, &|r| r.top = None), 1),
            InvalidArgument,
            "not asked for",
        ),
        (
            "a top below a top",
            with(forged(1, &|r| r.top = Some(nowhere)), 2),
            InvalidArgument,
            "not asked for",
        ),
        (
            "no children",
            with(forged(0, &|r| r.follow = Follow::None), 1),
            InvalidArgument,
            "neither here nor sent",
        ),
        (
            "children that it has not",
            with(forged(0, &|r| r.follow = Follow::Listed(vec![0, 100_000])), 1),
            InvalidArgument,
            "follows, the chunk has",
        ),
        (
            "a million children",
            with(
                {
                    let mut out = vec![0b10_0100, 1];
                    out.extend([7; 32]);
                    out.extend([0xc0, 0x84, 0x3d]);
                    out.extend(vec![0; 1_000_000]);
                    out
                },
                1,
            ),
            InvalidArgument,
            "follow count 1000000",
        ),
        (
            "a delta on nothing that is here",
            with(
                forged(0, &|r| {
                    r.encoding = Encoding::Delta;
                    r.base = Some(BaseName::Hash(nowhere));
                }),
                1,
            ),
            InvalidArgument,
            "base that is not here",
        ),
        (
            "a delta below no base",
            with(
                forged(1, &|r| {
                    r.encoding = Encoding::Delta;
                    r.base = Some(BaseName::Child(0));
                }),
                2,
            ),
            InvalidArgument,
            "its parent has no base",
        ),
        (
            "rows that changed in nothing",
            with(
                forged(1, &|r| {
                    r.encoding = Encoding::Edits;
                    r.base = Some(BaseName::Child(0));
                    r.follow = Follow::None;
                }),
                2,
            ),
            InvalidArgument,
            "its parent has no base",
        ),
        (
            "a frame that is none",
            with(
                forged(0, &|r| {
                    r.encoding = Encoding::Zstd;
                    r.payload = b"not a frame";
                }),
                1,
            ),
            InvalidArgument,
            "zstd",
        ),
        (
            "a chunk longer than any",
            with([&[0b0101, 0x81, 0x80, 0x80, 0x02, 1][..], &[7; 33]].concat(), 1),
            InvalidArgument,
            "raw_len is 4194305",
        ),
        ("a message longer than any", with(vec![0; 6 << 20], 1), Cancelled, "cut after 0"),
    ];
    assert!(cases.len() >= 50);
    for (name, messages, code, what) in cases {
        let served = Served::start();
        let before = served.state();
        let stored =
            messages.iter().any(|one| matches!(one, Data(data) if data.len() == message(&all).len()));
        let status = served.push(messages).await.expect_err(name);
        assert_eq!(status.code(), code, "{name}: {status}");
        assert!(status.message().contains(what), "{name}: {status}");
        assert_eq!(served.state(), before, "{name}");
        assert!(stored || !served.db.store().contains(&commits[0]), "{name}");
        assert_sound(&served.db);
    }
    let served = Served::start();
    let answer = served.push([honest(), whole(), finish(records)]).await.unwrap();
    assert!(matches!(answer, proto::push_response::Message::Result(_)), "{answer:?}");
    assert_sound(&served.db);
}
