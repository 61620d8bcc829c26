//! A cluster of two or three nodes under writers and readers, with kill -9 and SIGSTOP of any node, links between them that are slow, cut and silent in one or both directions, new keys,
//! disks that are full or do not sync, clocks that jump, and an operator who assumes roles all the time, with and without a hand-over.
//!
//! One idea: whoever was told that a write is done knows what every later primary must have. So a row that was acknowledged is on all nodes in the end, a read with its token never misses
//! it before that, in either of two databases, and no epoch has two nodes that acknowledge. When everything is up again, an operator finds a node that may lead, and all have the same root.

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    process::{self, Stdio},
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use pleach_client::{Client, Error, Options};
use pleach_engine::{Database, Token};
use pleach_protocol::testing::{Held, Proxy};
use tokio::runtime::Runtime;

use crate::{
    Run as Command, Sandbox, Server, clock::Clock, dice::Dice, finish, free_port, small_disk::SmallDisk,
    syscalls::with_failing_syncs,
};

const WRITERS: usize = 4;
const READERS: usize = 3;
/// How long nodes, links and roles change, before all is up again and compared.
const ROUND: Duration = Duration::from_secs(15);
/// How long a primary may take to be found, and all to be the same, then.
const SAME_WITHIN: Duration = Duration::from_secs(60);
/// How long a command may take.
const COMMAND_MAX: Duration = Duration::from_secs(30);
/// How long `strace` takes to have hold of a process.
const ATTACHED: Duration = Duration::from_millis(300);
/// How long a client waits for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// The disk of a node that is full at times, with room for a round.
const DISK_BYTES: u64 = 128 << 20;
const NAMES: [&str; 3] = ["one", "two", "three"];
/// Of which a standby may have more of one and less of the other.
const DATABASES: [&str; 2] = ["db", "more"];

/// What the nodes of a round promise.
#[derive(Debug, Clone, Copy)]
struct Policy {
    nodes: usize,
    /// As the configuration has it.
    ack: &'static str,
}

const POLICIES: [Policy; 4] = [
    Policy { nodes: 3, ack: "{count: 1, level: durable, timeout: 2s, on_timeout: error}" },
    Policy { nodes: 2, ack: "{count: 1, level: applied, timeout: 2s, on_timeout: error}" },
    Policy { nodes: 3, ack: "{count: all, level: durable, timeout: 2s, on_timeout: error}" },
    Policy { nodes: 3, ack: "{count: 2, level: durable, timeout: 2s, on_timeout: block}" },
];

/// What was tried.
#[derive(Default)]
pub struct Counts {
    kills: AtomicU64,
    stops: AtomicU64,
    links: AtomicU64,
    keys: AtomicU64,
    full: AtomicU64,
    unsynced: AtomicU64,
    clocks: AtomicU64,
    roles: AtomicU64,
    not_assumed: AtomicU64,
    writes: AtomicU64,
    unacknowledged: AtomicU64,
    reads: AtomicU64,
    unanswered: AtomicU64,
}

impl Counts {
    /// What was never tried, or never succeeded: then nothing was checked.
    pub fn lack(&self) -> Option<&'static str> {
        let counts = [
            ("no write was acknowledged", &self.writes),
            ("no read was answered", &self.reads),
            ("no role was assumed", &self.roles),
            ("no node was killed", &self.kills),
            ("no link was silent", &self.links),
        ];
        counts.iter().find(|(_, count)| count.load(Ordering::Relaxed) == 0).map(|(what, _)| *what)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        write!(
            f,
            "{} roles assumed, {} refused or failed; {} kills, {} stops, {} changes of links, {} new keys, {} full disks, {} that did not sync, {} jumps of clocks; {} writes acknowledged, {} not; {} reads with tokens, {} \
             not answered",
            of(&self.roles),
            of(&self.not_assumed),
            of(&self.kills),
            of(&self.stops),
            of(&self.links),
            of(&self.keys),
            of(&self.full),
            of(&self.unsynced),
            of(&self.clocks),
            of(&self.writes),
            of(&self.unacknowledged),
            of(&self.reads),
            of(&self.unanswered),
        )
    }
}

