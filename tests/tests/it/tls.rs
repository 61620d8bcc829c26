//! A listener by TLS, and its clients: what they show each other, and what each says when that is not what it should be.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use pleach_tests::{Run, Sandbox, Server, eventually, finish};
use rcgen::{KeyPair, RsaKeySize};

use crate::authority::{Authority, key};

/// Starts a server that shows `NAME.pem`, with `more` keys under `listener`.
fn serve(sandbox: &Sandbox, name: &str, more: &str) -> Server {
    let config = format!(
        "data_dir: data-{name}\nlistener: {{port: 0, tls_cert: {name}.pem, tls_key: {name}.key{more}}}\n"
    );
    sandbox.write(&format!("{name}.yaml"), &config);
    sandbox.serve(&["--config", &format!("{name}.yaml")])
}

fn port(server: &Server) -> String {
    server.url().rsplit(':').next().unwrap().to_owned()
}

fn url(server: &Server) -> String {
    format!("https://localhost:{}", port(server))
}

/// Runs a command on the server's database `shop`.
fn run(sandbox: &Sandbox, server: &Server, args: &[&str]) -> Run {
    sandbox.run(&[&["--server", &url(server), "--database", "shop"], args].concat())
}

fn run_with(mut command: Command, variables: &[(&str, &str)]) -> Run {
    finish(command.envs(variables.iter().copied()).output().unwrap())
}

const CA: [&str; 2] = ["--tls-ca", "ours-ca.pem"];

#[test]
fn e2_everything_goes_over_tls_with_each_kind_of_certificate() {
    let sandbox = Sandbox::new();
    let authority = Authority::new(&sandbox, "ours");
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048);
    for (name, key) in [
        ("rsa", rsa),
        ("ecdsa", KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)),
        ("ed25519", KeyPair::generate_for(&rcgen::PKCS_ED25519)),
    ] {
        authority.issue(&sandbox, name, &["localhost"], key.unwrap(), false);
        let server = serve(&sandbox, name, "");
        let on_server = |args: &[&str]| run(&sandbox, &server, &[args, &CA].concat()).ok();
        on_server(&["database", "create", "shop"]);
        on_server(&["put", "t", "k", "v"]);
        on_server(&["commit", "-m", "one"]);
        // By a flag, by the environment, and by the file of hosts.
        let (shop, copy) = (format!("{}/shop", url(&server)), format!("copy-{name}"));
        sandbox.run(&[&["clone", &shop, &copy], &CA[..]].concat()).ok();
        let entry =
            format!("credentials: [{{host: 'localhost:{}', tls_ca: ../../ours-ca.pem}}]", port(&server));
        sandbox.write("config/pleach/credentials.yaml", &entry);
        assert_eq!(run(&sandbox, &server, &["get", "t", "k"]).ok(), "v\n");
        for args in [&["put", "t", "k", "w"][..], &["commit", "-m", "two"], &["push"]] {
            sandbox.run(&[&["-C", &copy], args].concat()).ok();
        }
        std::fs::remove_file(sandbox.path("config/pleach/credentials.yaml")).unwrap();
        assert_eq!(on_server(&["get", "t", "k"]), "w\n");
        on_server(&["put", "t", "k", "x"]);
        on_server(&["commit", "-m", "three"]);
        let pull = sandbox.command(&["-C", &copy, "pull"]);
        run_with(pull, &[("PLEACH_TLS_CA", sandbox.path("ours-ca.pem").to_str().unwrap())]).ok();
        assert_eq!(sandbox.run(&["-C", &copy, "get", "t", "k"]).ok(), "x\n");
        // Those that the system trusts.
        let fetch = sandbox.command(&["-C", &copy, "fetch"]);
        run_with(fetch, &[("SSL_CERT_FILE", sandbox.path("ours-ca.pem").to_str().unwrap())]).ok();
        sandbox.run(&["-C", &copy, "fetch"]).fails(4);
    }
}

