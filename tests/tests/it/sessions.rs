//! Transactions over the data API: sessions of a real server, as any client has them.

use std::time::Duration;

use pleach_client::proto::data_client::DataClient;
use pleach_client::proto::session_request::Request as Ask;
use pleach_client::proto::session_response::Response as Said;
use pleach_client::proto::*;
use pleach_tests::{Sandbox, Server, eventually};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

/// One session, spoken to message by message.
struct Session {
    requests: mpsc::Sender<SessionRequest>,
    answers: Streaming<SessionResponse>,
    runtime: Runtime,
}

impl Session {
    fn open(server: &Server) -> Session {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (requests, receiver) = mpsc::channel(1024);
        let answers = runtime.block_on(async {
            let mut client = DataClient::connect(server.url()).await.unwrap();
            client.session(ReceiverStream::new(receiver)).await.unwrap().into_inner()
        });
        Session { requests, answers, runtime }
    }

    fn send(&self, ask: Ask) {
        self.requests.try_send(SessionRequest { request: Some(ask) }).unwrap();
    }

    /// The next message; what the stream ended with, if it did.
    fn heard(&mut self) -> Result<Said, tonic::Status> {
        let next = self.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(60), self.answers.message()).await.expect("an answer")
        })?;
        Ok(next.expect("the session goes on").response.unwrap())
    }

    fn ask(&mut self, ask: Ask) -> Said {
        self.send(ask);
        self.heard().unwrap()
    }

    fn begin(&mut self, place: &str) -> TransactionBegun {
        match self.ask(begin(place, false)) {
            Said::Begun(begun) => begun,
            other => panic!("{other:?}"),
        }
    }

    fn begin_read_only(&mut self, place: &str) {
        let said = self.ask(begin(place, true));
        assert!(matches!(said, Said::Begun(TransactionBegun { read_only: true, .. })), "{said:?}");
    }

    fn get(&mut self, key: &str) -> Option<String> {
        match self.ask(get(key)) {
            Said::Row(GetResponse { row, .. }) => row.map(|row| String::from_utf8(row.value).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    fn put(&mut self, key: &str, value: &str) {
        let said = self.ask(put(&[(key, value)]));
        assert!(matches!(said, Said::Put(_)), "{said:?}");
    }

    fn commit(&mut self) -> String {
        match self.ask(Ask::Commit(CommitTransaction {})) {
            Said::Committed(committed) => committed.token,
            other => panic!("{other:?}"),
        }
    }

    fn refused(&mut self, ask: Ask) -> SessionFailure {
        match self.ask(ask) {
            Said::Failure(failure) => failure,
            other => panic!("{other:?}"),
        }
    }
}

fn begin(place: &str, read_only: bool) -> Ask {
    let (database, reference) = place.split_once('@').unwrap_or((place, ""));
    let (database, reference) = (database.to_owned(), reference.to_owned());
    let target = Some(Target { database, reference, ..Target::default() });
    Ask::Begin(BeginTransaction { target, read_only, idle_max_millis: 0 })
}

fn text(key: &str) -> Option<Key> {
    Some(Key { kind: Some(key::Kind::Text(key.to_owned())) })
}

fn get(key: &str) -> Ask {
    Ask::Get(TransactionGet { table: "t".into(), key: text(key) })
}

fn scan() -> Ask {
    Ask::Scan(TransactionScan { table: "t".into(), ..TransactionScan::default() })
}

fn put(rows: &[(&str, &str)]) -> Ask {
    let row = |(key, value): &(&str, &str)| NewRow {
        key: key.as_bytes().to_vec(),
        value: value.as_bytes().to_vec(),
        cells: Vec::new(),
    };
    Ask::Put(TransactionPut { table: "t".into(), rows: rows.iter().map(row).collect(), columns: vec![] })
}

fn delete(key: &str) -> Ask {
    Ask::Delete(TransactionDelete { table: "t".into(), keys: text(key).into_iter().collect() })
}

/// A server with database `db`, in whose table `t` `a` is 1, committed and tagged `v1`.
fn server(sandbox: &Sandbox) -> Server {
    let server = sandbox.serve(&["--data-dir", "p", "--listen", "127.0.0.1:0"]);
    sandbox.run(&["--server", &server.url(), "database", "create", "db"]).ok();
    for args in [&["put", "t", "a", "1"][..], &["commit", "-m", "first"], &["tag", "v1"]] {
        sandbox.run(&server.args("db", args)).ok();
    }
    server
}

/// A read replica of it.
fn replica(sandbox: &Sandbox, primary: &Server) -> Server {
    sandbox.run(&["clone", &primary.database("db"), "r/db"]).ok();
    let config = "data_dir: r\nlistener: {host: 127.0.0.1, port: 0}\nreplication:\n  read_replica_remote: origin\n  replicate_all_heads: true\n";
    sandbox.write("r.yaml", config);
    sandbox.serve(&["--config", "r.yaml"])
}

#[test]
fn a_transaction_sees_one_state_and_its_own_changes_and_commits_whole() {
    let sandbox = Sandbox::new();
    let server = server(&sandbox);
    let on = |args: &[&str]| sandbox.run(&server.args("db", args));
    let mut session = Session::open(&server);
    let begun = session.begin("db");
    assert_eq!((begun.reference.as_str(), begun.read_only), ("main", false));
    session.put("b", "2");
    let deleted = session.ask(delete("a"));
    assert!(matches!(deleted, Said::Deleted(RowsDeleted { count: 1 })), "{deleted:?}");
    let deleted = session.ask(delete("absent"));
    assert!(matches!(deleted, Said::Deleted(RowsDeleted { count: 0 })), "{deleted:?}");
    // It sees what it did, and nothing of what others do meanwhile; nobody sees it.
    on(&["put", "t", "c", "3"]).ok();
    assert_eq!((session.get("a"), session.get("b"), session.get("c")), (None, Some("2".into()), None));
    assert_eq!(on(&["scan", "t"]).ok(), "a\t1\nc\t3\n");
    let Said::Rows(rows) = session.ask(scan()) else { panic!("rows") };
    assert!(rows.last);
    assert_eq!(rows.rows.iter().map(|row| row.key.clone()).collect::<Vec<_>>(), [b"b".to_vec()]);
    let token = session.commit();
    assert_eq!(on(&["get", "t", "b", "--after", &token]).ok(), "2\n");
    assert_eq!(on(&["scan", "t"]).ok(), "b\t2\nc\t3\n");
    // The next one, in the same session; rolled back; and one that is left open when the stream ends.
    session.begin("db@main");
    assert_eq!(session.get("c"), Some("3".into()));
    session.put("d", "4");
    let said = session.ask(Ask::Rollback(RollbackTransaction {}));
    assert!(matches!(said, Said::RolledBack(_)), "{said:?}");
    session.begin("db");
    assert_eq!(session.get("d"), None);
    session.put("e", "5");
    drop(session);
    assert_eq!(on(&["scan", "t"]).ok(), "b\t2\nc\t3\n");
}

#[test]
fn the_first_to_commit_a_row_wins_and_the_other_may_begin_again() {
    let sandbox = Sandbox::new();
    let server = server(&sandbox);
    let (mut one, mut two) = (Session::open(&server), Session::open(&server));
    for session in [&mut one, &mut two] {
        session.begin("db");
    }
    one.put("a", "one");
    two.put("a", "two");
    two.put("b", "two");
    one.commit();
    let refused = two.refused(Ask::Commit(CommitTransaction {}));
    assert_eq!(refused.code, Code::Aborted as u32, "{refused:?}");
    assert!(refused.message.contains("table `t`") && !refused.hint.is_empty(), "{refused:?}");
    // Nothing of it was written, and there is no transaction any more.
    assert!(two.refused(get("a")).message.contains("no transaction"));
    two.begin("db");
    assert_eq!((two.get("a"), two.get("b")), (Some("one".into()), None));
    two.put("a", "two");
    two.commit();
    // Other rows do not conflict.
    one.begin("db");
    two.begin("db");
    one.put("x", "1");
    two.put("y", "2");
    one.commit();
    two.commit();
    assert_eq!(sandbox.run(&server.args("db", &["scan", "t"])).ok(), "a\ttwo\nx\t1\ny\t2\n");
}

#[test]
fn what_fails_changes_nothing_and_the_transaction_goes_on() {
    let sandbox = Sandbox::new();
    let server = server(&sandbox);
    let mut session = Session::open(&server);
    assert!(session.refused(get("a")).message.contains("no transaction"));
    session.send(begin("absent", false));
    let Said::Failure(refused) = session.heard().unwrap() else { panic!("refused") };
    assert_eq!(refused.code, Code::NotFound as u32);
    session.begin("db");
    assert!(session.refused(begin("db", false)).message.contains("open in this session"));
    session.put("b", "2");
    // The second row of these is too long: neither is there.
    let long = "k".repeat(1025);
    let refused = session.refused(put(&[("c", "3"), (&long, "4")]));
    assert!(refused.message.contains("1025 bytes"), "{refused:?}");
    let unknown = session.refused(Ask::Get(TransactionGet { table: "none".into(), key: text("a") }));
    assert_eq!(unknown.code, Code::NotFound as u32);
    session.send(Ask::EndScan(EndScan {}));
    session.requests.try_send(SessionRequest { request: None }).unwrap();
    let Said::Failure(refused) = session.heard().unwrap() else { panic!("refused") };
    assert_eq!(refused.code, Code::InvalidArgument as u32);
    assert_eq!((session.get("b"), session.get("c")), (Some("2".into()), None));
    session.commit();
    assert_eq!(sandbox.run(&server.args("db", &["scan", "t"])).ok(), "a\t1\nb\t2\n");
}

#[test]
fn typed_rows_are_written_and_read_by_their_cells() {
    let sandbox = Sandbox::new();
    let server = server(&sandbox);
    let file = sandbox.write("p.csv", "city,since,note\nparis,1900-01-01,old\n");
    let import = ["import", "places", file.to_str().unwrap(), "--key", "city", "--types", "since=date"];
    sandbox.run(&server.args("db", &import)).ok();
    let cell = |text: &str| Value { kind: Some(value::Kind::Text(text.into())) };
    let put = |columns: &[&str], cells: &[&str]| {
        let cells = cells.iter().map(|text| cell(text)).collect();
        let rows = vec![NewRow { cells, ..NewRow::default() }];
        let columns = columns.iter().map(|name| (*name).to_owned()).collect();
        Ask::Put(TransactionPut { table: "places".into(), rows, columns })
    };
    let mut session = Session::open(&server);
    session.begin("db");
    for (columns, cells, code, what) in [
        (&["city"][..], &["rome", "x"][..], Code::InvalidArgument, "expected 1 cells"),
        (&["city", "city"], &["rome", "rome"], Code::InvalidArgument, "named twice"),
        (&["city", "none"], &["rome", "x"], Code::NotFound, "no column `none`"),
        (&["city", "since"], &["rome", "not a date"], Code::FailedPrecondition, "column `since`"),
    ] {
        let refused = session.refused(put(columns, cells));
        assert_eq!(refused.code, code as u32, "{columns:?}: {refused:?}");
        assert!(refused.message.contains(what), "{columns:?}: {refused:?}");
    }
    for ask in [put(&["since", "city"], &["2001-02-03", "rome"]), put(&[], &["oslo", "1999-09-09", "cold"])] {
        let said = session.ask(ask);
        assert!(matches!(said, Said::Put(_)), "{said:?}");
    }
    let key = Key { kind: Some(key::Kind::Cells(Cells { cells: vec![cell("rome")] })) };
    let asked = Ask::Get(TransactionGet { table: "places".into(), key: Some(key.clone()) });
    let Said::Row(GetResponse { schema: Some(schema), row: Some(row) }) = session.ask(asked) else {
        panic!("a row")
    };
    assert_eq!(schema.columns.len(), 3);
    assert_eq!(row.cells, [cell("rome"), cell("2001-02-03"), Value { kind: None }]);
    session.commit();
    session.begin("db");
    let deleted = session.ask(Ask::Delete(TransactionDelete { table: "places".into(), keys: vec![key] }));
    assert!(matches!(deleted, Said::Deleted(RowsDeleted { count: 1 })), "{deleted:?}");
    session.commit();
    let scanned = sandbox.run(&server.args("db", &["scan", "places"])).ok();
    assert_eq!(scanned, "oslo,1999-09-09,cold\nparis,1900-01-01,old\n");
}

#[test]
fn a_scan_comes_in_pieces_and_ends_when_its_client_has_enough() {
    let sandbox = Sandbox::new();
    let server = server(&sandbox);
    let mut session = Session::open(&server);
    session.begin("db");
    let value = "v".repeat(1000);
    let keys: Vec<String> = (0..20_000).map(|n| format!("{n:05}")).collect();
    for keys in keys.chunks(1000) {
        let rows: Vec<_> = keys.iter().map(|key| (key.as_str(), value.as_str())).collect();
        assert!(matches!(session.ask(put(&rows)), Said::Put(_)));
    }
    session.commit();
    session.begin("db");
    session.send(scan());
    let (mut rows, mut messages) = (0, 0);
    loop {
        let Said::Rows(piece) = session.heard().unwrap() else { panic!("rows") };
        rows += piece.rows.len();
        messages += 1;
        if piece.last {
            break;
        }
    }
    assert_eq!(rows, 20_001);
    assert!(messages > 100, "{messages}");
    // Nothing is read: no more is sent than fits on the way. Then it ends, and the session goes on.
    session.send(scan());
    let Said::Rows(_) = session.heard().unwrap() else { panic!("rows") };
    session.send(Ask::EndScan(EndScan {}));
    session.send(get("00000"));
    let mut rows = 0;
    let row = loop {
        match session.heard().unwrap() {
            Said::Rows(piece) => rows += piece.rows.len(),
            Said::Row(row) => break row,
            other => panic!("{other:?}"),
        }
    };
    assert!(row.row.is_some() && rows < 5_000, "{rows}");
}

#[test]
fn a_session_that_asks_for_nothing_ends_and_says_why() {
    let sandbox = Sandbox::new();
    let server = server(&sandbox);
    let mut session = Session::open(&server);
    let Ask::Begin(begin) = begin("db", false) else { panic!("begin") };
    session.ask(Ask::Begin(BeginTransaction { idle_max_millis: 200, ..begin }));
    session.put("b", "2");
    let ended = session.heard().unwrap_err();
    assert_eq!(ended.code(), Code::Aborted, "{ended:?}");
    assert!(ended.message().contains("0.2 seconds") && ended.message().contains("rolled back"), "{ended:?}");
    assert_eq!(sandbox.run(&server.args("db", &["scan", "t"])).ok(), "a\t1\n");
}

#[test]
fn too_many_sessions_are_refused_and_their_places_are_given_back() {
    let sandbox = Sandbox::new();
    let server = server(&sandbox);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut open = Vec::new();
        let refused = loop {
            // A connection has fewer streams than there are sessions.
            let mut client = DataClient::connect(server.url()).await.unwrap();
            let mut refused = None;
            for _ in 0..64 {
                let (requests, receiver) = mpsc::channel(1);
                match client.session(ReceiverStream::new(receiver)).await {
                    Ok(answers) => open.push((requests, answers)),
                    Err(status) => refused = Some(status),
                }
            }
            if let Some(refused) = refused {
                break refused;
            }
            assert!(open.len() <= 1024, "{}", open.len());
        };
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(open.len(), 1024);
        open.clear();
        let mut client = DataClient::connect(server.url()).await.unwrap();
        let again = async {
            loop {
                let (_requests, receiver) = mpsc::channel(1);
                if client.session(ReceiverStream::new(receiver)).await.is_ok() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), again).await.expect("places are free again");
    });
}

