//! Who may replicate: a greeting and its answer are signed by the keys of the nodes, and nothing is looked at before that was checked.
//!
//! The one idea: what is signed says for whom it is, how long it holds, that it is said once, and on which TLS connection; so a greeting
//! that somebody saw is worth nothing anywhere else. The answer signs what was random in the greeting: nobody else can give it, and what a
//! standby says about roles counts only in such an answer. The contract is `proto/pleach/replication/v1/replication.proto`; `session` greets
//! and `standby` answers.
//!
//! Whose key is trusted is said by its fingerprint, which is pinned in the configuration; of a peer without one, the keys are trusted that
//! it publishes (`jwks`), and whoever can answer in its place could have others trusted.
//!
//! Without TLS only greeting and answer are safe: who can change what is sent on the way can change what comes after them.

mod jwks;
mod key;
mod replays;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;
use parking_lot::Mutex;
use pleach_protocol::ChannelBinding;
use prost::Message;
use tokio::sync::{Notify, watch};
use tonic::transport::Channel;

pub(crate) use self::jwks::PATH as JWKS_PATH;
use self::key::PublicKey;
pub use self::key::{Fingerprint, NodeKey};
use self::replays::Replays;
use crate::cluster::proto;
use crate::limits::{CLOCKS_APART, GREETING_HOLDS, JWKS_FETCHED_AT_MOST, JWKS_REFRESH, JWKS_WAIT};

/// Stands before what is signed, so that a signature of one thing is never one of another.
const GREETING: &[u8] = b"pleach replicate greeting v1\0";
const ANSWER: &[u8] = b"pleach replicate answer v1\0";

/// What is random in a greeting.
pub(crate) type Nonce = [u8; 16];

/// Why a greeting, or the answer to it, does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not what the contract says.
    #[error("it is not signed as it must be: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// The key signed something else.
    #[error("the signature is not one of this message")]
    BadSignature,
    /// No peer has this key.
    #[error(
        "no standby remote has the key {fingerprint}; if that is a node of this cluster, name it here among the standby remotes, with this \
         `fingerprint` or the URL where it publishes its keys"
    )]
    UnknownKey {
        /// Whose.
        fingerprint: Fingerprint,
    },
    /// It was signed for another node.
    #[error(
        "it is for the node with the key {meant}, and this node's is {mine}; correct the `fingerprint`, or the URL"
    )]
    OtherAudience {
        /// For whom.
        meant: Fingerprint,
        /// Whom it reached.
        mine: Fingerprint,
    },
    /// Another node answered than was asked.
    #[error(
        "the node there has the key {found}, not {expected}; if it was given a new key, correct its `fingerprint` here"
    )]
    OtherKey {
        /// Whose answer was expected.
        expected: Fingerprint,
        /// Whose it is.
        found: Fingerprint,
    },
    /// It holds no longer, or not yet.
    #[error("it was signed {seconds} s {}, and holds for {} s; set the clocks of both nodes right", if *ahead { "ahead of the time here" } else { "ago" }, GREETING_HOLDS.as_secs())]
    Expired {
        /// How long ago, or ahead.
        seconds: u64,
        /// By the clock here, it is of the future.
        ahead: bool,
    },
    /// Whether it was heard already cannot be known.
    #[error(
        "it was signed before this node started, by the clock there; say it anew, and set the clocks of both nodes right"
    )]
    BeforeStart,
    /// It was heard already.
    #[error("it was heard before: somebody repeats what another said")]
    Replayed,
    /// More greetings are remembered than is healthy.
    #[error("too many greetings at a time; try again")]
    TooMany,
    /// It was signed for another connection.
    #[error(
        "it was signed for another TLS connection: something between the nodes ends TLS; connect them directly"
    )]
    OtherConnection,
    /// The answer is one to another greeting.
    #[error("the answer is not one to this greeting")]
    OtherAnswer,
}

/// The keys of a peer.
pub(crate) struct PeerKeys {
    pinned: Option<Fingerprint>,
    published: Mutex<Vec<Fingerprint>>,
    /// Somebody called with a key that nobody here knows.
    wanted: Notify,
    /// Counts what was fetched, from any peer.
    news: watch::Sender<u64>,
}

