//! Every limit of the exchange, in one file. What a peer sends is held against these before anything is allocated for it, so
//! that no peer can make this process use more memory or time than they say. Read by `record`, `receiver`, `server`, `remote`, `tls`.

use std::time::Duration;

use pleach_engine::Hash;

pub use pleach_engine::{CHUNK_BYTES_MAX, KEY_BYTES_MAX};

/// A data message is sent once it holds this many bytes of records.
pub const MESSAGE_BYTES: usize = 256 << 10;

/// Largest gRPC message accepted, in bytes: one chunk that does not compress, its record header and its longest follow list.
pub const MESSAGE_BYTES_MAX: usize = CHUNK_BYTES_MAX + (1 << 20);

/// Fields of one message: each may take a hundred times its bytes when it is read.
pub const FIELDS_MAX: usize = REFS_MAX + 64;

/// Messages on their way between the network and the thread that reads or writes chunks, on each side.
pub const MESSAGES_AHEAD: usize = 8;

/// Tables and indexes of a commit that are counted to tell how much a clone is: the root of each is read.
pub const COUNTED_TABLES_MAX: usize = 1024;

/// Most children that one chunk can have: each takes a hash of its bytes.
pub const CHILDREN_MAX: usize = CHUNK_BYTES_MAX / Hash::LEN;

/// Rows in one record of edits; what is more travels as nodes. A row costs the receiver its share of a leaf made anew.
pub const EDITS_ROWS_MAX: usize = 1 << 15;

/// Bytes of keys in one record of edits, each in full, of new values, and of the old values beside them.
pub const EDITS_BYTES_MAX: usize = 1 << 20;

/// Deepest path of chunks that are waiting for their children. A commit, a catalogue, a map of 2^64 rows and a blob take fewer.
pub const DEPTH_MAX: usize = 48;

/// Bytes of chunks on the path that is waiting for its children, the bases of deltas included.
pub const PATH_BYTES_MAX: usize = 64 << 20;

/// Received chunks are appended to the store each time that this many bytes are complete.
pub const BATCH_BYTES: usize = 4 << 20;

/// Commits received that neither a wanted ref nor a later commit named yet, as many as there can be refs. What is left at the end was not asked for.
pub const LOOSE_TOPS_MAX: usize = REFS_MAX;

/// Largest window of a zstd frame, as a power of two: a base and a chunk of the largest size.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Hashes in `haves` and in `bases`.
pub const HAVES_MAX: usize = 64;

/// First parents that are followed from one head to find an older commit to offer.
pub const HAVES_DISTANCE_MAX: usize = 64;

/// Patterns in one fetch.
pub const PATTERNS_MAX: usize = 256;

/// Tables that a partial clone names.
pub const PART_TABLES_MAX: usize = 1024;

/// Refs in one push, and in one plan.
pub const REFS_MAX: usize = 1 << 17;

/// Bytes of a ref's name, and of a pattern.
pub const REF_NAME_BYTES_MAX: usize = 1024;

/// How often a transfer that was cut is taken up again without getting any further, and how long the first and the longest wait before
/// that is.
pub const RESUME_TRIES: u32 = 7;
/// See [`RESUME_TRIES`].
pub const RESUME_WAIT: Duration = Duration::from_millis(100);
/// See [`RESUME_TRIES`].
pub const RESUME_WAIT_MAX: Duration = Duration::from_secs(5);

/// How often a fetch notes how far it has come, for the next one, at most.
pub const NOTE_EVERY: Duration = Duration::from_secs(1);

/// How long a server keeps what arrived of a push that was cut.
pub const CUT_PUSH_KEPT: Duration = Duration::from_secs(10 * 60);

/// How long a push that goes on waits for the end of the attempt before, whose connection is gone.
pub const CUT_PUSH_ENDS_WITHIN: Duration = Duration::from_secs(10);

/// How many pushes that were cut a server keeps something of.
pub const CUT_PUSHES_KEPT: usize = 64;

/// Answers to pushes that a server remembers for callers who lost them.
pub const ANSWERS_KEPT: usize = 1024;

/// Refs in an answer that is remembered.
pub const ANSWER_REFS_MAX: usize = 64;

/// Messages that a server reads and drops after it refused a push, until the caller has seen the refusal.
pub const DRAIN_MESSAGES_MAX: usize = 256;

/// HTTP/2 window of one stream, in bytes: 80 MB/s at a round trip of 100 ms.
pub const STREAM_WINDOW_BYTES: u32 = 8 << 20;

/// HTTP/2 window of one connection, in bytes.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Streams at once on one connection.
pub const STREAMS_MAX: u32 = 64;

/// How long opening a connection may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How often an idle connection with a stream on it is asked for a sign of life, and how long that may take.
pub const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Least rate that a transfer is held to, in bytes a second: the largest message passes before its server gives up waiting.
pub const RATE_MIN: u64 = 128 << 10;

