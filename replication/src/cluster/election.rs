//! Election: what a node does about the lease of its cluster, as a state machine: [`Election::step`] takes what the node is and what the provider of the lease
//! shows, and gives the one thing to do next. Pure: no clock but the time that it is given, no network. `elector` does what it says.
//!
//! It never makes a node primary by itself: it has the role machine ([`role`](crate::cluster::role)) asked, as an operator would ask it, with the lease's fence for the epoch. What that needs, grants for one,
//! it needs as ever. A node that holds no lease takes no writes, whatever its role is.
//!
//! | the lease | this node | does |
//! |---|---|---|
//! | is held by another | any | nothing |
//! | is free | could lead, and has told what it has | takes it when it is its turn: the candidates of this round, best first, once all are there or there was time for them; each next one a while later |
//! | is free | could lead | tells what it has |
//! | is its own | is not primary of the fence yet | asks to be; gives up after the lease's time |
//! | is its own | is primary of the fence | renews it, each quarter of its time; if it is not granted writes for twice that time, gives it up |
//! | is its own | was that, or has a higher epoch | gives it up, says how high its epoch is, and does not stand for twice the lease's time |
//!
//! Invariants, held by the tests below:
//! 1. A node may write until four fifths of the lease's time have passed since it sent the last request that got or renewed it; never later, whatever it is told.
//! 2. So of nodes whose clocks go at rates that differ by less than a fifth, no two may write at the same time.
//! 3. What is asked for is an epoch above that of each candidate.

use std::time::Duration;

use crate::cluster::lease::{Candidate, Observed};
use crate::cluster::role::Role;

/// What an election goes by.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// This node.
    pub(crate) node: String,
    /// How many nodes the cluster has.
    pub(crate) nodes: usize,
    /// How long a lease lasts.
    pub(crate) lease: Duration,
}

/// What this node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Me {
    pub(crate) role: Role,
    pub(crate) epoch: u64,
    /// As a primary, it was granted writes.
    pub(crate) leads: bool,
    /// It could lead: it found no broken configuration, and lacks nothing that it knows of.
    pub(crate) may_stand: bool,
    /// See [`Candidate::has`].
    pub(crate) has: (u64, u64),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// Tell the other nodes what this one has.
    Stand(Candidate),
    /// Take the lease; its fence must be above this.
    Acquire { above: u64 },
    /// Renew it.
    Renew,
    /// Give it up; the next fence must be above this.
    Release { floor: u64 },
}

/// A node in an election.
#[derive(Debug)]
pub(crate) struct Election {
    rules: Rules,
    held: Option<Held>,
    /// The lease is free.
    round: Option<Round>,
    /// It does not stand before.
    abstains_until: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    fence: u64,
    /// When the request was sent that got or renewed it.
    sent: Duration,
    /// Since when.
    since: Duration,
    /// This node was primary of the fence.
    led: bool,
}

#[derive(Debug)]
struct Round {
    number: u64,
    /// When it was seen first.
    since: Duration,
    /// What was told.
    stood: Option<Candidate>,
}

impl Election {
    pub(crate) fn new(rules: Rules) -> Election {
        Election { rules, held: None, round: None, abstains_until: Duration::ZERO }
    }

    /// The epoch in which this node may write, and until when.
    pub(crate) fn may_write(&self) -> Option<(u64, Duration)> {
        self.held.map(|held| (held.fence, held.sent + self.rules.lease * 4 / 5))
    }

    /// The fence of the lease that this node holds.
    pub(crate) fn fence(&self) -> Option<u64> {
        self.held.map(|held| held.fence)
    }

    /// A request that was sent at `sent` got the lease.
    pub(crate) fn acquired(&mut self, sent: Duration, fence: u64) {
        self.held = Some(Held { fence, sent, since: sent, led: false });
        self.round = None;
    }

    /// A request that was sent at `sent` renewed the lease, or was told that it is lost.
    pub(crate) fn renewed(&mut self, sent: Duration, is_held: bool) {
        match &mut self.held {
            Some(held) if is_held => held.sent = sent,
            held => *held = None,
        }
    }

