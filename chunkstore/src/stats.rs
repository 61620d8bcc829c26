//! Counters of what a store did since it was opened, and of what it holds.
//!
//! One idea: on a shared machine only counts repeat, so whatever costs something is counted where it happens.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a store holds, and what it did since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Chunks in the store.
    pub chunks: u64,
    /// Bytes in journals, sealed and active, up to their valid ends.
    pub journal_bytes: u64,
    /// Number of journals.
    pub journals: u64,
    /// Number of table files.
    pub tables: u64,
    /// Files that stay only because a journal has differences from chunks in them.
    pub held_files: u64,
    /// Bytes of memory that say where chunks in tables lie.
    pub lookup_bytes: u64,
    /// Bytes in table files.
    pub table_bytes: u64,
    /// Sequence of the last durable root record.
    pub sequence: u64,
    /// Bytes handed to the operating system in write calls, of all files.
    pub bytes_written: u64,
    /// Write calls.
    pub writes: u64,
    /// Sync calls, of files and of the directory.
    pub fsyncs: u64,
    /// Bytes read from files.
    pub bytes_read: u64,
    /// Groups appended.
    pub groups: u64,
    /// Frames written as they are.
    pub frames_raw: u64,
    /// Frames written as deltas.
    pub frames_delta: u64,
    /// Chunks asked for and found in the cache.
    pub cache_hits: u64,
    /// Chunks asked for and not found in the cache.
    pub cache_misses: u64,
    /// Chunks loaded from files.
    pub chunk_loads: u64,
    /// Requests made of the source of a partial store.
    pub source_requests: u64,
    /// Chunks that they brought.
    pub source_chunks: u64,
    /// Bytes of chunks held in the cache.
    pub cache_bytes: u64,
    /// Bytes that work under way has leased.
    pub leased_bytes: u64,
    /// The most that it ever had, since the store was opened.
    pub leased_bytes_most: u64,
    /// Durable refs.
    pub refs: u64,
    /// Roots that a handle keeps from collection.
    pub pinned_roots: u64,
    /// Holds that keep from collection what is appended.
    pub holds: u64,
}

/// The counting side.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) bytes_written: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) fsyncs: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) groups: AtomicU64,
    pub(crate) frames_raw: AtomicU64,
    pub(crate) frames_delta: AtomicU64,
    pub(crate) cache_hits: AtomicU64,
    pub(crate) cache_misses: AtomicU64,
    pub(crate) chunk_loads: AtomicU64,
    pub(crate) source_requests: AtomicU64,
    pub(crate) source_chunks: AtomicU64,
}

/// Adds to a counter.
pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl Counters {
    /// The counters' values; what they do not count is left 0.
    pub(crate) fn stats(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            bytes_written: get(&self.bytes_written),
            writes: get(&self.writes),
            fsyncs: get(&self.fsyncs),
            bytes_read: get(&self.bytes_read),
            groups: get(&self.groups),
            frames_raw: get(&self.frames_raw),
            frames_delta: get(&self.frames_delta),
            cache_hits: get(&self.cache_hits),
            cache_misses: get(&self.cache_misses),
            chunk_loads: get(&self.chunk_loads),
            source_requests: get(&self.source_requests),
            source_chunks: get(&self.source_chunks),
            ..Stats::default()
        }
    }
}
