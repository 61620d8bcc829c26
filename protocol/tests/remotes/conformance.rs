//! What holds of every kind of remote, and of those that are no server.

use std::time::Duration;

use pleach_protocol::{Part, begin_remote, clone_database, collect_remote, compact_remote};

use super::compaction::noise;
use super::*;

/// A kind of remote, empty and ready to be pushed to.
pub(super) struct Kind {
    name: &'static str,
    pub(super) remote: Remote,
    _databases: Option<Databases>,
    _dir: Option<TempDir>,
}

pub(super) async fn server() -> Kind {
    let dir = TempDir::new().unwrap();
    let databases = Databases::new(dir.path(), Options::default()).unwrap();
    databases.create("shop").unwrap();
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap().with_nodelay(Some(true));
    let url = format!("http://{}/shop", incoming.local_addr().unwrap());
    let service = SyncService::new(databases.clone()).into_server();
    tokio::spawn(transport().add_service(service).serve_with_incoming(incoming));
    let remote = Remote::connect(&RemoteUrl::parse(&url).unwrap()).await.unwrap();
    Kind { name: "server", remote, _databases: Some(databases), _dir: Some(dir) }
}

async fn kinds() -> Vec<Kind> {
    let dir = TempDir::new().unwrap();
    let url = RemoteUrl::parse(&format!("file://{}/remote", dir.path().display())).unwrap();
    let directory = Remote::connect(&url).await.unwrap();
    let memory = in_memory(&Memory::new());
    let mut kinds = vec![
        server().await,
        Kind { name: "directory", remote: directory, _databases: None, _dir: Some(dir) },
        Kind { name: "memory", remote: memory, _databases: None, _dir: None },
    ];
    if let Some(remote) = fresh_prefix("PLEACH_TEST_BUCKET").await {
        kinds.push(Kind { name: "bucket", remote, _databases: None, _dir: None });
    }
    kinds
}

/// Those that are no server.
async fn places() -> impl Iterator<Item = Kind> {
    kinds().await.into_iter().filter(|kind| kind.name != "server")
}

/// A prefix that nobody used yet, below what an environment variable names, if it is set.
async fn fresh_prefix(variable: &str) -> Option<Remote> {
    let bucket = std::env::var(variable).ok()?;
    let fresh = Hash::of(TempDir::new().unwrap().path().to_string_lossy().as_bytes());
    let url = RemoteUrl::parse(&format!("{bucket}/{fresh}")).unwrap();
    Some(Remote::connect(&url).await.unwrap())
}

#[tokio::test]
async fn a_remote_that_was_begun_is_cloned_and_fetched_before_the_first_push() {
    for kind in places().await {
        let remote = &kind.remote;
        begin_remote(remote).await.unwrap();
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("early");
        let cloned = clone_database(remote, &path, Options::default(), &Part::default()).await.unwrap().0;
        let [branch] = &cloned.branches().unwrap()[..] else { panic!("{}", kind.name) };
        assert_eq!((branch.name.as_str(), branch.head), ("main", None), "{}", kind.name);
        let (a, b) = (Copy::new(remote), Copy::new(remote));
        assert!(a.fetch().await.refs.is_empty() && b.fetch().await.refs.is_empty(), "{}", kind.name);
        let head = a.put(1, "one");
        assert_eq!(a.push().await.refs[0].status, RefStatus::New, "{}", kind.name);
        // Begun again it is what it was.
        begin_remote(remote).await.unwrap();
        b.fetch().await;
        assert_eq!(b.db.get_ref("remotes/origin/main"), Some(head), "{}", kind.name);
        assert_eq!(Copy::cloned(remote).await.db.root().unwrap(), a.db.root().unwrap(), "{}", kind.name);
    }
}

