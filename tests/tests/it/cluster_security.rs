//! Who may replicate, and by what connection: real servers, and callers that are not what they say.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pleach_replication::proto::replicate_request::Message as Request;
use pleach_replication::proto::replicate_response::Message as Answer;
use pleach_replication::proto::replication_client::ReplicationClient;
use pleach_replication::proto::{Greeting, GreetingAnswer, Hello, ReplicateRequest, Role, Signed, Standing};
use pleach_tests::{Run, Sandbox, Server, eventually, free_port};
use prost::Message;
use rcgen::{KeyPair, RsaKeySize, SigningKey};
use serde_json::Value;

use crate::authority::{Authority, key};

const NAMES: [&str; 2] = ["one", "two"];

/// A primary and a standby.
struct Pair {
    sandbox: Sandbox,
    ports: [u16; 2],
    /// Where each reaches the other, `http://HOST:PORT`.
    urls: [String; 2],
    /// More keys of each `remotesapi`, and of the entry of the other.
    more: [String; 2],
    pins: [String; 2],
}

impl Pair {
    fn new() -> Pair {
        Pair::over("http", "127.0.0.1")
    }

    fn over(scheme: &str, host: &str) -> Pair {
        let ports = [free_port(), free_port()];
        let urls = [ports[1], ports[0]].map(|port| format!("{scheme}://{host}:{port}"));
        Pair { sandbox: Sandbox::new(), ports, urls, more: Default::default(), pins: Default::default() }
    }

    /// The same, each with these keys of its `remotesapi`; NAME stands for its name.
    fn with(mut self, keys: &str) -> Pair {
        self.more = NAMES.map(|name| format!(", {}", keys.replace("NAME", name)));
        self
    }

    fn start(&self, node: usize) -> Server {
        let (name, other, url) = (NAMES[node], NAMES[1 - node], &self.urls[node]);
        let (port, more, pin) = (self.ports[node], &self.more[node], &self.pins[node]);
        let role = ["primary", "standby"][node];
        let config = format!(
            "data_dir: {name}\nlistener: {{host: 127.0.0.1, port: 0}}\ncluster:\n  standby_remotes:\n    \
             - {{name: {other}, remote_url_template: \"{url}/{{database}}\"{pin}}}\n  bootstrap_role: {role}\n  \
             bootstrap_epoch: 1\n  remotesapi: {{address: 127.0.0.1, port: {port}{more}}}\n",
        );
        self.sandbox.write(&format!("{name}.yaml"), &config);
        self.sandbox.serve(&["--config", &format!("{name}.yaml")])
    }

    fn on(&self, server: &Server, args: &[&str]) -> Run {
        self.sandbox.run(&[&["--server", &server.url()], args].concat())
    }

    fn status(&self, server: &Server) -> Value {
        self.on(server, &["cluster", "status", "--json"]).json()
    }

    fn standing(&self, server: &Server) -> (String, u64) {
        let status = self.status(server);
        (status["role"].as_str().unwrap().to_owned(), status["epoch"].as_u64().unwrap())
    }

    fn assume(&self, server: &Server, role: &str, epoch: u64) -> Run {
        self.on(server, &["cluster", "assume-role", role, &epoch.to_string()])
    }

    fn create(&self, server: &Server) {
        self.on(server, &["database", "create", "db"]).ok();
    }

    fn put(&self, server: &Server, key: &str) {
        self.sandbox.run(&server.args("db", &["put", "t", key, "v"])).ok();
    }

    fn arrives(&self, server: &Server, key: &str) {
        let get = || self.sandbox.run(&server.args("db", &["get", "t", key])).status == 0;
        eventually("the row is on the standby", || get().then_some(()));
    }

    /// Waits until the server's status shows an error with these words.
    fn shows_error(&self, server: &Server, words: &str) {
        eventually(words, || {
            let status = self.status(server);
            let error = status["databases"][0]["current_error"].as_str()?.to_owned();
            error.contains(words).then_some(())
        });
    }

