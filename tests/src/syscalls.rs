//! Faults at system calls, by `strace`: the real binary dies, or fails, at a call that it makes on its database.
//!
//! One idea: a first run under `strace` lists the calls; each is then a [`Point`] for each fault that can happen there. Nothing is
//! preloaded and no privilege is needed; `strace` injects the fault before the call is made, in the thread that makes it.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::{
    Sandbox,
    script::{Recorded, Recording, SCRIPT},
};

/// Calls that change something: a process may die before each, and each may fail.
const EFFECTS: &[&str] = &[
    "openat",
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "fsync",
    "fdatasync",
    "sync_file_range",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "ftruncate",
    "fallocate",
    "mmap",
    "mkdir",
    "mkdirat",
    "link",
    "linkat",
    "copy_file_range",
];

/// Calls that only look: each may fail.
const LOOKS: &[&str] = &["read", "pread64", "flock", "getdents64", "statx", "fstat", "newfstatat"];

/// What happens at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process dies.
    Kill,
    /// The call fails with an error.
    Error(&'static str),
    /// Planted, beyond what is promised: the call reports success and was never made.
    Phantom,
}

/// A call of a command.
#[derive(Debug, Clone)]
struct Call {
    name: String,
    /// Which call of this name in its thread, from 1.
    n: u32,
    /// What it gave.
    result: Option<String>,
    line: String,
}

/// A fault at a call of a command.
#[derive(Debug)]
pub struct Point {
    command: usize,
    call: Call,
    fault: Fault,
}

/// A script, played once under `strace`.
pub struct Traced {
    recording: Recording,
    calls: Vec<Vec<Call>>,
}

impl Traced {
    /// Plays the script; or says what is missing for it.
    pub fn new() -> Result<Traced, String> {
        works()?;
        let recording = Recording::of(SCRIPT);
        let calls = recording.commands.iter().map(|recorded| calls_of(&recording, recorded)).collect();
        Ok(Traced { recording, calls })
    }

    /// All points at which `faults` can happen, in order.
    pub fn points(&self, faults: &[Fault]) -> Vec<Point> {
        let mut points = Vec::new();
        for (command, calls) in self.calls.iter().enumerate() {
            for call in calls {
                let can = |fault: &&Fault| match fault {
                    Fault::Kill | Fault::Error("ENOSPC") => EFFECTS.contains(&call.name.as_str()),
                    Fault::Error(_) => true,
                    Fault::Phantom => call.name.contains("write") && call.result.is_some(),
                };
                points.extend(faults.iter().filter(can).map(|fault| Point {
                    command,
                    call: call.clone(),
                    fault: *fault,
                }));
            }
        }
        points
    }

    /// Runs a command with a fault, and checks what it leaves. Gives whether the fault happened: a command may make fewer calls than it did
    /// when it was traced.
    pub fn play(&self, point: &Point) -> Result<bool, String> {
        let recorded = &self.recording.commands[point.command];
        self.try_play(recorded, point).map_err(|found| {
            let command = recorded.args.join(" ");
            format!(
                "{:?} at call {} of `pleach {command}`\n{}\n{found}",
                point.fault, point.call.n, point.call.line
            )
        })
    }

    fn try_play(&self, recorded: &Recorded, point: &Point) -> Result<bool, String> {
        let (dir, command) = self.recording.restage(recorded);
        let Call { name, n, result, .. } = &point.call;
        let what = match point.fault {
            Fault::Kill => "signal=SIGKILL".to_owned(),
            Fault::Error(error) => format!("error={error}"),
            Fault::Phantom => format!("retval={}", result.as_deref().unwrap_or("0")),
        };
        let inject = format!("inject={name}:{what}:when={n}");
        let (output, log) = strace(&command, &dir, &["-e", &format!("trace={name}"), "-e", &inject]);
        let happened = log.contains("(INJECTED)") || log.contains("+++ killed by SIGKILL +++");
        let said = String::from_utf8_lossy(&output.stderr);
        let acknowledged = output.status.success();
        let must_say = match point.fault {
            Fault::Error("ENOSPC") if !acknowledged => "space",
            Fault::Error(_) if !acknowledged => "error:",
            _ => "",
        };
        if said.contains("panicked") || !said.contains(must_say) {
            return Err(format!("ended with {}, saying: {said}", output.status));
        }
        self.recording.check(recorded, &dir, acknowledged)?;
        Ok(happened)
    }
}

