//! Who may do what: users with tokens, and what each is granted.
//!
//! One idea: a right is granted for a pattern of databases and a pattern of refs, and nothing else gives one. Whoever serves asks
//! [`Access`] who calls before it looks at anything that the call says, and [`Caller`] before it does any of it. What a caller may not
//! know of is answered like what does not exist.
//!
//! A token is kept as its BLAKE3 hash. Tokens are 32 random bytes, so that one hash is enough, and a caller who guesses learns nothing
//! from how long an answer takes: what is compared is the hash.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use pleach_engine::{Database, Hash};
use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use tonic::metadata::errors::InvalidMetadataValue;
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::error::Error;
use crate::refs::{HEADS, TAGS, matches};
use crate::remote::RemoteUrl;

/// The header that carries a token, `Bearer TOKEN`.
const HEADER: &str = "authorization";

/// What may be done; each right includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Read refs and what they reach.
    Read,
    /// Move, make and delete refs, and change their work.
    Write,
    /// All else that can be done to a database: make it, drop it, collect, check, back up.
    Admin,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Right::Read => "read",
            Right::Write => "write",
            Right::Admin => "administer",
        })
    }
}

/// A right, and where it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Pattern of names of databases: `*` stands for any characters, all else is literal.
    pub database: String,
    /// Pattern of branches and tags, alike. Only who has the right for all of them, `*`, has it for the database as a whole.
    pub refs: String,
    /// The right.
    pub right: Right,
}

impl Grant {
    fn holds(&self, right: Right, database: &str) -> bool {
        self.right >= right && matches(self.database.as_bytes(), database.as_bytes())
    }
}

/// Somebody with a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name, for logs and messages.
    pub name: String,
    /// The token's hash.
    pub token_hash: Hash,
    /// What is granted; nothing without a grant.
    pub grants: Vec<Grant>,
}

/// Who has access: everybody, or users by their tokens. Cheap to clone; all clones are one, whose users can be replaced while it serves.
#[derive(Clone, Default)]
pub struct Access(Arc<watch::Sender<Option<ByToken>>>);

pub(crate) type ByToken = HashMap<Hash, Arc<User>>;

impl Access {
    /// Everybody may do everything.
    pub fn open() -> Access {
        Access::default()
    }

    /// These users alone have access, each as granted.
    pub fn of(users: Vec<User>) -> Access {
        let access = Access::open();
        access.replace(users);
        access
    }

    /// Puts other users in the place of those that there were. Calls that were let in go on, but for watches, which are asked again who calls.
    pub fn replace(&self, users: Vec<User>) {
        let users = users.into_iter().map(|user| (user.token_hash, Arc::new(user))).collect();
        self.0.send_replace(Some(users));
    }

    /// Says when the users are replaced.
    pub(crate) fn replacements(&self) -> watch::Receiver<Option<ByToken>> {
        self.0.subscribe()
    }

    /// Who calls, by the token in the call's metadata.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` if users are asked for, and it has no token of one of them.
    pub fn caller(&self, metadata: &MetadataMap) -> Result<Caller, Status> {
        let access = self.0.borrow();
        let Some(users) = access.as_ref() else { return Ok(Caller(None)) };
        let Some(header) = metadata.get(HEADER) else {
            return Err(Status::unauthenticated("this server has users, and the call has no token"));
        };
        let token = header.to_str().ok().and_then(|header| header.strip_prefix("Bearer "));
        let user = token.and_then(|token| users.get(&Token::hash_of(token)));
        let user = user.ok_or_else(|| Status::unauthenticated("the token is none of this server's users"))?;
        Ok(Caller(Some(user.clone())))
    }
}

/// Put before a service, it lets no message of a call be read that has no token of a user.
impl Interceptor for Access {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        self.caller(request.metadata())?;
        Ok(request)
    }
}

/// Somebody who calls, and what that is allowed to do: by default, anybody and everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller(Option<Arc<User>>);

impl Caller {
    /// The user's name; `None` if everybody has access.
    pub fn name(&self) -> Option<&str> {
        self.0.as_ref().map(|user| user.name.as_str())
    }

    fn has(&self, holds: impl Fn(&Grant) -> bool) -> bool {
        self.0.as_ref().is_none_or(|user| user.grants.iter().any(holds))
    }

    /// Whether the right holds for anything at all.
    pub(crate) fn may_any(&self, right: Right) -> bool {
        self.has(|grant| grant.right >= right)
    }

