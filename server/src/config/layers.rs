//! Where each value of the configuration comes from: the defaults, the file, the flags over it, and over its `replication:` stanza the settings that were changed
//! while the server ran.
//!
//! The one idea: the shapes of the file, written out, are the list of all keys and their values. So a new key in a stanza can be read, and under `replication:`
//! set, without a word about it here; and what is set is checked as the file is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::settings::{self, Settings, fields};
use super::{Config, Flags, file, parse_listen};
use crate::error::{Failure, Result};

/// The stanza whose keys can be changed while the server runs.
const STANZA: &str = "replication";

/// The layers of a configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Layers {
    /// Of the file, for messages.
    path: PathBuf,
    /// What the file says and the flags over it; paths are resolved.
    file: file::File,
    /// Of the keys that are no defaults, with dots.
    origins: BTreeMap<String, Origin>,
    settings: Settings,
    is_insecure: bool,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The configuration's file.
    File(PathBuf),
    /// It was changed while the server ran: the file that keeps that.
    Settings(PathBuf),
    /// A flag of `serve`.
    Flag(&'static str),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Default => write!(f, "default"),
            Origin::File(path) => write!(f, "file {}", path.display()),
            Origin::Settings(path) => write!(f, "settings {}", path.display()),
            Origin::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// The value of a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// With dots: `listener.port`.
    pub key: String,
    /// As in the file; null if it is not set.
    pub value: serde_json::Value,
    /// Where it comes from.
    pub origin: Origin,
}

impl Layers {
    /// Those of `file`, or none without one, with the settings that the data directory keeps.
    pub fn read(file: Option<&Path>, flags: &Flags) -> Result<Layers> {
        let path = file.unwrap_or(Path::new("config.yaml"));
        let text = match file {
            Some(path) => std::fs::read_to_string(path).map_err(|error| {
                Failure::usage(format!("cannot read the configuration {}: {error}", path.display()))
                    .hint("give an existing file with --config, or leave it out for the defaults")
            })?,
            None => String::new(),
        };
        let layers = Layers::parse(&text, path, flags)?;
        let settings = Settings::read(&layers.file.data_dir)?;
        Ok(Layers { settings, ..layers })
    }

    /// Those of the file's text, without settings; `path` is for messages and relative paths.
    pub fn parse(text: &str, path: &Path, flags: &Flags) -> Result<Layers> {
        let mut file = file::parse(text, path)?;
        let mut origins = BTreeMap::new();
        if !file::is_blank(text) {
            let written: serde_json::Value = file::parse_as(text, path)?;
            flatten("", &written, &mut |key, _| drop(origins.insert(key, Origin::File(path.to_owned()))));
        }
        let beside = |relative: &Path| path.parent().unwrap_or(Path::new("")).join(relative);
        file.data_dir = beside(&file.data_dir);
        let listener = &mut file.listener;
        let mut files = vec![
            &mut file.users_file,
            &mut listener.tls_cert,
            &mut listener.tls_key,
            &mut listener.tls_client_ca,
        ];
        if let Some(file::Cluster { remotesapi, .. }) = &mut file.cluster {
            files.extend([
                &mut remotesapi.node_key,
                &mut remotesapi.tls_cert,
                &mut remotesapi.tls_key,
                &mut remotesapi.tls_ca,
                &mut remotesapi.tls_client_ca,
            ]);
        }
        files.into_iter().flatten().for_each(|file| *file = beside(file));
        if let Some(data_dir) = &flags.data_dir {
            file.data_dir.clone_from(data_dir);
            origins.insert("data_dir".to_owned(), Origin::Flag("--data-dir"));
        }
        if let Some(listen) = &flags.listen {
            let address = parse_listen(listen)?;
            (file.listener.host, file.listener.port) = (address.host, address.port.into());
            for key in ["listener.host", "listener.port"] {
                origins.insert(key.to_owned(), Origin::Flag("--listen"));
            }
        }
        let (path, settings) = (path.to_owned(), Settings::default());
        Ok(Layers { path, file, origins, settings, is_insecure: flags.insecure })
    }

    /// What they say together.
    pub fn config(&self) -> Result<Config> {
        Config::of(self)
    }

    /// All keys and their values, in the order of the file.
    pub fn values(&self) -> Result<Vec<Value>> {
        let file = file::File { replication: Some(self.replication()?), ..self.file.clone() };
        let written = serde_json::to_value(file)
            .map_err(|error| Failure::refused(format!("the configuration cannot be shown: {error}")))?;
        let mut values = Vec::new();
        flatten("", &written, &mut |key, value| {
            let origin = self.origin(&key);
            values.push(Value { key, value: value.clone(), origin });
        });
        Ok(values)
    }

