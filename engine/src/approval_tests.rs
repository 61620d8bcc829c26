//! Changes of branches and tags that need somebody's approval: done, given up, or pending until there is an answer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use crate::*;

type Answer = Result<Vec<RefUpdate>, Disapproval>;

/// Answers as it was told to, and notes what it was asked.
#[derive(Default)]
struct Approver {
    ready: Mutex<Option<Disapproval>>,
    answers: Mutex<VecDeque<Answer>>,
    asked: Mutex<Vec<Vec<String>>>,
    /// What it waits for before it answers, after it said that it was asked.
    waits: Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>,
}

impl Approver {
    fn will(&self, answer: Answer) {
        self.answers.lock().unwrap().push_back(answer);
    }

    fn asked(&self) -> Vec<Vec<String>> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

impl Approve for Approver {
    fn prepare(&self, _: &Database) -> Result<(), Disapproval> {
        self.ready.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    fn approve(&self, database: &Database, changes: &[RefUpdate], _: bool) -> Answer {
        let mut names: Vec<String> = changes.iter().map(|change| change.name.clone()).collect();
        names.sort();
        self.asked.lock().unwrap().push(names);
        // What is asked about is here, and what it moves has not moved.
        for change in changes {
            assert_eq!(database.get_ref(&change.name), change.old);
            assert!(change.new.is_none_or(|new| database.store().get(&new).unwrap().is_some()));
        }
        if let Some((tell, wait)) = self.waits.lock().unwrap().take() {
            tell.send(()).unwrap();
            wait.recv().unwrap();
        }
        self.answers.lock().unwrap().pop_front().expect("an answer for each question")
    }
}

fn put(database: &Database, key: &[u8]) -> Result<()> {
    let mut transaction = database.begin("main")?;
    if !transaction.has_table("t")? {
        transaction.create_table("t", None)?;
    }
    transaction.put("t", key, b"value")?;
    transaction.commit().map(drop)
}

fn commit(database: &Database) -> Result<Hash> {
    let new = NewCommit { message: "m".into(), ..NewCommit::default() };
    Ok(database.commit("main", new)?.hash)
}

fn head(database: &Database) -> Option<Hash> {
    database.get_ref("heads/main")
}

fn no_answer() -> Answer {
    Err(Disapproval::Unknown("the line was cut".into()))
}

fn database(dir: Option<&std::path::Path>) -> (Database, Arc<Approver>) {
    let database = match dir {
        Some(dir) => Database::init(dir, Options::default()).unwrap(),
        None => Database::memory().unwrap(),
    };
    let approver = Arc::new(Approver::default());
    database.set_approver(approver.clone());
    (database, approver)
}

#[test]
fn what_is_approved_is_done_together_with_what_the_approver_notes() {
    let (database, approver) = database(None);
    put(&database, b"a").unwrap();
    assert_eq!(approver.asked(), Vec::<Vec<String>>::new(), "a transaction moves no branch");
    let note = RefUpdate { name: "pushed/x".into(), old: None, new: database.get_ref("work/main") };
    approver.will(Ok(vec![note.clone()]));
    let hash = commit(&database).unwrap();
    assert_eq!((head(&database), database.get_ref("pushed/x")), (Some(hash), note.new));
    for names in approver.asked() {
        assert_eq!(names, ["heads/main", "work/main"]);
    }
    for _ in 0..3 {
        approver.will(Ok(Vec::new()));
    }
    database.create_tag("one", hash).unwrap();
    database.create_branch("b", Some(hash)).unwrap();
    database.delete_branch("b").unwrap();
    let asked = approver.asked();
    assert_eq!(asked[..2], [vec!["tags/one".to_owned()], vec!["heads/b".into(), "work/b".into()]]);
    assert!(asked[2].contains(&"heads/b".to_owned()));
    assert!(database.refs("pending/").is_empty());
}

#[test]
fn what_is_refused_or_cannot_be_asked_changes_nothing() {
    let (database, approver) = database(None);
    put(&database, b"a").unwrap();
    approver.will(Err(Disapproval::Refused("no".into())));
    assert!(matches!(commit(&database), Err(Error::Disapproved { .. })));
    approver.will(Err(Disapproval::Away("nobody there".into())));
    let error = commit(&database).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::Remote, "nobody there; nothing was changed")
    );
    *approver.ready.lock().unwrap() = Some(Disapproval::Away("nobody there".into()));
    assert!(matches!(commit(&database), Err(Error::ApproverAway { .. })));
    assert_eq!(approver.asked().len(), 2, "who is not ready is not asked");
    database.set_setting("some.setting", Some("1")).unwrap();
    put(&database, b"b").unwrap();
    assert_eq!(
        (head(&database), database.refs("pending/"), database.refs("recovery/")),
        (None, vec![], vec![])
    );
    *approver.ready.lock().unwrap() = None;
    approver.will(Ok(Vec::new()));
    commit(&database).unwrap();
}

