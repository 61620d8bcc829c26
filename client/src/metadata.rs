//! What the data API says beside its messages: names of the metadata of answers and failures, which `data.proto` documents.

/// Of a failure: `refused`, `usage`, `damaged`, `remote` or `not-allowed`.
pub const KIND: &str = "pleach-kind";
/// Of a failure: what to do next, UTF-8.
pub const HINT: &str = "pleach-hint-bin";
/// Of a failure: the role of a server that takes no writes now. Nothing was done.
pub const ROLE: &str = "pleach-role";
/// Beside [`ROLE`]: URL of the server that takes writes, if it is known.
pub const PRIMARY: &str = "pleach-primary";
/// Of the answer to a write: what replication warns of, UTF-8, any number of times.
pub const WARNING: &str = "pleach-warning-bin";
