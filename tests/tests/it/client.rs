//! The client library, over real servers: where its calls go, what it sees, what it tries again and what it does not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pleach_client::{Client, Error, KeyRange, Options, Transaction, Value};
use pleach_tests::tokens::{self, Replicated};
use pleach_tests::{Sandbox, Server, eventually, free_port};
use tokio::io::AsyncReadExt;

fn options() -> Options {
    Options::default()
}

fn number(row: Option<pleach_client::Row>) -> u64 {
    String::from_utf8(row.expect("a row").value().to_vec()).unwrap().parse().unwrap()
}

/// Checks that a test makes, or as many as `PLEACH_TOKEN_CHECKS` says.
fn checks() -> u64 {
    std::env::var("PLEACH_TOKEN_CHECKS").ok().and_then(|checks| checks.parse().ok()).unwrap_or(400)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c28_reads_over_a_primary_and_two_replicas_see_every_write_of_their_client() {
    let servers = Replicated::new(2);
    let addresses = servers.addresses();
    let tally = tokens::check(&addresses, options(), checks(), 4, Duration::from_millis(5)).await.unwrap();
    assert_eq!((tally.checks, tally.stale), (checks(), 0), "{tally:?}");
    assert!(tally.failures.is_empty() && tally.writes > 1, "{tally:?}");
    // Without tokens the replicas answer with what they have: it is the tokens that did it.
    let without = Options { read_your_writes: false, ..options() };
    let tally = tokens::check(&addresses, without, 60, 1, Duration::from_millis(5)).await.unwrap();
    assert!(tally.stale > 0, "{tally:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_committed_is_read_on_the_primary_and_tokens_are_handed_on() {
    let servers = Replicated::new(1);
    let options = Options { token_wait: Duration::from_millis(100), ..options() };
    let one = Client::connect(servers.addresses(), options.clone()).unwrap();
    for n in 1..5 {
        one.database("db").put("t", "n", n.to_string()).await.unwrap();
        assert_eq!(number(one.database("db").get("t", "n").await.unwrap()), n);
    }
    // Another client, which would ask the replica, and is given the token.
    let impatient = Options { time_max: Duration::from_secs(1), ..options };
    let two = Client::connect([servers.replicas[0].url()], impatient).unwrap();
    assert_eq!(number(two.database("db").get("t", "n").await.unwrap()), 0);
    let two = two.with_token("db", one.token("db").unwrap());
    let started = Instant::now();
    let late = two.database("db").get("t", "n").await;
    // It knows of no other server: rather than an older state, it gets an error.
    assert!(matches!(late, Err(Error::Unavailable { .. })), "{late:?}");
    assert!(started.elapsed() < Duration::from_secs(15));
    one.database("db").commit("now", "").await.unwrap();
    let two = two.with_token("db", one.token("db").unwrap());
    assert_eq!(number(two.database("db").get("t", "n").await.unwrap()), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_find_the_primary_and_reads_go_everywhere() {
    let servers = Replicated::new(2);
    let mut addresses = servers.addresses();
    // One of them is away.
    addresses.insert(0, format!("http://127.0.0.1:{}", free_port()));
    let client = Client::connect(&addresses, options()).unwrap();
    let db = client.database("db");
    let written = db.put("t", "a", "1").await.unwrap();
    assert_eq!(written.token, client.token("db"));
    db.commit("second", "Ada <ada@example.org>").await.unwrap();
    let mut asked = std::collections::BTreeSet::new();
    for _ in 0..12 {
        let mut transaction = db.begin_read_only().await.unwrap();
        asked.insert(transaction.server().to_owned());
        assert_eq!(transaction.get("t", "a").await.unwrap().unwrap().value(), b"1");
        assert!(transaction.put("t", "a", "2").await.unwrap_err().is_not_allowed());
        transaction.commit().await.unwrap();
    }
    assert_eq!(asked.into_iter().collect::<Vec<_>>(), {
        let mut all = servers.addresses();
        all.sort();
        all
    });
    // All kinds of reads and writes.
    db.create_tag("v1", "").await.unwrap();
    db.create_branch("side", "v1").await.unwrap();
    assert!(db.create_branch("side", "v1").await.unwrap_err().exists());
    let side = db.at("side");
    side.put("t", "b", "2").await.unwrap();
    side.commit("on side", "").await.unwrap();
    assert_eq!(db.branches().await.unwrap().len(), 2);
    assert_eq!(db.tags().await.unwrap()[0].name, "v1");
    assert_eq!(side.log(1).await.unwrap()[0].message, "on side");
    assert_eq!(db.tables().await.unwrap()[0].rows, 2);
    let mut changes = db.diff("v1", "side").await.unwrap();
    let change = changes.next().await.unwrap().unwrap();
    assert_eq!((change.table.as_str(), change.old, change.new.unwrap().key()), ("t", None, &b"b"[..]));
    assert!(changes.next().await.unwrap().is_none());
    let keys = |rows: Vec<pleach_client::Row>| {
        rows.iter().map(|row| String::from_utf8(row.key().to_vec()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(keys(side.scan("t", ..).await.unwrap().all().await.unwrap()), ["a", "b", "n"]);
    assert_eq!(keys(side.scan("t", "b"..).await.unwrap().all().await.unwrap()), ["b", "n"]);
    let some = side.scan("t", KeyRange::at_most("a".."n", 1)).await.unwrap();
    assert_eq!(keys(some.all().await.unwrap()), ["a"]);
    assert!(db.delete("t", "n").await.unwrap().0);
    assert!(!db.delete("t", "n").await.unwrap().0);
    assert_eq!(db.get("t", "n").await.unwrap(), None);
    assert!(db.get("none", "n").await.unwrap_err().is_not_found());
    assert!(client.database("none").get("t", "n").await.unwrap_err().is_not_found());
    assert_eq!(client.database("db@v1").get("t", "n").await.unwrap().unwrap().value(), b"0");
    assert!(client.database("db@v1").put("t", "n", "1").await.unwrap_err().is_not_allowed());
    side.client().database("db").delete_branch("side").await.unwrap();
    assert!(side.get("t", "a").await.unwrap_err().is_not_found());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_that_meet_begin_again_and_nothing_is_lost() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve(&["--data-dir", "p", "--listen", "127.0.0.1:0"]);
    let client = Client::connect([server.url()], options()).unwrap();
    client.create_database("db").await.unwrap();
    assert_eq!(client.databases().await.unwrap(), ["db"]);
    client.database("db").put("t", "n", "0").await.unwrap();
    let tries = &AtomicU64::new(0);
    let add = |client: Client| async move {
        for _ in 0..20 {
            let add = |mut transaction: Transaction| async move {
                tries.fetch_add(1, Ordering::SeqCst);
                let n = number(transaction.get("t", "n").await?);
                transaction.put("t", "n", (n + 1).to_string()).await?;
                Ok((transaction, ()))
            };
            client.database("db").transaction(add).await.unwrap();
        }
    };
    tokio::join!(add(client.clone()), add(client.clone()), add(client.clone()));
    assert_eq!(number(client.database("db").get("t", "n").await.unwrap()), 60);
    assert!(tries.load(Ordering::SeqCst) > 60, "they met: {tries:?}");
    // What fails in the middle is rolled back, and the error comes out as it is.
    let db = client.database("db");
    let failed = db.transaction(|mut transaction| async move {
        transaction.put("t", "n", "0").await?;
        let row = transaction.get("none", "n").await?;
        Ok((transaction, row))
    });
    assert!(failed.await.unwrap_err().is_not_found());
    assert_eq!(number(client.database("db").get("t", "n").await.unwrap()), 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_goes_on_after_calls_that_were_given_up() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve(&["--data-dir", "p", "--listen", "127.0.0.1:0"]);
    let client = Client::connect([server.url()], options()).unwrap();
    client.create_database("db").await.unwrap();
    let mut transaction = client.database("db").begin().await.unwrap();
    let value = "v".repeat(1000);
    let keys = (0..20_000).map(|n| format!("{n:05}"));
    transaction.put_all("t", keys.map(|key| (key, value.as_str()))).await.unwrap();
    for _ in 0..3 {
        let mut rows = transaction.scan("t", ..).await.unwrap();
        assert_eq!(rows.next().await.unwrap().unwrap().key(), b"00000");
        drop(rows);
        // The answer to this one is not waited for. It may be there already, if this thread had to wait.
        tokio::select! {
            biased;
            answer = transaction.get("t", "00001") => assert!(answer.unwrap().is_some()),
            () = std::future::ready(()) => {}
        }
        assert_eq!(transaction.get("t", "00002").await.unwrap().unwrap().key(), b"00002");
    }
    assert_eq!(transaction.scan("t", "19990"..).await.unwrap().all().await.unwrap().len(), 10);
    transaction.rollback().await.unwrap();
    assert!(client.database("db").get("t", "00001").await.unwrap_err().is_not_found());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_transactions_at_once_keep_nothing_from_being_answered() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve(&["--data-dir", "p", "--listen", "127.0.0.1:0"]);
    let client = Client::connect([server.url()], options()).unwrap();
    client.create_database("db").await.unwrap();
    let db = client.database("db");
    let all = async {
        let mut open = Vec::new();
        for n in 0..150 {
            let mut transaction = db.begin().await.unwrap();
            transaction.put("t", n.to_string(), "1").await.unwrap();
            open.push(transaction);
        }
        db.put("u", "a", "1").await.unwrap();
        assert!(db.get("u", "a").await.unwrap().is_some());
        // All made the table, and the first to commit wins.
        let mut committed = 0;
        for transaction in open {
            committed += u32::from(transaction.commit().await.is_ok());
        }
        committed
    };
    let committed = tokio::time::timeout(Duration::from_secs(60), all).await.expect("none waits for another");
    assert!(committed >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_rows_are_written_by_column_and_read_by_name() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve(&["--data-dir", "p", "--listen", "127.0.0.1:0"]);
    let client = Client::connect([server.url()], options()).unwrap();
    client.create_database("db").await.unwrap();
    let file = sandbox.write("p.csv", "id,name,since\n1,ada,1815-12-10\n");
    let import =
        ["import", "people", file.to_str().unwrap(), "--key", "id", "--types", "id=int,name=text,since=date"];
    sandbox.run(&server.args("db", &import)).ok();
    let db = client.database("db");
    db.put_row("people", [("name", Value::from("grace")), ("id", 2.into())]).await.unwrap();
    let row = db.get("people", 2i64).await.unwrap().unwrap();
    assert_eq!(row.get("name").and_then(Value::as_text), Some("grace"));
    assert_eq!((row.get("id").and_then(Value::as_int), row.get("since")), (Some(2), Some(&Value::Null)));
    assert_eq!(row.columns().collect::<Vec<_>>(), ["id", "name", "since"]);
    db.transaction(|mut transaction| async move {
        transaction.put_row("people", [("id", Value::from(3)), ("since", "2000-01-01".into())]).await?;
        let deleted = transaction.delete("people", 1i64).await?;
        Ok((transaction, deleted))
    })
    .await
    .unwrap();
    let rows = db.scan("people", ..).await.unwrap().all().await.unwrap();
    let ids: Vec<_> = rows.iter().filter_map(|row| row.get("id").and_then(Value::as_int)).collect();
    assert_eq!(ids, [2, 3]);
    // A raw put into it says what to do.
    let refused = db.put("people", "4", "x").await.unwrap_err();
    assert!(matches!(&refused, Error::Refused(refusal) if refusal.hint.contains("cells")), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_answer_is_lost_is_not_tried_again_and_a_read_is() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve(&["--data-dir", "p", "--listen", "127.0.0.1:0"]);
    sandbox.run(&["--server", &server.url(), "database", "create", "db"]).ok();
    // It takes what is sent, and goes away.
    let hole = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", hole.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = hole.accept().await {
            let mut taken = vec![0; 4096];
            let quiet = Duration::from_millis(200);
            while let Ok(Ok(1..)) = tokio::time::timeout(quiet, connection.read(&mut taken)).await {}
        }
    });
    let client = Client::connect([url.clone(), server.url()], options()).unwrap();
    let lost = client.database("db").put("t", "a", "1").await.unwrap_err();
    assert!(matches!(&lost, Error::Unknown { server, .. } if *server == url), "{lost}");
    sandbox.run(&server.args("db", &["get", "t", "a"])).fails(1);
    // That server is left out now.
    client.database("db").put("t", "a", "1").await.unwrap();
    for _ in 0..4 {
        assert_eq!(number(client.database("db").get("t", "a").await.unwrap()), 1);
    }
    let fresh = Client::connect([url], Options { time_max: Duration::from_secs(1), ..options() }).unwrap();
    let started = Instant::now();
    let never = fresh.database("db").get("t", "a").await.unwrap_err();
    assert!(matches!(never, Error::Unavailable { .. }), "{never}");
    assert!(started.elapsed() < Duration::from_secs(20));
}

/// Two servers that name each other as standby.
struct Pair {
    sandbox: Sandbox,
    ports: [u16; 2],
}

const NAMES: [&str; 2] = ["one", "two"];

impl Pair {
    fn new() -> Pair {
        let pair = Pair { sandbox: Sandbox::new(), ports: [free_port(), free_port()] };
        for (node, role) in [(0, "primary"), (1, "standby")] {
            let [own, peer] = [pair.ports[node], pair.ports[1 - node]];
            let config = format!(
                "data_dir: {name}\nlistener: {{host: 127.0.0.1, port: 0}}\ncluster:\n  standby_remotes:\n    \
                 - {{name: {other}, remote_url_template: \"http://127.0.0.1:{peer}/{{database}}\"}}\n  \
                 bootstrap_role: {role}\n  bootstrap_epoch: 1\n  remotesapi: {{address: 127.0.0.1, port: {own}}}\n",
                name = NAMES[node],
                other = NAMES[1 - node],
            );
            pair.sandbox.write(&format!("{}.yaml", NAMES[node]), &config);
        }
        pair
    }

    fn start(&self, node: usize) -> Server {
        self.sandbox.serve(&["--config", &format!("{}.yaml", NAMES[node])])
    }

    fn assume(&self, server: &Server, role: &str, epoch: u64) {
        let epoch = epoch.to_string();
        self.sandbox.run(&["--server", &server.url(), "cluster", "assume-role", role, &epoch]).ok();
    }

    fn on_standby(&self, standby: &Server) {
        let here = || self.sandbox.run(&standby.args("db", &["get", "t", "n"])).status == 0;
        eventually("the database is on the standby", || here().then_some(()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c12_c14_c15_a_change_of_role_ends_sessions_and_clients_go_on() {
    let pair = Pair::new();
    let (one, two) = (pair.start(0), pair.start(1));
    let client = Client::connect([one.url(), two.url()], options()).unwrap();
    client.create_database("db").await.unwrap();
    let db = client.database("db");
    db.put("t", "n", "0").await.unwrap();
    pair.on_standby(&two);
    let mut writer = db.begin().await.unwrap();
    writer.put("t", "n", "lost").await.unwrap();
    let standby = Client::connect([two.url()], options()).unwrap();
    let mut reader = standby.database("db").begin_read_only().await.unwrap();
    assert_eq!(number(reader.get("t", "n").await.unwrap()), 0);

    // The primary steps down: its sessions are told; those of the standby, whose role stays, go on.
    pair.assume(&one, "standby", 2);
    let ended = writer.commit().await.unwrap_err();
    assert!(ended.to_string().contains("this server hands over its role to a standby: reconnect"), "{ended}");
    assert!(matches!(ended, Error::Ended(_)), "{ended}");
    assert_eq!(number(reader.get("t", "n").await.unwrap()), 0);
    // Now there is no primary, for a moment: a write waits for one.
    let waiting = tokio::spawn({
        let db = db.clone();
        async move { db.put("t", "n", "1").await }
    });
    pair.assume(&two, "primary", 2);
    waiting.await.unwrap().unwrap();
    let ended = reader.get("t", "n").await.unwrap_err();
    assert!(
        ended.to_string().contains("role of this server changed to primary at epoch 2: reconnect"),
        "{ended}"
    );
    // Reads on both see that write, and the ones after it.
    for n in 2..40 {
        db.put("t", "n", n.to_string()).await.unwrap();
        assert_eq!(number(db.get("t", "n").await.unwrap()), n);
    }
    // And back.
    pair.assume(&two, "standby", 3);
    pair.assume(&one, "primary", 3);
    let (before, _) = db
        .transaction(|mut transaction| async move {
            let before = number(transaction.get("t", "n").await?);
            transaction.put("t", "n", (before + 1).to_string()).await?;
            Ok((transaction, before))
        })
        .await
        .unwrap();
    assert_eq!(before, 39);
    for _ in 0..20 {
        assert_eq!(number(db.get("t", "n").await.unwrap()), 40);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c11_an_epoch_alone_leaves_sessions_alone() {
    let pair = Pair::new();
    let (one, two) = (pair.start(0), pair.start(1));
    let client = Client::connect([one.url()], options()).unwrap();
    client.create_database("db").await.unwrap();
    client.database("db").put("t", "n", "0").await.unwrap();
    pair.on_standby(&two);
    let standby = Client::connect([two.url()], options()).unwrap();
    let mut transaction = standby.database("db").begin_read_only().await.unwrap();
    pair.assume(&two, "standby", 12);
    assert_eq!(number(transaction.get("t", "n").await.unwrap()), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_names_the_primary_and_the_client_goes_there() {
    let pair = Pair::new();
    let (one, two) = (pair.start(0), pair.start(1));
    pair.sandbox.run(&["--server", &one.url(), "database", "create", "db"]).ok();
    pair.sandbox.run(&one.args("db", &["put", "t", "n", "0"])).ok();
    pair.on_standby(&two);
    // It is told of the standby alone.
    let client = Client::connect([two.url()], options()).unwrap();
    client.database("db").put("t", "n", "1").await.unwrap();
    assert_eq!(client.database("db").begin().await.unwrap().server(), one.url());
    assert_eq!(pair.sandbox.run(&one.args("db", &["get", "t", "n"])).ok(), "1\n");
    for _ in 0..10 {
        assert_eq!(number(client.database("db").get("t", "n").await.unwrap()), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c17_a_primary_that_dies_is_replaced_under_clients() {
    let pair = Pair::new();
    let (mut one, two) = (pair.start(0), pair.start(1));
    let client = Client::connect([one.url(), two.url()], options()).unwrap();
    client.create_database("db").await.unwrap();
    let db = client.database("db");
    db.put("t", "n", "0").await.unwrap();
    pair.on_standby(&two);
    let mut transaction = db.begin().await.unwrap();
    transaction.put("t", "n", "lost").await.unwrap();
    one.kill();
    let lost = transaction.commit().await.unwrap_err();
    assert!(matches!(lost, Error::Unknown { .. }), "{lost}");
    // Reads go on at once.
    for _ in 0..4 {
        assert_eq!(number(db.get("t", "n").await.unwrap()), 0);
    }
    pair.assume(&two, "primary", 2);
    db.put("t", "n", "1").await.unwrap();
    assert_eq!(number(db.get("t", "n").await.unwrap()), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_replication_warns_of_reaches_the_client_that_wrote() {
    let sandbox = Sandbox::new();
    sandbox.run(&["init", "p/db"]).ok();
    let nowhere = format!("http://127.0.0.1:{}/db", free_port());
    sandbox.run(&["-C", "p/db", "remote", "add", "origin", &nowhere]).ok();
    let config = "data_dir: p\nlistener: {host: 127.0.0.1, port: 0}\nreplication:\n  replicate_to_remote: origin\n  transaction_commit: true\n";
    sandbox.write("p.yaml", config);
    let server = sandbox.serve(&["--config", "p.yaml"]);
    let db = Client::connect([server.url()], options()).unwrap().database("db");
    let written = db.put("t", "a", "1").await.unwrap();
    assert!(written.token.is_some() && written.warnings[0].contains("origin"), "{written:?}");
    let mut transaction = db.begin().await.unwrap();
    transaction.put("t", "a", "2").await.unwrap();
    let written = transaction.commit().await.unwrap();
    assert!(written.token.is_some() && written.warnings[0].contains("origin"), "{written:?}");
    assert_eq!(db.log(0).await.unwrap().len(), 2);
}
