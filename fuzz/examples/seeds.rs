//! Writes the seeds under `corpus/`: small real chunks, frames, files and rows, so that fuzzing starts from inside the formats. Run it in this directory after a format changed: `cargo run --example seeds`.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use pleach_chunkstore::frame::{self, Encoding, FrameHeader};
use pleach_chunkstore::io::memory::Memory;
use pleach_chunkstore::{patch, testing};
use pleach_engine::row::{Column, Type, Value};
use pleach_engine::{Batch, Chunk, Database, Hash, NewCommit, Options, Outcome, RefUpdate, Schema, Store};

#[path = "../fuzz_targets/exchange.rs"]
mod exchange;
#[path = "../fuzz_targets/stream.rs"]
mod stream;

use exchange::Specimen;
use pleach_protocol::record::Record;
use prost::Message as _;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    nodes()?;
    frames()?;
    journals()?;
    manifests()?;
    hidden_files()?;
    tables()?;
    stores()?;
    patch_files()?;
    maps()?;
    exchanges()?;
    streams()?;
    rows()
}

fn write(target: &str, name: &str, bytes: &[u8]) -> Result<()> {
    let directory = Path::new("corpus").join(target);
    fs::create_dir_all(&directory)?;
    Ok(fs::write(directory.join(format!("seed-{name}")), bytes)?)
}

/// Every kind of chunk that a small database has.
fn nodes() -> Result<()> {
    let database = Database::memory()?;
    let mut transaction = database.begin("main")?;
    transaction.create_table("many", None)?;
    for row in 0..600_u32 {
        transaction.put("many", &row.to_be_bytes(), b"v")?;
    }
    transaction.put("many", b"large", &vec![7; 5_000])?;
    transaction.create_table("typed", Some(schema()?))?;
    transaction.create_index("typed", "index", &["c1", "c6"], true)?;
    transaction.commit()?;
    let new =
        NewCommit { message: "seed".into(), author: "a <b@c>".into(), date_micros: Some(1), amend: false };
    let commit = database.commit("main", new)?;
    let mut waiting = vec![commit.hash];
    let mut seen = std::collections::BTreeSet::new();
    while let Some(hash) = waiting.pop() {
        let chunk = database.store().get(&hash)?.ok_or("a chunk is missing")?;
        waiting.extend(chunk.children());
        // The first small chunk of each kind and level.
        if chunk.bytes().len() < 6_000 && seen.insert((chunk.kind(), chunk.level())) {
            let (kind, level) = (chunk.kind(), chunk.level());
            write("node", &format!("kind-{kind}-level-{level}"), chunk.bytes())?;
            write("node", &format!("body-{kind}-level-{level}"), &[&[kind, level], chunk.body()].concat())?;
        }
    }
    Ok(())
}

