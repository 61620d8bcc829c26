//! Memory: one counter that all who work through a store draw from, beside the cache.
//!
//! One idea: whoever is about to hold more asks for a [`Lease`] of it, and who is refused makes do: it writes ahead, sorts in parts, applies what it has. Nobody gets
//! more than it leaves free, so that one who came first and holds still leaves room for who comes next, and those who grow side by side get as much
//! as each other.
//!
//! Invariants (tests here):
//! 1. What is granted is never more than there is: [`Options::work_bytes`](crate::Options::work_bytes). Beside it each lease has the least, 64 KiB, so that everybody comes to an end.
//! 2. What a lease had is free again when it is dropped.
//!
//! Who cannot make do says what it takes ([`Lease::take`]); others then get less, but half of all is theirs whatever it is. `docs/decisions/0008-one-memory-budget.md` says who asks for what.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::Store;

/// Bytes that each lease has without asking, and by which it grows, so that the counter is not touched at each row. Less if there is little.
const LEAST: u64 = 64 << 10;
/// The least is at most such a part of all.
const PARTS: u64 = 64;

/// What there is, and what is leased of it.
#[derive(Debug)]
pub(crate) struct Budget {
    total: u64,
    least: u64,
    leased: AtomicU64,
    most: AtomicU64,
}

impl Budget {
    pub(crate) fn new(total: u64) -> Budget {
        Budget { total, least: LEAST.min(total / PARTS), leased: AtomicU64::new(0), most: AtomicU64::new(0) }
    }

    /// Bytes that are leased now, and the most that ever were.
    pub(crate) fn leased(&self) -> [u64; 2] {
        [self.leased.load(Ordering::Relaxed), self.most.load(Ordering::Relaxed)]
    }

    fn add(&self, bytes: u64) {
        let leased = self.leased.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.most.fetch_max(leased, Ordering::Relaxed);
    }
}

/// A right to hold some bytes in memory. What it has is given back when it is dropped.
#[derive(Debug)]
pub struct Lease {
    budget: Arc<Budget>,
    bytes: u64,
    /// What of that others miss: all, but of what was taken without asking at most half of what there is.
    counted: u64,
}

impl Lease {
    pub(crate) fn new(budget: Arc<Budget>) -> Lease {
        Lease { budget, bytes: 0, counted: 0 }
    }

    /// Bytes that may be held.
    #[inline]
    pub fn bytes(&self) -> u64 {
        self.bytes + self.budget.least
    }

    /// What it takes from the counter to hold `bytes` in all.
    fn wanted(&self, bytes: u64) -> u64 {
        let least = self.budget.least;
        (bytes - least).checked_next_multiple_of(least.max(1)).unwrap_or(u64::MAX)
    }

    /// Whether `bytes` may be held in all; if not, the lease is as it was.
    #[inline]
    pub fn reach(&mut self, bytes: u64) -> bool {
        bytes <= self.bytes() || self.grow(bytes)
    }

    fn grow(&mut self, bytes: u64) -> bool {
        let wanted = self.wanted(bytes);
        let more = wanted - self.bytes;
        let grant = |leased: u64| {
            let leased = leased.checked_add(more)?;
            let free = self.budget.total.checked_sub(leased)?;
            (wanted <= free).then_some(leased)
        };
        match self.budget.leased.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grant) {
            Ok(before) => {
                self.budget.most.fetch_max(before + more, Ordering::Relaxed);
                self.bytes = wanted;
                self.counted += more;
                true
            }
            Err(_) => false,
        }
    }

    /// Holds `bytes` in all, whether or not there are as many: of what cannot be done with less.
    pub fn take(&mut self, bytes: u64) {
        if bytes > self.bytes() {
            let more = self.wanted(bytes) - self.bytes;
            let counted = (self.counted + more).min((self.budget.total / 2).max(self.counted));
            self.budget.add(counted - self.counted);
            (self.bytes, self.counted) = (self.bytes + more, counted);
        }
    }

    /// Gives back all but the least.
    pub fn release(&mut self) {
        self.bytes = 0;
        self.budget.leased.fetch_sub(std::mem::take(&mut self.counted), Ordering::Relaxed);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.release();
    }
}

impl Store {
    /// A lease of the memory that whoever works through this store shares; it has the least at first.
    pub fn lease(&self) -> Lease {
        Lease::new(self.budget().clone())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const TOTAL: u64 = 16 << 20;

    /// How far each lease grows, in turns.
    fn grown(leases: &mut [Lease]) -> Vec<u64> {
        let mut grows = true;
        while grows {
            grows = false;
            for lease in leases.iter_mut() {
                grows |= lease.reach(lease.bytes() + 1);
            }
        }
        leases.iter().map(Lease::bytes).collect()
    }

    #[test]
    fn never_more_is_granted_than_there_is_and_each_leaves_as_much_as_it_has() {
        let budget = Arc::new(Budget::new(TOTAL));
        let new = || Lease::new(budget.clone());
        for holders in 1..20 {
            let mut leases: Vec<Lease> = (0..holders).map(|_| new()).collect();
            let grown = grown(&mut leases);
            let (least, most) = (grown.iter().min().unwrap(), grown.iter().max().unwrap());
            assert!(most - least <= LEAST, "side by side all get as much: {grown:?}");
            assert!(most.abs_diff(TOTAL / (holders + 1)) <= 2 * LEAST, "{grown:?}");
        }
        // One after the other: each leaves half of what is there.
        let mut leases = Vec::new();
        for part in 1..4 {
            let mut lease = [new()];
            assert!(grown(&mut lease)[0].abs_diff(TOTAL >> part) <= 2 * LEAST);
            leases.extend(lease);
        }
        assert!(budget.leased()[1] <= TOTAL);
        drop(leases);
        assert_eq!(budget.leased()[0], 0);
    }

    #[test]
    fn who_cannot_make_do_leaves_less_to_others() {
        let budget = Arc::new(Budget::new(TOTAL));
        let (mut taken, mut asked) = (Lease::new(budget.clone()), Lease::new(budget.clone()));
        taken.take(2 * TOTAL);
        assert_eq!((taken.bytes(), budget.leased()[0]), (2 * TOTAL, TOTAL / 2));
        assert!(!asked.reach(TOTAL / 2) && asked.reach(TOTAL / 4));
        taken.release();
        assert_eq!(budget.leased()[0], (TOTAL / 4 - LEAST).next_multiple_of(LEAST));
        assert!(asked.reach(TOTAL / 4));
        assert_eq!(budget.leased()[0], (TOTAL / 4 - LEAST).next_multiple_of(LEAST));
    }
}
