//! Roles and epochs: what a node is, and what it becomes when an operator asks or when it meets another node. Pure: no clock, no disk,
//! no network; `node` makes each result durable before anything shows it.
//!
//! A node that is asked for a role ([`assume`]), by its epoch `e` and the epoch asked for `n`:
//!
//! | | `n < e` | `n = e`, same role | `n = e`, other role | `n > e`, same role | `n > e`, other role |
//! |---|---|---|---|---|---|
//! | any | refused | nothing | refused | its epoch rises | primary → standby: hands over first; else taken at once |
//!
//! A node that meets a peer ([`meet`]), by its epoch `e` and the peer's `p`:
//!
//! | this node \ peer | primary | standby | broken configuration |
//! |---|---|---|---|
//! | primary | `p > e`: becomes standby@p and follows · `p = e`: breaks · `p < e`: fences | `p > e`: steps down, standby@e · `p = e` and led by another: breaks · else leads | `p > e`: steps down · `p = e`: breaks · `p < e`: leads nothing |
//! | standby | `p > e`, or `p = e` and led by it or by nobody known: follows at p · else fences | nothing | nothing |
//! | broken configuration | `p > e`: becomes standby@p and follows · else fences | nothing | nothing |
//!
//! Invariants, each held by a test over all pairs of standings below:
//! 1. An epoch never falls, and rises only by `assume` or on meeting a primary of a higher one: a peer that is no primary moves nobody's.
//! 2. Meeting never makes a primary.
//! 3. A node follows only a primary whose epoch is at least its own, and one leader in an epoch.
//! 4. Two primaries of one epoch that meet are both broken, whoever called.

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
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
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

/// Role and epoch of a node, and who leads that epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The role.
    pub role: Role,
    /// The epoch.
    pub epoch: Epoch,
    /// The primary of this epoch, if this node knows it: itself, or the one that it follows.
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

/// What assuming a role takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// The node is that already.
    Nothing,
    /// The epoch alone rises; sessions live on.
    Raise(Standing),
    /// A primary becomes a standby: first it stops writing and waits until its standbys have everything.
    HandOver(Standing),
    /// The role changes at once; sessions end.
    Take(Standing),
}

/// Whether, and how, node `me` in standing `current` assumes `role` at `epoch`.
///
/// # Errors
/// [`Refusal::LowerEpoch`], [`Refusal::OtherRole`]; [`Refusal::BrokenConfig`] for a role that is not assumed.
pub fn assume(me: NodeId, current: &Standing, role: Role, epoch: Epoch) -> Result<Transition, Refusal> {
    if role == Role::DetectedBrokenConfig {
        return Err(Refusal::BrokenConfig);
    }
    if epoch < current.epoch {
        return Err(Refusal::LowerEpoch { role, epoch, current: current.epoch });
    }
    if epoch == current.epoch {
        return match role == current.role {
            true => Ok(Transition::Nothing),
            false => Err(Refusal::OtherRole { role, epoch, current: current.role }),
        };
    }
    let leader = (role == Role::Primary).then_some(me);
    let next = Standing { role, epoch, leader };
    Ok(match (current.role, role) {
        (from, to) if from == to => Transition::Raise(next),
        (Role::Primary, _) => Transition::HandOver(next),
        _ => Transition::Take(next),
    })
}

/// What a node does on meeting a peer. Where it holds a standing, that is the node's from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// It sends its changes to the peer.
    Lead,
    /// It takes the peer's changes, in this standing.
    Follow(Standing),
    /// It refuses the peer, which its own epoch or leader outranks.
    Fence,
    /// The peer's epoch outranks it: it is primary no longer.
    StepDown(Standing),
    /// The peer shows that its epoch has two primaries.
    Break(Standing),
    /// Neither leads the other.
    Nothing,
}

impl Reaction {
    /// The standing that the node takes, if it takes one.
    pub fn next(&self) -> Option<Standing> {
        match self {
            Reaction::Follow(next) | Reaction::StepDown(next) | Reaction::Break(next) => Some(*next),
            Reaction::Lead | Reaction::Fence | Reaction::Nothing => None,
        }
    }
}

