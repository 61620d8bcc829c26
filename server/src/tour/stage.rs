//! What the steps of the tour stand on: run a command and show it, check an answer, start a server.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::{Failure, Result};

/// The tour's stage.
pub(super) struct Stage<'a> {
    say: &'a mut dyn FnMut(&str) -> Result<()>,
    program: PathBuf,
    place: PathBuf,
    /// Where commands run, below `place`.
    directory: PathBuf,
    checks: u32,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        say: &'a mut dyn FnMut(&str) -> Result<()>,
        program: PathBuf,
        place: PathBuf,
    ) -> Stage<'a> {
        Stage { say, program, directory: place.clone(), place, checks: 0 }
    }

    /// Checks passed so far.
    pub(super) fn checks(&self) -> u32 {
        self.checks
    }

    /// A file or directory of the tour.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.place.join(name)
    }

    pub(super) fn say(&mut self, line: &str) -> Result<()> {
        (self.say)(line)
    }

    /// Begins a step.
    pub(super) fn title(&mut self, title: &str) -> Result<()> {
        self.say("")?;
        self.say(&format!("── {title}"))
    }

    /// Says what comes next, and why.
    pub(super) fn explain(&mut self, text: &str) -> Result<()> {
        self.say("")?;
        self.say(text)
    }

    /// Goes to a directory of the tour.
    pub(super) fn go_to(&mut self, name: &str) -> Result<()> {
        self.directory = self.path(name);
        self.say(&format!("   $ cd ../{name}"))
    }

    /// Writes a small file of the tour.
    pub(super) fn write(&mut self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        std::fs::write(&path, text).map_err(|error| Failure::file(path.display(), &error))
    }

    /// Writes a configuration and shows it.
    pub(super) fn config(&mut self, name: &str, text: &str) -> Result<()> {
        self.say(&format!("   {name}:"))?;
        text.lines().try_for_each(|line| self.say(&format!("     {line}")))?;
        self.write(name, text)
    }

    /// A port that nobody listens on now.
    pub(super) fn free_port() -> Result<u16> {
        let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
        Ok(port.map_err(|error| Failure::refused(format!("no free port: {error}")))?.port())
    }

    /// Asks with `--json` again and again until the answer is as wanted; shows the last one.
    pub(super) fn wait(
        &mut self,
        what: &str,
        arguments: &[&str],
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let output = self.command().args(arguments).arg("--json").stdin(Stdio::null()).output();
            let output = output.map_err(|error| Failure::file(self.program.display(), &error))?;
            if serde_json::from_slice::<Value>(&output.stdout).is_ok_and(|answer| wanted(&answer))
                || Instant::now() > deadline
            {
                let answer = self.json(arguments)?;
                self.check(what, wanted(&answer), true)?;
                return Ok(answer);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs a command that must succeed; shows it and the first lines of its answer.
    pub(super) fn run(&mut self, arguments: &[&str]) -> Result<String> {
        let output = self.execute(arguments)?;
        if !output.status.success() {
            return Err(self.wrong(arguments, &output, "to succeed"));
        }
        let answer = text(&output.stdout);
        self.show(&answer)?;
        Ok(answer)
    }

    /// As [`Stage::run`], with `--json`, and the last document of the answer.
    pub(super) fn json(&mut self, arguments: &[&str]) -> Result<Value> {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        let answer = self.run(&arguments)?;
        let last = answer.lines().last().unwrap_or_default();
        serde_json::from_str(last).map_err(|error| {
            Failure::refused(format!(
                "`pleach {}` answered `{last}`, which is no JSON: {error}",
                arguments.join(" ")
            ))
        })
    }

    /// Runs a command that must be refused with this exit status; shows the refusal and gives it.
    pub(super) fn refused(&mut self, status: i32, arguments: &[&str]) -> Result<String> {
        let output = self.execute(arguments)?;
        if output.status.code() != Some(status) {
            return Err(self.wrong(arguments, &output, &format!("exit status {status}")));
        }
        let refusal = text(&output.stderr);
        self.show(&refusal)?;
        Ok(refusal)
    }

    /// Checks one answer.
    pub(super) fn check<T: PartialEq + std::fmt::Debug>(
        &mut self,
        what: &str,
        found: T,
        expected: T,
    ) -> Result<()> {
        if found != expected {
            return Err(
                Failure::refused(format!("{what}: expected {expected:?}, found {found:?}")).hint(REPORT)
            );
        }
        self.checks += 1;
        self.say(&format!("   ✓ {what}"))
    }

    /// Starts a server on a free port and waits until it listens.
    pub(super) fn serve(&mut self, arguments: &[&str]) -> Result<Server> {
        self.say(&format!("   $ pleach serve {} &", arguments.join(" ")))?;
        let mut command = self.command();
        command
            .arg("serve")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| Failure::file(self.program.display(), &error))?;
        let Some(stderr) = child.stderr.take() else {
            return Err(Failure::refused("the server has no stderr"));
        };
        let mut server = Server { child, url: String::new() };
        let mut said = String::new();
        let mut lines = BufReader::new(stderr).lines();
        for line in lines.by_ref().map_while(std::io::Result::ok) {
            if let Some(address) = line.strip_prefix("listening on ") {
                server.url = format!("http://{address}");
                break;
            }
            said.push_str(&line);
            said.push('\n');
        }
        if server.url.is_empty() {
            return Err(Failure::refused(format!("the server did not start: {}", said.trim())).hint(REPORT));
        }
        // Its log must be read on, or it would wait for us.
        std::thread::spawn(move || lines.map_while(std::io::Result::ok).for_each(drop));
        self.say(&format!("     listening on {}", server.url.trim_start_matches("http://")))?;
        Ok(server)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(&self.directory).env("PLEACH_AUTHOR", "Tour <tour@example.org>");
        command
    }

    fn execute(&mut self, arguments: &[&str]) -> Result<Output> {
        let shown: Vec<String> = arguments.iter().map(|argument| quoted(argument)).collect();
        self.say(&format!("   $ pleach {}", shown.join(" ")))?;
        let output = self.command().args(arguments).stdin(Stdio::null()).output();
        output.map_err(|error| Failure::file(self.program.display(), &error))
    }

    /// The first lines of an answer.
    fn show(&mut self, answer: &str) -> Result<()> {
        const LINES_MAX: usize = 6;
        let mut lines = answer.lines().filter(|line| !line.trim().is_empty());
        for line in lines.by_ref().take(LINES_MAX) {
            let cut: String = line.chars().take(150).collect();
            let dots = if cut.len() < line.len() { " …" } else { "" };
            self.say(&format!("     {cut}{dots}"))?;
        }
        match lines.count() {
            0 => Ok(()),
            more => self.say(&format!("     … {more} more lines")),
        }
    }

    fn wrong(&self, arguments: &[&str], output: &Output, expected: &str) -> Failure {
        let status = output.status.code().map_or("a signal".to_owned(), |code| format!("exit status {code}"));
        Failure::refused(format!(
            "`pleach {}`: expected {expected}, found {status}: {}",
            arguments.join(" "),
            text(&output.stderr).trim()
        ))
        .hint(REPORT)
    }
}

