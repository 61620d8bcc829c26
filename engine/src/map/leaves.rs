//! Building a map from many rows in order, by several threads: the caller's thread cuts rows into leaves, others encode and hash these, and one
//! gathers them in order, makes the nodes above and writes all.
//!
//! Where a leaf ends depends on keys alone, so it is known before the leaf is encoded; and as leaves are gathered in order, nodes and the
//! order in which they are written are those that one thread makes. A map of few leaves is made by the caller's thread.

use std::{
    mem,
    num::NonZeroUsize,
    sync::mpsc::{self, Receiver, Sender, SyncSender},
    thread::{Scope, ScopedJoinHandle},
};

use parking_lot::{Mutex, MutexGuard};
use pleach_chunkstore::{Chunk, Hash};

use super::{
    build::{Ascending, Closed, TreeBuilder},
    config::MapConfig,
    node::{Encoder, Stored},
};
use crate::{
    chunks::Writer,
    error::{Error, Result},
};

/// So many leaves are made by the caller's thread: for fewer no thread is worth starting.
const ALONE_MAX: u64 = 64;
/// Leaves that go from thread to thread together.
const TOGETHER: usize = 64;
/// How often as many wait for a thread.
const WAITING: usize = 2;

/// A leaf: its entry in the level above, and its chunk.
type Made = (Closed, Chunk);

/// Leaves on their way.
enum Leaves {
    Cut(Vec<Encoder>),
    Made(Result<Vec<Made>>),
}

/// Takes the rows of a map.
pub(crate) struct RowBuilder<'scope, 'env, 'w> {
    scope: &'scope Scope<'scope, 'env>,
    writer: &'env Mutex<&'w mut Writer>,
    config: MapConfig,
    threads: Option<NonZeroUsize>,
    order: Ascending,
    leaf: Encoder,
    cut: u64,
    state: State<'scope>,
}

enum State<'scope> {
    Alone(TreeBuilder),
    Together(Line<'scope>),
    /// The line came to an end before the rows did.
    Over,
}

/// Threads in a line.
struct Line<'scope> {
    /// Leaves that wait to be handed on.
    full: Vec<Encoder>,
    /// To the threads that make leaves, in turn.
    makers: Vec<SyncSender<Leaves>>,
    turn: usize,
    /// Encoders that can be used again.
    spare: Receiver<Encoder>,
    gatherer: ScopedJoinHandle<'scope, Result<TreeBuilder>>,
}

