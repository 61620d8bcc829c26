//! The one error of the server crate: what is wrong, what to do next, and the exit status that follows.
//!
//! Every layer below has an error type of its own; `From` turns each into a [`Failure`] at the place where a user will
//! read it. A failure crosses the data API whole: [`Failure::to_status`] and [`Failure::from_status`] are inverses, so a
//! command given `--server` prints and exits as it does on a local database.

use std::fmt;
use std::io;

use pleach_client::metadata;
use pleach_protocol::TlsError;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::proto::SessionFailure;

/// The result of everything in this crate that a user can see fail.
pub type Result<T> = std::result::Result<T, Failure>;

/// What kind of failure, which is to say: which exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Refused or failed: not found, conflicts, rejected, bad input data, locked, port in use, disk full.
    Refused,
    /// A wrong command line or configuration.
    Usage,
    /// Data on disk or received is damaged.
    Damaged,
    /// The remote or the network.
    Remote,
    /// Not allowed, read-only, or the wrong role.
    NotAllowed,
    /// The reader of our output went away. Not worth a word.
    Closed,
    /// Ctrl-C, after what it interrupted has ended in order. Not worth a word either.
    Interrupted,
}

impl Kind {
    /// The process's exit status.
    pub fn exit_status(self) -> u8 {
        match self {
            Kind::Closed => 0,
            Kind::Refused => 1,
            Kind::Usage => 2,
            Kind::Damaged => 3,
            Kind::Remote => 4,
            Kind::NotAllowed => 5,
            Kind::Interrupted => 130,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Refused | Kind::Closed | Kind::Interrupted => "refused",
            Kind::Usage => "usage",
            Kind::Damaged => "damaged",
            Kind::Remote => "remote",
            Kind::NotAllowed => "not-allowed",
        }
    }

    fn from_name(name: &str) -> Option<Kind> {
        [Kind::Refused, Kind::Usage, Kind::Damaged, Kind::Remote, Kind::NotAllowed]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// A failure as the user reads it: `error: MESSAGE`, then `hint: HINT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Decides the exit status.
    pub kind: Kind,
    /// What is wrong, without `error:` and without a full stop.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    /// That nothing was done, because this server takes no writes now.
    pub wrong_role: Option<WrongRole>,
    code: Code,
}

/// Why a server takes no writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WrongRole {
    /// `standby`, `replica`, `primary` (it hands over) or `detected_broken_config`.
    pub role: String,
    /// URL of the server that does, if it is known.
    pub primary: Option<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Failure {
        let code = match kind {
            Kind::Refused => Code::FailedPrecondition,
            Kind::Usage => Code::InvalidArgument,
            Kind::Damaged => Code::DataLoss,
            Kind::Remote => Code::Unavailable,
            Kind::NotAllowed => Code::PermissionDenied,
            Kind::Closed | Kind::Interrupted => Code::Cancelled,
        };
        Failure { kind, message: message.into(), hint: None, wrong_role: None, code }
    }

