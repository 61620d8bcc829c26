//! A primary that pushes on write, its remote, and two read replicas, over links that are slow and cut, with kill -9 of any of the four.
//!
//! One idea: whoever was told that a commit is done knows what everybody must see from then on. A row whose commit was answered without a warning is at the remote; so a replica that
//! answers a read which began later has it, or says that it cannot ask. When everything is up again, all four have the same head, and every row that was acknowledged.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use pleach_protocol::testing::Proxy;
use pleach_tests::{Run as Command, Sandbox, Server, dice::Dice, free_port};
use tokio::runtime::Runtime;

use crate::{Plant, Run, Stop, forms::checked};

const WRITERS: usize = 3;
const READERS: usize = 2;
/// How long servers and links fail, before all is up again and compared.
const ROUND: Duration = Duration::from_secs(12);
/// How long all four may take to be the same then.
const SAME_WITHIN: Duration = Duration::from_secs(60);
/// What each server is called; the remote first.
const NAMES: [&str; 4] = ["remote", "primary", "reader-1", "reader-2"];

#[derive(Default)]
struct Counts {
    kills: AtomicU64,
    cuts: AtomicU64,
    commits: AtomicU64,
    unacknowledged: AtomicU64,
    reads: AtomicU64,
    unanswered: AtomicU64,
}

/// Runs rounds until its time is over, every other one with a strict primary.
pub(crate) fn run(run: &Run) -> Result<String, Stop> {
    let counts = Counts::default();
    let mut round = 0;
    while run.goes_on() {
        let at = |what| format!("round {round} from seed {}: {what}", run.seed);
        let dice = Dice::new(run.seed + round);
        Site::new(round % 2 == 1, run.plant, dice).and_then(|site| site.round(&counts)).map_err(at)?;
        round += 1;
    }
    let [kills, cuts, commits, unacknowledged, reads, unanswered] = [
        &counts.kills,
        &counts.cuts,
        &counts.commits,
        &counts.unacknowledged,
        &counts.reads,
        &counts.unanswered,
    ]
    .map(|count| count.load(Ordering::Relaxed));
    checked(&[("commits acknowledged", commits), ("reads", reads), ("kills", kills)])?;
    Ok(format!(
        "{round} rounds: {commits} commits acknowledged, {unacknowledged} not; {reads} reads of replicas, {unanswered} not answered; {kills} kills, {cuts} cuts; no read was stale, \
         and all were the same at the end of each"
    ))
}

struct Site {
    sandbox: Sandbox,
    servers: [Mutex<Option<Server>>; 4],
    urls: [String; 4],
    links: Links,
    plant: Option<Plant>,
    dice: Dice,
    /// Rows whose commit was acknowledged, and those that were tried, of each writer.
    acknowledged: [Mutex<Vec<String>>; WRITERS],
    tried: Mutex<BTreeSet<String>>,
    over: AtomicBool,
    stale: Mutex<Option<String>>,
}

/// The links of the primary and of the replicas to the remote.
struct Links {
    proxies: Vec<Proxy>,
    fails: Arc<AtomicBool>,
    _runtime: Runtime,
}

impl Links {
    fn new(remote: std::net::SocketAddr, dice: &Dice) -> Result<Links, String> {
        let runtime = Runtime::new().map_err(|error| error.to_string())?;
        let fails = Arc::new(AtomicBool::new(true));
        let proxies = (0..2).map(|_| {
            let (fails, dice) = (fails.clone(), dice.clone());
            let delay = Duration::from_millis([0, 2, 20][dice.below(3) as usize]);
            // Two connections in three are cut, soon or late.
            let cut_after = move || {
                let cut = fails.load(Ordering::Relaxed) && dice.below(3) > 0;
                cut.then(|| 1 << dice.below(16))
            };
            runtime.block_on(Proxy::start(remote, delay, cut_after)).map_err(|error| error.to_string())
        });
        let proxies = proxies.collect::<Result<_, _>>()?;
        Ok(Links { proxies, fails, _runtime: runtime })
    }
}