impl PeerKeys {
    /// Of a peer whose key is `pinned`; of one that is trusted by what it publishes. `news` counts what was fetched, from any peer.
    pub(crate) fn new(pinned: Option<Fingerprint>, news: watch::Sender<u64>) -> PeerKeys {
        PeerKeys { pinned, published: Mutex::default(), wanted: Notify::new(), news }
    }

    /// Whether the configuration says whose key it is.
    pub(crate) fn is_pinned(&self) -> bool {
        self.pinned.is_some()
    }

    fn trusts(&self, key: &Fingerprint) -> bool {
        match &self.pinned {
            Some(pinned) => pinned == key,
            None => self.published.lock().contains(key),
        }
    }

    /// The key that the server behind `channel` must prove to have.
    pub(crate) async fn of_server(&self, channel: &Channel) -> Result<Fingerprint, String> {
        if let Some(pinned) = self.pinned {
            return Ok(pinned);
        }
        let keys = self.fetch(channel.clone()).await?;
        keys.first().copied().ok_or_else(|| "it publishes no key".to_owned())
    }

    async fn fetch(&self, channel: Channel) -> Result<Vec<Fingerprint>, String> {
        let keys = jwks::fetch(channel).await.map_err(|what| format!("{JWKS_PATH}: {what}"))?;
        let keys: Vec<Fingerprint> = keys.iter().map(PublicKey::fingerprint).collect();
        self.publishes(&keys);
        Ok(keys)
    }

    fn publishes(&self, keys: &[Fingerprint]) {
        *self.published.lock() = keys.to_vec();
        self.news.send_modify(|fetched| *fetched += 1);
    }

    /// Keeps what the peer publishes, for its calls: at first, whenever somebody calls with a key that nobody here knows, and now and
    /// then, so that a key that is published no more is trusted no more. Fetches at most every [`JWKS_FETCHED_AT_MOST`], one at a time.
    pub(crate) async fn keep<F>(self: Arc<PeerKeys>, name: &str, connect: impl Fn() -> F)
    where
        F: Future<Output = Result<Channel, String>>,
    {
        if self.is_pinned() {
            return;
        }
        let mut said = None;
        loop {
            let begun = Instant::now();
            let failed = async { self.fetch(connect().await?).await }.await.err();
            if let Some(what) = failed.as_ref().filter(|what| said.as_ref() != Some(*what)) {
                tracing::warn!("the keys of standby remote `{name}` could not be fetched: {what}");
            }
            said = failed;
            let _ = tokio::time::timeout(JWKS_REFRESH, self.wanted.notified()).await;
            tokio::time::sleep(JWKS_FETCHED_AT_MOST.saturating_sub(begun.elapsed())).await;
        }
    }
}

/// Somebody who greeted this node and is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    key: Fingerprint,
    nonce: Nonce,
}

/// The key of this node, and those that it trusts.
pub(crate) struct Auth {
    key: NodeKey,
    peers: Vec<Arc<PeerKeys>>,
    replays: Mutex<Replays>,
    /// Counts what was fetched, from any peer.
    news: watch::Sender<u64>,
    /// What was signed before may have been heard by the process before this one. Not as the clock said then: that may have been set since.
    started: Instant,
}

impl Auth {
    pub(crate) fn new(key: NodeKey, peers: Vec<Arc<PeerKeys>>, news: watch::Sender<u64>) -> Auth {
        Auth { key, peers, replays: Mutex::default(), news, started: Instant::now() }
    }