/// A fault of the checker's own, which it must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// Nobody waits for a standby, and everybody believes it.
    EarlyAck,
    /// Reads carry no token.
    NoToken,
}

/// A round: with the policy, and by the dice, that `seed` gives. What was broken, if something was.
pub fn round(seed: u64, planted: Option<Planted>, counts: &Counts) -> Result<(), String> {
    let policy = match planted {
        Some(Planted::EarlyAck) => Policy { nodes: 3, ack: "{count: 0}" },
        _ => POLICIES[seed as usize % POLICIES.len()],
    };
    Site::new(policy, planted, Dice::new(seed))?.round(counts)
}

struct Site {
    sandbox: Sandbox,
    nodes: Vec<Node>,
    /// From each node to each other one.
    links: Vec<Proxy>,
    runtime: Runtime,
    planted: Option<Planted>,
    dice: Dice,
    over: AtomicBool,
    /// Rows whose write was acknowledged, and in which database.
    acknowledged: Mutex<Vec<(&'static str, String, Token)>>,
    /// Who acknowledged in an epoch.
    primaries: Mutex<BTreeMap<u64, usize>>,
    found: Mutex<Option<String>>,
}

struct Node {
    name: &'static str,
    url: String,
    dir: PathBuf,
    server: Mutex<Option<Server>>,
    /// What it is on, if that is full at times and small file systems can be mounted here.
    disk: Option<SmallDisk>,
    /// Its clock, if it jumps at times and that can be done here.
    clock: Option<Clock>,
}

impl Site {
    fn new(policy: Policy, planted: Option<Planted>, dice: Dice) -> Result<Site, String> {
        let sandbox = Sandbox::new();
        let runtime = Runtime::new().map_err(|error| error.to_string())?;
        let names = &NAMES[..policy.nodes];
        let ports: Vec<(u16, u16)> = names.iter().map(|_| (free_port(), free_port())).collect();
        let mut links = Vec::new();
        let mut small = SmallDisk::of(DISK_BYTES).ok();
        let on_small = dice.below(policy.nodes as u64) as usize;
        let clocks_jump = dice.below(2) == 0;
        let mut nodes = Vec::new();
        for (from, (&name, (listener, own))) in names.iter().zip(&ports).enumerate() {
            let mut standbys = String::new();
            for (to, (_, port)) in ports.iter().enumerate().filter(|(to, _)| *to != from) {
                let delay = Duration::from_millis([0, 0, 1, 10][dice.below(4) as usize]);
                let cuts = dice.clone();
                // One connection in three is cut, soon or late.
                let cut_after = move || (cuts.below(3) == 0).then(|| 1 << (8 + cuts.below(12)));
                let target = std::net::SocketAddr::from(([127, 0, 0, 1], *port));
                let link = runtime.block_on(Proxy::start(target, delay, cut_after));
                let link = link.map_err(|error| error.to_string())?;
                standbys += &format!(
                    "    - {{name: {}, remote_url_template: \"http://{}/{{database}}\"}}\n",
                    names[to],
                    link.address()
                );
                links.push(link);
            }
            let disk = small.take_if(|_| from == on_small);
            let dir = disk.as_ref().map_or_else(|| sandbox.path(name), |disk| disk.path.join(name));
            let role = if from == 0 { "primary" } else { "standby" };
            let text = format!(
                "data_dir: {}\nlistener: {{host: 127.0.0.1, port: {listener}}}\ncluster:\n  standby_remotes:\n{standbys}  bootstrap_role: {role}\n  bootstrap_epoch: 1\n  \
                 ack: {}\n  remotesapi: {{address: 127.0.0.1, port: {own}}}\n",
                dir.display(),
                policy.ack
            );
            sandbox.write(&format!("{name}.yaml"), &text);
            let url = format!("http://127.0.0.1:{listener}");
            let clock = clocks_jump.then(|| Clock::new(sandbox.path(&format!("{name}.clock")))).flatten();
            nodes.push(Node { name, url, dir, disk, clock, server: Mutex::new(None) });
        }
        let site = Site {
            nodes,
            sandbox,
            links,
            runtime,
            planted,
            dice,
            over: AtomicBool::new(false),
            acknowledged: Mutex::default(),
            primaries: Mutex::default(),
            found: Mutex::default(),
        };
        thread::scope(|scope| {
            for node in 0..site.nodes.len() {
                let site = &site;
                scope.spawn(move || site.start(node));
            }
        });
        site.wait("its databases", || {
            let is_made = |name: &&str| {
                let made = site.on(0, &["database", "create", name]);
                made.status == 0 || made.stderr.contains("exists already")
            };
            DATABASES.iter().all(is_made).then_some(())
        })?;
        Ok(site)
    }

