#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    ops::Bound,
};

use proptest::prelude::*;

use super::{invert, make};
use crate::{
    row::{Column, Type, Value},
    *,
};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;
type Tables = BTreeMap<String, Model>;

fn work(database: &Database) -> Hash {
    database.branch("main").unwrap().unwrap().work
}

fn snapshot(database: &Database, root: Hash) -> Snapshot {
    database.snapshot_of_root(root).unwrap()
}

/// Makes the work what `tables` says.
fn set(database: &Database, tables: &Tables) -> Hash {
    let mut transaction = database.begin("main").unwrap();
    for (name, _) in transaction.snapshot().tables().unwrap() {
        if !tables.contains_key(&name) {
            transaction.drop_table(&name).unwrap();
        }
    }
    for (name, rows) in tables {
        if !transaction.has_table(name).unwrap() {
            transaction.create_table(name, None).unwrap();
        }
        transaction.load(name, rows).unwrap();
    }
    transaction.commit().unwrap();
    work(database)
}

fn made(database: &Database, from: Hash, to: Hash) -> Vec<u8> {
    let differences = snapshot(database, from).diff(&snapshot(database, to)).unwrap();
    let mut patch = Vec::new();
    make(&differences, &mut patch).unwrap();
    patch
}

fn inverted(patch: &[u8]) -> Vec<u8> {
    let mut turned = Vec::new();
    invert(&mut &patch[..], &mut turned).unwrap();
    turned
}

fn apply(database: &Database, patch: &[u8]) -> Result<patch::Applied> {
    let (applied, outcome) = database.apply_patch("main", &mut &patch[..])?;
    assert!(!matches!(outcome, TransactionOutcome::Refused { .. }));
    Ok(applied)
}

fn noise(len: usize) -> Vec<u8> {
    noise_from(1, len)
}

fn noise_from(mut state: u32, len: usize) -> Vec<u8> {
    let byte = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(byte).collect()
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..30),
        1 => (1_000_usize..90_000, any::<u8>(), any::<prop::sample::Index>()).prop_map(|(len, byte, at)| {
            let mut value = noise(len);
            value[at.index(len)] = byte;
            value
        }),
    ]
}

