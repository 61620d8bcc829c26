//! Tables that are told by rows that changed, by who lies about them: each case its name, the payload, and why it is refused. The parent is
//! honest as far as it can be: a catalogue in which another table stands.

use pleach_engine::{Definition, MapConfig};
use pleach_protocol::limits::{EDITS_BYTES_MAX, EDITS_ROWS_MAX};

use super::*;

/// A database with the table `t` of 3000 rows, of which every hundredth is out of line, and a second table that is cut in another way; the root of
/// its catalogue.
fn held() -> (Database, Chunk) {
    let db = Database::memory().unwrap();
    let mut transaction = db.begin("main").unwrap();
    transaction.create_table("t", None).unwrap();
    for i in 0..3000u32 {
        let value = if i % 100 == 7 { vec![7; 2000] } else { format!("row {i}").into_bytes() };
        transaction.put("t", &i.to_be_bytes(), &value).unwrap();
    }
    let config = MapConfig { leaf_mean: 192, ..MapConfig::default() };
    transaction.create_table_with("u", Definition { config, schema: None }).unwrap();
    let _ = transaction.commit().unwrap();
    let new = NewCommit { message: "m".into(), author: "a".into(), ..NewCommit::default() };
    let head = db.commit("main", new).unwrap().hash;
    let root = db.commit_object(&head).unwrap().root;
    let catalogue = db.store().get(&root).unwrap().unwrap();
    assert_eq!((catalogue.level(), catalogue.child_count()), (0, 4));
    (db, catalogue)
}

/// The definition and the root of `t`, then those of `u`.
const TABLE: u32 = 1;

/// The chunk with `new` in the place of its child `index`.
fn with_child(chunk: &Chunk, index: u32, new: Hash) -> Chunk {
    let mut bytes = chunk.bytes().to_vec();
    let old = chunk.child(index as usize).unwrap();
    // It may stand there before.
    let earlier = chunk.children().take(index as usize).filter(|child| *child == old).count();
    let mut places = (0..bytes.len() - Hash::LEN + 1).filter(|at| bytes[*at..].starts_with(old.as_bytes()));
    let at = places.nth(earlier).unwrap();
    bytes[at..at + Hash::LEN].copy_from_slice(new.as_bytes());
    Chunk::from_bytes(bytes).unwrap()
}

/// Sends `next`, a version of the catalogue, and the payload for its child.
fn send_next(db: &Database, base: &Chunk, next: &Chunk, child: u32, payload: &[u8]) -> Result<(), Error> {
    let plain = Sent { chunk: next.clone(), child: None, base: None, follow: vec![child] };
    let mut message = written(&Record { base: Some(BaseName::Hash(*base.hash())), ..record(&plain) });
    let edits = Record {
        encoding: Encoding::Edits,
        raw_len: 1,
        top: None,
        base: Some(BaseName::Child(child)),
        follow: Follow::None,
        payload,
    };
    edits.write(&mut message);
    let mut receiver = Receiver::new(db)?;
    receiver.receive(&message)?;
    let _hold = receiver.finish(2, &[*next.hash()])?.append(db)?;
    Ok(())
}

/// What the payload makes of the table, which is not expected.
fn refusal_of(db: &Database, catalogue: &Chunk, payload: &[u8]) -> Error {
    let next = with_child(catalogue, TABLE, Hash::of(b"something else"));
    let before = state(db);
    let error = send_next(db, catalogue, &next, TABLE, payload).expect_err("it is not what is expected");
    assert!(!db.store().contains(next.hash()));
    assert_eq!(state(db), before);
    error
}

fn varint(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A row as a payload says it: what its key shares with the one before, the rest, and what becomes of it.
type Row<'a> = (usize, &'a [u8], usize);

