//! Any payload as the rows that changed in a table, of which some nodes may have been changed so that each is one, but they are no tree: refused, or a
//! table that is taken when its hash is the one that is expected; without a change of nodes, the one that its rows make.
//!
//! Input: `u8` changes of the table's chunks, at most 3, each `u8` which chunk, `u16` where, `u8` what is xored there; `u8` which child of the catalogue is
//! edited, of the two that there are; the rest is the payload.

#![no_main]

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pleach_engine::{Chunk, Database, Definition, Hash, MapConfig, Sent, check_chunk};
use pleach_protocol::record::{BaseName, Follow, Record};
use pleach_protocol::{Encoding, Error, Receiver};

mod exchange;

use exchange::Specimen;

static SPECIMEN: LazyLock<(Specimen, Vec<Sent>)> = LazyLock::new(|| {
    let specimen = Specimen::new();
    let chunks = specimen.chunks();
    (specimen, chunks)
});

/// The commit with the changes in it, and the root of its catalogue; nothing if a chunk is none any more.
fn changed(changes: &[[u8; 4]]) -> Option<(Vec<u8>, Hash, Chunk)> {
    let chunks = &SPECIMEN.1;
    let mut now: HashMap<Hash, Chunk> = HashMap::new();
    // Children stand behind their parents.
    for (i, sent) in chunks.iter().enumerate().rev() {
        let mut bytes = sent.chunk.bytes().to_vec();
        for child in sent.chunk.children() {
            if let Some(chunk) = now.get(&child).filter(|chunk| *chunk.hash() != child) {
                let places: Vec<usize> = (0..bytes.len().saturating_sub(Hash::LEN - 1))
                    .filter(|at| bytes[*at..].starts_with(child.as_bytes()))
                    .collect();
                for at in places {
                    bytes[at..at + Hash::LEN].copy_from_slice(chunk.hash().as_bytes());
                }
            }
        }
        let mut is_changed = false;
        for [which, at @ .., value] in changes {
            if usize::from(*which) % chunks.len() == i {
                let at = usize::from(u16::from_le_bytes(*at)) % bytes.len();
                bytes[at] ^= value;
                is_changed = true;
            }
        }
        let chunk = Chunk::from_bytes(bytes).ok()?;
        if is_changed {
            check_chunk(&chunk).ok()?;
        }
        now.insert(*sent.chunk.hash(), chunk);
    }
    let mut message = Vec::new();
    chunks.iter().for_each(|sent| exchange::write(sent, &now[sent.chunk.hash()], &mut message));
    let root = SPECIMEN.0.database.commit_object(&SPECIMEN.0.commits[0]).expect("reads").root;
    Some((message, *now[&SPECIMEN.0.commits[0]].hash(), now[&root].clone()))
}

/// Gives the catalogue, in which `expected` stands at `child`, and the payload that is to make that.
fn send(
    database: &Database,
    catalogue: &Chunk,
    child: u32,
    expected: Hash,
    payload: &[u8],
) -> Result<Hash, Error> {
    let mut bytes = catalogue.bytes().to_vec();
    let old = catalogue.child(child as usize).expect("a child");
    let at = bytes.windows(Hash::LEN).position(|found| found == old.as_bytes()).expect("a child");
    bytes[at..at + Hash::LEN].copy_from_slice(expected.as_bytes());
    let next = Chunk::from_bytes(bytes).expect("a chunk with another child");
    let mut message = Vec::new();
    let top = Record {
        encoding: Encoding::Raw,
        raw_len: next.bytes().len(),
        top: Some(*next.hash()),
        base: Some(BaseName::Hash(*catalogue.hash())),
        follow: Follow::new(vec![child], next.child_count()),
        payload: next.bytes(),
    };
    top.write(&mut message);
    let edits = Record {
        encoding: Encoding::Edits,
        raw_len: 1,
        top: None,
        base: Some(BaseName::Child(child)),
        follow: Follow::None,
        payload,
    };
    edits.write(&mut message);
    let mut receiver = Receiver::new(database)?;
    receiver.receive(&message)?;
    let _hold = receiver.finish(2, &[*next.hash()])?.append(database)?;
    Ok(*next.hash())
}

fn check(database: &Database, root: Hash, is_tree: bool) {
    let Ok(snapshot) = database.snapshot_of_root(root) else { return assert!(!is_tree) };
    let Ok(Some(table)) = snapshot.table("t") else { return assert!(!is_tree) };
    let scanned = table.scan(Bound::Unbounded, Bound::Unbounded).and_then(Iterator::collect);
    let rows: BTreeMap<Vec<u8>, Vec<u8>> = match scanned {
        Ok(rows) => rows,
        Err(error) => return assert!(!is_tree, "{error}"),
    };
    if is_tree {
        let fresh = Database::memory().expect("a database");
        let mut transaction = fresh.begin("main").expect("a branch");
        let config = MapConfig { leaf_mean: 8, inner_mean: 8, inline_bytes: 64, salt: 1 };
        transaction.create_table_with("t", Definition { config, schema: None }).expect("a new table");
        transaction.load("t", &rows).expect("rows in order");
        transaction.commit().expect("memory does not fail");
        let work = fresh.branch("main").expect("refs").expect("a branch").work;
        let same = fresh.snapshot_of_root(work).expect("reads").table("t").expect("reads").expect("a table");
        assert_eq!(table.root(), same.root());
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&count, rest)) = input.split_first() else { return };
    let changes = rest.as_chunks::<4>().0;
    let count = usize::from(count % 4).min(changes.len());
    let rest = &rest[count * 4..];
    let Some((&child, payload)) = rest.split_first() else { return };
    if payload.is_empty() {
        return;
    }
    let Some((message, commit, catalogue)) = changed(&changes[..count]) else { return };
    let Some(database) = exchange::holding(&message, commit) else { return };
    let child = u32::from(child) % 2;
    let expected = match send(&database, &catalogue, child, Hash::of(b"something else"), payload) {
        Err(Error::WrongEdits { found: Some(found), .. }) => found,
        Err(Error::WrongEdits { found: None, .. }) => return exchange::check_whole(&database),
        other => panic!("{other:?}"),
    };
    let root = send(&database, &catalogue, child, expected, payload).expect("what it makes is taken");
    let is_tree = changes[..count].iter().all(|[.., value]| *value == 0);
    check(&database, root, is_tree);
    exchange::check_whole(&database);
});
