//! Get: asks a server for single chunks, and checks each against the hash that the caller expects.

use std::collections::HashSet;

use bytes::Bytes;
use pleach_engine::{Chunk, ChunkError, Commit, Hash, check_chunk};
use tonic::Code;

use crate::error::{Error, Result, within};
use crate::limits::GET_CHUNKS_MAX;
use crate::proto::{GetRequest, GetResponse, Path};
use crate::refs::hashes_to_bytes;
use crate::remote::Remote;

/// The way from a commit to a chunk below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkPath {
    /// For each step, the index among the strong children of the chunk so far ([`Chunk::child`]). Empty: the commit itself.
    pub steps: Vec<u32>,
    /// The hash of the chunk that this leads to, as its parent, or the ref, says.
    pub hash: Hash,
}

/// The chunks with these hashes, from a server all of whose database the caller may read; in this order, each checked.
///
/// # Errors
/// [`Error::NoChunk`] if one is not there, or may not be asked for so; [`Error::NoServer`] for a directory or bucket.
pub async fn get(remote: &Remote, hashes: &[Hash]) -> Result<Vec<Chunk>> {
    ask(
        remote,
        hashes,
        |hash| **hash,
        |request, hashes| {
            let hashes: Vec<Hash> = hashes.iter().map(|hash| **hash).collect();
            request.hashes = hashes_to_bytes(&hashes);
        },
    )
    .await
}

/// The first of these chunks, from a server all of whose database the caller may read, with as many of the others, in this order, as the server sends at
/// once, and then so many ancestors of the commits among them; each checked.
///
/// # Errors
/// As [`get`].
pub(super) async fn get_ahead(remote: &Remote, hashes: &[Hash], ancestors: u32) -> Result<Vec<Chunk>> {
    let hashes = &hashes[..hashes.len().min(GET_CHUNKS_MAX)];
    let mut request = request(remote)?;
    (request.hashes, request.ancestors) = (hashes_to_bytes(hashes), ancestors);
    let answer = answer(remote, request, hashes).await?;
    let mut chunks = answer.chunks;
    let mut expected: HashSet<Hash> = chunks.iter().flat_map(Commit::parents_of).collect();
    within("number of ancestors", answer.ancestors.len(), ancestors as usize)?;
    for bytes in answer.ancestors {
        let hash = Hash::of(&bytes);
        if !expected.remove(&hash) {
            return Err(Error::protocol(format!(
                "{hash}, which is none of the ancestors of what was asked for"
            )));
        }
        let chunk = checked(bytes.to_vec(), &hash, chunks.len() as u64)?;
        expected.extend(Commit::parents_of(&chunk));
        chunks.push(chunk);
    }
    Ok(chunks)
}

/// The chunks at these places below `commit`, which `reference` names on the server, `heads/NAME` or `tags/NAME`; in this order, each checked.
///
/// # Errors
/// [`Error::NoChunk`] if there is no such ref or place, or it may not be read; [`Error::Moved`] if the ref names another commit by now;
/// [`Error::NoServer`] for a directory or bucket.
pub async fn get_below(
    remote: &Remote,
    reference: &str,
    commit: &Hash,
    places: &[ChunkPath],
) -> Result<Vec<Chunk>> {
    ask(
        remote,
        places,
        |place| place.hash,
        |request, places| {
            request.r#ref = reference.to_owned();
            request.commit = hashes_to_bytes(&[*commit]);
            request.paths = places.iter().map(|place| Path { steps: place.steps.clone() }).collect();
        },
    )
    .await
}

/// Asks until all are there: an answer may hold the first of them alone.
async fn ask<T>(
    remote: &Remote,
    wanted: &[T],
    hash: impl Fn(&&T) -> Hash,
    name: impl Fn(&mut GetRequest, &[&T]),
) -> Result<Vec<Chunk>> {
    let mut chunks = Vec::with_capacity(wanted.len());
    while chunks.len() < wanted.len() {
        let rest: Vec<&T> = wanted.iter().skip(chunks.len()).take(GET_CHUNKS_MAX).collect();
        let mut request = request(remote)?;
        name(&mut request, &rest);
        let hashes: Vec<Hash> = rest.iter().map(&hash).collect();
        chunks.extend(answer(remote, request, &hashes).await?.chunks);
    }
    Ok(chunks)
}

/// A request about the remote's database.
fn request(remote: &Remote) -> Result<GetRequest> {
    match remote.place() {
        None => Ok(GetRequest { database: remote.url().database().to_owned(), ..GetRequest::default() }),
        Some(_) => {
            let instead = "it has no single chunks to give; fetch from it";
            Err(Error::NoServer { url: remote.url().to_string(), instead })
        }
    }
}

/// What a server answered: the first of the chunks, checked, and what it says are ancestors.
struct Answer {
    chunks: Vec<Chunk>,
    ancestors: Vec<Bytes>,
}

/// The answer to a request for the chunks with these hashes.
async fn answer(remote: &Remote, request: GetRequest, hashes: &[Hash]) -> Result<Answer> {
    let reference = request.r#ref.clone();
    let answer = remote.client()?.get(request).await.map_err(|status| match status.code() {
        Code::NotFound => Error::NoChunk { url: remote.url().to_string(), what: status.message().to_owned() },
        Code::Aborted => Error::Moved { name: reference },
        _ => remote.error(status),
    })?;
    let GetResponse { chunks, ancestors } = answer.into_inner();
    if chunks.is_empty() || chunks.len() > hashes.len() {
        let what = format!("a Get of {} chunks was answered with {}", hashes.len(), chunks.len());
        return Err(Error::protocol(what));
    }
    let chunks = chunks.into_iter().zip(hashes).enumerate();
    let chunks = chunks.map(|(number, (bytes, hash))| checked(bytes.into(), hash, number as u64));
    Ok(Answer { chunks: chunks.collect::<Result<_>>()?, ancestors })
}

/// The chunk with these bytes, the `number`th asked for.
fn checked(bytes: Vec<u8>, expected: &Hash, number: u64) -> Result<Chunk> {
    let malformed = |what: String| Error::Record { record: number, offset: 0, what };
    let chunk = Chunk::verify(bytes, expected).map_err(|error| match error {
        ChunkError::HashMismatch { expected, found } => Error::WrongHash { record: number, expected, found },
        other => malformed(other.to_string()),
    })?;
    check_chunk(&chunk).map_err(|error| malformed(error.to_string()))?;
    Ok(chunk)
}