fn keys(rows: &[Row<'_>]) -> Vec<u8> {
    let mut keys = Vec::new();
    for (shared, rest, what) in rows {
        varint(*shared, &mut keys);
        varint(rest.len(), &mut keys);
        keys.extend_from_slice(rest);
        varint(*what, &mut keys);
    }
    keys
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    // The payload of a record has no magic number.
    zstd::bulk::compress(bytes, 3).unwrap()[4..].to_vec()
}

/// A payload whose keys are compressed if bit 0 of `how` says so.
fn payload(how: u8, keys: &[u8], values: &[u8]) -> Vec<u8> {
    let mut out = vec![how];
    varint(keys.len(), &mut out);
    let keys = if how & 1 == 1 { compressed(keys) } else { keys.to_vec() };
    if how & 1 == 1 {
        varint(keys.len(), &mut out);
    }
    out.extend_from_slice(&keys);
    varint(values.len(), &mut out);
    out.extend_from_slice(values);
    out
}

const GONE: usize = 0;
const AS_LONG: usize = 1;

#[test]
fn payloads_that_say_no_rows() {
    let (db, catalogue) = held();
    let five = 5u32.to_be_bytes();
    let of = |rows: &[Row<'_>], values: &[u8]| payload(0, &keys(rows), values);
    let many = |rows: usize| -> Vec<u8> {
        (0..rows).flat_map(|i| keys(&[(0, &(i as u32).to_be_bytes(), GONE)])).collect()
    };
    let bomb = |len: usize| compressed(&vec![0; len]);
    let long = {
        // Each key is the one before and nothing new but its end.
        let first = [&[0; 1021][..], &[0, 0, 0]].concat();
        let mut keys = keys(&[(0, &first, GONE)]);
        for i in 1..EDITS_ROWS_MAX as u32 {
            keys.extend(super::rows::keys(&[(1021, &i.to_be_bytes()[1..], GONE)]));
        }
        payload(1, &keys, &[])
    };
    assert!(long.len() < 100_000);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", vec![0], "keys_len"),
        ("no row", payload(0, &[], &[]), "no row"),
        ("keys of another version", payload(2, &keys(&[(0, &five, GONE)]), &[]), "none of this version"),
        ("flags of another version", payload(0x10, &keys(&[(0, &five, GONE)]), &[]), "none of this version"),
        ("keys that are not there", vec![0, 100, 1, 2], "keys needs 100 bytes"),
        (
            "more keys than there may be",
            [&[0, 0x81, 0x80, 0x40][..], &[0; 9]].concat(),
            "keys_len is 1048577",
        ),
        ("a bomb of keys", [&[1, 0x80, 0x80, 0x40, 0xff, 0x7f][..], &bomb(64 << 20)].concat(), "keys needs"),
        (
            "a bomb of keys at its length",
            {
                let bomb = bomb(64 << 20);
                let mut out = vec![1, 0x80, 0x80, 0x40];
                varint(bomb.len(), &mut out);
                [&out[..], &bomb, &[0]].concat()
            },
            "zstd",
        ),
        (
            "a bomb of values",
            {
                let keys = keys(&[(0, &five, 1000)]);
                let mut out = vec![0b0100];
                varint(keys.len(), &mut out);
                out.extend(keys);
                varint(1000, &mut out);
                [&out[..], &bomb(64 << 20)].concat()
            },
            "zstd",
        ),
        (
            "more values than there may be",
            {
                let keys = keys(&[(0, &five, GONE)]);
                [&[0, keys.len() as u8][..], &keys, &[0x81, 0x80, 0x40]].concat()
            },
            "values_len is 1048577",
        ),
        ("keys that descend", of(&[(0, &five, GONE), (0, &[0], GONE)], &[]), "do not ascend"),
        ("a key twice", of(&[(0, &five, GONE), (4, &[], GONE)], &[]), "do not ascend"),
        ("a key that is none of a row", of(&[(0, &[1; 1025], GONE)], &[]), "has 1025 more"),
        ("a key that shares too much", of(&[(0, &five, GONE), (5, &[1], GONE)], &[]), "shares 5 bytes of 4"),
        ("a first key that shares", of(&[(1, &five, GONE)], &[]), "shares 1 bytes of 0"),
        ("a key that ends too early", payload(0, &[0, 9, 1], &[]), "key needs 9 bytes"),
        ("keys that are longer than they look", long, "keys of more than 1048576 bytes"),
        ("one row too many", payload(1, &many(EDITS_ROWS_MAX + 1), &[]), "more than 32768 rows"),
        ("a row beyond counting", of(&[(0, &five, u32::MAX as usize)], b"x"), "shorter than the rows say"),
        ("as long as what is not there", of(&[(0, b"none", AS_LONG)], &[]), "not here"),
        ("as long as what is out of line", of(&[(0, &7u32.to_be_bytes(), AS_LONG)], &[]), "not here"),
        ("too few values", of(&[(0, &five, 2 + 6)], b"short"), "shorter than the rows say"),
        ("too many values", of(&[(0, &five, 2 + 5)], b"longer"), "beyond those of the rows"),
        ("values of rows that are gone", of(&[(0, &five, GONE)], b"x"), "beyond those of the rows"),
        ("a value that is out of line", of(&[(0, &five, 2 + 1025)], &[1; 1025]), "values of 1024"),
        ("a difference to nothing", payload(8, &keys(&[(0, b"none", 2 + 9)]), b"not a frame"), "zstd"),
    ];
    for (name, payload, what) in cases {
        let error = refusal_of(&db, &catalogue, &payload);
        assert!(matches!(error, Error::WrongEdits { record: 1, .. }), "{name}: {error}");
        assert!(error.to_string().contains(what), "{name}: {error}");
    }
    assert!(payload(0, &[0], &[]).len() < EDITS_BYTES_MAX);
    assert_sound(&db);
}

#[test]
fn rows_of_what_is_no_table_or_cut_otherwise() {
    let (db, catalogue) = held();
    let rows = payload(0, &keys(&[(0, &5u32.to_be_bytes(), 2 + 1)]), b"x");
    let [definition, root, other, empty] = [0, 1, 2, 3].map(|child| catalogue.child(child).unwrap());
    let commit = db.get_ref("heads/main").unwrap();
    let edited = |base: &Chunk, next: &Chunk, child| send_next(&db, base, next, child, &rows).unwrap_err();
    let stranger = || Hash::of(b"something else");
    let before = state(&db);
    // In the place of a definition.
    let error = edited(&catalogue, &with_child(&catalogue, 0, stranger()), 0);
    assert!(error.to_string().contains("entry of a table"), "{error}");
    // The rows of one table, said to be cut as another is: each node of it would be made anew.
    let lying = with_child(&with_child(&catalogue, 0, other), TABLE, stranger());
    let error = edited(&catalogue, &lying, TABLE);
    assert!(error.to_string().contains("as before"), "{error}");
    // A table whose definition is none, and one whose root is none.
    for (definition, root) in [(root, root), (commit, root), (definition, definition), (definition, commit)] {
        let base = with_child(&with_child(&catalogue, 0, definition), TABLE, root);
        let plain = Sent { chunk: base.clone(), child: None, base: None, follow: Vec::new() };
        let mut receiver = Receiver::new(&db).unwrap();
        receiver.receive(&written(&record(&plain))).unwrap();
        let _hold = receiver.finish(1, &[*base.hash()]).unwrap().append(&db).unwrap();
        let error = edited(&base, &with_child(&base, TABLE, stranger()), TABLE);
        assert!(matches!(error, Error::WrongEdits { record: 1, .. }), "{error}");
    }
    // Of a chunk that is no leaf of a catalogue.
    let table = db.store().get(&root).unwrap().unwrap();
    assert!(table.level() > 0);
    let error = edited(&table, &with_child(&table, 0, stranger()), 0);
    assert!(error.to_string().contains("entry of a table"), "{error}");
    assert_ne!(empty, root);
    assert_eq!(state(&db), before);
    assert_sound(&db);
}

/// What the rows of a refused payload came to.
fn came_to(error: &Error) -> Hash {
    let Error::WrongEdits { found: Some(found), record: 1, .. } = error else { panic!("{error}") };
    *found
}

/// The same payload, once what it makes is known, and the table that comes of it.
fn taken(db: &Database, catalogue: &Chunk, payload: &[u8]) -> pleach_engine::Table {
    let found = came_to(&refusal_of(db, catalogue, payload));
    let next = with_child(catalogue, TABLE, found);
    send_next(db, catalogue, &next, TABLE, payload).unwrap();
    assert_sound(db);
    db.snapshot_of_root(*next.hash()).unwrap().table("t").unwrap().unwrap()
}

#[test]
fn tables_that_vanish_grow_and_stay_are_those_that_their_rows_make() {
    let (db, catalogue) = held();
    let all: Vec<u8> = (0..3000u32).flat_map(|i| keys(&[(0, &i.to_be_bytes(), GONE)])).collect();
    let none = taken(&db, &catalogue, &payload(1, &all, &[]));
    assert_eq!((none.rows().unwrap(), none.root()), (0, catalogue.child(3).unwrap()));

    let more: Vec<u8> =
        (3000..3000 + EDITS_ROWS_MAX as u32).flat_map(|i| keys(&[(0, &i.to_be_bytes(), 2)])).collect();
    let deep = taken(&db, &catalogue, &payload(1, &more, &[]));
    assert_eq!(deep.rows().unwrap(), 3000 + EDITS_ROWS_MAX as u64);
    let root = |table: &pleach_engine::Table| db.store().get(&table.root()).unwrap().unwrap().level();
    assert!(root(&deep) > root(&none));

    // Rows that are gone already.
    let error = refusal_of(&db, &catalogue, &payload(0, &keys(&[(0, b"none", GONE)]), &[]));
    let same = catalogue.child(TABLE as usize).unwrap();
    assert_eq!(came_to(&error), same, "{error}");
}
