#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, ops::Bound, path::Path};

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    row::{Column, Type, Value},
    *,
};

fn begin(database: &Database) -> Transaction {
    database.begin("main").unwrap()
}

fn work(database: &Database) -> Hash {
    database.branch("main").unwrap().unwrap().work
}

fn items(feed: &mut Feed) -> Vec<FeedItem> {
    feed.map(Result::unwrap).collect()
}

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

type Indexes = BTreeMap<String, IndexDefinition>;

/// What a root holds, read whole.
fn read(database: &Database, root: Hash) -> BTreeMap<String, (Definition, Indexes, Rows)> {
    let tables = database.snapshot_of_root(root).unwrap().tables().unwrap().into_iter();
    let rows = |table: &Table| {
        table.scan(Bound::Unbounded, Bound::Unbounded).unwrap().map(Result::unwrap).collect::<Rows>()
    };
    let indexes = |table: &Table| {
        let indexes = table.indexes().unwrap().into_iter();
        indexes.map(|(name, index)| (name, index.definition().clone())).collect()
    };
    let all = |table: Table| (table.definition().clone(), indexes(&table), rows(&table));
    tables.map(|(name, table)| (name, all(table))).collect()
}

/// What a feed between two roots is to tell, by all that they hold.
fn expected(database: &Database, from: Hash, to: Hash) -> Vec<FeedItem> {
    let (from, to) = (read(database, from), read(database, to));
    let mut names: Vec<&String> = from.keys().chain(to.keys()).collect();
    names.sort();
    names.dedup();
    let mut items = Vec::new();
    for name in names {
        let table: Arc<str> = name.as_str().into();
        let (old, new) = (from.get(name), to.get(name));
        let [before, after] =
            [old, new].map(|side| side.map(|(definition, ..)| Box::new(definition.clone())));
        let indexes = index_changes(
            old.map(|side| side.1.clone()).unwrap_or_default(),
            new.map(|side| side.1.clone()).unwrap_or_default(),
        );
        if before != after || !indexes.is_empty() {
            items.push(FeedItem::Table { table: table.clone(), before, after, indexes });
        }
        let none = Rows::new();
        let [old, new] = [old, new].map(|side| side.map_or(&none, |(.., rows)| rows));
        let mut keys: Vec<&Vec<u8>> = old.keys().chain(new.keys()).collect();
        keys.sort();
        keys.dedup();
        for key in keys.into_iter().filter(|key| old.get(*key) != new.get(*key)) {
            let change = Change { key: key.clone(), old: old.get(key).cloned(), new: new.get(key).cloned() };
            items.push(FeedItem::Row { table: table.clone(), change });
        }
    }
    items
}

fn index_changes(mut old: Indexes, mut new: Indexes) -> Vec<IndexChange> {
    let names: std::collections::BTreeSet<String> = old.keys().chain(new.keys()).cloned().collect();
    let change = |index: String| IndexChange { before: old.remove(&index), after: new.remove(&index), index };
    names.into_iter().map(change).filter(|change| change.before != change.after).collect()
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u16, u8),
    Delete(u8, u16),
    Create(u8, bool),
    Drop(u8),
    AddColumn(u8),
    /// Makes an index of that name, or drops it.
    Index(u8, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..4_u8, 0..60_u16, any::<u8>()).prop_map(|(t, k, v)| Step::Put(t, k, v)),
        3 => (0..4_u8, 0..60_u16).prop_map(|(t, k)| Step::Delete(t, k)),
        2 => (0..4_u8, any::<bool>()).prop_map(|(t, typed)| Step::Create(t, typed)),
        1 => (0..4_u8).prop_map(Step::Drop),
        1 => (0..4_u8).prop_map(Step::AddColumn),
        3 => (0..4_u8, any::<bool>()).prop_map(|(t, second)| Step::Index(t, second)),
    ]
}

