//! How much memory a hostile peer can make this process use: each case is held against a ceiling, counted by the allocator. One test, so that nothing
//! else allocates meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use pleach_engine::{Chunk, Database, Hash, NewCommit, Options, difference};
use pleach_protocol::limits::{LOOSE_TOPS_MAX, REFS_MAX};
use pleach_protocol::record::{BaseName, Follow, Record};
use pleach_protocol::{
    Databases, Encoding, Error, Objects, Receiver, RefPatterns, Remote, RemoteUrl, Sender, SyncService,
    Transfer, fetch, refs_digest,
};
use tonic::codegen::Service;
use tonic::codegen::http;

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn counted(more: usize) {
    MOST.fetch_max(NOW.fetch_add(more, Relaxed) + more, Relaxed);
}

// SAFETY: all is done by the system's allocator; this one counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        counted(layout.size());
        // SAFETY: as the caller says.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller says.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const MIB: usize = 1 << 20;

/// Does it, which must take no more memory on the way than `most` bytes beyond what there was.
fn within<T>(name: &str, most: usize, act: impl FnOnce() -> T) -> T {
    let before = NOW.load(Relaxed);
    MOST.store(before, Relaxed);
    let done = act();
    let took = MOST.load(Relaxed) - before;
    println!("{name}: {:.1} MiB", took as f64 / MIB as f64);
    assert!(took <= most, "{name}: {took} bytes, at most {most} are allowed");
    done
}

/// A zstd frame of zeros, without its magic number.
fn bomb(len: usize) -> Vec<u8> {
    zstd::bulk::compress(&vec![0; len], 3).unwrap()[4..].to_vec()
}

fn varint(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn plain(payload: &[u8], top: Option<Hash>) -> Record<'_> {
    let raw_len = payload.len();
    Record { encoding: Encoding::Raw, raw_len, top, base: None, follow: Follow::None, payload }
}

/// A database with a table of one row, and the catalogue that lists it.
fn held() -> (Database, Chunk) {
    let db = Database::memory().unwrap();
    let mut transaction = db.begin("main").unwrap();
    transaction.create_table("t", None).unwrap();
    transaction.put("t", b"key", b"00000000").unwrap();
    let _ = transaction.commit().unwrap();
    let head = db.commit("main", NewCommit::default()).unwrap().hash;
    let root = db.commit_object(&head).unwrap().root;
    let catalogue = db.store().get(&root).unwrap().unwrap();
    (db, catalogue)
}

/// What comes of a payload for the table of the catalogue.
fn edited(db: &Database, catalogue: &Chunk, payload: &[u8]) -> Error {
    let mut bytes = catalogue.bytes().to_vec();
    let table = catalogue.child(1).unwrap();
    let at = bytes.windows(Hash::LEN).position(|found| found == table.as_bytes()).unwrap();
    bytes[at..at + Hash::LEN].copy_from_slice(Hash::of(b"something else").as_bytes());
    let mut message = Vec::new();
    let (base, follow) = (Some(BaseName::Hash(*catalogue.hash())), Follow::Listed(vec![1]));
    Record { base, follow, ..plain(&bytes, Some(Hash::of(&bytes))) }.write(&mut message);
    let base = Some(BaseName::Child(1));
    Record { encoding: Encoding::Edits, raw_len: 1, base, ..plain(payload, None) }.write(&mut message);
    Receiver::new(db).unwrap().receive(&message).unwrap_err()
}

/// The body of a request: one message.
struct Body(Option<Bytes>);

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, tonic::Status>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(http_body::Frame::data(bytes))))
    }
}

