//! remote, clone, fetch, pull, push: exchange with other copies of the database.

use std::path::PathBuf;

use pleach_engine::{Database, Hash, MergeOptions, MergeOutcome, Options};
use pleach_protocol::{
    Force, HEADS, HELD_BACK, Part, PushUpdate, RefPatterns, RefResult, RefStatus, Remote as Connection,
    RemoteUrl, TAGS, Transfer, clone_database, forget_remote,
};
use serde_json::{Value, json};

use super::args::{Clone, Limit, Push, Remote};
use super::{Context, backend, merge, packs, print};
use crate::error::{Failure, Result};

pub(super) fn remote(context: &mut Context, arguments: Remote) -> Result<()> {
    let database = context.local("remote")?;
    match arguments {
        Remote::Add { name, url } => {
            let is_name = !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
            if !is_name {
                return Err(Failure::usage(format!("`{name}` is no name for a remote"))
                    .hint("letters, digits, `_`, `-` and `.` are allowed, for example origin"));
            }
            let url = parse(&url)?;
            if let Some(known) = database.setting(&url_key(&name))? {
                return Err(Failure::exists(format!("remote `{name}` exists already: {known}"))
                    .hint(format!("choose another name, or `pleach remote remove {name}` first")));
            }
            database.set_setting(&url_key(&name), Some(&url.to_string()))?;
            if context.output.json {
                return context.output.document(&json!({"remote": name, "url": url.to_string()}));
            }
            Ok(())
        }
        Remote::List => {
            let remotes = remotes(&database)?;
            if context.output.json {
                let remotes: Vec<Value> =
                    remotes.iter().map(|(name, url)| json!({"remote": name, "url": url})).collect();
                return context.output.document(&json!({"remotes": remotes}));
            }
            remotes.iter().try_for_each(|(name, url)| context.output.line(format!("{name}\t{url}")))
        }
        Remote::Remove { name } => {
            known_url(&database, &name)?;
            if database.partial_of()?.as_deref() == Some(name.as_str()) {
                return Err(Failure::refused(format!(
                    "this is a clone of a part of `{name}`, which has the rest"
                ))
                .hint("to do without it, clone all of it again, without --table, --depth and --lazy"));
            }
            forget_remote(&database, &name)?;
            database.set_setting(&url_key(&name), None)?;
            if context.output.json {
                return context.output.document(&json!({"removed": name}));
            }
            Ok(())
        }
        Remote::Compact(of) => packs::compact(context, &database, &of),
        Remote::Collect(of) => packs::collect(context, &database, &of),
    }
}

pub(super) fn clone(context: &mut Context, arguments: Clone) -> Result<()> {
    if context.global.server.is_some() {
        return Err(Failure::usage("clone makes a local database: --server is not possible")
            .hint("leave --server out: the URL names the server"));
    }
    let url = context.credentials()?.authorize(parse(&arguments.url)?);
    let given = arguments.directory.or_else(|| context.global.directory.clone());
    let directory = given.unwrap_or_else(|| PathBuf::from(url.database()));
    let Clone { branch: branches, table: tables, depth, lazy, .. } = arguments;
    let part = Part { branches, tables, depth, lazy };
    let runtime = backend::runtime()?;
    let progress = context.output.progress(format!("cloning {url}"));
    let (database, transfer) = runtime.block_on(async {
        let remote = Connection::connect(&url).await?.with_flow(progress.flow(arguments.limit));
        clone_database(&remote, &directory, Options::default(), &part).await
    })?;
    drop(progress);
    let branch = database.current_branch()?;
    database.close()?;
    context.output.note(format!("cloned {url} into {}, on branch {branch}", directory.display()));
    report(context, &transfer, None)
}

pub(super) fn fetch(context: &mut Context, name: &str, limit: Limit) -> Result<()> {
    let database = context.local("fetch")?;
    let runtime = backend::runtime()?;
    let url = url_of(context, &database, name)?;
    let progress = context.output.progress(format!("fetching from {url}"));
    let transfer = runtime.block_on(async {
        let remote = Connection::connect(&url).await?.with_flow(progress.flow(limit));
        pleach_protocol::fetch(&database, &remote, name, &RefPatterns::all()).await
    })?;
    drop(progress);
    report(context, &transfer, None)?;
    refuse_rejected(&transfer)
}