    /// There and back, with writes on each side.
    fn fail_over(&self, one: &Server, two: &Server) {
        self.create(one);
        self.put(one, "a");
        self.arrives(two, "a");
        self.assume(one, "standby", 2).ok();
        self.assume(two, "primary", 2).ok();
        self.put(two, "b");
        self.arrives(one, "b");
    }
}

/// A caller with a key, which says what it likes.
struct Stranger {
    key: KeyPair,
    runtime: tokio::runtime::Runtime,
}

impl Stranger {
    fn new(key: KeyPair) -> Stranger {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Stranger { key, runtime }
    }

    fn unknown() -> Stranger {
        Stranger::new(KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap())
    }

    /// A greeting for the node with this fingerprint: of a primary at a high epoch, signed `seconds` ago.
    fn greeting(&self, audience: &str, seconds: u64) -> Greeting {
        let node = vec![9; 16];
        let standing = Standing { role: Role::Primary.into(), epoch: 77, leader: node.clone().into() };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let issued_at_millis = now - seconds * 1000;
        Greeting {
            audience: URL_SAFE_NO_PAD.decode(audience).unwrap().into(),
            issued_at_millis,
            expires_at_millis: issued_at_millis + 30_000,
            nonce: rcgen::KeyPair::generate().unwrap().public_key_raw()[..16].to_vec().into(),
            channel: Vec::new().into(),
            hello: Some(Hello { node: node.into(), standing: Some(standing), ..Hello::default() }),
        }
    }

    fn sign(&self, greeting: &Greeting) -> Signed {
        let statement = greeting.encode_to_vec();
        let message = [b"pleach replicate greeting v1\0", &statement[..]].concat();
        Signed {
            public_key: self.key.public_key_raw().to_vec().into(),
            statement: statement.into(),
            signature: self.key.sign(&message).unwrap().into(),
        }
    }

    /// Opens a stream with this message; gives the first answer.
    fn says(&self, port: u16, first: Request) -> Result<Answer, tonic::Status> {
        let call = async {
            let mut client = ReplicationClient::connect(format!("http://127.0.0.1:{port}")).await.unwrap();
            // The stream stays open, as that of a caller who waits for the answer.
            let first = tokio_stream::once(ReplicateRequest { message: Some(first) });
            let stream = tokio_stream::StreamExt::chain(first, tokio_stream::pending());
            let mut answers = client.replicate(stream).await?.into_inner();
            Ok(answers.message().await?.unwrap().message.unwrap())
        };
        self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), call).await.unwrap() })
    }
}