/// Whether `strace` is there and may trace and inject; else what is in the way.
fn works() -> Result<(), String> {
    let sandbox = Sandbox::new();
    let (output, log) = match Command::new("strace").args(["-o", "/dev/null", "true"]).output() {
        Err(error) => return Err(format!("strace does not run: {error}; `apt-get install strace`")),
        Ok(output) if !output.status.success() => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("strace may not trace: {said}"));
        }
        Ok(_) => strace(&Command::new("true"), &sandbox.path(""), &["-e", "inject=execve:error=EIO:when=9"]),
    };
    match output.status.success() && log.contains("execve") {
        true => Ok(()),
        false => Err(format!("strace cannot inject: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

/// Runs a command under `strace`, following its threads; gives what it did and the log.
fn strace(command: &Command, dir: &Path, options: &[&str]) -> (Output, String) {
    let log = tempfile::NamedTempFile::new().unwrap();
    // Without --seccomp-bpf: with it, strace 6.1 injects no signal.
    let mut traced = Command::new("strace");
    traced.args(["-f", "-y", "-o"]).arg(log.path()).args(options).arg("--").arg(command.get_program());
    traced.args(command.get_args()).current_dir(dir);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => traced.env(name, value),
            None => traced.env_remove(name),
        };
    }
    let output = traced.stdin(Stdio::null()).output().expect("strace runs");
    (output, String::from_utf8_lossy(&fs::read(log.path()).unwrap_or_default()).into_owned())
}

/// Runs a command to which each call of this name reports success without being made: a planted fault.
pub fn run_with_phantom(command: &Command, dir: &Path, call: &str) -> Output {
    strace(command, dir, &["-e", &format!("trace={call}"), "-e", &format!("inject={call}:retval=0")]).0
}

/// Has every sync of a running process fail while `meanwhile` goes on. Whether `strace` could do that.
pub fn with_failing_syncs(pid: u32, meanwhile: impl FnOnce()) -> bool {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync"]);
    command.args(["-e", "inject=fsync,fdatasync:error=EIO", "-p", &pid.to_string()]);
    let Ok(mut strace) = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn() else { return false };
    meanwhile();
    // It ends at once where it may not trace.
    let traced = matches!(strace.try_wait(), Ok(None));
    // Asked to end, it lets go of the process.
    let _ = Command::new("kill").args(["-TERM", &strace.id().to_string()]).status();
    let _ = strace.wait();
    traced
}

/// The calls that a command makes on its database.
fn calls_of(recording: &Recording, recorded: &Recorded) -> Vec<Call> {
    let (dir, command) = recording.restage(recorded);
    // With `?`, a call that this machine does not have is none.
    let names: Vec<String> = EFFECTS.iter().chain(LOOKS).map(|name| format!("?{name}")).collect();
    let (output, log) = strace(&command, &dir, &["-e", &format!("trace={}", names.join(","))]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let database = dir.join("db").display().to_string();
    let is_ours = |line: &str| [r#""db""#, r#""db/"#, &database].iter().any(|place| line.contains(place));
    let mut counts = HashMap::new();
    // Faults are injected at the n-th call of a thread, whichever thread that is: one that reads something else then would fail instead.
    let mut elsewhere = HashSet::new();
    let mut calls: Vec<Call> = Vec::new();
    for line in log.lines() {
        // `PID name(arguments) = result`; what another thread interrupts says `resumed` on its second line, and is counted at its first.
        let Some((thread, rest)) = line.split_once(char::is_whitespace) else { continue };
        let Some((name, _)) = rest.trim_start().split_once('(') else { continue };
        if !EFFECTS.contains(&name) && !LOOKS.contains(&name) {
            continue;
        }
        let n = counts.entry((thread.to_owned(), name.to_owned())).and_modify(|n| *n += 1).or_insert(1_u32);
        let is_new = !calls.iter().any(|call| (call.name.as_str(), call.n) == (name, *n));
        if !is_ours(rest) {
            elsewhere.insert((name, *n));
        } else if is_new {
            let result = rest.rsplit_once(") = ").map(|(_, result)| result.trim().to_owned());
            let result = result.filter(|result| result.parse::<u64>().is_ok());
            calls.push(Call { name: name.to_owned(), n: *n, result, line: rest.trim().to_owned() });
        }
    }
    calls.retain(|call| !elsewhere.contains(&(call.name.as_str(), call.n)));
    assert!(!calls.is_empty(), "a command makes calls on its database:\n{log}");
    calls
}
