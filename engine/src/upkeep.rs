//! Upkeep of a database's store: what fsck and backups, which know no kinds, must be told of its chunks.

use pleach_chunkstore::{
    Chunk, Hash,
    backup::Kinds,
    fsck::{self, Repaired, Report},
};

use crate::{
    check::{check_chunk, check_lineage},
    database::Database,
    error::{Error, Result},
    kinds::COMMIT,
};

/// What backups must know of chunks.
pub const KINDS: Kinds<'static> = Kinds { check: &checked, earlier: &earlier };

fn checked(chunk: &Chunk) -> Result<(), String> {
    check_chunk(chunk).map_err(|error| error.to_string())
}

/// A commit's first parent: what it committed is an earlier version of what the commit did.
fn earlier(chunk: &Chunk) -> Option<usize> {
    (chunk.kind() == COMMIT && chunk.child_count() > 1).then_some(1)
}

impl Database {
    /// Reads every chunk from its file and checks it, and that what it names is there. The database stays in use meanwhile.
    ///
    /// # Errors
    /// None of what is damaged, which the report says.
    pub fn fsck(&self) -> Result<Report> {
        let check = |chunk: &Chunk| {
            checked(chunk)?;
            match check_lineage(chunk, |parent| Ok(self.store().local(parent)?)) {
                Err(error @ Error::Malformed { .. }) => Err(error.to_string()),
                // A parent that is missing or damaged is told by itself.
                _ => Ok(()),
            }
        };
        Ok(fsck::check(self.store(), &check)?)
    }

    /// Writes anew what `report` says is damaged or missing, as far as `source` has it.
    ///
    /// # Errors
    /// The source's, and the store's.
    pub fn repair(
        &self,
        report: &Report,
        source: &dyn Fn(&Hash) -> pleach_chunkstore::Result<Option<Chunk>>,
    ) -> Result<Repaired> {
        Ok(fsck::repair(self.store(), &report.damages, &checked, source)?)
    }
}