    fn start(&self, node: usize) {
        let Node { name, server, clock, .. } = &self.nodes[node];
        let started = self.sandbox.serve_as(&["--config", &format!("{name}.yaml")], |command| {
            clock.iter().for_each(|clock| clock.give(command));
        });
        *server.lock() = Some(started);
    }

    /// A command to a node, which is killed if it takes too long: a policy that blocks may let a write wait for ever.
    fn on(&self, node: usize, command: &[&str]) -> Command {
        let mut command = self.sandbox.command(&[&["--server", &self.nodes[node].url], command].concat());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("pleach runs");
        let process = child.id();
        let (ended, end) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                if end.recv_timeout(COMMAND_MAX) == Err(RecvTimeoutError::Timeout) {
                    let _ = process::Command::new("kill").args(["-KILL", &process.to_string()]).status();
                }
            });
            let output = child.wait_with_output().expect("pleach ends");
            drop(ended);
            finish(output)
        })
    }

    fn client(&self, node: usize) -> Result<Client, String> {
        let options = Options {
            tries_max: 1,
            token_wait: Duration::from_millis(500),
            try_max: Some(ANSWER_MAX),
            leave_out: Duration::ZERO,
            read_your_writes: self.planted != Some(Planted::NoToken),
            ..Options::default()
        };
        Client::connect([&self.nodes[node].url], options).map_err(|error| error.to_string())
    }

    /// Writes, reads and changes while things fail; then all is to be the same.
    fn round(&self, counts: &Counts) -> Result<(), String> {
        let goes_on = || !self.over.load(Ordering::Relaxed) && self.found.lock().is_none();
        let told = |result: Result<(), String>| {
            if let Err(what) = result {
                self.found.lock().get_or_insert(what);
            }
        };
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                scope.spawn(move || told(self.runtime.block_on(self.write(writer, &goes_on, counts))));
            }
            for _ in 0..READERS {
                scope.spawn(move || told(self.runtime.block_on(self.read(&goes_on, counts))));
            }
            scope.spawn(move || self.operate(&goes_on, counts));
            scope.spawn(move || self.disturb_links(&goes_on, counts));
            let until = Instant::now() + ROUND;
            while Instant::now() < until && goes_on() {
                thread::sleep(Duration::from_millis(300 + self.dice.below(1500)));
                self.disturb_node(counts);
            }
            self.over.store(true, Ordering::Relaxed);
        });
        self.links.iter().for_each(|link| link.hold(Held::default()));
        match self.found.lock().take() {
            Some(found) => Err(found),
            None => self.compare(),
        }
    }

    async fn write(&self, writer: usize, goes_on: &impl Fn() -> bool, counts: &Counts) -> Result<(), String> {
        let clients = (0..self.nodes.len()).map(|node| self.client(node)).collect::<Result<Vec<_>, _>>()?;
        let (mut number, mut node) = (0, 0);
        while goes_on() {
            let row = format!("{writer}-{number:06}");
            number += 1;
            let database = DATABASES[self.dice.below(DATABASES.len() as u64) as usize];
            match clients[node].database(database).put("t", row.as_str(), "value").await {
                Ok(written) => {
                    let token = written.token.ok_or("a write was acknowledged without a token")?;
                    let other = *self.primaries.lock().entry(token.epoch).or_insert(node);
                    if other != node {
                        let (one, two) = (self.nodes[other].name, self.nodes[node].name);
                        return Err(format!("{one} and {two} acknowledged writes in epoch {}", token.epoch));
                    }
                    self.acknowledged.lock().push((database, row, token));
                    counts.writes.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    counts.unacknowledged.fetch_add(1, Ordering::Relaxed);
                    if !matches!(error, Error::Unknown { .. }) {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    node = self.dice.below(self.nodes.len() as u64) as usize;
                }
            }
        }
        Ok(())
    }

    async fn read(&self, goes_on: &impl Fn() -> bool, counts: &Counts) -> Result<(), String> {
        let clients = (0..self.nodes.len()).map(|node| self.client(node)).collect::<Result<Vec<_>, _>>()?;
        while goes_on() {
            let one = {
                let acknowledged = self.acknowledged.lock();
                // Mostly the newest.
                let back = self.dice.below([1, 10, 1000][self.dice.below(3) as usize]) as usize;
                let mut newest_first = acknowledged.iter().rev();
                newest_first.nth(back).or(acknowledged.first()).cloned()
            };
            let Some((database, row, token)) = one else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let node = self.dice.below(self.nodes.len() as u64) as usize;
            clients[node].saw(database, token);
            match clients[node].database(database).get("t", row.as_str()).await {
                Ok(Some(_)) => drop(counts.reads.fetch_add(1, Ordering::Relaxed)),
                Ok(None) => {
                    let name = self.nodes[node].name;
                    return Err(format!(
                        "{name} does not have row {row} of {database}, which was acknowledged as {token}"
                    ));
                }
                Err(error) if error.is_not_found() => {
                    let name = self.nodes[node].name;
                    return Err(format!(
                        "{name} does not have row {row} of {database}, which was acknowledged: {error}"
                    ));
                }
                Err(_) => {
                    counts.unanswered.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
        Ok(())
    }

    /// Does something to a node, for a while: mostly it is killed.
    fn disturb_node(&self, counts: &Counts) {
        let number = self.dice.below(self.nodes.len() as u64) as usize;
        let pause = Duration::from_millis(self.dice.below(1500));
        let node = &self.nodes[number];
        match (self.dice.below(8), &node.disk, &node.clock) {
            (0..3, Some(disk), _) => {
                disk.fill(self.dice.below(64 << 10));
                thread::sleep(pause);
                disk.free();
                counts.full.fetch_add(1, Ordering::Relaxed);
            }
            (0..3, _, Some(clock)) => {
                let seconds = [1, 20, 40, 3_600][self.dice.below(4) as usize];
                clock.jump(if self.dice.below(2) == 0 { seconds } else { -seconds });
                thread::sleep(pause);
                if self.dice.below(2) == 0 {
                    clock.jump(0);
                }
                counts.clocks.fetch_add(1, Ordering::Relaxed);
            }
            (3, ..) => {
                let running = node.server.lock();
                if let Some(server) = &*running {
                    server.signal("STOP");
                    thread::sleep(pause);
                    server.signal("CONT");
                }
                counts.stops.fetch_add(1, Ordering::Relaxed);
            }
            (4, ..) => {
                let Some(process) = node.server.lock().as_ref().map(Server::pid) else { return };
                if with_failing_syncs(process, || thread::sleep(ATTACHED + pause)) {
                    counts.unsynced.fetch_add(1, Ordering::Relaxed);
                }
                // A database of which a sync failed takes no more writes until it is opened again.
                self.kill(number);
                self.start(number);
            }
            _ => {
                self.kill(number);
                counts.kills.fetch_add(1, Ordering::Relaxed);
                if self.dice.below(8) == 0 {
                    // It makes itself another key, which its peers learn of.
                    let _ = std::fs::remove_file(node.dir.join("node.pem"));
                    counts.keys.fetch_add(1, Ordering::Relaxed);
                }
                thread::sleep(pause);
                self.start(number);
            }
        }
    }

    fn kill(&self, node: usize) {
        let server = self.nodes[node].server.lock().take();
        server.into_iter().for_each(|mut server| server.kill());
    }

    /// Makes a link silent, in one direction or both, or a node alone, and lets it talk again.
    fn disturb_links(&self, goes_on: &impl Fn() -> bool, counts: &Counts) {
        let peers = self.nodes.len() - 1;
        while goes_on() {
            thread::sleep(Duration::from_millis(self.dice.below(1500)));
            let held = match self.dice.below(3) {
                0 => Held { up: true, down: false },
                1 => Held { up: false, down: true },
                _ => Held { up: true, down: true },
            };
            let node = self.dice.below(self.nodes.len() as u64) as usize;
            let alone = self.dice.below(2) == 0;
            let one = self.dice.below(self.links.len() as u64) as usize;
            let is_meant = |link: usize| match alone {
                // The links are in the order of who calls, and then of who is called.
                true => {
                    let (from, to) = (link / peers, link % peers);
                    from == node || to + usize::from(to >= from) == node
                }
                false => link == one,
            };
            let meant: Vec<&Proxy> = self
                .links
                .iter()
                .enumerate()
                .filter(|(link, _)| is_meant(*link))
                .map(|(_, link)| link)
                .collect();
            meant.iter().for_each(|link| link.hold(held));
            counts.links.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(self.dice.below(3000)));
            meant.iter().for_each(|link| link.hold(Held::default()));
        }
    }

    /// Role and epoch of each node that answers.
    fn standings(&self) -> Vec<(usize, String, u64)> {
        let status = |node| {
            let status = self.on(node, &["cluster", "status", "--json"]);
            let status = (status.status == 0).then(|| status.json())?;
            Some((node, status["role"].as_str()?.to_owned(), status["epoch"].as_u64()?))
        };
        (0..self.nodes.len()).filter_map(status).collect()
    }

    fn assume(&self, node: usize, role: &str, epoch: u64, counts: &Counts) -> bool {
        let assumed = self.on(node, &["cluster", "assume-role", role, &epoch.to_string()]).status == 0;
        let count = if assumed { &counts.roles } else { &counts.not_assumed };
        count.fetch_add(1, Ordering::Relaxed);
        assumed
    }

    /// Assumes roles: by a hand-over from the primary to another node, or by another node alone.
    fn operate(&self, goes_on: &impl Fn() -> bool, counts: &Counts) {
        while goes_on() {
            thread::sleep(Duration::from_millis(500 + self.dice.below(2500)));
            let standings = self.standings();
            let Some(next) = standings.iter().map(|(_, _, epoch)| epoch + 1).max() else { continue };
            let primary = standings.iter().find(|(_, role, _)| role == "primary").map(|(node, ..)| *node);
            let others: Vec<usize> =
                standings.iter().map(|(node, ..)| *node).filter(|node| Some(*node) != primary).collect();
            let Some(&other) = others.get(self.dice.below(others.len().max(1) as u64) as usize) else {
                continue;
            };
            match primary {
                Some(primary) if self.dice.below(2) == 0 => {
                    if self.assume(primary, "standby", next, counts) {
                        self.assume(other, "primary", next, counts);
                    }
                }
                _ => drop(self.assume(other, "primary", next, counts)),
            }
        }
    }

    /// A node whose disk was full is started again, an operator finds a node that may lead; then all have every row that was acknowledged, and one root.
    fn compare(&self) -> Result<(), String> {
        self.nodes.iter().filter_map(|node| node.clock.as_ref()).for_each(|clock| clock.jump(0));
        for (number, _) in self.nodes.iter().enumerate().filter(|(_, node)| node.disk.is_some()) {
            self.kill(number);
            self.start(number);
        }
        self.wait("a primary that takes writes", || {
            let standings = self.standings();
            if standings.len() < self.nodes.len() {
                return None;
            }
            let put = |node| {
                let put =
                    |name| self.on(node, &["--database", name, "put", "t", "the end", "value"]).status == 0;
                DATABASES.iter().all(|name| put(name))
            };
            if standings.iter().any(|(node, role, _)| role == "primary" && put(*node)) {
                return Some(());
            }
            let next = standings.iter().map(|(_, _, epoch)| epoch + 1).max()?;
            let node = self.dice.below(self.nodes.len() as u64) as usize;
            (self.assume(node, "primary", next, &Counts::default()) && put(node)).then_some(())
        })?;
        let scan = |node: usize| {
            let scan = |name: &&str| {
                let scan = self.on(node, &["--database", name, "scan", "t"]);
                (scan.status == 0).then_some(scan.stdout)
            };
            DATABASES.iter().map(scan).collect::<Option<Vec<String>>>()
        };
        self.wait("all rows to be the same", || {
            let first = scan(0)?;
            (1..self.nodes.len()).all(|node| scan(node).as_ref() == Some(&first)).then_some(())
        })?;
        for node in &self.nodes {
            let server = node.server.lock().take();
            if let Some(mut server) = server
                && server.stop() != 0
            {
                return Err(format!("{} did not stop well: {}", node.name, server.log()));
            }
        }
        DATABASES.iter().try_for_each(|database| self.compare_stopped(database))
    }

    /// Each node that was stopped has every row of `database` that was acknowledged, and the same root.
    fn compare_stopped(&self, database: &str) -> Result<(), String> {
        let mut roots = Vec::new();
        for Node { name, dir, .. } in &self.nodes {
            let dir = dir.join(database);
            let checked = self.sandbox.run(&["-C", &dir.to_string_lossy(), "fsck"]);
            if checked.status != 0 {
                return Err(format!("{database} of {name} is damaged: {}{}", checked.stdout, checked.stderr));
            }
            let store = Database::open(&dir, pleach_engine::Options::default());
            let store = store.map_err(|error| error.to_string())?;
            roots.push(store.root().map_err(|error| error.to_string())?);
            let table = store.resolve("@work", "main").and_then(|work| store.snapshot(&work));
            let table = table.and_then(|snapshot| snapshot.table("t")).map_err(|error| error.to_string())?;
            let table = table.ok_or_else(|| format!("{database} of {name} has no table"))?;
            let acknowledged = self.acknowledged.lock();
            for (_, row, token) in acknowledged.iter().filter(|(of, ..)| *of == database) {
                if table.get(row.as_bytes()).map_err(|error| error.to_string())?.is_none() {
                    return Err(format!(
                        "{name} lost row {row} of {database}, which was acknowledged as {token}"
                    ));
                }
            }
        }
        match roots.iter().all(|root| *root == roots[0]) {
            true => Ok(()),
            false => Err(format!("the roots of {database} differ: {roots:?}")),
        }
    }

    fn wait<T>(&self, what: &str, mut until: impl FnMut() -> Option<T>) -> Result<T, String> {
        let start = Instant::now();
        loop {
            if let Some(value) = until() {
                return Ok(value);
            }
            if start.elapsed() > SAME_WITHIN {
                let logs = self.nodes.iter().enumerate().map(|(number, node)| {
                    let log = node.server.lock().as_ref().map(Server::log).unwrap_or_default();
                    let newest: Vec<&str> = log.lines().rev().take(6).collect();
                    let status = self.on(number, &["cluster", "status"]);
                    format!("\n{}: {}{}\n  {}", node.name, status.stdout, status.stderr, newest.join("\n  "))
                });
                return Err(format!("waited in vain for {what}{}", logs.collect::<String>()));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}