#[test]
fn e2_a_replica_follows_a_server_by_tls() {
    let sandbox = Sandbox::new();
    Authority::new(&sandbox, "ours").issue(&sandbox, "server", &["localhost"], key(), false);
    let server = serve(&sandbox, "server", "");
    let on_server = |args: &[&str]| run(&sandbox, &server, &[args, &CA].concat()).ok();
    on_server(&["database", "create", "shop"]);
    on_server(&["put", "t", "k", "v"]);
    on_server(&["commit", "-m", "one"]);
    let entry = format!("credentials: [{{host: 'localhost:{}', tls_ca: ../../ours-ca.pem}}]", port(&server));
    sandbox.write("config/pleach/credentials.yaml", &entry);
    sandbox.run(&["clone", &format!("{}/shop", url(&server)), "replica/shop"]).ok();
    sandbox.write(
        "replica.yaml",
        "data_dir: replica\nlistener: {port: 0}\nreplication: {read_replica_remote: origin, replicate_heads: main}\n",
    );
    let replica = sandbox.serve(&["--config", "replica.yaml"]);
    on_server(&["put", "t", "k", "w"]);
    on_server(&["commit", "-m", "two"]);
    let read = || sandbox.run(&replica.args("shop", &["get", "t", "k", "--at", "main"])).ok();
    eventually("the replica has the commit", || (read() == "w\n").then_some(()));
}

#[test]
fn e3_a_server_that_is_not_who_it_should_be_is_not_talked_to() {
    let sandbox = Sandbox::new();
    let authority = Authority::new(&sandbox, "ours");
    Authority::new(&sandbox, "other");
    authority.issue(&sandbox, "good", &["localhost"], key(), false);
    authority.issue(&sandbox, "old", &["localhost"], key(), true);
    authority.issue(&sandbox, "elsewhere", &["db.example.org"], key(), false);
    sandbox.run(&["init", "local"]).ok();
    let other = ["--tls-ca", "other-ca.pem"];
    for (name, flags, what, hint) in [
        ("good", &other[..], "no authority that is trusted here", "--tls-ca"),
        ("good", &[], "no authority that is trusted here", "tls_ca in credentials.yaml"),
        ("old", &CA, "expired", "renew it there"),
        ("elsewhere", &CA, "is for db.example.org, not for localhost", "use a name"),
    ] {
        let server = serve(&sandbox, name, "");
        let variables = [("SSL_CERT_FILE", sandbox.path("other-ca.pem"))];
        for args in [
            vec!["--server", &url(&server), "database", "list"],
            vec!["clone", &format!("{}/shop", url(&server)), "copy"],
        ] {
            let mut command = sandbox.command(&[&args, flags].concat());
            let refused = finish(command.envs(variables.clone()).output().unwrap()).fails(4);
            assert!(refused.contains(what) && refused.contains(hint), "{name}: {refused}");
            assert!(!sandbox.path("copy").exists());
        }
    }
}

#[test]
fn e3_who_speaks_tls_to_who_does_not_is_told_so_and_the_other_way_round() {
    let sandbox = Sandbox::new();
    Authority::new(&sandbox, "ours").issue(&sandbox, "good", &["localhost"], key(), false);
    let secure = serve(&sandbox, "good", "");
    let plain = sandbox.serve(&["--data-dir", "plain", "--listen", "127.0.0.1:0"]);
    let run = |args: &[&str]| sandbox.run(&[args, &CA].concat()).fails(4);
    for (scheme, server, what) in [
        ("http", &secure, "the server speaks TLS\nhint: write https://"),
        ("https", &plain, "the server does not speak TLS\nhint: write http://"),
    ] {
        let url = format!("{scheme}://localhost:{}", port(server));
        let refused = run(&["--server", &url, "--database", "shop", "get", "t", "k"]);
        assert!(refused.contains(what), "{refused}");
        let refused = run(&["clone", &format!("{url}/shop"), "copy"]);
        assert!(refused.contains(what), "{refused}");
    }
}