#[tokio::test]
async fn what_is_pushed_is_cloned_fetched_and_pulled() {
    for kind in kinds().await {
        let (a, remote) = (Copy::new(&kind.remote), &kind.remote);
        a.put_rows("main", (0..2000).map(|i| (i, value(i))));
        let pushed = a.push().await;
        assert_eq!(pushed.refs[0].status, RefStatus::New, "{}", kind.name);
        assert_eq!(a.push().await.refs[0].status, RefStatus::Unchanged, "{}", kind.name);
        let b = Copy::cloned(remote).await;
        assert_eq!(b.db.root().unwrap(), a.db.root().unwrap(), "{}", kind.name);
        let head = a.put(7, "seven");
        let pushed = a.push().await;
        assert_eq!((&pushed.refs[0].status, pushed.refs[0].new), (&RefStatus::Updated, Some(head)));
        assert_eq!(a.tracking(), [("remotes/origin/main".to_owned(), head)]);
        let (pulled, merge) = b.pull().await;
        assert!(matches!(merge, MergeOutcome::FastForward { .. }), "{}", kind.name);
        assert_eq!(
            (pulled.refs[0].status.word(), pulled.chunks),
            ("updated", pushed.chunks),
            "{}",
            kind.name
        );
        assert_eq!(b.db.root().unwrap(), a.db.root().unwrap(), "{}", kind.name);
        let nothing = b.fetch().await;
        assert_eq!((nothing.round_trips, nothing.chunks, nothing.refs.len()), (1, 0, 0), "{}", kind.name);
        check_whole(&b.db);
    }
}

#[tokio::test]
async fn who_has_not_what_is_there_is_refused_and_forcing_keeps_it() {
    for kind in kinds().await {
        let a = Copy::new(&kind.remote);
        a.put(1, "base");
        a.push().await;
        let b = Copy::cloned(&kind.remote).await;
        let theirs = a.put(1, "theirs");
        a.push().await;
        let ours = b.put(2, "ours");
        let refused = b.try_push(Force::No).await.unwrap();
        let RefStatus::Rejected { reason } = &refused.refs[0].status else { panic!("{refused:?}") };
        assert!(reason.contains("`fetch` it"), "{}: {reason}", kind.name);
        assert_eq!(refused.refs[0].old, Some(theirs), "{}", kind.name);
        // Who knows only what was there before does not overwrite it either.
        let refused = b.try_push(Force::Known).await.unwrap();
        assert!(refused.is_rejected(), "{}: {refused:?}", kind.name);
        b.fetch().await;
        let refused = b.try_push(Force::No).await.unwrap();
        let RefStatus::Rejected { reason } = &refused.refs[0].status else { panic!("{refused:?}") };
        assert!(reason.starts_with("no fast-forward"), "{}: {reason}", kind.name);
        let forced = b.try_push(Force::Known).await.unwrap();
        assert_eq!(
            (forced.refs[0].status.word(), forced.refs[0].old),
            ("forced", Some(theirs)),
            "{}",
            kind.name
        );
        let fetched = a.fetch().await;
        assert_eq!(
            (fetched.refs[0].status.word(), fetched.refs[0].new),
            ("forced", Some(ours)),
            "{}",
            kind.name
        );
        // Both go on, from where they are.
        assert!(matches!(a.pull().await.1, MergeOutcome::Merged { .. }), "{}", kind.name);
        a.push().await;
        b.pull().await;
        assert_eq!(a.db.root().unwrap(), b.db.root().unwrap(), "{}", kind.name);
        let unrelated = Copy::new(&kind.remote);
        unrelated.put(9, "unrelated");
        assert!(unrelated.try_push(Force::No).await.unwrap().is_rejected(), "{}", kind.name);
        check_whole(&a.db);
    }
}