    /// What other nodes know this one by.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.key.fingerprint()
    }

    /// The key set that this node publishes.
    pub(crate) fn jwks(&self) -> String {
        jwks::document(&self.key.public())
    }

    /// Signs a greeting for the node with the key `to`, for now, and for the connection `channel`.
    pub(crate) fn greet(
        &self,
        to: Fingerprint,
        hello: proto::Hello,
        channel: Option<ChannelBinding>,
    ) -> Result<(proto::Signed, Nonce), Refused> {
        self.greet_at(now(), to, hello, channel)
    }

    fn greet_at(
        &self,
        now: u64,
        to: Fingerprint,
        hello: proto::Hello,
        channel: Option<ChannelBinding>,
    ) -> Result<(proto::Signed, Nonce), Refused> {
        let mut nonce = [0; 16];
        rand::fill(&mut nonce).map_err(|_| Refused::Malformed { what: "there are no random bytes" })?;
        let greeting = proto::Greeting {
            audience: to.as_bytes().to_vec().into(),
            issued_at_millis: now,
            expires_at_millis: now + millis(GREETING_HOLDS),
            nonce: nonce.to_vec().into(),
            channel: bytes_of(channel),
            hello: Some(hello),
        };
        Ok((self.sign(GREETING, &greeting), nonce))
    }

    /// [`Auth::check`], for somebody who may have a new key: where peers are trusted by what they publish, it waits a moment for that.
    pub(crate) async fn hear(
        &self,
        signed: &proto::Signed,
        channel: Option<ChannelBinding>,
    ) -> Result<(proto::Hello, Caller), Refused> {
        let mut news = self.news.subscribe();
        let deadline = tokio::time::Instant::now() + JWKS_WAIT;
        loop {
            match self.check(signed, channel) {
                Err(Refused::UnknownKey { .. }) if !self.peers.iter().all(|peer| peer.is_pinned()) => {}
                checked => return checked,
            }
            if tokio::time::timeout_at(deadline, news.changed()).await.is_err() {
                return self.check(signed, channel);
            }
        }
    }

    /// Checks a greeting that came on the connection `channel`, and gives what it says.
    fn check(
        &self,
        signed: &proto::Signed,
        channel: Option<ChannelBinding>,
    ) -> Result<(proto::Hello, Caller), Refused> {
        self.check_at(now(), signed, channel)
    }

    fn check_at(
        &self,
        now: u64,
        signed: &proto::Signed,
        channel: Option<ChannelBinding>,
    ) -> Result<(proto::Hello, Caller), Refused> {
        let key = signer(GREETING, signed)?;
        if !self.peers.iter().any(|peer| peer.trusts(&key)) {
            self.peers.iter().for_each(|peer| peer.wanted.notify_one());
            return Err(Refused::UnknownKey { fingerprint: key });
        }
        let malformed = |what| Refused::Malformed { what };
        let greeting = proto::Greeting::decode(signed.statement.clone());
        let greeting = greeting.map_err(|_| malformed("what was signed is no greeting"))?;
        let (meant, mine) = (Fingerprint::from_bytes(&greeting.audience), self.fingerprint());
        let meant = meant.ok_or(malformed("an audience has 32 bytes"))?;
        if meant != mine {
            return Err(Refused::OtherAudience { meant, mine });
        }
        if greeting.channel != bytes_of(channel) {
            return Err(Refused::OtherConnection);
        }
        let (issued, expires) = (greeting.issued_at_millis, greeting.expires_at_millis);
        let expired = |ahead| Refused::Expired { seconds: now.abs_diff(issued) / 1000, ahead };
        if issued > now + millis(CLOCKS_APART) {
            return Err(expired(true));
        }
        if expires < now || expires > issued.saturating_add(millis(GREETING_HOLDS)) {
            return Err(expired(false));
        }
        // On a TLS connection the channel says that it is not from before. Both times were cut to whole milliseconds: what was signed in
        // the millisecond of the start is taken for later.
        if channel.is_none() && issued < now.saturating_sub(millis(self.started.elapsed()) + 1) {
            return Err(Refused::BeforeStart);
        }
        let nonce: Nonce = (&*greeting.nonce).try_into().map_err(|_| malformed("a nonce has 16 bytes"))?;
        let hello = greeting.hello.ok_or(malformed("a greeting has a Hello"))?;
        self.replays.lock().note(nonce, Instant::now())?;
        Ok((hello, Caller { key, nonce }))
    }

    /// Signs the answer to what `caller` said.
    pub(crate) fn answer(
        &self,
        caller: &Caller,
        ack: proto::HelloAck,
        channel: Option<ChannelBinding>,
    ) -> proto::Signed {
        let answer = proto::GreetingAnswer {
            audience: caller.key.as_bytes().to_vec().into(),
            nonce: caller.nonce.to_vec().into(),
            channel: bytes_of(channel),
            ack: Some(ack),
        };
        self.sign(ANSWER, &answer)
    }

    /// Checks that the node with the key `of` gave this answer, to the greeting of this node with `nonce`, on the connection `channel`.
    pub(crate) fn check_answer(
        &self,
        of: Fingerprint,
        nonce: &Nonce,
        signed: &proto::Signed,
        channel: Option<ChannelBinding>,
    ) -> Result<proto::HelloAck, Refused> {
        let key = signer(ANSWER, signed)?;
        if key != of {
            return Err(Refused::OtherKey { expected: of, found: key });
        }
        let malformed = |what| Refused::Malformed { what };
        let answer = proto::GreetingAnswer::decode(signed.statement.clone());
        let answer = answer.map_err(|_| malformed("what was signed is no answer"))?;
        if answer.audience != self.fingerprint().as_bytes()[..] || answer.nonce != nonce[..] {
            return Err(Refused::OtherAnswer);
        }
        if answer.channel != bytes_of(channel) {
            return Err(Refused::OtherConnection);
        }
        answer.ack.ok_or(malformed("an answer has a HelloAck"))
    }

    fn sign(&self, domain: &[u8], statement: &impl Message) -> proto::Signed {
        let statement = statement.encode_to_vec();
        let signature = self.key.sign(&[domain, &statement].concat());
        proto::Signed {
            public_key: self.key.public().as_bytes().to_vec().into(),
            statement: statement.into(),
            signature: signature.into(),
        }
    }
}

