//! The server's configuration: `config.yaml` read, checked and resolved into a [`Config`] that holds no mistakes.
//!
//! `file` holds the shapes of the YAML, where an unknown key is an error that suggests the nearest known one; this file holds
//! what the values mean and which combinations make sense. A path in the file is relative to the file. Where each value comes from is in
//! [`Layers`]: flags win, so that a flag can mend a wrong file, and so does what was changed under `replication:` while the server ran.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pleach_engine::{Compression, KeepFor};
use pleach_protocol::{ClientTls, Identity, PeerNames, RemoteUrl};
use pleach_replication::{
    AckCount, AckLevel, AckPolicy, ElectionConfig, ElectionProvider, Fingerprint, OnTimeout, Refresh,
};

use crate::error::{Failure, Result};

mod file;
mod layers;
mod settings;
pub(crate) mod units;

pub use layers::{Layers, Origin, Value};

/// Everything that `pleach serve` goes by.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Directory of the databases, one sub-directory each.
    pub data_dir: PathBuf,
    /// Where the data API, fetch and push are served.
    pub listener: Address,
    /// Where metrics and health are served; nowhere without the stanza.
    pub metrics: Option<Address>,
    /// What the listener shows; none, and it serves in the clear.
    pub tls: Option<Tls>,
    /// Who has access; everybody without it.
    pub users_file: Option<PathBuf>,
    /// How databases are opened.
    pub store: Store,
    /// Prefixes of the URLs that clients may have the server use.
    pub remotes_allowed: Vec<String>,
    /// For how long what was lost is kept.
    pub recovery_keep: KeepFor,
    /// Replication through a remote; none without the stanza.
    pub replication: Option<Replication>,
    /// Replication direct to standbys; none without the stanza.
    pub cluster: Option<Cluster>,
}

/// A host name or address, and a port; port 0 takes a free one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Address {
    /// Only this machine can connect.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The files for TLS of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Its certificate and key.
    pub identity: Identity,
    /// The authorities one of which must have issued a client's certificate; none, and clients need none.
    pub client_ca: Option<PathBuf>,
}

/// How a server opens its databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    /// None: an acknowledged transaction survives any crash. Some: all but those of the last interval do.
    pub flush_interval: Option<Duration>,
    /// Bytes of the chunk cache, for each open database.
    pub cache_bytes: u64,
    /// How hard compaction compresses.
    pub compression: Compression,
}

/// Mode 1: through a remote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replication {
    /// This server pushes to it on write.
    Primary(Push),
    /// This server follows it, read-only.
    Replica(Follow),
}

/// How a primary pushes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// Name of the remote that each database is pushed to.
    pub remote: String,
    /// Writes do not wait for it.
    pub in_background: bool,
    /// What somebody else pushed is merged, and the merge pushed; else the branch waits for a person.
    pub merges: bool,
    /// A commit that cannot be pushed fails.
    pub strict: bool,
    /// The message of the version commit that is made of each transaction, if one is.
    pub transaction_commit: Option<String>,
    /// A remote that does not answer soon is not waited for.
    pub skip_errors: bool,
    /// Where databases are pushed that do not have the remote.
    pub template: Option<UrlTemplate>,
}

/// How a read replica follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follow {
    /// Name of the remote that each database follows.
    pub remote: String,
    /// Patterns (`*` matches any text) of the branches that are followed. Neither these nor `all_heads`, or both, and nothing is
    /// followed: the server says so and serves what it has.
    pub heads: Vec<String>,
    /// Every branch is followed, and tags.
    pub all_heads: bool,
    /// A branch that is no fast-forward of the replica's is taken all the same.
    pub force_pull: bool,
    /// What goes wrong with the remote is a warning, and reads go on with what is here.
    pub skip_errors: bool,
    /// When it looks at the remote.
    pub refresh: Refresh,
    /// How old what is read may be without asking.
    pub max_staleness: Duration,
    /// Where databases are cloned from that are asked for and not here.
    pub template: Option<UrlTemplate>,
}

/// A URL with `{database}` for the name of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlTemplate(String);