#[tokio::test]
async fn branches_and_tags_travel_move_and_go() {
    for kind in kinds().await {
        let a = Copy::new(&kind.remote);
        let first = a.put(1, "one");
        a.db.create_branch("side", Some(first)).unwrap();
        let side = a.put_rows("side", [(2, "two".to_owned())]);
        a.push().await;
        assert_eq!(a.push_ref("heads/side", Some(side), Force::No).await.refs[0].status, RefStatus::New);
        assert_eq!(a.push_ref("tags/v1", Some(first), Force::No).await.refs[0].status, RefStatus::New);
        let b = Copy::cloned(&kind.remote).await;
        assert_eq!(b.db.get_ref("tags/v1"), Some(first), "{}", kind.name);
        assert_eq!(b.db.get_ref("remotes/origin/side"), Some(side), "{}", kind.name);
        // A tag moves by force only, and is not moved where it is.
        let refused = a.push_ref("tags/v1", Some(side), Force::No).await;
        let RefStatus::Rejected { reason } = &refused.refs[0].status else { panic!("{refused:?}") };
        assert!(reason.contains("the tag exists"), "{}: {reason}", kind.name);
        assert_eq!(a.push_ref("tags/v1", Some(side), Force::Yes).await.refs[0].status.word(), "forced");
        let fetched = b.fetch().await;
        assert!(fetched.refs[0].name == "tags/v1" && fetched.is_rejected(), "{}: {fetched:?}", kind.name);
        // What somebody else moved is not deleted unseen.
        let again = b.put(3, "three");
        b.push().await;
        assert!(a.push_ref("heads/main", None, Force::No).await.is_rejected(), "{}", kind.name);
        assert_eq!(a.push_ref("heads/side", None, Force::No).await.refs[0].status, RefStatus::Deleted);
        assert_eq!(a.push_ref("heads/side", None, Force::No).await.refs[0].status, RefStatus::Unchanged);
        let fetched = b.fetch().await;
        let gone: Vec<_> = fetched.refs.iter().filter(|one| one.status == RefStatus::Deleted).collect();
        assert_eq!((gone.len(), gone[0].name.as_str()), (1, "remotes/origin/side"), "{}", kind.name);
        assert_eq!(b.tracking(), [("remotes/origin/main".to_owned(), again)], "{}", kind.name);
    }
}

#[tokio::test]
async fn a_branch_of_the_longest_name_goes_and_is_kept() {
    for kind in kinds().await {
        let a = Copy::new(&kind.remote);
        let first = a.put(1, "one");
        a.push().await;
        let name = format!("heads/{}", "n".repeat(250));
        assert_eq!(
            a.push_ref(&name, Some(first), Force::No).await.refs[0].status,
            RefStatus::New,
            "{}",
            kind.name
        );
        // What it was stands under a longer name then.
        let gone = a.push_ref(&name, None, Force::No).await;
        assert_eq!(gone.refs[0].status, RefStatus::Deleted, "{}", kind.name);
        a.put(2, "two");
        a.push().await;
        assert_eq!(Copy::cloned(&kind.remote).await.head("main"), a.head("main"), "{}", kind.name);
    }
}

#[tokio::test]
async fn refs_of_one_push_move_all_or_none() {
    for kind in kinds().await {
        let a = Copy::new(&kind.remote);
        a.put(1, "one");
        a.push().await;
        let b = Copy::cloned(&kind.remote).await;
        a.put(1, "two");
        a.push().await;
        let head = b.put(2, "ours");
        let updates =
            ["heads/main", "heads/other"].map(|name| PushUpdate { name: name.into(), new: Some(head) });
        let refused = push(&b.db, &kind.remote, "origin", &updates, Force::No).await.unwrap();
        assert!(refused.refs.iter().all(|one| one.status.word() == "rejected"), "{}: {refused:?}", kind.name);
        a.fetch().await;
        assert_eq!(a.db.get_ref("remotes/origin/other"), None, "{}", kind.name);
        b.pull().await;
        let head = b.head("main");
        let updates = ["heads/main", "heads/other"].map(|name| PushUpdate { name: name.into(), new: head });
        let pushed = push(&b.db, &kind.remote, "origin", &updates, Force::No).await.unwrap();
        assert_eq!(pushed.refs.iter().map(|one| one.status.word()).collect::<Vec<_>>(), ["updated", "new"]);
        a.fetch().await;
        assert_eq!(a.db.get_ref("remotes/origin/other"), head, "{}", kind.name);
    }
}