/// The status that a server answers to a message, without a network.
fn called(service: &SyncService, method: &str, message: &[u8]) -> tonic::Code {
    let mut frame = vec![0];
    frame.extend((message.len() as u32).to_be_bytes());
    frame.extend_from_slice(message);
    let request = http::Request::post(format!("http://server/pleach.sync.v1.Sync/{method}"))
        .header("content-type", "application/grpc")
        .body(tonic::body::Body::new(Body(Some(frame.into()))))
        .unwrap();
    let mut service = service.clone().into_server();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let response = service.call(request).await.unwrap();
        let of =
            |headers: &http::HeaderMap| tonic::Status::from_header_map(headers).map(|status| status.code());
        if let Some(code) = of(response.headers()) {
            return code;
        }
        let mut body = response.into_body();
        loop {
            let frame =
                std::future::poll_fn(|context| http_body::Body::poll_frame(Pin::new(&mut body), context));
            let frame = frame.await.expect("a status").unwrap();
            if let Some(code) = frame.trailers_ref().and_then(of) {
                return code;
            }
        }
    })
}

/// A directory or bucket with these objects, of which each get gives a copy.
#[derive(Debug)]
struct Bucket(BTreeMap<String, Bytes>);

#[tonic::async_trait]
impl Objects for Bucket {
    async fn list(&self, prefix: &str, max: usize) -> Result<Vec<String>, Error> {
        Ok(self.0.keys().filter(|key| key.starts_with(prefix)).take(max).cloned().collect())
    }

    async fn get(&self, key: &str, bytes_max: usize) -> Result<Option<Bytes>, Error> {
        // All that are asked for at the same time are read at the same time.
        tokio::task::yield_now().await;
        let object = self.0.get(key).filter(|object| object.len() <= bytes_max);
        let copy = object.map(|object| Bytes::copy_from_slice(object));
        tokio::task::yield_now().await;
        match copy.is_none() && self.0.contains_key(key) {
            true => {
                Err(Error::Limit { what: "bytes of an object", found: MIB as u64, limit: bytes_max as u64 })
            }
            false => Ok(copy),
        }
    }

    async fn put(&self, _: &str, _: Bytes) -> Result<(), Error> {
        unreachable!("nothing is pushed")
    }

    async fn put_if_absent(&self, _: &str, _: Bytes) -> Result<bool, Error> {
        unreachable!("nothing is pushed")
    }

    async fn delete(&self, _: &str) -> Result<(), Error> {
        unreachable!("nothing is pushed")
    }
}

/// A manifest as it lies in a bucket, with whatever body.
fn manifest(body: &[u8]) -> Bytes {
    let mut object = [b"pleachRM", &1u32.to_le_bytes()[..], body].concat();
    let hash = Hash::of(&object);
    object.extend_from_slice(hash.as_bytes());
    object.into()
}

/// The body of the first manifest: one branch, and one pack that a push left.
fn recorded(head: &Hash, pack: &[u8], records: usize) -> Vec<u8> {
    let mut body = Vec::new();
    let digest = refs_digest(&[("heads/main".to_owned(), *head)]);
    let one = |field: u8, inside: &[u8]| {
        let mut bytes = vec![field << 3 | 2];
        varint(inside.len(), &mut bytes);
        [bytes, inside.to_vec()].concat()
    };
    let mut named = one(2, Hash::of(pack).as_bytes());
    for (field, value) in [(3, pack.len()), (4, records)] {
        named.push(field << 3);
        varint(value, &mut named);
    }
    body.extend(one(8, &named));
    body.extend(one(9, digest.as_bytes()));
    body.extend(one(10, &one(1, &[one(1, b"heads/main"), one(2, head.as_bytes())].concat())));
    body
}

