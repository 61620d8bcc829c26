//! cluster drill: a planned switch there and back on a running pair, under writes of its own or watched only, and what it took.
//!
//! It begins only if both nodes are well, changes roles as an operator would, by hand-overs alone, and looks at what clients see meanwhile. Whatever goes wrong, it
//! says which node takes writes, and what to run next; Ctrl-C is such a failure, after the step that is under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pleach_client::{Client, Error as ClientError, Options};
use pleach_protocol::{Bearer, Credential, Credentials};
use serde_json::{Value, json};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use self::probe::{Counted, Probe, key};
use super::args::Drill;
use super::{Context, backend, tokens};
use crate::error::{Failure, Kind, Result};
use crate::proto::{AssumeRoleRequest, ClusterStatusRequest, ClusterStatusResponse, data_client::DataClient};

mod probe;

/// The table of the scratch database that is written to, and dropped at the end.
const TABLE: &str = "probe";
/// How long a node may take to be caught up, and a database to be equal on both.
const CATCH_UP_MAX: Duration = Duration::from_secs(60);
/// Lag with which a drill begins.
const LAG_MAX_MILLIS: u64 = 1000;
/// How often is looked.
const LOOK: Duration = Duration::from_millis(5);
/// How long the probe goes on before, between and after the switches.
const UNDISTURBED: Duration = Duration::from_millis(500);

pub(super) fn drill(context: &mut Context, arguments: &Drill) -> Result<()> {
    let Some(primary) = context.global.server.clone() else {
        return Err(Failure::usage("cluster drill needs --server URL, that of the primary")
            .hint("for example --server http://127.0.0.1:7420 --standby http://127.0.0.1:7430"));
    };
    let token = tokens::token(&context.global)?;
    let credentials = match [&primary, &arguments.standby].iter().any(|url| url.starts_with("https://")) {
        true => context.credentials()?,
        false => Credentials::default(),
    };
    let output = &context.output;
    let report = backend::runtime()?.block_on(async {
        let mut nodes = Vec::new();
        for url in [&primary, &arguments.standby] {
            let channel = backend::connect(url, token.clone(), &credentials).await?;
            let client = DataClient::with_interceptor(channel, Bearer::new(token.clone()));
            let authority = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
            let credential = Credential { token: token.clone(), tls: credentials.of(authority).tls };
            nodes.push(Node { url: url.trim_end_matches('/').to_owned(), client, credential });
        }
        let [primary, standby] =
            <[Node; 2]>::try_from(nodes).map_err(|_| Failure::usage("expected a primary and a standby"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                stopping.store(true, Ordering::SeqCst);
            }
        });
        let scratch = (!arguments.no_writes).then(|| arguments.scratch.clone());
        let drill = DrillRun { nodes: [primary, standby], stop, note: &|text| output.note(text) };
        drill.run(scratch.as_deref()).await
    })?;
    if context.output.json {
        context.output.document(&report.to_json())?;
    } else {
        report.lines().into_iter().try_for_each(|line| context.output.line(line))?;
    }
    match report.problem() {
        Some(problem) => Err(problem),
        None => Ok(()),
    }
}

/// One node of the pair.
struct Node {
    url: String,
    client: DataClient<InterceptedService<Channel, Bearer>>,
    credential: Credential,
}

impl Node {
    async fn status(&self, roots: bool) -> Result<ClusterStatusResponse> {
        let answer = self.client.clone().cluster_status(ClusterStatusRequest { roots }).await;
        Ok(answer.map_err(|status| Failure::from_status(&status))?.into_inner())
    }

    async fn assume(&self, role: &str, epoch: u64) -> Result<()> {
        let request = AssumeRoleRequest { role: role.into(), epoch, min_caught_up: None };
        self.client.clone().assume_role(request).await.map_err(|status| Failure::from_status(&status))?;
        Ok(())
    }

    /// A client of this node alone.
    fn alone(&self) -> Result<Client> {
        client([self.url.as_str()], self)
    }
}

fn client<'a>(urls: impl IntoIterator<Item = &'a str>, node: &Node) -> Result<Client> {
    let (credential, pause) = (node.credential.clone(), Duration::from_millis(2));
    let (tries_max, leave_out) = (4, Duration::from_millis(5));
    let options = Options { credential, pause, tries_max, leave_out, ..Options::default() };
    Client::connect(urls, options).map_err(|error| failed(&error))
}