#[tokio::test]
async fn a_clone_takes_the_branches_asked_for_and_goes_on_with_all() {
    for kind in kinds().await {
        let a = Copy::new(&kind.remote);
        let first = a.put(1, "one");
        a.db.create_branch("feature/a", Some(first)).unwrap();
        let on_a = a.put_rows("feature/a", [(2, "two".to_owned())]);
        a.push().await;
        a.push_ref("heads/feature/a", Some(on_a), Force::No).await;
        let dir = TempDir::new().unwrap();
        let only = ["feature/*".to_owned()];
        let (db, _) =
            clone_database(&kind.remote, &dir.path().join("c"), Options::default(), &Part::branches(&only))
                .await
                .unwrap();
        assert_eq!(db.branches().unwrap().len(), 1, "{}", kind.name);
        assert_eq!(db.current_branch().unwrap(), "feature/a", "{}", kind.name);
        let head = a.put(1, "more");
        a.push().await;
        let b = Copy { db, remote: kind.remote.clone() };
        assert_eq!(b.fetch().await.refs[0].new, Some(head), "{}", kind.name);
        assert_eq!(b.tracking().len(), 2, "{}", kind.name);
        let none = ["nothing".to_owned()];
        let path = dir.path().join("d");
        let error = clone_database(&kind.remote, &path, Options::default(), &Part::branches(&none))
            .await
            .err()
            .unwrap();
        assert!(matches!(error, Error::UnknownBranch { .. }), "{}: {error}", kind.name);
        assert!(!path.exists());
    }
}

#[tokio::test]
async fn of_two_who_push_at_once_exactly_one_wins_and_the_other_is_told() {
    for kind in kinds().await {
        let a = Copy::new(&kind.remote);
        a.put(0, "base");
        a.push().await;
        let b = Copy::cloned(&kind.remote).await;
        for round in 1..8 {
            a.put(1, &format!("a {round}"));
            b.put(2, &format!("b {round}"));
            let (one, other) = tokio::join!(a.try_push(Force::No), b.try_push(Force::No));
            let (one, other) = (one.unwrap(), other.unwrap());
            assert!(one.is_rejected() != other.is_rejected(), "{}: {one:?} {other:?}", kind.name);
            let (winner, loser) = if one.is_rejected() { (&b, &a) } else { (&a, &b) };
            loser.pull().await;
            loser.push().await;
            winner.pull().await;
            assert_eq!(a.db.root().unwrap(), b.db.root().unwrap(), "{}", kind.name);
        }
        check_whole(&a.db);
        check_whole(&b.db);
    }
}

#[tokio::test]
async fn many_who_push_to_branches_of_their_own_all_get_through() {
    for kind in kinds().await {
        let a = Copy::new(&kind.remote);
        a.put(0, "base");
        a.push().await;
        let mut pushers = Vec::new();
        for number in 0..6 {
            let copy = Copy::cloned(&kind.remote).await;
            pushers.push(tokio::spawn(async move {
                let branch = format!("b{number}");
                copy.db.create_branch(&branch, copy.head("main")).unwrap();
                for round in 0..5 {
                    let head = copy.put_rows(&branch, [(number, round.to_string())]);
                    let pushed = copy.push_ref(&format!("heads/{branch}"), Some(head), Force::No).await;
                    assert!(!pushed.is_rejected(), "{pushed:?}");
                }
                (branch, copy.head(&format!("b{number}")))
            }));
        }
        let mut expected = Vec::new();
        for pusher in pushers {
            let (branch, head) = pusher.await.unwrap();
            expected.push((format!("remotes/origin/{branch}"), head.unwrap()));
        }
        a.fetch().await;
        let found: Vec<_> =
            a.tracking().into_iter().filter(|(name, _)| name != "remotes/origin/main").collect();
        assert_eq!(found, expected, "{}", kind.name);
        let fresh = Copy::cloned(&kind.remote).await;
        assert_eq!(fresh.tracking(), a.tracking(), "{}", kind.name);
        check_whole(&fresh.db);
    }
}

