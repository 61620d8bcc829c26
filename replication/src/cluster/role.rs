//! Roles and epochs: what a node is, and what it becomes when an operator asks or when it meets another node, as a state machine:
//! [`step`] takes a [`State`] and an [`Input`], and gives the next state and its [`Effect`]s in the order in which they must happen. Pure:
//! no clock, no disk, no network. `node` runs it in the server; `tests/model.rs` runs the same code through every order of events.
//!
//! A node that is asked for a role, by its epoch `e` and the epoch asked for `n`:
//!
//! | `n < e` | `n = e`, same role | `n = e`, other role | `n > e`, same role | `n > e`, other role |
//! |---|---|---|---|---|
//! | refused | nothing | refused | its epoch rises | primary → standby: hands over first; else taken at once |
//!
//! A node that meets a peer, whoever called, by its epoch `e` and the peer's `p`:
//!
//! | this node \ peer | primary | standby | broken configuration |
//! |---|---|---|---|
//! | any | `p > e + `[`EPOCH_JUMP_MAX`]: nothing, with an alarm | the same | the same |
//! | primary | `p > e`: becomes standby@p and follows · `p = e`: breaks · `p < e`: fences | `p > e`: steps down, standby@e · `p = e` and led by another: breaks · else leads | `p > e`: steps down · `p = e` and it names another claimant: breaks · `p = e` without: nothing, with an alarm · `p < e`: leads nothing |
//! | standby | `p > e`, or `p = e` and led by it or by nobody known: follows at p · else fences | nothing | nothing |
//! | broken configuration | `p > e`: becomes standby@p and follows · else fences | nothing | nothing |
//!
//! A primary takes writes ([`Writes`]):
//!
//! | | becomes | when |
//! |---|---|---|
//! | claiming, just restarted | claiming a higher epoch | never: what it lost must not be left behind |
//! | claiming an epoch that it led | open | it has the grants of its [`Quorum`]; enough standbys told what they have, or it waited for them; and none has something that this node lost and has not got back from it |
//! | claiming another | open | it has the grants of its [`Quorum`] |
//! | open | handing over | it is asked to be a standby at a higher epoch |
//! | handing over | open | too few standbys catch up in time |
//! | handing over | standby | every standby has everything, or as many as were asked for do at the end of the time |
//!
//! A grant is a standby of this epoch that follows this node and has nothing that this node lacks. A standby grants one primary in an
//! epoch, durably. As those that hold an acknowledged write and those that grant are more than all nodes ([`Quorum`]), a primary that
//! takes writes has every write that was acknowledged before.
//!
//! A standby that has more of some database may have less of another, as nothing orders databases. So a node that claims takes from it, of each
//! database, what goes beyond its own, and has the grant then: the greatest position of each among the quorum holds whatever was
//! acknowledged of it. That position stays what it is meanwhile, as who follows the claimant takes nothing from anybody else.
//!
//! Invariants, each held by a test over all pairs of standings below, and by the model check:
//! 1. An epoch never falls, and rises only by assuming a role or on meeting a primary of a higher one: a peer that is no primary moves
//!    nobody's.
//! 2. Meeting never makes a primary.
//! 3. A node follows only a primary whose epoch is at least its own, and one leader in an epoch.
//! 4. Two primaries of one epoch that meet are both broken, whoever called; nobody is without two claimants of its epoch.
//! 5. What changes the standing persists it first: nothing shows a standing that a crash takes back.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// The fencing number of a cluster: who leads at a higher epoch wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who a node is: 16 bytes that it chose once and keeps beside its role.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 16]);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a node does in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Takes writes and sends them to its standbys.
    Primary,
    /// Takes the changes of a primary, and no other writes.
    Standby,
    /// Found another primary of its own epoch: takes nothing until a role is assumed at a higher one.
    DetectedBrokenConfig,
}

