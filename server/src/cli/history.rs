//! status, commit, log, show, diff, reset.

use serde_json::{Value, json};

use super::args::{After, Commit, Diff, Log};
use super::output::Output;
use super::{Context, graph, print};
use crate::error::Result;
use crate::proto::{
    Change, CommitInfo, CommitRequest, DiffRequest, DiffStatRequest, Index, LogRequest, ResetRequest,
    ShowRequest, StatusRequest, StatusResponse, TableDiff, table_diff,
};

/// The author to name: `--author` or `PLEACH_AUTHOR` as given, else this user and host.
pub(super) fn author(given: Option<String>) -> String {
    given.filter(|author| !author.is_empty()).unwrap_or_else(crate::author::default)
}

pub(super) fn status(context: &mut Context, after: &After) -> Result<()> {
    let mut backend = context.backend()?;
    let target = backend.target_after(after)?;
    let status = backend.status(StatusRequest { target })?;
    if context.output.json {
        let tables: Vec<Value> = status.tables.iter().map(print::stat_to_json).collect();
        return context.output.document(&json!({
            "branch": status.branch,
            "head": print::hash(&status.head),
            "dirty": status.dirty,
            "conflicts": status.conflicts,
            "tables": tables,
        }));
    }
    plain_status(&mut context.output, &status)
}

fn plain_status(output: &mut Output, status: &StatusResponse) -> Result<()> {
    output.line(format!("on branch {}", status.branch))?;
    match status.head.as_str() {
        "" => output.line("no commits yet")?,
        head => output.line(format!("head {head}"))?,
    }
    if !status.merging.is_empty() {
        output.line(format!("merging {}", status.merging))?;
    }
    if status.conflicts > 0 {
        output.line(format!(
            "{} to resolve: see `pleach conflicts`",
            print::count(status.conflicts, "conflict")
        ))?;
    }
    if !status.dirty {
        return output.line("nothing to commit");
    }
    if status.tables.is_empty() {
        return Ok(());
    }
    output.line("uncommitted changes:")?;
    for stat in &status.tables {
        output.line(format!("  {}", print::stat_line(stat)))?;
    }
    Ok(())
}

pub(super) fn commit(context: &mut Context, arguments: Commit) -> Result<()> {
    let mut backend = context.backend()?;
    let request = CommitRequest {
        target: backend.target(),
        message: arguments.message.unwrap_or_default(),
        author: author(arguments.author),
        amend: arguments.amend,
    };
    let made = backend.commit(request)?;
    let line = format!("{} on {}", made.hash, made.branch);
    context.done(&line, json!({"hash": made.hash, "branch": made.branch, "root": made.root}), &made.token)
}

pub(super) fn log(context: &mut Context, arguments: Log) -> Result<()> {
    if arguments.limit == Some(0) {
        return Ok(());
    }
    let mut backend = context.backend()?;
    let request = LogRequest {
        target: backend.target_after(&arguments.after)?,
        revision: arguments.revision,
        limit: arguments.limit.unwrap_or_default(),
    };
    let output = &mut context.output;
    let mut lines = arguments.graph.then(graph::Graph::default);
    backend.log(request, &mut |message| {
        let commit = message.commit.unwrap_or_default();
        if output.json {
            return output.document(&print::commit_to_json(&commit));
        }
        match &mut lines {
            None => plain_commit(output, &commit),
            Some(graph) => {
                let subject = commit.message.lines().next().unwrap_or_default();
                let short = commit.hash.get(..12).unwrap_or(&commit.hash);
                let text =
                    format!("{short} {subject} ({}, {})", commit.author, print::time(commit.date_micros));
                graph
                    .commit(&commit.hash, &commit.parents, &text)
                    .iter()
                    .try_for_each(|line| output.line(line))
            }
        }
    })
}

pub(super) fn show(context: &mut Context, revision: String, after: &After) -> Result<()> {
    let mut backend = context.backend()?;
    let target = backend.target_after(after)?;
    let shown = backend.show(ShowRequest { target, revision })?;
    let commit = shown.commit.unwrap_or_default();
    if context.output.json {
        let mut document = print::commit_to_json(&commit);
        if let Some(fields) = document.as_object_mut() {
            fields.insert("root".into(), commit.root.into());
            fields.insert("tables".into(), shown.tables.iter().map(print::stat_to_json).collect());
        }
        return context.output.document(&document);
    }
    plain_commit(&mut context.output, &commit)?;
    for stat in &shown.tables {
        context.output.line(print::stat_line(stat))?;
    }
    Ok(())
}

