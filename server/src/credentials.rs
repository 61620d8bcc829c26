//! `credentials.yaml`: what this user shows to servers, by host, and whom it trusts there.
//!
//! It lies in `$XDG_CONFIG_HOME/pleach`, or `~/.config/pleach`:
//!
//! ```yaml
//! credentials:
//!   - host: "db.example.org:7420"     # HOST:PORT as the URL has it
//!     token: "…"                      # for remotes
//!     tls_ca: authority.pem           # to be trusted in place of the system's
//!     tls_cert: ada.pem               # for a server that asks for a certificate
//!     tls_key: ada.key
//! ```
//!
//! All but `host` can be left out; files are relative to this one.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pleach_protocol::{ClientTls, Credential, Credentials, Token};
use serde::Deserialize;

use crate::config;
use crate::error::{Failure, Result};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    credentials: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    host: String,
    token: Option<String>,
    tls_ca: Option<PathBuf>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
}

/// What whoever runs this process shows; nothing without the file.
pub(crate) fn read() -> Result<Credentials> {
    let Some(path) = path() else { return Ok(Credentials::default()) };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Credentials::default()),
        Err(error) => return Err(Failure::file(path.display(), &error)),
    };
    if std::fs::metadata(&path).is_ok_and(|file| file.permissions().mode() & 0o077 != 0) {
        tracing::warn!("others may read the tokens in {}: `chmod 600` it", path.display());
    }
    parse(&text, &path)
}

fn path() -> Option<PathBuf> {
    let directory = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = directory("XDG_CONFIG_HOME").or_else(|| Some(directory("HOME")?.join(".config")))?;
    Some(config.join("pleach/credentials.yaml"))
}

fn parse(text: &str, path: &Path) -> Result<Credentials> {
    let file: File = config::parse_yaml(text, path)?;
    let beside = |file: PathBuf| path.parent().unwrap_or(Path::new("")).join(file);
    let mut by_host = Vec::with_capacity(file.credentials.len());
    for Entry { host, token, tls_ca, tls_cert, tls_key } in file.credentials {
        let wrong = |what: &str| Failure::usage(format!("{}: {host}: {what}", path.display()));
        let token = token.map(|token| {
            Token::parse(&token).ok_or_else(|| {
                wrong("expected a token, found none")
                    .hint("whoever runs the server makes one with `pleach token new NAME`")
            })
        });
        let identity = config::identity(tls_cert.map(beside), tls_key.map(beside)).map_err(|missing| {
            wrong(&format!("expected {missing} too, found none"))
                .hint("a certificate is shown with its key: name both")
        })?;
        let tls = ClientTls { ca: tls_ca.map(beside), identity, ..ClientTls::default() };
        by_host.push((host, Credential { token: token.transpose()?, tls }));
    }
    Ok(Credentials::new(by_host))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use pleach_protocol::Identity;

    use super::*;

    #[test]
    fn each_host_has_its_token() {
        let text = "credentials:\n  - {host: \"a:1\", token: abc}\n  - {host: b, token: \" \"}\n";
        let failure = parse(text, Path::new("c.yaml")).unwrap_err();
        assert_eq!(failure.message, "c.yaml: b: expected a token, found none");
        let credentials = parse(&text.replace("\" \"", "def"), Path::new("c.yaml")).unwrap();
        assert_eq!(
            (credentials.of("a:1").token, credentials.of("b").token),
            (Token::parse("abc"), Token::parse("def"))
        );
        assert!(parse("credential: []", Path::new("c.yaml")).unwrap_err().message.contains("c.yaml:1:1"));
    }

    #[test]
    fn the_files_for_a_host_are_beside_this_one() {
        let path = Path::new("/home/ada/.config/pleach/credentials.yaml");
        let text = "credentials: [{host: h, tls_ca: ca.pem, tls_cert: /c.pem, tls_key: k.pem}]";
        let here = |name: &str| path.with_file_name(name);
        let identity = Identity { cert: "/c.pem".into(), key: here("k.pem") };
        let tls = ClientTls { ca: Some(here("ca.pem")), identity: Some(identity), ..ClientTls::default() };
        assert_eq!(parse(text, path).unwrap().of("h"), Credential { token: None, tls });
        let half = text.replace(", tls_key: k.pem", "");
        assert!(parse(&half, path).unwrap_err().message.ends_with("h: expected tls_key too, found none"));
    }
}
