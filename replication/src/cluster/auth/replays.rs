//! Which signed greetings were heard already, so that none is heard twice. Each is remembered for as long as one may hold at most, by
//! the monotonic clock, so that whoever sets the clock does not make it forget. Only what a trusted key signed gets here; of that, no
//! more than [`NONCES_MAX`] at a time.

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use super::{Nonce, Refused};
use crate::limits::{CLOCKS_APART, GREETING_HOLDS, NONCES_MAX};

/// How long a greeting may hold once it was heard: it may have been signed by a clock that is ahead.
const HOLDS_AT_MOST: Duration = CLOCKS_APART.saturating_add(GREETING_HOLDS);

/// The nonces that were heard and may still hold.
#[derive(Default)]
pub(super) struct Replays {
    nonces: HashSet<Nonce>,
    /// The same, in the order in which they were heard, with the time.
    heard: VecDeque<(Instant, Nonce)>,
}

impl Replays {
    /// Notes a nonce that was heard `now`.
    pub(super) fn note(&mut self, nonce: Nonce, now: Instant) -> Result<(), Refused> {
        while let Some((_, old)) =
            self.heard.pop_front_if(|(heard, _)| now.saturating_duration_since(*heard) > HOLDS_AT_MOST)
        {
            self.nonces.remove(&old);
        }
        if self.nonces.contains(&nonce) {
            return Err(Refused::Replayed);
        }
        if self.nonces.len() >= NONCES_MAX {
            return Err(Refused::TooMany);
        }
        self.nonces.insert(nonce);
        self.heard.push_back((now, nonce));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const TICK: Duration = Duration::from_millis(1);

    #[test]
    fn a_nonce_is_taken_once_for_as_long_as_it_may_hold() {
        let mut replays = Replays::default();
        let (nonce, now) = ([1; 16], Instant::now());
        assert_eq!(replays.note(nonce, now), Ok(()));
        assert_eq!(replays.note(nonce, now + HOLDS_AT_MOST), Err(Refused::Replayed));
        assert_eq!(replays.note([2; 16], now + HOLDS_AT_MOST + TICK), Ok(()));
        assert_eq!((replays.nonces.len(), replays.heard.len()), (1, 1), "what holds no longer is forgotten");
    }

    #[test]
    fn when_there_are_too_many_nothing_is_forgotten_before_its_time() {
        let mut replays = Replays::default();
        let now = Instant::now();
        for number in 0..NONCES_MAX as u128 {
            replays.note(number.to_le_bytes(), now).unwrap();
        }
        assert_eq!(replays.note([0xff; 16], now), Err(Refused::TooMany));
        assert_eq!(replays.note([0; 16], now), Err(Refused::Replayed));
        assert_eq!(replays.note([0xff; 16], now + HOLDS_AT_MOST + TICK), Ok(()));
    }
}
