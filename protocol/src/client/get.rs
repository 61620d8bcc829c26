//! Get: asks a server for single chunks, and checks each against the hash that the caller expects.

use pleach_engine::{Chunk, ChunkError, Hash, check_chunk};
use tonic::Code;

use crate::error::{Error, Result};
use crate::limits::GET_CHUNKS_MAX;
use crate::proto::{GetRequest, Path};
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
    if remote.place().is_some() {
        let instead = "it has no single chunks to give; fetch from it";
        return Err(Error::NoServer { url: remote.url().to_string(), instead });
    }
    let mut chunks = Vec::with_capacity(wanted.len());
    while chunks.len() < wanted.len() {
        let rest: Vec<&T> = wanted.iter().skip(chunks.len()).take(GET_CHUNKS_MAX).collect();
        let mut request =
            GetRequest { database: remote.url().database().to_owned(), ..GetRequest::default() };
        name(&mut request, &rest);
        let reference = request.r#ref.clone();
        let answer = remote.client()?.get(request).await.map_err(|status| match status.code() {
            Code::NotFound => {
                Error::NoChunk { url: remote.url().to_string(), what: status.message().to_owned() }
            }
            Code::Aborted => Error::Moved { name: reference },
            _ => remote.error(status),
        })?;
        let answer = answer.into_inner().chunks;
        if answer.is_empty() || answer.len() > rest.len() {
            let what = format!("a Get of {} chunks was answered with {}", rest.len(), answer.len());
            return Err(Error::protocol(what));
        }
        for (bytes, wanted) in answer.iter().zip(&rest) {
            chunks.push(checked(bytes.to_vec(), &hash(wanted), chunks.len() as u64)?);
        }
    }
    Ok(chunks)
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