    /// Whether the right holds for any ref of the database.
    pub fn may_some(&self, right: Right, database: &str) -> bool {
        self.has(|grant| grant.holds(right, database))
    }

    /// Whether the right holds for the branch or tag of this name.
    pub fn may(&self, right: Right, database: &str, name: &str) -> bool {
        self.has(|grant| grant.holds(right, database) && matches(grant.refs.as_bytes(), name.as_bytes()))
    }

    /// Whether the right holds for the ref, `heads/NAME` or `tags/NAME`.
    pub fn may_ref(&self, right: Right, database: &str, reference: &str) -> bool {
        let name = reference.strip_prefix(HEADS).or_else(|| reference.strip_prefix(TAGS));
        name.is_some_and(|name| self.may(right, database, name))
    }

    /// Whether the right holds for the database as a whole.
    pub fn may_all(&self, right: Right, database: &str) -> bool {
        self.has(|grant| grant.holds(right, database) && grant.refs == "*")
    }

    /// Whether the commit, which is one of the database, may be read: all of its commits, or those behind a ref that may be.
    pub(crate) fn may_reach(&self, database: &Database, name: &str, commit: &Hash) -> bool {
        if self.may_all(Right::Read, name) {
            return true;
        }
        let refs = [HEADS, TAGS].into_iter().flat_map(|prefix| database.refs(prefix));
        let mut readable = refs.filter(|(reference, _)| self.may_ref(Right::Read, name, reference));
        readable.any(|(_, head)| database.is_ancestor(commit, &head).unwrap_or(false))
    }

    /// Refuses who has the right for no ref of the database, whether or not there is one of this name.
    pub(crate) fn require(&self, right: Right, database: &str) -> Result<(), Error> {
        match self.may_some(right, database) {
            true => Ok(()),
            false => Err(self.refuse(right, &format!("database `{database}`"))),
        }
    }

    /// That the right does not hold for `what`.
    pub(crate) fn refuse(&self, right: Right, what: &str) -> Error {
        let name = self.name().unwrap_or_default();
        Error::NotAllowed {
            url: String::new(),
            what: format!("user `{name}` may not {right} {what}; ask whoever runs the server for a grant"),
        }
    }

    /// Whether the right holds for the whole server.
    pub fn may_everywhere(&self, right: Right) -> bool {
        self.has(|grant| grant.right >= right && grant.database == "*" && grant.refs == "*")
    }
}

/// A secret that says who calls. Shown nowhere by itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token from 32 random bytes: 64 hexadecimal digits.
    pub fn from_random(bytes: [u8; 32]) -> Token {
        Token(Hash::from_bytes(bytes).to_string())
    }

    /// A token as it was given, without the space around it; `None` if it cannot be one: it is empty, or not all of it is visible ASCII.
    pub fn parse(text: &str) -> Option<Token> {
        let text = text.trim();
        let is_token = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_token.then(|| Token(text.to_owned()))
    }

    /// What is kept of it, and compared: the BLAKE3 hash of its characters.
    pub fn hash(&self) -> Hash {
        Token::hash_of(&self.0)
    }

    fn hash_of(text: &str) -> Hash {
        Hash::of(text.as_bytes())
    }

    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Tokens to show to servers, by `HOST:PORT` as their URLs have it. Each is shown to its own server alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials(HashMap<String, Token>);

impl Credentials {
    /// These tokens.
    pub fn new(tokens: impl IntoIterator<Item = (String, Token)>) -> Credentials {
        Credentials(tokens.into_iter().collect())
    }

    /// The URL, with the token for its server if there is one.
    #[must_use]
    pub fn authorize(&self, url: RemoteUrl) -> RemoteUrl {
        let token = url.host().and_then(|host| self.0.get(host)).cloned();
        url.with_token(token)
    }
}

/// Adds a token, if there is one, to each call of a client.
#[derive(Debug, Clone, Default)]
pub struct Bearer(Option<Token>);