impl UrlTemplate {
    fn parse(template: String) -> Checked<UrlTemplate> {
        if !template.contains("{database}") {
            return Err(format!(
                "replication.remote_url_template: expected a URL that contains {{database}}, found `{template}`"
            ));
        }
        let template = UrlTemplate(template);
        match template.url("name").parse::<RemoteUrl>() {
            Ok(_) => Ok(template),
            Err(error) => Err(format!("replication.remote_url_template: {error}")),
        }
    }

    /// The URL for a database.
    pub fn url(&self, database: &str) -> String {
        self.0.replace("{database}", database)
    }
}

/// Mode 2: direct to standbys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The other nodes; at least one.
    pub standby_remotes: Vec<StandbyRemote>,
    /// The role of a node that has none yet.
    pub bootstrap_role: Role,
    /// The epoch of a node that has none yet.
    pub bootstrap_epoch: u64,
    /// Where peers connect: at the first of these that this machine has.
    pub remotesapi: Vec<Address>,
    /// File of this node's key; `None`: one in the data directory.
    pub node_key: Option<PathBuf>,
    /// What the port shows; none, and it serves in the clear.
    pub tls: Option<Tls>,
    /// What peers are shown, and whom to trust among them.
    pub peer_tls: ClientTls,
    /// When a write is acknowledged.
    pub ack: AckPolicy,
    /// Databases that are dropped are dropped on all nodes.
    pub replicate_drops: bool,
    /// The users of standbys are those of their primary.
    pub replicate_users: bool,
    /// How the primary is elected; `None`: an operator says who it is.
    pub election: Option<ElectionConfig>,
    /// A standby sends what it applied to its own standbys.
    pub cascade: bool,
    /// Bytes that are kept for one standby that is away.
    pub standby_pin_max: u64,
}

/// One other node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandbyRemote {
    /// Its name, in the status and in logs.
    pub name: String,
    /// Its URL, with `{database}` for the name of a database.
    pub remote_url_template: String,
    /// Its key; `None`: the keys that it publishes.
    pub fingerprint: Option<Fingerprint>,
}

/// What a node may be told to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes writes and replicates them.
    Primary,
    /// Takes a primary's writes only.
    Standby,
}

/// What the command line says over the file.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--data-dir`, relative to the current directory.
    pub data_dir: Option<PathBuf>,
    /// `--listen HOST:PORT`.
    pub listen: Option<String>,
    /// `--insecure`: a listener beyond loopback is meant.
    pub insecure: bool,
}

impl Config {
    /// Checks what the layers say together.
    fn of(layers: &Layers) -> Result<Config> {
        let (path, file) = (layers.path(), layers.file());
        let wrong = |message: String| Failure::usage(format!("{}: {message}", path.display()));
        let listener = Address {
            host: file.listener.host.clone(),
            port: port("listener.port", file.listener.port, true).map_err(wrong)?,
        };
        if !listener.is_loopback() && !layers.is_insecure() && file.users_file.is_none() {
            return Err(Failure::usage(format!("the listener {listener} is reachable from other machines, and has no users"))
                .hint("listen on 127.0.0.1, name users with users_file, or give --insecure if everyone who can connect may read and write everything"));
        }
        let tls = tls(&file.listener).map_err(|what| {
            wrong(what).hint(
                "a listener by TLS has tls_cert and tls_key, and tls_client_ca if clients need certificates",
            )
        })?;
        let metrics = file.metrics.as_ref().map(metrics).transpose().map_err(wrong)?;
        let store = store(&file.store).map_err(wrong)?;
        let replication = replication(layers.replication()?).map_err(|why| layers.wrong(why))?;
        if replication.is_none() && layers.names_no_remote() {
            return Err(wrong(
                "replication: expected replicate_to_remote, the name of the remote to push to, or read_replica_remote, that of the \
                 remote to follow"
                    .into(),
            ));
        }
        let cluster = file.cluster.clone().map(cluster).transpose().map_err(wrong)?;
        if cluster.is_some() && store.flush_interval.is_some() {
            return Err(wrong("a cluster needs store.durability: full".into())
                .hint("a standby can keep only what the primary made durable; remove store.durability"));
        }
        if let (Some(_), Some(Replication::Replica(_))) = (&cluster, &replication) {
            return Err(layers
                .wrong("replication.read_replica_remote and cluster exclude each other".into())
                .hint("a standby follows its primary only; remove one of the two"));
        }
        if let (Some(_), Some(Replication::Primary(Push { strict: true, .. }))) = (&cluster, &replication) {
            return Err(layers.wrong("replication.strict and cluster exclude each other".into()).hint(
                "the standbys of a cluster have each write; see cluster.ack for writes that wait for them",
            ));
        }
        let remotes_allowed = file.remotes_allowed.clone();
        if let Some(wrong_one) = remotes_allowed.iter().find(|prefix| !prefix.contains("://")) {
            return Err(wrong(format!(
                "remotes_allowed: expected the beginning of a URL, found `{wrong_one}`"
            ))
            .hint("for example file:///share/"));
        }
        let age = units::duration(&file.recovery_keep.age);
        let age = age.map_err(|error| wrong(format!("recovery_keep.age: {error}")))?;
        let count = file.recovery_keep.count;
        let count = u64::try_from(count)
            .map_err(|_| wrong(format!("recovery_keep.count: expected a number of refs, found {count}")))?;
        let recovery_keep = KeepFor { age, count };
        let (data_dir, users_file) = (file.data_dir.clone(), file.users_file.clone());
        Ok(Config {
            data_dir,
            listener,
            metrics,
            tls,
            users_file,
            store,
            remotes_allowed,
            recovery_keep,
            replication,
            cluster,
        })
    }
}

