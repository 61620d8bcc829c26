//! Tokens: made for users of a server, and found for the calls of a client, as are the files for TLS.

use std::path::{Path, PathBuf};

use pleach_protocol::{ClientTls, Token};
use serde_json::json;

use super::Context;
use super::args::Global;
use crate::config;
use crate::error::{Failure, Result};
use crate::users;

/// The environment variable that holds the token for `--server`.
const VARIABLE: &str = "PLEACH_TOKEN";

/// The token for calls to `--server`: from `--token-file`, else from the environment; none if neither is there.
pub(super) fn token(global: &Global) -> Result<Option<Token>> {
    if let Some(file) = &global.token_file {
        return read(file).map(Some);
    }
    match std::env::var(VARIABLE) {
        Err(std::env::VarError::NotPresent) => Ok(None),
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => parse(&text, VARIABLE).map(Some),
        Err(std::env::VarError::NotUnicode(_)) => Err(no_token(VARIABLE)),
    }
}

/// The files for TLS that are named by flags, else by the environment.
pub(super) fn tls(global: &Global) -> Result<ClientTls> {
    let file = |flag: &Option<PathBuf>, variable: &str| {
        let given = || std::env::var_os(variable).filter(|file| !file.is_empty()).map(PathBuf::from);
        flag.clone().or_else(given)
    };
    let cert = file(&global.tls_cert, "PLEACH_TLS_CERT");
    let key = file(&global.tls_key, "PLEACH_TLS_KEY");
    let identity = config::identity(cert, key).map_err(|missing| {
        let (flag, variable) = (missing.replace('_', "-"), missing.to_uppercase());
        Failure::usage(format!("expected --{flag} or PLEACH_{variable} too, found neither"))
            .hint("a certificate is shown with its key: name both")
    })?;
    Ok(ClientTls { ca: file(&global.tls_ca, "PLEACH_TLS_CA"), identity, ..ClientTls::default() })
}

fn read(file: &Path) -> Result<Token> {
    let text = std::fs::read_to_string(file).map_err(|error| Failure::file(file.display(), &error))?;
    parse(&text, &file.display().to_string())
}

fn parse(text: &str, place: &str) -> Result<Token> {
    Token::parse(text).ok_or_else(|| no_token(place))
}

fn no_token(place: &str) -> Failure {
    Failure::usage(format!("{place}: expected a token and nothing else"))
        .hint("`pleach token new NAME` prints one, of 64 hexadecimal digits")
}

/// Prints a new token and the entry of users.yaml for it.
pub(super) fn new_token(context: &mut Context, name: &str) -> Result<()> {
    context.refuse_server("token")?;
    let (token, entry) = users::new(name)?;
    if context.output.json {
        let document = json!({
            "name": name,
            "token": token.reveal(),
            "token_hash": format!("blake3:{}", token.hash()),
        });
        return context.output.document(&document);
    }
    context.output.line(token.reveal())?;
    context.output.line(entry)?;
    context.output.note(
        "the first line is the token: give it to the user, it is shown only now; the rest goes under `users:` in \
         users.yaml, with the grants that the user is to have",
    );
    Ok(())
}
