//! A small store whose directory holds a file of every kind: what tests of damage, and fuzzing, start from.
//!
//! One idea: it has a life, so that its files can also be confronted with older ones of themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::io::memory::Memory;
use crate::{Batch, Chunk, Compression, Error, Hash, Options, Outcome, RefUpdate, Result, Store};

/// Files by name.
pub type Image = BTreeMap<String, Vec<u8>>;

/// A store's files, and what must be read from them.
#[derive(Clone)]
pub struct Specimen {
    /// The files, after a clean close.
    pub files: Image,
    /// Files and refs at earlier closes, oldest first.
    pub past: Vec<(Image, Vec<(String, Hash)>)>,
    /// All refs.
    pub refs: Vec<(String, Hash)>,
    /// Every chunk that one of them leads to.
    pub chunks: BTreeMap<Hash, Chunk>,
}

/// How a specimen is opened: every read goes to the files.
pub fn options() -> Options {
    Options { cache_bytes: 0, background: false, ..Options::default() }
}

/// A leaf of some lines; versions of the same number differ in one of them.
fn leaf(number: usize, version: usize) -> Chunk {
    let line = |line: usize| {
        let value = if line == 2 { version } else { (number + 1) * (line + 1) };
        format!("the column {line}: {value}; ")
    };
    Chunk::build(1, 0, (0..5).map(line).collect::<String>().as_bytes(), None, &[], 0)
}

/// The same with its lines in another order: no patch is short.
fn turned(chunk: &Chunk) -> Chunk {
    let mut body = chunk.body().to_vec();
    body.rotate_left(chunk.body().len() / 2);
    Chunk::build(1, 0, &body, None, &[], 0)
}

fn node(children: &[Chunk]) -> Chunk {
    let body: Vec<u8> = children.iter().flat_map(|child| *child.hash().as_bytes()).collect();
    Chunk::build(1, 1, &body, Some((0, children.len() as u32)), &[], 0)
}

fn append(store: &Store, chunks: &[(&Chunk, Option<&Chunk>)], name: &str, new: Option<&Chunk>) -> Result<()> {
    let mut batch = Batch::default();
    chunks.iter().for_each(|(chunk, base)| batch.put((*chunk).clone(), base.map(|base| *base.hash())));
    let update = RefUpdate {
        name: name.to_owned(),
        old: store.appended_ref(name),
        new: new.map(|chunk| *chunk.hash()),
    };
    match store.append(batch, &[update])? {
        Outcome::Appended(ticket) => ticket.wait(),
        Outcome::Moved { .. } => Err(Error::Closed),
    }
}

/// Appends leaves and their node, which `name` is to name.
fn commit(store: &Store, name: &str, leaves: &[Chunk]) -> Result<()> {
    let root = node(leaves);
    let mut chunks: Vec<_> = leaves.iter().map(|leaf| (leaf, None)).collect();
    chunks.push((&root, None));
    append(store, &chunks, name, Some(&root))
}

/// Builds one. No two have the same identity.
pub fn specimen() -> Result<Specimen> {
    let disk = Memory::default();
    let mut past = Vec::new();
    let mut close = |store: Store| {
        let refs = store.refs("");
        store.close()?;
        past.push((disk.files(), refs));
        Ok::<_, Error>(())
    };
    let open =
        |compression| Store::open_with_io(Arc::new(disk.clone()), Options { compression, ..options() });

    // A table with a dictionary, and in it chunks that will be hidden.
    let dense = Options { compression: Compression::Dense, ..options() };
    let store = Store::create_with_io(Arc::new(disk.clone()), dense)?;
    let leaves: Vec<Chunk> = (0..64).map(|number| leaf(number, 0)).collect();
    commit(&store, "dense", &leaves)?;
    commit(&store, "dropped", &[leaf(100, 0), leaf(101, 0)])?;
    store.compact()?;
    close(store)?;

    // A table with frames of zstd, patches and deltas, beside it.
    let store = open(Compression::Fast)?;
    commit(&store, "fast", &[leaf(200, 0), leaf(201, 0)])?;
    let (old, new) = (leaf(200, 0), leaf(200, 1));
    append(&store, &[(&new, Some(&old))], "patched", Some(&new))?;
    append(&store, &[(&turned(&new), Some(&new))], "turned", Some(&turned(&new)))?;
    append(&store, &[], "dropped", None)?;
    store.collect(false)?;
    close(store)?;

    // A table of raw frames, mostly dead in the end.
    let store = open(Compression::None)?;
    commit(&store, "raw", &[leaf(300, 0), leaf(301, 0)])?;
    commit(&store, "raw dropped", &[leaf(302, 0), leaf(303, 0)])?;
    store.collect(false)?;
    close(store)?;

    // Journals of one append each: one that is collected, then held ones with differences from chunks in it and in a table.
    let short = Options { journal_bytes: 1, ..options() };
    let store = Store::open_with_io(Arc::new(disk.clone()), short)?;
    commit(&store, "journal", &[leaf(400, 0)])?;
    append(&store, &[(&leaf(401, 0), None)], "young", Some(&leaf(401, 0)))?;
    let hold = store.hold();
    append(&store, &[(&leaf(400, 1), Some(&leaf(400, 0)))], "on a journal", Some(&leaf(400, 1)))?;
    append(&store, &[(&leaf(300, 1), Some(&leaf(300, 0)))], "on a table", Some(&leaf(300, 1)))?;
    append(&store, &[], "raw dropped", None)?;
    store.collect(false)?;
    drop(hold);
    close(store)?;

    // The active journal: differences from chunks in every other kind of file, and in itself.
    let store = open(Compression::Fast)?;
    for (name, old, new) in [
        ("dense, changed", leaf(1, 0), leaf(1, 1)),
        ("changed", leaf(401, 0), leaf(401, 1)),
        ("changed again", leaf(401, 1), leaf(401, 2)),
    ] {
        append(&store, &[(&new, Some(&old))], name, Some(&new))?;
    }
    let mut chunks = BTreeMap::new();
    let refs = store.refs("");
    let mut waiting: Vec<Hash> = refs.iter().map(|(_, hash)| *hash).collect();
    while let Some(hash) = waiting.pop() {
        if let Some(chunk) = store.get(&hash)? {
            waiting.extend(chunk.children());
            chunks.insert(hash, chunk);
        }
    }
    store.close()?;
    // What is kept for a full disk: never read.
    let mut files = disk.files();
    files.remove("spare");
    past.iter_mut().for_each(|(image, _)| drop(image.remove("spare")));
    Ok(Specimen { files, past, refs, chunks })
}