/// A full frame and a delta on it, eight-byte aligned as the target's start byte wants it.
fn frames() -> Result<()> {
    let text = b"the rows of a leaf, which differ little from one version to the next; ".repeat(8);
    let base = Chunk::build(2, 0, &text, None, &[], 0);
    let mut newer = text;
    newer[100] = b'X';
    let newer = Chunk::build(2, 0, &newer, None, &[], 0);

    let payload = frame::compress(base.bytes(), 1).ok_or("compresses")?;
    let mut file = Vec::new();
    frame::put(&mut file, &header(&base, Encoding::Zstd, 0, &payload), &payload);
    write("frame", "zstd", &[&[0, 0, 0, 0], &file[..]].concat())?;
    let len = file.len() as u32;
    file.resize(file.len().next_multiple_of(8), 0);
    let start = file.len() as u32;
    let payload = frame::delta(newer.bytes(), base.bytes()).ok_or("resembles")?;
    let encoding = Encoding::Delta { file: 0, offset: start, len };
    frame::put(&mut file, &header(&newer, encoding, 1, &payload), &payload);
    write("frame", "delta", &[&[1, (start / 8) as u8, 0, 0], &file[..]].concat())?;
    file.truncate(start as usize);
    let crossed = Encoding::Delta { file: 2, offset: 0, len };
    let mut other = Vec::new();
    frame::put(&mut other, &FrameHeader { crossed: true, ..header(&newer, crossed, 1, &payload) }, &payload);
    let head = [0x81, 0, 0, (start / 8) as u8];
    write("frame", "crossed", &[&head, &file[..], &other].concat())?;
    let payload = patch::make(newer.bytes(), base.bytes()).ok_or("resembles")?;
    let encoding = Encoding::Patch { file: 0, offset: start, len };
    frame::put(&mut file, &header(&newer, encoding, 1, &payload), &payload);
    write("frame", "patch", &[&[1, (start / 8) as u8, 0, 0], &file[..]].concat())?;
    let mut raw = Vec::new();
    frame::put(&mut raw, &header(&base, Encoding::Raw, 0, base.bytes()), base.bytes());
    write("frame", "raw", &[&[0, 0, 0, 0], &raw[..]].concat())?;
    let dictionary = base.bytes();
    let prepared = frame::Dictionary::new(dictionary.to_vec(), 3);
    let payload = frame::compress_with(newer.bytes(), &prepared).ok_or("compresses")?;
    let mut file = Vec::new();
    frame::put(&mut file, &header(&newer, Encoding::ZstdDictionary, 0, &payload), &payload);
    let dictionary = &dictionary[..dictionary.len() / 8 * 8];
    write("frame", "dictionary", &[&[0, 0, (dictionary.len() / 8) as u8, 0], dictionary, &file].concat())?;
    let [raw_len, base_len] = [newer.bytes().len() as u16, base.bytes().len() as u16].map(u16::to_le_bytes);
    let payload = patch::make(newer.bytes(), base.bytes()).ok_or("resembles")?;
    write("patch", "of-a-version", &[&raw_len, &base_len, base.bytes(), &payload].concat())?;
    write("patch", "to-a-version", &[&raw_len, &base_len, base.bytes(), newer.bytes()].concat())
}

fn header(chunk: &Chunk, encoding: Encoding, step: u8, payload: &[u8]) -> FrameHeader {
    let (raw_len, payload_len) = (chunk.bytes().len() as u32, payload.len() as u32);
    let leaf = chunk.child_count() == 0;
    FrameHeader { encoding, step, crossed: false, leaf, partial: false, raw_len, payload_len }
}

/// Patches to and from the table that the target has, whole and as records alone.
fn patch_files() -> Result<()> {
    let database = Database::memory()?;
    let root = || Ok::<_, Box<dyn std::error::Error>>(database.branch("main")?.ok_or("main")?.work);
    let empty = root()?;
    let mut transaction = database.begin("main")?;
    transaction.create_table("t", None)?;
    transaction.load("t", (0..40_u8).map(|row| ([b'k', row], [row; 3])))?;
    transaction.commit()?;
    let table = root()?;
    let mut transaction = database.begin("main")?;
    transaction.put("t", b"k\x05", b"other")?;
    transaction.put("t", b"new", &vec![7; 2_000])?;
    transaction.delete("t", b"k\x09")?;
    transaction.create_table("typed", Some(schema()?))?;
    transaction.commit()?;
    let changed = root()?;
    let mut transaction = database.begin("main")?;
    transaction.splice("t", b"new", 100..101, b"in")?;
    transaction.commit()?;
    let spliced = root()?;
    let name = schema()?.columns().iter().map(|column| column.name.clone()).next_back().ok_or("a column")?;
    let mut transaction = database.begin("main")?;
    transaction.create_index("typed", "index", &[&name], true)?;
    transaction.commit()?;
    for (name, from, to) in [
        ("drop", table, empty),
        ("make", empty, table),
        ("change", table, changed),
        ("splice", changed, spliced),
        ("index", spliced, root()?),
        ("nothing", table, table),
    ] {
        let differences = database.snapshot_of_root(from)?.diff(&database.snapshot_of_root(to)?)?;
        let mut file = Vec::new();
        pleach_engine::patch::make(&differences, &mut file)?;
        write("patch_file", name, &file)?;
        // One block: its records are between its header and the end's.
        let records = file.get(10 + 36..file.len() - 36).unwrap_or_default();
        write("patch_file", &format!("{name}-records"), records)?;
    }
    Ok(())
}

