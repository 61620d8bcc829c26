//! The databases of a server: cloned there from a remote.

use pleach_tests::{Run, Sandbox, Server};

/// A server that may use what lies below `share`, where a database was pushed.
struct Shared {
    sandbox: Sandbox,
    server: Server,
}

impl Shared {
    fn new(more: &str) -> Shared {
        let sandbox = Sandbox::new();
        sandbox.run(&["init", "a"]).ok();
        sandbox.run(&["-C", "a", "put", "t", "a", "1"]).ok();
        sandbox.run(&["-C", "a", "commit", "-m", "one"]).ok();
        sandbox.run(&["-C", "a", "branch", "side"]).ok();
        sandbox.run(&["-C", "a", "tag", "v1"]).ok();
        let there = Shared::url(&sandbox, "share/a");
        sandbox.run(&["-C", "a", "remote", "add", "origin", &there]).ok();
        sandbox.run(&["-C", "a", "push", "--all", "--tags"]).ok();
        let allowed = Shared::url(&sandbox, "share/");
        sandbox.write(
            "s.yaml",
            &format!("data_dir: s\nlistener: {{port: 0}}\nremotes_allowed: ['{allowed}']\n{more}\n"),
        );
        let server = sandbox.serve(&["--config", "s.yaml"]);
        Shared { sandbox, server }
    }

    fn url(sandbox: &Sandbox, path: &str) -> String {
        format!("file://{}", sandbox.path(path).display())
    }

    fn clone(&self, path: &str, name: &str) -> Run {
        let (url, there) = (self.server.url(), Shared::url(&self.sandbox, path));
        self.sandbox.run(&["--server", &url, "database", "clone", &there, name, "--json"])
    }

    fn run(&self, database: &str, args: &[&str]) -> Run {
        self.sandbox.run(&self.server.args(database, args))
    }

    fn list(&self) -> String {
        self.sandbox.run(&["--server", &self.server.url(), "database", "list"]).ok()
    }
}

#[test]
fn a_database_is_cloned_on_the_server() {
    let shared = Shared::new("");
    let cloned = shared.clone("share/a", "b").json();
    assert_eq!(cloned["database"], "b");
    assert_eq!(cloned["refs"].as_array().unwrap().len(), 3, "{cloned}");
    assert!(cloned["bytes_received"].as_u64().unwrap() > 0);
    assert_eq!(shared.list(), "b\n");
    assert_eq!(shared.run("b", &["get", "t", "a"]).ok(), "1\n");
    assert_eq!(shared.run("b@side", &["get", "t", "a"]).ok(), "1\n");
    shared.run("b", &["put", "t", "b", "2"]).ok();
    assert!(shared.clone("share/a", "b").fails(1).contains("exists already"));
}

#[test]
fn what_cannot_be_cloned_leaves_no_database() {
    let shared = Shared::new("");
    assert!(shared.clone("elsewhere", "b").fails(5).contains("remotes_allowed"));
    assert!(shared.clone("share/../a", "b").fails(2).contains(".."));
    assert!(shared.clone("share/absent", "b").fails(1).contains("there is no remote"));
    shared.clone("share/a", "No Name").fails(2);
    assert_eq!(shared.list(), "");
    assert_eq!(shared.sandbox.path("s").read_dir().unwrap().count(), 0);
}

#[test]
fn a8_a_cloned_database_gets_the_remote_of_the_template_and_not_that_of_where_it_came_from() {
    let sandbox = Sandbox::new();
    let template = format!("file://{}/{{database}}", sandbox.path("places").display());
    let shared = Shared::new(&format!(
        "replication: {{replicate_to_remote: origin, remote_url_template: '{template}'}}"
    ));
    shared.clone("share/a", "b").ok();
    shared.run("b", &["put", "t", "b", "2"]).ok();
    let committed = shared.run("b", &["commit", "-m", "two"]);
    assert!(!committed.stderr.contains("warning"), "{}", committed.stderr);
    committed.ok();
    sandbox.run(&["clone", &template.replace("{database}", "b"), "copy"]).ok();
    assert_eq!(sandbox.run(&["-C", "copy", "get", "t", "b"]).ok(), "2\n");
    assert!(sandbox.run(&["-C", "copy", "branch"]).ok().contains("side"));
    assert!(sandbox.run(&["-C", "copy", "tag"]).ok().contains("v1"));
    // What it came from is as it was, and known by another name.
    shared.sandbox.run(&["clone", &Shared::url(&shared.sandbox, "share/a"), "again"]).ok();
    shared.sandbox.run(&["-C", "again", "get", "t", "b"]).fails(1);
    drop(shared.server);
    let remotes = shared.sandbox.run(&["-C", "s/b", "remote", "list"]).ok();
    assert!(remotes.contains("upstream\t") && remotes.contains("share/a"), "{remotes}");
}