/// Parses another file of the configuration; failures name its path, line and column.
pub(crate) fn parse_yaml<T: serde::de::DeserializeOwned>(text: &str, path: &Path) -> Result<T> {
    file::parse_as(text, path)
}

/// `HOST:PORT`, `[V6]:PORT`.
fn parse_listen(text: &str) -> Result<Address> {
    let wrong = || {
        Failure::usage(format!("--listen: expected HOST:PORT, found `{text}`"))
            .hint("for example --listen 127.0.0.1:7420; port 0 takes a free one")
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() {
        return Err(wrong());
    }
    Ok(Address { host: host.to_owned(), port: port.parse().map_err(|_| wrong())? })
}

/// The result of checking one value; the message names its key.
type Checked<T> = std::result::Result<T, String>;

fn port(key: &str, value: i64, zero: bool) -> Checked<u16> {
    match u16::try_from(value) {
        Ok(port) if port > 0 || zero => Ok(port),
        _ => Err(format!("{key}: expected a port from {} to 65535, found {value}", u8::from(!zero))),
    }
}

fn metrics(file: &file::Metrics) -> Checked<Address> {
    Ok(Address { host: file.host.clone(), port: port("metrics.port", file.port, true)? })
}

fn tls(listener: &file::Listener) -> Checked<Option<Tls>> {
    let [cert, key, client_ca] =
        [&listener.tls_cert, &listener.tls_key, &listener.tls_client_ca].map(Clone::clone);
    match identity(cert, key) {
        Ok(Some(identity)) => Ok(Some(Tls { identity, client_ca })),
        Ok(None) if client_ca.is_some() => {
            Err("listener: expected tls_cert and tls_key beside tls_client_ca, found neither".into())
        }
        Ok(None) => Ok(None),
        Err(missing) => Err(format!("listener: expected {missing} too, found none")),
    }
}

/// A certificate and its key, or neither; else the one that is missing.
pub(crate) fn identity(
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
) -> std::result::Result<Option<Identity>, &'static str> {
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(Identity { cert, key })),
        (None, None) => Ok(None),
        (Some(_), None) => Err("tls_key"),
        (None, Some(_)) => Err("tls_cert"),
    }
}

/// What the cluster port shows, and what goes for connections to peers.
fn cluster_tls(file: &file::RemotesApi) -> Checked<(Option<Tls>, ClientTls)> {
    let [cert, key, client_ca] = [&file.tls_cert, &file.tls_key, &file.tls_client_ca].map(Clone::clone);
    let identity = identity(cert, key)
        .map_err(|missing| format!("cluster.remotesapi: expected {missing} too, found none"))?;
    if identity.is_none() && client_ca.is_some() {
        return Err(
            "cluster.remotesapi: expected tls_cert and tls_key beside tls_client_ca, found neither".into()
        );
    }
    let tls = identity.clone().map(|identity| Tls { identity, client_ca });
    let names = PeerNames { dns: file.server_name_dns.clone(), uris: file.server_name_urls.clone() };
    Ok((tls, ClientTls { ca: file.tls_ca.clone(), identity, names }))
}