pub(super) fn pull(context: &mut Context, name: &str, branch: Option<String>, limit: Limit) -> Result<()> {
    let database = context.local("pull")?;
    let runtime = backend::runtime()?;
    let url = url_of(context, &database, name)?;
    let current = database.current_branch()?;
    let theirs = branch.unwrap_or_else(|| current.clone());
    let options = MergeOptions {
        message: Some(format!("Merge {name}/{theirs} into {current}")),
        author: super::history::author(std::env::var("PLEACH_AUTHOR").ok()),
        ..MergeOptions::default()
    };
    let progress = context.output.progress(format!("pulling from {url}"));
    let (transfer, outcome) = runtime.block_on(async {
        let remote = Connection::connect(&url).await?.with_flow(progress.flow(limit));
        pleach_protocol::pull(&database, &remote, name, &theirs, &current, options).await
    })?;
    drop(progress);
    let (word, conflicts) = match outcome {
        MergeOutcome::UpToDate => ("none", 0),
        MergeOutcome::FastForward { .. } => ("fast-forward", 0),
        MergeOutcome::Merged { .. } => ("merged", 0),
        MergeOutcome::Conflicts { count } => ("conflicts", count as u64),
    };
    report(context, &transfer, Some(word))?;
    if conflicts > 0 { Err(merge::unresolved(conflicts)) } else { refuse_rejected(&transfer) }
}

pub(super) fn push(context: &mut Context, arguments: Push) -> Result<()> {
    let database = context.local("push")?;
    let runtime = backend::runtime()?;
    let url = url_of(context, &database, &arguments.remote)?;
    let updates = updates(&database, &arguments)?;
    let force = if arguments.force { Force::Yes } else { Force::No };
    let progress = context.output.progress(format!("pushing to {url}"));
    let transfer = runtime.block_on(async {
        let remote = Connection::connect(&url).await?.with_flow(progress.flow(arguments.limit));
        pleach_protocol::push(&database, &remote, &arguments.remote, &updates, force).await
    })?;
    drop(progress);
    report(context, &transfer, None)?;
    refuse_rejected(&transfer)?;
    let is_nothing = |moved: &&RefResult| {
        let deleted = updates.iter().any(|update| update.name == moved.name && update.new.is_none());
        deleted && moved.status == RefStatus::Unchanged
    };
    match transfer.refs.iter().find(is_nothing) {
        Some(moved) => Err(Failure::not_found(format!("{} is not on the remote", moved.name))
            .hint("`pleach fetch` and `pleach branch` show what is there")),
        None => Ok(()),
    }
}

/// What a push is to do, by the names on the command line.
fn updates(database: &Database, arguments: &Push) -> Result<Vec<PushUpdate>> {
    let mut updates: Vec<PushUpdate> = Vec::new();
    let mut add = |name: String, new: Option<Hash>| {
        if !updates.iter().any(|update| update.name == name) {
            updates.push(PushUpdate { name, new });
        }
    };
    let branches = database.branches()?;
    let tags = database.tags()?;
    for name in &arguments.refs {
        let branch = branches.iter().find(|branch| branch.name == *name);
        let tag = tags.iter().find(|(tag, _)| tag == name);
        match (branch, tag) {
            (Some(branch), _) => {
                add(format!("{HEADS}{name}"), Some(branch.head.ok_or_else(|| unborn(name))?))
            }
            (None, Some((_, hash))) => add(format!("{TAGS}{name}"), Some(*hash)),
            (None, None) => {
                return Err(Failure::not_found(format!("no branch or tag `{name}` to push"))
                    .hint("`pleach branch` and `pleach tag` list them"));
            }
        }
    }
    if arguments.all {
        branches.iter().filter_map(|branch| Some((&branch.name, branch.head?))).for_each(|(name, head)| {
            add(format!("{HEADS}{name}"), Some(head));
        });
    }
    if arguments.tags {
        tags.iter().for_each(|(name, hash)| add(format!("{TAGS}{name}"), Some(*hash)));
    }
    for name in &arguments.delete {
        // A name that is a tag here and no branch is a tag there.
        let is_tag =
            tags.iter().any(|(tag, _)| tag == name) && !branches.iter().any(|branch| branch.name == *name);
        add(format!("{}{name}", if is_tag { TAGS } else { HEADS }), None);
    }
    let names_nothing = arguments.refs.is_empty() && arguments.delete.is_empty() && !arguments.all;
    if names_nothing && !arguments.tags {
        let current = database.current_branch()?;
        let branch = database.branch(&current)?;
        let head = branch.and_then(|branch| branch.head).ok_or_else(|| unborn(&current))?;
        add(format!("{HEADS}{current}"), Some(head));
    }
    Ok(updates)
}

