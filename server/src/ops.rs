//! What every command and every call of the data API does: one function each, over an open [`Database`], in the data
//! API's message types.
//!
//! They are the only implementation. The service calls them for a remote client, the command line calls them on a local
//! database, so that both answer alike. They block, print nothing, and know no sockets. Answers of any length go to a sink
//! that is called with a message at a time and may stop them.

use pleach_engine::{Database, Definition, Hash, Revision, Schema, Snapshot, Table, Token, Transaction};
use pleach_protocol::Right;

use crate::error::{Failure, Result};
use crate::rights::Rights;

pub mod clone;
pub mod export;
pub mod history;
pub mod import;
pub mod merge;
pub mod patch;
pub mod recovery;
pub mod refs;
pub mod rows;
pub mod server_backup;
pub mod stats;
pub mod tables;
pub mod transaction;
pub mod upkeep;

/// Takes the messages of an answer one by one; an error ends the operation.
pub type Sink<'a, T> = &'a mut dyn FnMut(T) -> Result<()>;

/// A database, the place in it that a request is about, and what whoever asks may do there.
#[derive(Clone)]
pub struct Session {
    /// The database.
    pub database: Database,
    place: Place,
    rights: Rights,
    /// Whether strangers choose the keys that are written: then the tables that are made have a salt.
    of_strangers: bool,
}

#[derive(Clone)]
enum Place {
    Branch(String),
    /// A tag or a hash: read-only.
    Fixed {
        reference: String,
        commit: Hash,
    },
}

impl Session {
    /// A session on the database's current branch.
    pub fn local(database: Database) -> Result<Session> {
        let branch = database.current_branch()?;
        Ok(Session { database, place: Place::Branch(branch), rights: Rights::default(), of_strangers: false })
    }

    /// A session at `reference`: a branch, else a tag or a commit hash. Empty: `main`, or the first branch for who may not read that.
    pub fn at(database: Database, reference: &str, rights: Rights) -> Result<Session> {
        let is_default = reference.is_empty();
        let mut reference = if is_default { "main".to_owned() } else { reference.to_owned() };
        if is_default && !rights.may(Right::Read, &reference) {
            let branches = database.branches()?.into_iter().map(|branch| branch.name);
            reference = branches.into_iter().find(|name| rights.may(Right::Read, name)).unwrap_or(reference);
        }
        let reference = reference.as_str();
        rights.require(Right::Read, reference)?;
        if database.branch(reference)?.is_some() {
            let place = Place::Branch(reference.to_owned());
            return Ok(Session { database, place, rights, of_strangers: false });
        }
        let tag = database.get_ref(&format!("tags/{reference}"));
        // Who knows a hash may read what it names only if there is nothing that may not be read.
        let is_hash = reference.len() >= 8 && reference.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_hash = is_hash && rights.may_all(Right::Read);
        let commit = match tag {
            Some(commit) => Some(commit),
            None if is_hash => match database.resolve(reference, "main") {
                Ok(Revision::Commit(commit)) => Some(commit),
                Ok(Revision::Work { .. }) | Err(_) => None,
            },
            None => None,
        };
        let Some(commit) = commit else {
            return Err(Failure::not_found(format!(
                "no branch, tag or commit `{reference}` in this database"
            ))
            .hint(
                "name an existing one after the @ of --database NAME@REF; `pleach branch` lists branches",
            ));
        };
        let place = Place::Fixed { reference: reference.to_owned(), commit };
        Ok(Session { database, place, rights, of_strangers: false })
    }

    /// This session for a client of a server, who may choose keys with an intent.
    pub fn of_strangers(self) -> Session {
        Session { of_strangers: true, ..self }
    }

    /// Makes a table. Only of tables with one salt, or none, equal content has equal roots: so the command line makes those without, and a server
    /// those with its database's.
    pub(crate) fn create_table(
        &self,
        transaction: &mut Transaction,
        table: &str,
        schema: Option<Schema>,
    ) -> Result<()> {
        let mut definition = Definition::new(schema);
        if self.of_strangers {
            definition = definition.salted(self.database.salt()?);
        }
        Ok(transaction.create_table_with(table, definition)?)
    }

    /// The branch to write to, which whoever asks may; a tag or hash is read-only.
    pub fn branch(&self) -> Result<&str> {
        let branch = self.here()?;
        self.require(Right::Write, branch)?;
        Ok(branch)
    }

    /// Refuses who has no right for the branch or tag, whether or not it exists.
    pub(crate) fn require(&self, right: Right, reference: &str) -> Result<()> {
        self.rights.require(right, reference)
    }