fn store(file: &file::Store) -> Checked<Store> {
    let interval =
        units::duration(&file.flush_interval).map_err(|error| format!("store.flush_interval: {error}"))?;
    let flush_interval = match file.durability.as_str() {
        "full" => None,
        "eventual" => Some(interval),
        other => return Err(format!("store.durability: expected full or eventual, found `{other}`")),
    };
    let cache_bytes = units::bytes(&file.cache).map_err(|error| format!("store.cache: {error}"))?;
    let compression = match file.compression.as_str() {
        "none" => Compression::None,
        "fast" => Compression::Fast,
        "dense" => Compression::Dense,
        other => return Err(format!("store.compression: expected none, fast or dense, found `{other}`")),
    };
    Ok(Store { flush_interval, cache_bytes, compression })
}

/// What a stanza means; none, if it names no remote.
fn replication(file: file::Replication) -> Checked<Option<Replication>> {
    let named = |name: Option<String>| name.filter(|name| !name.is_empty());
    let merges = match file.on_conflict.as_str() {
        "reject" => false,
        "merge" => true,
        other => return Err(format!("replication.on_conflict: expected reject or merge, found `{other}`")),
    };
    let heads = file.replicate_heads.as_deref().unwrap_or_default().split(',').map(str::trim);
    let heads = heads.filter(|head| !head.is_empty()).map(str::to_owned).collect();
    let template = named(file.remote_url_template).map(UrlTemplate::parse).transpose()?;
    for (is_set, other) in [
        (merges, "on_conflict: merge"),
        (file.async_replication, "async_replication: true"),
        (file.skip_replication_errors, "skip_replication_errors: true"),
    ] {
        if file.strict && is_set {
            return Err(format!(
                "replication.strict and {other} exclude each other: with strict, a commit fails that is not at the remote"
            ));
        }
    }
    let refresh = refresh(&file.refresh)?;
    let max_staleness =
        units::duration(&file.max_staleness).map_err(|why| format!("replication.max_staleness: {why}"))?;
    let skip_errors = file.skip_replication_errors;
    match (named(file.replicate_to_remote), named(file.read_replica_remote)) {
        (Some(remote), None) => Ok(Some(Replication::Primary(Push {
            remote,
            in_background: file.async_replication,
            merges,
            strict: file.strict,
            transaction_commit: file.transaction_commit.then_some(file.transaction_commit_message),
            skip_errors,
            template,
        }))),
        (None, Some(remote)) => Ok(Some(Replication::Replica(Follow {
            remote,
            heads,
            all_heads: file.replicate_all_heads,
            force_pull: file.force_pull,
            template,
            skip_errors,
            refresh,
            max_staleness,
        }))),
        (Some(_), Some(_)) => Err("replication: replicate_to_remote and read_replica_remote exclude each other: a read replica takes no \
             writes that could be pushed"
            .into()),
        (None, None) => Ok(None),
    }
}

fn refresh(text: &str) -> Checked<Refresh> {
    match text {
        "transaction" => Ok(Refresh::Transaction),
        "watch" => Ok(Refresh::Watch),
        interval => match units::duration(interval) {
            Ok(interval) if !interval.is_zero() => Ok(Refresh::Every(interval)),
            _ => Err(format!(
                "replication.refresh: expected transaction, watch or a duration like 5s, found `{interval}`"
            )),
        },
    }
}