fn failed(error: &ClientError) -> Failure {
    Failure::remote(error.to_string())
}

/// What one change of the primary took, in milliseconds from its begin.
#[derive(Debug)]
struct Switch {
    from: String,
    to: String,
    epoch: u64,
    /// The primary was a standby, durably.
    handed_over: u64,
    /// The standby was primary, durably.
    assumed: u64,
    /// A client wrote.
    writable: u64,
    /// The old primary had everything.
    caught_up: u64,
    /// The longest time in which a client could not write.
    without_writable: u64,
}

/// What a drill found.
#[derive(Debug)]
struct Report {
    switches: Vec<Switch>,
    /// Of writes: how many were acknowledged, how many of them are not there, and how many outcomes are open.
    writes: Option<(usize, usize, usize)>,
    /// Databases that were equal on both nodes, and those that were not seen to be.
    equal: usize,
    differ: Vec<String>,
    scratch: Option<String>,
    seconds: f64,
}

impl Report {
    fn to_json(&self) -> Value {
        let switch = |switch: &Switch| {
            json!({
                "from": switch.from,
                "to": switch.to,
                "epoch": switch.epoch,
                "handed_over_millis": switch.handed_over,
                "assumed_millis": switch.assumed,
                "writable_millis": switch.writable,
                "caught_up_millis": switch.caught_up,
                "without_writable_millis": switch.without_writable,
            })
        };
        json!({
            "switches": self.switches.iter().map(switch).collect::<Vec<_>>(),
            "probe": if self.writes.is_some() { "writes" } else { "none" },
            "acknowledged": self.writes.map(|(acknowledged, _, _)| acknowledged),
            "lost": self.writes.map(|(_, lost, _)| lost),
            "open": self.writes.map(|(_, _, open)| open),
            "databases_equal": self.equal,
            "databases_not_equal": self.differ,
            "scratch_database": self.scratch,
            "seconds": self.seconds,
        })
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for switch in &self.switches {
            lines.push(format!("{} -> {} at epoch {}", switch.from, switch.to, switch.epoch));
            for (what, millis) in [
                ("handed over", switch.handed_over),
                ("new primary", switch.assumed),
                ("writable", switch.writable),
                ("old primary caught up", switch.caught_up),
            ] {
                lines.push(format!("  {what}\tafter {millis} ms"));
            }
            lines.push(format!("  without a writable node\t{} ms", switch.without_writable));
        }
        if let Some((acknowledged, lost, open)) = self.writes {
            lines.push(format!(
                "{acknowledged} writes acknowledged, {lost} lost, {open} with an open outcome"
            ));
        }
        let databases = if self.equal == 1 { "database" } else { "databases" };
        lines.push(format!("{} {databases} equal on both nodes, {} not", self.equal, self.differ.len()));
        lines
    }

    /// What is wrong with the pair, which has its roles of before.
    fn problem(&self) -> Option<Failure> {
        if let Some((_, lost @ 1.., _)) = self.writes {
            let scratch = self.scratch.as_deref().unwrap_or_default();
            return Some(
                Failure::new(Kind::Damaged, format!("{lost} acknowledged writes are lost"))
                    .hint(format!("look at table {TABLE} of database {scratch}, which is left as it is, and at what is kept under `recovery/` on both nodes")),
            );
        }
        if !self.differ.is_empty() {
            let names = self.differ.join(", ");
            return Some(
                Failure::refused(format!("not seen equal on both nodes within {} s: {names}", CATCH_UP_MAX.as_secs()))
                    .hint("databases under constant writes are never seen equal; else look at `pleach cluster status`"),
            );
        }
        None
    }
}

/// A drill that is under way.
struct DrillRun<'a> {
    /// The primary of the beginning, and the standby.
    nodes: [Node; 2],
    stop: Arc<AtomicBool>,
    note: &'a dyn Fn(&str),
}

