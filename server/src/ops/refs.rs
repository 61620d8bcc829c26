//! Branches and tags.

use pleach_engine::{Branch, Hash};
use pleach_protocol::Right;

use super::{Session, hex};
use crate::error::Result;
use crate::proto::{
    BranchInfo, CreateBranchRequest, CreateBranchResponse, CreateTagRequest, CreateTagResponse,
    DeleteBranchRequest, DeleteBranchResponse, DeleteTagRequest, DeleteTagResponse, ListBranchesRequest,
    ListBranchesResponse, ListTagsRequest, ListTagsResponse, RenameBranchRequest, RenameBranchResponse,
    TagInfo,
};

/// All branches, by name.
pub fn list_branches(session: &Session, _request: &ListBranchesRequest) -> Result<ListBranchesResponse> {
    let branches = session.database.branches()?.into_iter().filter(|branch| session.may_read(&branch.name));
    let branches = branches.map(|branch| info(session, branch)).collect::<Result<_>>()?;
    Ok(ListBranchesResponse { branches })
}

/// A branch at a commit; at an unborn HEAD, an unborn branch.
pub fn create_branch(session: &Session, request: &CreateBranchRequest) -> Result<CreateBranchResponse> {
    session.require(Right::Write, &request.name)?;
    let at = match request.at.as_str() {
        "" | "HEAD" => session.head()?,
        revision => Some(session.commit_at(revision)?),
    };
    session.database.create_branch(&request.name, at)?;
    let branch = BranchInfo { name: request.name.clone(), head: hex(at), dirty: false };
    Ok(CreateBranchResponse { branch: Some(branch), token: session.token()? })
}

/// Deletes a branch and its uncommitted work.
pub fn delete_branch(session: &Session, request: &DeleteBranchRequest) -> Result<DeleteBranchResponse> {
    session.require(Right::Write, &request.name)?;
    session.database.delete_branch(&request.name)?;
    Ok(DeleteBranchResponse { token: token_after_loss(session)? })
}

/// Renames a branch.
pub fn rename_branch(session: &Session, request: &RenameBranchRequest) -> Result<RenameBranchResponse> {
    session.require(Right::Write, &request.old)?;
    session.require(Right::Write, &request.new)?;
    session.database.rename_branch(&request.old, &request.new)?;
    Ok(RenameBranchResponse { token: token_after_loss(session)? })
}

/// All tags, by name.
pub fn list_tags(session: &Session, _request: &ListTagsRequest) -> Result<ListTagsResponse> {
    let tags = session.database.tags()?.into_iter().filter(|(name, _)| session.may_read(name));
    let tags = tags.map(tag).collect();
    Ok(ListTagsResponse { tags })
}

/// A tag at a commit.
pub fn create_tag(session: &Session, request: &CreateTagRequest) -> Result<CreateTagResponse> {
    session.require(Right::Write, &request.name)?;
    let at = session.commit_at(if request.at.is_empty() { "HEAD" } else { &request.at })?;
    session.database.create_tag(&request.name, at)?;
    Ok(CreateTagResponse { tag: Some(tag((request.name.clone(), at))), token: session.token()? })
}

/// Deletes a tag.
pub fn delete_tag(session: &Session, request: &DeleteTagRequest) -> Result<DeleteTagResponse> {
    session.require(Right::Write, &request.name)?;
    session.database.delete_tag(&request.name)?;
    Ok(DeleteTagResponse { token: session.token()? })
}

/// The token after the session's own branch may have gone.
fn token_after_loss(session: &Session) -> Result<String> {
    match session.head() {
        Ok(_) => session.token(),
        Err(_) => Session::at(session.database.clone(), "", session.rights.clone())
            .and_then(|main| main.token())
            .or(Ok(String::new())),
    }
}

fn tag((name, hash): (String, Hash)) -> TagInfo {
    TagInfo { name, hash: hash.to_string() }
}

fn info(session: &Session, branch: Branch) -> Result<BranchInfo> {
    let head_root =
        branch.head.map(|head| session.database.commit_object(&head)).transpose()?.map(|head| head.root);
    let dirty = match head_root {
        Some(root) => root != branch.work,
        None => !session.database.snapshot_of_root(branch.work)?.tables()?.is_empty(),
    };
    Ok(BranchInfo { name: branch.name, head: hex(branch.head), dirty })
}
