//! `credentials.yaml`: the tokens that this user shows to remotes that are servers.
//!
//! It lies in `$XDG_CONFIG_HOME/pleach`, or `~/.config/pleach`:
//!
//! ```yaml
//! credentials:
//!   - {host: "db.example.org:7420", token: "…"}    # HOST:PORT as the remote's URL has it
//! ```

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pleach_protocol::{Credentials, Token};
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
    token: String,
}

/// The tokens of whoever runs this process; none without the file.
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
    let mut tokens = Vec::with_capacity(file.credentials.len());
    for Entry { host, token } in file.credentials {
        let token = Token::parse(&token).ok_or_else(|| {
            Failure::usage(format!("{}: {host}: expected a token, found none", path.display()))
                .hint("whoever runs the server makes one with `pleach token new NAME`")
        })?;
        tokens.push((host, token));
    }
    Ok(Credentials::new(tokens))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn each_host_has_its_token() {
        let text = "credentials:\n  - {host: \"a:1\", token: abc}\n  - {host: b, token: \" \"}\n";
        let failure = parse(text, Path::new("c.yaml")).unwrap_err();
        assert_eq!(failure.message, "c.yaml: b: expected a token, found none");
        let credentials = parse(&text.replace("\" \"", "def"), Path::new("c.yaml")).unwrap();
        let url: pleach_protocol::RemoteUrl = "http://a:1/shop".parse().unwrap();
        assert_eq!(credentials.authorize(url.clone()), url.with_token(Token::parse("abc")));
        assert!(parse("credential: []", Path::new("c.yaml")).unwrap_err().message.contains("c.yaml:1:1"));
    }
}
