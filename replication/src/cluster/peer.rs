//! A standby as its primary sees it: where it is, and how far each database has come there. Called by `session`, which moves it on, by
//! the watch of each database, and by `cluster` for the status.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use pleach_engine::Hash;
use pleach_protocol::{Bound, ClientTls, TlsError, endpoint, root_cause};
use tokio::sync::{Notify, watch};
use tonic::transport::Channel;

use crate::cluster::StandbyRemote;
use crate::cluster::applied::Position;
use crate::cluster::auth::PeerKeys;
use crate::error::{Behind, Error, Result};
use crate::limits::MEASURE_SHARE;
use crate::shared_refs::{KeptMoves, KeptRefs};

/// The part of a URL template that stands for the database.
const DATABASE: &str = "{database}";

/// A standby remote.
pub(crate) struct Peer {
    name: String,
    /// `http://HOST:PORT` or `https://HOST:PORT`.
    server: String,
    keys: Arc<PeerKeys>,
    tls: ClientTls,
    state: Mutex<State>,
    /// A database changed here.
    changed: Notify,
    /// Connect now, whatever the back-off.
    kick: Notify,
    /// Counts what arrived or became durable there.
    progress: watch::Sender<u64>,
    /// The same, of all standbys together.
    acks: watch::Sender<u64>,
    /// Whether rows that changed, which it gave back, came to the tables that it has, whenever it gave such.
    alike: AtomicBool,
}

#[derive(Default)]
struct State {
    links: BTreeMap<String, Link>,
    error: Option<String>,
    /// Why it needs nothing from this node.
    note: Option<String>,
    /// Of which databases it has more than this node, and how far they have come there.
    ahead: Vec<(String, Position)>,
    /// Streams that ended, or did not come about.
    retries: u64,
}

/// How far a database has come on the standby.
#[derive(Default)]
struct Link {
    /// The sequence that is durable there; `None` until it is known.
    acked: Option<u64>,
    /// The last sequence that was sent by this stream.
    sent_to: Option<u64>,
    /// The highest sequence that has arrived there, durable or not.
    received: u64,
    /// When the first change came that is not durable there.
    behind_since: Option<Instant>,
    last_update: Option<SystemTime>,
    /// Keeps here what the standby last said that it has: what it lacks is computed, and sent, as a difference to that.
    held: KeptRefs,
    /// Keeps here what is on its way there, in order: it may have any of that without having said so.
    sent: VecDeque<KeptMoves>,
    /// The above are all of that, and not only what moved since it was let go.
    is_whole: bool,
    /// What that costs, and what the standby lacks, when it was last behind for so long that it was measured.
    measured: Option<(Measured, Instant)>,
    /// More was kept than may be.
    is_let_go: bool,
}

impl Link {
    /// Keeps nothing.
    fn let_go(&mut self) {
        (self.held, self.sent, self.is_whole) = Default::default();
    }
}

/// What a standby that is behind costs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    /// The last change here then.
    pub(crate) sequence: u64,
    /// Bytes, as stored, that are kept for it and nothing else needs.
    pub(crate) kept: u64,
    /// Bytes that it lacks, as messages.
    pub(crate) lacks: u64,
    /// How long it took to find out.
    pub(crate) took: Duration,
}

/// What the status shows of a database on a standby.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct LinkStatus {
    pub(crate) lag_millis: Option<u64>,
    pub(crate) sent: Option<u64>,
    pub(crate) received: Option<u64>,
    pub(crate) durable: Option<u64>,
    pub(crate) backlog_bytes: Option<u64>,
    pub(crate) retries: u64,
    pub(crate) last_update: Option<SystemTime>,
    pub(crate) error: Option<String>,
    pub(crate) note: Option<String>,
    pub(crate) pinned_bytes: u64,
    /// What the standby had is not kept.
    pub(crate) is_let_go: bool,
}