    /// The value of `key`. The keys under `replication:` are known by their own names too.
    pub fn value(&self, key: &str) -> Result<Value> {
        let values = self.values()?;
        let nested = format!("{STANZA}.{key}");
        let found = values.iter().find(|value| value.key == key || value.key == nested);
        if let Some(found) = found {
            return Ok(found.clone());
        }
        // A stanza that is off has no keys.
        let above = |value: &&Value| {
            value.value.is_null() && key.strip_prefix(&value.key).is_some_and(|rest| rest.starts_with('.'))
        };
        if let Some(off) = values.iter().find(above) {
            return Ok(Value { key: key.to_owned(), ..off.clone() });
        }
        Err(unknown(key, &values))
    }

    /// These with `key` set to `value`, or, without one, not set, whatever the file says.
    ///
    /// # Errors
    /// The key is unknown, or cannot be changed while the server runs; the value is wrong, alone or with the others.
    pub fn with(&self, key: &str, value: Option<&str>) -> Result<Layers> {
        let known = self.value(key)?.key;
        let Some(name) = known.strip_prefix(STANZA).and_then(|rest| rest.strip_prefix('.')) else {
            return Err(Failure::usage(format!("`{known}` cannot be changed while the server runs")).hint(
                format!(
                    "only keys under `{STANZA}` can: change it in {} and restart the server",
                    self.path.display()
                ),
            ));
        };
        let mut changed = self.clone();
        changed.put(name, value)?;
        match changed.config() {
            Ok(_) => Ok(changed),
            // It is no file that is wrong.
            Err(mut failure) => {
                if let Some(what) = failure.message.strip_prefix(&changed.place()) {
                    failure.message = what.to_owned();
                }
                Err(failure.hint(
                    "nothing was changed; `pleach config show --origin` shows what is set, and `pleach config unset KEY` unsets it",
                ))
            }
        }
    }

    /// These as a primary that pushes to where they say that a read replica pulls from.
    pub(crate) fn promoted(&self, remote: &str) -> Result<Layers> {
        let mut changed = self.clone();
        changed.put("read_replica_remote", None)?;
        changed.put("replicate_to_remote", Some(remote))?;
        changed.config()?;
        Ok(changed)
    }

    /// Keeps the settings, durably.
    pub(crate) fn save(&self) -> Result<()> {
        self.settings.write(&self.file.data_dir)
    }

