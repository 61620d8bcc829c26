//! The figures as text for Prometheus, in the OpenMetrics format or the one from before. What each means, with its unit, is in its help here and in `docs/monitoring.md`, which a test compares.
//!
//! Labels are methods of this server, databases that are open, and remotes and standbys of the configuration: nothing that strangers choose.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use pleach_engine::{Database, Stats};
use pleach_protocol::Databases;
use pleach_replication::{PullStatus, PushStatus};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::Metrics;
use super::calls::{Method, SECONDS};
use super::port::ROLES;
use crate::gate::Observed;

/// What [`text`] gives.
pub(super) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What [`older`] gives.
pub(super) const OLDER: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All figures, as they are now. Databases that have not given theirs by `deadline` are said to be busy.
pub(super) fn text(
    metrics: &Metrics,
    databases: &Databases,
    observed: Option<Observed>,
    deadline: Instant,
) -> String {
    let of = |(name, database): (String, Database)| {
        let store = database.store();
        Figures {
            name,
            stats: store.stats_before(deadline),
            is_poisoned: store.poisoned().is_some(),
            has_failed_to_compact: store.maintenance_failure().is_some(),
        }
    };
    let scraped = Scraped {
        started: metrics.inner.started,
        methods: metrics.inner.calls.methods(),
        running: metrics.inner.calls.running(),
        warnings: metrics.inner.warnings.lock().clone(),
        backups: metrics.inner.backups.lock().clone(),
        databases: databases.loaded_before(deadline).into_iter().map(of).collect(),
        observed,
        data_dir: databases.data_dir().to_owned(),
    };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(scraped));
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    text
}

/// The same in the format from before OpenMetrics, in which a counter is called what its samples are.
pub(super) fn older(text: &str) -> String {
    let counters: HashSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut older = String::with_capacity(text.len());
    for line in text.lines().filter(|line| *line != "# EOF") {
        let word = ["# HELP ", "# TYPE "].into_iter().find(|word| line.starts_with(word));
        let described = word.and_then(|word| Some((word, line.strip_prefix(word)?.split_once(' ')?)));
        match described {
            Some((word, (name, rest))) if counters.contains(name) => {
                older.extend([word, name, "_total ", rest]);
            }
            _ => older.push_str(line),
        }
        older.push('\n');
    }
    older
}

/// What a scrape found.
#[derive(Debug)]
struct Scraped {
    started: SystemTime,
    methods: BTreeMap<&'static str, Method>,
    running: u64,
    warnings: BTreeMap<String, u64>,
    backups: BTreeMap<&'static str, SystemTime>,
    databases: Vec<Figures>,
    observed: Option<Observed>,
    data_dir: PathBuf,
}

/// What a database says of itself.
#[derive(Debug)]
struct Figures {
    name: String,
    stats: Option<Stats>,
    is_poisoned: bool,
    has_failed_to_compact: bool,
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

/// Writes metrics one after the other. One without samples is left out.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn gauge<'l>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        samples.try_for_each(|(labels, value)| match labels.is_empty() {
            true => metric.encode_gauge(&value),
            false => metric.encode_family(&labels)?.encode_gauge(&value),
        })
    }

    /// A counter; the names of its samples end in `_total`.
    fn counter<'l>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        samples.try_for_each(|(labels, value)| match labels.is_empty() {
            true => metric.encode_counter::<NoLabelSet, _, u64>(&value, None),
            false => metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None),
        })
    }

    fn one(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.gauge(name, help, [(Vec::new(), value)])
    }
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

impl Collector for Scraped {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = Writer(encoder);
        self.server(&mut writer)?;
        self.calls(&mut writer)?;
        self.databases(&mut writer)?;
        if let Some(observed) = &self.observed {
            roles(&mut writer, observed)?;
            pushes(&mut writer, observed)?;
            pulls(&mut writer, observed)?;
            standbys(&mut writer, observed)?;
        }
        Ok(())
    }
}