    /// What to do at `now`; `observed` is what the provider shows, if it answers.
    pub(crate) fn step(&mut self, now: Duration, me: &Me, observed: Option<&Observed>) -> Option<Act> {
        let Rules { node, lease, .. } = &self.rules;
        if let Some(held) = &mut self.held {
            let is_ours = observed.is_none_or(|observed| {
                observed.fence == held.fence && observed.holder.as_ref() == Some(node)
            });
            if now >= held.sent + *lease || !is_ours {
                self.held = None;
            }
        }
        if let Some(held) = &mut self.held {
            let leads = me.role == Role::Primary && me.epoch == held.fence;
            held.led |= leads;
            let too_long = now.saturating_sub(held.since);
            let gives_up = match leads {
                true => !me.leads && too_long > *lease * 2,
                false => held.led || me.epoch > held.fence || too_long > *lease,
            };
            let (due, floor) = (now >= held.sent + *lease / 4, held.fence.max(me.epoch));
            if gives_up {
                self.held = None;
                self.abstains_until = now + *lease * 2;
                return Some(Act::Release { floor });
            }
            if leads && me.leads {
                held.since = now;
            }
            return due.then_some(Act::Renew);
        }
        self.stand(now, me, observed?)
    }

    /// What to do without the lease.
    fn stand(&mut self, now: Duration, me: &Me, observed: &Observed) -> Option<Act> {
        let Rules { node, nodes, lease } = &self.rules;
        let mine = observed.holder.as_ref() == Some(node);
        if observed.holder.is_some() && !mine {
            self.round = None;
            return None;
        }
        if self.round.as_ref().is_none_or(|round| round.number != observed.fence) {
            self.round = Some(Round { number: observed.fence, since: now, stood: None });
        }
        let round = self.round.as_mut()?;
        if !me.may_stand || now < self.abstains_until {
            return None;
        }
        let candidate = Candidate {
            node: node.clone(),
            round: round.number,
            epoch: me.epoch,
            has: me.has,
            leads: me.role == Role::Primary,
        };
        if round.stood.as_ref() != Some(&candidate) {
            round.stood = Some(candidate.clone());
            return Some(Act::Stand(candidate));
        }
        let others =
            || observed.candidates.iter().filter(|other| other.round == round.number && other.node != *node);
        let above = others().map(|other| other.epoch).max().unwrap_or(0).max(me.epoch).max(round.number);
        // Who led is not there, but in the first round of all. Its own former life waits for nobody.
        let expected = if round.number == 0 { *nodes } else { nodes - 1 };
        let better = others().filter(|other| other.is_better_than(&candidate)).count();
        let wait = match others().count() + 1 >= expected {
            true => Duration::ZERO,
            false => *lease / 3,
        } + *lease * u32::try_from(better).unwrap_or(u32::MAX);
        (mine || now >= round.since + wait).then_some(Act::Acquire { above })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(1000.0 + seconds)
    }

    fn election(node: &str, nodes: usize) -> Election {
        Election::new(Rules { node: node.into(), nodes, lease: LEASE })
    }

    fn standby(epoch: u64, has: (u64, u64)) -> Me {
        Me { role: Role::Standby, epoch, leads: false, may_stand: true, has }
    }

    fn primary(epoch: u64) -> Me {
        Me { role: Role::Primary, leads: true, ..standby(epoch, (epoch, 1)) }
    }

    fn candidate(node: &str, round: u64, has: (u64, u64)) -> Candidate {
        Candidate { node: node.into(), round, epoch: has.0, has, leads: false }
    }

    fn free(fence: u64, candidates: &[Candidate]) -> Observed {
        Observed { fence, holder: None, candidates: candidates.to_vec() }
    }

    fn held(fence: u64, node: &str) -> Observed {
        Observed { fence, holder: Some(node.into()), candidates: Vec::new() }
    }

    #[test]
    fn the_standby_of_a_pair_tells_what_it_has_and_takes_a_free_lease_at_once() {
        let (mut election, me) = (election("b", 2), standby(4, (4, 9)));
        assert_eq!(election.step(at(0.0), &me, Some(&held(4, "a"))), None);
        assert_eq!(election.step(at(1.0), &me, None), None, "whether it is free is not known");
        let stood = candidate("b", 4, (4, 9));
        assert_eq!(election.step(at(2.0), &me, Some(&free(4, &[]))), Some(Act::Stand(stood.clone())));
        let told = free(4, &[stood]);
        assert_eq!(election.step(at(2.1), &me, Some(&told)), Some(Act::Acquire { above: 4 }));
    }

