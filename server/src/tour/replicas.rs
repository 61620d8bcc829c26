//! Step 4: a read replica that follows a remote, a primary that pushes to one and a replica that takes its place, and a primary with a standby that swap roles.

use serde_json::Value;

use super::branches::row;
use super::stage::{Server, Stage, number, string};
use crate::error::Result;

pub(super) fn run(stage: &mut Stage<'_>) -> Result<()> {
    follow(stage)?;
    push(stage)?;
    swap(stage)
}

/// A read replica.
fn follow(stage: &mut Stage<'_>) -> Result<()> {
    stage.title("4. A read replica, and a primary with a standby")?;
    stage.explain("A read replica is a clone that is served with the remote's name in its configuration.")?;
    let source = stage.serve(&["--data-dir", "../data", "--listen", "127.0.0.1:0"])?;
    stage.run(&["clone", &format!("{}/book", source.url()), "../replica/book"])?;
    let config = "data_dir: replica\nlistener: {host: 127.0.0.1, port: 0}\n\
                  replication: {read_replica_remote: origin, replicate_heads: main}\n";
    stage.config("replica.yaml", config)?;
    let replica = stage.serve(&["--config", "../replica.yaml"])?;
    row(stage, "0046", "SIXTH LETTER")?;
    let import = ["import", "characters", "../change.csv", "--upsert", "--commit", "F is the sixth letter"];
    stage.json(&source.on("book", &import))?;
    let read = stage.json(&replica.on("book", &["get", "characters", "0046"]))?;
    stage.check(
        "the replica reads what was committed just now",
        string(&read, "name"),
        "SIXTH LETTER".into(),
    )?;
    stage.refused(5, &replica.on("book", &["put", "notes", "k", "v"]))?;
    Ok(())
}

/// A primary that pushes on write, and the replica that takes its place.
fn push(stage: &mut Stage<'_>) -> Result<()> {
    stage.explain(
        "A primary that pushes each commit before it is answered: to a server, a bucket, or as here a directory. Whoever follows that needs no primary.",
    )?;
    let hub = format!("file://{}/{{database}}", stage.path("hub").display());
    for (name, setting) in [
        ("pushing", "replicate_to_remote: origin"),
        ("following", "read_replica_remote: origin, replicate_all_heads: true"),
    ] {
        let config = format!(
            "data_dir: {name}\nlistener: {{host: 127.0.0.1, port: 0}}\nreplication: {{{setting}, remote_url_template: \"{hub}\"}}\n"
        );
        stage.config(&format!("{name}.yaml"), &config)?;
    }
    let primary = stage.serve(&["--config", "../pushing.yaml"])?;
    let replica = stage.serve(&["--config", "../following.yaml"])?;
    stage.run(&["database", "create", "lab", "--server", &primary.url()])?;
    stage.run(&primary.on("lab", &["put", "notes", "first", "pushed on write"]))?;
    let commit = stage.json(&primary.on("lab", &["commit", "-m", "first"]))?;
    let copy = stage.json(&replica.on("lab", &["log", "-n", "1"]))?;
    stage.check(
        "the replica, at its first use, has the commit",
        string(&copy, "hash"),
        string(&commit, "hash"),
    )?;
    stage.explain(
        "The primary is lost. What it answered is at the remote, so the replica may take its place.",
    )?;
    stage.say("   $ kill -9 %1")?;
    primary.kill()?;
    stage.run(&["replica", "promote", "--server", &replica.url()])?;
    stage.run(&replica.on("lab", &["put", "notes", "second", "pushed by the next primary"]))?;
    stage.run(&replica.on("lab", &["commit", "-m", "second"]))?;
    stage.run(&["clone", &hub.replace("{database}", "lab"), "../lab"])?;
    let notes = stage.run(&["-C", "../lab", "scan", "notes"])?;
    stage.check(
        "a clone of the remote has both",
        notes.as_str(),
        "first\tpushed on write\nsecond\tpushed by the next primary\n",
    )
}

