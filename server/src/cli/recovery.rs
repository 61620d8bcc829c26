//! recovery list, show, restore, drop.

use serde_json::{Value, json};

use super::args::{After, Recovery};
use super::backend::Backend;
use super::{Context, history, print};
use crate::error::Result;
use crate::ops::Session;
use crate::proto::{
    DiffStatRequest, DropRecoveryRequest, KeptRef, ListBranchesRequest, ListRecoveryRequest,
    RestoreRecoveryRequest, TableStat, Target,
};
use crate::rights::Rights;

pub(super) fn recovery(context: &mut Context, arguments: Recovery) -> Result<()> {
    match arguments {
        Recovery::List { after } => list(context, &after),
        Recovery::Show { name, after } => show(context, &name, &after),
        Recovery::Restore { name, into } => restore(context, name, into),
        Recovery::Drop { name } => drop(context, name),
    }
}

fn list(context: &mut Context, after: &After) -> Result<()> {
    let mut backend = context.backend()?;
    let target = backend.target_after(after)?;
    let kept = backend.list_recovery(ListRecoveryRequest { target })?.kept;
    if context.output.json {
        let kept: Vec<Value> = kept.iter().map(to_json).collect();
        return context.output.document(&json!({"kept": kept}));
    }
    for kept in &kept {
        let subject = match &kept.commit {
            Some(commit) => commit.message.lines().next().unwrap_or_default(),
            None => "uncommitted work",
        };
        context.output.line(format!("{}\t{}\t{}\t{subject}", kept.r#ref, lost_at(kept), kept.hash))?;
    }
    Ok(())
}

fn show(context: &mut Context, name: &str, after: &After) -> Result<()> {
    let mut backend = context.backend()?;
    let target = backend.target_after(after)?;
    let all = backend.list_recovery(ListRecoveryRequest { target: target.clone() })?.kept;
    let Some(kept) = all.into_iter().find(|kept| kept.r#ref == name) else {
        return Err(pleach_engine::Error::NotKept { name: name.to_owned() }.into());
    };
    let tables = differences(&mut backend, target, &kept)?;
    if context.output.json {
        let mut document = to_json(&kept);
        if let Some(fields) = document.as_object_mut() {
            let tables = tables.map(|tables| tables.iter().map(print::stat_to_json).collect());
            fields.insert("tables".into(), tables.unwrap_or(Value::Null));
        }
        return context.output.document(&document);
    }
    let output = &mut context.output;
    output.line(format!("{}, lost {}, is kept as {}", kept.of, lost_at(&kept), kept.r#ref))?;
    match &kept.commit {
        Some(commit) => history::plain_commit(output, commit)?,
        None => output.line(format!("uncommitted work, root {}", kept.hash))?,
    }
    let Some(tables) = tables else {
        return output.line("what it was is gone: `pleach recovery restore` brings it back");
    };
    let what =
        if tables.is_empty() { "it has what its branch has now" } else { "against its branch as it is now:" };
    output.line(what)?;
    tables.iter().try_for_each(|stat| output.line(format!("  {}", print::stat_line(stat))))
}

/// How what is kept differs from its branch, or tag, as that is now; `None` if that is gone.
fn differences(
    backend: &mut Backend,
    target: Option<Target>,
    kept: &KeptRef,
) -> Result<Option<Vec<TableStat>>> {
    let (kind, short) = kept.of.split_once('/').unwrap_or_default();
    let request = |target, from: &str| {
        let (from, to) = (from.to_owned(), kept.r#ref.clone());
        DiffStatRequest { target, from, to, table: String::new() }
    };
    if kind == "tags" {
        return match backend.diff_stat(request(target, short)) {
            Ok(found) => Ok(Some(found.tables)),
            Err(failure) if failure.is_not_found() => Ok(None),
            Err(failure) => Err(failure),
        };
    }
    let branches = backend.list_branches(ListBranchesRequest { target: target.clone() })?.branches;
    if !branches.iter().any(|branch| branch.name == short) {
        return Ok(None);
    }
    let target = target.map(|target| Target { reference: short.to_owned(), ..target });
    if let Backend::Local(session) = backend {
        **session = Session::at(session.database.clone(), short, Rights::default())?;
    }
    Ok(Some(backend.diff_stat(request(target, "@work"))?.tables))
}

fn restore(context: &mut Context, name: String, into: Option<String>) -> Result<()> {
    let mut backend = context.backend()?;
    let target = backend.target();
    let into = into.unwrap_or_default();
    let done = backend.restore_recovery(RestoreRecoveryRequest { target, r#ref: name, into })?;
    let mut line = format!("{} is {}", done.restored, done.hash);
    for kept in &done.kept {
        line += &format!("\nwhat it replaced is kept as {kept}");
    }
    let document = json!({"ref": done.restored, "hash": done.hash, "kept": done.kept});
    context.done(&line, document, &done.token)
}

fn drop(context: &mut Context, name: String) -> Result<()> {
    let mut backend = context.backend()?;
    let target = backend.target();
    let dropped =
        backend.drop_recovery(DropRecoveryRequest { target, r#ref: name })?.dropped.unwrap_or_default();
    if context.output.json {
        return context.output.document(&json!({"dropped": dropped.r#ref, "hash": dropped.hash}));
    }
    context.output.line(format!("dropped {}, which was {}", dropped.r#ref, dropped.hash))
}

fn to_json(kept: &KeptRef) -> Value {
    json!({
        "ref": kept.r#ref,
        "of": kept.of,
        "hash": kept.hash,
        "kept_at": match kept.kept_at_micros {
            0 => Value::Null,
            micros => print::time(micros).into(),
        },
        "commit": kept.commit.as_ref().map(print::commit_to_json),
    })
}

fn lost_at(kept: &KeptRef) -> String {
    match kept.kept_at_micros {
        0 => "at an unknown time".to_owned(),
        micros => print::time(micros),
    }
}
