//! What an exchange did: which refs moved, and what it cost. The command line prints it; scripts rely on its counts.

use pleach_engine::Hash;

/// Why a ref that somebody else moved stays.
pub(crate) const MOVED: &str =
    "it is not what it was when it was last fetched; `fetch` it, merge (or `pull`), then push again";
/// Why a branch stays.
pub(crate) const NO_FAST_FORWARD: &str = "no fast-forward: the remote has commits that are not in what was pushed; `pull` them and \
     push again, or push with `--force` (the remote keeps the old head under recovery/)";
/// Why a tag stays.
pub(crate) const TAG_EXISTS: &str =
    "the tag exists on the remote and is another commit; choose another name, or push with `--force`";

/// The result of a fetch, push, pull or clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transfer {
    /// What became of each ref: every one named in a push; in a fetch, those that changed here or could not.
    pub refs: Vec<RefResult>,
    /// Chunks that were sent or received.
    pub chunks: u64,
    /// Bytes of protocol messages sent, with the 5-byte prefix of each, without HTTP/2 headers; of objects written, to a directory or
    /// bucket.
    pub bytes_sent: u64,
    /// Bytes of protocol messages received, or of objects read, counted alike.
    pub bytes_received: u64,
    /// Waits for an answer that was needed to go on; opening a connection does not count.
    pub round_trips: u32,
}

/// What became of one ref.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefResult {
    /// Its name where it changed: `heads/main` on the remote for a push, `remotes/origin/main` here for a fetch.
    pub name: String,
    /// What it was.
    pub old: Option<Hash>,
    /// What it is now; for a rejected update, what it should have become.
    pub new: Option<Hash>,
    /// What happened.
    pub status: RefStatus,
}

/// What happened to a ref.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefStatus {
    /// It did not exist.
    New,
    /// It moved forward.
    Updated,
    /// It moved to a commit that does not contain the old one.
    Forced,
    /// It is gone.
    Deleted,
    /// It was so already.
    Unchanged,
    /// It was not moved; the reason says what to do next.
    Rejected {
        /// For people.
        reason: String,
    },
}

impl RefStatus {
    /// The word that scripts read: `new`, `updated`, `forced`, `deleted`, `unchanged`, `rejected`.
    pub fn word(&self) -> &'static str {
        match self {
            RefStatus::New => "new",
            RefStatus::Updated => "updated",
            RefStatus::Forced => "forced",
            RefStatus::Deleted => "deleted",
            RefStatus::Unchanged => "unchanged",
            RefStatus::Rejected { .. } => "rejected",
        }
    }
}

impl Transfer {
    /// Whether a ref was rejected.
    pub fn is_rejected(&self) -> bool {
        self.refs.iter().any(|one| matches!(one.status, RefStatus::Rejected { .. }))
    }

    pub(crate) fn sent(&mut self, message: &impl prost::Message) {
        self.bytes_sent += framed(message);
    }

    pub(crate) fn received(&mut self, message: &impl prost::Message) {
        self.bytes_received += framed(message);
    }
}

/// Bytes of a message with its gRPC prefix.
pub(crate) fn framed(message: &impl prost::Message) -> u64 {
    message.encoded_len() as u64 + 5
}