impl Bearer {
    /// Calls with this token.
    pub fn new(token: Option<Token>) -> Bearer {
        Bearer(token)
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            let value = format!("Bearer {}", token.reveal()).parse();
            let mut value: tonic::metadata::MetadataValue<_> =
                value.map_err(|_: InvalidMetadataValue| Status::unauthenticated("the token is no text"))?;
            value.set_sensitive(true);
            request.metadata_mut().insert(HEADER, value);
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn grant(database: &str, refs: &str, right: Right) -> Grant {
        Grant { database: database.into(), refs: refs.into(), right }
    }

    fn user(number: u8, grants: &[Grant]) -> (Token, User) {
        let token = Token::from_random([number; 32]);
        let user = User { name: format!("user {number}"), token_hash: token.hash(), grants: grants.to_vec() };
        (token, user)
    }

    fn call(access: &Access, token: Option<Token>) -> Result<Caller, Status> {
        access.caller(Bearer::new(token).call(Request::new(())).unwrap().metadata())
    }

    #[test]
    fn rights_hold_where_they_are_granted_and_nowhere_else() {
        let grants = [grant("shop*", "main", Right::Write), grant("shop", "*", Right::Read)];
        let (token, ours) = user(1, &grants);
        let caller = call(&Access::of(vec![ours]), Some(token)).unwrap();
        for (right, database, name, is_allowed) in [
            (Right::Read, "shop", "main", true),
            (Right::Write, "shop", "heads/main", false),
            (Right::Admin, "shop", "main", false),
            (Right::Read, "shop", "other", true),
            (Right::Write, "shop", "other", false),
            (Right::Read, "shop2", "main", true),
            (Right::Read, "shop2", "other", false),
            (Right::Read, "bank", "main", false),
            (Right::Read, "myshop", "main", false),
        ] {
            assert_eq!(caller.may(right, database, name), is_allowed, "{right:?} {database} {name}");
        }
        assert!(
            caller.may_ref(Right::Write, "shop", "heads/main")
                && caller.may_ref(Right::Write, "shop", "tags/main")
        );
        assert!(
            !caller.may_ref(Right::Write, "shop", "main")
                && !caller.may_ref(Right::Read, "shop", "work/main")
        );
        assert!(caller.may_all(Right::Read, "shop") && !caller.may_all(Right::Read, "shop2"));
        assert!(caller.may_some(Right::Write, "shop2") && !caller.may_some(Right::Admin, "shop"));
        assert!(!caller.may_everywhere(Right::Read));
    }

    #[test]
    fn nobody_is_let_in_without_a_token_of_a_user() {
        let (token, ours) = user(1, &[grant("*", "*", Right::Admin)]);
        let access = Access::of(vec![ours]);
        assert_eq!(call(&access, None).unwrap_err().code(), tonic::Code::Unauthenticated);
        let (stranger, theirs) = user(2, &[]);
        assert_eq!(call(&access, Some(stranger.clone())).unwrap_err().code(), tonic::Code::Unauthenticated);
        let caller = call(&access, Some(token.clone())).unwrap();
        assert!(caller.may_everywhere(Right::Admin));
        assert_eq!(caller.name(), Some("user 1"));
        // What is kept is no token.
        let kept = Token::parse(&token.hash().to_string());
        assert!(call(&access, kept).is_err());
        let clone = access.clone();
        clone.replace(vec![theirs]);
        assert!(call(&access, Some(token)).is_err());
        let caller = call(&access, Some(stranger)).unwrap();
        assert!(!caller.may_some(Right::Read, "shop"), "no grant, no access");
    }

    #[test]
    fn without_users_everything_is_allowed() {
        let caller = call(&Access::open(), None).unwrap();
        assert!(caller.may_everywhere(Right::Admin) && caller.may(Right::Write, "shop", "main"));
        assert_eq!(caller.name(), None);
    }

    #[test]
    fn a_token_is_for_one_server() {
        let token = Token::from_random([7; 32]);
        let credentials = Credentials::new([("here:7420".to_owned(), token.clone())]);
        let authorized = |url: &str| credentials.authorize(url.parse().unwrap());
        let plain = |url: &str| url.parse::<RemoteUrl>().unwrap();
        assert_eq!(authorized("http://here:7420/a"), plain("http://here:7420/a").with_token(Some(token)));
        for url in ["http://here:7421/a", "http://there:7420/a", "file:///here:7420/a", "s3://here/7420"] {
            assert_eq!(authorized(url), plain(url), "{url}");
        }
        assert!(!format!("{:?}", authorized("http://here:7420/a")).contains("07"));
    }

    #[test]
    fn a_token_is_shown_by_nothing() {
        let token = Token::from_random([7; 32]);
        assert_eq!(token.reveal(), "07".repeat(32));
        assert!(!format!("{token:?} {:?}", Bearer::new(Some(token.clone()))).contains("07"));
        assert_eq!(Token::parse(" 0707\n").unwrap().reveal(), "0707");
        for text in ["", " \n", "a b", "é"] {
            assert_eq!(Token::parse(text), None, "{text:?}");
        }
    }
}