#[test]
fn e4_who_shows_no_certificate_of_an_authority_that_the_server_trusts_stays_out() {
    let sandbox = Sandbox::new();
    let (ours, clients) = (Authority::new(&sandbox, "ours"), Authority::new(&sandbox, "clients"));
    ours.issue(&sandbox, "server", &["localhost"], key(), false);
    clients.issue(&sandbox, "ada", &["localhost"], key(), false);
    Authority::new(&sandbox, "foreign").issue(&sandbox, "eve", &["localhost"], key(), false);
    let server = serve(&sandbox, "server", ", tls_client_ca: clients-ca.pem");
    let flags = |name: &str| {
        ["--tls-cert", &format!("{name}.pem"), "--tls-key", &format!("{name}.key")].map(str::to_owned)
    };
    let on_server = |args: &[&str], flags: &[String]| {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        run(&sandbox, &server, &[args, &CA, &flags].concat())
    };
    on_server(&["database", "create", "shop"], &flags("ada")).ok();
    on_server(&["put", "t", "k", "v"], &flags("ada")).ok();
    on_server(&["commit", "-m", "one"], &flags("ada")).ok();
    let refused = on_server(&["get", "t", "k"], &[]).fails(4);
    assert!(refused.contains("asks for a certificate") && refused.contains("--tls-cert"), "{refused}");
    let refused = on_server(&["get", "t", "k"], &flags("eve")).fails(4);
    assert!(refused.contains("does not accept our certificate"), "{refused}");

    let host = format!("localhost:{}", port(&server));
    let clone = |directory: &str| sandbox.run(&["clone", &format!("https://{host}/shop"), directory]);
    let entry = |rest: &str| {
        let entry = format!("credentials: [{{host: '{host}', tls_ca: ../../ours-ca.pem{rest}}}]");
        sandbox.write("config/pleach/credentials.yaml", &entry);
    };
    entry("");
    assert!(clone("copy").fails(4).contains("asks for a certificate"));
    entry(", tls_cert: ../../ada.pem, tls_key: ../../ada.key");
    clone("copy").ok();
    entry(", tls_cert: ../../ada.pem");
    assert!(clone("other").fails(2).contains("expected tls_key too"));
}

#[test]
fn certificates_are_read_again_at_a_hangup() {
    let sandbox = Sandbox::new();
    let (old, new) = (Authority::new(&sandbox, "ours"), Authority::new(&sandbox, "new"));
    old.issue(&sandbox, "server", &["localhost"], key(), false);
    let server = serve(&sandbox, "server", "");
    let list = |ca: &str| sandbox.run(&["--server", &url(&server), "--tls-ca", ca, "database", "list"]);
    run(&sandbox, &server, &[&["database", "create", "shop"], &CA[..]].concat()).ok();

    // More than a pipe holds is taken, so that the client is connected.
    let url = url(&server);
    let import = ["--server", &url, "--database", "shop", "import", "t", "-", "--key", "k"];
    let mut import = sandbox.command(&[&import, &CA[..]].concat());
    let mut import =
        import.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let rows: String = (0..20_000).map(|row| format!("{row}\n")).collect();
    let mut input = import.stdin.take().unwrap();
    input.write_all(format!("k\n{rows}").as_bytes()).unwrap();

    let good = std::fs::read(sandbox.path("server.pem")).unwrap();
    std::fs::write(sandbox.path("server.pem"), &good[..good.len() / 2]).unwrap();
    server.signal("HUP");
    eventually("the wrong file was refused", || {
        server.log().contains("certificates stay as they were").then_some(())
    });
    list("ours-ca.pem").ok();

    new.issue(&sandbox, "server", &["localhost"], key(), false);
    server.signal("HUP");
    eventually("the new certificate is shown", || (list("new-ca.pem").status == 0).then_some(()));
    list("ours-ca.pem").fails(4);

    input.write_all(b"last\n").unwrap();
    drop(input);
    finish(import.wait_with_output().unwrap()).ok();
    let get = ["--tls-ca", "new-ca.pem", "get", "t", "last"];
    run(&sandbox, &server, &get).ok();
}

#[test]
fn who_connects_and_says_nothing_keeps_nobody_out() {
    let sandbox = Sandbox::new();
    Authority::new(&sandbox, "ours").issue(&sandbox, "server", &["localhost"], key(), false);
    let server = serve(&sandbox, "server", "");
    let address = server.url().replace("http://", "");
    let silent: Vec<_> = (0..100).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let started = std::time::Instant::now();
    run(&sandbox, &server, &[&["database", "create", "shop"], &CA[..]].concat()).ok();
    // Less than the time of one handshake.
    assert!(started.elapsed().as_secs() < 8, "{:?}", started.elapsed());
    drop(silent);
}

