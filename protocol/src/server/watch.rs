//! Answers Watch: tells of refs that changed, as soon as that is durable.
//!
//! One idea: each database that is watched has one list of its refs, in which each ref has the number of its last change. What a watch was not
//! told yet is what stands there above the number up to which it was told. So a watch keeps a number and no refs; who reads slowly is told of the
//! newest state alone; and refs are compared once for all who watch, when the engine says that something became durable.
//!
//! A watch keeps no database open: the list is made anew from the one that is open, and a watch ends when that is closed or dropped.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use pleach_engine::{Database, Hash};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::status;
use crate::access::{Access, Caller, Right};
use crate::databases::Databases;
use crate::error::Error;
use crate::limits::{
    MESSAGE_BYTES, WATCH_GONE_MAX, WATCH_HEARTBEAT_MIN, WATCH_REST_MIN, WATCH_REST_TIMES, WATCHES_MAX,
};
use crate::proto::{Ref, WatchRequest, WatchResponse};
use crate::refs::{HEADS, RefPatterns, TAGS, refs_digest};

/// Answers that are made at the same time: patterns can take long.
const LOOKS_MAX: usize = 4;

/// The watches of one server.
pub(super) struct Watches {
    databases: Databases,
    lists: Mutex<HashMap<String, Listed>>,
    places: Arc<Semaphore>,
    looks: Arc<Semaphore>,
    /// Whether all are to end.
    ending: watch::Sender<bool>,
}

/// A database that is, or was, watched.
struct Listed {
    store: [u8; 16],
    /// Told by the database whenever something became durable, and closed when it is. There is one for each time that a database was opened.
    changes: watch::Receiver<()>,
    list: Weak<Followed>,
}

/// A list, and the task that keeps it in step with its database as long as anybody watches.
struct Followed {
    list: Arc<List>,
    task: JoinHandle<()>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watches {
    pub(super) fn new(databases: Databases) -> Watches {
        Watches {
            databases,
            lists: Mutex::default(),
            places: Arc::new(Semaphore::new(WATCHES_MAX)),
            looks: Arc::new(Semaphore::new(LOOKS_MAX)),
            ending: watch::Sender::new(false),
        }
    }

    /// Ends all watches, and lets no more in.
    pub(super) fn end(&self) {
        self.ending.send_replace(true);
    }

    /// A place for one more watch.
    pub(super) fn place(&self) -> Result<OwnedSemaphorePermit, Status> {
        self.places.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "this server has {WATCHES_MAX} watches; try again later, or fetch on an interval"
            ))
        })
    }

    /// The list of a database, which is opened if need be. Blocking.
    fn list(&self, name: &str) -> Result<Arc<Followed>, Error> {
        let unknown = || Error::UnknownDatabase { url: name.to_owned() };
        let database = self.databases.get(name)?.ok_or_else(unknown)?;
        let store = database.store().id();
        let mut lists = self.lists.lock();
        lists.retain(|_, listed| listed.changes.has_changed().is_ok());
        let listed = lists.get(name).filter(|listed| listed.store == store);
        if let Some(followed) = listed.and_then(|listed| listed.list.upgrade())
            && followed.list.last.borrow().is_some()
        {
            return Ok(followed);
        }
        let mut changes = match listed {
            Some(listed) => listed.changes.clone(),
            None => {
                let (changed, changes) = watch::channel(());
                database.watch(move |_| changed.send_replace(()));
                changes
            }
        };
        // What changes from now on is seen by the first look, or is told.
        changes.mark_unchanged();
        let losses = self.databases.losses();
        let list = Arc::new(List::default());
        list.look(&database);
        let following =
            follow(list.clone(), self.databases.clone(), name.to_owned(), changes.clone(), losses);
        let task = tokio::runtime::Handle::current().spawn(following);
        let followed = Arc::new(Followed { list, task });
        lists.insert(name.to_owned(), Listed { store, changes, list: Arc::downgrade(&followed) });
        Ok(followed)
    }
}

/// Keeps a list in step with the database that is open now, until that is closed or dropped.
async fn follow(
    list: Arc<List>,
    databases: Databases,
    name: String,
    mut changes: watch::Receiver<()>,
    mut losses: watch::Receiver<()>,
) {
    loop {
        list.is_settled.store(!changes.has_changed().unwrap_or(true), Ordering::SeqCst);
        let is_open = tokio::select! {
            changed = changes.changed() => changed.is_ok(),
            lost = losses.changed() => lost.is_ok(),
        };
        list.is_settled.store(false, Ordering::SeqCst);
        if !is_open {
            break;
        }
        let began = Instant::now();
        let look = {
            let (list, databases, name) = (list.clone(), databases.clone(), name.clone());
            move || databases.opened(&name).is_some_and(|database| list.look(&database))
        };
        if !tokio::task::spawn_blocking(look).await.unwrap_or(false) {
            break;
        }
        tokio::time::sleep((began.elapsed() * WATCH_REST_TIMES).max(WATCH_REST_MIN)).await;
    }
    list.last.send_replace(None);
}

