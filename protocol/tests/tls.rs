//! TLS between a client and a server, over real sockets: who is let in, by what, and what is said to who is not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pleach_engine::Options;
use pleach_protocol::limits::{HANDSHAKE_TIMEOUT, HANDSHAKES_MAX};
use pleach_protocol::{
    ClientTls, Credential, Databases, Error, ErrorKind, Identity, Incoming, PeerNames, RefPatterns, Remote,
    RemoteUrl, ServerTls, SyncService, TlsError, endpoint, fetch, transport,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, RsaKeySize, SanType,
    SignatureAlgorithm, date_time_ymd,
};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tonic::transport::server::Connected;

/// A directory with an authority, whose certificate is the file `ca.pem`, and what it issues.
struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let dir = TempDir::new().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        std::fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Authority { dir, issuer: Issuer::new(params, key) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Issues a certificate for `host`, into files of this name.
    fn issue(&self, name: &str, host: &str) -> Identity {
        self.issue_as(name, host, KeyPair::generate().unwrap(), |_| {})
    }

    fn issue_as(
        &self,
        name: &str,
        host: &str,
        key: KeyPair,
        change: impl Fn(&mut CertificateParams),
    ) -> Identity {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let identity =
            Identity { cert: self.file(&format!("{name}.pem")), key: self.file(&format!("{name}.key")) };
        std::fs::write(&identity.cert, certificate.pem()).unwrap();
        std::fs::write(&identity.key, key.serialize_pem()).unwrap();
        identity
    }

    /// Trusts this authority alone.
    fn trusted(&self) -> ClientTls {
        ClientTls { ca: Some(self.file("ca.pem")), ..ClientTls::default() }
    }
}