/// The files of a small store, and one group's body.
fn journals() -> Result<()> {
    let memory = Memory::simulated();
    let store = Store::create_with_io(Arc::new(memory.clone()), Options::default())?;
    let chunk = Chunk::build(2, 0, b"a value", None, &[], 0);
    let update = RefUpdate { name: "heads/main".into(), old: None, new: Some(*chunk.hash()) };
    let mut batch = Batch::default();
    batch.put(chunk.clone(), None);
    match store.append(batch, &[update])? {
        Outcome::Appended(ticket) => ticket.wait()?,
        Outcome::Moved { .. } => return Err("nobody else writes".into()),
    }
    store.close()?;
    for (name, bytes) in memory.files() {
        if name.starts_with("journal") {
            write("journal", "tail", &[&[0], &bytes[..]].concat())?;
            write("journal", "header", &[&[2], &bytes[..]].concat())?;
        }
    }
    let mut body = chunk.hash().as_bytes().to_vec();
    frame::put(&mut body, &header(&chunk, Encoding::Raw, 0, chunk.bytes()), chunk.bytes());
    write("journal", "group", &[&[1, 1, 0], &body[..]].concat())?;
    write("journal", "index", &[3])
}

/// Of a store with a file of every kind.
fn manifests() -> Result<()> {
    let specimen = testing::specimen()?;
    let manifest = &specimen.files["manifest"];
    write("manifest", "whole", manifest)?;
    write("manifest", "fields", &manifest[..manifest.len() - 32])?;
    let first = &specimen.past[0].0["manifest"];
    write("manifest", "first", &first[..first.len() - 32])
}

fn hidden_files() -> Result<()> {
    let specimen = testing::specimen()?;
    for (name, bytes) in specimen.files.iter().filter(|(name, _)| name.starts_with("hidden-")) {
        write("hidden", name, &bytes[32..bytes.len() - 32])?;
    }
    Ok(())
}

/// The tables of a store with a file of every kind, taken apart, but for the long one; and one with a dictionary.
fn tables() -> Result<()> {
    let specimen = testing::specimen()?;
    for (name, bytes) in
        specimen.files.iter().filter(|(name, bytes)| name.starts_with("table-") && bytes.len() < 4096)
    {
        let footer = bytes.last_chunk::<64>().ok_or("a footer")?;
        let field = |at: usize| {
            u32::from_le_bytes([footer[at], footer[at + 1], footer[at + 2], footer[at + 3]]) as usize
        };
        let (chunks, index) = (field(0), field(8));
        let frames = &bytes[64..index];
        let mut seed = vec![0, chunks as u8];
        seed.extend((frames.len() as u16).to_le_bytes());
        for entry in bytes[index..].as_chunks::<40>().0.iter().take(chunks) {
            let offset = u32::from_le_bytes([entry[32], entry[33], entry[34], entry[35]]) - 64;
            seed.extend(offset.to_le_bytes());
            seed.extend(&entry[36..]);
        }
        seed.extend(frames);
        write("table", name, &seed)?;
    }
    let dictionary = b"what most of the chunks in a table begin with, in so many words ";
    let chunk = Chunk::build(1, 0, dictionary, None, &[], 0);
    let prepared = frame::Dictionary::new(dictionary.to_vec(), 9);
    let payload = frame::compress_with(chunk.bytes(), &prepared).ok_or("compresses")?;
    let mut frames = Vec::new();
    let len = frame::put(&mut frames, &header(&chunk, Encoding::ZstdDictionary, 0, &payload), &payload);
    let head = [(dictionary.len() / 8) as u8, 1, len as u8, 0];
    let entry = [[0; 4], (len | 1 << 30).to_le_bytes()].concat();
    write("table", "dictionary", &[&head, &dictionary[..], &entry, &frames].concat())
}

