//! What can go wrong, sorted by what an application can do about it; and what a gRPC status says of that.

use std::error::Error as StdError;

use pleach_protocol::root_cause;
use tonic::metadata::MetadataValue;
use tonic::{Code, ConnectError, Status};

use crate::metadata::{HINT, KIND, PRIMARY, ROLE};
use crate::proto::SessionFailure;

/// The result of a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address is none. Mend it.
    #[error("`{address}` is no address of a server: {what}; expected http://HOST:PORT or https://HOST:PORT")]
    BadAddress {
        /// The address as given.
        address: String,
        /// What is wrong with it.
        what: String,
    },
    /// A server refused what was asked for. The same again gets the same answer, unless something changes.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// Another transaction was first. Nothing was written: begin again.
    #[error("{0}")]
    Conflict(Box<Refusal>),
    /// The transaction was ended by its server, which changed its role, stops, or waited for too long. Nothing was written: begin again.
    #[error("{0}")]
    Ended(Box<Refusal>),
    /// The connection of a transaction was lost before its commit. Nothing was written: begin again.
    #[error("the connection to {server} was lost: {what}; the transaction is rolled back, begin again")]
    Lost {
        /// URL of the server.
        server: String,
        /// What was lost.
        what: String,
    },
    /// No server could be reached that does what was asked for. Nothing was written: try again later.
    #[error("no server could {what}, of {}", one_by_one(.tried))]
    Unavailable {
        /// What was asked for: `read`, `write`.
        what: &'static str,
        /// URL of each server that was tried, and what it said last.
        tried: Vec<(String, String)>,
    },
    /// A write was sent, and its answer was lost: it was done, or will be, or not. Read, to find out; it is not tried again.
    #[error(
        "the answer of {server} to a write was lost: {what}; whether it was done is not known, read to find out"
    )]
    Unknown {
        /// URL of the server.
        server: String,
        /// What was lost.
        what: String,
    },
    /// The connection to a server was lost while it answered a read. Read again.
    #[error("the answer of {server} ended early: {what}; read again")]
    Interrupted {
        /// URL of the server.
        server: String,
        /// What was lost.
        what: String,
    },
    /// What a server answered is none of the data API.
    #[error(
        "{server} answered what this client does not understand: {what}; use a client and a server of one version"
    )]
    Strange {
        /// URL of the server.
        server: String,
        /// What it was.
        what: &'static str,
    },
}

fn one_by_one(tried: &[(String, String)]) -> String {
    let one = |(server, what): &(String, String)| format!("{server} ({what})");
    tried.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl Error {
    /// What was named is not there: the database, branch, table or revision.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Refused(refusal) if refusal.code == Code::NotFound)
    }

    /// What was to be made is there.
    pub fn exists(&self) -> bool {
        matches!(self, Error::Refused(refusal) if refusal.code == Code::AlreadyExists)
    }

    /// The user may not do this, or is none of the server's, or the place is read-only.
    pub fn is_not_allowed(&self) -> bool {
        let denied = [Code::PermissionDenied, Code::Unauthenticated];
        matches!(self, Error::Refused(refusal) if denied.contains(&refusal.code))
    }

    /// A transaction that failed so was certainly not committed, and may well be when it is begun again.
    pub fn is_worth_beginning_again(&self) -> bool {
        matches!(self, Error::Conflict(_) | Error::Ended(_) | Error::Lost { .. })
    }
}

/// A server's refusal, in its words.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// URL of the server.
    pub server: String,
    /// The gRPC code.
    pub code: Code,
    /// What is wrong.
    pub message: String,
    /// What to do next; empty if the server does not say.
    pub hint: String,
    /// The role of a server that takes no writes now, and for that reason refused.
    pub role: Option<String>,
    /// URL of the server that does, as far as that one knows.
    pub primary: Option<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.server, self.message)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, "; {}", self.hint) }
    }
}