#[test]
fn a_server_that_stops_ends_its_sessions_at_once() {
    let sandbox = Sandbox::new();
    let mut server = server(&sandbox);
    let mut session = Session::open(&server);
    session.begin("db");
    session.put("b", "2");
    let start = std::time::Instant::now();
    assert_eq!(server.stop(), 0);
    assert!(start.elapsed() < Duration::from_secs(15), "it does not wait for sessions");
    let ended = session.heard().unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
    assert!(ended.message().contains("stops"), "{ended:?}");
}

#[test]
fn a_session_does_what_its_user_may_and_ends_when_the_user_is_gone() {
    let sandbox = Sandbox::new();
    let secrets: Vec<String> =
        ["ada", "bob"].iter().map(|name| sandbox.run(&["token", "new", name]).ok()).collect();
    let token = |printed: &str| {
        let is_token = |word: &&str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        printed.split_whitespace().find(is_token).expect("a token").to_owned()
    };
    let hash = |token: &str| pleach_engine::Hash::of(token.as_bytes()).to_string();
    let (ada, bob) = (token(&secrets[0]), token(&secrets[1]));
    let user = |name: &str, token: &str, grant: &str| {
        format!("  - {{name: {name}, token_hash: \"blake3:{}\", grants: [{grant}]}}\n", hash(token))
    };
    let ada_user = user("ada", &ada, "{database: \"*\", refs: \"*\", allow: admin}");
    let bob_user = user("bob", &bob, "{database: db, refs: main, allow: read}");
    sandbox.write("users.yaml", &format!("users:\n{ada_user}{bob_user}"));
    sandbox.write("s.yaml", "data_dir: s\nlistener: {host: 127.0.0.1, port: 0}\nusers_file: users.yaml\n");
    let server = sandbox.serve(&["--config", "s.yaml"]);
    let on = |token: &str, args: &[&str]| {
        let mut command = sandbox.command(&server.args("db", args));
        pleach_tests::finish(command.env("PLEACH_TOKEN", token).output().unwrap())
    };
    on(&ada, &["database", "create", "db"]).ok();
    on(&ada, &["put", "t", "a", "1"]).ok();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let open = |token: &str| {
        let (requests, receiver) = mpsc::channel(16);
        let mut request = tonic::Request::new(ReceiverStream::new(receiver));
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        runtime.block_on(async {
            let mut client = DataClient::connect(server.url()).await.unwrap();
            client.session(request).await.map(|answers| (requests, answers.into_inner()))
        })
    };
    let ask = |(requests, answers): &mut (mpsc::Sender<SessionRequest>, Streaming<SessionResponse>), ask| {
        requests.try_send(SessionRequest { request: Some(ask) }).unwrap();
        let next = runtime.block_on(answers.message());
        next.map(|next| next.unwrap().response.unwrap())
    };
    assert_eq!(open(&"0".repeat(64)).unwrap_err().code(), Code::Unauthenticated);
    let mut session = open(&bob).unwrap();
    let refused = |said| match said {
        Said::Failure(failure) => failure,
        other => panic!("{other:?}"),
    };
    // Read he may, write he may not; nor know of another database.
    assert_eq!(refused(ask(&mut session, begin("db", false)).unwrap()).code, Code::PermissionDenied as u32);
    assert_eq!(refused(ask(&mut session, begin("other", true)).unwrap()).code, Code::PermissionDenied as u32);
    assert!(matches!(ask(&mut session, begin("db@main", true)).unwrap(), Said::Begun(_)));
    assert!(matches!(ask(&mut session, get("a")).unwrap(), Said::Row(_)));
    assert_eq!(refused(ask(&mut session, put(&[("a", "2")])).unwrap()).code, Code::PermissionDenied as u32);
    sandbox.write("users.yaml", &format!("users:\n{ada_user}"));
    server.signal("HUP");
    eventually("the users were read", || (on(&bob, &["get", "t", "a"]).status == 5).then_some(()));
    let ended = ask(&mut session, get("a")).unwrap_err();
    assert_eq!(ended.code(), Code::Unauthenticated, "{ended:?}");
}