/// Builds the map of the rows that `fill` gives in strictly ascending order; returns its root. No more than `threads` threads work on it, the
/// caller's included; without a number as many as run at once.
pub(crate) fn build(
    writer: &mut Writer,
    config: MapConfig,
    threads: Option<NonZeroUsize>,
    fill: impl FnOnce(&mut RowBuilder<'_, '_, '_>) -> Result<()>,
) -> Result<Hash> {
    let shared = Mutex::new(writer);
    let built = std::thread::scope(|scope| {
        let state = State::Alone(TreeBuilder::new(config));
        let (order, leaf) = (Ascending::default(), Encoder::new(0));
        let mut rows = RowBuilder { scope, writer: &shared, config, threads, order, leaf, cut: 0, state };
        fill(&mut rows)?;
        rows.finish()
    });
    built?.finish(shared.into_inner())
}

impl<'env, 'w> RowBuilder<'_, 'env, 'w> {
    /// Adds a row. Chunks that its value leads to were put into [`RowBuilder::writer`] before.
    pub(crate) fn push(&mut self, key: &[u8], value: Stored<'_>) -> Result<()> {
        self.order.check(key)?;
        self.leaf.push_value(key, value);
        match self.config.ends_node(0, key, self.leaf.len()) {
            true => self.cut_leaf(),
            false => Ok(()),
        }
    }

    /// Where the map is written.
    pub(crate) fn writer(&self) -> MutexGuard<'env, &'w mut Writer> {
        self.writer.lock()
    }

    fn cut_leaf(&mut self) -> Result<()> {
        self.cut += 1;
        match &mut self.state {
            State::Alone(builder) => {
                let made = make(&mut self.leaf)?;
                builder.push_leaf(&mut self.writer.lock(), made)?;
                if self.cut == ALONE_MAX {
                    self.start();
                }
            }
            State::Together(line) => {
                let next = line.spare.try_recv().unwrap_or_else(|_| Encoder::new(0));
                line.full.push(mem::replace(&mut self.leaf, next));
                if line.full.len() == TOGETHER && line.hand_on().is_err() {
                    return self.end().and(Err(Error::Unanswered));
                }
            }
            State::Over => {}
        }
        Ok(())
    }

    /// Starts the threads, if there are to be any beside the caller's.
    fn start(&mut self) {
        let threads = self.threads.or_else(|| std::thread::available_parallelism().ok());
        let Some(others) = threads.map(NonZeroUsize::get).and_then(|threads| threads.checked_sub(2)) else {
            return;
        };
        let State::Alone(builder) = mem::replace(&mut self.state, State::Over) else { return };
        let (give_back, spare) = mpsc::channel();
        let (mut makers, mut sources) = (Vec::new(), Vec::new());
        // With two threads the one that gathers leaves makes them, too.
        for maker in 0..others.max(1) {
            let (sender, receiver) = mpsc::sync_channel(WAITING);
            makers.push(sender);
            sources.push(match others > maker {
                true => {
                    let (made, source) = mpsc::sync_channel(WAITING);
                    let give_back = give_back.clone();
                    self.scope.spawn(move || make_all(&receiver, &made, &give_back));
                    source
                }
                false => receiver,
            });
        }
        let writer = self.writer;
        let gatherer = self.scope.spawn(move || gather(builder, writer, &sources, &give_back));
        self.state = State::Together(Line { full: Vec::new(), makers, turn: 0, spare, gatherer });
    }

    /// Hands the last leaves on; the builder then has them all.
    fn finish(mut self) -> Result<TreeBuilder> {
        if self.leaf.len() > 0 {
            self.cut_leaf()?;
        }
        self.end()
    }

    /// Waits for the threads, and gives what they made or why they stopped.
    fn end(&mut self) -> Result<TreeBuilder> {
        match mem::replace(&mut self.state, State::Over) {
            State::Alone(builder) => Ok(builder),
            State::Over => Err(Error::Unanswered),
            State::Together(mut line) => {
                // Whoever does not take them says why when it is joined.
                let _taken = line.hand_on();
                drop(line.makers);
                line.gatherer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
        }
    }
}

impl Line<'_> {
    /// Hands leaves on to the thread whose turn it is; an error if it has stopped.
    fn hand_on(&mut self) -> Result<(), mpsc::SendError<Leaves>> {
        let leaves = mem::take(&mut self.full);
        let maker = &self.makers[self.turn % self.makers.len()];
        self.turn += 1;
        maker.send(Leaves::Cut(leaves))
    }
}

fn make(leaf: &mut Encoder) -> Result<Made> {
    let key = leaf.last_key().to_vec();
    let chunk = leaf.finish();
    Ok((Closed::of(key, &chunk)?, chunk))
}

/// Makes leaves as long as some come and someone wants them.
fn make_all(cut: &Receiver<Leaves>, made: &SyncSender<Leaves>, give_back: &Sender<Encoder>) {
    while let Ok(leaves) = cut.recv() {
        if made.send(Leaves::Made(made_of(leaves, give_back))).is_err() {
            return;
        }
    }
}

fn made_of(leaves: Leaves, give_back: &Sender<Encoder>) -> Result<Vec<Made>> {
    match leaves {
        Leaves::Made(made) => made,
        Leaves::Cut(cut) => cut
            .into_iter()
            .map(|mut leaf| {
                let made = make(&mut leaf);
                // Whoever cuts may have no more to cut.
                let _given = give_back.send(leaf);
                made
            })
            .collect(),
    }
}

/// Takes leaves from the sources in turn, until one has no more.
fn gather(
    mut builder: TreeBuilder,
    writer: &Mutex<&mut Writer>,
    sources: &[Receiver<Leaves>],
    give_back: &Sender<Encoder>,
) -> Result<TreeBuilder> {
    for source in sources.iter().cycle() {
        let Ok(leaves) = source.recv() else { break };
        for made in made_of(leaves, give_back)? {
            builder.push_leaf(&mut writer.lock(), made)?;
        }
    }
    Ok(builder)
}