impl Role {
    /// The word for it: `primary`, `standby`, `detected_broken_config`.
    pub fn word(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Standby => "standby",
            Role::DetectedBrokenConfig => "detected_broken_config",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Role {
    type Err = Refusal;

    /// Reads a role that can be asked for: `primary` or `standby`.
    fn from_str(word: &str) -> Result<Role, Refusal> {
        match word {
            "primary" => Ok(Role::Primary),
            "standby" => Ok(Role::Standby),
            "detected_broken_config" => Err(Refusal::BrokenConfig),
            _ => Err(Refusal::UnknownRole { word: word.to_owned() }),
        }
    }
}

/// How far above its own epoch a node believes a peer: a higher one would use the epochs up. An operator may go further.
pub const EPOCH_JUMP_MAX: u64 = 1 << 20;

/// Role and epoch of a node, and who leads that epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Standing {
    /// The role.
    pub role: Role,
    /// The epoch.
    pub epoch: Epoch,
    /// The primary of this epoch, if this node knows it: itself, or the one that it follows. Of a broken configuration: the other node
    /// that claimed this epoch.
    pub leader: Option<NodeId>,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at epoch {}", self.role, self.epoch)
    }
}

/// Why a role is not assumed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The epoch is lower than the node's.
    #[error("error assuming role '{role}' at epoch {epoch}; already at epoch {current}")]
    LowerEpoch {
        /// The role asked for.
        role: Role,
        /// The epoch asked for.
        epoch: Epoch,
        /// The node's.
        current: Epoch,
    },
    /// At the node's epoch its role does not change.
    #[error(
        "error assuming role '{role}' at epoch {epoch}; already at epoch {epoch} with different role, '{current}'; \
         take a higher epoch"
    )]
    OtherRole {
        /// The role asked for.
        role: Role,
        /// The epoch asked for, which is the node's.
        epoch: Epoch,
        /// The node's role.
        current: Role,
    },
    /// A primary that takes no writes yet has nothing to hand over.
    #[error(
        "error assuming role 'standby' at epoch {epoch}; this node is primary at epoch {current} and takes no writes yet, because other \
         nodes have not granted it: assume the role of primary on another node at epoch {epoch}, and this one follows it"
    )]
    Claiming {
        /// The epoch asked for.
        epoch: Epoch,
        /// The node's.
        current: Epoch,
    },
    /// A primary that has just restarted may lack what it acknowledged.
    #[error(
        "error assuming role 'primary' at epoch {epoch}; this node is primary at epoch {current}, has restarted, and asks its standbys \
         whether they have what was lost here: try again in a moment. If it does not get that back, assume the role on the standby that has it"
    )]
    GettingBack {
        /// The epoch asked for.
        epoch: Epoch,
        /// The node's.
        current: Epoch,
    },
    /// It hands over already.
    #[error("this node hands over at this moment; look at the cluster's status and try again")]
    HandingOver,
    /// `detected_broken_config` is found, not taken.
    #[error("cannot set role to detected_broken_config; valid values are 'primary' and 'standby'")]
    BrokenConfig,
    /// No role.
    #[error("'{word}' is no role; valid roles are 'primary' and 'standby'")]
    UnknownRole {
        /// The word as given.
        word: String,
    },
}

/// How many nodes must agree with a primary before it takes writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quorum {
    peers: usize,
    acks: usize,
}

impl Quorum {
    /// For a node with `peers`, of which `acks` have a write before it is acknowledged. With 0, nothing that is acknowledged is sure to
    /// be anywhere else, and a primary needs nobody's grant.
    pub fn new(peers: usize, acks: usize) -> Quorum {
        Quorum { peers, acks: acks.min(peers) }
    }

    /// Peers that must grant an epoch. Holders and granters, the primary among both, are more than all nodes: (acks + 1) + (grants + 1)
    /// > peers + 1.
    pub fn grants(self) -> usize {
        if self.acks == 0 { 0 } else { self.peers - self.acks }
    }

    /// Peers that are heard after a restart, if they answer in time: one of them has whatever was acknowledged.
    pub fn heard(self) -> usize {
        (self.peers + 1).saturating_sub(self.acks.max(1))
    }

    /// Whether what is acknowledged can be lost with the primary.
    pub fn may_lose(self) -> bool {
        self.acks == 0
    }
}

/// Whether a node takes writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Writes {
    /// It is no primary.
    No,
    /// It is primary, and takes none until enough peers granted it.
    Claiming {
        /// Those that did.
        granted: BTreeSet<NodeId>,
        /// How many are to be heard, though fewer grants would do.
        heard: usize,
        /// Those that have something that this node lacks: it gets that from them, and is then told that they are ahead no more. If it led
        /// this epoch already, it lost that, and does not go on without, unless nothing was promised.
        ahead: BTreeSet<NodeId>,
    },
    /// It takes writes.
    Open,
    /// It takes no more, and becomes a standby once its standbys have everything.
    HandingOver {
        /// At this epoch.
        epoch: Epoch,
    },
}