#[test]
fn without_an_answer_nothing_more_is_written_until_there_is_one() {
    for (settled, is_done) in [(Ok(Vec::new()), true), (Err(Disapproval::Refused("no".into())), false)] {
        let (database, approver) = database(None);
        put(&database, b"a").unwrap();
        approver.will(no_answer());
        assert!(matches!(commit(&database), Err(Error::Unsettled { .. })));
        let pending = database.get_ref("pending/to/heads/main").unwrap();
        // Whoever comes at once is told without asking.
        assert!(matches!(put(&database, b"b"), Err(Error::Unsettled { .. })));
        assert_eq!(approver.asked().len(), 1);
        let note = RefUpdate { name: "remotes/o/x".into(), old: None, new: Some(pending) };
        assert!(matches!(database.update_refs(Batch::default(), &[note]).unwrap(), Outcome::Appended(_)));
        thread::sleep(Duration::from_millis(1100));
        approver.will(no_answer());
        assert!(matches!(database.settle(), Err(Error::Unsettled { .. })));
        assert_eq!(head(&database), None);
        thread::sleep(Duration::from_millis(1100));
        approver.will(settled);
        put(&database, b"b").unwrap();
        assert_eq!(head(&database), is_done.then_some(pending));
        assert!(database.refs("pending/").is_empty());
        let kept: Vec<Hash> =
            database.refs("recovery/heads/main/").into_iter().map(|(_, hash)| hash).collect();
        assert_eq!(kept, if is_done { vec![] } else { vec![pending] });
        assert_eq!(database.status("main").unwrap().tables[0].inserted, if is_done { 1 } else { 2 });
    }
}

#[test]
fn what_is_pending_stays_so_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let (database, approver) = database(Some(&path));
    put(&database, b"a").unwrap();
    approver.will(no_answer());
    assert!(matches!(commit(&database), Err(Error::Unsettled { .. })));
    let pending = database.get_ref("pending/to/heads/main");
    database.close().unwrap();

    let database = Database::open(&path, Options::default()).unwrap();
    let approver = Arc::new(Approver::default());
    database.set_approver(approver.clone());
    approver.will(Ok(Vec::new()));
    database.settle().unwrap();
    assert_eq!(head(&database), pending);
    assert_eq!(approver.asked(), [["heads/main", "work/main"]]);
    database.settle().unwrap();
    assert!(approver.asked().is_empty());
}

