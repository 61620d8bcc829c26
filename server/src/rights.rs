//! What a caller may do in one database, as its operations ask.

use pleach_protocol::{Caller, Right};

use crate::error::{Failure, Result};

/// What a caller may do in one database.
#[derive(Clone, Default)]
pub struct Rights {
    caller: Caller,
    database: String,
}

impl Rights {
    /// What `caller` may do in the database of this name.
    pub fn of(caller: Caller, database: &str) -> Rights {
        Rights { caller, database: database.to_owned() }
    }

    pub(crate) fn may(&self, right: Right, reference: &str) -> bool {
        self.caller.may(right, &self.database, reference)
    }

    pub(crate) fn may_all(&self, right: Right) -> bool {
        self.caller.may_all(right, &self.database)
    }

    /// Refuses who has the right for no ref of the database, whether or not it exists.
    pub fn require_some(&self, right: Right) -> Result<()> {
        self.unless(self.caller.may_some(right, &self.database), right, "")
    }

    /// Refuses who has no right for the database as a whole.
    pub fn require_all(&self, right: Right) -> Result<()> {
        self.unless(self.may_all(right), right, "all of ")
    }

    /// Refuses who has no right for the branch or tag, whether or not it exists.
    pub(crate) fn require(&self, right: Right, reference: &str) -> Result<()> {
        self.unless(self.may(right, reference), right, &format!("`{reference}` in "))
    }

    fn unless(&self, is_allowed: bool, right: Right, what: &str) -> Result<()> {
        match is_allowed {
            true => Ok(()),
            false => Err(not_granted(&self.caller, right, &format!("{what}database `{}`", self.database))),
        }
    }
}

/// That a caller has no right to something.
pub(crate) fn not_granted(caller: &Caller, right: Right, what: &str) -> Failure {
    let name = caller.name().unwrap_or_default();
    Failure::not_allowed(format!("user `{name}` may not {right} {what}"))
        .hint("ask whoever runs the server for a grant in its users.yaml")
}