impl Scraped {
    fn server(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        writer.gauge("pleach_build_info", "The version that runs; always 1", [(version, 1.0)])?;
        let help = "When the server was started, since 1970";
        writer.one("pleach_start_time_seconds", help, seconds(self.started))?;
        if let Ok(disk) = rustix::fs::statvfs(&self.data_dir) {
            let bytes = |blocks: u64| blocks as f64 * disk.f_frsize as f64;
            let help = "Bytes of the data directory's disk that can be used";
            writer.one("pleach_disk_free_bytes", help, bytes(disk.f_bavail))?;
            writer.one(
                "pleach_disk_size_bytes",
                "Bytes of the data directory's disk",
                bytes(disk.f_blocks),
            )?;
        }
        writer.counter(
            "pleach_replication_warnings",
            "Warnings of replication that clients were given with their writes",
            self.warnings.iter().map(|(name, count)| (vec![("database", name.as_str())], *count)),
        )?;
        writer.gauge(
            "pleach_backup_last_success_timestamp_seconds",
            "When this server last ended a backup, of one database or of all, since 1970",
            self.backups.iter().map(|(of, time)| (vec![("of", *of)], seconds(*time))),
        )
    }

    fn calls(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.one("pleach_requests_running", "Calls of clients that go on", self.running as f64)?;
        let outcomes = self.methods.iter().flat_map(|(method, counted)| {
            let labels = |outcome| vec![("method", *method), ("outcome", outcome)];
            counted.outcomes.iter().map(move |(outcome, count)| (labels(*outcome), *count))
        });
        writer.counter("pleach_requests", "Calls of clients that have ended", outcomes)?;
        self.durations(writer)?;
        let of = |bytes: fn(&Method) -> u64| {
            self.methods.iter().map(move |(method, counted)| (vec![("method", *method)], bytes(counted)))
        };
        writer.counter(
            "pleach_request_received_bytes",
            "Bytes of messages received by calls that have ended",
            of(|counted| counted.bytes_received),
        )?;
        writer.counter(
            "pleach_request_sent_bytes",
            "Bytes of messages sent by calls that have ended",
            of(|counted| counted.bytes_sent),
        )
    }

    fn durations(&self, writer: &mut Writer<'_>) -> fmt::Result {
        if self.methods.is_empty() {
            return Ok(());
        }
        let name = "pleach_request_duration_seconds";
        let help = "How long calls took, to the last byte of the answer";
        let mut metric = writer.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (method, counted) in &self.methods {
            let ends = SECONDS.into_iter().chain([f64::MAX]);
            let classes: Vec<(f64, u64)> = ends.zip(counted.durations).collect();
            let count = counted.durations.iter().sum();
            let labels = [("method", *method)];
            let mut metric = metric.encode_family(&labels)?;
            metric.encode_histogram::<NoLabelSet>(counted.seconds, count, &classes, None)?;
        }
        Ok(())
    }

    fn databases(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let open = self.databases.len() as f64;
        writer.one("pleach_databases_open", "Databases that are open: used since the start", open)?;
        let of = |figure: fn(&Figures) -> bool| {
            self.databases.iter().map(move |one| (vec![("database", one.name.as_str())], flag(figure(one))))
        };
        writer.gauge(
            "pleach_database_busy",
            "1 if the database did not give its figures in time: it waits for its disk",
            of(|one| one.stats.is_none()),
        )?;
        writer.gauge(
            "pleach_database_poisoned",
            "1 if a failure of the disk forbids writing until the server is started again",
            of(|one| one.is_poisoned),
        )?;
        writer.gauge(
            "pleach_database_compaction_failed",
            "1 if the last compaction in the background failed",
            of(|one| one.has_failed_to_compact),
        )?;
        let samples = || {
            self.databases.iter().filter_map(|one| Some((vec![("database", one.name.as_str())], one.stats?)))
        };
        type Figure = (&'static str, &'static str, fn(&Stats) -> u64);
        let gauges: [Figure; 8] = [
            ("pleach_database_sequence", "Number of the last durable change of refs", |stats| stats.sequence),
            ("pleach_database_refs", "Branches, tags and all other refs", |stats| stats.refs),
            ("pleach_database_chunks", "Chunks in the database", |stats| stats.chunks),
            ("pleach_database_journal_files", "Journals", |stats| stats.journals),
            ("pleach_database_journal_bytes", "Bytes of journals", |stats| stats.journal_bytes),
            ("pleach_database_table_files", "Table files", |stats| stats.tables),
            ("pleach_database_table_bytes", "Bytes of table files", |stats| stats.table_bytes),
            ("pleach_database_cache_bytes", "Bytes of chunks in memory", |stats| stats.cache_bytes),
        ];
        for (name, help, figure) in gauges {
            writer.gauge(name, help, samples().map(|(labels, stats)| (labels, figure(&stats) as f64)))?;
        }
        let counters: [Figure; 6] = [
            ("pleach_database_appends", "Groups of changes appended", |stats| stats.groups),
            ("pleach_database_fsyncs", "Syncs of files and of the directory", |stats| stats.fsyncs),
            ("pleach_database_written_bytes", "Bytes written to files", |stats| stats.bytes_written),
            ("pleach_database_read_bytes", "Bytes read from files", |stats| stats.bytes_read),
            ("pleach_database_cache_hits", "Chunks asked for and found in memory", |stats| stats.cache_hits),
            ("pleach_database_cache_misses", "Chunks asked for and not found in memory", |stats| {
                stats.cache_misses
            }),
        ];
        for (name, help, figure) in counters {
            writer.counter(name, help, samples().map(|(labels, stats)| (labels, figure(&stats))))?;
        }
        Ok(())
    }
}