#[tokio::test]
async fn of_many_who_push_first_one_begins_the_remote_and_all_get_through() {
    for kind in kinds().await {
        let mut pushers = Vec::new();
        for number in 0..6 {
            let copy = Copy::new(&kind.remote);
            pushers.push(tokio::spawn(async move {
                let name = format!("heads/b{number}");
                let head = copy.put(number, "first");
                let pushed = copy.push_ref(&name, Some(head), Force::No).await;
                assert_eq!(pushed.refs[0].status, RefStatus::New, "{pushed:?}");
                (format!("remotes/origin/b{number}"), head)
            }));
        }
        let mut expected = Vec::new();
        for pusher in pushers {
            expected.push(pusher.await.unwrap());
        }
        let fresh = Copy::new(&kind.remote);
        fresh.fetch().await;
        assert_eq!(fresh.tracking(), expected, "{}", kind.name);
        check_whole(&fresh.db);
    }
}

#[tokio::test]
async fn what_many_pushes_left_is_merged_collected_and_removed() {
    for kind in places().await {
        let a = Copy::new(&kind.remote);
        a.put_rows("main", noise(0, 150));
        a.push().await;
        let b = Copy::cloned(&kind.remote).await;
        // On to a manifest that has everything, and beyond it.
        for number in 0..66 {
            a.put(number, "small");
            a.push().await;
        }
        b.pull().await;
        let lost = b.put_rows("main", noise(1000, 150));
        b.push().await;
        let head = a.put_rows("main", noise(2000, 150));
        assert_eq!(a.try_push(Force::Yes).await.unwrap().refs[0].status, RefStatus::Forced, "{}", kind.name);
        let merged = compact_remote(&kind.remote, Duration::ZERO).await.unwrap();
        assert!(merged.packs < 4 && merged.retired > 1, "{}: {merged:?}", kind.name);
        let collected = collect_remote(&a.db, &kind.remote, Duration::ZERO).await.unwrap();
        assert_eq!((collected.packs, collected.removed), (1, merged.retired), "{}: {collected:?}", kind.name);
        let swept = compact_remote(&kind.remote, Duration::ZERO).await.unwrap();
        assert_eq!((swept.packs, swept.removed), (1, collected.retired), "{}: {swept:?}", kind.name);
        let fresh = Copy::cloned(&kind.remote).await;
        assert_eq!(
            (fresh.head("main"), fresh.db.store().contains(&lost)),
            (Some(head), false),
            "{}",
            kind.name
        );
        assert_eq!(b.fetch().await.refs[0].status, RefStatus::Forced, "{}", kind.name);
        [a, b, fresh].iter().for_each(|copy| check_whole(&copy.db));
    }
}

#[tokio::test]
async fn a_bucket_that_ignores_the_condition_is_no_remote() {
    let Some(remote) = fresh_prefix("PLEACH_TEST_CARELESS_BUCKET").await else { return };
    let a = Copy::new(&remote);
    a.put(1, "x");
    let error = a.try_push(Force::No).await.unwrap_err();
    assert!(matches!(error, Error::NotConditional { .. }), "{error}");
    let error = a.try_fetch().await.unwrap_err();
    assert!(matches!(error, Error::NothingThere { .. }), "nothing is left: {error}");
}

#[tokio::test]
async fn where_nothing_is_a_fetch_says_so() {
    for kind in places().await {
        let error = Copy::new(&kind.remote).try_fetch().await.unwrap_err();
        assert!(matches!(error, Error::NothingThere { .. }), "{}: {error}", kind.name);
    }
    let dir = TempDir::new().unwrap();
    for url in [format!("file://{}/absent", dir.path().display()), format!("file://{}", dir.path().display())]
    {
        let remote = Remote::connect(&RemoteUrl::parse(&url).unwrap()).await.unwrap();
        let error = Copy::new(&remote).try_fetch().await.unwrap_err();
        assert!(matches!(&error, Error::NothingThere { url: at } if *at == url), "{error}");
        assert!(!dir.path().join("absent").exists(), "a fetch makes nothing");
    }
}