#[test]
fn b2_an_open_transaction_on_a_replica_sees_nothing_new_until_the_next() {
    let sandbox = Sandbox::new();
    let primary = server(&sandbox);
    let replica = replica(&sandbox, &primary);
    let mut session = Session::open(&replica);
    session.begin_read_only("db");
    assert_eq!(session.get("a"), Some("1".into()));
    for args in [&["put", "t", "a", "2"][..], &["commit", "-m", "second"]] {
        sandbox.run(&primary.args("db", args)).ok();
    }
    // Others read it there, and the transaction does not.
    assert_eq!(sandbox.run(&replica.args("db", &["get", "t", "a"])).ok(), "2\n");
    assert_eq!(session.get("a"), Some("1".into()));
    let Said::Rows(rows) = session.ask(scan()) else { panic!("rows") };
    assert_eq!(rows.rows[0].value, b"1");
    assert_eq!(session.commit(), "");
    session.begin_read_only("db");
    assert_eq!(session.get("a"), Some("2".into()));
    // To write, it is the wrong server.
    session.ask(Ask::Rollback(RollbackTransaction {}));
    let refused = session.refused(begin("db", false));
    assert_eq!((refused.code, refused.role.as_str()), (Code::PermissionDenied as u32, "replica"));
}

#[test]
fn b8_a_session_on_a_branch_that_is_deleted_is_told_and_goes_on() {
    let sandbox = Sandbox::new();
    let primary = server(&sandbox);
    let replica = replica(&sandbox, &primary);
    sandbox.run(&primary.args("db", &["branch", "side"])).ok();
    let mut session = Session::open(&replica);
    session.begin_read_only("db@side");
    assert_eq!(session.get("a"), Some("1".into()));
    // On the primary, too, with something to commit.
    let mut writer = Session::open(&primary);
    writer.begin("db@side");
    writer.put("b", "2");
    sandbox.run(&primary.args("db", &["branch", "-d", "side"])).ok();
    let refused = writer.refused(Ask::Commit(CommitTransaction {}));
    assert_eq!(refused.code, Code::NotFound as u32, "{refused:?}");
    assert!(refused.message.contains("`side`"), "{refused:?}");
    writer.begin("db");
    writer.put("b", "2");
    writer.commit();
    // What the transaction began with, it keeps; the next one is told.
    assert_eq!(session.get("a"), Some("1".into()));
    session.commit();
    let refused = session.refused(begin("db@side", true));
    assert_eq!(refused.code, Code::NotFound as u32, "{refused:?}");
    assert!(refused.message.contains("`side`"), "{refused:?}");
    session.begin_read_only("db");
    assert_eq!(session.get("a"), Some("1".into()));
}

