//! Step 3: a server, a clone, and work on both sides; only what is missing travels.

use serde_json::Value;

use super::branches::{change, check_name};
use super::stage::{Stage, number, string};
use crate::error::Result;

pub(super) fn run(stage: &mut Stage<'_>) -> Result<()> {
    stage.title("3. A server and a clone: only what is missing travels")?;
    let server = stage.serve(&["--data-dir", "../data", "--listen", "127.0.0.1:0"])?;
    let url = server.url();
    let remote = format!("{url}/book");
    stage.run(&["database", "create", "book", "--server", &url])?;
    stage.run(&["remote", "add", "origin", &remote])?;
    let push = stage.json(&["push", "origin", "--all", "--tags"])?;
    stage.check(
        "the first push sends the table",
        number(&push, "chunks").is_some_and(|chunks| chunks > 50),
        true,
    )?;
    let again = stage.json(&["push", "origin", "--all", "--tags"])?;
    stage.check("a second one sends nothing", number(&again, "chunks"), Some(0))?;
    stage.run(&["clone", &remote, "../clone"])?;

    stage.explain("One row in a new table: a push of a few hundred bytes, in one round trip.")?;
    stage.go_to("clone")?;
    stage.run(&["put", "notes", "today", "cloned"])?;
    stage.run(&["commit", "-m", "A note"])?;
    let push = stage.json(&["push"])?;
    let sent = number(&push, "bytes_sent").unwrap_or(u64::MAX);
    stage.check("it took less than 4 kB", sent < 4096, true)?;
    stage.go_to("book")?;
    let pull = stage.json(&["pull"])?;
    stage.check("the pull is a fast-forward", string(&pull, "merge"), "fast-forward".into())?;
    let note = stage.json(&["get", "notes", "today"])?;
    stage.check("the note is here", string(&note, "value"), "cloned".into())?;

    stage.explain("Commits on both sides: the second push is refused, with what to do.")?;
    change(stage, "0044", "FOURTH LETTER")?;
    stage.run(&["commit", "-m", "D is the fourth letter"])?;
    stage.run(&["push"])?;
    stage.go_to("clone")?;
    change(stage, "0045", "FIFTH LETTER")?;
    stage.run(&["commit", "-m", "E is the fifth letter"])?;
    stage.refused(1, &["push"])?;
    let pull = stage.json(&["pull"])?;
    stage.check("pull merges", string(&pull, "merge"), "merged".into())?;
    stage.run(&["push"])?;
    stage.go_to("book")?;
    stage.run(&["pull"])?;
    check_name(stage, "0044", "FOURTH LETTER")?;
    check_name(stage, "0045", "FIFTH LETTER")?;

    stage.explain("Every command runs on the server too. A write there is durable when it answers: kill -9 takes nothing away.")?;
    let at_server = ["--server", url.as_str(), "--database", "book"];
    let put = stage.json(&[&["put", "notes", "tomorrow", "acknowledged"], at_server.as_slice()].concat())?;
    stage.check("the write answers a token", string(&put, "token").is_empty(), false)?;
    stage.say("   $ kill -9 %1")?;
    server.kill()?;
    stage.refused(4, &[&["get", "notes", "tomorrow"], at_server.as_slice()].concat())?;
    let server = stage.serve(&["--data-dir", "../data", "--listen", "127.0.0.1:0"])?;
    let url = server.url();
    let get = ["get", "notes", "tomorrow", "--server", &url, "--database", "book", "--after"];
    let token = string(&put, "token");
    let note = stage.json(&[get.as_slice(), &[token.as_str()]].concat())?;
    stage.check(
        "it is there after the restart",
        note.get("value").and_then(Value::as_str),
        Some("acknowledged"),
    )
}