fn roles(writer: &mut Writer<'_>, observed: &Observed) -> fmt::Result {
    let role = ROLES.map(|role| (vec![("role", role)], flag(role == observed.role)));
    writer.gauge("pleach_role", "1 for the role that this server has, 0 for the others", role)?;
    let epoch = observed.epoch.map(|epoch| (Vec::new(), epoch as f64));
    writer.gauge("pleach_epoch", "Of a node of a cluster, the epoch of its role", epoch)?;
    let takes_writes = observed.takes_writes.map(|takes| (Vec::new(), flag(takes)));
    let help = "Of a node of a cluster, 1 if it takes writes now: a primary that waits for others does not";
    writer.gauge("pleach_takes_writes", help, takes_writes)?;
    let changes = observed.role_changes;
    writer.counter(
        "pleach_role_changes",
        "Of a node of a cluster, changes of its role or epoch",
        changes.map(|changes| (Vec::new(), changes.count)),
    )?;
    let last = changes.and_then(|changes| changes.last).map(|last| (Vec::new(), seconds(last)));
    let help = "Of a node of a cluster, when its role or epoch last changed, since 1970";
    writer.gauge("pleach_role_changed_timestamp_seconds", help, last)?;
    let election = observed.election.as_ref();
    let held = election.map(|election| (Vec::new(), flag(election.held)));
    let help = "Of a cluster that elects its primary: 1 if this node holds the lease, without which it takes no writes";
    writer.gauge("pleach_election_lease_held", help, held)?;
    let error = election.map(|election| (Vec::new(), flag(election.error.is_some())));
    let help = "Of a cluster that elects its primary: 1 if the last request about the lease failed";
    writer.gauge("pleach_election_error", help, error)
}

fn pushes(writer: &mut Writer<'_>, observed: &Observed) -> fmt::Result {
    let remote = observed.remote.as_str();
    let each = || {
        let labels = move |name| vec![("database", name), ("remote", remote)];
        observed.pushes.iter().map(move |push| (labels(push.database.as_str()), push))
    };
    writer.gauge(
        "pleach_push_backlog_refs",
        "Branches and tags that are not at the remote what they are here",
        each().map(|(labels, push)| (labels, push.backlog as f64)),
    )?;
    writer.gauge(
        "pleach_push_lag_seconds",
        "How long ago the oldest change was seen that is not at the remote; 0 if there is none",
        each().map(|(labels, push)| {
            let age = push.behind_since.and_then(|since| since.elapsed().ok());
            (labels, age.map_or(0.0, |age| age.as_secs_f64()))
        }),
    )?;
    writer.gauge(
        "pleach_push_lag_commits",
        "Commits that are not at the remote, counted when a push does not get through; at most 1000 of a branch",
        each().map(|(labels, push)| (labels, push.commits_behind as f64)),
    )?;
    writer.gauge(
        "pleach_push_lag_bytes",
        "Bytes that a push would send, counted when a push does not get through; at most 16 MiB",
        each().map(|(labels, push)| (labels, push.bytes_behind as f64)),
    )?;
    writer.gauge(
        "pleach_push_error",
        "1 if the last push did not get through, or something is stuck",
        each().map(|(labels, push)| (labels, flag(push.current_error.is_some()))),
    )?;
    writer.gauge(
        "pleach_push_last_success_timestamp_seconds",
        "When the last push got through, since 1970",
        each().filter_map(|(labels, push)| Some((labels, seconds(push.last_push?)))),
    )?;
    let count = |of: fn(&PushStatus) -> u64| each().map(move |(labels, push)| (labels, of(push)));
    writer.counter("pleach_push", "Pushes that got through", count(|push| push.pushes))?;
    writer.counter("pleach_push_failures", "Pushes that did not get through", count(|push| push.failures))?;
    writer.counter(
        "pleach_push_sent_bytes",
        "Bytes of messages sent by pushes",
        count(|push| push.bytes_sent),
    )?;
    writer.counter("pleach_push_round_trips", "Round trips of pushes", count(|push| push.round_trips))
}