/// What comes of fetching from a remote with these manifests, from number 0 on, and a pack.
fn fetched(db: &Database, manifests: &[Bytes], pack: Option<(String, Bytes)>) -> Result<Transfer, Error> {
    let name = "ab".repeat(16);
    let key = |number: usize| format!("manifest/{name}/18446744073709551/{:03}", 615 - number);
    let mut objects: BTreeMap<_, _> =
        manifests.iter().enumerate().map(|(number, object)| (key(number), object.clone())).collect();
    let format = format!("pleach remote 2\n{name}\n");
    let hash = Hash::of(format.as_bytes());
    objects.extend(pack);
    objects.insert("format".to_owned(), format!("{format}{hash}\n").into());
    let url = RemoteUrl::parse("file:///bucket").unwrap();
    let remote = Remote::at(&url, Arc::new(Bucket(objects)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(fetch(db, &remote, "origin", &RefPatterns::all()))
}

#[test]
fn no_message_costs_much_more_than_its_bytes() {
    let (db, catalogue) = held();
    let zeros = bomb(64 * MIB);
    let chunk = Record { encoding: Encoding::Zstd, raw_len: 4 * MIB, ..plain(&zeros, Some(Hash::of(b"x"))) };
    let mut message = Vec::new();
    chunk.write(&mut message);
    let error = within("a bomb for a chunk", 10 * MIB, || Receiver::new(&db).unwrap().receive(&message));
    assert!(matches!(error, Err(Error::Record { .. } | Error::WrongEdits { .. })));
    let zeros = bomb(4 * MIB);
    let bombs = |count: usize| {
        let mut message = Vec::new();
        for _ in 0..count {
            let top = Some(Hash::of(&vec![0; 4 * MIB]));
            Record { encoding: Encoding::Zstd, raw_len: 4 * MIB, ..plain(&zeros, top) }.write(&mut message);
        }
        message
    };
    let message = bombs(1000);
    let error = within("a thousand bombs", 10 * MIB, || Receiver::new(&db).unwrap().receive(&message));
    assert!(matches!(error, Err(Error::Record { .. } | Error::WrongEdits { .. })), "{error:?}");

    let of_keys = |keys_len: usize, keys: &[u8]| {
        let mut payload = vec![1];
        varint(keys_len, &mut payload);
        varint(keys.len(), &mut payload);
        [&payload[..], keys, &[0]].concat()
    };
    let payload = of_keys(MIB, &bomb(64 * MIB));
    within("a bomb of keys", 8 * MIB, || edited(&db, &catalogue, &payload));
    let keys = vec![0; 3 << 15];
    let payload = of_keys(keys.len(), &zstd::bulk::compress(&keys, 3).unwrap()[4..]);
    within("keys of nothing", 8 * MIB, || edited(&db, &catalogue, &payload));
    // Each key is the one before, and three bytes more.
    let mut keys = Vec::new();
    varint(0, &mut keys);
    varint(1024, &mut keys);
    keys.extend([0; 1024]);
    keys.push(0);
    for i in 1..1u32 << 15 {
        varint(1021, &mut keys);
        keys.push(3);
        keys.extend(&i.to_be_bytes()[1..]);
        keys.push(0);
    }
    let payload = of_keys(keys.len(), &zstd::bulk::compress(&keys, 3).unwrap()[4..]);
    let error = within("keys that are long together", 8 * MIB, || edited(&db, &catalogue, &payload));
    assert!(error.to_string().contains("keys of more than"), "{error}");
    let mut payload = vec![0b0100, 7, 0, 3, b'k', b'e', b'y'];
    varint(1002, &mut payload);
    varint(1000, &mut payload);
    payload.extend(bomb(64 * MIB));
    let error = within("a bomb of values", 8 * MIB, || edited(&db, &catalogue, &payload));
    assert!(error.to_string().contains("zstd"), "{error}");

    // Leaves that nothing names, each another one.
    let leaf = db.store().get(&catalogue.child(1).unwrap()).unwrap().unwrap();
    let at = leaf.bytes().windows(8).position(|found| found == b"00000000").unwrap();
    let mut message = Vec::new();
    for i in 0..=LOOSE_TOPS_MAX {
        let mut bytes = leaf.bytes().to_vec();
        bytes[at..at + 8].copy_from_slice(format!("{i:08}").as_bytes());
        plain(&bytes, Some(Hash::of(&bytes))).write(&mut message);
    }
    // With what the database in memory takes for them.
    let error = within("tops that nothing names", 80 * MIB, || {
        Receiver::new(&db).unwrap().receive(&message).unwrap_err()
    });
    assert!(matches!(error, Error::Limit { what: "commits that nothing names", .. }), "{error}");
    // Where pushes were recorded, any number may have been forced away since.
    let head = db.branch("main").unwrap().unwrap().head.unwrap();
    let mut sender = Sender::new(&db, difference(&db, &[head], &[]).unwrap()).unwrap();
    while let Some(more) = sender.next_message().unwrap() {
        message.extend_from_slice(&more);
    }
    let records = LOOSE_TOPS_MAX as u64 + 1 + sender.records();
    let object = manifest(&recorded(&head, &message, records as usize));
    let pack = (format!("pack/{:020}-{}", 0, Hash::of(&message)), Bytes::from(message));
    let empty = Database::memory().unwrap();
    let taken = within("tops in a pack", 80 * MIB, || fetched(&empty, &[object], Some(pack)));
    assert_eq!(taken.unwrap().chunks, records);

    let dir = tempfile::TempDir::new().unwrap();
    let databases = Databases::new(dir.path(), Options::default()).unwrap();
    databases.create("x").unwrap();
    let service = SyncService::new(databases);
    let repeated = |field: u8, count: usize| [field << 3 | 2, 0].repeat(count);
    let code =
        within("two million patterns", 32 * MIB, || called(&service, "Fetch", &repeated(2, 2_500_000)));
    assert_eq!(code, tonic::Code::ResourceExhausted);
    let begin = |updates: usize| {
        let updates = repeated(3, updates);
        let mut begin = vec![1 << 3 | 2];
        varint(updates.len(), &mut begin);
        [begin, updates].concat()
    };
    let code = within("two million updates", 32 * MIB, || called(&service, "Push", &begin(2_500_000)));
    assert_eq!(code, tonic::Code::Cancelled);
    // As many as there may be are read.
    let code =
        within("as many updates as there may be", 80 * MIB, || called(&service, "Push", &begin(1 << 17)));
    assert_eq!(code, tonic::Code::InvalidArgument);
    // A group, which nothing of ours has, does not end the counting.
    let grouped = |message: Vec<u8>| [&[9 << 3 | 3, 9 << 3 | 4][..], &message].concat();
    let message = grouped(repeated(2, 2_500_000));
    let code = within("two million patterns after a group", 32 * MIB, || called(&service, "Fetch", &message));
    assert_eq!(code, tonic::Code::ResourceExhausted);

    manifests_cost_some_times_their_bytes(&db);
}

/// Whatever lies in a bucket.
fn manifests_cost_some_times_their_bytes(db: &Database) {
    let repeated = |field: u8, count: usize| [field << 3 | 2, 0].repeat(count);
    let full = |items: Vec<u8>| {
        let mut body = vec![10 << 3 | 2];
        varint(items.len(), &mut body);
        [body, items].concat()
    };
    let many = 1 << 20;
    let group = [13 << 3 | 3, 13 << 3 | 4];
    let bodies = [
        ("changes", repeated(7, many)),
        ("packs", repeated(8, many)),
        ("refs", full(repeated(1, many))),
        ("packs of everything", full(repeated(2, many))),
        ("retired packs", full(repeated(3, many))),
        ("changes after a group", [&group[..], &repeated(7, many)].concat()),
        ("everything, again and again", full(repeated(1, 1 << 10)).repeat(many >> 10)),
    ];
    for (name, body) in bodies {
        let object = manifest(&body);
        drop(body);
        let error = within(&format!("a manifest of a million {name}"), 3 * MIB, || {
            fetched(db, &[object], None).unwrap_err()
        });
        assert!(error.to_string().contains("fields of a manifest"), "{error}");
    }
    // As many as its bytes can have are read.
    let change = [&[7 << 3 | 2, 38, 2 << 3 | 2, 36][..], &[0; 36]].concat();
    let object = manifest(&change.repeat(REFS_MAX + 1));
    let error = within("a manifest of 5 MiB", 9 * 5 * MIB, || fetched(db, &[object], None).unwrap_err());
    assert!(error.to_string().contains("refs in a manifest"), "{error}");
    // Large ones are read one at a time.
    let large = manifest(&[&[15 << 3 | 2, 0x80, 0x80, 0x80, 2][..], &vec![0; 4 << 20]].concat());
    let manifests = vec![large; 64];
    let error = within("64 manifests of 4 MiB", 10 * MIB, || fetched(db, &manifests, None).unwrap_err());
    assert!(matches!(error, Error::DamagedRemote { .. }), "{error}");
}