#[test]
fn a_listener_with_wrong_certificates_is_refused_before_it_listens() {
    let sandbox = Sandbox::new();
    let authority = Authority::new(&sandbox, "ours");
    authority.issue(&sandbox, "server", &["localhost"], key(), false);
    authority.issue(&sandbox, "other", &["localhost"], key(), false);
    sandbox.write("text.pem", "no PEM");
    let check = |keys: &str| {
        sandbox.write("config.yaml", &format!("listener: {{port: 0, {keys}}}\n"));
        sandbox.run(&["serve", "--config", "config.yaml", "--check"])
    };
    for (keys, what) in [
        ("tls_cert: server.pem", "expected tls_key too"),
        ("tls_key: server.key", "expected tls_cert too"),
        ("tls_client_ca: ours-ca.pem", "expected tls_cert and tls_key"),
        ("tls_cert: absent.pem, tls_key: server.key", "absent.pem: No such file"),
        ("tls_cert: text.pem, tls_key: server.key", "text.pem: there is no certificate in it"),
        ("tls_cert: server.pem, tls_key: server.pem", "server.pem: there is no key in it"),
        (
            "tls_cert: server.pem, tls_key: other.key",
            "other.key: this key is not that of the first certificate",
        ),
        ("tls_cert: server.pem, tls_key: server.key, tls_client_ca: text.pem", "text.pem: there is no"),
    ] {
        let refused = check(keys).fails(2);
        assert!(refused.contains(what) && refused.contains("hint: "), "{keys}: {refused}");
    }
    let keys = "tls_cert: server.pem, tls_key: server.key, tls_client_ca: ours-ca.pem";
    let good = check(keys);
    assert!(!good.stderr.contains("others may read"), "{}", good.stderr);
    good.ok();
    let everybody = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(sandbox.path("server.key"), everybody).unwrap();
    let warned = check(keys);
    assert!(warned.stderr.contains("others may read the key in") && warned.status == 0, "{}", warned.stderr);
}

#[test]
fn files_that_are_wrong_on_the_side_of_a_client_are_named_with_status_2() {
    let sandbox = Sandbox::new();
    Authority::new(&sandbox, "ours").issue(&sandbox, "server", &["localhost"], key(), false);
    let server = serve(&sandbox, "server", "");
    for (flags, what) in [
        (&["--tls-ca", "absent.pem"][..], "absent.pem: No such file"),
        (&["--tls-ca", "server.key"], "server.key: there is no certificate in it"),
        (&["--tls-ca", "ours-ca.pem", "--tls-cert", "server.pem"], "expected --tls-key or PLEACH_TLS_KEY"),
        (
            &["--tls-ca", "ours-ca.pem", "--tls-cert", "server.pem", "--tls-key", "ours-ca.pem"],
            "no key in it",
        ),
    ] {
        let refused = run(&sandbox, &server, &[&["database", "list"], flags].concat()).fails(2);
        assert!(refused.contains(what), "{flags:?}: {refused}");
    }
    let refused = sandbox.run(&["serve", "--tls-ca", "ours-ca.pem"]).fails(2);
    assert!(refused.contains("config.yaml"), "{refused}");
}

#[test]
fn a_token_that_leaves_this_machine_in_the_clear_is_warned_of() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve(&["--data-dir", "data", "--listen", "127.0.0.1:0"]);
    assert!(!server.log().contains("in the clear"));
    let list = |host: &str, token: &str| {
        let list =
            sandbox.command(&["--server", &format!("http://{host}:{}", port(&server)), "database", "list"]);
        let run = run_with(list, &[("PLEACH_TOKEN", token)]);
        assert_eq!(run.status, 0, "{}", run.stderr);
        run.stderr.matches("in the clear").count()
    };
    // This machine, but by no address of its loopback.
    assert_eq!(list("0.0.0.0", "secret"), 1);
    assert_eq!(list("0.0.0.0", ""), 0);
    assert_eq!(list("127.0.0.1", "secret"), 0);
    let open = sandbox.serve(&["--data-dir", "open", "--listen", "0.0.0.0:0", "--insecure"]);
    assert!(open.log().contains("in the clear"), "{}", open.log());
}
