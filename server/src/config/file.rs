//! The shapes of `config.yaml`, as written: every stanza refuses keys that it does not know. Written out again, they are the keys that
//! there are, with their values.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Failure, Result};

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    pub(super) data_dir: PathBuf,
    pub(super) listener: Listener,
    pub(super) metrics: Option<Metrics>,
    pub(super) users_file: Option<PathBuf>,
    pub(super) store: Store,
    pub(super) remotes_allowed: Vec<String>,
    pub(super) recovery_keep: RecoveryKeep,
    pub(super) replication: Option<Replication>,
    pub(super) cluster: Option<Cluster>,
}

impl Default for File {
    fn default() -> File {
        File {
            data_dir: "./data".into(),
            listener: Listener::default(),
            metrics: None,
            users_file: None,
            store: Store::default(),
            remotes_allowed: Vec::new(),
            recovery_keep: RecoveryKeep::default(),
            replication: None,
            cluster: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Listener {
    pub(super) host: String,
    pub(super) port: i64,
    pub(super) tls_key: Option<PathBuf>,
    pub(super) tls_cert: Option<PathBuf>,
    pub(super) tls_client_ca: Option<PathBuf>,
}

impl Default for Listener {
    fn default() -> Listener {
        Listener { host: "127.0.0.1".into(), port: 7420, tls_key: None, tls_cert: None, tls_client_ca: None }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Metrics {
    pub(super) host: String,
    pub(super) port: i64,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics { host: "127.0.0.1".into(), port: 7421 }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Store {
    pub(super) durability: String,
    pub(super) flush_interval: String,
    pub(super) compression: String,
    pub(super) cache: String,
}

impl Default for Store {
    fn default() -> Store {
        Store {
            durability: "full".into(),
            flush_interval: "100ms".into(),
            compression: "fast".into(),
            cache: "256MiB".into(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RecoveryKeep {
    pub(super) age: String,
    pub(super) count: i64,
}

impl Default for RecoveryKeep {
    fn default() -> RecoveryKeep {
        RecoveryKeep { age: "30d".into(), count: 1000 }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Replication {
    pub(super) replicate_to_remote: Option<String>,
    pub(super) read_replica_remote: Option<String>,
    pub(super) replicate_heads: Option<String>,
    pub(super) replicate_all_heads: bool,
    pub(super) remote_url_template: Option<String>,
    pub(super) skip_replication_errors: bool,
    pub(super) transaction_commit: bool,
    pub(super) transaction_commit_message: String,
    pub(super) async_replication: bool,
    pub(super) strict: bool,
    pub(super) force_pull: bool,
    pub(super) on_conflict: String,
    pub(super) refresh: String,
    pub(super) max_staleness: String,
}

impl Default for Replication {
    fn default() -> Replication {
        Replication {
            replicate_to_remote: None,
            read_replica_remote: None,
            replicate_heads: None,
            replicate_all_heads: false,
            remote_url_template: None,
            skip_replication_errors: false,
            transaction_commit: false,
            transaction_commit_message: "Transaction commit".into(),
            async_replication: false,
            strict: false,
            force_pull: true,
            on_conflict: "reject".into(),
            refresh: "transaction".into(),
            max_staleness: "0s".into(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cluster {
    #[serde(default)]
    pub(super) standby_remotes: Vec<StandbyRemote>,
    #[serde(default = "primary")]
    pub(super) bootstrap_role: String,
    #[serde(default = "one")]
    pub(super) bootstrap_epoch: i64,
    #[serde(default)]
    pub(super) remotesapi: RemotesApi,
    #[serde(default)]
    pub(super) ack: Ack,
    #[serde(default = "yes")]
    pub(super) replicate_drops: bool,
    #[serde(default = "yes")]
    pub(super) replicate_users: bool,
    #[serde(default)]
    pub(super) election: Election,
    #[serde(default)]
    pub(super) cascade: bool,
    #[serde(default = "pin_max")]
    pub(super) standby_pin_max: String,
}

fn pin_max() -> String {
    "1GiB".into()
}

fn yes() -> bool {
    true
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Election {
    pub(super) provider: String,
    pub(super) lease: String,
    /// Of etcd.
    pub(super) endpoints: Vec<String>,
    pub(super) prefix: String,
    pub(super) tls_ca: Option<PathBuf>,
    pub(super) tls_cert: Option<PathBuf>,
    pub(super) tls_key: Option<PathBuf>,
    /// Of an object store.
    pub(super) url: Option<String>,
}

impl Default for Election {
    fn default() -> Election {
        Election {
            provider: "none".into(),
            lease: "10s".into(),
            endpoints: Vec::new(),
            prefix: "pleach".into(),
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            url: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Ack {
    pub(super) count: AckCount,
    pub(super) level: String,
    pub(super) timeout: String,
    pub(super) on_timeout: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(untagged)]
pub(super) enum AckCount {
    Number(i64),
    Word(String),
}

impl Default for Ack {
    fn default() -> Ack {
        Ack {
            count: AckCount::Number(0),
            level: "durable".into(),
            timeout: "10s".into(),
            on_timeout: "warn".into(),
        }
    }
}

fn primary() -> String {
    "primary".into()
}

fn one() -> i64 {
    1
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StandbyRemote {
    pub(super) name: String,
    pub(super) remote_url_template: String,
    pub(super) fingerprint: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RemotesApi {
    /// Left out: all interfaces.
    pub(super) address: Option<String>,
    pub(super) port: i64,
    pub(super) node_key: Option<PathBuf>,
    pub(super) tls_key: Option<PathBuf>,
    pub(super) tls_cert: Option<PathBuf>,
    pub(super) tls_ca: Option<PathBuf>,
    pub(super) tls_client_ca: Option<PathBuf>,
    pub(super) server_name_urls: Vec<String>,
    pub(super) server_name_dns: Vec<String>,
}

impl Default for RemotesApi {
    fn default() -> RemotesApi {
        RemotesApi {
            address: None,
            port: 50051,
            node_key: None,
            tls_key: None,
            tls_cert: None,
            tls_ca: None,
            tls_client_ca: None,
            server_name_urls: Vec::new(),
            server_name_dns: Vec::new(),
        }
    }
}

/// Parses the file's text; failures name `path`, line and column.
pub(super) fn parse(text: &str, path: &Path) -> Result<File> {
    if is_blank(text) {
        return Ok(File::default());
    }
    parse_as(text, path)
}

/// Whether there is nothing but comments.
pub(super) fn is_blank(text: &str) -> bool {
    text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
}

/// Parses YAML; failures name `path`, line and column.
pub(super) fn parse_as<T: serde::de::DeserializeOwned>(text: &str, path: &Path) -> Result<T> {
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| failure(&error, path))
}

fn failure(error: &serde_saphyr::Error, path: &Path) -> Failure {
    let place = match error.location() {
        Some(at) => format!("{}:{}:{}", path.display(), at.line(), at.column()),
        None => path.display().to_string(),
    };
    match error {
        serde_saphyr::Error::SerdeUnknownField { field, expected, .. } => {
            let known = expected.join(", ");
            Failure::usage(format!("{place}: unknown key `{field}`")).hint(match nearest(field, expected) {
                Some(nearest) => format!("did you mean `{nearest}`? the keys here are: {known}"),
                None => "no key is known here".to_owned(),
            })
        }
        other => Failure::usage(format!("{place}: {}", message(other)))
            .hint("`pleach serve --check --config FILE` checks a configuration without serving it"),
    }
}

/// Which of the names that are known was meant.
pub(super) fn nearest<'a, T: AsRef<str>>(name: &str, known: &'a [T]) -> Option<&'a str> {
    let likeness = |known: &str| strsim::jaro_winkler(known, name);
    known.iter().map(AsRef::as_ref).max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}

/// The error's message without its place, which stands before it.
fn message(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let message = match text.split_once(" at line ") {
        Some((message, _)) => message,
        None => &text,
    };
    match message.strip_prefix("invalid ") {
        Some("i64") => "expected a whole number".to_owned(),
        Some("bool") => "expected true or false".to_owned(),
        _ => message.to_owned(),
    }
}
