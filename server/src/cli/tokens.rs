//! Tokens: made for users of a server, and found for the calls of a client.

use std::path::Path;

use pleach_protocol::Token;
use serde_json::json;

use super::Context;
use super::args::Global;
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