    /// Whether all of the database may be read.
    pub(crate) fn may_read_all(&self) -> bool {
        self.rights.may_all(Right::Read)
    }

    /// Whether the branch or tag may be read.
    pub(crate) fn may_read(&self, reference: &str) -> bool {
        self.rights.may(Right::Read, reference)
    }

    /// The branch that the request is about.
    pub(crate) fn here(&self) -> Result<&str> {
        match &self.place {
            Place::Branch(branch) => Ok(branch),
            Place::Fixed { reference, .. } => {
                Err(Failure::not_allowed(format!("`{reference}` is no branch: a tag or commit is read-only"))
                    .hint(format!("make a branch of it, `pleach branch NAME {reference}`, and write there")))
            }
        }
    }

    /// The branch to name in an answer; the tag or hash when there is none.
    pub fn place(&self) -> &str {
        match &self.place {
            Place::Branch(name) => name,
            Place::Fixed { reference, .. } => reference,
        }
    }

    /// Resolves a REV as seen from here. At a tag or hash, `HEAD` and `@work` are that commit.
    pub fn resolve(&self, revision: &str) -> Result<Revision> {
        if !self.rights.may_all(Right::Read) {
            self.require_readable(revision)?;
        }
        match &self.place {
            Place::Branch(branch) => Ok(self.database.resolve(revision, branch)?),
            Place::Fixed { commit, .. } => {
                let here = ["HEAD", "@work"].into_iter().find_map(|name| revision.strip_prefix(name));
                let revision = match here {
                    Some(rest) if rest.is_empty() || rest.starts_with('~') => format!("{commit}{rest}"),
                    _ => revision.to_owned(),
                };
                Ok(self.database.resolve(&revision, "main")?)
            }
        }
    }

    /// Refuses a revision that is neither of this place nor of a branch or tag that may be read.
    fn require_readable(&self, revision: &str) -> Result<()> {
        let name = revision.split('~').next().unwrap_or_default();
        if ["HEAD", "@work"].contains(&name) {
            return Ok(());
        }
        self.require(Right::Read, name)?;
        let is_ref = self.database.get_ref(&format!("heads/{name}")).is_some()
            || self.database.get_ref(&format!("tags/{name}")).is_some();
        // By its hash, or under another name, a commit may be any.
        if is_ref { Ok(()) } else { self.rights.require_all(Right::Read) }
    }

    /// As [`Session::resolve`], where only a commit will do.
    pub fn commit_at(&self, revision: &str) -> Result<Hash> {
        match self.resolve(revision)? {
            Revision::Commit(commit) => Ok(commit),
            Revision::Work { .. } => {
                Err(Failure::refused(format!("`{revision}` is uncommitted work, not a commit"))
                    .hint("commit it first: `pleach commit -m MSG`"))
            }
        }
    }

    /// The head of the place; `None` before the first commit.
    pub fn head(&self) -> Result<Option<Hash>> {
        match &self.place {
            Place::Fixed { commit, .. } => Ok(Some(*commit)),
            Place::Branch(name) => match self.database.branch(name)? {
                Some(branch) => Ok(branch.head),
                None => Err(pleach_engine::Error::UnknownBranch { name: name.clone() }.into()),
            },
        }
    }

    /// What `revision` looks like; empty: the uncommitted work.
    pub fn snapshot(&self, revision: &str) -> Result<Snapshot> {
        let revision = if revision.is_empty() { "@work" } else { revision };
        let mut found = self.resolve(revision)?;
        loop {
            match self.database.snapshot(&found) {
                // Its ref may have moved, and a collection have taken what it was, before the snapshot kept it.
                Err(pleach_engine::Error::Missing { hash }) => {
                    let before = std::mem::replace(&mut found, self.resolve(revision)?);
                    if found == before {
                        return Err(pleach_engine::Error::Missing { hash }.into());
                    }
                }
                other => return Ok(other?),
            }
        }
    }

    /// The token of the last write, whatever it changed.
    pub fn token(&self) -> Result<String> {
        let (epoch, sequence) = (self.database.epoch(), self.database.sequence());
        let (root, head) = (self.snapshot("")?.root(), self.head()?);
        Ok(Token { epoch, sequence, root, head }.to_string())
    }

    /// The table called `name` at `revision`.
    pub fn table(&self, name: &str, revision: &str) -> Result<Table> {
        let table = self.snapshot(revision)?.table(name)?;
        table.ok_or_else(|| pleach_engine::Error::UnknownTable { name: name.to_owned() }.into())
    }
}

/// A hash as messages carry it; empty: none.
pub(crate) fn hex(hash: Option<Hash>) -> String {
    hash.map(|hash| hash.to_string()).unwrap_or_default()
}
