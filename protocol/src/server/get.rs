//! Answers Get: single chunks, by way of a ref or by hash. Blocking.
//!
//! What a caller may read is what refs that it may read lead to, and each step of a way is one of the children that the chunk before it has. A
//! bare hash says nothing of who may read it. What is not there and what may not be read answer alike, and a caller who may not read a ref, or
//! ask by hash, is told so before anything is looked up: so neither the answer nor the time that it takes tells what there is.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use pleach_engine::{Chunk, Commit, Database, Hash};

use crate::access::{Caller, Right};
use crate::databases::Databases;
use crate::error::{Error, Result, within};
use crate::limits::{DEPTH_MAX, GET_ANCESTORS_MAX, GET_BYTES, GET_CHUNKS_MAX};
use crate::proto::{GetRequest, GetResponse};
use crate::refs::{check_name, hash_from, hashes_from};

/// The answer to `request`.
pub(super) fn serve(databases: &Databases, caller: &Caller, request: &GetRequest) -> Result<GetResponse> {
    within("number of chunks asked for", request.paths.len(), GET_CHUNKS_MAX)?;
    let hashes = hashes_from(&request.hashes, "hashes", GET_CHUNKS_MAX)?;
    for path in &request.paths {
        within("steps of a path", path.steps.len(), DEPTH_MAX)?;
    }
    if hashes.is_empty() == request.paths.is_empty() || hashes.is_empty() == request.r#ref.is_empty() {
        return Err(Error::protocol("a Get has either a ref and paths, or hashes"));
    }
    let unknown = || Error::UnknownDatabase { url: request.database.clone() };
    let database = databases.get(&request.database)?.ok_or_else(unknown)?;
    match hashes.is_empty() {
        true => below(&database, caller, request),
        false if caller.may_all(Right::Read, &request.database) => {
            // A partial copy asks its own remote for nobody who may have no right to it there.
            let get = |hash: &Hash| database.store().local(hash).map_err(engine)?.ok_or_else(no_chunk);
            let mut answer = fill(hashes.iter(), get)?;
            answer.ancestors = ancestors(&database, &answer.chunks, request.ancestors)?;
            Ok(answer)
        }
        false => Err(no_chunk()),
    }
}

/// Chunks below the commit that a ref names.
fn below(database: &Database, caller: &Caller, request: &GetRequest) -> Result<GetResponse> {
    let name = &request.r#ref;
    check_name(name)?;
    if !caller.may_ref(Right::Read, &request.database, name) {
        return Err(no_chunk());
    }
    let (top, _pins) = loop {
        let top = database.get_ref(name).ok_or_else(no_chunk)?;
        if let Some(pins) = database.pin_refs(&[(name.clone(), top)])? {
            break (top, pins);
        }
    };
    if !request.commit.is_empty() && hash_from(&request.commit, "commit")? != top {
        return Err(Error::Moved { name: name.clone() });
    }
    let missing = |hash| pleach_engine::Error::Missing { hash };
    let top = database.store().get(&top).map_err(engine)?.ok_or(missing(top))?;
    fill(request.paths.iter(), |path| {
        path.steps.iter().try_fold(top.clone(), |chunk, &step| {
            let hash = chunk.child(step as usize).ok_or_else(no_chunk)?;
            let child = database.store().child(&chunk, step as usize).map_err(engine)?;
            Ok(child.ok_or(missing(hash))?)
        })
    })
}

/// Ancestors of the commits among `asked`, nearest first, as many as an answer holds. Of a partial copy those that are here.
fn ancestors(database: &Database, asked: &[Bytes], most: u32) -> Result<Vec<Bytes>> {
    let most = (most as usize).min(GET_ANCESTORS_MAX);
    let (mut seen, mut open) = (HashSet::new(), VecDeque::new());
    for bytes in asked.iter().filter(|_| most > 0) {
        let chunk = Chunk::from_bytes(bytes.to_vec()).map_err(pleach_engine::Error::from)?;
        open.extend(Commit::parents_of(&chunk));
    }
    let (mut chunks, mut bytes) = (Vec::new(), 0);
    while let Some(hash) = open.pop_front().filter(|_| chunks.len() < most && bytes < GET_BYTES) {
        if seen.insert(hash)
            && let Some(chunk) = database.store().local(&hash).map_err(engine)?
        {
            bytes += chunk.bytes().len();
            open.extend(Commit::parents_of(&chunk));
            chunks.push(Bytes::copy_from_slice(chunk.bytes()));
        }
    }
    Ok(chunks)
}

/// As many of the chunks as an answer holds.
fn fill<T>(asked: impl Iterator<Item = T>, chunk: impl Fn(T) -> Result<Chunk>) -> Result<GetResponse> {
    let (mut answer, mut bytes) = (GetResponse::default(), 0);
    for one in asked {
        let chunk = chunk(one)?;
        bytes += chunk.bytes().len();
        if bytes > GET_BYTES && !answer.chunks.is_empty() {
            break;
        }
        answer.chunks.push(Bytes::copy_from_slice(chunk.bytes()));
    }
    Ok(answer)
}

fn engine(error: pleach_engine::StoreError) -> Error {
    pleach_engine::Error::from(error).into()
}

/// What is not there, or may not be read.
fn no_chunk() -> Error {
    let what = "no such chunk, or none that you may read".to_owned();
    Error::NoChunk { url: String::new(), what }
}