/// How a try ended that got no answer of use.
#[derive(Debug)]
pub(crate) enum Failed {
    /// It certainly never reached the server.
    Unsent(String),
    /// It may have.
    Lost(String),
    /// The server said no.
    Answered(Box<Refusal>),
}

impl Failed {
    pub(crate) fn of(server: &str, status: &Status) -> Failed {
        let text = |name| status.metadata().get(name).and_then(|text| text.to_str().ok()).map(str::to_owned);
        let is_answer = text(KIND).is_some();
        if !is_answer && was_never_sent(status) {
            return Failed::Unsent(cause(status));
        }
        let lost =
            [Code::Unavailable, Code::Unknown, Code::Internal, Code::Cancelled, Code::DeadlineExceeded];
        if !is_answer && (StdError::source(status).is_some() || lost.contains(&status.code())) {
            return Failed::Lost(cause(status));
        }
        let hint = status.metadata().get_bin(HINT).and_then(|hint| hint.to_bytes().ok());
        Failed::Answered(Box::new(Refusal {
            server: server.to_owned(),
            code: status.code(),
            message: status.message().to_owned(),
            hint: hint.map(|hint| String::from_utf8_lossy(&hint).into_owned()).unwrap_or_default(),
            role: text(ROLE),
            primary: text(PRIMARY),
        }))
    }

    /// What it says, in a word or two.
    pub(crate) fn what(&self) -> String {
        match self {
            Failed::Unsent(what) | Failed::Lost(what) => what.clone(),
            Failed::Answered(refusal) => refusal.message.clone(),
        }
    }
}

/// Whether the call ended while the client was still connecting.
fn was_never_sent(status: &Status) -> bool {
    let mut error: Option<&(dyn StdError + 'static)> = StdError::source(status);
    while let Some(source) = error {
        if source.is::<ConnectError>() {
            return true;
        }
        error = source.source();
    }
    false
}

fn cause(status: &Status) -> String {
    match StdError::source(status) {
        Some(source) => root_cause(source),
        None if status.message().is_empty() => "the connection was lost".to_owned(),
        None => status.message().to_owned(),
    }
}

/// A session's refusal, as the status that any other call would have ended with.
pub(crate) fn status_of(failure: &SessionFailure) -> Status {
    let code = i32::try_from(failure.code).map_or(Code::Unknown, Code::from_i32);
    let mut status = Status::new(code, failure.message.clone());
    let metadata = status.metadata_mut();
    for (name, text) in [(KIND, &failure.kind), (ROLE, &failure.role), (PRIMARY, &failure.primary)] {
        if let Some(text) = Some(text).filter(|text| !text.is_empty()).and_then(|text| text.parse().ok()) {
            metadata.insert(name, text);
        }
    }
    if !failure.hint.is_empty() {
        metadata.insert_bin(HINT, MetadataValue::from_bytes(failure.hint.as_bytes()));
    }
    status
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_refusal_of_a_session_says_what_a_status_says() {
        let failure = SessionFailure {
            code: Code::PermissionDenied as u32,
            message: "this server is a standby".into(),
            kind: "not-allowed".into(),
            hint: "write é elsewhere".into(),
            role: "standby".into(),
            primary: "http://h:1".into(),
        };
        let Failed::Answered(refusal) = Failed::of("http://s:1", &status_of(&failure)) else {
            panic!("it is an answer")
        };
        assert_eq!(refusal.code, Code::PermissionDenied);
        assert_eq!(
            (refusal.role.as_deref(), refusal.primary.as_deref()),
            (Some("standby"), Some("http://h:1"))
        );
        assert_eq!(refusal.hint, "write é elsewhere");
    }

    #[test]
    fn what_a_server_did_not_say_may_have_been_done() {
        for status in [Status::unavailable("gone"), Status::unknown(""), Status::internal("cut")] {
            assert!(matches!(Failed::of("http://s:1", &status), Failed::Lost(_)), "{status:?}");
        }
        let refused = Status::unauthenticated("who?");
        assert!(matches!(Failed::of("http://s:1", &refused), Failed::Answered(_)));
    }
}
