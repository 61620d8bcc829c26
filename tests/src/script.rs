//! A script of commands, played once without faults: what each command starts from, and what it makes.
//!
//! One idea: each command is one transaction, so whatever goes wrong in it leaves the state before it or the state after it, and after it
//! for certain if it exited with 0. So a fault in the middle of the script needs no replay of what comes before: each command has a copy
//! of the directory as it found it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Run, Sandbox, finish, state::state};

/// A step of a script.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// A command, in the directory that holds the database `db`.
    Pleach(&'static [&'static str]),
    /// A write that a crash cut short: the journal ends in the middle of a group. The next command that writes seals it.
    TornTail,
}

use Step::{Pleach, TornTail};

/// Every command that writes, and every way a store's files change. A new command is one more line.
pub const SCRIPT: &[Step] = &[
    Pleach(&["init", "db"]),
    Pleach(&["-C", "db", "put", "t", "a", "1"]),
    Pleach(&["-C", "db", "commit", "-m", "first"]),
    Pleach(&["-C", "db", "put", "t", "a", "2"]),
    Pleach(&["-C", "db", "commit", "-m", "second"]),
    Pleach(&["-C", "db", "import", "rows", "rows.csv", "--key", "id"]),
    Pleach(&["-C", "db", "branch", "side"]),
    Pleach(&["-C", "db", "commit", "-m", "third"]),
    Pleach(&["-C", "db", "gc"]),
    TornTail,
    Pleach(&["-C", "db", "del", "t", "a"]),
    Pleach(&["-C", "db", "import", "rows", "more.csv", "--upsert"]),
    TornTail,
    Pleach(&["-C", "db", "switch", "side"]),
    Pleach(&["-C", "db", "put", "t", "b", "3"]),
    Pleach(&["-C", "db", "commit", "-m", "fourth"]),
    Pleach(&["-C", "db", "merge", "main"]),
    Pleach(&["-C", "db", "tag", "v1"]),
    Pleach(&["-C", "db", "table", "drop", "rows"]),
    TornTail,
    Pleach(&["-C", "db", "gc"]),
    Pleach(&["-C", "db", "put", "t", "c", "4"]),
    Pleach(&["-C", "db", "gc"]),
];

/// A command of the script, and what it did.
pub struct Recorded {
    /// Its arguments.
    pub args: &'static [&'static str],
    /// Whether [`Step::TornTail`] comes before it.
    pub torn: bool,
    /// A copy of the directory as it found it.
    pub before: PathBuf,
    /// What the database held then.
    pub state_before: String,
    /// What it held afterwards.
    pub state_after: String,
}

/// A script that was played.
pub struct Recording {
    sandbox: Sandbox,
    /// Its commands.
    pub commands: Vec<Recorded>,
}

impl Recording {
    /// Plays `script`.
    pub fn of(script: &[Step]) -> Recording {
        let sandbox = Sandbox::new();
        let rows = |range: std::ops::Range<u32>, value: &str| {
            range.fold("id,v\n".to_owned(), |text, id| text + &format!("{id},{value} {}\n", id * 7919))
        };
        sandbox.write("0/rows.csv", &rows(0..300, "value"));
        sandbox.write("0/more.csv", &rows(200..320, "other"));
        let mut commands = Vec::new();
        let mut now = sandbox.path("0");
        let mut torn = false;
        for (n, step) in script.iter().enumerate() {
            let before = now;
            now = sandbox.path(&(n + 1).to_string());
            copy_dir(&before, &now);
            match step {
                TornTail => {
                    tear(&now.join("db"));
                    torn = true;
                }
                Pleach(args) => {
                    // Looking at a database may repair it, so each look has its own copy.
                    let state_before = look_at_copy(&sandbox, &before);
                    finish(command_in(&sandbox, args, &now).output().expect("pleach runs")).ok();
                    let state_after = look_at_copy(&sandbox, &now);
                    commands.push(Recorded { args, torn, before, state_before, state_after });
                    torn = false;
                }
            }
        }
        Recording { sandbox, commands }
    }

    /// The command, to be run in `dir`.
    pub fn command(&self, recorded: &Recorded, dir: &Path) -> Command {
        command_in(&self.sandbox, recorded.args, dir)
    }

    /// A copy of what `command` found, and the command as it is run there.
    pub fn restage(&self, recorded: &Recorded) -> (PathBuf, Command) {
        let dir = self.sandbox.path("staged");
        let _ = fs::remove_dir_all(&dir);
        copy_dir(&recorded.before, &dir);
        let command = self.command(recorded, &dir);
        (dir, command)
    }

    /// Holds what is left in `dir` after something went wrong in `recorded` against the promise, and goes on working there. `acknowledged`:
    /// whether it exited with 0.
    pub fn check(&self, recorded: &Recorded, dir: &Path, acknowledged: bool) -> Result<(), String> {
        let db = dir.join("db");
        let found = state(&db)?;
        let is_after = found == recorded.state_after;
        if !is_after && (acknowledged || found != recorded.state_before) {
            let (before, after) = (&recorded.state_before, &recorded.state_after);
            return Err(format!(
                "acknowledged: {acknowledged}; before:\n{before}\nafter:\n{after}\nfound:\n{found}"
            ));
        }
        // What was not done is done now; what was done is gone on from. Neither needs a repair.
        if !is_after {
            self.run(recorded.args, dir)?;
            let found = state(&db)?;
            if found != recorded.state_after {
                return Err(format!("run again: expected:\n{}\nfound:\n{found}", recorded.state_after));
            }
        }
        self.run(&["-C", "db", "put", "further", "key", "value"], dir)?;
        match state(&db)?.contains("key = value") {
            true => Ok(()),
            false => Err("what was written afterwards is lost".to_owned()),
        }
    }

    fn run(&self, args: &[&str], dir: &Path) -> Result<(), String> {
        let run = finish(command_in(&self.sandbox, args, dir).output().expect("pleach runs"));
        match run {
            Run { status: 0, .. } => Ok(()),
            Run { stderr, .. } => Err(format!("`pleach {}` afterwards fails: {stderr}", args.join(" "))),
        }
    }
}

fn command_in(sandbox: &Sandbox, args: &[&str], dir: &Path) -> Command {
    let mut command = sandbox.command(args);
    command.current_dir(dir);
    command
}

fn look_at_copy(sandbox: &Sandbox, dir: &Path) -> String {
    let copy = sandbox.path("looked-at");
    let _ = fs::remove_dir_all(&copy);
    copy_dir(dir, &copy);
    state(&copy.join("db")).expect("a script without faults leaves good databases")
}

/// Copies a directory and what is in it.
pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Writes half of a group at the end of the active journal of a database.
pub fn tear(db: &Path) {
    let names = fs::read_dir(db).unwrap().map(|entry| entry.unwrap().path());
    let journals = names.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("journal-"));
    let active = journals.max().expect("a database has a journal");
    let mut bytes = fs::read(&active).unwrap();
    let half = bytes[bytes.len() - 100..].to_vec();
    bytes.extend(half);
    fs::write(active, bytes).unwrap();
}