#[test]
fn what_is_pending_when_nobody_is_asked_any_more_is_kept_aside() {
    let (database, approver) = database(None);
    put(&database, b"a").unwrap();
    approver.will(no_answer());
    assert!(commit(&database).is_err());
    let pending = database.get_ref("pending/to/heads/main").unwrap();
    thread::sleep(Duration::from_millis(1100));
    database.remove_approver(&(Arc::new(Approver::default()) as Arc<dyn Approve>));
    approver.will(no_answer());
    assert!(database.settle().is_err(), "it was somebody else's to remove");
    thread::sleep(Duration::from_millis(1100));
    database.remove_approver(&(approver as Arc<dyn Approve>));
    put(&database, b"b").unwrap();
    assert_eq!(head(&database), None);
    assert_eq!(database.refs("recovery/heads/main/")[0].1, pending);
    let hash = commit(&database).unwrap();
    assert_eq!(head(&database), Some(hash));
}

#[test]
fn while_it_is_asked_readers_read_and_writers_wait() {
    let (database, approver) = database(None);
    put(&database, b"a").unwrap();
    let (tell, told) = mpsc::channel();
    let (go, wait) = mpsc::channel();
    *approver.waits.lock().unwrap() = Some((tell, wait));
    approver.will(Ok(Vec::new()));
    thread::scope(|scope| {
        let committing = scope.spawn(|| commit(&database));
        told.recv().unwrap();
        let cancel = Cancel::new();
        let (database, cancelled) = (&database, database.cancellable(&cancel));
        let writing = scope.spawn(move || put(database, b"b"));
        let giving_up = scope.spawn(move || put(&cancelled, b"c"));
        assert!(database.begin("main").unwrap().has_table("t").unwrap());
        thread::sleep(Duration::from_millis(50));
        assert!(!writing.is_finished() && !giving_up.is_finished());
        cancel.cancel();
        assert!(matches!(giving_up.join().unwrap(), Err(Error::Cancelled)));
        // Its own notes are not kept.
        database.set_setting("some.setting", Some("1")).unwrap();
        let note = RefUpdate { name: "remotes/o/x".into(), old: None, new: database.get_ref("work/main") };
        assert!(matches!(database.update_refs(Batch::default(), &[note]).unwrap(), Outcome::Appended(_)));
        go.send(()).unwrap();
        let hash = committing.join().unwrap().unwrap();
        writing.join().unwrap().unwrap();
        assert_eq!(head(database), Some(hash));
    });
    assert_eq!(database.status("main").unwrap().tables[0].inserted, 1);
}

#[test]
fn pushes_and_other_moves_of_refs_are_asked_about_too() {
    let (database, approver) = database(None);
    put(&database, b"a").unwrap();
    approver.will(Ok(Vec::new()));
    let hash = commit(&database).unwrap();
    let tag = [RefUpdate { name: "tags/t".into(), old: None, new: Some(hash) }];
    approver.will(Err(Disapproval::Refused("no".into())));
    assert!(matches!(database.update_refs(Batch::default(), &tag), Err(Error::Disapproved { .. })));
    assert!(matches!(
        database.unapproved().update_refs(Batch::default(), &tag).unwrap(),
        Outcome::Appended(_)
    ));
    approver.asked();
    assert!(matches!(database.update_refs(Batch::default(), &tag).unwrap(), Outcome::Moved { .. }));
    assert!(approver.asked().is_empty(), "what cannot be done is not asked about");
}

#[test]
fn a_setting_that_changes_while_it_is_asked_stays_beside_the_current_branch() {
    let (database, approver) = database(None);
    put(&database, b"a").unwrap();
    approver.will(Ok(Vec::new()));
    commit(&database).unwrap();
    let (tell, told) = mpsc::channel();
    let (go, wait) = mpsc::channel();
    *approver.waits.lock().unwrap() = Some((tell, wait));
    approver.will(Ok(Vec::new()));
    thread::scope(|scope| {
        let renaming = scope.spawn(|| database.rename_branch("main", "trunk"));
        told.recv().unwrap();
        database.set_setting("some.setting", Some("1")).unwrap();
        go.send(()).unwrap();
        renaming.join().unwrap().unwrap();
    });
    assert_eq!(database.current_branch().unwrap(), "trunk");
    assert_eq!(database.setting("some.setting").unwrap().as_deref(), Some("1"));
}
