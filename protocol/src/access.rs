//! Who may do what: users with tokens, and what each is granted.
//!
//! One idea: a right is granted for a pattern of databases and a pattern of refs, and nothing else gives one. Whoever serves asks
//! [`Access`] who calls before it looks at anything that the call says, and [`Caller`] before it does any of it. What a caller may not
//! know of is answered like what does not exist.
//!
//! A token is kept as its BLAKE3 hash. Tokens are 32 random bytes, so that one hash is enough, and a caller who guesses learns nothing
//! from how long an answer takes: what is compared is the hash.

mod guard;

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
use crate::tls::ClientTls;

pub use guard::Guarded;

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
    /// Whether it gives what `other` gives, and for the same patterns.
    fn includes(&self, other: &Grant) -> bool {
        self.right >= other.right && self.database == other.database && self.refs == other.refs
    }

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

    /// Puts other users in the place of those that there were. Calls that were let in go on if their users are there with what they were
    /// granted; else they end at their next message. Watches are asked again who calls.
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

    /// Who calls now, of somebody who was let in before.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` if the user is gone, `PERMISSION_DENIED` if it has lost a grant.
    fn again(&self, caller: &Caller) -> Result<Caller, Status> {
        let access = self.0.borrow();
        let Some(users) = access.as_ref() else { return Ok(caller.clone()) };
        let was = caller.0.as_ref().ok_or_else(|| Status::unauthenticated("this server has users now"))?;
        let is = users.get(&was.token_hash).ok_or_else(|| {
            Status::unauthenticated(format!("user `{}` is no user of this server any more", was.name))
        })?;
        let keeps = |old: &Grant| is.grants.iter().any(|new| new.includes(old));
        if !Arc::ptr_eq(was, is) && !was.grants.iter().all(keeps) {
            let lost = format!("user `{}` has lost a grant that it had when this call began", was.name);
            return Err(Status::permission_denied(lost));
        }
        Ok(Caller(Some(is.clone())))
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

/// What is shown to one server, and whom to trust when it says who it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credential {
    /// Says who calls.
    pub token: Option<Token>,
    /// For a server whose URL begins with `https`.
    pub tls: ClientTls,
}

/// What to show to servers, by `HOST:PORT` as their URLs have it. Each is shown to its own server alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    by_host: HashMap<String, Credential>,
    tls: ClientTls,
}

impl Credentials {
    /// These.
    pub fn new(by_host: impl IntoIterator<Item = (String, Credential)>) -> Credentials {
        Credentials { by_host: by_host.into_iter().collect(), tls: ClientTls::default() }
    }

    /// The same, with what `tls` says for every host in place of what is said for it.
    #[must_use]
    pub fn with_tls(self, tls: ClientTls) -> Credentials {
        Credentials { tls, ..self }
    }

    /// What is for this host.
    pub fn of(&self, host: &str) -> Credential {
        let Credential { token, tls } = self.by_host.get(host).cloned().unwrap_or_default();
        let ClientTls { ca, identity, names } = self.tls.clone();
        let names = if names.is_empty() { tls.names } else { names };
        Credential { token, tls: ClientTls { ca: ca.or(tls.ca), identity: identity.or(tls.identity), names } }
    }

    /// The URL, with what is for its server, if it is one.
    #[must_use]
    pub fn authorize(&self, url: RemoteUrl) -> RemoteUrl {
        let credential = url.host().map(|host| self.of(host));
        url.with_credential(credential.unwrap_or_default())
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
    fn who_was_let_in_stays_with_what_was_granted() {
        let (read, write) = (grant("shop", "*", Right::Read), grant("shop", "main", Right::Write));
        let users = |grants: &[Grant]| vec![user(1, grants).1, user(2, &[]).1];
        let access = Access::of(users(&[read.clone(), write.clone()]));
        let caller = call(&access, Some(user(1, &[]).0)).unwrap();
        let again = |users| {
            access.replace(users);
            access.again(&caller).map_err(|status| status.code())
        };
        assert!(again(users(&[write.clone(), read.clone()])).is_ok());
        let more = grant("shop", "*", Right::Admin);
        assert!(again(users(&[write.clone(), more])).unwrap().may_all(Right::Admin, "shop"));
        assert_eq!(again(users(&[read])).unwrap_err(), tonic::Code::PermissionDenied);
        assert_eq!(again(users(&[write])).unwrap_err(), tonic::Code::PermissionDenied);
        assert_eq!(again(vec![user(2, &[]).1]).unwrap_err(), tonic::Code::Unauthenticated);
        let anybody = Caller::default();
        assert!(Access::open().again(&anybody).is_ok() && access.again(&anybody).is_err());
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
        let credential = Credential { token: Some(token), ..Credential::default() };
        let credentials = Credentials::new([("here:7420".to_owned(), credential.clone())]);
        let authorized = |url: &str| credentials.authorize(url.parse().unwrap());
        let plain = |url: &str| url.parse::<RemoteUrl>().unwrap();
        assert_eq!(authorized("http://here:7420/a"), plain("http://here:7420/a").with_credential(credential));
        for url in ["http://here:7421/a", "http://there:7420/a", "file:///here:7420/a", "s3://here/7420"] {
            assert_eq!(authorized(url), plain(url), "{url}");
        }
        assert!(!format!("{:?}", authorized("http://here:7420/a")).contains("07"));
    }

    #[test]
    fn what_is_said_for_every_host_wins_over_what_is_said_for_one() {
        let ca = |name: &str| ClientTls { ca: Some(name.into()), ..ClientTls::default() };
        let token = Some(Token::from_random([7; 32]));
        let entry = Credential { token, tls: ca("theirs") };
        let credentials = Credentials::new([("here".to_owned(), entry.clone())]);
        assert_eq!(credentials.of("here"), entry);
        assert_eq!(credentials.of("there"), Credential::default());
        let credentials = credentials.with_tls(ca("ours"));
        assert_eq!(credentials.of("here"), Credential { tls: ca("ours"), ..entry });
        assert_eq!(credentials.of("there").tls, ca("ours"));
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