impl DrillRun<'_> {
    async fn run(&self, scratch: Option<&str>) -> Result<Report> {
        let begun = Instant::now();
        let [first, second] = &self.nodes;
        let epoch = self.preflight().await?;
        let probe = match scratch {
            Some(scratch) => Probe::writes(&self.nodes, scratch).await?,
            None => Probe::watches(&self.nodes),
        };
        (self.note)("both nodes are well; the drill begins");
        let mut switches = Vec::new();
        tokio::time::sleep(UNDISTURBED).await;
        for (from, to, epoch) in [(first, second, epoch + 1), (second, first, epoch + 2)] {
            match self.switch(from, to, epoch, &probe).await {
                Ok(switch) => {
                    switches.push(switch);
                    tokio::time::sleep(UNDISTURBED).await;
                }
                Err(failure) => {
                    probe.end().await;
                    return Err(self.explain(failure, from).await);
                }
            }
        }
        let counted = probe.end().await;
        let ended = async {
            let writes = match (&counted, scratch) {
                (Some(counted), Some(scratch)) => Some(self.count(counted, scratch).await?),
                _ => None,
            };
            let lost = writes.is_some_and(|(_, lost, _)| lost > 0);
            if let (Some(scratch), false) = (scratch, lost) {
                let dropped = first.alone()?.database(scratch).drop_table(TABLE).await;
                dropped.map_err(|error| failed(&error))?;
            }
            let (equal, differ) = self.compare().await?;
            Ok((writes, equal, differ))
        };
        let (writes, equal, differ) = match ended.await {
            Ok(ended) => ended,
            Err(failure) => return Err(self.explain(failure, first).await),
        };
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Report { switches, writes, equal, differ, scratch: scratch.map(str::to_owned), seconds })
    }

    fn interrupted(&self) -> Result<()> {
        match self.stop.load(Ordering::SeqCst) {
            true => Err(Failure::new(Kind::Refused, "interrupted")),
            false => Ok(()),
        }
    }

    /// The epoch of a pair that is well; else what is not.
    async fn preflight(&self) -> Result<u64> {
        let [first, second] = &self.nodes;
        let not_now = |what: String| {
            Failure::refused(format!("the drill does not begin: {what}")).hint("nothing was changed")
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let (primary, standby) = (first.status(false).await?, second.status(false).await?);
            let is = |node: &Node, status: &ClusterStatusResponse| {
                format!("{} is {} at epoch {}", node.url, status.role, status.epoch)
            };
            if primary.role != "primary" {
                return Err(not_now(format!("{}, and --server names the primary", is(first, &primary))));
            }
            if !primary.takes_writes {
                return Err(not_now(format!("{}, and takes no writes", is(first, &primary))));
            }
            if primary.election.is_some() {
                return Err(not_now(
                    "this cluster elects its primary; `pleach cluster transition-to-standby` on the primary moves it".into(),
                ));
            }
            if primary.node == standby.node {
                return Err(not_now(format!("{} and {} are one node", first.url, second.url)));
            }
            if standby.role != "standby" || standby.epoch != primary.epoch || standby.leader != primary.node {
                return Err(not_now(format!("{}, and does not follow {}", is(second, &standby), first.url)));
            }
            let wrong = primary.databases.iter().find_map(|row| {
                let what = match (&row.current_error, row.replication_lag_millis) {
                    (Some(error), _) => error.clone(),
                    (None, None) => "how far it is is not known".to_owned(),
                    (None, Some(lag)) if lag > LAG_MAX_MILLIS => format!("it is {lag} ms behind"),
                    (None, Some(_)) => return None,
                };
                Some(format!("{} of `{}`: {what}", row.standby_remote, row.database))
            });
            match wrong {
                None => return Ok(primary.epoch),
                Some(wrong) if Instant::now() > deadline => return Err(not_now(wrong)),
                Some(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Makes `to` primary in place of `from`.
    async fn switch(&self, from: &Node, to: &Node, epoch: u64, probe: &Probe) -> Result<Switch> {
        self.interrupted()?;
        let begun = Instant::now();
        let millis = || u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        from.assume("standby", epoch).await?;
        let handed_over = millis();
        to.assume("primary", epoch).await?;
        let assumed = millis();
        let since = Instant::now();
        while !probe.wrote_after(since) {
            self.within(begun, || format!("no write was acknowledged by {}", to.url)).await?;
        }
        let writable = millis();
        let leader = to.status(false).await?.node;
        loop {
            let (old, new) = (from.status(false).await?, to.status(false).await?);
            let follows = old.role == "standby" && old.leader == leader;
            let behind = |row: &crate::proto::StandbyStatus| {
                row.current_error.is_some()
                    || row.replication_lag_millis.is_none_or(|lag| lag > LAG_MAX_MILLIS)
            };
            if follows && !new.databases.iter().any(behind) {
                break;
            }
            self.within(begun, || format!("not all standbys of {} caught up", to.url)).await?;
        }
        let caught_up = millis();
        let without_writable = u64::try_from(probe.longest_gap(begun).as_millis()).unwrap_or(u64::MAX);
        let (from, to) = (from.url.clone(), to.url.clone());
        Ok(Switch { from, to, epoch, handed_over, assumed, writable, caught_up, without_writable })
    }

    /// Waits for a moment, unless it is too late.
    async fn within(&self, begun: Instant, what: impl Fn() -> String) -> Result<()> {
        self.interrupted()?;
        if begun.elapsed() > CATCH_UP_MAX {
            return Err(Failure::refused(format!("{} within {} s", what(), CATCH_UP_MAX.as_secs())));
        }
        tokio::time::sleep(LOOK).await;
        Ok(())
    }

    /// How many writes were acknowledged, how many of them are not on both nodes, and how many are open.
    async fn count(&self, counted: &Counted, scratch: &str) -> Result<(usize, usize, usize)> {
        let mut lost: BTreeSet<u64> = BTreeSet::new();
        for node in &self.nodes {
            let client = node.alone()?;
            if let Some(token) = counted.token {
                client.saw(scratch, token);
            }
            let rows = client.database(scratch).scan(TABLE, ..).await.map_err(|error| failed(&error))?;
            let rows = rows.all().await.map_err(|error| failed(&error))?;
            let there: BTreeSet<&[u8]> = rows.iter().map(|row| row.key()).collect();
            lost.extend(
                counted
                    .acknowledged
                    .iter()
                    .filter(|n| !there.contains(key(counted.drill, **n).as_bytes()))
                    .copied(),
            );
        }
        Ok((counted.acknowledged.len(), lost.len(), counted.open))
    }

    /// Databases that were seen equal on both nodes, and those that were not.
    async fn compare(&self) -> Result<(usize, Vec<String>)> {
        let [first, second] = &self.nodes;
        let begun = Instant::now();
        let mut equal: BTreeMap<String, bool> = BTreeMap::new();
        loop {
            let (here, there) = (first.status(true).await?, second.status(true).await?);
            for root in &here.roots {
                let same = there.roots.contains(root);
                *equal.entry(root.database.clone()).or_default() |= same;
            }
            let differ: Vec<String> =
                equal.iter().filter(|(_, same)| !**same).map(|(name, _)| name.clone()).collect();
            if differ.is_empty() || begun.elapsed() > CATCH_UP_MAX {
                return Ok((equal.len() - differ.len(), differ));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What went wrong, with where things stand now and what to run. `from` was to hand over in the step that failed.
    async fn explain(&self, mut failure: Failure, from: &Node) -> Failure {
        let (mut stand, mut writable, mut epoch_max) = (Vec::new(), None, 0);
        for node in &self.nodes {
            match node.status(false).await {
                Ok(status) => {
                    let writes = if status.takes_writes { "takes writes" } else { "takes no writes" };
                    stand.push(format!(
                        "{} is {} at epoch {} and {writes}",
                        node.url, status.role, status.epoch
                    ));
                    epoch_max = epoch_max.max(status.epoch);
                    if status.takes_writes {
                        writable = Some(node);
                    }
                }
                Err(error) => stand.push(format!("{} does not answer ({error})", node.url)),
            }
        }
        let next = epoch_max + 1;
        let [first, second] = &self.nodes;
        let hint = match writable {
            Some(node) if node.url == first.url => {
                "clients can write, on the node that was primary before; see that both are well with `pleach cluster status`, and drill again".to_owned()
            }
            Some(node) => format!(
                "clients can write. When {} is well: `pleach cluster assume-role standby {next} --server {}`, then `pleach cluster assume-role primary {next} --server {}`",
                first.url, node.url, first.url
            ),
            None => {
                // Who was to hand over last has everything, whether it did or not.
                let other = if from.url == first.url { second } else { first };
                format!(
                    "nobody takes writes: `pleach cluster assume-role primary {next} --server {}`, which has everything; if it does not answer, the same on {}",
                    from.url, other.url
                )
            }
        };
        failure.message = format!("the drill ended early: {}; {}", failure.message, stand.join("; "));
        failure.hint(hint)
    }
}