impl Site {
    fn new(strict: bool, plant: Option<Plant>, dice: Dice) -> Result<Site, String> {
        let sandbox = Sandbox::new();
        let ports = NAMES.map(|_| free_port());
        let remote = format!("127.0.0.1:{}", ports[0]).parse().map_err(|error| format!("{error}"))?;
        let links = Links::new(remote, &dice)?;
        let link = |link: usize| format!("http://{}/{{database}}", links.proxies[link].address());
        // Planted: replicas that believe for a minute what they have.
        let staleness = if plant == Some(Plant::StaleReads) { "60s" } else { "0s" };
        let replications = [
            String::new(),
            format!(
                "replication: {{replicate_to_remote: origin, strict: {strict}, remote_url_template: \"{}\"}}\n",
                link(0)
            ),
            format!(
                "replication: {{read_replica_remote: origin, replicate_heads: main, max_staleness: {staleness}, remote_url_template: \"{}\"}}\n",
                link(1)
            ),
            format!(
                "replication: {{read_replica_remote: origin, replicate_all_heads: true, refresh: watch, max_staleness: {staleness}, remote_url_template: \"{}\"}}\n",
                link(1)
            ),
        ];
        for ((name, port), replication) in NAMES.iter().zip(ports).zip(replications) {
            let text =
                format!("data_dir: {name}\nlistener: {{host: 127.0.0.1, port: {port}}}\n{replication}");
            sandbox.write(&format!("{name}.yaml"), &text);
        }
        let site = Site {
            servers: NAMES.map(|name| Mutex::new(Some(started(&sandbox, name)))),
            urls: ports.map(|port| format!("http://127.0.0.1:{port}")),
            sandbox,
            links,
            plant,
            dice,
            acknowledged: Default::default(),
            tried: Mutex::default(),
            over: AtomicBool::new(false),
            stale: Mutex::new(None),
        };
        for server in [0, 1] {
            site.wait("its database", || {
                let made = site.on(server, &["database", "create", "db"]);
                (made.status == 0 || made.stderr.contains("exists already")).then_some(())
            })?;
        }
        Ok(site)
    }