    #[test]
    fn who_has_more_goes_first_and_the_next_one_a_while_later() {
        let three = [candidate("b", 4, (4, 9)), candidate("c", 4, (4, 7)), candidate("x", 3, (9, 9))];
        let seen = free(4, &three);
        let when = |node: &str, has, seen: &Observed| {
            let mut election = election(node, 3);
            assert!(matches!(election.step(at(0.0), &standby(4, has), Some(seen)), Some(Act::Stand(_))));
            let tenths = 1..400;
            let mut taken = tenths.filter(|n| {
                let now = at(f64::from(*n) / 10.0);
                matches!(election.step(now, &standby(4, has), Some(seen)), Some(Act::Acquire { .. }))
            });
            f64::from(taken.next().unwrap()) / 10.0
        };
        assert_eq!(when("b", (4, 9), &seen), 0.1);
        assert_eq!(when("c", (4, 7), &seen), 10.0, "it leaves the better one a lease's time");
        // One that is alone in a cluster of three leaves the other time to come.
        let alone = when("c", (4, 7), &free(4, &[candidate("c", 4, (4, 7))]));
        assert!((LEASE.as_secs_f64() / 3.0..4.0).contains(&alone), "{alone}");
        // In the first round of all, who was to be primary has time to come, too.
        let first = when("b", (0, 0), &free(0, &[]));
        assert!((LEASE.as_secs_f64() / 3.0..4.0).contains(&first), "{first}");
    }

    #[test]
    fn what_is_asked_for_is_above_every_epoch_that_is_known() {
        let mut election = election("b", 3);
        let me = standby(8, (4, 9));
        let seen = free(4, &[Candidate { epoch: 15, ..candidate("c", 4, (4, 7)) }]);
        election.step(at(0.0), &me, Some(&seen));
        assert_eq!(election.step(at(0.1), &me, Some(&seen)), Some(Act::Acquire { above: 15 }));
    }

    #[test]
    fn who_cannot_lead_does_not_stand() {
        let mut election = election("b", 2);
        let broken = Me { role: Role::DetectedBrokenConfig, may_stand: false, ..standby(4, (4, 9)) };
        for n in 0..100 {
            assert_eq!(election.step(at(f64::from(n)), &broken, Some(&free(4, &[]))), None);
        }
    }

    #[test]
    fn a_lease_allows_writes_for_less_than_its_time_since_the_request_was_sent() {
        let mut election = election("a", 2);
        election.acquired(at(0.0), 5);
        assert_eq!(election.may_write(), Some((5, at(8.0))));
        // The provider is away: it tries to renew, and has nothing when the time is over.
        for (seconds, act) in [(1.0, None), (2.5, Some(Act::Renew)), (9.9, Some(Act::Renew)), (10.0, None)] {
            assert_eq!(election.step(at(seconds), &primary(5), None), act, "after {seconds} s");
        }
        assert_eq!(election.may_write(), None);
        // A renewal counts from when it was sent, not from when it was answered.
        election.acquired(at(20.0), 6);
        election.renewed(at(22.5), true);
        assert_eq!(election.may_write(), Some((6, at(30.5))));
        election.renewed(at(25.0), false);
        assert_eq!(election.may_write(), None);
    }

    #[test]
    fn a_lease_that_another_has_is_lost_whatever_the_clock_says() {
        for seen in [held(6, "b"), held(6, "a"), free(5, &[]), held(5, "b")] {
            let mut election = election("a", 2);
            election.acquired(at(0.0), 5);
            assert_eq!(election.step(at(0.1), &primary(5), Some(&held(5, "a"))), None);
            election.step(at(0.2), &primary(5), Some(&seen));
            assert_eq!(election.may_write(), None, "{seen:?}");
        }
    }

    #[test]
    fn who_steps_down_gives_the_lease_up_says_how_high_it_is_and_does_not_stand_for_a_while() {
        let mut election = election("a", 2);
        election.acquired(at(0.0), 5);
        let ours = held(5, "a");
        assert_eq!(election.step(at(0.1), &standby(4, (4, 1)), Some(&ours)), None, "it becomes primary");
        assert_eq!(election.step(at(0.2), &primary(5), Some(&ours)), None);
        let down = standby(12, (5, 3));
        assert_eq!(election.step(at(0.3), &down, Some(&ours)), Some(Act::Release { floor: 12 }));
        assert_eq!(election.may_write(), None);
        let seen = free(12, &[]);
        assert_eq!(election.step(at(1.0), &down, Some(&seen)), None);
        assert!(matches!(election.step(at(21.0), &down, Some(&seen)), Some(Act::Stand(_))));
    }

