//! Writes the seeds under `corpus/`: small real chunks, frames, journals and rows, so that fuzzing starts from inside the
//! formats. Run it in this directory after a format changed: `cargo run --example seeds`.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use pleach_chunkstore::frame::{self, Encoding, FrameHeader};
use pleach_chunkstore::io::memory::Memory;
use pleach_chunkstore::patch;
use pleach_engine::row::{Column, Type, Value};
use pleach_engine::{Batch, Chunk, Database, Hash, NewCommit, Options, Outcome, RefUpdate, Schema, Store};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    nodes()?;
    frames()?;
    journals()?;
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
    write("frame", "zstd", &[&[0, 0], &file[..]].concat())?;
    let len = file.len() as u32;
    file.resize(file.len().next_multiple_of(8), 0);
    let start = file.len() as u32;
    let payload = frame::delta(newer.bytes(), base.bytes()).ok_or("resembles")?;
    let encoding = Encoding::Delta { file: 0, offset: start, len };
    frame::put(&mut file, &header(&newer, encoding, 1, &payload), &payload);
    write("frame", "delta", &[&[1, (start / 8) as u8], &file[..]].concat())?;
    file.truncate(start as usize);
    let payload = patch::make(newer.bytes(), base.bytes()).ok_or("resembles")?;
    let encoding = Encoding::Patch { file: 0, offset: start, len };
    frame::put(&mut file, &header(&newer, encoding, 1, &payload), &payload);
    write("frame", "patch", &[&[1, (start / 8) as u8], &file[..]].concat())?;
    let mut raw = Vec::new();
    frame::put(&mut raw, &header(&base, Encoding::Raw, 0, base.bytes()), base.bytes());
    write("frame", "raw", &[&[0, 0], &raw[..]].concat())
}

fn header(chunk: &Chunk, encoding: Encoding, step: u8, payload: &[u8]) -> FrameHeader {
    let (raw_len, payload_len) = (chunk.bytes().len() as u32, payload.len() as u32);
    FrameHeader { encoding, step, crossed: false, leaf: chunk.child_count() == 0, raw_len, payload_len }
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
        if name == "manifest" {
            write("journal", "manifest", &[&[4], &bytes[..]].concat())?;
        } else if name.starts_with("journal") {
            write("journal", "tail", &[&[0], &bytes[..]].concat())?;
            write("journal", "header", &[&[2], &bytes[..]].concat())?;
        }
    }
    let mut body = chunk.hash().as_bytes().to_vec();
    frame::put(&mut body, &header(&chunk, Encoding::Raw, 0, chunk.bytes()), chunk.bytes());
    write("journal", "group", &[&[1, 1, 0], &body[..]].concat())?;
    write("journal", "index", &[3])
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
    Ok(Schema::new(columns, vec![0, 1])?)
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
    ];
    let (key, value) = schema.encode_row(&values)?;
    let encoded = schema.encode();
    let seed = [&[encoded.len() as u8], &encoded[..], &[key.len() as u8], &key[..], &value[..]].concat();
    // The address of nothing is a constant; it stands for a schema that is no schema.
    write("row", "no-schema", Hash::of(b"").as_bytes())?;
    write("row", "every-type", &seed)
}