/// How long a server waits for its caller: for the next message of a push, or for room for the next one of an answer.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes for which a server waits a second more, up to [`MESSAGE_TIMEOUT`] at a time: so a caller that goes on, but more slowly than this, does not
/// hold its turn for ever.
pub const BYTES_A_SECOND_MIN: usize = 4 << 10;

/// How often a remote may say how far a push has come: each time stands for [`BATCH_BYTES`] that it stored.
pub const PROGRESS_MAX: usize = 1 << 17;

/// Transfers that one server works on at the same time; more wait for their turn.
pub const TRANSFERS_MAX: usize = LIVE_MAX + LONG_MAX;

/// How many of them are live: for pushes, fetches that catch up with a little, and gets.
pub const LIVE_MAX: usize = 32;

/// How many of them are long: clones, and what has moved more than [`LIVE_BYTES`].
pub const LONG_MAX: usize = 32;

/// Bytes that an exchange may move before it counts as long.
pub const LIVE_BYTES: u64 = 4 << 20;

/// How long a long transfer rests before a message, at most, while live ones are at work.
pub const YIELD_MAX: Duration = Duration::from_millis(10);

/// How often refs are read again because they moved between reading and moving them.
pub const MOVE_ATTEMPTS: usize = 8;

/// Bytes of records that a push gathers into one pack.
pub const PACK_BYTES: usize = 8 << 20;

/// Largest pack that is read, in bytes: one may be a single message.
pub const PACK_BYTES_MAX: usize = PACK_BYTES + MESSAGE_BYTES_MAX;

/// A push of at most this many bytes goes into its manifest and is no pack of its own.
pub const INLINE_BYTES_MAX: usize = 64 << 10;

/// Packs on their way at the same time.
pub const PACKS_AHEAD: usize = 4;

/// Largest manifest, in bytes: the refs of one with 100,000 take about 8 MiB.
pub const MANIFEST_BYTES_MAX: usize = 32 << 20;

/// Bytes of manifests that are read for one transfer.
pub const MANIFESTS_BYTES_MAX: usize = 256 << 20;

/// Manifests on their way at the same time.
pub const MANIFESTS_AHEAD: usize = 32;

/// Bytes of a manifest that is read beside others. A larger one is read again, alone.
pub const MANIFEST_BYTES_BESIDE: usize = 1 << 20;

/// Each manifest whose number is a multiple of this has everything.
pub const MANIFESTS_TO_FULL: u64 = 64;

/// Manifests that are read to catch up with a remote, rather than the packs that its head lists.
pub const CATCH_UP_MAX: u64 = 256;

/// The newest manifests stay; what is older becomes tombstones. More than anybody reads back.
pub const MANIFESTS_KEPT: u64 = 512;

/// Tombstones that one push writes.
pub const TRIM_MAX: u64 = 128;

/// How long the object of a pack stays when no manifest names it any more, for who reads slowly.
pub const RETIRED_GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the temporary file of a writer that is gone stays in a directory.
pub const TEMPORARY_GRACE: Duration = Duration::from_secs(60 * 60);

/// How often a fetch from a directory or bucket begins again since what it read was merged or trimmed.
pub const FETCH_ATTEMPTS: usize = 6;

/// How often a push to a directory or bucket begins again since somebody else was faster.
pub const PUSH_ATTEMPTS: usize = 64;

/// How often, and how long, a request to a bucket is repeated.
pub const BUCKET_TRIES: usize = 4;
/// See [`BUCKET_TRIES`].
pub const BUCKET_PATIENCE: Duration = Duration::from_secs(30);

/// TLS handshakes of callers at the same time; more wait to be accepted.
pub const HANDSHAKES_MAX: usize = 256;

/// How long the TLS handshake of a caller may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it may take if others wait.
pub const HANDSHAKE_TIMEOUT_CROWDED: Duration = Duration::from_secs(2);

/// How long a listener waits when the system gives it no connection, for want of file descriptors or memory.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Largest file of certificates or keys, in bytes: that of a system's authorities takes about 256 KiB.
pub const PEM_BYTES_MAX: u64 = 4 << 20;

/// Watches that one server keeps at the same time. They take no turns of transfers.
pub const WATCHES_MAX: usize = 1024;

/// Refs that are gone which a server remembers for watches that were not told yet, per database.
pub const WATCH_GONE_MAX: usize = 1 << 12;

/// Shortest time after which a watch is told that nothing has changed.
pub const WATCH_HEARTBEAT_MIN: Duration = Duration::from_millis(100);

/// A server that looked for the refs that changed rests for this many times as long as that took, so that a stream of changes costs no more
/// than a tenth of a core, and at least for [`WATCH_REST_MIN`].
pub const WATCH_REST_TIMES: u32 = 10;
/// See [`WATCH_REST_TIMES`].
pub const WATCH_REST_MIN: Duration = Duration::from_millis(1);

/// Chunks in one get.
pub const GET_CHUNKS_MAX: usize = 1024;

/// Ancestors that come along with the commits of one get.
pub const GET_ANCESTORS_MAX: usize = 1024;

/// Bytes of chunks in the answer to one get, unless the first alone has more.
pub const GET_BYTES: usize = 1 << 20;