    #[test]
    fn a_leader_that_is_not_granted_writes_gives_up() {
        let claiming = Me { leads: false, ..primary(5) };
        for (me, limit) in [(claiming, 20.0), (standby(4, (4, 1)), 10.0)] {
            let mut election = election("a", 3);
            election.acquired(at(0.0), 5);
            let mut given_up = None;
            for tenths in 1..300 {
                let now = at(f64::from(tenths) / 10.0);
                match election.step(now, &me, Some(&held(5, "a"))) {
                    Some(Act::Renew) => election.renewed(now, true),
                    Some(Act::Release { floor: 5 }) => {
                        given_up = Some(f64::from(tenths) / 10.0);
                        break;
                    }
                    other => assert_eq!(other, None),
                }
            }
            assert!(given_up.is_some_and(|after| after > limit && after < limit + 0.5), "{given_up:?}");
        }
    }

    /// Nodes whose clocks go at other rates, whose requests take time and whose answers get lost, which stop and go on, over a provider that keeps its promise.
    #[test]
    fn no_two_nodes_may_write_at_the_same_time() {
        let mut writable = 0;
        for seed in 0..200_u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            let names = ["a", "b", "c"];
            let rates: Vec<f64> = names.iter().map(|_| 0.91 + next(180) as f64 / 1000.0).collect();
            let mut nodes: Vec<Election> = names.iter().map(|name| election(name, 3)).collect();
            let mut mes = vec![standby(1, (1, 1)); 3];
            // Of the provider: fence, holder, until when; and what each node told.
            let (mut fence, mut holder, mut until) = (1, None::<usize>, 0.0_f64);
            let mut told: Vec<Option<Candidate>> = vec![None; 3];
            let mut stopped = [0.0_f64; 3];
            let mut now = 0.0_f64;
            while now < 300.0 {
                now += next(100) as f64 / 1000.0;
                if now >= until {
                    holder = None;
                }
                let one = next(3) as usize;
                let clock = |now: f64| Duration::from_secs_f64(1000.0 + now * rates[one]);
                if now >= stopped[one] {
                    let sent = clock(now);
                    // It may be stopped between any two steps.
                    if next(50) == 0 {
                        stopped[one] = now + next(15_000) as f64 / 1000.0;
                    }
                    let seen = Observed {
                        fence,
                        holder: holder.map(|holder| names[holder].into()),
                        candidates: told.iter().flatten().cloned().collect(),
                    };
                    let answers = next(8) != 0;
                    let act = nodes[one].step(sent, &mes[one], answers.then_some(&seen));
                    let arrives = now + next(1000) as f64 / 1000.0;
                    match act {
                        Some(Act::Stand(candidate)) => told[one] = Some(candidate),
                        Some(Act::Acquire { above }) if holder.is_none() || holder == Some(one) => {
                            fence = fence.max(above) + 1;
                            (holder, until) = (Some(one), arrives + LEASE.as_secs_f64());
                            if next(4) != 0 {
                                nodes[one].acquired(sent, fence);
                                mes[one] = primary(fence);
                            }
                            now = arrives;
                        }
                        Some(Act::Renew) if holder == Some(one) && arrives < until => {
                            until = arrives + LEASE.as_secs_f64();
                            if next(4) != 0 {
                                nodes[one].renewed(sent, true);
                            }
                            now = arrives;
                        }
                        Some(Act::Release { floor }) if holder == Some(one) => {
                            (holder, fence) = (None, fence.max(floor));
                        }
                        _ => {}
                    }
                }
                let may: Vec<usize> = (0..3)
                    .filter(|node| {
                        let clock = Duration::from_secs_f64(1000.0 + now * rates[*node]);
                        nodes[*node].may_write().is_some_and(|(_, until)| clock < until)
                    })
                    .collect();
                assert!(may.len() <= 1, "seed {seed} at {now}: {may:?}");
                writable += may.len();
            }
        }
        assert!(writable > 10_000, "somebody could write, {writable} times");
    }
}
