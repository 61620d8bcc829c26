//! The users of a cluster's nodes.

use pleach_tests::{Run, Server, eventually};

use super::{Nodes, warnings};

impl Nodes {
    /// Writes a users file with these users, and gives their token files.
    fn users(&self, file: &str, names: &[&str]) -> Vec<String> {
        let mut text = String::from("users:\n");
        let files = names.iter().map(|name| {
            let made = self.sandbox.run(&["token", "new", name]).ok();
            let token = made.lines().next().unwrap();
            let entry = made.lines().skip(1).skip_while(|line| !line.trim_start().starts_with("- name"));
            text.push_str(&entry.collect::<Vec<_>>().join("\n").replace("allow: read", "allow: admin"));
            text.push('\n');
            let file = format!("{name}.token");
            self.sandbox.write(&file, token);
            file
        });
        let files = files.collect();
        self.sandbox.write(file, &text);
        files
    }

    fn as_user(&self, server: &Server, token: &str, args: &[&str]) -> Run {
        let mut all = vec!["--token-file".to_owned(), token.to_owned(), "--server".into(), server.url()];
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        self.sandbox.run(&all)
    }

    fn knows(&self, server: &Server, token: &str, known: bool) {
        eventually(&format!("{token} is known: {known}"), || {
            let status = self.as_user(server, token, &["database", "list"]).status;
            (status == if known { 0 } else { 5 }).then_some(())
        });
    }
}

#[test]
fn c30_users_are_those_of_the_primary_on_all_nodes_and_over_restarts() {
    let nodes = Nodes::pair();
    let ada = nodes.users("one-users.yaml", &["ada"]).remove(0);
    let old = nodes.users("two-users.yaml", &["old"]).remove(0);
    nodes.with_users();
    let (mut one, mut two) = (nodes.start(0), nodes.start(1));
    nodes.knows(&two, &ada, true);
    nodes.knows(&two, &old, false);
    let read = |file: &str| std::fs::read_to_string(nodes.sandbox.path(file)).unwrap();
    assert_eq!(read("two-users.yaml"), read("one-users.yaml"));
    assert!(read("two-users.yaml.replaced").contains("name: \"old\""));
    // A user comes while the standby is away, and the primary restarts.
    two.kill();
    let mut both = nodes.users("one-users.yaml", &["ada", "bob"]);
    let bob = both.remove(1);
    one.signal("HUP");
    nodes.knows(&one, &bob, true);
    one.kill();
    // And one while it is down.
    let mut three = nodes.users("one-users.yaml", &["ada", "bob", "eve"]);
    let (ada, bob, eve) = (three.remove(0), three.remove(0), three.remove(0));
    one = nodes.start(0);
    two = nodes.start(1);
    nodes.knows(&two, &eve, true);
    nodes.knows(&one, &eve, true);
    nodes.knows(&two, &bob, true);
    nodes.knows(&two, &ada, true);
    // One goes, while it is there.
    let bob = nodes.users("one-users.yaml", &["bob"]).remove(0);
    one.signal("HUP");
    nodes.knows(&two, &bob, true);
    nodes.knows(&two, &ada, false);
    assert!(read("two-users.yaml.replaced").contains("name: \"old\""), "what stood there first");
    // After a change of role the other's are those that count.
    one.kill();
    nodes.as_user(&two, &bob, &["cluster", "assume-role", "primary", "2"]).ok();
    let cat = nodes.users("two-users.yaml", &["cat"]).remove(0);
    two.signal("HUP");
    let one = nodes.start(0);
    nodes.knows(&one, &cat, true);
}

#[test]
fn c30_users_stay_a_nodes_own_if_they_are_not_to_be_replicated_and_a_node_without_says_so() {
    for node in [0, 1] {
        let nodes = Nodes::pair();
        let ada = nodes.users("one-users.yaml", &["ada"]).remove(0);
        let own = nodes.users("two-users.yaml", &["own"]).remove(0);
        nodes.with_users();
        nodes.add(node, "  replicate_users: false\n");
        let (one, two) = (nodes.start(0), nodes.start(1));
        nodes.as_user(&one, &ada, &["database", "create", "db"]).ok();
        eventually("the database is there", || {
            nodes.as_user(&two, &own, &["database", "list"]).ok().contains("db").then_some(())
        });
        nodes.knows(&two, &ada, false);
        assert!(!nodes.sandbox.path("two-users.yaml.replaced").exists());
    }
    let nodes = Nodes::pair();
    nodes.users("one-users.yaml", &["ada"]);
    let config = std::fs::read_to_string(nodes.sandbox.path("one.yaml")).unwrap();
    nodes.sandbox.write("one.yaml", &format!("users_file: one-users.yaml\n{config}"));
    let (_one, two) = (nodes.start(0), nodes.start(1));
    eventually("the standby says that it has no users", || {
        warnings(&nodes.status(&two)).contains("has no users_file").then_some(())
    });
}