/// What a node knows of itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// Who it is.
    pub me: NodeId,
    /// What it is. Durable.
    pub standing: Standing,
    /// The last epoch in which it took writes. Durable.
    pub led: Option<Epoch>,
    /// Whether it takes writes now.
    pub writes: Writes,
    /// Configuration.
    pub quorum: Quorum,
}

impl State {
    /// A node that has just started with what it had made durable; `fresh` if that is its first standing.
    pub fn start(me: NodeId, standing: Standing, led: Option<Epoch>, quorum: Quorum, fresh: bool) -> State {
        let heard = if fresh { 0 } else { quorum.heard() };
        let mut state = State { me, standing, led, writes: Writes::No, quorum };
        if standing.role == Role::Primary {
            state.claim(heard);
        }
        state
    }

    /// Begins to claim the epoch; with nobody to wait for, it takes writes at once.
    fn claim(&mut self, heard: usize) {
        self.writes = Writes::Claiming { granted: BTreeSet::new(), heard, ahead: BTreeSet::new() };
        self.open();
    }

    /// Takes writes, if nobody is to be waited for any more.
    fn open(&mut self) {
        let Writes::Claiming { granted, heard, ahead } = &self.writes else { return };
        let has_lost = self.has_led() && !ahead.is_empty();
        if granted.len() >= self.quorum.grants().max(*heard) && !has_lost {
            self.writes = Writes::Open;
            self.led = Some(self.standing.epoch);
        }
    }

    /// Whether it sends its changes to its standbys: what a primary that only claims its epoch has may lack what was acknowledged.
    pub fn leads(&self) -> bool {
        matches!(self.writes, Writes::Open | Writes::HandingOver { .. })
    }

    /// Whether it is primary of an epoch in which it took writes.
    pub fn has_led(&self) -> bool {
        self.standing.role == Role::Primary && self.led == Some(self.standing.epoch)
    }

    /// Whether it takes what standbys have and it lacks.
    pub fn adopts(&self) -> bool {
        matches!(&self.writes, Writes::Claiming { ahead, .. } if !ahead.is_empty())
    }

    /// Whether it has restarted, and may lack what it acknowledged: it claims no other epoch meanwhile.
    pub fn gets_back(&self) -> bool {
        match &self.writes {
            Writes::Claiming { heard, ahead, .. } => *heard > 0 || self.has_led() && !ahead.is_empty(),
            _ => false,
        }
    }

    /// Whether a write that was made in `epoch` may be acknowledged once standbys of that epoch have it.
    pub fn may_acknowledge(&self, epoch: Epoch) -> bool {
        self.leads() && self.standing.epoch == epoch
    }
}

/// What happens to a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Input {
    /// An operator asks for a role.
    Assume {
        /// The role.
        role: Role,
        /// The epoch.
        epoch: Epoch,
    },
    /// No write is under way, and enough standbys have everything: not fewer than have a write before it is acknowledged.
    HandedOver,
    /// Too few standbys got everything in time.
    HandOverFailed,
    /// A peer called or answered.
    Meet {
        /// Who it is.
        node: NodeId,
        /// What it is.
        standing: Standing,
    },
    /// A peer that follows this node in its epoch told what it has.
    Told {
        /// Who it is.
        node: NodeId,
        /// The epoch in which it follows.
        epoch: Epoch,
        /// It has something that this node lacks.
        ahead: bool,
    },
    /// Peers that are to be heard after a restart, and to give back what was lost, were waited for long enough.
    Waited,
    /// A change of a primary is to be applied.
    Change {
        /// The primary.
        leader: NodeId,
        /// Its epoch.
        epoch: Epoch,
    },
}

/// What a node does, in order. Before anything behind a [`Effect::Persist`] happens, that is done; if it fails, nothing of the step happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Make standing and led epoch of the next state durable.
    Persist,
    /// Show the next state: tokens carry its epoch; sessions and streams of the standing before end, if it changed.
    Show,
    /// Answer whoever gave the input.
    Answer(Reaction),
    /// Tell whoever watches over the node.
    Alarm(Alarm),
}