pub(super) fn plain_commit(output: &mut Output, commit: &CommitInfo) -> Result<()> {
    output.line(format!("commit {}", commit.hash))?;
    if commit.parents.len() > 1 {
        output.line(format!("Merge:  {}", commit.parents.join(" ")))?;
    }
    output.line(format!("Author: {}", commit.author))?;
    output.line(format!("Date:   {}", print::time(commit.date_micros)))?;
    output.line("")?;
    for line in commit.message.lines() {
        output.line(format!("    {line}"))?;
    }
    output.line("")
}

pub(super) fn diff(context: &mut Context, arguments: Diff) -> Result<()> {
    let mut backend = context.backend()?;
    let target = backend.target_after(&arguments.after)?;
    let (from, to) = (arguments.from.unwrap_or_default(), arguments.to.unwrap_or_default());
    let table = arguments.table.unwrap_or_default();
    if arguments.stat {
        let progress = context.output.progress("diff");
        progress.watch(&mut backend);
        let stats = backend.diff_stat(DiffStatRequest { target, from, to, table })?.tables;
        drop(progress);
        for stat in stats {
            if context.output.json {
                context.output.document(&print::stat_to_json(&stat))?;
            } else {
                context.output.line(print::stat_line(&stat))?;
            }
        }
        return Ok(());
    }
    let output = &mut context.output;
    let mut current = Changes::default();
    backend.diff(DiffRequest { target, from, to, table }, &mut |message| {
        if let Some(header) = message.table {
            current = Changes::begin(output, header)?;
        }
        message.changes.iter().try_for_each(|change| current.print(output, change))
    })
}

/// Prints the changes of one table.
#[derive(Default)]
struct Changes {
    table: String,
    from: print::Rows,
    to: print::Rows,
}

impl Changes {
    fn begin(output: &mut Output, header: TableDiff) -> Result<Changes> {
        let from = print::Rows::new(header.from.as_ref(), false)?;
        let to = print::Rows::new(header.to.as_ref(), false)?;
        let kind = header.kind();
        if output.json && (header.schema_changed || header.indexes_changed) {
            let side = |is_there: bool, schema, indexes: &[Index]| {
                let mut side = if is_there { print::schema_to_json(schema) } else { Value::Null };
                if let (true, Some(fields), Some(schema)) =
                    (header.indexes_changed, side.as_object_mut(), schema)
                {
                    fields.insert("indexes".into(), print::indexes_to_json(schema, indexes));
                }
                side
            };
            output.document(&json!({
                "table": header.table,
                "op": "schema",
                "key": null,
                "old": side(kind != table_diff::Kind::Added, header.from.as_ref(), &header.from_indexes),
                "new": side(kind != table_diff::Kind::Dropped, header.to.as_ref(), &header.to_indexes),
            }))?;
        } else if !output.json {
            let what = match kind {
                table_diff::Kind::Added => " (new)",
                table_diff::Kind::Dropped => " (dropped)",
                _ if header.schema_changed && header.indexes_changed => " (columns and indexes changed)",
                _ if header.schema_changed => " (columns changed)",
                _ if header.indexes_changed => " (indexes changed)",
                _ => "",
            };
            output.line(format!("table {}{what}", header.table))?;
        }
        Ok(Changes { table: header.table, from, to })
    }

    fn print(&self, output: &mut Output, change: &Change) -> Result<()> {
        let (old, new) = (change.old.as_ref(), change.new.as_ref());
        if !output.json {
            for (mark, rows, row) in [("- ", &self.from, old), ("+ ", &self.to, new)] {
                if let Some(row) = row {
                    output.line([mark.as_bytes(), &rows.line(row)?].concat())?;
                }
            }
            return Ok(());
        }
        let (op, key) = match (old, new) {
            (None, Some(new)) => ("insert", self.to.key_json(new)?),
            (Some(old), None) => ("delete", self.from.key_json(old)?),
            (_, new) => ("update", new.map_or(Ok(Value::Null), |new| self.to.key_json(new))?),
        };
        output.document(&json!({
            "table": self.table,
            "op": op,
            "key": key,
            "old": self.from.side_json(old)?,
            "new": self.to.side_json(new)?,
        }))
    }
}

pub(super) fn reset(context: &mut Context, revision: String, hard: bool) -> Result<()> {
    let mut backend = context.backend()?;
    let target = backend.target();
    let response = backend.reset(ResetRequest { target, revision, hard })?;
    let kept = if hard { "" } else { ": its work is as it was" };
    let line = format!("{} is at {}{kept}", response.branch, response.head);
    context.done(&line, json!({"branch": response.branch, "head": response.head}), &response.token)
}
