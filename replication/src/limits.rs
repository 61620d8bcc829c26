//! The limits and intervals of replication, in one file. Those of records and messages are `pleach_protocol::limits`.

use std::time::Duration;

/// How long a primary that becomes a standby waits for its standbys to have everything.
pub const HAND_OVER: Duration = Duration::from_secs(10);

/// How long a write waits for standbys, unless the configuration says otherwise.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a primary that restarts waits for its standbys to tell what they have, before it takes writes.
pub const HEAR: Duration = Duration::from_secs(2);

/// How long a standby that gives back what was lost may be silent.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Changes of a database that are on their way to a standby at the same time; what comes then goes along with the next.
pub const CHANGES_AHEAD: usize = 8;

/// How often a primary says that it is alive.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// How often databases that were made or dropped are looked for.
pub const LOOK_FOR_DATABASES: Duration = Duration::from_secs(1);

/// How long a primary waits before it connects to a standby again: first, and at most; doubled in between.
pub const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Bytes of a change that travels as one message.
pub const WHOLE_BYTES_MAX: usize = 16 << 10;

/// Updates in one message of a change, and refs in one message of what a standby holds.
pub const UPDATES_A_MESSAGE: usize = 4096;

/// Nodes by which changes are forwarded, one after the other.
pub const PATH_MAX: usize = 16;

/// Bytes that are kept of a database for one standby which is away, unless the configuration says otherwise.
pub const STANDBY_PIN_MAX: u64 = 1 << 30;

/// How often it is looked at what is kept for standbys that are away; longer where that takes long.
pub const MEASURE_PINS: Duration = Duration::from_secs(1);

/// What is kept for a standby is measured for at most one in so many parts of the time.
pub const MEASURE_SHARE: u32 = 20;

/// How far a primary counts on at once, to where a standby says it was.
pub const SEQUENCE_JUMP_MAX: u64 = 1 << 40;

/// Answers on their way from the thread that applies changes to the network.
pub const ANSWERS_AHEAD: usize = 64;

/// After a standby refused a stream, how long it reads and drops what the primary had sent, so that the reason arrives.
pub const DRAIN: Duration = Duration::from_secs(1);

/// How often is looked who holds the lease of an election: at least, and at most; a tenth of its time in between.
pub const LEASE_POLL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3));

/// Bytes of the file with the history of a node; there is one more, with what came before.
pub const HISTORY_BYTES_MAX: u64 = 4 << 20;

/// Databases whose roots an entry of that history has.
pub const HISTORY_ROOTS_MAX: usize = 1000;

/// Epochs of which a node remembers how far they came, for tokens.
pub const EPOCHS_KEPT: usize = 64;

/// How often one push merges what others pushed meanwhile, and tries again.
pub const PUSH_MERGES: usize = 8;

/// How often a replica looks at a remote that cannot tell of changes, if it is to be told.
pub const LOOK_AT_PLACE: Duration = Duration::from_secs(1);

/// So many commits of a branch are counted, at most, to say how far behind a remote is.
pub const COMMITS_COUNTED: usize = 1000;

/// And so many bytes, of all branches and tags together.
pub const BYTES_COUNTED: u64 = 16 << 20;

/// How long a signed greeting holds.
pub const GREETING_HOLDS: Duration = Duration::from_secs(30);

/// How far the clock of a caller may be ahead.
pub const CLOCKS_APART: Duration = Duration::from_secs(10);

/// How long a caller has for its greeting.
pub const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// Greetings that are remembered until they have expired.
pub const NONCES_MAX: usize = 65_536;

/// Bytes of a file with the key of a node.
pub const KEY_FILE_BYTES_MAX: u64 = 64 << 10;

/// Bytes of the key set that a peer publishes.
pub const JWKS_BYTES_MAX: usize = 64 << 10;

/// Keys in it.
pub const JWKS_KEYS_MAX: usize = 16;

/// How long a peer has to send it.
pub const JWKS_TIMEOUT: Duration = Duration::from_secs(2);

/// How often it is fetched from a peer at most, whoever calls.
pub const JWKS_FETCHED_AT_MOST: Duration = Duration::from_secs(1);

/// How long a caller with a key that nobody knows waits for it to be published.
pub const JWKS_WAIT: Duration = Duration::from_secs(3);

/// How often it is fetched when nothing happens.
pub const JWKS_REFRESH: Duration = Duration::from_secs(60);