/// The branches and tags of one database, and when each changed.
struct List {
    refs: RwLock<Refs>,
    /// The number of the last change; `None` when the database was closed or dropped.
    last: watch::Sender<Option<u64>>,
    /// Whether nothing has changed since the refs were compared.
    is_settled: AtomicBool,
}

impl Default for List {
    fn default() -> List {
        List {
            refs: RwLock::default(),
            last: watch::Sender::new(Some(0)),
            is_settled: AtomicBool::new(false),
        }
    }
}

impl List {
    /// Compares the refs with those of `database`; false if it is another one.
    fn look(&self, database: &Database) -> bool {
        let store = database.store().id();
        // One read, so that all are of one moment.
        let mut now = database.refs("");
        now.retain(|(name, _)| name.starts_with(HEADS) || name.starts_with(TAGS));
        let mut refs = self.refs.write();
        if *refs.store.get_or_insert(store) != store {
            return false;
        }
        let before = refs.last;
        refs.update(now);
        if refs.last > before {
            self.last.send_replace(Some(refs.last));
        }
        true
    }
}

/// When a ref changed, and its name; nothing has an empty one.
type Change = (u64, Arc<str>);

#[derive(Default)]
struct Refs {
    /// The identity of the store that they are from.
    store: Option<[u8; 16]>,
    /// The last change of each ref, and what it is since; `None` is gone.
    by_name: BTreeMap<Arc<str>, (u64, Option<Hash>)>,
    by_change: BTreeMap<Change, Option<Hash>>,
    /// Those that are gone.
    gone: BTreeSet<Change>,
    /// The number of the last change. Refs that changed together have one.
    last: u64,
    /// Refs that went by this change may be forgotten.
    forgotten: u64,
}

impl Refs {
    /// Takes over the refs as they are now, sorted by name.
    fn update(&mut self, now: Vec<(String, Hash)>) {
        let mut changed: Vec<(Arc<str>, Option<Hash>)> = Vec::new();
        let mut known = self.by_name.iter().peekable();
        for (name, hash) in now {
            while let Some((gone, (_, was))) = known.next_if(|(known, _)| ***known < *name) {
                changed.extend(was.is_some().then(|| (gone.clone(), None)));
            }
            match known.next_if(|(known, _)| ***known == *name) {
                Some((_, (_, was))) if *was == Some(hash) => {}
                Some((name, _)) => changed.push((name.clone(), Some(hash))),
                None => changed.push((name.into(), Some(hash))),
            }
        }
        changed.extend(known.filter(|(_, (_, was))| was.is_some()).map(|(name, _)| (name.clone(), None)));
        self.last += u64::from(!changed.is_empty());
        for (name, hash) in changed {
            if let Some((change, _)) = self.by_name.insert(name.clone(), (self.last, hash)) {
                self.by_change.remove(&(change, name.clone()));
                self.gone.remove(&(change, name.clone()));
            }
            if hash.is_none() {
                self.gone.insert((self.last, name.clone()));
            }
            self.by_change.insert((self.last, name), hash);
        }
        while self.gone.len() > WATCH_GONE_MAX {
            let Some(gone) = self.gone.pop_first() else { break };
            self.by_change.remove(&gone);
            self.by_name.remove(&gone.1);
            self.forgotten = gone.0;
        }
    }

    /// Where a watch stands that is to be told all.
    fn whole(&self) -> Told {
        Told { after: Refs::before(0), gone_after: self.last, is_whole: true, is_within: false }
    }

    /// A place before all changes of this number.
    fn before(change: u64) -> Change {
        (change, "".into())
    }

    /// The first answer to who knows refs with this digest.
    fn begin(&self, known: &[u8], is_wanted: &dyn Fn(&str) -> bool) -> (Told, Option<WatchResponse>) {
        let mut told = self.whole();
        let there = self.by_name.iter().filter(|(name, _)| is_wanted(name));
        let there: Vec<(String, Hash)> =
            there.filter_map(|(name, (_, hash))| Some((name.to_string(), (*hash)?))).collect();
        if known != refs_digest(&there).as_bytes() {
            let answer = self.next(&mut told, is_wanted);
            return (told, answer);
        }
        told = Told { after: Refs::before(self.last + 1), is_whole: false, ..told };
        (told, Some(WatchResponse { unchanged: true, ..WatchResponse::default() }))
    }