#[test]
fn b16_on_a_tag_or_commit_of_a_replica_everything_is_read_and_nothing_written() {
    let sandbox = Sandbox::new();
    let primary = server(&sandbox);
    let replica = replica(&sandbox, &primary);
    let log = sandbox.run(&primary.args("db", &["log", "--json"])).json_lines();
    let hash = log[0]["hash"].as_str().unwrap().to_owned();
    for args in [&["put", "t", "a", "2"][..], &["commit", "-m", "second"]] {
        sandbox.run(&primary.args("db", args)).ok();
    }
    for server in [&primary, &replica] {
        for reference in ["v1", &hash, &hash[..8]] {
            let place = format!("db@{reference}");
            let on = |args: &[&str]| sandbox.run(&server.args(&place, args));
            // Single calls.
            assert_eq!(on(&["get", "t", "a"]).ok(), "1\n", "{place}");
            assert_eq!(on(&["scan", "t"]).ok(), "a\t1\n");
            assert_eq!(on(&["log", "--json"]).json_lines().len(), 1);
            assert_eq!(on(&["diff", "--json"]).json_lines().len(), 0);
            assert_eq!(on(&["table", "list", "--json"]).status, 0);
            assert!(on(&["show", "HEAD"]).ok().contains("first"));
            for write in [&["put", "t", "a", "x"][..], &["del", "t", "a"], &["commit", "-m", "no"]] {
                let refused = on(write).fails(5);
                assert!(refused.contains("hint:"), "{refused}");
            }
            // A transaction.
            let mut session = Session::open(server);
            assert!(session.begin(&place).read_only);
            assert_eq!(session.get("a"), Some("1".into()));
            let refused = session.refused(put(&[("a", "x")]));
            assert_eq!(refused.code, Code::PermissionDenied as u32, "{refused:?}");
            assert!(refused.message.contains("read-only"), "{refused:?}");
            assert_eq!(session.commit(), "");
        }
    }
    let absent = sandbox.run(&replica.args("db@none", &["get", "t", "a"])).fails(1);
    assert!(absent.contains("no branch, tag or commit `none`"), "{absent}");
}