fn take(transaction: &mut Transaction, step: &Step) {
    let (Step::Put(t, ..)
    | Step::Delete(t, _)
    | Step::Create(t, _)
    | Step::Drop(t)
    | Step::AddColumn(t)
    | Step::Index(t, _)) = step;
    // The names of tables and of their indexes do not sort alike.
    let table = ["table", "table-b", "table0", "tablé"][usize::from(*t)].to_owned();
    match (step, transaction.definition(&table).unwrap()) {
        (Step::Put(_, key, value), Some(definition)) => match definition.schema {
            // Some values are stored out of line.
            None => {
                transaction.put(&table, &key.to_be_bytes(), &vec![*value; usize::from(*value) * 20]).unwrap()
            }
            Some(schema) => {
                let mut cells = vec![Value::Int((*key).into()), Value::Int((*value).into())];
                cells.resize(schema.columns().len(), Value::Null);
                let (key, value) = schema.encode_row(&cells).unwrap();
                transaction.put(&table, &key, &value).unwrap();
            }
        },
        (Step::Delete(_, key), Some(_)) => drop(transaction.delete(&table, &key.to_be_bytes()).unwrap()),
        (Step::Create(_, typed), None) => {
            let columns = [(0, "id"), (1, "a")];
            let columns = columns.map(|(id, name)| Column { id, name: name.into(), ty: Type::Int }).to_vec();
            transaction.create_table(&table, typed.then(|| Schema::new(columns, vec![0]).unwrap())).unwrap();
        }
        (Step::Drop(_), Some(_)) => transaction.drop_table(&table).unwrap(),
        (Step::AddColumn(_), Some(Definition { schema: Some(schema), .. })) => {
            let name = format!("c{}", schema.columns().len());
            transaction.add_column(&table, &name, Type::Int, Value::Int(1)).unwrap();
        }
        (Step::Index(_, second), Some(Definition { schema: Some(_), .. })) => {
            let name = if *second { "second" } else { "first" };
            match transaction.indexes(&table).unwrap().contains_key(name) {
                true => transaction.drop_index(&table, name).unwrap(),
                false => transaction.create_index(&table, name, &["a"], false).unwrap(),
            }
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_feed_stopped_anywhere_goes_on_as_if_it_had_not_been(history in vec(vec(step(), 1..40), 1..4)) {
        let database = Database::memory().unwrap();
        let mut roots = vec![work(&database)];
        // Held, so that they are here to be compared with.
        let mut snapshots = Vec::new();
        for steps in history {
            let mut transaction = begin(&database);
            steps.iter().for_each(|step| take(&mut transaction, step));
            transaction.commit().unwrap();
            roots.push(work(&database));
            snapshots.push(database.snapshot_of_root(work(&database)).unwrap());
        }
        for since in &roots {
            let mut feed = database.changes("main", Some(*since)).unwrap();
            let expected = expected(&database, *since, feed.target());
            let mut told = Vec::new();
            for at in 0..=expected.len() {
                let mut rest = database.resume_changes(&feed.position()).unwrap();
                prop_assert_eq!(rest.position(), feed.position());
                prop_assert_eq!(&items(&mut rest)[..], &expected[at..]);
                rest.resume(&feed.position()).unwrap();
                rest.skip_table();
                let table = |item: &FeedItem| match item {
                    FeedItem::Table { table, .. } | FeedItem::Row { table, .. } => table.clone(),
                };
                let skipped = told.last().map(table);
                let others: Vec<_> = expected[at..].iter().filter(|item| Some(table(item)) != skipped).cloned().collect();
                let behind = rest.position();
                prop_assert_eq!(&items(&mut rest), &others);
                prop_assert_eq!(items(&mut database.resume_changes(&behind).unwrap()), others);
                told.extend(feed.next().transpose().unwrap());
            }
            prop_assert_eq!(told, expected);
        }
    }
}

fn open(dir: &Path) -> Database {
    Database::open(&dir.join("db"), Options { background: false, ..Options::default() }).unwrap()
}

fn put(database: &Database, rows: std::ops::Range<u32>, value: &[u8]) {
    let mut transaction = begin(database);
    if !transaction.has_table("t").unwrap() {
        transaction.create_table("t", None).unwrap();
    }
    rows.for_each(|n| transaction.put("t", &n.to_be_bytes(), value).unwrap());
    transaction.commit().unwrap();
}

#[test]
fn a_named_feed_outlives_the_process_and_collections() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::init(&dir.path().join("db"), Options::default()).unwrap();
    put(&database, 0..1000, b"first");
    database.create_feed("search/index", None).unwrap();
    assert!(matches!(database.create_feed("search/index", None), Err(Error::Exists { .. })));
    assert!(matches!(database.create_feed("no good", None), Err(Error::BadName { .. })));
    let mut feed = database.feed("search/index", "main").unwrap();
    let begun: Vec<_> = feed.by_ref().take(400).map(Result::unwrap).collect();
    let (position, target) = (feed.position(), feed.target());
    drop(feed);
    // The branch goes on, and what it was is reached by nothing but the feed.
    put(&database, 0..1000, b"second");
    database.close().unwrap();

    let database = open(dir.path());
    database.store().collect(false).unwrap();
    let mut feed = database.feed("search/index", "main").unwrap();
    assert_eq!(feed.target(), target);
    feed.resume(&position).unwrap();
    let rest = items(&mut feed);
    assert_eq!(begun.len() + rest.len(), 1001);
    let all_first = |item: &FeedItem| match item {
        FeedItem::Row { change, .. } => change.new.as_deref() == Some(b"first"),
        FeedItem::Table { .. } => true,
    };
    assert!(begun.iter().chain(&rest).all(all_first));
    let again = database.feed("search/index", "main").unwrap();
    feed.acknowledge().unwrap();
    assert!(matches!(again.acknowledge(), Err(Error::Moved { .. })), "it was acknowledged already");
    assert_eq!(database.feeds(), [("search/index".to_owned(), target)]);
    drop((feed, again));

    database.store().collect(false).unwrap();
    let mut feed = database.feed("search/index", "main").unwrap();
    assert_eq!((feed.since(), feed.target()), (target, work(&database)));
    assert!(matches!(feed.resume(&position), Err(Error::BadPosition { .. })), "it is behind that");
    assert_eq!(items(&mut feed).len(), 1000);
    feed.acknowledge().unwrap();
    assert_eq!(database.feed("search/index", "main").unwrap().count(), 0);
    drop(feed);
    database.delete_feed("search/index").unwrap();
    assert!(matches!(database.feed("search/index", "main"), Err(Error::UnknownFeed { .. })));
    assert!(database.refs("feeds/").is_empty());
    database.store().collect(false).unwrap();
    let gone = database.resume_changes(&position);
    assert!(matches!(gone, Err(Error::Missing { .. })), "nothing holds it any longer");
    assert_eq!(database.fsck().unwrap().damages, []);
}

#[test]
fn a_feed_keeps_its_roots_while_it_lives_and_begins_at_a_commit_too() {
    let database = Database::memory().unwrap();
    put(&database, 0..100, b"first");
    let new = NewCommit { message: "m".into(), ..NewCommit::default() };
    let commit = database.commit("main", new).unwrap();
    put(&database, 0..50, b"second");
    let mut feed = database.changes("main", Some(commit.hash)).unwrap();
    assert_eq!(feed.since(), commit.root);
    put(&database, 0..100, b"third");
    database.store().collect(false).unwrap();
    assert_eq!(items(&mut feed).len(), 50);
    assert!(matches!(feed.acknowledge(), Err(Error::UnknownFeed { .. })), "it has no name");
    let absent = Hash::of(b"absent");
    assert!(matches!(database.changes("main", Some(absent)), Err(Error::Missing { hash }) if hash == absent));
    assert!(matches!(database.changes("none", None), Err(Error::UnknownBranch { .. })));
    let cancel = Cancel::new();
    let mut feed = database.cancellable(&cancel).changes("main", None).unwrap();
    assert!(feed.next().unwrap().is_ok());
    let position = feed.position();
    cancel.cancel();
    assert!(feed.any(|item| matches!(item, Err(Error::Cancelled))));
    assert_eq!(database.resume_changes(&position).unwrap().count(), 100);
}

#[test]
fn golden_position_bytes_and_what_is_none_is_refused() {
    let database = Database::memory().unwrap();
    put(&database, 0..3, b"v");
    let mut feed = database.changes("main", None).unwrap();
    let roots = [feed.since(), feed.target()].map(|root| *root.as_bytes()).concat();
    let golden = |place: &[u8]| {
        let bytes = [&[1], roots.as_slice(), place].concat();
        [bytes.as_slice(), &Hash::of(&bytes).as_bytes()[..8]].concat()
    };
    assert_eq!(feed.position(), golden(&[0]));
    feed.next().unwrap().unwrap();
    assert_eq!(feed.position(), golden(&[1, 1, 0, b't']));
    feed.next().unwrap().unwrap();
    let position = feed.position();
    assert_eq!(position, golden(&[2, 1, 0, b't', 4, 0, 0, 0, 0, 0]));
    feed.skip_table();
    assert_eq!(feed.position(), golden(&[3, 1, 0, b't']));

    let refused = |position: &[u8]| {
        let error = database.resume_changes(position).err().expect("it is no position");
        assert!(matches!(error, Error::BadPosition { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    };
    for at in 0..position.len() {
        let mut bad = position.clone();
        bad[at] ^= 0x10;
        refused(&bad);
        refused(&position[..at]);
    }
    refused(&[position.as_slice(), &[0]].concat());
    // Whole bytes, and no place.
    for place in
        [&[][..], &[4], &[0, 0], &[1], &[1, 2, 0, b't'], &[1, 1, 0, 0xff], &[1, 1, 0, b'x'], &[2, 1, 0, b't']]
    {
        refused(&golden(place));
    }
}