/// Serves on a free port.
async fn serve(tls: Option<ServerTls>) -> SocketAddr {
    let dir = TempDir::new().unwrap();
    let databases = Databases::new(dir.path(), Options::default()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = SyncService::new(databases).into_server();
    tokio::spawn(transport().add_service(service).serve_with_incoming(Incoming::new(listener, tls)));
    address
}

async fn connect(scheme: &str, address: SocketAddr, tls: &ClientTls) -> Result<Remote, Error> {
    let url = RemoteUrl::parse(&format!("{scheme}://localhost:{}/shop", address.port())).unwrap();
    Remote::connect(&url.with_credential(Credential { token: None, tls: tls.clone() })).await
}

/// Connects and makes a call, which the server answers: it has no such database.
async fn call(scheme: &str, address: SocketAddr, tls: &ClientTls) -> Result<(), Error> {
    answers(&connect(scheme, address, tls).await?).await
}

async fn answers(remote: &Remote) -> Result<(), Error> {
    let dir = TempDir::new().unwrap();
    let database = pleach_engine::Database::init(dir.path(), Options::default()).unwrap();
    match fetch(&database, remote, "origin", &RefPatterns::all()).await {
        Err(Error::UnknownDatabase { .. }) => Ok(()),
        Err(error) => Err(error),
        Ok(transfer) => panic!("{transfer:?}"),
    }
}

#[track_caller]
fn tls_error(result: Result<(), Error>) -> TlsError {
    match result {
        Err(Error::Tls { error, url }) => {
            assert!(url.contains("localhost"), "{url}");
            error
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn certificates_of_each_kind_of_key_are_shown_and_accepted() {
    let authority = Authority::new("ours");
    let new = |algorithm: &'static SignatureAlgorithm| KeyPair::generate_for(algorithm).unwrap();
    for (name, key) in [
        ("rsa", KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap()),
        ("p256", new(&rcgen::PKCS_ECDSA_P256_SHA256)),
        ("p384", new(&rcgen::PKCS_ECDSA_P384_SHA384)),
        ("ed25519", new(&rcgen::PKCS_ED25519)),
    ] {
        let identity = authority.issue_as(name, "localhost", key, |_| {});
        let address = serve(Some(ServerTls::read(identity.clone(), None).unwrap())).await;
        call("https", address, &authority.trusted()).await.unwrap();
        let mutual = ServerTls::read(identity.clone(), Some(authority.file("ca.pem"))).unwrap();
        let address = serve(Some(mutual)).await;
        let shown = ClientTls { identity: Some(identity), ..authority.trusted() };
        call("https", address, &shown).await.unwrap();
    }
}

#[tokio::test]
async fn where_names_are_listed_any_name_of_the_certificate_may_be_one_of_them() {
    let authority = Authority::new("ours");
    let identity = authority.issue_as("server", "first.example", KeyPair::generate().unwrap(), |params| {
        let uri = |uri: &str| SanType::URI(uri.try_into().unwrap());
        let more = [uri("https://first.example"), uri("spiffe://ours/node")];
        params.subject_alt_names.extend(more);
        params.subject_alt_names.push(SanType::DnsName("*.second.example".try_into().unwrap()));
    });
    let address = serve(Some(ServerTls::read(identity, None).unwrap())).await;
    let listing = |dns: &[&str], uris: &[&str]| {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        ClientTls { names: PeerNames { dns: list(dns), uris: list(uris) }, ..authority.trusted() }
    };
    for (dns, uris) in [
        (&["first.example"][..], &[][..]),
        (&["absent.example", "a.second.example"], &[]),
        (&[], &["spiffe://absent/node", "spiffe://ours/node"]),
        (&["absent.example"], &["https://first.example"]),
    ] {
        call("https", address, &listing(dns, uris)).await.unwrap();
    }
    for (dns, uris) in [
        (&["localhost"][..], &[][..]),
        (&["second.example"], &[]),
        (&["spiffe://ours/node"], &["first.example"]),
        (&[], &["spiffe://ours/nod", "spiffe://ours"]),
    ] {
        let error = tls_error(call("https", address, &listing(dns, uris)).await);
        assert!(matches!(&error, TlsError::OtherName { names, .. } if names.len() == 4), "{error}");
    }
    // A name does not stand for an authority.
    let other = Authority::new("other");
    let foreign = ClientTls {
        names: PeerNames { dns: vec!["first.example".into()], uris: Vec::new() },
        ..other.trusted()
    };
    assert_eq!(tls_error(call("https", address, &foreign).await), TlsError::UnknownAuthority);
}

#[tokio::test]
async fn both_sides_of_a_connection_have_one_binding_and_no_other_connection_has_it() {
    let authority = Authority::new("ours");
    let tls = ServerTls::read(authority.issue("server", "localhost"), None).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = endpoint(&format!("https://localhost:{}", listener.local_addr().unwrap().port())).unwrap();
    let mut incoming = Incoming::new(listener, Some(tls));
    let mut seen = Vec::new();
    for _ in 0..2 {
        let client = authority.trusted();
        let connect = async { client.connect_bound(&endpoint).await.unwrap().1.binding().unwrap() };
        let accept = async { incoming.next().await.unwrap().unwrap().connect_info().binding.unwrap() };
        let (here, there) = tokio::join!(connect, accept);
        assert_eq!(here, there);
        seen.push(here);
    }
    assert_ne!(seen[0], seen[1]);
    // In the clear there is none.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = format!("http://localhost:{}", listener.local_addr().unwrap().port());
    let endpoint = pleach_protocol::endpoint(&plain).unwrap();
    let mut incoming = Incoming::new(listener, None);
    let client = ClientTls::default();
    let connect = async { client.connect_bound(&endpoint).await.unwrap().1.binding() };
    let accept = async { incoming.next().await.unwrap().unwrap().connect_info().binding };
    assert_eq!(tokio::join!(connect, accept), (None, None));
}

#[tokio::test]
async fn a_certificate_can_be_for_an_address() {
    let authority = Authority::new("ours");
    for address in ["127.0.0.1", "::1"] {
        let Ok(listener) = TcpListener::bind((address, 0)).await else { continue };
        let at = listener.local_addr().unwrap();
        let tls = ServerTls::read(authority.issue("server", address), None).unwrap();
        let _incoming = Incoming::new(listener, Some(tls));
        let url = RemoteUrl::parse(&format!("https://{at}/shop")).unwrap();
        let credential = Credential { token: None, tls: authority.trusted() };
        Remote::connect(&url.with_credential(credential)).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_is_not_who_it_should_be_is_named_so() {
    let (authority, stranger) = (Authority::new("ours"), Authority::new("a stranger"));
    let at = |identity| async move { serve(Some(ServerTls::read(identity, None).unwrap())).await };
    let key = || KeyPair::generate().unwrap();

    let address = at(authority.issue("good", "localhost")).await;
    let error = tls_error(call("https", address, &stranger.trusted()).await);
    assert_eq!(error, TlsError::UnknownAuthority);

    let expired = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
    let address = at(authority.issue_as("expired", "localhost", key(), expired)).await;
    let error = tls_error(call("https", address, &authority.trusted()).await);
    assert!(matches!(error, TlsError::Expired { ago } if ago > Duration::from_secs(86_400 * 365)));
    assert!(error.to_string().contains(" days ago; renew it there"), "{error}");

    let future = |params: &mut CertificateParams| params.not_before = date_time_ymd(4000, 1, 1);
    let address = at(authority.issue_as("future", "localhost", key(), future)).await;
    let error = tls_error(call("https", address, &authority.trusted()).await);
    assert!(matches!(error, TlsError::NotYetValid { .. }), "{error}");

    let address = at(authority.issue("other", "db.example.org")).await;
    let error = tls_error(call("https", address, &authority.trusted()).await);
    let names = vec!["db.example.org".to_owned()];
    assert_eq!(error, TlsError::OtherName { expected: "localhost".into(), names });

    let is_ca = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let address = at(authority.issue_as("authority", "localhost", key(), is_ca)).await;
    let error = tls_error(call("https", address, &authority.trusted()).await);
    assert!(error.to_string().contains("that of an authority (CA:TRUE)"), "{error}");
}

#[tokio::test]
async fn who_speaks_tls_to_who_does_not_is_told_so_and_the_other_way_round() {
    let authority = Authority::new("ours");
    let identity = authority.issue("good", "localhost");
    let secure = serve(Some(ServerTls::read(identity, None).unwrap())).await;
    let plain = serve(None).await;
    call("http", plain, &authority.trusted()).await.unwrap();
    assert_eq!(tls_error(call("https", plain, &authority.trusted()).await), TlsError::NotTls);
    assert_eq!(tls_error(call("http", secure, &authority.trusted()).await), TlsError::NotPlain);

    // Somebody who closes, whatever was said.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = listener.local_addr().unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let error = tls_error(call("https", closed, &authority.trusted()).await);
    assert!(matches!(error, TlsError::Handshake { .. }), "{error}");
    assert!(matches!(call("http", closed, &authority.trusted()).await, Err(Error::Unreachable { .. })));
}

#[tokio::test]
async fn a_server_that_asks_for_certificates_lets_in_who_shows_one_of_its_authority() {
    let (authority, clients, stranger) =
        (Authority::new("ours"), Authority::new("of clients"), Authority::new("a stranger"));
    let server = ServerTls::read(authority.issue("good", "localhost"), Some(clients.file("ca.pem"))).unwrap();
    let address = serve(Some(server)).await;
    let showing = |identity| ClientTls { identity: Some(identity), ..authority.trusted() };
    call("https", address, &showing(clients.issue("ada", "ada"))).await.unwrap();
    // It is told when it connects, before the first call.
    let error = connect("https", address, &authority.trusted()).await.map(|_| ());
    assert_eq!(tls_error(error), TlsError::CertificateWanted);
    let error = connect("https", address, &showing(stranger.issue("eve", "eve"))).await.map(|_| ());
    let error = tls_error(error);
    assert!(matches!(error, TlsError::CertificateRefused { .. }), "{error}");
    assert!(error.to_string().contains("no authority that the server trusts"), "{error}");
    let expired = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
    let old = clients.issue_as("old", "ada", KeyPair::generate().unwrap(), expired);
    let error = tls_error(connect("https", address, &showing(old)).await.map(|_| ()));
    assert!(error.to_string().contains("does not hold at this time"), "{error}");
}

#[tokio::test]
async fn what_is_read_again_holds_for_the_next_connection_and_ends_none() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let identity = old.issue("server", "localhost");
    let server = ServerTls::read(identity.clone(), None).unwrap();
    let address = serve(Some(server.clone())).await;
    let before = connect("https", address, &old.trusted()).await.unwrap();

    let replacement = new.issue("server", "localhost");
    std::fs::copy(&replacement.cert, &identity.cert).unwrap();
    // The key is the old one still: nothing changes.
    let error = server.reread().unwrap_err();
    assert!(error.to_string().contains("is not that of the first certificate"), "{error}");
    call("https", address, &old.trusted()).await.unwrap();

    std::fs::copy(&replacement.key, &identity.key).unwrap();
    server.reread().unwrap();
    assert_eq!(tls_error(call("https", address, &old.trusted()).await), TlsError::UnknownAuthority);
    call("https", address, &new.trusted()).await.unwrap();
    answers(&before).await.unwrap();
}

#[tokio::test]
async fn who_connects_and_says_nothing_makes_room_for_who_speaks() {
    let authority = Authority::new("ours");
    let server = ServerTls::read(authority.issue("good", "localhost"), None).unwrap();
    let address = serve(Some(server)).await;
    let mut silent = Vec::new();
    for _ in 0..HANDSHAKES_MAX + 10 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let started = Instant::now();
    call("https", address, &authority.trusted()).await.unwrap();
    assert!(started.elapsed() < HANDSHAKE_TIMEOUT, "it waited for the handshakes of others to time out");
    // There is a bound: the first had to go. The last is still waited for.
    let mut byte = [0];
    let ended = tokio::time::timeout(Duration::from_secs(8), silent[0].read(&mut byte)).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
    assert!(silent.last().unwrap().try_read(&mut byte).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_speaks_gets_in() {
    let authority = Authority::new("ours");
    let server = ServerTls::read(authority.issue("good", "localhost"), None).unwrap();
    let address = serve(Some(server)).await;
    let mut crowd = JoinSet::new();
    for _ in 0..HANDSHAKES_MAX + 50 {
        let tls = authority.trusted();
        crowd.spawn(async move { connect("https", address, &tls).await.map(|_| ()) });
    }
    while let Some(connected) = crowd.join_next().await {
        connected.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_listener_is_let_go_with_its_connections() {
    let authority = Authority::new("ours");
    let tls = ServerTls::read(authority.issue("good", "localhost"), None).unwrap();
    for tls in [Some(tls), None] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(Incoming::new(listener, tls));
        tokio::time::timeout(Duration::from_secs(8), async {
            while TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn a_peer_that_speaks_tls_for_something_else_is_no_server() {
    use tokio_rustls::rustls::{ServerConfig, pki_types::pem::PemObject as _};
    let authority = Authority::new("ours");
    let Identity { cert, key } = authority.issue("good", "localhost");
    let chain = vec![tokio_rustls::rustls::pki_types::CertificateDer::from_pem_file(cert).unwrap()];
    let key = tokio_rustls::rustls::pki_types::PrivateKeyDer::from_pem_file(key).unwrap();
    let config = ServerConfig::builder_with_provider(
        tokio_rustls::rustls::crypto::aws_lc_rs::default_provider().into(),
    )
    .with_protocol_versions(&[&tokio_rustls::rustls::version::TLS12])
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(chain, key)
    .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let stream = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config)).accept(tcp).await;
        let _ = stream.unwrap().read(&mut [0]).await;
    });
    assert_eq!(tls_error(call("https", address, &authority.trusted()).await), TlsError::NoHttp2);
}

#[tokio::test]
async fn each_wrong_file_is_named_with_what_is_wrong() {
    let authority = Authority::new("ours");
    let good = authority.issue("good", "localhost");
    let other = authority.issue("other", "localhost");
    let text = authority.file("text.pem");
    std::fs::write(&text, "no PEM").unwrap();
    let cut = authority.file("cut.pem");
    let whole = std::fs::read_to_string(&good.cert).unwrap();
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let encrypted = authority.file("encrypted.key");
    std::fs::write(
        &encrypted,
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    )
    .unwrap();
    let absent = authority.file("absent.pem");
    let with = |cert: &PathBuf, key: &PathBuf, ca: Option<&PathBuf>| {
        let identity = Identity { cert: cert.clone(), key: key.clone() };
        ServerTls::read(identity, ca.cloned()).map(|_| ()).unwrap_err()
    };
    for (error, file, what) in [
        (with(&absent, &good.key, None), &absent, "No such file"),
        (with(&text, &good.key, None), &text, "there is no certificate in it"),
        (with(&cut, &good.key, None), &cut, "no PEM"),
        (with(&good.key, &good.key, None), &good.key, "there is no certificate in it"),
        (with(&good.cert, &good.cert, None), &good.cert, "there is no key in it"),
        (with(&good.cert, &encrypted, None), &encrypted, "the key is encrypted; store it without"),
        (with(&good.cert, &other.key, None), &other.key, "is not that of the first certificate in"),
        (with(&good.cert, &good.key, Some(&text)), &text, "there is no certificate in it"),
    ] {
        assert!(matches!(&error, TlsError::BadFile { path, .. } if path == file), "{error:?}");
        assert!(error.to_string().contains(what), "{error}");
    }
    // A client's are read when it connects.
    let address = serve(None).await;
    let tls = ClientTls { ca: Some(absent), ..ClientTls::default() };
    call("http", address, &tls).await.unwrap();
    let error = call("https", address, &tls).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(matches!(tls_error(Err(error)), TlsError::BadFile { .. }));
}