/// What a node does about a peer, or with its change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reaction {
    /// It sends its changes to the peer.
    Lead,
    /// It takes the peer's changes, or this change.
    Follow,
    /// It refuses the peer, which its own epoch or leader outranks.
    Fence,
    /// The peer's epoch outranks it: it is primary no longer.
    StepDown,
    /// The peer shows that its epoch has two primaries.
    Break,
    /// Neither leads the other.
    Nothing,
}

/// What a person should look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Alarm {
    /// A peer's epoch is too high to be believed.
    #[error(
        "a peer says that it is at epoch {epoch}, more than {EPOCH_JUMP_MAX} above this node's: it is not believed; if that epoch is meant, \
         assume a role at it here"
    )]
    EpochJump {
        /// The epoch.
        epoch: Epoch,
    },
    /// A peer calls this node's epoch broken, and names nobody else who claimed it.
    #[error(
        "a peer says that epoch {epoch} has two primaries, and names none but this node: it is not believed"
    )]
    Unproven {
        /// The epoch.
        epoch: Epoch,
    },
}

/// A state, and what leads to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Step {
    /// The node's from now on, if its effects can be done.
    pub state: State,
    /// In order.
    pub effects: Vec<Effect>,
}

/// What becomes of a node in `state` by `input`.
///
/// # Errors
/// Why a role is not assumed.
pub fn step(state: &State, input: &Input) -> Result<Step, Refusal> {
    let mut next = state.clone();
    let mut effects = Vec::new();
    match *input {
        Input::Assume { role, epoch } => assume(&mut next, role, epoch)?,
        Input::HandedOver => {
            if let Writes::HandingOver { epoch } = state.writes {
                next.become_other(Standing { role: Role::Standby, epoch, leader: None });
            }
        }
        Input::HandOverFailed => {
            if let Writes::HandingOver { .. } = state.writes {
                next.writes = Writes::Open;
            }
        }
        Input::Meet { node, standing } => {
            let (reaction, alarm) = meet(&mut next, node, &standing);
            effects.push(Effect::Answer(reaction));
            effects.extend(alarm.map(Effect::Alarm));
        }
        Input::Told { node, epoch, ahead } => {
            if let Writes::Claiming { granted, ahead: lost, .. } = &mut next.writes
                && epoch == state.standing.epoch
            {
                match ahead {
                    false => {
                        lost.remove(&node);
                        granted.insert(node);
                    }
                    true => drop(lost.insert(node)),
                }
            }
            next.open();
        }
        Input::Waited => {
            if let Writes::Claiming { heard, ahead, .. } = &mut next.writes {
                *heard = 0;
                // Of what may be lost anyhow, nothing is worth standing still for.
                if state.quorum.may_lose() {
                    ahead.clear();
                }
            }
            next.open();
        }
        Input::Change { leader, epoch } => {
            let followed = Standing { role: Role::Standby, epoch, leader: Some(leader) };
            let follows = state.standing == followed;
            effects.push(Effect::Answer(if follows { Reaction::Follow } else { Reaction::Fence }));
        }
    }
    let durable = |state: &State| (state.standing, state.led);
    if durable(&next) != durable(state) {
        effects.splice(0..0, [Effect::Persist, Effect::Show]);
    } else if next != *state {
        effects.insert(0, Effect::Show);
    }
    Ok(Step { state: next, effects })
}

impl State {
    /// Takes a standing in which it is no primary.
    fn become_other(&mut self, standing: Standing) {
        self.standing = standing;
        self.writes = Writes::No;
    }
}

fn assume(state: &mut State, role: Role, epoch: Epoch) -> Result<(), Refusal> {
    let current = state.standing;
    if role == Role::DetectedBrokenConfig {
        return Err(Refusal::BrokenConfig);
    }
    if epoch < current.epoch {
        return Err(Refusal::LowerEpoch { role, epoch, current: current.epoch });
    }
    if epoch == current.epoch {
        return match role == current.role {
            true => Ok(()),
            false => Err(Refusal::OtherRole { role, epoch, current: current.role }),
        };
    }
    match (role, &state.writes) {
        (_, Writes::HandingOver { .. }) => return Err(Refusal::HandingOver),
        (Role::Primary, _) if state.gets_back() => {
            return Err(Refusal::GettingBack { epoch, current: current.epoch });
        }
        (Role::Primary, _) => {
            state.standing = Standing { role, epoch, leader: Some(state.me) };
            state.claim(0);
        }
        (_, Writes::Claiming { .. }) => return Err(Refusal::Claiming { epoch, current: current.epoch }),
        (_, Writes::Open) => state.writes = Writes::HandingOver { epoch },
        (_, Writes::No) => state.become_other(Standing { role, epoch, leader: None }),
    }
    Ok(())
}