/// Whose signature it is; whether that key is trusted is another question.
fn signer(domain: &[u8], signed: &proto::Signed) -> Result<Fingerprint, Refused> {
    let key = PublicKey::from_bytes(&signed.public_key);
    let key = key.ok_or(Refused::Malformed { what: "a public key has 32 bytes" })?;
    match key.has_signed(&[domain, &signed.statement].concat(), &signed.signature) {
        true => Ok(key.fingerprint()),
        false => Err(Refused::BadSignature),
    }
}

fn bytes_of(channel: Option<ChannelBinding>) -> bytes::Bytes {
    channel.map_or(bytes::Bytes::new(), |channel| channel.0.to_vec().into())
}

/// Milliseconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const HERE: Option<ChannelBinding> = Some(ChannelBinding([7; 32]));

    fn key() -> NodeKey {
        NodeKey::open(&tempfile::tempdir().unwrap().path().join("node.pem")).unwrap()
    }

    fn peer_keys(pinned: Option<Fingerprint>) -> PeerKeys {
        PeerKeys::new(pinned, watch::Sender::new(0))
    }

    fn auth(key: NodeKey, peers: Vec<Arc<PeerKeys>>) -> Auth {
        Auth::new(key, peers, watch::Sender::new(0))
    }

    /// Two nodes, each of which pins the other's key.
    fn pair() -> (Auth, Auth) {
        let keys = (key(), key());
        let pin = |key: &NodeKey| vec![Arc::new(peer_keys(Some(key.fingerprint())))];
        let peers = (pin(&keys.1), pin(&keys.0));
        (auth(keys.0, peers.0), auth(keys.1, peers.1))
    }

    fn hello() -> proto::Hello {
        proto::Hello { listener_url: "http://there".into(), ..proto::Hello::default() }
    }

    fn greeting(from: &Auth, to: &Auth, channel: Option<ChannelBinding>) -> (proto::Signed, Nonce) {
        from.greet(to.fingerprint(), hello(), channel).unwrap()
    }

    #[test]
    fn what_a_trusted_key_signed_for_this_node_is_heard_once() {
        let (one, two) = pair();
        for channel in [None, HERE] {
            let (signed, nonce) = greeting(&one, &two, channel);
            let (said, caller) = two.check(&signed, channel).unwrap();
            assert_eq!((said, caller), (hello(), Caller { key: one.fingerprint(), nonce }));
            assert_eq!(two.check(&signed, channel), Err(Refused::Replayed));
        }
    }

    #[test]
    fn a_key_that_no_peer_has_is_refused() {
        let (one, two) = pair();
        let stranger = auth(key(), Vec::new());
        let fingerprint = stranger.fingerprint();
        let (signed, _) = greeting(&stranger, &two, None);
        assert_eq!(two.check(&signed, None), Err(Refused::UnknownKey { fingerprint }));
        // Nor does it help to show the key of somebody else.
        let signed = proto::Signed { public_key: one.key.public().as_bytes().to_vec().into(), ..signed };
        assert_eq!(two.check(&signed, None), Err(Refused::BadSignature));
    }

    #[test]
    fn what_was_changed_or_signed_for_something_else_is_refused() {
        let (one, two) = pair();
        let (signed, _) = greeting(&one, &two, None);
        for at in 0..signed.statement.len() {
            let mut statement = signed.statement.to_vec();
            statement[at] ^= 1;
            let changed = proto::Signed { statement: statement.into(), ..signed.clone() };
            assert_eq!(two.check(&changed, None), Err(Refused::BadSignature));
        }
        let nothing = proto::Signed::default();
        assert!(matches!(two.check(&nothing, None), Err(Refused::Malformed { .. })));
        let unsigned = proto::Signed { signature: Default::default(), ..signed.clone() };
        assert_eq!(two.check(&unsigned, None), Err(Refused::BadSignature));
        // An answer is no greeting.
        let caller = Caller { key: two.fingerprint(), nonce: [0; 16] };
        let answer = one.answer(&caller, proto::HelloAck::default(), None);
        assert_eq!(two.check(&answer, None), Err(Refused::BadSignature));
        assert!(two.check(&signed, None).is_ok(), "nothing of it was heard so far");
    }

    #[test]
    fn what_is_for_another_node_is_refused() {
        let (one, two) = pair();
        let other = key().fingerprint();
        let (signed, _) = one.greet(other, hello(), None).unwrap();
        let mine = two.fingerprint();
        assert_eq!(two.check(&signed, None), Err(Refused::OtherAudience { meant: other, mine }));
    }

    #[test]
    fn what_is_for_another_connection_is_refused() {
        let (one, two) = pair();
        for (signed_for, came_on) in [(HERE, None), (None, HERE), (HERE, Some(ChannelBinding([8; 32])))] {
            let (signed, _) = greeting(&one, &two, signed_for);
            assert_eq!(two.check(&signed, came_on), Err(Refused::OtherConnection));
        }
    }

    #[test]
    fn what_was_signed_too_long_ago_or_ahead_or_for_too_long_is_refused() {
        let (one, two) = pair();
        let at = now() + 1_000_000;
        let signed = |time: u64| one.greet_at(time, two.fingerprint(), hello(), HERE).unwrap().0;
        let (holds, apart) = (millis(GREETING_HOLDS), millis(CLOCKS_APART));
        assert!(two.check_at(at, &signed(at - holds), HERE).is_ok());
        assert!(two.check_at(at, &signed(at + apart), HERE).is_ok());
        let refused = |time| two.check_at(at, &signed(time), HERE).unwrap_err();
        assert!(matches!(refused(at - holds - 1), Refused::Expired { ahead: false, .. }));
        assert!(matches!(refused(at + apart + 1), Refused::Expired { ahead: true, .. }));
        let greeting = proto::Greeting {
            audience: two.fingerprint().as_bytes().to_vec().into(),
            issued_at_millis: at,
            expires_at_millis: at + holds + 1,
            nonce: vec![0; 16].into(),
            hello: Some(hello()),
            ..proto::Greeting::default()
        };
        let signed = one.sign(GREETING, &greeting);
        assert!(matches!(two.check_at(at, &signed, None), Err(Refused::Expired { .. })));
    }

    #[test]
    fn what_the_process_before_this_one_may_have_heard_is_refused_in_the_clear() {
        let (one, two) = pair();
        let before = now() - millis(two.started.elapsed()) - 10;
        let signed = |channel| one.greet_at(before, two.fingerprint(), hello(), channel).unwrap().0;
        assert_eq!(two.check(&signed(None), None), Err(Refused::BeforeStart));
        assert!(two.check(&signed(HERE), HERE).is_ok());
    }

    #[test]
    fn a_clock_that_is_set_right_after_the_start_leaves_nobody_out() {
        let (one, two) = pair();
        // The clock here was an hour ahead, or behind, when this node started, or is now.
        for now in [now() - 3_600_000, now(), now() + 3_600_000] {
            let signed = one.greet_at(now, two.fingerprint(), hello(), None).unwrap().0;
            assert!(
                two.check_at(now + 1, &signed, None).is_ok(),
                "the millisecond of the start may have gone by"
            );
        }
    }

    #[test]
    fn only_who_was_meant_can_answer_and_only_to_what_was_asked() {
        let (one, two) = pair();
        let (signed, nonce) = greeting(&one, &two, HERE);
        let (_, caller) = two.check(&signed, HERE).unwrap();
        let ack = proto::HelloAck { features: 5, ..proto::HelloAck::default() };
        let answer = two.answer(&caller, ack.clone(), HERE);
        let check =
            |of, nonce: &Nonce, answer: &proto::Signed, channel| one.check_answer(of, nonce, answer, channel);
        assert_eq!(check(two.fingerprint(), &nonce, &answer, HERE), Ok(ack.clone()));
        assert_eq!(check(two.fingerprint(), &[0; 16], &answer, HERE), Err(Refused::OtherAnswer));
        assert_eq!(check(two.fingerprint(), &nonce, &answer, None), Err(Refused::OtherConnection));
        let stranger = auth(key(), Vec::new());
        let forged = stranger.answer(&caller, ack.clone(), HERE);
        assert!(matches!(check(two.fingerprint(), &nonce, &forged, HERE), Err(Refused::OtherKey { .. })));
        let forged = proto::Signed { public_key: answer.public_key.clone(), ..forged };
        assert_eq!(check(two.fingerprint(), &nonce, &forged, HERE), Err(Refused::BadSignature));
        let to_another = two.answer(&Caller { key: stranger.fingerprint(), ..caller }, ack, HERE);
        assert_eq!(check(two.fingerprint(), &nonce, &to_another, HERE), Err(Refused::OtherAnswer));
    }

    #[test]
    fn a_peer_without_a_pin_is_trusted_by_what_it_publishes_now() {
        let published = Arc::new(peer_keys(None));
        let two = auth(key(), vec![published.clone()]);
        let (old, new) = (auth(key(), Vec::new()), auth(key(), Vec::new()));
        let hears = |from: &Auth| two.check(&greeting(from, &two, None).0, None).is_ok();
        assert!(!hears(&old));
        published.publishes(&[old.fingerprint()]);
        assert!(hears(&old) && !hears(&new));
        published.publishes(&[new.fingerprint()]);
        assert!(!hears(&old) && hears(&new));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_a_new_key_is_heard_once_it_is_published() {
        let news = watch::Sender::new(0);
        let published = Arc::new(PeerKeys::new(None, news.clone()));
        let two = Auth::new(key(), vec![published.clone()], news);
        let one = auth(key(), Vec::new());
        let (signed, _) = greeting(&one, &two, None);
        assert!(matches!(two.hear(&signed, None).await, Err(Refused::UnknownKey { .. })), "it never comes");
        let publish = async {
            tokio::time::sleep(JWKS_WAIT / 2).await;
            published.publishes(&[one.fingerprint()]);
        };
        let (heard, ()) = tokio::join!(two.hear(&signed, None), publish);
        assert!(heard.is_ok());
    }

    #[test]
    fn a_pinned_peer_is_trusted_by_its_pin_alone() {
        let (pinned, other) = (key(), auth(key(), Vec::new()));
        let keys = Arc::new(peer_keys(Some(pinned.fingerprint())));
        keys.publishes(&[other.fingerprint()]);
        let two = auth(key(), vec![keys]);
        assert!(two.check(&greeting(&other, &two, None).0, None).is_err());
    }
}
