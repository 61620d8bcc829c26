//! What a partial clone lacks, asked of its remote when it is read.
//!
//! Whoever reads the store blocks, on any thread, and may be inside an async runtime; so a thread of its own asks, by one connection for all, which is
//! made for the first question. Everything is checked against the hashes that were asked for, as in any [`get`](super::get()).

use std::sync::{Arc, mpsc};
use std::thread;

use parking_lot::Mutex;
use pleach_engine::{Chunk, Database, Hash, Source, SourceError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::get::get_ahead;
use crate::access::Credentials;
use crate::error::{Error, Result};
use crate::remote::{Remote, RemoteUrl};

/// Ancestors that come along with a commit.
const ANCESTORS: u32 = 256;

/// Has a partial clone ask its remote for what it lacks, when it is read, with `credentials`; by all its handles, as long as it is open. Nothing is asked,
/// and no connection made, before that. A database that lacks nothing is left as it is, and so is one that does not know its remote any more.
///
/// # Errors
/// [`Error::BadUrl`] if the remote's setting is no URL; the store's.
pub fn serve_promised(database: &Database, credentials: &Credentials) -> Result<()> {
    let Some(remote) = database.partial_of()? else { return Ok(()) };
    if let Some(url) = database.setting(&format!("remote.{remote}.url"))? {
        serve_promised_from(database, &credentials.authorize(RemoteUrl::parse(&url)?));
    }
    Ok(())
}

/// [`serve_promised`] from the server at `url`.
pub(super) fn serve_promised_from(database: &Database, url: &RemoteUrl) {
    let (questions, asked) = unbounded_channel();
    database.set_source(Some(Arc::new(Promiser {
        url: url.clone(),
        questions,
        asked: Mutex::new(Some(asked)),
    })));
}

/// The remote that has what a partial clone lacks.
struct Promiser {
    url: RemoteUrl,
    questions: UnboundedSender<Question>,
    /// Until somebody asks, and the thread is there that answers. That ends when this is dropped, and with it the sender.
    asked: Mutex<Option<UnboundedReceiver<Question>>>,
}

struct Question {
    wanted: Vec<Hash>,
    answer: mpsc::Sender<Result<Vec<Chunk>>>,
}

impl Source for Promiser {
    fn chunks(&self, wanted: &[Hash]) -> std::result::Result<Vec<Chunk>, SourceError> {
        self.ask(wanted.to_vec()).map_err(|error| Arc::new(error) as SourceError)
    }
}

impl Promiser {
    fn ask(&self, wanted: Vec<Hash>) -> Result<Vec<Chunk>> {
        let lost = |what: String| Error::Lost { what };
        if let Some(asked) = self.asked.lock().take() {
            let url = self.url.clone();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| lost(error.to_string()))?;
            let thread = thread::Builder::new().name("promised".to_owned());
            let thread = thread.spawn(move || runtime.block_on(answer(&url, asked)));
            thread.map_err(|error| lost(error.to_string()))?;
        }
        let (answer, answered) = mpsc::channel();
        let gone = || lost("nobody asks the remote any more".to_owned());
        self.questions.send(Question { wanted, answer }).map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())?
    }
}

/// Answers questions, each beside the others, until nobody can ask any more.
async fn answer(url: &RemoteUrl, mut asked: UnboundedReceiver<Question>) {
    let mut connected: Option<Remote> = None;
    while let Some(Question { wanted, answer }) = asked.recv().await {
        let remote = match connected.take() {
            Some(remote) => Ok(remote),
            None => Remote::connect(url).await,
        };
        match remote {
            Ok(remote) => {
                connected = Some(remote.clone());
                tokio::spawn(async move {
                    // Whoever asked may have gone.
                    let _ = answer.send(chunks(&remote, &wanted).await);
                });
            }
            Err(error) => drop(answer.send(Err(error))),
        }
    }
}

/// The chunk that is wanted first, and as many of the others as come at once.
async fn chunks(remote: &Remote, wanted: &[Hash]) -> Result<Vec<Chunk>> {
    match get_ahead(remote, wanted, ANCESTORS).await {
        // One that is gone takes the others with it; they were asked for in case.
        Err(Error::NoChunk { .. }) if wanted.len() > 1 => get_ahead(remote, &wanted[..1], ANCESTORS).await,
        answer => answer,
    }
}