/// Meets `node`, which is `peer`.
fn meet(state: &mut State, node: NodeId, peer: &Standing) -> (Reaction, Option<Alarm>) {
    let current = state.standing;
    if peer.epoch.0.saturating_sub(current.epoch.0) > EPOCH_JUMP_MAX {
        return (Reaction::Nothing, Some(Alarm::EpochJump { epoch: peer.epoch }));
    }
    let (higher, same) = (peer.epoch > current.epoch, peer.epoch == current.epoch);
    let led_by_another = peer.leader.filter(|leader| *leader != state.me);
    let reaction = match (current.role, peer.role) {
        (_, Role::Primary) if higher => Reaction::Follow,
        (Role::Primary, Role::Primary) if same => Reaction::Break,
        (Role::Standby, Role::Primary)
            if same && (current.leader.is_none() || current.leader == peer.leader) =>
        {
            Reaction::Follow
        }
        (_, Role::Primary) => Reaction::Fence,
        (Role::Primary, _) if higher => Reaction::StepDown,
        (Role::Primary, Role::DetectedBrokenConfig) if same => match peer.leader {
            // It was primary itself, and met the other.
            Some(other) if other != node => Reaction::Break,
            _ => return (Reaction::Nothing, Some(Alarm::Unproven { epoch: peer.epoch })),
        },
        (Role::Primary, Role::Standby) if same && led_by_another.is_some() => Reaction::Break,
        (Role::Primary, Role::Standby) => Reaction::Lead,
        _ => Reaction::Nothing,
    };
    match reaction {
        Reaction::Follow => {
            let next = Standing { role: Role::Standby, ..*peer };
            if next != current {
                state.become_other(next);
            }
        }
        Reaction::StepDown => state.become_other(Standing { role: Role::Standby, ..current }),
        Reaction::Break => {
            // The other claimant: a primary itself, the one that a standby follows, or the broken node.
            let other = if peer.role == Role::Standby { peer.leader } else { Some(node) };
            state.become_other(Standing { role: Role::DetectedBrokenConfig, leader: other, ..current });
        }
        Reaction::Lead | Reaction::Fence | Reaction::Nothing => {}
    }
    (reaction, None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const ME: NodeId = NodeId([1; 16]);
    const PEER: NodeId = NodeId([2; 16]);
    const THIRD: NodeId = NodeId([3; 16]);
    const ROLES: [Role; 3] = [Role::Primary, Role::Standby, Role::DetectedBrokenConfig];

    fn standing(role: Role, epoch: u64, leader: Option<NodeId>) -> Standing {
        Standing { role, epoch: Epoch(epoch), leader }
    }

    /// Node `me` in that standing, which takes writes if it is a primary.
    fn state(me: NodeId, standing: Standing) -> State {
        State::start(me, standing, None, Quorum::new(1, 0), true)
    }

    fn assumed(at: Standing, role: Role, epoch: u64) -> Result<State, Refusal> {
        Ok(step(&state(ME, at), &Input::Assume { role, epoch: Epoch(epoch) })?.state)
    }

    /// What ME, in standing `mine`, becomes by meeting `node` in `theirs`, and how it reacts.
    fn met(mine: Standing, node: NodeId, theirs: Standing) -> (Standing, Reaction) {
        let Step { state, effects } =
            step(&state(ME, mine), &Input::Meet { node, standing: theirs }).unwrap();
        let persists = effects.first() == Some(&Effect::Persist);
        assert_eq!(persists, state.standing != mine, "what changes is durable first");
        let answer = |effect: &Effect| match effect {
            Effect::Answer(reaction) => Some(*reaction),
            _ => None,
        };
        (state.standing, effects.iter().find_map(answer).unwrap())
    }

    /// Every standing that node `id` can have at epochs 9 to 11: a primary leads itself.
    fn standings(id: NodeId) -> Vec<Standing> {
        let mut all = Vec::new();
        for epoch in 9..=11 {
            all.push(standing(Role::Primary, epoch, Some(id)));
            for leader in [None, Some(ME), Some(PEER), Some(THIRD)] {
                all.push(standing(Role::Standby, epoch, leader));
                all.push(standing(Role::DetectedBrokenConfig, epoch, leader));
            }
        }
        all
    }

    fn pairs() -> impl Iterator<Item = (Standing, Standing)> {
        standings(ME)
            .into_iter()
            .flat_map(|mine| standings(PEER).into_iter().map(move |theirs| (mine, theirs)))
    }

    #[test]
    fn assuming_a_role_follows_the_table() {
        for current in ROLES {
            let at = standing(current, 10, None);
            for role in [Role::Primary, Role::Standby] {
                let leader = (role == Role::Primary).then_some(ME);
                let (same, next) = (role == current, standing(role, 12, leader));
                let lower = Refusal::LowerEpoch { role, epoch: Epoch(9), current: Epoch(10) };
                assert_eq!(assumed(at, role, 9), Err(lower));
                let other = Refusal::OtherRole { role, epoch: Epoch(10), current };
                assert_eq!(assumed(at, role, 10), if same { Ok(state(ME, at)) } else { Err(other) });
                let after = assumed(at, role, 12).unwrap();
                match (current, role) {
                    (Role::Primary, Role::Standby) => {
                        assert_eq!(after.standing, at, "it hands over first");
                        assert_eq!(after.writes, Writes::HandingOver { epoch: Epoch(12) });
                        assert_eq!(step(&after, &Input::HandOverFailed).unwrap().state, state(ME, at));
                        let handed_over = step(&after, &Input::HandedOver).unwrap();
                        assert_eq!(handed_over.effects, [Effect::Persist, Effect::Show]);
                        assert_eq!(
                            (handed_over.state.standing, handed_over.state.writes),
                            (next, Writes::No)
                        );
                    }
                    _ => assert_eq!(after.standing, next),
                }
            }
            let broken = assumed(at, Role::DetectedBrokenConfig, 12);
            assert_eq!(broken, Err(Refusal::BrokenConfig));
        }
    }

    #[test]
    fn a_refusal_says_what_stands_against_the_role() {
        let standby = standing(Role::Standby, 10, None);
        let refused = |role, epoch| assumed(standby, role, epoch).unwrap_err().to_string();
        assert_eq!(
            refused(Role::Standby, 9),
            "error assuming role 'standby' at epoch 9; already at epoch 10"
        );
        assert!(refused(Role::Primary, 10).contains("already at epoch 10 with different role, 'standby'"));
        let unknown = "boss".parse::<Role>().unwrap_err().to_string();
        assert!(unknown.contains("valid roles are 'primary' and 'standby'"));
        let broken = "detected_broken_config".parse::<Role>().unwrap_err().to_string();
        assert_eq!(
            broken,
            "cannot set role to detected_broken_config; valid values are 'primary' and 'standby'"
        );
    }

    #[test]
    fn meeting_follows_the_table() {
        use Reaction::*;
        let primary = |epoch| standing(Role::Primary, epoch, Some(ME));
        let theirs = |epoch| standing(Role::Primary, epoch, Some(PEER));
        let standby = |epoch, leader| standing(Role::Standby, epoch, leader);
        let broken = |epoch, leader| standing(Role::DetectedBrokenConfig, epoch, leader);
        let followed = |epoch| standby(epoch, Some(PEER));
        let table = [
            (primary(10), theirs(11), Follow, followed(11)),
            (primary(10), theirs(10), Break, broken(10, Some(PEER))),
            (primary(10), theirs(9), Fence, primary(10)),
            (primary(10), standby(11, None), StepDown, standby(10, Some(ME))),
            (primary(10), standby(10, None), Lead, primary(10)),
            (primary(10), standby(10, Some(ME)), Lead, primary(10)),
            (primary(10), standby(10, Some(THIRD)), Break, broken(10, Some(THIRD))),
            (primary(10), standby(9, Some(THIRD)), Lead, primary(10)),
            (primary(10), broken(11, None), StepDown, standby(10, Some(ME))),
            (primary(10), broken(10, Some(ME)), Break, broken(10, Some(PEER))),
            (primary(10), broken(10, Some(THIRD)), Break, broken(10, Some(PEER))),
            (primary(10), broken(10, Some(PEER)), Nothing, primary(10)),
            (primary(10), broken(10, None), Nothing, primary(10)),
            (primary(10), broken(9, None), Nothing, primary(10)),
            (standby(10, None), theirs(10), Follow, followed(10)),
            (standby(10, Some(PEER)), theirs(10), Follow, followed(10)),
            (standby(10, Some(THIRD)), theirs(10), Fence, standby(10, Some(THIRD))),
            (standby(10, Some(THIRD)), theirs(11), Follow, followed(11)),
            (standby(10, None), theirs(9), Fence, standby(10, None)),
            (standby(10, None), standby(11, None), Nothing, standby(10, None)),
            (standby(10, None), broken(11, None), Nothing, standby(10, None)),
            (broken(10, Some(PEER)), theirs(11), Follow, followed(11)),
            (broken(10, Some(PEER)), theirs(10), Fence, broken(10, Some(PEER))),
            (broken(10, Some(PEER)), theirs(9), Fence, broken(10, Some(PEER))),
            (broken(10, Some(PEER)), standby(11, None), Nothing, broken(10, Some(PEER))),
        ];
        for (current, peer, reaction, next) in table {
            assert_eq!(met(current, PEER, peer), (next, reaction), "{current} meets {peer}");
        }
    }

    #[test]
    fn a_jump_of_the_epoch_by_a_peer_changes_nothing_and_is_told() {
        for mine in standings(ME) {
            for role in ROLES {
                let theirs = standing(role, mine.epoch.0 + EPOCH_JUMP_MAX + 1, Some(PEER));
                let at = state(ME, mine);
                let after = step(&at, &Input::Meet { node: PEER, standing: theirs }).unwrap();
                assert_eq!(after.state, at);
                assert!(after.effects.contains(&Effect::Alarm(Alarm::EpochJump { epoch: theirs.epoch })));
            }
        }
        let (mine, theirs) =
            (standing(Role::Standby, 0, None), standing(Role::Primary, EPOCH_JUMP_MAX, Some(PEER)));
        assert_eq!(met(mine, PEER, theirs).1, Reaction::Follow);
    }

    #[test]
    fn meeting_never_lowers_an_epoch_and_only_a_primary_of_a_higher_one_raises_it() {
        for (mine, theirs) in pairs() {
            let (next, _) = met(mine, PEER, theirs);
            assert!(next.epoch >= mine.epoch, "{mine} meets {theirs}");
            if next.epoch > mine.epoch {
                assert_eq!((theirs.role, next.epoch), (Role::Primary, theirs.epoch), "{mine} meets {theirs}");
            }
        }
    }

    #[test]
    fn meeting_never_makes_a_primary() {
        for (mine, theirs) in pairs() {
            let (next, _) = met(mine, PEER, theirs);
            assert!(mine.role == Role::Primary || next.role != Role::Primary, "{mine} meets {theirs}");
        }
    }

    #[test]
    fn a_lower_epoch_is_never_followed_and_a_known_leader_never_exchanged_within_its_epoch() {
        for (mine, theirs) in pairs() {
            let (next, Reaction::Follow) = met(mine, PEER, theirs) else { continue };
            assert_eq!((next.role, next.epoch, next.leader), (Role::Standby, theirs.epoch, Some(PEER)));
            assert_eq!(theirs.role, Role::Primary);
            assert!(theirs.epoch >= mine.epoch);
            if theirs.epoch == mine.epoch {
                assert!(mine.leader.is_none_or(|leader| leader == PEER), "{mine} meets {theirs}");
            }
        }
    }

    #[test]
    fn two_primaries_of_one_epoch_are_both_broken_and_a_third_as_well() {
        let first = standing(Role::Primary, 10, Some(ME));
        let (broken, _) = met(first, PEER, standing(Role::Primary, 10, Some(PEER)));
        assert_eq!(broken.role, Role::DetectedBrokenConfig);
        // To another primary of the epoch, a broken node that names the other claimant is proof, whoever that is.
        for other in [ME, THIRD] {
            let (next, _) = met(first, PEER, Standing { leader: Some(other), ..broken });
            assert_eq!(next.role, Role::DetectedBrokenConfig);
        }
    }

    #[test]
    fn a_standby_here_and_then_a_primary_there_always_works() {
        // Whatever the peer is, its epoch is not moved by a standby of a higher one, so that it can still take that epoch.
        for theirs in standings(ME) {
            let (after, _) = met(theirs, PEER, standing(Role::Standby, 12, None));
            assert!(assumed(after, Role::Primary, 12).is_ok(), "{theirs}");
        }
    }

    #[test]
    fn a_primary_takes_writes_once_enough_peers_granted_it() {
        let quorum = Quorum::new(2, 1);
        assert_eq!((quorum.grants(), quorum.heard()), (1, 2));
        let standby = State::start(ME, standing(Role::Standby, 1, None), None, quorum, false);
        let assume = Input::Assume { role: Role::Primary, epoch: Epoch(2) };
        let claiming = step(&standby, &assume).unwrap().state;
        assert!(!claiming.leads());
        let told = |epoch, ahead| Input::Told { node: PEER, epoch: Epoch(epoch), ahead };
        for no_grant in [told(1, false), told(2, true), Input::Waited] {
            assert!(!step(&claiming, &no_grant).unwrap().state.leads(), "{no_grant:?}");
        }
        let open = step(&claiming, &told(2, false)).unwrap();
        assert_eq!(
            open.effects,
            [Effect::Persist, Effect::Show],
            "that it led is durable before it takes writes"
        );
        assert!(open.state.may_acknowledge(Epoch(2)) && !open.state.may_acknowledge(Epoch(1)));
        assert_eq!(open.state.led, Some(Epoch(2)));
    }

    #[test]
    fn c36_a_restarted_primary_hears_its_standbys_first_but_does_not_wait_for_ever() {
        let primary = standing(Role::Primary, 1, Some(ME));
        let start = |fresh| State::start(ME, primary, Some(Epoch(1)), Quorum::new(1, 1), fresh);
        assert!(start(true).leads());
        let asks = start(false);
        assert!(!asks.leads());
        assert!(step(&asks, &Input::Waited).unwrap().state.leads());
        let told = |ahead| Input::Told { node: PEER, epoch: Epoch(1), ahead };
        assert!(step(&asks, &told(false)).unwrap().state.leads());
        let lost = step(&asks, &told(true)).unwrap().state;
        assert!(!step(&lost, &Input::Waited).unwrap().state.leads(), "a standby has what this node lost");
        assert!(lost.adopts() && !asks.adopts());
        for state in [&asks, &lost] {
            let higher = Input::Assume { role: Role::Primary, epoch: Epoch(2) };
            assert!(
                matches!(step(state, &higher), Err(Refusal::GettingBack { .. })),
                "it would leave it behind"
            );
        }
        assert!(step(&lost, &told(false)).unwrap().state.leads(), "until this node has it");
        // What was promised to nobody is waited for as long as everybody is.
        let asks = State::start(ME, primary, Some(Epoch(1)), Quorum::new(1, 0), false);
        let lost = step(&asks, &told(true)).unwrap().state;
        assert!(lost.adopts() && !lost.leads());
        assert!(step(&lost, &Input::Waited).unwrap().state.leads());
    }

    #[test]
    fn who_claims_a_new_epoch_takes_what_others_have_but_needs_it_of_no_more_than_a_quorum() {
        let standby = State::start(ME, standing(Role::Standby, 1, None), None, Quorum::new(2, 1), false);
        let claim = |epoch| Input::Assume { role: Role::Primary, epoch: Epoch(epoch) };
        let told = |node, ahead| Input::Told { node, epoch: Epoch(2), ahead };
        let claims = step(&standby, &claim(2)).unwrap().state;
        assert!(!claims.adopts());
        let lacks = step(&claims, &told(PEER, true)).unwrap().state;
        assert!(lacks.adopts() && !lacks.leads());
        let given = step(&lacks, &told(PEER, false)).unwrap().state;
        assert!(given.leads() && !given.adopts());
        // Who is ahead, and dies, hinders neither the grant of another nor a claim of a higher epoch.
        assert!(step(&lacks, &told(THIRD, false)).unwrap().state.leads());
        assert_eq!(step(&lacks, &claim(3)).unwrap().state.standing.epoch, Epoch(3));
        assert!(!lacks.gets_back());
    }

    #[test]
    fn who_holds_and_who_grants_are_more_than_all() {
        for peers in 1..7 {
            for acks in 1..=peers {
                let quorum = Quorum::new(peers, acks);
                assert_eq!((acks + 1) + (quorum.grants() + 1), peers + 2);
                assert!(quorum.heard() + acks > peers, "among those heard is one that has it");
            }
        }
    }
}