/// What the targets that work on whole stores are told to do.
fn stores() -> Result<()> {
    write("replay", "cut", &[4, 0x80, 1, 0x82, 3, 0, 20, 0x80])?;
    write("replay", "overwritten", &[3, 0x80, 1, 2, 1, 60, 0, b'P', b'L', b'G', b'R'])?;
    write("directory", "flipped", &[9, 0, 0, 2, 4, 0])?;
    write("directory", "replaced", &[9, 6, 0, 0, 0, 11])?;
    write("directory", "older", &[6, 8, 0, 0, 3, 0, 14, 8, 0, 0, 3, 0])?;
    write("lookup", "twice", &[2, 1, 2, 4, 1, 1, 2, 4, 2, 2, 1, 2, 5, 1, 1, 2, 4, 2])
}

/// Rows and edits, as the targets that compare maps are told them.
fn maps() -> Result<()> {
    // 250 rows, and 200 with wider gaps and longer values.
    let rows = [2, 0, 250, 0b0010_0100, 130, 200, 0b1010_1011];
    // A few rows changed, put between others, deleted one by one, and in a range across many nodes.
    let edits = [4, 0, 10, 0, 3 | 2 << 3, 90, 0, 5 | 9 << 3, 40, 0, 7 | 1 << 3, 150, 0];
    let elsewhere = [3, 1 | 31 << 3, 200, 0, 2 | 20 << 3, 44, 0, 4, 3, 5];
    let meeting = [3, 1, 10, 0, 3 | 4 << 3, 90, 0, 6 | 30 << 3, 150, 0];
    let places = [5, 0, 20, 0, 95, 1, 200, 9, 9];
    write("diff", "edited", &[&rows[..], &edits, &places].concat())?;
    write("diff", "emptied", &[&rows[..], &[2, 7 | 31 << 3, 0, 0, 7 | 31 << 3, 0, 4], &places].concat())?;
    write("diff", "filled", &[&[0][..], &elsewhere, &places].concat())?;
    for (name, prefer) in [("kept", 0), ("ours", 1), ("theirs", 2), ("decided", 0x80)] {
        write("merge", name, &[&[prefer][..], &rows, &edits, &meeting].concat())?;
    }
    write("merge", "apart", &[&[0][..], &rows, &edits, &elsewhere].concat())?;
    write("merge", "one-sided", &[&[0][..], &rows, &[0], &elsewhere].concat())
}

/// Honest transfers, and what may lie at a remote instead of what was put there.
fn exchanges() -> Result<()> {
    let specimen = Specimen::new();
    let [first, second] = specimen.commits;
    let message =
        |how: u8, message: &[u8]| [&[how][..], &(message.len() as u16).to_le_bytes(), message].concat();
    let rows = specimen.messages(&[first], second, true);
    write("records", "rows", &message(1, &rows))?;
    write("records", "nodes", &message(1, &specimen.messages(&[first], second, false)))?;
    write("records", "whole", &message(0, &specimen.messages(&[], second, false)))?;
    let mut at = 0;
    while at < rows.len() {
        let (record, end) = Record::parse(&rows, at).map_err(|malformed| malformed.what)?;
        if record.encoding == pleach_protocol::Encoding::Edits {
            write("edits", "real", &[&[0, 1][..], record.payload].concat())?;
        }
        at = end;
    }
    // A row that changes, one that goes, one that comes, one that stays as long.
    let keys = [0, 2, 0, 5, 3, 1, 1, 9, 0, 1, 2, 9, 1, 4, 0, 2, 0, 100, 1];
    let values = b"xnewas long as it";
    let payload = [&[0, keys.len() as u8], &keys[..], &[values.len() as u8], values].concat();
    write("edits", "raw", &[&[0, 1][..], &payload].concat())?;
    // The same of a tree whose nodes were changed: the number of rows of a child, a key, a value.
    for (name, which, at) in [("leaf", 6, 40), ("inner", 4, 90), ("catalogue", 1, 60), ("definition", 2, 12)]
    {
        write("edits", name, &[&[1, which, at, 0, 1, 1][..], &payload].concat())?;
    }
    for (name, changes) in [
        ("flipped", &[1, 0, 40, 0, 7][..]),
        ("cut", &[2, 2, 90, 0, 0]),
        ("replaced", &[1, 4, 0, 0, 2]),
        ("gone", &[2, 5, 0, 0, 0]),
        ("both", &[1, 0, 100, 0, 1, 2, 0, 120, 0, 1]),
    ] {
        write("packs", name, changes)?;
    }
    Ok(())
}

