//! Which signed greetings were heard already, so that none is heard twice. Each is forgotten when it has expired, and so would be refused
//! anyway. Only what a trusted key signed gets here; of that, no more than [`NONCES_MAX`] at a time.

use std::collections::HashMap;

use super::{Nonce, Refused};
use crate::limits::NONCES_MAX;

/// The nonces that were heard and have not expired, with the time when they do, in milliseconds.
#[derive(Default)]
pub(super) struct Replays(HashMap<Nonce, u64>);

impl Replays {
    /// Notes a nonce that expires at `until`.
    pub(super) fn note(&mut self, nonce: Nonce, until: u64, now: u64) -> Result<(), Refused> {
        self.0.retain(|_, until| *until >= now);
        if self.0.contains_key(&nonce) {
            return Err(Refused::Replayed);
        }
        if self.0.len() >= NONCES_MAX {
            return Err(Refused::TooMany);
        }
        self.0.insert(nonce, until);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_nonce_is_taken_once_until_it_has_expired() {
        let mut replays = Replays::default();
        let nonce = [1; 16];
        assert_eq!(replays.note(nonce, 100, 50), Ok(()));
        assert_eq!(replays.note(nonce, 100, 100), Err(Refused::Replayed));
        assert_eq!(replays.note([2; 16], 200, 101), Ok(()));
        assert_eq!(replays.0.len(), 1, "what has expired is forgotten");
    }

    #[test]
    fn when_there_are_too_many_nothing_is_forgotten_before_its_time() {
        let mut replays = Replays::default();
        for number in 0..NONCES_MAX as u128 {
            replays.note(number.to_le_bytes(), 100, 50).unwrap();
        }
        assert_eq!(replays.note([0xff; 16], 100, 50), Err(Refused::TooMany));
        assert_eq!(replays.note([0; 16], 100, 50), Err(Refused::Replayed));
        assert_eq!(replays.note([0xff; 16], 200, 101), Ok(()));
    }
}
