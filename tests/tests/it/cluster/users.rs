//! The users of a cluster's nodes.

use std::time::Duration;

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

#[test]
fn c30_a_user_that_was_taken_away_does_not_come_back_with_a_primary_that_could_not_write_its_file() {
    let nodes = Nodes::pair();
    let tokens = nodes.users("one-users.yaml", &["ada", "bob"]);
    let (ada, bob) = (tokens[0].clone(), tokens[1].clone());
    let read = |file: &str| std::fs::read_to_string(nodes.sandbox.path(file)).unwrap();
    let both = read("one-users.yaml");
    nodes.sandbox.write("two-users.yaml", &both);
    nodes.with_users();
    let (mut one, mut two) = (nodes.start(0), nodes.start(1));
    nodes.as_user(&one, &ada, &["database", "create", "db"]).ok();
    eventually("the standby follows", || {
        nodes.as_user(&two, &ada, &["database", "list"]).ok().contains("db").then_some(())
    });
    // Nothing can be written beside the file of the standby.
    std::fs::create_dir(nodes.sandbox.path("two-users.yaml.new")).unwrap();
    let only_ada = both.split("  - name: \"bob\"").next().unwrap().to_owned();
    nodes.sandbox.write("one-users.yaml", &only_ada);
    one.signal("HUP");
    nodes.knows(&one, &bob, false);
    nodes.knows(&two, &bob, false);
    let warned = |server: &Server| {
        let status = nodes.as_user(server, &ada, &["cluster", "status"]).ok();
        status.contains("are not those in two-users.yaml").then_some(())
    };
    eventually("the standby says that its file is another", || warned(&two));
    // Its own file knows bob; it has not been seen by anybody since.
    two.kill();
    two = nodes.start(1);
    assert_eq!(nodes.as_user(&two, &bob, &["database", "list"]).status, 5);
    one.kill();
    nodes.as_user(&two, &ada, &["cluster", "assume-role", "primary", "2"]).ok();
    nodes.as_user(&two, &ada, &["database", "create", "other"]).ok();
    let one = nodes.start(0);
    eventually("the old primary follows", || {
        nodes.as_user(&one, &ada, &["database", "list"]).stdout.contains("other").then_some(())
    });
    for server in [&one, &two] {
        nodes.knows(server, &bob, false);
        nodes.knows(server, &ada, true);
    }
    assert_eq!(read("one-users.yaml"), only_ada);
    eventually("the new primary says that its file is another", || warned(&two));
    std::fs::remove_dir(nodes.sandbox.path("two-users.yaml.new")).unwrap();
    two.signal("HUP");
    eventually("the file is that of the cluster", || (read("two-users.yaml") == only_ada).then_some(()));
    nodes.knows(&two, &bob, false);
}

#[test]
fn c30_a_user_that_was_taken_away_does_not_come_back_with_an_old_disk() {
    let nodes = Nodes::with_ack(2, "count: 1, timeout: 10s, on_timeout: error");
    let tokens = nodes.users("one-users.yaml", &["ada", "bob"]);
    let (ada, bob) = (tokens[0].clone(), tokens[1].clone());
    let read = |file: &str| std::fs::read_to_string(nodes.sandbox.path(file)).unwrap();
    let both = read("one-users.yaml");
    nodes.sandbox.write("two-users.yaml", &both);
    nodes.with_users();
    let (mut one, two) = (nodes.start(0), nodes.start(1));
    eventually("the database is made", || {
        (nodes.as_user(&one, &ada, &["database", "create", "db"]).status == 0).then_some(())
    });
    one.stop();
    let before = nodes.keep_disk(0);
    let only_ada = both.split("  - name: \"bob\"").next().unwrap().to_owned();
    nodes.sandbox.write("one-users.yaml", &only_ada);
    let mut one = nodes.start(0);
    nodes.knows(&two, &bob, false);
    one.kill();
    // The whole machine is as it was.
    nodes.put_disk_back(0, &before);
    nodes.sandbox.write("one-users.yaml", &both);
    let one = nodes.start(0);
    eventually("the primary takes writes", || {
        (nodes.as_user(&one, &ada, &["database", "create", "later"]).status == 0).then_some(())
    });
    eventually("the standby follows", || {
        nodes.as_user(&two, &ada, &["database", "list"]).stdout.contains("later").then_some(())
    });
    eventually("the file is that of the cluster", || (read("one-users.yaml") == only_ada).then_some(()));
    for server in [&one, &two] {
        assert_eq!(nodes.as_user(server, &bob, &["database", "list"]).status, 5);
    }
    assert_eq!(read("two-users.yaml"), only_ada);
}

