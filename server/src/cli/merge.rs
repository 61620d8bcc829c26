//! merge and conflicts.

use serde_json::{Value, json};

use super::args::{After, Merge, Side};
use super::{Context, print};
use crate::error::{Failure, Result};
use crate::proto::{
    self, AbortMergeRequest, ListConflictsRequest, MergeRequest, ResolveConflictsRequest, merge_response,
};

/// Conflicts are printed, and end with status 1.
pub(super) fn merge(context: &mut Context, arguments: Merge) -> Result<()> {
    let mut backend = context.backend()?;
    let target = backend.target();
    if arguments.abort {
        let token = backend.abort_merge(AbortMergeRequest { target })?.token;
        return context.done(
            "merge aborted: the branch is as before it; what its work held is kept under recovery/work/",
            json!({"merge": "aborted"}),
            &token,
        );
    }
    let request = MergeRequest {
        target,
        revision: arguments.revision.unwrap_or_default(),
        message: arguments.message.unwrap_or_default(),
        author: super::history::author(arguments.author),
        prefer: side(arguments.prefer).into(),
    };
    let progress = context.output.progress("merge");
    progress.watch(&mut backend);
    let response = backend.merge(request)?;
    drop(progress);
    let line = match response.outcome() {
        merge_response::Outcome::FastForward => format!("fast-forward to {}", response.head),
        merge_response::Outcome::Merged => format!("merged as {}", response.head),
        merge_response::Outcome::Conflicts => print::count(response.conflicts, "conflict"),
        _ => "already up to date".to_owned(),
    };
    let head = print::hash(&response.head);
    let document = json!({"merge": outcome(&response), "head": head, "conflicts": response.conflicts});
    context.done(&line, document, &response.token)?;
    if response.conflicts > 0 { Err(unresolved(response.conflicts)) } else { Ok(()) }
}

/// The word for what a merge did, as `pull` prints it.
pub(super) fn outcome(response: &proto::MergeResponse) -> &'static str {
    match response.outcome() {
        merge_response::Outcome::FastForward => "fast-forward",
        merge_response::Outcome::Merged => "merged",
        merge_response::Outcome::Conflicts => "conflicts",
        _ => "none",
    }
}

/// The failure that a merge with conflicts ends with, and what to do about them.
pub(super) fn unresolved(conflicts: u64) -> Failure {
    Failure::refused(format!(
        "{} to resolve before the merge can be committed",
        print::count(conflicts, "conflict")
    ))
    .hint(
        "`pleach conflicts` lists them, `pleach conflicts --resolve ours|theirs` takes a side, then commit; \
             `pleach merge --abort` gives up",
    )
}

pub(super) fn conflicts(context: &mut Context, resolve: Option<Side>, after: &After) -> Result<()> {
    let mut backend = context.backend()?;
    if let Some(chosen) = resolve {
        let target = backend.target();
        let request = ResolveConflictsRequest { target, side: side(Some(chosen)).into() };
        let done = backend.resolve_conflicts(request)?;
        let line = format!("{} resolved; commit to end the merge", print::count(done.resolved, "conflict"));
        return context.done(&line, json!({"resolved": done.resolved}), &done.token);
    }
    let target = backend.target_after(after)?;
    let mut documents: Vec<Value> = Vec::new();
    let output = &mut context.output;
    backend.list_conflicts(ListConflictsRequest { target }, &mut |conflict| {
        let rows = print::Rows::new(conflict.schema.as_ref(), false)?;
        let key = conflict.key.clone().unwrap_or_default();
        let sides = [("base", &conflict.base), ("ours", &conflict.ours), ("theirs", &conflict.theirs)];
        if output.json {
            let mut document = json!({"table": conflict.table, "key": rows.key_json(&key)?});
            for (name, row) in sides {
                let value = rows.side_json(row.as_ref())?;
                document.as_object_mut().and_then(|fields| fields.insert(name.into(), value));
            }
            documents.push(document);
            return Ok(());
        }
        let mut line = format!("conflict in {}: ", conflict.table).into_bytes();
        line.extend(rows.key(&key)?);
        output.line(line)?;
        for (name, row) in sides {
            let mut line = format!("  {name:<7}").into_bytes();
            match row {
                Some(row) => line.extend(rows.value(row)?),
                None => line.extend(b"(no row)"),
            }
            output.line(line)?;
        }
        Ok(())
    })?;
    if context.output.json {
        context.output.document(&json!({"conflicts": documents}))?;
    }
    Ok(())
}

fn side(side: Option<Side>) -> proto::Side {
    match side {
        None => proto::Side::Unspecified,
        Some(Side::Ours) => proto::Side::Ours,
        Some(Side::Theirs) => proto::Side::Theirs,
    }
}