    /// The next answer; `None` if there is nothing to tell.
    fn next(&self, told: &mut Told, is_wanted: &dyn Fn(&str) -> bool) -> Option<WatchResponse> {
        if told.after.0.max(told.gone_after + 1) <= self.forgotten {
            *told = self.whole();
        }
        let mut answer = WatchResponse { whole: std::mem::take(&mut told.is_whole), ..Default::default() };
        let mut bytes = 0;
        for ((change, name), hash) in self.by_change.range((Excluded(&told.after), Unbounded)) {
            if hash.is_none() && *change <= told.gone_after || !is_wanted(name) {
                continue;
            }
            let hash = hash.map(|hash| Bytes::copy_from_slice(hash.as_bytes())).unwrap_or_default();
            // Some bytes are for lengths and tags.
            bytes += name.len() + hash.len() + 10;
            answer.refs.push(Ref { name: name.to_string(), hash });
            if bytes >= MESSAGE_BYTES {
                told.after = (*change, name.clone());
                answer.more = true;
                break;
            }
        }
        if !answer.more {
            told.after = Refs::before(self.last + 1);
        }
        let was_within = std::mem::replace(&mut told.is_within, answer.more);
        (answer.whole || was_within || !answer.refs.is_empty()).then_some(answer)
    }
}

/// How far a watch was told.
struct Told {
    after: Change,
    /// Of refs that went by this change or before, it knew nothing.
    gone_after: u64,
    /// Whether it has to forget what it knew.
    is_whole: bool,
    /// Whether it was told that more follows.
    is_within: bool,
}

/// A watch and who asked for it.
pub(super) struct Watch {
    pub(super) watches: Arc<Watches>,
    pub(super) access: Access,
    /// Of the call: by its token it is asked again who calls.
    pub(super) metadata: MetadataMap,
    pub(super) caller: Caller,
    pub(super) request: WatchRequest,
}

type Answers = mpsc::Sender<Result<WatchResponse, Status>>;

impl Watch {
    /// Answers until the caller is gone, or there is nothing more to watch.
    pub(super) async fn serve(self, answers: Answers) {
        // Room for the reason why it ends, however slowly the caller reads.
        let Ok(end) = answers.clone().reserve_owned().await else { return };
        let mut ending = self.watches.ending.subscribe();
        let why = tokio::select! {
            why = self.tell(&answers) => why.err(),
            () = answers.closed() => None,
            _ = ending.wait_for(|ending| *ending) => Some(Status::unavailable("the server stops; watch again")),
        };
        why.map(|why| end.send(Err(why)));
    }

    async fn tell(&self, answers: &Answers) -> Result<Infallible, Status> {
        let patterns = RefPatterns::new(&self.request.wants).map_err(|error| status(&error))?;
        let patterns = Arc::new(patterns);
        let name = &self.request.database;
        let followed = {
            let (watches, name) = (self.watches.clone(), name.clone());
            blocking(move || watches.list(&name)).await?.map_err(|error| status(&error))?
        };
        let mut changes = followed.list.last.subscribe();
        let mut users = self.access.replacements();
        let mut caller = self.caller.clone();
        let mut told = None;
        let heartbeat = Duration::from_millis(self.request.heartbeat_millis.into());
        let heartbeat = (!heartbeat.is_zero()).then_some(heartbeat.max(WATCH_HEARTBEAT_MIN));
        loop {
            let gone = |_| Status::cancelled("the caller is gone");
            let place = answers.reserve().await.map_err(gone)?;
            let _looking = self.watches.looks.acquire().await.map_err(|_| Status::unavailable("it stops"))?;
            users.mark_unchanged();
            let now = self.access.caller(&self.metadata)?;
            now.require(Right::Read, name).map_err(|error| status(&error))?;
            let is_other = std::mem::replace(&mut caller, now) != caller;
            if changes.borrow_and_update().is_none() {
                return Err(self.lost());
            }
            let (list, patterns, caller) = (followed.list.clone(), patterns.clone(), caller.clone());
            let (name, known) = (name.clone(), self.request.known_refs.clone());
            let (next, answer) = blocking(move || {
                let is_wanted = |one: &str| patterns.matches(one) && caller.may_ref(Right::Read, &name, one);
                let refs = list.refs.read();
                let Some(mut told) = told else { return refs.begin(&known, &is_wanted) };
                if is_other {
                    told = refs.whole();
                }
                let answer = refs.next(&mut told, &is_wanted);
                (told, answer)
            })
            .await?;
            told = Some(next);
            if let Some(answer) = answer {
                place.send(Ok(answer));
                continue;
            }
            drop(_looking);
            let quiet = async {
                match heartbeat {
                    None => std::future::pending().await,
                    Some(heartbeat) => tokio::time::sleep(heartbeat).await,
                }
            };
            // Neither of the changes can fail: this holds the one that tells.
            tokio::select! {
                biased;
                _ = changes.changed() => {}
                _ = users.changed() => {}
                // What changed just now is looked for first.
                () = quiet => if followed.list.is_settled.load(Ordering::SeqCst) {
                    place.send(Ok(WatchResponse::default()));
                }
            }
        }
    }