    /// Writes and reads while things fail; then all is to be the same.
    fn round(&self, counts: &Counts) -> Result<(), String> {
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                scope.spawn(move || self.write(writer, counts));
            }
            for _ in 0..READERS {
                scope.spawn(|| self.read(counts));
            }
            let until = Instant::now() + ROUND;
            while Instant::now() < until && self.stale.lock().is_none() {
                thread::sleep(Duration::from_millis(200 + self.dice.below(1500)));
                self.kill(self.dice.below(4) as usize, counts);
            }
            self.over.store(true, Ordering::Relaxed);
        });
        let cuts: u64 = self.links.proxies.iter().map(|proxy| proxy.counts().cuts).sum();
        counts.cuts.fetch_add(cuts, Ordering::Relaxed);
        if let Some(stale) = self.stale.lock().take() {
            return Err(stale);
        }
        self.links.fails.store(false, Ordering::Relaxed);
        self.compare()
    }

    /// Kills a server, and starts it again after a while.
    fn kill(&self, server: usize, counts: &Counts) {
        let mut running = self.servers[server].lock();
        if let Some(mut server) = running.take() {
            server.kill();
        }
        thread::sleep(Duration::from_millis(self.dice.below(1000)));
        *running = Some(started(&self.sandbox, NAMES[server]));
        counts.kills.fetch_add(1, Ordering::Relaxed);
    }

    /// A command on database `db` of a server.
    fn on(&self, server: usize, command: &[&str]) -> Command {
        let head: &[&str] = match command[0] {
            "database" => &["--server", &self.urls[server]],
            _ => &["--server", &self.urls[server], "--database", "db"],
        };
        self.sandbox.run(&[head, command].concat())
    }

    fn write(&self, writer: usize, counts: &Counts) {
        let mut number = 0;
        let mut put = Vec::new();
        while !self.over.load(Ordering::Relaxed) {
            let row = format!("{writer}-{number:06}");
            number += 1;
            self.tried.lock().insert(row.clone());
            let early = self.plant == Some(Plant::EarlyAck);
            if early {
                self.acknowledged[writer].lock().push(row.clone());
            }
            if self.on(1, &["put", "t", &row, "value"]).status != 0 {
                counts.unacknowledged.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            put.push(row);
            let committed = self.on(1, &["commit", "-m", "m"]);
            // Another writer's commit had this row in it already; whether that is at the remote, that writer was told.
            let is_done = committed.status == 0 && !committed.stderr.contains("warning");
            let count = if is_done { &counts.commits } else { &counts.unacknowledged };
            count.fetch_add(1, Ordering::Relaxed);
            if is_done {
                self.acknowledged[writer].lock().append(&mut put);
            }
        }
    }

    fn read(&self, counts: &Counts) {
        while !self.over.load(Ordering::Relaxed) {
            let writer = self.dice.below(WRITERS as u64) as usize;
            let newest = self.acknowledged[writer].lock().last().cloned();
            let Some(row) = newest else {
                thread::sleep(Duration::from_millis(10));
                continue;
            };
            let server = 2 + self.dice.below(2) as usize;
            let read = self.on(server, &["get", "t", &row]);
            match read.status {
                0 => counts.reads.fetch_add(1, Ordering::Relaxed),
                4 => counts.unanswered.fetch_add(1, Ordering::Relaxed),
                status => {
                    let what = format!(
                        "{} does not have row {row}, which was acknowledged: status {status}, {}",
                        NAMES[server], read.stderr
                    );
                    *self.stale.lock() = Some(what);
                    return;
                }
            };
        }
    }

    /// All heads are the same, and every row that was acknowledged is everywhere.
    fn compare(&self) -> Result<(), String> {
        // What is not committed, or not at the remote, yet.
        self.wait("the last commit", || {
            let put = self.on(1, &["put", "t", "the end", "value"]);
            let committed = self.on(1, &["commit", "-m", "the end"]);
            let has_nothing = committed.stderr.contains("nothing to commit");
            (put.status == 0 && (committed.status == 0 || has_nothing)).then_some(())
        })?;
        let head = |server: usize| {
            let log = self.on(server, &["log", "-n", "1", "--json"]);
            (log.status == 0).then(|| log.json_lines().first().map(|commit| commit["hash"].clone())).flatten()
        };
        self.wait("all heads to be the same", || {
            let first = head(0)?;
            (1..4).all(|server| head(server).as_ref() == Some(&first)).then_some(())
        })?;
        let tried = self.tried.lock();
        for (server, name) in NAMES.iter().enumerate() {
            let there = self.on(server, &["scan", "t", "--at", "HEAD"]).ok();
            let there: BTreeSet<&str> = there.lines().filter_map(|line| line.split('\t').next()).collect();
            for acknowledged in &self.acknowledged {
                let acknowledged = acknowledged.lock();
                if let Some(lost) = acknowledged.iter().find(|row| !there.contains(row.as_str())) {
                    return Err(format!("{name} lost row {lost}, which was acknowledged"));
                }
            }
            if let Some(made_up) = there.iter().find(|row| **row != "the end" && !tried.contains(**row)) {
                return Err(format!("{name} has row {made_up}, which nobody wrote"));
            }
        }
        for server in &self.servers {
            let server = server.lock().take();
            if let Some(mut server) = server
                && server.stop() != 0
            {
                return Err(format!("a server did not stop well: {}", server.log()));
            }
        }
        for name in NAMES {
            let checked = self.sandbox.run(&["-C", &format!("{name}/db"), "fsck"]);
            if checked.status != 0 {
                return Err(format!("{name} is damaged: {}{}", checked.stdout, checked.stderr));
            }
        }
        Ok(())
    }

    fn wait<T>(&self, what: &str, mut until: impl FnMut() -> Option<T>) -> Result<T, String> {
        let start = Instant::now();
        loop {
            if let Some(value) = until() {
                return Ok(value);
            }
            if start.elapsed() > SAME_WITHIN {
                let logs = self.servers.iter().zip(NAMES).map(|(server, name)| {
                    let log = server.lock().as_ref().map(Server::log).unwrap_or_default();
                    let newest: Vec<&str> = log.lines().rev().take(5).collect();
                    format!("\n{name}: {}", newest.join("\n  "))
                });
                return Err(format!("waited in vain for {what}{}", logs.collect::<String>()));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

fn started(sandbox: &Sandbox, name: &str) -> Server {
    sandbox.serve(&["--config", &format!("{name}.yaml")])
}
