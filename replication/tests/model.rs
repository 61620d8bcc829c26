//! The model check of roles and epochs: `pleach_replication::role`, the machine that the server runs, in a cluster of two or three nodes,
//! through every order of events that the bounds allow.
//!
//! The world: each node has a disk, which keeps what the machine persisted and the history of writes; what a primary has to say to its
//! peers is sent as soon as it can be. The network is the set of all messages ever sent: any of them may arrive at any time, again, or
//! never, so that loss, delay, duplication and reordering need no events of their own; but what was sent to a process dies with it, and
//! answers die with the stream, which ends with the caller's process, and when its standing changes. A node may crash between any two events, and
//! between the effects of one; it comes back with its disk. Operators ask for any role at any epoch, gracefully or not. A history that a
//! standby lacks travels whole, as the product sends differences of roots and keeps no log. There may be two databases, each with a history
//! of its own, whose changes overtake each other. The disk of a primary may be put back to before its last write: then it gets that back from a standby.
//!
//! Each mutant breaks one rule outside of the machine, where the server could break it too, and must be caught.
//!
//! `PLEACH_MODEL=large cargo test -p pleach-replication --test model --release NAME` goes further, for minutes and with gigabytes: one check at
//! a time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::collections::{BTreeMap, BTreeSet};

use pleach_replication::role::{
    Effect, Epoch, Input, NodeId, Quorum, Reaction, Role, Standing, State, Step, Writes, step,
};
use stateright::{Checker, Expectation, HasDiscoveries, Model, Property};

/// A cluster, what its writes wait for, and how far it is followed.
#[derive(Clone, Copy, Debug)]
struct Cluster {
    nodes: usize,
    /// Standbys that have a write before it is acknowledged.
    acks: usize,
    /// Writes go to one after the other.
    databases: usize,
    mutant: Option<Mutant>,
    bounds: Bounds,
}

#[derive(Clone, Copy, Debug)]
struct Bounds {
    epoch: u64,
    writes: usize,
    crashes: usize,
    /// How often the disk of a primary is put back to before its last write.
    losses: usize,
    /// How often operators ask for a role.
    assumed: usize,
    /// Every order of the first meetings and hand-overs as well: else the standbys follow the primary at the start, and operators promote
    /// alone.
    whole: bool,
}

/// A rule broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    /// A standby applies changes of a primary that it was fenced from.
    NoFence,
    /// What a step says is done before it is durable.
    ActBeforePersist,
    /// Writes are acknowledged by one standby fewer than the quorum was made for: holders and granters are all nodes, not more.
    OneAckTooFew,
    /// A standby grants an epoch to a second primary.
    TwoGrants,
    /// A primary that lost what a standby has goes on without.
    GoesOnWithout,
    /// Who claims a new epoch takes nothing from those that are ahead.
    TakesNothing,
    /// It takes all databases of one that is ahead in some.
    TakesAll,
}

/// A write: the epoch and the node that took it, and its number.
type Write = (u64, usize, usize);
/// Epoch and number of the last change of a database.
type Position = (u64, usize);
/// How far each database has come.
type Positions = Vec<Option<Position>>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    nodes: Vec<Node>,
    network: BTreeSet<Message>,
    /// Streams, from whom to whom, whose caller died while a part of them was on its way: that may still arrive, and cannot be answered.
    dead: BTreeSet<(usize, usize)>,
    /// What was acknowledged: in which epoch, by whom, in which database, and all writes up to the one.
    acked: BTreeSet<(u64, usize, usize, Vec<Write>)>,
    /// Who was made primary at which epoch.
    promoted: BTreeSet<(u64, usize)>,
    /// Some node applied a change of an epoch below its own.
    applied_lower: bool,
    handed_over: bool,
    /// A primary took what it lacked.
    adopted: bool,
    writes: usize,
    crashes: usize,
    losses: usize,
    assumed: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node {
    state: State,
    /// What it made durable: its standing, the last epoch in which it took writes, ...
    standing: Standing,
    led: Option<Epoch>,
    /// ... all writes of each database, ...
    histories: Vec<Vec<Write>>,
    /// ... and the position of the last change that it applied.
    applied: Positions,
    /// As primary in this standing: how many writes each standby has of each database.
    acks: BTreeMap<(usize, usize), usize>,
}