    /// Why nothing more can be told of the database.
    fn lost(&self) -> Status {
        let name = &self.request.database;
        match self.watches.databases.has(name) {
            true => Status::unavailable(format!("database `{name}` was closed; watch again")),
            false => status(&Error::UnknownDatabase { url: name.clone() }),
        }
    }
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(f).await.map_err(|_| Status::unavailable("the server stops; watch again"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// Numbers that look random, and are the same each time.
    struct Random(u64);

    impl Random {
        fn below(&mut self, end: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % end
        }
    }

    /// Somebody who watches the refs whose number can be divided by `every`.
    struct Watcher {
        every: usize,
        told: Option<Told>,
        refs: BTreeMap<String, Vec<u8>>,
    }

    #[test]
    fn who_was_told_that_more_follows_is_told_when_it_does_not() {
        let mut refs = Refs::default();
        // Each takes a 250th of an answer and some more, so that the last fills it.
        let names = (0..251).map(|number| format!("heads/{number:01000}"));
        refs.update(names.map(|name| (name, Hash::of(b"commit"))).collect());
        let (mut told, first) = refs.begin(&[], &|_| true);
        let first = first.unwrap();
        assert!(first.whole && first.more && first.refs.len() == 251);
        let last = refs.next(&mut told, &|_| true).unwrap();
        assert_eq!(last, WatchResponse::default());
        assert_eq!(refs.next(&mut told, &|_| true), None);
    }

    #[test]
    fn whoever_was_told_everything_knows_the_refs_of_one_moment() {
        let mut random = Random(1);
        // Long enough that they do not fit into one answer.
        let names: Vec<String> = (0..700).map(|number| format!("heads/{number:01000}")).collect();
        let number = |name: &str| name[name.len() - 4..].parse::<usize>().unwrap();
        let mut now: BTreeMap<String, Hash> = BTreeMap::new();
        let mut refs = Refs::default();
        let watcher = |every| Watcher { every, told: None, refs: BTreeMap::new() };
        let mut watchers: Vec<Watcher> = [1, 1, 2, 7].map(watcher).into();
        let (mut complete, mut split) = (0, 0);
        for round in 0..1_000 {
            let changes = if random.below(20) == 0 { 400 } else { random.below(3) };
            for _ in 0..changes {
                let name = names[random.below(names.len() as u64) as usize].clone();
                match random.below(3) {
                    0 => drop(now.remove(&name)),
                    _ => drop(now.insert(name, Hash::of(&random.below(9).to_le_bytes()))),
                }
            }
            refs.update(now.clone().into_iter().collect());
            if random.below(50) == 0 {
                // As if there had been more of them than are remembered.
                while let Some(gone) = refs.gone.pop_first() {
                    refs.by_change.remove(&gone);
                    refs.by_name.remove(&gone.1);
                    refs.forgotten = gone.0;
                }
            }
            let which = random.below(watchers.len() as u64) as usize;
            let watcher = &mut watchers[which];
            let every = watcher.every;
            let is_wanted = |name: &str| number(name).is_multiple_of(every);
            let answer = match &mut watcher.told {
                Some(told) => refs.next(told, &is_wanted),
                told => {
                    let (begun, answer) = refs.begin(&[], &is_wanted);
                    *told = Some(begun);
                    answer
                }
            };
            let is_complete = answer.as_ref().is_none_or(|answer| !answer.more);
            if let Some(answer) = answer {
                assert!(answer.refs.len() <= MESSAGE_BYTES / 1000 + 1);
                split += u32::from(answer.more);
                if answer.whole {
                    watcher.refs.clear();
                }
                for one in answer.refs {
                    match one.hash.is_empty() {
                        true => drop(watcher.refs.remove(&one.name)),
                        false => drop(watcher.refs.insert(one.name, one.hash.to_vec())),
                    }
                }
            }
            if is_complete {
                complete += 1;
                let wanted = now.iter().filter(|(name, _)| is_wanted(name));
                let wanted = wanted.map(|(name, hash)| (name.clone(), hash.as_bytes().to_vec()));
                assert!(watcher.refs == wanted.collect::<BTreeMap<_, _>>(), "round {round}");
            }
        }
        assert!(complete > 250 && split > 50, "{complete} complete, {split} split");
    }
}