/// What to do when the tour goes wrong.
const REPORT: &str =
    "this is a fault of pleach or of the machine: run the tour again, and report what it says";

/// A running server; killed when it goes out of scope.
pub(super) struct Server {
    child: Child,
    /// `http://HOST:PORT`.
    url: String,
}

impl Server {
    /// `http://HOST:PORT`.
    pub(super) fn url(&self) -> String {
        self.url.clone()
    }

    /// The same, borrowed.
    pub(super) fn url_text(&self) -> &str {
        &self.url
    }

    /// Kills it as `kill -9` does: it cannot clean up.
    pub(super) fn kill(mut self) -> Result<()> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed.map(drop).map_err(|error| Failure::refused(format!("cannot kill the server: {error}")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a file of the tour.
pub(super) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| Failure::file(path.display(), &error))
}

/// A number in an answer.
pub(super) fn number(document: &Value, field: &str) -> Option<u64> {
    document.get(field).and_then(Value::as_u64)
}

/// A text in an answer.
pub(super) fn string(document: &Value, field: &str) -> String {
    document.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An argument as a shell would want it.
fn quoted(argument: &str) -> String {
    if argument.is_empty() || argument.contains([' ', '\'', '"', '$', '*', '<', '>']) {
        format!("'{argument}'")
    } else {
        argument.to_owned()
    }
}
