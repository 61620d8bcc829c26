//! Loading rows in bulk: how that is done, and the map that comes of it.

use std::num::NonZeroUsize;

use pleach_chunkstore::{Hash, Store};

use crate::{
    blob,
    chunks::Writer,
    error::Result,
    map::{
        config::MapConfig,
        leaves::{self, RowBuilder},
        node::{Stored, Tag},
        sort::Sorter,
    },
};

/// How [`Transaction::load_with`](crate::Transaction::load_with) loads rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOptions {
    /// Whether rows may come in any order, and more than one with the same key, of which the last one then counts, as if each had been
    /// put. Else they come in strictly ascending order of keys.
    pub unsorted: bool,
    /// About how many bytes of unsorted rows are held in memory at most, 8 KiB to 4 GiB, and not more than there are left of
    /// [`Options::work_bytes`](crate::Options::work_bytes). What is more is sorted in parts, in a file
    /// that has no name in the store's directory and about the size of the rows; a store in memory keeps that in memory, too.
    pub sort_bytes: usize,
    /// How many threads make nodes, the caller's included; `None`: as many as run at once. More than 4 are no faster, and not used. The
    /// result does not depend on it.
    pub threads: Option<NonZeroUsize>,
}

impl Default for LoadOptions {
    /// Sorted rows; 64 MiB if they are not; as many threads as run at once, and 4 at most.
    fn default() -> LoadOptions {
        LoadOptions { unsorted: false, sort_bytes: 64 << 20, threads: None }
    }
}

/// Builds the map of `rows`; returns its root.
pub(crate) fn build<K: AsRef<[u8]>, V: AsRef<[u8]>>(
    writer: &mut Writer,
    store: &Store,
    config: MapConfig,
    rows: impl IntoIterator<Item = (K, V)>,
    options: &LoadOptions,
) -> Result<Hash> {
    let mut meter = store.meter("loading", "rows", None);
    leaves::build(writer, config, options.threads, |builder| {
        if !options.unsorted {
            rows.into_iter().try_for_each(|(key, value)| {
                meter.add(1);
                with_stored(builder, config, value.as_ref(), |builder, value| {
                    builder.push(key.as_ref(), value)
                })
            })?;
            meter.end();
            return Ok(());
        }
        let mut sorter = Sorter::new(store, options.sort_bytes);
        for (key, value) in rows {
            meter.add(1);
            with_stored(builder, config, value.as_ref(), |_, value| sorter.push(key.as_ref(), value))?;
        }
        meter.end();
        sorter.finish(|key, value| builder.push(key, value))
    })
}

/// Calls `f` with what is stored for a value, whose chunks are then written, if it has any.
fn with_stored<'a, 'b, 'c>(
    builder: &mut RowBuilder<'a, 'b, 'c>,
    config: MapConfig,
    value: &[u8],
    f: impl FnOnce(&mut RowBuilder<'a, 'b, 'c>, Stored<'_>) -> Result<()>,
) -> Result<()> {
    if value.len() <= usize::from(config.inline_bytes) {
        return f(builder, Stored { tag: Tag::Inline, bytes: value });
    }
    let value = blob::store(&mut builder.writer(), config.inline_bytes, value)?;
    f(builder, Stored { tag: value.tag, bytes: &value.bytes })
}