    fn put(&mut self, name: &str, value: Option<&str>) -> Result<()> {
        self.settings.set.remove(name);
        self.settings.unset.remove(name);
        let Some(value) = value else {
            if self.origins.contains_key(&format!("{STANZA}.{name}")) {
                self.settings.unset.insert(name.to_owned());
            }
            return Ok(());
        };
        let is_switch =
            fields(&file::Replication::default()).get(name).is_some_and(serde_json::Value::is_boolean);
        let value = match (is_switch, value) {
            (false, text) => text.into(),
            (true, "true") => true.into(),
            (true, "false") => false.into(),
            (true, other) => {
                return Err(Failure::usage(format!(
                    "{STANZA}.{name}: expected true or false, found `{other}`"
                )));
            }
        };
        self.settings.set.insert(name.to_owned(), value);
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &file::File {
        &self.file
    }

    pub(super) fn is_insecure(&self) -> bool {
        self.is_insecure
    }

    /// The stanza with the settings over it.
    pub(super) fn replication(&self) -> Result<file::Replication> {
        let mut values = fields(&self.file.replication.clone().unwrap_or_default());
        let defaults = fields(&file::Replication::default());
        for name in &self.settings.unset {
            values.extend(defaults.get(name).map(|value| (name.clone(), value.clone())));
        }
        values.extend(self.settings.set.clone());
        serde_json::from_value(values.into()).map_err(|error| self.wrong(format!("{STANZA}: {error}")))
    }

    /// Whether there is a stanza that names no remote to push to or to follow, and no setting that says that this is meant.
    pub(super) fn names_no_remote(&self) -> bool {
        let remotes = ["replicate_to_remote", "read_replica_remote"];
        let is_setting =
            |name: &&str| self.settings.set.contains_key(*name) || self.settings.unset.contains(*name);
        self.file.replication.is_some() && !remotes.iter().any(is_setting)
    }

    /// What is wrong with the stanza, with the file or files that it is in.
    pub(super) fn wrong(&self, what: String) -> Failure {
        Failure::usage(format!("{}{what}", self.place()))
    }

    /// How a message about the stanza begins.
    fn place(&self) -> String {
        match self.settings == Settings::default() {
            true => format!("{}: ", self.path.display()),
            false => {
                let settings = settings::path(&self.file.data_dir);
                format!("{}, {}: ", self.path.display(), settings.display())
            }
        }
    }

    /// The keys that the file sets, and that are something else by a setting: who edits the file then wonders.
    pub(crate) fn overridden(&self) -> Vec<String> {
        let values = fields(&self.file.replication.clone().unwrap_or_default());
        let is_other = |name: &String| match self.settings.set.get(name) {
            Some(set) => values.get(name) != Some(set),
            None => self.settings.unset.contains(name),
        };
        let written = self.origins.keys().filter_map(|key| key.strip_prefix(STANZA)?.strip_prefix('.'));
        written.map(str::to_owned).filter(is_other).collect()
    }

    fn origin(&self, key: &str) -> Origin {
        let name = key.strip_prefix(STANZA).and_then(|rest| rest.strip_prefix('.'));
        if name.is_some_and(|name| self.settings.set.contains_key(name) || self.settings.unset.contains(name))
        {
            return Origin::Settings(settings::path(&self.file.data_dir));
        }
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }
}

fn unknown(key: &str, values: &[Value]) -> Failure {
    let keys: Vec<&str> = values.iter().map(|value| value.key.as_str()).collect();
    let mut names = keys.clone();
    if !key.contains('.') {
        names.extend(keys.iter().filter_map(|key| key.strip_prefix("replication.")));
    }
    let failure = Failure::usage(format!("unknown key `{key}`"));
    let Some(nearest) = file::nearest(key, &names) else { return failure };
    let nested = format!("{STANZA}.{nearest}");
    let nearest = keys.iter().find(|key| **key == nested).copied().unwrap_or(nearest);
    failure.hint(format!("did you mean `{nearest}`? `pleach config show` lists all keys"))
}

/// Each value in `written` that is no mapping, under its keys with dots.
fn flatten(prefix: &str, written: &serde_json::Value, each: &mut impl FnMut(String, &serde_json::Value)) {
    match written.as_object() {
        Some(fields) => {
            for (name, value) in fields {
                let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&key, value, each);
            }
        }
        None => each(prefix.to_owned(), written),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::config::Replication;

    const PRIMARY: &str =
        "listener: {port: 1}\nreplication: {replicate_to_remote: origin, on_conflict: merge}";

    fn layers(text: &str) -> Layers {
        let flags = Flags { data_dir: Some("/d".into()), ..Flags::default() };
        Layers::parse(text, Path::new("/etc/c.yaml"), &flags).unwrap()
    }

    fn show(layers: &Layers, key: &str) -> String {
        let Value { key, value, origin } = layers.value(key).unwrap();
        format!("{key} = {value} ({origin})")
    }

    #[test]
    fn each_value_says_where_it_comes_from() {
        let layers = layers(PRIMARY).with("async_replication", Some("true")).unwrap();
        assert_eq!(show(&layers, "data_dir"), r#"data_dir = "/d" (flag --data-dir)"#);
        assert_eq!(show(&layers, "listener.port"), "listener.port = 1 (file /etc/c.yaml)");
        assert_eq!(show(&layers, "listener.host"), r#"listener.host = "127.0.0.1" (default)"#);
        assert_eq!(show(&layers, "on_conflict"), r#"replication.on_conflict = "merge" (file /etc/c.yaml)"#);
        assert_eq!(
            show(&layers, "replication.async_replication"),
            "replication.async_replication = true (settings /d/settings.yaml)"
        );
        assert_eq!(show(&layers, "cluster.bootstrap_role"), "cluster.bootstrap_role = null (default)");
        let keys: Vec<String> = layers.values().unwrap().into_iter().map(|value| value.key).collect();
        assert_eq!(keys.first().map(String::as_str), Some("data_dir"));
        assert!(keys.contains(&"replication.max_staleness".to_owned()), "{keys:?}");
    }

    #[test]
    fn what_the_file_sets_can_be_unset_and_set_again() {
        let off = layers(PRIMARY).with("replicate_to_remote", None).unwrap();
        assert_eq!(off.config().unwrap().replication, None);
        assert_eq!(
            show(&off, "replicate_to_remote"),
            "replication.replicate_to_remote = null (settings /d/settings.yaml)"
        );
        let other = off.with("replication.replicate_to_remote", Some("backup")).unwrap();
        let Some(Replication::Primary(push)) = other.config().unwrap().replication else { panic!() };
        assert_eq!((push.remote.as_str(), push.merges), ("backup", true));
        // What no file sets leaves nothing behind.
        let set = layers("").with("replicate_to_remote", Some("a")).unwrap();
        assert_eq!(set.with("replicate_to_remote", None).unwrap(), layers(""));
    }

    #[test]
    fn what_is_set_is_checked_as_the_file_is() {
        let layers = layers(PRIMARY);
        let refused = |key: &str, value: &str| {
            let failure = layers.with(key, Some(value)).unwrap_err();
            format!("{failure} {}", failure.hint.clone().unwrap_or_default())
        };
        assert!(refused("on_conflict", "x").contains("expected reject or merge, found `x`"));
        assert!(refused("max_staleness", "soon").contains("expected a duration"));
        assert!(refused("async_replication", "yes").contains("expected true or false, found `yes`"));
        assert!(refused("remote_url_template", "file:///x").contains("contains {database}"));
        assert!(refused("read_replica_remote", "origin").starts_with("replication: replicate_to_remote and"));
        assert!(refused("listener.port", "2").contains("change it in /etc/c.yaml and restart"));
        assert!(refused("replicate_remote", "a").contains("did you mean `replication.replicate_"));
        assert!(refused("replication.on_conflikt", "a").contains("did you mean `replication.on_conflict`"));
        assert!(refused("listener.prot", "a").contains("did you mean `listener.port`"));
    }
}
