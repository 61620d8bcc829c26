//! `settings.yaml` in the data directory: what was changed under `replication:` while the server ran.
//!
//! ```yaml
//! replication:                       # wins over the stanza of config.yaml
//!   replicate_to_remote: "backup"
//! unset: ["read_replica_remote"]     # what config.yaml sets, and is not to be set
//! ```
//! It is replaced as a whole and durably. A file that is not that is an error: what an operator had changed is not to be forgotten silently.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::file;
use crate::error::{Failure, Result};

const FILE: &str = "settings.yaml";
/// The file that takes its place.
const UNFINISHED: &str = "settings.yaml.new";
const HEAD: &str =
    "# What `pleach config set` and `unset` changed: it wins over `replication:` in config.yaml.\n";

/// What was changed, by the names of keys under `replication:`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Settings {
    pub(super) set: Map<String, Value>,
    pub(super) unset: BTreeSet<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Shape {
    replication: file::Replication,
    unset: Vec<String>,
}

/// Where the settings of a server are.
pub(super) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

impl Settings {
    /// Those in `data_dir`; none, if nothing was ever changed.
    pub(super) fn read(data_dir: &Path) -> Result<Settings> {
        let path = path(data_dir);
        match std::fs::read_to_string(&path) {
            Ok(text) => Settings::parse(&text, &path),
            // Whether it can be the data directory shows later.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Ok(Settings::default())
            }
            Err(error) => Err(damaged(&path, &Failure::usage(format!("{}: {error}", path.display())))),
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Settings> {
        let wrong = |failure| damaged(path, &failure);
        let shape: Shape = file::parse_as(text, path).map_err(wrong)?;
        let written: Value = file::parse_as(text, path).map_err(wrong)?;
        let values = fields(&shape.replication);
        let named = written.get("replication").and_then(Value::as_object).ok_or_else(|| {
            wrong(Failure::usage(format!(
                "{}: expected `replication:` and its keys, found none",
                path.display()
            )))
        })?;
        let set = named.keys().filter_map(|key| Some((key.clone(), values.get(key)?.clone()))).collect();
        let unset: BTreeSet<String> = shape.unset.into_iter().collect();
        if let Some(unknown) = unset.iter().find(|key| !values.contains_key(*key)) {
            return Err(wrong(Failure::usage(format!("{}: unset: unknown key `{unknown}`", path.display()))));
        }
        Ok(Settings { set, unset })
    }

    /// Makes them durable in `data_dir`; before that returns, those that were there are.
    pub(super) fn write(&self, data_dir: &Path) -> Result<()> {
        let new = data_dir.join(UNFINISHED);
        let replaced = || {
            let mut file = File::create(&new)?;
            file.write_all(self.text().as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, path(data_dir))?;
            File::open(data_dir)?.sync_all()
        };
        replaced().map_err(|error| {
            let _ = std::fs::remove_file(&new);
            Failure::file(path(data_dir).display(), &error)
        })
    }

    /// Values as JSON, which is YAML.
    fn text(&self) -> String {
        let mut text = HEAD.to_owned();
        match self.set.is_empty() {
            true => text.push_str("replication: {}\n"),
            false => text.push_str("replication:\n"),
        }
        self.set.iter().for_each(|(key, value)| text.push_str(&format!("  {key}: {value}\n")));
        if !self.unset.is_empty() {
            let unset: Vec<Value> = self.unset.iter().cloned().map(Value::String).collect();
            text.push_str(&format!("unset: {}\n", Value::Array(unset)));
        }
        text
    }
}

/// The keys of a stanza, with its values.
pub(super) fn fields(stanza: &file::Replication) -> Map<String, Value> {
    match serde_json::to_value(stanza) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

fn damaged(path: &Path, failure: &Failure) -> Failure {
    Failure::usage(format!("{}: what was set while the server ran cannot be read", failure.message)).hint(format!(
        "mend {}, or remove it: then config.yaml alone counts, and what was changed with `pleach config set` is to be set again",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Settings::read(dir.path()).unwrap(), Settings::default());
        let mut settings = Settings::default();
        settings.write(dir.path()).unwrap();
        assert_eq!(Settings::read(dir.path()).unwrap(), settings);
        settings.set.insert("replicate_heads".into(), "*a: \"b\" # 'c'\n\u{e9}".into());
        settings.set.insert("async_replication".into(), true.into());
        settings.unset.insert("replicate_to_remote".into());
        settings.write(dir.path()).unwrap();
        assert_eq!(Settings::read(dir.path()).unwrap(), settings);
        assert!(!dir.path().join(UNFINISHED).exists());
    }

    #[test]
    fn a_file_that_is_damaged_is_said_to_be() {
        let path = Path::new("/data/settings.yaml");
        for text in [
            "",
            "replication",
            "replication:\n",
            "replication: {replicate_to_rem: a}",
            "replication: {async_replication: perhaps}",
            "unset: [async]",
            "replication: {}\nreplicate",
            "\0\0\0\0",
        ] {
            let failure = Settings::parse(text, path).unwrap_err();
            assert!(failure.message.contains("/data/settings.yaml"), "{text:?}: {failure}");
            assert!(failure.hint.unwrap().contains("or remove it"));
        }
    }
}
