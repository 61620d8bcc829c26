//! Partial copies: a database that lacks something of what its commits lead to, which the remote that it is a copy of has.
//!
//! What is lacking is asked for when it is read, if there is a source to ask ([`Database::set_source`]); without one, reading it fails and says so. What is
//! made here is here: a change needs no more of the remote than it reads. Collections and fsck pass over what was never here.

use std::sync::Arc;

use pleach_chunkstore::Source;

use crate::{database::Database, error::Result};

/// The setting with the name of the remote of which a database is a partial copy.
const PARTIAL_OF: &str = "partial.of";

impl Database {
    /// The name of the remote that has what this copy lacks; `None` if it lacks nothing.
    ///
    /// # Errors
    /// The store's.
    pub fn partial_of(&self) -> Result<Option<String>> {
        self.setting(PARTIAL_OF)
    }

    /// Makes this a partial copy, for good: from now on it takes chunks without what they lead to, which `remote` has. Durable when it returns.
    ///
    /// # Errors
    /// The store's.
    pub fn set_partial_of(&self, remote: &str) -> Result<()> {
        self.set_setting(PARTIAL_OF, Some(remote))?;
        self.store().set_partial();
        Ok(())
    }

    /// Who is asked for what this partial copy lacks, by all handles of it; `None`: nobody.
    pub fn set_source(&self, source: Option<Arc<dyn Source>>) {
        self.store().set_source(source);
    }

    /// As it was left: partial or not.
    pub(crate) fn opened(self) -> Result<Database> {
        if self.partial_of()?.is_some() {
            self.store().set_partial();
        }
        Ok(self)
    }
}