#[test]
fn c30_users_come_into_force_on_a_standby_whose_file_has_them_already() {
    let nodes = Nodes::pair();
    let ada = nodes.users("one-users.yaml", &["ada"]).remove(0);
    let read = |file: &str| std::fs::read_to_string(nodes.sandbox.path(file)).unwrap();
    nodes.sandbox.write("two-users.yaml", &read("one-users.yaml"));
    nodes.with_users();
    let (one, two) = (nodes.start(0), nodes.start(1));
    nodes.knows(&two, &ada, true);
    let shared = nodes.sandbox.path("two/cluster.users");
    eventually("the standby has what was published", || shared.exists().then_some(()));
    // Somebody puts one file on both machines, and tells the primary.
    let mut both = nodes.users("one-users.yaml", &["ada", "bob"]);
    let (ada, bob) = (both.remove(0), both.remove(0));
    nodes.sandbox.write("two-users.yaml", &read("one-users.yaml"));
    one.signal("HUP");
    nodes.knows(&one, &bob, true);
    nodes.knows(&two, &bob, true);
    nodes.knows(&two, &ada, true);
    assert!(!nodes.sandbox.path("two-users.yaml.replaced").exists(), "nothing was replaced");
}

#[test]
fn c30_a_primary_without_its_lease_publishes_no_users_until_it_has_it_again() {
    let place = tempfile::tempdir().unwrap();
    let lease = place.path().join("lease");
    std::fs::create_dir(&lease).unwrap();
    let nodes = Nodes::new(
        2,
        &format!("  election: {{provider: object_store, url: \"file://{}\", lease: 2s}}\n", lease.display()),
    );
    let ada = nodes.users("one-users.yaml", &["ada"]).remove(0);
    let read = |file: &str| std::fs::read_to_string(nodes.sandbox.path(file)).unwrap();
    nodes.sandbox.write("two-users.yaml", &read("one-users.yaml"));
    nodes.with_users();
    let servers = [nodes.start(0), nodes.start(1)];
    let takes_writes = |server: &Server, token: &str, name: &str| {
        nodes.as_user(server, token, &["database", "create", name]).status == 0
    };
    let leader =
        eventually("one is elected", || (0..2).find(|server| takes_writes(&servers[*server], &ada, "db")));
    let (primary, standby) = (&servers[leader], &servers[1 - leader]);
    eventually("the standby follows", || {
        nodes.as_user(standby, &ada, &["database", "list"]).stdout.contains("db").then_some(())
    });
    // What keeps the lease is away, and the lease ends.
    let away = place.path().join("away");
    std::fs::rename(&lease, &away).unwrap();
    std::fs::write(&lease, "").unwrap();
    eventually("it takes no writes", || {
        let status = nodes.as_user(primary, &ada, &["cluster", "status", "--json"]).json();
        (status["takes_writes"] == false).then_some(())
    });
    let before = read("one-users.yaml");
    let tokens = nodes.users("new-users.yaml", &["bob"]);
    let added = format!("{before}\n{}", read("new-users.yaml").replacen("users:\n", "", 1));
    nodes.sandbox.write(["one-users.yaml", "two-users.yaml"][leader], &added);
    primary.signal("HUP");
    nodes.knows(primary, &tokens[0], true);
    let until = std::time::Instant::now() + Duration::from_secs(2);
    while std::time::Instant::now() < until {
        assert_eq!(nodes.as_user(standby, &tokens[0], &["database", "list"]).status, 5);
    }
    std::fs::remove_file(&lease).unwrap();
    std::fs::rename(&away, &lease).unwrap();
    let next =
        eventually("one is elected", || (0..2).find(|server| takes_writes(&servers[*server], &ada, "next")));
    if next != leader {
        // The lease was free, and the other one had it first: its users are those that it knew.
        nodes.sandbox.write(["one-users.yaml", "two-users.yaml"][next], &added);
        servers[next].signal("HUP");
    }
    for server in &servers {
        nodes.knows(server, &tokens[0], true);
        nodes.knows(server, &ada, true);
    }
}