/// How a node in standing `current` reacts to `peer`, whoever of them called.
pub fn meet(current: &Standing, peer: &Standing) -> Reaction {
    let follow = Standing { role: Role::Standby, epoch: peer.epoch, leader: peer.leader };
    let step_down = Standing { role: Role::Standby, ..*current };
    let broken = Standing { role: Role::DetectedBrokenConfig, ..*current };
    let (higher, same) = (peer.epoch > current.epoch, peer.epoch == current.epoch);
    match (current.role, peer.role) {
        (_, Role::Primary) if higher => Reaction::Follow(follow),
        (Role::Primary, Role::Primary) if same => Reaction::Break(broken),
        (Role::Standby, Role::Primary)
            if same && (current.leader.is_none() || current.leader == peer.leader) =>
        {
            Reaction::Follow(follow)
        }
        (_, Role::Primary) => Reaction::Fence,
        (Role::Primary, _) if higher => Reaction::StepDown(step_down),
        (Role::Primary, Role::DetectedBrokenConfig) if same => Reaction::Break(broken),
        (Role::Primary, Role::Standby) if same && peer.leader.is_some() && peer.leader != current.leader => {
            Reaction::Break(broken)
        }
        (Role::Primary, Role::Standby) => Reaction::Lead,
        _ => Reaction::Nothing,
    }
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
                assert_eq!(assume(ME, &at, role, Epoch(9)), Err(lower));
                let other = Refusal::OtherRole { role, epoch: Epoch(10), current };
                assert_eq!(
                    assume(ME, &at, role, Epoch(10)),
                    if same { Ok(Transition::Nothing) } else { Err(other) }
                );
                let expected = match (current, role) {
                    _ if same => Transition::Raise(next),
                    (Role::Primary, Role::Standby) => Transition::HandOver(next),
                    _ => Transition::Take(next),
                };
                assert_eq!(assume(ME, &at, role, Epoch(12)), Ok(expected));
            }
            assert_eq!(assume(ME, &at, Role::DetectedBrokenConfig, Epoch(12)), Err(Refusal::BrokenConfig));
        }
    }

    #[test]
    fn a_refusal_says_what_stands_against_the_role() {
        let standby = standing(Role::Standby, 10, None);
        let refused = |role, epoch| assume(ME, &standby, role, Epoch(epoch)).unwrap_err().to_string();
        assert_eq!(
            refused(Role::Standby, 9),
            "error assuming role 'standby' at epoch 9; already at epoch 10"
        );
        assert!(refused(Role::Primary, 10).contains("already at epoch 10 with different role, 'standby'"));
        assert!(
            "boss"
                .parse::<Role>()
                .unwrap_err()
                .to_string()
                .contains("valid roles are 'primary' and 'standby'")
        );
        let broken = "detected_broken_config".parse::<Role>().unwrap_err().to_string();
        assert_eq!(
            broken,
            "cannot set role to detected_broken_config; valid values are 'primary' and 'standby'"
        );
    }

    #[test]
    fn meeting_follows_the_table() {
        let primary = |epoch| standing(Role::Primary, epoch, Some(ME));
        let their_primary = |epoch| standing(Role::Primary, epoch, Some(PEER));
        let (standby, broken) = (Role::Standby, Role::DetectedBrokenConfig);
        let follows = |epoch| Reaction::Follow(standing(standby, epoch, Some(PEER)));
        let breaks = Reaction::Break(standing(broken, 10, Some(ME)));
        let steps_down = Reaction::StepDown(standing(standby, 10, Some(ME)));
        let table = [
            (primary(10), their_primary(11), follows(11)),
            (primary(10), their_primary(10), breaks),
            (primary(10), their_primary(9), Reaction::Fence),
            (primary(10), standing(standby, 11, None), steps_down),
            (primary(10), standing(standby, 10, None), Reaction::Lead),
            (primary(10), standing(standby, 10, Some(ME)), Reaction::Lead),
            (primary(10), standing(standby, 10, Some(THIRD)), breaks),
            (primary(10), standing(standby, 9, Some(THIRD)), Reaction::Lead),
            (primary(10), standing(broken, 11, None), steps_down),
            (primary(10), standing(broken, 10, Some(PEER)), breaks),
            (primary(10), standing(broken, 9, None), Reaction::Nothing),
            (standing(standby, 10, None), their_primary(10), follows(10)),
            (standing(standby, 10, Some(PEER)), their_primary(10), follows(10)),
            (standing(standby, 10, Some(THIRD)), their_primary(10), Reaction::Fence),
            (standing(standby, 10, Some(THIRD)), their_primary(11), follows(11)),
            (standing(standby, 10, None), their_primary(9), Reaction::Fence),
            (standing(standby, 10, None), standing(standby, 11, None), Reaction::Nothing),
            (standing(standby, 10, None), standing(broken, 11, None), Reaction::Nothing),
            (standing(broken, 10, Some(ME)), their_primary(11), follows(11)),
            (standing(broken, 10, Some(ME)), their_primary(10), Reaction::Fence),
            (standing(broken, 10, Some(ME)), their_primary(9), Reaction::Fence),
            (standing(broken, 10, Some(ME)), standing(standby, 11, None), Reaction::Nothing),
        ];
        for (current, peer, expected) in table {
            assert_eq!(meet(&current, &peer), expected, "{current} meets {peer}");
        }
    }

    #[test]
    fn meeting_never_lowers_an_epoch_and_only_a_primary_of_a_higher_one_raises_it() {
        for (mine, theirs) in pairs() {
            let next = meet(&mine, &theirs).next().unwrap_or(mine);
            assert!(next.epoch >= mine.epoch, "{mine} meets {theirs}");
            if next.epoch > mine.epoch {
                assert_eq!((theirs.role, next.epoch), (Role::Primary, theirs.epoch), "{mine} meets {theirs}");
            }
        }
    }

    #[test]
    fn meeting_never_makes_a_primary() {
        for (mine, theirs) in pairs() {
            let next = meet(&mine, &theirs).next();
            assert!(next.is_none_or(|next| next.role != Role::Primary), "{mine} meets {theirs}");
        }
    }

    #[test]
    fn a_lower_epoch_is_never_followed_and_a_known_leader_never_exchanged_within_its_epoch() {
        for (mine, theirs) in pairs() {
            let Reaction::Follow(next) = meet(&mine, &theirs) else { continue };
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
        let second = standing(Role::Primary, 10, Some(PEER));
        let broken = meet(&first, &second).next().unwrap();
        assert_eq!(broken.role, Role::DetectedBrokenConfig);
        assert_eq!(meet(&second, &broken).next().unwrap().role, Role::DetectedBrokenConfig);
        let third = standing(Role::Primary, 10, Some(THIRD));
        assert_eq!(meet(&third, &broken).next().unwrap().role, Role::DetectedBrokenConfig);
    }

    #[test]
    fn a_standby_here_and_then_a_primary_there_always_works() {
        // Whatever the peer is, its epoch is not moved by a standby of a higher one, so that it can still take that epoch.
        for theirs in standings(PEER) {
            let here = standing(Role::Standby, 12, None);
            let after = meet(&theirs, &here).next().unwrap_or(theirs);
            assert!(assume(PEER, &after, Role::Primary, Epoch(12)).is_ok(), "{theirs}");
        }
    }
}