impl Peer {
    /// The standby `remote`, to which `tls` is shown. `acks` counts what arrived or became durable at any standby, `news` what keys were
    /// fetched.
    pub(crate) fn new(
        remote: &StandbyRemote,
        tls: ClientTls,
        acks: watch::Sender<u64>,
        news: watch::Sender<u64>,
    ) -> Result<Peer> {
        let StandbyRemote { name, url_template: template, fingerprint } = remote;
        let bad = |what: String| Error::BadConfig { what: format!("standby remote `{name}`: {what}") };
        if name.is_empty() {
            return Err(Error::BadConfig {
                what: "expected a name for each standby remote, found an empty one".into(),
            });
        }
        if !template.contains(DATABASE) {
            return Err(bad(format!("expected a URL template that contains {DATABASE}, found `{template}`")));
        }
        let server = template.strip_suffix(&format!("/{DATABASE}"));
        let server = server.filter(|server| {
            let host = server.strip_prefix("http://").or_else(|| server.strip_prefix("https://"));
            host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '@', '{']))
        });
        let server = server.ok_or_else(|| {
            bad(format!(
                "expected http://HOST:PORT/{DATABASE} or https://HOST:PORT/{DATABASE}, found `{template}`"
            ))
        })?;
        Ok(Peer {
            name: name.to_owned(),
            server: server.to_owned(),
            keys: Arc::new(PeerKeys::new(*fingerprint, news)),
            tls,
            state: Mutex::default(),
            changed: Notify::new(),
            kick: Notify::new(),
            progress: watch::Sender::new(0),
            acks,
            alike: AtomicBool::new(true),
        })
    }

    /// Whether it may give back rows that changed.
    pub(crate) fn may_take_edits(&self) -> bool {
        self.alike.load(Ordering::Relaxed)
    }

    /// Rows that it gave back did not come to the tables that it has: whole chunks do.
    pub(crate) fn takes_no_edits(&self) {
        self.alike.store(false, Ordering::Relaxed);
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// What its key must be.
    pub(crate) fn keys(&self) -> &Arc<PeerKeys> {
        &self.keys
    }

    /// Connects to it.
    pub(crate) async fn connect(&self) -> Result<(Channel, Bound)> {
        let endpoint = endpoint(&self.server).map_err(|error| self.unreachable(&error))?;
        let connected = self.tls.connect_bound(&endpoint.keep_alive_while_idle(true)).await;
        connected.map_err(|error| self.unreachable(&error))
    }

    /// That the transport failed of this.
    pub(crate) fn unreachable(&self, cause: &(dyn std::error::Error + 'static)) -> Error {
        let what = TlsError::behind(cause).map_or_else(|| root_cause(cause), |error| error.to_string());
        Error::Unreachable { url: self.server.clone(), what }
    }

    // What happens here.

    /// `database` changed. Never blocks for long.
    pub(crate) fn note_change(&self, database: &str) {
        let mut state = self.state.lock();
        match state.links.get_mut(database) {
            Some(link) => drop(link.behind_since.get_or_insert_with(Instant::now)),
            None => {
                let link = Link { behind_since: Some(Instant::now()), ..Link::default() };
                state.links.insert(database.to_owned(), link);
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// `database` is gone here.
    pub(crate) fn forget(&self, database: &str) {
        self.state.lock().links.remove(database);
    }

    /// Nothing is known of the standby: this node has just become its primary.
    pub(crate) fn reset(&self) {
        *self.state.lock() = State::default();
    }

    /// This node leads no longer, or closes: nothing is kept for the standby.
    pub(crate) fn let_go(&self) {
        self.state.lock().links.values_mut().for_each(Link::let_go);
    }

    /// Returns when a database has changed since the last call.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Ends the back-off.
    pub(crate) fn kick(&self) {
        self.kick.notify_one();
    }

    /// Returns when the back-off is to end.
    pub(crate) async fn kicked(&self) {
        self.kick.notified().await;
    }

    // What happens there.

    /// The stream to the standby stands; what is durable there is still to be said by it.
    pub(crate) fn connected(&self) {
        let mut state = self.state.lock();
        (state.error, state.note) = (None, None);
        drop(state);
        self.doubt();
    }

    /// It told what it has: more than this node of these databases.
    pub(crate) fn is_ahead(&self, of: &[(String, Position)]) {
        self.state.lock().ahead = of.to_vec();
    }

    /// What keeps it from agreeing with this node as its primary, in words, if that is known.
    pub(crate) fn why_not_granted(&self) -> Option<String> {
        let state = self.state.lock();
        if let Some(error) = &state.error {
            return Some(format!("`{}` does not answer as it should ({error})", self.name));
        }
        let of = |(database, position): &(String, Position)| {
            format!("`{database}` (up to change {} of epoch {})", position.sequence, position.epoch)
        };
        let of: Vec<String> = state.ahead.iter().map(of).collect();
        (!of.is_empty()).then(|| {
            format!(
                "`{}` has more of {}: it agrees once that is here; if it does not come, assume the role of primary there at a higher epoch",
                self.name,
                of.join(", ")
            )
        })
    }

    /// It needs nothing from this node. Gives whether that is news.
    pub(crate) fn needs_nothing(&self, why: &Error) -> bool {
        let (mut state, why) = (self.state.lock(), Some(why.to_string()));
        state.error = None;
        std::mem::replace(&mut state.note, why.clone()) != why
    }

    /// Takes nothing for granted that the standby said before: each database counts as behind until it is acknowledged anew.
    pub(crate) fn doubt(&self) {
        let mut state = self.state.lock();
        state.links.values_mut().for_each(|link| (link.acked, link.sent_to, link.received) = (None, None, 0));
        drop(state);
        self.changed.notify_one();
    }

    /// The stream to the standby ended.
    pub(crate) fn failed(&self, error: &Error) {
        let mut state = self.state.lock();
        (state.error, state.note) = (Some(error.to_string()), None);
        state.retries += 1;
    }

    /// `database` is durable there up to `sequence`, which was read at `read_at`; here it is at `now`.
    pub(crate) fn acked(&self, database: &str, sequence: u64, read_at: Instant, now: u64) {
        let mut state = self.state.lock();
        if sequence > now {
            // The database was dropped meanwhile, and one made anew under its name is not what was acknowledged.
            return;
        }
        let link = state.links.entry(database.to_owned()).or_default();
        link.acked = Some(sequence);
        link.behind_since = (now > sequence).then_some(read_at);
        link.last_update = Some(SystemTime::now());
        drop(state);
        self.came_on();
    }

    /// A change of `database` has arrived there, and is not durable yet.
    pub(crate) fn received(&self, database: &str, sequence: u64) {
        let mut state = self.state.lock();
        let link = state.links.entry(database.to_owned()).or_default();
        link.received = link.received.max(sequence);
        drop(state);
        self.came_on();
    }

    fn came_on(&self) {
        self.progress.send_modify(|count| *count += 1);
        self.acks.send_modify(|count| *count += 1);
    }

    /// What `kept` moves to, up to `sequence`, is on its way, after what was before. Gives whether everything that the standby may have is
    /// kept: if not, all of what is sent next is to be.
    pub(crate) fn sent(&self, name: &str, sequence: u64, kept: KeptMoves) -> bool {
        let mut state = self.state.lock();
        let link = state.links.entry(name.to_owned()).or_default();
        link.is_whole |= kept.are_all();
        link.sent.push_back(kept);
        link.sent_to = Some(sequence);
        link.is_whole
    }

    /// The standby has the first of what is on its way: that stays here until it has something else.
    pub(crate) fn has(&self, name: &str) {
        let mut state = self.state.lock();
        let link = state.links.entry(name.to_owned()).or_default();
        if let Some(moves) = link.sent.pop_front() {
            link.held.go_on(moves);
        }
        (link.measured, link.is_let_go) = (None, false);
    }

    /// The standby has what `kept` moves to, all refs, and nothing is on its way.
    pub(crate) fn holds(&self, name: &str, kept: KeptMoves) {
        let mut state = self.state.lock();
        let link = state.links.entry(name.to_owned()).or_default();
        link.let_go();
        link.is_whole = kept.are_all();
        link.held.go_on(kept);
        (link.measured, link.is_let_go) = (None, false);
    }

    /// The roots that are kept of `database`, which is at `sequence`, if it is time to see what that costs: the standby is behind, and there
    /// were changes since.
    pub(crate) fn to_measure(&self, database: &str, sequence: u64) -> Option<Vec<Hash>> {
        let state = self.state.lock();
        let link = state.links.get(database).filter(|link| link.acked < Some(sequence))?;
        let is_due = link.measured.is_none_or(|(last, at)| {
            last.sequence != sequence && at.elapsed() >= last.took.saturating_mul(MEASURE_SHARE)
        });
        if !is_due {
            return None;
        }
        let sent = link.sent.iter().flat_map(KeptMoves::roots);
        let roots: BTreeSet<Hash> = link.held.roots().chain(sent).collect();
        (!roots.is_empty()).then(|| roots.into_iter().collect())
    }

    /// What was measured of `database`. More than `max` is not kept; gives whether that is so.
    pub(crate) fn measured(&self, database: &str, mut measured: Measured, max: u64) -> bool {
        let mut state = self.state.lock();
        // It may have come back while this was measured.
        let link = state.links.get_mut(database).filter(|link| link.acked < Some(measured.sequence));
        let Some(link) = link else { return false };
        link.is_let_go = measured.kept > max;
        if link.is_let_go {
            link.let_go();
            measured.kept = 0;
        }
        link.measured = Some((measured, Instant::now()));
        link.is_let_go
    }

    /// Whether the change of `database` with `sequence` has arrived there; `durable`: and is durable.
    pub(crate) fn reached(&self, database: &str, sequence: u64, durable: bool) -> bool {
        let state = self.state.lock();
        let Some(link) = state.links.get(database) else { return false };
        link.acked >= Some(sequence) || !durable && link.received >= sequence
    }

    /// Tells each progress of the standby.
    pub(crate) fn progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    /// Whether the standby lacks something of `database`, which is at `sequence` here.
    pub(crate) fn behind(&self, database: &str, sequence: u64) -> Option<Behind> {
        let state = self.state.lock();
        let acked = state.links.get(database).and_then(|link| link.acked);
        (acked < Some(sequence)).then(|| Behind {
            database: database.to_owned(),
            standby: self.name.clone(),
            error: state.error.clone(),
        })
    }

    /// What the status shows of `database`, which is at `sequence` here.
    pub(crate) fn status(&self, database: &str, sequence: u64) -> LinkStatus {
        let state = self.state.lock();
        let status = LinkStatus {
            error: state.error.clone(),
            note: state.note.clone(),
            retries: state.retries,
            ..LinkStatus::default()
        };
        let Some(link) = state.links.get(database) else { return status };
        let lag = || link.behind_since.map_or(0, |since| since.elapsed().as_millis().max(1) as u64);
        let measured = link.measured.map(|(measured, _)| measured);
        LinkStatus {
            lag_millis: link.acked.map(|_| lag()),
            sent: link.sent_to,
            received: link.acked.max((link.received > 0).then_some(link.received)),
            durable: link.acked,
            backlog_bytes: match link.acked {
                Some(acked) if acked >= sequence => Some(0),
                _ => measured.map(|measured| measured.lacks),
            },
            last_update: link.last_update,
            pinned_bytes: measured.map_or(0, |measured| measured.kept),
            is_let_go: link.is_let_go,
            ..status
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use pleach_engine::Database;

    use super::*;

    fn new(name: &str, template: &str) -> Result<Peer> {
        let remote = StandbyRemote::new(name, template);
        Peer::new(&remote, ClientTls::default(), watch::Sender::new(0), watch::Sender::new(0))
    }

    fn peer() -> Peer {
        new("standby", "http://127.0.0.1:50051/{database}").unwrap()
    }

    #[test]
    fn the_template_says_where_the_standby_is() {
        assert_eq!(peer().server(), "http://127.0.0.1:50051");
        assert_eq!(new("s", "https://h:5/{database}").unwrap().server(), "https://h:5");
        assert_eq!(new("s", "http://[::1]:5/{database}").unwrap().server(), "http://[::1]:5");
        for template in
            ["http://h:1", "http://h:1/x", "https:///{database}", "ftp://h/{database}", "h/{database}"]
        {
            assert!(new("standby", template).is_err(), "{template}");
        }
        assert!(new("", "http://h:1/{database}").is_err());
    }

    #[test]
    fn lag_is_unknown_then_zero_then_grows() {
        let peer = peer();
        peer.note_change("shop");
        assert_eq!(peer.status("shop", 5).lag_millis, None);
        peer.acked("shop", 5, Instant::now(), 5);
        assert_eq!(peer.status("shop", 5).lag_millis, Some(0));
        peer.note_change("shop");
        assert!(peer.status("shop", 6).lag_millis.unwrap() >= 1);
        peer.acked("shop", 6, Instant::now(), 6);
        assert_eq!(peer.status("shop", 6).lag_millis, Some(0));
    }

    #[test]
    fn the_status_says_how_far_a_standby_is_as_far_as_it_is_known() {
        let peer = peer();
        let of = |status: LinkStatus| (status.sent, status.received, status.durable, status.backlog_bytes);
        peer.note_change("shop");
        assert_eq!(of(peer.status("shop", 7)), (None, None, None, None));
        peer.sent("shop", 7, KeptMoves::default());
        peer.received("shop", 6);
        peer.acked("shop", 5, Instant::now(), 7);
        assert_eq!(of(peer.status("shop", 7)), (Some(7), Some(6), Some(5), None), "nothing was measured");
        peer.measured("shop", Measured { sequence: 7, kept: 1, lacks: 90, took: Duration::ZERO }, 100);
        assert_eq!(of(peer.status("shop", 8)), (Some(7), Some(6), Some(5), Some(90)));
        peer.acked("shop", 7, Instant::now(), 7);
        assert_eq!(of(peer.status("shop", 7)), (Some(7), Some(7), Some(7), Some(0)));
        peer.failed(&Error::Busy);
        peer.connected();
        assert_eq!(of(peer.status("shop", 7)), (None, None, None, Some(90)), "it is to say that anew");
        assert_eq!(peer.status("shop", 7).retries, 1);
    }

    #[test]
    fn who_acked_less_than_what_is_here_is_behind_and_the_error_says_why() {
        let peer = peer();
        assert!(peer.behind("shop", 0).is_some(), "unknown is behind");
        peer.note_change("shop");
        peer.acked("shop", 5, Instant::now(), 5);
        assert_eq!(peer.behind("shop", 5), None);
        peer.failed(&Error::Busy);
        let behind = peer.behind("shop", 6).unwrap();
        assert!(behind.to_string().starts_with("`shop` on standby (a role is being assumed"), "{behind}");
    }

    #[test]
    fn what_has_arrived_is_not_durable_yet() {
        let peer = peer();
        assert!(!peer.reached("shop", 0, false), "nothing is known of it");
        peer.received("shop", 5);
        assert!(peer.reached("shop", 5, false) && !peer.reached("shop", 5, true));
        peer.acked("shop", 5, Instant::now(), 6);
        assert!(peer.reached("shop", 5, true) && !peer.reached("shop", 6, false));
        peer.doubt();
        assert!(!peer.reached("shop", 5, false), "it must say so anew");
    }

    #[test]
    fn what_the_standby_has_and_what_is_on_its_way_stays_here_until_it_has_something_else() {
        let (peer, database) = (peer(), Database::memory().unwrap());
        let empty = database.branch("main").unwrap().unwrap().work;
        let pinned = || database.store().stats().pinned_roots;
        let kept = |work: Hash, other: Hash| {
            let refs = [("heads/other".to_owned(), other), ("work/main".to_owned(), work)].into();
            KeptMoves::to_all(database.store(), &refs).unwrap()
        };
        let lacking = Hash::of(b"what this node lacks");
        peer.holds("shop", kept(empty, lacking));
        assert_eq!(pinned(), 1);
        let mut transaction = database.begin("main").unwrap();
        transaction.create_table("t", None).unwrap();
        transaction.commit().unwrap();
        let work = database.get_ref("work/main");
        let moved = KeptMoves::to(&database, &[("work/main".to_owned(), work)], false).unwrap().unwrap();
        assert!(peer.sent("shop", 4, moved), "with what it has, that is all");
        assert_eq!(pinned(), 2, "it may have either");
        peer.has("shop");
        assert_eq!(pinned(), 1);
        peer.note_change("shop");
        peer.acked("shop", 4, Instant::now(), 4);
        // It is measured once, until there is more, and let go if it is too much.
        assert_eq!(peer.to_measure("shop", 5).unwrap().len(), 1);
        let measured = |sequence, kept| Measured { sequence, kept, lacks: 1, took: Duration::ZERO };
        assert!(!peer.measured("shop", measured(5, 100), 100));
        assert_eq!((pinned(), peer.status("shop", 5).pinned_bytes), (1, 100));
        assert_eq!(peer.to_measure("shop", 5), None);
        assert!(peer.to_measure("shop", 6).is_some());
        assert!(peer.measured("shop", measured(6, 101), 100));
        assert!(pinned() == 0 && peer.status("shop", 6).is_let_go);
        assert_eq!(peer.to_measure("shop", 7), None, "there is nothing left");
        peer.has("shop");
        peer.acked("shop", 7, Instant::now(), 7);
        assert!(!peer.measured("shop", measured(7, 101), 100), "it came back meanwhile");
        assert_eq!(peer.status("shop", 7).pinned_bytes, 0);
        // What moves from what was let go is not all that there is.
        let moved = || KeptMoves::to(&database, &[("work/main".to_owned(), work)], false).unwrap().unwrap();
        assert!(!peer.sent("shop", 8, moved()));
        assert!(peer.sent("shop", 9, kept(work.unwrap(), lacking)));
        assert!(peer.sent("shop", 10, moved()));
        assert_eq!(pinned(), 1);
        peer.let_go();
        assert_eq!(pinned(), 0);
    }
}
