//! Every limit of the exchange, in one file. What a peer sends is held against these before anything is allocated for it, so
//! that no peer can make this process use more memory or time than they say. Read by `record`, `receiver`, `server`, `remote`.

use std::time::Duration;

use pleach_engine::Hash;

pub use pleach_engine::CHUNK_BYTES_MAX;

/// A data message is sent once it holds this many bytes of records.
pub const MESSAGE_BYTES: usize = 256 << 10;

/// Largest gRPC message accepted, in bytes: one chunk that does not compress, its record header and its longest follow list.
pub const MESSAGE_BYTES_MAX: usize = CHUNK_BYTES_MAX + (1 << 20);

/// Messages on their way between the network and the thread that reads or writes chunks, on each side.
pub const MESSAGES_AHEAD: usize = 8;

/// Most children that one chunk can have: each takes a hash of its bytes.
pub const CHILDREN_MAX: usize = CHUNK_BYTES_MAX / Hash::LEN;

/// Deepest path of chunks that are waiting for their children. A commit, a catalogue, a map of 2^64 rows and a blob take fewer.
pub const DEPTH_MAX: usize = 48;

/// Bytes of chunks on the path that is waiting for its children, the bases of deltas included.
pub const PATH_BYTES_MAX: usize = 64 << 20;

/// Received chunks are appended to the store each time that this many bytes are complete.
pub const BATCH_BYTES: usize = 4 << 20;

/// Commits received that neither a wanted ref nor a later commit named yet. What is left at the end was not asked for.
pub const LOOSE_TOPS_MAX: usize = 1 << 16;

/// Largest window of a zstd frame, as a power of two: a base and a chunk of the largest size.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Hashes in `haves` and in `bases`.
pub const HAVES_MAX: usize = 64;

/// First parents that are followed from one head to find an older commit to offer.
pub const HAVES_DISTANCE_MAX: usize = 64;

/// Patterns in one fetch.
pub const PATTERNS_MAX: usize = 256;

/// Refs in one push, and in one plan.
pub const REFS_MAX: usize = 1 << 17;

/// Bytes of a ref's name, and of a pattern.
pub const REF_NAME_BYTES_MAX: usize = 1024;

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

/// How long a server waits for the next message of a push.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(60);

/// Transfers that one server works on at the same time; more wait for their turn.
pub const TRANSFERS_MAX: usize = 64;

/// How often refs are read again because they moved between reading and moving them.
pub const MOVE_ATTEMPTS: usize = 8;