    /// Refused or failed (exit status 1).
    pub fn refused(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Refused, message)
    }

    /// Something named does not exist (exit status 1).
    pub fn not_found(message: impl Into<String>) -> Failure {
        Failure { code: Code::NotFound, ..Failure::refused(message) }
    }

    /// Somebody else was first (exit status 1).
    pub fn conflict(message: impl Into<String>) -> Failure {
        Failure { code: Code::Aborted, ..Failure::refused(message) }
    }

    /// Something to be made exists (exit status 1).
    pub fn exists(message: impl Into<String>) -> Failure {
        Failure { code: Code::AlreadyExists, ..Failure::refused(message) }
    }

    /// A wrong command line or configuration (exit status 2).
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Usage, message)
    }

    /// Damaged data (exit status 3).
    pub fn damaged(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Damaged, message)
    }

    /// A remote or the network (exit status 4).
    pub fn remote(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Remote, message)
    }

    /// Not allowed, read-only, or the wrong role (exit status 5).
    pub fn not_allowed(message: impl Into<String>) -> Failure {
        Failure::new(Kind::NotAllowed, message)
    }

    /// The receiver of a stream went away.
    pub fn closed() -> Failure {
        Failure::new(Kind::Closed, "the receiver is gone")
    }

    /// Ctrl-C.
    pub fn interrupted() -> Failure {
        Failure::new(Kind::Interrupted, "interrupted")
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Failure {
        Failure { hint: Some(hint.into()), ..self }
    }

    /// Whether something named does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        self.code == Code::NotFound
    }

    /// This failure, of a server that takes no writes.
    #[must_use]
    pub fn of_role(self, role: impl Into<String>, primary: Option<String>) -> Failure {
        Failure { wrong_role: Some(WrongRole { role: role.into(), primary }), ..self }
    }

    /// This failure's kind and code with another's words.
    pub(crate) fn reworded(self, words: Failure) -> Failure {
        Failure { message: words.message, hint: words.hint, ..self }
    }

    /// A failed file operation, with the file's name.
    pub fn file(what: impl fmt::Display, error: &io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::closed(),
            io::ErrorKind::NotFound => Failure::not_found(format!("{what}: no such file or directory"))
                .hint("check the spelling of the path, and the directory it is relative to"),
            io::ErrorKind::PermissionDenied => Failure::not_allowed(format!("{what}: permission denied"))
                .hint("run as a user who may use this path, or change its permissions"),
            io::ErrorKind::StorageFull => Failure::refused(format!("{what}: no space left on the disk"))
                .hint("free some space and run the command again; nothing acknowledged is lost"),
            _ => Failure::refused(format!("{what}: {error}")),
        }
    }

    /// The failure as a session's answer.
    pub(crate) fn to_message(&self) -> SessionFailure {
        let WrongRole { role, primary } = self.wrong_role.clone().unwrap_or_default();
        SessionFailure {
            code: self.code as u32,
            message: self.message.clone(),
            kind: self.kind.name().to_owned(),
            hint: self.hint.clone().unwrap_or_default(),
            role,
            primary: primary.unwrap_or_default(),
        }
    }

    /// The failure as a gRPC status.
    pub fn to_status(&self) -> Status {
        let mut metadata = MetadataMap::new();
        metadata.insert(metadata::KIND, MetadataValue::from_static(self.kind.name()));
        if let Some(hint) = &self.hint {
            metadata.insert_bin(metadata::HINT, MetadataValue::from_bytes(hint.as_bytes()));
        }
        let WrongRole { role, primary } = self.wrong_role.clone().unwrap_or_default();
        for (name, text) in [(metadata::ROLE, Some(role)), (metadata::PRIMARY, primary)] {
            let text = text.filter(|text| !text.is_empty()).and_then(|text| text.parse().ok());
            if let Some(text) = text {
                metadata.insert(name, text);
            }
        }
        Status::with_metadata(self.code, self.message.clone(), metadata)
    }

    /// The failure that a server answered, or that kept us from its answer.
    pub fn from_status(status: &Status) -> Failure {
        if let Some(error) = TlsError::behind(status) {
            return error.into();
        }
        let text = |name| status.metadata().get(name).and_then(|text| text.to_str().ok());
        let kind = text(metadata::KIND).and_then(Kind::from_name);
        let hint = status.metadata().get_bin(metadata::HINT).and_then(|hint| hint.to_bytes().ok());
        let wrong_role = text(metadata::ROLE)
            .map(|role| WrongRole { role: role.into(), primary: text(metadata::PRIMARY).map(Into::into) });
        let hint = hint.map(|hint| String::from_utf8_lossy(&hint).into_owned());
        let who = "give a user's token with --token-file or PLEACH_TOKEN; `pleach token new NAME` makes one";
        let hint = hint.or_else(|| (status.code() == Code::Unauthenticated).then(|| who.to_owned()));
        let kind = kind.unwrap_or(match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => Kind::NotAllowed,
            Code::DataLoss => Kind::Damaged,
            _ => Kind::Remote,
        });
        let message = match status.code() {
            Code::Unimplemented => {
                "the server does not know this call: is it a pleach server, and as new as this command?"
            }
            Code::Unavailable if status.message().is_empty() => "the connection to the server was lost",
            _ => status.message(),
        };
        Failure { kind, message: message.to_owned(), hint, wrong_role, code: status.code() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_failure_crosses_the_data_api_whole() {
        for failure in [
            Failure::not_found("no table `é`").hint("see `pleach table list` → names"),
            Failure::exists("branch `a` exists"),
            Failure::usage("no"),
            Failure::damaged("bad chunk"),
            Failure::not_allowed("read-only"),
            Failure::conflict("somebody was first"),
            Failure::not_allowed("read-only").of_role("standby", Some("http://h:1".into())),
        ] {
            assert_eq!(Failure::from_status(&failure.to_status()), failure);
        }
    }

    #[test]
    fn exit_statuses_are_those_that_scripts_rely_on() {
        let statuses = [Kind::Refused, Kind::Usage, Kind::Damaged, Kind::Remote, Kind::NotAllowed];
        assert_eq!(statuses.map(Kind::exit_status), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_status_from_a_stranger_is_a_remote_failure() {
        assert_eq!(Failure::from_status(&Status::internal("boom")).kind, Kind::Remote);
        assert_eq!(Failure::from_status(&Status::unauthenticated("who?")).kind, Kind::NotAllowed);
    }
}
