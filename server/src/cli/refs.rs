//! branch, switch, tag.

use serde_json::{Value, json};

use super::args::{Branch, Tag};
use super::{Context, print};
use crate::error::{Failure, Result};
use crate::ops::{Session, refs};
use crate::proto::{
    CreateBranchRequest, CreateTagRequest, DeleteBranchRequest, DeleteTagRequest, ListBranchesRequest,
    ListTagsRequest, RenameBranchRequest,
};

pub(super) fn branch(context: &mut Context, arguments: Branch) -> Result<()> {
    let mut backend = context.backend()?;
    if let Some(name) = arguments.delete {
        let target = backend.target();
        let token = backend.delete_branch(DeleteBranchRequest { target, name: name.clone() })?.token;
        return context.done(&format!("deleted branch {name}"), json!({"deleted": name}), &token);
    }
    if let Some(names) = arguments.rename {
        let [old, new] =
            <[String; 2]>::try_from(names).map_err(|_| Failure::usage("branch -m needs OLD and NEW"))?;
        let target = backend.target();
        let token =
            backend.rename_branch(RenameBranchRequest { target, old: old.clone(), new: new.clone() })?.token;
        return context.done(
            &format!("renamed branch {old} to {new}"),
            json!({"old": old, "new": new}),
            &token,
        );
    }
    if let Some(name) = arguments.name {
        let target = backend.target();
        let at = arguments.revision.unwrap_or_default();
        let made = backend.create_branch(CreateBranchRequest { target, name, at })?;
        let (token, made) = (made.token, made.branch.unwrap_or_default());
        let line = format!("made branch {} at {}", made.name, shown(&made.head));
        return context.done(&line, json!({"branch": made.name, "head": print::hash(&made.head)}), &token);
    }
    let target = backend.target_after(&arguments.after)?;
    let current = match &backend {
        super::Backend::Local(session) => Some(session.place().to_owned()),
        super::Backend::Remote(_) => None,
    };
    let branches = backend.list_branches(ListBranchesRequest { target })?.branches;
    let is_current = |name: &str| current.as_deref() == Some(name);
    if context.output.json {
        let branch = |branch: &crate::proto::BranchInfo| {
            let mut fields =
                json!({"branch": branch.name, "head": print::hash(&branch.head), "dirty": branch.dirty});
            if current.is_some()
                && let Some(fields) = fields.as_object_mut()
            {
                fields.insert("current".into(), is_current(&branch.name).into());
            }
            fields
        };
        let branches: Vec<Value> = branches.iter().map(branch).collect();
        return context.output.document(&json!({"branches": branches}));
    }
    for branch in branches {
        let mark = if is_current(&branch.name) { "*" } else { " " };
        let dirty = if branch.dirty { "\tuncommitted changes" } else { "" };
        context.output.line(format!("{mark} {}\t{}{dirty}", branch.name, shown(&branch.head)))?;
    }
    Ok(())
}

pub(super) fn switch(context: &mut Context, name: &str, create: bool) -> Result<()> {
    if context.global.server.is_some() {
        return Err(Failure::usage("`switch` works on a local database: a server has no current branch")
            .hint("name the branch with --database NAME@BRANCH"));
    }
    let session = Session::local(context.open()?)?;
    if create {
        refs::create_branch(
            &session,
            &CreateBranchRequest { name: name.to_owned(), ..CreateBranchRequest::default() },
        )?;
    }
    session.database.switch(name)?;
    context.done(&format!("on branch {name}"), json!({"branch": name}), "")
}

pub(super) fn tag(context: &mut Context, arguments: Tag) -> Result<()> {
    let mut backend = context.backend()?;
    if let Some(name) = arguments.delete {
        let target = backend.target();
        let token = backend.delete_tag(DeleteTagRequest { target, name: name.clone() })?.token;
        return context.done(&format!("deleted tag {name}"), json!({"deleted": name}), &token);
    }
    if let Some(name) = arguments.name {
        let target = backend.target();
        let at = arguments.revision.unwrap_or_default();
        let made = backend.create_tag(CreateTagRequest { target, name, at })?;
        let (token, made) = (made.token, made.tag.unwrap_or_default());
        let line = format!("tagged {} as {}", shown(&made.hash), made.name);
        return context.done(&line, json!({"tag": made.name, "hash": made.hash}), &token);
    }
    let target = backend.target_after(&arguments.after)?;
    let tags = backend.list_tags(ListTagsRequest { target })?.tags;
    if context.output.json {
        let tags: Vec<Value> = tags.iter().map(|tag| json!({"tag": tag.name, "hash": tag.hash})).collect();
        return context.output.document(&json!({"tags": tags}));
    }
    for tag in tags {
        context.output.line(format!("{}\t{}", tag.name, shown(&tag.hash)))?;
    }
    Ok(())
}

/// A commit's hash, or words for none.
fn shown(hash: &str) -> &str {
    if hash.is_empty() { "(no commit)" } else { hash }
}