fn cluster(file: file::Cluster) -> Checked<Cluster> {
    if file.standby_remotes.is_empty() {
        return Err("cluster.standby_remotes: expected at least one standby, found none".into());
    }
    let (tls, peer_tls) = cluster_tls(&file.remotesapi)?;
    let is_encrypted = tls.is_some() || peer_tls != ClientTls::default();
    let mut standby_remotes: Vec<StandbyRemote> = Vec::new();
    for file::StandbyRemote { name, remote_url_template, fingerprint } in file.standby_remotes {
        if name.is_empty() {
            return Err("cluster.standby_remotes: expected a name, found an empty one".into());
        }
        if standby_remotes.iter().any(|other| other.name == name) {
            return Err(format!("cluster.standby_remotes: the name `{name}` is there twice"));
        }
        if !remote_url_template.contains("{database}") {
            return Err(format!(
                "cluster.standby_remotes: {name}: expected a remote_url_template that contains {{database}}, found `{remote_url_template}`"
            ));
        }
        let schemes: &[&str] = if is_encrypted { &["https://"] } else { &["http://", "https://"] };
        if !schemes.iter().any(|scheme| remote_url_template.starts_with(scheme)) {
            return Err(format!(
                "cluster.standby_remotes: {name}: expected a remote_url_template that begins with {}{}, found `{remote_url_template}`",
                schemes.join(" or "),
                if is_encrypted { ", as cluster.remotesapi has TLS" } else { "" }
            ));
        }
        let fingerprint = fingerprint.map(|fingerprint| fingerprint.parse()).transpose();
        let fingerprint =
            fingerprint.map_err(|why: String| format!("cluster.standby_remotes: {name}: {why}"))?;
        standby_remotes.push(StandbyRemote { name, remote_url_template, fingerprint });
    }
    let bootstrap_role = match file.bootstrap_role.as_str() {
        "primary" => Role::Primary,
        "standby" => Role::Standby,
        other => return Err(format!("cluster.bootstrap_role: expected primary or standby, found `{other}`")),
    };
    let bootstrap_epoch = u64::try_from(file.bootstrap_epoch).map_err(|_| {
        format!("cluster.bootstrap_epoch: expected a number from 0, found {}", file.bootstrap_epoch)
    })?;
    let port = port("cluster.remotesapi.port", file.remotesapi.port, true)?;
    let remotesapi = match file.remotesapi.address {
        Some(host) => vec![Address { host, port }],
        // Those of both families, if there is more than one.
        None => ["::", "0.0.0.0"].map(|host| Address { host: host.into(), port }).into(),
    };
    let node_key = file.remotesapi.node_key;
    let standby_pin_max =
        units::bytes(&file.standby_pin_max).map_err(|error| format!("cluster.standby_pin_max: {error}"))?;
    let ack = ack(file.ack, standby_remotes.len())?;
    let election = election(file.election)?;
    Ok(Cluster {
        standby_remotes,
        bootstrap_role,
        bootstrap_epoch,
        remotesapi,
        node_key,
        tls,
        peer_tls,
        ack,
        replicate_drops: file.replicate_drops,
        replicate_users: file.replicate_users,
        election,
        cascade: file.cascade,
        standby_pin_max,
    })
}

fn election(file: file::Election) -> Checked<Option<ElectionConfig>> {
    let wrong = |what: String| Err(format!("cluster.election{what}"));
    let lease = units::duration(&file.lease).map_err(|why| format!("cluster.election.lease: {why}"))?;
    let (least, most) = (Duration::from_secs(2), Duration::from_secs(600));
    if !(least..=most).contains(&lease) || lease.subsec_millis() != 0 {
        return wrong(format!(".lease: expected whole seconds from 2s to 10m, found `{}`", file.lease));
    }
    let is_etcd = file.provider == "etcd";
    let identity = identity(file.tls_cert, file.tls_key)
        .map_err(|missing| format!("cluster.election: expected {missing} too, found none"))?;
    let tls = ClientTls { ca: file.tls_ca, identity, ..ClientTls::default() };
    if !is_etcd && (!file.endpoints.is_empty() || tls != ClientTls::default()) {
        return wrong(format!(
            ": endpoints and tls_… are for provider: etcd, found provider: {}",
            file.provider
        ));
    }
    if file.provider != "object_store" && file.url.is_some() {
        return wrong(format!(".url: is for provider: object_store, found provider: {}", file.provider));
    }
    let provider = match file.provider.as_str() {
        "none" => return Ok(None),
        "etcd" => {
            if file.endpoints.is_empty() {
                return wrong(
                    ".endpoints: expected at least one, such as http://127.0.0.1:2379, found none".into(),
                );
            }
            let is_url = |url: &&String| url.starts_with("http://") || url.starts_with("https://");
            if let Some(bad) = file.endpoints.iter().find(|url| !is_url(url)) {
                return wrong(format!(
                    ".endpoints: expected http://HOST:PORT or https://HOST:PORT, found `{bad}`"
                ));
            }
            if file.prefix.trim_end_matches('/').is_empty() {
                return wrong(
                    ".prefix: expected what the keys of this cluster begin with, found nothing".into(),
                );
            }
            ElectionProvider::Etcd { endpoints: file.endpoints, prefix: file.prefix, tls }
        }
        "object_store" => {
            let Some(url) = file.url else {
                return wrong(
                    ".url: expected a bucket or directory, such as s3://bucket/lease, found none".into(),
                );
            };
            match url.parse::<RemoteUrl>() {
                Ok(_) if !url.starts_with("http") => ElectionProvider::ObjectStore { url },
                Ok(_) => {
                    return wrong(format!(".url: expected a bucket or directory, found the server `{url}`"));
                }
                Err(error) => return wrong(format!(".url: {error}")),
            }
        }
        other => return wrong(format!(".provider: expected none, etcd or object_store, found `{other}`")),
    };
    Ok(Some(ElectionConfig { provider, lease }))
}

