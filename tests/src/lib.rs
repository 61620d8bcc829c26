//! The harness of the integration tests: the real `pleach`, in directories of its own, over real sockets.
//!
//! A [`Sandbox`] is a temporary directory; it runs commands there and starts servers, which die with it. Everything waits for a
//! condition, never for a time.
//!
//! What goes wrong is in modules, which `pleach-soak` uses too: a script of commands ([`script`]) with a fault at each system call
//! ([`syscalls`]), servers killed under load ([`kills`]), a disk that fills up ([`small_disk`]),
//! clocks that jump ([`clock`]), replicas that are behind ([`tokens`]), roles that go from node to node while these and what is between them fail ([`failovers`]).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod clock;
pub mod dice;
pub mod failovers;
pub mod kills;
pub mod script;
pub mod small_disk;
pub mod state;
pub mod syscalls;
pub mod tokens;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
        mpsc::{self, Receiver},
    },
    time::{Duration, Instant},
};

use serde_json::Value;

/// How long a condition may take to come true before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// The path of the `pleach` binary, built at its first use, as this is built, so that it is never an old one.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let output = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
            .args(["build", "--quiet", "--locked", "--workspace", "--bin", "pleach"])
            .arg("--message-format=json")
            .args((!cfg!(debug_assertions)).then_some("--release"))
            .current_dir(root)
            .stderr(Stdio::inherit())
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "pleach builds");
        let messages = String::from_utf8(output.stdout).unwrap();
        let path = messages
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
            .next_back();
        path.expect("cargo says where the executable is")
    })
}

/// A port that nobody uses now, and that no connection is given by the system: servers that are started again find it free.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    // Processes at the same time begin elsewhere.
    let start = std::process::id().wrapping_mul(7919);
    (0..COUNT)
        .map(|_| FIRST + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT)
        .filter_map(|port| u16::try_from(port).ok())
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// Waits until `condition` gives something.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a command did.
#[derive(Debug)]
pub struct Run {
    /// Its exit status.
    pub status: i32,
    /// What it printed as its result.
    pub stdout: String,
    /// What it said beside.
    pub stderr: String,
}

impl Run {
    /// The result, of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, 0, "expected success\nstdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }

    /// The one JSON document of a command that must have succeeded.
    #[track_caller]
    pub fn json(self) -> Value {
        serde_json::from_str(&self.ok()).expect("one JSON document")
    }

    /// The JSON documents, one a line, of a command that must have succeeded.
    #[track_caller]
    pub fn json_lines(self) -> Vec<Value> {
        self.ok().lines().map(|line| serde_json::from_str(line).expect("a JSON document a line")).collect()
    }

    /// The message of a command that must have failed with `status`; it must say what went wrong.
    #[track_caller]
    pub fn fails(self, status: i32) -> String {
        assert_eq!(self.status, status, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        assert!(self.stderr.contains("error:"), "expected an error message, found: {}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self.stderr
    }
}

/// A temporary directory with commands and servers in it.
pub struct Sandbox {
    dir: tempfile::TempDir,
}

impl Default for Sandbox {
    fn default() -> Sandbox {
        Sandbox::new()
    }
}

impl Sandbox {
    /// An empty one.
    pub fn new() -> Sandbox {
        Sandbox { dir: tempfile::tempdir().unwrap() }
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file in it.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The command `pleach ARGS`, to be run in it.
    pub fn command<S: AsRef<str>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(args.iter().map(|arg| arg.as_ref()))
            .current_dir(self.dir.path())
            .env("PLEACH_AUTHOR", "Tester <test@example.org>")
            .env_remove("PLEACH_TOKEN")
            .env_remove("PLEACH_TLS_CA")
            .env_remove("PLEACH_TLS_CERT")
            .env_remove("PLEACH_TLS_KEY")
            .env("XDG_CONFIG_HOME", self.path("config"))
            .stdin(Stdio::null());
        command
    }

    /// Runs `pleach ARGS` in it.
    pub fn run<S: AsRef<str>>(&self, args: &[S]) -> Run {
        finish(self.command(args).output().expect("pleach runs"))
    }

    /// Runs `pleach ARGS` with `input` on its standard input.
    pub fn run_with_input<S: AsRef<str>>(&self, args: &[S], input: &str) -> Run {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("pleach runs");
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        finish(child.wait_with_output().unwrap())
    }

    /// Starts `pleach serve ARGS` in it and waits until it listens.
    pub fn serve<S: AsRef<str>>(&self, args: &[S]) -> Server {
        self.serve_as(args, |_| {})
    }

    /// The same, with the command as `prepare` makes it.
    pub fn serve_as<S: AsRef<str>>(&self, args: &[S], prepare: impl FnOnce(&mut Command)) -> Server {
        let mut all = vec!["serve".to_owned()];
        all.extend(args.iter().map(|arg| arg.as_ref().to_owned()));
        let mut command = self.command(&all);
        prepare(&mut command);
        Server::start(command)
    }
}

/// What a command did that has ended.
pub fn finish(output: std::process::Output) -> Run {
    Run {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A running `pleach serve`; killed when dropped.
pub struct Server {
    child: Child,
    address: String,
    log: Arc<Mutex<String>>,
}

impl Server {
    fn start(mut command: Command) -> Server {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("pleach serves");
        let log = Arc::new(Mutex::new(String::new()));
        let listening = follow(child.stderr.take().unwrap(), log.clone());
        match listening.recv_timeout(PATIENCE) {
            Ok(address) => Server { child, address, log },
            Err(_) => {
                let _ = child.kill();
                panic!("the server does not listen: {}", log.lock().unwrap());
            }
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its listener's URL, for `--server`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The URL of a database on it, for `clone` and `remote add`.
    pub fn database(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// `--server URL --database NAME`, followed by `args`.
    pub fn args(&self, database: &str, args: &[&str]) -> Vec<String> {
        let mut all = vec!["--server".into(), self.url(), "--database".into(), database.into()];
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        all
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Ends it as a power cut of the process: SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends it a signal: `HUP`.
    pub fn signal(&self, name: &str) {
        let signal = format!("-{name}");
        let status = Command::new("kill").args([&signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Ends it as an operator does: SIGTERM. Returns its exit status.
    pub fn stop(&mut self) -> i32 {
        self.signal("TERM");
        eventually("the server stopped", || self.child.try_wait().unwrap()).code().unwrap_or(-1)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps what a server says, and finds the address on which it listens.
fn follow(stderr: impl Read + Send + 'static, log: Arc<Mutex<String>>) -> Receiver<String> {
    let (found, listening) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if let Some((_, address)) = line.split_once("listening on ") {
                let _ = found.send(address.trim().to_owned());
            }
            let mut log = log.lock().unwrap();
            log.push_str(&line);
            log.push('\n');
        }
    });
    listening
}