fn tables() -> impl Strategy<Value = Tables> {
    let rows = prop::collection::btree_map((0_u8..40).prop_map(|key| vec![b'k', key]), value(), 0..40);
    prop::collection::btree_map("[a-d]", rows, 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_patch_leads_from_one_state_to_the_other_and_back(before in tables(), after in tables()) {
        let database = Database::memory().unwrap();
        let (from, to) = (set(&database, &before), set(&database, &after));
        let (patch, back) = (made(&database, from, to), made(&database, to, from));
        prop_assert!(inverted(&patch) == back, "the patch back is the one turned around");
        prop_assert!(inverted(&back) == patch);

        let other = Database::memory().unwrap();
        set(&other, &before);
        apply(&other, &patch).unwrap();
        prop_assert_eq!(work(&other), to);
        if from != to {
            let refused = matches!(apply(&other, &patch), Err(Error::PatchMismatch { .. }));
            prop_assert!(refused, "not twice");
            prop_assert_eq!(work(&other), to);
        }
        apply(&other, &back).unwrap();
        prop_assert_eq!(work(&other), from);
    }

    #[test]
    fn a_patch_with_a_bit_turned_or_cut_off_changes_nothing(
        before in tables(), after in tables(), at in any::<prop::sample::Index>(), bit in 0_u8..8,
    ) {
        let database = Database::memory().unwrap();
        let (from, to) = (set(&database, &before), set(&database, &after));
        let patch = made(&database, from, to);
        set(&database, &before);
        let mut turned = patch.clone();
        turned[at.index(patch.len())] ^= 1 << bit;
        for wrong in [turned.as_slice(), &patch[..at.index(patch.len())], &[patch.as_slice(), &[0]].concat()] {
            let refused = matches!(apply(&database, wrong), Err(Error::MalformedPatch { .. }));
            prop_assert!(refused);
            prop_assert!(invert(&mut &wrong[..], &mut std::io::sink()).is_err());
        }
        prop_assert_eq!(work(&database), from);
    }

    #[test]
    fn any_records_in_good_blocks_change_all_or_nothing(records in prop::collection::vec(any::<u8>(), 0..60)) {
        let database = Database::memory().unwrap();
        let before = set(&database, &Tables::from([("a".into(), Model::from([(b"k".to_vec(), b"v".to_vec())]))]));
        let mut patch = Vec::new();
        let mut blocks = super::file::BlockWriter::new(&mut patch).unwrap();
        blocks.bytes(&records).unwrap();
        blocks.finish().unwrap();
        if apply(&database, &patch).is_err() {
            prop_assert_eq!(work(&database), before);
        }
    }
}

#[test]
fn golden_bytes_of_a_patch() {
    // Patches are kept and sent: if this fails, raise the version.
    let database = Database::memory().unwrap();
    let row = |key: &str, value: &str| (key.as_bytes().to_vec(), value.as_bytes().to_vec());
    let before = Tables::from([("t".into(), Model::from([row("aa", "1"), row("ab", "2")]))]);
    let after = Tables::from([("t".into(), Model::from([row("ab", "3"), row("b", "4")]))]);
    let (from, to) = (set(&database, &before), set(&database, &after));
    let patch = made(&database, from, to);
    let hex: String = patch.iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = [
        "504c504154434800 0200",
        "2b000000 7bdc2a4615ed3ac568a834a031dc85431c8ea5658ab29d04ebe8b78b0b3b8058",
        "01 0174 00 0f 014000800000040000000000000000 00",
        "03 00026161 0131",
        "04 010162 0132 0133",
        "02 000162 0134",
        "00",
        "00000000 3e30703dce41a1d1f2dc61094953885401c614f71e52297a04fe5e4dadde19f9",
    ];
    assert_eq!(hex, expected.concat().replace(' ', ""));
}

#[test]
fn golden_bytes_of_changes_of_indexes() {
    let database = Database::memory().unwrap();
    let columns = || vec![column(1, "id", Type::Int), column(2, "a", Type::Int)];
    typed(&database, columns(), &[]);
    let step = |f: &dyn Fn(&mut Transaction) -> Result<()>| {
        let mut transaction = database.begin("main").unwrap();
        f(&mut transaction).unwrap();
        transaction.commit().unwrap();
        work(&database)
    };
    let from = step(&|transaction| {
        transaction.create_index("t", "i", &["a"], false)?;
        transaction.create_index("t", "j", &["a"], false)
    });
    let to = step(&|transaction| {
        transaction.drop_index("t", "i")?;
        transaction.drop_index("t", "j")?;
        transaction.create_index("t", "j", &["id", "a"], true)?;
        transaction.create_index("t", "k", &["a"], false)
    });
    let patch = made(&database, from, to);
    // Header, block and check; the record of the table with its definition of 15 bytes and 19 of columns.
    let definition = database.snapshot_of_root(to).unwrap().table("t").unwrap().unwrap();
    let definition = definition.definition().encode().body().to_vec();
    let table = [&[1, 1, b't', 0, definition.len() as u8], &definition[..]].concat();
    let records = &patch[10 + 36..patch.len() - 36];
    let indexes = records.strip_prefix(&table[..]).expect("the table's record comes first");
    let hex: String = indexes.iter().map(|byte| format!("{byte:02x}")).collect();
    let by_a = "15 01 c000 8000 0004 0000000000000000 00 01 02000000";
    let other = "19 01 c000 8000 0004 0000000000000000 01 02 01000000 02000000";
    let expected = format!("03  0169 02 {by_a}  016a 03 {by_a} {other}  016b 01 {by_a}  00").replace(' ', "");
    assert_eq!(hex, expected);
    apply(&database, &inverted(&patch)).unwrap();
    assert_eq!(work(&database), from);
    apply(&database, &patch).unwrap();
    assert_eq!(work(&database), to);

    // Of a table whose change is 00 each kind may stand here; they are sorted, and none is said to be as it was.
    let file = |indexes: &str| {
        let bytes: Vec<u8> = (0..indexes.len() / 2)
            .map(|at| u8::from_str_radix(&indexes[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        let mut file = Vec::new();
        let mut blocks = super::file::BlockWriter::new(&mut file).unwrap();
        blocks.bytes(&[&table[..], &bytes].concat()).unwrap();
        blocks.finish().unwrap();
        file
    };
    assert_eq!(file(&expected), patch);
    for (wrong, why) in [
        (format!("02 016a 02 {other} 016a 01 {by_a} 00"), "each once"),
        (format!("02 016b 02 {by_a} 016a 02 {other} 00"), "in the order of their names"),
        (format!("01 016a 03 {by_a} {by_a} 00"), "an index to change"),
        (format!("01 016a 00 {by_a} 00"), "no change of kind 0"),
        (format!("01 016a 01 {} 00", by_a.replace("01 02000000", "00 02000000")), "ids of columns"),
        ("818004".into(), "at most 65536 indexes"),
    ] {
        let refused = apply(&database, &file(&wrong.replace(' ', ""))).unwrap_err();
        assert!(matches!(&refused, Error::MalformedPatch { what, .. } if what.contains(why)), "{refused}");
    }
    for (wrong, why) in [
        (format!("01 016a 01 {by_a} 00"), "it makes index `j`, which is there"),
        (format!("01 0169 02 {by_a} 00"), "it changes index `i`, which is not there"),
        (format!("01 016a 02 {by_a} 00"), "it expects another index `j` than is there"),
        (
            format!("01 017a 01 {} 00", by_a.replace("02000000", "09000000")),
            "index `z` of columns that the table has not",
        ),
    ] {
        let refused = apply(&database, &file(&wrong.replace(' ', ""))).unwrap_err();
        assert!(
            matches!(&refused, Error::PatchMismatch { why: found, .. } if found.contains(why)),
            "{refused}"
        );
        assert_eq!(work(&database), to);
    }
}

#[test]
fn another_version_and_other_files_are_refused_by_name() {
    let database = Database::memory().unwrap();
    let empty = work(&database);
    let mut patch = made(&database, empty, empty);
    assert_eq!(apply(&database, &patch).unwrap(), patch::Applied::default());
    patch[8] = 1;
    let refused = apply(&database, &patch).unwrap_err().to_string();
    assert!(refused.contains("version 1") && refused.contains("version 2"), "{refused}");
    let refused = apply(&database, b"id,name\n1,apple\n").unwrap_err().to_string();
    assert!(refused.contains("is this a patch file?"), "{refused}");
}

#[test]
fn a_patch_that_does_not_fit_names_table_and_key() {
    let database = Database::memory().unwrap();
    let row = |key: &str, value: &str| (key.as_bytes().to_vec(), value.as_bytes().to_vec());
    let with = |rows: &[(&str, &str)]| {
        Tables::from([("fruit".into(), rows.iter().map(|(key, value)| row(key, value)).collect())])
    };
    let (a, b) = (with(&[("apple", "red"), ("fig", "blue")]), with(&[("apple", "green"), ("kiwi", "brown")]));
    let (from, to) = (set(&database, &a), set(&database, &b));
    let patch = made(&database, from, to);
    for (state, key) in [
        (with(&[("apple", "yellow"), ("fig", "blue")]), Some("apple")),
        (with(&[("fig", "blue")]), Some("apple")),
        (with(&[("apple", "red")]), Some("fig")),
        (with(&[("apple", "red"), ("fig", "blue"), ("kiwi", "")]), Some("kiwi")),
        (Tables::new(), None),
    ] {
        let before = set(&database, &state);
        let refused = apply(&database, &patch).unwrap_err();
        let Error::PatchMismatch { table, key: found, .. } = &refused else { panic!("{refused}") };
        assert_eq!((table.as_str(), found.as_deref()), ("fruit", key), "{refused}");
        assert_eq!(work(&database), before);
    }
    // What it says nothing of may be otherwise.
    set(&database, &with(&[("apple", "red"), ("fig", "blue"), ("plum", "blue")]));
    apply(&database, &patch).unwrap();
    assert_eq!(
        work(&database),
        set(&database, &with(&[("apple", "green"), ("kiwi", "brown"), ("plum", "blue")]))
    );
    // But a table is dropped only with the rows that the patch knows.
    let drops = made(&database, set(&database, &a), set(&database, &Tables::new()));
    set(&database, &with(&[("apple", "red"), ("fig", "blue"), ("plum", "blue")]));
    assert!(matches!(apply(&database, &drops), Err(Error::PatchMismatch { key: None, .. })));
}

fn column(id: u32, name: &str, ty: Type) -> Column {
    Column { id, name: name.into(), ty }
}

fn typed(database: &Database, columns: Vec<Column>, rows: &[Vec<Value>]) -> Hash {
    let schema = Schema::new(columns, vec![1]).unwrap();
    let mut transaction = database.begin("main").unwrap();
    if transaction.has_table("t").unwrap() {
        transaction.drop_table("t").unwrap();
    }
    transaction.create_table("t", Some(schema.clone())).unwrap();
    for row in rows {
        let (key, value) = schema.encode_row(row).unwrap();
        transaction.put("t", &key, &value).unwrap();
    }
    transaction.commit().unwrap();
    work(database)
}

#[test]
fn changed_columns_travel_with_their_rows() {
    let text = |text: &str| Value::Text(text.into());
    let narrow = || vec![column(1, "id", Type::Int), column(2, "name", Type::Text)];
    let wide = || [narrow(), vec![column(3, "price", Type::Int)]].concat();
    let other = || vec![column(1, "id", Type::Int), column(2, "name", Type::Int)];
    let database = Database::memory().unwrap();
    let from = typed(&database, narrow(), &[vec![Value::Int(1), text("a")], vec![Value::Int(2), text("b")]]);
    let added = typed(
        &database,
        wide(),
        &[vec![Value::Int(1), text("a"), Value::Null], vec![Value::Int(2), text("b"), Value::Int(9)]],
    );
    let changed =
        typed(&database, other(), &[vec![Value::Int(1), Value::Int(7)], vec![Value::Int(2), Value::Null]]);
    let (adds, changes) = (made(&database, from, added), made(&database, from, changed));
    let rows = |count: i64| (1..=count).map(|n| vec![Value::Int(n), text(if n == 1 { "a" } else { "b" })]);
    for (patch, to) in [(&adds, added), (&changes, changed)] {
        assert_eq!(typed(&database, narrow(), &rows(2).collect::<Vec<_>>()), from);
        apply(&database, patch).unwrap();
        assert_eq!(work(&database), to);
        apply(&database, &inverted(patch)).unwrap();
        let [before, now] = [from, work(&database)].map(|root| snapshot(&database, root));
        let [before, now] = [before, now].map(|side| side.table("t").unwrap().unwrap());
        assert_eq!(now.root(), before.root());
        let [columns, now_columns] = [&before, &now].map(|table| table.schema().unwrap());
        assert_eq!(now_columns.columns(), columns.columns());
        // A column that came and went is remembered; a table that was made anew is as it was.
        let gone: Vec<u32> = now_columns.dropped().collect();
        assert_eq!(gone, if to == added { vec![3] } else { vec![] });
        // No row has a cell of it, so it may come again.
        let back = work(&database);
        apply(&database, patch).unwrap();
        assert_eq!(work(&database), to);
        apply(&database, &inverted(patch)).unwrap();
        assert_eq!(work(&database), back);
    }
    // A row of which the patch knows nothing gets a new column, but no other type.
    let three = typed(&database, narrow(), &rows(3).collect::<Vec<_>>());
    let refused = apply(&database, &changes).unwrap_err();
    assert!(matches!(&refused, Error::PatchMismatch { key: Some(key), .. } if key == "3"), "{refused}");
    assert_eq!(work(&database), three);
    apply(&database, &adds).unwrap();
    let table = snapshot(&database, work(&database)).table("t").unwrap().unwrap();
    assert_eq!((table.rows().unwrap(), table.schema().unwrap().columns().len()), (3, 3));
    // Other columns than where it was made.
    assert!(matches!(apply(&database, &adds), Err(Error::PatchMismatch { key: None, .. })));
}

/// Counts what passes, and the most that is asked for at once.
#[derive(Default)]
struct Counting {
    bytes: u64,
}

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_patch_of_a_byte_in_a_long_value_is_short() {
    let database = Database::memory().unwrap();
    let mut value = noise(10 << 20);
    let with = |value: &[u8]| Tables::from([("t".into(), Model::from([(b"k".to_vec(), value.to_vec())]))]);
    let from = set(&database, &with(&value));
    value.insert(5_000, 7);
    let to = set(&database, &with(&value));
    let patch = made(&database, from, to);
    assert!(patch.len() < 250, "{} bytes", patch.len());
    let mut transaction = database.begin("main").unwrap();
    transaction.splice("t", b"k", 5_000..5_001, b"").unwrap();
    transaction.commit().unwrap();
    assert_eq!(work(&database), from);
    let before = database.store().stats().bytes_written;
    apply(&database, &patch).unwrap();
    assert!(database.store().stats().bytes_written - before < 200_000);
    assert_eq!(work(&database), to);
}

#[test]
fn large_patches_pass_through_bounded_memory() {
    let database = Database::memory().unwrap();
    let empty = work(&database);
    let mut transaction = database.begin("main").unwrap();
    transaction.create_table("many", None).unwrap();
    transaction.load("many", (0..60_000_u32).map(|n| (n.to_be_bytes(), noise_from(n, 300)))).unwrap();
    transaction.create_table("one", None).unwrap();
    transaction.put("one", b"k", &noise(30 << 20)).unwrap();
    transaction.commit().unwrap();
    let full = work(&database);
    let patch = made(&database, empty, full);
    let mut counted = Counting::default();
    make(&snapshot(&database, empty).diff(&snapshot(&database, full)).unwrap(), &mut counted).unwrap();
    assert_eq!(counted.bytes, patch.len() as u64);

    /// Notes how much was read and not yet handed to the store.
    struct Watched<'a> {
        patch: &'a [u8],
        read: u64,
        store: &'a Store,
        before: u64,
        most: u64,
    }
    impl Read for Watched<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let read = self.patch.read(into)?;
            self.read += read as u64;
            let written = self.store.stats().bytes_written - self.before;
            self.most = self.most.max(self.read.saturating_sub(written));
            Ok(read)
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let options = Options { compression: Compression::None, ..Options::default() };
    let other = Database::init(&dir.path().join("db"), options).unwrap();
    let before = other.store().stats().bytes_written;
    let mut source = Watched { patch: &patch, read: 0, store: other.store(), before, most: 0 };
    let (applied, _) = other.apply_patch("main", &mut source).unwrap();
    assert_eq!((applied.tables, applied.inserted), (2, 60_001));
    assert!(source.most < 20 << 20, "{} of {} bytes were in memory", source.most, patch.len());
    assert_eq!(work(&other), full);
}

fn commit(database: &Database, message: &str) -> Hash {
    let new =
        NewCommit { message: message.into(), author: "A <a@b>".into(), date_micros: Some(1), amend: false };
    database.commit("main", new).unwrap().hash
}

#[test]
fn a_commit_is_taken_back_where_nothing_of_it_changed_since() {
    let database = Database::memory().unwrap();
    let row = |key: &str, value: &str| (key.as_bytes().to_vec(), value.as_bytes().to_vec());
    let first = Model::from([row("a", "1"), row("b", "2")]);
    let mut tables = Tables::from([("t".to_owned(), first)]);
    set(&database, &tables);
    let root = commit(&database, "first");
    tables.get_mut("t").unwrap().insert(b"a".to_vec(), noise(9_000));
    tables.insert("u".into(), Model::from([row("x", "y")]));
    set(&database, &tables);
    let second = commit(&database, "second");
    tables.get_mut("t").unwrap().insert(b"c".to_vec(), b"3".to_vec());
    set(&database, &tables);
    commit(&database, "third");

    let revert = |commit: &Hash| {
        let new = NewCommit { message: "back".into(), author: "A <a@b>".into(), ..NewCommit::default() };
        database.revert("main", commit, new)
    };
    let made = revert(&second).unwrap();
    let expected =
        Tables::from([("t".to_owned(), Model::from([row("a", "1"), row("b", "2"), row("c", "3")]))]);
    let other = Database::memory().unwrap();
    assert_eq!(made.root, set(&other, &expected));
    let status = database.status("main").unwrap();
    assert_eq!((status.head, status.dirty), (Some(made.hash), false));
    // The second time nothing of it is left to take back.
    assert!(matches!(revert(&second), Err(Error::PatchMismatch { .. })));
    // And what takes it back is taken back itself.
    revert(&made.hash).unwrap();
    let table = snapshot(&database, work(&database)).table("t").unwrap().unwrap();
    assert_eq!(table.get(b"a").unwrap().unwrap(), noise(9_000));
    assert_eq!(table.scan(Bound::Unbounded, Bound::Unbounded).unwrap().count(), 3);
    // The first commit made a table that has other rows by now.
    assert!(matches!(revert(&root), Err(Error::PatchMismatch { .. })));
    set(&database, &Tables::new());
    assert!(matches!(revert(&second), Err(Error::UncommittedWork { .. })));
}

#[test]
fn a_branch_with_conflicts_takes_no_patch() {
    let database = Database::memory().unwrap();
    let with =
        |value: &str| Tables::from([("t".into(), Model::from([(b"k".to_vec(), value.as_bytes().to_vec())]))]);
    let empty = work(&database);
    set(&database, &with("base"));
    let base = commit(&database, "base");
    database.create_branch("side", Some(base)).unwrap();
    let mut side = database.begin("side").unwrap();
    side.put("t", b"k", b"side").unwrap();
    side.commit().unwrap();
    let new = NewCommit { message: "side".into(), ..NewCommit::default() };
    let side = database.commit("side", new).unwrap().hash;
    set(&database, &with("main"));
    commit(&database, "main");
    let patch = made(&database, empty, empty);
    apply(&database, &patch).unwrap();
    assert_eq!(
        database.merge("main", &side, MergeOptions::default()).unwrap(),
        MergeOutcome::Conflicts { count: 1 }
    );
    assert!(matches!(apply(&database, &patch), Err(Error::UnresolvedConflicts { count: 1, .. })));
    assert_eq!(database.conflicts("main").unwrap().len(), 1);
}