fn ack(file: file::Ack, standbys: usize) -> Checked<AckPolicy> {
    let wrong_count = |found: &dyn std::fmt::Display| {
        format!(
            "cluster.ack.count: expected all, or a number from 0 to {standbys}, the number of standbys, found {found}"
        )
    };
    let count = match file.count {
        file::AckCount::Word(word) if word == "all" => AckCount::All,
        file::AckCount::Word(word) => return Err(wrong_count(&format!("`{word}`"))),
        file::AckCount::Number(number) => match usize::try_from(number) {
            Ok(count) if count <= standbys => AckCount::Number(count),
            _ => return Err(wrong_count(&number)),
        },
    };
    let level = match file.level.as_str() {
        "received" => AckLevel::Received,
        "durable" => AckLevel::Durable,
        "applied" => AckLevel::Applied,
        other => {
            return Err(format!("cluster.ack.level: expected received, durable or applied, found `{other}`"));
        }
    };
    let on_timeout = match file.on_timeout.as_str() {
        "warn" => OnTimeout::Warn,
        "error" => OnTimeout::Error,
        "block" => OnTimeout::Block,
        other => {
            return Err(format!("cluster.ack.on_timeout: expected warn, error or block, found `{other}`"));
        }
    };
    let timeout = units::duration(&file.timeout).map_err(|error| format!("cluster.ack.timeout: {error}"))?;
    Ok(AckPolicy { count, level, timeout, on_timeout })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::error::Kind;

    fn parse(text: &str) -> Result<Config> {
        parse_with(text, "/etc/pleach/config.yaml", &Flags::default())
    }

    fn parse_with(text: &str, path: &str, flags: &Flags) -> Result<Config> {
        Layers::parse(text, Path::new(path), flags)?.config()
    }

    fn message(text: &str) -> String {
        let failure = parse(text).unwrap_err();
        assert_eq!(failure.kind, Kind::Usage);
        failure.message
    }

    #[test]
    fn an_empty_file_gives_the_documented_defaults() {
        let config = parse("").unwrap();
        assert_eq!(config.data_dir, Path::new("/etc/pleach/./data"));
        assert_eq!(config.listener.to_string(), "127.0.0.1:7420");
        let compression = Compression::Fast;
        assert_eq!(config.store, Store { flush_interval: None, cache_bytes: 256 << 20, compression });
        assert_eq!((config.replication, config.cluster), (None, None));
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_known_one_and_its_place() {
        let text = message("data_dir: x\nlistner: {port: 1}\n");
        assert!(text.starts_with("/etc/pleach/config.yaml:2:1: unknown key `listner`"), "{text}");
        let failure = parse("listener: {prot: 1}").unwrap_err();
        assert!(failure.hint.unwrap().contains("`port`"));
    }

    #[test]
    fn flags_win_over_the_file() {
        let flags = Flags { data_dir: Some("here".into()), listen: Some("[::1]:0".into()), insecure: false };
        let config = parse_with("data_dir: x\nlistener: {port: 1}", "c.yaml", &flags).unwrap();
        assert_eq!(
            (config.data_dir.to_str().unwrap(), config.listener.to_string().as_str()),
            ("here", "[::1]:0")
        );
    }

    #[test]
    fn a_listener_by_tls_has_a_certificate_and_its_key() {
        let tls = parse("listener: {tls_cert: a.pem, tls_key: /k.pem, tls_client_ca: ca.pem}").unwrap().tls;
        let identity = Identity { cert: "/etc/pleach/a.pem".into(), key: "/k.pem".into() };
        assert_eq!(tls, Some(Tls { identity, client_ca: Some("/etc/pleach/ca.pem".into()) }));
        assert_eq!(parse("").unwrap().tls, None);
        assert!(message("listener: {tls_cert: a.pem}").contains("expected tls_key too"));
        assert!(message("listener: {tls_key: a.pem}").contains("expected tls_cert too"));
        assert!(message("listener: {tls_client_ca: a.pem}").contains("expected tls_cert and tls_key"));
    }

    #[test]
    fn metrics_are_off_unless_the_stanza_is_there() {
        assert_eq!(parse("").unwrap().metrics, None);
        let address = |text: &str| parse(text).unwrap().metrics.unwrap().to_string();
        assert_eq!(address("metrics: {}"), "127.0.0.1:7421");
        assert_eq!(address("metrics: {host: 0.0.0.0, port: 9}"), "0.0.0.0:9");
        assert!(message("metrics: {port: 70000}").contains("metrics.port: expected a port"));
    }

    #[test]
    fn a_listener_beyond_loopback_needs_insecure() {
        assert!(message("listener: {host: 0.0.0.0}").contains("0.0.0.0:7420"));
        let flags = Flags { insecure: true, ..Flags::default() };
        assert!(parse_with("listener: {host: 0.0.0.0}", "c", &flags).is_ok());
    }

    const STANDBY: &str = r#"standby_remotes: [{name: b, remote_url_template: "http://h:1/{database}"}]"#;

    #[test]
    fn a_documented_cluster_stanza_is_read() {
        let text = format!(
            "cluster:\n  {STANDBY}\n  bootstrap_role: standby\n  bootstrap_epoch: 10\n  remotesapi: {{address: 127.0.0.1, port: 50051}}"
        );
        let cluster = parse(&text).unwrap().cluster.unwrap();
        assert_eq!((cluster.bootstrap_role, cluster.bootstrap_epoch), (Role::Standby, 10));
        assert_eq!(cluster.remotesapi[0].to_string(), "127.0.0.1:50051");
        assert_eq!(cluster.standby_remotes.len(), 1);
        assert_eq!(cluster.ack, AckPolicy::default());
        let policy = "ack: {count: all, level: received, timeout: 2s, on_timeout: block}";
        let cluster = parse(&format!("{text}\n  {policy}")).unwrap().cluster.unwrap();
        let policy = AckPolicy {
            count: AckCount::All,
            level: AckLevel::Received,
            timeout: Duration::from_secs(2),
            on_timeout: OnTimeout::Block,
        };
        assert_eq!(cluster.ack, policy);
    }

    #[test]
    fn each_bad_cluster_is_named() {
        let with = |rest: &str| message(&format!("cluster: {{{rest}}}"));
        let api = "remotesapi: {address: 127.0.0.1}";
        assert!(with(&format!("standby_remotes: [], {api}")).contains("at least one standby"));
        assert!(
            with(&format!(r#"standby_remotes: [{{name: "", remote_url_template: x}}], {api}"#))
                .contains("empty")
        );
        assert!(
            with(&format!("standby_remotes: [{{name: a, remote_url_template: 'http://x'}}], {api}"))
                .contains("{database}")
        );
        assert!(with(&format!("{STANDBY}, bootstrap_role: king, {api}")).contains("`king`"));
        assert!(with(&format!("{STANDBY}, bootstrap_epoch: -1, {api}")).contains("found -1"));
        assert!(
            with(&format!("{STANDBY}, remotesapi: {{address: 127.0.0.1, port: 70000}}")).contains("70000")
        );
        let tls = |keys: &str| with(&format!("{STANDBY}, remotesapi: {{{keys}}}"));
        assert!(tls("tls_key: a.pem").contains("expected tls_cert too"));
        assert!(tls("tls_cert: a.pem").contains("expected tls_key too"));
        assert!(tls("tls_client_ca: a.pem").contains("expected tls_cert and tls_key"));
        assert!(tls("tls_ca: a.pem").contains("begins with https://, as"));
        assert!(tls("server_name_dns: [a]").contains("begins with https://, as"));
        assert!(tls("tls_chain: a.pem").contains("unknown key `tls_chain`"));
        let pinned =
            "standby_remotes: [{name: a, remote_url_template: 'http://x/{database}', fingerprint: abc}]";
        assert!(with(pinned).contains("expected a fingerprint"));
    }

    #[test]
    fn a_cluster_needs_full_durability() {
        let text = format!(
            "store: {{durability: eventual}}\ncluster: {{{STANDBY}, remotesapi: {{address: 127.0.0.1}}}}"
        );
        assert!(message(&text).contains("durability: full"));
    }

    #[test]
    fn a_read_replica_says_what_it_follows() {
        let follow = |text: &str| match parse(text).unwrap().replication {
            Some(Replication::Replica(follow)) => follow,
            other => panic!("{other:?}"),
        };
        let followed =
            follow("replication: {read_replica_remote: origin, replicate_heads: 'main, feature-*'}");
        assert_eq!(followed.heads, ["main", "feature-*"]);
        assert!(follow("replication: {read_replica_remote: origin}").heads.is_empty());
        assert!(message("replication: {replicate_all_heads: true}").contains("read_replica_remote"));
    }

    #[test]
    fn a_primary_says_where_and_how_it_pushes() {
        let push = |text: &str| match parse(text).unwrap().replication {
            Some(Replication::Primary(push)) => push,
            other => panic!("{other:?}"),
        };
        let remote = "origin".to_owned();
        let least = Push {
            remote,
            in_background: false,
            merges: false,
            strict: false,
            transaction_commit: None,
            skip_errors: false,
            template: None,
        };
        // What a replica follows has no effect here.
        assert_eq!(push("replication: {replicate_to_remote: origin, replicate_all_heads: true}"), least);
        let text = "replication: {replicate_to_remote: origin, async_replication: true, on_conflict: merge, transaction_commit: true}";
        let message_of_all = Some("Transaction commit".to_owned());
        let most = Push { in_background: true, merges: true, transaction_commit: message_of_all, ..least };
        assert_eq!(push(text), most);
        let both = "replication: {replicate_to_remote: a, read_replica_remote: b}";
        assert!(message(both).contains("exclude each other"));
        let template =
            |url: &str| format!("replication: {{replicate_to_remote: a, remote_url_template: '{url}'}}");
        let url = push(&template("file:///r/{database}")).template.unwrap().url("shop");
        assert_eq!(url, "file:///r/shop");
        assert!(message(&template("file:///r/shop")).contains("contains {database}"));
        assert!(message(&template("ftp://{database}")).contains("is no remote"));
        assert!(
            message("replication: {replicate_to_remote: a, on_conflict: x}")
                .contains("expected reject or merge")
        );
    }

    #[test]
    fn the_documented_store_stanza_is_read() {
        let text = "store: {durability: eventual, flush_interval: 50ms, compression: dense, cache: 1GiB}";
        let store = parse(text).unwrap().store;
        let expected = Store {
            flush_interval: Some(Duration::from_millis(50)),
            cache_bytes: 1 << 30,
            compression: Compression::Dense,
        };
        assert_eq!(store, expected);
        assert!(message("store: {compression: best}").contains("expected none, fast or dense, found `best`"));
    }

    #[test]
    fn urls_that_clients_may_use_are_prefixes_of_urls() {
        assert_eq!(parse("remotes_allowed: ['file:///share/']").unwrap().remotes_allowed, ["file:///share/"]);
        assert!(message("remotes_allowed: [/share]").contains("`/share`"));
    }
}