fn pulls(writer: &mut Writer<'_>, observed: &Observed) -> fmt::Result {
    let remote = observed.remote.as_str();
    let each = || {
        let labels = move |name| vec![("database", name), ("remote", remote)];
        observed.pulls.iter().map(move |pull| (labels(pull.database.as_str()), pull))
    };
    writer.gauge(
        "pleach_pull_staleness_seconds",
        "How long ago it was known that nothing of the remote is missing here; absent before the first pull",
        each().filter_map(|(labels, pull)| Some((labels, pull.staleness?.as_secs_f64()))),
    )?;
    writer.gauge(
        "pleach_pull_error",
        "1 if the last pull did not get through",
        each().map(|(labels, pull)| (labels, flag(pull.current_error.is_some()))),
    )?;
    writer.gauge(
        "pleach_pull_last_success_timestamp_seconds",
        "When the last pull got through, since 1970",
        each().filter_map(|(labels, pull)| Some((labels, seconds(pull.last_pull?)))),
    )?;
    let count = |of: fn(&PullStatus) -> u64| each().map(move |(labels, pull)| (labels, of(pull)));
    writer.counter("pleach_pull", "Pulls that got through", count(|pull| pull.pulls))?;
    writer.counter("pleach_pull_failures", "Pulls that did not get through", count(|pull| pull.failures))
}

fn standbys(writer: &mut Writer<'_>, observed: &Observed) -> fmt::Result {
    let each = || {
        observed.standbys.iter().map(|row| {
            let standby = row.standby_remote.as_str();
            (vec![("database", row.database.as_str()), ("standby", standby)], row)
        })
    };
    writer.gauge(
        "pleach_standby_lag_known",
        "1 if the lag of the database on the standby is known, as only a primary can",
        each().map(|(labels, row)| (labels, flag(row.replication_lag_millis.is_some()))),
    )?;
    writer.gauge(
        "pleach_standby_lag_seconds",
        "How long ago the first change was made that the standby lacks; 0 if it lacks none, absent if that is not known",
        each().filter_map(|(labels, row)| Some((labels, row.replication_lag_millis? as f64 / 1000.0))),
    )?;
    writer.gauge(
        "pleach_standby_error",
        "1 if something hinders replication to the standby",
        each().map(|(labels, row)| (labels, flag(row.current_error.is_some()))),
    )?;
    writer.gauge(
        "pleach_standby_pinned_bytes",
        "What is kept for the standby and nothing else needs, when that was last measured; 0 while it lacks nothing",
        each().map(|(labels, row)| (labels, row.pinned_bytes as f64)),
    )?;
    writer.gauge(
        "pleach_standby_backlog_bytes",
        "What the standby lacks, as messages, when that was last measured; 0 if it lacks nothing, absent if that is not known",
        each().filter_map(|(labels, row)| Some((labels, row.backlog_bytes? as f64))),
    )?;
    writer.counter(
        "pleach_standby_retries",
        "Streams to the standby that ended, or did not come about, since this node began to lead",
        each().map(|(labels, row)| (labels, row.retries)),
    )?;
    writer.gauge(
        "pleach_standby_last_update_timestamp_seconds",
        "When the standby last acknowledged a change, since 1970; on a standby, when it last heard its primary",
        each().filter_map(|(labels, row)| Some((labels, seconds(row.last_update?)))),
    )
}
