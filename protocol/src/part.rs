//! Which part of a remote's database a clone has: some branches, some tables, the newest commits, or what is read when it is read.
//!
//! What a clone lacks of the trees and the history that it has was *promised* by the remote: it is there. The store of such a *partial* clone may hold
//! chunks without their children ([`Database::partial_of`]), and asks for these when they are read ([`crate::serve_promised`]). Branches are another matter: those
//! that were not cloned are not missed by anything.

use std::collections::BTreeSet;

use pleach_engine::{Database, Scope};

use crate::error::{Error, Result, within};
use crate::limits::{PART_TABLES_MAX, REF_NAME_BYTES_MAX};
use crate::proto;

/// The local setting of a partial clone that says which part it has: `lazy`, and `table NAME` for each table, a line each.
const SETTING: &str = "partial.part";

/// What a clone is to have. The default is everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// Only these branches (patterns, `*` for any characters), and all tags. Empty: all.
    pub branches: Vec<String>,
    /// Only the rows of these tables; of the others their names and columns. Empty: all.
    pub tables: Vec<String>,
    /// So many commits from each branch and tag, at least one. `None`: all, or of a lazy clone one.
    pub depth: Option<u32>,
    /// Commits alone, whose tables arrive as they are read.
    pub lazy: bool,
}

impl Part {
    /// These branches with all tags, or everything if there are none.
    pub fn branches(branches: &[String]) -> Part {
        Part { branches: branches.to_vec(), ..Part::default() }
    }

    /// Whether what is cloned comes without something that it leads to.
    pub fn is_partial(&self) -> bool {
        !self.tables.is_empty() || self.depth.is_some() || self.lazy
    }

    /// Refuses what means nothing.
    pub(crate) fn check(&self) -> Result<()> {
        within("number of tables", self.tables.len(), PART_TABLES_MAX)?;
        for table in &self.tables {
            within("bytes of a table's name", table.len(), REF_NAME_BYTES_MAX)?;
        }
        match self.depth {
            Some(0) => Err(Error::protocol("a depth of 0 commits; the least is 1")),
            _ => Ok(()),
        }
    }

    /// As it travels in the request of a clone; `None` for everything.
    pub(crate) fn to_proto(&self) -> Option<proto::Part> {
        let depth = self.depth.unwrap_or(if self.lazy { 1 } else { 0 });
        self.is_partial().then(|| proto::Part { tables: self.tables.clone(), depth, lazy: self.lazy })
    }

    /// What a peer wants.
    pub(crate) fn scope(part: Option<&proto::Part>) -> Result<Scope> {
        let Some(part) = part else { return Ok(Scope::default()) };
        let depth = (part.depth > 0).then_some(part.depth);
        Part { tables: part.tables.clone(), depth, ..Part::default() }.check()?;
        let tables = part.tables.iter().cloned().collect::<BTreeSet<_>>();
        Ok(Scope { depth, tables, lazy: part.lazy })
    }

    /// Notes that a database is to be such a part of `remote`. Durable before anything arrives that lacks something.
    pub(crate) fn note(&self, database: &Database, remote: &str) -> Result<()> {
        let lazy = self.lazy.then(|| "lazy".to_owned());
        let tables = self.tables.iter().map(|table| format!("table {table}"));
        let lines: Vec<String> = lazy.into_iter().chain(tables).collect();
        database.set_setting(SETTING, Some(&lines.join("\n")))?;
        Ok(database.set_partial_of(remote)?)
    }

    /// What a later fetch from `remote` asks for: of what is new, the part that the clone has. The depth is no part of it: what is newer than the clone
    /// is all wanted.
    pub(crate) fn noted(database: &Database, remote: &str) -> Result<Part> {
        if database.partial_of()?.as_deref() != Some(remote) {
            return Ok(Part::default());
        }
        let mut part = Part::default();
        for line in database.setting(SETTING)?.unwrap_or_default().lines() {
            match line.strip_prefix("table ") {
                Some(table) => part.tables.push(table.to_owned()),
                None => part.lazy |= line == "lazy",
            }
        }
        Ok(part)
    }
}
