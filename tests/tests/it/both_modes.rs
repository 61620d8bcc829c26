//! A cluster whose primary of the moment pushes to a remote.

use pleach_tests::{Sandbox, Server, eventually, free_port};

struct Pair {
    sandbox: Sandbox,
    one: Server,
    two: Server,
}

impl Pair {
    fn new() -> Pair {
        let sandbox = Sandbox::new();
        let ports = [free_port(), free_port()];
        let hub = sandbox.path("hub");
        for (name, other, role, own, peer) in
            [("one", "two", "primary", ports[0], ports[1]), ("two", "one", "standby", ports[1], ports[0])]
        {
            let text = format!(
                "data_dir: {name}\nlistener: {{host: 127.0.0.1, port: 0}}\n\
                 replication: {{replicate_to_remote: origin, remote_url_template: 'file://{}/{{database}}'}}\n\
                 cluster:\n  standby_remotes:\n  - {{name: {other}, remote_url_template: 'http://127.0.0.1:{peer}/{{database}}'}}\n  \
                 bootstrap_role: {role}\n  bootstrap_epoch: 1\n  ack: {{count: 1, timeout: 5s, on_timeout: error}}\n  \
                 remotesapi: {{address: 127.0.0.1, port: {own}}}\n",
                hub.display()
            );
            sandbox.write(&format!("{name}.yaml"), &text);
        }
        let two = sandbox.serve(&["--config", "two.yaml"]);
        let one = sandbox.serve(&["--config", "one.yaml"]);
        sandbox.run(&["--server", &one.url(), "database", "create", "db"]).ok();
        Pair { sandbox, one, two }
    }

    fn commit(&self, server: &Server, row: &str) -> String {
        self.sandbox.run(&server.args("db", &["put", "t", row, "value"])).ok();
        let committed = self.sandbox.run(&server.args("db", &["commit", "-m", row, "--json"]));
        assert!(!committed.stderr.contains("warning"), "{}", committed.stderr);
        committed.json()["hash"].as_str().unwrap().to_owned()
    }

    /// The head of what is at the remote.
    fn pushed(&self) -> String {
        let _ = std::fs::remove_dir_all(self.sandbox.path("copy"));
        let hub = format!("file://{}/db", self.sandbox.path("hub").display());
        self.sandbox.run(&["clone", &hub, "copy"]).ok();
        let log = self.sandbox.run(&["-C", "copy", "log", "-n", "1", "--json"]).json_lines();
        log.first().map(|commit| commit["hash"].as_str().unwrap().to_owned()).unwrap_or_default()
    }

    /// Pushes of a server that got through, and those that did not.
    fn pushes(&self, server: &Server) -> (u64, u64) {
        let stats = self.sandbox.run(&["--server", &server.url(), "stats", "--json"]).json();
        let all = stats["replication"].as_array().unwrap();
        let pushes = all.iter().filter(|one| one["direction"] == "push" && one["database"] == "db");
        pushes.fold((0, 0), |(done, failed), one| {
            (done + one["done"].as_u64().unwrap(), failed + one["failures"].as_u64().unwrap())
        })
    }

    fn assume(&self, server: &Server, role: &str, epoch: &str) {
        self.sandbox.run(&["--server", &server.url(), "cluster", "assume-role", role, epoch]).ok();
    }
}

#[test]
fn c33_only_the_primary_of_the_moment_pushes_and_the_next_one_takes_over() {
    let mut pair = Pair::new();
    let first = pair.commit(&pair.one, "first");
    assert_eq!(pair.pushed(), first, "when the commit is answered it is at the remote");
    let second = pair.commit(&pair.one, "second");
    // The standby has it, and pushes nothing.
    eventually("the standby has the commit", || {
        let log = pair.sandbox.run(&pair.two.args("db", &["log", "-n", "1", "--json"]));
        (log.status == 0 && log.stdout.contains(&second)).then_some(())
    });
    assert_eq!(pair.pushes(&pair.two), (0, 0));

    // A planned switch.
    pair.assume(&pair.one, "standby", "2");
    pair.assume(&pair.two, "primary", "2");
    let third = pair.commit(&pair.two, "third");
    assert_eq!(pair.pushed(), third);
    let by_one = pair.pushes(&pair.one);
    pair.sandbox.run(&pair.one.args("db", &["put", "t", "x", "value"])).fails(5);

    // A primary that dies: what it had acknowledged and not pushed, the next one pushes.
    let hub = pair.sandbox.path("hub/db");
    std::fs::rename(&hub, pair.sandbox.path("away")).unwrap();
    std::fs::write(&hub, "in the way").unwrap();
    pair.sandbox.run(&pair.two.args("db", &["put", "t", "fourth", "value"])).ok();
    let fourth = pair.sandbox.run(&pair.two.args("db", &["commit", "-m", "fourth", "--json"]));
    assert!(fourth.stderr.contains("warning"), "it is not pushed: {}", fourth.stderr);
    let fourth = fourth.json()["hash"].as_str().unwrap().to_owned();
    pair.two.kill();
    std::fs::remove_file(&hub).unwrap();
    std::fs::rename(pair.sandbox.path("away"), &hub).unwrap();
    assert_eq!(pair.pushes(&pair.one), by_one, "a standby pushed");
    pair.assume(&pair.one, "primary", "3");
    eventually("what was left is pushed without another write", || (pair.pushed() == fourth).then_some(()));

    // The old one comes back, and follows.
    pair.two = pair.sandbox.serve(&["--config", "two.yaml"]);
    let fifth = pair.commit(&pair.one, "fifth");
    assert_eq!(pair.pushed(), fifth);
    assert_eq!(pair.pushes(&pair.two), (0, 0));
}