impl Node {
    /// As `Position::of` in the product.
    fn position(&self, database: usize) -> Option<Position> {
        let own = self.state.led.map(|led| (led.0, self.histories[database].len()));
        own.max(self.applied[database])
    }

    fn positions(&self) -> Positions {
        (0..self.histories.len()).map(|database| self.position(database)).collect()
    }

    /// The first database of which another, that is at `there`, has more.
    fn lacks(&self, there: &Positions) -> Option<usize> {
        (0..there.len()).find(|database| there[*database] > self.position(*database))
    }

    /// Whether standby `peer` has everything.
    fn has_everything(&self, peer: usize) -> bool {
        let has = |(database, history): (usize, &Vec<Write>)| {
            self.acks.get(&(peer, database)).copied().unwrap_or(0) == history.len()
        };
        self.histories.iter().enumerate().all(has)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Message {
    from: usize,
    to: usize,
    said: Said,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Said {
    /// A primary calls.
    Hello(Words),
    /// A node answers what it is; one that follows the caller, how far it has come as well.
    Answer(Words, Option<Positions>),
    /// All writes of a primary of that epoch in a database.
    Change(u64, usize, Vec<Write>),
    /// So many writes of a database are durable at a standby of that epoch.
    Ack(u64, usize, usize),
    /// A primary of that epoch lacks what the standby has of a database.
    Want(u64, usize),
    /// All writes of a standby of that epoch in a database, and how far it has come in each.
    Give(u64, usize, Vec<Write>, Positions),
}

impl Said {
    /// What a caller says after its Hello.
    fn is_on_a_stream(&self) -> bool {
        matches!(self, Said::Change(..) | Said::Want(..))
    }

    fn is_an_answer(&self) -> bool {
        matches!(self, Said::Answer(..) | Said::Ack(..) | Said::Give(..))
    }
}

/// A standing in an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Words {
    role: u8,
    epoch: u64,
    leader: Option<NodeId>,
}

const ROLES: [Role; 3] = [Role::Primary, Role::Standby, Role::DetectedBrokenConfig];

impl From<Standing> for Words {
    fn from(Standing { role, epoch, leader }: Standing) -> Words {
        let role = ROLES.iter().position(|one| *one == role).unwrap() as u8;
        Words { role, epoch: epoch.0, leader }
    }
}

impl From<Words> for Standing {
    fn from(words: Words) -> Standing {
        Standing { role: ROLES[words.role as usize], epoch: Epoch(words.epoch), leader: words.leader }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Action {
    Assume {
        node: usize,
        role: Role,
        epoch: u64,
    },
    HandedOver(usize),
    HandOverFailed(usize),
    Waited(usize),
    Write(usize),
    LoseDisk(usize),
    Deliver(Message),
    Crash(usize),
    /// The node crashes in the middle of what the event makes it do.
    AssumeAndCrash {
        node: usize,
        role: Role,
        epoch: u64,
    },
    DeliverAndCrash(Message),
}

impl World {
    /// Puts a message into the network, in place of what it outdates: a change of a shorter history, fewer writes acknowledged, and the
    /// answer to an earlier call, whose stream is gone.
    fn send(&mut self, message: Message) {
        if message.said.is_an_answer() && self.dead.contains(&(message.to, message.from)) {
            return;
        }
        let outdates = |old: &Message| match (&old.said, &message.said) {
            (Said::Change(old, in_old, _), Said::Change(new, in_new, _))
            | (Said::Ack(old, in_old, _), Said::Ack(new, in_new, _)) => (old, in_old) == (new, in_new),
            (Said::Answer(..), Said::Answer(..)) | (Said::Give(..), Said::Give(..)) => true,
            _ => false,
        };
        self.network.retain(|old| (old.from, old.to) != (message.from, message.to) || !outdates(old));
        self.network.insert(message);
    }
}

fn id(node: usize) -> NodeId {
    NodeId([node as u8 + 1; 16])
}

impl Cluster {
    fn quorum(&self) -> Quorum {
        Quorum::new(self.nodes - 1, self.acks)
    }

    /// Whether it is followed no further than to a new primary that takes writes.
    fn ends_with_a_leader(&self) -> bool {
        self.databases > 1 && !is_large()
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Runs the machine of `node`, and does its effects in order; with `crash`, until the first of them that a crash does not undo.
    /// Gives its answer, if it came to that.
    fn run(&self, world: &mut World, node: usize, input: &Input, crash: bool) -> Option<Reaction> {
        let one = &mut world.nodes[node];
        let Ok(Step { state, mut effects }) = step(&one.state, input) else { return None };
        if self.is(Mutant::ActBeforePersist) && effects.first() == Some(&Effect::Persist) {
            effects.rotate_left(1);
        }
        if crash {
            effects.truncate(if self.is(Mutant::ActBeforePersist) {
                effects.len().saturating_sub(1)
            } else {
                1
            });
        }
        let mut answer = None;
        for effect in effects {
            match effect {
                Effect::Persist => (one.standing, one.led) = (state.standing, state.led),
                Effect::Show => {
                    if one.state.standing != state.standing {
                        one.acks.clear();
                        // The streams that it opened end, with what peers answered on them.
                        world.network.retain(|message| message.to != node || !message.said.is_an_answer());
                    }
                    one.state = state.clone();
                }
                Effect::Answer(reaction) => answer = Some(reaction),
                Effect::Alarm(_) => {}
            }
        }
        answer
    }

    fn restart(&self, world: &mut World, node: usize) {
        let one = &mut world.nodes[node];
        one.state = State::start(id(node), one.standing, one.led, self.quorum(), false);
        one.acks.clear();
        // Nobody is there any more to get what was on its way to it; what it sent may still arrive, where it is not answered.
        world.network.retain(|message| message.to != node);
        let sent =
            world.network.iter().filter(|message| message.from == node && message.said.is_on_a_stream());
        world.dead.extend(sent.map(|message| (node, message.to)));
    }

    fn assume(&self, world: &mut World, node: usize, role: Role, epoch: u64, crash: bool) {
        self.run(world, node, &Input::Assume { role, epoch: Epoch(epoch) }, crash);
        if role == Role::Primary {
            world.promoted.insert((epoch, node));
        }
    }

    fn deliver(&self, world: &mut World, message: &Message, crash: bool) {
        let &Message { from, to, ref said } = message;
        if self.is(Mutant::TwoGrants) && matches!(said, Said::Hello(_)) {
            let one = &mut world.nodes[to];
            if one.state.standing.role == Role::Standby {
                one.state.standing.leader = None;
            }
        }
        match said {
            Said::Hello(words) => {
                // A stream that the caller had before ends.
                world.network.retain(|message| {
                    (message.from, message.to) != (from, to) || !message.said.is_on_a_stream()
                });
                world.dead.remove(&(from, to));
                let standing = Standing::from(*words);
                let meet = Input::Meet { node: id(from), standing };
                let Some(reaction) = self.run(world, to, &meet, crash) else { return };
                let one = &world.nodes[to];
                let told = (reaction == Reaction::Follow).then(|| one.positions());
                let said = Said::Answer(one.state.standing.into(), told);
                world.send(Message { from: to, to: from, said });
            }
            Said::Answer(words, told) => {
                let standing = Standing::from(*words);
                let meet = Input::Meet { node: id(from), standing };
                let reaction = self.run(world, to, &meet, crash);
                let one = &world.nodes[to];
                let mine = one.state.standing;
                let follows = (standing.role, standing.epoch, standing.leader)
                    == (Role::Standby, mine.epoch, Some(id(to)));
                if let (Some(Reaction::Lead), Some(there), true) = (reaction, told, follows) {
                    self.hear(world, to, from, there, crash);
                }
            }
            Said::Change(epoch, database, history) => {
                let change = Input::Change { leader: id(from), epoch: Epoch(*epoch) };
                let Some(reaction) = self.run(world, to, &change, false) else { return };
                let one = &mut world.nodes[to];
                let unfenced = self.is(Mutant::NoFence) && one.state.standing.role == Role::Standby;
                if reaction != Reaction::Follow && !unfenced {
                    let said = Said::Answer(one.state.standing.into(), None);
                    world.send(Message { from: to, to: from, said });
                    return;
                }
                // The compare-and-set of refs: a change goes on from what the same primary sent before. The first one replaces.
                let is_first = one.applied[*database].is_none_or(|(applied, _)| applied != *epoch);
                if !is_first && !history.starts_with(&one.histories[*database]) {
                    return;
                }
                world.applied_lower |= Epoch(*epoch) < one.standing.epoch;
                one.histories[*database].clone_from(history);
                one.applied[*database] = Some((*epoch, history.len()));
                if !crash {
                    let said = Said::Ack(*epoch, *database, history.len());
                    world.send(Message { from: to, to: from, said });
                }
            }
            Said::Want(epoch, database) => {
                let change = Input::Change { leader: id(from), epoch: Epoch(*epoch) };
                let Some(Reaction::Follow) = self.run(world, to, &change, false) else { return };
                let one = &world.nodes[to];
                let said = Said::Give(*epoch, *database, one.histories[*database].clone(), one.positions());
                world.send(Message { from: to, to: from, said });
            }
            Said::Give(epoch, database, history, there) => {
                let all = self.is(Mutant::TakesAll).then(|| world.nodes[from].histories.clone());
                let one = &mut world.nodes[to];
                if !one.state.adopts() || one.state.standing.epoch.0 != *epoch {
                    return;
                }
                if there[*database] > one.position(*database) {
                    one.histories[*database].clone_from(history);
                    one.applied[*database] = there[*database];
                    world.adopted = true;
                }
                if let Some(all) = all {
                    one.histories = all;
                }
                if !crash {
                    self.hear(world, to, from, there, crash);
                }
            }
            Said::Ack(epoch, database, writes) => {
                let one = &mut world.nodes[to];
                if one.state.leads() && one.state.standing.epoch.0 == *epoch {
                    let has = one.acks.entry((from, *database)).or_default();
                    *has = (*has).max(*writes);
                }
            }
        }
    }

    /// Has the machine of a primary know how far a standby has come, and asks for what is lacking.
    fn hear(&self, world: &mut World, node: usize, standby: usize, there: &Positions, crash: bool) {
        let lacks = world.nodes[node].lacks(there).filter(|_| !self.is(Mutant::GoesOnWithout));
        let epoch = world.nodes[node].state.standing.epoch;
        let told = Input::Told { node: id(standby), epoch, ahead: lacks.is_some() };
        self.run(world, node, &told, crash);
        let state = &world.nodes[node].state;
        let takes = state.adopts() && (state.has_led() || !self.is(Mutant::TakesNothing));
        if let Some(database) = lacks.filter(|_| takes) {
            world.send(Message { from: node, to: standby, said: Said::Want(epoch.0, database) });
        }
    }

    /// Whether a node that claims a new epoch comes to lead it if one other node that may grant it is there as well, and nobody else.
    fn may_lead_with(&self, world: &World, node: usize, other: usize) -> bool {
        let mut world = world.clone();
        // Each exchange is a few messages for each database.
        for round in 0..4 * (self.databases + 1) {
            let between: Vec<Message> = world
                .network
                .iter()
                .filter(|message| [(node, other), (other, node)].contains(&(message.from, message.to)))
                .cloned()
                .collect();
            for message in between {
                // A stream is opened once.
                let is_due = round == 0 || !matches!(message.said, Said::Hello(_));
                if is_due && world.network.contains(&message) {
                    self.deliver(&mut world, &message, false);
                }
            }
            self.go_on(&mut world);
            if world.nodes[node].state.leads() {
                return true;
            }
        }
        false
    }

    /// What primaries do whenever they can: send what they have to say, and acknowledge what enough standbys have.
    fn go_on(&self, world: &mut World) {
        let needed = self.acks - usize::from(self.is(Mutant::OneAckTooFew));
        for node in 0..self.nodes {
            let one = &world.nodes[node];
            if one.state.standing.role != Role::Primary {
                continue;
            }
            let epoch = one.state.standing.epoch;
            for to in (0..self.nodes).filter(|to| *to != node) {
                let one = &world.nodes[node];
                let mut says = vec![Said::Hello(one.state.standing.into())];
                if one.state.leads() {
                    let change = |(database, history): (usize, &Vec<Write>)| {
                        Said::Change(epoch.0, database, history.clone())
                    };
                    // Of several databases, those that are empty are of no interest.
                    let may_say =
                        |(_, history): &(usize, &Vec<Write>)| self.databases == 1 || !history.is_empty();
                    says.extend(one.histories.iter().enumerate().filter(may_say).map(change));
                }
                for said in says {
                    world.send(Message { from: node, to, said });
                }
            }
            let one = &world.nodes[node];
            for (database, history) in one.histories.iter().enumerate() {
                for writes in 1..=history.len() {
                    let of_it = one.acks.iter().filter(|((_, of), _)| *of == database);
                    let have = of_it.filter(|(_, has)| **has >= writes).count();
                    let history = &history[..writes];
                    let is_own = history[writes - 1].0 == epoch.0;
                    if is_own && have >= needed && one.state.may_acknowledge(epoch) {
                        world.acked.insert((epoch.0, node, database, history.to_vec()));
                    }
                }
            }
        }
    }
}

impl Model for Cluster {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let node = |node: usize| {
            let (role, leader) = if node == 0 { (Role::Primary, Some(id(0))) } else { (Role::Standby, None) };
            let standing = Standing { role, epoch: Epoch(1), leader };
            let state = State::start(id(node), standing, None, self.quorum(), true);
            let led = state.led;
            let (histories, applied) = (vec![Vec::new(); self.databases], vec![None; self.databases]);
            Node { state, standing, led, histories, applied, acks: BTreeMap::new() }
        };
        let mut world = World {
            nodes: (0..self.nodes).map(node).collect(),
            network: BTreeSet::new(),
            dead: BTreeSet::new(),
            acked: BTreeSet::new(),
            promoted: BTreeSet::from([(1, 0)]),
            applied_lower: false,
            handed_over: false,
            adopted: false,
            writes: 0,
            crashes: 0,
            losses: 0,
            assumed: 0,
        };
        self.go_on(&mut world);
        if !self.bounds.whole {
            for pass in 0..2 {
                let meetings: Vec<Message> = world.network.iter().cloned().collect();
                for message in meetings {
                    match message.said {
                        Said::Hello(_) if pass == 0 => self.deliver(&mut world, &message, false),
                        Said::Answer(..) if pass == 1 => self.deliver(&mut world, &message, false),
                        _ => {}
                    }
                }
            }
            self.go_on(&mut world);
        }
        vec![world]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        // Who comes to lead, and with what, is what is asked of two databases; what was acknowledged could have been so before.
        let leads = |node: &Node| node.state.leads() && node.standing.epoch.0 > 1;
        if self.ends_with_a_leader() && world.nodes.iter().any(leads) {
            return;
        }
        let may_crash = world.crashes < self.bounds.crashes;
        for node in 0..self.nodes {
            let state = &world.nodes[node].state;
            // Standbys are alike until an operator asks one: that one is called 1.
            let is_like_1 = node > 1 && world.assumed == 0;
            if world.assumed < self.bounds.assumed && !is_like_1 {
                for epoch in state.standing.epoch.0 + 1..=self.bounds.epoch {
                    for role in [Role::Primary, Role::Standby] {
                        if role == Role::Standby && !self.bounds.whole {
                            continue;
                        }
                        actions.push(Action::Assume { node, role, epoch });
                        if may_crash {
                            actions.push(Action::AssumeAndCrash { node, role, epoch });
                        }
                    }
                }
            }
            match &state.writes {
                Writes::Open if world.writes < self.bounds.writes => actions.push(Action::Write(node)),
                Writes::HandingOver { .. } => {
                    let one = &world.nodes[node];
                    let others = (0..self.nodes).filter(|other| *other != node);
                    let have = others.filter(|other| one.has_everything(*other)).count();
                    if have >= self.acks.max(1) {
                        actions.push(Action::HandedOver(node));
                    }
                    actions.push(Action::HandOverFailed(node));
                }
                // Who lost something and hears nobody in time goes on without: then two things went wrong at once.
                Writes::Claiming { heard, .. } if *heard > 0 && self.bounds.losses == 0 => {
                    actions.push(Action::Waited(node));
                }
                _ => {}
            }
            if may_crash {
                actions.push(Action::Crash(node));
            }
            let one = &world.nodes[node];
            let last = one.histories[0].last().map(|(epoch, by, _)| (Some(Epoch(*epoch)), *by));
            let is_its_own = one.standing.role == Role::Primary && last == Some((one.led, node));
            if is_its_own && world.losses < self.bounds.losses {
                actions.push(Action::LoseDisk(node));
            }
        }
        for message in &world.network {
            actions.push(Action::Deliver(message.clone()));
            if may_crash {
                actions.push(Action::DeliverAndCrash(message.clone()));
            }
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            Action::Assume { node, role, epoch } => {
                world.assumed += 1;
                self.assume(&mut world, node, role, epoch, false);
            }
            Action::AssumeAndCrash { node, role, epoch } => {
                world.assumed += 1;
                world.crashes += 1;
                self.assume(&mut world, node, role, epoch, true);
                self.restart(&mut world, node);
            }
            Action::HandedOver(node) => {
                world.handed_over = true;
                self.run(&mut world, node, &Input::HandedOver, false);
            }
            Action::HandOverFailed(node) => drop(self.run(&mut world, node, &Input::HandOverFailed, false)),
            Action::Waited(node) => drop(self.run(&mut world, node, &Input::Waited, false)),
            Action::Write(node) => {
                world.writes += 1;
                let database = world.writes % self.databases;
                let one = &mut world.nodes[node];
                one.histories[database].push((one.state.standing.epoch.0, node, world.writes));
            }
            Action::LoseDisk(node) => {
                world.losses += 1;
                let one = &mut world.nodes[node];
                one.histories[0].pop();
                let kept = one.histories[0].len();
                // What it adopted before is part of its disk, too.
                one.applied[0] = one.applied[0].map(|(epoch, sequence)| (epoch, sequence.min(kept)));
                self.restart(&mut world, node);
            }
            Action::Deliver(message) => self.deliver(&mut world, &message, false),
            Action::DeliverAndCrash(message) => {
                world.crashes += 1;
                self.deliver(&mut world, &message, true);
                self.restart(&mut world, message.to);
            }
            Action::Crash(node) => {
                world.crashes += 1;
                self.restart(&mut world, node);
            }
        }
        self.go_on(&mut world);
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Cluster>> {
        let mut properties = vec![
            Property::always("at most one node acknowledges in an epoch", |_, world: &World| {
                let by_epoch: BTreeMap<u64, usize> =
                    world.acked.iter().map(|(epoch, node, ..)| (*epoch, *node)).collect();
                world.acked.iter().all(|(epoch, node, ..)| by_epoch[epoch] == *node)
            }),
            Property::always("a primary has what was acknowledged up to its epoch", |_, world: &World| {
                world.nodes.iter().filter(|node| node.state.leads()).all(|node| {
                    let before =
                        world.acked.iter().filter(|(epoch, ..)| *epoch <= node.state.standing.epoch.0);
                    before
                        .into_iter()
                        .all(|(.., database, history)| node.histories[*database].starts_with(history))
                })
            }),
            Property::always(
                "an acknowledged write stays where it was promised",
                |model: &Cluster, world: &World| {
                    world.acked.iter().all(|(.., database, history)| {
                        let has = |node: &&Node| node.histories[*database].starts_with(history);
                        world.nodes.iter().filter(has).count() + world.losses > model.acks
                    })
                },
            ),
            Property::always("what was acknowledged is one chain", |_, world: &World| {
                let all = || world.acked.iter().map(|(.., database, history)| (database, history));
                all().all(|(of, one)| {
                    let of_it = all().filter(|(database, _)| *database == of);
                    of_it.into_iter().all(|(_, other)| one.starts_with(other) || other.starts_with(one))
                })
            }),
            Property::always("nothing shows a standing that is not durable", |_, world: &World| {
                let said = |message: &Message| match &message.said {
                    Said::Hello(words) | Said::Answer(words, _) => words.epoch,
                    Said::Change(epoch, ..) | Said::Ack(epoch, ..) => *epoch,
                    Said::Want(epoch, _) | Said::Give(epoch, ..) => *epoch,
                };
                world
                    .network
                    .iter()
                    .all(|message| said(message) <= world.nodes[message.from].standing.epoch.0)
            }),
            Property::always("a node grants an epoch to one primary", |_, world: &World| {
                let mut granted = BTreeMap::new();
                world.network.iter().all(|message| match &message.said {
                    Said::Answer(words, Some(_)) => {
                        *granted.entry((message.from, words.epoch)).or_insert(words.leader) == words.leader
                    }
                    _ => true,
                })
            }),
            Property::always("nothing of a lower epoch is applied", |_, world: &World| !world.applied_lower),
            Property::always("a configuration is broken by two primaries of an epoch", |_, world: &World| {
                let is_broken = |node: &&Node| node.state.standing.role == Role::DetectedBrokenConfig;
                world.nodes.iter().filter(is_broken).all(|node| {
                    let epoch = node.state.standing.epoch.0;
                    world.promoted.iter().filter(|(promoted, _)| *promoted == epoch).count() >= 2
                })
            }),
        ];
        // What it takes is caught by what is lost.
        if !self.is(Mutant::TakesAll) {
            properties.push(Property::always(
                "who is asked to lead does so with as many as must agree",
                |model: &Cluster, world: &World| {
                    let highest = world.nodes.iter().map(|node| node.standing.epoch).max();
                    (0..model.nodes).all(|node| {
                        let Node { state, standing, .. } = &world.nodes[node];
                        let claims = matches!(state.writes, Writes::Claiming { heard: 0, .. });
                        let is_new = claims && !state.has_led() && Some(standing.epoch) == highest;
                        let may_grant = |other: &usize| {
                            let there = world.nodes[*other].standing;
                            let is_free =
                                there.role == Role::Standby && there.leader.is_none_or(|led| led == id(node));
                            *other != node && (there.epoch < standing.epoch || is_free)
                        };
                        !is_new
                            || model.quorum().grants() > 1
                            || (0..model.nodes)
                                .filter(may_grant)
                                .all(|other| model.may_lead_with(world, node, other))
                    })
                },
            ));
        }
        // Against a model in which nothing happens.
        if self.bounds.assumed > 0 && !self.ends_with_a_leader() {
            properties.push(Property::sometimes(
                "a write is acknowledged after a change of roles",
                |_, world: &World| world.acked.iter().any(|(epoch, node, ..)| *epoch > 1 && *node != 0),
            ));
        }
        if self.bounds.losses > 0 {
            properties.push(Property::sometimes(
                "a primary gets back what it lost, and acknowledges more",
                |_, world: &World| world.adopted && world.acked.iter().any(|(.., acked)| acked.len() > 1),
            ));
        }
        if self.databases > 1 {
            properties.push(Property::sometimes(
                "a node that has the most of neither database comes to lead, with all",
                |_, world: &World| {
                    let has_all = |node: &Node| node.histories.iter().all(|history| !history.is_empty());
                    let leads = |node: &Node| node.state.leads() && node.standing.epoch.0 > 1;
                    world.adopted && world.nodes.iter().any(|node| leads(node) && has_all(node))
                },
            ));
        }
        if self.bounds.whole && self.bounds.assumed > 0 {
            properties
                .push(Property::sometimes("a primary hands over", |_, world: &World| world.handed_over));
        }
        if self.bounds.assumed > 1 {
            properties.push(Property::sometimes(
                "two primaries of an epoch are found",
                |_, world: &World| {
                    world.nodes.iter().any(|node| node.state.standing.role == Role::DetectedBrokenConfig)
                },
            ));
        }
        properties
    }
}

/// Follows every order of events, and says how many states there are.
fn check(nodes: usize, acks: usize, bounds: Bounds) {
    check_all(Cluster { nodes, acks, databases: 1, mutant: None, bounds });
}

fn check_all(cluster: Cluster) {
    let Cluster { nodes, acks, databases, bounds, .. } = cluster;
    let started = std::time::Instant::now();
    let checker = cluster.checker().threads(2).spawn_bfs().join();
    println!(
        "{nodes} nodes, {databases} databases, {acks} must acknowledge, {bounds:?}: {} states, {} transitions, depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        started.elapsed().as_secs_f64(),
    );
    checker.assert_properties();
}

/// Finds an order of events that breaks what the mutant breaks.
fn catches(mutant: Mutant, nodes: usize, acks: usize, bounds: Bounds) {
    catches_in(Cluster { nodes, acks, databases: 1, mutant: Some(mutant), bounds });
}

fn catches_in(cluster: Cluster) {
    let mutant = cluster.mutant;
    let checker = cluster.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let failures: Vec<_> = checker
        .discoveries()
        .into_iter()
        .filter(|(name, _)| checker.model().property(name).expectation == Expectation::Always)
        .map(|(name, path)| (name, path.into_actions().len()))
        .collect();
    println!("{mutant:?}: caught in {} states: {failures:?}", checker.unique_state_count());
    assert!(!failures.is_empty(), "{mutant:?} was not caught");
}

fn is_large() -> bool {
    std::env::var("PLEACH_MODEL").is_ok_and(|size| size == "large")
}

#[test]
fn two_nodes_keep_what_they_promise() {
    check(
        2,
        1,
        Bounds {
            epoch: 3,
            writes: 2,
            crashes: 1,
            losses: 0,
            assumed: if is_large() { 3 } else { 2 },
            whole: true,
        },
    );
}

/// How far three nodes are followed.
fn three_nodes(acks: usize) -> Bounds {
    // With grants there are too many states of both.
    let writes = if is_large() && acks == 2 { 2 } else { 1 };
    Bounds { epoch: 2, writes, crashes: 1, losses: 0, assumed: 1, whole: is_large() }
}

#[test]
fn three_nodes_of_which_all_acknowledge_keep_what_they_promise() {
    check(3, 2, three_nodes(2));
}

#[test]
fn three_nodes_of_which_one_acknowledges_keep_what_they_promise() {
    check(3, 1, three_nodes(1));
}

/// Three nodes, two databases with a write each.
fn two_databases(mutant: Option<Mutant>) -> Cluster {
    let crashes = usize::from(is_large());
    let bounds = Bounds { epoch: 2, writes: 2, crashes, losses: 0, assumed: 1, whole: false };
    Cluster { nodes: 3, acks: 1, databases: 2, mutant, bounds }
}

#[test]
fn c17_three_nodes_of_which_none_has_the_most_of_both_databases_keep_what_they_promise() {
    check_all(two_databases(None));
}

#[test]
fn c17_who_takes_nothing_from_those_that_are_ahead_is_caught() {
    catches_in(two_databases(Some(Mutant::TakesNothing)));
}

#[test]
fn c17_who_takes_all_databases_of_one_that_is_ahead_in_some_is_caught() {
    catches_in(two_databases(Some(Mutant::TakesAll)));
}

#[test]
fn c36_two_nodes_keep_what_they_promise_when_the_primary_loses_its_disk() {
    let crashes = if is_large() { 1 } else { 0 };
    check(2, 1, Bounds { epoch: 2, writes: 2, crashes, losses: 1, assumed: 1, whole: true });
}

#[test]
fn c36_three_nodes_keep_what_they_promise_when_the_primary_loses_its_disk() {
    for acks in [1, 2] {
        // A node that lost its disk must not be one that grants an epoch: where grants are needed, roles stay meanwhile.
        let assumed = if is_large() && acks == 2 { 1 } else { 0 };
        check(3, acks, Bounds { epoch: 2, writes: 2, crashes: 0, losses: 1, assumed, whole: is_large() });
    }
}

#[test]
fn c36_a_primary_that_goes_on_without_what_it_lost_is_caught() {
    let bounds = Bounds { epoch: 1, writes: 2, crashes: 0, losses: 1, assumed: 0, whole: true };
    catches(Mutant::GoesOnWithout, 2, 1, bounds);
}

#[test]
fn a_cluster_that_does_not_fence_is_caught() {
    catches(
        Mutant::NoFence,
        2,
        1,
        Bounds { epoch: 3, writes: 2, crashes: 0, losses: 0, assumed: 2, whole: true },
    );
}

#[test]
fn a_node_that_acts_before_it_persists_is_caught() {
    catches(
        Mutant::ActBeforePersist,
        2,
        1,
        Bounds { epoch: 2, writes: 1, crashes: 1, losses: 0, assumed: 1, whole: is_large() },
    );
}

#[test]
fn a_quorum_that_is_one_too_small_is_caught() {
    for acks in [1, 2] {
        catches(
            Mutant::OneAckTooFew,
            3,
            acks,
            Bounds { epoch: 2, writes: 1, crashes: 0, losses: 0, assumed: 1, whole: is_large() },
        );
    }
    catches(
        Mutant::OneAckTooFew,
        2,
        1,
        Bounds { epoch: 2, writes: 1, crashes: 0, losses: 0, assumed: 1, whole: is_large() },
    );
}

#[test]
fn a_standby_that_grants_an_epoch_twice_is_caught() {
    catches(
        Mutant::TwoGrants,
        3,
        1,
        Bounds { epoch: 2, writes: 1, crashes: 0, losses: 0, assumed: 2, whole: true },
    );
}
