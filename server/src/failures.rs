//! How the errors of the layers below read to a user: which exit status, and what to do next.
//!
//! Their messages say what is wrong and, after the last `; `, what to do; a few get better words here, where commands and
//! flags have names.

use pleach_engine::{Error as EngineError, ErrorKind, StoreError};
use pleach_protocol::TlsError;

use crate::error::{Failure, Kind};
use crate::tabular::TabularError;

/// A message that says what to do next after a semicolon, as a failure.
fn split(kind: Kind, message: &str) -> Failure {
    match message.rsplit_once("; ") {
        Some((message, hint)) => Failure::new(kind, message).hint(hint),
        None => Failure::new(kind, message),
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Failure {
        let failure = match error {
            EngineError::Store(error) => return error.into(),
            ref error => {
                let message = error.to_string();
                match error.kind() {
                    ErrorKind::NotFound => Failure::not_found("").reworded(split(Kind::Refused, &message)),
                    _ if matches!(error, EngineError::Exists { .. }) => {
                        Failure::exists("").reworded(split(Kind::Refused, &message))
                    }
                    ErrorKind::Damaged => split(Kind::Damaged, &message),
                    ErrorKind::Remote => split(Kind::Remote, &message),
                    _ => split(Kind::Refused, &message),
                }
            }
        };
        match error {
            EngineError::UnknownBranch { .. } => failure.hint("`pleach branch` lists branches"),
            EngineError::UnknownTable { .. } => failure.hint("`pleach table list` lists tables"),
            EngineError::UnknownTag { .. } => failure.hint("`pleach tag` lists tags"),
            EngineError::UnknownRevision { .. } => {
                failure.hint("`pleach log`, `pleach branch` and `pleach tag` show what there is")
            }
            EngineError::NotKept { .. } => {
                failure.hint("`pleach recovery list` shows what is kept, with its names")
            }
            EngineError::NoMerge { .. } => {
                failure.hint("`pleach merge REV` begins one; `pleach status` shows the branch as it is")
            }
            EngineError::BadName { .. } => failure.hint("choose another name"),
            EngineError::KeyTooLong { .. } => failure.hint("choose a shorter key, for example a hash of it"),
            EngineError::NothingToCommit { .. } => failure.hint("`pleach status` shows what is uncommitted"),
            EngineError::UnresolvedConflicts { .. } => failure.hint(
                "`pleach conflicts` lists them, `pleach conflicts --resolve ours|theirs` takes a side; \
                 `pleach merge --abort` gives up",
            ),
            EngineError::UncommittedWork { .. } => {
                failure.hint("`pleach commit -m MSG` keeps it, `pleach reset HEAD --hard` throws it away")
            }
            EngineError::PatchMismatch { .. } => failure.hint(
                "nothing was changed; apply it where the rows are as the patch expects, or merge: `pleach merge REV`",
            ),
            EngineError::MalformedPatch { .. } => {
                failure.hint("nothing was changed; make the patch again with `pleach patch make`, or copy it again")
            }
            EngineError::Missing { .. } | EngineError::Malformed { .. } | EngineError::Chunk(_) => {
                failure.hint("`pleach fsck --repair-from REMOTE` brings back what a backup or remote has; else restore a backup, or clone again")
            }
            _ => failure,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        let message = error.to_string();
        // Without the advice, which follows the last colon.
        let what = message.rsplit_once(": ").map_or(message.as_str(), |(what, _)| what).to_owned();
        match error {
            StoreError::NotFound { dir } => Failure::not_found(format!("no database in {dir}"))
                .hint("check the path, or make a database there with `pleach init`"),
            StoreError::AlreadyExists { dir } => Failure::exists(format!("{dir} holds a database already"))
                .hint("use it as it is, or choose another directory"),
            StoreError::Locked { dir, pid, host } => {
                Failure::refused(format!("the database in {dir} is in use by process {pid} on {host}")).hint(
                    "stop that process; if it is a `pleach serve`, use the database through it with --server and --database",
                )
            }
            StoreError::Damaged { .. } => {
                Failure::damaged(message).hint("`pleach fsck --repair-from REMOTE` repairs a database that opens; else restore it from a backup, or clone it again")
            }
            StoreError::Version { .. } => {
                Failure::refused(what).hint("use the version of pleach that wrote it, or a newer one")
            }
            StoreError::DiskFull { .. } => {
                Failure::refused(what).hint("free some space and run the command again; nothing acknowledged is lost")
            }
            StoreError::Io { ref source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Failure::not_allowed(message).hint("run as a user who may use this directory, or change its permissions")
            }
            StoreError::SourceFailed { source, .. } => {
                Failure::remote(format!("what was asked for is not in this partial clone, and its remote did not give it: {source}"))
                    .hint("see that the remote of the clone can be reached, and try again")
            }
            StoreError::NotLocal { .. } => {
                Failure::remote("what was asked for is not in this partial clone, and its remote is not known here")
                    .hint("`pleach remote add` the remote that it was cloned from under its old name")
            }
            StoreError::Missing { .. } => Failure::damaged(what)
                .hint("`pleach fsck --repair-from REMOTE` brings back what a backup or remote has"),
            StoreError::NotEmpty { .. }
            | StoreError::NotBackup { .. }
            | StoreError::OtherSource { .. }
            | StoreError::OtherKindOfBackup { .. }
            | StoreError::PartialSource { .. }
            | StoreError::RefExists { .. } => {
                let hint = message.rsplit_once(": ").map_or("", |(_, advice)| advice).to_owned();
                Failure::refused(what).hint(hint)
            }
            _ => Failure::refused(message),
        }
    }
}

impl From<TabularError> for Failure {
    fn from(error: TabularError) -> Failure {
        let message = error.to_string();
        match error {
            TabularError::BadInput { .. } | TabularError::Refused { .. } => {
                let hint = match message.starts_with("KEY:") {
                    true => "give the key columns as one CSV record, in key order",
                    false => "nothing was imported: mend that place and run the import again",
                };
                Failure::refused(message).hint(hint)
            }
            TabularError::NoKey { .. } => {
                Failure::refused(message).hint("for example --key id, or --key country,year")
            }
            TabularError::Io { file, error } => Failure::file(file, &error),
        }
    }
}

impl From<pleach_engine::row::Error> for Failure {
    fn from(error: pleach_engine::row::Error) -> Failure {
        EngineError::from(error).into()
    }
}

impl From<TlsError> for Failure {
    fn from(error: TlsError) -> Failure {
        let kind = if error.is_input() { Kind::Usage } else { Kind::Remote };
        let failure = split(kind, &error.to_string());
        match error {
            TlsError::NoAuthorities { .. } | TlsError::UnknownAuthority => failure.hint(
                "correct the address, or name the file of the authority to trust: --tls-ca, PLEACH_TLS_CA, or tls_ca in credentials.yaml",
            ),
            TlsError::CertificateWanted | TlsError::CertificateRefused { .. } => failure.hint(
                "show a certificate of an authority that the server trusts: --tls-cert and --tls-key, PLEACH_TLS_CERT and \
                 PLEACH_TLS_KEY, or tls_cert and tls_key in credentials.yaml",
            ),
            _ => failure,
        }
    }
}

impl From<pleach_protocol::Error> for Failure {
    fn from(error: pleach_protocol::Error) -> Failure {
        use pleach_protocol::{Error, ErrorKind};
        let message = error.to_string();
        match error {
            Error::Engine(error) => error.into(),
            Error::Tls { url, error } => {
                let mut failure = Failure::from(error);
                failure.message = format!("{url}: {}", failure.message);
                failure
            }
            Error::Io { path, source } => Failure::file(path.display(), &source),
            Error::BadUrl { .. } => split(Kind::Usage, &message),
            Error::BadRef { .. } => Failure::usage(message).hint("names follow git's rules"),
            Error::BadDatabaseName { .. } => Failure::usage(message)
                .hint("begin with a small letter, a digit or `_`, and go on with these and `-`"),
            Error::Exists { .. } | Error::OtherClone { .. } => Failure::exists("").reworded(split(Kind::Refused, &message)),
            Error::NotARemote { .. } => split(Kind::Refused, &message),
            Error::DamagedRemote { .. } => split(Kind::Damaged, &message),
            Error::NotAllowed { ref what, .. } if what.contains("; ") => split(Kind::NotAllowed, &message),
            Error::NotAUser { .. } => Failure::not_allowed(message)
                .hint("put a user's token for this host into credentials.yaml, in ~/.config/pleach or $XDG_CONFIG_HOME/pleach"),
            Error::UnknownBranch { .. } => Failure::not_found(message).hint(
                "`pleach fetch` brings what is there; `pleach branch --server URL --database NAME` lists it",
            ),
            Error::UnknownTable { .. } => Failure::not_found(message).hint(
                "`pleach table list --server URL --database NAME` shows those that are there; nothing was cloned",
            ),
            ref error => match error.kind() {
                ErrorKind::Input => split(Kind::Usage, &message),
                ErrorKind::NotFound => Failure::not_found("").reworded(split(Kind::Refused, &message)),
                ErrorKind::NotAllowed => Failure::not_allowed(message)
                    .hint("write on the primary, or on the server that this one follows"),
                ErrorKind::Network | ErrorKind::Peer => split(Kind::Remote, &message),
                ErrorKind::Store => split(Kind::Refused, &message),
            },
        }
    }
}

impl From<pleach_replication::NotWritable> for Failure {
    fn from(refusal: pleach_replication::NotWritable) -> Failure {
        let failure = split(Kind::NotAllowed, &refusal.to_string());
        let role = refusal.role().map_or("replica", pleach_replication::Role::word);
        let primary = match refusal {
            pleach_replication::NotWritable::Standby { primary, .. } => primary,
            _ => None,
        };
        failure.of_role(role, primary)
    }
}

impl From<pleach_replication::Error> for Failure {
    fn from(error: pleach_replication::Error) -> Failure {
        use pleach_replication::{Error, ErrorKind};
        let message = error.to_string();
        match error {
            Error::Engine(error) => error.into(),
            Error::Exchange(error) => error.into(),
            Error::BadConfig { .. } | Error::BadKey { .. } | Error::TooFew { .. } => {
                split(Kind::Usage, &message)
            }
            Error::DamagedRole { .. } => split(Kind::Damaged, &message),
            Error::Refused(_) => {
                let failure = split(Kind::Refused, &message);
                let hint = "`pleach cluster status` shows role and epoch; take an epoch that is higher than every node's";
                if failure.hint.is_some() { failure } else { failure.hint(hint) }
            }
            ref error => match error.kind() {
                ErrorKind::Network => split(Kind::Remote, &message),
                _ => split(Kind::Refused, &message),
            },
        }
    }
}