/// What a primary says to its standby.
fn streams() -> Result<()> {
    let messages = |how: u8, messages: Vec<Vec<u8>>| {
        let one = |message: Vec<u8>| [&(message.len() as u16).to_le_bytes(), &message[..]].concat();
        [vec![how], messages.into_iter().flat_map(one).collect()].concat()
    };
    let specimen = Specimen::new();
    let held = Specimen::first().refs("").into_iter().collect();
    let encoded = |held, edits| stream::encoded(stream::of(&specimen.database, held, edits));
    write("replicate", "whole", &messages(0, encoded(None, false)))?;
    write("replicate", "rows", &messages(1, encoded(Some(&held), true)))?;
    write("replicate", "nodes", &messages(1, encoded(Some(&held), false)))?;
    let hello = pleach_replication::testing::hello(stream::PRIMARY, stream::EPOCH).encode_to_vec();
    write("replicate", "hello", &messages(3, [vec![hello], encoded(Some(&held), true)].concat()))?;
    // Databases and branches come and go, and what is tracked elsewhere is not theirs.
    let database = Specimen::first();
    database.create_branch("side", Some(specimen.commits[0]))?;
    database.create_tag("v1", specimen.commits[0])?;
    let more = stream::encoded(stream::of(&database, Some(&held), true));
    let all = database.refs("").into_iter().collect();
    let back = stream::encoded(stream::of(&Specimen::first(), Some(&all), true));
    write("replicate", "refs", &messages(1, [more, back].concat()))
}

fn schema() -> Result<Schema> {
    let types = [
        Type::Int,
        Type::Text,
        Type::Bool,
        Type::Float,
        Type::Decimal { precision: 10, scale: 2 },
        Type::Bytes,
        Type::Date,
        Type::Timestamp,
        Type::Uuid,
    ];
    let columns =
        types.into_iter().zip(0..).map(|(ty, id)| Column { id, name: format!("c{id}"), ty }).collect();
    // Every part of a schema: a descending key column, one that was added, one that was dropped.
    let schema = Schema::new(columns, vec![0, 1])?.descending(&[1])?;
    let schema = schema.add_column("added", Type::Int, Value::Int(5))?;
    Ok(schema.add_column("dropped", Type::Text, Value::Null)?.drop_column("dropped")?)
}

fn rows() -> Result<()> {
    let schema = schema()?;
    let values = vec![
        Value::Int(-7),
        Value::Text("naïve\0text".into()),
        Value::Bool(true),
        Value::Float(0.5),
        Value::Decimal(1999),
        Value::Bytes(vec![0, 255]),
        Value::Null,
        Value::Timestamp(1_700_000_000_000_000),
        Value::Uuid([9; 16]),
        Value::Null,
    ];
    let (key, value) = schema.encode_row(&values)?;
    let encoded = schema.encode();
    let seed = [&[encoded.len() as u8], &encoded[..], &[key.len() as u8], &key[..], &value[..]].concat();
    // The address of nothing is a constant; it stands for a schema that is no schema.
    write("row", "no-schema", Hash::of(b"").as_bytes())?;
    write("row", "every-type", &seed)
}
