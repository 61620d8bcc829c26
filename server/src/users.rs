//! `users.yaml`: who has access to a server, read and checked; and the making of tokens.
//!
//! ```yaml
//! users:
//!   - name: ada
//!     token_hash: "blake3:HEX"                  # of the token's characters: printf %s TOKEN | b3sum
//!     grants: [{database: "*", refs: "*", allow: read}]
//! ```
//!
//! `*` in a pattern stands for any characters. No grant, no access.

use std::collections::HashSet;
use std::fmt::Write;
use std::path::Path;

use pleach_protocol::{Access, Grant, Right, Token, User};
use serde::Deserialize;

use crate::config;
use crate::error::{Failure, Result};

const SCHEME: &str = "blake3:";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    users: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    token_hash: String,
    #[serde(default)]
    grants: Vec<GrantEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantEntry {
    database: String,
    refs: String,
    allow: String,
}

/// Who has access: the users of the file, or, without one, everybody.
pub(crate) fn access(file: Option<&Path>) -> Result<Access> {
    file.map_or_else(|| Ok(Access::open()), |file| read(file).map(Access::of))
}

/// The users of the file.
pub(crate) fn read(file: &Path) -> Result<Vec<User>> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::usage(format!("cannot read the users in {}: {error}", file.display()))
            .hint("name an existing file with `users_file` in config.yaml; `pleach token new NAME` prints an entry of it")
    })?;
    parse(&text, file)
}

/// The users of a text that is to stand in the file.
pub(crate) fn parse(text: &str, path: &Path) -> Result<Vec<User>> {
    let file: File = config::parse_yaml(text, path)?;
    let (mut names, mut hashes) = (HashSet::new(), HashSet::new());
    let mut users = Vec::with_capacity(file.users.len());
    for entry in file.users {
        let user = user(&entry).map_err(|what| {
            Failure::usage(format!("{}: user `{}`: {what}", path.display(), entry.name))
                .hint("`pleach token new NAME` prints an entry as it must be")
        })?;
        if !names.insert(entry.name.clone()) || !hashes.insert(user.token_hash) {
            return Err(Failure::usage(format!("{}: user `{}` is there twice", path.display(), entry.name))
                .hint("give each user a name and a token of its own"));
        }
        users.push(user);
    }
    Ok(users)
}

fn user(entry: &Entry) -> std::result::Result<User, String> {
    if entry.name.is_empty() {
        return Err("expected a name, found an empty one".into());
    }
    let hash = entry.token_hash.strip_prefix(SCHEME).and_then(|hex| hex.parse().ok());
    let token_hash = hash.ok_or("expected token_hash: \"blake3:\" and 64 hexadecimal digits")?;
    let grants = entry.grants.iter().map(grant).collect::<std::result::Result<_, _>>()?;
    Ok(User { name: entry.name.clone(), token_hash, grants })
}

fn grant(entry: &GrantEntry) -> std::result::Result<Grant, String> {
    let right = match entry.allow.as_str() {
        "read" => Right::Read,
        "write" => Right::Write,
        "admin" => Right::Admin,
        other => return Err(format!("expected allow: read, write or admin, found `{other}`")),
    };
    if entry.database.is_empty() || entry.refs.is_empty() {
        return Err("expected a pattern, found an empty one: \"*\" stands for all".into());
    }
    Ok(Grant { database: entry.database.clone(), refs: entry.refs.clone(), right })
}

/// A new token, and the entry of users.yaml for it.
pub(crate) fn new(name: &str) -> Result<(Token, String)> {
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(Failure::usage(format!("`{}` is no name of a user", name.escape_debug()))
            .hint("for example `pleach token new ada`"));
    }
    let mut random = [0; 32];
    getrandom::fill(&mut random)
        .map_err(|error| Failure::refused(format!("the system gave no random bytes: {error}")))?;
    let token = Token::from_random(random);
    let mut entry = String::new();
    // JSON's strings are YAML's.
    let quoted = serde_json::Value::from(name).to_string();
    let _ = writeln!(entry, "  - name: {quoted}");
    let _ = writeln!(entry, "    token_hash: \"{SCHEME}{}\"", token.hash());
    let _ = write!(entry, "    grants: [{{database: \"*\", refs: \"*\", allow: read}}]");
    Ok((token, entry))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const PATH: &str = "users.yaml";

    fn message(text: &str) -> String {
        let failure = parse(text, Path::new(PATH)).unwrap_err();
        assert_eq!(failure.kind, crate::error::Kind::Usage);
        failure.message
    }

    #[test]
    fn a_new_token_and_its_entry_belong_together() {
        let (token, entry) = new("Ada \"the first\"").unwrap();
        let users = parse(&format!("users:\n{entry}\n"), Path::new(PATH)).unwrap();
        let grants = vec![Grant { database: "*".into(), refs: "*".into(), right: Right::Read }];
        let expected = User { name: "Ada \"the first\"".into(), token_hash: token.hash(), grants };
        assert_eq!(users, [expected]);
        assert_ne!(new("ada").unwrap().0, new("ada").unwrap().0);
        assert!(!entry.contains(token.reveal()), "what is kept is no token");
        assert!(new("").is_err() && new("a\nb").is_err());
    }

    #[test]
    fn a_wrong_file_is_refused_by_place_or_user() {
        let entry = new("ada").unwrap().1;
        for (text, expected) in [
            (format!("users:\n{entry}\n{entry}"), "user `ada` is there twice"),
            (format!("users:\n{}", entry.replace("read", "all")), "found `all`"),
            (format!("users:\n{}", entry.replace("blake3:", "sha256:")), "expected token_hash"),
            (format!("users:\n{}", entry.replace("refs: \"*\"", "refs: \"\"")), "an empty one"),
            (format!("users:\n{}", entry.replace("grants", "grant")), "users.yaml:4:5: unknown key `grant`"),
            ("{}".to_owned(), "users"),
        ] {
            let message = message(&text);
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