/// A primary and a standby.
fn swap(stage: &mut Stage<'_>) -> Result<()> {
    stage.explain(
        "Two servers that know each other. Every transaction of the primary arrives on the standby.",
    )?;
    let ports = [Stage::free_port()?, Stage::free_port()?];
    configure(stage, "one", "two", "primary", ports)?;
    configure(stage, "two", "one", "standby", [ports[1], ports[0]])?;
    let one = stage.serve(&["--config", "../one.yaml"])?;
    let two = stage.serve(&["--config", "../two.yaml"])?;
    stage.run(&["database", "create", "shop", "--server", &one.url()])?;
    let import =
        ["import", "characters", "../ucd-16.0.csv", "--key", "codepoint", "--commit", "Unicode 16.0"];
    stage.json(&one.on("shop", &import))?;
    let put = stage.json(&one.on("shop", &["put", "notes", "first", "written on one"]))?;
    let status = stage.wait(
        "the standby has everything",
        &["cluster", "status", "--server", &one.url()],
        |status| {
            let standbys = status.get("databases").and_then(Value::as_array);
            standbys.is_some_and(|rows| {
                !rows.is_empty() && rows.iter().all(|row| number(row, "replication_lag_millis") == Some(0))
            })
        },
    )?;
    stage.check("one is the primary", string(&status, "role"), "primary".into())?;
    let token = string(&put, "token");
    let note = stage.json(&two.on("shop", &["get", "notes", "first", "--after", &token]))?;
    stage.check(
        "a read on two with the write's token sees it",
        string(&note, "value"),
        "written on one".into(),
    )?;
    stage.refused(5, &two.on("shop", &["put", "notes", "second", "too early"]))?;

    stage.explain(
        "They swap roles. The primary steps down first: it answers when the standby has everything.",
    )?;
    stage.run(&["cluster", "assume-role", "standby", "2", "--server", &one.url()])?;
    stage.run(&["cluster", "assume-role", "primary", "2", "--server", &two.url()])?;
    let put = stage.json(&two.on("shop", &["put", "notes", "second", "written on two"]))?;
    stage.refused(5, &one.on("shop", &["put", "notes", "third", "too late"]))?;
    let token = string(&put, "token");
    let note = stage.json(&one.on("shop", &["get", "notes", "second", "--after", &token]))?;
    stage.check("what two wrote is on one", string(&note, "value"), "written on two".into())?;
    let (here, there) = (
        stage.run(&one.on("shop", &["export", "characters"]))?,
        stage.run(&two.on("shop", &["export", "characters"]))?,
    );
    stage.check("both hold the same table", here == there, true)?;

    stage.explain("Roles are durable: after kill -9 of both, two still is the primary of epoch 2.")?;
    stage.say("   $ kill -9 %1 %2")?;
    one.kill()?;
    two.kill()?;
    let one = stage.serve(&["--config", "../one.yaml"])?;
    let two = stage.serve(&["--config", "../two.yaml"])?;
    for (server, role) in [(&one, "standby"), (&two, "primary")] {
        let status = stage.json(&["cluster", "status", "--server", &server.url()])?;
        stage.check(
            "its role",
            (string(&status, "role").as_str(), number(&status, "epoch")),
            (role, Some(2)),
        )?;
    }
    let notes = stage.run(&two.on("shop", &["scan", "notes"]))?;
    stage.check(
        "nothing acknowledged is missing",
        notes.as_str(),
        "first\twritten on one\nsecond\twritten on two\n",
    )
}

fn configure(
    stage: &mut Stage<'_>,
    name: &str,
    other: &str,
    role: &str,
    [own, peer]: [u16; 2],
) -> Result<()> {
    let config = format!(
        "data_dir: {name}\nlistener: {{host: 127.0.0.1, port: 0}}\ncluster:\n  standby_remotes:\n  - {{name: {other}, \
         remote_url_template: \"http://127.0.0.1:{peer}/{{database}}\"}}\n  bootstrap_role: {role}\n  bootstrap_epoch: 1\n  \
         remotesapi: {{address: 127.0.0.1, port: {own}}}\n"
    );
    stage.config(&format!("{name}.yaml"), &config)
}

impl Server {
    /// A command on a database of this server.
    fn on<'a>(&'a self, database: &'a str, command: &[&'a str]) -> Vec<&'a str> {
        [command, &["--server", self.url_text(), "--database", database]].concat()
    }
}
