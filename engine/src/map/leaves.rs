//! Building a map from many rows in order, by several threads: the caller's thread cuts rows into leaves, others encode and hash these, and one
//! gathers them in order, makes the nodes above and writes all. Of two threads the caller's makes the leaves, too: that is about half of the work.
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
    node::{Encoder, Node, Stored},
};
use crate::{
    chunks::Writer,
    error::{Error, Result},
};

/// So many leaves are made by the caller's thread: for fewer no thread is worth starting.
const ALONE_MAX: u64 = 64;
/// The one that gathers has nearly half of the work: more threads would wait for it.
const THREADS_MAX: usize = 4;
/// Leaves that go from thread to thread together.
const TOGETHER: usize = 16;
/// How often as many wait for a thread.
const WAITING: usize = 2;

/// A leaf: its entry in the level above, and its chunk.
type Made = (Closed, Chunk);

/// Leaves that were made together, in order.
type Gathered = Result<Vec<Made>>;

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

/// The caller's thread, and those behind it.
struct Line<'scope> {
    outlet: Outlet,
    gatherer: ScopedJoinHandle<'scope, Result<TreeBuilder>>,
}

/// How the caller's thread hands leaves on.
enum Outlet {
    /// It makes them.
    Made { leaves: Vec<Made>, gatherer: SyncSender<Gathered> },
    /// It leaves that to other threads, which take them in turn, and give encoders back to be used again.
    Cut { leaves: Vec<Encoder>, makers: Vec<SyncSender<Vec<Encoder>>>, turn: usize, spare: Receiver<Encoder> },
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
                if !line.outlet.take(&mut self.leaf)? {
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
        let threads = threads.map_or(1, NonZeroUsize::get).min(THREADS_MAX);
        // Beside the caller's and the one that gathers.
        let Some(others) = threads.checked_sub(2) else { return };
        let State::Alone(builder) = mem::replace(&mut self.state, State::Over) else { return };
        let mut sources = Vec::new();
        let outlet = if others == 0 {
            let (gatherer, source) = mpsc::sync_channel(WAITING);
            sources.push(source);
            Outlet::Made { leaves: Vec::new(), gatherer }
        } else {
            let (give_back, spare) = mpsc::channel();
            let mut makers = Vec::new();
            for _ in 0..others {
                let (maker, cut) = mpsc::sync_channel(WAITING);
                let (gatherer, source) = mpsc::sync_channel(WAITING);
                let give_back = give_back.clone();
                self.scope.spawn(move || make_all(&cut, &gatherer, &give_back));
                makers.push(maker);
                sources.push(source);
            }
            Outlet::Cut { leaves: Vec::new(), makers, turn: 0, spare }
        };
        let writer = self.writer;
        let gatherer = self.scope.spawn(move || gather(builder, writer, &sources));
        self.state = State::Together(Line { outlet, gatherer });
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
            State::Together(Line { mut outlet, gatherer }) => {
                // A gatherer that does not take them says why when it is joined.
                let _is_taken = outlet.hand_on();
                drop(outlet);
                gatherer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
        }
    }
}

impl Outlet {
    /// Takes a leaf, and leaves an empty one; false if nobody wants leaves any longer.
    fn take(&mut self, leaf: &mut Encoder) -> Result<bool> {
        let waiting = match self {
            Outlet::Made { leaves, .. } => {
                leaves.push(make(leaf)?);
                leaves.len()
            }
            Outlet::Cut { leaves, spare, .. } => {
                let next = spare.try_recv().unwrap_or_else(|_| Encoder::new(0));
                leaves.push(mem::replace(leaf, next));
                leaves.len()
            }
        };
        Ok(waiting < TOGETHER || self.hand_on())
    }

    /// Hands on what waits; false if nobody wants it any longer.
    fn hand_on(&mut self) -> bool {
        match self {
            Outlet::Made { leaves, gatherer } => gatherer.send(Ok(mem::take(leaves))).is_ok(),
            Outlet::Cut { leaves, makers, turn, .. } => {
                let maker = &makers[*turn % makers.len()];
                *turn += 1;
                maker.send(mem::take(leaves)).is_ok()
            }
        }
    }
}

fn make(leaf: &mut Encoder) -> Result<Made> {
    let key = leaf.last_key().to_vec();
    let chunk = leaf.finish();
    Ok((Closed::of(key, &Node::parse(chunk.clone())?), chunk))
}

/// Makes leaves as long as some come and someone wants them.
fn make_all(cut: &Receiver<Vec<Encoder>>, gatherer: &SyncSender<Gathered>, give_back: &Sender<Encoder>) {
    while let Ok(leaves) = cut.recv() {
        let made = leaves.into_iter().map(|mut leaf| {
            let made = make(&mut leaf);
            // The caller's thread may have no more to cut.
            let _is_taken = give_back.send(leaf);
            made
        });
        if gatherer.send(made.collect()).is_err() {
            return;
        }
    }
}

/// Takes leaves from the sources in turn, until one has no more.
fn gather(
    mut builder: TreeBuilder,
    writer: &Mutex<&mut Writer>,
    sources: &[Receiver<Gathered>],
) -> Result<TreeBuilder> {
    for source in sources.iter().cycle() {
        let Ok(leaves) = source.recv() else { break };
        for made in leaves? {
            builder.push_leaf(&mut writer.lock(), made)?;
        }
    }
    Ok(builder)
}