/// What is published at the cluster port.
fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn e1_the_key_of_a_node_is_published_and_shown() {
    let pair = Pair::new();
    let node = pair.start(1);
    let answer = get(pair.ports[1], "/.well-known/jwks.json");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/json"), "{head}");
    let set: Value = serde_json::from_str(body).unwrap();
    let status = pair.status(&node);
    assert_eq!(set["keys"][0]["kid"], status["fingerprint"]);
    assert_eq!(set["keys"].as_array().unwrap().len(), 1);
    // It is the key in the data directory, which nobody else can read.
    let file = pair.sandbox.path("two/node.pem");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let key = KeyPair::from_pem(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(set["keys"][0]["x"], URL_SAFE_NO_PAD.encode(key.public_key_raw()));
    assert!(node.log().contains(status["fingerprint"].as_str().unwrap()), "the log names it");
    // Nothing else is served there.
    let url = format!("http://127.0.0.1:{}", pair.ports[1]);
    assert_ne!(pair.sandbox.run(&["--server", &url, "database", "list"]).status, 0);
    assert!(!get(pair.ports[1], "/metrics").contains("pleach_"));
    // Who trusts a peer by what it publishes is told so.
    assert!(node.log().contains("pin its `fingerprint`"), "{}", node.log());
    assert!(status["warnings"].to_string().contains("pin its `fingerprint`"), "{status}");
}

#[test]
fn c26_e1_who_is_no_peer_is_refused_and_role_and_epoch_stay() {
    let pair = Pair::new();
    let (one, two) = (pair.start(0), pair.start(1));
    pair.create(&one);
    pair.put(&one, "a");
    pair.arrives(&two, "a");
    let unknown = Stranger::unknown();
    let peer = |node: usize| {
        let file = pair.sandbox.path(&format!("{}/node.pem", NAMES[node]));
        Stranger::new(KeyPair::from_pem(&std::fs::read_to_string(file).unwrap()).unwrap())
    };
    for (node, server, role) in [(0, &one, "primary"), (1, &two, "standby")] {
        let port = pair.ports[node];
        let status = pair.status(server);
        let (mine, peer) = (status["fingerprint"].as_str().unwrap(), peer(1 - node));
        let theirs = pair.status([&two, &one][node])["fingerprint"].as_str().unwrap().to_owned();
        let good = peer.sign(&peer.greeting(mine, 0));
        let unsigned = Signed { signature: Vec::new().into(), ..good.clone() };
        let another = peer.sign(&peer.greeting(mine, 0)).statement;
        let bound = Greeting { channel: vec![1; 32].into(), ..peer.greeting(mine, 0) };
        let for_ever = Greeting { expires_at_millis: u64::MAX, ..peer.greeting(mine, 0) };
        for (what, first) in [
            ("no greeting", Request::Heartbeat(Default::default())),
            ("an empty one", Request::Greeting(Signed::default())),
            ("no signature", Request::Greeting(unsigned)),
            (
                "a signature of something else",
                Request::Greeting(Signed { statement: another, ..good.clone() }),
            ),
            ("a key of nobody", Request::Greeting(unknown.sign(&unknown.greeting(mine, 0)))),
            ("a greeting for another node", Request::Greeting(peer.sign(&peer.greeting(&theirs, 0)))),
            ("an expired one", Request::Greeting(peer.sign(&peer.greeting(mine, 31)))),
            ("one that holds for ever", Request::Greeting(peer.sign(&for_ever))),
            ("one for another connection", Request::Greeting(peer.sign(&bound))),
        ] {
            let refused = unknown.says(port, first).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{what} at {role}: {refused}");
            assert_eq!(pair.standing(server), (role.to_owned(), 1), "{what}");
        }
    }
    pair.put(&one, "b");
    pair.arrives(&two, "b");

    // A key that is trusted is believed, once.
    let peer = peer(0);
    let mine = pair.status(&two)["fingerprint"].as_str().unwrap().to_owned();
    let good = Request::Greeting(peer.sign(&peer.greeting(&mine, 0)));
    let Answer::GreetingAnswer(answer) = peer.says(pair.ports[1], good.clone()).unwrap() else {
        panic!("no answer to a greeting")
    };
    let answer = GreetingAnswer::decode(answer.statement).unwrap();
    assert_eq!(answer.ack.unwrap().standing.unwrap().epoch, 77);
    assert_eq!(pair.standing(&two), ("standby".into(), 77));
    let again = peer.says(pair.ports[1], good).unwrap_err();
    assert_eq!(again.code(), tonic::Code::Unauthenticated, "{again}");
    assert!(again.message().contains("heard before"), "{again}");
}

#[test]
fn e1_peers_survive_a_key_change_by_restart() {
    let pair = Pair::new();
    let (mut one, mut two) = (pair.start(0), pair.start(1));
    pair.create(&one);
    pair.put(&one, "a");
    pair.arrives(&two, "a");
    for (node, key) in [(0, "b"), (1, "c")] {
        let server = if node == 0 { &mut one } else { &mut two };
        let before = pair.status(server)["fingerprint"].clone();
        server.stop();
        std::fs::remove_file(pair.sandbox.path(&format!("{}/node.pem", NAMES[node]))).unwrap();
        *server = pair.start(node);
        assert_ne!(pair.status(server)["fingerprint"], before);
        pair.put(&one, key);
        pair.arrives(&two, key);
    }
}

#[test]
fn e1_a_pinned_key_is_the_only_one() {
    let mut pair = Pair::new();
    let fingerprints: Vec<String> =
        [0, 1].map(|node| pair.status(&pair.start(node))["fingerprint"].as_str().unwrap().to_owned()).into();
    let pin = |fingerprint: &str| format!(", fingerprint: \"{fingerprint}\"");
    pair.pins = [pin(&fingerprints[1]), pin(&fingerprints[0])];
    let (mut one, two) = (pair.start(0), pair.start(1));
    pair.create(&one);
    pair.put(&one, "a");
    pair.arrives(&two, "a");
    let status = pair.status(&one);
    assert!(!status["warnings"].to_string().contains("pin its"), "{status}");

    // The primary has another key: its standby does not believe it.
    one.stop();
    let file = pair.sandbox.path("one/node.pem");
    let old = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    one = pair.start(0);
    pair.shows_error(&one, "no standby remote has the key");
    // It is the standby that is not who it should be.
    one.stop();
    std::fs::write(&file, old).unwrap();
    pair.pins[0] = pin(&fingerprints[0]);
    one = pair.start(0);
    pair.shows_error(&one, "this node itself");
    one.stop();
    pair.pins[0] = pin("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    one = pair.start(0);
    pair.shows_error(&one, "is for the node with the key kPrK_");
    // Back to what it was.
    one.stop();
    pair.pins[0] = pin(&fingerprints[1]);
    one = pair.start(0);
    pair.put(&one, "b");
    pair.arrives(&two, "b");
}

const TLS: &str = "tls_cert: NAME.pem, tls_key: NAME.key, tls_ca: ours-ca.pem";

/// Passes bytes on to `port`, and keeps them. Gives the port where.
fn tap(port: u16) -> (u16, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (here, kept) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
    let keep = kept.clone();
    std::thread::spawn(move || {
        for caller in listener.incoming().map_while(Result::ok) {
            let Ok(called) = TcpStream::connect(("127.0.0.1", port)) else { continue };
            for (mut from, mut to) in
                [(caller.try_clone().unwrap(), called.try_clone().unwrap()), (called, caller)]
            {
                let keep = keep.clone();
                std::thread::spawn(move || {
                    let mut buffer = [0; 8192];
                    while let Ok(length @ 1..) = from.read(&mut buffer) {
                        keep.lock().unwrap().extend_from_slice(&buffer[..length]);
                        if to.write_all(&buffer[..length]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    (here, kept)
}

#[test]
fn e2_roles_swap_over_tls_with_each_kind_of_certificate() {
    for kind in ["rsa", "ecdsa", "ed25519"] {
        let key = || match kind {
            "rsa" => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap(),
            "ecdsa" => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(),
            _ => KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(),
        };
        let pair = Pair::over("https", "localhost").with(TLS);
        let authority = Authority::new(&pair.sandbox, "ours");
        NAMES.iter().for_each(|name| authority.issue(&pair.sandbox, name, &["localhost"], key(), false));
        pair.fail_over(&pair.start(0), &pair.start(1));
    }
}

#[test]
fn e2_any_name_of_a_certificate_may_match_and_everything_is_encrypted() {
    let names = ["first.example", "cluster.internal", "https://first.example", "spiffe://ours/node"];
    for keys in [
        "server_name_dns: [absent.example, cluster.internal]",
        "server_name_urls: [\"spiffe://absent/node\", \"spiffe://ours/node\"]",
        "server_name_dns: [absent.example], server_name_urls: [\"spiffe://ours/node\"]",
    ] {
        let mut pair = Pair::over("https", "127.0.0.1").with(&format!("{TLS}, {keys}"));
        let authority = Authority::new(&pair.sandbox, "ours");
        NAMES.iter().for_each(|name| authority.issue(&pair.sandbox, name, &names, key(), false));
        let taps = [tap(pair.ports[1]), tap(pair.ports[0])];
        pair.urls = [0, 1].map(|node| format!("https://127.0.0.1:{}", taps[node].0));
        let (one, two) = (pair.start(0), pair.start(1));
        pair.on(&one, &["database", "create", "seen-on-the-way"]).ok();
        pair.fail_over(&one, &two);
        for (_, kept) in &taps {
            let kept = kept.lock().unwrap();
            assert!(kept.len() > 1000, "it went this way");
            assert!(!kept.windows(15).any(|bytes| bytes == b"seen-on-the-way"));
        }
        // Who does not speak TLS gets nothing.
        let mut plain = TcpStream::connect(("127.0.0.1", pair.ports[0])).unwrap();
        plain.write_all(b"GET /.well-known/jwks.json HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let _ = plain.read_to_end(&mut answer);
        assert!(!String::from_utf8_lossy(&answer).contains("keys"));
    }
    // So the tap does see what is not encrypted.
    let mut pair = Pair::new();
    let (port, kept) = tap(pair.ports[1]);
    pair.urls[0] = format!("http://127.0.0.1:{port}");
    let (one, two) = (pair.start(0), pair.start(1));
    pair.on(&one, &["database", "create", "seen-on-the-way"]).ok();
    pair.create(&one);
    pair.put(&one, "a");
    pair.arrives(&two, "a");
    assert!(kept.lock().unwrap().windows(15).any(|bytes| bytes == b"seen-on-the-way"));
}

#[test]
fn e2_only_the_listed_address_is_bound() {
    let pair = Pair::new();
    let _node = pair.start(0);
    assert!(TcpStream::connect(("127.0.0.1", pair.ports[0])).is_ok());
    assert!(TcpStream::connect(("127.0.0.2", pair.ports[0])).is_err());

    let everywhere = Pair::new();
    let config = "data_dir: x\nlistener: {port: 0}\ncluster:\n  standby_remotes: [{name: s, remote_url_template: \
                  \"http://127.0.0.1:1/{database}\"}]\n  remotesapi: {port: PORT}\n";
    let port = everywhere.ports[0];
    everywhere.sandbox.write("config.yaml", &config.replace("PORT", &port.to_string()));
    let server = everywhere.sandbox.serve(&["--config", "config.yaml"]);
    assert!(
        TcpStream::connect(("127.0.0.1", port)).is_ok() && TcpStream::connect(("127.0.0.2", port)).is_ok()
    );
    assert!(server.log().contains("replication travels in the clear"), "{}", server.log());
}

#[test]
fn e3_with_a_wrong_certificate_a_graceful_change_fails_and_the_primary_stays_writable() {
    let fails = |name: &str, said: &str| {
        let pair = Pair::over("https", "localhost").with(TLS);
        let (ours, other) = (Authority::new(&pair.sandbox, "ours"), Authority::new(&pair.sandbox, "other"));
        ours.issue(&pair.sandbox, "one", &["localhost"], key(), false);
        match name {
            "wrong authority" => other.issue(&pair.sandbox, "two", &["localhost"], key(), false),
            "expired" => ours.issue(&pair.sandbox, "two", &["localhost"], key(), true),
            _ => ours.issue(&pair.sandbox, "two", &["db.example.org"], key(), false),
        }
        let (one, two) = (pair.start(0), pair.start(1));
        pair.create(&one);
        pair.put(&one, "a");
        pair.shows_error(&one, said);
        let refused = pair.assume(&one, "standby", 2);
        assert_ne!(refused.status, 0, "{name}");
        assert!(refused.stderr.contains(said), "{name}: {}", refused.stderr);
        assert_eq!(pair.standing(&one), ("primary".into(), 1), "{name}");
        pair.put(&one, "b");
        // With another certificate, which is read at a hangup, it goes on.
        ours.issue(&pair.sandbox, "two", &["localhost"], key(), false);
        two.signal("HUP");
        pair.arrives(&two, "b");
        pair.assume(&one, "standby", 2).ok();
    };
    std::thread::scope(|scope| {
        for (name, said) in [
            ("wrong authority", "no authority that is trusted here"),
            ("expired", "certificate expired"),
            ("another name", "is for db.example.org, not for localhost"),
        ] {
            scope.spawn(move || fails(name, said));
        }
    });
}

#[test]
fn e3_names_that_are_listed_take_the_place_of_the_host() {
    let pair = Pair::over("https", "localhost").with(&format!("{TLS}, server_name_dns: [cluster.internal]"));
    let authority = Authority::new(&pair.sandbox, "ours");
    authority.issue(&pair.sandbox, "one", &["cluster.internal"], key(), false);
    authority.issue(&pair.sandbox, "two", &["localhost"], key(), false);
    let (one, _two) = (pair.start(0), pair.start(1));
    pair.create(&one);
    pair.shows_error(&one, "is for localhost, not for cluster.internal");
}

#[test]
fn e4_a_peer_without_a_certificate_that_is_trusted_is_refused() {
    let mut pair = Pair::over("https", "localhost");
    let keys = "tls_cert: NAME.pem, tls_key: NAME.key, tls_ca: both-ca.pem, tls_client_ca: peers-ca.pem";
    // The primary has none to show.
    pair.more = [", tls_ca: both-ca.pem".to_owned(), format!(", {}", keys.replace("NAME", "two"))];
    let (ours, peers) = (Authority::new(&pair.sandbox, "ours"), Authority::new(&pair.sandbox, "peers"));
    let read = |name: &str| std::fs::read_to_string(pair.sandbox.path(name)).unwrap();
    pair.sandbox.write("both-ca.pem", &format!("{}{}", read("ours-ca.pem"), read("peers-ca.pem")));
    peers.issue(&pair.sandbox, "two", &["localhost"], key(), false);
    let two = pair.start(1);
    let mut one = pair.start(0);
    pair.create(&one);
    pair.put(&one, "a");
    pair.shows_error(&one, "asks for a certificate");
    // One of an authority that is not trusted there.
    one.stop();
    ours.issue(&pair.sandbox, "one", &["localhost"], key(), false);
    pair.more[0] = format!(", {}", keys.replace("NAME", "one"));
    one = pair.start(0);
    pair.shows_error(&one, "does not accept our certificate");
    // One of the authority of peers, which is read at the next connection.
    peers.issue(&pair.sandbox, "one", &["localhost"], key(), false);
    pair.arrives(&two, "a");
}

#[test]
fn a_wrong_file_of_the_cluster_is_refused_before_it_listens() {
    let sandbox = Sandbox::new();
    let authority = Authority::new(&sandbox, "ours");
    authority.issue(&sandbox, "one", &["localhost"], key(), false);
    authority.issue(&sandbox, "two", &["localhost"], key(), false);
    sandbox.write("text.pem", "no PEM");
    let serve = |keys: &str, check: bool| {
        let config = format!(
            "data_dir: data\nlistener: {{port: 0}}\ncluster:\n  standby_remotes: [{{name: s, remote_url_template: \
             \"https://localhost:1/{{database}}\"}}]\n  remotesapi: {{address: 127.0.0.1, port: 0, {keys}}}\n"
        );
        sandbox.write("config.yaml", &config);
        let serve = ["serve", "--config", "config.yaml", "--check"];
        sandbox.run(&serve[..if check { 4 } else { 3 }])
    };
    for (keys, what) in [
        ("tls_cert: one.pem", "expected tls_key too"),
        ("tls_cert: absent.pem, tls_key: one.key", "absent.pem: No such file"),
        ("tls_cert: one.pem, tls_key: two.key", "two.key: this key is not that"),
        ("tls_ca: text.pem", "text.pem: there is no certificate in it"),
    ] {
        let refused = serve(keys, true).fails(2);
        assert!(refused.contains(what), "{keys}: {refused}");
    }
    let refused = serve("node_key: text.pem", false).fails(2);
    assert!(refused.contains("text.pem: this is no key of a node"), "{refused}");
}