fn unborn(branch: &str) -> Failure {
    Failure::refused(format!("branch `{branch}` has no commit to push"))
        .hint("commit first: `pleach commit -m MSG`")
}

/// Prints which refs moved and what it cost.
fn report(context: &mut Context, transfer: &Transfer, merge: Option<&str>) -> Result<()> {
    let hash = |hash: &Option<Hash>| hash.as_ref().map_or(Value::Null, |hash| hash.to_string().into());
    if context.output.json {
        let refs: Vec<Value> = transfer
            .refs
            .iter()
            .map(|moved| {
                let (old, new) = (hash(&moved.old), hash(&moved.new));
                json!({"ref": moved.name, "old": old, "new": new, "status": moved.status.word()})
            })
            .collect();
        let mut document = json!({
            "refs": refs,
            "chunks": transfer.chunks,
            "bytes_sent": transfer.bytes_sent,
            "bytes_received": transfer.bytes_received,
            "round_trips": transfer.round_trips,
        });
        if let (Some(merge), Some(fields)) = (merge, document.as_object_mut()) {
            fields.insert("merge".into(), merge.into());
        }
        return context.output.document(&document);
    }
    for moved in &transfer.refs {
        let side = |hash: &Option<Hash>| {
            hash.map_or("-".repeat(12), |hash| hash.to_string().chars().take(12).collect())
        };
        let line =
            format!("{:<9} {}  {} → {}", moved.status.word(), moved.name, side(&moved.old), side(&moved.new));
        context.output.line(line)?;
    }
    if let Some(merge) = merge {
        context.output.line(format!("merge: {merge}"))?;
    }
    context.output.line(format!(
        "{}, {} bytes sent, {} bytes received, {}",
        print::count(transfer.chunks, "chunk"),
        transfer.bytes_sent,
        transfer.bytes_received,
        print::count(u64::from(transfer.round_trips), "round trip")
    ))
}

/// A rejected ref ends with status 1 and its reason.
fn refuse_rejected(transfer: &Transfer) -> Result<()> {
    let rejected: Vec<(&str, &str)> = transfer
        .refs
        .iter()
        .filter_map(|moved| match &moved.status {
            RefStatus::Rejected { reason } => Some((moved.name.as_str(), reason.as_str())),
            _ => None,
        })
        .collect();
    // What was refused for itself says more than what was held back with it.
    let own = rejected.iter().find(|(_, reason)| *reason != HELD_BACK);
    let Some((name, reason)) = own.or(rejected.first()) else { return Ok(()) };
    let others = match rejected.len() {
        1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    };
    let (what, hint) = reason.split_once("; ").unwrap_or((reason, "pull first, or look at the remote's log"));
    Err(Failure::refused(format!("{name} was rejected{others}: {what}")).hint(hint))
}

fn parse(url: &str) -> Result<RemoteUrl> {
    Ok(RemoteUrl::parse(url)?)
}

fn url_key(name: &str) -> String {
    format!("remote.{name}.url")
}

/// The URL of a remote, with what is for its server.
pub(super) fn url_of(context: &Context, database: &Database, name: &str) -> Result<RemoteUrl> {
    Ok(context.credentials()?.authorize(known_url(database, name)?))
}

fn known_url(database: &Database, name: &str) -> Result<RemoteUrl> {
    match database.setting(&url_key(name))? {
        Some(url) => parse(&url),
        None => Err(Failure::not_found(format!("no remote `{name}`"))
            .hint(format!("add it: `pleach remote add {name} URL`, for example https://HOST:PORT/DATABASE or file:///DIRECTORY"))),
    }
}

/// Names and URLs, by name.
fn remotes(database: &Database) -> Result<Vec<(String, String)>> {
    let settings = database.settings("remote.")?.into_iter();
    let name = |key: &str| Some(key.strip_prefix("remote.")?.strip_suffix(".url")?.to_owned());
    Ok(settings.filter_map(|(key, url)| Some((name(&key)?, url))).collect())
}
